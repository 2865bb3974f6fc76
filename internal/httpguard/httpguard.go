// Package httpguard has what the page and the command that serves it do about browsers.
package httpguard

import (
	"net"
	"net/http"
	"slices"
	"strings"
)

// policy lets the page load its own style sheet and script and nothing else, and lets nobody frame it.
const policy = "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; connect-src 'self'; " +
	"frame-ancestors 'none'; form-action 'self'; base-uri 'none'"

// SetHeaders sets what every answer of the page has: nothing is stored, framed, guessed or loaded from elsewhere.
func SetHeaders(h http.Header) {
	h.Set("Content-Security-Policy", policy)
	h.Set("Cache-Control", "no-store")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("X-Frame-Options", "DENY")
	// Not no-referrer: browsers would send actions with the Origin null, which is foreign.
	h.Set("Referrer-Policy", "same-origin")
	h.Set("Cross-Origin-Opener-Policy", "same-origin")
	h.Set("Cross-Origin-Resource-Policy", "same-origin")
}

// IsHostAllowed reports whether the page answers under the name that a request was sent to. That is so for the names in
// hosts. If there are none, on a loopback address only localhost and loopback IPs are allowed, elsewhere every name.
func IsHostAllowed(r *http.Request, hosts []string) bool {
	host := HostOf(r.Host)
	if len(hosts) > 0 {
		return slices.ContainsFunc(hosts, func(name string) bool { return strings.EqualFold(HostOf(name), host) })
	}
	local, ok := r.Context().Value(http.LocalAddrContextKey).(net.Addr)
	if !ok || !IsLoopback(local.String()) {
		return true
	}
	return IsLoopback(host)
}

// IsLoopback reports whether an address, with or without a port, is one that only this machine reaches: localhost,
// 127.0.0.1, ::1.
func IsLoopback(address string) bool {
	host := HostOf(address)
	if strings.EqualFold(host, "localhost") {
		return true
	}
	ip := net.ParseIP(host)
	return ip != nil && ip.IsLoopback()
}

// HostOf returns the host of an address, without port, brackets and the final dot.
func HostOf(address string) string {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		host = strings.Trim(address, "[]")
	}
	return strings.TrimSuffix(host, ".")
}

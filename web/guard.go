package web

import (
	"net"
	"net/http"
	"slices"
	"strings"

	"github.com/pinion-queue/pinion/internal/httpguard"
)

// guarded returns a handler that refuses foreign hosts and foreign origins before it calls serve.
func (s *site) guarded(serve http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		httpguard.SetHeaders(w.Header())
		if !s.isHostAllowed(r) {
			s.fail(w, r, http.StatusMisdirectedRequest,
				"This page does not answer under this name. Options.Hosts, or pinion web --host, lists the names of the page.")
			return
		}
		if err := s.origins.Check(r); err != nil {
			s.fail(w, r, http.StatusForbidden,
				"This request comes from another site, so nothing was done. Open the page itself and do it there.")
			return
		}
		serve(w, r)
	}
}

// isHostAllowed reports whether the page answers under the name that a request was sent to.
func (s *site) isHostAllowed(r *http.Request) bool {
	host := httpguard.HostOf(r.Host)
	if len(s.opts.Hosts) > 0 {
		return slices.ContainsFunc(s.opts.Hosts, func(name string) bool { return strings.EqualFold(httpguard.HostOf(name), host) })
	}
	local, ok := r.Context().Value(http.LocalAddrContextKey).(net.Addr)
	if !ok || !httpguard.IsLoopback(local.String()) {
		return true
	}
	return httpguard.IsLoopback(host)
}

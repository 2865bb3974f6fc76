package web

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"strings"
	"testing"

	"github.com/pinion-queue/pinion"
)

func TestEachAnswerForbidsWhatThePageDoesNotNeed(t *testing.T) {
	page := New(pinion.NewMemoryStorage(), quiet(t, Options{Write: true}))
	for _, address := range []string{"/", "/jobs", "/nowhere", "/metrics", "/healthz", "/do/pause?queue=default", "/style.css"} {
		h := ask(t, page, "GET", address).header
		csp := h.Get("Content-Security-Policy")
		for _, part := range []string{"default-src 'none'", "script-src 'self'", "style-src 'self'", "frame-ancestors 'none'", "form-action 'self'", "base-uri 'none'"} {
			if !strings.Contains(csp, part) {
				t.Errorf("%s: the Content-Security-Policy %q has no %s", address, csp, part)
			}
		}
		if strings.Contains(csp, "unsafe") || h.Get("Cache-Control") != "no-store" ||
			h.Get("X-Content-Type-Options") != "nosniff" {
			t.Errorf("%s: header %v", address, h)
		}
	}
}

func TestActionsOfOtherSitesAreRefused(t *testing.T) {
	q := pinion.NewMemoryStorage()
	enqueue(t, q, pinion.NewJob("a"))
	page := New(q, quiet(t, Options{Write: true, TrustedOrigins: []string{"https://admin.example.com"}}))
	for _, c := range []struct {
		origin, site string
		want         int
	}{
		{"https://evil.example", "cross-site", http.StatusForbidden},
		{"https://evil.example", "", http.StatusForbidden},
		{"null", "", http.StatusForbidden},
		{"", "cross-site", http.StatusForbidden},
		{"", "same-site", http.StatusForbidden},
		{"http://example.com", "", http.StatusSeeOther}, // the host of these requests
		{"", "same-origin", http.StatusSeeOther},
		{"https://admin.example.com", "cross-site", http.StatusSeeOther},
	} {
		a := ask(t, page, "POST", "/do/pause?queue=default", func(r *http.Request) {
			if c.origin != "" {
				r.Header.Set("Origin", c.origin)
			}
			if c.site != "" {
				r.Header.Set("Sec-Fetch-Site", c.site)
			}
		})
		if a.status != c.want {
			t.Errorf("Origin %q, Sec-Fetch-Site %q: status %d, want %d", c.origin, c.site, a.status, c.want)
		}
		limits, err := q.Limits(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if _, paused := limits["default"]; paused != (c.want == http.StatusSeeOther) {
			t.Errorf("Origin %q, Sec-Fetch-Site %q: paused %v", c.origin, c.site, paused)
		}
		if err := q.SetLimit(t.Context(), "default", -1); err != nil {
			t.Fatal(err)
		}
	}
}

func TestNewPanicsOverAMalformedOrigin(t *testing.T) {
	defer func() {
		if v := recover(); v == nil || !strings.Contains(fmt.Sprint(v), "TrustedOrigins") {
			t.Errorf("it panics with %v", v)
		}
	}()
	New(pinion.NewMemoryStorage(), &Options{TrustedOrigins: []string{"no origin"}})
}

// at returns a change that has a request arrive at a local address, under the name of a host.
func at(local, host string) func(*http.Request) {
	return func(r *http.Request) {
		address, err := net.ResolveTCPAddr("tcp", local)
		if err != nil {
			panic(err)
		}
		*r = *r.WithContext(context.WithValue(r.Context(), http.LocalAddrContextKey, net.Addr(address)))
		r.Host = host
	}
}

func TestForeignNamesAreRefused(t *testing.T) {
	q := pinion.NewMemoryStorage()
	enqueue(t, q, pinion.NewJob("secret"))
	for _, c := range []struct {
		hosts       []string
		local, host string
		want        int
	}{
		{nil, "127.0.0.1:80", "evil.example", http.StatusMisdirectedRequest},
		{nil, "127.0.0.1:80", "127.0.0.1.evil.example:80", http.StatusMisdirectedRequest},
		{nil, "127.0.0.1:80", "", http.StatusMisdirectedRequest},
		{nil, "127.0.0.1:80", "127.0.0.1.", http.StatusOK},
		{nil, "127.0.0.1:80", "localhost.evil.example", http.StatusMisdirectedRequest},
		{nil, "127.0.0.1:80", "localhost.:80", http.StatusOK},
		{nil, "127.0.0.1:80", "0.0.0.0:80", http.StatusMisdirectedRequest},
		{nil, "127.0.0.1:80", "[::ffff:127.0.0.1]:80", http.StatusOK},
		{nil, "127.0.0.1:80", "[::1.evil.example]", http.StatusMisdirectedRequest},
		{nil, "[::1]:80", "[fe80::1]:80", http.StatusMisdirectedRequest},
		{[]string{"[2001:DB8::1]"}, "[2001:db8::1]:80", "[2001:db8::1]:8080", http.StatusOK},
		{[]string{"jobs.example.com."}, "127.0.0.1:80", "JOBS.example.com", http.StatusOK},
		{[]string{"jobs.example.com"}, "127.0.0.1:80", "", http.StatusMisdirectedRequest},
		{nil, "[::1]:80", "evil.example:80", http.StatusMisdirectedRequest},
		{nil, "127.0.0.1:80", "LOCALHOST:80", http.StatusOK},
		{nil, "127.0.0.1:80", "localhost.", http.StatusOK},
		{nil, "[::1]:80", "[::1]:80", http.StatusOK},
		{nil, "10.0.0.1:80", "jobs.example.com", http.StatusOK},
		{[]string{"jobs.example.com"}, "127.0.0.1:80", "Jobs.Example.com:443", http.StatusOK},
		{[]string{"jobs.example.com"}, "127.0.0.1:80", "localhost", http.StatusMisdirectedRequest},
		{[]string{"jobs.example.com"}, "10.0.0.1:80", "evil.example", http.StatusMisdirectedRequest},
	} {
		options := quiet(t, Options{Hosts: c.hosts})
		for name, h := range map[string]http.Handler{
			"page": New(q, options), "health": Health(q, options), "metrics": Metrics(q, options),
		} {
			a := ask(t, h, "GET", "/", at(c.local, c.host))
			if a.status != c.want {
				t.Errorf("%s, Hosts %v, at %s as %s: status %d, want %d",
					name, c.hosts, c.local, c.host, a.status, c.want)
			}
		}
	}
}

func TestAPageWithoutWriteChangesNothing(t *testing.T) {
	overStorages(t, func(t *testing.T, q queue) {
		ids := bury(t, q, "broken", "boom", 2)
		enqueue(t, q, &pinion.Job{ID: "waits", Task: "t"})
		page := New(q, quiet(t, Options{}))
		for _, address := range []string{"/", "/dead", "/job/" + ids[0], "/job/waits"} {
			if body := get(t, page, address); strings.Contains(body, "do/") || strings.Contains(body, `method="post"`) {
				t.Errorf("%s offers an action:\n%s", address, body)
			}
		}
		for _, query := range []string{
			"replay?id=" + ids[0], "delete?id=" + ids[0], "cancel?id=waits", "reschedule?id=waits",
			"pause?queue=default", "limit?queue=default", "resume?queue=default", "replay?before=2100-01-01T00:00:00Z",
		} {
			for _, method := range []string{"GET", "POST", "PUT"} {
				if a := ask(t, page, method, "/do/"+query); a.status != http.StatusForbidden {
					t.Errorf("%s %s: status %d", method, query, a.status)
				}
			}
		}
		stats, err := q.Stats(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		limits, err := q.Limits(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if stats.DeadLetters != 2 || stats.Total.Pending != 1 || len(limits) != 0 {
			t.Errorf("something was changed: %+v, limits %v", stats, limits)
		}
	})
}

func TestPagesAnswerOnlyGet(t *testing.T) {
	page := New(pinion.NewMemoryStorage(), quiet(t, Options{Write: true}))
	for _, address := range []string{"/", "/jobs", "/dead", "/running", "/job/x", "/metrics"} {
		if a := ask(t, page, "POST", address); a.status != http.StatusMethodNotAllowed {
			t.Errorf("POST %s: status %d", address, a.status)
		}
		if a := ask(t, page, "HEAD", address); a.body != "" {
			t.Errorf("HEAD %s has a body", address)
		}
	}
	if a := ask(t, page, "DELETE", "/do/pause?queue=default"); a.status != http.StatusMethodNotAllowed {
		t.Errorf("DELETE: status %d", a.status)
	}
}

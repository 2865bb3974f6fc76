package web

import (
	"net/http"

	"github.com/pinion-queue/pinion/internal/httpguard"
)

// guarded returns a handler that refuses foreign hosts and foreign origins before it calls serve.
func (s *site) guarded(serve http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		httpguard.SetHeaders(w.Header())
		if !httpguard.IsHostAllowed(r, s.opts.Hosts) {
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

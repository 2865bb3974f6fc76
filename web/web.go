// Package web is a page on which people look at a queue and tend it: what waits, what runs, what failed and why.
//
// It is an [http.Handler] to mount in a program of your own, behind its own authentication:
//
//	mux.Handle("/queue/", mustBeAdmin(http.StripPrefix("/queue", web.New(storage, nil))))
//
// The command "pinion web" serves the same page for everybody else.
//
// The page is plain HTML with one style sheet. It works without JavaScript; a few lines of script refresh it. It
// loads nothing from elsewhere. All links are relative, so any prefix works.
//
// It is read-only unless [Options].Write is set. Whoever reaches it sees the arguments, results and errors of all jobs;
// [Options].Redact can change what they see. It checks no passwords: that is the business of what it is mounted behind.
//
// It works over every [pinion.Storage]. If the storage isn't a [pinion.Inspector], [pinion.Limiter] or
// [pinion.Canceler], the page says what is missing.
//
// [Health] and [Metrics] are two of its addresses, healthz and metrics, as handlers of their own.
package web

import (
	"log/slog"
	"net/http"
	"net/url"
	"path"
	"strings"
	"time"

	"github.com/pinion-queue/pinion"
)

// Options are settings of the page. Nil and the zero value are a read-only page.
type Options struct {
	// Write lets people replay, delete, cancel and reschedule jobs, and pause and limit queues.
	Write bool
	// Redact changes a job before any of it is shown: its arguments, Meta, Result and Error may hold secrets. The
	// job is a copy. Redact must be safe for concurrent use. Names of queues and tasks are shown as they are. With
	// Redact, dead letters cannot be searched by text, which would tell what it hides.
	Redact func(*pinion.Job)
	// TrustedOrigins may send actions, beside the page's own origin: "https://admin.example.com". New panics if one
	// is malformed.
	TrustedOrigins []string
	// Hosts are the names, without a port, under which the page answers [on a loopback address localhost, 127.0.0.1 and
	// ::1; elsewhere every name]. So no other site can read the page by a name of its own that points here (DNS
	// rebinding). Behind a proxy on the same machine, name the host that the proxy passes on.
	Hosts []string
	// MaxWait is how long a job may have been due until healthz reports it [5m]; negative: for ever. If no worker is at
	// work, it also bounds how long the lease of a running job may have been expired.
	MaxWait time.Duration
	// Logger reports what goes wrong [slog.Default()].
	Logger *slog.Logger
}

// New returns the page. It starts nothing and needs no Close. It panics if one of the TrustedOrigins is malformed, as
// Health and Metrics do.
func New(storage pinion.Storage, opts *Options) http.Handler {
	return newSite(storage, opts)
}

// Health returns the handler of the page's healthz alone. It answers 503 with the reason if the storage fails, its file
// is damaged, or a job has been due for longer than Options.MaxWait. It also answers 503 if the lease of a running job
// expired longer ago than MaxWait and no worker is at work. Otherwise it answers 200.
//
// A worker is at work if a job ended in the last one to two minutes, or is held under a lease. If none is, the reason
// has the words "no worker". A queue without jobs that are due needs none, and jobs in paused queues may wait.
//
// Every ten minutes Health checks a SQLite file for damage, for at most half a second: damage in a larger file shows
// only when a call fails. Of opts it uses Hosts, TrustedOrigins, MaxWait and Logger.
func Health(storage pinion.Storage, opts *Options) http.Handler {
	s := newSite(storage, opts)
	return s.guarded(s.health)
}

// Metrics returns the handler of the page's metrics alone: the state of the queues as Prometheus reads it, with the
// metrics that the module prometheus/ has under the same names. Of opts it uses Hosts, TrustedOrigins and Logger.
func Metrics(storage pinion.Storage, opts *Options) http.Handler {
	s := newSite(storage, opts)
	return s.guarded(s.metrics)
}

// site is the page over one storage.
type site struct {
	storage pinion.Storage
	opts    Options
	origins *http.CrossOriginProtection

	// What the storage can do; nil if it cannot.
	inspector pinion.Inspector
	limiter   pinion.Limiter
	canceler  pinion.Canceler

	stats   *cached[pinion.Stats]
	history *cached[[]pinion.Ends]
	damage  *cached[string] // "" if the file is sound, as far as is known
}

func newSite(storage pinion.Storage, opts *Options) *site {
	s := &site{storage: storage, origins: http.NewCrossOriginProtection()}
	if opts != nil {
		s.opts = *opts
	}
	if s.opts.MaxWait == 0 {
		s.opts.MaxWait = 5 * time.Minute
	}
	if s.opts.Logger == nil {
		s.opts.Logger = slog.Default()
	}
	for _, origin := range s.opts.TrustedOrigins {
		if err := s.origins.AddTrustedOrigin(origin); err != nil {
			panic("web: Options.TrustedOrigins: " + err.Error())
		}
	}
	s.inspector, _ = pinion.As[pinion.Inspector](storage)
	s.limiter, _ = pinion.As[pinion.Limiter](storage)
	s.canceler, _ = pinion.As[pinion.Canceler](storage)
	s.stats = &cached[pinion.Stats]{ask: s.readStats, fresh: time.Second}
	s.history = &cached[[]pinion.Ends]{ask: s.readHistory, fresh: 10 * time.Second}
	s.damage = &cached[string]{ask: s.readDamage, fresh: 10 * time.Minute}
	return s
}

// ServeHTTP finds the page that an address names.
func (s *site) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.guarded(s.serve)(w, r)
}

func (s *site) serve(w http.ResponseWriter, r *http.Request) {
	whole, _, _ := strings.Cut(r.RequestURI, "?")
	if r.URL.Path == "" && !strings.HasSuffix(whole, "/") { // relative links would lead elsewhere
		addSlash(w, r)
		return
	}
	// Not Path: in an id, a slash that is escaped is part of the id.
	address := strings.TrimPrefix(r.URL.EscapedPath(), "/")
	if _, err := url.ParseQuery(r.URL.RawQuery); err != nil { // else a part of a filter would be left out
		s.fail(w, r, http.StatusBadRequest, "The address cannot be read: "+err.Error()+".")
		return
	}
	folder, rest, isNested := strings.Cut(address, "/")
	switch {
	case isNested && folder == "do":
		s.action(w, r, rest)
		return
	case r.Method != http.MethodGet && r.Method != http.MethodHead:
		w.Header().Set("Allow", "GET, HEAD")
		s.fail(w, r, http.StatusMethodNotAllowed, "This page can only be read.")
		return
	case isNested && folder == "job":
		s.inspecting(w, r, func() { s.job(w, r, rest) })
		return
	}
	switch address {
	case "":
		s.overview(w, r)
	case "jobs":
		s.inspecting(w, r, func() { s.jobs(w, r) })
	case "running":
		s.inspecting(w, r, func() { s.running(w, r) })
	case "dead":
		s.inspecting(w, r, func() { s.dead(w, r) })
	case "healthz":
		s.health(w, r)
	case "metrics":
		s.metrics(w, r)
	case "style.css", "script.js", "icon.svg":
		serveAsset(w, r, address)
	default:
		s.fail(w, r, http.StatusNotFound, "There is no such page.")
	}
}

// inspecting calls show if the storage can be looked into.
func (s *site) inspecting(w http.ResponseWriter, r *http.Request, show func()) {
	if s.inspector == nil {
		s.fail(w, r, http.StatusNotImplemented,
			"This storage cannot be looked into: it is not a pinion.Inspector. The overview shows how many jobs wait.")
		return
	}
	show()
}

// root returns the address of the overview, relative to the page of a request.
func root(r *http.Request) string {
	return "./" + strings.Repeat("../", strings.Count(strings.TrimPrefix(r.URL.EscapedPath(), "/"), "/"))
}

// addSlash redirects to the same address with a slash behind it.
func addSlash(w http.ResponseWriter, r *http.Request) {
	whole, query, hasQuery := strings.Cut(r.RequestURI, "?")
	to := "./" + path.Base(whole) + "/"
	if hasQuery {
		to += "?" + query
	}
	redirect(w, http.StatusMovedPermanently, to)
}

// redirect sends the browser to a relative address. http.Redirect would make it absolute, without the prefix that
// StripPrefix has taken away.
func redirect(w http.ResponseWriter, status int, to string) {
	w.Header().Set("Location", to)
	w.WriteHeader(status)
}

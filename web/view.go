package web

import (
	"bytes"
	"context"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"errors"
	"fmt"
	"html/template"
	"io/fs"
	"net/http"
	"runtime/debug"
	"strconv"
	"sync"
	"time"

	"github.com/pinion-queue/pinion"
	"github.com/pinion-queue/pinion/internal/words"
)

//go:embed assets
var embedded embed.FS

// templates parses the pages once, when the first is shown. A command that shows none should not wait for that.
var templates = sync.OnceValue(func() *template.Template {
	functions := template.FuncMap{
		"number": words.Thousands,
		"plural": words.Plural,
		"clock":  func(exact string) string { return exact[11:19] + " UTC" },
	}
	return template.Must(template.New("").Funcs(functions).ParseFS(embedded, "assets/*.html"))
})

// assetTypes are the files that pages load.
var assetTypes = map[string]string{
	"style.css": "text/css; charset=utf-8",
	"script.js": "text/javascript; charset=utf-8",
	"icon.svg":  "image/svg+xml",
}

// assetsVersion changes whenever an asset does. Pages name it in the assets' addresses, so browsers may keep those.
var assetsVersion = sync.OnceValue(func() string {
	hash := sha256.New()
	for _, name := range []string{"style.css", "script.js", "icon.svg"} {
		hash.Write(asset(name))
	}
	return hex.EncodeToString(hash.Sum(nil)[:6])
})

func asset(name string) []byte {
	data, err := fs.ReadFile(embedded, "assets/"+name)
	if err != nil {
		panic(err) // it is embedded
	}
	return data
}

func serveAsset(w http.ResponseWriter, r *http.Request, name string) {
	data := asset(name)
	h := w.Header()
	h.Set("Content-Type", assetTypes[name])
	if r.URL.Query().Get("v") == assetsVersion() {
		h.Set("Cache-Control", "private, max-age=31536000, immutable")
	}
	h.Set("Content-Length", strconv.Itoa(len(data)))
	w.Write(data)
}

// view is what every page needs.
type view struct {
	Title   string
	Here    string // the page's name in the navigation
	Root    string // the address of the overview, relative to this page
	Write   bool
	Refresh bool   // the script refreshes the page
	Answer  string // to an action
	Version string // of the assets
	Now     *moment

	// For the navigation.
	Counted bool
	Running int
	Dead    int
}

func (s *site) view(r *http.Request, title, here string) view {
	v := view{
		Title:   title,
		Here:    here,
		Root:    root(r),
		Write:   s.opts.Write,
		Answer:  answerOf(r.URL.Query()),
		Version: assetsVersion(),
		Now:     momentOf(time.Now()),
	}
	stats, err := s.stats.getSoon(r.Context())
	if err == nil {
		v.Counted = true
		v.Running = stats.Total.Running
		v.Dead = stats.DeadLetters
	}
	return v
}

// show renders a page into memory and then sends it, so that nothing of the storage waits for a slow reader. A page
// that cannot be rendered becomes an error page, not half a page.
func (s *site) show(w http.ResponseWriter, r *http.Request, status int, name string, data any) {
	var buf bytes.Buffer
	err := templates().ExecuteTemplate(&buf, name, data)
	if err != nil {
		s.opts.Logger.Error("pinion: the page cannot be shown", "page", name, "error", err)
		http.Error(w, "This page cannot be shown; the program's log says why.", http.StatusInternalServerError)
		return
	}
	h := w.Header()
	h.Set("Content-Type", "text/html; charset=utf-8")
	h.Set("Content-Length", strconv.Itoa(buf.Len()))
	w.WriteHeader(status)
	if r.Method != http.MethodHead {
		w.Write(buf.Bytes()) // a reader that is gone needs no answer
	}
}

// message is a page that only says something.
type message struct {
	view
	Text string
}

// fail answers with a page that says why there is nothing else.
func (s *site) fail(w http.ResponseWriter, r *http.Request, status int, text string) {
	s.show(w, r, status, "message", message{
		view: view{
			Title:   http.StatusText(status),
			Root:    root(r),
			Version: assetsVersion(),
			Now:     momentOf(time.Now()),
		},
		Text: shown(text, 2000),
	})
}

// failWith answers with an error of the storage.
func (s *site) failWith(w http.ResponseWriter, r *http.Request, err error) {
	switch {
	case r.Context().Err() != nil: // nobody waits for the answer
		s.fail(w, r, http.StatusServiceUnavailable, "The request was canceled.")
	case errors.Is(err, pinion.ErrNotFound):
		s.fail(w, r, http.StatusNotFound, "There is no such job. Finished jobs are deleted after a while.")
	case errors.Is(err, errors.ErrUnsupported):
		s.fail(w, r, http.StatusNotImplemented, err.Error())
	case isPanic(err):
		s.opts.Logger.Error("pinion: the page cannot show a job", "error", err)
		s.fail(w, r, http.StatusInternalServerError,
			"This cannot be shown: Options.Redact, or the storage, panicked. The program's log says more.")
	default:
		s.opts.Logger.Error("pinion: the page cannot read the queue", "error", err)
		s.fail(w, r, http.StatusInternalServerError, "The queue returned an error: "+err.Error())
	}
}

func isPanic(err error) bool {
	_, ok := errors.AsType[*pinion.PanicError](err)
	return ok
}

// redact hides what Options.Redact wants hidden, and returns the job's id, which links need, as it was.
func (s *site) redact(job *pinion.Job) (id string, err error) {
	id = job.ID
	if s.opts.Redact == nil {
		return id, nil
	}
	defer func() {
		if v := recover(); v != nil {
			err = fmt.Errorf("web: Options.Redact: %w", &pinion.PanicError{Value: v, Stack: debug.Stack()})
		}
	}()
	s.opts.Redact(job)
	return id, nil
}

// readStats asks the storage for its counts.
func (s *site) readStats(ctx context.Context) (pinion.Stats, error) {
	if s.inspector == nil {
		return pinion.Stats{}, errors.ErrUnsupported
	}
	return s.inspector.Stats(ctx)
}

// readHistory asks the storage for the ends of a day.
func (s *site) readHistory(ctx context.Context) ([]pinion.Ends, error) {
	if s.inspector == nil {
		return nil, errors.ErrUnsupported
	}
	return s.inspector.History(ctx, time.Now().Add(-day))
}

const day = 24 * time.Hour

package web

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"html"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pinion-queue/pinion"
)

func TestMain(m *testing.M) {
	soonPatience = time.Hour // on a busy machine counts may take long
	m.Run()
}

// queue is what both storages of the library are.
type queue interface {
	pinion.Storage
	pinion.Inspector
	pinion.Limiter
	pinion.Canceler
}

// overStorages runs a test over each storage of the library.
func overStorages(t *testing.T, test func(t *testing.T, q queue)) {
	t.Run("memory", func(t *testing.T) { test(t, pinion.NewMemoryStorage()) })
	t.Run("sqlite", func(t *testing.T) { test(t, openSQLite(t, filepath.Join(t.TempDir(), "q.db"))) })
}

// inBubbles runs a test over each storage of the library, in a bubble.
func inBubbles(t *testing.T, test func(t *testing.T, q queue)) {
	t.Run("memory", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) { test(t, pinion.NewMemoryStorage()) })
	})
	t.Run("sqlite", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) { test(t, openSQLite(t, filepath.Join(t.TempDir(), "q.db"))) })
	})
}

func openSQLite(t *testing.T, path string) *pinion.SQLiteStorage {
	t.Helper()
	s, err := pinion.OpenSQLite(t.Context(), path, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// otherProgram is a connection of a program that knows nothing of Pinion.
func otherProgram(t testing.TB, path string) *sql.DB {
	t.Helper()
	db, err := sql.Open("sqlite", path+"?_pragma=busy_timeout(10000)")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	return db
}

func enqueue(t *testing.T, s pinion.Storage, jobs ...*pinion.Job) {
	t.Helper()
	if err := s.Enqueue(t.Context(), jobs...); err != nil {
		t.Fatal(err)
	}
}

// plan has a worker plan the next run of a schedule.
func plan(t *testing.T, s pinion.Storage, p pinion.Periodic) {
	t.Helper()
	worker := &pinion.Worker{Storage: s, Registry: new(pinion.Registry), Periodic: []pinion.Periodic{p}}
	worker.Registry.Add(pinion.Task[struct{}]{Name: "none", Run: func(context.Context, struct{}) error { return nil }})
	if err := worker.Drain(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// claim claims n jobs that are due.
func claim(t *testing.T, s pinion.Storage, n int) []*pinion.Job {
	t.Helper()
	jobs, err := s.Dequeue(t.Context(), pinion.DequeueOptions{Max: n, Worker: "host:1", NoWait: true, Lease: time.Hour})
	if err != nil || len(jobs) != n {
		t.Fatalf("claimed %d jobs, want %d: %v", len(jobs), n, err)
	}
	return jobs
}

// claimFor claims a job that is due, for a worker that is killed then: its lease is as long as given.
func claimFor(t *testing.T, s pinion.Storage, lease time.Duration) *pinion.Job {
	t.Helper()
	jobs, err := s.Dequeue(t.Context(), pinion.DequeueOptions{Max: 1, Worker: "host:2", NoWait: true, Lease: lease})
	if err != nil || len(jobs) != 1 {
		t.Fatalf("claimed %d jobs, want 1: %v", len(jobs), err)
	}
	return jobs[0]
}

// bury makes dead letters of n jobs with one error.
func bury(t *testing.T, s pinion.Storage, task, text string, n int) (ids []string) {
	t.Helper()
	for range n {
		enqueue(t, s, &pinion.Job{Task: task, Priority: 1_000_000})
		job := claim(t, s, 1)[0]
		if err := s.DeadLetter(t.Context(), job, errors.New(text)); err != nil {
			t.Fatal(err)
		}
		ids = append(ids, job.ID)
	}
	return ids
}

// answer is what a handler answered.
type answer struct {
	status int
	header http.Header
	body   string
}

// ask sends a request to a handler.
func ask(t *testing.T, h http.Handler, method, address string, change ...func(*http.Request)) answer {
	t.Helper()
	r := httptest.NewRequestWithContext(t.Context(), method, address, nil)
	for _, c := range change {
		c(r)
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return answer{w.Code, w.Result().Header, w.Body.String()}
}

// get returns a page that must be there.
func get(t *testing.T, h http.Handler, address string) string {
	t.Helper()
	a := ask(t, h, "GET", address)
	if a.status != http.StatusOK {
		t.Fatalf("GET %s: status %d:\n%s", address, a.status, visible(a.body))
	}
	return a.body
}

var tags = regexp.MustCompile(`(?s)<[^>]*>`)

// visible returns the text of a page without its tags and with single spaces.
func visible(body string) string {
	_, main, _ := strings.Cut(body, "<body")
	_, main, _ = strings.Cut(main, ">")
	return strings.Join(strings.Fields(tags.ReplaceAllString(main, " ")), " ")
}

// wantText checks that a page shows texts, in this order.
func wantText(t *testing.T, body string, texts ...string) {
	t.Helper()
	rest := visible(body)
	for _, text := range texts {
		_, behind, found := strings.Cut(rest, text)
		if !found {
			t.Fatalf("the page does not show %q, or not in this place:\n%s", text, visible(body))
		}
		rest = behind
	}
}

var href = regexp.MustCompile(`href="([^"]*)"[^>]*>([^<]*)<`)

// link returns the address of the first link with a text.
func link(t *testing.T, body, text string) string {
	t.Helper()
	for _, found := range href.FindAllStringSubmatch(body, -1) {
		if strings.TrimSpace(found[2]) == text {
			return html.UnescapeString(found[1])
		}
	}
	t.Fatalf("the page has no link %q:\n%s", text, body)
	return ""
}

// follow returns the address that a link on a page leads to, as a browser resolves it.
func follow(t *testing.T, from, to string) string {
	t.Helper()
	base, err := url.Parse(from)
	if err != nil {
		t.Fatal(err)
	}
	target, err := base.Parse(to)
	if err != nil {
		t.Fatal(err)
	}
	return target.String()
}

var formAction = regexp.MustCompile(`<form method="post" action="([^"]*)"`)

// act opens the page on which an action is confirmed, confirms it, and returns the page that the browser is sent to.
func act(t *testing.T, h http.Handler, address string, fields ...string) string {
	t.Helper()
	page := get(t, h, address)
	form := formAction.FindStringSubmatch(page)
	if form == nil {
		t.Fatalf("%s has no form:\n%s", address, visible(page))
	}
	values := make(url.Values)
	for i := 0; i < len(fields); i += 2 {
		values.Set(fields[i], fields[i+1])
	}
	to := follow(t, address, html.UnescapeString(form[1]))
	a := ask(t, h, "POST", to, func(r *http.Request) {
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		r.Header.Set("Sec-Fetch-Site", "same-origin")
		r.Body = io.NopCloser(strings.NewReader(values.Encode()))
	})
	if a.status != http.StatusSeeOther {
		t.Fatalf("POST %s: status %d:\n%s", to, a.status, visible(a.body))
	}
	return get(t, h, follow(t, to, a.header.Get("Location")))
}

// quiet are options with a logger that fails the test if the page logs something.
func quiet(t *testing.T, o Options) *Options {
	o.Logger = slog.New(failing{t})
	return &o
}

// failing is a slog.Handler.
type failing struct{ t *testing.T }

func (f failing) Enabled(context.Context, slog.Level) bool { return true }
func (f failing) WithAttrs([]slog.Attr) slog.Handler       { return f }
func (f failing) WithGroup(string) slog.Handler            { return f }

func (f failing) Handle(_ context.Context, r slog.Record) error {
	text := r.Message
	r.Attrs(func(a slog.Attr) bool {
		text += fmt.Sprintf(" %s=%v", a.Key, a.Value)
		return true
	})
	f.t.Error("logged: " + text)
	return nil
}

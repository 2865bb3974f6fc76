package browser

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pinion-queue/pinion"
	"github.com/pinion-queue/pinion/web"
)

// The errors of the house, and how many dead letters have each.
const (
	refused  = "dial tcp 10.20.0.7:5432: connect: connection refused"
	declined = "payment provider answered 503 Service Unavailable"
	missing  = "open /var/lib/uploads/0199c2b4.png: no such file or directory"
	expired  = "context deadline exceeded"
	invalid  = "invalid e-mail address: missing '@' or angle-addr"

	refusedJobs, declinedJobs, missingJobs, expiredJobs, invalidJobs, panickedJobs = 412, 57, 31, 9, 4, 1

	deadJobs = refusedJobs + declinedJobs + missingJobs + expiredJobs + invalidJobs + panickedJobs
)

const newsletters = 120 // jobs of a queue that is paused

// house is a queue of real jobs in a file: a worker has run them, and still runs some.
type house struct {
	*pinion.SQLiteStorage
	path    string // of the file
	url     string // of the page, with its prefix
	running []string
	waiting []string      // of the queue mail, planned for tomorrow
	closing chan struct{} // closed before the worker is stopped

	mu   sync.Mutex // guards down
	down bool       // the services that the tasks need
}

type customer struct {
	Customer int    `json:"customer"`
	Locale   string `json:"locale"`
}

type progress struct {
	Done int `json:"done"`
	Of   int `json:"of"`
}

// nightly is a schedule: each day at three.
type nightly struct{}

func (nightly) Next(t time.Time) time.Time {
	return t.Truncate(24*time.Hour).AddDate(0, 0, 1).Add(3 * time.Hour)
}

// tasks are what the worker of the house knows.
func (h *house) tasks() *pinion.Registry {
	registry := new(pinion.Registry)
	once := &pinion.RetryPolicy{}
	fails := func(name, text string) {
		registry.Add(&pinion.Task[customer]{Name: name, Retry: once, Run: func(context.Context, customer) error {
			h.mu.Lock()
			defer h.mu.Unlock()
			if h.down {
				return errors.New(text)
			}
			return nil
		}})
	}
	fails("charge_card", refused)
	fails("refund", declined)
	fails("resize_image", missing)
	fails("thumbnail", expired)
	fails("subscribe", invalid)
	registry.Add(
		&pinion.Task[customer]{Name: "send_welcome", Run: func(ctx context.Context, c customer) error {
			return pinion.SetResult(ctx, map[string]any{"sent": true, "message": 9007199254740993})
		}},
		&pinion.Task[customer]{Name: "import_feed", Retry: once, Run: func(context.Context, customer) error {
			var feeds []string
			return errors.New(feeds[3])
		}},
		&pinion.Task[customer]{Name: "monthly_report", Run: func(ctx context.Context, c customer) error {
			err := pinion.SetResult(ctx, progress{Done: 7, Of: 12})
			if err != nil {
				return err
			}
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-h.closing: // or they would last until the end of ShutdownTimeout
				return pinion.Snooze(time.Hour)
			}
		}},
	)
	return registry
}

// newHouse fills a queue and serves its page under a prefix, "/" for none.
func newHouse(t *testing.T, prefix string, opts *web.Options) *house {
	t.Helper()
	ctx := t.Context()
	path := filepath.Join(t.TempDir(), "shop.db")
	storage, err := pinion.OpenSQLite(ctx, path, nil)
	if err != nil {
		t.Fatal(err)
	}
	h := &house{SQLiteStorage: storage, path: path, down: true, closing: make(chan struct{})}
	t.Cleanup(func() { storage.Close() })
	worker := &pinion.Worker{
		Storage: storage, Registry: h.tasks(), Name: "shop-1:4711", Concurrency: 8,
		HeartbeatInterval: 50 * time.Millisecond, Logger: slog.New(slog.DiscardHandler),
		Periodic: []pinion.Periodic{{Name: "nightly-report", Schedule: nightly{}, Job: func(time.Time) *pinion.Job {
			return pinion.NewJob("monthly_report", 1, "en-GB")
		}}},
	}
	var wg sync.WaitGroup
	working, stop := context.WithCancel(ctx)
	wg.Go(func() {
		err := worker.Run(working)
		if err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(wg.Wait)
	t.Cleanup(stop)
	t.Cleanup(func() { close(h.closing) })

	h.work(t, "default", "send_welcome", 200)
	h.work(t, "default", "charge_card", refusedJobs)
	h.work(t, "default", "refund", declinedJobs)
	h.work(t, "images", "resize_image", missingJobs)
	h.work(t, "images", "thumbnail", expiredJobs)
	h.work(t, "mail", "subscribe", invalidJobs)
	h.work(t, "default", "import_feed", panickedJobs)
	h.setDown(false)
	h.running = h.add(t, "reports", "monthly_report", 3)
	h.until(t, func() bool { // their first progress is stored
		n := 0
		for job := range all(t, h.Jobs(ctx, pinion.Filter{IDs: h.running})) {
			if job.Result != nil {
				n++
			}
		}
		return n == len(h.running)
	})
	tomorrow := time.Now().Add(24 * time.Hour)
	for i := range 30 {
		job := pinion.NewJob("send_welcome", i, "pt-BR")
		job.Queue, job.RunAt = "mail", tomorrow.Add(time.Duration(i)*time.Minute)
		h.enqueue(t, job)
		h.waiting = append(h.waiting, job.ID)
	}
	err = storage.SetLimit(ctx, "newsletter", 0)
	if err != nil {
		t.Fatal(err)
	}
	err = storage.SetLimit(ctx, "reports", 4)
	if err != nil {
		t.Fatal(err)
	}
	h.add(t, "newsletter", "send_welcome", newsletters)
	h.serve(t, prefix, opts)
	return h
}

func (h *house) enqueue(t *testing.T, jobs ...*pinion.Job) {
	t.Helper()
	err := h.Enqueue(t.Context(), jobs...)
	if err != nil {
		t.Fatal(err)
	}
}

// add enqueues n jobs and returns their ids.
func (h *house) add(t *testing.T, queue, task string, n int) []string {
	t.Helper()
	jobs := make([]*pinion.Job, n)
	for i := range jobs {
		jobs[i] = pinion.NewJob(task, 1000+i*7%9000, []string{"de-AT", "en-GB", "pt-BR"}[i%3])
		jobs[i].Queue = queue
		jobs[i].Meta = map[string]string{"tenant": "acme", "trace": fmt.Sprintf("4bf92f3577b34da6a3ce929d0e0e%04x", i)}
	}
	h.enqueue(t, jobs...)
	ids := make([]string, n)
	for i, job := range jobs {
		ids[i] = job.ID
	}
	return ids
}

// all returns the jobs of a listing, and fails the test at an error.
func all(t *testing.T, jobs iter.Seq2[*pinion.Job, error]) iter.Seq[*pinion.Job] {
	t.Helper()
	return func(yield func(*pinion.Job) bool) {
		for job, err := range jobs {
			if err != nil {
				t.Fatal(err)
			}
			if !yield(job) {
				return
			}
		}
	}
}

// work enqueues n jobs and waits until they have ended.
func (h *house) work(t *testing.T, queue, task string, n int) {
	t.Helper()
	for _, id := range h.add(t, queue, task, n) {
		_, err := pinion.Wait(t.Context(), h, id)
		if err != nil {
			t.Fatal(err)
		}
	}
}

// until waits until the queue is as wanted. A storage has no event for that, so it looks again and again,
// as pinion.Wait.
func (h *house) until(t *testing.T, is func() bool) {
	t.Helper()
	for !is() {
		time.Sleep(5 * time.Millisecond)
	}
}

func (h *house) setDown(down bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.down = down
}

// count counts the jobs that match a filter.
func (h *house) count(t *testing.T, f pinion.Filter) (n int) {
	t.Helper()
	for range all(t, h.Jobs(t.Context(), f)) {
		n++
	}
	return n
}

// dead counts the dead letters with an error.
func (h *house) dead(t *testing.T, text string) (n int) {
	t.Helper()
	for range all(t, h.DeadLetters(t.Context(), pinion.Filter{Text: text})) {
		n++
	}
	return n
}

// get returns a job.
func (h *house) get(t *testing.T, id string) *pinion.Job {
	t.Helper()
	job, err := h.Get(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	return job
}

// sql opens the file of the queue as any program may.
func (h *house) sql(t *testing.T) *sql.DB {
	t.Helper()
	db, err := sql.Open("sqlite", h.path+"?_pragma=busy_timeout(60000)")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	return db
}

// serve mounts the page at a prefix. A request beside it is a fault: a link that was not relative.
func (h *house) serve(t *testing.T, prefix string, opts *web.Options) {
	t.Helper()
	page := http.StripPrefix(prefix, web.New(h.SQLiteStorage, opts))
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != prefix && !strings.HasPrefix(r.URL.Path, prefix+"/") {
			t.Errorf("the browser asks for %s, which is not under %s", r.URL, prefix)
		}
		page.ServeHTTP(w, r)
	}))
	t.Cleanup(server.Close)
	h.url = server.URL + (&url.URL{Path: prefix + "/"}).EscapedPath()
}

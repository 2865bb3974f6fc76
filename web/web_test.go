package web

import (
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pinion-queue/pinion"
)

func TestThePagesShowAQueue(t *testing.T) {
	overStorages(t, func(t *testing.T, q queue) {
		enqueue(t, q,
			&pinion.Job{Task: "mail", Queue: "mails", Args: []any{"ada@example.com"}, Priority: 2},
			&pinion.Job{Task: "later", RunAt: time.Now().Add(time.Hour), Key: "k"},
		)
		job := claim(t, q, 1)[0]
		job.Result = []byte(`{"percent":40}`)
		if _, err := q.Heartbeat(t.Context(), job); err != nil {
			t.Fatal(err)
		}
		dead := bury(t, q, "broken", "dial tcp: connection refused", 3)
		if err := q.SetLimit(t.Context(), "mails", 5); err != nil {
			t.Fatal(err)
		}
		page := New(q, quiet(t, Options{}))

		wantText(t, get(t, page, "/"), "Overview Jobs Running 1 Dead letters 3", "Queues",
			"mails 0 0 – 1 of 5", "Tasks", "broken")
		wantText(t, get(t, page, "/jobs"), "failed broken", "pending later", "running mail")
		wantText(t, get(t, page, "/jobs?status=PENDING"), "1 pending job", "later")
		wantText(t, get(t, page, "/running"), "host:1: 1 job", "mail", `{&#34;percent&#34;:40}`)
		wantText(t, get(t, page, "/dead"), "3 × dial tcp: connection refused", "3 dead letters, newest first", "broken")
		wantText(t, get(t, page, "/job/"+dead[0]), "broken failed dead letter", "Error", "dial tcp: connection refused")
		wantText(t, get(t, page, "/job/"+job.ID), "mail running", "Progress", "40", "Arguments", "ada@example.com")
		wantText(t, get(t, page, "/healthz"), "")
		get(t, page, "/metrics")
	})
}

func TestEveryPageOfAnEmptyQueueIsThere(t *testing.T) {
	overStorages(t, func(t *testing.T, q queue) {
		page := New(q, quiet(t, Options{Write: true}))
		wantText(t, get(t, page, "/"), "pending 0", "A quick look finds nothing wrong",
			"No queue has jobs.", "No task has jobs.")
		wantText(t, get(t, page, "/jobs"), "No job matches.")
		wantText(t, get(t, page, "/jobs?status=PENDING"), "0 pending jobs", "No job matches.")
		wantText(t, get(t, page, "/running"), "No job runs.")
		wantText(t, get(t, page, "/dead"), "0 dead letters", "No dead letter matches.")
		wantText(t, get(t, page, "/do/replay?before=2100-01-01T00:00:00Z"), "There is nothing to do")
		if body := ask(t, page, "GET", "/healthz").body; body != "ok\n" {
			t.Errorf("healthz says %q", body)
		}
		if a := ask(t, page, "GET", "/job/none"); a.status != http.StatusNotFound {
			t.Errorf("a job that does not exist: status %d", a.status)
		}
	})
}

// bare is a storage without any optional power.
type bare struct{ pinion.Storage }

// wrapped is a storage that wraps another, whose powers it keeps.
type wrapped struct{ pinion.Storage }

func (w wrapped) Unwrap() pinion.Storage { return w.Storage }

func TestWhatAStorageCannotDoIsShownAsMissing(t *testing.T) {
	q := pinion.NewMemoryStorage()
	enqueue(t, q, pinion.NewJob("a"), pinion.NewJob("b"))
	page := New(bare{q}, quiet(t, Options{Write: true}))
	wantText(t, get(t, page, "/"), "not a pinion.Inspector", "not a pinion.Limiter",
		"not a pinion.Canceler", "2 jobs waiting")
	for _, address := range []string{"/jobs", "/dead", "/running", "/job/x"} {
		if a := ask(t, page, "GET", address); a.status != http.StatusNotImplemented {
			t.Errorf("%s: status %d", address, a.status)
		}
	}
	for _, address := range []string{
		"/do/pause?queue=q", "/do/cancel?id=x", "/do/replay?id=x", "/do/reschedule?id=x",
		"/do/replay?like=x&before=2026-01-01T00:00:00Z", "/do/delete?text=x&before=2026-01-01T00:00:00Z",
	} {
		for _, method := range []string{"GET", "POST"} {
			if a := ask(t, page, method, address); a.status != http.StatusBadRequest {
				t.Errorf("%s %s: status %d", method, address, a.status)
			}
		}
	}
	if body := ask(t, page, "GET", "/healthz").body; body != "ok\n" {
		t.Errorf("healthz says %q", body)
	}
	if body := ask(t, page, "GET", "/metrics").body; !strings.Contains(body, "\npinion_pending_jobs 2\n") {
		t.Errorf("metrics:\n%s", body)
	}

	wantText(t, get(t, New(wrapped{q}, quiet(t, Options{})), "/"), "pending 2")
}

// Storages with one of the optional powers.
type (
	inspectorOnly struct {
		pinion.Storage
		pinion.Inspector
	}
	limiterOnly struct {
		pinion.Storage
		pinion.Limiter
	}
	cancelerOnly struct {
		pinion.Storage
		pinion.Canceler
	}
)

func TestEachPowerWorksWithoutTheOthers(t *testing.T) {
	q := pinion.NewMemoryStorage()
	enqueue(t, q, &pinion.Job{ID: "waits", Task: "t", RunAt: time.Now().Add(time.Hour)})
	for _, c := range []struct {
		name    string
		storage pinion.Storage
		missing []string
		actions map[string]int // what a POST answers
	}{
		{"Inspector", inspectorOnly{q, q}, []string{"Limiter", "Canceler"}, map[string]int{
			"pause?queue=q": 400, "cancel?id=waits": 400, "replay?id=x": 303, "reschedule?id=waits": 303,
		}},
		{"Limiter", limiterOnly{q, q}, []string{"Inspector", "Canceler"}, map[string]int{
			"pause?queue=q": 303, "cancel?id=waits": 400, "replay?id=x": 400, "reschedule?id=waits": 400,
		}},
		{"Canceler", cancelerOnly{q, q}, []string{"Inspector", "Limiter"}, map[string]int{
			"pause?queue=q": 400, "cancel?id=waits": 303, "replay?id=x": 400, "reschedule?id=waits": 400,
		}},
	} {
		for _, storage := range []pinion.Storage{c.storage, wrapped{c.storage}} {
			page := New(storage, quiet(t, Options{Write: true}))
			overview := get(t, page, "/")
			for _, power := range []string{"Inspector", "Limiter", "Canceler"} {
				isMissing := strings.Contains(overview, "not a pinion."+power)
				if isMissing != slices.Contains(c.missing, power) {
					t.Errorf("%s: the overview says that %s is missing: %v", c.name, power, isMissing)
				}
			}
			for _, address := range []string{"/healthz", "/metrics"} {
				get(t, page, address)
			}
			for action, want := range c.actions {
				a := ask(t, page, "POST", "/do/"+action, func(r *http.Request) {
					r.Header.Set("Sec-Fetch-Site", "same-origin")
					r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
					r.Body = io.NopCloser(strings.NewReader("at=1h"))
				})
				if a.status != want {
					t.Errorf("%s: POST %s: status %d, want %d", c.name, action, a.status, want)
				}
			}
		}
	}
}

func TestThePageWorksUnderAnyPrefix(t *testing.T) {
	q := pinion.NewMemoryStorage()
	bury(t, q, "broken", "boom", 2)
	enqueue(t, q, &pinion.Job{ID: "a/b", Task: "t", RunAt: time.Now().Add(time.Hour)})
	page := New(q, quiet(t, Options{Write: true}))
	for _, prefix := range []string{"/queue", "/a b", "/ü", "/tools & \"co\"/<b>/100%", "/a:b", "/a?b", "/a#b", "/a//b", "/a%2fb", "/...", "/a;b=c"} {
		if err := q.SetLimit(t.Context(), "default", -1); err != nil {
			t.Fatal(err)
		}
		escaped := (&url.URL{Path: prefix}).EscapedPath()
		h := http.StripPrefix(prefix, page)
		a := ask(t, h, "GET", escaped+"?x=1")
		at := follow(t, "http://h"+escaped+"?x=1", a.header.Get("Location"))
		if a.status != http.StatusMovedPermanently || at != "http://h"+escaped+"/?x=1" {
			t.Errorf("%s without a slash leads to %s", prefix, at)
		}
		overview := get(t, h, escaped+"/")
		for _, name := range []string{"Jobs", "Overview"} {
			get(t, h, follow(t, escaped+"/", link(t, overview, name)))
		}
		list := get(t, h, escaped+"/jobs")
		job := follow(t, escaped+"/jobs", link(t, list, "a/b"))
		wantText(t, get(t, h, job), "t pending")
		wantText(t, get(t, h, follow(t, job, link(t, get(t, h, job), "Jobs"))), "a/b")
		answered := act(t, h, follow(t, job, link(t, get(t, h, job), "reschedule")), "at", "2h")
		wantText(t, answered, "The job has a new due time.", "t pending")
		wantText(t, act(t, h, follow(t, escaped+"/", link(t, overview, "pause"))), "Paused the queue default.")
	}
	mux := http.NewServeMux()
	mux.Handle("/queue/", http.StripPrefix("/queue/", page)) // leaves no slash in front
	wantText(t, get(t, mux, "/queue/jobs"), "a/b")
	get(t, mux, follow(t, "/queue/", link(t, get(t, mux, "/queue/"), "Jobs")))
}

func TestAssetsAreSmall(t *testing.T) {
	q := pinion.NewMemoryStorage()
	for range 100 {
		bury(t, q, "broken", "dial tcp 10.0.0.1:5432: connect: connection refused", 1)
	}
	page := New(q, quiet(t, Options{Write: true}))
	total := 0
	for _, address := range []string{"/dead", "/style.css", "/script.js", "/icon.svg"} {
		total += len(get(t, page, address))
	}
	if total > 100_000 {
		t.Errorf("the page and all that it loads have %d bytes, want at most 100,000", total)
	}
}

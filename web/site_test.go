package web

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/pinion-queue/pinion"
)

func TestEveryPageOfAnEmptyQueueIsThere(t *testing.T) {
	overStorages(t, func(t *testing.T, q queue) {
		page := New(q, quiet(t, Options{Write: true}))
		wantText(t, get(t, page, "/"), "pending 0", "A quick look finds nothing wrong", "No queue has jobs.", "No task has jobs.")
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
	wantText(t, get(t, page, "/"), "not a pinion.Inspector", "not a pinion.Limiter", "not a pinion.Canceler", "2 jobs waiting")
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

func TestListsPageByKey(t *testing.T) {
	overStorages(t, func(t *testing.T, q queue) {
		for range 250 {
			enqueue(t, q, pinion.NewJob("t"))
		}
		page := New(q, quiet(t, Options{}))
		seen := 0
		address := "/jobs?status=PENDING"
		for {
			body := get(t, page, address)
			wantText(t, body, " of 250 pending jobs, newest first")
			seen += strings.Count(body, `href="./job/`)
			if !strings.Contains(body, `rel="next"`) {
				break
			}
			address = follow(t, address, link(t, body, "older"))
		}
		if seen != 250 {
			t.Errorf("the pages show %d jobs, want 250", seen)
		}
	})
}

func TestListsHeedTheirFilters(t *testing.T) {
	overStorages(t, func(t *testing.T, q queue) {
		enqueue(t, q,
			&pinion.Job{ID: "one", Task: "mail", Queue: "mails"},
			&pinion.Job{ID: "two", Task: "mail", Queue: "other"},
			&pinion.Job{ID: "three", Task: "index", Queue: "other"})
		bury(t, q, "broken", "connection refused", 1)
		page := New(q, quiet(t, Options{}))
		for address, want := range map[string][]string{
			"/jobs?task=MAIL":                              {"two", "one"},
			"/jobs?queue=other":                            {"three", "two"},
			"/jobs?queue=other&task=mail":                  {"two"},
			"/jobs?status=failed":                          {"failed broken"},
			"/jobs?text=refused":                           {"failed broken"},
			"/jobs?before=1h":                              {"No job matches."},
			"/jobs?before=2100-01-01T00:00:00Z&task=index": {"three"},
			"/dead?text=refused":                           {"1 × connection refused", "1 dead letter"},
			"/dead?text=cheese":                            {"0 dead letters"},
			"/dead?task=mail":                              {"0 dead letters"},
			"/dead?before=1d":                              {"0 dead letters"},
		} {
			body := get(t, page, address)
			wantText(t, body, want...)
			for _, id := range []string{"one", "two", "three"} {
				wanted := strings.Contains(strings.Join(want, " "), id)
				if strings.Contains(body, `>`+id+`</a>`) != wanted {
					t.Errorf("%s lists %s: %v", address, id, !wanted)
				}
			}
		}
	})
}

// in10Hours is a schedule.
type in10Hours struct{}

func (in10Hours) Next(after time.Time) time.Time { return after.Add(10*time.Hour + time.Minute) }

func TestPeriodicJobsAndPausedQueuesAreOnTheOverview(t *testing.T) {
	overStorages(t, func(t *testing.T, q queue) {
		plan(t, q, pinion.Periodic{
			Name:     "nightly",
			Schedule: in10Hours{},
			Job:      func(time.Time) *pinion.Job { return pinion.NewJob("report") },
		})
		enqueue(t, q, &pinion.Job{Task: "other", Key: "periodical"})
		if err := q.SetLimit(t.Context(), "stopped", 0); err != nil {
			t.Fatal(err)
		}
		body := get(t, New(q, quiet(t, Options{})), "/")
		wantText(t, body, "these queues are paused: stopped", "stopped 0 0 – 0 0 0 paused", "Periodic jobs", "nightly report waits in 10h")
		if strings.Contains(body, "periodical") {
			t.Error("a job with another key is listed as periodic")
		}
	})
}

func TestHealthSaysWhatIsWrong(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := pinion.NewMemoryStorage()
		h := Health(q, quiet(t, Options{}))
		enqueue(t, q, pinion.NewJob("a"))
		if a := ask(t, h, "GET", "/"); a.status != http.StatusOK || a.body != "ok\n" {
			t.Errorf("a job that has just become due: %d %s", a.status, a.body)
		}
		time.Sleep(6 * time.Minute)
		a := ask(t, h, "GET", "/")
		want := "1 job is due, and the oldest has been due for 6m: no worker is at work\n"
		if a.status != http.StatusServiceUnavailable || a.body != want {
			t.Errorf("a job that has been due for 6 minutes: %d %s", a.status, a.body)
		}
		if a := ask(t, Health(q, quiet(t, Options{MaxWait: time.Hour})), "GET", "/"); a.status != http.StatusOK {
			t.Errorf("with MaxWait an hour: %d %s", a.status, a.body)
		}
		if a := ask(t, Health(q, quiet(t, Options{MaxWait: -1})), "GET", "/"); a.status != http.StatusOK {
			t.Errorf("with a negative MaxWait: %d %s", a.status, a.body)
		}
		if err := q.SetLimit(t.Context(), "default", 0); err != nil {
			t.Fatal(err)
		}
		if a := ask(t, h, "GET", "/"); a.status != http.StatusOK {
			t.Errorf("a paused queue: %d %s", a.status, a.body)
		}
		if err := q.Close(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		a = ask(t, h, "GET", "/")
		if a.status != http.StatusServiceUnavailable || !strings.Contains(a.body, "closed") {
			t.Errorf("a storage that is closed: %d %s", a.status, a.body)
		}
	})
}

// A worker that was killed leaves its claims behind.
func TestHealthSaysThatNoWorkerIsAtWork(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := pinion.NewMemoryStorage()
		page := Health(q, quiet(t, Options{}))
		wantHealth := func(what, want string) {
			t.Helper()
			time.Sleep(time.Minute) // counts are kept for a second
			a := ask(t, page, "GET", "/")
			isOK := a.status == http.StatusOK && a.body == "ok\n"
			if want == "ok" && !isOK || want != "ok" && (a.status != http.StatusServiceUnavailable || !strings.Contains(a.body, want)) {
				t.Errorf("%s: status %d, %q, want %q", what, a.status, a.body, want)
			}
		}
		wantHealth("an empty queue", "ok")
		enqueue(t, q, &pinion.Job{Task: "t", RunAt: time.Now().Add(time.Hour)})
		wantHealth("a job that is planned", "ok")

		enqueue(t, q, pinion.NewJob("long"))
		held := claim(t, q, 1)
		wantHealth("a job under a lease of an hour", "ok")
		enqueue(t, q, pinion.NewJob("waits"))
		wantHealth("a job that is due while another runs", "ok")
		time.Sleep(5 * time.Minute)
		wantHealth("a job that is due for long while another runs", "the workers are too few or do not know its task")
		enqueue(t, q, &pinion.Job{Task: "short", Priority: 1})
		if _, err := q.MarkDone(t.Context(), append(held, claim(t, q, 2)...)...); err != nil {
			t.Fatal(err)
		}
		wantHealth("a queue whose jobs have ended", "ok")

		enqueue(t, q, pinion.NewJob("killed"))
		killed := claimFor(t, q, 10*time.Second)
		wantHealth("a lease that has just expired", "ok")
		time.Sleep(5 * time.Minute)
		wantHealth("a lease that expired 6 minutes ago", "no worker is at work")
		enqueue(t, q, pinion.NewJob("waits"))
		time.Sleep(5 * time.Minute)
		wantHealth("a job that is due beside it", "1 job is due, and the oldest has been due for 6m: no worker is at work")
		if _, err := q.Heartbeat(t.Context(), killed); err != nil {
			t.Fatal(err)
		}
		time.Sleep(5 * time.Second)
		if a := ask(t, page, "GET", "/"); !strings.Contains(a.body, "too few") {
			t.Errorf("after a heartbeat: %q", a.body)
		}
	})
}

func TestHealthIsOfEveryStorage(t *testing.T) {
	overStorages(t, func(t *testing.T, q queue) {
		page := Health(q, quiet(t, Options{MaxWait: 1}))
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		wantHealth := func(want string) {
			t.Helper()
			for { // counts are kept for a second
				a := ask(t, page, "GET", "/")
				if strings.Contains(a.body, want) && (a.status == http.StatusOK) == (want == "ok") {
					return
				}
				if ctx.Err() != nil {
					t.Fatalf("status %d, %q, want %q", a.status, a.body, want)
				}
				time.Sleep(10 * time.Millisecond)
			}
		}
		wantHealth("ok")
		enqueue(t, q, pinion.NewJob("a"))
		wantHealth("no worker is at work")
		claimFor(t, q, time.Millisecond)
		wantHealth("the lease of a running job expired")
		enqueue(t, q, pinion.NewJob("b"))
		claimFor(t, q, time.Hour)
		wantHealth("ok")
	})
}

func TestMetricsAreWhatPrometheusReads(t *testing.T) {
	overStorages(t, func(t *testing.T, q queue) {
		enqueue(t, q, &pinion.Job{Task: "a", Queue: "x\"\\\n"}, &pinion.Job{Task: "a", Queue: "x\"\\\n", RunAt: time.Now().Add(time.Hour)})
		bury(t, q, "b", "boom", 2)
		if err := q.SetLimit(t.Context(), "paused", 0); err != nil {
			t.Fatal(err)
		}
		body := ask(t, Metrics(q, quiet(t, Options{})), "GET", "/").body
		for _, line := range []string{
			`pinion_queue_jobs{queue="x\"\\\n",state="due"} 1`,
			`pinion_queue_jobs{queue="x\"\\\n",state="scheduled"} 1`,
			`pinion_queue_jobs{queue="x\"\\\n",state="running"} 0`,
			`pinion_queue_limit{queue="paused"} 0`,
			`pinion_dead_letters 2`,
			"# TYPE pinion_queue_oldest_seconds gauge",
		} {
			if !strings.Contains(body, line+"\n") {
				t.Errorf("there is no line %s in\n%s", line, body)
			}
		}
	})
}

// broken is a storage whose listings fail.
type broken struct{ queue }

func (broken) JobsPage(context.Context, pinion.Filter, int64) (pinion.Page, error) {
	return pinion.Page{}, errors.New("disk on fire")
}

func TestAnErrorOfTheStorageIsShownAndLogged(t *testing.T) {
	var log strings.Builder
	page := New(broken{pinion.NewMemoryStorage()}, &Options{Logger: slog.New(slog.NewTextHandler(&log, nil))})
	a := ask(t, page, "GET", "/jobs")
	if a.status != http.StatusInternalServerError || !strings.Contains(a.body, "disk on fire") || !strings.Contains(log.String(), "disk on fire") {
		t.Errorf("status %d:\n%s\nlog: %s", a.status, visible(a.body), &log)
	}
}

// slow is a storage whose Stats take long.
type slow struct {
	queue
	calls int
}

func (s *slow) Stats(ctx context.Context) (pinion.Stats, error) {
	s.calls++
	time.Sleep(3 * time.Second)
	return s.queue.Stats(ctx)
}

func TestListsDoNotWaitForSlowCounts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := &slow{queue: pinion.NewMemoryStorage()}
		page := New(q, quiet(t, Options{}))
		timed := func(address string) time.Duration {
			start := time.Now()
			get(t, page, address)
			return time.Since(start)
		}
		if took := timed("/jobs"); took > time.Second {
			t.Errorf("the list takes %v", took)
		}
		wantText(t, get(t, page, "/jobs"), "0 jobs, newest first")
		if took := timed("/"); took > 3*time.Second {
			t.Errorf("the overview takes %v, though somebody has asked already", took)
		}
		time.Sleep(10 * time.Second)
		if took := timed("/"); took != 0 {
			t.Errorf("the overview takes %v, though the counts, which took 3s, are 10s old", took)
		}
		if q.calls != 1 {
			t.Errorf("the storage was asked %d times", q.calls)
		}
		time.Sleep(time.Minute)
		if took := timed("/"); took != 3*time.Second {
			t.Errorf("the overview takes %v, though the counts are old", took)
		}
	})
}

func TestChartsAreDrawnToScale(t *testing.T) {
	now := time.Date(2026, 1, 2, 12, 30, 30, 0, time.UTC)
	minute := now.Truncate(time.Minute)
	hour := time.Date(2026, 1, 2, 3, 0, 0, 0, time.UTC)
	history := []pinion.Ends{
		{At: hour, Queue: "a", Succeeded: 600},
		{At: hour, Queue: "b", Failed: 600},
		{At: minute, Queue: "a", Succeeded: 30, Failed: 10},
	}
	c := newChart("A day", sumEnds(history, now), now, 24*60)
	// The chart ends at 12:31, so 03:00 is 869 minutes behind its begin. 40 is the highest round number needed.
	if diff := cmp.Diff([]string{
		"M869 75h60v-25h-60z" + "M1439 75h1v-75h-1z",
		"M869 100h60v-25h-60z" + "M1439 100h1v-25h-1z",
		"40", "20",
		"A day: 630 done, 610 failed; at most 40 a minute.",
	}, []string{c.Done, c.Failed, c.Top, c.Middle, c.Label}); diff != "" {
		t.Errorf("chart (-want +got):\n%s", diff)
	}
	for highest, want := range map[float64]float64{0: 1, 1: 1, 1.5: 2, 3: 4, 5: 10, 11: 20, 41: 100, 1234: 2000} {
		if got := roundTop(highest); got != want {
			t.Errorf("roundTop(%v) = %v, want %v", highest, got, want)
		}
	}
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

func TestNumbersAreShownExactly(t *testing.T) {
	q := pinion.NewMemoryStorage()
	enqueue(t, q, &pinion.Job{ID: "n", Task: "t", Args: []any{int64(9007199254740993), map[string]any{"x": uint64(18446744073709551615)}}})
	body := get(t, New(q, quiet(t, Options{})), "/job/n")
	for _, want := range []string{"9007199254740993", "18446744073709551615"} {
		if !strings.Contains(body, want) {
			t.Errorf("the page does not show %s", want)
		}
	}
}

func TestReplaySaysWhatStays(t *testing.T) {
	overStorages(t, func(t *testing.T, q queue) {
		enqueue(t, q, &pinion.Job{Task: "t", Key: "k", Priority: 1})
		if err := q.DeadLetter(t.Context(), claim(t, q, 1)[0], errors.New("boom")); err != nil {
			t.Fatal(err)
		}
		bury(t, q, "t", "boom", 1)
		enqueue(t, q, &pinion.Job{Task: "t", Key: "k", RunAt: time.Now().Add(time.Hour)})
		page := New(q, quiet(t, Options{Write: true}))
		body := act(t, page, follow(t, "/dead", link(t, get(t, page, "/dead"), "replay exactly these 2")))
		wantText(t, body, "Replayed 1 dead letter.", "1 of them is still there. Another job may hold its key")
	})
}

// The errors of a program end with a line break, and an error may have no text at all.
func TestExactlyTheseAreThoseWithAnOddError(t *testing.T) {
	for _, text := range []string{"", "\n", "refused\n", "\n\nstack"} {
		t.Run(fmt.Sprintf("%q", text), func(t *testing.T) {
			overStorages(t, func(t *testing.T, q queue) {
				bury(t, q, "other", "refused", 1)
				odd := bury(t, q, "odd", text, 2)
				h := New(q, quiet(t, Options{Write: true}))
				until := url.QueryEscape(time.Now().Add(time.Hour).UTC().Format(time.RFC3339))
				wantText(t, act(t, h, "/do/delete?like="+odd[0]+"&before="+until), "Deleted 2 dead letters.")
				var left []string
				for job, err := range q.DeadLetters(t.Context(), pinion.Filter{}) {
					if err != nil {
						t.Fatal(err)
					}
					left = append(left, job.Task)
				}
				if diff := cmp.Diff([]string{"other"}, left); diff != "" {
					t.Errorf("dead letters that are left (-want +got):\n%s", diff)
				}
			})
		})
	}
}

func TestAListCountsATaskInAllItsSpellings(t *testing.T) {
	overStorages(t, func(t *testing.T, q queue) {
		for range listed {
			enqueue(t, q, pinion.NewJob("add"), pinion.NewJob("ADD"), pinion.NewJob("other"))
		}
		page := New(q, quiet(t, Options{}))
		wantText(t, get(t, page, "/jobs?status=PENDING&task=Add"), "100 of 200 pending jobs")
	})
}

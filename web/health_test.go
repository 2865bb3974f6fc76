package web

import (
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pinion-queue/pinion"
)

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
			if want == "ok" && !isOK ||
				want != "ok" && (a.status != http.StatusServiceUnavailable || !strings.Contains(a.body, want)) {
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
		wantHealth("a job that is due beside it",
			"1 job is due, and the oldest has been due for 6m: no worker is at work")
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
	inBubbles(t, func(t *testing.T, q queue) {
		page := Health(q, quiet(t, Options{MaxWait: 1}))
		wantHealth := func(want string) {
			t.Helper()
			time.Sleep(2 * time.Second) // counts are kept for a second
			a := ask(t, page, "GET", "/")
			if !strings.Contains(a.body, want) || (a.status == http.StatusOK) != (want == "ok") {
				t.Errorf("status %d, %q, want %q", a.status, a.body, want)
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

package web

import (
	"errors"
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/pinion-queue/pinion"
)

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
		wantText(t, body, "Replayed 1 dead letter.", "1 of them is still there. Another job may hold its key",
			"next run of a schedule, another follows it: reschedule that run instead")
	})
}

func TestActionsAreConfirmedAndAnsweredInWords(t *testing.T) {
	overStorages(t, func(t *testing.T, q queue) {
		bury(t, q, "broken", "connection refused", 3)
		bury(t, q, "broken", "out of cheese", 2)
		page := New(q, quiet(t, Options{Write: true}))

		list := get(t, page, "/dead")
		replay := follow(t, "/dead", link(t, list, "replay exactly these 3"))
		bury(t, q, "broken", "connection refused", 1) // after the page was made
		wantText(t, get(t, page, replay), "Replay exactly these 3?", "connection refused", "Replay 3 dead letters")
		wantText(t, act(t, page, replay), "Replayed 3 dead letters.", "2 × out of cheese", "1 × connection refused")

		enqueue(t, q, &pinion.Job{ID: "later", Task: "later", RunAt: time.Now().Add(time.Hour)})
		job := get(t, page, "/job/later")
		wantText(t, act(t, page, follow(t, "/job/later", link(t, job, "reschedule")), "at", "2h"),
			"new due time", "in 1h")
		wantText(t, act(t, page, follow(t, "/job/later", link(t, job, "cancel"))),
			"The job is canceled.", "later canceled")

		wantText(t, act(t, page, follow(t, "/", link(t, get(t, page, "/"), "pause"))),
			"Paused the queue default.", "paused")
		wantText(t, act(t, page, follow(t, "/", link(t, get(t, page, "/"), "limit")), "max", "7"),
			"At most 7 jobs of the queue default")
		wantText(t, act(t, page, follow(t, "/", link(t, get(t, page, "/"), "lift"))), "no limit any more")
		wantText(t, act(t, page, follow(t, "/dead", link(t, get(t, page, "/dead"), "delete all"))),
			"Deleted 3 dead letters.", "No dead letter matches")
	})
}

func TestActionsReachNamesWithAnyCharacters(t *testing.T) {
	overStorages(t, func(t *testing.T, q queue) {
		page := New(q, quiet(t, Options{Write: true}))
		for _, text := range hostile {
			enqueue(t, q, &pinion.Job{ID: text, Task: "a", RunAt: time.Now().Add(time.Hour), Queue: text})
			act(t, page, "/do/pause?queue="+url.QueryEscape(text))
			act(t, page, "/do/reschedule?id="+url.QueryEscape(text), "at", "1m")
			act(t, page, "/do/cancel?id="+url.QueryEscape(text))
			job, err := q.Get(t.Context(), text)
			if err != nil {
				t.Fatal(err)
			}
			if !job.Canceled || time.Until(job.RunAt) > time.Minute {
				t.Errorf("%q: canceled %v, due %v", text, job.Canceled, job.RunAt)
			}
			limits, err := q.Limits(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if most, limited := limits[text]; !limited || most != 0 {
				t.Errorf("the queue %q is not paused", text)
			}
		}
	})
}

func TestALargeFormIsRefused(t *testing.T) {
	q := pinion.NewMemoryStorage()
	enqueue(t, q, &pinion.Job{ID: "waits", Task: "t", RunAt: time.Now().Add(time.Hour)})
	page := New(q, quiet(t, Options{Write: true}))
	form := "at=now&more=" + strings.Repeat("x", 1<<20)
	a := ask(t, page, "POST", "/do/reschedule?id=waits", func(r *http.Request) {
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		r.Header.Set("Sec-Fetch-Site", "same-origin")
		r.Body = io.NopCloser(strings.NewReader(form))
	})
	job, err := q.Get(t.Context(), "waits")
	if a.status != http.StatusBadRequest || err != nil || time.Until(job.RunAt) < time.Minute {
		t.Errorf("a form of a megabyte: status %d, the job is due %v, %v", a.status, job.RunAt, err)
	}
}

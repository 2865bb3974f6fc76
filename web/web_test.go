package web

import (
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

		wantText(t, get(t, page, "/"), "Overview Jobs Running 1 Dead letters 3", "Queues", "mails 0 0 – 1 of 5", "Tasks", "broken")
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
		wantText(t, act(t, page, follow(t, "/job/later", link(t, job, "reschedule")), "at", "2h"), "new due time", "in 1h")
		wantText(t, act(t, page, follow(t, "/job/later", link(t, job, "cancel"))), "The job is canceled.", "later canceled")

		wantText(t, act(t, page, follow(t, "/", link(t, get(t, page, "/"), "pause"))), "Paused the queue default.", "paused")
		wantText(t, act(t, page, follow(t, "/", link(t, get(t, page, "/"), "limit")), "max", "7"), "At most 7 jobs of the queue default")
		wantText(t, act(t, page, follow(t, "/", link(t, get(t, page, "/"), "lift"))), "no limit any more")
		wantText(t, act(t, page, follow(t, "/dead", link(t, get(t, page, "/dead"), "delete all"))), "Deleted 3 dead letters.", "No dead letter matches")
	})
}

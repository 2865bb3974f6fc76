package web

import (
	"strings"
	"testing"
	"time"

	"github.com/pinion-queue/pinion"
)

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
		wantText(t, body, "these queues are paused: stopped", "stopped 0 0 – 0 0 0 paused", "Periodic jobs",
			"nightly report waits in 10h")
		if strings.Contains(body, "periodical") {
			t.Error("a job with another key is listed as periodic")
		}
	})
}

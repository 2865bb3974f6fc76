package cli

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/pinion-queue/pinion"
)

const rescheduleDetail = `
Only a pending job has a due time that can change, also one that waits for a retry.
--delay 0 makes it due now. --at takes "15:04", which is today or tomorrow,
"2026-01-31 15:04" on the local clock, or RFC 3339.

The exit status is 1 if a job was not found or is not pending.
`

const rescheduleExamples = `pinion reschedule 0199c2b4a1f07000b3c1d2e3f4a5b6c9 --delay 0 --db q.db
pinion reschedule 0199c2b4a1f07000b3c1d2e3f4a5b6c9 --at 23:30 --db q.db`

// rescheduling is the result of rescheduling a job.
type rescheduling struct {
	ID     string        `json:"id"`
	Status pinion.Status `json:"status,omitempty"` // empty: the job was not found
	RunAt  time.Time     `json:"run_at,omitzero"`  // zero: now, or the job is not pending
}

func reschedule(c *call) func(context.Context) error {
	c.storageFlags()
	c.jsonFlag()
	delay := time.Duration(-1)
	var at time.Time
	c.durationFlag(&delay, "delay", "they are due after this `TIME`; 0 is now")
	c.timeFlag(&at, "at", "they are due at this `MOMENT`, \"15:04\" or RFC 3339")
	return func(ctx context.Context) error {
		if delay < 0 && at.IsZero() {
			return usagef("--delay or --at is missing; --delay 0 makes the jobs due now")
		}
		if delay >= 0 && !at.IsZero() {
			return usagef("--delay and --at contradict each other; give one of them")
		}
		if delay > 0 {
			at = time.Now().Add(delay)
		}
		return c.inspect(ctx, changes, func(storage pinion.Inspector) error {
			return c.rescheduleJobs(ctx, storage, at)
		})
	}
}

// rescheduleJobs makes each job of the operands due at a time, zero being now.
func (c *call) rescheduleJobs(ctx context.Context, storage pinion.Inspector, at time.Time) error {
	t := c.newTable("ID", "OUTCOME")
	failed := 0
	for _, id := range c.operands {
		n, err := storage.Reschedule(ctx, pinion.Filter{IDs: []string{id}}, at)
		if err != nil {
			return err
		}
		result, outcome := rescheduling{id, pinion.StatusPending, at}, "due now"
		if !at.IsZero() {
			outcome = "due " + timestamp(at)
		}
		if n == 0 {
			failed++
			result, outcome, err = notRescheduled(ctx, storage, id)
			if err != nil {
				return err
			}
		}
		if !c.json {
			t.add(id, outcome)
		} else if err := c.encode(result); err != nil {
			return err
		}
	}
	if !c.json {
		c.print(t)
	}
	if failed > 0 {
		return fmt.Errorf("%d of %d jobs could not be rescheduled; `pinion pending` lists those that can",
			failed, len(c.operands))
	}
	return nil
}

// notRescheduled finds out why a job could not be rescheduled.
func notRescheduled(
	ctx context.Context, storage pinion.Inspector, id string,
) (result rescheduling, outcome string, err error) {
	job, err := findJob(ctx, storage, id)
	if errors.Is(err, pinion.ErrNotFound) {
		return rescheduling{ID: id}, outcomeNotFound, nil
	}
	if err != nil {
		return rescheduling{}, "", err
	}
	return rescheduling{ID: id, Status: job.Status}, "not pending: " + string(job.Status), nil
}

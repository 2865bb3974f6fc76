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
--delay 0 makes it due now. "pinion help times" explains what --at takes.

Without an ID, flags choose the jobs. Without --yes it then asks on a terminal;
elsewhere it only says how many it would reschedule.

The exit status is 1 if a job was not found or is not pending.
`

const rescheduleExamples = `# Now, and tonight.
pinion reschedule 0199c2b4a1f07000b3c1d2e3f4a5b6c9 --delay 0 --db q.db
pinion reschedule 0199c2b4a1f07000b3c1d2e3f4a5b6c9 --at 23:30 --db q.db
# What waits for a retry because of a timeout.
pinion reschedule --task public --error timeout --delay 0 --yes --db q.db`

// rescheduling is the result of rescheduling a job.
type rescheduling struct {
	ID     string        `json:"id"`
	Status pinion.Status `json:"status,omitempty"` // empty: the job was not found
	RunAt  time.Time     `json:"run_at,omitzero"`  // zero: now, or the job is not pending
}

func reschedule(c *call) func(context.Context) error {
	ch := c.choiceFlags()
	c.jsonFlag()
	delay := time.Duration(-1)
	var at time.Time
	c.durationFlag(&delay, "delay", "they are due after this `TIME`; 0 is now")
	c.timeFlag(&at, "at", false, "they are due at this `MOMENT`, \"15:04\" or \"2026-01-31 15:04\"")
	return func(ctx context.Context) error {
		if delay < 0 && at.IsZero() {
			return usagef("--delay or --at is missing; --delay 0 makes the jobs due now")
		}
		if delay >= 0 && !at.IsZero() {
			return usagef("--delay and --at contradict each other; give one of them")
		}
		if err := ch.check(); err != nil {
			return err
		}
		if delay > 0 {
			at = time.Now().Add(delay)
		}
		return c.change(ctx, func(ctx context.Context, storage pinion.Inspector) error {
			if len(c.operands) > 0 {
				return c.rescheduleJobs(ctx, storage, at)
			}
			return ch.reschedule(ctx, storage, at)
		})
	}
}

// reschedule makes the jobs that flags choose due at a time, zero being now.
func (ch *choice) reschedule(ctx context.Context, storage pinion.Inspector, at time.Time) error {
	ch.settle()
	n, err := countJobs(ctx, storage, *ch.filter, pinion.StatusPending)
	if err != nil {
		return err
	}
	if err := ch.agree(ctx, ch.yes, n, "job", "reschedules", "rescheduled"); err != nil {
		return err
	}
	n, err = storage.Reschedule(ctx, *ch.filter, at)
	if err != nil {
		return incomplete(ctx, err, are(n, "job"), "rescheduled")
	}
	ch.did("%s rescheduled", are(n, "job"))
	if ch.json {
		return ch.encode(map[string]int{"rescheduled": n})
	}
	due := "now"
	if !at.IsZero() {
		due = timestamp(at)
	}
	fmt.Fprintf(ch.stdout, "rescheduled %s, due %s\n", thousands(n), due)
	return nil
}

// rescheduleJobs makes each job of the operands due at a time, zero being now.
func (c *call) rescheduleJobs(ctx context.Context, storage pinion.Inspector, at time.Time) error {
	t := c.newTable("ID", "OUTCOME")
	n := 0
	for _, id := range c.operands {
		result, outcome, err := rescheduleOne(ctx, storage, id, at)
		if err != nil {
			return incomplete(ctx, err, are(n, "job"), "rescheduled")
		}
		if result.Status == pinion.StatusPending {
			n++
			c.did("%s rescheduled", are(n, "job"))
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
	if n < len(c.operands) {
		return fmt.Errorf("%d of %d jobs could not be rescheduled; `pinion pending` lists those that can",
			len(c.operands)-n, len(c.operands))
	}
	return nil
}

// rescheduleOne makes a job due at a time, if it is pending. It returns the outcome, also in words.
func rescheduleOne(
	ctx context.Context, storage pinion.Inspector, id string, at time.Time,
) (result rescheduling, outcome string, err error) {
	n, err := storage.Reschedule(ctx, pinion.Filter{IDs: []string{id}}, at)
	if err != nil {
		return rescheduling{}, "", err
	}
	if n == 0 {
		return notRescheduled(ctx, storage, id)
	}
	if at.IsZero() {
		return rescheduling{ID: id, Status: pinion.StatusPending}, "due now", nil
	}
	return rescheduling{id, pinion.StatusPending, at}, "due " + timestamp(at), nil
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

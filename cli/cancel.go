package cli

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/pinion-queue/pinion"
)

const cancelDetail = `
A pending job ends at once. The worker of a running job cancels it within a second:
it cancels the context of a Go task, and stops a program of --exec. If the task
succeeds all the same, the job is a success. Otherwise it ends as canceled as soon
as its worker, or the one that takes over from a dead worker, records that.
A canceled job is FAILED. It is not retried and is not a dead letter.

Without an ID, flags choose the jobs. Without --yes it then asks on a terminal;
elsewhere it only says how many it would cancel. Jobs that are added after that are
not among them.

The exit status is 1 if a job was not found or had already ended.
`

const cancelExamples = `# One job.
pinion cancel 0199c2b4a1f07000b3c1d2e3f4a5b6c9 --db q.db
# The mails of this morning that have not been sent.
pinion cancel --task mail --status pending --since 9:00 --yes --db q.db`

// Outcomes of a cancellation.
const (
	outcomeCanceled  = "canceled"
	outcomeCanceling = "canceling"
	outcomeEnded     = "ended already"
	outcomeNotFound  = "not found"
)

// cancellation is the result of canceling a job.
type cancellation struct {
	ID      string        `json:"id"`
	Outcome string        `json:"outcome"`
	Status  pinion.Status `json:"status,omitempty"`
	Worker  string        `json:"worker,omitempty"` // the one that cancels the job
}

func cancel(c *call) func(context.Context) error {
	ch := c.choiceFlags()
	c.statusFlag(ch.filter, pinion.StatusPending, pinion.StatusRunning)
	c.jsonFlag()
	return func(ctx context.Context) error {
		if err := ch.check(); err != nil {
			return err
		}
		return c.change(ctx, func(ctx context.Context, storage pinion.Inspector) error {
			if len(c.operands) > 0 {
				return c.cancelJobs(ctx, storage)
			}
			return ch.cancel(ctx, storage)
		})
	}
}

// cancel cancels the jobs that flags choose.
func (ch *choice) cancel(ctx context.Context, storage pinion.Inspector) error {
	ch.settle()
	n, err := countJobs(ctx, storage, *ch.filter, pinion.StatusPending, pinion.StatusRunning)
	if err != nil {
		return err
	}
	if err := ch.agree(ctx, ch.yes, n, "job", "cancels", "canceled"); err != nil {
		return err
	}
	canceled, canceling, err := storage.CancelWhere(ctx, *ch.filter)
	if err != nil {
		return incomplete(ctx, err, are(canceled+canceling, "job"), "canceled")
	}
	ch.did("%s canceled", are(canceled+canceling, "job"))
	if ch.json {
		return ch.encode(map[string]int{outcomeCanceled: canceled, outcomeCanceling: canceling})
	}
	fmt.Fprintf(ch.stdout, "canceled %s", thousands(canceled))
	if canceling > 0 {
		fmt.Fprintf(ch.stdout, ", canceling %s that workers run", thousands(canceling))
	}
	fmt.Fprintln(ch.stdout)
	return nil
}

func (c *call) cancelJobs(ctx context.Context, storage pinion.Inspector) error {
	canceler, ok := storage.(pinion.Canceler)
	if !ok {
		return fmt.Errorf("%T is not a pinion.Canceler, so its jobs cannot be canceled: %w",
			storage, errors.ErrUnsupported)
	}
	ended, canceling, err := canceler.Cancel(ctx, c.operands...)
	if err != nil {
		return err
	}
	c.did("%s canceled", are(len(ended)+len(canceling), "job"))
	t := c.newTable("ID", "OUTCOME")
	failed := 0
	for _, id := range c.operands {
		result, err := findCancellation(ctx, storage, id, ended, canceling)
		if err != nil {
			return err
		}
		if result.Outcome == outcomeNotFound || result.Outcome == outcomeEnded {
			failed++
		}
		if c.json {
			if err := c.encode(result); err != nil {
				return err
			}
		} else {
			t.add(id, result.text())
		}
	}
	if !c.json {
		c.print(t)
	}
	if failed > 0 {
		return fmt.Errorf("%d of %d jobs could not be canceled; "+
			"`pinion pending` and `pinion running` list those that can", failed, len(c.operands))
	}
	return nil
}

// findCancellation finds out how the cancellation of a job has ended. Ended are the jobs that Cancel has
// ended, canceling those that their workers cancel.
func findCancellation(
	ctx context.Context, storage pinion.Inspector, id string, ended, canceling []string,
) (cancellation, error) {
	if slices.Contains(ended, id) {
		return cancellation{id, outcomeCanceled, pinion.StatusFailed, ""}, nil
	}
	job, err := storage.Get(ctx, id)
	if errors.Is(err, pinion.ErrNotFound) {
		return cancellation{ID: id, Outcome: outcomeNotFound}, nil
	}
	if err != nil {
		return cancellation{}, err
	}
	if slices.Contains(canceling, id) {
		if job.Status == pinion.StatusRunning {
			return cancellation{id, outcomeCanceling, job.Status, job.Worker}, nil
		}
		if job.Status == pinion.StatusFailed && job.Canceled { // its worker was quick
			return cancellation{id, outcomeCanceled, job.Status, ""}, nil
		}
	}
	return cancellation{id, outcomeEnded, job.Status, ""}, nil
}

func (c cancellation) text() string {
	if c.Worker != "" {
		return c.Outcome + " by " + c.Worker
	}
	if c.Outcome == outcomeEnded {
		return c.Outcome + ": " + string(c.Status)
	}
	return c.Outcome
}

const pruneDetail = `
These are the jobs in SUCCESS, and FAILED jobs that are not dead letters. Workers do
the same with jobs that finished more than a day ago. Other flags than --older-than
choose among them; --since and --before are then about when the jobs finished, and
without --yes it asks on a terminal.
`

const pruneExamples = `# What finished before yesterday.
pinion prune --older-than 24h --db q.db
# What a task has finished.
pinion prune --status success --task mail --yes --db q.db`

func prune(c *call) func(context.Context) error {
	filter := c.filterFlags()
	c.logsFlag()
	c.statusFlag(filter, pinion.StatusSuccess, pinion.StatusFailed)
	yes := c.flags.Bool("yes", false, "with flags that choose jobs, do not ask")
	age := time.Duration(-1)
	c.durationFlag(&age, "older-than", "jobs that finished at least this `TIME` ago")
	return func(ctx context.Context) error {
		chosen := isFiltered(filter)
		if age < 0 && !chosen {
			return usagef("--older-than is missing; write it as in --older-than 24h")
		}
		if age >= 0 && !filter.Before.IsZero() {
			return usagef("--older-than and --before contradict each other; give one of them")
		}
		if filter.Before.IsZero() {
			filter.Before = time.Now().Add(-max(age, 0))
		}
		return c.change(ctx, func(ctx context.Context, storage pinion.Inspector) error {
			if chosen {
				n, err := countFinished(ctx, storage, *filter)
				if err != nil {
					return err
				}
				if err := c.agree(ctx, *yes, n, "job", "deletes", "deleted"); err != nil {
					return err
				}
			}
			n, err := storage.PruneWhere(ctx, *filter)
			if err := c.reportChange(ctx, err, n, "job", "pruned"); err != nil {
				return err
			}
			return c.sweepAfter(ctx, storage)
		})
	}
}

// countFinished counts the jobs that a prune would delete. Its filter is about when they finished, that of a
// listing about when they were added.
func countFinished(ctx context.Context, storage pinion.Inspector, f pinion.Filter) (n int, err error) {
	after, before, most := f.After, f.Before, f.Limit
	f.After, f.Before, f.Limit = time.Time{}, time.Time{}, 0
	letters := make(map[string]bool) // they stay
	for job, err := range storage.DeadLetters(ctx, f) {
		if err != nil {
			return 0, err
		}
		letters[job.ID] = true
	}
	statuses := []pinion.Status{pinion.StatusSuccess, pinion.StatusFailed}
	if f.Status != "" {
		statuses = []pinion.Status{f.Status}
	}
	for _, f.Status = range statuses {
		for job, err := range storage.Jobs(ctx, f) {
			if err != nil {
				return 0, err
			}
			at := finishedAt(job)
			if !letters[job.ID] && !at.Before(after) && at.Before(before) {
				n++
			}
		}
	}
	if most > 0 {
		n = min(n, most)
	}
	return n, nil
}

// finishedAt returns when a job finished or, where that was not recorded, when it was last alive.
func finishedAt(job *pinion.Job) time.Time {
	for _, at := range []time.Time{job.FinishedAt, job.HeartbeatAt} {
		if !at.IsZero() {
			return at
		}
	}
	return job.CreatedAt
}

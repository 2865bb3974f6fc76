package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/pinion-queue/pinion"
)

const runningDetail = `
FOR is how long a job has been running, and WORKER the host and process that runs
it, or the name of that worker.
`

const (
	runningExamples = `pinion running --db q.db --queue mail`
	pendingExamples = `pinion pending --db q.db --limit 20`
	showExamples    = `pinion show 0199c2b4a1f07000b3c1d2e3f4a5b6c7 --db q.db`
)

func running(c *call) func(context.Context) error {
	columns := []string{"ID", "TASK", "QUEUE", "WORKER", "FOR", "HEARTBEAT", "ATTEMPT", "ARGUMENTS"}
	return c.listStatus(pinion.StatusRunning, columns, func(job *pinion.Job) []string {
		return []string{
			clip(job.ID, 64), clip(job.Task, 60), clip(job.Queue, 60), clip(workerOf(job), 60), runningFor(job),
			ago(job.HeartbeatAt), strconv.Itoa(job.Attempts), clip(arguments(job), 60),
		}
	})
}

func pending(c *call) func(context.Context) error {
	columns := []string{"ID", "TASK", "QUEUE", "PRIORITY", "ADDED", "ATTEMPTS", "DUE", "ARGUMENTS"}
	return c.listStatus(pinion.StatusPending, columns, func(job *pinion.Job) []string {
		due := "now"
		if job.RunAt.After(time.Now()) {
			due = ago(job.RunAt)
		}
		return []string{
			clip(job.ID, 64), clip(job.Task, 60), clip(job.Queue, 60), strconv.Itoa(job.Priority),
			ago(job.CreatedAt), strconv.Itoa(job.Attempts), due, clip(arguments(job), 60),
		}
	})
}

// listStatus is a command that lists the jobs of a status.
func (c *call) listStatus(
	status pinion.Status, columns []string, cells func(*pinion.Job) []string,
) func(context.Context) error {
	filter := c.filterFlags()
	c.flags.StringVar(&filter.Queue, "queue", "", "only jobs of the queue `NAME`")
	c.jsonFlag()
	return func(ctx context.Context) error {
		filter.Status = status
		return c.inspect(ctx, reads, func(storage pinion.Inspector) error {
			return c.printJobs(storage.Jobs(ctx, *filter), columns, cells)
		})
	}
}

// filterFlags declares flags that choose jobs.
func (c *call) filterFlags() *pinion.Filter {
	filter := new(pinion.Filter)
	c.storageFlags()
	c.flags.StringVar(&filter.Task, "task", "", "only jobs of the task `NAME`")
	c.countFlag(&filter.Limit, "limit", 0, "at most `N` jobs, the oldest; 0 is no limit [0]")
	return filter
}

// printJobs prints a row for each job, or its JSON.
func (c *call) printJobs(
	jobs iter.Seq2[*pinion.Job, error], columns []string, cells func(*pinion.Job) []string,
) error {
	if c.json {
		for job, err := range jobs {
			if err != nil {
				return err
			}
			if err := c.encode(job); err != nil {
				return err
			}
		}
		return nil
	}
	t := c.newTable(columns...)
	n := 0
	for job, err := range jobs {
		if err != nil {
			if n > 0 {
				c.print(t)
			}
			return err
		}
		t.add(cells(job)...)
		n++
		if n%1000 == 0 { // the table keeps them in memory until then
			c.print(t)
		}
	}
	if n == 0 {
		fmt.Fprintln(c.stderr, "pinion: no jobs")
		return nil
	}
	c.print(t)
	return nil
}

// workerOf returns the worker of a running job, and whether it has been told to cancel the job.
func workerOf(job *pinion.Job) string {
	if job.Canceled {
		return cmp.Or(job.Worker, "-") + ", canceling"
	}
	return job.Worker
}

// claimedAt returns when a job was claimed, or the zero time if that is not known. The storages of Pinion
// number their claims by the microsecond. Another storage may not; then the number is seldom between the
// job's other times.
func claimedAt(job *pinion.Job) time.Time {
	at := time.UnixMicro(job.Claim)
	if at.Before(job.CreatedAt) || at.After(job.HeartbeatAt) {
		return time.Time{}
	}
	return at
}

func runningFor(job *pinion.Job) string {
	at := claimedAt(job)
	if at.IsZero() {
		return ""
	}
	return rough(time.Since(at))
}

func show(c *call) func(context.Context) error {
	c.storageFlags()
	c.jsonFlag()
	return func(ctx context.Context) error {
		return c.inspect(ctx, reads, func(storage pinion.Inspector) error {
			job, err := findJob(ctx, storage, c.operands[0])
			if err != nil {
				return err
			}
			if c.json {
				return c.encode(job)
			}
			return c.printJob(job)
		})
	}
}

// findJob finds a job, also among the dead letters: a Python process may have left nothing else of it.
func findJob(ctx context.Context, storage pinion.Inspector, id string) (*pinion.Job, error) {
	job, err := storage.Get(ctx, id)
	if !errors.Is(err, pinion.ErrNotFound) {
		return job, err
	}
	for letter, letterErr := range storage.DeadLetters(ctx, pinion.Filter{IDs: []string{id}}) {
		return letter, letterErr
	}
	return nil, err
}

// printJob prints everything about a job.
func (c *call) printJob(job *pinion.Job) error {
	worker := job.Worker
	if job.Status == pinion.StatusRunning {
		worker = workerOf(job)
	}
	due := job.RunAt
	if job.Status != pinion.StatusPending { // it was due then, or never will be
		due = time.Time{}
	}
	w := c.tabbed()
	row(w, "id", job.ID)
	row(w, "task", job.Task)
	row(w, "arguments", arguments(job))
	row(w, "queue", job.Queue)
	row(w, "priority", strconv.Itoa(job.Priority))
	row(w, "key", job.Key)
	name := "meta"
	for _, key := range slices.Sorted(maps.Keys(job.Meta)) {
		if key != metaDir {
			row(w, name, key+"="+job.Meta[key])
			name = " "
		}
	}
	if dir := job.Meta[metaDir]; dir != "" {
		row(w, "directory", dir)
	}
	row(w, "status", string(job.Status))
	row(w, "attempts", strconv.Itoa(job.Attempts))
	row(w, "worker", worker)
	row(w, "added", timestamp(job.CreatedAt))
	row(w, "due", timestamp(due))
	if at := claimedAt(job); !at.IsZero() {
		row(w, "claimed", timestamp(at))
	}
	if !job.StartedAt.IsZero() {
		row(w, "started", timestamp(job.StartedAt))
	}
	row(w, "heartbeat", timestamp(job.HeartbeatAt))
	row(w, "finished", timestamp(job.FinishedAt))
	row(w, resultName(job), string(job.Result))
	printError(w, errorName(job), job.Error)
	return w.Flush()
}

// resultName returns what a job's Result is: a running task may replace it.
func resultName(job *pinion.Job) string {
	if job.Status == pinion.StatusRunning && job.Result != nil {
		return "progress"
	}
	return "result"
}

// errorName returns what a job's Error is: one that a retry has followed is not how the job stands.
func errorName(job *pinion.Job) string {
	if job.Error != "" && (job.Status == pinion.StatusSuccess || job.Status == pinion.StatusRunning) {
		return "earlier error"
	}
	return "error"
}

// printError prints an error of several lines, such as a panic with its stack, below each other.
func printError(w io.Writer, name, text string) {
	for line := range strings.Lines(cmp.Or(text, "-")) {
		line = strings.ReplaceAll(strings.TrimSuffix(line, "\n"), "\t", "  ")
		fmt.Fprintf(w, "%s\t%s\n", name, printable(line, ""))
		name = ""
	}
}

const cancelDetail = `
A pending job ends at once. The worker of a running job cancels it within a second:
it cancels the context of a Go task, and stops a program of --exec. If the task
succeeds all the same, the job is a success. Otherwise it ends as canceled as soon
as its worker, or the one that takes over from a dead worker, records that.
A canceled job is FAILED. It is not retried and is not a dead letter.

The exit status is 1 if a job was not found or had already ended.
`

const cancelExamples = `pinion cancel 0199c2b4a1f07000b3c1d2e3f4a5b6c9 --db q.db
pinion pending --task mail --json --db q.db | jq -r .id | xargs -r pinion cancel --db q.db`

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
	c.storageFlags()
	c.jsonFlag()
	return func(ctx context.Context) error {
		return c.inspect(ctx, changes, func(storage pinion.Inspector) error {
			return c.cancelJobs(ctx, storage)
		})
	}
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
These are the jobs in SUCCESS, and FAILED jobs whose dead letter was purged.
Workers do the same with jobs that finished more than a day ago.
`

const pruneExamples = `pinion prune --older-than 24h --db q.db`

func prune(c *call) func(context.Context) error {
	c.storageFlags()
	c.logsFlag()
	age := time.Duration(-1)
	c.durationFlag(&age, "older-than", "jobs that finished at least this `TIME` ago")
	return func(ctx context.Context) error {
		if age < 0 {
			return usagef("--older-than is missing; write it as in --older-than 24h")
		}
		return c.inspect(ctx, changes, func(storage pinion.Inspector) error {
			n, err := storage.Prune(ctx, time.Now().Add(-age))
			if err != nil {
				return err
			}
			fmt.Fprintf(c.stdout, "pruned %s\n", thousands(n))
			return c.sweepAfter(ctx, storage)
		})
	}
}

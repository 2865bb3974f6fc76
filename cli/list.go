package cli

import (
	"context"
	"fmt"
	"iter"
	"strconv"
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
)

const listDetail = `
It lists jobs of any status. A job stays in the list for a day after it has ended,
and a dead letter until it is replayed or purged. ENDED is when it ended, and ERROR
that of its last attempt, if that failed.
`

const listExamples = `# The last 50.
pinion list --db q.db
# What failed lately.
pinion list --status failed --task mail --since 2h --db q.db
# For a program.
pinion list --json --db q.db | jq -r 'select(.attempts > 3) | .id'`

func running(c *call) func(context.Context) error {
	columns := []string{"ID", "TASK", "QUEUE", "WORKER", "FOR", "HEARTBEAT", "ATTEMPT", "ARGUMENTS"}
	return c.listStatus(pinion.StatusRunning, columns, func(job *pinion.Job) []string {
		return []string{
			job.ID, job.Task, job.Queue, workerOf(job), runningFor(job),
			ago(job.HeartbeatAt), strconv.Itoa(job.Attempts), clip(arguments(job), longestArguments),
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
			job.ID, job.Task, job.Queue, strconv.Itoa(job.Priority),
			ago(job.CreatedAt), strconv.Itoa(job.Attempts), due, clip(arguments(job), longestArguments),
		}
	})
}

// list is `pinion list`.
func list(c *call) func(context.Context) error {
	filter := c.filterFlags()
	filter.Newest = true
	filter.Limit = -1 // not given
	c.statusFlag(filter, pinion.StatusPending, pinion.StatusRunning, pinion.StatusSuccess, pinion.StatusFailed)
	c.jsonFlag()
	columns := []string{"ID", "TASK", "QUEUE", "STATUS", "ADDED", "ENDED", "ATTEMPTS", "ARGUMENTS", "ERROR"}
	return func(ctx context.Context) error {
		isPage := filter.Limit < 0 && !c.json
		switch {
		case isPage:
			filter.Limit = pageSize + 1 // to see whether there are more
		case filter.Limit < 0:
			filter.Limit = 0
		}
		return c.inspect(ctx, reads, func(storage pinion.Inspector) error {
			jobs := storage.Jobs(ctx, *filter)
			if isPage {
				jobs = c.firstPage(jobs)
			}
			return c.printJobs(jobs, columns, func(job *pinion.Job) []string {
				failure := job.Error
				if errorName(job) != "error" {
					failure = "" // of an earlier attempt
				}
				return []string{
					job.ID, job.Task, job.Queue, statusOf(job), ago(job.CreatedAt), ago(job.FinishedAt),
					strconv.Itoa(job.Attempts), clip(arguments(job), longestArguments), c.brief(failure),
				}
			})
		})
	}
}

// longestArguments is how many characters of the arguments a table shows; --json has them whole.
const longestArguments = 1000

// pageSize is how many jobs list prints in a table, unless --limit says otherwise.
const pageSize = 50

// statusOf returns the status of a job in a word. Canceled jobs are FAILED too, but nobody needs to look into
// them.
func statusOf(job *pinion.Job) string {
	if job.Canceled && job.Status == pinion.StatusFailed {
		return "CANCELED"
	}
	return string(job.Status)
}

// firstPage ends a listing after a page, and says so if there are more.
func (c *call) firstPage(jobs iter.Seq2[*pinion.Job, error]) iter.Seq2[*pinion.Job, error] {
	return func(yield func(*pinion.Job, error) bool) {
		n := 0
		for job, err := range jobs {
			if err == nil && n == pageSize {
				fmt.Fprintf(c.stderr, "pinion: these are the newest %d; --limit 0 lists all\n", pageSize)
				return
			}
			if !yield(job, err) {
				return
			}
			n++
		}
	}
}

// listStatus is a command that lists the jobs of a status.
func (c *call) listStatus(
	status pinion.Status, columns []string, cells func(*pinion.Job) []string,
) func(context.Context) error {
	filter := c.filterFlags()
	c.jsonFlag()
	return func(ctx context.Context) error {
		filter.Status = status
		return c.inspect(ctx, reads, func(storage pinion.Inspector) error {
			return c.printJobs(storage.Jobs(ctx, *filter), columns, cells)
		})
	}
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
		if n%1000 == 0 || t.size > 1<<20 { // the table keeps them in memory until then
			c.print(t)
			if err := c.stdout.Flush(); err != nil {
				return err
			}
		}
	}
	if n == 0 {
		fmt.Fprintln(c.stderr, "pinion: no jobs")
		return nil
	}
	c.print(t)
	return nil
}

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

const showExamples = `# A job, by its id or the end of that.
pinion show 0199c2b4a1f07000b3c1d2e3f4a5b6c7 --db q.db
pinion show f4a5b6c7 --db q.db`

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
			job, err := findJobByEnd(ctx, storage, c.operands[0])
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

// idEnd matches what people type for an id: its last eight digits. The first ones are the time.
var idEnd = lazy(`^[0-9a-f]{8}$`)

// findJobByEnd finds a job by its id or by the last eight digits of that, for commands that change nothing.
func findJobByEnd(ctx context.Context, storage pinion.Inspector, id string) (*pinion.Job, error) {
	job, err := findJob(ctx, storage, id)
	if !errors.Is(err, pinion.ErrNotFound) || !idEnd().MatchString(id) {
		return job, err
	}
	found := make(map[string]*pinion.Job)
	all := []iter.Seq2[*pinion.Job, error]{
		storage.Jobs(ctx, pinion.Filter{}),
		storage.DeadLetters(ctx, pinion.Filter{}), // a Python process may have left nothing else of a job
	}
	for _, jobs := range all {
		for job, err := range jobs {
			if err != nil {
				return nil, err
			}
			if strings.HasSuffix(job.ID, id) && found[job.ID] == nil {
				found[job.ID] = job
			}
		}
	}
	ids := slices.Sorted(maps.Keys(found))
	switch len(ids) {
	case 0:
		return nil, err
	case 1:
		return found[ids[0]], nil
	}
	return nil, &ambiguousError{id, ids}
}

// ambiguousError reports the end of several ids.
type ambiguousError struct {
	end string
	ids []string
}

func (e *ambiguousError) Error() string {
	return fmt.Sprintf("%s jobs have an id that ends in %s; write the whole id: %s",
		thousands(len(e.ids)), e.end, firstFew(e.ids))
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
	row(w, resultName(job), readableJSON(string(job.Result)))
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

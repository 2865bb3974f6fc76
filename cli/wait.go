package cli

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/pinion-queue/pinion"
)

const waitDetail = `
For a single job it prints only the result: as text if it is a string, else as JSON,
and nothing if there is none. For several jobs it prints a line each, in the order of
the IDs, with the id, the status, and the result as JSON or the error. With --json it
prints each job as "pinion show" does. Standard error shows when a job started, and
its progress: what its task records while it runs.

A dead letter has ended; one that is replayed before wait looks at it has not.
--timeout 0 only looks. An ID may be the last eight digits of one, if no other job's
id ends so.

  exit status 0  all jobs ended in SUCCESS
              4  a job had not ended when the timeout was over
              3  a job failed for good or was canceled
              1  a job was not found, or waiting failed

If several hold, the exit status is the first of these. ^C ends the waiting, not the
jobs, and a script that waits ends too.
`

const waitExamples = `# Print the result, and give up after five minutes.
pinion wait --timeout 5m 0199c2b4a1f07000b3c1d2e3f4a5b6c8 --db q.db`

// The exit statuses of wait, beside 0 and 1.
const (
	statusFailed     exitStatus = 3 // a job failed or was canceled
	statusUnfinished exitStatus = 4 // a job did not end in time
)

func wait(c *call) func(context.Context) error {
	c.storageFlags()
	c.jsonFlag()
	timeout := time.Duration(-1)
	c.durationFlag(&timeout, "timeout", "wait no longer than this `TIME` [for ever]")
	return func(ctx context.Context) error {
		return c.inspect(ctx, reads, func(storage pinion.Inspector) error {
			return c.waitFor(ctx, storage, c.operands, len(c.operands) > 1, timeout)
		})
	}
}

// waiting is a wait for jobs.
type waiting struct {
	*call
	storage pinion.Inspector
	ids     []string
	rows    bool            // print a row for each job, not the result of the only one
	timeout time.Duration   // negative: none
	inTime  context.Context // ends with the timeout; jobs that have ended are then still reported

	failed, unknown, unfinished, cut int
}

// waitFor waits for jobs, one after the other, because most that follow have ended by the time the first has.
// It prints a row for each, or the result of the only one. A negative timeout is none.
func (c *call) waitFor(
	ctx context.Context, storage pinion.Inspector, ids []string, rows bool, timeout time.Duration,
) error {
	ctx, stop := untilSignal(ctx)
	defer stop()
	w := &waiting{call: c, storage: storage, rows: rows, timeout: timeout, inTime: ctx}
	if timeout >= 0 {
		var cancel context.CancelFunc
		w.inTime, cancel = context.WithTimeout(ctx, timeout)
		defer cancel()
	}
	if isTerminal(c.stderr) {
		notice := time.AfterFunc(noticeAfter, func() {
			fmt.Fprintln(c.stderr, "pinion: still waiting; ^C ends the waiting but not the job")
		})
		defer notice.Stop()
	}
	err := w.findAll(ctx, ids)
	if err != nil {
		return signalOr(ctx, err)
	}
	for i, id := range w.ids {
		err := w.waitForOne(ctx, id)
		if ended, ok := errors.AsType[*signalError](context.Cause(ctx)); ok && err != nil {
			rest := w.ids[i:]
			return fmt.Errorf("%w; the jobs go on; to wait again: pinion wait %s", ended, firstWords(rest))
		}
		if err != nil {
			return err
		}
	}
	return w.end(len(ids))
}

// firstWords returns some words of a line, with an ellipsis if there are more.
func firstWords(words []string) string {
	const maxWords = 3
	if len(words) > maxWords {
		return strings.Join(words[:maxWords], " ") + " …"
	}
	return strings.Join(words, " ")
}

// waitForOne waits for a job and prints how it has ended, or that it has not.
func (w *waiting) waitForOne(ctx context.Context, id string) error {
	job, err := w.waitForEnd(ctx, id)
	switch {
	case errors.Is(err, pinion.ErrNotFound):
		w.unknown++
		fmt.Fprintf(w.stderr, "pinion: job %s has ended, but it was pruned before wait looked at it; "+
			"`pinion worker` keeps finished jobs for a day\n", printable(id, ""))
		return nil
	case errors.Is(err, errTimeout):
		w.unfinished++
		return w.printUnfinished(job)
	case err != nil:
		return err
	}
	if job.Status != pinion.StatusSuccess {
		w.failed++
	} else if wasCut(job.Result) {
		w.cut++
	}
	return w.printEnd(job, w.rows)
}

// end sums up, and returns the exit status as an error.
func (w *waiting) end(all int) error {
	if w.rows && w.unfinished > 0 {
		fmt.Fprintf(w.stderr, "pinion: the timeout of %s is over, and %d of %s did not end; "+
			"`pinion status` shows whether a worker runs jobs\n", w.timeout, w.unfinished, plural(all, "job"))
	}
	if w.rows && w.failed+w.unknown > 0 {
		fmt.Fprintf(w.stderr, "pinion: %d of %s did not succeed; "+
			"`pinion show ID` shows why, `pinion dlq-replay ID` tries again\n", w.failed+w.unknown, plural(all, "job"))
	}
	switch {
	case w.unfinished > 0:
		return statusUnfinished
	case w.failed > 0:
		return statusFailed
	case w.unknown > 0:
		return errReported
	}
	if w.cut > 0 {
		return errCut
	}
	return nil
}

// errCut is the error of a wait for jobs that succeeded with a result that is not whole.
var errCut = fmt.Errorf("a result was cut off after %d KiB; let the program write to a file, "+
	"or start the worker with --logs, which keeps more", resultLimit>>10)

// findAll looks at all jobs once, so that a mistyped id is reported now and not after the wait for those
// before it. If it is the only id, it is an error.
func (w *waiting) findAll(ctx context.Context, ids []string) error {
	for _, id := range ids {
		job, err := findJobByEnd(ctx, w.storage, id)
		_, isAmbiguous := errors.AsType[*ambiguousError](err)
		isUnknown := isAmbiguous || errors.Is(err, pinion.ErrNotFound)
		if err == nil {
			w.ids = append(w.ids, job.ID)
			continue
		}
		if !isUnknown || !w.rows {
			return err
		}
		w.unknown++
		fmt.Fprintf(w.stderr, "pinion: %s\n", printable(strings.TrimPrefix(err.Error(), "pinion: "), ""))
	}
	return nil
}

var errTimeout = errors.New("timeout")

// waitForEnd waits until a job has ended, and prints its progress. If the timeout is over first, it returns
// errTimeout, and the job as it is.
func (w *waiting) waitForEnd(ctx context.Context, id string) (*pinion.Job, error) {
	job, err := findJob(ctx, w.storage, id)
	if err != nil {
		return nil, err
	}
	if hasEnded(job) { // also when the timeout is over
		return job, nil
	}
	job, err = pinion.Wait(w.inTime, &lookout{Inspector: w.storage, see: w.printProgress()}, id)
	if err == nil || ctx.Err() != nil || w.inTime.Err() == nil {
		return job, err
	}
	job, err = findJob(ctx, w.storage, id)
	if err == nil && !hasEnded(job) {
		err = errTimeout
	}
	return job, err
}

// hasEnded reports whether a job has ended for certain. A job that a Python worker will retry is FAILED for a
// while, without a time of finishing.
func hasEnded(job *pinion.Job) bool {
	return job.Status == pinion.StatusSuccess || !job.FinishedAt.IsZero()
}

// lookout is a storage to wait on. It also finds jobs of which there is only a dead letter, and shows see each
// job that it finds. pinion.Wait uses nothing but the Inspector.
type lookout struct {
	pinion.Storage
	pinion.Inspector
	see func(job *pinion.Job)
}

func (l *lookout) Get(ctx context.Context, id string) (*pinion.Job, error) {
	job, err := findJob(ctx, l.Inspector, id)
	if err == nil {
		l.see(job)
	}
	return job, err
}

// printProgress returns a function that prints when a job starts, and what its task records while it runs,
// each once.
func (c *call) printProgress() func(job *pinion.Job) {
	started, last := false, ""
	return func(job *pinion.Job) {
		if job.Status != pinion.StatusRunning {
			return
		}
		if !started && !job.StartedAt.IsZero() {
			started = true
			fmt.Fprintf(c.stderr, "pinion: job %s started %s\n", printable(job.ID, ""), ago(job.StartedAt))
		}
		progress := string(job.Result)
		if progress != last && progress != "" { // a retry begins without
			fmt.Fprintf(c.stderr, "pinion: job %s: %s\n", printable(job.ID, ""), clip(printable(progress, ""), 200))
		}
		last = progress
	}
}

// printUnfinished prints that a job has not ended when the timeout is over.
func (w *waiting) printUnfinished(job *pinion.Job) error {
	if w.json {
		if err := w.encode(job); err != nil {
			return err
		}
	} else if w.rows {
		fmt.Fprintf(w.stdout, "%s  %s\n", printable(job.ID, ""), job.Status)
	}
	if !w.rows {
		fmt.Fprintf(w.stderr, "pinion: the timeout of %s is over: job %s is still %s; "+
			"`pinion status` shows whether a worker runs jobs\n", w.timeout, printable(job.ID, ""), job.Status)
	}
	return w.stdout.Flush()
}

// printEnd prints how a job has ended.
func (c *call) printEnd(job *pinion.Job, asRow bool) error {
	id := printable(job.ID, "")
	failure := printable(brief(job.Error, 1000), "")
	succeeded := job.Status == pinion.StatusSuccess
	switch {
	case c.json:
		if err := c.encode(job); err != nil {
			return err
		}
	case asRow && succeeded:
		fmt.Fprintf(c.stdout, "%s  %s  %s\n", id, job.Status, printable(readableJSON(string(job.Result)), ""))
	case asRow:
		fmt.Fprintf(c.stdout, "%s  %s   %s\n", id, job.Status, failure)
	case succeeded:
		c.printResult(job)
	case job.Canceled:
		fmt.Fprintf(c.stderr, "pinion: job %s was canceled; `pinion show %[1]s` shows more\n", id)
	default:
		fmt.Fprintf(c.stderr, "pinion: job %s failed after %s: %s; "+
			"`pinion show %[1]s` shows more, `pinion dlq-replay %[1]s` tries again\n",
			id, plural(job.Attempts, "attempt"), failure)
	}
	return c.stdout.Flush()
}

// printResult prints a result so that a program can use it, and so that a terminal does not obey it.
func (c *call) printResult(job *pinion.Job) {
	if job.Result == nil {
		return
	}
	text := textOf(job.Result)
	if c.screen != nil {
		text = printable(text, "\n\t")
	}
	fmt.Fprintln(c.stdout, strings.TrimSuffix(text, "\n"))
}

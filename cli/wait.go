package cli

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/pinion-queue/pinion"
)

const waitDetail = `
The exit status is 0 if all jobs end in SUCCESS. It is 1 if one fails for good, is
canceled or is not found, or if the --timeout is over. For a single job it prints
only the result: as text if it is a string, else as JSON, and nothing if there is
none. For several jobs it prints a line each, in the order of the IDs, with the id,
the status, and the result as JSON or the error. With --json it prints each job as
"pinion show" does. A dead letter has ended; one that is replayed before wait looks
at it has not. --timeout 0 only looks. Standard error shows when the job started, and
its progress: what its task records while it runs.
`

const waitExamples = `pinion wait --timeout 5m 0199c2b4a1f07000b3c1d2e3f4a5b6c8 --db q.db`

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

// waitFor waits for jobs, one after the other, because most that follow have ended by the time the first has.
// It prints a row for each, or the result of the only one. A negative timeout is none.
func (c *call) waitFor(
	ctx context.Context, storage pinion.Inspector, ids []string, rows bool, timeout time.Duration,
) error {
	ctx, stop := signal.NotifyContext(ctx, os.Interrupt, syscall.SIGTERM)
	defer stop()
	waitCtx := ctx // when it ends, jobs that have ended are still reported
	if timeout >= 0 {
		var cancel context.CancelFunc
		waitCtx, cancel = context.WithTimeout(ctx, timeout)
		defer cancel()
	}
	known, err := c.findAll(ctx, storage, ids, rows)
	if err != nil {
		return err
	}
	if isTerminal(c.stderr) {
		notice := time.AfterFunc(noticeAfter, func() {
			fmt.Fprintln(c.stderr, "pinion: still waiting; ^C ends the waiting but not the job")
		})
		defer notice.Stop()
	}
	failed, cut := 0, 0
	for i, id := range ids {
		if !known[id] && ctx.Err() == nil {
			failed++
			continue
		}
		job, err := c.waitForEnd(ctx, waitCtx, storage, id)
		if ctx.Err() != nil {
			some := strings.Join(ids[i:min(i+3, len(ids))], " ")
			return fmt.Errorf("interrupted; the jobs go on; to wait again: pinion wait %s", some)
		}
		if errors.Is(err, errTimeout) {
			return timeoutError(ctx, storage, ids[i:], timeout)
		}
		if errors.Is(err, pinion.ErrNotFound) {
			err = fmt.Errorf("job %s has ended, but it was pruned before wait looked at it; "+
				"`pinion worker` keeps finished jobs for a day", id)
			if !rows {
				return err
			}
			fmt.Fprintf(c.stderr, "pinion: %s\n", printable(err.Error(), ""))
			failed++
			continue
		}
		if err != nil {
			return err
		}
		if job.Status != pinion.StatusSuccess {
			failed++
		} else if wasCut(job.Result) {
			cut++
		}
		if err := c.printEnd(job, rows); err != nil {
			return err
		}
	}
	if failed > 0 && rows {
		fmt.Fprintf(c.stderr, "pinion: %d of %s did not succeed; "+
			"`pinion show ID` shows why, `pinion dlq-replay ID` tries again\n", failed, plural(len(ids), "job"))
	}
	if failed > 0 {
		return errReported
	}
	if cut > 0 {
		return errCut
	}
	return nil
}

// errCut is the error of a wait for jobs that succeeded with a result that is not whole.
var errCut = fmt.Errorf("a result was cut off after %d KiB; let the program write to a file, "+
	"or start the worker with --logs, which keeps more", resultLimit>>10)

// findAll looks at all jobs once, so that a mistyped id is reported now and not after the wait for those
// before it. If it is the only id, it is an error.
func (c *call) findAll(
	ctx context.Context, storage pinion.Inspector, ids []string, rows bool,
) (known map[string]bool, err error) {
	known = make(map[string]bool, len(ids))
	for _, id := range ids {
		_, err := findJob(ctx, storage, id)
		if ctx.Err() != nil {
			return known, nil // the caller reports that
		}
		if err == nil {
			known[id] = true
			continue
		}
		if !errors.Is(err, pinion.ErrNotFound) || !rows {
			return nil, err
		}
		fmt.Fprintf(c.stderr, "pinion: job not found: %s\n", printable(id, ""))
	}
	return known, nil
}

var errTimeout = errors.New("timeout")

// waitForEnd waits until a job has ended, and prints its progress. When waitCtx ends first, it returns
// errTimeout.
func (c *call) waitForEnd(ctx, waitCtx context.Context, storage pinion.Inspector, id string) (*pinion.Job, error) {
	job, err := findJob(ctx, storage, id)
	if err != nil {
		return nil, err
	}
	if job.Status == pinion.StatusSuccess || !job.FinishedAt.IsZero() { // also when waitCtx is over
		return job, nil
	}
	job, err = pinion.Wait(waitCtx, &lookout{Inspector: storage, see: c.printProgress()}, id)
	if err != nil && waitCtx.Err() != nil {
		return nil, errTimeout
	}
	return job, err
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

// timeoutError names the jobs that have not ended when the timeout is over.
func timeoutError(ctx context.Context, storage pinion.Inspector, ids []string, timeout time.Duration) error {
	status := "unfinished"
	if job, err := findJob(ctx, storage, ids[0]); err == nil {
		status = string(job.Status)
	}
	others := ""
	if len(ids) > 1 {
		others = fmt.Sprintf(", and the %d after it were not looked at", len(ids)-1)
	}
	return fmt.Errorf("the timeout of %s is over: job %s is still %s%s; "+
		"`pinion status` shows whether a worker runs jobs", timeout, ids[0], status, others)
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
		fmt.Fprintf(c.stdout, "%s  %s  %s\n", id, job.Status, printable(string(job.Result), ""))
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

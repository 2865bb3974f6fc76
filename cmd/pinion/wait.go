package main

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
The exit status is 0 if all of them end in SUCCESS, and 1 if one is given up,
canceled or not found, or the --timeout is over. Of a single job the result alone
is printed: text if it is a string, else JSON, and nothing if there is none. Of
several each has a line with its id, its status and its result as JSON or its
error, in the order in which they are named. With --json each is printed as
"pinion show" does it. A dead letter has ended, but if it is replayed before it
is looked at, it is waited for. With --timeout 0 it only looks.
`

const waitExamples = `pinion wait --timeout 5m 0199c2b4a1f07000b3c1d2e3f4a5b6c8 --db q.db`

// A wait looks often at first, for who waits for a short job, and then less often, for who waits for a long one.
const (
	firstLook = 5 * time.Millisecond
	lastLook  = 250 * time.Millisecond
	forgotten = time.Minute // six times the longest that a Python worker waits by default
)

func wait(c *call) func(context.Context) error {
	c.storageFlags()
	c.jsonFlag()
	timeout := time.Duration(-1)
	c.duration(&timeout, "timeout", "wait no longer than this `TIME` [for ever]")
	return func(ctx context.Context) error {
		return c.inspect(ctx, reads, func(storage pinion.Inspector) error {
			return c.waitFor(ctx, storage, c.operands, len(c.operands) > 1, timeout)
		})
	}
}

// find looks for a job also among the dead letters: a Python process may have left no more of it.
func find(ctx context.Context, storage pinion.Inspector, id string) (*pinion.Job, error) {
	job, err := storage.Get(ctx, id)
	if errors.Is(err, pinion.ErrNotFound) {
		for letter, failed := range storage.DeadLetters(ctx, pinion.Filter{IDs: []string{id}}) {
			job, err = letter, failed
		}
	}
	return job, err
}

// waitFor waits for jobs one after the other: most that follow have ended by the time the first has. It prints a row
// for each, or the result of the only one. A negative timeout is none.
func (c *call) waitFor(ctx context.Context, storage pinion.Inspector, ids []string, rows bool, timeout time.Duration) error {
	ctx, stop := signal.NotifyContext(ctx, os.Interrupt, syscall.SIGTERM)
	defer stop()
	// When the time is over nothing is waited for any more, but what has ended is still seen.
	patience := ctx
	if timeout >= 0 {
		var cancel context.CancelFunc
		patience, cancel = context.WithTimeout(ctx, timeout)
		defer cancel()
	}
	// An id that is mistyped is told at once, and not after the wait for those before it.
	known := make(map[string]bool, len(ids))
	for _, id := range ids {
		switch _, err := find(ctx, storage, id); {
		case err == nil:
			known[id] = true
		case errors.Is(err, pinion.ErrNotFound) && rows:
			fmt.Fprintf(c.stderr, "pinion: job not found: %s\n", printable(id, ""))
		case ctx.Err() == nil:
			return err
		}
	}
	if isTerminal(c.stderr) {
		note := time.AfterFunc(impatience, func() {
			fmt.Fprintln(c.stderr, "pinion: still waiting; ^C ends the waiting and not the job")
		})
		defer note.Stop()
	}
	failed := 0
	for i, id := range ids {
		if !known[id] && ctx.Err() == nil {
			failed++
			continue
		}
		job, err := ended(ctx, patience, storage, id)
		switch {
		case ctx.Err() != nil:
			return fmt.Errorf("interrupted; what was waited for goes on, and this waits again: pinion wait %s", strings.Join(ids[i:min(i+3, len(ids))], " "))
		case errors.Is(err, errTooLate):
			return c.tooLate(ctx, storage, ids[i:], timeout)
		case errors.Is(err, pinion.ErrNotFound):
			err = fmt.Errorf("job %s has ended, but nobody knows how: it was pruned before it was looked at; `pinion worker` keeps finished jobs for a day", id)
			if !rows {
				return err
			}
			fmt.Fprintf(c.stderr, "pinion: %s\n", printable(err.Error(), ""))
			failed++
			continue
		case err != nil:
			return err
		}
		if job.Status != pinion.StatusSuccess {
			failed++
		}
		if err := c.tell(job, rows); err != nil {
			return err
		}
		if err := c.stdout.Flush(); err != nil {
			return err
		}
	}
	if failed > 0 && rows {
		fmt.Fprintf(c.stderr, "pinion: %d of %s did not succeed; `pinion show ID` tells more, `pinion dlq-replay ID` tries again\n",
			failed, plural(len(ids), "job"))
	}
	if failed > 0 {
		return errSaid
	}
	return nil
}

// errTooLate is that there was no more patience.
var errTooLate = errors.New("too late")

// ended waits until a job has, as long as patience lasts.
func ended(ctx, patience context.Context, storage pinion.Inspector, id string) (*pinion.Job, error) {
	pause := firstLook
	timer := time.NewTimer(pause)
	defer timer.Stop()
	for {
		job, err := find(ctx, storage, id)
		if err != nil {
			return nil, err
		}
		if over, err := isOver(ctx, storage, job); over || err != nil {
			return job, err
		}
		timer.Reset(pause)
		select {
		case <-timer.C:
			pause = min(pause*3/2, lastLook)
		case <-patience.Done():
			return nil, errTooLate
		}
	}
}

// isOver tells whether a job has ended. A Python worker makes a job FAILED before each retry, which it keeps in mind:
// it has given up only what is a dead letter, or what it has forgotten.
func isOver(ctx context.Context, storage pinion.Inspector, job *pinion.Job) (bool, error) {
	if job.Status != pinion.StatusFailed || !job.FinishedAt.IsZero() || time.Since(job.HeartbeatAt) > forgotten {
		return job.Status == pinion.StatusFailed || job.Status == pinion.StatusSuccess, nil
	}
	for _, err := range storage.DeadLetters(ctx, pinion.Filter{IDs: []string{job.ID}}) {
		return err == nil, err
	}
	return false, nil
}

// tooLate says what has not ended when the time is over.
func (c *call) tooLate(ctx context.Context, storage pinion.Inspector, ids []string, timeout time.Duration) error {
	status := "there"
	if job, err := find(ctx, storage, ids[0]); err == nil {
		status = string(job.Status)
	}
	more := ""
	if len(ids) > 1 {
		more = fmt.Sprintf(", and %d behind it were not looked at", len(ids)-1)
	}
	return fmt.Errorf("the timeout of %s is over and job %s is still %s%s; `pinion status` tells whether a worker runs jobs at all",
		timeout, ids[0], status, more)
}

// tell prints how a job has ended.
func (c *call) tell(job *pinion.Job, row bool) error {
	failure := brief(job.Error, 1000)
	switch {
	case c.json:
		return c.encode(job)
	case row && job.Status == pinion.StatusSuccess:
		fmt.Fprintf(c.stdout, "%s  %s  %s\n", printable(job.ID, ""), job.Status, printable(string(job.Result), ""))
	case row:
		fmt.Fprintf(c.stdout, "%s  %s   %s\n", printable(job.ID, ""), job.Status, printable(failure, ""))
	case job.Canceled && job.Status != pinion.StatusSuccess:
		fmt.Fprintf(c.stderr, "pinion: job %s was canceled; `pinion show %[1]s` tells more\n", printable(job.ID, ""))
	case job.Status != pinion.StatusSuccess:
		fmt.Fprintf(c.stderr, "pinion: job %s failed after %s: %s; `pinion show %[1]s` tells more, `pinion dlq-replay %[1]s` tries again\n",
			printable(job.ID, ""), plural(job.Attempts, "attempt"), printable(failure, ""))
	case job.Result != nil:
		text := textOf(job.Result)
		if c.screen != nil {
			text = printable(text, "\n\t")
		}
		fmt.Fprintln(c.stdout, strings.TrimSuffix(text, "\n"))
	}
	return nil
}

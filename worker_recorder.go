package pinion

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"
)

const (
	batchMost = 1000                   // how many successes one call records
	batchTime = 500 * time.Microsecond // for which they are gathered
)

// successes gathers the jobs that succeeded, which are recorded in batches. Other ends are recorded at once.
type successes struct {
	wake chan struct{} // capacity 1: there is reason to look at done

	mu     sync.Mutex // guards the rest
	done   []*Job     // succeeded, and not yet recorded
	closed bool       // no more will come
}

func (s *successes) add(job *Job) {
	s.mu.Lock()
	s.done = append(s.done, job)
	n := len(s.done)
	s.mu.Unlock()
	if n == 1 || n == batchMost {
		s.nudge()
	}
}

// close lets batch return what is left, and then nothing.
func (s *successes) close() {
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	s.nudge()
}

// nudge makes batch look again.
func (s *successes) nudge() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// batch waits for successes and returns them: when there are batchMost of them, when batchTime has passed since the
// first, or when idle reports that no more are to be expected soon. It reuses the memory of last, the batch before.
// After close it returns what is left, perhaps nothing.
func (s *successes) batch(last []*Job, idle func() bool) []*Job {
	clear(last)
	var timer <-chan time.Time // runs from the first success on
	late := false
	for {
		n, closed := s.count()
		if n >= batchMost || closed || late || n > 0 && idle() {
			return s.take(last[:0])
		}
		if n > 0 && timer == nil {
			timer = time.After(batchTime)
		}
		select {
		case <-s.wake:
		case <-timer:
			late = true
		}
	}
}

func (s *successes) count() (n int, closed bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.done), s.closed
}

func (s *successes) take(empty []*Job) []*Job {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := s.done
	s.done = empty
	return all
}

// recordSuccesses records successes until successes is closed and empty.
func (r *workerRun) recordSuccesses(ctx context.Context) {
	idle := func() bool { return r.slots.held() == 0 }
	var all []*Job
	for {
		all = r.successes.batch(all, idle)
		if len(all) == 0 {
			return
		}
		for batch := range slices.Chunk(all, batchMost) {
			r.recordBatch(ctx, batch)
		}
	}
}

func (r *workerRun) recordBatch(ctx context.Context, batch []*Job) {
	var lost []*Job
	saved := r.save(ctx, "recording successes", len(batch), func() (err error) {
		lost, err = r.storage.MarkDone(ctx, batch...)
		return err
	})
	if !saved {
		return
	}
	r.metrics.succeeded.Add(int64(len(batch) - len(lost)))
	for _, job := range lost {
		r.log.Warn("lease lost before the success was recorded; the job runs again", "task", job.Task, "job", job.ID)
	}
}

// settle records how an attempt ended, whose context was cancelled with cause. What the task returned counts, also
// after a timeout or a cancellation, with two exceptions. A task that stopped because the worker shuts down has not
// failed. And when the job was canceled, an error only says that it stopped.
func (r *workerRun) settle(ctx context.Context, a *attempt, cause, err error) {
	a.returned.Store(true)
	switch {
	case errors.Is(cause, ErrLeaseLost):
		r.log.Warn("lease lost; another worker has the job", "task", a.job.Task, "job", a.job.ID)
		r.slots.settled(1)
	case err == nil:
		r.successes.add(a.ended())
	case errors.Is(cause, ErrCanceled):
		r.conclude(ctx, "canceling a job", a, func() error {
			return r.storage.MarkFailed(ctx, a.job, ErrCanceled, time.Now())
		})
	case errors.Is(cause, ErrShutdown) && isCancellation(err):
		r.save(ctx, "releasing a job", 1, func() error { return r.release(ctx, []*Job{a.job}) })
	default:
		r.retryOrGiveUp(ctx, a, withTimeout(err, cause))
	}
}

func (r *workerRun) retryOrGiveUp(ctx context.Context, a *attempt, err error) {
	delay, retry := a.retry.next(a.job.Attempts, err)
	if !retry {
		// The text alone: an ErrAttemptsUsedUp that the task returned would tell the storage that it was not run.
		if r.giveUp(ctx, a, errors.New(ErrorText(err))) {
			r.metrics.failed.Add(1)
		}
		return
	}
	due := time.Now().Add(delay)
	if r.drain {
		r.retries.add(a.job, due) // before it is recorded: after that it may be claimed
	}
	recorded := r.conclude(ctx, "recording a failure", a, func() error {
		return r.storage.MarkFailed(ctx, a.job, err, due)
	})
	if !recorded {
		return
	}
	r.metrics.failed.Add(1)
	r.metrics.retried.Add(1)
	r.log.Warn("job failed, will be retried", "task", a.job.Task, "job", a.job.ID, "attempt", a.job.Attempts,
		"in", readable(delay), "error", oneLine(err))
}

// giveUp dead-letters a job, and reports whether that was recorded.
func (r *workerRun) giveUp(ctx context.Context, a *attempt, err error) (recorded bool) {
	recorded = r.conclude(ctx, "dead-lettering a job", a, func() error { return r.storage.DeadLetter(ctx, a.job, err) })
	if recorded {
		r.metrics.deadLettered.Add(1)
		r.log.Error("job dead-lettered", "task", a.job.Task, "job", a.job.ID, "attempts", a.job.Attempts,
			"error", oneLine(err))
	}
	return recorded
}

// conclude saves the end of an attempt that did not succeed. It reports whether the storage recorded what write says;
// it does not if Cancel was called for the job, which then ends as canceled.
func (r *workerRun) conclude(ctx context.Context, doing string, a *attempt, write func() error) (recorded bool) {
	canceled := false
	saved := r.save(ctx, doing, 1, func() error {
		err := write()
		canceled = errors.Is(err, ErrCanceled)
		if canceled {
			return nil
		}
		return err
	})
	if saved && canceled {
		r.metrics.canceled.Add(1)
		r.log.Info("job canceled", "task", a.job.Task, "job", a.job.ID, "attempt", a.job.Attempts)
		r.retries.remove(a.job)
	}
	return saved && !canceled
}

// save writes the ends of n jobs. It tries again until the storage takes them, the lease is lost, the storage is closed
// or ctx ends.
func (r *workerRun) save(ctx context.Context, doing string, n int, write func() error) (saved bool) {
	for ctx.Err() == nil {
		err := write()
		switch {
		case err == nil:
			r.slots.settled(n)
			return true
		case errors.Is(err, ErrLeaseLost):
			r.log.Warn("lease lost before "+doing, "error", err)
			r.slots.settled(n)
			return false
		}
		r.leases.lapse()
		r.trouble.report(doing, err)
		closed := errors.Is(err, ErrClosed)
		if closed || r.drain {
			r.fail(err)
		}
		if closed {
			return false
		}
		pause(ctx, troublePause)
	}
	return false
}

// oneLine returns an error for the log: its text up to an empty line, after which a panic's stack follows, which is
// kept with the job. Of several lines it takes the first and the last, because the last may be the one that tells most.
func oneLine(err error) string {
	text, _, _ := strings.Cut(ErrorText(err), "\n\n")
	lines := strings.Split(strings.TrimSpace(text), "\n")
	if len(lines) == 1 {
		return text
	}
	return lines[0] + " … " + strings.TrimSpace(lines[len(lines)-1])
}

// attemptsUsedUp returns why a job that was claimed beyond its last attempt is given up.
func attemptsUsedUp(job *Job, most int) error {
	return fmt.Errorf("%w: %d of %d; the last error: %s", ErrAttemptsUsedUp, job.Attempts-1, most, cmp.Or(job.Error, "none"))
}

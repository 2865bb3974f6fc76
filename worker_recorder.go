package pinion

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/pinion-queue/pinion/internal/rules"
)

const (
	maxBatch  = 1000                   // how many successes one call records
	batchTime = 500 * time.Microsecond // for which they are gathered
)

// successes gathers the jobs that succeeded, which are recorded in batches. Other ends are recorded at once.
type successes struct {
	wake chan struct{} // capacity 1: there is reason to look at done

	mu        sync.Mutex // guards the rest
	done      []*attempt // succeeded, and in no batch yet
	recording []*attempt // the last batch, until batch is called again
	closed    bool       // no more will come
}

func (s *successes) add(a *attempt) {
	s.mu.Lock()
	s.done = append(s.done, a)
	n := len(s.done)
	s.mu.Unlock()
	if n == 1 || n == maxBatch {
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

// unrecorded returns the attempts whose success is not recorded. They are in no slot any more and still need their
// leases: a MarkDone may wait for long, and those that succeed meanwhile wait behind it.
func (s *successes) unrecorded() []*attempt {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Concat(s.recording, s.done)
}

// batch waits for successes and returns them: when there are maxBatch of them, when batchTime has passed since
// the first, or when idle reports that no more are to be expected soon. The caller has recorded the batch before,
// whose memory is used again. After close it returns what is left, perhaps nothing.
func (s *successes) batch(idle func() bool) []*attempt {
	s.forgetRecorded()
	var timer <-chan time.Time // runs from the first success on
	late := false
	for {
		n, closed := s.count()
		isFull := n >= maxBatch
		if isFull || late || closed {
			return s.take()
		}
		if n > 0 && idle() {
			return s.take()
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

func (s *successes) forgetRecorded() {
	s.mu.Lock()
	defer s.mu.Unlock()
	clear(s.recording)
	s.recording = s.recording[:0]
}

func (s *successes) take() []*attempt {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.done, s.recording = s.recording, s.done
	return s.recording
}

// recordSuccesses records successes until successes is closed and empty.
func (r *workerRun) recordSuccesses(ctx context.Context) {
	idle := func() bool { return r.slots.held() == 0 }
	for {
		all := r.successes.batch(idle)
		if len(all) == 0 {
			return
		}
		for batch := range slices.Chunk(all, maxBatch) {
			r.recordBatch(ctx, batch)
		}
	}
}

func (r *workerRun) recordBatch(ctx context.Context, batch []*attempt) {
	jobs := make([]*Job, len(batch))
	for i, a := range batch {
		jobs[i] = a.withResult()
	}
	var lost []*Job
	err := r.save(ctx, "recording successes", func() (err error) {
		lost, err = r.storage.MarkDone(ctx, jobs...)
		return err
	})
	if err != nil && !errors.Is(err, ErrLeaseLost) {
		return
	}
	defer r.slots.recorded(len(jobs)) // last, because a Drain is over when nothing is open
	if err != nil {
		return
	}
	for i, job := range jobs {
		if len(lost) > 0 && isAmong(lost, job) {
			r.log.Warn("lease lost before the success was recorded; the job runs again",
				"task", job.Task, "job", job.ID)
			r.ended(ctx, batch[i], OutcomeLost, nil)
			continue
		}
		batch[i].counters.succeeded.Add(1)
		r.ended(ctx, batch[i], OutcomeSucceeded, nil)
	}
}

// isAmong reports whether jobs has the claim of job.
func isAmong(jobs []*Job, job *Job) bool {
	return slices.ContainsFunc(jobs, func(other *Job) bool { return other.ID == job.ID && other.Claim == job.Claim })
}

// settle records how an attempt ended. cause is why its context was canceled; nil: it was not. What the task
// returned counts, also after a timeout or a cancellation, with three exceptions. After a lost lease another worker
// decides. A task that was interrupted by the shutdown has not failed, whatever its error: a killed program says
// "signal: killed". And when the job was canceled, an error only says that the task stopped.
func (r *workerRun) settle(ctx context.Context, a *attempt, cause, err error) {
	a.markReturned()
	if a.doneInTx.Load() && r.settleInTx(ctx, a, err) {
		return
	}
	delay, snooze := snoozed(err)
	switch {
	case errors.Is(cause, ErrLeaseLost):
		r.log.Warn("lease lost; another worker has the job", "task", a.job.Task, "job", a.job.ID)
		r.ended(ctx, a, OutcomeLost, err)
		r.slots.recorded(1)
	case err == nil:
		r.successes.add(a)
	case errors.Is(cause, ErrCanceled):
		r.conclude(ctx, "canceling a job", a, OutcomeCanceled, err, func() error {
			return r.storage.MarkFailed(ctx, a.job, ErrCanceled, time.Now())
		})
	case snooze:
		r.snooze(ctx, a, delay, err)
	case errors.Is(cause, ErrShutdown) && !isPermanent(err):
		r.releaseAt(ctx, a, time.Time{}, nil, OutcomeReleased, err)
	default:
		r.retryOrGiveUp(ctx, a, withTimeout(err, cause))
	}
}

// settleInTx settles an attempt whose task has made its job SUCCESS in a transaction. It reports false if that
// was not committed: then the attempt's end is still to be recorded, which finds out whether the lease is lost.
func (r *workerRun) settleInTx(ctx context.Context, a *attempt, err error) bool {
	if !r.hasCommitted(ctx, a.job) {
		return false
	}
	if err != nil {
		r.log.Error("task returned an error after its transaction had made the job SUCCESS", "task", a.job.Task,
			"job", a.job.ID, "error", oneLine(err))
	}
	a.counters.succeeded.Add(1)
	r.ended(ctx, a, OutcomeSucceeded, nil)
	r.slots.recorded(1)
	return true
}

// hasCommitted reports whether the transaction was committed in which a task made its job SUCCESS. It asks until the
// storage answers; one that is no Inspector it cannot ask.
func (r *workerRun) hasCommitted(ctx context.Context, job *Job) bool {
	in, ok := As[Inspector](r.storage)
	if !ok {
		return true
	}
	var stored *Job
	err := r.save(ctx, "reading a job that ended in a transaction", func() (err error) {
		stored, err = in.Get(ctx, job.ID)
		if errors.Is(err, ErrNotFound) { // only a job that has ended can have been pruned
			return nil
		}
		return err
	})
	if err != nil {
		return false
	}
	return stored == nil || stored.Status == StatusSuccess && stored.Claim == job.Claim
}

func (r *workerRun) snooze(ctx context.Context, a *attempt, delay time.Duration, err error) {
	due := time.Now().Add(delay)
	r.awaitRetry(a.job, due)
	r.releaseAt(ctx, a, due, err, OutcomeSnoozed, err)
}

// releaseAt gives back the job of an attempt that does not count. A stored cause that is not nil becomes its
// Error.
func (r *workerRun) releaseAt(ctx context.Context, a *attempt, at time.Time, stored error, outcome Outcome, err error) {
	r.conclude(ctx, "releasing a job", a, outcome, err, func() error {
		lost, canceled, err := r.storage.Release(ctx, at, stored, a.job)
		switch {
		case err != nil:
			return err
		case len(lost) > 0:
			return ErrLeaseLost
		case len(canceled) > 0:
			return ErrCanceled
		}
		return nil
	})
}

// unknownDelay is how long a job waits that was claimed although this worker does not know its task.
const unknownDelay = time.Minute

// releaseUnknown gives back a job whose task this worker does not know: only one who knows it decides about it.
// The storage has ignored DequeueOptions.Tasks, or the job names a task that was claimed for and is not the
// same.
func (r *workerRun) releaseUnknown(ctx context.Context, a *attempt) {
	a.markReturned()
	err := fmt.Errorf("%w: %q", ErrTaskNotFound, a.job.Task)
	r.releaseAt(ctx, a, time.Now().Add(unknownDelay), err, OutcomeReleased, err)
}

func (r *workerRun) retryOrGiveUp(ctx context.Context, a *attempt, err error) {
	delay, retry := a.retry.next(a.job.Attempts, err)
	if !retry {
		// The text alone: an ErrAttemptsUsedUp that the task returned would tell the storage that it was not run.
		stored := errors.New(ErrorText(err))
		if r.giveUp(ctx, a, stored, err) {
			a.counters.failed.Add(1)
		}
		return
	}
	now := time.Now()
	due := now.Add(delay)
	if next, ok := r.periodics.latest(a.job, now); ok && next.Before(due) {
		due = next
	}
	r.awaitRetry(a.job, due) // before it is recorded: after that it may be claimed
	recorded := r.conclude(ctx, "recording a failure", a, OutcomeRetried, err, func() error {
		return r.storage.MarkFailed(ctx, a.job, err, due)
	})
	if !recorded {
		return
	}
	a.counters.failed.Add(1)
	a.counters.retried.Add(1)
	r.log.Warn("job failed, will be retried", "task", a.job.Task, "job", a.job.ID, "attempt", a.job.Attempts,
		"in", readable(due.Sub(now)), "error", oneLine(err))
}

// awaitRetry makes a Drain wait for the job's next attempt, if that is due soon.
func (r *workerRun) awaitRetry(job *Job, due time.Time) {
	if r.drain && time.Until(due) <= drainWait {
		r.retries.add(job, due)
	}
}

// giveUp dead-letters a job because of err, with the Error stored, and reports whether that was recorded.
func (r *workerRun) giveUp(ctx context.Context, a *attempt, stored, err error) (recorded bool) {
	job := a.withResult()
	recorded = r.conclude(ctx, "dead-lettering a job", a, OutcomeDeadLettered, err, func() error {
		return r.storage.DeadLetter(ctx, job, stored)
	})
	if recorded {
		a.counters.deadLettered.Add(1)
		r.log.Error("job dead-lettered",
			"task", job.Task, "job", job.ID, "attempts", job.Attempts, "error", oneLine(err))
	}
	return recorded
}

// conclude saves the end of an attempt that did not succeed. It reports whether the storage recorded what write
// says; it does not if Cancel was called for the job, which then ends as canceled.
func (r *workerRun) conclude(ctx context.Context, doing string, a *attempt, outcome Outcome, cause error,
	write func() error) (recorded bool) {
	canceled := false
	err := r.save(ctx, doing, func() error {
		err := write()
		canceled = errors.Is(err, ErrCanceled)
		if canceled {
			return nil
		}
		return err
	})
	lost := errors.Is(err, ErrLeaseLost)
	if err != nil && !lost {
		return false
	}
	defer r.slots.recorded(1) // last, because a Drain is over when nothing is open
	switch {
	case lost:
		r.retries.remove(a.job)
		r.ended(ctx, a, OutcomeLost, cause)
	case canceled:
		r.retries.remove(a.job)
		a.counters.canceled.Add(1)
		r.log.Info("job canceled", "task", a.job.Task, "job", a.job.ID, "attempt", a.job.Attempts)
		r.ended(ctx, a, OutcomeCanceled, cause)
	default:
		r.ended(ctx, a, outcome, cause)
		return true
	}
	return false
}

// save writes the ends of jobs. It tries again until the storage takes them. It returns ErrLeaseLost if the lease
// is lost, and another error if it gives up because the storage is closed or ctx ends. Unless it gives up, the
// caller must call slots.recorded.
func (r *workerRun) save(ctx context.Context, doing string, write func() error) error {
	for ctx.Err() == nil {
		err := write()
		switch {
		case err == nil:
			return nil
		case errors.Is(err, ErrLeaseLost):
			r.log.Warn("lease lost before "+doing, "error", err)
			return ErrLeaseLost
		}
		r.trouble.report(doing, err)
		closed := errors.Is(err, ErrClosed)
		if closed || r.drain {
			r.fail(err)
		}
		if closed {
			return ErrClosed
		}
		pause(ctx, troublePause)
	}
	return ctx.Err()
}

// oneLine returns an error for the log: its text up to an empty line, after which a panic's stack follows,
// which is kept with the job. Of several lines it takes the first and the last, because the last may be the one
// that tells most.
func oneLine(err error) string {
	text := rules.ErrorMessage(ErrorText(err))
	lines := strings.Split(strings.TrimSpace(text), "\n")
	if len(lines) == 1 {
		return text
	}
	return lines[0] + " … " + strings.TrimSpace(lines[len(lines)-1])
}

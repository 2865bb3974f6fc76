package pinion

import (
	"context"
	"runtime/debug"
	"sync"
	"time"
)

// End is how an attempt at a job ended, for [Worker].OnEnd.
type End struct {
	Outcome Outcome
	Err     error         // what the task returned, or why it was not run; nil for a success
	Waited  time.Duration // from when the job was due to the start of the task
	Took    time.Duration // by the task; 0 for a job that was dead-lettered without being run
}

// Outcome says what became of an attempt.
type Outcome string

// The outcomes.
const (
	OutcomeSucceeded    Outcome = "succeeded"
	OutcomeRetried      Outcome = "retried"       // failed, and a retry follows
	OutcomeDeadLettered Outcome = "dead-lettered" // given up
	OutcomeCanceled     Outcome = "canceled"      // Cancel was called for the job
	OutcomeSnoozed      Outcome = "snoozed"       // the task returned Snooze; the attempt does not count
	OutcomeReleased     Outcome = "released"      // the shutdown, or a task nobody knows here; the attempt does not count
	OutcomeLost         Outcome = "lost"          // the lease was lost, so another worker decides
)

// maxEnds is how many calls of OnEnd may wait. While there are more, no job is claimed.
const maxEnds = 1000

// ends calls OnEnd, one call at a time, on a goroutine of its own, so that a slow OnEnd delays neither
// heartbeats nor recording.
type ends struct {
	call func(ctx context.Context, job *Job, end End) // nil: nobody wants to know

	mu      sync.Mutex // guards the rest
	waiting []ended
	closed  bool       // no more will come
	arrived *sync.Cond // waiting has one, or closed is set
}

// ended is one call that waits.
type ended struct {
	job *Job
	end End
}

func (e *ends) init(call func(ctx context.Context, job *Job, end End)) {
	e.call = call
	e.arrived = sync.NewCond(&e.mu)
}

func (e *ends) add(one ended) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.waiting = append(e.waiting, one)
	e.arrived.Signal()
}

func (e *ends) close() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.closed = true
	e.arrived.Signal()
}

// next waits for the next call. It reports false when there will be none.
func (e *ends) next() (one ended, found bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for len(e.waiting) == 0 && !e.closed {
		e.arrived.Wait()
	}
	if len(e.waiting) == 0 {
		return ended{}, false
	}
	one = e.waiting[0]
	e.waiting[0] = ended{}
	e.waiting = e.waiting[1:]
	return one, true
}

// ended does what follows the end of an attempt, after that was recorded or its lease was lost.
func (r *workerRun) ended(ctx context.Context, a *attempt, outcome Outcome, err error) {
	r.planNext(ctx, a.job)
	if r.ends.call == nil {
		return
	}
	end := End{Outcome: outcome, Err: err, Took: a.took}
	if a.took > 0 {
		end.Waited = max(a.started.Sub(dueAt(a.job)), 0)
	}
	r.slots.ending(1)
	r.ends.add(ended{a.withResult().clone(), end})
}

// dueAt returns when a claimed job was due.
func dueAt(job *Job) time.Time {
	if job.RunAt.After(job.CreatedAt) {
		return job.RunAt
	}
	return job.CreatedAt
}

// callOnEnd calls OnEnd until the ends are closed and none is left.
//
// An OnEnd that calls runtime.Goexit, as a test's FailNow does, ends this goroutine. Another goes on.
func (r *workerRun) callOnEnd(ctx context.Context, group *sync.WaitGroup) {
	calling := false
	defer func() {
		if calling {
			r.slots.ending(-1)
			group.Go(func() { r.callOnEnd(ctx, group) })
		}
	}()
	for {
		one, found := r.ends.next()
		if !found {
			return
		}
		calling = true
		r.callOnEndOnce(ctx, one)
		calling = false
		r.slots.ending(-1)
	}
}

func (r *workerRun) callOnEndOnce(ctx context.Context, one ended) {
	defer func() {
		if v := recover(); v != nil {
			r.log.Error("OnEnd panicked", "task", one.job.Task, "job", one.job.ID,
				"error", ErrorText(&PanicError{v, debug.Stack()}))
		}
	}()
	r.ends.call(ctx, one.job, one.end)
}

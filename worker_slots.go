package pinion

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"runtime/debug"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// slots holds the jobs that a run has claimed: those that wait for a slot, and those that run in one. Its lock is taken
// once for each job; lists under one lock cost less than channels.
type slots struct {
	running []atomic.Pointer[attempt] // what each slot runs, until its end is recorded or in successes

	mu      sync.Mutex // guards the rest
	intake  intake
	waiting []*Job     // claimed, in the order in which they will start
	fresh   int        // how many jobs have begun to wait since the last sweep
	stopped bool       // no further job starts
	arrived *sync.Cond // waiting has a job, or stopped is set; slots wait for it
	room    *sync.Cond // the intake wants a claim, or stopped is set; claimers wait for it
	idle    func()     // called once when no job is open any more; nil: nobody asks

	empty func() // called when no job is held; must neither block nor use slots
}

func (s *slots) init(in intake, empty func()) {
	s.intake = in
	s.empty = empty
	s.running = make([]atomic.Pointer[attempt], in.slots)
	s.arrived = sync.NewCond(&s.mu)
	s.room = sync.NewCond(&s.mu)
}

func (s *slots) claimers() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.intake.claimers
}

// stop lets no further job start, and ends the waiting of slots and claimers.
func (s *slots) stop() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stopped = true
	s.arrived.Broadcast()
	s.room.Broadcast()
}

// reserve waits until there is reason to claim, and returns what to claim. After a stop that is nothing.
func (s *slots) reserve() request {
	s.mu.Lock()
	defer s.mu.Unlock()
	for !s.stopped {
		want := s.intake.next()
		if !want.none() {
			s.intake.asked(want)
			return want
		}
		s.room.Wait()
	}
	return request{}
}

// deliver answers a reservation with the claimed jobs. It returns those that must go back.
//
// While this claim waited with free slots, the other may have filled them with jobs that it claimed ahead. A job that
// was claimed before, and may be the one that kills its process, then goes back: while it waits for a slot, another
// job's crash could cost it an attempt.
func (s *slots) deliver(want request, jobs []*Job) (back []*Job) {
	s.mu.Lock()
	defer s.mu.Unlock()
	taken := s.intake.held
	s.intake.answered(want, len(jobs))
	for _, job := range jobs {
		taken++
		if job.Attempts > 1 && taken > s.intake.slots {
			back = append(back, job)
			continue
		}
		s.waiting = append(s.waiting, job)
		s.fresh++
		s.arrived.Signal()
	}
	return back
}

// next ends an attempt, if there was one, and waits for the next job of its slot. After a stop there is none.
func (s *slots) next(ended *attempt) (job *Job, found bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if ended != nil {
		s.endLocked(ended)
	}
	for len(s.waiting) == 0 && !s.stopped {
		s.arrived.Wait()
	}
	if s.stopped {
		return nil, false
	}
	job = s.waiting[0]
	s.waiting[0] = nil
	s.waiting = s.waiting[1:]
	return job, true
}

func (s *slots) endLocked(a *attempt) {
	if a.took > 0 {
		s.intake.took(a.took)
	}
	s.intake.held--
	s.changedLocked()
}

// end is next for a slot whose goroutine ends.
func (s *slots) end(a *attempt) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.endLocked(a)
}

// withdrawn notes that jobs which waited will not start.
func (s *slots) withdrawn(n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.intake.held -= n
	s.changedLocked()
}

// settled notes that jobs no longer concern this run: their ends are recorded, or their leases are lost.
func (s *slots) settled(n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.intake.open -= n
	s.changedLocked()
}

func (s *slots) changedLocked() {
	if s.intake.held == 0 {
		s.empty()
	}
	if !s.intake.next().none() {
		s.room.Broadcast()
	}
	if s.intake.open == 0 && s.idle != nil {
		s.idle()
		s.idle = nil
	}
}

// whenIdle has f called once no job is open any more. It reports whether one is open now; if not, it does not call f.
func (s *slots) whenIdle(f func()) (busy bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.intake.open == 0 {
		return false
	}
	s.idle = f
	return true
}

// held returns how many jobs run or wait for a slot.
func (s *slots) held() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.intake.held
}

// open returns how many jobs are held, or have ended without its being recorded.
func (s *slots) open() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.intake.open
}

// takeOld removes and returns the jobs that have waited for a slot since the last sweep.
func (s *slots) takeOld() []*Job {
	s.mu.Lock()
	defer s.mu.Unlock()
	old := slices.Clone(s.waiting[:max(len(s.waiting)-s.fresh, 0)])
	s.waiting = s.waiting[len(old):]
	s.fresh = 0
	if len(old) > 0 {
		s.intake.slowed()
	}
	return old
}

// takeAll removes and returns the jobs that wait for a slot.
func (s *slots) takeAll() []*Job {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := s.waiting
	s.waiting = nil
	return all
}

// attempts returns the attempts in the slots.
func (s *slots) attempts() (all []*attempt) {
	for i := range s.running {
		if a := s.running[i].Load(); a != nil {
			all = append(all, a)
		}
	}
	return all
}

// unreturned returns the attempts whose tasks have not returned.
func (s *slots) unreturned() []*attempt {
	return slices.DeleteFunc(s.attempts(), func(a *attempt) bool { return a.returned.Load() })
}

// runSlot runs one job after another until the stop.
//
// A task that calls runtime.Goexit ends this goroutine. The deferred function then settles its attempt, and another
// goroutine goes on with the slot.
func (r *workerRun) runSlot(tasks, writes context.Context, running *sync.WaitGroup, i int) {
	var current *attempt // nil between two attempts
	var ctx context.Context
	defer func() {
		if current == nil {
			return
		}
		r.settle(writes, current, context.Cause(ctx), &PanicError{"runtime.Goexit was called", debug.Stack()})
		r.slots.running[i].Store(nil)
		r.slots.end(current)
		current.finish()
		running.Go(func() { r.runSlot(tasks, writes, running, i) })
	}()
	job, found := r.slots.next(nil)
	for found {
		ctx, current = r.newAttempt(tasks, job)
		r.slots.running[i].Store(current)
		r.attempt(ctx, writes, current)
		r.slots.running[i].Store(nil)
		ended := current
		current = nil
		ended.finish()
		job, found = r.slots.next(ended)
	}
}

// newAttempt returns an attempt at job and the context of its task. The task's own settings win over the worker's.
func (r *workerRun) newAttempt(tasks context.Context, job *Job) (context.Context, *attempt) {
	task, _ := r.registry.lookup(job.Task)
	a := &attempt{job: job, storage: r.storage, retry: r.retry}
	if task.retry != nil {
		a.retry = *task.retry
	}
	return a.begin(tasks, cmp.Or(task.timeout, r.taskTimeout)), a
}

// attempt runs a job and settles how it ended.
func (r *workerRun) attempt(ctx, writes context.Context, a *attempt) {
	attemptsBefore := a.job.Attempts - 1
	if attemptsBefore > a.retry.MaxRetries { // MaxRetries+1 would overflow: math.MaxInt means for ever
		// The workers that had claimed it died before they could record how its attempts ended.
		a.returned.Store(true)
		r.giveUp(writes, a, attemptsUsedUp(a.job, a.retry.MaxRetries+1))
		return
	}
	if r.log.Enabled(ctx, slog.LevelDebug) {
		r.log.Debug("job starts", "task", a.job.Task, "job", a.job.ID, "attempt", a.job.Attempts)
	}
	err := r.timed(ctx, a)
	r.settle(writes, a, context.Cause(ctx), err)
}

// timed calls the task and measures how long it takes, also when it ends by runtime.Goexit.
func (r *workerRun) timed(ctx context.Context, a *attempt) error {
	r.metrics.running.Add(1)
	start := time.Since(r.began) // cheaper than time.Now, which also reads the wall clock
	defer func() {
		a.took = max(time.Since(r.began)-start, 1)
		r.metrics.running.Add(-1)
	}()
	return r.call(ctx, a.job)
}

// runTask finds the job's task and calls it.
func (r *workerRun) runTask(ctx context.Context, job *Job) error {
	task, ok := r.registry.lookup(job.Task)
	if !ok {
		return fmt.Errorf("%w: %q", ErrTaskNotFound, job.Task)
	}
	return task.run(ctx, job)
}

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

// slots holds the jobs that a run has claimed: those that wait for a slot, and those that run in one. Lists under
// one lock cost less than channels.
type slots struct {
	running []atomic.Pointer[attempt] // what each slot runs, until its end is recorded or in successes

	mu       sync.Mutex // guards the rest
	intake   intake
	waiting  []*Job     // claimed, in the order in which they will start
	fresh    int        // how many jobs have begun to wait since the last sweep, which is takeOld
	stopped  bool       // no further job starts
	arrived  *sync.Cond // waiting has a job, or stopped is set; slots wait for it
	room     *sync.Cond // the intake wants a claim, or stopped is set; claimers wait for it
	onIdle   func()     // of whenIdle; nil: nobody asks
	onlyEnds bool       // when whenIdle was called, only calls of OnEnd were left

	// These must neither block nor use slots:
	mayPrefetch func() bool // reports whether jobs may be claimed ahead of free slots now
	onEmpty     func()      // called when no job is held
}

func (s *slots) init(in intake, mayPrefetch func() bool, onEmpty func()) {
	s.intake = in
	s.mayPrefetch = mayPrefetch
	s.onEmpty = onEmpty
	s.running = make([]atomic.Pointer[attempt], in.slots)
	s.arrived = sync.NewCond(&s.mu)
	s.room = sync.NewCond(&s.mu)
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
		s.intake.mayPrefetch = s.mayPrefetch()
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
// While this claim waited for the free slots, the other claimer may have filled them with jobs that it claimed
// ahead. A job that was claimed before then goes back: while it waited for a slot, another job's crash could cost
// it one more attempt.
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

// end ends an attempt, as next does, but waits for no further job.
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

// recorded notes that the ends of jobs are recorded. A job whose lease is lost counts too: this run records nothing
// more about it.
func (s *slots) recorded(n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.intake.open -= n
	s.changedLocked()
}

func (s *slots) changedLocked() {
	if s.intake.held == 0 {
		s.onEmpty()
	}
	if !s.intake.next().none() {
		s.room.Broadcast()
	}
	noJobs := s.intake.open == 0 && !s.onlyEnds
	if s.onIdle != nil && (noJobs || s.intake.idle()) {
		s.onIdle()
		s.onIdle = nil
	}
}

// ending notes that n more calls of OnEnd wait. A negative n means that so many have returned.
func (s *slots) ending(n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.intake.ending += n
	s.changedLocked()
}

// whenIdle arranges that f is called once no job is left, or, if only calls of OnEnd are left, once they have returned.
// It returns which it is. If nothing is left already, busy is false, and f is not called.
func (s *slots) whenIdle(f func()) (busy, onlyEnds bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.intake.idle() {
		return false, false
	}
	s.onIdle = f
	s.onlyEnds = s.intake.open == 0
	return true, s.onlyEnds
}

// held returns how many jobs run or wait for a slot.
func (s *slots) held() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.intake.held
}

// open returns how many jobs are held, or have ended and are not recorded yet.
func (s *slots) open() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.intake.open
}

// takeOld is the sweep: it removes and returns the jobs that have waited for a slot since its last call.
func (s *slots) takeOld() []*Job {
	s.mu.Lock()
	defer s.mu.Unlock()
	old := slices.Clone(s.waiting[:max(len(s.waiting)-s.fresh, 0)])
	clear(s.waiting[:len(old)])
	s.waiting = s.waiting[len(old):]
	s.fresh = 0
	if len(old) > 0 {
		s.intake.slowed()
	}
	return old
}

// mustWait reports whether more jobs wait than there are free slots.
func (s *slots) mustWait() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.startingLocked() < len(s.waiting)
}

// startingLocked returns how many of the waiting jobs have a free slot and are about to start. They are the first.
func (s *slots) startingLocked() int {
	running := s.intake.held - len(s.waiting)
	return min(max(s.intake.slots-running, 0), len(s.waiting))
}

// takeOfQueues removes and returns the jobs of some queues that wait for a slot, but for those that are about to start.
func (s *slots) takeOfQueues(queues map[string]int) (taken []*Job) {
	s.mu.Lock()
	defer s.mu.Unlock()
	starting := s.startingLocked()
	firstFresh := len(s.waiting) - s.fresh
	var kept []*Job
	for i, job := range s.waiting {
		_, isOne := queues[job.Queue]
		if !isOne || i < starting {
			kept = append(kept, job)
			continue
		}
		taken = append(taken, job)
		if i >= firstFresh {
			s.fresh--
		}
	}
	s.waiting = kept
	return taken
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
// A task that calls runtime.Goexit ends this goroutine. The deferred function then settles its attempt, and
// another goroutine goes on with the slot.
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
	task, known := r.registry.lookup(job.Task)
	a := &attempt{job: job, storage: r.storage, log: r.log, retry: r.retry, started: time.Now()}
	a.counters = new(taskCounters) // unknown tasks are not counted: their names could be anything
	if known {
		a.counters = r.metrics.of(task.name)
	}
	if task.retry != nil {
		a.retry = *task.retry
	}
	return a.begin(tasks, cmp.Or(task.timeout, r.taskTimeout)), a
}

// maxReaped is how many leases of a job may be lost in a row. After that its task seems to kill its process.
const maxReaped = 5

// attempt runs a job and settles how it ended.
func (r *workerRun) attempt(ctx, writes context.Context, a *attempt) {
	task, known := r.registry.lookup(a.job.Task)
	if !known {
		r.releaseUnknown(writes, a)
		return
	}
	if err := usedUp(a); err != nil {
		a.markReturned()
		r.giveUp(writes, a, err, err)
		return
	}
	if len(a.job.Kwargs) > 0 {
		r.warnUnknownArgs(task, a.job)
	}
	if r.log.Enabled(ctx, slog.LevelDebug) {
		r.log.Debug("job starts", "task", a.job.Task, "job", a.job.ID, "attempt", a.job.Attempts)
	}
	err := r.timed(ctx, a)
	r.settle(writes, a, context.Cause(ctx), err)
}

// usedUp returns why a job must not run any more, or nil. The workers that had claimed it died before they
// could record how its attempts ended.
func usedUp(a *attempt) error {
	last := cmp.Or(a.job.Error, "none")
	if a.job.Reaped >= maxReaped {
		return fmt.Errorf("%w: its last %d leases were lost while it ran; the last error: %s",
			ErrAttemptsUsedUp, a.job.Reaped, last)
	}
	before := a.job.Attempts - 1
	if before > a.retry.MaxRetries { // MaxRetries+1 would overflow: math.MaxInt means for ever
		return fmt.Errorf("%w: %d of %d; the last error: %s", ErrAttemptsUsedUp, before, a.retry.MaxRetries+1, last)
	}
	return nil
}

// timed calls the task and measures how long it takes, also when it ends by runtime.Goexit.
func (r *workerRun) timed(ctx context.Context, a *attempt) error {
	a.counters.running.Add(1)
	defer func() {
		a.took = max(time.Since(a.started), 1)
		a.counters.took.Add(int64(a.took))
		a.counters.running.Add(-1)
	}()
	return r.call(ctx, a.job)
}

// runTask finds the job's task and calls it.
func (r *workerRun) runTask(ctx context.Context, job *Job) error {
	task, ok := r.registry.lookup(job.Task)
	if !ok { // middleware has changed the name
		return fmt.Errorf("%w: %q", ErrTaskNotFound, job.Task)
	}
	return task.run(ctx, job)
}

// warnUnknownArgs logs once for each task and name that a job has arguments which the task does not know and
// ignores.
func (r *workerRun) warnUnknownArgs(task handler, job *Job) {
	for _, name := range task.unknown(job) {
		if r.warned.first(task.name + " " + name) {
			r.log.Warn("argument ignored: the task does not know its name", "task", task.name, "argument", name,
				"job", job.ID)
		}
	}
}

// onceEach remembers what was logged already: the first 1,000 texts. Later ones are never logged, because the names
// in them come from others and could be any number.
type onceEach struct {
	mu   sync.Mutex // guards seen
	seen map[string]bool
}

// first reports whether what is new, and remembers it.
func (o *onceEach) first(what string) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.seen[what] || len(o.seen) >= 1000 {
		return false
	}
	if o.seen == nil {
		o.seen = make(map[string]bool)
	}
	o.seen[what] = true
	return true
}

package pinion

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
	"unicode/utf8"
)

// Worker claims jobs and runs their tasks. Set the fields, then call Run or Drain, which check them; zero values are
// the defaults in brackets. They must not be changed while it runs. A Worker that has stopped may run again.
type Worker struct {
	Storage           Storage                    // where the jobs are; whoever opened it closes it, after Run
	Registry          *Registry                  // the tasks [DefaultRegistry]
	Queues            []string                   // to claim from [every queue]
	Name              string                     // in Job.Worker of what it claims, at most 255 bytes [host:pid]
	Concurrency       int                        // slots: tasks that run at once [10]
	Retry             *RetryPolicy               // for tasks that have none [DefaultRetry]
	TaskTimeout       time.Duration              // for tasks that have none [none]
	VisibilityTimeout time.Duration              // a lease is lost after so long without a heartbeat [10s]
	HeartbeatInterval time.Duration              // [a third of VisibilityTimeout, at most 1s]
	ReapInterval      time.Duration              // between looks for lost leases, whoever held them [2s]
	ShutdownTimeout   time.Duration              // what running tasks get after a stop [10s]
	Middleware        func(next RunFunc) RunFunc // around every task [none]
	Logger            *slog.Logger               // jobs at Debug, cancellations at Info, retries at Warn, dead letters at Error [slog.Default]

	mu      sync.Mutex         // guards the next three
	stop    context.CancelFunc // of the Run or Drain in progress
	ran     bool
	stopped bool // before the first Run
	metrics counters
	wall    func() time.Time // for tests that set the clock [time.Now]
}

// Metrics are counts since the Worker was made, but for Running, which is now. They fit expvar.Func.
type Metrics struct {
	Processed    int64 `json:"processed"` // attempts that came to an end: Succeeded + Failed + Canceled
	Succeeded    int64 `json:"succeeded"`
	Failed       int64 `json:"failed"` // failed attempts: Retried + DeadLettered, less what was never run
	Retried      int64 `json:"retried"`
	DeadLettered int64 `json:"dead_lettered"`
	Canceled     int64 `json:"canceled"` // attempts that ended their job as canceled
	Reaped       int64 `json:"reaped"`   // lost leases that this worker took back, of any worker
	Running      int64 `json:"running"`
}

type counters struct{ succeeded, failed, retried, deadLettered, canceled, reaped, running atomic.Int64 }

// Metrics returns a snapshot. It may be called at any time.
func (w *Worker) Metrics() Metrics {
	c := &w.metrics
	m := Metrics{Succeeded: c.succeeded.Load(), Failed: c.failed.Load(), Retried: c.retried.Load(),
		DeadLettered: c.deadLettered.Load(), Canceled: c.canceled.Load(), Reaped: c.reaped.Load(), Running: c.running.Load()}
	m.Processed = m.Succeeded + m.Failed + m.Canceled
	return m
}

// Run claims and runs jobs until ctx ends or Stop is called, then stops: no new claims; running tasks keep a live
// context for ShutdownTimeout, after which it is cancelled with cause ErrShutdown; jobs that did not start, and
// tasks that then return an error matching context.Canceled or ErrShutdown, go back with the attempt refunded.
// It returns nil after a clean stop, at most a second after ShutdownTimeout. An error says which field is wrong, that
// the worker is running already, that the storage was closed, which tasks ignored the cancellation (their jobs are
// left to the reaper), or how many jobs ended without its being recorded: those run again, too.
//
// Trouble with the storage (a full disk, say) is logged, at most once a second, and does not end Run.
func (w *Worker) Run(ctx context.Context) error { return w.work(ctx, false) }

// Drain runs jobs until nothing is due, nothing runs, and no retry that this Drain scheduled is outstanding. It does
// not wait for jobs enqueued for later. It may be called again and again, and is the way to run jobs in tests and
// batches. If ctx ends first it stops as Run does and returns ctx's error. Trouble with the storage ends it.
func (w *Worker) Drain(ctx context.Context) error { return w.work(ctx, true) }

// Stop ends a Run or Drain in progress as cancelling its ctx would, without waiting for it. Before the first Run it
// makes that one return at once, so that a stop is not lost while the program starts. Otherwise it does nothing.
func (w *Worker) Stop() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.stopped = !w.ran
	if w.stop != nil {
		w.stop()
	}
}

func (w *Worker) work(ctx context.Context, drain bool) error {
	s, err := w.newShift(drain)
	if err != nil {
		return fmt.Errorf("pinion: worker: %w", err)
	}
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	w.mu.Lock()
	if w.stop != nil {
		w.mu.Unlock()
		return errors.New("pinion: worker: it is running already")
	}
	w.ran, w.stop = true, stop
	if w.stopped {
		stop()
	}
	w.stopped = false
	w.mu.Unlock()
	err = s.work(ctx)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.stop = nil
	return err
}

// shift is one Run or Drain: the worker's settings with their defaults, and what is in its hands. Two contexts go
// through its methods: that of the claims, which ends with a stop, and that of everything that is written, which
// ends when the shift gives up.
type shift struct {
	drain                                  bool
	claimAhead                             bool // claim jobs ahead of free slots
	storage                                Storage
	name                                   string
	queues                                 []string
	registry                               *Registry
	retry                                  RetryPolicy
	timeout, visibility, beat, reap, grace time.Duration
	call                                   RunFunc // a task, with the middleware around it
	log                                    *slog.Logger
	metrics                                *counters
	wall                                   func() time.Time
	began                                  time.Time

	end   context.CancelFunc    // stops the claims
	slots []atomic.Pointer[run] // what each slot is running, until that is recorded or in done
	flush chan struct{}         // capacity 1: done has begun, or should not wait for more

	mu      sync.Mutex           // guards the rest, and is taken once a job: lists cost less than channels do
	change  *sync.Cond           // there is reason to claim, or the claims end
	arrived *sync.Cond           // ready or closed has changed
	ready   []*Job               // claimed, in order, and waiting for a slot
	closed  bool                 // there will be no more in ready
	done    []*Job               // succeeded, to be recorded in batches
	held    int                  // jobs claimed and not ended, waiting ones included
	unsaved int                  // ended, but not recorded
	sent    int                  // jobs that were ever handed to the slots
	looked  int                  // sent, when releaseReady last looked
	asked   int                  // free slots for which a claim is under way
	ahead   int                  // jobs beyond those for which a claim is under way
	dry     bool                 // nothing can be claimed ahead before a slot is free
	known   bool                 // pace has been measured
	pace    time.Duration        // how long a task takes, on a moving average
	rested  context.CancelFunc   // called when nothing is held or unsaved
	retries map[string]time.Time // scheduled by a Drain
	logged  time.Time            // trouble, last
	lapsed  time.Time            // when a lease could last not be prolonged or ended
	failure error                // ends the shift
}

const (
	aheadMost    = 1000                   // jobs claimed ahead of free slots
	aheadTime    = 100 * time.Millisecond // within which they are to start
	batchMost    = 1000                   // successes recorded at once
	batchTime    = 500 * time.Microsecond // for which they are gathered
	troublePause = time.Second            // between tries while the storage is in trouble
	lastWords    = time.Second            // after ShutdownTimeout, for recording what is left
)

// newShift checks the fields and fills in the defaults.
func (w *Worker) newShift(drain bool) (*shift, error) {
	if w.Storage == nil {
		return nil, errors.New("Storage is not set")
	}
	if w.Concurrency < 0 || w.Concurrency > 100_000 {
		return nil, fmt.Errorf("the Concurrency is %d; 0 means 10, and 100,000 is the most", w.Concurrency)
	}
	if len(w.Name) > maxName || !utf8.ValidString(w.Name) {
		return nil, fmt.Errorf("the Name is %.300q; it must be valid UTF-8 of at most %d bytes", w.Name, maxName)
	}
	for _, d := range []struct {
		name  string
		value time.Duration
	}{{"TaskTimeout", w.TaskTimeout}, {"VisibilityTimeout", w.VisibilityTimeout}, {"HeartbeatInterval", w.HeartbeatInterval},
		{"ReapInterval", w.ReapInterval}, {"ShutdownTimeout", w.ShutdownTimeout}} {
		if d.value < 0 {
			return nil, fmt.Errorf("%s is %v; 0 means the default", d.name, d.value)
		}
	}
	s := &shift{began: time.Now(), drain: drain, storage: w.Storage, name: cmp.Or(w.Name, processName()), queues: w.Queues, registry: cmp.Or(w.Registry, DefaultRegistry),
		retry: *cmp.Or(w.Retry, &DefaultRetry), timeout: w.TaskTimeout, visibility: cmp.Or(w.VisibilityTimeout, 10*time.Second),
		reap: cmp.Or(w.ReapInterval, 2*time.Second), grace: cmp.Or(w.ShutdownTimeout, 10*time.Second),
		log: cmp.Or(w.Logger, slog.Default()), metrics: &w.metrics, wall: w.wall, retries: make(map[string]time.Time)}
	if err := s.retry.check(); err != nil {
		return nil, fmt.Errorf("in Retry: %w", err)
	}
	s.beat = cmp.Or(w.HeartbeatInterval, max(min(s.visibility/3, time.Second), time.Millisecond))
	if s.beat >= s.visibility {
		return nil, fmt.Errorf("HeartbeatInterval (%v) must be shorter than VisibilityTimeout (%v)", s.beat, s.visibility)
	}
	if s.wall == nil {
		s.wall = time.Now
	}
	s.call = protected(s.task)
	if w.Middleware != nil {
		wrapped := w.Middleware(s.call)
		if wrapped == nil {
			return nil, errors.New("the Middleware returns no function")
		}
		s.call = protected(func(ctx context.Context, job *Job) error {
			shown := *job // what the worker writes by must not be changed
			return wrapped(ctx, &shown)
		})
	}
	s.slots = make([]atomic.Pointer[run], cmp.Or(w.Concurrency, 10))
	s.flush, s.change, s.arrived = make(chan struct{}, 1), sync.NewCond(&s.mu), sync.NewCond(&s.mu)
	// Where some jobs have one attempt, it is not to be lost while they wait.
	s.claimAhead = s.retry.MaxRetries != 0 && !s.registry.once()
	return s, nil
}

// work runs the shift's goroutines, each of which ends before it returns, but for tasks that will not.
func (s *shift) work(ctx context.Context) error {
	tasks, cancelTasks := context.WithCancelCause(context.WithoutCancel(ctx))
	defer cancelTasks(ErrShutdown)
	writes, cancelWrites := context.WithCancel(context.WithoutCancel(ctx))
	defer cancelWrites()
	claiming, stopClaiming := context.WithCancel(ctx)
	defer stopClaiming()
	s.end = stopClaiming
	defer context.AfterFunc(claiming, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.change.Broadcast()
	})()
	resting, stopRest := context.WithCancel(writes)
	defer stopRest()

	var claims, slots, rest sync.WaitGroup
	for i := range s.slots {
		slots.Go(func() { s.slot(claiming, tasks, writes, &slots, i) })
	}
	ended := make(chan struct{})
	rest.Go(func() { s.finish(writes, ended) })
	rest.Go(func() { every(resting, s.beat, s.heartbeat) })
	wait := s.waitMost()
	rest.Go(func() { every(resting, wait, func(context.Context) { s.releaseReady(writes, false) }) })
	look := s.reaper()
	look(claiming)
	claims.Go(func() { every(claiming, s.reap, look) })
	claimers := 2 // so that a job which arrives while one claim is being answered finds the other waiting
	if s.drain || len(s.slots) == 1 {
		claimers = 1 // the answers of two may overtake each other, and a single slot is to keep the order
	}
	for range claimers {
		claims.Go(func() { s.claimAll(claiming, writes); stopClaiming() })
	}
	claims.Wait()

	// The stop: what waits goes back, what runs has its time.
	defer time.AfterFunc(s.grace, func() { cancelTasks(ErrShutdown) }).Stop()
	defer time.AfterFunc(s.grace+lastWords, cancelWrites).Stop()
	s.releaseReady(writes, true)
	s.mu.Lock()
	s.closed = true
	s.arrived.Broadcast()
	s.mu.Unlock()
	idle := make(chan struct{})
	go func() { slots.Wait(); close(idle) }() // ends with the last task
	select {
	case <-idle:
	case <-writes.Done():
	}
	stuck := slices.DeleteFunc(s.running(), func(r *run) bool { return r.ended.Load() })
	close(ended)
	stopRest()
	rest.Wait()
	return s.verdict(ctx, stuck)
}

// verdict is what Run and Drain return.
func (s *shift) verdict(ctx context.Context, stuck []*run) error {
	s.mu.Lock()
	err, unsaved := s.failure, s.unsaved
	s.mu.Unlock()
	if len(stuck) > 0 {
		var names []string
		for _, r := range stuck {
			names = append(names, fmt.Sprintf("%s (job %s)", r.job.Task, r.job.ID))
		}
		err = errors.Join(err, fmt.Errorf("pinion: worker: %d tasks ignored the shutdown and are left to the reaper: %s",
			len(stuck), strings.Join(names, ", ")))
	}
	if unsaved > 0 {
		err = errors.Join(err, fmt.Errorf("pinion: worker: the ends of %d jobs could not be recorded; they will run again", unsaved))
	}
	if err == nil && s.drain {
		err = ctx.Err()
	}
	return err
}

// ---- Claiming ----

// claimAll claims until ctx ends or, in a Drain, there is nothing more to do.
func (s *shift) claimAll(ctx, writes context.Context) {
	for {
		slots, ahead := s.reserve(ctx)
		if slots+ahead == 0 {
			return
		}
		waiting, stop, last := s.patience(ctx)
		jobs, err := s.storage.Dequeue(waiting, DequeueOptions{
			Max: slots + ahead, Ahead: ahead, Queues: s.queues, Worker: s.name, NoWait: last})
		impatient := err != nil && waiting.Err() != nil && errors.Is(err, waiting.Err())
		stop()
		s.dispatch(writes, slots, ahead, jobs)
		switch {
		case err == nil && len(jobs) > 0, ctx.Err() != nil:
		case last && slots > 0 && (err == nil || impatient): // without a slot, what was claimed before would not be had
			return
		case err == nil, impatient:
		case s.drain, errors.Is(err, ErrClosed):
			s.fail(err)
			return
		default:
			s.trouble("claiming jobs", err)
			pause(ctx, troublePause)
		}
	}
}

// fail ends the shift as a stop does, with the first error that asks for it.
func (s *shift) fail(err error) {
	s.mu.Lock()
	s.failure = cmp.Or(s.failure, err)
	s.mu.Unlock()
	s.end()
}

// patience is how long a claim may wait. For a Run that is until ctx ends. For a Drain it is while something runs,
// which may enqueue more, or until the next of its own retries is due; and then, for the last time, not at all: a
// claim with a context that has ended takes what there is.
func (s *shift) patience(ctx context.Context) (waiting context.Context, stop context.CancelFunc, last bool) {
	waiting, stop = context.WithCancel(ctx)
	if !s.drain {
		return waiting, stop, false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.rested = stop; s.held+s.unsaved > 0 {
		return waiting, stop, false
	}
	var next time.Time
	for id, due := range s.retries {
		if !due.After(time.Now()) {
			delete(s.retries, id) // due, and not to be had: another worker has it
		} else if next.IsZero() || due.Before(next) {
			next = due
		}
	}
	if next.IsZero() {
		return waiting, stop, true
	}
	stop()
	waiting, stop = context.WithDeadline(ctx, next.Add(time.Millisecond))
	return waiting, stop, false
}

// reserve waits until there is reason to claim, and sets aside what is to be claimed: slots that are free, and how
// many jobs ahead of free slots. Both are 0 when ctx has ended.
func (s *shift) reserve(ctx context.Context) (slots, ahead int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for ; ctx.Err() == nil; s.change.Wait() {
		if slots, ahead = s.wantedLocked(); slots+ahead > 0 {
			s.asked += slots
			s.ahead += ahead
			return slots, ahead
		}
	}
	return 0, 0
}

// wantedLocked is what there is reason to claim.
func (s *shift) wantedLocked() (slots, ahead int) {
	free, most := len(s.slots)-s.held-s.asked, s.aheadLocked()
	ahead = max(most-s.ahead-max(s.held-len(s.slots), 0), 0)
	switch {
	case s.unsaved >= 2*batchMost: // the storage does not keep up
		return 0, 0
	case free > 0 && s.asked == 0 && !s.drain:
		return (free + 1) / 2, ahead // the rest is the other claim's
	case free > 0:
		return free, ahead
	case s.dry || s.asked+s.ahead > 0 || ahead <= most/2:
		return 0, 0
	}
	return 0, ahead
}

// aheadLocked is how many jobs to have waiting: as many as will start soon, so that short tasks are claimed in large
// batches and long ones are left to other workers.
func (s *shift) aheadLocked() int {
	if !s.claimAhead || !s.known {
		return 0
	}
	return min(aheadMost, int(time.Duration(len(s.slots))*aheadTime/max(s.pace, time.Microsecond)))
}

// dispatch takes back the reservation and hands claimed jobs to the slots. While a claim waited with free slots, one
// beside it may have filled them with jobs ahead: a job that was claimed before then goes back at once, for in its
// place ahead of a free slot it could lose another attempt to a task that kills the process.
func (s *shift) dispatch(writes context.Context, slots, ahead int, jobs []*Job) {
	var back []*Job
	s.mu.Lock()
	s.asked -= slots
	s.ahead -= ahead
	s.dry = len(jobs) == 0
	for _, job := range jobs {
		delete(s.retries, job.ID)
		if s.held++; job.Attempts > 1 && s.held > len(s.slots) {
			back = append(back, job)
		} else {
			s.ready = append(s.ready, job)
			s.sent++
			s.arrived.Signal()
		}
	}
	s.mu.Unlock()
	if len(back) > 0 {
		s.giveBack(writes, back...)
	}
}

// count adds to what is held and unsaved, and wakes who waits for that.
func (s *shift) count(held, unsaved int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.countLocked(held, unsaved)
}

func (s *shift) countLocked(held, unsaved int) {
	s.held += held
	s.unsaved += unsaved
	if s.held == 0 && len(s.done) > 0 {
		s.flushLocked()
	}
	if slots, ahead := s.wantedLocked(); slots+ahead > 0 {
		s.change.Broadcast()
	}
	if s.held+s.unsaved == 0 && s.rested != nil {
		s.rested()
	}
}

func (s *shift) flushLocked() {
	select {
	case s.flush <- struct{}{}:
	default:
	}
}

// waitMost is how long a job may wait for a slot, during which no heartbeats are sent for it. As it is looked for as
// often, one may start after almost twice that, and must then get its first heartbeat before its lease is lost.
func (s *shift) waitMost() time.Duration {
	return max(min(s.beat, (s.visibility-s.beat)/2), time.Millisecond)
}

// releaseReady gives back the jobs that wait for a slot: all, or those that did so at the last look already, because
// they would run sooner elsewhere.
func (s *shift) releaseReady(ctx context.Context, all bool) {
	s.mu.Lock()
	n := len(s.ready)
	if !all {
		n -= s.sent - s.looked
	}
	back := slices.Clone(s.ready[:max(n, 0)])
	s.ready, s.looked = s.ready[len(back):], s.sent
	s.known = s.known && len(back) == 0 // otherwise tasks take longer than was thought
	s.mu.Unlock()
	if len(back) > 0 {
		s.giveBack(ctx, back...)
	}
}

// giveBack releases jobs that did not start.
func (s *shift) giveBack(ctx context.Context, jobs ...*Job) {
	s.count(-len(jobs), len(jobs))
	s.save(ctx, "releasing jobs", len(jobs), func() error { return s.release(ctx, jobs) })
}

// release gives claims back with their attempt refunded.
func (s *shift) release(ctx context.Context, jobs []*Job) error {
	_, _, err := s.storage.Release(ctx, time.Time{}, nil, jobs...)
	return err
}

// ---- Running ----

// slot runs one job after another. A task that calls runtime.Goexit takes the goroutine with it; another follows.
func (s *shift) slot(claiming, tasks, writes context.Context, slots *sync.WaitGroup, i int) {
	var current *run
	defer func() {
		if current != nil {
			s.settle(writes, current, &PanicError{"runtime.Goexit was called", debug.Stack()})
			s.slots[i].Store(nil)
			s.mu.Lock()
			s.endLocked(current, nil)
			s.mu.Unlock()
			slots.Go(func() { s.slot(claiming, tasks, writes, slots, i) })
		}
	}()
	for job := s.next(nil, nil); job != nil; {
		if claiming.Err() != nil {
			s.giveBack(writes, job)
			job = s.next(nil, nil)
			continue
		}
		current = &run{job: job, storage: s.storage, tasks: tasks}
		s.slots[i].Store(current)
		done := s.attempt(writes, current)
		s.slots[i].Store(nil)
		ended := current
		current = nil
		job = s.next(ended, done)
	}
}

// next ends an attempt, if there was one, and waits for the next job. It returns nil when there will be none.
func (s *shift) next(ended *run, done *Job) (job *Job) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if ended != nil {
		s.endLocked(ended, done)
	}
	for len(s.ready) == 0 {
		if s.closed {
			return nil
		}
		s.arrived.Wait()
	}
	job, s.ready[0] = s.ready[0], nil
	s.ready = s.ready[1:]
	return job
}

// endLocked frees the slot of an attempt and keeps the pace; done has succeeded and is to be recorded.
func (s *shift) endLocked(r *run, done *Job) {
	if r.took > 0 {
		if !s.known {
			s.known, s.pace = true, r.took
		}
		s.pace += (r.took - s.pace) / 8
	}
	unsaved := 0
	if done != nil {
		unsaved, s.done = 1, append(s.done, done)
		if len(s.done) == 1 || len(s.done) == batchMost {
			s.flushLocked()
		}
	}
	s.countLocked(-1, unsaved)
}

// attempt runs a job and settles how it ended. A success is returned, to be recorded with others.
func (s *shift) attempt(writes context.Context, r *run) (done *Job) {
	defer r.cancel(nil)
	h, _ := s.registry.lookup(r.job.Task)
	if most := cmp.Or(h.retry, &s.retry).MaxRetries; r.job.Attempts-1 > most { // not most+1: math.MaxInt means for ever
		// Its workers died of it, or so it seems: they did not live to say how it ended. One may have died right here,
		// so that the claims before this one are not all attempts.
		r.ended.Store(true)
		s.count(0, 1)
		s.giveUp(writes, r, attemptsUsedUp(r.job, most+1))
		return nil
	}
	if r.timeout = cmp.Or(h.timeout, s.timeout); r.timeout > 0 {
		r.made() // the time begins
	}
	if s.log.Enabled(r, slog.LevelDebug) {
		s.log.Debug("job starts", "task", r.job.Task, "job", r.job.ID, "attempt", r.job.Attempts)
	}
	return s.settle(writes, r, s.measured(r))
}

// measured calls the task and takes its time, also when it ends by runtime.Goexit.
func (s *shift) measured(r *run) error {
	s.metrics.running.Add(1)
	started := time.Since(s.began) // one clock; time.Now reads two, and a job in memory takes half a microsecond
	defer func() {
		r.took = max(time.Since(s.began)-started, 1)
		s.metrics.running.Add(-1)
	}()
	return s.call(r, r.job)
}

// task finds the job's task and calls it.
func (s *shift) task(ctx context.Context, job *Job) error {
	h, ok := s.registry.lookup(job.Task)
	if !ok {
		return fmt.Errorf("%w: %q", ErrTaskNotFound, job.Task)
	}
	return h.run(ctx, job)
}

// ---- Recording ----

// settle records how an attempt ended. The task's own answer counts, also after a timeout or a cancellation, except
// that a task which stopped because the worker is shutting down has not failed, and that the error of one whose job was
// canceled says no more than that. A success is returned, to be recorded.
func (s *shift) settle(ctx context.Context, r *run, err error) (done *Job) {
	cause := r.cause()
	interrupted := errors.Is(err, context.Canceled) || errors.Is(err, ErrShutdown)
	r.ended.Store(true)
	switch {
	case errors.Is(cause, ErrLeaseLost):
		s.log.Warn("lease lost; another worker has the job", "task", r.job.Task, "job", r.job.ID)
	case err == nil:
		done = r.job
		r.mu.Lock()
		if r.result != nil {
			c := *done // a copy: the storage may be reading the job for a heartbeat
			c.Result, done = r.result, &c
		}
		r.mu.Unlock()
	case errors.Is(cause, ErrCanceled):
		s.count(0, 1)
		s.conclude(ctx, "canceling a job", r, func() error { return s.storage.MarkFailed(ctx, r.job, ErrCanceled, time.Now()) })
	case errors.Is(cause, ErrShutdown) && interrupted:
		s.count(0, 1)
		s.save(ctx, "releasing a job", 1, func() error { return s.release(ctx, []*Job{r.job}) })
	default:
		if errors.Is(cause, context.DeadlineExceeded) && (interrupted || errors.Is(err, context.DeadlineExceeded)) && !errors.Is(err, cause) {
			err = fmt.Errorf("%w: %w", cause, err)
		}
		s.count(0, 1)
		s.retryOrGiveUp(ctx, r, err)
	}
	return done
}

func (s *shift) retryOrGiveUp(ctx context.Context, r *run, err error) {
	h, _ := s.registry.lookup(r.job.Task)
	delay, retry := cmp.Or(h.retry, &s.retry).next(r.job.Attempts, err)
	if !retry {
		if s.giveUp(ctx, r, errors.New(ErrorText(err))) { // its words alone: an ErrAttemptsUsedUp of a task's would say that it was not run
			s.metrics.failed.Add(1)
		}
		return
	}
	due := time.Now().Add(delay)
	s.mu.Lock()
	if s.drain {
		s.retries[r.job.ID] = due // before it is recorded: after that it may be claimed
	}
	s.mu.Unlock()
	if s.conclude(ctx, "recording a failure", r, func() error { return s.storage.MarkFailed(ctx, r.job, err, due) }) {
		s.metrics.failed.Add(1)
		s.metrics.retried.Add(1)
		s.log.Warn("job failed, will be retried", "task", r.job.Task, "job", r.job.ID, "attempt", r.job.Attempts, "in", delay, "error", brief(err))
	}
}

func (s *shift) giveUp(ctx context.Context, r *run, err error) (saved bool) {
	saved = s.conclude(ctx, "dead-lettering a job", r, func() error { return s.storage.DeadLetter(ctx, r.job, err) })
	if saved {
		s.metrics.deadLettered.Add(1)
		s.log.Error("job dead-lettered", "task", r.job.Task, "job", r.job.ID, "attempts", r.job.Attempts, "error", brief(err))
	}
	return saved
}

// conclude saves the end of an attempt that did not succeed, and reports whether that is what was recorded: a job that
// was canceled the storage ends as such.
func (s *shift) conclude(ctx context.Context, what string, r *run, write func() error) (recorded bool) {
	canceled := false
	saved := s.save(ctx, what, 1, func() error {
		err := write()
		if canceled = errors.Is(err, ErrCanceled); canceled {
			return nil
		}
		return err
	})
	if saved && canceled {
		s.metrics.canceled.Add(1)
		s.log.Info("job canceled", "task", r.job.Task, "job", r.job.ID, "attempt", r.job.Attempts)
		s.mu.Lock()
		delete(s.retries, r.job.ID)
		s.mu.Unlock()
	}
	return saved && !canceled
}

// brief is an error in one line, its first and its last: of a program that says several the last may be the telling one.
// What comes after an empty line, as a panic's stack, is kept with the job and not logged each time.
func brief(err error) string {
	text, _, _ := strings.Cut(ErrorText(err), "\n\n")
	if lines := strings.Split(strings.TrimSpace(text), "\n"); len(lines) > 1 {
		return lines[0] + " … " + strings.TrimSpace(lines[len(lines)-1])
	}
	return text
}

// finish records successes in batches until ended is closed and nothing is left.
func (s *shift) finish(ctx context.Context, ended <-chan struct{}) {
	for all := s.gather(nil, ended); len(all) > 0; all = s.gather(all, ended) {
		for batch := range slices.Chunk(all, batchMost) {
			var lost []*Job
			if s.save(ctx, "recording successes", len(batch), func() (err error) {
				lost, err = s.storage.MarkDone(ctx, batch...)
				return err
			}) {
				s.metrics.succeeded.Add(int64(len(batch) - len(lost)))
				for _, job := range lost {
					s.log.Warn("lease lost before success was recorded; the job runs again", "task", job.Task, "job", job.ID)
				}
			}
		}
	}
}

// gather waits for successes, for a full batch, but not for longer than batchTime and not when nothing runs. It takes
// over the memory of the last ones. When ended is closed it returns what is left.
func (s *shift) gather(last []*Job, ended <-chan struct{}) (all []*Job) {
	clear(last)
	var timer <-chan time.Time
	for waited := false; ; {
		s.mu.Lock()
		n := len(s.done)
		if n >= batchMost || waited || n > 0 && s.held == 0 {
			all, s.done = s.done, last[:0]
			s.mu.Unlock()
			return all
		}
		s.mu.Unlock()
		if n > 0 && timer == nil {
			timer = time.After(batchTime)
		}
		select {
		case <-s.flush:
		case <-timer:
			waited = true
		case <-ended: // look again: the last success may have come since
			waited = true
		}
	}
}

// save writes the ends of n jobs until the storage takes them, the lease is lost, or ctx ends.
func (s *shift) save(ctx context.Context, what string, n int, write func() error) (saved bool) {
	for ctx.Err() == nil {
		err := write()
		if err == nil || errors.Is(err, ErrLeaseLost) {
			if err != nil {
				s.log.Warn("lease lost before "+what, "error", err)
			}
			s.count(0, -n)
			return err == nil
		}
		closed := errors.Is(err, ErrClosed)
		if s.lapse(what, err); closed || s.drain {
			s.fail(err)
		}
		if closed {
			return false
		}
		pause(ctx, troublePause)
	}
	return false
}

// lapse is trouble in which leases look lost that are not: see reaper.
func (s *shift) lapse(what string, err error) {
	s.mu.Lock()
	s.lapsed = time.Now()
	s.mu.Unlock()
	s.trouble(what, err)
}

// trouble logs what is wrong with the storage, at most once a second.
func (s *shift) trouble(what string, err error) {
	s.mu.Lock()
	quiet := time.Since(s.logged) < time.Second
	if !quiet {
		s.logged = time.Now()
	}
	s.mu.Unlock()
	if !quiet {
		s.log.Error("storage in trouble, will be tried again", "while", what, "error", err)
	}
}

// ---- Leases ----

// running lists the attempts in the slots.
func (s *shift) running() (runs []*run) {
	for i := range s.slots {
		if r := s.slots[i].Load(); r != nil {
			runs = append(runs, r)
		}
	}
	return runs
}

// heartbeat prolongs the leases of what runs and cancels what has lost its own, or whose job was canceled.
func (s *shift) heartbeat(ctx context.Context) {
	runs := s.running()
	if len(runs) == 0 {
		return
	}
	jobs := make([]*Job, len(runs))
	for i, r := range runs {
		jobs[i] = r.job
	}
	lost, err := s.storage.Heartbeat(ctx, jobs...)
	if err != nil && ctx.Err() == nil {
		s.lapse("sending heartbeats", err)
	}
	cancelRuns(runs, lost, ErrLeaseLost)
	if c, ok := s.storage.(Canceler); ok {
		canceled, err := c.Canceled(ctx, jobs...)
		if err != nil && ctx.Err() == nil {
			s.trouble("asking what was canceled", err)
		}
		cancelRuns(runs, canceled, ErrCanceled)
	}
}

func cancelRuns(runs []*run, jobs []*Job, cause error) {
	for _, job := range jobs {
		for _, r := range runs {
			if r.job.ID == job.ID && r.job.Claim == job.Claim {
				r.cancel(cause)
			}
		}
	}
}

// reaper returns the function that takes back lost leases. When the wall clock jumps (it and the monotonic clock
// disagree) the heartbeats in the storage look old that are not: it then lets one visibility period pass, in which
// they are renewed. So it does after trouble with the storage (a full disk, say), in which nobody could renew them.
func (s *shift) reaper() func(ctx context.Context) {
	looked, last, skip := time.Now(), s.wall().Round(0), time.Time{}
	return func(ctx context.Context) {
		now, wall := time.Now(), s.wall().Round(0)
		drift := wall.Sub(last) - now.Sub(looked)
		if looked, last = now, wall; drift.Abs() > time.Second {
			skip = time.Now().Add(s.visibility)
		}
		s.mu.Lock()
		lapsed := !s.lapsed.IsZero() && now.Sub(s.lapsed) < s.visibility
		s.mu.Unlock()
		if lapsed || time.Now().Before(skip) {
			return
		}
		// One that waits, for a lock that another program holds, say, is called off: as long nobody could renew a lease.
		soon, cancel := context.WithTimeout(ctx, max(s.visibility/5, time.Second))
		n, err := s.storage.ReapStale(soon, s.visibility)
		if cancel(); err != nil && ctx.Err() == nil {
			s.lapse("looking for lost leases", err)
		}
		if s.metrics.reaped.Add(int64(n)); n > 0 {
			s.log.Warn("lost leases taken back", "jobs", n)
		}
	}
}

// every calls f each time d has passed, until ctx ends.
func every(ctx context.Context, d time.Duration, f func(ctx context.Context)) {
	for pause(ctx, d) {
		f(ctx)
	}
}

// attemptsUsedUp is why a job that was claimed beyond its last attempt is given up.
func attemptsUsedUp(job *Job, most int) error {
	return fmt.Errorf("%w: %d of %d; the last error: %s", ErrAttemptsUsedUp, job.Attempts-1, most, cmp.Or(job.Error, "none"))
}

package pinion

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pinion-queue/pinion/internal/rules"
)

// Worker claims jobs and runs their tasks.
//
// Set the fields, then call Run or Drain. A zero field means the default in brackets. Run and Drain check the
// fields, which must not change until they return. A Worker that has stopped may run again. The second worker
// without a Name in a process is called host:pid/2, and so on.
//
// A worker claims only jobs whose tasks it knows. The others wait for a worker that knows them. If a job has
// waited so for a minute, the worker logs a warning, once for each task.
//
// A job whose worker has died is due again, with any worker running, after VisibilityTimeout, two
// ReapIntervals, and a fifth of VisibilityTimeout plus a second: 15 seconds by default. A job that loses its
// lease five times in a row is dead-lettered.
type Worker struct {
	Storage           Storage                    // holds the jobs; whoever opened it closes it after Run has returned
	Registry          *Registry                  // the tasks [DefaultRegistry]
	Queues            []string                   // the queues to claim from [every queue]
	Name              string                     // Job.Worker of the jobs it claims, at most 255 bytes [host:pid]
	Concurrency       int                        // slots: how many tasks run at once, at most 100,000 [10]
	Retry             *RetryPolicy               // for tasks without a policy of their own [DefaultRetry]
	TaskTimeout       time.Duration              // for tasks without a timeout of their own [none]
	VisibilityTimeout time.Duration              // how long a lease lasts without a heartbeat [10s]
	HeartbeatInterval time.Duration              // between two heartbeats [a third of VisibilityTimeout, at most 1s]
	ReapInterval      time.Duration              // between two looks for lost leases of any worker, and at Periodics [1s]
	ShutdownTimeout   time.Duration              // how long running tasks may go on after a stop [10s]
	Middleware        func(next RunFunc) RunFunc // wraps every task [none]
	Periodic          []Periodic                 // schedules whose jobs it plans, as other workers do [none]

	// OnEnd is called for each attempt that has ended, after the storage has recorded that or the lease was
	// lost [none]. job is a copy of the job as it was claimed, with the Result of its task. The calls come one
	// at a time. They delay neither heartbeats nor recording; but while 1,000 wait the worker claims nothing.
	// Run and Drain return after the last call. A second after ShutdownTimeout the ctx of OnEnd ends, and they
	// wait no longer.
	OnEnd func(ctx context.Context, job *Job, end End)

	// Logger receives starts of jobs at Debug; starts and stops of Run, and cancellations, at Info; retries and
	// lost leases at Warn; dead letters and storage errors at Error [slog.Default].
	Logger *slog.Logger

	mu      sync.Mutex         // guards the next four
	cancel  context.CancelFunc // stops the Run or Drain in progress; nil: there is none
	started bool               // Run or Drain was called
	stopped bool               // Stop was called before the first of them
	number  int                // of this worker among those of the process that have no Name; 0: not yet given
	metrics counters
}

// Metrics counts what a Worker has done since it was made. Only Running is a current value. Metrics fits
// expvar.Func.
type Metrics struct {
	Processed    int64         `json:"processed"`       // attempts that ended: Succeeded + Failed + Canceled
	Succeeded    int64         `json:"succeeded"`       // attempts that succeeded
	Failed       int64         `json:"failed"`          // attempts that failed, whether or not a retry follows
	Retried      int64         `json:"retried"`         // failed attempts that a retry follows
	DeadLettered int64         `json:"dead_lettered"`   // jobs that went to the dead-letter queue, run or not
	Canceled     int64         `json:"canceled"`        // attempts that ended their job as canceled
	Reaped       int64         `json:"reaped"`          // lost leases, of any worker, that this worker took back
	Running      int64         `json:"running"`         // tasks that run now
	Tasks        []TaskMetrics `json:"tasks,omitempty"` // the same by task, for those that had a job; sorted by name
}

// TaskMetrics are the [Metrics] of one task.
type TaskMetrics struct {
	Task         string        `json:"task"` // as it is registered
	Processed    int64         `json:"processed"`
	Succeeded    int64         `json:"succeeded"`
	Failed       int64         `json:"failed"`
	Retried      int64         `json:"retried"`
	DeadLettered int64         `json:"dead_lettered"`
	Canceled     int64         `json:"canceled"`
	Running      int64         `json:"running"`
	Took         time.Duration `json:"took"` // by all its calls that have returned; in JSON, nanoseconds
}

// counters are what Metrics returns.
type counters struct {
	tasks  sync.Map // *taskCounters by the name of the task
	reaped atomic.Int64
}

type taskCounters struct{ succeeded, failed, retried, deadLettered, canceled, running, took atomic.Int64 }

// of returns the counters of a task.
func (c *counters) of(task string) *taskCounters {
	kept, found := c.tasks.Load(task)
	if !found {
		kept, _ = c.tasks.LoadOrStore(task, new(taskCounters))
	}
	return kept.(*taskCounters)
}

func (c *taskCounters) metrics(task string) TaskMetrics {
	m := TaskMetrics{
		Task:         task,
		Succeeded:    c.succeeded.Load(),
		Failed:       c.failed.Load(),
		Retried:      c.retried.Load(),
		DeadLettered: c.deadLettered.Load(),
		Canceled:     c.canceled.Load(),
		Running:      c.running.Load(),
		Took:         time.Duration(c.took.Load()),
	}
	m.Processed = m.Succeeded + m.Failed + m.Canceled
	return m
}

// Metrics returns the current counts. It may be called at any time.
func (w *Worker) Metrics() Metrics {
	m := Metrics{Reaped: w.metrics.reaped.Load()}
	for name, counters := range w.metrics.tasks.Range {
		m.Tasks = append(m.Tasks, counters.(*taskCounters).metrics(name.(string)))
	}
	slices.SortFunc(m.Tasks, func(a, b TaskMetrics) int { return strings.Compare(a.Task, b.Task) })
	for _, task := range m.Tasks {
		m.Processed += task.Processed
		m.Succeeded += task.Succeeded
		m.Failed += task.Failed
		m.Retried += task.Retried
		m.DeadLettered += task.DeadLettered
		m.Canceled += task.Canceled
		m.Running += task.Running
	}
	return m
}

// Run claims and runs jobs until ctx ends or Stop is called.
//
// It then claims nothing more and starts nothing more. Running tasks keep a live context for ShutdownTimeout.
// After that their contexts are canceled with cause ErrShutdown. Jobs that did not start go back with the
// attempt refunded. So do jobs whose tasks then return an error, whatever it is, unless it is [Permanent].
//
// Run returns nil after a clean stop, at the latest a second after ShutdownTimeout. Its error names the field
// that is wrong, the tasks that ignored the cancellation, or the number of jobs whose end could not be
// recorded. Those jobs and those tasks' jobs run again when their leases have expired. A Run or Drain of a Worker
// that runs already returns an error at once. A closed storage ends Run with ErrClosed. Other storage errors, a
// full disk for example, do not end Run: it logs them, at most once a second, and tries again.
func (w *Worker) Run(ctx context.Context) error { return w.work(ctx, false) }

// Drain runs jobs until nothing is due and nothing runs. It waits for a retry that it has scheduled itself if
// that is due within five seconds, and for no other job that is due later. It does not wait for what other
// workers run, unless their heartbeats are missing: then it stays until their leases are taken back, and runs
// the jobs. It suits tests and batches, and may be called again and again. If ctx ends first, Drain stops as Run
// does and returns ctx's error. Unlike Run, it ends at the first storage error. If jobs are due whose tasks the
// worker does not know, it runs all others and returns an ErrTaskNotFound that names those tasks.
func (w *Worker) Drain(ctx context.Context) error { return w.work(ctx, true) }

// Stop ends a Run or Drain in progress, as if its ctx had ended, and does not wait for it. Before the first Run
// or Drain it makes that one return at once, so that a stop during the start of a program is not lost.
// Otherwise it does nothing.
func (w *Worker) Stop() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.started {
		w.stopped = true
	}
	if w.cancel != nil {
		w.cancel()
	}
}

func (w *Worker) work(ctx context.Context, drain bool) error {
	r, err := w.newRun(drain)
	if err != nil {
		return fmt.Errorf("pinion: worker: %w", err)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	if err := w.enter(cancel); err != nil {
		return err
	}
	defer w.leave()
	return r.work(ctx)
}

// enter makes cancel the way to stop the Worker, unless it is running already.
func (w *Worker) enter(cancel context.CancelFunc) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.cancel != nil {
		return errors.New("pinion: worker is already running")
	}
	w.cancel = cancel
	w.started = true
	if w.stopped {
		w.stopped = false
		cancel()
	}
	return nil
}

func (w *Worker) leave() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.cancel = nil
}

// ---- Settings ----

// settings are the fields of a Worker, checked and with their defaults.
type settings struct {
	storage     Storage
	registry    *Registry
	queues      []string
	name        string
	concurrency int
	retry       RetryPolicy
	taskTimeout time.Duration
	visibility  time.Duration
	heartbeat   time.Duration
	reap        time.Duration
	shutdown    time.Duration
	middleware  func(next RunFunc) RunFunc
	periodic    []Periodic
	onEnd       func(ctx context.Context, job *Job, end End)
	log         *slog.Logger
}

const maxConcurrency = 100_000

func (w *Worker) settings() (settings, error) {
	if err := w.check(); err != nil {
		return settings{}, err
	}
	s := settings{
		storage:     w.Storage,
		registry:    w.Registry,
		queues:      w.Queues,
		name:        w.Name,
		concurrency: w.Concurrency,
		retry:       DefaultRetry,
		taskTimeout: w.TaskTimeout,
		visibility:  orDefault(w.VisibilityTimeout, 10*time.Second),
		reap:        orDefault(w.ReapInterval, time.Second),
		shutdown:    orDefault(w.ShutdownTimeout, 10*time.Second),
		middleware:  w.Middleware,
		periodic:    w.Periodic,
		onEnd:       w.OnEnd,
		log:         w.Logger,
	}
	if s.registry == nil {
		s.registry = DefaultRegistry
	}
	if len(s.registry.Names()) == 0 {
		return settings{}, errors.New("field Registry has no tasks; register at least one")
	}
	if s.name == "" {
		s.name = w.defaultName()
	}
	if s.concurrency == 0 {
		s.concurrency = 10
	}
	if w.Retry != nil {
		s.retry = *w.Retry
	}
	if s.log == nil {
		s.log = slog.Default()
	}
	aThird := max(min(s.visibility/3, time.Second), time.Millisecond)
	s.heartbeat = orDefault(w.HeartbeatInterval, aThird)
	if gap := rules.ReapGap(s.visibility); s.heartbeat >= gap {
		return settings{}, fmt.Errorf("HeartbeatInterval is %v; want less than %v, so that a VisibilityTimeout of %v "+
			"is renewed before others take the lease back", s.heartbeat, gap, s.visibility)
	}
	return s, nil
}

// unnamed counts the workers of this process that have no Name.
var unnamed atomic.Int64

// defaultName returns the name of a worker that has none. The workers of one process differ in their number.
func (w *Worker) defaultName() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.number == 0 {
		w.number = int(unnamed.Add(1))
	}
	if w.number == 1 {
		return processName()
	}
	return fmt.Sprintf("%s/%d", processName(), w.number)
}

func orDefault(d, otherwise time.Duration) time.Duration {
	if d == 0 {
		return otherwise
	}
	return d
}

// check reports the first field that is wrong by itself.
func (w *Worker) check() error {
	if w.Storage == nil {
		return errors.New("field Storage is not set")
	}
	if w.Concurrency < 0 || w.Concurrency > maxConcurrency {
		return fmt.Errorf("field Concurrency is %d; want 0 (default 10) to %d", w.Concurrency, maxConcurrency)
	}
	if len(w.Name) > maxName || !rules.IsText(w.Name) {
		return fmt.Errorf("field Name is %.300q; want valid UTF-8 of at most %d bytes, without NUL", w.Name, maxName)
	}
	durations := []struct {
		field string
		value time.Duration
	}{
		{"TaskTimeout", w.TaskTimeout},
		{"VisibilityTimeout", w.VisibilityTimeout},
		{"HeartbeatInterval", w.HeartbeatInterval},
		{"ReapInterval", w.ReapInterval},
		{"ShutdownTimeout", w.ShutdownTimeout},
	}
	for _, d := range durations {
		if d.value < 0 {
			return fmt.Errorf("%s is %v; want 0 (the default) or more", d.field, d.value)
		}
	}
	if w.Retry != nil {
		if err := w.Retry.check(); err != nil {
			return fmt.Errorf("field Retry: %w", err)
		}
	}
	return checkPeriodics(w.Storage, w.Periodic)
}

// ---- One Run or Drain ----

// workerRun is one Run or Drain. A job passes through it in this order: a claim puts it into slots, a slot
// attempts it and records how it ended, a success by way of successes. Meanwhile heartbeats keep its lease
// alive. Each part has its own lock, and no code holds two of these.
type workerRun struct {
	settings
	drain   bool
	metrics *counters
	call    RunFunc // a task with the middleware around it
	began   time.Time

	slots     slots
	successes successes
	ends      ends
	retries   ownRetries
	periodics *periodics
	trouble   troubleLog
	warned    onceEach                // names that others have made up, and that were logged
	firstSeen map[seenClaim]time.Time // in a Drain, the HeartbeatAt of others' claims when it first saw them

	stopClaims context.CancelFunc // begins the shutdown

	mu      sync.Mutex // guards failure
	failure error      // the first storage error that ended the run
}

// lastWords is how long recording may go on after ShutdownTimeout.
const lastWords = time.Second

func (w *Worker) newRun(drain bool) (*workerRun, error) {
	s, err := w.settings()
	if err != nil {
		return nil, err
	}
	r := &workerRun{
		settings:  s,
		drain:     drain,
		metrics:   &w.metrics,
		began:     time.Now(),
		firstSeen: make(map[seenClaim]time.Time),
	}
	r.call = recovering(r.runTask)
	if s.middleware != nil {
		wrapped := s.middleware(r.call)
		if wrapped == nil {
			return nil, errors.New("field Middleware returned nil; want a function")
		}
		r.call = recovering(func(ctx context.Context, job *Job) error {
			shown := *job // the worker's own must stay as it is: it names the claim
			return wrapped(ctx, &shown)
		})
	}
	r.successes.wake = make(chan struct{}, 1)
	r.slots.init(intake{slots: s.concurrency, claimers: r.claimers()}, r.mayPrefetch, r.successes.nudge)
	r.ends.init(s.onEnd)
	r.periodics = newPeriodics(s.periodic)
	r.trouble.log = s.log
	return r, nil
}

// mayPrefetch reports whether jobs may be claimed ahead of free slots: a job with a single attempt must not lose it
// while it waits for one. A task that allows no retry may be registered while the worker runs.
func (r *workerRun) mayPrefetch() bool { return r.retry.MaxRetries != 0 && !r.registry.hasOnce.Load() }

// claimers returns how many claims are made at the same time. With two, a job that arrives while one claim is
// being answered finds the other waiting. A single slot has one, so that it keeps the order: the answers of two
// claims can overtake each other. A Drain has one, so that it knows when there is nothing left.
func (r *workerRun) claimers() int {
	if r.drain || r.concurrency == 1 {
		return 1
	}
	return 2
}

// work runs until ctx ends or the run ends by itself, and then shuts down. All its goroutines end before it
// returns, except those of tasks that ignore their cancellation.
//
// Four contexts end one after another: claims with the stop, tasks after ShutdownTimeout, background (heartbeats and
// sweeps) when the tasks have returned, and writes at the latest a second after ShutdownTimeout.
func (r *workerRun) work(ctx context.Context) error {
	claims, stopClaims := context.WithCancel(ctx)
	defer stopClaims()
	tasks, cancelTasks := context.WithCancelCause(context.WithoutCancel(ctx))
	defer cancelTasks(ErrShutdown)
	writes, cancelWrites := context.WithCancel(context.WithoutCancel(ctx))
	defer cancelWrites()
	background, stopBackground := context.WithCancel(writes)
	defer stopBackground()
	r.stopClaims = stopClaims
	defer context.AfterFunc(claims, r.slots.stop)()
	r.logStart()

	var running sync.WaitGroup // the slots
	for i := range r.slots.running {
		running.Go(func() { r.runSlot(tasks, writes, &running, i) })
	}
	var ending sync.WaitGroup // what calls OnEnd
	ending.Go(func() { r.callOnEnd(writes, &ending) })
	var others sync.WaitGroup
	others.Go(func() { r.recordSuccesses(writes) })
	others.Go(func() { repeat(background, r.heartbeat, r.sendHeartbeats) })
	sweep := r.sweepInterval()
	others.Go(func() { repeat(background, sweep, func(context.Context) { r.giveBack(writes, r.slots.takeOld()) }) })
	// On a goroutine of its own, because it reads the limits: a slow read must not delay the sweep.
	others.Go(func() { repeat(background, sweep, func(ctx context.Context) { r.giveBackLimited(ctx, writes) }) })

	r.claimUntilStopped(claims, writes)

	// The stop: what waits goes back, what runs has its time, and what has ended is recorded.
	cancelLater := time.AfterFunc(r.shutdown, func() { cancelTasks(ErrShutdown) })
	defer cancelLater.Stop()
	giveUp := r.shutdown
	if giveUp < math.MaxInt64-lastWords { // "for ever" must not overflow to "at once"
		giveUp += lastWords
	}
	giveUpLater := time.AfterFunc(giveUp, cancelWrites)
	defer giveUpLater.Stop()
	r.giveBack(writes, r.slots.takeAll())
	waitFor(writes, &running)
	ignoring := r.slots.unreturned()
	r.successes.close()
	stopBackground()
	others.Wait()
	r.ends.close()
	waitFor(writes, &ending)
	err := r.verdict(ctx, ignoring)
	r.logStop(err)
	return err
}

// claimUntilStopped claims jobs and tends the queue until ctx ends or, in a Drain, nothing is left to do.
func (r *workerRun) claimUntilStopped(ctx, writes context.Context) {
	upkeep := r.newUpkeep()
	upkeep(ctx) // before the first claim, so that a Drain finds the periodic jobs and doubts the leases of the dead
	var group sync.WaitGroup
	group.Go(func() { repeat(ctx, r.reap, upkeep) })
	for range r.claimers() {
		group.Go(func() {
			r.claimLoop(ctx, writes)
			r.stopClaims()
		})
	}
	group.Wait()
}

// waitFor waits until group is done or ctx ends.
func waitFor(ctx context.Context, group *sync.WaitGroup) {
	done := make(chan struct{})
	go func() { // ends with the last of the group
		group.Wait()
		close(done)
	}()
	select {
	case <-done:
	case <-ctx.Done():
	}
}

// repeat calls f each time d has passed, until ctx ends.
func repeat(ctx context.Context, d time.Duration, f func(ctx context.Context)) {
	for pause(ctx, d) {
		f(ctx)
	}
}

// fail begins the shutdown because of a storage error. Run and Drain return the first one.
func (r *workerRun) fail(err error) {
	r.mu.Lock()
	if r.failure == nil {
		r.failure = err
	}
	r.mu.Unlock()
	r.stopClaims()
}

// verdict returns what Run or Drain returns. ignoring are the attempts whose tasks ignored the shutdown.
func (r *workerRun) verdict(ctx context.Context, ignoring []*attempt) error {
	r.mu.Lock()
	err := r.failure
	r.mu.Unlock()
	if len(ignoring) > 0 {
		var names []string
		for _, a := range ignoring {
			names = append(names, fmt.Sprintf("%s (job %s)", a.job.Task, a.job.ID))
		}
		err = errors.Join(err, fmt.Errorf("pinion: worker: %d tasks ignored the shutdown: %s; "+
			"their jobs run again when the leases have expired", len(ignoring), strings.Join(names, ", ")))
	}
	if unrecorded := r.slots.open() - len(ignoring); unrecorded > 0 {
		err = errors.Join(err, fmt.Errorf("pinion: worker: the ends of %d jobs could not be recorded; "+
			"the jobs run again when the leases have expired", unrecorded))
	}
	if err == nil && r.drain {
		err = ctx.Err()
	}
	if err == nil && r.drain {
		err = r.unknownDue(ctx)
	}
	return err
}

// ---- Log ----

func (r *workerRun) logStart() {
	if r.drain {
		return // its caller knows when it starts and stops
	}
	queues := "all"
	if len(r.queues) > 0 {
		queues = strings.Join(r.queues, ",")
	}
	r.log.Info("worker started", "worker", r.name, "concurrency", r.concurrency, "queues", queues,
		"tasks", strings.Join(r.registry.Names(), ","))
}

func (r *workerRun) logStop(err error) {
	if r.drain {
		return
	}
	attrs := []any{"worker", r.name, "after", readable(time.Since(r.began))}
	if err != nil {
		attrs = append(attrs, "error", err)
	}
	r.log.Info("worker stopped", attrs...)
}

// readable returns d as text, which JSON handlers would otherwise log as nanoseconds.
func readable(d time.Duration) string {
	if d > time.Second {
		d = d.Round(time.Millisecond)
	}
	return d.String()
}

// troubleLog logs storage errors, at most one a second.
type troubleLog struct {
	log *slog.Logger

	mu   sync.Mutex // guards last
	last time.Time  // when the last error was logged
}

// report logs an error that will be tried again. doing says what failed: "claiming jobs".
func (t *troubleLog) report(doing string, err error) {
	t.mu.Lock()
	quiet := time.Since(t.last) < time.Second
	if !quiet {
		t.last = time.Now()
	}
	t.mu.Unlock()
	if !quiet {
		t.log.Error("storage in trouble, will try again", "while", doing, "error", err)
	}
}

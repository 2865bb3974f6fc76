package pinion

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"
)

// troublePause is the time between two tries while the storage returns errors.
const troublePause = time.Second

// claimLoop claims jobs until ctx ends or, in a Drain, nothing is left to do.
func (r *workerRun) claimLoop(ctx, writes context.Context) {
	for {
		want := r.slots.reserve()
		if want.none() {
			return
		}
		jobs, last, err := r.claim(ctx, want)
		r.retries.remove(jobs...)
		r.giveBack(writes, r.slots.deliver(want, jobs))
		switch {
		case ctx.Err() != nil:
			return
		case err != nil && (r.drain || errors.Is(err, ErrClosed)):
			r.fail(err)
			return
		case err != nil:
			r.trouble.report("claiming jobs", err)
			pause(ctx, troublePause)
		case last && len(jobs) == 0:
			return
		}
	}
}

// claimTime is how long a claim of a Run waits. The next one is made with the names of the tasks that there are
// then.
const claimTime = time.Minute

// claim makes one claim. It reports whether a Drain is over if the claim returned nothing.
func (r *workerRun) claim(ctx context.Context, want request) (jobs []*Job, last bool, err error) {
	opts := DequeueOptions{
		Max:    want.slots + want.ahead,
		Ahead:  want.ahead,
		Queues: r.queues,
		Tasks:  r.registry.Names(),
		Worker: r.name,
		Lease:  r.visibility,
	}
	var waiting context.Context
	var cancel context.CancelFunc
	idle := false
	if r.drain {
		waiting, cancel, idle = r.drainContext(ctx)
	} else {
		waiting, cancel = context.WithTimeout(ctx, claimTime)
	}
	defer cancel()
	opts.NoWait = idle
	jobs, err = r.storage.Dequeue(waiting, opts)
	if err != nil && waiting.Err() != nil && errors.Is(err, waiting.Err()) {
		err = nil // it waited for as long as it should
	}
	over := idle || context.Cause(waiting) == errEndsTakeLong
	// A claim that is only ahead of slots leaves out jobs that were claimed before, so it cannot be the last.
	return jobs, over && want.slots > 0, err
}

// errEndsTakeLong is why a claim of a Drain ends that waited for calls of OnEnd.
var errEndsTakeLong = errors.New("OnEnd has not returned for ShutdownTimeout")

// drainContext returns the context in which the next claim of a Drain waits.
//
//   - While jobs run, which may enqueue more, it ends when the last of them has ended and is recorded.
//   - Otherwise, while calls of OnEnd run, which may enqueue more too, it ends when the last of them has returned, or
//     after ShutdownTimeout. Then the Drain is over.
//   - Otherwise it ends when the next of the Drain's own retries is due.
//   - Otherwise, while another worker's job runs and that worker may be dead, it ends after the next reaping.
//   - If there is none either, the run is idle: the claim must not wait, and if it finds nothing the Drain is over.
func (r *workerRun) drainContext(ctx context.Context) (waiting context.Context, cancel context.CancelFunc, idle bool) {
	waiting, cancelBecause := context.WithCancelCause(ctx)
	cancel = func() { cancelBecause(nil) }
	busy, onlyEnds := r.slots.whenIdle(cancel)
	if onlyEnds {
		timer := time.AfterFunc(r.shutdown, func() { cancelBecause(errEndsTakeLong) })
		cancel = func() {
			timer.Stop()
			cancelBecause(nil)
		}
	}
	if busy {
		return waiting, cancel, false
	}
	until, found := r.retries.next(time.Now())
	if !found && r.awaitsTheDead(ctx) {
		until, found = time.Now().Add(r.reap), true
	}
	if !found {
		return waiting, cancel, true
	}
	cancel()
	waiting, cancel = context.WithDeadline(ctx, until.Add(time.Millisecond))
	return waiting, cancel, false
}

// drainWait is how soon a retry must be due for the Drain that scheduled it to wait for it.
const drainWait = 5 * time.Second

// How many PENDING jobs are looked at to find those whose tasks are not known. A Drain looks once, at its end.
const (
	maxUnknownOfRun   = 200
	maxUnknownOfDrain = 10_000
)

// unknownDue returns an ErrTaskNotFound that names the tasks of due jobs that this worker does not know, or nil.
func (r *workerRun) unknownDue(ctx context.Context) error {
	names, err := r.unknownTasks(ctx, time.Now(), maxUnknownOfDrain)
	if err != nil {
		return err
	}
	if len(names) == 0 {
		return nil
	}
	return fmt.Errorf("%w: %q: jobs of these tasks are due, and this worker does not know them",
		ErrTaskNotFound, names)
}

// unknownTasks returns the names of tasks that this worker does not know and whose jobs have been due since a
// time, sorted. It looks at no more than most PENDING jobs.
func (r *workerRun) unknownTasks(ctx context.Context, since time.Time, most int) ([]string, error) {
	in, ok := As[Inspector](r.storage)
	if !ok {
		return nil, nil
	}
	found := make(map[string]bool)
	for job, err := range in.Jobs(ctx, Filter{Status: StatusPending, Limit: most}) {
		if err != nil {
			return nil, err
		}
		_, known := r.registry.lookup(job.Task)
		if !known && r.serves(job.Queue) && !dueAt(job).After(since) {
			found[job.Task] = true
		}
	}
	return slices.Sorted(maps.Keys(found)), nil
}

// serves reports whether this worker claims from a queue.
func (r *workerRun) serves(queue string) bool {
	if len(r.queues) == 0 || slices.Contains(r.queues, queue) {
		return true
	}
	return queue == defaultQueue && slices.Contains(r.queues, "")
}

// ownRetries are the retries that a Drain has scheduled, for which it waits. In a Run it stays empty.
type ownRetries struct {
	mu  sync.Mutex           // guards due
	due map[string]time.Time // by job id
}

func (o *ownRetries) add(job *Job, due time.Time) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.due == nil {
		o.due = make(map[string]time.Time)
	}
	o.due[job.ID] = due
}

func (o *ownRetries) remove(jobs ...*Job) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if len(o.due) == 0 {
		return
	}
	for _, job := range jobs {
		delete(o.due, job.ID)
	}
}

// next returns when the earliest retry is due. It forgets those that were due before now: a claim has not found
// them, so another worker has them.
func (o *ownRetries) next(now time.Time) (earliest time.Time, found bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for id, due := range o.due {
		if !due.After(now) {
			delete(o.due, id)
		} else if !found || due.Before(earliest) {
			earliest, found = due, true
		}
	}
	return earliest, found
}

// sweepInterval is the time between two sweeps, which give back the jobs that have waited for a slot since the
// one before: other workers can start them sooner. No heartbeats are sent for jobs that wait. One may start
// after almost two intervals, and must get its first heartbeat before its lease expires.
func (r *workerRun) sweepInterval() time.Duration {
	return max(min(r.heartbeat, (r.visibility-r.heartbeat)/2), time.Millisecond)
}

// giveBackLimited gives back the jobs that wait for a slot and whose queue has got a limit since they were claimed:
// they count as running, and more of them would start than the limit admits.
func (r *workerRun) giveBackLimited(ctx, writes context.Context) {
	limiter, ok := As[Limiter](r.storage)
	if !ok || !r.slots.mustWait() {
		return
	}
	limits, err := limiter.Limits(ctx)
	if err != nil && ctx.Err() == nil {
		r.trouble.report("reading the limits of queues", err)
	}
	if len(limits) > 0 {
		r.giveBack(writes, r.slots.takeOfQueues(limits))
	}
}

// giveBack releases jobs that did not start.
func (r *workerRun) giveBack(ctx context.Context, jobs []*Job) {
	if len(jobs) == 0 {
		return
	}
	r.slots.withdrawn(len(jobs))
	err := r.save(ctx, "releasing jobs", func() error {
		_, _, err := r.storage.Release(ctx, time.Time{}, nil, jobs...)
		return err
	})
	if err == nil || errors.Is(err, ErrLeaseLost) {
		r.slots.recorded(len(jobs))
	}
}

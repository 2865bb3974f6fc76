package pinion

import (
	"context"
	"sync"
	"time"
)

// leases knows when a lease could last not be renewed. After that, living workers' leases look lost.
type leases struct {
	mu     sync.Mutex // guards lapsed
	lapsed time.Time
}

// lapse notes that a lease could not be renewed or ended now.
func (l *leases) lapse() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.lapsed = time.Now()
}

// lapsedWithin reports whether a lease could not be renewed or ended within the last d.
func (l *leases) lapsedWithin(d time.Duration) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return !l.lapsed.IsZero() && time.Since(l.lapsed) < d
}

// sendHeartbeats renews the leases of what runs. It cancels the tasks of jobs that are lost or canceled.
func (r *workerRun) sendHeartbeats(ctx context.Context) {
	running := r.slots.attempts()
	if len(running) == 0 {
		return
	}
	jobs := make([]*Job, len(running))
	for i, a := range running {
		jobs[i] = a.job
	}
	lost, err := r.storage.Heartbeat(ctx, jobs...)
	if err != nil && ctx.Err() == nil {
		r.leases.lapse()
		r.trouble.report("sending heartbeats", err)
	}
	cancelTasks(running, lost, ErrLeaseLost)
	canceler, ok := r.storage.(Canceler)
	if !ok {
		return
	}
	canceled, err := canceler.Canceled(ctx, jobs...)
	if err != nil && ctx.Err() == nil {
		r.trouble.report("asking which jobs were canceled", err)
	}
	cancelTasks(running, canceled, ErrCanceled)
}

// cancelTasks cancels the contexts of the attempts at these jobs.
func cancelTasks(running []*attempt, jobs []*Job, cause error) {
	for _, job := range jobs {
		for _, a := range running {
			if a.job.ID == job.ID && a.job.Claim == job.Claim {
				a.cancel(cause)
			}
		}
	}
}

// newReaper returns a function that takes back lost leases, of any worker.
//
// It must not take back those of living workers. After the wall clock has jumped, which shows when it and the
// monotonic clock disagree, and after storage errors, stored heartbeats look older than they are, or could not be
// sent. It then waits for as long as a lease lasts, so that they can be renewed.
func (r *workerRun) newReaper() func(ctx context.Context) {
	lastLook := time.Now()
	lastWall := r.wall().Round(0)
	var notBefore time.Time
	return func(ctx context.Context) {
		now, wall := time.Now(), r.wall().Round(0)
		drift := wall.Sub(lastWall) - now.Sub(lastLook)
		lastLook, lastWall = now, wall
		if drift.Abs() > time.Second {
			notBefore = now.Add(r.visibility)
		}
		if now.Before(notBefore) || r.leases.lapsedWithin(r.visibility) {
			return
		}
		r.reapOnce(ctx)
	}
}

func (r *workerRun) reapOnce(ctx context.Context) {
	// If this waits for long, for the lock of another program perhaps, nobody could renew a lease meanwhile.
	soon, cancel := context.WithTimeout(ctx, max(r.visibility/5, time.Second))
	defer cancel()
	n, err := r.storage.ReapStale(soon, r.visibility)
	if err != nil && ctx.Err() == nil {
		r.leases.lapse()
		r.trouble.report("looking for lost leases", err)
	}
	r.metrics.reaped.Add(int64(n))
	if n > 0 {
		r.log.Warn("lost leases taken back", "jobs", n)
	}
}

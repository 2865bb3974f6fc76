package crashlab

import (
	"context"
	"errors"
	"math"
	"slices"
	"time"

	"github.com/pinion-queue/pinion"
)

// finish ends the experiment in peace. It tells all children to stop but those that run jobs, keeps enough of
// these running until every job has ended, and then tells them to stop.
func (e *experiment) finish(ctx context.Context) error {
	runner, n := roleWork, max(e.Workers, 2)
	if e.Workers == 0 && e.Drains > 0 {
		runner, n = roleDrain, e.Drains
	}
	if e.Clocks > 0 {
		e.setClock(e.latest) // or what is due by a clock that was ahead would not be due for an hour
	}
	e.finishing = true
	e.runner = runner
	e.starts = slices.DeleteFunc(e.starts, func(next delayedStart) bool { return next.role != runner })
	for range n - e.count(runner) - len(e.starts) {
		e.starts = append(e.starts, delayedStart{role: runner})
	}
	e.terminateAll(func(p *process) bool { return p.role != runner })
	patience := newPatience(10*time.Second + 20*e.longestVisibility())
	if !e.Strict { // a slow disk may hold up a call for half a minute
		patience.limit *= 5
	}
	fewest := math.MaxInt
	err := e.watch(ctx, reapInterval(e.Visibility)/2, func() (over bool, err error) {
		if err := e.checkLeases(ctx); err != nil {
			return false, err
		}
		left, err := e.countUnfinished(ctx)
		if err != nil {
			return false, err
		}
		if left < fewest {
			fewest = left
			patience.renew()
		}
		onlyRunners := e.count(runner) == len(e.children)
		// If patience is over, the judge reports which jobs have not ended.
		return left == 0 && onlyRunners || patience.isOver(), nil
	})
	if err != nil {
		return err
	}
	return e.stopAll(ctx, patience.limit)
}

// stopAll tells the children that are left to stop and waits until they have ended.
func (e *experiment) stopAll(ctx context.Context, limit time.Duration) error {
	e.finishing = true
	e.runner = ""
	e.starts = nil
	e.terminateAll(func(*process) bool { return true })
	patience := newPatience(limit)
	return e.watch(ctx, reapInterval(e.Visibility)/2, func() (over bool, err error) {
		if patience.isOver() {
			return false, errors.New("crashlab: a child does not end after it was told to shut down")
		}
		return len(e.children) == 0, nil
	})
}

// watch tends the children until look, which it calls again and again, reports that it is over or returns an error.
func (e *experiment) watch(ctx context.Context, every time.Duration, look func() (over bool, err error)) error {
	ticker := time.NewTicker(every)
	defer ticker.Stop()
	for {
		if err := e.startDelayed(ctx); err != nil {
			return err
		}
		select {
		case p := <-e.exits:
			e.childEnded(p)
		case <-ticker.C:
			e.resumeStopped()
			over, err := look()
			if over || err != nil {
				return err
			}
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// patience is over if it is not renewed for as long as its limit.
type patience struct {
	limit time.Duration
	since time.Time
}

func newPatience(limit time.Duration) *patience { return &patience{limit, time.Now()} }

func (p *patience) renew() { p.since = time.Now() }

func (p *patience) isOver() bool { return time.Since(p.since) > p.limit }

func (e *experiment) terminateAll(which func(*process) bool) {
	for _, p := range e.children {
		if which(p) && !p.terminated {
			e.terminate(p)
		}
	}
}

// count returns how many children have a role.
func (e *experiment) count(role role) int {
	n := 0
	for _, p := range e.children {
		if p.role == role {
			n++
		}
	}
	return n
}

// countUnfinished returns how many jobs have not ended.
func (e *experiment) countUnfinished(ctx context.Context) (int, error) {
	stats, err := e.storage.(pinion.Inspector).Stats(ctx)
	n := 0
	for _, queue := range stats.Queues {
		n += queue.Pending + queue.Running
	}
	return n, err
}

// checkLeases notes by how long leases have expired that nobody has taken back.
func (e *experiment) checkLeases(ctx context.Context) error {
	now := e.childTime() // before the rows are read, so that no lease looks older than it is
	if e.isDisturbed() {
		e.lastDisturbed = now
	}
	for job, err := range e.storage.(pinion.Inspector).Jobs(ctx, pinion.Filter{Status: pinion.StatusRunning}) {
		if err != nil {
			return err
		}
		if !isOurTask(job.Task) {
			continue
		}
		expires := job.LeaseUntil
		longest := &e.report.LongestExpired
		if expires.Before(e.lastDisturbed.Add(settleTime)) {
			longest = &e.report.LongestExpiredDisturbed
		}
		*longest = max(*longest, now.Sub(expires))
	}
	return nil
}

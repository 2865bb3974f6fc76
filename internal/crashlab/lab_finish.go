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
	e.ending = true
	e.runner = runner
	e.starts = slices.DeleteFunc(e.starts, func(next delayedStart) bool { return next.role != runner })
	for range n - e.count(runner) - len(e.starts) {
		e.starts = append(e.starts, delayedStart{role: runner})
	}
	e.terminateAll(func(p *process) bool { return p.role != runner })
	patience := 10*time.Second + 20*e.longestVisibility()
	giveUp := time.NewTimer(patience) // fires if no job ends for that long
	defer giveUp.Stop()
	look := time.NewTicker(reapInterval(e.Visibility) / 2)
	defer look.Stop()
	fewest := math.MaxInt
	for {
		if err := e.startDelayed(ctx); err != nil {
			return err
		}
		select {
		case p := <-e.exits:
			e.childEnded(p)
		case <-look.C:
			e.resumeStopped()
			if err := e.checkLeases(ctx); err != nil {
				return err
			}
			left, err := e.countUnfinished(ctx)
			if err != nil {
				return err
			}
			if left < fewest {
				fewest = left
				giveUp.Reset(patience)
			}
			if left == 0 && e.count(runner) == len(e.children) {
				return e.stopAll(patience)
			}
		case <-giveUp.C:
			return e.stopAll(patience) // the judge reports which jobs have not ended
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// stopAll tells the children that are left to stop and waits until they have ended.
func (e *experiment) stopAll(patience time.Duration) error {
	e.runner = ""
	e.terminateAll(func(*process) bool { return true })
	giveUp := time.NewTimer(patience)
	defer giveUp.Stop()
	look := time.NewTicker(reapInterval(e.Visibility) / 2)
	defer look.Stop()
	for len(e.children) > 0 {
		select {
		case p := <-e.exits:
			e.childEnded(p)
		case <-look.C:
			e.resumeStopped()
		case <-giveUp.C:
			return errors.New("crashlab: a child does not end after it was told to shut down")
		}
	}
	return nil
}

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
	now := time.Now() // before the rows are read, so that no lease looks older than it is
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

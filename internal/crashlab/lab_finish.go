//go:build unix

package crashlab

import (
	"context"
	"errors"
	"math"
	"slices"
	"time"

	"github.com/pinion-queue/pinion"
)

// finish ends the experiment in peace. It tells the children that are no pure workers to stop, keeps at least
// two workers running until every job has ended, and then tells these to stop.
func (e *experiment) finish(ctx context.Context) error {
	e.ending = true // from now on only keepWorkers starts children
	e.terminateAll(func(p *process) bool { return p.role != roleWork })
	patience := 10*time.Second + 20*e.Visibility
	giveUp := time.NewTimer(patience) // fires if no job ends for that long
	defer giveUp.Stop()
	look := time.NewTicker(reapInterval(e.Visibility) / 2)
	defer look.Stop()
	fewest := math.MaxInt
	for {
		if err := e.keepWorkers(ctx, max(e.Workers, 2)); err != nil {
			return err
		}
		select {
		case p := <-e.exits:
			e.childEnded(ctx, p)
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
			if left == 0 && e.onlyWorkersAreLeft() {
				return e.stopWorkers(ctx, patience)
			}
		case <-giveUp.C:
			return e.stopWorkers(ctx, patience) // the judge reports which jobs have not ended
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// stopWorkers tells the workers to stop and waits until they have ended.
func (e *experiment) stopWorkers(ctx context.Context, patience time.Duration) error {
	e.terminateAll(func(p *process) bool { return p.role == roleWork })
	giveUp := time.NewTimer(patience)
	defer giveUp.Stop()
	look := time.NewTicker(reapInterval(e.Visibility) / 2)
	defer look.Stop()
	for len(e.children) > 0 {
		select {
		case p := <-e.exits:
			e.childEnded(ctx, p)
		case <-look.C:
			e.resumeStopped()
		case <-giveUp.C:
			return errors.New("crashlab: a child does not end after SIGTERM")
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

// keepWorkers starts workers until there are n.
func (e *experiment) keepWorkers(ctx context.Context, n int) error {
	for _, p := range e.children {
		if p.role == roleWork {
			n--
		}
	}
	for ; n > 0; n-- {
		if err := e.start(ctx, roleWork); err != nil {
			return err
		}
	}
	return nil
}

func (e *experiment) onlyWorkersAreLeft() bool {
	return !slices.ContainsFunc(e.children, func(p *process) bool { return p.role != roleWork })
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
	for job, err := range e.storage.(pinion.Inspector).Jobs(ctx, pinion.Filter{Status: pinion.StatusRunning}) {
		if err != nil {
			return err
		}
		if !isOurTask(job.Task) {
			continue
		}
		expires := job.HeartbeatAt.Add(e.Visibility)
		longest := &e.report.LongestExpired
		if expires.Before(e.lastResumed.Add(settleTime)) {
			longest = &e.report.LongestExpiredAtStop
		}
		*longest = max(*longest, now.Sub(expires))
	}
	return nil
}

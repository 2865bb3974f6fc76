package crashlab

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/pinion-queue/pinion"
)

// injectFaults injects faults until the Lab's kills and disturbances are done and its time is over.
func (e *experiment) injectFaults(ctx context.Context, begun time.Time) error {
	next := time.NewTimer(e.Pause)
	defer next.Stop()
	look := time.NewTicker(reapInterval(e.Visibility) / 2)
	defer look.Stop()
	logged := time.Now()
	for e.isFaultLeft() || time.Since(begun) < e.For {
		if err := e.startDelayed(ctx); err != nil {
			return err
		}
		select {
		case <-next.C:
			next.Reset(1 + randomTime(e.random, 2*e.Pause))
			if err := e.injectFault(ctx); err != nil {
				return err
			}
		case p := <-e.exits:
			e.childEnded(p)
		case <-look.C:
			e.resumeStopped()
			e.thawIfDue()
			if err := e.checkLeases(ctx); err != nil {
				return err
			}
		case <-ctx.Done():
			return ctx.Err()
		}
		if time.Since(logged) > 10*time.Second {
			logged = time.Now()
			e.Logf("after %v: %d kills", time.Since(begun).Round(time.Second), e.report.Kills)
		}
		if len(e.problems) > 20 {
			return fmt.Errorf("crashlab: too many children ended by themselves: %s", strings.Join(e.problems, "; "))
		}
	}
	return nil
}

// isFaultLeft reports whether there are kills or disturbances to come, or a disturbance is under way.
func (e *experiment) isFaultLeft() bool {
	return e.report.Kills < e.Kills || len(e.disturbances) > 0 || e.isDisturbed()
}

// injectFault begins a disturbance if one is due, or else injects a fault into one child. During a lock it
// mostly does nothing, so that most kills come at other times; during a freeze it does nothing at all.
func (e *experiment) injectFault(ctx context.Context) error {
	switch {
	case e.thawTimer != nil:
		return nil
	case e.locker != nil && e.random.IntN(8) > 0:
		return nil
	case !e.isDisturbed() && !e.isAnyStopped() && e.isDisturbanceDue():
		return e.beginDisturbance(ctx)
	case e.report.Kills < e.Kills && len(e.children) > 0:
		return e.injectIntoOne(ctx)
	default:
		return nil
	}
}

// injectIntoOne chooses a child and does something to it. Mostly it kills the child. Sometimes it tells the
// child to shut down, and perhaps kills it while it does. Now and then it stops a worker until its leases
// have expired. Besides, it sometimes enqueues a job that kills the process in which it runs.
func (e *experiment) injectIntoOne(ctx context.Context) error {
	// A stopped child may hold the write lock. The parent must not wait for the lock, because it has to
	// resume the child.
	mayEnqueue := !e.isAnyStopped() && !e.isDisturbed()
	if mayEnqueue && e.random.IntN(6) == 0 {
		kind := []string{kindPoison, kindPoisonOnce}[e.random.IntN(2)]
		err := enqueue(ctx, e.storage, e.log, newJob(kind, e.random))
		if err != nil && !errors.Is(err, pinion.ErrBusy) { // a slow machine may hold the lock for long
			return err
		}
	}
	p := e.children[e.random.IntN(len(e.children))]
	n := e.random.IntN(20)
	switch {
	case p == e.locker:
	case p.killed:
	case p.terminated && n < 5:
	case p.stopTimer != nil:
	case time.Now().Before(p.sparedTill): // what it does after it was resumed is part of the fault
	case e.mayStop(p):
		e.stop(p)
	case n < 2:
		e.terminate(p)
	case n < 5:
		e.terminate(p)
		limit := time.Duration(1 << (18 + e.random.IntN(11))) // from 0.26 ms to 0.27 s
		if err := sleep(ctx, randomTime(e.random, limit)); err != nil {
			return err
		}
		e.kill(p)
	default:
		e.kill(p)
	}
	return nil
}

// mayStop reports whether it is time to stop a worker, and p is one that can be stopped. One is stopped for
// 25 kills.
func (e *experiment) mayStop(p *process) bool {
	itIsTime := e.report.Kills > 2 && e.report.Stops <= e.report.Kills/25
	alone := !e.isAnyStopped() && !e.isDisturbed() && !e.isDisturbanceDue()
	// One with longer leases would be stopped for longer than others wait for the write lock, which it may hold.
	isShort := p.visibility == e.Visibility
	return itIsTime && alone && isShort && p.role == roleWork && !p.willDie
}

// planDeath chooses the call in which a child of a role kills itself.
func (e *experiment) planDeath(role role) plannedDeath {
	var calls []string
	switch role {
	case roleWork, roleDrain:
		calls = []string{"open", "claim", "done", "failed", "dead", "dead", "heartbeat", "release", "reap",
			"enqueue", "close"}
	case roleProduce:
		calls = []string{"open", "enqueue", "close"}
	case rolePrune:
		calls = []string{"open", "prune", "close"}
	case roleOpen:
		calls = []string{"open"}
	default:
		return plannedDeath{}
	}
	death := plannedDeath{
		Call:  calls[e.random.IntN(len(calls))],
		Nth:   1,
		After: time.Duration(1) << e.random.IntN(23), // from 1 ns to 4 ms
	}
	switch death.Call {
	case "open":
		death.After = randomTime(e.random, 100*time.Millisecond)
	case "claim", "done", "enqueue":
		death.Nth += e.random.Int64N(40)
	case "failed", "heartbeat", "reap", "prune":
		death.Nth += e.random.Int64N(4)
	}
	return death
}

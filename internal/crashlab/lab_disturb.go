package crashlab

import (
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"strconv"
	"time"
)

// disturbance is a fault that concerns all children at once. Only one is under way at any time.
type disturbance struct {
	afterKills int           // it begins after so many kills
	lock       *lockPlan     // another program holds the write lock; or, if this is nil:
	freeze     time.Duration // all children are stopped together for so long; or, if this is 0:
	clock      time.Duration // their clock is set so far ahead of the machine's, or behind it
}

// maxAhead is by how much the clock of the children is ahead of the machine's at most, or behind it.
const maxAhead = time.Hour

// planDisturbances spreads the Lab's locks, freezes and settings of the clock evenly over its kills, in a random order.
func (e *experiment) planDisturbances() error {
	if e.Locks > 0 {
		if _, err := os.Stat(e.DSN); err != nil {
			return fmt.Errorf("crashlab: Locks is %d, but DSN is not the path of a SQLite file: %w", e.Locks, err)
		}
	}
	for range e.Locks {
		e.disturbances = append(e.disturbances, disturbance{lock: e.planLock()})
	}
	for range e.Freezes {
		d := logUniform(e.random, 300*time.Millisecond, e.Longest)
		e.disturbances = append(e.disturbances, disturbance{freeze: d})
	}
	for range e.Clocks {
		ahead := randomTime(e.random, 2*maxAhead) - maxAhead
		e.disturbances = append(e.disturbances, disturbance{clock: ahead})
	}
	n := len(e.disturbances)
	e.random.Shuffle(n, func(i, j int) {
		e.disturbances[i], e.disturbances[j] = e.disturbances[j], e.disturbances[i]
	})
	for i := range e.disturbances {
		e.disturbances[i].afterKills = e.Kills * (i + 1) / (n + 1)
	}
	return nil
}

// isDisturbed reports whether a disturbance is under way.
func (e *experiment) isDisturbed() bool {
	clockWasSet := time.Since(e.clockSet) < e.longestVisibility()
	return e.locker != nil || e.thawTimer != nil || clockWasSet
}

// isDisturbanceDue reports whether the next disturbance should begin.
func (e *experiment) isDisturbanceDue() bool {
	return len(e.disturbances) > 0 && e.report.Kills >= e.disturbances[0].afterKills
}

// beginDisturbance begins the next disturbance.
func (e *experiment) beginDisturbance(ctx context.Context) error {
	next := e.disturbances[0]
	e.disturbances = e.disturbances[1:]
	switch {
	case next.lock != nil:
		return e.startLock(ctx, *next.lock)
	case next.freeze > 0:
		e.freeze(next.freeze)
	default:
		e.report.Clocks++
		e.setClock(next.clock)
	}
	return nil
}

// logUniform returns a random duration between two others. It prefers short ones: each doubling of the
// duration is as likely as another.
func logUniform(random *rand.Rand, from, to time.Duration) time.Duration {
	ratio := float64(to) / float64(from)
	return time.Duration(float64(from) * math.Pow(ratio, random.Float64()))
}

// ---- Locks ----

// planLock plans a lock of a second or more. In one of three plans the other program gives the lock back for a
// moment, in which a worker can look for lost leases, but hardly every worker can send its heartbeats.
func (e *experiment) planLock() *lockPlan {
	plan := &lockPlan{UntilReap: e.random.IntN(2) == 0}
	if e.random.IntN(3) == 0 {
		plan.Holds = []time.Duration{
			logUniform(e.random, time.Second, max(e.Longest/2, time.Second)),
			logUniform(e.random, time.Second, max(e.Longest/2, time.Second)),
		}
	} else {
		plan.Holds = []time.Duration{logUniform(e.random, time.Second, e.Longest)}
	}
	return plan
}

// startLock starts the other program. Its end ends the disturbance.
func (e *experiment) startLock(ctx context.Context, plan lockPlan) error {
	e.report.Locks++
	e.born++
	config := childConfig{Number: e.born, Role: roleLock, DSN: e.DSN, LogPath: e.logPath(), Lock: plan}
	p, err := e.startProcess(ctx, config)
	e.locker = p
	return err
}

// ---- Freezes ----

// freeze stops all children together, as docker pause does.
func (e *experiment) freeze(d time.Duration) {
	e.report.Freezes++
	e.log.write(logFreeze)
	e.log.alone(func() { e.each((*process).suspend) })
	e.thawTimer = time.NewTimer(d)
}

// thawIfDue lets all children go on if the time of the freeze is over.
func (e *experiment) thawIfDue() {
	if e.thawTimer == nil {
		return
	}
	select {
	case <-e.thawTimer.C:
		e.thawTimer = nil
		e.log.write(logThaw)
		e.each((*process).resume)
	default:
	}
}

// ---- The clock ----

// setClock sets the clock of all children. It is not set again before the workers have sent heartbeats: the age of a
// doubt that another process has stored is measured by this clock, so a setting right after the doubt would make it
// count.
func (e *experiment) setClock(ahead time.Duration) {
	ahead = ahead.Truncate(time.Second)
	e.log.write(logClock, strconv.FormatInt(int64(ahead/time.Second), 10))
	e.clock.set(ahead)
	e.clockSet = time.Now()
	e.latest = max(e.latest, ahead)
	e.lastDisturbed = time.Now().Add(ahead)
}

// childTime returns what the clock of the children says.
func (e *experiment) childTime() time.Time { return time.Now().Add(e.clock.ahead()) }

// each does something to all children, in a random order.
func (e *experiment) each(do func(*process)) {
	for _, i := range e.random.Perm(len(e.children)) {
		do(e.children[i])
	}
}

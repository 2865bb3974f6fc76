package crashlab

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// Report is the result of an experiment.
type Report struct {
	Seed         uint64
	Kills        int            // by the parent, at random moments
	PlannedKills map[string]int // children that killed themselves in a chosen call, by call
	TaskKills    int            // children that a task killed
	Stops        int            // workers that were stopped for longer than the visibility timeout
	Locks        int            // times at which another program held the write lock
	Freezes      int            // times at which all children were stopped together
	Clocks       int            // times at which the clock of all children was set
	Drains       int            // processes that called Worker.Drain
	Faults       time.Duration  // how long faults were injected
	Took         time.Duration  // the whole experiment

	Jobs       int // acknowledged by Enqueue
	Succeeded  int
	Dead       int // in the dead-letter queue
	Innocent   int // of these: jobs that would have succeeded if no process had died while they ran
	Starts     int // of tasks
	Repeated   int // starts after an attempt whose end was not recorded
	Unrecorded int // of these: the attempt had ended, but its process came to harm before it recorded that
	Lost       int // acknowledged and gone
	Stale      int // ends that were recorded under a claim that was not the newest
	Taken      int // leases that were taken back from workers that were alive; a worker stopped alone is not

	// The longest that a call waited for the storage, and the longest from the end of a lease until it was
	// taken back. Disturbed is while a process was stopped or another program held the write lock, and
	// shortly after.
	LongestCall             time.Duration
	LongestCallDisturbed    time.Duration
	LongestExpired          time.Duration
	LongestExpiredDisturbed time.Duration

	Violations []string // promises that were not kept
}

// String returns a summary without the violations.
func (r Report) String() string {
	planned := 0
	var calls []string
	for call, n := range r.PlannedKills {
		planned += n
		calls = append(calls, fmt.Sprintf("%s %d", call, n))
	}
	slices.Sort(calls)
	ms := func(d time.Duration) time.Duration { return d.Round(time.Millisecond) }
	var b strings.Builder
	fmt.Fprintf(&b, "seed %d: %d kills at random moments, %d in a chosen call (%s), %d by tasks\n",
		r.Seed, r.Kills, planned, strings.Join(calls, ", "), r.TaskKills)
	fmt.Fprintf(&b, "%d processes stopped alone, %d freezes of all, %d locks by another program, "+
		"%d settings of the clock, %d short Drains\n", r.Stops, r.Freezes, r.Locks, r.Clocks, r.Drains)
	fmt.Fprintf(&b, "%d jobs acknowledged: %d succeeded, %d dead (%d of them innocent), %d lost, "+
		"%d ended under a stale claim\n",
		r.Jobs, r.Succeeded, r.Dead, r.Innocent, r.Lost, r.Stale)
	fmt.Fprintf(&b, "%d starts, %d of them after an attempt whose end was not recorded (%d of those attempts had ended)\n",
		r.Starts, r.Repeated, r.Unrecorded)
	fmt.Fprintf(&b, "%d leases of living workers taken back\n", r.Taken)
	fmt.Fprintf(&b, "longest call %v (disturbed %v); leases taken back at most %v after they expired (disturbed %v)\n",
		ms(r.LongestCall), ms(r.LongestCallDisturbed), ms(r.LongestExpired), ms(r.LongestExpiredDisturbed))
	fmt.Fprintf(&b, "%v with faults, %v to finish the rest", ms(r.Faults), ms(r.Took-r.Faults))
	return b.String()
}

package pinion

import "time"

const (
	maxAhead  = 1000                   // how many jobs may be claimed ahead of free slots
	aheadTime = 100 * time.Millisecond // within which jobs claimed ahead are expected to start
)

// intake decides how many jobs to claim next. It only counts and computes: it has no lock and knows no storage.
//
// A worker claims for its free slots, and ahead of them as many jobs as will start soon. So short tasks are
// claimed in large batches, and long ones are left to other workers.
type intake struct {
	slots       int  // how many tasks may run at once
	claimers    int  // how many claims may be under way
	mayPrefetch bool // whether jobs may be claimed ahead of free slots

	held    int           // jobs that run or wait for a slot
	open    int           // held jobs, and ended ones whose end is not yet recorded
	ending  int           // calls of OnEnd that wait or run
	pending request       // the sum of the claims under way
	dry     bool          // the last claim returned nothing
	pace    time.Duration // how long a task takes, a moving average; 0: not yet known
}

// request is what one claim asks for.
type request struct {
	slots int // jobs for free slots, for which the claim waits
	ahead int // jobs beyond these, for which it does not wait
}

func (r request) none() bool { return r.slots == 0 && r.ahead == 0 }

// next returns what to claim now.
func (in *intake) next() request {
	if unrecorded := in.open - in.held; unrecorded >= 2*maxBatch {
		return request{} // the storage does not keep up
	}
	if in.ending >= maxEnds {
		return request{} // OnEnd does not keep up
	}
	free := in.slots - in.held - in.pending.slots
	if free > 0 {
		if in.claimers > 1 && in.pending.slots == 0 {
			free = (free + 1) / 2 // the other claim takes the rest
		}
		return request{slots: free, ahead: in.roomAhead()}
	}
	// No slot is free. Claiming ahead alone is worth a call when at least half of the room has become empty.
	// After a claim that returned nothing, the next is the one for the next free slot, which waits.
	if in.dry || !in.pending.none() || in.roomAhead() <= in.allowedAhead()/2 {
		return request{}
	}
	return request{ahead: in.roomAhead()}
}

// allowedAhead returns how many jobs may wait for a slot.
func (in *intake) allowedAhead() int {
	if !in.mayPrefetch || in.pace == 0 {
		return 0
	}
	soon := time.Duration(in.slots) * aheadTime / max(in.pace, time.Microsecond)
	return min(maxAhead, int(soon))
}

// roomAhead returns how many more jobs may be claimed ahead of free slots.
func (in *intake) roomAhead() int {
	waiting := max(in.held-in.slots, 0)
	return max(in.allowedAhead()-in.pending.ahead-waiting, 0)
}

// idle reports whether nothing is left to do but claim.
func (in *intake) idle() bool { return in.open == 0 && in.ending == 0 }

// asked notes that a claim is under way.
func (in *intake) asked(r request) {
	in.pending.slots += r.slots
	in.pending.ahead += r.ahead
}

// answered notes that a claim has returned so many jobs.
func (in *intake) answered(r request, jobs int) {
	in.pending.slots -= r.slots
	in.pending.ahead -= r.ahead
	in.dry = jobs == 0
	in.held += jobs
	in.open += jobs
}

// took notes how long a task took.
func (in *intake) took(d time.Duration) {
	d = max(d, 1)
	if in.pace == 0 {
		in.pace = d
	}
	in.pace += (d - in.pace) / 8
}

// slowed notes that jobs waited too long: tasks take longer than the pace says.
func (in *intake) slowed() { in.pace = 0 }

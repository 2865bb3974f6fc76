package pinion

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/pinion-queue/pinion/internal/rules"
)

// sendHeartbeats renews the leases of what runs or is not recorded, and stores the progress of tasks. It cancels the
// tasks of jobs that are lost or canceled.
func (r *workerRun) sendHeartbeats(ctx context.Context) {
	running := r.needLeases()
	if len(running) == 0 {
		return
	}
	jobs := make([]*Job, len(running))
	versions := make([]int, len(running)) // of the results that jobs have
	for i, a := range running {
		jobs[i], versions[i] = a.progress()
	}
	lost, err := r.storage.Heartbeat(ctx, jobs...)
	if err == nil {
		for i, a := range running {
			a.progressStored(versions[i])
		}
	} else if ctx.Err() == nil {
		r.trouble.report("sending heartbeats", err)
	}
	cancelTasks(running, lost, ErrLeaseLost)
	canceler, ok := As[Canceler](r.storage)
	if !ok {
		return
	}
	canceled, err := canceler.Canceled(ctx, jobs...)
	if err != nil && ctx.Err() == nil {
		r.trouble.report("asking which jobs were canceled", err)
	}
	cancelTasks(running, canceled, ErrCanceled)
}

// needLeases returns the attempts that are in slots, and those whose success is not recorded.
func (r *workerRun) needLeases() []*attempt {
	inSlots := r.slots.attempts() // first, or one that leaves its slot would be missed
	succeeded := r.successes.unrecorded()
	isLeaving := make(map[*attempt]bool, len(succeeded)) // and may still be in its slot
	for _, a := range succeeded {
		isLeaving[a] = true
	}
	inSlots = slices.DeleteFunc(inSlots, func(a *attempt) bool { return isLeaving[a] })
	return append(inSlots, succeeded...)
}

// cancelTasks cancels the contexts of the attempts at these jobs. One whose task has ended its job in a
// transaction is not lost: it may go on.
func cancelTasks(running []*attempt, jobs []*Job, cause error) {
	for _, job := range jobs {
		for _, a := range running {
			if a.job.ID == job.ID && a.job.Claim == job.Claim && !a.doneInTx.Load() {
				a.cancel(cause)
			}
		}
	}
}

// unknownGap is the time between two looks for jobs whose tasks this worker does not know, and how long such a
// job must have been due to be worth a warning: until then a worker that knows its task is likely to take it.
const unknownGap = time.Minute

// newUpkeep returns a function that is called each ReapInterval. It takes back lost leases of any worker, plans
// periodic jobs, and warns of jobs whose tasks nobody may know.
func (r *workerRun) newUpkeep() func(ctx context.Context) {
	var looked time.Time // for unknown tasks; zero: not yet
	return func(ctx context.Context) {
		r.takeBackLeases(ctx)
		r.planPeriodic(ctx)
		if !r.drain && time.Since(looked) >= unknownGap {
			looked = time.Now()
			r.warnUnknownTasks(ctx)
		}
	}
}

// takeBackLeases has the storage take back the leases of dead workers. The storage sees to it that the living
// keep theirs.
//
// A call that waits for the lock of another program is given up after a while. Heartbeats wait for that lock as
// well. When it ends they should come first: until then the leases of living workers look expired.
func (r *workerRun) takeBackLeases(ctx context.Context) {
	bounded, cancel := context.WithTimeout(ctx, max(rules.ReapGap(r.visibility)/2, time.Second))
	defer cancel()
	n, err := r.storage.ReapStale(bounded, r.visibility)
	if err != nil && ctx.Err() == nil {
		r.trouble.report("looking for lost leases", err)
	}
	r.metrics.reaped.Add(int64(n))
	if n > 0 {
		r.log.Warn("lost leases taken back", "jobs", n)
	}
}

// awaitsTheDead reports whether a Drain has to wait because the worker of a RUNNING job may be dead. It is dead
// if its lease has expired; the storage takes that back at its second look. It may be dead if no heartbeat has
// come since this Drain first saw the job. Then the Drain waits, at most until the lease expires. Living workers
// send heartbeats, and a Drain does not wait for what they run.
func (r *workerRun) awaitsTheDead(ctx context.Context) bool {
	in, ok := As[Inspector](r.storage)
	if !ok {
		return false
	}
	now := time.Now()
	silent := false
	for job, err := range in.Jobs(ctx, Filter{Status: StatusRunning}) {
		if err != nil {
			return false // the next claim meets the same error, and returns it
		}
		until := job.LeaseUntil
		if until.IsZero() { // of the Python library
			until = job.HeartbeatAt.Add(r.visibility)
		}
		if until.Before(now) {
			return true
		}
		_, known := r.registry.lookup(job.Task)
		if known && r.serves(job.Queue) && r.isSilent(job) {
			silent = true
		}
	}
	return silent
}

// isSilent reports whether no heartbeat has come for another worker's claim since this Drain first saw it.
func (r *workerRun) isSilent(job *Job) bool {
	claim := seenClaim{job.ID, job.Claim}
	first, seen := r.firstSeen[claim]
	if !seen {
		r.firstSeen[claim] = job.HeartbeatAt
		return true
	}
	return !job.HeartbeatAt.After(first)
}

// seenClaim is a claim of another worker that a Drain has seen.
type seenClaim struct {
	id    string
	claim int64
}

// planPeriodic makes sure that the next run of each Periodic is stored.
func (r *workerRun) planPeriodic(ctx context.Context) {
	for name := range r.periodics.all {
		r.reportPlan(ctx, r.periodics.ensure(ctx, r.storage, name))
	}
}

// planNext makes sure that a run follows a periodic one that has ended.
func (r *workerRun) planNext(ctx context.Context, job *Job) {
	r.reportPlan(ctx, r.periodics.ended(ctx, r.storage, job))
}

// reportPlan logs why the next run of a Periodic could not be stored. It logs once what is wrong with the Periodic
// itself, because a look each ReapInterval finds it again.
func (r *workerRun) reportPlan(ctx context.Context, err error) {
	if err == nil || ctx.Err() != nil {
		return
	}
	wrong, ok := errors.AsType[*planError](err)
	if !ok {
		r.trouble.report("planning periodic jobs", err)
		return
	}
	if r.warned.first("periodic " + wrong.name) {
		r.log.Error("periodic job not planned: its Schedule or Job is wrong", "periodic", wrong.name,
			"error", ErrorText(wrong.err))
	}
}

// warnUnknownTasks logs each task once that this worker does not know and whose jobs have been due for long.
func (r *workerRun) warnUnknownTasks(ctx context.Context) {
	names, err := r.unknownTasks(ctx, time.Now().Add(-unknownGap), maxUnknownOfRun)
	if err != nil && ctx.Err() == nil {
		r.trouble.report("looking for jobs of unknown tasks", err)
	}
	for _, name := range names {
		if r.warned.first(name) {
			r.log.Warn("jobs are due whose task this worker does not know", "task", name)
		}
	}
}

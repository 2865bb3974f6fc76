package crashlab

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/pinion-queue/pinion"
	"github.com/pinion-queue/pinion/internal/rules"
)

// player plays one sequence on one storage and on the reference, and compares them.
type player struct {
	Model
	storage   Storage
	reference reference
	held      map[int][]*pinion.Job // what each worker was ever given, by worker
	ctx       context.Context
	ended     context.Context // one that has ended
	where     string          // which step is under way, for errors
	now       time.Time       // when the call under way began

	// In real time:
	clearAt time.Time     // when it was last clear which jobs are due
	waits   time.Duration // for how long the step is expected to wait
	tooSlow bool          // a step took so long that it was no longer clear
}

// realTimeMargin is how near to now a moment may be, in real time, until nobody can say which comes first.
const realTimeMargin = 20 * time.Millisecond

// difference is what fail panics with.
type difference struct{ err error }

// fail ends the sequence. Model.playOn recovers the panic and returns the error.
func (p *player) fail(format string, args ...any) {
	panic(difference{fmt.Errorf("%s: %w", p.where, fmt.Errorf(format, args...))})
}

func (p *player) wantEqual(what string, got, want any) {
	if !reflect.DeepEqual(got, want) {
		p.fail("%s:\n\t got %v\n\twant %v", what, got, want)
	}
}

func (p *player) wantError(err, want error) {
	if !errors.Is(err, want) {
		p.fail("error:\n\t got %v\n\twant %v", err, want)
	}
}

// take takes one step on the storage and on the reference.
func (p *player) take(step Step) {
	step.Lease = step.Lease.Truncate(time.Microsecond) // no storage keeps more
	if step.Lease > 0 {
		step.Lease = max(step.Lease, time.Millisecond) // whether a shorter one has expired is a matter of rounding
	}
	if step.Verb == "Sleep" {
		p.Sleep(step.For)
		return
	}
	if p.RealTime {
		p.waitUntilClear(step)
		defer p.noteIfTooSlow()
	} else if step.Verb == "ReapStale" {
		p.passSecondLooks()
	}
	ctx := p.ctx
	if step.Ended {
		ctx = p.ended
	}
	p.now = time.Now()
	p.reference.begin(micro(p.now))
	switch step.Verb {
	case "Enqueue":
		p.enqueue(ctx, step)
	case "Dequeue", "Wait":
		p.dequeue(step)
	case "Jobs", "DeadLetters":
		p.list(ctx, step)
	default:
		p.call(ctx, step)
	}
}

// waitUntilClear waits until no moment that decides about the step is too near to now.
func (p *player) waitUntilClear(step Step) {
	for again := true; again; {
		again = false
		p.clearAt = time.Now()
		p.waits = 0
		for _, e := range p.reference.jobs {
			moments := []time.Time{e.RunAt}
			if step.Verb == "ReapStale" {
				moments = []time.Time{e.HeartbeatAt.Add(e.lease), e.doubted.Add(reapGap(e.lease))}
			}
			for _, moment := range moments {
				d := time.Until(moment)
				if e.isUnfinished() && d.Abs() < realTimeMargin {
					time.Sleep(d + realTimeMargin + time.Millisecond)
					again = true
				}
			}
		}
	}
}

// waited returns how long the storage has waited in the call, in a bubble.
func (p *player) waited() time.Duration {
	if p.RealTime {
		return 0
	}
	return time.Since(p.now)
}

// passSecondLooks waits while a storage may take a claim back or leave it: one that waits for heartbeats first looks
// early.
func (p *player) passSecondLooks() {
	for _, e := range p.reference.jobs {
		if e.doubted.IsZero() {
			continue
		}
		early := time.Until(e.doubted.Add(rules.SecondLook(e.lease)))
		late := time.Until(e.doubted.Add(reapGap(e.lease)))
		if early <= 0 && late >= 0 {
			time.Sleep(late + time.Microsecond)
		}
	}
}

func (p *player) noteIfTooSlow() {
	if time.Since(p.clearAt)-p.waits > realTimeMargin {
		p.tooSlow = true
	}
}

// ---- Calls with a simple answer ----

// answer is what a call returns.
type answer struct {
	jobs []int // the jobs that it returned, as positions among those it was given
	n    int
	text string
	err  error
}

// call makes a call on both sides and compares the answers.
func (p *player) call(ctx context.Context, step Step) {
	jobs := p.claims(step)
	got := p.askStorage(ctx, step, jobs)
	if step.Ended {
		p.wantError(got.err, context.Canceled)
		return
	}
	want := p.askReference(step, jobs)
	p.wantError(got.err, want.err)
	p.wantEqual("positions of the returned jobs", fmt.Sprint(got.jobs), fmt.Sprint(want.jobs))
	p.wantEqual("answer", got.n, want.n)
	p.wantEqual("answer", got.text, want.text)
	p.observe()
}

// claims returns copies of the jobs that a step's Claims choose. Each is a copy of its own, because a storage
// returns jobs by their pointers.
func (p *player) claims(step Step) []*pinion.Job {
	nobody := func() *pinion.Job { return &pinion.Job{ID: "nobody", Claim: 1, Attempts: 1} }
	held := slices.Clone(p.held[step.Worker])
	slices.Reverse(held)                                     // the newest first
	slices.SortStableFunc(held, func(a, b *pinion.Job) int { // then the lost ones
		return compareBools(p.reference.isLost(a), p.reference.isLost(b))
	})
	var jobs []*pinion.Job
	for _, claim := range step.Claims {
		if claim == -1 || len(held) == 0 {
			jobs = append(jobs, nobody())
			continue
		}
		job := *held[max(claim, 0)%len(held)]
		if claim == -2 {
			job.Attempts++
		}
		if step.Started {
			job.StartedAt = p.now
		}
		job.Result = nil
		if step.Result != "" {
			job.Result = []byte(step.Result)
		}
		jobs = append(jobs, &job)
	}
	takesOne := step.Verb == "MarkFailed" || step.Verb == "DeadLetter"
	if takesOne && len(jobs) == 0 {
		jobs = append(jobs, nobody())
	}
	return jobs
}

// compareBools orders false before true.
func compareBools(a, b bool) int {
	switch {
	case a == b:
		return 0
	case b:
		return -1
	default:
		return 1
	}
}

// askStorage makes a call on the storage.
func (p *player) askStorage(ctx context.Context, step Step, jobs []*pinion.Job) answer {
	var a answer
	var returned []*pinion.Job
	at := p.now.Add(step.For)
	filter := p.filter(step)
	switch step.Verb {
	case "MarkDone":
		returned, a.err = p.storage.MarkDone(ctx, jobs...)
	case "MarkFailed":
		a.err = p.storage.MarkFailed(ctx, jobs[0], causeOf(step), at)
	case "DeadLetter":
		a.err = p.storage.DeadLetter(ctx, jobs[0], causeOf(step))
	case "Heartbeat":
		returned, a.err = p.storage.Heartbeat(ctx, jobs...)
	case "Release":
		var canceled []*pinion.Job
		returned, canceled, a.err = p.storage.Release(ctx, p.timeOrZero(step), causeOf(step), jobs...)
		a.text = fmt.Sprint("canceled: ", p.positions(canceled, jobs))
	case "ReapStale":
		a.n, a.err = p.storage.ReapStale(ctx, step.For)
	case "Size":
		a.n, a.err = p.storage.Size(ctx)
	case "Stats":
		var stats pinion.Stats
		stats, a.err = p.storage.Stats(ctx)
		a.text = showStats(p.comparable(stats))
	case "Get":
		var job *pinion.Job
		job, a.err = p.storage.Get(ctx, step.ID)
		if a.err == nil {
			a.text = show(job, showArgs(job))
		}
	case "Cancel":
		var ended, asked []string
		ended, asked, a.err = p.storage.Cancel(ctx, step.Filter.IDs...)
		a.text = fmt.Sprint(ended, asked)
	case "Canceled":
		returned, a.err = p.storage.Canceled(ctx, jobs...)
	case "CancelWhere":
		var ended, asked int
		ended, asked, a.err = p.storage.CancelWhere(ctx, filter)
		a.text = fmt.Sprint(ended, asked)
	case "Replay":
		a.n, a.err = p.storage.Replay(ctx, filter)
	case "Purge":
		a.n, a.err = p.storage.Purge(ctx, filter)
	case "PruneWhere":
		a.n, a.err = p.storage.PruneWhere(ctx, filter)
	case "Reschedule":
		a.n, a.err = p.storage.Reschedule(ctx, filter, p.timeOrZero(step))
	case "History":
		var ends []pinion.Ends
		ends, a.err = p.storage.History(ctx, p.since(step))
		a.text = p.showHistory(ends)
	case "SetLimit":
		a.err = p.storage.SetLimit(ctx, step.Queue, step.Limit)
	case "Limits":
		var limits map[string]int
		limits, a.err = p.storage.Limits(ctx)
		a.text = fmt.Sprint(limits)
	case "Prune":
		a.n, a.err = p.storage.Prune(ctx, at)
	default:
		p.fail("there is no such verb")
	}
	if a.err != nil {
		a.text = "" // what comes with an error does not matter
	}
	a.jobs = p.positions(returned, jobs)
	return a
}

// positions returns where the returned jobs stand among those that were given. They must come in the same
// order.
func (p *player) positions(returned, given []*pinion.Job) []int {
	var at []int
	for i, job := range given {
		if len(returned) > 0 && returned[0] == job {
			at = append(at, i)
			returned = returned[1:]
		}
	}
	if len(returned) > 0 {
		p.fail("it returned %d jobs that it was not given, or in another order", len(returned))
	}
	return at
}

// askReference makes a call on the reference.
func (p *player) askReference(step Step, jobs []*pinion.Job) answer {
	var a answer
	ref := &p.reference
	at := p.now.Add(step.For)
	filter := p.filter(step)
	switch step.Verb {
	case "MarkDone":
		a.jobs = ref.markDone(jobs)
	case "MarkFailed":
		a.err = ref.markFailed(jobs[0], causeOf(step), at)
	case "DeadLetter":
		a.err = ref.deadLetter(jobs[0], causeOf(step))
	case "Heartbeat":
		a.jobs = ref.heartbeat(jobs)
	case "Release":
		var canceled []int
		a.jobs, canceled = ref.release(jobs, p.timeOrZero(step), causeOf(step))
		a.text = fmt.Sprint("canceled: ", canceled)
	case "ReapStale":
		a.n = ref.reapStale(p.waited())
	case "Size":
		a.n = ref.size()
	case "Stats":
		a.text = showStats(p.comparable(ref.stats()))
	case "Get":
		e := ref.find(step.ID)
		if e == nil {
			a.err = pinion.ErrNotFound
		} else {
			a.text = e.show()
		}
	case "Cancel":
		a.text = fmt.Sprint(ref.cancel(step.Filter.IDs))
	case "Canceled":
		a.jobs = ref.canceled(jobs)
	case "CancelWhere":
		a.text = fmt.Sprint(ref.cancelWhere(filter))
	case "Replay":
		a.n = ref.replay(filter)
	case "Purge":
		a.n = ref.purge(filter)
	case "PruneWhere":
		a.n = ref.pruneWhere(filter)
	case "Reschedule":
		a.n = ref.reschedule(filter, p.timeOrZero(step))
	case "History":
		a.text = p.showHistory(ref.history(p.since(step)))
	case "SetLimit":
		ref.setLimit(step.Queue, step.Limit)
	case "Limits":
		a.text = fmt.Sprint(ref.limits)
	case "Prune":
		a.n = ref.prune(at)
	}
	return a
}

// filter returns the filter of a step.
func (p *player) filter(step Step) pinion.Filter {
	f := step.Filter
	if step.After != 0 {
		f.After = p.now.Add(step.After)
	}
	if step.Before != 0 {
		f.Before = p.now.Add(step.Before)
	}
	return f
}

// timeOrZero returns the time that a step hands to Release or Reschedule.
func (p *player) timeOrZero(step Step) time.Time {
	if step.For == 0 {
		return time.Time{}
	}
	return p.now.Add(step.For)
}

// since returns the time that a step hands to History.
func (p *player) since(step Step) time.Time {
	if step.For == 0 {
		return time.Time{}
	}
	return p.now.Add(-step.For)
}

// comparable returns stats without what a storage and the reference may count in different ways.
func (p *player) comparable(stats pinion.Stats) pinion.Stats {
	if p.RealTime {
		stats = withoutMinute(stats)
	}
	if p.RealTime || p.reference.forgot {
		stats.LastMinute = [60]int{}
	}
	return stats
}

// showHistory shows ends. In real time the storage may have counted a job in the next minute, and knows better how
// long it took.
func (p *player) showHistory(all []pinion.Ends) string {
	if p.RealTime {
		all = slices.Clone(all)
		for i := range all {
			all[i].At = time.Time{}
			all[i].Took = 0
		}
	}
	return showHistory(byHour(all, p.now))
}

func causeOf(step Step) error {
	switch step.Cause {
	case "":
		return nil
	case "used up":
		return fmt.Errorf("no more: %w", pinion.ErrAttemptsUsedUp)
	default:
		return errors.New(step.Cause)
	}
}

// ---- Enqueue ----

func (p *player) enqueue(ctx context.Context, step Step) {
	jobs := p.newJobs(step)
	given := make([]*pinion.Job, len(jobs)) // as they were before the call
	for i, job := range jobs {
		kept := *job
		given[i] = &kept
	}
	holders := p.reference.keyHolders()
	if step.Twice && len(jobs) > 0 {
		p.enqueueTwice(ctx, jobs, given)
		return
	}
	err := p.storage.Enqueue(ctx, jobs...)
	if step.Ended {
		p.checkEnqueueAfterEnd(err, given)
		p.wantJobs(jobs, given)
		return
	}
	bad, taken := p.reference.enqueue(given)
	switch {
	case taken && (!bad || errors.Is(err, pinion.ErrDuplicate)): // if both is true, either error is right
		p.wantError(err, pinion.ErrDuplicate)
		p.checkDuplicate(err, given, holders)
		p.wantJobs(jobs, given)
	case bad:
		p.wantError(err, pinion.ErrBadArgs)
		p.wantJobs(jobs, given)
	default:
		p.wantError(err, nil)
		p.checkEnqueued(jobs, given)
	}
}

// enqueueTwice hands the first of the jobs to Enqueue a second time, which is an error whatever else is wrong.
func (p *player) enqueueTwice(ctx context.Context, jobs, given []*pinion.Job) {
	err := p.storage.Enqueue(ctx, append(slices.Clone(jobs), jobs[0])...)
	bad, _ := new(reference).enqueue(given)
	isRight := errors.Is(err, pinion.ErrDuplicate) ||
		bad && errors.Is(err, pinion.ErrBadArgs) || ctx.Err() != nil && errors.Is(err, ctx.Err())
	if !isRight {
		p.fail("one *Job was passed twice: got the error %v, want ErrDuplicate", err)
	}
	p.wantJobs(jobs, given)
}

// newJobs makes the jobs that a step enqueues.
func (p *player) newJobs(step Step) []*pinion.Job {
	var jobs []*pinion.Job
	for _, spec := range step.Jobs {
		job := &pinion.Job{
			ID:    spec.ID,
			Task:  spec.Task,
			Queue: spec.Queue,
			Key:   spec.Key,

			KeyUntilStart: spec.KeyUntilStart,
			Meta:          spec.Meta,
			Priority:      spec.Priority,
			Args:          spec.Args,
			Kwargs:        spec.Kwargs,
		}
		switch spec.Due {
		case 0:
		case Epoch:
			job.RunAt = time.Unix(0, 0)
		default:
			job.RunAt = p.now.Add(spec.Due)
		}
		if step.Garbage {
			job.Status = pinion.StatusSuccess
			job.Attempts = 7
			job.Claim = 1 << 50
			job.Error = "garbage"
			job.Result = []byte("1")
			job.CreatedAt = p.now.Add(-time.Hour)
			job.HeartbeatAt = p.now.Add(-time.Hour)
			job.FinishedAt = p.now
			job.LeaseUntil = p.now
			job.StartedAt = p.now
			job.Reaped = 4
		}
		jobs = append(jobs, job)
	}
	return jobs
}

// checkEnqueueAfterEnd checks the error of an Enqueue whose context has ended. If the jobs are wrong as well,
// even beside an empty storage, either error is right.
func (p *player) checkEnqueueAfterEnd(err error, jobs []*pinion.Job) {
	bad, taken := new(reference).enqueue(jobs)
	blamesJobs := errors.Is(err, pinion.ErrBadArgs) || errors.Is(err, pinion.ErrDuplicate)
	if blamesJobs && (bad || taken) {
		return
	}
	p.wantError(err, context.Canceled)
}

// checkEnqueued checks what Enqueue has set in the caller's jobs. The reference takes over the ids that were
// chosen.
func (p *player) checkEnqueued(jobs, given []*pinion.Job) {
	added := p.reference.jobs[len(p.reference.jobs)-len(jobs):]
	for i, job := range jobs {
		if given[i].ID == "" {
			if !chosenID.MatchString(job.ID) {
				p.fail("Enqueue chose the id %q, want 32 hexadecimal digits", job.ID)
			}
			added[i].ID = job.ID
		}
		want := given[i]
		want.ID = job.ID
		want.Queue = cmp.Or(want.Queue, "default")
		want.Status = pinion.StatusPending
		p.takeOver("CreatedAt", job.CreatedAt, &want.CreatedAt)
	}
	p.wantJobs(jobs, given)
	p.observe()
}

var chosenID = regexp.MustCompile(`^[0-9a-f]{32}$`)

// wantJobs compares the caller's jobs after a call with what they must be.
func (p *player) wantJobs(jobs, want []*pinion.Job) {
	for i := range jobs {
		got, want := show(jobs[i], showArgs(jobs[i])), show(want[i], showArgs(want[i]))
		if got != want {
			p.fail("the caller's job %d:\n\t got %s\n\twant %s", i, got, want)
		}
	}
}

// checkDuplicate checks that the error names a conflict which really exists. Holders are the ids of the
// unfinished jobs with a key, by key, before the call.
func (p *player) checkDuplicate(err error, jobs []*pinion.Job, holders map[string]string) {
	d, ok := errors.AsType[*pinion.DuplicateError](err)
	if !ok {
		p.fail("the error is not a DuplicateError: %v", err)
	}
	sameID, sameKey := 0, 0 // how many of the jobs have what the error names
	for _, job := range jobs {
		if job.ID == d.ID {
			sameID++
		}
		if job.Key == d.Key {
			sameKey++
		}
	}
	var exists bool
	if d.Key != "" {
		heldBefore := sameKey > 0 && holders[d.Key] == d.ID
		twiceInBatch := sameKey > 1 && holders[d.Key] == ""
		exists = heldBefore || twiceInBatch
	} else if d.ID != "" {
		storedBefore := sameID > 0 && p.reference.find(d.ID) != nil
		exists = storedBefore || sameID > 1
	}
	if !exists {
		p.fail("it reports a conflict that does not exist: %v", err)
	}
}

// ---- Dequeue and Wait ----

func (p *player) dequeue(step Step) {
	options := pinion.DequeueOptions{
		Max:    step.Max,
		Ahead:  step.Ahead,
		Queues: step.Queues,
		Tasks:  step.Tasks,
		Lease:  step.Lease,
		NoWait: true,
	}
	ctx := p.ctx
	if step.Verb == "Wait" {
		patience, ok := p.planWait(step)
		if !ok {
			return
		}
		options.NoWait = false
		waiting, cancel := context.WithTimeout(p.ctx, patience)
		defer cancel()
		ctx = waiting
	}
	got, err := p.storage.Dequeue(ctx, options)
	if step.Max < 1 || step.Ahead > step.Max {
		if err == nil || len(got) > 0 {
			p.fail("it returned %d jobs and the error %v, want an error because Max is %d and Ahead %d",
				len(got), err, step.Max, step.Ahead)
		}
		return
	}
	want := p.reference.dequeue(step)
	if len(want) > 0 || options.NoWait {
		p.wantError(err, nil)
	} else {
		p.wantError(err, context.DeadlineExceeded)
		if ctx.Err() == nil {
			p.fail("it returned nothing before its time was over")
		}
	}
	p.wantEqual("ids", jobIDs(got), entryIDs(want))
	p.now = p.reference.now
	for i, job := range got {
		p.observeJob(want[i], job)
		p.wantEqual("job", show(job, showArgs(job)), want[i].show())
	}
	p.held[step.Worker] = append(p.held[step.Worker], got...)
}

// planWait decides for how long a Wait is to wait. If a job becomes due in that time, the reference's clock
// moves to that moment. It is not ok to wait if two moments are so near to each other that nobody can say
// which comes first.
func (p *player) planWait(step Step) (patience time.Duration, ok bool) {
	margin := time.Second
	if p.RealTime {
		margin = 50 * time.Millisecond
	}
	due, isClear := p.reference.nextDue(step, margin)
	if !isClear {
		return 0, false
	}
	patience = step.For
	if d := p.now.Add(patience).Sub(due); d.Abs() < margin {
		patience += 2 * margin // so that the job is clearly due first
	}
	p.waits = patience
	if due.Before(p.now.Add(patience)) {
		p.waits = max(due.Sub(p.now), 0)
		if due.After(p.reference.now) {
			p.reference.now = due
		}
	}
	return patience, true
}

// ---- Listings ----

func (p *player) list(ctx context.Context, step Step) {
	filter := p.filter(step)
	listing := p.storage.Jobs(ctx, filter)
	entries := p.reference.list(filter)
	showOne := show
	showEntry := (*entry).show
	if step.Verb == "DeadLetters" {
		listing = p.storage.DeadLetters(ctx, filter)
		entries = p.reference.deadLetters(filter)
		showOne = showDead
		showEntry = (*entry).showDead
	}
	var got []string
	var err error
	for job, jobErr := range listing {
		if jobErr != nil {
			err = errors.Join(err, jobErr)
			continue
		}
		got = append(got, showOne(job, showArgs(job)))
	}
	if step.Ended {
		p.wantError(err, context.Canceled)
		p.wantEqual("number of jobs listed though the context had ended", len(got), 0)
		return
	}
	p.wantError(err, nil)
	var want []string
	for _, e := range entries {
		want = append(want, showEntry(e))
	}
	p.wantEqual("listed", strings.Join(got, "\n\t     "), strings.Join(want, "\n\t     "))
}

// ---- What the reference cannot know ----

// observe takes over from the storage what the reference cannot know about the jobs that the call has
// changed.
func (p *player) observe() {
	for _, e := range p.reference.jobs {
		exact := !p.RealTime && e.changed.dueWithin == 0
		if e.changed == (changes{}) || exact {
			continue
		}
		job, err := p.storage.Get(p.ctx, e.ID)
		if err != nil {
			p.fail("Get(%q): %w", e.ID, err)
		}
		p.observeJob(e, job)
	}
}

// observeJob takes over from job what the call has set in e to the present time or at random, if that can be
// right.
func (p *player) observeJob(e *entry, job *pinion.Job) {
	if e.changed.created {
		p.takeOver("CreatedAt", job.CreatedAt, &e.CreatedAt)
	}
	if e.changed.beat {
		p.takeOver("HeartbeatAt", job.HeartbeatAt, &e.HeartbeatAt)
	}
	if e.changed.finished {
		p.takeOver("FinishedAt", job.FinishedAt, &e.FinishedAt)
	}
	if e.changed.claimed {
		lowest, highest := e.Claim, max(e.Claim, time.Now().UnixMicro())
		if job.Claim < lowest || job.Claim > highest {
			p.fail("the claim is %d, want one from %d to %d", job.Claim, lowest, highest)
		}
		e.Claim = job.Claim
	}
	if within := e.changed.dueWithin; within > 0 {
		latest := micro(time.Now()).Add(within)
		if job.RunAt.Before(e.RunAt) || job.RunAt.After(latest) {
			p.fail("reaped again, job %s is due at %v, want a time from %v to %v", e.ID, job.RunAt, e.RunAt, latest)
		}
		e.RunAt = job.RunAt
	}
}

// takeOver copies a time if it is one from the beginning of the call to now.
func (p *player) takeOver(field string, got time.Time, want *time.Time) {
	earliest, latest := micro(p.now), time.Now()
	if got.Before(earliest) || got.After(latest) {
		p.fail("%s is %v, want a time from %v to %v", field, got, earliest, latest)
	}
	*want = got
}

// ---- The end ----

// compareAll compares all that can be seen.
func (p *player) compareAll() {
	for _, verb := range []string{"Jobs", "DeadLetters", "Stats", "Size", "History", "Limits"} {
		p.take(Step{Verb: verb})
	}
}

// checkClosed closes the storage and checks that every call then returns ErrClosed.
func (p *player) checkClosed() error {
	s, ctx := p.storage, p.ctx
	if err := s.Close(); err != nil {
		return fmt.Errorf("Close: %w", err)
	}
	job := &pinion.Job{ID: "x", Task: "x", Claim: 1, Attempts: 1}
	for _, call := range []struct {
		name string
		do   func() error
	}{
		{"Enqueue", func() error { return s.Enqueue(ctx, job) }},
		{"Enqueue of no jobs", func() error { return s.Enqueue(ctx) }},
		{"Dequeue", func() error { _, err := s.Dequeue(ctx, pinion.DequeueOptions{Max: 1}); return err }},
		{"MarkDone", func() error { _, err := s.MarkDone(ctx, job); return err }},
		{"MarkFailed", func() error { return s.MarkFailed(ctx, job, nil, time.Now()) }},
		{"DeadLetter", func() error { return s.DeadLetter(ctx, job, nil) }},
		{"Release", func() error { _, _, err := s.Release(ctx, time.Time{}, nil, job); return err }},
		{"ReapStale", func() error { _, err := s.ReapStale(ctx, time.Second); return err }},
		{"Size", func() error { _, err := s.Size(ctx); return err }},
		{"Stats", func() error { _, err := s.Stats(ctx); return err }},
		{"Get", func() error { _, err := s.Get(ctx, "x"); return err }},
		{"Replay", func() error { _, err := s.Replay(ctx, pinion.Filter{}); return err }},
		{"Prune", func() error { _, err := s.Prune(ctx, time.Now()); return err }},
		{"PruneWhere", func() error { _, err := s.PruneWhere(ctx, pinion.Filter{}); return err }},
		{"Purge", func() error { _, err := s.Purge(ctx, pinion.Filter{}); return err }},
		{"CancelWhere", func() error { _, _, err := s.CancelWhere(ctx, pinion.Filter{}); return err }},
		{"Reschedule", func() error { _, err := s.Reschedule(ctx, pinion.Filter{}, time.Now()); return err }},
		{"History", func() error { _, err := s.History(ctx, time.Now()); return err }},
		{"SetLimit", func() error { return s.SetLimit(ctx, "x", 1) }},
		{"Limits", func() error { _, err := s.Limits(ctx); return err }},
		{"Cancel", func() error { _, _, err := s.Cancel(ctx, "x"); return err }},
		{"Canceled", func() error { _, err := s.Canceled(ctx, job); return err }},
		{"Heartbeat", func() error { _, err := s.Heartbeat(ctx, job); return err }},
	} {
		if err := call.do(); !errors.Is(err, pinion.ErrClosed) {
			return fmt.Errorf("%s after Close: got the error %v, want ErrClosed", call.name, err)
		}
	}
	return nil
}

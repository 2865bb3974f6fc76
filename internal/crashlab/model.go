package crashlab

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"reflect"
	"regexp"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	"github.com/pinion-queue/pinion"
)

// Model checks storages against a plain reference: random sequences of all the verbs, by several workers that hold
// current and stale claims, while time moves. Each sequence is run on each storage, and each answer and the state at
// its end must be those of the reference; so the storages mean the same. A sequence that fails is shortened and
// printed as a Go test, which calls a function that the test file must have:
//
//	func playModel(t *testing.T, steps ...crashlab.Step)
//
// In a testing/synctest bubble, with time.Sleep for Sleep, times are exact. Where that cannot be (a server on the
// network), set RealTime: the steps in time are then of milliseconds, and what a storage stamps may lie anywhere
// between the beginning and the end of the call.
type Model struct {
	Seed      uint64
	First     int // number of the first sequence
	Sequences int // how many
	Steps     int // of a sequence [60]
	Storages  []Opener
	Sleep     func(time.Duration)
	RealTime  bool
	Tries     int // of a shorter sequence, before it counts as one that does not fail [2]
}

// Opener opens a new, empty storage that keeps finished jobs for ever and has all optional powers. Each call must
// give another one.
type Opener struct {
	Name string
	Open func(ctx context.Context) (pinion.Storage, error)
}

// Step is one call of a verb, or a Sleep. Zero fields are left out.
type Step struct {
	Verb   string // a method of pinion.Storage and its companions; Sleep; Wait, a Dequeue that waits
	Worker int
	// What the worker was given, that it still has before that it has lost: 0 is the newest, 1 the one before and so
	// on, around; -1 is a job that never was, -2 the first of them with an attempt too many.
	Claims  []int
	Jobs    []Spec
	Slots   int // of Prefetch
	Max     int
	Queues  []string
	Filter  pinion.Filter
	ID      string
	Cause   string        // of a failure; "used up" is ErrAttemptsUsedUp, and none is nil
	Result  string        // JSON that MarkDone records
	For     time.Duration // of Sleep; ReapStale's visibility; from now on, for MarkFailed and Prune; the patience of Wait
	Ended   bool          // ctx has ended
	Garbage bool          // the jobs to be enqueued carry values in fields that are the storage's to set
}

// Spec is a job to be enqueued.
type Spec struct {
	ID, Task, Queue, Key string
	Priority             int
	Due                  time.Duration // from now on; 0: no due time is set
	Args                 []any
	Kwargs               map[string]any
}

// Epoch as a Due is the first second of 1970.
const Epoch time.Duration = -1 << 63

// modelStorage is what a Model needs.
type modelStorage interface {
	pinion.Storage
	pinion.Canceler
	pinion.Inspector
}

// Check runs the sequences and returns the first failure, a [*Difference].
func (m Model) Check(ctx context.Context) error {
	for i := m.First; i < m.First+m.Sequences; i++ {
		steps := m.sequence(i)
		opener, err := m.play(ctx, steps)
		if err == nil {
			continue
		}
		one := m
		one.Storages = []Opener{opener}
		short, shortErr := one.shrink(ctx, steps)
		return &Difference{m.Seed, i, steps, short, cmp.Or(shortErr, err)}
	}
	return ctx.Err()
}

// Difference is what Check returns when a storage and the reference differ.
type Difference struct {
	Seed     uint64
	Sequence int
	Steps    []Step // as they were made up
	Short    []Step // those of them that it takes, made as plain as they can be
	Err      error  // how Short fails
}

func (d *Difference) Error() string {
	return fmt.Sprintf("sequence %d of seed %d (its %d steps shortened to %d): %v\n%s", d.Sequence, d.Seed, len(d.Steps), len(d.Short), d.Err, Source(d.Short))
}

// Unwrap returns Err.
func (d *Difference) Unwrap() error { return d.Err }

// Play runs one sequence on each storage.
func (m Model) Play(ctx context.Context, steps ...Step) error {
	_, err := m.play(ctx, steps)
	return err
}

func (m Model) play(ctx context.Context, steps []Step) (Opener, error) {
	for _, o := range m.Storages {
		if err := m.playOn(ctx, o, steps); err != nil {
			return o, fmt.Errorf("on %s: %w", o.Name, err)
		}
	}
	return Opener{}, nil
}

func (m Model) playOn(ctx context.Context, o Opener, steps []Step) (err error) {
	opened, err := o.Open(ctx)
	if err != nil {
		return fmt.Errorf("open: %w", err)
	}
	defer opened.Close()
	s, ok := opened.(modelStorage)
	if !ok {
		return fmt.Errorf("%T has not all the optional powers", opened)
	}
	play := &modelPlay{Model: m, s: s, ctx: ctx, held: make(map[int][]*pinion.Job)}
	defer func() {
		switch p := recover().(type) {
		case nil:
		case modelFailure:
			if !play.late { // else it proves nothing
				err = p.error
			}
		default:
			err = fmt.Errorf("panic: %v\n%s", p, debug.Stack())
		}
	}()
	ended, end := context.WithCancel(ctx)
	end()
	play.ended = ended
	for i, step := range steps {
		play.where = fmt.Sprintf("step %d, %s", i, step.Verb)
		play.do(step)
	}
	play.where = "at the end"
	play.state()
	return play.closed()
}

// modelPlay is one sequence on one storage. What differs stops it, by a panic that playOn recovers.
type modelPlay struct {
	Model
	s          modelStorage
	ref        reference
	held       map[int][]*pinion.Job // what each worker was given, as it was given
	ctx, ended context.Context
	where      string
	from       time.Time // when the call began

	// In real time:
	settled  time.Time     // when it was clear what is due
	patience time.Duration // for which the step is to wait
	late     bool          // a step took so long that it was clear no more
}

const near = 20 * time.Millisecond // in real time, what is so near may come first or not

type modelFailure struct{ error }

func (p *modelPlay) fail(format string, args ...any) {
	panic(modelFailure{fmt.Errorf("%s: %w", p.where, fmt.Errorf(format, args...))})
}

func (p *modelPlay) equal(what string, got, want any) {
	if !reflect.DeepEqual(got, want) {
		p.fail("%s:\n\t got %v\n\twant %v", what, got, want)
	}
}

// is compares errors by errors.Is.
func (p *modelPlay) is(err, want error) {
	if !errors.Is(err, want) {
		p.fail("error:\n\t got %v\n\twant %v", err, want)
	}
}

// do takes one step on both sides.
func (p *modelPlay) do(step Step) {
	if step.Verb == "Sleep" {
		p.Sleep(step.For)
		return
	}
	if p.RealTime {
		p.settle(step)
		defer func() { p.late = p.late || time.Since(p.settled)-p.patience > near }()
	}
	ctx := p.ctx
	if step.Ended {
		ctx = p.ended
	}
	jobs := p.claims(step)
	p.from = time.Now()
	p.ref.begin(micro(p.from))
	switch step.Verb {
	case "Enqueue":
		p.enqueue(ctx, step)
		return
	case "Dequeue", "Prefetch", "Wait":
		p.dequeue(step)
		return
	case "Jobs", "DeadLetters":
		p.list(ctx, step)
		return
	}
	got := p.call(ctx, step, jobs)
	if step.Ended {
		p.is(got.err, context.Canceled)
		return
	}
	want := p.verb(&p.ref, step, jobs)
	p.is(got.err, want.err)
	p.equal("lost", fmt.Sprint(got.lost), fmt.Sprint(want.lost))
	p.equal("answer", got.n, want.n)
	p.equal("answer", got.text, want.text)
	p.observe()
}

// modelAnswer is what a verb answers.
type modelAnswer struct {
	lost []int // by position
	n    int
	text string
	err  error
}

// verb is the reference's answer.
func (p *modelPlay) verb(ref *reference, step Step, jobs []*pinion.Job) (a modelAnswer) {
	single := func(lost []int, canceled bool) {
		if len(lost) > 0 {
			a.err = pinion.ErrLeaseLost
		} else if canceled {
			a.err = pinion.ErrCanceled
		}
	}
	now := p.from
	switch step.Verb {
	case "MarkDone":
		a.lost = ref.markDone(withResult(jobs, step.Result))
	case "MarkFailed":
		single(ref.markFailed(jobs[0], causeOf(step), now.Add(step.For)))
	case "DeadLetter":
		single(ref.deadLetter(jobs[0], causeOf(step)))
	case "Heartbeat":
		a.lost = ref.heartbeat(jobs)
	case "Release":
		a.lost = ref.release(jobs, causeOf(step))
	case "ReapStale":
		a.n = ref.reapStale(step.For)
	case "Size":
		a.n = ref.size()
	case "Stats":
		a.text = showStats(ref.stats(!p.RealTime))
	case "Get":
		if e := ref.find(step.ID); e != nil {
			a.text = e.show()
		} else {
			a.err = pinion.ErrNotFound
		}
	case "Cancel":
		a.text = fmt.Sprint(ref.cancelAll(step.Filter.IDs))
	case "Canceled":
		a.lost = ref.canceled(jobs)
	case "Replay":
		a.n = ref.replay(step.Filter)
	case "Purge":
		a.n = ref.purge(step.Filter)
	case "Prune":
		a.n = ref.prune(now.Add(step.For))
	default:
		p.fail("there is no such verb")
	}
	return a
}

// call is the storage's answer.
func (p *modelPlay) call(ctx context.Context, step Step, jobs []*pinion.Job) (a modelAnswer) {
	var lost []*pinion.Job
	now := p.from
	switch step.Verb {
	case "MarkDone":
		jobs = withResult(jobs, step.Result)
		lost, a.err = p.s.MarkDone(ctx, jobs...)
	case "MarkFailed":
		a.err = p.s.MarkFailed(ctx, jobs[0], causeOf(step), now.Add(step.For))
	case "DeadLetter":
		a.err = p.s.DeadLetter(ctx, jobs[0], causeOf(step))
	case "Heartbeat":
		lost, a.err = p.s.Heartbeat(ctx, jobs...)
	case "Release":
		lost, _, a.err = p.s.Release(ctx, time.Time{}, causeOf(step), jobs...)
	case "ReapStale":
		a.n, a.err = p.s.ReapStale(ctx, step.For)
	case "Size":
		a.n, a.err = p.s.Size(ctx)
	case "Stats":
		stats, err := p.s.Stats(ctx)
		if p.RealTime {
			stats = withoutLately(stats)
		}
		a.text, a.err = showStats(stats), err
	case "Get":
		job, err := p.s.Get(ctx, step.ID)
		if a.err = err; err == nil {
			a.text = show(job, showArgs(job))
		}
	case "Cancel":
		ended, asked, err := p.s.Cancel(ctx, step.Filter.IDs...)
		a.text, a.err = fmt.Sprint(ended, asked), err
	case "Canceled":
		lost, a.err = p.s.Canceled(ctx, jobs...)
	case "Replay":
		a.n, a.err = p.s.Replay(ctx, step.Filter)
	case "Purge":
		a.n, a.err = p.s.Purge(ctx, step.Filter)
	case "Prune":
		a.n, a.err = p.s.Prune(ctx, now.Add(step.For))
	}
	if a.err != nil {
		a.text = ""
	}
	for i, job := range jobs { // lost ones come in the order in which they were given
		if len(lost) > 0 && lost[0] == job {
			a.lost, lost = append(a.lost, i), lost[1:]
		}
	}
	if len(lost) > 0 {
		p.fail("%d jobs are named as lost that were not given, or in another order", len(lost))
	}
	return a
}

// claims are the jobs that the worker calls the verb for.
func (p *modelPlay) claims(step Step) (jobs []*pinion.Job) {
	nobody := &pinion.Job{ID: "nobody", Claim: 1, Attempts: 1}
	held := slices.Clone(p.held[step.Worker])
	slices.Reverse(held)
	slices.SortStableFunc(held, func(a, b *pinion.Job) int { return cmp.Compare(p.ref.lost(a), p.ref.lost(b)) })
	for _, i := range step.Claims {
		if i == -1 || len(held) == 0 {
			jobs = append(jobs, nobody)
		} else {
			job := *held[max(i, 0)%len(held)] // a copy each: what is lost is told apart by its pointer
			if i < 0 {
				job.Attempts++
			}
			jobs = append(jobs, &job)
		}
	}
	if len(jobs) == 0 && (step.Verb == "MarkFailed" || step.Verb == "DeadLetter") {
		return []*pinion.Job{nobody}
	}
	return jobs
}

func withResult(jobs []*pinion.Job, result string) []*pinion.Job {
	for _, job := range jobs {
		if job.Result = nil; result != "" {
			job.Result = []byte(result)
		}
	}
	return jobs
}

func causeOf(step Step) error {
	switch step.Cause {
	case "":
		return nil
	case "used up":
		return fmt.Errorf("no more: %w", pinion.ErrAttemptsUsedUp)
	}
	return errors.New(step.Cause)
}

func (p *modelPlay) enqueue(ctx context.Context, step Step) {
	var jobs, given []*pinion.Job
	for _, spec := range step.Jobs {
		job := &pinion.Job{ID: spec.ID, Task: spec.Task, Queue: spec.Queue, Key: spec.Key, Priority: spec.Priority, Args: spec.Args, Kwargs: spec.Kwargs}
		switch spec.Due {
		case 0:
		case Epoch:
			job.RunAt = time.Unix(0, 0)
		default:
			job.RunAt = p.from.Add(spec.Due)
		}
		if step.Garbage {
			job.Status, job.Attempts, job.Claim, job.Error, job.Result = pinion.StatusSuccess, 7, 1<<50, "garbage", []byte("1")
			job.CreatedAt, job.HeartbeatAt, job.FinishedAt = p.from.Add(-time.Hour), p.from.Add(-time.Hour), p.from
		}
		kept := *job
		jobs, given = append(jobs, job), append(given, &kept)
	}
	err := p.s.Enqueue(ctx, jobs...)
	var bad, taken bool
	holders := make(map[string]string) // by key
	for _, e := range p.ref.jobs {
		if e.Key != "" && e.unfinished() {
			holders[e.Key] = e.ID
		}
	}
	if step.Ended { // which of several errors comes is not said
		if bad, taken = new(reference).enqueue(given); !bad && !taken || !errors.Is(err, pinion.ErrBadArgs) && !errors.Is(err, pinion.ErrDuplicate) {
			p.is(err, context.Canceled)
		}
		p.untouched(jobs, given)
		return
	}
	switch bad, taken = p.ref.enqueue(given); {
	case taken && (!bad || errors.Is(err, pinion.ErrDuplicate)):
		p.is(err, pinion.ErrDuplicate)
		p.duplicate(err, given, holders)
		p.untouched(jobs, given)
	case bad:
		p.is(err, pinion.ErrBadArgs)
		p.untouched(jobs, given)
	default:
		p.is(err, nil)
		added := p.ref.jobs[len(p.ref.jobs)-len(jobs):]
		for i, job := range jobs {
			if given[i].ID == "" {
				if added[i].ID = job.ID; !chosenID.MatchString(job.ID) {
					p.fail("a job was given the id %q", job.ID)
				}
			}
			given[i].ID, given[i].Queue, given[i].Status, given[i].CreatedAt = job.ID, cmp.Or(given[i].Queue, "default"), pinion.StatusPending, added[i].CreatedAt
			p.stamped("CreatedAt", job.CreatedAt, &given[i].CreatedAt, true)
		}
		p.untouched(jobs, given)
		p.observe()
	}
}

var chosenID = regexp.MustCompile(`^[0-9a-f]{32}$`)

// untouched compares the caller's jobs with what is to have become of them.
func (p *modelPlay) untouched(jobs, want []*pinion.Job) {
	for i := range jobs {
		if got, want := show(jobs[i], showArgs(jobs[i])), show(want[i], showArgs(want[i])); got != want {
			p.fail("the caller's job %d:\n\t got %s\n\twant %s", i, got, want)
		}
	}
}

// duplicate checks that an error names a conflict that there is.
func (p *modelPlay) duplicate(err error, jobs []*pinion.Job, holders map[string]string) {
	d, ok := errors.AsType[*pinion.DuplicateError](err)
	if !ok {
		p.fail("%v is no DuplicateError", err)
	}
	ids, keys := make(map[string]int), make(map[string]int)
	for _, job := range jobs {
		ids[job.ID]++
		keys[job.Key]++
	}
	right := d.ID != "" && ids[d.ID] > 0 && (ids[d.ID] > 1 || p.ref.find(d.ID) != nil)
	if d.Key != "" {
		right = keys[d.Key] > 1 && holders[d.Key] == "" || keys[d.Key] > 0 && holders[d.Key] == d.ID
	}
	if !right {
		p.fail("a conflict that there is not: %v", err)
	}
}

// dequeue takes what is due, or waits for it.
func (p *modelPlay) dequeue(step Step) {
	ctx, opts := p.ctx, pinion.DequeueOptions{Max: step.Max, Queues: step.Queues, NoWait: step.Verb != "Wait"}
	if step.Verb == "Prefetch" {
		opts.Ahead = max(step.Max-step.Slots, 0)
	}
	if step.Ended {
		ctx = p.ended
	}
	if step.Verb == "Wait" {
		near := time.Second
		if p.RealTime {
			near = 50 * time.Millisecond
		}
		due, clear := p.ref.nextDue(step.Queues, near)
		if !clear {
			return
		}
		if d := p.from.Add(step.For).Sub(due); d.Abs() < near {
			step.For += 2 * near // which of the two comes first is nobody's to say
		}
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(p.ctx, step.For)
		defer cancel()
		if p.patience = step.For; due.Before(p.from.Add(step.For)) {
			p.patience, p.ref.now = max(due.Sub(p.from), 0), later(due, p.ref.now)
		}
	}
	got, err := p.s.Dequeue(ctx, opts)
	if step.Max < 1 {
		if err == nil || len(got) > 0 {
			p.fail("%d jobs, though %d were asked for, and the error %v", len(got), step.Max, err)
		}
		return
	}
	if step.Ended {
		p.is(err, context.Canceled)
		p.equal("jobs", len(got), 0)
		return
	}
	want := p.ref.dequeue(step.Max-opts.Ahead, step.Max, step.Queues)
	if len(want) == 0 {
		p.is(err, ctx.Err())
		if step.Verb == "Wait" && ctx.Err() == nil {
			p.fail("it came back with nothing, before its time")
		}
	} else if err != nil {
		p.is(err, nil)
	}
	p.equal("ids", ids(got), entryIDs(want))
	p.from = p.ref.now
	for i, job := range got {
		p.adopt(want[i], job)
		p.equal("job", show(job, showArgs(job)), want[i].show())
	}
	p.held[step.Worker] = append(p.held[step.Worker], got...)
}

func (p *modelPlay) list(ctx context.Context, step Step) {
	listing, want, showOne := p.s.Jobs(ctx, step.Filter), p.ref.list(step.Filter), show
	if step.Verb == "DeadLetters" {
		listing, want, showOne = p.s.DeadLetters(ctx, step.Filter), limited(p.ref.dead(step.Filter), step.Filter.Limit), showDead
	}
	var got, wanted []string
	var err error
	for job, failed := range listing {
		if failed != nil {
			err = errors.Join(err, failed)
			continue
		}
		got = append(got, showOne(job, showArgs(job)))
	}
	if step.Ended {
		if len(got) > 0 {
			p.fail("%d jobs are listed, though ctx had ended", len(got))
		}
		p.is(err, context.Canceled)
		return
	}
	p.is(err, nil)
	for _, e := range want {
		wanted = append(wanted, showOne(&e.Job, e.args))
	}
	p.equal("listed", strings.Join(got, "\n\t     "), strings.Join(wanted, "\n\t     "))
}

// observe takes over what the reference cannot know of the entries that the verb has changed.
func (p *modelPlay) observe() {
	for _, e := range p.ref.jobs {
		if e.stamp == (stamp{}) || !p.RealTime && e.stamp.spread == 0 {
			continue
		}
		job, err := p.s.Get(p.ctx, e.ID)
		if err != nil {
			p.fail("Get(%q): %w", e.ID, err)
		}
		p.adopt(e, job)
	}
}

// adopt takes over from job the times that e got in this step, if they can be right.
func (p *modelPlay) adopt(e *entry, job *pinion.Job) {
	p.stamped("CreatedAt", job.CreatedAt, &e.CreatedAt, e.stamp.created)
	p.stamped("HeartbeatAt", job.HeartbeatAt, &e.HeartbeatAt, e.stamp.beat)
	p.stamped("FinishedAt", job.FinishedAt, &e.FinishedAt, e.stamp.finished)
	if low, high := e.Claim, max(e.stamp.claim, time.Now().UnixMicro()); e.stamp.claim > 0 {
		if job.Claim < low || job.Claim > high {
			p.fail("the claim %d is not between %d and %d", job.Claim, low, high)
		}
		e.Claim = job.Claim
	}
	if e.stamp.spread > 0 {
		if job.RunAt.Before(e.RunAt) || job.RunAt.After(micro(time.Now()).Add(e.stamp.spread)) {
			p.fail("reaped again, job %s is due %v after now, which is not within %v", e.ID, job.RunAt.Sub(e.RunAt), e.stamp.spread)
		}
		e.RunAt = job.RunAt
	}
}

// stamped takes over a time between the beginning of the call and now.
func (p *modelPlay) stamped(field string, got time.Time, want *time.Time, here bool) {
	if !here {
		return
	}
	if got.Before(micro(p.from)) || got.After(time.Now()) {
		p.fail("%s: got %v, want a time from %v to %v", field, got, micro(p.from), micro(time.Now()))
	}
	*want = got
}

// state compares all that can be seen.
func (p *modelPlay) state() {
	for _, verb := range []string{"Jobs", "DeadLetters", "Stats", "Size"} {
		p.do(Step{Verb: verb})
	}
}

// closed checks that a closed storage says so.
func (p *modelPlay) closed() error {
	job := &pinion.Job{ID: "x", Task: "x", Claim: 1, Attempts: 1}
	if err := p.s.Close(); err != nil {
		return fmt.Errorf("Close: %w", err)
	}
	_, dequeue := p.s.Dequeue(p.ctx, pinion.DequeueOptions{Max: 1})
	_, done := p.s.MarkDone(p.ctx, job)
	_, size := p.s.Size(p.ctx)
	_, stats := p.s.Stats(p.ctx)
	_, get := p.s.Get(p.ctx, "x")
	_, reap := p.s.ReapStale(p.ctx, time.Second)
	_, replay := p.s.Replay(p.ctx, pinion.Filter{})
	_, prune := p.s.Prune(p.ctx, time.Now())
	_, _, release := p.s.Release(p.ctx, time.Time{}, nil, job)
	for i, err := range []error{p.s.Enqueue(p.ctx, job), p.s.Enqueue(p.ctx), dequeue, done, p.s.MarkFailed(p.ctx, job, nil, time.Now()), p.s.DeadLetter(p.ctx, job, nil),
		size, stats, get, reap, replay, prune, release} {
		if !errors.Is(err, pinion.ErrClosed) {
			return fmt.Errorf("after Close, call %d: got %v, want ErrClosed", i, err)
		}
	}
	return nil
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// settle waits, in real time, until it is clear what is due and what is stale.
func (p *modelPlay) settle(step Step) {
	for again := true; again; {
		again, p.settled, p.patience = false, time.Now(), 0
		for _, e := range p.ref.jobs {
			at := e.RunAt
			if step.Verb == "ReapStale" {
				at = e.HeartbeatAt.Add(step.For)
			}
			if d := time.Until(at); e.unfinished() && d.Abs() < near {
				time.Sleep(d + near + time.Millisecond)
				again = true
			}
		}
	}
}

// show is a job with all that is determined, in one line.
func show(j *pinion.Job, args string) string {
	return fmt.Sprintf("{%s %s %s due=%s attempts=%d claim=%d created=%s beat=%s finished=%s result=%s worker=%s canceled=%t}", shown(j), args, j.Status,
		clock(j.RunAt), j.Attempts, j.Claim, clock(j.CreatedAt), clock(j.HeartbeatAt), clock(j.FinishedAt), j.Result, j.Worker, j.Canceled)
}

// showDead leaves out what a dead letter need not keep.
func showDead(j *pinion.Job, args string) string {
	return fmt.Sprintf("{%s %s %s attempts=%d finished=%s}", shown(j), args, j.Status, j.Attempts, clock(j.FinishedAt))
}

func shown(j *pinion.Job) string {
	text := j.Error
	if len(text) > 60 {
		text = fmt.Sprintf("%.20s…(%d bytes)…%s", text, len(text), text[len(text)-10:])
	}
	return fmt.Sprintf("%s task=%q queue=%q key=%q priority=%d error=%q", j.ID, j.Task, j.Queue, j.Key, j.Priority, text)
}

// clock takes the first moment of 1970 for no time, as some storages do.
func clock(t time.Time) string {
	if t.IsZero() || t.UnixMicro() == 0 {
		return "-"
	}
	if t.Location() != time.UTC {
		return t.String() // every storage gives UTC
	}
	return t.Format("2006-01-02T15:04:05.999999999")
}

func (e *entry) show() string { return show(&e.Job, e.args) }

func showStats(stats pinion.Stats) string {
	return strings.ReplaceAll(fmt.Sprintf("%+v", stats), "} {", "}\n\t     {")
}

func withoutLately(stats pinion.Stats) pinion.Stats {
	clear := func(c *pinion.Counts) { c.SuccessHour, c.FailedHour, c.Minute = 0, 0, 0 }
	clear(&stats.Total)
	for i := range stats.Queues {
		clear(&stats.Queues[i].Counts)
	}
	for i := range stats.Tasks {
		clear(&stats.Tasks[i].Counts)
	}
	stats.LastMinute = [60]int{}
	return stats
}

func ids(jobs []*pinion.Job) (ids []string) {
	for _, job := range jobs {
		ids = append(ids, job.ID)
	}
	return ids
}

func entryIDs(entries []*entry) (ids []string) {
	for _, e := range entries {
		ids = append(ids, e.ID)
	}
	return ids
}

// sequence makes up the i-th sequence.
func (m Model) sequence(i int) []Step {
	g := newModelDice(m.Seed, uint64(i), m.RealTime)
	steps := make([]Step, 1+g.IntN(cmp.Or(m.Steps, 60)))
	for i := range steps {
		steps[i] = g.step()
	}
	return steps
}

package pinion

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"runtime/debug"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// Periodic makes a job at each time of a schedule. Set [Worker].Periodic. The storage must be an [Inspector].
//
// The next run is one PENDING job in the storage, under the Key "periodic:" and Name, with its due time. Every
// worker that has the Periodic makes sure that this job is there: when it starts, after each run, and each
// ReapInterval. There is no leader: the Key lets only one job in, and the job's ID is made of Name and the
// time, so that a time has one job, whatever other processes and clocks do.
//
// Runs never overlap. A run that is missed while no worker is alive happens once, late. A failed run is due
// again at the latest at the schedule's next time. When its retries are used up it goes to the dead-letter
// queue, and the schedule goes on. The next run then holds the Key, so Replay leaves such a dead letter where it is:
// Reschedule the next run instead.
//
// A deploy that makes the schedule earlier moves the next run, unless that has been attempted or rescheduled. A
// deploy that makes it later takes effect after the run that is planned. A run that is moved counts as canceled:
// Stats and History have it among the failed.
//
// A run that somebody cancels before its time is skipped.
type Periodic struct {
	// Name identifies the schedule, over all processes and deploys. It is at most 1,000 bytes long.
	Name string
	// Schedule returns the times.
	Schedule Schedule
	// Job returns the job for the run that is due at a time, or nil to skip that time. Its ID, Key and RunAt
	// are set by the worker, and KeyUntilStart is ignored.
	Job func(at time.Time) *Job
}

// Schedule returns the times of a [Periodic]. The schedules of robfig/cron are Schedules. Several goroutines
// may call Next at the same time.
type Schedule interface {
	// Next returns the first time after a time, or the zero time if there is none.
	Next(after time.Time) time.Time
}

// Every returns the schedule of all multiples of d since the start of 1970 in UTC, so that all processes agree.
// d must be at least a millisecond: Run and Drain refuse a shorter one.
func Every(d time.Duration) Schedule { return every(d) }

type every time.Duration

func (e every) Next(after time.Time) time.Time {
	if e <= 0 {
		return time.Time{}
	}
	since := after.UnixNano()
	passed := since % int64(e)
	if passed < 0 {
		passed += int64(e) // before 1970
	}
	return after.Add(time.Duration(int64(e) - passed)).UTC()
}

const (
	periodicPrefix  = "periodic:"
	maxPeriodicName = 1000 // bytes, so that the Key has at most 1 KiB
	maxSkips        = 100  // how many times one look skips that are taken or that Job skips

	shortestEvery = time.Millisecond // each run takes two transactions at least

	// withdrawnBy is how much later than its slot a run is due that a worker has begun to withdraw. So the next worker
	// can tell a run that was left in the middle of that from one that somebody canceled.
	withdrawnBy = time.Microsecond
)

// check reports what is wrong with p.
func (p Periodic) check() error {
	if p.Name == "" {
		return errors.New("its Name is empty")
	}
	if len(p.Name) > maxPeriodicName {
		return fmt.Errorf("its Name has %d bytes; want at most %d", len(p.Name), maxPeriodicName)
	}
	if err := checkText("Name", p.Name); err != nil {
		return err
	}
	if p.Schedule == nil {
		return errors.New("Schedule is not set")
	}
	if d, ok := p.Schedule.(every); ok && time.Duration(d) < shortestEvery {
		return fmt.Errorf("Schedule is Every(%v); want at least %v", time.Duration(d), shortestEvery)
	}
	if p.Job == nil {
		return errors.New("Job is not set")
	}
	return nil
}

// checkPeriodics reports the first Periodic that is wrong, or a storage that cannot keep them.
func checkPeriodics(s Storage, all []Periodic) error {
	if len(all) == 0 {
		return nil
	}
	if _, ok := As[Inspector](s); !ok {
		return fmt.Errorf("Periodic: %T: %w: want a storage that is an Inspector", s, errors.ErrUnsupported)
	}
	names := make(map[string]bool)
	for i, p := range all {
		if err := p.check(); err != nil {
			return fmt.Errorf("field Periodic[%d] (%q): %w", i, p.Name, err)
		}
		if names[p.Name] {
			return fmt.Errorf("field Periodic[%d] (%q): its Name is taken by another; want a name for each", i, p.Name)
		}
		names[p.Name] = true
	}
	return nil
}

// periodicID returns the ID of the job for one time of a schedule, in the form of a UUIDv8 (RFC 9562). The
// first 48 bits are the time in milliseconds, so that ids sort by time. The others are a hash of name and time.
func periodicID(name string, slot time.Time) string {
	micros := slot.UnixMicro()
	sum := sha256.Sum256([]byte(strconv.FormatInt(micros, 10) + " " + name))
	var id [16]byte
	copy(id[:], sum[:])
	millis := uint64(slot.UnixMilli())
	binary.BigEndian.PutUint16(id[:], uint16(millis>>32))
	binary.BigEndian.PutUint32(id[2:], uint32(millis))
	id[6] = id[6]&0x0f | 0x80 // the version
	id[8] = id[8]&0x3f | 0x80 // the variant
	return hex.EncodeToString(id[:])
}

// slotOf returns the time that an ID of periodicID was made from, if that was a whole number of milliseconds.
func slotOf(name, id string) (slot time.Time, ok bool) {
	if len(id) != 32 {
		return time.Time{}, false
	}
	millis, err := strconv.ParseInt(id[:12], 16, 64)
	if err != nil {
		return time.Time{}, false
	}
	slot = time.UnixMilli(millis).UTC()
	return slot, periodicID(name, slot) == id
}

// ---- The code of the caller ----

// planError is what is wrong with a Periodic itself: its Schedule or Job panics, or what that returns is of no use.
type planError struct {
	name string // of the Periodic
	err  error
}

func (e *planError) Error() string { return fmt.Sprintf("periodic %q: %v", e.name, e.err) }

func (e *planError) Unwrap() error { return e.err }

// next returns the first time of the schedule after a time, or the zero time if there is none.
func (n *nextRun) next(after time.Time) (slot time.Time, err error) {
	err = n.guard(func() { slot = n.Schedule.Next(after) })
	if err != nil {
		return time.Time{}, err
	}
	if !slot.IsZero() && !slot.After(after) {
		return time.Time{}, &planError{n.Name, fmt.Errorf("Schedule.Next(%v) is %v; want a later time", after, slot)}
	}
	return slot, nil
}

// job returns the job for one time, or nil if Job skips it.
func (n *nextRun) job(slot time.Time) (job *Job, err error) {
	var made *Job
	err = n.guard(func() { made = n.Job(slot) })
	if err != nil || made == nil {
		return nil, err
	}
	copied := *made // the caller may return the same one each time
	copied.ID = periodicID(n.Name, slot)
	copied.Key = periodicPrefix + n.Name
	copied.RunAt = slot
	copied.KeyUntilStart = false
	return &copied, nil
}

// maxPlanTime is how long the code of a Periodic may take.
const maxPlanTime = time.Second

// guard calls code of the caller's and makes an error of a panic in it, and of code that has not returned in
// maxPlanTime. Until that returns, guard calls nothing more.
//
// The code runs on a goroutine of its own: one that calls runtime.Goexit, as a test's FailNow does, would
// otherwise end the worker's goroutine, and one that blocks would keep it.
func (n *nextRun) guard(code func()) error {
	stuck := &planError{n.Name, fmt.Errorf("Schedule.Next or Job has not returned in %v", maxPlanTime)}
	if n.stuck.Load() > 0 {
		return stuck
	}
	ended := make(chan error)
	go func() {
		returned := false
		defer func() {
			v := recover()
			switch {
			case v != nil:
				ended <- &planError{n.Name, &PanicError{v, debug.Stack()}}
			case !returned:
				ended <- &planError{n.Name, &PanicError{"runtime.Goexit was called", debug.Stack()}}
			default:
				ended <- nil
			}
		}()
		code()
		returned = true
	}()
	timer := time.NewTimer(maxPlanTime)
	defer timer.Stop()
	select {
	case err := <-ended:
		return err
	case <-timer.C:
		n.stuck.Add(1)
		go func() { // ends with the code
			<-ended
			n.stuck.Add(-1)
		}()
		return stuck
	}
}

// ---- What the worker does ----

// periodics keeps the next run of each Periodic in the storage.
type periodics struct {
	mu  sync.Mutex // guards the rest, and lets only one look run at a time
	all map[string]*nextRun
}

// nextRun is what a worker knows about one Periodic.
type nextRun struct {
	Periodic
	id    string       // of the job that was last seen to be there
	last  time.Time    // no run is made for this time or an earlier one
	stuck atomic.Int32 // how many calls of guard have given up on code that has not returned
}

func newPeriodics(all []Periodic) *periodics {
	p := &periodics{all: make(map[string]*nextRun)}
	for _, periodic := range all {
		p.all[periodic.Name] = &nextRun{Periodic: periodic}
	}
	return p
}

// name returns the name of the Periodic that job is a run of, if the worker has that.
func (p *periodics) name(job *Job) (name string, ok bool) {
	name, ok = strings.CutPrefix(job.Key, periodicPrefix)
	if !ok {
		return "", false
	}
	_, ok = p.all[name]
	return name, ok
}

// latest returns when a failed run is due again at the latest; ok is false for any other job.
func (p *periodics) latest(job *Job, now time.Time) (due time.Time, ok bool) {
	name, ok := p.name(job)
	if !ok {
		return time.Time{}, false
	}
	due, err := p.all[name].next(now)
	return due, err == nil && !due.IsZero()
}

// ended makes sure that a run follows one that has ended.
func (p *periodics) ended(ctx context.Context, s Storage, job *Job) error {
	name, ok := p.name(job)
	if !ok {
		return nil
	}
	slot, ok := slotOf(name, job.ID)
	if ok {
		p.mu.Lock()
		p.all[name].passed(slot)
		p.mu.Unlock()
	}
	return p.ensure(ctx, s, name)
}

func (n *nextRun) passed(slot time.Time) {
	if slot.After(n.last) {
		n.last = slot
	}
}

// ensure makes sure that the next run of one Periodic is stored, and that it is not later than the schedule says.
// It returns a planError for what is wrong with the Periodic; other errors are the storage's.
func (p *periodics) ensure(ctx context.Context, s Storage, name string) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	n := p.all[name]
	in, _ := As[Inspector](s)
	job, err := n.stored(ctx, in)
	if err != nil {
		return fmt.Errorf("periodic %q: %w", name, err)
	}
	if job != nil {
		earlier, err := n.isEarlierThan(job)
		if err != nil {
			return err
		}
		if !earlier {
			n.id = job.ID
			return nil
		}
		if err := n.withdraw(ctx, in, job); err != nil {
			return fmt.Errorf("periodic %q: moving its next run: %w", name, err)
		}
	}
	return n.enqueue(ctx, s, in)
}

// stored returns the run that is PENDING or RUNNING, or nil.
func (n *nextRun) stored(ctx context.Context, in Inspector) (*Job, error) {
	if n.id != "" { // it is probably still the one seen last
		job, err := in.Get(ctx, n.id)
		if err != nil && !errors.Is(err, ErrNotFound) {
			return nil, err
		}
		if err == nil && (job.Status == StatusPending || job.Status == StatusRunning) {
			return job, nil
		}
	}
	for _, status := range []Status{StatusPending, StatusRunning} {
		for job, err := range in.Jobs(ctx, Filter{Key: periodicPrefix + n.Name, Status: status, Limit: 1}) {
			return job, err
		}
	}
	return nil, nil
}

// isEarlierThan reports whether the schedule has a time before the one that job is planned for. A run that was
// attempted or rescheduled stays where it is.
func (n *nextRun) isEarlierThan(job *Job) (bool, error) {
	asPlanned := job.ID == periodicID(n.Name, job.RunAt) || n.isWithdrawn(job)
	if job.Status != StatusPending || job.Attempts > 0 || job.Claim > 0 || !asPlanned {
		return false, nil
	}
	next, err := n.next(n.after())
	return err == nil && !next.IsZero() && microTime(next).Before(job.RunAt), err
}

// after returns the time after which the next run is.
func (n *nextRun) after() time.Time {
	now := time.Now()
	if n.last.After(now) {
		return n.last
	}
	return now
}

// isWithdrawn reports whether a worker has begun to withdraw a run.
func (n *nextRun) isWithdrawn(job *Job) bool {
	return job.ID == periodicID(n.Name, job.RunAt.Add(-withdrawnBy))
}

// withdraw removes a run that was not attempted: another time gets another job, because the ID is made of the
// time. If it has just been claimed it stays.
//
// No verb deletes a PENDING job in one step. A worker that is killed between the first step and the last leaves the
// run PENDING, or canceled; isWithdrawn then recognizes it.
func (n *nextRun) withdraw(ctx context.Context, in Inspector, job *Job) error {
	this := Filter{IDs: []string{job.ID}, Status: StatusPending}
	if !n.isWithdrawn(job) {
		if _, err := in.Reschedule(ctx, this, job.RunAt.Add(withdrawnBy)); err != nil {
			return err
		}
	}
	if _, _, err := in.CancelWhere(ctx, this); err != nil {
		return err
	}
	_, err := n.pruneWithdrawn(ctx, in, job.ID)
	return err
}

// pruneWithdrawn deletes the run that has an ID if that was withdrawn and never started. It reports whether the ID
// is free.
func (n *nextRun) pruneWithdrawn(ctx context.Context, in Inspector, id string) (free bool, err error) {
	job, err := in.Get(ctx, id)
	if errors.Is(err, ErrNotFound) {
		return true, nil // another worker was faster
	}
	if err != nil {
		return false, err
	}
	if !job.Canceled || job.Status != StatusFailed || job.Claim > 0 || !n.isWithdrawn(job) {
		return false, nil
	}
	// The time of its end tells it from a later run with this ID, which another worker may have enqueued meanwhile.
	_, err = in.PruneWhere(ctx, Filter{
		IDs:    []string{id},
		After:  job.FinishedAt,
		Before: job.FinishedAt.Add(time.Microsecond),
	})
	return err == nil, err
}

// enqueue stores the next run. It passes over times that are taken, because the clock was set back or somebody has
// canceled the run, and over those that Job skips.
func (n *nextRun) enqueue(ctx context.Context, s Storage, in Inspector) error {
	for range maxSkips {
		slot, err := n.next(n.after())
		if err != nil || slot.IsZero() {
			return err
		}
		slot = microTime(slot)
		job, err := n.job(slot)
		if err != nil {
			return err
		}
		if job == nil {
			n.passed(slot)
			continue
		}
		err = s.Enqueue(ctx, job)
		duplicate, ok := errors.AsType[*DuplicateError](err)
		switch {
		case err == nil:
			n.id = job.ID
			return nil
		case ok && duplicate.Key != "":
			n.id = duplicate.ID // another worker was faster
			return nil
		case ok:
			free, err := n.pruneWithdrawn(ctx, in, job.ID)
			if err != nil {
				return fmt.Errorf("periodic %q: %w", n.Name, err)
			}
			if !free {
				n.passed(slot)
			}
		case errors.Is(err, ErrBadArgs) || errors.Is(err, ErrTooLarge):
			return &planError{n.Name, err}
		default:
			return fmt.Errorf("periodic %q: %w", n.Name, err)
		}
	}
	return nil
}

package pinion

import (
	"cmp"
	"container/heap"
	"context"
	"errors"
	"fmt"
	"iter"
	"math"
	"math/rand/v2"
	"slices"
	"sort"
	"strings"
	"sync"
	"time"
)

// MemoryStorage keeps jobs in the memory of this process: for tests, and for work that may be lost with it. In all
// else it means what SQLiteStorage means, and its methods are the shortest way to say what each verb does.
//
// A finished job takes about half a kilobyte until Retention has passed. A busy queue wants minutes, not a day.
type MemoryStorage struct {
	Retention time.Duration // of finished jobs, which running workers prune [24h]; negative: for ever; set before use

	mu      sync.Mutex // guards all that follows and the records
	closed  bool
	now     time.Time          // of the verb under way
	number  int64              // the last one given out, as an age or a rank
	changed chan struct{}      // made by whoever waits, and closed when there may be something to claim
	jobs    map[string]*record // by ID
	holders map[string]*record // by the Key that they hold
	all     []*record          // by age, pruned ones not yet swept out

	// Each job is in one of these, see moveLocked:
	future   ranking             // PENDING and not yet due, by time
	ready    map[string]*ranking // PENDING and due, by queue and then priority; no ranking is empty
	running  map[int64]*record   // RUNNING, by age
	dead     ranking             // FAILED, by a number given at death, hence sorted throughout: the dead-letter queue
	finished ranking             // SUCCESS, or FAILED and canceled or purged: what may be pruned, by time
}

var _ Storage = (*MemoryStorage)(nil)
var _ Releaser = (*MemoryStorage)(nil)
var _ Prefetcher = (*MemoryStorage)(nil)
var _ Canceler = (*MemoryStorage)(nil)
var _ Inspector = (*MemoryStorage)(nil)

// record is a stored job. The Job in it has no arguments: they stay encoded and never change.
type record struct {
	Job
	args, kwargs string
	age, rank    int64 // its places in all and in a ranking
	reaped       int   // how often since it was enqueued or replayed
}

// snapshot is taken under the lock; job makes of it, without, what the caller gets.
func (r *record) snapshot() *record { c := *r; return &c }

func (r *record) job() *Job {
	if err := r.DecodeArgs(r.args, r.kwargs); err != nil {
		panic(err) // it was EncodeArgs that wrote them, and that refuses what could not be read back
	}
	r.Result = slices.Clone(r.Result)
	return &r.Job
}

// ranking is a container/heap: the lowest rank first, and among equal ones the oldest.
type ranking []*record

func (r ranking) Len() int      { return len(r) }
func (r ranking) Swap(i, j int) { r[i], r[j] = r[j], r[i] }
func (r *ranking) Push(rec any) { *r = append(*r, rec.(*record)) }

func (r ranking) Less(i, j int) bool {
	return r[i].rank < r[j].rank || r[i].rank == r[j].rank && r[i].age < r[j].age
}

func (r *ranking) Pop() any {
	last := (*r)[len(*r)-1]
	*r = slices.Delete(*r, len(*r)-1, len(*r))
	return last
}

func (r *ranking) add(rec *record, rank int64) { rec.rank = rank; heap.Push(r, rec) }

// NewMemoryStorage returns an empty storage.
func NewMemoryStorage() *MemoryStorage {
	return &MemoryStorage{jobs: map[string]*record{}, holders: map[string]*record{},
		ready: map[string]*ranking{}, running: map[int64]*record{}}
}

// do runs a verb under the lock, unless ctx or the storage is at its end.
func (s *MemoryStorage) do(ctx context.Context, verb func()) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := ctx.Err(); err != nil || s.closed {
		return cmp.Or(err, ErrClosed)
	}
	s.now = microTime(time.Now())
	verb()
	return nil
}

func (s *MemoryStorage) nextLocked() int64 { s.number++; return s.number }

// moveLocked gives rec a status and its place. A PENDING one wakes all Dequeues that wait, by one channel: they are
// few, and to wake only one means passing its turn on if it leaves at that moment or takes from other queues.
func (s *MemoryStorage) moveLocked(rec *record, to Status) {
	delete(s.running, rec.age)
	switch rec.Status = to; {
	case to == StatusRunning:
		s.running[rec.age] = rec
	case to == StatusSuccess:
		s.finished.add(rec, rec.FinishedAt.UnixMicro())
	case to == StatusFailed:
		s.dead.add(rec, s.nextLocked())
	case rec.RunAt.After(s.now):
		s.future.add(rec, rec.RunAt.UnixMicro())
	default:
		if s.ready[rec.Queue] == nil {
			s.ready[rec.Queue] = new(ranking)
		}
		s.ready[rec.Queue].add(rec, ^int64(rec.Priority)) // ^p falls as p rises, like -p, but never overflows
	}
	if to == StatusPending {
		s.wakeLocked()
	}
}

func (s *MemoryStorage) wakeLocked() {
	if s.changed != nil {
		close(s.changed)
		s.changed = nil
	}
}

// Enqueue implements [Storage].
func (s *MemoryStorage) Enqueue(ctx context.Context, jobs ...*Job) error {
	added := make([]*record, len(jobs))
	for i, j := range jobs {
		args, kwargs, err := j.EncodeArgs()
		if err != nil {
			return err
		}
		added[i] = &record{args: args, kwargs: kwargs, Job: Job{ID: cmp.Or(j.ID, NewID()), Task: j.Task, Key: j.Key,
			Queue: cmp.Or(j.Queue, defaultQueue), Priority: j.Priority, RunAt: microTime(j.RunAt)}}
	}
	var taken error
	err := s.do(ctx, func() {
		for i, rec := range added {
			if taken = s.reserveLocked(rec); taken != nil {
				for _, rec := range added[:i] {
					delete(s.jobs, rec.ID)
					delete(s.holders, rec.Key)
				}
				return
			}
		}
		for i, rec := range added {
			rec.age, rec.CreatedAt = s.nextLocked(), s.now
			s.all = append(s.all, rec)
			s.moveLocked(rec, StatusPending)
			jobs[i].accepted(rec.ID, rec.Queue, s.now)
		}
	})
	return cmp.Or(err, taken)
}

// reserveLocked takes rec's ID and Key, unless another job has them.
func (s *MemoryStorage) reserveLocked(rec *record) error {
	if other := s.jobs[rec.ID]; other != nil && other != rec {
		return &DuplicateError{ID: rec.ID}
	}
	if holder := s.holders[rec.Key]; holder != nil {
		return &DuplicateError{ID: holder.ID, Key: rec.Key}
	}
	if s.jobs[rec.ID] = rec; rec.Key != "" {
		s.holders[rec.Key] = rec
	}
	return nil
}

// Dequeue implements [Storage].
func (s *MemoryStorage) Dequeue(ctx context.Context, max int, queues ...string) ([]*Job, error) {
	return s.Prefetch(ctx, max, max, queues...)
}

// Prefetch implements [Prefetcher]. With no slots it does not wait.
func (s *MemoryStorage) Prefetch(ctx context.Context, slots, max int, queues ...string) (jobs []*Job, err error) {
	if max < 1 {
		return nil, fmt.Errorf("pinion: cannot claim %d jobs, at least 1 must be asked for", max)
	}
	for {
		var claimed []*record
		var changed chan struct{}
		var due <-chan time.Time
		err = s.do(context.WithoutCancel(ctx), func() { // an ended ctx gets what is due, too
			if claimed = s.claimLocked(WorkerName(ctx), slots, max, queues); len(claimed) > 0 || slots < 1 {
				return
			}
			if s.changed == nil {
				s.changed = make(chan struct{})
			}
			if changed = s.changed; len(s.future) > 0 {
				due = time.After(s.future[0].RunAt.Sub(s.now))
			}
		})
		for _, rec := range claimed {
			jobs = append(jobs, rec.job())
		}
		if len(jobs) > 0 || slots < 1 || err != nil {
			return jobs, err
		}
		select {
		case <-changed:
		case <-due:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// claimLocked claims up to limit jobs, and beyond the first slots none that was claimed before.
func (s *MemoryStorage) claimLocked(worker string, slots, limit int, queues []string) (claimed []*record) {
	for len(s.future) > 0 && !s.future[0].RunAt.After(s.now) {
		s.moveLocked(heap.Pop(&s.future).(*record), StatusPending)
	}
	var heads ranking // the first of each queue; ranked, so that many queues cost something a call and not a job
	for name, ready := range s.ready {
		if len(queues) == 0 || slices.Contains(queues, name) || name == defaultQueue && slices.Contains(queues, "") {
			heap.Push(&heads, (*ready)[0])
		}
	}
	for len(heads) > 0 && len(claimed) < limit && (len(claimed) < slots || heads[0].Claim == 0) {
		rec := heap.Pop(&heads).(*record)
		ready := s.ready[rec.Queue]
		if heap.Pop(ready); len(*ready) > 0 {
			heap.Push(&heads, (*ready)[0])
		} else {
			delete(s.ready, rec.Queue)
		}
		rec.Attempts, rec.Claim, rec.HeartbeatAt, rec.Worker = rec.Attempts+1, max(rec.Claim+1, s.now.UnixMicro()), s.now, worker
		s.moveLocked(rec, StatusRunning)
		claimed = append(claimed, rec.snapshot())
	}
	return claimed
}

// held moves each job whose claim is still the caller's, after a change to it, and returns the others. Those to be
// canceled it ends instead of letting them wait or become dead letters, and returns as well.
func (s *MemoryStorage) held(ctx context.Context, jobs []*Job, to Status, change func(*record, *Job)) (lost, canceled []*Job, err error) {
	err = s.do(ctx, func() {
		for _, job := range jobs {
			rec := s.jobs[job.ID]
			if !rec.heldBy(job) {
				lost = append(lost, job)
				continue
			}
			if rec.Canceled && (to == StatusPending || to == StatusFailed) {
				s.cancelLocked(rec)
				canceled = append(canceled, job)
				continue
			}
			change(rec, job)
			if to == StatusSuccess || to == StatusFailed {
				rec.FinishedAt = s.now
				delete(s.holders, rec.Key)
			}
			s.moveLocked(rec, to)
		}
	})
	return lost, canceled, err
}

func (r *record) heldBy(job *Job) bool {
	return r != nil && r.Status == StatusRunning && r.Claim == job.Claim && r.Attempts == job.Attempts
}

// cancelLocked ends a job that is in none of the rankings.
func (s *MemoryStorage) cancelLocked(rec *record) {
	rec.Status, rec.Error, rec.FinishedAt, rec.Canceled = StatusFailed, ErrCanceled.Error(), s.now, true
	delete(s.running, rec.age)
	delete(s.holders, rec.Key)
	s.finished.add(rec, rec.FinishedAt.UnixMicro())
}

// ofOne is for the verbs that take one job, where a lost or canceled one is an error.
func ofOne(lost, canceled []*Job, err error) error {
	if len(lost) > 0 {
		return fmt.Errorf("%w: job %s", ErrLeaseLost, lost[0].ID)
	}
	if len(canceled) > 0 {
		return fmt.Errorf("%w: job %s", ErrCanceled, canceled[0].ID)
	}
	return err
}

// MarkDone implements [Storage].
func (s *MemoryStorage) MarkDone(ctx context.Context, jobs ...*Job) (lost []*Job, err error) {
	lost, _, err = s.held(ctx, jobs, StatusSuccess, func(rec *record, job *Job) { rec.Result = slices.Clone(job.Result) })
	return lost, err
}

// MarkFailed implements [Storage].
func (s *MemoryStorage) MarkFailed(ctx context.Context, job *Job, cause error, retryAt time.Time) error {
	return ofOne(s.held(ctx, []*Job{job}, StatusPending, func(rec *record, _ *Job) {
		rec.Error, rec.RunAt = errorText(cause), microTime(retryAt)
	}))
}

// DeadLetter implements [Storage].
func (s *MemoryStorage) DeadLetter(ctx context.Context, job *Job, cause error) error {
	return ofOne(s.held(ctx, []*Job{job}, StatusFailed, func(rec *record, _ *Job) {
		if rec.Error = errorText(cause); errors.Is(cause, ErrAttemptsUsedUp) {
			rec.Attempts--
		}
	}))
}

// Heartbeat implements [Storage].
func (s *MemoryStorage) Heartbeat(ctx context.Context, jobs ...*Job) (lost []*Job, err error) {
	lost, _, err = s.held(ctx, jobs, StatusRunning, func(rec *record, _ *Job) { rec.HeartbeatAt = s.now })
	return lost, err
}

// Release implements [Releaser].
func (s *MemoryStorage) Release(ctx context.Context, jobs ...*Job) error {
	_, _, err := s.held(ctx, jobs, StatusPending, func(rec *record, _ *Job) { rec.Attempts-- })
	return err
}

// Cancel implements [Canceler]. For each PENDING job it looks through those that wait in the same queue.
func (s *MemoryStorage) Cancel(ctx context.Context, ids ...string) (ended, asked []string, err error) {
	err = s.do(ctx, func() {
		for _, id := range ids {
			switch rec := s.jobs[id]; {
			case rec == nil:
			case rec.Status == StatusRunning:
				rec.Canceled = true
				asked = append(asked, id)
			case rec.Status == StatusPending:
				s.unrankLocked(rec)
				s.cancelLocked(rec)
				ended = append(ended, id)
			}
		}
	})
	return ended, asked, err
}

// unrankLocked takes a PENDING job out of its ranking.
func (s *MemoryStorage) unrankLocked(rec *record) {
	for _, waiting := range []*ranking{s.ready[rec.Queue], &s.future} {
		if waiting == nil {
			continue
		}
		if i := slices.Index(*waiting, rec); i >= 0 {
			heap.Remove(waiting, i)
		}
		if len(*waiting) == 0 && waiting != &s.future {
			delete(s.ready, rec.Queue)
		}
	}
}

// Canceled implements [Canceler].
func (s *MemoryStorage) Canceled(ctx context.Context, jobs ...*Job) (canceled []*Job, err error) {
	err = s.do(ctx, func() {
		for _, job := range jobs {
			if rec := s.jobs[job.ID]; rec.heldBy(job) && rec.Canceled {
				canceled = append(canceled, job)
			}
		}
	})
	return canceled, err
}

// ReapStale implements [Storage]. Before that it prunes what finished longer than Retention ago.
func (s *MemoryStorage) ReapStale(ctx context.Context, visibility time.Duration) (reaped int, err error) {
	now := microTime(time.Now()) // before the lock, for which heartbeats may be waiting as well
	if s.Retention >= 0 {
		s.Prune(ctx, now.Add(-cmp.Or(s.Retention, 24*time.Hour))) // what stops it stops us, too
	}
	err = s.do(ctx, func() {
		for _, rec := range s.running {
			if now.Sub(rec.HeartbeatAt).Abs() > visibility {
				if reaped++; rec.Canceled {
					s.cancelLocked(rec)
					continue
				}
				rec.Error, rec.RunAt = "lease expired", time.Time{}
				if rec.reaped++; rec.reaped > 1 {
					spread := min(float64(rec.Attempts)*float64(max(visibility, 0)), math.MaxInt64/2) // a float does not overflow
					rec.RunAt = microTime(now.Add(time.Duration(rand.Float64() * spread)))
				}
				s.moveLocked(rec, StatusPending)
			}
		}
	})
	return reaped, err
}

// Prune implements [Inspector], a thousand jobs at a time, so that nobody waits long for the lock.
func (s *MemoryStorage) Prune(ctx context.Context, before time.Time) (pruned int, err error) {
	for n := 1000; n == 1000 && err == nil; pruned += n {
		n = 0
		err = s.do(ctx, func() {
			for ; n < 1000 && len(s.finished) > 0 && s.finished[0].FinishedAt.Before(microTime(before)); n++ {
				delete(s.jobs, heap.Pop(&s.finished).(*record).ID)
			}
			if len(s.all) > 2*len(s.jobs) { // sweep seldom: it goes through them all
				s.all = slices.DeleteFunc(s.all, func(rec *record) bool { return s.jobs[rec.ID] != rec })
			}
		})
	}
	return pruned, err
}

// Size implements [Storage].
func (s *MemoryStorage) Size(ctx context.Context) (size int, err error) {
	err = s.do(ctx, func() { size = len(s.jobs) - len(s.running) - len(s.dead) - len(s.finished) })
	return size, err
}

// Close implements [Storage]. Closing again does nothing.
func (s *MemoryStorage) Close() error {
	s.do(context.Background(), func() { s.closed = true; s.wakeLocked() })
	return nil
}

// Stats implements [Inspector], a thousand jobs at a time.
func (s *MemoryStorage) Stats(ctx context.Context) (stats Stats, err error) {
	now := microTime(time.Now())
	for last, more := int64(0), true; more && err == nil; {
		err = s.do(ctx, func() {
			stats.DeadLetters = len(s.dead)
			rest := s.after(s.all, last, func(rec *record) int64 { return rec.age })
			more = len(rest) > 0
			for _, rec := range rest[:min(1000, len(rest))] {
				if last = rec.age; s.jobs[rec.ID] != rec {
					continue
				}
				hour, minute := 0, 0
				if age := now.Sub(rec.FinishedAt); age < time.Hour {
					hour = 1
					if age = max(age, 0); age < time.Minute {
						minute = 1
						stats.LastMinute[59-age/time.Second]++
					}
				}
				stats.add(rec.Queue, rec.Task, rec.Status, 1, rec.CreatedAt, hour, minute)
			}
		})
	}
	return stats, err
}

// after is what of records, in the order of a number, comes after one with that number.
func (s *MemoryStorage) after(in []*record, last int64, number func(*record) int64) []*record {
	return in[sort.Search(len(in), func(i int) bool { return number(in[i]) > last }):]
}

// Get implements [Inspector].
func (s *MemoryStorage) Get(ctx context.Context, id string) (job *Job, err error) {
	err = s.do(ctx, func() {
		if rec := s.jobs[id]; rec != nil {
			job = rec.snapshot().job()
		}
	})
	if err == nil && job == nil {
		err = fmt.Errorf("%w: %q", ErrNotFound, id)
	}
	return job, err
}

// Jobs implements [Inspector].
func (s *MemoryStorage) Jobs(ctx context.Context, f Filter) iter.Seq2[*Job, error] {
	return s.list(ctx, f, &s.all, func(rec *record) int64 { return rec.age })
}

// DeadLetters implements [Inspector].
func (s *MemoryStorage) DeadLetters(ctx context.Context, f Filter) iter.Seq2[*Job, error] {
	f.Status = ""
	return s.list(ctx, f, (*[]*record)(&s.dead), func(rec *record) int64 { return rec.rank })
}

// list goes through records by the number that orders them, a hundred at a time.
func (s *MemoryStorage) list(ctx context.Context, f Filter, in *[]*record, number func(*record) int64) iter.Seq2[*Job, error] {
	return func(yield func(*Job, error) bool) {
		for last, given, more := int64(0), 0, true; more; {
			var page []*record
			err := s.do(ctx, func() {
				rest := s.after(*in, last, number)
				more = len(rest) > 0
				for _, rec := range rest[:min(100, len(rest))] {
					if last = number(rec); s.jobs[rec.ID] == rec && f.match(rec) {
						page = append(page, rec.snapshot())
					}
				}
			})
			if err != nil {
				yield(nil, err)
				return
			}
			for _, rec := range page {
				if given++; !yield(rec.job(), nil) || given == f.Limit {
					return
				}
			}
		}
	}
}

func (f *Filter) match(rec *record) bool {
	return (len(f.IDs) == 0 || slices.Contains(f.IDs, rec.ID)) && (f.Status == "" || f.Status == rec.Status) &&
		(f.Queue == "" || f.Queue == rec.Queue) && (f.Task == "" || strings.EqualFold(f.Task, rec.Task))
}

// Replay implements [Inspector]. Limit counts the jobs replayed, not those that stay.
func (s *MemoryStorage) Replay(ctx context.Context, f Filter) (int, error) {
	return s.unbury(ctx, f, func(rec *record) bool {
		if s.reserveLocked(rec) != nil {
			return false
		}
		rec.Attempts, rec.reaped, rec.Error, rec.Worker, rec.RunAt, rec.FinishedAt = 0, 0, "", "", time.Time{}, time.Time{}
		s.moveLocked(rec, StatusPending)
		return true
	})
}

// Purge implements [Inspector]. The job itself stays FAILED until it is pruned.
func (s *MemoryStorage) Purge(ctx context.Context, f Filter) (int, error) {
	return s.unbury(ctx, f, func(rec *record) bool { s.finished.add(rec, rec.FinishedAt.UnixMicro()); return true })
}

// unbury takes out of dead what matches f and what verb does not decline, the oldest first, and reports how many.
func (s *MemoryStorage) unbury(ctx context.Context, f Filter, verb func(*record) bool) (n int, err error) {
	f.Status = ""
	err = s.do(ctx, func() {
		s.dead = slices.DeleteFunc(s.dead, func(rec *record) bool {
			if f.Limit > 0 && n == f.Limit || !f.match(rec) || !verb(rec) {
				return false
			}
			n++
			return true
		})
	})
	return n, err
}

package pinion

import (
	"cmp"
	"container/heap"
	"context"
	"encoding/json"
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
// A finished job takes about a third of a kilobyte until Retention has passed. A busy queue wants minutes, not a day.
type MemoryStorage struct {
	Retention time.Duration // of finished jobs, which running workers prune [24h]; negative: for ever; set before use

	mu      sync.Mutex // guards all that follows and the records
	closed  bool
	now     int64              // the time of the verb under way
	number  int64              // the last one given out, as an age or a rank
	changed chan struct{}      // made by whoever waits, and closed when there may be something to claim
	jobs    map[string]*record // by ID
	holders map[string]*record // by the Key that they hold
	all     []*record          // by age, pruned ones not yet swept out

	// Each job is in one of these, see moveLocked:
	future   ranking             // PENDING and not yet due, by time
	ready    map[string]*ranking // PENDING and due, by queue and then priority; no ranking is empty
	running  map[string]*record  // RUNNING, by ID; a small map, where jobs is a large one
	dead     []*record           // FAILED, by a number given at death: the dead-letter queue
	finished ranking             // SUCCESS, or FAILED and canceled or purged: what may be pruned, by time
}

var _ Storage = (*MemoryStorage)(nil)
var _ Canceler = (*MemoryStorage)(nil)
var _ Inspector = (*MemoryStorage)(nil)

// record is a stored job: the fields of a Job with the arguments encoded, which never change, and times in Unix
// microseconds, 0 being none. There may be millions, for the garbage collector to go through: the less there is of
// each, and the fewer pointers, the better.
type record struct {
	id, task, queue, key, worker              string
	args, kwargs                              string
	status                                    Status
	priority, attempts                        int
	claim                                     int64
	runAt, createdAt, heartbeatAt, finishedAt int64
	err                                       string
	result                                    json.RawMessage
	age, rank                                 int64 // its places in all and in a ranking
	reaped                                    int   // how often since it was enqueued or replayed
	canceled                                  bool
}

// micros is a time as records have it, and timeOf the reverse.
func micros(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixMicro()
}

func timeOf(micros int64) time.Time {
	if micros == 0 {
		return time.Time{}
	}
	return time.UnixMicro(micros).UTC()
}

// show writes the record into job, but for the arguments: those are decoded when the lock is given back.
func (r *record) show(job *Job) {
	*job = Job{ID: r.id, Task: r.task, Queue: r.queue, Priority: r.priority, RunAt: timeOf(r.runAt), Key: r.key, Status: r.status,
		Attempts: r.attempts, Claim: r.claim, Error: r.err, Result: slices.Clone(r.result), Worker: r.worker, Canceled: r.canceled, CreatedAt: timeOf(r.createdAt),
		HeartbeatAt: timeOf(r.heartbeatAt), FinishedAt: timeOf(r.finishedAt)}
}

// ranking has the lowest rank first, and among equal ones the oldest. What arrives in that order, as most does, only
// stands in line, which takes no time however long it is. The rest is a heap.
type ranking struct {
	line []*record
	pile pile
}

func (r *ranking) add(rec *record, rank int64) {
	if rec.rank = rank; len(r.line) == 0 || r.line[len(r.line)-1].before(rec) {
		r.line = append(r.line, rec)
	} else {
		heap.Push(&r.pile, rec)
	}
}

// first is nil if there is none.
func (r *ranking) first() *record {
	switch {
	case len(r.line) > 0 && (len(r.pile) == 0 || r.line[0].before(r.pile[0])):
		return r.line[0]
	case len(r.pile) > 0:
		return r.pile[0]
	}
	return nil
}

func (r *ranking) pop() *record {
	rec := r.first()
	if len(r.line) > 0 && r.line[0] == rec {
		r.line[0], r.line = nil, r.line[1:]
	} else {
		heap.Pop(&r.pile)
	}
	return rec
}

// remove looks for rec; it need not be there.
func (r *ranking) remove(rec *record) {
	if i := slices.Index(r.line, rec); i >= 0 {
		r.line = slices.Delete(r.line, i, i+1)
	} else if i := slices.Index(r.pile, rec); i >= 0 {
		heap.Remove(&r.pile, i)
	}
}

func (r *ranking) len() int { return len(r.line) + len(r.pile) }

func (r *record) before(o *record) bool { return r.rank < o.rank || r.rank == o.rank && r.age < o.age }

// pile is a container/heap.
type pile []*record

func (p pile) Len() int           { return len(p) }
func (p pile) Less(i, j int) bool { return p[i].before(p[j]) }
func (p pile) Swap(i, j int)      { p[i], p[j] = p[j], p[i] }
func (p *pile) Push(rec any)      { *p = append(*p, rec.(*record)) }

func (p *pile) Pop() any {
	last := (*p)[len(*p)-1]
	*p = slices.Delete(*p, len(*p)-1, len(*p))
	return last
}

// NewMemoryStorage returns an empty storage. new(MemoryStorage) is one, too.
func NewMemoryStorage() *MemoryStorage { return new(MemoryStorage) }

// do runs a verb under the lock, unless ctx or the storage is at its end.
func (s *MemoryStorage) do(ctx context.Context, verb func()) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := ctx.Err(); err != nil || s.closed {
		return cmp.Or(err, ErrClosed)
	}
	if s.jobs == nil {
		s.jobs, s.holders = make(map[string]*record), make(map[string]*record)
		s.ready, s.running = make(map[string]*ranking), make(map[string]*record)
	}
	s.now = time.Now().UnixMicro()
	verb()
	return nil
}

func (s *MemoryStorage) nextLocked() int64 { s.number++; return s.number }

// moveLocked gives rec a status and its place. A PENDING one wakes all Dequeues that wait, by one channel: they are
// few, and to wake only one means passing its turn on if it leaves at that moment or takes from other queues.
func (s *MemoryStorage) moveLocked(rec *record, to Status) {
	if rec.status == StatusRunning && to != StatusRunning {
		delete(s.running, rec.id)
	}
	switch rec.status = to; {
	case to == StatusRunning:
		s.running[rec.id] = rec
	case to == StatusSuccess:
		s.finished.add(rec, rec.finishedAt)
	case to == StatusFailed:
		rec.rank = s.nextLocked()
		s.dead = append(s.dead, rec)
	case rec.runAt > s.now:
		s.future.add(rec, rec.runAt)
	default:
		if s.ready[rec.queue] == nil {
			s.ready[rec.queue] = new(ranking)
		}
		s.ready[rec.queue].add(rec, ^int64(rec.priority)) // ^p falls as p rises, like -p, but never overflows
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
		added[i] = &record{args: args, kwargs: kwargs, id: cmp.Or(j.ID, NewID()), task: j.Task, key: j.Key,
			queue: cmp.Or(j.Queue, defaultQueue), priority: j.Priority, runAt: micros(j.RunAt)}
	}
	var taken error
	err := s.do(ctx, func() {
		for i, rec := range added {
			if taken = s.reserveLocked(rec); taken != nil {
				for _, rec := range added[:i] {
					delete(s.jobs, rec.id)
					delete(s.holders, rec.key)
				}
				return
			}
		}
		for i, rec := range added {
			rec.age, rec.createdAt = s.nextLocked(), s.now
			s.all = append(s.all, rec)
			s.moveLocked(rec, StatusPending)
			jobs[i].accepted(rec.id, rec.queue, timeOf(s.now))
		}
	})
	return cmp.Or(err, taken)
}

// reserveLocked takes rec's ID and Key, unless another job has them.
func (s *MemoryStorage) reserveLocked(rec *record) error {
	if other := s.jobs[rec.id]; other != nil && other != rec {
		return &DuplicateError{ID: rec.id}
	}
	if holder := s.holders[rec.key]; holder != nil {
		return &DuplicateError{ID: holder.id, Key: rec.key}
	}
	if s.jobs[rec.id] = rec; rec.key != "" {
		s.holders[rec.key] = rec
	}
	return nil
}

// Dequeue implements [Storage].
func (s *MemoryStorage) Dequeue(ctx context.Context, opts DequeueOptions) (jobs []*Job, err error) {
	if err := opts.check(); err != nil {
		return nil, err
	}
	slots := opts.Max - opts.Ahead
	wait := slots > 0 && !opts.NoWait
	for {
		var claimed []*record
		var changed chan struct{}
		var due <-chan time.Time
		err = s.do(ctx, func() {
			if claimed, jobs = s.claimLocked(opts.Worker, slots, opts.Max, opts.Queues); len(claimed) > 0 || !wait {
				return
			}
			if s.changed == nil {
				s.changed = make(chan struct{})
			}
			if changed = s.changed; s.future.len() > 0 {
				due = time.After(timeOf(s.future.first().runAt).Sub(timeOf(s.now)))
			}
		})
		for i, rec := range claimed {
			jobs[i].splitArgs(rec.args, rec.kwargs)
		}
		if len(jobs) > 0 || !wait || err != nil {
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

// claimLocked claims up to limit jobs, and beyond the first slots none that was claimed before. The jobs lack their
// arguments, which the caller may read from the records without the lock.
func (s *MemoryStorage) claimLocked(worker string, slots, limit int, queues []string) (claimed []*record, jobs []*Job) {
	for s.future.len() > 0 && s.future.first().runAt <= s.now {
		s.moveLocked(s.future.pop(), StatusPending)
	}
	var heads pile // the first of each queue; a heap, so that many queues cost something a call and not a job
	for name, ready := range s.ready {
		if len(queues) == 0 || slices.Contains(queues, name) || name == defaultQueue && slices.Contains(queues, "") {
			heap.Push(&heads, ready.first())
		}
	}
	var block []Job // jobs are made several at a time, but not so many that one kept for long keeps a lot of memory
	for len(heads) > 0 && len(claimed) < limit && (len(claimed) < slots || heads[0].claim == 0) {
		rec := heads[0]
		ready := s.ready[rec.queue]
		ready.pop()
		if heads[0] = ready.first(); heads[0] != nil {
			heap.Fix(&heads, 0)
		} else {
			heads[0] = rec
			heap.Pop(&heads)
			delete(s.ready, rec.queue)
		}
		rec.attempts, rec.claim, rec.heartbeatAt, rec.worker = rec.attempts+1, max(rec.claim+1, s.now), s.now, worker
		s.moveLocked(rec, StatusRunning)
		if len(block) == 0 {
			block = make([]Job, min(16, limit-len(claimed), 1+ready.len()))
		}
		rec.show(&block[0])
		claimed, jobs, block = append(claimed, rec), append(jobs, &block[0]), block[1:]
	}
	return claimed, jobs
}

// held moves each job whose claim is still the caller's, after a change to it, and returns the others. Those to be
// canceled it ends instead of letting them wait or become dead letters, and returns as well.
func (s *MemoryStorage) held(ctx context.Context, jobs []*Job, to Status, change func(*record, *Job)) (lost, canceled []*Job, err error) {
	err = s.do(ctx, func() {
		for _, job := range jobs {
			rec := s.running[job.ID]
			if !rec.heldBy(job) {
				lost = append(lost, job)
				continue
			}
			if rec.canceled && (to == StatusPending || to == StatusFailed) {
				s.cancelLocked(rec)
				canceled = append(canceled, job)
				continue
			}
			change(rec, job)
			if to == StatusSuccess || to == StatusFailed {
				rec.finishedAt = s.now
				delete(s.holders, rec.key)
			}
			s.moveLocked(rec, to)
		}
	})
	return lost, canceled, err
}

func (r *record) heldBy(job *Job) bool {
	return r != nil && r.status == StatusRunning && r.claim == job.Claim && r.attempts == job.Attempts
}

// cancelLocked ends a job that is in none of the rankings.
func (s *MemoryStorage) cancelLocked(rec *record) {
	rec.status, rec.err, rec.finishedAt, rec.canceled = StatusFailed, ErrCanceled.Error(), s.now, true
	delete(s.running, rec.id)
	delete(s.holders, rec.key)
	s.finished.add(rec, rec.finishedAt)
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
	lost, _, err = s.held(ctx, jobs, StatusSuccess, func(rec *record, job *Job) { rec.result = slices.Clone(job.Result) })
	return lost, err
}

// MarkFailed implements [Storage].
func (s *MemoryStorage) MarkFailed(ctx context.Context, job *Job, cause error, retryAt time.Time) error {
	text := ErrorText(cause) // not under the lock: it is somebody else's code
	return ofOne(s.held(ctx, []*Job{job}, StatusPending, func(rec *record, _ *Job) { rec.err, rec.runAt = text, micros(retryAt) }))
}

// DeadLetter implements [Storage].
func (s *MemoryStorage) DeadLetter(ctx context.Context, job *Job, cause error) error {
	attempts, text := attemptsOf(job, cause), ErrorText(cause)
	return ofOne(s.held(ctx, []*Job{job}, StatusFailed, func(rec *record, _ *Job) { rec.attempts, rec.err = attempts, text }))
}

// Heartbeat implements [Storage].
func (s *MemoryStorage) Heartbeat(ctx context.Context, jobs ...*Job) (lost []*Job, err error) {
	lost, _, err = s.held(ctx, jobs, StatusRunning, func(rec *record, _ *Job) { rec.heartbeatAt = s.now })
	return lost, err
}

// Release implements [Storage].
func (s *MemoryStorage) Release(ctx context.Context, at time.Time, cause error, jobs ...*Job) (lost, canceled []*Job, err error) {
	text := ""
	if cause != nil {
		text = ErrorText(cause)
	}
	return s.held(ctx, jobs, StatusPending, func(rec *record, _ *Job) {
		rec.attempts--
		rec.runAt = micros(at)
		if text != "" {
			rec.err = text
		}
	})
}

// Cancel implements [Canceler]. For each PENDING job it looks through those that are not yet due or wait in its queue.
func (s *MemoryStorage) Cancel(ctx context.Context, ids ...string) (ended, asked []string, err error) {
	err = s.do(ctx, func() {
		for _, id := range ids {
			switch rec := s.jobs[id]; {
			case rec == nil:
			case rec.status == StatusRunning:
				rec.canceled = true
				asked = append(asked, id)
			case rec.status == StatusPending:
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
	s.future.remove(rec)
	if ready := s.ready[rec.queue]; ready != nil {
		if ready.remove(rec); ready.len() == 0 {
			delete(s.ready, rec.queue)
		}
	}
}

// Canceled implements [Canceler].
func (s *MemoryStorage) Canceled(ctx context.Context, jobs ...*Job) (canceled []*Job, err error) {
	err = s.do(ctx, func() {
		for _, job := range jobs {
			if rec := s.running[job.ID]; rec.heldBy(job) && rec.canceled {
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
			if now.Sub(timeOf(rec.heartbeatAt)).Abs() > visibility {
				if reaped++; rec.canceled {
					s.cancelLocked(rec)
					continue
				}
				rec.err, rec.runAt = "lease expired", 0
				if rec.reaped++; rec.reaped > 1 {
					spread := min(float64(rec.attempts)*float64(max(visibility, 0)), math.MaxInt64/2) // a float does not overflow
					rec.runAt = micros(now.Add(time.Duration(rand.Float64() * spread)))
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
			for ; n < 1000 && s.finished.len() > 0 && s.finished.first().finishedAt < before.UnixMicro(); n++ {
				delete(s.jobs, s.finished.pop().id)
			}
			if len(s.all) > 2*len(s.jobs) { // sweep seldom: it goes through them all
				s.all = slices.DeleteFunc(s.all, func(rec *record) bool { return s.jobs[rec.id] != rec })
			}
		})
	}
	return pruned, err
}

// Size implements [Storage].
func (s *MemoryStorage) Size(ctx context.Context) (size int, err error) {
	err = s.do(ctx, func() { size = len(s.jobs) - len(s.running) - len(s.dead) - s.finished.len() })
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
				if last = rec.age; s.jobs[rec.id] != rec {
					continue
				}
				hour, minute := 0, 0
				if age := now.Sub(timeOf(rec.finishedAt)); age < time.Hour {
					hour = 1
					if age = max(age, 0); age < time.Minute {
						minute = 1
						stats.LastMinute[59-age/time.Second]++
					}
				}
				stats.add(tally{rec.queue, rec.task, rec.status, 1, timeOf(rec.createdAt), hour, minute})
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
	var rec *record
	err = s.do(ctx, func() {
		if rec = s.jobs[id]; rec != nil {
			job = new(Job)
			rec.show(job)
		}
	})
	if err == nil && job == nil {
		err = fmt.Errorf("%w: %q", ErrNotFound, id)
	}
	if job != nil {
		job.splitArgs(rec.args, rec.kwargs)
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
	return s.list(ctx, f, &s.dead, func(rec *record) int64 { return rec.rank })
}

// list goes through records by the number that orders them, a hundred at a time.
func (s *MemoryStorage) list(ctx context.Context, f Filter, in *[]*record, number func(*record) int64) iter.Seq2[*Job, error] {
	return func(yield func(*Job, error) bool) {
		for last, given, more := int64(0), 0, true; more; {
			var page []*record
			var jobs []*Job
			err := s.do(ctx, func() {
				rest := s.after(*in, last, number)
				more = len(rest) > 0
				for _, rec := range rest[:min(100, len(rest))] {
					if last = number(rec); s.jobs[rec.id] == rec && f.match(rec) {
						page, jobs = append(page, rec), append(jobs, new(Job))
						rec.show(jobs[len(jobs)-1])
					}
				}
			})
			if err != nil {
				yield(nil, err)
				return
			}
			for i, rec := range page {
				jobs[i].splitArgs(rec.args, rec.kwargs)
				if given++; !yield(jobs[i], nil) || given == f.Limit {
					return
				}
			}
		}
	}
}

func (f *Filter) match(rec *record) bool {
	return (len(f.IDs) == 0 || slices.Contains(f.IDs, rec.id)) && (f.Status == "" || f.Status == rec.status) &&
		(f.Queue == "" || f.Queue == rec.queue) && (f.Task == "" || strings.EqualFold(f.Task, rec.task))
}

// Replay implements [Inspector]. Limit counts the jobs replayed, not those that stay.
func (s *MemoryStorage) Replay(ctx context.Context, f Filter) (int, error) {
	return s.unbury(ctx, f, func(rec *record) bool {
		if s.reserveLocked(rec) != nil {
			return false
		}
		rec.attempts, rec.reaped, rec.err, rec.worker, rec.runAt, rec.finishedAt = 0, 0, "", "", 0, 0
		s.moveLocked(rec, StatusPending)
		return true
	})
}

// Purge implements [Inspector]. The job itself stays FAILED until it is pruned.
func (s *MemoryStorage) Purge(ctx context.Context, f Filter) (int, error) {
	return s.unbury(ctx, f, func(rec *record) bool { s.finished.add(rec, rec.finishedAt); return true })
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

package pinion

import (
	"cmp"
	"container/heap"
	"context"
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

// MemoryStorage keeps jobs in the memory of this process.
//
// It is for tests, and for work that may be lost with the process. In all else it means what SQLiteStorage
// means; its methods are the shortest description of what each verb does. The zero value is an empty
// storage.
//
// A finished job takes about half a kilobyte until Retention has passed. Set Retention to minutes on a busy
// queue.
type MemoryStorage struct {
	// Retention is how long finished jobs are kept [24h]; negative: for ever. ReapStale, which running workers
	// call, deletes older ones. Set it before the first use.
	Retention time.Duration
	// DeadLetterRetention is how long dead letters are kept [for ever]. ReapStale purges older ones. Set it
	// before the first use.
	DeadLetterRetention time.Duration

	mu      sync.Mutex // guards all fields below and the records
	closed  bool
	now     time.Time          // when the verb that holds the lock began
	changed chan struct{}      // closed when a job becomes PENDING; nil if no Dequeue waits
	jobs    map[string]*record // every job, by ID
	holders map[string]*record // the unfinished jobs that have a Key, by Key
	all     roll               // every job, by age

	// Each job is in exactly one of these places. placeLocked and leaveLocked know which.
	future   ranking             // PENDING, not yet due when last looked at; by RunAt
	ready    map[string]*ranking // PENDING and due, for each queue that has such jobs; by priority
	running  map[string]*record  // RUNNING, by ID
	dead     roll                // the dead-letter queue, by when the job was dead-lettered
	finished ranking             // what may be pruned: SUCCESS, or FAILED without a dead letter; by FinishedAt
}

var (
	_ Storage   = (*MemoryStorage)(nil)
	_ Canceler  = (*MemoryStorage)(nil)
	_ Inspector = (*MemoryStorage)(nil)
)

// NewMemoryStorage returns an empty storage.
func NewMemoryStorage() *MemoryStorage { return new(MemoryStorage) }

// memoryPage is how many jobs a verb that goes through many of them handles under one hold of the lock.
const memoryPage = 1000

// do runs a verb under the lock. It returns an error instead if ctx has ended or the storage is closed.
func (s *MemoryStorage) do(ctx context.Context, verb func() error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return err
	}
	if s.closed {
		return ErrClosed
	}
	if s.jobs == nil {
		s.jobs = make(map[string]*record)
		s.holders = make(map[string]*record)
		s.ready = make(map[string]*ranking)
		s.running = make(map[string]*record)
	}
	s.now = microTime(time.Now())
	return verb()
}

// Close implements [Storage]. Closing again does nothing.
func (s *MemoryStorage) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	s.wakeLocked()
	return nil
}

// ---- Records and their places ----

// record is a stored job.
type record struct {
	job          Job    // without Args and Kwargs
	args, kwargs string // the encoded arguments; they never change, so reading them needs no lock
	reaped       int    // how often its lease was lost since it was enqueued or replayed
	age          int64  // its number in MemoryStorage.all
	letter       int64  // its number in MemoryStorage.dead

	// Set by the ranking that it is in.
	ranking *ranking // nil if it is in none
	rank    int64
	index   int
}

// placeLocked puts a record that is in no place into the one that its status and due time ask for.
func (s *MemoryStorage) placeLocked(rec *record) {
	switch rec.job.Status {
	case StatusPending:
		s.placePendingLocked(rec)
	case StatusRunning:
		s.running[rec.job.ID] = rec
	case StatusSuccess, StatusFailed:
		s.finished.add(rec, rec.job.FinishedAt.UnixMicro())
	}
}

// placePendingLocked puts a PENDING record among the future or the ready ones and wakes the Dequeues that
// wait.
func (s *MemoryStorage) placePendingLocked(rec *record) {
	if rec.job.RunAt.After(s.now) {
		s.future.add(rec, rec.job.RunAt.UnixMicro())
	} else {
		queue := s.ready[rec.job.Queue]
		if queue == nil {
			queue = new(ranking)
			s.ready[rec.job.Queue] = queue
		}
		queue.add(rec, ^int64(rec.job.Priority)) // ^p falls as p rises; -p would overflow
	}
	s.wakeLocked()
}

// leaveLocked takes a record out of its place.
func (s *MemoryStorage) leaveLocked(rec *record) {
	if rec.letter > 0 {
		s.dead.remove(rec.letter)
		rec.letter = 0
	}
	if rec.ranking != nil {
		rec.ranking.remove(rec)
	}
	if queue := s.ready[rec.job.Queue]; queue != nil && queue.Len() == 0 {
		delete(s.ready, rec.job.Queue)
	}
	delete(s.running, rec.job.ID)
}

// wakeLocked wakes all Dequeues that wait. They are few, and a Dequeue that is woken alone would have to
// wake the next one if it leaves at that moment or claims from other queues.
func (s *MemoryStorage) wakeLocked() {
	if s.changed != nil {
		close(s.changed)
		s.changed = nil
	}
}

// ranking is a heap of records: the lowest rank first, and among equal ranks the oldest. It implements
// heap.Interface for container/heap; everybody else calls first, add and remove.
type ranking struct{ records []*record }

// first returns the record that comes first, or nil if there is none.
func (r *ranking) first() *record {
	if len(r.records) == 0 {
		return nil
	}
	return r.records[0]
}

func (r *ranking) add(rec *record, rank int64) {
	rec.ranking = r
	rec.rank = rank
	heap.Push(r, rec)
}

func (r *ranking) remove(rec *record) {
	heap.Remove(r, rec.index)
	rec.ranking = nil
}

func (r *record) before(other *record) bool {
	if r.rank != other.rank {
		return r.rank < other.rank
	}
	return r.age < other.age
}

func (r *ranking) Len() int           { return len(r.records) }
func (r *ranking) Less(i, j int) bool { return r.records[i].before(r.records[j]) }

func (r *ranking) Swap(i, j int) {
	r.records[i], r.records[j] = r.records[j], r.records[i]
	r.records[i].index = i
	r.records[j].index = j
}

func (r *ranking) Push(rec any) {
	rec.(*record).index = len(r.records)
	r.records = append(r.records, rec.(*record))
}

func (r *ranking) Pop() any {
	last := len(r.records) - 1
	rec := r.records[last]
	r.records[last] = nil
	r.records = r.records[:last]
	return rec
}

// roll keeps records in the order in which they were added and numbers them. No number is given out twice,
// so a listing that has read up to a number goes on behind it, whatever was added and removed in between.
type roll struct {
	entries []entry // by number
	last    int64   // the number given out last
	removed int     // how many entries have lost their record
}

type entry struct {
	number int64
	rec    *record // nil if it was removed
}

// add appends rec and returns its number, which is at least 1.
func (r *roll) add(rec *record) int64 {
	r.last++
	r.entries = append(r.entries, entry{r.last, rec})
	return r.last
}

// remove removes the record with a number. Its entry stays until half of all entries have lost their
// records, so that removing many costs little.
func (r *roll) remove(number int64) {
	r.entries[r.indexBehind(number-1)].rec = nil
	r.removed++
	if r.removed > len(r.entries)/2 {
		r.entries = slices.DeleteFunc(r.entries, func(e entry) bool { return e.rec == nil })
		r.removed = 0
	}
}

// page returns up to n records that come behind a number.
func (r *roll) page(number int64, n int) []entry {
	var page []entry
	for _, e := range r.entries[r.indexBehind(number):] {
		if len(page) == n {
			break
		}
		if e.rec != nil {
			page = append(page, e)
		}
	}
	return page
}

// indexBehind returns the index of the first entry whose number is greater.
func (r *roll) indexBehind(number int64) int {
	return sort.Search(len(r.entries), func(i int) bool { return r.entries[i].number > number })
}

func (r *roll) len() int { return len(r.entries) - r.removed }

// ---- Copies for callers ----

// copyLocked returns a copy of the job that shares nothing with the record. decodeArgs completes it.
func (r *record) copyLocked() *Job {
	job := r.job
	job.Result = slices.Clone(job.Result)
	return &job
}

// decodeArgs gives copies of records their arguments. It needs no lock: arguments may be large, and nobody
// should wait while they are decoded.
func decodeArgs(jobs []*Job, records []*record) {
	for i, rec := range records {
		jobs[i].splitArgs(rec.args, rec.kwargs)
	}
}

// ---- Enqueue ----

// Enqueue implements [Storage].
func (s *MemoryStorage) Enqueue(ctx context.Context, jobs ...*Job) error {
	records := make([]*record, len(jobs))
	for i, job := range jobs {
		rec, err := newRecord(job)
		if err != nil {
			return err
		}
		records[i] = rec
	}
	return s.do(ctx, func() error {
		for i, rec := range records {
			if err := s.reserveLocked(rec); err != nil {
				s.unreserveLocked(records[:i])
				return err
			}
		}
		for i, rec := range records {
			rec.age = s.all.add(rec)
			rec.job.CreatedAt = s.now
			s.placeLocked(rec)
			jobs[i].accepted(rec.job.ID, rec.job.Queue, rec.job.CreatedAt)
		}
		return nil
	})
}

// newRecord returns a PENDING record of a job that is to be enqueued.
func newRecord(job *Job) (*record, error) {
	args, kwargs, err := job.EncodeArgs()
	if err != nil {
		return nil, err
	}
	rec := &record{args: args, kwargs: kwargs, job: Job{
		ID:       job.ID,
		Task:     job.Task,
		Queue:    cmp.Or(job.Queue, defaultQueue),
		Priority: job.Priority,
		RunAt:    microTime(job.RunAt),
		Key:      job.Key,
		Status:   StatusPending,
	}}
	if rec.job.ID == "" {
		rec.job.ID = NewID()
	}
	return rec, nil
}

// reserveLocked takes the record's ID and Key, or returns a DuplicateError and takes neither.
func (s *MemoryStorage) reserveLocked(rec *record) error {
	if s.jobs[rec.job.ID] != nil {
		return &DuplicateError{ID: rec.job.ID}
	}
	if err := s.takeKeyLocked(rec); err != nil {
		return err
	}
	s.jobs[rec.job.ID] = rec
	return nil
}

func (s *MemoryStorage) unreserveLocked(records []*record) {
	for _, rec := range records {
		delete(s.jobs, rec.job.ID)
		s.freeKeyLocked(rec)
	}
}

// takeKeyLocked makes the record the holder of its Key, or returns a DuplicateError.
func (s *MemoryStorage) takeKeyLocked(rec *record) error {
	if rec.job.Key == "" {
		return nil
	}
	if holder := s.holders[rec.job.Key]; holder != nil {
		return &DuplicateError{ID: holder.job.ID, Key: rec.job.Key}
	}
	s.holders[rec.job.Key] = rec
	return nil
}

func (s *MemoryStorage) freeKeyLocked(rec *record) {
	if s.holders[rec.job.Key] == rec {
		delete(s.holders, rec.job.Key)
	}
}

// ---- Dequeue ----

// Dequeue implements [Storage].
func (s *MemoryStorage) Dequeue(ctx context.Context, opts DequeueOptions) ([]*Job, error) {
	if err := opts.check(); err != nil {
		return nil, err
	}
	mayWait := !opts.NoWait && opts.Ahead < opts.Max
	for {
		var claimed []*record
		var jobs []*Job
		var changed <-chan struct{}
		var due <-chan time.Time
		err := s.do(ctx, func() error {
			claimed, jobs = s.claimLocked(opts)
			if len(claimed) == 0 && mayWait {
				changed = s.changedLocked()
				due = s.dueLocked()
			}
			return nil
		})
		if err != nil {
			return nil, err
		}
		if len(claimed) > 0 || !mayWait {
			decodeArgs(jobs, claimed)
			return jobs, nil
		}
		select {
		case <-changed:
		case <-due:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// changedLocked returns a channel that is closed when a job becomes PENDING.
func (s *MemoryStorage) changedLocked() <-chan struct{} {
	if s.changed == nil {
		s.changed = make(chan struct{})
	}
	return s.changed
}

// dueLocked returns a channel that receives when the next job becomes due. It is nil, which blocks, if
// there is none.
func (s *MemoryStorage) dueLocked() <-chan time.Time {
	next := s.future.first()
	if next == nil {
		return nil
	}
	return time.After(next.job.RunAt.Sub(s.now))
}

// claimLocked claims the jobs that opts asks for. It returns their records and copies that lack the
// arguments.
func (s *MemoryStorage) claimLocked(opts DequeueOptions) (claimed []*record, jobs []*Job) {
	s.makeReadyLocked()
	queues := s.readyQueuesLocked(opts.Queues)
	heap.Init(&queues)
	for len(queues) > 0 && len(claimed) < opts.Max {
		queue := queues[0]
		rec := queue.first()
		ahead := len(claimed) >= opts.Max-opts.Ahead
		if ahead && rec.job.Claim != 0 {
			break // it was claimed before and may be the one that kills its process
		}
		s.claimOneLocked(rec, opts)
		claimed = append(claimed, rec)
		jobs = append(jobs, rec.copyLocked())
		if queue.Len() > 0 {
			heap.Fix(&queues, 0)
		} else {
			heap.Pop(&queues)
		}
	}
	return claimed, jobs
}

// makeReadyLocked moves the jobs that have become due from the future to their queues.
func (s *MemoryStorage) makeReadyLocked() {
	for {
		rec := s.future.first()
		if rec == nil || rec.job.RunAt.After(s.now) {
			return
		}
		s.leaveLocked(rec)
		s.placeLocked(rec)
	}
}

// readyQueuesLocked returns the queues with these names that have due jobs, or all such queues for no names.
func (s *MemoryStorage) readyQueuesLocked(names []string) queueHeap {
	var queues queueHeap
	if len(names) == 0 {
		for _, queue := range s.ready {
			queues = append(queues, queue)
		}
		return queues
	}
	for _, name := range names {
		queue := s.ready[cmp.Or(name, defaultQueue)]
		if queue != nil && !slices.Contains(queues, queue) {
			queues = append(queues, queue)
		}
	}
	return queues
}

// claimOneLocked makes a PENDING job RUNNING under a new claim.
func (s *MemoryStorage) claimOneLocked(rec *record, opts DequeueOptions) {
	s.leaveLocked(rec)
	rec.job.Status = StatusRunning
	rec.job.Attempts++
	rec.job.Claim = max(rec.job.Claim+1, s.now.UnixMicro())
	rec.job.HeartbeatAt = s.now
	rec.job.Worker = opts.Worker
	s.placeLocked(rec)
}

// queueHeap is a container/heap of queues, none of them empty: first the one whose first job comes first.
// With it a claim looks at each queue once, and not at every queue for every job.
type queueHeap []*ranking

func (q queueHeap) Len() int           { return len(q) }
func (q queueHeap) Less(i, j int) bool { return q[i].first().before(q[j].first()) }
func (q queueHeap) Swap(i, j int)      { q[i], q[j] = q[j], q[i] }
func (q *queueHeap) Push(queue any)    { *q = append(*q, queue.(*ranking)) }

func (q *queueHeap) Pop() any {
	last := len(*q) - 1
	queue := (*q)[last]
	*q = (*q)[:last]
	return queue
}

// ---- What prolongs and ends a claim ----

// Heartbeat implements [Storage].
func (s *MemoryStorage) Heartbeat(ctx context.Context, jobs ...*Job) (lost []*Job, err error) {
	return s.eachHeld(ctx, jobs, func(rec *record, job *Job) { rec.job.HeartbeatAt = s.now })
}

// MarkDone implements [Storage].
func (s *MemoryStorage) MarkDone(ctx context.Context, jobs ...*Job) (lost []*Job, err error) {
	return s.eachHeld(ctx, jobs, func(rec *record, job *Job) {
		rec.job.Result = slices.Clone(job.Result)
		s.finishLocked(rec, StatusSuccess)
	})
}

// MarkFailed implements [Storage].
func (s *MemoryStorage) MarkFailed(ctx context.Context, job *Job, cause error, retryAt time.Time) error {
	text := ErrorText(cause) // not under the lock: it calls the caller's code
	lost, canceled, err := s.eachEnding(ctx, []*Job{job}, func(rec *record, job *Job) {
		rec.job.Error = text
		s.returnLocked(rec, retryAt)
	})
	return ofOne(lost, canceled, err)
}

// Release implements [Storage].
func (s *MemoryStorage) Release(
	ctx context.Context, at time.Time, cause error, jobs ...*Job,
) (lost, canceled []*Job, err error) {
	var text string
	if cause != nil {
		text = ErrorText(cause)
	}
	return s.eachEnding(ctx, jobs, func(rec *record, job *Job) {
		rec.job.Attempts--
		if cause != nil {
			rec.job.Error = text
		}
		s.returnLocked(rec, at)
	})
}

// DeadLetter implements [Storage].
func (s *MemoryStorage) DeadLetter(ctx context.Context, job *Job, cause error) error {
	text := ErrorText(cause)
	lost, canceled, err := s.eachEnding(ctx, []*Job{job}, func(rec *record, job *Job) {
		rec.job.Attempts = attemptsOf(job, cause)
		rec.job.Error = text
		s.buryLocked(rec)
	})
	return ofOne(lost, canceled, err)
}

// eachHeld calls verb under the lock for each job whose claim is still the caller's, and returns the other
// jobs.
func (s *MemoryStorage) eachHeld(
	ctx context.Context, jobs []*Job, verb func(*record, *Job),
) (lost []*Job, err error) {
	err = s.do(ctx, func() error {
		for _, job := range jobs {
			rec := s.running[job.ID]
			if rec.heldBy(job) {
				verb(rec, job)
			} else {
				lost = append(lost, job)
			}
		}
		return nil
	})
	return lost, err
}

// eachEnding is eachHeld for the verbs that give up on an attempt. Jobs that were canceled end instead, and
// are returned.
func (s *MemoryStorage) eachEnding(
	ctx context.Context, jobs []*Job, verb func(*record, *Job),
) (lost, canceled []*Job, err error) {
	lost, err = s.eachHeld(ctx, jobs, func(rec *record, job *Job) {
		if rec.job.Canceled {
			s.cancelLocked(rec)
			canceled = append(canceled, job)
			return
		}
		verb(rec, job)
	})
	return lost, canceled, err
}

// heldBy reports whether the claim that job was handed out under is the record's claim now. The record may
// be nil.
func (r *record) heldBy(job *Job) bool {
	return r != nil && r.job.Status == StatusRunning && r.job.Claim == job.Claim && r.job.Attempts == job.Attempts
}

// returnLocked makes a job PENDING, due at a time.
func (s *MemoryStorage) returnLocked(rec *record, at time.Time) {
	s.leaveLocked(rec)
	rec.job.Status = StatusPending
	rec.job.RunAt = microTime(at)
	s.placeLocked(rec)
}

// finishLocked ends a job for good and frees its Key.
func (s *MemoryStorage) finishLocked(rec *record, status Status) {
	s.leaveLocked(rec)
	s.freeKeyLocked(rec)
	rec.job.Status = status
	rec.job.FinishedAt = s.now
	s.placeLocked(rec)
}

// buryLocked makes a job FAILED and puts it into the dead-letter queue.
func (s *MemoryStorage) buryLocked(rec *record) {
	s.leaveLocked(rec)
	s.freeKeyLocked(rec)
	rec.job.Status = StatusFailed
	rec.job.FinishedAt = s.now
	rec.letter = s.dead.add(rec)
}

// cancelLocked ends a job that was canceled.
func (s *MemoryStorage) cancelLocked(rec *record) {
	rec.job.Canceled = true
	rec.job.Error = ErrCanceled.Error()
	s.finishLocked(rec, StatusFailed)
}

// ---- Cancel ----

// Cancel implements [Canceler].
func (s *MemoryStorage) Cancel(ctx context.Context, ids ...string) (ended, asked []string, err error) {
	err = s.do(ctx, func() error {
		for _, id := range ids {
			rec := s.jobs[id]
			switch {
			case rec == nil:
			case rec.job.Status == StatusPending:
				s.cancelLocked(rec)
				ended = append(ended, id)
			case rec.job.Status == StatusRunning:
				rec.job.Canceled = true
				asked = append(asked, id)
			}
		}
		return nil
	})
	return ended, asked, err
}

// Canceled implements [Canceler].
func (s *MemoryStorage) Canceled(ctx context.Context, jobs ...*Job) (canceled []*Job, err error) {
	_, err = s.eachHeld(ctx, jobs, func(rec *record, job *Job) {
		if rec.job.Canceled {
			canceled = append(canceled, job)
		}
	})
	return canceled, err
}

// ---- What running workers do now and then ----

// ReapStale implements [Storage]. It also deletes what is older than Retention and DeadLetterRetention.
func (s *MemoryStorage) ReapStale(ctx context.Context, visibility time.Duration) (reaped int, err error) {
	now := microTime(time.Now()) // before the lock, which heartbeats may be waiting for as well
	if err := s.deleteOld(ctx, now); err != nil {
		return 0, err
	}
	err = s.do(ctx, func() error {
		for _, rec := range s.running {
			silence := now.Sub(rec.job.HeartbeatAt).Abs() // negative if the clock was set back
			if silence > visibility {
				s.reapLocked(rec, now, visibility)
				reaped++
			}
		}
		return nil
	})
	return reaped, err
}

// reapLocked takes a job back from a worker that seems to be dead.
func (s *MemoryStorage) reapLocked(rec *record, now time.Time, visibility time.Duration) {
	if rec.job.Canceled {
		s.cancelLocked(rec)
		return
	}
	rec.job.Error = "lease expired"
	rec.reaped++
	if rec.reaped == 1 {
		s.returnLocked(rec, time.Time{})
		return
	}
	// The product may be too large for a Duration, but not for a float64.
	spread := float64(rec.job.Attempts) * float64(max(visibility, 0))
	spread = min(spread, math.MaxInt64/2)
	s.returnLocked(rec, now.Add(time.Duration(rand.Float64()*spread)))
}

// deleteOld enforces Retention and DeadLetterRetention.
func (s *MemoryStorage) deleteOld(ctx context.Context, now time.Time) error {
	if s.DeadLetterRetention > 0 {
		if err := s.purgeOld(ctx, now.Add(-s.DeadLetterRetention)); err != nil {
			return err
		}
	}
	if s.Retention < 0 {
		return nil
	}
	_, err := s.Prune(ctx, now.Add(-cmp.Or(s.Retention, 24*time.Hour)))
	return err
}

// purgeOld purges the dead letters of jobs that failed before a time.
func (s *MemoryStorage) purgeOld(ctx context.Context, before time.Time) error {
	return s.inPages(ctx, func() (more bool) {
		for _, e := range s.dead.page(0, memoryPage) {
			if !e.rec.job.FinishedAt.Before(before) {
				return false
			}
			s.purgeLocked(e.rec)
			more = true
		}
		return more
	})
}

// inPages calls page again and again as long as it reports that there is more to do, and lets others have
// the lock in between.
func (s *MemoryStorage) inPages(ctx context.Context, page func() (more bool)) error {
	for {
		var more bool
		err := s.do(ctx, func() error {
			more = page()
			return nil
		})
		if err != nil || !more {
			return err
		}
	}
}

// Size implements [Storage].
func (s *MemoryStorage) Size(ctx context.Context) (size int, err error) {
	err = s.do(ctx, func() error {
		size = s.future.Len()
		for _, queue := range s.ready {
			size += queue.Len()
		}
		return nil
	})
	return size, err
}

// ---- What people look at and tend by hand ----

// Get implements [Inspector].
func (s *MemoryStorage) Get(ctx context.Context, id string) (*Job, error) {
	var rec *record
	var job *Job
	err := s.do(ctx, func() error {
		rec = s.jobs[id]
		if rec == nil {
			return fmt.Errorf("%w: %q", ErrNotFound, id)
		}
		job = rec.copyLocked()
		return nil
	})
	if err != nil {
		return nil, err
	}
	job.splitArgs(rec.args, rec.kwargs)
	return job, nil
}

// Jobs implements [Inspector].
func (s *MemoryStorage) Jobs(ctx context.Context, f Filter) iter.Seq2[*Job, error] {
	return s.list(ctx, f, &s.all)
}

// DeadLetters implements [Inspector].
func (s *MemoryStorage) DeadLetters(ctx context.Context, f Filter) iter.Seq2[*Job, error] {
	f.Status = ""
	return s.list(ctx, f, &s.dead)
}

// list ranges over the jobs of a roll that match a filter. It reads a hundred at a time.
func (s *MemoryStorage) list(ctx context.Context, f Filter, from *roll) iter.Seq2[*Job, error] {
	return func(yield func(*Job, error) bool) {
		matches := f.matcher()
		last := int64(0) // the number up to which the roll has been read
		yielded := 0
		for more := true; more; {
			var records []*record
			var jobs []*Job
			err := s.do(ctx, func() error {
				page := from.page(last, 100)
				more = len(page) > 0
				for _, e := range page {
					last = e.number
					if matches(e.rec) {
						records = append(records, e.rec)
						jobs = append(jobs, e.rec.copyLocked())
					}
				}
				return nil
			})
			if err != nil {
				yield(nil, err)
				return
			}
			decodeArgs(jobs, records)
			for _, job := range jobs {
				if !yield(job, nil) {
					return
				}
				yielded++
				if yielded == f.Limit {
					return
				}
			}
		}
	}
}

// matcher returns a function that reports whether a record matches the filter.
func (f Filter) matcher() func(*record) bool {
	ids := make(map[string]bool, len(f.IDs))
	for _, id := range f.IDs {
		ids[id] = true
	}
	return func(rec *record) bool {
		switch {
		case len(ids) > 0 && !ids[rec.job.ID]:
			return false
		case f.Status != "" && f.Status != rec.job.Status:
			return false
		case f.Queue != "" && f.Queue != rec.job.Queue:
			return false
		case f.Task != "" && !strings.EqualFold(f.Task, rec.job.Task):
			return false
		}
		return true
	}
}

// Replay implements [Inspector]. Limit counts the jobs replayed, not those that stay.
func (s *MemoryStorage) Replay(ctx context.Context, f Filter) (int, error) {
	return s.tendDead(ctx, f, s.replayLocked)
}

// replayLocked makes a dead-lettered job PENDING with no attempts. It reports false if another job holds
// its Key.
func (s *MemoryStorage) replayLocked(rec *record) bool {
	if s.takeKeyLocked(rec) != nil {
		return false
	}
	rec.job.Attempts = 0
	rec.job.Error = ""
	rec.job.Worker = ""
	rec.job.FinishedAt = time.Time{}
	rec.reaped = 0
	s.returnLocked(rec, time.Time{})
	return true
}

// Purge implements [Inspector]. The job itself stays FAILED until it is pruned.
func (s *MemoryStorage) Purge(ctx context.Context, f Filter) (int, error) {
	return s.tendDead(ctx, f, s.purgeLocked)
}

// purgeLocked takes a job out of the dead-letter queue. It always reports true.
func (s *MemoryStorage) purgeLocked(rec *record) bool {
	s.leaveLocked(rec)
	s.placeLocked(rec)
	return true
}

// tendDead calls verb for the dead letters that match a filter, the oldest first, and counts those that it
// reports true for, up to the Limit of the filter.
func (s *MemoryStorage) tendDead(ctx context.Context, f Filter, verb func(*record) bool) (n int, err error) {
	f.Status = ""
	matches := f.matcher()
	err = s.do(ctx, func() error {
		for _, e := range s.dead.page(0, s.dead.len()) {
			if f.Limit > 0 && n == f.Limit {
				break
			}
			if matches(e.rec) && verb(e.rec) {
				n++
			}
		}
		return nil
	})
	return n, err
}

// Prune implements [Inspector].
func (s *MemoryStorage) Prune(ctx context.Context, before time.Time) (pruned int, err error) {
	before = microTime(before)
	err = s.inPages(ctx, func() (more bool) {
		for range memoryPage {
			rec := s.finished.first()
			if rec == nil || !rec.job.FinishedAt.Before(before) {
				return false
			}
			s.leaveLocked(rec)
			s.all.remove(rec.age)
			delete(s.jobs, rec.job.ID)
			pruned++
		}
		return true
	})
	return pruned, err
}

// Stats implements [Inspector].
func (s *MemoryStorage) Stats(ctx context.Context) (stats Stats, err error) {
	now := microTime(time.Now())
	last := int64(0) // the number up to which s.all has been read
	err = s.inPages(ctx, func() (more bool) {
		stats.DeadLetters = s.dead.len()
		page := s.all.page(last, memoryPage)
		for _, e := range page {
			last = e.number
			stats.count(&e.rec.job, now)
		}
		return len(page) > 0
	})
	return stats, err
}

// count adds one job to the counts.
func (s *Stats) count(job *Job, now time.Time) {
	lastHour, lastMinute := 0, 0
	if !job.FinishedAt.IsZero() {
		age := max(now.Sub(job.FinishedAt), 0) // negative if the clock was set back
		if age < time.Hour {
			lastHour = 1
		}
		if age < time.Minute {
			lastMinute = 1
			s.LastMinute[59-age/time.Second]++
		}
	}
	s.add(tally{job.Queue, job.Task, job.Status, 1, job.CreatedAt, lastHour, lastMinute})
}

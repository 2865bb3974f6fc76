package pinion

import (
	"cmp"
	"container/heap"
	"context"
	"fmt"
	"iter"
	"maps"
	"math"
	"math/rand/v2"
	"slices"
	"sort"
	"strings"
	"sync"
	"time"

	"github.com/pinion-queue/pinion/internal/rules"
)

// MemoryStorage keeps jobs in the memory of this process.
//
// It is for tests, and for work that may be lost with the process. In all else it means what SQLiteStorage
// means; its methods are the shortest description of what each verb does. The zero value is an empty
// storage.
//
// A finished job takes about 600 bytes until Retention has passed. Set Retention to minutes on a busy queue.
type MemoryStorage struct {
	// Retention is how long finished jobs are kept [24h]; negative: for ever. ReapStale, which running workers
	// call, deletes older ones. Set it before the first use.
	Retention time.Duration
	// DeadLetterRetention is how long dead letters are kept [for ever]. ReapStale purges older ones. Set it
	// before the first use.
	DeadLetterRetention time.Duration

	mu      sync.Mutex // guards all fields below and the records
	closed  bool
	now     time.Time            // when the verb that holds the lock began
	changed chan struct{}        // closed when a job becomes PENDING; nil if no Dequeue waits
	jobs    map[string]*record   // every job, by ID
	keys    map[string][]*record // the unfinished jobs that have a Key, by Key
	all     roll                 // every job, by age
	limits  map[string]int       // see SetLimit; by queue
	ended   history              // how many jobs ended, by minute
	recent  lastMinute           // how many jobs ended, by second

	// Each job is in exactly one of these places. placeLocked and leaveLocked know which.
	future   ranking            // PENDING, not yet due when last looked at; by RunAt
	ready    readyJobs          // PENDING and due
	running  map[string]*record // RUNNING, by ID
	busy     map[string]int     // how many jobs of a queue are RUNNING
	dead     roll               // the dead-letter queue, by when the job was dead-lettered
	finished ranking            // what may be pruned: SUCCESS, or FAILED without a dead letter; by FinishedAt
}

var (
	_ Storage   = (*MemoryStorage)(nil)
	_ Canceler  = (*MemoryStorage)(nil)
	_ Inspector = (*MemoryStorage)(nil)
	_ Limiter   = (*MemoryStorage)(nil)
)

// NewMemoryStorage returns an empty storage.
func NewMemoryStorage() *MemoryStorage { return new(MemoryStorage) }

const (
	// memoryPage is how many jobs a verb that goes through many of them handles under one hold of the lock.
	memoryPage = 500
	// memoryLook is how long a Dequeue waits for a due time until it looks at the clock again. Timers stand
	// still while a computer sleeps, so a timer for the due time itself may end hours late. Running workers,
	// which call Heartbeat and ReapStale, wake the Dequeue sooner.
	memoryLook = time.Minute
)

// do runs a verb under the lock. It returns an error instead if ctx has ended or the storage is closed. It
// wakes the Dequeues that wait if a job has become due: see memoryLook.
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
		s.keys = make(map[string][]*record)
		s.running = make(map[string]*record)
		s.busy = make(map[string]int)
		s.limits = make(map[string]int)
	}
	s.now = microTime(time.Now())
	next := s.future.first()
	if next != nil && !next.job.RunAt.After(s.now) {
		s.wakeLocked()
	}
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
	job          Job           // without Args, Kwargs and LeaseUntil
	args, kwargs string        // the encoded arguments; they never change, so reading them needs no lock
	keyGivenUp   bool          // the job started, and its KeyUntilStart is set
	lease        time.Duration // of the claim
	doubted      time.Time     // when ReapStale first found the lease expired, by the monotonic clock
	age          int64         // its number in MemoryStorage.all
	letter       int64         // its number in MemoryStorage.dead; 0 if it is not there

	// Set by the ranking that it is in.
	ranking *ranking // nil if it is in none
	rank    int64
	index   int
}

// placeLocked puts a record that is in no place into the one that its status and due time ask for. A FAILED
// record with a dead letter is put into its place by buryLocked.
func (s *MemoryStorage) placeLocked(rec *record) {
	switch rec.job.Status {
	case StatusPending:
		if rec.job.RunAt.After(s.now) {
			s.future.add(rec, rec.job.RunAt.UnixMicro())
		} else {
			s.ready.add(rec)
		}
		s.wakeLocked()
	case StatusRunning:
		s.running[rec.job.ID] = rec
		s.busy[rec.job.Queue]++
	case StatusSuccess, StatusFailed:
		s.finished.add(rec, rec.job.FinishedAt.UnixMicro())
	}
}

// leaveLocked takes a record out of its place.
func (s *MemoryStorage) leaveLocked(rec *record) {
	switch {
	case rec.job.Status == StatusRunning:
		s.leaveRunningLocked(rec)
	case rec.letter > 0:
		s.dead.remove(rec.letter)
		rec.letter = 0
	case rec.ranking == &s.future || rec.ranking == &s.finished:
		rec.ranking.remove(rec)
	default:
		s.ready.remove(rec)
	}
}

// leaveRunningLocked takes a record out of the running ones and clears what belongs to its claim. If its
// queue has a limit another job of the queue may start now.
func (s *MemoryStorage) leaveRunningLocked(rec *record) {
	delete(s.running, rec.job.ID)
	s.busy[rec.job.Queue]--
	if s.busy[rec.job.Queue] == 0 {
		delete(s.busy, rec.job.Queue)
	}
	rec.lease = 0
	rec.doubted = time.Time{}
	rec.job.StartedAt = time.Time{}
	if _, limited := s.limits[rec.job.Queue]; limited {
		s.wakeLocked()
	}
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

// readyJobs are the jobs that are due. Those of one queue and one task stand in a lane, so that a claim
// passes the lanes that it may not claim from, however long they are.
type readyJobs struct {
	lanes map[laneName]*lane // none is empty
	order laneHeap           // all lanes
}

type laneName struct{ queue, task string }

// lane ranks due jobs by priority.
type lane struct {
	name  laneName
	jobs  ranking
	index int // in readyJobs.order
}

func (r *readyJobs) add(rec *record) {
	name := laneName{rec.job.Queue, rec.job.Task}
	l := r.lanes[name]
	if l == nil {
		l = &lane{name: name}
		if r.lanes == nil {
			r.lanes = make(map[laneName]*lane)
		}
		r.lanes[name] = l
	}
	l.jobs.add(rec, ^int64(rec.job.Priority)) // ^p falls as p rises; -p would overflow
	if l.jobs.Len() == 1 {
		heap.Push(&r.order, l)
	} else {
		heap.Fix(&r.order, l.index)
	}
}

func (r *readyJobs) remove(rec *record) {
	l := r.lanes[laneName{rec.job.Queue, rec.job.Task}]
	l.jobs.remove(rec)
	if l.jobs.Len() > 0 {
		heap.Fix(&r.order, l.index)
		return
	}
	heap.Remove(&r.order, l.index)
	delete(r.lanes, l.name)
}

// first returns the lane whose first job comes first, or nil if there is none.
func (r *readyJobs) first() *lane {
	if len(r.order) == 0 {
		return nil
	}
	return r.order[0]
}

// laneHeap is a container/heap of lanes: first the one whose first job comes first.
type laneHeap []*lane

func (h laneHeap) Len() int           { return len(h) }
func (h laneHeap) Less(i, j int) bool { return h[i].jobs.first().before(h[j].jobs.first()) }

func (h laneHeap) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].index = i
	h[j].index = j
}

func (h *laneHeap) Push(l any) {
	l.(*lane).index = len(*h)
	*h = append(*h, l.(*lane))
}

func (h *laneHeap) Pop() any {
	last := len(*h) - 1
	l := (*h)[last]
	(*h)[last] = nil
	*h = (*h)[:last]
	return l
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

// pageBefore returns up to n records that come before a number, the last one first.
func (r *roll) pageBefore(number int64, n int) []entry {
	var page []entry
	for _, e := range slices.Backward(r.entries[:r.indexBehind(number-1)]) {
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
	job.Meta = maps.Clone(job.Meta)
	if job.Status == StatusRunning {
		job.LeaseUntil = job.HeartbeatAt.Add(r.lease)
	}
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
	if err := checkDistinct(jobs); err != nil {
		return err
	}
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
		ID:            job.ID,
		Task:          job.Task,
		Queue:         cmp.Or(job.Queue, defaultQueue),
		Priority:      job.Priority,
		RunAt:         rules.DueTime(job.RunAt),
		Key:           job.Key,
		KeyUntilStart: job.KeyUntilStart,
		Meta:          maps.Clone(job.Meta),
		Status:        StatusPending,
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

// takeKeyLocked adds the record to the unfinished jobs with its Key, if it has one. It returns a
// DuplicateError if the record is to hold the Key and another job does.
func (s *MemoryStorage) takeKeyLocked(rec *record) error {
	key := rec.job.Key
	if key == "" {
		return nil
	}
	for _, other := range s.keys[key] {
		if !other.keyGivenUp && !rec.keyGivenUp {
			return &DuplicateError{ID: other.job.ID, Key: key}
		}
	}
	s.keys[key] = append(s.keys[key], rec)
	return nil
}

// freeKeyLocked removes the record from the unfinished jobs with its Key.
func (s *MemoryStorage) freeKeyLocked(rec *record) {
	key := rec.job.Key
	others := slices.DeleteFunc(s.keys[key], func(other *record) bool { return other == rec })
	if len(others) > 0 {
		s.keys[key] = others
	} else {
		delete(s.keys, key)
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
		var moreDue bool
		var changed <-chan struct{}
		var look <-chan time.Time
		err := s.do(ctx, func() error {
			moreDue = s.makeReadyLocked()
			if moreDue {
				return nil
			}
			claimed, jobs = s.claimLocked(opts)
			if len(claimed) == 0 && mayWait {
				changed = s.changedLocked()
				look = s.nextLookLocked()
			}
			return nil
		})
		switch {
		case err != nil:
			return nil, err
		case moreDue:
			continue
		case len(claimed) > 0 || !mayWait:
			decodeArgs(jobs, claimed)
			return jobs, nil
		}
		select {
		case <-changed:
		case <-look:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// makeReadyLocked makes some of the jobs ready that have become due, and reports whether there may be more
// of them. Dequeue claims nothing before all are ready, because the last may be the most urgent.
func (s *MemoryStorage) makeReadyLocked() (more bool) {
	for range memoryPage {
		rec := s.future.first()
		if rec == nil || rec.job.RunAt.After(s.now) {
			return false
		}
		s.leaveLocked(rec)
		s.placeLocked(rec)
	}
	return true
}

// changedLocked returns a channel that is closed when there may be something to claim.
func (s *MemoryStorage) changedLocked() <-chan struct{} {
	if s.changed == nil {
		s.changed = make(chan struct{})
	}
	return s.changed
}

// nextLookLocked returns a channel that receives when a Dequeue that waits for a due time must look at the
// clock again. It is nil, which blocks, if there is no such time.
func (s *MemoryStorage) nextLookLocked() <-chan time.Time {
	next := s.future.first()
	if next == nil {
		return nil
	}
	return time.After(min(next.job.RunAt.Sub(s.now), memoryLook))
}

// claimLocked claims the jobs that opts asks for. It returns their records and copies that lack the
// arguments.
func (s *MemoryStorage) claimLocked(opts DequeueOptions) (claimed []*record, jobs []*Job) {
	var passed []*lane // their jobs are not for this caller, or not now
	for len(claimed) < opts.Max {
		first := s.ready.first()
		if first == nil {
			break
		}
		if !s.mayClaimLocked(first.name, opts) {
			heap.Pop(&s.ready.order)
			passed = append(passed, first)
			continue
		}
		rec := first.jobs.first()
		ahead := len(claimed) >= opts.Max-opts.Ahead
		if ahead && s.needsFreeSlotLocked(rec) {
			break
		}
		s.claimOneLocked(rec, opts)
		claimed = append(claimed, rec)
		jobs = append(jobs, rec.copyLocked())
	}
	for _, l := range passed {
		heap.Push(&s.ready.order, l)
	}
	return claimed, jobs
}

// mayClaimLocked reports whether opts ask for jobs of this queue and task, and the queue's limit admits one
// more.
func (s *MemoryStorage) mayClaimLocked(name laneName, opts DequeueOptions) bool {
	if limit, limited := s.limits[name.queue]; limited && s.busy[name.queue] >= limit {
		return false
	}
	isQueue := func(queue string) bool { return cmp.Or(queue, defaultQueue) == name.queue }
	if len(opts.Queues) > 0 && !slices.ContainsFunc(opts.Queues, isQueue) {
		return false
	}
	isTask := func(task string) bool { return isSameTask(task, name.task) }
	return len(opts.Tasks) == 0 || slices.ContainsFunc(opts.Tasks, isTask)
}

// needsFreeSlotLocked reports whether a job must not be claimed ahead of free slots.
func (s *MemoryStorage) needsFreeSlotLocked(rec *record) bool {
	if rec.job.Claim != 0 {
		return true // it was claimed before and may be the one that kills its process
	}
	if rec.job.Key != "" && rec.job.KeyUntilStart {
		return true // a claim gives up the Key, which the job should hold until it starts
	}
	_, limited := s.limits[rec.job.Queue]
	return limited // what waits for a slot would count as running
}

// claimOneLocked makes a PENDING job RUNNING under a new claim.
func (s *MemoryStorage) claimOneLocked(rec *record, opts DequeueOptions) {
	s.leaveLocked(rec)
	rec.job.Status = StatusRunning
	rec.job.Attempts++
	rec.job.Claim = max(rec.job.Claim+1, s.now.UnixMicro())
	rec.job.HeartbeatAt = s.now
	rec.job.Worker = opts.Worker
	rec.job.Result = nil
	rec.lease = rules.Lease(cmp.Or(opts.Lease, defaultLease))
	if rec.job.KeyUntilStart {
		rec.keyGivenUp = true
	}
	s.placeLocked(rec)
}

// ---- What prolongs and ends a claim ----

// Heartbeat implements [Storage].
func (s *MemoryStorage) Heartbeat(ctx context.Context, jobs ...*Job) (lost []*Job, err error) {
	return s.eachHeld(ctx, jobs, func(rec *record, job *Job) {
		rec.job.HeartbeatAt = s.now
		rec.doubted = time.Time{}
		if rec.job.StartedAt.IsZero() {
			rec.job.StartedAt = microTime(job.StartedAt)
		}
		if job.Result != nil {
			rec.job.Result = slices.Clone(job.Result)
		}
	})
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
		rec.job.Reaped = 0
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
		rec.job.Reaped = 0
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
		if job.Result != nil {
			rec.job.Result = slices.Clone(job.Result)
		}
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
	rec.job.RunAt = rules.DueTime(at)
	s.placeLocked(rec)
}

// finishLocked ends a job for good and frees its Key.
func (s *MemoryStorage) finishLocked(rec *record, status Status) {
	s.countEndLocked(rec, status)
	s.leaveLocked(rec)
	s.freeKeyLocked(rec)
	rec.job.Status = status
	rec.job.FinishedAt = s.now
	s.placeLocked(rec)
}

// buryLocked makes a job FAILED and puts it into the dead-letter queue.
func (s *MemoryStorage) buryLocked(rec *record) {
	s.countEndLocked(rec, StatusFailed)
	s.leaveLocked(rec)
	s.freeKeyLocked(rec)
	rec.job.Status = StatusFailed
	rec.job.FinishedAt = s.now
	rec.letter = s.dead.add(rec)
}

// countEndLocked counts a job that is about to end.
func (s *MemoryStorage) countEndLocked(rec *record, status Status) {
	var took time.Duration
	if rec.job.Status == StatusRunning {
		took = max(s.now.Sub(time.UnixMicro(rec.job.Claim)), 0)
	}
	s.ended.add(s.now, laneName{rec.job.Queue, rec.job.Task}, status, took)
	s.recent.add(s.now)
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
			if rec == nil {
				continue
			}
			switch s.cancelOneLocked(rec) {
			case StatusFailed:
				ended = append(ended, id)
			case StatusRunning:
				asked = append(asked, id)
			}
		}
		return nil
	})
	return ended, asked, err
}

// cancelOneLocked ends a PENDING job or asks a RUNNING one to end. It returns the job's status then, or ""
// if the job had ended already.
func (s *MemoryStorage) cancelOneLocked(rec *record) Status {
	switch rec.job.Status {
	case StatusPending:
		s.cancelLocked(rec)
		return StatusFailed
	case StatusRunning:
		rec.job.Canceled = true
		return StatusRunning
	default:
		return ""
	}
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

// ReapStale implements [Storage]. It also deletes what is older than Retention and DeadLetterRetention. All
// claims have a lease, so it has no use for a visibility.
func (s *MemoryStorage) ReapStale(ctx context.Context, _ time.Duration) (reaped int, err error) {
	now := time.Now() // before the lock, which heartbeats may be waiting for as well
	if err := s.deleteOld(ctx, microTime(now)); err != nil {
		return 0, err
	}
	err = s.do(ctx, func() error {
		s.ended.mergeOld(s.now)
		for _, rec := range s.running {
			silence := microTime(now).Sub(rec.job.HeartbeatAt).Abs() // negative if the clock was set back
			switch {
			case silence <= rec.lease:
				rec.doubted = time.Time{}
			case rec.doubted.IsZero():
				rec.doubted = time.Now()
			case now.Sub(rec.doubted) >= rules.ReapGap(rec.lease):
				s.reapLocked(rec)
				reaped++
			}
		}
		return nil
	})
	return reaped, err
}

// reapLocked takes a job back from a worker that seems to be dead.
func (s *MemoryStorage) reapLocked(rec *record) {
	if rec.job.Canceled {
		s.cancelLocked(rec)
		return
	}
	rec.job.Error = "lease expired"
	rec.job.Reaped++
	if rec.job.Reaped == 1 {
		s.returnLocked(rec, time.Time{})
		return
	}
	// The product may be too large for a Duration, but not for a float64.
	spread := min(float64(rec.job.Attempts)*float64(rec.lease), math.MaxInt64/2)
	s.returnLocked(rec, s.now.Add(time.Duration(rand.Float64()*spread)))
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
	retention := cmp.Or(s.Retention, rules.DefaultRetention)
	_, err := s.Prune(ctx, now.Add(-retention))
	return err
}

// purgeOld purges the dead letters of jobs that failed before a time.
func (s *MemoryStorage) purgeOld(ctx context.Context, before time.Time) error {
	return s.inPages(ctx, func() (more bool) {
		page := s.dead.page(0, memoryPage)
		for _, e := range page {
			if !e.rec.job.FinishedAt.Before(before) {
				return false
			}
			s.purgeLocked(e.rec)
		}
		return len(page) > 0
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
		for _, l := range s.ready.lanes {
			size += l.jobs.Len()
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
	return s.list(ctx, &s.all, f, f.matcher((*record).createdAt))
}

// DeadLetters implements [Inspector].
func (s *MemoryStorage) DeadLetters(ctx context.Context, f Filter) iter.Seq2[*Job, error] {
	f.Status = ""
	return s.list(ctx, &s.dead, f, f.matcher((*record).finishedAt))
}

// list ranges over the records of a roll that match. It reads a hundred under one hold of the lock.
func (s *MemoryStorage) list(
	ctx context.Context, from *roll, f Filter, matches func(*record) bool,
) iter.Seq2[*Job, error] {
	return func(yield func(*Job, error) bool) {
		last := int64(0) // the number up to which the roll has been read
		if f.Newest {
			last = math.MaxInt64
		}
		yielded := 0
		for {
			var page []entry
			var records []*record
			var jobs []*Job
			err := s.do(ctx, func() error {
				page = s.partLocked(from, f, last, 100)
				for _, e := range page {
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
			if len(page) == 0 {
				return
			}
			last = page[len(page)-1].number
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

// JobsPage implements [Inspector].
func (s *MemoryStorage) JobsPage(ctx context.Context, f Filter, from int64) (Page, error) {
	return s.page(ctx, &s.all, f, f.matcher((*record).createdAt), from)
}

// DeadLettersPage implements [Inspector].
func (s *MemoryStorage) DeadLettersPage(ctx context.Context, f Filter, from int64) (Page, error) {
	f.Status = ""
	return s.page(ctx, &s.dead, f, f.matcher((*record).finishedAt), from)
}

// page reads a part of a roll, from behind a number on. It looks at a hundred records under one hold of the
// lock.
func (s *MemoryStorage) page(
	ctx context.Context, of *roll, f Filter, matches func(*record) bool, from int64,
) (page Page, err error) {
	last := from // the number up to which the roll has been read
	if f.Newest && from == 0 {
		last = math.MaxInt64
	}
	var records []*record
	looked, size := 0, 0
	err = s.inPages(ctx, func() (more bool) {
		entries := s.partLocked(of, f, last, 100)
		for _, e := range entries {
			isFull := len(records) == rules.PageSize(f.Limit) || looked == rules.PageLook || size > rules.PageBytes
			if isFull {
				page.Next = last
				return false
			}
			last = e.number
			looked++
			if matches(e.rec) {
				records = append(records, e.rec)
				page.Jobs = append(page.Jobs, e.rec.copyLocked())
				size += len(e.rec.args) + len(e.rec.kwargs) + len(e.rec.job.Result) + len(e.rec.job.Error)
			}
		}
		return len(entries) > 0
	})
	if err != nil {
		return Page{}, err
	}
	decodeArgs(page.Jobs, records)
	return page, nil
}

// partLocked returns up to n records of a roll that come behind a number in the order of the filter. All
// that match are among those that follow.
func (s *MemoryStorage) partLocked(of *roll, f Filter, number int64, n int) []entry {
	narrow := s.narrowLocked(of, f)
	if f.Newest {
		return narrow.pageBefore(number, n)
	}
	return narrow.page(number, n)
}

// GroupDeadLetters implements [Inspector].
func (s *MemoryStorage) GroupDeadLetters(ctx context.Context, f Filter, look int) (groups LetterGroups, err error) {
	f.Status = ""
	f.Newest = true
	matches := f.matcher((*record).finishedAt)
	var counter rules.ErrorGroups
	last := int64(math.MaxInt64)
	looked := 0
	err = s.inPages(ctx, func() (more bool) {
		entries := s.dead.pageBefore(last, memoryPage)
		for _, e := range entries {
			if look > 0 && looked == look {
				groups.More = true
				return false
			}
			last = e.number
			looked++
			if matches(e.rec) {
				counter.Add(rules.HashError(e.rec.job.Error), e.number)
			}
		}
		return len(entries) > 0
	})
	if err != nil {
		return LetterGroups{}, err
	}
	groups.Errors = counter.Errors()
	groups.Letters = counter.Letters
	for _, g := range counter.Largest(f.Limit) {
		job, err := s.letter(ctx, g.Newest)
		if err != nil {
			return LetterGroups{}, err
		}
		if job != nil {
			groups.Groups = append(groups.Groups, LetterGroup{g.Count, job})
		}
	}
	return groups, nil
}

// letter returns the dead letter with a number, or nil if it is gone.
func (s *MemoryStorage) letter(ctx context.Context, number int64) (job *Job, err error) {
	var rec *record
	err = s.do(ctx, func() error {
		for _, e := range s.dead.page(number-1, 1) {
			if e.number == number {
				rec = e.rec
				job = rec.copyLocked()
			}
		}
		return nil
	})
	if job != nil {
		job.splitArgs(rec.args, rec.kwargs)
	}
	return job, err
}

// narrowLocked returns a roll of the few records that can match the filter, if there is a quick way to them,
// and else the whole roll.
func (s *MemoryStorage) narrowLocked(from *roll, f Filter) *roll {
	var few []*record
	unfinished := f.Status == StatusPending || f.Status == StatusRunning
	switch {
	case f.IDs != nil:
		for _, id := range f.IDs {
			if rec := s.jobs[id]; rec != nil {
				few = append(few, rec)
			}
		}
	case f.Key != "" && unfinished:
		few = s.keys[f.Key]
	case f.KeyPrefix != "" && unfinished:
		for key, records := range s.keys {
			if strings.HasPrefix(key, f.KeyPrefix) {
				few = append(few, records...)
			}
		}
	case f.Status == StatusRunning:
		few = slices.Collect(maps.Values(s.running))
	default:
		return from
	}
	narrow := new(roll)
	for _, rec := range few {
		number := rec.age
		if from == &s.dead {
			number = rec.letter
		}
		if number > 0 {
			narrow.entries = append(narrow.entries, entry{number, rec})
		}
	}
	slices.SortFunc(narrow.entries, func(a, b entry) int { return cmp.Compare(a.number, b.number) })
	narrow.entries = slices.Compact(narrow.entries) // an ID may be given twice
	return narrow
}

// matcher returns a function that reports whether a record matches the filter. After and Before are about
// the time that at returns.
func (f Filter) matcher(at func(*record) time.Time) func(*record) bool {
	ids := make(map[string]bool, len(f.IDs))
	for _, id := range f.IDs {
		ids[id] = true
	}
	after := microTime(f.After)
	before := microTime(f.Before)
	message := rules.ErrorMessage(f.Error)
	return func(rec *record) bool {
		switch {
		case f.IDs != nil && !ids[rec.job.ID]:
			return false
		case f.Status != "" && f.Status != rec.job.Status:
			return false
		case f.Queue != "" && f.Queue != rec.job.Queue:
			return false
		case f.Task != "" && !isSameTask(f.Task, rec.job.Task):
			return false
		case f.Key != "" && f.Key != rec.job.Key:
			return false
		case !strings.HasPrefix(rec.job.Key, f.KeyPrefix):
			return false
		case !strings.Contains(rec.job.Error, f.Text):
			return false
		case f.Error != "" && rules.ErrorMessage(rec.job.Error) != message:
			return false
		case !after.IsZero() && at(rec).Before(after):
			return false
		case !before.IsZero() && !at(rec).Before(before):
			return false
		}
		return true
	}
}

func (r *record) createdAt() time.Time  { return r.job.CreatedAt }
func (r *record) finishedAt() time.Time { return r.job.FinishedAt }

// tend calls verb for the records of a roll that match, the oldest first, and counts those that it reports
// true for, up to the Limit of the filter. It handles a page under one hold of the lock, and leaves alone
// what is added to the roll meanwhile.
func (s *MemoryStorage) tend(
	ctx context.Context, from *roll, f Filter, matches func(*record) bool, verb func(*record) bool,
) (n int, err error) {
	var done, end int64 // numbers of the roll
	err = s.do(ctx, func() error {
		end = from.last
		return nil
	})
	if err != nil {
		return 0, err
	}
	err = s.inPages(ctx, func() (more bool) {
		page := s.narrowLocked(from, f).page(done, memoryPage)
		for _, e := range page {
			if e.number > end {
				return false
			}
			done = e.number
			if matches(e.rec) && verb(e.rec) {
				n++
			}
			if f.Limit > 0 && n == f.Limit {
				return false
			}
		}
		return len(page) > 0
	})
	return n, err
}

// tendDead is tend for the dead-letter queue.
func (s *MemoryStorage) tendDead(ctx context.Context, f Filter, verb func(*record) bool) (int, error) {
	f.Status = ""
	return s.tend(ctx, &s.dead, f, f.matcher((*record).finishedAt), verb)
}

// tendAll is tend for all jobs.
func (s *MemoryStorage) tendAll(ctx context.Context, f Filter, verb func(*record) bool) (int, error) {
	return s.tend(ctx, &s.all, f, f.matcher((*record).createdAt), verb)
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
	rec.job.Result = nil
	rec.job.Worker = ""
	rec.job.FinishedAt = time.Time{}
	rec.job.Reaped = 0
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

// Reschedule implements [Inspector].
func (s *MemoryStorage) Reschedule(ctx context.Context, f Filter, at time.Time) (int, error) {
	return s.tendAll(ctx, f, func(rec *record) bool {
		if rec.job.Status != StatusPending {
			return false
		}
		s.returnLocked(rec, at)
		return true
	})
}

// CancelWhere implements [Inspector].
func (s *MemoryStorage) CancelWhere(ctx context.Context, f Filter) (ended, asked int, err error) {
	_, err = s.tendAll(ctx, f, func(rec *record) bool {
		switch s.cancelOneLocked(rec) {
		case StatusFailed:
			ended++
			return true
		case StatusRunning:
			asked++
			return true
		}
		return false
	})
	return ended, asked, err
}

// PruneWhere implements [Inspector].
func (s *MemoryStorage) PruneWhere(ctx context.Context, f Filter) (int, error) {
	return s.tend(ctx, &s.all, f, f.matcher((*record).finishedAt), func(rec *record) bool {
		if rec.ranking != &s.finished {
			return false
		}
		s.deleteLocked(rec)
		return true
	})
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
			s.deleteLocked(rec)
			pruned++
		}
		return true
	})
	return pruned, err
}

// deleteLocked deletes a finished job.
func (s *MemoryStorage) deleteLocked(rec *record) {
	s.leaveLocked(rec)
	s.all.remove(rec.age)
	delete(s.jobs, rec.job.ID)
}

// Stats implements [Inspector].
func (s *MemoryStorage) Stats(ctx context.Context) (Stats, error) {
	var counter StatsCounter
	last := int64(0) // the number up to which s.all has been read
	err := s.inPages(ctx, func() (more bool) {
		page := s.all.page(last, memoryPage)
		for _, e := range page {
			last = e.number
			s.countOneLocked(&counter, &e.rec.job)
		}
		return len(page) > 0
	})
	if err != nil {
		return Stats{}, err
	}
	var deadLetters int
	var lastMinute [60]int
	err = s.do(ctx, func() error {
		s.ended.count(&counter, s.now)
		deadLetters = s.dead.len()
		lastMinute = s.recent.counts(s.now)
		return nil
	})
	if err != nil {
		return Stats{}, err
	}
	stats := counter.Stats() // not under the lock: there may be many names to sort
	stats.DeadLetters = deadLetters
	stats.LastMinute = lastMinute
	return stats, nil
}

// countOneLocked counts a job that waits or runs.
func (s *MemoryStorage) countOneLocked(counter *StatsCounter, job *Job) {
	var counts Counts
	switch job.Status {
	case StatusPending:
		counts.Pending = 1
		counts.Oldest = job.CreatedAt
		if !job.RunAt.After(s.now) {
			counts.Due = 1
			counts.OldestDue = job.RunAt
			if job.CreatedAt.After(job.RunAt) {
				counts.OldestDue = job.CreatedAt
			}
		}
	case StatusRunning:
		counts.Running = 1
		if !job.StartedAt.IsZero() {
			counts.Started = 1
		}
	default:
		return
	}
	counter.Add(job.Queue, job.Task, counts)
}

// History implements [Inspector].
func (s *MemoryStorage) History(ctx context.Context, since time.Time) (ends []Ends, err error) {
	err = s.do(ctx, func() error {
		s.ended.mergeOld(s.now)
		ends = s.ended.since(since)
		return nil
	})
	slices.SortFunc(ends, func(a, b Ends) int {
		return cmp.Or(a.At.Compare(b.At), cmp.Compare(a.Queue, b.Queue), cmp.Compare(a.Task, b.Task))
	})
	return ends, err
}

// ---- Limits ----

// SetLimit implements [Limiter].
func (s *MemoryStorage) SetLimit(ctx context.Context, queue string, max int) error {
	queue = cmp.Or(queue, defaultQueue)
	if err := checkLimited(queue); err != nil {
		return err
	}
	return s.do(ctx, func() error {
		if max < 0 {
			delete(s.limits, queue)
		} else {
			s.limits[queue] = min(max, rules.MostLimit)
		}
		s.wakeLocked()
		return nil
	})
}

// Limits implements [Limiter].
func (s *MemoryStorage) Limits(ctx context.Context) (limits map[string]int, err error) {
	err = s.do(ctx, func() error {
		limits = maps.Clone(s.limits)
		return nil
	})
	return limits, err
}

// ---- How many jobs ended, and when ----

const (
	historyPairs  = 1000          // pairs of queue and task that are counted in one period
	historyMerged = 2 * time.Hour // how old the minutes are that become hours
)

// history counts ends of jobs by period, and in a period by queue and task. A period is a minute, or an
// hour if it is older. The key is the Unix time at which it began.
type history map[int64]map[laneName]Ends

// add counts one end.
func (h *history) add(now time.Time, name laneName, status Status, took time.Duration) {
	end := Ends{Took: took}
	if status == StatusSuccess {
		end.Succeeded = 1
	} else {
		end.Failed = 1
	}
	h.addTo(now.Truncate(time.Minute), name, end)
}

// addTo adds ends to those of a period. Once the period has 1,000 pairs of queue and task, new pairs are
// added to the pair of other and other.
func (h *history) addTo(period time.Time, name laneName, more Ends) {
	if *h == nil {
		*h = make(history)
	}
	pairs := (*h)[period.Unix()]
	if pairs == nil {
		pairs = make(map[laneName]Ends)
		(*h)[period.Unix()] = pairs
	}
	ends, known := pairs[name]
	if !known && len(pairs) >= historyPairs {
		name = laneName{"other", "other"}
		ends = pairs[name]
	}
	ends.At = period
	ends.Queue = name.queue
	ends.Task = name.task
	ends.Succeeded += more.Succeeded
	ends.Failed += more.Failed
	ends.Took += more.Took
	pairs[name] = ends
}

// mergeOld adds old minutes to their hours and forgets very old hours.
func (h *history) mergeOld(now time.Time) {
	for _, start := range slices.Collect(maps.Keys(*h)) {
		period := time.Unix(start, 0).UTC()
		hour := period.Truncate(time.Hour)
		switch {
		case period.Before(now.Add(-rules.HistoryKept)):
			delete(*h, start)
		case period.Before(now.Add(-historyMerged)) && period != hour:
			for name, ends := range (*h)[start] {
				h.addTo(hour, name, ends)
			}
			delete(*h, start)
		}
	}
}

// since returns the ends of the periods from the minute of a time on, in no order.
func (h history) since(t time.Time) []Ends {
	var all []Ends
	for start, pairs := range h {
		if start >= t.Truncate(time.Minute).Unix() {
			all = slices.AppendSeq(all, maps.Values(pairs))
		}
	}
	return all
}

// count adds the ends of the last hour to a counter.
func (h history) count(counter *StatsCounter, now time.Time) {
	lastMinute := now.Truncate(time.Minute).Add(-time.Minute)
	for _, ends := range h.since(now.Add(-time.Hour)) {
		counts := Counts{SuccessHour: ends.Succeeded, FailedHour: ends.Failed}
		if !ends.At.Before(lastMinute) {
			counts.Minute = ends.Succeeded + ends.Failed
		}
		counter.Add(ends.Queue, ends.Task, counts)
	}
}

// lastMinute counts ends of jobs in each of the last 60 seconds.
type lastMinute struct {
	seconds [60]int // by Unix second modulo 60
	newest  int64   // the Unix second of the last count
}

// add counts one end.
func (l *lastMinute) add(now time.Time) {
	l.advance(now)
	l.seconds[l.newest%60]++
}

// advance clears the seconds that have passed since the last count. It does nothing if the clock was set
// back.
func (l *lastMinute) advance(now time.Time) {
	second := max(now.Unix(), l.newest)
	for range min(second-l.newest, 60) {
		l.newest++
		l.seconds[l.newest%60] = 0
	}
	l.newest = second
}

// counts returns the counts, the oldest second first.
func (l *lastMinute) counts(now time.Time) (counts [60]int) {
	l.advance(now)
	for i := range counts {
		counts[i] = l.seconds[(l.newest+1+int64(i))%60]
	}
	return counts
}

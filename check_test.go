package pinion

import (
	"context"
	"errors"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

func TestEveryStorageMeansTheSame(t *testing.T) {
	for _, storage := range []struct {
		name string
		open func() (Storage, error)
	}{
		{"memory", func() (Storage, error) { return NewMemoryStorage(), nil }},
		{"sqlite", func() (Storage, error) {
			return OpenSQLite(t.Context(), filepath.Join(t.TempDir(), "jobs.db"), nil)
		}},
		{"sqlite that polls", func() (Storage, error) {
			return OpenSQLite(t.Context(), filepath.Join(t.TempDir(), "jobs.db"), &SQLiteOptions{PollInterval: time.Millisecond})
		}},
	} {
		t.Run(storage.name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			if err := CheckStorage(ctx, storage.open); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestCheckStorageAsksForNoOptionalPower(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if err := CheckStorage(ctx, func() (Storage, error) { return neverAhead{plain{NewMemoryStorage()}}, nil }); err != nil {
		t.Error(err)
	}
}

func TestCheckStorageReportsThatItCouldNotOpenOrFinish(t *testing.T) {
	broken := errors.New("broken")
	if err := CheckStorage(t.Context(), func() (Storage, error) { return nil, broken }); !errors.Is(err, broken) {
		t.Errorf("open fails: got %v, want %v", err, broken)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	err := CheckStorage(ctx, func() (Storage, error) { return NewMemoryStorage(), nil })
	if !errors.Is(err, context.Canceled) {
		t.Errorf("ctx has ended: got %v, want %v", err, context.Canceled)
	}
}

// Each mutant is a MemoryStorage with one fault, named by its type.
type (
	withoutOrder   struct{ *MemoryStorage }
	onlyLastQueue  struct{ *MemoryStorage }
	halfBatch      struct{ *MemoryStorage }
	withoutKeys    struct{ *MemoryStorage }
	withoutDueTime struct{ *MemoryStorage }
	retryNow       struct{ *MemoryStorage }
	deafWaiter     struct {
		*MemoryStorage
		deadline func()
	}
	endedCtxClaims    struct{ *MemoryStorage }
	forgetsAttempt    struct{ *MemoryStorage }
	claimReused       struct{ *MemoryStorage }
	withoutWorker     struct{ *MemoryStorage }
	doneUnfenced      struct{ *MemoryStorage }
	deadUnfenced      struct{ *MemoryStorage }
	heartbeatUnfenced struct{ *MemoryStorage }
	lostFailsBatch    struct{ *MemoryStorage }
	reapsTheLiving    struct{ *MemoryStorage }
	reapsAllAtOnce    struct{ *MemoryStorage }
	aliasesArgs       struct {
		*MemoryStorage
		given *sync.Map // jobs by ID
	}
	nanoseconds      struct{ *MemoryStorage }
	claimsTwice      struct{ *MemoryStorage }
	openAfterClose   struct{ *MemoryStorage }
	releaseBurns     struct{ *MemoryStorage }
	prefetchAll      struct{ *MemoryStorage }
	cancelsDead      struct{ *MemoryStorage }
	cancelKeepsKey   struct{ *MemoryStorage }
	cancelTooLate    struct{ *MemoryStorage }
	cancelRetried    struct{ *MemoryStorage }
	cancelReaped     struct{ *MemoryStorage }
	cancelUnsaid     struct{ *MemoryStorage }
	canceledUnfenced struct{ *MemoryStorage }
	canceledAll      struct{ *MemoryStorage }
	forgetsResult    struct{ *MemoryStorage }
	withoutDLQ       struct{ *MemoryStorage }
	countsUnrun      struct{ *MemoryStorage }
	replaysAttempts  struct{ *MemoryStorage }
	replaysTakenKeys struct{ *MemoryStorage }
	prunesDead       struct{ *MemoryStorage }
	statsOfOneTask   struct{ *MemoryStorage }
)

func (s withoutOrder) Dequeue(ctx context.Context, opts DequeueOptions) ([]*Job, error) {
	jobs, err := s.MemoryStorage.Dequeue(ctx, opts)
	slices.Reverse(jobs)
	return jobs, err
}

func (s onlyLastQueue) Dequeue(ctx context.Context, opts DequeueOptions) ([]*Job, error) {
	opts.Queues = opts.Queues[max(len(opts.Queues)-1, 0):]
	return s.MemoryStorage.Dequeue(ctx, opts)
}

func (s halfBatch) Enqueue(ctx context.Context, jobs ...*Job) error {
	for _, job := range jobs {
		if err := s.MemoryStorage.Enqueue(ctx, job); err != nil {
			return err
		}
	}
	return nil
}

func (s withoutKeys) Enqueue(ctx context.Context, jobs ...*Job) error {
	for _, job := range jobs {
		key := job.Key
		job.Key = ""
		defer func() { job.Key = key }()
	}
	return s.MemoryStorage.Enqueue(ctx, jobs...)
}

func (s withoutDueTime) Enqueue(ctx context.Context, jobs ...*Job) error {
	for _, job := range jobs {
		job.RunAt = time.Time{}
	}
	return s.MemoryStorage.Enqueue(ctx, jobs...)
}

func (s retryNow) MarkFailed(ctx context.Context, job *Job, cause error, _ time.Time) error {
	return s.MemoryStorage.MarkFailed(ctx, job, cause, time.Time{})
}

// deafWaiter looks once and then waits for ctx alone. To save the test the time until the deadline, it passes now.
func (s deafWaiter) Dequeue(ctx context.Context, opts DequeueOptions) ([]*Job, error) {
	if opts.NoWait {
		return s.MemoryStorage.Dequeue(ctx, opts)
	}
	opts.NoWait = true
	jobs, err := s.MemoryStorage.Dequeue(ctx, opts)
	if len(jobs) == 0 && err == nil {
		s.deadline()
		<-ctx.Done()
		err = ctx.Err()
	}
	return jobs, err
}

func (s endedCtxClaims) Dequeue(ctx context.Context, opts DequeueOptions) ([]*Job, error) {
	if ctx.Err() != nil {
		ctx = context.WithoutCancel(ctx)
		opts.NoWait = true
	}
	return s.MemoryStorage.Dequeue(ctx, opts)
}

// dequeueChanged is Dequeue with change, which gets each record claimed and the job handed out for it.
func (s *MemoryStorage) dequeueChanged(
	ctx context.Context, opts DequeueOptions, change func(*record, *Job),
) ([]*Job, error) {
	jobs, err := s.Dequeue(ctx, opts)
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, job := range jobs {
		change(s.jobs[job.ID], job)
	}
	return jobs, err
}

func (s forgetsAttempt) Dequeue(ctx context.Context, opts DequeueOptions) ([]*Job, error) {
	return s.dequeueChanged(ctx, opts, func(rec *record, job *Job) {
		rec.attempts, job.Attempts = 1, 1
	})
}

func (s claimReused) Dequeue(ctx context.Context, opts DequeueOptions) ([]*Job, error) {
	return s.dequeueChanged(ctx, opts, func(rec *record, job *Job) { rec.claim, job.Claim = 1, 1 })
}

func (s withoutWorker) Dequeue(ctx context.Context, opts DequeueOptions) ([]*Job, error) {
	opts.Worker = ""
	return s.MemoryStorage.Dequeue(ctx, opts)
}

// current gives a job the claim that the storage knows, which is not to fence at all.
func (s *MemoryStorage) current(jobs []*Job) []*Job {
	s.mu.Lock()
	defer s.mu.Unlock()
	changed := make([]*Job, len(jobs))
	for i, job := range jobs {
		c := *job
		if rec := s.jobs[job.ID]; rec != nil {
			c.Claim, c.Attempts = rec.claim, rec.attempts
		}
		changed[i] = &c
	}
	return changed
}

func (s doneUnfenced) MarkDone(ctx context.Context, jobs ...*Job) ([]*Job, error) {
	return s.MemoryStorage.MarkDone(ctx, s.current(jobs)...)
}

func (s deadUnfenced) DeadLetter(ctx context.Context, job *Job, cause error) error {
	return s.MemoryStorage.DeadLetter(ctx, s.current([]*Job{job})[0], cause)
}

func (s heartbeatUnfenced) Heartbeat(ctx context.Context, jobs ...*Job) ([]*Job, error) {
	return s.MemoryStorage.Heartbeat(ctx, s.current(jobs)...)
}

func (s lostFailsBatch) MarkDone(ctx context.Context, jobs ...*Job) ([]*Job, error) {
	if lost, err := s.Heartbeat(ctx, jobs...); len(lost) > 0 || err != nil {
		return lost, err
	}
	return s.MemoryStorage.MarkDone(ctx, jobs...)
}

func (s reapsTheLiving) ReapStale(ctx context.Context, visibility time.Duration) (int, error) {
	return s.MemoryStorage.ReapStale(ctx, -time.Hour)
}

func (s reapsAllAtOnce) ReapStale(ctx context.Context, visibility time.Duration) (int, error) {
	s.mu.Lock()
	for _, rec := range s.running {
		rec.reaped = 0
	}
	s.mu.Unlock()
	return s.MemoryStorage.ReapStale(ctx, visibility)
}

func (s aliasesArgs) Enqueue(ctx context.Context, jobs ...*Job) error {
	err := s.MemoryStorage.Enqueue(ctx, jobs...)
	for _, job := range jobs {
		s.given.Store(job.ID, job)
	}
	return err
}

func (s aliasesArgs) Dequeue(ctx context.Context, opts DequeueOptions) ([]*Job, error) {
	return s.dequeueChanged(ctx, opts, func(_ *record, job *Job) {
		if given, ok := s.given.Load(job.ID); ok {
			args, kwargs, _ := given.(*Job).EncodeArgs()
			job.DecodeArgs(args, kwargs)
		}
	})
}

func (s nanoseconds) Dequeue(ctx context.Context, opts DequeueOptions) ([]*Job, error) {
	return s.dequeueChanged(ctx, opts, func(_ *record, job *Job) {
		job.HeartbeatAt = job.HeartbeatAt.Add(time.Nanosecond)
	})
}

// claimsTwice gives a job to a second caller, too, now and then.
func (s claimsTwice) Dequeue(ctx context.Context, opts DequeueOptions) ([]*Job, error) {
	jobs, err := s.MemoryStorage.Dequeue(ctx, opts)
	if len(jobs) == 7 {
		s.Release(context.WithoutCancel(ctx), time.Time{}, nil, jobs[6])
	}
	return jobs, err
}

func (s openAfterClose) Size(ctx context.Context) (int, error) {
	n, err := s.MemoryStorage.Size(ctx)
	if errors.Is(err, ErrClosed) {
		err = nil
	}
	return n, err
}

func (s releaseBurns) Release(ctx context.Context, at time.Time, cause error, jobs ...*Job) (lost, canceled []*Job, err error) {
	lost, canceled, err = s.MemoryStorage.Release(ctx, at, cause, jobs...)
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, job := range jobs {
		if err == nil && !slices.Contains(lost, job) && !slices.Contains(canceled, job) {
			s.jobs[job.ID].attempts++
		}
	}
	return lost, canceled, err
}

func (s prefetchAll) Dequeue(ctx context.Context, opts DequeueOptions) ([]*Job, error) {
	if opts.Ahead == opts.Max {
		opts.NoWait = true
	}
	opts.Ahead = 0
	return s.MemoryStorage.Dequeue(ctx, opts)
}

// unmarked lets f run while no job is marked as canceled.
func (s *MemoryStorage) unmarked(f func()) {
	s.mu.Lock()
	var marked []*record
	for _, rec := range s.running {
		if rec.canceled {
			rec.canceled, marked = false, append(marked, rec)
		}
	}
	s.mu.Unlock()
	f()
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, rec := range marked {
		rec.canceled = true
	}
}

func (s cancelsDead) Cancel(ctx context.Context, ids ...string) (ended, asked []string, err error) {
	ended, asked, err = s.MemoryStorage.Cancel(ctx, ids...)
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, id := range ended {
		s.finished.line = slices.DeleteFunc(s.finished.line, func(rec *record) bool { return rec.id == id })
		s.jobs[id].rank = s.nextLocked()
		s.dead = append(s.dead, s.jobs[id])
	}
	return ended, asked, err
}

func (s cancelKeepsKey) Cancel(ctx context.Context, ids ...string) (ended, asked []string, err error) {
	ended, asked, err = s.MemoryStorage.Cancel(ctx, ids...)
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, id := range ended {
		if rec := s.jobs[id]; rec.key != "" {
			s.holders[rec.key] = rec
		}
	}
	return ended, asked, err
}

// MarkDone of cancelTooLate takes no success of a job that was canceled.
func (s cancelTooLate) MarkDone(ctx context.Context, jobs ...*Job) (lost []*Job, err error) {
	canceled, err := s.Canceled(ctx, jobs...)
	if len(canceled) > 0 || err != nil {
		return canceled, err
	}
	return s.MemoryStorage.MarkDone(ctx, jobs...)
}

func (s cancelRetried) MarkFailed(ctx context.Context, job *Job, cause error, retryAt time.Time) (err error) {
	s.unmarked(func() { err = s.MemoryStorage.MarkFailed(ctx, job, cause, retryAt) })
	return err
}

func (s cancelReaped) ReapStale(ctx context.Context, visibility time.Duration) (n int, err error) {
	s.unmarked(func() { n, err = s.MemoryStorage.ReapStale(ctx, visibility) })
	return n, err
}

func (s cancelUnsaid) MarkFailed(ctx context.Context, job *Job, cause error, retryAt time.Time) error {
	err := s.MemoryStorage.MarkFailed(ctx, job, cause, retryAt)
	if errors.Is(err, ErrCanceled) {
		err = nil
	}
	return err
}

func (s canceledUnfenced) Canceled(ctx context.Context, jobs ...*Job) ([]*Job, error) {
	return s.MemoryStorage.Canceled(ctx, s.current(jobs)...)
}

func (s canceledAll) Canceled(ctx context.Context, jobs ...*Job) ([]*Job, error) {
	canceled, err := s.MemoryStorage.Canceled(ctx, jobs...)
	if len(canceled) > 0 {
		canceled = jobs
	}
	return canceled, err
}

func (s forgetsResult) MarkDone(ctx context.Context, jobs ...*Job) ([]*Job, error) {
	for _, job := range jobs {
		job.Result = nil
	}
	return s.MemoryStorage.MarkDone(ctx, jobs...)
}

func (s withoutDLQ) DeadLetter(ctx context.Context, job *Job, cause error) error {
	if err := s.MemoryStorage.DeadLetter(ctx, job, cause); err != nil {
		return err
	}
	_, err := s.Purge(ctx, Filter{IDs: []string{job.ID}})
	return err
}

func (s countsUnrun) DeadLetter(ctx context.Context, job *Job, cause error) error {
	return s.MemoryStorage.DeadLetter(ctx, job, errors.New(cause.Error()))
}

// replayChanged is Replay with before and after, which get each dead letter.
func (s *MemoryStorage) replayChanged(ctx context.Context, f Filter, before, after func(*record)) (int, error) {
	s.mu.Lock()
	dead := slices.Clone(s.dead)
	for _, rec := range dead {
		before(rec)
	}
	s.mu.Unlock()
	n, err := s.Replay(ctx, f)
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, rec := range dead {
		after(rec)
	}
	return n, err
}

func (s replaysAttempts) Replay(ctx context.Context, f Filter) (int, error) {
	return s.replayChanged(ctx, f, func(*record) {}, func(rec *record) { rec.attempts = 2 })
}

func (s replaysTakenKeys) Replay(ctx context.Context, f Filter) (int, error) {
	return s.replayChanged(ctx, f, func(rec *record) { delete(s.holders, rec.key) }, func(*record) {})
}

func (s prunesDead) Prune(ctx context.Context, before time.Time) (int, error) {
	if _, err := s.Purge(ctx, Filter{}); err != nil {
		return 0, err
	}
	return s.MemoryStorage.Prune(ctx, before)
}

func (s statsOfOneTask) Stats(ctx context.Context) (Stats, error) {
	stats, err := s.MemoryStorage.Stats(ctx)
	if len(stats.Tasks) > 1 {
		stats.Tasks = []TaskStats{{stats.Tasks[0].Task, stats.Total}}
	}
	return stats, err
}

func TestCheckStorageFindsEachMutant(t *testing.T) {
	for _, mutant := range []struct {
		name   string
		mutate func(*MemoryStorage) Storage
		rule   string
	}{
		{"loses order", func(m *MemoryStorage) Storage { return withoutOrder{m} }, "in the order of priority"},
		{"takes from one queue", func(m *MemoryStorage) Storage { return onlyLastQueue{m} }, "as if they were one"},
		{"stores half a batch", func(m *MemoryStorage) Storage { return halfBatch{m} }, "all the jobs or none"},
		{"ignores keys", func(m *MemoryStorage) Storage { return withoutKeys{m} }, "held by one job"},
		{"ignores a due time", func(m *MemoryStorage) Storage { return withoutDueTime{m} }, "before its due time"},
		{"ignores a retry's due time", func(m *MemoryStorage) Storage { return retryNow{m} }, "before its due time"},
		{"claims with a ctx that has ended", func(m *MemoryStorage) Storage { return endedCtxClaims{m} }, "a ctx that has ended"},
		{"forgets an attempt", func(m *MemoryStorage) Storage { return forgetsAttempt{m} }, "counted at the claim"},
		{"reuses a claim", func(m *MemoryStorage) Storage { return claimReused{m} }, "larger than the last"},
		{"asks for no worker's name", func(m *MemoryStorage) Storage { return withoutWorker{m} }, "the name of its worker"},
		{"fences no MarkDone", func(m *MemoryStorage) Storage { return doneUnfenced{m} }, "lost claim"},
		{"fences no DeadLetter", func(m *MemoryStorage) Storage { return deadUnfenced{m} }, "lost claim"},
		{"fences no Heartbeat", func(m *MemoryStorage) Storage { return heartbeatUnfenced{m} }, "lost claim"},
		{"fails a batch for one lost job", func(m *MemoryStorage) Storage { return lostFailsBatch{m} }, "lost claim"},
		{"reaps the living", func(m *MemoryStorage) Storage { return reapsTheLiving{m} }, "and no others"},
		{"reaps all at once", func(m *MemoryStorage) Storage { return reapsAllAtOnce{m} }, "within Attempts × visibility"},
		{"aliases arguments", func(m *MemoryStorage) Storage { return aliasesArgs{m, new(sync.Map)} }, "encoded at Enqueue"},
		{"keeps nanoseconds", func(m *MemoryStorage) Storage { return nanoseconds{m} }, "with microseconds"},
		{"claims a job twice", func(m *MemoryStorage) Storage { return claimsTwice{m} }, "never claim a job twice"},
		{"serves after Close", func(m *MemoryStorage) Storage { return openAfterClose{m} }, "after Close"},
		{"burns a released attempt", func(m *MemoryStorage) Storage { return releaseBurns{m} }, "refunds the attempt"},
		{"prefetches everything", func(m *MemoryStorage) Storage { return prefetchAll{m} }, "claimed before"},
		{"makes a dead letter of a canceled job", func(m *MemoryStorage) Storage { return cancelsDead{m} }, "without a dead letter"},
		{"keeps the key of a canceled job", func(m *MemoryStorage) Storage { return cancelKeepsKey{m} }, "and frees its Key"},
		{"refuses the success of a canceled job", func(m *MemoryStorage) Storage { return cancelTooLate{m} }, "MarkDone comes first"},
		{"retries a canceled job", func(m *MemoryStorage) Storage { return cancelRetried{m} }, "ends when its claim does"},
		{"reaps a canceled job to run again", func(m *MemoryStorage) Storage { return cancelReaped{m} }, "ends when its claim does"},
		{"does not say that it was canceled", func(m *MemoryStorage) Storage { return cancelUnsaid{m} }, "ends when its claim does"},
		{"fences no Canceled", func(m *MemoryStorage) Storage { return canceledUnfenced{m} }, "Canceled names the claimed jobs"},
		{"names too many as canceled", func(m *MemoryStorage) Storage { return canceledAll{m} }, "Canceled names the claimed jobs"},
		{"forgets results", func(m *MemoryStorage) Storage { return forgetsResult{m} }, "every step of its life"},
		{"writes no dead letter", func(m *MemoryStorage) Storage { return withoutDLQ{m} }, "a dead letter keeps the job"},
		{"counts what was not run", func(m *MemoryStorage) Storage { return countsUnrun{m} }, "a dead letter keeps the job"},
		{"replays with old attempts", func(m *MemoryStorage) Storage { return replaysAttempts{m} }, "with no attempts"},
		{"replays a taken key", func(m *MemoryStorage) Storage { return replaysTakenKeys{m} }, "whose Key is taken"},
		{"counts all tasks as one", func(m *MemoryStorage) Storage { return statsOfOneTask{m} }, "by queue and task"},
		{"prunes dead letters", func(m *MemoryStorage) Storage { return prunesDead{m} }, "and dead letters"},
	} {
		t.Run(mutant.name, func(t *testing.T) {
			t.Parallel()
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			var err error
			for tries := 0; err == nil && tries < 5; tries++ { // a busy machine may be too late to see a wrong time
				err = CheckStorage(ctx, func() (Storage, error) { return mutant.mutate(NewMemoryStorage()), nil })
			}
			if err == nil {
				t.Fatal("CheckStorage found nothing wrong")
			}
			if !strings.Contains(err.Error(), mutant.rule) {
				t.Errorf("CheckStorage reports another rule than %q:\n%v", mutant.rule, err)
			}
		})
	}
}

func TestCheckStorageFindsALostWakeUpAtItsDeadline(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	err := CheckStorage(ctx, func() (Storage, error) { return deafWaiter{NewMemoryStorage(), cancel}, nil })
	if err == nil || !strings.Contains(err.Error(), "is woken by") {
		t.Errorf("CheckStorage reports no lost wake-up: %v", err)
	}
}

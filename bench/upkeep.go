package main

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pinion-queue/pinion"
)

// The workloads in this file are about Pinion alone: what many queues, long listings and the verbs that tend a
// queue cost everybody else.

// storageOf returns the storage behind the queue of a Pinion peer.
func storageOf(q queue) pinion.Storage {
	return q.(interface{ pinionStorage() pinion.Storage }).pinionStorage()
}

func (q *pinionQueue) pinionStorage() pinion.Storage { return q.storage }

// ---- Many queues ----

// manyQueues measures claims and a drain of s.n jobs, spread over some queues.
func manyQueues(queues int) func(ctx context.Context, s *stage) ([]measured, error) {
	return func(ctx context.Context, s *stage) ([]measured, error) {
		storage := storageOf(s.queue)
		if err := enqueueOver(ctx, storage, min(queues, s.n), s.n); err != nil {
			return nil, err
		}
		t := newTally(s.n)
		start := time.Now()
		stop, err := s.queue.work(ctx, slots, t.run)
		if err != nil {
			return nil, err
		}
		err = untilSettled(ctx, s.queue, t, s.n)
		took := time.Since(start)
		if err := errors.Join(err, stop(), t.check(s.n)); err != nil {
			return nil, err
		}
		// For claims other jobs: one that was claimed before is not claimed ahead, which makes a drain slow.
		if err := enqueueOver(ctx, storage, min(queues, s.n), s.n); err != nil {
			return nil, err
		}
		one, err := longestClaim(ctx, storage, 1)
		if err != nil {
			return nil, err
		}
		thousand, err := longestClaim(ctx, storage, 1000)
		if err != nil {
			return nil, err
		}
		return []measured{
			milliseconds(s.name+" longest claim of 1", one), milliseconds(s.name+" longest claim of 1000", thousand),
			rate(s.name, s.n, took),
		}, nil
	}
}

// enqueueOver enqueues n jobs, each in the next queue.
func enqueueOver(ctx context.Context, storage pinion.Storage, queues, n int) error {
	for first := 0; first < n; first += 1000 {
		var jobs []*pinion.Job
		for number := first; number < min(first+1000, n); number++ {
			job := pinion.NewJob("task", payload(number))
			job.Queue = fmt.Sprint("queue ", number%queues)
			jobs = append(jobs, job)
		}
		if err := storage.Enqueue(ctx, jobs...); err != nil {
			return err
		}
	}
	return nil
}

// longestClaim returns how long the longest of some claims takes. The jobs go back.
func longestClaim(ctx context.Context, storage pinion.Storage, most int) (longest time.Duration, err error) {
	for range 10 {
		start := time.Now()
		jobs, err := storage.Dequeue(ctx, pinion.DequeueOptions{Max: most, NoWait: true})
		longest = max(longest, time.Since(start))
		if err == nil {
			_, _, err = storage.Release(ctx, time.Time{}, nil, jobs...)
		}
		if err != nil {
			return 0, err
		}
	}
	return longest, nil
}

// ---- Stats ----

// statsTime measures how long Stats takes.
func statsTime(ctx context.Context, s *stage) ([]measured, error) {
	in := storageOf(s.queue).(pinion.Inspector)
	var took []time.Duration
	for range 5 {
		start := time.Now()
		if _, err := in.Stats(ctx); err != nil {
			return nil, err
		}
		took = append(took, time.Since(start))
	}
	return []measured{milliseconds(s.name, percentile(took, 0.5))}, nil
}

// manyNames is a queue whose jobs all have different tasks and queues.
func manyNames(n int) *content {
	return &content{"names", func(ctx context.Context, q queue, count func(int) int) error {
		for first := 0; first < count(n); first += 1000 {
			var jobs []*pinion.Job
			for number := first; number < min(first+1000, count(n)); number++ {
				jobs = append(jobs, &pinion.Job{Task: fmt.Sprint("task ", number), Queue: fmt.Sprint("queue ", number)})
			}
			if err := storageOf(q).Enqueue(ctx, jobs...); err != nil {
				return err
			}
		}
		return nil
	}}
}

// ---- Locks ----

// locks measures the longest Enqueue of a producer beside each verb that handles s.n jobs in one call: that is
// the longest time for which the verb keeps everybody waiting. Then it measures the longest heartbeat beside
// listings.
func locks(ctx context.Context, s *stage) ([]measured, error) {
	u := &upkeep{stage: s, storage: storageOf(s.queue)}
	u.in = u.storage.(pinion.Inspector)
	all := pinion.Filter{Queue: upkeepQueue}
	steps := []struct {
		name string // empty: it only prepares
		run  func() (int, error)
	}{
		{"", u.fill},
		{"reschedule", func() (int, error) { return u.in.Reschedule(ctx, all, time.Now().Add(time.Hour)) }},
		{"cancel", func() (int, error) { ended, _, err := u.in.CancelWhere(ctx, all); return ended, err }},
		{"prune-where", func() (int, error) { return u.in.PruneWhere(ctx, all) }},
		{"", u.fill},
		{"", u.bury},
		{"replay", func() (int, error) { return u.in.Replay(ctx, all) }},
		{"", u.bury},
		{"purge", func() (int, error) { return u.in.Purge(ctx, all) }},
		{"prune", func() (int, error) { return u.in.Prune(ctx, time.Now()) }},
	}
	u.ctx = ctx
	var figures []measured
	for _, step := range steps {
		if step.name == "" {
			if _, err := step.run(); err != nil {
				return nil, err
			}
			continue
		}
		longest, err := u.longestEnqueue(step.run)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", step.name, err)
		}
		figures = append(figures, milliseconds(s.name+" "+step.name, longest))
	}
	longest, err := u.longestHeartbeat()
	return append(figures, milliseconds(s.name+" heartbeat beside listings", longest)), err
}

const (
	upkeepQueue = "upkeep"
	upkeepHands = 64 // goroutines that bury jobs, or list them
)

// upkeep is what locks works with.
type upkeep struct {
	*stage
	ctx     context.Context // of locks, which outlives every use
	storage pinion.Storage
	in      pinion.Inspector
}

// fill enqueues the jobs that the verbs handle.
func (u *upkeep) fill() (int, error) {
	for left := u.n; left > 0; left -= 1000 {
		var jobs []*pinion.Job
		for range min(left, 1000) {
			jobs = append(jobs, &pinion.Job{Task: "task", Queue: upkeepQueue})
		}
		if err := u.storage.Enqueue(u.ctx, jobs...); err != nil {
			return 0, err
		}
	}
	return u.n, nil
}

// bury makes all of them dead letters.
func (u *upkeep) bury() (int, error) {
	cause := errors.New("buried by the benchmark")
	var buried atomic.Int64
	errs := make([]error, upkeepHands)
	var hands sync.WaitGroup
	for i := range errs {
		hands.Go(func() {
			opts := pinion.DequeueOptions{Max: 100, Queues: []string{upkeepQueue}, Lease: time.Hour, NoWait: true}
			for errs[i] == nil {
				jobs, err := u.storage.Dequeue(u.ctx, opts)
				if len(jobs) == 0 {
					errs[i] = err
					return
				}
				for _, job := range jobs {
					errs[i] = errors.Join(errs[i], u.storage.DeadLetter(u.ctx, job, cause))
				}
				buried.Add(int64(len(jobs)))
			}
		})
	}
	hands.Wait()
	return int(buried.Load()), errors.Join(errs...)
}

// longestEnqueue runs a verb, which must handle all jobs, and returns the longest call of a producer meanwhile.
func (u *upkeep) longestEnqueue(verb func() (int, error)) (longest time.Duration, err error) {
	stop, stopped := make(chan struct{}), make(chan error)
	go func() {
		for {
			start := time.Now()
			err := u.storage.Enqueue(u.ctx, &pinion.Job{Task: "probe", Queue: "probe"})
			longest = max(longest, time.Since(start))
			select {
			case <-stop:
				stopped <- err
				return
			default:
			}
			if err != nil {
				<-stop
				stopped <- err
				return
			}
		}
	}()
	handled, err := verb()
	close(stop)
	err = errors.Join(err, <-stopped)
	if err == nil && handled < u.n {
		err = fmt.Errorf("it handled %d jobs of %d", handled, u.n)
	}
	return longest, err
}

// longestHeartbeat returns the longest call of Heartbeat or Canceled while many listings find nothing.
func (u *upkeep) longestHeartbeat() (longest time.Duration, err error) {
	if _, err := u.fill(); err != nil {
		return 0, err
	}
	jobs, err := u.storage.Dequeue(u.ctx,
		pinion.DequeueOptions{Max: slots, Queues: []string{upkeepQueue}, Lease: time.Minute, NoWait: true})
	if err != nil {
		return 0, err
	}
	ctx, stop := context.WithCancel(u.ctx)
	var listings sync.WaitGroup
	for range upkeepHands {
		listings.Go(func() {
			for ctx.Err() == nil {
				for range u.in.Jobs(ctx, pinion.Filter{Text: "no such error"}) {
				}
			}
		})
	}
	for start := time.Now(); time.Since(start) < u.long(5*time.Second) && err == nil; {
		began := time.Now()
		var lost []*pinion.Job
		lost, err = u.storage.Heartbeat(ctx, jobs...)
		if err == nil && len(lost) > 0 {
			err = fmt.Errorf("%d of %d claims were lost", len(lost), len(jobs))
		}
		if err == nil {
			_, err = u.storage.(pinion.Canceler).Canceled(ctx, jobs...)
		}
		longest = max(longest, time.Since(began))
		time.Sleep(5 * time.Millisecond)
	}
	stop()
	listings.Wait()
	return longest, err
}

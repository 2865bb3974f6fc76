package main

import (
	"context"
	"errors"
	"fmt"
	"math/bits"
	"sync"
	"sync/atomic"
)

// tally counts which jobs have run: each must, once. It is a bit a job, so that a million of them do not show in
// the memory that is measured.
type tally struct {
	seen    []atomic.Uint64
	ran     atomic.Int64 // runs, of all kinds
	again   atomic.Int64 // runs of jobs that had run before
	strange atomic.Int64 // runs of jobs that were not enqueued

	mu      sync.Mutex // guards reached
	reached map[int64]chan struct{}
	waited  atomic.Bool // reached is not empty
}

// newTally is for jobs with numbers up to, not including, n.
func newTally(n int) *tally {
	return &tally{seen: make([]atomic.Uint64, (n+63)/64), reached: make(map[int64]chan struct{})}
}

// run is the task of most workloads. A job without a payload has no number and is only counted.
func (t *tally) run(payload string) { t.stamped(payload) }

// stamped counts and returns when the job's enqueueing began.
func (t *tally) stamped(payload string) (at int64) {
	if payload != "" {
		number, stamp, err := parse(payload)
		if err != nil || number < 0 || number >= 64*len(t.seen) {
			t.strange.Add(1)
		} else if bit := uint64(1) << (number % 64); t.seen[number/64].Or(bit)&bit != 0 {
			t.again.Add(1)
		}
		at = stamp
	}
	if ran := t.ran.Add(1); t.waited.Load() {
		t.mu.Lock()
		if done := t.reached[ran]; done != nil {
			close(done)
			delete(t.reached, ran)
		}
		t.mu.Unlock()
	}
	return at
}

// await waits until jobs have run n times. One goroutine may wait at a time.
func (t *tally) await(ctx context.Context, n int) error {
	done := make(chan struct{})
	t.mu.Lock()
	t.reached[int64(n)] = done
	t.waited.Store(true)
	t.mu.Unlock()
	// Those that ran before they could know of done.
	if t.ran.Load() >= int64(n) {
		return nil
	}
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("gave up when %d of %d jobs had run", t.ran.Load(), n)
	}
}

// check returns an error unless the jobs from 0 to n have run, each once, and no others.
func (t *tally) check(n int) error {
	return errors.Join(t.checkOnce(), func() error {
		if ran := t.ran.Load(); ran != int64(n) {
			return fmt.Errorf("jobs ran %d times, %d were enqueued", ran, n)
		}
		return nil
	}())
}

// checkOnce is for where it does not matter how many have run.
func (t *tally) checkOnce() error {
	if again, strange := t.again.Load(), t.strange.Load(); again+strange > 0 {
		return fmt.Errorf("%d runs of jobs that had run before, %d of jobs that nobody enqueued", again, strange)
	}
	return nil
}

// record is a tally on its way from another process.
type record struct {
	Seen           []uint64
	Again, Strange int64
}

func (t *tally) record() record {
	r := record{make([]uint64, len(t.seen)), t.again.Load(), t.strange.Load()}
	for i := range t.seen {
		r.Seen[i] = t.seen[i].Load()
	}
	return r
}

// add takes in what another process has run.
func (t *tally) add(r record) {
	t.again.Add(r.Again)
	t.strange.Add(r.Strange)
	for i, theirs := range r.Seen {
		ours := t.seen[i].Or(theirs)
		t.again.Add(int64(bits.OnesCount64(ours & theirs)))
		t.ran.Add(int64(bits.OnesCount64(theirs)))
	}
	t.ran.Add(r.Again + r.Strange)
}

package crashlab

import (
	"context"
	"errors"
	"iter"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/pinion-queue/pinion"
)

// Tended is what both of Pinion's storages are.
type Tended interface {
	pinion.Storage
	pinion.Inspector
}

// ErrFlaky is what the methods of a Flaky return when they fail.
var ErrFlaky = errors.New("crashlab: the storage fails, as it does now and then")

// Flaky is a storage whose every method fails at random: before its work is done, or after, when only the answer is lost,
// as when the network or the power fails at the wrong moment.
type Flaky struct {
	storage Tended
	rate    float64

	mu     sync.Mutex // guards the rest
	random *rand.Rand
	failed int // calls
}

var _ Tended = (*Flaky)(nil)

// NewFlaky wraps a storage, of which a share of the calls then fails: rate, between 0 and 1.
func NewFlaky(storage Tended, rate float64, seed uint64) *Flaky {
	return &Flaky{storage: storage, rate: rate, random: rand.New(rand.NewPCG(seed, 0))}
}

// Failed counts the calls that failed.
func (f *Flaky) Failed() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.failed
}

// toss decides how a call goes.
func (f *Flaky) toss() (before, after bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.random.Float64() >= f.rate {
		return false, false
	}
	f.failed++
	before = f.random.IntN(2) == 0
	return before, !before
}

// try makes a call that returns a value.
func try[T any](f *Flaky, call func() (T, error)) (answer T, err error) {
	var none T
	before, after := f.toss()
	if before {
		return none, ErrFlaky
	}
	if answer, err = call(); after && err == nil {
		return none, ErrFlaky
	}
	return answer, err
}

// do makes a call that returns none.
func (f *Flaky) do(call func() error) error {
	_, err := try(f, func() (struct{}, error) { return struct{}{}, call() })
	return err
}

// list is a listing that may break off anywhere.
func (f *Flaky) list(jobs iter.Seq2[*pinion.Job, error]) iter.Seq2[*pinion.Job, error] {
	return func(yield func(*pinion.Job, error) bool) {
		for job, err := range jobs {
			if before, after := f.toss(); err == nil && (before || after) {
				yield(nil, ErrFlaky)
				return
			}
			if !yield(job, err) {
				return
			}
		}
	}
}

// Enqueue may have stored jobs whose error it returns: ask again with the same IDs, until it is nil or ErrDuplicate.
func (f *Flaky) Enqueue(ctx context.Context, jobs ...*pinion.Job) error {
	return f.do(func() error { return f.storage.Enqueue(ctx, jobs...) })
}

func (f *Flaky) Dequeue(ctx context.Context, opts pinion.DequeueOptions) ([]*pinion.Job, error) {
	return try(f, func() ([]*pinion.Job, error) { return f.storage.Dequeue(ctx, opts) })
}

func (f *Flaky) MarkDone(ctx context.Context, jobs ...*pinion.Job) ([]*pinion.Job, error) {
	return try(f, func() ([]*pinion.Job, error) { return f.storage.MarkDone(ctx, jobs...) })
}

func (f *Flaky) MarkFailed(ctx context.Context, job *pinion.Job, cause error, retryAt time.Time) error {
	return f.do(func() error { return f.storage.MarkFailed(ctx, job, cause, retryAt) })
}

func (f *Flaky) DeadLetter(ctx context.Context, job *pinion.Job, cause error) error {
	return f.do(func() error { return f.storage.DeadLetter(ctx, job, cause) })
}

func (f *Flaky) Heartbeat(ctx context.Context, jobs ...*pinion.Job) ([]*pinion.Job, error) {
	return try(f, func() ([]*pinion.Job, error) { return f.storage.Heartbeat(ctx, jobs...) })
}

func (f *Flaky) Release(ctx context.Context, at time.Time, cause error, jobs ...*pinion.Job) (lost, canceled []*pinion.Job, err error) {
	err = f.do(func() (err error) {
		lost, canceled, err = f.storage.Release(ctx, at, cause, jobs...)
		return err
	})
	return lost, canceled, err
}

func (f *Flaky) ReapStale(ctx context.Context, visibility time.Duration) (int, error) {
	return try(f, func() (int, error) { return f.storage.ReapStale(ctx, visibility) })
}

func (f *Flaky) Size(ctx context.Context) (int, error) {
	return try(f, func() (int, error) { return f.storage.Size(ctx) })
}

func (f *Flaky) Stats(ctx context.Context) (pinion.Stats, error) {
	return try(f, func() (pinion.Stats, error) { return f.storage.Stats(ctx) })
}

func (f *Flaky) Get(ctx context.Context, id string) (*pinion.Job, error) {
	return try(f, func() (*pinion.Job, error) { return f.storage.Get(ctx, id) })
}

func (f *Flaky) Jobs(ctx context.Context, filter pinion.Filter) iter.Seq2[*pinion.Job, error] {
	return f.list(f.storage.Jobs(ctx, filter))
}

func (f *Flaky) DeadLetters(ctx context.Context, filter pinion.Filter) iter.Seq2[*pinion.Job, error] {
	return f.list(f.storage.DeadLetters(ctx, filter))
}

func (f *Flaky) Replay(ctx context.Context, filter pinion.Filter) (int, error) {
	return try(f, func() (int, error) { return f.storage.Replay(ctx, filter) })
}

func (f *Flaky) Purge(ctx context.Context, filter pinion.Filter) (int, error) {
	return try(f, func() (int, error) { return f.storage.Purge(ctx, filter) })
}

func (f *Flaky) Prune(ctx context.Context, before time.Time) (int, error) {
	return try(f, func() (int, error) { return f.storage.Prune(ctx, before) })
}

// Close closes the storage in any case.
func (f *Flaky) Close() error {
	err := f.storage.Close()
	if before, after := f.toss(); err == nil && (before || after) {
		return ErrFlaky
	}
	return err
}

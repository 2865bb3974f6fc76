package crashlab

import (
	"context"
	"errors"
	"iter"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/pinion-queue/pinion"
)

// ErrFlaky is the error of a Flaky's calls that fail.
var ErrFlaky = errors.New("crashlab: this call fails at random")

// Flaky is a storage whose calls fail at random. Half of the failures come before the call has done anything.
// The other half come after it, so that only the answer is lost, as when a network fails at the wrong moment.
type Flaky struct {
	storage Storage
	rate    float64

	mu     sync.Mutex // guards random and failed
	random *rand.Rand
	failed int
}

var _ Storage = (*Flaky)(nil)

// NewFlaky wraps a storage. Rate is the share of the calls that fail, between 0 and 1.
func NewFlaky(storage Storage, rate float64, seed uint64) *Flaky {
	return &Flaky{storage: storage, rate: rate, random: rand.New(rand.NewPCG(seed, 0))}
}

// Failed returns how many calls have failed.
func (f *Flaky) Failed() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.failed
}

// chance decides whether a call fails, and whether it does so before or after it has done its work.
func (f *Flaky) chance() (failBefore, failAfter bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.random.Float64() >= f.rate {
		return false, false
	}
	f.failed++
	failBefore = f.random.IntN(2) == 0
	return failBefore, !failBefore
}

// callFor makes a call that returns a value, unless chance lets it fail.
func callFor[T any](f *Flaky, do func() (T, error)) (T, error) {
	var none T
	failBefore, failAfter := f.chance()
	if failBefore {
		return none, ErrFlaky
	}
	value, err := do()
	if err == nil && failAfter {
		return none, ErrFlaky
	}
	return value, err
}

// call makes a call that returns only an error, unless chance lets it fail.
func (f *Flaky) call(do func() error) error {
	_, err := callFor(f, func() (struct{}, error) { return struct{}{}, do() })
	return err
}

// listing lists jobs. Chance lets it fail at any job.
func (f *Flaky) listing(jobs iter.Seq2[*pinion.Job, error]) iter.Seq2[*pinion.Job, error] {
	return func(yield func(*pinion.Job, error) bool) {
		for job, err := range jobs {
			failBefore, failAfter := f.chance()
			if err == nil && (failBefore || failAfter) {
				yield(nil, ErrFlaky)
				return
			}
			if !yield(job, err) {
				return
			}
		}
	}
}

// Enqueue may store the jobs and still return ErrFlaky. The caller can repeat the call with the same IDs
// until it returns nil or pinion.ErrDuplicate.
func (f *Flaky) Enqueue(ctx context.Context, jobs ...*pinion.Job) error {
	return f.call(func() error { return f.storage.Enqueue(ctx, jobs...) })
}

// Dequeue may fail after it has claimed jobs, so that nobody knows of these claims. Chance must not lose all the leases
// that a job may lose in a row: a worker would rightly give it up.
func (f *Flaky) Dequeue(ctx context.Context, opts pinion.DequeueOptions) ([]*pinion.Job, error) {
	failBefore, failAfter := f.chance()
	if failBefore {
		return nil, ErrFlaky
	}
	jobs, err := f.storage.Dequeue(ctx, opts)
	if err == nil && failAfter && !slices.ContainsFunc(jobs, hasOneLeaseLeft) {
		return nil, ErrFlaky
	}
	return jobs, err
}

// hasOneLeaseLeft reports whether a worker gives a job up when it loses one more lease: the fifth in a row.
func hasOneLeaseLeft(job *pinion.Job) bool { return job.Reaped >= 4 }

func (f *Flaky) MarkDone(ctx context.Context, jobs ...*pinion.Job) ([]*pinion.Job, error) {
	return callFor(f, func() ([]*pinion.Job, error) { return f.storage.MarkDone(ctx, jobs...) })
}

func (f *Flaky) MarkFailed(ctx context.Context, job *pinion.Job, cause error, retryAt time.Time) error {
	return f.call(func() error { return f.storage.MarkFailed(ctx, job, cause, retryAt) })
}

func (f *Flaky) DeadLetter(ctx context.Context, job *pinion.Job, cause error) error {
	return f.call(func() error { return f.storage.DeadLetter(ctx, job, cause) })
}

func (f *Flaky) Heartbeat(ctx context.Context, jobs ...*pinion.Job) ([]*pinion.Job, error) {
	return callFor(f, func() ([]*pinion.Job, error) { return f.storage.Heartbeat(ctx, jobs...) })
}

func (f *Flaky) Release(
	ctx context.Context, at time.Time, cause error, jobs ...*pinion.Job,
) (lost, canceled []*pinion.Job, err error) {
	err = f.call(func() (err error) {
		lost, canceled, err = f.storage.Release(ctx, at, cause, jobs...)
		return err
	})
	if err != nil {
		return nil, nil, err
	}
	return lost, canceled, nil
}

func (f *Flaky) ReapStale(ctx context.Context, visibility time.Duration) (int, error) {
	return callFor(f, func() (int, error) { return f.storage.ReapStale(ctx, visibility) })
}

func (f *Flaky) Size(ctx context.Context) (int, error) {
	return callFor(f, func() (int, error) { return f.storage.Size(ctx) })
}

func (f *Flaky) Cancel(ctx context.Context, ids ...string) (ended, asked []string, err error) {
	type answer struct{ ended, asked []string }
	a, err := callFor(f, func() (a answer, err error) {
		a.ended, a.asked, err = f.storage.Cancel(ctx, ids...)
		return a, err
	})
	return a.ended, a.asked, err
}

func (f *Flaky) Canceled(ctx context.Context, jobs ...*pinion.Job) ([]*pinion.Job, error) {
	return callFor(f, func() ([]*pinion.Job, error) { return f.storage.Canceled(ctx, jobs...) })
}

func (f *Flaky) Stats(ctx context.Context) (pinion.Stats, error) {
	return callFor(f, func() (pinion.Stats, error) { return f.storage.Stats(ctx) })
}

func (f *Flaky) Get(ctx context.Context, id string) (*pinion.Job, error) {
	return callFor(f, func() (*pinion.Job, error) { return f.storage.Get(ctx, id) })
}

func (f *Flaky) Jobs(ctx context.Context, filter pinion.Filter) iter.Seq2[*pinion.Job, error] {
	return f.listing(f.storage.Jobs(ctx, filter))
}

func (f *Flaky) DeadLetters(ctx context.Context, filter pinion.Filter) iter.Seq2[*pinion.Job, error] {
	return f.listing(f.storage.DeadLetters(ctx, filter))
}

func (f *Flaky) JobsPage(ctx context.Context, filter pinion.Filter, from int64) (pinion.Page, error) {
	return callFor(f, func() (pinion.Page, error) { return f.storage.JobsPage(ctx, filter, from) })
}

func (f *Flaky) DeadLettersPage(ctx context.Context, filter pinion.Filter, from int64) (pinion.Page, error) {
	return callFor(f, func() (pinion.Page, error) { return f.storage.DeadLettersPage(ctx, filter, from) })
}

func (f *Flaky) GroupDeadLetters(ctx context.Context, filter pinion.Filter, look int) (pinion.LetterGroups, error) {
	return callFor(f, func() (pinion.LetterGroups, error) { return f.storage.GroupDeadLetters(ctx, filter, look) })
}

func (f *Flaky) Replay(ctx context.Context, filter pinion.Filter) (int, error) {
	return callFor(f, func() (int, error) { return f.storage.Replay(ctx, filter) })
}

func (f *Flaky) Purge(ctx context.Context, filter pinion.Filter) (int, error) {
	return callFor(f, func() (int, error) { return f.storage.Purge(ctx, filter) })
}

func (f *Flaky) Prune(ctx context.Context, before time.Time) (int, error) {
	return callFor(f, func() (int, error) { return f.storage.Prune(ctx, before) })
}

func (f *Flaky) PruneWhere(ctx context.Context, filter pinion.Filter) (int, error) {
	return callFor(f, func() (int, error) { return f.storage.PruneWhere(ctx, filter) })
}

func (f *Flaky) CancelWhere(ctx context.Context, filter pinion.Filter) (ended, asked int, err error) {
	type answer struct{ ended, asked int }
	a, err := callFor(f, func() (a answer, err error) {
		a.ended, a.asked, err = f.storage.CancelWhere(ctx, filter)
		return a, err
	})
	return a.ended, a.asked, err
}

func (f *Flaky) Reschedule(ctx context.Context, filter pinion.Filter, at time.Time) (int, error) {
	return callFor(f, func() (int, error) { return f.storage.Reschedule(ctx, filter, at) })
}

func (f *Flaky) History(ctx context.Context, since time.Time) ([]pinion.Ends, error) {
	return callFor(f, func() ([]pinion.Ends, error) { return f.storage.History(ctx, since) })
}

func (f *Flaky) SetLimit(ctx context.Context, queue string, limit int) error {
	return f.call(func() error { return f.storage.SetLimit(ctx, queue, limit) })
}

func (f *Flaky) Limits(ctx context.Context) (map[string]int, error) {
	return callFor(f, func() (map[string]int, error) { return f.storage.Limits(ctx) })
}

// Close always closes the wrapped storage, even if it then returns ErrFlaky.
func (f *Flaky) Close() error {
	err := f.storage.Close()
	failBefore, failAfter := f.chance()
	if err == nil && (failBefore || failAfter) {
		return ErrFlaky
	}
	return err
}

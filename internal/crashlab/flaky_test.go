package crashlab

import (
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"path/filepath"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/pinion-queue/pinion"
)

// Producers and workers use a storage that fails at every fifth call, in a bubble, which also finds a goroutine that is
// left. Each job ends once, as its task wants it, and runs no more often than its task fails.
func TestWorkersAndProducersOutliveAStorageThatFailsAtRandom(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("the seed is %d", seed)
	over(t, func(t *testing.T, storage Tended) {
		flaky := NewFlaky(storage, 0.2, seed)
		var mu sync.Mutex // guards runs and atOnce
		runs, atOnce := make(map[string]int), make(map[string]int)
		var registry pinion.Registry
		for name, run := range map[string]func(ctx context.Context, job *pinion.Job) error{
			"good": func(context.Context, *pinion.Job) error { return nil },
			"slow": func(ctx context.Context, _ *pinion.Job) error { time.Sleep(3 * time.Second); return ctx.Err() },
			"bad":  func(context.Context, *pinion.Job) error { return pinion.Permanent(errors.New("bad")) },
			"bad at first": func(_ context.Context, job *pinion.Job) error {
				mu.Lock()
				defer mu.Unlock()
				if runs[job.ID] == 1 {
					return errors.New("bad at first")
				}
				return nil
			},
		} {
			registry.Add(pinion.Task[*pinion.Job]{Name: name, Run: func(ctx context.Context, job *pinion.Job) error {
				mu.Lock()
				runs[job.ID]++
				if atOnce[job.ID]++; atOnce[job.ID] > 1 {
					t.Errorf("job %s runs twice at once", job.ID)
				}
				mu.Unlock()
				defer func() {
					mu.Lock()
					defer mu.Unlock()
					atOnce[job.ID]--
				}()
				return run(ctx, job)
			}})
		}
		ctx, stop := context.WithCancel(context.Background())
		var workers sync.WaitGroup
		for range 3 {
			w := &pinion.Worker{Storage: flaky, Registry: &registry, Concurrency: 4, VisibilityTimeout: 30 * time.Second,
				Retry: &pinion.RetryPolicy{MaxRetries: 99}, Logger: slog.New(slog.DiscardHandler)}
			workers.Go(func() {
				if err := w.Run(ctx); err != nil {
					t.Errorf("Run: %v", err)
				}
			})
		}
		const each = 25
		kinds := []string{"good", "slow", "bad", "bad at first"}
		var producers sync.WaitGroup
		for _, kind := range kinds {
			producers.Go(func() {
				for range each {
					time.Sleep(100 * time.Millisecond)
					job := pinion.NewJob(kind)
					job.ID = pinion.NewID()
					for err := error(ErrFlaky); errors.Is(err, ErrFlaky); {
						if err = flaky.Enqueue(ctx, job); err != nil && !errors.Is(err, ErrFlaky) && !errors.Is(err, pinion.ErrDuplicate) {
							t.Error(err)
						}
					}
				}
			})
		}
		producers.Wait()
		time.Sleep(3 * time.Hour)
		stop()
		workers.Wait()
		type end struct {
			Status     pinion.Status
			Runs, Jobs int
		}
		got, want := make(map[string]end), map[string]end{"good": {"SUCCESS", 1, each}, "slow": {"SUCCESS", 1, each},
			"bad": {"FAILED", 1, each}, "bad at first": {"SUCCESS", 2, each}}
		for job, err := range storage.Jobs(context.Background(), pinion.Filter{}) {
			if err != nil {
				t.Fatal(err)
			}
			got[job.Task] = end{job.Status, runs[job.ID], got[job.Task].Jobs + 1}
			if w := want[job.Task]; job.Status != w.Status || runs[job.ID] != w.Runs {
				t.Errorf("%s is %s after %d runs, want %s after %d", job.Task, job.Status, runs[job.ID], w.Status, w.Runs)
			}
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("the last of each kind, and how many there are (-want +got):\n%s", diff)
		}
		if stats, err := storage.Stats(context.Background()); err != nil || stats.DeadLetters != each {
			t.Errorf("%d dead letters, error %v; want %d and none", stats.DeadLetters, err, each)
		}
		if n := flaky.Failed(); n < 50 {
			t.Errorf("%d calls have failed; that shows little", n)
		}
	})
}

// With no failures a Flaky is the storage that it wraps.
func TestAFlakyThatNeverFailsMeansTheSame(t *testing.T) {
	if err := pinion.CheckStorage(t.Context(), func() (pinion.Storage, error) {
		return NewFlaky(pinion.NewMemoryStorage(), 0, 0), nil
	}); err != nil {
		t.Error(err)
	}
}

// over runs test in a bubble over each storage.
func over(t *testing.T, test func(t *testing.T, storage Tended)) {
	t.Run("memory", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) { test(t, pinion.NewMemoryStorage()) })
	})
	t.Run("sqlite", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			s, err := pinion.OpenSQLite(t.Context(), filepath.Join(t.TempDir(), "q.db"), &pinion.SQLiteOptions{PollInterval: time.Second, Retention: -1})
			if err != nil {
				t.Fatal(err)
			}
			defer s.Close()
			test(t, s)
		})
	})
}

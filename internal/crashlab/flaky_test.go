package crashlab_test

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
	"github.com/pinion-queue/pinion/internal/crashlab"
)

// Each job ends once, as its task wants it, and runs no more often than its task fails. The bubble also finds
// goroutines that are left over.
func TestWorkersAndProducersSurviveAStorageThatFailsAtRandom(t *testing.T) {
	t.Parallel()
	seed := rand.Uint64()
	t.Logf("the seed is %d", seed)
	const jobsOfATask = 25
	type end struct {
		Status pinion.Status
		Runs   int
	}
	want := map[string]end{ // by task
		"good":         {pinion.StatusSuccess, 1},
		"slow":         {pinion.StatusSuccess, 1},
		"bad":          {pinion.StatusFailed, 1},
		"bad at first": {pinion.StatusSuccess, 2},
	}
	overStorages(t, func(t *testing.T, storage crashlab.Storage) {
		flaky := crashlab.NewFlaky(storage, 0.2, seed)
		runs := newRunCounter(t)
		registry := runs.registry()
		ctx, stop := context.WithCancel(context.Background())
		defer stop()
		var workers sync.WaitGroup
		for range 3 {
			worker := &pinion.Worker{
				Storage:           flaky,
				Registry:          registry,
				Concurrency:       4,
				VisibilityTimeout: 30 * time.Second,
				Retry:             &pinion.RetryPolicy{MaxRetries: 99},
				Logger:            slog.New(slog.DiscardHandler),
			}
			workers.Go(func() {
				if err := worker.Run(ctx); err != nil {
					t.Errorf("Run: %v", err)
				}
			})
		}
		var producers sync.WaitGroup
		for task := range want {
			producers.Go(func() {
				for range jobsOfATask {
					time.Sleep(100 * time.Millisecond)
					enqueueUntilStored(t, flaky, task)
				}
			})
		}
		producers.Wait()
		for range 180 { // minutes, of which a few are enough; hours take seconds even in a bubble
			time.Sleep(time.Minute)
			if unfinished(t, storage) == 0 {
				break
			}
		}
		time.Sleep(10 * time.Minute) // nothing may run again
		stop()
		workers.Wait()

		jobs := make(map[string]int) // by task
		for job, err := range storage.Jobs(context.Background(), pinion.Filter{}) {
			if err != nil {
				t.Fatal(err)
			}
			jobs[job.Task]++
			got := end{job.Status, runs.of(job.ID)}
			if diff := cmp.Diff(want[job.Task], got); diff != "" {
				t.Errorf("the end of a job of the task %q (-want +got):\n%s", job.Task, diff)
			}
		}
		for task := range want {
			if jobs[task] != jobsOfATask {
				t.Errorf("%d jobs of the task %q are stored, want %d", jobs[task], task, jobsOfATask)
			}
		}
		stats, err := storage.Stats(context.Background())
		if err != nil {
			t.Fatal(err)
		}
		if stats.DeadLetters != jobsOfATask {
			t.Errorf("%d dead letters, want %d", stats.DeadLetters, jobsOfATask)
		}
		if n := flaky.Failed(); n < 50 {
			t.Errorf("only %d calls failed, which shows little", n)
		}
	})
}

// unfinished returns how many jobs are PENDING or RUNNING.
func unfinished(t *testing.T, storage crashlab.Storage) int {
	stats, err := storage.Stats(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	return stats.Total.Pending + stats.Total.Running
}

// enqueueUntilStored enqueues a job again and again until the storage says that it is stored.
func enqueueUntilStored(t *testing.T, flaky *crashlab.Flaky, task string) {
	job := pinion.NewJob(task)
	job.ID = pinion.NewID()
	for {
		err := flaky.Enqueue(context.Background(), job)
		if err == nil || errors.Is(err, pinion.ErrDuplicate) {
			return
		}
		if !errors.Is(err, crashlab.ErrFlaky) {
			t.Errorf("Enqueue: %v", err)
			return
		}
	}
}

// runCounter counts how often each job runs, and fails the test if a job runs twice at the same time.
type runCounter struct {
	t       *testing.T
	mu      sync.Mutex // guards runs and running
	runs    map[string]int
	running map[string]bool
}

func newRunCounter(t *testing.T) *runCounter {
	return &runCounter{t: t, runs: make(map[string]int), running: make(map[string]bool)}
}

func (c *runCounter) of(id string) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.runs[id]
}

func (c *runCounter) begin(id string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.runs[id]++
	if c.running[id] {
		c.t.Errorf("job %s runs twice at the same time", id)
	}
	c.running[id] = true
}

func (c *runCounter) end(id string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.running[id] = false
}

// registry returns tasks that succeed and fail in different ways.
func (c *runCounter) registry() *pinion.Registry {
	registry := new(pinion.Registry)
	for name, run := range map[string]func(ctx context.Context, job *pinion.Job) error{
		"good": func(context.Context, *pinion.Job) error { return nil },
		"slow": func(ctx context.Context, _ *pinion.Job) error {
			time.Sleep(3 * time.Second)
			return ctx.Err()
		},
		"bad": func(context.Context, *pinion.Job) error { return pinion.Permanent(errors.New("bad")) },
		"bad at first": func(_ context.Context, job *pinion.Job) error {
			if c.of(job.ID) == 1 {
				return errors.New("bad at first")
			}
			return nil
		},
	} {
		counted := func(ctx context.Context, job *pinion.Job) error {
			c.begin(job.ID)
			defer c.end(job.ID)
			return run(ctx, job)
		}
		registry.Add(pinion.Task[*pinion.Job]{Name: name, Run: counted})
	}
	return registry
}

func TestAFlakyThatNeverFailsBehavesLikeItsStorage(t *testing.T) {
	open := func() (pinion.Storage, error) { return crashlab.NewFlaky(pinion.NewMemoryStorage(), 0, 0), nil }
	if err := pinion.CheckStorage(t.Context(), open); err != nil {
		t.Error(err)
	}
}

// overStorages runs a test in a bubble on each storage of this module.
func overStorages(t *testing.T, test func(t *testing.T, storage crashlab.Storage)) {
	t.Run("memory", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) { test(t, pinion.NewMemoryStorage()) })
	})
	t.Run("sqlite", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "q.db")
			opts := &pinion.SQLiteOptions{Synchronous: "NORMAL", PollInterval: time.Second, Retention: -1}
			s, err := pinion.OpenSQLite(t.Context(), path, opts)
			if err != nil {
				t.Fatal(err)
			}
			defer s.Close()
			test(t, s)
		})
	})
}

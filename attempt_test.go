package pinion

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

func TestAPanicFailsItsAttemptAndKeepsTheStack(t *testing.T) {
	for _, c := range []struct {
		value any
		want  string
	}{
		{"boom", "panic: boom"},
		{errTask, "panic: it failed"},
		{42, "panic: 42"},
		{nil, "panic: panic called with nil argument"},
		{(*nilText)(nil), "panic: <nil>"},
	} {
		overMemory(t, func(t *testing.T, s *MemoryStorage) {
			w := workerOf(s, taskOf("panics", func(context.Context) error { panicDeepDown(c.value); return nil }))
			w.Retry.MaxRetries = 1
			job := drained(t, w, "panics")
			wantEnd(t, s, job, ending{StatusFailed, 2, c.want})
			if stack := mustGet(t, s, job.ID).Error; !strings.Contains(stack, "panicDeepDown") {
				t.Errorf("the stack of the panic is not kept:\n%s", stack)
			}
		})
	}
}

func TestOutsideATaskThereIsNothingToAsk(t *testing.T) {
	if job, ok := JobFromContext(t.Context()); ok || job != nil {
		t.Errorf("JobFromContext gave %v", job)
	}
	if s, ok := StorageFromContext(t.Context()); ok || s != nil {
		t.Errorf("StorageFromContext gave %v", s)
	}
	if err := SetResult(t.Context(), 1); err != nil {
		t.Errorf("SetResult: %v; want nil, so that a test can call a task's function", err)
	}
	if Logger(t.Context()) != slog.Default() {
		t.Error("Logger is not the default one")
	}
	err := EndInTx(t.Context(), func(*Job) error { t.Error("EndInTx has called its function"); return nil })
	if err == nil || !strings.Contains(err.Error(), "not a task's") {
		t.Errorf("EndInTx: %v, want an error", err)
	}
}

func TestAnErrorThatPanicsWhenAskedFailsItsTaskAlone(t *testing.T) {
	for _, c := range []struct {
		err  error
		want string
	}{
		{(*nilText)(nil), "<nil>"},
		{(*nilError)(nil), "panic: runtime error"},
	} {
		fails := func(RunFunc) RunFunc { return func(context.Context, *Job) error { return c.err } }
		for _, middleware := range []func(RunFunc) RunFunc{nil, fails} {
			var registry Registry
			registry.Add(Task[int]{Name: "task", Run: func(context.Context, int) error { return c.err }})
			storage := NewMemoryStorage()
			defer storage.Close()
			job := NewJob("task", 1)
			if err := storage.Enqueue(t.Context(), job); err != nil {
				t.Fatal(err)
			}
			worker := &Worker{Storage: storage, Registry: &registry, Middleware: middleware,
				Retry: &RetryPolicy{MaxRetries: 1, BaseDelay: 1}, Logger: slog.New(slog.DiscardHandler)}
			if err := worker.Drain(t.Context()); err != nil {
				t.Fatal(err)
			}
			got, err := storage.Get(t.Context(), job.ID)
			if err != nil {
				t.Fatal(err)
			}
			if got.Status != StatusFailed || got.Attempts != 2 || !strings.HasPrefix(got.Error, c.want) {
				t.Errorf("%T: the job is %s after %d attempts with the error %.40q, want FAILED after 2 with %q",
					c.err, got.Status, got.Attempts, got.Error, c.want)
			}
		}
	}
}

func TestAPanicWithAnErrorCountsAsThatError(t *testing.T) {
	overMemory(t, func(t *testing.T, s *MemoryStorage) {
		w := workerOf(s, taskOf("panics", func(context.Context) error { panic(Permanent(errTask)) }))
		wantEnd(t, s, drained(t, w, "panics"), ending{StatusFailed, 1, "panic: it failed"})
	})
	if err := (&PanicError{Value: errTask}); !errors.Is(err, errTask) {
		t.Errorf("%v does not wrap the error that it was raised with", err)
	}
}

func TestAPanicOfTheArgumentsDecoderFailsItsAttempt(t *testing.T) {
	overMemory(t, func(t *testing.T, s *MemoryStorage) {
		w := workerOf(s,
			Task[panicsWhenDecoded]{Name: "decode", Run: func(context.Context, panicsWhenDecoded) error { return nil }})
		wantEnd(t, s, drained(t, w, "decode", 1), ending{StatusFailed, 4, "panic: cannot be decoded"})
	})
}

func TestAnErrorWhoseMethodsPanicFailsItsAttemptAlone(t *testing.T) {
	for _, err := range []error{panicsInError{}, panicsInIs{}, panicsInAs{}, panicsInUnwrap{}, panicsWithItself{}, panicsWithItselfTwice{}, (*nilError)(nil)} {
		for how, fail := range map[string]func() error{
			"returned": func() error { return err },
			"wrapped":  func() error { return Permanent(fmt.Errorf("wrapped: %w", err)) },
			"raised":   func() error { panic(err) },
			"late":     func() error { time.Sleep(time.Minute); return errors.Join(context.DeadlineExceeded, err) },
		} {
			overMemory(t, func(t *testing.T, s *MemoryStorage) {
				w := workerOf(s, taskOf("fails", func(context.Context) error { return fail() }),
					taskOf("works", func(context.Context) error { return nil }))
				w.Concurrency, w.TaskTimeout, w.Retry.MaxRetries = 1, time.Second, 0
				job, neighbour := NewJob("fails"), NewJob("works")
				mustEnqueue(t, s, job, neighbour)
				mustDrain(t, w)
				if got := mustGet(t, s, job.ID); got.Status != StatusFailed || got.Attempts != 1 || got.Error == "" {
					t.Errorf("%T %s: the job is %s after %d attempts with the error %q, want FAILED after 1 with some",
						err, how, got.Status, got.Attempts, got.Error)
				}
				wantEnd(t, s, neighbour, ending{StatusSuccess, 1, ""})
			})
		}
	}
}

func TestGoexitFailsItsAttemptAndTheSlotSurvives(t *testing.T) {
	t.Parallel()
	for _, concurrency := range []int{1, 3} {
		overEach(t, func(t *testing.T, s Storage, in Inspector) {
			w := workerOf(s, taskOf("exits", func(context.Context) error { exitDeepDown(); return nil }),
				taskOf("works", func(context.Context) error { return nil }))
			w.Concurrency = concurrency
			var exits, works []*Job
			for range 5 {
				exits, works = append(exits, NewJob("exits")), append(works, NewJob("works"))
				mustEnqueue(t, s, exits[len(exits)-1], works[len(works)-1])
			}
			mustDrain(t, w)
			for i := range exits {
				wantEnd(t, in, exits[i], ending{StatusFailed, 4, "panic: runtime.Goexit was called"})
				wantEnd(t, in, works[i], ending{StatusSuccess, 1, ""})
			}
			if stack := mustGet(t, in, exits[0].ID).Error; !strings.Contains(stack, "exitDeepDown") {
				t.Errorf("the stack of the exit is not kept:\n%s", stack)
			}
			wantMetrics(t, w, Metrics{Processed: 25, Succeeded: 5, Failed: 20, Retried: 15, DeadLettered: 5})
		})
	}
}

func TestATimeoutCancelsTheTaskAndIsNamedInItsError(t *testing.T) {
	for _, c := range []struct {
		name          string
		worker, tasks time.Duration
		want          time.Duration
	}{
		{"the worker's", 2 * time.Second, 0, 2 * time.Second},
		{"the task's", 0, 3 * time.Second, 3 * time.Second},
		{"a longer one of the task's over the worker's", 2 * time.Second, 5 * time.Second, 5 * time.Second},
		{"a shorter one of the task's over the worker's", 2 * time.Second, time.Second, time.Second},
	} {
		t.Run(c.name, func(t *testing.T) {
			overMemory(t, func(t *testing.T, s *MemoryStorage) {
				start := time.Now()
				var cause error
				waits := taskOf("waits", func(ctx context.Context) error {
					<-ctx.Done()
					cause = context.Cause(ctx)
					return fmt.Errorf("waiting: %w", ctx.Err())
				})
				waits.Timeout = c.tasks
				w := workerOf(s, waits)
				w.TaskTimeout, w.Retry.MaxRetries = c.worker, 0
				want := fmt.Sprintf("timed out after %v: waiting: context deadline exceeded", c.want)
				wantEnd(t, s, drained(t, w, "waits"), ending{StatusFailed, 1, want})
				wantElapsed(t, start, c.want)
				if !errors.Is(cause, context.DeadlineExceeded) ||
					cause.Error() != fmt.Sprintf("timed out after %v", c.want) {
					t.Errorf("the cause of the cancellation is %v", cause)
				}
			})
		})
	}
}

func TestWithoutATimeoutATaskHasNoDeadline(t *testing.T) {
	overMemory(t, func(t *testing.T, s *MemoryStorage) {
		w := workerOf(s, taskOf("asks", func(ctx context.Context) error {
			if deadline, ok := ctx.Deadline(); ok {
				t.Errorf("the task has the deadline %v", deadline)
			}
			time.Sleep(time.Hour)
			return ctx.Err()
		}))
		wantEnd(t, s, drained(t, w, "asks"), ending{StatusSuccess, 1, ""})
	})
}

func TestATasksContextEndsWithTheTask(t *testing.T) {
	for _, timeout := range []time.Duration{0, time.Minute} {
		overMemory(t, func(t *testing.T, s *MemoryStorage) {
			var kept, derived context.Context
			w := workerOf(s, taskOf("keeps", func(ctx context.Context) error {
				before := runtime.NumGoroutine()
				var cancel context.CancelFunc
				kept = ctx
				derived, cancel = context.WithCancel(ctx)
				t.Cleanup(cancel)
				if derived.Err() != nil {
					t.Errorf("timeout %v: the running task's context has ended: %v", timeout, derived.Err())
				}
				if after := runtime.NumGoroutine(); after > before {
					t.Errorf("timeout %v: a context derived from the task's needs %d goroutines", timeout, after-before)
				}
				return nil
			}))
			w.TaskTimeout = timeout
			wantEnd(t, s, drained(t, w, "keeps"), ending{StatusSuccess, 1, ""})
			for _, ctx := range []context.Context{kept, derived} {
				if ctx.Err() != context.Canceled || context.Cause(ctx) != context.Canceled {
					t.Errorf("timeout %v: after the task its context ended with %v because of %v, want context.Canceled",
						timeout, ctx.Err(), context.Cause(ctx))
				}
			}
		})
	}
}

func TestEachAttemptHasItsOwnTimeout(t *testing.T) {
	overMemory(t, func(t *testing.T, s *MemoryStorage) {
		start := time.Now()
		w := workerOf(s, taskOf("waits", func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }))
		w.TaskTimeout, w.Retry.MaxRetries = 10*time.Second, 2
		wantEnd(t, s, drained(t, w, "waits"), ending{StatusFailed, 3, "timed out after 10s: context deadline exceeded"})
		wantElapsed(t, start, (10+1+10+2+10)*time.Second)
	})
}

func TestTheTasksOwnAnswerCountsAfterItsTimeout(t *testing.T) {
	own, cancel := context.WithCancel(t.Context())
	cancel()
	for _, c := range []struct {
		answer error
		want   ending
	}{
		{nil, ending{StatusSuccess, 1, ""}},
		{errTask, ending{StatusFailed, 2, "it failed"}},
		{Permanent(context.DeadlineExceeded), ending{StatusFailed, 1, "timed out after 1s: context deadline exceeded"}},
		{own.Err(), ending{StatusFailed, 2, "timed out after 1s: context canceled"}},
	} {
		overEach(t, func(t *testing.T, s Storage, in Inspector) {
			w := workerOf(s,
				taskOf("late", func(context.Context) error { time.Sleep(3 * time.Second); return c.answer }))
			w.TaskTimeout, w.Retry.MaxRetries = time.Second, 1
			wantEnd(t, in, drained(t, w, "late"), c.want)
		})
	}
}

func TestATaskThatReturnsTheCauseOfItsTimeoutIsNotToldTwice(t *testing.T) {
	overMemory(t, func(t *testing.T, s *MemoryStorage) {
		w := workerOf(s, taskOf("waits",
			func(ctx context.Context) error { <-ctx.Done(); return fmt.Errorf("waiting: %w", context.Cause(ctx)) }))
		w.TaskTimeout, w.Retry.MaxRetries = time.Second, 0
		wantEnd(t, s, drained(t, w, "waits"), ending{StatusFailed, 1, "waiting: timed out after 1s"})
	})
}

func TestADeadlineOfTheTasksOwnIsNoTimeout(t *testing.T) {
	overMemory(t, func(t *testing.T, s *MemoryStorage) {
		w := workerOf(s, taskOf("asks", func(ctx context.Context) error {
			ctx, cancel := context.WithTimeout(ctx, time.Second)
			defer cancel()
			<-ctx.Done()
			return ctx.Err()
		}))
		w.TaskTimeout, w.Retry.MaxRetries = time.Minute, 0
		wantEnd(t, s, drained(t, w, "asks"), ending{StatusFailed, 1, "context deadline exceeded"})
	})
}

func TestATaskThatIgnoresItsTimeoutHoldsItsOwnSlotAlone(t *testing.T) {
	overEach(t, func(t *testing.T, s Storage, in Inspector) {
		start := time.Now()
		var ended []time.Duration
		w := workerOf(s, taskOf("stuck", func(context.Context) error { time.Sleep(time.Minute); return nil }),
			taskOf("works", func(context.Context) error {
				time.Sleep(900 * time.Millisecond)
				ended = append(ended, time.Since(start))
				return nil
			}))
		w.Concurrency, w.TaskTimeout = 2, time.Second
		stuck := NewJob("stuck")
		mustEnqueue(t, s, stuck)
		for range 5 {
			mustEnqueue(t, s, NewJob("works"))
		}
		mustDrain(t, w)
		var want []time.Duration
		for i := range 5 {
			want = append(want, time.Duration(i+1)*900*time.Millisecond)
		}
		if diff := cmp.Diff(want, ended, cmpopts.EquateApprox(0, float64(10*time.Millisecond))); diff != "" {
			t.Errorf("the other jobs ended (-want +got):\n%s", diff)
		}
		wantEnd(t, in, stuck, ending{StatusSuccess, 1, ""})
		wantElapsed(t, start, time.Minute)
	})
}

func TestAResultIsWrittenWithSuccessAndTheLastOneCounts(t *testing.T) {
	overEach(t, func(t *testing.T, s Storage, in Inspector) {
		w := workerOf(s, taskOf("answers", func(ctx context.Context) error {
			err := SetResult(ctx, "the first")
			return errors.Join(err, SetResult(ctx, map[string]any{"url": "a?b&c", "n": 1}))
		}))
		job := drained(t, w, "answers")
		wantEnd(t, in, job, ending{StatusSuccess, 1, ""})
		wantResult(t, in, job, `{"n":1,"url":"a?b&c"}`)
	})
}

func TestARetryStartsWithoutAResultAndADeadLetterKeepsTheLast(t *testing.T) {
	overEach(t, func(t *testing.T, s Storage, in Inspector) {
		tries := 0
		w := workerOf(s, taskOf("fails", func(ctx context.Context) error { return errors.Join(SetResult(ctx, 1), errTask) }),
			taskOf("mends", func(ctx context.Context) error {
				tries++
				if tries == 1 {
					return errors.Join(SetResult(ctx, "of the first attempt"), errTask)
				}
				return nil
			}))
		fails, mends := drained(t, w, "fails"), drained(t, w, "mends")
		wantEnd(t, in, fails, ending{StatusFailed, 4, "it failed"})
		wantResult(t, in, fails, "1")
		wantEnd(t, in, mends, ending{StatusSuccess, 2, "it failed"})
		wantResult(t, in, mends, "")
	})
}

func TestAResultMayBeSetAfterATimeoutAndByAnotherGoroutine(t *testing.T) {
	overMemory(t, func(t *testing.T, s *MemoryStorage) {
		w := workerOf(s, taskOf("answers", func(ctx context.Context) error {
			<-ctx.Done()
			derived, cancel := context.WithCancel(ctx)
			defer cancel()
			answered := make(chan error)
			go func() { answered <- SetResult(derived, 7) }()
			return <-answered
		}))
		w.TaskTimeout = time.Second
		job := drained(t, w, "answers")
		wantEnd(t, s, job, ending{StatusSuccess, 1, ""})
		wantResult(t, s, job, "7")
	})
}

func TestAResultSetAfterTheTasksEndDoesNothing(t *testing.T) {
	overMemory(t, func(t *testing.T, s *MemoryStorage) {
		var ended context.Context
		w := workerOf(s,
			taskOf("answers", func(ctx context.Context) error { ended = ctx; return SetResult(ctx, "in time") }))
		job := drained(t, w, "answers")
		if err := SetResult(ended, "too late"); err != nil {
			t.Errorf("SetResult: %v", err)
		}
		wantResult(t, s, job, `"in time"`)
	})
	// While another task runs, a success waits for a moment until it is recorded.
	inBubble(t, NewMemoryStorage(), func(t *scene) {
		t.run(&Worker{}, t.task("long", func(ctx context.Context, _ *Job) error { return sleeping(ctx, time.Second) }),
			t.task("answers", func(ctx context.Context, _ *Job) error {
				time.AfterFunc(batchTime/2, func() { SetResult(ctx, "too late") })
				return SetResult(ctx, "in time")
			}))
		ids := t.enqueue("long", "answers")
		t.sleep(2 * time.Second)
		if got := string(t.get(ids[1]).Result); got != `"in time"` {
			t.Errorf("the result is %s, want the one before the task's end", got)
		}
	})
}

func TestAResultThatCannotBeKeptIsRefusedAndTheOneBeforeStays(t *testing.T) {
	overMemory(t, func(t *testing.T, s *MemoryStorage) {
		most := strings.Repeat("x", maxEncoded-2)
		w := workerOf(s, taskOf("answers", func(ctx context.Context) error {
			if err := SetResult(ctx, most); err != nil {
				t.Errorf("the most that is taken: %v", err)
			}
			if err := SetResult(ctx, most+"x"); !errors.Is(err, ErrTooLarge) {
				t.Errorf("one byte more: %v, want ErrTooLarge", err)
			}
			if err := SetResult(ctx, func() {}); err == nil {
				t.Error("a function was taken")
			}
			return nil
		}))
		job := drained(t, w, "answers")
		wantResult(t, s, job, `"`+most+`"`)
	})
}

func TestTheJobOfAContextIsACopy(t *testing.T) {
	overEach(t, func(t *testing.T, s Storage, in Inspector) {
		want := &Job{
			ID:       "1",
			Task:     "asks",
			Args:     []any{json.RawMessage("1")},
			Kwargs:   map[string]any{"B": json.RawMessage("2")},
			Queue:    "default",
			Priority: 3,
			Key:      "k",
			Status:   StatusRunning,
			Attempts: 1,
			Worker:   "one",
		}
		w := workerOf(s, Task[addArgs]{Name: "asks", Run: func(ctx context.Context, _ addArgs) error {
			for range 2 {
				got, ok := JobFromContext(ctx)
				if !ok {
					return errors.New("no job in the context")
				}
				ignored := cmpopts.IgnoreFields(Job{}, "Claim", "RunAt", "CreatedAt", "HeartbeatAt", "LeaseUntil")
				if diff := cmp.Diff(want, got, ignored); diff != "" {
					t.Errorf("the job (-want +got):\n%s", diff)
				}
				got.ID, got.Task, got.Claim, got.Attempts, got.Args[0], got.Kwargs["B"] = "2", "changed", 0, 9, "changed", "changed"
			}
			return nil
		}})
		w.Name = "one"
		job := &Job{ID: "1", Task: "asks", Args: []any{1}, Kwargs: map[string]any{"B": 2}, Priority: 3, Key: "k"}
		mustEnqueue(t, s, job)
		mustDrain(t, w)
		wantEnd(t, in, job, ending{StatusSuccess, 1, ""})
	})
}

func TestATaskEnqueuesWhatFollowsWhereItsJobCameFrom(t *testing.T) {
	overEach(t, func(t *testing.T, s Storage, in Inspector) {
		var ran []int
		w := workerOf(s, Task[int]{Name: "count down", Run: func(ctx context.Context, n int) error {
			ran = append(ran, n)
			if n == 0 {
				return nil
			}
			from, ok := StorageFromContext(ctx)
			if !ok || from != s {
				return fmt.Errorf("the storage of the context is %v", from)
			}
			return from.Enqueue(ctx, NewJob("count down", n-1))
		}})
		wantEnd(t, in, drained(t, w, "count down", 3), ending{StatusSuccess, 1, ""})
		if diff := cmp.Diff([]int{3, 2, 1, 0}, ran); diff != "" {
			t.Errorf("jobs run (-want +got):\n%s", diff)
		}
	})
}

func TestLoggerNamesTheJobTheTaskAndTheAttempt(t *testing.T) {
	overMemory(t, func(t *testing.T, s *MemoryStorage) {
		var log bytes.Buffer
		w := workerOf(s, taskOf("talks", func(ctx context.Context) error {
			Logger(ctx).Info("hello")
			return nil
		}))
		w.Logger = logTo(&log, slog.LevelInfo)
		mustEnqueue(t, s, &Job{ID: "1", Task: "talks"})
		mustDrain(t, w)
		if diff := cmp.Diff("level=INFO msg=hello job=1 task=talks attempt=1\n", log.String()); diff != "" {
			t.Errorf("the log (-want +got):\n%s", diff)
		}
	})
}

// beats is a storage that keeps what heartbeats bring.
type beats struct {
	tended

	mu      sync.Mutex // guards the rest
	results []string   // of the heartbeats of one job; "-" for none
	fails   bool
}

func (b *beats) Heartbeat(ctx context.Context, jobs ...*Job) ([]*Job, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, job := range jobs {
		if job.Result == nil {
			b.results = append(b.results, "-")
		} else {
			b.results = append(b.results, fmt.Sprintf("%.10s", job.Result))
		}
	}
	if b.fails {
		return nil, errBroken
	}
	return b.tended.Heartbeat(ctx, jobs...)
}

func TestHeartbeatsStoreTheProgressOfATask(t *testing.T) {
	overStorages(t, func(t *scene) {
		b := &beats{tended: t.storage}
		large := strings.Repeat("x", maxProgress)
		t.run(&Worker{Storage: b}, t.task("a", func(ctx context.Context, _ *Job) error {
			pause(ctx, 1500*time.Millisecond)
			SetResult(ctx, "half")
			pause(ctx, 2*time.Second)
			SetResult(ctx, large)
			pause(ctx, time.Second)
			SetResult(ctx, "nearly")
			pause(ctx, 2*time.Second)
			return SetResult(ctx, "all")
		}))
		id := t.enqueue("a")[0]
		for _, c := range []struct {
			after time.Duration
			want  string
		}{
			{1400 * time.Millisecond, ``}, {700 * time.Millisecond, `"half"`}, {2 * time.Second, `"half"`},
			{time.Second, `"nearly"`}, {1500 * time.Millisecond, `"all"`},
		} {
			t.sleep(c.after)
			if got := string(t.get(id).Result); got != c.want {
				t.Errorf("after %v the result is %.20s, want %s", t.since(), got, c.want)
			}
		}
		want := []string{"-", `"half"`, "-", "-", `"nearly"`, "-"}
		if diff := cmp.Diff(want, b.results); diff != "" {
			t.Errorf("results that heartbeats brought (-want +got):\n%s", diff)
		}
	})
}

func TestProgressThatAHeartbeatCouldNotStoreComesWithTheNext(t *testing.T) {
	inBubble(t, NewMemoryStorage(), func(t *scene) {
		b := &beats{tended: t.storage, fails: true}
		t.run(&Worker{Storage: b}, t.task("a", func(ctx context.Context, _ *Job) error {
			SetResult(ctx, "half")
			return sleeping(ctx, 4500*time.Millisecond)
		}))
		t.enqueue("a")
		t.sleep(2500 * time.Millisecond)
		b.mu.Lock()
		b.fails = false
		b.mu.Unlock()
		t.sleep(time.Minute)
		if diff := cmp.Diff([]string{`"half"`, `"half"`, `"half"`, "-"}, b.results); diff != "" {
			t.Errorf("results that heartbeats brought (-want +got):\n%s", diff)
		}
	})
}

func TestTheFirstHeartbeatTellsWhenATaskStarted(t *testing.T) {
	overStorages(t, func(t *scene) {
		t.run(&Worker{}, t.task("a", func(ctx context.Context, _ *Job) error { return sleeping(ctx, 5*time.Second) }))
		t.sleep(100 * time.Millisecond)
		id := t.enqueue("a")[0]
		t.sleep(500 * time.Millisecond)
		if job := t.get(id); !job.StartedAt.IsZero() {
			t.Errorf("before a heartbeat StartedAt is %v", job.StartedAt)
		}
		for range 2 {
			t.sleep(time.Second)
			if got := t.get(id).StartedAt.Sub(t.start); got.Round(time.Millisecond) != 100*time.Millisecond {
				t.Errorf("StartedAt is %v after the start of the test, want 100ms", got)
			}
		}
	})
}

func TestASnoozeUsesNoAttempt(t *testing.T) {
	overEach(t, func(t *testing.T, s Storage, in Inspector) {
		start := time.Now()
		var ran []time.Duration
		var attempts []int
		w := workerOf(s, Task[*Job]{Name: "snoozes", Run: func(_ context.Context, job *Job) error {
			ran, attempts = append(ran, time.Since(start)), append(attempts, job.Attempts)
			if len(ran) < 4 {
				return fmt.Errorf("limited: %w", Snooze(3*time.Second))
			}
			return nil
		}})
		w.Retry.MaxRetries = 0
		job := drained(t, w, "snoozes")
		if diff := cmp.Diff([]time.Duration{0, 3 * time.Second, 6 * time.Second, 9 * time.Second}, ran); diff != "" {
			t.Errorf("runs (-want +got):\n%s", diff)
		}
		if diff := cmp.Diff([]int{1, 1, 1, 1}, attempts); diff != "" {
			t.Errorf("attempts (-want +got):\n%s", diff)
		}
		wantEnd(t, in, job, ending{StatusSuccess, 1, "limited: snoozed for 3s"})
		wantMetrics(t, w, Metrics{Processed: 1, Succeeded: 1})
	})
}

func TestASnoozeIsHonouredAtTheShutdownAndPermanentWinsOverIt(t *testing.T) {
	overStorages(t, func(t *scene) {
		answers := func(err error) func(context.Context, *Job) error {
			return func(ctx context.Context, _ *Job) error { <-ctx.Done(); return err }
		}
		run := t.run(&Worker{}, t.task("snoozes", answers(Snooze(time.Hour))),
			t.task("dies", answers(errors.Join(Snooze(time.Hour), Permanent(errTask)))))
		ids := t.enqueue("snoozes", "dies")
		t.sleep(time.Second)
		run.stop()
		if err := run.wait(); err != nil {
			t.Error(err)
		}
		if job := t.get(ids[0]); job.Status != StatusPending || job.Attempts != 0 ||
			job.RunAt.Sub(t.start).Round(time.Second) != time.Hour+11*time.Second {
			t.Errorf("the job that snoozed is %s after %d attempts, due at %v",
				job.Status, job.Attempts, job.RunAt.Sub(t.start))
		}
		if job := t.get(ids[1]); job.Status != StatusFailed {
			t.Errorf("the job with a permanent error is %s", job.Status)
		}
	})
}

// endsInTx does to a job of a MemoryStorage what Tx.Done does inside a transaction that is committed, or rolled back.
func endsInTx(ctx context.Context, s Storage, commit bool) error {
	return EndInTx(ctx, func(job *Job) error {
		if !commit {
			return nil
		}
		lost, err := s.MarkDone(ctx, job)
		if len(lost) > 0 {
			return ErrLeaseLost
		}
		return err
	})
}

func TestAJobThatWasDoneInATransactionIsRecordedOnce(t *testing.T) {
	inBubble(t, NewMemoryStorage(), func(t *scene) {
		broken := &failing{tended: t.storage}
		broken.fail("MarkDone", "MarkFailed", "DeadLetter", "Release") // the worker records nothing
		var log endLog
		commits := func(err error) func(context.Context, *Job) error {
			return func(ctx context.Context, _ *Job) error {
				SetResult(ctx, 7)
				if err := endsInTx(ctx, t.storage, true); err != nil {
					return err
				}
				SetResult(ctx, 8)         // too late
				pause(ctx, 3*time.Second) // heartbeats are not its concern any more
				if ctx.Err() != nil {
					t.Errorf("the task was canceled: %v", context.Cause(ctx))
				}
				return err
			}
		}
		run := t.run(&Worker{Storage: broken, OnEnd: log.add}, t.task("works", commits(nil)),
			t.task("fails", commits(errTask)))
		ids := t.enqueue("works", "fails")
		t.sleep(5 * time.Second)
		for _, id := range ids {
			if job := t.get(id); job.Status != StatusSuccess || string(job.Result) != "7" || job.Attempts != 1 {
				t.Errorf("%s is %s after %d attempts with result %s; want SUCCESS after 1 with 7",
					job.Task, job.Status, job.Attempts, job.Result)
			}
		}
		if diff := cmp.Diff(Metrics{Processed: 2, Succeeded: 2}, run.metrics()); diff != "" {
			t.Errorf("metrics (-want +got):\n%s", diff)
		}
		if lines := run.log.lines("task returned an error after"); len(lines) != 1 {
			t.Errorf("the error after the commit was logged %d times, want once", len(lines))
		}
		run.stop()
		if err := run.wait(); err != nil || run.at != 5*time.Second {
			t.Errorf("Run returned %v after %v; want nil after 5s", err, run.at)
		}
	})
}

func TestAWorkerThatCannotReadWhetherATransactionWasCommittedAsksAgain(t *testing.T) {
	inBubble(t, NewMemoryStorage(), func(t *scene) {
		broken := &failing{tended: t.storage}
		broken.fail("Get")
		var log endLog
		run := t.run(&Worker{Storage: broken, OnEnd: log.add},
			t.task("commits", func(ctx context.Context, _ *Job) error { return endsInTx(ctx, t.storage, true) }),
			t.task("rolls back", func(ctx context.Context, _ *Job) error { return endsInTx(ctx, t.storage, false) }))
		ids := t.enqueue("commits", "rolls back")
		t.sleep(3 * time.Second)
		if got := run.metrics().Succeeded; got != 0 {
			t.Errorf("%d successes were reported before anybody could know", got)
		}
		broken.fail()
		t.sleep(3 * time.Second)
		for _, id := range ids {
			if job := t.get(id); job.Status != StatusSuccess || job.Attempts != 1 {
				t.Errorf("%s is %s after %d attempts, want SUCCESS after 1", job.Task, job.Status, job.Attempts)
			}
		}
		if got := run.metrics().Succeeded; got != 2 {
			t.Errorf("%d successes were reported, want 2", got)
		}
	})
}

func TestAJobWhoseTransactionWasRolledBackEndsAsItsTaskSays(t *testing.T) {
	overStorages(t, func(t *scene) {
		var ran atomic.Int64
		run := t.run(&Worker{}, t.task("works", func(ctx context.Context, _ *Job) error {
			return endsInTx(ctx, t.storage, false)
		}), t.task("fails", func(ctx context.Context, _ *Job) error {
			if ran.Add(1) > 1 {
				return nil
			}
			return errors.Join(endsInTx(ctx, t.storage, false), RetryAfter(time.Second, errTask))
		}))
		ids := t.enqueue("works", "fails")
		t.sleep(5 * time.Second)
		for i, attempts := range []int{1, 2} {
			if job := t.get(ids[i]); job.Status != StatusSuccess || job.Attempts != attempts {
				t.Errorf("%s is %s after %d attempts, want SUCCESS after %d",
					job.Task, job.Status, job.Attempts, attempts)
			}
		}
		if diff := cmp.Diff(Metrics{Processed: 3, Succeeded: 2, Failed: 1, Retried: 1}, run.metrics()); diff != "" {
			t.Errorf("metrics (-want +got):\n%s", diff)
		}
	})
}

func TestAJobWhoseTransactionWasRolledBackAndWhoseLeaseIsLostIsLost(t *testing.T) {
	overStorages(t, func(t *scene) {
		ends := make(chan Outcome, 10)
		onEnd := func(_ context.Context, _ *Job, end End) { ends <- end.Outcome }
		run := t.run(&Worker{OnEnd: onEnd}, t.task("works", func(ctx context.Context, job *Job) error {
			if err := endsInTx(ctx, t.storage, false); err != nil {
				return err
			}
			_, _, err := t.storage.Release(ctx, time.Now().Add(time.Hour), nil, job) // the claim is another's now
			return err
		}))
		id := t.enqueue("works")[0]
		t.sleep(5 * time.Second)
		if job := t.get(id); job.Status != StatusPending {
			t.Errorf("the job is %s, want PENDING", job.Status)
		}
		if outcome := <-ends; outcome != OutcomeLost || len(ends) > 0 {
			t.Errorf("the attempt ended as %s, want %s, once", outcome, OutcomeLost)
		}
		if diff := cmp.Diff(Metrics{}, run.metrics()); diff != "" {
			t.Errorf("metrics (-want +got):\n%s", diff)
		}
	})
}

func TestAnArgumentThatATaskDoesNotKnowIsIgnoredAndNamedOnce(t *testing.T) {
	overMemory(t, func(t *testing.T, s *MemoryStorage) {
		var log bytes.Buffer
		sum := 0
		w := workerOf(s,
			Task[addArgs]{Name: "Add", Run: func(_ context.Context, args addArgs) error { sum += args.A; return nil }})
		w.Logger, w.Concurrency = logTo(&log, slog.LevelWarn), 1
		for range 3 {
			mustEnqueue(t, s, &Job{ID: NewID(), Task: "add", Kwargs: map[string]any{"A": 1, "new": 2}})
		}
		mustDrain(t, w)
		if sum != 3 {
			t.Errorf("the tasks added up to %d, want 3", sum)
		}
		const want = "level=WARN msg=\"argument ignored: the task does not know its name\" task=Add argument=new job="
		if got := log.String(); !strings.HasPrefix(got, want) || strings.Count(got, "\n") != 1 {
			t.Errorf("the log is\n%s, want one line that begins\n%s", got, want)
		}
	})
}

func TestCallRunsATaskAsAWorkerWould(t *testing.T) {
	task := Task[addArgs]{Name: "add", Queue: "sums", Run: func(ctx context.Context, args addArgs) error {
		job, ok := JobFromContext(ctx)
		if !ok || job.Task != "add" || job.Queue != "sums" || job.Attempts != 1 || job.ID == "" ||
			job.Status != StatusRunning {
			t.Errorf("the task's job is %+v", job)
		}
		if diff := cmp.Diff(map[string]any{"A": json.RawMessage("1"), "B": json.RawMessage("2")}, job.Kwargs); diff != "" {
			t.Errorf("the job's arguments (-want +got):\n%s", diff)
		}
		if storage, ok := StorageFromContext(ctx); ok {
			t.Errorf("the task has the storage %v", storage)
		}
		return SetResult(ctx, args.A+args.B)
	}}
	result, err := task.Call(t.Context(), addArgs{1, 2})
	if string(result) != "3" || err != nil {
		t.Errorf("result %s, error %v; want 3", result, err)
	}
}

func TestCallReturnsHowTheTaskEnded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		call := func(task Task[float64], arg float64) error {
			task.Name, task.Timeout = "task", time.Minute
			_, err := task.Call(t.Context(), arg)
			return err
		}
		nothing := Task[float64]{Run: func(context.Context, float64) error { return nil }}
		if err := call(nothing, 1); err != nil {
			t.Errorf("a task that succeeds: %v", err)
		}
		if err := call(nothing, math.NaN()); !errors.Is(err, ErrBadArgs) {
			t.Errorf("an argument that JSON cannot express: %v, want ErrBadArgs", err)
		}
		fails := Task[float64]{Run: func(context.Context, float64) error { return Permanent(errTask) }}
		if err := call(fails, 1); !errors.Is(err, errTask) || !isPermanent(err) {
			t.Errorf("a task that fails: %v, want its error", err)
		}
		panics := Task[float64]{Run: func(context.Context, float64) error { panic("boom") }}
		if err, ok := errors.AsType[*PanicError](call(panics, 1)); !ok || err.Value != "boom" || len(err.Stack) == 0 {
			t.Errorf("a task that panics: %v, want a PanicError", err)
		}
		start := time.Now()
		waits := Task[float64]{Run: func(ctx context.Context, _ float64) error { <-ctx.Done(); return ctx.Err() }}
		err := call(waits, 1)
		if took := time.Since(start); !errors.Is(err, context.DeadlineExceeded) || took != time.Minute {
			t.Errorf("a task that waits: %v after %v, want context.DeadlineExceeded after a minute", err, took)
		}
	})
}

package pinion

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// endLog keeps what OnEnd was called with.
type endLog struct {
	mu  sync.Mutex // guards all
	all []string
}

func (l *endLog) add(_ context.Context, job *Job, end End) {
	l.mu.Lock()
	defer l.mu.Unlock()
	line := fmt.Sprintf("%s %s after %v and %v", job.Task, end.Outcome, end.Waited, end.Took.Round(time.Millisecond))
	if end.Err != nil {
		line += ": " + oneLine(end.Err)
	}
	if job.Result != nil {
		line += ", result " + string(job.Result)
	}
	l.all = append(l.all, line)
}

func (l *endLog) want(t *testing.T, want ...string) {
	t.Helper()
	l.mu.Lock()
	defer l.mu.Unlock()
	if diff := cmp.Diff(want, l.all); diff != "" {
		t.Errorf("calls of OnEnd (-want +got):\n%s", diff)
	}
}

func TestOnEndIsToldHowEachAttemptEnded(t *testing.T) {
	overEach(t, func(t *testing.T, s Storage, in Inspector) {
		var log endLog
		tries := 0
		w := workerOf(s,
			taskOf("works", func(ctx context.Context) error { time.Sleep(time.Second); return SetResult(ctx, 7) }),
			flaky("flaky", 1),
			taskOf("dies", func(context.Context) error { return Permanent(errTask) }),
			taskOf("panics", func(context.Context) error { panic("boom") }),
			taskOf("snoozes", func(context.Context) error {
				tries++
				if tries == 1 {
					return fmt.Errorf("too busy: %w", Snooze(3*time.Second))
				}
				return nil
			}))
		w.Retry.MaxRetries = 1
		w.OnEnd = log.add
		for _, task := range []string{"works", "flaky", "dies", "snoozes"} {
			mustEnqueue(t, s, NewJob(task))
			mustDrain(t, w)
		}
		used := abandoned(t, s, "works", 2)
		mustDrain(t, w)
		log.want(t,
			"works succeeded after 0s and 1s, result 7",
			"flaky retried after 0s and 0s: it failed", "flaky succeeded after 0s and 0s",
			"dies dead-lettered after 0s and 0s: it failed",
			"snoozes snoozed after 0s and 0s: too busy: snoozed for 3s", "snoozes succeeded after 0s and 0s",
			"works dead-lettered after 0s and 0s: pinion: attempts used up: 2 of 2; the last error: lease expired")
		if job := mustGet(t, in, used.ID); job.Status != StatusFailed {
			t.Errorf("the used up job is %s", job.Status)
		}
	})
}

func TestOnEndIsToldOfCancellationsLostLeasesAndTheShutdown(t *testing.T) {
	inBubble(t, NewMemoryStorage(), func(t *scene) {
		var log endLog
		waits := func(ctx context.Context, _ *Job) error { <-ctx.Done(); return ctx.Err() }
		run := t.run(&Worker{Concurrency: 3, OnEnd: log.add}, t.task("canceled", waits), t.task("lost", waits),
			t.task("interrupted", waits))
		ids := t.enqueue("canceled", "lost", "interrupted")
		t.sleep(500 * time.Millisecond)
		t.cancel(0, 1, ids[0])
		t.sleep(time.Second)
		if err := t.storage.MarkFailed(t.Context(), t.get(ids[1]), errTask, time.Now().Add(time.Hour)); err != nil {
			t.Fatal(err)
		}
		t.sleep(time.Second)
		run.stop()
		if err := run.wait(); err != nil {
			t.Error(err)
		}
		log.want(t.T,
			"canceled canceled after 0s and 1s: context canceled",
			"lost lost after 0s and 2s: context canceled",
			"interrupted released after 0s and 12.5s: context canceled")
	})
}

func TestOnEndComesAfterTheStorageHasRecordedTheEnd(t *testing.T) {
	overMemory(t, func(t *testing.T, s *MemoryStorage) {
		w := workerOf(s, taskOf("works", func(context.Context) error { return nil }),
			taskOf("dies", func(context.Context) error { return Permanent(errTask) }))
		calls := 0
		w.OnEnd = func(_ context.Context, job *Job, end End) {
			calls++
			want := StatusSuccess
			if end.Outcome == OutcomeDeadLettered {
				want = StatusFailed
				if !errors.Is(end.Err, errTask) {
					t.Errorf("the error is %v, want the task's own", end.Err)
				}
			}
			if got := mustGet(t, s, job.ID).Status; got != want {
				t.Errorf("when OnEnd is called for %s the job is %s, want %s", job.Task, got, want)
			}
			job.ID, job.Claim = "changed", 0 // it is a copy
		}
		mustEnqueue(t, s, NewJob("works"), NewJob("dies"))
		mustDrain(t, w)
		if calls != 2 {
			t.Errorf("OnEnd was called %d times, want twice", calls)
		}
	})
}

func TestADrainRunsWhatOnEndEnqueues(t *testing.T) {
	overMemory(t, func(t *testing.T, s *MemoryStorage) {
		ran := 0
		w := workerOf(s, taskOf("works", func(context.Context) error { ran++; return nil }))
		w.OnEnd = func(ctx context.Context, job *Job, _ End) {
			time.Sleep(time.Second)
			if ran < 3 {
				s.Enqueue(ctx, NewJob("works"))
			}
		}
		mustEnqueue(t, s, NewJob("works"))
		mustDrain(t, w)
		if ran != 3 {
			t.Errorf("%d jobs ran, want 3", ran)
		}
	})
}

func TestASlowOnEndDelaysNeitherHeartbeatsNorRecording(t *testing.T) {
	inBubble(t, NewMemoryStorage(), func(t *scene) {
		release := make(chan struct{})
		run := t.run(&Worker{Concurrency: 2, OnEnd: func(context.Context, *Job, End) { <-release }},
			t.task("fast", func(context.Context, *Job) error { return nil }),
			t.task("long", func(ctx context.Context, _ *Job) error { return sleeping(ctx, time.Minute) }))
		t.enqueue("long")
		var jobs []*Job
		for range 3 * maxEnds {
			jobs = append(jobs, NewJob("fast"))
		}
		mustEnqueue(t.T, t.storage, jobs...)
		t.sleep(50 * time.Second)
		got := t.statuses("fast")
		if got[StatusSuccess] < maxEnds || got[StatusSuccess] > maxEnds+2*maxAhead || got[StatusPending] == 0 {
			t.Errorf("the fast jobs are %v; want some %d recorded and the others left", got, maxEnds)
		}
		close(release)
		t.sleep(20 * time.Second)
		if got := t.statuses(""); got[StatusSuccess] != 1+3*maxEnds {
			t.Errorf("the jobs are %v; want all of them SUCCESS", got)
		}
		if m := run.metrics(); m.Reaped != 0 {
			t.Errorf("%d leases were lost", m.Reaped)
		}
	})
}

func TestAnOnEndThatHangsDelaysRunNoLongerThanASlowTask(t *testing.T) {
	inBubble(t, NewMemoryStorage(), func(t *scene) {
		hangs := func(ctx context.Context, _ *Job, _ End) { <-ctx.Done() }
		run := t.run(&Worker{OnEnd: hangs}, t.task("a", func(context.Context, *Job) error { return nil }))
		id := t.enqueue("a")[0]
		t.sleep(time.Second)
		run.stop()
		if err := run.wait(); err != nil || run.at != 12*time.Second {
			t.Errorf("Run returned %v after %v; want nil after 12s", err, run.at)
		}
		if job := t.get(id); job.Status != StatusSuccess {
			t.Errorf("the job is %s, want SUCCESS", job.Status)
		}
	})
}

func TestAnOnEndThatHangsKeepsADrainForShutdownTimeout(t *testing.T) {
	inBubble(t, NewMemoryStorage(), func(t *scene) {
		release := make(chan struct{})
		defer close(release)
		ids := t.enqueue("a", "a")
		w := workerOf(t.storage, t.task("a", func(context.Context, *Job) error { return nil }))
		w.ShutdownTimeout = 3 * time.Second
		w.OnEnd = func(context.Context, *Job, End) { <-release }
		start := time.Now()
		if err := w.Drain(t.Context()); err != nil {
			t.Errorf("Drain: %v", err)
		}
		if took := time.Since(start); took > 2*w.ShutdownTimeout+lastWords+promptly {
			t.Errorf("Drain took %v, with a ShutdownTimeout of %v", took, w.ShutdownTimeout)
		}
		for _, id := range ids {
			if job := t.get(id); job.Status != StatusSuccess {
				t.Errorf("a job is %s, want SUCCESS", job.Status)
			}
		}
	})
}

func TestAnOnEndThatPanicsOrExitsIsCalledAgain(t *testing.T) {
	overMemory(t, func(t *testing.T, s *MemoryStorage) {
		calls := 0
		w := workerOf(s, taskOf("works", func(context.Context) error { return nil }))
		var log bytes.Buffer
		w.Logger = logTo(&log, slog.LevelError)
		w.OnEnd = func(context.Context, *Job, End) {
			calls++
			switch calls {
			case 1:
				panicDeepDown("boom")
			case 2:
				runtime.Goexit()
			}
		}
		mustEnqueue(t, s, NewJob("works"), NewJob("works"), NewJob("works"))
		mustDrain(t, w)
		if calls != 3 {
			t.Errorf("OnEnd was called %d times, want 3", calls)
		}
		if got := log.String(); !strings.Contains(got, "OnEnd panicked") || !strings.Contains(got, "panicDeepDown") {
			t.Errorf("the panic and its stack are not logged: %s", got)
		}
	})
}

func TestOnEndIsNotCalledForJobsThatDidNotStart(t *testing.T) {
	inBubble(t, NewMemoryStorage(), func(t *scene) {
		var log endLog
		run := t.run(&Worker{Concurrency: 1, OnEnd: log.add},
			t.task("fast", func(context.Context, *Job) error { return nil }),
			t.task("slow", func(ctx context.Context, _ *Job) error { return sleeping(ctx, 5*time.Second) }))
		t.enqueue("fast", "slow", "fast", "fast")
		t.sleep(time.Second)
		run.stop()
		if err := run.wait(); err != nil {
			t.Error(err)
		}
		log.want(t.T, "fast succeeded after 0s and 0s", "slow succeeded after 0s and 5s")
	})
}

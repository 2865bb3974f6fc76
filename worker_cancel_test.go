package pinion

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	gocmp "github.com/google/go-cmp/cmp"
)

// These tests run in synctest bubbles. CheckStorage tests what the storages do by themselves.

func TestACanceledJobsTaskIsToldAtTheNextHeartbeatAndWhatItAnswersButSuccessIsTheSame(t *testing.T) {
	overStorages(t, func(t *scene) {
		tasks, ids := t.thatWait(ErrCanceled)
		run := t.run(&Worker{Concurrency: len(ids) + 1}, append(tasks, t.task("other", func(ctx context.Context, _ *Job) error {
			return sleeping(ctx, 8*time.Second)
		}))...)
		other := t.enqueue("other")[0]
		t.sleep(5300 * time.Millisecond)
		t.cancel(0, len(ids), ids...)
		t.sleep(5 * time.Second)
		var failed []string
		for _, id := range ids {
			if job := t.get(id); job.Task != "nil" {
				failed = append(failed, id)
			} else if job.Status != StatusSuccess {
				t.Errorf("the job whose task succeeded is %s, error %q", job.Status, job.Error)
			}
		}
		t.wantCanceled(failed...)
		if job := t.get(other); job.Status != StatusSuccess {
			t.Errorf("the job beside them is %s, error %q", job.Status, job.Error)
		}
		want := Metrics{Processed: 10, Succeeded: 2, Canceled: 8}
		if diff := gocmp.Diff(want, run.metrics()); diff != "" {
			t.Errorf("metrics (-want +got):\n%s", diff)
		}
		if lines := run.log.lines("job"); len(lines) > 0 {
			t.Errorf("the log tells of failures: %q", lines)
		}
	})
}

func TestATaskThatIgnoresItsCancellationKeepsItsJobUntilItReturns(t *testing.T) {
	overStorages(t, func(t *scene) {
		run := t.run(&Worker{}, t.task("a", func(context.Context, *Job) error {
			time.Sleep(time.Minute)
			return errors.New("broken")
		}))
		id := t.enqueue("a")[0]
		t.sleep(time.Second)
		t.cancel(0, 1, id)
		t.sleep(58 * time.Second)
		if job := t.get(id); job.Status != StatusRunning || !job.Canceled || run.metrics().Running != 1 {
			t.Errorf("%s, Canceled %t; want it RUNNING and marked", job.Status, job.Canceled)
		}
		t.sleep(2 * time.Second)
		t.wantCanceled(id)
		if diff := gocmp.Diff(Metrics{Processed: 1, Canceled: 1}, run.metrics()); diff != "" {
			t.Errorf("metrics (-want +got):\n%s", diff)
		}
	})
}

func TestAFailureBeforeTheHeartbeatThatWouldTellIsACancellationAndNoRetry(t *testing.T) {
	overStorages(t, func(t *scene) {
		fails := func(err error) func(context.Context, *Job) error {
			return func(ctx context.Context, _ *Job) error {
				pause(ctx, 700*time.Millisecond)
				if ctx.Err() != nil {
					t.Errorf("the task was told, so this test shows nothing")
				}
				return err
			}
		}
		ids := t.enqueue("fails", "dies")
		worker := &Worker{Retry: &RetryPolicy{MaxRetries: 3, BaseDelay: time.Hour, Cap: time.Hour}}
		run := t.begin(worker, worker.Drain, t.task("fails", fails(errors.New("broken"))),
			t.task("dies", fails(Permanent(errors.New("broken")))))
		t.sleep(500 * time.Millisecond)
		t.cancel(0, 2, ids...)
		if err := run.wait(); err != nil || run.at > 2*time.Second {
			t.Errorf("Drain returned %v after %v; want nil at once, for there is no retry to wait for", err, run.at)
		}
		t.wantCanceled(ids...)
		if diff := gocmp.Diff(Metrics{Processed: 2, Canceled: 2}, run.metrics()); diff != "" {
			t.Errorf("metrics (-want +got):\n%s", diff)
		}
	})
}

func TestACancellationAndAShutdownMayComeTogether(t *testing.T) {
	overStorages(t, func(t *scene) {
		causes := make(chan error, 1)
		waits := func(ctx context.Context, _ *Job) error {
			<-ctx.Done()
			causes <- context.Cause(ctx)
			return ctx.Err()
		}
		// Told during the grace.
		run := t.run(&Worker{}, t.task("a", waits))
		id := t.enqueue("a")[0]
		t.sleep(2300 * time.Millisecond)
		t.cancel(0, 1, id)
		run.stop()
		if err := run.wait(); err != nil || <-causes != ErrCanceled || run.at != 3*time.Second {
			t.Errorf("Run returned %v after %v; want nil at the next heartbeat", err, run.at)
		}
		t.wantCanceled(id)

		// Told to shut down first: the job is released, and is not to run again.
		run = t.run(&Worker{HeartbeatInterval: 2900 * time.Millisecond, ShutdownTimeout: time.Second},
			t.task("a", waits))
		id = t.enqueue("a")[0]
		t.sleep(time.Second)
		t.cancel(0, 1, id)
		run.stop()
		if err := run.wait(); err != nil || <-causes != ErrShutdown {
			t.Errorf("Run returned %v, want nil", err)
		}
		t.wantCanceled(id)
	})
}

func TestACanceledJobThatWaitsForASlotEndsUnrun(t *testing.T) {
	overStorages(t, func(t *scene) {
		var ran atomic.Int64
		ids := t.enqueue("fast", "fast", "slow", "fast")
		t.run(&Worker{Concurrency: 1},
			t.task("fast", func(context.Context, *Job) error { ran.Add(1); return nil }),
			t.task("slow", func(ctx context.Context, _ *Job) error { return sleeping(ctx, time.Minute) }))
		t.sleep(100 * time.Millisecond)
		if job := t.get(ids[3]); job.Status != StatusRunning {
			t.Fatalf("the last job is %s and was not claimed ahead, so this test shows nothing", job.Status)
		}
		t.cancel(0, 1, ids[3])
		t.sleep(3 * time.Second)
		t.wantCanceled(ids[3])
		if ran.Load() != 2 {
			t.Errorf("%d fast jobs ran, want 2", ran.Load())
		}
	})
}

func TestACanceledJobOfADeadWorkerIsEndedByTheReaper(t *testing.T) {
	overStorages(t, func(t *scene) {
		id := t.enqueue("a")[0]
		mustDequeue(t.T, t.storage, 1)
		t.cancel(0, 1, id)
		run := t.run(&Worker{}, t.task("a", func(context.Context, *Job) error { t.Error("it runs again"); return nil }))
		t.sleep(15 * time.Second)
		t.wantCanceled(id)
		if m := run.metrics(); m.Reaped != 1 || m.Processed != 0 {
			t.Errorf("metrics are %+v; want one lease taken back and nothing processed", m)
		}
	})
}

func TestACanceledJobIsPrunedAndNeverReplayed(t *testing.T) {
	overStorages(t, func(t *scene) {
		id := t.enqueue("a")[0]
		t.cancel(1, 0, id)
		t.sleep(time.Second)
		if n, err := t.storage.Replay(t.Context(), Filter{}); n != 0 || err != nil {
			t.Errorf("Replay: %d, %v; want none", n, err)
		}
		if n, err := t.storage.Prune(t.Context(), time.Now()); n != 1 || err != nil {
			t.Errorf("Prune: %d, %v; want 1", n, err)
		}
	})
}

// cannotSay is a storage that cannot tell what was canceled.
type cannotSay struct{ tended }

func (cannotSay) Canceled(context.Context, ...*Job) ([]*Job, error) { return nil, errBroken }

func TestTroubleWithAskingWhatWasCanceledStopsNoHeartbeat(t *testing.T) {
	inBubble(t, cannotSay{NewMemoryStorage()}, func(t *scene) {
		run := t.run(&Worker{},
			t.task("a", func(ctx context.Context, _ *Job) error { return sleeping(ctx, time.Minute) }))
		id := t.enqueue("a")[0]
		t.sleep(61 * time.Second)
		if job := t.get(id); job.Status != StatusSuccess || run.metrics().Reaped != 0 {
			t.Errorf("the job is %s, error %q; want SUCCESS", job.Status, job.Error)
		}
		if len(run.log.lines("storage in trouble")) == 0 {
			t.Error("the trouble is not logged")
		}
	})
}

// A Python process may take a job from its worker; the mark stands, and counts again when the job is claimed again.
func TestACancellationOutlivesAResetByPython(t *testing.T) {
	for _, reset := range []string{"PENDING", "RUNNING"} {
		synctest.Test(t, func(t *testing.T) {
			s, path := newSQLite(t)
			job := NewJob("a")
			mustEnqueue(t, s, job)
			mustDequeue(t, s, 1)
			if _, asked, err := s.Cancel(t.Context(), job.ID); len(asked) != 1 || err != nil {
				t.Fatal(asked, err)
			}
			python(t, path, fmt.Sprintf("UPDATE jobs SET status='%s';", reset))
			ended, asked, err := s.Cancel(t.Context(), job.ID)
			if err != nil || len(ended)+len(asked) != 1 {
				t.Errorf("Cancel again: %q ended, %q asked, error %v", ended, asked, err)
			}
			if reset == "PENDING" {
				python(t, path, "UPDATE jobs SET status='PENDING';")
				if again := mustDequeue(t, s, 1)[0]; !again.Canceled {
					t.Error("the claimed job has lost its mark")
				}
			}
			reap(t, s, defaultLease, 1)
			otherProgram(t, path).want("FAILED|"+ErrCanceled.Error()+"|1", "SELECT status, error, cancel FROM jobs")
		})
	}
}

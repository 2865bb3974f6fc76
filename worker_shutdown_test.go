package pinion

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	gocmp "github.com/google/go-cmp/cmp"
)

// These tests run in synctest bubbles. Where a test sets nothing else, ShutdownTimeout is 10s.

func TestAnIdleWorkerStopsAtOnce(t *testing.T) {
	for name, stop := range map[string]func(*runningWorker){
		"by its ctx": func(r *runningWorker) { r.stop() },
		"by Stop":    func(r *runningWorker) { r.worker.Stop() },
	} {
		overStorages(t, func(t *scene) {
			run := t.run(&Worker{})
			t.sleep(3 * time.Second)
			stop(run)
			if err := run.wait(); err != nil || run.at != 3*time.Second {
				t.Errorf("stopped %s after 3s, Run returned %v after %v; want nil, at once", name, err, run.at)
			}
		})
	}
}

func TestATaskThatEndsDuringTheGraceIsRecorded(t *testing.T) {
	overStorages(t, func(t *scene) {
		run := t.run(&Worker{}, t.task("a", func(ctx context.Context, _ *Job) error {
			if err := SetResult(ctx, 42); err != nil {
				return err
			}
			return sleeping(ctx, 9*time.Second)
		}))
		id := t.enqueue("a")[0]
		t.sleep(2 * time.Second)
		run.stop()
		if err := run.wait(); err != nil || !about(run.at, 9*time.Second) {
			t.Errorf("Run returned %v after %v; want nil when the task has ended, after 9s", err, run.at)
		}
		if job := t.get(id); job.Status != StatusSuccess || string(job.Result) != "42" {
			t.Errorf("%s with result %s; want SUCCESS with 42", job.Status, job.Result)
		}
	})
}

func TestTheTasksContextLivesThroughTheGraceAndEndsWithErrShutdown(t *testing.T) {
	for _, grace := range []time.Duration{0, time.Millisecond, 5 * time.Minute} {
		inBubble(t, NewMemoryStorage(), func(t *scene) {
			var ended time.Duration
			var cause error
			run := t.run(&Worker{ShutdownTimeout: grace}, t.task("a", func(ctx context.Context, _ *Job) error {
				if _, ok := ctx.Deadline(); ok {
					t.Error("the ctx has a deadline")
				}
				<-ctx.Done()
				ended, cause = t.since(), context.Cause(ctx)
				return ctx.Err()
			}))
			t.enqueue("a")
			t.sleep(2 * time.Second)
			run.stop()
			run.wait()
			if grace == 0 {
				grace = 10 * time.Second
			}
			if ended != 2*time.Second+grace || cause != ErrShutdown {
				t.Errorf("stopped after 2s with a grace of %v, the ctx ended after %v because %v; want then, and ErrShutdown", grace, ended, cause)
			}
		})
	}
}

func TestWhatATaskAnswersToTheShutdownCounts(t *testing.T) {
	type outcome struct {
		Status   Status
		Attempts int
		Error    string
	}
	broken := errors.New("broken")
	released := outcome{StatusPending, 0, ""}
	cases := map[string]struct {
		answer func(context.Context) error
		want   outcome
	}{
		"the ctx's error":            {func(ctx context.Context) error { return ctx.Err() }, released},
		"the ctx's cause":            {func(ctx context.Context) error { return context.Cause(ctx) }, released},
		"ErrShutdown":                {func(context.Context) error { return ErrShutdown }, released},
		"the ctx's error, wrapped":   {func(ctx context.Context) error { return fmt.Errorf("reading: %w", ctx.Err()) }, released},
		"its cause, joined":          {func(ctx context.Context) error { return errors.Join(broken, context.Cause(ctx)) }, released},
		"the ctx's error, for good":  {func(ctx context.Context) error { return Permanent(ctx.Err()) }, outcome{StatusFailed, 1, "context canceled"}},
		"success":                    {func(context.Context) error { return nil }, outcome{StatusSuccess, 1, ""}},
		"an error of its own":        {func(context.Context) error { return broken }, released},
		"what a killed program says": {func(ctx context.Context) error { return exec.CommandContext(ctx, "sleep", "30").Run() }, released},
		"a panic":                    {func(context.Context) error { panic("broken") }, released},
		"a retry of its own":         {func(context.Context) error { return RetryAfter(time.Hour, broken) }, released},
		"bad arguments":              {func(context.Context) error { return fmt.Errorf("%w: x", ErrBadArgs) }, outcome{StatusFailed, 1, "pinion: bad arguments: x"}},
		"a permanent error":          {func(context.Context) error { return Permanent(broken) }, outcome{StatusFailed, 1, "broken"}},
		"a deadline of its own":      {func(context.Context) error { return context.DeadlineExceeded }, released},
	}
	overStorages(t, func(t *scene) {
		var tasks []AnyTask
		ids := make(map[string]string)
		for name, c := range cases {
			tasks = append(tasks, t.task(name, func(ctx context.Context, _ *Job) error {
				<-ctx.Done()
				return c.answer(ctx)
			}))
			ids[name] = t.enqueue(name)[0]
		}
		run := t.run(&Worker{Concurrency: len(cases)}, tasks...)
		t.sleep(time.Second)
		run.stop()
		if err := run.wait(); err != nil || !about(run.at, 11*time.Second) {
			t.Errorf("Run returned %v after %v; want nil after 11s", err, run.at)
		}
		for name, c := range cases {
			job := t.get(ids[name])
			if diff := gocmp.Diff(c.want, outcome{job.Status, job.Attempts, job.Error}); diff != "" {
				t.Errorf("%s (-want +got):\n%s", name, diff)
			}
		}
		want := Metrics{Processed: 4, Succeeded: 1, Failed: 3, DeadLettered: 3}
		if diff := gocmp.Diff(want, run.metrics()); diff != "" {
			t.Errorf("metrics (-want +got):\n%s", diff)
		}
	})
}

// Only the cancellation makes such an error an answer to it.
func TestACancellationOfItsOwnDuringTheGraceIsAFailureOfTheTask(t *testing.T) {
	overStorages(t, func(t *scene) {
		ids := t.enqueue("canceled", "shutdown")
		run := t.run(&Worker{},
			t.task("canceled", func(ctx context.Context, _ *Job) error {
				pause(ctx, 3*time.Second)
				return context.Canceled
			}),
			t.task("shutdown", func(ctx context.Context, _ *Job) error {
				pause(ctx, 3*time.Second)
				return ErrShutdown
			}))
		t.sleep(time.Second)
		run.stop()
		if err := run.wait(); err != nil {
			t.Error(err)
		}
		for _, id := range ids {
			if job := t.get(id); job.Attempts != 1 || job.Error == "" {
				t.Errorf("%s: %d attempts, error %q; want a failure that counts", job.Task, job.Attempts, job.Error)
			}
		}
	})
}

func TestAReleasedJobIsRunByTheNextWorkerAsIfForTheFirstTime(t *testing.T) {
	overStorages(t, func(t *scene) {
		var attempts []int
		task := t.task("a", func(ctx context.Context, job *Job) error {
			attempts = append(attempts, job.Attempts)
			return sleeping(ctx, time.Duration(len(attempts))*15*time.Second-15*time.Second)
		})
		first := t.enqueue("a")[0] // returns at once
		second := t.enqueue("a")[0]
		run := t.run(&Worker{Concurrency: 1}, task)
		t.sleep(time.Second)
		run.stop()
		run.wait()
		claim := t.get(second).Claim
		t.run(&Worker{Concurrency: 1}, t.task("a", func(_ context.Context, job *Job) error {
			attempts = append(attempts, job.Attempts)
			if job.Claim <= claim {
				t.Errorf("claim %d, after claim %d was given back", job.Claim, claim)
			}
			return nil
		}))
		t.sleep(time.Second)
		if diff := gocmp.Diff([]int{1, 1, 1}, attempts); diff != "" {
			t.Errorf("attempts (-want +got):\n%s", diff)
		}
		for _, id := range []string{first, second} {
			if job := t.get(id); job.Status != StatusSuccess || job.Attempts != 1 {
				t.Errorf("%s after %d attempts, want SUCCESS after 1", job.Status, job.Attempts)
			}
		}
	})
}

func TestATaskThatIgnoresTheShutdownIsNamedAndLeftToTheReaper(t *testing.T) {
	overStorages(t, func(t *scene) {
		unblock := make(chan struct{})
		run := t.run(&Worker{},
			t.task("deaf", func(context.Context, *Job) error { <-unblock; return nil }),
			t.task("obedient", func(ctx context.Context, _ *Job) error { <-ctx.Done(); return ctx.Err() }),
			t.task("late", func(context.Context, *Job) error {
				time.Sleep(11900 * time.Millisecond)
				return nil
			}))
		ids := t.enqueue("deaf", "obedient", "late")
		t.sleep(time.Second)
		run.stop()
		err := run.wait()
		if run.at != 12*time.Second {
			t.Errorf("stopped after 1s, Run returned after %v; want a second after the grace, 12s", run.at)
		}
		if err == nil || !strings.Contains(err.Error(), "deaf (job "+ids[0]+")") ||
			strings.Contains(err.Error(), "obedient") || strings.Contains(err.Error(), "late") {
			t.Errorf("Run returned %v; want an error that names the deaf task alone", err)
		}
		for i, want := range []Status{StatusRunning, StatusPending, StatusSuccess} {
			if job := t.get(ids[i]); job.Status != want {
				t.Errorf("%s is %s, want %s", job.Task, job.Status, want)
			}
		}
		before := t.get(ids[0])
		if beat := before.HeartbeatAt.Sub(t.start); beat < 11*time.Second || beat > 12*time.Second {
			t.Errorf("the last heartbeat of the deaf task was after %v; want one while Run waited", beat)
		}
		ran := 0
		t.run(&Worker{}, t.task("deaf", func(context.Context, *Job) error { ran++; return nil }),
			t.task("obedient", func(context.Context, *Job) error { return nil }))
		t.sleep(15 * time.Second)
		if job := t.get(ids[0]); ran != 1 || job.Status != StatusSuccess || job.Attempts != 2 {
			t.Errorf("the next worker ran the deaf task %d times, %s after %d attempts; want once, SUCCESS after 2",
				ran, job.Status, job.Attempts)
		}
		done := t.get(ids[0])
		close(unblock) // the late success must change nothing
		t.sleep(time.Second)
		if diff := gocmp.Diff(done, t.get(ids[0])); diff != "" {
			t.Errorf("the late end of the deaf task changed its job:\n%s", diff)
		}
		if m := run.metrics(); m.Succeeded != 1 || m.Processed != 1 {
			t.Errorf("%d succeeded of %d processed, want the late task alone", m.Succeeded, m.Processed)
		}
	})
}

func TestJobsClaimedAheadGoBackAtTheStop(t *testing.T) {
	overStorages(t, func(t *scene) {
		ids := t.enqueue("fast", "fast", "slow")
		ids = append(ids, t.enqueue("fast", "fast", "fast", "fast", "fast")...)
		run := t.run(&Worker{Concurrency: 1},
			t.task("fast", func(context.Context, *Job) error { return nil }),
			t.task("slow", func(ctx context.Context, _ *Job) error { return sleeping(ctx, 5*time.Second) }))
		t.sleep(400 * time.Millisecond)
		if got := t.statuses("fast"); got[StatusRunning] != 5 {
			t.Fatalf("the fast jobs are %v; want 5 claimed ahead", got)
		}
		run.stop()
		t.sleep(100 * time.Millisecond)
		for _, id := range ids[3:] {
			if job := t.get(id); job.Status != StatusPending || job.Attempts != 0 || job.Error != "" {
				t.Errorf("%s, %d attempts, error %q; want it PENDING and as new, while the slow one still runs",
					job.Status, job.Attempts, job.Error)
			}
		}
		var mu sync.Mutex // guards attempts
		var attempts []int
		t.run(&Worker{Concurrency: 1}, t.task("fast", func(_ context.Context, job *Job) error {
			mu.Lock()
			defer mu.Unlock()
			attempts = append(attempts, job.Attempts)
			return nil
		}))
		t.sleep(2 * time.Second)
		if diff := gocmp.Diff([]int{1, 1, 1, 1, 1}, attempts); diff != "" {
			t.Errorf("attempts of the next worker (-want +got):\n%s", diff)
		}
		if err := run.wait(); err != nil || !about(run.at, 5*time.Second) {
			t.Errorf("Run returned %v after %v; want nil after 5s", err, run.at)
		}
		if job := t.get(ids[2]); job.Status != StatusSuccess {
			t.Errorf("the slow job is %s, want SUCCESS", job.Status)
		}
	})
}

func TestNothingIsClaimedAfterTheStop(t *testing.T) {
	overStorages(t, func(t *scene) {
		run := t.run(&Worker{Concurrency: 5},
			t.task("a", func(ctx context.Context, _ *Job) error { return sleeping(ctx, 2*time.Second) }))
		t.enqueue("a", "a")
		t.sleep(time.Second)
		run.stop()
		t.sleep(time.Millisecond)
		late := t.enqueue("a", "a", "a") // while slots are free, and while others become free
		run.wait()
		t.sleep(time.Minute)
		for _, id := range late {
			if job := t.get(id); job.Status != StatusPending || job.Claim != 0 {
				t.Errorf("a job enqueued after the stop is %s with claim %d; want it never claimed",
					job.Status, job.Claim)
			}
		}
		if m := run.metrics(); m.Succeeded != 2 {
			t.Errorf("%d succeeded, want 2", m.Succeeded)
		}
	})
}

func TestHeartbeatsGoOnDuringTheGrace(t *testing.T) {
	overStorages(t, func(t *scene) {
		ran := 0
		task := t.task("a", func(ctx context.Context, _ *Job) error { ran++; return sleeping(ctx, 50*time.Second) })
		run := t.run(&Worker{VisibilityTimeout: 3 * time.Second, ShutdownTimeout: time.Minute}, task)
		id := t.enqueue("a")[0]
		t.sleep(time.Second)
		run.stop()
		t.run(&Worker{VisibilityTimeout: 3 * time.Second}, task)
		if err := run.wait(); err != nil || !about(run.at, 50*time.Second) {
			t.Errorf("Run returned %v after %v; want nil after 50s", err, run.at)
		}
		if job := t.get(id); ran != 1 || job.Attempts != 1 || job.Status != StatusSuccess {
			t.Errorf("ran %d times, %s after %d attempts; want once and SUCCESS", ran, job.Status, job.Attempts)
		}
	})
}

func TestALeaseLostDuringTheGraceIsNotWrittenFor(t *testing.T) {
	overStorages(t, func(t *scene) {
		run := t.run(&Worker{}, t.task("a", func(ctx context.Context, _ *Job) error {
			<-ctx.Done()
			if context.Cause(ctx) != ErrLeaseLost || t.since() != 4*time.Second {
				t.Errorf("canceled after %v because %v; want 4s and ErrLeaseLost", t.since(), context.Cause(ctx))
			}
			return ctx.Err()
		}))
		t.enqueue("a")
		t.sleep(time.Second)
		run.stop()
		t.sleep(2500 * time.Millisecond)
		stolen := t.steal(1)[0]
		if err := run.wait(); err != nil || run.at != 4*time.Second {
			t.Errorf("Run returned %v after %v; want nil after 4s", err, run.at)
		}
		if diff := gocmp.Diff(stolen, t.get(stolen.ID)); diff != "" {
			t.Errorf("the stolen job, as it was claimed and as it is stored:\n%s", diff)
		}
	})
}

func TestAStorageThatFailsAtTheShutdownDelaysRunNoLongerThanASlowTask(t *testing.T) {
	answers := map[string]func(context.Context) error{
		"MarkDone":   func(context.Context) error { return nil },
		"MarkFailed": func(context.Context) error { return errors.New("broken") },
		"DeadLetter": func(context.Context) error { return Permanent(errors.New("broken")) },
		"Release":    func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() },
	}
	for verb, answer := range answers {
		for _, hangs := range []bool{false, true} {
			overStorages(t, func(t *scene) {
				broken := &failing{tended: t.storage, hangs: hangs}
				run := t.run(&Worker{Storage: broken}, t.task("a", func(ctx context.Context, _ *Job) error {
					pause(ctx, 3*time.Second)
					return answer(ctx)
				}))
				id := t.enqueue("a")[0]
				t.sleep(time.Second)
				run.stop()
				broken.fail(verb)
				err := run.wait()
				if run.at != 12*time.Second {
					t.Errorf("%s fails (hangs: %v): Run returned after %v, want 12s", verb, hangs, run.at)
				}
				if err == nil || !strings.Contains(err.Error(), "1 jobs could not be recorded") ||
					strings.Contains(err.Error(), "ignored") {
					t.Errorf("%s fails (hangs: %v): Run returned %v; want an error that says that an end was not recorded", verb, hangs, err)
				}
				if job := t.get(id); job.Status != StatusRunning {
					t.Errorf("%s fails (hangs: %v): the job is %s, want RUNNING for the reaper",
						verb, hangs, job.Status)
				}
			})
		}
	}
}

func TestAStorageThatRecoversDuringTheGraceHidesNothing(t *testing.T) {
	overStorages(t, func(t *scene) {
		broken := &failing{tended: t.storage}
		run := t.run(&Worker{Storage: broken, Concurrency: 4},
			t.task("good", func(ctx context.Context, _ *Job) error { return sleeping(ctx, 2*time.Second) }),
			t.task("bad", func(ctx context.Context, _ *Job) error {
				pause(ctx, 2*time.Second)
				return errors.New("bad")
			}),
			t.task("worse", func(ctx context.Context, _ *Job) error {
				pause(ctx, 2*time.Second)
				return Permanent(errors.New("worse"))
			}))
		ids := t.enqueue("good", "bad", "worse")
		t.sleep(time.Second)
		run.stop()
		broken.fail("MarkDone", "MarkFailed", "DeadLetter", "Heartbeat")
		t.sleep(5500 * time.Millisecond)
		broken.fail()
		if err := run.wait(); err != nil || run.at > 7600*time.Millisecond {
			t.Errorf("Run returned %v after %v; want nil within a second after the recovery at 6.5s", err, run.at)
		}
		for i, want := range []Status{StatusSuccess, StatusPending, StatusFailed} {
			if job := t.get(ids[i]); job.Status != want || job.Attempts != 1 {
				t.Errorf("%s is %s after %d attempts, want %s after 1", job.Task, job.Status, job.Attempts, want)
			}
		}
	})
}

func TestSuccessesThatComeWhileOthersAreRecordedAreRecordedBeforeRunReturns(t *testing.T) {
	for range 20 {
		inBubble(t, NewMemoryStorage(), func(t *scene) {
			run := t.run(&Worker{Storage: &slow{tended: t.storage, markDone: time.Second}},
				t.task("first", func(ctx context.Context, _ *Job) error { return sleeping(ctx, 5*time.Second) }),
				t.task("last", func(ctx context.Context, _ *Job) error { return sleeping(ctx, 5500*time.Millisecond) }))
			t.enqueue("first", "last")
			t.sleep(time.Second)
			run.stop()
			if err := run.wait(); err != nil || !about(run.at, 7*time.Second) {
				t.Errorf("Run returned %v after %v; want nil after 7s, the second of two writes of 1s", err, run.at)
			}
			if m := run.metrics(); m.Succeeded != 2 {
				t.Errorf("%d succeeded, want 2", m.Succeeded)
			}
		})
	}
}

// The last success and the end of the run may come at the same time, and the recorder may see either first.
func TestASuccessThatComesWithTheEndOfTheLastTaskIsRecorded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, a := &successes{wake: make(chan struct{}, 1)}, new(attempt)
		busy := func() bool { return false }
		go func() {
			synctest.Wait() // until batch has seen that there is nothing yet
			c.add(a)
			c.close()
		}()
		if got := c.batch(busy); len(got) != 1 || got[0] != a {
			t.Errorf("the batch has %d successes, want the one that there is", len(got))
		}
		if got := c.batch(busy); len(got) != 0 {
			t.Errorf("the batch after the last has %d successes, want none", len(got))
		}
	})
}

// Jobs that have waited too long are on their way back when the last task ends: Run must wait for that.
func TestAReleaseUnderWayAtTheStopIsFinished(t *testing.T) {
	inBubble(t, NewMemoryStorage(), func(t *scene) {
		ids := t.enqueue("fast", "fast", "slow", "fast", "fast", "fast")
		run := t.run(&Worker{Storage: &slow{tended: t.storage, release: 3 * time.Second}, Concurrency: 1},
			t.task("fast", func(context.Context, *Job) error { return nil }),
			t.task("slow", func(ctx context.Context, _ *Job) error { return sleeping(ctx, 3*time.Second) }))
		t.sleep(2500 * time.Millisecond)
		run.stop()
		if err := run.wait(); err != nil || run.at < 5*time.Second {
			t.Errorf("Run returned %v after %v; want nil, and not before 5s, when the jobs are back", err, run.at)
		}
		for _, id := range ids[3:] {
			if job := t.get(id); job.Status != StatusPending || job.Attempts != 0 {
				t.Errorf("%s after %d attempts, want PENDING after none", job.Status, job.Attempts)
			}
		}
	})
}

// The look for jobs that have waited too long and the stop both give jobs back: each job one of them.
func TestAStopAtTheMomentOfAHeartbeatLosesNothing(t *testing.T) {
	const n = 900
	for range 50 {
		inBubble(t, NewMemoryStorage(), func(t *scene) {
			jobs := make([]*Job, 2+n)
			for i := range jobs {
				jobs[i] = NewJob("fast")
				if i >= 2 {
					jobs[i].RunAt = t.start.Add(500 * time.Millisecond) // so that they are young at the heartbeat
				}
			}
			jobs[2].Task = "slow"
			mustEnqueue(t.T, t.storage, jobs...)
			run := t.run(&Worker{Concurrency: 1},
				t.task("fast", func(context.Context, *Job) error { return nil }),
				t.task("slow", func(ctx context.Context, _ *Job) error { return sleeping(ctx, time.Second) }))
			time.AfterFunc(time.Second, run.stop)
			if err := run.wait(); err != nil {
				t.Error(err)
			}
			if got := t.statuses("fast"); got[StatusSuccess]+got[StatusPending] != 2+n-1 || got[StatusPending] < n-1 {
				t.Errorf("the fast jobs are %v; want %d PENDING", got, n-1)
			}
		})
	}
}

func TestAClosedStorageEndsRun(t *testing.T) {
	overStorages(t, func(t *scene) {
		run := t.run(&Worker{})
		t.sleep(3 * time.Second)
		if err := t.storage.Close(); err != nil {
			t.Error(err)
		}
		if err := run.wait(); !errors.Is(err, ErrClosed) || run.at != 3*time.Second {
			t.Errorf("Run returned %v after %v; want ErrClosed at once", err, run.at)
		}
		again := t.run(&Worker{})
		if err := again.wait(); !errors.Is(err, ErrClosed) {
			t.Errorf("Run on a closed storage returned %v, want ErrClosed", err)
		}
	})
}

// A worker claims no more while some 2,000 ends wait to be recorded,
// and so does not learn from a claim what has changed.
func TestAWorkerWhoseStorageDoesNotKeepUpGoesOnWhenItDoesAndEndsWhenItIsClosed(t *testing.T) {
	const n = 5000
	for _, closed := range []bool{false, true} {
		inBubble(t, NewMemoryStorage(), func(t *scene) {
			storage := &failing{tended: t.storage}
			storage.fail("MarkDone")
			run := t.run(&Worker{Storage: storage}, t.task("a", func(context.Context, *Job) error { return nil }))
			t.enqueue(slices.Repeat([]string{"a"}, n)...)
			t.sleep(2500 * time.Millisecond)
			if got := t.statuses("a"); got[StatusRunning] < 2*maxBatch || got[StatusRunning] > 2*maxBatch+2*maxAhead {
				t.Errorf("the jobs are %v; want 2,000 RUNNING and what had been claimed by then", got)
			}
			if closed {
				t.storage.Close()
			}
			storage.fail()
			t.sleep(time.Second)
			if !closed {
				if got := t.statuses("a"); got[StatusSuccess] != n {
					t.Errorf("the jobs are %v, want %d SUCCESS", got, n)
				}
			}
			run.stop()
			if err := run.wait(); closed && (!errors.Is(err, ErrClosed) || run.at >= 3500*time.Millisecond) ||
				!closed && err != nil {
				t.Errorf("closed %t: Run returned %v after %v", closed, err, run.at)
			}
		})
	}
}

func TestAClosedStorageLetsRunningTasksEnd(t *testing.T) {
	for _, concurrency := range []int{1, 2} {
		overStorages(t, func(t *scene) {
			var ended time.Duration
			run := t.run(&Worker{Concurrency: concurrency}, t.task("a", func(ctx context.Context, _ *Job) error {
				err := sleeping(ctx, 8*time.Second)
				ended = t.since()
				return err
			}))
			t.enqueue("a")
			t.sleep(3 * time.Second)
			t.storage.Close()
			err := run.wait()
			if !errors.Is(err, ErrClosed) || !strings.Contains(fmt.Sprint(err), "1 jobs could not be recorded") ||
				!about(run.at, 8*time.Second) {
				t.Errorf("with %d slots Run returned %v after %v; want ErrClosed and the job that was not recorded, after 8s", concurrency, err, run.at)
			}
			if ended != 8*time.Second {
				t.Errorf("the task ended after %v, want 8s", ended)
			}
		})
	}
}

func TestStoppingAgainChangesNothing(t *testing.T) {
	overStorages(t, func(t *scene) {
		run := t.run(&Worker{}, t.task("a", func(ctx context.Context, _ *Job) error {
			<-ctx.Done()
			return ctx.Err()
		}))
		t.enqueue("a")
		t.sleep(time.Second)
		for range 3 {
			run.stop()
			run.worker.Stop()
			t.sleep(time.Second)
		}
		if err := run.wait(); err != nil || run.at != 11*time.Second {
			t.Errorf("first stopped after 1s, Run returned %v after %v; want nil after 11s", err, run.at)
		}
		run.stop()
		run.worker.Stop()
	})
}

func TestASecondRunAtOnceIsAnErrorAndTheFirstGoesOn(t *testing.T) {
	overStorages(t, func(t *scene) {
		worker := &Worker{}
		run := t.run(worker, t.task("a", func(context.Context, *Job) error { return nil }))
		t.sleep(time.Second)
		for name, work := range map[string]func(context.Context) error{"Run": worker.Run, "Drain": worker.Drain} {
			if err := work(t.Context()); err == nil || !strings.Contains(err.Error(), "already running") {
				t.Errorf("%s beside a Run returned %v; want an error that says so", name, err)
			}
		}
		id := t.enqueue("a")[0]
		t.sleep(time.Second)
		if job := t.get(id); job.Status != StatusSuccess {
			t.Errorf("a job after that is %s, want SUCCESS", job.Status)
		}
		worker.Stop() // still the first one's
		if err := run.wait(); err != nil || run.at != 2*time.Second {
			t.Errorf("Run returned %v after %v; want nil after 2s", err, run.at)
		}
	})
}

func TestAStopBeforeTheFirstRunIsNotLost(t *testing.T) {
	overStorages(t, func(t *scene) {
		worker := &Worker{}
		id := t.enqueue("a")[0]
		worker.Stop()
		worker.Stop()
		run := t.run(worker, t.task("a", func(context.Context, *Job) error { return nil }))
		if err := run.wait(); err != nil || run.at != 0 {
			t.Errorf("Run returned %v after %v; want nil at once", err, run.at)
		}
		if job := t.get(id); job.Claim != 0 {
			t.Errorf("the job is %s with claim %d; want it never claimed", job.Status, job.Claim)
		}
		t.run(worker) // it was one stop, for one Run
		t.sleep(time.Second)
		if job := t.get(id); job.Status != StatusSuccess {
			t.Errorf("the job is %s after the second Run, want SUCCESS", job.Status)
		}
	})
}

func TestARunWhoseContextHasEndedClaimsNothing(t *testing.T) {
	overStorages(t, func(t *scene) {
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		id := t.enqueue("a")[0]
		worker := workerOf(t.storage)
		if err := worker.Run(ctx); err != nil {
			t.Errorf("Run returned %v, want nil", err)
		}
		if err := worker.Drain(ctx); !errors.Is(err, context.Canceled) {
			t.Errorf("Drain returned %v, want context.Canceled", err)
		}
		if job := t.get(id); job.Claim != 0 {
			t.Errorf("the job is %s with claim %d; want it never claimed", job.Status, job.Claim)
		}
	})
}

func TestAWorkerMayRunAgainAfterAStop(t *testing.T) {
	overStorages(t, func(t *scene) {
		worker := &Worker{}
		tasks := []AnyTask{t.task("a", func(context.Context, *Job) error { return nil })}
		for n := range 3 {
			run := t.run(worker, tasks...)
			tasks = nil
			t.enqueue("a")
			t.sleep(time.Second)
			worker.Stop()
			if err := run.wait(); err != nil {
				t.Errorf("Run %d returned %v", n+1, err)
			}
			worker.Stop() // after a Run it means nothing to the next
			if m := run.metrics(); m.Succeeded != int64(n+1) {
				t.Errorf("after Run %d the worker counts %d successes, want %d", n+1, m.Succeeded, n+1)
			}
		}
	})
}

func TestADrainThatIsStoppedEndsAsARunDoesAndSaysSo(t *testing.T) {
	overStorages(t, func(t *scene) {
		for _, stop := range []func(*runningWorker){func(r *runningWorker) { r.stop() }, func(r *runningWorker) { r.worker.Stop() }} {
			before := t.since()
			ids := t.enqueue("fast", "fast", "slow", "fast", "fast")
			worker := &Worker{Concurrency: 1}
			run := t.begin(worker, worker.Drain,
				t.task("fast", func(context.Context, *Job) error { return nil }),
				t.task("slow", func(ctx context.Context, _ *Job) error { return sleeping(ctx, 5*time.Second) }))
			t.sleep(100 * time.Millisecond)
			stop(run)
			if err := run.wait(); !errors.Is(err, context.Canceled) || !about(run.at-before, 5*time.Second) {
				t.Errorf("Drain returned %v after %v; want context.Canceled after 5s", err, run.at-before)
			}
			for i, want := range []Status{StatusSuccess, StatusSuccess, StatusSuccess, StatusPending, StatusPending} {
				if job := t.get(ids[i]); job.Status != want || want == StatusPending && job.Attempts != 0 {
					t.Errorf("job %d, %s, is %s after %d attempts, want %s",
						i+1, job.Task, job.Status, job.Attempts, want)
				}
			}
			if err := worker.Drain(t.Context()); err != nil { // again, to the end
				t.Error(err)
			}
			if n, err := t.storage.Size(t.Context()); n != 0 || err != nil {
				t.Errorf("%d jobs are left, error %v", n, err)
			}
		}
	})
}

func TestADrainStoppedWhileItWaitsForARetryReturnsAtOnce(t *testing.T) {
	overStorages(t, func(t *scene) {
		worker := &Worker{Retry: &RetryPolicy{MaxRetries: 1, BaseDelay: 4 * time.Second}}
		id := t.enqueue("a")[0]
		run := t.begin(worker, worker.Drain,
			t.task("a", func(context.Context, *Job) error { return errors.New("broken") }))
		t.sleep(3 * time.Second)
		run.stop()
		if err := run.wait(); !errors.Is(err, context.Canceled) || run.at != 3*time.Second {
			t.Errorf("Drain returned %v after %v; want context.Canceled after 3s", err, run.at)
		}
		if job := t.get(id); job.Status != StatusPending || job.Attempts != 1 {
			t.Errorf("the job is %s after %d attempts; want PENDING after 1", job.Status, job.Attempts)
		}
	})
}

// A ctx may end in other ways than by being canceled.
func TestADeadlineOfItsContextStopsARunCleanly(t *testing.T) {
	overStorages(t, func(t *scene) {
		ctx, cancel := context.WithTimeoutCause(t.Context(), 3*time.Second, errors.New("a cause of its own"))
		defer cancel()
		worker := &Worker{}
		run := t.begin(worker, func(context.Context) error { return worker.Run(ctx) }, t.task("a", func(ctx context.Context, _ *Job) error {
			return sleeping(ctx, 5*time.Second)
		}))
		id := t.enqueue("a")[0]
		if err := run.wait(); err != nil || !about(run.at, 5*time.Second) {
			t.Errorf("Run returned %v after %v; want nil when the task has ended, after 5s", err, run.at)
		}
		if job := t.get(id); job.Status != StatusSuccess {
			t.Errorf("the job is %s, want SUCCESS", job.Status)
		}
	})
}

func TestAnIdleWorkerInTroubleWithItsStorageStopsAtOnce(t *testing.T) {
	for _, hangs := range []bool{false, true} {
		overStorages(t, func(t *scene) {
			broken := &failing{tended: t.storage, hangs: hangs}
			broken.fail("Dequeue", "ReapStale", "Heartbeat")
			run := t.run(&Worker{Storage: broken})
			t.sleep(3500 * time.Millisecond)
			run.stop()
			if err := run.wait(); err != nil || run.at != 3500*time.Millisecond {
				t.Errorf("everything fails (hangs: %v): Run returned %v after %v; want nil at once, after 3.5s",
					hangs, err, run.at)
			}
		})
	}
}

func TestAFileThatCannotBeWrittenAtTheShutdownDelaysRunNoLongerThanASlowTask(t *testing.T) {
	for name, trouble := range map[string]func(t *scene, path string) (mend func()){
		"the lock is held": func(t *scene, path string) func() { return otherProgram(t.T, path).lock() },
		"the file is moved away": func(t *scene, path string) func() {
			rename(t.T, path, path+".aside")
			return func() { rename(t.T, path+".aside", path) }
		},
	} {
		if runtime.GOOS == "windows" && name == "the file is moved away" {
			continue
		}
		inBubble(t, nil, func(t *scene) {
			task := t.task("a", func(ctx context.Context, _ *Job) error { return sleeping(ctx, 3*time.Second) })
			run := t.run(&Worker{}, task)
			id := t.enqueue("a")[0]
			t.sleep(time.Second)
			if job := t.get(id); job.Status != StatusRunning {
				t.Fatalf("the job is %s", job.Status)
			}
			idle := t.run(&Worker{Queues: []string{"none"}})
			mend := trouble(t, t.storage.(*SQLiteStorage).path)
			t.sleep(time.Second)
			late := t.run(&Worker{Queues: []string{"none"}}) // whose first look for lost leases is in trouble
			t.sleep(500 * time.Millisecond)
			run.stop()
			idle.stop()
			late.stop()
			for _, r := range []*runningWorker{idle, late} {
				if err := r.wait(); err != nil || (r.at-2500*time.Millisecond).Abs() > 2*lockRetry {
					t.Errorf("%s: Run of an idle worker returned %v after %v; want nil at once, after 2.5s",
						name, err, r.at)
				}
			}
			err := run.wait()
			if err == nil || !strings.Contains(err.Error(), "1 jobs could not be recorded") ||
				(run.at-13500*time.Millisecond).Abs() > 2*lockRetry {
				t.Errorf("%s: Run returned %v after %v; want an error that says that an end was not recorded, after 13.5s", name, err, run.at)
			}
			mend()
			t.run(&Worker{}, task)
			t.sleep(30 * time.Second)
			if job := t.get(id); job.Status != StatusSuccess || job.Attempts != 2 {
				t.Errorf("%s: after that the job is %s after %d attempts; want SUCCESS after 2",
					name, job.Status, job.Attempts)
			}
		})
	}
}

func TestAWorkerMayRunAgainWhileATaskOfItsLastRunStillHangs(t *testing.T) {
	overStorages(t, func(t *scene) {
		unblock := make(chan struct{})
		hung := false
		worker := &Worker{Concurrency: 1}
		task := t.task("a", func(context.Context, *Job) error {
			if !hung {
				hung = true
				<-unblock
			}
			return nil
		})
		id := t.enqueue("a")[0]
		run := t.run(worker, task)
		t.sleep(time.Second)
		run.stop()
		if err := run.wait(); err == nil || !strings.Contains(err.Error(), "a (job "+id+")") {
			t.Errorf("Run returned %v; want the task named", err)
		}
		again := t.run(worker)
		t.sleep(30 * time.Second)
		if job := t.get(id); job.Status != StatusSuccess || job.Attempts != 2 {
			t.Errorf("the job is %s after %d attempts; want SUCCESS after 2", job.Status, job.Attempts)
		}
		close(unblock)
		t.sleep(time.Second)
		if m := worker.Metrics(); m.Succeeded != 1 || m.Running != 0 {
			t.Errorf("%d succeeded and %d run; want 1 and none", m.Succeeded, m.Running)
		}
		again.stop()
		if err := again.wait(); err != nil {
			t.Errorf("the second Run returned %v", err)
		}
	})
}

func TestDurationsThatMeanForEverDoNotOverflow(t *testing.T) {
	overStorages(t, func(t *scene) {
		run := t.run(&Worker{
			TaskTimeout:       math.MaxInt64,
			VisibilityTimeout: math.MaxInt64,
			HeartbeatInterval: math.MaxInt64 / 6, // it must be shorter than a fifth of the lease
			ReapInterval:      math.MaxInt64,
			ShutdownTimeout:   math.MaxInt64,
			Retry:             &RetryPolicy{MaxRetries: math.MaxInt, BaseDelay: math.MaxInt64, Cap: math.MaxInt64},
		},
			t.task("works", func(ctx context.Context, _ *Job) error { return sleeping(ctx, time.Hour) }),
			t.task("fails", func(context.Context, *Job) error { return errTask }),
			t.task("snoozes", func(context.Context, *Job) error { return Snooze(math.MaxInt64) }))
		ids := t.enqueue("works", "fails", "snoozes")
		t.sleep(time.Minute)
		if until := t.get(ids[0]).LeaseUntil; until.Before(time.Now().AddDate(100, 0, 0)) {
			t.Errorf("the lease ends at %v, want centuries from now", until)
		}
		if n, err := t.storage.ReapStale(t.Context(), math.MaxInt64); n != 0 || err != nil {
			t.Errorf("%d leases were taken back, %v", n, err)
		}
		t.sleep(time.Hour)
		if got := t.get(ids[0]); got.Status != StatusSuccess || got.Attempts != 1 {
			t.Errorf("the job is %s after %d attempts, want SUCCESS after one", got.Status, got.Attempts)
		}
		for _, id := range ids[1:] {
			if got := t.get(id); got.Status != StatusPending || got.RunAt.Before(time.Now().AddDate(100, 0, 0)) {
				t.Errorf("%s is %s and due at %v, want PENDING and centuries from now", got.Task, got.Status, got.RunAt)
			}
		}
		run.stop()
		if err := run.wait(); err != nil {
			t.Error(err)
		}
	})
}

func TestAShutdownTimeoutForEverIsNotOneAtOnce(t *testing.T) {
	overStorages(t, func(t *scene) {
		run := t.run(&Worker{ShutdownTimeout: math.MaxInt64},
			t.task("a", func(ctx context.Context, _ *Job) error { return sleeping(ctx, time.Minute) }))
		id := t.enqueue("a")[0]
		t.sleep(time.Second)
		run.stop()
		if err := run.wait(); err != nil || !about(run.at, time.Minute) {
			t.Errorf("Run returned %v after %v; want nil after a minute", err, run.at)
		}
		if job := t.get(id); job.Status != StatusSuccess {
			t.Errorf("the job is %s, want SUCCESS", job.Status)
		}
	})
}

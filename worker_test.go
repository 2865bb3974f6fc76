package pinion

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"expvar"
	"fmt"
	"log/slog"
	"math"
	"math/rand/v2"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

// How attempts end. Everything that takes time happens in a bubble, where it takes none and every moment is exact.

func TestAFailedJobRunsAgainAfterEachDelayAndIsThenDeadLettered(t *testing.T) {
	overEach(t, func(t *testing.T, s Storage, in Inspector) {
		start := time.Now()
		var ran []time.Duration
		w := workerOf(s, taskOf("fails", func(context.Context) error {
			ran = append(ran, time.Since(start))
			return fmt.Errorf("failure %d", len(ran))
		}))
		w.Name = "one"
		w.Retry = &RetryPolicy{MaxRetries: 4, BaseDelay: time.Second, Cap: 3 * time.Second}
		job := &Job{Task: "fails", Args: []any{}, Queue: "q", Priority: 2, Key: "k"}
		mustEnqueue(t, s, job)
		mustDrain(t, w)

		want := []time.Duration{0, 1 * time.Second, 3 * time.Second, 6 * time.Second, 9 * time.Second}
		if diff := cmp.Diff(want, ran); diff != "" {
			t.Errorf("attempts (-want +got):\n%s", diff)
		}
		dead := &Job{ID: job.ID, Task: "fails", Queue: "q", Priority: 2, Key: "k", Status: StatusFailed, Attempts: 5,
			Worker: "one", Error: "failure 5", CreatedAt: microTime(start), FinishedAt: microTime(start.Add(9 * time.Second))}
		ignored := cmpopts.IgnoreFields(Job{}, "Claim", "RunAt", "HeartbeatAt")
		if diff := cmp.Diff(dead, mustGet(t, in, job.ID), ignored); diff != "" {
			t.Errorf("the job (-want +got):\n%s", diff)
		}
		ignored = cmpopts.IgnoreFields(Job{}, "Claim", "RunAt", "HeartbeatAt", "CreatedAt", "Worker")
		if diff := cmp.Diff([]*Job{dead}, deadLetters(t, in), ignored); diff != "" {
			t.Errorf("the dead letters (-want +got):\n%s", diff)
		}
	})
}

func TestARetryMaySucceed(t *testing.T) {
	overEach(t, func(t *testing.T, s Storage, in Inspector) {
		w := workerOf(s, flaky("flaky", 2))
		wantEnd(t, in, drained(t, w, "flaky"), ending{StatusSuccess, 3, "it failed"})
	})
}

func TestAPolicyMayForbidRetriesOrAllowThemForEver(t *testing.T) {
	for _, c := range []struct {
		retries int
		want    ending
	}{
		{0, ending{StatusFailed, 1, "it failed"}},
		{99, ending{StatusFailed, 100, "it failed"}},
		{math.MaxInt, ending{StatusSuccess, 101, "it failed"}},
	} {
		overMemory(t, func(t *testing.T, s *MemoryStorage) {
			w := workerOf(s, flaky("flaky", 100))
			w.Retry.MaxRetries = c.retries
			job := NewJob("flaky")
			mustEnqueue(t, s, job)
			drainAll(t, w, s)
			wantEnd(t, s, job, c.want)
		})
	}
}

func TestAWorkerWithoutAPolicyHasTheDefaultOne(t *testing.T) {
	overMemory(t, func(t *testing.T, s *MemoryStorage) {
		var ran []time.Time
		w := workerOf(s, taskOf("fails", func(context.Context) error { ran = append(ran, time.Now()); return errTask }))
		w.Retry = nil
		job := NewJob("fails")
		mustEnqueue(t, s, job)
		drainAll(t, w, s)
		wantEnd(t, s, job, ending{StatusFailed, 26, "it failed"})
		for i, most := range []time.Duration{time.Second, 2 * time.Second, 4 * time.Second} {
			if delay := ran[i+1].Sub(ran[i]); delay < most/2 || delay > most+time.Millisecond {
				t.Errorf("retry %d came after %v, want between half of %v and all of it", i+1, delay, most)
			}
		}
	})
}

func TestATasksOwnPolicyCountsOverTheWorkers(t *testing.T) {
	overMemory(t, func(t *testing.T, s *MemoryStorage) {
		start := time.Now()
		var ran []time.Duration
		fails := taskOf("fails", func(context.Context) error { ran = append(ran, time.Since(start)); return errTask })
		fails.Retry = &RetryPolicy{MaxRetries: 1, BaseDelay: time.Minute, Cap: time.Hour}
		w := workerOf(s, fails)
		job := NewJob("FAILS")
		mustEnqueue(t, s, job)
		drainAll(t, w, s)
		wantEnd(t, s, job, ending{StatusFailed, 2, "it failed"})
		if diff := cmp.Diff([]time.Duration{0, time.Minute}, ran); diff != "" {
			t.Errorf("attempts (-want +got):\n%s", diff)
		}
	})
}

func TestAPermanentErrorIsDeadLetteredAtOnce(t *testing.T) {
	overEach(t, func(t *testing.T, s Storage, in Inspector) {
		start := time.Now()
		w := workerOf(s,
			taskOf("fails", func(context.Context) error { return fmt.Errorf("wrapped: %w", Permanent(errTask)) }))
		wantEnd(t, in, drained(t, w, "fails"), ending{StatusFailed, 1, "wrapped: it failed"})
		wantElapsed(t, start, 0)
	})
}

func TestRetryAfterReplacesTheDelayButAddsNoRetries(t *testing.T) {
	overEach(t, func(t *testing.T, s Storage, in Inspector) {
		start := time.Now()
		var ran []time.Duration
		w := workerOf(s, taskOf("fails", func(context.Context) error {
			ran = append(ran, time.Since(start))
			return fmt.Errorf("wrapped: %w", RetryAfter(17*time.Second, errTask))
		}))
		w.Retry.MaxRetries = 2
		job := NewJob("fails")
		mustEnqueue(t, s, job)
		drainAll(t, w, in)
		wantEnd(t, in, job, ending{StatusFailed, 3, "wrapped: it failed"})
		if diff := cmp.Diff([]time.Duration{0, 17 * time.Second, 34 * time.Second}, ran); diff != "" {
			t.Errorf("attempts (-want +got):\n%s", diff)
		}
	})
}

func TestARetryIsARowThatAnyWorkerTakesUp(t *testing.T) {
	overEach(t, func(t *testing.T, s Storage, in Inspector) {
		start := time.Now()
		w := workerOf(s, taskOf("moves", func(context.Context) error { return RetryAfter(30*time.Second, errTask) }))
		job := NewJob("moves")
		mustEnqueue(t, s, job)
		stop := started(t, w)
		synctest.Wait()
		stop()
		wantEnd(t, in, job, ending{StatusPending, 1, "it failed"})
		if got, want := mustGet(t, in, job.ID).RunAt, microTime(start.Add(30*time.Second)); !got.Equal(want) {
			t.Errorf("the retry is due at %v, want %v", got, want)
		}

		stop = started(t, workerOf(s, taskOf("moves", func(context.Context) error { return nil })))
		time.Sleep(time.Until(start.Add(30*time.Second)) - time.Nanosecond)
		wantEnd(t, in, job, ending{StatusPending, 1, "it failed"})
		time.Sleep(time.Second)
		stop()
		wantEnd(t, in, job, ending{StatusSuccess, 2, "it failed"})
	})
}

func TestBadArgumentsAreDeadLetteredAtOnceAndHurtNobodyElse(t *testing.T) {
	overEach(t, func(t *testing.T, s Storage, in Inspector) {
		start, sum := time.Now(), 0
		w := workerOf(s, Task[addArgs]{Name: "add",
			Run: func(_ context.Context, args addArgs) error { sum += args.A + args.B; return nil }})
		bad := []*Job{NewJob("add", "one"), NewJob("add", 1, 2, 3)}
		good := NewJob("add", 1, 2)
		mustEnqueue(t, s, append(bad, good)...)
		mustDrain(t, w)
		for i, why := range []string{
			`argument "A": expected int, got string`,
			"it takes A, B; got 3 by position and 0 by name",
		} {
			wantEnd(t, in, bad[i], ending{StatusFailed, 1, `pinion: bad arguments: task "add": ` + why})
		}
		wantEnd(t, in, good, ending{StatusSuccess, 1, ""})
		if sum != 3 {
			t.Errorf("the tasks added up to %d, want 3", sum)
		}
		wantElapsed(t, start, 0)
	})
}

func TestAWorkerLeavesJobsOfUnknownTasksAsTheyAre(t *testing.T) {
	overEach(t, func(t *testing.T, s Storage, in Inspector) {
		ran := 0
		w := workerOf(s, taskOf("known", func(context.Context) error { ran++; return nil }))
		var log bytes.Buffer
		w.Logger = logTo(&log, slog.LevelWarn)
		unknown, other := NewJob("unknown"), &Job{Task: "other", Queue: "not mine"}
		mustEnqueue(t, s, unknown, other, NewJob("unknown"),
			&Job{Task: "later", RunAt: time.Now().Add(time.Hour)}, NewJob("KNOWN"))
		w.Queues = []string{"default"}
		stop := started(t, w)
		time.Sleep(10 * time.Minute)
		stop()
		if ran != 1 {
			t.Errorf("the known task ran %d times, want once", ran)
		}
		for _, job := range []*Job{unknown, other} {
			if got := mustGet(t, in, job.ID); got.Status != StatusPending || got.Attempts != 0 || got.Claim != 0 ||
				got.Error != "" {
				t.Errorf("%s is %s after %d attempts with claim %d and error %q; want it as it was",
					got.Task, got.Status, got.Attempts, got.Claim, got.Error)
			}
		}
		if _, ok := As[Inspector](s); !ok {
			return
		}
		const want = "level=WARN msg=\"jobs are due whose task this worker does not know\" task=unknown\n"
		if diff := cmp.Diff(want, log.String()); diff != "" {
			t.Errorf("the log (-want +got):\n%s", diff)
		}
		if err := w.Drain(t.Context()); !errors.Is(err, ErrTaskNotFound) ||
			!strings.Contains(err.Error(), `["unknown"]`) {
			t.Errorf("Drain: %v, want an ErrTaskNotFound that names the unknown task alone", err)
		}
	})
}

// In a rolling deploy two versions of a program share a queue, and each knows a task that the other does not.
func TestWorkersOfTwoVersionsDoNotHurtEachOthersJobs(t *testing.T) {
	overStorages(t, func(t *scene) {
		t.run(&Worker{}, t.task("both", nothingToDo), t.task("removed", nothingToDo))
		t.run(&Worker{}, t.task("both", nothingToDo), t.task("added", nothingToDo))
		for range 20 {
			t.enqueue("added", "removed", "both")
			t.sleep(100 * time.Millisecond)
		}
		t.sleep(time.Minute)
		if diff := cmp.Diff(map[Status]int{StatusSuccess: 60}, t.statuses("")); diff != "" {
			t.Errorf("the jobs are (-want +got):\n%s", diff)
		}
		for job, err := range t.storage.Jobs(t.Context(), Filter{}) {
			if err != nil {
				t.Fatal(err)
			}
			if job.Status != StatusSuccess || job.Attempts != 1 || job.Claim == 0 {
				t.Errorf("%s is %s after %d attempts: %s", job.Task, job.Status, job.Attempts, job.Error)
			}
		}
	})
}

func TestATaskThatIsRegisteredLaterRunsWithinAMinute(t *testing.T) {
	overMemory(t, func(t *testing.T, s *MemoryStorage) {
		w := workerOf(s)
		job := NewJob("late")
		mustEnqueue(t, s, job)
		stop := started(t, w)
		synctest.Wait()
		w.Registry.Add(taskOf("late", func(context.Context) error { return nil }))
		time.Sleep(time.Minute + time.Second)
		stop()
		wantEnd(t, s, job, ending{StatusSuccess, 1, ""})
	})
}

// ignoresTasks is a storage that claims jobs of every task.
type ignoresTasks struct{ *MemoryStorage }

func (s ignoresTasks) Dequeue(ctx context.Context, opts DequeueOptions) ([]*Job, error) {
	opts.Tasks = nil
	return s.MemoryStorage.Dequeue(ctx, opts)
}

func TestAJobOfAnUnknownTaskThatWasClaimedAllTheSameGoesBack(t *testing.T) {
	overMemory(t, func(t *testing.T, s *MemoryStorage) {
		start := time.Now()
		w := workerOf(ignoresTasks{s})
		job := NewJob("unknown")
		mustEnqueue(t, s, job)
		stop := started(t, w)
		time.Sleep(time.Second)
		stop()
		wantEnd(t, s, job, ending{StatusPending, 0, `pinion: task not found: "unknown"`})
		if got, want := mustGet(t, s, job.ID).RunAt, microTime(start.Add(unknownDelay)); !got.Equal(want) {
			t.Errorf("it is due again at %v, want %v", got, want)
		}
		wantMetrics(t, w, Metrics{})
	})
}

func TestAJobAbandonedAtEachAttemptIsDeadLetteredUnrun(t *testing.T) {
	overEach(t, func(t *testing.T, s Storage, in Inspector) {
		ran := 0
		count := func(context.Context) error { ran++; return nil }
		own := taskOf("own policy", count)
		own.Retry = &RetryPolicy{MaxRetries: 1}
		w := workerOf(s, taskOf("worker's policy", count), own)
		w.Concurrency, w.Retry.MaxRetries = 1, 2
		used, ownUsed := abandoned(t, s, "worker's policy", 3), abandoned(t, s, "own policy", 2)
		last, ownLast := abandoned(t, s, "worker's policy", 2), abandoned(t, s, "own policy", 1)
		mustDrain(t, w)

		const text = "pinion: attempts used up: %[1]d of %[1]d; the last error: lease expired"
		wantEnd(t, in, used, ending{StatusFailed, 3, fmt.Sprintf(text, 3)})
		wantEnd(t, in, ownUsed, ending{StatusFailed, 2, fmt.Sprintf(text, 2)})
		wantEnd(t, in, last, ending{StatusSuccess, 3, "lease expired"})
		wantEnd(t, in, ownLast, ending{StatusSuccess, 2, "lease expired"})
		if ran != 2 {
			t.Errorf("%d jobs ran, want the 2 that had an attempt left", ran)
		}
		wantMetrics(t, w, Metrics{Processed: 2, Succeeded: 2, DeadLettered: 2})
	})
}

// A due time between two microseconds would never come in a bubble, and keep SQLite's writer busy elsewhere.
func TestAJobThatIsReapedAgainIsDueAtAWholeMicrosecond(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := sqliteInBubble(t)
		defer s.Close()
		const jobs = 20
		for range jobs {
			mustEnqueue(t, s, NewJob("dies"))
		}
		for range 2 {
			mustDequeue(t, s, jobs)
			reap(t, s, defaultLease, jobs)
		}
		now := time.Now()
		q, rows := s.reader(t.Context()), 0
		for v := range q.rows("SELECT run_at FROM jobs") {
			rows++
			due := fromSeconds(v[0])
			if v[0] != seconds(due) {
				t.Errorf("a job is due at %.9f", v[0])
			}
			if due.Before(now) || due.After(now.Add(2*defaultLease)) {
				t.Errorf("a job is due in %v, want within 2 attempts of a lease each", due.Sub(now))
			}
		}
		if rows != jobs || q.err != nil {
			t.Fatalf("%d rows were looked at, want %d: %v", rows, jobs, q.err)
		}
	})
}

func TestDrainReturnsAtOnceWhenNothingIsDue(t *testing.T) {
	overEach(t, func(t *testing.T, s Storage, in Inspector) {
		start := time.Now()
		w := workerOf(s, taskOf("works", func(context.Context) error { return nil }))
		w.Queues = []string{"mine", "also mine"}
		mustDrain(t, w)
		later, others := &Job{Task: "works", Queue: "mine", RunAt: start.Add(time.Hour)}, NewJob("works")
		mustEnqueue(t, s, later, others)
		mustDrain(t, w)
		wantElapsed(t, start, 0)
		wantEnd(t, in, later, ending{StatusPending, 0, ""})
		wantEnd(t, in, others, ending{StatusPending, 0, ""})
	})
}

func TestDrainWaitsForItsOwnRetriesWhileOtherJobsRun(t *testing.T) {
	for _, long := range []time.Duration{2 * time.Second, 30 * time.Second} {
		overEach(t, func(t *testing.T, s Storage, in Inspector) {
			start := time.Now()
			var ran []time.Duration
			w := workerOf(s, taskOf("long", func(context.Context) error { time.Sleep(long); return nil }),
				taskOf("flaky", func(context.Context) error {
					ran = append(ran, time.Since(start))
					if len(ran) < 2 {
						return errTask
					}
					return nil
				}))
			w.Retry.BaseDelay = 4 * time.Second
			flaky, longer := NewJob("flaky"), NewJob("long")
			mustEnqueue(t, s, flaky, longer)
			mustDrain(t, w)
			if diff := cmp.Diff([]time.Duration{0, 4 * time.Second}, ran); diff != "" {
				t.Errorf("attempts (-want +got):\n%s", diff)
			}
			wantElapsed(t, start, max(long, 4*time.Second))
			wantEnd(t, in, flaky, ending{StatusSuccess, 2, "it failed"})
			wantEnd(t, in, longer, ending{StatusSuccess, 1, ""})
		})
	}
}

func TestDrainDoesNotWaitForARetryThatIsNotDueSoon(t *testing.T) {
	overEach(t, func(t *testing.T, s Storage, in Inspector) {
		w := workerOf(s, taskOf("fails", func(context.Context) error { return errTask }))
		w.Retry.BaseDelay = 6 * time.Second
		job := NewJob("fails")
		mustEnqueue(t, s, job)
		start := time.Now()
		mustDrain(t, w)
		wantElapsed(t, start, 0)
		wantEnd(t, in, job, ending{StatusPending, 1, "it failed"})
	})
}

// All slots may become free after it was decided to claim ahead of them. A job that was claimed before is not
// given to such a claim, so that the claim finds nothing although there is something.
func TestAClaimAheadOfSlotsIsNotTheLastOfADrain(t *testing.T) {
	inBubble(t, NewMemoryStorage(), func(t *scene) {
		t.enqueueOld()
		r, err := workerOf(t.storage, taskOf("old", func(context.Context) error { return nil })).newRun(true)
		if err != nil {
			t.Fatal(err)
		}
		jobs, last, err := r.claim(t.Context(), request{ahead: 1})
		if len(jobs) > 0 || last || err != nil {
			t.Errorf("a claim ahead returned %d jobs, last %t, error %v; want none and not the last",
				len(jobs), last, err)
		}
		jobs, _, err = r.claim(t.Context(), request{slots: 1})
		if len(jobs) != 1 || err != nil {
			t.Errorf("a claim for a slot returned %d jobs, error %v; want the one that is due", len(jobs), err)
		}
		if _, err := t.storage.MarkDone(t.Context(), jobs...); err != nil {
			t.Fatal(err)
		}
		_, last, err = r.claim(t.Context(), request{slots: 1})
		if !last || err != nil {
			t.Errorf("a claim for a slot that found nothing: last %t, error %v; want the last", last, err)
		}
	})
}

func TestDrainRunsWhatFallsDueWhileItRunsAndLeavesTheRest(t *testing.T) {
	overEach(t, func(t *testing.T, s Storage, in Inspector) {
		start := time.Now()
		w := workerOf(s, taskOf("works", func(context.Context) error { return nil }),
			taskOf("long", func(context.Context) error { time.Sleep(10 * time.Second); return nil }))
		soon := &Job{Task: "works", RunAt: start.Add(9 * time.Second)}
		later := &Job{Task: "works", RunAt: start.Add(11 * time.Second)}
		mustEnqueue(t, s, soon, later, NewJob("long"))
		mustDrain(t, w)
		wantElapsed(t, start, 10*time.Second)
		wantEnd(t, in, soon, ending{StatusSuccess, 1, ""})
		wantEnd(t, in, later, ending{StatusPending, 0, ""})
	})
}

func TestDrainRunsAtOnceWhatARunningJobEnqueuesAndWaitsFor(t *testing.T) {
	overEach(t, func(t *testing.T, s Storage, in Inspector) {
		start := time.Now()
		var mu sync.Mutex
		ended := make(map[int]chan struct{})
		endOf := func(n int) chan struct{} {
			mu.Lock()
			defer mu.Unlock()
			if ended[n] == nil {
				ended[n] = make(chan struct{})
			}
			return ended[n]
		}
		w := workerOf(s, Task[int]{Name: "parent", Run: func(ctx context.Context, n int) error {
			defer close(endOf(n))
			if n == 0 {
				return nil
			}
			if err := s.Enqueue(ctx, NewJob("parent", n-1)); err != nil {
				return err
			}
			<-endOf(n - 1)
			return nil
		}})
		w.Concurrency = 4
		wantEnd(t, in, drained(t, w, "parent", 3), ending{StatusSuccess, 1, ""})
		wantElapsed(t, start, 0)
		wantMetrics(t, w, Metrics{Processed: 4, Succeeded: 4})
	})
}

func TestDrainMayBeCalledAgainAndAgain(t *testing.T) {
	overEach(t, func(t *testing.T, s Storage, in Inspector) {
		w := workerOf(s, taskOf("works", func(context.Context) error { return nil }), flaky("flaky", 1))
		for i := range 5 {
			wantEnd(t, in, drained(t, w, "works"), ending{StatusSuccess, 1, ""})
			if i == 2 {
				wantEnd(t, in, drained(t, w, "flaky"), ending{StatusSuccess, 2, "it failed"})
			}
			mustDrain(t, w)
		}
		wantMetrics(t, w, Metrics{Processed: 7, Succeeded: 6, Failed: 1, Retried: 1})
	})
}

func TestATaskCannotSayThatItWasNotRun(t *testing.T) {
	overMemory(t, func(t *testing.T, s *MemoryStorage) {
		w := workerOf(s, taskOf("liar", func(context.Context) error { return Permanent(ErrAttemptsUsedUp) }))
		job := drained(t, w, "liar")
		wantEnd(t, s, job, ending{StatusFailed, 1, (ErrAttemptsUsedUp).Error()})
	})
}

func TestDrainCutShortReturnsTheErrorOfItsContext(t *testing.T) {
	overEach(t, func(t *testing.T, s Storage, in Inspector) {
		start := time.Now()
		w := workerOf(s, flaky("flaky", 1))
		w.Retry.BaseDelay = 5 * time.Second
		job := NewJob("flaky")
		mustEnqueue(t, s, job)

		ended, cancel := context.WithCancel(t.Context())
		cancel()
		if err := w.Drain(ended); err != context.Canceled {
			t.Errorf("before the start: %v, want %v", err, context.Canceled)
		}
		wantEnd(t, in, job, ending{StatusPending, 0, ""})

		short, cancel := context.WithTimeout(t.Context(), 4*time.Second)
		defer cancel()
		if err := w.Drain(short); err != context.DeadlineExceeded {
			t.Errorf("before a retry: %v, want %v", err, context.DeadlineExceeded)
		}
		wantElapsed(t, start, 4*time.Second)
		wantEnd(t, in, job, ending{StatusPending, 1, "it failed"})

		mustDrain(t, w) // the retry is not of this Drain
		wantElapsed(t, start, 4*time.Second)
	})
}

func TestDrainReturnsTheErrorOfTheStorage(t *testing.T) {
	full := errors.New("disk full")
	for _, c := range []struct {
		name   string
		faults func(fails func() error) faulty
	}{
		{"claims fail", func(fails func() error) faulty { return faulty{dequeue: fails} }},
		{"successes cannot be recorded", func(fails func() error) faulty { return faulty{done: fails} }},
		{"failures cannot be recorded", func(fails func() error) faulty { return faulty{failed: fails} }},
		{"dead letters cannot be recorded", func(fails func() error) faulty { return faulty{dead: fails} }},
	} {
		t.Run(c.name, func(t *testing.T) {
			for _, lasts := range []time.Duration{time.Hour, 3 * time.Second} {
				overMemory(t, func(t *testing.T, s *MemoryStorage) {
					start := time.Now()
					faults := c.faults(func() error {
						if time.Since(start) < lasts {
							return full
						}
						return nil
					})
					faults.Storage = s
					worked, failed := false, false // a stop may come before
					w := workerOf(&faults, taskOf("works", func(context.Context) error { worked = true; return nil }), flaky("flaky", 1),
						taskOf("fails", func(context.Context) error { failed = true; return Permanent(errTask) }))
					works, fails := NewJob("works"), NewJob("fails")
					mustEnqueue(t, s, works, NewJob("flaky"), fails)
					if err := w.Drain(t.Context()); !errors.Is(err, full) {
						t.Errorf("Drain: %v, want %v", err, full)
					}
					if elapsed := time.Since(start); elapsed > 11*time.Second+batchTime { // for which the first success was held
						t.Errorf("Drain returned after %v, want within ShutdownTimeout and a second", elapsed)
					}
					if lasts < time.Minute && faults.dequeue == nil { // what has run is recorded in the time that a stop leaves
						if worked {
							wantEnd(t, s, works, ending{StatusSuccess, 1, ""})
						}
						if failed {
							wantEnd(t, s, fails, ending{StatusFailed, 1, "it failed"})
						}
					}
				})
			}
		})
	}
	overMemory(t, func(t *testing.T, s *MemoryStorage) {
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		if err := workerOf(s).Drain(t.Context()); !errors.Is(err, ErrClosed) {
			t.Errorf("the storage is closed: %v, want %v", err, ErrClosed)
		}
	})
}

func TestADrainWhoseRetryAnotherWorkerTookEnds(t *testing.T) {
	overMemory(t, func(t *testing.T, s *MemoryStorage) {
		start := time.Now()
		release := make(chan struct{})
		other := workerOf(s, taskOf("moves", func(context.Context) error { <-release; return nil }))
		var stop func()
		w := workerOf(&tooSlow{Storage: s}, taskOf("moves", func(context.Context) error {
			stop = started(t, other)
			return RetryAfter(4*time.Second, errTask)
		}))
		job := drained(t, w, "moves")
		wantElapsed(t, start, 4*time.Second)
		wantEnd(t, s, job, ending{StatusRunning, 2, "it failed"})
		close(release)
		synctest.Wait()
		stop()
		wantEnd(t, s, job, ending{StatusSuccess, 2, "it failed"})
	})
}

func TestAWorkerClaimsFromItsQueuesAlone(t *testing.T) {
	for _, c := range []struct {
		queues []string
		want   []string
	}{
		{nil, []string{"a", "b", "c", "default"}},
		{[]string{"b"}, []string{"b"}},
		{[]string{"c", "a"}, []string{"a", "c"}},
		{[]string{"default"}, []string{"default"}},
		{[]string{"nobody's"}, nil},
	} {
		overEach(t, func(t *testing.T, s Storage, in Inspector) {
			var ran []string
			w := workerOf(s, taskOf("works", func(ctx context.Context) error {
				job, _ := JobFromContext(ctx)
				ran = append(ran, job.Queue)
				return nil
			}))
			w.Queues, w.Concurrency = c.queues, 1
			for _, queue := range []string{"a", "b", "c", ""} {
				mustEnqueue(t, s, &Job{Task: "works", Queue: queue})
			}
			stop := started(t, w)
			time.Sleep(time.Second)
			stop()
			mustDrain(t, w)
			if diff := cmp.Diff(c.want, ran); diff != "" {
				t.Errorf("queues %q: jobs run (-want +got):\n%s", c.queues, diff)
			}
		})
	}
}

func TestConcurrencyIsABoundAndIsReached(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ concurrency, want int }{{1, 1}, {4, 4}, {0, 10}, {100, 30}} {
		for _, how := range []string{"Run", "Drain"} {
			overEach(t, func(t *testing.T, s Storage, in Inspector) {
				start := time.Now()
				var mu sync.Mutex
				var now, most, done int
				count := func(running, ended int) {
					mu.Lock()
					defer mu.Unlock()
					now, done = now+running, done+ended
					most = max(most, now)
				}
				w := workerOf(s, taskOf("works", func(context.Context) error {
					count(1, 0)
					defer count(-1, 1)
					time.Sleep(time.Second)
					return nil
				}))
				w.Concurrency = c.concurrency
				for range 30 {
					mustEnqueue(t, s, NewJob("works"))
				}
				rounds := (30 + c.want - 1) / c.want
				if how == "Drain" {
					mustDrain(t, w)
					wantElapsed(t, start, time.Duration(rounds)*time.Second)
				} else {
					stop := started(t, w)
					time.Sleep(time.Duration(rounds)*time.Second + 100*time.Millisecond)
					stop()
				}
				if most != c.want {
					t.Errorf("%s with Concurrency %d: %d jobs ran at once, want %d", how, c.concurrency, most, c.want)
				}
				if done != 30 {
					t.Errorf("%s with Concurrency %d: %d jobs in %d rounds, want 30", how, c.concurrency, done, rounds)
				}
			})
		}
	}
}

func TestJobsThatComeOneByOneReachEverySlot(t *testing.T) {
	overEach(t, func(t *testing.T, s Storage, in Inspector) {
		release := make(chan struct{})
		w := workerOf(s, taskOf("works", func(context.Context) error { <-release; return nil }))
		w.Concurrency = 5
		stop := started(t, w)
		for i := range 7 {
			synctest.Wait()
			wantMetrics(t, w, Metrics{Running: int64(min(i, 5))})
			mustEnqueue(t, s, NewJob("works"))
		}
		close(release)
		time.Sleep(time.Second)
		stop()
		wantMetrics(t, w, Metrics{Processed: 7, Succeeded: 7})
	})
}

func TestASingleSlotRunsJobsByPriorityAndThenByAge(t *testing.T) {
	for _, how := range []string{"Run", "Drain"} {
		overEach(t, func(t *testing.T, s Storage, in Inspector) { wantInOrder(t, s, how, 0) })
	}
}

func TestASingleSlotKeepsTheOrderWhenTheStorageIsSlow(t *testing.T) {
	for _, how := range []string{"Run", "Drain"} {
		overMemory(t, func(t *testing.T, s *MemoryStorage) { wantInOrder(t, slowToAnswer{s}, how, time.Millisecond) })
	}
}

func TestMiddlewareIsAroundEveryAttempt(t *testing.T) {
	overMemory(t, func(t *testing.T, s *MemoryStorage) {
		type key struct{}
		var seen []string
		w := workerOf(s, flaky("flaky", 1), taskOf("works", func(ctx context.Context) error {
			job, ok := JobFromContext(ctx)
			seen = append(seen, fmt.Sprint("inside: ", ctx.Value(key{}), " ", ok, " ", job.Task))
			return SetResult(ctx, "kept")
		}))
		w.Concurrency = 1
		w.Middleware = func(next RunFunc) RunFunc {
			return func(ctx context.Context, job *Job) error {
				seen = append(seen, fmt.Sprintf("before %s, attempt %d", job.Task, job.Attempts))
				err := next(context.WithValue(ctx, key{}, "a value"), job)
				seen = append(seen, fmt.Sprintf("after %s: %v", job.Task, err))
				return err
			}
		}
		drained(t, w, "flaky")
		job := drained(t, w, "works")
		mustEnqueue(t, s, NewJob("unknown")) // what is not run is not shown
		abandoned(t, s, "works", 4)
		if err := w.Drain(t.Context()); !errors.Is(err, ErrTaskNotFound) {
			t.Errorf("Drain: %v, want ErrTaskNotFound", err)
		}
		want := []string{
			"before flaky, attempt 1", "after flaky: it failed", "before flaky, attempt 2", "after flaky: <nil>",
			"before works, attempt 1", "inside: a value true works", "after works: <nil>",
		}
		if diff := cmp.Diff(want, seen); diff != "" {
			t.Errorf("what the middleware saw (-want +got):\n%s", diff)
		}
		wantResult(t, s, job, `"kept"`)
	})
}

func TestMiddlewareSeesAPanicAsAnError(t *testing.T) {
	overMemory(t, func(t *testing.T, s *MemoryStorage) {
		var seen error
		w := workerOf(s, taskOf("panics", func(context.Context) error { panicDeepDown("boom"); return nil }))
		w.Middleware = func(next RunFunc) RunFunc {
			return func(ctx context.Context, job *Job) error { seen = next(ctx, job); return nil }
		}
		wantEnd(t, s, drained(t, w, "panics"), ending{StatusSuccess, 1, ""})
		p, ok := errors.AsType[*PanicError](seen)
		if !ok || p.Value != "boom" || !bytes.Contains(p.Stack, []byte("panicDeepDown")) {
			t.Errorf("the middleware saw %T: %v", seen, seen)
		}
	})
}

func TestWhatMiddlewareAnswersIsHowTheAttemptEnds(t *testing.T) {
	for _, c := range []struct {
		name       string
		middleware func(RunFunc) RunFunc
		ran        int
		want       ending
	}{
		{"another error", answering(func(ctx context.Context, next func() error) error { return fmt.Errorf("after: %w", next()) }),
			2, ending{StatusFailed, 2, "after: it failed"}},
		{"a permanent error", answering(func(ctx context.Context, next func() error) error { return Permanent(next()) }),
			1, ending{StatusFailed, 1, "it failed"}},
		{"success", answering(func(ctx context.Context, next func() error) error { next(); return nil }),
			1, ending{StatusSuccess, 1, ""}},
		{"success the second time", answering(func(ctx context.Context, next func() error) error { next(); next(); return nil }),
			2, ending{StatusSuccess, 1, ""}},
		{"without running the task", answering(func(ctx context.Context, next func() error) error { return nil }),
			0, ending{StatusSuccess, 1, ""}},
		{"a panic", answering(func(ctx context.Context, next func() error) error { panic("of the middleware") }),
			0, ending{StatusFailed, 2, "panic: of the middleware"}},
		{"runtime.Goexit", answering(func(ctx context.Context, next func() error) error { runtime.Goexit(); return nil }),
			0, ending{StatusFailed, 2, "panic: runtime.Goexit was called"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			overMemory(t, func(t *testing.T, s *MemoryStorage) {
				ran := 0
				w := workerOf(s, taskOf("fails", func(context.Context) error { ran++; return errTask }))
				w.Retry.MaxRetries, w.Middleware = 1, c.middleware
				wantEnd(t, s, drained(t, w, "fails"), c.want)
				if ran != c.ran {
					t.Errorf("the task ran %d times, want %d", ran, c.ran)
				}
			})
		})
	}
}

func TestMiddlewareCannotBreakFencingByChangingItsJob(t *testing.T) {
	overEach(t, func(t *testing.T, s Storage, in Inspector) {
		w := workerOf(s, taskOf("works", func(context.Context) error { return nil }), flaky("flaky", 1))
		w.Middleware = func(next RunFunc) RunFunc {
			return func(ctx context.Context, job *Job) error {
				defer func() { *job = Job{ID: "other", Claim: 1, Attempts: 99, Result: json.RawMessage("1")} }()
				return next(ctx, job)
			}
		}
		job := drained(t, w, "works")
		wantEnd(t, in, job, ending{StatusSuccess, 1, ""})
		wantResult(t, in, job, "")
		wantEnd(t, in, drained(t, w, "flaky"), ending{StatusSuccess, 2, "it failed"})
		wantMetrics(t, w, Metrics{Processed: 3, Succeeded: 2, Failed: 1, Retried: 1})
	})
}

func TestMetricsCountEveryAttemptOnce(t *testing.T) {
	overEach(t, func(t *testing.T, s Storage, in Inspector) {
		release := make(chan struct{})
		w := workerOf(s, taskOf("works", func(context.Context) error { return nil }), flaky("flaky", 2),
			taskOf("permanent", func(context.Context) error { return Permanent(errTask) }),
			taskOf("panics", func(context.Context) error { panic("boom") }),
			taskOf("exits", func(context.Context) error { runtime.Goexit(); return nil }),
			taskOf("waits", func(context.Context) error { <-release; return nil }))
		wantMetrics(t, w, Metrics{})
		w.Retry.MaxRetries = 2
		abandoned(t, s, "works", 3)
		for _, task := range []string{"works", "works", "flaky", "permanent", "panics", "exits", "waits", "waits"} {
			mustEnqueue(t, s, NewJob(task))
		}
		stop := started(t, w)
		time.Sleep(9 * time.Second)
		got := Metrics{Processed: 12, Succeeded: 3, Failed: 9, Retried: 6, DeadLettered: 4}
		got.Running = 2
		wantMetrics(t, w, got)
		close(release)
		time.Sleep(time.Second)
		stop()
		wantMetrics(t, w, Metrics{Processed: 14, Succeeded: 5, Failed: 9, Retried: 6, DeadLettered: 4})

		const want = `{"processed":14,"succeeded":5,"failed":9,"retried":6,"dead_lettered":4,"canceled":0,"reaped":0,"running":0,"tasks":[{"task":"exits",`
		if got := expvar.Func(func() any { return w.Metrics() }).String(); !strings.HasPrefix(got, want) {
			t.Errorf("expvar shows %s, want %s …", got, want)
		}
	})
}

func TestMetricsAreKeptByTask(t *testing.T) {
	overMemory(t, func(t *testing.T, s *MemoryStorage) {
		w := workerOf(s,
			taskOf("Sleeps", func(context.Context) error { time.Sleep(2 * time.Second); return nil }),
			taskOf("fails", func(context.Context) error { return errTask }),
			taskOf("idle", func(context.Context) error { return nil }))
		w.Retry.MaxRetries = 1
		// A name in another case is the same task. A task that the worker does not know is not counted.
		mustEnqueue(t, s, NewJob("sleeps"), NewJob("SLEEPS"), NewJob("fails"), NewJob("unknown"))
		stop := started(t, w)
		time.Sleep(time.Second)
		if running := w.Metrics().Tasks[0].Running; running != 2 {
			t.Errorf("%d run, want 2", running)
		}
		time.Sleep(10 * time.Second)
		stop()
		want := []TaskMetrics{
			{Task: "Sleeps", Processed: 2, Succeeded: 2, Took: 4 * time.Second},
			{Task: "fails", Processed: 2, Failed: 2, Retried: 1, DeadLettered: 1, Took: 2}, // a nanosecond at least
		}
		if diff := cmp.Diff(want, w.Metrics().Tasks); diff != "" {
			t.Errorf("by task (-want +got):\n%s", diff)
		}
	})
}

func TestTheLogTellsStartsRetriesAndDeadLettersEachAtItsLevel(t *testing.T) {
	overMemory(t, func(t *testing.T, s *MemoryStorage) {
		w := workerOf(s, flaky("flaky", 1), taskOf("works", func(context.Context) error { return nil }),
			taskOf("panics", func(context.Context) error { panic("boom") }),
			taskOf("talks", func(context.Context) error { return Permanent(errors.New("a trace:\n  one\n  two\n\nand so on")) }))
		w.Retry.MaxRetries = 1
		var log bytes.Buffer
		w.Logger = logTo(&log, slog.LevelDebug)
		for i, task := range []string{"works", "flaky", "panics", "talks"} {
			mustEnqueue(t, s, &Job{ID: fmt.Sprint(i + 1), Task: task})
			mustDrain(t, w)
		}
		used := abandoned(t, s, "works", 2)
		mustDrain(t, w)
		want := strings.ReplaceAll(`
level=DEBUG msg="job starts" task=works job=1 attempt=1
level=DEBUG msg="job starts" task=flaky job=2 attempt=1
level=WARN msg="job failed, will be retried" task=flaky job=2 attempt=1 in=1s error="it failed"
level=DEBUG msg="job starts" task=flaky job=2 attempt=2
level=DEBUG msg="job starts" task=panics job=3 attempt=1
level=WARN msg="job failed, will be retried" task=panics job=3 attempt=1 in=1s error="panic: boom"
level=DEBUG msg="job starts" task=panics job=3 attempt=2
level=ERROR msg="job dead-lettered" task=panics job=3 attempts=2 error="panic: boom"
level=DEBUG msg="job starts" task=talks job=4 attempt=1
level=ERROR msg="job dead-lettered" task=talks job=4 attempts=1 error="a trace: … two"
level=ERROR msg="job dead-lettered" task=works job=USED attempts=3 error="pinion: attempts used up: 2 of 2; the last error: lease expired"
`, "USED", used.ID)
		if diff := cmp.Diff(want, "\n"+log.String()); diff != "" {
			t.Errorf("the log (-want +got):\n%s", diff)
		}
	})
}

func TestRunLogsItsStartAndItsStop(t *testing.T) {
	overMemory(t, func(t *testing.T, s *MemoryStorage) {
		w := workerOf(s, taskOf("works", func(context.Context) error { return nil }), flaky("flaky", 1))
		w.Name, w.Queues = "one", []string{"a", "b"}
		var log bytes.Buffer
		w.Logger = logTo(&log, slog.LevelInfo)
		stop := started(t, w)
		time.Sleep(90*time.Minute + 1234567*time.Nanosecond)
		stop()
		mustDrain(t, w) // Drain logs neither
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		if err := w.Run(t.Context()); !errors.Is(err, ErrClosed) {
			t.Errorf("Run on a closed storage: %v, want ErrClosed", err)
		}
		const want = `
level=INFO msg="worker started" worker=one concurrency=10 queues=a,b tasks=flaky,works
level=INFO msg="worker stopped" worker=one after=1h30m0.001s
level=INFO msg="worker started" worker=one concurrency=10 queues=a,b tasks=flaky,works
level=INFO msg="worker stopped" worker=one after=0s error="pinion: storage is closed"
`
		got := lines(log.String(), "level=INFO")
		if diff := cmp.Diff(want, "\n"+got); diff != "" {
			t.Errorf("the log (-want +got):\n%s", diff)
		}
	})
}

// lines returns the lines of a text that begin so.
func lines(text, begin string) string {
	var found strings.Builder
	for line := range strings.Lines(text) {
		if strings.HasPrefix(line, begin) {
			found.WriteString(line)
		}
	}
	return found.String()
}

func TestAWorkerWithoutALoggerUsesTheDefaultOne(t *testing.T) {
	var log bytes.Buffer
	defer slog.SetDefault(slog.Default())
	slog.SetDefault(logTo(&log, slog.LevelWarn))
	overMemory(t, func(t *testing.T, s *MemoryStorage) {
		w := workerOf(s, taskOf("fails", func(context.Context) error { return Permanent(errTask) }))
		w.Logger = nil
		mustEnqueue(t, s, &Job{ID: "1", Task: "fails"})
		mustDrain(t, w)
	})
	const want = "level=ERROR msg=\"job dead-lettered\" task=fails job=1 attempts=1 error=\"it failed\"\n"
	if diff := cmp.Diff(want, log.String()); diff != "" {
		t.Errorf("the log (-want +got):\n%s", diff)
	}
}

func TestRunGoesOnThroughTroubleWithTheStorageAndLogsItOnceASecond(t *testing.T) {
	overMemory(t, func(t *testing.T, s *MemoryStorage) {
		start := time.Now()
		var ran []time.Duration
		trouble := func(until time.Duration) func() error {
			return func() error {
				if time.Since(start) < until {
					return errors.New("disk full")
				}
				return nil
			}
		}
		w := workerOf(&faulty{Storage: s, dequeue: trouble(3 * time.Second), done: trouble(5500 * time.Millisecond),
			failed: trouble(5500 * time.Millisecond), dead: trouble(5500 * time.Millisecond)},
			taskOf("works", func(context.Context) error { ran = append(ran, time.Since(start)); return nil }),
			flaky("flaky", 1), taskOf("fails", func(context.Context) error { return Permanent(errTask) }))
		w.Concurrency = 1
		var log bytes.Buffer
		w.Logger = logTo(&log, slog.LevelError)
		jobs := []*Job{NewJob("works"), NewJob("flaky"), NewJob("fails")}
		mustEnqueue(t, s, jobs...)
		stop := started(t, w)
		time.Sleep(20 * time.Second)
		stop()
		if diff := cmp.Diff([]time.Duration{3 * time.Second}, ran); diff != "" {
			t.Errorf("attempts (-want +got):\n%s", diff)
		}
		wantEnd(t, s, jobs[0], ending{StatusSuccess, 1, ""})
		wantEnd(t, s, jobs[1], ending{StatusSuccess, 2, "it failed"})
		wantEnd(t, s, jobs[2], ending{StatusFailed, 1, "it failed"})
		if n := strings.Count(log.String(), "storage in trouble"); n < 5 || n > 7 {
			t.Errorf("the log tells of the trouble %d times in 5.5 s, want once a second:\n%s", n, log.String())
		}
	})
}

func TestAFieldThatCannotBeMeantIsAnErrorOfRunAndDrain(t *testing.T) {
	for _, c := range []struct {
		want string
		set  func(w *Worker)
	}{
		{"field Storage is not set", func(w *Worker) { w.Storage = nil }},
		{"field Registry has no tasks; register at least one", func(w *Worker) { w.Registry = new(Registry) }},
		{"field Concurrency is -1; want 0 (default 10) to 100000", func(w *Worker) { w.Concurrency = -1 }},
		{fmt.Sprintf("field Concurrency is %d; want 0 (default 10) to 100000", math.MaxInt), func(w *Worker) { w.Concurrency = math.MaxInt }},
		{`field Name is "a\x00b"; want valid UTF-8 of at most 255 bytes, without NUL`, func(w *Worker) { w.Name = "a\x00b" }},
		{`field Name is "\xff"; want valid UTF-8 of at most 255 bytes, without NUL`, func(w *Worker) { w.Name = "\xff" }},
		{`field Name is "` + strings.Repeat("x", 256) + `"; want valid UTF-8 of at most 255 bytes, without NUL`, func(w *Worker) { w.Name = strings.Repeat("x", 256) }},
		{"field Middleware returned nil; want a function", func(w *Worker) { w.Middleware = func(RunFunc) RunFunc { return nil } }},
		{"TaskTimeout is -1s; want 0 (the default) or more", func(w *Worker) { w.TaskTimeout = -time.Second }},
		{"VisibilityTimeout is -1s; want 0 (the default) or more", func(w *Worker) { w.VisibilityTimeout = -time.Second }},
		{"HeartbeatInterval is -1s; want 0 (the default) or more", func(w *Worker) { w.HeartbeatInterval = -time.Second }},
		{"ReapInterval is -1s; want 0 (the default) or more", func(w *Worker) { w.ReapInterval = -time.Second }},
		{"ShutdownTimeout is -1s; want 0 (the default) or more", func(w *Worker) { w.ShutdownTimeout = -time.Second }},
		{"HeartbeatInterval is 3s; want less than 3s, so that a VisibilityTimeout of 10s is renewed before others take the lease back", func(w *Worker) { w.HeartbeatInterval = 3 * time.Second }},
		{"HeartbeatInterval is 2s; want less than 1s, so that a VisibilityTimeout of 1s is renewed before others take the lease back",
			func(w *Worker) { w.HeartbeatInterval, w.VisibilityTimeout = 2*time.Second, time.Second }},
		{"field Retry: MaxRetries is negative; 0 means no retry", func(w *Worker) { w.Retry = &RetryPolicy{MaxRetries: -1} }},
		{"field Retry: BaseDelay and Cap must not be negative; 0 means the default's", func(w *Worker) { w.Retry = &RetryPolicy{BaseDelay: -1} }},
		{"field Retry: BaseDelay and Cap must not be negative; 0 means the default's", func(w *Worker) { w.Retry = &RetryPolicy{Cap: -1} }},
	} {
		overMemory(t, func(t *testing.T, s *MemoryStorage) {
			w := workerOf(s, taskOf("works", func(context.Context) error { return nil }))
			job := NewJob("works")
			mustEnqueue(t, s, job)
			right, registry := w.Retry, w.Registry
			c.set(w)
			ended, cancel := context.WithCancel(t.Context()) // so that a field that is not checked does no harm
			cancel()
			for _, call := range []func(context.Context) error{w.Run, w.Drain} {
				if err := call(ended); err == nil || err.Error() != "pinion: worker: "+c.want {
					t.Errorf("got %v, want pinion: worker: %s", err, c.want)
				}
			}
			wantEnd(t, s, job, ending{StatusPending, 0, ""})

			// Set right, the worker works.
			w.Storage, w.Registry, w.Name, w.Retry, w.Concurrency, w.Middleware = s, registry, "", right, 0, nil
			w.TaskTimeout, w.VisibilityTimeout, w.HeartbeatInterval, w.ReapInterval, w.ShutdownTimeout = 0, 0, 0, 0, 0
			mustDrain(t, w)
			wantEnd(t, s, job, ending{StatusSuccess, 1, ""})
		})
	}
}

func TestAWorkerWithoutARegistryUsesTheDefaultOne(t *testing.T) {
	name, ran := "test "+NewID(), false // which stays registered, also when the test runs again
	Register(name, func(context.Context, struct{}) error { ran = true; return nil })
	overMemory(t, func(t *testing.T, s *MemoryStorage) {
		w := workerOf(s)
		w.Registry = nil
		wantEnd(t, s, drained(t, w, name), ending{StatusSuccess, 1, ""})
	})
	if !ran {
		t.Error("the task did not run")
	}
}

func TestAWorkerRunsOnceAtATime(t *testing.T) {
	overMemory(t, func(t *testing.T, s *MemoryStorage) {
		w := workerOf(s)
		stop := started(t, w)
		synctest.Wait()
		for _, call := range []func(context.Context) error{w.Run, w.Drain} {
			if err := call(t.Context()); err == nil || err.Error() != "pinion: worker is already running" {
				t.Errorf("a second one at once: %v", err)
			}
		}
		stop()
		mustDrain(t, w)
	})
}

// overEach runs test in a bubble of its own over each storage, and over one that has the nine methods alone; in
// looks into it.
func overEach(t *testing.T, test func(t *testing.T, s Storage, in Inspector)) {
	t.Helper()
	in := func(name string, open func(t *testing.T) (Storage, Inspector)) {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s, in := open(t)
				defer s.Close()
				test(t, s, in)
			})
		})
	}
	in("memory", func(*testing.T) (Storage, Inspector) { s := NewMemoryStorage(); return s, s })
	in("plain", func(*testing.T) (Storage, Inspector) { s := NewMemoryStorage(); return plain{s}, s })
	in("sqlite", func(t *testing.T) (Storage, Inspector) { s := sqliteInBubble(t); return s, s })
}

func sqliteInBubble(t *testing.T) *SQLiteStorage {
	t.Helper()
	s, err := OpenSQLite(t.Context(), filepath.Join(t.TempDir(), "jobs.db"), &SQLiteOptions{PollInterval: time.Second})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// overMemory runs test in a bubble over a MemoryStorage.
func overMemory(t *testing.T, test func(t *testing.T, s *MemoryStorage)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		s := NewMemoryStorage()
		defer s.Close()
		test(t, s)
	})
}

// flaky returns a task that fails so many times before it succeeds.
func flaky(name string, times int) Task[struct{}] {
	return taskOf(name, func(context.Context) error {
		if times--; times >= 0 {
			return errTask
		}
		return nil
	})
}

// answering returns middleware that is simpler to write down.
func answering(f func(ctx context.Context, next func() error) error) func(RunFunc) RunFunc {
	return func(next RunFunc) RunFunc {
		return func(ctx context.Context, job *Job) error { return f(ctx, func() error { return next(ctx, job) }) }
	}
}

// drained enqueues a job and drains the worker's storage.
func drained(t *testing.T, w *Worker, task string, args ...any) *Job {
	t.Helper()
	job := NewJob(task, args...)
	mustEnqueue(t, w.Storage, job)
	mustDrain(t, w)
	return job
}

func mustGet(t *testing.T, in Inspector, id string) *Job {
	t.Helper()
	job, err := in.Get(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	return job
}

// ending is how a job ended, or where it stands.
type ending struct {
	Status   Status
	Attempts int
	Error    string // its first line
}

func endingOf(job *Job) ending {
	line, _, _ := strings.Cut(job.Error, "\n")
	return ending{job.Status, job.Attempts, line}
}

// wantEnd also looks whether the dead-letter queue has the same to say.
func wantEnd(t *testing.T, in Inspector, job *Job, want ending) {
	t.Helper()
	if diff := cmp.Diff(want, endingOf(mustGet(t, in, job.ID))); diff != "" {
		t.Errorf("job %s (-want +got):\n%s", job.Task, diff)
	}
	var dead, wantDead []ending
	for _, letter := range deadLetters(t, in) {
		if letter.ID == job.ID {
			dead = append(dead, endingOf(letter))
		}
	}
	if want.Status == StatusFailed {
		wantDead = []ending{want}
	}
	if diff := cmp.Diff(wantDead, dead); diff != "" {
		t.Errorf("dead letters of job %s (-want +got):\n%s", job.Task, diff)
	}
}

func wantResult(t *testing.T, in Inspector, job *Job, want string) {
	t.Helper()
	if got := string(mustGet(t, in, job.ID).Result); got != want {
		t.Errorf("the result of job %s is %.100q, want %.100q", job.Task, got, want)
	}
}

// wantMetrics compares the sums over all tasks.
func wantMetrics(t *testing.T, w *Worker, want Metrics) {
	t.Helper()
	got := w.Metrics()
	got.Tasks = nil
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("metrics (-want +got):\n%s", diff)
	}
}

// wantElapsed allows for the moment in which successes are gathered.
func wantElapsed(t *testing.T, start time.Time, want time.Duration) {
	t.Helper()
	if got := time.Since(start); got < want || got > want+10*time.Millisecond {
		t.Errorf("it took %v, want %v", got, want)
	}
}

// wantInOrder has one slot run 300 jobs, of several priorities and queues, that are all due.
func wantInOrder(t *testing.T, s Storage, how string, took time.Duration) {
	t.Helper()
	var jobs []*Job
	for i := range 300 {
		jobs = append(jobs,
			&Job{Task: "works", Args: []any{i}, Priority: rand.IntN(3), Queue: fmt.Sprint(rand.IntN(3))})
	}
	mustEnqueue(t, s, jobs...)
	var got, want []int
	w := workerOf(s, Task[int]{Name: "works", Run: func(_ context.Context, n int) error {
		time.Sleep(took)
		got = append(got, n)
		return nil
	}})
	w.Concurrency, w.HeartbeatInterval, w.VisibilityTimeout = 1, time.Hour, 6*time.Hour // between heartbeats
	if how == "Drain" {
		mustDrain(t, w)
	} else {
		stop := started(t, w)
		time.Sleep(5 * time.Second)
		stop()
		mustDrain(t, w) // if that was too short
	}
	slices.SortStableFunc(jobs, func(a, b *Job) int { return b.Priority - a.Priority })
	for _, job := range jobs {
		want = append(want, job.Args[0].(int))
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("%s, each job taking %v (-want +got):\n%s", how, took, diff)
	}
}

// logTo writes a log without times.
func logTo(buf *bytes.Buffer, level slog.Level) *slog.Logger {
	return slog.New(slog.NewTextHandler(buf, &slog.HandlerOptions{Level: level, ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
		if a.Key == slog.TimeKey {
			return slog.Attr{}
		}
		return a
	}}))
}

// faulty is a storage with the nine methods alone, whose verbs fail when the function of that name says so.
type faulty struct {
	Storage
	dequeue, done, failed, dead func() error
}

func (s *faulty) Dequeue(ctx context.Context, opts DequeueOptions) ([]*Job, error) {
	if s.dequeue != nil {
		if err := s.dequeue(); err != nil {
			return nil, err
		}
	}
	return s.Storage.Dequeue(ctx, opts)
}

func (s *faulty) MarkDone(ctx context.Context, jobs ...*Job) ([]*Job, error) {
	if s.done != nil {
		if err := s.done(); err != nil {
			return nil, err
		}
	}
	return s.Storage.MarkDone(ctx, jobs...)
}

func (s *faulty) MarkFailed(ctx context.Context, job *Job, cause error, retryAt time.Time) error {
	if s.failed != nil {
		if err := s.failed(); err != nil {
			return err
		}
	}
	return s.Storage.MarkFailed(ctx, job, cause, retryAt)
}

func (s *faulty) DeadLetter(ctx context.Context, job *Job, cause error) error {
	if s.dead != nil {
		if err := s.dead(); err != nil {
			return err
		}
	}
	return s.Storage.DeadLetter(ctx, job, cause)
}

// tooSlow is a storage in which, after the first claim, other workers always come first.
type tooSlow struct {
	Storage
	claimed atomic.Bool
}

func (s *tooSlow) Dequeue(ctx context.Context, opts DequeueOptions) ([]*Job, error) {
	if s.claimed.Swap(true) {
		opts.Queues = []string{"where nothing is"}
	}
	return s.Storage.Dequeue(ctx, opts)
}

// slowToAnswer is a storage whose claims are answered late, some later than others.
type slowToAnswer struct{ *MemoryStorage }

func (s slowToAnswer) Dequeue(ctx context.Context, opts DequeueOptions) ([]*Job, error) {
	jobs, err := s.MemoryStorage.Dequeue(ctx, opts)
	time.Sleep(rand.N(300 * time.Millisecond))
	return jobs, err
}

//go:noinline
func panicDeepDown(value any) { panic(value) }

//go:noinline
func exitDeepDown() { runtime.Goexit() }

type panicsWhenDecoded struct{}

func (*panicsWhenDecoded) UnmarshalJSON([]byte) error { panic("cannot be decoded") }

// Errors that panic in one of their methods each, but for the last, which does so in two.
type (
	panicsInError    struct{}
	panicsInIs       struct{}
	panicsInAs       struct{}
	panicsInUnwrap   struct{}
	panicsWithItself struct{}

	panicsWithItselfTwice struct{}
)

func (panicsInError) Error() string      { panic("in Error") }
func (panicsInIs) Error() string         { return "panics in Is" }
func (panicsInIs) Is(error) bool         { panic("in Is") }
func (panicsInUnwrap) Error() string     { return "panics in Unwrap" }
func (panicsInUnwrap) Unwrap() error     { panic("in Unwrap") }
func (panicsInAs) Error() string         { return "panics in As" }
func (panicsInAs) As(any) bool           { panic("in As") }
func (e panicsWithItself) Error() string { panic(e) }

func (e panicsWithItselfTwice) Error() string { panic(e) }
func (e panicsWithItselfTwice) Unwrap() error { panic(e) }

func TestWorkersWithoutANameAreNumbered(t *testing.T) {
	overMemory(t, func(t *testing.T, s *MemoryStorage) {
		names := make(map[string]bool)
		for range 3 {
			w := workerOf(s, taskOf("works", func(context.Context) error { return nil }))
			var own string
			for range 2 { // a Worker keeps its name
				job := drained(t, w, "works")
				name := mustGet(t, s, job.ID).Worker
				if own == "" {
					own = name
				}
				if name != own {
					t.Errorf("one worker is called %q and %q", own, name)
				}
			}
			if names[own] || !strings.HasPrefix(own, processName()) {
				t.Errorf("a worker is called %q; want a name of its own that begins with %q", own, processName())
			}
			names[own] = true
		}
	})
}

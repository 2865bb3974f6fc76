package pinion

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"
)

// A Drain has one claim in flight. Of a Run's two, one may fill a slot with a job claimed ahead for which the other
// was already waiting.
func TestJobsClaimedBeforeAreClaimedOnlyIntoAFreeSlot(t *testing.T) {
	for _, took := range []time.Duration{0, 10 * time.Millisecond} {
		overStorages(t, func(t *scene) {
			const slots, n = 4, 200
			t.enqueue(slices.Repeat([]string{"a"}, n)...)
			for i, job := range mustDequeue(t.T, t.storage, n) {
				if i%2 == 0 {
					if err := t.storage.MarkFailed(t.Context(), job, errors.New("broken"), time.Now()); err != nil {
						t.Fatal(err)
					}
				} else if _, err := t.storage.MarkDone(t.Context(), job); err != nil {
					t.Fatal(err)
				}
			}
			t.enqueue(slices.Repeat([]string{"a"}, n)...)
			mustEnqueue(t.T, t.storage, &Job{Task: "a", Priority: 1}) // shows the pace
			watched := watching(t.storage, slots)
			worker := &Worker{Storage: watched, Concurrency: slots}
			run := t.begin(worker, worker.Drain, t.task("a", func(ctx context.Context, job *Job) error {
				defer watched.ended(job)
				pause(ctx, took)
				return nil
			}))
			if err := run.wait(); err != nil {
				t.Error(err)
			}
			if watched.again != n/2 || watched.againAhead > 0 {
				t.Errorf("tasks of %v: of %d jobs claimed again, %d were without a free slot; want %d and none",
					took, watched.again, watched.againAhead, n/2)
			}
			if watched.most <= slots {
				t.Errorf("tasks of %v: nothing was claimed ahead, so this test shows nothing", took)
			}
		})
	}
}

func TestFastTasksAreClaimedInLargeBatches(t *testing.T) {
	overStorages(t, func(t *scene) {
		watched := watching(t.storage, 4)
		t.enqueue(slices.Repeat([]string{"a"}, 1500)...)
		run := t.run(&Worker{Storage: watched, Concurrency: 4},
			t.task("a", func(context.Context, *Job) error { return nil }))
		t.sleep(time.Second)
		if m := run.metrics(); m.Succeeded != 1500 {
			t.Fatalf("%d succeeded, want 1500", m.Succeeded)
		}
		if largest := slices.Max(watched.batches); largest < 500 {
			t.Errorf("the largest claim was of %d jobs; want at least 500", largest)
		}
	})
}

func TestTasksAreClaimedAtMostATenthOfASecondAhead(t *testing.T) {
	for took, ahead := range map[time.Duration]int{
		10 * time.Millisecond: 40, 30 * time.Millisecond: 13, 100 * time.Millisecond: 4,
		399 * time.Millisecond: 1, 401 * time.Millisecond: 0, time.Minute: 0,
	} {
		inBubble(t, NewMemoryStorage(), func(t *scene) {
			const slots = 4
			watched := watching(t.storage, slots)
			var longest time.Duration
			var mu sync.Mutex // guards longest
			t.enqueue(slices.Repeat([]string{"a"}, 200)...)
			t.run(&Worker{Storage: watched, Concurrency: slots}, t.task("a", func(ctx context.Context, job *Job) error {
				defer watched.ended(job)
				mu.Lock()
				longest = max(longest, time.Since(watched.claimedAt(job)))
				mu.Unlock()
				pause(ctx, took)
				return nil
			}))
			t.sleep(20 * took)
			if watched.most != slots+ahead {
				t.Errorf("tasks of %v: at most %d jobs were held at once; want %d running and %d ahead",
					took, watched.most, slots, ahead)
			}
			if bound := time.Duration((ahead+slots-1)/slots) * took; longest > bound {
				t.Errorf("tasks of %v: one waited %v for a slot, want at most %v", took, longest, bound)
			}
		})
	}
}

func TestJobsBehindATaskThatTurnsOutSlowAreRunByAnotherWorker(t *testing.T) {
	overStorages(t, func(t *scene) {
		type ran struct {
			worker   string
			attempts int
			soon     bool
		}
		var mu sync.Mutex // guards runs
		runs := make(map[ran]int)
		fast := func(worker string) AnyTask {
			return t.task("fast", func(_ context.Context, job *Job) error {
				mu.Lock()
				defer mu.Unlock()
				runs[ran{worker, job.Attempts, t.since() <= 2*time.Second}]++
				return nil
			})
		}
		slow := t.task("slow", func(ctx context.Context, _ *Job) error { return sleeping(ctx, time.Minute) })
		t.enqueue("fast", "fast", "slow")
		behind := t.enqueue(slices.Repeat([]string{"fast"}, 50)...)
		t.run(&Worker{Concurrency: 1}, fast("the slow one"), slow)
		t.sleep(500 * time.Millisecond)
		for _, id := range behind {
			if job := t.get(id); job.Status != StatusRunning {
				t.Fatalf("a job is %s and was not claimed ahead, so this test shows nothing", job.Status)
			}
		}
		t.run(&Worker{Concurrency: 1}, fast("the other"), slow)
		t.sleep(5 * time.Second)
		want := map[ran]int{{"the slow one", 1, true}: 2, {"the other", 1, true}: 50}
		if diff := gocmp.Diff(want, runs, gocmp.AllowUnexported(ran{})); diff != "" {
			t.Errorf("runs (-want +got):\n%s", diff)
		}
		if got := t.statuses("slow"); got[StatusRunning] != 1 {
			t.Errorf("the slow job is %v, want it RUNNING", got)
		}
	})
}

func TestAWorkerWhoseTasksTurnedOutSlowClaimsNoMoreAhead(t *testing.T) {
	overStorages(t, func(t *scene) {
		behind := t.enqueue("fast", "fast", "slow", "fast", "fast", "fast")[3:]
		t.run(&Worker{Concurrency: 1},
			t.task("fast", func(ctx context.Context, _ *Job) error { return sleeping(ctx, 25*time.Millisecond) }),
			t.task("slow", func(ctx context.Context, _ *Job) error { return sleeping(ctx, time.Minute) }))
		t.sleep(500 * time.Millisecond)
		var fresh []*Job
		for range 5 {
			fresh = append(fresh, &Job{Task: "fast", Priority: 1}) // before those that were claimed already
		}
		mustEnqueue(t.T, t.storage, fresh...)
		t.sleep(50 * time.Second)
		back := 0
		for _, id := range behind {
			if job := t.get(id); job.Status == StatusPending && job.Claim > 0 {
				back++
			}
		}
		if back == 0 {
			t.Error("no job that was claimed ahead was given back, so this test shows nothing")
		}
		for _, job := range fresh {
			if job := t.get(job.ID); job.Claim != 0 {
				t.Errorf("a later job is %s with claim %d; want it left to others", job.Status, job.Claim)
			}
		}
	})
}

// Of two claims under way, one may come back with jobs ahead that take the slots with which the other waits.
func TestAJobClaimedBeforeGoesBackIfItsSlotWasTakenMeanwhile(t *testing.T) {
	inBubble(t, NewMemoryStorage(), func(t *scene) {
		t.enqueueOld()
		r, err := workerOf(t.storage).newRun(false)
		if err != nil {
			t.Fatal(err)
		}
		want := request{slots: 1}
		in := &r.slots.intake
		in.asked(want)
		in.held, in.open = in.slots, in.slots
		back := r.slots.deliver(want, mustDequeue(t.T, t.storage, 1))
		r.giveBack(t.Context(), back)
		if in.held != in.slots || in.open != in.slots || !in.pending.none() || len(r.slots.waiting) != 0 {
			t.Errorf("%d jobs are held, %d open, %+v asked for and %d waiting; want %d, %d, nothing and 0",
				in.held, in.open, in.pending, len(r.slots.waiting), in.slots, in.slots)
		}
		if job := mustDequeue(t.T, t.storage, 1)[0]; job.Attempts != 2 {
			t.Errorf("claimed again, the job counts %d attempts, want 2: what went back does not count", job.Attempts)
		}
	})
}

func TestJobsWithASingleAttemptAreNeverClaimedAhead(t *testing.T) {
	for name, c := range map[string]struct{ worker, task *RetryPolicy }{
		"the worker's policy": {worker: &RetryPolicy{}}, "a task's policy": {task: &RetryPolicy{}},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, NewMemoryStorage(), func(t *scene) {
				watch := watching(t.storage, 2)
				t.enqueue(slices.Repeat([]string{"fast"}, 100)...)
				w := workerOf(watch,
					taskOf("fast", func(context.Context) error { time.Sleep(time.Millisecond); return nil }))
				w.Concurrency, w.Retry = 2, c.worker
				w.Registry.Add(Task[struct{}]{
					Name:  "careful",
					Run:   func(context.Context, struct{}) error { return nil },
					Retry: c.task,
				})
				mustDrain(t.T, w)
				if most := slices.Max(watch.batches); most > 2 {
					t.Errorf("%d jobs were claimed at once, want at most the 2 for the slots", most)
				}
			})
		})
	}
}

func TestATaskWithASingleAttemptThatIsRegisteredLaterIsNeverClaimedAhead(t *testing.T) {
	inBubble(t, NewMemoryStorage(), func(t *scene) {
		watch := watching(t.storage, 1)
		var r Registry
		r.Add(taskOf("fast", func(context.Context) error { time.Sleep(time.Millisecond); return nil }))
		run := t.run(&Worker{Storage: watch, Registry: &r, Concurrency: 2})
		t.enqueue(slices.Repeat([]string{"fast"}, 100)...)
		t.sleep(time.Second)
		if most := watch.largestBatch(); most <= 2 {
			t.Fatalf("at most %d jobs were claimed at once, so this shows nothing", most)
		}
		r.Add(Task[struct{}]{
			Name:  "careful",
			Run:   func(context.Context, struct{}) error { return nil },
			Retry: &RetryPolicy{},
		})
		t.sleep(2 * claimTime) // the claims under way do not ask for the new task
		t.enqueue(slices.Repeat([]string{"fast"}, 100)...)
		t.sleep(time.Second)
		if most := watch.largestBatch(); most > 2 {
			t.Errorf("%d jobs were claimed at once, want at most the 2 for the slots", most)
		}
		run.stop()
	})
}

// Without heartbeats for what waits, it must go back, or start, early enough.
func TestAJobThatWaitsForASlotDoesNotLoseItsLease(t *testing.T) {
	inBubble(t, NewMemoryStorage(), func(t *scene) {
		var attempts []int
		var mu sync.Mutex // guards attempts
		tasks := []AnyTask{
			t.task("fast", func(_ context.Context, job *Job) error {
				mu.Lock()
				defer mu.Unlock()
				attempts = append(attempts, job.Attempts)
				return nil
			}),
			t.task("slow", func(ctx context.Context, _ *Job) error { return sleeping(ctx, time.Minute) }),
		}
		run := t.run(&Worker{Concurrency: 1, HeartbeatInterval: 2900 * time.Millisecond}, tasks...)
		t.sleep(time.Second)
		t.enqueue("fast", "fast", "slow", "fast", "fast", "fast")
		t.sleep(400 * time.Millisecond)
		if got := t.statuses("fast"); got[StatusRunning] != 3 {
			t.Fatalf("the fast jobs are %v; want 3 claimed ahead", got)
		}
		other := t.run(&Worker{}, tasks...)
		t.sleep(30 * time.Second)
		if diff := gocmp.Diff([]int{1, 1, 1, 1, 1}, attempts); diff != "" {
			t.Errorf("attempts of the fast jobs (-want +got):\n%s", diff)
		}
		if n := run.metrics().Reaped + other.metrics().Reaped; n != 0 {
			t.Errorf("%d leases were lost, want none", n)
		}
	})
}

// A claim ahead that may not take the job which is ready says nothing about the claim beside it, which may.
func TestAClaimAheadDoesNotHideAJobFromAClaimForAFreeSlot(t *testing.T) {
	overStorages(t, func(t *scene) {
		t.enqueue("a")
		jobs := mustDequeue(t.T, t.storage, 1)
		for n := range 300 {
			if _, _, err := t.storage.Release(t.Context(), time.Time{}, nil, jobs...); err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
			var others sync.WaitGroup
			for range 3 {
				others.Go(func() {
					t.storage.Heartbeat(ctx) // so that the claims meet in one transaction
					if jobs, err := t.storage.Dequeue(ctx, DequeueOptions{Max: 10, Ahead: 10}); len(jobs) > 0 ||
						err != nil {
						t.Errorf("claimed ahead: %d jobs, error %v; want none, for it was claimed before",
							len(jobs), err)
					}
				})
			}
			t.storage.Heartbeat(ctx)
			var err error
			jobs, err = t.storage.Dequeue(ctx, DequeueOptions{Max: 1})
			if err != nil {
				t.Fatalf("round %d: the claim for a free slot got %v, want the job", n, err)
			}
			others.Wait()
			cancel()
		}
	})
}

// Two claims are in flight at once; together they must not ask for more than is free.
func TestFreeSlotsAreNeverClaimedTwice(t *testing.T) {
	for name, hide := range map[string]func(*watched) Storage{
		"with all powers":    func(w *watched) Storage { return neverAhead{w} },
		"without companions": func(w *watched) Storage { return neverAhead{plain{w}} },
	} {
		overStorages(t, func(t *scene) {
			const slots = 5
			watched := watching(t.storage, slots)
			run := t.run(&Worker{Storage: hide(watched), Concurrency: slots}, t.task("a", func(ctx context.Context, job *Job) error {
				defer watched.ended(job)
				pause(ctx, time.Duration(job.Priority)*time.Millisecond)
				return nil
			}))
			for n := range 25 { // more and more at once, for a worker that waits and for one that is busy
				jobs := make([]*Job, n)
				for i := range jobs {
					jobs[i] = &Job{Task: "a", Priority: (n + i) % 3}
				}
				mustEnqueue(t.T, t.storage, jobs...)
				t.sleep(time.Duration(n%4) * time.Millisecond)
			}
			t.sleep(time.Second)
			if m := run.metrics(); m.Succeeded != 24*25/2 {
				t.Errorf("%s: %d succeeded, want %d", name, m.Succeeded, 24*25/2)
			}
			if watched.most != slots {
				t.Errorf("%s: at most %d jobs were held at once, want %d", name, watched.most, slots)
			}
		})
	}
}

func watching(s tended, slots int) *watched {
	return &watched{tended: s, slots: slots, held: make(map[string]time.Time)}
}

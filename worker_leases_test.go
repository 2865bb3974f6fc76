package pinion

import (
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"

	"github.com/pinion-queue/pinion/internal/rules"
)

// Each test runs in a synctest bubble, where times are exact and a goroutine that is left over fails the test. Where a
// test sets nothing else, a lease lasts 10s, the worker sends heartbeats each 1s and looks for lost leases each 1s.

func TestHeartbeatsKeepTheLeaseOfALongTask(t *testing.T) {
	overStorages(t, func(t *scene) {
		var runs atomic.Int64
		long := t.task("long", func(ctx context.Context, _ *Job) error {
			runs.Add(1)
			return sleeping(ctx, 2*time.Minute)
		})
		id := t.enqueue("long")[0]
		one, other := t.run(&Worker{}, long), t.run(&Worker{}, long)
		t.sleep(119 * time.Second)
		if beat := t.get(id).HeartbeatAt.Sub(t.start); beat < 118*time.Second {
			t.Errorf("after 119s the last heartbeat is that of %v", beat)
		}
		t.sleep(2 * time.Second)
		if job := t.get(id); runs.Load() != 1 || job.Status != StatusSuccess || job.Attempts != 1 {
			t.Errorf("%d runs, %s after %d attempts; want a success in one", runs.Load(), job.Status, job.Attempts)
		}
		sum := one.metrics()
		sum.Reaped += other.metrics().Reaped
		sum.Succeeded += other.metrics().Succeeded
		if sum.Reaped != 0 || sum.Succeeded != 1 {
			t.Errorf("%d leases taken back, %d successes; want 0 and 1", sum.Reaped, sum.Succeeded)
		}
	})
}

// A MarkDone may wait, for the lock of another program say. The second success waits behind that of the first.
func TestHeartbeatsKeepTheLeasesOfSuccessesThatWaitToBeRecorded(t *testing.T) {
	overStorages(t, func(t *scene) {
		var runs atomic.Int64
		quick := t.task("quick", func(context.Context, *Job) error {
			runs.Add(1)
			return nil
		})
		t.run(&Worker{Storage: &slow{tended: t.storage, markDone: time.Minute}}, quick)
		t.enqueue("quick")
		t.sleep(5 * time.Second)
		t.enqueue("quick")
		t.sleep(5 * time.Second)
		other := t.run(&Worker{}, quick)
		t.sleep(3 * time.Minute)
		if got := t.statuses(""); runs.Load() != 2 || got[StatusSuccess] != 2 {
			t.Errorf("%d runs, and the jobs ended as %v; want each to run once and succeed", runs.Load(), got)
		}
		if n := other.metrics().Reaped; n != 0 {
			t.Errorf("%d leases were taken back from a worker that was alive", n)
		}
	})
}

func TestALostLeaseCancelsTheTaskAndNothingIsWrittenForIt(t *testing.T) {
	overStorages(t, func(t *scene) {
		tasks, ids := t.thatWait(ErrLeaseLost)
		broken := &failing{tended: t.storage}
		broken.fail("MarkDone", "MarkFailed", "DeadLetter", "Release") // so that an attempt to write would be logged
		run := t.run(&Worker{Storage: broken, Concurrency: len(ids)}, tasks...)
		t.sleep(5300 * time.Millisecond)
		var late []*Job
		for _, id := range ids {
			late = append(late, t.get(id))
		}
		stolen := t.steal(len(ids))
		t.sleep(5 * time.Second)
		if diff := gocmp.Diff(Metrics{}, run.metrics()); diff != "" {
			t.Errorf("metrics (-want +got):\n%s", diff)
		}
		if n := len(run.log.lines("storage in trouble")); n > 0 {
			t.Error("something was to be written for a lost lease")
		}
		ctx := t.Context()
		for _, job := range late {
			if lost, err := t.storage.MarkDone(ctx, job); err != nil || len(lost) != 1 {
				t.Errorf("a late MarkDone: %d lost, error %v; want 1 and none", len(lost), err)
			}
			if err := t.storage.MarkFailed(ctx, job, errors.New("late"), time.Now()); !errors.Is(err, ErrLeaseLost) {
				t.Errorf("a late MarkFailed: %v; want ErrLeaseLost", err)
			}
			if err := t.storage.DeadLetter(ctx, job, errors.New("late")); !errors.Is(err, ErrLeaseLost) {
				t.Errorf("a late DeadLetter: %v; want ErrLeaseLost", err)
			}
		}
		for _, job := range stolen {
			if diff := gocmp.Diff(job, t.get(job.ID)); diff != "" {
				t.Errorf("the stolen job, as it was claimed and as it is stored:\n%s", diff)
			}
		}
		if lost, err := t.storage.MarkDone(ctx, stolen...); len(lost) > 0 || err != nil {
			t.Errorf("MarkDone by the new holder: %d lost, error %v", len(lost), err)
		}
	})
}

func TestAnEndAfterTheLeaseWasLostIsNotCounted(t *testing.T) {
	overStorages(t, func(t *scene) {
		ends := func(err error) func(context.Context, *Job) error {
			return func(ctx context.Context, job *Job) error {
				pause(ctx, 5700*time.Millisecond) // before the heartbeat that would tell
				return err
			}
		}
		run := t.run(&Worker{Concurrency: 3}, t.task("succeeds", ends(nil)), t.task("fails", ends(errors.New("broken"))),
			t.task("dies", ends(Permanent(errors.New("broken")))))
		ids := t.enqueue("succeeds", "fails", "dies")
		t.sleep(5300 * time.Millisecond)
		stolen := t.steal(3)
		t.sleep(time.Second)
		if diff := gocmp.Diff(Metrics{}, run.metrics()); diff != "" {
			t.Errorf("metrics (-want +got):\n%s", diff)
		}
		for _, job := range stolen {
			if diff := gocmp.Diff(job, t.get(job.ID)); diff != "" || !slices.Contains(ids, job.ID) {
				t.Errorf("the stolen job, as it was claimed and as it is stored:\n%s", diff)
			}
		}
	})
}

func TestALostLeaseTakesNothingFromTheSuccessBesideIt(t *testing.T) {
	overStorages(t, func(t *scene) {
		release := make(chan struct{})
		run := t.run(&Worker{Concurrency: 2}, t.task("a", func(context.Context, *Job) error { <-release; return nil }))
		ids := t.enqueue("a", "a")
		t.sleep(5300 * time.Millisecond)
		if err := t.storage.MarkFailed(t.Context(), t.get(ids[0]), errors.New("taken away"), time.Now().Add(time.Hour)); err != nil {
			t.Fatal(err)
		}
		close(release) // both end at once and are recorded in one batch
		t.sleep(500 * time.Millisecond)
		if m := run.metrics(); m.Succeeded != 1 || m.Processed != 1 {
			t.Errorf("%d successes of %d processed; want the one whose lease was kept", m.Succeeded, m.Processed)
		}
		if lost, kept := t.get(ids[0]), t.get(ids[1]); lost.Status != StatusPending || kept.Status != StatusSuccess {
			t.Errorf("the job taken away is %s, the other %s; want PENDING and SUCCESS", lost.Status, kept.Status)
		}
	})
}

func TestADeadWorkersJobRunsWithin15Seconds(t *testing.T) {
	overStorages(t, func(t *scene) {
		var ran []time.Duration
		id := t.enqueue("a")[0]
		abandoned := mustDequeue(t.T, t.storage, 1)[0]
		t.sleep(300 * time.Millisecond)
		run := t.run(&Worker{}, t.task("a", func(context.Context, *Job) error {
			ran = append(ran, t.since())
			return nil
		}))
		t.sleep(time.Minute)
		// The lease ends after 10s. Looks are at 0.3s, 1.3s and so on: the one at 10.3s doubts it, and the first that
		// comes 3s after that takes it back, perhaps after it has let heartbeats go first.
		earliest := 13300 * time.Millisecond
		latest := earliest + rules.HeartbeatsFirst
		if len(ran) != 1 || ran[0] < earliest || ran[0] > latest {
			t.Errorf("it ran after %v, want once, after %v to %v", ran, earliest, latest)
		}
		if job := t.get(id); job.Status != StatusSuccess || job.Attempts != 2 || job.Claim <= abandoned.Claim {
			t.Errorf("%s after %d attempts with claim %d; want SUCCESS after 2 with one above %d",
				job.Status, job.Attempts, job.Claim, abandoned.Claim)
		}
		if m := run.metrics(); m.Reaped != 1 {
			t.Errorf("Reaped is %d, want 1", m.Reaped)
		}
	})
}

func TestAWorkerReapsForQueuesThatItDoesNotServe(t *testing.T) {
	overStorages(t, func(t *scene) {
		mustEnqueue(t.T, t.storage, &Job{Task: "a", Queue: "other"})
		job := mustDequeue(t.T, t.storage, 1)[0]
		t.run(&Worker{Queues: []string{"mine"}})
		t.sleep(15 * time.Second)
		if got := t.get(job.ID); got.Status != StatusPending || got.Error != "lease expired" {
			t.Errorf("%s, %q; want PENDING, %q", got.Status, got.Error, "lease expired")
		}
	})
}

func TestAJobWhoseWorkersDiedEachTimeIsDeadLetteredUnrun(t *testing.T) {
	overStorages(t, func(t *scene) {
		id := t.enqueue("killer")[0]
		for range 3 + 2 { // an attempt and two retries; and two workers that die before they have given it up
			mustDequeue(t.T, t.storage, 1)
			reap(t.T, t.storage, defaultLease, 1)
		}
		t.sleep(time.Minute)
		ran := false
		run := t.run(&Worker{Retry: &RetryPolicy{MaxRetries: 2}}, t.task("killer", func(context.Context, *Job) error {
			ran = true
			return nil
		}))
		t.sleep(time.Second)
		job := t.get(id)
		if ran || job.Status != StatusFailed || job.Attempts != 5 {
			t.Errorf("ran: %v, %s after %d attempts; want it unrun, FAILED after 5", ran, job.Status, job.Attempts)
		}
		for _, part := range []string{ErrAttemptsUsedUp.Error(), "its last 5 leases were lost", "lease expired"} {
			if !strings.Contains(job.Error, part) {
				t.Errorf("the error %q does not say %q", job.Error, part)
			}
		}
		if m := run.metrics(); m.DeadLettered != 1 || m.Processed != 0 {
			t.Errorf("%d dead-lettered, %d processed; want 1 and 0", m.DeadLettered, m.Processed)
		}
	})
}

// A due time between two microseconds would never come for a claim that waits in a bubble: nothing lies between.
func TestTheDueTimesOfReapedJobsAreWholeMicroseconds(t *testing.T) {
	overStorages(t, func(t *scene) {
		ids := t.enqueue(slices.Repeat([]string{"a"}, 50)...)
		for range 2 {
			mustDequeue(t.T, t.storage, 50)
			reap(t.T, t.storage, defaultLease, 50)
		}
		if s, ok := t.storage.(*SQLiteStorage); ok {
			n, err := s.readValue(t.Context(), "count", "SELECT count(*) FROM jobs WHERE run_at <> round(run_at, 6)")
			if n != int64(0) || err != nil {
				t.Errorf("%v due times lie between two microseconds, error %v", n, err)
			}
		}
		for _, id := range ids {
			if due := t.get(id).RunAt; !due.Equal(microTime(due)) || !due.After(time.Now()) {
				t.Fatalf("due at %v; want a whole microsecond, and not yet", due)
			}
		}
	})
}

// One process after another claims the killer and whatever stands beside it, and dies with all of them.
func TestAJobThatKillsItsProcessDoesNotTakeItsNeighboursWithIt(t *testing.T) {
	t.Parallel()
	overStorages(t, func(t *scene) {
		killer := t.enqueue("killer")[0]
		t.enqueue(slices.Repeat([]string{"neighbour"}, 60)...)
		deaths := 0
		for t.get(killer).Status != StatusFailed {
			process := born(t.storage)
			run := t.run(&Worker{Storage: process, ShutdownTimeout: time.Millisecond},
				t.task("killer", func(ctx context.Context, _ *Job) error {
					pause(ctx, 5*time.Millisecond) // so that its neighbours have started
					process.die()
					deaths++
					<-ctx.Done()
					return ctx.Err()
				}),
				t.task("neighbour", func(ctx context.Context, _ *Job) error {
					pause(ctx, 10*time.Millisecond)
					return nil
				}))
			select {
			case <-process.life.Done():
			case <-time.After(10 * time.Minute):
			}
			run.stop()
			run.wait()
		}
		if deaths != maxReaped {
			t.Errorf("%d processes died; want %d", deaths, maxReaped)
		}
		t.run(&Worker{}, t.task("neighbour", func(context.Context, *Job) error { return nil }))
		t.sleep(10 * time.Minute)
		if got := t.statuses("neighbour"); got[StatusSuccess] != 60 {
			t.Errorf("the neighbours ended as %v; want 60 times SUCCESS", got)
		}
	})
}

func TestTroubleWithHeartbeatsCancelsNothing(t *testing.T) {
	inBubble(t, NewMemoryStorage(), func(t *scene) {
		broken := &failing{tended: t.storage}
		broken.fail("Heartbeat")
		run := t.run(&Worker{Storage: broken}, t.task("a", func(ctx context.Context, _ *Job) error {
			return sleeping(ctx, 9*time.Second)
		}))
		id := t.enqueue("a")[0]
		t.sleep(9100 * time.Millisecond)
		if job := t.get(id); job.Status != StatusSuccess || job.Attempts != 1 {
			t.Errorf("%s after %d attempts, want SUCCESS after one", job.Status, job.Attempts)
		}
		if n := len(run.log.lines("storage in trouble")); n != 8 && n != 9 {
			t.Errorf("%d lines about the trouble, want one a heartbeat", n)
		}
	})
}

// A storage may read all of a job, to send it elsewhere, say. The race detector is what makes this test fail.
func TestAJobIsNotChangedWhileTheStorageHasIt(t *testing.T) {
	for range 10 {
		inBubble(t, NewMemoryStorage(), func(t *scene) {
			ids := t.enqueue(slices.Repeat([]string{"a"}, 10)...)
			t.run(&Worker{Storage: copying{t.storage}}, t.task("a", func(ctx context.Context, _ *Job) error {
				pause(ctx, time.Second) // to the moment of a heartbeat
				return SetResult(ctx, 42)
			}))
			t.sleep(2 * time.Second)
			for _, id := range ids {
				if job := t.get(id); string(job.Result) != "42" {
					t.Errorf("%s with result %s; want 42", job.Status, job.Result)
				}
			}
		})
	}
}

func TestTroubleWithReleasingDoesNotStopTheHeartbeats(t *testing.T) {
	inBubble(t, NewMemoryStorage(), func(t *scene) {
		broken := &failing{tended: t.storage}
		broken.fail("Release")
		var slow atomic.Int64
		t.enqueue("fast", "fast", "slow", "fast")
		tasks := []AnyTask{
			t.task("fast", func(context.Context, *Job) error { return nil }),
			t.task("slow", func(ctx context.Context, _ *Job) error {
				slow.Add(1)
				return sleeping(ctx, time.Minute)
			}),
		}
		t.run(&Worker{Storage: broken, Concurrency: 1}, tasks...)
		t.sleep(500 * time.Millisecond)
		t.run(&Worker{}, tasks...)
		t.sleep(2 * time.Minute)
		if n := slow.Load(); n != 1 {
			t.Errorf("the slow task ran %d times, want once: its worker was alive", n)
		}
		if got := t.statuses(""); got[StatusSuccess] != 4 {
			t.Errorf("the jobs ended as %v, want 4 times SUCCESS", got)
		}
	})
}

// Each verb fails at random, before it has done its work or after.
func TestTheWorkerSurvivesAStorageThatFailsAtRandom(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("the seed is %d", seed)
	overStorages(t, func(t *scene) {
		broken := &failing{tended: t.storage, random: rand.New(rand.NewPCG(seed, 0))}
		var names []string
		for range 25 {
			names = append(names, "good", "bad at first", "bad", "slow")
		}
		ids := t.enqueue(names...)
		var runs []*runningWorker
		for range 2 {
			runs = append(runs, t.run(&Worker{Storage: broken, Concurrency: 3, Retry: &RetryPolicy{MaxRetries: 99, Cap: time.Second}},
				t.task("good", func(context.Context, *Job) error { return nil }),
				t.task("bad at first", func(_ context.Context, job *Job) error {
					if job.Attempts == 1 {
						return errors.New("bad at first")
					}
					return nil
				}),
				t.task("bad", func(context.Context, *Job) error { return Permanent(errors.New("bad")) }),
				t.task("slow", func(ctx context.Context, _ *Job) error { return sleeping(ctx, 4*time.Second) })))
		}
		for range 60 {
			t.sleep(time.Minute)
			if got := t.statuses(""); got[StatusSuccess]+got[StatusFailed] == len(ids) {
				break
			}
		}
		for name, want := range map[string]Status{"good": StatusSuccess, "bad at first": StatusSuccess, "bad": StatusFailed, "slow": StatusSuccess} {
			if got := t.statuses(name); got[want] != 25 {
				t.Errorf("%q: %v, want 25 times %s", name, got, want)
			}
		}
		if stats, err := t.storage.Stats(t.Context()); err != nil || stats.DeadLetters != 25 {
			t.Errorf("%d dead letters, error %v; want 25 and none", stats.DeadLetters, err)
		}
		for _, id := range ids {
			if n := broken.endsOf(id); n != 1 {
				t.Errorf("job %s ended %d times, want once", id, n)
			}
		}
		for _, run := range runs {
			lines := run.log.lines("storage in trouble")
			for i := 1; i < len(lines); i++ {
				if lines[i]-lines[i-1] < time.Second {
					t.Fatalf("trouble was logged at %v and at %v, within a second", lines[i-1], lines[i])
				}
			}
			if len(lines) == 0 {
				t.Error("no trouble was logged, so this test shows nothing")
			}
		}
	})
}

// mortal is a storage as one process sees it: when that dies, what it waits for is given up and nothing it does
// reaches the storage any more.
type mortal struct {
	failing
	life context.Context
	end  context.CancelFunc
}

func born(s tended) *mortal {
	m := &mortal{failing: failing{tended: s}}
	m.life, m.end = context.WithCancel(context.Background())
	return m
}

func (m *mortal) die() {
	m.fail("Dequeue", "MarkDone", "MarkFailed", "DeadLetter", "Heartbeat", "ReapStale", "Release")
	m.end()
}

func (m *mortal) Dequeue(ctx context.Context, opts DequeueOptions) ([]*Job, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(m.life, cancel)()
	return m.failing.Dequeue(ctx, opts)
}

// copying is a storage whose Heartbeat reads the whole job.
type copying struct{ tended }

func (s copying) Heartbeat(ctx context.Context, jobs ...*Job) (lost []*Job, err error) {
	copies := make([]*Job, len(jobs))
	for i, job := range jobs {
		c := *job
		copies[i] = &c
	}
	return s.tended.Heartbeat(ctx, copies...)
}

// lockable is a storage whose verbs wait while it is locked, as those of a file whose write lock another program holds.
type lockable struct {
	tended

	mu   sync.Mutex    // guards free
	free chan struct{} // closed when the lock is given back
}

func newLockable(s tended) *lockable {
	free := make(chan struct{})
	close(free)
	return &lockable{tended: s, free: free}
}

func (l *lockable) lock() (unlock func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	free := make(chan struct{})
	l.free = free
	return func() { close(free) }
}

func (l *lockable) wait(ctx context.Context) error {
	l.mu.Lock()
	free := l.free
	l.mu.Unlock()
	select {
	case <-free:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (l *lockable) Dequeue(ctx context.Context, opts DequeueOptions) ([]*Job, error) {
	if err := l.wait(ctx); err != nil {
		return nil, err
	}
	return l.tended.Dequeue(ctx, opts)
}

func (l *lockable) Heartbeat(ctx context.Context, jobs ...*Job) ([]*Job, error) {
	if err := l.wait(ctx); err != nil {
		return nil, err
	}
	return l.tended.Heartbeat(ctx, jobs...)
}

func (l *lockable) MarkDone(ctx context.Context, jobs ...*Job) ([]*Job, error) {
	if err := l.wait(ctx); err != nil {
		return nil, err
	}
	return l.tended.MarkDone(ctx, jobs...)
}

func (l *lockable) ReapStale(ctx context.Context, visibility time.Duration) (int, error) {
	if err := l.wait(ctx); err != nil {
		return 0, err
	}
	return l.tended.ReapStale(ctx, visibility)
}

// Whatever keeps everybody from writing for longer than a lease, nobody who lives loses one.
func TestLivingWorkersKeepTheirLeasesBehindALongLock(t *testing.T) {
	t.Parallel()
	for _, held := range []time.Duration{9 * time.Second, 11 * time.Second, 15 * time.Second, 10 * time.Minute} {
		for _, again := range []bool{false, true} {
			inBubble(t, NewMemoryStorage(), func(t *scene) {
				locks := newLockable(t.storage)
				var runs atomic.Int64
				long := t.task("long", func(ctx context.Context, _ *Job) error {
					runs.Add(1)
					return sleeping(ctx, 20*time.Minute)
				})
				var workers []*runningWorker
				for range 2 {
					workers = append(workers, t.run(&Worker{Storage: locks, Concurrency: 3}, long))
				}
				ids := t.enqueue(slices.Repeat([]string{"long"}, 6)...)
				t.sleep(5 * time.Second)
				unlock := locks.lock()
				t.sleep(held)
				unlock()
				if again { // with a moment between the locks in which the leases may be doubted
					t.sleep(time.Millisecond)
					unlock = locks.lock()
					t.sleep(held)
					unlock()
				}
				t.sleep(time.Hour)
				for _, id := range ids {
					if job := t.get(id); job.Status != StatusSuccess || job.Attempts != 1 {
						t.Errorf("a lock of %v, twice %t: a job is %s after %d attempts, want SUCCESS after 1",
							held, again, job.Status, job.Attempts)
					}
				}
				for _, w := range workers {
					if m := w.metrics(); m.Reaped != 0 {
						t.Errorf("a lock of %v, twice %t: %d leases were taken back, want none", held, again, m.Reaped)
					}
				}
				if n := runs.Load(); n != 6 {
					t.Errorf("a lock of %v, twice %t: the 6 jobs ran %d times", held, again, n)
				}
			})
		}
	}
}

func TestALeaseBelongsToItsHolderWhateverTheOthersSettings(t *testing.T) {
	overStorages(t, func(t *scene) {
		ran := 0
		long := t.task("long", func(ctx context.Context, _ *Job) error { ran++; return sleeping(ctx, 5*time.Minute) })
		slow := t.run(&Worker{VisibilityTimeout: time.Minute, HeartbeatInterval: 12 * time.Second}, long)
		id := t.enqueue("long")[0]
		t.sleep(time.Second)
		other := t.run(&Worker{Queues: []string{"other"}})
		t.sleep(6 * time.Minute)
		if job := t.get(id); ran != 1 || job.Status != StatusSuccess || job.Attempts != 1 {
			t.Errorf("the job ran %d times and is %s after %d attempts; want once, SUCCESS",
				ran, job.Status, job.Attempts)
		}
		if n := slow.metrics().Reaped + other.metrics().Reaped; n != 0 {
			t.Errorf("%d leases were taken back, want none", n)
		}
	})
}

func TestADrainOfMillisecondsStaysForTheLeasesThatTheDeadHaveLeft(t *testing.T) {
	overStorages(t, func(t *scene) {
		ids := t.enqueue("a", "a")
		mustDequeue(t.T, t.storage, 1)
		ran := 0
		task := t.task("a", func(context.Context, *Job) error { ran++; return nil })
		worker := &Worker{}
		run := t.begin(worker, worker.Drain, task)
		if err := run.wait(); err != nil || run.at < 10*time.Second || run.at > 16*time.Second {
			t.Errorf("while the lease lives Drain returned %v after %v; want nil when it has run the job", err, run.at)
		}
		t.enqueue("a")
		mustDequeue(t.T, t.storage, 1)
		t.sleep(time.Minute)
		before := t.since()
		run = t.begin(worker, worker.Drain)
		if err := run.wait(); err != nil || run.at-before > 5*time.Second {
			t.Errorf("Drain returned %v after %v; want nil after the second look", err, run.at-before)
		}
		for _, id := range ids {
			if job := t.get(id); job.Status != StatusSuccess {
				t.Errorf("a job is %s, want SUCCESS", job.Status)
			}
		}
		if ran != 3 {
			t.Errorf("the jobs ran %d times, want three times", ran)
		}
	})
}

func TestADrainDoesNotWaitForWhatALivingWorkerRuns(t *testing.T) {
	overStorages(t, func(t *scene) {
		id := t.enqueue("long")[0]
		release := make(chan struct{})
		t.run(&Worker{}, t.task("long", func(context.Context, *Job) error { <-release; return nil }))
		t.sleep(time.Minute)
		before := t.since()
		worker := &Worker{}
		run := t.begin(worker, worker.Drain)
		err := run.wait()
		if took := run.at - before; err != nil || took > 3*time.Second {
			t.Errorf("Drain returned %v after %v; want nil after the next heartbeat", err, took)
		}
		if job := t.get(id); job.Status != StatusRunning {
			t.Errorf("the job is %s, want RUNNING", job.Status)
		}
		close(release)
	})
}

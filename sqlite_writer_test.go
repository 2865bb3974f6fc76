package pinion

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"math/rand/v2"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	gocmp "github.com/google/go-cmp/cmp"
)

// blocked has calls made while another program holds the write lock, in the order given, each waiting before the
// next one is made, and returns how many transactions the storage then needed. It needs a bubble.
func blocked(t *testing.T, path string, calls ...func()) int {
	t.Helper()
	release := otherProgram(t, path).lock()
	before := commits(t, path)
	var wg sync.WaitGroup
	for _, call := range calls {
		wg.Go(call)
		synctest.Wait()
	}
	release()
	wg.Wait()
	return commits(t, path) - before
}

func TestConcurrentVerbsShareATransaction(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, path := newSQLite(t)
		ctx := t.Context()
		for range 8 {
			mustEnqueue(t, s, NewJob("a"))
		}
		jobs := mustDequeue(t, s, 6)
		var claimed []*Job
		calls := []func(){
			func() { s.MarkDone(ctx, jobs[0], jobs[1]) },
			func() { s.MarkFailed(ctx, jobs[2], errors.New("x"), time.Now().Add(time.Hour)) },
			func() { s.DeadLetter(ctx, jobs[3], errors.New("x")) },
			func() { s.Heartbeat(ctx, jobs[4]) },
			func() { s.Release(ctx, time.Time{}, nil, jobs[5]) },
			func() { claimed, _ = s.Dequeue(ctx, DequeueOptions{Max: 2, Queues: []string{"default"}}) },
		}
		for range 50 {
			calls = append(calls, func() { mustEnqueue(t, s, NewJob("b")) })
		}
		if n := blocked(t, path, calls...); n != 1 {
			t.Errorf("%d verbs took %d transactions", len(calls), n)
		}
		otherProgram(t, path).want("FAILED|1\nPENDING|52\nRUNNING|3\nSUCCESS|2", "SELECT status, count(*) FROM jobs GROUP BY status")
		if got := tasksOf(claimed); got != "a a" {
			t.Errorf("claimed %q", got)
		}
	})
}

func TestEachOfTheProducersThatShareAStatementGetsWhatItStored(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, path := newSQLite(t)
		mustEnqueue(t, s, &Job{Task: "a", ID: "held", Key: "held"})
		var calls []func()
		var jobs []*Job
		var errs [90]error
		for range 9 {
			for _, job := range []*Job{{Task: "a"}, {Task: "a"}, {Task: "a", Args: []any{1}}, {Task: "a", Key: "held"}, {Task: "b"}, {Task: "b", Kwargs: map[string]any{"x": 1}},
				{Task: "b", Queue: "q"}, {Task: "b", ID: "held"}, {Task: "b", Priority: 1}, {Task: "b", RunAt: time.Now().Add(time.Hour)}} {
				answer := &errs[len(jobs)]
				jobs = append(jobs, job)
				calls = append(calls, func() { *answer = s.Enqueue(t.Context(), job) })
			}
		}
		if n := blocked(t, path, calls...); n != 1 {
			t.Errorf("%d producers took %d transactions", len(calls), n)
		}
		for i, job := range jobs {
			err := errs[i]
			if job.Key != "" || job.ID == "held" {
				if !errors.Is(err, ErrDuplicate) {
					t.Errorf("a duplicate got %v", err)
				}
				continue
			}
			stored, failed := s.Get(t.Context(), job.ID)
			if err := cmp.Or(err, failed); err != nil {
				t.Fatal(err)
			}
			if got, want := fields(t, stored), fields(t, job); got != want {
				t.Errorf("stored is %s, want %s", got, want)
			}
		}
	})
}

func TestCallsThatShareATransactionMeetInTheOrderInWhichTheyCame(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, path := newSQLite(t)
		var claimed []*Job
		n := blocked(t, path,
			func() { mustEnqueue(t, s, NewJob("a")) },
			func() { mustEnqueue(t, s, &Job{Task: "b", Key: "k"}) },
			func() { mustEnqueue(t, s, NewJob("c")) },
			func() { claimed, _ = s.Dequeue(t.Context(), DequeueOptions{Max: 1}) },
			func() { mustEnqueue(t, s, NewJob("d")) },
		)
		if got := tasksOf(claimed); got != "a" || n != 1 {
			t.Errorf("claimed %q in %d transactions, want what came first, in one", got, n)
		}
		if got := listed(t, s.Jobs(t.Context(), Filter{})); got != "a b c d" {
			t.Errorf("the jobs stand in the order %q", got)
		}
	})
}

func TestTriggersOfOthersKeepTheirOwnConflictClauses(t *testing.T) {
	path := filepath.Join(t.TempDir(), "q.db")
	late := sqliteStorage(t, path, nil)
	o := otherProgram(t, path)
	o.exec(`CREATE TABLE tasks (name TEXT PRIMARY KEY, seen)`)
	o.exec(`CREATE TRIGGER stored BEFORE INSERT ON jobs BEGIN INSERT OR IGNORE INTO tasks VALUES (new.func_name, 'stored'); END`)
	o.exec(`CREATE TRIGGER changed AFTER UPDATE ON jobs BEGIN INSERT OR REPLACE INTO tasks VALUES (new.func_name, new.status); END`)
	s := sqliteStorage(t, path, nil)
	for range 2 {
		mustEnqueue(t, s, NewJob("a"))
		mustEnqueue(t, s, NewJob("a"), NewJob("a"), NewJob("a"))
	}
	late.Enqueue(t.Context(), NewJob("a"), NewJob("a")) // fails, for the triggers have come after it was opened, but only once
	for range 2 {
		mustEnqueue(t, late, NewJob("a"), NewJob("a"))
	}
	o.want("a|stored", `SELECT * FROM tasks`)
	if err := s.Enqueue(t.Context(), NewJob("b"), &Job{ID: "x", Task: "b"}, &Job{ID: "x", Task: "b"}); !errors.Is(err, ErrDuplicate) {
		t.Errorf("a batch with an ID twice: %v", err)
	}
	jobs := mustDequeue(t, s, 12)
	o.want("a|RUNNING", `SELECT * FROM tasks`)
	if lost, err := s.Heartbeat(t.Context(), jobs...); len(lost) > 0 || err != nil {
		t.Errorf("Heartbeat: %d jobs lost, %v", len(lost), err)
	}
	if lost, err := s.MarkDone(t.Context(), jobs...); len(lost) > 0 || err != nil {
		t.Errorf("MarkDone: %d jobs lost, %v", len(lost), err)
	}
	o.want("a|SUCCESS", `SELECT * FROM tasks`)
	mustEnqueue(t, s, &Job{ID: "1", Task: "c"})
	o.exec(`DELETE FROM tasks`)
	if err := s.Enqueue(t.Context(), &Job{ID: "1", Task: "c"}); !errors.Is(err, ErrDuplicate) {
		t.Errorf("an ID for the second time: %v", err)
	}
	o.want("", `SELECT * FROM tasks`)
}

// A unique index of the user's may refuse a job. That is its producer's error alone.
func TestARefusedJobIsNoErrorOfTheNeighboursOrOfAWaitingClaim(t *testing.T) {
	for _, claims := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			s, path := newSQLite(t)
			otherProgram(t, path).exec(`CREATE UNIQUE INDEX once ON jobs(func_name) WHERE func_name='once'`)
			mustEnqueue(t, s, NewJob("once"))
			mustDequeue(t, s, 1)
			claimed := make(chan string, 1)
			if claims {
				go func() {
					jobs, err := s.Dequeue(t.Context(), DequeueOptions{Max: 9})
					claimed <- fmt.Sprint(tasksOf(jobs), " ", err)
				}()
				synctest.Wait()
			}
			var errs [4]error
			var calls []func()
			for i, task := range []string{"a", "once", "b", "once"} {
				calls = append(calls, func() { errs[i] = s.Enqueue(t.Context(), NewJob(task)) })
			}
			blocked(t, path, calls...)
			for i, err := range errs {
				if refused := err != nil; refused != (i%2 == 1) {
					t.Errorf("with claims %t: call %d: %v", claims, i, err)
				}
			}
			if got := listed(t, s.Jobs(t.Context(), Filter{})); got != "once a b" {
				t.Errorf("with claims %t there are now %q", claims, got)
			}
			if !claims {
				return
			}
			if got := <-claimed; got != "a b <nil>" {
				t.Errorf("the claim got %s", got)
			}
		})
	}
}

// The job goes to the claim, then a neighbour fails, and by the time of the next try the claim is gone.
func TestAJobGivenInATransactionThatFailsIsGivenAnew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, path := newSQLite(t)
		ctx, cancel := context.WithCancel(t.Context())
		dequeue := &call{run: func(*transaction) { s.claims.join(newClaim(DequeueOptions{Max: 1})) }}
		blocked(t, path,
			func() {
				if err := s.w.wait(ctx, dequeue); !errors.Is(err, context.Canceled) {
					t.Errorf("the Dequeue: %v, want %v", err, context.Canceled)
				}
			},
			func() { mustEnqueue(t, s, NewJob("a")) },
			func() { mustEnqueue(t, s, &Job{Task: "b", Key: "k"}) }, // before which the first must be stored
			func() {
				err := s.write(t.Context(), "break", func(tx *transaction) {
					cancel()
					for abandoned := false; !abandoned; runtime.Gosched() {
						s.w.mu.Lock()
						abandoned = dequeue.abandoned
						s.w.mu.Unlock()
					}
					tx.fail(errTask)
				})
				if !errors.Is(err, errTask) {
					t.Errorf("the neighbour: %v, want %v", err, errTask)
				}
			},
		)
		if got := listed(t, s.Jobs(t.Context(), Filter{Status: StatusPending})); got != "a b" {
			t.Errorf("waiting are %q, want a and b", got)
		}
	})
}

func TestAVerbThatFailsDoesNotTakeItsNeighboursWithIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, path := newSQLite(t)
		ctx := t.Context()
		mustEnqueue(t, s, &Job{Task: "held", ID: "held", Key: "k"})
		job := mustDequeue(t, s, 1)[0]
		var errs [6]error
		var claimed []*Job
		n := blocked(t, path,
			func() { claimed, errs[0] = s.Dequeue(ctx, DequeueOptions{Max: 1}) },
			func() { errs[1] = s.Enqueue(ctx, NewJob("a")) }, // goes to the Dequeue, which must forget it with the others
			func() { errs[2] = s.Enqueue(ctx, NewJob("b")) },
			func() { errs[3] = s.Enqueue(ctx, NewJob("c"), &Job{Task: "d", Key: "k"}, NewJob("e")) },
			func() { errs[4] = s.Enqueue(ctx, NewJob("f")) },
			func() { _, errs[5] = s.MarkDone(ctx, job) },
		)
		for i, err := range errs {
			if duplicate, ok := errors.AsType[*DuplicateError](err); i != 3 && err != nil || i == 3 && (!ok || *duplicate != DuplicateError{"held", "k"}) {
				t.Errorf("verb %d: %v", i, err)
			}
		}
		if got := tasksOf(claimed); got != "a" || n != 1 {
			t.Errorf("claimed %q in %d transactions", got, n)
		}
		if got := listed(t, s.Jobs(ctx, Filter{})); got != "held a b f" {
			t.Errorf("there are now %q", got)
		}
		if lost, err := s.MarkDone(ctx, claimed...); len(lost) > 0 || err != nil {
			t.Errorf("MarkDone of what was claimed: %d lost, %v", len(lost), err)
		}
	})
}

func TestAWaitingDequeueIsServedInTheTransactionOfTheEnqueue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, path := newSQLite(t)
		waiting := dequeueLater(t.Context(), s, 3, "q")
		synctest.Wait()
		before := commits(t, path)
		mustEnqueue(t, s, &Job{Task: "elsewhere"})
		if n := commits(t, path) - before; n != 1 {
			t.Errorf("a job of another queue took %d transactions", n)
		}
		runAt := time.Now().Add(-time.Minute)
		given := &Job{Task: "a", Args: []any{1}, Kwargs: map[string]any{"k": "v"}, Queue: "q", Priority: 3, Key: "key", RunAt: runAt}
		mustEnqueue(t, s, given)
		if n := commits(t, path) - before; n != 2 {
			t.Errorf("Enqueue and the claim took %d transactions", n-1)
		}
		now := microTime(time.Now())
		want := []*Job{{ID: given.ID, Task: "a", Args: []any{json.RawMessage("1")}, Kwargs: map[string]any{"k": json.RawMessage(`"v"`)}, Queue: "q",
			Priority: 3, Key: "key", RunAt: microTime(runAt), Status: StatusRunning, Attempts: 1, Claim: now.UnixMicro(),
			CreatedAt: now, HeartbeatAt: now, LeaseUntil: now.Add(defaultLease)}}
		got := <-waiting
		if diff := gocmp.Diff(want, got.jobs); diff != "" || got.err != nil {
			t.Errorf("Dequeue: %v (-want +got):\n%s", got.err, diff)
		}
		stored, err := s.Get(t.Context(), given.ID)
		if diff := gocmp.Diff(want[0], stored); diff != "" || err != nil {
			t.Errorf("what is stored: %v (-want +got):\n%s", err, diff)
		}
		inTransaction(t, s, func(*transaction) {
			for text := range s.w.conn.stmts {
				if strings.HasPrefix(text, "UPDATE jobs SET status='RUNNING'") {
					t.Error("it was stored as PENDING first, and then claimed")
				}
			}
		})
		if given.Status != StatusPending {
			t.Errorf("the caller's job is %s", given.Status)
		}
		if lost, err := s.MarkDone(t.Context(), got.jobs...); len(lost) > 0 || err != nil {
			t.Errorf("MarkDone: %d lost, %v", len(lost), err)
		}
	})
}

func TestAWaitingDequeueGetsFirstWhatWasReadyBefore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, path := newSQLite(t)
		waiting := dequeueLater(t.Context(), s, 1)
		synctest.Wait()
		// Nobody has told the storage of this one.
		otherProgram(t, path).exec(`INSERT INTO jobs (id, func_name, args, kwargs, status, attempts, created_at) VALUES ('x', 'first', '[]', '{}', 'PENDING', 0, 0)`)
		mustEnqueue(t, s, NewJob("second"))
		if got := <-waiting; tasksOf(got.jobs) != "first" {
			t.Errorf("it got %q", tasksOf(got.jobs))
		}
		if got := tasksOf(mustDequeue(t, s, 9)); got != "second" {
			t.Errorf("the next one got %q", got)
		}
	})
}

func TestAJobThatMustWaitForAFreeSlotIsNotOvertakenByANewOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, path := newSQLite(t)
		mustEnqueue(t, s, NewJob("killer"))
		if err := s.MarkFailed(t.Context(), mustDequeue(t, s, 1)[0], errors.New("x"), time.Time{}); err != nil {
			t.Fatal(err)
		}
		mustEnqueue(t, s, &Job{Task: "fresh", Priority: 1})
		var got []*Job
		blocked(t, path,
			func() { got, _ = s.Dequeue(t.Context(), DequeueOptions{Max: 9, Ahead: 9 - 1}) },
			func() { mustEnqueue(t, s, NewJob("new")) })
		if tasksOf(got) != "fresh" {
			t.Errorf("one slot and eight places ahead got %q, want the fresh job alone", tasksOf(got))
		}
	})
}

func TestADueTimeWakesAWaitingDequeueAtThatMoment(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, path := newSQLite(t)
		start := time.Now()
		after := func(d time.Duration) time.Time { return start.Add(d) }
		mustEnqueue(t, s, &Job{Task: "b", RunAt: after(90 * time.Minute)}, &Job{Task: "a", RunAt: after(1500 * time.Millisecond)})
		waiting := dequeueLater(t.Context(), s, 9)
		synctest.Wait()
		mustEnqueue(t, s, &Job{Task: "c", RunAt: after(100 * time.Millisecond)}) // the nearest, while one waits
		for _, want := range []struct {
			tasks string
			at    time.Duration
		}{{"c", 100 * time.Millisecond}, {"a", 1500 * time.Millisecond}, {"a", 2 * time.Second}, {"b", 90 * time.Minute}} {
			got := <-waiting
			if tasksOf(got.jobs) != want.tasks || !got.at.Equal(after(want.at)) || got.err != nil {
				t.Errorf("after %v it got %q, %v; want %q after %v", got.at.Sub(start), tasksOf(got.jobs), got.err, want.tasks, want.at)
			}
			waiting = dequeueLater(t.Context(), s, 9)
			if time.Since(start) == 1500*time.Millisecond { // a retry is due at its time, too
				if err := s.MarkFailed(t.Context(), got.jobs[0], errors.New("x"), after(2*time.Second)); err != nil {
					t.Error(err)
				}
			}
		}
		// What another program has due soon is found by the next look.
		synctest.Wait()
		otherProgram(t, path).exec(`INSERT INTO jobs (id, func_name, args, kwargs, status, attempts, created_at, run_at, future)
			VALUES ('x', 'd', '[]', '{}', 'PENDING', 0, 0, ?, 1)`, seconds(after(150*time.Minute+time.Second)))
		if got := <-waiting; tasksOf(got.jobs) != "d" || !got.at.Equal(after(150*time.Minute+time.Second)) {
			t.Errorf("after %v it got %q", got.at.Sub(start), tasksOf(got.jobs))
		}
	})
}

func TestStoragesOnOneFileWakeEachOther(t *testing.T) {
	path := filepath.Join(t.TempDir(), "q.db")
	a, b := sqliteStorage(t, path, nil), sqliteStorage(t, path, nil)
	quickest := time.Hour
	for range 5 {
		waiting := dequeueLater(t.Context(), a, 1)
		awaitSleep(t, a)
		sent := time.Now()
		mustEnqueue(t, b, NewJob("a"))
		got := <-waiting
		if got.err != nil {
			t.Fatal(got.err)
		}
		quickest = min(quickest, got.at.Sub(sent))
	}
	if quickest > backstopPoll/2 {
		t.Errorf("the quickest of them took %v; the writer's slow poll has woken it", quickest)
	}
}

func TestWithAPollIntervalStoragesFindEachOthersJobs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "q.db")
		a := sqliteStorage(t, path, &SQLiteOptions{PollInterval: time.Second})
		b := sqliteStorage(t, path, &SQLiteOptions{PollInterval: time.Hour})
		for range 3 {
			waiting := dequeueLater(t.Context(), a, 1)
			time.Sleep(time.Hour + 300*time.Millisecond)
			sent := time.Now()
			mustEnqueue(t, b, NewJob("a"))
			if got := <-waiting; got.at.Sub(sent) > time.Second || got.err != nil {
				t.Errorf("it took %v, error %v", got.at.Sub(sent), got.err)
			}
		}
	})
}

func TestAnotherProcessWakesAWaitingDequeue(t *testing.T) {
	for _, verb := range []string{"enqueue", "enqueuetx"} {
		t.Run(verb, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "q.db")
			s := sqliteStorage(t, path, nil)
			start, end := process(t, verb, path)
			waiting := dequeueLater(t.Context(), s, 1)
			start()
			if got := <-waiting; tasksOf(got.jobs) != "sent" || got.err != nil {
				t.Errorf("it got %q, %v", tasksOf(got.jobs), got.err)
			}
			end()
		})
	}
}

// promptly is how long, in a bubble, an answer may take that should come at once: a few tries for the lock.
const promptly = 5 * lockRetry

func TestACallEndsWithItsContextWhileAnotherHoldsTheLock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, path := newSQLite(t)
		mustEnqueue(t, s, NewJob("letter"), NewJob("done"), NewJob("held"), NewJob("free"))
		jobs := claimBriefly(t, s, 3)
		if err := s.DeadLetter(t.Context(), jobs[0], errors.New("x")); err != nil {
			t.Fatal(err)
		}
		if _, err := s.MarkDone(t.Context(), jobs[1]); err != nil {
			t.Fatal(err)
		}
		o := otherProgram(t, path)
		const all = "SELECT *, (SELECT count(*) FROM dlq) FROM jobs"
		before := o.all(all)
		release := o.lock()
		for name, verb := range verbs(s, jobs[2]) {
			ctx, cancel := context.WithCancel(t.Context())
			answer := make(chan error, 1)
			go func() { answer <- verb(ctx) }()
			time.Sleep(time.Second)
			select {
			case err := <-answer:
				t.Errorf("%s has not waited for the lock: %v", name, err)
				answer <- err
			default:
			}
			start := time.Now()
			cancel()
			if err := <-answer; !errors.Is(err, context.Canceled) || time.Since(start) > promptly {
				t.Errorf("%s: %v after %v", name, err, time.Since(start))
			}
		}
		if n, err := s.Size(t.Context()); n != 1 || err != nil {
			t.Errorf("Size: %d, %v", n, err) // reading needs no lock
		}
		if got := listed(t, s.Jobs(t.Context(), Filter{})); got != "letter done held free" {
			t.Errorf("Jobs: %s", got)
		}
		release()
		time.Sleep(time.Minute)
		inTransaction(t, s, func(*transaction) {})
		if diff := gocmp.Diff(before, o.all(all)); diff != "" {
			t.Errorf("verbs that were called off have written (-before +after):\n%s", diff)
		}
	})
}

func TestADequeueThatDoesNotWaitForJobsStillWaitsForTheLock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, path := newSQLite(t)
		mustEnqueue(t, s, NewJob("a"), NewJob("b"))
		release := otherProgram(t, path).lock()
		start := time.Now()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if jobs, err := s.Dequeue(ctx, DequeueOptions{Max: 1, NoWait: true}); jobs != nil || !errors.Is(err, context.DeadlineExceeded) || time.Since(start) > time.Second+promptly {
			t.Errorf("with the lock held: %q, %v after %v", tasksOf(jobs), err, time.Since(start))
		}
		release()
		if got := tasksOf(dueNow(t, s, 9)); got != "a b" {
			t.Errorf("Dequeue: %q, want a b", got)
		}
		if got := tasksOf(dueNow(t, s, 9)); got != "" {
			t.Errorf("with nothing due: %q", got)
		}
	})
}

func TestAJobGoesToAWaitingDequeueThatIsStillThere(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, _ := newSQLite(t)
		ctx, cancel := context.WithCancel(t.Context())
		gone, there := dequeueLater(ctx, s, 1), dequeueLater(t.Context(), s, 1)
		synctest.Wait()
		cancel()
		if got := <-gone; !errors.Is(got.err, context.Canceled) {
			t.Errorf("the one that was called off: %v", got.err)
		}
		mustEnqueue(t, s, NewJob("a"))
		if got := <-there; tasksOf(got.jobs) != "a" || got.err != nil {
			t.Errorf("the other: %q, %v", tasksOf(got.jobs), got.err)
		}
	})
}

func TestCloseAnswersWhoeverWaits(t *testing.T) {
	for _, locked := range []bool{false, true} {
		t.Run(fmt.Sprintf("locked=%t", locked), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s, path := newSQLite(t)
				mustEnqueue(t, s, NewJob("a"))
				job := claimBriefly(t, s, 1)[0]
				if locked {
					defer otherProgram(t, path).lock()()
				}
				var wg sync.WaitGroup
				for name, verb := range verbs(s, job) {
					if locked || name == "Dequeue" || name == "DequeueAhead" {
						wg.Go(func() {
							// Those that look first, and find nothing to do, need not wait.
							looks := name == "Prune" || name == "Replay" || name == "Purge"
							if err := verb(t.Context()); !errors.Is(err, ErrClosed) && (!looks || err != nil) {
								t.Errorf("%s: %v", name, err)
							}
						})
					}
				}
				time.Sleep(time.Second)
				start := time.Now()
				for range 2 {
					wg.Go(func() {
						if err := s.Close(); err != nil {
							t.Errorf("Close: %v", err)
						}
					})
				}
				wg.Wait()
				if took := time.Since(start); took > promptly {
					t.Errorf("Close took %v", took)
				}
			})
		})
	}
}

func TestUseAfterCloseIsErrClosed(t *testing.T) {
	s, path := newSQLite(t)
	mustEnqueue(t, s, NewJob("a"), NewJob("b"))
	job := mustDequeue(t, s, 1)[0]
	next, stop := iter.Pull2(s.Jobs(t.Context(), Filter{}))
	defer stop()
	next()
	for range 2 {
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
	calls := verbs(s, job)
	calls["Size"] = func(ctx context.Context) error { _, err := s.Size(ctx); return err }
	calls["Stats"] = func(ctx context.Context) error { _, err := s.Stats(ctx); return err }
	calls["Get"] = func(ctx context.Context) error { _, err := s.Get(ctx, job.ID); return err }
	for name, listing := range map[string]iter.Seq2[*Job, error]{"Jobs": s.Jobs(t.Context(), Filter{}), "DeadLetters": s.DeadLetters(t.Context(), Filter{})} {
		calls[name] = func(context.Context) (last error) {
			n := 0
			for _, last = range listing {
				n++
			}
			if n != 1 {
				t.Errorf("%s yielded %d times", name, n)
			}
			return last
		}
	}
	for name, call := range calls {
		if err := call(t.Context()); !errors.Is(err, ErrClosed) {
			t.Errorf("%s: %v", name, err)
		}
	}
	otherProgram(t, path).want("2", "SELECT count(*) FROM jobs")
}

func TestQueuesAreMergedByPriorityAndAge(t *testing.T) {
	s, _ := newSQLite(t)
	seed := rand.Uint64()
	random := rand.New(rand.NewPCG(seed, 0))
	t.Logf("seed %d", seed)
	var waiting []*Job // in the order of age
	name := func(i int) string { return fmt.Sprint("q", i) }
	for range 60 {
		batch := make([]*Job, 1+random.IntN(12))
		for i := range batch {
			batch[i] = &Job{Task: NewID(), Queue: name(random.IntN(6)), Priority: random.IntN(4) - 1}
		}
		mustEnqueue(t, s, batch...)
		waiting = append(waiting, batch...)
		var queues []string
		for i := range random.IntN(5) {
			queues = append(queues, name((i*2+1)%7), name((i*2+1)%7)) // named twice; there is no q6
		}
		order := slices.SortedStableFunc(slices.Values(waiting), func(a, b *Job) int { return b.Priority - a.Priority })
		if len(queues) > 0 {
			order = slices.DeleteFunc(order, func(job *Job) bool { return !slices.Contains(queues, job.Queue) })
		}
		order = order[:min(len(order), 1+random.IntN(12))]
		got := dueNow(t, s, max(len(order), 1), queues...)
		if want := tasksOf(order); tasksOf(got) != want {
			t.Fatalf("from the queues %q:\n%s\nwant\n%s", queues, tasksOf(got), want)
		}
		waiting = slices.DeleteFunc(waiting, func(job *Job) bool { return slices.Contains(order, job) })
	}
	if got := dueNow(t, s, 1, "q6"); len(got) > 0 {
		t.Errorf("an empty queue has %q", tasksOf(got))
	}
}

func TestTheDefaultQueueMayBeNamedByItsEmptyName(t *testing.T) {
	s, _ := newSQLite(t)
	mustEnqueue(t, s, NewJob("a"), NewJob("b"))
	if got := tasksOf(dueNow(t, s, 1, "")); got != "a" {
		t.Errorf("it has %q", got)
	}
	if got := listed(t, s.Jobs(t.Context(), Filter{Queue: defaultQueue})); got != "a b" {
		t.Errorf("Jobs: %q", got)
	}
}

// claimBriefly claims jobs whose leases have expired when it returns. It needs a bubble.
func claimBriefly(t *testing.T, s Storage, n int) []*Job {
	t.Helper()
	jobs, err := s.Dequeue(t.Context(), DequeueOptions{Max: n, Lease: time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	time.Sleep(time.Second)
	return jobs
}

package pinion

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"iter"
	"path/filepath"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	gocmp "github.com/google/go-cmp/cmp"
)

// blocked makes calls while another program holds the write lock, one after the other, and returns how many
// transactions the storage then needed. It needs a bubble.
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
		otherProgram(t, path).want("FAILED|1\nPENDING|52\nRUNNING|3\nSUCCESS|2",
			"SELECT status, count(*) FROM jobs GROUP BY status")
		if got := tasksOf(claimed); got != "a a" {
			t.Errorf("claimed %q", got)
		}
	})
}

func TestEachProducerInASharedTransactionGetsTheAnswerToItsOwnJob(t *testing.T) {
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

func TestCallsInASharedTransactionRunInTheOrderInWhichTheyCame(t *testing.T) {
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

// An OR clause of ours would override those of the triggers.
func TestTriggersOfAnotherProgramKeepTheirOwnConflictClauses(t *testing.T) {
	s, path := newSQLite(t)
	o := otherProgram(t, path)
	o.exec(`CREATE TABLE tasks (name TEXT PRIMARY KEY, seen)`)
	o.exec(`CREATE TRIGGER stored BEFORE INSERT ON jobs BEGIN INSERT OR IGNORE INTO tasks VALUES (new.func_name, 'stored'); END`)
	o.exec(`CREATE TRIGGER changed AFTER UPDATE ON jobs BEGIN INSERT OR REPLACE INTO tasks VALUES (new.func_name, new.status); END`)
	for range 2 {
		mustEnqueue(t, s, NewJob("a"))
		mustEnqueue(t, s, NewJob("a"), NewJob("a"), NewJob("a"))
	}
	o.want("a|stored", `SELECT * FROM tasks`)
	jobs := mustDequeue(t, s, 8)
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

// A unique index of the user's may refuse a job. Only its producer gets the error.
func TestARefusedJobFailsNeitherItsNeighboursNorAWaitingClaim(t *testing.T) {
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

func TestARefusedJobDoesNotFailTheVerbBehindIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, path := newSQLite(t)
		ctx := t.Context()
		otherProgram(t, path).exec(`CREATE UNIQUE INDEX once ON jobs(func_name) WHERE func_name='once'`)
		mustEnqueue(t, s, NewJob("once"))
		held := mustDequeue(t, s, 1)[0]
		var errs [5]error
		blocked(t, path,
			func() { errs[0] = s.Enqueue(ctx, NewJob("a")) },
			func() { errs[1] = s.Enqueue(ctx, NewJob("once")) },
			func() { _, errs[2] = s.MarkDone(ctx, held) }, // whose statement has the rows of the others stored first
			func() { errs[3] = s.Enqueue(ctx, &Job{Task: "b", ID: "b"}) },
			func() { errs[4] = s.Enqueue(ctx, &Job{Task: "b", ID: "b"}) },
		)
		for i, err := range errs {
			refused := err != nil
			if want := i == 1 || i == 4; refused != want {
				t.Errorf("call %d: %v", i, err)
			}
		}
		if errors.Is(errs[1], ErrDuplicate) || !errors.Is(errs[4], ErrDuplicate) {
			t.Errorf("the refused job got %v, the duplicate %v", errs[1], errs[4])
		}
		if got := listed(t, s.Jobs(ctx, Filter{})); got != "once a b" {
			t.Errorf("there are now %q", got)
		}
		if job, err := s.Get(ctx, held.ID); err != nil || job.Status != StatusSuccess {
			t.Errorf("the job that was done is %v, %v", job, err)
		}
		inTransaction(t, s, func(tx *transaction) {
			if !tx.shared {
				t.Error("later producers share no INSERT")
			}
		})
	})
}

func TestARefusedJobDoesNotOutliveTheRollbackOfAnotherCall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, path := newSQLite(t)
		otherProgram(t, path).exec(`CREATE UNIQUE INDEX once ON jobs(func_name) WHERE func_name='once'`)
		mustEnqueue(t, s, NewJob("once"))
		failed := errors.New("failed")
		var errs [2]error
		blocked(t, path,
			func() { errs[0] = s.Enqueue(t.Context(), NewJob("once")) },
			func() { errs[1] = s.w.do(t.Context(), func(tx *transaction) { tx.fail(failed) }) },
		)
		if errs[0] == nil || errs[1] != failed {
			t.Errorf("the refused job got %v, the call that failed %v", errs[0], errs[1])
		}
		mustEnqueue(t, s, NewJob("a"))
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
			if duplicate, ok := errors.AsType[*DuplicateError](err); i != 3 && err != nil ||
				i == 3 && (!ok || *duplicate != DuplicateError{"held", "k"}) {
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

func TestAPanicBeforeTheCommitIsTheErrorOfAllCalls(t *testing.T) {
	s, _ := newSQLite(t)
	beforeCommit := s.w.beforeCommit
	set := func(f func(tx *transaction)) {
		s.w.between(func(*session) { s.w.beforeCommit = f })
	}
	set(func(*transaction) { panic("at the door") })
	wantError(t, s.Enqueue(t.Context(), NewJob("a")), "panic: at the door")
	set(beforeCommit)
	mustEnqueue(t, s, NewJob("b"))
	if got := listed(t, s.Jobs(t.Context(), Filter{})); got != "b" {
		t.Errorf("there are now %q, want b", got)
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

// A claim that comes with the transaction that is rolled back joins the next one with nothing in its hands.
func TestARollbackTakesBackWhatAClaimOfTheSameTransactionHad(t *testing.T) {
	s := sqliteStorage(t, filepath.Join(t.TempDir(), "jobs.db"), nil)
	rows, err := newRows(t.Context(), []*Job{NewJob("t")}, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	c := newClaim(DequeueOptions{Max: 10})
	failed := errors.New("fails")
	calls := []*call{
		newCall(func(*transaction) { s.claims.join(c) }, time.Time{}),
		newCall(func(tx *transaction) { s.store(tx, rows) }, time.Time{}),
		newCall(func(tx *transaction) { tx.fail(failed) }, time.Time{}),
	}
	s.w.between(func(*session) { // so that all come in one transaction
		for _, call := range calls {
			if err := s.w.add(call); err != nil {
				t.Error(err)
			}
		}
	})
	s.w.wakeLoop()
	for i, want := range []error{nil, nil, failed} {
		if err := <-calls[i].answer; err != want {
			t.Errorf("call %d: got the error %v, want %v", i, err, want)
		}
	}
	if err := <-c.answer; err != nil {
		t.Fatal(err)
	}
	if len(c.jobs) != 1 {
		t.Fatalf("the claim has %d jobs, want 1", len(c.jobs))
	}
	lost, err := s.MarkDone(t.Context(), c.jobs...)
	if err != nil || len(lost) > 0 {
		t.Errorf("MarkDone: %d lost, error %v", len(lost), err)
	}
}

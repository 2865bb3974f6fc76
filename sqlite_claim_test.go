package pinion

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	gocmp "github.com/google/go-cmp/cmp"
)

// claimTasks claims what is due of some tasks, and wants jobs of these tasks.
func claimTasks(t *testing.T, s Storage, want string, tasks ...string) []*Job {
	t.Helper()
	jobs, err := s.Dequeue(t.Context(), DequeueOptions{Max: 99, Tasks: tasks, NoWait: true})
	if got := tasksOf(jobs); got != want || err != nil {
		t.Errorf("Dequeue of %q: %q, %v; want %q", tasks, got, err, want)
	}
	return jobs
}

func TestManyJobsOfOtherTasksAreSetAsideOnceAndKeptInOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, path := newSQLite(t)
		o := otherProgram(t, path)
		unknown := make([]*Job, passedFree+1)
		for i := range unknown {
			unknown[i] = &Job{Task: "other", Priority: i % 3}
		}
		mustEnqueue(t, s, unknown...)
		mustEnqueue(t, s, NewJob("known"))
		claimTasks(t, s, "known", "known")
		o.want(fmt.Sprint(len(unknown)), "SELECT count(*) FROM jobs WHERE aside>0 AND attempts=0 AND run_at=0")
		before := commits(t, path)
		claimTasks(t, s, "", "known")
		if n := commits(t, path) - before; n != 0 {
			t.Errorf("a claim that passes what is set aside has written %d transactions", n)
		}
		mustEnqueue(t, s, &Job{Task: "other", Priority: 1, ID: "late"}, &Job{Task: "third", Priority: 1})
		jobs := dueNow(t, s, 99)
		for i := 1; i < len(jobs); i++ {
			a, b := jobs[i-1], jobs[i]
			if a.Priority < b.Priority ||
				a.Priority == b.Priority && b.ID != "late" && a.ID > b.ID && b.Task == "other" {
				t.Errorf("%s of priority %d is claimed before %s of priority %d", a.ID, a.Priority, b.ID, b.Priority)
			}
		}
		if len(jobs) != len(unknown)+2 {
			t.Errorf("%d jobs are claimed, want %d", len(jobs), len(unknown)+2)
		}
	})
}

// With many names of unknown tasks, to find them at each claim would take most of a core.
func TestTheNamesOfSetAsideTasksAreLookedForOnceWhileNobodyElseWrites(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, _ := newSQLite(t)
		for i := range passedFree + 1 {
			mustEnqueue(t, s, NewJob(fmt.Sprint("other", i)))
		}
		claimTasks(t, s, "", "known")
		claimTasks(t, s, "", "known")
		found := s.claims.aside.found
		for range 3 {
			time.Sleep(time.Minute)
			mustEnqueue(t, s, NewJob("known"))
			claimTasks(t, s, "known", "known")
		}
		if s.claims.aside.found != found {
			t.Error("the names were looked for again")
		}
	})
}

func TestAWaitingClaimFindsWhatAnotherProcessSetsAsideMeanwhile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, path := newSQLite(t)
		s := sqliteStorage(t, path, &SQLiteOptions{PollInterval: 10 * time.Millisecond})
		for range passedFree + 1 {
			mustEnqueue(t, s, NewJob("other"))
		}
		claimTasks(t, s, "", "known") // sets these aside
		got := make(chan string, 1)
		go func() {
			jobs, err := s.Dequeue(t.Context(), DequeueOptions{Max: 1, Tasks: []string{"known"}, Queues: []string{"q"}})
			got <- fmt.Sprint(tasksOf(jobs), err)
		}()
		synctest.Wait()
		otherProgram(t, path).exec(`INSERT INTO jobs (id, func_name, args, kwargs, status, attempts, created_at, queue, aside)
			VALUES ('x', 'known', '[]', '{}', 'PENDING', 0, 1, 'q', 1)`)
		time.Sleep(2 * asideTime)
		select {
		case jobs := <-got:
			if jobs != "known<nil>" {
				t.Errorf("the claim returns %s", jobs)
			}
		default:
			t.Error("the claim still waits")
		}
	})
}

func TestFewJobsOfOtherTasksStayWhereTheyAre(t *testing.T) {
	s, path := newSQLite(t)
	for range passedFree {
		mustEnqueue(t, s, NewJob("other"))
	}
	mustEnqueue(t, s, NewJob("known"))
	claimTasks(t, s, "known", "KNOWN")
	otherProgram(t, path).want("0", "SELECT count(*) FROM jobs WHERE aside>0")
}

func TestAJobIsHandedOverOnlyToAClaimThatKnowsItsTask(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, _ := newSQLite(t)
		got := make(chan string, 1)
		go func() {
			jobs, err := s.Dequeue(t.Context(), DequeueOptions{Max: 9, Tasks: []string{"known"}})
			got <- fmt.Sprint(tasksOf(jobs), " ", err)
		}()
		synctest.Wait()
		mustEnqueue(t, s, NewJob("other"))
		mustEnqueue(t, s, NewJob("Known"))
		if got := <-got; got != "Known <nil>" {
			t.Errorf("the claim got %s", got)
		}
	})
}

func TestALimitHoldsForJobsThatAreEnqueuedWhileAClaimWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, _ := newSQLite(t)
		if err := s.SetLimit(t.Context(), "", 1); err != nil {
			t.Fatal(err)
		}
		first := dequeueLater(t.Context(), s, 9)
		synctest.Wait()
		mustEnqueue(t, s, NewJob("a"))
		a := (<-first).jobs
		second := dequeueLater(t.Context(), s, 9)
		synctest.Wait()
		mustEnqueue(t, s, NewJob("b"))
		mustEnqueue(t, s, &Job{Task: "free", Queue: "other"})
		if got := tasksOf((<-second).jobs); got != "free" {
			t.Errorf("while a runs a claim got %q, want the job of the other queue", got)
		}
		third := dequeueLater(t.Context(), s, 9)
		synctest.Wait()
		if err := s.DeadLetter(t.Context(), a[0], errors.New("x")); err != nil {
			t.Fatal(err)
		}
		if got := tasksOf((<-third).jobs); got != "b" {
			t.Errorf("after the end of a the claim got %q", got)
		}
		limits, err := s.Limits(t.Context())
		if err != nil || limits[defaultQueue] != 1 || len(limits) != 1 {
			t.Errorf("Limits: %v, %v", limits, err)
		}
	})
}

func TestClaimsOverVeryManyQueuesHeedWhatOthersWriteBetweenThem(t *testing.T) {
	s, path := newSQLite(t)
	var jobs []*Job
	for i := range 500 {
		jobs = append(jobs, &Job{Task: fmt.Sprint("a", i), Queue: fmt.Sprint("q", i)})
	}
	mustEnqueue(t, s, jobs...)
	wantFirst := func(want string) {
		t.Helper()
		if got := tasksOf(dueNow(t, s, 1)); got != want {
			t.Errorf("the first job is %q, want %q", got, want)
		}
	}
	wantFirst("a0")
	mustEnqueue(t, s, &Job{Task: "own", Queue: "q300", Priority: 1})
	wantFirst("own")
	otherProgram(t, path).exec(`UPDATE jobs SET priority=2 WHERE func_name='a400'`)
	wantFirst("a400")
	if _, _, err := s.Cancel(t.Context(), jobs[1].ID); err != nil {
		t.Fatal(err)
	}
	wantFirst("a2")
	otherProgram(t, path).exec(`DELETE FROM jobs WHERE func_name='a3'`)
	wantFirst("a4")
	retried := dueNow(t, s, 1)[0]
	if err := s.MarkFailed(t.Context(), retried, errors.New("x"), time.Time{}); err != nil {
		t.Fatal(err)
	}
	wantFirst("a5")
	if got := len(dueNow(t, s, 999)); got != 493 {
		t.Errorf("%d jobs are left, want 493", got)
	}
}

func TestTheMostUrgentOfManyJobsThatBecomeDueAtOnceComesFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, _ := newSQLite(t)
		due := time.Now().Add(time.Hour)
		jobs := make([]*Job, 3*makeReadyLimit)
		for i := range jobs {
			jobs[i] = &Job{Task: "many", RunAt: due}
		}
		jobs[len(jobs)-1] = &Job{Task: "urgent", RunAt: due, Priority: 100}
		mustEnqueue(t, s, jobs...)
		mustEnqueue(t, s, &Job{Task: "later", RunAt: due.Add(time.Hour), Priority: 200})
		if got := tasksOf(mustDequeue(t, s, 1)); got != "urgent" {
			t.Errorf("the first job is %q", got)
		}
		n := 0
		for jobs := dueNow(t, s, 999); len(jobs) > 0; jobs = dueNow(t, s, 999) {
			n += len(jobs)
		}
		if n != len(jobs)-1 {
			t.Errorf("%d others are due, want %d", n, len(jobs)-1)
		}
	})
}

// The job goes to the claim, then a neighbour fails, and at the next try the claim has gone.
func TestAJobThatWasHandedOverInAFailedTransactionIsHandedOverAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, path := newSQLite(t)
		ctx, cancel := context.WithCancel(t.Context())
		dequeue := newCall(func(*transaction) { s.claims.join(newClaim(DequeueOptions{Max: 1})) }, time.Time{})
		blocked(t, path,
			func() {
				if err := s.w.submit(ctx, dequeue); !errors.Is(err, context.Canceled) {
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
		given := &Job{
			Task:     "a",
			Args:     []any{1},
			Kwargs:   map[string]any{"k": "v"},
			Queue:    "q",
			Priority: 3,
			Key:      "key",
			RunAt:    runAt,
		}
		mustEnqueue(t, s, given)
		if n := commits(t, path) - before; n != 2 {
			t.Errorf("Enqueue and the claim took %d transactions", n-1)
		}
		now := microTime(time.Now())
		want := []*Job{
			{
				ID:          given.ID,
				Task:        "a",
				Args:        []any{json.RawMessage("1")},
				Kwargs:      map[string]any{"k": json.RawMessage(`"v"`)},
				Queue:       "q",
				Priority:    3,
				Key:         "key",
				RunAt:       microTime(runAt),
				Status:      StatusRunning,
				Attempts:    1,
				Claim:       now.UnixMicro(),
				CreatedAt:   now,
				HeartbeatAt: now,
				LeaseUntil:  now.Add(defaultLease),
			},
		}
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
		mustEnqueue(t, s, &Job{Task: "b", RunAt: after(90 * time.Minute)},
			&Job{Task: "a", RunAt: after(1500 * time.Millisecond)})
		waiting := dequeueLater(t.Context(), s, 9)
		synctest.Wait()
		mustEnqueue(t, s, &Job{Task: "c", RunAt: after(100 * time.Millisecond)}) // the nearest, while one waits
		for _, want := range []struct {
			tasks string
			at    time.Duration
		}{{"c", 100 * time.Millisecond}, {"a", 1500 * time.Millisecond}, {"a", 2 * time.Second}, {"b", 90 * time.Minute}} {
			got := <-waiting
			if tasksOf(got.jobs) != want.tasks || !got.at.Equal(after(want.at)) || got.err != nil {
				t.Errorf("after %v it got %q, %v; want %q after %v",
					got.at.Sub(start), tasksOf(got.jobs), got.err, want.tasks, want.at)
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
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute) // only a Dequeue that is never woken takes so long
	defer cancel()
	for range 5 {
		waiting := dequeueLater(ctx, a, 1)
		awaitSleep(t, a)
		inTransaction(t, a, func(*transaction) {
			if a.claims.watch != nil {
				a.claims.poll = time.Hour // from the next look on nothing but the operating system wakes the Dequeue
			}
		})
		mustEnqueue(t, b, NewJob("a"))
		if got := <-waiting; tasksOf(got.jobs) != "a" || got.err != nil {
			t.Fatalf("it got %q, %v", tasksOf(got.jobs), got.err)
		}
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

func TestADequeueThatDoesNotWaitForJobsStillWaitsForTheLock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, path := newSQLite(t)
		mustEnqueue(t, s, NewJob("a"), NewJob("b"))
		release := otherProgram(t, path).lock()
		start := time.Now()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if jobs, err := s.Dequeue(ctx, DequeueOptions{Max: 1, NoWait: true}); jobs != nil ||
			!errors.Is(err, context.DeadlineExceeded) || time.Since(start) > time.Second+promptly {
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

func TestManyJobsThatNoWorkerCanRunAreBuriedInSmallTransactions(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, path := newSQLite(t)
		otherProgram(t, path).exec(`INSERT INTO jobs (id, func_name, args, kwargs, status, attempts, created_at)
			WITH n(n) AS (SELECT 1 UNION ALL SELECT n+1 FROM n WHERE n < ?)
			SELECT 'bad ' || n, 'a', 'not JSON', '{}', 'PENDING', 0, n FROM n`, maxPassed+200)
		mustEnqueue(t, s, NewJob("good"))
		before := commits(t, path)
		if got := tasksOf(mustDequeue(t, s, 1)); got != "good" {
			t.Errorf("claimed %q, want the good job behind the bad ones", got)
		}
		if n := commits(t, path) - before; n != 2 {
			t.Errorf("it took %d transactions, want 2", n)
		}
		otherProgram(t, path).want("1200", `SELECT count(*) FROM dlq`)
	})
}

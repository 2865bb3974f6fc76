package pinion

import (
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"
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
			if a.Priority < b.Priority || a.Priority == b.Priority && b.ID != "late" && a.ID > b.ID && b.Task == "other" {
				t.Errorf("%s of priority %d is claimed before %s of priority %d", a.ID, a.Priority, b.ID, b.Priority)
			}
		}
		if len(jobs) != len(unknown)+2 {
			t.Errorf("%d jobs are claimed, want %d", len(jobs), len(unknown)+2)
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

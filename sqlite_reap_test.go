package pinion

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pinion-queue/pinion/internal/rules"
)

// mustReap calls ReapStale and wants so many claims taken back.
func mustReap(t *testing.T, s Storage, want int, when string) {
	t.Helper()
	n, err := s.ReapStale(t.Context(), 10*time.Second)
	if n != want || err != nil {
		t.Errorf("ReapStale %s: %d, %v; want %d", when, n, err, want)
	}
}

// mustHeartbeat wants the job's lease renewed.
func mustHeartbeat(t *testing.T, s Storage, job *Job) {
	t.Helper()
	if lost, err := s.Heartbeat(t.Context(), job); len(lost) > 0 || err != nil {
		t.Errorf("Heartbeat: %d lost, %v", len(lost), err)
	}
}

// newDoubted returns a storage that has just doubted the leases of two jobs, which other claimed. One is called alive.
func newDoubted(t *testing.T) (s, other *SQLiteStorage, path string, alive *Job) {
	t.Helper()
	s, path = newSQLite(t)
	other = sqliteStorage(t, path, &SQLiteOptions{PollInterval: time.Hour})
	mustEnqueue(t, s, NewJob("alive"), NewJob("dead"))
	jobs := mustDequeue(t, other, 2)
	time.Sleep(11 * time.Second)
	mustReap(t, s, 0, "at its first look")
	return s, other, path, jobs[0]
}

func TestAReaperThatWaitedForTheLockLooksAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, path := newSQLite(t)
		mustEnqueue(t, s, NewJob("alive"), NewJob("dead"))
		jobs := mustDequeue(t, s, 2)
		time.Sleep(11 * time.Second)
		mustReap(t, s, 0, "at its first look")
		time.Sleep(rules.ReapGap(defaultLease))

		// The second look comes while another program holds the lock, for which a heartbeat waits as well.
		release := otherProgram(t, path).lock()
		go func() {
			time.Sleep(2 * time.Second)
			release()
		}()
		mustReap(t, s, 0, "after a wait for the lock")
		mustHeartbeat(t, s, jobs[0])
		time.Sleep(rules.ReapGap(defaultLease))
		mustReap(t, s, 1, "at the next look")
		if got := tasksOf(dueNow(t, s, 9)); got != "dead" {
			t.Errorf("there is %q to do, want the dead worker's job", got)
		}
	})
}

func TestAReaperLetsHeartbeatsThatWaitedForTheLockGoFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, other, path, alive := newDoubted(t)

		// Another program takes the lock right after the first look and holds it until just after the second one
		// begins.
		release := otherProgram(t, path).lock()
		var others sync.WaitGroup
		others.Go(func() { mustHeartbeat(t, other, alive) })
		time.Sleep(rules.ReapGap(defaultLease))
		others.Go(func() {
			time.Sleep(100 * time.Millisecond)
			release()
		})
		mustReap(t, s, 1, "at its second look")
		others.Wait()
	})
}

// The lock may also end just before the second look begins, or all processes may have been stopped since the first one.
// Then the reaper is the first that goes on, and must give the others time.
func TestAReaperThatFindsTheLockFreeLetsHeartbeatsGoFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, other, _, alive := newDoubted(t)
		time.Sleep(rules.ReapGap(defaultLease))
		var others sync.WaitGroup
		others.Go(func() {
			time.Sleep(rules.HeartbeatsFirst / 2)
			mustHeartbeat(t, other, alive)
		})
		mustReap(t, s, 1, "at its second look")
		others.Wait()
	})
}

func TestTheDoubtOfAnotherProcessCountsAfterAWholeLease(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, path := newSQLite(t)
		other := sqliteStorage(t, path, &SQLiteOptions{PollInterval: time.Hour})
		mustEnqueue(t, s, NewJob("a"))
		mustDequeue(t, s, 1)
		time.Sleep(11 * time.Second)
		mustReap(t, other, 0, "of another process, which doubts the claim")
		time.Sleep(rules.ReapGap(defaultLease))
		mustReap(t, s, 0, "when the other's doubt is younger than the lease")
		time.Sleep(defaultLease - rules.ReapGap(defaultLease))
		mustReap(t, s, 1, "when it is a lease old")
	})
}

// Python knows no doubts, so its heartbeat clears none.
func TestAHeartbeatOfPythonVoidsADoubt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, path := newSQLite(t)
		o := otherProgram(t, path)
		o.exec(`INSERT INTO jobs (id, func_name, args, kwargs, status, attempts, created_at, heartbeat_at)
			VALUES ('x', 'a', '[]', '{}', 'RUNNING', 1, ?1, ?1)`, seconds(time.Now()))
		time.Sleep(11 * time.Second)
		mustReap(t, s, 0, "at its first look at a claim without a lease")
		time.Sleep(time.Second)
		o.exec(`UPDATE jobs SET heartbeat_at=?`, seconds(time.Now()))
		time.Sleep(11 * time.Second)
		mustReap(t, s, 0, "after a heartbeat and another silence")
		time.Sleep(rules.ReapGap(defaultLease))
		mustReap(t, s, 1, "at the second look after that")
	})
}

func TestAHeartbeatInTheFutureIsThatOfADeadWorkerToo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, path := newSQLite(t)
		mustEnqueue(t, s, NewJob("dead"), NewJob("young"))
		mustDequeue(t, s, 2)
		o := otherProgram(t, path)
		o.exec(`UPDATE jobs SET heartbeat_at=heartbeat_at+3600 WHERE func_name='dead'`) // then the clock was set back
		o.exec(`UPDATE jobs SET heartbeat_at=heartbeat_at+9 WHERE func_name='young'`)
		mustReap(t, s, 0, "at its first look")
		time.Sleep(rules.ReapGap(defaultLease))
		mustReap(t, s, 1, "at its second look")
		if got := tasksOf(dueNow(t, s, 9)); got != "dead" {
			t.Errorf("there is %q to do, want the dead worker's job", got)
		}
	})
}

func TestAProgramStopsClaimingWhenANewerPinionHasMigratedTheFile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, path := newSQLite(t)
		mustEnqueue(t, s, NewJob("a"), NewJob("b"))
		job := mustDequeue(t, s, 1)[0]
		otherProgram(t, path).exec("PRAGMA user_version=99")
		time.Sleep(2 * time.Second)
		const says = "a newer Pinion has migrated the file to version 99"
		_, err := s.Dequeue(t.Context(), DequeueOptions{Max: 1})
		wantError(t, err, says, "update this program")
		_, err = s.ReapStale(t.Context(), time.Second)
		wantError(t, err, says)
		if lost, err := s.MarkDone(t.Context(), job); len(lost) > 0 || err != nil {
			t.Errorf("MarkDone of a job from before: %d lost, %v", len(lost), err)
		}
		if err := s.Enqueue(t.Context(), NewJob("c")); err != nil {
			t.Errorf("Enqueue: %v", err)
		}
		if got := listed(t, s.Jobs(t.Context(), Filter{Status: StatusPending})); got != "b c" {
			t.Errorf("waiting are %q, want b c", got)
		}
	})
}

func TestAJobIsHandedOverToNoClaimAfterANewerPinionHasMigratedTheFile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, path := newSQLite(t)
		answer := make(chan error, 1)
		go func() {
			_, err := s.Dequeue(t.Context(), DequeueOptions{Max: 1})
			answer <- err
		}()
		synctest.Wait()
		otherProgram(t, path).exec("PRAGMA user_version=99")
		time.Sleep(rules.ReapGap(defaultLease)) // the claim has not looked meanwhile, or it would have its answer
		mustEnqueue(t, s, NewJob("a"))
		wantError(t, <-answer, "a newer Pinion has migrated the file")
		if got := listed(t, s.Jobs(t.Context(), Filter{Status: StatusPending})); got != "a" {
			t.Errorf("waiting are %q, want a", got)
		}
	})
}

func TestManyExpiredClaimsAreTakenBackInSmallTransactions(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, path := newSQLite(t)
		jobs := make([]*Job, 2*perTransaction+1)
		for i := range jobs {
			jobs[i] = NewJob("a")
		}
		mustEnqueue(t, s, jobs...)
		mustDequeue(t, s, len(jobs))
		time.Sleep(11 * time.Second)
		mustReap(t, s, 0, "at its first look")
		time.Sleep(rules.ReapGap(defaultLease))
		before := commits(t, path)
		mustReap(t, s, len(jobs), "at its second look")
		if n := commits(t, path) - before; n != 3 {
			t.Errorf("it took %d transactions, want 3", n)
		}
	})
}

func TestAReaperThatIsCanceledWhileAnotherHoldsTheLockReturnsItsError(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, path := newSQLite(t)
		mustEnqueue(t, s, NewJob("a"))
		claimBriefly(t, s, 1)
		defer otherProgram(t, path).lock()()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := s.ReapStale(ctx, time.Second); !errors.Is(err, ctx.Err()) {
			t.Errorf("ReapStale: %v, want %v", err, ctx.Err())
		}
	})
}

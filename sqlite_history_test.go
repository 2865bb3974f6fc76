package pinion

import (
	"encoding/json"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pinion-queue/pinion/internal/rules"
)

const allEnds = `SELECT at, queue, task, succeeded, failed, took FROM pinion_ends ORDER BY at, queue, task`

func TestEndsAreCountedByMinuteInTheTransactionThatEndsTheJob(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, path := newSQLite(t)
		o := otherProgram(t, path)
		minute := time.Now().Unix()
		mustEnqueue(t, s, NewJob("a"), NewJob("a"), NewJob("a"), &Job{Task: "b", Queue: "q"}, &Job{ID: "x", Task: "c"})
		jobs := mustDequeue(t, s, 4)
		time.Sleep(1500 * time.Millisecond)
		if _, err := s.MarkDone(t.Context(), jobs[0], jobs[1]); err != nil {
			t.Fatal(err)
		}
		if lost, _ := s.MarkDone(t.Context(), jobs[0]); len(lost) != 1 {
			t.Error("a job was marked done twice")
		}
		if err := s.DeadLetter(t.Context(), jobs[2], errors.New("x")); err != nil {
			t.Fatal(err)
		}
		if _, _, err := s.Cancel(t.Context(), "x", jobs[3].ID); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		if err := s.MarkFailed(t.Context(), jobs[3], errors.New("x"), time.Time{}); !errors.Is(err, ErrCanceled) {
			t.Fatal(err)
		}
		o.want(fmt.Sprintf("%d|default|a|2|1|4.5\n%d|default|c|0|1|0\n%d|q|b|0|1|61.5", minute, minute, minute+60),
			allEnds)
	})
}

func TestAnEndThatIsRolledBackIsNotCounted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, path := newSQLite(t)
		mustEnqueue(t, s, NewJob("a"))
		job := mustDequeue(t, s, 1)[0]
		blocked(t, path,
			func() { s.MarkDone(t.Context(), job) },
			func() { s.write(t.Context(), "break", func(tx *transaction) { tx.fail(errTask) }) },
		)
		otherProgram(t, path).want("1", `SELECT sum(succeeded) FROM pinion_ends`)
	})
}

func TestBeyondAThousandPairsOfAMinuteTheOthersAreCountedTogether(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, path := newSQLite(t)
		jobs := make([]*Job, maxEndPairs+50)
		for i := range jobs {
			jobs[i] = &Job{Task: fmt.Sprint("t", i)}
		}
		mustEnqueue(t, s, jobs...)
		for range 2 { // two transactions, of which the second meets what the first has counted
			if _, err := s.MarkDone(t.Context(), mustDequeue(t, s, len(jobs)/2)...); err != nil {
				t.Fatal(err)
			}
		}
		const counts = `SELECT count(*), sum(succeeded), sum(iif(queue='other', succeeded, 0)) FROM pinion_ends`
		o := otherProgram(t, path)
		o.want("1001|1050|50", counts)
		mustEnqueue(t, s, &Job{Task: "in a transaction"})
		a := &attempt{job: mustDequeue(t, s, 1)[0], storage: s, counters: new(taskCounters)}
		ctx := a.begin(t.Context(), 0)
		defer a.finish()
		tx := o.begin()
		if err := errors.Join(s.Tx(tx).Done(ctx), tx.Commit()); err != nil {
			t.Fatal(err)
		}
		o.want("1001|1051|51", counts)
	})
}

func TestOldMinutesAreMergedIntoHoursAndOldHoursForgotten(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s, path := newSQLite(t)
		o := otherProgram(t, path)
		hour := time.Now().Truncate(time.Hour).Unix()
		o.exec(`WITH RECURSIVE minutes(n) AS (SELECT 0 UNION ALL SELECT n+1 FROM minutes WHERE n+1 < ?)
			INSERT INTO pinion_ends SELECT ?+n*60, 'q', 'a', 1, 2, 0.5 FROM minutes`, 2*perTransaction, hour)
		time.Sleep(24 * time.Hour)
		mustReap(t, s, 0, "of an empty queue")
		o.want("1000|2000|500|17|0",
			`SELECT sum(succeeded), sum(failed), sum(took), count(*), sum(at%3600) FROM pinion_ends`)
		time.Sleep(rules.HistoryKept)
		mustReap(t, s, 0, "a week later")
		o.want("0", `SELECT count(*) FROM pinion_ends`)
	})
}

func TestDoneEndsTheJobInTheTaskOwnTransaction(t *testing.T) {
	s, path := newSQLite(t)
	mustEnqueue(t, s, NewJob("commits"), NewJob("rolls back"), NewJob("lost"))
	jobs := mustDequeue(t, s, 3)
	if _, _, err := s.Release(t.Context(), time.Time{}, nil, jobs[2]); err != nil {
		t.Fatal(err)
	}
	o := otherProgram(t, path)
	for i, want := range []error{nil, nil, ErrLeaseLost} {
		a := &attempt{job: jobs[i], storage: s, counters: new(taskCounters)}
		ctx := a.begin(t.Context(), 0)
		if err := SetResult(ctx, i); err != nil {
			t.Fatal(err)
		}
		tx := o.begin() // which stores a cake
		err := s.Tx(tx).Done(ctx)
		if !errors.Is(err, want) {
			t.Errorf("Done of %q: %v, want %v", jobs[i].Task, err, want)
		}
		end := tx.Rollback
		if jobs[i].Task == "commits" {
			end = tx.Commit
		}
		if err := end(); err != nil {
			t.Fatal(err)
		}
		a.finish()
	}
	o.want("SUCCESS|0\nRUNNING|\nPENDING|", `SELECT status, result FROM jobs ORDER BY rowid`)
	o.want("1|1", `SELECT (SELECT count(*) FROM orders), (SELECT sum(succeeded) FROM pinion_ends)`)
	tx := o.begin()
	wantError(t, s.Tx(tx).Done(t.Context()), "not a task's")
	if err := tx.Rollback(); err != nil {
		t.Fatal(err)
	}
}

func TestEnqueueGivesUpTheWriteLockAfterTenSeconds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, path := newSQLite(t)
		mustEnqueue(t, s, NewJob("a"))
		job := mustDequeue(t, s, 1)[0]
		release := otherProgram(t, path).lock()
		done := make(chan error, 1)
		go func() {
			_, err := s.MarkDone(t.Context(), job)
			done <- err
		}()
		start := time.Now()
		err := s.Enqueue(t.Context(), NewJob("b"))
		if took := time.Since(start); !errors.Is(err, ErrBusy) || took < busyPatience || took > busyPatience+promptly {
			t.Errorf("Enqueue: %v after %v, want %v after %v", err, took, ErrBusy, busyPatience)
		}
		wantError(t, err, "another program", "a transaction of this program", "SQLiteStorage.Tx", path)
		select {
		case err := <-done:
			t.Errorf("MarkDone, a worker's verb, has not waited on: %v", err)
		default:
		}
		release()
		if err := <-done; err != nil {
			t.Errorf("MarkDone: %v", err)
		}
		if got := listed(t, s.Jobs(t.Context(), Filter{})); got != "a" {
			t.Errorf("there are %q", got)
		}
	})
}

// Listings that stay open must not keep a worker from hearing that a job was canceled.
func TestListingsDoNotUseUpTheConnectionOfLeases(t *testing.T) {
	s, _ := newSQLite(t)
	mustEnqueue(t, s, NewJob("a"))
	job := mustDequeue(t, s, 1)[0]
	job.Result = json.RawMessage(`1`)
	for range s.readers.Stats().MaxOpenConnections {
		conn, err := s.readers.Conn(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
	}
	if lost, err := s.Heartbeat(t.Context(), job); len(lost) > 0 || err != nil {
		t.Errorf("Heartbeat: %d lost, %v", len(lost), err)
	}
	if _, asked, err := s.Cancel(t.Context(), job.ID); len(asked) != 1 || err != nil {
		t.Errorf("Cancel: %q, %v", asked, err)
	}
	if canceled, err := s.Canceled(t.Context(), job); len(canceled) != 1 || err != nil {
		t.Errorf("Canceled: %d, %v", len(canceled), err)
	}
	if n, err := s.ReapStale(t.Context(), time.Second); n != 0 || err != nil {
		t.Errorf("ReapStale: %d, %v", n, err)
	}
}

package pinion

import (
	"context"
	"errors"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"
)

func TestAVerbOverAFilterChangesFewRowsInATransaction(t *testing.T) {
	t.Parallel()
	for name, verb := range map[string]func(ctx context.Context, s *SQLiteStorage) (int, error){
		"Reschedule": func(ctx context.Context, s *SQLiteStorage) (int, error) {
			return s.Reschedule(ctx, Filter{Queue: "waiting"}, time.Now().Add(time.Hour))
		},
		"CancelWhere": func(ctx context.Context, s *SQLiteStorage) (int, error) {
			ended, _, err := s.CancelWhere(ctx, Filter{Queue: "waiting"})
			return ended, err
		},
		"PruneWhere": func(ctx context.Context, s *SQLiteStorage) (int, error) {
			return s.PruneWhere(ctx, Filter{Queue: "done"})
		},
		"Prune": func(ctx context.Context, s *SQLiteStorage) (int, error) {
			return s.Prune(ctx, time.Now().Add(time.Hour))
		},
		"Replay": func(ctx context.Context, s *SQLiteStorage) (int, error) { return s.Replay(ctx, Filter{}) },
		"Purge":  func(ctx context.Context, s *SQLiteStorage) (int, error) { return s.Purge(ctx, Filter{}) },
	} {
		t.Run(name, func(t *testing.T) {
			s, path := newSQLite(t)
			o := otherProgram(t, path)
			const insert = `INSERT INTO jobs (id, func_name, args, kwargs, status, attempts, created_at, queue, buried)
				WITH n(n) AS (SELECT 1 UNION ALL SELECT n+1 FROM n WHERE n < 1200)
				SELECT ?1 || n, 'a', '[]', '{}', ?2, 1, 1, ?1, ?3 FROM n`
			o.exec(insert, "waiting", "PENDING", 0)
			o.exec(insert, "done", "SUCCESS", 0)
			o.exec(insert, "dead", "FAILED", 1)
			o.exec(`INSERT INTO dlq (id, func_name, args, kwargs, attempts, error, failed_at)
				SELECT id, func_name, args, kwargs, 1, 'x', 1 FROM jobs WHERE queue='dead'`)
			o.exec("PRAGMA wal_checkpoint(TRUNCATE)")
			n, err := verb(t.Context(), s)
			if n != 1200 || err != nil {
				t.Errorf("it changed %d rows, error %v; want 1200", n, err)
			}
			if n := commits(t, path); n != 3 {
				t.Errorf("it took %d transactions, want 3", n)
			}

			// The rows are chosen without the write lock. A verb that wanted it would return ErrBusy.
			defer o.lock()()
			if name == "Reschedule" {
				n, err = s.Reschedule(t.Context(), Filter{Queue: "none"}, time.Now())
			} else {
				n, err = verb(t.Context(), s)
			}
			if n != 0 || err != nil {
				t.Errorf("without a row that matches it changed %d, error %v", n, err)
			}
		})
	}
}

func TestAVerbOverAFilterLeavesARowThatDoesNotMatchAnyMore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, path := newSQLite(t)
		mustEnqueue(t, s, &Job{ID: "1", Task: "a"}, &Job{ID: "2", Task: "a"}, &Job{ID: "3", Task: "a"})
		o := otherProgram(t, path)
		o.exec("BEGIN IMMEDIATE")
		type counts struct{ ended, asked int }
		done := make(chan counts)
		go func() {
			ended, asked, err := s.CancelWhere(t.Context(), Filter{Status: StatusPending})
			if err != nil {
				t.Error(err)
			}
			done <- counts{ended, asked}
		}()
		synctest.Wait() // it has chosen all three, and waits for the lock
		o.exec("UPDATE jobs SET status='RUNNING' WHERE id='1'")
		o.exec("DELETE FROM jobs WHERE id='3'")
		o.exec(`INSERT INTO jobs (id, func_name, args, kwargs, status, attempts, created_at)
			VALUES ('4', 'a', '[]', '{}', 'PENDING', 0, 1)`) // with the rowid of 3
		o.exec("COMMIT")
		if got := <-done; got != (counts{ended: 1}) {
			t.Errorf("CancelWhere: %+v, want one job that ended", got)
		}
		o.want("1|RUNNING|0\n2|FAILED|1\n4|PENDING|0", "SELECT id, status, cancel FROM jobs ORDER BY id")
	})
}

// ---- Pruning ----

func TestReapStalePrunesAfterRetentionAndSparesJobsWithADeadLetter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, path := newSQLite(t)
		mustEnqueue(t, s, NewJob("done"), NewJob("letter"), NewJob("purged"), NewJob("running"), NewJob("pending"))
		jobs, err := s.Dequeue(t.Context(), DequeueOptions{Max: 4, Lease: 1000 * time.Hour})
		if err != nil {
			t.Fatal(err)
		}
		if lost, err := s.MarkDone(t.Context(), jobs[0]); len(lost) > 0 || err != nil {
			t.Fatal(lost, err)
		}
		for _, job := range jobs[1:3] {
			if err := s.DeadLetter(t.Context(), job, errors.New("x")); err != nil {
				t.Fatal(err)
			}
		}
		if n, err := s.Purge(t.Context(), Filter{IDs: []string{jobs[2].ID}}); n != 1 || err != nil {
			t.Fatal(n, err)
		}
		// Python does not record when a job finished: the last heartbeat counts, or the creation.
		o := otherProgram(t, path)
		ago := func(d time.Duration) float64 { return seconds(time.Now().Add(-d)) }
		const insert = `INSERT INTO jobs (id, func_name, args, kwargs, status, attempts, created_at, heartbeat_at)
			VALUES (?, ?, '[]', '{}', 'SUCCESS', 1, ?, ?)`
		o.exec(insert, "1", "old", ago(25*time.Hour), nil)
		o.exec(insert, "2", "old beaten of late", ago(25*time.Hour), ago(time.Hour))
		reap := func() string {
			t.Helper()
			if n, err := s.ReapStale(t.Context(), 1000*time.Hour); n != 0 || err != nil {
				t.Fatalf("ReapStale: %d, %v", n, err)
			}
			return listed(t, s.Jobs(t.Context(), Filter{}))
		}
		for _, test := range []struct {
			after time.Duration
			left  string
		}{
			{0, "done letter purged running pending old beaten of late"},
			{23*time.Hour + time.Minute, "done letter purged running pending"},
			{time.Hour - 2*time.Minute, "done letter purged running pending"},
			{2 * time.Minute, "letter running pending"},
		} {
			time.Sleep(test.after)
			if got := reap(); got != test.left {
				t.Errorf("there are %q, want %q", got, test.left)
			}
		}

		// Without anything to prune or to reap, ReapStale needs no lock.
		time.Sleep(2 * time.Minute)
		defer o.lock()()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if n, err := s.ReapStale(ctx, 1000*time.Hour); n != 0 || err != nil {
			t.Errorf("ReapStale with the lock held elsewhere: %d, %v", n, err)
		}
	})
}

func TestANegativeRetentionKeepsJobsForEver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := sqliteStorage(t, filepath.Join(t.TempDir(), "q.db"),
			&SQLiteOptions{PollInterval: time.Hour, Retention: -1})
		mustEnqueue(t, s, NewJob("a"))
		mustFinish(t, s)
		time.Sleep(10 * 365 * 24 * time.Hour)
		if _, err := s.ReapStale(t.Context(), time.Second); err != nil {
			t.Fatal(err)
		}
		if got := listed(t, s.Jobs(t.Context(), Filter{})); got != "a" {
			t.Errorf("there are %q", got)
		}
	})
}

func TestDeadLettersAreKeptForTheDeadLetterRetention(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "q.db")
		s := sqliteStorage(t, path, &SQLiteOptions{
			PollInterval: time.Hour, Retention: time.Hour, DeadLetterRetention: 48 * time.Hour})
		bury := func(task string) {
			t.Helper()
			mustEnqueue(t, s, NewJob(task))
			if err := s.DeadLetter(t.Context(), mustDequeue(t, s, 1)[0], errors.New("x")); err != nil {
				t.Fatal(err)
			}
		}
		bury("first")
		time.Sleep(24 * time.Hour)
		bury("second")
		for _, test := range []struct {
			after time.Duration
			left  string
		}{
			{24*time.Hour - time.Minute, "first second"},
			{2 * time.Minute, "second"},
			{24 * time.Hour, ""},
		} {
			time.Sleep(test.after)
			if _, err := s.ReapStale(t.Context(), time.Second); err != nil {
				t.Fatal(err)
			}
			if got := listed(t, s.DeadLetters(t.Context(), Filter{})); got != test.left {
				t.Errorf("the dead letters are %q, want %q", got, test.left)
			}
			if got := listed(t, s.Jobs(t.Context(), Filter{})); got != test.left {
				t.Errorf("the jobs are %q, want %q: Retention ended long ago", got, test.left)
			}
		}
	})
}

func TestPruneDeletesEverythingInSmallTransactions(t *testing.T) {
	s, path := newSQLite(t)
	jobs := make([]*Job, 2500)
	for i := range jobs {
		jobs[i] = NewJob("a")
	}
	mustEnqueue(t, s, jobs...)
	if lost, err := s.MarkDone(t.Context(), mustDequeue(t, s, 2500)...); len(lost) > 0 || err != nil {
		t.Fatal(len(lost), err)
	}
	otherProgram(t, path).exec("PRAGMA wal_checkpoint(TRUNCATE)")
	if n, err := s.Prune(t.Context(), time.Now().Add(time.Second)); n != 2500 || err != nil {
		t.Errorf("Prune: %d, %v", n, err)
	}
	if n := commits(t, path); n != 5 {
		t.Errorf("it took %d transactions, want 5", n)
	}
}

// Python does not know that a job whose dead letter stands is marked.
func TestPruneMeetsADeadLetterOfPythonsOnce(t *testing.T) {
	path := filepath.Join(t.TempDir(), "q.db")
	s := sqliteStorage(t, path, nil)
	o := otherProgram(t, path)
	o.exec(`INSERT INTO jobs (id, func_name, args, kwargs, status, attempts, created_at)
		WITH n(n) AS (SELECT 1 UNION ALL SELECT n+1 FROM n WHERE n < 1200) SELECT n, 'a', '[]', '{}', 'FAILED', 1, 1 FROM n`)
	o.exec(`INSERT INTO dlq (id, func_name, args, kwargs, attempts, error, failed_at)
		SELECT id, func_name, args, kwargs, 1, 'x', 1 FROM jobs`)
	o.exec(`INSERT INTO jobs (id, func_name, args, kwargs, status, attempts, created_at)
		VALUES ('done', 'a', '[]', '{}', 'SUCCESS', 1, 1)`)
	if n, err := s.Prune(t.Context(), time.Now()); n != 1 || err != nil {
		t.Errorf("Prune: %d, %v; want 1", n, err)
	}
	o.want("1200", "SELECT count(*) FROM jobs WHERE buried=1")
	release := o.lock()
	if n, err := s.Prune(t.Context(), time.Now()); n != 0 || err != nil {
		t.Errorf("Prune again, which needs no lock: %d, %v", n, err)
	}
	release()
	if n, err := s.Purge(t.Context(), Filter{}); n != 1200 || err != nil {
		t.Errorf("Purge: %d, %v", n, err)
	}
	if n, err := s.Prune(t.Context(), time.Now()); n != 1200 || err != nil {
		t.Errorf("Prune after the purge: %d, %v", n, err)
	}
}

// A person who calls such a verb inside a transaction of their own would wait for ever.
func TestVerbsThatPeopleCallGiveUpTheWriteLockAfterTenSeconds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, path := newSQLite(t)
		mustEnqueue(t, s, NewJob("a"))
		if err := s.DeadLetter(t.Context(), mustDequeue(t, s, 1)[0], errors.New("x")); err != nil {
			t.Fatal(err)
		}
		mustEnqueue(t, s, NewJob("done"))
		if _, err := s.MarkDone(t.Context(), mustDequeue(t, s, 1)...); err != nil {
			t.Fatal(err)
		}
		mustEnqueue(t, s, NewJob("b"))
		release := otherProgram(t, path).lock()
		ctx := t.Context()
		id := NewID()
		for name, verb := range map[string]func() error{
			"Cancel":      func() error { _, _, err := s.Cancel(ctx, id); return err },
			"CancelWhere": func() error { _, _, err := s.CancelWhere(ctx, Filter{}); return err },
			"Reschedule":  func() error { _, err := s.Reschedule(ctx, Filter{}, time.Time{}); return err },
			"SetLimit":    func() error { return s.SetLimit(ctx, "", 3) },
			"Replay":      func() error { _, err := s.Replay(ctx, Filter{}); return err },
			"Purge":       func() error { _, err := s.Purge(ctx, Filter{}); return err },
			"Prune":       func() error { _, err := s.Prune(ctx, time.Now().Add(time.Hour)); return err },
		} {
			start := time.Now()
			err := verb()
			if took := time.Since(start); !errors.Is(err, ErrBusy) || took < busyPatience ||
				took > busyPatience+promptly {
				t.Errorf("%s: %v after %v, want %v after %v", name, err, took, ErrBusy, busyPatience)
			}
			wantError(t, err, "another program", "a transaction of this program", path)
		}
		release()
		if got := listed(t, s.Jobs(ctx, Filter{Status: StatusPending})); got != "b" {
			t.Errorf("waiting are %q, want b", got)
		}
	})
}

package pinion

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"maps"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	gocmp "github.com/google/go-cmp/cmp"
)

// ---- Listings ----

func TestListingsPageWhileRowsComeAndGo(t *testing.T) {
	s, path := newSQLite(t)
	o := otherProgram(t, path)
	jobs := make([]*Job, 1100)
	for i := range jobs {
		jobs[i] = &Job{ID: fmt.Sprintf("%04d", i), Task: strconv.Itoa(i)}
	}
	mustEnqueue(t, s, jobs...)
	o.exec(`INSERT INTO dlq (id, func_name, args, kwargs, attempts, error, failed_at)
		SELECT id, func_name, args, kwargs, 1, 'x', 1 FROM jobs`)
	for _, test := range []struct {
		table, insert string
		listing       iter.Seq2[*Job, error]
	}{
		{"jobs", `INSERT INTO jobs (id, func_name, args, kwargs, attempts, status, created_at)
			VALUES (?, 'added', '[]', '{}', 1, 'PENDING', 1)`, s.Jobs(t.Context(), Filter{})},
		{"dlq", `INSERT INTO dlq (id, func_name, args, kwargs, attempts, error, failed_at)
			VALUES (?, 'added', '[]', '{}', 1, 'x', 1)`, s.DeadLetters(t.Context(), Filter{})},
	} {
		want, got := make(map[string]bool), make(map[string]bool)
		for _, job := range jobs {
			want[job.ID] = true
		}
		last := ""
		for job, err := range test.listing {
			if err != nil {
				t.Fatal(err)
			}
			if job.ID <= last {
				t.Fatalf("%s: %s comes after %s", test.table, job.ID, last)
			}
			last = job.ID
			if len(got)%100 == 0 {
				// Another program deletes this row and one two pages ahead, and adds one at the end.
				ahead := fmt.Sprintf("%04d", len(got)+450)
				delete(want, ahead)
				o.exec("DELETE FROM "+test.table+" WHERE id IN (?, ?)", job.ID, ahead)
				o.exec(test.insert, fmt.Sprintf("9%04d", len(got)))
			}
			got[job.ID] = true
		}
		if last < "9" {
			t.Errorf("%s: the rows added at the end are not listed", test.table)
		}
		maps.DeleteFunc(got, func(id string, _ bool) bool { return id > "9" })
		if diff := gocmp.Diff(want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", test.table, diff)
		}
	}
}

func TestAListingEndsAtItsLimit(t *testing.T) {
	s, _ := newSQLite(t)
	jobs := make([]*Job, 500)
	for i := range jobs {
		jobs[i] = NewJob("a")
	}
	mustEnqueue(t, s, jobs...)
	n := 0
	for _, err := range s.Jobs(t.Context(), Filter{Limit: 450}) {
		if err != nil {
			t.Fatal(err)
		}
		n++
	}
	if n != 450 {
		t.Errorf("with Limit 450, %d jobs are listed", n)
	}
}

func TestAListingLeftOpenHoldsNoTransaction(t *testing.T) {
	t.Parallel()
	s, path := newSQLite(t)
	for range 300 {
		mustEnqueue(t, s, NewJob("a"))
	}
	next, stop := iter.Pull2(s.Jobs(t.Context(), Filter{}))
	defer stop()
	for range 201 {
		if _, err, more := next(); err != nil || !more {
			t.Fatal(err, more)
		}
	}
	o := otherProgram(t, path)
	o.want("0|0|0", "PRAGMA wal_checkpoint(TRUNCATE)")
	if info, err := os.Stat(path + "-wal"); err != nil || info.Size() != 0 {
		t.Errorf("after a checkpoint the log has %d bytes, error %v", info.Size(), err)
	}
	o.exec("DELETE FROM jobs")
	o.exec("VACUUM")
	for range 99 {
		if _, err, more := next(); err != nil || !more {
			t.Fatal(err, more)
		}
	}
	if _, err, more := next(); more {
		t.Errorf("there is more: %v", err)
	}
}

func TestATaskFilterComparesAsEqualFoldDoes(t *testing.T) {
	s, _ := newSQLite(t)
	names := []string{"kelvin", "KELVIN", "\u212Aelvin", "σας", "ΣΑΣ", "mass", "maſs", "ß"}
	for _, name := range names {
		mustEnqueue(t, s, NewJob(name))
	}
	for _, filter := range append(names, "Kelvin", "MASS", "ss", "kelvi") {
		var want []string
		for _, name := range names {
			if strings.EqualFold(name, filter) {
				want = append(want, name)
			}
		}
		if got := listed(t, s.Jobs(t.Context(), Filter{Task: filter})); got != strings.Join(want, " ") {
			t.Errorf("Task %q lists %q, want %q", filter, got, want)
		}
	}
}

// ---- Verbs over a filter ----

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

// ---- Stats ----

func TestStatsReadTheJobsThatWaitInTheShorterWay(t *testing.T) {
	s, path := newSQLite(t)
	o := otherProgram(t, path)
	const insert = `INSERT INTO jobs (id, func_name, args, kwargs, status, attempts, created_at, run_at, future)
		WITH n(n) AS (SELECT 1 UNION ALL SELECT n+1 FROM n WHERE n < ?2)
		SELECT ?1 || n, 'a', '[]', '{}', ?1, 1, n, iif(n%2, 4e9, 0), n%2 FROM n`
	for _, test := range []struct {
		status string
		rows   int
		way    string
	}{
		{"PENDING", 100, "NOT INDEXED"},
		{"SUCCESS", 1000, "INDEXED BY jobs_ready3"},
	} {
		o.exec(insert, test.status, test.rows)
		if query := s.pendingRows(s.reader(t.Context())); !strings.Contains(query, test.way) {
			t.Errorf("after %d rows of %s, Stats reads %s; want %s", test.rows, test.status, query, test.way)
		}
		stats, err := s.Stats(t.Context())
		first, second := time.Unix(1, 0).UTC(), time.Unix(2, 0).UTC()
		want := Counts{Pending: 100, Due: 50, Oldest: first, OldestDue: second}
		if diff := gocmp.Diff(want, stats.Total); diff != "" || err != nil {
			t.Errorf("error %v, Total (-want +got):\n%s", err, diff)
		}
	}
}

func TestStatsCountWhatFinishedInTheLastHourAndEachSecondOfTheLastMinute(t *testing.T) {
	overStorages(t, func(t *scene) {
		finish := func(fail bool) {
			t.enqueue("a")
			job := mustDequeue(t.T, t.storage, 1)[0]
			var err error
			if fail {
				err = t.storage.DeadLetter(t.Context(), job, errors.New("broken"))
			} else {
				_, err = t.storage.MarkDone(t.Context(), job)
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		want := func(counts Counts, seconds ...int) {
			t.Helper()
			stats, err := t.storage.Stats(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			wanted := Stats{DeadLetters: 1}
			if counts != (Counts{}) {
				wanted.Total = counts
				wanted.Queues = []QueueStats{{"default", counts}}
				wanted.Tasks = []TaskStats{{"a", counts}}
			}
			for _, second := range seconds {
				wanted.LastMinute[second]++
			}
			if diff := gocmp.Diff(wanted, stats); diff != "" {
				t.Errorf("after %v (-want +got):\n%s", t.since(), diff)
			}
		}
		lastMinute := Counts{SuccessHour: 2, FailedHour: 1, Minute: 3}
		lastHour := Counts{SuccessHour: 2, FailedHour: 1}
		finish(false) // at 0s
		t.sleep(30 * time.Second)
		finish(true) // at 30s
		t.sleep(29500 * time.Millisecond)
		finish(false) // at 59.5s
		want(lastMinute, 0, 30, 59)
		t.sleep(400 * time.Millisecond)
		want(lastMinute, 0, 30, 59)
		t.sleep(100 * time.Millisecond) // at 1m
		want(lastMinute, 29, 58)
		t.sleep(time.Minute) // the minute before was without an end
		want(lastHour)
		t.sleep(time.Hour - 61*time.Second) // at 1h59s: the minute in which they ended began less than 61 minutes ago
		want(lastHour)
		t.sleep(time.Second)
		want(Counts{})
	})
}

func TestStatsCountOverManyPages(t *testing.T) {
	overStorages(t, func(t *scene) {
		const n = 12_000 // more than two pages
		jobs := make([]*Job, n)
		for i := range jobs {
			jobs[i] = &Job{Task: fmt.Sprint("t", i%2), Queue: fmt.Sprint("q", i%3)}
		}
		mustEnqueue(t.T, t.storage, jobs...)
		stats, err := t.storage.Stats(t.Context())
		if err != nil || stats.Total.Pending != n || len(stats.Queues) != 3 || stats.Queues[2].Pending != n/3 ||
			len(stats.Tasks) != 2 || stats.Tasks[1].Pending != n/2 {
			t.Errorf("%+v, error %v", stats, err)
		}
	})
}

// Another program may write a time of any type, or one that is still to come.
func TestStatsAcceptAnyStoredTime(t *testing.T) {
	s, path := newSQLite(t)
	o := otherProgram(t, path)
	for i, finished := range []string{"NULL", "'soon'", "x'ff'", "9e999", "-9e999", "1e300", "4000000000"} {
		o.exec(fmt.Sprintf(`INSERT INTO jobs (id, func_name, args, kwargs, status, attempts, created_at, finished_at)
			VALUES (%d, 'a', '[]', '{}', 'SUCCESS', 1, 'then', %s)`, i, finished))
	}
	o.exec(`INSERT INTO jobs (id, func_name, args, kwargs, status, attempts, created_at, run_at)
		SELECT 'p' || id, func_name, args, kwargs, 'PENDING', 1, created_at, coalesce(finished_at, 0) FROM jobs`)
	stats, err := s.Stats(t.Context())
	if err != nil || stats.Total.Pending != 7 {
		t.Errorf("%+v, error %v", stats, err)
	}
}

// This holds for a read-only storage too, and beside Python's indexes.
func TestStatsCountTheLastMinuteByAnIndex(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		path := ""
		for _, readOnly := range []bool{false, true} {
			var s *SQLiteStorage
			s, path = newSQLite(t)
			if readOnly {
				s = sqliteStorage(t, path, &SQLiteOptions{ReadOnly: true})
			}
			o := otherProgram(t, path)
			o.exec(pythonIndexes)
			r := recordReaders(s)
			if _, err := s.Stats(t.Context()); err != nil {
				t.Fatal(err)
			}
			looked := 0
			for query := range r.queries {
				if !strings.Contains(query, "age") {
					continue
				}
				looked++
				plan := o.all("EXPLAIN QUERY PLAN "+query, 0)
				if !strings.Contains(plan, "SEARCH jobs USING INDEX jobs_finished3 (<expr>>? AND <expr><?)") &&
					!strings.Contains(plan, "SEARCH dlq USING INDEX dlq_failed (failed_at>?)") {
					t.Errorf("the plan of\n%s\nis\n%s", query, plan)
				}
			}
			if looked != 2 {
				t.Errorf("%d queries for the last minute, want 2", looked)
			}
		}
	})
}

// ---- Check ----

func TestCheckFindsNothingWrongWithASoundFile(t *testing.T) {
	s, path := newSQLite(t)
	mustEnqueue(t, s, NewJob("a"), NewJob("b"))
	mustDequeue(t, s, 1)
	s2 := sqliteStorage(t, path, &SQLiteOptions{ReadOnly: true})
	for _, s := range []*SQLiteStorage{s, s2} {
		got, err := s.Check(t.Context())
		want := SQLiteReport{Schema: schemaVersion, Newest: schemaVersion, Journal: "wal", Size: got.Size, Links: 1}
		if diff := gocmp.Diff(want, got); diff != "" || err != nil || got.Size < 4096 {
			t.Errorf("error %v (-want +got):\n%s", err, diff)
		}
	}
}

func TestCheckReportsAPythonFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "q.db")
	python(t, path, python02)
	s := sqliteStorage(t, path, &SQLiteOptions{ReadOnly: true})
	got, err := s.Check(t.Context())
	want := SQLiteReport{Newest: schemaVersion, Journal: "delete", Size: got.Size, Links: 1}
	if diff := gocmp.Diff(want, got); diff != "" || err != nil {
		t.Errorf("error %v (-want +got):\n%s", err, diff)
	}
}

func TestCheckNamesTheJobsThatNoWorkerCanRun(t *testing.T) {
	s, path := newSQLite(t)
	o := otherProgram(t, path)
	insert := func(id, args, status, attempts, queue string) {
		o.exec(`INSERT INTO jobs (id, func_name, args, kwargs, status, attempts, created_at, queue)
			VALUES (` + id + `, 'a', ` + args + `, '{}', ` + status + `, ` + attempts + `, 1, ` + queue + `)`)
	}
	insert("'args'", "'none'", "'PENDING'", "0", "'q'")
	insert("'attempts'", "'[]'", "'RUNNING'", "'many'", "'q'")
	insert("'status'", "'[]'", "'DONE'", "0", "'q'")
	insert("'queue'", "'[]'", "'PENDING'", "0", "x'41'")
	insert("'finished'", "'none'", "'SUCCESS'", "1", "'q'")
	insert("'good'", "'[]'", "'PENDING'", "0", "'q'")
	for _, column := range []string{"future", "aside"} { // a file that was migrated may hold these
		o.exec(`PRAGMA ignore_check_constraints=1; INSERT INTO jobs (id, func_name, args, kwargs, status, attempts, created_at, ` +
			column + `) VALUES ('` + column + `', 'a', '[]', '{}', 'PENDING', 0, 1, -1)`)
	}
	got, err := s.Check(t.Context())
	if err != nil || len(got.Unusable) != 6 {
		t.Fatalf("error %v, %q", err, got.Unusable)
	}
	for i, want := range []string{
		"args: pinion: bad arguments",
		"attempts: pinion: a stored job with id",
		`status: its status is "DONE"`,
		`queue: its queue "A" is of type blob`,
		`future: its column future is -1; want 0 or 1`,
		`aside: its column aside is -1; want 0 or 1`,
	} {
		if !strings.HasPrefix(got.Unusable[i], want) {
			t.Errorf("%q, want %s …", got.Unusable[i], want)
		}
	}
	o.exec(`DELETE FROM jobs WHERE id IN ('future', 'aside')`) // which the end of the test would take for damage
	o.exec(`INSERT INTO jobs (id, func_name, args, kwargs, status, attempts, created_at)
		WITH n(n) AS (SELECT 1 UNION ALL SELECT n+1 FROM n WHERE n < 3000) SELECT n, 'a', '', '', 'PENDING', 0, 1 FROM n`)
	if got, err := s.Check(t.Context()); err != nil || len(got.Unusable) != 100 {
		t.Errorf("error %v, %d; want 100", err, len(got.Unusable))
	}
}

func TestCheckReportsPausedQueuesAndExpiredLeases(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, path := newSQLite(t)
		for _, lease := range []time.Duration{time.Minute, time.Hour} {
			mustEnqueue(t, s, &Job{ID: lease.String(), Task: "a"})
			if _, err := s.Dequeue(t.Context(), DequeueOptions{Max: 1, Lease: lease}); err != nil {
				t.Fatal(err)
			}
		}
		otherProgram(t, path).exec(`INSERT INTO pinion_limits VALUES ('paused', 0), ('limited', 3)`)
		time.Sleep(2 * time.Minute)
		got, err := s.Check(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if diff := gocmp.Diff([]string{"paused"}, got.Paused); diff != "" {
			t.Errorf("Paused (-want +got):\n%s", diff)
		}
		if diff := gocmp.Diff([]string{"1m0s"}, got.Expired); diff != "" {
			t.Errorf("Expired (-want +got):\n%s", diff)
		}
	})
}

func TestCheckFindsDamage(t *testing.T) {
	path := filepath.Join(t.TempDir(), "q.db")
	s, err := OpenSQLite(t.Context(), path, nil)
	if err != nil {
		t.Fatal(err)
	}
	for range 20 {
		mustEnqueue(t, s, NewJob("a", strings.Repeat("x", 3000)))
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	info, err := f.Stat()
	if err == nil {
		_, err = f.WriteAt([]byte(strings.Repeat("\x55", 4096)), info.Size()-3*4096)
	}
	if err == nil {
		err = f.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
	s, err = OpenSQLite(t.Context(), path, &SQLiteOptions{ReadOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if got, err := s.Check(t.Context()); len(got.Damage) == 0 && err == nil {
		t.Errorf("no damage found: %+v", got)
	}
}

// ---- Backup ----

func TestABackupHoldsTheQueueAtOneMoment(t *testing.T) {
	for _, name := range fileNames("backup.db", "what?mode=memory.db", "file:x.db", `quote'".db`, "quote'.db") {
		t.Run(name, func(t *testing.T) {
			s, _ := newSQLite(t)
			jobs := make([]*Job, 1000)
			for i := range jobs {
				jobs[i] = &Job{Task: "first"}
			}
			mustEnqueue(t, s, jobs...)
			running := mustDequeue(t, s, 1)[0]
			stop := make(chan struct{})
			produced := make(chan error, 1)
			go func() {
				for {
					select {
					case <-stop:
						produced <- nil
						return
					default:
					}
					if err := s.Enqueue(t.Context(), NewJob("second"), NewJob("second")); err != nil {
						produced <- err
						return
					}
				}
			}()
			path := filepath.Join(t.TempDir(), name)
			err := s.Backup(t.Context(), path)
			close(stop)
			if err := errors.Join(err, <-produced); err != nil {
				t.Fatal(err)
			}
			wantPrivate(t, path)

			copied := sqliteStorage(t, path, nil)
			counts := make(map[string]int)
			for job, err := range copied.Jobs(t.Context(), Filter{}) {
				if err != nil {
					t.Fatal(err)
				}
				counts[job.Task]++
			}
			if counts["first"] != 1000 || counts["second"]%2 != 0 {
				t.Errorf("the backup holds %v, want 1000 first and an even number of second", counts)
			}
			if job, err := copied.Get(t.Context(), running.ID); err != nil || job.Status != StatusRunning {
				t.Errorf("the running job is %+v, error %v", job, err)
			}
			wantError(t, s.Backup(t.Context(), path), "pinion: backup to "+path, "file exists")
		})
	}
}

func TestABackupThatFailsLeavesNoFile(t *testing.T) {
	s, path := newSQLite(t)
	wantError(t, s.Backup(t.Context(), path), "pinion: backup to "+path, "file exists")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	dir := t.TempDir()
	wantError(t, s.Backup(ctx, filepath.Join(dir, "q.db")), context.Canceled.Error())
	wantError(t, s.Backup(t.Context(), ""), "pinion: backup: the path is empty; want that of a file")
	wantError(t, s.Backup(t.Context(), filepath.Join(dir, "missing", "q.db")), "no such file or directory")
	wantError(t, s.Backup(t.Context(), filepath.Join(dir, "q.db")+"/"), "a copy cannot have the name of a directory; name a file")
	if found := folder(t, dir); len(found) > 0 {
		t.Errorf("the folder holds %v", found)
	}
	mustEnqueue(t, s, NewJob("a"))
}

func TestAReadOnlyStorageCanBeBackedUp(t *testing.T) {
	s, path := newSQLite(t)
	mustEnqueue(t, s, NewJob("a"))
	reader := sqliteStorage(t, path, &SQLiteOptions{ReadOnly: true})
	copied := filepath.Join(t.TempDir(), "q.db")
	if err := reader.Backup(t.Context(), copied); err != nil {
		t.Fatal(err)
	}
	if got := listed(t, sqliteStorage(t, copied, nil).Jobs(t.Context(), Filter{})); got != "a" {
		t.Errorf("the backup holds %q", got)
	}
}

// A page looks at 20,000 rows. What an index finds stands on it all the same, and the rest says where to go on.
func TestAPageFindsTheFewThatWaitBehindMany(t *testing.T) {
	t.Parallel()
	s, path := newSQLite(t)
	mustEnqueue(t, s, NewJob("first"), &Job{Task: "later", RunAt: time.Now().Add(time.Hour)},
		&Job{Task: "other", Queue: "q"})
	otherProgram(t, path).exec(`INSERT INTO jobs(id, func_name, args, kwargs, status, attempts, created_at)
		WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x+1 FROM c WHERE x<50000)
		SELECT 'done'||x, 'done', '[]', '{}', 'SUCCESS', 1, 1 FROM c`)
	for _, c := range []struct {
		filter Filter
		want   string
	}{
		{Filter{Status: StatusPending, Newest: true}, "other later first"},
		{Filter{Status: StatusPending, Queue: "q", Newest: true}, "other"},
		{Filter{Status: StatusPending, Newest: true, Task: "LATER"}, "later"},
		{Filter{Status: StatusPending, Newest: true, KeyPrefix: "periodic:"}, ""},
		{Filter{Status: StatusRunning, Newest: true}, ""},
	} {
		page, err := s.JobsPage(t.Context(), c.filter, 0)
		if err != nil {
			t.Fatal(err)
		}
		if got := tasksOf(page.Jobs); got != c.want || page.Next != 0 {
			t.Errorf("the first page of %s has %q and the next begins at %d, want %q and no next",
				filterText(c.filter), got, page.Next, c.want)
		}
	}
	var looks int
	var found strings.Builder
	for from := int64(0); looks == 0 || from != 0; looks++ {
		page, err := s.JobsPage(t.Context(), Filter{Task: "first", Newest: true}, from)
		if err != nil {
			t.Fatal(err)
		}
		found.WriteString(tasksOf(page.Jobs))
		from = page.Next
	}
	if found.String() != "first" || looks != 3 {
		t.Errorf("%d looks find %q, want 3 to find the first", looks, found.String())
	}
}

// Deleted jobs leave gaps between the numbers of the rows, so 20,000 numbers may have few rows.
func TestAPageLooksAcrossGaps(t *testing.T) {
	s, path := newSQLite(t)
	mustEnqueue(t, s, NewJob("a"), NewJob("b"), NewJob("c"), NewJob("d"))
	o := otherProgram(t, path)
	o.exec(`UPDATE jobs SET rowid=9007199254740993 WHERE func_name='d'`)
	o.exec(`UPDATE jobs SET rowid=90000 WHERE func_name='c'`)
	o.exec(`UPDATE jobs SET rowid=30000 WHERE func_name='b'`)
	for _, c := range []struct {
		filter Filter
		from   int64
		want   string
	}{
		{Filter{}, 0, "a b c d"},
		{Filter{Newest: true}, 0, "d c b a"},
		{Filter{Newest: true}, 90_000, "b a"},
		{Filter{}, 30_000, "c d"},
		{Filter{Task: "a", Newest: true}, 0, "a"},
		{Filter{Newest: true}, math.MaxInt64, "d c b a"},
		{Filter{Newest: true}, math.MinInt64, ""},
		{Filter{}, math.MaxInt64, ""},
		{Filter{}, math.MinInt64, "a b c d"},
	} {
		page, err := s.JobsPage(t.Context(), c.filter, c.from)
		if err != nil {
			t.Fatal(err)
		}
		if got := tasksOf(page.Jobs); got != c.want || page.Next != 0 {
			t.Errorf("the page of %s behind %d has %q and the next begins at %d, want %q and no next",
				filterText(c.filter), c.from, got, page.Next, c.want)
		}
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

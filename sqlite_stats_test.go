package pinion

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	gocmp "github.com/google/go-cmp/cmp"
)

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

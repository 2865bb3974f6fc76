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

func TestStatsTellWhatFinishedInTheLastHourAndInEachSecondOfTheLastMinute(t *testing.T) {
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
		want := func(hour, failedHour, minute int, seconds ...int) {
			t.Helper()
			stats, err := t.storage.Stats(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			counts := Counts{Success: 2, Failed: 1, SuccessHour: hour, FailedHour: failedHour, Minute: minute}
			wanted := Stats{Total: counts, Queues: []QueueStats{{"default", counts}}, Tasks: []TaskStats{{"a", counts}}, DeadLetters: 1}
			for _, s := range seconds {
				wanted.LastMinute[s]++
			}
			if diff := gocmp.Diff(wanted, stats); diff != "" {
				t.Errorf("after %v (-want +got):\n%s", t.since(), diff)
			}
		}
		finish(false) // at 0s
		t.sleep(30 * time.Second)
		finish(true) // at 30s
		t.sleep(29500 * time.Millisecond)
		finish(false) // at 59.5s
		want(2, 1, 3, 0, 30, 59)
		t.sleep(400 * time.Millisecond)
		want(2, 1, 3, 0, 30, 59)
		t.sleep(100 * time.Millisecond) // at 60s
		want(2, 1, 2, 29, 59)
		t.sleep(time.Second)
		want(2, 1, 2, 28, 58)
		t.sleep(time.Hour - 62*time.Second)
		want(2, 1, 0)
		t.sleep(time.Second)
		want(1, 1, 0)
		t.sleep(time.Hour)
		want(0, 0, 0)
	})
}

func TestStatsCountWhatIsOnManyPages(t *testing.T) {
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

// What others write may be of any type, or say that it was in the future.
func TestStatsBearAnyTime(t *testing.T) {
	s, path := newSQLite(t)
	o := otherProgram(t, path)
	for i, finished := range []string{"NULL", "'soon'", "x'ff'", "9e999", "-9e999", "1e300", "4000000000"} {
		o.exec(fmt.Sprintf(`INSERT INTO jobs (id, func_name, args, kwargs, status, attempts, created_at, finished_at)
			VALUES (%d, 'a', '[]', '{}', 'SUCCESS', 1, 'then', %s)`, i, finished))
	}
	stats, err := s.Stats(t.Context())
	if err != nil || stats.Total.Success != 7 {
		t.Errorf("%+v, error %v", stats, err)
	}
}

// The jobs of the last minute are counted by their index: in a file that may not be written too, and beside Python's
// indexes.
func TestTheLastMinuteIsCountedByItsIndex(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		path := ""
		for _, readOnly := range []bool{false, true} {
			var s *SQLiteStorage
			if s, path = newSQLite(t); readOnly {
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
				if !strings.Contains(query, "GROUP BY age") {
					continue
				}
				looked++
				plan := o.all("EXPLAIN QUERY PLAN "+query, 0, "SUCCESS", 0)
				if !strings.Contains(plan, "SEARCH jobs USING INDEX jobs_finished (status=? AND <expr>>?)") {
					t.Errorf("the plan of\n%s\nis\n%s", query, plan)
				}
			}
			if looked != 1 {
				t.Errorf("%d queries for the last minute, want 1", looked)
			}
		}
	})
}

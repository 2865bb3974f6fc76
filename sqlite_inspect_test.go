package pinion

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"maps"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"testing/synctest"
	"time"

	gocmp "github.com/google/go-cmp/cmp"
)

func TestListingsPageWhileRowsComeAndGo(t *testing.T) {
	s, path := newSQLite(t)
	o := otherProgram(t, path)
	jobs := make([]*Job, 1100)
	for i := range jobs {
		jobs[i] = &Job{ID: fmt.Sprintf("%04d", i), Task: strconv.Itoa(i)}
	}
	mustEnqueue(t, s, jobs...)
	o.exec(`INSERT INTO dlq (id, func_name, args, kwargs, attempts, error, failed_at) SELECT id, func_name, args, kwargs, 1, 'x', 1 FROM jobs`)
	for table, listing := range map[string]iter.Seq2[*Job, error]{"jobs": s.Jobs(t.Context(), Filter{}), "dlq": s.DeadLetters(t.Context(), Filter{})} {
		want, got, last := make(map[string]bool), make(map[string]bool), ""
		for _, job := range jobs {
			want[job.ID] = true
		}
		for job, err := range listing {
			if err != nil {
				t.Fatal(err)
			}
			if job.ID <= last {
				t.Fatalf("%s: %s comes after %s", table, job.ID, last)
			}
			if last = job.ID; len(got)%100 == 0 {
				// One is deleted behind, one two pages ahead, which will then not be listed, and one is added.
				ahead := fmt.Sprintf("%04d", len(got)+450)
				delete(want, ahead)
				o.exec("DELETE FROM "+table+" WHERE id IN (?, ?)", job.ID, ahead)
				o.exec("INSERT INTO "+table+" (id, func_name, args, kwargs, attempts"+map[string]string{"jobs": ", status, created_at", "dlq": ", error, failed_at"}[table]+
					") VALUES (?, 'added', '[]', '{}', 1, 'PENDING', 1)", fmt.Sprintf("9%04d", len(got)))
			}
			got[job.ID] = true
		}
		if last < "9" {
			t.Errorf("%s: what was added to the end is not listed", table)
		}
		maps.DeleteFunc(got, func(id string, _ bool) bool { return id > "9" })
		if diff := gocmp.Diff(want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", table, diff)
		}
	}
	n := 0
	for _, err := range s.Jobs(t.Context(), Filter{Limit: 450}) {
		if n++; err != nil {
			t.Fatal(err)
		}
	}
	if n != 450 {
		t.Errorf("with a limit of 450 %d are listed", n)
	}
}

func TestAListingLeftOpenHoldsNoTransaction(t *testing.T) {
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

func TestReapStalePrunesAfterRetentionAndSparesDeadLetters(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, path := newSQLite(t)
		mustEnqueue(t, s, NewJob("done"), NewJob("letter"), NewJob("purged"), NewJob("running"), NewJob("pending"))
		jobs := mustDequeue(t, s, 4)
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
		// Python finishes without telling when; its heartbeat, or else the creation, has to do.
		o := otherProgram(t, path)
		ago := func(d time.Duration) float64 { return seconds(time.Now().Add(-d)) }
		const insert = `INSERT INTO jobs (id, func_name, args, kwargs, status, attempts, created_at, heartbeat_at) VALUES (?, ?, '[]', '{}', 'SUCCESS', 1, ?, ?)`
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

		// When there is nothing to prune or to reap no lock is needed.
		time.Sleep(2 * time.Minute)
		defer o.lock()()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if n, err := s.ReapStale(ctx, 1000*time.Hour); n != 0 || err != nil {
			t.Errorf("ReapStale with the lock held elsewhere: %d, %v", n, err)
		}
	})
}

func TestANegativeRetentionIsForEver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := sqliteStorage(t, filepath.Join(t.TempDir(), "q.db"), &SQLiteOptions{PollInterval: time.Hour, Retention: -1})
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

func TestPruningGoesOnInSmallTransactionsUntilAllIsGone(t *testing.T) {
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
	if n := commits(t, path); n != 3 {
		t.Errorf("it took %d transactions, want 3", n)
	}
}

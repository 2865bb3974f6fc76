package pinion

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	gocmp "github.com/google/go-cmp/cmp"
)

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

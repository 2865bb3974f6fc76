//go:build unix

package crashlab_test

import (
	"database/sql"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/pinion-queue/pinion"
	"github.com/pinion-queue/pinion/internal/crashlab"
)

var (
	crashKills  = flag.Int("crash.kills", 12, "how many processes TestCrash kills; from 100 on it also fails for what takes too long")
	crashSeed   = flag.Uint64("crash.seed", 0, "the random seed of the crash laboratory [a new one]")
	powerPoints = flag.Int("crash.power", 60, "about how many losses of power are tried")
	crashStress = flag.Duration("crash.stress", 2*time.Second, "how long TestCrashStress lasts")
)

func TestMain(m *testing.M) {
	crashlab.Child()
	os.Exit(m.Run())
}

// seed returns the seed to use, and prints it.
func seed(t *testing.T) uint64 {
	seed := *crashSeed
	if seed == 0 {
		seed = rand.Uint64()
	}
	t.Logf("-crash.seed=%d", seed)
	return seed
}

// The file as Python left it, which the first children bring up to date: jobs that are owed, an application's own
// table, and rows of shapes that are nobody's.
const crashFile = `
	CREATE TABLE jobs (id TEXT PRIMARY KEY, func_name TEXT NOT NULL, args TEXT NOT NULL, kwargs TEXT NOT NULL,
		status TEXT NOT NULL, attempts INTEGER NOT NULL, created_at REAL NOT NULL, error TEXT, heartbeat_at REAL);
	CREATE TABLE dlq (id TEXT PRIMARY KEY, func_name TEXT NOT NULL, args TEXT NOT NULL, kwargs TEXT NOT NULL,
		attempts INTEGER NOT NULL, error TEXT NOT NULL, failed_at REAL NOT NULL);
	CREATE TABLE orders (number INTEGER PRIMARY KEY, what, paid);
	INSERT INTO orders VALUES (1, 'bolts', 0.1), (2, x'00ff00', NULL), (3, '', 9007199254740993), (-4, 'Jürgen''s' || char(10), 'no');
	INSERT INTO orders SELECT value+10, hex(zeroblob(value)), value/3.0 FROM json_each('[1,2,3,5,8,13,21,34,55,89,144,233,377,610,987,1597]');
	INSERT INTO jobs VALUES ('on hold', 'quick', '[1, 0]', '{}', 'ON_HOLD', 2, 1700000001.5, 'by hand', 5),
		('of another kind', x'0102', x'ff', 3, 7, 'many', 'then', 1.5, 'now'),
		('asleep', 'quick', 'no JSON', '', 'pending', -1, 0, NULL, NULL);
	INSERT INTO dlq VALUES ('by hand', 'nothing', '', x'00', 'some', 'because', 'then');`

func execScript(t *testing.T, path, script string, args ...any) {
	t.Helper()
	db, err := sql.Open("sqlite", path)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if _, err := db.Exec(script, args...); err != nil {
		t.Fatal(err)
	}
}

// values returns the rows of a query with the type of each value.
func values(t *testing.T, path, query string) (all []string) {
	t.Helper()
	db, err := sql.Open("sqlite", path+"?_pragma=busy_timeout(5000)")
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	rows, err := db.Query(query)
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	columns, err := rows.Columns()
	if err != nil {
		t.Fatal(err)
	}
	for rows.Next() {
		v, targets := make([]any, len(columns)), make([]any, len(columns))
		for i := range v {
			targets[i] = &v[i]
		}
		if err := rows.Scan(targets...); err != nil {
			t.Fatal(err)
		}
		all = append(all, fmt.Sprintf("%#v", v))
	}
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
	return all
}

// foreign lists the rows that are not the laboratory's, in the columns that Python made.
func foreign(t *testing.T, path string) []string {
	t.Helper()
	const theirs = `'on hold', 'of another kind', 'asleep', 'by hand'`
	return slices.Concat(values(t, path, `SELECT * FROM orders ORDER BY number`),
		values(t, path, `SELECT id, func_name, args, kwargs, status, attempts, created_at, error, heartbeat_at FROM jobs WHERE id IN (`+theirs+`) ORDER BY id`),
		values(t, path, `SELECT id, func_name, args, kwargs, attempts, error, failed_at FROM dlq WHERE id IN (`+theirs+`) ORDER BY id`))
}

func wantSound(t *testing.T, path string) {
	t.Helper()
	if got := values(t, path, "PRAGMA integrity_check"); len(got) != 1 || !strings.Contains(got[0], `"ok"`) {
		t.Errorf("PRAGMA integrity_check says %s", got)
	}
}

func wantNoViolation(t *testing.T, report crashlab.Report, err error) {
	t.Helper()
	t.Logf("%v", report)
	if err != nil {
		t.Errorf("the laboratory: %v", err)
	}
	if n := len(report.Violations); n > 20 {
		t.Errorf("%d violations, of which these are the first:", n)
		report.Violations = report.Violations[:20]
	}
	for _, violation := range report.Violations {
		t.Error(violation)
	}
}

// Processes that share one file are killed while they do all that they do, and nothing is lost. See package crashlab.
func TestCrashLosesNothing(t *testing.T) {
	path := filepath.Join(t.TempDir(), "q.db")
	execScript(t, path, crashFile)
	owed := make(map[string]string)
	for i := range 20 {
		id := fmt.Sprintf("of python %d", i)
		owed[id] = "quick"
		execScript(t, path, `INSERT INTO jobs VALUES (?, 'quick', '[3, 0]', '{}', 'PENDING', 0, 1700000000.5, NULL, NULL)`, id)
	}
	before := foreign(t, path)
	lab := crashlab.Lab{DSN: path, Dir: t.TempDir(), Seed: seed(t), Workers: 5, Producers: 2, Pruners: 1, Kills: *crashKills,
		PoisonRetries: 1, Owed: owed, Logf: t.Logf}
	if *crashKills >= 100 {
		lab.Strict, lab.Visibility, lab.PoisonRetries = true, time.Second, 3
	}
	report, err := lab.Run(t.Context())
	wantNoViolation(t, report, err)
	wantSound(t, path)
	if diff := cmp.Diff(before, foreign(t, path)); diff != "" {
		t.Errorf("foreign rows (-before +after):\n%s", diff)
	}
}

// Processes are killed while they bring an old file up to date, which then is either old or new, and whole.
func TestCrashWhileMigrating(t *testing.T) {
	seed := seed(t)
	const jobs = `SELECT id, func_name, args, kwargs, status, attempts, created_at, error, heartbeat_at FROM jobs ORDER BY rowid`
	const shape = `SELECT user_version, s.name, s.sql FROM pragma_user_version, sqlite_schema s ORDER BY s.name`
	whole := filepath.Join(t.TempDir(), "q.db")
	execScript(t, whole, crashFile)
	python := fmt.Sprint(values(t, whole, shape))
	s, err := pinion.OpenSQLite(t.Context(), whole, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	current := fmt.Sprint(values(t, whole, shape))
	old := 0
	for round := range max(3, *crashKills/10) {
		path := filepath.Join(t.TempDir(), "q.db")
		execScript(t, path, crashFile+`INSERT INTO jobs SELECT 'n' || value, 'quick', '[1, 0]', '{}', 'PENDING', 0, 1700000000.5, NULL, NULL
			FROM (WITH RECURSIVE n(value) AS (VALUES (1) UNION ALL SELECT value+1 FROM n WHERE value<4000) SELECT value FROM n);`)
		before, others := values(t, path, jobs), foreign(t, path)
		if err := crashlab.KillOpening(t.Context(), path, t.TempDir(), seed+uint64(round), 3); err != nil {
			t.Errorf("the laboratory: %v", err)
		}
		wantSound(t, path)
		switch shape := fmt.Sprint(values(t, path, shape)); shape {
		case python:
			old++
		case current:
		default:
			t.Errorf("version and schema are %s", shape)
		}
		s, err := pinion.OpenSQLite(t.Context(), path, nil)
		if err != nil {
			t.Fatal(err)
		}
		if n, err := s.Size(t.Context()); n != 4000 || err != nil {
			t.Errorf("%d jobs are pending, want 4000, %v", n, err)
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
		if after := values(t, path, jobs); !slices.Equal(before, after) { // only then: it takes its time
			t.Errorf("the jobs (-before +after):\n%s", cmp.Diff(before, after))
		}
		if diff := cmp.Diff(others, foreign(t, path)); diff != "" {
			t.Errorf("foreign rows (-before +after):\n%s", diff)
		}
	}
	t.Logf("%d of the files were still old when the last process was dead", old)
}

// Eight processes, each of which works and enqueues with eight goroutines.
func TestCrashStress(t *testing.T) {
	path := filepath.Join(t.TempDir(), "q.db")
	report, err := crashlab.Lab{DSN: path, Dir: t.TempDir(), Seed: seed(t), Both: 8, For: *crashStress, Visibility: 20 * time.Second, Grace: 20 * time.Second, Logf: t.Logf}.Run(t.Context())
	wantNoViolation(t, report, err)
	wantSound(t, path)
	if report.Duplicates > 0 {
		t.Errorf("%d jobs ran twice, and nobody was killed", report.Duplicates)
	}
}

package crashlab_test

import (
	"cmp"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"

	"github.com/pinion-queue/pinion/internal/crashlab"
)

func TestMain(m *testing.M) {
	crashlab.ChildMain()
	flag.Parse()
	isGiven := false
	flag.Visit(func(f *flag.Flag) { isGiven = isGiven || f.Name == "test.parallel" })
	if !isGiven {
		flag.Set("test.parallel", fmt.Sprint(max(4, runtime.GOMAXPROCS(0)))) // most tests wait for processes
	}
	os.Exit(m.Run())
}

// pythonFile makes a file as the Python library left it, with rows that Pinion must leave alone: an
// application's own table, jobs with a status that Pinion does not know, and values of unexpected types.
const pythonFile = `
	CREATE TABLE jobs (id TEXT PRIMARY KEY, func_name TEXT NOT NULL, args TEXT NOT NULL, kwargs TEXT NOT NULL,
		status TEXT NOT NULL, attempts INTEGER NOT NULL, created_at REAL NOT NULL, error TEXT, heartbeat_at REAL);
	CREATE TABLE dlq (id TEXT PRIMARY KEY, func_name TEXT NOT NULL, args TEXT NOT NULL, kwargs TEXT NOT NULL,
		attempts INTEGER NOT NULL, error TEXT NOT NULL, failed_at REAL NOT NULL);
	CREATE TABLE orders (number INTEGER PRIMARY KEY, what, paid);
	INSERT INTO orders VALUES (1, 'bolts', 0.1), (2, x'00ff00', NULL), (3, '', 9007199254740993),
		(-4, 'Jürgen''s' || char(10), 'no');
	INSERT INTO orders SELECT value+10, hex(zeroblob(value)), value/3.0
		FROM json_each('[1,2,3,5,8,13,21,34,55,89,144,233,377,610,987,1597]');
	INSERT INTO jobs VALUES ('on hold', 'quick', '[1, 0]', '{}', 'ON_HOLD', 2, 1700000001.5, 'by hand', 5),
		('of another kind', x'0102', x'ff', 3, 7, 'many', 'then', 1.5, 'now'),
		('asleep', 'quick', 'no JSON', '', 'pending', -1, 0, NULL, NULL);
	INSERT INTO dlq VALUES ('by hand', 'nothing', '', x'00', 'some', 'because', 'then');`

// foreignRows returns the rows that Pinion must leave alone, in the columns that Python made.
func foreignRows(t *testing.T, path string) []string {
	t.Helper()
	const ids = `'on hold', 'of another kind', 'asleep', 'by hand'`
	const jobs = `SELECT id, func_name, args, kwargs, status, attempts, created_at, error, heartbeat_at
		FROM jobs WHERE id IN (` + ids + `) ORDER BY id`
	const letters = `SELECT id, func_name, args, kwargs, attempts, error, failed_at
		FROM dlq WHERE id IN (` + ids + `) ORDER BY id`
	return slices.Concat(
		queryRows(t, path, `SELECT * FROM orders ORDER BY number`),
		queryRows(t, path, jobs),
		queryRows(t, path, letters),
	)
}

func checkForeignRows(t *testing.T, path string, before []string) {
	t.Helper()
	if diff := gocmp.Diff(before, foreignRows(t, path)); diff != "" {
		t.Errorf("rows of other programs (-before +after):\n%s", diff)
	}
}

func checkIntegrity(t *testing.T, path string) {
	t.Helper()
	if err := integrityCheck(t, path); err != nil {
		t.Error(err)
	}
}

// checkReport logs a report and fails the test if it lists violations.
func checkReport(t *testing.T, report crashlab.Report, err error) {
	t.Helper()
	t.Logf("%v", report)
	if err != nil {
		t.Errorf("the laboratory failed: %v", err)
	}
	violations := report.Violations
	if len(violations) > 20 {
		t.Errorf("%d violations; these are the first 20:", len(violations))
		violations = violations[:20]
	}
	for _, violation := range violations {
		t.Error(violation)
	}
}

// Workers, producers and a pruner share a file that the Python library made. They are killed while they work.
func TestCrashLosesNothing(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "q.db")
	execSQL(t, path, pythonFile)
	owed := make(map[string]string) // jobs that Python enqueued
	for i := range 20 {
		id := fmt.Sprintf("of python %d", i)
		owed[id] = "quick"
		execSQL(t, path, `INSERT INTO jobs
			VALUES (?, 'quick', '[3, 0]', '{}', 'PENDING', 0, 1700000000.5, NULL, NULL)`, id)
	}
	before := foreignRows(t, path)
	lab := crashlab.Lab{
		DSN:           path,
		Dir:           t.TempDir(),
		Seed:          seed(t),
		Workers:       5,
		Producers:     2,
		Pruners:       1,
		Kills:         *crashKills,
		Visibility:    *crashLease,
		PoisonRetries: 1,
		Drains:        *crashDrains,
		Locks:         perKills(*crashLocks),
		Freezes:       perKills(*crashFreeze),
		Owed:          owed,
		Logf:          t.Logf,
	}
	if *crashKills >= 100 {
		lab.Strict = true
		lab.Visibility = cmp.Or(*crashLease, time.Second)
		lab.PoisonRetries = 3
		lab.Longest = 15 * time.Second
	}
	report, err := lab.Run(t.Context())
	checkReport(t, report, err)
	checkIntegrity(t, path)
	checkForeignRows(t, path, before)
}

// perKills returns the value of a flag, or if that is negative 1 for 25 kills, and at least 1.
func perKills(n int) int {
	if n < 0 {
		return max(1, *crashKills/25)
	}
	return n
}

// No worker runs all the time, as if cron started the workers. Processes that live for milliseconds drain the
// queue. They also take back the jobs that killed ones leave, or those jobs would never end.
func TestCrashOfShortDrains(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "q.db")
	lab := crashlab.Lab{
		DSN:           path,
		Dir:           t.TempDir(),
		Seed:          seed(t),
		Drains:        4,
		Producers:     1,
		Kills:         *crashKills,
		Visibility:    *crashLease,
		Grace:         500 * time.Millisecond,
		PoisonRetries: 1,
		Logf:          t.Logf,
	}
	report, err := lab.Run(t.Context())
	checkReport(t, report, err)
	checkIntegrity(t, path)
}

// Processes are killed while they migrate a file of the Python library. The file is then of the old version
// or of the new one, and no job is lost or changed.
func TestCrashWhileMigrating(t *testing.T) {
	t.Parallel()
	const schema = `SELECT user_version, s.name, s.sql FROM pragma_user_version, sqlite_schema s ORDER BY s.name`
	const jobs = `SELECT id, func_name, args, kwargs, status, attempts, created_at, error, heartbeat_at
		FROM jobs ORDER BY rowid`
	const pythonJobs = `INSERT INTO jobs
		SELECT 'n' || value, 'quick', '[1, 0]', '{}', 'PENDING', 0, 1700000000.5, NULL, NULL FROM (
			WITH RECURSIVE n(value) AS (VALUES (1) UNION ALL SELECT value+1 FROM n WHERE value<4000)
			SELECT value FROM n);`
	seed := seed(t)
	dir := t.TempDir()

	undisturbed := filepath.Join(dir, "undisturbed.db")
	execSQL(t, undisturbed, pythonFile)
	oldSchema := queryRows(t, undisturbed, schema)
	openAndClose(t, undisturbed)
	newSchema := queryRows(t, undisturbed, schema)

	stillOld := 0
	for round := range max(3, *crashKills/10) {
		path := filepath.Join(dir, fmt.Sprintf("%d.db", round))
		execSQL(t, path, pythonFile+pythonJobs)
		jobsBefore, foreignBefore := queryRows(t, path, jobs), foreignRows(t, path)
		if err := crashlab.KillOpening(t.Context(), path, t.TempDir(), seed+uint64(round), 3); err != nil {
			t.Error(err)
		}
		checkIntegrity(t, path)
		got := queryRows(t, path, schema)
		switch {
		case slices.Equal(got, oldSchema):
			stillOld++
		case slices.Equal(got, newSchema):
		default:
			t.Errorf("the schema is neither the old nor the new one: %s", got)
		}
		if pending := openAndClose(t, path); pending != 4000 {
			t.Errorf("%d jobs are pending, want 4000", pending)
		}
		jobsAfter := queryRows(t, path, jobs)
		if !slices.Equal(jobsBefore, jobsAfter) { // gocmp.Diff takes seconds for so many rows, equal or not
			t.Errorf("jobs (-before +after):\n%s", gocmp.Diff(jobsBefore, jobsAfter))
		}
		checkForeignRows(t, path, foreignBefore)
	}
	t.Logf("%d files still had the old schema when the last process was dead", stillOld)
}

// Eight processes share a file. Each runs a worker and enqueues with eight goroutines, and nobody is killed.
func TestCrashStress(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "q.db")
	lab := crashlab.Lab{
		DSN:        path,
		Dir:        t.TempDir(),
		Seed:       seed(t),
		Both:       8,
		For:        *crashStress,
		Visibility: 20 * time.Second,
		Grace:      20 * time.Second,
		Logf:       t.Logf,
	}
	report, err := lab.Run(t.Context())
	checkReport(t, report, err)
	checkIntegrity(t, path)
	switch {
	case report.Repeated == 0:
	case report.LongestCall >= lab.Grace: // at its end a worker gives up what it cannot record within Grace
		t.Logf("%d jobs ran again, because a call took %v", report.Repeated, report.LongestCall)
	default:
		t.Errorf("%d jobs ran again, though nobody was killed", report.Repeated)
	}
}

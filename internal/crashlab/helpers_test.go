package crashlab_test

import (
	"bytes"
	"database/sql"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/pinion-queue/pinion"
)

// The flags of the crash laboratory and of the power laboratory. docs/testing.md explains them.
var (
	crashKills = flag.Int("crash.kills", 8,
		"processes that TestCrashLosesNothing kills; from 100 on it also judges time")
	crashSeed   = flag.Uint64("crash.seed", 0, "the random seed of the crash and power laboratories [a new one]")
	crashLocks  = flag.Int("crash.locks", -1, "times at which another program holds the write lock [1 for 25 kills]")
	crashFreeze = flag.Int("crash.freezes", -1, "times at which all processes are stopped together [1 for 25 kills]")
	crashClocks = flag.Int("crash.clocks", 0, "how often TestCrashWhileTheClockIsSet sets the clock; 0 skips it")
	crashDrains = flag.Int("crash.drains", 1,
		"how many processes with a short Drain run at any time, beside the workers")
	crashLease  = flag.Duration("crash.visibility", 0, "VisibilityTimeout of the workers [600ms; 1s from 100 kills on]")
	crashStress = flag.Duration("crash.stress", time.Second, "how long TestCrashStress enqueues")
	powerPoints = flag.Int("crash.power", 60, "about how many losses of power are tried")
)

// seed returns the seed of the flag, or a new one, and logs it.
func seed(t *testing.T) uint64 {
	t.Helper()
	seed := *crashSeed
	if seed == 0 {
		seed = rand.Uint64()
	}
	t.Logf("-crash.seed=%d", seed)
	return seed
}

// openSQL opens a file as another program would. The caller closes it.
func openSQL(t *testing.T, path string) *sql.DB {
	t.Helper()
	db, err := sql.Open("sqlite", path+"?_pragma=busy_timeout(5000)")
	if err != nil {
		t.Fatal(err)
	}
	return db
}

// execSQL runs statements on a file.
func execSQL(t *testing.T, path, statements string, args ...any) {
	t.Helper()
	db := openSQL(t, path)
	defer db.Close()
	if _, err := db.Exec(statements, args...); err != nil {
		t.Fatal(err)
	}
}

// queryRows returns the rows of a query on a file, each as text that shows the type of every value.
func queryRows(t *testing.T, path, query string) []string {
	t.Helper()
	db := openSQL(t, path)
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
	var all []string
	for rows.Next() {
		values := make([]any, len(columns))
		targets := make([]any, len(columns))
		for i := range values {
			targets[i] = &values[i]
		}
		if err := rows.Scan(targets...); err != nil {
			t.Fatal(err)
		}
		all = append(all, fmt.Sprintf("%#v", values))
	}
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
	return all
}

// integrityCheck returns an error if SQLite finds a file damaged, or too damaged for the check to run.
func integrityCheck(t *testing.T, path string) error {
	t.Helper()
	db := openSQL(t, path)
	defer db.Close()
	var result string
	if err := db.QueryRow("PRAGMA integrity_check").Scan(&result); err != nil {
		return fmt.Errorf("PRAGMA integrity_check of %s: %w", path, err)
	}
	if result != "ok" {
		return fmt.Errorf("PRAGMA integrity_check of %s: %s", path, result)
	}
	return nil
}

// openAndClose opens a file, which migrates it, and returns how many jobs are pending.
func openAndClose(t *testing.T, path string) (pending int) {
	t.Helper()
	s, err := pinion.OpenSQLite(t.Context(), path, nil)
	if err != nil {
		t.Fatal(err)
	}
	pending, err = s.Size(t.Context())
	if err != nil {
		t.Error(err)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	return pending
}

// goCommand runs the go tool in the folder of this package. If it fails, so does the test.
func goCommand(t *testing.T, args ...string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "go", args...)
	var printed bytes.Buffer
	cmd.Stdout = &printed
	cmd.Stderr = &printed
	if err := cmd.Run(); err != nil {
		t.Fatalf("go %s: %v\n%s", strings.Join(args, " "), err, &printed)
	}
}

// read returns the text of a file.
func read(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

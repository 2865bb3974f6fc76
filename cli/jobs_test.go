package cli

import (
	"errors"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/pinion-queue/pinion"
)

// Names and errors are printed whole, and have a bound. Arguments may be a thousand times as long.
func TestLinesOfAListingHaveABoundedLength(t *testing.T) {
	t.Parallel()
	db := filepath.Join(t.TempDir(), "q.db")
	s := openStorage(t, db)
	huge := strings.Repeat("\x1b\u202e", 250_000)
	long := huge[:1000] // names have a bound
	for i, end := range []func(*pinion.Job) error{
		func(j *pinion.Job) error { return s.DeadLetter(t.Context(), j, errors.New(huge)) },
		func(*pinion.Job) error { return nil },
		func(j *pinion.Job) error { return s.MarkFailed(t.Context(), j, errors.New(huge), time.Now()) },
	} {
		unique := long + strconv.Itoa(i)
		job := &pinion.Job{ID: unique, Task: long, Queue: long, Key: unique, Args: []any{huge[:100_000]}}
		mustEnqueue(t, s, job)
		if err := end(claim(t, s, 1)[0]); err != nil {
			t.Fatal(err)
		}
	}
	for _, command := range []string{"status", "pending", "running", "dlq-list"} {
		status, stdout, stderr := runCommand(t, command, "--db", db)
		if status != 0 {
			t.Errorf("%s: exit status %d\n%.500s", command, status, stderr)
		}
		wantHarmlessText(t, command, stdout)
		for line := range strings.Lines(stdout) {
			if len(line) > 60_000 {
				t.Errorf("%s prints a line of %d bytes", command, len(line))
			}
		}
	}
}

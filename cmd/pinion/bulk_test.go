package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/pinion-queue/pinion"
)

// stored is the arguments of all jobs in a file, in their order.
func stored(t *testing.T, db string) (args []string, err error) {
	t.Helper()
	storage, err := pinion.OpenSQLite(t.Context(), db, &pinion.SQLiteOptions{ReadOnly: true})
	if err != nil {
		return nil, err // there is none as yet
	}
	defer storage.Close()
	for job, err := range storage.Jobs(t.Context(), pinion.Filter{}) {
		if err != nil {
			return nil, err
		}
		args = append(args, arguments(job))
	}
	return args, nil
}

// awaitStored waits until there are n.
func awaitStored(t *testing.T, said fmt.Stringer, db string, n int) {
	t.Helper()
	await(t, said, func() bool {
		args, err := stored(t, db)
		return err == nil && len(args) == n
	})
}

func wantStored(t *testing.T, db string, want []string) {
	t.Helper()
	got, err := stored(t, db)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("stored (-want +got):\n%.2000s", diff)
	}
}

func TestManyLinesGoInInTheirOrder(t *testing.T) {
	db := filepath.Join(t.TempDir(), "q.db")
	var input strings.Builder
	var want []string
	for i := range 5_500 {
		fmt.Fprintf(&input, "%d\n", i)
		want = append(want, fmt.Sprintf(`["%d"]`, i))
	}
	var stdout, stderr bytes.Buffer
	status := run(t.Context(), []string{"enqueue", "x", "-", "--lines", "--db", db}, strings.NewReader(input.String()), &stdout, &stderr)
	wantText(t, stdout.String(), `^enqueued 5,500 jobs in \d+\.\ds\n$`)
	if status != 0 || stderr.Len() > 0 {
		t.Errorf("exit status %d\n%s", status, &stderr)
	}
	wantStored(t, db, want)
}

// Held keys and a line that is too long stand between the others of a batch. Which lines share one is up to
// their reader, and with that which is told first.
func TestWhatCannotGoInDoesNotHinderItsBatch(t *testing.T) {
	db := filepath.Join(t.TempDir(), "q.db")
	var stdout, stderr bytes.Buffer
	for _, held := range []string{"held 3", "held 4", "held 900"} {
		if status := run(t.Context(), []string{"enqueue", "x", "--key", held, "--db", db}, nil, &stdout, &stderr); status != 0 {
			t.Fatal(stderr.String())
		}
	}
	var input strings.Builder
	want := []string{"", "", ""}
	for i := range 1200 {
		text := fmt.Sprint(i)
		switch i {
		case 3, 4, 900:
		case 1, 5, 500:
			text = strings.Repeat("y", 1<<20)
		case 1100:
			text = strings.Repeat("z", longestLine+1)
		default:
			want = append(want, fmt.Sprintf(`["%d"]`, i))
		}
		fmt.Fprintln(&input, text)
	}
	stdout.Reset()
	status := run(t.Context(), []string{"enqueue", "x", "-", "--lines", "--key", "held {0}", "--ids", "--db", db},
		strings.NewReader(strings.ReplaceAll(input.String(), "\n", "\r\n")), &stdout, &stderr)
	if status != 1 || strings.Count(stdout.String(), "\n") != 1196 {
		t.Errorf("exit status %d and %d ids", status, strings.Count(stdout.String(), "\n"))
	}
	for _, line := range []string{
		`line 2: too large`, `line 6: (too large|it has the --key of line 2, which is bad)`, `line 501: (too large|it has .*, which is bad)`,
		`line 1101: longer than 8 MiB`, `enqueued 1,193 jobs in .*; nothing added for 3 lines: `, `4 lines are bad`,
	} {
		wantText(t, stderr.String(), line)
	}
	wantStored(t, db, want)
}

// A pipe that stays open holds nothing back.
func TestWhatAPauseFindsIsEnqueued(t *testing.T) {
	db := filepath.Join(t.TempDir(), "q.db")
	r, w := io.Pipe()
	status := make(chan int)
	var stdout, stderr bytes.Buffer
	go func() {
		status <- run(t.Context(), []string{"enqueue", "x", "-", "--lines", "--db", db}, r, &stdout, &stderr)
	}()
	var want []string
	for _, text := range []string{"a\n", "b\nc\nhalf a ", "line\n"} {
		io.WriteString(w, text)
		want = append(want, map[string][]string{"a\n": {`["a"]`}, "b\nc\nhalf a ": {`["b"]`, `["c"]`}, "line\n": {`["half a line"]`}}[text]...)
		awaitStored(t, &stderr, db, len(want))
		wantStored(t, db, want)
	}
	w.Close()
	if got := <-status; got != 0 {
		t.Errorf("exit status %d\n%s", got, &stderr)
	}
}

// brokenInput gives two lines and a half, and then an error.
type brokenInput struct{ given bool }

func (b *brokenInput) Read(p []byte) (int, error) {
	if b.given {
		return 0, errors.New("the cable is out")
	}
	b.given = true
	return copy(p, "a\nb\nc"), nil
}

func TestABrokenInputIsTold(t *testing.T) {
	for _, c := range []struct {
		flag, said string
		stored     []string
	}{
		{"--lines", `standard input: the cable is out; 3 jobs are enqueued, from lines up to 3, and none from those behind, which .tail -n \+4. gives`, []string{`["a"]`, `["b"]`, `["c"]`}},
		{"--atomic", `standard input: the cable is out; nothing was enqueued`, nil},
	} {
		db := filepath.Join(t.TempDir(), "q.db")
		var stdout, stderr bytes.Buffer
		status := run(t.Context(), []string{"enqueue", "x", "--lines", "-", c.flag, "--db", db}, new(brokenInput), &stdout, &stderr)
		if status != 1 {
			t.Errorf("exit status %d", status)
		}
		wantText(t, stderr.String(), c.said)
		wantStored(t, db, c.stored)
	}
}

func TestAnInterruptedFeedTellsWhatIsIn(t *testing.T) {
	dir := t.TempDir()
	cmd := process(t, dir, "enqueue", "x", "-", "--lines", "--db", "q.db")
	input, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	io.WriteString(input, "a\nb\nhalf")
	db := filepath.Join(dir, "q.db")
	awaitStored(t, &stderr, db, 2)
	cmd.Process.Signal(syscall.SIGINT)
	if cmd.Wait(); cmd.ProcessState.ExitCode() != 1 {
		t.Errorf("%v", cmd.ProcessState)
	}
	wantText(t, stderr.String(), `^pinion: interrupted; 2 jobs are enqueued, from lines up to 2, and none from those behind, which .tail -n \+3. gives\n$`)
	wantStored(t, db, []string{`["a"]`, `["b"]`})
}

// A reader of the ids that has had enough does not kill who has yet to tell what is in.
func TestAFeedOutlivesTheReaderOfItsIDs(t *testing.T) {
	dir := t.TempDir()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	r.Close()
	cmd := process(t, dir, "enqueue", "x", "-", "--lines", "--ids", "--db", "q.db")
	cmd.Stdin = strings.NewReader(strings.Repeat("x\n", 50_000))
	var stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = w, &stderr
	cmd.Run()
	w.Close()
	if cmd.ProcessState.ExitCode() != 1 {
		t.Errorf("%v", cmd.ProcessState)
	}
	pattern := regexp.MustCompile(`^pinion: the ids could not be written: .*; ([\d,]+) jobs are enqueued, from lines up to (\d+), and none`)
	found := pattern.FindStringSubmatch(stderr.String())
	args, err := stored(t, filepath.Join(dir, "q.db"))
	if n := len(args); err != nil || found == nil || n == 50_000 || found[1] != thousands(n) || found[2] != fmt.Sprint(n) {
		t.Errorf("%d jobs are in, and it said\n%s", n, &stderr)
	}
}

func TestAWaitEndsWithItsJob(t *testing.T) {
	db := filepath.Join(t.TempDir(), "q.db")
	storage, err := pinion.OpenSQLite(t.Context(), db, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer storage.Close()
	status := make(chan int)
	var stdout, stderr bytes.Buffer
	go func() {
		status <- run(t.Context(), []string{"enqueue", "add", "--args", "[1, 2]", "--wait", "--db", db}, nil, &stdout, &stderr)
	}()
	claimed, err := storage.Dequeue(t.Context(), pinion.DequeueOptions{Max: 1})
	if err != nil {
		t.Fatal(err)
	}
	// Given up and replayed in one go, as it looks to who does not look in between.
	if err := storage.MarkFailed(t.Context(), claimed[0], io.EOF, time.Now()); err != nil {
		t.Fatal(err)
	}
	if claimed, err = storage.Dequeue(t.Context(), pinion.DequeueOptions{Max: 1}); err != nil {
		t.Fatal(err)
	}
	claimed[0].Result = []byte("3")
	if _, err := storage.MarkDone(t.Context(), claimed...); err != nil {
		t.Fatal(err)
	}
	if got := <-status; got != 0 || stdout.String() != "3\n" {
		t.Errorf("exit status %d\n%s%s", got, &stdout, &stderr)
	}
}

func TestAWaitForACanceledJobFails(t *testing.T) {
	db := filepath.Join(t.TempDir(), "q.db")
	storage, err := pinion.OpenSQLite(t.Context(), db, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer storage.Close()
	err = storage.Enqueue(t.Context(), &pinion.Job{ID: "x", Task: "add"})
	if _, _, failed := storage.Cancel(t.Context(), "x"); err != nil || failed != nil {
		t.Fatal(err, failed)
	}
	var stdout, stderr bytes.Buffer
	if status := run(t.Context(), []string{"wait", "x", "--db", db}, nil, &stdout, &stderr); status != 1 {
		t.Errorf("exit status %d", status)
	}
	if want := "pinion: job x was canceled; `pinion show x` tells more\n"; stderr.String() != want || stdout.Len() > 0 {
		t.Errorf("got %s%s, want %s", &stdout, &stderr, want)
	}
}

// vanishing is a storage from which a job is pruned between two looks.
type vanishing struct {
	pinion.Inspector
	looks int
}

func (v *vanishing) Get(ctx context.Context, id string) (*pinion.Job, error) {
	if v.looks++; v.looks < 3 {
		return &pinion.Job{ID: id, Status: pinion.StatusRunning}, nil
	}
	return v.Inspector.Get(ctx, id)
}

func TestAJobThatIsPrunedWhileWaitedForHasEndedUnseen(t *testing.T) {
	c := &call{stdout: nil, stderr: io.Discard}
	err := c.waitFor(t.Context(), &vanishing{Inspector: pinion.NewMemoryStorage()}, []string{"x"}, false, -1)
	if err == nil || !strings.Contains(err.Error(), "pruned before it was looked at") {
		t.Error(err)
	}
}

func TestAJobWhoseIDCannotBeWrittenIsNamedInTheError(t *testing.T) {
	db := filepath.Join(t.TempDir(), "q.db")
	unwritable, err := os.Open(os.DevNull) // for reading
	if err != nil {
		t.Fatal(err)
	}
	defer unwritable.Close()
	for _, flag := range []string{"--json", "--json=false"} {
		var stderr bytes.Buffer
		if status := run(t.Context(), []string{"enqueue", "add", "--key", "one", flag, "--db", db}, nil, unwritable, &stderr); status != 1 {
			t.Errorf("exit status %d", status)
		}
		if !regexp.MustCompile(`(?m)^pinion: the job [0-9a-f]{32} is in the queue, but its id could not be written: .*; so note it`).Match(stderr.Bytes()) {
			t.Errorf("%s", &stderr)
		}
	}
}

func TestAMomentIsTheNextSuch(t *testing.T) {
	zone := time.FixedZone("", 3600)
	now := time.Date(2026, 3, 31, 14, 30, 0, 0, zone)
	for s, want := range map[string]time.Time{
		"14:31":                  time.Date(2026, 3, 31, 14, 31, 0, 0, zone),
		"14:30":                  time.Date(2026, 4, 1, 14, 30, 0, 0, zone),
		"00:00:01":               time.Date(2026, 4, 1, 0, 0, 1, 0, zone),
		"2026-05-01 10:00":       time.Date(2026, 5, 1, 10, 0, 0, 0, zone),
		"2020-05-01T10:00:30":    time.Date(2020, 5, 1, 10, 0, 30, 0, zone),
		"2026-05-01T10:00:00.5Z": time.Date(2026, 5, 1, 10, 0, 0, 5e8, time.UTC),
	} {
		if got, err := parseMoment(s, now); err != nil || !got.Equal(want) {
			t.Errorf("%s is %v, want %v; %v", s, got, want, err)
		}
	}
}

package cli

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/pinion-queue/pinion"
)

// stored returns the arguments of all jobs in a file, in their order.
func stored(t *testing.T, db string) (args []string, err error) {
	t.Helper()
	storage, err := pinion.OpenSQLite(t.Context(), db, &pinion.SQLiteOptions{ReadOnly: true})
	if err != nil {
		return nil, err // the file does not exist yet
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

// awaitStored waits until there are n jobs.
func awaitStored(t *testing.T, output fmt.Stringer, db string, n int) {
	t.Helper()
	await(t, output, func() bool {
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

func TestManyLinesAreEnqueuedInTheirOrder(t *testing.T) {
	t.Parallel()
	db := filepath.Join(t.TempDir(), "q.db")
	var input strings.Builder
	var want []string
	for i := range 5_500 {
		fmt.Fprintf(&input, "%d\n", i)
		want = append(want, fmt.Sprintf(`["%d"]`, i))
	}
	var stdout, stderr bytes.Buffer
	args := []string{"enqueue", "x", "-", "--lines", "--db", db}
	status := Run(t.Context(), args, strings.NewReader(input.String()), &stdout, &stderr)
	wantText(t, stdout.String(), `^enqueued 5,500 jobs in \d+\.\ds\n$`)
	if status != 0 || stderr.Len() > 0 {
		t.Errorf("exit status %d\n%s", status, &stderr)
	}
	wantStored(t, db, want)
}

// Held keys and bad lines stand between the others of a batch. The reader decides which lines share a batch,
// and so which of two reasons is reported.
func TestBadLinesAndHeldKeysDoNotStopTheOthers(t *testing.T) {
	t.Parallel()
	db := filepath.Join(t.TempDir(), "q.db")
	for _, held := range []string{"held 3", "held 4", "held 900"} {
		if status, _, stderr := runCommand(t, "enqueue", "x", "--key", held, "--db", db); status != 0 {
			t.Fatal(stderr)
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
		input.WriteString(text + "\r\n")
	}
	var stdout, stderr bytes.Buffer
	args := []string{"enqueue", "x", "-", "--lines", "--key", "held {0}", "--ids", "--db", db}
	status := Run(t.Context(), args, strings.NewReader(input.String()), &stdout, &stderr)
	if ids := strings.Count(stdout.String(), "\n"); status != 1 || ids != 1196 {
		t.Errorf("exit status %d and %d ids", status, ids)
	}
	for _, line := range []string{
		`line 2: bad arguments: .*the Key has`,
		`line 6: (bad arguments|has the --key of line 2, which is bad)`,
		`line 501: (bad arguments|has the --key of line [26], which is bad)`,
		`line 1101: longer than 8 MiB`,
		`enqueued 1,193 jobs in .*; added nothing for 3 lines: unfinished jobs hold their keys`,
		`4 lines are bad`,
	} {
		wantText(t, stderr.String(), line)
	}
	wantStored(t, db, want)
}

func TestAPauseOfTheInputHoldsNothingBack(t *testing.T) {
	t.Parallel()
	db := filepath.Join(t.TempDir(), "q.db")
	r, w := io.Pipe()
	status := make(chan int)
	var stdout, stderr bytes.Buffer
	go func() {
		status <- Run(t.Context(), []string{"enqueue", "x", "-", "--lines", "--db", db}, r, &stdout, &stderr)
	}()
	var want []string
	for _, step := range []struct {
		text string
		args []string
	}{
		{"a\n", []string{`["a"]`}},
		{"b\nc\nhalf a ", []string{`["b"]`, `["c"]`}},
		{"line\n", []string{`["half a line"]`}},
	} {
		io.WriteString(w, step.text)
		want = append(want, step.args...)
		awaitStored(t, &stdout, db, len(want))
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

func TestABrokenInputIsReported(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		flag, want string
		stored     []string
	}{
		{"--lines", `standard input: the cable is out; ` +
			`3 jobs are enqueued, from the lines up to 3 and none after that; .tail -n \+4. prints the rest`,
			[]string{`["a"]`, `["b"]`, `["c"]`}},
		{"--atomic", `standard input: the cable is out; nothing was enqueued`, nil},
	} {
		db := filepath.Join(t.TempDir(), "q.db")
		var stdout, stderr bytes.Buffer
		args := []string{"enqueue", "x", "--lines", "-", c.flag, "--db", db}
		status := Run(t.Context(), args, new(brokenInput), &stdout, &stderr)
		if status != 1 {
			t.Errorf("exit status %d", status)
		}
		wantText(t, stderr.String(), c.want)
		wantStored(t, db, c.stored)
	}
}

func TestAnInterruptedFeedReportsWhatIsEnqueued(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	cmd := process(t, dir, "enqueue", "x", "-", "--lines", "--db", "q.db")
	input, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	var stderr watched
	cmd.Stderr = &stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	io.WriteString(input, "a\nb\nhalf")
	db := filepath.Join(dir, "q.db")
	awaitStored(t, &stderr, db, 2)
	cmd.Process.Signal(syscall.SIGINT)
	cmd.Wait()
	wantSignal(t, cmd, syscall.SIGINT)
	wantText(t, stderr.String(), `^pinion: interrupted; `+
		`2 jobs are enqueued, from the lines up to 2 and none after that; .tail -n \+3. prints the rest\n$`)
	wantStored(t, db, []string{`["a"]`, `["b"]`})
}

func TestAFeedOutlivesTheReaderOfItsIDs(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	w := brokenPipe(t)
	cmd := process(t, dir, "enqueue", "x", "-", "--lines", "--ids", "--db", "q.db")
	cmd.Stdin = strings.NewReader(strings.Repeat("x\n", 50_000))
	var stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = w, &stderr
	cmd.Run()
	w.Close()
	if cmd.ProcessState.ExitCode() != 1 {
		t.Errorf("%v", cmd.ProcessState)
	}
	pattern := regexp.MustCompile(`^pinion: cannot write the ids: .*; ` +
		`([\d,]+) jobs are enqueued, from the lines up to (\d+) and none after that`)
	found := pattern.FindStringSubmatch(stderr.String())
	args, err := stored(t, filepath.Join(dir, "q.db"))
	if err != nil {
		t.Fatal(err)
	}
	if n := len(args); found == nil || n == 50_000 || found[1] != thousands(n) || found[2] != fmt.Sprint(n) {
		t.Errorf("%d jobs are enqueued, and it printed\n%s", n, &stderr)
	}
}

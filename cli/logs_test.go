package cli

import (
	"bytes"
	"fmt"
	"io"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/pinion-queue/pinion"
)

// testLogs returns the logs of a queue in a directory of its own.
func testLogs(t *testing.T) *jobLogs {
	t.Helper()
	logs, err := newJobLogs(filepath.Join(t.TempDir(), "q.db.logs"), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	return logs
}

func TestALogHasBothStreamsOfEachAttempt(t *testing.T) {
	r := testRunner(t)
	r.logs = testLogs(t)
	p := testProgram(t, r, true, `echo "try $PINION_ATTEMPT"; echo warning >&2; exit 1`)
	w := &pinion.Worker{Retry: &pinion.RetryPolicy{MaxRetries: 1, BaseDelay: time.Millisecond}}
	job := drain(t, p, w, new(pinion.Job))
	files, err := logsOfJob(r.logs.dir, job.ID)
	if err != nil || len(files) != 2 {
		t.Fatalf("%d logs, %v; want one for each attempt", len(files), err)
	}
	for i, f := range files {
		text := read(t, f.name)
		lines := map[string]bool{fmt.Sprintf("try %d", i+1): true, "warning": true}
		for line := range strings.Lines(text) {
			delete(lines, strings.TrimSpace(line))
		}
		if f.attempt != i+1 || len(lines) > 0 {
			t.Errorf("the log of attempt %d lacks %v:\n%s", f.attempt, lines, text)
		}
	}
}

func TestALogIsBoundedAndKeepsTheEnd(t *testing.T) {
	logs := testLogs(t)
	job := &pinion.Job{ID: "x", Attempts: 1}
	a := logs.begin(job)
	var whole bytes.Buffer
	for i := range 300_000 {
		line := fmt.Appendf(nil, "line %d\n", i)
		whole.Write(line)
		a.Write(line)
	}
	a.end()
	got := read(t, filepath.Join(logs.dir, "x", "1.log"))
	left := whole.Len() - logLimit - logTail
	want := string(whole.Bytes()[:logLimit]) + fmt.Sprintf("\n[pinion: %d bytes are left out here]\n", left) +
		string(whole.Bytes()[whole.Len()-logTail:])
	if got != want {
		t.Errorf("the log has %d bytes, want %d", len(got), len(want))
	}
	// After a refund or a replay the log goes on.
	a = logs.begin(job)
	io.WriteString(a, "again\n")
	a.end()
	wantText(t, strings.TrimPrefix(read(t, filepath.Join(logs.dir, "x", "1.log")), want),
		`^\n\[pinion: attempt 1 began again at \S+\]\nagain\n$`)
}

func TestAJobRunsWithoutItsLog(t *testing.T) {
	r := testRunner(t)
	r.logs = testLogs(t)
	var log strings.Builder
	r.logs.log = newLogger(&log, false, false)
	if err := os.RemoveAll(r.logs.dir); err != nil {
		t.Fatal(err)
	}
	write(t, r.logs.dir, "in the way")
	job := drain(t, testProgram(t, r, false, "echo hello"), new(pinion.Worker), new(pinion.Job))
	if string(job.Result) != `"hello"` {
		t.Errorf("%s: %s, result %s", job.Status, job.Error, job.Result)
	}
	wantText(t, log.String(), `level=WARN msg="cannot keep the log of a job" job=`+job.ID)
}

func TestAnIDIsOnlyAName(t *testing.T) {
	for _, id := range []string{"..", ".", "../../etc", `a\b`, "a b%", "é", "a:b", "a.1.log", "CON"} {
		logs := testLogs(t)
		a := logs.begin(&pinion.Job{ID: id, Attempts: 1})
		io.WriteString(a, id)
		a.end()
		files, err := logsOfJob(logs.dir, id)
		if err != nil || len(files) != 1 {
			t.Fatalf("%q: %d logs, %v", id, len(files), err)
		}
		if inside, err := filepath.Rel(logs.dir, files[0].name); err != nil ||
			strings.Count(inside, string(filepath.Separator)) != 1 {
			t.Errorf("%q: the log is %s", id, files[0].name)
		}
	}
}

// Windows has devices in every directory.
func TestTheLogsOfNoJobAreADevice(t *testing.T) {
	for id, want := range map[string]string{
		"CON": "%43ON", "nul": "%6Eul", "com1": "%63om1", "console": "console", "COM": "COM",
	} {
		got := logFolder(id)
		if got != want {
			t.Errorf("the folder of the job %s is %s, want %s", id, got, want)
		}
		if read, err := url.QueryUnescape(got); err != nil || read != id {
			t.Errorf("the folder %s is read as that of the job %s, %v", got, read, err)
		}
	}
}

func TestLogsGoWithTheirJobs(t *testing.T) {
	logs := testLogs(t)
	storage := pinion.NewMemoryStorage()
	defer storage.Close()
	kept, dead := &pinion.Job{ID: "kept", Task: "x"}, &pinion.Job{ID: "dead", Task: "x"}
	mustEnqueue(t, storage, kept, dead)
	claimed := claim(t, storage, 2)
	if err := storage.DeadLetter(t.Context(), claimed[1], io.ErrUnexpectedEOF); err != nil {
		t.Fatal(err)
	}
	for _, id := range []string{"kept", "dead", "gone", "../gone"} {
		logs.begin(&pinion.Job{ID: id, Attempts: 1}).end()
		logs.begin(&pinion.Job{ID: id, Attempts: 2}).end()
	}
	// What is not a log stays.
	write(t, filepath.Join(logs.dir, "mine", "notes"), "")
	write(t, filepath.Join(logs.dir, "mine", "1.log"), "")
	write(t, filepath.Join(logs.dir, "README"), "")
	if err := sweepLogs(t.Context(), storage, logs.dir); err != nil {
		t.Fatal(err)
	}
	want := []string{
		"README", "dead", "dead/1.log", "dead/2.log", "kept", "kept/1.log", "kept/2.log", "mine", "mine/notes",
	}
	var got []string
	for _, name := range tree(t, logs.dir)[1:] {
		inside, err := filepath.Rel(logs.dir, name)
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, filepath.ToSlash(inside))
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if err := sweepLogs(t.Context(), storage, filepath.Join(logs.dir, "nothing")); err != nil {
		t.Errorf("there is no such directory: %v", err)
	}
}

// Several queues may share a directory: a sweep of one must not take the logs of another for those of jobs
// that are gone.
func TestEachQueueHasItsOwnLogs(t *testing.T) {
	t.Chdir(t.TempDir())
	seen := make(map[string]bool)
	for _, db := range []string{"a.db", "b.db", "x/a.db", "sqlite:b.db"} {
		c := &call{db: db, logsDir: "logs"}
		dir, err := c.logsOf()
		if err != nil || filepath.Dir(dir) != "logs" {
			t.Fatalf("%s: %s, %v", db, dir, err)
		}
		seen[dir] = true
	}
	if len(seen) != 3 {
		t.Errorf("four names of three queues have their logs in %v", seen)
	}
	for db, want := range map[string]string{"x/a.db": "x/a.db.logs", "sqlite:b.db": "b.db.logs"} {
		if dir, err := (&call{db: db}).logsOf(); dir != want || err != nil {
			t.Errorf("%s: %s, %v; want %s", db, dir, err, want)
		}
	}
	if _, err := (&call{db: "postgres://host/db"}).logsOf(); err == nil {
		t.Error("a database that is no file has a place for logs")
	}
}

func TestLogsAreFollowedThroughTheRetriesOfAJob(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	storage := openStorage(t, filepath.Join(dir, "q.db"))
	job := pinion.NewJob("slow")
	mustEnqueue(t, storage, job)
	follow := process(t, dir, "logs", job.ID, "--follow", "--db", "q.db")
	_, stdout, _ := pipesOf(t, follow)
	if err := follow.Start(); err != nil {
		t.Fatal(err)
	}
	// Each attempt waits until its first line has been seen.
	worker := process(t, dir, "worker", "--logs", "--db", "q.db", "--max-retries", "1", "--base-delay", "0.01",
		"--shell", "--exec", `slow=echo "begin $PINION_ATTEMPT"
		while ! [ -e "go$PINION_ATTEMPT" ]; do sleep 0.01; done
		echo end; exit 1`)
	worker.Args = append(worker.Args, "--no-chdir")
	output := new(watched)
	worker.Stdout, worker.Stderr = output, output
	if err := worker.Start(); err != nil {
		t.Fatal(err)
	}
	for attempt := 1; attempt <= 2; attempt++ {
		waitForLine(t, stdout, fmt.Sprintf("^begin %d$", attempt))
		write(t, filepath.Join(dir, fmt.Sprintf("go%d", attempt)), "")
		waitForLine(t, stdout, "^end$")
	}
	if stdout.Scan() {
		t.Errorf("after the last attempt it prints %q", stdout.Text())
	}
	if err := follow.Wait(); err != nil {
		t.Errorf("%v\n%s", err, output)
	}
	if err := worker.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	worker.Wait()
}

package cli

import (
	"bufio"
	"bytes"
	"context"
	"database/sql"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/pinion-queue/pinion"
)

// The tasks that workers in these tests know.
var (
	_ = pinion.Register("add", func(ctx context.Context, args struct{ A, B int64 }) error {
		return pinion.SetResult(ctx, args.A+args.B)
	})
	_ = pinion.Register("fail", func(_ context.Context, text string) error { return errors.New(text) })
	_ = pinion.Register("say", func(ctx context.Context, text string) error { return pinion.SetResult(ctx, text) })
	// hold prints that it runs and then waits for the end of standard input.
	_ = pinion.Register("hold", func(context.Context, struct{}) error {
		fmt.Println("holding")
		_, err := io.Copy(io.Discard, os.Stdin)
		return err
	})
)

// These variables make the test binary the command pinion, for tests that need a process.
const (
	asCommand       = "PINION_TEST_AS_COMMAND"
	asVersion       = "PINION_TEST_AS_VERSION"        // its version
	asUpdateTimeout = "PINION_TEST_AS_UPDATE_TIMEOUT" // how long it waits for the go command
)

// leftOut are the tests that cannot pass on this system.
var leftOut []string

func TestMain(m *testing.M) {
	// With the race detector each process here would take a second to exit.
	os.Setenv("GORACE", "atexit_sleep_ms=0 "+os.Getenv("GORACE"))
	// On a busy machine anything may take long.
	noticeAfter, updateTimeout, completionTimeout = time.Hour, time.Hour, time.Hour
	if os.Getenv(asCommand) != "" {
		packaged = os.Getenv(asVersion)
		if timeout, err := time.ParseDuration(os.Getenv(asUpdateTimeout)); err == nil {
			updateTimeout = timeout
		}
		Main()
	}
	os.Unsetenv("PINION_DB") // a program of a job has one from its worker
	if len(leftOut) > 0 {
		flag.Set("test.skip", "^("+strings.Join(leftOut, "|")+")$")
	}
	// The program that started the tests may ignore signals (nohup does, and a shell for its background), and
	// programs inherit that. Programs do not inherit a handler: those that these tests start get the default
	// again.
	for _, s := range []os.Signal{syscall.SIGHUP, syscall.SIGINT, syscall.SIGQUIT, syscall.SIGTERM} {
		if signal.Ignored(s) {
			signal.Notify(make(chan os.Signal, 1), s)
		}
	}
	var err error
	moduleRoot, err = filepath.Abs("..")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	// Storages name their files without links, and so must tests that compare names.
	temporary, err := filepath.EvalSymlinks(os.TempDir())
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Setenv("TMPDIR", temporary)
	os.Setenv("TMP", temporary) // its name on Windows
	// Most parallel tests wait for other programs. -parallel overrides this, and fuzzing has its own use for
	// the flag.
	flag.Parse()
	given := make(map[string]bool)
	flag.Visit(func(f *flag.Flag) { given[f.Name] = true })
	if !given["test.parallel"] && !given["test.fuzz"] {
		flag.Set("test.parallel", "8")
	}
	status := m.Run()
	os.RemoveAll(shared.dir)
	os.Exit(status)
}

var moduleRoot string // the directory of this module

// runCommand runs a command in this process.
func runCommand(t *testing.T, args ...string) (status int, stdout, stderr string) {
	t.Helper()
	var out, errs bytes.Buffer
	status = Run(t.Context(), args, strings.NewReader(""), &out, &errs)
	return status, out.String(), errs.String()
}

// process returns a command that runs in a process of its own, which is this test binary.
func process(t *testing.T, dir string, args ...string) *exec.Cmd {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), self, args...)
	cmd.Dir = dir
	cmd.Env = append(goEnv(t), asCommand+"=1")
	return cmd
}

// goEnv returns the environment of programs that run the go command. With -trimpath a build does not depend
// on where its sources are, so that the cache serves vendored ones too; -w leaves out what debuggers need, to
// link faster.
func goEnv(t *testing.T) []string {
	return append(os.Environ(), "GOFLAGS=-trimpath -ldflags=-w", "GOWORK=", "GO111MODULE=", "TMPDIR="+t.TempDir())
}

// temporaryFiles returns what there is in the temporary directory of a process.
func temporaryFiles(t *testing.T, cmd *exec.Cmd) []string {
	t.Helper()
	for _, variable := range slices.Backward(cmd.Env) {
		if dir, ok := strings.CutPrefix(variable, "TMPDIR="); ok {
			return tree(t, dir)[1:]
		}
	}
	t.Fatal("the process has no TMPDIR of its own")
	return nil
}

// finish runs a program to its end and compares the exit status.
func finish(t *testing.T, cmd *exec.Cmd, status int) (stdout, stderr string) {
	t.Helper()
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	if cmd.ProcessState == nil {
		t.Fatal(err)
	}
	if got := cmd.ProcessState.ExitCode(); got != status {
		t.Fatalf("%v: exit status %d, want %d\n%s%s", cmd.Args[1:], got, status, out.String(), errs.String())
	}
	return out.String(), errs.String()
}

// wantSignal fails unless a process that has ended died of a signal.
func wantSignal(t *testing.T, cmd *exec.Cmd, want syscall.Signal) {
	t.Helper()
	status, _ := cmd.ProcessState.Sys().(syscall.WaitStatus)
	if !status.Signaled() || status.Signal() != want {
		t.Errorf("%v: it ended with %v, want death by %v", cmd.Args[1:], cmd.ProcessState, want)
	}
}

func wantText(t *testing.T, got, pattern string) {
	t.Helper()
	if !regexp.MustCompile(pattern).MatchString(got) {
		t.Errorf("got\n%s\nwant a match of\n%s", got, pattern)
	}
}

// patience returns a context that ends shortly before the test binary would be killed, so that a test which
// waits in vain can report what it has seen. Nothing depends on how fast the machine is.
func patience(t *testing.T) context.Context {
	deadline, ok := t.Deadline()
	if !ok {
		return t.Context()
	}
	ctx, cancel := context.WithDeadline(t.Context(), deadline.Add(-5*time.Second))
	t.Cleanup(cancel)
	return ctx
}

// await polls until something has happened that sends no event. It leaves most of the processor to what it waits for:
// done may read the queue, or all of /proc.
func await(t *testing.T, output fmt.Stringer, done func() bool) {
	t.Helper()
	ctx := patience(t)
	poll := time.NewTicker(30 * time.Millisecond)
	defer poll.Stop()
	for !done() {
		select {
		case <-poll.C:
		case <-ctx.Done():
			t.Fatalf("waited in vain; the output is\n%s", output)
		}
	}
}

// exists reports whether there is a file.
func exists(name string) bool {
	_, err := os.Stat(name)
	return err == nil
}

// watched is an output that may be read while it is written.
type watched struct {
	mu    sync.Mutex // guards text
	text  bytes.Buffer
	first *regexp.Regexp
}

func (w *watched) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.text.Write(p)
}

func (w *watched) String() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.text.String()
}

// begun reports whether the output matches first.
func (w *watched) begun() bool { return w.first.MatchString(w.String()) }

// pipesOf returns the ends of pipes to and from a program.
func pipesOf(t *testing.T, cmd *exec.Cmd) (stdin io.Closer, stdout, stderr *bufio.Scanner) {
	t.Helper()
	in, inErr := cmd.StdinPipe()
	out, outErr := cmd.StdoutPipe()
	errs, errErr := cmd.StderrPipe()
	if err := errors.Join(inErr, outErr, errErr); err != nil {
		t.Fatal(err)
	}
	return in, bufio.NewScanner(out), bufio.NewScanner(errs)
}

// waitForLine reads lines until one matches.
func waitForLine(t *testing.T, lines *bufio.Scanner, pattern string) {
	t.Helper()
	re := regexp.MustCompile(pattern)
	var seen strings.Builder
	for lines.Scan() {
		if re.MatchString(lines.Text()) {
			return
		}
		seen.WriteString(lines.Text() + "\n")
	}
	t.Fatalf("no line matches %q in\n%s", pattern, seen.String())
}

func read(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func write(t *testing.T, name, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(name), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func writeProgram(t *testing.T, name, text string) {
	t.Helper()
	write(t, name, text)
	if err := os.Chmod(name, 0o700); err != nil {
		t.Fatal(err)
	}
}

// tree returns the names of dir and of everything below it.
func tree(t *testing.T, dir string) []string {
	t.Helper()
	found := make(map[string]bool)
	err := filepath.WalkDir(dir, func(name string, d fs.DirEntry, err error) error {
		found[name] = true
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return slices.Sorted(maps.Keys(found))
}

func openStorage(t *testing.T, db string) *pinion.SQLiteStorage {
	t.Helper()
	storage, err := pinion.OpenSQLite(t.Context(), db, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { storage.Close() })
	return storage
}

func openDB(t *testing.T, dsn string) *sql.DB {
	t.Helper()
	db, err := sql.Open("sqlite", dsn)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	return db
}

func mustEnqueue(t testing.TB, storage pinion.Storage, jobs ...*pinion.Job) {
	t.Helper()
	if err := storage.Enqueue(t.Context(), jobs...); err != nil {
		t.Fatal(err)
	}
}

// startOne claims a job and records that its task has started.
func startOne(t testing.TB, storage pinion.Storage) {
	t.Helper()
	job := claim(t, storage, 1)[0]
	job.StartedAt = job.HeartbeatAt
	if _, err := storage.Heartbeat(t.Context(), job); err != nil {
		t.Fatal(err)
	}
}

// brokenPipe returns the end of a pipe that nobody reads.
func brokenPipe(t testing.TB) *os.File {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	r.Close()
	return w
}

// claim claims n jobs. Dequeue may return fewer at a time.
func claim(t testing.TB, storage pinion.Storage, n int) (jobs []*pinion.Job) {
	t.Helper()
	for len(jobs) < n {
		some, err := storage.Dequeue(t.Context(), pinion.DequeueOptions{Max: n - len(jobs), Worker: "host:1"})
		if err != nil {
			t.Fatal(err)
		}
		jobs = append(jobs, some...)
	}
	return jobs
}

// userModule makes a module as a user of Pinion has it, with packages of tasks in various places, and returns
// its directory.
func userModule(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	writeUserModule(t, dir)
	return dir
}

// writeUserModule writes the module into dir. It requires what this module requires, so that its go.sum is
// complete.
func writeUserModule(t *testing.T, dir string) {
	t.Helper()
	gomod := read(t, filepath.Join(moduleRoot, "go.mod"))
	gomod = strings.Replace(gomod, "module "+modulePath, "module example.com/user", 1)
	gomod += fmt.Sprintf("\nrequire %s v0.0.0\n\nreplace %[1]s => %q\n", modulePath, moduleRoot)
	write(t, filepath.Join(dir, "go.mod"), gomod)
	write(t, filepath.Join(dir, "go.sum"), read(t, filepath.Join(moduleRoot, "go.sum")))
	for place, task := range map[string]string{
		"tasks":                             "public",
		"internal/tasks":                    "internal",
		"shop/internal/tasks":               "nested",
		"shop/internal/bill/internal/tasks": "deeper",
	} {
		write(t, filepath.Join(dir, place, "tasks.go"), taskSource(task))
	}
	write(t, filepath.Join(dir, "sums/sums.go"), sumsSource)
	write(t, filepath.Join(dir, "broken/broken.go"), "package broken\n\nvar Number int = \"text\"\n")
	write(t, filepath.Join(dir, "program/main.go"), "package main\n\nfunc main() {}\n")
}

// taskSource returns a package with a task that prints that it runs and then waits for the end of standard
// input.
func taskSource(task string) string {
	return strings.ReplaceAll(`package tasks

import (
	"context"
	"fmt"
	"io"
	"os"

	"github.com/pinion-queue/pinion"
)

var _ = pinion.RegisterTask(pinion.Task[struct{}]{Name: "NAME", Queue: "for NAME", Run: run})

func run(context.Context, struct{}) error {
	fmt.Println("NAME runs")
	_, err := io.Copy(io.Discard, os.Stdin)
	return err
}
`, "NAME", task)
}

// shell returns the path of a program that not every machine has. .ci/run installs it.
func shell(t testing.TB, name string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		skipFor(t, err)
	}
	return path
}

// shellWord quotes a text for a shell.
func shellWord(text string) string { return "'" + strings.ReplaceAll(text, "'", `'\''`) + "'" }

// skipFor skips a test for what this machine lacks. Where nothing may be lacking, as in .ci/run, the test fails.
func skipFor(t testing.TB, lack error) {
	t.Helper()
	if os.Getenv("PINION_TEST_ALL") != "" {
		t.Fatal(lack)
	}
	t.Skip(lack)
}

// The jobs that the examples of the help name.
const (
	exampleID    = "0199c2b4a1f07000b3c1d2e3f4a5b6c7" // a dead letter
	exampleDone  = "0199c2b4a1f07000b3c1d2e3f4a5b6c8"
	exampleWaits = "0199c2b4a1f07000b3c1d2e3f4a5b6c9"
)

// exampleFolder returns a folder in which the examples of the help work: a Go module with packages of tasks,
// a queue in q.db, files to read, and bin/pinion.
func exampleFolder(t *testing.T) string {
	dir := userModule(t)
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	writeProgram(t, filepath.Join(dir, "bin/pinion"), "#!/bin/sh\nexec "+shellWord(self)+" \"$@\"\n")
	write(t, filepath.Join(dir, "rows.json"), "[1, 2]")
	write(t, filepath.Join(dir, "rows.jsonl"), "[1, 2]\n{\"a\": 3}\n")
	write(t, filepath.Join(dir, "images/a.png"), "")
	write(t, filepath.Join(dir, "secret"), "correct horse\n")
	write(t, filepath.Join(dir, "q.db"), exampleQueue(t))
	for _, id := range []string{exampleID, exampleDone} {
		write(t, filepath.Join(dir, "q.db.logs", id, "1.log"), "hello\n")
	}
	return dir
}

// exampleFile is the file of exampleQueue.
var exampleFile struct {
	once    sync.Once
	content string
}

// exampleQueue returns the content of a file with the jobs that the examples name. Nobody has the file open. It is
// made once: many tests need it, and to copy it is quicker.
func exampleQueue(t *testing.T) string {
	t.Helper()
	exampleFile.once.Do(func() {
		path := filepath.Join(t.TempDir(), "q.db")
		makeExampleQueue(t, path)
		exampleFile.content = read(t, path)
	})
	if exampleFile.content == "" {
		t.Fatal("the queue was not made; see the first test that needs it")
	}
	return exampleFile.content
}

func makeExampleQueue(t *testing.T, path string) {
	t.Helper()
	storage, err := pinion.OpenSQLite(t.Context(), path, nil)
	if err != nil {
		t.Fatal(err)
	}
	dead := &pinion.Job{ID: exampleID, Task: "mail"}
	done := &pinion.Job{ID: exampleDone, Task: "mail"}
	waits := &pinion.Job{ID: exampleWaits, Task: "public", RunAt: time.Now().Add(time.Hour)}
	mustEnqueue(t, storage, dead, done, waits)
	claimed := claim(t, storage, 2)
	if err := storage.DeadLetter(t.Context(), claimed[0], io.ErrUnexpectedEOF); err != nil {
		t.Fatal(err)
	}
	if _, err := storage.MarkDone(t.Context(), claimed[1]); err != nil {
		t.Fatal(err)
	}
	if err := storage.Close(); err != nil {
		t.Fatal(err)
	}
}

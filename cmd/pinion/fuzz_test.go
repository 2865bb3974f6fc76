package main

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"maps"
	"math/rand"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/pinion-queue/pinion"
)

// Fuzzing starts no programs and touches no file but those in its own folder.
var dangerous = regexp.MustCompile(`^--?(import|build|exec)\b|@[^@]*(/|\.\.)|^__upgrade$`)

// harmless reports whether these arguments may be run, and how: with a --db of the fuzzer's own at the end.
func harmless(args []string, db string) ([]string, bool) {
	if slices.ContainsFunc(args, dangerous.MatchString) || slices.ContainsFunc(args, func(a string) bool { return strings.Contains(a, "\x00") }) {
		return nil, false
	}
	if len(args) == 0 || strings.Contains(db, "\x00") {
		return args, true
	}
	if !filepath.IsLocal(strings.TrimPrefix(strings.ToLower(db), "sqlite:")) {
		db = "q.db"
	}
	return append(slices.Clone(args), "--db", db), true
}

// printsSafely fails for anything that a terminal might obey.
func printsSafely(t *testing.T, what, text string) {
	t.Helper()
	if !utf8.ValidString(text) {
		t.Errorf("%s is not valid UTF-8: %q", what, text)
	}
	for _, r := range text {
		if r != '\n' && r != '\t' && !strconv.IsPrint(r) {
			t.Errorf("%s has a raw %U: %q", what, r, text)
		}
	}
}

// queueOf makes a file with a job in every state, in which text stands wherever text may stand.
func queueOf(t *testing.T, template []byte, text string) {
	if err := os.WriteFile("q.db", template, 0o600); err != nil {
		t.Fatal(err)
	}
	db, err := sql.Open("sqlite", "q.db?_pragma=synchronous(0)")
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	for _, update := range []string{"UPDATE jobs SET func_name=?1, error=?1, queue=?1, key=?1||rowid WHERE rowid%2=0", "UPDATE jobs SET result=?1, args=?1 WHERE rowid%5=0",
		"UPDATE dlq SET func_name=?1, error=?1, kwargs=?1", "UPDATE jobs SET status=?1, id=?1 WHERE rowid=1"} {
		db.Exec(update, text) // or a constraint refuses it, which is as well
	}
}

// templateQueue is the file with a job in every state.
func templateQueue(f *testing.F) []byte {
	path := filepath.Join(f.TempDir(), "q.db")
	s, err := pinion.OpenSQLite(f.Context(), path, nil)
	if err != nil {
		f.Fatal(err)
	}
	ctx := f.Context()
	for i, end := range []func(*pinion.Job) error{
		func(j *pinion.Job) error { return s.DeadLetter(ctx, j, errors.New("boom")) },
		func(j *pinion.Job) error { _, err := s.MarkDone(ctx, j); return err },
		func(j *pinion.Job) error { return s.MarkFailed(ctx, j, errors.New("boom"), time.Now().Add(time.Hour)) },
		func(*pinion.Job) error { return nil },
	} {
		err := s.Enqueue(ctx, pinion.NewJob("task", i))
		jobs, err2 := s.Dequeue(ctx, pinion.DequeueOptions{Max: 1})
		if err := errors.Join(err, err2); err != nil {
			f.Fatal(err)
		}
		if err := end(jobs[0]); err != nil {
			f.Fatal(err)
		}
	}
	err = s.Enqueue(ctx, pinion.NewJob("add", 1, 2), pinion.NewJob("fail", "text"), &pinion.Job{Task: "add", Key: "k", Priority: 9})
	if err := errors.Join(err, s.Close()); err != nil {
		f.Fatal(err)
	}
	template, err := os.ReadFile(path)
	if err != nil {
		f.Fatal(err)
	}
	return template
}

func filesIn(t *testing.T, dir string) map[string]string {
	t.Helper()
	files := make(map[string]string)
	err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		text, err := os.ReadFile(path)
		files[path] = string(text)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

var readers = []string{"", "status", "running", "pending", "show", "wait", "dlq-list", "help", "version", "demo", "completion", "__complete", "tasks", "doctor"}

// fuzzCall runs a command over a fuzzed queue and checks what is promised of every call.
func fuzzCall(t *testing.T, template []byte, args []string, stdin, stored string) {
	t.Chdir(t.TempDir())
	queueOf(t, template, stored)
	before := filesIn(t, ".")
	// Some commands go on until they are stopped.
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	var stdout, stderr bytes.Buffer
	status := run(ctx, args, strings.NewReader(stdin), &stdout, &stderr)
	if status < 0 || status > 2 {
		t.Errorf("exit status %d", status)
	}
	printsSafely(t, "stdout", stdout.String())
	printsSafely(t, "stderr", stderr.String())
	if status != 0 && stderr.Len() == 0 {
		t.Errorf("exit status %d, and nothing is said", status)
	}
	name := strings.Join(args[:min(len(args), 1)], "")
	if status != 2 && !slices.Contains(readers, strings.TrimLeft(name, "-")) {
		return
	}
	if after := filesIn(t, "."); !maps.Equal(before, after) {
		t.Errorf("exit status %d; the files were %v and are %v, or their contents have changed", status,
			slices.Sorted(maps.Keys(before)), slices.Sorted(maps.Keys(after)))
	}
}

// A table must stay one that people can read, whatever is in the queue.
func TestListingsOfHugeTextHaveLinesOfABoundedLength(t *testing.T) {
	t.Chdir(t.TempDir())
	s, err := pinion.OpenSQLite(t.Context(), "q.db", nil)
	if err != nil {
		t.Fatal(err)
	}
	huge := strings.Repeat("\x1b\u202e", 250_000)
	for _, end := range []func(*pinion.Job) error{
		func(j *pinion.Job) error { return s.DeadLetter(t.Context(), j, errors.New(huge)) },
		func(*pinion.Job) error { return nil },
		func(j *pinion.Job) error { _, _, err := s.Release(t.Context(), time.Time{}, nil, j); return err },
	} {
		err := s.Enqueue(t.Context(), &pinion.Job{ID: huge + strconv.Itoa(rand.Int()), Task: huge, Queue: huge, Key: huge + strconv.Itoa(rand.Int()), Args: []any{huge[:100_000]}})
		if err != nil {
			t.Fatal(err)
		}
		jobs, err := s.Dequeue(t.Context(), pinion.DequeueOptions{Max: 1})
		if err != nil {
			t.Fatal(err)
		}
		if err := end(jobs[0]); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	for _, command := range []string{"status", "pending", "running", "dlq-list"} {
		var stdout, stderr bytes.Buffer
		if status := run(t.Context(), []string{command, "--db", "q.db"}, nil, &stdout, &stderr); status != 0 {
			t.Errorf("%s: exit status %d\n%.500s", command, status, &stderr)
		}
		printsSafely(t, command, stdout.String())
		for line := range strings.Lines(stdout.String()) {
			if len(line) > 3000 {
				t.Errorf("%s prints a line of %d bytes", command, len(line))
			}
		}
	}
}

// FuzzCommand: whatever the arguments, there is no panic, the exit status is 0, 1 or 2, a command that only reads
// writes nothing, nor does one that was called wrongly, and a terminal is given nothing to obey. The arguments are
// parted by line feeds.
func FuzzCommand(f *testing.F) {
	template := templateQueue(f)
	for _, seed := range [][2]string{
		{"", "q.db"}, {"status", "q.db"}, {"status\n--json", ""}, {"running\n--queue\n\x1b[2J", "q.db"}, {"pending\n--limit=-1", "no.db"}, {"show\n\x1b", "q.db"},
		{"show\nodd\n--json", "q.db"}, {"enqueue\nadd\n--args\n[1,2]\n--kwargs={}\n--priority=9", "new.db"}, {"enqueue\nadd\n--args\n-\n--delay\n1h30m", "q.db"},
		{"enqueue\nadd\n--key\nk", "q.db"}, {"enqueue\n\xff", "q.db"}, {"enqueue\n-", "q.db"}, {"dlq-list\n--task\n\u202e", "q.db"}, {"dlq-replay\nid", "q.db"},
		{"dlq-replay", "q.db"}, {"dlq-purge\n--yes", "q.db"}, {"dlq-purge", "q.db"}, {"prune\n--older-than\n0", "q.db"}, {"prune\n--older-than\n1e99", "q.db"},
		{"help\nenqueue", ""}, {"--help", ""}, {"-h", ""}, {"version", ""}, {"--version\n--", ""}, {"statsu", ""}, {"--db", "sqlite:"}, {"status\n--", "memory:"},
		{"worker\n--drain\n--max-retries\n1\n--base-delay\n0.001", "q.db"}, {"worker\n--run-seconds\n0.01\n--json\n--verbose", "q.db"}, {"pending\n\u009b", "plain:x"},
		{"enqueue\nadd\n--args\n@q.db", "q.db"}, {"enqueue\nadd\n--kwargs\n{\"a\":\"\u009b\"", "q.db"}, {"status\n-\x7f", "a\x1bb"},
		{"wait\nodd", "q.db"}, {"wait\nodd\n\x1b\n--json\n--timeout\n0.01", "q.db"}, {"enqueue\nadd\n--wait\n--timeout\n0.001", "q.db"},
		{"enqueue\nadd\n-", "q.db"}, {"enqueue\nadd\n-\n--lines\n--ids", "q.db"}, {"enqueue\nadd\n-0\n-\n--key\n{0}\n--json", "q.db"}, {"enqueue\nadd\n-\n--atomic\n--wait", "q.db"},
		{"enqueue\nadd\n--at\n15:04", "q.db"}, {"completion\nbash", ""}, {"__complete\nshow\n", "q.db"}, {"__complete\nenqueue\n\x1b", "q.db"}, {"__complete\n", ""},
		{"cancel\nodd\nid", "q.db"}, {"cancel\n\x1b\n--json", "q.db"}, {"cancel", "no.db"}, {"doctor", "q.db"}, {"doctor\n--json\n--visibility-timeout\n0.001", "q.db"},
		{"doctor", "no.db"}, {"tasks", ""}, {"tasks\n--json\n--shell", ""}, {"status\n--watch\n--interval\n0.01", "q.db"}, {"status\n--watch\n--json", "q.db"},
		{"worker\n--name\n\x1b\n--queue\n\u202e\n--concurrency=2\n--drain", "q.db"}, {"worker\n--no-jitter\n--cap\n1\n--task-timeout\n1ms\n--drain\n--json", "q.db"},
		{"worker\n--kill-after\n1s\n--shutdown-timeout\n0.01\n--visibility-timeout=1s\n--run-seconds=0.02", "q.db"}, {"show\nodd", "sqlite:q.db"},
	} {
		for _, stored := range []string{"plain", "\x1b[2J\u009b\u202e\x00\n\t\x7f\xff", "a\x7fb", `["a"]`, "PENDING"} {
			f.Add(seed[0], seed[1], `[1]`, stored)
		}
	}
	f.Fuzz(func(t *testing.T, line, db, stdin, stored string) {
		var args []string
		if line != "" {
			args = strings.Split(line, "\n")
		}
		args, ok := harmless(args, db)
		if !ok {
			t.Skip("dangerous")
		}
		fuzzCall(t, template, args, stdin, stored)
	})
}

// FuzzStdin: whatever comes by standard input.
func FuzzStdin(f *testing.F) {
	template := templateQueue(f)
	for _, seed := range []string{"", "[]", "[1,2]", "{}", "null", "[1", "\xff", `["` + strings.Repeat("a", 1<<20) + `"]`, "[\"\x1b[2J\"]", "[\u009b]", " [1]\n[2]\n",
		strings.Repeat("[", 10_001), "{\"task\":\"add\",\"args\":[1,2]}\n{\"task\":\"\x1b\"}\n", `{"task":"a","run_at":"2026-01-02T03:04:05Z","priority":1e3,"key":"k"}`} {
		for call := range byte(7) {
			f.Add(call, seed)
		}
	}
	calls := [][]string{{"enqueue", "add", "--args", "-", "--db", "q.db"}, {"enqueue", "add", "--kwargs", "-", "--db", "q.db"}, {"enqueue", "-", "--db", "q.db"},
		{"enqueue", "add", "-", "--json", "--db", "q.db"}, {"enqueue", "add", "-", "--lines", "--db", "q.db"}, {"enqueue", "add", "-", "-0", "--key", "{0}", "--db", "q.db"},
		{"enqueue", "add", "-", "--atomic", "--args", "[1]", "--kwargs", `{"a":2}`, "--db", "q.db"}}
	f.Fuzz(func(t *testing.T, call byte, stdin string) {
		fuzzCall(t, template, calls[int(call)%len(calls)], stdin, "stored")
	})
}

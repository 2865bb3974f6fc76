package cli

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"io"
	"maps"
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

func TestAResultThatCannotBeWrittenIsAFailure(t *testing.T) {
	closed, w := io.Pipe()
	closed.Close()
	var stderr bytes.Buffer
	if status := Run(t.Context(), []string{"version"}, nil, w, &stderr); status != 1 {
		t.Errorf("exit status %d\n%s", status, &stderr)
	}
	wantText(t, stderr.String(), "cannot write the result: .*; check where standard output goes")
}

// FuzzCommand runs commands with any arguments, separated by line feeds. There is never a panic, the exit
// status is 0 to 4, a command that only reads writes nothing, nor does one that is called wrongly, and a
// terminal finds nothing to obey in the output.
func FuzzCommand(f *testing.F) {
	template := templateQueue(f)
	for _, seed := range commandSeeds {
		if _, ok := harmless(strings.Split(seed.line, "\n"), seed.db); !ok {
			f.Errorf("the seed %q is never run", seed.line)
		}
		for _, stored := range []string{
			"plain", "\x1b[2J\u009b\u202e\x00\n\t\x7f\xff", "a\x7fb", `["a"]`, "PENDING",
		} {
			f.Add(seed.line, seed.db, `[1]`, stored)
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

var commandSeeds = []struct{ line, db string }{
	{"", "q.db"}, {"help\nenqueue", ""}, {"--help", ""}, {"-h", ""}, {"version", ""}, {"--version\n--", ""},
	{"statsu", ""}, {"--db", "sqlite:"},
	{"status", "q.db"}, {"status\n--json", ""}, {"status\n--", "memory:"}, {"status\n-\x7f", "a\x1bb"},
	{"status\n--watch\n--interval\n0.01", "q.db"}, {"status\n--watch\n--json", "q.db"},
	{"running\n--queue\n\x1b[2J", "q.db"}, {"pending\n--limit=-1", "no.db"}, {"pending\n\u009b", "plain:x"},
	{"show\n\x1b", "q.db"}, {"show\nodd\n--json", "q.db"}, {"show\nodd", "sqlite:q.db"},
	{"enqueue\nadd\n--args\n[1,2]\n--kwargs={}\n--priority=9", "new.db"},
	{"enqueue\nadd\n--args\n-\n--delay\n1h30m", "q.db"}, {"enqueue\nadd\n--args\n@q.db", "q.db"},
	{"enqueue\nadd\n--kwargs\n{\"a\":\"\u009b\"", "q.db"}, {"enqueue\nadd\n--key\nk", "q.db"},
	{"enqueue\nadd\n--at\n15:04", "q.db"},
	{"enqueue\nadd\n--meta\n\x1b=\u202e\n--meta\nb=", "q.db"}, {"enqueue\nadd\n--meta\n=", "q.db"},
	{"enqueue\n\xff", "q.db"}, {"enqueue\n-", "q.db"}, {"enqueue\nadd\n--wait\n--timeout\n0.001", "q.db"},
	{"enqueue\nadd\n-", "q.db"}, {"enqueue\nadd\n-\n--lines\n--ids", "q.db"},
	{"enqueue\nadd\n-0\n-\n--key\n{0}\n--json", "q.db"}, {"enqueue\nadd\n-\n--atomic\n--wait", "q.db"},
	{"logs\nodd\n--attempt\n1", "q.db"}, {"logs\n\x1b\n--follow", "q.db"},
	{"wait\nodd", "q.db"}, {"wait\nodd\n\x1b\n--json\n--timeout\n0.01", "q.db"},
	{"cancel\nodd\nid", "q.db"}, {"cancel\n\x1b\n--json", "q.db"}, {"cancel", "no.db"},
	{"pause\n\x1b", "q.db"}, {"resume\n", "q.db"},
	{"limit\nmail\n3", "q.db"}, {"limit\nmail\n-1", "q.db"},
	{"reschedule\nodd\nid\n--delay\n0", "q.db"}, {"reschedule\n\x1b\n--at\n15:04\n--json", "q.db"},
	{"backup\ncopy\x1b.db", "q.db"}, {"backup\nq.db", "q.db"}, {"backup\n", "q.db"},
	{"dlq-list\n--task\n\u202e", "q.db"}, {"dlq-replay\nid", "q.db"}, {"dlq-replay", "q.db"},
	{"dlq-purge\n--yes", "q.db"}, {"dlq-purge", "q.db"},
	{"prune\n--older-than\n0", "q.db"}, {"prune\n--older-than\n1e99", "q.db"},
	{"doctor", "q.db"}, {"doctor\n--json\n--visibility-timeout\n0.001", "q.db"}, {"doctor", "no.db"},
	{"list", "q.db"}, {"list\n--json\n--status\nfailed\n--since\n2h", "q.db"},
	{"list\n--error\n\x1b\n--key=\u202e", "q.db"}, {"cancel\n--task\nadd\n--yes", "q.db"},
	{"cancel\n--all\n--yes\n--json", "q.db"}, {"cancel\n--all", "q.db"},
	{"reschedule\n--all\n--yes\n--at\ntomorrow 9:00", "q.db"}, {"prune\n--status\nsuccess\n--yes", "q.db"},
	{"show\nabcdef01", "q.db"}, {"help\ntimes", ""}, {"help\n--man", ""}, {"help\n--man\nworker", ""},
	{"enqueue\nadd\n--at\n@1e9", "q.db"}, {"enqueue\nadd\n--at\n5pm\n--delay=0", "q.db"},
	{"__complete-bash\npinion show \"\x1b\n:=", "q.db"}, {"__complete-bash\npinion list --queue 'a\n:=", "q.db"},
	{"tasks", ""}, {"tasks\n--json\n--shell", ""}, {"completion\nbash", ""}, {"__complete\nshow\n", "q.db"},
	{"__complete\nenqueue\n\x1b", "q.db"}, {"__complete\n", ""},
	{"worker\n--drain\n--max-retries\n1\n--base-delay\n0.001", "q.db"},
	{"worker\n--run-seconds\n0.01\n--json\n--verbose", "q.db"},
	{"worker\n--name\n\x1b\n--queue\n\u202e\n--concurrency=2\n--drain", "q.db"},
	{"worker\n--every\nadd=1h\n--drain\n--max-retries\n0", "q.db"}, {"worker\n--every\n\x1b=1h", "q.db"},
	{"worker\n--no-jitter\n--cap\n1\n--task-timeout\n1ms\n--drain\n--json", "q.db"},
	{"worker\n--kill-after\n1s\n--shutdown-timeout\n0.01\n--visibility-timeout=1s\n--run-seconds=0.02", "q.db"},
}

// FuzzStdin gives commands anything on standard input.
func FuzzStdin(f *testing.F) {
	template := templateQueue(f)
	calls := [][]string{
		{"enqueue", "add", "--args", "-", "--db", "q.db"},
		{"enqueue", "add", "--kwargs", "-", "--db", "q.db"},
		{"enqueue", "-", "--db", "q.db"},
		{"enqueue", "add", "-", "--json", "--db", "q.db"},
		{"enqueue", "add", "-", "--lines", "--db", "q.db"},
		{"enqueue", "add", "-", "-0", "--key", "{0}", "--db", "q.db"},
		{"enqueue", "add", "-", "--atomic", "--args", "[1]", "--kwargs", `{"a":2}`, "--db", "q.db"},
	}
	for _, seed := range []string{
		"", "[]", "[1,2]", "{}", "null", "[1", "\xff", "[\"\x1b[2J\"]", "[\u009b]",
		`["` + strings.Repeat("a", 1<<20) + `"]`, " [1]\n[2]\n", strings.Repeat("[", 10_001),
		"{\"task\":\"add\",\"args\":[1,2]}\n{\"task\":\"\x1b\"}\n",
		`{"task":"a","run_at":"2026-01-02T03:04:05Z","priority":1e3,"key":"k"}`,
	} {
		for call := range calls {
			f.Add(byte(call), seed)
		}
	}
	f.Fuzz(func(t *testing.T, call byte, stdin string) {
		fuzzCall(t, template, calls[int(call)%len(calls)], stdin, "stored")
	})
}

// readers are the commands that write nothing.
var readers = []string{
	"", "status", "list", "running", "pending", "show", "wait", "dlq-list", "help", "version", "demo", "completion",
	"__complete", "__complete-bash", "tasks", "doctor",
}

// fuzzCall runs a command on a fuzzed queue and checks what is promised of every call.
func fuzzCall(t *testing.T, template []byte, args []string, stdin, stored string) {
	t.Chdir(t.TempDir())
	makeQueue(t, template, stored)
	before := filesIn(t, ".")
	// Some commands run until they are stopped.
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	var stdout, stderr bytes.Buffer
	status := Run(ctx, args, strings.NewReader(stdin), &stdout, &stderr)
	if status < 0 || status > 4 {
		t.Errorf("exit status %d", status)
	}
	wantHarmlessText(t, "stdout", stdout.String())
	wantHarmlessText(t, "stderr", stderr.String())
	if status != 0 && stderr.Len() == 0 {
		t.Errorf("exit status %d without a message", status)
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

// dangerous matches arguments that start programs or touch files outside the fuzzer's folder.
var dangerous = regexp.MustCompile(`^--?(import|build|exec|logs-dir)\b|@[^@]*(/|\.\.)|^__(update|built-in)$`)

// harmless reports whether args may be run, and returns them with a --db in the fuzzer's folder at the end.
func harmless(args []string, db string) ([]string, bool) {
	for _, arg := range args {
		if dangerous.MatchString(arg) || strings.Contains(arg, "\x00") {
			return nil, false
		}
	}
	if len(args) == 0 || strings.Contains(db, "\x00") {
		return args, true
	}
	leaves := func(arg string) bool { return arg != "" && !filepath.IsLocal(arg) }
	if args[0] == "backup" && slices.ContainsFunc(args, leaves) {
		return nil, false
	}
	if !filepath.IsLocal(strings.TrimPrefix(strings.ToLower(db), "sqlite:")) {
		db = "q.db"
	}
	return append(slices.Clone(args), "--db", db), true
}

// wantHarmlessText fails for anything that a terminal might obey.
func wantHarmlessText(t *testing.T, what, text string) {
	t.Helper()
	if !utf8.ValidString(text) {
		t.Errorf("%s is not valid UTF-8: %q", what, text)
	}
	for _, r := range text {
		if r != '\n' && r != '\t' && !strconv.IsPrint(r) {
			t.Errorf("%s contains %U: %q", what, r, text)
		}
	}
}

// templateQueue returns a file with a job in every state.
func templateQueue(f *testing.F) []byte {
	ctx := f.Context()
	path := filepath.Join(f.TempDir(), "q.db")
	s, err := pinion.OpenSQLite(ctx, path, nil)
	if err != nil {
		f.Fatal(err)
	}
	for i, end := range []func(*pinion.Job) error{
		func(j *pinion.Job) error { return s.DeadLetter(ctx, j, errors.New("boom")) },
		func(j *pinion.Job) error { _, err := s.MarkDone(ctx, j); return err },
		func(j *pinion.Job) error {
			return s.MarkFailed(ctx, j, errors.New("boom"), time.Now().Add(time.Hour))
		},
		func(*pinion.Job) error { return nil },
	} {
		if err := s.Enqueue(ctx, pinion.NewJob("task", i)); err != nil {
			f.Fatal(err)
		}
		if err := end(claim(f, s, 1)[0]); err != nil {
			f.Fatal(err)
		}
	}
	waiting := []*pinion.Job{
		pinion.NewJob("add", 1, 2), pinion.NewJob("fail", "text"), {Task: "add", Key: "k", Priority: 9},
	}
	if err := errors.Join(s.Enqueue(ctx, waiting...), s.Close()); err != nil {
		f.Fatal(err)
	}
	template, err := os.ReadFile(path)
	if err != nil {
		f.Fatal(err)
	}
	return template
}

// makeQueue makes q.db of the template, with text in all places where there can be text.
func makeQueue(t *testing.T, template []byte, text string) {
	if err := os.WriteFile("q.db", template, 0o600); err != nil {
		t.Fatal(err)
	}
	db, err := sql.Open("sqlite", "q.db?_pragma=synchronous(0)")
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	for _, update := range []string{
		"UPDATE jobs SET func_name=?1, error=?1, queue=?1, key=?1||rowid WHERE rowid%2=0",
		"UPDATE jobs SET result=?1, args=?1 WHERE rowid%5=0",
		"UPDATE dlq SET func_name=?1, error=?1, kwargs=?1",
		"UPDATE jobs SET status=?1, id=?1 WHERE rowid=1",
	} {
		db.Exec(update, text) // a constraint may refuse it
	}
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

package pinion

import (
	"bytes"
	"cmp"
	"context"
	"database/sql"
	"database/sql/driver"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"log/slog"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	gocmp "github.com/google/go-cmp/cmp"
)

// ---- Means ----

// sqliteStorage opens a storage. When the test ends it is closed and its file checked.
func sqliteStorage(t *testing.T, path string, opts *SQLiteOptions) *SQLiteStorage {
	t.Helper()
	s, err := OpenSQLite(t.Context(), path, opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
		if said := otherProgram(t, s.path).all("PRAGMA integrity_check"); said != "ok" {
			t.Errorf("PRAGMA integrity_check says %s", said)
		}
	})
	return s
}

// newSQLite opens a storage on a new file. In a bubble, where time is not that of the operating system, the other
// processes' jobs are looked for each hour, which is never in most tests.
func newSQLite(t *testing.T) (s *SQLiteStorage, path string) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "q.db")
	return sqliteStorage(t, path, &SQLiteOptions{PollInterval: time.Hour}), path
}

// onWriter runs f where the writer's state may be touched.
func onWriter(t *testing.T, s *SQLiteStorage, f func(w *writer)) {
	t.Helper()
	if err := s.do(context.WithoutCancel(t.Context()), "test", func() { f(&s.w) }); err != nil {
		t.Fatal(err)
	}
}

// other is a connection of some other program.
type other struct {
	t  *testing.T
	db *sql.DB
}

func otherProgram(t *testing.T, path string) other {
	t.Helper()
	db, err := sql.Open("sqlite", path+"?_pragma=busy_timeout(5000)")
	if err != nil {
		t.Fatal(err)
	}
	db.SetMaxOpenConns(1)
	t.Cleanup(func() { db.Close() })
	return other{t, db}
}

// exec runs statements.
func (o other) exec(query string, args ...any) {
	o.t.Helper()
	if _, err := o.db.ExecContext(context.Background(), query, args...); err != nil {
		o.t.Fatalf("%s: %v", query, err)
	}
}

// all returns the rows of a query as the sqlite3 shell would print them: values parted by |, one row a line.
func (o other) all(query string, args ...any) string {
	o.t.Helper()
	rows, err := o.db.QueryContext(context.Background(), query, args...)
	if err != nil {
		o.t.Fatalf("%s: %v", query, err)
	}
	defer rows.Close()
	columns, err := rows.Columns()
	if err != nil {
		o.t.Fatal(err)
	}
	var lines []string
	for rows.Next() {
		v, targets := make([]sql.NullString, len(columns)), make([]any, len(columns))
		for i := range v {
			targets[i] = &v[i]
		}
		if err := rows.Scan(targets...); err != nil {
			o.t.Fatal(err)
		}
		line := make([]string, len(v))
		for i := range v {
			line[i] = v[i].String
		}
		lines = append(lines, strings.Join(line, "|"))
	}
	if err := rows.Err(); err != nil {
		o.t.Fatal(err)
	}
	return strings.Join(lines, "\n")
}

// want compares the rows of a query.
func (o other) want(want, query string, args ...any) {
	o.t.Helper()
	if diff := gocmp.Diff(want, o.all(query, args...)); diff != "" {
		o.t.Errorf("%s (-want +got):\n%s", query, diff)
	}
}

// lock takes the write lock, and release gives it back.
func (o other) lock() (release func()) {
	o.t.Helper()
	o.exec("BEGIN IMMEDIATE")
	return func() { o.exec("ROLLBACK") }
}

// python runs a script in a process of its own and with a SQLite of its own, as Python has it: the sqlite3 shell.
// Where that is not installed, a connection takes its place.
func python(t *testing.T, path, script string) {
	t.Helper()
	shell, err := exec.LookPath("sqlite3")
	if err != nil {
		t.Log("there is no sqlite3 shell; a connection of this process takes its place")
		o := otherProgram(t, path)
		o.exec(script)
		o.db.Close()
		return
	}
	cmd := exec.CommandContext(t.Context(), shell, "-batch", "-bail", "-cmd", ".timeout 5000", path)
	cmd.Stdin = strings.NewReader(script)
	if out, err := cmd.CombinedOutput(); err != nil || strings.Contains(string(out), "Error") {
		t.Fatalf("sqlite3: %v\n%s", err, out)
	}
}

// commits counts the transactions in the write-ahead log, by https://www.sqlite.org/fileformat2.html#walformat.
func commits(t *testing.T, path string) (n int) {
	t.Helper()
	log, err := os.ReadFile(path + "-wal") // unlike the database, this file carries no locks to lose
	if err != nil {
		t.Fatal(err)
	}
	if len(log) < 32 {
		return 0
	}
	frame := 24 + int(binary.BigEndian.Uint32(log[8:]))
	for rest := log[32:]; len(rest) >= frame && bytes.Equal(rest[8:16], log[16:24]); rest = rest[frame:] {
		if binary.BigEndian.Uint32(rest[4:]) != 0 {
			n++
		}
	}
	return n
}

// folder is what a directory holds: the files' contents by their names.
func folder(t *testing.T, dir string) map[string]string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	found := make(map[string]string)
	for _, entry := range entries {
		found[entry.Name()] = entry.Type().String()
		if entry.Type().IsRegular() {
			content, err := os.ReadFile(filepath.Join(dir, entry.Name()))
			if err != nil {
				t.Fatal(err)
			}
			found[entry.Name()] = string(content)
		}
	}
	return found
}

// wantError wants an error that says all of the words.
func wantError(t *testing.T, err error, words ...string) {
	t.Helper()
	if err == nil {
		t.Errorf("no error; want one that says %q", words)
		return
	}
	for _, word := range words {
		if !strings.Contains(err.Error(), word) {
			t.Errorf("the error %q does not say %q", err, word)
		}
	}
}

// dueNow claims what is due at once.
func dueNow(t *testing.T, s Storage, max int, queues ...string) []*Job {
	t.Helper()
	jobs, err := s.Dequeue(context.Background(), DequeueOptions{Max: max, Queues: queues, NoWait: true})
	if err != nil {
		t.Fatal(err)
	}
	return jobs
}

// tasksOf names the jobs by their tasks.
func tasksOf(jobs []*Job) string {
	var names []string
	for _, job := range jobs {
		names = append(names, job.Task)
	}
	return strings.Join(names, " ")
}

// listed names the jobs of a listing by their tasks.
func listed(t *testing.T, jobs iter.Seq2[*Job, error]) string {
	t.Helper()
	var found []*Job
	for job, err := range jobs {
		if err != nil {
			t.Fatal(err)
		}
		found = append(found, job)
	}
	return tasksOf(found)
}

// answer is what a Dequeue in a goroutine of its own returned, and when.
type answer struct {
	jobs []*Job
	err  error
	at   time.Time
}

func dequeueLater(ctx context.Context, s Storage, max int, queues ...string) <-chan answer {
	answers := make(chan answer, 1)
	go func() {
		jobs, err := s.Dequeue(ctx, DequeueOptions{Max: max, Queues: queues})
		answers <- answer{jobs, err, time.Now()}
	}()
	return answers
}

// awaitSleep returns when a Dequeue waits and the writer has no more to do for it.
func awaitSleep(t *testing.T, s *SQLiteStorage) {
	t.Helper()
	for asleep := false; !asleep; runtime.Gosched() {
		onWriter(t, s, func(w *writer) { asleep = len(w.waiting) == 1 && w.watched && !w.look })
	}
}

// asProcess makes the test binary another process that uses a storage: "verb path", see processes.
const asProcess = "PINION_TEST_SQLITE_PROCESS"

func init() {
	verb, path, found := strings.Cut(os.Getenv(asProcess), " ")
	if !found {
		return
	}
	if err := processes[verb](context.Background(), path); err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	os.Exit(0)
}

var processes = map[string]func(ctx context.Context, path string) error{
	// Each waits for the end of its standard input, so that several can begin at once.
	"enqueue": func(ctx context.Context, path string) error {
		io.Copy(io.Discard, os.Stdin)
		s, err := OpenSQLite(ctx, path, nil)
		if err != nil {
			return err
		}
		return errors.Join(s.Enqueue(ctx, NewJob("sent")), s.Close())
	},
	"enqueuetx": func(ctx context.Context, path string) error {
		io.Copy(io.Discard, os.Stdin)
		s, err := OpenSQLite(ctx, path, nil)
		if err != nil {
			return err
		}
		db, err := sql.Open("sqlite", path)
		if err != nil {
			return err
		}
		tx, err := db.Begin()
		if err != nil {
			return err
		}
		return errors.Join(s.Tx(tx).Enqueue(ctx, NewJob("sent")), tx.Commit(), db.Close(), s.Close())
	},
	"work": workAndProduce,
}

// process starts one of processes; it begins when start is called, and end waits for it.
func process(t *testing.T, verb, path string) (start func(), end func()) {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), self)
	cmd.Env = append(os.Environ(), asProcess+"="+verb+" "+path)
	input, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	var said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &said, &said
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	return func() { input.Close() }, func() {
		t.Helper()
		if err := cmd.Wait(); err != nil || said.Len() > 0 {
			t.Errorf("the process %q: %v\n%s", verb, err, &said)
		}
	}
}

// ---- Opening ----

func TestAFreshFileIsPrivateDurableAndOfThisVersion(t *testing.T) {
	for asked, want := range map[string]int64{"": 2, "FULL": 2, "NORMAL": 1, "normal": 1} {
		t.Run("synchronous="+asked, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "q.db")
			s := sqliteStorage(t, path, &SQLiteOptions{Synchronous: asked})
			mustEnqueue(t, s, NewJob("a"))
			for _, end := range []string{"", "-wal", "-shm"} {
				if info, err := os.Stat(path + end); err != nil || info.Mode() != 0o600 {
					t.Errorf("q.db%s has mode %v, error %v; want %v", end, info.Mode(), err, os.FileMode(0o600))
				}
			}
			otherProgram(t, path).want("wal|2", "SELECT journal_mode, user_version FROM pragma_journal_mode, pragma_user_version")
			onWriter(t, s, func(w *writer) {
				if got := w.value("PRAGMA synchronous"); got != want {
					t.Errorf("PRAGMA synchronous is %v, want %d", got, want)
				}
			})
		})
	}
}

func TestOptionsThatCannotBeMeantAreRefused(t *testing.T) {
	dir := t.TempDir()
	for _, test := range []struct {
		opts SQLiteOptions
		says string
	}{
		{SQLiteOptions{Synchronous: "OFF"}, `Synchronous is "OFF"`},
		{SQLiteOptions{PollInterval: -1}, "PollInterval is negative"},
	} {
		_, err := OpenSQLite(t.Context(), filepath.Join(dir, "q.db"), &test.opts)
		wantError(t, err, test.says)
	}
	if found := folder(t, dir); len(found) > 0 {
		t.Errorf("they left %v", slices.Collect(maps.Keys(found)))
	}
}

func TestAPathIsTakenAsItIs(t *testing.T) {
	for _, name := range []string{"with space.db", "what?mode=memory.db", "a#b.db", "100%25.db", "%", "ünï-日本.db", `quote'".db`,
		"a;b&c=d.db", "file:x.db", "-rf", "sqlite:x"} {
		for _, relative := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s relative=%t", name, relative), func(t *testing.T) {
				dir, path := t.TempDir(), name
				if t.Chdir(dir); !relative {
					path = filepath.Join(dir, name)
				}
				for want := 1; want <= 2; want++ {
					s, err := OpenSQLite(t.Context(), path, nil)
					if err != nil {
						t.Fatal(err)
					}
					mustEnqueue(t, s, NewJob("a"))
					if n, err := s.Size(t.Context()); n != want || err != nil {
						t.Errorf("Size: %d, %v; want %d", n, err, want)
					}
					if err := s.Close(); err != nil {
						t.Error(err)
					}
				}
				if found := slices.Collect(maps.Keys(folder(t, dir))); !slices.Equal(found, []string{name}) {
					t.Errorf("the folder holds %q", found)
				}
			})
		}
	}
}

func TestASymbolicLinkIsFollowed(t *testing.T) {
	there, here := t.TempDir(), t.TempDir()
	file, link := filepath.Join(there, "q.db"), filepath.Join(here, "link.db")
	mustEnqueue(t, sqliteStorage(t, file, nil), NewJob("a"))
	if err := os.Symlink(file, link); err != nil {
		t.Fatal(err)
	}
	s := sqliteStorage(t, link, nil)
	if got := tasksOf(dueNow(t, s, 1)); got != "a" {
		t.Errorf("through the link there is %q to do", got)
	}
	if found := slices.Collect(maps.Keys(folder(t, here))); !slices.Equal(found, []string{"link.db"}) {
		t.Errorf("beside the link there is now %q", found)
	}
	if runtime.GOOS == "linux" {
		waiting := dequeueLater(t.Context(), s, 1)
		awaitSleep(t, s)
		mustEnqueue(t, sqliteStorage(t, file, nil), NewJob("b"))
		<-waiting
		onWriter(t, s, func(w *writer) {
			if w.watch == nil {
				t.Error("writes through the other name are polled for, not told by the operating system")
			}
		})
	}
}

func TestWhatIsNoFileIsRefused(t *testing.T) {
	dir := t.TempDir()
	for _, test := range []struct{ path, says string }{
		{"", "not a file; memory: is the storage in memory"},
		{":memory:", "not a file; memory: is the storage in memory"},
		{dir, "it is a directory"},
		{filepath.Join(dir, "missing", "q.db"), "no such file or directory"},
		{filepath.Join(dir, "nul\x00.db"), "invalid argument"},
	} {
		for _, readOnly := range []bool{false, true} {
			_, err := OpenSQLite(t.Context(), test.path, &SQLiteOptions{ReadOnly: readOnly})
			wantError(t, err, "pinion: open "+test.path+": ", test.says)
		}
	}
	if found := folder(t, dir); len(found) > 0 {
		t.Errorf("they left %v", slices.Collect(maps.Keys(found)))
	}
}

// python02 is the schema of Python's 0.2 with some rows, as Python writes them.
const (
	python02 = `CREATE TABLE jobs (id TEXT PRIMARY KEY, func_name TEXT NOT NULL, args TEXT NOT NULL, kwargs TEXT NOT NULL,
		status TEXT NOT NULL, attempts INTEGER NOT NULL, created_at REAL NOT NULL, error TEXT, heartbeat_at REAL);
	CREATE TABLE dlq (id TEXT PRIMARY KEY, func_name TEXT NOT NULL, args TEXT NOT NULL, kwargs TEXT NOT NULL,
		attempts INTEGER NOT NULL, error TEXT NOT NULL, failed_at REAL NOT NULL);` + pythonIndexes + `
	INSERT INTO jobs VALUES ('e1aa6a7c6bd64f1c8d0e8d5b3f6c7a01', 'ADD', '[1, 2]', '{}', 'PENDING', 0, 1700000001.123456, NULL, NULL);
	INSERT INTO jobs VALUES ('0baa6a7c6bd64f1c8d0e8d5b3f6c7a02', 'add', '[]', '{"a": 3, "b": 4}', 'PENDING', 1, 1700000002.5, 'boom', 1700000003.0);
	INSERT INTO jobs VALUES ('77aa6a7c6bd64f1c8d0e8d5b3f6c7a03', 'add', '[5, 6]', '{}', 'RUNNING', 1, 1700000003.0, NULL, 1700000004.0);
	INSERT INTO jobs VALUES ('42aa6a7c6bd64f1c8d0e8d5b3f6c7a04', 'add', '[7, 8]', '{}', 'SUCCESS', 1, 1700000004.0, NULL, 1700000004.0);
	INSERT INTO jobs VALUES ('13aa6a7c6bd64f1c8d0e8d5b3f6c7a05', 'greet', '["J\u00fcrgen"]', '{}', 'FAILED', 4, 1700000005.0, 'nobody', 1700000006.0);
	INSERT INTO dlq VALUES ('13aa6a7c6bd64f1c8d0e8d5b3f6c7a05', 'greet', '["J\u00fcrgen"]', '{}', 4, 'nobody', 1700000007.25);`
	pythonIndexes = `CREATE INDEX IF NOT EXISTS idx_jobs_status_created ON jobs(status, created_at);
	CREATE INDEX IF NOT EXISTS idx_jobs_status_hb ON jobs(status, heartbeat_at);`
	// 0.1 had no heartbeats.
	python01 = python02 + `DROP INDEX idx_jobs_status_hb; ALTER TABLE jobs DROP COLUMN heartbeat_at;`
	// version1 is what Pinion made of it before claims had the names of workers.
	version1 = python02 + `ALTER TABLE jobs ADD COLUMN queue TEXT NOT NULL DEFAULT 'default'; ALTER TABLE jobs ADD COLUMN priority INTEGER NOT NULL DEFAULT 0;
	ALTER TABLE jobs ADD COLUMN key TEXT DEFAULT NULL; ALTER TABLE jobs ADD COLUMN run_at REAL NOT NULL DEFAULT 0;
	ALTER TABLE jobs ADD COLUMN future INTEGER NOT NULL DEFAULT 0; ALTER TABLE jobs ADD COLUMN claim INTEGER NOT NULL DEFAULT 0;
	ALTER TABLE jobs ADD COLUMN reaped INTEGER NOT NULL DEFAULT 0; ALTER TABLE jobs ADD COLUMN finished_at REAL DEFAULT NULL;
	ALTER TABLE jobs ADD COLUMN result TEXT DEFAULT NULL; ALTER TABLE dlq ADD COLUMN queue TEXT NOT NULL DEFAULT 'default';
	ALTER TABLE dlq ADD COLUMN priority INTEGER NOT NULL DEFAULT 0; ALTER TABLE dlq ADD COLUMN key TEXT DEFAULT NULL;
	CREATE INDEX jobs_ready ON jobs(queue, priority DESC) WHERE status='PENDING' AND future=0;
	CREATE INDEX jobs_future ON jobs(run_at) WHERE status='PENDING' AND future=1;
	CREATE INDEX jobs_running ON jobs(claim) WHERE status='RUNNING';
	CREATE UNIQUE INDEX jobs_key ON jobs(key) WHERE key IS NOT NULL AND status IN ('PENDING','RUNNING');
	CREATE INDEX jobs_finished ON jobs(status, coalesce(finished_at, heartbeat_at, created_at)) WHERE status IN ('SUCCESS','FAILED');
	PRAGMA user_version=1;`
)

func TestAFileThatIsNotOursIsRefusedAndLeftAsItIs(t *testing.T) {
	sqlite := func(script string) func(t *testing.T, path string) {
		return func(t *testing.T, path string) { python(t, path, script) }
	}
	content := func(text string) func(t *testing.T, path string) {
		return func(t *testing.T, path string) {
			if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
	for _, test := range []struct {
		name string
		make func(t *testing.T, path string)
		says string
	}{
		{"a long text", content(strings.Repeat("Dear diary,\n", 1000)), "it is not a SQLite database"},
		{"a short text", content("Dear diary"), "it is not a SQLite database"},
		{"a SQLite header and nothing that follows from it", content("SQLite format 3\x00" + strings.Repeat("?", 4080)), "it is not a SQLite database"},
		{"a newer version", sqlite(python02 + "PRAGMA user_version=3;"), "from a newer Pinion or of another program; this one knows 2"},
		{"a newer version in WAL mode", sqlite(python02 + "PRAGMA user_version=3; PRAGMA journal_mode=WAL;"), "is version 3, from a newer Pinion"},
		{"jobs of another program", sqlite("CREATE TABLE jobs (id INTEGER PRIMARY KEY, title TEXT); INSERT INTO jobs VALUES (1, 'cook');"), `its table "jobs" belongs to another program: it has no column "func_name"`},
		{"jobs of another program in WAL mode", sqlite("PRAGMA journal_mode=WAL; CREATE TABLE jobs (id INTEGER PRIMARY KEY, title TEXT);"), `its table "jobs" belongs to another program`},
		{"a dlq of another program", sqlite("CREATE TABLE dlq (id TEXT PRIMARY KEY, letter TEXT);"), "belongs to another program"},
		{"another program that counts its versions too", sqlite("CREATE TABLE jobs (id INTEGER PRIMARY KEY, title TEXT); PRAGMA user_version=74;"), `its table "jobs" belongs to another program`},
	} {
		t.Run(test.name, func(t *testing.T) {
			dir := t.TempDir()
			path := filepath.Join(dir, "q.db")
			test.make(t, path)
			before := folder(t, dir)
			_, err := OpenSQLite(t.Context(), path, nil)
			wantError(t, err, "pinion: open "+path+": ", test.says)
			if diff := gocmp.Diff(before, folder(t, dir)); diff != "" {
				t.Errorf("the folder has changed (-before +after):\n%s", diff)
			}
			_, err = OpenSQLite(t.Context(), path, &SQLiteOptions{ReadOnly: true})
			if wantError(t, err, "pinion: open "+path+": "); folder(t, dir)["q.db"] != before["q.db"] {
				t.Error("opening it read-only has changed the file")
			}
		})
	}
}

func TestAnEmptyFileBecomesAQueueUnlessReadOnly(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "q.db")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := OpenSQLite(t.Context(), path, &SQLiteOptions{ReadOnly: true})
	wantError(t, err, `it holds no queue: there is no table "jobs"`)
	if diff := gocmp.Diff(map[string]string{"q.db": ""}, folder(t, dir)); diff != "" {
		t.Errorf("the folder has changed (-before +after):\n%s", diff)
	}
	mustEnqueue(t, sqliteStorage(t, path, nil), NewJob("a"))
}

func TestReadOnlyListsAnOlderFileAndChangesNothing(t *testing.T) {
	for version, script := range map[string]string{"0.2": python02, "0.1": python01, "version 1": version1} {
		t.Run(version, func(t *testing.T) {
			dir := t.TempDir()
			path := filepath.Join(dir, "q.db")
			_, err := OpenSQLite(t.Context(), path, &SQLiteOptions{ReadOnly: true})
			wantError(t, err, "no such file")
			if found := folder(t, dir); len(found) > 0 {
				t.Errorf("opening what is missing made %v", found)
			}

			python(t, path, script)
			before := folder(t, dir)
			s, err := OpenSQLite(t.Context(), path, &SQLiteOptions{ReadOnly: true})
			if err != nil {
				t.Fatal(err)
			}
			ctx := t.Context()
			if got := listed(t, s.Jobs(ctx, Filter{Queue: "default"})); got != "ADD add add add greet" {
				t.Errorf("Jobs: %s", got)
			}
			for letter := range s.DeadLetters(ctx, Filter{}) {
				want := &Job{ID: "13aa6a7c6bd64f1c8d0e8d5b3f6c7a05", Task: "greet", Args: []any{json.RawMessage(`"J\u00fcrgen"`)},
					Queue: "default", Status: StatusFailed, Attempts: 4, Error: "nobody", FinishedAt: time.UnixMilli(1700000007250).UTC()}
				if diff := gocmp.Diff(want, letter); diff != "" {
					t.Errorf("the dead letter (-want +got):\n%s", diff)
				}
			}
			stats, err := s.Stats(ctx)
			first, second := time.UnixMicro(1700000001123456).UTC(), time.UnixMicro(1700000002500000).UTC()
			total := Counts{Pending: 2, Running: 1, Success: 1, Failed: 1, Oldest: first}
			want := Stats{DeadLetters: 1, Total: total, Queues: []QueueStats{{"default", total}}, Tasks: []TaskStats{
				{"ADD", Counts{Pending: 1, Oldest: first}}, {"add", Counts{Pending: 1, Running: 1, Success: 1, Oldest: second}}, {"greet", Counts{Failed: 1}}}}
			if diff := gocmp.Diff(want, stats); diff != "" || err != nil {
				t.Errorf("Stats: %v (-want +got):\n%s", err, diff)
			}
			if n, err := s.Size(ctx); n != 2 || err != nil {
				t.Errorf("Size: %d, %v", n, err)
			}
			job, err := s.Get(ctx, "0baa6a7c6bd64f1c8d0e8d5b3f6c7a02")
			if err != nil || job.Attempts != 1 || job.Error != "boom" {
				t.Errorf("Get: %+v, %v", job, err)
			}
			for name, verb := range verbs(s, job) {
				if err := verb(ctx); err == nil || !strings.Contains(err.Error(), "the file is open read-only") {
					t.Errorf("%s: %v", name, err)
				}
			}
			if err := s.Close(); err != nil {
				t.Error(err)
			}
			if diff := gocmp.Diff(before, folder(t, dir)); diff != "" {
				t.Errorf("the folder has changed (-before +after):\n%s", diff)
			}
		})
	}
}

func TestReadOnlyReadsTheLogOfACrashAndLeavesItThere(t *testing.T) {
	s, path := newSQLite(t)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	file, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	mustEnqueue(t, sqliteStorage(t, path, nil), NewJob("a"))
	log, err := os.ReadFile(path + "-wal") // and the file is as it was
	if err != nil {
		t.Fatal(err)
	}
	crashed := filepath.Join(t.TempDir(), "q.db")
	if err := errors.Join(os.WriteFile(crashed, file, 0o600), os.WriteFile(crashed+"-wal", log, 0o600)); err != nil {
		t.Fatal(err)
	}
	r, err := OpenSQLite(t.Context(), crashed, &SQLiteOptions{ReadOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	if got := listed(t, r.Jobs(t.Context(), Filter{})); got != "a" {
		t.Errorf("there are %q", got)
	}
	if err := r.Close(); err != nil {
		t.Error(err)
	}
	if after := folder(t, filepath.Dir(crashed)); after["q.db"] != string(file) || after["q.db-wal"] != string(log) {
		t.Error("the file or its log has changed")
	}
}

// verbs are the methods that write, each with something to do if job is RUNNING, a dead letter stands, a lease
// is lost and a job has finished.
func verbs(s *SQLiteStorage, job *Job) map[string]func(ctx context.Context) error {
	return map[string]func(ctx context.Context) error{
		"Enqueue": func(ctx context.Context) error { return s.Enqueue(ctx, NewJob("new")) },
		"Dequeue": func(ctx context.Context) error { _, err := s.Dequeue(ctx, DequeueOptions{Max: 1}); return err },
		"DequeueAhead": func(ctx context.Context) error {
			_, err := s.Dequeue(ctx, DequeueOptions{Max: 2, Ahead: 1})
			return err
		},
		"MarkDone":   func(ctx context.Context) error { _, err := s.MarkDone(ctx, job); return err },
		"MarkFailed": func(ctx context.Context) error { return s.MarkFailed(ctx, job, errors.New("x"), time.Time{}) },
		"DeadLetter": func(ctx context.Context) error { return s.DeadLetter(ctx, job, errors.New("x")) },
		"Heartbeat":  func(ctx context.Context) error { _, err := s.Heartbeat(ctx, job); return err },
		"Release":    func(ctx context.Context) error { _, _, err := s.Release(ctx, time.Time{}, nil, job); return err },
		"Cancel":     func(ctx context.Context) error { _, _, err := s.Cancel(ctx, job.ID); return err },
		"ReapStale":  func(ctx context.Context) error { _, err := s.ReapStale(ctx, -time.Hour); return err },
		"Replay":     func(ctx context.Context) error { _, err := s.Replay(ctx, Filter{}); return err },
		"Purge":      func(ctx context.Context) error { _, err := s.Purge(ctx, Filter{}); return err },
		"Prune":      func(ctx context.Context) error { _, err := s.Prune(ctx, time.Now().Add(time.Hour)); return err },
	}
}

func TestManyOpenAndMigrateAFileAtOnce(t *testing.T) {
	for version, script := range map[string]string{"missing": "", "0.2": python02, "0.1": python01, "version 1": version1} {
		t.Run(version, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "q.db")
			before := 0
			if script != "" {
				python(t, path, script)
				before = 5
			}
			const processes, goroutines = 3, 8
			var start, end []func()
			for range processes {
				s, e := process(t, "enqueue", path)
				start, end = append(start, s), append(end, e)
			}
			var wg sync.WaitGroup
			for _, begin := range start {
				wg.Go(begin)
			}
			for range goroutines {
				wg.Go(func() {
					s, err := OpenSQLite(t.Context(), path, nil)
					if err != nil {
						t.Error(err)
						return
					}
					if err := errors.Join(s.Enqueue(t.Context(), NewJob("a")), s.Close()); err != nil {
						t.Error(err)
					}
				})
			}
			wg.Wait()
			for _, wait := range end {
				wait()
			}
			s := sqliteStorage(t, path, nil)
			o := otherProgram(t, path)
			o.want(strconv.Itoa(before+processes+goroutines), "SELECT count(*) FROM jobs WHERE queue='default' AND future=0 AND claim=0")
			o.want("2", "PRAGMA user_version")
			if n, err := s.Size(t.Context()); err != nil || n < processes+goroutines {
				t.Errorf("Size: %d, %v", n, err)
			}
		})
	}
}

// ---- Python's files ----

// adder is a registry for the jobs in python02. Its tasks tell what they did.
func adder() (registry *Registry, did func() string) {
	var mu sync.Mutex
	var log []string
	note := func(format string, args ...any) error {
		mu.Lock()
		defer mu.Unlock()
		log = append(log, fmt.Sprintf(format, args...))
		return nil
	}
	registry = new(Registry)
	registry.Add(
		Task[struct{ A, B int }]{Name: "add", Run: func(_ context.Context, args struct{ A, B int }) error { return note("%d", args.A+args.B) }},
		Task[string]{Name: "greet", Run: func(_ context.Context, name string) error { return note("hello %s", name) }})
	return registry, func() string {
		mu.Lock()
		defer mu.Unlock()
		slices.Sort(log)
		return strings.Join(log, ", ")
	}
}

var silent = slog.New(slog.DiscardHandler)

func TestThePendingJobsOfAnOlderFileRunAndItsDeadLettersReplay(t *testing.T) {
	for version, script := range map[string]string{"0.2": python02, "0.1": python01, "version 1": version1} {
		t.Run(version, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "q.db")
			python(t, path, script)
			s := sqliteStorage(t, path, &SQLiteOptions{Retention: -1})
			o := otherProgram(t, path)
			o.want("id|TEXT|0|1\nfunc_name|TEXT|1|0\nargs|TEXT|1|0\nkwargs|TEXT|1|0\nstatus|TEXT|1|0\nattempts|INTEGER|1|0\ncreated_at|REAL|1|0\nerror|TEXT|0|0\nheartbeat_at|REAL|0|0",
				`SELECT name, type, "notnull", pk FROM pragma_table_info('jobs') LIMIT 9`)
			registry, did := adder()
			w := &Worker{Storage: s, Registry: registry, Logger: silent}
			if err := w.Drain(t.Context()); err != nil {
				t.Fatal(err)
			}
			if n, err := s.Replay(t.Context(), Filter{}); n != 1 || err != nil {
				t.Errorf("Replay: %d, %v", n, err)
			}
			o.want("PENDING|0||default|0", "SELECT status, attempts, error, queue, priority FROM jobs WHERE func_name='greet'")
			if err := w.Drain(t.Context()); err != nil {
				t.Fatal(err)
			}
			// The job that was RUNNING was held by a process long gone.
			if want := "11, 3, 7, hello Jürgen"; did() != want {
				t.Errorf("the jobs did %s, want %s", did(), want)
			}
			o.want("ADD|SUCCESS|1\nadd|SUCCESS|2\nadd|SUCCESS|2\nadd|SUCCESS|1\ngreet|SUCCESS|1", "SELECT func_name, status, attempts FROM jobs ORDER BY rowid")
			o.want("0", "SELECT count(*) FROM dlq")
		})
	}
}

func TestPythonGoesOnWritingWhileAWorkerRuns(t *testing.T) {
	path := filepath.Join(t.TempDir(), "q.db")
	python(t, path, python02)
	s := sqliteStorage(t, path, &SQLiteOptions{Retention: -1})
	ran := make(chan Job)
	var registry Registry
	registry.Add(Task[*Job]{Name: "tell", Run: func(_ context.Context, job *Job) error { ran <- *job; return nil }})
	w := &Worker{Storage: s, Registry: &registry, Queues: []string{"default"}, Retry: &RetryPolicy{MaxRetries: 0}, Logger: silent}
	stopped := make(chan error, 1)
	go func() { stopped <- w.Run(t.Context()) }()

	// Python's enqueue, again and again with one id; it creates its indexes each time it opens the file.
	last := Job{}
	for i := range 4 {
		python(t, path, pythonIndexes+`INSERT OR REPLACE INTO jobs (id, func_name, args, kwargs, status, attempts, created_at, error, heartbeat_at)
			VALUES ('f00d', 'tell', '["x"]', '{"k": 1}', 'PENDING', 0, 1700000009.5, NULL, NULL);`)
		job := <-ran
		want := Job{ID: "f00d", Task: "tell", Args: []any{json.RawMessage(`"x"`)}, Kwargs: map[string]any{"k": json.RawMessage("1")}, Queue: "default",
			Status: StatusRunning, Attempts: 1, Claim: job.Claim, Worker: processName(), CreatedAt: time.UnixMilli(1700000009500).UTC(), HeartbeatAt: job.HeartbeatAt}
		if diff := gocmp.Diff(want, job); diff != "" {
			t.Errorf("run %d (-want +got):\n%s", i, diff)
		}
		if job.Claim <= last.Claim {
			t.Errorf("after a REPLACE the claim is %d, not larger than %d", job.Claim, last.Claim)
		}
		last = job
	}
	w.Stop()
	if err := <-stopped; err != nil {
		t.Error(err)
	}

	// Python reads back what Go wrote, in its own columns alone.
	o := otherProgram(t, path)
	o.want(`tell|["x"]|{"k": 1}|SUCCESS|1||real`, "SELECT func_name, args, kwargs, status, attempts, error, typeof(heartbeat_at) FROM jobs WHERE id='f00d'")
}

func TestPythonsClaimsAreFencedByTheAttempts(t *testing.T) {
	const reap = `UPDATE jobs SET status='PENDING' WHERE status='RUNNING';`
	const claim = `UPDATE jobs SET status='RUNNING', attempts=attempts+1, heartbeat_at=unixepoch('subsec')
		WHERE id=(SELECT id FROM jobs WHERE status='PENDING' ORDER BY created_at LIMIT 1);`
	const replace = `INSERT OR REPLACE INTO jobs (id, func_name, args, kwargs, status, attempts, created_at, error, heartbeat_at)
		SELECT id, func_name, args, kwargs, 'SUCCESS', attempts, created_at, NULL, heartbeat_at FROM jobs WHERE status='RUNNING';`
	for _, test := range []struct{ name, script, left string }{
		{"reaped", reap, "PENDING|1"},
		{"reaped and claimed", reap + claim, "RUNNING|2"},
		{"finished", `UPDATE jobs SET status='SUCCESS' WHERE status='RUNNING';`, "SUCCESS|1"},
		{"finished by a REPLACE", replace, "SUCCESS|1"},
		{"replaced by a row that runs", strings.ReplaceAll(replace, "'SUCCESS'", "'RUNNING'"), "RUNNING|1"},
		{"deleted", `DELETE FROM jobs;`, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			s, path := newSQLite(t)
			mustEnqueue(t, s, NewJob("a"))
			job := mustDequeue(t, s, 1)[0]
			python(t, path, test.script)
			if lost, err := s.Heartbeat(t.Context(), job); len(lost) != 1 || err != nil {
				t.Errorf("Heartbeat: %d lost, %v", len(lost), err)
			}
			if lost, err := s.MarkDone(t.Context(), job); len(lost) != 1 || err != nil {
				t.Errorf("MarkDone: %d lost, %v", len(lost), err)
			}
			if err := s.MarkFailed(t.Context(), job, errors.New("x"), time.Time{}); !errors.Is(err, ErrLeaseLost) {
				t.Errorf("MarkFailed: %v", err)
			}
			if err := s.DeadLetter(t.Context(), job, errors.New("x")); !errors.Is(err, ErrLeaseLost) {
				t.Errorf("DeadLetter: %v", err)
			}
			if lost, _, err := s.Release(t.Context(), time.Time{}, nil, job); len(lost) != 1 || err != nil {
				t.Errorf("Release: %d lost, %v", len(lost), err)
			}
			o := otherProgram(t, path)
			o.want(test.left, "SELECT status, attempts FROM jobs")
			o.want("0", "SELECT count(*) FROM dlq")
			if strings.HasPrefix(test.left, "RUNNING") && len(dueNow(t, s, 9)) > 0 {
				t.Error("a job that Python has claimed is claimed again")
			}
		})
	}
}

func TestADeadLetterThatPythonHasReplayedStaysAndSoDoesTheJob(t *testing.T) {
	path := filepath.Join(t.TempDir(), "q.db")
	python(t, path, python02+`UPDATE jobs SET status='PENDING', attempts=0 WHERE status='FAILED';`)
	s := sqliteStorage(t, path, nil)
	if n, err := s.Replay(t.Context(), Filter{}); n != 0 || err != nil {
		t.Errorf("Replay: %d, %v", n, err)
	}
	otherProgram(t, path).want("PENDING|1", "SELECT status, (SELECT count(*) FROM dlq) FROM jobs WHERE func_name='greet'")
}

// ---- Statements ----

// recorder is a driver that keeps the text of every query, for the connections that only read.
type recorder struct {
	of      driver.Driver
	dsn     string
	mu      sync.Mutex // guards queries
	queries map[string]bool
}

type recorded struct {
	driver.Conn
	r *recorder
}

func (r *recorder) Driver() driver.Driver { return r.of }
func (r *recorder) Connect(context.Context) (driver.Conn, error) {
	conn, err := r.of.Open(r.dsn)
	return recorded{conn, r}, err
}

func (c recorded) QueryContext(ctx context.Context, query string, args []driver.NamedValue) (driver.Rows, error) {
	c.r.mu.Lock()
	c.r.queries[query] = true
	c.r.mu.Unlock()
	return c.Conn.(driver.QueryerContext).QueryContext(ctx, query, args)
}

// workout calls every verb in many ways. It needs a bubble, to let time pass.
func workout(t *testing.T, s *SQLiteStorage) {
	t.Helper()
	ctx := t.Context()
	check := func(_ any, err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, queues := range [][]string{{"a"}, {"a", "b", "c"}, {}} {
		for n := range 10 {
			jobs := make([]*Job, n+1)
			for i := range jobs {
				jobs[i] = &Job{Task: "x", Queue: string(rune('a' + i%3)), Priority: i % 2}
			}
			jobs[n].Key = NewID()
			mustEnqueue(t, s, jobs...)
			mustEnqueue(t, s, &Job{Task: "x", Queue: "a", RunAt: time.Now().Add(time.Second)})
			_, err := s.Dequeue(ctx, DequeueOptions{Max: n + 1, Queues: queues})
			check(nil, err)
		}
		time.Sleep(2 * time.Second)
		jobs, err := s.Dequeue(ctx, DequeueOptions{Max: 50, Ahead: 50 - 5, Queues: queues})
		check(nil, err)
		_, err = s.Heartbeat(ctx, jobs...)
		check(nil, err)
		_, _, err = s.Release(ctx, time.Time{}, nil, jobs[0])
		check(nil, err)
		check(nil, s.MarkFailed(ctx, jobs[1], errors.New("x"), time.Now()))
		check(nil, s.MarkFailed(ctx, jobs[2], errors.New("x"), time.Now().Add(time.Hour)))
		check(nil, s.DeadLetter(ctx, jobs[3], errors.New("x")))
		check(nil, s.DeadLetter(ctx, jobs[4], ErrAttemptsUsedUp))
		jobs[5].Result = json.RawMessage("1")
		_, _, err = s.Cancel(ctx, jobs[6].ID, "none")
		check(nil, err)
		check(s.Canceled(ctx, jobs[5:]...))
		if err := s.MarkFailed(ctx, jobs[6], errors.New("x"), time.Now()); !errors.Is(err, ErrCanceled) {
			t.Fatal(err)
		}
		check(s.MarkDone(ctx, jobs[5:]...))
		for len(dueNow(t, s, 100)) > 0 {
		}
		check(s.Replay(ctx, Filter{Limit: 1}))
		check(s.Purge(ctx, Filter{}))
		time.Sleep(time.Minute)
		check(s.ReapStale(ctx, time.Second))
		check(s.ReapStale(ctx, time.Second))
		check(s.Size(ctx))
		for jobs := dueNow(t, s, 100); len(jobs) > 0; jobs = dueNow(t, s, 100) {
			check(s.MarkDone(ctx, jobs...))
		}
		waiting := dequeueLater(ctx, s, 1, queues...)
		synctest.Wait()
		mustEnqueue(t, s, &Job{ID: "direct", Task: "x", Queue: "a", Key: "k"})
		answer := <-waiting
		check(nil, answer.err)
		for _, duplicate := range []*Job{{Task: "x", ID: "direct"}, {Task: "x", Key: "k"}} {
			if err := s.Enqueue(ctx, NewJob("x"), duplicate); !errors.Is(err, ErrDuplicate) {
				t.Fatal(err)
			}
		}
		check(s.MarkDone(ctx, answer.jobs...))
		check(s.Get(ctx, "direct"))
		check(s.Prune(ctx, time.Now().Add(time.Hour)))
		mustEnqueue(t, s, &Job{Task: "x", Queue: "a"}) // leaves something to look at
	}
}

// recordReaders has a storage's readers keep their queries from now on.
func recordReaders(s *SQLiteStorage) *recorder {
	r := &recorder{of: s.readers.Driver(), dsn: s.path, queries: make(map[string]bool)}
	s.readers.Close()
	s.readers = sql.OpenDB(r)
	return r
}

// sqliteStatements has a storage worked out and returns the statements it used.
func sqliteStatements(t *testing.T, s *SQLiteStorage) (statements []string) {
	t.Helper()
	r := recordReaders(s)
	workout(t, s)
	onWriter(t, s, func(w *writer) { statements = slices.Collect(maps.Keys(w.stmts)) })
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Sorted(maps.Keys(maps.Collect(func(yield func(string, bool) bool) {
		for _, statement := range slices.AppendSeq(statements, maps.Keys(r.queries)) {
			yield(statement, true)
		}
	})))
}

// TestEveryHotStatementGoesByAnIndex also where Python's indexes would tempt SQLite, and with its statistics.
func TestEveryHotStatementGoesByAnIndex(t *testing.T) {
	// What a plan may say of the table jobs: seeks by a row's identity and by our indexes, the ranges of those for
	// which that is enough, and the whole of jobs_running, which is no longer than the workers' hands are full.
	allowed := regexp.MustCompile(`^(SEARCH jobs USING (INTEGER PRIMARY KEY \(rowid=\?\)|(COVERING )?INDEX sqlite_autoindex_jobs_1 \(id=\?\))` +
		`|SEARCH jobs USING (COVERING )?INDEX (jobs_ready \(queue[=>]\?.*\)|jobs_future \(run_at<\?\)|jobs_key \(key=\?\)|jobs_finished \(status=\? AND <expr><\?\))` +
		`|SCAN jobs USING INDEX jobs_running|SCAN json_each VIRTUAL TABLE INDEX 1:|SCAN jobs USING COVERING INDEX jobs_(ready|future)` +
		`|SEARCH dlq USING .*|SCAN dlq|SCAN CONSTANT ROW|SCAN (\d-ROW VALUES CLAUSE|pragma_table_info .*|sqlite_schema)|LIST SUBQUERY \d+|CORRELATED SCALAR SUBQUERY \d+|SCALAR SUBQUERY \d+)$`)
	synctest.Test(t, func(t *testing.T) {
		for _, analyzed := range []bool{false, true} {
			s, path := newSQLite(t)
			o := otherProgram(t, path)
			o.exec(pythonIndexes)
			statements := sqliteStatements(t, s)
			if analyzed {
				o.exec(`INSERT INTO jobs (id, func_name, args, kwargs, status, attempts, created_at)
					WITH n(n) AS (SELECT 1 UNION ALL SELECT n+1 FROM n WHERE n < 10000) SELECT n, 'x', '[]', '{}', iif(n % 3 = 0, 'SUCCESS', 'PENDING'), 0, n FROM n`)
				o.exec("ANALYZE")
			}
			for _, statement := range statements {
				if !regexp.MustCompile("^(SELECT|INSERT|UPDATE|DELETE)").MatchString(statement) {
					continue
				}
				plan := o.all("EXPLAIN QUERY PLAN "+statement, make([]any, strings.Count(statement, "?"))...)
				for step := range strings.SplitSeq(plan, "\n") {
					columns := strings.SplitN(step, "|", 4) // id, parent, notused, detail
					if detail := columns[len(columns)-1]; detail != "" && !allowed.MatchString(detail) {
						t.Errorf("with analyzed=%t the plan of\n%s\nhas the step %q", analyzed, statement, detail)
					}
				}
			}
		}
	})
}

func TestNothingIsPreparedAgainAfterAWarmUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, _ := newSQLite(t)
		texts := func() (kept []string) {
			onWriter(t, s, func(w *writer) { kept = slices.Sorted(maps.Keys(w.stmts)) })
			return kept
		}
		workout(t, s)
		warm := texts()
		for _, text := range warm {
			if strings.Contains(text, "LIMIT ?") || strings.Contains(text, "OFFSET ?") {
				t.Errorf("a limit that varies has a statement prepared at each execution: %s", text)
			}
		}
		workout(t, s)
		for n := range 40 {
			queues := make([]string, n%9)
			for i := range queues {
				queues[i] = strconv.Itoa(i)
			}
			jobs := make([]*Job, n+1)
			for i := range jobs {
				jobs[i] = &Job{Task: "y", Queue: strconv.Itoa(i % 5), Priority: i, Kwargs: map[string]any{"n": n}}
			}
			mustEnqueue(t, s, jobs...)
			for jobs := dueNow(t, s, n+1, queues...); len(jobs) > 0; jobs = dueNow(t, s, n/2+1, queues...) {
				if lost, err := s.MarkDone(t.Context(), jobs...); len(lost) > 0 || err != nil {
					t.Fatal(lost, err)
				}
			}
		}
		if diff := gocmp.Diff(warm, texts()); diff != "" {
			t.Errorf("statements kept (-warm +later):\n%s", diff)
		}
	})
}

func TestSQLNeverReadsTheClock(t *testing.T) {
	clock := regexp.MustCompile(`(?i)'now|current_(time|date)|julianday|strftime|unixepoch|datetime|\bdate\(|\btime\(`)
	synctest.Test(t, func(t *testing.T) {
		s, path := newSQLite(t)
		statements := sqliteStatements(t, s)
		for schema := range strings.SplitSeq(otherProgram(t, path).all("SELECT sql FROM sqlite_schema"), "\n") {
			statements = append(statements, schema)
		}
		for _, statement := range statements {
			if clock.MatchString(statement) {
				t.Errorf("it does in %s", statement)
			}
		}
	})
}

// ---- The writer ----

// blocked has calls made while another program holds the write lock, in the order given, each waiting before the
// next one is made, and returns how many transactions the storage then needed. It needs a bubble.
func blocked(t *testing.T, path string, calls ...func()) int {
	t.Helper()
	release := otherProgram(t, path).lock()
	before := commits(t, path)
	var wg sync.WaitGroup
	for _, call := range calls {
		wg.Go(call)
		synctest.Wait()
	}
	release()
	wg.Wait()
	return commits(t, path) - before
}

func TestConcurrentVerbsShareATransaction(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, path := newSQLite(t)
		ctx := t.Context()
		for range 8 {
			mustEnqueue(t, s, NewJob("a"))
		}
		jobs := mustDequeue(t, s, 6)
		var claimed []*Job
		calls := []func(){
			func() { s.MarkDone(ctx, jobs[0], jobs[1]) },
			func() { s.MarkFailed(ctx, jobs[2], errors.New("x"), time.Now().Add(time.Hour)) },
			func() { s.DeadLetter(ctx, jobs[3], errors.New("x")) },
			func() { s.Heartbeat(ctx, jobs[4]) },
			func() { s.Release(ctx, time.Time{}, nil, jobs[5]) },
			func() { claimed, _ = s.Dequeue(ctx, DequeueOptions{Max: 2, Queues: []string{"default"}}) },
		}
		for range 50 {
			calls = append(calls, func() { mustEnqueue(t, s, NewJob("b")) })
		}
		if n := blocked(t, path, calls...); n != 1 {
			t.Errorf("%d verbs took %d transactions", len(calls), n)
		}
		otherProgram(t, path).want("FAILED|1\nPENDING|52\nRUNNING|3\nSUCCESS|2", "SELECT status, count(*) FROM jobs GROUP BY status")
		if got := tasksOf(claimed); got != "a a" {
			t.Errorf("claimed %q", got)
		}
	})
}

func TestEachOfTheProducersThatShareAStatementGetsWhatItStored(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, path := newSQLite(t)
		mustEnqueue(t, s, &Job{Task: "a", ID: "held", Key: "held"})
		var calls []func()
		var jobs []*Job
		var errs [90]error
		for range 9 {
			for _, job := range []*Job{{Task: "a"}, {Task: "a"}, {Task: "a", Args: []any{1}}, {Task: "a", Key: "held"}, {Task: "b"}, {Task: "b", Kwargs: map[string]any{"x": 1}},
				{Task: "b", Queue: "q"}, {Task: "b", ID: "held"}, {Task: "b", Priority: 1}, {Task: "b", RunAt: time.Now().Add(time.Hour)}} {
				answer := &errs[len(jobs)]
				jobs = append(jobs, job)
				calls = append(calls, func() { *answer = s.Enqueue(t.Context(), job) })
			}
		}
		if n := blocked(t, path, calls...); n != 1 {
			t.Errorf("%d producers took %d transactions", len(calls), n)
		}
		for i, job := range jobs {
			err := errs[i]
			if job.Key != "" || job.ID == "held" {
				if !errors.Is(err, ErrDuplicate) {
					t.Errorf("a duplicate got %v", err)
				}
				continue
			}
			stored, failed := s.Get(t.Context(), job.ID)
			if err := cmp.Or(err, failed); err != nil {
				t.Fatal(err)
			}
			if got, want := fields(t, stored), fields(t, job); got != want {
				t.Errorf("stored is %s, want %s", got, want)
			}
		}
	})
}

func TestCallsThatShareATransactionMeetInTheOrderInWhichTheyCame(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, path := newSQLite(t)
		var claimed []*Job
		n := blocked(t, path,
			func() { mustEnqueue(t, s, NewJob("a")) },
			func() { mustEnqueue(t, s, &Job{Task: "b", Key: "k"}) },
			func() { mustEnqueue(t, s, NewJob("c")) },
			func() { claimed, _ = s.Dequeue(t.Context(), DequeueOptions{Max: 1}) },
			func() { mustEnqueue(t, s, NewJob("d")) },
		)
		if got := tasksOf(claimed); got != "a" || n != 1 {
			t.Errorf("claimed %q in %d transactions, want what came first, in one", got, n)
		}
		if got := listed(t, s.Jobs(t.Context(), Filter{})); got != "a b c d" {
			t.Errorf("the jobs stand in the order %q", got)
		}
	})
}

func TestTriggersOfOthersKeepTheirOwnConflictClauses(t *testing.T) {
	path := filepath.Join(t.TempDir(), "q.db")
	late := sqliteStorage(t, path, nil)
	o := otherProgram(t, path)
	o.exec(`CREATE TABLE tasks (name TEXT PRIMARY KEY, seen)`)
	o.exec(`CREATE TRIGGER stored BEFORE INSERT ON jobs BEGIN INSERT OR IGNORE INTO tasks VALUES (new.func_name, 'stored'); END`)
	o.exec(`CREATE TRIGGER changed AFTER UPDATE ON jobs BEGIN INSERT OR REPLACE INTO tasks VALUES (new.func_name, new.status); END`)
	s := sqliteStorage(t, path, nil)
	for range 2 {
		mustEnqueue(t, s, NewJob("a"))
		mustEnqueue(t, s, NewJob("a"), NewJob("a"), NewJob("a"))
	}
	late.Enqueue(t.Context(), NewJob("a"), NewJob("a")) // fails, for the triggers have come after it was opened, but only once
	for range 2 {
		mustEnqueue(t, late, NewJob("a"), NewJob("a"))
	}
	o.want("a|stored", `SELECT * FROM tasks`)
	if err := s.Enqueue(t.Context(), NewJob("b"), &Job{ID: "x", Task: "b"}, &Job{ID: "x", Task: "b"}); !errors.Is(err, ErrDuplicate) {
		t.Errorf("a batch with an ID twice: %v", err)
	}
	jobs := mustDequeue(t, s, 12)
	o.want("a|RUNNING", `SELECT * FROM tasks`)
	if lost, err := s.Heartbeat(t.Context(), jobs...); len(lost) > 0 || err != nil {
		t.Errorf("Heartbeat: %d jobs lost, %v", len(lost), err)
	}
	if lost, err := s.MarkDone(t.Context(), jobs...); len(lost) > 0 || err != nil {
		t.Errorf("MarkDone: %d jobs lost, %v", len(lost), err)
	}
	o.want("a|SUCCESS", `SELECT * FROM tasks`)
	mustEnqueue(t, s, &Job{ID: "1", Task: "c"})
	o.exec(`DELETE FROM tasks`)
	if err := s.Enqueue(t.Context(), &Job{ID: "1", Task: "c"}); !errors.Is(err, ErrDuplicate) {
		t.Errorf("an ID for the second time: %v", err)
	}
	o.want("", `SELECT * FROM tasks`)
}

// A unique index of the user's may refuse a job. That is its producer's error alone.
func TestARefusedJobIsNoErrorOfTheNeighboursOrOfAWaitingClaim(t *testing.T) {
	for _, claims := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			s, path := newSQLite(t)
			otherProgram(t, path).exec(`CREATE UNIQUE INDEX once ON jobs(func_name) WHERE func_name='once'`)
			mustEnqueue(t, s, NewJob("once"))
			mustDequeue(t, s, 1)
			claimed := make(chan string, 1)
			if claims {
				go func() {
					jobs, err := s.Dequeue(t.Context(), DequeueOptions{Max: 9})
					claimed <- fmt.Sprint(tasksOf(jobs), " ", err)
				}()
				synctest.Wait()
			}
			var errs [4]error
			var calls []func()
			for i, task := range []string{"a", "once", "b", "once"} {
				calls = append(calls, func() { errs[i] = s.Enqueue(t.Context(), NewJob(task)) })
			}
			blocked(t, path, calls...)
			for i, err := range errs {
				if refused := err != nil; refused != (i%2 == 1) {
					t.Errorf("with claims %t: call %d: %v", claims, i, err)
				}
			}
			if got := listed(t, s.Jobs(t.Context(), Filter{})); got != "once a b" {
				t.Errorf("with claims %t there are now %q", claims, got)
			}
			if !claims {
				return
			}
			if got := <-claimed; got != "a b <nil>" {
				t.Errorf("the claim got %s", got)
			}
		})
	}
}

// The job goes to the claim, then a neighbour fails, and by the time of the next try the claim is gone.
func TestAJobGivenInATransactionThatFailsIsGivenAnew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, path := newSQLite(t)
		ctx, cancel := context.WithCancel(t.Context())
		blocked(t, path,
			func() {
				if jobs, err := s.Dequeue(ctx, DequeueOptions{Max: 1}); len(jobs) > 0 || !errors.Is(err, context.Canceled) {
					t.Errorf("Dequeue: %d jobs, %v; want none, for its ctx has ended", len(jobs), err)
				}
			},
			func() { mustEnqueue(t, s, NewJob("a")) },
			func() { mustEnqueue(t, s, &Job{Task: "b", Key: "k"}) }, // before which the first must be stored
			func() {
				err := s.do(t.Context(), "break", func() {
					cancel()
					for !s.w.waiting[0].gone.Load() {
						runtime.Gosched()
					}
					s.w.fail(errTask)
				})
				if !errors.Is(err, errTask) {
					t.Errorf("the neighbour: %v, want %v", err, errTask)
				}
			},
		)
		if got := listed(t, s.Jobs(t.Context(), Filter{Status: StatusPending})); got != "a b" {
			t.Errorf("waiting are %q, want a and b", got)
		}
	})
}

func TestAVerbThatFailsDoesNotTakeItsNeighboursWithIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, path := newSQLite(t)
		ctx := t.Context()
		mustEnqueue(t, s, &Job{Task: "held", ID: "held", Key: "k"})
		job := mustDequeue(t, s, 1)[0]
		var errs [6]error
		var claimed []*Job
		n := blocked(t, path,
			func() { claimed, errs[0] = s.Dequeue(ctx, DequeueOptions{Max: 1}) },
			func() { errs[1] = s.Enqueue(ctx, NewJob("a")) }, // goes to the Dequeue, which must forget it with the others
			func() { errs[2] = s.Enqueue(ctx, NewJob("b")) },
			func() { errs[3] = s.Enqueue(ctx, NewJob("c"), &Job{Task: "d", Key: "k"}, NewJob("e")) },
			func() { errs[4] = s.Enqueue(ctx, NewJob("f")) },
			func() { _, errs[5] = s.MarkDone(ctx, job) },
		)
		for i, err := range errs {
			if duplicate, ok := errors.AsType[*DuplicateError](err); i != 3 && err != nil || i == 3 && (!ok || *duplicate != DuplicateError{"held", "k"}) {
				t.Errorf("verb %d: %v", i, err)
			}
		}
		if got := tasksOf(claimed); got != "a" || n != 1 {
			t.Errorf("claimed %q in %d transactions", got, n)
		}
		if got := listed(t, s.Jobs(ctx, Filter{})); got != "held a b f" {
			t.Errorf("there are now %q", got)
		}
		if lost, err := s.MarkDone(ctx, claimed...); len(lost) > 0 || err != nil {
			t.Errorf("MarkDone of what was claimed: %d lost, %v", len(lost), err)
		}
	})
}

func TestAWaitingDequeueIsServedInTheTransactionOfTheEnqueue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, path := newSQLite(t)
		waiting := dequeueLater(t.Context(), s, 3, "q")
		synctest.Wait()
		before := commits(t, path)
		mustEnqueue(t, s, &Job{Task: "elsewhere"})
		if n := commits(t, path) - before; n != 1 {
			t.Errorf("a job of another queue took %d transactions", n)
		}
		runAt := time.Now().Add(-time.Minute)
		given := &Job{Task: "a", Args: []any{1}, Kwargs: map[string]any{"k": "v"}, Queue: "q", Priority: 3, Key: "key", RunAt: runAt}
		mustEnqueue(t, s, given)
		if n := commits(t, path) - before; n != 2 {
			t.Errorf("Enqueue and the claim took %d transactions", n-1)
		}
		now := microTime(time.Now())
		want := []*Job{{ID: given.ID, Task: "a", Args: []any{json.RawMessage("1")}, Kwargs: map[string]any{"k": json.RawMessage(`"v"`)}, Queue: "q",
			Priority: 3, Key: "key", RunAt: microTime(runAt), Status: StatusRunning, Attempts: 1, Claim: now.UnixMicro(),
			CreatedAt: now, HeartbeatAt: now}}
		got := <-waiting
		if diff := gocmp.Diff(want, got.jobs); diff != "" || got.err != nil {
			t.Errorf("Dequeue: %v (-want +got):\n%s", got.err, diff)
		}
		stored, err := s.Get(t.Context(), given.ID)
		if diff := gocmp.Diff(want[0], stored); diff != "" || err != nil {
			t.Errorf("what is stored: %v (-want +got):\n%s", err, diff)
		}
		onWriter(t, s, func(w *writer) {
			for text := range w.stmts {
				if strings.HasPrefix(text, "UPDATE jobs SET status='RUNNING'") {
					t.Error("it was stored as PENDING first, and then claimed")
				}
			}
		})
		if given.Status != StatusPending {
			t.Errorf("the caller's job is %s", given.Status)
		}
		if lost, err := s.MarkDone(t.Context(), got.jobs...); len(lost) > 0 || err != nil {
			t.Errorf("MarkDone: %d lost, %v", len(lost), err)
		}
	})
}

func TestAWaitingDequeueGetsFirstWhatWasReadyBefore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, path := newSQLite(t)
		waiting := dequeueLater(t.Context(), s, 1)
		synctest.Wait()
		// Nobody has told the storage of this one.
		otherProgram(t, path).exec(`INSERT INTO jobs (id, func_name, args, kwargs, status, attempts, created_at) VALUES ('x', 'first', '[]', '{}', 'PENDING', 0, 0)`)
		mustEnqueue(t, s, NewJob("second"))
		if got := <-waiting; tasksOf(got.jobs) != "first" {
			t.Errorf("it got %q", tasksOf(got.jobs))
		}
		if got := tasksOf(mustDequeue(t, s, 9)); got != "second" {
			t.Errorf("the next one got %q", got)
		}
	})
}

func TestAJobThatMustWaitForAFreeSlotIsNotOvertakenByANewOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, path := newSQLite(t)
		mustEnqueue(t, s, NewJob("killer"))
		if err := s.MarkFailed(t.Context(), mustDequeue(t, s, 1)[0], errors.New("x"), time.Time{}); err != nil {
			t.Fatal(err)
		}
		mustEnqueue(t, s, &Job{Task: "fresh", Priority: 1})
		var got []*Job
		blocked(t, path,
			func() { got, _ = s.Dequeue(t.Context(), DequeueOptions{Max: 9, Ahead: 9 - 1}) },
			func() { mustEnqueue(t, s, NewJob("new")) })
		if tasksOf(got) != "fresh" {
			t.Errorf("one slot and eight places ahead got %q, want the fresh job alone", tasksOf(got))
		}
	})
}

func TestADueTimeWakesAWaitingDequeueAtThatMoment(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, path := newSQLite(t)
		start := time.Now()
		after := func(d time.Duration) time.Time { return start.Add(d) }
		mustEnqueue(t, s, &Job{Task: "b", RunAt: after(90 * time.Minute)}, &Job{Task: "a", RunAt: after(1500 * time.Millisecond)})
		waiting := dequeueLater(t.Context(), s, 9)
		synctest.Wait()
		mustEnqueue(t, s, &Job{Task: "c", RunAt: after(100 * time.Millisecond)}) // the nearest, while one waits
		for _, want := range []struct {
			tasks string
			at    time.Duration
		}{{"c", 100 * time.Millisecond}, {"a", 1500 * time.Millisecond}, {"a", 2 * time.Second}, {"b", 90 * time.Minute}} {
			got := <-waiting
			if tasksOf(got.jobs) != want.tasks || !got.at.Equal(after(want.at)) || got.err != nil {
				t.Errorf("after %v it got %q, %v; want %q after %v", got.at.Sub(start), tasksOf(got.jobs), got.err, want.tasks, want.at)
			}
			waiting = dequeueLater(t.Context(), s, 9)
			if time.Since(start) == 1500*time.Millisecond { // a retry is due at its time, too
				if err := s.MarkFailed(t.Context(), got.jobs[0], errors.New("x"), after(2*time.Second)); err != nil {
					t.Error(err)
				}
			}
		}
		// What another program has due soon is found by the next look.
		synctest.Wait()
		otherProgram(t, path).exec(`INSERT INTO jobs (id, func_name, args, kwargs, status, attempts, created_at, run_at, future)
			VALUES ('x', 'd', '[]', '{}', 'PENDING', 0, 0, ?, 1)`, seconds(after(150*time.Minute+time.Second)))
		if got := <-waiting; tasksOf(got.jobs) != "d" || !got.at.Equal(after(150*time.Minute+time.Second)) {
			t.Errorf("after %v it got %q", got.at.Sub(start), tasksOf(got.jobs))
		}
	})
}

func TestStoragesOnOneFileWakeEachOther(t *testing.T) {
	path := filepath.Join(t.TempDir(), "q.db")
	a, b := sqliteStorage(t, path, nil), sqliteStorage(t, path, nil)
	quickest := time.Hour
	for range 5 {
		waiting := dequeueLater(t.Context(), a, 1)
		awaitSleep(t, a)
		sent := time.Now()
		mustEnqueue(t, b, NewJob("a"))
		got := <-waiting
		if got.err != nil {
			t.Fatal(got.err)
		}
		quickest = min(quickest, got.at.Sub(sent))
	}
	if quickest > backstopPoll/2 {
		t.Errorf("the quickest of them took %v; the writer's slow poll has woken it", quickest)
	}
}

func TestWithAPollIntervalStoragesFindEachOthersJobs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "q.db")
		a := sqliteStorage(t, path, &SQLiteOptions{PollInterval: time.Second})
		b := sqliteStorage(t, path, &SQLiteOptions{PollInterval: time.Hour})
		for range 3 {
			waiting := dequeueLater(t.Context(), a, 1)
			time.Sleep(time.Hour + 300*time.Millisecond)
			sent := time.Now()
			mustEnqueue(t, b, NewJob("a"))
			if got := <-waiting; got.at.Sub(sent) > time.Second || got.err != nil {
				t.Errorf("it took %v, error %v", got.at.Sub(sent), got.err)
			}
		}
	})
}

func TestAnotherProcessWakesAWaitingDequeue(t *testing.T) {
	for _, verb := range []string{"enqueue", "enqueuetx"} {
		t.Run(verb, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "q.db")
			s := sqliteStorage(t, path, nil)
			start, end := process(t, verb, path)
			waiting := dequeueLater(t.Context(), s, 1)
			start()
			if got := <-waiting; tasksOf(got.jobs) != "sent" || got.err != nil {
				t.Errorf("it got %q, %v", tasksOf(got.jobs), got.err)
			}
			end()
		})
	}
}

// promptly is how long, in a bubble, an answer may take that should come at once: a few tries for the lock.
const promptly = 5 * lockRetry

func TestACallEndsWithItsContextWhileAnotherHoldsTheLock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, path := newSQLite(t)
		mustEnqueue(t, s, NewJob("letter"), NewJob("done"), NewJob("held"), NewJob("free"))
		jobs := mustDequeue(t, s, 3)
		if err := s.DeadLetter(t.Context(), jobs[0], errors.New("x")); err != nil {
			t.Fatal(err)
		}
		if _, err := s.MarkDone(t.Context(), jobs[1]); err != nil {
			t.Fatal(err)
		}
		o := otherProgram(t, path)
		const all = "SELECT *, (SELECT count(*) FROM dlq) FROM jobs"
		before := o.all(all)
		release := o.lock()
		for name, verb := range verbs(s, jobs[2]) {
			ctx, cancel := context.WithCancel(t.Context())
			answer := make(chan error, 1)
			go func() { answer <- verb(ctx) }()
			time.Sleep(time.Second)
			select {
			case err := <-answer:
				t.Errorf("%s has not waited for the lock: %v", name, err)
				answer <- err
			default:
			}
			start := time.Now()
			cancel()
			if err := <-answer; !errors.Is(err, context.Canceled) || time.Since(start) > promptly {
				t.Errorf("%s: %v after %v", name, err, time.Since(start))
			}
		}
		if n, err := s.Size(t.Context()); n != 1 || err != nil {
			t.Errorf("Size: %d, %v", n, err) // reading needs no lock
		}
		if got := listed(t, s.Jobs(t.Context(), Filter{})); got != "letter done held free" {
			t.Errorf("Jobs: %s", got)
		}
		release()
		time.Sleep(time.Minute)
		onWriter(t, s, func(*writer) {})
		if diff := gocmp.Diff(before, o.all(all)); diff != "" {
			t.Errorf("verbs that were called off have written (-before +after):\n%s", diff)
		}
	})
}

func TestADequeueThatDoesNotWaitForJobsStillWaitsForTheLock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, path := newSQLite(t)
		mustEnqueue(t, s, NewJob("a"), NewJob("b"))
		release := otherProgram(t, path).lock()
		start := time.Now()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if jobs, err := s.Dequeue(ctx, DequeueOptions{Max: 1, NoWait: true}); jobs != nil || !errors.Is(err, context.DeadlineExceeded) || time.Since(start) > time.Second+promptly {
			t.Errorf("with the lock held: %q, %v after %v", tasksOf(jobs), err, time.Since(start))
		}
		release()
		if got := tasksOf(dueNow(t, s, 9)); got != "a b" {
			t.Errorf("Dequeue: %q, want a b", got)
		}
		if got := tasksOf(dueNow(t, s, 9)); got != "" {
			t.Errorf("with nothing due: %q", got)
		}
	})
}

func TestAJobGoesToAWaitingDequeueThatIsStillThere(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, _ := newSQLite(t)
		ctx, cancel := context.WithCancel(t.Context())
		gone, there := dequeueLater(ctx, s, 1), dequeueLater(t.Context(), s, 1)
		synctest.Wait()
		cancel()
		if got := <-gone; !errors.Is(got.err, context.Canceled) {
			t.Errorf("the one that was called off: %v", got.err)
		}
		mustEnqueue(t, s, NewJob("a"))
		if got := <-there; tasksOf(got.jobs) != "a" || got.err != nil {
			t.Errorf("the other: %q, %v", tasksOf(got.jobs), got.err)
		}
	})
}

func TestCloseAnswersWhoeverWaits(t *testing.T) {
	for _, locked := range []bool{false, true} {
		t.Run(fmt.Sprintf("locked=%t", locked), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s, path := newSQLite(t)
				mustEnqueue(t, s, NewJob("a"))
				job := mustDequeue(t, s, 1)[0]
				if locked {
					defer otherProgram(t, path).lock()()
				}
				var wg sync.WaitGroup
				for name, verb := range verbs(s, job) {
					if locked || name == "Dequeue" || name == "DequeueAhead" {
						wg.Go(func() {
							// Those for which there is nothing to do need not wait.
							if err := verb(t.Context()); !errors.Is(err, ErrClosed) && (name != "Prune" || err != nil) {
								t.Errorf("%s: %v", name, err)
							}
						})
					}
				}
				time.Sleep(time.Second)
				start := time.Now()
				for range 2 {
					wg.Go(func() {
						if err := s.Close(); err != nil {
							t.Errorf("Close: %v", err)
						}
					})
				}
				wg.Wait()
				if took := time.Since(start); took > promptly {
					t.Errorf("Close took %v", took)
				}
			})
		})
	}
}

func TestUseAfterCloseIsErrClosed(t *testing.T) {
	s, path := newSQLite(t)
	mustEnqueue(t, s, NewJob("a"), NewJob("b"))
	job := mustDequeue(t, s, 1)[0]
	next, stop := iter.Pull2(s.Jobs(t.Context(), Filter{}))
	defer stop()
	next()
	for range 2 {
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
	calls := verbs(s, job)
	calls["Size"] = func(ctx context.Context) error { _, err := s.Size(ctx); return err }
	calls["Stats"] = func(ctx context.Context) error { _, err := s.Stats(ctx); return err }
	calls["Get"] = func(ctx context.Context) error { _, err := s.Get(ctx, job.ID); return err }
	for name, listing := range map[string]iter.Seq2[*Job, error]{"Jobs": s.Jobs(t.Context(), Filter{}), "DeadLetters": s.DeadLetters(t.Context(), Filter{})} {
		calls[name] = func(context.Context) (last error) {
			n := 0
			for _, last = range listing {
				n++
			}
			if n != 1 {
				t.Errorf("%s yielded %d times", name, n)
			}
			return last
		}
	}
	for name, call := range calls {
		if err := call(t.Context()); !errors.Is(err, ErrClosed) {
			t.Errorf("%s: %v", name, err)
		}
	}
	otherProgram(t, path).want("2", "SELECT count(*) FROM jobs")
}

func TestQueuesAreMergedByPriorityAndAge(t *testing.T) {
	s, _ := newSQLite(t)
	seed := rand.Uint64()
	random := rand.New(rand.NewPCG(seed, 0))
	t.Logf("seed %d", seed)
	var waiting []*Job // in the order of age
	name := func(i int) string { return fmt.Sprint("q", i) }
	for range 60 {
		batch := make([]*Job, 1+random.IntN(12))
		for i := range batch {
			batch[i] = &Job{Task: NewID(), Queue: name(random.IntN(6)), Priority: random.IntN(4) - 1}
		}
		mustEnqueue(t, s, batch...)
		waiting = append(waiting, batch...)
		var queues []string
		for i := range random.IntN(5) {
			queues = append(queues, name((i*2+1)%7), name((i*2+1)%7)) // named twice; there is no q6
		}
		order := slices.SortedStableFunc(slices.Values(waiting), func(a, b *Job) int { return b.Priority - a.Priority })
		if len(queues) > 0 {
			order = slices.DeleteFunc(order, func(job *Job) bool { return !slices.Contains(queues, job.Queue) })
		}
		order = order[:min(len(order), 1+random.IntN(12))]
		got := dueNow(t, s, max(len(order), 1), queues...)
		if want := tasksOf(order); tasksOf(got) != want {
			t.Fatalf("from the queues %q:\n%s\nwant\n%s", queues, tasksOf(got), want)
		}
		waiting = slices.DeleteFunc(waiting, func(job *Job) bool { return slices.Contains(order, job) })
	}
	if got := dueNow(t, s, 1, "q6"); len(got) > 0 {
		t.Errorf("an empty queue has %q", tasksOf(got))
	}
}

func TestTheDefaultQueueMayBeNamedByItsEmptyName(t *testing.T) {
	s, _ := newSQLite(t)
	mustEnqueue(t, s, NewJob("a"), NewJob("b"))
	if got := tasksOf(dueNow(t, s, 1, "")); got != "a" {
		t.Errorf("it has %q", got)
	}
	if got := listed(t, s.Jobs(t.Context(), Filter{Queue: defaultQueue})); got != "a b" {
		t.Errorf("Jobs: %q", got)
	}
}

func TestReapStaleGoesByTheMomentOfItsCall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, path := newSQLite(t)
		mustEnqueue(t, s, NewJob("stale"), NewJob("alive"))
		jobs := mustDequeue(t, s, 2)
		time.Sleep(time.Minute)
		if _, err := s.Heartbeat(t.Context(), jobs[1]); err != nil {
			t.Fatal(err)
		}
		release := otherProgram(t, path).lock()
		go func() {
			time.Sleep(time.Minute)
			release()
		}()
		if n, err := s.ReapStale(t.Context(), 10*time.Second); n != 1 || err != nil {
			t.Errorf("ReapStale: %d, %v; the other job's heartbeat was in time when it was called", n, err)
		}
		if got := tasksOf(dueNow(t, s, 9)); got != "stale" {
			t.Errorf("there is %q to do", got)
		}
	})
}

// ---- Tx ----

// begin starts a transaction of the user's, in a file where the user has a table.
func (o other) begin() *sql.Tx {
	o.t.Helper()
	o.exec("CREATE TABLE IF NOT EXISTS orders (name TEXT)")
	tx, err := o.db.BeginTx(context.Background(), nil)
	if err != nil {
		o.t.Fatal(err)
	}
	if _, err := tx.Exec("INSERT INTO orders VALUES ('cake')"); err != nil {
		o.t.Fatal(err)
	}
	return tx
}

func TestTxEnqueueStoresWhatIsCommittedAndNothingElse(t *testing.T) {
	s, path := newSQLite(t)
	o := otherProgram(t, path)
	for _, commit := range []bool{false, true} {
		tx := o.begin()
		jobs := []*Job{{Task: "bake", Args: []any{1}, RunAt: time.Now().Add(time.Hour), Key: "k", Priority: 2}, {Task: "sell", Queue: "q"}}
		if err := s.Tx(tx).Enqueue(t.Context(), jobs...); err != nil {
			t.Fatal(err)
		}
		if got := listed(t, s.Jobs(t.Context(), Filter{})); got != "" {
			t.Errorf("before the commit there are %q", got)
		}
		if !commit {
			if err := tx.Rollback(); err != nil {
				t.Fatal(err)
			}
			continue
		}
		if err := tx.Commit(); err != nil {
			t.Fatal(err)
		}
		got := slices.Collect(maps.Keys(maps.Collect(s.Jobs(t.Context(), Filter{Task: "BAKE"}))))
		want := *jobs[0]
		want.Args, want.RunAt = []any{json.RawMessage("1")}, microTime(want.RunAt)
		if diff := gocmp.Diff([]*Job{&want}, got); diff != "" || want.ID == "" || want.Queue != "default" || want.Status != StatusPending {
			t.Errorf("what is stored, and what the caller was told (-told +stored):\n%s", diff)
		}
		if got := tasksOf(dueNow(t, s, 9)); got != "sell" {
			t.Errorf("there is %q to do", got)
		}
	}
	o.want("cake", "SELECT name FROM orders")
}

func TestTheCommitOfATransactionWakesAWaitingDequeue(t *testing.T) {
	path := filepath.Join(t.TempDir(), "q.db")
	s := sqliteStorage(t, path, nil)
	waiting := dequeueLater(t.Context(), s, 1)
	awaitSleep(t, s)
	tx := otherProgram(t, path).begin()
	if err := s.Tx(tx).Enqueue(t.Context(), NewJob("a")); err != nil {
		t.Fatal(err)
	}
	committing := time.Now()
	if err := tx.Commit(); err != nil {
		t.Fatal(err)
	}
	if got := <-waiting; tasksOf(got.jobs) != "a" || got.err != nil || got.at.Before(committing) {
		t.Errorf("it got %q, %v", tasksOf(got.jobs), got.err)
	}
}

func TestTxEnqueueStoresAllOrNoneAndTheTransactionGoesOn(t *testing.T) {
	s, path := newSQLite(t)
	mustEnqueue(t, s, &Job{Task: "held", ID: "held", Key: "k"})
	tx := otherProgram(t, path).begin()
	many := func(odd *Job) (jobs []*Job) {
		for range 20 {
			jobs = append(jobs, NewJob("many"))
		}
		jobs[11] = odd
		return jobs
	}
	for _, test := range []struct {
		odd  *Job
		want error
	}{
		{&Job{Task: "odd", ID: "held"}, ErrDuplicate},
		{&Job{Task: "odd", Key: "k"}, ErrDuplicate},
		{&Job{Task: "odd", Args: []any{strings.Repeat("x", maxEncoded)}}, ErrTooLarge},
		{&Job{Task: "odd", Args: []any{func() {}}}, ErrBadArgs},
	} {
		jobs := many(test.odd)
		if err := s.Tx(tx).Enqueue(t.Context(), jobs...); !errors.Is(err, test.want) {
			t.Errorf("Tx.Enqueue: %v, want %v", err, test.want)
		}
		if jobs[0].ID != "" {
			t.Error("a job that was not stored got an ID")
		}
	}
	if err := s.Tx(tx).Enqueue(t.Context(), NewJob("after")); err != nil {
		t.Error(err)
	}
	if err := errors.Join(s.Tx(tx).Enqueue(t.Context()), tx.Commit()); err != nil {
		t.Error(err)
	}
	otherProgram(t, path).want("held after cake", "SELECT group_concat(func_name, ' ') || ' ' || (SELECT name FROM orders) FROM jobs")
}

// SQLite would otherwise end the transaction by itself, and what follows in it would be stored at once.
func TestAFullDiskInTxEnqueueLeavesTheTransactionAsItWas(t *testing.T) {
	for _, n := range []int{1, 3, 8} {
		s, path := newSQLite(t)
		tx := otherProgram(t, path).begin() // which has stored a cake
		var pages int
		if err := tx.QueryRow(`PRAGMA page_count`).Scan(&pages); err != nil {
			t.Fatal(err)
		}
		if _, err := tx.Exec(fmt.Sprintf(`PRAGMA max_page_count=%d`, pages+2)); err != nil {
			t.Fatal(err)
		}
		jobs := make([]*Job, n)
		for i := range jobs {
			jobs[i] = NewJob("large", strings.Repeat("x", 50_000))
		}
		if err := s.Tx(tx).Enqueue(t.Context(), jobs...); !isCode(err, codeFull) {
			t.Errorf("%d jobs: %v, want that the disk is full", n, err)
		}
		if _, err := tx.Exec(`INSERT INTO orders VALUES ('tea')`); err != nil {
			t.Errorf("after %d jobs: %v", n, err)
		}
		otherProgram(t, path).want("0", `SELECT count(*) FROM orders WHERE name='tea'`)
		if err := tx.Commit(); err != nil {
			t.Errorf("after %d jobs: %v", n, err)
		}
		otherProgram(t, path).want("cake tea 0", `SELECT group_concat(name, ' ') || ' ' || (SELECT count(*) FROM jobs) FROM orders`)
	}
}

// endsLater is a context that ends when it has been asked a number of times whether it has.
type endsLater struct {
	context.Context
	asked  *atomic.Int64
	at     int64
	cancel context.CancelFunc
}

func (c endsLater) Done() <-chan struct{} {
	if c.asked.Add(1) == c.at {
		c.cancel()
	}
	return c.Context.Done()
}

func TestTxEnqueueStoresAllOrNoneWhenItsContextEndsMidway(t *testing.T) {
	s, path := newSQLite(t)
	o := otherProgram(t, path)
	stored := 0
	for at := int64(1); stored == 0; at++ {
		ended, cancel := context.WithCancel(t.Context())
		defer cancel()
		ctx := endsLater{ended, new(atomic.Int64), at, cancel}
		tx := o.begin()
		jobs := make([]*Job, 24)
		for i := range jobs {
			jobs[i] = NewJob("a")
		}
		err := s.Tx(tx).Enqueue(ctx, jobs...)
		if err := tx.Commit(); err != nil {
			t.Fatalf("a context that ended when asked %d times spoiled the transaction: %v", at, err)
		}
		if stored, _ = s.Size(t.Context()); err == nil && stored != 24 || err != nil && stored != 0 {
			t.Fatalf("a context that ended when asked %d times: %d of 24 jobs are stored; error %v", at, stored, err)
		}
	}
}

func TestTxEnqueueWaitsForOtherWritersWhereTheTransactionItselfWouldNot(t *testing.T) {
	s, path := newSQLite(t)
	db, err := sql.Open("sqlite", path) // without a busy_timeout
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	tx, err := db.BeginTx(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	release := otherProgram(t, path).lock()
	short, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	wantError(t, s.Tx(tx).Enqueue(short, NewJob("early")), "locked")
	go release()
	if err := errors.Join(s.Tx(tx).Enqueue(t.Context(), NewJob("late")), tx.Commit()); err != nil {
		t.Fatal(err)
	}
	if got := listed(t, s.Jobs(t.Context(), Filter{})); got != "late" {
		t.Errorf("there are %q", got)
	}
}

func TestAVerbThatPanicsFailsAloneAndTheWriterLives(t *testing.T) {
	s, _ := newSQLite(t)
	_, err := s.MarkDone(t.Context(), nil)
	wantError(t, err, "nil pointer")
	mustEnqueue(t, s, NewJob("after"))
	if got := tasksOf(dueNow(t, s, 1)); got != "after" {
		t.Errorf("there is %q to do", got)
	}
}

func TestTxEnqueueTakesOnlyTransactionsOnItsFile(t *testing.T) {
	dir := t.TempDir()
	s, path := newSQLite(t)
	for file, says := range map[string]string{filepath.Join(dir, "other.db"): "other.db", ":memory:": `""`} {
		tx := otherProgram(t, file).begin()
		wantError(t, s.Tx(tx).Enqueue(t.Context(), NewJob("a")), "they must be one file", path, says)
		if err := tx.Commit(); err != nil {
			t.Error(err)
		}
	}
	if err := os.Symlink(path, filepath.Join(dir, "link.db")); err != nil {
		t.Fatal(err)
	}
	tx := otherProgram(t, filepath.Join(dir, "link.db")).begin()
	if err := errors.Join(s.Tx(tx).Enqueue(t.Context(), NewJob("b")), tx.Commit()); err != nil {
		t.Errorf("the same file by another name: %v", err)
	}
	if got := listed(t, s.Jobs(t.Context(), Filter{})); got != "b" {
		t.Errorf("there are %q", got)
	}
}

// ---- Rows written by others ----

func TestRowsThatNobodyCanRunAreDeadLetteredOrLeftAndBlockNone(t *testing.T) {
	type row struct{ what, column, value string }
	dead := []row{
		{"args that are no JSON", "args", `'[1'`},
		{"args that are no array", "args", `'{"a":1}'`},
		{"null as args", "args", `'null'`},
		{"kwargs that are no object", "kwargs", `'[1]'`},
		{"args of bytes that are no text", "args", `x'ff00fe'`},
		{"no id", "id", `NULL`},
		{"an id of bytes", "id", `x'01ff'`},
		{"attempts in words", "attempts", `'many'`},
		{"negative attempts", "attempts", `-1`},
		{"attempts beyond counting", "attempts", `9223372036854775807`},
		{"attempts that are no integer", "attempts", `1e300`},
		{"a claim that cannot grow", "claim", `9223372036854775807`},
		{"a negative claim", "claim", `-5`},
		{"a claim in words", "claim", `'mine'`},
	}
	left := []row{
		{"an unknown status", "status", `'BOGUS'`},
		{"a status of bytes", "status", `x'50454e44494e47'`},
		{"a queue of bytes", "queue", `x'64656661756c74'`},
		{"a future that is neither", "future", `2`},
		{"a due time in words", "future, run_at", `1, 'tomorrow'`},
		{"a due time that never comes", "future, run_at", `1, 9e999`},
	}
	run := []row{
		{"args of bytes that are JSON", "args", `CAST('[1]' AS BLOB)`},
		{"a huge priority", "priority", `9e300`},
		{"a priority in words", "priority", `'urgent'`},
		{"the lowest priority", "priority", `-9223372036854775808`},
		{"a creation in words", "created_at", `'yesterday'`},
		{"a creation before all time", "created_at", `-9e999`},
		{"a creation after all time", "created_at", `1e300`},
		{"a due time long past", "future, run_at", `1, -9e999`},
		{"an error of bytes", "error", `x'ff'`},
		{"a result that is no JSON", "result", `'{'`},
		{"a key of bytes", "key", `x'ff'`},
		{"a queue of an empty name", "queue", `''`},
		{"a queue with a NUL", "queue", `CAST(x'6100' AS TEXT)`},
		{"a queue that is no UTF-8", "queue", `CAST(x'ff' AS TEXT)`},
		{"no task", "func_name", `''`},
	}
	s, path := newSQLite(t)
	o := otherProgram(t, path)
	for _, rows := range [][]row{dead, left, run} {
		for _, r := range rows {
			values := map[string]string{"id": "'" + r.what + "'", "func_name": "'" + r.what + "'", "args": `'[]'`, "kwargs": `'{}'`,
				"status": `'PENDING'`, "attempts": `0`, "created_at": `1700000000.0`}
			if columns := strings.Split(r.column, ", "); len(columns) == 1 {
				values[r.column] = r.value
			} else {
				for i, value := range strings.Split(r.value, ", ") {
					values[columns[i]] = value
				}
			}
			columns := slices.Sorted(maps.Keys(values))
			given := make([]string, len(columns))
			for i, column := range columns {
				given[i] = values[column]
			}
			o.exec("INSERT INTO jobs (" + strings.Join(columns, ", ") + ") VALUES (" + strings.Join(given, ", ") + ")")
		}
	}
	mustEnqueue(t, s, NewJob("last"))

	got := make(map[string]bool)
	for jobs := dueNow(t, s, 5); len(jobs) > 0; jobs = dueNow(t, s, 5) {
		for _, job := range jobs {
			got[job.Task] = true
		}
		if lost, err := s.MarkDone(t.Context(), jobs...); len(lost) > 0 || err != nil {
			t.Errorf("MarkDone: %d lost, %v", len(lost), err)
		}
	}
	want := map[string]bool{"last": true}
	for _, r := range run {
		want[r.what] = true
	}
	delete(want, "no task")
	want[""] = true
	if diff := gocmp.Diff(want, got); diff != "" {
		t.Errorf("jobs to run (-want +got):\n%s", diff)
	}

	// The listings survive them all, and a program can read what they print.
	letters, jobs := make(map[string]bool), make(map[string]bool)
	for letter, err := range s.DeadLetters(t.Context(), Filter{}) {
		if err != nil {
			t.Fatal(err)
		}
		letters[letter.Task] = true
		wantError(t, errors.New(letter.Error), "pinion: ", "stored")
	}
	for job, err := range s.Jobs(t.Context(), Filter{}) {
		if err != nil {
			t.Fatal(err)
		}
		jobs[job.Task] = true
		if _, err := json.Marshal(job); err != nil {
			t.Errorf("%s: %v", job.Task, err)
		}
	}
	want = make(map[string]bool)
	for _, r := range dead {
		want[r.what] = true
	}
	if diff := gocmp.Diff(want, letters); diff != "" {
		t.Errorf("dead letters (-want +got):\n%s", diff)
	}
	if n := len(dead) + len(left) + len(run) + 1; len(jobs) != n {
		t.Errorf("%d jobs are listed, want %d", len(jobs), n)
	}
	if _, err := s.Stats(t.Context()); err != nil {
		t.Error(err)
	}
	if n, err := s.Size(t.Context()); n > len(left) || err != nil {
		t.Errorf("Size: %d, %v", n, err)
	}

	// Nor do they stop the reaper, the replay or the pruning.
	o.exec("UPDATE jobs SET status='RUNNING', heartbeat_at=0 WHERE status='FAILED'")
	if n, err := s.ReapStale(t.Context(), time.Second); n != len(dead) || err != nil {
		t.Errorf("ReapStale: %d, %v", n, err)
	}
	if jobs := dueNow(t, s, 5); len(jobs) > 0 {
		t.Errorf("there is %q to do", tasksOf(jobs))
	}
	if n, err := s.Replay(t.Context(), Filter{}); n < len(dead) || err != nil {
		t.Errorf("Replay: %d, %v", n, err)
	}
	if got := tasksOf(dueNow(t, s, 99)); strings.Count(got, "attempts") != 4 || strings.Contains(got, "args") {
		t.Errorf("there is %q to do; want those whose attempts the replay has mended", got)
	}
	if _, err := s.Purge(t.Context(), Filter{}); err != nil {
		t.Error(err)
	}
	if _, err := s.Prune(t.Context(), time.Now().Add(time.Hour)); err != nil {
		t.Error(err)
	}
}

// ---- Listings ----

func TestListingsPageWhileRowsComeAndGo(t *testing.T) {
	s, path := newSQLite(t)
	o := otherProgram(t, path)
	jobs := make([]*Job, 1100)
	for i := range jobs {
		jobs[i] = &Job{ID: fmt.Sprintf("%04d", i), Task: strconv.Itoa(i)}
	}
	mustEnqueue(t, s, jobs...)
	o.exec(`INSERT INTO dlq (id, func_name, args, kwargs, attempts, error, failed_at) SELECT id, func_name, args, kwargs, 1, 'x', 1 FROM jobs`)
	for table, listing := range map[string]iter.Seq2[*Job, error]{"jobs": s.Jobs(t.Context(), Filter{}), "dlq": s.DeadLetters(t.Context(), Filter{})} {
		want, got, last := make(map[string]bool), make(map[string]bool), ""
		for _, job := range jobs {
			want[job.ID] = true
		}
		for job, err := range listing {
			if err != nil {
				t.Fatal(err)
			}
			if job.ID <= last {
				t.Fatalf("%s: %s comes after %s", table, job.ID, last)
			}
			if last = job.ID; len(got)%100 == 0 {
				// One is deleted behind, one two pages ahead, which will then not be listed, and one is added.
				ahead := fmt.Sprintf("%04d", len(got)+450)
				delete(want, ahead)
				o.exec("DELETE FROM "+table+" WHERE id IN (?, ?)", job.ID, ahead)
				o.exec("INSERT INTO "+table+" (id, func_name, args, kwargs, attempts"+map[string]string{"jobs": ", status, created_at", "dlq": ", error, failed_at"}[table]+
					") VALUES (?, 'added', '[]', '{}', 1, 'PENDING', 1)", fmt.Sprintf("9%04d", len(got)))
			}
			got[job.ID] = true
		}
		if last < "9" {
			t.Errorf("%s: what was added to the end is not listed", table)
		}
		maps.DeleteFunc(got, func(id string, _ bool) bool { return id > "9" })
		if diff := gocmp.Diff(want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", table, diff)
		}
	}
	n := 0
	for _, err := range s.Jobs(t.Context(), Filter{Limit: 450}) {
		if n++; err != nil {
			t.Fatal(err)
		}
	}
	if n != 450 {
		t.Errorf("with a limit of 450 %d are listed", n)
	}
}

func TestAListingLeftOpenHoldsNoTransaction(t *testing.T) {
	s, path := newSQLite(t)
	for range 300 {
		mustEnqueue(t, s, NewJob("a"))
	}
	next, stop := iter.Pull2(s.Jobs(t.Context(), Filter{}))
	defer stop()
	for range 201 {
		if _, err, more := next(); err != nil || !more {
			t.Fatal(err, more)
		}
	}
	o := otherProgram(t, path)
	o.want("0|0|0", "PRAGMA wal_checkpoint(TRUNCATE)")
	if info, err := os.Stat(path + "-wal"); err != nil || info.Size() != 0 {
		t.Errorf("after a checkpoint the log has %d bytes, error %v", info.Size(), err)
	}
	o.exec("DELETE FROM jobs")
	o.exec("VACUUM")
	for range 99 {
		if _, err, more := next(); err != nil || !more {
			t.Fatal(err, more)
		}
	}
	if _, err, more := next(); more {
		t.Errorf("there is more: %v", err)
	}
}

// ---- Retention ----

func TestReapStalePrunesAfterRetentionAndSparesDeadLetters(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, path := newSQLite(t)
		mustEnqueue(t, s, NewJob("done"), NewJob("letter"), NewJob("purged"), NewJob("running"), NewJob("pending"))
		jobs := mustDequeue(t, s, 4)
		if lost, err := s.MarkDone(t.Context(), jobs[0]); len(lost) > 0 || err != nil {
			t.Fatal(lost, err)
		}
		for _, job := range jobs[1:3] {
			if err := s.DeadLetter(t.Context(), job, errors.New("x")); err != nil {
				t.Fatal(err)
			}
		}
		if n, err := s.Purge(t.Context(), Filter{IDs: []string{jobs[2].ID}}); n != 1 || err != nil {
			t.Fatal(n, err)
		}
		// Python finishes without telling when; its heartbeat, or else the creation, has to do.
		o := otherProgram(t, path)
		ago := func(d time.Duration) float64 { return seconds(time.Now().Add(-d)) }
		const insert = `INSERT INTO jobs (id, func_name, args, kwargs, status, attempts, created_at, heartbeat_at) VALUES (?, ?, '[]', '{}', 'SUCCESS', 1, ?, ?)`
		o.exec(insert, "1", "old", ago(25*time.Hour), nil)
		o.exec(insert, "2", "old beaten of late", ago(25*time.Hour), ago(time.Hour))
		reap := func() string {
			t.Helper()
			if n, err := s.ReapStale(t.Context(), 1000*time.Hour); n != 0 || err != nil {
				t.Fatalf("ReapStale: %d, %v", n, err)
			}
			return listed(t, s.Jobs(t.Context(), Filter{}))
		}
		for _, test := range []struct {
			after time.Duration
			left  string
		}{
			{0, "done letter purged running pending old beaten of late"},
			{23*time.Hour + time.Minute, "done letter purged running pending"},
			{time.Hour - 2*time.Minute, "done letter purged running pending"},
			{2 * time.Minute, "letter running pending"},
		} {
			time.Sleep(test.after)
			if got := reap(); got != test.left {
				t.Errorf("there are %q, want %q", got, test.left)
			}
		}

		// When there is nothing to prune or to reap no lock is needed.
		time.Sleep(2 * time.Minute)
		defer o.lock()()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if n, err := s.ReapStale(ctx, 1000*time.Hour); n != 0 || err != nil {
			t.Errorf("ReapStale with the lock held elsewhere: %d, %v", n, err)
		}
	})
}

func TestANegativeRetentionIsForEver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := sqliteStorage(t, filepath.Join(t.TempDir(), "q.db"), &SQLiteOptions{PollInterval: time.Hour, Retention: -1})
		mustEnqueue(t, s, NewJob("a"))
		mustFinish(t, s)
		time.Sleep(10 * 365 * 24 * time.Hour)
		if _, err := s.ReapStale(t.Context(), time.Second); err != nil {
			t.Fatal(err)
		}
		if got := listed(t, s.Jobs(t.Context(), Filter{})); got != "a" {
			t.Errorf("there are %q", got)
		}
	})
}

func TestPruningGoesOnInSmallTransactionsUntilAllIsGone(t *testing.T) {
	s, path := newSQLite(t)
	jobs := make([]*Job, 2500)
	for i := range jobs {
		jobs[i] = NewJob("a")
	}
	mustEnqueue(t, s, jobs...)
	if lost, err := s.MarkDone(t.Context(), mustDequeue(t, s, 2500)...); len(lost) > 0 || err != nil {
		t.Fatal(len(lost), err)
	}
	otherProgram(t, path).exec("PRAGMA wal_checkpoint(TRUNCATE)")
	if n, err := s.Prune(t.Context(), time.Now().Add(time.Second)); n != 2500 || err != nil {
		t.Errorf("Prune: %d, %v", n, err)
	}
	if n := commits(t, path); n != 3 {
		t.Errorf("it took %d transactions, want 3", n)
	}
}

// ---- Values ----

func TestTimesAreStoredExactToTheMicrosecond(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	for range 10000 {
		at := time.UnixMicro(random.Int64N(1e6 << 32)).UTC() // until the year 2106
		if got := fromSeconds(seconds(at)); !got.Equal(at) {
			t.Fatalf("%v becomes %v", at, got)
		}
	}
	synctest.Test(t, func(t *testing.T) {
		s, _ := newSQLite(t)
		time.Sleep(123456789 * time.Nanosecond)
		due := time.Now().Add(987654321 * time.Nanosecond)
		given := &Job{Task: "a", RunAt: due}
		mustEnqueue(t, s, given)
		created := time.Now()
		job := mustDequeue(t, s, 1)[0]
		if time.Now().Before(due.Truncate(time.Microsecond)) {
			t.Errorf("it ran at %v, before %v", time.Now(), due)
		}
		claimed := time.Now()
		time.Sleep(1001 * time.Nanosecond)
		if _, err := s.MarkDone(t.Context(), job); err != nil {
			t.Fatal(err)
		}
		got, err := s.Get(t.Context(), job.ID)
		if err != nil {
			t.Fatal(err)
		}
		want := *job
		want.Status, want.RunAt, want.CreatedAt, want.HeartbeatAt, want.FinishedAt = StatusSuccess, microTime(due), microTime(created), microTime(claimed), microTime(time.Now())
		if diff := gocmp.Diff(&want, got); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
		if !given.CreatedAt.Equal(want.CreatedAt) {
			t.Errorf("the caller was told %v, stored is %v", given.CreatedAt, want.CreatedAt)
		}
	})
}

func TestArgumentsAndResultsAreStoredAsText(t *testing.T) {
	s, path := newSQLite(t)
	waiting := dequeueLater(t.Context(), s, 1)
	mustEnqueue(t, s, &Job{Task: "a", Args: []any{"<ü>", json.RawMessage(`1.0`), uint64(1<<64 - 1)}, Kwargs: map[string]any{"k": nil}})
	mustEnqueue(t, s, &Job{Task: "a", Args: []any{"<ü>", json.RawMessage(`1.0`), uint64(1<<64 - 1)}, Kwargs: map[string]any{"k": nil}})
	for _, jobs := range [][]*Job{(<-waiting).jobs, mustDequeue(t, s, 1)} {
		jobs[0].Result = json.RawMessage(`{"n":12345678901234567890}`)
		if lost, err := s.MarkDone(t.Context(), jobs...); len(lost) > 0 || err != nil {
			t.Fatal(lost, err)
		}
	}
	const row = `text|text|text|["<ü>",1.0,18446744073709551615]|{"k":null}|{"n":12345678901234567890}`
	otherProgram(t, path).want(row+"\n"+row, "SELECT typeof(args), typeof(kwargs), typeof(result), args, kwargs, result FROM jobs")
}

func TestEachJobOfABatchIsStoredAsItIs(t *testing.T) {
	s, _ := newSQLite(t)
	later := time.Date(2999, 1, 1, 0, 0, 0, 0, time.UTC)
	for i := range perStatement {
		for _, odd := range []*Job{{Task: "odd"}, {Task: "a", Queue: "odd"}, {Task: "a", Priority: -1}, {Task: "a", RunAt: later},
			{Task: "a", Key: NewID()}, {Task: "a", ID: NewID()}, {Task: "a", Args: []any{1}}, {Task: "a", Kwargs: map[string]any{"x": 1}}} {
			jobs := make([]*Job, perStatement)
			for i := range jobs {
				jobs[i] = NewJob("a")
			}
			jobs[i] = odd
			mustEnqueue(t, s, jobs...)
			for _, job := range jobs {
				stored, err := s.Get(t.Context(), job.ID)
				if err != nil {
					t.Fatal(err)
				}
				if got, want := fields(t, stored), fields(t, job); got != want {
					t.Errorf("job %d of a batch is odd: got %s, want %s", i, got, want)
				}
			}
		}
	}
}

// fields is what a producer says of a job.
func fields(t *testing.T, job *Job) string {
	args, kwargs, err := job.EncodeArgs()
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprint(job.ID, job.Task, args, kwargs, job.Queue, job.Priority, job.RunAt, job.Key, job.CreatedAt)
}

func TestABigBatchIsStoredAllOrNone(t *testing.T) {
	s, path := newSQLite(t)
	mustEnqueue(t, s, &Job{Task: "held", ID: "held", Key: "k"})
	batch := func(odd *Job) []*Job {
		jobs := make([]*Job, 10000)
		for i := range jobs {
			jobs[i] = NewJob("a", i)
		}
		jobs[9998] = odd
		return jobs
	}
	for name, odd := range map[string]*Job{
		"a taken id": {Task: "odd", ID: "held"},
		"a held key": {Task: "odd", Key: "k"},
		"too large":  {Task: "odd", Args: []any{strings.Repeat("x", maxEncoded)}},
	} {
		if err := s.Enqueue(t.Context(), batch(odd)...); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	o := otherProgram(t, path)
	o.want("held", "SELECT func_name FROM jobs")
	o.exec("PRAGMA wal_checkpoint(TRUNCATE)")
	mustEnqueue(t, s, batch(NewJob("even"))...)
	if n := commits(t, path); n != 1 {
		t.Errorf("it took %d transactions", n)
	}
	if n, err := s.Size(t.Context()); n != 10001 || err != nil {
		t.Errorf("Size: %d, %v", n, err)
	}
	jobs := mustDequeue(t, s, 20000)
	if lost, err := s.MarkDone(t.Context(), jobs...); len(jobs) != 10001 || len(lost) > 0 || err != nil {
		t.Errorf("of %d claimed jobs %d are lost, %v", len(jobs), len(lost), err)
	}
}

// ---- Many processes ----

const perProducer = 100

// workAndProduce is one of the processes in the test below: a worker with eight slots and a producer, until the end
// of the standard input. Whatever goes wrong on the way is printed, which fails the test.
func workAndProduce(ctx context.Context, path string) error {
	s, err := OpenSQLite(ctx, path, &SQLiteOptions{Synchronous: "NORMAL"})
	if err != nil {
		return err
	}
	log, err := os.OpenFile(path+".log", os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	var registry Registry
	registry.Add(Task[string]{Name: "note", Run: func(_ context.Context, line string) error {
		_, err := log.WriteString(line + "\n")
		return err
	}})
	w := &Worker{Storage: s, Registry: &registry, Concurrency: 8, VisibilityTimeout: time.Minute,
		Logger: slog.New(slog.NewTextHandler(os.Stdout, &slog.HandlerOptions{Level: slog.LevelWarn}))}
	produced := make(chan error, 1)
	go func() {
		for i := range perProducer {
			if err := s.Enqueue(ctx, NewJob("note", fmt.Sprint(os.Getpid(), " ", i))); err != nil {
				produced <- err
				return
			}
		}
		produced <- nil
	}()
	go func() {
		io.Copy(io.Discard, os.Stdin)
		w.Stop()
	}()
	return errors.Join(w.Run(ctx), <-produced, s.Close(), log.Close())
}

func TestEightProcessesOnOneFileRunEachJobOnce(t *testing.T) {
	path := filepath.Join(t.TempDir(), "q.db")
	s := sqliteStorage(t, path, nil)
	const processes = 8
	var stop, end []func()
	for range processes {
		e, wait := process(t, "work", path)
		stop, end = append(stop, e), append(end, wait)
	}
	// The last one of as many jobs as there will be says that all are done.
	look := time.NewTicker(10 * time.Millisecond)
	defer look.Stop()
	for done := 0; done < processes*perProducer; {
		select {
		case <-look.C:
		case <-t.Context().Done():
			t.Fatal(t.Context().Err())
		}
		stats, err := s.Stats(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, queue := range stats.Queues {
			if done = queue.Success; queue.Failed > 0 {
				t.Fatalf("%d jobs have failed", queue.Failed)
			}
		}
	}
	for i := range stop {
		stop[i]()
	}
	for i := range end {
		end[i]()
	}
	log, err := os.ReadFile(path + ".log")
	if err != nil {
		t.Fatal(err)
	}
	times := make(map[string]int)
	for line := range strings.Lines(string(log)) {
		times[line]++
	}
	for line, n := range times {
		if n != 1 {
			t.Errorf("the job %q ran %d times", line, n)
		}
	}
	if len(times) != processes*perProducer {
		t.Errorf("%d jobs ran, want %d", len(times), processes*perProducer)
	}
	otherProgram(t, path).want(fmt.Sprintf("SUCCESS|%d|1", processes*perProducer), "SELECT status, count(*), max(attempts) FROM jobs GROUP BY status")
}

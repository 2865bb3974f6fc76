package pinion

import (
	"bytes"
	"cmp"
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"log/slog"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	gocmp "github.com/google/go-cmp/cmp"

	"github.com/pinion-queue/pinion/internal/rules"
)

// plain is a storage without optional powers.
type plain struct{ Storage }

// neverAhead is a storage that claims nothing ahead of free slots, which is correct.
type neverAhead struct{ Storage }

// siege is a worker and a producer on one file to which something happens.
type siege struct {
	*scene
	sqlite *SQLiteStorage
	run    *runningWorker
	calls  atomic.Int64 // of the worker to the storage

	mu     sync.Mutex        // guards the rest
	stored map[string]string // the tasks of the jobs whose Enqueue returned nil
	errs   []error           // of the other Enqueues
	ran    map[string]int    // how often each job's task began
}

// besiege has a worker and a producer work for a while before something happens, and long after. Then every job that
// was acknowledged, and no other, must have ended in SUCCESS after as many attempts as its task needs. As long as it
// happens the worker must tell of it, once a second at most.
func besiege(t *testing.T, path string, happens func(s *siege)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		s := &siege{stored: make(map[string]string), ran: make(map[string]int)}
		// The power does not fail in these tests, so most of the fsyncs may be left out.
		s.sqlite = sqliteStorage(t, path, &SQLiteOptions{PollInterval: time.Second, Synchronous: "NORMAL"})
		s.scene = &scene{t, s.sqlite, time.Now()}
		s.run = s.scene.run(&Worker{Storage: &calls{s.sqlite, &s.calls}, Concurrency: 16, VisibilityTimeout: 5 * time.Second},
			s.takes("quick", 200*time.Millisecond, 1), s.takes("again", 200*time.Millisecond, 2), s.takes("long", 12*time.Second, 1))
		stop := s.produce()
		s.sleep(5 * time.Second)
		happens(s)
		s.sleep(time.Minute)
		stop()
		s.sleep(time.Minute)
		s.verify()
	})
}

// calls counts the calls to a storage that end.
type calls struct {
	*SQLiteStorage
	n *atomic.Int64
}

// testProgram returns the path of this program.
func testProgram(t *testing.T) string {
	t.Helper()
	path, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// inChild runs the test once more in a process of its own, of which it may then spoil what a process has one of.
func inChild(t *testing.T, change func(cmd *exec.Cmd), test func(t *testing.T)) {
	t.Helper()
	const itself = "PINION_TEST_CHILD"
	if os.Getenv(itself) == t.Name() {
		test(t)
		return
	}
	left := time.Duration(0) // without end
	if deadline, ok := t.Deadline(); ok {
		left = time.Until(deadline)
	}
	cmd := exec.CommandContext(t.Context(), testProgram(t), "-test.run=^"+t.Name()+"$", "-test.v",
		fmt.Sprint("-test.timeout=", left))
	cmd.Env = append(os.Environ(), itself+"="+t.Name())
	change(cmd)
	out, err := cmd.CombinedOutput()
	if strings.Contains(string(out), "--- SKIP: "+t.Name()) {
		t.Skipf("in a process of its own:\n%s", out)
	}
	if err != nil || !strings.Contains(string(out), "--- PASS: "+t.Name()) {
		t.Fatalf("in a process of its own: %v\n%s", err, out)
	}
}

func rename(t *testing.T, from, to string) {
	t.Helper()
	if err := os.Rename(from, to); err != nil {
		t.Fatal(err)
	}
}

func TestMain(m *testing.M) {
	// A storage names its file without links, and so must tests that compare names.
	temporary, err := filepath.EvalSymlinks(os.TempDir())
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Setenv("TMPDIR", temporary)
	os.Setenv("TMP", temporary) // its name on Windows
	m.Run()
}

func init() {
	processes["scribble"] = func(_ context.Context, path string) error {
		sound, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		damaged := append([]byte(nil), sound...)
		for i := 4096; i < len(damaged); i++ {
			damaged[i] = byte(i * 7)
		}
		return errors.Join(os.WriteFile(path+".copy", sound, 0o600), os.WriteFile(path, damaged, 0o600))
	}
	processes["die"] = func(ctx context.Context, path string) error {
		s, err := OpenSQLite(ctx, path, nil)
		if err != nil {
			return err
		}
		return s.Enqueue(ctx, NewJob("lost")) // the process ends without Close
	}
	processes["mend"] = func(_ context.Context, path string) error {
		sound, err := os.ReadFile(path + ".copy")
		return errors.Join(err, os.WriteFile(path, sound, 0o600))
	}
}

// scene is one bubble's storage and what happens to it.
type scene struct {
	*testing.T
	storage tended
	start   time.Time
}

// tended is what both storages are.
type tended interface {
	Storage
	Canceler
	Inspector
}

// overStorages runs test in a bubble over each storage.
func overStorages(t *testing.T, test func(sc *scene)) {
	t.Run("memory", func(t *testing.T) { inBubble(t, NewMemoryStorage(), test) })
	t.Run("sqlite", func(t *testing.T) { inBubble(t, nil, test) })
}

// inBubble runs test in a bubble. Without a storage it opens a SQLite file there.
func inBubble(t *testing.T, storage tended, test func(sc *scene)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		if storage == nil {
			opened, err := OpenSQLite(t.Context(), filepath.Join(t.TempDir(), "jobs.db"),
				&SQLiteOptions{PollInterval: time.Second, Synchronous: "NORMAL"})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { opened.Close() })
			storage = opened
		}
		test(&scene{t, storage, time.Now()})
	})
}

// runningWorker is a Run in progress.
type runningWorker struct {
	worker *Worker
	stop   context.CancelFunc // ends the ctx of Run
	log    *jobLog
	ended  chan struct{}
	err    error         // of Run
	at     time.Duration // when Run returned
}

// sleeping is a task that obeys its ctx.
func sleeping(ctx context.Context, d time.Duration) error { pause(ctx, d); return ctx.Err() }

// jobLog keeps what a worker logs at Warn and above.
type jobLog struct {
	start time.Time
	mu    sync.Mutex // guards the rest
	kept  []slog.Record
}

// watched counts what a worker holds: what it has claimed, less what has ended or gone back.
type watched struct {
	tended
	slots int

	mu         sync.Mutex           // guards the rest
	held       map[string]time.Time // when they were claimed
	most       int                  // held at once
	batches    []int                // what each claim got
	again      int                  // claims of jobs that had been claimed before
	againAhead int                  // of those, without a free slot
}

// failing is a storage whose verbs fail: those that are named, or each at random.
type failing struct {
	tended

	mu     sync.Mutex // guards the rest
	broken []string   // verbs
	hangs  bool       // the broken ones wait until their ctx ends
	random *rand.Rand
	ends   map[string]int // jobs that were made SUCCESS or FAILED
}

var errBroken = errors.New("the storage is broken")

// mustEnqueue stores jobs.
func mustEnqueue(t *testing.T, s Storage, jobs ...*Job) {
	t.Helper()
	if err := s.Enqueue(t.Context(), jobs...); err != nil {
		t.Fatal(err)
	}
}

// mustDequeue claims jobs.
func mustDequeue(t *testing.T, s Storage, max int) []*Job {
	t.Helper()
	jobs, err := s.Dequeue(t.Context(), DequeueOptions{Max: max})
	if err != nil {
		t.Fatal(err)
	}
	return jobs
}

// mustFinish claims a job and marks it done.
func mustFinish(t *testing.T, s Storage) {
	t.Helper()
	if lost, err := s.MarkDone(t.Context(), mustDequeue(t, s, 1)...); len(lost) > 0 || err != nil {
		t.Fatalf("MarkDone: %d lost, error %v", len(lost), err)
	}
}

// stored names the jobs of a storage by their tasks.
func stored(t *testing.T, s Inspector) (names []string) {
	t.Helper()
	for job, err := range s.Jobs(t.Context(), Filter{}) {
		if err != nil {
			t.Fatal(err)
		}
		names = append(names, job.Task)
	}
	return names
}

// These panic when they are asked anything while they are nil, as a typed nil in an error often does.
type (
	nilText  struct{ text string }
	nilError struct{ err error }
)

// through does to a job's arguments what a storage does.
func through(job *Job) (*Job, error) {
	args, kwargs, err := job.EncodeArgs()
	if err != nil {
		return nil, err
	}
	read := &Job{ID: "id", Task: job.Task, Claim: 7}
	return read, read.DecodeArgs(args, kwargs)
}

// given runs a task with arguments of type A for job, and returns what its function was given.
func given[A any](job *Job) (got A, err error) {
	var registry Registry
	registry.Add(Task[A]{Name: "task", Run: func(_ context.Context, args A) error { got = args; return nil }})
	h, _ := registry.lookup("task")
	err = h.run(context.Background(), job)
	return got, err
}

func refuses[A any](name, args, kwargs, err string) argCase {
	return argCase{name, args, kwargs, nil, err, func(job *Job) (any, error) { return given[A](job) }}
}

// about allows for the time in which successes are gathered.
func about(got, want time.Duration) bool { return got >= want && got <= want+2*batchTime }

// slow is a storage that takes its time to end claims, unless ctx ends.
type slow struct {
	tended
	release, markDone time.Duration
}

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
	return sqliteStorage(t, path, &SQLiteOptions{PollInterval: time.Hour, Synchronous: "NORMAL"}), path
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
		if !strings.Contains(err.Error(), word) && !isSystemError(err, word) {
			t.Errorf("the error %q does not say %q", err, word)
		}
	}
}

// isSystemError reports whether an error is the one that Unix describes so. Windows describes it otherwise.
func isSystemError(err error, words string) bool {
	if runtime.GOOS != "windows" {
		return false
	}
	switch words {
	case "no such file or directory":
		return errors.Is(err, fs.ErrNotExist)
	case "file exists":
		return errors.Is(err, fs.ErrExist)
	default:
		return false
	}
}

// wantPrivate wants a file that no other user may read. Windows has no such modes.
func wantPrivate(t *testing.T, path string) {
	t.Helper()
	info, err := os.Stat(path)
	if err != nil {
		t.Error(err)
		return
	}
	if runtime.GOOS != "windows" && info.Mode() != 0o600 {
		t.Errorf("%s has mode %v; want %v", filepath.Base(path), info.Mode(), fs.FileMode(0o600))
	}
}

// fileNames returns the names that a file may have on this system.
func fileNames(names ...string) []string {
	return slices.DeleteFunc(names, func(name string) bool {
		return runtime.GOOS == "windows" && strings.ContainsAny(name, `<>:"|?*`)
	})
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
	cmd := exec.CommandContext(t.Context(), testProgram(t))
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
	// version2 had them, and cancellation.
	version2 = version1 + `ALTER TABLE jobs ADD COLUMN worker TEXT NOT NULL DEFAULT '';
	ALTER TABLE jobs ADD COLUMN cancel INTEGER NOT NULL DEFAULT 0; PRAGMA user_version=2;`
)

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

type recorded struct {
	driver.Conn
	r *recorder
}

// recordReaders has a storage's readers keep their queries from now on.
func recordReaders(s *SQLiteStorage) *recorder {
	r := &recorder{of: s.readers.Driver(), dsn: s.path, queries: make(map[string]bool)}
	s.readers.Close()
	s.readers = sql.OpenDB(r)
	return r
}

// fields is what a producer says of a job.
func fields(t *testing.T, job *Job) string {
	args, kwargs, err := job.EncodeArgs()
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprint(job.ID, job.Task, args, kwargs, job.Queue, job.Priority, job.RunAt.UTC(),
		job.Key, job.CreatedAt.UTC())
}

var errTask = errors.New("it failed")

// workerOf returns a worker for tasks that retries after 1, 2 and 4 seconds and keeps its log to itself.
func workerOf(s Storage, tasks ...AnyTask) *Worker {
	registry := new(Registry)
	registry.Add(tasks...)
	if len(tasks) == 0 {
		registry.Add(unused)
	}
	return &Worker{Storage: s, Registry: registry, Logger: slog.New(slog.DiscardHandler),
		Retry: &RetryPolicy{MaxRetries: 3, BaseDelay: time.Second, Cap: time.Minute}}
}

// unused is a task for workers whose test has none: they need at least one.
var unused = taskOf("unused", func(context.Context) error { return nil })

// taskOf returns a task without arguments.
func taskOf(name string, run func(ctx context.Context) error) Task[struct{}] {
	return Task[struct{}]{Name: name, Run: func(ctx context.Context, _ struct{}) error { return run(ctx) }}
}

// mustDrain allows for two hours, of a bubble.
func mustDrain(t *testing.T, w *Worker) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Hour)
	defer cancel()
	if err := w.Drain(ctx); err != nil {
		t.Fatalf("Drain: %v", err)
	}
}

// drainAll drains again whenever another job is due, until none is left.
func drainAll(t *testing.T, w *Worker, in Inspector) {
	t.Helper()
	for {
		mustDrain(t, w)
		var next time.Time
		for job, err := range in.Jobs(t.Context(), Filter{Status: StatusPending}) {
			if err != nil {
				t.Fatal(err)
			}
			next = rules.Earlier(next, job.RunAt)
		}
		if next.IsZero() {
			return
		}
		time.Sleep(time.Until(next))
	}
}

// started calls Run; stop ends it and waits.
func started(t *testing.T, w *Worker) (stop func()) {
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error)
	go func() { ended <- w.Run(ctx) }()
	return func() {
		t.Helper()
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("Run: %v", err)
		}
	}
}

// abandoned enqueues a job, in a queue of its own, which workers claim so many times and die of; then it is due
// again. For a bubble.
func abandoned(t *testing.T, s Storage, task string, times int) *Job {
	t.Helper()
	job := &Job{ID: NewID(), Task: task}
	job.Queue = job.ID
	mustEnqueue(t, s, job)
	for range times {
		if _, err := s.Dequeue(t.Context(), DequeueOptions{Max: 1, Queues: []string{job.Queue}, Lease: time.Second}); err != nil {
			t.Fatal(err)
		}
		reap(t, s, time.Second, 1)
	}
	time.Sleep(time.Duration(times) * time.Second) // from the second time on it is due at a moment within these
	return job
}

// reap lets leases of a length expire and has so many taken back, which takes two looks. For a bubble.
func reap(t *testing.T, s Storage, lease time.Duration, want int) {
	t.Helper()
	time.Sleep(lease + time.Millisecond)
	if n, err := s.ReapStale(t.Context(), lease); n != 0 || err != nil {
		t.Fatalf("the first ReapStale: %d, %v; want 0, for it only doubts", n, err)
	}
	time.Sleep(rules.ReapGap(lease) + time.Millisecond)
	if n, err := s.ReapStale(t.Context(), lease); n != want || err != nil {
		t.Fatalf("the second ReapStale: %d, %v; want %d", n, err, want)
	}
}

func deadLetters(t *testing.T, in Inspector) (jobs []*Job) {
	t.Helper()
	for job, err := range in.DeadLetters(t.Context(), Filter{}) {
		if err != nil {
			t.Fatal(err)
		}
		jobs = append(jobs, job)
	}
	return jobs
}

// cancel cancels jobs, of which so many are to have ended and been asked.
func (sc *scene) cancel(ended, asked int, ids ...string) {
	sc.Helper()
	gotEnded, gotAsked, err := sc.storage.Cancel(sc.Context(), ids...)
	if err != nil || len(gotEnded) != ended || len(gotAsked) != asked {
		sc.Fatalf("Cancel: %d ended, %d asked, error %v; want %d, %d and none",
			len(gotEnded), len(gotAsked), err, ended, asked)
	}
}

// wantCanceled wants jobs to have ended as canceled, in no dead letter.
func (sc *scene) wantCanceled(ids ...string) {
	sc.Helper()
	for _, id := range ids {
		if job := sc.get(id); job.Status != StatusFailed || job.Error != ErrCanceled.Error() || !job.Canceled {
			sc.Errorf("%s is %s with error %q, Canceled %t; want it canceled",
				job.Task, job.Status, job.Error, job.Canceled)
		}
	}
	if letters := deadLetters(sc.T, sc.storage); len(letters) > 0 {
		sc.Errorf("%d dead letters, want none", len(letters))
	}
}

func (s neverAhead) Dequeue(ctx context.Context, opts DequeueOptions) ([]*Job, error) {
	if opts.Ahead > 0 && opts.Ahead == opts.Max {
		return nil, ctx.Err()
	}
	opts.Max -= opts.Ahead
	opts.Ahead = 0
	return s.Storage.Dequeue(ctx, opts)
}

// takes is a task that takes a while and succeeds at its nth attempt.
func (s *siege) takes(name string, d time.Duration, n int) AnyTask {
	return s.task(name, func(ctx context.Context, job *Job) error {
		s.mu.Lock()
		s.ran[job.ID]++
		s.mu.Unlock()
		if err := sleeping(ctx, d); err != nil || job.Attempts >= n {
			return err
		}
		return errors.New("once more")
	})
}

// produce enqueues three jobs a second, each in its own time, until stop is called.
func (s *siege) produce() (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	var producers sync.WaitGroup
	producers.Go(func() {
		for i := 0; pause(ctx, 300*time.Millisecond); i++ {
			producers.Go(func() {
				s.enqueueOne([]string{"quick", "again", "quick", "quick", "quick", "quick", "quick", "long"}[i%8])
			})
		}
	})
	return func() { cancel(); producers.Wait() }
}

func (s *siege) enqueueOne(task string) {
	job := NewJob(task, strings.Repeat("x", 2000))
	err := s.sqlite.Enqueue(context.Background(), job)
	s.mu.Lock()
	defer s.mu.Unlock()
	if err != nil {
		s.errs = append(s.errs, err)
	} else {
		s.stored[job.ID] = task
	}
}

// shortenLog has the log begin again, so that it must grow at once.
func (s *siege) shortenLog() {
	s.Helper()
	otherProgram(s.T, s.sqlite.path).want("0|0|0", "PRAGMA wal_checkpoint(TRUNCATE)")
}

// during lets time pass in which every Enqueue and the worker are in trouble, and says in these words which.
func (s *siege) during(d time.Duration, words ...string) {
	s.Helper()
	s.mu.Lock()
	stored, errs := len(s.stored), len(s.errs)
	s.mu.Unlock()
	calls, lines := s.calls.Load(), len(s.run.log.lines("storage in trouble"))
	s.sleep(d)
	s.mu.Lock()
	defer s.mu.Unlock()
	if n := len(s.stored) - stored; n > 0 {
		s.Errorf("meanwhile %d jobs were stored", n)
	}
	if len(s.errs)-errs < int(d/time.Second) {
		s.Errorf("meanwhile %d errors were returned in %v, want one an Enqueue", len(s.errs)-errs, d)
	}
	for _, err := range s.errs[errs:] {
		wantError(s.T, err, append(words, "pinion: enqueue: ")...)
	}
	if n := len(s.run.log.lines("storage in trouble")) - lines; n < int(d/time.Second)*3/4 {
		s.Errorf("meanwhile the worker told of its trouble %d times in %v", n, d)
	}
	for _, said := range s.run.log.errors()[lines:] {
		wantError(s.T, said, words...)
	}
	// Sixteen slots, two claims, and what else there is, each once a second.
	if n := s.calls.Load() - calls; n > 22*int64(d/time.Second) {
		s.Errorf("meanwhile the worker called the storage %d times in %v", n, d)
	}
}

func (s *siege) verify() {
	s.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	needs := map[string]int{"quick": 1, "again": 2, "long": 1}
	for job, err := range s.sqlite.Jobs(context.Background(), Filter{}) {
		if err != nil {
			s.Fatal(err)
		}
		want := needs[s.stored[job.ID]]
		if want == 0 {
			s.Errorf("%q is there, and its Enqueue returned an error", job.Task)
		} else if job.Status != StatusSuccess || job.Attempts != want || s.ran[job.ID] != want {
			s.Errorf("%q is %s after %d attempts and %d runs; want SUCCESS after %d",
				job.Task, job.Status, job.Attempts, s.ran[job.ID], want)
		}
		delete(s.stored, job.ID)
	}
	for id, task := range s.stored {
		s.Errorf("%q (%s) was acknowledged and is not there", task, id)
	}
	lines := s.run.log.lines("storage in trouble")
	for i := range lines[min(len(lines), 1):] {
		if lines[i+1]-lines[i] < time.Second {
			s.Errorf("trouble was logged at %v and at %v, within a second", lines[i], lines[i+1])
		}
	}
	select {
	case <-s.run.ended:
		s.Errorf("Run has returned: %v", s.run.err)
	default:
	}
}

// errors are the "error" attributes of the records of trouble.
func (l *jobLog) errors() (errs []error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, r := range l.kept {
		r.Attrs(func(a slog.Attr) bool {
			if err, ok := a.Value.Any().(error); ok && strings.HasPrefix(r.Message, "storage in trouble") {
				errs = append(errs, err)
			}
			return true
		})
	}
	return errs
}

func (c *calls) Dequeue(ctx context.Context, opts DequeueOptions) ([]*Job, error) {
	defer c.n.Add(1)
	return c.SQLiteStorage.Dequeue(ctx, opts)
}

func (c *calls) MarkDone(ctx context.Context, jobs ...*Job) ([]*Job, error) {
	defer c.n.Add(1)
	return c.SQLiteStorage.MarkDone(ctx, jobs...)
}

func (c *calls) MarkFailed(ctx context.Context, job *Job, cause error, retryAt time.Time) error {
	defer c.n.Add(1)
	return c.SQLiteStorage.MarkFailed(ctx, job, cause, retryAt)
}

func (c *calls) Heartbeat(ctx context.Context, jobs ...*Job) ([]*Job, error) {
	defer c.n.Add(1)
	return c.SQLiteStorage.Heartbeat(ctx, jobs...)
}

func (c *calls) ReapStale(ctx context.Context, visibility time.Duration) (int, error) {
	defer c.n.Add(1)
	return c.SQLiteStorage.ReapStale(ctx, visibility)
}

func (c *calls) Release(ctx context.Context, at time.Time, cause error, jobs ...*Job) (lost, canceled []*Job, err error) {
	defer c.n.Add(1)
	return c.SQLiteStorage.Release(ctx, at, cause, jobs...)
}

// thatWait enqueues jobs whose tasks wait to be canceled, at six seconds with this cause, and then answer in all the
// ways there are.
func (sc *scene) thatWait(cause error) (tasks []AnyTask, ids []string) {
	sc.Helper()
	for name, answer := range map[string]func(context.Context) error{
		"nil":               func(context.Context) error { return nil },
		"the ctx's error":   func(ctx context.Context) error { return ctx.Err() },
		"the ctx's cause":   func(ctx context.Context) error { return context.Cause(ctx) },
		"ErrShutdown":       func(context.Context) error { return ErrShutdown },
		"an error":          func(context.Context) error { return errors.New("broken") },
		"a permanent error": func(context.Context) error { return Permanent(errors.New("broken")) },
		"a late retry":      func(context.Context) error { return RetryAfter(time.Hour, errors.New("broken")) },
		"a panic":           func(context.Context) error { panic("broken") },
		"runtime.Goexit":    func(context.Context) error { runtime.Goexit(); return nil },
	} {
		tasks = append(tasks, sc.task(name, func(ctx context.Context, _ *Job) error {
			<-ctx.Done()
			if after := sc.since(); after != 6*time.Second || context.Cause(ctx) != cause {
				sc.Errorf("%s: canceled after %v because %v; want 6s, the next heartbeat, and %v",
					name, after, context.Cause(ctx), cause)
			}
			return answer(ctx)
		}))
		ids = append(ids, sc.enqueue(name)...)
	}
	return tasks, ids
}

// enqueueOld enqueues a job that was claimed once, has failed and is due again.
func (t *scene) enqueueOld() {
	t.Helper()
	t.enqueue("old")
	if err := t.storage.MarkFailed(t.Context(), mustDequeue(t.T, t.storage, 1)[0], errTask, time.Time{}); err != nil {
		t.Fatal(err)
	}
}

func (sc *scene) since() time.Duration { return time.Since(sc.start) }

// sleep lets time pass, and then waits until all that happens at that moment has happened.
func (sc *scene) sleep(d time.Duration) { time.Sleep(d); synctest.Wait() }

func (sc *scene) task(name string, run func(context.Context, *Job) error) AnyTask {
	return Task[*Job]{Name: name, Run: run}
}

// enqueue stores a job for each task, in this order, and returns their ids.
func (sc *scene) enqueue(tasks ...string) (ids []string) {
	sc.Helper()
	jobs := make([]*Job, len(tasks))
	for i, task := range tasks {
		jobs[i] = NewJob(task)
	}
	mustEnqueue(sc.T, sc.storage, jobs...)
	for _, job := range jobs {
		ids = append(ids, job.ID)
	}
	return ids
}

func (sc *scene) get(id string) *Job {
	sc.Helper()
	job, err := sc.storage.Get(sc.Context(), id)
	if err != nil {
		sc.Fatal(err)
	}
	return job
}

// statuses counts the jobs of a task, or of all.
func (sc *scene) statuses(task string) map[Status]int {
	sc.Helper()
	counts := make(map[Status]int)
	for job, err := range sc.storage.Jobs(sc.Context(), Filter{Task: task}) {
		if err != nil {
			sc.Fatal(err)
		}
		counts[job.Status]++
	}
	return counts
}

// steal takes n running jobs from their holders, who must have no free slot, and claims them.
func (sc *scene) steal(n int) []*Job {
	sc.Helper()
	for job, err := range sc.storage.Jobs(sc.Context(), Filter{Status: StatusRunning}) {
		if err != nil {
			sc.Fatal(err)
		}
		if err := sc.storage.MarkFailed(sc.Context(), job, errors.New("stolen"), time.Time{}); err != nil {
			sc.Fatal(err)
		}
	}
	stolen := mustDequeue(sc.T, sc.storage, n)
	if len(stolen) != n {
		sc.Fatalf("%d jobs stolen, want %d", len(stolen), n)
	}
	return stolen
}

// run starts a worker, which is stopped, if it still runs, when the test ends.
func (sc *scene) run(w *Worker, tasks ...AnyTask) *runningWorker {
	sc.Helper()
	return sc.begin(w, w.Run, tasks...)
}

// metrics returns the sums over all tasks.
func (r *runningWorker) metrics() Metrics {
	m := r.worker.Metrics()
	m.Tasks = nil
	return m
}

func (r *runningWorker) wait() error { <-r.ended; return r.err }

// begin starts a worker's Run or Drain.
func (sc *scene) begin(w *Worker, work func(context.Context) error, tasks ...AnyTask) *runningWorker {
	sc.Helper()
	r := &runningWorker{worker: w, log: &jobLog{start: sc.start}, ended: make(chan struct{})}
	if w.Storage == nil {
		w.Storage = sc.storage
	}
	if w.Registry == nil {
		w.Registry = new(Registry)
	}
	w.Registry.Add(tasks...)
	if len(w.Registry.Names()) == 0 {
		w.Registry.Add(unused)
	}
	w.Logger = slog.New(r.log)
	var ctx context.Context
	ctx, r.stop = context.WithCancel(context.Background())
	go func() {
		defer close(r.ended)
		r.err = work(ctx)
		r.at = sc.since()
	}()
	sc.Cleanup(func() { r.stop(); r.wait() })
	return r
}

func (l *jobLog) Enabled(_ context.Context, level slog.Level) bool { return level >= slog.LevelWarn }

func (l *jobLog) WithAttrs([]slog.Attr) slog.Handler { return l }

func (l *jobLog) WithGroup(string) slog.Handler { return l }

func (l *jobLog) Handle(_ context.Context, r slog.Record) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.kept = append(l.kept, r)
	return nil
}

// attributes returns the attributes of the messages that begin so, those of one message joined by colons.
func (l *jobLog) attributes(message string, keys ...string) (found []string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, r := range l.kept {
		if !strings.HasPrefix(r.Message, message) {
			continue
		}
		values := make([]string, len(keys))
		r.Attrs(func(a slog.Attr) bool {
			if i := slices.Index(keys, a.Key); i >= 0 {
				values[i] = a.Value.String()
			}
			return true
		})
		found = append(found, strings.Join(values, ": "))
	}
	return found
}

// lines tells when messages that begin so were logged.
func (l *jobLog) lines(message string) (at []time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, r := range l.kept {
		if strings.HasPrefix(r.Message, message) {
			at = append(at, r.Time.Sub(l.start))
		}
	}
	return at
}

func (w *watched) Dequeue(ctx context.Context, opts DequeueOptions) ([]*Job, error) {
	return w.claimed(w.tended.Dequeue(ctx, opts))
}

func (w *watched) claimed(jobs []*Job, err error) ([]*Job, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, job := range jobs {
		w.held[job.ID] = time.Now()
		if job.Attempts > 1 {
			w.again++
			if len(w.held) > w.slots {
				w.againAhead++
			}
		}
	}
	w.most = max(w.most, len(w.held))
	w.batches = append(w.batches, len(jobs))
	return jobs, err
}

// largestBatch returns how many jobs a claim has got at most since the last call.
func (w *watched) largestBatch() (most int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, n := range w.batches {
		most = max(most, n)
	}
	w.batches = nil
	return most
}

func (w *watched) Release(ctx context.Context, at time.Time, cause error, jobs ...*Job) (lost, canceled []*Job, err error) {
	for _, job := range jobs {
		w.ended(job)
	}
	return w.tended.Release(ctx, at, cause, jobs...)
}

// ended is for tasks to call last.
func (w *watched) ended(job *Job) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.held, job.ID)
}

func (w *watched) claimedAt(job *Job) time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.held[job.ID]
}

// fail breaks these verbs, and mends the others.
func (f *failing) fail(verbs ...string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.broken = verbs
}

func (f *failing) do(ctx context.Context, verb string, work func() error) error {
	f.mu.Lock()
	broken, hangs, before, after := slices.Contains(f.broken, verb), f.hangs, false, false
	if f.random != nil {
		before, after = f.random.IntN(5) == 0, f.random.IntN(8) == 0
	}
	f.mu.Unlock()
	if broken && hangs {
		<-ctx.Done()
		return ctx.Err()
	}
	if broken || before {
		return errBroken
	}
	err := work()
	if after {
		err = cmp.Or(err, errBroken)
	}
	return err
}

func (f *failing) ended(jobs ...*Job) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.ends == nil {
		f.ends = make(map[string]int)
	}
	for _, job := range jobs {
		f.ends[job.ID]++
	}
}

func (f *failing) endsOf(id string) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.ends[id]
}

func (f *failing) Dequeue(ctx context.Context, opts DequeueOptions) (jobs []*Job, err error) {
	err = f.do(ctx, "Dequeue", func() (err error) {
		jobs, err = f.tended.Dequeue(ctx, opts)
		return err
	})
	// Nobody knows of claims that are lost here. Chance must not lose all that a job may lose in a row: a worker
	// would rightly give it up.
	if err != nil && !slices.ContainsFunc(jobs, func(job *Job) bool { return job.Reaped == maxReaped-1 }) {
		return nil, err
	}
	return jobs, nil
}

func (f *failing) Get(ctx context.Context, id string) (job *Job, err error) {
	err = f.do(ctx, "Get", func() (err error) {
		job, err = f.tended.Get(ctx, id)
		return err
	})
	return job, err
}

func (f *failing) MarkDone(ctx context.Context, jobs ...*Job) (lost []*Job, err error) {
	err = f.do(ctx, "MarkDone", func() (err error) {
		lost, err = f.tended.MarkDone(ctx, jobs...)
		if err == nil {
			f.ended(slices.DeleteFunc(slices.Clone(jobs), func(job *Job) bool { return slices.Contains(lost, job) })...)
		}
		return err
	})
	return lost, err
}

func (f *failing) MarkFailed(ctx context.Context, job *Job, cause error, retryAt time.Time) error {
	return f.do(ctx, "MarkFailed", func() error { return f.tended.MarkFailed(ctx, job, cause, retryAt) })
}

func (f *failing) DeadLetter(ctx context.Context, job *Job, cause error) error {
	return f.do(ctx, "DeadLetter", func() error {
		err := f.tended.DeadLetter(ctx, job, cause)
		if err == nil {
			f.ended(job)
		}
		return err
	})
}

func (f *failing) Heartbeat(ctx context.Context, jobs ...*Job) (lost []*Job, err error) {
	err = f.do(ctx, "Heartbeat", func() (err error) {
		lost, err = f.tended.Heartbeat(ctx, jobs...)
		return err
	})
	return lost, err
}

func (f *failing) ReapStale(ctx context.Context, visibility time.Duration) (n int, err error) {
	err = f.do(ctx, "ReapStale", func() (err error) {
		n, err = f.tended.ReapStale(ctx, visibility)
		return err
	})
	return n, err
}

func (f *failing) Release(ctx context.Context, at time.Time, cause error, jobs ...*Job) (lost, canceled []*Job, err error) {
	err = f.do(ctx, "Release", func() (err error) {
		lost, canceled, err = f.tended.Release(ctx, at, cause, jobs...)
		return err
	})
	return lost, canceled, err
}

func (e *nilText) Error() string { return e.text }

func (e *nilError) Error() string { return e.err.Error() }

func (e *nilError) Unwrap() error { return e.err }

func (s *slow) Release(ctx context.Context, at time.Time, cause error, jobs ...*Job) (lost, canceled []*Job, err error) {
	if !pause(ctx, s.release) {
		return nil, nil, ctx.Err()
	}
	return s.tended.Release(ctx, at, cause, jobs...)
}

func (s *slow) MarkDone(ctx context.Context, jobs ...*Job) (lost []*Job, err error) {
	if !pause(ctx, s.markDone) {
		return nil, ctx.Err()
	}
	return s.tended.MarkDone(ctx, jobs...)
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

func (c recorded) QueryContext(ctx context.Context, query string, args []driver.NamedValue) (driver.Rows, error) {
	c.r.mu.Lock()
	c.r.queries[query] = true
	c.r.mu.Unlock()
	return c.Conn.(driver.QueryerContext).QueryContext(ctx, query, args)
}

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

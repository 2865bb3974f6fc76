package pinion

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"
)

func TestANewFileIsPrivateDurableAndOfTheNewestSchema(t *testing.T) {
	for asked, want := range map[string]int64{"": 2, "FULL": 2, "NORMAL": 1, "normal": 1} {
		t.Run("synchronous="+asked, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "q.db")
			s := sqliteStorage(t, path, &SQLiteOptions{Synchronous: asked})
			mustEnqueue(t, s, NewJob("a"))
			for _, end := range []string{"", "-wal", "-shm"} {
				wantPrivate(t, path+end)
			}
			otherProgram(t, path).want("wal|3",
				"SELECT journal_mode, user_version FROM pragma_journal_mode, pragma_user_version")
			inTransaction(t, s, func(tx *transaction) {
				if got := tx.value("PRAGMA synchronous"); got != want {
					t.Errorf("PRAGMA synchronous is %v, want %d", got, want)
				}
			})
		})
	}
}

func TestOpenSQLiteRefusesBadOptions(t *testing.T) {
	dir := t.TempDir()
	for _, test := range []struct {
		opts SQLiteOptions
		says string
	}{
		{SQLiteOptions{Synchronous: "OFF"}, `Synchronous is "OFF"`},
		{SQLiteOptions{PollInterval: -1}, "PollInterval is -1ns; want 0"},
	} {
		_, err := OpenSQLite(t.Context(), filepath.Join(dir, "q.db"), &test.opts)
		wantError(t, err, test.says)
	}
	if found := folder(t, dir); len(found) > 0 {
		t.Errorf("the folder holds %v, want nothing", slices.Collect(maps.Keys(found)))
	}
}

func TestAPathMayHoldAnyCharacter(t *testing.T) {
	for _, name := range fileNames("with space.db", "what?mode=memory.db", "a#b.db", "100%25.db", "%", "ünï-日本.db", `quote'".db`,
		"quote'.db", "a;b&c=d.db", "file:x.db", "-rf", "sqlite:x") {
		for _, relative := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s relative=%t", name, relative), func(t *testing.T) {
				dir, path := t.TempDir(), name
				t.Chdir(dir)
				if !relative {
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
				found := slices.Sorted(maps.Keys(folder(t, dir)))
				if diff := gocmp.Diff([]string{name, name + "-shm", name + "-wal"}, found); diff != "" {
					t.Errorf("the folder (-want +got):\n%s", diff)
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
		inTransaction(t, s, func(*transaction) {
			if s.claims.watch == nil {
				t.Error("writes through the other name are polled for; want the operating system to report them")
			}
		})
	}
}

func TestOpenSQLiteRefusesAPathThatIsNotAFile(t *testing.T) {
	dir := t.TempDir()
	for _, test := range []struct{ path, says string }{
		{"", "the path is empty"},
		{":memory:", "it is not a file; use memory: for the storage in memory"},
		{dir, "it is a directory; want a file"},
		{dir + "/", "its name is that of a directory; want a file"},
		{dir + "/q.db/", "its name is that of a directory; want a file"},
		{dir + "/q.db/.", "its name is that of a directory; want a file"},
		{".", "its name is that of a directory; want a file"},
		{"..", "its name is that of a directory; want a file"},
		{filepath.Join(dir, "missing", "q.db"), "no such file or directory"},
		{filepath.Join(dir, "nul\x00.db"), "invalid argument"},
	} {
		for _, readOnly := range []bool{false, true} {
			_, err := OpenSQLite(t.Context(), test.path, &SQLiteOptions{ReadOnly: readOnly})
			wantError(t, err, "pinion: open "+test.path+": ", test.says)
		}
	}
	if found := folder(t, dir); len(found) > 0 {
		t.Errorf("the folder holds %v, want nothing", slices.Collect(maps.Keys(found)))
	}
}

func TestOpenSQLiteRefusesTheFilesBesideAnother(t *testing.T) {
	s, path := newSQLite(t)
	mustEnqueue(t, s, NewJob("a"))
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	before := folder(t, filepath.Dir(path))
	for _, suffix := range []string{"-wal", "-shm", "-journal"} {
		_, err := OpenSQLite(t.Context(), path+suffix, nil)
		wantError(t, err, "pinion: open "+path+suffix+": it is a part of ", "q.db; want that file")
	}
	if after := folder(t, filepath.Dir(path)); !maps.Equal(before, after) {
		t.Error("the folder has changed")
	}
	sqliteStorage(t, filepath.Join(t.TempDir(), "jobs-wal"), nil) // beside nothing
}

func TestOpenSQLiteLeavesNoFileWhoseNameIsTooLongForSQLite(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, strings.Repeat("n", 250)) // the -journal has 258 characters, and 255 are the most
	if _, err := OpenSQLite(t.Context(), path, nil); err == nil {
		t.Error("OpenSQLite has opened it")
	}
	if found := folder(t, dir); len(found) > 0 {
		t.Errorf("the folder holds %d files, want nothing", len(found))
	}
}

func TestOpenSQLiteRefusesAForeignFileAndLeavesItUnchanged(t *testing.T) {
	t.Parallel()
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
		{"a newer version", sqlite(python02 + "PRAGMA user_version=4;"), "is version 4, from a newer Pinion or another program; want at most 3"},
		{"a newer version in WAL mode", sqlite(python02 + "PRAGMA user_version=4; PRAGMA journal_mode=WAL;"), "is version 4, from a newer Pinion"},
		{"jobs of another program", sqlite("CREATE TABLE jobs (id INTEGER PRIMARY KEY, title TEXT); INSERT INTO jobs VALUES (1, 'cook');"), `its table "jobs" belongs to another program: it has no column "func_name"`},
		{"jobs of another program in WAL mode", sqlite("PRAGMA journal_mode=WAL; CREATE TABLE jobs (id INTEGER PRIMARY KEY, title TEXT);"), `its table "jobs" belongs to another program`},
		{"another program whose version is one of ours", sqlite("CREATE TABLE notes (title TEXT); PRAGMA user_version=1;"),
			"its PRAGMA user_version is 1, but it lacks a table of a queue: it belongs to another program"},
		{"another program whose version is our newest", sqlite("CREATE TABLE notes (title TEXT); PRAGMA user_version=3;"),
			"its PRAGMA user_version is 3, but it lacks a table of a queue"},
		{"a queue without its dlq", sqlite(version2 + "DROP TABLE dlq;"), "its PRAGMA user_version is 2, but it lacks a table"},
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
	t.Parallel()
	for version, script := range map[string]string{"0.2": python02, "0.1": python01, "version 1": version1, "version 2": version2} {
		t.Run(version, func(t *testing.T) {
			dir := t.TempDir()
			path := filepath.Join(dir, "q.db")
			_, err := OpenSQLite(t.Context(), path, &SQLiteOptions{ReadOnly: true})
			wantError(t, err, "no such file or directory")
			if found := folder(t, dir); len(found) > 0 {
				t.Errorf("opening a missing file made %v", found)
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
			letter := &Job{
				ID:         "13aa6a7c6bd64f1c8d0e8d5b3f6c7a05",
				Task:       "greet",
				Args:       []any{json.RawMessage(`"J\u00fcrgen"`)},
				Queue:      "default",
				Status:     StatusFailed,
				Attempts:   4,
				Error:      "nobody",
				FinishedAt: time.UnixMilli(1700000007250).UTC(),
			}
			if diff := gocmp.Diff([]*Job{letter}, deadLetters(t, s)); diff != "" {
				t.Errorf("the dead letters (-want +got):\n%s", diff)
			}
			stats, err := s.Stats(ctx)
			first, second := time.UnixMicro(1700000001123456).UTC(), time.UnixMicro(1700000002500000).UTC()
			total := Counts{Pending: 2, Due: 2, Running: 1, Oldest: first, OldestDue: first}
			want := Stats{
				Total:  total,
				Queues: []QueueStats{{"default", total}},
				Tasks: []TaskStats{
					{"ADD", Counts{Pending: 1, Due: 1, Oldest: first, OldestDue: first}},
					{"add", Counts{Pending: 1, Due: 1, Running: 1, Oldest: second, OldestDue: second}},
				},
				DeadLetters: 1,
			}
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

// A process that reads the file itself loses its locks on it: POSIX. Whoever closes the file last then must
// not remove the -wal, into which that process goes on writing.
func TestTheWALOutlivesAProcessThatClosesTheFile(t *testing.T) {
	s, path := newSQLite(t)
	mustEnqueue(t, s, NewJob("before"))
	if _, err := os.ReadFile(path); err != nil { // the locks of this process are gone
		t.Fatal(err)
	}
	start, end := process(t, "enqueue", path)
	start()
	end()
	mustEnqueue(t, s, NewJob("after"))
	if err := s.checkReplaced(); err != nil {
		t.Error(err)
	}
	if got := listed(t, s.Jobs(t.Context(), Filter{})); got != "before sent after" {
		t.Errorf("the jobs are %q", got)
	}
}

func TestEveryConnectionThatWritesCutsAWALThatHasGrown(t *testing.T) {
	s, _ := newSQLite(t)
	got, err := s.readValue(t.Context(), "test", "PRAGMA journal_size_limit")
	if err != nil || integer(got) != maxWAL {
		t.Errorf("a reader cuts it to %v bytes, %v; want %d", got, err, maxWAL)
	}
	inTransaction(t, s, func(tx *transaction) {
		if got := integer(tx.value("PRAGMA journal_size_limit")); got != maxWAL {
			t.Errorf("the writer cuts it to %d bytes, want %d", got, maxWAL)
		}
	})
}

func TestClosingEmptiesTheWAL(t *testing.T) {
	path := filepath.Join(t.TempDir(), "q.db")
	s, err := OpenSQLite(t.Context(), path, nil)
	if err != nil {
		t.Fatal(err)
	}
	mustEnqueue(t, s, NewJob("a"))
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(path + "-wal")
	if err != nil || info.Size() != 0 {
		t.Errorf("the -wal has %d bytes, error %v", info.Size(), err)
	}
}

func TestReadOnlyReadsTheWALOfACrashAndKeepsIt(t *testing.T) {
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

func TestManyProcessesMigrateAFileAtOnce(t *testing.T) {
	t.Parallel()
	for version, script := range map[string]string{"missing": "", "0.2": python02, "0.1": python01, "version 1": version1, "version 2": version2} {
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
			o.want(strconv.Itoa(before+processes+goroutines),
				"SELECT count(*) FROM jobs WHERE queue='default' AND future=0 AND claim=0")
			o.want("3", "PRAGMA user_version")
			if n, err := s.Size(t.Context()); err != nil || n < processes+goroutines {
				t.Errorf("Size: %d, %v", n, err)
			}
		})
	}
}

// adder returns a registry for the jobs in python02. did returns what its tasks did.
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
		Task[struct{ A, B int }]{
			Name: "add",
			Run:  func(_ context.Context, args struct{ A, B int }) error { return note("%d", args.A+args.B) },
		},
		Task[string]{Name: "greet", Run: func(_ context.Context, name string) error { return note("hello %s", name) }},
	)
	return registry, func() string {
		mu.Lock()
		defer mu.Unlock()
		slices.Sort(log)
		return strings.Join(log, ", ")
	}
}

var silent = slog.New(slog.DiscardHandler)

func TestThePendingJobsOfAnOlderFileRunAndItsDeadLettersReplay(t *testing.T) {
	t.Parallel()
	for version, script := range map[string]string{"0.2": python02, "0.1": python01, "version 1": version1, "version 2": version2} {
		t.Run(version, func(t *testing.T) {
			t.Parallel()
			path := filepath.Join(t.TempDir(), "q.db")
			python(t, path, script)
			s := sqliteStorage(t, path, &SQLiteOptions{Retention: -1})
			o := otherProgram(t, path)
			o.want("id|TEXT|0|1\nfunc_name|TEXT|1|0\nargs|TEXT|1|0\nkwargs|TEXT|1|0\nstatus|TEXT|1|0\nattempts|INTEGER|1|0\ncreated_at|REAL|1|0\nerror|TEXT|0|0\nheartbeat_at|REAL|0|0",
				`SELECT name, type, "notnull", pk FROM pragma_table_info('jobs') LIMIT 9`)
			registry, did := adder()
			w := &Worker{Storage: s, Registry: registry, Logger: silent, VisibilityTimeout: 200 * time.Millisecond}
			if err := w.Drain(t.Context()); err != nil {
				t.Fatal(err)
			}
			if n, err := s.Replay(t.Context(), Filter{}); n != 1 || err != nil {
				t.Errorf("Replay: %d, %v", n, err)
			}
			o.want("PENDING|0||default|0",
				"SELECT status, attempts, error, queue, priority FROM jobs WHERE func_name='greet'")
			if err := w.Drain(t.Context()); err != nil {
				t.Fatal(err)
			}
			// The job that was RUNNING was held by a process long gone.
			if want := "11, 3, 7, hello Jürgen"; did() != want {
				t.Errorf("the jobs did %s, want %s", did(), want)
			}
			o.want("ADD|SUCCESS|1\nadd|SUCCESS|2\nadd|SUCCESS|2\nadd|SUCCESS|1\ngreet|SUCCESS|1",
				"SELECT func_name, status, attempts FROM jobs ORDER BY rowid")
			o.want("0", "SELECT count(*) FROM dlq")
		})
	}
}

func TestPythonEnqueuesWhileAWorkerRuns(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "q.db")
	python(t, path, python02)
	s := sqliteStorage(t, path, &SQLiteOptions{Retention: -1})
	ran := make(chan Job)
	var registry Registry
	registry.Add(Task[*Job]{Name: "tell", Run: func(_ context.Context, job *Job) error { ran <- *job; return nil }})
	w := &Worker{
		Name:     "w",
		Storage:  s,
		Registry: &registry,
		Queues:   []string{"default"},
		Retry:    &RetryPolicy{MaxRetries: 0},
		Logger:   silent,
	}
	stopped := make(chan error, 1)
	go func() { stopped <- w.Run(t.Context()) }()

	// Python's enqueue, again and again with one id; it creates its indexes each time it opens the file.
	last := Job{}
	for i := range 4 {
		python(t, path, pythonIndexes+`INSERT OR REPLACE INTO jobs (id, func_name, args, kwargs, status, attempts, created_at, error, heartbeat_at)
			VALUES ('f00d', 'tell', '["x"]', '{"k": 1}', 'PENDING', 0, 1700000009.5, NULL, NULL);`)
		job := <-ran
		want := Job{
			ID: "f00d", Task: "tell", Queue: "default",
			Args:        []any{json.RawMessage(`"x"`)},
			Kwargs:      map[string]any{"k": json.RawMessage("1")},
			Status:      StatusRunning,
			Attempts:    1,
			Claim:       job.Claim,
			Worker:      job.Worker,
			CreatedAt:   time.UnixMilli(1700000009500).UTC(),
			HeartbeatAt: job.HeartbeatAt,
			LeaseUntil:  job.HeartbeatAt.Add(defaultLease),
		}
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
	o.want(`tell|["x"]|{"k": 1}|SUCCESS|1||real`,
		"SELECT func_name, args, kwargs, status, attempts, error, typeof(heartbeat_at) FROM jobs WHERE id='f00d'")
}

func TestTheAttemptsFenceOffPythonsClaims(t *testing.T) {
	t.Parallel()
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

func TestReplaySkipsADeadLetterThatPythonHasReplayed(t *testing.T) {
	path := filepath.Join(t.TempDir(), "q.db")
	python(t, path, python02+`UPDATE jobs SET status='PENDING', attempts=0 WHERE status='FAILED';`)
	s := sqliteStorage(t, path, nil)
	if n, err := s.Replay(t.Context(), Filter{}); n != 0 || err != nil {
		t.Errorf("Replay: %d, %v", n, err)
	}
	otherProgram(t, path).want("PENDING|1",
		"SELECT status, (SELECT count(*) FROM dlq) FROM jobs WHERE func_name='greet'")
}

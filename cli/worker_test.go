package cli

import (
	"database/sql"
	"encoding/json"
	"fmt"
	"io/fs"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/pinion-queue/pinion"
)

func TestASecondSignalStopsTheWorkerAtOnce(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	finish(t, process(t, dir, "enqueue", "hold", "--db", "q.db"), 0)
	cmd := process(t, dir, "worker", "--db", "q.db")
	_, stdout, stderr := pipesOf(t, cmd)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	waitForLine(t, stdout, "holding")
	terminate := func() {
		t.Helper()
		if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
	}
	terminate()
	waitForLine(t, stderr, "stops gracefully")
	terminate()
	cmd.Wait()
	if cmd.ProcessState.Sys().(syscall.WaitStatus).Signal() != syscall.SIGTERM {
		t.Errorf("it ended with %v", cmd.ProcessState)
	}
}

func TestAWorkerWithoutTasksSaysWhatToDo(t *testing.T) {
	tasks := pinion.DefaultRegistry
	pinion.DefaultRegistry = new(pinion.Registry)
	defer func() { pinion.DefaultRegistry = tasks }()
	db := filepath.Join(t.TempDir(), "q.db")
	status, _, stderr := runCommand(t, "worker", "--db", db)
	if status != 2 {
		t.Errorf("exit status %d", status)
	}
	wantText(t, stderr, `^pinion: this worker knows no task; name Go packages .* --import .* --exec `)
	if exists(db) {
		t.Error("it made a file")
	}
}

// A program has fewer retries than a Go task, unless the flag says otherwise.
func TestTheFlagForRetriesIsForProgramsToo(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	storage := openStorage(t, filepath.Join(dir, "q.db"))
	for _, c := range []struct {
		flags []string
		want  map[string]int // attempts by task
	}{
		{nil, map[string]int{"no": 1 + 3, "fail": 1 + 25}},
		{[]string{"--max-retries", "1"}, map[string]int{"no": 2, "fail": 2}},
	} {
		mustEnqueue(t, storage, pinion.NewJob("no"), pinion.NewJob("fail", "text"))
		args := []string{"worker", "--db", "q.db", "--drain", "--exec", "no=false",
			"--base-delay", "0.001", "--cap", "0.002"}
		finish(t, process(t, dir, append(args, c.flags...)...), 0)
		got := make(map[string]int)
		for job, err := range storage.DeadLetters(t.Context(), pinion.Filter{}) {
			if err != nil {
				t.Fatal(err)
			}
			got[job.Task] = job.Attempts
		}
		if diff := cmp.Diff(c.want, got); diff != "" {
			t.Errorf("%v: attempts (-want +got):\n%s", c.flags, diff)
		}
		if _, err := storage.Purge(t.Context(), pinion.Filter{}); err != nil {
			t.Fatal(err)
		}
	}
}

// sumsSource is a package of a user: a task that writes the SHA-256 of a file into a database of its own.
// After SUMS_LIMIT runs in a process all others hang, so that a worker can be killed in the middle of its
// work.
const sumsSource = `package sums

import (
	"context"
	"crypto/sha256"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"strconv"
	"sync"
	"sync/atomic"

	"github.com/pinion-queue/pinion"
	_ "modernc.org/sqlite"
)

var results = sync.OnceValues(func() (*sql.DB, error) {
	const options = "?_txlock=immediate&_pragma=busy_timeout(60000)&_pragma=journal_mode(WAL)&_pragma=synchronous(NORMAL)"
	db, err := sql.Open("sqlite", os.Getenv("SUMS_DB")+options)
	if err == nil {
		db.SetMaxOpenConns(1)
	}
	return db, err
})

var runs atomic.Int64

type SumArgs struct {
	Path   string
	Number int
}

var _ = pinion.Register("sum", func(ctx context.Context, args SumArgs) error {
	limit, err := strconv.ParseInt(os.Getenv("SUMS_LIMIT"), 10, 64)
	if err == nil && runs.Add(1) > limit {
		<-ctx.Done()
		return ctx.Err()
	}
	content, err := os.ReadFile(args.Path)
	if err != nil {
		return err
	}
	db, err := results()
	if err != nil {
		return err
	}
	tx, err := db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	job, _ := pinion.JobFromContext(ctx)
	const insert = "INSERT INTO sums (job, path, number, sum) VALUES (?, ?, ?, ?)" +
		" ON CONFLICT (job) DO UPDATE SET writes=writes+1"
	_, err = tx.Exec(insert, job.ID, args.Path, args.Number, fmt.Sprintf("%x", sha256.Sum256(content)))
	if err != nil {
		return errors.Join(err, tx.Rollback())
	}
	return tx.Commit()
})
`

// TestRealWorkEndToEnd has workers with the tasks of a user's module hash every fourth Go file of the
// standard library, and kills two of them on the way.
func TestRealWorkEndToEnd(t *testing.T) {
	t.Parallel()
	program, dir := builtProgram(t), t.TempDir()
	db, sumsDB := filepath.Join(dir, "q.db"), filepath.Join(dir, "sums.db")
	sums := openDB(t, sumsDB+"?_pragma=busy_timeout(60000)&_pragma=journal_mode(WAL)&_pragma=synchronous(NORMAL)")
	const create = "CREATE TABLE sums (job TEXT PRIMARY KEY, path TEXT, number INTEGER, sum TEXT," +
		" writes INTEGER DEFAULT 1)"
	if _, err := sums.Exec(create); err != nil {
		t.Fatal(err)
	}
	count := func(query string) (n int) {
		t.Helper()
		if err := sums.QueryRow(query).Scan(&n); err != nil {
			t.Fatal(err)
		}
		return n
	}
	command := func(env []string, args ...string) *exec.Cmd {
		cmd := exec.CommandContext(t.Context(), program, append(args, "--db", db)...)
		cmd.Env = append(cmd.Environ(), append(env, "SUMS_DB="+sumsDB)...)
		return cmd
	}

	// The command enqueues one job and the library the others.
	var files []string
	for i, file := range goFiles(t) {
		if i%4 == 0 {
			files = append(files, file)
		}
	}
	first, err := json.Marshal([]any{files[0], 0})
	if err != nil {
		t.Fatal(err)
	}
	finish(t, command(nil, "enqueue", "sum", "--args", string(first)), 0)
	jobs := make([]*pinion.Job, len(files)-1)
	for i := range jobs {
		jobs[i] = pinion.NewJob("sum", files[i+1], i+1)
	}
	storage := openStorage(t, db)
	mustEnqueue(t, storage, jobs...)

	start := func(env ...string) (worker *exec.Cmd, output *watched) {
		worker = command(env, "worker",
			"--concurrency", "8", "--visibility-timeout", "2", "--max-retries", "20")
		output = new(watched)
		worker.Stdout, worker.Stderr = output, output
		if err := worker.Start(); err != nil {
			t.Fatal(err)
		}
		return worker, output
	}
	limit, runs := len(files)/4, 0
	for range 2 {
		worker, output := start("SUMS_LIMIT=" + strconv.Itoa(limit))
		runs += limit
		await(t, output, func() bool { return count("SELECT coalesce(sum(writes), 0) FROM sums") == runs })
		if err := worker.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		worker.Wait()
	}
	worker, output := start()
	await(t, output, func() bool {
		stats, err := storage.Stats(t.Context())
		if err != nil || stats.DeadLetters > 0 {
			t.Fatalf("%+v, %v\n%s", stats, err, output)
		}
		return stats.Queues[0].SuccessHour == len(files)
	})
	if err := worker.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := worker.Wait(); err != nil {
		t.Errorf("the worker after SIGTERM: %v\n%s", err, output)
	}

	wantStatus(t, command(nil, "status", "--json"), len(files))
	wantSums(t, sums, files)
	for name, db := range map[string]*sql.DB{"q.db": openDB(t, db), "sums.db": sums} {
		var result string
		if err := db.QueryRow("PRAGMA integrity_check").Scan(&result); err != nil || result != "ok" {
			t.Errorf("PRAGMA integrity_check of %s: %s, %v", name, result, err)
		}
	}
	t.Logf("%d files; %d were hashed more than once, because of a kill between the commits of task and queue",
		len(files), count("SELECT count(*) FROM sums WHERE writes > 1"))
}

// wantStatus compares the output of status --json with that of a queue in which n jobs of one task have
// succeeded.
func wantStatus(t *testing.T, cmd *exec.Cmd, n int) {
	t.Helper()
	stdout, _ := finish(t, cmd, 0)
	var got pinion.Stats
	if err := json.Unmarshal([]byte(stdout), &got); err != nil {
		t.Fatal(err)
	}
	counts := pinion.Counts{SuccessHour: n, Minute: got.Total.Minute}
	want := pinion.Stats{
		Total:      counts,
		Queues:     []pinion.QueueStats{{Queue: "default", Counts: counts}},
		Tasks:      []pinion.TaskStats{{Task: "sum", Counts: counts}},
		LastMinute: got.LastMinute,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("pinion status --json (-want +got):\n%s", diff)
	}
}

// goFiles returns the Go files of the standard library.
func goFiles(t *testing.T) (files []string) {
	t.Helper()
	root, err := exec.CommandContext(t.Context(), "go", "env", "GOROOT").Output()
	if err != nil {
		t.Fatal(err)
	}
	src := filepath.Join(strings.TrimSpace(string(root)), "src")
	err = filepath.WalkDir(src, func(name string, d fs.DirEntry, err error) error {
		if name == filepath.Join(src, "cmd") { // not of the library
			return filepath.SkipDir
		}
		if err == nil && d.Type().IsRegular() && filepath.Ext(name) == ".go" {
			files = append(files, name)
		}
		return err
	})
	if err != nil || len(files) < 1000 {
		t.Fatalf("%d Go files in %s, %v", len(files), src, err)
	}
	return files
}

// wantSums compares the sums with what the program sha256sum prints.
func wantSums(t *testing.T, sums *sql.DB, files []string) {
	t.Helper()
	numbers := make(map[string]int, len(files))
	for i, name := range files {
		numbers[name] = i
	}
	program := []string{"sha256sum"}
	if runtime.GOOS == "darwin" {
		program = []string{"shasum", "-a", "256"}
	}
	want := make(map[string]string, len(files))
	for some := range slices.Chunk(files, 1000) {
		cmd := exec.CommandContext(t.Context(), program[0], append(program[1:], some...)...)
		stdout, _ := finish(t, cmd, 0)
		for line := range strings.Lines(stdout) {
			sum, name, _ := strings.Cut(strings.TrimSuffix(line, "\n"), "  ")
			want[name] = fmt.Sprint(numbers[name], " ", sum)
		}
	}
	rows, err := sums.Query("SELECT path, number || ' ' || sum FROM sums")
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	got := make(map[string]string, len(files))
	for rows.Next() {
		var path, sum string
		if err := rows.Scan(&path, &sum); err != nil {
			t.Fatal(err)
		}
		if got[path] != "" {
			t.Errorf("%s has two results", path)
		}
		got[path] = sum
	}
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("sums (-sha256sum +task):\n%.2000s", diff)
	}
}

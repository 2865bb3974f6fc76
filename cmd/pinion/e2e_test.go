package main

import (
	"bytes"
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"io/fs"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/pinion-queue/pinion"
)

// sumTask is a package of the user's: a task that writes the SHA-256 of a file into a database of its own.
const sumTask = `package tasks

import (
	"context"
	"crypto/sha256"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"sync"

	"github.com/pinion-queue/pinion"
	_ "modernc.org/sqlite"
)

var results = sync.OnceValues(func() (*sql.DB, error) {
	db, err := sql.Open("sqlite", os.Getenv("SUMS_DB")+"?_txlock=immediate&_pragma=busy_timeout(60000)&_pragma=journal_mode(WAL)")
	if err == nil {
		db.SetMaxOpenConns(1)
	}
	return db, err
})

type SumArgs struct {
	Path   string
	Number int
}

var _ = pinion.Register("sum", func(ctx context.Context, args SumArgs) error {
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
	_, err = tx.Exec("INSERT INTO sums (job, path, number, sum) VALUES (?, ?, ?, ?) ON CONFLICT (job) DO UPDATE SET writes=writes+1",
		job.ID, args.Path, args.Number, fmt.Sprintf("%x", sha256.Sum256(content)))
	if err != nil {
		return errors.Join(err, tx.Rollback())
	}
	return tx.Commit()
})
`

// TestRealWorkEndToEnd has a worker with the tasks of a user's module hash every Go file of the standard library, and
// kills it twice on the way.
func TestRealWorkEndToEnd(t *testing.T) {
	module, data := userModule(t), t.TempDir()
	write(t, filepath.Join(module, "internal/tasks/tasks.go"), sumTask)
	q, sums := filepath.Join(data, "q.db"), filepath.Join(data, "sums.db")
	results := openDB(t, sums+"?_pragma=busy_timeout(5000)&_pragma=journal_mode(WAL)")
	if _, err := results.Exec("CREATE TABLE sums (job TEXT PRIMARY KEY, path TEXT, number INTEGER, sum TEXT, writes INTEGER DEFAULT 1)"); err != nil {
		t.Fatal(err)
	}
	files := goFiles(t)
	command := func(args ...string) *exec.Cmd {
		cmd := process(t, module, append(args, "--db", q)...)
		cmd.Env = append(cmd.Env, "SUMS_DB="+sums)
		return cmd
	}

	// One by the command, which knows the task, and the rest by the library.
	first, err := json.Marshal([]any{files[0], 0})
	if err != nil {
		t.Fatal(err)
	}
	finish(t, command("enqueue", "sum", "--args", string(first), "--import", "./internal/tasks"), 0)
	jobs := make([]*pinion.Job, len(files)-1)
	for i := range jobs {
		jobs[i] = pinion.NewJob("sum", files[i+1], i+1)
	}
	storage, err := pinion.OpenSQLite(t.Context(), q, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer storage.Close()
	if err := storage.Enqueue(t.Context(), jobs...); err != nil {
		t.Fatal(err)
	}

	start := func() (worker *exec.Cmd, said *bytes.Buffer) {
		worker, said = command("worker", "--import", "./internal/tasks", "--concurrency", "8", "--visibility-timeout", "1"), new(bytes.Buffer)
		worker.Stdout, worker.Stderr = said, said
		if err := worker.Start(); err != nil {
			t.Fatal(err)
		}
		return worker, said
	}
	written := func() (n int) {
		if err := results.QueryRow("SELECT count(*) FROM sums").Scan(&n); err != nil {
			t.Fatal(err)
		}
		return n
	}
	for _, share := range []int{3, 2} {
		worker, said := start()
		await(t, said, func() bool { return written() >= len(files)/share })
		if err := worker.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		worker.Wait()
		if n := written(); n == len(files) {
			t.Fatalf("all %d files were hashed before the kill", n)
		}
	}
	worker, said := start()
	await(t, said, func() bool {
		stats, err := storage.Stats(t.Context())
		if err != nil || stats.DeadLetters > 0 {
			t.Fatalf("%+v, %v\n%s", stats, err, said)
		}
		return stats.Queues[0].Success == len(files)
	})
	if err := worker.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := worker.Wait(); err != nil {
		t.Errorf("the worker after SIGTERM: %v\n%s", err, said)
	}

	stdout, _ := finish(t, command("status", "--json"), 0)
	var stats pinion.Stats
	if err := json.Unmarshal([]byte(stdout), &stats); err != nil {
		t.Fatal(err)
	}
	want := pinion.Counts{Success: len(files), SuccessHour: len(files), Minute: stats.Total.Minute}
	if diff := cmp.Diff(pinion.Stats{Total: want, Queues: []pinion.QueueStats{{Queue: "default", Counts: want}},
		Tasks: []pinion.TaskStats{{Task: stats.Tasks[0].Task, Counts: want}}, LastMinute: stats.LastMinute}, stats); diff != "" {
		t.Errorf("pinion status --json (-want +got):\n%s", diff)
	}
	compareSums(t, results, files)
	for name, db := range map[string]*sql.DB{"q.db": openDB(t, q), "sums.db": results} {
		var said string
		if err := db.QueryRow("PRAGMA integrity_check").Scan(&said); err != nil || said != "ok" {
			t.Errorf("PRAGMA integrity_check of %s: %s, %v", name, said, err)
		}
	}
	var again int
	if err := results.QueryRow("SELECT count(*) FROM sums WHERE writes > 1").Scan(&again); err != nil {
		t.Fatal(err)
	}
	t.Logf("%d files; %d were hashed more than once, because a kill came between the task's commit and the queue's", len(files), again)
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

// goFiles are the Go files of the standard library.
func goFiles(t *testing.T) (files []string) {
	t.Helper()
	root, err := exec.CommandContext(t.Context(), "go", "env", "GOROOT").Output()
	if err != nil {
		t.Fatal(err)
	}
	err = filepath.WalkDir(filepath.Join(strings.TrimSpace(string(root)), "src"), func(name string, d fs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() && filepath.Ext(name) == ".go" {
			files = append(files, name)
		}
		return err
	})
	if err != nil || len(files) < 1000 {
		t.Fatalf("%d Go files in %s/src, %v", len(files), root, err)
	}
	return files
}

// await waits until something has come about, which is looked for again and again, for at most a minute.
func await(t *testing.T, said fmt.Stringer, done func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	look := time.NewTicker(2 * time.Millisecond)
	defer look.Stop()
	for !done() {
		select {
		case <-look.C:
		case <-ctx.Done():
			t.Fatalf("a minute is over; the worker said\n%s", said)
		}
	}
}

// compareSums compares the results with what the program sha256sum says.
func compareSums(t *testing.T, results *sql.DB, files []string) {
	t.Helper()
	want := make(map[string]string, len(files))
	numbers := make(map[string]int, len(files))
	for i, name := range files {
		numbers[name] = i
	}
	program := []string{"sha256sum"}
	if runtime.GOOS == "darwin" {
		program = []string{"shasum", "-a", "256"}
	}
	for some := range slices.Chunk(files, 1000) {
		out, err := exec.CommandContext(t.Context(), program[0], append(program[1:], some...)...).Output()
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(out)) {
			sum, name, _ := strings.Cut(strings.TrimSuffix(line, "\n"), "  ")
			want[name] = fmt.Sprint(numbers[name], " ", sum)
		}
	}
	rows, err := results.Query("SELECT path, number || ' ' || sum FROM sums")
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
	if diff := cmp.Diff(want, got); diff != "" || rows.Err() != nil || len(got) != len(files) {
		t.Errorf("%d sums of %d files, %v (-sha256sum +task):\n%s", len(got), len(files), rows.Err(), diff)
	}
}

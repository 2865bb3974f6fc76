//go:build unix

package cli

import (
	"fmt"
	"io"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/pinion-queue/pinion"
)

// Python Pinion 0.2 runs these statements when it opens a file and when it enqueues.
const (
	pythonOpens = `PRAGMA journal_mode=WAL;
PRAGMA busy_timeout=3000;
CREATE TABLE IF NOT EXISTS jobs (
	id TEXT PRIMARY KEY, func_name TEXT NOT NULL, args TEXT NOT NULL, kwargs TEXT NOT NULL,
	status TEXT NOT NULL, attempts INTEGER NOT NULL, created_at REAL NOT NULL, error TEXT, heartbeat_at REAL);
CREATE INDEX IF NOT EXISTS idx_jobs_status_created ON jobs(status, created_at);
CREATE INDEX IF NOT EXISTS idx_jobs_status_hb ON jobs(status, heartbeat_at);
CREATE TABLE IF NOT EXISTS dlq (
	id TEXT PRIMARY KEY, func_name TEXT NOT NULL, args TEXT NOT NULL, kwargs TEXT NOT NULL,
	attempts INTEGER NOT NULL, error TEXT NOT NULL, failed_at REAL NOT NULL);
`
	pythonEnqueues = `INSERT OR REPLACE INTO jobs
	(id, func_name, args, kwargs, status, attempts, created_at, error, heartbeat_at)
	VALUES (?, 'add', ?, '{}', 'PENDING', 0, ?, NULL, NULL)`
)

const pythonProgram = `import json, sqlite3, sys, time
db, producer, n, opens, enqueues = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4], sys.argv[5]
connection = sqlite3.connect(db, isolation_level=None)
for statement in opens.split(";"):
    connection.execute(statement)
print("open", flush=True)
sys.stdin.readline()
worst, locked = 0, 0
for i in range(n):
    start = time.time()
    while True:
        try:
            connection.execute(enqueues, ("%032x" % (producer * 1000000 + i), json.dumps([producer, i]), start))
            break
        except sqlite3.OperationalError as e:
            if "locked" not in str(e):
                raise
            locked += 1
    worst = max(worst, time.time() - start)
print("the longest wait was %.3fs; locked out for its three seconds: %d times" % (worst, locked))
`

// producer is a process that opens a file as Python does and then, when it is told to, enqueues jobs, each in
// a transaction of its own. It is Python or, where there is none, the shell of SQLite, whose library is not
// ours either. SQLite's own way to wait for a lock starves beside busy neighbors, so it tries again, as
// docs/python.md says.
type producer struct {
	cmd    *exec.Cmd
	output watched
	stdin  io.WriteCloser
	jobs   string // what to write to stdin
}

func newProducer(t *testing.T, db string, number, n int) *producer {
	t.Helper()
	p := &producer{output: watched{first: regexp.MustCompile("open")}}
	python, err := exec.LookPath("python3")
	if err == nil && exec.CommandContext(t.Context(), python, "-c", "import sqlite3").Run() == nil {
		p.cmd = exec.CommandContext(t.Context(), python, "-c", pythonProgram,
			db, fmt.Sprint(number), fmt.Sprint(n), pythonOpens, pythonEnqueues)
		p.jobs = "go\n"
	} else {
		p.cmd = exec.CommandContext(t.Context(), shell(t, "sqlite3"), "-batch", "-bail", db)
		values := strings.NewReplacer("(?, 'add', ?,", "('%032x', 'add', '[%d, %d]',", "?", "1700000000.5")
		insert := values.Replace(pythonEnqueues) + ";\n"
		for i := range n {
			p.jobs += fmt.Sprintf(insert, number*1_000_000+i, number, i)
		}
	}
	p.cmd.Stdout, p.cmd.Stderr = &p.output, &p.output
	p.stdin, err = p.cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if p.jobs != "go\n" {
		io.WriteString(p.stdin, pythonOpens+"PRAGMA busy_timeout=60000; SELECT 'open';\n")
	}
	await(t, &p.output, p.output.begun)
	return p
}

// begin makes it enqueue.
func (p *producer) begin() {
	io.WriteString(p.stdin, p.jobs)
	p.stdin.Close()
}

// TestPythonAndGoShareAFileUnderLoad has two Python producers, a feed of this command and two of its workers
// use one file at the same time. Python has made the file.
func TestPythonAndGoShareAFileUnderLoad(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	const producers, each, fed = 2, 300, 1200
	var python []*producer
	for i := range producers {
		python = append(python, newProducer(t, filepath.Join(dir, "q.db"), i, each))
	}
	var workers []*exec.Cmd
	var output watched
	for range 2 {
		cmd := process(t, dir, "worker", "--db", "q.db")
		cmd.Stdout, cmd.Stderr = &output, &output
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		workers = append(workers, cmd)
	}
	await(t, &output, func() bool { return strings.Count(output.String(), "worker started") == len(workers) })

	for _, p := range python {
		go p.begin()
	}
	feed := process(t, dir, "enqueue", "add", "-", "--db", "q.db")
	feed.Stdin = strings.NewReader(strings.Repeat("[7, 8]\n", fed))
	finish(t, feed, 0)
	for _, p := range python {
		if err := p.cmd.Wait(); err != nil {
			t.Fatalf("a producer: %v\n%s", err, p.output.String())
		}
		t.Log(strings.TrimSpace(p.output.String()))
	}
	db := filepath.Join(dir, "q.db")
	storage, err := pinion.OpenSQLite(t.Context(), db, &pinion.SQLiteOptions{ReadOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	defer storage.Close()
	await(t, &output, func() bool {
		stats, err := storage.Stats(t.Context())
		if err != nil || stats.DeadLetters > 0 {
			t.Fatalf("%+v, %v\n%s", stats, err, output.String())
		}
		return stats.Queues[0].SuccessHour == producers*each+fed
	})
	for _, cmd := range workers {
		cmd.Process.Signal(syscall.SIGTERM)
		if err := cmd.Wait(); err != nil {
			t.Errorf("a worker: %v", err)
		}
	}

	got, again := make(map[string]int), 0
	for job, err := range storage.Jobs(t.Context(), pinion.Filter{}) {
		if err != nil {
			t.Fatal(err)
		}
		got[arguments(job)+" = "+string(job.Result)]++
		if job.Attempts > 1 {
			again++
		}
	}
	want := map[string]int{"[7,8] = 15": fed}
	for i := range producers {
		for k := range each {
			want[fmt.Sprintf("[%d,%d] = %d", i, k, i+k)] = 1
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("jobs and results (-want +got):\n%.2000s", diff)
	}
	if again > 0 {
		t.Logf("%d jobs ran more than once", again)
	}
}

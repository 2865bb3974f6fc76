package pinion

import (
	"bytes"
	"context"
	"database/sql"
	"database/sql/driver"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"math/rand/v2"
	"os"
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

	"github.com/pinion-queue/pinion/internal/rules"
)

// inTransaction runs f in a transaction of the storage's, where it may look at the writer and the claims.
func inTransaction(t *testing.T, s *SQLiteStorage, f func(tx *transaction)) {
	t.Helper()
	if err := s.write(context.WithoutCancel(t.Context()), "test", f); err != nil {
		t.Fatal(err)
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

// reapAll takes back all claims that have expired: it looks a second time after the gap,
// and returns how many there were.
func reapAll(t *testing.T, s Storage, visibility time.Duration) int {
	t.Helper()
	for range 2 {
		n, err := s.ReapStale(t.Context(), visibility)
		if err != nil {
			t.Fatal(err)
		}
		if n > 0 {
			return n
		}
		time.Sleep(rules.ReapGap(visibility))
	}
	return 0
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
		inTransaction(t, s, func(*transaction) {
			asleep = len(s.claims.waiting) == 1 && s.claims.timer != nil && s.claims.version != 0 && !s.claims.mayBeDue
		})
	}
}

// asProcess makes the test binary another process that uses a storage: "verb path", see processes.
const asProcess = "PINION_TEST_SQLITE_PROCESS"

// recorder is a driver that keeps the text of every query, for the connections that only read.
type recorder struct {
	of      driver.Driver
	dsn     string
	mu      sync.Mutex // guards queries
	queries map[string]bool
}

func (r *recorder) Driver() driver.Driver { return r.of }
func (r *recorder) Connect(context.Context) (driver.Conn, error) {
	conn, err := r.of.Open(r.dsn)
	return recorded{conn, r}, err
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
		many := make([]*Job, 2*maxInsertRows-1) // an INSERT of each size
		for i := range many {
			many[i] = NewJob("x")
		}
		mustEnqueue(t, s, many...)
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

// sqliteStatements has a storage worked out and returns the statements it used.
func sqliteStatements(t *testing.T, s *SQLiteStorage) (statements []string) {
	t.Helper()
	r := recordReaders(s)
	workout(t, s)
	inTransaction(t, s, func(*transaction) { statements = slices.Collect(maps.Keys(s.w.conn.stmts)) })
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
	t.Parallel()
	// What a plan may say of the table jobs: seeks by a row's identity and by our indexes, the ranges of those for
	// which that is enough, and the whole of jobs_running3, which is no longer than the workers' hands are full.
	allowed := regexp.MustCompile(`^(SEARCH jobs USING (INTEGER PRIMARY KEY \(rowid=\?\)|(COVERING )?INDEX sqlite_autoindex_jobs_1 \(id=\?\))` +
		`|SEARCH jobs USING (COVERING )?INDEX (jobs_ready3 \(queue[=>]\?.*\)|jobs_future \(run_at<\?\)|jobs_key3 \(key=\?\)|jobs_finished3 \(<expr><\?\))` +
		`|SCAN jobs USING INDEX jobs_running3|SCAN json_each VIRTUAL TABLE INDEX 1:|SCAN jobs USING (COVERING )?INDEX jobs_(ready3|future|aside)` +
		`|SEARCH dlq USING .*|SCAN dlq|SCAN CONSTANT ROW|CO-ROUTINE \(subquery-\d+\)|SCAN \(subquery-\d+\)|(SCAN|SEARCH) pinion_(limits|ends)( USING .*)?|SCAN (\d+-ROW VALUES CLAUSE|pragma_table_info .*|sqlite_(schema|master))|LIST SUBQUERY \d+|CORRELATED SCALAR SUBQUERY \d+|SCALAR SUBQUERY \d+)$`)
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
				if slices.Contains(migrations[0].then, statement) { // it runs once
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
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s, _ := newSQLite(t)
		texts := func() (kept []string) {
			inTransaction(t, s, func(*transaction) { kept = slices.Sorted(maps.Keys(s.w.conn.stmts)) })
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

func TestTxEnqueueStoresWhatIsCommittedAndNothingElse(t *testing.T) {
	s, path := newSQLite(t)
	o := otherProgram(t, path)
	for _, commit := range []bool{false, true} {
		tx := o.begin()
		jobs := []*Job{{Task: "bake", Args: []any{1}, RunAt: time.Now().Add(time.Hour), Key: "k", Priority: 2},
			{Task: "sell", Queue: "q"}}
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
		if diff := gocmp.Diff([]*Job{&want}, got); diff != "" || want.ID == "" || want.Queue != "default" ||
			want.Status != StatusPending {
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
	otherProgram(t, path).want("held after cake",
		"SELECT group_concat(func_name, ' ') || ' ' || (SELECT name FROM orders) FROM jobs")
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
		otherProgram(t, path).want("cake tea 0",
			`SELECT group_concat(name, ' ') || ' ' || (SELECT count(*) FROM jobs) FROM orders`)
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
		want := 24
		if err != nil {
			want = 0
		}
		stored, _ = s.Size(t.Context())
		if stored != want {
			t.Fatalf("a context that ended when asked %d times: %d of 24 jobs are stored; error %v", at, stored, err)
		}
	}
}

func TestTxEnqueueWaitsForOtherWritersWhereTheTransactionItselfWouldNot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
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
		time.AfterFunc(time.Second, release)
		if err := errors.Join(s.Tx(tx).Enqueue(t.Context(), NewJob("late")), tx.Commit()); err != nil {
			t.Fatal(err)
		}
		if got := listed(t, s.Jobs(t.Context(), Filter{})); got != "late" {
			t.Errorf("there are %q", got)
		}
	})
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
		wantError(t, s.Tx(tx).Enqueue(t.Context(), NewJob("a")), "they must be one file", strconv.Quote(path), says)
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
	if n := reapAll(t, s, time.Millisecond); n != len(dead) {
		t.Errorf("ReapStale took back %d claims, want %d", n, len(dead))
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
		want.LeaseUntil = time.Time{}
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
	mustEnqueue(t, s, &Job{Task: "a", Args: []any{"<ü>", json.RawMessage(`1.0`), uint64(1<<64 - 1)},
		Kwargs: map[string]any{"k": nil}})
	mustEnqueue(t, s, &Job{Task: "a", Args: []any{"<ü>", json.RawMessage(`1.0`), uint64(1<<64 - 1)},
		Kwargs: map[string]any{"k": nil}})
	for _, jobs := range [][]*Job{(<-waiting).jobs, mustDequeue(t, s, 1)} {
		jobs[0].Result = json.RawMessage(`{"n":12345678901234567890}`)
		if lost, err := s.MarkDone(t.Context(), jobs...); len(lost) > 0 || err != nil {
			t.Fatal(lost, err)
		}
	}
	const row = `text|text|text|["<ü>",1.0,18446744073709551615]|{"k":null}|{"n":12345678901234567890}`
	otherProgram(t, path).want(row+"\n"+row,
		"SELECT typeof(args), typeof(kwargs), typeof(result), args, kwargs, result FROM jobs")
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

func TestABigBatchIsStoredAllOrNone(t *testing.T) {
	t.Parallel()
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
	t.Parallel()
	path := filepath.Join(t.TempDir(), "q.db")
	sqliteStorage(t, path, nil)
	o := otherProgram(t, path)
	const processes = 8
	var stop, end []func()
	for range processes {
		e, wait := process(t, "work", path)
		stop, end = append(stop, e), append(end, wait)
	}
	// The last one of as many jobs as there will be says that all are done. Other processes send no event.
	for done := 0; done < processes*perProducer; {
		time.Sleep(10 * time.Millisecond)
		if failed := o.all("SELECT count(*) FROM jobs WHERE status='FAILED'"); failed != "0" {
			t.Fatalf("%s jobs have failed", failed)
		}
		var err error
		done, err = strconv.Atoi(o.all("SELECT count(*) FROM jobs WHERE status='SUCCESS'"))
		if err != nil {
			t.Fatal(err)
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
	otherProgram(t, path).want(fmt.Sprintf("SUCCESS|%d|1", processes*perProducer),
		"SELECT status, count(*), max(attempts) FROM jobs GROUP BY status")
}

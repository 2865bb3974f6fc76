package postgres

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pinion-queue/pinion"
	"github.com/pinion-queue/pinion/internal/crashlab"
)

const urlEnv = "PINION_POSTGRES_URL"

// TestMain says once what the tests need, where they have not got it.
func TestMain(m *testing.M) {
	crashlab.ChildMain()
	child()
	code := m.Run()
	if os.Getenv(urlEnv) == "" {
		fmt.Fprintf(os.Stderr, "postgres: almost all tests were skipped: they need %s, the URL of a server; .ci/with-postgres starts one\n", urlEnv)
		if os.Getenv("CI") != "" {
			fmt.Fprintln(os.Stderr, "postgres: in CI that is a failure")
			code = 1
		}
	}
	os.Exit(code)
}

var schemas atomic.Int64

// schemaURL is the server with a schema for this test alone, dropped at its end.
func schemaURL(t testing.TB) string {
	t.Helper()
	url := os.Getenv(urlEnv)
	if url == "" {
		t.Skipf("needs %s", urlEnv)
	}
	name := fmt.Sprintf("test %d %d", os.Getpid(), schemas.Add(1))
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
		defer cancel()
		query(t, ctx, url, `DROP SCHEMA IF EXISTS `+pgx.Identifier{name}.Sanitize()+` CASCADE`)
	})
	return withParam(url, "pinion_schema="+strings.ReplaceAll(name, " ", "%20"))
}

func withParam(url, param string) string {
	if strings.Contains(url, "?") {
		return url + "&" + param
	}
	return url + "?" + param
}

// query runs SQL on a connection of its own.
func query(t testing.TB, ctx context.Context, url, sql string, args ...any) {
	t.Helper()
	conn, err := pgx.Connect(ctx, url)
	if err == nil {
		_, err = conn.Exec(ctx, sql, args...)
		conn.Close(ctx)
	}
	if err != nil {
		t.Errorf("%s: %v", sql, err)
	}
}

func open(t testing.TB, url string, opts *Options) *Storage {
	t.Helper()
	s, err := Open(t.Context(), url, opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// clear empties the tables, which is faster than new ones.
func clear(t testing.TB, url string) {
	t.Helper()
	s, err := Open(t.Context(), url, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if _, err := s.pool.Exec(t.Context(), inSchema(s.opts.Schema, `TRUNCATE @jobs RESTART IDENTITY`)); err != nil {
		t.Fatal(err)
	}
}

func TestItPassesCheckStorage(t *testing.T) {
	for name, opts := range map[string]*Options{"by default": nil, "without listening": {NoListen: true}} {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			url := schemaURL(t)
			if err := pinion.CheckStorage(ctx, func() (pinion.Storage, error) { clear(t, url); return Open(ctx, url, opts) }); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestANameThatTheServerCannotStoreOrFindIsRefusedAndALongOneIsNot(t *testing.T) {
	s := open(t, schemaURL(t), nil)
	long := strings.Repeat("é", maxName/2)
	for name, want := range map[string]error{"a\x00": pinion.ErrBadArgs, long + "é": pinion.ErrTooLarge, long: nil} {
		for _, job := range []*pinion.Job{{Task: name}, {ID: name, Task: "a"}, {Queue: name, Task: "a"}, {Key: name, Task: "a"}} {
			if err := s.Enqueue(t.Context(), pinion.NewJob("beside"), job); !errors.Is(err, want) {
				t.Errorf("Enqueue with a name of %d bytes: %v, want %v", len(name), err, want)
			}
		}
	}
	if n, err := s.Size(t.Context()); n != 8 || err != nil {
		t.Errorf("%d jobs are pending, %v; want 8", n, err)
	}
}

// Whoever waited for the lock must see what was created meanwhile.
func TestStoragesThatOpenAtOnceCreateTheTablesOnce(t *testing.T) {
	url := schemaURL(t)
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			if s, err := Open(t.Context(), url, nil); err != nil {
				t.Error(err)
			} else if err := s.Enqueue(t.Context(), pinion.NewJob("a")); err != nil {
				t.Error(err)
			} else {
				s.Close()
			}
		})
	}
	all.Wait()
	if n, err := open(t, url, nil).Size(t.Context()); n != 8 || err != nil {
		t.Errorf("%d jobs are stored, want 8, %v", n, err)
	}
}

func TestADequeueIsWokenByAnotherProcess(t *testing.T) {
	url := schemaURL(t)
	// Nothing here comes in time by looking now and then.
	waiter, other := open(t, url, &Options{PollInterval: time.Hour}), open(t, url, nil)
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	for what, enqueue := range map[string]func(job *pinion.Job) error{
		"Enqueue": func(job *pinion.Job) error { return other.Enqueue(ctx, job) },
		"Enqueue for later": func(job *pinion.Job) error {
			job.RunAt = time.Now().Add(20 * time.Millisecond)
			return other.Enqueue(ctx, job)
		},
		"EnqueueTx": func(job *pinion.Job) error {
			return pgx.BeginFunc(ctx, other.pool, func(tx pgx.Tx) error { return other.EnqueueTx(ctx, tx, job) })
		},
	} {
		got := make(chan []*pinion.Job)
		go func() {
			jobs, err := waiter.Dequeue(ctx, 1, "a", "b")
			if err != nil {
				t.Errorf("%s: %v", what, err)
			}
			got <- jobs
		}()
		waitFor(t, ctx, waiter, `SELECT EXISTS (SELECT FROM pg_stat_activity WHERE query LIKE 'LISTEN%' AND state='idle')`)
		if err := enqueue(&pinion.Job{Task: what, Queue: "b"}); err != nil {
			t.Error(err)
		}
		if jobs := <-got; len(jobs) != 1 || jobs[0].Task != what {
			t.Errorf("%s: got %d jobs", what, len(jobs))
		}
	}
}

// waitFor asks until the answer is true.
func waitFor(t *testing.T, ctx context.Context, s *Storage, question string) {
	t.Helper()
	for yes := false; !yes; {
		if err := s.pool.QueryRow(ctx, question).Scan(&yes); err != nil {
			t.Fatal(err)
		}
	}
}

func TestTheListenerComesBackWhenItsConnectionIsCut(t *testing.T) {
	url := withParam(schemaURL(t), "application_name=pinion_listener")
	waiter, other := open(t, url, &Options{PollInterval: time.Hour}), open(t, schemaURL(t), nil)
	sender := open(t, url, nil)
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	got := make(chan error)
	go func() { _, err := waiter.Dequeue(ctx, 1); got <- err }()
	const listening = ` FROM pg_stat_activity WHERE application_name='pinion_listener' AND query LIKE 'LISTEN%' AND state='idle'`
	waitFor(t, ctx, other, `SELECT EXISTS (SELECT`+listening+`)`)
	var pid int
	if err := other.pool.QueryRow(ctx, `SELECT pid`+listening+` AND pg_terminate_backend(pid)`).Scan(&pid); err != nil {
		t.Fatal(err)
	}
	waitFor(t, ctx, other, fmt.Sprint(`SELECT EXISTS (SELECT`, listening, ` AND pid<>`, pid, `)`))
	if err := sender.Enqueue(ctx, pinion.NewJob("a")); err != nil {
		t.Error(err)
	}
	if err := <-got; err != nil {
		t.Error(err)
	}
}

// Producers that enqueue at the same time share a statement, and nothing else: not an error, not the end of a context.
func TestProducersShareAStatementAndNothingElse(t *testing.T) {
	const producers = 20
	s := open(t, schemaURL(t), nil)
	conn, err := s.pool.Acquire(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Release()
	run := func(sql string) {
		t.Helper()
		if _, err := conn.Exec(t.Context(), inSchema(s.opts.Schema, sql)); err != nil {
			t.Fatal(err)
		}
	}
	run(`CREATE FUNCTION @refuse() RETURNS trigger LANGUAGE plpgsql AS
		$$ BEGIN IF NEW.task='bad' THEN RAISE 'not this one'; END IF; RETURN NEW; END $$`)
	run(`CREATE TRIGGER refuse BEFORE INSERT ON @jobs FOR EACH ROW EXECUTE FUNCTION @refuse()`)
	for _, bad := range []int{0, 1} {
		run(`TRUNCATE @jobs`)
		run(`BEGIN; LOCK TABLE @jobs IN SHARE MODE`) // the first who comes waits for that, and the others for the first
		impatient, giveUp := context.WithCancel(t.Context())
		errs := make(map[string]chan error)
		enqueue := func(ctx context.Context, task string) {
			answer := make(chan error, 1)
			errs[task] = answer
			go func() {
				job := pinion.NewJob(task)
				err := s.Enqueue(ctx, job)
				if err == nil && (job.ID == "" || job.Status != pinion.StatusPending || job.CreatedAt.IsZero()) {
					err = fmt.Errorf("it was accepted as %+v", job)
				}
				answer <- err
			}()
		}
		waiting := func(led bool, n int) {
			t.Helper()
			for {
				s.company.mu.Lock()
				there := s.company.led == led && len(s.company.waiting) == n
				s.company.mu.Unlock()
				if there {
					return
				}
				if t.Context().Err() != nil {
					t.Fatal(t.Context().Err())
				}
				runtime.Gosched()
			}
		}
		enqueue(t.Context(), "first")
		waiting(true, 0)
		waitFor(t, t.Context(), s, inSchema(s.opts.Schema, `SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted AND relation='@jobs'::regclass)`))
		for i := range producers {
			enqueue(t.Context(), fmt.Sprint("task ", i))
		}
		for range bad {
			enqueue(t.Context(), "bad")
		}
		waiting(true, producers+bad)
		enqueue(impatient, "impatient")
		waiting(true, producers+bad+1)
		giveUp()
		if err := <-errs["impatient"]; !errors.Is(err, context.Canceled) {
			t.Errorf("the one whose context ended got %v", err)
		}
		run(`COMMIT`)
		for task, answer := range errs {
			if task == "impatient" {
				continue
			}
			if err := <-answer; (err != nil) != (task == "bad") {
				t.Errorf("%s got %v", task, err)
			}
		}
		waiting(false, 0)
		var stored, transactions int
		if err := conn.QueryRow(t.Context(), inSchema(s.opts.Schema, `SELECT count(*), count(DISTINCT xmin::text) FROM @jobs`)).Scan(&stored, &transactions); err != nil {
			t.Fatal(err)
		}
		if stored != producers+1 || bad == 0 && transactions != 2 {
			t.Errorf("%d jobs are stored by %d transactions, want %d by 2", stored, transactions, producers+1)
		}
	}
}

func TestEnqueueTxSharesTheFateOfItsTransaction(t *testing.T) {
	s, ctx := open(t, schemaURL(t), nil), t.Context()
	size := func(want int) {
		t.Helper()
		if n, err := s.Size(ctx); n != want || err != nil {
			t.Errorf("%d jobs are pending, want %d, %v", n, want, err)
		}
	}
	tx, err := s.pool.Begin(ctx)
	if err != nil {
		t.Fatal(err)
	}
	job := &pinion.Job{ID: "1", Task: "a", Key: "k"}
	if err := s.EnqueueTx(ctx, tx, job, pinion.NewJob("b")); err != nil {
		t.Fatal(err)
	}
	size(0)
	for _, taken := range []*pinion.Job{{ID: "1", Task: "c"}, {Task: "c", Key: "k"}} {
		for _, jobs := range [][]*pinion.Job{{taken}, {pinion.NewJob("d"), taken}} {
			err := s.EnqueueTx(ctx, tx, jobs...)
			if d, ok := errors.AsType[*pinion.DuplicateError](err); !ok || d.ID != "1" || d.Key != taken.Key {
				t.Errorf("a job that is taken: got %v", err)
			}
		}
	}
	if err := tx.Commit(ctx); err != nil { // the transaction goes on after a duplicate
		t.Fatal(err)
	}
	size(2)
	if job.Status != pinion.StatusPending || job.Queue != "default" || job.CreatedAt.IsZero() {
		t.Errorf("the job is %+v", job)
	}
	if tx, err = s.pool.Begin(ctx); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(s.EnqueueTx(ctx, tx, pinion.NewJob("e")), tx.Rollback(ctx)); err != nil {
		t.Fatal(err)
	}
	size(2)
}

func TestARowThatNobodyCanReadGoesToTheDeadLetters(t *testing.T) {
	url := schemaURL(t)
	s, ctx := open(t, url, nil), t.Context()
	for _, args := range []string{`no JSON`, `{}`, `[1`} {
		if _, err := s.pool.Exec(ctx, inSchema(s.opts.Schema, `INSERT INTO @jobs (task, args) VALUES ('bad', $1)`), args); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := s.pool.Exec(ctx, inSchema(s.opts.Schema, `INSERT INTO @jobs (task, args) VALUES ('good', '[1]')`)); err != nil {
		t.Fatal(err)
	}
	jobs, err := s.Dequeue(ctx, 1)
	if err != nil || jobs[0].Task != "good" {
		t.Fatalf("got %v, %v", jobs, err)
	}
	for job, err := range s.DeadLetters(ctx, pinion.Filter{}) {
		if err != nil || job.Task != "bad" || job.Attempts != 0 || !strings.Contains(job.Error, "JSON") {
			t.Errorf("a dead letter is %+v, %v", job, err)
		}
	}
	if stats, err := s.Stats(ctx); stats.DeadLetters != 3 || err != nil {
		t.Errorf("%d dead letters, want 3, %v", stats.DeadLetters, err)
	}
}

func TestTablesThatAreNotOursAreRefused(t *testing.T) {
	url := schemaURL(t)
	s := open(t, url, nil)
	exec := func(sql string) {
		t.Helper()
		if _, err := s.pool.Exec(t.Context(), inSchema(s.opts.Schema, sql)); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct{ change, want string }{
		{`UPDATE @pinion_version SET version=1000`, "from a newer Pinion"},
		{`DELETE FROM @pinion_version`, "is empty"},
		{`DROP TABLE @pinion_version`, "belongs to another program"},
	} {
		exec(c.change)
		if _, err := Open(t.Context(), url, nil); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("after %s: got %v", c.change, err)
		}
	}
}

func TestOptionsThatCannotBeMeantAreErrors(t *testing.T) {
	for _, c := range []struct {
		url, want string
		opts      Options
	}{
		{"postgres://u:secret@127.0.0.1:1/x?sslmode=nonsense", "sslmode", Options{}},
		{"postgres://127.0.0.1:1/x?pinion_listen=no", "pinion_listen", Options{}},
		{"postgres://127.0.0.1:1/x?pinion_schema=" + strings.Repeat("x", 51), "at most 50", Options{}},
		{"postgres://127.0.0.1:1/x", "schema", Options{Schema: "a\x00"}},
		{"postgres://127.0.0.1:1/x", "MaxConns", Options{MaxConns: -1}},
		{"postgres://127.0.0.1:1/x", "PollInterval", Options{PollInterval: -1}},
	} {
		_, err := Open(t.Context(), c.url, &c.opts)
		if err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "secret") {
			t.Errorf("%s, %+v: got %v", c.url, c.opts, err)
		}
	}
	// From the scheme comes no interface around a nil pointer.
	if s, err := pinion.Open(t.Context(), "postgresql://127.0.0.1:1/x?pinion_listen=no"); s != nil || err == nil {
		t.Errorf("got %v, %v", s, err)
	}
}

// Each statement that runs often finds its rows by an index, also with a plan that knows nothing of the table.
func TestStatementsUseTheirIndexes(t *testing.T) {
	s := open(t, schemaURL(t), nil)
	if err := s.Enqueue(t.Context(), pinion.NewJob("a")); err != nil {
		t.Fatal(err)
	}
	for what, sql := range map[string]string{"promote": s.sql.promote, "claim of any": s.sql.claimAny, "claim of one queue": s.sql.claimOne,
		"claim of some queues": s.sql.claimSome, "claimed": s.sql.claimed, "next": s.sql.next, "done": s.sql.done, "failed": s.sql.failed,
		"dead letter": s.sql.letter, "heartbeat": s.sql.beat, "release": s.sql.release, "reap": s.sql.stale, "cancel": s.sql.cancel,
		"canceled": s.sql.canceled, "known": s.sql.known, "by id": s.sql.byID, "by key": s.sql.byKey, "size": s.sql.size} {
		t.Run(what, func(t *testing.T) {
			err := pgx.BeginFunc(t.Context(), s.pool, func(tx pgx.Tx) error {
				if _, err := tx.Exec(t.Context(), `SET LOCAL plan_cache_mode=force_generic_plan`); err != nil {
					return err
				}
				prepared, err := tx.Prepare(t.Context(), "planned", sql)
				if err != nil {
					return err
				}
				nulls := strings.TrimSuffix(strings.Repeat("NULL,", len(prepared.ParamOIDs)), ",")
				explain := "EXPLAIN EXECUTE planned"
				if nulls != "" {
					explain += "(" + nulls + ")"
				}
				rows, err := tx.Query(t.Context(), explain, pgx.QueryExecModeSimpleProtocol)
				if err != nil {
					return err
				}
				plan, err := pgx.CollectRows(rows, pgx.RowTo[string])
				text := strings.Join(plan, "\n")
				if err != nil || strings.Contains(text, "Seq Scan") || strings.Contains(text, "Hash Join") {
					t.Errorf("%v\n%s", err, text)
				}
				_, err = tx.Exec(t.Context(), "DEALLOCATE planned")
				return err
			})
			if err != nil {
				t.Error(err)
			}
		})
	}
}

func TestTheCommandLineWorksWithTheSchemes(t *testing.T) {
	url := schemaURL(t)
	pinionCommand := func(words ...string) string {
		t.Helper()
		cmd := exec.CommandContext(t.Context(), "go", append([]string{"run", "github.com/pinion-queue/pinion/cmd/pinion"}, words...)...)
		cmd.Args = append(cmd.Args, "--db", strings.Replace(url, "postgres:", "postgresql:", 1), "--import", "github.com/pinion-queue/pinion/postgres")
		var log strings.Builder
		cmd.Stderr = &log
		out, err := cmd.Output()
		if err != nil {
			t.Fatalf("%s: %v\n%s%s", words, err, out, log.String())
		}
		return string(out)
	}
	pinionCommand("enqueue", "add", "--args", "[1, 2]")
	if out := pinionCommand("worker", "--drain", "--exec", "add=cat"); !strings.Contains(out, "succeeded      1\n") {
		t.Errorf("the worker says\n%s", out)
	}
}

// What a claim costs is counted in pages, which no busy machine changes.
func TestAClaimCostsTheSameWhateverTheBacklog(t *testing.T) {
	s := open(t, schemaURL(t), nil)
	pages := func(pending int) (hit int) {
		t.Helper()
		ctx := t.Context()
		if _, err := s.pool.Exec(ctx, inSchema(s.opts.Schema, `INSERT INTO @jobs (task, queue, priority, args)
			SELECT 'a', 'q' || n%3, n%2, '["' || repeat('x', 100) || '"]' FROM generate_series(1, $1::int) n`), pending); err != nil {
			t.Fatal(err)
		}
		for what, sql := range map[string]string{"any": s.sql.claimAny, "one": s.sql.claimOne, "some": s.sql.claimSome} {
			sql = strings.NewReplacer("$5::text[]", "ARRAY['q0','q2']", "$1", "8", "$2", "8", "$3", "1", "$4", "''", "$5", "'q1'").Replace(sql)
			var plan []struct {
				Plan struct {
					Hit  int `json:"Shared Hit Blocks"`
					Read int `json:"Shared Read Blocks"`
				}
			}
			if err := s.pool.QueryRow(ctx, "EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) "+sql).Scan(&plan); err != nil {
				t.Fatalf("claim of %s: %v", what, err)
			}
			hit += plan[0].Plan.Hit + plan[0].Plan.Read
		}
		return hit
	}
	few := pages(5_000)
	if many := pages(200_000); many > 2*few || few > 2000 {
		t.Errorf("claims of eight jobs touch %d pages with 5,000 jobs pending, and %d with 205,000", few, many)
	} else {
		t.Logf("%d pages, and %d", few, many)
	}
}

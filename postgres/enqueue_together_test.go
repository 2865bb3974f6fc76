package postgres

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"testing"

	"github.com/pinion-queue/pinion"
)

// Producers that enqueue at the same time share a statement, and nothing else: not an error, not the end of a
// context.
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
				s.inserts.mu.Lock()
				there := s.inserts.led == led && len(s.inserts.waiting) == n
				s.inserts.mu.Unlock()
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
		waitFor(t, t.Context(), s, inSchema(s.opts.Schema,
			`SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted AND relation='@jobs'::regclass)`))
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

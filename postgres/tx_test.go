package postgres

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"
	_ "github.com/jackc/pgx/v5/stdlib"
	_ "github.com/lib/pq"

	"github.com/pinion-queue/pinion"
)

// callers is a way in which a program has transactions.
type callers struct {
	name  string
	begin func(ctx context.Context, s *Storage) (*callersWork, error)
}

// callersWork is a transaction of the program's.
type callersWork struct {
	pinion.Tx
	exec             func(sql string, args ...any) error
	commit, rollback func() error
}

// allCallers returns every way to have a transaction on the server of a URL.
func allCallers(t *testing.T, url string) []callers {
	plain := plainURL(url)
	all := []callers{{"pgx", func(ctx context.Context, s *Storage) (*callersWork, error) {
		conn, err := pgx.Connect(ctx, plain)
		if err != nil {
			return nil, err
		}
		t.Cleanup(func() { conn.Close(context.Background()) })
		tx, err := conn.Begin(ctx)
		if err != nil {
			return nil, err
		}
		exec := func(sql string, args ...any) error {
			_, err := tx.Exec(ctx, sql, args...)
			return err
		}
		return &callersWork{s.Tx(tx), exec, func() error { return tx.Commit(ctx) }, func() error { return tx.Rollback(ctx) }}, nil
	}}}
	for _, driver := range []string{"pgx", "postgres"} {
		db, err := sql.Open(driver, plain)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { db.Close() })
		all = append(all, callers{"database/sql with driver " + driver, func(ctx context.Context, s *Storage) (*callersWork, error) {
			tx, err := db.BeginTx(context.WithoutCancel(ctx), nil)
			if err != nil {
				return nil, err
			}
			exec := func(sql string, args ...any) error {
				_, err := tx.ExecContext(ctx, sql, args...)
				return err
			}
			return &callersWork{s.SQLTx(tx), exec, tx.Commit, tx.Rollback}, nil
		}})
	}
	return all
}

func begin(t *testing.T, c callers, s *Storage) *callersWork {
	t.Helper()
	work, err := c.begin(t.Context(), s)
	if err != nil {
		t.Fatal(err)
	}
	return work
}

func wantPending(t *testing.T, s *Storage, want int) {
	t.Helper()
	if n, err := s.Size(t.Context()); n != want || err != nil {
		t.Errorf("%d jobs are pending, want %d, %v", n, want, err)
	}
}

func TestJobsOfATransactionShareItsFate(t *testing.T) {
	url := schemaURL(t)
	for _, c := range allCallers(t, url) {
		t.Run(c.name, func(t *testing.T) {
			clear(t, url)
			s, ctx := open(t, url, nil), t.Context()
			work := begin(t, c, s)
			job := &pinion.Job{ID: "1", Task: "a", Key: "k"}
			if err := work.Enqueue(ctx, job, pinion.NewJob("b")); err != nil {
				t.Fatal(err)
			}
			wantPending(t, s, 0)
			for _, taken := range []*pinion.Job{{ID: "1", Task: "c"}, {Task: "c", Key: "k"}} {
				for _, jobs := range [][]*pinion.Job{{taken}, {pinion.NewJob("d"), taken}} {
					err := work.Enqueue(ctx, jobs...)
					if d, ok := errors.AsType[*pinion.DuplicateError](err); !ok || d.ID != "1" || d.Key != taken.Key {
						t.Errorf("a job that is taken: got %v", err)
					}
				}
			}
			if err := work.commit(); err != nil { // the transaction goes on after a duplicate
				t.Fatal(err)
			}
			wantPending(t, s, 2)
			if job.Status != pinion.StatusPending || job.Queue != "default" || job.CreatedAt.IsZero() {
				t.Errorf("the job is %+v", job)
			}
			work = begin(t, c, s)
			if err := errors.Join(work.Enqueue(ctx, pinion.NewJob("e")), work.rollback()); err != nil {
				t.Fatal(err)
			}
			wantPending(t, s, 2)
		})
	}
}

// Drivers other than pgx get the jobs as text.
func TestATransactionStoresJobsAsEnqueueDoes(t *testing.T) {
	url := schemaURL(t)
	for _, c := range allCallers(t, url) {
		t.Run(c.name, func(t *testing.T) {
			clear(t, url)
			s, ctx := open(t, url, nil), t.Context()
			make := func(suffix string) []*pinion.Job {
				return []*pinion.Job{
					{
						ID:            `1"\{}, ` + suffix,
						Task:          "NULL",
						Args:          []any{`"quoted\" {},NULL`, nil, "ä\n"},
						Queue:         "ΣΑΣ",
						Priority:      -3,
						Key:           `k"` + suffix,
						KeyUntilStart: true,
						Meta:          map[string]string{"a": `"`},
						RunAt:         time.Now().Add(time.Hour),
					},
					{ID: "2" + suffix, Task: "\u212Aelvin"},
				}
			}
			work := begin(t, c, s)
			if err := errors.Join(work.Enqueue(ctx, make(" ")...), work.commit(), s.Enqueue(ctx, make("!")...)); err != nil {
				t.Fatal(err)
			}
			var stored [2][]string
			for job, err := range s.Jobs(ctx, pinion.Filter{}) {
				if err != nil {
					t.Fatal(err)
				}
				i := strings.Count(job.ID, "!")
				shown := fmt.Sprintf("%s %s %s %s %d %v %q %t %v", job.ID, job.Task, job.Args, job.Queue, job.Priority,
					job.RunAt.Truncate(time.Minute), job.Key, job.KeyUntilStart, job.Meta)
				stored[i] = append(stored[i], strings.ReplaceAll(shown, "!", " "))
			}
			if diff := cmp.Diff(stored[1], stored[0]); diff != "" {
				t.Errorf("the jobs (-Enqueue +Tx):\n%s", diff)
			}
			jobs, err := s.Dequeue(ctx, pinion.DequeueOptions{Max: 9, Tasks: []string{"KELVIN"}, NoWait: true})
			if len(jobs) != 2 || err != nil {
				t.Errorf("claimed %d jobs of the task kelvin, want 2, %v", len(jobs), err)
			}
		})
	}
}

// runOne runs the job that is due with a task, and returns it as it is then.
func runOne(t *testing.T, s *Storage, task func(ctx context.Context) error) *pinion.Job {
	t.Helper()
	job := &pinion.Job{Task: "work"}
	if err := s.Enqueue(t.Context(), job); err != nil {
		t.Fatal(err)
	}
	registry := new(pinion.Registry)
	registry.Add(pinion.Task[struct{}]{Name: "work",
		Run: func(ctx context.Context, _ struct{}) error { return task(ctx) }})
	w := &pinion.Worker{Storage: s, Registry: registry, Logger: slog.New(slog.DiscardHandler),
		Retry: &pinion.RetryPolicy{MaxRetries: 1, BaseDelay: time.Millisecond, Cap: time.Millisecond}}
	if err := w.Drain(t.Context()); err != nil {
		t.Errorf("Drain: %v", err)
	}
	got, err := s.Get(t.Context(), job.ID)
	if err != nil {
		t.Fatal(err)
	}
	return got
}

func TestDoneCommitsWithTheEffectOfTheTask(t *testing.T) {
	url := schemaURL(t)
	for _, c := range allCallers(t, url) {
		t.Run(c.name, func(t *testing.T) {
			clear(t, url)
			s := open(t, url, nil)
			effects := pgx.Identifier{s.opts.Schema, "effects"}.Sanitize()
			query(t, t.Context(), plainURL(url), `DROP TABLE IF EXISTS `+effects)
			query(t, t.Context(), plainURL(url), `CREATE TABLE `+effects+` (n int)`)
			calls := 0
			job := runOne(t, s, func(ctx context.Context) error {
				calls++
				work, err := c.begin(ctx, s)
				if err != nil {
					return err
				}
				err = errors.Join(work.exec(`INSERT INTO `+effects+` VALUES (1)`),
					pinion.SetResult(ctx, calls), work.Done(ctx))
				if err != nil || calls == 1 { // the first attempt fails after all
					return errors.Join(err, work.rollback(), errors.New("rolled back"))
				}
				return errors.Join(work.Enqueue(ctx, &pinion.Job{Task: "next", RunAt: time.Now().Add(time.Hour)}),
					work.commit())
			})
			if job.Status != pinion.StatusSuccess || job.Attempts != 2 || string(job.Result) != "2" {
				t.Errorf("the job is %+v, want SUCCESS in the second attempt with the result 2", job)
			}
			var sum int
			if err := s.pool.QueryRow(t.Context(), `SELECT sum(n) FROM `+effects).Scan(&sum); err != nil || sum != 1 {
				t.Errorf("the effect happened %d times, want once, %v", sum, err)
			}
			wantPending(t, s, 1) // what was enqueued in the transaction
		})
	}
}

func TestDoneOfALostLeaseIsAnError(t *testing.T) {
	url := schemaURL(t)
	for _, c := range allCallers(t, url) {
		t.Run(c.name, func(t *testing.T) {
			clear(t, url)
			s := open(t, url, nil)
			var lost error
			calls := 0
			job := runOne(t, s, func(ctx context.Context) error {
				calls++
				if calls > 1 {
					return nil
				}
				self, _ := pinion.JobFromContext(ctx)
				_, _, err := s.Release(t.Context(), time.Time{}, nil, self) // as if it had been reaped
				if err != nil {
					return err
				}
				work, err := c.begin(t.Context(), s)
				if err != nil {
					return err
				}
				lost = work.Done(ctx)
				return errors.Join(lost, work.rollback())
			})
			if !errors.Is(lost, pinion.ErrLeaseLost) || job.Status != pinion.StatusSuccess || calls != 2 {
				t.Errorf("Done returned %v, and the job is %+v after %d calls", lost, job, calls)
			}
		})
	}
}

func TestDoneOutsideOfATaskIsAnError(t *testing.T) {
	url := schemaURL(t)
	s := open(t, url, nil)
	work := begin(t, allCallers(t, url)[0], s)
	defer work.rollback()
	if err := work.Done(t.Context()); err == nil {
		t.Error("Done returned nil")
	}
}

func TestATransactionOnAnotherDatabaseOrSchemaIsRefused(t *testing.T) {
	url := schemaURL(t)
	s, ctx := open(t, url, nil), t.Context()
	name := fmt.Sprintf("pinion_other_%d", time.Now().UnixNano())
	query(t, ctx, plainURL(url), `CREATE DATABASE `+name)
	t.Cleanup(func() { query(t, context.Background(), plainURL(url), `DROP DATABASE `+name+` WITH (FORCE)`) })
	refuse := func(c callers) {
		t.Helper()
		work := begin(t, c, s)
		defer work.rollback()
		err := work.Enqueue(ctx, pinion.NewJob("a"))
		if err == nil || !strings.Contains(err.Error(), "another database") {
			t.Errorf("%s: Enqueue returned %v", c.name, err)
		}
		if err := work.exec(`SELECT 1`); err != nil {
			t.Errorf("%s: afterwards the transaction is of no use: %v", c.name, err)
		}
	}
	other := strings.Replace(url, "/postgres?", "/"+name+"?", 1)
	for _, c := range allCallers(t, other) {
		refuse(c) // there is no queue
	}
	open(t, other, nil).Close()
	for _, c := range allCallers(t, other) {
		refuse(c) // there is another one
	}
	wantPending(t, s, 0)
}

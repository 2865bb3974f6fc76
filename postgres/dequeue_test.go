package postgres

import (
	"fmt"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/pinion-queue/pinion"
)

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
	jobs, err := s.Dequeue(ctx, pinion.DequeueOptions{Max: 1})
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
		for what, claim := range map[string]struct{ sql, more string }{
			"all": {claimFromAllSQL, ""}, "one": {claimFromOneSQL, ", 'q1'"}, "some": {claimFromSomeSQL, ""},
			"some with limits": {claimLimitedSQL, ""},
		} {
			queues := "'{q0,q2}'"
			if what == "all" {
				queues = "NULL"
			}
			err := pgx.BeginFunc(ctx, s.pool, func(tx pgx.Tx) error { // on one connection, whose plans are generic
				if _, err := tx.Prepare(ctx, "planned", s.sql(claim.sql)); err != nil {
					return err
				}
				var plan []struct {
					Plan struct {
						Hit  int `json:"Shared Hit Blocks"`
						Read int `json:"Shared Read Blocks"`
					}
				}
				err := tx.QueryRow(ctx, fmt.Sprintf("EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) EXECUTE planned('{a,b}', %s, 8, 8, 1, '', '10s'%s)",
					queues, claim.more), pgx.QueryExecModeSimpleProtocol).Scan(&plan)
				if err != nil {
					return err
				}
				pages := plan[0].Plan.Hit + plan[0].Plan.Read
				t.Logf("claim of %s: %d pages", what, pages)
				hit += pages
				return tx.Conn().Deallocate(ctx, "planned")
			})
			if err != nil {
				t.Fatalf("claim of %s: %v", what, err)
			}
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

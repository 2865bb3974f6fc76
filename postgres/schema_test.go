package postgres

import (
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pinion-queue/pinion"
)

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
		{`UPDATE @pinion_version SET version=1000`, "of a newer Pinion"},
		{`DELETE FROM @pinion_version`, "is empty"},
		{`DROP TABLE @pinion_version`, "belongs to another program"},
	} {
		exec(c.change)
		if _, err := Open(t.Context(), url, nil); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("after %s: got %v", c.change, err)
		}
	}
}

// Each statement that runs often finds its rows by an index, also with a plan that knows nothing of the table.
func TestStatementsUseTheirIndexes(t *testing.T) {
	s := open(t, schemaURL(t), nil)
	if err := s.Enqueue(t.Context(), pinion.NewJob("a")); err != nil {
		t.Fatal(err)
	}
	for what, sql := range map[string]string{
		"promote": promoteSQL, "claim from all queues": claimFromAllSQL, "claim from one queue": claimFromOneSQL,
		"claim from some queues": claimFromSomeSQL, "claim with limits": claimLimitedSQL, "claimed": claimedSQL,
		"is front unknown": isFrontUnknownSQL, "set aside": setAsideSQL, "next due": nextDueSQL,
		"mark done": markDoneSQL, "mark failed": markFailedSQL, "dead letter": deadLetterSQL, "heartbeat": heartbeatSQL,
		"release": releaseSQL, "doubt": doubtSQL, "any ripe": anyRipeSQL, "reap": reapSQL, "cancel": cancelSQL,
		"canceled":   canceledSQL,
		"job stored": jobStoredSQL, "id taken": idTakenSQL, "key taken": keyTakenSQL, "size": countPendingSQL,
		"replay": replaySQL, "purge": purgeSQL, "reschedule": rescheduleSQL, "prune chosen": pruneChosenSQL,
	} {
		t.Run(what, func(t *testing.T) {
			err := pgx.BeginFunc(t.Context(), s.pool, func(tx pgx.Tx) error {
				if _, err := tx.Exec(t.Context(), `SET LOCAL plan_cache_mode=force_generic_plan`); err != nil {
					return err
				}
				prepared, err := tx.Prepare(t.Context(), "planned", s.sql(sql))
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

// Version 1 knew no leases, Meta or folded names.
func TestTablesOfVersion1AreMigrated(t *testing.T) {
	url := schemaURL(t)
	config, err := pgx.ParseConfig(url)
	if err != nil {
		t.Fatal(err)
	}
	schema := config.RuntimeParams["pinion_schema"]
	query(t, t.Context(), plainURL(url), inSchema(schema, `CREATE SCHEMA `+pgx.Identifier{schema}.Sanitize()+`;
		CREATE TABLE @pinion_version (version integer NOT NULL); INSERT INTO @pinion_version VALUES (1);`+migrations[0]+`
		INSERT INTO @jobs (task, key) VALUES ('`+"\u212A"+`elvin', 'k'), ('Add', NULL);
		INSERT INTO @jobs (task, status, claim, attempts, heartbeat_at) VALUES ('runs', 'RUNNING', 1, 1, statement_timestamp()-interval '1h')`))
	s := open(t, url, nil)
	for range 200 { // a lease that version 1 has not stored goes by the visibility timeout
		reaped, err := s.ReapStale(t.Context(), 5*time.Millisecond)
		if err != nil {
			t.Fatal(err)
		}
		if reaped == 1 {
			break
		}
		time.Sleep(5 * time.Millisecond)
	}
	jobs, err := s.Dequeue(t.Context(),
		pinion.DequeueOptions{Max: 9, Tasks: []string{"kelvin", "ADD", "runs"}, NoWait: true})
	if err != nil || len(jobs) != 3 || jobs[2].Reaped != 1 || jobs[0].LeaseUntil.IsZero() {
		t.Errorf("claimed %+v, %v", jobs, err)
	}
	if err := s.Enqueue(t.Context(), &pinion.Job{Task: "b", Key: "k"}); !errors.Is(err, pinion.ErrDuplicate) {
		t.Errorf("a Key that is held: got %v", err)
	}
}

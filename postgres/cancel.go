package postgres

import (
	"context"

	"github.com/jackc/pgx/v5"

	"github.com/pinion-queue/pinion"
)

const (
	// cancelSQL cancels the jobs with the ids $1 or the numbers $2.
	cancelSQL = `
		WITH c AS (SELECT j.seq, j.status='PENDING' AS waits FROM @jobs j
			WHERE (j.id=ANY($1::text[]) OR j.seq=ANY($2::bigint[])) AND j.status IN ('PENDING', 'RUNNING')
			ORDER BY j.id FOR UPDATE),
		canceled AS (UPDATE @jobs j SET canceled=true, status=CASE WHEN waits THEN 'FAILED' ELSE status END,
				error=CASE WHEN waits THEN '@canceled' ELSE error END,
				finished_at=CASE WHEN waits THEN statement_timestamp() END
			FROM c WHERE j.seq=c.seq RETURNING j.id, j.queue, j.task, waits),
		counted AS (INSERT INTO @ends (at, queue, task, succeeded, failed, took)
			SELECT date_trunc('second', statement_timestamp()), queue, task, 0, count(*), interval '0'
			FROM canceled WHERE waits GROUP BY queue, task)
		SELECT id, waits FROM canceled`
	canceledSQL = `SELECT h.id, h.claim, h.attempts, true, false FROM @jobs j, ` + handedInSQL + `
		WHERE ` + isHeldSQL + ` AND j.canceled`
)

// Cancel implements [pinion.Canceler].
func (s *Storage) Cancel(ctx context.Context, ids ...string) (ended, asked []string, err error) {
	waited, err := s.cancel(ctx, namesOrNone(ids), nil)
	if err != nil {
		return nil, nil, err
	}
	for _, id := range ids {
		waits, found := waited[id]
		if found && waits {
			ended = append(ended, id)
			delete(waited, id) // an id that is given twice has ended once
		} else if found {
			asked = append(asked, id)
		}
	}
	return ended, asked, nil
}

// cancel cancels jobs by their ids or their numbers. It returns the ids, and whether each job waited; the
// others run.
func (s *Storage) cancel(ctx context.Context, ids []string, numbers []int64) (waited map[string]bool, err error) {
	waited = make(map[string]bool)
	err = s.write(ctx, "cancel", func(ctx context.Context, conn *pgx.Conn, _ bool) error {
		var id string
		var waits bool
		rows, _ := conn.Query(ctx, s.sql(cancelSQL), ids, numbers)
		_, err := pgx.ForEachRow(rows, []any{&id, &waits}, func() error {
			waited[id] = waits
			return nil
		})
		return err
	})
	return waited, err
}

// Canceled implements [pinion.Canceler].
func (s *Storage) Canceled(ctx context.Context, jobs ...*pinion.Job) (canceled []*pinion.Job, err error) {
	handed, _ := handIn(jobs)
	var found map[claimKey]claimFate
	err = s.read(ctx, "canceled", func(ctx context.Context, conn *pgx.Conn) error {
		found = make(map[claimKey]claimFate)
		rows, _ := conn.Query(ctx, s.sql(canceledSQL), handed...)
		return collectFates(found, rows)
	})
	for _, job := range jobs {
		if _, asked := found[keyOf(job)]; asked {
			canceled = append(canceled, job)
		}
	}
	return canceled, err
}

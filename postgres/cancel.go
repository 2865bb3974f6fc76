package postgres

import (
	"context"

	"github.com/jackc/pgx/v5"

	"github.com/pinion-queue/pinion"
)

const (
	cancelSQL = `
		WITH c AS (SELECT seq, status='PENDING' AS waits FROM @jobs
			WHERE id=ANY($1::text[]) AND status IN ('PENDING', 'RUNNING') ORDER BY id FOR UPDATE)
		UPDATE @jobs j SET canceled=true, status=CASE WHEN waits THEN 'FAILED' ELSE status END,
			error=CASE WHEN waits THEN '@canceled' ELSE error END,
			finished_at=CASE WHEN waits THEN statement_timestamp() END
		FROM c WHERE j.seq=c.seq RETURNING j.id, waits`
	canceledOfHeldSQL = `SELECT h.id, h.claim, h.attempts, true FROM @jobs j, ` + handedIn + ` WHERE ` + isHeld + ` AND j.canceled`
)

// Cancel implements [pinion.Canceler].
func (s *Storage) Cancel(ctx context.Context, ids ...string) (ended, asked []string, err error) {
	waited := make(map[string]bool) // by id; the others run
	err = s.write(ctx, "cancel", func(ctx context.Context, conn *pgx.Conn, _ bool) error {
		var id string
		var waits bool
		rows, _ := conn.Query(ctx, s.sql(cancelSQL), storableAll(ids))
		_, err := pgx.ForEachRow(rows, []any{&id, &waits}, func() error {
			waited[id] = waits
			return nil
		})
		return err
	})
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

// Canceled implements [pinion.Canceler].
func (s *Storage) Canceled(ctx context.Context, jobs ...*pinion.Job) (canceled []*pinion.Job, err error) {
	handed, _ := handIn(jobs)
	var found map[claimKey]bool
	err = s.read(ctx, "canceled", func(ctx context.Context, conn *pgx.Conn) error {
		found = make(map[claimKey]bool)
		rows, _ := conn.Query(ctx, s.sql(canceledOfHeldSQL), handed...)
		return collectClaims(found, rows)
	})
	for _, job := range jobs {
		if found[keyOf(job)] {
			canceled = append(canceled, job)
		}
	}
	return canceled, err
}

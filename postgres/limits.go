package postgres

import (
	"context"

	"github.com/jackc/pgx/v5"
	"github.com/pinion-queue/pinion"
	"github.com/pinion-queue/pinion/internal/rules"
)

// Limits are exact. A claim locks the rows of the limits that it is bound by, sorted by name, and counts the
// running jobs in a later statement of the same transaction, so that it sees whatever other claims have
// committed. SetLimit locks the table against all claims, so that none goes by what was before.

const (
	// FOR UPDATE locks the table in the mode ROW SHARE even if it finds no row. A paused queue needs no lock of
	// its row: nothing is counted.
	lockLimitsSQL = `SELECT queue FROM @limits WHERE ($1::text[] IS NULL OR queue=ANY($1::text[])) AND most>0
		ORDER BY queue FOR UPDATE`
	anyLimitsSQL = `SELECT EXISTS (SELECT FROM @limits WHERE $1::text[] IS NULL OR queue=ANY($1::text[]))`

	// claimLimitedSQL goes through the queues one by one: those in which jobs are due, or those named. From
	// each it takes as many as there is room. See dequeue.go for the parameters.
	claimLimitedSQL = `
		WITH RECURSIVE
		r(queue) AS (
			(SELECT j.queue FROM @jobs j WHERE $2::text[] IS NULL AND ` + isReadySQL + ` ORDER BY j.queue LIMIT 1)
			UNION ALL
			SELECT (SELECT j.queue FROM @jobs j WHERE ` + isReadySQL + ` AND j.queue>r.queue ORDER BY j.queue LIMIT 1)
			FROM r WHERE r.queue IS NOT NULL),
		a(queue) AS (
			(SELECT j.queue FROM @jobs j WHERE $2::text[] IS NULL AND ` + isAsideSQL + ` ORDER BY j.queue LIMIT 1)
			UNION ALL
			SELECT (SELECT j.queue FROM @jobs j WHERE ` + isAsideSQL + ` AND j.queue>a.queue ORDER BY j.queue LIMIT 1)
			FROM a WHERE a.queue IS NOT NULL),
		names AS (SELECT queue FROM r WHERE queue IS NOT NULL UNION SELECT queue FROM a WHERE queue IS NOT NULL
			UNION SELECT unnest($2::text[])),
		rooms AS MATERIALIZED (SELECT n.queue, l.most IS NOT NULL AS limited, CASE WHEN l.most IS NULL THEN $3::bigint
				ELSE greatest(0, least($3::bigint,
					l.most-(SELECT count(*) FROM @jobs j WHERE j.status='RUNNING' AND j.queue=n.queue))) END AS room
			FROM names n LEFT JOIN @limits l ON l.queue=n.queue),
		best AS MATERIALIZED (SELECT x.seq, o.limited FROM rooms o CROSS JOIN LATERAL (
				SELECT u.seq, u.priority FROM (
					(SELECT j.seq, j.priority FROM @jobs j WHERE j.queue=o.queue AND ` + isReadySQL + ` AND ` + isKnownSQL + `
						ORDER BY j.priority DESC, j.seq LIMIT o.room)
					UNION ALL
					(SELECT y.seq, y.priority FROM unnest($1::text[]) AS t(name) CROSS JOIN LATERAL (
							SELECT j.seq, j.priority FROM @jobs j WHERE j.queue=o.queue AND ` + foldedSQL + `=t.name AND ` + isAsideSQL + `
							ORDER BY j.priority DESC, j.seq LIMIT o.room) y
						WHERE ` + anyAsideSQL + ` ORDER BY y.priority DESC, y.seq LIMIT o.room)
					UNION ALL
					(SELECT j.seq, j.priority FROM @jobs j WHERE $1::text[] IS NULL AND j.queue=o.queue AND ` + isAsideSQL + `
						ORDER BY j.priority DESC, j.seq LIMIT o.room)) u
				ORDER BY u.priority DESC, u.seq LIMIT o.room) x
			ORDER BY x.priority DESC, x.seq LIMIT $3::bigint),
		c AS (SELECT ` + candidatesSQL + `, b.limited FROM best b JOIN @jobs j ON j.seq=b.seq
			WHERE j.status='PENDING' AND NOT j.future FOR UPDATE OF j SKIP LOCKED),` + takeSQL

	setLimitSQL = `INSERT INTO @limits (queue, most) VALUES ($1, $2)
		ON CONFLICT (queue) DO UPDATE SET most=excluded.most`
	liftLimitSQL = `DELETE FROM @limits WHERE queue=$1`
	limitsSQL    = `SELECT queue, most FROM @limits`
)

// SetLimit implements [pinion.Limiter].
func (s *Storage) SetLimit(ctx context.Context, queue string, max int) error {
	queue = queueName(queue)
	if _, _, err := (&pinion.Job{Task: "limit", Queue: queue}).EncodeArgs(); err != nil {
		return err // no job can be in a queue of that name
	}
	err := s.write(ctx, "set limit", func(ctx context.Context, conn *pgx.Conn, _ bool) error {
		return pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
			// EXCLUSIVE waits for the claims under way and keeps new ones out. It does not wait for a dump of
			// the database.
			_, err := tx.Exec(ctx, s.sql(`LOCK TABLE @limits IN EXCLUSIVE MODE`))
			if err != nil {
				return err
			}
			if max < 0 {
				_, err = tx.Exec(ctx, s.sql(liftLimitSQL), queue)
			} else {
				_, err = tx.Exec(ctx, s.sql(setLimitSQL), queue, min(max, rules.MostLimit))
			}
			return err
		})
	})
	if err == nil {
		s.announceJobs()
	}
	return err
}

// Limits implements [pinion.Limiter].
func (s *Storage) Limits(ctx context.Context) (limits map[string]int, err error) {
	err = s.read(ctx, "limits", func(ctx context.Context, conn *pgx.Conn) error {
		limits = make(map[string]int)
		var queue string
		var limit int
		rows, _ := conn.Query(ctx, s.sql(limitsSQL))
		_, err := pgx.ForEachRow(rows, []any{&queue, &limit}, func() error {
			limits[queue] = limit
			return nil
		})
		return err
	})
	return limits, err
}

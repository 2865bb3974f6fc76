package postgres

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pinion-queue/pinion"
	"github.com/pinion-queue/pinion/internal/rules"
)

const (
	// maxPairs is how many queues and tasks of a minute, or hour, are told apart.
	// mergeSize is how many rows a transaction merges.
	maxPairs, mergeSize = 1000, 5000

	// mergeEndsSQL merges rows of the span $1 that are older than $2 into the next span, whose name is $3.
	mergeEndsSQL = `
		WITH old AS (SELECT ctid FROM @ends WHERE span=$1 AND at<date_trunc($3, statement_timestamp()-$2::interval)
			ORDER BY at LIMIT $4 FOR UPDATE SKIP LOCKED),
		gone AS (DELETE FROM @ends e USING old WHERE e.ctid=old.ctid RETURNING e.*),
		merged AS (INSERT INTO @ends (at, queue, task, succeeded, failed, took, span)
			SELECT at, queue, task, succeeded, failed, took, $1+1 FROM (` + otherSQL + `) o)
		SELECT count(*) FROM gone`

	// otherSQL sums up rows by the span $3, and the pairs with the fewest ends as one.
	otherSQL = `
		SELECT at, CASE WHEN rank>$5 THEN 'other' ELSE queue END AS queue,
			CASE WHEN rank>$5 THEN 'other' ELSE task END AS task,
			sum(succeeded)::bigint AS succeeded, sum(failed)::bigint AS failed, sum(took) AS took
		FROM (SELECT date_trunc($3, at) AS at, queue, task,
				sum(succeeded) AS succeeded, sum(failed) AS failed, sum(took) AS took,
				row_number() OVER (PARTITION BY date_trunc($3, at)
					ORDER BY sum(succeeded+failed) DESC, queue, task) AS rank
			FROM gone GROUP BY 1, 2, 3) g
		GROUP BY 1, 2, 3`

	// historySQL sums up by the minute what is not merged by the hour yet.
	historySQL = `
		WITH e AS (SELECT CASE span WHEN 2 THEN at ELSE date_trunc('minute', at) END AS at, queue, task,
				sum(succeeded) AS succeeded, sum(failed) AS failed, sum(took) AS took
			FROM @ends WHERE at>=date_trunc('minute', $1::timestamptz) GROUP BY 1, 2, 3),
		r AS (SELECT *, row_number() OVER (PARTITION BY at
				ORDER BY (queue='other' AND task='other') DESC, succeeded+failed DESC, queue, task) AS rank FROM e)
		SELECT at, CASE WHEN rank>$2 THEN 'other' ELSE queue END, CASE WHEN rank>$2 THEN 'other' ELSE task END,
			sum(succeeded)::bigint, sum(failed)::bigint, sum(took)
		FROM r GROUP BY 1, 2, 3 ORDER BY 1, 2, 3`
	pruneEndsSQL = `DELETE FROM @ends WHERE span=2 AND at<statement_timestamp()-$1::interval`
)

// History implements [pinion.Inspector].
func (s *Storage) History(ctx context.Context, since time.Time) (history []pinion.Ends, err error) {
	err = s.browse(ctx, "history", func(ctx context.Context, conn *pgx.Conn) error {
		history = nil
		var e pinion.Ends
		rows, _ := conn.Query(ctx, s.sql(historySQL), since, maxPairs)
		_, err := pgx.ForEachRow(rows, []any{&e.At, &e.Queue, &e.Task, &e.Succeeded, &e.Failed, &e.Took}, func() error {
			e.At = e.At.UTC()
			history = append(history, e)
			return nil
		})
		return err
	})
	return history, err
}

// mergeEnds merges the ends of single statements by the minute, and those of more than two hours ago by the
// hour. It does so once a minute at most.
func (s *Storage) mergeEnds(ctx context.Context) error {
	if !s.isTimeFor(&s.merged, time.Minute) {
		return nil
	}
	if err := s.mergeSpan(ctx, 0, 2*time.Minute, "minute"); err != nil {
		return err
	}
	if err := s.mergeSpan(ctx, 1, 2*time.Hour, "hour"); err != nil {
		return err
	}
	_, err := s.change(ctx, "reap", pruneEndsSQL, []any{interval(rules.HistoryKept)})
	return err
}

func (s *Storage) mergeSpan(ctx context.Context, span int, older time.Duration, into string) error {
	for {
		var merged int
		err := s.write(ctx, "reap", func(ctx context.Context, conn *pgx.Conn, _ bool) error {
			return conn.QueryRow(ctx, s.sql(mergeEndsSQL), span, interval(older), into, mergeSize, maxPairs).
				Scan(&merged)
		})
		if err != nil || merged < mergeSize {
			return err
		}
	}
}

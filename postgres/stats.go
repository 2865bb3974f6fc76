package postgres

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pinion-queue/pinion"
)

const (
	countedSQL = `queue, task, status, future, started_at, created_at, run_at`

	// countUnfinishedSQL counts what waits and runs. Jobs that were set aside are due as well.
	countUnfinishedSQL = `
		SELECT queue, task, count(*) FILTER (WHERE status='PENDING'),
			count(*) FILTER (WHERE status='PENDING' AND (NOT future OR run_at<=statement_timestamp())),
			count(*) FILTER (WHERE status='RUNNING'),
			count(*) FILTER (WHERE status='RUNNING' AND started_at IS NOT NULL),
			min(created_at) FILTER (WHERE status='PENDING'),
			min(greatest(run_at, created_at))
				FILTER (WHERE status='PENDING' AND (NOT future OR run_at<=statement_timestamp()))
		FROM (
			SELECT ` + countedSQL + ` FROM @jobs j WHERE ` + isReadySQL + `
			UNION ALL
			SELECT ` + countedSQL + ` FROM @jobs j WHERE ` + isAsideSQL + `
			UNION ALL
			SELECT ` + countedSQL + ` FROM @jobs j WHERE j.status='PENDING' AND j.future
			UNION ALL
			SELECT ` + countedSQL + ` FROM @jobs j WHERE j.status='RUNNING') u
		GROUP BY queue, task`
	countEndedSQL = `
		SELECT queue, task, sum(succeeded)::bigint, sum(failed)::bigint,
			coalesce(sum(succeeded+failed)
				FILTER (WHERE at>=date_trunc('minute', statement_timestamp())-interval '1min'), 0)::bigint
		FROM @ends WHERE at>statement_timestamp()-interval '1h' AND span<2 GROUP BY queue, task`
	countDeadSQL       = `SELECT count(*) FROM @jobs WHERE dead IS NOT NULL`
	countLastMinuteSQL = `
		SELECT floor(extract(epoch FROM statement_timestamp()-at))::integer AS age, sum(succeeded+failed)::bigint
		FROM @ends WHERE span=0 AND at>statement_timestamp()-interval '1min' GROUP BY age`
)

// Stats implements [pinion.Inspector]. It reads what waits and what runs, whose number it grows with, and the
// counts of what ended in the last hour.
func (s *Storage) Stats(ctx context.Context) (stats pinion.Stats, err error) {
	err = s.browse(ctx, "stats", func(ctx context.Context, conn *pgx.Conn) error {
		return pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
			// To read all that waits or runs, a bitmap of their rows is better, but not the whole table, most
			// of which has finished. Starting parallel workers takes longer than they save.
			_, err := tx.Exec(ctx, `SELECT set_config('enable_bitmapscan', 'on', true),
				set_config('enable_seqscan', 'off', true), set_config('max_parallel_workers_per_gather', '0', true)`)
			if err != nil {
				return err
			}
			stats, err = s.count(ctx, tx)
			return err
		})
	})
	return stats, err
}

func (s *Storage) count(ctx context.Context, tx pgx.Tx) (stats pinion.Stats, err error) {
	var counter pinion.StatsCounter
	var queue, task string
	var c pinion.Counts
	var oldest, oldestDue *time.Time
	rows, _ := tx.Query(ctx, s.sql(countUnfinishedSQL))
	columns := []any{&queue, &task, &c.Pending, &c.Due, &c.Running, &c.Started, &oldest, &oldestDue}
	_, err = pgx.ForEachRow(rows, columns, func() error {
		c.Oldest, c.OldestDue = timeOf(oldest), timeOf(oldestDue)
		counter.Add(queue, task, c)
		return nil
	})
	if err != nil {
		return stats, err
	}
	c = pinion.Counts{}
	rows, _ = tx.Query(ctx, s.sql(countEndedSQL))
	_, err = pgx.ForEachRow(rows, []any{&queue, &task, &c.SuccessHour, &c.FailedHour, &c.Minute}, func() error {
		counter.Add(queue, task, c)
		return nil
	})
	if err != nil {
		return stats, err
	}
	stats = counter.Stats()
	if err := tx.QueryRow(ctx, s.sql(countDeadSQL)).Scan(&stats.DeadLetters); err != nil {
		return stats, err
	}
	return stats, s.countLastMinute(ctx, tx, &stats)
}

// countLastMinute counts the jobs that finished in each of the last 60 seconds.
func (s *Storage) countLastMinute(ctx context.Context, tx pgx.Tx, stats *pinion.Stats) error {
	var age, jobs int
	rows, _ := tx.Query(ctx, s.sql(countLastMinuteSQL))
	_, err := pgx.ForEachRow(rows, []any{&age, &jobs}, func() error {
		age = max(age, 0) // a transaction that began later may have committed before this statement
		if age < len(stats.LastMinute) {
			stats.LastMinute[len(stats.LastMinute)-1-age] += jobs
		}
		return nil
	})
	return err
}

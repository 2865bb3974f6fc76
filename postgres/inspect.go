package postgres

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"maps"
	"math"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/jackc/pgx/v5"

	"github.com/pinion-queue/pinion"
)

const (
	// Two counts, because each has an index.
	countPendingSQL = `SELECT (SELECT count(*) FROM @jobs j WHERE ` + isReady + `)
		+ (SELECT count(*) FROM @jobs WHERE status='PENDING' AND future)`
	countJobsSQL = `SELECT queue, task, status, count(*), min(created_at),
			count(*) FILTER (WHERE finished_at>statement_timestamp()-interval '1h'),
			count(*) FILTER (WHERE finished_at>statement_timestamp()-interval '1min'), count(dead)
		FROM @jobs GROUP BY queue, task, status`
	countLastMinuteSQL = `
		SELECT floor(extract(epoch FROM statement_timestamp()-finished_at))::integer AS age, count(*) FROM (
			SELECT finished_at FROM @jobs
			WHERE status IN ('SUCCESS', 'FAILED') AND dead IS NULL AND finished_at>statement_timestamp()-interval '1min'
			UNION ALL
			SELECT finished_at FROM @jobs WHERE dead IS NOT NULL AND finished_at>statement_timestamp()-interval '1min') f
		GROUP BY age`
	getJobSQL = `SELECT j.seq, ` + jobColumns + ` FROM @jobs j WHERE id=$1`
)

// Size implements [pinion.Storage].
func (s *Storage) Size(ctx context.Context) (jobs int, err error) {
	err = s.read(ctx, "size", func(ctx context.Context, conn *pgx.Conn) error {
		return conn.QueryRow(ctx, s.sql(countPendingSQL)).Scan(&jobs)
	})
	return jobs, err
}

// Stats implements [pinion.Inspector]. It reads the whole table, which keeps nobody waiting.
func (s *Storage) Stats(ctx context.Context) (stats pinion.Stats, err error) {
	err = s.read(ctx, "stats", func(ctx context.Context, conn *pgx.Conn) error {
		return pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
			if _, err := tx.Exec(ctx, `SET LOCAL enable_seqscan=on`); err != nil {
				return err
			}
			stats, err = s.countJobs(ctx, tx)
			if err != nil {
				return err
			}
			return s.countLastMinute(ctx, tx, &stats)
		})
	})
	return stats, err
}

// countJobs counts the jobs by queue, task and status.
func (s *Storage) countJobs(ctx context.Context, tx pgx.Tx) (stats pinion.Stats, err error) {
	queues, tasks := make(map[string]*pinion.Counts), make(map[string]*pinion.Counts)
	var queue, task string
	var status pinion.Status
	var jobs, hour, minute, dead int
	var oldest time.Time
	rows, _ := tx.Query(ctx, s.sql(countJobsSQL))
	_, err = pgx.ForEachRow(rows, []any{&queue, &task, &status, &jobs, &oldest, &hour, &minute, &dead}, func() error {
		for _, c := range []*pinion.Counts{&stats.Total, countsOf(queues, queue), countsOf(tasks, task)} {
			switch status {
			case pinion.StatusPending:
				c.Pending += jobs
				if c.Oldest.IsZero() || oldest.Before(c.Oldest) {
					c.Oldest = oldest.UTC()
				}
			case pinion.StatusRunning:
				c.Running += jobs
			case pinion.StatusSuccess:
				c.Success += jobs
				c.SuccessHour += hour
			case pinion.StatusFailed:
				c.Failed += jobs
				c.FailedHour += hour
			}
			c.Minute += minute
		}
		stats.DeadLetters += dead
		return nil
	})
	for _, name := range slices.Sorted(maps.Keys(queues)) {
		stats.Queues = append(stats.Queues, pinion.QueueStats{Queue: name, Counts: *queues[name]})
	}
	for _, name := range slices.Sorted(maps.Keys(tasks)) {
		stats.Tasks = append(stats.Tasks, pinion.TaskStats{Task: name, Counts: *tasks[name]})
	}
	return stats, err
}

func countsOf(by map[string]*pinion.Counts, name string) *pinion.Counts {
	if by[name] == nil {
		by[name] = new(pinion.Counts)
	}
	return by[name]
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

// Get implements [pinion.Inspector].
func (s *Storage) Get(ctx context.Context, id string) (*pinion.Job, error) {
	var found row
	err := s.read(ctx, "get", func(ctx context.Context, conn *pgx.Conn) (err error) {
		rows, _ := conn.Query(ctx, s.sql(getJobSQL), storable(id))
		found, err = pgx.CollectExactlyOneRow(rows, scanRow)
		return err
	})
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, fmt.Errorf("%w: %q", pinion.ErrNotFound, id)
	}
	return found.job, err
}

// conditions are a Filter as SQL.
type conditions struct {
	sql  string // each condition begins with AND
	args []any  // by their numbers in sql
}

// bind adds a condition, in which %d is the number of the argument.
func (c *conditions) bind(condition string, arg any) {
	c.args = append(c.args, arg)
	c.sql += " AND " + fmt.Sprintf(condition, len(c.args))
}

// where returns a filter as SQL, whose arguments stand behind those given.
func (s *Storage) where(ctx context.Context, f pinion.Filter, args ...any) (c conditions, err error) {
	c.args = args
	switch f.Status {
	case "":
	case pinion.StatusPending, pinion.StatusRunning, pinion.StatusSuccess, pinion.StatusFailed:
		c.sql += " AND status='" + string(f.Status) + "'" // a bound status would match no partial index
	default:
		c.sql += " AND false"
	}
	if len(f.IDs) > 0 {
		c.bind("id=ANY($%d::text[])", storableAll(f.IDs))
	}
	if f.Queue != "" {
		c.bind("queue=$%d", storable(f.Queue))
	}
	if f.Task != "" && isASCII(f.Task) {
		c.bind("lower(task)=lower($%d::text)", storable(f.Task)) // the collation is C
	} else if f.Task != "" {
		names, err := s.tasksLike(ctx, f.Task) // the server's idea of other letters depends on its locale
		if err != nil {
			return c, err
		}
		c.bind("task=ANY($%d::text[])", names)
	}
	return c, nil
}

func isASCII(s string) bool {
	return !strings.ContainsFunc(s, func(r rune) bool { return r >= utf8.RuneSelf })
}

// tasksLike returns the names of stored tasks that equal a name without regard to case.
func (s *Storage) tasksLike(ctx context.Context, name string) (like []string, err error) {
	err = s.read(ctx, "list", func(ctx context.Context, conn *pgx.Conn) error {
		rows, _ := conn.Query(ctx, s.sql(`SELECT DISTINCT task FROM @jobs`))
		tasks, err := pgx.CollectRows(rows, pgx.RowTo[string])
		like = slices.DeleteFunc(tasks, func(task string) bool { return !strings.EqualFold(task, name) })
		return err
	})
	return like, err
}

const pageSize = 200 // jobs that a listing reads at a time

// Jobs implements [pinion.Inspector].
func (s *Storage) Jobs(ctx context.Context, f pinion.Filter) iter.Seq2[*pinion.Job, error] {
	return s.list(ctx, "j.seq", "true", f)
}

// DeadLetters implements [pinion.Inspector].
func (s *Storage) DeadLetters(ctx context.Context, f pinion.Filter) iter.Seq2[*pinion.Job, error] {
	f.Status = ""
	return s.list(ctx, "j.dead", "j.dead IS NOT NULL", f)
}

// list reads pages in the order of a number, so that no snapshot stays open while the caller works.
func (s *Storage) list(ctx context.Context, number, only string, f pinion.Filter) iter.Seq2[*pinion.Job, error] {
	return func(yield func(*pinion.Job, error) bool) {
		after := int64(math.MinInt64)
		where, err := s.where(ctx, f, after)
		if err != nil {
			yield(nil, err)
			return
		}
		order := number
		if f.Status == pinion.StatusRunning || len(f.IDs) > 0 {
			order += "+0" // few rows: find them by their own index and sort them
		}
		sql := inSchema(s.opts.Schema, fmt.Sprintf(`SELECT %s, %s FROM @jobs j WHERE %s AND %s>$1%s ORDER BY %s LIMIT %d`,
			number, jobColumns, only, order, where.sql, order, pageSize))
		listed := 0
		for {
			where.args[0] = after
			page, err := s.page(ctx, sql, where.args)
			if err != nil {
				yield(nil, err)
				return
			}
			for _, r := range page {
				listed++
				if !yield(r.job, nil) || listed == f.Limit {
					return
				}
			}
			if len(page) < pageSize {
				return
			}
			after = page[len(page)-1].number
		}
	}
}

func (s *Storage) page(ctx context.Context, sql string, args []any) (page []row, err error) {
	err = s.read(ctx, "list", func(ctx context.Context, conn *pgx.Conn) error {
		page, err = collectRows(conn.Query(ctx, sql, args...))
		return err
	})
	return page, err
}

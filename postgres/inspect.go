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

// Size counts the PENDING jobs.
func (s *Storage) Size(ctx context.Context) (n int, err error) {
	err = s.read(ctx, "size", func(ctx context.Context, conn *pgx.Conn, _ bool) error {
		return conn.QueryRow(ctx, s.sql.size).Scan(&n)
	})
	return n, err
}

// Stats counts jobs; see [pinion.Inspector]. It reads the whole table in one statement, which keeps nobody waiting.
func (s *Storage) Stats(ctx context.Context) (stats pinion.Stats, err error) {
	err = s.read(ctx, "stats", func(ctx context.Context, conn *pgx.Conn, _ bool) error {
		return pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
			if _, err := tx.Exec(ctx, `SET LOCAL enable_seqscan=on`); err != nil {
				return err
			}
			if stats, err = s.countJobs(ctx, tx); err != nil {
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
	found, _ := tx.Query(ctx, s.sql.stats)
	_, err = pgx.ForEachRow(found, []any{&queue, &task, &status, &jobs, &oldest, &hour, &minute, &dead}, func() error {
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
	found, _ := tx.Query(ctx, s.sql.minute)
	_, err := pgx.ForEachRow(found, []any{&age, &jobs}, func() error {
		age = max(age, 0) // another transaction's statement may have begun a little later
		if age < len(stats.LastMinute) {
			stats.LastMinute[len(stats.LastMinute)-1-age] += jobs
		}
		return nil
	})
	return err
}

// Get returns one job, or ErrNotFound.
func (s *Storage) Get(ctx context.Context, id string) (*pinion.Job, error) {
	var r row
	err := s.read(ctx, "get", func(ctx context.Context, conn *pgx.Conn, _ bool) (err error) {
		found, _ := conn.Query(ctx, inSchema(s.opts.Schema, `SELECT `+jobColumns+` FROM @jobs j WHERE id=$1`), text(id))
		r, err = pgx.CollectExactlyOneRow(found, scanRow)
		return err
	})
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, fmt.Errorf("%w: %s", pinion.ErrNotFound, id)
	}
	return r.job, err
}

// where is the filter as SQL. The status stands there literally: a bound one would match no partial index.
func (s *Storage) where(ctx context.Context, f pinion.Filter, args []any) (conditions string, all []any, err error) {
	bind := func(condition string, arg any) {
		args = append(args, arg)
		conditions += " AND " + fmt.Sprintf(condition, len(args))
	}
	switch f.Status {
	case pinion.StatusPending, pinion.StatusRunning, pinion.StatusSuccess, pinion.StatusFailed:
		conditions = " AND status='" + string(f.Status) + "'"
	case "":
	default:
		conditions = " AND false"
	}
	if len(f.IDs) > 0 {
		ids := make([]string, len(f.IDs))
		for i, id := range f.IDs {
			ids[i] = text(id)
		}
		bind("id=ANY($%d::text[])", ids)
	}
	if f.Queue != "" {
		bind("queue=$%d", text(f.Queue))
	}
	switch {
	case f.Task == "":
	case !strings.ContainsFunc(f.Task, func(r rune) bool { return r >= utf8.RuneSelf }):
		bind("lower(task)=lower($%d::text)", text(f.Task)) // in the column's collation, C
	default: // what the server knows of other letters depends on the locale of the database
		var names, folded []string
		err = s.read(ctx, "list", func(ctx context.Context, conn *pgx.Conn, _ bool) (err error) {
			found, _ := conn.Query(ctx, inSchema(s.opts.Schema, `SELECT DISTINCT task FROM @jobs`))
			names, err = pgx.CollectRows(found, pgx.RowTo[string])
			return err
		})
		for _, name := range names {
			if strings.EqualFold(name, f.Task) {
				folded = append(folded, name)
			}
		}
		bind("task=ANY($%d::text[])", folded)
	}
	return conditions, args, err
}

// list pages by the number that orders it, so that no snapshot is held while the caller thinks.
func (s *Storage) list(ctx context.Context, number, only string, f pinion.Filter) iter.Seq2[*pinion.Job, error] {
	return func(yield func(*pinion.Job, error) bool) {
		conditions, args, err := s.where(ctx, f, []any{int64(math.MinInt64)})
		if err != nil {
			yield(nil, err)
			return
		}
		by := number
		if f.Status == pinion.StatusRunning || len(f.IDs) > 0 {
			by += "+0" // few: find them by their index and sort, rather than go through the table in its order
		}
		sql := inSchema(s.opts.Schema, `SELECT `+number+strings.TrimPrefix(jobColumns, "j.seq")+` FROM @jobs j WHERE `+only+by+`>$1`+conditions+` ORDER BY `+by+` LIMIT 200`)
		for given, more := 0, true; more; {
			var page []row
			err := s.read(ctx, "list", func(ctx context.Context, conn *pgx.Conn, _ bool) (err error) {
				found, _ := conn.Query(ctx, sql, args...)
				page, err = pgx.CollectRows(found, scanRow)
				return err
			})
			if err != nil {
				yield(nil, err)
				return
			}
			more = len(page) == 200
			for _, r := range page {
				if given++; !yield(r.job, nil) || given == f.Limit {
					return
				}
				args[0] = r.seq
			}
		}
	}
}

// Jobs lists jobs; see [pinion.Inspector].
func (s *Storage) Jobs(ctx context.Context, f pinion.Filter) iter.Seq2[*pinion.Job, error] {
	return s.list(ctx, "j.seq", "", f)
}

// DeadLetters lists the dead-letter queue; see [pinion.Inspector].
func (s *Storage) DeadLetters(ctx context.Context, f pinion.Filter) iter.Seq2[*pinion.Job, error] {
	f.Status = ""
	return s.list(ctx, "j.dead", "j.dead IS NOT NULL AND ", f)
}

// tend runs a statement that changes rows.
func (s *Storage) tend(ctx context.Context, name, sql string, args []any) (n int, err error) {
	err = s.write(ctx, name, func(ctx context.Context, conn *pgx.Conn, _ bool) error {
		tag, err := conn.Exec(ctx, inSchema(s.opts.Schema, sql), args...)
		n += int(tag.RowsAffected())
		return err
	})
	if err != nil {
		return 0, err
	}
	return n, nil
}

func limit(f pinion.Filter) int64 {
	if f.Limit > 0 {
		return int64(f.Limit)
	}
	return math.MaxInt64
}

// Replay makes dead letters PENDING again; see [pinion.Inspector]. A job comes back in its old place.
func (s *Storage) Replay(ctx context.Context, f pinion.Filter) (n int, err error) {
	f.Status = ""
	conditions, args, err := s.where(ctx, f, []any{limit(f)})
	if err != nil {
		return 0, err
	}
	for { // until nobody takes a Key in between
		n, err = s.tend(ctx, "replay", `WITH d AS MATERIALIZED (SELECT seq, key, dead FROM @jobs j WHERE dead IS NOT NULL`+conditions+`
				AND NOT EXISTS (SELECT FROM @jobs h WHERE h.key IS NOT NULL AND h.key=j.key AND h.status IN ('PENDING', 'RUNNING')) ORDER BY dead FOR UPDATE),
			k AS (SELECT seq, dead, key, row_number() OVER (PARTITION BY key ORDER BY dead) AS n FROM d)
			UPDATE @jobs j SET status='PENDING', attempts=0, error=NULL, run_at=NULL, future=false, reaped=0, finished_at=NULL, result=NULL, dead=NULL, worker=''
			FROM (SELECT seq FROM k WHERE key IS NULL OR n=1 ORDER BY dead LIMIT $1) c WHERE j.seq=c.seq`, args)
		if !isCode(err, uniqueViolation) {
			break
		}
	}
	if n > 0 {
		s.ring()
	}
	return n, err
}

// Purge deletes dead letters; see [pinion.Inspector]. The job itself stays FAILED until it is pruned.
func (s *Storage) Purge(ctx context.Context, f pinion.Filter) (int, error) {
	f.Status = ""
	conditions, args, err := s.where(ctx, f, []any{limit(f)})
	if err != nil {
		return 0, err
	}
	return s.tend(ctx, "purge", `UPDATE @jobs j SET dead=NULL FROM (SELECT seq FROM @jobs j WHERE dead IS NOT NULL`+conditions+`
		ORDER BY dead LIMIT $1 FOR UPDATE) c WHERE j.seq=c.seq`, args)
}

// Prune deletes what finished before a time, a thousand jobs a transaction; see [pinion.Inspector].
func (s *Storage) Prune(ctx context.Context, before time.Time) (int, error) {
	return s.prune(ctx, "$1::timestamptz", microTime(before))
}

func (s *Storage) prune(ctx context.Context, before string, arg any) (pruned int, err error) {
	for n := 1000; n == 1000 && err == nil; pruned += n {
		n, err = s.tend(ctx, "prune", `WITH c AS (SELECT seq FROM @jobs WHERE status IN ('SUCCESS', 'FAILED') AND dead IS NULL AND finished_at<`+before+`
			ORDER BY finished_at LIMIT 1000 FOR UPDATE SKIP LOCKED) DELETE FROM @jobs j USING c WHERE j.seq=c.seq`, []any{arg})
	}
	return pruned, err
}

// pruneOld prunes what is older than Retention, by the server's clock, once a minute at most.
func (s *Storage) pruneOld(ctx context.Context) error {
	now := time.Now()
	s.mu.Lock()
	due := s.opts.Retention >= 0 && now.Sub(s.pruned) >= min(s.opts.Retention, time.Minute)
	if due {
		s.pruned = now
	}
	s.mu.Unlock()
	if !due {
		return nil
	}
	_, err := s.prune(ctx, "statement_timestamp()-$1::interval", interval(s.opts.Retention))
	return err
}

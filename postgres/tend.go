package postgres

import (
	"context"
	"fmt"
	"math"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pinion-queue/pinion"
	"github.com/pinion-queue/pinion/internal/rules"
)

// tendSize is how many jobs a verb over a filter changes in a transaction. It chooses them before, without locks.
const tendSize = 500

// choice is what a verb over a filter goes through: the jobs that match, in the order of a number.
type choice struct {
	number string // a column, or an expression
	only   string // a condition
	filter pinion.Filter
	when   string // the column that After and Before are about
}

// forEachPage calls change for the numbers (seq) of the jobs chosen, in pages, until it has changed as many as
// the filter's Limit, or all.
func (s *Storage) forEachPage(
	ctx context.Context, verb string, c choice, change func(seqs []int64, limit int) (changed int, err error),
) (changed int, err error) {
	w := where(c.filter, c.when, int64(math.MinInt64))
	if isNarrow(c.filter) {
		c.number += "+0"
	}
	sql := inSchema(s.opts.Schema, fmt.Sprintf(`SELECT j.seq, %[1]s FROM @jobs j WHERE %[2]s AND %[1]s>$1::bigint%[3]s
		ORDER BY %[1]s LIMIT %[4]d`, c.number, c.only, w.sql, tendSize))
	for {
		limit := tendSize
		if c.filter.Limit > 0 {
			limit = min(limit, c.filter.Limit-changed)
		}
		if limit <= 0 {
			return changed, nil
		}
		seqs, last, err := s.choose(ctx, verb, sql, w.args)
		if err != nil || len(seqs) == 0 {
			return changed, err
		}
		w.args[0] = last
		n, err := change(seqs, limit)
		changed += n
		if err != nil {
			return changed, err
		}
	}
}

// choose returns the numbers of a page of jobs, and the last number by which they are ordered.
func (s *Storage) choose(ctx context.Context, verb, sql string, args []any) (seqs []int64, last int64, err error) {
	err = s.browse(ctx, verb, func(ctx context.Context, conn *pgx.Conn) error {
		seqs = nil
		var seq int64
		rows, _ := conn.Query(ctx, sql, args...)
		_, err := pgx.ForEachRow(rows, []any{&seq, &last}, func() error {
			seqs = append(seqs, seq)
			return nil
		})
		return err
	})
	return seqs, last, err
}

const (
	// $1 are the jobs, and $2 how many to change at most.
	replaySQL = `
		WITH d AS MATERIALIZED (SELECT j.seq, j.dead, CASE WHEN j.key_until_start<2 THEN j.key END AS key FROM @jobs j
			WHERE j.seq=ANY($1::bigint[]) AND j.dead IS NOT NULL ORDER BY j.dead FOR UPDATE),
		k AS (SELECT seq, dead, key, row_number() OVER (PARTITION BY key ORDER BY dead) AS n FROM d
			WHERE key IS NULL OR NOT EXISTS (SELECT FROM @jobs h WHERE h.key=d.key AND h.` + holdsKeySQL + `))
		UPDATE @jobs j SET status='PENDING', attempts=0, error=NULL, run_at=NULL, future=false, reaped=0, finished_at=NULL,
			result=NULL, dead=NULL, worker=''
		FROM (SELECT seq FROM k WHERE key IS NULL OR n=1 ORDER BY dead LIMIT $2) c WHERE j.seq=c.seq`
	purgeSQL = `
		WITH c AS (SELECT seq FROM @jobs WHERE seq=ANY($1::bigint[]) AND dead IS NOT NULL ORDER BY dead LIMIT $2 FOR UPDATE)
		UPDATE @jobs j SET dead=NULL FROM c WHERE j.seq=c.seq`
	rescheduleSQL = `
		WITH c AS (SELECT seq FROM @jobs WHERE seq=ANY($1::bigint[]) AND status='PENDING' ORDER BY seq LIMIT $2 FOR UPDATE)
		UPDATE @jobs j SET run_at=$3, future=coalesce($3>statement_timestamp(), false) FROM c WHERE j.seq=c.seq`
	isPrunableSQL  = `j.status IN ('SUCCESS', 'FAILED') AND j.dead IS NULL`
	pruneChosenSQL = `
		WITH c AS (SELECT j.seq FROM @jobs j WHERE j.seq=ANY($1::bigint[]) AND ` + isPrunableSQL + ` ORDER BY j.seq LIMIT $2
			FOR UPDATE SKIP LOCKED)
		DELETE FROM @jobs j USING c WHERE j.seq=c.seq`
)

// Replay implements [pinion.Inspector]. A job returns to its old place in the order of age.
func (s *Storage) Replay(ctx context.Context, f pinion.Filter) (replayed int, err error) {
	f.Status = ""
	letters := choice{"j.dead", "j.dead IS NOT NULL", f, "j.finished_at"}
	replayed, err = s.forEachPage(ctx, "replay", letters, func(seqs []int64, limit int) (int, error) {
		for {
			n, err := s.change(ctx, "replay", replaySQL, []any{seqs, limit})
			if !isCode(err, uniqueViolation) {
				return n, err
			}
			// Another job has taken a Key since the statement looked.
		}
	})
	if replayed > 0 {
		s.announceJobs()
	}
	return replayed, err
}

// Purge implements [pinion.Inspector]. The job itself stays FAILED until it is pruned.
func (s *Storage) Purge(ctx context.Context, f pinion.Filter) (int, error) {
	f.Status = ""
	letters := choice{"j.dead", "j.dead IS NOT NULL", f, "j.finished_at"}
	return s.forEachPage(ctx, "purge", letters, func(seqs []int64, limit int) (int, error) {
		return s.change(ctx, "purge", purgeSQL, []any{seqs, limit})
	})
}

// Reschedule implements [pinion.Inspector].
func (s *Storage) Reschedule(ctx context.Context, f pinion.Filter, at time.Time) (moved int, err error) {
	pending := choice{"j.seq", "j.status='PENDING'", f, "j.created_at"}
	moved, err = s.forEachPage(ctx, "reschedule", pending, func(seqs []int64, limit int) (int, error) {
		return s.change(ctx, "reschedule", rescheduleSQL, []any{seqs, limit, timeOrNull(at)})
	})
	if moved > 0 {
		s.announceJobs()
	}
	return moved, err
}

// CancelWhere implements [pinion.Inspector].
func (s *Storage) CancelWhere(ctx context.Context, f pinion.Filter) (ended, asked int, err error) {
	unfinished := choice{"j.seq", "j.status IN ('PENDING', 'RUNNING')", f, "j.created_at"}
	_, err = s.forEachPage(ctx, "cancel", unfinished, func(seqs []int64, limit int) (int, error) {
		waited, err := s.cancel(ctx, nil, seqs[:min(limit, len(seqs))])
		for _, waits := range waited {
			if waits {
				ended++
			} else {
				asked++
			}
		}
		return len(waited), err
	})
	return ended, asked, err
}

// PruneWhere implements [pinion.Inspector].
func (s *Storage) PruneWhere(ctx context.Context, f pinion.Filter) (int, error) {
	finished := choice{"j.seq", isPrunableSQL, f, "j.finished_at"}
	return s.forEachPage(ctx, "prune", finished, func(seqs []int64, limit int) (int, error) {
		return s.change(ctx, "prune", pruneChosenSQL, []any{seqs, limit})
	})
}

// Prune implements [pinion.Inspector].
func (s *Storage) Prune(ctx context.Context, before time.Time) (int, error) {
	return s.prune(ctx, "$1::timestamptz", rules.DueTime(before))
}

// prune deletes the jobs that finished before a time, an SQL expression over $1. It goes by an index of what
// may be pruned, so that dead letters do not stand in its way.
func (s *Storage) prune(ctx context.Context, before string, arg any) (pruned int, err error) {
	sql := `
		WITH c AS (SELECT j.seq FROM @jobs j WHERE ` + isPrunableSQL + ` AND j.finished_at<` + before + `
			ORDER BY j.finished_at LIMIT $2 FOR UPDATE SKIP LOCKED)
		DELETE FROM @jobs j USING c WHERE j.seq=c.seq`
	for {
		deleted, err := s.change(ctx, "prune", sql, []any{arg, tendSize})
		pruned += deleted
		if err != nil || deleted < tendSize {
			return pruned, err
		}
	}
}

// pruneOld prunes what finished longer ago than Retention, by the server's clock. It does so once a minute at
// limit.
func (s *Storage) pruneOld(ctx context.Context) error {
	if s.opts.Retention < 0 || !s.isTimeFor(&s.pruned, min(s.opts.Retention, time.Minute)) {
		return nil
	}
	_, err := s.prune(ctx, "statement_timestamp()-$1::interval", interval(s.opts.Retention))
	return err
}

// isTimeFor reports whether something was last done at least so long ago, and notes that it is done now.
func (s *Storage) isTimeFor(last *time.Time, every time.Duration) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	if now.Sub(*last) < every {
		return false
	}
	*last = now
	return true
}

// change runs a statement and returns how many rows it changed.
func (s *Storage) change(ctx context.Context, verb, sql string, args []any) (changed int, err error) {
	err = s.write(ctx, verb, func(ctx context.Context, conn *pgx.Conn, _ bool) error {
		tag, err := conn.Exec(ctx, s.sql(sql), args...)
		changed += int(tag.RowsAffected()) // of an earlier try too: what that has changed is not changed again
		return err
	})
	return changed, err
}

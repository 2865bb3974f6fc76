package postgres

import (
	"context"
	"math"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pinion-queue/pinion"
)

// Replay implements [pinion.Inspector]. A job returns to its old place in the order of age.
func (s *Storage) Replay(ctx context.Context, f pinion.Filter) (replayed int, err error) {
	f.Status = ""
	where, err := s.where(ctx, f, limitOf(f))
	if err != nil {
		return 0, err
	}
	sql := `
		WITH d AS MATERIALIZED (SELECT seq, key, dead FROM @jobs j WHERE dead IS NOT NULL` + where.sql + `
			AND NOT EXISTS (SELECT FROM @jobs h WHERE h.key IS NOT NULL AND h.key=j.key AND h.status IN ('PENDING', 'RUNNING'))
			ORDER BY dead FOR UPDATE),
		k AS (SELECT seq, dead, key, row_number() OVER (PARTITION BY key ORDER BY dead) AS n FROM d)
		UPDATE @jobs j SET status='PENDING', attempts=0, error=NULL, run_at=NULL, future=false, reaped=0, finished_at=NULL,
			result=NULL, dead=NULL, worker=''
		FROM (SELECT seq FROM k WHERE key IS NULL OR n=1 ORDER BY dead LIMIT $1) c WHERE j.seq=c.seq`
	for {
		replayed, err = s.change(ctx, "replay", sql, where.args)
		if !isCode(err, uniqueViolation) {
			break
		}
		// Another job has taken a Key since the statement looked.
	}
	if replayed > 0 {
		s.announceJobs()
	}
	return replayed, err
}

// Purge implements [pinion.Inspector]. The job itself stays FAILED until it is pruned.
func (s *Storage) Purge(ctx context.Context, f pinion.Filter) (int, error) {
	f.Status = ""
	where, err := s.where(ctx, f, limitOf(f))
	if err != nil {
		return 0, err
	}
	return s.change(ctx, "purge", `UPDATE @jobs j SET dead=NULL
		FROM (SELECT seq FROM @jobs j WHERE dead IS NOT NULL`+where.sql+` ORDER BY dead LIMIT $1 FOR UPDATE) c
		WHERE j.seq=c.seq`, where.args)
}

const pruneSize = 1000 // jobs that a transaction deletes

// Prune implements [pinion.Inspector].
func (s *Storage) Prune(ctx context.Context, before time.Time) (int, error) {
	return s.prune(ctx, "$1::timestamptz", microTime(before))
}

// prune deletes the jobs that finished before a time, an SQL expression over $1.
func (s *Storage) prune(ctx context.Context, before string, arg any) (pruned int, err error) {
	sql := `
		WITH c AS (SELECT seq FROM @jobs WHERE status IN ('SUCCESS', 'FAILED') AND dead IS NULL AND finished_at<` + before + `
			ORDER BY finished_at LIMIT $2 FOR UPDATE SKIP LOCKED)
		DELETE FROM @jobs j USING c WHERE j.seq=c.seq`
	for {
		deleted, err := s.change(ctx, "prune", sql, []any{arg, pruneSize})
		pruned += deleted
		if err != nil || deleted < pruneSize {
			return pruned, err
		}
	}
}

// pruneOld prunes what finished longer ago than Retention, by the server's clock. It does so once a minute at most.
func (s *Storage) pruneOld(ctx context.Context) error {
	if !s.isPruneDue(time.Now()) {
		return nil
	}
	_, err := s.prune(ctx, "statement_timestamp()-$1::interval", interval(s.opts.Retention))
	return err
}

func (s *Storage) isPruneDue(now time.Time) bool {
	if s.opts.Retention < 0 {
		return false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if now.Sub(s.pruned) < min(s.opts.Retention, time.Minute) {
		return false
	}
	s.pruned = now
	return true
}

// change runs a statement and returns how many rows it changed.
func (s *Storage) change(ctx context.Context, verb, sql string, args []any) (changed int, err error) {
	err = s.write(ctx, verb, func(ctx context.Context, conn *pgx.Conn, _ bool) error {
		tag, err := conn.Exec(ctx, inSchema(s.opts.Schema, sql), args...)
		changed += int(tag.RowsAffected()) // of an earlier try too: what that has changed is not changed again
		return err
	})
	if err != nil {
		return 0, err
	}
	return changed, nil
}

// limitOf returns the limit of a filter for a LIMIT.
func limitOf(f pinion.Filter) int64 {
	if f.Limit > 0 {
		return int64(f.Limit)
	}
	return math.MaxInt64
}

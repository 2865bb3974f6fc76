package pinion

import (
	"context"
	"fmt"
	"math"
	"time"
)

// perTransaction is how many rows a verb over many rows changes in a transaction, so that nobody waits long
// for the write lock.
const perTransaction = 500

// outcome is what became of a row that a verb chose.
type outcome int

const (
	outcomeNone outcome = iota
	outcomeChanged
	outcomeAsked // of a job that runs and was asked to end
)

// step changes one row, if it can.
type step func(tx *transaction, row chosenRow) outcome

// Replay makes dead letters PENDING again; see [Inspector]. A job whose row is still there keeps its place.
// If that row is not FAILED (because Python has replayed it, say) the letter stays.
func (s *SQLiteStorage) Replay(ctx context.Context, f Filter) (int, error) {
	f.Status = "" // the table has no such column
	counts, err := s.tend(ctx, "replay", "dlq", f, f.where("failed_at"), s.replayLetter)
	return counts[outcomeChanged], err
}

func (s *SQLiteStorage) replayLetter(tx *transaction, row chosenRow) outcome {
	s.claims.changedAnywhere()
	replayed := tx.exec(`INSERT INTO jobs
			(id, func_name, args, kwargs, status, attempts, created_at,
			queue, priority, key, key_until_start, meta)
		SELECT id, func_name, args, kwargs, 'PENDING', 0, ?,
			queue, priority, key, key_until_start, meta FROM dlq
		WHERE rowid=? AND NOT EXISTS (
			SELECT 1 FROM jobs WHERE jobs.key=dlq.key AND jobs.status IN ('PENDING','RUNNING')
				AND jobs.key_until_start<2 AND dlq.key_until_start<2)
		ON CONFLICT (id) DO UPDATE SET
			func_name=excluded.func_name, args=excluded.args, kwargs=excluded.kwargs,
			queue=excluded.queue, priority=excluded.priority,
			key=excluded.key, key_until_start=excluded.key_until_start, meta=excluded.meta,
			status='PENDING', attempts=0, error=NULL, run_at=0, future=0, aside=0, reaped=0, worker='',
			cancel=0, lease=0, doubted_at=NULL, started_at=NULL, finished_at=NULL, result=NULL, buried=0
		WHERE status='FAILED'`, seconds(tx.now), row.rowid) > 0
	if !replayed {
		return outcomeNone
	}
	tx.exec(`DELETE FROM dlq WHERE rowid=?`, row.rowid)
	return outcomeChanged
}

// Purge deletes dead letters; see [Inspector].
func (s *SQLiteStorage) Purge(ctx context.Context, f Filter) (int, error) {
	f.Status = "" // the table has no such column
	counts, err := s.tend(ctx, "purge", "dlq", f, f.where("failed_at"), purgeLetter)
	return counts[outcomeChanged], err
}

// purgeLetter deletes a dead letter. Its job can be pruned then.
func purgeLetter(tx *transaction, row chosenRow) outcome {
	tx.exec(`UPDATE jobs SET buried=0 WHERE id=?`, row.id)
	tx.exec(`DELETE FROM dlq WHERE rowid=? AND id IS ?`, row.rowid, row.id)
	return outcomeChanged
}

// Reschedule sets the due time of PENDING jobs; see [Inspector].
func (s *SQLiteStorage) Reschedule(ctx context.Context, f Filter, at time.Time) (int, error) {
	where := f.where("created_at")
	where.and("status='PENDING'")
	counts, err := s.tend(ctx, "reschedule", "jobs", f, where, func(tx *transaction, row chosenRow) outcome {
		s.claims.changedAnywhere()
		runAt := seconds(at)
		future := runAt > seconds(tx.now)
		tx.exec(`UPDATE jobs SET run_at=?, future=?, aside=0 WHERE rowid=?`, runAt, future, row.rowid)
		return outcomeChanged
	})
	return counts[outcomeChanged], err
}

// CancelWhere cancels unfinished jobs; see [Inspector].
func (s *SQLiteStorage) CancelWhere(ctx context.Context, f Filter) (ended, askedToEnd int, err error) {
	where := f.where("created_at")
	where.and("status IN ('PENDING','RUNNING')")
	counts, err := s.tend(ctx, "cancel", "jobs", f, where, s.cancelJob)
	return counts[outcomeChanged], counts[outcomeAsked], err
}

func (s *SQLiteStorage) cancelJob(tx *transaction, row chosenRow) outcome {
	if s.cancelPending(tx, text(row.id)) {
		return outcomeChanged
	}
	if tx.exec(`UPDATE jobs SET cancel=1 WHERE rowid=? AND status='RUNNING'`, row.rowid) > 0 {
		return outcomeAsked
	}
	return outcomeNone
}

// PruneWhere deletes finished jobs; see [Inspector].
func (s *SQLiteStorage) PruneWhere(ctx context.Context, f Filter) (int, error) {
	where := f.where(finished)
	where.and(prunable)
	counts, err := s.tend(ctx, "prune", "jobs", f, where, pruneJob)
	return counts[outcomeChanged], err
}

// tend runs a step for each row of a table that matches, the oldest first, and counts the outcomes. It
// chooses the rows without the write lock, and changes at most perTransaction of them in a transaction, in
// which they must still match. f is for its task and its limit, which where lacks.
func (s *SQLiteStorage) tend(
	ctx context.Context, verb, table string, f Filter, where conditions, do step,
) (total [3]int, err error) {
	if s.opts.ReadOnly {
		return total, wrap(verb, errReadOnly)
	}
	f.Newest = false
	pages := s.pages("id, func_name FROM (SELECT rowid AS seq, * FROM "+table+")", f, where, perTransaction)
	for {
		var chosen []chosenRow
		q := s.reader(ctx)
		more := pages.next(q, func(row []any) {
			if f.matchesTask(text(row[2])) {
				chosen = append(chosen, chosenRow{rowid: row[0], id: row[1]})
			}
		})
		if q.err != nil {
			return total, wrap(verb, q.err)
		}
		left := math.MaxInt
		if f.Limit > 0 {
			left = f.Limit - total[outcomeChanged] - total[outcomeAsked]
		}
		counts, err := s.tendRows(ctx, verb, table, where, chosen, left, do)
		if err != nil {
			return total, err
		}
		for i, n := range counts {
			total[i] += n
		}
		if !more || counts[outcomeChanged]+counts[outcomeAsked] == left {
			return total, nil
		}
	}
}

// chosenRow is a row of a table. A rowid alone may have become another row's meanwhile.
type chosenRow struct{ rowid, id any }

// tendRows runs a step for those of the chosen rows that still match, in one transaction, until the limit
// is reached.
func (s *SQLiteStorage) tendRows(
	ctx context.Context, verb, table string, where conditions, chosen []chosenRow, limit int, do step,
) (counts [3]int, err error) {
	if len(chosen) == 0 {
		return counts, nil
	}
	stillMatches := `SELECT 1 FROM ` + table + ` WHERE rowid=? AND id IS ?` + where.sql
	err = s.writeOrBusy(ctx, verb, func(tx *transaction) {
		counts = [3]int{} // the transaction may run again
		for _, row := range chosen {
			args := append([]any{row.rowid, row.id}, where.args...)
			if tx.value(stillMatches, args...) == nil {
				continue
			}
			counts[do(tx, row)]++
			if counts[outcomeChanged]+counts[outcomeAsked] == limit {
				return
			}
		}
	})
	if err != nil {
		return [3]int{}, err
	}
	return counts, nil
}

// ---- What has been kept long enough ----

// prunable are the finished jobs without a dead letter, but for those of Python's: it does not know buried.
const prunable = `status IN ('SUCCESS','FAILED') AND buried=0`

// Prune deletes what finished before a time; see [Inspector].
func (s *SQLiteStorage) Prune(ctx context.Context, before time.Time) (int, error) {
	choose := fmt.Sprintf(`SELECT rowid, id FROM jobs INDEXED BY jobs_finished3 WHERE %s AND %s<? LIMIT %d`,
		prunable, finished, perTransaction)
	pruned := 0
	for {
		rows, err := s.choose(ctx, "prune", choose, seconds(before))
		if err != nil || len(rows) == 0 {
			return pruned, err
		}
		n, err := s.pruneRows(ctx, rows)
		pruned += n
		if err != nil {
			return pruned, err
		}
	}
}

// choose returns the rows that a query selects, for a verb that will change them. The query selects rowids
// and ids.
func (s *SQLiteStorage) choose(ctx context.Context, verb, query string, args ...any) ([]chosenRow, error) {
	if s.opts.ReadOnly {
		return nil, wrap(verb, errReadOnly)
	}
	var rows []chosenRow
	q := s.leaseReader(ctx) // ReapStale calls it, and must not wait for listings
	for row := range q.rows(query, args...) {
		rows = append(rows, chosenRow{rowid: row[0], id: row[1]})
	}
	return rows, wrap(verb, q.err)
}

// pruneRows prunes jobs in one transaction.
func (s *SQLiteStorage) pruneRows(ctx context.Context, rows []chosenRow) (int, error) {
	n := 0
	err := s.writeOrBusy(ctx, "prune", func(tx *transaction) {
		n = 0 // the transaction may run again
		for _, row := range rows {
			if pruneJob(tx, row) == outcomeChanged {
				n++
			}
		}
	})
	if err != nil {
		return 0, err
	}
	return n, nil
}

// pruneJob deletes a finished job. If a dead letter of Python's stands for it, it marks the job as buried
// instead, so that nobody chooses it again.
func pruneJob(tx *transaction, row chosenRow) outcome {
	buried := tx.exec(`UPDATE jobs SET buried=1 WHERE rowid=? AND status='FAILED'
		AND EXISTS (SELECT 1 FROM dlq WHERE dlq.id=jobs.id)`, row.rowid) > 0
	if buried {
		return outcomeNone
	}
	if tx.exec(`DELETE FROM jobs WHERE rowid=? AND id IS ? AND `+prunable, row.rowid, row.id) == 0 {
		return outcomeNone
	}
	return outcomeChanged
}

// pruneOld enforces Retention and DeadLetterRetention, at most once a minute.
func (s *SQLiteStorage) pruneOld(ctx context.Context, now time.Time) error {
	if !s.pruningIsDue(now) {
		return nil
	}
	err := s.enforceRetention(ctx, now)
	if ctx.Err() != nil {
		return nil // the next time goes on from here
	}
	return err
}

// pruningIsDue reports whether it is time to prune, and notes that it happens.
func (s *SQLiteStorage) pruningIsDue(now time.Time) bool {
	interval := time.Minute
	for _, kept := range []time.Duration{s.opts.Retention, s.opts.DeadLetterRetention} {
		if kept > 0 {
			interval = min(interval, kept)
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if now.Sub(s.pruned) < interval {
		return false
	}
	s.pruned = now
	return true
}

// enforceRetention deletes what the options do not keep. Dead letters go first: their jobs can be pruned
// then.
func (s *SQLiteStorage) enforceRetention(ctx context.Context, now time.Time) error {
	if kept := s.opts.DeadLetterRetention; kept > 0 {
		if err := s.purgeOld(ctx, now.Add(-kept)); err != nil {
			return err
		}
	}
	if kept := s.opts.Retention; kept > 0 {
		_, err := s.Prune(ctx, now.Add(-kept))
		return err
	}
	return nil
}

// purgeOld deletes the dead letters that failed before a time.
func (s *SQLiteStorage) purgeOld(ctx context.Context, before time.Time) error {
	choose := fmt.Sprintf(`SELECT rowid, id FROM dlq INDEXED BY dlq_failed
		WHERE failed_at<? LIMIT %d`, perTransaction)
	for {
		rows, err := s.choose(ctx, "purge", choose, seconds(before))
		if err != nil || len(rows) == 0 {
			return err
		}
		err = s.write(ctx, "purge", func(tx *transaction) {
			for _, row := range rows {
				purgeLetter(tx, row)
			}
		})
		if err != nil {
			return err
		}
	}
}

package pinion

import (
	"context"
	"database/sql/driver"
	"time"

	"github.com/pinion-queue/pinion/internal/rules"
)

// Stats counts jobs; see [Inspector].
func (s *SQLiteStorage) Stats(ctx context.Context) (Stats, error) {
	q, now := s.rawReader(ctx), time.Now()
	var counter StatsCounter
	s.countPending(q, now, &counter)
	s.countRunning(q, &counter)
	s.countEnds(q, now, &counter)
	stats := counter.Stats()
	stats.DeadLetters = int(integer(q.value(`SELECT count(*) FROM dlq`)))
	stats.LastMinute = s.countLastMinute(q, now)
	return stats, wrap("stats", q.err)
}

// rawReader is reader without database/sql between us and the driver: to scan a row costs as much as to
// find it, and Stats reads up to a million.
func (s *SQLiteStorage) rawReader(ctx context.Context) *session {
	q := s.reader(ctx)
	q.query = func(query string, args []any, yield func([]any) bool) error {
		conn, err := s.readers.Conn(ctx)
		if err != nil {
			return err
		}
		err = conn.Raw(func(driverConn any) error {
			return rawRows(ctx, driverConn.(driver.QueryerContext), query, args, yield)
		})
		closeErr := conn.Close()
		if err == nil {
			err = closeErr
		}
		return err
	}
	return q
}

// rawRows runs a query on a connection of the driver.
func rawRows(
	ctx context.Context, conn driver.QueryerContext, query string, args []any, yield func([]any) bool,
) error {
	named := make([]driver.NamedValue, len(args))
	for i, v := range args {
		named[i] = driver.NamedValue{Ordinal: i + 1, Value: v}
	}
	rows, err := conn.QueryContext(ctx, query, named)
	if err != nil {
		return err
	}
	return yieldRows(rows, yield)
}

// countPending counts the jobs that wait.
func (s *SQLiteStorage) countPending(q *session, now time.Time, counter *StatsCounter) {
	type group struct{ queue, task string }
	groups := make(map[group]*Counts)
	for row := range q.rows(s.pendingRows(q)) {
		g := group{text(row[0]), text(row[1])}
		counts := groups[g]
		if counts == nil {
			counts = new(Counts)
			groups[g] = counts
		}
		runAt, created := fromSeconds(row[2]), fromSeconds(row[3])
		counts.Pending++
		counts.Oldest = rules.Earlier(counts.Oldest, created)
		if runAt.After(now) {
			continue
		}
		counts.Due++
		since := created
		if runAt.After(created) {
			since = runAt
		}
		counts.OldestDue = rules.Earlier(counts.OldestDue, since)
	}
	for g, counts := range groups {
		counter.Add(g.queue, g.task, *counts)
	}
}

// pendingRows returns the query that finds the jobs that wait in the shortest time. By index each row takes
// a search, which is three times the time of reading a row in the order of the table. But the table holds
// what has finished, too.
func (s *SQLiteStorage) pendingRows(q *session) (query string) {
	const columns = `SELECT queue, func_name, run_at, created_at`
	if !s.indexed {
		return columns + s.jobs + `WHERE status='PENDING'`
	}
	third := integer(q.value(`SELECT ((SELECT max(rowid) FROM jobs) - (SELECT min(rowid) FROM jobs)) / 3`))
	if integer(q.value(pendingUpTo, third+1)) > third {
		return columns + ` FROM jobs NOT INDEXED WHERE status='PENDING'`
	}
	return pendingByIndex(columns)
}

// pendingByIndex returns the query that finds the jobs that wait by the indexes which hold them.
func pendingByIndex(columns string) string {
	return columns + ` FROM jobs INDEXED BY jobs_ready3 WHERE status='PENDING' AND future=0 AND aside=0
		UNION ALL ` + columns + ` FROM jobs INDEXED BY jobs_aside WHERE status='PENDING' AND future=0 AND aside>0
		UNION ALL ` + columns + ` FROM jobs INDEXED BY jobs_future WHERE status='PENDING' AND future=1`
}

// pendingUpTo counts the PENDING jobs, and stops at a bound.
var pendingUpTo = `SELECT count(*) FROM (` + pendingByIndex(`SELECT 1`) + ` LIMIT ?)`

// countRunning counts the jobs that run.
func (s *SQLiteStorage) countRunning(q *session, counter *StatsCounter) {
	for row := range q.rows(`SELECT queue, func_name, started_at` + s.jobs + `WHERE status='RUNNING'`) {
		counts := Counts{Running: 1}
		if row[2] != nil {
			counts.Started = 1
		}
		counter.Add(text(row[0]), text(row[1]), counts)
	}
}

// countEnds counts what ended in the last hour.
func (s *SQLiteStorage) countEnds(q *session, now time.Time, counter *StatsCounter) {
	lastMinute := now.Truncate(time.Minute).Add(-time.Minute)
	for ends := range s.endsSince(q, now.Add(-time.Hour)) {
		counts := Counts{SuccessHour: ends.Succeeded, FailedHour: ends.Failed}
		if !ends.At.Before(lastMinute) {
			counts.Minute = ends.Succeeded + ends.Failed
		}
		counter.Add(ends.Queue, ends.Task, counts)
	}
}

// countLastMinute counts what finished in each second of the last minute: the jobs that have finished, and the dead
// letters whose jobs are not among them.
func (s *SQLiteStorage) countLastMinute(q *session, now time.Time) (counts [60]int) {
	count := func(query string, args ...any) {
		for row := range q.rows(query, args...) {
			age := max(integer(row[0]), 0) // below 0 if another program wrote a time that is still to come
			if age < 60 {
				counts[59-age] += int(integer(row[1]))
			}
		}
	}
	ended := `status IN ('SUCCESS','FAILED') AND buried=0`
	letters := s.letters
	if s.indexed {
		letters = ` FROM dlq INDEXED BY dlq_failed `
		// Sixty counts of an index: to group the rows by their second takes ten times as long.
		count(`WITH RECURSIVE second(age) AS (SELECT 0 UNION ALL SELECT age+1 FROM second WHERE age<59)
			SELECT age, (SELECT count(*) FROM jobs INDEXED BY jobs_finished3
				WHERE `+finished+`>=?1-age AND `+finished+`<iif(age=0, 1e18, ?1-age+1) AND `+ended+`)
			FROM second`, now.Unix())
	} else { // an older file, which is only read
		count(`SELECT ?1-cast(`+finished+` AS INTEGER) AS age, count(*)`+s.jobs+`
			WHERE `+finished+`>=?1-59 AND `+ended+` GROUP BY age`, now.Unix())
	}
	count(`SELECT ?1-cast(failed_at AS INTEGER) AS age, count(*)`+letters+`WHERE failed_at>=?1-59
		AND NOT EXISTS (SELECT 1`+s.jobs+`WHERE jobs.id=dlq.id AND `+ended+`) GROUP BY age`, now.Unix())
	return counts
}

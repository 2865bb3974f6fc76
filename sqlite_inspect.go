package pinion

import (
	"context"
	"fmt"
	"iter"
	"math"
	"strings"
	"time"
	"unicode/utf8"
)

// ---- Looking ----

// reader returns a session on the connections that read. They wait for no writer.
func (s *SQLiteStorage) reader(ctx context.Context) *session {
	// The -wal matters to readers too: a connection that opens now would keep the wrong one.
	q := &session{query: queries(ctx, s.readers), err: s.checkReplaced()}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		q.err = ErrClosed
	}
	return q
}

// readValue returns the first value of a query's first row, or nil. The verb is for the error.
func (s *SQLiteStorage) readValue(ctx context.Context, verb, query string, args ...any) (any, error) {
	q := s.reader(ctx)
	v := q.value(query, args...)
	return v, wrap(verb, q.err)
}

// Size counts the PENDING jobs.
func (s *SQLiteStorage) Size(ctx context.Context) (int, error) {
	query := `SELECT count(*)` + s.jobs + `WHERE status='PENDING'`
	if s.indexed { // each half has an index
		query = `SELECT
			(SELECT count(*) FROM jobs INDEXED BY jobs_ready WHERE status='PENDING' AND future=0) +
			(SELECT count(*) FROM jobs INDEXED BY jobs_future WHERE status='PENDING' AND future=1)`
	}
	n, err := s.readValue(ctx, "size", query)
	return int(integer(n)), err
}

// finished is when a job finished, as the index jobs_finished has it. Python does not record that.
const finished = `coalesce(finished_at, heartbeat_at, created_at)`

// Stats counts jobs; see [Inspector].
func (s *SQLiteStorage) Stats(ctx context.Context) (Stats, error) {
	var stats Stats
	q, now := s.reader(ctx), time.Now()
	stats.DeadLetters = int(integer(q.value(`SELECT count(*) FROM dlq`)))
	s.countJobs(q, now, &stats)
	s.countLastMinute(q, now, &stats)
	return stats, wrap("stats", q.err)
}

// countJobs counts all jobs, in pages: a GROUP BY over the whole table would sort it, which takes four
// times as long.
func (s *SQLiteStorage) countJobs(q *session, now time.Time, stats *Stats) {
	query := `SELECT func_name, queue, status, count(*), min(created_at),
			sum(finished>?), sum(finished>?), max(seq)
		FROM (SELECT seq, func_name, queue, status, created_at, ` + finished + ` AS finished` + s.jobs + `
			WHERE seq>? ORDER BY seq LIMIT 5000)
		GROUP BY func_name, queue, status`
	hourAgo, minuteAgo := seconds(now.Add(-time.Hour)), seconds(now.Add(-time.Minute))
	last := int64(math.MinInt64)
	for {
		found := false
		for row := range q.rows(query, hourAgo, minuteAgo, last) {
			found = true
			stats.add(tally{
				task:   text(row[0]),
				queue:  text(row[1]),
				status: Status(text(row[2])),
				jobs:   int(integer(row[3])),
				oldest: fromSeconds(row[4]),
				hour:   int(integer(row[5])),
				minute: int(integer(row[6])),
			})
			last = max(last, integer(row[7]))
		}
		if !found {
			return
		}
	}
}

// countLastMinute counts what finished in each second of the last minute.
func (s *SQLiteStorage) countLastMinute(q *session, now time.Time, stats *Stats) {
	from := s.jobs
	if s.indexed {
		from = ` FROM jobs INDEXED BY jobs_finished `
	}
	query := `SELECT cast(?-` + finished + ` AS INTEGER) AS age, count(*)` + from + `
		WHERE status=? AND ` + finished + `>? AND status IN ('SUCCESS','FAILED') GROUP BY age`
	minuteAgo := seconds(now.Add(-time.Minute))
	for _, status := range []Status{StatusSuccess, StatusFailed} {
		for row := range q.rows(query, seconds(now), string(status), minuteAgo) {
			age := max(integer(row[0]), 0) // below 0 if another program wrote a time that is still to come
			if age < 60 {
				stats.LastMinute[59-age] += int(integer(row[1]))
			}
		}
	}
}

// Get returns one job, or ErrNotFound.
func (s *SQLiteStorage) Get(ctx context.Context, id string) (*Job, error) {
	var job *Job
	q := s.reader(ctx)
	for row := range q.rows(`SELECT seq, `+jobColumns+s.jobs+`WHERE id=?`, id) {
		_, job, _ = jobOf(row)
	}
	if q.err != nil {
		return nil, wrap("get", q.err)
	}
	if job == nil {
		return nil, fmt.Errorf("%w: %s", ErrNotFound, id)
	}
	return job, nil
}

// Jobs lists jobs; see [Inspector].
func (s *SQLiteStorage) Jobs(ctx context.Context, f Filter) iter.Seq2[*Job, error] {
	return s.list(ctx, jobColumns+s.jobs, f)
}

// DeadLetters lists the dead-letter queue; see [Inspector].
func (s *SQLiteStorage) DeadLetters(ctx context.Context, f Filter) iter.Seq2[*Job, error] {
	f.Status = "" // the table has no such column
	return s.list(ctx, letterColumns+s.letters, f)
}

// list pages through a table by its rowid, so that no read transaction stays open while the caller thinks.
// It selects from is a list of columns and a FROM clause.
func (s *SQLiteStorage) list(ctx context.Context, selectFrom string, f Filter) iter.Seq2[*Job, error] {
	const pageSize = 200
	return func(yield func(*Job, error) bool) {
		where, err := f.where()
		if err != nil {
			yield(nil, wrap("list", err))
			return
		}
		seq := "seq"
		if f.Status == StatusRunning {
			seq = "+seq" // few jobs run: the + has SQLite find them by their index and sort them
		}
		query := fmt.Sprintf(`SELECT seq, %s WHERE %s>? %s ORDER BY %s LIMIT %d`,
			selectFrom, seq, where.sql, seq, pageSize)
		after, listed := int64(math.MinInt64), 0
		for {
			q := s.reader(ctx)
			var page []*Job
			read := 0
			for row := range q.rows(query, append([]any{after}, where.args...)...) {
				read++
				rowid, job, _ := jobOf(row)
				after = rowid
				if f.matchesTask(job.Task) {
					page = append(page, job)
				}
			}
			if q.err != nil {
				yield(nil, wrap("list", q.err))
				return
			}
			for _, job := range page {
				listed++
				if !yield(job, nil) || listed == f.Limit {
					return
				}
			}
			if read < pageSize {
				return
			}
		}
	}
}

// conditions are the end of a WHERE clause.
type conditions struct {
	sql  string
	args []any
}

func (c *conditions) and(condition string, args ...any) {
	c.sql += " AND " + condition
	c.args = append(c.args, args...)
}

// where returns the filter as SQL, but for matchesTask. The status stands there literally: a bound one
// would match no partial index.
func (f Filter) where() (conditions, error) {
	var c conditions
	switch f.Status {
	case "":
	case StatusPending, StatusRunning, StatusSuccess, StatusFailed:
		c.and("status='" + string(f.Status) + "'")
	default:
		c.and("0")
	}
	if len(f.IDs) > 0 {
		ids, err := encode(f.IDs)
		if err != nil {
			return conditions{}, err
		}
		c.and("id IN (SELECT value FROM json_each(?))", string(ids))
	}
	if f.Queue != "" {
		c.and("queue=?", f.Queue)
	}
	if f.Task != "" && isASCII(f.Task) {
		c.and("func_name=? COLLATE NOCASE", f.Task)
	}
	return c, nil
}

// matchesTask compares a task's name, because SQLite knows the case of ASCII letters only.
func (f Filter) matchesTask(name string) bool {
	return f.Task == "" || strings.EqualFold(name, f.Task)
}

func isASCII(s string) bool {
	return !strings.ContainsFunc(s, func(r rune) bool { return r >= utf8.RuneSelf })
}

// ---- The dead-letter queue ----

// Replay makes dead letters PENDING again; see [Inspector]. A job whose row is still there keeps its place.
// If that row is not FAILED (because Python has replayed it, say) the letter stays.
func (s *SQLiteStorage) Replay(ctx context.Context, f Filter) (int, error) {
	return s.tend(ctx, "replay", f, func(q *session, rowid any) bool {
		s.w.look = true
		return replayLetter(q, rowid, s.w.now)
	})
}

func replayLetter(q *session, rowid any, now time.Time) bool {
	replayed := q.exec(`INSERT INTO jobs
			(id, func_name, args, kwargs, status, attempts, created_at, queue, priority, key)
		SELECT id, func_name, args, kwargs, 'PENDING', 0, ?, queue, priority, key FROM dlq
		WHERE rowid=? AND NOT EXISTS (
			SELECT 1 FROM jobs WHERE jobs.key=dlq.key AND jobs.status IN ('PENDING', 'RUNNING'))
		ON CONFLICT (id) DO UPDATE SET
			func_name=excluded.func_name, args=excluded.args, kwargs=excluded.kwargs,
			queue=excluded.queue, priority=excluded.priority, key=excluded.key,
			status='PENDING', attempts=0, error=NULL, run_at=0, future=0, reaped=0,
			finished_at=NULL, result=NULL, worker='', cancel=0
		WHERE status='FAILED'`, seconds(now), rowid) > 0
	if replayed {
		q.exec(`DELETE FROM dlq WHERE rowid=?`, rowid)
	}
	return replayed
}

// Purge deletes dead letters; see [Inspector].
func (s *SQLiteStorage) Purge(ctx context.Context, f Filter) (int, error) {
	return s.tend(ctx, "purge", f, func(q *session, rowid any) bool {
		return q.exec(`DELETE FROM dlq WHERE rowid=?`, rowid) > 0
	})
}

// letterStep changes the dead letter in a row of the table dlq, and reports whether it did.
type letterStep func(q *session, rowid any) bool

// tend runs a step for each dead letter that the filter matches, all in one transaction, and counts those
// for which the step returns true.
func (s *SQLiteStorage) tend(ctx context.Context, verb string, f Filter, step letterStep) (int, error) {
	f.Status = "" // the table has no such column
	where, err := f.where()
	if err != nil {
		return 0, wrap(verb, err)
	}
	n := 0
	err = s.do(ctx, verb, func() {
		n = 0 // the transaction may run again
		q := &s.w.session
		var rowids []any
		query := `SELECT rowid, func_name FROM dlq WHERE 1` + where.sql + ` ORDER BY rowid`
		for row := range q.rows(query, where.args...) {
			if f.matchesTask(text(row[1])) {
				rowids = append(rowids, row[0])
			}
		}
		for _, rowid := range rowids {
			if step(q, rowid) {
				n++
			}
			if f.Limit > 0 && n == f.Limit {
				return
			}
		}
	})
	if err != nil {
		return 0, err
	}
	return n, nil
}

// ---- What has been kept long enough ----

// pruneBatch is how many rows Prune and the end of a retention delete in a transaction.
const pruneBatch = 1000

// prunable are the jobs of one status that finished before a time, but for those whose dead letter stands.
const prunable = `jobs INDEXED BY jobs_finished
	WHERE status=? AND ` + finished + `<? AND status IN ('SUCCESS','FAILED')
	AND NOT EXISTS (SELECT 1 FROM dlq WHERE dlq.id=jobs.id)`

// Prune deletes what finished before a time, in small transactions; see [Inspector].
func (s *SQLiteStorage) Prune(ctx context.Context, before time.Time) (int, error) {
	pruned := 0
	for _, status := range []Status{StatusSuccess, StatusFailed} {
		n, err := s.deleteInBatches(ctx, "prune", prunable, string(status), seconds(before))
		pruned += n
		if err != nil {
			return pruned, err
		}
	}
	return pruned, nil
}

// deleteInBatches deletes the rows that a FROM clause finds. Mostly there are none, and it finds that out
// without the write lock.
func (s *SQLiteStorage) deleteInBatches(ctx context.Context, verb, from string, args ...any) (int, error) {
	if s.opts.ReadOnly {
		return 0, wrap(verb, errReadOnly)
	}
	table, _, _ := strings.Cut(from, " ")
	remove := fmt.Sprintf(`DELETE FROM %s WHERE rowid IN (SELECT rowid FROM %s LIMIT %d)`,
		table, from, pruneBatch)
	deleted := 0
	for {
		first, err := s.readValue(ctx, verb, `SELECT 1 FROM `+from+` LIMIT 1`, args...)
		if err != nil || first == nil {
			return deleted, err
		}
		n := 0
		err = s.do(ctx, verb, func() { n = s.w.exec(remove, args...) })
		if err != nil {
			return deleted, err
		}
		deleted += n
		if n < pruneBatch {
			return deleted, nil
		}
	}
}

// pruneOld enforces Retention and DeadLetterRetention, at most once a minute: each time it goes over the
// dead letters that stand.
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
		_, err := s.deleteInBatches(ctx, "purge", `dlq WHERE failed_at<?`, seconds(now.Add(-kept)))
		if err != nil {
			return err
		}
	}
	if kept := s.opts.Retention; kept > 0 {
		_, err := s.Prune(ctx, now.Add(-kept))
		return err
	}
	return nil
}

// ---- The file's health ----

// SQLiteReport is what [SQLiteStorage.Check] finds.
type SQLiteReport struct {
	Schema   int      // the version of the file's schema; 0 is the Python library's
	Newest   int      // the version to which this package migrates a file when it writes
	Journal  string   // PRAGMA journal_mode: "wal", once this package has written
	Size     int64    // in bytes
	Free     int64    // how many bytes of Size are unused
	Damage   []string // what PRAGMA quick_check finds wrong with the file, at most 100 lines
	Unusable []string // unfinished jobs that no worker can run, with the reason; at most 100
}

// maxFindings is how many findings of one kind a SQLiteReport lists.
const maxFindings = 100

// Check examines the file. It reads all of it, about a gigabyte in one or two seconds, and keeps nobody
// waiting. With an error it returns what it found before.
func (s *SQLiteStorage) Check(ctx context.Context) (SQLiteReport, error) {
	q := s.reader(ctx)
	pageSize := integer(q.value("PRAGMA page_size"))
	report := SQLiteReport{
		Schema:  int(integer(q.value("PRAGMA user_version"))),
		Newest:  schemaVersion,
		Journal: text(q.value("PRAGMA journal_mode")),
		Size:    pageSize * integer(q.value("PRAGMA page_count")),
		Free:    pageSize * integer(q.value("PRAGMA freelist_count")),
		Damage:  damage(q),
	}
	report.Unusable = s.unusable(q)
	return report, wrap("check", q.err)
}

// damage returns what SQLite finds wrong with the file.
func damage(q *session) (lines []string) {
	for row := range q.rows(fmt.Sprintf("PRAGMA quick_check(%d)", maxFindings)) {
		if line := text(row[0]); line != "ok" {
			lines = append(lines, line)
		}
	}
	return lines
}

// unusable returns the unfinished jobs that no worker can run, with the reasons.
func (s *SQLiteStorage) unusable(q *session) (lines []string) {
	query := `SELECT seq, ` + jobColumns + `, typeof(queue)` + s.jobs + `
		WHERE seq>? AND status NOT IN ('SUCCESS','FAILED') ORDER BY seq LIMIT 1000`
	after := int64(math.MinInt64)
	for {
		found := false
		for row := range q.rows(query, after) {
			found = true
			after = integer(row[0])
			id, reason := whyUnusable(row)
			if reason == nil {
				continue
			}
			lines = append(lines, fmt.Sprintf("%s: %v", id, reason))
			if len(lines) == maxFindings {
				return lines
			}
		}
		if !found {
			return lines
		}
	}
}

// whyUnusable returns the id of an unfinished job and why no worker can run it, or nil. The row ends with the type
// of the queue, because the index of ready jobs holds only those whose queue is text.
func whyUnusable(row []any) (id string, reason error) {
	_, job, reason := jobOf(row)
	queueType := text(row[len(row)-1])
	if job.Status != StatusPending && job.Status != StatusRunning {
		reason = fmt.Errorf("its status is %q; want PENDING or RUNNING", job.Status)
	} else if queueType != "text" {
		reason = fmt.Errorf("its queue %q is of type %s; want text", job.Queue, queueType)
	}
	return job.ID, reason
}

package pinion

import (
	"context"
	"fmt"
	"iter"
	"math"
	"slices"
	"strings"
	"time"
	"unicode/utf8"
)

// reader is a session on the readers, where nobody waits for a writer.
func (s *SQLiteStorage) reader(ctx context.Context) *session {
	moved := s.moved(3) // also the log: a connection that is opened now would keep the wrong one
	s.mu.Lock()
	defer s.mu.Unlock()
	q := &session{err: moved, query: queries(ctx, s.readers)}
	if s.closed {
		q.err = ErrClosed
	}
	return q
}

func (s *SQLiteStorage) look(ctx context.Context, name, query string, args ...any) (any, error) {
	q := s.reader(ctx)
	v := q.value(query, args...)
	return v, wrap(name, q.err)
}

// Size counts the PENDING jobs.
func (s *SQLiteStorage) Size(ctx context.Context) (int, error) {
	// In two halves, each of which an index knows. A file that is not migrated has neither.
	ready, future := s.jobs, s.jobs
	if s.indexed {
		ready, future = ` FROM jobs INDEXED BY jobs_ready `, ` FROM jobs INDEXED BY jobs_future `
	}
	n, err := s.look(ctx, "size", `SELECT (SELECT count(*)`+ready+`WHERE status='PENDING' AND future=0) +
		(SELECT count(*)`+future+`WHERE status='PENDING' AND future=1)`)
	return int(integer(n)), err
}

const finished = `coalesce(finished_at, heartbeat_at, created_at)` // as the index jobs_finished has it

// Stats counts jobs; see [Inspector].
func (s *SQLiteStorage) Stats(ctx context.Context) (stats Stats, err error) {
	q, now := s.reader(ctx), time.Now()
	stats.DeadLetters = int(integer(q.value(`SELECT count(*) FROM dlq`)))
	for last, more := int64(math.MinInt64), true; more; {
		more = false // in pages: one GROUP BY over the whole table would sort it, which takes four times as long
		for v := range q.rows(`SELECT func_name, queue, status, count(*), min(created_at), sum(finished>?), sum(finished>?), max(seq)
			FROM (SELECT seq, func_name, queue, status, created_at, `+finished+` AS finished`+s.jobs+`WHERE seq>? ORDER BY seq LIMIT 5000)
			GROUP BY func_name, queue, status`, seconds(now.Add(-time.Hour)), seconds(now.Add(-time.Minute)), last) {
			stats.add(tally{text(v[1]), text(v[0]), Status(text(v[2])), int(integer(v[3])), fromSeconds(v[4]), int(integer(v[5])), int(integer(v[6]))})
			last, more = max(last, integer(v[7])), true
		}
	}
	from := s.jobs
	if s.indexed {
		from = ` FROM jobs INDEXED BY jobs_finished `
	}
	for _, status := range []Status{StatusSuccess, StatusFailed} {
		for v := range q.rows(`SELECT cast(?-`+finished+` AS INTEGER) AS age, count(*)`+from+`WHERE status=? AND `+finished+`>?
			AND status IN ('SUCCESS','FAILED') GROUP BY age`, seconds(now), string(status), seconds(now.Add(-time.Minute))) {
			if age := max(integer(v[0]), 0); age < 60 { // others may have written anything
				stats.LastMinute[59-age] += int(integer(v[1]))
			}
		}
	}
	return stats, wrap("stats", q.err)
}

// where is the filter as SQL. The status stands there literally: a bound one would match no partial index.
func (f Filter) where() (conditions string, args []any, err error) {
	if slices.Contains([]Status{StatusPending, StatusRunning, StatusSuccess, StatusFailed}, f.Status) {
		conditions = " AND status='" + string(f.Status) + "'"
	} else if f.Status != "" {
		conditions = " AND 0"
	}
	if len(f.IDs) > 0 {
		ids, err := encode(f.IDs)
		if err != nil {
			return "", nil, err
		}
		conditions, args = conditions+" AND id IN (SELECT value FROM json_each(?))", append(args, string(ids))
	}
	if f.Queue != "" {
		conditions, args = conditions+" AND queue=?", append(args, f.Queue)
	}
	if f.Task != "" && !strings.ContainsFunc(f.Task, func(r rune) bool { return r >= utf8.RuneSelf }) {
		conditions, args = conditions+" AND func_name=? COLLATE NOCASE", append(args, f.Task)
	}
	return conditions, args, nil
}

// task compares a name as SQLite, which knows the case of ASCII letters only, cannot.
func (f Filter) task(name string) bool { return f.Task == "" || strings.EqualFold(name, f.Task) }

// list pages through a table by its rowid, so that no read transaction stays open while the caller thinks.
func (s *SQLiteStorage) list(ctx context.Context, selected string, f Filter) iter.Seq2[*Job, error] {
	return func(yield func(*Job, error) bool) {
		conditions, args, err := f.where()
		seq := "seq"
		if f.Status == StatusRunning {
			seq = "+seq" // few: find them by their index and sort, rather than go through the table in its order
		}
		query := `SELECT seq, ` + selected + `WHERE ` + seq + `>?` + conditions + ` ORDER BY ` + seq + ` LIMIT 200`
		for after, n, more := int64(math.MinInt64), 0, true; more && err == nil; {
			var page []*Job
			read := 0
			q := s.reader(ctx)
			for v := range q.rows(query, append([]any{after}, args...)...) {
				rowid, job, _ := jobOf(v)
				if after, read = rowid, read+1; f.task(job.Task) {
					page = append(page, job)
				}
			}
			err, more = wrap("list", q.err), read == 200
			for _, job := range page {
				if n++; err == nil && (!yield(job, nil) || n == f.Limit) {
					return
				}
			}
		}
		if err != nil {
			yield(nil, err)
		}
	}
}

// Jobs lists jobs; see [Inspector].
func (s *SQLiteStorage) Jobs(ctx context.Context, f Filter) iter.Seq2[*Job, error] {
	return s.list(ctx, jobColumns+s.jobs, f)
}

// DeadLetters lists the dead-letter queue; see [Inspector].
func (s *SQLiteStorage) DeadLetters(ctx context.Context, f Filter) iter.Seq2[*Job, error] {
	f.Status = ""
	return s.list(ctx, letterColumns+s.letters, f)
}

// Get returns one job, or ErrNotFound.
func (s *SQLiteStorage) Get(ctx context.Context, id string) (job *Job, err error) {
	q := s.reader(ctx)
	for v := range q.rows(`SELECT seq, `+jobColumns+s.jobs+`WHERE id=?`, id) {
		_, job, _ = jobOf(v)
	}
	if q.err == nil && job == nil {
		return nil, fmt.Errorf("%w: %s", ErrNotFound, id)
	}
	return job, wrap("get", q.err)
}

// tend runs a verb over the dead letters that a filter takes, in one transaction, and sums up what it returns.
func (s *SQLiteStorage) tend(ctx context.Context, name string, f Filter, verb func(rowid any) int) (n int, err error) {
	f.Status = ""
	conditions, args, err := f.where()
	if err != nil {
		return 0, err
	}
	err = s.do(ctx, name, func() {
		var rowids []any
		for v := range s.w.rows(`SELECT rowid, func_name FROM dlq WHERE 1`+conditions+` ORDER BY rowid`, args...) {
			if f.task(text(v[1])) {
				rowids = append(rowids, v[0])
			}
		}
		n = 0
		for _, rowid := range rowids {
			if n += verb(rowid); f.Limit > 0 && n == f.Limit {
				break
			}
		}
	})
	if err != nil {
		return 0, err
	}
	return n, nil
}

// Replay makes dead letters PENDING again; see [Inspector]. A job comes back in its old place if its row is still
// there. It stays where it is if that is no longer FAILED (because Python has replayed it, say).
func (s *SQLiteStorage) Replay(ctx context.Context, f Filter) (replayed int, err error) {
	return s.tend(ctx, "replay", f, func(rowid any) int {
		s.w.look = true
		n := s.w.exec(`INSERT INTO jobs (id, func_name, args, kwargs, status, attempts, created_at, queue, priority, key)
			SELECT id, func_name, args, kwargs, 'PENDING', 0, ?, queue, priority, key FROM dlq WHERE rowid=? AND NOT EXISTS (
				SELECT 1 FROM jobs WHERE jobs.key=dlq.key AND jobs.status IN ('PENDING', 'RUNNING'))
			ON CONFLICT (id) DO UPDATE SET func_name=excluded.func_name, args=excluded.args, kwargs=excluded.kwargs, status='PENDING',
				attempts=0, error=NULL, queue=excluded.queue, priority=excluded.priority, key=excluded.key,
				run_at=0, future=0, reaped=0, finished_at=NULL, result=NULL, worker='', cancel=0 WHERE status='FAILED'`, seconds(s.w.now), rowid)
		if n > 0 {
			s.w.exec(`DELETE FROM dlq WHERE rowid=?`, rowid)
		}
		return n
	})
}

// Purge deletes dead letters; see [Inspector].
func (s *SQLiteStorage) Purge(ctx context.Context, f Filter) (purged int, err error) {
	return s.tend(ctx, "purge", f, func(rowid any) int { return s.w.exec(`DELETE FROM dlq WHERE rowid=?`, rowid) })
}

// prunable are jobs that finished before a time, and for which no dead letter stands.
const prunable = ` FROM jobs INDEXED BY jobs_finished WHERE status=? AND ` + finished + `<?
	AND status IN ('SUCCESS','FAILED') AND NOT EXISTS (SELECT 1 FROM dlq WHERE dlq.id=jobs.id) LIMIT `

// Prune deletes what finished before a time, a thousand jobs a transaction; see [Inspector].
func (s *SQLiteStorage) Prune(ctx context.Context, before time.Time) (pruned int, err error) {
	if s.opts.ReadOnly {
		return 0, wrap("prune", errReadOnly)
	}
	for _, status := range []Status{StatusSuccess, StatusFailed} {
		for n := 1000; n == 1000; pruned += n {
			n = 0 // mostly there is nothing, and a look says so without the lock
			first, err := s.look(ctx, "prune", `SELECT 1`+prunable+`1`, string(status), seconds(before))
			if first != nil {
				err = s.do(ctx, "prune", func() {
					n = s.w.exec(`DELETE FROM jobs WHERE rowid IN (SELECT rowid`+prunable+`1000)`, string(status), seconds(before))
				})
			}
			if err != nil {
				return pruned, err
			}
		}
	}
	return pruned, nil
}

// pruneOld prunes what is older than Retention, now and then: dead letters that stand are looked at each time.
func (s *SQLiteStorage) pruneOld(ctx context.Context, now time.Time) error {
	s.mu.Lock()
	due := s.opts.Retention >= 0 && now.Sub(s.pruned) >= min(s.opts.Retention, time.Minute)
	if due {
		s.pruned = now
	}
	s.mu.Unlock()
	if !due {
		return nil
	}
	_, err := s.Prune(ctx, now.Add(-s.opts.Retention))
	if err != nil && ctx.Err() != nil {
		return nil // the next time goes on from here
	}
	return err
}

// SQLiteReport is what [SQLiteStorage.Check] finds.
type SQLiteReport struct {
	Schema   int      // the version of the file's schema; 0 is the Python library's
	Newest   int      // the version that this package makes of it when it writes
	Journal  string   // PRAGMA journal_mode: "wal", once this package has written
	Size     int64    // bytes
	Free     int64    // bytes of Size that hold nothing
	Damage   []string // what PRAGMA quick_check says against the file, at most 100 lines
	Unusable []string // unfinished jobs that no worker can run, with the reason; at most 100
}

// Check examines the file, reading all of it: a second or two a gigabyte, in which nobody waits. With an error the
// report holds what was found before.
func (s *SQLiteStorage) Check(ctx context.Context) (r SQLiteReport, err error) {
	q := s.reader(ctx)
	page := integer(q.value("PRAGMA page_size"))
	r.Schema, r.Newest, r.Journal = int(integer(q.value("PRAGMA user_version"))), schemaVersion, text(q.value("PRAGMA journal_mode"))
	r.Size, r.Free = page*integer(q.value("PRAGMA page_count")), page*integer(q.value("PRAGMA freelist_count"))
	for v := range q.rows("PRAGMA quick_check(100)") {
		if line := text(v[0]); line != "ok" {
			r.Damage = append(r.Damage, line)
		}
	}
	for after, more := int64(math.MinInt64), true; more && len(r.Unusable) < 100; {
		more = false
		for v := range q.rows(`SELECT seq, `+jobColumns+s.jobs+`WHERE seq>? AND status NOT IN ('SUCCESS','FAILED') ORDER BY seq LIMIT 1000`, after) {
			rowid, job, refused := jobOf(v)
			after, more = rowid, true
			switch _, named := v[9].(string); {
			case job.Status != StatusPending && job.Status != StatusRunning:
				refused = fmt.Errorf("its status is %q", job.Status)
			case !named:
				refused = fmt.Errorf("its queue is %v, which is no text", v[9])
			}
			if refused != nil && len(r.Unusable) < 100 {
				r.Unusable = append(r.Unusable, fmt.Sprintf("%s: %v", job.ID, refused))
			}
		}
	}
	return r, wrap("check", q.err)
}

package pinion

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/pinion-queue/pinion/internal/rules"
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
	if s.indexed {
		query = sizeQuery
	}
	n, err := s.readValue(ctx, "size", query)
	return int(integer(n)), err
}

// sizeQuery counts the PENDING jobs without a look at a row.
const sizeQuery = `SELECT
	(SELECT count(*) FROM jobs INDEXED BY jobs_ready3 WHERE status='PENDING' AND future=0 AND aside=0) +
	(SELECT count(*) FROM jobs INDEXED BY jobs_aside WHERE status='PENDING' AND future=0 AND aside>0) +
	(SELECT count(*) FROM jobs INDEXED BY jobs_future WHERE status='PENDING' AND future=1)`

// finished is when a job finished, as the index jobs_finished3 has it. Python does not record that.
const finished = `coalesce(finished_at, heartbeat_at, created_at)`

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
	where := f.where("created_at")
	s.narrowToPeriodic(f, &where)
	return s.list(ctx, jobColumns+s.jobs, f, where)
}

// DeadLetters lists the dead-letter queue; see [Inspector].
func (s *SQLiteStorage) DeadLetters(ctx context.Context, f Filter) iter.Seq2[*Job, error] {
	f.Status = "" // the table has no such column
	return s.list(ctx, letterColumns+s.letters, f, f.where("failed_at"))
}

// list lists the rows that match. selectFrom is a list of columns and a FROM clause.
func (s *SQLiteStorage) list(
	ctx context.Context, selectFrom string, f Filter, where conditions,
) iter.Seq2[*Job, error] {
	return func(yield func(*Job, error) bool) {
		listed := 0
		pages := s.pages(selectFrom, f, where, 200)
		for {
			var jobs []*Job
			q := s.reader(ctx)
			more := pages.next(q, func(row []any) {
				_, job, _ := jobOf(row)
				if f.matchesTask(job.Task) {
					jobs = append(jobs, job)
				}
			})
			if q.err != nil {
				yield(nil, wrap("list", q.err))
				return
			}
			for _, job := range jobs {
				listed++
				if !yield(job, nil) || listed == f.Limit {
					return
				}
			}
			if !more {
				return
			}
		}
	}
}

// pages reads a table page by page, in the order of the rowid, so that no read transaction stays open
// between two pages.
type pages struct {
	query string
	args  []any
	size  int
	last  int64 // the rowid of the last row that was read
}

// pages returns the pages of the rows that match. selectFrom is a list of columns and a FROM clause.
func (s *SQLiteStorage) pages(selectFrom string, f Filter, where conditions, size int) *pages {
	seq, after, order, start := "seq", ">", "", int64(math.MinInt64)
	if f.Newest {
		after, order, start = "<", "DESC", math.MaxInt64
	}
	if where.isNarrow {
		seq = "+seq" // the + has SQLite find them by their index and sort them
	}
	query := fmt.Sprintf(`SELECT seq, %s WHERE %s%s? %s ORDER BY %s %s LIMIT %d`,
		selectFrom, seq, after, where.sql, seq, order, size)
	return &pages{query: query, args: where.args, size: size, last: start}
}

// next reads a page. It returns false if this was the last one, or after an error.
func (p *pages) next(q *session, read func(row []any)) (more bool) {
	n := 0
	for row := range q.rows(p.query, append([]any{p.last}, p.args...)...) {
		n++
		p.last = integer(row[0])
		read(row)
	}
	return n == p.size && q.err == nil
}

// JobsPage lists a part of the jobs; see [Inspector].
func (s *SQLiteStorage) JobsPage(ctx context.Context, f Filter, from int64) (Page, error) {
	q := s.reader(ctx)
	all := listing{"jobs", jobColumns, s.jobs}
	where := f.where("created_at")
	s.narrowToPeriodic(f, &where)
	page, err := s.page(q, all, f, where, from)
	hasLookedInVain := err == nil && page.Next != 0 && len(page.Jobs) < rules.PageSize(f.Limit)
	if hasLookedInVain && s.narrowToPending(q, f, &where) {
		return s.page(q, all, f, where, from)
	}
	return page, err
}

// DeadLettersPage lists a part of the dead letters; see [Inspector].
func (s *SQLiteStorage) DeadLettersPage(ctx context.Context, f Filter, from int64) (Page, error) {
	f.Status = "" // the table has no such column
	return s.page(s.reader(ctx), listing{"dlq", letterColumns, s.letters}, f, f.where("failed_at"), from)
}

// narrowToPeriodic adds a condition by which an index finds the jobs of schedules that wait, if the filter asks for
// those. The index leaves out jobs that gave up their Key, which jobs of schedules never do.
func (s *SQLiteStorage) narrowToPeriodic(f Filter, where *conditions) {
	isPeriodic := strings.HasPrefix(f.Key, periodicPrefix) || strings.HasPrefix(f.KeyPrefix, periodicPrefix)
	if !s.indexed || f.Status != StatusPending || !isPeriodic {
		return
	}
	from, to := periodicPrefix, behindPrefix(periodicPrefix)
	if f.Key != "" {
		from, to = f.Key, f.Key+"\x01"
	}
	where.and(`seq IN (SELECT rowid FROM jobs INDEXED BY jobs_key3 WHERE key>=? AND key<?
		AND key IS NOT NULL AND status IN ('PENDING','RUNNING') AND key_until_start<2)`, from, to)
	where.isNarrow = true
}

// narrowToPending adds a condition by which indexes find the PENDING jobs, of the filter's queue if it has one, and
// reports whether it did: it does not if they are many. Where they are the rows that come next, a look at the rows in
// their order finds a page of them sooner.
func (s *SQLiteStorage) narrowToPending(q *session, f Filter, where *conditions) bool {
	if !s.indexed || f.Status != StatusPending || where.isNarrow {
		return false
	}
	inQueue := ""
	var args []any
	if f.Queue != "" {
		inQueue = " AND queue=?"
		args = []any{f.Queue, f.Queue, f.Queue}
	}
	pending := fmt.Sprintf(`
		SELECT rowid FROM jobs INDEXED BY jobs_ready3 WHERE status='PENDING' AND future=0 AND aside=0%[1]s UNION ALL
		SELECT rowid FROM jobs INDEXED BY jobs_aside WHERE status='PENDING' AND future=0 AND aside>0%[1]s UNION ALL
		SELECT rowid FROM jobs INDEXED BY jobs_future WHERE status='PENDING' AND future=1%[1]s`, inQueue)
	count := fmt.Sprintf(`SELECT count(*) FROM (%s LIMIT %d)`, pending, rules.PageLook+1)
	if integer(q.value(count, args...)) > rules.PageLook {
		return false
	}
	where.and("seq IN ("+pending+")", args...)
	where.isNarrow = true
	return true
}

// listing is a table as a list of its columns and a FROM clause.
type listing struct{ table, columns, from string }

// page reads a part of a listing. Where an index finds the rows that match, it sorts their numbers. Otherwise it looks
// at a number of rows, in their order.
func (s *SQLiteStorage) page(q *session, l listing, f Filter, where conditions, from int64) (Page, error) {
	r := newPageReader(q, l, f, where, from)
	if where.isNarrow {
		r.readNarrow()
	} else {
		r.look()
	}
	if q.err != nil {
		return Page{}, wrap("list", q.err)
	}
	return r.page, nil
}

// pageReader reads a page.
type pageReader struct {
	q      *session
	l      listing
	f      Filter
	order  rules.Order
	where  conditions
	page   Page
	last   int64 // the number of the last row that was read, from which the page goes on
	rows   int
	size   int // of what was read, in bytes
	isFull bool
}

// newPageReader returns the reader of the page behind the number from. If that is 0, it queries where the listing
// begins.
func newPageReader(q *session, l listing, f Filter, where conditions, from int64) *pageReader {
	r := &pageReader{q: q, l: l, f: f, order: rules.OrderOf(f.Newest), where: where, last: from}
	if from == 0 {
		r.last = beforeFirst(q, l, f.Newest)
	}
	return r
}

// beforeFirst returns the number before the first of a listing, in its order.
func beforeFirst(q *session, l listing, newestFirst bool) int64 {
	if newestFirst {
		newest := integer(q.value(`SELECT max(rowid) FROM ` + l.table))
		return min(newest, math.MaxInt64-1) + 1
	}
	oldest := integer(q.value(`SELECT min(rowid) FROM ` + l.table))
	return max(oldest, math.MinInt64+1) - 1
}

// readNarrow reads rows that an index finds.
func (r *pageReader) readNarrow() {
	query := fmt.Sprintf(`SELECT seq, %[1]s%[2]s
		WHERE seq IN (SELECT seq%[2]sWHERE +seq%[3]s? %[4]s ORDER BY +seq %[5]s LIMIT %[6]d) ORDER BY seq %[5]s`,
		r.l.columns, r.l.from, r.order.After, r.where.sql, r.order.Direction, r.left())
	r.read(query, append([]any{r.last}, r.where.args...))
}

// look reads what matches among the next rules.PageLook rows. It first reads the next PageLook row numbers: they hold
// at most as many rows, and often fill the page. Only then does it look for the last of the PageLook rows, which takes
// longer.
func (r *pageReader) look() {
	start := r.last
	near := r.order.NearEnd(start)
	r.readRange(start, near)
	if r.isFull {
		return
	}
	end := endOfLook(r.q, r.l.table, r.order, start, rules.PageLook)
	if end == 0 {
		r.readRange(near, r.order.End)
		return
	}
	r.readRange(near, end)
	if !r.isFull {
		r.page.Next = end
	}
}

// readRange reads the rows that match between two numbers: not the one with the number behind, but the one with last.
func (r *pageReader) readRange(behind, last int64) {
	r.read(fmt.Sprintf(`SELECT seq, %s%s WHERE seq%s? AND seq%s? %s ORDER BY seq %s LIMIT %d`,
		r.l.columns, inRowOrder(r.l.from), r.order.After, r.order.UpTo, r.where.sql, r.order.Direction, r.left()),
		append([]any{behind, last}, r.where.args...))
}

// left returns how many rows to ask for: one more than the page has room for shows whether more follow.
func (r *pageReader) left() int { return rules.PageSize(r.f.Limit) - r.rows + 1 }

// read adds the rows of a query to the page, until it is full.
func (r *pageReader) read(query string, args []any) {
	for row := range r.q.rows(query, args...) {
		if r.rows == rules.PageSize(r.f.Limit) || r.size > rules.PageBytes {
			r.page.Next = r.last
			r.isFull = true
			return
		}
		var job *Job
		r.last, job, _ = jobOf(row)
		if r.f.matchesTask(job.Task) {
			r.page.Jobs = append(r.page.Jobs, job)
		}
		r.rows++
		for _, v := range row {
			r.size += len(text(v))
		}
	}
}

// inRowOrder returns a FROM clause of listingFrom that uses no index.
func inRowOrder(from string) string { return strings.Replace(from, ") AS ", " NOT INDEXED) AS ", 1) }

// endOfLook returns the rowid of the last of a number of rows that follow a rowid, or 0 if no more follow.
func endOfLook(q *session, table string, order rules.Order, rowid int64, look int) (end int64) {
	query := fmt.Sprintf(`SELECT rowid FROM %s NOT INDEXED WHERE rowid%s? ORDER BY rowid %s LIMIT 2 OFFSET %d`,
		table, order.After, order.Direction, look-1)
	var found []int64
	for row := range q.rows(query, rowid) {
		found = append(found, integer(row[0]))
	}
	if len(found) < 2 {
		return 0
	}
	return found[0]
}

// GroupDeadLetters counts dead letters by error; see [Inspector]. It reads a part at a time, so that no read
// transaction stays open for long.
func (s *SQLiteStorage) GroupDeadLetters(ctx context.Context, f Filter, look int) (groups LetterGroups, err error) {
	f.Status = "" // the table has no such column
	q := s.rawReader(ctx)
	where := f.where("failed_at")
	query := `SELECT seq, func_name, error` + inRowOrder(s.letters) + `WHERE seq<? AND seq>=?` + where.sql
	var counter rules.ErrorGroups
	last := int64(math.MaxInt64)
	for left := look; q.err == nil; left -= rules.PageLook {
		part := rules.PageLook
		if look > 0 {
			part = min(part, left)
		}
		end := endOfLook(q, "dlq", rules.NewestFirst, last, part)
		begin := end
		if end == 0 {
			begin = math.MinInt64
		}
		for row := range q.rows(query, append([]any{last, begin}, where.args...)...) {
			if f.matchesTask(text(row[1])) {
				counter.Add(rules.HashError(text(row[2])), integer(row[0]))
			}
		}
		last = end
		groups.More = end != 0
		if end == 0 || left == part {
			break
		}
	}
	groups.Errors = counter.Errors()
	groups.Letters = counter.Letters
	for _, g := range counter.Largest(f.Limit) {
		for row := range q.rows(`SELECT seq, `+letterColumns+s.letters+`WHERE seq=?`, g.Newest) {
			_, job, _ := jobOf(row)
			groups.Groups = append(groups.Groups, LetterGroup{g.Count, job})
		}
	}
	if q.err != nil {
		return LetterGroups{}, wrap("group dead letters", q.err)
	}
	return groups, nil
}

// conditions are the end of a WHERE clause.
type conditions struct {
	sql      string
	args     []any
	isNarrow bool // they match few rows, which an index finds
}

func (c *conditions) and(condition string, args ...any) {
	c.sql += " AND " + condition
	c.args = append(c.args, args...)
}

// where returns the filter as SQL, but for what only matchesTask can compare. After and Before are about
// timeColumn. The status stands there literally: a bound one would match no partial index.
func (f Filter) where(timeColumn string) conditions {
	c := conditions{isNarrow: f.Status == StatusRunning || len(f.IDs) > 0}
	switch f.Status {
	case "":
	case StatusPending, StatusRunning, StatusSuccess, StatusFailed:
		c.and("status='" + string(f.Status) + "'")
	default:
		c.and("0")
	}
	if f.IDs != nil {
		c.and("id IN (SELECT value FROM json_each(?))", jsonStrings(f.IDs))
	}
	if f.Queue != "" {
		c.and("queue=?", f.Queue)
	}
	if f.Task != "" {
		c.and("(func_name=? COLLATE NOCASE OR func_name GLOB ?)", asciiCase.Replace(f.Task), notASCII)
	}
	if f.Key != "" {
		c.and("key=?", f.Key)
	}
	if f.KeyPrefix != "" {
		c.and("key>=? AND key<?", f.KeyPrefix, behindPrefix(f.KeyPrefix))
	}
	if f.Text != "" {
		c.and("instr(error, ?)>0", f.Text)
	}
	if f.Error != "" {
		c.and(messageSQL+"=?", rules.ErrorMessage(f.Error))
	}
	if !f.After.IsZero() {
		c.and(timeColumn+">=?", seconds(f.After))
	}
	if !f.Before.IsZero() {
		c.and(timeColumn+"<?", seconds(f.Before))
	}
	return c
}

// messageSQL is rules.ErrorMessage in SQL. It appends nothing to the error: behind one that ends with a line break,
// that would make an empty line which is not there. A job that has not failed has NULL.
const messageSQL = `CASE coalesce(instr(error, char(10,10)), 0)
	WHEN 0 THEN coalesce(error, '')
	ELSE substr(error, 1, instr(error, char(10,10))-1)
	END`

// behindPrefix returns the first text that sorts behind all that begin with a prefix.
func behindPrefix(prefix string) string {
	last := len(prefix) - 1
	return prefix[:last] + string([]byte{prefix[last] + 1})
}

// asciiCase replaces the letters that are another case of an ASCII letter: the sign of the Kelvin and the long s.
var asciiCase = strings.NewReplacer("\u212A", "k", "\u017F", "s")

// jsonStrings returns a JSON array of the strings, but for those that are not UTF-8: no stored id is one of them.
func jsonStrings(list []string) string {
	valid := slices.DeleteFunc(slices.Clone(list), func(text string) bool { return !utf8.ValidString(text) })
	encoded, _ := json.Marshal(valid) // a list of such strings always encodes
	return string(encoded)
}

// notASCII is a pattern of names that SQLite cannot compare: it knows the case of ASCII letters only, and
// "K" may also be the sign for Kelvin.
const notASCII = "*[^\x01-\x7f]*"

// matchesTask compares the name of a task as a registry does.
func (f Filter) matchesTask(name string) bool {
	return f.Task == "" || isSameTask(name, f.Task)
}

// ---- Statistics ----

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

// History returns the ends of jobs; see [Inspector].
func (s *SQLiteStorage) History(ctx context.Context, since time.Time) ([]Ends, error) {
	q := s.reader(ctx)
	all := slices.Collect(s.endsSince(q, since))
	if q.err != nil {
		return nil, wrap("history", q.err)
	}
	return all, nil
}

// endsSince ranges over the ends from the minute of a time on, the oldest first.
func (s *SQLiteStorage) endsSince(q *session, since time.Time) iter.Seq[Ends] {
	return func(yield func(Ends) bool) {
		if !s.indexed { // an older file has no such table
			return
		}
		for row := range q.rows(`SELECT at, queue, task, succeeded, failed, took FROM pinion_ends
			WHERE at>=? ORDER BY at, queue, task`, since.Truncate(time.Minute).Unix()) {
			took, _ := row[5].(float64)
			ends := Ends{
				At:        time.Unix(integer(row[0]), 0).UTC(),
				Queue:     text(row[1]),
				Task:      text(row[2]),
				Succeeded: int(integer(row[3])),
				Failed:    int(integer(row[4])),
				Took:      time.Duration(took * float64(time.Second)),
			}
			if !yield(ends) {
				return
			}
		}
	}
}

// ---- Verbs over a filter ----

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

// ---- Backup ----

// Backup copies the queue, as it is at one moment, into a new file at path, which gets mode 0600. Workers
// and producers go on meanwhile. The copy is a queue like any other: OpenSQLite opens it, and workers then
// run its jobs, also those that were RUNNING when the copy was made.
//
// It is the way to copy a queue in use. A program that reads the file itself misses what stands in the
// -wal. If it runs in the same process, SQLite's locks on the file are lost, too.
func (s *SQLiteStorage) Backup(ctx context.Context, path string) error {
	if path == "" {
		return errors.New("pinion: backup: the path is empty; want that of a file which does not exist yet")
	}
	err := s.backup(ctx, path)
	if err != nil {
		return wrap("backup to "+path, err)
	}
	return nil
}

func (s *SQLiteStorage) backup(ctx context.Context, path string) error {
	if q := s.reader(ctx); q.err != nil {
		return q.err
	}
	if rules.IsDirectoryName(path) {
		return errors.New("a copy cannot have the name of a directory; name a file that does not exist yet")
	}
	path, err := filepath.Abs(path) // SQLite would take file:… for a URI
	if err != nil {
		return err
	}
	// SQLite writes into an empty file, and would make a missing one that everybody can read.
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	err = s.vacuumInto(ctx, path)
	if err != nil {
		return errors.Join(err, os.Remove(path))
	}
	return nil
}

// vacuumInto copies the file. It has a connection of its own, because the readers' cannot write, not even
// elsewhere.
func (s *SQLiteStorage) vacuumInto(ctx context.Context, path string) error {
	c, err := s.connector("mode=ro&_pragma=busy_timeout(5000)")
	if err != nil {
		return err
	}
	db := sql.OpenDB(c)
	_, err = db.ExecContext(ctx, `VACUUM INTO ?`, path)
	closeErr := db.Close()
	if err == nil {
		err = closeErr
	}
	return err
}

// ---- The file's health ----

// SQLiteReport is what [SQLiteStorage.Check] finds.
type SQLiteReport struct {
	Schema   int      // the version of the file's schema; 0 is the Python library's
	Newest   int      // the version to which this package migrates a file when it writes
	Journal  string   // PRAGMA journal_mode: "wal", once this package has written
	Size     int64    // in bytes
	Free     int64    // how many bytes of Size are unused
	Links    int      // how many names (hard links) the file has; more than one is dangerous
	Paused   []string // queues with the limit 0
	Expired  []string // ids of RUNNING jobs whose lease has expired, for a worker to take back; at most 100
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
	info, err := os.Stat(s.path)
	if err != nil {
		q.fail(err)
		return report, wrap("check", q.err)
	}
	report.Links = hardLinks(info)
	report.Paused = s.paused(q)
	report.Expired = s.expired(q, time.Now())
	report.Unusable = s.unusable(q)
	return report, wrap("check", q.err)
}

// paused returns the queues that are paused.
func (s *SQLiteStorage) paused(q *session) (queues []string) {
	if !s.indexed { // an older file has no such table
		return nil
	}
	for row := range q.rows(`SELECT queue FROM pinion_limits WHERE most=0 ORDER BY queue`) {
		queues = append(queues, text(row[0]))
	}
	return queues
}

// expired returns the ids of the running jobs whose own lease has expired. Claims of Python's have none.
func (s *SQLiteStorage) expired(q *session, now time.Time) (ids []string) {
	query := fmt.Sprintf(`SELECT id%sWHERE status='RUNNING' AND lease>0 AND heartbeat_at+lease<? LIMIT %d`,
		s.jobs, maxFindings)
	for row := range q.rows(query, seconds(now)) {
		ids = append(ids, text(row[0]))
	}
	return ids
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
	query := `SELECT seq, ` + jobColumns + `, typeof(queue), future, aside` + s.jobs + `
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

// whyUnusable returns the id of an unfinished job and why no worker can run it, or nil. The row ends with what the
// indexes by which claims find jobs go by: the type of the queue, and the columns future and aside.
func whyUnusable(row []any) (id string, reason error) {
	_, job, reason := jobOf(row)
	found := row[len(row)-3:]
	queueType, future, aside := text(found[0]), text(found[1]), text(found[2])
	isFlag := func(value string) bool { return value == "0" || value == "1" }
	switch {
	case job.Status != StatusPending && job.Status != StatusRunning:
		reason = fmt.Errorf("its status is %q; want PENDING or RUNNING", job.Status)
	case queueType != "text":
		reason = fmt.Errorf("its queue %q is of type %s; want text", job.Queue, queueType)
	case !isFlag(future):
		reason = fmt.Errorf("its column future is %s; want 0 or 1", future)
	case !isFlag(aside):
		reason = fmt.Errorf("its column aside is %s; want 0 or 1", aside)
	}
	return job.ID, reason
}

package pinion

import (
	"context"
	"encoding/json"
	"fmt"
	"iter"
	"math"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/pinion-queue/pinion/internal/rules"
)

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

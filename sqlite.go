package pinion

import (
	"bytes"
	"cmp"
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"modernc.org/sqlite"
)

// SQLiteStorage keeps jobs in one SQLite file, which any number of processes may share. It is the file of the
// Python library with columns added. One connection writes; verbs that are called concurrently share a transaction,
// and each returns after its COMMIT. Listings have read-only connections of their own and never wait for writers.
type SQLiteStorage struct {
	path    string
	opts    SQLiteOptions
	readers *sql.DB
	jobs    string // what listings select from
	letters string
	opened  []openedFile // the file and, unless read-only, its -wal and -shm
	indexed bool         // not a file of Python's that must stay as it is

	mu      sync.Mutex    // guards the next three
	queue   []*call       // to be taken into the next transaction
	closed  bool          // nothing is queued any more
	pruned  time.Time     // when Retention was last enforced
	kick    chan struct{} // capacity 1: queue or closed has changed, or a call is gone
	stopped chan struct{} // closed when the writer has returned

	turn sync.Mutex // guards w, and is taken before mu; the writer keeps it when it returns
	w    writer
}

var _ interface {
	Storage
	Canceler
	Inspector
} = (*SQLiteStorage)(nil)

// SQLiteOptions are settings of OpenSQLite; the zero value is the default.
type SQLiteOptions struct {
	// Synchronous is SQLite's setting of that name: FULL [the default], or NORMAL, which is up to three times
	// faster and may lose the last commits when the power fails, though not when the process dies.
	Synchronous string
	// Retention is how long finished jobs are kept before running workers prune them [24h]; negative: for ever.
	Retention time.Duration
	// DeadLetterRetention is how long dead letters are kept before running workers purge them [for ever].
	DeadLetterRetention time.Duration
	// PollInterval set makes a waiting Dequeue look for other processes' jobs this often [0: be woken by the
	// operating system where it can, which is Linux; elsewhere look every 20 ms].
	PollInterval time.Duration
	// ReadOnly opens an existing file to look at: it is never created, migrated or written.
	ReadOnly bool
}

const (
	backstopPoll = time.Second            // behind the operating system's wake-ups
	defaultPoll  = 20 * time.Millisecond  // where there are none
	lockRetry    = 2 * time.Millisecond   // at most, between two tries for the write lock
	lockNap      = 100 * time.Microsecond // the same, for the first lockNaps tries, and from lockLong on
	lockNaps     = 10
	lockLong     = 100 * time.Millisecond
	lockPatience = 5 * time.Second // before a claim says that another program holds that lock
	moveCheck    = time.Second     // between two looks whether the -wal and -shm are still there
)

// OpenSQLite opens the queue in the file at path, creating it with mode 0600 if it is missing. A file of the Python
// library is brought up to date, which Python does not notice, and so is one of an older Pinion, which goes on where it
// has the file open but cannot open it again. nil opts are the defaults. The caller closes the storage.
//
// Refused, with an error that says which, are a file that is not SQLite, one from a newer Pinion, and one whose jobs
// table belongs to another program. A file may hold other tables too, for Tx, but its PRAGMA user_version is
// Pinion's. A symbolic link is followed, once, here, and the -wal and -shm stand beside the file itself, with its
// mode; a link to nothing and what is no regular file (a directory, a fifo, a device) are refused.
func OpenSQLite(ctx context.Context, path string, opts *SQLiteOptions) (*SQLiteStorage, error) {
	s := &SQLiteStorage{kick: make(chan struct{}, 1), stopped: make(chan struct{})}
	if opts != nil {
		s.opts = *opts
	}
	if err := s.open(ctx, path); err != nil {
		s.disconnect()
		return nil, fmt.Errorf("pinion: open %s: %w", path, explain(err))
	}
	if s.opts.ReadOnly {
		close(s.stopped) // there is no writer
	} else {
		go s.write()
	}
	return s, nil
}

// Close waits for the transaction under way, answers everybody else with ErrClosed and closes the file. Closing
// again does nothing.
func (s *SQLiteStorage) Close() error {
	s.mu.Lock()
	again := s.closed
	s.closed = true
	s.mu.Unlock()
	s.wakeWriter()
	<-s.stopped
	if again {
		return nil
	}
	return s.disconnect()
}

// ---- Enqueue ----

// newRow is a job on its way into the table.
type newRow struct {
	job          *Job
	id, queue    string
	args, kwargs string
	created      time.Time
	runAt        float64
	key          any   // nil or string
	to           *call // the claim that gets it at once; nil: it becomes PENDING
}

func newRows(jobs []*Job) ([]*newRow, error) {
	rows, now := make([]*newRow, len(jobs)), microTime(time.Now())
	ids, keys := make(map[string]bool), make(map[string]string) // those that the callers chose, to find them twice
	for i, job := range jobs {
		args, kwargs, err := job.EncodeArgs()
		if err != nil {
			return nil, err
		}
		r := &newRow{job, cmp.Or(job.ID, NewID()), cmp.Or(job.Queue, defaultQueue), args, kwargs, now, seconds(job.RunAt), nil, nil}
		if job.ID != "" {
			if ids[job.ID] {
				return nil, &DuplicateError{ID: job.ID}
			}
			ids[job.ID] = true
		}
		if job.Key != "" {
			if keys[job.Key] != "" {
				return nil, &DuplicateError{ID: keys[job.Key], Key: job.Key}
			}
			keys[job.Key], r.key = r.id, job.Key
		}
		rows[i] = r
	}
	return rows, nil
}

// accept fills in the callers' jobs.
func accept(rows []*newRow) {
	for _, r := range rows {
		r.job.accepted(r.id, r.queue, r.created)
	}
}

// Enqueue stores the jobs; see [Storage].
func (s *SQLiteStorage) Enqueue(ctx context.Context, jobs ...*Job) error {
	rows, err := newRows(jobs)
	if err != nil {
		return s.reader(ctx).nameHolder(err)
	} else if len(rows) == 0 {
		return cmp.Or(ctx.Err(), s.reader(ctx).err)
	}
	var duplicate error
	c := &call{producer: true, verb: func() {
		s.w.insert(rows, len(rows) == 1) // of several, the claims choose by priority
		if duplicate = nil; errors.Is(s.w.err, ErrDuplicate) {
			if duplicate = s.w.err; len(rows) == 1 {
				s.w.err = nil // one statement, which wrote nothing: no reason to roll back
			}
		}
	}}
	if len(rows) == 1 && jobs[0].ID == "" && jobs[0].Key == "" {
		c.row = rows[0]
	}
	err = s.doCall(ctx, "enqueue", c)
	if duplicate != nil {
		return duplicate
	}
	if err == nil {
		accept(rows)
	}
	return err
}

// insert stores rows, and gives those that it may to claims that wait.
func (w *writer) insert(rows []*newRow, give bool) {
	for _, r := range rows {
		r.to = nil // the transaction may have been begun before
	}
	if give {
		w.give(rows)
	}
	w.insertRows(rows, w.now)
	for _, r := range rows {
		if r.to == nil {
			w.look = true
		} else if w.err != nil {
			r.to.jobs = r.to.jobs[:len(r.to.jobs)-1]
		}
	}
}

// give finds claims for jobs that are due now, one after the other, if nothing else is due for these claims. Such a job
// becomes RUNNING as it is stored, which saves the claim its own statements.
func (w *writer) give(rows []*newRow) {
	if len(w.waiting) == 0 {
		return
	}
	w.look = w.look || !w.sighted
	w.serve()
	for _, r := range rows {
		found := slices.IndexFunc(w.waiting, func(c *call) bool {
			return r.runAt <= seconds(w.now) && !c.full && len(c.jobs) < c.max && (len(c.queues) == 0 || slices.Contains(c.queues, r.queue))
		})
		if found < 0 {
			continue
		}
		r.to = w.waiting[found]
		job := &Job{ID: r.id, Task: r.job.Task, Queue: r.queue, Priority: r.job.Priority, RunAt: fromSeconds(r.runAt), Key: r.job.Key,
			Status: StatusRunning, Attempts: 1, Claim: w.now.UnixMicro(), Worker: r.to.worker, CreatedAt: r.created, HeartbeatAt: microTime(w.now)}
		job.splitArgs(r.args, r.kwargs)
		r.to.jobs = append(r.to.jobs, job)
	}
}

// perStatement is how many rows go into one statement, which is 40 % faster than one row each; more add little.
const perStatement = 8

// insertKind is what the text of an INSERT depends on.
type insertKind struct {
	rows           int // that differ in their own columns only
	plain, running bool
}

// statement binds no more than it must: what the text holds, or a column's default, need not be bound, which would be a
// tenth of the time of a batch.
func (k insertKind) statement(orFail string) string {
	shared, own, rest, values := []string{"func_name", "queue", "created_at"}, "id, args", "status, attempts", ", 'PENDING', 0"
	if k.running {
		shared, values = append(shared, "claim", "heartbeat_at", "worker"), ", 'RUNNING', 1"
	}
	if k.plain {
		rest, values = rest+", kwargs", values+", '{}'"
	} else {
		shared, own = append(shared, "priority", "run_at", "future"), own+", kwargs, key"
	}
	first, next, bound := "", "", "?"+strings.Repeat(", ?", strings.Count(own, ","))
	for i := range shared {
		first, next = first+"?, ", next+fmt.Sprintf("?%d, ", i+1)
	}
	into := "INTO jobs (" + strings.Join(shared, ", ") + ", " + own + ", " + rest + ") "
	rows := "VALUES (" + first + bound + values + ")" + strings.Repeat(", ("+next+bound+values+")", k.rows-1)
	switch {
	case orFail == undone: // a single row of VALUES alone would not be: a full disk would end the whole transaction
		return "INSERT " + into + "SELECT * FROM (" + rows + ")"
	case k.rows == 1: // writes all or nothing
		return "INSERT " + into + rows
	}
	return "INSERT " + orFail + into + rows
}

// plain reports whether a row is nothing but a task, its arguments and a queue, as most are.
func (r *newRow) plain() bool {
	return r.job.Priority == 0 && r.runAt == 0 && r.kwargs == "{}" && r.key == nil
}

// alike reports whether two rows differ only in what is their own.
func (r *newRow) alike(o *newRow) bool {
	return r.job.Task == o.job.Task && r.queue == o.queue && r.job.Priority == o.job.Priority && r.created.Equal(o.created) && r.runAt == o.runAt && r.to == o.to
}

// inOneStatement is how many of the first rows may share one, which only those may that are alike: a power of two, so that
// there are few statements.
func inOneStatement[T any](rows []T, most int, alike func(a, b T) bool) int {
	n := 1
	for 2*n <= min(most, len(rows)) && !slices.ContainsFunc(rows[n:2*n], func(o T) bool { return !alike(rows[0], o) }) {
		n *= 2
	}
	return n
}

// insertRows works on the writer and in a transaction of the user's. After an error some rows may be written.
func (q *session) insertRows(rows []*newRow, now time.Time) {
	args := make([]any, 0, 9+4*perStatement)
	for len(rows) > 0 {
		r, n := rows[0], inOneStatement(rows, perStatement, (*newRow).alike)
		kind := insertKind{n, !slices.ContainsFunc(rows[:n], func(o *newRow) bool { return !o.plain() }), r.to != nil}
		args = append(args[:0], r.job.Task, r.queue, seconds(r.created))
		if kind.running {
			args = append(args, now.UnixMicro(), seconds(now), r.to.worker)
		}
		if !kind.plain {
			args = append(args, r.job.Priority, r.runAt, r.runAt > seconds(now))
		}
		for _, r := range rows[:n] {
			if args = append(args, r.id, r.args); !kind.plain {
				args = append(args, r.kwargs, r.key)
			}
		}
		query, ok := q.inserts[kind]
		if !ok {
			query = kind.statement(q.orFail)
			q.inserts[kind] = query
		}
		q.exec(query, args...)
		q.nameDuplicate(rows[:n])
		rows = rows[n:]
	}
}

// insertTogether stores the jobs of producers who came at the same time. If that fails each is to try alone, to know whose
// error it is.
func (w *writer) insertTogether(calls []*call) {
	if len(calls) == 0 {
		return
	}
	last := slices.MaxFunc(calls, func(a, b *call) int { return a.row.created.Compare(b.row.created) }).row.created
	rows := make([]*newRow, len(calls))
	for i, c := range calls {
		rows[i], c.row.created = c.row, last // or no two would be alike
	}
	if w.insert(rows, true); w.err != nil {
		for _, c := range calls {
			c.row = nil
		}
	}
}

// nameDuplicate turns the error of a refused INSERT into one that names the job in the way.
func (q *session) nameDuplicate(rows []*newRow) {
	refused := q.err
	if !isCode(refused, codeConstraint) {
		return
	}
	q.err = nil
	if q.orFail != undone { // it stopped at the row behind those that it stored
		stored := min(int(integer(q.value(`SELECT changes()`))), len(rows)-1)
		rows = rows[stored : stored+1]
	}
	for _, r := range rows {
		if q.value(`SELECT 1 FROM jobs WHERE id=?`, r.id) != nil {
			q.fail(&DuplicateError{ID: r.id})
		}
		if holder := q.value(holderOf, r.key); holder != nil {
			q.fail(&DuplicateError{ID: text(holder), Key: r.job.Key})
		}
	}
	q.fail(refused)
}

const holderOf = `SELECT id FROM jobs WHERE key=? AND status IN ('PENDING', 'RUNNING')`

// nameHolder has the error about a Key that a batch gives twice name the job that holds it already, if one does.
func (q *session) nameHolder(err error) error {
	if d, ok := errors.AsType[*DuplicateError](err); ok && d.Key != "" {
		if holder := q.value(holderOf, d.Key); holder != nil {
			d.ID = text(holder)
		}
	}
	return err
}

// Tx returns what enqueues inside tx, a transaction of modernc.org/sqlite on the same file; on another file Enqueue
// returns an error. The jobs become visible, and wake workers, when tx commits. After a rollback nothing is stored.
// All jobs of a call are stored or none. Errors are those of Enqueue and of tx. While tx is open the storage's own
// verbs that write wait for it, so do not call Enqueue on the storage before its end. Open the database with
// "?_pragma=busy_timeout(5000)&_txlock=immediate", so that tx waits for other writers, workers among them.
func (s *SQLiteStorage) Tx(tx *sql.Tx) Tx { return sqliteTx{s, tx} }

type sqliteTx struct {
	storage *SQLiteStorage
	tx      *sql.Tx
}

// Enqueue implements [Enqueuer].
func (t sqliteTx) Enqueue(ctx context.Context, jobs ...*Job) error {
	return t.storage.enqueueTx(ctx, t.tx, jobs)
}

func (s *SQLiteStorage) enqueueTx(ctx context.Context, tx *sql.Tx, jobs []*Job) error {
	rows, err := newRows(jobs)
	if err != nil || len(rows) == 0 {
		return s.reader(ctx).nameHolder(err) // not by tx, in which a read that comes first may forbid the write
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	unbroken := context.WithoutCancel(ctx) // an interrupted INSERT would end the user's transaction
	q := &session{query: queries(unbroken, tx), orFail: undone, inserts: make(map[insertKind]string)}
	q.change = func(query string, args []any) (sql.Result, error) {
		for {
			res, err := tx.ExecContext(unbroken, query, args...)
			// Not for what an earlier read of tx has made too old to write: that stays so.
			if e, ok := errors.AsType[*sqlite.Error](err); !ok || e.Code() != codeBusy || !pause(ctx, lockPause()) {
				return res, err
			}
		}
	}
	file := ""
	for v := range q.rows("PRAGMA database_list") { // which reads no page: a read that comes first may forbid the write
		if text(v[1]) == "main" {
			file = text(v[2])
		}
	}
	q.fail(s.checkReplaced())
	if !sameFile(file, s.path) {
		q.fail(fmt.Errorf("the transaction is on %q and the queue is %q; they must be one file", file, s.path))
	}
	q.exec("SAVEPOINT pinion")
	if err = q.err; err == nil {
		q.insertRows(rows, time.Now())
		if err = q.err; err != nil {
			q.err = nil
			q.exec("ROLLBACK TO pinion")
		}
		q.exec("RELEASE pinion")
	}
	if err = cmp.Or(err, q.err); err == nil {
		accept(rows)
	}
	return wrap("enqueue", err)
}

func sameFile(a, b string) bool {
	ia, errA := os.Stat(a)
	ib, errB := os.Stat(b)
	return errA == nil && errB == nil && os.SameFile(ia, ib)
}

// ---- Dequeue ----

// Dequeue claims jobs; see [Storage].
func (s *SQLiteStorage) Dequeue(ctx context.Context, opts DequeueOptions) ([]*Job, error) {
	if err := opts.check(); err != nil {
		return nil, err
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	names := slices.Clone(opts.Queues)
	for i, name := range names {
		names[i] = cmp.Or(name, defaultQueue)
	}
	slices.Sort(names)
	slots := opts.Max - opts.Ahead
	c := &call{worker: opts.Worker, queues: slices.Compact(names), slots: slots, max: opts.Max, once: slots == 0 || opts.NoWait}
	err := s.submit(ctx, c)
	if err == nil {
		return c.jobs, nil
	}
	if err == ctx.Err() {
		return nil, err
	}
	return nil, wrap("dequeue", err)
}

// serve gives those who wait what is due, in the order in which they came.
func (w *writer) serve() {
	if !w.look && !w.asked || len(w.waiting) == 0 {
		return
	}
	if w.look || !w.sighted {
		w.glance()
		if due, _ := w.there.due.(float64); w.there.due != nil && due <= seconds(w.now) {
			w.exec(`UPDATE jobs SET future=0 WHERE rowid IN (SELECT rowid FROM jobs INDEXED BY jobs_future
				WHERE status='PENDING' AND future=1 AND run_at<=? ORDER BY run_at LIMIT 1000)`, seconds(w.now))
			w.glance()
		}
	}
	w.look, w.asked = false, false
	for i, c := range w.waiting {
		// What found nothing for one, finds nothing for the next; but a claim ahead must leave what the next may take.
		if known := i > 0 && w.waiting[i-1].slots > 0 && len(w.waiting[i-1].jobs) == 0 && slices.Equal(w.waiting[i-1].queues, c.queues); !known && len(c.jobs) == 0 {
			w.claim(c)
		}
	}
	due, _ := w.there.due.(float64)
	if w.nextDue = fromSeconds(due); seconds(w.nextDue) < due {
		w.nextDue = w.nextDue.Add(time.Microsecond) // it is due only then: a look before would find nothing, over and over
	}
}

// sight is what a glance at the indexes tells.
type sight struct {
	first, last any // queues with ready jobs, by name; nil: there are none
	due         any // of the next future job; nil: there is none
}

// glance asks in one statement what is mostly all there is to know.
func (w *writer) glance() {
	const ready = `SELECT queue FROM jobs INDEXED BY jobs_ready WHERE status='PENDING' AND future=0 AND queue>='' AND queue<x'' ORDER BY queue `
	for v := range w.rows(`SELECT (` + ready + `LIMIT 1), (` + ready + `DESC LIMIT 1), (SELECT run_at FROM jobs INDEXED BY jobs_future
		WHERE status='PENDING' AND future=1 ORDER BY run_at LIMIT 1)`) {
		w.there, w.sighted = sight{v[0], v[1], v[2]}, true
	}
}

// head is the next ready job of one queue.
type head struct {
	queue    string
	priority int
	rowid    int64
}

// compare is the order of claims.
func (h head) compare(o head) int {
	return cmp.Or(cmp.Compare(o.priority, h.priority), cmp.Compare(h.rowid, o.rowid))
}

// claim takes ready jobs of several queues, or of all, in the order of priority and age over them together. One
// query with "queue IN (…)" or without a queue would sort the whole backlog; this seeks each queue's head in the
// index and takes from the best queue for as long as it stays the best.
func (w *writer) claim(c *call) {
	heads := w.heads(c.queues)
	for len(heads) > 0 && len(c.jobs) < c.max && w.err == nil {
		slices.SortFunc(heads, head.compare)
		next := w.claimRun(c, heads)
		if len(next) > 0 && next[0] == heads[0] {
			c.full = true
			return
		}
		heads = append(next, heads[1:]...)
	}
}

func (w *writer) heads(queues []string) (heads []head) {
	if w.there.first == nil {
		return nil
	}
	if len(queues) == 0 && w.there.first == w.there.last {
		queues = []string{text(w.there.first)}
	}
	if len(queues) == 1 { // it has no rival, so its head need not be known
		return []head{{queue: queues[0], rowid: math.MinInt64}}
	}
	const first = `SELECT queue, priority, rowid FROM jobs INDEXED BY jobs_ready WHERE status='PENDING' AND future=0 AND queue`
	add := func(query, queue string) bool {
		for v := range w.rows(first+query, queue) {
			heads = append(heads, head{text(v[0]), int(integer(v[1])), integer(v[2])})
			return true
		}
		return false
	}
	for _, queue := range queues {
		add(`=? ORDER BY priority DESC, rowid LIMIT 1`, queue)
	}
	for from := ""; len(queues) == 0 && add(`>=? AND queue<x'' ORDER BY queue, priority DESC, rowid LIMIT 1`, from); {
		from = heads[len(heads)-1].queue + "\x00" // the name that sorts next; bytes sort behind all text
	}
	return heads
}

// claimRun takes jobs of the first head's queue up to the head of the next queue in line, and returns the head at
// which it left off, if any.
func (w *writer) claimRun(c *call, heads []head) (next []head) {
	var taken []any
	bad := make(map[int64]error)
	for v := range w.rows(`SELECT rowid, `+claimColumns+` FROM jobs INDEXED BY jobs_ready
		WHERE status='PENDING' AND future=0 AND queue=? ORDER BY priority DESC, rowid`, heads[0].queue) {
		rowid, job, refused := jobOf(v)
		at := head{heads[0].queue, job.Priority, rowid}
		mustWait := refused == nil && len(c.jobs) >= c.slots && (job.Attempts > 0 || job.Claim > 0)
		if mustWait || len(heads) > 1 && len(taken)+len(bad) > 0 && heads[1].compare(at) < 0 {
			next = []head{at}
			break
		}
		if refused != nil {
			bad[rowid] = refused
			continue
		}
		job.Status, job.Attempts, job.Claim = StatusRunning, job.Attempts+1, max(job.Claim+1, w.now.UnixMicro())
		job.HeartbeatAt, job.Worker = microTime(w.now), c.worker
		c.jobs, taken = append(c.jobs, job), append(taken, rowid)
		if len(c.jobs) == c.max {
			break
		}
	}
	for rowid, reason := range bad {
		w.bury(rowid, reason)
	}
	for chunk := range slices.Chunk(taken, perStatement) {
		for len(chunk) < perStatement {
			chunk = append(slices.Clip(chunk), chunk[0]) // one statement for any number: a rowid may be named twice
		}
		w.exec(`UPDATE `+w.orFail+`jobs SET status='RUNNING', attempts=attempts+1, claim=max(claim+1, ?), heartbeat_at=?, worker=?
			WHERE rowid IN (?, ?, ?, ?, ?, ?, ?, ?)`, append([]any{w.now.UnixMicro(), seconds(w.now), c.worker}, chunk...)...)
	}
	return next
}

const toDLQ = `INSERT OR REPLACE INTO dlq (id, func_name, args, kwargs, attempts, error, failed_at, queue, priority, key)
	SELECT id, func_name, args, kwargs, attempts, error, finished_at, queue, priority, key FROM jobs WHERE `

// bury dead-letters a row that somebody else wrote and that no worker could run, so that it does not stand in the
// way of those behind it.
func (w *writer) bury(rowid int64, reason error) {
	w.exec(`UPDATE jobs SET status='FAILED', error=?, finished_at=? WHERE rowid=?`, ErrorText(reason), seconds(w.now), rowid)
	w.exec(toDLQ+`rowid=?`, rowid)
}

// ---- The end of a claim ----

const (
	underClaim = ` WHERE id=? AND status='RUNNING' AND claim=? AND attempts=?`
	cancelRow  = `UPDATE jobs SET status='FAILED', error=?, finished_at=?, cancel=1`
)

// underClaims are underClaim for several ids; the + keeps the planner on these, for there are more jobs of one claim.
var underClaims = func() (conditions [perStatement + 1]string) {
	for n := 1; n <= perStatement; n *= 2 {
		conditions[n] = ` WHERE id IN (?` + strings.Repeat(`, ?`, n-1) + `) AND +status='RUNNING' AND +claim=? AND attempts=?`
	}
	return conditions
}()

var errSomeLost = errors.New("some jobs are no longer under their claims")

// claimed runs a statement for the jobs that are still under their claims, and returns the others. Neighbours that differ
// in their ids alone, as most do that were claimed together, share a statement, which does not tell the lost from the others:
// if there are any, all is rolled back and goes one by one.
func (s *SQLiteStorage) claimed(ctx context.Context, name string, jobs []*Job, set string, args func(*Job) []any) (lost []*Job, err error) {
	for most := perStatement; ; most = 1 {
		err = s.do(ctx, name, func() {
			lost = nil
			for rest := jobs; len(rest) > 0; {
				n := inOneStatement(rest, most, func(a, b *Job) bool {
					return a.Claim == b.Claim && a.Attempts == b.Attempts && bytes.Equal(a.Result, b.Result)
				})
				bound := args(rest[0])
				for _, job := range rest[:n] {
					bound = append(bound, job.ID)
				}
				if changed := s.w.exec(`UPDATE `+s.w.orFail+`jobs SET `+set+underClaims[n], append(bound, rest[0].Claim, rest[0].Attempts)...); changed < n && n > 1 {
					s.w.fail(errSomeLost)
				} else if changed < n {
					lost = append(lost, rest[0])
				}
				rest = rest[n:]
			}
		})
		if !errors.Is(err, errSomeLost) {
			break
		}
	}
	if err != nil {
		return nil, err
	}
	return lost, nil
}

// letGo is like claimed, for the verbs that do not end in success. Each statement is followed by after, and jobs to be
// canceled end instead, and are returned as well.
func (s *SQLiteStorage) letGo(ctx context.Context, name string, jobs []*Job, update, after string, args func(*Job) []any) (lost, canceled []*Job, err error) {
	update += underClaim + ` AND cancel=0`
	err = s.do(ctx, name, func() {
		lost, canceled = nil, nil
		for _, job := range jobs {
			switch {
			case s.w.exec(update, append(args(job), job.ID, job.Claim, job.Attempts)...) > 0:
				if after != "" {
					s.w.exec(after, job.ID)
				}
			case s.w.exec(cancelRow+underClaim, ErrCanceled.Error(), seconds(s.w.now), job.ID, job.Claim, job.Attempts) > 0:
				canceled = append(canceled, job)
			default:
				lost = append(lost, job)
			}
		}
	})
	if err != nil {
		return nil, nil, err
	}
	return lost, canceled, nil
}

// MarkDone records success; see [Storage].
func (s *SQLiteStorage) MarkDone(ctx context.Context, jobs ...*Job) (lost []*Job, err error) {
	return s.claimed(ctx, "mark done", jobs, `status='SUCCESS', finished_at=?, result=?`, func(job *Job) []any {
		if job.Result == nil {
			return []any{seconds(s.w.now), nil}
		}
		return []any{seconds(s.w.now), string(job.Result)} // as text: bytes would become a BLOB
	})
}

// MarkFailed records a failure that is to be retried; see [Storage].
func (s *SQLiteStorage) MarkFailed(ctx context.Context, job *Job, cause error, retryAt time.Time) error {
	text := ErrorText(cause)
	return ofOne(s.letGo(ctx, "mark failed", []*Job{job}, `UPDATE jobs SET status='PENDING', error=?, run_at=?, future=?`, "", func(*Job) []any {
		s.w.look = true
		return []any{text, seconds(retryAt), seconds(retryAt) > seconds(s.w.now)}
	}))
}

// DeadLetter gives a job up; see [Storage].
func (s *SQLiteStorage) DeadLetter(ctx context.Context, job *Job, cause error) error {
	attempts, text := attemptsOf(job, cause), ErrorText(cause) // not in the transaction: it is somebody else's code
	return ofOne(s.letGo(ctx, "dead-letter", []*Job{job}, `UPDATE jobs SET status='FAILED', error=?, finished_at=?, attempts=?`,
		toDLQ+`id=?`, func(*Job) []any { return []any{text, seconds(s.w.now), attempts} }))
}

// Heartbeat prolongs claims; see [Storage].
func (s *SQLiteStorage) Heartbeat(ctx context.Context, jobs ...*Job) (lost []*Job, err error) {
	return s.claimed(ctx, "heartbeat", jobs, `heartbeat_at=?`, func(*Job) []any { return []any{seconds(s.w.now)} })
}

// Release gives claims back; see [Storage].
func (s *SQLiteStorage) Release(ctx context.Context, at time.Time, cause error, jobs ...*Job) (lost, canceled []*Job, err error) {
	var text any // NULL leaves the error as it is
	if cause != nil {
		text = ErrorText(cause)
	}
	return s.letGo(ctx, "release", jobs, `UPDATE jobs SET status='PENDING', attempts=attempts-1, error=coalesce(?, error), run_at=?, future=?`, "",
		func(*Job) []any {
			s.w.look = true
			return []any{text, seconds(at), seconds(at) > seconds(s.w.now)}
		})
}

// Cancel tells jobs to end; see [Canceler].
func (s *SQLiteStorage) Cancel(ctx context.Context, ids ...string) (ended, asked []string, err error) {
	err = s.do(ctx, "cancel", func() {
		ended, asked = nil, nil
		for _, id := range ids {
			if s.w.exec(cancelRow+` WHERE id=? AND status='PENDING'`, ErrCanceled.Error(), seconds(s.w.now), id) > 0 {
				ended = append(ended, id)
			} else if s.w.exec(`UPDATE jobs SET cancel=1 WHERE id=? AND status='RUNNING'`, id) > 0 {
				asked = append(asked, id)
			}
		}
	})
	if err != nil {
		return nil, nil, err
	}
	return ended, asked, nil
}

// Canceled tells which jobs have been asked to end; see [Canceler]. It reads, and waits for no writer.
func (s *SQLiteStorage) Canceled(ctx context.Context, jobs ...*Job) (canceled []*Job, err error) {
	ids := make([]string, len(jobs))
	for i, job := range jobs {
		ids[i] = strings.ToValidUTF8(job.ID, "") // it is not this job's fault that another's is none
	}
	bound, err := encode(ids)
	if err != nil {
		return nil, err
	}
	q := s.reader(ctx)
	for v := range q.rows(`SELECT json_each.key, claim, attempts FROM json_each(?) CROSS JOIN jobs ON jobs.id=value
		WHERE +status='RUNNING' AND cancel<>0`, string(bound)) { // the + keeps the planner on the ids
		if job := jobs[integer(v[0])]; job.Claim == integer(v[1]) && job.Attempts == int(integer(v[2])) {
			canceled = append(canceled, job)
		}
	}
	return canceled, wrap("canceled", q.err)
}

// ReapStale takes back lost leases (see [Storage]) and prunes some of what was finished longer ago than Retention.
// When there is neither, it takes no lock.
func (s *SQLiteStorage) ReapStale(ctx context.Context, visibility time.Duration) (reaped int, err error) {
	const stale = ` FROM jobs INDEXED BY jobs_running WHERE status='RUNNING' AND coalesce(heartbeat_at, 0) NOT BETWEEN ? AND ?`
	if s.opts.ReadOnly {
		return 0, wrap("reap", errReadOnly)
	}
	now := time.Now()
	before := seconds(now.Add(-visibility))
	ahead := func(now time.Time) float64 { return seconds(now.Add(visibility)) } // before the clock was set back
	if first, err := s.readValue(ctx, "reap", `SELECT 1`+stale+` LIMIT 1`, before, ahead(now)); err != nil || first == nil {
		return 0, cmp.Or(err, s.pruneOld(ctx, now))
	}
	err = s.do(ctx, "reap", func() {
		s.w.look = true
		reaped = s.w.exec(cancelRow+` WHERE rowid IN (SELECT rowid`+stale+` AND cancel<>0)`, ErrCanceled.Error(), seconds(s.w.now), before, ahead(s.w.now))
		// At most a thousand periods, so that nobody waits for ever; random() is any int64. In whole microseconds, as
		// all times are: the clock of the claims has no others.
		reaped += s.w.exec(`UPDATE jobs SET status='PENDING', error='lease expired', reaped=reaped+1, future=reaped>0, run_at=CASE reaped
			WHEN 0 THEN 0 ELSE (? + abs(random() % (min(max(attempts, 1), 1000) * ? + 1))) / 1e6 END
			WHERE rowid IN (SELECT rowid`+stale+`)`, s.w.now.UnixMicro(), max(visibility.Microseconds(), 0), before, ahead(s.w.now))
	})
	if err != nil {
		return 0, err
	}
	return reaped, s.pruneOld(ctx, now)
}

const (
	// A claim sets the other columns, or a job that waits has nothing in them; the driver takes its time for each.
	claimColumns  = `id, func_name, args, kwargs, attempts, claim, created_at, error, queue, priority, run_at, key, cancel`
	jobColumns    = claimColumns + `, status, heartbeat_at, finished_at, result, worker`
	letterColumns = `id, func_name, args, kwargs, attempts, 0, NULL, error, queue, priority, 0, key, 0, 'FAILED', NULL, failed_at, NULL, ''`
)

// ---- Rows and values ----

// jobOf reads a rowid and jobColumns or claimColumns; refused says why no worker should have the job.
func jobOf(v []any) (rowid int64, job *Job, refused error) {
	rowid, v = integer(v[0]), v[1:]
	job = &Job{ID: text(v[0]), Task: text(v[1]), Attempts: int(integer(v[4])), Claim: integer(v[5]), CreatedAt: fromSeconds(v[6]),
		Error: text(v[7]), Queue: text(v[8]), Priority: int(integer(v[9])), RunAt: fromSeconds(v[10]), Key: text(v[11]),
		Canceled: integer(v[12]) != 0}
	if len(v) > 13 {
		job.Status, job.HeartbeatAt, job.FinishedAt, job.Worker = Status(text(v[13])), fromSeconds(v[14]), fromSeconds(v[15]), text(v[17])
		if result := text(v[16]); result != "" && json.Valid([]byte(result)) {
			job.Result = json.RawMessage(result)
		}
	}
	if refused = job.DecodeArgs(text(v[2]), text(v[3])); refused != nil {
		shown, _ := encode(strings.ToValidUTF8(text(v[2])+" "+text(v[3]), "\uFFFD"))
		job.Args, job.Kwargs = []any{json.RawMessage(shown)}, nil
	}
	_, isText := v[0].(string)
	attempts, counted := v[4].(int64)
	claim, numbered := v[5].(int64)
	if !isText || !counted || !numbered || attempts < 0 || attempts > math.MaxInt32 || claim < 0 || claim > math.MaxInt64/2 {
		refused = fmt.Errorf("pinion: a stored job with id %v, attempts %v and claim %v", v[0], v[4], v[5])
	}
	return rowid, job, refused
}

func text(v any) string {
	if b, ok := v.([]byte); ok {
		return string(b)
	}
	if s, ok := v.(string); ok || v == nil {
		return s
	}
	return fmt.Sprint(v)
}

func integer(v any) int64 {
	if f, ok := v.(float64); ok {
		return int64(min(max(f, math.MinInt64/2), math.MaxInt64/2))
	}
	n, _ := v.(int64)
	return n
}

// seconds is a time as the file has it: Unix seconds, in which microseconds are exact. The zero time is 0.
func seconds(t time.Time) float64 {
	if t.IsZero() {
		return 0
	}
	return float64(t.UnixMicro()) / 1e6
}

// fromSeconds is the reverse for any stored value; what is no year of four digits becomes the nearest that is.
func fromSeconds(v any) time.Time {
	f, ok := v.(float64)
	if n, isInt := v.(int64); isInt {
		f, ok = float64(n), true
	}
	if !ok || f == 0 {
		return time.Time{}
	}
	return time.UnixMicro(int64(math.Round(min(max(f, -62135596800), 253402300799) * 1e6))).UTC()
}

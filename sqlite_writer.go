package pinion

import (
	"cmp"
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"io"
	"iter"
	"math/rand/v2"
	"runtime"
	"runtime/debug"
	"slices"
	"sync/atomic"
	"time"
)

// session runs statements and keeps the first error, after which the rest do nothing (as bufio.Writer does), so
// that a verb reads as its statements.
type session struct {
	query  func(query string, args []any, yield func([]any) bool) error
	change func(query string, args []any) (sql.Result, error)
	err    error

	orFail  string                // what statements of several rows say between their first words: see undone
	inserts map[insertKind]string // their texts, as they are needed
}

// undone has a statement that fails leave nothing behind, which is for transactions that go on after an error, as a user's
// may, and for files with triggers, whose own OR clauses an outer one would override. All else rolls the transaction
// back in any case, and spares SQLite the copies of all pages that the statement changes: up to a quarter of its time.
const undone = ""

func (q *session) fail(err error) { q.err = cmp.Or(q.err, err) }

// exec runs a statement and returns how many rows it changed.
func (q *session) exec(query string, args ...any) int {
	if q.err != nil {
		return 0
	}
	res, err := q.change(query, args)
	if err != nil {
		q.err = err
		return 0
	}
	n, _ := res.RowsAffected()
	return int(n)
}

// rows ranges over the rows of a query; the slice is reused. Any value is taken in any column: in SQLite, in a file
// that others write too, types are a habit, and a row that could not be read would stand in the way of all behind.
func (q *session) rows(query string, args ...any) iter.Seq[[]any] {
	return func(yield func([]any) bool) {
		if q.err == nil {
			q.fail(q.query(query, args, yield))
		}
	}
}

// queries makes the query of a session of a database or a transaction of database/sql.
func queries(ctx context.Context, db interface {
	QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error)
}) func(query string, args []any, yield func([]any) bool) error {
	return func(query string, args []any, yield func([]any) bool) error {
		rows, err := db.QueryContext(ctx, query, args...)
		if err != nil {
			return err
		}
		columns, err := rows.Columns()
		v, targets := make([]any, len(columns)), make([]any, len(columns))
		for i := range v {
			targets[i] = &v[i]
		}
		for err == nil && rows.Next() {
			if err = rows.Scan(targets...); err == nil && !yield(v) {
				break
			}
		}
		return cmp.Or(err, rows.Err(), rows.Close())
	}
}

// value returns the first value of a query's first row, or nil.
func (q *session) value(query string, args ...any) any {
	for v := range q.rows(query, args...) {
		return v[0]
	}
	return nil
}

var (
	errReadOnly = errors.New("the file is open read-only")
	errLocked   = errors.New("another program holds the file's write lock (a transaction left open in a sqlite3 shell, say)")
	errGone     = errors.New("gone") // the writer's answer to a call that nobody wants any more
)

// call is one verb on its way through the writer, which always answers, once.
type call struct {
	verb     func()      // runs inside the transaction; an error rolls that back, and the verbs beside it run again
	producer bool        // it is an Enqueue: see alone
	row      *newRow     // of an Enqueue of one job that cannot be a duplicate: see insertTogether
	gone     atomic.Bool // the caller's ctx has ended: no longer wanted, if it has not yet been run
	answer   chan error  // capacity 1

	// Of a claim, which has no verb and waits until something is due:
	worker     string
	queues     []string
	slots, max int
	once       bool // answer even if nothing is due
	full       bool // the next job must wait for a free slot
	jobs       []*Job
}

// do has verb run in a transaction. Its error is that of the COMMIT, unless ctx ends before verb has begun.
func (s *SQLiteStorage) do(ctx context.Context, name string, verb func()) error {
	return s.doCall(ctx, name, &call{verb: verb})
}

func (s *SQLiteStorage) doCall(ctx context.Context, name string, c *call) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	return wrap(name, s.submit(ctx, c))
}

func (s *SQLiteStorage) submit(ctx context.Context, c *call) error {
	if s.opts.ReadOnly {
		return errReadOnly
	}
	c.answer = make(chan error, 1)
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return ErrClosed
	}
	s.queue = append(s.queue, c)
	s.mu.Unlock()
	if !c.producer || !s.alone() {
		s.wakeWriter()
	}
	select {
	case err := <-c.answer:
		return err
	case <-ctx.Done():
	}
	c.gone.Store(true)
	s.wakeWriter()
	switch err := <-c.answer; {
	case err == errGone, err == errLocked && c.verb == nil:
		return ctx.Err()
	case err == errLocked:
		return fmt.Errorf("%w: %w", err, ctx.Err())
	default:
		return err
	}
}

// alone makes the transaction in the caller's own goroutine, if nobody else seems to want one and the lock is free: to
// wake the writer and to be woken by it is a quarter of a small transaction's time. That is for producers only. A
// worker's verbs gain more by waiting for what shares their transaction, and so does all that comes while claims wait.
// Calls that have come meanwhile are in the transaction, too; whose call comes after it finds the turn free, or has woken
// the writer.
func (s *SQLiteStorage) alone() bool {
	if !s.turn.TryLock() {
		return false
	}
	defer s.turn.Unlock()
	w := &s.w
	if w.expect > 1 || len(w.waiting) > 0 {
		return false
	}
	if !w.begin() {
		w.err = nil // the writer tries again
		return false
	}
	s.transact()
	return true
}

func (s *SQLiteStorage) wakeWriter() {
	select {
	case s.kick <- struct{}{}:
	default:
	}
}

// writer is the state of the connection that writes, for whoever has the turn.
type writer struct {
	session
	// The driver's own connection: database/sql would put locks, a pool and copies of all values around what one
	// goroutine has for itself, which is a tenth of the time of a small transaction.
	conn  driver.Conn
	stmts map[string]statement // by their text
	args  []driver.NamedValue  // of the statement that is being run

	waiting []*call // claims for which nothing was due
	watched bool    // a watch has been asked for
	watch   *watch  // tells when another process writes; nil: poll
	version int64   // PRAGMA data_version when last looked at
	nextDue time.Time
	checked time.Time // when the -wal and -shm were last looked for

	// Of the transaction under way:
	now     time.Time
	look    bool  // something may have become due for those who wait
	asked   bool  // a claim has come that has not been served
	sighted bool  // there is what is there, unless look says otherwise
	there   sight // by the last glance
	expect  int   // how many verbs the last transaction had
	yields  int   // for more verbs
	busy    int   // transactions to come that are not to yield
}

// statement is one of the driver's, prepared once, as preparing costs more than running.
type statement interface {
	driver.Stmt
	driver.StmtExecContext
	driver.StmtQueryContext
}

// kept returns a statement and its arguments as the driver takes them. No ctx is passed on to it: inside a transaction
// it no longer matters, and one that can be cancelled would cost a goroutine a statement.
func (w *writer) kept(query string, args []any) (statement, []driver.NamedValue, error) {
	stmt, ok := w.stmts[query]
	if !ok {
		prepared, err := w.conn.Prepare(query)
		if err != nil {
			return nil, nil, err
		}
		stmt = prepared.(statement)
		w.stmts[query] = stmt
	}
	w.args = w.args[:0]
	for i, v := range args {
		if n, ok := v.(int); ok {
			v = int64(n) // the driver knows no other integers
		}
		w.args = append(w.args, driver.NamedValue{Ordinal: i + 1, Value: v})
	}
	return stmt, w.args, nil
}

func (w *writer) changeKept(query string, args []any) (sql.Result, error) {
	stmt, values, err := w.kept(query, args)
	if err != nil {
		return nil, err
	}
	return stmt.ExecContext(context.Background(), values)
}

func (w *writer) queryKept(query string, args []any, yield func([]any) bool) (err error) {
	stmt, values, err := w.kept(query, args)
	if err != nil {
		return err
	}
	rows, err := stmt.QueryContext(context.Background(), values)
	if err != nil {
		return err
	}
	defer func() { err = cmp.Or(err, rows.Close()) }()
	read := make([]driver.Value, len(rows.Columns()))
	row := make([]any, len(read))
	for {
		if err = rows.Next(read); err == io.EOF {
			return nil
		} else if err != nil {
			return err
		}
		for i, v := range read {
			row[i] = v
		}
		if !yield(row) {
			return nil
		}
	}
}

// write is the writer's goroutine, which makes the transactions that callers do not make alone, until Close.
func (s *SQLiteStorage) write() {
	defer close(s.stopped)
	s.turn.Lock() // for good: who comes later finds no connection
	for s.await() {
		switch err := s.begin(); err {
		case nil:
			s.transact()
			runtime.Gosched() // who was answered goes on, before it is seen what to wait for next: 7 % of a round trip
		case errGone:
		default:
			s.answer(s.take(), err)
		}
	}
	s.answer(s.take(), ErrClosed)
}

// await returns when there is reason for a transaction: verbs are queued, or a claim waits and a job may be due for
// it. It returns false when the storage is closed.
func (s *SQLiteStorage) await() bool {
	w := &s.w
	for {
		queued, closed := s.drop(errGone, nil)
		if closed || queued || w.look && len(w.waiting) > 0 {
			return !closed
		}
		if len(w.waiting) == 0 {
			s.turn.Unlock()
			<-s.kick
			s.turn.Lock()
			continue
		}
		pause, due := s.untilLook()
		timer, wake := time.NewTimer(pause), w.watch.wake()
		s.turn.Unlock()
		select {
		case <-s.kick:
			s.turn.Lock()
		case <-wake:
			s.turn.Lock()
			// A look at once would come too early: the last event of a commit precedes its end. Taking the write
			// lock waits for that end.
			w.look = true
		case <-timer.C:
			s.turn.Lock()
			version := integer(w.value("PRAGMA data_version"))
			w.look = due || w.err != nil || version != w.version || s.checkReplaced() != nil
			w.version = version
		}
		timer.Stop()
	}
}

// untilLook is how long a waiting claim may go without a look at the file; due says that a job becomes due then,
// otherwise it is the time for asking whether another process has written.
func (s *SQLiteStorage) untilLook() (pause time.Duration, due bool) {
	w := &s.w
	if !w.watched && s.opts.PollInterval == 0 {
		w.watched, w.watch = true, watchFile(s.path+"-wal")
		return 0, true // what was written before the watch began
	}
	if pause = cmp.Or(s.opts.PollInterval, defaultPoll); w.watch != nil {
		pause = backstopPoll
	}
	if until := time.Until(w.nextDue); !w.nextDue.IsZero() && until <= pause {
		return until, true
	}
	return pause, false
}

// drop answers the calls whose callers no longer wait, and claims, too, if there is trouble to tell them of. It tells
// what is left.
func (s *SQLiteStorage) drop(why, trouble error) (queued, closed bool) {
	gone := func(c *call) bool {
		if c.gone.Load() {
			c.answer <- why
			return true
		}
		if trouble != nil && c.verb == nil {
			c.answer <- trouble
			return true
		}
		return false
	}
	s.w.waiting = slices.DeleteFunc(s.w.waiting, gone)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.queue = slices.DeleteFunc(s.queue, gone)
	return len(s.queue) > 0, s.closed
}

// take takes the queued calls into the transaction.
func (s *SQLiteStorage) take() []*call {
	s.mu.Lock()
	defer s.mu.Unlock()
	calls := s.queue
	s.queue = nil
	return calls
}

// transact runs everything that is queued in the transaction that has begun and answers. A verb that fails takes the
// transaction with it: it gets its error, and its neighbours run again without it.
func (s *SQLiteStorage) transact() {
	w := &s.w
	w.now, w.sighted, w.yields = time.Now(), false, 0
	var ran, together []*call
	for more := true; more; more = len(ran) < w.expect && w.yield() {
		calls := s.take()
		for i, c := range calls {
			if c.row != nil {
				ran, together = append(ran, c), append(together, c)
				continue
			}
			if c.verb == nil || c.producer { // which is to find, or to follow, what came before it
				if w.insertTogether(together); w.err != nil {
					s.again(ran, calls[i:])
					return
				}
				together = nil
			}
			if c.verb == nil {
				w.waiting, w.asked = append(w.waiting, c), true
				continue
			}
			if w.run(c.verb); w.err != nil {
				err := w.err
				s.again(ran, calls[i+1:])
				c.answer <- err
				return
			}
			ran = append(ran, c)
		}
	}
	w.expect = len(ran)
	if w.insertTogether(together); w.err != nil {
		s.again(ran, nil)
		return
	}
	w.serve()
	w.fail(s.checkReplacedAt(w.now))
	w.exec("COMMIT")
	err := w.err
	if err != nil {
		w.rollback()
	}
	s.answer(ran, err)
}

// again rolls back and leaves calls to the next transaction.
func (s *SQLiteStorage) again(ran, rest []*call) {
	s.w.rollback()
	s.mu.Lock()
	s.queue = slices.Concat(ran, rest, s.queue)
	s.mu.Unlock()
	s.wakeWriter() // whoever has made this transaction, it is the writer's now
}

// yield lets more verbs arrive before the COMMIT, up to as many as came last time: callers who were answered
// together come back together, and a COMMIT costs more than all of their statements. Where other goroutines are busy
// a yield takes long, and the lock is not for keeping that long: then there are none for a while.
func (w *writer) yield() bool {
	if w.busy > 0 || w.yields == 64 {
		w.busy = max(w.busy-1, 0)
		return false
	}
	w.yields++
	start := time.Now()
	if runtime.Gosched(); time.Since(start) > time.Millisecond {
		w.busy = 100
	}
	return true
}

// run calls a verb. If that panics (over a nil *Job, say) its caller gets an error, and the writer lives.
func (w *writer) run(verb func()) {
	defer func() {
		if v := recover(); v != nil {
			w.fail(&PanicError{v, debug.Stack()})
		}
	}()
	verb()
}

func (w *writer) begin() bool {
	w.err = nil
	w.exec("BEGIN IMMEDIATE")
	return w.err == nil
}

// begin takes the write lock, however long others hold it, while anybody wants it.
func (s *SQLiteStorage) begin() error {
	var trouble error
	for began, try := time.Now(), 0; ; try++ {
		if s.w.begin() || !isCode(s.w.err, codeBusy) {
			return s.w.err
		}
		s.pause(try, time.Since(began))
		if time.Since(began) > lockPatience {
			trouble = errLocked
		}
		if queued, closed := s.drop(errLocked, trouble); closed {
			return ErrClosed
		} else if !queued && len(s.w.waiting) == 0 {
			return errGone
		}
	}
}

// pause comes between two tries for the lock: SQLite gives no event to wait for. Short ones at first, because most
// commits are short; then longer ones, which cost less. Whoever has waited long is as quick as a newcomer again, or
// it might never come first, until it is clear that no commit is what it waits for.
func (s *SQLiteStorage) pause(try int, waited time.Duration) {
	if quick := try < lockNaps || lockLong < waited && waited < lockPatience; quick && s.opts.PollInterval == 0 {
		nap(rand.N(lockNap))
		return
	}
	time.Sleep(lockPause()) // also in a bubble, where a nap would stop the clock
}

// lockPause is short and random, so that processes which fight for the lock get even shares.
func lockPause() time.Duration { return lockRetry/16 + rand.N(lockRetry*15/16) }

// heedTriggers is for after each rollback, too, as a trigger may have come and be its reason.
func (w *writer) heedTriggers() {
	found := w.value(`SELECT 1 FROM sqlite_schema WHERE type='trigger' AND tbl_name='jobs' COLLATE NOCASE`) != nil
	if clear(w.inserts); found || w.err != nil {
		w.orFail = undone
	} else {
		w.orFail = "OR FAIL "
	}
}

// rollback leaves those who wait as they were before.
func (w *writer) rollback() {
	w.err = nil
	w.exec("ROLLBACK") // an error means that SQLite has done so itself
	w.err = nil
	w.heedTriggers()
	for _, c := range w.waiting {
		c.jobs, c.full = nil, false
	}
	w.look = true
}

// answer tells the calls, and those of the waiting claims that can be told, how the transaction ended.
func (s *SQLiteStorage) answer(calls []*call, err error) {
	for _, c := range calls {
		c.answer <- err
	}
	s.w.waiting = slices.DeleteFunc(s.w.waiting, func(c *call) bool {
		if err == nil && len(c.jobs) == 0 && !c.once {
			return false
		}
		c.answer <- err
		return true
	})
}

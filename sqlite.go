package pinion

import (
	"bytes"
	"cmp"
	"context"
	"database/sql"
	"database/sql/driver"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"math"
	"math/rand/v2"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
	"unicode/utf8"

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
	opened  []os.FileInfo // of the file and, unless read-only, of its -wal and -shm: see moved
	indexed bool          // not a file of Python's that must stay as it is

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
	Releaser
	Prefetcher
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
// table belongs to another program. A file may hold other tables too, for EnqueueTx, but its PRAGMA user_version is
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

func (s *SQLiteStorage) open(ctx context.Context, path string) (err error) {
	s.opts.Synchronous = strings.ToUpper(cmp.Or(s.opts.Synchronous, "FULL"))
	s.opts.Retention = cmp.Or(s.opts.Retention, 24*time.Hour)
	switch {
	case s.opts.Synchronous != "FULL" && s.opts.Synchronous != "NORMAL":
		return fmt.Errorf("the setting Synchronous is %q; it must be FULL or NORMAL", s.opts.Synchronous)
	case s.opts.PollInterval < 0:
		return errors.New("PollInterval is negative; 0 means the default")
	case path == "" || path == ":memory:":
		return errors.New("not a file; memory: is the storage in memory")
	}
	if s.path, err = filepath.Abs(path); err != nil {
		return err
	}
	if err := s.prepareFile(); err != nil {
		return err
	}
	if s.path, err = filepath.EvalSymlinks(s.path); err != nil { // the -wal to be watched is beside the file itself
		return err
	}
	_, err = os.Stat(s.path + "-wal")
	atRest := errors.Is(err, fs.ErrNotExist)
	mode := "rw" // only a connection that may write takes an empty -wal away again
	if s.opts.ReadOnly && !atRest {
		mode = "ro"
	}
	if err = s.openReaders(ctx, mode); s.opts.ReadOnly && atRest && (isCode(err, codeReadOnly) || isCode(err, codeCantOpen)) {
		// In a folder that this user cannot write there is no room for a -wal, so nobody of the kind is writing.
		s.readers.Close()
		err = s.openReaders(ctx, "ro&immutable=1")
	}
	if err != nil || s.opts.ReadOnly {
		return cmp.Or(err, s.remember(""))
	}
	// busy_timeout starves: SQLite's sleeps grow while others take the lock. The retries are ours.
	if s.w.conn, err = s.readers.Driver().Open(s.dsn("mode=rw&_pragma=busy_timeout(0)")); err != nil {
		return err
	}
	s.w.session = session{query: s.w.queryKept, change: s.w.changeKept, inserts: make(map[insertKind]string)}
	s.w.stmts = make(map[string]statement)
	for _, query := range []string{"PRAGMA journal_mode=WAL", "PRAGMA synchronous=" + s.opts.Synchronous, "BEGIN IMMEDIATE"} {
		for s.w.exec(query); isCode(s.w.err, codeBusy); s.w.exec(query) {
			if !pause(ctx, lockPause()) {
				return fmt.Errorf("another process holds its lock: %w", ctx.Err())
			}
			s.w.err = nil
		}
	}
	s.inspectSchema(&s.w.session, true)
	s.w.heedTriggers()
	s.w.exec("COMMIT")
	return cmp.Or(s.w.err, s.remember("", "-wal", "-shm"))
}

// creating keeps the others in this process from a new file until it is closed again: see prepareFile.
var creating sync.Mutex

func (s *SQLiteStorage) openReaders(ctx context.Context, mode string) (err error) {
	if s.readers, err = sql.Open("sqlite", s.dsn("mode="+mode+"&_pragma=busy_timeout(5000)&_pragma=query_only(1)")); err != nil {
		return err
	}
	s.readers.SetMaxOpenConns(4)
	return s.inspectSchema(s.reader(ctx), false)
}

// prepareFile refuses what is no file and creates what is missing. It never opens a file that exists: closing it
// again would drop the locks that SQLite holds on it elsewhere in this process.
func (s *SQLiteStorage) prepareFile() error {
	creating.Lock()
	defer creating.Unlock()
	info, err := os.Stat(s.path)
	if errors.Is(err, fs.ErrNotExist) && !s.opts.ReadOnly {
		f, err := os.OpenFile(s.path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
		if err == nil {
			err = f.Close()
		} else if errors.Is(err, fs.ErrExist) {
			err = nil // another process was faster
		}
		return err
	}
	if err == nil && !info.Mode().IsRegular() {
		err = errors.New("it is a directory or some other thing that is no regular file")
	}
	return err
}

// remember keeps what is open, to tell it from what may get its name later.
func (s *SQLiteStorage) remember(ends ...string) error {
	for _, end := range ends {
		info, err := os.Stat(s.path + end)
		if err != nil {
			return err
		}
		s.opened = append(s.opened, info)
	}
	return nil
}

// moved tells whether the first n of the files that are open still have their names. If not, what is stored in them is
// lost to everybody else. It opens nothing: closing would drop SQLite's locks. The path is not opened anew either,
// because the -wal of one file beside another makes SQLite damage that.
func (s *SQLiteStorage) moved(n int) error {
	if runtime.GOOS == "windows" {
		return nil // there an open file can be neither deleted nor replaced
	}
	for i, was := range s.opened[:min(n, len(s.opened))] {
		name := s.path + [...]string{"", "-wal", "-shm"}[i]
		if now, err := os.Stat(name); errors.Is(err, fs.ErrNotExist) || err == nil && !os.SameFile(was, now) {
			return fmt.Errorf("the file %s was deleted or replaced while it was in use: put it back, or stop every program that uses "+
				"the queue, remove the -wal and -shm files that are left beside it, and start again", name)
		}
	}
	return nil
}

// movedLately is moved for each transaction: a microsecond for all three files is too much for that.
func (s *SQLiteStorage) movedLately() error {
	if s.w.now.Sub(s.w.checked) < moveCheck {
		return s.moved(1)
	}
	err := s.moved(3)
	if err == nil {
		s.w.checked = s.w.now
	}
	return err
}

func (s *SQLiteStorage) dsn(settings string) string {
	return "file:" + (&url.URL{Path: s.path}).EscapedPath() + "?" + settings
}

func (s *SQLiteStorage) disconnect() (err error) {
	s.w.watch.close()
	for _, stmt := range s.w.stmts {
		stmt.Close() // or SQLite keeps the connection, and so the -wal file
	}
	if s.readers != nil {
		err = s.readers.Close()
	}
	if s.w.conn != nil {
		err = errors.Join(err, s.w.conn.Close())
	}
	return err
}

// lockPause is short and random, so that processes which fight for the lock get even shares.
func lockPause() time.Duration { return lockRetry/16 + rand.N(lockRetry*15/16) }

const schemaVersion = 2 // 1: without worker and cancel

// Python's two tables. Every later column must have a default that means "an ordinary job, due now", because
// Python inserts rows without it.
const (
	pythonJobs = `CREATE TABLE IF NOT EXISTS jobs (id TEXT PRIMARY KEY, func_name TEXT NOT NULL, args TEXT NOT NULL, kwargs TEXT NOT NULL,
		status TEXT NOT NULL, attempts INTEGER NOT NULL, created_at REAL NOT NULL, error TEXT, heartbeat_at REAL)`
	pythonDLQ = `CREATE TABLE IF NOT EXISTS dlq (id TEXT PRIMARY KEY, func_name TEXT NOT NULL, args TEXT NOT NULL, kwargs TEXT NOT NULL,
		attempts INTEGER NOT NULL, error TEXT NOT NULL, failed_at REAL NOT NULL)`
)

type column struct{ name, kind, zero string }

var (
	addedJobs = []column{
		{"heartbeat_at", "REAL", "NULL"}, // lacking in files of Python's 0.1
		{"queue", "TEXT NOT NULL", "'default'"}, {"priority", "INTEGER NOT NULL", "0"}, {"key", "TEXT", "NULL"},
		{"run_at", "REAL NOT NULL", "0"},
		{"future", "INTEGER NOT NULL", "0"}, // 1: not ready before run_at; an index cannot look at the clock
		{"claim", "INTEGER NOT NULL", "0"},
		{"reaped", "INTEGER NOT NULL", "0"}, // how often
		{"finished_at", "REAL", "NULL"}, {"result", "TEXT", "NULL"},
		{"worker", "TEXT NOT NULL", "''"}, {"cancel", "INTEGER NOT NULL", "0"}, // 1: canceled
	}
	addedDLQ = []column{{"queue", "TEXT NOT NULL", "'default'"}, {"priority", "INTEGER NOT NULL", "0"}, {"key", "TEXT", "NULL"}}
	indexes  = []string{
		// The order of claims is that of this index; its last column is the rowid, the order of insertion.
		`CREATE INDEX IF NOT EXISTS jobs_ready ON jobs(queue, priority DESC) WHERE status='PENDING' AND future=0`,
		`CREATE INDEX IF NOT EXISTS jobs_future ON jobs(run_at) WHERE status='PENDING' AND future=1`,
		// By claim, which grows, and not by heartbeat_at, which every heartbeat would move.
		`CREATE INDEX IF NOT EXISTS jobs_running ON jobs(claim) WHERE status='RUNNING'`,
		`CREATE UNIQUE INDEX IF NOT EXISTS jobs_key ON jobs(key) WHERE key IS NOT NULL AND status IN ('PENDING','RUNNING')`,
		`CREATE INDEX IF NOT EXISTS jobs_finished ON jobs(status, ` + finished + `) WHERE status IN ('SUCCESS','FAILED')`,
	}
)

// inspectSchema refuses files that are not ours and, if it may, brings others to schemaVersion, inside the caller's
// transaction; later versions append their steps. It finds what listings select from: the tables, with the columns
// that one of Python's files lacks, where that must stay as it is.
func (s *SQLiteStorage) inspectSchema(q *session, migrate bool) error {
	version := integer(q.value("PRAGMA user_version"))
	s.indexed = migrate || version > 0
	for _, t := range []struct {
		name, create string
		added        []column
		from         *string
	}{{"jobs", pythonJobs, addedJobs, &s.jobs}, {"dlq", pythonDLQ, addedDLQ, &s.letters}} {
		if migrate && version < schemaVersion {
			q.exec(t.create)
		}
		has := make(map[string]bool)
		for v := range q.rows(`SELECT name FROM pragma_table_info(?)`, t.name) {
			has[text(v[0])] = true
		}
		for _, c := range []string{"id", "func_name", "args", "kwargs", "attempts", "error"} {
			if !has[c] && (len(has) > 0 || migrate || s.opts.ReadOnly) {
				if len(has) == 0 {
					q.fail(fmt.Errorf("it holds no queue: there is no table %q", t.name))
				}
				q.fail(fmt.Errorf("its table %q belongs to another program: it has no column %q", t.name, c))
			}
		}
		selected := "rowid AS seq, *"
		for _, c := range t.added {
			if !has[c.name] && migrate {
				q.exec("ALTER TABLE " + t.name + " ADD COLUMN " + c.name + " " + c.kind + " DEFAULT " + c.zero)
			} else if !has[c.name] {
				selected += ", " + c.zero + " AS " + c.name
			}
		}
		*t.from = " FROM (SELECT " + selected + " FROM " + t.name + ") "
	}
	if version > schemaVersion { // after the tables: other programs count their versions, too
		q.fail(fmt.Errorf("its schema (PRAGMA user_version) is version %d, from a newer Pinion or of another program; "+
			"this one knows %d: update this program, or give the queue a file of its own", version, schemaVersion))
	}
	if migrate && version < schemaVersion {
		for _, index := range indexes {
			q.exec(index)
		}
		q.exec(fmt.Sprintf("PRAGMA user_version=%d", schemaVersion))
	}
	return q.err
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

// ---- The writer ----

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

var (
	errReadOnly = errors.New("the file is open read-only")
	errLocked   = errors.New("another program holds the file's write lock (a transaction left open in a sqlite3 shell, say)")
	errGone     = errors.New("gone") // the writer's answer to a call that nobody wants any more
)

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
			w.look = due || w.err != nil || version != w.version || s.moved(3) != nil
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
	w.fail(s.movedLately())
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

// EnqueueTx stores the jobs inside a transaction of the user's: they come to be when tx commits, which wakes
// workers by itself, and never were if it does not. All are stored or none. tx must be one of modernc.org/sqlite
// on the same file; another file is an error. Errors are those of Enqueue and of tx, whose database waits for other
// writers, workers among them, if it is opened with "?_pragma=busy_timeout(5000)&_txlock=immediate". While tx is
// open, the storage's own verbs that write wait for it: do not call Enqueue before its end.
func (s *SQLiteStorage) EnqueueTx(ctx context.Context, tx *sql.Tx, jobs ...*Job) error {
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
	q.fail(s.moved(3))
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
func (s *SQLiteStorage) Dequeue(ctx context.Context, max int, queues ...string) ([]*Job, error) {
	return s.Prefetch(ctx, max, max, queues...)
}

// Prefetch claims jobs ahead of free slots; see [Prefetcher].
func (s *SQLiteStorage) Prefetch(ctx context.Context, slots, max int, queues ...string) ([]*Job, error) {
	if max < 1 || slots < 0 {
		return nil, fmt.Errorf("pinion: dequeue: %d jobs; at least 1 must be asked for", max)
	}
	names := slices.Clone(queues)
	for i, name := range names {
		names[i] = cmp.Or(name, defaultQueue)
	}
	slices.Sort(names)
	c := &call{worker: WorkerName(ctx), queues: slices.Compact(names), slots: slots, max: max}
	ended := ctx.Err()
	if c.once = ended != nil || slots == 0; ended != nil {
		// Whoever asks for what is due at once gets it, but does not wait long for a lock.
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer cancel()
	}
	switch err := s.submit(ctx, c); {
	case err == nil && len(c.jobs) > 0:
		return c.jobs, nil
	case err == nil || err == ctx.Err():
		return nil, cmp.Or(ended, err)
	default:
		return nil, wrap("dequeue", err)
	}
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
	attempts, text := AttemptsOf(job, cause), ErrorText(cause) // not in the transaction: it is somebody else's code
	return ofOne(s.letGo(ctx, "dead-letter", []*Job{job}, `UPDATE jobs SET status='FAILED', error=?, finished_at=?, attempts=?`,
		toDLQ+`id=?`, func(*Job) []any { return []any{text, seconds(s.w.now), attempts} }))
}

// Heartbeat prolongs claims; see [Storage].
func (s *SQLiteStorage) Heartbeat(ctx context.Context, jobs ...*Job) (lost []*Job, err error) {
	return s.claimed(ctx, "heartbeat", jobs, `heartbeat_at=?`, func(*Job) []any { return []any{seconds(s.w.now)} })
}

// Release gives claims back; see [Releaser].
func (s *SQLiteStorage) Release(ctx context.Context, jobs ...*Job) error {
	_, _, err := s.letGo(ctx, "release", jobs, `UPDATE jobs SET status='PENDING', attempts=attempts-1`, "", func(*Job) []any {
		s.w.look = true
		return nil
	})
	return err
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
	if first, err := s.look(ctx, "reap", `SELECT 1`+stale+` LIMIT 1`, before, ahead(now)); err != nil || first == nil {
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

// ---- What people look at, and tend by hand ----

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
			stats.Add(text(v[1]), text(v[0]), Status(text(v[2])), int(integer(v[3])), fromSeconds(v[4]), int(integer(v[5])), int(integer(v[6])))
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

const (
	// A claim sets the other columns, or a job that waits has nothing in them; the driver takes its time for each.
	claimColumns  = `id, func_name, args, kwargs, attempts, claim, created_at, error, queue, priority, run_at, key, cancel`
	jobColumns    = claimColumns + `, status, heartbeat_at, finished_at, result, worker`
	letterColumns = `id, func_name, args, kwargs, attempts, 0, NULL, error, queue, priority, 0, key, 0, 'FAILED', NULL, failed_at, NULL, ''`
)

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

// Primary result codes of SQLite, https://www.sqlite.org/rescode.html.
const (
	codeBusy       = 5
	codeReadOnly   = 8
	codeIOErr      = 10
	codeCorrupt    = 11
	codeFull       = 13
	codeCantOpen   = 14
	codeConstraint = 19
	codeNotADB     = 26
)

func isCode(err error, code int) bool {
	e, ok := errors.AsType[*sqlite.Error](err)
	return ok && e.Code()&0xff == code
}

// wrap names the verb that failed, unless the error is one of ours, which says enough.
func wrap(name string, err error) error {
	if err == nil || strings.HasPrefix(err.Error(), "pinion: ") {
		return err
	}
	return fmt.Errorf("pinion: %s: %w", name, explain(err))
}

// explain puts into a user's words what SQLite says in its own.
func explain(err error) error {
	switch {
	case isCode(err, codeNotADB):
		return fmt.Errorf("it is not a SQLite database: %w", err)
	case isCode(err, codeReadOnly):
		return fmt.Errorf("the file or its folder is read-only for this user: %w", err)
	case isCode(err, codeCantOpen):
		return fmt.Errorf("the file cannot be opened; it is missing, its folder cannot be written, or this user may not use it: %w", err)
	case isCode(err, codeFull):
		return fmt.Errorf("the disk is full; nothing can be stored until there is room: %w", err)
	case isCode(err, codeIOErr):
		return fmt.Errorf("the disk is full, or this user's share of it, or it fails; look for room and into the system's log: %w", err)
	case isCode(err, codeCorrupt):
		return fmt.Errorf("the file is damaged; stop every program that uses it and restore a backup, or save what can be read "+
			"with the .recover command of the sqlite3 shell: %w", err)
	}
	return err
}

package pinion

import (
	"cmp"
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/pinion-queue/pinion/internal/rules"
	"modernc.org/sqlite"
)

// ---- Opening ----

// open opens the file at path and its connections. After an error the caller calls disconnect.
func (s *SQLiteStorage) open(ctx context.Context, path string) error {
	if err := s.opts.complete(); err != nil {
		return err
	}
	if err := s.findFile(path); err != nil {
		return err
	}
	if s.opts.ReadOnly {
		if err := s.openReadOnly(ctx); err != nil {
			return err
		}
		return s.rememberFiles("")
	}
	if err := s.openReaders("rw"); err != nil {
		return err
	}
	if err := s.openWriter(ctx); err != nil {
		return err
	}
	return s.rememberFiles("", "-wal", "-shm")
}

// complete sets the defaults and refuses settings that cannot be meant.
func (o *SQLiteOptions) complete() error {
	o.Synchronous = strings.ToUpper(cmp.Or(o.Synchronous, "FULL"))
	if o.Synchronous != "FULL" && o.Synchronous != "NORMAL" {
		return fmt.Errorf("option Synchronous is %q; want FULL or NORMAL", o.Synchronous)
	}
	if o.PollInterval < 0 {
		return fmt.Errorf("option PollInterval is %v; want 0 (the default) or more", o.PollInterval)
	}
	o.Retention = cmp.Or(o.Retention, rules.DefaultRetention)
	return nil
}

// findFile sets s.path to the absolute path of the file itself, and creates the file if it is missing. A
// symbolic link is followed here, once, because SQLite keeps the -wal beside the file and not beside the
// link.
func (s *SQLiteStorage) findFile(path string) error {
	switch path {
	case "":
		return errors.New("the path is empty; want that of a file")
	case ":memory:":
		return errors.New("it is not a file; use memory: for the storage in memory")
	}
	if rules.IsDirectoryName(path) {
		return errors.New("its name is that of a directory; want a file")
	}
	path, err := filepath.Abs(path)
	if err != nil {
		return err
	}
	if err := checkNotBeside(path); err != nil {
		return err
	}
	if err := checkOrCreate(path, s.opts.ReadOnly); err != nil {
		return err
	}
	s.path, err = filepath.EvalSymlinks(path)
	return err
}

// checkNotBeside refuses the files that SQLite keeps beside another. An empty -wal would become a database of its own.
func checkNotBeside(path string) error {
	for _, suffix := range besideFiles {
		file, isBeside := strings.CutSuffix(path, suffix)
		if !isBeside {
			continue
		}
		if _, err := os.Stat(file); err == nil {
			return fmt.Errorf("it is a part of %s; want that file", file)
		}
	}
	return nil
}

// besideFiles are the suffixes of the files that SQLite keeps beside a database.
var besideFiles = []string{"-wal", "-shm", "-journal"}

// creating is held while a file is created. A second OpenSQLite in this process must not lock the new file
// before the first has closed it: see checkOrCreate.
var creating sync.Mutex

// checkOrCreate refuses a path that is not a regular file, and creates a missing file with mode 0600. It
// never opens a file that exists: POSIX drops all of a process's locks on a file when the process closes
// any descriptor of it, and with them the locks that SQLite holds on it elsewhere in this process.
func checkOrCreate(path string, readOnly bool) error {
	creating.Lock()
	defer creating.Unlock()
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) && !readOnly {
		// The name may fit where that of the file's -journal is too long.
		_, err := os.Stat(path + "-journal")
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		return createFile(path)
	}
	if err != nil {
		return err
	}
	if info.IsDir() {
		return errors.New("it is a directory; want a file")
	}
	if !info.Mode().IsRegular() {
		return errors.New("it is not a regular file; want one")
	}
	n := hardLinks(info)
	if n > 1 && readOnly {
		return checkHasWAL(path, n)
	}
	if n > 1 {
		return fmt.Errorf("it has %d names (hard links); want one: each name would have a -wal of its own, and "+
			"jobs would be lost. Remove the other names, or make symbolic links of them", n)
	}
	return nil
}

// checkHasWAL refuses to read a file with several names under one that has no -wal: programs may write under another
// name, and what is in its -wal would be missing here.
func checkHasWAL(path string, names int) error {
	path, err := filepath.EvalSymlinks(path)
	if err != nil {
		return err
	}
	_, err = os.Stat(path + "-wal")
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("it has %d names (hard links), and under this one there is no -wal, so what other programs have "+
			"written last may be missing; want the name that they use, or a copy of the file", names)
	}
	return err
}

// createFile creates an empty file, unless another process was faster.
func createFile(path string) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if errors.Is(err, fs.ErrExist) {
		return nil
	}
	if err != nil {
		return err
	}
	return f.Close()
}

// openReadOnly opens the readers of a storage that never writes.
func (s *SQLiteStorage) openReadOnly(ctx context.Context) error {
	wal, err := os.Stat(s.path + "-wal")
	mode := "ro"
	if errors.Is(err, fs.ErrNotExist) {
		// SQLite makes an empty -wal to read a file in WAL mode, and only a connection that may write
		// removes it again.
		mode = "rw"
	}
	atRest := mode == "rw" || err == nil && wal.Size() == 0
	err = s.openAndInspect(ctx, mode)
	denied := isCode(err, codeReadOnly) || isCode(err, codeCantOpen)
	if !denied || !atRest {
		return err
	}
	// The user may not make files in this folder, or may not use the -wal, and there is nothing in it. So
	// SQLite can read the file without locks.
	s.readers.Close()
	s.leases.Close()
	return s.openAndInspect(ctx, "ro&immutable=1")
}

// openAndInspect opens the readers, and refuses a file that is not ours.
func (s *SQLiteStorage) openAndInspect(ctx context.Context, mode string) error {
	if err := s.openReaders(mode); err != nil {
		return err
	}
	_, err := s.inspectSchema(s.reader(ctx))
	return err
}

// openReaders prepares the connections that read. Each is opened when it is first needed, because a program that
// only enqueues needs none. The mode is SQLite's: ro or rw.
func (s *SQLiteStorage) openReaders(mode string) error {
	c, err := s.connector("mode=" + mode + "&_pragma=busy_timeout(5000)&_pragma=query_only(1)")
	if err != nil {
		return err
	}
	s.readers = sql.OpenDB(c)
	s.readers.SetMaxOpenConns(4)
	s.leases = sql.OpenDB(c)
	s.leases.SetMaxOpenConns(1)
	return nil
}

// openWriter opens the connection that writes, refuses a file that is not ours before anything is written to it,
// and migrates the file in one transaction.
func (s *SQLiteStorage) openWriter(ctx context.Context) error {
	// SQLite's own busy_timeout starves: its sleeps grow while others take the lock. The retries are ours.
	c, err := s.connector("mode=rw&_pragma=busy_timeout(0)")
	if err != nil {
		return err
	}
	conn, err := c.Connect(ctx)
	if err != nil {
		return err
	}
	s.w = newWriter(conn)
	q := &s.w.tx.session
	version := 0
	err = patiently(ctx, q, func() {
		version, err = s.inspectSchema(q)
		q.err = err
	})
	if err != nil {
		return err
	}
	if err := keepWAL(conn); err != nil {
		return err
	}
	for _, statement := range []string{
		"PRAGMA journal_mode=WAL",
		"PRAGMA synchronous=" + s.opts.Synchronous,
		"BEGIN IMMEDIATE",
	} {
		if err := patiently(ctx, q, func() { q.exec(statement) }); err != nil {
			return err
		}
	}
	if version == schemaVersion && int(integer(q.value("PRAGMA user_version"))) == schemaVersion {
		return checkWritable(q)
	}
	if err := s.migrate(q); err != nil {
		return err
	}
	q.exec("COMMIT")
	return q.err
}

// patiently calls f, which uses q, again and again while another process holds the lock that it needs.
func patiently(ctx context.Context, q *session, f func()) error {
	for {
		f()
		if !isCode(q.err, codeBusy) {
			return q.err
		}
		if err := ctx.Err(); err != nil {
			return fmt.Errorf("another process holds its lock: %w", err)
		}
		q.err = nil
		time.Sleep(lockPause()) // a few milliseconds at most
	}
}

// connector makes connections of one kind to a file. They keep the -wal: SQLite does not remove it when
// such a connection closes the file last. Otherwise a process whose locks are gone (because it read the
// file itself, and POSIX drops a process's locks when it closes any descriptor of a file) would go on
// writing into a -wal that is removed.
//
// A connection to a file without a -wal leaves none behind, unless keepWAL is called for it.
type connector struct {
	driver.Connector
	wal string // the name of the -wal
}

func (s *SQLiteStorage) connector(settings string) (connector, error) {
	path := (&url.URL{Path: s.path}).EscapedPath() // a path may hold the characters ? and #
	base, err := sqlite.NewConnector(
		"file:" + path + "?" + settings + fmt.Sprintf("&_pragma=journal_size_limit(%d)", maxWAL))
	return connector{base, s.path + "-wal"}, err
}

// maxWAL is to how many bytes SQLite cuts a -wal that has grown larger, once it is no longer needed.
const maxWAL = 16 << 20

// Connect implements [driver.Connector].
func (c connector) Connect(ctx context.Context) (driver.Conn, error) {
	_, notThere := os.Stat(c.wal)
	conn, err := c.Connector.Connect(ctx)
	if err != nil {
		return nil, err
	}
	if notThere != nil {
		return conn, nil
	}
	if err := keepWAL(conn); err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	return conn, nil
}

// keepWAL makes a connection leave the -wal where it is when it closes the file last.
func keepWAL(conn driver.Conn) error {
	_, err := conn.(sqlite.FileControl).FileControlPersistWAL("main", 1)
	return err
}

// disconnect closes what open has opened. The writer comes last, because it keeps the -wal.
func (s *SQLiteStorage) disconnect() error {
	var errs []error
	if s.readers != nil {
		errs = append(errs, s.readers.Close())
	}
	if s.leases != nil {
		errs = append(errs, s.leases.Close())
	}
	if s.w != nil {
		errs = append(errs, s.w.conn.close())
	}
	return errors.Join(errs...)
}

// ---- Files that are moved while they are open ----

// rememberFiles notes which files are open: the file itself, and unless the storage is read-only its -wal
// and -shm.
func (s *SQLiteStorage) rememberFiles(suffixes ...string) error {
	for _, suffix := range suffixes {
		info, err := os.Stat(s.path + suffix)
		if err != nil {
			return err
		}
		s.opened = append(s.opened, openedFile{s.path + suffix, info})
	}
	return nil
}

// openedFile is a file that SQLite holds open.
type openedFile struct {
	name string
	info os.FileInfo
}

// checkReplaced returns an error if one of the open files no longer has its name: nobody else would see
// what SQLite stores in it.
func (s *SQLiteStorage) checkReplaced() error {
	for _, f := range s.opened {
		if err := f.checkReplaced(); err != nil {
			return err
		}
	}
	return nil
}

// moveCheck is the time between two looks at the -wal and the -shm.
const moveCheck = time.Second

// checkReplacedAt is checkReplaced for each COMMIT, at the time now. It looks at the -wal and the -shm only
// once a second: a microsecond for all three files is too much for a small transaction. The writer calls
// it.
func (s *SQLiteStorage) checkReplacedAt(now time.Time) error {
	if now.Sub(s.checked) < moveCheck {
		return s.opened[0].checkReplaced()
	}
	if err := s.checkReplaced(); err != nil {
		return err
	}
	s.checked = now
	return nil
}

// checkReplaced compares the file that has the name now with the one that is open. It does not open the
// name: closing it again would drop SQLite's locks. Nor does the storage open the path anew, because SQLite
// damages a file that it finds beside the -wal of another.
func (f openedFile) checkReplaced() error {
	if runtime.GOOS == "windows" {
		return nil // there nobody can delete or replace an open file
	}
	now, err := os.Stat(f.name)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil // this does not show that the file is gone
	}
	if err == nil && os.SameFile(f.info, now) {
		return nil
	}
	return fmt.Errorf("the file %s was deleted or replaced while it was in use: put it back, or stop every "+
		"program that uses the queue, remove the -wal and -shm left beside it, and start again", f.name)
}

// ---- The schema ----

// pythonTables are the Python library's tables. They keep their names, types and meanings.
var pythonTables = []string{
	`CREATE TABLE IF NOT EXISTS jobs (
		id TEXT PRIMARY KEY,
		func_name TEXT NOT NULL,
		args TEXT NOT NULL,
		kwargs TEXT NOT NULL,
		status TEXT NOT NULL,
		attempts INTEGER NOT NULL,
		created_at REAL NOT NULL,
		error TEXT,
		heartbeat_at REAL)`,
	`CREATE TABLE IF NOT EXISTS dlq (
		id TEXT PRIMARY KEY,
		func_name TEXT NOT NULL,
		args TEXT NOT NULL,
		kwargs TEXT NOT NULL,
		attempts INTEGER NOT NULL,
		error TEXT NOT NULL,
		failed_at REAL NOT NULL)`,
}

// pythonColumns are those by which we know that a table jobs or dlq is a queue's.
var pythonColumns = []string{"id", "func_name", "args", "kwargs", "attempts", "error"}

// migration makes a newer version of the schema.
type migration struct {
	tables []string // statements
	jobs   []column // of the table jobs
	dlq    []column // of the table dlq
	then   []string // statements that need the columns
}

// column is a column that Python's tables lack. Python inserts rows without it, so the initial value must
// mean "an ordinary job, due now". A column that a file has already is not added again.
type column struct{ name, kind, initial string }

// firstVersion is the version that migrations[0] makes of any older file. Version 0 is the Python
// library's, or an empty file. Versions 1 and 2 were never released.
const firstVersion = 3

// schemaVersion is the newest version, as PRAGMA user_version counts.
const schemaVersion = firstVersion + len(migrations) - 1

// migrations are append-only: each one makes the next version. To change the condition of an index, drop it
// and make another under a new name, because CREATE INDEX IF NOT EXISTS changes none.
var migrations = [...]migration{
	{
		tables: slices.Concat(pythonTables, []string{
			// How many jobs of a queue may be RUNNING at once.
			`CREATE TABLE IF NOT EXISTS pinion_limits (
				queue TEXT PRIMARY KEY,
				most INTEGER NOT NULL)`,
			// The ends of jobs, by minute or hour: at is when that began, in Unix seconds; took is in
			// seconds.
			`CREATE TABLE IF NOT EXISTS pinion_ends (
				at INTEGER NOT NULL,
				queue TEXT NOT NULL,
				task TEXT NOT NULL,
				succeeded INTEGER NOT NULL DEFAULT 0,
				failed INTEGER NOT NULL DEFAULT 0,
				took REAL NOT NULL DEFAULT 0,
				PRIMARY KEY (at, queue, task)) WITHOUT ROWID`,
		}),
		jobs: []column{
			{"heartbeat_at", "REAL", "NULL"}, // files of Python's 0.1 lack it
			{"queue", "TEXT NOT NULL", "'default'"},
			{"priority", "INTEGER NOT NULL", "0"},
			{"key", "TEXT", "NULL"},
			// 0: holds no key, or holds it until it ends; 1: holds it until it starts; 2: has given it up.
			{"key_until_start", "INTEGER NOT NULL", "0"},
			{"meta", "TEXT", "NULL"}, // JSON
			{"run_at", "REAL NOT NULL", "0"},
			// 1: not ready before run_at. An index cannot look at the clock. Claims would not find a job with any
			// other value, here as in aside, so no program may write one.
			{"future", "INTEGER NOT NULL CHECK (future IN (0, 1))", "0"},
			// 1: a worker that does not know the task has set the job aside. Those who know the task find it all the
			// same.
			{"aside", "REAL NOT NULL CHECK (aside IN (0, 1))", "0"},
			{"claim", "INTEGER NOT NULL", "0"},
			{"worker", "TEXT NOT NULL", "''"},
			{"lease", "REAL NOT NULL", "0"}, // seconds without a heartbeat; 0: Python's claim
			{"doubted_at", "REAL", "NULL"},  // when somebody found the lease expired
			{"started_at", "REAL", "NULL"},
			{"reaped", "INTEGER NOT NULL", "0"}, // how many leases were lost one after the other
			{"cancel", "INTEGER NOT NULL", "0"}, // 1: canceled
			{"finished_at", "REAL", "NULL"},
			{"result", "TEXT", "NULL"},
			{"buried", "INTEGER NOT NULL", "0"}, // 1: a dead letter stands, so the job is not to be pruned
		},
		dlq: []column{
			{"queue", "TEXT NOT NULL", "'default'"},
			{"priority", "INTEGER NOT NULL", "0"},
			{"key", "TEXT", "NULL"},
			{"key_until_start", "INTEGER NOT NULL", "0"},
			{"meta", "TEXT", "NULL"},
			{"result", "TEXT", "NULL"},
		},
		then: []string{
			// Of versions 1 and 2.
			`DROP INDEX IF EXISTS jobs_ready`,
			`DROP INDEX IF EXISTS jobs_running`,
			`DROP INDEX IF EXISTS jobs_key`,
			`DROP INDEX IF EXISTS jobs_finished`,
			`UPDATE jobs SET buried=1 WHERE status='FAILED' AND id IN (SELECT id FROM dlq)`,

			// Claims follow the order of this index, whose last column is the rowid, the order of insertion.
			`CREATE INDEX IF NOT EXISTS jobs_ready3 ON jobs(queue, priority DESC)
				WHERE status='PENDING' AND future=0 AND aside=0`,
			// Jobs that were set aside, for those who know the task.
			`CREATE INDEX IF NOT EXISTS jobs_aside ON jobs(func_name, queue, priority DESC)
				WHERE status='PENDING' AND future=0 AND aside>0`,
			// The next due time, and all that is due.
			`CREATE INDEX IF NOT EXISTS jobs_future ON jobs(run_at)
				WHERE status='PENDING' AND future=1`,
			// The most urgent of what is due, if that is more than is made ready at once.
			`CREATE INDEX IF NOT EXISTS jobs_urgent ON jobs(priority DESC, run_at)
				WHERE status='PENDING' AND future=1`,
			// All that runs, and how many of a queue. Not by heartbeat_at: every heartbeat would move its
			// row.
			`CREATE INDEX IF NOT EXISTS jobs_running3 ON jobs(queue)
				WHERE status='RUNNING'`,
			`CREATE UNIQUE INDEX IF NOT EXISTS jobs_key3 ON jobs(key)
				WHERE key IS NOT NULL AND status IN ('PENDING','RUNNING') AND key_until_start<2`,
			// What may be pruned. Standing dead letters are not in the way.
			`CREATE INDEX IF NOT EXISTS jobs_finished3 ON jobs(` + finished + `)
				WHERE status IN ('SUCCESS','FAILED') AND buried=0`,
			`CREATE INDEX IF NOT EXISTS dlq_failed ON dlq(failed_at)`,
		},
	},
}

// inspectSchema refuses a file that is not ours and returns its version. It notes what listings select
// from: the tables, with the initial values of the columns that an older file lacks.
func (s *SQLiteStorage) inspectSchema(q *session) (version int, err error) {
	version = int(integer(q.value("PRAGMA user_version")))
	if version == schemaVersion && hasOwnTables(q) { // asking for the columns takes long where a program only enqueues
		s.indexed = true
		s.jobs, s.letters = listingFrom("jobs", nil), listingFrom("dlq", nil)
		return version, nil
	}
	jobs, dlq := columnsOf(q, "jobs"), columnsOf(q, "dlq")
	if q.err != nil {
		return 0, q.err
	}
	if err := s.checkTable("jobs", jobs); err != nil {
		return 0, err
	}
	if err := s.checkTable("dlq", dlq); err != nil {
		return 0, err
	}
	if version > 0 && (len(jobs) == 0 || len(dlq) == 0) {
		return 0, fmt.Errorf("its PRAGMA user_version is %d, but it lacks a table of a queue: it belongs to another"+
			" program, or a table was dropped; want a file of the queue's own, or one whose user_version is 0", version)
	}
	if version > schemaVersion { // after the tables: other programs count their versions, too
		return 0, fmt.Errorf("its schema (PRAGMA user_version) is version %d, from a newer Pinion or another"+
			" program; want at most %d: update this program, or give the queue a file of its own",
			version, schemaVersion)
	}
	s.indexed = version == schemaVersion
	var missingJobs, missingDLQ []column
	for _, m := range migrations {
		missingJobs = append(missingJobs, missing(m.jobs, jobs)...)
		missingDLQ = append(missingDLQ, missing(m.dlq, dlq)...)
	}
	s.jobs = listingFrom("jobs", missingJobs)
	s.letters = listingFrom("dlq", missingDLQ)
	return version, nil
}

// hasOwnTables reports whether the file has the tables of a queue, among them those that only Pinion makes.
func hasOwnTables(q *session) bool {
	n := q.value(`SELECT count(*) FROM sqlite_master
		WHERE type='table' AND name IN ('jobs', 'dlq', 'pinion_limits', 'pinion_ends')`)
	return integer(n) == 4
}

// columnsOf returns the names of the columns of a table, none if there is no such table.
func columnsOf(q *session, table string) map[string]bool {
	columns := make(map[string]bool)
	for row := range q.rows(`SELECT name FROM pragma_table_info(?)`, table) {
		columns[text(row[0])] = true
	}
	return columns
}

// missing returns those of the columns that a table does not have.
func missing(columns []column, has map[string]bool) []column {
	return slices.DeleteFunc(slices.Clone(columns), func(c column) bool { return has[c.name] })
}

// checkTable refuses a table of another program. A table that is missing will be made, unless the storage
// is read-only.
func (s *SQLiteStorage) checkTable(table string, has map[string]bool) error {
	if len(has) == 0 && s.opts.ReadOnly {
		return fmt.Errorf("it holds no queue: there is no table %q", table)
	}
	if len(has) == 0 {
		return nil
	}
	for _, column := range pythonColumns {
		if !has[column] {
			return fmt.Errorf("its table %q belongs to another program: it has no column %q", table, column)
		}
	}
	return nil
}

// listingFrom returns a FROM clause of all columns of a table, with the rowid as seq.
func listingFrom(table string, missing []column) string {
	columns := []string{"rowid AS seq", "*"}
	for _, c := range missing {
		columns = append(columns, c.initial+" AS "+c.name)
	}
	return " FROM (SELECT " + strings.Join(columns, ", ") + " FROM " + table + ") AS " + table + " "
}

// migrate brings the file to schemaVersion, inside the caller's transaction.
func (s *SQLiteStorage) migrate(q *session) error {
	version, err := s.inspectSchema(q) // again: another process may have migrated the file meanwhile
	if err != nil {
		return err
	}
	if version == schemaVersion {
		return nil
	}
	for _, m := range migrations[max(version+1-firstVersion, 0):] {
		for _, statement := range m.tables {
			q.exec(statement)
		}
		addColumns(q, "jobs", m.jobs)
		addColumns(q, "dlq", m.dlq)
		for _, statement := range m.then {
			q.exec(statement)
		}
	}
	q.exec(fmt.Sprintf("PRAGMA user_version=%d", schemaVersion))
	if q.err != nil {
		return q.err
	}
	_, err = s.inspectSchema(q)
	return err
}

// checkWritable ends a transaction that has nothing to do, and returns an error if this user may not write the
// file. BEGIN IMMEDIATE alone returns none. A COMMIT would write a page, and wait for the disk.
func checkWritable(q *session) error {
	q.exec(fmt.Sprintf("PRAGMA user_version=%d", schemaVersion))
	err := q.err
	q.err = nil
	q.exec("ROLLBACK")
	if err != nil {
		return err
	}
	return q.err
}

// addColumns adds columns to a table, unless it has them.
func addColumns(q *session, table string, columns []column) {
	for _, c := range missing(columns, columnsOf(q, table)) {
		q.exec("ALTER TABLE " + table + " ADD COLUMN " + c.name + " " + c.kind + " DEFAULT " + c.initial)
	}
}

// ---- Errors ----

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

// isCode reports whether err is an error of SQLite with a primary result code.
func isCode(err error, code int) bool {
	e, ok := errors.AsType[*sqlite.Error](err)
	return ok && e.Code()&0xff == code
}

// wrap adds the name of the verb that failed, unless the error is one of ours, which says enough.
func wrap(verb string, err error) error {
	if err == nil || strings.HasPrefix(err.Error(), "pinion: ") {
		return err
	}
	return fmt.Errorf("pinion: %s: %w", verb, explain(err))
}

// explain adds to an error of SQLite what it means for the user.
func explain(err error) error {
	for _, e := range explanations {
		if isCode(err, e.code) {
			return fmt.Errorf("%s: %w", e.meaning, err)
		}
	}
	return err
}

var explanations = []struct {
	code    int
	meaning string
}{
	{codeNotADB, "it is not a SQLite database"},
	{codeReadOnly, "the file or its folder is read-only for this user"},
	{codeCantOpen, "the file cannot be opened: it is missing, this user may not use it, or the -wal and " +
		"-shm beside it, or its folder cannot be written"},
	{codeFull, "the disk is full; nothing can be stored until there is room"},
	{codeIOErr, "I/O error: the disk is full, over quota or failing; check free space and the system log"},
	{codeCorrupt, "the file is damaged; stop every program that uses it and restore a backup, " +
		"or save what can be read with the .recover command of the sqlite3 shell"},
}

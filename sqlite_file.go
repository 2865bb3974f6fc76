package pinion

import (
	"cmp"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"time"

	"modernc.org/sqlite"
)

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
	conn, err := s.readers.Driver().Open(s.dsn("mode=rw&_pragma=busy_timeout(0)"))
	if err != nil {
		return err
	}
	s.w = newWriter(conn)
	q := &s.w.tx.session
	for _, query := range []string{"PRAGMA journal_mode=WAL", "PRAGMA synchronous=" + s.opts.Synchronous, "BEGIN IMMEDIATE"} {
		for q.exec(query); isCode(q.err, codeBusy); q.exec(query) {
			if !pause(ctx, lockPause()) {
				return fmt.Errorf("another process holds its lock: %w", ctx.Err())
			}
			q.err = nil
		}
	}
	s.inspectSchema(q, true)
	q.exec("COMMIT")
	if q.err != nil {
		return q.err
	}
	return s.remember("", "-wal", "-shm")
}

const moveCheck = time.Second // between two looks whether the -wal and -shm are still there

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
func (s *SQLiteStorage) movedLately(now time.Time) error {
	if now.Sub(s.checked) < moveCheck {
		return s.moved(1)
	}
	err := s.moved(3)
	if err == nil {
		s.checked = now
	}
	return err
}

func (s *SQLiteStorage) dsn(settings string) string {
	return "file:" + (&url.URL{Path: s.path}).EscapedPath() + "?" + settings
}

func (s *SQLiteStorage) disconnect() (err error) {
	if s.readers != nil {
		err = s.readers.Close()
	}
	if s.w != nil {
		err = errors.Join(err, s.w.conn.close())
	}
	return err
}

const schemaVersion = 2 // 1: without worker and cancel

type column struct{ name, kind, zero string }

// Python's two tables. Every later column must have a default that means "an ordinary job, due now", because
// Python inserts rows without it.
const (
	pythonJobs = `CREATE TABLE IF NOT EXISTS jobs (id TEXT PRIMARY KEY, func_name TEXT NOT NULL, args TEXT NOT NULL, kwargs TEXT NOT NULL,
		status TEXT NOT NULL, attempts INTEGER NOT NULL, created_at REAL NOT NULL, error TEXT, heartbeat_at REAL)`
	pythonDLQ = `CREATE TABLE IF NOT EXISTS dlq (id TEXT PRIMARY KEY, func_name TEXT NOT NULL, args TEXT NOT NULL, kwargs TEXT NOT NULL,
		attempts INTEGER NOT NULL, error TEXT NOT NULL, failed_at REAL NOT NULL)`
)

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

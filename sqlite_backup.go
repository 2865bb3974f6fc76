package pinion

import (
	"context"
	"database/sql"
	"errors"
	"os"
	"path/filepath"

	"github.com/pinion-queue/pinion/internal/rules"
)

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

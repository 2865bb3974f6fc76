package cli

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/pinion-queue/pinion"
	"github.com/pinion-queue/pinion/internal/rules"
)

// storageFlags declares the flags of every command that opens a storage.
func (c *call) storageFlags() {
	db := os.Getenv("PINION_DB")
	if absolute, err := absoluteDB(db); err == nil { // errors then name the file, wherever it is
		db = absolute
	}
	c.flags.StringVar(&c.db, "db", db, "the database, a SQLite `FILE` [$PINION_DB]")
	c.importFlag()
}

// access is the kind of access that a command needs.
type access int

const (
	reads   access = iota // writes nothing
	changes               // changes a storage that exists
	creates               // also creates one
)

// noticeAfter is how long a command may wait before it reports that. Tests change it.
var noticeAfter = 2 * time.Second

// absoluteDB returns the address of a database so that it does not depend on the current directory. It leaves names as
// they are that open refuses: an absolute path would look like that of a file.
func absoluteDB(db string) (string, error) {
	scheme := rules.SchemeOf(db)
	if scheme != "" && !strings.EqualFold(scheme, "sqlite:") {
		return db, nil
	}
	path := db[len(scheme):]
	if path == "" || filepath.IsAbs(path) {
		return db, nil
	}
	if rules.IsDirectoryName(path) || rules.CheckFileName(path) != nil {
		return db, nil
	}
	path, err := filepath.Abs(path)
	return scheme + path, err
}

// databaseName returns the address of a database as people see it: the absolute path of a file, or an address
// without its password.
func databaseName(db string) string {
	scheme := rules.SchemeOf(db)
	if scheme == "" || strings.EqualFold(scheme, "sqlite:") {
		if path, err := filepath.Abs(db[len(scheme):]); err == nil {
			return path
		}
		return db
	}
	address, err := url.Parse(db)
	if err != nil {
		return scheme
	}
	return address.Redacted()
}

// open opens the database of --db.
func (c *call) open(ctx context.Context, a access) (pinion.Storage, error) {
	path := c.db
	switch scheme := rules.SchemeOf(c.db); strings.ToLower(scheme) {
	case "":
	case "sqlite:":
		path = c.db[len(scheme):]
	case "memory:":
		return nil, usagef("--db memory: lasts only as long as this command; name a file")
	default:
		return pinion.Open(ctx, c.db)
	}
	if path == "" {
		return nil, usagef("no database is named; give --db FILE, or set PINION_DB")
	}
	if a != creates {
		if err := checkExists(path); err != nil {
			return nil, err
		}
	}
	if a != reads {
		c.slowNotice = time.AfterFunc(noticeAfter, func() {
			c.notice("still waiting for %s; another program holds its lock, or the disk is slow", path)
		})
	}
	if a != reads {
		// Open also refuses names that look like something else: "jobs.db?mode=rw", "//jobs.db", "memory".
		return pinion.Open(ctx, "sqlite:"+path)
	}
	storage, err := pinion.OpenSQLite(ctx, path, &pinion.SQLiteOptions{ReadOnly: true})
	if err != nil {
		return nil, err // not storage, which would be an interface around a nil pointer
	}
	return storage, nil
}

// checkExists reports a database that is missing, and what to do, which depends on whether enqueue would create it.
func checkExists(path string) error {
	if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err := rules.CheckFileName(path); err != nil {
		return err
	}
	if rules.IsDirectoryName(path) {
		return fmt.Errorf("database %s does not exist, and its name is that of a directory; want a file", path)
	}
	folder := filepath.Dir(path)
	if _, err := os.Stat(folder); errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("database %s does not exist, and neither does its folder %s; check the name", path, folder)
	}
	return fmt.Errorf("database %s does not exist; `pinion enqueue` creates it", path)
}

// startSlowNotice begins a write. If the write takes long, it reports the cause.
func (c *call) startSlowNotice() {
	if c.slowNotice != nil {
		c.slowNotice.Reset(noticeAfter)
	}
}

// stopSlowNotice ends a write, or comes before a wait for something else.
func (c *call) stopSlowNotice() {
	if c.slowNotice != nil {
		c.slowNotice.Stop()
	}
}

// inspect opens the storage, passes it to use and closes it.
func (c *call) inspect(ctx context.Context, a access, use func(pinion.Inspector) error) error {
	storage, err := c.open(ctx, a)
	if err != nil {
		return err
	}
	inspector, ok := pinion.As[pinion.Inspector](storage)
	if !ok {
		err = fmt.Errorf("%T is not a pinion.Inspector, so its jobs cannot be listed or changed: %w",
			storage, errors.ErrUnsupported)
		return errors.Join(err, storage.Close())
	}
	err = use(inspector)
	return errors.Join(err, storage.Close())
}

// change opens the storage for a command that changes what is in it. A signal ends ctx, and a closed pipe does not
// kill the command, so that it can say what it has done.
func (c *call) change(ctx context.Context, use func(context.Context, pinion.Inspector) error) error {
	ctx, stop := untilSignal(ctx)
	defer stop()
	c.surviveClosedPipe()
	return c.inspect(ctx, changes, func(storage pinion.Inspector) error {
		return signalOr(ctx, use(ctx, storage))
	})
}

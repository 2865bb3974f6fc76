package crashlab

import (
	"context"
	"database/sql"
	"fmt"
	"io"
	"os"
	"strings"
	"time"
)

// lockPlan says how another program holds the write lock of the file.
type lockPlan struct {
	// Holds are the times for which it takes the lock, one after another. It takes the lock again right after
	// some worker has looked for lost leases.
	Holds []time.Duration

	// UntilReap makes each hold last a little longer: until some worker begins to look for lost leases, so
	// that this worker is among the first to get the lock.
	UntilReap bool
}

// holdLock does what a long transaction in a program that is not Pinion does.
func (c *child) holdLock(ctx context.Context) error {
	db, err := sql.Open("sqlite", c.DSN)
	if err != nil {
		return err
	}
	defer db.Close()
	conn, err := db.Conn(ctx)
	if err != nil {
		return err
	}
	defer conn.Close()
	log, err := followLog(c.LogPath)
	if err != nil {
		return err
	}
	defer log.file.Close()
	const patience = 5 * time.Second // with a worker that should be looking for lost leases
	for i, hold := range c.Lock.Holds {
		if i > 0 {
			log.waitFor(ctx, logReaped, patience)
		}
		if err := takeLock(ctx, conn); err != nil {
			return err
		}
		c.log.write(logLocked)
		if err := sleep(ctx, hold); err != nil {
			return err
		}
		log.skip()
		if c.Lock.UntilReap {
			log.waitFor(ctx, logReaping, patience)
		}
		c.log.write(logUnlock)
		log.skip()
		if _, err := conn.ExecContext(ctx, "ROLLBACK"); err != nil {
			return err
		}
	}
	return nil
}

// takeLock tries again and again, and each time only for a moment, because SQLite's own waiting is at a
// disadvantage against Pinion's.
func takeLock(ctx context.Context, conn *sql.Conn) error {
	begun := time.Now()
	for {
		_, err := conn.ExecContext(ctx, "BEGIN IMMEDIATE")
		if err == nil {
			return nil
		}
		if time.Since(begun) > time.Minute {
			return fmt.Errorf("take the write lock: %w", err)
		}
		if err := sleep(ctx, time.Millisecond); err != nil {
			return err
		}
	}
}

// followedLog reads what is appended to the log.
type followedLog struct {
	file *os.File
	rest string // the beginning of a line that has not been written in full
}

// followLog opens the log at its end.
func followLog(path string) (*followedLog, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	l := &followedLog{file: file}
	l.skip()
	return l, nil
}

// skip skips what was appended meanwhile.
func (l *followedLog) skip() {
	l.file.Seek(0, io.SeekEnd)
	l.rest = ""
}

// waitFor returns when a line with the verb has been appended, or after the time that patience lasts.
func (l *followedLog) waitFor(ctx context.Context, verb string, patience time.Duration) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for ctx.Err() == nil {
		text, _ := io.ReadAll(l.file)
		complete, rest := splitAfterLastLine(l.rest + string(text))
		l.rest = rest
		for _, line := range parseLog(complete) {
			if line.verb == verb {
				return
			}
		}
		sleep(ctx, time.Millisecond)
	}
}

// splitAfterLastLine splits text behind its last complete line.
func splitAfterLastLine(text string) (complete, rest string) {
	end := strings.LastIndex(text, "\n") + 1
	return text[:end], text[end:]
}

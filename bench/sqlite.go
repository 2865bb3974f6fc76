package main

import (
	"context"
	"database/sql"
	"fmt"
	"net/url"
	"path/filepath"
)

// What the peers on SQLite share. The two drivers must never meet on one file in one process: each would drop the
// other's locks. So each peer also looks at its file through its own driver.
const (
	pureGo = "sqlite"  // modernc.org/sqlite
	inC    = "sqlite3" // github.com/mattn/go-sqlite3
)

func queueFile(dir string) string { return filepath.Join(dir, "queue.db") }

// openFile opens a peer's file. Settings are query parameters in the driver's own words.
func openFile(driver, dir, settings string) (*sql.DB, error) {
	return sql.Open(driver, "file:"+(&url.URL{Path: queueFile(dir)}).EscapedPath()+"?"+settings)
}

// settingsOf reads back what is in force on a connection.
func settingsOf(ctx context.Context, conn interface {
	QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row
}) ([]string, error) {
	var settings []string
	for _, query := range []string{"sqlite_version()", "journal_mode", "synchronous", "busy_timeout", "wal_autocheckpoint"} {
		var value string
		text := "PRAGMA " + query
		if query == "sqlite_version()" {
			text = "SELECT " + query
		}
		if err := conn.QueryRowContext(ctx, text).Scan(&value); err != nil {
			return nil, fmt.Errorf("%s: %w", text, err)
		}
		if query == "synchronous" {
			value = map[string]string{"0": "OFF", "1": "NORMAL", "2": "FULL", "3": "EXTRA"}[value]
		}
		settings = append(settings, query+"="+value)
	}
	return settings, nil
}

// exists answers a query of the form SELECT EXISTS (…).
func exists(ctx context.Context, db *sql.DB, query string) (found bool, err error) {
	err = db.QueryRowContext(ctx, query).Scan(&found)
	return found, err
}

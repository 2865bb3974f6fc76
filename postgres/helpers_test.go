package postgres

import (
	"context"
	"fmt"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pinion-queue/pinion/internal/crashlab"
)

const (
	urlEnv = "PINION_POSTGRES_URL"
	allEnv = "PINION_TEST_ALL" // set by .ci/run: what this machine lacks fails tests, instead of skipping them
)

// TestMain says once what the tests need, where they have not got it.
func TestMain(m *testing.M) {
	crashlab.ChildMain()
	child()
	code := m.Run()
	if os.Getenv(urlEnv) == "" {
		fmt.Fprintf(os.Stderr, "postgres: almost all tests were skipped: they need %s, the URL of a server; .ci/with-postgres starts one\n", urlEnv)
		if os.Getenv(allEnv) != "" {
			fmt.Fprintln(os.Stderr, "postgres: with", allEnv, "that is a failure")
			code = 1
		}
	}
	os.Exit(code)
}

var schemas atomic.Int64

// schemaURL is the server with a schema for this test alone, dropped at its end.
func schemaURL(t testing.TB) string {
	t.Helper()
	url := os.Getenv(urlEnv)
	if url == "" {
		t.Skipf("needs %s", urlEnv)
	}
	name := fmt.Sprintf("test %d %d", os.Getpid(), schemas.Add(1))
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
		defer cancel()
		query(t, ctx, url, `DROP SCHEMA IF EXISTS `+pgx.Identifier{name}.Sanitize()+` CASCADE`)
	})
	return withParam(url, "pinion_schema="+strings.ReplaceAll(name, " ", "%20"))
}

func withParam(url, param string) string {
	if strings.Contains(url, "?") {
		return url + "&" + param
	}
	return url + "?" + param
}

// plainURL is a URL of schemaURL without the parameter that only this package knows.
func plainURL(url string) string {
	plain, _, _ := strings.Cut(url, "&pinion_schema=")
	plain, _, _ = strings.Cut(plain, "?pinion_schema=")
	return plain
}

// query runs SQL on a connection of its own.
func query(t testing.TB, ctx context.Context, url, sql string, args ...any) {
	t.Helper()
	conn, err := pgx.Connect(ctx, url)
	if err == nil {
		_, err = conn.Exec(ctx, sql, args...)
		conn.Close(ctx)
	}
	if err != nil {
		t.Errorf("%s: %v", sql, err)
	}
}

func open(t testing.TB, url string, opts *Options) *Storage {
	t.Helper()
	s, err := Open(t.Context(), url, opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// clear empties the tables, which is faster than new ones.
func clear(t testing.TB, url string) {
	t.Helper()
	s, err := Open(t.Context(), url, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if _, err := s.pool.Exec(t.Context(), inSchema(s.opts.Schema, `DELETE FROM @jobs; DELETE FROM @limits; DELETE FROM @ends`)); err != nil {
		t.Fatal(err)
	}
}

// waitFor asks until the answer is true.
func waitFor(t *testing.T, ctx context.Context, s *Storage, question string) {
	t.Helper()
	for yes := false; !yes; {
		if err := s.pool.QueryRow(ctx, question).Scan(&yes); err != nil {
			t.Fatal(err)
		}
	}
}

package postgres

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pinion-queue/pinion"
)

const (
	retryFor = 10 * time.Second // how long a verb is tried again
	maxTry   = 30 * time.Second // how long one try of a verb that writes may take
)

// call is a verb under way: what it does, and what is known of its earlier tries.
type call struct {
	verb   string
	writes bool // it writes, in one transaction; once that is sent, the caller's ctx no longer matters
	start  time.Time
	// stored reports that an earlier try may have been committed although it returned an error.
	stored bool
	// run is one try. again is stored.
	run func(ctx context.Context, conn *pgx.Conn, again bool) error
}

// read calls run, which writes nothing, on a connection, and again if that breaks.
func (s *Storage) read(ctx context.Context, verb string, run func(ctx context.Context, conn *pgx.Conn) error) error {
	everyTry := func(ctx context.Context, conn *pgx.Conn, _ bool) error { return run(ctx, conn) }
	return s.retry(ctx, &call{verb: verb, start: time.Now(), run: everyTry})
}

// browse is read for verbs that may read a lot. However many there are at once, they leave some connections to others:
// a heartbeat must not wait for a listing.
func (s *Storage) browse(ctx context.Context, verb string, run func(ctx context.Context, conn *pgx.Conn) error) error {
	select {
	case s.browsing <- struct{}{}:
		defer func() { <-s.browsing }()
	case <-ctx.Done():
		return ctx.Err()
	case <-s.closing.Done():
		return pinion.ErrClosed
	}
	return s.read(ctx, verb, run)
}

// write calls run, which writes in one transaction, on a connection, and again if that breaks. again reports
// that an earlier try may have been committed.
func (s *Storage) write(
	ctx context.Context, verb string, run func(ctx context.Context, conn *pgx.Conn, again bool) error,
) error {
	return s.retry(ctx, &call{verb: verb, writes: true, start: time.Now(), run: run})
}

// retry tries a call until it succeeds, fails for good, or retryFor is over.
func (s *Storage) retry(ctx context.Context, c *call) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	for tries := 0; ; tries++ {
		outcome := s.try(ctx, c)
		if outcome.err == nil {
			return nil
		}
		if !outcome.retry {
			return c.failed(outcome.err)
		}
		if outcome.sent && c.writes {
			c.stored = true
			ctx = context.WithoutCancel(ctx) // the caller must learn what became of it
		}
		if time.Since(c.start) > retryFor || !s.pause(ctx, backoff(tries)) {
			return c.failed(s.whyStopped(ctx, outcome.err))
		}
	}
}

// outcome is what came of one try.
type outcome struct {
	err   error
	sent  bool // it may have been committed in spite of err
	retry bool // another connection, or the same call a moment later, may succeed
}

// try runs a call once, on a connection of the pool.
func (s *Storage) try(ctx context.Context, c *call) outcome {
	if s.isClosed() {
		return outcome{err: pinion.ErrClosed}
	}
	pooled, err := s.pool.Acquire(ctx)
	if err != nil {
		return s.notConnected(ctx, err)
	}
	defer pooled.Release() // it drops a connection that is closed
	conn := pooled.Conn()
	if !c.writes {
		err := c.run(ctx, conn, c.stored)
		return readOutcome(ctx, conn, err)
	}
	writing, cancel := context.WithTimeout(context.WithoutCancel(ctx), maxTry)
	defer cancel()
	err = c.run(writing, conn, c.stored)
	return writeOutcome(writing, conn, err)
}

// notConnected judges an error of the pool.
func (s *Storage) notConnected(ctx context.Context, err error) outcome {
	if s.isClosed() {
		return outcome{err: pinion.ErrClosed}
	}
	_, connecting := errors.AsType[*pgconn.ConnectError](err)
	if !connecting || ctx.Err() != nil {
		return outcome{err: err}
	}
	refusal, refused := errors.AsType[*pgconn.PgError](err)
	if refused {
		return outcome{err: err, retry: isPassing(refusal.Code)}
	}
	return outcome{err: err, retry: true}
}

// readOutcome judges the error of a call that writes nothing.
func readOutcome(ctx context.Context, conn *pgx.Conn, err error) outcome {
	if refusal, refused := errors.AsType[*pgconn.PgError](err); refused {
		dropIfUseless(ctx, conn, refusal)
		return outcome{err: err, retry: isPassing(refusal.Code)}
	}
	return outcome{err: err, retry: conn.IsClosed() && ctx.Err() == nil}
}

// writeOutcome judges the error of a call that writes.
func writeOutcome(ctx context.Context, conn *pgx.Conn, err error) outcome {
	if refusal, refused := errors.AsType[*pgconn.PgError](err); refused {
		dropIfUseless(ctx, conn, refusal)
		// A shutdown that interrupts the wait for a synchronous standby comes after the local commit.
		return outcome{err: err, sent: isShutdown(refusal.Code), retry: isPassing(refusal.Code)}
	}
	// pgconn.SafeToRetry is no help: it calls a batch unsent whose answer broke off.
	return outcome{err: err, sent: true, retry: conn.IsClosed()}
}

// dropIfUseless closes a connection to a server that was demoted or is shutting down.
func dropIfUseless(ctx context.Context, conn *pgx.Conn, refusal *pgconn.PgError) {
	if refusal.Code == readOnlyServer || isShutdown(refusal.Code) {
		conn.Close(ctx)
	}
}

// Codes of PostgreSQL's errors.
const (
	uniqueViolation      = "23505"
	readOnlyServer       = "25006"
	serializationFailure = "40001"
	deadlock             = "40P01"
	tooManyConnections   = "53300"
	adminShutdown        = "57P01"
	crashShutdown        = "57P02"
	cannotConnectNow     = "57P03" // the server is starting or stopping
)

func isShutdown(code string) bool { return strings.HasPrefix(code, "57P") }

// isPassing reports whether the cause of an error passes by itself.
func isPassing(code string) bool {
	switch code {
	case serializationFailure, deadlock, readOnlyServer,
		adminShutdown, crashShutdown, cannotConnectNow, tooManyConnections:
		return true
	}
	return strings.HasPrefix(code, "08") // the connection failed
}

func isCode(err error, code string) bool {
	refusal, ok := errors.AsType[*pgconn.PgError](err)
	return ok && refusal.Code == code
}

// failed returns the error of a call that is given up.
func (c *call) failed(err error) error {
	if c.stored && c.writes && !errors.Is(err, pinion.ErrDuplicate) { // an Enqueue would have recognized its own jobs
		return fmt.Errorf("pinion: %s: the connection broke, and it is not known whether this was done: %w",
			c.verb, err)
	}
	return wrap(c.verb, err)
}

// whyStopped returns the reason for which retry stops early, or else the last error.
func (s *Storage) whyStopped(ctx context.Context, last error) error {
	if s.isClosed() {
		return pinion.ErrClosed
	}
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("%w: %w", err, last)
	}
	return last
}

// wrap adds the verb to an error of the server, and leaves errors of this package and of the ctx alone.
func wrap(verb string, err error) error {
	if err == nil || errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	if strings.HasPrefix(err.Error(), "pinion: ") {
		return err
	}
	return fmt.Errorf("pinion: %s: %w", verb, err)
}

// backoff is short at first, because usually only the connection was dead, not the server.
func backoff(tries int) time.Duration {
	d := min(time.Millisecond<<min(2*tries, 10), 500*time.Millisecond)
	return d/2 + rand.N(d)
}

// pause waits, and reports whether ctx and the storage are still live.
func (s *Storage) pause(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	case <-s.closing.Done():
	}
	return ctx.Err() == nil && s.closing.Err() == nil
}

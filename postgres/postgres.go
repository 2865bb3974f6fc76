// Package postgres keeps Pinion's jobs in a PostgreSQL database, for programs that have outgrown one machine. The
// storage that is opened is all that changes:
//
//	storage, err := postgres.Open(ctx, "postgres://user@host/database", nil)
//
// Importing the package also registers the schemes postgres and postgresql with [pinion.Open], so that the command
// line works with --db postgres://… and --import github.com/pinion-queue/pinion/postgres.
//
// It is a storage as the others are: [pinion.CheckStorage] finds no difference, and there is one, about names. What is
// said in package pinion holds, with the server in the file's place: a job whose Enqueue returned nil is as durable as
// the server makes a commit, which with its defaults (fsync and synchronous_commit on) survives its own crash and that
// of its machine. A failover to a standby loses nothing if the standby is a synchronous one.
//
// # Tables
//
// Everything is in one schema of the database, "pinion" unless another is named, which Open creates and brings up to
// date under an advisory lock; for that it needs the right to create the schema, or a schema of its own. Once it is
// there, SELECT, INSERT, UPDATE, DELETE on the tables, and USAGE on the schema and the sequences, will do. It is
// tested with server version 15; nothing in it is newer than 13.
//
// An ID, a task's name, a queue's or a Key holds no NUL here (ErrBadArgs) and at most 1 KiB (ErrTooLarge): PostgreSQL
// can store no NUL, and find no long text by an index. That is the one difference.
//
// # Clocks
//
// Leases, due times and retention are measured by one clock, the server's: the workers' machines may disagree about
// the time. What the caller says in absolute terms, [pinion.Job].RunAt and the moment of a retry, is taken by the
// caller's clock, and so is CreatedAt. A failover to a machine whose clock is ahead by more than the visibility
// timeout takes back leases that are alive; fencing keeps that safe, and NTP keeps it from happening.
//
// # When the server is away
//
// A verb that meets a broken connection, a server that is starting, a deadlock or a serialization failure is tried
// again for up to ten seconds, on another connection. That is safe also if the connection broke during the COMMIT, when
// nobody can tell whether it took place: ids are chosen before anything is sent, and an Enqueue that is tried again
// knows its own jobs; a claim that was committed is found and handed out; whatever ends a claim knows its own end.
// After ten seconds the error is returned. An Enqueue may then have taken place: with a [pinion.Job].ID that the
// caller has chosen, enqueueing again answers ErrDuplicate if it did. Workers go on trying by themselves.
//
// # Waiting
//
// A Dequeue that waits is woken by LISTEN and NOTIFY, on one connection a process, and looks by itself each
// PollInterval behind that. Through a proxy that pools transactions (PgBouncer, say) LISTEN cannot work, nor can
// prepared statements: set [Options].NoListen, or write ?pinion_listen=off into the URL, and it looks each 100 ms instead.
package postgres

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/pinion-queue/pinion"
)

func init() {
	open := func(ctx context.Context, url string) (pinion.Storage, error) {
		s, err := Open(ctx, url, nil)
		if err != nil {
			return nil, err // and no interface around a nil pointer
		}
		return s, nil
	}
	pinion.RegisterScheme("postgres", open)
	pinion.RegisterScheme("postgresql", open)
}

// Options are settings of Open; the zero value is the default.
type Options struct {
	// Schema is where the tables are, at most 50 bytes ["pinion"]. The URL may say it, too: ?pinion_schema=name.
	Schema string
	// MaxConns bounds the connections of this process, beside the one that listens [10]. A worker needs about
	// four, however many slots it has. Those who enqueue single jobs without an ID or a Key of their own share one,
	// and every other Enqueue at the same time needs one; what is not needed is not opened. The URL may say it,
	// too: ?pool_max_conns=n, and with it whatever pgxpool knows.
	MaxConns int
	// Retention is how long finished jobs are kept before running workers prune them [24h]; negative: for ever.
	Retention time.Duration
	// PollInterval is how often a waiting Dequeue looks by itself [1s; with NoListen 100ms].
	PollInterval time.Duration
	// NoListen is for proxies that pool transactions: no LISTEN, no NOTIFY, no prepared statements, no settings of the
	// session. The URL may say it, too: ?pinion_listen=off.
	NoListen bool
}

// Storage keeps jobs in one schema of a PostgreSQL database, which any number of processes on any number of machines
// may share.
type Storage struct {
	opts    Options
	pool    *pgxpool.Pool
	config  *pgx.ConnConfig // of the connection that listens
	sql     statements
	me      string       // names this storage in what it notifies
	grabs   atomic.Int64 // the number of the last claim, see claim
	bell    bell
	company company
	pending chan struct{}      // capacity 1: others are to be told that there are jobs
	ended   context.Context    // when Close begins; not a caller's
	end     context.CancelFunc // of ended
	tasks   sync.WaitGroup     // listen and notify

	mu        sync.Mutex // guards the rest
	closed    bool
	listening bool
	pruned    time.Time        // when Retention was last enforced
	lines     map[string]*line // by the queues that they are for
}

var _ interface {
	pinion.Storage
	pinion.Canceler
	pinion.Inspector
} = (*Storage)(nil)

const (
	patience    = 10 * time.Second     // for which a verb is tried again
	callMost    = 30 * time.Second     // that one try may take
	notifyPause = 2 * time.Millisecond // between two NOTIFYs of a process
	lookPause   = time.Millisecond     // between two looks of a process, while there are rings; see await
	lookMost    = 8 * lookPause
	maxName     = 1 << 10 // bytes of what an index finds: a third of what one of its rows may hold
)

// Open opens the queue in the database that url names, a URL as libpq and pgxpool take it: several hosts with
// target_session_attrs=read-write find the primary among them. The tables are created, or brought up to date, if
// need be; those of a newer Pinion are refused. nil opts are the defaults; what they leave open the URL may say. The
// caller closes the storage.
func Open(ctx context.Context, url string, opts *Options) (*Storage, error) {
	config, err := pgxpool.ParseConfig(url) // its errors hide the password
	if err != nil {
		return nil, fmt.Errorf("pinion: open: %w", err)
	}
	s := &Storage{me: pinion.NewID(), pending: make(chan struct{}, 1), lines: make(map[string]*line)}
	if opts != nil {
		s.opts = *opts
	}
	if err := s.configure(config, url); err != nil {
		return nil, fmt.Errorf("pinion: open: %w", err)
	}
	s.sql = statementsFor(s.opts.Schema)
	s.grabs.Store(rand.Int64N(1<<31) << 32)
	if s.pool, err = pgxpool.NewWithConfig(ctx, config); err != nil {
		return nil, fmt.Errorf("pinion: open: %w", err)
	}
	s.ended, s.end = context.WithCancel(context.WithoutCancel(ctx))
	if err := s.migrate(ctx); err != nil {
		s.end()
		s.pool.Close()
		return nil, fmt.Errorf("pinion: open: %w", err)
	}
	if !s.opts.NoListen {
		s.tasks.Go(s.notify)
	}
	return s, nil
}

// configure makes of the options and the URL the settings of the pool.
func (s *Storage) configure(config *pgxpool.Config, url string) error {
	o, params := &s.opts, config.ConnConfig.RuntimeParams
	o.Schema = cmp.Or(o.Schema, params["pinion_schema"], "pinion")
	switch listen := params["pinion_listen"]; listen {
	case "", "on":
	case "off":
		o.NoListen = true
	default:
		return fmt.Errorf("pinion_listen is %q; it must be on or off", listen)
	}
	delete(params, "pinion_schema")
	delete(params, "pinion_listen")
	switch {
	case len(o.Schema) > 50 || text(o.Schema) != o.Schema:
		return fmt.Errorf("the schema's name is %q; it must be UTF-8 of at most 50 bytes", o.Schema)
	case o.MaxConns < 0 || o.MaxConns > 10_000:
		return fmt.Errorf("MaxConns is %d; 0 means 10", o.MaxConns)
	case o.PollInterval < 0:
		return errors.New("PollInterval is negative; 0 means the default")
	}
	o.Retention = cmp.Or(o.Retention, 24*time.Hour)
	if o.MaxConns > 0 || !strings.Contains(url, "pool_max_conns") {
		config.MaxConns = int32(cmp.Or(o.MaxConns, 10))
	}
	config.ConnConfig.ConnectTimeout = cmp.Or(config.ConnConfig.ConnectTimeout, patience)
	if o.NoListen {
		o.PollInterval = cmp.Or(o.PollInterval, 100*time.Millisecond)
		config.ConnConfig.DefaultQueryExecMode = pgx.QueryExecModeExec
		return nil
	}
	o.PollInterval = cmp.Or(o.PollInterval, time.Second)
	s.config = config.ConnConfig.Copy()
	// Every statement finds its rows by an index, whatever the planner knows of a table that was empty a second ago
	// and may hold a million rows when a prepared plan is used again.
	for _, off := range []string{"enable_seqscan", "enable_hashjoin", "enable_mergejoin"} {
		params[off] = "off"
	}
	return nil
}

// Close lets the verbs under way end, answers everybody else with ErrClosed and closes the connections. Closing again
// does nothing.
func (s *Storage) Close() error {
	s.mu.Lock()
	again := s.closed
	s.closed = true
	s.mu.Unlock()
	if !again {
		s.end()
	}
	s.tasks.Wait()
	s.pool.Close()
	return nil
}

func (s *Storage) isClosed() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.closed
}

// verb is one try; again says that an earlier one may have been committed.
type verb func(ctx context.Context, conn *pgx.Conn, again bool) error

// read tries a verb that writes nothing, while ctx is live.
func (s *Storage) read(ctx context.Context, name string, v verb) error {
	return s.do(ctx, name, false, false, time.Now(), v)
}

// write tries a verb that writes in one transaction. Once that has been sent, ctx no longer matters.
func (s *Storage) write(ctx context.Context, name string, v verb) error {
	return s.do(ctx, name, true, false, time.Now(), v)
}

// do tries a verb that has been on its way since start; again says that it may have been committed already.
func (s *Storage) do(ctx context.Context, name string, writes, again bool, start time.Time, v verb) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	for tries := 0; ; tries++ {
		sent, retry, err := false, false, pinion.ErrClosed
		if !s.isClosed() {
			sent, retry, err = s.try(ctx, writes, again, v)
		}
		switch {
		case err == nil:
			return nil
		case !retry && again && writes && !errors.Is(err, pinion.ErrDuplicate): // which would have been found to be itself
			return unknown(name, err)
		case !retry:
			return wrap(name, err)
		}
		if again = again || sent; again && writes {
			ctx = context.WithoutCancel(ctx)
		}
		if time.Since(start) > patience || !s.pause(ctx, backoff(tries)) {
			if s.isClosed() {
				err = pinion.ErrClosed
			} else if ctx.Err() != nil {
				err = fmt.Errorf("%w: %w", ctx.Err(), err)
			}
			if again && writes {
				err = unknown(name, err)
			}
			return wrap(name, err)
		}
	}
}

func unknown(name string, err error) error {
	return fmt.Errorf("pinion: %s: it is not known whether this was done: %w", name, err)
}

// try runs a verb once. sent says that it may have been committed although there is an error, retry that another
// connection or another moment may mend it.
func (s *Storage) try(ctx context.Context, writes, again bool, v verb) (sent, retry bool, err error) {
	pooled, err := s.pool.Acquire(ctx)
	if err != nil {
		if s.isClosed() {
			return false, false, pinion.ErrClosed
		}
		_, connecting := errors.AsType[*pgconn.ConnectError](err)
		e, refused := errors.AsType[*pgconn.PgError](err)
		return false, ctx.Err() == nil && connecting && (!refused || passing(e.Code)), err
	}
	defer pooled.Release() // which drops a closed connection
	conn := pooled.Conn()
	run := ctx
	if writes {
		var cancel context.CancelFunc
		run, cancel = context.WithTimeout(context.WithoutCancel(ctx), callMost)
		defer cancel()
	}
	if err = v(run, conn, again); err == nil {
		return false, false, nil
	}
	if e, refused := errors.AsType[*pgconn.PgError](err); refused {
		if e.Code == readOnlyServer || strings.HasPrefix(e.Code, "57P") {
			conn.Close(run) // the server was demoted, or is on its way down
		}
		// A shutdown that interrupts the wait for a synchronous standby comes after the local commit.
		return strings.HasPrefix(e.Code, "57P"), passing(e.Code), err
	}
	// pgconn.SafeToRetry says of a batch that it was not sent when the answer broke off.
	return writes, conn.IsClosed() && (writes || ctx.Err() == nil), err
}

const readOnlyServer = "25006"

// passing reports whether what the server said holds for the moment only.
func passing(code string) bool {
	switch code {
	case "40001", "40P01", // serialization failure, deadlock
		"57P01", "57P02", "57P03", // shutting down, crashed, starting
		"53300", readOnlyServer:
		return true
	}
	return strings.HasPrefix(code, "08")
}

// backoff is short at first: the connection was dead, and the server may well live.
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
	case <-s.ended.Done():
	}
	return ctx.Err() == nil && s.ended.Err() == nil
}

// wrap names the verb that failed, unless the error says enough.
func wrap(name string, err error) error {
	if err == nil || strings.HasPrefix(err.Error(), "pinion: ") || errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	return fmt.Errorf("pinion: %s: %w", name, err)
}

// text is a string as the server takes it: what holds a NUL or is not UTF-8 names nothing that is stored.
func text(s string) string {
	return strings.ReplaceAll(strings.ToValidUTF8(s, "\uFFFD"), "\x00", "\uFFFD")
}

func isCode(err error, code string) bool {
	e, ok := errors.AsType[*pgconn.PgError](err)
	return ok && e.Code == code
}

// Package postgres keeps Pinion's jobs in a PostgreSQL database, for programs that have outgrown one machine.
// Only the storage that a program opens changes:
//
//	storage, err := postgres.Open(ctx, "postgres://user@host/database", nil)
//
// Importing the package also registers the schemes postgres and postgresql with [pinion.Open]. So the command
// line works with --db postgres://… and --import github.com/pinion-queue/pinion/postgres.
//
// The storage passes [pinion.CheckStorage], and what package pinion promises holds here. A job whose Enqueue
// returned nil is as durable as the server's commits. With the server's defaults (fsync and synchronous_commit
// on) it survives a crash of the server and of its machine. A failover loses nothing if the standby is
// synchronous.
//
// # Tables
//
// All tables are in one schema, "pinion" by default. Open creates the schema and migrates it under an advisory
// lock, for which it needs the right to create a schema, or an existing schema that the user owns. A program
// that opens an up-to-date schema needs SELECT, INSERT, UPDATE and DELETE on its tables, and USAGE on the
// schema and its sequences. The tests use version 15 of the server; the SQL needs version 13.
//
// # Clocks
//
// The server's clock measures leases, due times and retention, so the clocks of the workers' machines do not
// matter. Two things come from the caller's clock: CreatedAt, and times that the caller passes, such as
// [pinion.Job].RunAt and the time of a retry. A failover to a server whose clock differs costs no living worker
// its job: a lease is taken back only at a second look, and a heartbeat in between keeps it.
//
// # Transactions
//
// [Storage.Tx] enqueues in a pgx.Tx, and [Storage.SQLTx] in a sql.Tx of any driver for PostgreSQL. Their method
// Done ends the job of the running task in the same transaction, so that what the task writes happens exactly
// once. The transaction must be on the queue's database; another one is an error.
//
// # Limits
//
// Limits of queues are exact over all processes. Claims that include a limited queue take turns with each other,
// so give a limited queue workers of its own where speed matters. Claims of other queues do not wait.
//
// # When the server is away
//
// A verb is tried again on another connection for up to ten seconds if its connection breaks, if the server is
// starting or shutting down, or after a deadlock or serialization failure. That is safe even if the connection
// broke during the COMMIT, when nobody can know whether the transaction took place. The next try recognizes
// what an earlier one has stored: an Enqueue by its ids, a claim by its number, the end of a claim by the job's
// status.
//
// After ten seconds the verb returns the error. An Enqueue may have taken place then: enqueue again with the same
// [pinion.Job].ID, and ErrDuplicate says that it did. Workers keep trying by themselves.
//
// # Waiting
//
// LISTEN and NOTIFY wake a Dequeue that waits; each process uses one connection for it. The Dequeue also looks
// by itself every PollInterval. A proxy that pools transactions, such as PgBouncer, supports neither LISTEN nor
// prepared statements: set [Options].NoListen, or write ?pinion_listen=off into the URL.
package postgres

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/pinion-queue/pinion"
	"github.com/pinion-queue/pinion/internal/rules"
)

func init() {
	pinion.RegisterScheme("postgres", openScheme)
	pinion.RegisterScheme("postgresql", openScheme)
}

func openScheme(ctx context.Context, url string) (pinion.Storage, error) {
	s, err := Open(ctx, url, nil)
	if err != nil {
		return nil, err // not s: a nil *Storage in a pinion.Storage is not nil
	}
	return s, nil
}

// Options are settings of Open; the zero value is the default.
type Options struct {
	// Schema is the schema of the tables, at most 50 bytes ["pinion"]. In the URL: ?pinion_schema=name.
	Schema string
	// MaxConns is how many connections this process opens at most, besides the one that listens [10]. A worker
	// needs about four, however many slots it has. Concurrent calls that enqueue one job without an ID or a Key
	// share one connection; each other Enqueue needs one while it runs. In the URL: ?pool_max_conns=n.
	MaxConns int
	// Retention is how long finished jobs are kept before running workers prune them [24h]; negative: for ever.
	Retention time.Duration
	// PollInterval is how often a waiting Dequeue looks by itself [1s; with NoListen 100ms].
	PollInterval time.Duration
	// NoListen is for proxies that pool transactions: no LISTEN, no NOTIFY, no prepared statements, no settings
	// of the session. In the URL: ?pinion_listen=off.
	NoListen bool
}

const (
	defaultMaxConns = 10
	reserved        = 4 // of the connections, which listings leave to the verbs that a lease hangs on
)

// Storage keeps jobs in one schema of a PostgreSQL database. Any number of processes on any number of machines
// may share it.
type Storage struct {
	opts         Options
	pool         *pgxpool.Pool
	listenConfig *pgx.ConnConfig // of the connection that listens; nil with NoListen
	identity     string          // of the queue; see identitySQL
	statements   sync.Map        // SQL as the code has it, to SQL for this schema; see sql
	name         string          // identifies this storage in its notifications
	claimNumber  atomic.Int64    // of the last claim; see claimDue
	limited      atomic.Bool     // the last claim met a limit
	wakeups      broadcast       // closed when there may be jobs to claim
	inserts      insertGroup     // the calls of Enqueue that share a statement
	browsing     chan struct{}   // filled by whoever lists or counts; see browse
	unannounced  chan struct{}   // capacity 1: other processes do not know yet that jobs became due

	closing    context.Context // done when Close begins; the owner of listen and announce
	beginClose context.CancelFunc
	goroutines sync.WaitGroup // listen and announce

	mu        sync.Mutex // guards the rest
	closed    bool
	listening bool
	pruned    time.Time           // when Retention was last enforced
	merged    time.Time           // when ends were last merged
	lanes     map[string]*lane    // by what their Dequeues ask for
	doubts    map[doubt]time.Time // leases that this storage has found expired, to when that was committed
}

var _ interface {
	pinion.Storage
	pinion.Canceler
	pinion.Inspector
	pinion.Limiter
} = (*Storage)(nil)

// Open opens the queue in the database that url names, and creates or migrates its tables if necessary.
//
// The URL is as libpq and pgxpool take it. With several hosts, target_session_attrs=read-write finds the
// primary. Tables of a newer Pinion, and a table jobs of another program, are errors. Fields of opts that are
// zero, and nil opts, leave the setting to the URL or to its default. The caller closes the storage.
func Open(ctx context.Context, url string, opts *Options) (*Storage, error) {
	s, err := openStorage(ctx, url, opts)
	if err != nil {
		return nil, fmt.Errorf("pinion: open: %w", err)
	}
	return s, nil
}

func openStorage(ctx context.Context, url string, opts *Options) (*Storage, error) {
	config, err := pgxpool.ParseConfig(url) // its errors hide the password
	if err != nil {
		return nil, err
	}
	s := &Storage{
		name:        pinion.NewID(),
		unannounced: make(chan struct{}, 1),
		lanes:       make(map[string]*lane),
		doubts:      make(map[doubt]time.Time),
	}
	if opts != nil {
		s.opts = *opts
	}
	if err := s.configure(config, url); err != nil {
		return nil, err
	}
	s.claimNumber.Store(rand.Int64N(1<<31) << 32)
	s.pool, err = pgxpool.NewWithConfig(ctx, config)
	if err != nil {
		return nil, err
	}
	s.browsing = make(chan struct{}, max(1, config.MaxConns-reserved))
	s.closing, s.beginClose = context.WithCancel(context.WithoutCancel(ctx))
	if err := s.migrate(ctx); err != nil {
		s.beginClose()
		s.pool.Close()
		return nil, err
	}
	if !s.opts.NoListen {
		s.goroutines.Go(s.announce)
	}
	return s, nil
}

// configure completes the options from the URL and the defaults, and sets up the pool's config.
func (s *Storage) configure(config *pgxpool.Config, url string) error {
	o, params := &s.opts, config.ConnConfig.RuntimeParams
	if o.Schema == "" {
		o.Schema = params["pinion_schema"]
	}
	if params["pinion_listen"] == "off" {
		o.NoListen = true
	} else if listen := params["pinion_listen"]; listen != "" && listen != "on" {
		return fmt.Errorf("pinion_listen is %q; want on or off", listen)
	}
	delete(params, "pinion_schema") // the server does not know them
	delete(params, "pinion_listen")
	if err := o.check(); err != nil {
		return err
	}
	o.setDefaults()
	if o.MaxConns > 0 {
		config.MaxConns = int32(o.MaxConns)
	} else if !strings.Contains(url, "pool_max_conns") {
		config.MaxConns = defaultMaxConns
	}
	if config.ConnConfig.ConnectTimeout == 0 {
		config.ConnConfig.ConnectTimeout = retryFor
	}
	if o.NoListen {
		config.ConnConfig.DefaultQueryExecMode = pgx.QueryExecModeExec
		return nil
	}
	s.listenConfig = config.ConnConfig.Copy()
	params["default_transaction_isolation"] = "read committed" // a statement must see what others committed before it
	// Prepared plans outlive what the planner knew: a table that was empty a second ago may hold a million rows
	// now. All statements can use an index, and without these alternatives the planner always does.
	for _, plan := range refusedPlans {
		params[plan] = "off"
	}
	params["plan_cache_mode"] = "force_generic_plan" // planning a claim takes as long as the claim
	return nil
}

// refusedPlans are what the planner may choose for a table that it believes to be empty. A bitmap scan reads
// all jobs that are ready and sorts them, to find the first.
var refusedPlans = []string{"enable_seqscan", "enable_bitmapscan", "enable_hashjoin", "enable_mergejoin"}

// check returns an error for options out of their range.
func (o *Options) check() error {
	if len(o.Schema) > 50 || storable(o.Schema) != o.Schema {
		return fmt.Errorf("the schema is %q; want UTF-8 of at most 50 bytes", o.Schema)
	}
	if o.MaxConns < 0 || o.MaxConns > 10_000 {
		return fmt.Errorf("MaxConns is %d; want 0 (default %d) to 10000", o.MaxConns, defaultMaxConns)
	}
	if o.PollInterval < 0 {
		return errors.New("PollInterval is negative; want 0 (the default) or more")
	}
	return nil
}

func (o *Options) setDefaults() {
	if o.Schema == "" {
		o.Schema = "pinion"
	}
	if o.Retention == 0 {
		o.Retention = rules.DefaultRetention
	}
	if o.PollInterval == 0 && o.NoListen {
		o.PollInterval = 100 * time.Millisecond
	} else if o.PollInterval == 0 {
		o.PollInterval = time.Second
	}
}

// Close waits for the verbs under way, and closes the connections. A Dequeue that waits, and any later call,
// returns ErrClosed. Closing again does nothing.
func (s *Storage) Close() error {
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	s.beginClose()
	s.goroutines.Wait()
	s.pool.Close()
	return nil
}

func (s *Storage) isClosed() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.closed
}

// sql returns a statement of this package for the storage's schema. It keeps it, because the statements are
// constants.
func (s *Storage) sql(statement string) string {
	if kept, ok := s.statements.Load(statement); ok {
		return kept.(string)
	}
	replaced := inSchema(s.opts.Schema, statement)
	s.statements.Store(statement, replaced)
	return replaced
}

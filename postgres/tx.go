package postgres

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pinion-queue/pinion"
)

// Tx returns a [pinion.Tx] that works inside tx, a transaction of the caller's on the queue's database.
//
// Each Enqueue stores all its jobs or none. After an error, which may be a [pinion.DuplicateError], tx can go
// on. Nothing is tried again. A transaction that has enqueued takes a lock at its COMMIT that all NOTIFYs of
// the server share; [Options].NoListen avoids that. A transaction on another database, or where the schema
// belongs to another queue, is an error.
func (s *Storage) Tx(tx pgx.Tx) pinion.Tx { return &transaction{storage: s, tx: pgxTx{tx}} }

// SQLTx is Tx for a transaction of database/sql, with any driver for PostgreSQL.
func (s *Storage) SQLTx(tx *sql.Tx) pinion.Tx { return &transaction{storage: s, tx: sqlTx{tx}} }

// transaction implements [pinion.Tx].
type transaction struct {
	storage *Storage
	tx      callersTx
	checked bool // tx is on the queue's database
}

// callersTx is what pgx.Tx and sql.Tx have in common. An error of the server ends the caller's transaction, so
// all statements run between a savepoint and its release.
type callersTx interface {
	exec(ctx context.Context, sql string, args ...any) (changed int64, err error)
	// queryRow scans the first row. found is false if there is none.
	queryRow(ctx context.Context, sql string, args []any, into ...any) (found bool, err error)
}

const (
	savepointSQL = `SAVEPOINT pinion`
	releaseTxSQL = `RELEASE SAVEPOINT pinion`
	undoTxSQL    = `ROLLBACK TO SAVEPOINT pinion`
)

// Enqueue implements [pinion.Tx].
func (t *transaction) Enqueue(ctx context.Context, jobs ...*pinion.Job) error {
	s := t.storage
	b, err := newBatch(jobs)
	if err != nil {
		return s.nameHolder(ctx, err)
	}
	if s.isClosed() {
		return pinion.ErrClosed
	}
	if len(jobs) == 0 {
		return ctx.Err()
	}
	if err := t.insert(ctx, b); err != nil {
		return wrap("enqueue", err)
	}
	b.accept()
	return nil
}

// insert stores the batch, or returns a DuplicateError that names the job which has an ID or a Key of it.
func (t *transaction) insert(ctx context.Context, b *batch) error {
	for {
		var stored int64
		err := t.atomically(ctx, func() (err error) {
			stored, err = t.tx.exec(ctx, t.storage.sql(insertManyChosenSQL), b.columns()...)
			if err == nil && stored < int64(len(b.jobs)) {
				return errTaken
			}
			if err != nil {
				return err
			}
			return t.notify(ctx)
		})
		if !errors.Is(err, errTaken) {
			return err
		}
		if err := t.holder(ctx, b); err != nil {
			return err
		}
		// The job that held the Key has finished meanwhile.
	}
}

// errTaken rolls back an INSERT that left out a job.
var errTaken = errors.New("an id or a key is taken")

// holder returns a DuplicateError that names the job which has an ID or a Key of the batch, or nil if there is
// none.
func (t *transaction) holder(ctx context.Context, b *batch) error {
	ids, keys := b.names()
	var taken pinion.DuplicateError
	found, err := t.tx.queryRow(ctx, t.storage.sql(idTakenSQL), []any{ids}, &taken.ID)
	if err == nil && !found {
		found, err = t.tx.queryRow(ctx, t.storage.sql(keyTakenSQL), []any{keys}, &taken.ID, &taken.Key)
	}
	if err != nil || !found {
		return err
	}
	return &taken
}

// Done implements [pinion.Tx].
func (t *transaction) Done(ctx context.Context) error {
	if t.storage.isClosed() {
		return pinion.ErrClosed
	}
	err := pinion.EndInTx(ctx, func(job *pinion.Job) error {
		return t.atomically(ctx, func() error { return t.markDone(ctx, job) })
	})
	return wrap("done", err)
}

func (t *transaction) markDone(ctx context.Context, job *pinion.Job) error {
	jobs := []*pinion.Job{job}
	args, _ := handIn(jobs)
	var key claimKey
	var fate claimFate
	held, err := t.tx.queryRow(ctx, t.storage.sql(markDoneSQL), append(args, results(jobs)),
		&key.id, &key.claim, &key.attempts, &fate.canceled, &fate.limited)
	if err != nil {
		return err
	}
	if !held {
		return fmt.Errorf("%w: job %s; roll the transaction back", pinion.ErrLeaseLost, job.ID)
	}
	if fate.limited { // there is room for another job
		return t.notify(ctx)
	}
	return nil
}

func (t *transaction) notify(ctx context.Context) error {
	if t.storage.opts.NoListen {
		return nil
	}
	_, err := t.tx.exec(ctx, notifyAllSQL, t.storage.channel())
	return err
}

// atomically runs do under a savepoint, and undoes it if it returns an error. The first time it checks that the
// transaction is on the queue's database.
func (t *transaction) atomically(ctx context.Context, do func() error) error {
	if _, err := t.tx.exec(ctx, savepointSQL); err != nil {
		return err
	}
	err := t.check(ctx)
	if err == nil {
		err = do()
	}
	if err == nil {
		_, err = t.tx.exec(ctx, releaseTxSQL)
		return err
	}
	undoing, cancel := context.WithTimeout(context.WithoutCancel(ctx), maxTry)
	defer cancel()
	if _, undoErr := t.tx.exec(undoing, undoTxSQL); undoErr != nil {
		return errors.Join(err, undoErr)
	}
	_, releaseErr := t.tx.exec(undoing, releaseTxSQL)
	return errors.Join(err, releaseErr)
}

// check returns an error if the transaction is on another database, or the schema there is another queue's.
func (t *transaction) check(ctx context.Context) error {
	if t.checked {
		return nil
	}
	schema := t.storage.opts.Schema
	var there bool
	_, err := t.tx.queryRow(ctx, `SELECT EXISTS (SELECT FROM pg_catalog.pg_class WHERE relname='pinion_version'
		AND relnamespace=(SELECT oid FROM pg_catalog.pg_namespace WHERE nspname=$1::text))`, []any{schema}, &there)
	if err != nil {
		return err
	}
	var identity string
	if there {
		_, err = t.tx.queryRow(ctx, t.storage.sql(identitySQL), nil, &identity)
	}
	if err != nil {
		return err
	}
	if identity != t.storage.identity {
		return fmt.Errorf("the transaction is on another database than the queue in the schema %q; "+
			"begin it on the queue's database", schema)
	}
	t.checked = true
	return nil
}

// ---- The two kinds of transactions ----

type pgxTx struct{ tx pgx.Tx }

func (t pgxTx) exec(ctx context.Context, sql string, args ...any) (int64, error) {
	tag, err := t.tx.Exec(ctx, sql, args...)
	return tag.RowsAffected(), err
}

func (t pgxTx) queryRow(ctx context.Context, sql string, args []any, into ...any) (found bool, err error) {
	err = t.tx.QueryRow(ctx, sql, args...).Scan(into...)
	if errors.Is(err, pgx.ErrNoRows) {
		return false, nil
	}
	return err == nil, err
}

type sqlTx struct{ tx *sql.Tx }

func (t sqlTx) exec(ctx context.Context, sql string, args ...any) (int64, error) {
	result, err := t.tx.ExecContext(ctx, sql, literals(args)...)
	if err != nil {
		return 0, err
	}
	return result.RowsAffected()
}

func (t sqlTx) queryRow(ctx context.Context, query string, args []any, into ...any) (found bool, err error) {
	err = t.tx.QueryRowContext(ctx, query, literals(args)...).Scan(into...)
	if errors.Is(err, sql.ErrNoRows) {
		return false, nil
	}
	return err == nil, err
}

// literals returns arguments as every driver takes them: database/sql has no arrays, so they become the text
// that the server reads arrays from.
func literals(args []any) []any {
	taken := make([]any, len(args))
	for i, arg := range args {
		switch arg := arg.(type) {
		case []string:
			taken[i] = arrayLiteral(arg, quoted)
		case []*string:
			taken[i] = arrayLiteral(arg, orNull(quoted))
		case []int64:
			taken[i] = arrayLiteral(arg, func(n int64) string { return strconv.FormatInt(n, 10) })
		case []int16:
			taken[i] = arrayLiteral(arg, func(n int16) string { return strconv.Itoa(int(n)) })
		case []*time.Time:
			taken[i] = arrayLiteral(arg, orNull(func(t time.Time) string { return quoted(t.Format(time.RFC3339Nano)) }))
		default:
			taken[i] = arg
		}
	}
	return taken
}

func arrayLiteral[T any](elements []T, literal func(T) string) string {
	texts := make([]string, len(elements))
	for i, element := range elements {
		texts[i] = literal(element)
	}
	return "{" + strings.Join(texts, ",") + "}"
}

func quoted(s string) string { return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(s) + `"` }

// orNull extends a literal to pointers, of which nil is NULL.
func orNull[T any](literal func(T) string) func(*T) string {
	return func(p *T) string {
		if p == nil {
			return "NULL"
		}
		return literal(*p)
	}
}

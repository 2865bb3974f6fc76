package postgres

import (
	"context"

	"github.com/jackc/pgx/v5"

	"github.com/pinion-queue/pinion"
)

// Tx returns a [pinion.Tx] that enqueues inside tx, a transaction of the caller's on the database of the queue.
//
// Each Enqueue stores all its jobs or none. After an error, which may be a [pinion.DuplicateError], tx can go on. Nothing
// is tried again. A transaction that has enqueued takes a lock at its COMMIT that all NOTIFYs of the server share;
// [Options].NoListen avoids that.
func (s *Storage) Tx(tx pgx.Tx) pinion.Tx { return &transaction{s, tx} }

type transaction struct {
	storage *Storage
	tx      pgx.Tx
}

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
		stored, err := t.tryInsert(ctx, b)
		if stored || err != nil {
			return err
		}
		if err := t.storage.holder(ctx, t.tx, b); err != nil {
			return err
		}
		// The job that held the Key has finished meanwhile.
	}
}

// tryInsert stores the batch under a savepoint, because an error would otherwise end the caller's transaction.
func (t *transaction) tryInsert(ctx context.Context, b *batch) (stored bool, err error) {
	savepoint, err := t.tx.Begin(ctx)
	if err != nil {
		return false, err
	}
	defer savepoint.Rollback(ctx) // does nothing after Commit
	stored, err = t.storage.insert(ctx, savepoint, b)
	if err != nil || !stored {
		return false, err
	}
	if !t.storage.opts.NoListen {
		if _, err := savepoint.Exec(ctx, notifyAllSQL, t.storage.channel()); err != nil {
			return false, err
		}
	}
	return true, savepoint.Commit(ctx)
}

//go:build unix

package crashlab

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/pinion-queue/pinion"
)

// The tasks of the proofs.
const (
	shortTask = "short" // takes 5 to 25 ms
	exactTask = "exact" // see exactly
)

// periodicName is the name of the periodic job.
const periodicName = "tick"

// prove runs a worker of a Swarm until ctx ends.
func (c *child) prove(ctx context.Context, storage pinion.Storage) error {
	worker := c.worker()
	worker.Storage = storage
	worker.Registry = new(pinion.Registry)
	worker.Registry.Add(pinion.Task[slotArgs]{Name: shortTask, Run: c.short})
	worker.Retry = &pinion.RetryPolicy{MaxRetries: 1000, BaseDelay: time.Millisecond, Cap: 20 * time.Millisecond}
	switch c.Role {
	case ProofExactlyOnce:
		x, err := newExactly(c, storage)
		if err != nil {
			return err
		}
		defer x.db.Close()
		worker.Registry.Add(pinion.Task[exactArgs]{Name: exactTask, Run: x.run})
	case ProofPeriodic:
		worker.Periodic = []pinion.Periodic{{
			Name:     periodicName,
			Schedule: pinion.Every([]time.Duration{200 * time.Millisecond, 300 * time.Millisecond}[c.Number%2]),
			Job:      func(at time.Time) *pinion.Job { return pinion.NewJob(shortTask, at.Format(time.RFC3339Nano)) },
		}}
	}
	return worker.Run(ctx)
}

// slotArgs are the arguments of shortTask.
type slotArgs struct {
	Slot string `json:"slot,omitempty"` // of a periodic job
}

func (c *child) short(ctx context.Context, args slotArgs) error {
	job, _ := pinion.JobFromContext(ctx)
	c.log.write(logStart, claimName(job), "slot "+args.Slot)
	defer c.log.write(logEnd, claimName(job))
	return sleep(ctx, 5*time.Millisecond+randomTime(c.newRandom(job), 20*time.Millisecond))
}

// newRandom returns random numbers for one attempt at a job.
func (c *child) newRandom(job *pinion.Job) *rand.Rand {
	return rand.New(rand.NewPCG(c.Seed, uint64(job.Claim)))
}

// ---- Exactly once ----

// exactly runs exactTask. It adds 1 to the only row of the table sums, in a transaction of its own that also ends the
// job. If its argument is true it enqueues another job, with false, in the same transaction.
type exactly struct {
	*child
	db *sql.DB
	tx func(*sql.Tx) pinion.Tx // of the storage
}

// exactArgs are the arguments of exactTask.
type exactArgs struct {
	Another bool
}

func newExactly(c *child, storage pinion.Storage) (exactly, error) {
	x := exactly{child: c}
	switch s := storage.(type) {
	case interface{ SQLTx(*sql.Tx) pinion.Tx }:
		x.tx = s.SQLTx
	case *pinion.SQLiteStorage:
		x.tx = s.Tx
	default:
		return x, fmt.Errorf("%T has no transactions of database/sql", storage)
	}
	var err error
	x.db, err = c.SQL.open()
	return x, err
}

func (x exactly) run(ctx context.Context, args exactArgs) error {
	job, _ := pinion.JobFromContext(ctx)
	random := x.newRandom(job)
	x.log.write(logStart, claimName(job), "slot")
	defer x.log.write(logEnd, claimName(job))
	time.Sleep(randomTime(random, 20*time.Millisecond)) // here a worker may lose the lease, and not heed ctx
	tx, err := x.db.BeginTx(context.WithoutCancel(ctx), nil)
	if err != nil {
		return err
	}
	defer tx.Rollback()
	if _, err := tx.ExecContext(context.WithoutCancel(ctx), x.SQL.text("UPDATE @sums SET n=n+1")); err != nil {
		return err
	}
	if args.Another {
		if err := x.tx(tx).Enqueue(ctx, pinion.NewJob(exactTask, false)); err != nil {
			return err
		}
	}
	if random.IntN(20) == 0 {
		return errors.New("it fails before Done")
	}
	if err := x.tx(tx).Done(ctx); err != nil {
		return err
	}
	if random.IntN(20) == 0 {
		return errors.New("it fails after Done, and rolls back")
	}
	if err := tx.Commit(); err != nil {
		return err
	}
	if random.IntN(20) == 0 {
		return errors.New("it fails after its COMMIT")
	}
	return nil
}

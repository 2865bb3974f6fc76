package crashlab

import (
	"context"
	"database/sql"
	"errors"
	"math/rand/v2"
	"time"

	"github.com/pinion-queue/pinion"
)

// exactly runs ExactTask.
type exactly struct {
	*child
	db      *sql.DB // the file of the storage
	storage *pinion.SQLiteStorage
}

// exactArgs are the arguments of ExactTask.
type exactArgs struct {
	Another bool
}

// openForTransactions opens a file as an application does that keeps its own tables beside the queue.
func openForTransactions(path string) (*sql.DB, error) {
	return sql.Open("sqlite", path+"?_txlock=immediate&_pragma=busy_timeout(20000)")
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
	if _, err := tx.ExecContext(context.WithoutCancel(ctx), "UPDATE sums SET n=n+1"); err != nil {
		return err
	}
	if args.Another {
		if err := x.storage.Tx(tx).Enqueue(ctx, pinion.NewJob(ExactTask, false)); err != nil {
			return err
		}
	}
	if random.IntN(20) == 0 {
		return errors.New("it fails before Done")
	}
	if err := x.storage.Tx(tx).Done(ctx); err != nil {
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

// newRandom returns random numbers for one attempt at a job.
func (c *child) newRandom(job *pinion.Job) *rand.Rand {
	return rand.New(rand.NewPCG(c.Seed, uint64(job.Claim)))
}

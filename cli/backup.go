package cli

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/pinion-queue/pinion"
)

const backupDetail = `
FILE, which must not exist, becomes the queue as it is at one moment. Workers and
producers go on meanwhile. A copy made with cp misses what stands in the -wal.

The copy is a queue like any other: a worker that opens it runs its jobs, also those
that were running. To restore it, stop all programs that use the queue, remove the
queue with its -wal and -shm, and move the copy into its place.
`

const backupExamples = `pinion backup --db q.db before-deploy.db`

// backer is a storage that can copy itself into a file.
type backer interface {
	Backup(ctx context.Context, path string) error
}

func backup(c *call) func(context.Context) error {
	c.storageFlags()
	return func(ctx context.Context) error {
		ctx, stop := untilSignal(ctx)
		defer stop()
		c.surviveClosedPipe()
		return c.inspect(ctx, reads, func(storage pinion.Inspector) error {
			file := c.operands[0]
			b, ok := storage.(backer)
			if !ok {
				return fmt.Errorf("%T has no backup: %w; use the means of its database", storage, errors.ErrUnsupported)
			}
			err := b.Backup(ctx, file)
			if errors.Is(err, fs.ErrExist) {
				return fmt.Errorf("%w; name a file that does not exist yet", err)
			}
			if err != nil {
				return signalOr(ctx, err)
			}
			c.did("the copy in %s is complete", file)
			info, err := os.Stat(file)
			if err != nil {
				return err
			}
			fmt.Fprintf(c.stdout, "copied to %s, %s\n", printable(file, ""), byteSize(info.Size()))
			return nil
		})
	}
}

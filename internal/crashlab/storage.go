package crashlab

import (
	"context"
	"errors"

	"github.com/pinion-queue/pinion"
)

// Storage is a storage with every optional interface of package pinion. The storages of this module are such.
type Storage interface {
	pinion.Storage
	pinion.Releaser
	pinion.Prefetcher
	pinion.Canceler
	pinion.Inspector
}

// claimOptions say which jobs a caller wants to claim.
type claimOptions struct {
	max    int      // at most
	ahead  int      // how many of max may be claimed ahead of free slots
	queues []string // only from these; none: from every queue
	noWait bool     // return what is due now, perhaps nothing
}

// claim claims jobs. It hides from the model how package pinion spells that.
func claim(ctx context.Context, s Storage, o claimOptions) ([]*pinion.Job, error) {
	if o.noWait { // a storage does not wait if the context has ended, but still returns what is due
		ended, cancel := context.WithCancel(ctx)
		cancel()
		jobs, err := claimOrWait(ended, s, o)
		nothingDue := errors.Is(err, context.Canceled) && ctx.Err() == nil
		if nothingDue && o.max > 0 {
			return nil, nil
		}
		return jobs, err
	}
	return claimOrWait(ctx, s, o)
}

func claimOrWait(ctx context.Context, s Storage, o claimOptions) ([]*pinion.Job, error) {
	if o.ahead == 0 {
		return s.Dequeue(ctx, o.max, o.queues...)
	}
	return s.Prefetch(ctx, o.max-o.ahead, o.max, o.queues...)
}

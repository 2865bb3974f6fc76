package cli

import (
	"context"
	"errors"
	"fmt"
	"strconv"

	"github.com/pinion-queue/pinion"
	"github.com/pinion-queue/pinion/internal/rules"
)

// pause, resume and limit say how many jobs of a queue may run at once, over all workers.

const pauseDetail = `
Workers claim no more jobs of the queue. What runs goes on, and jobs can be added.
"pinion resume" ends the pause. A pause replaces the limit of the queue, and a resume
does not bring that back.
`

const pauseExamples = `pinion pause mail --db q.db`

const resumeDetail = `
Workers claim the jobs of the queue again, as many as they can run: it also lifts a
limit.
`

const resumeExamples = `pinion resume mail --db q.db`

const limitDetail = `
At most N jobs of the queue run at once, over all workers. What runs goes on, also if
it is more than N. The job of a dead worker counts until another takes it back.
"pinion resume" lifts the limit, and "pinion status" shows it.
`

const limitExamples = `pinion limit mail 3 --db q.db`

func pause(c *call) func(context.Context) error {
	c.storageFlags()
	return func(ctx context.Context) error { return c.setLimit(ctx, 0) }
}

func resume(c *call) func(context.Context) error {
	c.storageFlags()
	return func(ctx context.Context) error { return c.setLimit(ctx, -1) }
}

func limit(c *call) func(context.Context) error {
	c.storageFlags()
	return func(ctx context.Context) error {
		limit, err := strconv.ParseInt(c.operands[1], 10, 64) // an int may have 32 bits
		if err != nil {
			return usagef("%q is not a number of jobs; write it as in: pinion limit mail 3", c.operands[1])
		}
		if limit < 1 {
			return usagef("the limit is %d; want at least 1, or use `pinion pause` or `pinion resume`", limit)
		}
		if limit > rules.MostLimit {
			return usagef("the limit is %d; want at most %d, or use `pinion resume` for none", limit, rules.MostLimit)
		}
		return c.setLimit(ctx, int(limit))
	}
}

// setLimit sets the limit of the queue that the first operand names, and reports the new state. It warns of a
// name that may be misspelt.
func (c *call) setLimit(ctx context.Context, limit int) error {
	queue := c.operands[0]
	if queue == "" {
		return usagef("QUEUE is empty; is a variable of your shell not set?")
	}
	return c.change(ctx, func(ctx context.Context, storage pinion.Inspector) error {
		limiter, ok := storage.(pinion.Limiter)
		if !ok {
			return fmt.Errorf("%T is not a pinion.Limiter, so its queues cannot be paused or limited: %w",
				storage, errors.ErrUnsupported)
		}
		before, err := limiter.Limits(ctx)
		if err != nil {
			return err
		}
		if err := limiter.SetLimit(ctx, queue, limit); err != nil {
			return err
		}
		c.did("the queue %s is set to: %s", queue, limitText(limit))
		stats, err := storage.Stats(ctx)
		if err != nil {
			return err
		}
		_, wasLimited := before[queue]
		if !wasLimited && !hasQueue(stats, queue) {
			fmt.Fprintf(c.stderr, "pinion: no job is in the queue %s now; is it the right name?\n",
				printable(queue, ""))
		}
		fmt.Fprintf(c.stdout, "%s: %s\n", printable(queue, ""), limitText(limit))
		return nil
	})
}

// hasQueue reports whether a queue has had jobs lately.
func hasQueue(stats pinion.Stats, queue string) bool {
	for _, q := range stats.Queues {
		if q.Queue == queue {
			return true
		}
	}
	return false
}

// limitText returns how a limit is called.
func limitText(limit int) string {
	switch {
	case limit < 0:
		return "no limit"
	case limit == 0:
		return "paused"
	}
	return fmt.Sprintf("at most %d", limit)
}

// limitsOf returns the limits by queue, or nil if the storage has none.
func limitsOf(ctx context.Context, storage pinion.Inspector) (map[string]int, error) {
	limiter, ok := storage.(pinion.Limiter)
	if !ok {
		return nil, nil
	}
	return limiter.Limits(ctx)
}

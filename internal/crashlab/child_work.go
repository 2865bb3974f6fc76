package crashlab

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"strconv"
	"time"

	"github.com/pinion-queue/pinion"
)

const (
	retries       = 3 // after the first attempt, for every task but poison
	timesPerLease = 4 // looks for lost leases in one VisibilityTimeout
)

// heartbeatInterval is shorter than a fifth of the lease and a second, which is between the two looks of a reaper.
func heartbeatInterval(visibility time.Duration) time.Duration {
	return visibility / 5
}

func reapInterval(visibility time.Duration) time.Duration { return visibility / timesPerLease }

// work runs a worker until ctx ends.
func (c *child) work(ctx context.Context) {
	c.writeUnclean(c.worker().Run(ctx))
}

// drain runs a worker's Drain, as a program does that cron starts.
func (c *child) drain(ctx context.Context) {
	if c.DrainFor > 0 {
		short, cancel := context.WithTimeout(ctx, c.DrainFor)
		defer cancel()
		ctx = short
	}
	err := c.worker().Drain(ctx)
	if err == ctx.Err() { // and not errors.Is: a call that ran out of time is not clean
		return
	}
	c.writeUnclean(err)
}

func (c *child) writeUnclean(err error) {
	if err != nil {
		c.log.write(logUnclean, strconv.Quote(err.Error()))
	}
}

func (c *child) worker() *pinion.Worker {
	return &pinion.Worker{
		Storage:     c.storage,
		Registry:    c.tasks(),
		Concurrency: c.Slots,
		Retry: &pinion.RetryPolicy{
			MaxRetries: retries,
			BaseDelay:  10 * time.Millisecond,
			Cap:        50 * time.Millisecond,
			Jitter:     true,
		},
		VisibilityTimeout: c.Visibility,
		HeartbeatInterval: heartbeatInterval(c.Visibility),
		ReapInterval:      reapInterval(c.Visibility),
		ShutdownTimeout:   c.Grace,
		Logger:            slog.New(troubleHandler{slog.NewTextHandler(io.Discard, nil), c.log}),
	}
}

// troubleHandler copies into the laboratory's log what a worker logs about trouble with the storage. These
// are the records at level Error that are about no job.
//
// A worker may give up a call that waits for the write lock while another process holds the lock for long. No
// other trouble is expected. The judge tells the two apart by the verb.
type troubleHandler struct {
	slog.Handler
	log *logFile
}

func (h troubleHandler) Handle(_ context.Context, record slog.Record) error {
	if record.Level < slog.LevelError {
		return nil
	}
	aboutJob, gaveUp := false, false
	text := record.Message
	record.Attrs(func(attr slog.Attr) bool {
		if attr.Key == "job" {
			aboutJob = true
		}
		err, isError := attr.Value.Any().(error)
		if isError && (errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded)) {
			gaveUp = true
		}
		text += " " + attr.String()
		return true
	})
	switch {
	case aboutJob:
	case gaveUp:
		h.log.write(logGaveUp, strconv.Quote(text))
	default:
		h.log.write(logTrouble, strconv.Quote(text))
	}
	return nil
}

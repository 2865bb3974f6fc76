package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/pinion-queue/pinion"
)

const workerDetail = `
The tasks are those that the packages of --import register with pinion.Func or
pinion.Register. PACKAGE is an import path, or a ./path in the Go module around
the current directory, and may be internal. It may also register a storage
backend (pinion.RegisterScheme), whose addresses --db then takes: every command
with --db has --import for that. Compiling needs the go command; --build FILE
writes the whole command with the packages built in, which needs it no more.

SIGINT or SIGTERM stops the worker gracefully: running tasks may end, and jobs
that did not start go back. A second one stops it at once. It logs to standard
error and prints its metrics when it ends. TIME is "1m30s" or plain seconds.
`

const workerExamples = `pinion worker --import ./internal/tasks --db q.db --concurrency 8
pinion worker --import ./tasks --db q.db --queue mail --queue default --drain
pinion worker --import ./tasks --build ./work && ./work worker --db q.db`

func worker(c *call) func(context.Context) error {
	retry := pinion.DefaultRetry
	w := &pinion.Worker{Retry: &retry}
	var period time.Duration
	c.storageFlags()
	c.jsonFlag()
	c.flags.StringVar(&c.build, "build", "", "write the command with its imports to `FILE` and end")
	c.list(&w.Queues, "queue", "only jobs of the queue `NAME`; may be repeated [all]")
	c.count(&w.Concurrency, "concurrency", 1, "run `N` tasks at a time [10]")
	c.count(&retry.MaxRetries, "max-retries", 0, "`N` retries after a job's first attempt [3]")
	c.duration(&retry.BaseDelay, "base-delay", "`TIME` before the first retry, then doubled [500ms]")
	c.duration(&retry.Cap, "cap", "longest `TIME` before a retry [30s]")
	noJitter := c.flags.Bool("no-jitter", false, "do not spread the retries at random")
	c.duration(&w.TaskTimeout, "task-timeout", "cancel a task after this `TIME` [none]")
	c.duration(&w.VisibilityTimeout, "visibility-timeout", "a worker silent for this `TIME` loses its jobs [10s]")
	c.duration(&period, "run-seconds", "stop gracefully after this `TIME`")
	drain := c.flags.Bool("drain", false, "stop when nothing is due and no retry outstanding")
	verbose := c.flags.Bool("verbose", false, "log every job")

	return func(ctx context.Context) error {
		tasks := pinion.DefaultRegistry.Names()
		if len(tasks) == 0 {
			fmt.Fprintln(c.stderr, "pinion: this worker knows no task, so every job it runs will fail and become a dead letter; "+
				"name the Go packages that register tasks, as in --import ./tasks")
		}
		storage, err := c.open(ctx, creates)
		if err != nil {
			return err
		}
		if c.patience != nil {
			c.patience.Stop() // what the worker meets from here on it logs
		}
		level := slog.LevelInfo
		if *verbose {
			level = slog.LevelDebug
		}
		w.Logger = slog.New(slog.NewTextHandler(c.stderr, &slog.HandlerOptions{Level: level, ReplaceAttr: escapeDelete}))
		w.Storage, retry.Jitter = storage, !*noJitter

		if period > 0 {
			var cancel context.CancelFunc
			ctx, cancel = context.WithTimeoutCause(ctx, period, errors.New("--run-seconds is over"))
			defer cancel()
		}
		ctx, stop := signal.NotifyContext(ctx, os.Interrupt, syscall.SIGTERM)
		defer stop()
		said := make(chan struct{})
		unwatch := context.AfterFunc(ctx, func() {
			defer close(said)
			stop() // what the second signal then does is what it does to any program
			w.Logger.Info("worker stops gracefully; a second signal stops it at once", "cause", context.Cause(ctx))
		})
		w.Logger.Info("worker starts", "tasks", strings.Join(tasks, ","))
		if *drain {
			if err = w.Drain(ctx); err != nil && errors.Is(err, ctx.Err()) {
				err = fmt.Errorf("stopped before everything was drained: %w", context.Cause(ctx))
			}
		} else {
			err = w.Run(ctx)
		}
		if !unwatch() {
			<-said
		}
		return errors.Join(err, storage.Close(), c.metrics(w.Metrics()))
	}
}

// escapeDelete escapes the one control character that slog prints as it is.
func escapeDelete(_ []string, a slog.Attr) slog.Attr {
	if text := a.Value.String(); strings.Contains(text, "\x7f") {
		a.Value = slog.StringValue(strings.ReplaceAll(text, "\x7f", `\x7f`))
	}
	return a
}

func (c *call) metrics(m pinion.Metrics) error {
	if c.json {
		return c.encode(m)
	}
	w := c.table()
	fmt.Fprintf(w, "processed\t%d\nsucceeded\t%d\nfailed\t%d\nretried\t%d\ndead-lettered\t%d\nreaped\t%d\n",
		m.Processed, m.Succeeded, m.Failed, m.Retried, m.DeadLettered, m.Reaped)
	return w.Flush()
}

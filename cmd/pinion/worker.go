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
--import: the tasks are those that Go packages register with pinion.Func or
pinion.Register. PACKAGE is an import path, or a ./path in the Go module around
the current directory, and may be internal. It may also register a storage
backend (pinion.RegisterScheme), whose addresses --db then takes: every command
with --db has --import for that. Compiling needs the go command; --build FILE
writes the whole command with the packages, and the tasks of --exec, built in,
which needs it no more.

--exec: the task NAME is a program. {0}, {1} and {name} in COMMAND, or in part of
a word of it, are the job's arguments, strings as they are and the rest as JSON;
one that is missing fails the job for good. {{0}} is {0}. A word stays one word,
whatever an argument says, but one that begins with - may look like an option:
write -- before it where the program knows that. There is no shell: quotes work
as in one, and | > * $X and the like need --shell, where ${x} is the shell's and
arguments remain data: neither eval them, nor calculate with them, as bash then
runs the commands in a[$(…)]. There is no terminal either. The program also gets:

  standard input    {"args": [...], "kwargs": {...}}; it need not read it
  environment       PINION_JOB_ID, PINION_TASK, PINION_ATTEMPT, PINION_QUEUE,
                    and PINION_DB, so that it can enqueue what follows

and says by its exit status what has become of the job:

  0                 done; standard output is the job's result: as JSON if it is
                    that, else as a string, and of more than 64 KiB the beginning
  $PINION_NO_RETRY  failed for good, 100: a dead letter at once
  $PINION_RETRY     failed for now, 75 (EX_TEMPFAIL): if the last line on standard
                    output is a TIME, the retry comes then
  any other         failed; retried as the flags say

The error is the exit status and the last KiB of standard error. When a job times out,
is canceled or lost to another worker, its process group gets SIGTERM, and SIGKILL
after --kill-after; it has failed then, whatever its exit status. What a program
leaves behind has a second to end. On Linux nothing that it has started outlives
the worker, even if that is killed, except what has both left its session and
cleaned its environment; elsewhere a killed worker's programs may live on.

SIGINT or SIGTERM stops the worker gracefully: running tasks may end, and jobs
that did not start go back. After --shutdown-timeout, or at a second signal, it
stops at once. Under systemd set KillMode=mixed, or programs are told to end, too.
It logs to standard error and prints its metrics when it ends.
TIME is "1m30s" or plain seconds.
`

const workerExamples = `pinion worker --import ./internal/tasks --db q.db --concurrency 8
pinion worker --import ./tasks --db q.db --queue mail --queue default --drain
pinion worker --import ./tasks --build ./work && ./work worker --db q.db
pinion worker --exec 'pack=gzip -k -- {0}' --exec 'greet=echo "Hello, {name}"' --db q.db
pinion worker --shell --exec 'count=sort -u -- {0} | wc -l' --task-timeout 60 --db q.db`

func worker(c *call) func(context.Context) error {
	retry := pinion.DefaultRetry
	w := &pinion.Worker{Retry: &retry}
	var period time.Duration
	killAfter := 5 * time.Second
	c.storageFlags()
	c.execFlags()
	c.jsonFlag()
	c.flags.StringVar(&c.build, "build", "", "write the command with its imports to `FILE` and end")
	c.flags.StringVar(&w.Name, "name", "", "call this worker `NAME`, where jobs say who holds them [host:pid]")
	c.list(&w.Queues, "queue", "only jobs of the queue `NAME`; may be repeated [all]")
	c.count(&w.Concurrency, "concurrency", 1, "run `N` tasks at a time [10]")
	c.count(&retry.MaxRetries, "max-retries", 0, "`N` retries after a job's first attempt [3]")
	c.duration(&retry.BaseDelay, "base-delay", "`TIME` before the first retry, then doubled [500ms]")
	c.duration(&retry.Cap, "cap", "longest `TIME` before a retry [30s]")
	noJitter := c.flags.Bool("no-jitter", false, "do not spread the retries at random")
	c.duration(&w.TaskTimeout, "task-timeout", "cancel a task after this `TIME` [none]")
	c.duration(&killAfter, "kill-after", "a program of --exec that is to end has this `TIME` [5s]")
	c.duration(&w.VisibilityTimeout, "visibility-timeout", "a worker silent for this `TIME` loses its jobs [10s]")
	c.duration(&w.ShutdownTimeout, "shutdown-timeout", "running tasks may end within this `TIME` of a stop [10s]")
	c.duration(&period, "run-seconds", "stop gracefully after this `TIME`")
	drain := c.flags.Bool("drain", false, "stop when nothing is due and no retry outstanding")
	verbose := c.flags.Bool("verbose", false, "log every job")

	return func(ctx context.Context) error {
		if err := addPrograms(c.shell, c.execs); err != nil {
			return err
		}
		if err := findPrograms(); err != nil {
			return err
		}
		tasks := pinion.DefaultRegistry.Names()
		if len(tasks) == 0 {
			fmt.Fprintln(c.stderr, "pinion: this worker knows no task, so every job it runs will fail and become a dead letter; "+
				"name the Go packages that register tasks, as in --import ./tasks, or programs, as in --exec 'pack=gzip -k -- {0}'")
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
		if len(programs) > 0 {
			shop, err := openWorkshop(programs, c.db, killAfter, w.Logger)
			if err != nil {
				return errors.Join(err, storage.Close())
			}
			defer shop.guard.close()
		}

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
	if m.Canceled > 0 {
		fmt.Fprintf(w, "canceled\t%d\n", m.Canceled)
	}
	return w.Flush()
}

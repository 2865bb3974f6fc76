package cli

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/pinion-queue/pinion"
)

// demo shows the ways in which a job can end. It drains one job after the other, so it prints the same each
// time.
func demo(c *call) func(context.Context) error {
	return func(ctx context.Context) error {
		storage := pinion.NewMemoryStorage()
		defer storage.Close()
		w := &pinion.Worker{
			Storage:     storage,
			Registry:    c.demoTasks(),
			Concurrency: 1,
			Retry:       &pinion.RetryPolicy{MaxRetries: 2, BaseDelay: 50 * time.Millisecond},
			Logger:      slog.New(slog.DiscardHandler),
			Middleware:  c.printAttempts,
		}
		for _, step := range []struct {
			title string
			job   *pinion.Job
		}{
			{"A job that adds 1 and 2:", pinion.NewJob("add", 1, 2)},
			{"A job that fails once, and succeeds when it is retried:", pinion.NewJob("flaky", "example.com")},
			{"A job that fails each time, and becomes a dead letter:", pinion.NewJob("doomed")},
		} {
			fmt.Fprintln(c.stdout, step.title)
			if err := storage.Enqueue(ctx, step.job); err != nil {
				return err
			}
			if err := w.Drain(ctx); err != nil {
				return err
			}
		}
		fmt.Fprintln(c.stdout, "The dead-letter queue, from which `pinion dlq-replay` would take the job back:")
		for job, err := range storage.DeadLetters(ctx, pinion.Filter{}) {
			if err != nil {
				return err
			}
			fmt.Fprintf(c.stdout, "  %s after %d attempts: %s\n", job.Task, job.Attempts, job.Error)
		}
		fmt.Fprintln(c.stdout, "The metrics of the worker:")
		return c.printMetrics(w.Metrics())
	}
}

func (c *call) demoTasks() *pinion.Registry {
	add := pinion.Task[struct{ A, B int }]{Name: "add", Run: func(_ context.Context, args struct{ A, B int }) error {
		fmt.Fprintf(c.stdout, "    %d + %d = %d\n", args.A, args.B, args.A+args.B)
		return nil
	}}
	flaky := pinion.Task[string]{Name: "flaky", Run: func(ctx context.Context, host string) error {
		job, _ := pinion.JobFromContext(ctx)
		if job.Attempts == 1 {
			return fmt.Errorf("%s did not answer", host)
		}
		return nil
	}}
	doomed := pinion.Task[struct{}]{Name: "doomed", Run: func(context.Context, struct{}) error {
		return errors.New("out of cheese")
	}}
	registry := new(pinion.Registry)
	registry.Add(add, flaky, doomed)
	return registry
}

// printAttempts prints each attempt at a job and how it ends.
func (c *call) printAttempts(next pinion.RunFunc) pinion.RunFunc {
	return func(ctx context.Context, job *pinion.Job) error {
		fmt.Fprintf(c.stdout, "  %s, attempt %d\n", job.Task, job.Attempts)
		err := next(ctx, job)
		if err != nil {
			fmt.Fprintf(c.stdout, "    failed: %v\n", err)
		} else {
			fmt.Fprintln(c.stdout, "    done")
		}
		return err
	}
}

package main

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/pinion-queue/pinion"
)

const cancelDetail = `
A pending job ends at once. A running one is told to end by its worker, within a
second: the context of a Go task is canceled, and a program of --exec is stopped.
If the task succeeds all the same, that counts; otherwise the job ends as canceled
as soon as its worker, or the one that takes over for a dead worker, lets go of it.
A canceled job is FAILED, is not retried and is no dead letter.

The exit status is 1 if a job was not found or had ended already.
`

const cancelExamples = `pinion cancel 0199c2b4a1f07000b3c1d2e3f4a5b6c9 --db q.db
pinion pending --task mail --json --db q.db | jq -r .id | xargs -r pinion cancel --db q.db`

// canceling is what became of one of the jobs that were to be canceled.
type canceling struct {
	ID      string        `json:"id"`
	Outcome string        `json:"outcome"` // "canceled", "told to end", "ended already" or "not found"
	Status  pinion.Status `json:"status,omitempty"`
	Worker  string        `json:"worker,omitempty"` // of a job that was told to end
}

func cancel(c *call) func(context.Context) error {
	c.storageFlags()
	c.jsonFlag()
	return func(ctx context.Context) error {
		return c.inspect(ctx, changes, func(storage pinion.Inspector) error {
			canceler, ok := storage.(pinion.Canceler)
			if !ok {
				return fmt.Errorf("this storage cannot cancel jobs (%T is no pinion.Canceler): %w", storage, errors.ErrUnsupported)
			}
			ended, asked, err := canceler.Cancel(ctx, c.operands...)
			if err != nil {
				return err
			}
			g := c.grid()
			g.add("ID", "OUTCOME")
			left := 0
			for _, id := range c.operands {
				outcome, err := outcomeOf(ctx, storage, id, ended, asked)
				if err != nil {
					return err
				}
				if outcome.Outcome == "not found" || outcome.Outcome == "ended already" {
					left++
				}
				if c.json {
					if err := c.encode(outcome); err != nil {
						return err
					}
					continue
				}
				text := outcome.Outcome
				switch {
				case outcome.Worker != "":
					text += "; " + outcome.Worker + " has it"
				case outcome.Outcome == "ended already":
					text += ": " + string(outcome.Status)
				}
				g.add(id, text)
			}
			if !c.json {
				c.print(g)
			}
			if left > 0 {
				return fmt.Errorf("%d of %d jobs could not be canceled; `pinion pending` and `pinion running` list those that can", left, len(c.operands))
			}
			return nil
		})
	}
}

// outcomeOf asks the storage only about a job that was not canceled as it waited.
func outcomeOf(ctx context.Context, storage pinion.Inspector, id string, ended, asked []string) (canceling, error) {
	if slices.Contains(ended, id) {
		return canceling{id, "canceled", pinion.StatusFailed, ""}, nil
	}
	job, err := storage.Get(ctx, id)
	switch {
	case slices.Contains(asked, id) && err == nil && job.Status == pinion.StatusRunning:
		return canceling{id, "told to end", job.Status, job.Worker}, nil
	case slices.Contains(asked, id) && err == nil && job.Status == pinion.StatusFailed && job.Canceled:
		return canceling{id, "canceled", job.Status, ""}, nil
	case errors.Is(err, pinion.ErrNotFound):
		return canceling{ID: id, Outcome: "not found"}, nil
	case err != nil:
		return canceling{}, err
	}
	return canceling{id, "ended already", job.Status, ""}, nil
}

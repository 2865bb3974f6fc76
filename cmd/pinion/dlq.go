package main

import (
	"bufio"
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/pinion-queue/pinion"
)

const dlqReplayDetail = `
Without an ID it replays every dead letter, oldest first, or those that --task
and --limit leave. The jobs begin anew: due at once, with no attempts. One whose
key an unfinished job holds stays a dead letter, and the exit status is then 1.
`

const dlqReplayExamples = `pinion dlq-replay --db q.db
pinion dlq-replay --task mail --limit 10 --db q.db
pinion dlq-replay 0199c2b4a1f07000b3c1d2e3f4a5b6c7 --db q.db`

const dlqPurgeDetail = `
Without an ID it deletes every dead letter, or those that --task and --limit
leave. Without --yes it asks on a terminal, and elsewhere only says how many that
is.
`

const dlqPurgeExamples = `pinion dlq-purge --task mail --yes --db q.db
pinion dlq-purge 0199c2b4a1f07000b3c1d2e3f4a5b6c7 --yes --db q.db`

const pruneDetail = `
Those are the jobs in SUCCESS, and the FAILED whose dead letter was purged.
Workers do the same with what finished more than a day ago.
`

func dlqList(c *call) func(context.Context) error {
	filter := c.filterFlags()
	c.jsonFlag()
	return func(ctx context.Context) error {
		return c.inspect(ctx, reads, func(storage pinion.Inspector) error {
			header := []string{"ID", "TASK", "ARGUMENTS", "ATTEMPTS", "FAILED", "ERROR"}
			return c.jobs(storage.DeadLetters(ctx, *filter), header, func(job *pinion.Job) []string {
				return []string{clip(job.ID, 64), clip(job.Task, 60), clip(arguments(job), 40), strconv.Itoa(job.Attempts),
					ago(job.FinishedAt), clip(brief(job.Error, 40), 80)}
			})
		})
	}
}

func dlqReplay(c *call) func(context.Context) error {
	filter := c.filterFlags()
	return func(ctx context.Context) error {
		filter.IDs = c.operands
		return c.inspect(ctx, changes, func(storage pinion.Inspector) error {
			chosen, err := countDeadLetters(ctx, storage, *filter)
			if err != nil {
				return err
			}
			n, err := storage.Replay(ctx, *filter)
			if err != nil {
				return err
			}
			fmt.Fprintf(c.stdout, "replayed %s\n", thousands(n))
			if n < chosen {
				return stayed(ctx, storage, *filter, chosen-n)
			}
			return nil
		})
	}
}

// stayed says which dead letters a replay left, and why.
func stayed(ctx context.Context, storage pinion.Inspector, f pinion.Filter, n int) error {
	f.Limit = min(n, 10)
	var names []string
	for job, err := range storage.DeadLetters(ctx, f) {
		if err != nil {
			return err
		}
		why := "is no longer FAILED" // as a Python process has replayed it, say
		if job.Key != "" {
			why = fmt.Sprintf("has the key %q", job.Key)
		}
		names = append(names, fmt.Sprintf("\n\t%s, which %s", job.ID, why))
	}
	if n > len(names) {
		names = append(names, fmt.Sprintf("\n\tand %s more", thousands(n-len(names))))
	}
	verb := "stays, as an unfinished job holds its key; replay it when that has"
	if n != 1 {
		verb = "stay, as unfinished jobs hold their keys; replay them when those have"
	}
	return fmt.Errorf("%s %s ended:%s", plural(n, "dead letter"), verb, strings.Join(names, ""))
}

func dlqPurge(c *call) func(context.Context) error {
	filter := c.filterFlags()
	yes := c.flags.Bool("yes", false, "do it")
	return func(ctx context.Context) error {
		filter.IDs = c.operands
		return c.inspect(ctx, changes, func(storage pinion.Inspector) error {
			chosen, err := countDeadLetters(ctx, storage, *filter)
			if err != nil {
				return err
			}
			if chosen > 0 && !*yes && !c.agreed("This deletes "+plural(chosen, "dead letter")+" for good") {
				return fmt.Errorf("%s would be deleted for good, and nothing was; add --yes to do it", plural(chosen, "dead letter"))
			}
			n, err := storage.Purge(ctx, *filter)
			if err != nil {
				return err
			}
			fmt.Fprintf(c.stdout, "purged %s\n", thousands(n))
			return nil
		})
	}
}

// agreed asks whoever is at the terminal. Elsewhere there is nobody to agree.
func (c *call) agreed(what string) bool {
	if !isTerminal(c.stdin) || !isTerminal(c.stderr) {
		return false
	}
	c.patient(false)
	fmt.Fprintf(c.stderr, "%s. Do it? [y/N] ", what)
	said, _ := bufio.NewReader(c.stdin).ReadString('\n')
	c.patient(true)
	switch strings.ToLower(strings.TrimSpace(said)) {
	case "y", "yes":
		return true
	}
	return false
}

// countDeadLetters counts those that f takes. An id that is none of them is an error, so that nothing is done by half.
func countDeadLetters(ctx context.Context, storage pinion.Inspector, f pinion.Filter) (n int, err error) {
	unknown := slices.Clone(f.IDs)
	for job, err := range storage.DeadLetters(ctx, f) {
		if err != nil {
			return 0, err
		}
		n++
		unknown = slices.DeleteFunc(unknown, func(id string) bool { return id == job.ID })
	}
	if len(unknown) > 0 && f.Limit == 0 {
		return 0, fmt.Errorf("not among the dead letters: %s; nothing was changed; `pinion dlq-list` lists them", strings.Join(unknown, " "))
	}
	return n, nil
}

func prune(c *call) func(context.Context) error {
	c.storageFlags()
	age := time.Duration(-1)
	c.duration(&age, "older-than", "those that finished at least this `TIME` ago")
	return func(ctx context.Context) error {
		if age < 0 {
			return usagef("--older-than is missing; --older-than 24h, say")
		}
		return c.inspect(ctx, changes, func(storage pinion.Inspector) error {
			n, err := storage.Prune(ctx, time.Now().Add(-age))
			if err != nil {
				return err
			}
			fmt.Fprintf(c.stdout, "pruned %s\n", thousands(n))
			return nil
		})
	}
}

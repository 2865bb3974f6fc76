package cli

import (
	"bufio"
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/pinion-queue/pinion"
)

const dlqListExamples = `# Those of the last day.
pinion dlq-list --since 24h --db q.db
# Their whole errors.
pinion dlq-list --db q.db --json | jq -r .error`

const dlqReplayDetail = `
Without an ID it replays all dead letters, oldest first, or those that flags choose;
see "pinion help choosing". The jobs start again: due at once, with no attempts. A
dead letter whose key is held by an unfinished job stays, and the exit status is
then 1. So does one of a schedule, whose next run holds the key: start that instead,
with "pinion reschedule ID --delay 0".
`

const dlqReplayExamples = `# All.
pinion dlq-replay --db q.db
# The first ten of a task.
pinion dlq-replay --task mail --limit 10 --db q.db
# One.
pinion dlq-replay 0199c2b4a1f07000b3c1d2e3f4a5b6c7 --db q.db`

const dlqPurgeDetail = `
Without an ID it deletes all dead letters, or those that flags choose; see "pinion
help choosing". Without --yes it asks on a terminal. Elsewhere it only says how many
it would delete.
`

const dlqPurgeExamples = `# Those of a task.
pinion dlq-purge --task mail --yes --db q.db
# One.
pinion dlq-purge 0199c2b4a1f07000b3c1d2e3f4a5b6c7 --yes --db q.db`

func dlqList(c *call) func(context.Context) error {
	filter := c.filterFlags()
	c.jsonFlag()
	return func(ctx context.Context) error {
		return c.inspect(ctx, reads, func(storage pinion.Inspector) error {
			columns := []string{"ID", "TASK", "ARGUMENTS", "ATTEMPTS", "FAILED", "ERROR"}
			return c.printJobs(storage.DeadLetters(ctx, *filter), columns, func(job *pinion.Job) []string {
				return []string{
					job.ID, job.Task, clip(arguments(job), longestArguments), strconv.Itoa(job.Attempts),
					ago(job.FinishedAt), c.brief(job.Error),
				}
			})
		})
	}
}

func dlqReplay(c *call) func(context.Context) error {
	filter := c.filterFlags()
	return func(ctx context.Context) error {
		if len(c.operands) > 0 {
			filter.IDs = c.operands
		}
		return c.change(ctx, func(ctx context.Context, storage pinion.Inspector) error {
			chosen, err := countDeadLetters(ctx, storage, *filter)
			if err != nil {
				return err
			}
			n, err := storage.Replay(ctx, *filter)
			if err := c.reportChange(ctx, err, n, "dead letter", "replayed"); err != nil {
				return err
			}
			if n < chosen {
				return notReplayed(ctx, storage, *filter, chosen-n)
			}
			return nil
		})
	}
}

// notReplayed returns an error that names the dead letters which a replay has left, and says why.
func notReplayed(ctx context.Context, storage pinion.Inspector, f pinion.Filter, n int) error {
	f.Limit = min(n, 10)
	var lines []string
	for job, err := range storage.DeadLetters(ctx, f) {
		if err != nil {
			return err
		}
		reason, err := whyNotReplayed(ctx, storage, job)
		if err != nil {
			return err
		}
		lines = append(lines, fmt.Sprintf("\n\t%s: %s", job.ID, reason))
	}
	if n > len(lines) {
		lines = append(lines, fmt.Sprintf("\n\tand %s more", thousands(n-len(lines))))
	}
	problem := "stays, because an unfinished job holds its key"
	if n != 1 {
		problem = "stay, because unfinished jobs hold their keys"
	}
	return fmt.Errorf("%s %s:%s", plural(n, "dead letter"), problem, strings.Join(lines, ""))
}

// whyNotReplayed says which job keeps a dead letter from being replayed, and what to do.
func whyNotReplayed(ctx context.Context, storage pinion.Inspector, letter *pinion.Job) (string, error) {
	if letter.Key == "" {
		return "its job is no longer FAILED", nil // a Python process may have replayed it
	}
	holder, err := holderOf(ctx, storage, letter.Key)
	if err != nil {
		return "", err
	}
	switch {
	case holder == nil:
		return fmt.Sprintf("its key %q was held until now, or its job is no longer FAILED", letter.Key), nil
	case !strings.HasPrefix(letter.Key, "periodic:"):
		return fmt.Sprintf("job %s holds its key %q; replay it when that job has ended", holder.ID, letter.Key), nil
	case holder.Status == pinion.StatusRunning:
		return fmt.Sprintf("job %s, a later run of its schedule, holds its key %q and runs now",
			holder.ID, letter.Key), nil
	}
	// Another run follows, so waiting for the end of this one does not help.
	return fmt.Sprintf("job %[1]s, the next run of its schedule, holds its key %[2]q; `pinion reschedule %[1]s "+
		"--delay 0` runs that now", holder.ID, letter.Key), nil
}

// holderOf returns the unfinished job that holds a key, or nil.
func holderOf(ctx context.Context, storage pinion.Inspector, key string) (*pinion.Job, error) {
	for _, status := range []pinion.Status{pinion.StatusPending, pinion.StatusRunning} {
		for job, err := range storage.Jobs(ctx, pinion.Filter{Key: key, Status: status}) {
			if err != nil {
				return nil, err
			}
			gaveItUp := job.KeyUntilStart && job.Claim > 0
			if !gaveItUp {
				return job, nil
			}
		}
	}
	return nil, nil
}

func dlqPurge(c *call) func(context.Context) error {
	filter := c.filterFlags()
	c.logsFlag()
	yes := c.flags.Bool("yes", false, "delete without asking")
	return func(ctx context.Context) error {
		if len(c.operands) > 0 {
			filter.IDs = c.operands
		}
		return c.change(ctx, func(ctx context.Context, storage pinion.Inspector) error {
			chosen, err := countDeadLetters(ctx, storage, *filter)
			if err != nil {
				return err
			}
			if err := c.agree(ctx, *yes, chosen, "dead letter", "deletes", "deleted"); err != nil {
				return err
			}
			n, err := storage.Purge(ctx, *filter)
			if err := c.reportChange(ctx, err, n, "dead letter", "purged"); err != nil {
				return err
			}
			return c.sweepAfter(ctx, storage)
		})
	}
}

// reportChange prints how many jobs a verb has changed. If it has failed, reportChange returns err with that number.
func (c *call) reportChange(ctx context.Context, err error, n int, thing, changed string) error {
	if err != nil {
		return incomplete(ctx, err, are(n, thing), changed)
	}
	c.did("%s %s", are(n, thing), changed)
	fmt.Fprintf(c.stdout, "%s %s\n", changed, thousands(n))
	return nil
}

// incomplete returns the error of a verb that has changed only some of its jobs.
func incomplete(ctx context.Context, err error, some, changed string) error {
	return fmt.Errorf("%w; %s %s", signalOr(ctx, err), some, changed)
}

// confirm asks the user at the terminal. Without a terminal the answer is no, and so is a signal.
func (c *call) confirm(ctx context.Context, statement string) bool {
	if !isTerminal(c.stdin) || !isTerminal(c.stderr) {
		return false
	}
	c.stopSlowNotice()
	defer c.startSlowNotice()
	fmt.Fprintf(c.stderr, "%s. Continue? [y/N] ", statement)
	answers := make(chan string, 1)
	go func() { // ends with an answer or with the process
		answer, _ := bufio.NewReader(c.stdin).ReadString('\n')
		answers <- strings.ToLower(strings.TrimSpace(answer))
	}()
	select {
	case answer := <-answers:
		return answer == "y" || answer == "yes"
	case <-ctx.Done():
		return false
	}
}

// countDeadLetters counts the dead letters that f chooses. An id that is not among them is an error, so that
// nothing is half done.
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
		return 0, fmt.Errorf("no dead letter has the id %s; nothing was changed; `pinion dlq-list` lists them",
			strings.Join(unknown, " or "))
	}
	return n, nil
}

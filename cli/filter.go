package cli

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/pinion-queue/pinion"
)

// How commands choose jobs: by their ids, or by flags that are the same for all of them.

// filterFlags declares flags that choose jobs.
func (c *call) filterFlags() *pinion.Filter {
	filter := new(pinion.Filter)
	which := "the oldest; 0 is no limit [0]"
	if c.command.name == "list" {
		which = "the newest; 0 is no limit [50; with --json 0]"
	}
	c.storageFlags()
	c.flags.StringVar(&filter.Task, "task", "", "only jobs of the task `NAME`")
	c.flags.StringVar(&filter.Queue, "queue", "", "only jobs of the queue `NAME`")
	c.flags.StringVar(&filter.Key, "key", "", "only the jobs with this `KEY`")
	c.flags.StringVar(&filter.Text, "error", "", "only jobs with this `TEXT` in their error")
	c.timeFlag(&filter.After, "since", true, "only jobs since this `MOMENT`, \"2h\" or \"9:00\"")
	c.timeFlag(&filter.Before, "before", true, "only jobs before this `MOMENT`")
	c.countFlag(&filter.Limit, "limit", 0, "at most `N` jobs, "+which)
	return filter
}

// statusFlag declares a flag that chooses jobs by their status.
func (c *call) statusFlag(filter *pinion.Filter, statuses ...pinion.Status) {
	var words []string
	for _, status := range statuses {
		words = append(words, strings.ToLower(string(status)))
	}
	c.statuses = words
	wanted := strings.Join(words, ", ")
	c.flags.Func("status", "only jobs with this `STATUS`: "+wanted, func(s string) error {
		i := slices.Index(words, strings.ToLower(s))
		if i < 0 {
			return fmt.Errorf("%q is not a status here; want one of %s", s, wanted)
		}
		filter.Status = statuses[i]
		return nil
	})
}

// choice is the jobs that a command changes: those of its operands, or those that flags choose.
type choice struct {
	*call
	filter *pinion.Filter
	all    bool
	yes    bool
}

// choiceFlags declares the flags of a command that changes jobs which its operands or flags choose.
func (c *call) choiceFlags() *choice {
	ch := &choice{call: c, filter: c.filterFlags()}
	c.flags.BoolVar(&ch.all, "all", false, "all jobs that the command can change")
	c.flags.BoolVar(&ch.yes, "yes", false, "with flags that choose jobs, do not ask")
	return ch
}

// isFiltered reports whether flags choose jobs.
func isFiltered(f *pinion.Filter) bool {
	return f.Task != "" || f.Queue != "" || f.Key != "" || f.Text != "" || f.Status != "" ||
		!f.After.IsZero() || !f.Before.IsZero() || f.Limit > 0
}

// check returns an error unless it is clear which jobs are meant.
func (ch *choice) check() error {
	byFlags := ch.all || isFiltered(ch.filter)
	switch {
	case len(ch.operands) > 0 && byFlags:
		return usagef("write the IDs of jobs or the flags that choose some, not both")
	case len(ch.operands) == 0 && !byFlags:
		return usagef("no job is chosen; write IDs, choose jobs with --task, --queue and the like, or all with --all")
	case ch.all && isFiltered(ch.filter):
		return usagef("--all and flags that choose jobs contradict each other; leave out one of them")
	}
	return nil
}

// settle fixes what the flags choose at this moment, so that the jobs that change are those that were counted.
func (ch *choice) settle() {
	if ch.filter.Before.IsZero() {
		ch.filter.Before = time.Now()
	}
}

// countJobs counts the jobs that f chooses and that have one of some statuses.
func countJobs(
	ctx context.Context, storage pinion.Inspector, f pinion.Filter, statuses ...pinion.Status,
) (n int, err error) {
	chosen, most := f.Status, f.Limit
	for _, status := range statuses {
		if chosen != "" && chosen != status {
			continue
		}
		f.Status = status
		for _, err := range storage.Jobs(ctx, f) {
			if err != nil {
				return 0, err
			}
			n++
		}
	}
	if most > 0 {
		n = min(n, most)
	}
	return n, nil
}

// agree returns an error unless the user agrees to a change of n jobs: with --yes, or when asked on a terminal.
// The words are as in "deletes" and "deleted".
func (c *call) agree(ctx context.Context, yes bool, n int, noun, does, done string) error {
	if n == 0 || yes || c.confirm(ctx, "This "+does+" "+plural(n, noun)) {
		return nil
	}
	if ended, ok := errors.AsType[*signalError](context.Cause(ctx)); ok {
		return ended
	}
	return fmt.Errorf("%s not %s; add --yes to do it without asking", are(n, noun), done)
}

package postgres

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/pinion-queue/pinion"
	"github.com/pinion-queue/pinion/internal/rules"
)

// Dequeue implements [pinion.Storage].
func (s *Storage) Dequeue(ctx context.Context, opts pinion.DequeueOptions) ([]*pinion.Job, error) {
	w, err := newWish(opts)
	if err != nil {
		return nil, err
	}
	if opts.NoWait || opts.Ahead == opts.Max {
		return s.claimDue(ctx, w)
	}
	l := s.laneFor(w)
	if err := s.enter(ctx, l); err != nil {
		return nil, err
	}
	defer l.leave()
	for {
		if l.mayHaveJobs() {
			jobs, err := s.look(ctx, l, w)
			if len(jobs) > 0 || err != nil {
				return jobs, err
			}
		}
		if err := s.awaitJobs(ctx, l, w); err != nil {
			return nil, err
		}
	}
}

// wish is what a Dequeue asks for, as the statements take it.
type wish struct {
	max, slots int
	worker     string
	lease      time.Duration
	tasks      []string // without regard to case, sorted, each once; nil: every task
	queues     []string // sorted, each once; nil: every queue
}

func newWish(opts pinion.DequeueOptions) (*wish, error) {
	if err := rules.CheckDequeue(opts.Max, opts.Ahead, opts.Lease); err != nil {
		return nil, err
	}
	w := &wish{max: opts.Max, slots: opts.Max - opts.Ahead, worker: storable(opts.Worker)}
	w.lease = rules.Lease(cmp.Or(opts.Lease, rules.DefaultLease))
	for _, name := range opts.Queues {
		w.queues = append(w.queues, nameOrNone(queueName(name)))
	}
	for _, name := range opts.Tasks {
		w.tasks = append(w.tasks, fold(nameOrNone(name)))
	}
	w.queues, w.tasks = distinct(w.queues), distinct(w.tasks)
	return w, nil
}

func distinct(names []string) []string {
	slices.Sort(names)
	return slices.Compact(names)
}

// lane returns the name of the lane for Dequeues that wish for the same.
func (w *wish) lane() string { return fmt.Sprintf("%q %q", w.queues, w.tasks) }

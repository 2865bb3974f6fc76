package postgres

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pinion-queue/pinion"
)

func TestADequeueIsWokenByAnotherProcess(t *testing.T) {
	url := schemaURL(t)
	// Nothing here comes in time by looking now and then.
	waiter, other := open(t, url, &Options{PollInterval: time.Hour}), open(t, url, nil)
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute) // for a Dequeue that is never woken
	defer cancel()
	for what, enqueue := range map[string]func(job *pinion.Job) error{
		"Enqueue": func(job *pinion.Job) error { return other.Enqueue(ctx, job) },
		"Enqueue for later": func(job *pinion.Job) error {
			job.RunAt = time.Now().Add(20 * time.Millisecond)
			return other.Enqueue(ctx, job)
		},
		"Tx": func(job *pinion.Job) error {
			return pgx.BeginFunc(ctx, other.pool, func(tx pgx.Tx) error { return other.Tx(tx).Enqueue(ctx, job) })
		},
	} {
		got := make(chan []*pinion.Job)
		go func() {
			jobs, err := waiter.Dequeue(ctx, pinion.DequeueOptions{Max: 1, Queues: []string{"a", "b"}})
			if err != nil {
				t.Errorf("%s: %v", what, err)
			}
			got <- jobs
		}()
		waitFor(t, ctx, waiter,
			`SELECT EXISTS (SELECT FROM pg_stat_activity WHERE query LIKE 'LISTEN%' AND state='idle')`)
		if err := enqueue(&pinion.Job{Task: what, Queue: "b"}); err != nil {
			t.Error(err)
		}
		if jobs := <-got; len(jobs) != 1 || jobs[0].Task != what {
			t.Errorf("%s: got %d jobs", what, len(jobs))
		}
	}
}

func TestTheListenerComesBackWhenItsConnectionIsCut(t *testing.T) {
	url := withParam(schemaURL(t), "application_name=pinion_listener")
	waiter, other := open(t, url, &Options{PollInterval: time.Hour}), open(t, schemaURL(t), nil)
	sender := open(t, url, nil)
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute) // for a Dequeue that is never woken
	defer cancel()
	got := make(chan error)
	go func() { _, err := waiter.Dequeue(ctx, pinion.DequeueOptions{Max: 1}); got <- err }()
	const listening = ` FROM pg_stat_activity WHERE application_name='pinion_listener' AND query LIKE 'LISTEN%' AND state='idle'`
	waitFor(t, ctx, other, `SELECT EXISTS (SELECT`+listening+`)`)
	var pid int
	if err := other.pool.QueryRow(ctx, `SELECT pid`+listening+` AND pg_terminate_backend(pid)`).Scan(&pid); err != nil {
		t.Fatal(err)
	}
	waitFor(t, ctx, other, fmt.Sprint(`SELECT EXISTS (SELECT`, listening, ` AND pid<>`, pid, `)`))
	if err := sender.Enqueue(ctx, pinion.NewJob("a")); err != nil {
		t.Error(err)
	}
	if err := <-got; err != nil {
		t.Error(err)
	}
}

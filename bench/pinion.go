package main

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/pinion-queue/pinion"
)

func pinionPeers() []*peer {
	file := func(synchronous string) *peer {
		return &peer{
			name:  "pinion-" + synchronous,
			about: "one SQLite file, synchronous=" + synchronous + ", all else the default; keeps finished jobs",
			files: "pinion",
			open:  func(ctx context.Context, dir string) (queue, error) { return openPinion(ctx, dir, synchronous) },
			skip:  []skip{{"memory", "the other storage's workload"}},
		}
	}
	return []*peer{
		{
			name:  "pinion-memory",
			about: "the storage in memory: nothing outlives the process; keeps finished jobs",
			open: func(context.Context, string) (queue, error) {
				return &pinionQueue{storage: pinion.NewMemoryStorage()}, nil
			},
			skip: []skip{{twoProcesses, "lives in one process"}, {"idle,backlog,history,future", "asked of files alone"}},
		},
		file("FULL"),
		file("NORMAL"),
	}
}

type pinionQueue struct {
	storage pinion.Storage
	asked   string         // for synchronous; empty: in memory
	look    *sql.DB        // at the file, if there is one
	worker  *pinion.Worker // of the last work
	ran     int            // jobs that the workers before it have run
}

func openPinion(ctx context.Context, dir, synchronous string) (queue, error) {
	s, err := pinion.OpenSQLite(ctx, queueFile(dir), &pinion.SQLiteOptions{Synchronous: synchronous})
	if err != nil {
		return nil, err
	}
	look, err := openFile(pureGo, dir, "mode=ro&_pragma=query_only(1)")
	if err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return &pinionQueue{storage: s, asked: synchronous, look: look}, nil
}

func (q *pinionQueue) enqueue(ctx context.Context, payloads ...string) error {
	return q.enqueueAt(ctx, time.Time{}, payloads...)
}

func (q *pinionQueue) enqueueAt(ctx context.Context, due time.Time, payloads ...string) error {
	jobs := make([]*pinion.Job, len(payloads))
	for i, p := range payloads {
		if p == "" {
			jobs[i] = pinion.NewJob("bare")
		} else {
			jobs[i] = pinion.NewJob("task", p)
		}
		jobs[i].RunAt = due
	}
	return q.storage.Enqueue(ctx, jobs...)
}

func (q *pinionQueue) work(ctx context.Context, slots int, task func(string)) (func() error, error) {
	var registry pinion.Registry
	registry.Add(
		pinion.Task[string]{Name: "task", Run: func(_ context.Context, p string) error { task(p); return nil }},
		pinion.Task[struct{}]{Name: "bare", Run: func(context.Context, struct{}) error { task(""); return nil }},
	)
	if q.worker != nil {
		q.ran += int(q.worker.Metrics().Succeeded)
	}
	q.worker = &pinion.Worker{
		Storage: q.storage, Registry: &registry, Concurrency: slots, Logger: slog.New(slog.DiscardHandler),
	}
	ended := make(chan error, 1)
	go func() { ended <- q.worker.Run(ctx) }()
	return func() error { q.worker.Stop(); return <-ended }, nil
}

func (q *pinionQueue) settled(ctx context.Context, n int) (bool, error) {
	if q.look == nil {
		return q.worker.Metrics().Succeeded >= int64(n), nil
	}
	unsettled, err := exists(ctx, q.look, `SELECT
		EXISTS (SELECT 1 FROM jobs INDEXED BY jobs_ready3 WHERE status='PENDING' AND future=0 AND aside=0) OR
		EXISTS (SELECT 1 FROM jobs INDEXED BY jobs_running3 WHERE status='RUNNING')`)
	return !unsettled, err
}

func (q *pinionQueue) counts(ctx context.Context) (waiting, done int, err error) {
	waiting, err = q.storage.Size(ctx)
	if err != nil {
		return 0, 0, err
	}
	if q.look != nil {
		err = q.look.QueryRowContext(ctx, `SELECT count(*) FROM jobs WHERE status='SUCCESS'`).Scan(&done)
		return waiting, done, err
	}
	if q.worker != nil {
		done = q.ran + int(q.worker.Metrics().Succeeded)
	}
	return waiting, done, nil
}

func (q *pinionQueue) settings(ctx context.Context) ([]string, error) {
	if q.look == nil {
		return nil, nil
	}
	settings, err := settingsOf(ctx, q.look)
	if err != nil {
		return nil, err
	}
	// Synchronous is a connection's own, and nobody can ask Pinion's writer: the library's tests do. The
	// journal mode is the file's.
	return append(settings[:2], fmt.Sprintf("synchronous=%s (as asked for)", q.asked)), nil
}

func (q *pinionQueue) close() error {
	err := q.storage.Close()
	if q.look != nil {
		err = errors.Join(err, q.look.Close())
	}
	return err
}

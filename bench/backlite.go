package main

import (
	"context"
	"database/sql"
	"errors"
	"time"

	_ "github.com/mattn/go-sqlite3"
	"github.com/mikestefanello/backlite"
)

func backlitePeers() []*peer {
	of := func(name, about, settings string) *peer {
		return &peer{
			name: name, files: "backlite",
			about: about + "; one connection; a pool of 10,000, for it sleeps 0.1 s whenever no worker is free " +
				"(with 8 it drains 80 a second); deletes finished tasks",
			open: func(ctx context.Context, dir string) (queue, error) { return openBacklite(dir, settings) },
			skip: []skip{
				// Its claim is a SELECT and, later, an UPDATE by id that does not look again; and only a call
				// of the same client wakes a client.
				{twoProcesses, "two of its processes can claim one task, and neither sees the other's"},
				{onlyPinions, askedOfUs},
			},
		}
	}
	return []*peer{
		of("backlite-FULL", "C driver, its documented options and synchronous=FULL",
			backliteOptions+"&_synchronous=FULL"),
		of("backlite-NORMAL", "C driver, its documented options, with which synchronous is NORMAL", backliteOptions),
	}
}

// backliteOptions are those of its documentation.
const backliteOptions = "_journal=WAL&_timeout=5000"

// backlitePool takes the place of the slots, which only Backlite has this advantage of: its fetches are as
// large as its pool has free workers, and between two of them it may sleep.
const backlitePool = 10_000

type backliteQueue struct {
	db     *sql.DB
	look   *sql.DB // its own connections, so that a look never takes one from the queue
	client *backlite.Client
}

// backliteTask is a job: in Backlite the type of the arguments names the queue.
type backliteTask struct{ Payload string }

func (backliteTask) Config() backlite.QueueConfig {
	return backlite.QueueConfig{Name: "task", MaxAttempts: 3, Backoff: time.Second}
}

func openBacklite(dir, settings string) (queue, error) {
	db, err := openFile(inC, dir, settings)
	if err != nil {
		return nil, err
	}
	// With more, the workers of the pool fight for SQLite's lock, and it drains a quarter as fast.
	db.SetMaxOpenConns(1)
	look, err := openFile(inC, dir, settings)
	if err != nil {
		return nil, errors.Join(err, db.Close())
	}
	q := &backliteQueue{db: db, look: look}
	q.client, err = q.newClient()
	if err == nil {
		err = q.client.Install()
	}
	if err != nil {
		return nil, errors.Join(err, q.close())
	}
	return q, nil
}

func (q *backliteQueue) newClient() (*backlite.Client, error) {
	return backlite.NewClient(backlite.ClientConfig{
		DB: q.db, NumWorkers: backlitePool, ReleaseAfter: 10 * time.Minute, CleanupInterval: time.Hour,
	})
}

func (q *backliteQueue) enqueue(ctx context.Context, payloads ...string) error {
	tasks := make([]backlite.Task, len(payloads))
	for i, p := range payloads {
		tasks[i] = backliteTask{p}
	}
	_, err := q.client.Add(tasks...).Ctx(ctx).Save()
	return err
}

func (q *backliteQueue) work(ctx context.Context, _ int, task func(string)) (func() error, error) {
	q.client.Register(backlite.NewQueue(func(_ context.Context, t backliteTask) error { task(t.Payload); return nil }))
	ctx, cancel := context.WithCancel(ctx)
	q.client.Start(ctx)
	return func() error {
		defer cancel()
		// Amid a backlog it may wait for ever for workers that have gone. Those that run need far less than this.
		graceful, end := context.WithTimeout(ctx, time.Second)
		defer end()
		q.client.Stop(graceful)
		return nil
	}, nil
}

func (q *backliteQueue) settled(ctx context.Context, _ int) (bool, error) {
	unsettled, err := exists(ctx, q.look, `SELECT EXISTS (SELECT 1 FROM backlite_tasks)`)
	return !unsettled, err
}

func (q *backliteQueue) counts(ctx context.Context) (waiting, done int, err error) {
	err = q.look.QueryRowContext(ctx, `SELECT count(*) FROM backlite_tasks`).Scan(&waiting)
	return waiting, -1, err
}

func (q *backliteQueue) settings(ctx context.Context) ([]string, error) { return settingsOf(ctx, q.db) }

func (q *backliteQueue) close() error { return errors.Join(q.db.Close(), q.look.Close()) }

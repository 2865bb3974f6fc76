package main

import (
	"context"
	"database/sql"
	"errors"
	"log/slog"
	"time"

	"github.com/riverqueue/river"
	"github.com/riverqueue/river/riverdriver"
	"github.com/riverqueue/river/riverdriver/riversqlite"
	"github.com/riverqueue/river/rivermigrate"
)

func riverPeers() []*peer {
	of := func(synchronous string) *peer {
		return &peer{
			name:  "river-" + synchronous,
			about: "pure-Go driver, one connection as it advises, WAL, synchronous=" + synchronous + "; looks for jobs as often as it can, each millisecond; keeps finished jobs",
			files: "river",
			open: func(ctx context.Context, dir string) (queue, error) {
				// Beyond its advice: IMMEDIATE and a timeout, without which two processes make each other fail.
				return openRiver(ctx, dir, "_pragma=journal_mode(WAL)&_pragma=busy_timeout(5000)&_txlock=immediate&_pragma=synchronous("+synchronous+")")
			},
			skip: []skip{{onlyPinions, askedOfUs}},
		}
	}
	return []*peer{of("FULL"), of("NORMAL")}
}

// riverClient is what River does alike on every database.
type riverClient[TTx any] struct {
	driver riverdriver.Driver[TTx]
	client *river.Client[TTx]
}

type riverQueue struct {
	riverClient[*sql.Tx]
	db   *sql.DB
	look *sql.DB
}

type riverArgs struct {
	Payload string `json:"payload"`
}

func (riverArgs) Kind() string { return "task" }

func openRiver(ctx context.Context, dir, settings string) (queue, error) {
	db, err := openFile(pureGo, dir, settings)
	if err != nil {
		return nil, err
	}
	db.SetMaxOpenConns(1)
	look, err := openFile(pureGo, dir, settings)
	if err != nil {
		return nil, errors.Join(err, db.Close())
	}
	q := &riverQueue{db: db, look: look}
	if err := q.prepare(ctx, riversqlite.New(db)); err != nil {
		return nil, errors.Join(err, q.close())
	}
	return q, nil
}

// prepare makes the tables, and a client that only inserts.
func (q *riverClient[TTx]) prepare(ctx context.Context, driver riverdriver.Driver[TTx]) error {
	q.driver = driver
	migrator, err := rivermigrate.New(driver, &rivermigrate.Config{Logger: slog.New(slog.DiscardHandler)})
	if err == nil {
		_, err = migrator.Migrate(ctx, rivermigrate.DirectionUp, nil)
	}
	if err == nil {
		q.client, err = q.newClient(nil, nil)
	}
	return err
}

func (q *riverClient[TTx]) newClient(
	queues map[string]river.QueueConfig, workers *river.Workers,
) (*river.Client[TTx], error) {
	return river.NewClient(q.driver, &river.Config{
		Queues: queues, Workers: workers, Logger: slog.New(slog.DiscardHandler),
		FetchCooldown: river.FetchCooldownMin, FetchPollInterval: river.FetchPollIntervalMin,
	})
}

func (q *riverClient[TTx]) enqueue(ctx context.Context, payloads ...string) error {
	if len(payloads) == 1 {
		_, err := q.client.Insert(ctx, riverArgs{payloads[0]}, nil)
		return err
	}
	params := make([]river.InsertManyParams, len(payloads))
	for i, p := range payloads {
		params[i].Args = riverArgs{p}
	}
	_, err := q.client.InsertManyFast(ctx, params)
	return err
}

func (q *riverClient[TTx]) work(ctx context.Context, slots int, task func(string)) (func() error, error) {
	workers := river.NewWorkers()
	river.AddWorker(workers, river.WorkFunc(func(_ context.Context, job *river.Job[riverArgs]) error {
		task(job.Args.Payload)
		return nil
	}))
	client, err := q.newClient(map[string]river.QueueConfig{river.QueueDefault: {MaxWorkers: slots}}, workers)
	if err != nil {
		return nil, err
	}
	if err := client.Start(ctx); err != nil {
		return nil, err
	}
	q.client = client // an insert by the client that works is seen at once
	return func() error {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
		defer cancel()
		return client.Stop(ctx)
	}, nil
}

func (q *riverQueue) settled(ctx context.Context, _ int) (bool, error) {
	unsettled, err := exists(ctx, q.look, `SELECT EXISTS (SELECT 1 FROM river_job WHERE state='available')
		OR EXISTS (SELECT 1 FROM river_job WHERE state='running')`)
	return !unsettled, err
}

func (q *riverQueue) counts(ctx context.Context) (waiting, done int, err error) {
	err = q.look.QueryRowContext(ctx, `SELECT count(*) FILTER (WHERE state='available'),
		count(*) FILTER (WHERE state='completed') FROM river_job`).Scan(&waiting, &done)
	return waiting, done, err
}

func (q *riverQueue) settings(ctx context.Context) ([]string, error) { return settingsOf(ctx, q.db) }

func (q *riverQueue) close() error { return errors.Join(q.db.Close(), q.look.Close()) }

package main

import (
	"context"
	"database/sql"
	"errors"
	"time"

	"maragu.dev/goqite"
	"maragu.dev/goqite/jobs"
)

func goqitePeers() []*peer {
	of := func(synchronous string) *peer {
		return &peer{
			name: "goqite-" + synchronous,
			about: "C driver, its documented options and one connection, synchronous=" + synchronous +
				"; looks for jobs each millisecond; deletes finished jobs",
			files: "goqite",
			open: func(ctx context.Context, dir string) (queue, error) {
				return openGoqite(ctx, dir, "_journal=WAL&_timeout=5000&_fk=true&_synchronous="+synchronous)
			},
			skip: []skip{{onlyPinions, askedOfUs}},
		}
	}
	return []*peer{of("FULL"), of("NORMAL")}
}

type goqiteQueue struct {
	db    *sql.DB
	look  *sql.DB // its own connections, so that a look never takes the only one from the queue
	queue *goqite.Queue
}

// goqiteSchema is the schema of goqite v0.4.0, which its users copy.
const goqiteSchema = `
create table if not exists goqite (
  id text primary key default ('m_' || lower(hex(randomblob(16)))),
  created text not null default (strftime('%Y-%m-%dT%H:%M:%fZ')),
  updated text not null default (strftime('%Y-%m-%dT%H:%M:%fZ')),
  queue text not null,
  body blob not null,
  timeout text not null default (strftime('%Y-%m-%dT%H:%M:%fZ')),
  received integer not null default 0,
  priority integer not null default 0
) strict;

create trigger if not exists goqite_updated_timestamp after update on goqite begin
  update goqite set updated = strftime('%Y-%m-%dT%H:%M:%fZ') where id = old.id;
end;

create index if not exists goqite_queue_priority_created_idx on goqite (queue, priority desc, created);
`

func openGoqite(ctx context.Context, dir, settings string) (queue, error) {
	db, err := openFile(inC, dir, settings)
	if err != nil {
		return nil, err
	}
	db.SetMaxOpenConns(1)
	db.SetMaxIdleConns(1)
	look, err := openFile(inC, dir, settings)
	if err != nil {
		return nil, errors.Join(err, db.Close())
	}
	q := &goqiteQueue{db: db, look: look, queue: goqite.New(goqite.NewOpts{DB: db, Name: "jobs"})}
	if _, err := db.ExecContext(ctx, goqiteSchema); err != nil {
		return nil, errors.Join(err, q.close())
	}
	return q, nil
}

func (q *goqiteQueue) enqueue(ctx context.Context, payloads ...string) error {
	if len(payloads) == 1 {
		_, err := jobs.Create(ctx, q.queue, "task", goqite.Message{Body: []byte(payloads[0])})
		return err
	}
	tx, err := q.db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	for _, p := range payloads {
		if _, err := jobs.CreateTx(ctx, tx, q.queue, "task", goqite.Message{Body: []byte(p)}); err != nil {
			return errors.Join(err, tx.Rollback())
		}
	}
	return tx.Commit()
}

func (q *goqiteQueue) work(ctx context.Context, slots int, task func(string)) (func() error, error) {
	// Its runner sleeps for a PollInterval whenever all slots are taken.
	runner := jobs.NewRunner(jobs.NewRunnerOpts{Queue: q.queue, Limit: slots, PollInterval: time.Millisecond})
	runner.Register("task", func(_ context.Context, payload []byte) error { task(string(payload)); return nil })
	ctx, cancel := context.WithCancel(ctx)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		runner.Start(ctx)
	}()
	return func() error {
		cancel()
		<-ended
		return nil
	}, nil
}

func (q *goqiteQueue) settled(ctx context.Context, _ int) (bool, error) {
	unsettled, err := exists(ctx, q.look, `SELECT EXISTS (SELECT 1 FROM goqite)`)
	return !unsettled, err
}

func (q *goqiteQueue) counts(ctx context.Context) (waiting, done int, err error) {
	err = q.look.QueryRowContext(ctx, `SELECT count(*) FROM goqite`).Scan(&waiting)
	return waiting, -1, err
}

func (q *goqiteQueue) settings(ctx context.Context) ([]string, error) { return settingsOf(ctx, q.db) }

func (q *goqiteQueue) close() error { return errors.Join(q.db.Close(), q.look.Close()) }

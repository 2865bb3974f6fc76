package main

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"net/url"
	"os"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/pinion-queue/pinion/postgres"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"
)

// The peers on PostgreSQL share one server, with its settings, and have a database each for each measurement.
const serverEnv = "PINION_POSTGRES_URL"

func postgresPeers() []*peer {
	of := func(name, about string, open func(ctx context.Context, url string) (queue, error), skip ...skip) *peer {
		return &peer{
			name:  name,
			about: about,
			open: func(ctx context.Context, dir string) (queue, error) {
				target, _, err := databaseOf(dir)
				if err != nil {
					return nil, err
				}
				return open(ctx, target)
			},
			serve: createDatabase,
			skip:  skip,
		}
	}
	return []*peer{
		of("pinion-postgres", "the defaults; keeps finished jobs", openPinionPostgres,
			skip{"memory", "the other storage's workload"}),
		of("river-postgres", "20 connections in its pool; looks for jobs as often as it can, each millisecond, beside LISTEN; keeps finished jobs",
			openRiverPostgres, skip{onlyPinions, askedOfUs}),
	}
}

// databaseOf is the URL of the database that belongs to a stage's folder, and its name.
func databaseOf(dir string) (target, name string, err error) {
	server := os.Getenv(serverEnv)
	if server == "" {
		return "", "", fmt.Errorf("needs a PostgreSQL server in %s; .ci/with-postgres starts one", serverEnv)
	}
	u, err := url.Parse(server)
	if err != nil {
		return "", "", err
	}
	hash := fnv.New64a()
	hash.Write([]byte(dir))
	name = fmt.Sprintf("pinion_bench_%016x", hash.Sum64())
	u.Path = "/" + name
	return u.String(), name, nil
}

func createDatabase(ctx context.Context, dir string) (drop func() error, err error) {
	_, name, err := databaseOf(dir)
	if err != nil {
		return nil, err
	}
	run := func(ctx context.Context, sql string) error {
		conn, err := pgx.Connect(ctx, os.Getenv(serverEnv))
		if err != nil {
			return err
		}
		_, err = conn.Exec(ctx, sql)
		return errors.Join(err, conn.Close(ctx))
	}
	return func() error {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
		defer cancel()
		return run(ctx, "DROP DATABASE "+name+" WITH (FORCE)")
	}, run(ctx, "CREATE DATABASE "+name)
}

// serverSettings are those on which the figures depend.
func serverSettings(ctx context.Context, pool *pgxpool.Pool) (settings []string, err error) {
	for _, name := range []string{"server_version", "fsync", "synchronous_commit", "shared_buffers", "max_wal_size"} {
		var value string
		if err := pool.QueryRow(ctx, `SELECT current_setting($1)`, name).Scan(&value); err != nil {
			return nil, err
		}
		settings = append(settings, name+"="+value)
	}
	return settings, nil
}

type pinionPostgres struct {
	pinionQueue
	look *pgxpool.Pool
}

func openPinionPostgres(ctx context.Context, url string) (queue, error) {
	s, err := postgres.Open(ctx, url, nil)
	if err != nil {
		return nil, err
	}
	look, err := pgxpool.New(ctx, url)
	if err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return &pinionPostgres{pinionQueue{storage: s}, look}, nil
}

func (q *pinionPostgres) settled(ctx context.Context, _ int) (settled bool, err error) {
	err = q.look.QueryRow(ctx, `SELECT NOT (EXISTS (SELECT FROM pinion.jobs WHERE status='PENDING' AND NOT future)
		OR EXISTS (SELECT FROM pinion.jobs WHERE status='RUNNING'))`).Scan(&settled)
	return settled, err
}

func (q *pinionPostgres) counts(ctx context.Context) (waiting, done int, err error) {
	waiting, err = q.storage.Size(ctx)
	if err == nil {
		err = q.look.QueryRow(ctx, `SELECT count(*) FROM pinion.jobs WHERE status='SUCCESS'`).Scan(&done)
	}
	return waiting, done, err
}

func (q *pinionPostgres) settings(ctx context.Context) ([]string, error) {
	return serverSettings(ctx, q.look)
}

func (q *pinionPostgres) close() error {
	q.look.Close()
	return q.pinionQueue.close()
}

type riverPostgres struct {
	riverClient[pgx.Tx]
	pool *pgxpool.Pool
}

func openRiverPostgres(ctx context.Context, url string) (queue, error) {
	config, err := pgxpool.ParseConfig(url)
	if err != nil {
		return nil, err
	}
	config.MaxConns = 20
	pool, err := pgxpool.NewWithConfig(ctx, config)
	if err != nil {
		return nil, err
	}
	q := &riverPostgres{pool: pool}
	if err := q.prepare(ctx, riverpgxv5.New(pool)); err != nil {
		return nil, errors.Join(err, q.close())
	}
	return q, nil
}

func (q *riverPostgres) settled(ctx context.Context, _ int) (settled bool, err error) {
	err = q.pool.QueryRow(ctx, `SELECT NOT (EXISTS (SELECT FROM river_job WHERE state='available')
		OR EXISTS (SELECT FROM river_job WHERE state='running'))`).Scan(&settled)
	return settled, err
}

func (q *riverPostgres) counts(ctx context.Context) (waiting, done int, err error) {
	err = q.pool.QueryRow(ctx, `SELECT count(*) FILTER (WHERE state='available'),
		count(*) FILTER (WHERE state='completed') FROM river_job`).Scan(&waiting, &done)
	return waiting, done, err
}

func (q *riverPostgres) settings(ctx context.Context) ([]string, error) {
	return serverSettings(ctx, q.pool)
}

func (q *riverPostgres) close() error { q.pool.Close(); return nil }

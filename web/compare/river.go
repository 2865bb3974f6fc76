package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http/httptest"
	"os"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/riverqueue/river"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"
	"github.com/riverqueue/river/rivermigrate"
	"github.com/riverqueue/river/rivertype"
	"riverqueue.com/riverui"

	"github.com/pinion-queue/pinion/web/internal/chromium"
)

const jobRow = `a[href*="/jobs/"]`

func riverPeer() peer {
	of := func(name, state string) list {
		return list{name, "jobs?state=" + state, []string{"api/jobs?limit=20&state=" + state, "api/states"}, jobRow}
	}
	return peer{"River UI", openRiver, []list{
		of("pending", "available"), of("succeeded", "completed"), of("dead", "discarded"),
	}}
}

type riverHouse struct {
	pool   *pgxpool.Pool
	client *river.Client[pgx.Tx]
	server *httptest.Server
	stop   context.CancelFunc
}

// riverArgs are arguments of any kind.
type riverArgs struct {
	args
	kind string
}

func (a riverArgs) Kind() string { return a.kind }

// MarshalJSON writes the arguments alone.
func (a riverArgs) MarshalJSON() ([]byte, error) { return json.Marshal(a.args) }

// River wants a type for each kind that it works on.
type (
	chargeCard    struct{ args }
	resizeImage   struct{ args }
	sendWelcome   struct{ args }
	monthlyReport struct{ args }
)

func (chargeCard) Kind() string    { return "charge_card" }
func (resizeImage) Kind() string   { return "resize_image" }
func (sendWelcome) Kind() string   { return "send_welcome" }
func (monthlyReport) Kind() string { return "monthly_report" }

type runner interface {
	river.JobArgs
	run() error
}

func addWorker[T runner](workers *river.Workers) {
	river.AddWorker(workers, river.WorkFunc(func(_ context.Context, job *river.Job[T]) error { return job.Args.run() }))
}

func openRiver(ctx context.Context, _ string) (house, error) {
	address, err := createDatabase(ctx, "river")
	if err != nil {
		return nil, err
	}
	pool, err := pgxpool.New(ctx, address)
	if err != nil {
		return nil, err
	}
	logger := slog.New(slog.DiscardHandler)
	driver := riverpgxv5.New(pool)
	migrator, err := rivermigrate.New(driver, &rivermigrate.Config{Logger: logger})
	if err != nil {
		return nil, err
	}
	_, err = migrator.Migrate(ctx, rivermigrate.DirectionUp, nil)
	if err != nil {
		return nil, err
	}
	workers := river.NewWorkers()
	addWorker[chargeCard](workers)
	addWorker[resizeImage](workers)
	addWorker[sendWelcome](workers)
	addWorker[monthlyReport](workers)
	each := river.QueueConfig{MaxWorkers: 50}
	client, err := river.NewClient(driver, &river.Config{
		Logger: logger, Workers: workers, FetchCooldown: river.FetchCooldownMin,
		Queues: map[string]river.QueueConfig{"default": each, "mail": each, "reports": each},
	})
	if err != nil {
		return nil, err
	}
	handler, err := riverui.NewHandler(&riverui.HandlerOpts{
		Endpoints: riverui.NewEndpoints(client, nil), Logger: logger, Prefix: "/",
	})
	if err != nil {
		return nil, err
	}
	serving, stop := context.WithCancel(ctx)
	err = handler.Start(serving)
	if err != nil {
		stop()
		return nil, err
	}
	return &riverHouse{pool, client, httptest.NewServer(handler), stop}, nil
}

func (h *riverHouse) fill(ctx context.Context, work []job) error {
	end, wait := split(work)
	err := h.client.Start(ctx)
	if err != nil {
		return err
	}
	err = h.insert(ctx, end)
	if err != nil {
		return err
	}
	for {
		var unfinished int
		err := h.pool.QueryRow(ctx,
			`SELECT count(*) FROM river_job WHERE state NOT IN ('completed', 'discarded')`).Scan(&unfinished)
		if err != nil {
			return err
		}
		if unfinished == 0 {
			break
		}
		time.Sleep(200 * time.Millisecond)
	}
	err = h.client.Stop(ctx)
	if err != nil {
		return err
	}
	err = h.insert(ctx, wait)
	if err != nil {
		return err
	}
	_, err = h.pool.Exec(ctx, `VACUUM ANALYZE`) // what autovacuum would do within a minute
	return err
}

func (h *riverHouse) insert(ctx context.Context, jobs []job) error {
	for chunk := range slices.Chunk(jobs, 1000) {
		params := make([]river.InsertManyParams, len(chunk))
		for i, j := range chunk {
			params[i] = river.InsertManyParams{
				Args: riverArgs{j.args, j.task}, InsertOpts: &river.InsertOpts{Queue: j.queue, MaxAttempts: 1},
			}
		}
		_, err := h.client.InsertManyFast(ctx, params)
		if err != nil {
			return err
		}
	}
	return nil
}

func (h *riverHouse) url() string { return h.server.URL + "/" }

func (h *riverHouse) dead(ctx context.Context) (n int, err error) {
	err = h.pool.QueryRow(ctx, `SELECT count(*) FROM river_job WHERE state = $1`, rivertype.JobStateDiscarded).Scan(&n)
	return n, err
}

// replay lets a page show 200 jobs, the most that it can, and then selects and retries them, page by page. No filter
// knows errors, and no list shows them: a person must open each job to see its error.
func (h *riverHouse) replay(ctx context.Context, page *chromium.Page, failure string) error {
	if failure != "" {
		return errors.ErrUnsupported
	}
	err := walk(ctx, page, step{"a", "Discarded"})
	if err != nil {
		return err
	}
	err = page.Until(ctx, `row => location.search.includes('discarded') && document.querySelector(row)`, jobRow)
	if err != nil {
		return err
	}
	for rows := 20; rows < 200; rows += 20 {
		var shown int
		err := page.Eval(ctx, &shown, `row => document.querySelectorAll(row).length`, jobRow)
		if err != nil {
			return err
		}
		if shown < rows { // these are all
			break
		}
		err = walk(ctx, page, step{"button", "More"})
		if err != nil {
			return err
		}
		err = page.Until(ctx, `(row, n) => document.querySelectorAll(row).length > n`, jobRow, rows)
		if err != nil {
			return err
		}
	}
	for {
		var first string
		err := page.Eval(ctx, &first, `row => document.querySelector(row)?.href ?? ''`, jobRow)
		if err != nil || first == "" {
			return err
		}
		err = walk(ctx, page, step{"input[type=checkbox]", ""}, step{"button", "Retry"})
		if err != nil {
			return err
		}
		err = page.Until(ctx, `(row, first) => document.querySelector(row)?.href !== first`, jobRow, first)
		if err != nil {
			return err
		}
	}
}

func (h *riverHouse) close() error {
	h.stop()
	h.server.Close()
	h.pool.Close()
	return nil
}

// createDatabase makes an empty database in the server that .ci/with-postgres started, and returns its address.
func createDatabase(ctx context.Context, name string) (string, error) {
	server := os.Getenv("PINION_POSTGRES_URL")
	if server == "" {
		return "", errors.New("needs a PostgreSQL server in PINION_POSTGRES_URL; .ci/with-postgres starts one")
	}
	conn, err := pgx.Connect(ctx, server)
	if err != nil {
		return "", err
	}
	defer conn.Close(ctx)
	for _, sql := range []string{"DROP DATABASE IF EXISTS compare_" + name, "CREATE DATABASE compare_" + name} {
		_, err = conn.Exec(ctx, sql)
		if err != nil {
			return "", err
		}
	}
	config := conn.Config()
	return fmt.Sprintf("postgres://%s@%s:%d/compare_%s?sslmode=disable", config.User, config.Host, config.Port, name), nil
}

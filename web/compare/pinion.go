package main

import (
	"context"
	"errors"
	"log/slog"
	"net/http/httptest"
	"path/filepath"
	"slices"

	"github.com/pinion-queue/pinion"
	_ "github.com/pinion-queue/pinion/postgres"
	"github.com/pinion-queue/pinion/web"
	"github.com/pinion-queue/pinion/web/internal/chromium"
)

func pinionPeer(name string, open func(ctx context.Context, dir string) (pinion.Storage, error)) peer {
	of := func(name, page string) list {
		return list{name, page, []string{page}, `tbody a[href*="job/"]`}
	}
	return peer{name, func(ctx context.Context, dir string) (house, error) {
		storage, err := open(ctx, dir)
		if err != nil {
			return nil, err
		}
		return &pinionHouse{storage, httptest.NewServer(web.New(storage, &web.Options{Write: true}))}, nil
	}, []list{of("pending", "jobs?status=PENDING"), of("succeeded", "jobs?status=SUCCESS"), of("dead", "dead")}}
}

func openPinionFile(ctx context.Context, dir string) (pinion.Storage, error) {
	return pinion.Open(ctx, filepath.Join(dir, "jobs.db"))
}

func openPinionPostgres(ctx context.Context, _ string) (pinion.Storage, error) {
	address, err := createDatabase(ctx, "pinion")
	if err != nil {
		return nil, err
	}
	return pinion.Open(ctx, address)
}

type pinionHouse struct {
	storage pinion.Storage
	server  *httptest.Server
}

func (h *pinionHouse) fill(ctx context.Context, work []job) error {
	end, wait := split(work)
	err := h.enqueue(ctx, end)
	if err != nil {
		return err
	}
	registry := new(pinion.Registry)
	for _, q := range queues {
		registry.Add(&pinion.Task[args]{
			Name: q.task, Retry: &pinion.RetryPolicy{}, Run: func(_ context.Context, a args) error { return a.run() },
		})
	}
	worker := &pinion.Worker{Storage: h.storage, Registry: registry, Logger: slog.New(slog.DiscardHandler)}
	err = worker.Drain(ctx)
	if err != nil {
		return err
	}
	return h.enqueue(ctx, wait)
}

func (h *pinionHouse) enqueue(ctx context.Context, jobs []job) error {
	for chunk := range slices.Chunk(jobs, 1000) {
		batch := make([]*pinion.Job, len(chunk))
		for i, j := range chunk {
			batch[i] = pinion.NewJob(j.task, j.args.Order, j.args.Customer, j.args.Locale)
			batch[i].Queue = j.queue
		}
		err := h.storage.Enqueue(ctx, batch...)
		if err != nil {
			return err
		}
	}
	return nil
}

func (h *pinionHouse) url() string { return h.server.URL + "/" }

func (h *pinionHouse) dead(ctx context.Context) (int, error) {
	inspector, ok := pinion.As[pinion.Inspector](h.storage)
	if !ok {
		return 0, errors.ErrUnsupported
	}
	stats, err := inspector.Stats(ctx)
	return stats.DeadLetters, err
}

// replay asks for the largest group of dead letters, which is that of the error, or for all, and confirms it.
func (h *pinionHouse) replay(ctx context.Context, page *chromium.Page, failure string) error {
	which := "replay all"
	if failure != "" {
		which = "replay exactly these"
	}
	for _, s := range []step{{"nav a", "Dead letters"}, {"a", which}, {"main button", "Replay"}} {
		err := page.Follow(ctx, s.css, s.text)
		if err != nil {
			return err
		}
	}
	return nil
}

func (h *pinionHouse) close() error {
	h.server.Close()
	return h.storage.Close()
}

package postgres

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pinion-queue/pinion"
)

func TestListingsLeaveConnectionsToHeartbeats(t *testing.T) {
	url := schemaURL(t)
	s, ctx := open(t, withParam(url, "pool_max_conns=6"), nil), t.Context()
	if err := s.Enqueue(ctx, pinion.NewJob("a")); err != nil {
		t.Fatal(err)
	}
	jobs, err := s.Dequeue(ctx, pinion.DequeueOptions{Max: 1})
	if err != nil {
		t.Fatal(err)
	}
	listing, stop := context.WithCancel(ctx)
	defer stop()
	var listings sync.WaitGroup
	for range 20 {
		listings.Go(func() {
			s.browse(listing, "list", func(ctx context.Context, conn *pgx.Conn) error {
				_, err := conn.Exec(ctx, `SELECT pg_sleep(3600)`)
				return err
			})
		})
	}
	waitFor(t, ctx, open(t, url, nil), `SELECT count(*)>=2 FROM pg_stat_activity
		WHERE query LIKE '%pg_sleep(3600)%' AND state='active' AND pid<>pg_backend_pid()`)
	beating, cancel := context.WithTimeout(ctx, 5*time.Minute) // the listings take an hour
	defer cancel()
	for range 5 {
		if lost, err := s.Heartbeat(beating, jobs...); len(lost) > 0 || err != nil {
			t.Errorf("Heartbeat beside listings: %d jobs lost, %v", len(lost), err)
		}
		if _, err := s.Canceled(beating, jobs...); err != nil {
			t.Errorf("Canceled beside listings: %v", err)
		}
	}
	stop()
	listings.Wait()
}

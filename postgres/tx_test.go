package postgres

import (
	"errors"
	"testing"

	"github.com/pinion-queue/pinion"
)

func TestTxSharesTheFateOfItsTransaction(t *testing.T) {
	s, ctx := open(t, schemaURL(t), nil), t.Context()
	size := func(want int) {
		t.Helper()
		if n, err := s.Size(ctx); n != want || err != nil {
			t.Errorf("%d jobs are pending, want %d, %v", n, want, err)
		}
	}
	tx, err := s.pool.Begin(ctx)
	if err != nil {
		t.Fatal(err)
	}
	job := &pinion.Job{ID: "1", Task: "a", Key: "k"}
	if err := s.Tx(tx).Enqueue(ctx, job, pinion.NewJob("b")); err != nil {
		t.Fatal(err)
	}
	size(0)
	for _, taken := range []*pinion.Job{{ID: "1", Task: "c"}, {Task: "c", Key: "k"}} {
		for _, jobs := range [][]*pinion.Job{{taken}, {pinion.NewJob("d"), taken}} {
			err := s.Tx(tx).Enqueue(ctx, jobs...)
			if d, ok := errors.AsType[*pinion.DuplicateError](err); !ok || d.ID != "1" || d.Key != taken.Key {
				t.Errorf("a job that is taken: got %v", err)
			}
		}
	}
	if err := tx.Commit(ctx); err != nil { // the transaction goes on after a duplicate
		t.Fatal(err)
	}
	size(2)
	if job.Status != pinion.StatusPending || job.Queue != "default" || job.CreatedAt.IsZero() {
		t.Errorf("the job is %+v", job)
	}
	if tx, err = s.pool.Begin(ctx); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(s.Tx(tx).Enqueue(ctx, pinion.NewJob("e")), tx.Rollback(ctx)); err != nil {
		t.Fatal(err)
	}
	size(2)
}

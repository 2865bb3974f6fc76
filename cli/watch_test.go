package cli

import (
	"context"
	"testing"
	"time"

	"github.com/pinion-queue/pinion"
)

func TestAWatchShowsWhatEndedInTheLastHour(t *testing.T) {
	storage := pinion.NewMemoryStorage()
	good := &pinion.Task[struct{}]{Name: "good", Run: func(context.Context, struct{}) error { return nil }}
	bad := &pinion.Task[struct{}]{Name: "bad", Retry: &pinion.RetryPolicy{},
		Run: func(context.Context, struct{}) error { return context.DeadlineExceeded }}
	for range 3 {
		if _, err := good.Enqueue(t.Context(), storage, struct{}{}); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := bad.Enqueue(t.Context(), storage, struct{}{}); err != nil {
		t.Fatal(err)
	}
	registry := new(pinion.Registry)
	registry.Add(good, bad)
	worker := &pinion.Worker{Storage: storage, Registry: registry}
	if err := worker.Drain(t.Context()); err != nil {
		t.Fatal(err)
	}
	s := takeSnapshot(t.Context(), storage, true)
	if s.err != nil {
		t.Fatal(s.err)
	}
	ended := 0
	for _, n := range s.hour {
		ended += n
	}
	if ended != 4 {
		t.Errorf("%d jobs in the last hour's minutes, want 4: %v", ended, s.hour)
	}
	c := new(call)
	wantText(t, c.headerLines(&s, 100)[2], `3 done and 1 failed in the last hour`)
	// The minute of a job that ended long ago is not among them.
	counts, err := endsByMinute(t.Context(), storage, s.at.Add(2*time.Hour))
	if err != nil || counts != [60]int{} {
		t.Errorf("two hours later: %v, %v; want nothing", counts, err)
	}
}

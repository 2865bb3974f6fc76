package cli

import (
	"context"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/pinion-queue/pinion"
)

func TestAReplayThatLeavesADeadLetterNamesTheJobThatHoldsItsKey(t *testing.T) {
	storage := pinion.NewMemoryStorage()
	defer storage.Close()
	later := time.Now().Add(time.Hour)
	schedule := func(name string) pinion.Periodic {
		return pinion.Periodic{Name: name, Schedule: onceAt(later), Job: func(time.Time) *pinion.Job {
			return pinion.NewJob("t")
		}}
	}
	registry := new(pinion.Registry)
	registry.Add(pinion.Task[struct{}]{Name: "t", Run: func(context.Context, struct{}) error { return nil }})
	worker := &pinion.Worker{
		Storage:  storage,
		Registry: registry,
		Periodic: []pinion.Periodic{schedule("runs"), schedule("waits")},
		Logger:   slog.New(slog.DiscardHandler),
	}
	if err := worker.Drain(t.Context()); err != nil {
		t.Fatal(err)
	}
	_, err := storage.Reschedule(t.Context(), pinion.Filter{Key: "periodic:runs"}, time.Time{})
	if err != nil {
		t.Fatal(err)
	}
	err = storage.Enqueue(t.Context(), &pinion.Job{ID: "gave-it-up", Task: "t", Key: "event", KeyUntilStart: true})
	if err != nil {
		t.Fatal(err)
	}
	claimed, err := storage.Dequeue(t.Context(), pinion.DequeueOptions{Max: 9, NoWait: true})
	if err != nil || len(claimed) != 2 {
		t.Fatalf("claimed %d jobs, %v; want 2", len(claimed), err)
	}
	err = storage.Enqueue(t.Context(), &pinion.Job{ID: "holder", Task: "t", Key: "event", RunAt: later})
	if err != nil {
		t.Fatal(err)
	}

	for key, want := range map[string]string{
		"":               "its job is no longer FAILED",
		"nobody's":       `its key "nobody's" was held until now, or its job is no longer FAILED`,
		"event":          `job holder holds its key "event"; replay it when that job has ended`,
		"periodic:runs":  `, a later run of its schedule, holds its key "periodic:runs" and runs now`,
		"periodic:waits": " --delay 0` runs that now",
	} {
		got, err := whyNotReplayed(t.Context(), storage, &pinion.Job{Key: key})
		if err != nil || !strings.Contains(got, want) {
			t.Errorf("key %q: %q, %v; want %q", key, got, err, want)
		}
	}
}

// onceAt is a schedule with one time.
type onceAt time.Time

func (o onceAt) Next(after time.Time) time.Time {
	if after.Before(time.Time(o)) {
		return time.Time(o)
	}
	return time.Time{}
}

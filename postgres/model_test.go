package postgres

import (
	"context"
	"flag"
	"testing"
	"time"

	"github.com/pinion-queue/pinion"
	"github.com/pinion-queue/pinion/internal/crashlab"
)

var (
	modelSequences = flag.Int("model.sequences", 5, "how many random sequences TestModel runs")
	modelSeed      = flag.Uint64("model.seed", 0, "their seed; 0: another one each time")
	modelFirst     = flag.Int("model.first", 0, "the number of the first")
)

// modelOf is a model of this storage. A server on the network knows no bubble, so time is real.
func modelOf(t *testing.T) crashlab.Model {
	seed, url := *modelSeed, schemaURL(t)
	if seed == 0 {
		seed = uint64(time.Now().UnixNano())
	}
	t.Logf("to repeat it: go test -run '^%s$' -model.seed=%d -model.sequences=%d .", t.Name(), seed, *modelSequences)
	return crashlab.Model{Seed: seed, First: *modelFirst, Sequences: *modelSequences, RealTime: true, Steps: 40, Sleep: time.Sleep,
		Storages: []crashlab.Opener{{Name: "PostgreSQL", Open: func(ctx context.Context) (pinion.Storage, error) {
			clear(t, url)
			return Open(ctx, url, &Options{Retention: -1})
		}}}}
}

// TestModel runs random sequences of all the verbs on this storage and on a plain reference: each answer and each state
// at the end must be the same.
func TestModel(t *testing.T) {
	if err := modelOf(t).Check(t.Context()); err != nil {
		t.Error(err)
	}
}

// playModel is called by the tests that TestModel prints when it fails.
func playModel(t *testing.T, steps ...crashlab.Step) {
	t.Helper()
	if err := modelOf(t).Play(t.Context(), steps...); err != nil {
		t.Error(err)
	}
}

var _ = playModel

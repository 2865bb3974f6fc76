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
	modelSequences = flag.Int("model.sequences", 5, "how many random sequences TestModel plays")
	modelSeed      = flag.Uint64("model.seed", 0, "the random seed of the sequences [a new one]")
	modelFirst     = flag.Int("model.first", 0, "the number of the first sequence")
)

// newModel returns a model of this storage. Time is real, because a bubble cannot contain a server.
func newModel(t *testing.T) crashlab.Model {
	t.Helper()
	url := schemaURL(t)
	open := func(ctx context.Context) (pinion.Storage, error) {
		clear(t, url)
		return Open(ctx, url, &Options{Retention: -1})
	}
	return crashlab.Model{
		First:     *modelFirst,
		Sequences: *modelSequences,
		Steps:     40,
		Storages:  []crashlab.Opener{{Name: "PostgreSQL", Open: open}},
		Sleep:     time.Sleep,
		RealTime:  true,
	}
}

func TestModel(t *testing.T) {
	m := newModel(t)
	m.Seed = *modelSeed
	if m.Seed == 0 {
		m.Seed = uint64(time.Now().UnixNano())
	}
	t.Logf("to repeat it: go test -run '^TestModel$' -model.seed=%d -model.sequences=%d .", m.Seed, m.Sequences)
	if err := m.Check(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestNoKnownFault(t *testing.T) {
	for _, fault := range crashlab.KnownFaults {
		t.Run(fault.Name, func(t *testing.T) { playModel(t, fault.Steps...) })
	}
}

// playModel plays a sequence on this storage. The tests that a Difference prints call it.
func playModel(t *testing.T, steps ...crashlab.Step) {
	t.Helper()
	if err := newModel(t).Play(t.Context(), steps...); err != nil {
		t.Error(err)
	}
}

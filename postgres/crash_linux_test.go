//go:build linux

package postgres

import (
	"flag"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/pinion-queue/pinion/internal/crashlab"
)

var (
	crashKills = flag.Int("crash.kills", 12, "how many processes TestCrashOfWorkersLosesNothing kills")
	crashSeed  = flag.Uint64("crash.seed", 0, "the random seed of the crash laboratory [a new one]")
)

// Workers, producers and a pruner share a queue. They are killed while they work.
func TestCrashOfWorkersLosesNothing(t *testing.T) {
	seed := *crashSeed
	if seed == 0 {
		seed = rand.Uint64()
	}
	t.Logf("-crash.seed=%d", seed)
	lab := crashlab.Lab{
		DSN:           withParam(schemaURL(t), "pool_max_conns=4"),
		Dir:           t.TempDir(),
		Seed:          seed,
		Workers:       5,
		Producers:     2,
		Pruners:       1,
		Kills:         *crashKills,
		PoisonRetries: 1,
		Visibility:    time.Second,
		Logf:          t.Logf,
	}
	report, err := lab.Run(t.Context())
	if err != nil {
		t.Errorf("the laboratory failed: %v", err)
	}
	t.Logf("%v", report)
	for _, violation := range report.Violations {
		t.Error(violation)
	}
}

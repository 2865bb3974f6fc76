//go:build linux

package postgres

import (
	"flag"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pinion-queue/pinion/internal/crashlab"
)

var (
	crashKills = flag.Int("crash.kills", 8, "how many processes each test of the crash laboratories kills")
	crashJobs  = flag.Int("crash.jobs", 300,
		"jobs in the laboratories of one promise; a thirtieth as many periodic runs")
	crashSeed = flag.Uint64("crash.seed", 0, "the random seed of the crash laboratories [a new one]")
)

// newCrashSeed returns the seed of the flag, or a new one, and logs it.
func newCrashSeed(t *testing.T) uint64 {
	t.Helper()
	seed := *crashSeed
	if seed == 0 {
		seed = rand.Uint64()
	}
	t.Logf("-crash.seed=%d", seed)
	return seed
}

// Workers, producers and a pruner share a queue. They are killed while they work.
func TestCrashOfWorkersLosesNothing(t *testing.T) {
	lab := crashlab.Lab{
		DSN:           withParam(schemaURL(t), "pool_max_conns=4"),
		Dir:           t.TempDir(),
		Seed:          newCrashSeed(t),
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

// Each job adds 1 to a row of the user's, and enqueues a second one that does the same, in the transaction that ends
// the job. Processes are killed and frozen, leases are lost, and tasks fail at the worst moments. The sum is exact.
func TestTxDoneMakesEffectsHappenExactlyOnce(t *testing.T) {
	runSwarm(t, crashlab.ProofExactlyOnce, *crashJobs)
}

// Eight processes with eight slots share a queue with a limit.
func TestALimitHoldsWhileProcessesAreKilled(t *testing.T) {
	runSwarm(t, crashlab.ProofLimit, *crashJobs)
}

// Three workers of two versions of a program, which have different schedules, make one periodic job.
func TestPeriodicJobsRunOnceAndNeverTwoAtATime(t *testing.T) {
	runSwarm(t, crashlab.ProofPeriodic, max(10, *crashJobs/30))
}

// runSwarm runs a Swarm on a new schema.
func runSwarm(t *testing.T, proof crashlab.Proof, jobs int) {
	t.Helper()
	url := schemaURL(t)
	s := open(t, url, nil) // makes the schema
	swarm := crashlab.Swarm{
		DSN: withParam(url, "pool_max_conns=5"),
		SQL: crashlab.SQL{
			Driver: "pgx",
			Source: plainURL(url),
			Schema: pgx.Identifier{s.opts.Schema}.Sanitize() + ".",
		},
		Dir:   t.TempDir(),
		Seed:  newCrashSeed(t),
		Proof: proof,
		Jobs:  jobs,
		Kills: *crashKills,
	}
	report, err := swarm.Run(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%v", report)
	for _, violation := range report.Violations {
		t.Error(violation)
	}
}

package crashlab_test

import (
	"flag"
	"path/filepath"
	"testing"

	"github.com/pinion-queue/pinion/internal/crashlab"
)

var crashJobs = flag.Int("crash.jobs", 300,
	"jobs in the laboratories of one promise; a thirtieth as many periodic runs")

// Each job adds 1 to a row of the user's, and enqueues a second one that does the same, in the transaction that ends
// the job. Processes are killed and frozen, leases are lost, and tasks fail at the worst moments. The sum is exact.
func TestTxDoneMakesEffectsHappenExactlyOnce(t *testing.T) {
	t.Parallel()
	runSwarm(t, crashlab.ProofExactlyOnce, *crashJobs)
}

// Eight processes with eight slots share a queue with a limit.
func TestALimitHoldsWhileProcessesAreKilled(t *testing.T) {
	t.Parallel()
	runSwarm(t, crashlab.ProofLimit, *crashJobs)
}

// Three workers of two versions of a program, which have different schedules, make one periodic job.
func TestPeriodicJobsRunOnceAndNeverTwoAtATime(t *testing.T) {
	t.Parallel()
	runSwarm(t, crashlab.ProofPeriodic, max(10, *crashJobs/30))
}

// runSwarm runs a Swarm on a new file.
func runSwarm(t *testing.T, proof crashlab.Proof, jobs int) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "q.db")
	swarm := crashlab.Swarm{
		DSN:   path,
		SQL:   crashlab.SQLOfFile(path),
		Dir:   t.TempDir(),
		Seed:  seed(t),
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
	checkIntegrity(t, path)
}

package crashlab_test

import (
	"context"
	"flag"
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"github.com/pinion-queue/pinion"
	"github.com/pinion-queue/pinion/internal/crashlab"
)

var crashJobs = flag.Int("crash.jobs", 300, "jobs in the laboratories of one promise; a thirtieth as many periodic runs")

// openSwarm opens a storage for the parent of a Swarm.
func openSwarm(t *testing.T, path string) *pinion.SQLiteStorage {
	t.Helper()
	s, err := pinion.OpenSQLite(t.Context(), path, &pinion.SQLiteOptions{Retention: -1})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// countDone returns a function that counts the jobs that are done.
func countDone(t *testing.T, path, query string) func(context.Context) (int, error) {
	t.Helper()
	db := openSQL(t, path)
	t.Cleanup(func() { db.Close() })
	return func(ctx context.Context) (n int, err error) {
		err = db.QueryRowContext(ctx, query).Scan(&n)
		return n, err
	}
}

const countSuccess = `SELECT count(*) FROM jobs WHERE status='SUCCESS'`

// Each job adds 1 to a row of the user's, and enqueues a second one that does the same, in the transaction that ends the
// job. Processes are killed and frozen, leases are lost, and tasks fail at the worst moments. The sum is exact.
func TestTxDoneMakesEffectsHappenExactlyOnce(t *testing.T) {
	path := filepath.Join(t.TempDir(), "q.db")
	s := openSwarm(t, path)
	execSQL(t, path, `CREATE TABLE sums (n INTEGER NOT NULL); INSERT INTO sums VALUES (0)`)
	enqueueMany(t, s, *crashJobs, func() *pinion.Job { return pinion.NewJob(crashlab.ExactTask, true) })
	total := 2 * *crashJobs
	swarm := crashlab.Swarm{
		DSN:        path,
		Dir:        t.TempDir(),
		Seed:       seed(t),
		Proof:      crashlab.ProofExactlyOnce,
		Processes:  4,
		Slots:      4,
		Visibility: 600 * time.Millisecond,
		Kills:      *crashKills,
		Total:      total,
		Done:       countDone(t, path, countSuccess),
	}
	report := runSwarm(t, swarm)
	sum, err := countDone(t, path, `SELECT n FROM sums`)(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if sum != total {
		t.Errorf("the sum is %d, want %d", sum, total)
	}
	if report.Kills > 0 && len(report.Runs) == total {
		t.Error("no job ran twice, which shows little")
	}
	checkSwarm(t, s, path, total)
}

// Eight processes with eight slots share a queue with a limit.
func TestALimitHoldsWhileProcessesAreKilled(t *testing.T) {
	const limit = 3
	path := filepath.Join(t.TempDir(), "q.db")
	s := openSwarm(t, path)
	if err := s.SetLimit(t.Context(), "", limit); err != nil {
		t.Fatal(err)
	}
	enqueueMany(t, s, *crashJobs, func() *pinion.Job { return pinion.NewJob(crashlab.ShortTask) })
	report := runSwarm(t, crashlab.Swarm{
		DSN:        path,
		Dir:        t.TempDir(),
		Seed:       seed(t),
		Proof:      crashlab.ProofLimit,
		Processes:  8,
		Slots:      8,
		Visibility: 600 * time.Millisecond,
		Kills:      *crashKills,
		Total:      *crashJobs,
		Done:       countDone(t, path, countSuccess),
	})
	if report.MostAtOnce > limit {
		t.Errorf("%d jobs ran at the same time, want at most %d", report.MostAtOnce, limit)
	}
	if report.MostAtOnce < limit {
		t.Errorf("only %d jobs ran at the same time, which shows little", report.MostAtOnce)
	}
	checkSwarm(t, s, path, *crashJobs)
}

// Three workers of two versions of a program, which have different schedules, make one periodic job.
func TestPeriodicJobsRunOnceAndNeverTwoAtATime(t *testing.T) {
	path := filepath.Join(t.TempDir(), "q.db")
	s := openSwarm(t, path)
	count := countDone(t, path, countSuccess)
	unfinished := countDone(t, path, `SELECT count(*) FROM jobs WHERE status IN ('PENDING','RUNNING')`)
	lastThere := time.Now() // when the next run was last seen in the storage
	var longestGap time.Duration
	report := runSwarm(t, crashlab.Swarm{
		DSN:        path,
		Dir:        t.TempDir(),
		Seed:       seed(t),
		Proof:      crashlab.ProofPeriodic,
		Processes:  3,
		Slots:      4,
		Visibility: 600 * time.Millisecond,
		Kills:      *crashKills,
		Total:      max(10, *crashJobs/30),
		Done: func(ctx context.Context) (int, error) {
			n, err := unfinished(ctx)
			if err != nil {
				return 0, err
			}
			now := time.Now()
			if n > 1 {
				return 0, fmt.Errorf("%d runs are PENDING or RUNNING, want at most 1", n)
			}
			longestGap = max(longestGap, now.Sub(lastThere))
			if n == 1 {
				lastThere = now
			}
			return count(ctx)
		},
	})
	t.Logf("the next run was missing for %v at most", longestGap)
	if longestGap > time.Minute { // a busy machine says little about time
		t.Errorf("the next run was missing for %v", longestGap)
	}
	if report.MostAtOnce > 1 {
		t.Errorf("%d runs at the same time, want 1", report.MostAtOnce)
	}
	jobOf := make(map[string]string) // by slot
	ran := make(map[string]bool)     // by id
	for _, run := range report.Runs {
		if other, ok := jobOf[run.Slot]; ok && other != run.ID {
			t.Errorf("%s has the jobs %s and %s", run.Slot, other, run.ID)
		}
		jobOf[run.Slot] = run.ID
		ran[run.ID] = true
	}
	for job, err := range s.Jobs(t.Context(), pinion.Filter{}) {
		if err != nil {
			t.Fatal(err)
		}
		if job.Status != pinion.StatusPending && !ran[job.ID] {
			t.Errorf("job %s is %s, but it never ran", job.ID, job.Status)
		}
	}
	checkIntegrity(t, path)
}

func runSwarm(t *testing.T, swarm crashlab.Swarm) crashlab.SwarmReport {
	t.Helper()
	report, err := swarm.Run(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%d jobs, %d runs, at most %d at the same time; %d kills, %d processes stopped alone",
		swarm.Total, len(report.Runs), report.MostAtOnce, report.Kills, report.Stops)
	return report
}

// enqueueMany enqueues n jobs.
func enqueueMany(t *testing.T, s *pinion.SQLiteStorage, n int, newJob func() *pinion.Job) {
	t.Helper()
	for n > 0 {
		jobs := make([]*pinion.Job, min(n, 1000))
		for i := range jobs {
			jobs[i] = newJob()
		}
		if err := s.Enqueue(t.Context(), jobs...); err != nil {
			t.Fatal(err)
		}
		n -= len(jobs)
	}
}

// checkSwarm checks that every job succeeded, and that there are no others.
func checkSwarm(t *testing.T, s *pinion.SQLiteStorage, path string, total int) {
	t.Helper()
	for job, err := range s.Jobs(t.Context(), pinion.Filter{}) {
		if err != nil {
			t.Fatal(err)
		}
		total--
		if job.Status != pinion.StatusSuccess {
			t.Errorf("job %s is %s after %d attempts: %s", job.ID, job.Status, job.Attempts, job.Error)
		}
	}
	if total != 0 {
		t.Errorf("there are %d jobs too few", total)
	}
	checkIntegrity(t, path)
}

//go:build unix

package crashlab_test

import (
	"path/filepath"
	"testing"

	"github.com/pinion-queue/pinion/internal/crashlab"
)

// The clock of all processes is set, forward and back by up to an hour, while they work. No living worker loses a job,
// and the jobs of the dead are taken back.
func TestCrashWhileTheClockIsSet(t *testing.T) {
	if *crashClocks == 0 {
		t.Skip("compiles the standard library, which takes minutes; run it with -crash.clocks=5")
	}
	program, err := crashlab.BuildWithClock(t.Context(), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "q.db")
	lab := crashlab.Lab{
		DSN:           path,
		Dir:           t.TempDir(),
		Program:       program,
		Seed:          seed(t),
		Workers:       5,
		Producers:     2,
		Kills:         *crashKills,
		Clocks:        *crashClocks,
		Visibility:    *crashLease,
		PoisonRetries: 1,
		Drains:        *crashDrains,
		Logf:          t.Logf,
	}
	report, err := lab.Run(t.Context())
	checkReport(t, report, err)
	checkIntegrity(t, path)
	if report.Clocks != *crashClocks {
		t.Errorf("the clock was set %d times, want %d", report.Clocks, *crashClocks)
	}
}

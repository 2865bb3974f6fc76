package crashlab_test

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/pinion-queue/pinion"
)

// The power laboratory shows that every acknowledged job survives a loss of power.
//
// It cannot cut the power, and the SQLite driver lets nobody wrap its file operations. So it records what a
// process asks the operating system to do: a child enqueues jobs under strace, which writes down every write
// with its bytes, every fsync, and every acknowledgement, which is a write to a file as well. See
// power_record_linux_test.go.
//
// From that record the test builds the disk that a loss of power may leave behind: with all that was fsynced
// before, and of the rest nothing, everything or a random part. See power_disk_linux_test.go. It opens each
// such disk and looks for the jobs that had been acknowledged.
//
// What this cannot show: a drive that reports what is only in its cache as written, a write that damages its
// neighbours, a file system that keeps less than it promises, and the calls of other operating systems.

func TestAcknowledgedJobsSurviveALossOfPower(t *testing.T) {
	t.Parallel()
	calls := record(t, "FULL")
	tried, failed := losePower(t, calls, *powerPoints)
	for _, failure := range failed {
		t.Error(failure)
	}
	t.Logf("%d recorded calls, %d losses of power, jobs lost in %d", len(calls), tried, len(failed))
}

// Without one kind of fsync, or with synchronous=NORMAL, which promises less, jobs are lost. If the
// laboratory did not notice, the test above would show nothing.
func TestALossOfPowerIsNoticedWhereAnFsyncIsMissing(t *testing.T) {
	t.Parallel()
	wantLosses := func(t *testing.T, calls []fileCall) {
		tried, failed := losePower(t, calls, *powerPoints/3)
		t.Logf("%d recorded calls, %d losses of power, jobs lost in %d", len(calls), tried, len(failed))
		if len(failed) == 0 {
			t.Error("no job was lost, so this laboratory cannot see a loss")
			return
		}
		t.Logf("the first loss: %s", failed[0])
	}
	calls := record(t, "FULL")
	for _, name := range []string{folder, "q.db", "q.db-wal"} {
		t.Run("of "+cmp.Or(name, "the folder"), func(t *testing.T) {
			without := slices.Clone(calls)
			for i, call := range without {
				if call.verb == "sync" && call.name == name {
					without[i].verb = "nothing" // and not deleted, because calls refer to each other by index
				}
			}
			wantLosses(t, without)
		})
	}
	t.Run("with NORMAL", func(t *testing.T) { wantLosses(t, record(t, "NORMAL")) })
}

// losePower loses the power about so many times as wanted, each time after a random call that comes after the
// first acknowledgement. It returns how often it did, and a description of each time that lost a job or
// damaged the file.
func losePower(t *testing.T, calls []fileCall, wanted int) (tried int, failed []string) {
	t.Helper()
	random := rand.New(rand.NewPCG(seed(t), 5))
	dir := filepath.Join(t.TempDir(), "disk")
	fates := fates(random)
	chance := float64(wanted) / float64(len(calls)*len(fates))
	d := newDisk(calls)
	for n, call := range calls {
		d.apply(n)
		if len(d.acknowledged) == 0 {
			continue
		}
		for _, fate := range fates {
			// More depends on these calls than on the many writes.
			weight := 1.0
			if call.verb == "ack" || call.verb == "remove" || call.verb == "truncate" || call.name == folder {
				weight = 4
			}
			times := weight * chance
			if !fate.random { // it is the same each time
				times = min(times, 1)
			}
			for ; random.Float64() < times; times-- {
				tried++
				err := errors.Join(os.RemoveAll(dir), os.Mkdir(dir, 0o700), d.writeAfterLoss(dir, fate, random))
				if err != nil {
					t.Fatal(err)
				}
				if err := checkDisk(t, filepath.Join(dir, "q.db"), d.acknowledged); err != nil {
					failed = append(failed, fmt.Sprintf("power lost after call %d (%s %q), %s: %v",
						n, call.verb, call.name, fate.name, err))
				}
			}
		}
	}
	return tried, failed
}

// checkDisk opens the file that a loss of power left behind and returns an error if an acknowledged job is
// missing or the file is damaged.
func checkDisk(t *testing.T, path string, acknowledged []string) error {
	missing, err := missingJobs(t.Context(), path, acknowledged)
	if err != nil {
		return err
	}
	if len(missing) > 0 {
		return fmt.Errorf("%d of %d acknowledged jobs are missing", len(missing), len(acknowledged))
	}
	return integrityCheck(t, path)
}

func missingJobs(ctx context.Context, path string, ids []string) ([]string, error) {
	s, err := pinion.OpenSQLite(ctx, path, nil)
	if err != nil {
		return nil, err
	}
	defer s.Close()
	stored := make(map[string]bool)
	for job, err := range s.Jobs(ctx, pinion.Filter{}) {
		if err != nil {
			return nil, err
		}
		stored[job.ID] = true
	}
	return slices.DeleteFunc(slices.Clone(ids), func(id string) bool { return stored[id] }), nil
}

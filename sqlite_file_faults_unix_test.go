//go:build linux || darwin

package pinion

import (
	"math"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"syscall"
	"testing"
	"time"
)

// A limit on the size of files does to a process what a full disk does, and a quota, though in other words.
func TestNothingIsLostWhenNoFileMayGrow(t *testing.T) {
	t.Parallel()
	inChild(t, func(*exec.Cmd) {}, func(t *testing.T) {
		signal.Ignore(syscall.SIGXFSZ)
		path := filepath.Join(t.TempDir(), "q.db")
		besiege(t, path, func(s *siege) {
			for i, left := range []int64{0, 1, 100, 5000} { // so that the log breaks off at different places
				s.shortenLog()
				info, err := os.Stat(path + "-wal")
				if err != nil {
					s.Fatal(err)
				}
				limit(s.T, uint64(info.Size()+left))
				s.sleep(time.Second) // in which the rest is used up
				s.during(14*time.Second+time.Duration(i)*350*time.Millisecond,
					"the disk is full, over quota or failing")
				limit(s.T, math.MaxUint64)
				s.sleep(15 * time.Second)
			}
		})
	})
}

func limit(t *testing.T, size uint64) {
	t.Helper()
	var r syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_FSIZE, &r); err != nil {
		t.Fatal(err)
	}
	r.Cur = min(size, r.Max)
	if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &r); err != nil {
		t.Fatal(err)
	}
}

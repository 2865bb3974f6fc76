package pinion

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"
)

// inMountNamespace runs a test in a child that may mount what it likes, which nobody else sees and which ends with it.
func inMountNamespace(t *testing.T, test func(t *testing.T)) {
	t.Helper()
	inChild(t, func(cmd *exec.Cmd) {
		cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS}
		if uid := os.Getuid(); uid != 0 {
			cmd.SysProcAttr.Cloneflags = syscall.CLONE_NEWUSER
			cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: uid, Size: 1}}
		}
		probe := exec.Command("/proc/self/exe", "-test.run=^$")
		probe.SysProcAttr = cmd.SysProcAttr
		if err := probe.Run(); errors.Is(err, syscall.EPERM) || errors.Is(err, syscall.EACCES) {
			t.Skipf("this user may mount nothing, not even for itself: %v", err)
		}
	}, test)
}

func mount(t *testing.T, dir string, flags uintptr, data string) {
	t.Helper()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", flags, data); err != nil {
		t.Fatal(err)
	}
}

// fill fills a disk but for some bytes.
func fill(t *testing.T, dir string, left int) (free func()) {
	t.Helper()
	ballast := filepath.Join(dir, "ballast")
	f, err := os.Create(ballast)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for block := make([]byte, 4096); err == nil; {
		_, err = f.Write(block)
	}
	if !errors.Is(err, syscall.ENOSPC) {
		t.Fatal(err)
	}
	if info, err := f.Stat(); err != nil || f.Truncate(max(info.Size()-int64(left), 0)) != nil {
		t.Fatal(err)
	}
	return func() { os.Remove(ballast) }
}

func TestNothingIsLostWhenTheDiskIsFull(t *testing.T) {
	inMountNamespace(t, func(t *testing.T) {
		dir := t.TempDir()
		mount(t, dir, 0, "size=8m")
		defer syscall.Unmount(dir, syscall.MNT_DETACH)
		besiege(t, filepath.Join(dir, "q.db"), func(s *siege) {
			for i, left := range []int{0, 4096, 8192, 12288, 20480} {
				s.shortenLog()
				free := fill(t, dir, left)
				s.sleep(time.Second) // in which the rest is used up
				s.during(14*time.Second+time.Duration(i)*350*time.Millisecond, "the disk is full; nothing can be stored until there is room")
				free()
				s.sleep(15 * time.Second)
			}
		})
	})
}

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
			// A file of a group that the namespace does not know cannot be made.
			cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}}
		}
		probe := exec.Command("/proc/self/exe", "-test.run=^$")
		probe.SysProcAttr = cmd.SysProcAttr
		err := probe.Run()
		if errors.Is(err, syscall.EPERM) || errors.Is(err, syscall.EACCES) {
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
	t.Parallel()
	inMountNamespace(t, func(t *testing.T) {
		dir := t.TempDir()
		mount(t, dir, 0, "size=8m")
		defer syscall.Unmount(dir, syscall.MNT_DETACH)
		besiege(t, filepath.Join(dir, "q.db"), func(s *siege) {
			for i, left := range []int{0, 4096, 8192, 12288, 20480} {
				s.shortenLog()
				free := fill(s.T, dir, left)
				s.sleep(time.Second) // in which the rest is used up
				s.during(14*time.Second+time.Duration(i)*350*time.Millisecond,
					"the disk is full; nothing can be stored until there is room")
				free()
				s.sleep(15 * time.Second)
			}
		})
	})
}

// A user of few rights, whom root may make of itself.
func TestAWorkerGoesOnWhileItsPermissionIsLostAndReadsAgainWhenItIsBack(t *testing.T) {
	t.Parallel()
	inChild(t, func(cmd *exec.Cmd) {
		if os.Getuid() == 0 {
			dir := dirForNobody(t)
			if err := os.Chown(dir, nobody, nobody); err != nil {
				t.Skip(err)
			}
			cmd.Env = append(cmd.Env, "TMPDIR="+dir)
		}
	}, func(t *testing.T) {
		if os.Getuid() == 0 {
			// The child does this itself: another user might not be allowed to run its file.
			if err := errors.Join(syscall.Setgroups(nil), syscall.Setgid(nobody), syscall.Setuid(nobody)); err != nil {
				t.Skipf("root may not become another user: %v", err)
			}
		}
		dir := filepath.Join(t.TempDir(), "dir")
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		defer os.Chmod(dir, 0o700)
		path := filepath.Join(dir, "q.db")
		besiege(t, path, func(s *siege) {
			chmod(s.T, path, 0)
			chmod(s.T, dir, 0)
			s.sqlite.readers.SetMaxIdleConns(0) // so that readers open the file anew, as they do now and then
			s.sqlite.readers.SetMaxIdleConns(2)
			if _, err := os.Stat(path); !errors.Is(err, os.ErrPermission) {
				s.Fatalf("the file can still be reached (%v), so this test shows nothing", err)
			}
			s.sleep(20 * time.Second) // what is open stays open
			_, err := s.sqlite.Size(s.Context())
			wantError(s.T, err, "pinion: size: ", "the file cannot be opened")
			_, err = OpenSQLite(s.Context(), path, nil)
			wantError(s.T, err, "pinion: open "+path, "permission denied")
			if len(s.errs) > 0 {
				s.Errorf("an Enqueue has failed: %v", s.errs[0])
			}
			chmod(s.T, dir, 0o700)
			chmod(s.T, path, 0o600)
			if _, err := s.sqlite.Size(s.Context()); err != nil {
				s.Error(err)
			}
		})
	})
}

func chmod(t *testing.T, name string, mode os.FileMode) {
	t.Helper()
	if err := os.Chmod(name, mode); err != nil {
		t.Fatal(err)
	}
}

// Linux lets no disk become read-only while a file is open there for writing. One that fails may all the same: SQLite
// then says what it says of a quota, which sqlite_file_faults_unix_test.go tests.
func TestAFileOnAReadOnlyDiskIsRefusedAndCanBeLookedAt(t *testing.T) {
	t.Parallel()
	inMountNamespace(t, func(t *testing.T) {
		dir := t.TempDir()
		mount(t, dir, 0, "size=8m")
		defer syscall.Unmount(dir, syscall.MNT_DETACH)
		path := filepath.Join(dir, "q.db")
		s, err := OpenSQLite(t.Context(), path, nil)
		if err != nil {
			t.Fatal(err)
		}
		mustEnqueue(t, s, NewJob("there"))
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		mount(t, dir, syscall.MS_REMOUNT|syscall.MS_RDONLY, "")
		_, err = OpenSQLite(t.Context(), path, nil)
		wantError(t, err, "pinion: open "+path, "the file or its folder is read-only for this user")
		_, err = OpenSQLite(t.Context(), path+".new", nil)
		wantError(t, err, "pinion: open "+path+".new", "read-only file system")
		s, err = OpenSQLite(t.Context(), path, &SQLiteOptions{ReadOnly: true})
		if err != nil {
			t.Fatal(err)
		}
		if got := listed(t, s.Jobs(t.Context(), Filter{})); got != "there" {
			t.Errorf("there are %q", got)
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
}

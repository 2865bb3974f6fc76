package pinion

import (
	"context"
	"errors"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"syscall"
	"testing"
)

func TestOpenSQLiteRefusesAFifoAndDoesNotWaitForIt(t *testing.T) {
	path := filepath.Join(t.TempDir(), "q.db")
	if err := syscall.Mkfifo(path, 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := OpenSQLite(t.Context(), path, nil)
	wantError(t, err, "pinion: open "+path+": ", "it is not a regular file")
}

const nobody = 65534 // a user who owns no files

// dirForNobody returns a directory for temporary files that a user who takes the place of root can reach.
func dirForNobody(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	if os.Getuid() != 0 {
		return dir
	}
	if err := os.Chmod(filepath.Dir(dir), 0o755); err != nil {
		t.Fatal(err)
	}
	for above := filepath.Dir(dir); above != "/"; above = filepath.Dir(above) {
		info, err := os.Stat(above)
		if err != nil {
			t.Fatal(err)
		}
		if info.Mode()&0o001 == 0 {
			t.Skipf("only root can reach %s; set TMPDIR to a folder for all users", above)
		}
	}
	return dir
}

// asNobody runs f as a user to whom permissions apply, also if the tests run as root. A namespace may know no other
// user; then asNobody skips the test.
func asNobody(t *testing.T, f func()) {
	t.Helper()
	setUser := func() (before uintptr) { // of this thread alone
		before, _, _ = syscall.RawSyscall(syscall.SYS_SETFSUID, nobody, 0, 0)
		return before
	}
	known := true
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // and never unlocked: the thread ends with the goroutine
		if os.Geteuid() == 0 {
			setUser()
			known = setUser() == nobody // the first call reports no error
		}
		if known {
			f()
		}
	}()
	<-done
	if !known {
		t.Skip("there is no user but root")
	}
}

func TestOpenSQLiteRefusesAFileOrFolderThatItMayNotWrite(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name         string
		file, folder os.FileMode
		says         string
	}{
		{"the file", 0o444, 0o777, "the file or its folder is read-only for this user"},
		{"the folder", 0o666, 0o555, "the file or its folder is read-only for this user"},
		{"both", 0o444, 0o555, "the file or its folder is read-only for this user"},
		{"reading, too", 0o000, 0o555, "unable to open"},
	} {
		for journal, script := range map[string]string{"": python02, " in WAL mode": python02 + "PRAGMA journal_mode=WAL;"} {
			t.Run(test.name+journal, func(t *testing.T) {
				dir := dirForNobody(t)
				path := filepath.Join(dir, "q.db")
				python(t, path, script)
				before := folder(t, dir)
				for _, change := range []struct {
					name string
					mode os.FileMode
				}{{path, test.file}, {dir, test.folder}} {
					if err := os.Chmod(change.name, change.mode); err != nil {
						t.Fatal(err)
					}
				}
				asNobody(t, func() {
					_, err := OpenSQLite(context.Background(), path, nil)
					wantError(t, err, "pinion: open "+path+": ", test.says)
				})
				if err := errors.Join(os.Chmod(dir, 0o755), os.Chmod(path, 0o644)); err != nil {
					t.Fatal(err)
				}
				// SQLite cannot read a file in WAL mode without making a log beside it, if it may.
				if after := folder(t, dir); journal == "" && !maps.Equal(before, after) ||
					before["q.db"] != after["q.db"] {
					t.Errorf("the folder has changed; there are now %q", slices.Collect(maps.Keys(after)))
				}
			})
		}
	}
}

func TestReadOnlyOpensAFileInAFolderThatItMayNotWrite(t *testing.T) {
	dir := dirForNobody(t)
	path := filepath.Join(dir, "q.db")
	s := sqliteStorage(t, path, nil)
	mustEnqueue(t, s, NewJob("there"))
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	before := folder(t, dir)
	if err := errors.Join(os.Chmod(path, 0o444), os.Chmod(dir, 0o555)); err != nil {
		t.Fatal(err)
	}
	asNobody(t, func() {
		s, err := OpenSQLite(context.Background(), path, &SQLiteOptions{ReadOnly: true})
		if err != nil {
			t.Error(err)
			return
		}
		if got := listed(t, s.Jobs(context.Background(), Filter{})); got != "there" {
			t.Errorf("Jobs lists %q, want there", got)
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	after := folder(t, dir)
	// Readers mark in the -shm what they read. Its owner may, whatever the folder says.
	before["q.db-shm"], after["q.db-shm"] = "", ""
	if !maps.Equal(before, after) {
		t.Errorf("the folder has changed; there are now %q", slices.Collect(maps.Keys(after)))
	}
}

func TestOpenSQLiteRefusesADanglingLinkAndADevice(t *testing.T) {
	dir := t.TempDir()
	link := filepath.Join(dir, "q.db")
	if err := os.Symlink(filepath.Join(dir, "nothing"), link); err != nil {
		t.Fatal(err)
	}
	for path, says := range map[string]string{link: "no such file or directory", "/dev/null": "it is not a regular file"} {
		for _, readOnly := range []bool{false, true} {
			_, err := OpenSQLite(t.Context(), path, &SQLiteOptions{ReadOnly: readOnly})
			wantError(t, err, "pinion: open "+path+": ", says)
		}
	}
	if found := slices.Collect(maps.Keys(folder(t, dir))); !slices.Equal(found, []string{"q.db"}) {
		t.Errorf("the folder holds %q, want q.db alone", found)
	}
}

// Each name has a -wal of its own, so a queue under two names loses jobs.
func TestOpenSQLiteRefusesAFileWithTwoNames(t *testing.T) {
	s, path := newSQLite(t)
	mustEnqueue(t, s, NewJob("a"))
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	link := filepath.Join(t.TempDir(), "link.db")
	if err := os.Link(path, link); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{path, link} {
		_, err := OpenSQLite(t.Context(), name, nil)
		wantError(t, err, "pinion: open "+name+": it has 2 names (hard links); want one")
	}
	// What a program has written under one name may be in that name's -wal alone.
	_, err := OpenSQLite(t.Context(), link, &SQLiteOptions{ReadOnly: true})
	wantError(t, err, "pinion: open "+link+": it has 2 names (hard links), and under this one there is no -wal")
	if found := folder(t, filepath.Dir(link)); len(found) != 1 {
		t.Errorf("the folder of the link holds %d files, want the link alone", len(found))
	}
	reader, err := OpenSQLite(t.Context(), path, &SQLiteOptions{ReadOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	report, err := reader.Check(t.Context())
	if report.Links != 2 || err != nil {
		t.Errorf("Check finds %d links, error %v; want 2", report.Links, err)
	}
	if err := reader.Close(); err != nil {
		t.Error(err)
	}
	if err := os.Remove(link); err != nil {
		t.Fatal(err)
	}
	if got := listed(t, sqliteStorage(t, path, nil).Jobs(t.Context(), Filter{})); got != "a" {
		t.Errorf("the jobs are %q", got)
	}
}

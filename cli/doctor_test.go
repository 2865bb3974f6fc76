package cli

import (
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/pinion-queue/pinion"
	"github.com/pinion-queue/pinion/internal/checkup"
)

// testdata/doctor.txt has what doctor says of a sound file and of jobs that are in trouble.

func TestADoctorWithTasksFindsThePendingJobsOfOthers(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	db := filepath.Join(dir, "q.db")
	storage := openStorage(t, db)
	for _, task := range []string{"pack", "PACK", "unpack", "unpack", "other"} {
		mustEnqueue(t, storage, pinion.NewJob(task))
	}
	stdout, _ := finish(t, process(t, dir, "doctor", "--exec", "pack=gzip -k -- {0}", "--db", db), 1)
	wantText(t, stdout, `(?m)^WRONG  tasks .*not registered here: unpack \(2\), other \(1\)$`)
	all := []string{"--exec", "pack=gzip {0}", "--exec", "unpack=gunzip {0}", "--exec", "other=true"}
	stdout, _ = finish(t, process(t, dir, append([]string{"doctor", "--db", db}, all...)...), 0)
	wantText(t, stdout, `(?m)^ok     tasks .*registered here$`)
	stdout, _ = finish(t, process(t, dir, "doctor", "--db", db), 0)
	wantText(t, stdout, `(?m)^ok     tasks `)
}

func TestADoctorFindsAFileUnderTwoNames(t *testing.T) {
	t.Parallel()
	if runtime.GOOS == "windows" {
		t.Skip("the number of names is not to be had there")
	}
	db := filepath.Join(t.TempDir(), "q.db")
	openStorage(t, db)
	status, stdout, _ := runCommand(t, "doctor", "--db", db)
	if status != 0 || strings.Contains(stdout, "links") {
		t.Errorf("one name: exit status %d, printed:\n%s", status, stdout)
	}
	if err := os.Link(db, db+".too"); err != nil {
		t.Fatal(err)
	}
	status, stdout, _ = runCommand(t, "doctor", "--db", db)
	if status != 1 {
		t.Errorf("two names: exit status %d", status)
	}
	wantText(t, stdout, `(?m)^WRONG  links      the file has 2 names \(hard links\)`)
}

func TestADoctorFindsDamageAndALogThatHasGrown(t *testing.T) {
	t.Parallel()
	if runtime.GOOS == "windows" {
		t.Skip("other programs cannot write into an open file there")
	}
	db := filepath.Join(t.TempDir(), "q.db")
	storage := openStorage(t, db)
	for range 50 {
		mustEnqueue(t, storage, pinion.NewJob("a", strings.Repeat("x", 3000)))
	}
	// SQLite ignores what is behind the last frame of a log.
	if err := os.Truncate(db+"-wal", checkup.HugeLog+1); err != nil {
		t.Fatal(err)
	}
	status, stdout, _ := runCommand(t, "doctor", "--db", db)
	if status != 1 {
		t.Errorf("exit status %d", status)
	}
	wantText(t, stdout, `(?m)^WRONG  log        .*q\.db-wal has grown to 268 MB$`)
	if err := storage.Close(); err != nil {
		t.Fatal(err)
	}

	damage(t, db)
	status, stdout, _ = runCommand(t, "doctor", "--db", db)
	if status != 1 {
		t.Errorf("exit status %d", status)
	}
	wantText(t, stdout, `(?ms)^WRONG  content    .*damaged.* {18}stop all programs that use the file`)
}

// damage overwrites eight pages in the middle of a file.
func damage(t *testing.T, name string) {
	t.Helper()
	file, err := os.OpenFile(name, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		t.Fatal(err)
	}
	middle := info.Size() / 4096 / 2 * 4096
	if _, err := file.WriteAt([]byte(strings.Repeat("\x55", 8*4096)), middle); err != nil {
		t.Fatal(err)
	}
}

func TestADoctorReportsAnOlderSchema(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "q.db")
	if err := openStorage(t, path).Close(); err != nil {
		t.Fatal(err)
	}
	db := openDB(t, path)
	if _, err := db.Exec("PRAGMA user_version=1"); err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	status, stdout, _ := runCommand(t, "doctor", "--db", path)
	if status != 0 {
		t.Errorf("exit status %d", status)
	}
	wantText(t, stdout, `(?m)^note   schema     version 1; this program uses \d+$`)
}

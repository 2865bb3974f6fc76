package cli

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

func TestACommandReportsThatItWaitsForALock(t *testing.T) {
	defer func(before time.Duration) { noticeAfter = before }(noticeAfter)
	noticeAfter = time.Millisecond
	path := filepath.Join(t.TempDir(), "q.db")
	if err := openStorage(t, path).Close(); err != nil {
		t.Fatal(err)
	}
	tx, err := openDB(t, path+"?_txlock=immediate").BeginTx(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	stderr := &watched{first: regexp.MustCompile(
		`^pinion: still waiting for .*q\.db; another program holds its lock, or the disk is slow\n`)}
	var stdout strings.Builder
	status := make(chan int)
	go func() { status <- Run(t.Context(), []string{"enqueue", "add", "--db", path}, nil, &stdout, stderr) }()
	await(t, stderr, stderr.begun)
	if err := tx.Rollback(); err != nil {
		t.Fatal(err)
	}
	if got := <-status; got != 0 {
		t.Errorf("exit status %d\n%s", got, stderr)
	}
}

func TestAPathThatIsNoFileIsAnErrorThatSaysWhatToDo(t *testing.T) {
	t.Chdir(t.TempDir())
	const directory = "is that of a directory; want a file; give --db the file of a queue, or one that does not exist yet"
	for db, want := range map[string]struct{ enqueue, status string }{
		"x/":           {directory, directory},
		"sqlite:x/":    {directory, directory},
		"x/.":          {directory, directory},
		".":            {directory, directory},
		"..":           {directory, directory},
		"missing/q.db": {"check the name and the folder", "neither does its folder missing; check the name"},
		"q.db":         {"", "database q.db does not exist; `pinion enqueue` creates it"},
		":memory:":     {"want memory: for a storage", "want memory: for a storage"},
		"q.db?mode=ro": {"want the path alone", "want the path alone"},
		"file:q.db":    {"want the path alone", "want the path alone"},
	} {
		// The variable stands for the flag's default, which becomes absolute.
		t.Setenv("PINION_DB", db)
		for _, flags := range [][]string{{"--db", db}, nil} {
			status, _, stderr := runCommand(t, append([]string{"status"}, flags...)...)
			if status != 1 || !strings.Contains(strings.ReplaceAll(stderr, folderOf(t), ""), want.status) {
				t.Errorf("status, %s, %q: exit status %d, printed %q; want 1 and %q",
					db, flags, status, stderr, want.status)
			}
			if want.enqueue == "" {
				continue
			}
			status, _, stderr = runCommand(t, append([]string{"enqueue", "add"}, flags...)...)
			if status != 1 || !strings.Contains(stderr, want.enqueue) {
				t.Errorf("enqueue, %s, %q: exit status %d, printed %q; want 1 and %q",
					db, flags, status, stderr, want.enqueue)
			}
		}
	}
	files, err := os.ReadDir(".")
	if err != nil {
		t.Fatal(err)
	}
	if len(files) > 0 {
		t.Errorf("the directory has %v, want nothing", files)
	}
}

// folderOf returns the current directory with a separator, as errors show it.
func folderOf(t *testing.T) string {
	t.Helper()
	dir, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	return dir + string(filepath.Separator)
}

func TestEnqueueCreatesNoFileWhoseNameLooksLikeSomethingElse(t *testing.T) {
	t.Chdir(t.TempDir())
	for db, want := range map[string]string{
		"q.db?_txlock=immediate": "takes no settings",
		"sqlite:q.db?mode=rw":    "takes no settings",
		"sqlite:///pinion-q.db":  "want a path behind sqlite:",
		"memory":                 "want memory: for a storage in memory, or ./memory",
		":memory:":               "want memory: for a storage in memory, or ./memory",
	} {
		status, _, stderr := runCommand(t, "enqueue", "add", "--db", db)
		if status != 1 || !strings.Contains(stderr, want) {
			t.Errorf("--db %s: exit status %d, printed %q; want 1 and %q", db, status, stderr, want)
		}
	}
	files, err := os.ReadDir(".")
	if err != nil {
		t.Fatal(err)
	}
	if len(files) > 0 {
		t.Errorf("the directory has %v, want nothing", files)
	}
	if status, _, stderr := runCommand(t, "enqueue", "add", "--db", "./memory"); status != 0 {
		t.Errorf("--db ./memory: exit status %d, printed %q", status, stderr)
	}
}

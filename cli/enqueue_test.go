package cli

import (
	"bytes"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

func TestHugeArgumentsAreRefused(t *testing.T) {
	t.Parallel()
	db := filepath.Join(t.TempDir(), "q.db")
	for _, size := range []int{1 << 20, 50 << 20} {
		var stdout, stderr bytes.Buffer
		stdin := strings.NewReader(`["` + strings.Repeat("a", size) + `"]`)
		args := []string{"enqueue", "add", "--args", "-", "--db", db}
		status := Run(t.Context(), args, stdin, &stdout, &stderr)
		if status != 1 || stdout.Len() > 0 || !strings.Contains(stderr.String(), "too large") {
			t.Errorf("%d bytes: exit status %d\n%s%s", size, status, &stdout, &stderr)
		}
	}
	if exists(db) {
		t.Error("a refused job left a file")
	}
}

func TestAJobWhoseIDCannotBeWrittenIsNamedInTheError(t *testing.T) {
	t.Parallel()
	db := filepath.Join(t.TempDir(), "q.db")
	unwritable, err := os.Open(os.DevNull) // for reading
	if err != nil {
		t.Fatal(err)
	}
	defer unwritable.Close()
	want := regexp.MustCompile(
		`(?m)^pinion: cannot write the result: .*; but job [0-9a-f]{32} is in the queue; do not enqueue it again`)
	for _, flag := range []string{"--json", "--json=false"} {
		var stderr bytes.Buffer
		args := []string{"enqueue", "add", "--key", "one", flag, "--db", db}
		status := Run(t.Context(), args, nil, unwritable, &stderr)
		if status != 1 || !want.Match(stderr.Bytes()) {
			t.Errorf("exit status %d\n%s", status, &stderr)
		}
	}
}

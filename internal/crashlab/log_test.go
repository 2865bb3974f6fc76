package crashlab

import (
	"fmt"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestALineThatAKillCutShortIsSkipped(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	log, err := openLog(path, 7)
	if err != nil {
		t.Fatal(err)
	}
	log.write(logStart, "a:1", "2")
	fmt.Fprint(log.file, "\n123 7 ack\thalf of an id") // a kill
	log.write(logSaw)
	if err := log.file.Close(); err != nil {
		t.Fatal(err)
	}
	lines, err := readLog(path)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, line := range lines {
		got = append(got, fmt.Sprintf("%d %s %q", line.child, line.verb, line.words))
	}
	want := []string{`7 start ["a:1" "2"]`, `7 saw []`}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("the log (-want +got):\n%s", diff)
	}
}

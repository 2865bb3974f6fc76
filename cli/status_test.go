package cli

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/pinion-queue/pinion"
)

func TestANarrowScreenSaysHowManyItLeavesOut(t *testing.T) {
	t.Setenv("COLUMNS", "50")
	t.Setenv("LINES", "10")
	screen, err := os.Open(os.DevNull) // has no size of its own
	if err != nil {
		t.Fatal(err)
	}
	defer screen.Close()
	var s snapshot
	for i := range 14 {
		s.stats.Tasks = append(s.stats.Tasks, pinion.TaskStats{Task: fmt.Sprint("t", i)})
	}
	for limit, want := range map[int]string{2: "and 12 more", 12: "and 2 more", 13: ""} {
		lines := (&call{screen: screen}).statusLines(&s, limit)
		lines = slices.DeleteFunc(lines, func(line string) bool { return !strings.HasPrefix(line, "and ") })
		if got := strings.Join(lines, ""); got != want {
			t.Errorf("at most %d rows: got %q, want %q", limit, got, want)
		}
	}
}

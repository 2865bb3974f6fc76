package web

import (
	"strings"
	"testing"

	"github.com/pinion-queue/pinion"
)

func TestNumbersAreShownExactly(t *testing.T) {
	q := pinion.NewMemoryStorage()
	enqueue(t, q, &pinion.Job{ID: "n", Task: "t",
		Args: []any{int64(9007199254740993), map[string]any{"x": uint64(18446744073709551615)}}})
	body := get(t, New(q, quiet(t, Options{})), "/job/n")
	for _, want := range []string{"9007199254740993", "18446744073709551615"} {
		if !strings.Contains(body, want) {
			t.Errorf("the page does not show %s", want)
		}
	}
}

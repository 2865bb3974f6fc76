package web

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/pinion-queue/pinion"
)

func TestChartsAreDrawnToScale(t *testing.T) {
	now := time.Date(2026, 1, 2, 12, 30, 30, 0, time.UTC)
	minute := now.Truncate(time.Minute)
	hour := time.Date(2026, 1, 2, 3, 0, 0, 0, time.UTC)
	history := []pinion.Ends{
		{At: hour, Queue: "a", Succeeded: 600},
		{At: hour, Queue: "b", Failed: 600},
		{At: minute, Queue: "a", Succeeded: 30, Failed: 10},
	}
	c := newChart("A day", sumEnds(history, now), now, 24*60)
	// The chart ends at 12:31, so 03:00 is 869 minutes behind its begin. 40 is the highest round number needed.
	if diff := cmp.Diff([]string{
		"M869 75h60v-25h-60z" + "M1439 75h1v-75h-1z",
		"M869 100h60v-25h-60z" + "M1439 100h1v-25h-1z",
		"40", "20",
		"A day: 630 done, 610 failed; at most 40 a minute.",
	}, []string{c.Done, c.Failed, c.Top, c.Middle, c.Label}); diff != "" {
		t.Errorf("chart (-want +got):\n%s", diff)
	}
	for highest, want := range map[float64]float64{0: 1, 1: 1, 1.5: 2, 3: 4, 5: 10, 11: 20, 41: 100, 1234: 2000} {
		if got := roundTop(highest); got != want {
			t.Errorf("roundTop(%v) = %v, want %v", highest, got, want)
		}
	}
}

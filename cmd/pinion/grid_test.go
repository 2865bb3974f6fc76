package main

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pinion-queue/pinion"
)

func TestTextIsCutByTheColumnsItTakes(t *testing.T) {
	for _, c := range []struct {
		text string
		most int
		want string
	}{
		{"abc", 3, "abc"}, {"abcd", 3, "ab…"}, {"abc", 1, "…"}, {"abc", 0, ""}, {"", 0, ""},
		{"日本語", 6, "日本語"}, {"日本語", 5, "日本…"}, {"日本語", 4, "日…"}, {"日本", 1, "…"},
		{"e\u0301e\u0301", 2, "e\u0301e\u0301"}, {"e\u0301e\u0301e", 2, "e\u0301…"},
	} {
		if got := cut(c.text, c.most); got != c.want || columns(got) > c.most {
			t.Errorf("cut(%q, %d) = %q, want %q", c.text, c.most, got, c.want)
		}
	}
	g := &grid{names: []string{"TASK", "ERROR"}}
	for _, c := range []struct {
		column, most int
		want         string
	}{{0, 12, "images…small"}, {0, 7, "imag…ll"}, {0, 6, "image…"}, {1, 12, "images.thum…"}, {0, 30, "images.thumbnails.small"}} {
		if got := g.cut("images.thumbnails.small", c.column, c.most); got != c.want {
			t.Errorf("as %s in %d columns it is %q, want %q", g.names[c.column], c.most, got, c.want)
		}
	}
}

func TestRatesAndTimesAreTold(t *testing.T) {
	for rate, want := range map[float64]string{0: "0", 1. / 60: "0.02", 0.999: "1.00", 12.34: "12.3", 99.9: "99.9", 12345.6: "12346"} {
		if got := perSecond(rate); got != want {
			t.Errorf("perSecond(%v) = %s, want %s", rate, got, want)
		}
	}
	for d, want := range map[time.Duration]string{0: "0s", 59 * time.Second: "59s", 61 * time.Second: "1m", 47 * time.Hour: "47h", 49 * time.Hour: "2d"} {
		if got := rough(d); got != want {
			t.Errorf("rough(%v) = %s, want %s", d, got, want)
		}
	}
}

func TestANarrowScreenSaysHowManyItLeavesOut(t *testing.T) {
	t.Setenv("COLUMNS", "50")
	t.Setenv("LINES", "10")
	screen, err := os.Open(os.DevNull) // which has no size of its own
	if err != nil {
		t.Fatal(err)
	}
	defer screen.Close()
	var stats pinion.Stats
	for i := range 14 {
		stats.Tasks = append(stats.Tasks, pinion.TaskStats{Task: fmt.Sprint("t", i)})
	}
	for most, want := range map[int]string{2: "and 12 more", 12: "and 2 more", 13: ""} {
		lines := (&call{screen: screen}).statusLines(&stats, most)
		if got := slices.DeleteFunc(lines, func(line string) bool { return !strings.HasPrefix(line, "and ") }); strings.Join(got, "") != want {
			t.Errorf("of %d: got %q, want %q", most, got, want)
		}
	}
}

package web

import (
	"fmt"
	"math"
	"strings"
	"time"

	"github.com/pinion-queue/pinion"
	"github.com/pinion-queue/pinion/internal/words"
)

// chart is the ends of jobs over a span of time, as bars: failures at the bottom, successes above them. One unit of its
// plot is a minute wide, and it is plotHeight high.
type chart struct {
	Title   string
	Label   string // says in words what it shows
	Width   int
	Height  int
	Done    string // the path of an SVG
	Failed  string
	Top     string   // the labels of the vertical axis: jobs a minute
	Middle  string   //
	Ticks   []string // of the horizontal axis
	IsEmpty bool
}

const plotHeight = 100

// spanEnds are the ends of one minute or hour, all queues and tasks together.
type spanEnds struct {
	at           time.Time
	wide         time.Duration // a minute or an hour
	done, failed int
}

// sumEnds adds up ends by their minute or hour. Ends of an hour are told from those of a minute by their age: a storage
// merges minutes by the hour when they are older than two hours.
func sumEnds(history []pinion.Ends, now time.Time) (sums []spanEnds) {
	for _, e := range history {
		last := len(sums) - 1
		if last < 0 || !sums[last].at.Equal(e.At) {
			wide := time.Minute
			if e.At.Before(now.Add(-2*time.Hour)) && e.At.Equal(e.At.Truncate(time.Hour)) {
				wide = time.Hour
			}
			sums = append(sums, spanEnds{at: e.At, wide: wide})
			last++
		}
		sums[last].done += e.Succeeded
		sums[last].failed += e.Failed
	}
	return sums
}

// newChart draws the ends of the minutes up to now.
func newChart(title string, sums []spanEnds, now time.Time, minutes int, ticks ...string) chart {
	c := chart{Title: title, Width: minutes, Height: plotHeight, Ticks: ticks}
	end := now.Truncate(time.Minute).Add(time.Minute)
	begin := end.Add(-time.Duration(minutes) * time.Minute)
	highest := 0.0
	done, failed := 0, 0
	var within []spanEnds
	for _, sum := range sums {
		if !sum.at.Add(sum.wide).After(begin) || !sum.at.Before(end) {
			continue
		}
		within = append(within, sum)
		done += sum.done
		failed += sum.failed
		highest = max(highest, float64(sum.done+sum.failed)/sum.wide.Minutes())
	}
	c.IsEmpty = len(within) == 0
	top := roundTop(highest)
	c.Top = rate(top)
	c.Middle = rate(top / 2)
	var doneBars, failedBars strings.Builder
	for _, sum := range within {
		x := sum.at.Sub(begin).Minutes()
		wide := sum.wide.Minutes()
		if x < 0 { // an hour that began before the chart
			wide += x
			x = 0
		}
		wide = min(wide, float64(minutes)-x)
		scale := plotHeight / top / sum.wide.Minutes()
		low := float64(sum.failed) * scale
		bar(&failedBars, x, plotHeight, wide, low)
		bar(&doneBars, x, plotHeight-low, wide, float64(sum.done)*scale)
	}
	c.Done = doneBars.String()
	c.Failed = failedBars.String()
	c.Label = fmt.Sprintf("%s: %s done, %s failed; at most %s a minute.", title, words.Thousands(done),
		words.Thousands(failed), rate(highest))
	return c
}

// bar adds a bar that stands on y. One that would be too low to be seen is made visible.
func bar(path *strings.Builder, x, y, wide, high float64) {
	if high <= 0 {
		return
	}
	high = max(high, 1)
	fmt.Fprintf(path, "M%s %sh%sv-%sh-%sz", coordinate(x), coordinate(y), coordinate(wide), coordinate(high),
		coordinate(wide))
}

func coordinate(v float64) string {
	return strings.TrimSuffix(fmt.Sprintf("%.1f", v), ".0")
}

// roundTop returns the lowest round number that is not below the highest bar.
func roundTop(highest float64) float64 {
	top := 1.0
	for top < highest {
		for _, factor := range []float64{2, 4, 10} {
			if top*factor >= highest {
				return top * factor
			}
		}
		top *= 10
	}
	return top
}

// rate returns a number of jobs a minute.
func rate(perMinute float64) string {
	if perMinute >= 10 || perMinute == math.Trunc(perMinute) {
		return words.Thousands(int(math.Round(perMinute)))
	}
	return fmt.Sprintf("%.1f", perMinute)
}

// sparkline is the ends of one queue or task in the last hour, a bar for each minute.
type sparkline struct {
	Done, Failed string
	Label        string
}

const (
	sparkMinutes = 60
	sparkHeight  = 16
)

// perMinute counts ends by minute, the oldest first.
type perMinute [sparkMinutes]struct{ done, failed int }

// sparklines returns the sparklines by name.
func sparklines(history []pinion.Ends, now time.Time, name func(pinion.Ends) string) map[string]*sparkline {
	end := now.Truncate(time.Minute).Add(time.Minute)
	begin := end.Add(-sparkMinutes * time.Minute)
	counts := make(map[string]*perMinute)
	for _, e := range history {
		if e.At.Before(begin) || !e.At.Before(end) {
			continue
		}
		c := counts[name(e)]
		if c == nil {
			c = new(perMinute)
			counts[name(e)] = c
		}
		minute := int(e.At.Sub(begin) / time.Minute)
		c[minute].done += e.Succeeded
		c[minute].failed += e.Failed
	}
	lines := make(map[string]*sparkline)
	for name, c := range counts {
		lines[name] = c.draw()
	}
	return lines
}

func (c *perMinute) draw() *sparkline {
	highest := 1
	for _, m := range c {
		highest = max(highest, m.done+m.failed)
	}
	var done, failed strings.Builder
	scale := sparkHeight / float64(highest)
	for x, m := range c {
		low := float64(m.failed) * scale
		bar(&failed, float64(x), sparkHeight, 1, low)
		bar(&done, float64(x), sparkHeight-low, 1, float64(m.done)*scale)
	}
	return &sparkline{
		Done:   done.String(),
		Failed: failed.String(),
		Label:  fmt.Sprintf("ends in the last hour, at most %s a minute", words.Thousands(highest)),
	}
}

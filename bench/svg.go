package main

import (
	"fmt"
	"html"
	"io"
	"strings"
)

// The chart: a group of bars for each throughput workload, each group on a scale of its own, because the
// workloads differ among each other more than the peers do. Medians are bars, minimum and maximum a line across
// their ends.

var charted = []string{"enqueue1", "enqueue8", "batch", "drain", "mixed"}

const (
	chartWidth = 860
	labelWidth = 150
	barRoom    = 560 // for the longest bar; what is right of it takes the number
	barHeight  = 15
	barStep    = 19
	groupGap   = 40
)

// The colours of text serve both a light and a dark page.
const chartStyle = `text { font: 12px system-ui, sans-serif; fill: #57606a }
.head { font-weight: 600 } .big { font-size: 15px }
.bar { fill: #a9b4c0 } .ours { fill: #2f81f7 } .limit { fill: none; stroke: #8b949e; stroke-dasharray: 3 2 }
.spread { stroke: #57606a; stroke-width: 1.5 }
@media (prefers-color-scheme: dark) { text { fill: #9198a1 } .bar { fill: #57616c } .spread { stroke: #9198a1 } }`

func (r *results) writeSVG(out io.Writer) error {
	var body strings.Builder
	y := 28
	fmt.Fprintf(&body, `<text class="head big" x="0" y="%d">Jobs per second: more is better, each group has its own scale</text>`+"\n", y)
	for _, c := range r.Conditions {
		y += 18
		fmt.Fprintf(&body, `<text x="0" y="%d">%s</text>`+"\n", y, html.EscapeString(c))
	}
	y += groupGap - 10
	for _, name := range charted {
		var group []*figure
		longest := 0.0
		for _, f := range r.Figures {
			if f.Name == name && f.Peer != "pinion-memory" { // off every scale, and nothing to compare with
				group, longest = append(group, f), max(longest, f.Max)
			}
		}
		if len(group) == 0 {
			continue
		}
		fmt.Fprintf(&body, `<text class="head" x="0" y="%d">%s: %s</text>`+"\n",
			y, name, html.EscapeString(whatIs(name)))
		y += 10
		for _, f := range group {
			bar(&body, f, y, barRoom/longest)
			y += barStep
		}
		y += groupGap - 10
	}
	height := y - groupGap/2
	_, err := fmt.Fprintf(out, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" width="%d" height="%d" role="img" aria-label="Jobs per second of Pinion and its peers">
<style>%s</style>
%s</svg>
`, chartWidth, height, chartWidth, height, chartStyle, body.String())
	return err
}

func bar(out io.Writer, f *figure, y int, scale float64) {
	class := "bar"
	switch {
	case strings.HasPrefix(f.Peer, "pinion-"):
		class = "bar ours"
	case strings.HasPrefix(f.Peer, "raw-"):
		class = "limit"
	}
	middle, text := float64(y)+barHeight/2.0, float64(y)+barHeight-3.5
	fmt.Fprintf(out, `<text x="%d" y="%.1f" text-anchor="end">%s</text>`, labelWidth-8, text, html.EscapeString(f.Peer))
	fmt.Fprintf(out, `<rect class="%s" x="%d" y="%d" width="%.1f" height="%d"/>`,
		class, labelWidth, y, f.Median*scale, barHeight)
	fmt.Fprintf(out, `<path class="spread" d="M%.1f %.1fH%.1f"/>`,
		labelWidth+f.Min*scale, middle, labelWidth+f.Max*scale)
	fmt.Fprintf(out, `<text x="%.1f" y="%.1f">%s</text>`+"\n", labelWidth+f.Max*scale+6, text, number(f.Median))
}

func whatIs(workload string) string {
	for _, w := range allWorkloads {
		if w.name == workload {
			return w.what
		}
	}
	return ""
}

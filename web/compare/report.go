package main

import (
	"fmt"
	"io"
	"strings"
)

type result struct {
	name    string
	looks   []looked
	replays []replayed
}

type replayed struct {
	clicks int // 0 if the page cannot
	jobs   int
}

// report prints a table in Markdown, with a column for each peer.
func report(w io.Writer, results []result, o options) {
	fmt.Fprintf(w, "%d jobs, medians of %d requests and of 10 visits\n\n| |", o.jobs, o.rounds)
	for _, r := range results {
		fmt.Fprintf(w, " %s |", r.name)
	}
	fmt.Fprintf(w, "\n|---|%s\n", strings.Repeat("---|", len(results)))
	row := func(name string, cell func(result) string) {
		fmt.Fprintf(w, "| %s |", name)
		for _, r := range results {
			fmt.Fprintf(w, " %s |", cell(r))
		}
		fmt.Fprintln(w)
	}
	for i, name := range []string{"clicks to replay those with one error", "clicks to replay all dead"} {
		row(name, func(r result) string {
			c := r.replays[i]
			if c.clicks == 0 {
				return "cannot"
			}
			return fmt.Sprintf("%d, for %d jobs", c.clicks, c.jobs)
		})
	}
	for i, l := range results[0].looks {
		at := func(r result) looked { return r.looks[i] }
		row(l.list+": first byte of each request (p50, p90)", func(r result) string {
			var cells []string
			for _, q := range at(r).firstByte {
				cells = append(cells, q.String())
			}
			return strings.Join(cells, " + ")
		})
		row(l.list+": rows in the browser", func(r result) string { return at(r).rows.String() })
		row(l.list+": loaded at the first visit", func(r result) string {
			return fmt.Sprintf("%d bytes in %d requests", at(r).bytes, at(r).requests)
		})
		row(l.list+": loaded again", func(r result) string { return fmt.Sprintf("%d bytes", at(r).again) })
		row(l.list+": jobs on the screen, on the page", func(r result) string {
			return fmt.Sprintf("%d of %d", at(r).visible, at(r).whole)
		})
		row(l.list+": a row says", func(r result) string { return at(r).says })
	}
}

func (q quantiles) String() string {
	return fmt.Sprintf("%.1f, %.1f ms", q.p50.Seconds()*1000, q.p90.Seconds()*1000)
}

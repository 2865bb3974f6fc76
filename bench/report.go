package main

import (
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
)

// results is everything a run found out, in the order in which it is reported.
type results struct {
	Conditions []string   `json:"conditions"`
	Peers      []peerInfo `json:"peers"`
	Figures    []*figure  `json:"figures"`
	Notes      []note     `json:"notes"`
	Goals      []verdict  `json:"goals"`

	order map[string]int // of peers
}

type peerInfo struct {
	Name     string   `json:"name"`
	About    string   `json:"about"`
	Settings []string `json:"settings,omitempty"` // as read back
	Missing  string   `json:"missing,omitempty"`  // why it was left out
}

// figure is one measured thing of one peer, over the rounds.
type figure struct {
	Name   string    `json:"name"`
	Peer   string    `json:"peer"`
	Unit   string    `json:"unit"`
	Less   bool      `json:"less_is_better,omitempty"`
	Median float64   `json:"median"`
	Min    float64   `json:"min"`
	Max    float64   `json:"max"`
	Rounds []float64 `json:"rounds"`
}

// note says why a figure is not there.
type note struct {
	Workload string `json:"workload"`
	Peer     string `json:"peer"`
	Why      string `json:"why"`
	Failed   bool   `json:"failed"` // it took part and did not pass
}

func newResults(peers []*peer) *results {
	r := &results{order: make(map[string]int)}
	for i, p := range peers {
		r.order[p.name] = i
	}
	return r
}

func (r *results) add(p *peer, all []measured) {
	for _, m := range all {
		f := r.figure(m.name, p.name)
		if f == nil {
			f = &figure{Name: m.name, Peer: p.name, Unit: m.unit, Less: m.less}
			r.Figures = append(r.Figures, f)
		}
		f.Rounds = append(f.Rounds, m.value)
		sorted := slices.Sorted(slices.Values(f.Rounds))
		n := len(sorted)
		f.Min, f.Median, f.Max = sorted[0], (sorted[(n-1)/2]+sorted[n/2])/2, sorted[n-1]
	}
}

func (r *results) figure(name, peer string) *figure {
	i := slices.IndexFunc(r.Figures, func(f *figure) bool { return f.Name == name && f.Peer == peer })
	if i < 0 {
		return nil
	}
	return r.Figures[i]
}

// median returns 0 for what was not measured.
func (r *results) median(name, peer string) float64 {
	if f := r.figure(name, peer); f != nil {
		return f.Median
	}
	return 0
}

func (r *results) skipped(w *workload, p *peer, why string) {
	if n := (note{Workload: w.name, Peer: p.name, Why: why}); !slices.Contains(r.Notes, n) {
		r.Notes = append(r.Notes, n)
	}
}

func (r *results) failed(w *workload, p *peer, err error) {
	r.Notes = append(r.Notes, note{w.name, p.name, strings.ReplaceAll(err.Error(), "\n", "; "), true})
}

// anyFailed reports whether a peer took part in a workload and did not pass.
func (r *results) anyFailed() bool {
	return slices.ContainsFunc(r.Notes, func(n note) bool { return n.Failed })
}

// finish puts everything in order, once the last round is over.
func (r *results) finish(conditions []string, peers []*peer) {
	r.Conditions = conditions
	for _, p := range peers {
		r.Peers = append(r.Peers, peerInfo{p.name, p.about, p.inForce, p.missing})
	}
	first := make(map[string]int) // the workloads' order is that in which they were measured
	for i, f := range r.Figures {
		if _, ok := first[f.Name]; !ok {
			first[f.Name] = i
		}
	}
	slices.SortStableFunc(r.Figures, func(a, b *figure) int {
		return cmp.Or(cmp.Compare(first[a.Name], first[b.Name]), cmp.Compare(r.order[a.Peer], r.order[b.Peer]))
	})
	for i := range goals {
		r.Goals = append(r.Goals, goals[i].judge(r))
	}
}

func (r *results) writeJSON(out io.Writer) error {
	enc := json.NewEncoder(out)
	enc.SetIndent("", "  ")
	return enc.Encode(r)
}

func (r *results) writeTable(out io.Writer) error {
	p := &printer{out: out}
	for _, c := range r.Conditions {
		p.line("%s", c)
	}
	p.line("")
	for _, info := range r.Peers {
		switch {
		case info.Missing != "":
			p.line("%s is left out: %s", info.Name, info.Missing)
		default:
			p.line("%s: %s", info.Name, info.About)
			if len(info.Settings) > 0 {
				p.line("    in force: %s", strings.Join(info.Settings, ", "))
			}
		}
	}
	p.line("")
	p.table(tabwriter.AlignRight, func(row func(cells ...string)) {
		row("", "", "median", "min", "max", "")
		last := ""
		for _, f := range r.Figures {
			name := f.Name
			if name == last {
				name = ""
			}
			last = f.Name
			row(name, f.Peer, number(f.Median), number(f.Min), number(f.Max), f.Unit)
		}
	})
	r.writeNotes(p)
	p.line("")
	p.table(0, func(row func(cells ...string)) {
		row("goal", "found", "verdict")
		for _, v := range r.Goals {
			found := "-"
			if v.Value != 0 {
				found = number(v.Value)
			}
			row(v.Goal, found, v.Verdict)
		}
	})
	return p.err
}

// writeNotes says once for each reason who was not measured at what.
func (r *results) writeNotes(p *printer) {
	type group struct{ why, peer string }
	var order []group
	workloads := make(map[group][]string)
	for _, n := range r.Notes {
		if n.Failed {
			p.line("")
			p.line("FAILED: %s at %s: %s", n.Peer, n.Workload, n.Why)
			continue
		}
		g := group{n.Why, n.Peer}
		if workloads[g] == nil {
			order = append(order, g)
		}
		workloads[g] = append(workloads[g], n.Workload)
	}
	slices.SortStableFunc(order, func(a, b group) int { return cmp.Compare(r.order[a.peer], r.order[b.peer]) })
	p.line("")
	for _, g := range order {
		p.line("%s not measured at %s: %s", g.peer, strings.Join(workloads[g], ", "), g.why)
	}
}

// printer keeps the first error.
type printer struct {
	out io.Writer
	err error
}

func (p *printer) line(format string, args ...any) {
	if p.err == nil {
		_, p.err = fmt.Fprintf(p.out, format+"\n", args...)
	}
}

func (p *printer) table(flags uint, rows func(row func(cells ...string))) {
	w := tabwriter.NewWriter(p.out, 0, 0, 2, ' ', flags)
	rows(func(cells ...string) {
		if p.err == nil {
			_, p.err = fmt.Fprintln(w, strings.Join(cells, "\t")+"\t")
		}
	})
	err := w.Flush()
	if p.err == nil {
		p.err = err
	}
}

// number writes three digits that matter, and thousands with commas.
func number(x float64) string {
	if x == 0 || math.Abs(x) >= 100 {
		digits := strconv.FormatFloat(x, 'f', 0, 64)
		for i := len(digits) - 3; i > 0; i -= 3 {
			digits = digits[:i] + "," + digits[i:]
		}
		return digits
	}
	decimals := 2 - int(math.Floor(math.Log10(math.Abs(x))))
	text := strconv.FormatFloat(x, 'f', min(max(decimals, 0), 5), 64)
	if strings.Contains(text, ".") {
		text = strings.TrimRight(strings.TrimRight(text, "0"), ".")
	}
	return text
}

package main

import "fmt"

// A goal is met or missed within one run: figures of different runs, let alone machines, say little together.
type goal struct {
	figure, peer string  // what is judged: a median
	atLeast      bool    // else at most
	factor       float64 // of the figure of another, or the bound itself
	of, ofPeer   string  // that other; no peer: a bound
	unit         string  // of a bound
}

// goals are the speeds that a change must keep. Backlite always runs with its documented options, which means
// synchronous=NORMAL, even beside Pinion at FULL. That is the harder comparison.
var goals = []goal{
	{"enqueue1", "pinion-FULL", true, 0.85, "enqueue1", "raw-FULL", ""},
	{"enqueue1", "pinion-NORMAL", true, 0.85, "enqueue1", "raw-NORMAL", ""},
	{"enqueue8", "pinion-FULL", true, 2.2, "enqueue1", "raw-FULL", ""},
	{"enqueue8", "pinion-NORMAL", true, 1.5, "enqueue8", "asynq", ""},
	{"batch", "pinion-FULL", true, 1.3, "batch", "raw-FULL", ""},
	{"batch", "pinion-FULL", true, 2, "batch", "backlite-NORMAL", ""},
	{"batch", "pinion-NORMAL", true, 1.3, "batch", "raw-NORMAL", ""},
	{"drain", "pinion-FULL", true, 0.9, "drain", "raw-FULL", ""},
	{"drain", "pinion-FULL", true, 3, "drain", "asynq", ""},
	{"drain", "pinion-NORMAL", true, 0.9, "drain", "raw-NORMAL", ""},
	{"mixed", "pinion-FULL", true, 0.9, "mixed", "raw-FULL", ""},
	{"mixed", "pinion-NORMAL", true, 0.9, "mixed", "raw-NORMAL", ""},
	{"mixed", "pinion-NORMAL", true, 2, "mixed", "asynq", ""},
	{"roundtrip p50", "pinion-FULL", false, 1.2, "roundtrip p50", "backlite-NORMAL", ""},
	{"roundtrip p50", "pinion-NORMAL", false, 0.4, "roundtrip p50", "backlite-NORMAL", ""},
	{"roundtrip2 p50", "pinion-FULL", false, 0.6, "roundtrip2 p50", "asynq", ""},
	{"roundtrip2 p50", "pinion-NORMAL", false, 0.25, "roundtrip2 p50", "asynq", ""},
	{"backlog-200k", "pinion-FULL", true, 0.9, "backlog-5k", "pinion-FULL", ""},
	{"backlog-200k", "pinion-NORMAL", true, 0.9, "backlog-5k", "pinion-NORMAL", ""},
	{"backlog-1m", "pinion-FULL", true, 0.9, "backlog-5k", "pinion-FULL", ""},
	{"backlog-1m", "pinion-NORMAL", true, 0.9, "backlog-5k", "pinion-NORMAL", ""},
	{"history", "pinion-FULL", true, 0.9, "backlog-5k", "pinion-FULL", ""},
	{"history", "pinion-NORMAL", true, 0.9, "backlog-5k", "pinion-NORMAL", ""},
	{"future", "pinion-FULL", true, 0.9, "backlog-5k", "pinion-FULL", ""},
	{"future", "pinion-NORMAL", true, 0.9, "backlog-5k", "pinion-NORMAL", ""},
	{"processes-2", "pinion-FULL", true, 1, "processes-1", "pinion-FULL", ""},
	{"processes-2", "pinion-NORMAL", true, 1, "processes-1", "pinion-NORMAL", ""},
	{"processes-4", "pinion-FULL", true, 1, "processes-1", "pinion-FULL", ""},
	{"processes-4", "pinion-NORMAL", true, 1, "processes-1", "pinion-NORMAL", ""},
	{"processes-8 longest", "pinion-FULL", false, 1000, "", "", "ms"},
	{"processes-8 longest", "pinion-NORMAL", false, 1000, "", "", "ms"},
	{"idle-cpu", "pinion-FULL", false, 0.06, "", "", "CPU s/min"}, // 0.1 % of a core
	{"idle-cpu", "pinion-NORMAL", false, 0.06, "", "", "CPU s/min"},
	{"idle-memory", "pinion-FULL", false, 64, "", "", "MB"},
	{"idle-memory", "pinion-NORMAL", false, 64, "", "", "MB"},
	{"slow", "pinion-FULL", false, 1.05, "", "", "x ideal"},
	{"slow", "pinion-NORMAL", false, 1.05, "", "", "x ideal"},
	{"enqueue1", "pinion-postgres", true, 1, "enqueue1", "river-postgres", ""},
	{"enqueue8", "pinion-postgres", true, 1, "enqueue8", "river-postgres", ""},
	{"batch", "pinion-postgres", true, 1, "batch", "river-postgres", ""},
	{"drain", "pinion-postgres", true, 3, "drain", "river-postgres", ""},
	{"mixed", "pinion-postgres", true, 3, "mixed", "river-postgres", ""},
	{"roundtrip2 p50", "pinion-postgres", false, 2.5, "", "", "ms"},
	{"backlog-1m", "pinion-postgres", true, 0.9, "backlog-5k", "pinion-postgres", ""},
	{"queues-100", "pinion-FULL", true, 0.9, "queues-1", "pinion-FULL", ""},
	{"queues-10k", "pinion-FULL", true, 10_000, "", "", "jobs/s"},
	{"queues-10k longest claim of 1", "pinion-FULL", false, 100, "", "", "ms"},
	{"queues-10k longest claim of 1000", "pinion-FULL", false, 100, "", "", "ms"},
	{"stats-finished", "pinion-FULL", false, 100, "", "", "ms"},
	{"stats-pending", "pinion-FULL", false, 1000, "", "", "ms"},
	{"stats-finished", "pinion-postgres", false, 100, "", "", "ms"},
	{"stats-pending", "pinion-postgres", false, 1000, "", "", "ms"},
	{"memory-args", "pinion-memory", true, 700_000, "", "", "jobs/s"},
	{"memory-bare", "pinion-memory", true, 2_000_000, "", "", "jobs/s"},
}

// verdict is a goal as a run has judged it.
type verdict struct {
	Goal    string  `json:"goal"`
	Verdict string  `json:"verdict"` // met, missed, not measured
	Value   float64 `json:"value,omitempty"`
	Bound   float64 `json:"bound"`
}

func (g *goal) judge(r *results) verdict {
	sign := "at most"
	if g.atLeast {
		sign = "at least"
	}
	v := verdict{Verdict: "not measured", Bound: g.factor}
	v.Goal = fmt.Sprintf("%s of %s: %s %s %s", g.figure, g.peer, sign, number(g.factor), g.unit)
	base := 1.0
	if g.ofPeer != "" {
		v.Goal = fmt.Sprintf("%s of %s: %s %s times %s's %s", g.figure, g.peer, sign, number(g.factor), g.ofPeer, g.of)
		base = r.median(g.of, g.ofPeer)
	}
	value := r.median(g.figure, g.peer)
	if value == 0 || base == 0 {
		return v
	}
	v.Value = value / base
	isMet := v.Value <= g.factor
	if g.atLeast {
		isMet = v.Value >= g.factor
	}
	v.Verdict = "missed"
	if isMet {
		v.Verdict = "met"
	}
	return v
}

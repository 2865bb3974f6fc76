package crashlab

import (
	"cmp"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"
)

// history is what the log says about one job.
type history struct {
	id, kind     string
	acknowledged bool             // Enqueue returned nil, or the job is owed
	try          int              // the line that announces its Enqueue, which its batch shares; -1: none
	claims       []claimed        // sorted by claim
	starts       []start          // sorted by claim; a process that was stopped may log its start after a later one
	startLines   map[int64]int    // by claim: the line of the task's start
	outcome      map[int64]string // by claim: how the task ended
	endings      map[int64]ending // by claim: the last call that was made to end it
	ended        map[int64]string // by claim: the call that did end it
	lost         map[int64]bool   // claims whose worker was told that it lost the lease
	releases     int              // how often a worker tried to give the job back
	final        int64            // the claim under which the job ended for good, or 0
	saw          string           // "claim:result" of the job when a pruner saw that it had succeeded, or ""
}

// claimed is a claim that a call returned to a child.
type claimed struct {
	claim int64
	at    int64 // Unix microseconds; slightly after the claim itself
	child int
}

// start is the start of a task.
type start struct {
	claim     int64
	claimedAt int64 // Unix microseconds, as the storage says
	at        int64 // the same, as the log says of the start
	attempt   int
	child     int
}

// cutShort reports whether the attempt never came to an end.
func (s start) cutShort(h *history) bool {
	outcome := h.outcome[s.claim]
	return outcome == "" || outcome == outcomeKilled
}

// ending is a call that was made to end a claim.
type ending struct {
	line int
	call string
}

// newestStart returns the start with the highest claim, or the zero start.
func (h *history) newestStart() start {
	if len(h.starts) == 0 {
		return start{}
	}
	return h.starts[len(h.starts)-1]
}

// hadToRunAgain reports whether the worker of an attempt recorded a failure or gave the job back.
func (h *history) hadToRunAgain(s start) bool {
	return h.ended[s.claim] == "failed" || h.endings[s.claim].call == "release"
}

// diedUnstarted returns how many claims ended without a start, because the worker died or lost its lease. They stay
// counted as attempts.
//
// It takes the larger of two counts: claims in the log, and leases that the row counts as lost, which is reaped. The
// log misses a claim whose worker died before logging it; the row forgets its count when a worker gives the job back.
func (h *history) diedUnstarted(reaped int) int {
	started := make(map[int64]bool)
	lostStarted := 0
	for _, s := range h.starts {
		started[s.claim] = true
		if h.ended[s.claim] == "" {
			lostStarted++
		}
	}
	logged := 0
	for _, c := range h.claims {
		if !started[c.claim] && h.ended[c.claim] == "" {
			logged++
		}
	}
	return max(logged, reaped-lostStarted)
}

// history returns the history of a job. It begins one if there is none.
func (ev *evidence) history(id string) *history {
	h := ev.histories[id]
	if h == nil {
		h = &history{
			id:         id,
			try:        -1,
			startLines: make(map[int64]int),
			outcome:    make(map[int64]string),
			endings:    make(map[int64]ending),
			ended:      make(map[int64]string),
			lost:       make(map[int64]bool),
		}
		ev.histories[id] = h
		ev.inOrder = append(ev.inOrder, h)
	}
	return h
}

// claim is the reverse of claimName.
func (ev *evidence) claim(name string) (*history, int64) {
	colon := strings.LastIndex(name, ":")
	claim, _ := strconv.ParseInt(name[colon+1:], 10, 64)
	return ev.history(name[:colon]), claim
}

// read sorts the lines of the log by job and by child.
func (ev *evidence) read() {
	ev.histories = make(map[string]*history)
	ev.harms = make(map[int][]harm)
	ev.leases = make(map[int]time.Duration)
	ev.report.PlannedKills = make(map[string]int)
	for id, kind := range ev.owed {
		h := ev.history(id)
		h.kind = kind
		h.acknowledged = true
	}
	for i, line := range ev.lines {
		ev.readLine(i, line)
	}
	for _, h := range ev.inOrder {
		slices.SortStableFunc(h.claims, func(a, b claimed) int { return cmp.Compare(a.claim, b.claim) })
		slices.SortStableFunc(h.starts, func(a, b start) int { return cmp.Compare(a.claim, b.claim) })
	}
	ev.findDisturbances()
}

func (ev *evidence) readLine(i int, line logLine) {
	words := line.words
	switch line.verb {
	case logTry:
		for _, word := range words {
			id, kind, _ := strings.Cut(word, ":")
			h := ev.history(id)
			h.kind = kind
			h.try = i
		}
	case logAck:
		for _, id := range words {
			ev.history(id).acknowledged = true
		}
	case logClaimed:
		for _, name := range words {
			h, claim := ev.claim(name)
			h.claims = append(h.claims, claimed{claim: claim, at: line.at, child: line.child})
		}
	case logStart:
		ev.readStart(i, line)
	case logEnd:
		h, claim := ev.claim(words[0])
		h.outcome[claim] = words[1]
		if words[1] == outcomeKilled {
			ev.report.TaskKills++
			ev.addHarm(line.child, "a task killed it", line.at)
		}
	case logEnding:
		call := words[0]
		for _, name := range words[1:] {
			h, claim := ev.claim(name)
			h.endings[claim] = ending{line: i, call: call}
			if call == "release" {
				h.releases++
			}
		}
	case logEnded:
		call := words[0]
		for _, name := range words[1:] {
			h, claim := ev.claim(name)
			ev.readEnded(i, h, claim, call)
		}
	case logLost:
		for _, name := range words {
			h, claim := ev.claim(name)
			h.lost[claim] = true
		}
	case logSaw:
		for _, word := range words {
			name := word[:strings.LastIndex(word, ":")]
			h, _ := ev.claim(name)
			h.saw = strings.TrimPrefix(word, h.id+":")
		}
	case logBorn:
		child, _ := strconv.Atoi(words[0])
		if visibility, err := time.ParseDuration(words[len(words)-1]); err == nil {
			ev.leases[child] = visibility
		}
	case logKill:
		child, _ := strconv.Atoi(words[0])
		ev.addHarm(child, "the laboratory killed it", line.at)
	case logStop:
		child, _ := strconv.Atoi(words[0])
		ev.addHarm(child, harmStopped, line.at)
	case logResume:
		child, _ := strconv.Atoi(words[0])
		ev.endStop(child, line.at)
	case logDying:
		ev.report.PlannedKills[words[0]]++
		ev.addHarm(line.child, "it killed itself, as planned", line.at)
	case logUnclean:
		ev.addHarm(line.child, "its shutdown was not clean", line.at)
	}
}

// leaseOf returns how long the leases of a child's worker are.
func (ev *evidence) leaseOf(child int) time.Duration { return cmp.Or(ev.leases[child], ev.visibility) }

// harm is something that happened to a child alone and by which it may lose its jobs.
type harm struct {
	what string
	span
}

const harmStopped = "the laboratory stopped it"

func (ev *evidence) addHarm(child int, what string, from int64) {
	ev.harms[child] = append(ev.harms[child], harm{what, span{from, endOfTime}})
}

// endStop notes that a stopped child went on. It may still lose a lease until it has sent its heartbeats.
func (ev *evidence) endStop(child int, at int64) {
	for i := range ev.harms[child] {
		h := &ev.harms[child][i]
		if h.what == harmStopped && h.to == endOfTime {
			h.to = at + ev.leaseOf(child).Microseconds()
		}
	}
}

// wasHarmed reports whether a child came to harm between two moments.
func (ev *evidence) wasHarmed(child int, from, to int64) bool {
	return slices.ContainsFunc(ev.harms[child], func(h harm) bool { return h.from <= to && from <= h.to })
}

func (ev *evidence) readStart(i int, line logLine) {
	h, claim := ev.claim(line.words[0])
	s := start{claim: claim, child: line.child, at: line.at}
	s.attempt, _ = strconv.Atoi(line.words[1])
	s.claimedAt, _ = strconv.ParseInt(line.words[2], 10, 64)
	h.starts = append(h.starts, s)
	h.startLines[claim] = i
	ev.report.Starts++
	if h.final > 0 && claim > h.final {
		ev.violation(h, "it ran again after its end was recorded")
	}
}

// readEnded notes that the storage accepted the end of a claim. It must not have done so if a later claim had
// started before the call was made.
func (ev *evidence) readEnded(i int, h *history, claim int64, call string) {
	called := i
	if announced, ok := h.endings[claim]; ok {
		called = announced.line
	}
	forGood := call == "done" || call == "dead"
	if h.final > 0 && forGood {
		ev.violation(h, "it ended twice")
	}
	for later, started := range h.startLines {
		if later > claim && started < called {
			ev.report.Stale++
			ev.violation(h, "its end (%s) was recorded under claim %d, after claim %d had started",
				call, claim, later)
		}
	}
	h.ended[claim] = call
	if forGood {
		h.final = claim
	}
}

// span is a time from one moment to another, in Unix microseconds.
type span struct{ from, to int64 }

const endOfTime = math.MaxInt64 / 2

// findDisturbances finds the times of the faults that make processes wait.
func (ev *evidence) findDisturbances() {
	stoppedAt := make(map[string]int64) // by child
	var frozenAt, lockedAt int64
	for _, line := range ev.lines {
		switch line.verb {
		case logStop:
			stoppedAt[line.words[0]] = line.at
		case logResume:
			child := line.words[0]
			if from, ok := stoppedAt[child]; ok {
				ev.stops = append(ev.stops, span{from, line.at})
				delete(stoppedAt, child)
			}
		case logFreeze:
			frozenAt = line.at
		case logThaw:
			ev.disturbances = append(ev.disturbances, span{frozenAt, line.at})
		case logLocked:
			lockedAt = line.at
		case logUnlock:
			ev.disturbances = append(ev.disturbances, span{lockedAt, line.at})
		case logClock:
			ev.clockWasSet = true
		}
	}
	for _, from := range stoppedAt {
		ev.stops = append(ev.stops, span{from, endOfTime})
	}
}

// isDisturbed reports whether a fault made processes wait between two moments, or shortly before.
func (ev *evidence) isDisturbed(from, to int64) bool {
	return isNear(ev.stops, from, to) || isNear(ev.disturbances, from, to)
}

// isNear reports whether one of the spans overlaps the time between two moments, or ended shortly before.
func isNear(spans []span, from, to int64) bool {
	return slices.ContainsFunc(spans, func(s span) bool {
		return s.from <= to && from <= s.to+settleTime.Microseconds()
	})
}

package crashlab

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/pinion-queue/pinion"
)

// judge collects the evidence and fills in the report.
func (e *experiment) judge(ctx context.Context) error {
	ev, err := e.collect(ctx)
	if err != nil {
		return err
	}
	ev.judge(&e.report)

	wait := laxWait
	if e.Strict {
		wait = strictWait
	}
	violation := func(format string, args ...any) {
		e.report.Violations = append(e.report.Violations, fmt.Sprintf(format, args...))
	}
	if e.report.LongestCall > wait {
		violation("a call waited %v for the storage, want at most %v", e.report.LongestCall, wait)
	}
	if limit := e.maxExpired() + wait; e.report.LongestExpired > limit {
		violation("a lease was taken back %v after it expired, want at most %v", e.report.LongestExpired, limit)
	}
	for _, problem := range e.problems {
		violation("%s", problem)
	}
	if printed := e.stderr.String(); printed != "" {
		violation("the children printed:\n%.4000s", printed)
	}
	return nil
}

func (e *experiment) collect(ctx context.Context) (*evidence, error) {
	lines, err := readLog(e.logPath())
	if err != nil {
		return nil, err
	}
	ev := &evidence{
		lines:         lines,
		rows:          make(map[string]*pinion.Job),
		letters:       make(map[string]*pinion.Job),
		owed:          e.Owed,
		visibility:    e.Visibility,
		slots:         e.Slots,
		poisonRetries: e.PoisonRetries,
		strict:        e.Strict,
	}
	inspector := e.storage.(pinion.Inspector)
	for job, err := range inspector.Jobs(ctx, pinion.Filter{}) {
		if err != nil {
			return nil, err
		}
		ev.rows[job.ID] = job
	}
	for job, err := range inspector.DeadLetters(ctx, pinion.Filter{}) {
		if err != nil {
			return nil, err
		}
		ev.letters[job.ID] = job
	}
	return ev, nil
}

// evidence is all that is known after an experiment.
type evidence struct {
	lines   []logLine
	rows    map[string]*pinion.Job // jobs in the storage, by id
	letters map[string]*pinion.Job // dead letters in the storage, by id

	// Settings of the experiment.
	owed          map[string]string
	visibility    time.Duration // of the workers for which the log has none
	slots         int
	poisonRetries int
	strict        bool

	// What read finds in the lines.
	histories    map[string]*history   // by id
	inOrder      []*history            // the same, in the order in which the log first names the jobs
	stops        []span                // times in which a process was stopped alone
	disturbances []span                // times in which all were stopped together or another program held the lock
	clockWasSet  bool                  // of the processes, so that times of claims say nothing
	harms        map[int][]harm        // by child
	leases       map[int]time.Duration // the VisibilityTimeout of a child's worker

	report *Report
}

// judge compares the log with what is stored.
func (ev *evidence) judge(report *Report) {
	ev.report = report
	ev.read()
	ev.judgeTrouble()
	for _, h := range ev.inOrder {
		ev.judgeEnd(h)
		ev.judgeAttempts(h)
		ev.judgeRepeats(h)
		ev.judgeTaken(h)
	}
	ev.judgeCutShort()
	ev.judgeBatches()
	ev.judgeStrangers()
	ev.findLongestCalls()
}

// violation reports a broken promise about a job, with all that is known about the job.
func (ev *evidence) violation(h *history, format string, args ...any) {
	const maxDetailed = 5 // so that a report with many violations can still be read
	text := fmt.Sprintf("job %s (%s): %s", h.id, h.kind, fmt.Sprintf(format, args...))
	if len(ev.report.Violations) < maxDetailed {
		text += ev.details(h)
	}
	ev.report.Violations = append(ev.report.Violations, text)
}

// details returns every line of the log that names a job, what happened to the children that wrote these
// lines, and what is stored.
func (ev *evidence) details(h *history) string {
	var b strings.Builder
	children := make(map[int]bool)
	for _, line := range ev.lines {
		namesJob := func(word string) bool { return strings.HasPrefix(word, h.id) }
		if !slices.ContainsFunc(line.words, namesJob) {
			continue
		}
		children[line.child] = true
		if len(line.words) > 12 { // leave out the other jobs
			namesOther := func(word string) bool { return !namesJob(word) }
			ours := slices.DeleteFunc(slices.Clone(line.words), namesOther)
			line.words = append(ours, "(and others)")
		}
		fmt.Fprintf(&b, "\n\t%v", line)
	}
	for _, child := range slices.Sorted(maps.Keys(children)) {
		for _, harm := range ev.harms[child] {
			fmt.Fprintf(&b, "\n\tchild %d came to harm: %s", child, harm.what)
		}
	}
	fmt.Fprintf(&b, "\n\tits row: %s", asJSON(ev.rows[h.id]))
	fmt.Fprintf(&b, "\n\tits dead letter: %s", asJSON(ev.letters[h.id]))
	return b.String()
}

func asJSON(job *pinion.Job) string {
	if job == nil {
		return "none"
	}
	text, err := json.Marshal(job)
	if err != nil {
		return err.Error()
	}
	return string(text)
}

// attemptsAllowed returns how many attempts the retry policy of a job allows.
func (ev *evidence) attemptsAllowed(h *history) int {
	if h.kind == kindPoison {
		return 1 + ev.poisonRetries
	}
	return 1 + retries
}

// judgeTrouble looks for calls that failed and for shutdowns that were not clean.
func (ev *evidence) judgeTrouble() {
	// A call gives up after ten seconds at the latest, so what made it wait may be that long ago.
	const maxPatience = 10 * time.Second
	for _, line := range ev.lines {
		from := line.at - maxPatience.Microseconds()
		var isViolation bool
		switch line.verb {
		case logTrouble, logError:
			// A worker that was stopped alone is not an excuse: it does not hold the lock for so long. A process on
			// a slow machine may.
			isSlow := !ev.strict && strings.Contains(line.String(), "write lock")
			isViolation = !isSlow && !isNear(ev.disturbances, from, line.at)
		case logUnclean, logGaveUp:
			isViolation = ev.strict && !ev.isDisturbed(from, line.at)
		}
		if isViolation {
			ev.report.Violations = append(ev.report.Violations, "a process was in trouble: "+line.String())
		}
	}
}

// judgeEnd checks that a job has ended, only once, and in the state in which it had to end.
func (ev *evidence) judgeEnd(h *history) {
	row, letter := ev.rows[h.id], ev.letters[h.id]
	newest := h.newestStart()
	if h.acknowledged {
		ev.report.Jobs++
	}
	succeeded := false
	switch {
	case row == nil && letter != nil:
		ev.violation(h, "it is in the dead-letter queue, but its row is gone")
	case row == nil && (h.saw != "" || h.ended[newest.claim] == "done"):
		succeeded = true // and a pruner deleted it
	case row == nil && h.acknowledged:
		ev.report.Lost++
		ev.violation(h, "it was acknowledged and is gone")
		return
	case row == nil && len(h.starts) > 0:
		ev.violation(h, "it ran and is gone")
		return
	case row == nil: // it was never stored
		return
	case row.Status == pinion.StatusSuccess:
		succeeded = true
		if letter != nil {
			ev.violation(h, "it succeeded and is in the dead-letter queue")
		}
		if result := string(row.Result); result != strconv.FormatInt(row.Claim, 10) {
			ev.violation(h, "claim %s finished it, but its newest claim is %d", result, row.Claim)
		}
	case row.Status == pinion.StatusFailed && letter == nil:
		ev.violation(h, "it is FAILED, but not in the dead-letter queue")
	case row.Status == pinion.StatusFailed:
		ev.judgeDead(h, row, letter)
	default:
		ev.violation(h, "it never ended")
	}
	if claim, result, pruned := strings.Cut(h.saw, ":"); pruned && claim != result {
		ev.violation(h, "the pruner saw that claim %s finished it, but its newest claim was %s", result, claim)
	}
	if row != nil && row.Claim < newest.claim {
		ev.violation(h, "it ran under claim %d, but its newest claim is %d", newest.claim, row.Claim)
	}
	if succeeded {
		ev.report.Succeeded++
		if neverSucceeds(h.kind) {
			ev.violation(h, "it succeeded, but its task never does")
		} else if len(h.starts) == 0 {
			ev.violation(h, "it succeeded, but it never ran")
		}
	}
}

// judgeDead checks that a dead job had to die.
func (ev *evidence) judgeDead(h *history, row, letter *pinion.Job) {
	ev.report.Dead++
	if !neverSucceeds(h.kind) {
		ev.report.Innocent++
		if !strings.HasPrefix(letter.Error, pinion.ErrAttemptsUsedUp.Error()) {
			ev.violation(h, "it was dead-lettered with an error that its last attempt does not return")
		}
	}
	if len(h.starts) == 0 && !killsProcess(h.kind) {
		ev.violation(h, "it was dead-lettered, but it never ran and kills no process")
	}
	allowed := ev.attemptsAllowed(h)
	tooMany := letter.Attempts > allowed+h.diedUnstarted(row.Reaped)
	tooFew := letter.Attempts < allowed && h.kind != "hopeless"
	if tooMany || tooFew {
		ev.violation(h, "it was dead-lettered after %d attempts, want %d", letter.Attempts, allowed)
	}
}

// judgeAttempts checks that no job ran more often than its policy allows, and that no claim was used twice.
func (ev *evidence) judgeAttempts(h *history) {
	allowed := ev.attemptsAllowed(h)
	row := ev.rows[h.id]
	if row != nil && row.Status != pinion.StatusFailed && row.Attempts > allowed {
		ev.violation(h, "%d attempts are counted, but the policy allows %d", row.Attempts, allowed)
	}
	if n := len(h.starts); n > allowed+h.releases {
		ev.violation(h, "it ran %d times, but it has %d attempts and was released %d times", n, allowed, h.releases)
	}
	seen := make(map[int64]bool)
	for _, s := range h.starts {
		if seen[s.claim] {
			ev.violation(h, "claim %d was used twice", s.claim)
		}
		seen[s.claim] = true
		if s.attempt > allowed {
			ev.violation(h, "it ran in attempt %d, but the policy allows %d", s.attempt, allowed)
		}
	}
}

// judgeRepeats checks that a job whose end was not recorded ran again only for a reason, and not before its
// lease had expired.
func (ev *evidence) judgeRepeats(h *history) {
	for i := range len(h.starts) - 1 {
		s, next := h.starts[i], h.starts[i+1]
		if h.hadToRunAgain(s) {
			continue
		}
		ev.report.Repeated++
		if !s.cutShort(h) {
			ev.report.Unrecorded++
		}
		knowsOfLoss := h.lost[s.claim] || h.outcome[s.claim] == outcomeLost
		if len(ev.harms[s.child]) == 0 && !knowsOfLoss {
			ev.violation(h, "it ran again after claim %d, but child %d, which had that claim, "+
				"came to no harm and was not told that it lost the lease", s.claim, s.child)
		}
		// A process that is frozen between looking at the clock and claiming stores a time that is too early.
		timesAreRight := !ev.clockWasSet && !isNear(ev.disturbances, s.claimedAt, next.at)
		lasted := time.Duration(next.claimedAt-s.claimedAt) * time.Microsecond
		early := ev.leaseOf(s.child) - lasted
		if early > time.Millisecond && timesAreRight && h.endings[s.claim].call != "failed" {
			ev.violation(h, "the lease of claim %d was taken back %v before it expired", s.claim, early)
		}
	}
}

// judgeTaken checks that no lease was taken back from a worker that was alive: that the job was not claimed again
// though its first worker had not ended the claim and had come to no harm. Locks, freezes of all and busy
// machines do not excuse that, but a worker that was stopped alone must expect it.
func (ev *evidence) judgeTaken(h *history) {
	for i := range len(h.claims) - 1 {
		c, next := h.claims[i], h.claims[i+1]
		call := h.endings[c.claim].call
		diedEnding := call == "failed" && ev.wasHarmed(c.child, c.at, endOfTime) // before it could write that it had
		ended := h.ended[c.claim] != "" || call == "release" || diedEnding
		if ended || ev.wasHarmed(c.child, c.at, next.at) {
			continue
		}
		ev.report.Taken++
		ev.violation(h, "the lease of claim %d was taken back, though child %d was alive", c.claim, c.child)
	}
}

// judgeCutShort checks that no child began more jobs that it did not end than it had slots.
func (ev *evidence) judgeCutShort() {
	cutShort := make(map[int]int) // by child
	for _, h := range ev.inOrder {
		for i := range len(h.starts) - 1 {
			s := h.starts[i]
			if s.cutShort(h) && !h.hadToRunAgain(s) {
				cutShort[s.child]++
			}
		}
	}
	for child, n := range cutShort {
		if n > ev.slots {
			text := fmt.Sprintf("%d jobs ran again that child %d had begun and not ended, but it had %d slots",
				n, child, ev.slots)
			ev.report.Violations = append(ev.report.Violations, text)
		}
	}
}

// judgeBatches checks that each call of Enqueue that was not acknowledged stored all of its jobs or none.
func (ev *evidence) judgeBatches() {
	type batch struct {
		jobs, stored int
		first        *history
	}
	batches := make(map[int]*batch) // by line of the try
	for _, h := range ev.inOrder {
		if h.acknowledged || h.try < 0 {
			continue
		}
		b := batches[h.try]
		if b == nil {
			b = &batch{first: h}
			batches[h.try] = b
		}
		b.jobs++
		if ev.rows[h.id] != nil || ev.letters[h.id] != nil || len(h.starts) > 0 || h.saw != "" {
			b.stored++
		}
	}
	for _, b := range batches {
		if b.stored > 0 && b.stored < b.jobs {
			ev.violation(b.first, "Enqueue stored %d of the %d jobs that it was called with", b.stored, b.jobs)
		}
	}
}

// judgeStrangers looks for jobs of our tasks that nobody enqueued.
func (ev *evidence) judgeStrangers() {
	for id, row := range ev.rows {
		switch row.Status {
		case pinion.StatusPending, pinion.StatusRunning, pinion.StatusSuccess, pinion.StatusFailed:
		default:
			continue // a row of another program
		}
		enqueued := ev.histories[id] != nil && ev.histories[id].kind != ""
		if isOurTask(row.Task) && !enqueued {
			ev.violation(ev.history(id), "nobody enqueued it")
		}
	}
}

// findLongestCalls finds the longest call, and the longest of those around a disturbance.
func (ev *evidence) findLongestCalls() {
	for _, line := range ev.lines {
		if line.verb != logCall {
			continue
		}
		µs, _ := strconv.ParseInt(line.words[1], 10, 64)
		longest := &ev.report.LongestCall
		if ev.isDisturbed(line.at-µs, line.at) {
			longest = &ev.report.LongestCallDisturbed
		}
		*longest = max(*longest, time.Duration(µs)*time.Microsecond)
	}
}

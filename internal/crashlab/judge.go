//go:build unix

package crashlab

import (
	"cmp"
	"encoding/json"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/pinion-queue/pinion"
)

// Report is what came of an experiment.
type Report struct {
	Seed          uint64
	Kills         int            // by the parent, at random moments
	Suicides      map[string]int // by children, in the call they were fated to die in
	Poisonings    int            // by tasks
	Stops         int            // SIGSTOP beyond the visibility timeout
	Dealing, Took time.Duration  // while kills were dealt; and with what was left

	Jobs       int // acknowledged
	Succeeded  int
	Dead       int // in the dead-letter queue
	Innocent   int // of these: jobs that would have succeeded, had no process died around them
	Starts     int
	Duplicates int // starts after an attempt of which no end was recorded
	Unrecorded int // of these: the attempt had ended, but its process came to harm before it could record that
	Lost       int // acknowledged and gone
	Stale      int // ends recorded for a claim that was not the newest

	Wait             time.Duration // the longest of a write
	WaitAfterStop    time.Duration // the same, while or soon after a process was stopped
	Reaping          time.Duration // the longest from a lease's end until it was taken back
	ReapingAfterStop time.Duration

	Violations []string
}

func (r Report) String() string {
	suicides := 0
	var verbs []string
	for verb, n := range r.Suicides {
		suicides += n
		verbs = append(verbs, fmt.Sprintf("%s %d", verb, n))
	}
	slices.Sort(verbs)
	ms := func(d time.Duration) time.Duration { return d.Round(time.Millisecond) }
	return fmt.Sprintf(`seed %d: %d kills at random moments, %d in a chosen call (%s), %d by tasks, %d stops; %v, then %v for the rest
%d jobs acknowledged: %d succeeded, %d dead (%d of them innocent), %d lost, %d ended under a stale claim
%d starts, %d of them after an attempt of which no end was recorded (%d of those attempts had ended)
longest write %v (%v around stops); leases taken back at most %v after their end (%v around stops)`,
		r.Seed, r.Kills, suicides, strings.Join(verbs, ", "), r.Poisonings, r.Stops, ms(r.Dealing), ms(r.Took-r.Dealing),
		r.Jobs, r.Succeeded, r.Dead, r.Innocent, r.Lost, r.Stale, r.Starts, r.Duplicates, r.Unrecorded,
		ms(r.Wait), ms(r.WaitAfterStop), ms(r.Reaping), ms(r.ReapingAfterStop))
}

// evidence is all that is known after an experiment.
type evidence struct {
	lines         []line
	jobs, letters map[string]*pinion.Job // in the storage
	owed          map[string]string      // ids and tasks of jobs that were there before
	visibility    time.Duration
	slots         int
	poisonRetries int
	strict        bool // what depends on the machine's speed counts too

	files  map[string]*file
	order  []*file    // the files, in the order in which the jobs came
	stops  [][2]int64 // Unix microseconds
	harmed map[int]string
	cut    map[int]int // by child: attempts that it did not end, and that were followed by others
	report *Report
}

// file is what the log says of a job.
type file struct {
	id, kind     string
	acknowledged bool
	tries        int // the number of its try, to find who was enqueued with it
	starts       []start
	starting     map[int64]int    // claims by the index of the line of their start
	ending       map[int64]ending // claims whose end somebody began to record
	ended        map[int64]string // claims whose end was recorded: the verb
	over         int64            // the claim under which it ended for good; 0: none
	saw          string           // the claim and the result under which the pruner saw it succeed
	lost         map[int64]bool   // claims that their worker was told it had lost
	outcome      map[int64]string // how tasks ended
	releases     int
}

type start struct {
	claim, claimed int64
	attempt, who   int
}

type ending struct {
	line int
	who  int
	verb string
}

func kindNames() []string {
	names := []string{"poison", "poison once"}
	for _, k := range kinds {
		names = append(names, k.name)
	}
	return names
}

// kills tells the tasks that kill their process.
func (f *file) kills() bool { return strings.HasPrefix(f.kind, "poison") }

// fails tells the tasks that never succeed.
func (f *file) fails() bool { return f.kind == "doomed" || f.kind == "hopeless" || f.kind == "poison" }

func (e *evidence) judge(report *Report) {
	e.report, e.cut = report, make(map[int]int)
	e.findStops()
	e.read()
	for _, f := range e.order {
		e.judgeJob(f)
	}
	e.judgeBatches()
	e.judgeStrangers()
	for who, n := range e.cut {
		if n > e.slots {
			e.report.Violations = append(e.report.Violations, fmt.Sprintf(
				"%d jobs started again that child %d had begun and not ended; it had %d slots", n, who, e.slots))
		}
	}
	e.judgeWaits()
}

// read sorts the log by jobs.
func (e *evidence) read() {
	e.files, e.harmed, e.report.Suicides = make(map[string]*file), make(map[int]string), make(map[string]int)
	for id, kind := range e.owed {
		e.file(id).kind, e.file(id).acknowledged = kind, true
	}
	for i, l := range e.lines {
		switch l.verb {
		case "try":
			for _, w := range l.words {
				id, kind, _ := strings.Cut(w, ":")
				f := e.file(id)
				f.kind, f.tries = kind, i
			}
		case "ack":
			for _, id := range l.words {
				e.file(id).acknowledged = true
			}
		case "start":
			f, claim := e.claim(l.words[0])
			s := start{claim: claim, who: l.who}
			s.attempt, _ = strconv.Atoi(l.words[1])
			s.claimed, _ = strconv.ParseInt(l.words[2], 10, 64)
			f.starts = append(f.starts, s)
			f.starting[claim] = i
			if e.report.Starts++; f.over > 0 && claim > f.over {
				e.accuse(f, "it ran again after its end had been recorded")
			}
		case "end":
			f, claim := e.claim(l.words[0])
			if f.outcome[claim] = l.words[1]; l.words[1] == "killed" {
				e.report.Poisonings++
				e.harmed[l.who] = "its own task"
			}
		case "ending":
			for _, w := range l.words[1:] {
				f, claim := e.claim(w)
				f.ending[claim] = ending{i, l.who, l.words[0]}
				if l.words[0] == "release" {
					f.releases++
				}
			}
		case "ended":
			for _, w := range l.words[1:] {
				e.end(l.words[0], w, i)
			}
		case "lost":
			for _, w := range l.words {
				f, claim := e.claim(w)
				f.lost[claim] = true
			}
		case "saw":
			for _, w := range l.words {
				f, _ := e.claim(w[:strings.LastIndex(w, ":")])
				_, f.saw, _ = strings.Cut(w, ":")
			}
		case "kill", "stop":
			who, _ := strconv.Atoi(l.words[0])
			e.harmed[who] = l.verb
		case "dying":
			e.harmed[l.who] = l.verb
			e.report.Suicides[l.words[0]]++
		}
	}
	for _, l := range e.lines {
		waited := l.verb == "unclean" || l.verb == "gave up"
		if l.verb == "unclean" {
			e.harmed[l.who] = "its shutdown was not clean"
		}
		if l.verb == "trouble" || waited && e.strict && !e.nearStop(l.at-(10*time.Second).Microseconds(), l.at) {
			e.report.Violations = append(e.report.Violations, "a worker was in trouble: "+l.String())
		}
	}
}

// end notes an end that the storage has accepted. One for which a later claim had started before it was even asked
// for was accepted for a stale claim.
func (e *evidence) end(verb, claimed string, i int) {
	f, claim := e.claim(claimed)
	begun, known := f.ending[claim]
	if !known {
		begun.line = i
	}
	if f.over > 0 && (verb == "done" || verb == "dead") {
		e.accuse(f, "it was ended twice")
	}
	for later, at := range f.starting {
		if later > claim && at < begun.line {
			e.report.Stale++
			e.accuse(f, fmt.Sprintf("its end (%s) was recorded under claim %d, after claim %d", verb, claim, later))
		}
	}
	f.ended[claim] = verb
	if verb == "done" || verb == "dead" {
		f.over = claim
	}
}

func (e *evidence) file(id string) *file {
	f := e.files[id]
	if f == nil {
		f = &file{id: id, tries: -1, starting: make(map[int64]int), ending: make(map[int64]ending), ended: make(map[int64]string),
			lost: make(map[int64]bool), outcome: make(map[int64]string)}
		e.files[id] = f
		e.order = append(e.order, f)
	}
	return f
}

// claim is the reverse of ref.
func (e *evidence) claim(ref string) (*file, int64) {
	at := strings.LastIndex(ref, ":")
	claim, _ := strconv.ParseInt(ref[at+1:], 10, 64)
	return e.file(ref[:at]), claim
}

// accuse reports a violation with all that is known of the job.
func (e *evidence) accuse(f *file, what string) {
	const most = 5 // stories; the rest are counted
	text := fmt.Sprintf("job %s (%s): %s", f.id, f.kind, what)
	if len(e.report.Violations) < most {
		text += e.story(f)
	}
	e.report.Violations = append(e.report.Violations, text)
}

func (e *evidence) story(f *file) string {
	var b strings.Builder
	who := make(map[int]bool)
	for _, l := range e.lines {
		if slices.ContainsFunc(l.words, func(w string) bool { return strings.HasPrefix(w, f.id) }) {
			if who[l.who] = true; len(l.words) > 12 {
				l.words = append(slices.DeleteFunc(slices.Clone(l.words[1:]), func(w string) bool { return !strings.HasPrefix(w, f.id) }), l.words[0], "and others")
			}
			fmt.Fprintf(&b, "\n\t%v", l)
		}
	}
	for who := range who {
		if harm := e.harmed[who]; harm != "" {
			fmt.Fprintf(&b, "\n\tchild %d came to harm: %s", who, harm)
		}
	}
	for name, rows := range map[string]map[string]*pinion.Job{"row": e.jobs, "dead letter": e.letters} {
		if row := rows[f.id]; row != nil {
			text, _ := json.Marshal(row)
			fmt.Fprintf(&b, "\n\tits %s: %s", name, text)
		} else {
			fmt.Fprintf(&b, "\n\tits %s: none", name)
		}
	}
	return b.String()
}

func (e *evidence) retries(f *file) int {
	if f.kind == "poison" {
		return e.poisonRetries
	}
	return retries
}

// judgeJob holds against one job what was promised.
func (e *evidence) judgeJob(f *file) {
	row, letter := e.jobs[f.id], e.letters[f.id]
	if f.acknowledged {
		e.report.Jobs++
	}
	last := slices.MaxFunc(append(f.starts, start{}), func(a, b start) int { return cmp.Compare(a.claim, b.claim) })
	verb := f.ended[last.claim]
	switch {
	case row == nil && letter == nil && f.saw == "" && verb != "done":
		if f.acknowledged {
			e.report.Lost++
			e.accuse(f, "it was acknowledged and is gone")
		} else if len(f.starts) > 0 {
			e.accuse(f, "it ran and is gone")
		}
		return
	case row == nil && letter != nil:
		e.accuse(f, "its dead letter stands, and its row is gone")
	case row == nil: // pruned
		e.report.Succeeded++
	case row.Status == pinion.StatusSuccess:
		e.report.Succeeded++
		if letter != nil {
			e.accuse(f, "it succeeded and is in the dead-letter queue")
		}
		if result := string(row.Result); result != strconv.FormatInt(row.Claim, 10) {
			e.accuse(f, fmt.Sprintf("it was finished by claim %s, and its newest is %d", result, row.Claim))
		}
	case row.Status == pinion.StatusFailed:
		if letter == nil {
			e.accuse(f, "it FAILED and is not in the dead-letter queue")
		} else {
			e.judgeDead(f, letter)
		}
	default:
		e.accuse(f, "it never ended")
	}
	if claim, result, pruned := strings.Cut(f.saw, ":"); pruned && claim != result {
		e.accuse(f, fmt.Sprintf("the pruner saw that it was finished by claim %s, and its newest was %s", result, claim))
	}
	if row != nil && row.Claim < last.claim {
		e.accuse(f, fmt.Sprintf("it ran under claim %d, and its newest is %d", last.claim, row.Claim))
	}
	if succeeded := row == nil || row.Status == pinion.StatusSuccess; succeeded && f.fails() {
		e.accuse(f, "it succeeded, which it never does")
	} else if succeeded && len(f.starts) == 0 {
		e.accuse(f, "it succeeded, and never ran")
	}
	e.judgeAttempts(f, row)
}

func (e *evidence) judgeDead(f *file, letter *pinion.Job) {
	e.report.Dead++
	usedUp := strings.HasPrefix(letter.Error, pinion.ErrAttemptsUsedUp.Error())
	if !f.fails() {
		if e.report.Innocent++; !usedUp {
			e.accuse(f, "it is in the dead-letter queue for an error that it does not have at its last attempt")
		}
	}
	if len(f.starts) == 0 && !f.kills() {
		e.accuse(f, "it is in the dead-letter queue, never killed anything, and never ran")
	}
	if most := e.retries(f) + 1; letter.Attempts > most || letter.Attempts < most && f.kind != "hopeless" {
		e.accuse(f, fmt.Sprintf("it was given up after %d attempts, and has %d", letter.Attempts, most))
	}
}

// judgeAttempts looks at the starts: not more than the policy has, none without a reason, none before its time.
func (e *evidence) judgeAttempts(f *file, row *pinion.Job) {
	most := e.retries(f) + 1
	if row != nil && row.Attempts > most && row.Status != pinion.StatusFailed {
		e.accuse(f, fmt.Sprintf("%d attempts are counted, and the policy has %d", row.Attempts, most))
	}
	if n := len(f.starts); n > most+f.releases {
		e.accuse(f, fmt.Sprintf("it ran %d times, was released %d times, and has %d attempts", n, f.releases, most))
	}
	slices.SortFunc(f.starts, func(a, b start) int { return cmp.Compare(a.claim, b.claim) }) // one that was stopped starts late
	claims := make(map[int64]bool)
	for i, s := range f.starts {
		if claims[s.claim] {
			e.accuse(f, fmt.Sprintf("claim %d was used twice", s.claim))
		}
		claims[s.claim] = true
		if s.attempt > most {
			e.accuse(f, fmt.Sprintf("it ran in attempt %d, and the policy has %d", s.attempt, most))
		}
		if i == len(f.starts)-1 {
			break
		}
		next := f.starts[i+1]
		recording := f.ending[s.claim].verb
		if ended := f.ended[s.claim]; ended == "failed" || recording == "release" {
			continue
		}
		e.report.Duplicates++
		if end := f.outcome[s.claim]; end == "" || end == "killed" {
			e.cut[s.who]++
		} else {
			e.report.Unrecorded++
		}
		if e.harmed[s.who] == "" && !f.lost[s.claim] && f.outcome[s.claim] != "lost" {
			e.accuse(f, fmt.Sprintf("it ran again after claim %d, whose process (child %d) came to no harm and knows of no lost lease", s.claim, s.who))
		}
		if early := e.visibility.Microseconds() - (next.claimed - s.claimed); early > 1000 && recording != "failed" {
			e.accuse(f, fmt.Sprintf("the lease of claim %d was taken away %d µs before its time", s.claim, early))
		}
	}
}

// judgeBatches looks whether each call of Enqueue that was not acknowledged stored all of its jobs or none.
func (e *evidence) judgeBatches() {
	stored := make(map[int][2]int)
	of := make(map[int]*file)
	for _, f := range e.order {
		if f.acknowledged || f.tries < 0 {
			continue
		}
		n := stored[f.tries]
		there := 0
		if e.jobs[f.id] != nil || e.letters[f.id] != nil || len(f.starts) > 0 || f.saw != "" {
			there = 1
		}
		stored[f.tries], of[f.tries] = [2]int{n[0] + there, n[1] + 1}, f
	}
	for try, n := range stored {
		if n[0] > 0 && n[0] < n[1] {
			e.accuse(of[try], fmt.Sprintf("of its call of Enqueue %d of %d jobs were stored", n[0], n[1]))
		}
	}
}

// judgeStrangers looks for jobs of ours that nobody enqueued.
func (e *evidence) judgeStrangers() {
	names := kindNames()
	statuses := []pinion.Status{pinion.StatusPending, pinion.StatusRunning, pinion.StatusSuccess, pinion.StatusFailed}
	for id, row := range e.jobs {
		if slices.Contains(names, row.Task) && slices.Contains(statuses, row.Status) && (e.files[id] == nil || e.files[id].kind == "") {
			e.accuse(e.file(id), "nobody enqueued it")
		}
	}
}

// judgeWaits finds the longest write, apart from those around a stop.
func (e *evidence) judgeWaits() {
	for _, l := range e.lines {
		if l.verb != "call" {
			continue
		}
		took, _ := strconv.ParseInt(l.words[1], 10, 64)
		longest := &e.report.Wait
		if e.nearStop(l.at-took, l.at) {
			longest = &e.report.WaitAfterStop
		}
		*longest = max(*longest, time.Duration(took)*time.Microsecond)
	}
}

// findStops finds the times while which a process was stopped.
func (e *evidence) findStops() {
	stopped := make(map[string]int64)
	for _, l := range e.lines {
		switch l.verb {
		case "stop":
			stopped[l.words[0]] = l.at
		case "resume":
			if at, ok := stopped[l.words[0]]; ok {
				e.stops = append(e.stops, [2]int64{at, l.at})
			}
			delete(stopped, l.words[0])
		}
	}
	for _, at := range stopped {
		e.stops = append(e.stops, [2]int64{at, math.MaxInt64 / 2})
	}
}

// nearStop reports whether a process was stopped between two moments, or shortly before.
func (e *evidence) nearStop(from, to int64) bool {
	return slices.ContainsFunc(e.stops, func(stop [2]int64) bool { return stop[0] <= to && from <= stop[1]+settleTime.Microseconds() })
}

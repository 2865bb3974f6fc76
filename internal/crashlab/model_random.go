package crashlab

import (
	"math"
	"math/rand/v2"
	"strings"
	"time"

	"github.com/pinion-queue/pinion"
)

// randomSequence returns the i-th sequence of the Model's seed.
func (m Model) randomSequence(i int) []Step {
	maxSteps := m.Steps
	if maxSteps == 0 {
		maxSteps = 60
	}
	d := newDice(m.Seed, uint64(i), m.RealTime)
	steps := make([]Step, 1+d.IntN(maxSteps))
	for i := range steps {
		steps[i] = d.step()
	}
	return steps
}

// dice makes up steps. It uses few names and few times, so that they often meet.
//
// Each sequence has its own mixture of verbs, in which some are frequent and others are missing. So some
// sequences go deeper than an even mixture ever would.
type dice struct {
	*rand.Rand
	realTime bool
	verbs    []string // a verb is drawn as often as it stands here
	simple   bool     // only one worker, which mostly uses its newest claim; no filters and no queues
}

// allVerbs are the verbs of steps. Those that stand here twice are twice as frequent on average.
var allVerbs = []string{
	"Enqueue", "Enqueue", "Dequeue", "Dequeue", "Wait", "Sleep",
	"MarkDone", "MarkFailed", "DeadLetter", "Heartbeat", "Release", "ReapStale",
	"Size", "Stats", "Get", "Jobs", "DeadLetters",
	"Replay", "Purge", "Prune", "Cancel", "Canceled",
	"CancelWhere", "PruneWhere", "Reschedule", "History", "SetLimit", "Limits",
}

func newDice(seed, sequence uint64, realTime bool) dice {
	d := dice{
		Rand:     rand.New(rand.NewPCG(seed, sequence)),
		realTime: realTime,
		verbs:    []string{"Enqueue", "Dequeue", "Sleep"}, // without these, most sequences would do nothing
	}
	d.simple = d.oneIn(3)
	for _, verb := range allVerbs {
		for range pick(d, 0, 0, 1, 1, 2, 3, 5) {
			d.verbs = append(d.verbs, verb)
		}
	}
	return d
}

func pick[T any](d dice, from ...T) T { return from[d.IntN(len(from))] }

// oneIn is true once in n times.
func (d dice) oneIn(n int) bool { return d.IntN(n) == 0 }

func (d dice) step() Step {
	s := Step{Verb: pick(d, d.verbs...), Worker: d.IntN(3)}
	if d.simple {
		s.Worker = 0
	}
	switch s.Verb {
	case "Enqueue":
		s.Jobs = d.specs()
		s.Garbage = d.oneIn(10)
		s.Twice = d.oneIn(50)
	case "Dequeue":
		s.Max = pick(d, 1, 2, 3, 20)
		s.Queues = d.queues()
		s.Tasks = d.tasks()
		s.Lease = d.lease()
		if d.oneIn(2) {
			s.Ahead = s.Max - min(d.IntN(3), s.Max) // 0, 1 or 2 free slots
		}
		if d.oneIn(50) {
			s.Max = pick(d, 0, -1)
			s.Ahead = 0
		}
	case "Wait":
		s.Max = pick(d, 1, 2, 3, 20)
		s.Queues = d.queues()
		s.Tasks = d.tasks()
		s.Lease = d.lease()
		s.For = d.timeAhead()
	case "MarkDone", "Heartbeat", "Release", "Canceled":
		s.Claims = d.claims(pick(d, 0, 1, 1, 1, 2, 3))
		switch s.Verb {
		case "MarkDone":
			s.Result = d.result()
		case "Heartbeat":
			s.Result = d.result()
			s.Started = d.oneIn(2)
		case "Release":
			s.Cause = d.cause()
			s.For = pick(d, 0, 0, d.timeAhead(), -d.timeAhead())
		}
	case "MarkFailed":
		s.Claims = d.claims(1)
		s.Cause = d.cause()
		s.For = pick(d, 0, d.timeAhead(), -d.timeAhead())
	case "DeadLetter":
		s.Claims = d.claims(1)
		s.Cause = d.cause()
		s.Result = d.result()
	case "ReapStale":
		s.For = pick(d, 0, d.timeAhead()) // which no lease depends on
	case "Get":
		s.ID = d.id()
	case "Cancel":
		for range pick(d, 0, 1, 1, 2) {
			s.Filter.IDs = append(s.Filter.IDs, d.id())
		}
	case "Jobs", "DeadLetters", "Replay", "Purge", "PruneWhere", "CancelWhere", "Reschedule":
		s.Filter = d.filter()
		s.After = d.filterTime()
		s.Before = d.filterTime()
		if s.Verb == "Reschedule" {
			s.For = pick(d, 0, d.timeAhead(), -d.timeAhead())
		}
	case "History":
		s.For = pick(d, 0, time.Microsecond, time.Minute, time.Hour)
	case "SetLimit":
		s.Queue = d.queue()
		s.Limit = pick(d, -1, 0, 1, 2)
	case "Prune":
		s.For = pick(d, 0, time.Microsecond, d.timeAhead(), -d.timeAhead())
	case "Sleep":
		s.For = d.timeAhead()
	}
	waits := s.Verb == "Sleep" || s.Verb == "Wait"
	if waits && d.realTime {
		s.For = pick(d, 5*time.Millisecond, 60*time.Millisecond)
	}
	if !waits && s.Verb != "Dequeue" {
		s.Ended = d.oneIn(30)
	}
	return s
}

// timeAhead returns a time from now.
func (d dice) timeAhead() time.Duration {
	if d.realTime {
		return pick(d, 5*time.Millisecond, 60*time.Millisecond, 60*time.Millisecond, time.Hour)
	}
	return pick(d,
		time.Microsecond, time.Millisecond,
		time.Second, time.Second, time.Second, 2*time.Second, 3*time.Second,
		time.Minute, time.Hour,
		time.Duration(d.IntN(10_000_000))*time.Microsecond)
}

// lease returns the lease of a claim.
func (d dice) lease() time.Duration {
	if d.realTime {
		return pick(d, 0, 60*time.Millisecond)
	}
	if d.simple {
		return time.Second
	}
	return pick(d, 0, time.Millisecond, time.Second, time.Second, 2*time.Second, d.timeAhead())
}

// filterTime returns a value for Step.After and Step.Before.
func (d dice) filterTime() time.Duration {
	if d.simple || !d.oneIn(8) {
		return 0
	}
	if d.realTime {
		return pick(d, -time.Hour, time.Hour)
	}
	return pick(d, -time.Microsecond, time.Microsecond, -time.Second, -d.timeAhead(), d.timeAhead())
}

func (d dice) result() string { return pick(d, "", "", "null", `{"a":"<>"}`) }

func (d dice) cause() string {
	return pick(d, "", "boom", "boom", "used up", "a\x00b\xff\u009b\n", strings.Repeat("ä", 8<<10)+"x")
}

// claims returns n values for Step.Claims.
func (d dice) claims(n int) []int {
	var claims []int
	for range n {
		if d.simple {
			claims = append(claims, pick(d, 0, 0, 0, 1))
		} else {
			claims = append(claims, pick(d, 0, 0, 0, 0, 0, 1, 1, 2, 5, 11, -1, -2))
		}
	}
	return claims
}

func (d dice) id() string { return pick(d, "a", "b", "c", "d", "e", "f", "nobody") }

func (d dice) task() string {
	return pick(d, "t", "T", "u", "Ärger", "äRGER", "k", "\u212A", "σας", "ΣΑΣ") // \u212A is the sign of the Kelvin
}

// tasks returns tasks to claim; none means every task.
func (d dice) tasks() []string {
	return d.some(d.task)
}

func (d dice) queue() string { return pick(d, "", "", "default", "q", "Q", "ü") }

// queues returns queues to claim from; none means every queue.
func (d dice) queues() []string {
	return d.some(d.queue)
}

// some returns one to three names, or none.
func (d dice) some(name func() string) []string {
	if d.simple || d.oneIn(2) {
		return nil
	}
	var names []string
	for range 1 + d.IntN(3) {
		names = append(names, name())
	}
	return names
}

func (d dice) specs() []Spec {
	var specs []Spec
	for range pick(d, 0, 1, 1, 1, 2, 3, 9) {
		specs = append(specs, d.spec())
	}
	return specs
}

func (d dice) spec() Spec {
	if d.simple {
		return Spec{
			ID:       pick(d, "", "a", "b", "c"),
			Task:     "t",
			Key:      pick(d, "", "", "k"),
			Priority: d.IntN(2),

			KeyUntilStart: d.oneIn(4),
		}
	}
	s := Spec{
		Task:     d.task(),
		Queue:    d.queue(),
		Priority: pick(d, 0, 0, 0, 1, 2, -1, math.MinInt, math.MaxInt),
	}
	if d.oneIn(2) {
		s.ID = d.id()
	}
	if d.oneIn(3) {
		s.Key = pick(d, "k", "l")
	}
	s.KeyUntilStart = d.oneIn(5)
	if d.oneIn(5) {
		s.Meta = map[string]string{"tenant": pick(d, "", "ä<>&", "two")}
	}
	if d.oneIn(3) {
		s.Due = pick(d, d.timeAhead(), d.timeAhead(), -d.timeAhead(), 1, Epoch)
	}
	if d.oneIn(3) {
		s.Args = []any{pick[any](d, 1, "<ä>", nil)}
	}
	if d.oneIn(3) {
		s.Kwargs = map[string]any{"b": d.IntN(3), "a": "x"}
	}
	switch { // now and then, something invalid
	case d.oneIn(40):
		s.Task = ""
	case d.oneIn(40):
		s.Key = "\xff"
	case d.oneIn(40):
		s.Key = "periodic:t"
	case d.oneIn(40):
		s.Queue = pick(d, "a\x00b", strings.Repeat("q", 1025))
	case d.oneIn(40):
		s.Meta = map[string]string{"tenant": "\xff"}
	case d.oneIn(40):
		s.ID = strings.Repeat("i", 1024) // the longest that is allowed
	}
	return s
}

func (d dice) filter() pinion.Filter {
	var f pinion.Filter
	if d.simple {
		f.Limit = pick(d, 0, 1, 2)
		return f
	}
	if d.oneIn(20) {
		f.IDs = []string{}
	}
	for d.oneIn(5) {
		f.IDs = append(f.IDs, d.id())
	}
	if d.oneIn(5) {
		f.Queue = d.queue()
	}
	if d.oneIn(5) {
		f.Task = d.task()
	}
	if d.oneIn(5) {
		f.Status = pick(d, pinion.StatusPending, pinion.StatusRunning, pinion.StatusSuccess,
			pinion.StatusFailed, "BOGUS")
	}
	if d.oneIn(8) {
		f.Key = pick(d, "k", "l")
	}
	if d.oneIn(8) {
		f.KeyPrefix = pick(d, "k", "kk")
	}
	if d.oneIn(8) {
		f.Error = pick(d, "boom", "boom\n\nstack", "bo")
	}
	if d.oneIn(8) {
		f.Text = pick(d, "boom", "BOOM", "expired", "%", "\uFFFD")
	}
	f.Newest = d.oneIn(4)
	if d.oneIn(2) {
		f.Limit = pick(d, 1, 1, 2, -1)
	}
	return f
}

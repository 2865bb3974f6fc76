package crashlab

import (
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/pinion-queue/pinion"
)

// modelDice makes up steps. There are few names and few times, so that they meet, and each sequence has its own mind
// about which verbs come often and which not at all: so some go deep where an even mixture never would.
type modelDice struct {
	*rand.Rand
	realTime bool
	verbs    []string // each as often as it has weight
	tidy     bool     // nothing odd: one worker, whose newest claims count, no filters and no other queues
}

func newModelDice(seed, sequence uint64, realTime bool) modelDice {
	g := modelDice{rand.New(rand.NewPCG(seed, sequence)), realTime, []string{"Enqueue", "Dequeue", "Sleep"}, false}
	g.tidy = g.one(3)
	for _, verb := range []string{"Enqueue", "Enqueue", "Dequeue", "Prefetch", "Wait", "MarkDone", "MarkFailed", "DeadLetter", "Heartbeat", "ReapStale",
		"Release", "Size", "Stats", "Get", "Jobs", "DeadLetters", "Replay", "Purge", "Prune", "Cancel", "Canceled", "Sleep"} {
		for range pick(g, 0, 0, 1, 1, 2, 3, 5) {
			g.verbs = append(g.verbs, verb)
		}
	}
	return g
}

func pick[T any](g modelDice, from ...T) T { return from[g.IntN(len(from))] }

func (g modelDice) one(in int) bool { return g.IntN(in) == 0 }

func (g modelDice) step() Step {
	s := Step{Worker: g.IntN(3)}
	if g.tidy {
		s.Worker = 0
	}
	s.Verb = pick(g, g.verbs...)
	s.Ended = s.Verb != "Sleep" && s.Verb != "Wait" && g.one(30)
	switch s.Verb {
	case "Enqueue":
		for n := pick(g, 0, 1, 1, 1, 2, 3, 9); len(s.Jobs) < n; {
			s.Jobs = append(s.Jobs, g.spec())
		}
		s.Garbage = g.one(10)
	case "Dequeue", "Prefetch", "Wait":
		s.Max, s.Queues = pick(g, 1, 2, 3, 20), g.queues()
		if s.Verb == "Prefetch" {
			s.Slots = g.IntN(3)
		}
		if s.For = g.ahead(); s.Verb == "Dequeue" && g.one(50) {
			s.Max = -g.IntN(2)
		}
	case "MarkDone", "Heartbeat", "Release", "Canceled":
		for n := pick(g, 0, 1, 1, 1, 2, 3); len(s.Claims) < n; {
			s.Claims = append(s.Claims, g.claim())
		}
		if s.Verb == "MarkDone" {
			s.Result = pick(g, "", "", "null", `{"a":"<>"}`)
		}
	case "MarkFailed", "DeadLetter":
		s.Claims = []int{g.claim()}
		if s.Cause = pick(g, "", "boom", "boom", "used up", "a\x00b\xff\u009b\n", strings.Repeat("ä", 8<<10)+"x"); s.Verb == "MarkFailed" {
			s.For = pick(g, 0, g.ahead(), -g.ahead())
		}
	case "ReapStale":
		s.For = pick(g, g.ahead(), 0, -g.ahead())
		if g.realTime {
			s.For = pick(g, 0, g.ahead())
		} else if g.tidy {
			s.For = pick(g, -time.Second, time.Second)
		}
	case "Get":
		s.ID = g.id()
	case "Cancel":
		for n := pick(g, 0, 1, 1, 2); len(s.Filter.IDs) < n; {
			s.Filter.IDs = append(s.Filter.IDs, g.id())
		}
	case "Jobs", "DeadLetters", "Replay", "Purge":
		s.Filter = g.filter()
	case "Prune":
		s.For = pick(g, 0, time.Microsecond, g.ahead(), -g.ahead())
	case "Sleep":
		s.For = g.ahead()
	}
	if g.realTime && (s.Verb == "Sleep" || s.Verb == "Wait") {
		s.For = pick(g, 5*time.Millisecond, 60*time.Millisecond)
	}
	return s
}

// ahead is a time to come.
func (g modelDice) ahead() time.Duration {
	if g.realTime {
		return pick(g, 5*time.Millisecond, 60*time.Millisecond, 60*time.Millisecond, time.Hour)
	}
	return pick(g, time.Microsecond, time.Millisecond, time.Second, time.Second, time.Second, 2*time.Second, 3*time.Second, time.Minute,
		time.Hour, time.Duration(g.IntN(1e7))*time.Microsecond)
}

func (g modelDice) claim() int {
	if g.tidy {
		return pick(g, 0, 0, 0, 1)
	}
	return pick(g, 0, 0, 0, 0, 0, 1, 1, 2, 5, 11, -1, -2)
}

func (g modelDice) id() string { return pick(g, "a", "b", "c", "d", "e", "f", "nobody") }

func (g modelDice) task() string { return pick(g, "t", "T", "u", "Ärger", "äRGER") }

func (g modelDice) queue() string { return pick(g, "", "", "default", "q", "Q", "ü") }

func (g modelDice) queues() (queues []string) {
	if g.tidy || g.one(2) {
		return nil
	}
	for n := 1 + g.IntN(3); len(queues) < n; {
		queues = append(queues, g.queue())
	}
	return queues
}

func (g modelDice) spec() Spec {
	if g.tidy {
		return Spec{ID: pick(g, "", "a", "b", "c"), Task: "t", Key: pick(g, "", "", "k"), Priority: g.IntN(2)}
	}
	s := Spec{Task: g.task(), Queue: g.queue(), Priority: pick(g, 0, 0, 0, 1, 2, -1, math.MinInt, math.MaxInt)}
	if g.one(2) {
		s.ID = g.id()
	}
	if g.one(3) {
		s.Key = pick(g, "k", "l")
	}
	if g.one(3) {
		s.Due = pick(g, g.ahead(), g.ahead(), -g.ahead(), 1, Epoch)
	}
	if g.one(3) {
		s.Args = []any{pick[any](g, 1, "<ä>", nil)}
	}
	if g.one(3) {
		s.Kwargs = map[string]any{"b": g.IntN(3), "a": "x"}
	}
	if g.one(40) {
		s.Task = ""
	} else if g.one(40) {
		s.Key = "\xff"
	}
	return s
}

func (g modelDice) filter() (f pinion.Filter) {
	if g.tidy {
		return pinion.Filter{Limit: pick(g, 0, 1, 2)}
	}
	for g.one(5) {
		f.IDs = append(f.IDs, g.id())
	}
	if g.one(5) {
		f.Queue = g.queue()
	}
	if g.one(5) {
		f.Task = g.task()
	}
	if g.one(5) {
		f.Status = pick(g, pinion.StatusPending, pinion.StatusRunning, pinion.StatusSuccess, pinion.StatusFailed, "BOGUS")
	}
	if g.one(2) {
		f.Limit = pick(g, 1, 1, 2, -1)
	}
	return f
}

// ---- The shortest sequence ----

// shrink leaves out steps, many at once and then one by one, has fewer workers take them, and makes those that are
// left plainer, for as long as the sequence fails. It returns how it fails then.
func (m Model) shrink(ctx context.Context, steps []Step) ([]Step, error) {
	var failure error
	runs := 0
	fails := func(steps []Step) bool {
		for range max(m.Tries, 2) { // a storage draws moments at random, so it may fail at some
			if runs++; runs > 5000 || ctx.Err() != nil {
				return false
			}
			if _, err := m.play(ctx, steps); err != nil {
				failure = err
				return true
			}
		}
		return false
	}
	for again := true; again; {
		again = false
		for size := len(steps) / 2; size > 0; size /= 2 {
			for at := len(steps) - size; at >= 0; at = min(at-size, len(steps)-size) {
				if shorter := slices.Delete(slices.Clone(steps), at, at+size); fails(shorter) {
					steps, again = shorter, true
				}
			}
		}
		for worker := 1; worker < 3; worker++ {
			other := slices.Clone(steps)
			for i := range other {
				if other[i].Worker == worker {
					other[i].Worker = 0
				}
			}
			if !reflect.DeepEqual(other, steps) && fails(other) {
				steps, again = other, true
			}
		}
		for i := range steps {
			for simpler := true; simpler; {
				simpler = false
				for _, step := range plainer(reflect.ValueOf(steps[i])) {
					other := slices.Clone(steps)
					if other[i] = step.Interface().(Step); fails(other) {
						steps, simpler, again = other, true, true
						break
					}
				}
			}
		}
	}
	return steps, failure
}

// plainer are the values that say a little less than v.
func plainer(v reflect.Value) (all []reflect.Value) {
	with := func(change func(reflect.Value)) {
		other := reflect.New(v.Type()).Elem()
		other.Set(v)
		change(other)
		all = append(all, other)
	}
	switch v.Kind() {
	case reflect.Struct:
		for i := range v.NumField() {
			if name := v.Type().Field(i).Name; name == "Verb" || name == "Task" && v.Field(i).String() == "t" || v.Field(i).IsZero() {
				continue
			} else if name == "Task" && v.Type() == reflect.TypeFor[Spec]() {
				with(func(o reflect.Value) { o.Field(i).SetString("t") })
				continue
			}
			for _, plain := range plainer(v.Field(i)) {
				with(func(o reflect.Value) { o.Field(i).Set(plain) })
			}
		}
	case reflect.Slice:
		with(func(o reflect.Value) { o.SetZero() })
		for i := range v.Len() {
			with(func(o reflect.Value) {
				o.Set(reflect.MakeSlice(v.Type(), 0, v.Len()))
				o.Set(reflect.AppendSlice(reflect.AppendSlice(o, v.Slice(0, i)), v.Slice(i+1, v.Len())))
			})
			for _, plain := range plainer(v.Index(i)) {
				with(func(o reflect.Value) {
					o.Set(reflect.AppendSlice(reflect.MakeSlice(v.Type(), 0, v.Len()), v))
					o.Index(i).Set(plain)
				})
			}
		}
	case reflect.Int, reflect.Int64:
		for _, n := range []int64{0, 1, int64(time.Microsecond), int64(time.Second), v.Int() / 2} {
			if v.Int() != n && (n < v.Int() || v.Int() < 0) {
				with(func(o reflect.Value) { o.SetInt(n) })
			}
		}
	default:
		if !v.IsZero() {
			with(func(o reflect.Value) { o.SetZero() })
		}
	}
	return all
}

// Source is a sequence as a Go test.
func Source(steps []Step) string {
	var b strings.Builder
	b.WriteString("func TestTheModelFindsNothingHere(t *testing.T) {\n\tplayModel(t,\n")
	for _, step := range steps {
		b.WriteString("\t\tcrashlab.Step" + literal(reflect.ValueOf(step)) + ",\n")
	}
	b.WriteString("\t)\n}")
	return b.String()
}

// literal is v in Go, without the type where a literal around it says that.
func literal(v reflect.Value) string {
	var parts []string
	switch v.Kind() {
	case reflect.Struct:
		for i := range v.NumField() {
			if f := v.Field(i); !f.IsZero() {
				text := literal(f)
				if f.Kind() == reflect.Struct || f.Kind() == reflect.Slice || f.Kind() == reflect.Map {
					text = strings.ReplaceAll(f.Type().String(), "interface {}", "any") + text
				}
				parts = append(parts, v.Type().Field(i).Name+": "+text)
			}
		}
	case reflect.Slice:
		for i := range v.Len() {
			parts = append(parts, literal(v.Index(i)))
		}
	case reflect.Map:
		for _, key := range v.MapKeys() {
			parts = append(parts, literal(key)+": "+literal(v.MapIndex(key)))
		}
		slices.Sort(parts)
	default:
		if v.Type() == reflect.TypeFor[time.Duration]() {
			return duration(time.Duration(v.Int()))
		}
		return fmt.Sprintf("%#v", v)
	}
	return "{" + strings.Join(parts, ", ") + "}"
}

func duration(d time.Duration) string {
	for _, unit := range []struct {
		name string
		of   time.Duration
	}{{"Hour", time.Hour}, {"Minute", time.Minute}, {"Second", time.Second}, {"Millisecond", time.Millisecond}, {"Microsecond", time.Microsecond}} {
		if d == Epoch {
			return "crashlab.Epoch"
		} else if d%unit.of == 0 {
			return fmt.Sprintf("%d * time.%s", d/unit.of, unit.name)
		}
	}
	return fmt.Sprint(int64(d))
}

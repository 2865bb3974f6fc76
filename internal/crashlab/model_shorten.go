package crashlab

import (
	"context"
	"reflect"
	"slices"
	"time"
)

// shorten looks for the shortest and plainest sequence that still fails. It leaves out steps, lets fewer
// workers take them, and makes single values plainer, until nothing more can be changed. It returns the
// sequence and how that fails.
func (m Model) shorten(ctx context.Context, steps []Step) ([]Step, error) {
	s := &shortener{model: m, ctx: ctx, steps: steps}
	for changed := true; changed; {
		withoutSteps := s.leaveOutSteps()
		fewerWorkers := s.useFewerWorkers()
		plainerValues := s.makePlainer()
		changed = withoutSteps || fewerWorkers || plainerValues
	}
	return s.steps, s.err
}

// shortener holds the shortest sequence that was found to fail.
type shortener struct {
	model  Model
	ctx    context.Context // of the Check under way
	steps  []Step
	err    error // how steps fails; nil before the first change
	played int   // how many sequences were played
}

// adoptIfFails plays a sequence and adopts it if it fails. A storage may choose times at random, so a
// sequence that fails need not do so each time.
func (s *shortener) adoptIfFails(steps []Step) bool {
	const maxPlayed = 5000
	for range max(s.model.Tries, 2) {
		if s.played == maxPlayed || s.ctx.Err() != nil {
			return false
		}
		s.played++
		if _, err := s.model.play(s.ctx, steps); err != nil {
			s.steps = steps
			s.err = err
			return true
		}
	}
	return false
}

// leaveOutSteps leaves out as many steps as it can: first half of them at once, in the end one by one, and
// each time from the back to the front.
func (s *shortener) leaveOutSteps() (changed bool) {
	for size := len(s.steps) / 2; size > 0; size /= 2 {
		for at := len(s.steps) - size; at >= 0; at -= size {
			at = min(at, len(s.steps)-size) // which may have become fewer
			if at < 0 {
				break
			}
			without := slices.Delete(slices.Clone(s.steps), at, at+size)
			if s.adoptIfFails(without) {
				changed = true
			}
		}
	}
	return changed
}

// useFewerWorkers lets worker 0 take the steps of another worker.
func (s *shortener) useFewerWorkers() (changed bool) {
	for worker := 1; worker < 3; worker++ {
		other := slices.Clone(s.steps)
		for i := range other {
			if other[i].Worker == worker {
				other[i].Worker = 0
			}
		}
		if !reflect.DeepEqual(other, s.steps) && s.adoptIfFails(other) {
			changed = true
		}
	}
	return changed
}

// makePlainer makes values in the steps plainer.
func (s *shortener) makePlainer() (changed bool) {
	for i := range s.steps {
		for s.makeStepPlainer(i) {
			changed = true
		}
	}
	return changed
}

// makeStepPlainer makes one value in a step plainer.
func (s *shortener) makeStepPlainer(i int) bool {
	for _, step := range plainer(reflect.ValueOf(s.steps[i])) {
		other := slices.Clone(s.steps)
		other[i] = step.Interface().(Step)
		if s.adoptIfFails(other) {
			return true
		}
	}
	return false
}

// plainer returns copies of a value in each of which one thing is plainer.
func plainer(v reflect.Value) []reflect.Value {
	switch v.Kind() {
	case reflect.Struct:
		return plainerStructs(v)
	case reflect.Slice:
		return plainerSlices(v)
	case reflect.Int, reflect.Int64:
		return plainerInts(v)
	default:
		if v.IsZero() {
			return nil
		}
		return []reflect.Value{reflect.Zero(v.Type())}
	}
}

func plainerStructs(v reflect.Value) []reflect.Value {
	var all []reflect.Value
	for i := range v.NumField() {
		for _, value := range plainerFields(v.Type().Field(i).Name, v.Field(i), v.Type()) {
			other := reflect.New(v.Type()).Elem()
			other.Set(v)
			other.Field(i).Set(value)
			all = append(all, other)
		}
	}
	return all
}

func plainerFields(name string, field reflect.Value, in reflect.Type) []reflect.Value {
	isTask := in == reflect.TypeFor[Spec]() && name == "Task"
	switch {
	case field.IsZero(), name == "Verb":
		return nil
	case isTask && field.String() == "t":
		return nil
	case isTask: // a job without a task would be invalid
		return []reflect.Value{reflect.ValueOf("t")}
	default:
		return plainer(field)
	}
}

func plainerSlices(v reflect.Value) []reflect.Value {
	all := []reflect.Value{reflect.Zero(v.Type())}
	for i := range v.Len() {
		without := reflect.MakeSlice(v.Type(), 0, v.Len())
		without = reflect.AppendSlice(without, v.Slice(0, i))
		without = reflect.AppendSlice(without, v.Slice(i+1, v.Len()))
		all = append(all, without)
		for _, element := range plainer(v.Index(i)) {
			other := reflect.AppendSlice(reflect.MakeSlice(v.Type(), 0, v.Len()), v)
			other.Index(i).Set(element)
			all = append(all, other)
		}
	}
	return all
}

func plainerInts(v reflect.Value) []reflect.Value {
	var all []reflect.Value
	for _, n := range []int64{0, 1, int64(time.Microsecond), int64(time.Second), v.Int() / 2} {
		nearerToZero := n < v.Int() || v.Int() < 0
		if n != v.Int() && nearerToZero {
			all = append(all, reflect.ValueOf(n).Convert(v.Type()))
		}
	}
	return all
}

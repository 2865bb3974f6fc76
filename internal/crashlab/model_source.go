package crashlab

import (
	"fmt"
	"reflect"
	"slices"
	"strings"
	"time"
)

// Source returns a sequence as a Go test.
func Source(steps []Step) string {
	var b strings.Builder
	b.WriteString("func TestAFoundSequence(t *testing.T) {\n\tplayModel(t,\n")
	for _, step := range steps {
		b.WriteString("\t\tcrashlab.Step" + literal(reflect.ValueOf(step)) + ",\n")
	}
	b.WriteString("\t)\n}")
	return b.String()
}

// literal returns a value as a Go literal. Structs, slices and maps come without their type.
func literal(v reflect.Value) string {
	var parts []string
	switch {
	case v.Type() == reflect.TypeFor[time.Duration]():
		return durationLiteral(time.Duration(v.Int()))
	case v.Kind() == reflect.Struct:
		for i := range v.NumField() {
			field := v.Field(i)
			if !field.IsZero() {
				parts = append(parts, v.Type().Field(i).Name+": "+literalType(field)+literal(field))
			}
		}
	case v.Kind() == reflect.Slice:
		for i := range v.Len() {
			parts = append(parts, literal(v.Index(i)))
		}
	case v.Kind() == reflect.Map:
		for _, key := range v.MapKeys() {
			parts = append(parts, literal(key)+": "+literal(v.MapIndex(key)))
		}
		slices.Sort(parts)
	default:
		return fmt.Sprintf("%#v", v)
	}
	return "{" + strings.Join(parts, ", ") + "}"
}

// literalType returns the type that a literal of a field needs, or "".
func literalType(field reflect.Value) string {
	switch field.Kind() {
	case reflect.Struct, reflect.Slice, reflect.Map:
		return strings.ReplaceAll(field.Type().String(), "interface {}", "any")
	default:
		return ""
	}
}

// durationLiteral returns a duration as a Go expression in the largest unit that divides it.
func durationLiteral(d time.Duration) string {
	if d == Epoch {
		return "crashlab.Epoch"
	}
	for _, unit := range []struct {
		name string
		size time.Duration
	}{
		{"Hour", time.Hour},
		{"Minute", time.Minute},
		{"Second", time.Second},
		{"Millisecond", time.Millisecond},
		{"Microsecond", time.Microsecond},
	} {
		if d%unit.size == 0 {
			return fmt.Sprintf("%d * time.%s", d/unit.size, unit.name)
		}
	}
	return fmt.Sprint(int64(d))
}

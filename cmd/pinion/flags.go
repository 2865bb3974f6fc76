package main

import (
	"cmp"
	"errors"
	"flag"
	"fmt"
	"math"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// parse takes flags before and after operands alike, which flag.FlagSet.Parse does not; "--" ends the flags. It
// reports whether help was asked for.
func (c *call) parse(args []string) (asked bool, err error) {
	c.rest = []string{c.command.name}
	for len(args) > 0 {
		arg := args[0]
		if arg == "--" {
			c.operands, c.rest = append(c.operands, args[1:]...), append(c.rest, args...)
			break
		}
		name, value, inline := strings.Cut(strings.TrimPrefix(strings.TrimPrefix(arg, "-"), "-"), "=")
		f := c.flags.Lookup(name)
		taken := 1
		switch {
		case len(arg) < 2 || arg[0] != '-':
			c.operands, c.rest, args = append(c.operands, arg), append(c.rest, arg), args[1:]
			continue
		case f == nil && (name == "help" || name == "h"):
			return true, nil
		case f == nil:
			var names []string
			c.flags.VisitAll(func(f *flag.Flag) { names = append(names, dashed(f)) })
			typed, _, _ := strings.Cut(arg, "=")
			return false, usagef("unknown flag %s%s", typed, didYouMean("--"+name, names))
		case inline:
		case isBool(f):
			value = "true"
		case len(args) == 1:
			return false, usagef("--%s needs a value", name)
		default:
			value, taken = args[1], 2
		}
		err = f.Value.Set(value)
		if err != nil && isBool(f) {
			err = fmt.Errorf("%q is neither true nor false; write --%s alone, or leave it out", value, name)
		}
		if err != nil {
			return false, usagef("--%s: %v", name, err)
		}
		if name != "import" && name != "build" {
			c.rest = append(c.rest, args[:taken]...)
		}
		args = args[taken:]
	}
	return false, c.checkOperands()
}

// checkOperands compares the number of operands with what the command takes.
func (c *call) checkOperands() error {
	words := strings.Fields(c.command.operands)
	for i, word := range words {
		if !strings.HasPrefix(word, "[") && len(c.operands) <= i {
			return usagef("%s is missing", strings.TrimSuffix(word, "..."))
		}
		if strings.Contains(word, "...") {
			return nil
		}
	}
	if len(c.operands) > len(words) {
		hint := ""
		if c.command.name == "enqueue" {
			hint = `; arguments are JSON, as in --args '[1, "two"]'`
		}
		return usagef("%q is one operand too many%s", c.operands[len(words)], hint)
	}
	return nil
}

func isBool(f *flag.Flag) bool {
	b, ok := f.Value.(interface{ IsBoolFlag() bool })
	return ok && b.IsBoolFlag()
}

// days are at the beginning of a duration, where time.ParseDuration knows none.
var days = regexp.MustCompile(`^([0-9]+)d`)

// duration declares a flag that takes "1m30s" as well as "7d" and plain seconds.
func (c *call) duration(value *time.Duration, name, usage string) {
	c.flags.Func(name, usage, func(s string) error {
		d, err := parseDuration(s)
		if err == nil {
			*value = d
		}
		return err
	})
}

// moment declares a flag that takes a point in time.
func (c *call) moment(value *time.Time, name, usage string) {
	c.flags.Func(name, usage, func(s string) (err error) {
		*value, err = parseMoment(s, time.Now())
		return err
	})
}

// parseMoment reads RFC 3339, a local date and time, or a time of day, which is the next such after now.
func parseMoment(s string, now time.Time) (time.Time, error) {
	for _, layout := range []string{time.RFC3339, "2006-01-02 15:04", "2006-01-02 15:04:05", "2006-01-02T15:04", "2006-01-02T15:04:05"} {
		if t, err := time.ParseInLocation(layout, s, now.Location()); err == nil {
			return t, nil
		}
	}
	for _, layout := range []string{"15:04", "15:04:05"} {
		if t, err := time.Parse(layout, s); err == nil {
			day := now.Day()
			for {
				next := time.Date(now.Year(), now.Month(), day, t.Hour(), t.Minute(), t.Second(), 0, now.Location())
				if next.After(now) {
					return next, nil
				}
				day++
			}
		}
	}
	return time.Time{}, fmt.Errorf(`%q is no point in time; write "15:04", "2026-01-31 15:04" or "2026-01-31T15:04:00+01:00"`, s)
}

func parseDuration(s string) (time.Duration, error) {
	// A day of 24 hours, and what follows it.
	rest, whole := s, 0
	if found := days.FindStringSubmatch(s); found != nil {
		whole, _ = strconv.Atoi(found[1])
		if whole > 100_000 {
			return 0, fmt.Errorf("%q is out of range", s)
		}
		rest = cmp.Or(s[len(found[0]):], "0")
	}
	d, err := time.ParseDuration(rest)
	d += time.Duration(whole) * 24 * time.Hour
	if seconds, plain := strconv.ParseFloat(s, 64); plain == nil {
		if math.IsNaN(seconds) || math.Abs(seconds) > math.MaxInt64/float64(2*time.Second) {
			return 0, fmt.Errorf("%q is out of range", s)
		}
		d, err = time.Duration(seconds*float64(time.Second)), nil
	}
	switch {
	case err != nil:
		return 0, fmt.Errorf(`%q is no duration; write "90s", "1h30m", "7d" or plain seconds`, s)
	case d < 0:
		return 0, fmt.Errorf("%s is negative", s)
	}
	return d, nil
}

// count declares a flag that takes a whole number, lowest being the lowest.
func (c *call) count(value *int, name string, lowest int, usage string) {
	c.flags.Func(name, usage, func(s string) error {
		n, err := strconv.Atoi(s)
		switch {
		case err != nil:
			return fmt.Errorf("%q is no whole number", s)
		case n < lowest:
			return fmt.Errorf("%d is too small, the lowest is %d", n, lowest)
		}
		*value = n
		return nil
	})
}

// list declares a flag that may be repeated.
func (c *call) list(values *[]string, name, usage string) {
	c.flags.Func(name, usage, func(s string) error {
		if s == "" {
			return errors.New("it is empty")
		}
		*values = append(*values, s)
		return nil
	})
}

// didYouMean names what a misspelt word was probably meant to be, if anything comes near.
func didYouMean(word string, names []string) string {
	best, least := "", len(strings.TrimLeft(word, "-"))/3+2
	for _, name := range names {
		if d := distance(strings.ToLower(word), strings.ToLower(name)); d < least {
			best, least = name, d
		}
	}
	if best != "" {
		return fmt.Sprintf("; did you mean %q?", best)
	}
	// Or it is a part: "dlq", "replay", or -l for --limit.
	var whole []string
	for _, name := range names {
		part, all := strings.ToLower(strings.Trim(word, "-")), strings.ToLower(strings.TrimLeft(name, "-"))
		if len(part) > 1 && strings.Contains(all, part) || len(part) == 1 && strings.HasPrefix(all, part) {
			whole = append(whole, strconv.Quote(name))
		}
	}
	if len(whole) == 0 || len(whole) > 5 {
		return ""
	}
	return fmt.Sprintf("; did you mean %s?", strings.Join(whole, " or "))
}

// distance counts the letters to insert, delete or replace to get from a to b (Levenshtein).
func distance(a, b string) int {
	row := make([]int, len(b)+1) // row[j]: from the part of a that was looked at to b[:j]
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			replace := diagonal
			if a[i] != b[j] {
				replace++
			}
			diagonal = row[j+1]
			row[j+1] = min(replace, row[j]+1, diagonal+1)
		}
	}
	return row[len(b)]
}

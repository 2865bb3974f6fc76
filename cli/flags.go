package cli

import (
	"errors"
	"flag"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
)

// parse parses the arguments behind the name of the command. Flags may come before and after operands, which
// flag.FlagSet.Parse does not allow; "--" ends them. It reports whether help was asked for.
func (c *call) parse(args []string) (wantsHelp bool, err error) {
	c.forwarded = []string{c.command.name}
	for len(args) > 0 {
		arg := args[0]
		if arg == "--" {
			c.operands = append(c.operands, args[1:]...)
			c.forwarded = append(c.forwarded, args...)
			break
		}
		if len(arg) < 2 || arg[0] != '-' {
			c.operands = append(c.operands, arg)
			c.forwarded = append(c.forwarded, arg)
			args = args[1:]
			continue
		}
		name, value, hasValue := strings.Cut(strings.TrimPrefix(strings.TrimPrefix(arg, "-"), "-"), "=")
		f := c.flags.Lookup(name)
		if f == nil && (name == "help" || name == "h") {
			return true, nil
		}
		if f == nil {
			return false, c.unknownFlag(arg, name)
		}
		words := 1 // of args, that this flag takes
		if !hasValue && isBool(f) {
			value = "true"
		} else if !hasValue {
			if len(args) == 1 {
				return false, usagef("--%s needs a value", name)
			}
			value, words = args[1], 2
		}
		if err := c.flags.Set(name, value); err != nil {
			if isBool(f) {
				err = fmt.Errorf("%q is neither true nor false; write --%s alone, or leave it out", value, name)
			}
			return false, usagef("--%s: %v", name, err)
		}
		if name != "import" && name != "build" {
			c.forwarded = append(c.forwarded, args[:words]...)
		}
		args = args[words:]
	}
	return false, c.checkOperands()
}

func (c *call) unknownFlag(arg, name string) error {
	var names []string
	c.flags.VisitAll(func(f *flag.Flag) {
		if f.Usage != "" { // else help does not list it
			names = append(names, dashed(f))
		}
	})
	typed, _, _ := strings.Cut(arg, "=")
	return usagef("unknown flag %s%s", typed, didYouMean("--"+name, names))
}

// checkOperands compares the number of operands with the number that the command takes.
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
		return c.tooMany(c.operands[len(words)])
	}
	return nil
}

func (c *call) tooMany(operand string) error {
	hint := ""
	if c.command.name == "enqueue" {
		hint = `; arguments are JSON, as in --args '[1, "two"]'`
	}
	return usagef("unexpected operand %q%s", operand, hint)
}

// given reports whether a flag was given.
func (c *call) given(name string) bool {
	found := false
	c.flags.Visit(func(f *flag.Flag) { found = found || f.Name == name })
	return found
}

func isBool(f *flag.Flag) bool {
	b, ok := f.Value.(interface{ IsBoolFlag() bool })
	return ok && b.IsBoolFlag()
}

func (c *call) jsonFlag() {
	c.flags.BoolVar(&c.json, "json", false, "print JSON, one object a line")
}

// durationFlag declares a flag that takes a duration, as parseDuration reads it.
func (c *call) durationFlag(value *time.Duration, name, usage string) {
	c.flags.Func(name, usage, func(s string) error {
		d, err := parseDuration(s)
		if err != nil {
			return err
		}
		*value = d
		return nil
	})
}

// timeFlag declares a flag that takes a point in time. A time of day is the next such or, if last is true, the
// last one; then the flag also takes how long ago the time was.
func (c *call) timeFlag(value *time.Time, name string, last bool, usage string) {
	c.flags.Func(name, usage, func(s string) error {
		t, err := readTime(s, last)
		if err != nil {
			return err
		}
		*value = t
		return nil
	})
}

// countFlag declares a flag that takes a whole number of at least lowest.
func (c *call) countFlag(value *int, name string, lowest int, usage string) {
	c.flags.Func(name, usage, func(s string) error {
		n, err := strconv.Atoi(s)
		if err != nil {
			return fmt.Errorf("%q is not a whole number", s)
		}
		if n < lowest {
			return fmt.Errorf("%d is too small; want at least %d", n, lowest)
		}
		*value = n
		return nil
	})
}

// listFlag declares a flag that may be repeated.
func (c *call) listFlag(values *[]string, name, usage string) {
	c.flags.Func(name, usage, func(s string) error {
		if s == "" {
			return errors.New("the value is empty")
		}
		*values = append(*values, s)
		return nil
	})
}

// mapFlag declares a flag that takes form, which is NAME=TEXT or the like, and may be repeated.
func (c *call) mapFlag(values *map[string]string, name, form, usage string) {
	c.flags.Func(name, usage, func(s string) error {
		key, text, ok := strings.Cut(s, "=")
		if !ok || key == "" {
			return fmt.Errorf("%q must be %s", s, form)
		}
		if _, given := (*values)[key]; given {
			return fmt.Errorf("%q is given twice", key)
		}
		if *values == nil {
			*values = make(map[string]string)
		}
		(*values)[key] = text
		return nil
	})
}

// otherWords are the words of other queues and tools for the commands and flags of this one.
var otherWords = map[string]string{
	"add": "enqueue", "submit": "enqueue", "push": "enqueue", "ls": "list", "jobs": "list", "ps": "running",
	"kill": "cancel", "rm": "cancel", "remove": "cancel", "retry": "dlq-replay", "replay": "dlq-replay",
	"failed": "dlq-list", "info": "show", "start": "worker", "run": "worker", "unpause": "resume",
	"continue": "resume", "parallel": "limit", "clean": "prune", "clear": "prune", "stats": "status", "man": "help",
	"delete": "cancel", "rerun": "dlq-replay", "tail": "logs", "top": "status",
	"j": "--concurrency", "workers": "--concurrency", "n": "--limit",
}

// didYouMean returns a hint at the names that a word was probably meant to be, or "". A word of up to five
// letters may have one mistake, and one more for every four letters more.
func didYouMean(word string, names []string) string {
	bare := strings.ToLower(strings.Trim(word, "-"))
	closest, limit := "", 2+max(len(bare)-2, 0)/4
	if len(bare) < 3 {
		limit = 1
	}
	for _, name := range names {
		if d := distance(bare, strings.ToLower(strings.TrimLeft(name, "-"))); d < limit {
			closest, limit = name, d
		}
	}
	if other := otherWords[bare]; closest == "" && slices.Contains(names, other) {
		closest = other
	}
	if closest != "" {
		return fmt.Sprintf("; did you mean %q?", closest)
	}
	// Or the word is a part of a name: "dlq", or -l for --limit.
	var whole []string
	for _, name := range names {
		bareName := strings.ToLower(strings.TrimLeft(name, "-"))
		isPart := len(bare) > 1 && strings.Contains(bareName, bare)
		isFirst := len(bare) == 1 && strings.HasPrefix(bareName, bare)
		if isPart || isFirst {
			whole = append(whole, strconv.Quote(name))
		}
	}
	if len(whole) == 0 || len(whole) > 5 {
		return ""
	}
	return fmt.Sprintf("; did you mean %s?", strings.Join(whole, " or "))
}

// distance counts the letters to insert, delete, replace or swap with the next one to get from a to b
// (Damerau and Levenshtein; no letter is changed twice).
func distance(a, b string) int {
	var before []int // the row before row
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) { // row[j] is the distance from a[:i] to b[:j], next[j] that from a[:i+1]
		next := make([]int, len(b)+1)
		next[0] = i + 1
		for j := range len(b) {
			replaced := row[j]
			if a[i] != b[j] {
				replaced++
			}
			next[j+1] = min(replaced, row[j+1]+1, next[j]+1)
			if i > 0 && j > 0 && a[i] == b[j-1] && a[i-1] == b[j] {
				next[j+1] = min(next[j+1], before[j-1]+1)
			}
		}
		before, row = row, next
	}
	return row[len(b)]
}

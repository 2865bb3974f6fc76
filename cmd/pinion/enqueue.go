package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/pinion-queue/pinion"
)

const enqueueDetail = `
The arguments are JSON: an array in the order in which the task declares them,
an object by their names, or both. @FILE reads either from a file and - from
standard input. A job takes 1 MiB of them.

Any TASK is accepted, as its worker may be elsewhere; with --import only those
that the packages register, and its queue is theirs unless --queue says another.
If an unfinished job holds the --key, its id is printed and nothing added, which
is no failure.
`

const enqueueExamples = `pinion enqueue add --args '[1, 2]' --db q.db
pinion enqueue mail --kwargs '{"to": "ada@example.com"}' --queue mail --delay 1h30m --db q.db
pinion enqueue report --key report-today --db q.db
pinion enqueue import --args @rows.json --db q.db`

func enqueue(c *call) func(context.Context) error {
	job := new(pinion.Job)
	var args, kwargs string
	var delay time.Duration
	c.storageFlags()
	c.flags.StringVar(&args, "args", "[]", "positional arguments: `JSON`, @FILE or -")
	c.flags.StringVar(&kwargs, "kwargs", "{}", "arguments by name: `JSON`, @FILE or -")
	c.flags.StringVar(&job.Queue, "queue", "", "put it into the queue `NAME` [default]")
	c.flags.StringVar(&job.Key, "key", "", "add nothing if an unfinished job holds this `KEY`")
	c.count(&job.Priority, "priority", math.MinInt, "the higher `N`, the earlier [0]")
	c.duration(&delay, "delay", "not before this `TIME` has passed, \"90\" or \"1h30m\"")

	return func(ctx context.Context) error {
		if c.operands[0] == "-" {
			return usagef("- is no TASK; arguments are read from standard input by --args -, one job at a time")
		}
		if args == "-" && kwargs == "-" {
			return usagef("--args and --kwargs cannot both be read from standard input")
		}
		job.Task = c.operands[0]
		list, err := c.arguments("--args", args, '[', `an array, as in --args '[1, "two"]'; an object goes into --kwargs`)
		if err != nil {
			return err
		}
		object, err := c.arguments("--kwargs", kwargs, '{', `an object, as in --kwargs '{"to": "ada"}'; an array goes into --args`)
		if err != nil {
			return err
		}
		if err := job.DecodeArgs(list, object); err != nil {
			return err
		}
		// What Enqueue would refuse is refused here, before there is a file.
		if _, _, err := job.EncodeArgs(); err != nil {
			return err
		}
		if err := knownTask(job.Task); err != nil {
			return err
		}
		job.Queue = cmp.Or(job.Queue, pinion.DefaultRegistry.Queue(job.Task))
		if delay > 0 {
			job.RunAt = time.Now().Add(delay)
		}
		storage, err := c.open(ctx, creates)
		if err != nil {
			return err
		}
		err = storage.Enqueue(ctx, job)
		if held, ok := errors.AsType[*pinion.DuplicateError](err); ok && held.Key != "" {
			fmt.Fprintf(c.stderr, "pinion: nothing added: the unfinished job %s holds the key %q\n", printable(held.ID, ""), held.Key)
			job.ID, err = held.ID, nil
		}
		if err == nil {
			fmt.Fprintln(c.stdout, job.ID)
		}
		return errors.Join(err, storage.Close())
	}
}

// arguments reads the value of --args or --kwargs and checks that it is one JSON text of the kind that open begins.
func (c *call) arguments(name, value string, open byte, kind string) (string, error) {
	// The library judges what is too much, once blanks are gone; but an endless input must not fill the memory.
	const most = 8 << 20
	var text []byte
	var err error
	switch file, isFile := strings.CutPrefix(value, "@"); {
	case value == "-":
		text, err = io.ReadAll(io.LimitReader(c.stdin, most+1))
	case isFile:
		var f *os.File
		if f, err = os.Open(file); err == nil {
			text, err = io.ReadAll(io.LimitReader(f, most+1))
			f.Close()
		}
	default:
		text = []byte(value)
	}
	if err != nil {
		return "", fmt.Errorf("%s: %w", name, err)
	}
	if len(text) > most {
		return "", fmt.Errorf("%s: more than %d MiB, where a job takes 1: %w; store the data elsewhere and enqueue where it is",
			name, most>>20, pinion.ErrTooLarge)
	}
	if !utf8.Valid(text) {
		at := 0
		for r, size := utf8.DecodeRune(text); r != utf8.RuneError || size > 1; r, size = utf8.DecodeRune(text[at:]) {
			at += size
		}
		return "", usagef("%s: not valid UTF-8 at byte %d\n%s", name, at+1, pointAt(text, at))
	}
	var valid json.RawMessage
	if err := json.Unmarshal(text, &valid); err != nil {
		at := len(text)
		if syntax, ok := errors.AsType[*json.SyntaxError](err); ok && !strings.HasPrefix(syntax.Error(), "unexpected end") {
			at = int(syntax.Offset) - 1
		}
		return "", usagef("%s: %v at byte %d\n%s", name, err, at+1, pointAt(text, at))
	}
	if trimmed := strings.TrimLeft(string(text), " \t\r\n"); trimmed[0] != open {
		return "", usagef("%s must be %s", name, kind)
	}
	return string(text), nil
}

// pointAt shows the surroundings of a byte, and below them where it is.
func pointAt(text []byte, at int) string {
	before, after := text[:at], text[at:]
	if len(before) > 40 {
		before = before[len(before)-40:]
		for !utf8.RuneStart(before[0]) {
			before = before[1:]
		}
	}
	after = after[:min(len(after), 20)]
	left := printable(string(before), "")
	return "\t" + left + printable(string(after), "") + "\n\t" + strings.Repeat(" ", utf8.RuneCountInString(left)) + "^"
}

// knownTask refuses a name that no imported package registers. Without --import any name may be right, and packages
// that register no task at all were imported for a backend.
func knownTask(task string) error {
	names := pinion.DefaultRegistry.Names()
	same := func(name string) bool { return strings.EqualFold(name, task) }
	if len(imported) == 0 || len(names) == 0 || slices.ContainsFunc(names, same) {
		return nil
	}
	hint := cmp.Or(didYouMean(task, names), "; they register: "+strings.Join(names, ", "))
	return fmt.Errorf("the imported packages register no task %q%s", task, hint)
}

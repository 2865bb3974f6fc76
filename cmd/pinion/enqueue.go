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
is no failure. --at takes "15:04", which is today or tomorrow, "2026-01-31 15:04"
on the local clock, or RFC 3339; what has passed is due at once. --wait prints the
job's result instead of its id, as "pinion wait" does.

With - as the second operand, each line of standard input is a job: a JSON array
or object, or with --lines one string, its first argument. -0 takes such strings
as find -print0 prints them. --args and --kwargs then go to every job, in front of
its own. Lines may end in CRLF and the last one in nothing; empty ones are
skipped, except with -0. They go in a thousand at a time, or as many as there are
when input pauses, so that tail -f may feed it.

A line that is no such JSON, or not UTF-8, or too long is reported with its number
and the rest goes in; the exit status is then 1. With --atomic all go in or, after
a bad line or a held key, none: until the end it keeps them in memory, about 1.5 KB
a line beside its text. In a --key, {0} and {name} stand for arguments, so that
each job has its own. --ids prints the ids, and --json each with its line.
`

const enqueueExamples = `pinion enqueue add --args '[1, 2]' --db q.db
pinion enqueue mail --kwargs '{"to": "ada@example.com"}' --queue mail --delay 1h30m --db q.db
pinion enqueue report --key report-today --at 23:30 --db q.db
pinion enqueue import --args @rows.json --db q.db
pinion enqueue add - --db q.db < rows.jsonl
find . -name '*.png' | pinion enqueue thumb --lines - --kwargs '{"width": 200}' --db q.db
find . -name '*.png' -print0 | pinion enqueue thumb -0 - --key 'thumb {0}' --db q.db`

// enqueuing is what the flags of enqueue say.
type enqueuing struct {
	*call
	job     pinion.Job // what all the jobs have
	storage pinion.Storage
	delay   time.Duration
	at      time.Time

	lines, nul, atomic, ids bool // for jobs from standard input

	wait    bool
	timeout time.Duration
}

func enqueue(c *call) func(context.Context) error {
	e := &enqueuing{call: c, timeout: -1}
	var args, kwargs string
	c.storageFlags()
	c.jsonFlag()
	c.flags.StringVar(&args, "args", "[]", "positional arguments: `JSON`, @FILE or -")
	c.flags.StringVar(&kwargs, "kwargs", "{}", "arguments by name: `JSON`, @FILE or -")
	c.flags.StringVar(&e.job.Queue, "queue", "", "put it into the queue `NAME` [default]")
	c.flags.StringVar(&e.job.Key, "key", "", "add nothing if an unfinished job holds this `KEY`")
	c.count(&e.job.Priority, "priority", math.MinInt, "the higher `N`, the earlier [0]")
	c.duration(&e.delay, "delay", "not before this `TIME` has passed, \"90\" or \"1h30m\"")
	c.moment(&e.at, "at", "not before this `MOMENT`, \"15:04\" or RFC 3339")
	c.flags.BoolVar(&e.lines, "lines", false, "each line of input is one argument, a string")
	c.flags.BoolVar(&e.nul, "0", false, "as --lines, but each ends in a null byte")
	c.flags.BoolVar(&e.atomic, "atomic", false, "all lines or none")
	c.flags.BoolVar(&e.ids, "ids", false, "print the ids of jobs from input")
	c.flags.BoolVar(&e.wait, "wait", false, "wait until it has ended, and print its result")
	c.duration(&e.timeout, "timeout", "wait no longer than this `TIME`")

	return func(ctx context.Context) error {
		if err := e.check(args, kwargs); err != nil {
			return err
		}
		e.job.Task = c.operands[0]
		list, err := c.arguments("--args", args, '[', `an array, as in --args '[1, "two"]'; an object goes into --kwargs`)
		if err != nil {
			return err
		}
		object, err := c.arguments("--kwargs", kwargs, '{', `an object, as in --kwargs '{"to": "ada"}'; an array goes into --args`)
		if err != nil {
			return err
		}
		if err := e.job.DecodeArgs(list, object); err != nil {
			return err
		}
		// What Enqueue would refuse is refused here, before there is a file.
		if _, _, err := e.job.EncodeArgs(); err != nil {
			return err
		}
		if err := knownTask(e.job.Task); err != nil {
			return err
		}
		e.job.Queue = cmp.Or(e.job.Queue, pinion.DefaultRegistry.Queue(e.job.Task))
		if !e.at.IsZero() && e.at.Before(time.Now()) {
			fmt.Fprintln(c.stderr, "pinion: the moment of --at has passed, so this is due at once")
		}
		if e.storage, err = c.open(ctx, creates); err != nil {
			return err
		}
		if len(c.operands) > 1 {
			err = e.bulk(ctx)
		} else {
			err = e.one(ctx)
		}
		return errors.Join(err, e.storage.Close())
	}
}

// check refuses what cannot be meant.
func (e *enqueuing) check(args, kwargs string) error {
	many := len(e.operands) > 1
	switch {
	case e.operands[0] == "":
		return usagef("TASK is empty; is a variable of your shell?")
	case e.operands[0] == "-":
		return usagef("- is no TASK; write the task in front of it, as in: pinion enqueue add - --db q.db")
	case many && e.operands[1] != "-":
		return usagef("%q is one operand too many; arguments are JSON, as in --args '[1, \"two\"]'", e.operands[1])
	case args == "-" && kwargs == "-", many && (args == "-" || kwargs == "-"):
		return usagef("standard input can be read by one only of --args -, --kwargs - and -")
	case !many && (e.lines || e.nul || e.atomic || e.ids):
		return usagef("--lines, -0, --atomic and --ids are for jobs from standard input; add - for that, as in: pinion enqueue add --lines -")
	case many && e.job.Key != "" && !inKey.MatchString(e.job.Key):
		return usagef("all those jobs cannot have one --key; put an argument into it, as in --key 'thumb {0}'")
	case e.delay > 0 && !e.at.IsZero():
		return usagef("--delay and --at say two times; give one of them")
	case e.timeout >= 0 && !e.wait:
		return usagef("--timeout is for --wait; add that, or set how long a task may run with the worker's --task-timeout")
	}
	return nil
}

// due is when a job that is enqueued now is to run.
func (e *enqueuing) due() time.Time {
	if e.delay > 0 {
		return time.Now().Add(e.delay)
	}
	return e.at
}

func (e *enqueuing) one(ctx context.Context) error {
	job := &e.job
	job.RunAt = e.due()
	err := e.storage.Enqueue(ctx, job)
	if held, ok := errors.AsType[*pinion.DuplicateError](err); ok && held.Key != "" {
		fmt.Fprintf(e.stderr, "pinion: nothing added: the unfinished job %s holds the key %q\n", printable(held.ID, ""), held.Key)
		job.ID, err = held.ID, nil
	}
	switch {
	case err != nil:
		return err
	case e.wait:
		return e.await(ctx, false, job.ID)
	case e.json:
		err = e.encode(struct {
			ID string `json:"id"`
		}{job.ID})
	default:
		fmt.Fprintln(e.stdout, job.ID)
	}
	if err = cmp.Or(err, e.stdout.Flush()); err != nil { // whoever only reads that it failed would enqueue it again
		return fmt.Errorf("the job %s is in the queue, but its id could not be written: %w; so note it, and do not enqueue it again", job.ID, err)
	}
	return nil
}

// await waits for what was enqueued.
func (e *enqueuing) await(ctx context.Context, rows bool, ids ...string) error {
	inspector, ok := e.storage.(pinion.Inspector)
	if !ok {
		return fmt.Errorf("enqueued, but this storage cannot tell what becomes of it (%T is no pinion.Inspector): %w", e.storage, errors.ErrUnsupported)
	}
	e.patient(false)
	return e.waitFor(ctx, inspector, ids, rows, e.timeout)
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

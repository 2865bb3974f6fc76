package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"os"
	"slices"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/pinion-queue/pinion"
)

const enqueueDetail = `
It prints the id of the job. Any TASK is accepted, because its worker may be
elsewhere; see "pinion help arguments". If an unfinished job holds the --key, enqueue
adds nothing, prints the id of that job and succeeds. "pinion help times" explains
--at and --delay; a time that has passed means now.

With - as the second operand, each line of standard input is a job; see "pinion help
lines".

--wait prints the result of the job instead of its id, and the exit status is that of
"pinion wait". The task does not get --meta: the middleware of a worker reads it, a
trace id for example. The program of a worker with --exec runs in the directory in
which the job was enqueued, unless --no-chdir is set here or there.
`

const enqueueExamples = `# Arguments in order.
pinion enqueue add --args '[1, 2]' --db q.db
# Arguments by name, in a queue of its own, later.
pinion enqueue mail --kwargs '{"to": "ada@example.com"}' --queue mail --delay 1h30m --db q.db
# At most one such job at a time, tonight.
pinion enqueue report --key report-today --at 23:30 --db q.db
# Arguments from a file, and a text for the middleware.
pinion enqueue import --args @rows.json --meta tenant=7 --db q.db
# A job for each line of a file.
pinion enqueue add - --db q.db < rows.jsonl
# A job for each file that find finds.
find . -name '*.png' -print0 | pinion enqueue thumb -0 - --kwargs '{"width": 200}' --key 'thumb {0}' --db q.db`

// enqueueCall is a call of enqueue.
type enqueueCall struct {
	*call
	job     pinion.Job // the common part of all jobs
	storage pinion.Storage
	delay   time.Duration
	at      time.Time
	noChdir bool // do not record the working directory

	lines, nul, base64, atomic, ids bool // for jobs from standard input

	wait    bool
	timeout time.Duration // negative: none
}

func enqueue(c *call) func(context.Context) error {
	e := &enqueueCall{call: c, timeout: -1}
	var args, kwargs string
	c.storageFlags()
	c.jsonFlag()
	c.flags.StringVar(&args, "args", "[]", "positional arguments: `JSON`, @FILE or -")
	c.flags.StringVar(&kwargs, "kwargs", "{}", "arguments by name: `JSON`, @FILE or -")
	c.flags.StringVar(&e.job.Queue, "queue", "", "add it to the queue `NAME` [default]")
	c.flags.StringVar(&e.job.Key, "key", "", "add nothing if an unfinished job holds this `KEY`")
	c.mapFlag(&e.job.Meta, "meta", "NAME=TEXT", "`NAME=TEXT` for the middleware of the worker; may be repeated")
	c.flags.BoolVar(&e.noChdir, "no-chdir", false, "do not record this directory as that of the job's program")
	c.countFlag(&e.job.Priority, "priority", math.MinInt, "the higher `N`, the earlier [0]")
	c.durationFlag(&e.delay, "delay", "run it after this `TIME`, \"90\" or \"1h30m\"")
	c.timeFlag(&e.at, "at", false, "run it at this `MOMENT`, \"15:04\" or \"2026-01-31 15:04\"")
	c.flags.BoolVar(&e.lines, "lines", false, "each line of input is one argument, a string")
	c.flags.BoolVar(&e.nul, "0", false, "as --lines, but each ends in a null byte")
	c.flags.BoolVar(&e.base64, "base64", false, "with --lines or -0, store each argument in base64")
	c.flags.BoolVar(&e.atomic, "atomic", false, "enqueue all lines or none")
	c.flags.BoolVar(&e.ids, "ids", false, "print the ids of jobs from input")
	c.flags.BoolVar(&e.wait, "wait", false, "wait for the job and print its result")
	c.durationFlag(&e.timeout, "timeout", "wait no longer than this `TIME`")

	return func(ctx context.Context) error {
		if err := e.checkFlags(args, kwargs); err != nil {
			return err
		}
		if err := e.readJob(args, kwargs); err != nil {
			return err
		}
		e.echoTime()
		ctx, stop := untilSignal(ctx)
		defer c.undoSignals(stop)
		c.surviveClosedPipe()
		var err error
		e.storage, err = c.open(ctx, creates)
		if err != nil {
			return err
		}
		if len(c.operands) > 1 {
			err = e.enqueueLines(ctx)
		} else {
			err = e.enqueueOne(ctx)
		}
		return errors.Join(err, e.storage.Close())
	}
}

// checkFlags refuses combinations that make no sense.
func (e *enqueueCall) checkFlags(args, kwargs string) error {
	fromInput := len(e.operands) > 1
	switch {
	case e.operands[0] == "":
		return usagef("TASK is empty; is a variable of your shell not set?")
	case e.operands[0] == "-":
		return usagef("- is not a TASK; write the task before it, as in: pinion enqueue add - --db q.db")
	case fromInput && e.operands[1] != "-":
		return e.tooMany(e.operands[1])
	case args == "-" && kwargs == "-", fromInput && (args == "-" || kwargs == "-"):
		return usagef("only one of --args -, --kwargs - and - can read standard input")
	case !fromInput && (e.lines || e.nul || e.base64 || e.atomic || e.ids):
		return usagef("--lines, -0, --base64, --atomic and --ids are for jobs from standard input; " +
			"add - for that, as in: pinion enqueue add --lines -")
	case e.base64 && !e.lines && !e.nul:
		return usagef("--base64 is for --lines and -0, whose arguments are text; add one of them")
	case fromInput && e.job.Key != "" && !keyArgument().MatchString(e.job.Key):
		return usagef("all these jobs cannot hold one --key; put an argument into it, as in --key 'thumb {0}'")
	case e.delay > 0 && !e.at.IsZero():
		return usagef("--delay and --at contradict each other; give one of them")
	case e.timeout >= 0 && !e.wait:
		return usagef("--timeout is for --wait; add that, or limit how long a task may run " +
			"with the worker's --task-timeout")
	}
	return nil
}

// readJob fills in the task, the arguments and the queue. It refuses what Enqueue would refuse, because open
// would have created a file by then.
func (e *enqueueCall) readJob(args, kwargs string) error {
	list, err := e.readJSON("--args", args, '[',
		`an array, as in --args '[1, "two"]'; an object goes into --kwargs`)
	if err != nil {
		return err
	}
	object, err := e.readJSON("--kwargs", kwargs, '{',
		`an object, as in --kwargs '{"to": "ada"}'; an array goes into --args`)
	if err != nil {
		return err
	}
	e.job.Task = e.operands[0]
	if err := e.job.DecodeArgs(list, object); err != nil {
		return err
	}
	if !e.noChdir {
		e.recordDirectory()
	}
	if _, _, err := e.job.EncodeArgs(); err != nil {
		return err
	}
	if err := knownTask(e.job.Task); err != nil {
		return err
	}
	if len(e.operands) == 1 { // else the lines have more arguments
		if err := fitsTask(&e.job); err != nil {
			return err
		}
	}
	if e.job.Queue == "" {
		e.job.Queue = pinion.DefaultRegistry.Queue(e.job.Task)
	}
	return nil
}

// recordDirectory adds the working directory to the job's Meta, unless --meta names one.
func (e *enqueueCall) recordDirectory() {
	if e.job.Meta[metaDir] != "" {
		return
	}
	meta, err := withDirectory(e.job.Meta)
	if err != nil {
		fmt.Fprintf(e.stderr, "pinion: the working directory is not recorded, "+
			"so a program runs in that of its worker: %s\n", printable(err.Error(), ""))
		return
	}
	e.job.Meta = meta
}

// withDirectory returns a copy of a job's Meta that names the working directory. A directory may have a name that
// Meta cannot hold.
func withDirectory(meta map[string]string) (map[string]string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return nil, err
	}
	if !utf8.ValidString(dir) {
		return nil, fmt.Errorf("its name %q is not valid UTF-8", dir)
	}
	meta = maps.Clone(meta)
	if meta == nil {
		meta = make(map[string]string)
	}
	meta[metaDir] = dir
	_, _, err = (&pinion.Job{Task: "any", Meta: meta}).EncodeArgs()
	if errors.Is(err, pinion.ErrTooLarge) {
		return nil, fmt.Errorf("its name of %d bytes does not fit beside --meta", len(dir))
	}
	return meta, err
}

// knownTask returns an error if this program has tasks built in and none of them has this name. The command
// pinion itself has none: any name may be that of a task of some worker elsewhere.
func knownTask(task string) error {
	names := pinion.DefaultRegistry.Names()
	if _, own := ownProgram(); !own || len(names) == 0 {
		return nil
	}
	if slices.ContainsFunc(names, func(name string) bool { return strings.EqualFold(name, task) }) {
		return nil
	}
	hint := didYouMean(task, names)
	if hint == "" {
		hint = "; the tasks are: " + strings.Join(names, ", ")
	}
	return fmt.Errorf("unknown task %q%s", task, hint)
}

// fitsTask returns an error if this program knows the task of a job and the arguments do not fit it.
func fitsTask(job *pinion.Job) error {
	err := pinion.DefaultRegistry.Check(job)
	if errors.Is(err, pinion.ErrTaskNotFound) {
		return nil // a worker elsewhere may know it
	}
	return err
}

// echoTime prints the time of --at as it was understood, with its offset from UTC.
func (e *enqueueCall) echoTime() {
	passed := time.Since(e.at)
	switch {
	case e.at.IsZero():
	case 0 <= passed && passed < time.Second: // just now: there is nothing to explain
	case passed > 0:
		fmt.Fprintf(e.stderr, "pinion: %s has passed, so it is due now\n", localTime(e.at))
	default:
		fmt.Fprintf(e.stderr, "pinion: due %s\n", timestamp(e.at))
	}
}

// dueTime returns when a job that is enqueued now is due.
func (e *enqueueCall) dueTime() time.Time {
	if e.delay > 0 {
		return time.Now().Add(e.delay)
	}
	return e.at
}

// enqueueOne is `pinion enqueue TASK`.
func (e *enqueueCall) enqueueOne(ctx context.Context) error {
	job := &e.job
	job.RunAt = e.dueTime()
	err := e.storage.Enqueue(ctx, job)
	duplicate, ok := errors.AsType[*pinion.DuplicateError](err)
	if ok && duplicate.Key != "" {
		fmt.Fprintf(e.stderr, "pinion: nothing added: the unfinished job %s holds the key %q\n",
			printable(duplicate.ID, ""), duplicate.Key)
		job.ID = duplicate.ID
	} else if err != nil {
		return notAdded(ctx, err)
	}
	e.did("job %s is in the queue; do not enqueue it again", job.ID)
	if e.wait {
		return e.waitForEnqueued(ctx, false, job.ID)
	}
	return e.printID(job.ID)
}

// notAdded returns the error of an Enqueue, which says so if a signal has ended it.
func notAdded(ctx context.Context, err error) error {
	err = signalOr(ctx, err)
	if _, ok := errors.AsType[*signalError](err); ok {
		return fmt.Errorf("%w; the job was not added", err)
	}
	return err
}

func (e *enqueueCall) printID(id string) error {
	if e.json {
		err := e.encode(struct {
			ID string `json:"id"`
		}{id})
		if err != nil {
			return err
		}
	} else {
		fmt.Fprintln(e.stdout, id)
	}
	return e.stdout.Flush()
}

// waitForEnqueued waits for the jobs that were enqueued and prints how they end.
func (e *enqueueCall) waitForEnqueued(ctx context.Context, rows bool, ids ...string) error {
	inspector, ok := pinion.As[pinion.Inspector](e.storage)
	if !ok {
		return fmt.Errorf("enqueued, but %T is not a pinion.Inspector, so it is not possible to wait for the job: %w",
			e.storage, errors.ErrUnsupported)
	}
	e.stopSlowNotice()
	return e.waitFor(ctx, inspector, ids, rows, e.timeout)
}

// readJSON reads the value of --args or --kwargs and checks that it is one JSON text that begins with open.
// Kind says what that is.
func (c *call) readJSON(flag, value string, open byte, kind string) (string, error) {
	text, err := c.readValue(value)
	if err != nil {
		return "", fmt.Errorf("%s: %w", flag, err)
	}
	if !utf8.Valid(text) {
		at := 0
		for {
			r, size := utf8.DecodeRune(text[at:])
			if r == utf8.RuneError && size <= 1 {
				break
			}
			at += size
		}
		return "", usagef("%s: invalid UTF-8 at byte %d\n%s", flag, at+1, pointAt(text, at))
	}
	var valid json.RawMessage
	if err := json.Unmarshal(text, &valid); err != nil {
		at := len(text)
		syntax, ok := errors.AsType[*json.SyntaxError](err)
		if ok && !strings.HasPrefix(syntax.Error(), "unexpected end") {
			at = badByte(syntax) - 1
		}
		return "", usagef("%s: %v at byte %d\n%s", flag, err, at+1, pointAt(text, at))
	}
	trimmed := strings.TrimLeft(string(text), " \t\r\n")
	if trimmed[0] != open {
		return "", usagef("%s must be %s", flag, kind)
	}
	return string(text), nil
}

// badByte returns the position of the byte that a syntax error is about. The first byte is 1. For text that ends too
// early it is the last byte.
func badByte(err *json.SyntaxError) int {
	if strings.HasPrefix(err.Error(), "unexpected end") {
		return int(err.Offset)
	}
	return int(err.Offset - firstOffset() + 1)
}

// firstOffset returns the Offset that encoding/json gives an error about the first byte: 1, or 0 in its next version.
var firstOffset = sync.OnceValue(func() int64 {
	syntax, _ := errors.AsType[*json.SyntaxError](json.Unmarshal([]byte("x"), new(json.RawMessage)))
	return syntax.Offset
})

// readValue reads the value of a flag that may be @FILE, or - for standard input. The library decides what is
// too large, without regard to blanks; this bound only keeps an endless input from filling the memory.
func (c *call) readValue(value string) ([]byte, error) {
	const limit = 8 << 20
	var input io.Reader
	name, isFile := strings.CutPrefix(value, "@")
	switch {
	case value == "-":
		input = c.stdin
	case isFile:
		f, err := os.Open(name)
		if err != nil {
			return nil, err
		}
		defer f.Close()
		input = f
	default:
		input = strings.NewReader(value)
	}
	text, err := io.ReadAll(io.LimitReader(input, limit+1))
	if err != nil {
		return nil, err
	}
	if len(text) > limit {
		return nil, fmt.Errorf("more than %d MiB; want at most 1 MiB: %w; "+
			"store the data elsewhere and enqueue its place", limit>>20, pinion.ErrTooLarge)
	}
	return text, nil
}

// pointAt returns the text around a byte, and a line below that points at the byte.
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
	indent := strings.Repeat(" ", utf8.RuneCountInString(left))
	return "\t" + left + printable(string(after), "") + "\n\t" + indent + "^"
}

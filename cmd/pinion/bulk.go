package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/signal"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
	"unicode/utf8"

	"github.com/pinion-queue/pinion"
)

const (
	perBatch    = 1000    // jobs a transaction
	longestLine = 8 << 20 // bytes; a job takes fewer, but blanks do not count
)

// feed enqueues the lines of an input. What it reports is true of what was committed.
type feed struct {
	*enqueuing
	start  time.Time
	batch  []*fed
	keys   map[string]*fed // of the batch
	wanted []string        // the ids of all, for --wait

	enqueued, held, bad int
	last                int       // the last line of which all is done
	shown               time.Time // when progress was last shown; zero: there is none on the screen
}

// fed is a job and the line it is from.
type fed struct {
	line int
	job  *pinion.Job
	held bool
	same *fed // has its key, and stands in the same batch
}

// bulk is `pinion enqueue TASK -`.
func (e *enqueuing) bulk(ctx context.Context) (err error) {
	if isTerminal(e.stdin) {
		fmt.Fprintln(e.stderr, "pinion: reading jobs from the terminal, a line each; ^D ends")
	}
	reading, stop := signal.NotifyContext(ctx, os.Interrupt, syscall.SIGTERM)
	defer stop()
	// Who reads the ids may go, and what was enqueued is to be told all the same.
	pipe := make(chan os.Signal, 1)
	signal.Notify(pipe, syscall.SIGPIPE)
	defer signal.Stop(pipe)

	e.patient(false)
	f := &feed{enqueuing: e, start: time.Now(), keys: make(map[string]*fed)}
	err = f.read(reading)
	interrupted := reading.Err() != nil
	stop()
	f.clear()
	if err == nil {
		err = f.report()
	} else {
		err = f.broken(err, interrupted)
	}
	if e.wait && len(f.wanted) > 0 && (err == nil || errors.Is(err, errSaid)) {
		err = cmp.Or(e.await(ctx, true, f.wanted...), err)
	}
	return err
}

// read takes lines until there are no more. It gathers them while more are ready, and enqueues what it has when not.
func (f *feed) read(ctx context.Context) error {
	lines, failed := make(chan []line, 8), make(chan error, 1)
	// It ends with the input or, while it waits for that, with this process.
	go func() { failed <- readLines(ctx, f.stdin, lines, f.nul) }()
	for {
		var some []line
		more := true
		select {
		case some, more = <-lines:
		default:
			if !f.atomic {
				if err := f.flush(ctx); err != nil {
					return err
				}
			}
			select {
			case some, more = <-lines:
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		for _, l := range some {
			f.take(l)
			if len(f.batch) == perBatch && !f.atomic {
				if err := f.flush(ctx); err != nil {
					return err
				}
			}
		}
		if !more {
			break
		}
	}
	// What was read before an error is as good as any, but with --atomic it is not all.
	err := <-failed
	if f.atomic && (err != nil || f.bad > 0) {
		return err
	}
	return cmp.Or(f.flush(ctx), err)
}

// line is one of the input, counted from 1.
type line struct {
	number  int
	text    string
	tooLong bool // and so without its text
}

// readLines sends the lines of the input, as many at a time as it has.
func readLines(ctx context.Context, input io.Reader, lines chan<- []line, nul bool) error {
	defer close(lines)
	end := byte('\n')
	if nul {
		end = 0
	}
	var begun line // whose end has not been read
	number := 0
	for chunk := make([]byte, 256<<10); ; {
		n, err := input.Read(chunk)
		var some []line
		for rest := chunk[:n]; len(rest) > 0; {
			part, after, ended := bytes.Cut(rest, []byte{end})
			if len(begun.text)+len(part) > longestLine {
				begun.text, begun.tooLong = "", true
			} else if !begun.tooLong {
				begun.text += string(part)
			}
			begun.number = number + 1
			if ended {
				number++
				some, begun = append(some, begun), line{}
			}
			rest = after
		}
		if err != nil && begun.number > 0 {
			some = append(some, begun)
		}
		if len(some) > 0 {
			select {
			case lines <- some:
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		if err == io.EOF {
			return nil
		} else if err != nil {
			return fmt.Errorf("standard input: %w", err)
		}
	}
}

// take makes a line the next job of the batch.
func (f *feed) take(l line) {
	text := l.text
	if !f.nul {
		text = strings.TrimSuffix(text, "\r")
		if l.number == 1 {
			text = strings.TrimPrefix(text, "\uFEFF") // with which some programs begin what is UTF-8
		}
		if text == "" && !l.tooLong || !f.lines && strings.TrimSpace(text) == "" {
			return
		}
	}
	job := f.job // a copy
	job.RunAt = f.due()
	err := f.fill(&job, text)
	if l.tooLong {
		err = fmt.Errorf("longer than %d MiB", longestLine>>20)
	}
	if err == nil && job.Key != "" {
		job.Key, err = keyOf(job.Key, &job)
	}
	if err != nil {
		f.refuse(l.number, err)
		return
	}
	entry := &fed{line: l.number, job: &job}
	if job.Key != "" {
		switch entry.same = f.keys[job.Key]; {
		case entry.same == nil:
			f.keys[job.Key] = entry
		case f.atomic:
			f.refuse(l.number, fmt.Errorf("its --key %q is that of %s %d too", job.Key, f.unit(), entry.same.line))
			return
		}
	}
	f.batch = append(f.batch, entry)
}

// fill gives the job the arguments of a line, behind those of all.
func (f *feed) fill(job *pinion.Job, text string) error {
	if !utf8.ValidString(text) {
		return errors.New("not valid UTF-8")
	}
	if f.lines || f.nul {
		job.Args = append(slices.Clip(job.Args), text)
		return nil
	}
	text = strings.TrimSpace(text)
	var own pinion.Job
	switch {
	case !strings.HasPrefix(text, "[") && !strings.HasPrefix(text, "{"):
		return errors.New("neither a JSON array nor an object; --lines takes each line as a string")
	case text[0] == '[' && own.DecodeArgs(text, "{}") == nil:
	case text[0] == '{' && own.DecodeArgs("[]", text) == nil:
	default:
		var valid json.RawMessage
		err := json.Unmarshal([]byte(text), &valid)
		if syntax, ok := errors.AsType[*json.SyntaxError](err); ok {
			return fmt.Errorf("%w at byte %d", syntax, syntax.Offset)
		}
		return cmp.Or(err, errors.New("no JSON array or object"))
	}
	job.Args = append(slices.Clip(job.Args), own.Args...)
	if len(own.Kwargs) > 0 {
		all := maps.Clone(own.Kwargs)
		for name, value := range job.Kwargs {
			if _, given := all[name]; !given {
				all[name] = value
			}
		}
		job.Kwargs = all
	}
	return nil
}

// inKey is what stands for an argument in a key.
var inKey = regexp.MustCompile(`\{[^{}]+\}`)

// keyOf puts a job's arguments into its key: strings as they are, others as JSON.
func keyOf(template string, job *pinion.Job) (key string, err error) {
	key = inKey.ReplaceAllStringFunc(template, func(s string) string {
		name := s[1 : len(s)-1]
		value, ok := job.Kwargs[name]
		if n, notNumber := strconv.Atoi(name); notNumber == nil && n >= 0 && n < len(job.Args) {
			value, ok = job.Args[n], true
		}
		if !ok {
			err = fmt.Errorf("no argument %s for its --key", s)
		}
		return textOf(value)
	})
	return key, err
}

// textOf is a value of an argument: a string as it is, or JSON.
func textOf(value any) string {
	if s, ok := value.(string); ok {
		return s
	}
	raw, _ := value.(json.RawMessage)
	var s string
	if json.Unmarshal(raw, &s) == nil && bytes.HasPrefix(raw, []byte(`"`)) {
		return s
	}
	return string(raw)
}

// refuse reports a bad line.
func (f *feed) refuse(number int, err error) {
	f.clear()
	f.bad++
	fmt.Fprintf(f.stderr, "pinion: %s %d: %s\n", f.unit(), number, printable(strings.TrimPrefix(err.Error(), "pinion: "), ""))
}

// unit is what there is one of for each job.
func (f *feed) unit() string {
	if f.nul {
		return "item"
	}
	return "line"
}

// flush enqueues the batch and prints what is asked for.
func (f *feed) flush(ctx context.Context) error {
	if len(f.batch) == 0 {
		return nil
	}
	var own []*fed
	for _, entry := range f.batch {
		if entry.same == nil {
			own = append(own, entry)
		}
	}
	err := f.store(ctx, own)
	for _, entry := range f.batch {
		switch first := entry.same; {
		case first == nil:
		case first.job.ID != "":
			entry.job.ID, entry.held = first.job.ID, true
			f.held++
		case err == nil:
			f.refuse(entry.line, fmt.Errorf("it has the --key of %s %d, which is bad", f.unit(), first.line))
		}
		err = cmp.Or(err, f.print(entry))
	}
	clear(f.keys)
	f.batch = f.batch[:0]
	if err != nil {
		return err
	}
	f.progress()
	if err := f.stdout.Flush(); err != nil {
		return fmt.Errorf("the ids could not be written: %w", err)
	}
	return nil
}

// store enqueues jobs, but for those that are bad or whose key is held, of which Enqueue names the first. Where many
// keys are held it takes fewer at a time, as each held one is an attempt in vain.
func (f *feed) store(ctx context.Context, entries []*fed) error {
	size := len(entries)
	for len(entries) > 0 {
		some := entries[:min(size, len(entries))]
		jobs := make([]*pinion.Job, len(some))
		for i, entry := range some {
			jobs[i] = entry.job
		}
		f.patient(!f.atomic) // which may well take long by itself
		err := f.storage.Enqueue(ctx, jobs...)
		f.patient(false)
		held, duplicate := errors.AsType[*pinion.DuplicateError](err)
		switch {
		case err == nil:
			f.enqueued, f.last = f.enqueued+len(some), some[len(some)-1].line
			entries, size = entries[len(some):], 2*size
		case errors.Is(err, pinion.ErrBadArgs), errors.Is(err, pinion.ErrTooLarge):
			good := slices.DeleteFunc(slices.Clone(entries), func(entry *fed) bool {
				_, _, err := entry.job.EncodeArgs()
				if err != nil {
					f.refuse(entry.line, err)
				}
				return err != nil
			})
			if len(good) == len(entries) {
				return err
			}
			if f.atomic {
				return nil
			}
			entries = good
		case duplicate && held.Key != "":
			at := slices.IndexFunc(some, func(entry *fed) bool { return entry.job.Key == held.Key })
			if at < 0 {
				return err
			}
			if f.atomic {
				return fmt.Errorf("%s %d: the unfinished job %s holds the key %q, and --atomic wants all or none; "+
					"leave it out, or wait for that job", f.unit(), some[at].line, held.ID, held.Key)
			}
			// Those before it were not in the way.
			if err := f.store(ctx, some[:at]); err != nil {
				return err
			}
			some[at].job.ID, some[at].held = held.ID, true
			f.held, f.last = f.held+1, some[at].line
			entries, size = entries[at+1:], max(size/8, 1)
		default:
			return err
		}
	}
	return nil
}

// print prints the id of an entry that is in the queue.
func (f *feed) print(entry *fed) error {
	switch {
	case entry.job.ID == "": // a bad one
		return nil
	case f.wait:
		f.wanted = append(f.wanted, entry.job.ID)
		return nil
	case f.json:
		return f.encode(struct {
			Line int    `json:"line"`
			ID   string `json:"id"`
			Held bool   `json:"held,omitempty"`
		}{entry.line, entry.job.ID, entry.held})
	case f.ids:
		fmt.Fprintln(f.stdout, entry.job.ID)
	}
	return nil
}

// progress says on a terminal how far it is, a few times a second.
func (f *feed) progress() {
	if time.Since(f.shown) < time.Second/10 || !isTerminal(f.stderr) {
		return
	}
	f.shown = time.Now()
	fmt.Fprintf(f.stderr, "\r%s enqueued, %s/s\x1b[K", thousands(f.enqueued), thousands(int(float64(f.enqueued)/time.Since(f.start).Seconds())))
}

// clear takes the progress off the screen.
func (f *feed) clear() {
	if !f.shown.IsZero() {
		fmt.Fprint(f.stderr, "\r\x1b[K")
		f.shown = time.Time{}
	}
}

// report says what was done once all lines were read.
func (f *feed) report() error {
	if f.bad > 0 && f.atomic {
		return fmt.Errorf("nothing was enqueued, as %s bad; mend them, or leave --atomic out to enqueue the others", are(f.bad, f.unit()))
	}
	out := io.Writer(f.stdout)
	if f.ids || f.json || f.wait {
		out = f.stderr
	}
	fmt.Fprintf(out, "enqueued %s in %.1fs", plural(f.enqueued, "job"), time.Since(f.start).Seconds())
	if f.held > 0 {
		fmt.Fprintf(out, "; nothing added for %s: unfinished jobs hold their keys", plural(f.held, f.unit()))
	}
	fmt.Fprintln(out)
	if f.bad > 0 {
		f.stdout.Flush()
		if f.enqueued+f.held == 0 {
			fmt.Fprintf(f.stderr, "pinion: %s bad; `pinion help enqueue` tells what a line can be\n", are(f.bad, f.unit()))
			return errSaid
		}
		fmt.Fprintf(f.stderr, "pinion: %s bad and not enqueued; the rest is in the queue, so mend and enqueue that alone\n", are(f.bad, f.unit()))
		return errSaid
	}
	return nil
}

// broken says what was done when not all lines were.
func (f *feed) broken(err error, interrupted bool) error {
	if interrupted {
		err = errors.New("interrupted")
	}
	if f.atomic {
		return fmt.Errorf("%w; nothing was enqueued", err)
	}
	if f.enqueued == 0 && f.last == 0 {
		return fmt.Errorf("%w; nothing was enqueued: it can be done again", err)
	}
	rest := ""
	if !f.nul {
		rest = fmt.Sprintf(", which `tail -n +%d` gives", f.last+1)
	}
	return fmt.Errorf("%w; %s enqueued, from %ss up to %d, and none from those behind%s", err, are(f.enqueued, "job"), f.unit(), f.last, rest)
}

// plural is "1 job" or "1,234 jobs".
func plural(n int, what string) string {
	if n != 1 {
		what += "s"
	}
	return thousands(n) + " " + what
}

// are is plural and the verb.
func are(n int, what string) string {
	if n == 1 {
		return plural(n, what) + " is"
	}
	return plural(n, what) + " are"
}

// thousands writes 1234567 as 1,234,567.
func thousands(n int) string {
	s := strconv.Itoa(n)
	for i := len(s) - 3; i > 0 && s[i-1] != '-'; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}

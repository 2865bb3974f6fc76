package cli

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/pinion-queue/pinion"
)

const (
	batchSize   = 1000    // jobs in a transaction
	longestLine = 8 << 20 // bytes; a job takes fewer, but blanks do not count
)

// feed enqueues a job for each line of standard input. It counts only jobs that have been committed.
type feed struct {
	*enqueueCall
	start  time.Time
	batch  []*entry
	keys   map[string]*entry // the first entry of the batch with each key
	wanted []string          // the ids of all jobs, for --wait

	enqueued, held, bad int
	lastLine            int       // everything up to this line is done
	progressAt          time.Time // when progress was last shown; zero if none is on the screen
}

// entry is a job and the line it comes from.
type entry struct {
	line  int
	job   *pinion.Job
	held  bool   // its key was held, and job.ID is that of the holder
	first *entry // an earlier entry of the same batch with its key, or nil
}

// enqueueLines is `pinion enqueue TASK -`.
func (e *enqueueCall) enqueueLines(ctx context.Context) error {
	if isTerminal(e.stdin) {
		fmt.Fprintln(e.stderr, "pinion: reading jobs from the terminal, one a line; ^D ends")
	}
	e.stopSlowNotice()
	f := &feed{enqueueCall: e, start: time.Now(), keys: make(map[string]*entry)}
	err := f.read(ctx)
	f.clearProgress()
	if err != nil {
		return f.incomplete(signalOr(ctx, err))
	}
	err = f.report()
	if e.wait && len(f.wanted) > 0 && (err == nil || errors.Is(err, errReported)) {
		waitErr := e.waitForEnqueued(ctx, true, f.wanted...)
		if waitErr != nil {
			return waitErr
		}
	}
	return err
}

// read takes lines until the input ends. It collects them while more are ready, and enqueues what it has when
// the input pauses.
func (f *feed) read(ctx context.Context) error {
	lines := make(chan []line, 8)
	readErr := make(chan error, 1)
	// The reader ends with the input or, if it waits for input when ctx ends, with the process.
	go func() { readErr <- readLines(ctx, f.stdin, lines, f.nul) }()
	for {
		some, more, err := f.nextLines(ctx, lines)
		if err != nil {
			return err
		}
		if !more {
			break
		}
		for _, l := range some {
			f.add(l)
			if len(f.batch) == batchSize && !f.atomic {
				if err := f.flush(ctx); err != nil {
					return err
				}
			}
		}
	}
	// Lines before a read error are as good as any, but with --atomic they are not all.
	err := <-readErr
	if f.atomic && (err != nil || f.bad > 0) {
		return err
	}
	if err := f.flush(ctx); err != nil {
		return err
	}
	return err
}

// nextLines returns lines of the input, or more = false at its end. Before it waits, it enqueues the batch.
func (f *feed) nextLines(ctx context.Context, lines <-chan []line) (some []line, more bool, err error) {
	select {
	case some, more = <-lines:
		return some, more, nil
	default:
	}
	if !f.atomic {
		if err := f.flush(ctx); err != nil {
			return nil, false, err
		}
	}
	select {
	case some, more = <-lines:
		return some, more, nil
	case <-ctx.Done():
		return nil, false, ctx.Err()
	}
}

// line is a line of the input.
type line struct {
	number  int // from 1
	text    string
	tooLong bool // then there is no text
}

// readLines sends the lines of the input, as many at a time as are there, and closes the channel at the end.
func readLines(ctx context.Context, input io.Reader, lines chan<- []line, nul bool) error {
	defer close(lines)
	end := byte('\n')
	if nul {
		end = 0
	}
	var begun line // its end has not been read; number 0 if there is none
	number := 0
	chunk := make([]byte, 256<<10)
	for {
		n, err := input.Read(chunk)
		var some []line
		rest := chunk[:n]
		for len(rest) > 0 {
			part, after, ended := bytes.Cut(rest, []byte{end})
			rest = after
			begun.number = number + 1
			if len(begun.text)+len(part) > longestLine {
				begun.text, begun.tooLong = "", true
			}
			if !begun.tooLong {
				begun.text += string(part)
			}
			if ended {
				some = append(some, begun)
				begun = line{}
				number++
			}
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
		}
		if err != nil {
			return fmt.Errorf("standard input: %w", err)
		}
	}
}

// add makes a line the next job of the batch.
func (f *feed) add(l line) {
	text := l.text
	if !f.nul {
		text = strings.TrimSuffix(text, "\r")
		if l.number == 1 {
			text = strings.TrimPrefix(text, "\uFEFF") // some programs begin UTF-8 with a byte order mark
		}
		isBlank := text == "" || !f.lines && strings.TrimSpace(text) == ""
		if isBlank && !l.tooLong {
			return
		}
	}
	if l.tooLong {
		f.refuse(l.number, fmt.Errorf("longer than %d MiB", longestLine>>20))
		return
	}
	job, err := f.jobOf(text)
	if err != nil {
		f.refuse(l.number, err)
		return
	}
	en := &entry{line: l.number, job: job}
	if job.Key != "" {
		en.first = f.keys[job.Key]
		if en.first == nil {
			f.keys[job.Key] = en
		} else if f.atomic {
			f.refuse(l.number, fmt.Errorf("%s %d has the same --key %q", f.unit(), en.first.line, job.Key))
			return
		}
	}
	f.batch = append(f.batch, en)
}

// jobOf returns the job of a line.
func (f *feed) jobOf(text string) (*pinion.Job, error) {
	job := f.job // a copy
	job.RunAt = f.dueTime()
	if err := f.addArguments(&job, text); err != nil {
		return nil, err
	}
	if job.Key != "" {
		key, err := expandKey(job.Key, &job)
		if err != nil {
			return nil, err
		}
		job.Key = key
	}
	if err := fitsTask(&job); err != nil {
		return nil, err
	}
	return &job, nil
}

// addArguments adds the arguments of a line to those that all jobs have.
func (f *feed) addArguments(job *pinion.Job, text string) error {
	isText := f.lines || f.nul
	if f.base64 {
		text = base64.StdEncoding.EncodeToString([]byte(text))
	}
	if !utf8.ValidString(text) {
		hint := ""
		if isText {
			hint = "; --base64 takes any bytes"
		}
		return fmt.Errorf("%s is not UTF-8%s", strconv.Quote(text[:min(len(text), 200)]), hint)
	}
	if isText {
		job.Args = append(slices.Clip(job.Args), text)
		return nil
	}
	text = strings.TrimSpace(text)
	var own pinion.Job
	var err error
	switch text[0] {
	case '[':
		err = own.DecodeArgs(text, "{}")
	case '{':
		err = own.DecodeArgs("[]", text)
	default:
		return errors.New("not a JSON array or object; --lines takes each line as a string")
	}
	if err != nil {
		return syntaxError(text)
	}
	job.Args = append(slices.Clip(job.Args), own.Args...)
	if len(own.Kwargs) > 0 { // a line's own arguments win over those of --kwargs
		all := maps.Clone(job.Kwargs)
		if all == nil {
			all = make(map[string]any)
		}
		maps.Copy(all, own.Kwargs)
		job.Kwargs = all
	}
	return nil
}

// syntaxError returns the error of a text that is not a JSON array or object, with the place.
func syntaxError(text string) error {
	var valid json.RawMessage
	err := json.Unmarshal([]byte(text), &valid)
	if syntax, ok := errors.AsType[*json.SyntaxError](err); ok {
		return fmt.Errorf("%w at byte %d", syntax, syntax.Offset)
	}
	if err != nil {
		return err
	}
	return errors.New("not a JSON array or object")
}

// keyArgument matches an argument in a --key.
var keyArgument = lazy(`\{[^{}]+\}`)

// expandKey puts a job's arguments into a --key: strings as they are, others as JSON.
func expandKey(template string, job *pinion.Job) (key string, err error) {
	key = keyArgument().ReplaceAllStringFunc(template, func(placeholder string) string {
		name := placeholder[1 : len(placeholder)-1]
		value, ok := job.Kwargs[name]
		n, notNumber := strconv.Atoi(name)
		if notNumber == nil && n >= 0 && n < len(job.Args) {
			value, ok = job.Args[n], true
		}
		if !ok {
			err = fmt.Errorf("no argument %s for its --key", placeholder)
		}
		return textOf(value)
	})
	return key, err
}

// textOf returns the text of an argument: a string as it is, anything else as JSON.
func textOf(value any) string {
	if s, ok := value.(string); ok {
		return s
	}
	raw, _ := value.(json.RawMessage)
	if bytes.HasPrefix(raw, []byte(`"`)) {
		var s string
		if json.Unmarshal(raw, &s) == nil {
			return s
		}
	}
	return string(raw)
}

// refuse reports a bad line.
func (f *feed) refuse(number int, err error) {
	f.clearProgress()
	f.bad++
	text := strings.TrimPrefix(err.Error(), "pinion: ")
	fmt.Fprintf(f.stderr, "pinion: %s %d: %s\n", f.unit(), number, printable(text, ""))
}

// unit returns the name of the input of one job: a line or, with -0, an item.
func (f *feed) unit() string {
	if f.nul {
		return "item"
	}
	return "line"
}

// flush enqueues the batch and prints its ids, if they are asked for.
func (f *feed) flush(ctx context.Context) error {
	if len(f.batch) == 0 {
		return nil
	}
	var firsts []*entry // of each key; the others of a key never reach the storage
	for _, en := range f.batch {
		if en.first == nil {
			firsts = append(firsts, en)
		}
	}
	err := f.store(ctx, firsts)
	for _, en := range f.batch {
		if first := en.first; first != nil {
			if first.job.ID != "" {
				en.job.ID, en.held = first.job.ID, true
				f.held++
			} else if err == nil {
				f.refuse(en.line, fmt.Errorf("has the --key of %s %d, which is bad", f.unit(), first.line))
			}
		}
		if printErr := f.printEntry(en); err == nil {
			err = printErr
		}
	}
	clear(f.keys)
	f.batch = f.batch[:0]
	if err != nil {
		return err
	}
	f.showProgress()
	if err := f.stdout.Flush(); err != nil {
		return fmt.Errorf("cannot write the ids: %w", err)
	}
	return nil
}

// store enqueues entries, but not the bad ones and those whose keys are held. Enqueue takes all jobs or none
// and names one that is in the way. So store takes fewer at a time where many keys are held, because each
// costs a failed call.
func (f *feed) store(ctx context.Context, entries []*entry) error {
	size := len(entries)
	for len(entries) > 0 {
		some := entries[:min(size, len(entries))]
		err := f.enqueueSome(ctx, some)
		if err == nil {
			f.enqueued += len(some)
			f.lastLine = some[len(some)-1].line
			entries = entries[len(some):]
			size *= 2
			continue
		}
		if errors.Is(err, pinion.ErrBadArgs) || errors.Is(err, pinion.ErrTooLarge) {
			good := f.withoutBad(entries)
			if len(good) == len(entries) {
				return err // not about one of these jobs
			}
			if f.atomic {
				return nil // report prints that nothing was enqueued
			}
			entries = good
			continue
		}
		at, holder := duplicateIn(some, err)
		if at < 0 {
			return err
		}
		if f.atomic {
			return fmt.Errorf("%s %d: the unfinished job %s holds the key %q, and --atomic wants all or none; "+
				"remove the %[1]s, or wait for that job", f.unit(), some[at].line, holder, some[at].job.Key)
		}
		if err := f.store(ctx, some[:at]); err != nil { // those before it are not in the way
			return err
		}
		some[at].job.ID, some[at].held = holder, true
		f.held++
		f.lastLine = some[at].line
		entries = entries[at+1:]
		size = max(size/8, 1)
	}
	return nil
}

// enqueueSome enqueues all of entries or none.
func (f *feed) enqueueSome(ctx context.Context, entries []*entry) error {
	jobs := make([]*pinion.Job, len(entries))
	for i, en := range entries {
		jobs[i] = en.job
	}
	if !f.atomic { // one transaction of a whole input takes long by itself
		f.startSlowNotice()
		defer f.stopSlowNotice()
	}
	return f.storage.Enqueue(ctx, jobs...)
}

// withoutBad reports the entries whose arguments no job can have and returns the others.
func (f *feed) withoutBad(entries []*entry) (good []*entry) {
	for _, en := range entries {
		if _, _, err := en.job.EncodeArgs(); err != nil {
			f.refuse(en.line, err)
			continue
		}
		good = append(good, en)
	}
	return good
}

// duplicateIn returns the index of the entry whose key err reports as held, and the id of the holder. The
// index is -1 if err reports something else.
func duplicateIn(entries []*entry, err error) (at int, holder string) {
	duplicate, ok := errors.AsType[*pinion.DuplicateError](err)
	if !ok || duplicate.Key == "" {
		return -1, ""
	}
	at = slices.IndexFunc(entries, func(en *entry) bool { return en.job.Key == duplicate.Key })
	return at, duplicate.ID
}

// printEntry prints the id of an entry that is in the queue, or keeps it for --wait.
func (f *feed) printEntry(en *entry) error {
	id := en.job.ID
	if id == "" { // it is bad
		return nil
	}
	if f.wait {
		f.wanted = append(f.wanted, id)
		return nil
	}
	if f.json {
		return f.encode(struct {
			Line int    `json:"line"`
			ID   string `json:"id"`
			Held bool   `json:"held,omitempty"`
		}{en.line, id, en.held})
	}
	if f.ids {
		fmt.Fprintln(f.stdout, id)
	}
	return nil
}

// showProgress shows on a terminal how far the feed is, at most ten times a second.
func (f *feed) showProgress() {
	if time.Since(f.progressAt) < time.Second/10 || !isTerminal(f.stderr) {
		return
	}
	f.progressAt = time.Now()
	rate := int(float64(f.enqueued) / time.Since(f.start).Seconds())
	fmt.Fprintf(f.stderr, "\r%s enqueued, %s/s\x1b[K", thousands(f.enqueued), thousands(rate))
}

// clearProgress removes the progress from the screen.
func (f *feed) clearProgress() {
	if !f.progressAt.IsZero() {
		fmt.Fprint(f.stderr, "\r\x1b[K")
		f.progressAt = time.Time{}
	}
}

// report prints how many jobs of an input that was read to its end were enqueued.
func (f *feed) report() error {
	if f.bad > 0 && f.atomic {
		return fmt.Errorf("nothing was enqueued, because %s bad; "+
			"correct them, or leave out --atomic to enqueue the others", are(f.bad, f.unit()))
	}
	out := io.Writer(f.stdout)
	if f.ids || f.json || f.wait {
		out = f.stderr
	}
	f.did("%s enqueued; do not enqueue the input again", are(f.enqueued, "job"))
	fmt.Fprintf(out, "enqueued %s in %.1fs", plural(f.enqueued, "job"), time.Since(f.start).Seconds())
	if f.held > 0 {
		fmt.Fprintf(out, "; added nothing for %s: unfinished jobs hold their keys", plural(f.held, f.unit()))
	}
	fmt.Fprintln(out)
	if f.bad == 0 {
		return nil
	}
	f.stdout.Flush()
	if f.enqueued+f.held == 0 {
		fmt.Fprintf(f.stderr, "pinion: %s bad; `pinion help enqueue` explains what a line can be\n",
			are(f.bad, f.unit()))
	} else {
		fmt.Fprintf(f.stderr, "pinion: %s bad and not enqueued; "+
			"the others are in the queue, so correct and enqueue only these\n", are(f.bad, f.unit()))
	}
	return errReported
}

// incomplete returns the error of an input that was not read to its end, with the number of jobs enqueued.
func (f *feed) incomplete(err error) error {
	if f.atomic {
		return fmt.Errorf("%w; nothing was enqueued", err)
	}
	if f.enqueued == 0 && f.lastLine == 0 {
		return fmt.Errorf("%w; nothing was enqueued, so it is safe to run it again", err)
	}
	rest := ""
	if !f.nul {
		rest = fmt.Sprintf("; `tail -n +%d` prints the rest", f.lastLine+1)
	}
	return fmt.Errorf("%w; %s enqueued, from the %ss up to %d and none after that%s",
		err, are(f.enqueued, "job"), f.unit(), f.lastLine, rest)
}

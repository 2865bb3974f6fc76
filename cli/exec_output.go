package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"unicode/utf8"

	"github.com/pinion-queue/pinion"
)

// What a job keeps of the output of its program.

const (
	resultLimit = 64 << 10 // bytes of standard output that are kept as the result
	tailLimit   = 1 << 10  // bytes of each stream that an error ends with
)

// output is what is kept of the output of one attempt.
type output struct {
	result         head
	stdout, stderr tail
	log            *attemptLog // nil: there is none
}

// toStdout returns where standard output goes.
func (o *output) toStdout() io.Writer { return io.MultiWriter(&o.result, &o.stdout, o.log) }

// toStderr returns where standard error goes.
func (o *output) toStderr() io.Writer { return io.MultiWriter(&o.stderr, o.log) }

// ending returns the last lines of both streams, as an error shows them behind the exit status. Standard output
// comes last, because the explanation of a failure is mostly on standard error.
func (o *output) ending() string {
	stdout, stderr := o.stdout.String(), o.stderr.String()
	switch {
	case stdout == "" && stderr == "":
		return ""
	case stdout == "":
		return ": " + stderr
	case stderr == "":
		return ": " + stdout
	}
	return ": " + stderr + "\n\nstandard output:\n" + stdout
}

// head keeps the beginning of the text that is written to it.
type head struct {
	text    []byte
	dropped int // bytes
}

func (h *head) Write(text []byte) (int, error) {
	kept := min(len(text), resultLimit-len(h.text))
	h.text = append(h.text, text[:kept]...)
	h.dropped += len(text) - kept
	return len(text), nil
}

// set makes the text the job's result: as JSON if it is one value, else as a string without the last line
// end. A text that was cut off says so in its last line.
func (h *head) set(ctx context.Context) error {
	if h.dropped > 0 {
		text := strings.ToValidUTF8(string(trimPartialRune(h.text)), "\uFFFD")
		return pinion.SetResult(ctx, text+fmt.Sprintf(cutMark, len(h.text), len(h.text)+h.dropped))
	}
	clean := strings.TrimRight(strings.ToValidUTF8(string(h.text), "\uFFFD"), "\r\n")
	if clean == "" {
		return nil
	}
	if json.Valid([]byte(clean)) {
		return pinion.SetResult(ctx, json.RawMessage(clean))
	}
	return pinion.SetResult(ctx, clean)
}

// cutMark is the last line of a result that was cut off. Whatever shows the result shows it.
const cutMark = "\n[pinion: cut off after %d of %d bytes]"

var cutPattern = lazy(`\n\[pinion: cut off after \d+ of \d+ bytes\]$`)

// wasCut reports whether a result was cut off.
func wasCut(result json.RawMessage) bool { return cutPattern().MatchString(textOf(result)) }

// trimPartialRune removes the first bytes of a character that was cut off at the end of text.
func trimPartialRune(text []byte) []byte {
	for range utf8.UTFMax - 1 {
		r, size := utf8.DecodeLastRune(text)
		if r != utf8.RuneError || size != 1 {
			break
		}
		text = text[:len(text)-1]
	}
	return text
}

// tail keeps the end of the text that is written to it.
type tail struct {
	text    []byte
	limit   int // bytes; 0: tailLimit
	dropped int // bytes before the text
}

func (t *tail) Write(text []byte) (int, error) {
	t.text = append(t.text, text...)
	if len(t.text) > 2*t.most() { // seldom, because it moves the text
		t.trim()
	}
	return len(text), nil
}

func (t *tail) most() int {
	if t.limit == 0 {
		return tailLimit
	}
	return t.limit
}

// trim drops what is too much.
func (t *tail) trim() {
	excess := max(0, len(t.text)-t.most())
	t.text = append(t.text[:0], t.text[excess:]...)
	t.dropped += excess
}

// lastLine returns the last line that is not empty.
func (t *tail) lastLine() string {
	text := strings.TrimSpace(string(t.text))
	return strings.TrimSpace(text[strings.LastIndexByte(text, '\n')+1:])
}

// String returns the last lines that are not empty, as a terminal would show them: of a line that a progress
// bar has written many times, it is the last state.
func (t *tail) String() string {
	t.trim()
	text := strings.TrimSpace(strings.ToValidUTF8(string(t.text), "\uFFFD"))
	if t.dropped > 0 {
		_, whole, hasMore := strings.Cut(text, "\n") // the first line may not be whole
		if hasMore {
			text = whole
		}
	}
	var lines []string
	for line := range strings.Lines(text) {
		line = strings.TrimRight(line, "\r\n")
		line = line[strings.LastIndexByte(line, '\r')+1:]
		if line != "" {
			lines = append(lines, line)
		}
	}
	return strings.Join(lines, "\n")
}

package cli

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"regexp"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"
	"unicode/utf16"
	"unicode/utf8"

	"github.com/pinion-queue/pinion"
)

// How the commands print text, numbers and times. Tables are in table.go.

// encode prints v as one line of JSON. It escapes all characters that a terminal might obey; encoding/json
// leaves some of them as they are.
func (c *call) encode(v any) error {
	var text strings.Builder
	enc := json.NewEncoder(&text)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return err
	}
	_, err := c.stdout.WriteString(escapeJSON(readableJSON(text.String())))
	return err
}

// jsonEscape matches an escape in JSON. Only strings have backslashes.
var jsonEscape = regexp.MustCompile(`\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|\\u[0-9a-fA-F]{4}|\\.`)

// readableJSON replaces the escapes of characters that can be printed by the characters. Python escapes all that
// are not ASCII.
func readableJSON(text string) string {
	return jsonEscape.ReplaceAllStringFunc(text, func(escape string) string {
		var s string
		err := json.Unmarshal([]byte(`"`+escape+`"`), &s)
		r, _ := utf8.DecodeRuneInString(s)
		if err != nil || r < 0x80 || r == utf8.RuneError || !strconv.IsPrint(r) {
			return escape
		}
		return s
	})
}

// escapeJSON escapes, in lines of JSON, all characters that a terminal might obey.
func escapeJSON(text string) string {
	var b strings.Builder
	for _, r := range text {
		if r == '\n' || strconv.IsPrint(r) {
			b.WriteRune(r)
			continue
		}
		for _, unit := range utf16.Encode([]rune{r}) {
			fmt.Fprintf(&b, `\u%04x`, unit)
		}
	}
	return b.String()
}

// jsonEscaper is a writer of lines of JSON that escapes as encode does.
type jsonEscaper struct{ to io.Writer }

func (e jsonEscaper) Write(line []byte) (int, error) {
	if _, err := io.WriteString(e.to, escapeJSON(string(line))); err != nil {
		return 0, err
	}
	return len(line), nil
}

// tabbed returns a writer that aligns cells separated by tabs.
func (c *call) tabbed() *tabwriter.Writer { return tabwriter.NewWriter(c.stdout, 0, 0, 2, ' ', 0) }

// row prints cells for a tabbed writer. Their text may be anything.
func row(w io.Writer, cells ...string) {
	for i, cell := range cells {
		if i > 0 {
			io.WriteString(w, "\t")
		}
		io.WriteString(w, printable(cmp.Or(cell, "-"), ""))
	}
	io.WriteString(w, "\n")
}

// printable escapes, as in Go source, every character that a terminal might obey instead of showing it,
// except those in keep.
func printable(s, keep string) string {
	var b strings.Builder
	for len(s) > 0 {
		r, size := utf8.DecodeRuneInString(s)
		isInvalid := r == utf8.RuneError && size == 1
		if !isInvalid && (strconv.IsPrint(r) || strings.ContainsRune(keep, r)) {
			b.WriteString(s[:size])
		} else {
			quoted := strconv.Quote(s[:size])
			b.WriteString(quoted[1 : len(quoted)-1])
		}
		s = s[size:]
	}
	return b.String()
}

// clip shortens s to n characters.
func clip(s string, n int) string {
	if runes := []rune(s); len(runes) > n {
		return string(runes[:n-1]) + "…"
	}
	return s
}

// brief returns an error's text in one line: its first line and, if there are several, its last, which may be
// the one that explains it. Each is clipped to limit characters. Text after an empty line, such as the
// stack of a panic, is left out.
func brief(text string, limit int) string {
	text, _, _ = strings.Cut(text, "\n\n")
	lines := strings.Split(strings.TrimSpace(text), "\n")
	if len(lines) == 1 {
		return text
	}
	return clip(lines[0], limit) + " … " + clip(strings.TrimSpace(lines[len(lines)-1]), limit)
}

// brief returns an error for a table: on a terminal in brief, elsewhere whole.
func (c *call) brief(text string) string {
	if c.screen == nil {
		return text
	}
	return brief(text, 200)
}

// arguments returns the arguments of a job as JSON: the array, the object, or both.
func arguments(job *pinion.Job) string {
	var buf bytes.Buffer
	enc := json.NewEncoder(&buf)
	enc.SetEscapeHTML(false)
	var err error
	if len(job.Args) > 0 {
		err = enc.Encode(job.Args)
	}
	if len(job.Kwargs) > 0 && err == nil {
		err = enc.Encode(job.Kwargs)
	}
	if err != nil {
		return err.Error()
	}
	return readableJSON(strings.ReplaceAll(strings.TrimSpace(buf.String()), "\n", " "))
}

// timestamp returns a time and how long ago it was; "" for the zero time.
func timestamp(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return localTime(t) + "  " + ago(t)
}

// localTime returns a time on the local clock, with its offset from UTC.
func localTime(t time.Time) string { return t.Local().Format("2006-01-02T15:04:05.999999999-07:00") }

// ago returns how long ago a time was, in its largest unit; "" for the zero time.
func ago(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	d := time.Since(t)
	if d < 0 {
		return "in " + rough(-max(d, -math.MaxInt64)) // there is no -math.MinInt64
	}
	return rough(d) + " ago"
}

// rough returns a duration in its largest unit.
func rough(d time.Duration) string {
	switch {
	case d < time.Minute:
		return fmt.Sprintf("%ds", d/time.Second)
	case d < time.Hour:
		return fmt.Sprintf("%dm", d/time.Minute)
	case d < 48*time.Hour:
		return fmt.Sprintf("%dh", d/time.Hour)
	}
	return fmt.Sprintf("%dd", d/(24*time.Hour))
}

// perSecond returns a rate in about three digits.
func perSecond(rate float64) string {
	switch {
	case rate == 0:
		return "0"
	case rate < 1:
		return fmt.Sprintf("%.2f", rate)
	case rate < 100:
		return fmt.Sprintf("%.1f", rate)
	}
	return fmt.Sprintf("%.0f", rate)
}

// byteSize returns a number of bytes in a readable unit.
func byteSize(n int64) string {
	switch {
	case n < 10_000:
		return fmt.Sprintf("%d bytes", n)
	case n < 10_000_000:
		return fmt.Sprintf("%d kB", n/1000)
	case n < 10_000_000_000:
		return fmt.Sprintf("%d MB", n/1_000_000)
	}
	return fmt.Sprintf("%d GB", n/1_000_000_000)
}

// plural returns "1 job" or "1,234 jobs".
func plural(n int, noun string) string {
	if n != 1 {
		noun += "s"
	}
	return thousands(n) + " " + noun
}

// are returns plural with the verb: "1 job is" or "1,234 jobs are".
func are(n int, noun string) string {
	if n == 1 {
		return plural(n, noun) + " is"
	}
	return plural(n, noun) + " are"
}

// thousands writes 1234567 as 1,234,567.
func thousands(n int) string {
	s := strconv.Itoa(n)
	for i := len(s) - 3; i > 0 && s[i-1] != '-'; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}

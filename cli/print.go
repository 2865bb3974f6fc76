package cli

import (
	"bytes"
	"cmp"
	"encoding/json"
	"io"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"
	"unicode/utf8"

	"github.com/pinion-queue/pinion"
	"github.com/pinion-queue/pinion/internal/words"
)

// How the commands print text, numbers and times. Tables are in table.go. What the page of the package web writes in
// the same way is in the package words.
var (
	printable = words.Printable
	clip      = words.Clip
	brief     = words.Brief
	ago       = words.Ago
	rough     = words.Rough
	perSecond = words.PerSecond
	byteSize  = words.ByteSize
	plural    = words.Plural
	are       = words.Are
	thousands = words.Thousands
	firstFew  = words.FirstFew
)

// encode prints v as one line of JSON. It escapes all characters that a terminal might obey; encoding/json
// leaves some of them as they are.
func (c *call) encode(v any) error {
	var text strings.Builder
	enc := json.NewEncoder(&text)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return err
	}
	_, err := c.stdout.WriteString(words.PrintableJSON(readableJSON(text.String())))
	return err
}

// jsonEscape matches an escape in JSON. Only strings have backslashes.
var jsonEscape = lazy(`\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|\\u[0-9a-fA-F]{4}|\\.`)

// readableJSON replaces the escapes of characters that can be printed by the characters. Python escapes all that
// are not ASCII.
func readableJSON(text string) string {
	return jsonEscape().ReplaceAllStringFunc(text, func(escape string) string {
		var s string
		err := json.Unmarshal([]byte(`"`+escape+`"`), &s)
		r, _ := utf8.DecodeRuneInString(s)
		if err != nil || r < 0x80 || r == utf8.RuneError || !strconv.IsPrint(r) {
			return escape
		}
		return s
	})
}

// jsonEscaper is a writer of lines of JSON that escapes as encode does.
type jsonEscaper struct{ to io.Writer }

func (e jsonEscaper) Write(line []byte) (int, error) {
	if _, err := io.WriteString(e.to, words.PrintableJSON(string(line))); err != nil {
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
func localTime(t time.Time) string { return t.Local().Format("2006-01-02T15:04:05.999999-07:00") }

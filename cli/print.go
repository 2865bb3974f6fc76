package cli

import (
	"bytes"
	"cmp"
	"encoding/json"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/pinion-queue/pinion"
	"github.com/pinion-queue/pinion/internal/words"
)

// How the commands print text, numbers and times. Tables are in table.go. What the page of the package web writes in the
// same way is in the package words.
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
	_, err := io.WriteString(c.stdout, words.PrintableJSON(text.String()))
	return err
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
	return strings.ReplaceAll(strings.TrimSpace(buf.String()), "\n", " ")
}

// timestamp returns a time and how long ago it was; "" for the zero time.
func timestamp(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.Local().Format(time.RFC3339Nano) + "  " + ago(t)
}

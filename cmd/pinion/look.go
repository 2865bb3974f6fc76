package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"
	"unicode/utf16"
	"unicode/utf8"

	"github.com/pinion-queue/pinion"
)

func status(c *call) func(context.Context) error {
	c.storageFlags()
	c.jsonFlag()
	return func(ctx context.Context) error {
		return c.inspect(ctx, reads, func(storage pinion.Inspector) error {
			stats, err := storage.Stats(ctx)
			if err != nil {
				return err
			}
			if c.json {
				return c.encode(stats)
			}
			w := c.table()
			row(w, "QUEUE", "PENDING", "RUNNING", "SUCCESS", "FAILED", "OLDEST PENDING")
			line := func(q pinion.QueueStats) {
				row(w, q.Queue, strconv.Itoa(q.Pending), strconv.Itoa(q.Running), strconv.Itoa(q.Success),
					strconv.Itoa(q.Failed), ago(q.Oldest))
			}
			total := pinion.QueueStats{Queue: "total"}
			for _, q := range stats.Queues {
				line(q)
				total.Pending += q.Pending
				total.Running += q.Running
				total.Success += q.Success
				total.Failed += q.Failed
				if total.Oldest.IsZero() || !q.Oldest.IsZero() && q.Oldest.Before(total.Oldest) {
					total.Oldest = q.Oldest
				}
			}
			if len(stats.Queues) != 1 {
				line(total)
			}
			if err := w.Flush(); err != nil {
				return err
			}
			fmt.Fprintf(c.stdout, "\ndead letters: %d\n", stats.DeadLetters)
			return nil
		})
	}
}

func running(c *call) func(context.Context) error {
	filter := c.filterFlags()
	c.flags.StringVar(&filter.Queue, "queue", "", "only jobs of the queue `NAME`")
	c.jsonFlag()
	return func(ctx context.Context) error {
		filter.Status = pinion.StatusRunning
		return c.inspect(ctx, reads, func(storage pinion.Inspector) error {
			header := []string{"ID", "TASK", "QUEUE", "ADDED", "ATTEMPT", "HEARTBEAT", "ARGUMENTS"}
			return c.jobs(storage.Jobs(ctx, *filter), header, func(job *pinion.Job) []string {
				return []string{job.ID, job.Task, job.Queue, ago(job.CreatedAt), strconv.Itoa(job.Attempts),
					ago(job.HeartbeatAt), clip(arguments(job), 60)}
			})
		})
	}
}

func pending(c *call) func(context.Context) error {
	filter := c.filterFlags()
	c.flags.StringVar(&filter.Queue, "queue", "", "only jobs of the queue `NAME`")
	c.jsonFlag()
	return func(ctx context.Context) error {
		filter.Status = pinion.StatusPending
		return c.inspect(ctx, reads, func(storage pinion.Inspector) error {
			header := []string{"ID", "TASK", "QUEUE", "PRIORITY", "ADDED", "ATTEMPTS", "DUE", "ARGUMENTS"}
			return c.jobs(storage.Jobs(ctx, *filter), header, func(job *pinion.Job) []string {
				due := "now"
				if job.RunAt.After(time.Now()) {
					due = ago(job.RunAt)
				}
				return []string{job.ID, job.Task, job.Queue, strconv.Itoa(job.Priority), ago(job.CreatedAt),
					strconv.Itoa(job.Attempts), due, clip(arguments(job), 60)}
			})
		})
	}
}

func show(c *call) func(context.Context) error {
	c.storageFlags()
	c.jsonFlag()
	return func(ctx context.Context) error {
		return c.inspect(ctx, reads, func(storage pinion.Inspector) error {
			id := c.operands[0]
			job, err := storage.Get(ctx, id)
			if errors.Is(err, pinion.ErrNotFound) { // but a Python process may have left its dead letter
				for letter, failed := range storage.DeadLetters(ctx, pinion.Filter{IDs: []string{id}}) {
					job, err = letter, failed
				}
			}
			if err != nil {
				return err
			}
			if c.json {
				return c.encode(job)
			}
			w := c.table()
			row(w, "id", job.ID)
			row(w, "task", job.Task)
			row(w, "arguments", arguments(job))
			row(w, "queue", job.Queue)
			row(w, "priority", strconv.Itoa(job.Priority))
			row(w, "key", job.Key)
			row(w, "status", string(job.Status))
			row(w, "attempts", strconv.Itoa(job.Attempts))
			row(w, "added", moment(job.CreatedAt))
			row(w, "due", moment(job.RunAt))
			row(w, "heartbeat", moment(job.HeartbeatAt))
			row(w, "finished", moment(job.FinishedAt))
			row(w, "result", string(job.Result))
			name := "error"
			for line := range strings.Lines(cmp.Or(job.Error, "-")) { // a panic's error has lines, of its stack
				fmt.Fprintf(w, "%s\t%s\n", name, printable(strings.ReplaceAll(strings.TrimSuffix(line, "\n"), "\t", "  "), ""))
				name = ""
			}
			return w.Flush()
		})
	}
}

func (c *call) jsonFlag() {
	c.flags.BoolVar(&c.json, "json", false, "print JSON, one object a line")
}

// filterFlags declares what narrows a choice of jobs.
func (c *call) filterFlags() *pinion.Filter {
	filter := new(pinion.Filter)
	c.storageFlags()
	c.flags.StringVar(&filter.Task, "task", "", "only jobs of the task `NAME`")
	c.count(&filter.Limit, "limit", 0, "at most `N` jobs, the oldest; 0 is no limit [0]")
	return filter
}

// jobs prints a row for each job, or its JSON.
func (c *call) jobs(jobs iter.Seq2[*pinion.Job, error], header []string, cells func(*pinion.Job) []string) error {
	w := c.table()
	n := 0
	for job, err := range jobs {
		if err != nil {
			return errors.Join(w.Flush(), err)
		}
		if c.json {
			if err := c.encode(job); err != nil {
				return err
			}
			continue
		}
		if n == 0 {
			row(w, header...)
		}
		row(w, cells(job)...)
		if n++; n%1000 == 0 { // until then it is kept in memory
			if err := w.Flush(); err != nil {
				return err
			}
		}
	}
	if n == 0 && !c.json {
		fmt.Fprintln(c.stderr, "pinion: there are none")
	}
	return w.Flush()
}

// encode prints v as one line of JSON, in which what a terminal might obey is escaped: JSON itself lets some of it be.
func (c *call) encode(v any) error {
	var text strings.Builder
	enc := json.NewEncoder(&text)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return err
	}
	for _, r := range text.String() {
		if r != '\n' && !strconv.IsPrint(r) {
			for _, unit := range utf16.Encode([]rune{r}) {
				fmt.Fprintf(c.stdout, `\u%04x`, unit)
			}
			continue
		}
		fmt.Fprint(c.stdout, string(r))
	}
	return nil
}

// table aligns cells that tabs separate.
func (c *call) table() *tabwriter.Writer { return tabwriter.NewWriter(c.stdout, 0, 0, 2, ' ', 0) }

// row prints cells, which may hold anything.
func row(w io.Writer, cells ...string) {
	for i, cell := range cells {
		if i > 0 {
			io.WriteString(w, "\t")
		}
		io.WriteString(w, printable(cmp.Or(cell, "-"), ""))
	}
	io.WriteString(w, "\n")
}

// printable escapes, as in Go source, what a terminal might obey instead of showing it, but for the characters keep.
func printable(s, keep string) string {
	var b strings.Builder
	for len(s) > 0 {
		r, size := utf8.DecodeRuneInString(s)
		if invalid := r == utf8.RuneError && size == 1; !invalid && (strconv.IsPrint(r) || strings.ContainsRune(keep, r)) {
			b.WriteString(s[:size])
		} else {
			quoted := strconv.Quote(s[:size])
			b.WriteString(quoted[1 : len(quoted)-1])
		}
		s = s[size:]
	}
	return b.String()
}

// arguments shows what a job was given: the array, the object, or both.
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

// clip shortens s to n characters.
func clip(s string, n int) string {
	if runes := []rune(s); len(runes) > n {
		return string(runes[:n-1]) + "…"
	}
	return s
}

func moment(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.Local().Format(time.RFC3339Nano) + "  " + ago(t)
}

// ago tells a time as people do, in its largest unit; the zero time is empty.
func ago(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	d := time.Since(t)
	var text string
	switch long := d.Abs(); {
	case long < time.Minute:
		text = fmt.Sprintf("%ds", long/time.Second)
	case long < time.Hour:
		text = fmt.Sprintf("%dm", long/time.Minute)
	case long < 48*time.Hour:
		text = fmt.Sprintf("%dh", long/time.Hour)
	default:
		text = fmt.Sprintf("%dd", long/(24*time.Hour))
	}
	if d < 0 {
		return "in " + text
	}
	return text + " ago"
}

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
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"
	"unicode/utf16"
	"unicode/utf8"

	"github.com/pinion-queue/pinion"
)

const statusDetail = `
OLDEST tells when the oldest pending job was added, JOBS/S how fast jobs finished
in the last minute, 1H DONE and 1H FAIL how many did in the last hour. SUCCESS and
FAILED are all finished jobs that are still there: workers keep them for a day.
It looks at every job, which takes a second or two for each million, and nobody
waits for it.

--watch is a live screen, with the jobs of each of the last 60 seconds and the
slowest of those that run; where standard output is no terminal it is a line each
time. A big queue is looked at less often.
`

const statusExamples = `pinion status --db q.db
pinion status --watch --db q.db
pinion status --json --db q.db | jq .total.pending`

func status(c *call) func(context.Context) error {
	c.storageFlags()
	c.jsonFlag()
	watch := c.flags.Bool("watch", false, "go on showing it until ^C")
	interval := time.Duration(-1)
	c.duration(&interval, "interval", "with --watch, each `TIME` [1s]")
	return func(ctx context.Context) error {
		switch {
		case interval >= 0 && !*watch:
			return usagef("--interval is for --watch; add that, as in: pinion status --watch --interval 5")
		case interval < 0:
			interval = time.Second
		}
		return c.inspect(ctx, reads, func(storage pinion.Inspector) error {
			if *watch {
				return c.watch(ctx, storage, interval)
			}
			stats, err := storage.Stats(ctx)
			if err != nil {
				return err
			}
			if c.json {
				return c.encodeStats(stats)
			}
			for _, line := range c.statusLines(&stats, 0) {
				fmt.Fprintln(c.stdout, line)
			}
			return nil
		})
	}
}

// encodeStats prints lists as such, even if they are empty, so that jq .queues[] goes through none.
func (c *call) encodeStats(stats pinion.Stats) error {
	stats.Queues = append([]pinion.QueueStats{}, stats.Queues...)
	stats.Tasks = append([]pinion.TaskStats{}, stats.Tasks...)
	return c.encode(stats)
}

// counted are the counts of a queue or a task.
type counted struct {
	name string
	pinion.Counts
}

// busy is by what those come first that are shown where there is not room for all.
func (c counted) busy() int { return c.Pending + c.Running + c.Minute }

// statusLines are the tables by queue and by task, of at most so many rows each if most is not 0, and what is in all.
func (c *call) statusLines(stats *pinion.Stats, most int) (lines []string) {
	var queues, tasks []counted
	for _, q := range stats.Queues {
		queues = append(queues, counted{q.Queue, q.Counts})
	}
	for _, t := range stats.Tasks {
		tasks = append(tasks, counted{t.Task, t.Counts})
	}
	for i, kind := range [][]counted{queues, tasks} {
		if i == 1 && len(tasks) == 0 {
			break // an empty queue has its one table
		}
		left := 0
		if n := len(kind); most > 0 && n > most+1 { // one alone has room where it would be counted
			slices.SortStableFunc(kind, func(a, b counted) int { return cmp.Compare(b.busy(), a.busy()) })
			kind, left = kind[:most], n-most
		}
		g := c.grid()
		g.numbers = true
		g.add([]string{"QUEUE", "TASK"}[i], "PENDING", "OLDEST", "RUNNING", "JOBS/S", "1H DONE", "1H FAIL", "SUCCESS", "FAILED")
		for _, k := range kind {
			g.addCounts(clip(k.name, 60), k.Counts)
		}
		if i == 0 && len(queues) != 1 {
			g.addCounts("total", stats.Total)
		}
		if i == 1 {
			lines = append(lines, "")
		}
		table := g.lines()
		if left > 0 { // in no column, which might be narrower
			table = slices.Insert(table, 1+len(kind), cut(fmt.Sprintf("and %d more", left), cmp.Or(g.width, 80)))
		}
		lines = append(lines, table...)
	}
	style := ""
	if stats.DeadLetters > 0 {
		style = red
	}
	return append(lines, "", styled(fmt.Sprintf("dead letters: %d", stats.DeadLetters), style, c.colours()))
}

func (g *grid) addCounts(name string, counts pinion.Counts) {
	number := func(n int, style string) cell {
		if n == 0 {
			style = ""
		}
		return cell{thousands(n), style}
	}
	g.addCells(cell{clip(name, 60), ""}, number(counts.Pending, ""), cell{ago(counts.Oldest), ""}, number(counts.Running, green),
		cell{perSecond(float64(counts.Minute) / 60), ""}, number(counts.SuccessHour, ""), number(counts.FailedHour, red),
		number(counts.Success, ""), number(counts.Failed, ""))
}

// perSecond is a rate in three digits, about.
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

const runningDetail = `
FOR is how long a job has been running, and WORKER the host and process that
holds it, or the name that worker was given.
`

func running(c *call) func(context.Context) error {
	header := []string{"ID", "TASK", "QUEUE", "WORKER", "FOR", "HEARTBEAT", "ATTEMPT", "ARGUMENTS"}
	return c.jobsThatAre(pinion.StatusRunning, header, func(job *pinion.Job) []string {
		return []string{clip(job.ID, 64), clip(job.Task, 60), clip(job.Queue, 60), clip(holder(job), 60), runningFor(job),
			ago(job.HeartbeatAt), strconv.Itoa(job.Attempts), clip(arguments(job), 60)}
	})
}

// jobsThatAre is a command that lists the jobs of a status.
func (c *call) jobsThatAre(status pinion.Status, header []string, row func(*pinion.Job) []string) func(context.Context) error {
	filter := c.filterFlags()
	c.flags.StringVar(&filter.Queue, "queue", "", "only jobs of the queue `NAME`")
	c.jsonFlag()
	return func(ctx context.Context) error {
		filter.Status = status
		return c.inspect(ctx, reads, func(storage pinion.Inspector) error {
			return c.jobs(storage.Jobs(ctx, *filter), header, row)
		})
	}
}

// holder is a running job's worker, and whether that has been asked to end it.
func holder(job *pinion.Job) string {
	if job.Canceled {
		return cmp.Or(job.Worker, "-") + ", told to end"
	}
	return job.Worker
}

// claimedAt is when a job was claimed. This package's storages number their claims by the microsecond; whether that is
// what the number of another's means shows by its place between other times.
func claimedAt(job *pinion.Job) time.Time {
	if at := time.UnixMicro(job.Claim); !at.Before(job.CreatedAt) && !at.After(job.HeartbeatAt) {
		return at
	}
	return time.Time{}
}

func runningFor(job *pinion.Job) string {
	at := claimedAt(job)
	if at.IsZero() {
		return ""
	}
	return rough(time.Since(at))
}

func pending(c *call) func(context.Context) error {
	header := []string{"ID", "TASK", "QUEUE", "PRIORITY", "ADDED", "ATTEMPTS", "DUE", "ARGUMENTS"}
	return c.jobsThatAre(pinion.StatusPending, header, func(job *pinion.Job) []string {
		due := "now"
		if job.RunAt.After(time.Now()) {
			due = ago(job.RunAt)
		}
		return []string{clip(job.ID, 64), clip(job.Task, 60), clip(job.Queue, 60), strconv.Itoa(job.Priority), ago(job.CreatedAt),
			strconv.Itoa(job.Attempts), due, clip(arguments(job), 60)}
	})
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
			if job.Status == pinion.StatusRunning {
				row(w, "worker", holder(job))
			} else {
				row(w, "worker", job.Worker)
			}
			row(w, "added", moment(job.CreatedAt))
			due := job.RunAt
			if job.Status != pinion.StatusPending { // it was due then; one that was canceled never will be
				due = time.Time{}
			}
			row(w, "due", moment(due))
			if at := claimedAt(job); !at.IsZero() {
				row(w, "claimed", moment(at))
			}
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
	g := c.grid()
	n := 0
	for job, err := range jobs {
		if err != nil {
			c.print(g)
			return err
		}
		if c.json {
			if err := c.encode(job); err != nil {
				return err
			}
			continue
		}
		if n == 0 {
			g.add(header...)
		}
		g.add(cells(job)...)
		if n++; n%1000 == 0 { // until then it is kept in memory
			c.print(g)
		}
	}
	if n == 0 && !c.json {
		fmt.Fprintln(c.stderr, "pinion: there are none")
	}
	c.print(g)
	return nil
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
	if d < 0 {
		return "in " + rough(-d)
	}
	return rough(d) + " ago"
}

// rough is a time in its largest unit.
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

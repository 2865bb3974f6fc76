package cli

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/pinion-queue/pinion"
)

const statusDetail = `
OLDEST shows when the oldest pending job was added, JOBS/S how many jobs a second
finished in the last minute, and 1H DONE and 1H FAIL how many did in the last hour.
SUCCESS and FAILED are all finished jobs that the database still has; workers keep
them for a day. It reads all jobs, about a second for each million. Nothing waits
for it.

--watch shows a live screen, with the number of jobs in each of the last 60 seconds
and the jobs that have been running longest. Where standard output is not a
terminal it prints a line each time. It looks at a big queue less often.
`

const statusExamples = `pinion status --db q.db
pinion status --watch --db q.db
pinion status --json --db q.db | jq .total.pending`

func status(c *call) func(context.Context) error {
	c.storageFlags()
	c.jsonFlag()
	watch := c.flags.Bool("watch", false, "show it again and again until ^C")
	interval := time.Duration(-1)
	c.durationFlag(&interval, "interval", "with --watch, every `TIME` [1s]")
	return func(ctx context.Context) error {
		if interval >= 0 && !*watch {
			return usagef("--interval is for --watch; add that, as in: pinion status --watch --interval 5")
		}
		if interval < 0 {
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

// encodeStats prints empty lists as [], not as null, so that jq .queues[] accepts them.
func (c *call) encodeStats(stats pinion.Stats) error {
	stats.Queues = append([]pinion.QueueStats{}, stats.Queues...)
	stats.Tasks = append([]pinion.TaskStats{}, stats.Tasks...)
	return c.encode(stats)
}

// statusRow is the counts of a queue or a task.
type statusRow struct {
	name string
	pinion.Counts
}

// activity decides which rows are shown where there is not room for all.
func (r statusRow) activity() int { return r.Pending + r.Running + r.Minute }

// statusLines returns the tables by queue and by task, with at most limit rows each if limit is not 0.
func (c *call) statusLines(stats *pinion.Stats, limit int) (lines []string) {
	var queues, tasks []statusRow
	for _, q := range stats.Queues {
		queues = append(queues, statusRow{q.Queue, q.Counts})
	}
	for _, t := range stats.Tasks {
		tasks = append(tasks, statusRow{t.Task, t.Counts})
	}
	var total *pinion.Counts
	if len(queues) != 1 {
		total = &stats.Total
	}
	lines = c.statusTable("QUEUE", queues, total, limit)
	if len(tasks) > 0 {
		lines = append(lines, "")
		lines = append(lines, c.statusTable("TASK", tasks, nil, limit)...)
	}
	style := ""
	if stats.DeadLetters > 0 {
		style = red
	}
	deadLetters := styled(fmt.Sprintf("dead letters: %d", stats.DeadLetters), style, c.hasColors())
	return append(lines, "", deadLetters)
}

// statusTable returns a table of rows. If there are more than limit, it shows the most active and says how
// many it leaves out.
func (c *call) statusTable(kind string, rows []statusRow, total *pinion.Counts, limit int) []string {
	leftOut := 0
	if limit > 0 && len(rows) > limit+1 { // a single one has room in the line that would count it
		slices.SortStableFunc(rows, func(a, b statusRow) int { return cmp.Compare(b.activity(), a.activity()) })
		leftOut = len(rows) - limit
		rows = rows[:limit]
	}
	t := c.newTable(kind, "PENDING", "OLDEST", "RUNNING", "JOBS/S", "1H DONE", "1H FAIL")
	t.numbers = true
	for _, r := range rows {
		t.addCounts(r.name, r.Counts)
	}
	if total != nil {
		t.addCounts("total", *total)
	}
	lines := t.lines()
	if leftOut > 0 { // not as a cell, because its column may be narrower
		line := cut(fmt.Sprintf("and %d more", leftOut), cmp.Or(t.width, 80))
		lines = slices.Insert(lines, 1+len(rows), line)
	}
	return lines
}

func (t *table) addCounts(name string, counts pinion.Counts) {
	number := func(n int, style string) cell {
		if n == 0 {
			style = ""
		}
		return cell{thousands(n), style}
	}
	t.addCells(
		cell{clip(name, 60), ""},
		number(counts.Pending, ""),
		cell{ago(counts.Oldest), ""},
		number(counts.Running, green),
		cell{perSecond(float64(counts.Minute) / 60), ""},
		number(counts.SuccessHour, ""),
		number(counts.FailedHour, red),
	)
}

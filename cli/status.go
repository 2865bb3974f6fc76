package cli

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/pinion-queue/pinion"
)

const statusDetail = `
OLDEST shows when the oldest pending job was added, JOBS/S how many jobs a second
finished in the last minute, and 1H DONE and 1H FAIL how many did in the last hour.
1H FAIL counts dead letters and canceled jobs. If a queue is paused or limited, LIMIT
shows that.

--watch shows a live screen, with the number of jobs in each of the last 60 seconds
and the jobs that have been running longest. Where standard output is not a
terminal it prints a line each time. It looks at a big queue less often.
`

const statusExamples = `# Once.
pinion status --db q.db
# On a live screen.
pinion status --watch --db q.db
# For a program.
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
			s := takeSnapshot(ctx, storage, false)
			if s.err != nil {
				return s.err
			}
			if c.json {
				return c.encodeStats(&s)
			}
			for _, line := range c.statusLines(&s, 0) {
				fmt.Fprintln(c.stdout, line)
			}
			fmt.Fprintln(c.stdout, c.databaseLine())
			return nil
		})
	}
}

// databaseLine returns the line that says which database this is.
func (c *call) databaseLine() string {
	line := "database: " + printable(databaseName(c.db), "")
	width, _ := c.screenSize()
	if width > 0 {
		line = cut(line, width)
	}
	return line
}

// encodeStats prints empty lists as [], not as null, so that jq .queues[] accepts them.
func (c *call) encodeStats(s *snapshot) error {
	stats := s.stats
	stats.Queues = append([]pinion.QueueStats{}, stats.Queues...)
	stats.Tasks = append([]pinion.TaskStats{}, stats.Tasks...)
	return c.encode(struct {
		pinion.Stats
		Limits   map[string]int `json:"limits,omitempty"` // by queue; 0: paused
		Database string         `json:"database"`
	}{stats, s.limits, databaseName(c.db)})
}

// statusRow is the counts of a queue or a task.
type statusRow struct {
	name  string
	limit string // of a queue
	pinion.Counts
}

// activity decides which rows are shown where there is not room for all.
func (r statusRow) activity() int { return r.Pending + r.Running + r.Minute }

// statusLines returns the tables by queue and by task, with at most limit rows each if limit is not 0.
func (c *call) statusLines(s *snapshot, limit int) (lines []string) {
	stats := &s.stats
	queues := queueRows(s)
	var tasks []statusRow
	for _, t := range stats.Tasks {
		tasks = append(tasks, statusRow{name: t.Task, Counts: t.Counts})
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

// queueRows returns the queues that have jobs or a limit, by name.
func queueRows(s *snapshot) (queues []statusRow) {
	limits := maps.Clone(s.limits)
	for _, q := range s.stats.Queues {
		row := statusRow{name: q.Queue, Counts: q.Counts}
		if limit, ok := limits[q.Queue]; ok {
			row.limit = limitText(limit)
			delete(limits, q.Queue)
		}
		queues = append(queues, row)
	}
	for name, limit := range limits { // of queues without jobs
		queues = append(queues, statusRow{name: name, limit: limitText(limit)})
	}
	slices.SortStableFunc(queues, func(a, b statusRow) int { return cmp.Compare(a.name, b.name) })
	return queues
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
	names := []string{kind, "PENDING", "OLDEST", "RUNNING", "JOBS/S", "1H DONE", "1H FAIL"}
	hasLimits := slices.ContainsFunc(rows, func(r statusRow) bool { return r.limit != "" })
	if hasLimits {
		names = append(names, "LIMIT")
	}
	if total != nil {
		rows = append(slices.Clip(rows), statusRow{name: "total", Counts: *total})
	}
	t := c.newTable(names...)
	t.numbers = true
	for _, r := range rows {
		cells := countCells(r)
		if hasLimits {
			cells = append(cells, cell{r.limit, yellow})
		}
		t.addCells(cells...)
	}
	lines := t.lines()
	if leftOut > 0 { // not as a cell, because its column may be narrower
		line := cut(fmt.Sprintf("and %d more", leftOut), cmp.Or(t.width, 80))
		lines = slices.Insert(lines, 1+limit, line)
	}
	return lines
}

// countCells returns the cells of a row, without its limit.
func countCells(r statusRow) []cell {
	number := func(n int, style string) cell {
		if n == 0 {
			style = ""
		}
		return cell{thousands(n), style}
	}
	return []cell{
		{r.name, ""},
		number(r.Pending, ""),
		{ago(r.Oldest), ""},
		number(r.Running, green),
		{perSecond(float64(r.Minute) / 60), ""},
		number(r.SuccessHour, ""),
		number(r.FailedHour, red),
	}
}

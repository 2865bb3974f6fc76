package web

import (
	"cmp"
	"context"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/pinion-queue/pinion"
	"github.com/pinion-queue/pinion/internal/checkup"
	"github.com/pinion-queue/pinion/internal/rules"
	"github.com/pinion-queue/pinion/internal/words"
)

// overview is the first page.
type overview struct {
	view
	Missing  []string // what the storage cannot do
	Waiting  int      // PENDING jobs, where that is all that is known
	Stats    *pinion.Stats
	JobsPerS string
	Oldest   *moment
	Findings []checkup.Finding
	Charts   []chart
	Queues   []countRow
	Tasks    []countRow
	Limits   bool // the storage has limits
	Periodic []periodicRow
}

// countRow is a line for a queue or a task.
type countRow struct {
	Name    string
	Link    string // its jobs
	Pending int
	Later   int // of those, how many are not due
	Running int
	Limit   string // of a queue: "" if it has none
	Paused  bool
	Oldest  *moment
	Waiting *moment // since when the oldest job that is due has been due
	Done    int
	Failed  int
	Dead    string // its dead letters
	Spark   *sparkline

	// What one may do with a queue.
	Pause, Resume, SetLimit string
}

// periodicRow is the next run of a schedule.
type periodicRow struct {
	Name, Link, Task string
	Status           string
	Next             *moment
}

// shownRows is how many queues, and tasks, the overview lists, the most active ones.
const shownRows = 200

func (s *site) overview(w http.ResponseWriter, r *http.Request) {
	ctx := r.Context()
	o := overview{view: s.view(r, "Overview", "overview"), Limits: s.limiter != nil}
	o.Refresh = true
	o.Missing = s.missing()
	if s.inspector == nil {
		waiting, err := s.storage.Size(ctx)
		if err != nil {
			s.failWith(w, r, err)
			return
		}
		o.Waiting = waiting
		s.show(w, r, http.StatusOK, "overview", o)
		return
	}
	stats, err := s.stats.get(ctx)
	if err != nil {
		s.failWith(w, r, err)
		return
	}
	history, err := s.history.get(ctx)
	if err != nil {
		s.failWith(w, r, err)
		return
	}
	limits, err := s.limits(ctx)
	if err != nil {
		s.failWith(w, r, err)
		return
	}
	now := time.Now()
	o.Stats = &stats
	o.Oldest = momentOf(stats.Total.OldestDue)
	o.JobsPerS = words.PerSecond(float64(stats.Total.Minute) / 60)
	o.Findings = s.findings(ctx, &stats)
	sums := sumEnds(history, now)
	o.Charts = []chart{
		newChart("The last hour", sums, now, 60, "1 h ago", "45 min", "30 min", "15 min", "now"),
		newChart("The last day", sums, now, 24*60, "24 h ago", "18 h", "12 h", "6 h", "now"),
	}
	o.Queues = s.queueRows(r, &stats, limits, history, now)
	o.Tasks = s.taskRows(r, &stats, history, now)
	o.Periodic, err = s.periodicRows(ctx, o.Root)
	if err != nil {
		s.failWith(w, r, err)
		return
	}
	s.show(w, r, http.StatusOK, "overview", o)
}

// missing says what the storage cannot do.
func (s *site) missing() (missing []string) {
	if s.inspector == nil {
		missing = append(missing, "This storage cannot be looked into (it is not a pinion.Inspector), "+
			"so only the number of jobs that wait is known.")
	}
	if s.limiter == nil {
		missing = append(missing, "This storage has no limits (it is not a pinion.Limiter), "+
			"so queues cannot be paused.")
	}
	if s.canceler == nil {
		missing = append(missing, "This storage cannot cancel jobs (it is not a pinion.Canceler).")
	}
	return missing
}

func (s *site) limits(ctx context.Context) (map[string]int, error) {
	if s.limiter == nil {
		return nil, nil
	}
	return s.limiter.Limits(ctx)
}

// findings returns what the doctor would say that needs somebody's attention, as far as a quick look shows it.
func (s *site) findings(ctx context.Context, stats *pinion.Stats) []checkup.Finding {
	c := &checkup.Checkup{Now: time.Now(), Visibility: rules.DefaultLease, Look: 200}
	damage, err := s.damage.getSoon(ctx)
	if err == nil && damage != "" {
		c.Findings = append(c.Findings, checkup.Finding{Level: checkup.Wrong, About: "content", Text: damage,
			Do: "pinion doctor says more"})
	}
	c.Jobs(ctx, s.inspector, stats)
	found := slices.DeleteFunc(c.Findings, func(f checkup.Finding) bool { return f.Level == checkup.OK })
	for i := range found {
		found[i].Text = words.Printable(found[i].Text, "")
		found[i].Do = words.Printable(strings.ReplaceAll(found[i].Do, "`", `"`), "")
	}
	return found
}

// queueRows returns the queues that have jobs or a limit, by name.
func (s *site) queueRows(
	r *http.Request, stats *pinion.Stats, limits map[string]int, history []pinion.Ends, now time.Time,
) (rows []countRow) {
	sparks := sparklines(history, now, func(e pinion.Ends) string { return e.Queue })
	counts := make(map[string]pinion.Counts)
	for _, q := range stats.Queues {
		counts[q.Queue] = q.Counts
	}
	for name := range limits {
		if _, known := counts[name]; !known { // a queue without jobs may have a limit
			counts[name] = pinion.Counts{}
		}
	}
	for _, name := range mostActive(counts) {
		row := rowOf(root(r), "queue", name, counts[name], sparks[name])
		limit, limited := limits[name]
		if limited {
			row.Limit = strconv.Itoa(limit)
			row.Paused = limit == 0
		}
		if s.opts.Write && s.limiter != nil {
			if !row.Paused {
				row.Pause = address(root(r)+"do/pause", "queue", name)
			}
			if limited {
				row.Resume = address(root(r)+"do/resume", "queue", name)
			}
			row.SetLimit = address(root(r)+"do/limit", "queue", name)
		}
		rows = append(rows, row)
	}
	return rows
}

func (s *site) taskRows(
	r *http.Request, stats *pinion.Stats, history []pinion.Ends, now time.Time,
) (rows []countRow) {
	sparks := sparklines(history, now, func(e pinion.Ends) string { return e.Task })
	counts := make(map[string]pinion.Counts)
	for _, t := range stats.Tasks {
		counts[t.Task] = t.Counts
	}
	for _, name := range mostActive(counts) {
		rows = append(rows, rowOf(root(r), "task", name, counts[name], sparks[name]))
	}
	return rows
}

// mostActive returns the names by which the most happens, sorted.
func mostActive(counts map[string]pinion.Counts) []string {
	activity := func(c pinion.Counts) int { return c.Pending + c.Running + c.SuccessHour + c.FailedHour }
	names := slices.SortedFunc(maps.Keys(counts), func(a, b string) int {
		return cmp.Or(cmp.Compare(activity(counts[b]), activity(counts[a])), strings.Compare(a, b))
	})
	names = names[:min(len(names), shownRows)]
	slices.Sort(names)
	return names
}

// rowOf returns the line of a queue or a task, which kind says.
func rowOf(root, kind, name string, c pinion.Counts, spark *sparkline) countRow {
	return countRow{
		Name:    shown(name, 60),
		Link:    address(root+"jobs", kind, name),
		Pending: c.Pending,
		Later:   c.Pending - c.Due,
		Running: c.Running,
		Oldest:  momentOf(c.Oldest),
		Waiting: momentOf(c.OldestDue),
		Done:    c.SuccessHour,
		Failed:  c.FailedHour,
		Dead:    address(root+"dead", kind, name),
		Spark:   spark,
	}
}

// periodicRows returns the next runs of schedules: the unfinished jobs with the key periodic:NAME.
func (s *site) periodicRows(ctx context.Context, root string) (rows []periodicRow, err error) {
	const prefix = "periodic:"
	for _, status := range []pinion.Status{pinion.StatusRunning, pinion.StatusPending} {
		page, err := s.inspector.JobsPage(ctx, pinion.Filter{Status: status, KeyPrefix: prefix, Limit: shownRows}, 0)
		if err != nil {
			return nil, err
		}
		for _, job := range page.Jobs {
			id, err := s.redact(job)
			if err != nil {
				return nil, err
			}
			row := periodicRow{
				Name:   shown(strings.TrimPrefix(job.Key, prefix), 60),
				Link:   jobAddress(root, id),
				Task:   shown(job.Task, 60),
				Status: "waits",
				Next:   momentOf(job.RunAt),
			}
			if status == pinion.StatusRunning {
				row.Status = "runs"
			}
			rows = append(rows, row)
		}
	}
	slices.SortStableFunc(rows, func(a, b periodicRow) int { return strings.Compare(a.Name, b.Name) })
	return rows, nil
}

package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/pinion-queue/pinion"
)

const doctorDetail = `
It looks for damage in the file, jobs of dead workers, jobs whose task no worker
knew, jobs that no worker can run, and clocks that disagree. With --import or
--exec it also looks for pending jobs of other tasks than those. It changes
nothing. It reads everything, which takes some seconds for each million jobs.

A line begins with ok, with note if it may be intended, or with WRONG. The exit
status is 1 if something is wrong.
`

const doctorExamples = `pinion doctor --db q.db
pinion doctor --import ./tasks --db q.db
pinion doctor --json --db q.db | jq 'select(.level != "ok")'`

// finding is one thing that an examination has found out.
type finding struct {
	Level string `json:"level"` // ok, note or wrong
	About string `json:"about"`
	Text  string `json:"text"`
	Do    string `json:"do,omitempty"`
}

const (
	levelOK    = "ok"
	levelNote  = "note"
	levelWrong = "wrong"
)

// examination collects findings.
type examination struct {
	now        time.Time
	visibility time.Duration
	findings   []finding
}

func (e *examination) ok(about, format string, args ...any) {
	e.findings = append(e.findings, finding{levelOK, about, fmt.Sprintf(format, args...), ""})
}

func (e *examination) note(about, do, format string, args ...any) {
	e.findings = append(e.findings, finding{levelNote, about, fmt.Sprintf(format, args...), do})
}

func (e *examination) wrong(about, do, format string, args ...any) {
	e.findings = append(e.findings, finding{levelWrong, about, fmt.Sprintf(format, args...), do})
}

// failed reports that something could not be examined.
func (e *examination) failed(about string, err error) {
	do := cmp.Or(strings.TrimPrefix(advice(err), "; "), "solve that problem, and run doctor again")
	e.wrong(about, do, "cannot be examined: %s", strings.TrimPrefix(err.Error(), "pinion: "))
}

func doctor(c *call) func(context.Context) error {
	c.storageFlags()
	c.execFlags()
	c.jsonFlag()
	e := &examination{visibility: 10 * time.Second}
	c.durationFlag(&e.visibility, "visibility-timeout", "the `TIME` that workers use, if not the default [10s]")
	return func(ctx context.Context) error {
		if err := addPrograms(&c.programs); err != nil {
			return err
		}
		return c.inspect(ctx, reads, func(storage pinion.Inspector) error {
			e.now = time.Now()
			if s, ok := storage.(*pinion.SQLiteStorage); ok {
				e.examineFile(strings.TrimPrefix(c.db, schemeOf(c.db)))
				e.examineContent(ctx, s)
			}
			e.examineJobs(ctx, storage)
			return c.printFindings(e.findings)
		})
	}
}

func (c *call) printFindings(findings []finding) error {
	wrong := 0
	for _, f := range findings {
		if f.Level == levelWrong {
			wrong++
		}
		if err := c.printFinding(f); err != nil {
			return err
		}
	}
	switch wrong {
	case 0:
		return nil
	case 1:
		return errors.New("1 thing is wrong; see above for what to do")
	}
	return fmt.Errorf("%d things are wrong; see above for what to do", wrong)
}

func (c *call) printFinding(f finding) error {
	if c.json {
		return c.encode(f)
	}
	level, style := f.Level, green
	switch f.Level {
	case levelNote:
		style = yellow
	case levelWrong:
		level, style = "WRONG", red
	}
	padding := strings.Repeat(" ", len("WRONG")-len(level))
	level = styled(level, style, c.hasColors())
	fmt.Fprintf(c.stdout, "%s%s  %-9s  %s\n", level, padding, f.About, printable(f.Text, ""))
	if f.Do != "" {
		fmt.Fprintf(c.stdout, "%18s%s\n", "", printable(f.Do, ""))
	}
	return nil
}

// hugeLog is the size of a -wal that has not been reset for long: that usually happens at a few megabytes.
const hugeLog = 256 << 20

// examineFile looks at the file from outside.
func (e *examination) examineFile(path string) {
	info, err := os.Stat(path)
	if err != nil {
		e.failed("file", err)
		return
	}
	mode := info.Mode().Perm()
	switch {
	case runtime.GOOS == "windows":
		e.ok("file", "%s", path)
	case mode&0o022 != 0:
		e.wrong("file", "chmod 600 "+path,
			"its mode is %#o, so other users may change %s and run tasks with arguments of their choice",
			mode, path)
	case mode&0o044 != 0:
		e.note("file", "unless that is intended: chmod 600 "+path,
			"its mode is %#o, so other users may read the arguments and results in %s", mode, path)
	default:
		e.ok("file", "%s, mode %#o", path, mode)
	}
	log, err := os.Stat(path + "-wal")
	switch {
	case err != nil:
		e.ok("log", "none: no program has the queue open for writing")
	case log.Size() > hugeLog:
		e.wrong("log", "find and stop the program that reads the file and never ends its transaction, "+
			"such as an open sqlite3 shell or a backup; the log shrinks when the last program closes the queue",
			"%s-wal has grown to %s", path, byteSize(log.Size()))
	case log.Size() == 0:
		e.ok("log", "empty")
	default:
		e.ok("log", "%s", byteSize(log.Size()))
	}
}

// examineContent looks into the file.
func (e *examination) examineContent(ctx context.Context, storage *pinion.SQLiteStorage) {
	r, err := storage.Check(ctx)
	if err != nil {
		e.failed("content", err)
		if len(r.Damage) == 0 {
			return
		}
	}
	if len(r.Damage) > 0 {
		e.wrong("content", "stop all programs that use the file and restore a backup, "+
			"or save what can be read: sqlite3 OLD .recover | sqlite3 NEW",
			"damaged: %s", firstFew(r.Damage))
	} else {
		e.ok("content", "%s, not damaged", byteSize(r.Size))
	}
	if r.Links > 1 {
		e.wrong("links", "stop all programs that use it and remove the other names, or make symbolic links of them",
			"the file has %d names (hard links); each would have a -wal of its own, and jobs would be lost", r.Links)
	}
	if r.Free > 64<<20 && r.Free > r.Size/2 {
		e.note("space", "new jobs will use it; to give it back, stop the workers and run: sqlite3 FILE VACUUM",
			"%s of %s are unused", byteSize(r.Free), byteSize(r.Size))
	}
	switch {
	case r.Schema == 0:
		e.note("schema", "the first command that writes adds what is missing; Python does not notice",
			"that of the Python library")
	case r.Schema < r.Newest:
		e.note("schema",
			"the first command that writes updates it; older programs of Pinion cannot open the file then",
			"version %d; this program uses %d", r.Schema, r.Newest)
	default:
		e.ok("schema", "version %d", r.Schema)
	}
	switch {
	case r.Journal == "wal":
		e.ok("journal", "wal")
	case r.Schema == 0:
		e.note("journal", "the first command that writes changes it to wal; Python works with that",
			"%s", r.Journal)
	default:
		e.wrong("journal", "find the program that changed it; the next worker changes it back to wal",
			"the mode is %s, so readers and writers wait for each other", r.Journal)
	}
	if len(r.Unusable) > 0 {
		e.wrong("rows", "workers make dead letters of those that they meet; "+
			"correct or delete the rows with the program that wrote them",
			"no worker can run these jobs: %s", firstFew(r.Unusable))
	} else {
		e.ok("rows", "workers can run all jobs")
	}
}

// tally counts jobs of one kind and keeps some of their ids.
type tally struct {
	n   int
	ids []string
}

func (t *tally) add(id string) {
	t.n++
	if len(t.ids) < 4 {
		t.ids = append(t.ids, id)
	}
}

// firstFew joins the first three of a list.
func firstFew(list []string) string {
	var few []string
	for _, item := range list[:min(len(list), 3)] {
		few = append(few, clip(item, 200))
	}
	if len(list) > 3 {
		few = append(few, "…")
	}
	return strings.Join(few, ", ")
}

// jobFacts are the facts about jobs that an examination gathers.
type jobFacts struct {
	stale     tally           // running, without a heartbeat
	future    tally           // added or seen alive in the future
	latest    time.Time       // of those
	notFound  map[string]int  // jobs that failed because their worker did not know the task
	unknown   map[string]int  // pending jobs of tasks that are not in known
	known     map[string]bool // the tasks of --import and --exec in lower case; empty if there are none
	due       int             // pending jobs that could run
	oldestDue time.Time       // when the oldest of those became due
}

// examineJobs looks at pending and running jobs and at dead letters.
func (e *examination) examineJobs(ctx context.Context, storage pinion.Inspector) {
	facts, err := e.gatherFacts(ctx, storage)
	if err != nil {
		e.failed("jobs", err)
		return
	}
	stats, err := storage.Stats(ctx)
	if err != nil {
		e.failed("jobs", err)
		return
	}
	e.ok("jobs", "%s pending, %s running, %s",
		thousands(stats.Total.Pending), thousands(stats.Total.Running), plural(stats.DeadLetters, "dead letter"))
	e.reportLeases(facts)
	e.reportTasks(facts, &stats)
	e.reportLimits(ctx, storage)
	e.reportClock(facts)
	e.reportWorkers(facts, &stats)
}

// gatherFacts reads all jobs that have not ended, and the dead letters.
func (e *examination) gatherFacts(ctx context.Context, storage pinion.Inspector) (*jobFacts, error) {
	facts := &jobFacts{
		notFound:  make(map[string]int),
		unknown:   make(map[string]int),
		known:     knownTasks(),
		oldestDue: e.now,
	}
	for job, err := range storage.Jobs(ctx, pinion.Filter{Status: pinion.StatusRunning}) {
		if err != nil {
			return nil, err
		}
		e.lookAtRunning(facts, job)
	}
	for job, err := range storage.Jobs(ctx, pinion.Filter{Status: pinion.StatusPending}) {
		if err != nil {
			return nil, err
		}
		e.lookAtPending(facts, job)
	}
	for job, err := range storage.DeadLetters(ctx, pinion.Filter{}) {
		if err != nil {
			return nil, err
		}
		facts.lookAtError(job)
	}
	return facts, nil
}

// knownTasks returns the names of the tasks that this program knows, in lower case.
func knownTasks() map[string]bool {
	known := make(map[string]bool)
	if _, own := ownProgram(); !own && len(programs) == 0 {
		return known
	}
	for _, name := range pinion.DefaultRegistry.Names() {
		known[strings.ToLower(name)] = true
	}
	return known
}

func (e *examination) lookAtRunning(facts *jobFacts, job *pinion.Job) {
	e.lookAtTimes(facts, job)
	expires := job.LeaseUntil
	if expires.IsZero() { // a claim of the Python library
		expires = job.HeartbeatAt.Add(e.visibility)
	}
	if e.now.After(expires) {
		facts.stale.add(job.ID)
	}
}

func (e *examination) lookAtPending(facts *jobFacts, job *pinion.Job) {
	e.lookAtTimes(facts, job)
	facts.lookAtError(job)
	if len(facts.known) > 0 && !facts.known[strings.ToLower(job.Task)] {
		facts.unknown[job.Task]++
	}
	due := job.CreatedAt
	if job.RunAt.After(due) {
		due = job.RunAt
	}
	if due.Before(e.now) {
		facts.due++
	}
	if due.Before(facts.oldestDue) {
		facts.oldestDue = due
	}
}

// lookAtTimes looks for times in the future. The clocks of two machines may differ a little.
func (e *examination) lookAtTimes(facts *jobFacts, job *pinion.Job) {
	at := job.CreatedAt
	if job.HeartbeatAt.After(at) {
		at = job.HeartbeatAt
	}
	if !at.After(e.now.Add(5 * time.Second)) {
		return
	}
	facts.future.add(job.ID)
	if at.After(facts.latest) {
		facts.latest = at
	}
}

func (facts *jobFacts) lookAtError(job *pinion.Job) {
	if strings.Contains(job.Error, pinion.ErrTaskNotFound.Error()) {
		facts.notFound[job.Task]++
	}
}

func (e *examination) reportLeases(facts *jobFacts) {
	if facts.stale.n == 0 {
		e.ok("leases", "all running jobs have had a heartbeat within %v", e.visibility)
		return
	}
	e.wrong("leases",
		"their workers are dead or hang; start a worker on this queue, and it takes the jobs back within seconds",
		"%s without a heartbeat for %v: %s",
		plural(facts.stale.n, "running job"), e.visibility, firstFew(facts.stale.ids))
}

// neglect is how long a job of a task may be due before it is clear that no worker knows the task.
const neglect = time.Minute

// unclaimed returns the tasks whose jobs have been due for long and that no worker has claimed, though workers run.
func (e *examination) unclaimed(stats *pinion.Stats) (tasks map[string]int, since time.Time) {
	tasks = make(map[string]int)
	since = e.now
	if stats.Total.Running+stats.Total.SuccessHour+stats.Total.FailedHour == 0 {
		return tasks, since
	}
	for _, t := range stats.Tasks {
		claimed := t.Running+t.SuccessHour+t.FailedHour > 0
		if t.Due == 0 || claimed || e.now.Sub(t.OldestDue) < neglect {
			continue
		}
		tasks[t.Task] = t.Due
		if t.OldestDue.Before(since) {
			since = t.OldestDue
		}
	}
	return tasks, since
}

// reportLimits reports the queues that are paused.
func (e *examination) reportLimits(ctx context.Context, storage pinion.Inspector) {
	limiter, ok := storage.(pinion.Limiter)
	if !ok {
		return
	}
	limits, err := limiter.Limits(ctx)
	if err != nil {
		e.failed("limits", err)
		return
	}
	var paused []string
	for queue, most := range limits {
		if most == 0 {
			paused = append(paused, queue)
		}
	}
	if len(paused) > 0 {
		slices.Sort(paused)
		e.note("limits", "`pinion resume QUEUE` lets them run again", "these queues are paused: %s",
			strings.Join(paused, ", "))
	}
}

func (e *examination) reportTasks(facts *jobFacts, stats *pinion.Stats) {
	unclaimed, since := e.unclaimed(stats)
	if len(unclaimed) > 0 {
		e.wrong("tasks", "start a worker that knows them (`pinion tasks` lists what it knows), or cancel the jobs",
			"jobs of these tasks have been due for %v, and no worker has claimed one: %s",
			strings.TrimSuffix(ago(since), " ago"), formatCounts(unclaimed))
	}
	if len(facts.unknown) > 0 {
		e.wrong("tasks",
			"also import the package that registers them, or correct their names; jobs of an unknown task wait",
			"there are pending jobs of tasks that are not registered here: %s", formatCounts(facts.unknown))
	}
	if len(facts.notFound) > 0 {
		e.wrong("tasks", "start a worker that knows them (`pinion tasks` lists what it knows), "+
			"then run `pinion dlq-replay --task NAME`; or purge them",
			"jobs have failed because their worker did not know the task: %s", formatCounts(facts.notFound))
	}
	if len(unclaimed)+len(facts.unknown)+len(facts.notFound) > 0 {
		return
	}
	if len(facts.known) > 0 {
		e.ok("tasks", "the tasks of all pending jobs are registered here")
	} else {
		e.ok("tasks", "no task waits for a worker that knows it")
	}
}

func (e *examination) reportClock(facts *jobFacts) {
	if facts.future.n == 0 {
		e.ok("clock", "no job is from the future")
		return
	}
	e.wrong("clock", "compare the output of `date` on all machines that use the queue; "+
		"the jobs of a clock that was ahead are taken back late",
		"%s added or seen alive in the future, up to %s from now: %s",
		plural(facts.future.n, "job"), rough(facts.latest.Sub(e.now)), firstFew(facts.future.ids))
}

func (e *examination) reportWorkers(facts *jobFacts, stats *pinion.Stats) {
	waited := e.now.Sub(facts.oldestDue)
	if facts.due == 0 || waited <= time.Minute || stats.Total.Running > 0 || stats.Total.Minute > 0 {
		return
	}
	e.note("workers",
		"check that a worker runs, and works on these queues: pinion worker --db FILE --import PACKAGE",
		"no job has run in the last minute, %s due, and the oldest has been due for %s",
		are(facts.due, "job"), rough(waited))
}

// formatCounts lists names with their numbers, the largest first.
func formatCounts(counts map[string]int) string {
	names := slices.SortedFunc(maps.Keys(counts), func(a, b string) int {
		return cmp.Or(cmp.Compare(counts[b], counts[a]), cmp.Compare(a, b))
	})
	for i, name := range names {
		names[i] = fmt.Sprintf("%s (%s)", clip(name, 60), thousands(counts[name]))
	}
	return firstFew(names)
}

// Package checkup finds out what is wrong with a queue. The command doctor and the page share it.
package checkup

import (
	"cmp"
	"context"
	"fmt"
	"iter"
	"maps"
	"os"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/pinion-queue/pinion"
	"github.com/pinion-queue/pinion/internal/words"
)

// Finding is one thing that a checkup has found out.
type Finding struct {
	Level string `json:"level"` // ok, note or wrong
	About string `json:"about"`
	Text  string `json:"text"`
	Do    string `json:"do,omitempty"`
}

// The levels of findings.
const (
	OK    = "ok"
	Note  = "note" // it may be intended
	Wrong = "wrong"
)

// Checkup examines a queue and collects findings.
type Checkup struct {
	Now        time.Time
	Visibility time.Duration      // the lease of claims that store none
	Known      map[string]bool    // the tasks of the caller in lower case; empty if it has none
	Look       int                // at most so many jobs of each listing, the newest [all]
	Advise     func(error) string // what to do about an error, or ""

	Findings []Finding
}

func (e *Checkup) ok(about, format string, args ...any) {
	e.Findings = append(e.Findings, Finding{OK, about, fmt.Sprintf(format, args...), ""})
}

func (e *Checkup) note(about, do, format string, args ...any) {
	e.Findings = append(e.Findings, Finding{Note, about, fmt.Sprintf(format, args...), do})
}

func (e *Checkup) wrong(about, do, format string, args ...any) {
	e.Findings = append(e.Findings, Finding{Wrong, about, fmt.Sprintf(format, args...), do})
}

// failed reports that something could not be examined.
func (e *Checkup) failed(about string, err error) {
	do := "solve that problem, and run doctor again"
	if e.Advise != nil {
		if advice := e.Advise(err); advice != "" {
			do = advice
		}
	}
	e.wrong(about, do, "cannot be examined: %s", strings.TrimPrefix(err.Error(), "pinion: "))
}

// HugeLog is the size of a -wal that has not been reset for long: that usually happens at a few megabytes.
const HugeLog = 256 << 20

// File looks at a queue's file from outside.
func (e *Checkup) File(path string) {
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
	case log.Size() > HugeLog:
		e.wrong("log", "find and stop the program that reads the file and never ends its transaction, "+
			"such as an open sqlite3 shell or a backup; the log shrinks when the last program closes the queue",
			"%s-wal has grown to %s", path, words.ByteSize(log.Size()))
	case log.Size() == 0:
		e.ok("log", "empty")
	default:
		e.ok("log", "%s", words.ByteSize(log.Size()))
	}
}

// Content looks into the file, all of it.
func (e *Checkup) Content(ctx context.Context, storage *pinion.SQLiteStorage) {
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
			"damaged: %s", words.FirstFew(r.Damage))
	} else {
		e.ok("content", "%s, not damaged", words.ByteSize(r.Size))
	}
	if r.Links > 1 {
		e.wrong("links", "stop all programs that use it and remove the other names, or make symbolic links of them",
			"the file has %d names (hard links); each would have a -wal of its own, and jobs would be lost", r.Links)
	}
	if r.Free > 64<<20 && r.Free > r.Size/2 {
		e.note("space", "new jobs will use it; to give it back, stop the workers and run: sqlite3 FILE VACUUM",
			"%s of %s are unused", words.ByteSize(r.Free), words.ByteSize(r.Size))
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
			"no worker can run these jobs: %s", words.FirstFew(r.Unusable))
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

// jobFacts are the facts about jobs that an examination gathers.
type jobFacts struct {
	stale    tally          // running, without a heartbeat
	future   tally          // added or seen alive in the future
	latest   time.Time      // of those
	notFound map[string]int // jobs that failed because their worker did not know the task
	unknown  map[string]int // pending jobs of tasks that are not in known
}

// Jobs looks at pending and running jobs and at dead letters. stats are those of the storage; if nil, it reads them.
func (e *Checkup) Jobs(ctx context.Context, storage pinion.Inspector, stats *pinion.Stats) {
	facts, err := e.gatherFacts(ctx, storage)
	if err == nil && stats == nil {
		var read pinion.Stats
		read, err = storage.Stats(ctx)
		stats = &read
	}
	if err != nil {
		e.failed("jobs", err)
		return
	}
	e.ok("jobs", "%s pending, %s running, %s", words.Thousands(stats.Total.Pending),
		words.Thousands(stats.Total.Running), words.Plural(stats.DeadLetters, "dead letter"))
	e.reportLeases(facts)
	e.reportTasks(facts, stats)
	e.reportLimits(ctx, storage)
	e.reportClock(facts)
	e.reportWorkers(stats)
}

// gatherFacts reads the jobs that have not ended, and the dead letters: all, or the newest.
func (e *Checkup) gatherFacts(ctx context.Context, storage pinion.Inspector) (*jobFacts, error) {
	facts := &jobFacts{
		notFound: make(map[string]int),
		unknown:  make(map[string]int),
	}
	for _, part := range []struct {
		listing listing
		status  pinion.Status
		lookAt  func(*jobFacts, *pinion.Job)
	}{
		{listing{storage.Jobs, storage.JobsPage}, pinion.StatusRunning, e.lookAtRunning},
		{listing{storage.Jobs, storage.JobsPage}, pinion.StatusPending, e.lookAtPending},
		{listing{storage.DeadLetters, storage.DeadLettersPage}, "", (*jobFacts).lookAtError},
	} {
		for job, err := range e.list(ctx, part.listing, part.status) {
			if err != nil {
				return nil, err
			}
			part.lookAt(facts, job)
		}
	}
	return facts, nil
}

// listing is a listing of a storage, whole or in pages.
type listing struct {
	all  func(context.Context, pinion.Filter) iter.Seq2[*pinion.Job, error]
	page func(context.Context, pinion.Filter, int64) (pinion.Page, error)
}

// list ranges over a listing: over all of it, or over the newest jobs that a page finds.
func (e *Checkup) list(ctx context.Context, l listing, status pinion.Status) iter.Seq2[*pinion.Job, error] {
	if e.Look == 0 {
		return l.all(ctx, pinion.Filter{Status: status})
	}
	return func(yield func(*pinion.Job, error) bool) {
		page, err := l.page(ctx, pinion.Filter{Status: status, Newest: true, Limit: e.Look}, 0)
		if err != nil {
			yield(nil, err)
			return
		}
		for _, job := range page.Jobs {
			if !yield(job, nil) {
				return
			}
		}
	}
}

func (e *Checkup) lookAtRunning(facts *jobFacts, job *pinion.Job) {
	e.lookAtTimes(facts, job)
	expires := job.LeaseUntil
	if expires.IsZero() { // a claim of the Python library
		expires = job.HeartbeatAt.Add(e.Visibility)
	}
	if e.Now.After(expires) {
		facts.stale.add(job.ID)
	}
}

func (e *Checkup) lookAtPending(facts *jobFacts, job *pinion.Job) {
	e.lookAtTimes(facts, job)
	facts.lookAtError(job)
	if len(e.Known) > 0 && !e.Known[strings.ToLower(job.Task)] {
		facts.unknown[job.Task]++
	}
}

// lookAtTimes looks for times in the future. The clocks of two machines may differ a little.
func (e *Checkup) lookAtTimes(facts *jobFacts, job *pinion.Job) {
	at := job.CreatedAt
	if job.HeartbeatAt.After(at) {
		at = job.HeartbeatAt
	}
	if !at.After(e.Now.Add(5 * time.Second)) {
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

func (e *Checkup) reportLeases(facts *jobFacts) {
	if facts.stale.n == 0 {
		e.ok("leases", "all running jobs have had a heartbeat within %v", e.Visibility)
		return
	}
	e.wrong("leases",
		"their workers are dead or hang; start a worker on this queue, and it takes the jobs back within seconds",
		"%s without a heartbeat for %v: %s",
		words.Plural(facts.stale.n, "running job"), e.Visibility, words.FirstFew(facts.stale.ids))
}

// neglect is how long a job of a task may be due before it is clear that no worker knows the task.
const neglect = time.Minute

// unclaimed returns the tasks whose jobs have been due for long and that no worker has claimed, though workers run.
func (e *Checkup) unclaimed(stats *pinion.Stats) (tasks map[string]int, since time.Time) {
	tasks = make(map[string]int)
	since = e.Now
	if stats.Total.Running+stats.Total.SuccessHour+stats.Total.FailedHour == 0 {
		return tasks, since
	}
	for _, t := range stats.Tasks {
		claimed := t.Running+t.SuccessHour+t.FailedHour > 0
		if t.Due == 0 || claimed || e.Now.Sub(t.OldestDue) < neglect {
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
func (e *Checkup) reportLimits(ctx context.Context, storage pinion.Inspector) {
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

func (e *Checkup) reportTasks(facts *jobFacts, stats *pinion.Stats) {
	unclaimed, since := e.unclaimed(stats)
	if len(unclaimed) > 0 {
		e.wrong("tasks", "start a worker that knows them (`pinion tasks` lists what it knows), or cancel the jobs",
			"jobs of these tasks have been due for %v, and no worker has claimed one: %s",
			strings.TrimSuffix(words.Ago(since), " ago"), formatCounts(unclaimed))
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
	if len(e.Known) > 0 {
		e.ok("tasks", "the tasks of all pending jobs are registered here")
	} else {
		e.ok("tasks", "no task waits for a worker that knows it")
	}
}

func (e *Checkup) reportClock(facts *jobFacts) {
	if facts.future.n == 0 {
		e.ok("clock", "no job is from the future")
		return
	}
	e.wrong("clock", "compare the output of `date` on all machines that use the queue; "+
		"the jobs of a clock that was ahead are taken back late",
		"%s added or seen alive in the future, up to %s from now: %s",
		words.Plural(facts.future.n, "job"), words.Between(e.Now, facts.latest), words.FirstFew(facts.future.ids))
}

func (e *Checkup) reportWorkers(stats *pinion.Stats) {
	total := &stats.Total
	waited := e.Now.Sub(total.OldestDue)
	if total.Due == 0 || waited <= time.Minute || total.Running > 0 || total.Minute > 0 {
		return
	}
	e.note("workers",
		"check that a worker runs, and works on these queues: pinion worker --db FILE --import PACKAGE",
		"no job has run in the last minute, %s due, and the oldest has been due for %s",
		words.Are(total.Due, "job"), words.Rough(waited))
}

// formatCounts lists names with their numbers, the largest first.
func formatCounts(counts map[string]int) string {
	names := slices.SortedFunc(maps.Keys(counts), func(a, b string) int {
		return cmp.Or(cmp.Compare(counts[b], counts[a]), cmp.Compare(a, b))
	})
	for i, name := range names {
		names[i] = fmt.Sprintf("%s (%s)", words.Clip(name, 60), words.Thousands(counts[name]))
	}
	return words.FirstFew(names)
}

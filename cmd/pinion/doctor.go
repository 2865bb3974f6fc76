package main

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
It looks for damage in the file, for jobs of dead workers, jobs whose task no
worker knew, jobs that no worker can run, and clocks that disagree. With --import
or --exec it also looks for pending jobs of other tasks than those. It changes
nothing, and reads everything: some seconds for each million jobs.

A line begins with ok, with note for what may be as it is meant, or with WRONG.
The exit status is 1 if something is wrong.
`

const doctorExamples = `pinion doctor --db q.db
pinion doctor --import ./tasks --db q.db
pinion doctor --json --db q.db | jq 'select(.level != "ok")'`

// finding is what an examination has found out.
type finding struct {
	Level string `json:"level"` // ok, note or wrong
	About string `json:"about"`
	Text  string `json:"text"`
	Do    string `json:"do,omitempty"` // what to do next
}

// examination collects findings.
type examination struct {
	now        time.Time
	visibility time.Duration
	findings   []finding
}

func (e *examination) ok(about, format string, args ...any) {
	e.found("ok", about, "", format, args...)
}

func (e *examination) found(level, about, do, format string, args ...any) {
	e.findings = append(e.findings, finding{level, about, fmt.Sprintf(format, args...), do})
}

// failed tells of a look that was not possible.
func (e *examination) failed(about string, err error) {
	do := cmp.Or(strings.TrimPrefix(advice(err), "; "), "mend that, and run doctor again")
	e.found("wrong", about, do, "it could not be looked at: %s", strings.TrimPrefix(err.Error(), "pinion: "))
}

func doctor(c *call) func(context.Context) error {
	c.storageFlags()
	c.execFlags()
	c.jsonFlag()
	e := &examination{visibility: 10 * time.Second}
	c.duration(&e.visibility, "visibility-timeout", "that of the workers, if they have another `TIME` [10s]")
	return func(ctx context.Context) error {
		if err := addPrograms(c.shell, c.execs); err != nil {
			return err
		}
		return c.inspect(ctx, reads, func(storage pinion.Inspector) error {
			e.now = time.Now()
			if s, ok := storage.(*pinion.SQLiteStorage); ok {
				e.file(c.db[len(scheme.FindString(c.db)):])
				e.content(ctx, s)
			}
			e.jobs(ctx, storage)
			return c.report(e.findings)
		})
	}
}

func (c *call) report(findings []finding) error {
	wrong := 0
	for _, f := range findings {
		level, style := f.Level, ""
		switch level {
		case "wrong":
			wrong++
			level, style = "WRONG", red
		case "note":
			style = yellow
		case "ok":
			style = green
		}
		if c.json {
			if err := c.encode(f); err != nil {
				return err
			}
			continue
		}
		fmt.Fprintf(c.stdout, "%s%s  %-9s  %s\n", styled(level, style, c.colours()), strings.Repeat(" ", 5-len(level)), f.About, printable(f.Text, ""))
		if f.Do != "" {
			fmt.Fprintf(c.stdout, "%18s%s\n", "", printable(f.Do, ""))
		}
	}
	switch wrong {
	case 0:
		return nil
	case 1:
		return errors.New("something is wrong; what to do is said above")
	}
	return fmt.Errorf("%d things are wrong; what to do is said above", wrong)
}

// hugeLog is a -wal that has grown by more than what belongs into one: it is begun anew at a few megabytes.
const hugeLog = 256 << 20

// file looks at the file from outside.
func (e *examination) file(path string) {
	info, err := os.Stat(path)
	if err != nil {
		e.failed("file", err)
		return
	}
	switch mode := info.Mode().Perm(); {
	case runtime.GOOS == "windows":
		e.ok("file", "%s", path)
	case mode&0o022 != 0:
		e.found("wrong", "file", "chmod 600 "+path, "everybody, or its group, may change %s, and so run tasks with arguments of their own: its mode is %#o", path, mode)
	case mode&0o044 != 0:
		e.found("note", "file", "if that is not meant: chmod 600 "+path, "others may read the arguments and results in %s: its mode is %#o", path, mode)
	default:
		e.ok("file", "%s, mode %#o", path, mode)
	}
	log, err := os.Stat(path + "-wal")
	switch {
	case err != nil:
		e.ok("log", "there is none: nobody has the queue open to write")
	case log.Size() > hugeLog:
		e.found("wrong", "log", "look for a program that reads the file and never ends its transaction (an open sqlite3 shell, a backup) and stop it; "+
			"the log shrinks when the last program closes the queue", "%s-wal has grown to %s", path, size(log.Size()))
	case log.Size() == 0:
		e.ok("log", "it is empty")
	default:
		e.ok("log", "%s", size(log.Size()))
	}
}

// content looks into the file.
func (e *examination) content(ctx context.Context, storage *pinion.SQLiteStorage) {
	r, err := storage.Check(ctx)
	if err != nil {
		e.failed("content", err)
		if len(r.Damage) == 0 {
			return
		}
	}
	if len(r.Damage) > 0 {
		e.found("wrong", "content", "stop every program that uses it and restore a backup, or save what can be read: sqlite3 OLD .recover | sqlite3 NEW",
			"it is damaged: %s", some(r.Damage))
	} else {
		e.ok("content", "%s, not damaged", size(r.Size))
	}
	if r.Free > 64<<20 && r.Free > r.Size/2 {
		e.found("note", "space", "new jobs fill it; to give it back, stop the workers and: sqlite3 FILE VACUUM", "%s of %s are free", size(r.Free), size(r.Size))
	}
	switch {
	case r.Schema == 0:
		e.found("note", "schema", "the first command that writes adds what it lacks, which Python does not notice", "of the Python library")
	case r.Schema < r.Newest:
		e.found("note", "schema", "the first command that writes brings it up to date; older programs of Pinion cannot open it any more then",
			"version %d; this program's is %d", r.Schema, r.Newest)
	default:
		e.ok("schema", "version %d", r.Schema)
	}
	switch {
	case r.Journal == "wal":
		e.ok("journal", "wal")
	case r.Schema == 0:
		e.found("note", "journal", "the first command that writes makes it wal, which Python does not mind", "%s", r.Journal)
	default:
		e.found("wrong", "journal", "find out which program has changed it; the next worker makes it wal again", "the mode is %s, with which readers and writers wait for each other", r.Journal)
	}
	if len(r.Unusable) > 0 {
		e.found("wrong", "rows", "workers make dead letters of those they meet; mend or delete the rows with the program that wrote them",
			"jobs that no worker can run: %s", some(r.Unusable))
	} else {
		e.ok("rows", "every job can be run")
	}
}

// tally are jobs of one kind: how many, and some ids or names.
type tally struct {
	n    int
	some []string
}

func (t *tally) add(name string) {
	if t.n++; len(t.some) < 4 && !slices.Contains(t.some, name) {
		t.some = append(t.some, name)
	}
}

// some names a few of many.
func some(names []string) string {
	names = slices.Clone(names)
	for i, name := range names {
		names[i] = clip(name, 200)
	}
	if len(names) > 3 {
		return strings.Join(names[:3], ", ") + ", …"
	}
	return strings.Join(names, ", ")
}

// jobs looks at what waits, what runs and what was given up.
func (e *examination) jobs(ctx context.Context, storage pinion.Inspector) {
	var stale, future tally
	unheard, lacking := make(map[string]int), make(map[string]int)
	known := make(map[string]bool)
	if len(imported)+len(programs) > 0 {
		for _, name := range pinion.DefaultRegistry.Names() {
			known[strings.ToLower(name)] = true
		}
	}
	var latest time.Time
	ahead := func(job *pinion.Job) {
		for _, at := range []time.Time{job.CreatedAt, job.HeartbeatAt} {
			if at.After(e.now.Add(5 * time.Second)) {
				future.add(job.ID)
				if at.After(latest) {
					latest = at
				}
				return
			}
		}
	}
	notFound := func(job *pinion.Job) {
		if strings.Contains(job.Error, pinion.ErrTaskNotFound.Error()) {
			unheard[job.Task]++
		}
	}
	due, oldest := 0, e.now
	var err error
	each := func(f pinion.Filter, look func(*pinion.Job)) {
		for job, failed := range storage.Jobs(ctx, f) {
			if err = cmp.Or(err, failed); failed == nil {
				look(job)
			}
		}
	}
	each(pinion.Filter{Status: pinion.StatusRunning}, func(job *pinion.Job) {
		if ahead(job); e.now.Sub(job.HeartbeatAt) > e.visibility {
			stale.add(job.ID)
		}
	})
	each(pinion.Filter{Status: pinion.StatusPending}, func(job *pinion.Job) {
		ahead(job)
		notFound(job)
		if len(known) > 0 && !known[strings.ToLower(job.Task)] {
			lacking[job.Task]++
		}
		if since := later(job.CreatedAt, job.RunAt); since.Before(e.now) {
			due++
			if since.Before(oldest) {
				oldest = since
			}
		}
	})
	for job, failed := range storage.DeadLetters(ctx, pinion.Filter{}) {
		if err = cmp.Or(err, failed); failed == nil {
			notFound(job)
		}
	}
	stats, failed := storage.Stats(ctx)
	if err = cmp.Or(err, failed); err != nil {
		e.failed("jobs", err)
		return
	}
	e.ok("jobs", "%s pending, %s running, %s", thousands(stats.Total.Pending), thousands(stats.Total.Running), plural(stats.DeadLetters, "dead letter"))
	e.leases(stale)
	e.tasks(unheard, lacking, len(known) > 0)
	if future.n > 0 {
		e.found("wrong", "clock", "compare what `date` says on each machine that uses the queue; jobs of a clock that was ahead are taken back late",
			"%s added, or seen alive, in the future, up to %s from now: %s", plural(future.n, "job"), rough(latest.Sub(e.now)), some(future.some))
	} else {
		e.ok("clock", "no job is from the future")
	}
	if waited := e.now.Sub(oldest); due > 0 && waited > time.Minute && stats.Total.Running == 0 && stats.Total.Minute == 0 {
		e.found("note", "workers", "is a worker running, and for these queues? pinion worker --db FILE --import PACKAGE",
			"of %s due the oldest has waited for %s, and none has run in the last minute", plural(due, "job"), rough(waited))
	}
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

func (e *examination) leases(stale tally) {
	if stale.n == 0 {
		e.ok("leases", "every running job has had a heartbeat within %v", e.visibility)
		return
	}
	e.found("wrong", "leases", "their workers are dead, or hang; any worker that runs on this queue takes the jobs back within seconds: start one",
		"%s without a heartbeat for %v: %s", plural(stale.n, "running job"), e.visibility, some(stale.some))
}

func (e *examination) tasks(unheard, lacking map[string]int, known bool) {
	if len(lacking) > 0 {
		e.found("wrong", "tasks", "import the package that registers them, too, or mend their names: jobs of an unknown task fail",
			"there are pending jobs of tasks that are not registered here: %s", counts(lacking))
	}
	if len(unheard) > 0 {
		e.found("wrong", "tasks", "start a worker that knows them (`pinion tasks` lists what one knows), then `pinion dlq-replay --task NAME`; or purge them",
			"jobs have failed because their worker did not know the task: %s", counts(unheard))
	}
	switch {
	case len(lacking)+len(unheard) > 0:
	case known:
		e.ok("tasks", "all pending jobs have one that is registered here")
	default:
		e.ok("tasks", "no job has failed because nobody knew its task")
	}
}

// counts tells numbers by their names, the largest first.
func counts(n map[string]int) string {
	names := slices.SortedFunc(maps.Keys(n), func(a, b string) int { return cmp.Or(cmp.Compare(n[b], n[a]), cmp.Compare(a, b)) })
	for i, name := range names {
		names[i] = fmt.Sprintf("%s (%s)", clip(name, 60), thousands(n[name]))
	}
	return some(names)
}

// size is a number of bytes as people say it.
func size(n int64) string {
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

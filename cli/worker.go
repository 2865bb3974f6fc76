package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/pinion-queue/pinion"
)

const workerDetail = `
The tasks are those that Go packages register, with --import, and programs, with
--exec; see "pinion help import", "pinion help exec" and "pinion help shell". The
worker claims the jobs of these tasks and leaves the others alone.

It logs to standard error and prints its metrics when it ends. SIGINT, SIGTERM or
SIGHUP stops it gracefully; see "pinion help stopping". --drain ends it when there is
nothing more to do: it stays for retries that are due within seconds and for the jobs
of dead workers, and runs them. --every is in "pinion help schedules".

A job that fails is tried again after --base-delay, then after twice that, and so on
up to --cap. After --max-retries it becomes a dead letter. To change how many jobs
run at once while workers run, use "pinion limit".
`

const workerExamples = `# Run the tasks of a Go package, eight at a time.
pinion worker --import ./internal/tasks --db q.db --concurrency 8
# Run programs.
pinion worker --exec 'pack=gzip -k -- {0}' --exec 'greet=echo Hello, {name}' --db q.db
# Run a pipe of the shell.
pinion worker --shell --exec 'count=sort -u -- "$1" | wc -l' --task-timeout 60 --db q.db
# Run the jobs of two queues until there are none.
pinion worker --import ./tasks --db q.db --queue mail --queue default --drain
# Run something each hour.
pinion worker --exec 'tidy=find /tmp/cache -mtime +7 -delete' --every tidy=1h --db q.db
# Build a program that is the command and the tasks.
pinion worker --import ./tasks --build ./work && ./work worker --db q.db
# Keep what programs print, and try one of them only once.
pinion worker --exec 'pack=gzip -k -- {0}' --exec-opt pack:retries=0,timeout=30s --logs --db q.db`

// nameTasks says how to name tasks.
const nameTasks = "name Go packages that register tasks, as in --import ./tasks, " +
	"or programs, as in --exec 'pack=gzip -k -- {0}'"

// workerCall is a call of worker.
type workerCall struct {
	*call
	worker    *pinion.Worker
	retry     pinion.RetryPolicy
	retries   int // negative: as many as the kind of task has
	noJitter  bool
	every     map[string]string // how often, by task
	killAfter time.Duration
	logs      bool // of programs
	noChdir   bool
	period    time.Duration // of --run-seconds; 0: no end
	drain     bool
	verbose   bool
}

func worker(c *call) func(context.Context) error {
	w := &workerCall{
		call:      c,
		worker:    new(pinion.Worker),
		retry:     pinion.DefaultRetry,
		retries:   -1,
		killAfter: 5 * time.Second,
	}
	c.storageFlags()
	c.execFlags()
	c.logsFlag()
	c.flags.BoolVar(&c.json, "json", false, "log and print the metrics as JSON, one object a line")
	c.flags.BoolVar(&w.logs, "logs", false, "keep what programs print, for pinion logs")
	c.flags.BoolVar(&w.noChdir, "no-chdir", false,
		"run programs in the directory of this worker, not of enqueue")
	c.flags.StringVar(&c.build, "build", "", "write the command with its imports to `FILE` and end")
	c.flags.StringVar(&w.worker.Name, "name", "", "name of this worker, which jobs show: `NAME` [host:pid]")
	c.listFlag(&w.worker.Queues, "queue", "only jobs of the queue `NAME`; may be repeated [all]")
	c.countFlag(&w.worker.Concurrency, "concurrency", 1, "run `N` tasks at a time [10]")
	c.countFlag(&w.retries, "max-retries", 0, "`N` retries after a job's first attempt [25; of a program 3]")
	c.durationFlag(&w.retry.BaseDelay, "base-delay", "`TIME` before the first retry; doubles with each [1s]")
	c.durationFlag(&w.retry.Cap, "cap", "longest `TIME` before a retry [1h]")
	c.flags.BoolVar(&w.noJitter, "no-jitter", false, "do not spread the retries at random")
	c.durationFlag(&w.worker.TaskTimeout, "task-timeout", "cancel a task after this `TIME` [none]")
	c.durationFlag(&w.killAfter, "kill-after", "kill a program this `TIME` after it was told to end [5s]")
	c.durationFlag(&w.worker.VisibilityTimeout, "visibility-timeout",
		"a worker that is silent for this `TIME` loses its jobs [10s]")
	c.durationFlag(&w.worker.ShutdownTimeout, "shutdown-timeout",
		"when stopped, wait this `TIME` for running tasks [10s]")
	c.durationFlag(&w.period, "run-seconds", "stop gracefully after this `TIME`")
	c.mapFlag(&w.every, "every", "NAME=TIME", "run a task without arguments at intervals: `NAME=TIME`; may be repeated")
	c.flags.BoolVar(&w.drain, "drain", false, "stop when no job is due and no retry outstanding")
	c.flags.BoolVar(&w.verbose, "verbose", false, "log every job")
	return w.run
}

func (w *workerCall) run(ctx context.Context) error {
	if err := w.checkFlags(); err != nil {
		return err
	}
	w.noneIsNotDefault("shutdown-timeout", &w.worker.ShutdownTimeout)
	w.noneIsNotDefault("base-delay", &w.retry.BaseDelay)
	w.noneIsNotDefault("cap", &w.retry.Cap)
	if err := addPrograms(&w.programs); err != nil {
		return err
	}
	if err := resolvePrograms(); err != nil {
		return err
	}
	w.logs = w.logs || w.logsDir != ""
	if w.logs && len(programs) == 0 {
		return usagef("--logs keeps what programs print; name one with --exec")
	}
	if len(pinion.DefaultRegistry.Names()) == 0 {
		return usagef("this worker knows no task; %s", nameTasks)
	}
	if err := w.setPeriodic(); err != nil {
		return err
	}
	storage, err := w.open(ctx, creates)
	if err != nil {
		return err
	}
	w.stopSlowNotice() // from here on the worker logs its waiting
	w.setRetries()
	w.worker.Storage = storage
	ctx, log := untilUnread(ctx, w.stderr)
	w.surviveClosedPipe()
	w.worker.Logger = newLogger(log, w.json, w.verbose)
	err = w.workWithPrograms(ctx)
	w.did("the worker has ended, and all its jobs are recorded")
	return errors.Join(err, storage.Close(), w.printMetrics(w.worker.Metrics()))
}

// checkFlags returns a usage error for values that Run refuses, and for leases shorter than 10 ms.
func (w *workerCall) checkFlags() error {
	const (
		maxConcurrency = 100_000
		maxName        = 255 // bytes
		shortestLease  = 10 * time.Millisecond
	)
	name, lease := w.worker.Name, w.worker.VisibilityTimeout
	switch {
	case w.worker.Concurrency > maxConcurrency:
		return usagef("--concurrency: %d is too large; want at most %d", w.worker.Concurrency, maxConcurrency)
	case len(name) > maxName:
		return usagef("--name: it has %d bytes; want at most %d", len(name), maxName)
	case !utf8.ValidString(name):
		return usagef("--name: %q is not valid UTF-8", name)
	case w.given("visibility-timeout") && lease < shortestLease:
		return usagef("--visibility-timeout: %v is too short; a worker would lose its jobs while it runs them; "+
			"want at least %v", lease, shortestLease)
	}
	return nil
}

// noneIsNotDefault makes a typed 0 a nanosecond, because the library takes 0 as the default.
func (w *workerCall) noneIsNotDefault(flag string, d *time.Duration) {
	if w.given(flag) {
		*d = max(*d, time.Nanosecond)
	}
}

// workWithPrograms is work, with what the tasks of --exec need.
func (w *workerCall) workWithPrograms(ctx context.Context) error {
	stopSweeping, err := w.startSweeping(ctx)
	if err != nil {
		return err
	}
	defer stopSweeping()
	if len(programs) == 0 {
		return w.work(ctx)
	}
	r, err := newRunner(w.db, w.killAfter, w.worker.Logger)
	if err != nil {
		return err
	}
	defer r.close()
	r.chdir = !w.noChdir
	if w.logs {
		dir, err := w.logsOf()
		if err != nil {
			return err
		}
		r.logs, err = newJobLogs(dir, w.worker.Logger)
		if err != nil {
			return err
		}
	}
	for _, p := range programs {
		p.runner = r
		p.warnOfBraces()
	}
	return w.work(ctx)
}

// startSweeping begins to remove the logs of jobs that are gone, also if this worker keeps none.
func (w *workerCall) startSweeping(ctx context.Context) (stop func(), err error) {
	inspector, isInspector := pinion.As[pinion.Inspector](w.worker.Storage)
	dir, err := w.logsOf()
	if err != nil && w.logs {
		return nil, err
	}
	if err != nil || !isInspector {
		return func() {}, nil
	}
	ctx, cancel := context.WithCancel(ctx)
	var sweeping sync.WaitGroup
	sweeping.Go(func() { sweepRegularly(ctx, inspector, dir, w.worker.Logger) })
	return func() {
		cancel()
		sweeping.Wait()
	}, nil
}

// setRetries sets the retries of the worker, and those of its programs. A program is tried less often than a
// Go task: what it does in an attempt that failed is not known, and most of its failures are mistakes in the
// call.
func (w *workerCall) setRetries() {
	w.retry.Jitter = !w.noJitter
	if w.retries >= 0 {
		w.retry.MaxRetries = w.retries
	}
	w.worker.Retry = &w.retry
	ofPrograms := w.retry
	if w.retries < 0 {
		ofPrograms.MaxRetries = programRetries
	}
	for _, p := range programs {
		p.retry = ofPrograms
		if p.retries >= 0 {
			p.retry.MaxRetries = p.retries
		}
	}
}

// setPeriodic makes the schedules of --every.
func (w *workerCall) setPeriodic() error {
	for _, spelled := range slices.Sorted(maps.Keys(w.every)) {
		name, known := taskName(spelled)
		if !known {
			return usagef("--every %s: there is no such task%s",
				spelled, didYouMean(spelled, pinion.DefaultRegistry.Names()))
		}
		interval, err := parseDuration(w.every[spelled])
		if err != nil {
			return usagef("--every %s: %v", spelled, err)
		}
		if interval < time.Millisecond {
			return usagef("--every %s: an interval of %v is too short; want at least 1ms, as in --every %[1]s=1h",
				spelled, interval)
		}
		job := pinion.Job{Task: name, Queue: pinion.DefaultRegistry.Queue(name)}
		if err := pinion.DefaultRegistry.Check(&job); err != nil {
			text := strings.TrimPrefix(err.Error(), "pinion: ")
			return usagef("--every %s: the task would run without arguments: %s", spelled, text)
		}
		w.worker.Periodic = append(w.worker.Periodic, pinion.Periodic{
			Name:     name,
			Schedule: pinion.Every(interval),
			Job:      func(time.Time) *pinion.Job { return &job },
		})
	}
	return nil
}

// taskName returns the name under which a task is registered. Jobs may spell it otherwise.
func taskName(spelled string) (name string, known bool) {
	for _, name := range pinion.DefaultRegistry.Names() {
		if strings.EqualFold(name, spelled) {
			return name, true
		}
	}
	return "", false
}

// work runs the worker until it is stopped or, with --drain, has nothing more to do.
func (w *workerCall) work(ctx context.Context) error {
	if w.period > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, w.period, errors.New("--run-seconds is over"))
		defer cancel()
	}
	ctx, stop := untilSignal(ctx)
	defer stop()
	logged := make(chan struct{})
	cancelLog := context.AfterFunc(ctx, func() {
		defer close(logged)
		w.worker.Logger.Info("worker stops gracefully; a second signal stops it at once",
			"cause", context.Cause(ctx))
	})
	var err error
	if w.drain { // Run logs its own start
		w.worker.Logger.Info("worker started", "tasks", strings.Join(pinion.DefaultRegistry.Names(), ","))
		err = w.worker.Drain(ctx)
		if err != nil && errors.Is(err, ctx.Err()) {
			err = fmt.Errorf("stopped before the queue was drained: %w", context.Cause(ctx))
		}
	} else {
		err = w.worker.Run(ctx)
	}
	if !cancelLog() {
		<-logged
	}
	if err == nil && context.Cause(ctx) == errUnread {
		err = errUnread
	}
	return err
}

// newLogger returns the logger of a worker.
func newLogger(stderr io.Writer, asJSON, verbose bool) *slog.Logger {
	level := slog.LevelInfo
	if verbose {
		level = slog.LevelDebug
	}
	if asJSON {
		return slog.New(slog.NewJSONHandler(jsonEscaper{stderr}, &slog.HandlerOptions{Level: level}))
	}
	return slog.New(slog.NewTextHandler(stderr, &slog.HandlerOptions{Level: level, ReplaceAttr: escapeDelete}))
}

// escapeDelete escapes the one control character that slog prints as it is in text.
func escapeDelete(_ []string, a slog.Attr) slog.Attr {
	text := a.Value.String()
	if strings.Contains(text, "\x7f") {
		a.Value = slog.StringValue(strings.ReplaceAll(text, "\x7f", `\x7f`))
	}
	return a
}

func (c *call) printMetrics(m pinion.Metrics) error {
	if c.json {
		return c.encode(m)
	}
	w := c.tabbed()
	fmt.Fprintf(w, "processed\t%d\n", m.Processed)
	fmt.Fprintf(w, "succeeded\t%d\n", m.Succeeded)
	fmt.Fprintf(w, "failed\t%d\n", m.Failed)
	fmt.Fprintf(w, "retried\t%d\n", m.Retried)
	fmt.Fprintf(w, "dead-lettered\t%d\n", m.DeadLettered)
	fmt.Fprintf(w, "reaped\t%d\n", m.Reaped)
	if m.Canceled > 0 {
		fmt.Fprintf(w, "canceled\t%d\n", m.Canceled)
	}
	return w.Flush()
}

const tasksDetail = `
These are the tasks that the packages of --import register, and those of --exec,
which ` + "`pinion help worker`" + ` explains. It opens no queue.
`

const tasksExamples = `pinion tasks --import ./tasks
pinion tasks --exec 'pack=gzip -k -- {0}' --json`

// taskInfo is the output of tasks for one task.
type taskInfo struct {
	Name    string `json:"name"`
	Kind    string `json:"kind"` // go, exec or shell
	Queue   string `json:"queue"`
	Command string `json:"command,omitempty"`
}

func tasks(c *call) func(context.Context) error {
	c.importFlag()
	c.execFlags()
	c.jsonFlag()
	return func(context.Context) error {
		if err := addPrograms(&c.programs); err != nil {
			return err
		}
		names := pinion.DefaultRegistry.Names()
		if len(names) == 0 {
			fmt.Fprintln(c.stderr, "pinion: there are no tasks; "+nameTasks)
			return nil
		}
		w := c.tabbed()
		if !c.json {
			row(w, "NAME", "KIND", "QUEUE", "COMMAND")
		}
		for _, name := range names {
			task := newTaskInfo(name)
			if !c.json {
				row(w, task.Name, task.Kind, task.Queue, task.Command)
			} else if err := c.encode(task); err != nil {
				return err
			}
		}
		return w.Flush()
	}
}

func newTaskInfo(name string) taskInfo {
	task := taskInfo{Name: name, Kind: "go", Queue: pinion.DefaultRegistry.Queue(name)}
	if task.Queue == "" {
		task.Queue = "default"
	}
	for _, p := range programs {
		if strings.EqualFold(p.name, name) {
			task.Kind, task.Command = p.kind(), p.command
		}
	}
	return task
}

package crashlab

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/pinion-queue/pinion"
)

// Lab describes an experiment; Run carries it out. Zero values are the defaults in brackets.
type Lab struct {
	DSN  string // for pinion.Open in every process
	Dir  string // an empty folder for the log
	Seed uint64 // of the laboratory's random choices

	Workers   int // processes that run a worker
	Producers int // processes that enqueue
	Pruners   int // processes that delete finished jobs
	Both      int // processes that run a worker and enqueue, with as many producers as slots
	Drains    int // processes that call Worker.Drain, live for some milliseconds, and are started again and again
	Slots     int // of each worker [8]
	Backlog   int // producers pause while more jobs than this are pending [100]

	Kills         int           // by the parent, with kill -9 or TerminateProcess; children also kill themselves
	For           time.Duration // how long the faults last at least
	Pause         time.Duration // between two faults, on average [100ms]
	Visibility    time.Duration // VisibilityTimeout of most workers, of others twice as much [600ms]
	Grace         time.Duration // ShutdownTimeout of the workers [250ms]
	PoisonRetries int           // retries of the jobs that kill their process in each attempt

	// These faults concern all children at once. They are spread over the kills.
	Locks   int           // another program holds the write lock; DSN must be the path of a SQLite file
	Freezes int           // all children are stopped together
	Clocks  int           // their clock is set, forward or back by up to an hour; needs Program
	Longest time.Duration // the longest lock and freeze [3s]

	// Strict lowers the limits on time from a minute to two seconds: a call may wait that long for the storage,
	// and a lost lease may stay lost that long after the time that its reapers need for two looks. The limits are
	// a minute otherwise, because on a busy machine everything may take long. Strict also forbids shutdowns that
	// are not clean and calls that run out of time, except around a stop.
	Strict bool

	Program string // which the children run, of BuildWithClock if there are Clocks [this one]

	Owed map[string]string // jobs that are stored beforehand: their tasks by id
	Logf func(format string, args ...any)
}

const (
	strictWait = 2 * time.Second // the longest that a call may wait for the storage, if Strict
	laxWait    = time.Minute     // the same, if not; the race detector makes SQLite 30 times slower

	// settleTime is how long after a stop, a lock or a freeze the waits that it caused may last.
	settleTime = 500 * time.Millisecond
)

// visibilities are the timeouts of the workers. A lease belongs to its holder, so they may differ.
func (l Lab) visibilities() []time.Duration {
	return []time.Duration{l.Visibility, l.Visibility, 2 * l.Visibility}
}

// longestVisibility is that of the worker with the longest leases.
func (l Lab) longestVisibility() time.Duration { return slices.Max(l.visibilities()) }

// maxExpired is how long a lease of a dead worker may have expired. Within a reapInterval some worker doubts it. If
// that one dies as well, another worker takes the lease back within a reapInterval after the doubt is a whole lease
// old.
func (l Lab) maxExpired() time.Duration {
	longest := l.longestVisibility()
	return longest + 2*reapInterval(longest)
}

// withDefaults fills in the defaults.
func (l Lab) withDefaults() Lab {
	if l.Slots == 0 {
		l.Slots = 8
	}
	if l.Backlog == 0 {
		l.Backlog = 100
	}
	if l.Pause == 0 {
		l.Pause = 100 * time.Millisecond
	}
	if l.Visibility == 0 {
		l.Visibility = 600 * time.Millisecond
	}
	if l.Longest == 0 {
		l.Longest = 3 * time.Second
	}
	if l.Grace == 0 {
		l.Grace = 250 * time.Millisecond
	}
	if l.Logf == nil {
		l.Logf = func(string, ...any) {}
	}
	return l
}

// experiment is a Lab while it runs. It belongs to the goroutine that called Run.
type experiment struct {
	Lab
	random  *rand.Rand
	log     *logFile
	storage pinion.Storage
	sql     SQL // of a Swarm

	children []*process     // those that have not ended
	born     int            // how many children were ever started
	exits    chan *process  // children that have ended
	starts   []delayedStart // of children in the places of others
	problems []string       // about children that ended by themselves, with an error
	stderr   lockedBuffer   // of all children

	disturbances []disturbance // those to come
	locker       *process      // the child that holds the write lock, or is about to; nil: there is none
	thawTimer    *time.Timer   // all children are stopped until this fires; nil: they run
	clock        wallClock     // of the children
	clockSet     time.Time     // when it was last set
	latest       time.Duration // how far it was ahead of the machine's clock at most

	finishing bool // children plan no deaths any more, and of those that end only runners are replaced
	runner    role // the role of the children that finish the jobs at the end

	report        Report
	lastDisturbed time.Time // when a child was last seen stopped, or the lock held by another program
}

func newExperiment(lab Lab) *experiment {
	return &experiment{
		Lab:    lab,
		random: rand.New(rand.NewPCG(lab.Seed, 4)),
		exits:  make(chan *process),
	}
}

// lockedBuffer is a buffer that several goroutines may write to.
type lockedBuffer struct {
	mu  sync.Mutex // guards buf
	buf bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

// Run carries out the experiment. It starts the children and injects faults until all kills are done. Then it
// lets the workers finish every job in peace, and judges what happened. An error means that the experiment
// itself went wrong; broken promises are in the report.
func (l Lab) Run(ctx context.Context) (Report, error) {
	e := newExperiment(l.withDefaults())
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	err := e.run(ctx)
	e.finishing = true
	cancel()
	e.killAll() // after an error; otherwise none is left
	if e.storage != nil {
		err = errors.Join(err, e.storage.Close())
	}
	return e.report, err
}

func (e *experiment) run(ctx context.Context) error {
	begun := time.Now()
	var err error
	e.log, err = openLog(e.logPath(), 0)
	if err != nil {
		return err
	}
	defer e.log.file.Close()
	if e.Clocks > 0 {
		e.clock, err = openClock(e.clockPath())
		if err != nil {
			return err
		}
	}
	if err := e.startAll(ctx); err != nil {
		return err
	}
	e.storage, err = pinion.Open(ctx, e.DSN)
	if err != nil {
		return err
	}
	if err := e.planDisturbances(); err != nil {
		return err
	}
	if err := e.injectFaults(ctx, begun); err != nil {
		return err
	}
	faultsEnded := time.Now()
	if err := e.finish(ctx); err != nil {
		return err
	}
	e.report.Seed = e.Seed
	e.report.Faults = faultsEnded.Sub(begun)
	e.report.Took = time.Since(begun)
	return e.judge(ctx)
}

func (e *experiment) logPath() string { return filepath.Join(e.Dir, "log") }

func (e *experiment) clockPath() string { return filepath.Join(e.Dir, "clock") }

// KillOpening starts n processes that open a storage, and migrate it if need be. They kill themselves at random
// moments soon after their start. KillOpening returns when all are dead. dir is an empty folder for the log.
func KillOpening(ctx context.Context, dsn, dir string, seed uint64, n int) error {
	e := newExperiment(Lab{DSN: dsn, Dir: dir, Kills: n, Seed: seed})
	var err error
	e.log, err = openLog(e.logPath(), 0)
	if err != nil {
		return err
	}
	defer e.log.file.Close()
	for range n {
		if err := e.start(ctx, roleOpen); err != nil {
			e.killAll()
			return err
		}
	}
	e.finishing = true
	e.waitForAll()
	printed := e.stderr.String()
	if printed != "" || len(e.problems) > 0 {
		return fmt.Errorf("crashlab: children that open %s: %s\n%s", dsn, strings.Join(e.problems, "\n"), printed)
	}
	return nil
}

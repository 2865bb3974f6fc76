package crashlab

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/pinion-queue/pinion"
)

// Swarm is a smaller experiment than [Lab], for one promise at a time. Processes of one kind work on a queue until a
// number of jobs are done, and meanwhile some are killed or stopped and replaced. The test judges what they left.
type Swarm struct {
	DSN        string
	Dir        string // an empty folder for the log
	Seed       uint64
	Proof      Proof
	Processes  int
	Slots      int           // of each worker
	Visibility time.Duration // of the workers; of some it is twice as long
	Kills      int           // spread over the jobs; after every fourth, a worker is stopped until it has lost its leases
	Total      int           // how many jobs there are to do

	// Done returns how many jobs are done. It is called often, and must not wait for the file's write lock, because the
	// process that holds it may be stopped.
	Done func(ctx context.Context) (int, error)
}

// Proof is what a Swarm is to prove, and so what its workers do.
type Proof = role

// The proofs, with the tasks that their workers know.
const (
	ProofExactlyOnce Proof = "exactly once" // ExactTask
	ProofLimit       Proof = "limit"        // ShortTask
	ProofPeriodic    Proof = "periodic"     // PeriodicName, in two versions
)

// SwarmReport is what a Swarm did.
type SwarmReport struct {
	Kills, Stops int
	Runs         []Run // in the order in which they started
	MostAtOnce   int   // how many of them ran at the same time
}

// Run is one run of a task.
type Run struct {
	ID    string // of the job
	Slot  string // of a periodic job: its time
	Ended bool   // the task returned before its process was killed or stopped
}

// Run runs the processes until the jobs are done. Those that are left are told to stop.
func (s Swarm) Run(ctx context.Context) (SwarmReport, error) {
	lab := Lab{DSN: s.DSN, Dir: s.Dir, Seed: s.Seed, Slots: s.Slots, Visibility: s.Visibility}
	e := newExperiment(lab.withDefaults())
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	err := s.run(ctx, e)
	e.ending = true
	cancel()
	e.killAll() // after an error; otherwise none is left
	if err != nil {
		return SwarmReport{}, err
	}
	if printed := e.stderr.String(); printed != "" || len(e.problems) > 0 {
		return SwarmReport{}, fmt.Errorf("crashlab: %s\n%s", strings.Join(e.problems, "\n"), printed)
	}
	lines, err := readLog(e.logPath())
	if err != nil {
		return SwarmReport{}, err
	}
	report := judgeRuns(lines)
	report.Kills = e.report.Kills
	report.Stops = e.report.Stops
	return report, nil
}

func (s Swarm) run(ctx context.Context, e *experiment) error {
	var err error
	e.log, err = openLog(e.logPath(), 0)
	if err != nil {
		return err
	}
	defer e.log.file.Close()
	for range s.Processes {
		if err := e.start(ctx, s.Proof); err != nil {
			return err
		}
	}
	patience := time.Minute + 20*e.longestVisibility()
	giveUp := time.NewTimer(patience) // fires if no job is done for that long
	defer giveUp.Stop()
	look := time.NewTicker(10 * time.Millisecond)
	defer look.Stop()
	most := 0
	for {
		if err := e.startDelayed(ctx); err != nil {
			return err
		}
		select {
		case p := <-e.exits:
			e.childEnded(p)
		case <-look.C:
			e.resumeStopped()
			done, err := s.Done(ctx)
			if err != nil {
				return err
			}
			if done > most {
				most = done
				giveUp.Reset(patience)
			}
			if done >= s.Total && !e.isAnyStopped() {
				return e.stopAll(patience)
			}
			s.harmOne(e, done)
		case <-giveUp.C:
			return fmt.Errorf("crashlab: no job was done for %v; %d of %d are", patience, most, s.Total)
		case <-ctx.Done():
			return errors.Join(ctx.Err(), fmt.Errorf("crashlab: %d of %d jobs are done", most, s.Total))
		}
	}
}

// harmOne kills a process, or stops one, if enough jobs are done since the last time.
func (s Swarm) harmOne(e *experiment, done int) {
	isDue := done*(s.Kills+1) > e.report.Kills*s.Total
	if !isDue || e.report.Kills >= s.Kills || len(e.children) == 0 {
		return
	}
	p := e.children[e.random.IntN(len(e.children))]
	switch {
	case p.killed || p.stopTimer != nil || time.Now().Before(p.sparedTill):
	case e.report.Stops < e.report.Kills/4 && !e.isAnyStopped():
		e.stop(p)
	default:
		e.kill(p)
	}
}

// judgeRuns finds the runs of tasks, and how many there were at a time. A task runs no more once its process is killed
// or stopped: a process that goes on has lost the lease, and learns that with its next heartbeat.
func judgeRuns(lines []logLine) SwarmReport {
	type key struct {
		child int
		claim string
	}
	var report SwarmReport
	running := make(map[key]int) // indexes of report.Runs
	for _, line := range lines {
		switch line.verb {
		case logStart:
			id, _, _ := strings.Cut(line.words[0], ":")
			running[key{line.child, line.words[0]}] = len(report.Runs)
			report.Runs = append(report.Runs, Run{ID: id, Slot: line.words[1]})
			report.MostAtOnce = max(report.MostAtOnce, len(running))
		case logEnd:
			k := key{line.child, line.words[0]}
			if at, ok := running[k]; ok {
				report.Runs[at].Ended = true
				delete(running, k)
			}
		case logKill, logStop:
			for k := range running {
				if fmt.Sprint(k.child) == line.words[0] {
					delete(running, k)
				}
			}
		}
	}
	return report
}

// ---- The children ----

// The tasks of the proofs.
const (
	ShortTask = "short" // takes 5 to 25 ms

	// ExactTask adds 1 to the only row of the table sums, in a transaction of its own that also ends the job. If its
	// argument is true it enqueues another job, with false, in the same transaction.
	ExactTask = "exact"

	// PeriodicName is the name of a periodic job. Half of the workers make it each 200 ms and the others each 300 ms.
	PeriodicName = "tick"
)

// prove runs a worker of a Swarm until ctx ends.
func (c *child) prove(ctx context.Context, storage pinion.Storage) error {
	worker := c.worker()
	worker.Storage = storage
	worker.Registry = new(pinion.Registry)
	worker.Retry = &pinion.RetryPolicy{MaxRetries: 1000, BaseDelay: time.Millisecond, Cap: 20 * time.Millisecond}
	switch c.Role {
	case ProofExactlyOnce:
		db, err := openForTransactions(c.DSN)
		if err != nil {
			return err
		}
		defer db.Close()
		p := exactly{child: c, db: db, storage: storage.(*pinion.SQLiteStorage)}
		worker.Registry.Add(pinion.Task[exactArgs]{Name: ExactTask, Run: p.run})
	case ProofLimit:
		worker.Registry.Add(pinion.Task[slotArgs]{Name: ShortTask, Run: c.short})
	case ProofPeriodic:
		worker.Registry.Add(pinion.Task[slotArgs]{Name: ShortTask, Run: c.short})
		worker.Periodic = []pinion.Periodic{{
			Name:     PeriodicName,
			Schedule: pinion.Every([]time.Duration{200 * time.Millisecond, 300 * time.Millisecond}[c.Number%2]),
			Job:      func(at time.Time) *pinion.Job { return pinion.NewJob(ShortTask, at.Format(time.RFC3339Nano)) },
		}}
	}
	return worker.Run(ctx)
}

// slotArgs are the arguments of ShortTask.
type slotArgs struct {
	Slot string `json:"slot,omitempty"` // of a periodic job
}

func (c *child) short(ctx context.Context, args slotArgs) error {
	job, _ := pinion.JobFromContext(ctx)
	c.log.write(logStart, claimName(job), "slot "+args.Slot)
	defer c.log.write(logEnd, claimName(job))
	return sleep(ctx, 5*time.Millisecond+randomTime(c.newRandom(job), 20*time.Millisecond))
}

package crashlab

import (
	"context"
	"database/sql"
	"fmt"
	"maps"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/pinion-queue/pinion"
)

// Swarm is a smaller experiment than [Lab], for one promise at a time. Processes of one kind work on a queue until a
// number of jobs are done. Meanwhile some of them are killed, or stopped until they have lost their leases, and
// replaced.
type Swarm struct {
	DSN   string // for pinion.Open in every process; the queue must be empty
	SQL   SQL    // the same queue, for database/sql
	Dir   string // an empty folder for the log
	Seed  uint64
	Proof Proof
	Jobs  int // how many jobs to enqueue, or for how many runs of a periodic job to wait
	Kills int // spread over the jobs; for every fourth, a worker is stopped
}

// Proof is what a Swarm is to prove, and so what its workers do.
type Proof = role

// The proofs.
const (
	// ProofExactlyOnce has four processes with four slots. Each job adds 1 to a row, and enqueues a second job that
	// does the same, in the transaction that ends the job. The sum must be exact.
	ProofExactlyOnce Proof = "exactly once"
	// ProofLimit has eight processes with eight slots, which share a queue with a limit of three.
	ProofLimit Proof = "limit"
	// ProofPeriodic has three processes of two versions of a program, which differ in the schedule of a periodic job.
	ProofPeriodic Proof = "periodic"
)

// SQL says how database/sql reaches the tables of a queue.
type SQL struct {
	Driver string
	Source string // the driver's data source name
	Schema string // what stands in front of the name of a table, with its dot; "": nothing
}

// SQLOfFile is the SQL of a queue in a SQLite file, as an application opens it that keeps its own tables there.
func SQLOfFile(path string) SQL {
	return SQL{Driver: "sqlite", Source: path + "?_txlock=immediate&_pragma=busy_timeout(20000)"}
}

func (s SQL) open() (*sql.DB, error) { return sql.Open(s.Driver, s.Source) }

// text puts the Schema in the place of each @.
func (s SQL) text(statement string) string { return strings.ReplaceAll(statement, "@", s.Schema) }

// SwarmReport is what a Swarm did.
type SwarmReport struct {
	Seed       uint64
	Jobs       int // that are done
	Kills      int
	Stops      int
	Runs       int           // of tasks
	MostAtOnce int           // how many of them ran at the same time
	LongestGap time.Duration // of ProofPeriodic: how long no next run was stored

	Violations []string // promises that were not kept
}

// String returns a summary without the violations.
func (r SwarmReport) String() string {
	text := fmt.Sprintf("seed %d: %d jobs, %d runs, at most %d at the same time; %d kills, %d processes stopped alone",
		r.Seed, r.Jobs, r.Runs, r.MostAtOnce, r.Kills, r.Stops)
	if r.LongestGap > 0 {
		text += fmt.Sprintf("; no next run for at most %v", r.LongestGap.Round(time.Millisecond))
	}
	return text
}

// swarmVisibility is the VisibilityTimeout of the workers of a Swarm; of some it is twice as long.
const swarmVisibility = 600 * time.Millisecond

// swarm is a Swarm while it runs.
type swarm struct {
	Swarm
	*experiment
	storage Storage
	db      *sql.DB
	proof   proof
	total   int // how many jobs there are to do
}

// proof is the parent's part of a Proof.
type proof interface {
	size() (processes, slots int)
	// prepare stores what the workers find, and sets the total of the swarm.
	prepare(ctx context.Context, w *swarm) error
	// look looks at the queue while the workers work. It is called often.
	look(ctx context.Context, w *swarm) error
	// judge adds violations to the report.
	judge(ctx context.Context, w *swarm, report *SwarmReport, left leftovers) error
}

// leftovers is what a swarm leaves.
type leftovers struct {
	runs []run
	jobs map[string]*pinion.Job // every job that is stored, by id
}

// Run runs the processes until the jobs are done, and judges what they left. An error means that the experiment itself
// went wrong; broken promises are in the report.
func (s Swarm) Run(ctx context.Context) (SwarmReport, error) {
	proof := newProof(s.Proof)
	_, slots := proof.size()
	e := newExperiment(Lab{DSN: s.DSN, Dir: s.Dir, Seed: s.Seed, Slots: slots,
		Visibility: swarmVisibility}.withDefaults())
	e.sql = s.SQL
	w := &swarm{Swarm: s, experiment: e, proof: proof}
	opened, err := pinion.Open(ctx, s.DSN)
	if err != nil {
		return SwarmReport{}, err
	}
	defer opened.Close()
	w.storage = opened.(Storage)
	w.db, err = s.SQL.open()
	if err != nil {
		return SwarmReport{}, err
	}
	defer w.db.Close()
	return w.run(ctx)
}

func (w *swarm) run(ctx context.Context) (SwarmReport, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	err := w.proof.prepare(ctx, w)
	if err == nil {
		err = w.workUntilDone(ctx)
	}
	if err != nil {
		cancel()
		w.killAll()
		return SwarmReport{}, err
	}
	return w.judge(ctx)
}

// workUntilDone starts the processes, and tells them to stop when all jobs are done.
func (w *swarm) workUntilDone(ctx context.Context) error {
	var err error
	w.log, err = openLog(w.logPath(), 0)
	if err != nil {
		return err
	}
	defer w.log.file.Close()
	processes, _ := w.proof.size()
	for range processes {
		if err := w.start(ctx, w.Proof); err != nil {
			return err
		}
	}
	patience := newPatience(time.Minute + 20*w.longestVisibility())
	most := 0
	err = w.watch(ctx, 10*time.Millisecond, func() (over bool, err error) {
		if err := w.proof.look(ctx, w); err != nil {
			return false, err
		}
		done, err := w.count(ctx, `SELECT count(*) FROM @jobs WHERE status='SUCCESS'`)
		if err != nil {
			return false, err
		}
		if done > most {
			most = done
			patience.renew()
		}
		if done >= w.total && !w.isAnyStopped() {
			return true, nil
		}
		if patience.isOver() {
			return false, fmt.Errorf("none was done for %v; not done are %s", patience.limit, w.undone(ctx))
		}
		w.harmOne(done)
		return false, nil
	})
	if err != nil {
		return fmt.Errorf("crashlab: %d of %d jobs are done: %w", most, w.total, err)
	}
	return w.stopAll(ctx, patience.limit)
}

// undone describes some of the jobs that are not done.
func (w *swarm) undone(ctx context.Context) string {
	var jobs []string
	for job, err := range w.storage.Jobs(ctx, pinion.Filter{}) {
		if err != nil {
			return err.Error()
		}
		if job.Status != pinion.StatusSuccess {
			jobs = append(jobs, fmt.Sprintf("%s (%s, %d attempts: %s)", job.ID, job.Status, job.Attempts, job.Error))
		}
		if len(jobs) == 10 {
			break
		}
	}
	return strings.Join(jobs, ", ")
}

// count returns the number that a query returns. A query must not wait for the write lock of a file, because a process
// that is stopped may hold it.
func (w *swarm) count(ctx context.Context, query string) (n int, err error) {
	err = w.db.QueryRowContext(ctx, w.SQL.text(query)).Scan(&n)
	return n, err
}

// enqueueAll enqueues as many jobs as the Swarm asks for.
func (w *swarm) enqueueAll(ctx context.Context, newJob func() *pinion.Job) error {
	for left := w.Jobs; left > 0; {
		jobs := make([]*pinion.Job, min(left, 1000))
		for i := range jobs {
			jobs[i] = newJob()
		}
		if err := w.storage.Enqueue(ctx, jobs...); err != nil {
			return err
		}
		left -= len(jobs)
	}
	return nil
}

// harmOne kills a process, or stops one, if enough jobs are done since the last time.
func (w *swarm) harmOne(done int) {
	kills := w.Swarm.Kills
	isDue := done*(kills+1) > w.report.Kills*w.total
	if !isDue || w.report.Kills >= kills || len(w.children) == 0 {
		return
	}
	p := w.children[w.random.IntN(len(w.children))]
	switch {
	case p.killed || p.stopTimer != nil || time.Now().Before(p.sparedTill):
	case w.report.Stops < w.report.Kills/4 && !w.isAnyStopped():
		w.stop(p)
	default:
		w.kill(p)
	}
}

// ---- The judgement ----

func (w *swarm) judge(ctx context.Context) (SwarmReport, error) {
	lines, err := readLog(w.logPath())
	if err != nil {
		return SwarmReport{}, err
	}
	report := SwarmReport{Seed: w.Seed, Kills: w.report.Kills, Stops: w.report.Stops, Violations: w.problems}
	if printed := w.stderr.String(); printed != "" {
		report.violation("the children printed:\n%.4000s", printed)
	}
	left := leftovers{jobs: make(map[string]*pinion.Job)}
	left.runs, report.MostAtOnce = findRuns(lines)
	report.Runs = len(left.runs)
	for job, err := range w.storage.Jobs(ctx, pinion.Filter{}) {
		if err != nil {
			return SwarmReport{}, err
		}
		left.jobs[job.ID] = job
		if job.Status == pinion.StatusSuccess {
			report.Jobs++
		}
	}
	err = w.proof.judge(ctx, w, &report, left)
	return report, err
}

func (r *SwarmReport) violation(format string, args ...any) {
	r.Violations = append(r.Violations, fmt.Sprintf(format, args...))
}

// judgeAllDone checks that every job succeeded, and that there are no others.
func (w *swarm) judgeAllDone(report *SwarmReport, jobs map[string]*pinion.Job) {
	for _, job := range jobs {
		if job.Status != pinion.StatusSuccess {
			report.violation("job %s is %s after %d attempts: %s", job.ID, job.Status, job.Attempts, job.Error)
		}
	}
	if len(jobs) != w.total {
		report.violation("there are %d jobs, want %d", len(jobs), w.total)
	}
}

// run is one run of a task.
type run struct {
	id   string // of the job
	slot string // of a periodic job: its time
}

// findRuns finds the runs of tasks, and how many there were at a time. What a process has claimed runs no more once the
// process is killed or stopped: one that goes on has lost those leases, and learns that with its next heartbeat. It may
// even start jobs that it had claimed before it was stopped.
func findRuns(lines []logLine) (runs []run, mostAtOnce int) {
	type key struct {
		child int
		claim string
	}
	running := make(map[key]bool)
	lost := make(map[int]int64) // by child: its claims up to this one have lost their leases
	for _, line := range lines {
		switch line.verb {
		case logStart:
			id, claim, _ := strings.Cut(line.words[0], ":")
			runs = append(runs, run{id: id, slot: line.words[1]})
			number, _ := strconv.ParseInt(claim, 10, 64) // the time of the claim in Unix microseconds
			if number > lost[line.child] {
				running[key{line.child, line.words[0]}] = true
			}
			mostAtOnce = max(mostAtOnce, len(running))
		case logEnd:
			delete(running, key{line.child, line.words[0]})
		case logKill, logStop:
			child, _ := strconv.Atoi(line.words[0])
			lost[child] = math.MaxInt64
			maps.DeleteFunc(running, func(k key, _ bool) bool { return k.child == child })
		case logResume:
			child, _ := strconv.Atoi(line.words[0])
			lost[child] = line.at
		}
	}
	return runs, mostAtOnce
}

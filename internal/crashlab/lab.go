//go:build unix

// Package crashlab is a laboratory in which the processes that share a queue are killed, stopped and replaced while
// they work, and afterwards it is looked up, in what they wrote down and in the storage, whether the promises of
// package pinion were kept. It knows storages by pinion.Open only, so that any backend's tests may use it.
//
// The parent is [Lab.Run], in a test. Its children are the same test binary again: see [Child]. All write to one log.
// A test that says crashlab.Lab{…}.Run(ctx) gets a [Report], whose Violations are to be empty.
//
// What it cannot show. The moments of the kills are random and the seed fixes the laboratory's own choices, not the
// scheduler's: the same seed deals another hand of cards from the same pack. A process is killed and not the machine:
// what it had written is still in the operating system's cache (the loss of power is a test of its own, beside each
// backend). A process that is stopped (SIGSTOP) while it holds the write lock of a file holds it for as long: what
// others waited for meanwhile is reported apart.
//
// What is known to be lost, and not looked for: a job that needs longer than the moments are spread at which jobs
// are due again after their second lost lease (Attempts × visibility) may run beside a killer each time and be
// dead-lettered with it. That is reported, as Innocent.
package crashlab

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/pinion-queue/pinion"
)

// Lab is one experiment. Zero values are the defaults in brackets.
type Lab struct {
	DSN  string // for pinion.Open in every process
	Dir  string // for the log; a new one
	Seed uint64

	Workers   int // processes that work
	Producers int // processes that enqueue
	Pruners   int // processes that delete what is finished
	Both      int // processes that work and enqueue, with as many producers as slots
	Slots     int // of each worker [8]
	Backlog   int // jobs that wait, above which nothing is enqueued [100]

	Kills         int           // to be dealt, not counting those that the children deal themselves
	For           time.Duration // at least
	Pause         time.Duration // between two kills, on average [100ms]
	Visibility    time.Duration // of the workers; they beat and reap four times in it [600ms]
	Grace         time.Duration // for running tasks when a worker is told to stop [250ms]
	PoisonRetries int           // of the jobs that kill their process each time

	// Strict also fails for what takes too long: a write that waits two seconds, a lost lease that is taken back two
	// seconds too late, a shutdown that gives up. On a machine that others use such limits say little, so without Strict
	// the first two are a minute.
	Strict bool

	Owed map[string]string // jobs that are in the storage beforehand: their ids and tasks
	Logf func(format string, args ...any)
}

// lab is a Lab while it runs. One goroutine, that of Run, owns it.
type lab struct {
	Lab
	rnd      *rand.Rand
	book     *book
	storage  pinion.Storage
	children []*process
	born     int
	exits    chan *process
	ending   bool // nobody is replaced any more
	troubles []string
	stderr   safeBuffer

	report  Report
	resumed time.Time // when a stopped child last went on
}

// process is a child as its parent knows it.
type process struct {
	who     int
	role    string
	cmd     *exec.Cmd
	stdin   interface{ Close() error }
	struck  bool // it was sent SIGKILL
	told    bool // it was sent SIGTERM
	fated   bool // it will kill itself
	stopped *time.Timer
	spared  time.Time // it was stopped, and may do until then what it likes
	err     error     // of its end
}

type safeBuffer struct {
	mu  sync.Mutex // guards buf
	buf bytes.Buffer
}

func (b *safeBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *safeBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

const (
	lockMost   = 2 * time.Second // that a process waits for the lock, by the promise
	noisyMost  = time.Minute     // the same, where nothing is known of the machine: under the race detector SQLite is 30 times slower
	settleTime = 500 * time.Millisecond
)

// Run carries the experiment out: children are started, killed and replaced until the kills are dealt, then what is
// left is worked off in peace, and all is judged. Its error says that the experiment itself went wrong.
func (l Lab) Run(ctx context.Context) (Report, error) {
	for _, d := range []struct {
		field *int
		value int
	}{{&l.Slots, 8}, {&l.Backlog, 100}} {
		if *d.field == 0 {
			*d.field = d.value
		}
	}
	if l.Pause == 0 {
		l.Pause = 100 * time.Millisecond
	}
	if l.Visibility == 0 {
		l.Visibility = 600 * time.Millisecond
	}
	if l.Grace == 0 {
		l.Grace = 250 * time.Millisecond
	}
	if l.Logf == nil {
		l.Logf = func(string, ...any) {}
	}
	r := &lab{Lab: l, rnd: rand.New(rand.NewPCG(l.Seed, 4)), exits: make(chan *process)}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	err := r.run(ctx)
	r.ending = true
	cancel()
	for _, p := range r.children { // none, after a good end
		p.cmd.Process.Kill()
	}
	for len(r.children) > 0 {
		r.gone(ctx, <-r.exits)
	}
	if r.storage != nil {
		err = errors.Join(err, r.storage.Close())
	}
	return r.report, err
}

// KillOpening starts n processes that open the storage, which may be an old one that they bring up to date, and kill
// themselves somewhere on the way. It returns when all are dead; dir is for the log.
func KillOpening(ctx context.Context, dsn, dir string, seed uint64, n int) (err error) {
	r := &lab{Lab: Lab{DSN: dsn, Dir: dir, Kills: n}, rnd: rand.New(rand.NewPCG(seed, 4)), exits: make(chan *process)}
	if r.book, err = openBook(r.logPath(), 0); err != nil {
		return err
	}
	defer r.book.file.Close()
	for range n {
		err = errors.Join(err, r.start(ctx, roleOpen))
	}
	r.ending = true
	for len(r.children) > 0 {
		r.gone(ctx, <-r.exits)
	}
	if said := r.stderr.String(); said != "" || len(r.troubles) > 0 {
		err = errors.Join(err, fmt.Errorf("%s\n%s", strings.Join(r.troubles, "\n"), said))
	}
	return err
}

func (r *lab) logPath() string { return filepath.Join(r.Dir, "log") }

func (r *lab) run(ctx context.Context) (err error) {
	begun := time.Now()
	if r.book, err = openBook(r.logPath(), 0); err != nil {
		return err
	}
	defer r.book.file.Close()
	for role, n := range map[string]int{roleWork: r.Workers, roleProduce: r.Producers, rolePrune: r.Pruners, roleBoth: r.Both} {
		for range n {
			if err := r.start(ctx, role); err != nil {
				return err
			}
		}
	}
	if r.storage, err = pinion.Open(ctx, r.DSN); err != nil {
		return err
	}
	if err := r.deal(ctx, begun); err != nil {
		return err
	}
	dealt := time.Now()
	if err := r.drain(ctx); err != nil {
		return err
	}
	r.report.Seed, r.report.Dealing, r.report.Took = r.Seed, dealt.Sub(begun), time.Since(begun)
	return r.judge(ctx)
}

// start starts a child. A third of them have a call in which they will kill themselves.
func (r *lab) start(ctx context.Context, role string) error {
	r.born++
	o := order{Who: r.born, Role: role, DSN: r.DSN, Log: r.logPath(), Seed: r.rnd.Uint64(), Slots: r.Slots, Producers: 1,
		Backlog: r.Backlog, Visibility: r.Visibility, Grace: r.Grace, PoisonRetries: r.PoisonRetries}
	if role == roleBoth {
		o.Producers = r.Slots
	}
	if r.Kills > 0 && !r.ending && (r.rnd.IntN(3) == 0 || role == roleOpen) {
		o.Fate = r.fate(role)
	}
	told, err := json.Marshal(o)
	if err != nil {
		return err
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	p := &process{who: o.Who, role: role, fated: o.Fate.Verb != "", cmd: exec.CommandContext(ctx, self)}
	p.cmd.Env = append(os.Environ(), variable+"="+string(told))
	p.cmd.Stdout, p.cmd.Stderr = &r.stderr, &r.stderr
	if p.stdin, err = p.cmd.StdinPipe(); err != nil {
		return err
	}
	if err := p.cmd.Start(); err != nil {
		return err
	}
	r.book.write("born", strconv.Itoa(p.who), role, "fate "+o.Fate.Verb)
	r.children = append(r.children, p)
	go func() { // ends with the child, whose end is always waited for
		p.err = p.cmd.Wait()
		r.exits <- p
	}()
	return nil
}

func (r *lab) fate(role string) fate {
	verbs := map[string][]string{
		roleWork:    {"open", "claim", "done", "failed", "dead", "dead", "heartbeat", "release", "reap", "enqueue", "close"},
		roleProduce: {"open", "enqueue", "close"},
		rolePrune:   {"open", "prune", "close"},
		roleOpen:    {"open"},
	}[role]
	if len(verbs) == 0 {
		return fate{}
	}
	f := fate{Verb: verbs[r.rnd.IntN(len(verbs))], Nth: 1, After: time.Duration(1) << r.rnd.IntN(23)} // up to 4 ms
	switch f.Verb {
	case "open":
		f.After = upTo(r.rnd, 100*time.Millisecond)
	case "claim", "done", "enqueue":
		f.Nth += r.rnd.Int64N(40)
	case "failed", "heartbeat", "reap", "prune":
		f.Nth += r.rnd.Int64N(4)
	}
	return f
}

// deal deals the kills.
func (r *lab) deal(ctx context.Context, begun time.Time) error {
	strike := time.NewTimer(r.Pause)
	defer strike.Stop()
	look := time.NewTicker(reapInterval(r.Visibility) / 2)
	defer look.Stop()
	said := time.Now()
	for r.report.Kills < r.Kills || time.Since(begun) < r.For {
		select {
		case <-strike.C:
			if strike.Reset(upTo(r.rnd, 2*r.Pause) + 1); r.report.Kills < r.Kills {
				if err := r.strike(ctx); err != nil {
					return err
				}
			}
		case p := <-r.exits:
			if err := r.gone(ctx, p); err != nil {
				return err
			}
		case <-look.C:
			if err := r.look(ctx); err != nil {
				return err
			}
		case <-ctx.Done():
			return ctx.Err()
		}
		if time.Since(said) > 10*time.Second {
			said = time.Now()
			r.Logf("after %v: %d kills", time.Since(begun).Round(time.Second), r.report.Kills)
		}
		if len(r.troubles) > 20 {
			return fmt.Errorf("the children do not live: %s", strings.Join(r.troubles, "; "))
		}
	}
	return nil
}

// strike does something to a child: mostly it is killed, at times while it shuts down; some only are told to shut
// down, and now and then one is stopped until its leases are lost. Beside that, jobs are enqueued that kill.
func (r *lab) strike(ctx context.Context) error {
	stopped := slices.ContainsFunc(r.children, func(p *process) bool { return p.stopped != nil })
	if !stopped && r.rnd.IntN(6) == 0 { // a stopped process may have the lock, and who waits for it cannot let it go on
		c := &child{book: r.book}
		c.s = &watched{r.storage, c}
		kind := []string{"poison", "poison once"}[r.rnd.IntN(2)]
		if err := c.enqueue(ctx, newJob(kind, r.rnd)); err != nil {
			return err
		}
	}
	p := r.children[r.rnd.IntN(len(r.children))]
	switch n := r.rnd.IntN(20); {
	case p.struck || p.told && n < 5:
	case p.stopped != nil || time.Now().Before(p.spared): // what it does when it comes back is to be seen
	case !stopped && r.report.Stops <= r.report.Kills/25 && r.report.Kills > 2 && p.role == roleWork && !p.fated:
		r.stop(p)
	case n < 2:
		p.told = true
		r.signal(p, syscall.SIGTERM)
	case n < 5:
		p.told = true
		r.signal(p, syscall.SIGTERM)
		if nap(ctx, upTo(r.rnd, 1<<(18+r.rnd.IntN(11)))) == nil { // up to a quarter of a second
			r.kill(p)
		}
	default:
		r.kill(p)
	}
	return nil
}

func (r *lab) signal(p *process, s syscall.Signal) { p.cmd.Process.Signal(s) }

func (r *lab) kill(p *process) {
	p.struck = true
	r.book.write("kill", strconv.Itoa(p.who))
	r.signal(p, syscall.SIGKILL)
}

// stop stops a child for longer than its leases last.
func (r *lab) stop(p *process) {
	r.report.Stops++
	r.book.write("stop", strconv.Itoa(p.who))
	r.signal(p, syscall.SIGSTOP)
	p.stopped = time.NewTimer(r.Visibility * 3 / 2)
}

// resume lets the stopped child go on when its time has come.
func (r *lab) resume() {
	for _, p := range r.children {
		if p.stopped == nil {
			continue
		}
		r.resumed = time.Now()
		select {
		case <-p.stopped.C:
			p.stopped, p.spared = nil, time.Now().Add(r.Visibility/2)
			r.signal(p, syscall.SIGCONT)
			r.book.write("resume", strconv.Itoa(p.who))
		default:
		}
	}
}

// look lets stopped children go on, and looks for leases that should have been taken back.
func (r *lab) look(ctx context.Context) error {
	r.resume()
	now := time.Now() // before the rows are read: their ages are not less
	for job, err := range r.storage.(pinion.Inspector).Jobs(ctx, pinion.Filter{Status: pinion.StatusRunning}) {
		if err != nil {
			return err
		}
		if slices.ContainsFunc(kindNames(), func(kind string) bool { return kind == job.Task }) {
			age := now.Sub(job.HeartbeatAt) - r.Visibility
			if r.resumed.Add(settleTime).After(job.HeartbeatAt.Add(r.Visibility)) {
				r.report.ReapingAfterStop = max(r.report.ReapingAfterStop, age)
			} else {
				r.report.Reaping = max(r.report.Reaping, age)
			}
		}
	}
	return nil
}

// gone takes note of a child's end and starts another in its place.
func (r *lab) gone(ctx context.Context, p *process) error {
	p.stdin.Close()
	r.children = slices.DeleteFunc(r.children, func(q *process) bool { return q == p })
	if p.stopped != nil {
		r.book.write("resume", strconv.Itoa(p.who))
	}
	status := p.cmd.ProcessState.Sys().(syscall.WaitStatus)
	switch killed := status.Signaled() && status.Signal() == syscall.SIGKILL; {
	case killed && p.struck:
		r.report.Kills++
	case killed: // by itself
	case status.Signaled() && status.Signal() == syscall.SIGTERM && p.told: // before it had begun to listen
	case p.err != nil:
		r.troubles = append(r.troubles, fmt.Sprintf("child %d (%s) ended with %v", p.who, p.role, p.err))
	}
	if r.ending {
		return nil
	}
	return r.start(ctx, p.role)
}

// drain tells the producers to stop and waits until every job has ended; then the rest are told to.
func (r *lab) drain(ctx context.Context) error {
	patience := 10*time.Second + 20*r.Visibility // while no job ends
	limit := time.NewTimer(patience)
	defer limit.Stop()
	fewest := math.MaxInt
	look := time.NewTicker(reapInterval(r.Visibility) / 2)
	defer look.Stop()
	r.ending = true // but those who work are replaced
	leave := func(roles ...string) {
		for _, p := range r.children {
			if slices.Contains(roles, p.role) && !p.told {
				p.told = true
				r.signal(p, syscall.SIGTERM)
			}
		}
	}
	leave(roleProduce, rolePrune, roleBoth)
	for {
		working := 0
		for _, p := range r.children {
			if p.role == roleWork {
				working++
			}
		}
		for ; working < max(r.Workers, 2); working++ {
			if err := r.start(ctx, roleWork); err != nil {
				return err
			}
		}
		select {
		case p := <-r.exits:
			r.gone(ctx, p)
		case <-look.C:
			if err := r.look(ctx); err != nil {
				return err
			}
			left, err := r.unfinished(ctx)
			if err != nil {
				return err
			}
			if left < fewest {
				fewest = left
				limit.Reset(patience)
			}
			producing := slices.ContainsFunc(r.children, func(p *process) bool { return p.role != roleWork })
			if left > 0 || producing {
				continue
			}
			leave(roleWork)
			for len(r.children) > 0 {
				r.resume()
				select {
				case p := <-r.exits:
					r.gone(ctx, p)
				case <-look.C:
				case <-limit.C:
					return fmt.Errorf("a child does not end")
				}
			}
			return nil
		case <-limit.C:
			leave(roleWork)
			for len(r.children) > 0 {
				r.gone(ctx, <-r.exits)
			}
			return nil // the judge will say which jobs have not ended
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (r *lab) unfinished(ctx context.Context) (n int, err error) {
	stats, err := r.storage.(pinion.Inspector).Stats(ctx)
	for _, q := range stats.Queues {
		n += q.Pending + q.Running
	}
	return n, err
}

// judge collects the evidence and has it judged.
func (r *lab) judge(ctx context.Context) error {
	e := evidence{owed: r.Owed, visibility: r.Visibility, slots: r.Slots, poisonRetries: r.PoisonRetries, strict: r.Strict,
		jobs: make(map[string]*pinion.Job), letters: make(map[string]*pinion.Job)}
	var err error
	if e.lines, err = readBook(r.logPath()); err != nil {
		return err
	}
	inspector := r.storage.(pinion.Inspector)
	for job, err := range inspector.Jobs(ctx, pinion.Filter{}) {
		if err != nil {
			return err
		}
		e.jobs[job.ID] = job
	}
	for job, err := range inspector.DeadLetters(ctx, pinion.Filter{}) {
		if err != nil {
			return err
		}
		e.letters[job.ID] = job
	}
	e.judge(&r.report)
	most := noisyMost
	if r.Strict {
		most = lockMost
	}
	say := func(format string, args ...any) {
		r.report.Violations = append(r.report.Violations, fmt.Sprintf(format, args...))
	}
	if r.report.Wait > most {
		say("a call waited %v for the storage; at most %v are promised here", r.report.Wait, most)
	}
	if limit := reapInterval(r.Visibility) + most; r.report.Reaping > limit {
		say("a lost lease was taken back %v after it had run out; at most %v are promised here", r.report.Reaping, limit)
	}
	for _, trouble := range r.troubles {
		say("%s", trouble)
	}
	if said := r.stderr.String(); said != "" {
		say("the children said:\n%.4000s", said)
	}
	return nil
}

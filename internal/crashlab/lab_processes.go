package crashlab

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"time"
)

// process is a child as its parent sees it.
type process struct {
	number     int
	role       role
	visibility time.Duration
	cmd        *exec.Cmd
	stdin      io.WriteCloser // a byte tells the child to shut down; the child kills itself when this is closed
	willDie    bool           // its death is planned
	killed     bool           // by the parent
	terminated bool           // it was told to shut down
	stopTimer  *time.Timer    // not nil: it is stopped, until this fires
	sparedTill time.Time      // it was resumed, and nothing happens to it until then
	exitErr    error          // of cmd.Wait
}

// startAll starts the children that the Lab asks for.
func (e *experiment) startAll(ctx context.Context) error {
	for _, group := range []struct {
		role role
		size int
	}{
		{roleWork, e.Workers},
		{roleProduce, e.Producers},
		{rolePrune, e.Pruners},
		{roleBoth, e.Both},
		{roleDrain, e.Drains},
	} {
		for range group.size {
			if err := e.start(ctx, group.role); err != nil {
				return err
			}
		}
	}
	return nil
}

// start starts a child. If the Lab kills at all, about a third of the children will kill themselves in some
// call.
func (e *experiment) start(ctx context.Context, role role) error {
	e.born++
	config := childConfig{
		Number:        e.born,
		Role:          role,
		DSN:           e.DSN,
		LogPath:       e.logPath(),
		Seed:          e.random.Uint64(),
		Slots:         e.Slots,
		Producers:     1,
		Backlog:       e.Backlog,
		Visibility:    e.visibilities()[e.random.IntN(len(e.visibilities()))],
		Grace:         e.Grace,
		PoisonRetries: e.PoisonRetries,
		SQL:           e.sql,
	}
	if e.Clocks > 0 {
		config.ClockPath = e.clockPath()
	}
	switch role {
	case roleBoth:
		config.Producers = e.Slots
	case roleDrain:
		e.report.Drains++
		if !e.finishing { // at the end a Drain may last until nothing is due
			config.DrainFor = logUniform(e.random, time.Millisecond, 300*time.Millisecond)
		}
	}
	if e.Kills > 0 && !e.finishing && (role == roleOpen || e.random.IntN(3) == 0) {
		config.Death = e.planDeath(role)
	}
	_, err := e.startProcess(ctx, config)
	return err
}

func (e *experiment) startProcess(ctx context.Context, config childConfig) (*process, error) {
	text, err := json.Marshal(config)
	if err != nil {
		return nil, err
	}
	program := e.Program
	if program == "" {
		program, err = os.Executable()
	}
	if err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, program)
	cmd.Env = append(os.Environ(), childVariable+"="+string(text))
	cmd.Stdout = &e.stderr
	cmd.Stderr = &e.stderr
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	e.log.write(logBorn, strconv.Itoa(config.Number), string(config.Role), "dies in: "+config.Death.Call,
		config.Visibility.String())
	p := &process{
		number:     config.Number,
		role:       config.Role,
		visibility: config.Visibility,
		cmd:        cmd,
		stdin:      stdin,
		willDie:    config.Death.Call != "",
	}
	e.children = append(e.children, p)
	go func() { // ends with the child; whoever started the child receives from exits
		p.exitErr = cmd.Wait()
		e.exits <- p
	}()
	return p, nil
}

func (e *experiment) kill(p *process) {
	p.killed = true
	e.log.write(logKill, strconv.Itoa(p.number))
	p.cmd.Process.Kill()
}

func (e *experiment) terminate(p *process) {
	p.terminated = true
	p.stdin.Write([]byte{0})
}

// stop stops a child for so long that others take its jobs back: until its leases have expired, and then for two looks.
func (e *experiment) stop(p *process) {
	e.report.Stops++
	e.log.write(logStop, strconv.Itoa(p.number))
	e.log.alone(p.suspend)
	p.stopTimer = time.NewTimer(2*p.visibility + 2*reapInterval(e.longestVisibility()))
}

// resumeStopped resumes the stopped child if its time is over.
func (e *experiment) resumeStopped() {
	for _, p := range e.children {
		if p.stopTimer == nil {
			continue
		}
		e.lastDisturbed = e.childTime()
		select {
		case <-p.stopTimer.C:
			p.stopTimer = nil
			p.sparedTill = time.Now().Add(p.visibility / 2)
			p.resume()
			e.log.write(logResume, strconv.Itoa(p.number))
		default:
		}
	}
}

func (e *experiment) isAnyStopped() bool {
	return slices.ContainsFunc(e.children, func(p *process) bool { return p.stopTimer != nil })
}

// childEnded notes the end of a child. Unless the experiment is ending, another one will be started in its
// place.
func (e *experiment) childEnded(p *process) {
	p.stdin.Close()
	e.children = slices.DeleteFunc(e.children, func(other *process) bool { return other == p })
	if p.stopTimer != nil {
		e.log.write(logResume, strconv.Itoa(p.number))
	}
	killed := wasKilled(p.cmd.ProcessState)
	switch {
	case killed && p.killed:
		e.report.Kills++
	case killed: // it killed itself
	case p.exitErr != nil:
		problem := fmt.Sprintf("child %d (%s) ended with %v", p.number, p.role, p.exitErr)
		e.problems = append(e.problems, problem)
	}
	if p == e.locker {
		e.locker = nil
		return
	}
	if e.finishing && p.role != e.runner {
		return
	}
	next := delayedStart{role: p.role}
	if p.role == roleDrain {
		next.at = time.Now().Add(randomTime(e.random, 2*e.Pause))
	}
	e.starts = append(e.starts, next)
}

// delayedStart is the start of a child that is not to happen before a time.
type delayedStart struct {
	role role
	at   time.Time
}

// startDelayed starts the children whose time has come. While all children are stopped together it starts
// none, because a child that runs while the others stand still would take their jobs away.
func (e *experiment) startDelayed(ctx context.Context) error {
	if e.thawTimer != nil {
		return nil
	}
	now := time.Now()
	var later []delayedStart
	for _, next := range e.starts {
		if next.at.After(now) {
			later = append(later, next)
			continue
		}
		if err := e.start(ctx, next.role); err != nil {
			return err
		}
	}
	e.starts = later
	return nil
}

// waitForAll waits until every child has ended. Children must not be replaced any more.
func (e *experiment) waitForAll() {
	for len(e.children) > 0 {
		e.childEnded(<-e.exits)
	}
}

// killAll kills every child that is left and waits for it.
func (e *experiment) killAll() {
	e.finishing = true
	for _, p := range e.children {
		p.cmd.Process.Kill()
	}
	e.waitForAll()
}

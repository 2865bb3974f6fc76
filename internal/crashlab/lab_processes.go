//go:build unix

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
	"syscall"
	"time"
)

// process is a child as its parent sees it.
type process struct {
	number     int
	role       role
	cmd        *exec.Cmd
	stdin      io.Closer   // the child kills itself when this is closed
	willDie    bool        // its death is planned
	killed     bool        // it was sent SIGKILL
	terminated bool        // it was sent SIGTERM
	stopTimer  *time.Timer // not nil: it is stopped, until this fires
	sparedTill time.Time   // it was resumed, and nothing happens to it until then
	exitErr    error       // of cmd.Wait
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
		Visibility:    e.Visibility,
		Grace:         e.Grace,
		PoisonRetries: e.PoisonRetries,
	}
	if role == roleBoth {
		config.Producers = e.Slots
	}
	if e.Kills > 0 && !e.ending && (role == roleOpen || e.random.IntN(3) == 0) {
		config.Death = e.planDeath(role)
	}
	return e.startProcess(ctx, config)
}

func (e *experiment) startProcess(ctx context.Context, config childConfig) error {
	text, err := json.Marshal(config)
	if err != nil {
		return err
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, self)
	cmd.Env = append(os.Environ(), childVariable+"="+string(text))
	cmd.Stdout = &e.stderr
	cmd.Stderr = &e.stderr
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	e.log.write(logBorn, strconv.Itoa(config.Number), string(config.Role), "dies in: "+config.Death.Call)
	p := &process{
		number:  config.Number,
		role:    config.Role,
		cmd:     cmd,
		stdin:   stdin,
		willDie: config.Death.Call != "",
	}
	e.children = append(e.children, p)
	go func() { // ends with the child; whoever started the child receives from exits
		p.exitErr = cmd.Wait()
		e.exits <- p
	}()
	return nil
}

func (e *experiment) signal(p *process, signal syscall.Signal) { p.cmd.Process.Signal(signal) }

func (e *experiment) kill(p *process) {
	p.killed = true
	e.log.write(logKill, strconv.Itoa(p.number))
	e.signal(p, syscall.SIGKILL)
}

func (e *experiment) terminate(p *process) {
	p.terminated = true
	e.signal(p, syscall.SIGTERM)
}

// stop stops a child for longer than its leases last.
func (e *experiment) stop(p *process) {
	e.report.Stops++
	e.log.write(logStop, strconv.Itoa(p.number))
	e.signal(p, syscall.SIGSTOP)
	p.stopTimer = time.NewTimer(e.Visibility * 3 / 2)
}

// resumeStopped resumes the stopped child if its time is over.
func (e *experiment) resumeStopped() {
	for _, p := range e.children {
		if p.stopTimer == nil {
			continue
		}
		e.lastResumed = time.Now()
		select {
		case <-p.stopTimer.C:
			p.stopTimer = nil
			p.sparedTill = time.Now().Add(e.Visibility / 2)
			e.signal(p, syscall.SIGCONT)
			e.log.write(logResume, strconv.Itoa(p.number))
		default:
		}
	}
}

func (e *experiment) isAnyStopped() bool {
	return slices.ContainsFunc(e.children, func(p *process) bool { return p.stopTimer != nil })
}

// childEnded notes the end of a child and starts another one in its place, unless the experiment is ending.
func (e *experiment) childEnded(ctx context.Context, p *process) error {
	p.stdin.Close()
	e.children = slices.DeleteFunc(e.children, func(other *process) bool { return other == p })
	if p.stopTimer != nil {
		e.log.write(logResume, strconv.Itoa(p.number))
	}
	status := p.cmd.ProcessState.Sys().(syscall.WaitStatus)
	diedOf := func(signal syscall.Signal) bool { return status.Signaled() && status.Signal() == signal }
	switch {
	case diedOf(syscall.SIGKILL) && p.killed:
		e.report.Kills++
	case diedOf(syscall.SIGKILL): // it killed itself
	case diedOf(syscall.SIGTERM) && p.terminated: // before it listened for the signal
	case p.exitErr != nil:
		problem := fmt.Sprintf("child %d (%s) ended with %v", p.number, p.role, p.exitErr)
		e.problems = append(e.problems, problem)
	}
	if e.ending {
		return nil
	}
	return e.start(ctx, p.role)
}

// waitForAll waits until every child has ended. Children must not be replaced any more.
func (e *experiment) waitForAll(ctx context.Context) {
	for len(e.children) > 0 {
		e.childEnded(ctx, <-e.exits)
	}
}

// killAll kills every child that is left and waits for it.
func (e *experiment) killAll(ctx context.Context) {
	e.ending = true
	for _, p := range e.children {
		p.cmd.Process.Kill()
	}
	e.waitForAll(ctx)
}

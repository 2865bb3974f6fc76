//go:build unix

package crashlab

import (
	"os"
	"syscall"
)

// suspend stops a process until resume.
func (p *process) suspend() { p.cmd.Process.Signal(syscall.SIGSTOP) }

func (p *process) resume() { p.cmd.Process.Signal(syscall.SIGCONT) }

// wasKilled reports whether a process was killed, by itself or by another.
func wasKilled(state *os.ProcessState) bool {
	status := state.Sys().(syscall.WaitStatus)
	return status.Signaled() && status.Signal() == syscall.SIGKILL
}

// fileLock is nothing: a write to a file that was opened with O_APPEND is one step.
type fileLock struct{}

func (fileLock) while(_ *os.File, do func()) { do() }

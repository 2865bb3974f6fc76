package cli

import (
	"errors"
	"os"
	"os/exec"
	"syscall"
)

// The part that is specific to Windows.

const canReplaceProcess = false

func replaceProcess(string, []string) error { return errors.ErrUnsupported }

// interrupt ends a process at once; Windows has nothing gentler for one process.
func interrupt(process *os.Process) error { return process.Kill() }

// dieOf returns: no process dies of a signal.
func dieOf(os.Signal) {}

// There are no sessions or process groups: a command is killed at once, and processes that it started live
// on.

func newSession(*exec.Cmd) {}

func terminateGroup(leader *os.Process) { leader.Kill() }

func killGroup(leader *os.Process) { leader.Kill() }

func groupExists(int) bool { return false }

// windowSize returns 0: the size is not known unless COLUMNS and LINES hold it.
func windowSize(*os.File) (columns, lines int) { return 0, 0 }

// suspendSignal is never sent.
const suspendSignal = syscall.Signal(-1)

func notifyScreen(chan<- os.Signal) {}

func suspend() {}

//go:build unix

package cli

import (
	"os"
	"os/exec"
	"os/signal"
	"syscall"
	"time"
	"unsafe"
)

// The part that is specific to Unix systems.

const canReplaceProcess = true

// replaceProcess replaces this process, so that the program has its terminal, its signals (kill -9 too) and
// its exit status. It returns only if it fails.
func replaceProcess(program string, args []string) error {
	return syscall.Exec(program, append([]string{"pinion"}, args...), os.Environ())
}

func interrupt(process *os.Process) error { return process.Signal(os.Interrupt) }

// dieOf ends this process as the default action of a signal does, so that whoever waits for it sees that. It
// returns if the signal has no effect, and for SIGQUIT: its default action in Go is to print all goroutines and to
// exit with 2, which means wrong usage.
func dieOf(s os.Signal) {
	if s == syscall.SIGQUIT {
		return
	}
	signal.Reset(s)
	number, ok := s.(syscall.Signal)
	if ok && syscall.Kill(syscall.Getpid(), number) == nil {
		time.Sleep(time.Second) // it may reach another thread
	}
}

// newSession makes a command the leader of a session of its own. Its process group has its process id as the
// number. No terminal interrupts it, and it has none to wait for an answer from.
func newSession(cmd *exec.Cmd) { cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true} }

// terminateGroup asks the process group of a leader to end.
func terminateGroup(leader *os.Process) { syscall.Kill(-leader.Pid, syscall.SIGTERM) }

// killGroup ends the process group of a leader.
func killGroup(leader *os.Process) { syscall.Kill(-leader.Pid, syscall.SIGKILL) }

// groupExists reports whether a process group has processes. Its leader must have been waited for.
func groupExists(pid int) bool {
	return syscall.Kill(-pid, 0) != syscall.ESRCH && !onlyZombies(pid)
}

// windowSize returns the size of a terminal, or 0 if the terminal does not know it.
func windowSize(f *os.File) (columns, lines int) {
	conn, err := f.SyscallConn()
	if err != nil {
		return 0, 0
	}
	var size struct{ lines, columns, width, height uint16 }
	conn.Control(func(fd uintptr) {
		syscall.Syscall(syscall.SYS_IOCTL, fd, syscall.TIOCGWINSZ, uintptr(unsafe.Pointer(&size)))
	})
	return int(size.columns), int(size.lines)
}

// suspendSignal is the signal of ^Z.
const suspendSignal = syscall.SIGTSTP

// notifyScreen passes on the signals that concern a live screen: a change of its size, and ^Z.
func notifyScreen(signals chan<- os.Signal) { signal.Notify(signals, syscall.SIGWINCH, suspendSignal) }

// suspend stops this process until it is continued. Go cannot restore the default action of SIGTSTP. That
// action does nothing in the process group of a session's leader, where no shell could continue the process;
// nor does suspend.
func suspend() {
	session, _, errno := syscall.Syscall(syscall.SYS_GETSID, 0, 0, 0)
	if errno == 0 && int(session) != syscall.Getpgrp() {
		syscall.Kill(syscall.Getpid(), syscall.SIGSTOP)
		time.Sleep(20 * time.Millisecond) // another thread may be the first to stop
	}
}

//go:build unix

package main

import (
	"os"
	"os/exec"
	"syscall"
)

// A command is the leader of a session, and so of a process group, of its own, which is named by its process id. It
// has no terminal then that it could wait for an answer from.

func separate(cmd *exec.Cmd) { cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true} }

// terminate asks a command's process group to end.
func terminate(pid int) { syscall.Kill(-pid, syscall.SIGTERM) }

// kill ends a command's process group.
func kill(leader *os.Process) { syscall.Kill(-leader.Pid, syscall.SIGKILL) }

// left reports whether somebody is left in the process group of a command that has ended and been waited for.
func left(pid int) bool { return syscall.Kill(-pid, 0) != syscall.ESRCH && !onlyZombies(pid) }

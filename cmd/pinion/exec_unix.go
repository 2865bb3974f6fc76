//go:build unix

package main

import (
	"os"
	"os/exec"
	"syscall"
)

// execute replaces this process, so that the program has its terminal, its signals (kill -9 too) and its exit status.
func execute(program string, args []string) error {
	return syscall.Exec(program, append([]string{"pinion"}, args...), os.Environ())
}

// apart has a command run in a session of its own, so that no terminal interrupts it and killApart ends its children too.
func apart(cmd *exec.Cmd) { cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true} }

func killApart(cmd *exec.Cmd) error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }

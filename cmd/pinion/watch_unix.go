//go:build linux || darwin || freebsd || netbsd || openbsd

package main

import (
	"os"
	"os/signal"
	"syscall"
	"time"
)

// endings are the signals that end a watch.
var endings = []os.Signal{os.Interrupt, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGQUIT}

// suspends is what ^Z sends.
const suspends = syscall.SIGTSTP

// notify passes on what a screen has to know: another size, and that it is to be left for a time.
func notify(signals chan<- os.Signal) { signal.Notify(signals, syscall.SIGWINCH, suspends) }

// suspend stops this process until it is told to go on. Go cannot give SIGTSTP its default action back, which would do
// nothing where there is no shell that could have it go on: in the process group of a session's leader, that is.
func suspend() {
	session, _, errno := syscall.Syscall(syscall.SYS_GETSID, 0, 0, 0)
	if errno == 0 && int(session) != syscall.Getpgrp() {
		syscall.Kill(syscall.Getpid(), syscall.SIGSTOP)
		time.Sleep(20 * time.Millisecond) // it need not be this thread that stops first
	}
}

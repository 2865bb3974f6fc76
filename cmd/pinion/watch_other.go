//go:build !(linux || darwin || freebsd || netbsd || openbsd)

package main

import (
	"os"
	"syscall"
)

// endings are the signals that end a watch.
var endings = []os.Signal{os.Interrupt, syscall.SIGTERM}

// suspends is never sent here.
const suspends = syscall.Signal(-1)

func notify(chan<- os.Signal) {}

func suspend() {}

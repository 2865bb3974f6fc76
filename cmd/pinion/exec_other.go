//go:build !unix

package main

import (
	"errors"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
)

// execute runs the program and exits as it did. What interrupts the console reaches both of them.
func execute(program string, args []string) error {
	signal.Notify(make(chan os.Signal, 1), os.Interrupt)
	cmd := exec.Command(program, args...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	err := cmd.Run()
	if _, exited := errors.AsType[*exec.ExitError](err); err != nil && !exited {
		return err
	}
	os.RemoveAll(filepath.Dir(program))
	os.Exit(cmd.ProcessState.ExitCode())
	return nil
}

// apart has a command run on its own; here it needs nothing.
func apart(*exec.Cmd) {}

func killApart(cmd *exec.Cmd) error { return cmd.Process.Kill() }

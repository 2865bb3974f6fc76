//go:build unix

package main

import (
	"os"
	"syscall"
)

// execute replaces this process, so that the program has its terminal, its signals (kill -9 too) and its exit status.
func execute(program string, args []string) error {
	return syscall.Exec(program, append([]string{"pinion"}, args...), os.Environ())
}

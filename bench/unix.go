//go:build unix

package main

import (
	"bytes"
	"os"
	"strconv"
	"syscall"
	"time"
)

// usage is what this process has used so far.
func usage() (cpu time.Duration, peak int64, err error) {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0, 0, err
	}
	cpu = time.Duration(u.Utime.Nano() + u.Stime.Nano())
	// Linux carries the peak that getrusage tells over from the parent. This one is the process's own.
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return cpu, int64(u.Maxrss), nil // macOS, which counts bytes
	}
	for line := range bytes.Lines(status) {
		if fields := bytes.Fields(line); len(fields) > 1 && string(fields[0]) == "VmHWM:" {
			kilobytes, err := strconv.ParseInt(string(fields[1]), 10, 64)
			return cpu, kilobytes << 10, err
		}
	}
	return cpu, int64(u.Maxrss) << 10, nil
}

// flushDisks has the system write what earlier runs left for it to write.
func flushDisks() { syscall.Sync() }

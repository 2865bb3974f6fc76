//go:build linux || darwin || freebsd || netbsd || openbsd

package main

import (
	"os"
	"syscall"
	"unsafe"
)

// windowSize asks a terminal for its size, which is 0 if it does not know.
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

//go:build unix

package crashlab

import (
	"os"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"
)

// wallClock is by how many seconds the clock of an experiment's processes is ahead of the machine's. They share it
// through a file, so all of them see at the same moment that it is set, as the processes of one machine do.
//
// A process heeds it only if package time was built for that: see setTimeShift.
type wallClock struct{ shift *int64 }

// openClock opens the clock that is kept in a file, which it makes if need be. The file stays open until the process
// ends.
func openClock(path string) (wallClock, error) {
	file, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return wallClock{}, err
	}
	defer file.Close()
	if err := file.Truncate(8); err != nil {
		return wallClock{}, err
	}
	memory, err := syscall.Mmap(int(file.Fd()), 0, 8, syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_SHARED)
	if err != nil {
		return wallClock{}, err
	}
	return wallClock{(*int64)(unsafe.Pointer(&memory[0]))}, nil
}

// ahead returns by how much the clock is ahead of the machine's.
func (c wallClock) ahead() time.Duration {
	if c.shift == nil {
		return 0
	}
	return time.Duration(atomic.LoadInt64(c.shift)) * time.Second
}

func (c wallClock) set(ahead time.Duration) { atomic.StoreInt64(c.shift, int64(ahead/time.Second)) }

// machineTime returns the time of the machine in a process that heeds the clock.
func (c wallClock) machineTime() time.Time {
	for {
		before := c.ahead()
		now := time.Now()
		if c.ahead() == before {
			return now.Add(-before)
		}
	}
}

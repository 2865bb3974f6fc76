package pinion

import (
	"encoding/binary"
	"os"
	"sync"
	"syscall"
	"time"
)

// watch reports writes to a file by any process, through inotify. It costs nothing while nobody writes, and wakes
// within a millisecond; polling as often would take a twentieth of a core.
type watch struct {
	events *os.File
	woken  chan struct{}  // receives after writes
	stop   chan struct{}  // closed by close
	wg     sync.WaitGroup // the goroutine read, which ends with close
}

// watchFile starts a watch, or returns nil if the system allows no more of them.
func watchFile(path string) *watch {
	fd, err := syscall.InotifyInit1(syscall.IN_CLOEXEC | syscall.IN_NONBLOCK)
	if err != nil {
		return nil
	}
	if _, err := syscall.InotifyAddWatch(fd, path, syscall.IN_MODIFY); err != nil {
		syscall.Close(fd)
		return nil
	}
	w := &watch{events: os.NewFile(uintptr(fd), "inotify"), woken: make(chan struct{}), stop: make(chan struct{})}
	w.wg.Go(func() { w.read(fd, path) })
	return w
}

// read passes events on. One wake-up stands for any number of them: it waits until somebody receives it, and the kernel
// merges what happens meanwhile.
func (w *watch) read(fd int, path string) {
	buf := make([]byte, 4096)
	for {
		n, err := w.events.Read(buf)
		if err != nil {
			return // close was called
		}
		for at := 0; at+syscall.SizeofInotifyEvent <= n; {
			if binary.NativeEndian.Uint32(buf[at+4:])&syscall.IN_IGNORED != 0 {
				// The file was deleted and made again. If it is not there yet, the poll beside the watch finds new jobs.
				syscall.InotifyAddWatch(fd, path, syscall.IN_MODIFY)
			}
			at += syscall.SizeofInotifyEvent + int(binary.NativeEndian.Uint32(buf[at+12:]))
		}
		select {
		case w.woken <- struct{}{}:
		case <-w.stop:
			return
		}
	}
}

// wake returns a channel that receives after writes. That of a nil watch never does.
func (w *watch) wake() <-chan struct{} {
	if w == nil {
		return nil
	}
	return w.woken
}

func (w *watch) close() {
	if w == nil {
		return
	}
	close(w.stop)
	w.events.Close()
	w.wg.Wait()
}

// nap sleeps for less than a millisecond, which time.Sleep does not do where nothing else runs.
func nap(d time.Duration) {
	t := syscall.NsecToTimespec(int64(d))
	syscall.Nanosleep(&t, nil)
}

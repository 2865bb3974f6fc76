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
//
// It reports one write and then no more until arm is called, because the kernel makes the writer pay for each report:
// a watch that is always armed takes a tenth of a busy process, which writes most of what it watches.
//
// The kernel reports the write first and then that the watch is gone. Only the second counts here: to arm a watch that
// is about to go would arm nothing.
type watch struct {
	path   string
	fd     int
	events *os.File
	woken  chan struct{}  // receives after a write
	stop   chan struct{}  // closed by close
	wg     sync.WaitGroup // the goroutine read, which ends with close
}

// watchFile starts a watch that is armed, or returns nil if the system allows no more of them.
func watchFile(path string) *watch {
	fd, err := syscall.InotifyInit1(syscall.IN_CLOEXEC | syscall.IN_NONBLOCK)
	if err != nil {
		return nil
	}
	w := &watch{
		path:   path,
		fd:     fd,
		events: os.NewFile(uintptr(fd), "inotify"),
		woken:  make(chan struct{}),
		stop:   make(chan struct{}),
	}
	if err := w.arm(); err != nil {
		w.events.Close()
		return nil
	}
	w.wg.Go(w.read)
	return w
}

// arm makes the watch report the next write. It finds the file by its path again, which may have been deleted and made
// again. The caller must look for what was written before, may not call close meanwhile, and calls arm again later if
// it returns an error.
func (w *watch) arm() error {
	if w == nil {
		return nil
	}
	_, err := syscall.InotifyAddWatch(w.fd, w.path, syscall.IN_MODIFY|syscall.IN_ONESHOT)
	return err
}

// read passes events on.
func (w *watch) read() {
	buf := make([]byte, 4096)
	for {
		n, err := w.events.Read(buf)
		if err != nil {
			return // close was called
		}
		if !reportsEnd(buf[:n]) {
			continue
		}
		select {
		case w.woken <- struct{}{}:
		case <-w.stop:
			return
		}
	}
}

// reportsEnd reports whether one of the events is that the watch is gone, after a write or with the file.
func reportsEnd(events []byte) bool {
	for len(events) >= syscall.SizeofInotifyEvent {
		if binary.NativeEndian.Uint32(events[4:])&syscall.IN_IGNORED != 0 {
			return true
		}
		events = events[syscall.SizeofInotifyEvent+int(binary.NativeEndian.Uint32(events[12:])):]
	}
	return false
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

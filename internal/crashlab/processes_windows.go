package crashlab

import (
	"fmt"
	"os"
	"sync"
	"syscall"
	"unsafe"
)

var (
	ntdll         = syscall.NewLazyDLL("ntdll.dll")
	kernel32      = syscall.NewLazyDLL("kernel32.dll")
	suspendCall   = ntdll.NewProc("NtSuspendProcess")
	resumeCall    = ntdll.NewProc("NtResumeProcess")
	lockFileEx    = kernel32.NewProc("LockFileEx")
	unlockFileEx  = kernel32.NewProc("UnlockFileEx")
	lockExclusive = uintptr(2) // LOCKFILE_EXCLUSIVE_LOCK
)

// suspend stops a process until resume.
func (p *process) suspend() { p.call(suspendCall) }

func (p *process) resume() { p.call(resumeCall) }

// call makes a call about a process. If the process has ended it does nothing.
func (p *process) call(proc *syscall.LazyProc) {
	p.cmd.Process.WithHandle(func(handle uintptr) { proc.Call(handle) })
}

// wasKilled reports whether a process was killed, by itself or by another: then os.Process.Kill made its exit status 1.
func wasKilled(state *os.ProcessState) bool { return state.ExitCode() == 1 }

// fileLock lets one process at a time append to a file.
type fileLock struct {
	mu sync.Mutex // held with the file's lock: a second LockFileEx on one handle would keep the first from its end
}

func (l *fileLock) while(file *os.File, do func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	at := syscall.Overlapped{OffsetHigh: 1 << 30} // far behind the text, which others may read
	if ok, _, err := lockFileEx.Call(file.Fd(), lockExclusive, 0, 1, 0, uintptr(unsafe.Pointer(&at))); ok == 0 {
		panic(fmt.Sprintf("crashlab: lock the log: %v", err))
	}
	defer unlockFileEx.Call(file.Fd(), 0, 1, 0, uintptr(unsafe.Pointer(&at)))
	do()
}

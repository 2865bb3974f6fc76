package cli

import (
	"bytes"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// The guard makes sure that no process which a program of --exec has started outlives the worker, however the
// worker ends. PR_SET_PDEATHSIG does that for the program itself, but not for what it starts. So a worker
// with programs has one more process, its guard: this program again. It waits for the end of a pipe that only
// the worker can write to, and then kills
//   - the process groups that the worker has reported as started and not as ended, and
//   - all processes that have the worker's mark in their environment. These are the ones that left their
//     group, and those of a program that the worker had started and not yet reported.
//
// One guard for each program would cost each the start of a Go program. A guard that is the parent of all
// programs could find their descendants without a mark, but would have to start and wait for them on behalf
// of the worker.

const (
	guardName = "pinion exec-guard"
	guardMark = "PINION_GUARD" // the variable of the mark
)

// guard is the worker's side of its guard.
type guard struct {
	mark  string
	forks chan func() // to threads that live as long as the guard: PR_SET_PDEATHSIG acts when the thread ends
	pids  *os.File    // to the guard's process; nil if there is none
	cmd   *exec.Cmd
}

// newGuard starts a guard. With an error it returns a guard that has no process of its own.
func newGuard() (*guard, error) {
	g := &guard{mark: guardMark + "=" + rand.Text(), forks: make(chan func())}
	for range runtime.GOMAXPROCS(0) {
		go func() { // ends when close closes forks
			runtime.LockOSThread()
			for fork := range g.forks {
				fork()
			}
		}()
	}
	return g, g.launch()
}

// launch starts the guard's process and waits until it is ready.
func (g *guard) launch() error {
	pidsRead, pids, err := os.Pipe()
	if err != nil {
		return err
	}
	defer pidsRead.Close()
	ready, readyWrite, err := os.Pipe()
	if err != nil {
		pids.Close()
		return err
	}
	defer ready.Close()
	cmd := exec.Command("/proc/self/exe", g.mark)
	cmd.Args[0] = guardName
	// If this worker is itself a program of another worker, it has that worker's mark. Its guard must not
	// have it, or the other guard would kill this one before its work is done.
	isMark := func(variable string) bool { return strings.HasPrefix(variable, guardMark+"=") }
	cmd.Env = slices.DeleteFunc(os.Environ(), isMark)
	cmd.ExtraFiles = []*os.File{pidsRead, readyWrite}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true} // so that killing the worker's process group spares it
	err = cmd.Start()
	readyWrite.Close()
	if err != nil {
		pids.Close()
		return err
	}
	ready.SetReadDeadline(time.Now().Add(30 * time.Second))
	if _, err := ready.Read(make([]byte, 1)); err != nil {
		cmd.Process.Kill()
		pids.Close()
		return fmt.Errorf("it does not become ready: %w", errors.Join(err, cmd.Wait()))
	}
	g.pids, g.cmd = pids, cmd
	return nil
}

// start starts a program under guard.
func (g *guard) start(cmd *exec.Cmd) error {
	cmd.Env = append(cmd.Env, g.mark)
	newSession(cmd)
	cmd.SysProcAttr.Pdeathsig = syscall.SIGKILL
	started := make(chan error)
	g.forks <- func() {
		err := cmd.Start()
		if err == nil {
			g.report(cmd.Process.Pid)
		}
		started <- err
	}
	return <-started
}

// groupEnded reports that the process group of a program has ended.
func (g *guard) groupEnded(pid int) { g.report(-pid) }

// report writes a number to the guard. If the guard is dead, there is nothing to be done about it.
func (g *guard) report(pid int) {
	if g.pids != nil {
		g.pids.Write(binary.NativeEndian.AppendUint32(nil, uint32(int32(pid))))
	}
}

// close lets the guard kill all processes that are left, and waits for that.
func (g *guard) close() {
	close(g.forks)
	if g.pids != nil {
		g.pids.Close()
		g.cmd.Wait()
	}
}

// The guard is this program again, whatever program that is: pinion, one that calls Main or Run, or a test.
// Only an init function turns all of them into the guard before they do anything of their own.
func init() {
	if len(os.Args) == 2 && os.Args[0] == guardName {
		guardMain(os.Args[1])
		os.Exit(0)
	}
}

// guardMain is the main function of the guard's process.
func guardMain(mark string) {
	// It ends when the worker has ended, and not before.
	signal.Ignore(syscall.SIGHUP, syscall.SIGINT, syscall.SIGTERM, syscall.SIGPIPE)
	os.WriteFile("/proc/self/comm", []byte("exec-guard"), 0) // so that killall pinion spares it
	os.Chdir("/")
	pids, ready := os.NewFile(3, "pids"), os.NewFile(4, "ready")
	ready.Write([]byte{1})
	ready.Close()

	for group := range readGroups(pids) {
		syscall.Kill(-group, syscall.SIGKILL)
	}
	for range 500 { // those that are killed may just have started others
		if !killMarked([]byte(mark)) {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// readGroups reads numbers until the worker ends, and returns the process groups that were started and have
// not ended.
func readGroups(pids io.Reader) map[int]bool {
	groups := make(map[int]bool)
	number := make([]byte, 4)
	for {
		if _, err := io.ReadFull(pids, number); err != nil {
			return groups
		}
		pid := int(int32(binary.NativeEndian.Uint32(number)))
		if pid > 0 {
			groups[pid] = true
		} else {
			delete(groups, -pid)
		}
	}
}

// killMarked kills the processes that have the mark in their environment, and reports whether there were any.
func killMarked(mark []byte) (found bool) {
	environs, _ := filepath.Glob("/proc/[0-9]*/environ")
	for _, name := range environs {
		text, err := os.ReadFile(name)
		if err != nil {
			continue // it has ended, or belongs to somebody else
		}
		isMark := func(variable []byte) bool { return bytes.Equal(variable, mark) }
		if !slices.ContainsFunc(bytes.Split(text, []byte{0}), isMark) {
			continue
		}
		if pid, err := strconv.Atoi(filepath.Base(filepath.Dir(name))); err == nil {
			syscall.Kill(pid, syscall.SIGKILL)
			found = true
		}
	}
	return found
}

// onlyZombies reports whether all processes of a group have ended and only wait for process 1 to collect
// them. In a container process 1 may never do that.
func onlyZombies(group int) bool {
	stats, err := filepath.Glob("/proc/[0-9]*/stat")
	for _, name := range stats {
		text, _ := os.ReadFile(name)
		fields := strings.Fields(string(text[bytes.LastIndexByte(text, ')')+1:])) // state, parent, group
		if len(fields) > 2 && fields[2] == strconv.Itoa(group) && fields[0] != "Z" && fields[0] != "X" {
			return false
		}
	}
	return err == nil && len(stats) > 0
}

package main

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

// No process that a command starts outlives the worker, however that ends. PR_SET_PDEATHSIG does as much for the
// command itself, not for what it starts. So a worker with commands has one more process, its guard: this program
// again, which waits for the end of a pipe that only the worker can write to, and then kills
//   - the process groups that the worker has named to it and not named as ended, and
//   - whoever has the worker's mark in its environment, which finds those who left their group, and those of the moment
//     between the start of a command and its naming.
//
// One guard for each command would cost each the start of a Go program; and as the parent of all commands it could
// find their descendants without a mark, but would have to start and wait for them on the worker's behalf.

const (
	guardName = "pinion exec-guard"
	guardMark = "PINION_GUARD" // in the environment of commands
)

// guard is the worker's side.
type guard struct {
	mark  string
	forks chan func() // to threads that live as long as the guard: PR_SET_PDEATHSIG acts when the thread ends
	names *os.File    // to the guard; nil if there is none
	cmd   *exec.Cmd
}

// newGuard starts a guard. With an error it returns one that does without its process.
func newGuard() (*guard, error) {
	g := &guard{mark: guardMark + "=" + rand.Text(), forks: make(chan func())}
	for range runtime.GOMAXPROCS(0) {
		go func() { // ends with close
			runtime.LockOSThread()
			for fork := range g.forks {
				fork()
			}
		}()
	}
	return g, g.launch()
}

// launch starts the process and waits until it watches.
func (g *guard) launch() error {
	theirs, names, err := os.Pipe()
	if err != nil {
		return err
	}
	defer theirs.Close()
	ready, ours, err := os.Pipe()
	if err != nil {
		names.Close()
		return err
	}
	defer ready.Close()
	cmd := exec.Command("/proc/self/exe", g.mark)
	cmd.Args[0] = guardName
	// Not the mark of a worker of whose command this worker is part: its guard would kill this one before its work.
	cmd.Env = slices.DeleteFunc(os.Environ(), func(s string) bool { return strings.HasPrefix(s, guardMark+"=") })
	cmd.ExtraFiles = []*os.File{theirs, ours}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true} // what kills the worker's process group is not to kill it
	err = cmd.Start()
	ours.Close()
	if err == nil {
		ready.SetReadDeadline(time.Now().Add(10 * time.Second))
		if _, err = ready.Read(make([]byte, 1)); err != nil {
			cmd.Process.Kill()
			err = fmt.Errorf("it does not say that it is ready: %w", errors.Join(err, cmd.Wait()))
		}
	}
	if err != nil {
		names.Close()
		return err
	}
	g.names, g.cmd = names, cmd
	return nil
}

// start starts a command under guard.
func (g *guard) start(cmd *exec.Cmd) error {
	cmd.Env = append(cmd.Env, g.mark)
	separate(cmd)
	cmd.SysProcAttr.Pdeathsig = syscall.SIGKILL
	started := make(chan error)
	g.forks <- func() {
		err := cmd.Start()
		if err == nil {
			g.name(cmd.Process.Pid)
		}
		started <- err
	}
	return <-started
}

// ended says that nobody is left in the process group of a command.
func (g *guard) ended(pid int) { g.name(-pid) }

// name writes a number to the guard. If that is dead there is nothing to be done about it.
func (g *guard) name(pid int) {
	if g.names != nil {
		g.names.Write(binary.NativeEndian.AppendUint32(nil, uint32(int32(pid))))
	}
}

// close lets the guard kill whoever is left, and waits for that.
func (g *guard) close() {
	close(g.forks)
	if g.names != nil {
		g.names.Close()
		g.cmd.Wait()
	}
}

// The guard's process never reaches main.
func init() {
	if len(os.Args) == 2 && os.Args[0] == guardName {
		keepGuard(os.Args[1])
		os.Exit(0)
	}
}

func keepGuard(mark string) {
	signal.Ignore(syscall.SIGHUP, syscall.SIGINT, syscall.SIGTERM, syscall.SIGPIPE) // it ends when the worker has ended
	os.WriteFile("/proc/self/comm", []byte("exec-guard"), 0)                        // so that killall pinion spares it
	os.Chdir("/")
	names, ready := os.NewFile(3, "names"), os.NewFile(4, "ready")
	ready.Write([]byte{1})
	ready.Close()

	groups := make(map[int]bool)
	for pid := make([]byte, 4); ; {
		if _, err := io.ReadFull(names, pid); err != nil {
			break
		}
		if n := int(int32(binary.NativeEndian.Uint32(pid))); n > 0 {
			groups[n] = true
		} else {
			delete(groups, -n)
		}
	}
	for pid := range groups {
		syscall.Kill(-pid, syscall.SIGKILL)
	}
	// Again until nobody is found, as those who are killed may just have started others.
	for range 500 {
		if !killMarked([]byte(mark)) {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// killMarked kills the processes with the mark in their environment and reports whether there were any.
func killMarked(mark []byte) (found bool) {
	environs, _ := filepath.Glob("/proc/[0-9]*/environ")
	for _, name := range environs {
		text, err := os.ReadFile(name)
		if err != nil || !slices.ContainsFunc(bytes.Split(text, []byte{0}), func(v []byte) bool { return bytes.Equal(v, mark) }) {
			continue // it is gone, or not ours
		}
		if pid, err := strconv.Atoi(filepath.Base(filepath.Dir(name))); err == nil {
			syscall.Kill(pid, syscall.SIGKILL)
			found = true
		}
	}
	return found
}

// onlyZombies reports whether all of a process group have ended and only wait for whoever is process 1, which in a
// container may never look.
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

package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/pinion-queue/pinion"
)

// family is a shell program that says who it is and what it has started, in files of the current directory, and then
// waits for ever: a child, one that ignores SIGTERM, one with nothing in its environment, one in a session of its own,
// and grandchildren of a parent that is gone. None of them holds a pipe of the worker's but the first.
const family = `
trap 'exit 0' TERM
sleep 600 & echo $! >child
(trap '' TERM; exec sleep 601 >/dev/null 2>&1) & echo $! >deaf
env -i sleep 602 >/dev/null 2>&1 & echo $! >bare
setsid sh -c 'echo $$ >session; exec sleep 603' >/dev/null 2>&1 &
(sh -c 'sleep 604 >/dev/null 2>&1 & echo $! >orphan'; exit) >/dev/null 2>&1
until [ -s session ] && [ -s orphan ]; do sleep 0.01; done
echo $$ >leader
mv leader ready
while :; do sleep 0.01; done`

var relatives = []string{"ready", "child", "deaf", "bare", "session", "orphan"}

// pids reads what family has written.
func pids(t *testing.T, dir string, names ...string) map[string]int {
	t.Helper()
	found := make(map[string]int)
	for _, name := range names {
		pid, err := strconv.Atoi(strings.TrimSpace(read(t, filepath.Join(dir, name))))
		if err != nil {
			t.Fatal(err)
		}
		found[name] = pid
	}
	return found
}

// alive reports whether a process is there and no zombie.
func alive(pid int) bool {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	_, after, _ := strings.Cut(string(text), ") ")
	return err == nil && !strings.HasPrefix(after, "Z")
}

func whoLives(family map[string]int) (names []string) {
	for name, pid := range family {
		if alive(pid) {
			names = append(names, name)
		}
	}
	return names
}

// raise starts a worker with a job that is the family.
func raise(t *testing.T) (dir string, worker *exec.Cmd, said *bytes.Buffer) {
	t.Helper()
	dir, said = t.TempDir(), new(bytes.Buffer)
	write(t, filepath.Join(dir, "family.sh"), family)
	finish(t, process(t, dir, "enqueue", "family", "--db", "q.db"), 0)
	worker = process(t, dir, "worker", "--exec", "family=sh family.sh", "--db", "q.db", "--shutdown-timeout", "0.1")
	worker.Stdout, worker.Stderr = said, said
	worker.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := worker.Start(); err != nil {
		t.Fatal(err)
	}
	await(t, said, func() bool { _, err := os.Stat(filepath.Join(dir, "ready")); return err == nil })
	return dir, worker, said
}

// guardOf finds the guard of a worker.
func guardOf(t *testing.T, worker int) int {
	t.Helper()
	files, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, name := range files {
		stat, _ := os.ReadFile(name)
		line, _ := os.ReadFile(filepath.Join(filepath.Dir(name), "cmdline"))
		_, after, _ := strings.Cut(string(stat), ") ")
		if fields := strings.Fields(after); len(fields) > 1 && fields[1] == strconv.Itoa(worker) && strings.HasPrefix(string(line), guardName) {
			pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(name)))
			return pid
		}
	}
	t.Fatal("the worker has no guard")
	return 0
}

func TestNothingThatACommandStartsOutlivesAKilledWorker(t *testing.T) {
	for _, c := range []struct {
		name string
		kill func(worker *os.Process) error
	}{
		{"kill -9", func(worker *os.Process) error { return worker.Kill() }},
		{"a second SIGTERM", func(worker *os.Process) error {
			for worker.Signal(syscall.SIGTERM) == nil { // until it has been waited for
				time.Sleep(time.Millisecond)
				if !alive(worker.Pid) {
					break
				}
			}
			return nil
		}},
		{"kill -9 of its process group", func(worker *os.Process) error { return syscall.Kill(-worker.Pid, syscall.SIGKILL) }},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			dir, worker, said := raise(t)
			family := pids(t, dir, relatives...)
			if living := whoLives(family); len(living) != len(relatives) {
				t.Fatalf("before the kill only these live: %v", living)
			}
			guard := guardOf(t, worker.Process.Pid)
			if err := c.kill(worker.Process); err != nil {
				t.Fatal(err)
			}
			worker.Wait()
			await(t, said, func() bool { return len(whoLives(family)) == 0 && !alive(guard) })
		})
	}
}

// The command may be a worker with commands and a guard of its own.
func TestNothingOutlivesAWorkerWhoseWorkerIsKilled(t *testing.T) {
	dir := t.TempDir()
	write(t, filepath.Join(dir, "family.sh"), family)
	finish(t, process(t, dir, "enqueue", "inner", "--db", "q.db"), 0)
	finish(t, process(t, dir, "enqueue", "family", "--db", "inner.db"), 0)
	worker, said := process(t, dir), new(bytes.Buffer)
	worker.Args = append(worker.Args, "worker", "--db", "q.db", "--exec", "inner='"+worker.Path+"' worker --db inner.db --exec 'family=sh family.sh'")
	worker.Stdout, worker.Stderr = said, said
	if err := worker.Start(); err != nil {
		t.Fatal(err)
	}
	await(t, said, func() bool { _, err := os.Stat(filepath.Join(dir, "ready")); return err == nil })
	family := pids(t, dir, relatives...)
	if err := worker.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	worker.Wait()
	await(t, said, func() bool { return len(whoLives(family)) == 0 })
}

// With its guard dead the kernel still kills the command itself.
func TestACommandDiesWithItsWorkerEvenUnguarded(t *testing.T) {
	dir, worker, said := raise(t)
	family := pids(t, dir, relatives...)
	defer func() {
		for _, pid := range family {
			syscall.Kill(pid, syscall.SIGKILL)
		}
	}()
	if err := syscall.Kill(guardOf(t, worker.Process.Pid), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if err := worker.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	worker.Wait()
	await(t, said, func() bool { return !alive(family["ready"]) })
}

// A shutdown gives the job back, with its attempt, once its processes are gone.
func TestAShutdownEndsCommandsAndGivesTheirJobsBack(t *testing.T) {
	dir, worker, said := raise(t)
	family := pids(t, dir, relatives...)
	if err := worker.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := worker.Wait(); err != nil {
		t.Errorf("the worker: %v\n%s", err, said)
	}
	if living := whoLives(family); len(living) > 0 {
		t.Errorf("after the worker's end there are still %v", living)
	}
	storage, err := pinion.OpenSQLite(t.Context(), filepath.Join(dir, "q.db"), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer storage.Close()
	for job, err := range storage.Jobs(t.Context(), pinion.Filter{}) {
		if err != nil || job.Status != pinion.StatusPending || job.Attempts != 0 {
			t.Errorf("%+v, %v\n%s", job, err, said)
		}
	}
}

// familyIn runs a shell script as a job of runProgram. It calls then, if that is something, when the task has ended:
// what has left its session may live on for as long as the worker does.
func familyIn(t *testing.T, w *pinion.Worker, script string, then func()) *pinion.Job {
	t.Helper()
	t.Chdir(t.TempDir())
	write(t, "family.sh", script)
	w.Middleware = func(next pinion.RunFunc) pinion.RunFunc {
		return func(ctx context.Context, job *pinion.Job) error {
			err := next(ctx, job)
			if then != nil {
				then()
			}
			return err
		}
	}
	shop := newWorkshop(t)
	defer shop.guard.close()
	return runProgram(t, shop, w, false, "sh family.sh", new(pinion.Job))
}

func TestATimeoutEndsAllProcessesOfACommand(t *testing.T) {
	job := familyIn(t, &pinion.Worker{TaskTimeout: 3 * time.Second}, family, func() {
		if living := whoLives(pids(t, ".", relatives...)); len(living) > 0 && !slices.Equal(living, []string{"session"}) {
			t.Errorf("after the task there are still %v", living)
		}
	})
	if living := whoLives(pids(t, ".", relatives...)); len(living) > 0 {
		t.Errorf("after the worker there are still %v", living)
	}
	// It has caught SIGTERM and said that all is well.
	if want := "timed out after 3s: exit status 0"; job.Status != pinion.StatusFailed || !strings.HasPrefix(job.Error, want) {
		t.Errorf("%s: %s, want %s", job.Status, job.Error, want)
	}
}

func TestWhoIgnoresSIGTERMIsKilled(t *testing.T) {
	job := familyIn(t, &pinion.Worker{TaskTimeout: time.Second}, "trap '' TERM; echo hearing nothing >&2; sleep 600", nil)
	if want := "timed out after 1s: killed by signal: killed: hearing nothing"; job.Error != want {
		t.Errorf("%s: %s, want %s", job.Status, job.Error, want)
	}
}

func TestSIGTERMLeavesTimeToTidyUp(t *testing.T) {
	job := familyIn(t, &pinion.Worker{TaskTimeout: time.Second},
		"(trap 'sleep 0.05; echo tidy >tidy; exit' TERM; while :; do sleep 0.01; done) >/dev/null 2>&1 & wait", nil)
	if want := "timed out after 1s: killed by signal: terminated"; job.Error != want {
		t.Errorf("%s: %s, want %s", job.Status, job.Error, want)
	}
	if _, err := os.Stat("tidy"); err != nil {
		t.Error("the command was killed, and what it had started was not given the same time")
	}
}

// The slot is free again although somebody holds the pipes.
func TestBackgroundProcessesDoNotHoldTheSlot(t *testing.T) {
	for _, c := range []struct {
		name, script string
		escapes      bool // until the worker ends
	}{
		{"in the group", "sleep 600 & echo $! >pid; echo done", false},
		{"in the group, silent", "sleep 600 >/dev/null 2>&1 & echo $! >pid; echo done", false},
		{"with all pipes", "exec 3<&0; sleep 600 <&3 & echo $! >pid; echo done", false},
		{"in a session of its own", "setsid sh -c 'echo $$ >pid; exec sleep 600' & until [ -s pid ]; do sleep 0.01; done; echo done", true},
	} {
		t.Run(c.name, func(t *testing.T) {
			ended := false
			job := familyIn(t, new(pinion.Worker), c.script, func() {
				ended = true
				if lives := alive(pids(t, ".", "pid")["pid"]); lives != c.escapes {
					t.Errorf("after the task the background process lives: %v", lives)
				}
			})
			if !ended || job.Status != pinion.StatusSuccess || string(job.Result) != `"done"` {
				t.Errorf("%s %s %s", job.Status, job.Result, job.Error)
			}
			if alive(pids(t, ".", "pid")["pid"]) {
				t.Error("after the worker the background process is still there")
			}
		})
	}
}

func TestAZombieIsNotLeftInAGroup(t *testing.T) {
	cmd := exec.Command("cat")
	separate(cmd)
	stdin, err := cmd.StdinPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	defer cmd.Wait()
	if !left(cmd.Process.Pid) {
		t.Error("a living process is not counted")
	}
	stdin.Close()
	await(t, new(bytes.Buffer), func() bool { return !alive(cmd.Process.Pid) })
	if left(cmd.Process.Pid) {
		t.Error("a zombie is counted")
	}
}

// What it writes after the command's end is still heard, for a moment.
func TestALastLineFromTheBackgroundIsHeard(t *testing.T) {
	job := familyIn(t, new(pinion.Worker), "(sleep 0.1; echo last) & echo first", nil)
	if want := `"first\nlast"`; string(job.Result) != want {
		t.Errorf("%s: %s %s, want %s", job.Status, job.Result, job.Error, want)
	}
}

func TestACommandHasNoTerminalToWaitFor(t *testing.T) {
	job := familyIn(t, new(pinion.Worker), "read answer </dev/tty || exit 9", nil)
	if !strings.HasPrefix(job.Error, "exit status ") {
		t.Errorf("%s: %s", job.Status, job.Error)
	}
}

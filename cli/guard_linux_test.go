package cli

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
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

// family is a shell program that starts others, writes their numbers into files of the current directory,
// makes the file ready and then waits for ever. It starts a child, one that ignores SIGTERM, one with nothing
// in its environment, one in a session of its own, and one whose parent is gone. Only the child holds a pipe
// of the worker.
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

var familyMembers = []string{"ready", "child", "deaf", "bare", "session", "orphan"}

// pidsIn reads the numbers that family has written.
func pidsIn(t *testing.T, dir string, names ...string) map[string]int {
	t.Helper()
	pids := make(map[string]int)
	for _, name := range names {
		pid, err := strconv.Atoi(strings.TrimSpace(read(t, filepath.Join(dir, name))))
		if err != nil {
			t.Fatal(err)
		}
		pids[name] = pid
	}
	return pids
}

// isAlive reports whether a process exists and is not a zombie.
func isAlive(pid int) bool {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	_, after, _ := strings.Cut(string(text), ") ")
	return err == nil && !strings.HasPrefix(after, "Z")
}

func living(pids map[string]int) (names []string) {
	for name, pid := range pids {
		if isAlive(pid) {
			names = append(names, name)
		}
	}
	return names
}

// startFamily starts a worker with a job that is the family, and waits until the family is complete.
func startFamily(t *testing.T) (dir string, worker *exec.Cmd, output *watched) {
	t.Helper()
	dir = t.TempDir()
	write(t, filepath.Join(dir, "family.sh"), family)
	finish(t, process(t, dir, "enqueue", "family", "--db", "q.db"), 0)
	worker = process(t, dir, "worker", "--exec", "family=sh family.sh", "--db", "q.db",
		"--shutdown-timeout", "0.1", "--kill-after", "0.1")
	output = new(watched)
	worker.Stdout, worker.Stderr = output, output
	worker.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := worker.Start(); err != nil {
		t.Fatal(err)
	}
	await(t, output, func() bool { return exists(filepath.Join(dir, "ready")) })
	return dir, worker, output
}

// guardOf finds the guard of a worker.
func guardOf(t *testing.T, worker int) int {
	t.Helper()
	files, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, name := range files {
		stat, _ := os.ReadFile(name)
		line, _ := os.ReadFile(filepath.Join(filepath.Dir(name), "cmdline"))
		_, after, _ := strings.Cut(string(stat), ") ")
		fields := strings.Fields(after)
		if len(fields) > 1 && fields[1] == strconv.Itoa(worker) && strings.Contains(string(line), guardName) {
			pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(name)))
			return pid
		}
	}
	t.Fatal("the worker has no guard")
	return 0
}

func TestNothingThatAProgramStartsOutlivesAKilledWorker(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name string
		kill func(worker *os.Process)
	}{
		{"kill -9", func(worker *os.Process) { worker.Kill() }},
		{"a second SIGTERM", func(worker *os.Process) {
			for isAlive(worker.Pid) {
				worker.Signal(syscall.SIGTERM)
				// Two signals at once would count as one, and no event reports the end of the first.
				time.Sleep(time.Millisecond)
			}
		}},
		{"kill -9 of its process group", func(worker *os.Process) {
			syscall.Kill(-worker.Pid, syscall.SIGKILL)
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			dir, worker, output := startFamily(t)
			pids := pidsIn(t, dir, familyMembers...)
			if names := living(pids); len(names) != len(familyMembers) {
				t.Fatalf("before the kill only these live: %v", names)
			}
			guard := guardOf(t, worker.Process.Pid)
			c.kill(worker.Process)
			worker.Wait()
			await(t, output, func() bool { return len(living(pids)) == 0 && !isAlive(guard) })
		})
	}
}

// The program of a worker may itself be a worker, with programs and a guard of its own.
func TestNothingOutlivesAWorkerWhoseWorkerIsKilled(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	write(t, filepath.Join(dir, "family.sh"), family)
	finish(t, process(t, dir, "enqueue", "inner", "--db", "q.db"), 0)
	finish(t, process(t, dir, "enqueue", "family", "--db", "inner.db"), 0)
	worker, output := process(t, dir), new(watched)
	inner := "inner=" + shellWord(worker.Path) + " worker --db inner.db --exec 'family=sh family.sh'"
	worker.Args = append(worker.Args, "worker", "--db", "q.db", "--exec", inner)
	worker.Stdout, worker.Stderr = output, output
	if err := worker.Start(); err != nil {
		t.Fatal(err)
	}
	await(t, output, func() bool { return exists(filepath.Join(dir, "ready")) })
	pids := pidsIn(t, dir, familyMembers...)
	if err := worker.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	worker.Wait()
	await(t, output, func() bool { return len(living(pids)) == 0 })
}

// With its guard dead, the kernel still kills the program itself.
func TestAProgramDiesWithItsWorkerEvenUnguarded(t *testing.T) {
	t.Parallel()
	dir, worker, output := startFamily(t)
	pids := pidsIn(t, dir, familyMembers...)
	defer func() {
		for _, pid := range pids {
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
	await(t, output, func() bool { return !isAlive(pids["ready"]) })
}

// A shutdown gives the job back, with its attempt, once its processes are gone. On a machine that is so busy
// that this takes the worker more than the second it has, the worker fails, and the test tries again.
func TestAShutdownEndsProgramsAndGivesTheirJobsBack(t *testing.T) {
	t.Parallel()
	ctx := patience(t)
	for {
		dir, worker, output := startFamily(t)
		pids := pidsIn(t, dir, familyMembers...)
		if err := worker.Process.Signal(syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
		err := worker.Wait()
		if names := living(pids); len(names) > 0 {
			t.Errorf("after the worker's end there are still %v", names)
		}
		if err != nil && ctx.Err() == nil {
			t.Logf("the worker: %v\n%s", err, output)
			continue
		}
		if err != nil {
			t.Errorf("the worker: %v\n%s", err, output)
		}
		jobs := 0
		for job, err := range openStorage(t, filepath.Join(dir, "q.db")).Jobs(t.Context(), pinion.Filter{}) {
			jobs++
			if err != nil || job.Status != pinion.StatusPending || job.Attempts != 0 {
				t.Errorf("%+v, %v\n%s", job, err, output)
			}
		}
		if jobs != 1 {
			t.Errorf("%d jobs are stored, want 1", jobs)
		}
		return
	}
}

// guardedRunner returns a runner with a guard. The test closes it, as a worker does at its end.
func guardedRunner(t *testing.T, killAfter, linger time.Duration) *runner {
	t.Helper()
	r, err := newRunner("q.db", killAfter, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	r.linger = linger
	return r
}

// scriptProgram returns a program that runs a shell script in a directory that is empty but for it.
func scriptProgram(t *testing.T, r *runner, script string) *program {
	t.Helper()
	t.Chdir(t.TempDir())
	write(t, "script.sh", script)
	return testProgram(t, r, false, "sh script.sh")
}

var errTest = errors.New("the test stops it")

// What has left its session may live as long as the worker does.
func TestStoppingAProgramEndsAllItsProcesses(t *testing.T) {
	r := guardedRunner(t, 100*time.Millisecond, time.Hour)
	err := stopWhenReady(t, scriptProgram(t, r, family), errTest)
	pids := pidsIn(t, ".", familyMembers...)
	if names := living(pids); len(names) > 0 && !slices.Equal(names, []string{"session"}) {
		t.Errorf("after the task there are still %v", names)
	}
	r.close()
	if names := living(pids); len(names) > 0 {
		t.Errorf("after the worker there are still %v", names)
	}
	if !errors.Is(err, errTest) {
		t.Errorf("got %v, want %v", err, errTest)
	}
}

func TestAProgramThatIsStoppedHasFailedWhateverItsExitStatus(t *testing.T) {
	r := guardedRunner(t, time.Hour, time.Hour)
	defer r.close()
	err := stopWhenReady(t, scriptProgram(t, r, `
		trap 'exit 0' TERM
		: >ready
		while :; do sleep 0.01; done 2>/dev/null`), errTest)
	if want := errTest.Error() + ": exit status 0"; err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
}

func TestAProgramThatIgnoresSIGTERMIsKilled(t *testing.T) {
	r := guardedRunner(t, 100*time.Millisecond, time.Hour)
	defer r.close()
	err := stopWhenReady(t, scriptProgram(t, r, `
		trap '' TERM
		echo hearing nothing >&2
		: >ready
		sleep 600`), errTest)
	want := errTest.Error() + ": killed by signal: killed: hearing nothing"
	if err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
}

// What a program has started gets the same time as the program.
func TestSIGTERMLeavesTimeToTidyUp(t *testing.T) {
	r := guardedRunner(t, time.Hour, time.Hour)
	defer r.close()
	err := stopWhenReady(t, scriptProgram(t, r, `
		(
			trap 'sleep 0.05; echo tidy >tidy; exit' TERM
			: >ready
			while :; do sleep 0.01; done
		) >/dev/null 2>&1 &
		wait`), errTest)
	if want := errTest.Error() + ": killed by signal: terminated"; err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
	if !exists("tidy") {
		t.Error("the program was killed, and what it had started did not get the same time")
	}
}

// drainScript has a worker run a shell script as a job. It calls then when the task has ended.
func drainScript(t *testing.T, r *runner, script string, then func()) *pinion.Job {
	t.Helper()
	w := &pinion.Worker{Middleware: func(next pinion.RunFunc) pinion.RunFunc {
		return func(ctx context.Context, job *pinion.Job) error {
			defer then()
			return next(ctx, job)
		}
	}}
	return drain(t, scriptProgram(t, r, script), w, new(pinion.Job))
}

// The slot of a job is free again although a process holds the pipes.
func TestBackgroundProcessesDoNotHoldTheSlot(t *testing.T) {
	for _, c := range []struct {
		name, script string
		escapes      bool // until the worker ends
	}{
		{"in the group", "sleep 600 & echo $! >pid; echo done", false},
		{"in the group, silent", "sleep 600 >/dev/null 2>&1 & echo $! >pid; echo done", false},
		{"with all pipes", "exec 3<&0; sleep 600 <&3 & echo $! >pid; echo done", false},
		{"in a session of its own", `
			setsid sh -c 'echo $$ >pid; exec sleep 600' &
			until [ -s pid ]; do sleep 0.01; done
			echo done`, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := guardedRunner(t, time.Hour, 100*time.Millisecond)
			hasRun := false
			job := drainScript(t, r, c.script, func() {
				hasRun = true
				if alive := isAlive(pidsIn(t, ".", "pid")["pid"]); alive != c.escapes {
					t.Errorf("after the task the background process is alive: %v", alive)
				}
			})
			r.close()
			if !hasRun || job.Status != pinion.StatusSuccess || string(job.Result) != `"done"` {
				t.Errorf("%s %s %s", job.Status, job.Result, job.Error)
			}
			if isAlive(pidsIn(t, ".", "pid")["pid"]) {
				t.Error("after the worker the background process is still alive")
			}
		})
	}
}

// What a process in the background writes after the program's end still belongs to the result.
func TestALastLineFromTheBackgroundIsHeard(t *testing.T) {
	r := guardedRunner(t, time.Hour, time.Hour)
	defer r.close()
	job := drainScript(t, r, "(sleep 0.1; echo last) & echo first", func() {})
	if want := `"first\nlast"`; string(job.Result) != want {
		t.Errorf("%s: %s %s, want %s", job.Status, job.Result, job.Error, want)
	}
}

func TestAProgramHasNoTerminalToWaitFor(t *testing.T) {
	r := guardedRunner(t, time.Hour, time.Hour)
	defer r.close()
	job := drainScript(t, r, "read answer </dev/tty || exit 9", func() {})
	if !strings.HasPrefix(job.Error, "exit status ") {
		t.Errorf("%s: %s", job.Status, job.Error)
	}
}

func TestAZombieDoesNotKeepAGroupAlive(t *testing.T) {
	cmd := exec.Command("cat")
	newSession(cmd)
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer cmd.Wait()
	if !groupExists(cmd.Process.Pid) {
		t.Error("a living process does not count")
	}
	stdin.Close()
	await(t, new(bytes.Buffer), func() bool { return !isAlive(cmd.Process.Pid) })
	if groupExists(cmd.Process.Pid) {
		t.Error("a zombie counts")
	}
}

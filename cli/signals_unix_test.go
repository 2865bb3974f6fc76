//go:build unix

package cli

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"

	"github.com/pinion-queue/pinion"
)

func TestAWaitDiesOfTheSignalThatEndsIt(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	db := filepath.Join(dir, "q.db")
	storage := openStorage(t, db)
	mustEnqueue(t, storage, &pinion.Job{ID: "x", Task: "add"})
	startOne(t, storage)
	for signal, word := range map[syscall.Signal]string{
		syscall.SIGINT: "interrupted", syscall.SIGTERM: "ended by a signal: terminated",
		syscall.SIGHUP: "ended by a signal: hangup",
	} {
		cmd := process(t, dir, "wait", "x", "y", "--db", "q.db")
		_, _, stderr := pipesOf(t, cmd)
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		waitForLine(t, stderr, "^pinion: job x started")
		cmd.Process.Signal(signal)
		waitForLine(t, stderr, "^pinion: "+word+"; the jobs go on; to wait again: pinion wait x$")
		cmd.Wait()
		wantSignal(t, cmd, signal)
	}

	// What Go does at SIGQUIT, a dump of all goroutines and the status 2, helps nobody here.
	cmd := process(t, dir, "wait", "x", "--db", "q.db")
	_, _, stderr := pipesOf(t, cmd)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	waitForLine(t, stderr, "^pinion: job x started")
	cmd.Process.Signal(syscall.SIGQUIT)
	waitForLine(t, stderr, "^pinion: ended by a signal: quit; the jobs go on; to wait again: pinion wait x$")
	if stderr.Scan() {
		t.Errorf("after SIGQUIT it also prints %q", stderr.Text())
	}
	cmd.Wait()
	if got := cmd.ProcessState.ExitCode(); got != 128+int(syscall.SIGQUIT) {
		t.Errorf("after SIGQUIT: exit status %d, want %d", got, 128+int(syscall.SIGQUIT))
	}
}

func TestAShellLoopEndsWithTheWaitInIt(t *testing.T) {
	t.Parallel()
	dir := exampleFolder(t)
	storage := openStorage(t, filepath.Join(dir, "q.db"))
	mustEnqueue(t, storage, &pinion.Job{ID: "x", Task: "add"})
	startOne(t, storage)
	cmd := process(t, dir)
	cmd.Path = shell(t, "bash") // of all shells, it looks most closely at how the command died
	cmd.Args = []string{"bash", "-c", "while :; do bin/pinion wait x --db q.db; echo again; done"}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	_, stdout, stderr := pipesOf(t, cmd)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	waitForLine(t, stderr, "^pinion: job x started")
	syscall.Kill(-cmd.Process.Pid, syscall.SIGINT) // as a terminal does
	for stdout.Scan() {
		t.Fatalf("the loop went on: %s", stdout.Text())
	}
	cmd.Wait()
	wantSignal(t, cmd, syscall.SIGINT)
}

// startHolding starts a worker with a job that runs until its standard input ends.
func startHolding(t *testing.T, dir string, wrap ...string) (cmd *exec.Cmd, end func(), stderr *watched) {
	t.Helper()
	finish(t, process(t, dir, "enqueue", "hold", "--db", "q.db"), 0)
	cmd = process(t, dir, "worker", "--db", "q.db")
	if len(wrap) > 0 {
		cmd.Args = append(wrap, cmd.Args...)
		cmd.Args[len(wrap)] = cmd.Path
		cmd.Path = shell(t, wrap[0])
	}
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout := &watched{first: regexp.MustCompile("holding")}
	stderr = new(watched)
	cmd.Stdout, cmd.Stderr = stdout, stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	await(t, stderr, stdout.begun)
	return cmd, func() { stdin.Close() }, stderr
}

func wantNothingLeased(t *testing.T, dir string) {
	t.Helper()
	stdout, _ := finish(t, process(t, dir, "running", "--db", "q.db", "--json"), 0)
	if stdout != "" {
		t.Errorf("still leased: %s", stdout)
	}
}

func TestAWorkerWhoseTerminalIsClosedStopsAsAtSIGTERM(t *testing.T) {
	t.Parallel()
	for _, signal := range []syscall.Signal{syscall.SIGHUP, syscall.SIGTERM, syscall.SIGINT, syscall.SIGQUIT} {
		dir := t.TempDir()
		cmd, end, stderr := startHolding(t, dir)
		cmd.Process.Signal(signal)
		stops := regexp.MustCompile("stops gracefully")
		await(t, stderr, func() bool { return stops.MatchString(stderr.String()) })
		end()
		if err := cmd.Wait(); err != nil {
			t.Errorf("after %v: %v\n%s", signal, err, stderr)
		}
		wantNothingLeased(t, dir)
	}
}

func TestAWorkerOfNohupIgnoresSIGHUP(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	cmd, end, stderr := startHolding(t, dir, "nohup")
	cmd.Process.Signal(syscall.SIGHUP)
	cmd.Process.Signal(syscall.SIGTERM)
	stops := regexp.MustCompile("stops gracefully.*")
	await(t, stderr, func() bool { return stops.MatchString(stderr.String()) })
	wantText(t, stops.FindString(stderr.String()), "terminated")
	end()
	if err := cmd.Wait(); err != nil {
		t.Errorf("%v\n%s", err, stderr)
	}
	wantNothingLeased(t, dir)
}

func TestAnInterruptedDrainDiesOfTheSignal(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	finish(t, process(t, dir, "enqueue", "hold", "--db", "q.db"), 0)
	cmd := process(t, dir, "worker", "--drain", "--db", "q.db")
	stdin, stdout, stderr := pipesOf(t, cmd)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	waitForLine(t, stdout, "holding")
	cmd.Process.Signal(syscall.SIGINT)
	waitForLine(t, stderr, "stops gracefully")
	stdin.Close()
	waitForLine(t, stderr, "^pinion: stopped before the queue was drained: interrupted$")
	cmd.Wait()
	wantSignal(t, cmd, syscall.SIGINT)
}

func TestAWorkerWhoseLogNobodyReadsStopsGracefully(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	w := brokenPipe(t)
	finish(t, process(t, dir, "enqueue", "fail", "--args", `["text"]`, "--db", "q.db"), 0)
	cmd := process(t, dir, "worker", "--db", "q.db")
	cmd.Stdout, cmd.Stderr = w, w
	err := cmd.Run()
	w.Close()
	exit, ok := errors.AsType[*exec.ExitError](err)
	if !ok || exit.ExitCode() != 1 {
		t.Errorf("it ended with %v", cmd.ProcessState)
	}
	wantNothingLeased(t, dir)

	cmd = process(t, dir, "worker", "--db", "q.db")
	w = brokenPipe(t)
	var stdout bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, w
	cmd.Run()
	w.Close()
	if cmd.ProcessState.ExitCode() != 1 || !strings.Contains(stdout.String(), "processed") {
		t.Errorf("it ended with %v\n%s", cmd.ProcessState, &stdout)
	}
}

func TestAVerbThatASignalEndsSaysHowMuchIsDone(t *testing.T) {
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(&signalError{os.Interrupt})
	err := incomplete(ctx, fmt.Errorf("cancel: %w", context.Canceled), "500 jobs are", "canceled")
	ended, ok := errors.AsType[*signalError](err)
	if !ok || ended.status() != 130 || err.Error() != "interrupted; 500 jobs are canceled" {
		t.Error(err)
	}
}

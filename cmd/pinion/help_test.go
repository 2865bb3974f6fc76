//go:build unix

package main

import (
	"bytes"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/pinion-queue/pinion"
)

// endless are examples that run until they are told to stop.
var endless = regexp.MustCompile(`^pinion (worker\b.*|.*--watch\b.*)`)

// TestEveryExampleOfTheHelpWorks runs each line in a folder where what it names is there, by a shell that finds this
// command as pinion.
func TestEveryExampleOfTheHelpWorks(t *testing.T) {
	for _, cmd := range commands() {
		if cmd.examples == "" {
			t.Errorf("%s has no example", cmd.name)
		}
		for line := range strings.Lines(cmd.examples) {
			line = strings.TrimSuffix(line, "\n")
			t.Run(line, func(t *testing.T) { runExample(t, line) })
		}
	}
}

func runExample(t *testing.T, line string) {
	dir := exampleFolder(t)
	cmd := process(t, dir, "")
	cmd.Path, cmd.Args = "/bin/sh", []string{"sh", "-c", "trap : INT\n" + line} // or the shell ends by the signal too
	cmd.Env = append(cmd.Env, "PATH="+filepath.Join(dir, "bin")+":"+os.Getenv("PATH"))
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // to be interrupted as by a terminal
	var said watched
	cmd.Stdout, cmd.Stderr = &said, &said
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if endless.MatchString(line) && !strings.Contains(line, "--drain") {
		said.first = regexp.MustCompile(`worker starts|pending`)
		await(t, &said, said.begun)
		syscall.Kill(-cmd.Process.Pid, syscall.SIGINT)
	}
	if err := cmd.Wait(); err != nil {
		t.Errorf("%v\n%s", err, said.String())
	}
}

// watched is an output that may be looked at while it is written.
type watched struct {
	mu    sync.Mutex // guards text
	text  bytes.Buffer
	first *regexp.Regexp
}

func (w *watched) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.text.Write(p)
}

func (w *watched) String() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.text.String()
}

func (w *watched) begun() bool { return w.first.MatchString(w.String()) }

// exampleFolder is where the examples of the help are at home: a Go module with packages of tasks, a queue in q.db
// with a job that is a dead letter and files to read.
func exampleFolder(t *testing.T) string {
	dir := userModule(t)
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(dir, "bin/pinion"), "#!/bin/sh\nexec '"+self+"' \"$@\"\n")
	if err := os.Chmod(filepath.Join(dir, "bin/pinion"), 0o700); err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(dir, "rows.json"), "[1, 2]")
	write(t, filepath.Join(dir, "rows.jsonl"), "[1, 2]\n{\"a\": 3}\n")
	write(t, filepath.Join(dir, "images/a.png"), "")
	storage, err := pinion.OpenSQLite(t.Context(), filepath.Join(dir, "q.db"), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer storage.Close()
	// The jobs that the help names: one is a dead letter, one is done, and one waits.
	dead, done := &pinion.Job{ID: exampleID, Task: "mail"}, &pinion.Job{ID: exampleDone, Task: "mail"}
	waits := &pinion.Job{ID: exampleWaits, Task: "public", RunAt: time.Now().Add(time.Hour)}
	if err := storage.Enqueue(t.Context(), dead, done, waits); err != nil {
		t.Fatal(err)
	}
	claimed, err := storage.Dequeue(t.Context(), pinion.DequeueOptions{Max: 2})
	if err == nil {
		err = storage.DeadLetter(t.Context(), claimed[0], io.ErrUnexpectedEOF)
	}
	if err == nil {
		_, err = storage.MarkDone(t.Context(), claimed[1])
	}
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

// These are the jobs that examples name.
const (
	exampleID    = "0199c2b4a1f07000b3c1d2e3f4a5b6c7"
	exampleDone  = "0199c2b4a1f07000b3c1d2e3f4a5b6c8"
	exampleWaits = "0199c2b4a1f07000b3c1d2e3f4a5b6c9"
)

// shell returns the path of a shell, which CI has installed.
func shell(t *testing.T, name string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil && os.Getenv("CI") != "" {
		t.Fatal(err)
	}
	if err != nil {
		t.Skip(name, "is not installed")
	}
	return path
}

// Each shell is asked to complete a line, in the folder of the examples.
func TestShellsComplete(t *testing.T) {
	dir := exampleFolder(t)
	write(t, filepath.Join(dir, "a file.db"), "")
	ask := map[string]func(t *testing.T, line string) string{
		"bash": func(t *testing.T, line string) string {
			// As readline does it: the words broken at = too.
			words := regexp.MustCompile(` +`).Split(strings.ReplaceAll(line, "=", " = "), -1)
			script := "source <(pinion completion bash)\nCOMP_WORDS=(\"$@\")\nCOMP_CWORD=$(($# - 1))\n_pinion\nprintf '%s\\n' \"${COMPREPLY[@]}\"\n"
			return run1(t, dir, shell(t, "bash"), append([]string{"--norc", "-c", script, "bash"}, words...)...)
		},
		"fish": func(t *testing.T, line string) string {
			return run1(t, dir, shell(t, "fish"), "--no-config", "-c", "pinion completion fish | source\ncomplete -C "+"'"+line+"'")
		},
	}
	for name, complete := range ask {
		t.Run(name, func(t *testing.T) {
			for _, c := range []struct{ line, want string }{
				{"pinion enq", `(?m)^enqueue\b`},
				{"pinion dlq-", `(?m)^dlq-purge\b`},
				{"pinion enqueue --prio", `(?m)^--priority\b`},
				{"pinion enqueue add --no-such --key x --pr", `(?m)^--priority\b`},
				{"pinion completion z", `(?m)^zsh\b`},
				{"pinion help st", `(?m)^status\b`},
				{"pinion dlq-replay --db q.db 0199", exampleID},
				{"pinion show --db=q.db 0199", exampleID},
				{"pinion dlq-list --db q.db --task m", `(?m)^mail\b`},
				{"pinion status --db q", `(?m)^q\.db$`},
				{"pinion status --db=q", `(?m)^(--db=)?q\.db$`},
				{"pinion worker --import ./t", `(?m)^\./tasks/?`},
			} {
				wantText(t, complete(t, c.line), c.want)
			}
			for _, line := range []string{"pinion nonsense -", "pinion status --db q.db x", "pinion enqueue --args "} {
				if got := strings.TrimSpace(complete(t, line)); got != "" {
					t.Errorf("%s: got %s, want nothing", line, got)
				}
			}
		})
	}
}

// run1 runs a program in dir, where it finds this command, and returns its standard output.
func run1(t *testing.T, dir, program string, args ...string) string {
	t.Helper()
	cmd := process(t, dir, args...)
	cmd.Path, cmd.Args[0] = program, program
	cmd.Env = append(cmd.Env, "PATH="+filepath.Join(dir, "bin")+":"+os.Getenv("PATH"), "HOME="+dir, "XDG_CONFIG_HOME="+dir)
	out, _ := finish(t, cmd, 0)
	return out
}

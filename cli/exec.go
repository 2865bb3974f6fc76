package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
	"unicode/utf8"

	"github.com/pinion-queue/pinion"
)

const (
	exitRetry   = 75  // EX_TEMPFAIL of sysexits.h
	exitNoRetry = 100 // a permanent error among qmail's programs

	programRetries = 3 // unless --max-retries says otherwise

	resultLimit = 64 << 10 // bytes of standard output that are kept
	tailLimit   = 1 << 10  // bytes of standard error that are kept

	// lingerTime is how long processes that a program leaves behind may go on, for example to write their
	// last line.
	lingerTime = time.Second
	// shutdownGrace bounds the time between SIGTERM and SIGKILL at a shutdown, because the worker itself ends
	// a second later.
	shutdownGrace = 500 * time.Millisecond
)

// programs are the tasks of --exec that have been added to pinion.DefaultRegistry.
var programs []*program

// program is a task of --exec.
type program struct {
	name    string
	command string // as the user wrote it
	words   []template
	shell   bool
	retry   pinion.RetryPolicy // set, as runner is, before a worker starts
	runner  *runner
}

// kind returns the kind of task, as the command tasks prints it.
func (p *program) kind() string {
	if p.shell {
		return "shell"
	}
	return "exec"
}

// execFlags declares the flags that make programs tasks.
func (c *call) execFlags() {
	c.listFlag(&c.execs, "exec", "make a program a task: `NAME=COMMAND`; may be repeated")
	c.flags.BoolVar(&c.shell, "shell", false, "the COMMANDs of --exec are for /bin/sh")
}

// addPrograms registers the tasks of --exec.
func addPrograms(shell bool, specs []string) error {
	for _, spec := range specs {
		p, err := parseProgram(spec, shell)
		if err != nil {
			return err
		}
		names := pinion.DefaultRegistry.Names()
		if slices.ContainsFunc(names, func(name string) bool { return strings.EqualFold(name, p.name) }) {
			return usagef("--exec %s: there is already a task of that name; choose another", p.name)
		}
		pinion.RegisterTask(pinion.Task[*pinion.Job]{Name: p.name, Run: p.run, Retry: &p.retry})
		programs = append(programs, p)
	}
	return nil
}

// checkPrograms reports a program that does not exist while somebody is looking.
func checkPrograms() error {
	for _, p := range programs {
		var err error
		if p.shell {
			err = p.checkSyntax()
		} else {
			err = p.checkExists()
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// checkSyntax has the shell parse the command.
func (p *program) checkSyntax() error {
	cmd := exec.Command(p.words[0][0], "-n", "-c", strings.Join(p.words[2], "${1}"))
	output, err := cmd.CombinedOutput()
	if err == nil {
		return nil
	}
	problem := strings.TrimSpace(string(output))
	if problem == "" {
		problem = err.Error()
	}
	return usagef("--exec %s: the shell does not accept this COMMAND: %s", p.name, problem)
}

func (p *program) checkExists() error {
	file := p.words[0][0]
	_, err := exec.LookPath(file)
	if err == nil {
		return nil
	}
	if !errors.Is(err, exec.ErrNotFound) && !errors.Is(err, os.ErrNotExist) {
		return usagef("--exec %s: cannot run %q: %v; "+
			"make it executable (chmod +x), or name the interpreter before it", p.name, file, errors.Unwrap(err))
	}
	if strings.Contains(file, "=") {
		return usagef("--exec %s: there is no program %q; "+
			"to set a variable use env, as in env LANG=C sort, or add --shell", p.name, file)
	}
	return usagef("--exec %s: there is no program %q; install it, or write its path", p.name, file)
}

// run is the task: it runs the program for a job.
func (p *program) run(ctx context.Context, job *pinion.Job) error {
	argv, err := p.argv(job)
	if err != nil {
		return pinion.Permanent(err)
	}
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Env = append(slices.Clip(p.runner.env),
		"PINION_TASK="+p.name,
		"PINION_JOB_ID="+job.ID,
		"PINION_QUEUE="+job.Queue,
		"PINION_ATTEMPT="+strconv.Itoa(job.Attempts))
	var stdout head
	var stderr tail
	state, stopped, err := p.runner.run(ctx, cmd, inputOf(job), &stdout, &stderr)
	if errors.Is(err, syscall.E2BIG) {
		err = fmt.Errorf("%w; it can read its arguments from standard input instead, as JSON", err)
		return pinion.Permanent(err)
	}
	if err != nil {
		return err
	}
	failure := describeExit(state, stderr.String())
	if stopped { // even if its exit status is 0, it has hardly done everything
		return fmt.Errorf("%w: %w", context.Cause(ctx), failure)
	}
	switch state.ExitCode() {
	case 0:
		p.logOutput(job, &stdout, &stderr)
		return stdout.setResult(ctx)
	case exitNoRetry:
		return pinion.Permanent(failure)
	case exitRetry:
		if after, err := parseDuration(stdout.lastLine()); err == nil {
			return pinion.RetryAfter(after, failure)
		}
	}
	return failure
}

// inputOf returns the standard input of the program.
func inputOf(job *pinion.Job) string {
	input := struct {
		Args   []any          `json:"args"`
		Kwargs map[string]any `json:"kwargs"`
	}{job.Args, job.Kwargs}
	if input.Args == nil {
		input.Args = []any{}
	}
	if input.Kwargs == nil {
		input.Kwargs = map[string]any{}
	}
	return plainJSON(input) + "\n"
}

// describeExit returns the error of a job: how its program ended, and the end of its standard error.
func describeExit(state *os.ProcessState, stderr string) error {
	text := fmt.Sprintf("exit status %d", state.ExitCode())
	if state.ExitCode() < 0 {
		text = "killed by " + state.String() // begins with "signal: "
	}
	if stderr != "" {
		text += ": " + stderr
	}
	return errors.New(text)
}

// logOutput logs output of a successful program that the job does not keep.
func (p *program) logOutput(job *pinion.Job, stdout *head, stderr *tail) {
	if text := stderr.String(); text != "" {
		p.runner.log.Debug("standard error", "task", p.name, "job", job.ID, "text", text)
	}
	if stdout.dropped > 0 {
		p.runner.log.Warn("standard output is too long for a result; the rest is dropped",
			"task", p.name, "job", job.ID, "bytes", stdout.dropped)
	}
}

// runner runs the programs of a worker.
type runner struct {
	env       []string
	killAfter time.Duration
	linger    time.Duration
	guard     *guard
	log       *slog.Logger
}

// newRunner prepares to run programs. It must be closed when the worker has ended.
func newRunner(db string, killAfter time.Duration, log *slog.Logger) (*runner, error) {
	scheme := schemeOf(db)
	if scheme == "" || strings.EqualFold(scheme, "sqlite:") { // a program may run in another directory
		path, err := filepath.Abs(db[len(scheme):])
		if err != nil {
			return nil, err
		}
		db = scheme + path
	}
	r := &runner{killAfter: killAfter, linger: lingerTime, log: log}
	r.env = append(os.Environ(), "PINION_DB="+db,
		fmt.Sprintf("PINION_RETRY=%d", exitRetry), fmt.Sprintf("PINION_NO_RETRY=%d", exitNoRetry))
	var err error
	r.guard, err = newGuard()
	if err != nil {
		log.Warn("cannot start the guard; if this worker is killed with SIGKILL, "+
			"processes of its programs may live on", "error", err)
	}
	return r, nil
}

func (r *runner) close() { r.guard.close() }

// useRunner makes r run the tasks of --exec.
func useRunner(r *runner) {
	for _, p := range programs {
		p.runner = r
	}
}

// run runs a command until it and the rest of its process group have ended. It stops the command when
// ctx ends, and reports whether it did.
func (r *runner) run(
	ctx context.Context, cmd *exec.Cmd, input string, stdout, stderr io.Writer,
) (state *os.ProcessState, stopped bool, err error) {
	pipes, err := openPipes(cmd)
	if err != nil {
		return nil, false, err
	}
	if err := r.guard.start(cmd); err != nil {
		return nil, false, err
	}
	var goroutines sync.WaitGroup
	outputEnded := pipes.copy(&goroutines, input, stdout, stderr)
	exited := make(chan struct{})
	goroutines.Go(func() {
		state, err = cmd.Process.Wait()
		close(exited)
	})

	grace := r.linger
	select {
	case <-exited:
	case <-ctx.Done():
		select {
		case <-exited: // at the same moment
		default:
			stopped = true
			terminateGroup(cmd.Process)
			grace = r.killAfter
			if errors.Is(context.Cause(ctx), pinion.ErrShutdown) {
				grace = min(grace, shutdownGrace)
			}
		}
	}
	r.awaitGroup(cmd.Process, exited, outputEnded, grace)
	<-exited
	r.guard.groupEnded(cmd.Process.Pid)
	pipes.close() // a process that has left the group may still hold the other ends
	goroutines.Wait()
	return state, stopped, err
}

// awaitGroup waits until a command has exited, its process group is gone and its output has ended. After the
// grace time it kills the group. It gives up on processes that hold the output but are not in the group, and
// on those that cannot be killed.
func (r *runner) awaitGroup(process *os.Process, exited, outputEnded <-chan struct{}, grace time.Duration) {
	limit := time.NewTimer(grace)
	defer limit.Stop()
	poll := time.NewTicker(10 * time.Millisecond) // no event reports the end of a group
	defer poll.Stop()
	hasExited, hasOutput, gone, killed := false, false, false, false
	for {
		if hasExited && !gone { // once gone, another group may get the number
			gone = !groupExists(process.Pid)
		}
		if gone && hasOutput {
			return
		}
		select {
		case <-exited:
			hasExited, exited = true, nil
		case <-outputEnded:
			hasOutput, outputEnded = true, nil
		case <-poll.C:
		case <-limit.C:
			if gone || killed {
				return
			}
			killGroup(process)
			killed = true
			limit.Reset(r.linger)
		}
	}
}

// commandPipes are the worker's ends of the streams of a command.
type commandPipes struct {
	stdin          io.WriteCloser
	stdout, stderr io.ReadCloser
}

func openPipes(cmd *exec.Cmd) (*commandPipes, error) {
	stdin, inErr := cmd.StdinPipe()
	stdout, outErr := cmd.StdoutPipe()
	stderr, errErr := cmd.StderrPipe()
	return &commandPipes{stdin, stdout, stderr}, errors.Join(inErr, outErr, errErr)
}

// copy writes the input and reads the output. It closes outputEnded when both outputs have ended.
func (p *commandPipes) copy(
	goroutines *sync.WaitGroup, input string, stdout, stderr io.Writer,
) (outputEnded <-chan struct{}) {
	goroutines.Go(func() { // the command need not read it
		io.WriteString(p.stdin, input)
		p.stdin.Close()
	})
	var outputs sync.WaitGroup
	outputs.Go(func() { io.Copy(stdout, p.stdout) })
	outputs.Go(func() { io.Copy(stderr, p.stderr) })
	ended := make(chan struct{})
	goroutines.Go(func() {
		outputs.Wait()
		close(ended)
	})
	return ended
}

func (p *commandPipes) close() {
	p.stdin.Close()
	p.stdout.Close()
	p.stderr.Close()
}

// head keeps the beginning of the text that is written to it.
type head struct {
	text    []byte
	dropped int // bytes
}

func (h *head) Write(text []byte) (int, error) {
	kept := min(len(text), resultLimit-len(h.text))
	h.text = append(h.text, text[:kept]...)
	h.dropped += len(text) - kept
	return len(text), nil
}

func (h *head) lastLine() string {
	text := strings.TrimSpace(string(h.text))
	return strings.TrimSpace(text[strings.LastIndexByte(text, '\n')+1:])
}

// setResult makes the text the job's result: as JSON if it is one value, else as a string without the last
// line end.
func (h *head) setResult(ctx context.Context) error {
	text := h.text
	if h.dropped > 0 {
		text = trimPartialRune(text)
	}
	clean := strings.TrimRight(strings.ToValidUTF8(string(text), "\uFFFD"), "\r\n")
	if clean == "" {
		return nil
	}
	if h.dropped == 0 && json.Valid([]byte(clean)) {
		return pinion.SetResult(ctx, json.RawMessage(clean))
	}
	return pinion.SetResult(ctx, clean)
}

// trimPartialRune removes the first bytes of a character that was cut off at the end of text.
func trimPartialRune(text []byte) []byte {
	for range utf8.UTFMax - 1 {
		r, size := utf8.DecodeLastRune(text)
		if r != utf8.RuneError || size != 1 {
			break
		}
		text = text[:len(text)-1]
	}
	return text
}

// tail keeps the end of the text that is written to it.
type tail struct {
	text    []byte
	dropped bool // something before it
}

func (t *tail) Write(text []byte) (int, error) {
	t.text = append(t.text, text[max(0, len(text)-tailLimit):]...)
	excess := len(t.text) - tailLimit
	if excess > 0 || len(text) > tailLimit {
		t.text = append(t.text[:0], t.text[excess:]...)
		t.dropped = true
	}
	return len(text), nil
}

// String returns the last lines that are not empty, as a terminal would show them: of a line that a progress
// bar has written many times, it is the last state.
func (t *tail) String() string {
	text := strings.TrimSpace(strings.ToValidUTF8(string(t.text), "\uFFFD"))
	if t.dropped {
		_, whole, hasMore := strings.Cut(text, "\n") // the first line may not be whole
		if hasMore {
			text = whole
		}
	}
	var lines []string
	for line := range strings.Lines(text) {
		line = strings.TrimRight(line, "\r\n")
		line = line[strings.LastIndexByte(line, '\r')+1:]
		if line != "" {
			lines = append(lines, line)
		}
	}
	return strings.Join(lines, "\n")
}

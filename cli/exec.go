package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/pinion-queue/pinion"
)

const (
	exitRetry   = 75  // EX_TEMPFAIL of sysexits.h
	exitNoRetry = 100 // a permanent error, as with qmail's programs

	programRetries = 3 // unless --max-retries or --exec-opt says otherwise

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
	command string     // as the user wrote it
	shell   bool       // the command is for a shell
	words   []template // of the command; none with a shell
	names   []string   // with a shell, the names of arguments that the text uses
	stdin   bool       // the program gets the arguments on its standard input
	retries int        // of --exec-opt; negative: not given
	timeout time.Duration

	path   string             // the file of the program, from resolve
	retry  pinion.RetryPolicy // set, as runner is, before a worker starts
	runner *runner
}

// kind returns the kind of task, as the command tasks prints it.
func (p *program) kind() string {
	if p.shell {
		return "shell"
	}
	return "exec"
}

// ---- The flags ----

// programFlags are the values of the flags that make programs tasks.
type programFlags struct {
	specs   []string          // NAME=COMMAND
	shell   bool              // the COMMANDs are for a shell
	stdin   bool              // programs get the arguments on their standard input
	options map[string]string // retries=N,timeout=TIME, by NAME
}

// execFlags declares the flags that make programs tasks.
func (c *call) execFlags() {
	f := &c.programs
	c.listFlag(&f.specs, "exec", "make a program a task: `NAME=COMMAND`; may be repeated")
	c.flags.BoolVar(&f.shell, "shell", false, "the COMMANDs of --exec are for /bin/sh")
	c.flags.BoolVar(&f.stdin, "stdin", false, "programs get the arguments as JSON on standard input [nothing]")
	c.flags.Func("exec-opt", "`NAME:retries=N,timeout=TIME` for that --exec; may be repeated", func(s string) error {
		at := strings.LastIndexByte(s, ':')
		if at < 1 || at == len(s)-1 {
			return fmt.Errorf("%q must be NAME:retries=N,timeout=TIME, with one of these or both", s)
		}
		name := s[:at]
		if _, given := f.options[name]; given {
			return fmt.Errorf("%s has options already; write them all in one: %[1]s:retries=0,timeout=30s", name)
		}
		if f.options == nil {
			f.options = make(map[string]string)
		}
		f.options[name] = s[at+1:]
		return nil
	})
}

// words returns the flags as they are written on a command line.
func (f *programFlags) words() (words []string) {
	if f.shell {
		words = append(words, "--shell")
	}
	if f.stdin {
		words = append(words, "--stdin")
	}
	for _, name := range slices.Sorted(maps.Keys(f.options)) {
		words = append(words, "--exec-opt", name+":"+f.options[name])
	}
	for _, spec := range f.specs {
		words = append(words, "--exec", spec)
	}
	return words
}

// addPrograms registers the tasks of --exec.
func addPrograms(f *programFlags) error {
	unused := maps.Clone(f.options)
	for _, spec := range f.specs {
		p, err := parseProgram(spec, f.shell)
		if err != nil {
			return err
		}
		names := pinion.DefaultRegistry.Names()
		if slices.ContainsFunc(names, func(name string) bool { return strings.EqualFold(name, p.name) }) {
			return usagef("--exec %s: there is already a task of that name; choose another", p.name)
		}
		p.stdin = f.stdin
		if err := p.setOptions(f.options[p.name]); err != nil {
			return err
		}
		delete(unused, p.name)
		pinion.RegisterTask(pinion.Task[*pinion.Job]{
			Name: p.name, Run: p.run, Retry: &p.retry, Timeout: p.timeout,
		})
		programs = append(programs, p)
	}
	for name := range unused {
		return usagef("--exec-opt %s: there is no --exec %[1]s; give both", name)
	}
	return nil
}

// setOptions reads retries=N,timeout=TIME.
func (p *program) setOptions(options string) error {
	p.retries = -1
	if options == "" {
		return nil
	}
	given := make(map[string]bool)
	for option := range strings.SplitSeq(options, ",") {
		key, value, _ := strings.Cut(option, "=")
		if given[key] {
			return usagef("--exec-opt %s: %s is given twice; write it once", p.name, key)
		}
		given[key] = true
		var err error
		switch key {
		case "retries":
			p.retries, err = strconv.Atoi(value)
			if err != nil || p.retries < 0 {
				err = fmt.Errorf("%q is not a number of retries; want 0 or more", value)
			}
		case "timeout":
			p.timeout, err = parseDuration(value)
			if err == nil && p.timeout == 0 {
				err = errors.New("a timeout of 0 is none; leave it out")
			}
		default:
			err = fmt.Errorf("there is no option %q; want retries=N or timeout=TIME", key)
		}
		if err != nil {
			return usagef("--exec-opt %s: %v", p.name, err)
		}
	}
	return nil
}

// ---- An attempt ----

// run is the task: it runs the program for a job.
func (p *program) run(ctx context.Context, job *pinion.Job) error {
	argv, err := p.argv(job)
	if err != nil {
		return pinion.Permanent(err)
	}
	env, err := p.env(job)
	if err != nil {
		return pinion.Permanent(err)
	}
	dir, err := p.runner.directoryOf(job)
	if err != nil {
		return err
	}
	if dir != "" {
		env = append(env, "PWD="+dir)
	}
	input := ""
	if p.stdin {
		input = inputOf(job)
	}
	out := output{log: p.runner.logs.begin(job)}
	defer out.log.end()
	cmd := &exec.Cmd{Path: p.path, Args: argv, Env: env, Dir: dir}
	state, stopped, err := p.runner.run(ctx, cmd, input, &out)
	if errors.Is(err, syscall.ENOEXEC) && isText(p.path) { // a script without #!; execvp does this
		argv = append([]string{shellPath, p.path}, argv[1:]...)
		cmd = &exec.Cmd{Path: shellPath, Args: argv, Env: env, Dir: dir}
		state, stopped, err = p.runner.run(ctx, cmd, input, &out)
	}
	if err != nil {
		return p.notStarted(ctx, job, err)
	}
	failure := errors.New(describeExit(state) + out.ending())
	if stopped { // even if its exit status is 0, it has hardly done everything
		return fmt.Errorf("%w: %w", context.Cause(ctx), failure)
	}
	switch state.ExitCode() {
	case 0:
		p.logOutput(job, &out)
		return out.result.set(ctx)
	case exitNoRetry:
		return pinion.Permanent(failure)
	case exitRetry:
		if after, err := parseDuration(out.stdout.lastLine()); err == nil {
			return pinion.RetryAfter(after, failure)
		}
	}
	return failure
}

// env returns the environment of the program for a job.
func (p *program) env(job *pinion.Job) ([]string, error) {
	named, err := p.namedArguments(job)
	if err != nil {
		return nil, err
	}
	return append(slices.Concat(p.runner.env, named),
		"PINION_TASK="+p.name,
		"PINION_JOB_ID="+job.ID,
		"PINION_QUEUE="+job.Queue,
		"PINION_ATTEMPT="+strconv.Itoa(job.Attempts)), nil
}

// inputOf returns the standard input of the program, if --stdin asks for it.
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

// describeExit returns how a program ended.
func describeExit(state *os.ProcessState) string {
	if state.ExitCode() < 0 {
		return "killed by " + state.String() // begins with "signal: "
	}
	return fmt.Sprintf("exit status %d", state.ExitCode())
}

// logOutput logs output of a successful program that the job does not keep.
func (p *program) logOutput(job *pinion.Job, out *output) {
	if text := out.stderr.String(); text != "" {
		p.runner.log.Debug("standard error", "task", p.name, "job", job.ID, "text", text)
	}
	if out.result.dropped > 0 {
		p.runner.log.Warn("standard output is too long for a result; the rest is dropped",
			"task", p.name, "job", job.ID, "bytes", out.result.dropped)
	}
}

// runner runs the programs of a worker.
type runner struct {
	env       []string      // of every program
	chdir     bool          // run a program in the directory that its job names
	logs      *jobLogs      // nil: none are kept
	killAfter time.Duration // between SIGTERM and SIGKILL for a program that must stop
	linger    time.Duration // lingerTime, but in tests
	guard     *guard        // kills the programs if this worker is killed
	log       *slog.Logger
}

// newRunner prepares to run programs. It must be closed when the worker has ended.
func newRunner(db string, killAfter time.Duration, log *slog.Logger) (*runner, error) {
	env, err := environment(db)
	if err != nil {
		return nil, err
	}
	r := &runner{env: env, chdir: true, killAfter: killAfter, linger: lingerTime, log: log}
	r.guard, err = newGuard()
	if err != nil {
		log.Warn("cannot start the guard; if this worker is killed with SIGKILL, "+
			"processes of its programs may live on", "error", err)
	}
	return r, nil
}

func (r *runner) close() { r.guard.close() }

// run runs a command until it and the rest of its process group have ended. Without input its standard input
// is empty. When ctx ends, run sends SIGTERM and, after a grace time, SIGKILL; then stopped is true. An error
// means that the command did not start.
func (r *runner) run(
	ctx context.Context, cmd *exec.Cmd, input string, out *output,
) (state *os.ProcessState, stopped bool, err error) {
	pipes, err := openPipes(cmd, input != "")
	if err != nil {
		return nil, false, err
	}
	err = r.guard.start(cmd)
	pipes.started()
	if err != nil {
		pipes.close()
		return nil, false, err
	}
	var goroutines sync.WaitGroup
	outputEnded := pipes.copy(&goroutines, input, out)
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

// commandPipes are the pipes between the worker and a command.
type commandPipes struct {
	stdin          *os.File // the worker's ends; nil: the command's is /dev/null
	stdout, stderr *os.File
	theirs         []*os.File // the command's ends, which the worker closes when it has started
}

// openPipes makes the pipes of a command. If it cannot make all of them, it closes those that it has made.
func openPipes(cmd *exec.Cmd, withInput bool) (p *commandPipes, err error) {
	p = new(commandPipes)
	p.stdout, err = p.output(&cmd.Stdout)
	if err == nil {
		p.stderr, err = p.output(&cmd.Stderr)
	}
	if err == nil && withInput {
		var end *os.File
		end, p.stdin, err = os.Pipe()
		if err == nil {
			cmd.Stdin = end
			p.theirs = append(p.theirs, end)
		}
	}
	if err != nil {
		p.started()
		p.close()
		return nil, err
	}
	return p, nil
}

// output makes a pipe for an output of a command, and returns the worker's end.
func (p *commandPipes) output(stream *io.Writer) (*os.File, error) {
	ours, end, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	*stream = end
	p.theirs = append(p.theirs, end)
	return ours, nil
}

// started closes the command's ends: it has them now, or never will.
func (p *commandPipes) started() {
	for _, end := range p.theirs {
		end.Close()
	}
}

// copy writes the input and reads the output. It closes outputEnded when both outputs have ended.
func (p *commandPipes) copy(goroutines *sync.WaitGroup, input string, out *output) (outputEnded <-chan struct{}) {
	if p.stdin != nil {
		goroutines.Go(func() { // the command need not read it
			io.WriteString(p.stdin, input)
			p.stdin.Close()
		})
	}
	var outputs sync.WaitGroup
	outputs.Go(func() { io.Copy(out.toStdout(), p.stdout) })
	outputs.Go(func() { io.Copy(out.toStderr(), p.stderr) })
	ended := make(chan struct{})
	goroutines.Go(func() {
		outputs.Wait()
		close(ended)
	})
	return ended
}

// close closes the worker's ends.
func (p *commandPipes) close() {
	for _, end := range []*os.File{p.stdin, p.stdout, p.stderr} {
		if end != nil {
			end.Close()
		}
	}
}

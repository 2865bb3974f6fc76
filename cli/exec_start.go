package cli

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/pinion-queue/pinion"
)

// How a program of --exec is found, where it runs, and what it means if it does not start.

// ---- When the worker starts ----

// resolvePrograms finds the file of each program. A program that cannot run is an error now, while the user is
// watching, and not at its first job.
func resolvePrograms() error {
	for _, p := range programs {
		if err := p.resolve(); err != nil {
			return err
		}
	}
	return nil
}

// resolve finds the file of the program once, because its jobs run in directories that others choose.
func (p *program) resolve() error {
	if p.shell {
		p.path = shellPath
		return p.checkSyntax()
	}
	file := p.words[0][0]
	path, err := exec.LookPath(file)
	if err == nil {
		path, err = filepath.Abs(path)
	}
	if err == nil {
		p.path = path
		return p.checkScript()
	}
	if errors.Is(err, syscall.EISDIR) {
		return usagef("--exec %s: %q is a directory; name a program", p.name, file)
	}
	if !errors.Is(err, exec.ErrNotFound) && !errors.Is(err, fs.ErrNotExist) {
		return usagef("--exec %s: cannot run %q: %v; "+
			"make it executable (chmod +x), or name the interpreter before it", p.name, file, errors.Unwrap(err))
	}
	if strings.Contains(file, "=") {
		return usagef("--exec %s: there is no program %q; "+
			"to set a variable use env, as in env LANG=C sort, or add --shell", p.name, file)
	}
	return usagef("--exec %s: there is no program %q; install it, or write its path", p.name, file)
}

// checkSyntax has the shell parse the command.
func (p *program) checkSyntax() error {
	cmd := exec.Command(shellPath, "-n", "-c", p.command)
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

// checkScript reports a script whose interpreter does not exist.
func (p *program) checkScript() error {
	if err := missingInterpreter(p.path); err != nil {
		return usagef("--exec %s: cannot run %s: %v", p.name, p.path, err)
	}
	return nil
}

// missingInterpreter returns an error about the interpreter that the first line of a script names, if that is
// not there. The operating system's error would be about the script.
func missingInterpreter(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return nil // it need not be readable
	}
	defer f.Close()
	line, _ := bufio.NewReader(io.LimitReader(f, 256)).ReadString('\n')
	rest, isScript := strings.CutPrefix(line, "#!")
	words := strings.FieldsFunc(rest, func(r rune) bool { return r == ' ' || r == '\t' || r == '\n' })
	if !isScript || len(words) == 0 {
		return nil
	}
	interpreter := words[0]
	_, err = os.Stat(interpreter)
	if !errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if strings.HasSuffix(interpreter, "\r") {
		return fmt.Errorf("its first line ends in a carriage return, so its interpreter would be %q; "+
			"save the file with Unix line ends", interpreter)
	}
	return fmt.Errorf("its interpreter %s does not exist; install that, or correct the first line", interpreter)
}

// isText reports whether a file looks like text, and not like a program for another machine.
func isText(path string) bool {
	f, err := os.Open(path)
	if err != nil {
		return false
	}
	defer f.Close()
	start, err := io.ReadAll(io.LimitReader(f, 512))
	return err == nil && !bytes.Contains(start, []byte{0})
}

// warnOfBraces warns of {}, which other programs replace, in a command without arguments.
func (p *program) warnOfBraces() {
	if strings.Contains(p.command, "{}") && !p.usesArguments() {
		p.runner.log.Warn("{} is not an argument and stays as it is; the first argument is {0}, with --shell \"$1\"",
			"task", p.name)
	}
}

// environment returns the variables of all programs of a worker on a queue. Paths in it do not depend on the
// directory in which a program runs, and arguments by name are those of the program's own job.
func environment(db string) (env []string, err error) {
	for _, variable := range os.Environ() {
		name, value, _ := strings.Cut(variable, "=")
		switch {
		case strings.HasPrefix(name, argPrefix): // this worker is a program of another worker
			continue
		case name == "PATH":
			dirs := filepath.SplitList(value)
			for i, dir := range dirs {
				dirs[i], err = filepath.Abs(dir)
				if err != nil {
					return nil, err
				}
			}
			variable = "PATH=" + strings.Join(dirs, string(filepath.ListSeparator))
		case name == logsVariable && value != "":
			dir, err := filepath.Abs(value)
			if err != nil {
				return nil, err
			}
			variable = logsVariable + "=" + dir
		}
		env = append(env, variable)
	}
	db, err = absoluteDB(db)
	if err != nil {
		return nil, err
	}
	return append(env, "PINION_DB="+db,
		fmt.Sprintf("PINION_RETRY=%d", exitRetry), fmt.Sprintf("PINION_NO_RETRY=%d", exitNoRetry)), nil
}

// ---- When a job starts ----

// metaDir is the name in a job's Meta of the directory in which its program runs. enqueue records its own.
const metaDir = "pinion.dir"

// directoryOf returns the directory that a job names, or "" for the worker's own.
func (r *runner) directoryOf(job *pinion.Job) (string, error) {
	dir := job.Meta[metaDir]
	if !r.chdir || dir == "" {
		return "", nil
	}
	const advice = "make it, or run the worker with --no-chdir"
	if !filepath.IsAbs(dir) {
		return "", fmt.Errorf("the job's working directory %q is not an absolute path; %s", dir, advice)
	}
	info, err := os.Stat(filepath.Join(dir) + string(filepath.Separator) + ".") // may this user enter it?
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return "", fmt.Errorf("the job's working directory %s is gone; %s", dir, advice)
	case err != nil:
		return "", fmt.Errorf("the job's working directory cannot be used: %w; %s", err, advice)
	case !info.IsDir():
		return "", fmt.Errorf("the job's working directory %s is not a directory; %s", dir, advice)
	}
	return dir, nil
}

// notStarted returns the error of a job whose program did not start.
func (p *program) notStarted(ctx context.Context, job *pinion.Job, err error) error {
	if isShortage(err) {
		return p.runner.tryLater(ctx, p, job, err)
	}
	if errors.Is(err, syscall.E2BIG) {
		err = fmt.Errorf("%w; with --stdin it can read its arguments from standard input instead, as JSON", err)
		return pinion.Permanent(err)
	}
	if reason := missingInterpreter(p.path); reason != nil {
		return fmt.Errorf("cannot run %s: %w", p.path, reason)
	}
	return err
}

// shortages are the errors of the operating system when the machine, or the user's share of it, has no room for
// another process. EBADF is among them because dup3 returns it in the new process if the number of a descriptor
// would be too high. It has no other cause here: the descriptors that dup3 gets are open.
var shortages = []error{syscall.EMFILE, syscall.ENFILE, syscall.ENOMEM, syscall.EAGAIN, syscall.EBADF}

// isShortage reports whether a program did not start for a reason that says nothing about its job.
func isShortage(err error) bool {
	for _, shortage := range shortages {
		if errors.Is(err, shortage) {
			return true
		}
	}
	return false
}

// shortagePause is how long a slot rests when the machine has no room for its program, so that a worker does
// not claim the whole queue and give it back.
const shortagePause = time.Second

// tryLater gives a job back, as at a shutdown: the attempt does not count.
func (r *runner) tryLater(ctx context.Context, p *program, job *pinion.Job, err error) error {
	r.log.Warn("the machine has no room for a program; its job waits",
		"task", p.name, "job", job.ID, "error", err)
	rest := time.NewTimer(shortagePause)
	defer rest.Stop()
	select {
	case <-rest.C:
	case <-ctx.Done():
	}
	return fmt.Errorf("cannot start the program: %w: %w", err, pinion.Snooze(shortagePause))
}

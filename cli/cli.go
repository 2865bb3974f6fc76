// Package cli is the command line of Pinion. The command pinion only calls Main.
//
// A program of your own, with your tasks built in, is as short:
//
//	package main
//
//	import (
//		_ "example.com/shop/tasks" // registers the tasks
//
//		"github.com/pinion-queue/pinion/cli"
//	)
//
//	func main() { cli.Main() }
//
// It has all commands of pinion, and its worker runs your tasks. `pinion worker --import ./tasks` writes the
// same main package, builds it inside your module and runs it. So you need no program of your own until you
// want to deploy one file, or to add something to it.
package cli

import (
	"bufio"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"os/signal"
	"strings"
	"time"

	"github.com/pinion-queue/pinion"
)

const modulePath = "github.com/pinion-queue/pinion"

// Main runs the command that os.Args names and exits with its status. A main function needs nothing else.
func Main() {
	removeTemporary()
	c := newCall(os.Stdin, os.Stdout, os.Stderr)
	c.isProcess = true
	if zone, err := localZone(); err == nil {
		time.Local = zone // Go itself understands fewer
	}
	status := c.run(context.Background(), os.Args[1:])
	if c.endedBy != nil {
		dieOf(c.endedBy)
	}
	os.Exit(status)
}

// Run runs the command that args name and returns its exit status: 0 if it is done, 1 if it failed, 2 if args
// are wrong; wait also returns 3 and 4. A command that a signal has ended returns 128 plus the number of the
// signal. The args do not include the name of the program. Run writes results to stdout and everything else to
// stderr.
//
// Run is for tests, and for programs that have other commands too. It does not look for a newer version. The
// tasks of --exec stay in pinion.DefaultRegistry, so a process can use each of their names only once.
func Run(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	return newCall(stdin, stdout, stderr).run(ctx, args)
}

// call is one use of a command: its flags and operands, and where it reads and writes.
type call struct {
	command   command
	isProcess bool // Main was called, so the whole process is this call
	stdin     io.Reader
	output    io.Writer     // below stdout, without its buffer
	stdout    *bufio.Writer // results
	screen    *os.File      // the terminal that results go to, or nil
	stderr    io.Writer     // everything else
	flags     *flag.FlagSet
	operands  []string

	// Flags that several commands have.
	db            string
	json          bool
	imports       []string
	build         string
	programs      programFlags
	logsDir       string // of --logs-dir
	noUpdateCheck bool

	forwarded  []string                 // the arguments without --import and --build
	statuses   []string                 // that --status takes
	show       func(word, about string) // shows a candidate of a completion; nil: as zsh and fish want it
	done       string                   // what the command has done, for the case that its output cannot be written
	endedBy    os.Signal                // the signal that has ended the command
	log        *slog.Logger             // set for worker --json: errors and notices go here as JSON
	pipes      chan os.Signal           // takes SIGPIPE; nil: a closed pipe kills the command
	slowNotice *time.Timer              // reports that a write takes long; nil if no SQLite file is open for writing
}

func newCall(stdin io.Reader, stdout, stderr io.Writer) *call {
	c := &call{stdin: stdin, output: stdout, stdout: bufio.NewWriter(stdout), stderr: stderr}
	if isTerminal(stdout) {
		c.screen = stdout.(*os.File)
	}
	return c
}

// run runs the command, reports its error and returns the exit status.
func (c *call) run(ctx context.Context, args []string) int {
	err := c.dispatch(ctx, args)
	if c.pipes != nil {
		defer c.undoSignals(func() { signal.Stop(c.pipes) })
	}
	c.stopSlowNotice()
	writeErr := c.stdout.Flush()
	switch {
	case writeErr == nil:
	case err == nil || err.Error() == writeErr.Error():
		err = c.outputError(writeErr)
	case !errors.Is(err, writeErr):
		c.report(c.outputError(writeErr))
	}
	if err == nil {
		return 0
	}
	if errors.Is(err, errReported) {
		return 1
	}
	if status, ok := errors.AsType[exitStatus](err); ok {
		return int(status)
	}
	c.report(err)
	if ended, ok := errors.AsType[*signalError](err); ok {
		c.endedBy = ended.signal
		return ended.status()
	}
	if _, isUsage := errors.AsType[*usageError](err); !isUsage {
		return 1
	}
	switch {
	case c.log != nil: // a usage would not be JSON
	case c.command.name == "":
		fmt.Fprintln(c.stderr, "Run `pinion help` for a list of commands.")
	default:
		fmt.Fprintf(c.stderr, "usage: %s\nRun `pinion help %s` for details.\n", c.usage(), c.command.name)
	}
	return 2
}

// report prints an error, or logs it where standard error is a log in JSON.
func (c *call) report(err error) {
	text := strings.TrimPrefix(err.Error(), "pinion: ") + advice(err)
	if c.log != nil {
		c.log.Error(text)
		return
	}
	fmt.Fprintf(c.stderr, "pinion: %s\n", printable(text, "\n\t"))
}

// notice prints a line about what the command does, or logs it where standard error is a log in JSON.
func (c *call) notice(format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	if c.log != nil {
		c.log.Info(text)
		return
	}
	fmt.Fprintf(c.stderr, "pinion: %s\n", printable(text, ""))
}

// did records what the command has done. A command that changes something calls it before it prints that:
// whoever reads only that the output failed would run the command again.
func (c *call) did(format string, args ...any) { c.done = fmt.Sprintf(format, args...) }

// outputError returns the error of results that cannot be written.
func (c *call) outputError(err error) error {
	if c.done == "" {
		return fmt.Errorf("cannot write the result: %w; check where standard output goes", err)
	}
	return fmt.Errorf("cannot write the result: %w; but %s", err, c.done)
}

// dispatch finds the command that args name and runs it.
func (c *call) dispatch(ctx context.Context, args []string) error {
	if len(args) > 0 && args[0] == builtInWord {
		rest, err := addBuiltIn(args[1:])
		if err != nil {
			return err
		}
		args = rest
	}
	if len(args) == 0 {
		return c.guide()
	}
	name := args[0]
	switch name {
	case completeWord:
		return c.complete(ctx, args[1:])
	case completeBashWord:
		return c.completeBash(ctx, args[1:])
	case updateWord:
		return fetchNewest(ctx, args[1:])
	}
	switch bare := strings.TrimLeft(name, "-"); bare {
	case "demo", "version", "help":
		name = bare
	case "h":
		name = "help"
	}
	runCommand, err := c.prepare(name)
	if err != nil {
		return err
	}
	wantsHelp, err := c.parse(args[1:])
	if err != nil {
		return err
	}
	if wantsHelp {
		return c.describe()
	}
	if c.command.name == "worker" && c.json {
		c.log = newLogger(c.stderr, true, false)
	}
	if len(c.imports) > 0 || c.build != "" {
		return c.rebuild(ctx)
	}
	showUpdate := c.checkForUpdate()
	defer showUpdate()
	return runCommand(ctx)
}

// prepare makes c a call of the named command, whose flags are yet to be parsed.
func (c *call) prepare(name string) (run func(context.Context) error, err error) {
	var names []string
	for _, cmd := range commands() {
		if cmd.name == name {
			c.command = cmd
			c.flags = flag.NewFlagSet(name, flag.ContinueOnError)
			run = cmd.prepare(c)
			// Without a usage, help does not list it.
			c.flags.BoolVar(&c.noUpdateCheck, "no-update-check", false, "")
			return run, nil
		}
		names = append(names, cmd.name)
	}
	if !strings.HasPrefix(name, "-") {
		return nil, usagef("unknown command %q%s", name, didYouMean(name, names))
	}
	if hint := didYouMean(name, []string{"--demo", "--version", "--help"}); hint != "" {
		return nil, usagef("unknown flag %s%s", name, hint)
	}
	return nil, usagef("the flag %s comes before the command; write it after, as in: pinion status --db q.db",
		name)
}

// usageError reports a call that makes no sense. It is printed together with the usage of the command.
type usageError struct{ text string }

func (e *usageError) Error() string { return e.text }

func usagef(format string, args ...any) error { return &usageError{fmt.Sprintf(format, args...)} }

// errReported is an error whose text has been printed already.
var errReported = errors.New("already reported")

// exitStatus is an error whose text has been printed already, by this command or by another program. Its number
// is the exit status.
type exitStatus int

func (s exitStatus) Error() string { return fmt.Sprintf("exit status %d", int(s)) }

// advice returns the next step after an error of the library or of the operating system. The errors of this
// package name it themselves.
func advice(err error) string {
	if _, isUsage := errors.AsType[*usageError](err); isUsage {
		return "" // the usage follows
	}
	has := func(part string) bool { return strings.Contains(err.Error(), part) }
	switch {
	case errors.Is(err, pinion.ErrNotFound):
		return "; `pinion list` lists ids; " +
			"finished jobs are kept for a day"
	case errors.Is(err, pinion.ErrTooLarge):
		return "" // names it itself
	case errors.Is(err, pinion.ErrTaskNotFound):
		return "; give this worker the tasks with --import or --exec, or start one that has them"
	case errors.Is(err, pinion.ErrBadArgs):
		return "; `pinion help enqueue` explains how to write arguments"
	case errors.Is(err, errors.ErrUnsupported):
		return "; enqueue and worker still work with it"
	case has("not a SQLite database"), has("belongs to another program"),
		has("holds no queue"), has("is a directory"), has("is that of a directory"), has("is not a regular file"):
		return "; give --db the file of a queue, or one that does not exist yet"
	case errors.Is(err, fs.ErrNotExist):
		return "; check the name and the folder"
	case errors.Is(err, fs.ErrPermission), has("read-only for this user"):
		return "; `ls -l` shows the owner: become that user, or name another file"
	case has("is full"):
		return "; make room and run it again: no acknowledged job is lost"
	}
	return ""
}

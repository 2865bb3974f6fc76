// Command pinion fills, watches, works and mends a job queue: the command line of the package
// github.com/pinion-queue/pinion. Run alone, it says how.
package main

import (
	"bufio"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"os"
	"regexp"
	"runtime"
	"runtime/debug"
	"strings"
	"time"

	"github.com/pinion-queue/pinion"
)

const modulePath = "github.com/pinion-queue/pinion"

func main() { os.Exit(run(context.Background(), os.Args[1:], os.Stdin, os.Stdout, os.Stderr)) }

// run does what args say and returns the exit status: 0 done, 1 it failed, 2 wrong usage.
func run(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	removeTemporary()
	out := bufio.NewWriter(stdout)
	c := &call{stdin: stdin, stdout: out, stderr: stderr}
	if isTerminal(stdout) {
		c.screen = stdout.(*os.File)
	}
	err := c.run(ctx, args)
	c.patient(false)
	if failed := out.Flush(); err == nil && failed != nil {
		err = fmt.Errorf("the result could not be written: %w; look at what standard output goes to", failed)
	}
	switch {
	case err == nil:
		return 0
	case errors.Is(err, errSaid):
		return 1
	}
	fmt.Fprintf(stderr, "pinion: %s\n", printable(strings.TrimPrefix(err.Error(), "pinion: ")+advice(err), "\n\t"))
	if _, wrong := errors.AsType[*usageError](err); !wrong {
		return 1
	}
	if c.command.name == "" {
		fmt.Fprintln(stderr, "`pinion help` lists the commands.")
	} else {
		fmt.Fprintf(stderr, "usage: %s\n`pinion help %s` says more.\n", c.usage(), c.command.name)
	}
	return 2
}

// usageError is a call that cannot be meant. It is shown together with how the command is used.
type usageError struct{ text string }

func (e *usageError) Error() string { return e.text }

func usagef(format string, args ...any) error { return &usageError{fmt.Sprintf(format, args...)} }

// errSaid is a failure of which everything has been said.
var errSaid = errors.New("said")

// advice is what to do next about an error of the library or the operating system. Errors of this command's own say
// it themselves.
func advice(err error) string {
	_, wrong := errors.AsType[*usageError](err)
	switch text := err.Error(); {
	case wrong: // and how the command is used follows
	case errors.Is(err, pinion.ErrNotFound):
		return "; `pinion pending`, `pinion running` and `pinion dlq-list` list ids, and finished jobs are kept for a day"
	case errors.Is(err, pinion.ErrTooLarge): // which says so itself
	case errors.Is(err, pinion.ErrBadArgs):
		return "; `pinion help enqueue` tells how arguments are written"
	case errors.Is(err, errors.ErrUnsupported):
		return "; enqueue and worker need no more than this"
	case strings.Contains(text, "not a SQLite database"), strings.Contains(text, "belongs to another program"),
		strings.Contains(text, "it holds no queue"), strings.Contains(text, "it is a directory"):
		return "; name the file of a queue, or one that does not exist yet, with --db"
	case errors.Is(err, fs.ErrNotExist):
		return "; is its name right, and the folder there?"
	case errors.Is(err, fs.ErrPermission), strings.Contains(text, "read-only for this user"):
		return "; `ls -l` tells whose it is: become that user, or name another file"
	case strings.Contains(text, "is full"):
		return "; make room and do it again: nothing is lost that was acknowledged"
	}
	return ""
}

// command is one verb. Its line in the table is all there is to add: the guide, its help, completion and what is said
// about misspelt words follow from it. The operands are words as in "TASK [-]": X is one, [X] perhaps one, X... some
// and [X...] any number, the last two at the end. FILE, TASK, ID, COMMAND and SHELL, as an operand or as the name of a
// flag's value in its usage, are completed as what they say; so are the values of --task and --queue. Tests run every
// line of the examples by a shell.
type command struct {
	name     string
	operands string
	about    string // one line
	detail   string
	examples string
	prepare  func(c *call) func(ctx context.Context) error // declares flags and returns what runs once they are parsed
}

func commands() []command {
	return []command{
		{"enqueue", "TASK [-]", "add a job, or one for each line of standard input", enqueueDetail, enqueueExamples, enqueue},
		{"worker", "", "run jobs with the tasks of Go packages, or with programs", workerDetail, workerExamples, worker},
		{"tasks", "", "list the tasks that a worker would know", tasksDetail, tasksExamples, tasks},
		{"status", "", "count the jobs by queue, task and status", statusDetail, statusExamples, status},
		{"running", "", "list the jobs that workers hold", runningDetail, "pinion running --db q.db --queue mail", running},
		{"pending", "", "list the jobs that wait, oldest first", "", "pinion pending --db q.db --limit 20", pending},
		{"show", "ID", "tell everything about one job", "", "pinion show 0199c2b4a1f07000b3c1d2e3f4a5b6c7 --db q.db", show},
		{"wait", "ID...", "wait until jobs have ended, and print their results", waitDetail, waitExamples, wait},
		{"cancel", "ID...", "end jobs that wait or run", cancelDetail, cancelExamples, cancel},
		{"dlq-list", "", "list the dead letters, the jobs given up", "", "pinion dlq-list --db q.db --json | jq .error", dlqList},
		{"dlq-replay", "[ID...]", "make dead letters pending again", dlqReplayDetail, dlqReplayExamples, dlqReplay},
		{"dlq-purge", "[ID...]", "delete dead letters for good", dlqPurgeDetail, dlqPurgeExamples, dlqPurge},
		{"prune", "", "delete finished jobs", pruneDetail, "pinion prune --older-than 24h --db q.db", prune},
		{"doctor", "", "look for what is wrong with a queue", doctorDetail, doctorExamples, doctor},
		{"demo", "", "show a success, a retry and a dead letter, in memory", "", "pinion --demo", demo},
		{"version", "", "print the version", "", "pinion --version", version},
		{"completion", "SHELL", "print what makes a shell complete commands", completionDetail, completionExamples, completion},
		{"help", "[COMMAND]", "say more about a command", "", "pinion help enqueue", help},
	}
}

const guide = `Pinion is a durable job queue in one file, with no server to run.

Quick start:
  pinion --demo                                      watch three jobs run, in memory
  pinion enqueue add --args '[1, 2]' --db q.db       put a job into q.db, which is created
  pinion status --db q.db                            look at the queue
  pinion worker --import ./tasks --db q.db           run its jobs with the tasks that your
                                                     Go package ./tasks registers
  pinion worker --exec 'add=expr {0} + {1}' --db q.db
                                                     run them with any program
Commands:
`

// call is one use of a command: its flags and operands, and where it reads and writes.
type call struct {
	command  command
	stdin    io.Reader
	stdout   *bufio.Writer // results
	screen   *os.File      // the terminal that they go to, or nil
	stderr   io.Writer     // everything else
	flags    *flag.FlagSet
	operands []string
	json     bool
	patience *time.Timer // says that a write takes long, until stopped
	noHint   bool        // --no-update-check

	// Of the commands that open a storage; --import replaces this process by one built with the packages.
	db      string
	imports []string
	build   string
	execs   []string // NAME=COMMAND
	shell   bool     // those are for a shell
	rest    []string // the arguments but for --import and --build
}

func (c *call) run(ctx context.Context, args []string) error {
	if err := addPrograms(baked.shell, baked.execs); err != nil {
		return err
	}
	if len(args) == 0 {
		return c.guide()
	}
	name := args[0]
	switch name {
	case completeWord:
		return c.complete(ctx, args[1:])
	case upgradeWord:
		return lookForUpgrade(ctx, args[1:])
	}
	switch strings.TrimLeft(name, "-") {
	case "demo", "version", "help":
		name = strings.TrimLeft(name, "-")
	case "h":
		name = "help"
	}
	do, err := c.prepare(name)
	if err != nil {
		return err
	}
	asked, err := c.parse(args[1:])
	switch {
	case err != nil:
		return err
	case asked:
		return c.describe()
	case len(c.imports) > 0 || c.build != "":
		return c.rebuild(ctx)
	}
	defer c.hintAtUpgrade()()
	return do(ctx)
}

// prepare makes c a call of the named command, whose flags are yet to be parsed.
func (c *call) prepare(name string) (do func(context.Context) error, err error) {
	var names []string
	for _, cmd := range commands() {
		if cmd.name == name {
			c.command, c.flags = cmd, flag.NewFlagSet(name, flag.ContinueOnError)
			do = cmd.prepare(c)
			c.flags.BoolVar(&c.noHint, "no-update-check", c.noHint, "") // without a usage: see describe
			return do, nil
		}
		names = append(names, cmd.name)
	}
	if strings.HasPrefix(name, "-") {
		if hint := didYouMean(name, []string{"--demo", "--version", "--help"}); hint != "" {
			return nil, usagef("unknown flag %s%s", name, hint)
		}
		return nil, usagef("%s stands before the command; write it behind, as in: pinion status --db q.db", name)
	}
	return nil, usagef("unknown command %q%s", name, didYouMean(name, names))
}

func (c *call) guide() error {
	fmt.Fprint(c.stdout, guide)
	w := c.table()
	for _, cmd := range commands() {
		fmt.Fprintf(w, "  %s\t%s\n", cmd.name, cmd.about)
	}
	fmt.Fprintln(w, "\n`pinion help COMMAND` tells its flags. PINION_DB names the database where --db does not.")
	fmt.Fprintln(w, "On a terminal a newer version is looked for once a day, unless --no-update-check or\nPINION_NO_UPDATE_CHECK=1 says not to.")
	return w.Flush()
}

// help is `pinion help [COMMAND]`.
func help(c *call) func(context.Context) error {
	return func(context.Context) error {
		if len(c.operands) == 0 {
			return c.guide()
		}
		if _, err := c.prepare(strings.Join(c.operands, " ")); err != nil {
			c.command = command{} // not this one's usage, but the list of commands, is what to look at
			return err
		}
		return c.describe()
	}
}

// usage is the call in one line.
func (c *call) usage() string {
	flags := ""
	c.eachFlag(func(*flag.Flag) { flags = "[flags]" })
	return strings.Join(strings.Fields("pinion "+c.command.name+" "+c.command.operands+" "+flags), " ")
}

// eachFlag goes through the flags of the command, without the one that every command has.
func (c *call) eachFlag(do func(*flag.Flag)) {
	c.flags.VisitAll(func(f *flag.Flag) {
		if f.Usage != "" {
			do(f)
		}
	})
}

// dashed is a flag as it is written.
func dashed(f *flag.Flag) string {
	if len(f.Name) == 1 {
		return "-" + f.Name
	}
	return "--" + f.Name
}

// describe prints the help of one command.
func (c *call) describe() error {
	about := strings.ToUpper(c.command.about[:1]) + c.command.about[1:] + "."
	fmt.Fprintf(c.stdout, "usage: %s\n\n%s\n%s", c.usage(), about, c.command.detail)
	w := c.table()
	end := "\n"
	c.eachFlag(func(f *flag.Flag) {
		value, usage := flag.UnquoteUsage(f)
		fmt.Fprintf(w, "\n  %s\t%s", strings.TrimSpace(dashed(f)+" "+value), usage)
		end = "\n\n"
	})
	fmt.Fprint(w, end+"For example:\n")
	for line := range strings.Lines(c.command.examples) {
		fmt.Fprintf(w, "  %s\n", strings.TrimSpace(line))
	}
	return w.Flush()
}

// version is `pinion --version`.
func version(c *call) func(context.Context) error {
	return func(context.Context) error {
		fmt.Fprintf(c.stdout, "pinion %s %s %s/%s\n", ownVersion(), runtime.Version(), runtime.GOOS, runtime.GOARCH)
		for _, path := range imported {
			fmt.Fprintf(c.stdout, "with %s\n", path)
		}
		return nil
	}
}

// packaged is for whoever builds from an archive: go build -ldflags "-X main.packaged=v1.2.3".
var packaged string

// ownVersion is that of the module this command comes from, which need not be the main one: see rebuild.
func ownVersion() string {
	if packaged != "" {
		return packaged
	}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "(devel)"
	}
	for _, m := range append(info.Deps, &info.Main) {
		if m.Path == modulePath && m.Version != "" && m.Replace == nil {
			return m.Version
		}
	}
	return "(devel)"
}

// storageFlags declares what every command that opens a storage takes.
func (c *call) storageFlags() {
	c.flags.StringVar(&c.db, "db", os.Getenv("PINION_DB"), "the database, a SQLite `FILE` [$PINION_DB]")
	c.list(&c.imports, "import", "build in a Go `PACKAGE` with tasks; may be repeated")
}

// access is what a command does to the storage it opens.
type access int

const (
	reads   access = iota // writes nothing
	changes               // writes, but only into what is there
	creates
)

// impatience is how long a write may take before that is said.
const impatience = 2 * time.Second

// A scheme has two letters at least, so that C:\jobs.db is a path.
var scheme = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9+.-]+:`)

func (c *call) open(ctx context.Context, a access) (pinion.Storage, error) {
	path := c.db
	switch found := strings.ToLower(scheme.FindString(c.db)); found {
	case "":
	case "sqlite:":
		path = c.db[len(found):]
	case "memory:":
		return nil, usagef("--db memory: would be gone when this command ends; name a file")
	default:
		return pinion.Open(ctx, c.db)
	}
	if path == "" {
		return nil, usagef("no database is named: give --db FILE, or set PINION_DB")
	}
	if _, err := os.Stat(path); a != creates && errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("no such database: %s; `pinion enqueue` creates it", path)
	}
	if a != reads {
		c.patience = time.AfterFunc(impatience, func() {
			fmt.Fprintf(c.stderr, "pinion: still waiting for %s; another program holds its lock, or the disk is slow\n", printable(path, ""))
		})
	}
	storage, err := pinion.OpenSQLite(ctx, path, &pinion.SQLiteOptions{ReadOnly: a == reads})
	if err != nil {
		return nil, err // not storage, whose nil would no longer be one
	}
	return storage, nil
}

// patient starts or ends the time after which a write is said to take long.
func (c *call) patient(write bool) {
	switch {
	case c.patience == nil: // a backend of somebody's own
	case write:
		c.patience.Reset(impatience)
	default:
		c.patience.Stop()
	}
}

// inspect opens the storage for use, and closes it afterwards.
func (c *call) inspect(ctx context.Context, a access, use func(pinion.Inspector) error) error {
	storage, err := c.open(ctx, a)
	if err != nil {
		return err
	}
	inspector, ok := storage.(pinion.Inspector)
	if !ok {
		err = fmt.Errorf("this storage cannot be looked into (%T is no pinion.Inspector): %w", storage, errors.ErrUnsupported)
	} else {
		err = use(inspector)
	}
	return errors.Join(err, storage.Close())
}

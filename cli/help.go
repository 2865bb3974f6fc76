package cli

import (
	"context"
	"flag"
	"fmt"
	"strings"
)

// command is one command of the command line. Its entry in commands is all that it takes to add one: the
// guide, its help, completion and the errors about misspelt words follow from it.
//
// Operands are words as in "TASK [-]": X is required, [X] may be missing, X... is one or more and [X...] any
// number; the last two come at the end. FILE, PACKAGE, TASK, QUEUE, ID, COMMAND and SHELL, as an operand or as
// the name of a flag's value, are completed accordingly, and so are the values of --task and --queue. Tests run
// every line of the examples in a shell, but those with #, which say what the next line is for.
type command struct {
	name     string
	operands string
	summary  string // one line
	detail   string
	examples string
	prepare  prepareFunc
}

// prepareFunc declares the flags of a command. It returns what to run once they are parsed.
type prepareFunc func(c *call) func(ctx context.Context) error

func commands() []command {
	return []command{
		{"enqueue", "TASK [-]", "add a job, or one for each line of standard input",
			enqueueDetail, enqueueExamples, enqueue},
		{"worker", "", "run jobs with the tasks of Go packages, or with programs",
			workerDetail, workerExamples, worker},
		{"tasks", "", "list the tasks that a worker would know", tasksDetail, tasksExamples, tasks},
		{"status", "", "count the jobs by queue, task and status", statusDetail, statusExamples, status},
		{"list", "", "list jobs of any status, the newest first", listDetail, listExamples, list},
		{"running", "", "list the jobs that workers are running", runningDetail, runningExamples, running},
		{"pending", "", "list the jobs that wait, oldest first", "", pendingExamples, pending},
		{"show", "ID", "show everything about one job", "", showExamples, show},
		{"logs", "ID", "print what the program of a job has printed", logsDetail, logsExamples, logs},
		{"wait", "ID...", "wait until jobs have ended, and print their results",
			waitDetail, waitExamples, wait},
		{"cancel", "[ID...]", "cancel jobs that wait or run", cancelDetail, cancelExamples, cancel},
		{"reschedule", "[ID...]", "change when jobs that wait are due",
			rescheduleDetail, rescheduleExamples, reschedule},
		{"pause", "QUEUE", "let workers claim no more jobs of a queue", pauseDetail, pauseExamples, pause},
		{"resume", "QUEUE", "end the pause of a queue, or its limit", resumeDetail, resumeExamples, resume},
		{"limit", "QUEUE N", "bound how many jobs of a queue run at once", limitDetail, limitExamples, limit},
		{"dlq-list", "", "list the dead letters: jobs that failed for good", "", dlqListExamples, dlqList},
		{"dlq-replay", "[ID...]", "make dead letters pending again",
			dlqReplayDetail, dlqReplayExamples, dlqReplay},
		{"dlq-purge", "[ID...]", "delete dead letters", dlqPurgeDetail, dlqPurgeExamples, dlqPurge},
		{"prune", "", "delete finished jobs", pruneDetail, pruneExamples, prune},
		{"backup", "FILE", "copy a queue, also while it is in use", backupDetail, backupExamples, backup},
		{"doctor", "", "check a queue for problems", doctorDetail, doctorExamples, doctor},
		{"web", "", "show a queue in the browser", webDetail, webExamples, webPage},
		{"demo", "", "show a success, a retry and a dead letter, in memory", "", "pinion --demo", demo},
		{"version", "", "print the version", "", "pinion --version", version},
		{"completion", "SHELL", "print the script that makes a shell complete commands",
			completionDetail, completionExamples, completion},
		{"help", "[COMMAND]", "explain a command or a topic", helpDetail, helpExamples, help},
	}
}

const guideText = `Pinion is a durable job queue in one file. It needs no server.

Quick start:
  pinion --demo                                      watch three jobs run, in memory
  pinion enqueue add --args '[1, 2]' --db q.db       add a job to q.db, which is created
  pinion status --db q.db                            look at the queue
  pinion worker --import ./tasks --db q.db           run its jobs with the tasks that your
                                                     Go package ./tasks registers
  pinion worker --exec 'add=expr {0} + {1}' --db q.db
                                                     run them with any program
Commands:
`

const guideEnd = `
` + "`pinion help NAME`" + ` explains a command and its flags, or a topic. PINION_DB names the
database where --db does not. On a terminal pinion looks for a newer version once a
day, unless --no-update-check or PINION_NO_UPDATE_CHECK=1 is set.
`

const helpDetail = `
COMMAND may also be a topic. --man prints a manual page: of everything, or of the
command or topic.
`

const helpExamples = `# A command, and a topic.
pinion help enqueue
pinion help times
# Install the manual page.
pinion help --man > pinion.1`

// guide prints the output of pinion without arguments.
func (c *call) guide() error {
	fmt.Fprint(c.stdout, guideText)
	w := c.tabbed()
	for _, cmd := range commands() {
		fmt.Fprintf(w, "  %s\t%s\n", cmd.name, cmd.summary)
	}
	fmt.Fprint(w, "\nTopics:\n")
	for _, t := range topics() {
		fmt.Fprintf(w, "  %s\t%s\n", t.name, t.summary)
	}
	if err := w.Flush(); err != nil {
		return err
	}
	fmt.Fprint(c.stdout, guideEnd)
	return nil
}

// help is `pinion help [COMMAND]`.
func help(c *call) func(context.Context) error {
	man := c.flags.Bool("man", false, "print a manual page")
	return func(context.Context) error {
		name := strings.Join(c.operands, " ")
		switch {
		case *man:
			return c.manual(name)
		case name == "":
			return c.guide()
		}
		for _, t := range topics() {
			if t.name == name {
				return c.explain(&t)
			}
		}
		if err := c.prepareHelp(name); err != nil {
			return err
		}
		return c.describe()
	}
}

// prepareHelp makes c a call of the named command, whose help is asked for.
func (c *call) prepareHelp(name string) error {
	_, err := c.prepare(name)
	if err == nil {
		return nil
	}
	c.command = command{} // so that the error mentions the list of commands, not the usage of help
	var names []string
	for _, cmd := range commands() {
		names = append(names, cmd.name)
	}
	for _, t := range topics() {
		names = append(names, t.name)
	}
	return usagef("unknown command or topic %q%s", name, didYouMean(name, names))
}

// describe prints the help of one command: what it is called like, what it is for, examples, and then more.
func (c *call) describe() error {
	fmt.Fprintf(c.stdout, "usage: %s\n\n%s\n", c.usage(), sentence(c.command.summary))
	c.printExamples(c.command.examples)
	fmt.Fprint(c.stdout, c.command.detail)
	w := c.tabbed()
	title := "\nFlags:\n"
	c.eachFlag(func(f *flag.Flag) {
		value, usage := flag.UnquoteUsage(f)
		fmt.Fprintf(w, "%s  %s\t%s\n", title, strings.TrimSpace(dashed(f)+" "+value), usage)
		title = ""
	})
	return w.Flush()
}

// explain prints a topic.
func (c *call) explain(t *topic) error {
	fmt.Fprintf(c.stdout, "%s: %s.\n%s", t.name, t.summary, t.text)
	c.printExamples(t.examples)
	return nil
}

// sentence makes a sentence of a summary.
func sentence(summary string) string { return strings.ToUpper(summary[:1]) + summary[1:] + "." }

// printExamples prints examples with what they are for.
func (c *call) printExamples(examples string) {
	if examples == "" {
		return
	}
	fmt.Fprint(c.stdout, "\nFor example:\n")
	for line := range strings.Lines(examples) {
		fmt.Fprintf(c.stdout, "  %s\n", strings.TrimSpace(line))
	}
}

// usage returns the form of the command in one line.
func (c *call) usage() string {
	flags := ""
	c.eachFlag(func(*flag.Flag) { flags = "[flags]" })
	return strings.Join(strings.Fields("pinion "+c.command.name+" "+c.command.operands+" "+flags), " ")
}

// eachFlag calls visit for the flags of the command, without --no-update-check, which every command has.
func (c *call) eachFlag(visit func(*flag.Flag)) {
	c.flags.VisitAll(func(f *flag.Flag) {
		if f.Usage != "" {
			visit(f)
		}
	})
}

// dashed returns a flag as it is written on the command line.
func dashed(f *flag.Flag) string {
	if len(f.Name) == 1 {
		return "-" + f.Name
	}
	return "--" + f.Name
}

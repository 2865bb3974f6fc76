//go:build unix

package crashlab

import (
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/pinion-queue/pinion"
)

// The verbs of the log, each with the words that follow it. A claim is written as "id:claim", see claimName.
const (
	// The parent writes these.
	logBorn   = "born"   // child, role, how it dies, its worker's VisibilityTimeout: a child was started
	logKill   = "kill"   // child: it is about to get SIGKILL
	logStop   = "stop"   // child: it is about to get SIGSTOP
	logResume = "resume" // child: it got SIGCONT, or died while it was stopped
	logFreeze = "freeze" // all children are about to get SIGSTOP
	logThaw   = "thaw"   // they are about to get SIGCONT
	logClock  = "clock"  // seconds: their clock is about to be so far ahead of the machine's

	// The process that holds the write lock of the file writes these.
	logLocked = "locked" // it has the lock
	logUnlock = "unlock" // it is about to give the lock back

	// Whoever enqueues writes these, the parent included.
	logTry = "try" // id:task, …: Enqueue is about to be called with these jobs
	logAck = "ack" // id, …: that call returned nil

	// Workers write these.
	logClaimed = "claimed" // claim, …: a call returned these claims
	logStart   = "start"   // claim, attempt, time of the claim in Unix microseconds, task: a task starts
	logEnd     = "end"     // claim, outcome: the task has returned; see the outcomes
	logEnding  = "ending"  // call, claim, …: a call that ends these claims is about to be made
	logEnded   = "ended"   // call, claim, …: that call ended these claims
	logLost    = "lost"    // claim, …: the storage said that these leases are lost
	logReaping = "reaping" // a call that takes back lost leases is about to be made
	logReaped  = "reaped"  // number: that call took back so many
	logUnclean = "unclean" // error: Worker.Run or Drain returned it
	logGaveUp  = "gave up" // message: the worker logged that a call to the storage ran out of time
	logTrouble = "trouble" // message: the worker logged any other error

	// Every child writes these.
	logDying = "dying" // call: the child is going to kill itself in this call, as planned
	logCall  = "call"  // call, microseconds: a call took longer than longCall
	logError = "error" // call, error: a call of a producer or a pruner failed
	logSaw   = "saw"   // claim:result, …: the pruner saw these jobs succeeded and may delete them
)

// Outcomes of a task.
const (
	outcomeOK          = "ok"
	outcomeFailed      = "failed"
	outcomePanicked    = "panicked"    // or it called runtime.Goexit
	outcomeLost        = "lost"        // its context ended because the lease was lost
	outcomeInterrupted = "interrupted" // its context ended because the worker shut down
	outcomeKilled      = "killed"      // the task is about to kill its process
)

// logFile is the log that all processes of an experiment append to.
//
// Each line is one write to a file that was opened with O_APPEND, so the lines stand in the order in which
// they were written. What a process writes before it does something therefore stands above every line about
// the consequences.
type logFile struct {
	file  *os.File
	child int       // the number of the child that writes; 0 is the parent
	clock wallClock // that this process heeds; the log has the machine's time
}

func openLog(path string, child int) (*logFile, error) {
	file, err := os.OpenFile(path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	return &logFile{file: file, child: child}, nil
}

// terminator ends a complete line. A kill can cut a write short; the reader skips lines without a terminator.
const terminator = "."

// write appends a line. The line begins with a newline, so that it stands alone even behind a line that was
// cut short.
func (l *logFile) write(verb string, words ...string) {
	line := fmt.Sprintf("\n%d %d %s\t%s\t%s\n",
		l.clock.machineTime().UnixMicro(), l.child, verb, strings.Join(words, "\t"), terminator)
	if _, err := l.file.WriteString(line); err != nil {
		fmt.Fprintf(os.Stderr, "child %d: write to the log: %v\n", l.child, err)
	}
}

// claimName names a claim in the log.
func claimName(job *pinion.Job) string { return job.ID + ":" + strconv.FormatInt(job.Claim, 10) }

func claimNames(jobs []*pinion.Job) []string {
	var names []string
	for _, job := range jobs {
		names = append(names, claimName(job))
	}
	return names
}

// logLine is one line of the log.
type logLine struct {
	at    int64 // Unix microseconds
	child int
	verb  string
	words []string
}

func (l logLine) String() string {
	at := time.UnixMicro(l.at).UTC().Format("15:04:05.000000")
	return fmt.Sprintf("%s child %d: %s %s", at, l.child, l.verb, strings.Join(l.words, " "))
}

// readLog returns the complete lines of a log.
func readLog(path string) ([]logLine, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	return parseLog(string(text)), nil
}

func parseLog(text string) []logLine {
	var lines []logLine
	for s := range strings.Lines(text) {
		words := strings.Split(strings.TrimSuffix(s, "\n"), "\t")
		head := strings.SplitN(words[0], " ", 3)
		if len(head) != 3 || words[len(words)-1] != terminator {
			continue
		}
		line := logLine{verb: head[2]}
		line.at, _ = strconv.ParseInt(head[0], 10, 64)
		line.child, _ = strconv.Atoi(head[1])
		isEmpty := func(word string) bool { return word == "" }
		line.words = slices.DeleteFunc(words[1:len(words)-1], isEmpty)
		lines = append(lines, line)
	}
	return lines
}

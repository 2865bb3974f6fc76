package cli

import (
	"bytes"
	"os"
	"strings"
	"testing"
)

// Whoever reads only that the output failed runs the command again, and has each job twice.
func TestACommandWhoseOutputFailsSaysWhatItHasDone(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		args  []string
		stdin string
		want  string
	}{
		{[]string{"enqueue", "add"}, "", `job [0-9a-f]{32} is in the queue; do not enqueue it again`},
		{[]string{"enqueue", "add", "--json"}, "", `job [0-9a-f]{32} is in the queue; do not enqueue it again`},
		{[]string{"enqueue", "add", "-"}, "[1,2]\n[3,4]\n", `2 jobs are enqueued; do not enqueue the input again`},
		{[]string{"enqueue", "add", "-", "--ids"}, "[1,2]\n[3,4]\n", `2 jobs are enqueued, from the lines up to 2`},
		{[]string{"cancel", exampleWaits}, "", `1 job is canceled`},
		{[]string{"reschedule", exampleWaits, "--delay", "0"}, "", `1 job is rescheduled`},
		{[]string{"pause", "mail"}, "", `the queue mail is set to: paused`},
		{[]string{"limit", "mail", "3"}, "", `the queue mail is set to: at most 3`},
		{[]string{"resume", "mail"}, "", `the queue mail is set to: no limit`},
		{[]string{"dlq-replay"}, "", `1 dead letter is replayed`},
		{[]string{"dlq-purge", "--yes"}, "", `1 dead letter is purged`},
		{[]string{"prune", "--older-than", "0"}, "", `1 job is pruned`},
		{[]string{"backup", "copy.db"}, "", `the copy in copy.db is complete`},
		{[]string{"worker", "--drain", "--queue", "none"}, "", `the worker has ended, and all its jobs are recorded`},
		{[]string{"wait", exampleDone, exampleDone}, "", `check where standard output goes`},
		{[]string{"pending"}, "", `check where standard output goes`},
		{[]string{"show", exampleDone}, "", `check where standard output goes`},
		{[]string{"status"}, "", `check where standard output goes`},
		{[]string{"help"}, "", `check where standard output goes`},
	} {
		t.Run(strings.Join(c.args, " "), func(t *testing.T) {
			t.Parallel()
			dir := exampleFolder(t)
			for _, output := range []string{"/dev/full", "a closed pipe"} {
				if strings.HasPrefix(c.want, "check") && output != "/dev/full" {
					continue // a command that only reads dies of it
				}
				cmd := process(t, dir, append(c.args, "--db", "q.db")...)
				if c.args[0] == "help" {
					cmd = process(t, dir, c.args...)
				}
				var stderr bytes.Buffer
				cmd.Stdin, cmd.Stderr = strings.NewReader(c.stdin), &stderr
				w := unwritable(t, output)
				cmd.Stdout = w
				cmd.Run()
				w.Close()
				if cmd.ProcessState.ExitCode() != 1 {
					t.Errorf("%s: it ended with %v", output, cmd.ProcessState)
				}
				wantText(t, stderr.String(), `(?m)^pinion: (cannot write the \w+: |write /dev/stdout: ).*; .*`+c.want)
				if n := strings.Count(stderr.String(), "cannot write"); n != 1 {
					t.Errorf("%s: it reports the output %d times\n%s", output, n, &stderr)
				}
				dir = exampleFolder(t) // the next finds everything as this one did
			}
		})
	}
}

// unwritable returns a file that cannot be written.
func unwritable(t *testing.T, kind string) *os.File {
	t.Helper()
	if kind == "/dev/full" {
		w, err := os.OpenFile(kind, os.O_WRONLY, 0)
		if err != nil {
			t.Fatal(err)
		}
		return w
	}
	return brokenPipe(t)
}

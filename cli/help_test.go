//go:build unix

package cli

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
)

// endless matches examples that run until they are stopped.
var endless = regexp.MustCompile(`^pinion ((worker|web)\b.*|.*--watch\b.*)`)

// TestEveryExampleOfTheHelpWorks runs each line in a folder that has what the line names, in a shell that
// finds this command as pinion.
func TestEveryExampleOfTheHelpWorks(t *testing.T) {
	t.Parallel()
	var all []string
	for _, cmd := range commands() {
		if cmd.examples == "" {
			t.Errorf("%s has no example", cmd.name)
		}
		all = append(all, cmd.examples)
	}
	for _, topic := range topics() {
		all = append(all, topic.examples)
	}
	ran := make(map[string]bool) // an example may stand at a command and at a topic
	for line := range strings.Lines(strings.Join(all, "\n")) {
		line = strings.TrimSuffix(line, "\n")
		if line == "" || strings.HasPrefix(line, "#") || ran[line] {
			continue
		}
		ran[line] = true
		t.Run(line, func(t *testing.T) {
			t.Parallel()
			runExample(t, line)
		})
	}
}

// The help is read on terminals of 80 columns and more.
func TestTheTextsOfTheHelpAreNotTooWide(t *testing.T) {
	texts := map[string]string{"the guide": guideText + guideEnd}
	for _, cmd := range commands() {
		texts[cmd.name] = cmd.detail
	}
	for _, topic := range topics() {
		texts[topic.name] = topic.text
	}
	for name, text := range texts {
		for line := range strings.Lines(text) {
			if columns(strings.TrimSuffix(line, "\n")) > 90 {
				t.Errorf("%s: %s", name, line)
			}
		}
	}
}

// The first job of the recipe enqueues the second, whose worker is the same.
func TestARecipeRunsOneJobAfterAnother(t *testing.T) {
	t.Parallel()
	dir := exampleFolder(t)
	var recipe string
	for line := range strings.Lines(afterTopicExamples) {
		if strings.Contains(line, "pinion enqueue second --key") {
			recipe = line
		}
	}
	line := "pinion enqueue first --db q.db && " + recipe + "pinion list --task second --json --db q.db"
	stdout := runProgramIn(t, dir, "/bin/sh", "-c", line)
	wantText(t, stdout, `"task":"second".*"status":"SUCCESS".*"result":"shipped`)
}

func runExample(t *testing.T, line string) {
	dir := exampleFolder(t)
	cmd := process(t, dir, "")
	// Without the trap the signal would end the shell too.
	cmd.Path, cmd.Args = "/bin/sh", []string{"sh", "-c", "trap : INT\n" + line}
	cmd.Env = append(cmd.Env, "PATH="+filepath.Join(dir, "bin")+":"+os.Getenv("PATH"))
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // to interrupt it as a terminal does
	output := &watched{first: regexp.MustCompile(`worker started|pending|http://`)}
	cmd.Stdout, cmd.Stderr = output, output
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if endless.MatchString(line) && !strings.Contains(line, "--drain") {
		await(t, output, output.begun)
		syscall.Kill(-cmd.Process.Pid, syscall.SIGINT)
	}
	if err := cmd.Wait(); err != nil {
		t.Errorf("%v\n%s", err, output)
	}
}

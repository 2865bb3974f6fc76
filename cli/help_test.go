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
	for _, cmd := range commands() {
		if cmd.examples == "" {
			t.Errorf("%s has no example", cmd.name)
		}
		for line := range strings.Lines(cmd.examples) {
			line = strings.TrimSuffix(line, "\n")
			t.Run(line, func(t *testing.T) {
				t.Parallel()
				runExample(t, line)
			})
		}
	}
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

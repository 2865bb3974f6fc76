//go:build unix

package cli

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// Each shell is asked to complete a line in the folder of the examples. For zsh see completion_linux_test.go.
func TestShellsComplete(t *testing.T) {
	t.Parallel()
	dir := exampleFolder(t)
	write(t, filepath.Join(dir, "a file.db"), "")
	complete := map[string]func(t *testing.T, line string) string{
		"bash": func(t *testing.T, line string) string {
			script := `source <(pinion completion bash)
				compopt() { echo "files with -o $2"; }
				COMP_LINE=$1 COMP_POINT=${#1} COMP_WORDBREAKS=$' \t\n"\'><=;|&(:' COMP_WORDS=(pinion)
				_pinion
				printf '%s\n' "${COMPREPLY[@]}"`
			return runProgramIn(t, dir, shell(t, "bash"), "--norc", "-c", script, "bash", line)
		},
		"fish": func(t *testing.T, line string) string {
			script := "pinion completion fish | source\ncomplete -C '" + line + "'"
			return runProgramIn(t, dir, shell(t, "fish"), "--no-config", "-c", script)
		},
	}
	for name, complete := range complete {
		t.Run(name, func(t *testing.T) {
			for _, c := range []struct{ line, want string }{
				{"pinion enq", `(?m)^enqueue\b`},
				{"pinion dlq-", `(?m)^dlq-purge\b`},
				{"pinion enqueue --prio", `(?m)^--priority\b`},
				{"pinion enqueue add --no-such --key x --pr", `(?m)^--priority\b`},
				{"pinion completion z", `(?m)^zsh\b`},
				{"pinion help st", `(?m)^status\b`},
				{"pinion dlq-replay --db q.db 0199", exampleID},
				{"pinion show --db=q.db 0199", exampleID},
				{"pinion dlq-list --db q.db --task m", `(?m)^mail\b`},
				{"pinion pause --db q.db d", `(?m)^default\b`},
				{"pinion reschedule --db q.db 0199", exampleWaits},
				{"pinion list --db q.db --status p", `(?m)^pending\b`},
				{"pinion backup --db q.db images/a", `(?m)^(images/a\.png|files with -o default)$`},
				{"pinion status --db q", `(?m)^(q\.db|files with -o default)$`},
				{"pinion status --db=q", `(?m)^((--db=)?q\.db|files with -o default)$`},
				{"pinion worker --import ./t", `(?m)^(\./tasks/?|files with -o dirnames)`},
			} {
				wantText(t, complete(t, c.line), c.want)
			}
			for _, line := range []string{
				"pinion nonsense -", "pinion status --db q.db x", "pinion enqueue --args ",
			} {
				if got := strings.TrimSpace(complete(t, line)); got != "" {
					t.Errorf("%s: got %s, want nothing", line, got)
				}
			}
		})
	}
}

// runProgramIn runs a program in dir, where it finds this command, and returns its standard output.
func runProgramIn(t *testing.T, dir, program string, args ...string) string {
	t.Helper()
	cmd := process(t, dir, args...)
	cmd.Path, cmd.Args[0] = program, program
	path := filepath.Join(dir, "bin") + ":" + os.Getenv("PATH")
	cmd.Env = append(cmd.Env, "PATH="+path, "HOME="+dir, "XDG_CONFIG_HOME="+dir)
	stdout, _ := finish(t, cmd, 0)
	return stdout
}

package pinion_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// A guide may also have whole programs, each followed by what it prints.
func TestTheProgramsInTheGuidesPrintWhatTheySay(t *testing.T) {
	t.Parallel()
	root, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for guide, number := range map[string]int{
		"docs/rate-limits.md":   2,
		"docs/scaling.md":       1,
		"docs/your-database.md": 2,
	} {
		programs := programBlock.FindAllStringSubmatch(read(t, guide), -1)
		if len(programs) != number {
			t.Errorf("%s has %d programs with their output, want %d", guide, len(programs), number)
		}
		for i, program := range programs {
			t.Run(fmt.Sprint(guide, "/", i+1), func(t *testing.T) {
				t.Parallel()
				out := runProgram(t, root, fmt.Sprint("program", i+1), program[1])
				if diff := cmp.Diff(program[2], string(out)); diff != "" {
					t.Errorf("its output (-the guide's +the program's):\n%s", diff)
				}
			})
		}
	}
}

// programBlock matches a program and the block of text with its output.
var programBlock = regexp.MustCompile("(?s)```go\n(package main\n.*?)```\n\n```text\n(.*?)```")

// runProgram runs a program, overlaid on a folder of this module, in an empty folder. A go.work there makes that
// possible with go run, which keeps what it has linked for the next time.
func runProgram(t *testing.T, root, name, text string) []byte {
	t.Helper()
	dir := t.TempDir()
	work := fmt.Sprintf("go 1.26.0\n\nuse %q\n", root)
	if err := os.WriteFile(filepath.Join(dir, "go.work"), []byte(work), 0o600); err != nil {
		t.Fatal(err)
	}
	overlay := overlayFile(t, map[string]string{filepath.Join(root, "docs", name, "main.go"): text})
	cmd := exec.CommandContext(t.Context(), "go", "run", "-ldflags=-w", "-overlay", overlay, module+"/docs/"+name)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "GOWORK=", "GOFLAGS=")
	cmd.Stderr = new(bytes.Buffer)
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v\n%s", err, cmd.Stderr)
	}
	return out
}

// overlayFile writes a file for the flag -overlay of the go command: texts by the paths that they shall seem to have.
func overlayFile(t *testing.T, texts map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	replace := make(map[string]string)
	for path, text := range texts {
		standIn := filepath.Join(dir, fmt.Sprint(len(replace), ".go"))
		if err := os.WriteFile(standIn, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		replace[path] = standIn
	}
	overlay, err := json.Marshal(map[string]any{"Replace": replace})
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "overlay.json")
	if err := os.WriteFile(path, overlay, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// goBlock matches a block of Go in a guide whose first line is a comment with the name of a file.
var goBlock = regexp.MustCompile("(?s)```go\n(// (\\S+\\.go)\n.*?)```")

// goFiles returns the Go files in a guide, by name.
func goFiles(t *testing.T, guide string) map[string]string {
	t.Helper()
	files := make(map[string]string)
	for _, block := range goBlock.FindAllStringSubmatch(read(t, guide), -1) {
		files[block[2]] = block[1]
	}
	return files
}

// The Go files of a guide make one package. For its tests they are overlaid on the folder docs, so nothing is written.
func TestTheProgramsInTheGuidesRun(t *testing.T) {
	t.Parallel()
	root, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for guide, tests := range map[string][]string{
		"docs/testing-your-tasks.md": {
			"TestWelcome",
			"TestSignUpEnqueuesAWelcomeAndAReminder",
			"TestTheWelcomeSurvivesAnOutageAndTheReminderComesAfterAWeek",
			"TestACreditAndTheEndOfItsJobCommitTogether",
			"TestAWelcomeThroughAFile",
		},
	} {
		t.Run(guide, func(t *testing.T) {
			texts := make(map[string]string)
			for name, text := range goFiles(t, guide) {
				texts[filepath.Join(root, "docs", name)] = text
			}
			out := string(goCommand(t, "test", "-v", "-ldflags=-w", "-overlay", overlayFile(t, texts), "./docs"))
			for _, test := range tests {
				if !strings.Contains(out, "--- PASS: "+test+" ") {
					t.Errorf("%s has not passed:\n%s", test, out)
				}
			}
		})
	}
}

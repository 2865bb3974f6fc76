package pinion_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

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
	root, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for guide, tests := range map[string][]string{
		"docs/testing-your-tasks.md": {
			"TestWelcome",
			"TestSignUpEnqueuesAWelcomeAndAReminder",
			"TestTheWelcomeSurvivesAnOutageAndTheReminderComesAfterAWeek",
			"TestAWelcomeThroughAFile",
		},
	} {
		t.Run(guide, func(t *testing.T) {
			dir := t.TempDir()
			replace := make(map[string]string)
			for name, text := range goFiles(t, guide) {
				path := filepath.Join(dir, name)
				if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
					t.Fatal(err)
				}
				replace[filepath.Join(root, "docs", name)] = path
			}
			overlay, err := json.Marshal(map[string]any{"Replace": replace})
			if err != nil {
				t.Fatal(err)
			}
			path := filepath.Join(dir, "overlay.json")
			if err := os.WriteFile(path, overlay, 0o600); err != nil {
				t.Fatal(err)
			}
			out := string(goCommand(t, "test", "-v", "-overlay", path, "./docs"))
			for _, test := range tests {
				if !strings.Contains(out, "--- PASS: "+test+" ") {
					t.Errorf("%s has not passed:\n%s", test, out)
				}
			}
		})
	}
}

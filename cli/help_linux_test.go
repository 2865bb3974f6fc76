package cli

import (
	"path/filepath"
	"strings"
	"testing"
)

// The recipe for names that are not UTF-8 gives a program the file, whatever its name is.
func TestARecipeTakesFilesWithAnyName(t *testing.T) {
	t.Parallel()
	dir := exampleFolder(t)
	for _, name := range []string{"caf\xe9.png", "ends in a line feed\n", "-n", "two words"} {
		write(t, filepath.Join(dir, "images", name), "text")
	}
	var recipe []string
	for line := range strings.Lines(linesTopicExamples) {
		if strings.Contains(line, "base64") {
			recipe = append(recipe, line)
		}
	}
	script := strings.Join(recipe, "") + "\npinion list --task sum --json --db q.db"
	stdout := runProgramIn(t, dir, "/bin/sh", "-c", script)
	if n := strings.Count(stdout, `"status":"SUCCESS"`); n != 5 {
		t.Errorf("%d of 5 files have a sum\n%s", n, stdout)
	}
}

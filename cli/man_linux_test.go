package cli

import (
	"regexp"
	"strings"
	"testing"
)

// groff reports what it does not understand, and prints what a reader sees.
func TestManualPagesHaveEverythingOfTheHelp(t *testing.T) {
	t.Parallel()
	groff := shell(t, "groff")
	names := []string{""}
	for _, cmd := range commands() {
		names = append(names, cmd.name)
	}
	for _, topic := range topics() {
		names = append(names, topic.name)
	}
	spaces := regexp.MustCompile(`\s+`)
	read := func(args ...string) string {
		_, page, _ := runCommand(t, append([]string{"help", "--man"}, args...)...)
		cmd := process(t, t.TempDir(), "-man", "-ww", "-Kutf8", "-Tutf8", "-P-cbou", "-rLL=100n", "-rHY=0")
		cmd.Path, cmd.Args[0] = groff, "groff"
		cmd.Stdin = strings.NewReader(page)
		text, warnings := finish(t, cmd, 0)
		if warnings != "" {
			t.Errorf("%s: groff says\n%s", args, warnings)
		}
		text = strings.ReplaceAll(text, "\u2212", "-") // as some print \-
		return spaces.ReplaceAllString(text, " ")
	}
	all := read()
	for _, name := range names[1:] {
		page := read(name)
		_, help, _ := runCommand(t, "help", name)
		_, help, _ = strings.Cut(help, "\n\n")
		for line := range strings.Lines(help) {
			line = strings.TrimSpace(spaces.ReplaceAllString(line, " "))
			isTitle := line == "Flags:"
			for what, text := range map[string]string{"its page": page, "the page of everything": all} {
				if !isTitle && !strings.Contains(text, line) {
					t.Errorf("%s: %s lacks %q", name, what, line)
				}
			}
		}
	}
}

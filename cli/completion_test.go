//go:build unix

package cli

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"
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
				{"pinion help exit", `(?m)^exit-status\b`},
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
	cmd.Env = append(cmd.Env, "PATH="+path, "HOME="+dir, "XDG_CONFIG_HOME="+dir,
		"LC_ALL=C.UTF-8") // without UTF-8 fish finds no program in a folder with a name in other letters
	stdout, _ := finish(t, cmd, 0)
	return stdout
}

// hostileNames are names of queues that shells would obey, split or change. FuzzBashTakesACandidateAsItIs begins with
// them.
var hostileNames = []string{
	"$(touch${IFS}PWNED)x", "x$(touch PWNED)", "`touch PWNED`y", "x`touch PWNED`", "two words", " lead", "trail ",
	"'lead", `"lead`, `back\slash`, `end\`, `\`, "quo'te", `dou"ble`, `a\'b"c$d`, "semi;touch PWNED", "amp&touch PWNED",
	"x|touch PWNED", "x>PWNED", "<x", "bang!x", "!!", "# x", "x#y", "~root", "~", "star*", "q?", "[a-z]*", "{a,b}",
	"a:b", "a:b c:d", "a=b", "=ls", "日本 語", "$HOME", "${HOME}", "$((1+1))", "^x^y", "%s%d%%", "x=$(touch PWNED)",
	"a,b;c", "(x)", "é'\"",
}

// wordBreaks are the COMP_WORDBREAKS that bash begins with.
const wordBreaks = " \t\n\"'><=;|&(:"

// FuzzBashTakesACandidateAsItIs types a part of a name, within quotes or not, puts the candidate where bash puts it,
// and asks bash what the word then is.
func FuzzBashTakesACandidateAsItIs(f *testing.F) {
	bash := shell(f, "bash")
	for _, name := range hostileNames {
		for _, open := range []string{"", "'", `"`} {
			f.Add(name, open, byte(0))
			f.Add(name, open, byte(3))
		}
	}
	f.Fuzz(func(t *testing.T, name, open string, n byte) {
		isQuote := open == "" || open == "'" || open == `"`
		if !isQuote || name == "" || printable(name, "") != name {
			t.Skip("never offered")
		}
		cut := int(n) % (len(name) + 1)
		for cut < len(name) && !utf8.RuneStart(name[cut]) {
			cut++
		}
		quote := byte(0)
		if open != "" {
			quote = open[0]
		}
		typed := open + quoteBash(name[:cut], quote)
		words, current, isFile := splitBash("pinion list --queue " + typed)
		want := []string{"pinion", "list", "--queue"}
		if isFile || !slices.Equal(words, want) || current.text != name[:cut] {
			t.Fatalf("typed %s: read %q, then %q, a file: %t; want the text %q",
				typed, words, current.text, isFile, name[:cut])
		}
		stay, before, stillOpen := current.replaced(wordBreaks)
		rest, ok := strings.CutPrefix(name, before)
		if !ok {
			t.Fatalf("typed %s: %q stays, which %q does not begin with", typed, before, name)
		}
		candidate := insertBash(rest, stillOpen)
		if stillOpen != 0 && candidate != "" && candidate[0] == stillOpen {
			stay-- // bash takes the quote for the one that is open
		}
		word := typed[:stay] + candidate
		if stillOpen != 0 {
			word += string(rune(stillOpen)) // bash closes it
		}
		output, err := exec.Command(bash, "--norc", "-c", "printf '<%s>' "+word).Output()
		if err != nil || string(output) != "<"+name+">" {
			t.Errorf("typed %s, which becomes %s: bash takes it for %s, %v; want %q", typed, word, output, err, name)
		}
	})
}

package cli

import (
	"bytes"
	"context"
	"database/sql"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/pinion-queue/pinion"
)

// plainStorage is a storage that is not an Inspector.
type plainStorage struct{ pinion.Storage }

func init() {
	pinion.RegisterScheme("plain", func(context.Context, string) (pinion.Storage, error) {
		return plainStorage{pinion.NewMemoryStorage()}, nil
	})
}

// TestScripts plays testdata/*.txt: sessions in a directory of their own that is empty at first. A line "$
// command" is followed by what the command prints: standard output, then standard error with "! " before each
// line, then the exit status if it is not 0. There {age}, {time}, {worker} and {any} stand for what they say.
// Any other {name} stands for an id, and $name repeats it. Words are quoted as in a shell, and $'…' has Go's
// escapes. Lines with # are comments.
func TestScripts(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatal("no scripts", err)
	}
	for _, file := range files {
		text := read(t, file)
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) {
			if runtime.GOOS == "windows" && (strings.Contains(text, "--exec") || strings.Contains(text, "mode 0")) {
				t.Skip("it has programs or modes of Unix")
			}
			t.Chdir(t.TempDir())
			playScript(t, text)
		})
	}
}

func playScript(t *testing.T, script string) {
	lines := strings.Split(script, "\n")
	ids := make(map[string]string)
	isCommand := func(line string) bool { return strings.HasPrefix(line, "$ ") }
	isOutput := func(line string) bool { return !isCommand(line) && !strings.HasPrefix(line, "#") }
	for i := 0; i < len(lines); {
		number, line := i+1, lines[i]
		i++
		if !isCommand(line) {
			continue
		}
		first := i
		for i < len(lines) && isOutput(lines[i]) {
			i++
		}
		want := strings.TrimRight(strings.Join(lines[first:i], "\n"), "\n")
		got := strings.TrimRight(runLine(t, strings.TrimPrefix(line, "$ "), ids), "\n")
		if !matchOutput(want, got, ids) {
			t.Fatalf("line %d: %s\n--- got\n%s\n--- want\n%s", number, line, got, want)
		}
	}
}

var (
	scriptName = regexp.MustCompile(`\\\{([a-z]+)\\\}`) // quoted, as it is within an expression
	alignment  = regexp.MustCompile(` {2,}`)            // differs with what a name stands for
	patterns   = map[string]string{
		"age":    `(?:in )?\d+[smhdy](?: ago)?`,
		"time":   `\d{4}-\d\d-\d\dT\S+`,
		"any":    `.*`,
		"worker": `\S+:\d+(?:/\d+)?`,
	}
)

// matchOutput compares what a command printed with the script, and takes ids from it.
func matchOutput(want, got string, ids map[string]string) bool {
	for name, id := range ids {
		want = strings.ReplaceAll(want, "$"+name, id)
	}
	var names []string
	want = regexp.QuoteMeta(alignment.ReplaceAllString(want, "  "))
	want = scriptName.ReplaceAllStringFunc(want, func(s string) string {
		name := strings.Trim(s, `\{}`)
		if patterns[name] != "" {
			return patterns[name]
		}
		names = append(names, name)
		return `([0-9a-f]{32})`
	})
	found := regexp.MustCompile("^" + want + "$").FindStringSubmatch(alignment.ReplaceAllString(got, "  "))
	if found == nil {
		return false
	}
	for i, name := range names {
		ids[name] = found[i+1]
	}
	return true
}

// runLine runs one command of a script and returns its output as scripts have it.
func runLine(t *testing.T, line string, ids map[string]string) string {
	words := scriptWords(t, line, ids)
	stdin := ""
	if n := len(words); n > 2 && words[n-2] == "<" {
		stdin = read(t, words[n-1])
		words = words[:n-2]
	}
	switch words[0] {
	case "pinion":
		return runScriptCommand(t, line, words[1:], strings.NewReader(stdin))
	case "echo": // TEXT > FILE
		write(t, words[3], words[1]+"\n")
		return ""
	case "chmod": // MODE FILE
		mode, err := strconv.ParseUint(words[1], 8, 32)
		if err == nil {
			err = os.Chmod(words[2], os.FileMode(mode))
		}
		if err != nil {
			t.Fatal(err)
		}
		return ""
	case "mkdir":
		if err := os.Mkdir(words[1], 0o700); err != nil {
			t.Fatal(err)
		}
		return ""
	case "ls":
		entries, err := os.ReadDir(".")
		if err != nil {
			t.Fatal(err)
		}
		var names []string
		for _, e := range entries {
			names = append(names, e.Name())
		}
		return strings.Join(names, "\n")
	case "sqlite": // FILE STATEMENT
		db, err := sql.Open("sqlite", words[1])
		if err != nil {
			t.Fatal(err)
		}
		defer db.Close()
		if _, err := db.Exec(words[2]); err != nil {
			t.Fatal(err)
		}
		return ""
	}
	t.Fatalf("scripts have no command %q", words[0])
	return ""
}

// slowCall matches what a worker logs when a call to the storage took too long, as it may on a busy machine. The worker
// calls again.
var slowCall = regexp.MustCompile(`storage in trouble, will try again.*deadline exceeded`)

// systemErrors gives the errors of this system the words that they have in scripts, which are those of Unix.
var systemErrors = strings.NewReplacer()

func runScriptCommand(t *testing.T, line string, args []string, stdin io.Reader) string {
	var stdout, stderr bytes.Buffer
	var status int
	if slices.Contains(args, "--exec") { // which registers tasks, once in a process
		cmd := process(t, ".", args...)
		cmd.Stdin, cmd.Stdout, cmd.Stderr = stdin, &stdout, &stderr
		cmd.Run()
		status = cmd.ProcessState.ExitCode()
	} else {
		status = Run(t.Context(), args, stdin, &stdout, &stderr)
	}
	if status != 0 && !strings.ContainsAny(stderr.String(), ";`") {
		t.Errorf("%s: it does not say what to do next:\n%s", line, &stderr)
	}
	for line := range strings.Lines(systemErrors.Replace(stderr.String())) {
		if !slowCall.MatchString(line) {
			stdout.WriteString("! " + line)
		}
	}
	if status != 0 {
		fmt.Fprintf(&stdout, "exit status %d\n", status)
	}
	return stdout.String()
}

var scriptWord = regexp.MustCompile(`\$?'[^']*'|\$[a-z]+|[^\s'$]+|\s+`)

// scriptWords splits a line of a script as a shell would.
func scriptWords(t *testing.T, line string, ids map[string]string) []string {
	words := []string{""}
	for _, part := range scriptWord.FindAllString(line, -1) {
		last := &words[len(words)-1]
		switch {
		case strings.TrimSpace(part) == "":
			words = append(words, "")
		case strings.HasPrefix(part, "$'"):
			text, err := strconv.Unquote(`"` + strings.ReplaceAll(part[2:len(part)-1], `"`, `\"`) + `"`)
			if err != nil {
				t.Fatalf("%s: %v", part, err)
			}
			*last += text
		case part[0] == '\'':
			*last += part[1 : len(part)-1]
		case part[0] == '$':
			id := ids[part[1:]]
			if id == "" {
				t.Fatalf("%s has no value", part)
			}
			*last += id
		default:
			*last += part
		}
	}
	return words
}

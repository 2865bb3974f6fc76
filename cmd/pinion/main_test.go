package main

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/signal"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/pinion-queue/pinion"
)

// The tasks that workers in these tests know.
var (
	_ = pinion.Register("add", func(ctx context.Context, args struct{ A, B int }) error {
		return pinion.SetResult(ctx, args.A+args.B)
	})
	_ = pinion.Register("fail", func(_ context.Context, text string) error { return errors.New(text) })
	_ = pinion.Register("say", func(ctx context.Context, text string) error { return pinion.SetResult(ctx, text) })
	// hold says that it runs and then waits for the end of the standard input.
	_ = pinion.Register("hold", func(context.Context, struct{}) error {
		fmt.Println("holding")
		_, err := io.Copy(io.Discard, os.Stdin)
		return err
	})
)

// asCommand makes the test binary the pinion command, for tests that need a process.
const asCommand = "PINION_TEST_AS_COMMAND"

// asVersion is the version that such a command is then to be.
const asVersion = "PINION_TEST_AS_VERSION"

func TestMain(m *testing.M) {
	os.Unsetenv("PINION_DB")
	os.Setenv("GORACE", "atexit_sleep_ms=0 "+os.Getenv("GORACE")) // else each process here takes a second to exit
	if os.Getenv(asCommand) != "" {
		packaged = os.Getenv(asVersion)
		main()
	}
	// Whoever started the tests may have had signals ignored (nohup does, and a shell for what is in its background), which
	// programs inherit. Those that this one handles are as usual in the programs that it starts.
	for _, s := range []os.Signal{syscall.SIGHUP, syscall.SIGINT, syscall.SIGQUIT, syscall.SIGTERM} {
		if signal.Ignored(s) {
			signal.Notify(make(chan os.Signal, 1), s)
		}
	}
	os.Exit(m.Run())
}

// TestScripts plays testdata/*.txt, sessions in a directory of their own that begins empty. After a line "$ command"
// comes what is to be printed: standard output, then standard error with "! " before each line, then the exit status
// if it is not 0. In it {age}, {time}, {worker} and {any} stand for what they say, and any other {name} for an id, which $name
// repeats. Words are quoted as in a shell, $'…' with Go's escapes. Lines with # are comments.
func TestScripts(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatal("no scripts", err)
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) {
			t.Chdir(t.TempDir())
			play(t, string(text))
		})
	}
}

func play(t *testing.T, script string) {
	lines := strings.Split(script, "\n")
	ids := make(map[string]string)
	isCommand := func(line string) bool { return strings.HasPrefix(line, "$ ") }
	isOutput := func(line string) bool { return !isCommand(line) && !strings.HasPrefix(line, "#") }
	for i := 0; i < len(lines); {
		at, line := i+1, lines[i]
		i++
		if !isCommand(line) {
			continue
		}
		first := i
		for i < len(lines) && isOutput(lines[i]) {
			i++
		}
		want := strings.TrimRight(strings.Join(lines[first:i], "\n"), "\n")
		got := strings.TrimRight(execLine(t, strings.TrimPrefix(line, "$ "), ids), "\n")
		if !match(want, got, ids) {
			t.Fatalf("line %d: %s\n--- got\n%s\n--- want\n%s", at, line, got, want)
		}
	}
}

var (
	placeholder = regexp.MustCompile(`\\\{([a-z]+)\\\}`)
	alignment   = regexp.MustCompile(` {2,}`) // is not what a placeholder would make of it
	patterns    = map[string]string{
		"age":    `(?:in )?\d+[smhd](?: ago)?`,
		"time":   `\d{4}-\d\d-\d\dT\S+`,
		"any":    `.*`,
		"worker": `\S+:\d+`,
	}
)

// match compares what was printed with the script, and takes the ids from it.
func match(want, got string, ids map[string]string) bool {
	var names []string
	for name, id := range ids {
		want = strings.ReplaceAll(want, "$"+name, id)
	}
	want = regexp.QuoteMeta(alignment.ReplaceAllString(want, "  "))
	want = placeholder.ReplaceAllStringFunc(want, func(s string) string {
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

// execLine runs one command and returns its outputs as scripts have them.
func execLine(t *testing.T, line string, ids map[string]string) string {
	words := split(t, line, ids)
	var stdin io.Reader = strings.NewReader("")
	if n := len(words); n > 2 && words[n-2] == "<" {
		text, err := os.ReadFile(words[n-1])
		if err != nil {
			t.Fatal(err)
		}
		stdin, words = bytes.NewReader(text), words[:n-2]
	}
	switch words[0] {
	case "pinion":
		var stdout, stderr bytes.Buffer
		var status int
		if slices.Contains(words, "--exec") { // which a process can be told once
			cmd := process(t, ".", words[1:]...)
			cmd.Stdin, cmd.Stdout, cmd.Stderr = stdin, &stdout, &stderr
			cmd.Run()
			status = cmd.ProcessState.ExitCode()
		} else {
			status = run(t.Context(), words[1:], stdin, &stdout, &stderr)
		}
		if status != 0 && !strings.ContainsAny(stderr.String(), ";`") {
			t.Errorf("%s: it does not say what to do next:\n%s", line, &stderr)
		}
		for line := range strings.Lines(stderr.String()) {
			stdout.WriteString("! " + line)
		}
		if status != 0 {
			fmt.Fprintf(&stdout, "exit status %d\n", status)
		}
		return stdout.String()
	case "echo": // TEXT > FILE
		if err := os.WriteFile(words[3], []byte(words[1]+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
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
		var found []string
		for _, e := range entries {
			found = append(found, e.Name())
		}
		return strings.Join(found, "\n")
	case "sqlite": // FILE STATEMENT
		db, err := sql.Open("sqlite", words[1])
		if err == nil {
			_, err = db.Exec(words[2])
			err = errors.Join(err, db.Close())
		}
		if err != nil {
			t.Fatal(err)
		}
		return ""
	}
	t.Fatalf("scripts know no command %q", words[0])
	return ""
}

var word = regexp.MustCompile(`\$?'[^']*'|\$[a-z]+|[^\s'$]+|\s+`)

func split(t *testing.T, line string, ids map[string]string) []string {
	words := []string{""}
	for _, part := range word.FindAllString(line, -1) {
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
			if ids[part[1:]] == "" {
				t.Fatalf("%s is not known", part)
			}
			*last += ids[part[1:]]
		default:
			*last += part
		}
	}
	return words
}

func TestHugeArgumentsAreRefused(t *testing.T) {
	t.Chdir(t.TempDir())
	for _, size := range []int{1 << 20, 50 << 20} {
		var stdout, stderr bytes.Buffer
		stdin := strings.NewReader(`["` + strings.Repeat("a", size) + `"]`)
		status := run(t.Context(), []string{"enqueue", "add", "--args", "-", "--db", "q.db"}, stdin, &stdout, &stderr)
		if status != 1 || stdout.Len() > 0 || !strings.Contains(stderr.String(), "too large") {
			t.Errorf("%d bytes: exit status %d\n%s%s", size, status, &stdout, &stderr)
		}
	}
	if _, err := os.Stat("q.db"); err == nil {
		t.Error("a refused job left a file")
	}
}

func TestAResultThatCannotBeWrittenIsAFailure(t *testing.T) {
	var stderr bytes.Buffer
	closed, w := io.Pipe()
	closed.Close()
	if status := run(t.Context(), []string{"version"}, nil, w, &stderr); status != 1 {
		t.Errorf("exit status %d\n%s", status, &stderr)
	}
}

// A backend of somebody's own need not be an Inspector.
type plainStorage struct{ pinion.Storage }

func init() {
	pinion.RegisterScheme("plain", func(context.Context, string) (pinion.Storage, error) {
		return plainStorage{pinion.NewMemoryStorage()}, nil
	})
}

func TestDistanceCountsLetters(t *testing.T) {
	for _, c := range []struct {
		a, b string
		want int
	}{
		{"", "", 0}, {"", "abc", 3}, {"abc", "", 3}, {"abc", "abc", 0},
		{"kitten", "sitting", 3}, {"status", "statsu", 2}, {"flaw", "lawn", 2},
	} {
		if got := distance(c.a, c.b); got != c.want {
			t.Errorf("distance(%q, %q) = %d, want %d", c.a, c.b, got, c.want)
		}
	}
}

func TestOnlyReleasesOfOneMinorVersionFit(t *testing.T) {
	for _, c := range []struct {
		theirs, own string
		want        bool
	}{
		{"v0.3.0", "v0.3.9", true},
		{"v0.2.0", "v0.3.0", false},
		{"v1.3.0", "v0.3.0", false},
		{"v0.2.0", "(devel)", true},
		{"v0.2.0", "v0.3.1-0.20260101000000-0123456789ab", true},
		{"v0.3.0-rc.1", "v0.2.0", true},
	} {
		if got := fits(c.theirs, c.own); got != c.want {
			t.Errorf("fits(%q, %q) = %v, want %v", c.theirs, c.own, got, c.want)
		}
	}
}

func TestEveryFileButOneIsEmbedded(t *testing.T) {
	want, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	want = slices.DeleteFunc(want, func(name string) bool {
		return strings.HasSuffix(name, "_test.go") || name == "source.go"
	})
	got, err := fs.Glob(source, "*")
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("embedded are %v, want %v; err %v", got, want, err)
	}
}

package cli

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/pinion-queue/pinion"
)

var escape = regexp.MustCompile(`\x1b\[[0-9;?]*[a-zA-Z]`)

// manyNames returns a queue whose tasks and queues have long names, with jobs in several states.
func manyNames(t *testing.T) (db string) {
	t.Helper()
	db = filepath.Join(t.TempDir(), "q.db")
	storage := openStorage(t, db)
	for _, name := range []string{"images.thumbnails.small", "images.thumbnails.large", "日本語の名前はとても長いです"} {
		job := &pinion.Job{Task: name, Queue: "queue of " + name, Args: []any{strings.Repeat("日本", 20)}}
		mustEnqueue(t, storage, job, &pinion.Job{Task: name})
	}
	if err := storage.SetLimit(t.Context(), "default", 1000); err != nil {
		t.Fatal(err)
	}
	jobs := claim(t, storage, 2)
	if err := storage.DeadLetter(t.Context(), jobs[1], pinion.ErrBadArgs); err != nil {
		t.Fatal(err)
	}
	return db
}

func TestTablesFitTheTerminal(t *testing.T) {
	t.Parallel()
	db := manyNames(t)
	for _, width := range []int{20, 40, 60, 80, 100, 250} {
		term := newTerminal(t, width)
		for _, command := range []string{"status", "running", "pending", "dlq-list"} {
			cmd := process(t, t.TempDir(), command, "--db", db)
			cmd.Env = append(cmd.Env, "TERM=xterm", "NO_COLOR=")
			text := escape.ReplaceAllString(term.session(cmd, 0), "")
			for line := range strings.Lines(text) {
				if n := columns(strings.TrimSuffix(line, "\n")); n > width {
					t.Errorf("%s on %d columns prints a line of %d: %s", command, width, n, line)
				}
			}
			switch cut := strings.Contains(text, "…"); {
			case width == 20 && !cut && command != "pending", width == 250 && cut:
				t.Errorf("%s on %d columns; cut: %t\n%s", command, width, cut, text)
			case width == 60 && command == "status" && !strings.Contains(text, "\nimag…all  "):
				t.Errorf("%s on %d columns shows different names alike:\n%s", command, width, text)
			}
		}
	}
}

func TestColorsAreOnlyForTerminalsAndNeverWithNoColor(t *testing.T) {
	t.Parallel()
	db := manyNames(t)
	term := newTerminal(t, 100)
	for _, c := range []struct {
		env  string
		want bool
	}{{"TERM=xterm", true}, {"NO_COLOR=", true}, {"NO_COLOR=0", false}, {"TERM=dumb", false}} {
		cmd := process(t, t.TempDir(), "status", "--db", db)
		cmd.Env = append(cmd.Env, "TERM=xterm", "NO_COLOR=", c.env)
		text := term.session(cmd, 0)
		got := strings.Contains(text, "\x1b[1mQUEUE\x1b[0m") &&
			strings.Contains(text, "\x1b[31mdead letters: 1\x1b[0m")
		if got != c.want {
			t.Errorf("with %s; in colors: %t\n%q", c.env, got, text)
		}
		if !c.want && escape.MatchString(text) {
			t.Errorf("with %s it has escape sequences: %q", c.env, text)
		}
	}
	cmd := process(t, t.TempDir(), "status", "--db", db)
	cmd.Env = append(cmd.Env, "TERM=xterm", "NO_COLOR=")
	if text, _ := finish(t, cmd, 0); escape.MatchString(text) {
		t.Errorf("through a pipe it has escape sequences: %q", text)
	}
}

func TestOnlyATerminalIsATerminal(t *testing.T) {
	t.Parallel()
	term := newTerminal(t, 80)
	slave := term.open()
	defer slave.Close()
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	defer w.Close()
	for name, c := range map[string]struct {
		stream any
		want   bool
	}{
		"terminal": {slave, true}, "null": {null, false}, "pipe": {w, false},
		"builder": {new(strings.Builder), false},
	} {
		if got := isTerminal(c.stream); got != c.want {
			t.Errorf("isTerminal of %s: %v, want %v", name, got, c.want)
		}
	}
}

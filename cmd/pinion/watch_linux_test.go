package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/pinion-queue/pinion"
)

// watching is a watch on a terminal, of a queue with a job that waits and one that runs.
type watching struct {
	*terminal
	storage *pinion.SQLiteStorage
	db      string
}

func newWatching(t *testing.T, columns int) *watching {
	db := filepath.Join(t.TempDir(), "q.db")
	storage, err := pinion.OpenSQLite(t.Context(), db, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { storage.Close() })
	w := &watching{newTerminal(t, columns), storage, db}
	w.enqueue("slow")
	if _, err := storage.Dequeue(t.Context(), pinion.DequeueOptions{Max: 1}); err != nil {
		t.Fatal(err)
	}
	w.enqueue("waits")
	return w
}

func (w *watching) enqueue(task string) {
	w.t.Helper()
	if err := w.storage.Enqueue(w.t.Context(), pinion.NewJob(task)); err != nil {
		w.t.Fatal(err)
	}
}

// frames are the pictures in what a terminal was told, without escape sequences.
func frames(text string) (pictures []string) {
	parts := strings.Split(text, "\x1b[H")
	for _, part := range parts[1:] {
		if picture, _, whole := strings.Cut(part, "\x1b[J"); whole {
			pictures = append(pictures, escape.ReplaceAllString(strings.ReplaceAll(picture, "\r\n", "\n"), ""))
		}
	}
	return pictures
}

func TestAWatchIsALiveScreenAndIsRestoredWhateverEndsIt(t *testing.T) {
	for name, end := range map[string]func(w *watching, p *os.Process){
		"^C":      func(w *watching, _ *os.Process) { w.typed("\x03") },
		"^\\":     func(w *watching, _ *os.Process) { w.typed("\x1c") },
		"SIGTERM": func(_ *watching, p *os.Process) { p.Signal(syscall.SIGTERM) },
		"SIGHUP":  func(_ *watching, p *os.Process) { p.Signal(syscall.SIGHUP) },
	} {
		t.Run(name, func(t *testing.T) {
			w := newWatching(t, 100)
			cmd := process(t, t.TempDir(), "status", "--watch", "--interval", "0.05", "--db", w.db)
			cmd.Env = append(cmd.Env, "TERM=xterm", "NO_COLOR=")
			w.start(cmd)
			w.await(`(?s)dead letters: 0.*slow +\S* +1 `)
			w.enqueue("arrives later")
			w.await(`arrives later`)
			end(w, cmd.Process)
			text := w.ended(cmd, 0, 0)
			if !strings.HasPrefix(text, enterScreen) || !strings.HasSuffix(strings.TrimSuffix(text, "^C"), leaveScreen) || strings.Count(text, leaveScreen) != 1 {
				t.Errorf("the screen is not entered first and left last: %q … %q", text[:60], text[len(text)-60:])
			}
		})
	}
}

func TestAWatchFitsAScreenThatChangesItsSize(t *testing.T) {
	w := newWatching(t, 100)
	for i := range 40 {
		w.enqueue(fmt.Sprint("a task with a long name and with number ", i))
	}
	cmd := process(t, t.TempDir(), "status", "--watch", "--interval", "3600", "--db", w.db)
	cmd.Env = append(cmd.Env, "TERM=xterm", "NO_COLOR=1")
	w.start(cmd)
	w.await(`dead letters`)
	w.resize(40) // is seen at once, and not in an hour
	w.await(`(?s)dead letters.*dead letters`)
	w.typed("\x03")
	text := w.ended(cmd, 0, 0)
	pictures := slices.DeleteFunc(frames(text), func(picture string) bool { return strings.HasPrefix(picture, "looking") })
	for i, width := range map[int]int{0: 100, len(pictures) - 1: 40} {
		lines := strings.Split(pictures[i], "\n")
		if len(lines) > 24 || !strings.Contains(pictures[i], "and ") {
			t.Errorf("picture %d has %d lines, of which nothing is left out; the terminal has 24\n%s", i, len(lines), pictures[i])
		}
		for _, line := range lines {
			if columns(line) > width {
				t.Errorf("picture %d has a line of %d columns, the terminal has %d: %s", i, columns(line), width, line)
			}
		}
	}
	if escape.MatchString(strings.NewReplacer(enterScreen, "", leaveScreen, "", "\x1b[H", "", "\x1b[K", "", "\x1b[J", "").Replace(text)) {
		t.Errorf("in spite of NO_COLOR it has colours: %q", text)
	}
}

func TestAWatchThatIsSuspendedGivesTheScreenBack(t *testing.T) {
	w := newWatching(t, 100)
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	// A shell with job control, as a person has it.
	cmd := process(t, t.TempDir())
	cmd.Path = "/bin/sh"
	cmd.Args = []string{"sh", "-c", `set -m
		"$0" status --watch --interval 0.05 --db "$1"
		echo suspended; read line
		fg; echo ended with $?`, self, w.db}
	cmd.Env = append(cmd.Env, "TERM=xterm")
	w.start(cmd)
	w.await(`dead letters`)
	w.typed("\x1a")
	text := w.await(`suspended\r\n`)
	if enter, leave := strings.LastIndex(text, enterScreen), strings.LastIndex(text, leaveScreen); leave < enter {
		t.Errorf("suspended, it has not left the screen: %q", text)
	}
	w.typed("\n")
	w.await(`(?s)suspended.*` + regexp.QuoteMeta(enterScreen) + `.*dead letters`)
	w.typed("\x03")
	wantText(t, w.ended(cmd, 0, 0), `(?s)`+regexp.QuoteMeta(leaveScreen)+`[^\x1b]*ended with 0\n$`)
}

// Where no shell could have it go on, ^Z does nothing.
func TestAWatchWithoutAShellIsNotSuspended(t *testing.T) {
	w := newWatching(t, 100)
	cmd := process(t, t.TempDir(), "status", "--watch", "--interval", "0.05", "--db", w.db)
	cmd.Env = append(cmd.Env, "TERM=xterm")
	w.start(cmd)
	w.await(`dead letters`)
	w.typed("\x1a")
	w.await(`(?s)` + regexp.QuoteMeta(leaveScreen+enterScreen) + `.*dead letters`)
	w.typed("\x03")
	w.ended(cmd, 0, 0)
}

// fragile is a storage that panics when it is looked at.
type fragile struct{ *pinion.MemoryStorage }

func (fragile) Stats(context.Context) (pinion.Stats, error) { panic("too fragile") }

// broken is a storage that cannot be looked at.
type broken struct{ *pinion.MemoryStorage }

func (broken) Stats(context.Context) (pinion.Stats, error) {
	return pinion.Stats{}, errors.New("the disk is broken")
}

func init() {
	pinion.RegisterScheme("fragile", func(context.Context, string) (pinion.Storage, error) { return fragile{pinion.NewMemoryStorage()}, nil })
	pinion.RegisterScheme("broken", func(context.Context, string) (pinion.Storage, error) { return broken{pinion.NewMemoryStorage()}, nil })
}

func TestAWatchThatFailsRestoresTheScreenAndSaysWhy(t *testing.T) {
	for db, want := range map[string]string{"fragile:": "panic: too fragile", "broken:": "the disk is broken"} {
		term := newTerminal(t, 80)
		cmd := process(t, t.TempDir(), "status", "--watch", "--db", db)
		cmd.Env = append(cmd.Env, "TERM=xterm")
		wantText(t, term.session(cmd, 1), `(?s)^`+regexp.QuoteMeta(enterScreen)+`.*`+regexp.QuoteMeta(leaveScreen)+`pinion: `+want)
	}
}

func TestAWatchOfNoTerminalIsALineEachTime(t *testing.T) {
	w := newWatching(t, 100)
	for _, c := range []struct {
		env, flag string
		onTerm    bool
		want      string
	}{
		{"TERM=xterm", "--json=false", false, `^(\S+  pending 1, running 1, 0 jobs/s, dead letters 0, oldest pending \d+s ago\n){2}`},
		{"TERM=dumb", "--json=false", true, `^(\S+  pending 1, running 1, 0 jobs/s, dead letters 0, oldest pending \d+s ago\n){2}`},
		{"TERM=xterm", "--json", false, `^(\{"total":\{"pending":1,"running":1,.*\}\n){2}`},
	} {
		cmd := process(t, t.TempDir(), "status", "--watch", "--interval", "0.02", "--db", w.db, c.flag)
		cmd.Env = append(cmd.Env, c.env)
		said := &watched{first: regexp.MustCompile(strings.TrimSuffix(c.want, "{2}") + "{3}")}
		if c.onTerm {
			w.start(cmd)
			w.await(`(?s)(pending 1.*){3}`)
			w.typed("\x03")
			wantText(t, w.ended(cmd, 0, 0), c.want)
			continue
		}
		cmd.Stdout = said
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		await(t, said, said.begun)
		cmd.Process.Signal(os.Interrupt)
		if err := cmd.Wait(); err != nil {
			t.Error(err)
		}
		wantText(t, said.String(), c.want)
	}
}

func TestASparklineIsAsHighAsItsNumbers(t *testing.T) {
	for _, c := range []struct {
		numbers []int
		want    string
	}{{[]int{0, 0}, "  "}, {[]int{0, 1, 4, 8}, " ▁▄█"}, {[]int{1, 1000, 500}, "▁█▄"}, {[]int{3}, "█"}} {
		if got := string(sparkline(c.numbers)); got != c.want {
			t.Errorf("%v: %q, want %q", c.numbers, got, c.want)
		}
	}
}

func TestABigQueueIsLookedAtLessOften(t *testing.T) {
	for took, want := range map[time.Duration]time.Duration{time.Millisecond: 999 * time.Millisecond, time.Second: 4 * time.Second} {
		if got := (&view{took: took}).rest(time.Second); got != want {
			t.Errorf("after a look that took %v it rests %v, want %v", took, got, want)
		}
	}
}

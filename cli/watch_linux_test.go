package cli

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/pinion-queue/pinion"
)

// watching is a terminal for a watch, and a queue with a job that waits and one that runs.
type watching struct {
	*terminal
	storage *pinion.SQLiteStorage
	db      string
}

func newWatching(t *testing.T, columns int) *watching {
	db := filepath.Join(t.TempDir(), "q.db")
	w := &watching{newTerminal(t, columns), openStorage(t, db), db}
	w.enqueue("slow")
	claim(t, w.storage, 1)
	w.enqueue("waits")
	return w
}

// startWatch starts a watch on the terminal.
func (w *watching) startWatch(interval string, env ...string) *exec.Cmd {
	w.t.Helper()
	cmd := process(w.t, w.t.TempDir(), "status", "--watch", "--interval", interval, "--db", w.db)
	cmd.Env = append(append(cmd.Env, "TERM=xterm", "NO_COLOR="), env...)
	w.start(cmd)
	return cmd
}

func (w *watching) enqueue(task string) {
	w.t.Helper()
	if err := w.storage.Enqueue(w.t.Context(), pinion.NewJob(task)); err != nil {
		w.t.Fatal(err)
	}
}

// framesIn returns the frames that were drawn on a terminal, without escape sequences.
func framesIn(text string) (frames []string) {
	parts := strings.Split(text, "\x1b[H")
	for _, part := range parts[1:] {
		if strings.Contains(part, "\x1b[J") { // before the last line
			frames = append(frames, escape.ReplaceAllString(strings.ReplaceAll(part, "\r\n", "\n"), ""))
		}
	}
	return frames
}

// After a full line the cursor stays on its last character, which an erasure would take.
func TestAFrameErasesEachLineBeforeItWritesIt(t *testing.T) {
	const want = "\x1b[H\x1b[Kfirst\r\n\x1b[Ksecond\r\n\x1b[Jthird"
	if got := frameOf([]string{"first", "second", "third"}); got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestAWatchRestoresTheScreenWhateverEndsIt(t *testing.T) {
	t.Parallel()
	for name, end := range map[string]func(w *watching, p *os.Process){
		"^C":      func(w *watching, _ *os.Process) { w.typed("\x03") },
		"^\\":     func(w *watching, _ *os.Process) { w.typed("\x1c") },
		"SIGTERM": func(_ *watching, p *os.Process) { p.Signal(syscall.SIGTERM) },
		"SIGHUP":  func(_ *watching, p *os.Process) { p.Signal(syscall.SIGHUP) },
	} {
		t.Run(name, func(t *testing.T) {
			w := newWatching(t, 100)
			cmd := w.startWatch("0.05")
			w.await(`(?s)dead letters: 0.*slow +\S+:\d+ +1 `)
			w.enqueue("arrives later")
			w.await(`arrives later`)
			end(w, cmd.Process)
			text := w.ended(cmd, 0, 0)
			text = strings.TrimSuffix(text, "^C") // the terminal's echo
			entered, left := strings.HasPrefix(text, enterScreen), strings.HasSuffix(text, leaveScreen)
			if !entered || !left || strings.Count(text, leaveScreen) != 1 {
				t.Errorf("it does not enter the screen first and leave it last: %q … %q",
					text[:60], text[len(text)-60:])
			}
		})
	}
}

func TestAWatchFitsAScreenThatChangesItsSize(t *testing.T) {
	t.Parallel()
	w := newWatching(t, 100)
	for i := range 40 {
		w.enqueue(fmt.Sprint("a task with a long name and with number ", i))
	}
	cmd := w.startWatch("3600", "NO_COLOR=1")
	w.await(`dead letters`)
	w.resize(40) // takes effect at once, not in an hour
	w.await(`(?s)dead letters.*dead letters`)
	w.typed("\x03")
	text := w.ended(cmd, 0, 0)
	isFirst := func(frame string) bool { return strings.HasPrefix(frame, "looking") }
	frames := slices.DeleteFunc(framesIn(text), isFirst)
	for i, width := range map[int]int{0: 100, len(frames) - 1: 40} {
		lines := strings.Split(frames[i], "\n")
		if len(lines) > 24 || !strings.Contains(frames[i], "and ") {
			t.Errorf("frame %d has %d lines and may leave out nothing; the terminal has 24\n%s",
				i, len(lines), frames[i])
		}
		for _, line := range lines {
			if columns(line) > width {
				t.Errorf("frame %d has a line of %d columns, the terminal has %d: %s",
					i, columns(line), width, line)
			}
		}
	}
	for _, sequence := range []string{enterScreen, leaveScreen, "\x1b[H", "\x1b[K", "\x1b[J"} {
		text = strings.ReplaceAll(text, sequence, "")
	}
	if escape.MatchString(text) {
		t.Errorf("it has colors in spite of NO_COLOR: %q", text)
	}
}

func TestASuspendedWatchRestoresTheScreen(t *testing.T) {
	t.Parallel()
	w := newWatching(t, 100)
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	// A person has a shell with job control.
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
	if strings.LastIndex(text, leaveScreen) < strings.LastIndex(text, enterScreen) {
		t.Errorf("it is suspended and has not left the screen: %q", text)
	}
	w.typed("\n")
	w.await(`(?s)suspended.*` + regexp.QuoteMeta(enterScreen) + `.*dead letters`)
	w.typed("\x03")
	wantText(t, w.ended(cmd, 0, 0), `(?s)`+regexp.QuoteMeta(leaveScreen)+`[^\x1b]*ended with 0\n$`)
}

// ^Z does nothing where no shell could continue the process.
func TestAWatchWithoutAShellIsNotSuspended(t *testing.T) {
	t.Parallel()
	w := newWatching(t, 100)
	cmd := w.startWatch("0.05")
	w.await(`dead letters`)
	w.typed("\x1a")
	w.await(`(?s)` + regexp.QuoteMeta(leaveScreen+enterScreen) + `.*dead letters`)
	w.typed("\x03")
	w.ended(cmd, 0, 0)
}

// fragile is a storage that panics.
type fragile struct{ *pinion.MemoryStorage }

func (fragile) Stats(context.Context) (pinion.Stats, error) { panic("too fragile") }

// broken is a storage that cannot be read.
type broken struct{ *pinion.MemoryStorage }

func (broken) Stats(context.Context) (pinion.Stats, error) {
	return pinion.Stats{}, errors.New("the disk is broken")
}

func init() {
	pinion.RegisterScheme("fragile", func(context.Context, string) (pinion.Storage, error) {
		return fragile{pinion.NewMemoryStorage()}, nil
	})
	pinion.RegisterScheme("broken", func(context.Context, string) (pinion.Storage, error) {
		return broken{pinion.NewMemoryStorage()}, nil
	})
}

func TestAWatchThatFailsRestoresTheScreenFirst(t *testing.T) {
	t.Parallel()
	for db, want := range map[string]string{"fragile:": "panic: too fragile", "broken:": "the disk is broken"} {
		term := newTerminal(t, 80)
		cmd := process(t, t.TempDir(), "status", "--watch", "--db", db)
		cmd.Env = append(cmd.Env, "TERM=xterm")
		screen := regexp.QuoteMeta(enterScreen) + `.*` + regexp.QuoteMeta(leaveScreen)
		wantText(t, term.session(cmd, 1), `(?s)^`+screen+`pinion: `+want)
	}
}

func TestAWatchWithoutALiveScreenPrintsLines(t *testing.T) {
	t.Parallel()
	w := newWatching(t, 100)
	const (
		line   = `\S+  pending 1, running 1, 0 jobs/s, dead letters 0, oldest pending \d+s ago\n`
		object = `\{"total":\{"pending":1,"due":1,"running":1,.*\}\n`
	)
	for want, flag := range map[string]string{line: "--json=false", object: "--json"} {
		cmd := process(t, t.TempDir(), "status", "--watch", "--interval", "0.02", "--db", w.db, flag)
		cmd.Env = append(cmd.Env, "TERM=xterm")
		output := &watched{first: regexp.MustCompile(`^(` + want + `){3}`)}
		cmd.Stdout = output
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		await(t, output, output.begun)
		cmd.Process.Signal(os.Interrupt)
		if err := cmd.Wait(); err != nil {
			t.Error(err)
		}
	}
	cmd := w.startWatch("0.02", "TERM=dumb")
	w.await(`(?s)(running 1.*){3}`)
	w.typed("\x03")
	wantText(t, w.ended(cmd, 0, 0), `^(`+line+`){3}`)
}

func TestASparklineIsAsHighAsItsNumbers(t *testing.T) {
	t.Parallel()
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
	t.Parallel()
	for took, want := range map[time.Duration]time.Duration{
		time.Millisecond: 999 * time.Millisecond, time.Second: 4 * time.Second,
	} {
		if got := (&snapshot{took: took}).pause(time.Second); got != want {
			t.Errorf("after a snapshot that took %v it pauses for %v, want %v", took, got, want)
		}
	}
}

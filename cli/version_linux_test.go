package cli

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// updates is a machine whose go command is what the test makes it, and where this command is the release
// v0.2.0.
type updates struct {
	t          *testing.T
	term       *terminal
	bin, cache string
	env        []string
}

func newUpdates(t *testing.T, fakeGo string) *updates {
	u := &updates{t: t, term: newTerminal(t, 80), bin: t.TempDir(), cache: t.TempDir()}
	if fakeGo != "" {
		writeProgram(t, filepath.Join(u.bin, "go"), "#!/bin/sh\n"+fakeGo)
	}
	u.env = []string{"PATH=" + u.bin + ":/usr/bin:/bin", "BIN=" + u.bin, "HOME=" + u.cache,
		"XDG_CACHE_HOME=" + u.cache, "GOFLAGS=-the-users-own", "CI=", asCommand + "=1", asVersion + "=v0.2.0"}
	t.Cleanup(u.awaitFetch)
	return u
}

func (u *updates) command(args ...string) *exec.Cmd {
	cmd := process(u.t, u.t.TempDir(), args...)
	cmd.Env = u.env
	return cmd
}

// run runs the command on the terminal and returns what it printed beside the version.
func (u *updates) run() string {
	u.t.Helper()
	text := u.term.session(u.command("version"), 0)
	own, rest, _ := strings.Cut(text, "\n")
	wantText(u.t, own, `^pinion v0\.2\.0 `)
	return rest
}

// runTwice runs the command, lets it fetch the newest version, and runs it again.
func (u *updates) runTwice() string {
	u.t.Helper()
	text := u.run()
	u.awaitFetch()
	return text + u.run()
}

func (u *updates) stamp() string { return filepath.Join(u.cache, "pinion", "update-check") }

// awaitFetch waits until no process asks for the newest version. Such a process is in the directory of the
// stamp.
func (u *updates) awaitFetch() {
	u.t.Helper()
	for {
		links, err := filepath.Glob("/proc/[0-9]*/cwd")
		if err != nil {
			u.t.Fatal(err)
		}
		asks := slices.ContainsFunc(links, func(link string) bool {
			dir, err := os.Readlink(link)
			return err == nil && dir == filepath.Dir(u.stamp())
		})
		if !asks {
			return
		}
		time.Sleep(time.Millisecond) // no event reports the end of another's child
	}
}

func (u *updates) wantNoFetch() {
	u.t.Helper()
	if exists(u.stamp()) {
		u.t.Error("it asked for the newest version")
	}
}

// passDay makes a day pass since the last question.
func (u *updates) passDay() {
	u.t.Helper()
	then := time.Now().Add(-25 * time.Hour)
	if err := os.Chtimes(u.stamp(), then, then); err != nil {
		u.t.Fatal(err)
	}
}

// answers is a go command that answers with the version in the file newest, and keeps its arguments.
const answers = `echo "$@ $GOFLAGS" >> "$BIN/calls"
echo '{"Path": "github.com/pinion-queue/pinion", "Version": "'$(cat "$BIN/newest")'"}'
`

func (u *updates) release(version string) { write(u.t, filepath.Join(u.bin, "newest"), version) }

func TestANewerVersionIsMentionedOnceADay(t *testing.T) {
	t.Parallel()
	u := newUpdates(t, answers)
	u.release("v0.10.0")
	const hint = "pinion: v0.10.0 is out and this is v0.2.0; to get it: " +
		"go install github.com/pinion-queue/pinion/cmd/pinion@latest\n"
	var text strings.Builder
	for range 3 {
		text.WriteString(u.run())
		u.awaitFetch()
	}
	if text.String() != hint {
		t.Errorf("in three runs it printed %q, want %q", text.String(), hint)
	}
	const call = "list -m -json github.com/pinion-queue/pinion@latest -the-users-own\n"
	if calls := read(t, filepath.Join(u.bin, "calls")); calls != call {
		t.Errorf("the calls of go were\n%s", calls)
	}
	u.passDay()
	u.release("v0.11.0")
	// Chance decides whether the first run shows it or the second.
	if text := u.runTwice(); !strings.Contains(text, "v0.11.0 is out") {
		t.Errorf("the next day it printed %q", text)
	}
}

func TestAnOlderVersionIsNotMentioned(t *testing.T) {
	t.Parallel()
	for _, version := range []string{"v0.2.0", "v0.1.9", "v0.0.10"} {
		u := newUpdates(t, answers)
		u.release(version)
		if text := u.runTwice(); text != "" {
			t.Errorf("of %s it printed %q", version, text)
		}
	}
}

func TestThereIsNoUpdateCheckWhereNobodyWantsIt(t *testing.T) {
	t.Parallel()
	u := newUpdates(t, answers)
	u.release("v9.0.0")
	u.term.session(u.command("version", "--no-update-check"), 0)
	u.wantNoFetch()
	for _, setting := range []string{
		"PINION_NO_UPDATE_CHECK=1", "PINION_NO_UPDATE_CHECK=yes", "CI=true",
		asVersion + "=v0.2.1-0.20260101000000-0123456789ab",
	} {
		cmd := u.command("version")
		cmd.Env = append(cmd.Env, setting)
		u.term.session(cmd, 0)
		u.wantNoFetch()
	}
	finish(t, u.command("version"), 0) // not on a terminal
	u.wantNoFetch()
	cmd := u.command("version")
	cmd.Stdout = new(strings.Builder) // a program reads the results
	u.term.session(cmd, 0)
	u.wantNoFetch()
	cmd = u.command("version")
	cmd.Env = append(cmd.Env, "PINION_NO_UPDATE_CHECK=0")
	u.term.session(cmd, 0)
	if !exists(u.stamp()) {
		t.Error("it did not ask although nobody forbade it")
	}
}

func TestAHangingGoCommandIsKilledWithItsChildren(t *testing.T) {
	t.Parallel()
	u := newUpdates(t, `trap '' TERM INT HUP
sleep 1000 &
echo $! $$ > "$BIN/pids.new"
mv "$BIN/pids.new" "$BIN/pids"
wait
wait
`)
	u.env = append(u.env, asUpdateTimeout+"=100ms")
	// On a busy machine the time may be over before the script has run its first line.
	await(t, new(strings.Builder), func() bool {
		if text := u.run(); text != "" {
			t.Errorf("it printed %q", text)
		}
		u.awaitFetch()
		u.passDay()
		return exists(filepath.Join(u.bin, "pids"))
	})
	for pid := range strings.FieldsSeq(read(t, filepath.Join(u.bin, "pids"))) {
		if _, err := os.Readlink(fmt.Sprintf("/proc/%s/cwd", pid)); err == nil { // a zombie has none
			t.Errorf("process %s is left", pid)
		}
	}
}

func TestAnUpdateCheckThatFailsIsSilent(t *testing.T) {
	t.Parallel()
	for name, fakeGo := range map[string]string{
		"no go":        "",
		"go fails":     "echo 'go: no such module' >&2\nexit 1\n",
		"go talks":     "echo 'It is a nice day.'\n",
		"odd version":  "echo '{\"Version\": \"v1.2.3\\u001b[2J\"}'\n",
		"endless text": "yes\n",
	} {
		t.Run(name, func(t *testing.T) {
			u := newUpdates(t, fakeGo)
			if name == "no go" {
				u.env[0] = "PATH=" + u.bin
			}
			if text := u.runTwice(); text != "" {
				t.Errorf("it printed %q", text)
			}
		})
	}
	u := newUpdates(t, answers)
	u.release("v9.0.0")
	write(t, filepath.Join(u.cache, "pinion"), "a file where a folder should be")
	if text := u.runTwice(); text != "" {
		t.Errorf("where the stamp cannot be written it printed %q", text)
	}
	if exists(filepath.Join(u.bin, "calls")) {
		t.Error("where the stamp cannot be written it asked")
	}
}

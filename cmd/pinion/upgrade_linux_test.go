package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// upgrades is a machine whose go command is what the test makes it, and where this command is a released v0.2.0.
type upgrades struct {
	t          *testing.T
	term       *terminal
	bin, cache string
	env        []string
}

func newUpgrades(t *testing.T, fakeGo string) *upgrades {
	u := &upgrades{t: t, term: newTerminal(t, 80), bin: t.TempDir(), cache: t.TempDir()}
	if fakeGo != "" {
		write(t, filepath.Join(u.bin, "go"), "#!/bin/sh\n"+fakeGo)
		if err := os.Chmod(filepath.Join(u.bin, "go"), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	// What a fake go does shows in $BIN.
	t.Cleanup(u.idle)
	u.env = []string{"PATH=" + u.bin + ":/usr/bin:/bin", "BIN=" + u.bin, "XDG_CACHE_HOME=" + u.cache, "HOME=" + u.cache,
		"GOFLAGS=-the-users-own", "CI=", asCommand + "=1", asVersion + "=v0.2.0"}
	return u
}

func (u *upgrades) command(args ...string) *exec.Cmd {
	cmd := process(u.t, u.t.TempDir(), args...)
	cmd.Env = u.env
	return cmd
}

// say runs the command on the terminal and returns what it said beside the version.
func (u *upgrades) say(args ...string) string {
	u.t.Helper()
	text := u.term.session(u.command(append([]string{"version"}, args...)...), 0)
	own, rest, _ := strings.Cut(text, "\n")
	wantText(u.t, own, `^pinion v0\.2\.0 `)
	return rest
}

func (u *upgrades) stamp() string { return filepath.Join(u.cache, "pinion", "update-check") }

// idle waits until no process is left that asks; those are in the stamp's directory.
func (u *upgrades) idle() {
	u.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	for ctx.Err() == nil {
		links, err := filepath.Glob("/proc/[0-9]*/cwd")
		if err != nil {
			u.t.Fatal(err)
		}
		if !slices.ContainsFunc(links, func(link string) bool {
			dir, err := os.Readlink(link)
			return err == nil && dir == filepath.Dir(u.stamp())
		}) {
			return
		}
		time.Sleep(time.Millisecond)
	}
	u.t.Error("a minute later somebody still asks")
}

func (u *upgrades) unasked() {
	u.t.Helper()
	if _, err := os.Stat(u.stamp()); err == nil {
		u.t.Error("it asked")
	}
}

const answers = `echo "$@ $GOFLAGS" >> "$BIN/calls"
echo '{"Path": "github.com/pinion-queue/pinion", "Version": "'$(cat "$BIN/newest")'"}'
`

func (u *upgrades) release(version string) { write(u.t, filepath.Join(u.bin, "newest"), version) }

// yesterday makes a day pass since the last question.
func (u *upgrades) yesterday() {
	u.t.Helper()
	then := time.Now().Add(-25 * time.Hour)
	if err := os.Chtimes(u.stamp(), then, then); err != nil {
		u.t.Fatal(err)
	}
}

func TestANewerVersionIsToldOnceADay(t *testing.T) {
	u := newUpgrades(t, answers)
	u.release("v0.10.0")
	const hint = "pinion: v0.10.0 is out and this is v0.2.0; to get it: go install github.com/pinion-queue/pinion/cmd/pinion@latest\n"
	told := 0
	for range 3 {
		switch said := u.say(); said {
		case hint:
			told++
		case "":
		default:
			t.Fatalf("it said %q", said)
		}
		u.idle()
	}
	if told != 1 {
		t.Errorf("it was told %d times", told)
	}
	if calls := read(t, filepath.Join(u.bin, "calls")); calls != "list -m -json github.com/pinion-queue/pinion@latest -the-users-own\n" {
		t.Errorf("go was called so:\n%s", calls)
	}
	u.yesterday()
	u.release("v0.11.0")
	said := u.say() // which asks; whether it has the answer before it ends is chance
	u.idle()
	if said += u.say(); !strings.Contains(said, "v0.11.0 is out") {
		t.Errorf("the next day it said %q", said)
	}
}

func TestAnOlderVersionIsNotTold(t *testing.T) {
	for _, version := range []string{"v0.2.0", "v0.1.9", "v0.0.10"} {
		u := newUpgrades(t, answers)
		u.release(version)
		said := u.say()
		u.idle()
		if said += u.say(); said != "" {
			t.Errorf("of %s it said %q", version, said)
		}
	}
}

func TestNobodyIsAskedWhereNobodyWantsIt(t *testing.T) {
	u := newUpgrades(t, answers)
	u.release("v9.0.0")
	u.say("--no-update-check")
	u.unasked()
	for _, setting := range []string{"PINION_NO_UPDATE_CHECK=1", "PINION_NO_UPDATE_CHECK=yes", "CI=true", asVersion + "=v0.2.1-0.20260101000000-0123456789ab"} {
		cmd := u.command("version")
		cmd.Env = append(cmd.Env, setting)
		u.term.session(cmd, 0)
		u.unasked()
	}
	finish(t, u.command("version"), 0) // not on a terminal
	u.unasked()
	cmd := u.command("version")
	cmd.Stdout = new(strings.Builder) // a program reads the results
	u.term.session(cmd, 0)
	u.unasked()
	cmd = u.command("version")
	cmd.Env = append(cmd.Env, "PINION_NO_UPDATE_CHECK=0")
	u.term.session(cmd, 0)
	if _, err := os.Stat(u.stamp()); err != nil {
		t.Errorf("and where it should, it did not ask: %v", err)
	}
}

func TestAHangingGoIsKilledWithItsChildren(t *testing.T) {
	u := newUpgrades(t, `trap '' TERM INT HUP
sleep 1000 &
echo $! $$ > "$BIN/pids.new"
mv "$BIN/pids.new" "$BIN/pids"
wait
wait
`)
	await(t, new(strings.Builder), func() bool { // on a busy machine the time may be over before its first line
		if said := u.say(); said != "" {
			t.Errorf("it said %q", said)
		}
		u.idle()
		u.yesterday()
		_, err := os.Stat(filepath.Join(u.bin, "pids"))
		return err == nil
	})
	for pid := range strings.FieldsSeq(read(t, filepath.Join(u.bin, "pids"))) {
		n, err := strconv.Atoi(pid)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := os.Readlink(fmt.Sprintf("/proc/%d/cwd", n)); err == nil { // a zombie has none
			t.Errorf("process %d is left", n)
		}
	}
}

func TestWhatGoesWrongWithAHintIsNobodysConcern(t *testing.T) {
	for name, fakeGo := range map[string]string{
		"no go":        "",
		"go fails":     "echo 'go: no such module' >&2\nexit 1\n",
		"go talks":     "echo 'It is a nice day.'\n",
		"odd version":  "echo '{\"Version\": \"v1.2.3\\u001b[2J\"}'\n",
		"endless text": "yes\n",
	} {
		t.Run(name, func(t *testing.T) {
			u := newUpgrades(t, fakeGo)
			if name == "no go" {
				u.env[0] = "PATH=" + u.bin
			}
			said := u.say()
			u.idle()
			if said += u.say(); said != "" {
				t.Errorf("it said %q", said)
			}
		})
	}
	u := newUpgrades(t, answers)
	u.release("v9.0.0")
	write(t, filepath.Join(u.cache, "pinion"), "a file where a folder should be")
	if said := u.say() + u.say(); said != "" {
		t.Errorf("where no stamp can be written it said %q", said)
	}
	if _, err := os.Stat(filepath.Join(u.bin, "calls")); err == nil {
		t.Error("where no stamp can be written it asked")
	}
}

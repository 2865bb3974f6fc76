package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"
)

// At most once a day, on a terminal, the go tool is asked for the newest release, so that the user's own settings of
// proxies and privacy hold. Nobody waits for the answer: a process of its own asks, for half a second at most, and
// writes it into the stamp, and this command or a later one shows it once. The stamp is a file whose time is that of
// the last question and whose text is an answer that has not been shown.

const (
	upgradeWord = "__upgrade" // the command that asks; its operand is the stamp
	askEvery    = 24 * time.Hour
	askFor      = time.Second / 2
)

// hintAtUpgrade asks for the newest version if it is time to. What it returns shows a newer one, if that is known.
// Nothing that goes wrong here is told to anybody.
func (c *call) hintAtUpgrade() (show func()) {
	show = func() {}
	own := ownVersion()
	// A version between releases has nothing to be compared with.
	if c.noHint || truth(os.Getenv("PINION_NO_UPDATE_CHECK")) || truth(os.Getenv("CI")) || !isRelease(own) ||
		c.screen == nil || !isTerminal(c.stderr) {
		return show
	}
	dir, err := os.UserCacheDir()
	if err != nil {
		return show
	}
	stamp := filepath.Join(dir, "pinion", "update-check")
	if info, err := os.Stat(stamp); err != nil || time.Since(info.ModTime()).Abs() >= askEvery {
		// First the stamp: where none can be written, nothing would keep the next command from asking again.
		if os.MkdirAll(filepath.Dir(stamp), 0o700) != nil || os.WriteFile(stamp, nil, 0o600) != nil {
			return show
		}
		ask(stamp)
	}
	return func() {
		text, err := os.ReadFile(stamp)
		newest := strings.TrimSpace(string(text))
		if err != nil || newest == "" || os.WriteFile(stamp, nil, 0o600) != nil || !newer(newest, own) {
			return
		}
		c.stdout.Flush()
		fmt.Fprintf(c.stderr, "pinion: %s is out and this is %s; to get it: go install %s/cmd/pinion@latest\n", newest, own, modulePath)
	}
}

// truth is what an environment variable says as a switch.
func truth(s string) bool {
	no, err := strconv.ParseBool(s)
	return s != "" && (err != nil || no)
}

// ask starts the process that asks, and leaves it to itself.
func ask(stamp string) {
	self, err := os.Executable()
	if runtime.GOOS == "linux" {
		self, err = "/proc/self/exe", nil // also if that file is gone, as after --import
	}
	if err != nil {
		return
	}
	cmd := exec.Command(self, upgradeWord, stamp)
	cmd.Dir = filepath.Dir(stamp) // no module's own settings, and nobody's directory is held
	apart(cmd)
	if cmd.Start() == nil {
		cmd.Process.Release()
	}
}

// lookForUpgrade is that process.
func lookForUpgrade(ctx context.Context, operands []string) error {
	if len(operands) != 1 {
		return usagef("%s is for this command's own use", upgradeWord)
	}
	ctx, cancel := context.WithTimeout(ctx, askFor)
	defer cancel()
	cmd := exec.CommandContext(ctx, "go", "list", "-m", "-json", modulePath+"@latest")
	cmd.WaitDelay = askFor / 10
	apart(cmd)
	cmd.Cancel = func() error { return killApart(cmd) }
	var out answer
	cmd.Stdout = &out
	var latest goModule
	if cmd.Run() != nil || json.Unmarshal(out, &latest) != nil || !isRelease(latest.Version) {
		return errSaid
	}
	return os.WriteFile(operands[0], []byte(latest.Version+"\n"), 0o600)
}

// answer takes as much as an answer can be.
type answer []byte

func (a *answer) Write(p []byte) (int, error) {
	if len(*a)+len(p) > 1<<20 {
		return 0, errors.New("that is no answer")
	}
	*a = append(*a, p...)
	return len(p), nil
}

// numbers are those of a version such as v1.2.3, without what may follow; ok if it is one.
func numbers(version string) (n [3]int, rest string, ok bool) {
	version, found := strings.CutPrefix(version, "v")
	version, _, _ = strings.Cut(version, "+")
	version, rest, _ = strings.Cut(version, "-")
	parts := strings.Split(version, ".")
	if !found || len(parts) != len(n) {
		return n, rest, false
	}
	for i, part := range parts {
		number, err := strconv.ParseUint(part, 10, 31)
		if err != nil {
			return n, rest, false
		}
		n[i] = int(number)
	}
	return n, rest, true
}

// isRelease tells whether a version is that of a release, of which one may say that another is newer.
func isRelease(version string) bool {
	_, rest, ok := numbers(version)
	return ok && rest == "" && !strings.Contains(version, "+")
}

func newer(a, b string) bool {
	x, _, _ := numbers(a)
	y, _, _ := numbers(b)
	return slices.Compare(x[:], y[:]) > 0
}

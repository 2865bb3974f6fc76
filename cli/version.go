package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"time"
)

// packaged is the version for those who build from an archive, which has none:
// go build -ldflags "-X github.com/pinion-queue/pinion/cli.packaged=v1.2.3" ./cmd/pinion
var packaged string

// version is `pinion version`.
func version(c *call) func(context.Context) error {
	return func(context.Context) error {
		fmt.Fprintf(c.stdout, "pinion %s %s %s/%s\n",
			ownVersion(), runtime.Version(), runtime.GOOS, runtime.GOARCH)
		if program, own := ownProgram(); own {
			fmt.Fprintf(c.stdout, "built into %s\n", program)
		}
		return nil
	}
}

// ownVersion returns the version of Pinion in this program, of which Pinion need not be the main module.
func ownVersion() string {
	if packaged != "" {
		return packaged
	}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "(devel)"
	}
	return versionIn(info)
}

// versionIn returns the version of Pinion in a program, or "(devel)" if it is not built from a version.
func versionIn(info *debug.BuildInfo) string {
	modules := append([]*debug.Module{&info.Main}, info.Deps...)
	for _, m := range modules {
		if m.Path == modulePath && m.Version != "" && m.Replace == nil {
			return m.Version
		}
	}
	return "(devel)"
}

// ownProgram reports whether this program is somebody's own, with tasks built in, rather than the command
// pinion. It returns the module of such a program, and its version.
func ownProgram() (program string, own bool) {
	info, ok := debug.ReadBuildInfo()
	if !ok || info.Main.Path == "" {
		return "a program without a module", true
	}
	return strings.TrimSpace(info.Main.Path + " " + info.Main.Version), info.Main.Path != modulePath
}

// The update check. At most once a day, on a terminal, pinion asks the go command for the newest release, so
// that the user's settings of proxies and privacy hold. No command waits for the answer: a process of its own
// asks, for half a second at most, and writes the answer into a file, the stamp. This command or a later one
// shows it once. The time of the stamp is that of the last question, and its text is an answer that has not
// been shown.

const (
	updateWord  = "__update" // the command that asks; its operand is the stamp
	updateEvery = 24 * time.Hour
)

// updateTimeout is how long the go command may take to answer. Tests change it.
var updateTimeout = time.Second / 2

// checkForUpdate asks for the newest version if a day has passed. The function it returns shows a newer
// version, if one is known. It ignores errors, which are not worth a message.
func (c *call) checkForUpdate() (show func()) {
	nothing := func() {}
	own := ownVersion()
	if !c.isProcess || c.screen == nil || !isTerminal(c.stderr) {
		return nothing
	}
	if c.noUpdateCheck || isSet("PINION_NO_UPDATE_CHECK") || isSet("CI") {
		return nothing
	}
	if !isRelease(own) { // nothing to compare with
		return nothing
	}
	dir, err := os.UserCacheDir()
	if err != nil {
		return nothing
	}
	stamp := filepath.Join(dir, "pinion", "update-check")
	info, err := os.Stat(stamp)
	if err != nil || time.Since(info.ModTime()).Abs() >= updateEvery {
		// The stamp comes first: where it cannot be written, nothing would keep the next command from asking
		// again.
		if os.MkdirAll(filepath.Dir(stamp), 0o700) != nil || os.WriteFile(stamp, nil, 0o600) != nil {
			return nothing
		}
		startFetch(stamp)
	}
	return func() { c.showUpdate(stamp, own) }
}

// showUpdate prints the answer in the stamp, if it is newer than this program, and empties the stamp.
func (c *call) showUpdate(stamp, own string) {
	text, err := os.ReadFile(stamp)
	newest := strings.TrimSpace(string(text))
	if err != nil || newest == "" || os.WriteFile(stamp, nil, 0o600) != nil || !isNewer(newest, own) {
		return
	}
	get := "go install " + modulePath + "/cmd/pinion@latest"
	if _, isOwn := ownProgram(); isOwn {
		get = "go get " + modulePath + "@latest"
	}
	c.stdout.Flush()
	fmt.Fprintf(c.stderr, "pinion: %s is out and this is %s; to get it: %s\n", newest, own, get)
}

// isSet reports whether an environment variable switches something on.
func isSet(name string) bool {
	value := os.Getenv(name)
	on, err := strconv.ParseBool(value)
	return value != "" && (err != nil || on)
}

// startFetch starts the process that asks for the newest version and does not wait for it.
func startFetch(stamp string) {
	self, err := os.Executable()
	if runtime.GOOS == "linux" {
		self, err = "/proc/self/exe", nil // exists even if the file is deleted, as after --import
	}
	if err != nil {
		return
	}
	cmd := exec.Command(self, updateWord, stamp)
	// In this directory no settings of a module apply, and it is no obstacle to removing the current one.
	cmd.Dir = filepath.Dir(stamp)
	newSession(cmd)
	if cmd.Start() == nil {
		cmd.Process.Release()
	}
}

// fetchNewest is the command of that process.
func fetchNewest(ctx context.Context, operands []string) error {
	if len(operands) != 1 {
		return usagef("%s is for pinion's own use", updateWord)
	}
	ctx, cancel := context.WithTimeout(ctx, updateTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, "go", "list", "-m", "-json", modulePath+"@latest")
	cmd.WaitDelay = updateTimeout / 10
	newSession(cmd)
	cmd.Cancel = func() error {
		killGroup(cmd.Process)
		return nil
	}
	var answer limitedBuffer
	cmd.Stdout = &answer
	if cmd.Run() != nil {
		return errReported
	}
	var newest goModule
	if json.Unmarshal(answer, &newest) != nil || !isRelease(newest.Version) {
		return errReported
	}
	return os.WriteFile(operands[0], []byte(newest.Version+"\n"), 0o600)
}

// limitedBuffer refuses to grow beyond 1 MiB.
type limitedBuffer []byte

func (b *limitedBuffer) Write(p []byte) (int, error) {
	if len(*b)+len(p) > 1<<20 {
		return 0, errors.New("too much output")
	}
	*b = append(*b, p...)
	return len(p), nil
}

// parseVersion returns the numbers of a version such as v1.2.3 and what follows a "-". It does not compare
// what follows, because only releases are compared.
func parseVersion(version string) (numbers [3]int, suffix string, ok bool) {
	version, found := strings.CutPrefix(version, "v")
	version, suffix, _ = strings.Cut(version, "-")
	parts := strings.Split(version, ".")
	if !found || len(parts) != len(numbers) {
		return numbers, suffix, false
	}
	for i, part := range parts {
		number, err := strconv.ParseUint(part, 10, 31)
		if err != nil {
			return numbers, suffix, false
		}
		numbers[i] = int(number)
	}
	return numbers, suffix, true
}

// isRelease reports whether version is a release, such as v1.2.3, and not a version between releases.
func isRelease(version string) bool {
	_, suffix, ok := parseVersion(version)
	return ok && suffix == ""
}

// isNewer reports whether release a is newer than release b.
func isNewer(a, b string) bool {
	x, _, _ := parseVersion(a)
	y, _, _ := parseVersion(b)
	return slices.Compare(x[:], y[:]) > 0
}

//go:build unix

package crashlab

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// BuildWithClock builds the test binary of the package in the current folder so that its processes can be children of
// a Lab with Clocks, and returns its path. Nobody can set the clock of the machine for a test, and no namespace has a
// wall clock of its own. So the binary gets a package time whose Now adds what the laboratory says; its monotonic
// clock and its timers stay as they are, which is what setting a clock does. Almost everything is compiled again,
// which takes minutes.
func BuildWithClock(ctx context.Context, dir string) (program string, err error) {
	goroot, err := exec.CommandContext(ctx, "go", "env", "GOROOT").Output()
	if err != nil {
		return "", fmt.Errorf("crashlab: go env GOROOT: %w", err)
	}
	source := filepath.Join(strings.TrimSpace(string(goroot)), "src", "time", "time.go")
	text, err := os.ReadFile(source)
	if err != nil {
		return "", err
	}
	const read = "\tsec, nsec, mono := runtimeNow()\n"
	before, after, found := strings.Cut(string(text), "func Now() Time {\n"+read)
	if !found {
		return "", errors.New("crashlab: time.Now of this Go does not begin as expected; change BuildWithClock")
	}
	changed := before + "var labShift *int64 // seconds\n\nfunc SetLabShift(seconds *int64) { labShift = seconds }\n\n" +
		"func Now() Time {\n" + read + "\tif labShift != nil {\n\t\tsec += *labShift\n\t}\n" + after
	replacement := filepath.Join(dir, "time.go")
	if err := os.WriteFile(replacement, []byte(changed), 0o600); err != nil {
		return "", err
	}
	overlay, err := json.Marshal(map[string]map[string]string{"Replace": {source: replacement}})
	if err != nil {
		return "", err
	}
	overlayPath := filepath.Join(dir, "overlay.json")
	if err := os.WriteFile(overlayPath, overlay, 0o600); err != nil {
		return "", err
	}
	program = filepath.Join(dir, "clock.test")
	cmd := exec.CommandContext(ctx, "go", "test", "-c", "-tags", "pinionclock",
		"-overlay", overlayPath, "-o", program, ".")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("crashlab: go test -c: %w\n%s", err, out)
	}
	return program, nil
}

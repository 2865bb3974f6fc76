package browser

import (
	"bufio"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/pinion-queue/pinion/web/internal/chromium"
)

// pinionWeb runs "pinion web" on the file of a house and returns the address that it prints.
func (h *house) pinionWeb(t *testing.T, args ...string) string {
	t.Helper()
	binary := filepath.Join(t.TempDir(), "pinion")
	build := exec.CommandContext(t.Context(), "go", "build", "-o", binary, "github.com/pinion-queue/pinion/cmd/pinion")
	out, err := build.CombinedOutput()
	if err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	command := exec.Command(binary, append([]string{"web", "--db", h.path, "--listen", "127.0.0.1:0"}, args...)...)
	command.Stderr = os.Stderr
	stdout, err := command.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	err = command.Start()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		command.Process.Signal(os.Interrupt)
		command.Wait() // how it ends is tested in cli
	})
	line, err := bufio.NewReader(stdout).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(line)
}

func TestPinionWebLetsInWhoHasTheAddressItPrints(t *testing.T) {
	b := browser(t)
	h := newHouse(t, "", nil)
	address := h.pinionWeb(t, "--write")
	base, token, found := strings.Cut(address, "?")
	if !found || len(token) < 20 {
		t.Fatalf("the address has no token: %s", address)
	}
	for queue, view := range map[string]chromium.View{"mail": {}, "reports": {NoScript: true}} {
		p := newTab(t, b, view, address)
		p.sees("charge_card")
		if strings.Contains(p.address(), token) {
			t.Errorf("%v: the token stays in the address %s", view, p.address())
		}
		if cookie := eval[string](p, `() => document.cookie`); cookie != "" {
			t.Errorf("%v: scripts can read the cookie %s", view, cookie)
		}
		p.follow(`a[href*="do/pause"][href*="`+queue+`"]`, "pause")
		p.follow("button", "Pause the queue")
		p.sees("Paused the queue " + queue + ".")
		p.accessible()

		stranger := newTab(t, b, view, base)
		stranger.expected = refusals
		stranger.seesNot("charge_card", "mail")
		stranger.accessible()
		stranger.open(strings.Replace(address, "127.0.0.1", "prizes.example", 1))
		stranger.seesNot("charge_card", "mail")
	}
}

package pinionprom_test

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
)

// What a reader copies from the README must compile against this checkout, run, and answer a scrape.
func TestTheProgramInTheREADMERuns(t *testing.T) {
	dir := t.TempDir()
	text, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, started := strings.Cut(string(text), "\n```go\n")
	program, _, ended := strings.Cut(rest, "```\n")
	if !started || !ended {
		t.Fatal("README.md has no block of go")
	}
	address := freeAddress(t)
	program = strings.Replace(program, "localhost:2112", address, 1)
	source := filepath.Join(dir, "main.go")
	if err := os.WriteFile(source, []byte(program), 0o600); err != nil {
		t.Fatal(err)
	}
	binary := filepath.Join(dir, "program")
	if out, err := exec.CommandContext(t.Context(), "go", "build", "-o", binary, source).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}

	cmd := exec.CommandContext(t.Context(), binary)
	cmd.Dir = dir
	stderr := new(bytes.Buffer)
	cmd.Stderr = stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	gone := make(chan error, 1)
	go func() { gone <- cmd.Wait() }()
	for !succeededOnce(t, "http://"+address+"/metrics") {
		select {
		case err := <-gone:
			t.Fatalf("the program has ended: %v\n%s", err, stderr)
		case <-time.After(10 * time.Millisecond): // another process: there is no event to wait for
		}
	}
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := <-gone; err != nil {
		t.Errorf("the program ends with %v\n%s", err, stderr)
	}
}

// freeAddress returns an address of this machine where nobody listens.
func freeAddress(t *testing.T) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	return fmt.Sprint(listener.Addr())
}

// succeededOnce reports whether a scrape says that the task greet has succeeded once.
func succeededOnce(t *testing.T, url string) bool {
	t.Helper()
	response, err := http.Get(url)
	if err != nil {
		return false // it does not listen yet
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		reason, _ := io.ReadAll(response.Body)
		t.Fatalf("the scrape says %s: %s", response.Status, reason)
	}
	parser := expfmt.NewTextParser(model.UTF8Validation)
	families, err := parser.TextToMetricFamilies(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return values(families["pinion_jobs_total"])["outcome=succeeded queue=default task=greet"] == 1
}

package postgres

import (
	"context"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/pinion-queue/pinion"
)

func TestItPassesCheckStorage(t *testing.T) {
	for name, opts := range map[string]*Options{"by default": nil, "without listening": {NoListen: true}} {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
			defer cancel()
			url := schemaURL(t)
			if err := pinion.CheckStorage(ctx, func() (pinion.Storage, error) { clear(t, url); return Open(ctx, url, opts) }); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestOptionsThatCannotBeMeantAreErrors(t *testing.T) {
	for _, c := range []struct {
		url, want string
		opts      Options
	}{
		{"postgres://u:secret@127.0.0.1:1/x?sslmode=nonsense", "sslmode", Options{}},
		{"postgres://127.0.0.1:1/x?pinion_listen=no", "pinion_listen", Options{}},
		{"postgres://127.0.0.1:1/x?pinion_schema=" + strings.Repeat("x", 51), "at most 50", Options{}},
		{"postgres://127.0.0.1:1/x", "schema", Options{Schema: "a\x00"}},
		{"postgres://127.0.0.1:1/x", "MaxConns", Options{MaxConns: -1}},
		{"postgres://127.0.0.1:1/x", "PollInterval", Options{PollInterval: -1}},
	} {
		_, err := Open(t.Context(), c.url, &c.opts)
		if err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "secret") {
			t.Errorf("%s, %+v: got %v", c.url, c.opts, err)
		}
	}
	// From the scheme comes no interface around a nil pointer.
	if s, err := pinion.Open(t.Context(), "postgresql://127.0.0.1:1/x?pinion_listen=no"); s != nil || err == nil {
		t.Errorf("got %v, %v", s, err)
	}
}

func TestTheCommandLineWorksWithTheSchemes(t *testing.T) {
	url := schemaURL(t)
	pinionCommand := func(words ...string) string {
		t.Helper()
		cmd := exec.CommandContext(t.Context(), "go",
			append([]string{"run", "github.com/pinion-queue/pinion/cmd/pinion"}, words...)...)
		cmd.Args = append(cmd.Args, "--db", strings.Replace(url, "postgres:", "postgresql:", 1),
			"--import", "github.com/pinion-queue/pinion/postgres")
		var log strings.Builder
		cmd.Stderr = &log
		out, err := cmd.Output()
		if err != nil {
			t.Fatalf("%s: %v\n%s%s", words, err, out, log.String())
		}
		return string(out)
	}
	pinionCommand("enqueue", "add", "--args", "[1, 2]")
	if out := pinionCommand("worker", "--drain", "--exec", "add=cat"); !strings.Contains(out, "succeeded      1\n") {
		t.Errorf("the worker says\n%s", out)
	}
}

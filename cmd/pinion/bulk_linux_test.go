package main

import (
	"path/filepath"
	"strings"
	"testing"
)

func TestATerminalShowsHowFarAFeedIs(t *testing.T) {
	term, dir := newTerminal(t, 80), t.TempDir()
	write(t, filepath.Join(dir, "lines"), "1\n[\n2\n")
	cmd := process(t, dir, "")
	cmd.Path, cmd.Args = "/bin/sh", []string{"sh", "-c", `"$0" enqueue x - --lines --db q.db < lines && cat lines | "$0" enqueue x - --db q.db`, cmd.Path}
	text := term.session(cmd, 1)
	wantText(t, text, `^\r3 enqueued, [\d,]+/s\x1b\[K\r\x1b\[Kenqueued 3 jobs in \d\.\ds\n`+
		"pinion: line 1: neither .*\npinion: line 2: .*\npinion: line 3: .*\nenqueued 0 jobs in .*\npinion: 3 lines are bad; .pinion help enqueue")
}

func TestLinesMayBeTyped(t *testing.T) {
	term, dir := newTerminal(t, 80), t.TempDir()
	cmd := process(t, dir, "enqueue", "add", "-", "--db", "q.db")
	term.start(cmd)
	term.await("reading jobs from the terminal, a line each; .D ends")
	term.typed("[1]\n")
	term.await("1 enqueued")
	term.typed("\x04")
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
	term.await("enqueued 1 job in")
	wantStored(t, filepath.Join(dir, "q.db"), []string{"[1]"})
}

func TestPurgingAsksOnATerminal(t *testing.T) {
	term, dir := newTerminal(t, 80), exampleFolder(t)
	for _, c := range []struct {
		typed, said string
		status      int
	}{
		{"\n", "1 dead letter would be deleted for good, and nothing was", 1},
		{"no\n", "nothing was", 1},
		{"\x04", "nothing was", 1},
		{"y\n", "purged 1", 0},
	} {
		cmd := process(t, dir, "dlq-purge", "--db", "q.db")
		term.start(cmd)
		asked := strings.Count(term.await(`Do it\? \[y/N\] $`), "Do it?")
		term.typed(c.typed)
		cmd.Wait()
		if got := cmd.ProcessState.ExitCode(); got != c.status {
			t.Errorf("%q, asked %d times: exit status %d, want %d", c.typed, asked, got, c.status)
		}
		term.await(c.said + `.*\r?\n$`)
	}
}

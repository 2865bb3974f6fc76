package cli

import (
	"path/filepath"
	"testing"
)

func TestATerminalShowsTheProgressOfAFeed(t *testing.T) {
	t.Parallel()
	term, dir := newTerminal(t, 80), t.TempDir()
	write(t, filepath.Join(dir, "lines"), "1\n[\n2\n")
	cmd := process(t, dir, "")
	script := `"$0" enqueue x - --lines --db q.db < lines && cat lines | "$0" enqueue x - --db q.db`
	cmd.Path, cmd.Args = "/bin/sh", []string{"sh", "-c", script, cmd.Path}
	text := term.session(cmd, 1)
	wantText(t, text, `^\r3 enqueued, [\d,]+/s\x1b\[K\r\x1b\[Kenqueued 3 jobs in \S+s\n`+
		`pinion: line 1: not .*\npinion: line 2: .*\npinion: line 3: .*\n`+
		`enqueued 0 jobs in .*\npinion: 3 lines are bad; .pinion help enqueue`)
}

func TestLinesMayBeTyped(t *testing.T) {
	t.Parallel()
	term, dir := newTerminal(t, 80), t.TempDir()
	cmd := process(t, dir, "enqueue", "add", "-", "--db", "q.db")
	term.start(cmd)
	term.await("reading jobs from the terminal, one a line; .D ends")
	term.typed("[1]\n")
	term.await("1 enqueued")
	term.typed("\x04")
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
	term.await("enqueued 1 job in")
	wantStored(t, filepath.Join(dir, "q.db"), []string{"[1]"})
}

package cli

import "testing"

func TestPurgingAsksOnATerminal(t *testing.T) {
	t.Parallel()
	term, dir := newTerminal(t, 80), exampleFolder(t)
	for _, c := range []struct {
		typed, want string
		status      int
	}{
		{"\n", "1 dead letter is not deleted; add --yes", 1},
		{"no\n", "1 dead letter is not deleted", 1},
		{"\x04", "1 dead letter is not deleted", 1},
		{"\x03", "pinion: interrupted", -1}, // it dies of the signal
		{"y\n", "purged 1", 0},
	} {
		cmd := process(t, dir, "dlq-purge", "--db", "q.db")
		term.start(cmd)
		term.await(`This deletes 1 dead letter. Continue\? \[y/N\] $`)
		term.typed(c.typed)
		cmd.Wait()
		if got := cmd.ProcessState.ExitCode(); got != c.status {
			t.Errorf("%q: exit status %d, want %d", c.typed, got, c.status)
		}
		term.await(c.want + `.*\r?\n$`)
	}
}

package cli

import (
	"path/filepath"
	"testing"

	"github.com/pinion-queue/pinion"
)

// What a job prints is data. A terminal must not obey it, and a file gets it as it is.
func TestATerminalObeysNothingInALog(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	storage := openStorage(t, filepath.Join(dir, "q.db"))
	job := pinion.NewJob("evil")
	if err := storage.Enqueue(t.Context(), job); err != nil {
		t.Fatal(err)
	}
	const text = "a\tb\x1b[2J\x1b]0;title\a\xff\u202e\n50 %\rdone\nlast"
	write(t, filepath.Join(dir, "text"), text)
	finish(t,
		process(t, dir, "worker", "--logs", "--no-chdir", "--exec", "evil=cat text", "--drain", "--db", "q.db"), 0)

	piped, _ := finish(t, process(t, dir, "logs", job.ID, "--db", "q.db"), 0)
	if piped != text {
		t.Errorf("a pipe gets %q, want %q", piped, text)
	}
	for _, flags := range [][]string{nil, {"--follow"}} {
		shown := newTerminal(t, 80).session(
			process(t, dir, append([]string{"logs", job.ID, "--db", "q.db"}, flags...)...), 0)
		const want = "a\tb\\x1b[2J\\x1b]0;title\\a\\xff\\u202e\n50 %\\rdone\nlast"
		if shown != want {
			t.Errorf("%v: a terminal gets %q, want %q", flags, shown, want)
		}
	}
}

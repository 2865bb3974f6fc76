package cli

import (
	"os"
	"path/filepath"
	"testing"
)

// zsh completes only in a line that somebody types.
func TestZshCompletesOnATerminal(t *testing.T) {
	t.Parallel()
	dir := exampleFolder(t)
	term := newTerminal(t, 120)
	cmd := process(t, dir, "-f", "-i")
	cmd.Path, cmd.Args[0] = shell(t, "zsh"), "zsh"
	path := filepath.Join(dir, "bin") + ":" + os.Getenv("PATH")
	cmd.Env = append(cmd.Env, "PATH="+path, "HOME="+dir, "ZDOTDIR="+dir, "PS1=$ ", "TERM=dumb")
	term.start(cmd)
	// ^T prints the line as zsh has it, and empties it.
	write(t, filepath.Join(dir, "setup"), `
autoload -U compinit && compinit -u -D && source <(pinion completion zsh)
show() { zle -I; print -r -- "line: $BUFFER"; BUFFER= }
zle -N show
bindkey '^T' show
echo ready
`)
	term.typed(". ./setup\n")
	term.await(`ready\r?\n`)
	for _, c := range []struct{ typed, want string }{
		{"pinion enq\t", "pinion enqueue "},
		{"pinion enqueue --prio\t", "pinion enqueue --priority "},
		{"pinion dlq-replay --db q.db 0199\t", "pinion dlq-replay --db q.db " + exampleID},
		{"pinion dlq-list --db=q.db --task=m\t", "pinion dlq-list --db=q.db --task=mail"},
		{"pinion status --db q\t", "pinion status --db q.db"},
		{"pinion status --db=q\t", "pinion status --db=q.db"},
	} {
		term.typed(c.typed + "\x14")
		term.await("line: " + c.want)
	}
	term.typed("exit\n")
	cmd.Wait()
}

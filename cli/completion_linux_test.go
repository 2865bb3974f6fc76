package cli

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/pinion-queue/pinion"
)

// TestShellsInsertNamesAsTheyAre types a line on a terminal up to the name of a queue, then TAB and Enter, and looks at
// the arguments that the command gets.
func TestShellsInsertNamesAsTheyAre(t *testing.T) {
	t.Parallel()
	queues := t.TempDir()
	for i, name := range hostileNames {
		enqueueInto(t, filepath.Join(queues, fmt.Sprint(i, ".db")), name)
	}
	for name, args := range map[string][]string{
		"bash": {"--norc", "--noprofile", "-i"}, "zsh": {"-f", "-i"}, "fish": {"--no-config", "-i"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			if err := os.CopyFS(dir, os.DirFS(queues)); err != nil {
				t.Fatal(err)
			}
			sh := startShell(t, dir, name, args)
			for i, name := range hostileNames {
				if sh.name == "fish" && strings.HasPrefix(name, "~") {
					continue // not offered
				}
				first, _, _ := strings.Cut(name, strings.TrimLeft(name, "abcdefghijklmnopqrstuvwxyz"))
				styles := []string{"--queue=", `--queue '`, `--queue "`, "--queue " + first}
				for _, typed := range []string{"--queue ", styles[i%len(styles)]} {
					if strings.HasPrefix(typed, "--queue=") && strings.HasPrefix(name, "~") && sh.name != "bash" {
						continue // they leave a ~ in the middle of a word as it is, quoted or not
					}
					got := sh.complete(fmt.Sprintf("pinion list --db %d.db %s", i, typed))
					want := []string{"list", "--db", fmt.Sprint(i, ".db"), "--queue", name}
					if typed == "--queue=" {
						want = []string{"list", "--db", fmt.Sprint(i, ".db"), "--queue=" + name}
					}
					if got != "<"+strings.Join(want, "><")+">" {
						t.Errorf("%s, typed %s: the command got %s, want the queue %s", sh.name, typed, got, name)
					}
				}
			}
			if exists(filepath.Join(dir, "PWNED")) {
				t.Error("the shell ran the name of a queue")
			}
			sh.typed("exit\n")
			sh.cmd.Wait()
		})
	}
}

func enqueueInto(t *testing.T, db, queue string) {
	t.Helper()
	storage, err := pinion.OpenSQLite(t.Context(), db, nil)
	if err != nil {
		t.Fatal(err)
	}
	err = storage.Enqueue(t.Context(), &pinion.Job{Task: "add", Queue: queue})
	if err := errors.Join(err, storage.Close()); err != nil {
		t.Fatal(err)
	}
}

// typedShell is a shell on a terminal, in which pinion prints the arguments that it gets.
type typedShell struct {
	*terminal
	name string
	cmd  *exec.Cmd
}

func startShell(t *testing.T, dir, name string, args []string) *typedShell {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	writeProgram(t, filepath.Join(dir, "bin/pinion"), `#!/bin/sh
case $1 in __complete* | completion) exec `+shellWord(self)+` "$@" ;; esac
printf 'got:'
for arg; do printf '<%s>' "$arg"; done
echo :end
`)
	cmd := process(t, dir, args...)
	cmd.Path, cmd.Args[0] = shell(t, name), name
	path := filepath.Join(dir, "bin") + ":" + os.Getenv("PATH")
	cmd.Env = append(cmd.Env, "PATH="+path, "HOME="+dir, "ZDOTDIR="+dir, "XDG_CONFIG_HOME="+dir, "PS1=$ ", "TERM=dumb",
		"LC_ALL=C.UTF-8") // without UTF-8 zsh takes a name within double quotes apart, into bytes
	sh := &typedShell{terminal: newTerminal(t, 500), name: name, cmd: cmd}
	sh.start(cmd)
	setup := map[string]string{
		"bash": "source <(pinion completion bash)",
		"zsh":  "autoload -U compinit && compinit -u -D && source <(pinion completion zsh)",
		"fish": "pinion completion fish | source",
	}
	sh.typed(setup[name] + "; echo rea''dy\n")
	sh.await(`ready\r?\n`)
	return sh
}

// complete types a line, TAB and Enter, and returns the arguments that the command got.
func (sh *typedShell) complete(line string) string {
	sh.t.Helper()
	from := sh.printed()
	sh.typed(line + "\t\n")
	text := sh.awaitSince(from, `(?s)got:.*:end`)
	_, text, _ = strings.Cut(text, "got:")
	text, _, _ = strings.Cut(text, ":end")
	return text
}

// zsh completes only in a line that somebody types.
func TestZshCompletesOnATerminal(t *testing.T) {
	t.Parallel()
	dir := exampleFolder(t)
	term := newTerminal(t, 120)
	cmd := process(t, dir, "-f", "-i")
	cmd.Path, cmd.Args[0] = shell(t, "zsh"), "zsh"
	path := filepath.Join(dir, "bin") + ":" + os.Getenv("PATH")
	cmd.Env = append(cmd.Env, "PATH="+path, "HOME="+dir, "ZDOTDIR="+dir, "PS1=$ ", "TERM=dumb",
		"LC_ALL=C.UTF-8") // without UTF-8 zsh takes a name within double quotes apart, into bytes
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

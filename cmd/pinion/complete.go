package main

import (
	"context"
	"flag"
	"fmt"
	"iter"
	"slices"
	"strings"
	"time"

	"github.com/pinion-queue/pinion"
)

// A shell that completes asks this command each time, so that it knows of every command and flag there is, and of
// what is in the queue that the line names. What the shell gets is a line for each candidate, a tab and what that
// means, or one of these where it is to complete names of files itself.
const (
	completeWord        = "__complete" // the command that is asked; its operands are the words up to the one to complete
	completeFiles       = ":files"
	completeDirectories = ":directories"
)

const completionDetail = `
SHELL is bash, zsh or fish. What is printed makes that shell complete commands,
flags and files, and the ids, tasks and queues of the database that the line or
PINION_DB names. To have it in every shell, put one of these into ~/.bashrc or
~/.zshrc (behind compinit), or let fish find it:

  source <(pinion completion bash)
  source <(pinion completion zsh)
  pinion completion fish > ~/.config/fish/completions/pinion.fish
`

const completionExamples = `pinion completion bash
pinion completion zsh
pinion completion fish`

var completions = map[string]string{
	"bash": `_pinion() {
	local cur=${COMP_WORDS[COMP_CWORD]} line
	[ "$cur" = = ] && cur=
	COMPREPLY=()
	while IFS= read -r line; do
		case $line in
		:files | :directories)
			compopt -o filenames 2>/dev/null
			local kind=-f
			[ "$line" = :directories ] && kind=-d
			while IFS= read -r line; do COMPREPLY+=("$line"); done < <(compgen "$kind" -- "$cur")
			;;
		*) COMPREPLY+=("${line%%$'\t'*}") ;;
		esac
	done < <("${COMP_WORDS[0]}" __complete "${COMP_WORDS[@]:1:COMP_CWORD}" 2>/dev/null)
}
complete -F _pinion pinion
`,
	"zsh": `#compdef pinion
_pinion() {
	local line
	local -a found
	while IFS= read -r line; do
		case $line in
		:files) compset -P '--*='; _files ;;
		:directories) compset -P '--*='; _files -/ ;;
		*) found+=("${${line%%$'\t'*}//:/\\:}:${line#*$'\t'}") ;;
		esac
	done < <("${words[1]}" __complete "${(@Q)words[2,CURRENT]}" 2>/dev/null)
	(( $#found )) && _describe pinion found
}
if [ "$funcstack[1]" = _pinion ]; then
	_pinion "$@"
else
	compdef _pinion pinion
fi
`,
	"fish": `function __pinion_complete
	set -l words (commandline -opc)
	set -l last (commandline -ct)
	for line in ($words[1] __complete $words[2..] "$last" 2>/dev/null)
		set -l flag (string match -r -- '^--[^=]*=' "$last")
		set -l begun (string replace -r -- '^--[^=]*=' '' "$last")
		switch $line
			case :files
				printf "$flag%s\n" (__fish_complete_path "$begun")
			case :directories
				printf "$flag%s\n" (__fish_complete_directories "$begun")
			case '*'
				echo $line
		end
	end
end
complete -c pinion -f -a '(__pinion_complete)'
`,
}

func completion(c *call) func(context.Context) error {
	return func(context.Context) error {
		script := completions[c.operands[0]]
		if script == "" {
			return usagef("no completion for %q; the shells are bash, zsh and fish", c.operands[0])
		}
		fmt.Fprint(c.stdout, script)
		return nil
	}
}

// complete prints the candidates for the last of the words.
func (c *call) complete(ctx context.Context, words []string) error {
	if len(words) == 0 {
		words = []string{""}
	}
	done, current := words[:len(words)-1], words[len(words)-1]
	if len(done) == 0 {
		for _, cmd := range commands() {
			c.candidate(current, cmd.name, cmd.about)
		}
		return nil
	}
	if _, err := c.prepare(done[0]); err != nil {
		return nil // what follows a word that is no command is anybody's guess
	}
	done = done[1:]
	if n := len(done); current == "=" { // bash makes three words of --db=q.db
		current = ""
	} else if n > 0 && done[n-1] == "=" {
		done = done[:n-1]
	}
	var pending *flag.Flag // whose value comes next
	operands, dashes := 0, false
	for _, word := range done {
		name, value, inline := strings.Cut(strings.TrimLeft(word, "-"), "=")
		switch f := c.flags.Lookup(name); {
		case pending != nil:
			if word != "=" {
				pending.Value.Set(strings.Trim(word, `'"`))
				pending = nil
			}
		case dashes || len(word) < 2 || word[0] != '-':
			operands++
		case word == "--":
			dashes = true
		case f == nil:
		case inline:
			f.Value.Set(strings.Trim(value, `'"`))
		case !isBool(f):
			pending = f
		}
	}
	ctx, cancel := context.WithTimeout(ctx, time.Second/2) // somebody waits at a prompt
	defer cancel()
	name, value, inline := strings.Cut(strings.TrimLeft(current, "-"), "=")
	switch f := c.flags.Lookup(name); {
	case pending != nil:
		c.values(ctx, "", current, valueOf(pending))
	case !strings.HasPrefix(current, "-") || dashes || current == "-" && c.takesDash(operands):
		c.values(ctx, "", current, c.operand(operands))
	case inline && f != nil:
		c.values(ctx, current[:len(current)-len(value)], value, valueOf(f))
	default:
		c.eachFlag(func(f *flag.Flag) {
			_, usage := flag.UnquoteUsage(f)
			c.candidate(current, dashed(f), usage)
		})
	}
	return nil
}

// operand is what the nth operand is, counted from 0.
func (c *call) operand(n int) string {
	words := strings.Fields(c.command.operands)
	if len(words) == 0 || n >= len(words) && !strings.Contains(words[len(words)-1], "...") {
		return ""
	}
	return strings.TrimSuffix(strings.Trim(words[min(n, len(words)-1)], "[]"), "...")
}

func (c *call) takesDash(n int) bool { return c.operand(n) == "-" }

// valueOf is what a flag's value is.
func valueOf(f *flag.Flag) string {
	switch f.Name {
	case "task", "queue":
		return strings.ToUpper(f.Name)
	}
	name, _ := flag.UnquoteUsage(f)
	return name
}

// candidate prints a word that begins with what is there already.
func (c *call) candidate(begun, word, about string) {
	if strings.HasPrefix(word, begun) && !strings.ContainsAny(word, "\t\n") && printable(word, "") == word {
		fmt.Fprintf(c.stdout, "%s\t%s\n", word, clip(printable(about, ""), 60))
	}
}

// values prints the candidates for a value of some kind, each behind prefix.
func (c *call) values(ctx context.Context, prefix, begun, kind string) {
	offer := func(word, about string) { c.candidate(prefix+begun, prefix+word, about) }
	switch kind {
	case "FILE":
		fmt.Fprintln(c.stdout, completeFiles)
	case "PACKAGE":
		fmt.Fprintln(c.stdout, completeDirectories)
	case "-":
		offer("-", "a job for each line of standard input")
	case "COMMAND":
		for _, cmd := range commands() {
			offer(cmd.name, cmd.about)
		}
	case "SHELL":
		for _, shell := range []string{"bash", "zsh", "fish"} {
			offer(shell, "")
		}
	case "TASK", "QUEUE", "ID":
		if kind == "TASK" {
			for _, name := range pinion.DefaultRegistry.Names() {
				offer(name, "a task of this command's own")
			}
		}
		if c.db == "" {
			return
		}
		c.inspect(ctx, reads, func(storage pinion.Inspector) error { // who completes cannot be told of errors
			c.stored(ctx, storage, begun, kind, offer)
			return nil
		})
	}
}

// stored offers what a storage has of some kind, as far as a look at a part of it shows that.
func (c *call) stored(ctx context.Context, storage pinion.Inspector, begun, kind string, offer func(word, about string)) {
	if kind == "QUEUE" {
		stats, _ := storage.Stats(ctx)
		for _, q := range stats.Queues {
			offer(q.Queue, fmt.Sprintf("%d pending", q.Pending))
		}
		return
	}
	const looked, most = 2000, 100
	var sources []iter.Seq2[*pinion.Job, error]
	if !strings.HasPrefix(c.command.name, "dlq-") {
		for _, status := range []pinion.Status{pinion.StatusRunning, pinion.StatusPending} {
			sources = append(sources, storage.Jobs(ctx, pinion.Filter{Status: status, Limit: looked}))
		}
	}
	if c.command.name != "cancel" {
		sources = append(sources, storage.DeadLetters(ctx, pinion.Filter{Limit: looked}))
	}
	if c.command.name == "show" {
		sources = append(sources, storage.Jobs(ctx, pinion.Filter{Status: pinion.StatusSuccess, Limit: looked}))
	}
	var seen []string
	for _, jobs := range sources {
		for job, err := range jobs {
			if err != nil || len(seen) == most {
				break
			}
			word, about := job.ID, strings.ToLower(string(job.Status))+" "+job.Task
			if kind == "TASK" {
				word, about = job.Task, ""
			}
			if strings.HasPrefix(word, begun) && !slices.Contains(seen, word) && !slices.Contains(c.operands, word) {
				seen = append(seen, word)
				offer(word, about)
			}
		}
	}
}

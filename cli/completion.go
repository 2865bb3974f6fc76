package cli

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

// A shell that completes a line runs one of these commands each time, so it knows all commands and flags, and
// what is in the queue that the line names. The command prints a line for each candidate, or one of the two
// lines that make the shell complete the names of files itself.
//
// Names in a queue may be anything, and a shell would run a $(…) that it inserts unquoted. zsh and fish quote
// what they insert. They pass the words up to the one to complete, without their quotes, and get each
// candidate with a tab before its explanation. bash inserts what it gets. It passes the line, and gets the
// candidates as they are to stand in that.
const (
	completeWord        = "__complete"
	completeBashWord    = "__complete-bash"
	completeFiles       = ":files"
	completeDirectories = ":directories"
)

// completionTimeout is how long a completion may take, because the user waits at the prompt. Tests change it.
var completionTimeout = time.Second / 2

const completionDetail = `
SHELL is bash, zsh or fish. The script makes that shell complete commands, flags
and files, and the ids, tasks and queues of the database that the line or PINION_DB
names. To have it in every shell, put one of the first two lines into ~/.bashrc or
~/.zshrc (after compinit), or write the script where fish finds it:

  source <(pinion completion bash)
  source <(pinion completion zsh)
  pinion completion fish > ~/.config/fish/completions/pinion.fish
`

const completionExamples = `pinion completion bash
pinion completion zsh
pinion completion fish`

var completions = map[string]string{
	"bash": `_pinion() {
	local line
	COMPREPLY=()
	while IFS= read -r line; do
		case $line in
		:files) compopt -o default ;;
		:directories) compopt -o dirnames ;;
		*) COMPREPLY+=("$line") ;;
		esac
	done < <("${COMP_WORDS[0]}" __complete-bash "${COMP_LINE:0:COMP_POINT}" "$COMP_WORDBREAKS" 2>/dev/null)
}
if type compopt >/dev/null 2>&1; then
	complete -F _pinion pinion
else # before bash 4
	compopt() { :; }
	complete -o default -F _pinion pinion
fi
`,
	"zsh": `#compdef pinion
_pinion() {
	local line
	local -a found shown
	while IFS= read -r line; do
		case $line in
		:files) compset -P '--*='; _files ;;
		:directories) compset -P '--*='; _files -/ ;;
		*)
			found+=("${line%%$'\t'*}")
			shown+=("${line/$'\t'/  -- }")
			;;
		esac
	done < <("${(Q)words[1]}" __complete "${(@Q)words[2,CURRENT-1]}" "${(Q)PREFIX}" 2>/dev/null)
	(( $#found )) && compadd -l -d shown -a found
}
if [ "$funcstack[1]" = _pinion ]; then
	_pinion "$@"
else
	compdef _pinion pinion
fi
`,
	"fish": `function __pinion_complete
	set -l words (commandline -opc)
	set -l typed (commandline -ct)
	set -l last (string unescape -- "$typed"; or string unescape -- "$typed'"; or string unescape -- "$typed\"")
	for line in ($words[1] __complete $words[2..] "$last" 2>/dev/null)
		set -l flag (string match -r -- '^--[^=]*=' "$last")
		set -l begun (string replace -r -- '^--[^=]*=' '' "$last")
		switch $line
			case :files
				printf '%s\n' "$flag"(__fish_complete_path "$begun")
			case :directories
				printf '%s\n' "$flag"(__fish_complete_directories "$begun")
			case '~*' # fish leaves a ~ at the beginning unquoted
			case '*'
				printf '%s\n' $line
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
			return usagef("no completion for the shell %q; want bash, zsh or fish", c.operands[0])
		}
		fmt.Fprint(c.stdout, script)
		return nil
	}
}

// completeBash prints the candidates for the end of a line of bash. breaks are COMP_WORDBREAKS.
func (c *call) completeBash(ctx context.Context, operands []string) error {
	if len(operands) != 2 {
		return usagef("%s is for the completion of bash", completeBashWord)
	}
	words, current, isFile := splitBash(operands[0])
	if isFile {
		fmt.Fprintln(c.stdout, completeFiles)
		return nil
	}
	if len(words) == 0 {
		return nil // still the name of the command
	}
	_, before, open := current.replaced(operands[1])
	c.show = func(word, _ string) {
		rest, ok := strings.CutPrefix(word, before)
		if ok {
			fmt.Fprintln(c.stdout, insertBash(rest, open))
		}
	}
	return c.complete(ctx, append(words[1:], current.text))
}

// complete prints the candidates for the last of the words.
func (c *call) complete(ctx context.Context, words []string) error {
	if len(words) == 0 {
		words = []string{""}
	}
	before, current := words[:len(words)-1], words[len(words)-1]
	if len(before) == 0 {
		c.completeCommand(current)
		return nil
	}
	if _, err := c.prepare(before[0]); err != nil {
		return nil // there is no such command, so any word may follow
	}
	before = before[1:]
	ctx, cancel := context.WithTimeout(ctx, completionTimeout)
	defer cancel()
	line := c.readLine(before)
	if line.valueOf != nil {
		c.completeValue(ctx, "", current, kindOfValue(line.valueOf))
		return nil
	}
	isDash := current == "-" && c.operandKind(line.operands) == "-"
	if !strings.HasPrefix(current, "-") || line.flagsEnded || isDash {
		c.completeValue(ctx, "", current, c.operandKind(line.operands))
		return nil
	}
	name, value, hasValue := strings.Cut(strings.TrimLeft(current, "-"), "=")
	if f := c.flags.Lookup(name); f != nil && hasValue {
		c.completeValue(ctx, current[:len(current)-len(value)], value, kindOfValue(f))
		return nil
	}
	c.eachFlag(func(f *flag.Flag) {
		_, usage := flag.UnquoteUsage(f)
		c.candidate(current, dashed(f), usage)
	})
	return nil
}

// lineSoFar is the part of a line before the word to complete.
type lineSoFar struct {
	operands   int        // how many
	flagsEnded bool       // by "--"
	valueOf    *flag.Flag // the flag whose value is next, or nil
}

// readLine reads the words of an unfinished line as far as they make sense, and sets the flags.
func (c *call) readLine(words []string) (line lineSoFar) {
	for _, word := range words {
		if line.valueOf != nil {
			line.valueOf.Value.Set(word)
			line.valueOf = nil
			continue
		}
		if line.flagsEnded || len(word) < 2 || word[0] != '-' {
			line.operands++
			continue
		}
		if word == "--" {
			line.flagsEnded = true
			continue
		}
		name, value, hasValue := strings.Cut(strings.TrimLeft(word, "-"), "=")
		f := c.flags.Lookup(name)
		switch {
		case f == nil:
		case hasValue:
			f.Value.Set(value)
		case !isBool(f):
			line.valueOf = f
		}
	}
	return line
}

// operandKind returns the kind of the nth operand, from 0: a word of command.operands, or "" if there is no
// such operand.
func (c *call) operandKind(n int) string {
	words := strings.Fields(c.command.operands)
	if len(words) == 0 {
		return ""
	}
	last := len(words) - 1
	if n > last && !strings.Contains(words[last], "...") {
		return ""
	}
	return strings.TrimSuffix(strings.Trim(words[min(n, last)], "[]"), "...")
}

// kindOfValue returns the kind of a flag's value.
func kindOfValue(f *flag.Flag) string {
	switch f.Name {
	case "task":
		return "TASK"
	case "queue":
		return "QUEUE"
	}
	name, _ := flag.UnquoteUsage(f)
	return name
}

// candidate prints a word if it begins with the text that the user has typed. It leaves out words with
// characters that a terminal might obey.
func (c *call) candidate(typed, word, about string) {
	if word == "" || !strings.HasPrefix(word, typed) || printable(word, "") != word {
		return
	}
	about = clip(printable(about, ""), 60)
	switch {
	case c.show != nil:
		c.show(word, about)
	case about == "":
		fmt.Fprintln(c.stdout, word)
	default:
		fmt.Fprintf(c.stdout, "%s\t%s\n", word, about)
	}
}

func (c *call) completeCommand(typed string) {
	for _, cmd := range commands() {
		c.candidate(typed, cmd.name, cmd.summary)
	}
}

// completeValue prints the candidates for a value of a kind. Each begins with prefix, which is not part of
// the value.
func (c *call) completeValue(ctx context.Context, prefix, typed, kind string) {
	offer := func(word, about string) { c.candidate(prefix+typed, prefix+word, about) }
	if prefix == "" && kind != "-" && !strings.HasPrefix(typed, "-") { // a word with a dash would be a flag
		plain := offer
		offer = func(word, about string) {
			if !strings.HasPrefix(word, "-") {
				plain(word, about)
			}
		}
	}
	switch kind {
	case "FILE":
		fmt.Fprintln(c.stdout, completeFiles)
	case "PACKAGE", "DIR":
		fmt.Fprintln(c.stdout, completeDirectories)
	case "-":
		offer("-", "a job for each line of standard input")
	case "COMMAND": // of help, which also has topics
		c.completeCommand(typed)
		for _, t := range topics() {
			offer(t.name, t.summary)
		}
	case "STATUS":
		for _, status := range c.statuses {
			offer(status, "")
		}
	case "SHELL":
		for _, shell := range []string{"bash", "zsh", "fish"} {
			offer(shell, "")
		}
	case "TASK", "QUEUE", "ID":
		if kind == "TASK" {
			for _, name := range pinion.DefaultRegistry.Names() {
				offer(name, "a task of this program")
			}
		}
		if c.db == "" {
			return
		}
		// The shell cannot show an error.
		c.inspect(ctx, reads, func(storage pinion.Inspector) error {
			if kind == "QUEUE" {
				c.offerQueues(ctx, storage, offer)
			} else {
				c.offerJobs(ctx, storage, typed, kind, offer)
			}
			return nil
		})
	}
}

func (c *call) offerQueues(ctx context.Context, storage pinion.Inspector, offer func(word, about string)) {
	stats, _ := storage.Stats(ctx)
	for _, q := range stats.Queues {
		offer(q.Queue, fmt.Sprintf("%d pending", q.Pending))
	}
}

// offerJobs offers the ids or the tasks of jobs, of which it looks at a part only.
func (c *call) offerJobs(
	ctx context.Context, storage pinion.Inspector, typed, kind string, offer func(word, about string),
) {
	const lookAt, maxOffered = 2000, 100
	newest := func(status pinion.Status) pinion.Filter {
		return pinion.Filter{Status: status, Limit: lookAt, Newest: true}
	}
	var lists []iter.Seq2[*pinion.Job, error]
	statuses := []pinion.Status{pinion.StatusRunning, pinion.StatusPending}
	if c.command.name == "reschedule" {
		statuses = []pinion.Status{pinion.StatusPending}
	}
	if !strings.HasPrefix(c.command.name, "dlq-") {
		for _, status := range statuses {
			lists = append(lists, storage.Jobs(ctx, newest(status)))
		}
	}
	if c.command.name != "cancel" && c.command.name != "reschedule" {
		lists = append(lists, storage.DeadLetters(ctx, newest("")))
	}
	if c.command.name == "show" || c.command.name == "logs" {
		lists = append(lists, storage.Jobs(ctx, newest(pinion.StatusSuccess)))
	}
	var offered []string
	for _, jobs := range lists {
		for job, err := range jobs {
			if err != nil || len(offered) == maxOffered {
				break
			}
			word, about := job.ID, strings.ToLower(string(job.Status))+" "+job.Task
			if kind == "TASK" {
				word, about = job.Task, ""
			}
			if strings.HasPrefix(word, typed) && !slices.Contains(offered, word) {
				offered = append(offered, word)
				offer(word, about)
			}
		}
	}
}

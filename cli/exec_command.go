package cli

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"unicode/utf8"

	"github.com/pinion-queue/pinion"
)

// The command line of a task of --exec: how it is read, and how the arguments of a job get into it.
//
// No argument may become program text. The rules for that do not know particular programs and do not parse shell
// text: they look at the words that the user has written. With a shell its text never changes, and arguments are
// its parameters.

// template is a word of a command line: texts and, between them, names of arguments. The texts have even indexes.
type template []string

// placeholder matches {name}, which stands for an argument, and {{name}}, which means {name}.
var placeholder = lazy(`\{\{(?:\d+|[\pL_][\pL\pN_-]*)\}\}|\{(?:\d+|[\pL_][\pL\pN_-]*)\}`)

// lazy returns a function that compiles a regular expression once. Most commands use none of these, and should
// not wait for them.
func lazy(expr string) func() *regexp.Regexp {
	return sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(expr) })
}

// parseProgram reads NAME=COMMAND.
func parseProgram(spec string, shell bool) (*program, error) {
	name, command, ok := strings.Cut(spec, "=")
	switch {
	case !ok || name == "" || strings.TrimSpace(command) == "":
		return nil, usagef("--exec %q must be NAME=COMMAND, as in --exec 'thumb=convert {0} -resize 200 {1}'",
			spec)
	case strings.ContainsAny(name, " \t\n"):
		return nil, usagef("--exec %q: the NAME contains a blank", name)
	case strings.Contains(command, "\x00"), !utf8.ValidString(spec):
		return nil, usagef("--exec %s: the COMMAND contains a NUL or invalid UTF-8", name)
	}
	p := &program{name: name, command: command, shell: shell}
	if shell {
		return p, p.checkShellText()
	}
	words, err := splitWords(command)
	if err != nil {
		return nil, usagef("--exec %s: %v", name, err)
	}
	for _, word := range words {
		p.words = append(p.words, newTemplate(word))
	}
	first := p.words[0]
	switch {
	case len(first) > 1:
		return nil, usagef("--exec %s: the program must be named; it cannot be an argument of the job", name)
	case first[0] == "":
		return nil, usagef("--exec %s: the program's name is empty", name)
	}
	return p, p.checkWords()
}

// usesArguments reports whether the command can have arguments of the job in it.
func (p *program) usesArguments() bool {
	if p.shell {
		return parameter().MatchString(p.command)
	}
	return slices.ContainsFunc(p.words, func(word template) bool { return len(word) > 1 })
}

// ---- Without a shell ----

var (
	// besideArgument matches what may stand beside an argument in a word.
	besideArgument = lazy(`^[\pL\pN./:=,+@%_-]*$`)
	// takesText matches options such as -c, -ec, --execute and --command=, behind which many programs take text
	// to run. To bash and ksh +c is the same.
	takesText = lazy(`(?s)^[-+](?:.*[ce]|(?i:.*(?:command|cmd|eval)=?))$`)
	isOption  = lazy(`^[-+]`)
)

// checkWords refuses an argument where a program is likely to run it as text: in a word that has more than a path
// or a value, and behind options such as -c. Other options may stand between such an option and the text, as in
// bash -c -- {0}.
func (p *program) checkWords() error {
	textOption := "" // the last option that may take text, if only options have come since
	for _, word := range p.words[1:] {
		if takesText().MatchString(word[0]) { // also perl -e{0}
			textOption = word[0]
		}
		if len(word) > 1 && textOption != "" {
			return p.refuseText(word, textOption)
		}
		if len(word) > 1 && !besideArgument().MatchString(word.literal()) {
			return usagef("--exec %s: the word %s says more than an argument, so a program may run it; "+
				"beside {%s} write only letters, digits and ./:=,+@%%_-, or give it a word of its own, "+
				"as in sh -c 'cat \"$1\"' sh {0}", p.name, strconv.Quote(word.String()), word[1])
		}
		if !isOption().MatchString(word[0]) {
			textOption = ""
		}
	}
	return nil
}

// refuseText returns the error about an argument behind an option that may take text to run.
func (p *program) refuseText(word template, option string) error {
	hint := `as in sh -c 'exec wc -c -- "$1"' sh {0}`
	isRefusedJoined := takesText().MatchString(option + "=") // --command={0} would be refused too
	if strings.HasPrefix(option, "--") && option != word[0] && !isRefusedJoined {
		hint = fmt.Sprintf("as %s=%s if the program knows that, or ", option, word) + hint
	}
	return usagef("--exec %s: behind %s many programs take text to run, and %s would be that; write it %s",
		p.name, option, word, hint)
}

// literal returns the text of a word without its arguments.
func (t template) literal() string {
	var b strings.Builder
	for i, part := range t {
		if i%2 == 0 {
			b.WriteString(part)
		}
	}
	return b.String()
}

// String returns a word as the user wrote it, without quotes.
func (t template) String() string {
	var b strings.Builder
	for i, part := range t {
		if i%2 == 0 {
			b.WriteString(part)
		} else {
			b.WriteString("{" + part + "}")
		}
	}
	return b.String()
}

// newTemplate finds the placeholders in a word.
func newTemplate(text string) (t template) {
	last, end := "", 0
	for _, at := range placeholder().FindAllStringIndex(text, -1) {
		found := text[at[0]:at[1]]
		inner := found[1 : len(found)-1]
		last += text[end:at[0]]
		end = at[1]
		if inner[0] == '{' {
			last += inner
		} else {
			t = append(t, last, inner)
			last = ""
		}
	}
	return append(t, last+text[end:])
}

var (
	blanks = " \t\n"
	// wordPart matches blanks, a quotation, an escape or plain text at the beginning of a command line.
	wordPart = lazy(
		`(?s)^(?:[ \t\n]+|'[^']*'|"(?:[^"\\]|\\.)*"|\\.|\$|[^ \t\n'"\\$|&;<>()*` + "`]+)")
	// quotedEscape matches a backslash that escapes a character between double quotes.
	quotedEscape = lazy("(?s)" + `\\(?:\n|(["\\$` + "`]))")
	anyEscape    = lazy(`(?s)\\.`)
	expansion    = lazy(`\$[\w{(*@#?!-]|` + "`")
)

// splitWords splits a command line as a shell would, and refuses what only a shell could do.
func splitWords(line string) (words []string, err error) {
	var word strings.Builder
	inWord := false // also in an empty word, ""
	line = strings.Trim(line, blanks)
	for line != "" {
		part, err := firstPart(line)
		if err != nil {
			return nil, err
		}
		switch {
		case strings.Contains(blanks, part[:1]):
			if inWord {
				words = append(words, word.String())
			}
			word.Reset()
			inWord = false
		case part == "\\\n": // the line goes on, and that is no word
		default:
			text, special := unquote(part, line, inWord)
			if special != "" {
				return nil, needsShell(special)
			}
			word.WriteString(text)
			inWord = true
		}
		line = line[len(part):]
	}
	if inWord {
		words = append(words, word.String())
	}
	return words, nil
}

// firstPart returns the blanks, the quotation, the escape or the plain text at the beginning of a command line.
func firstPart(line string) (string, error) {
	part := wordPart().FindString(line)
	switch {
	case part != "":
		return part, nil
	case line == `\`:
		return "", errors.New("the COMMAND ends in a backslash, which quotes nothing")
	case line[0] == '\'' || line[0] == '"':
		return "", fmt.Errorf("the quotation that begins with %s is not closed", clip(line, 20))
	}
	return "", needsShell(line[:1])
}

// unquote returns the text that a part stands for, or what in it only a shell understands. rest is the command line
// from the part on. A part that begins a word (inWord is false) may not be a home directory.
func unquote(part, rest string, inWord bool) (text, special string) {
	switch {
	case part[0] == '"':
		special = expansion().FindString(anyEscape().ReplaceAllString(part, ""))
		return quotedEscape().ReplaceAllString(part[1:len(part)-1], "$1"), special
	case part[0] == '$':
		return part, expansion().FindString(rest[:min(2, len(rest))])
	case part[0] == '\'':
		return part[1 : len(part)-1], ""
	case part[0] == '\\':
		return part[1:], ""
	case !inWord && (part == "~" || strings.HasPrefix(part, "~/")):
		return "", "~"
	}
	return part, ""
}

// needsShell returns the error about a part of a command line that only a shell understands.
func needsShell(special string) error {
	return fmt.Errorf("only a shell understands %s, and there is none; quote it, or add --shell", special)
}

// argv returns the command line for a job.
func (p *program) argv(job *pinion.Job) (argv []string, err error) {
	if p.shell {
		return p.shellArgv(job)
	}
	for _, word := range p.words {
		var text strings.Builder
		for i, part := range word {
			if i%2 == 1 {
				part, err = argumentText(job, part)
				if err != nil {
					return nil, err
				}
			}
			text.WriteString(part)
		}
		argv = append(argv, text.String())
	}
	return argv, nil
}

// ---- With a shell ----

const (
	shellPath = "/bin/sh"
	// argPrefix begins the variables that have arguments by name.
	argPrefix = "PINION_ARG_"
)

var (
	argVariable = lazy(argPrefix + `([A-Za-z0-9_]+)`)
	asVariable  = lazy(`^[A-Za-z0-9_]+$`)
	parameter   = lazy(`\$\{?[1-9@*#]|` + argPrefix)
)

// checkShellText refuses a placeholder in the text of a shell, because it would not become an argument. With a $
// before it, it is a variable of the shell, and with a backslash or another brace it is text; so these may stay.
// checkShellText also collects the names of the arguments that the text uses as variables.
func (p *program) checkShellText() error {
	for _, at := range placeholder().FindAllStringIndex(p.command, -1) {
		found := p.command[at[0]:at[1]]
		escaped := at[0] > 0 && strings.ContainsRune(`$\{`, rune(p.command[at[0]-1]))
		if escaped || strings.HasPrefix(found, "{{") {
			continue
		}
		name := found[1 : len(found)-1]
		return usagef("--exec %s: with --shell the text stays as it is, so %s is not an argument in it; "+
			"for the argument write %s, for the text { %s}", p.name, found, shellForm(name), name)
	}
	for _, found := range argVariable().FindAllStringSubmatch(p.command, -1) {
		if !slices.Contains(p.names, found[1]) {
			p.names = append(p.names, found[1])
		}
	}
	return nil
}

// shellForm returns what to write for an argument in the text of a shell.
func shellForm(name string) string {
	n, err := strconv.Atoi(name)
	switch {
	case err == nil && n < 9:
		return fmt.Sprintf(`"$%d"`, n+1)
	case err == nil:
		return fmt.Sprintf(`"${%d}"`, n+1)
	case asVariable().MatchString(name):
		return `"$` + argPrefix + name + `"`
	}
	return `"$1", and enqueue it by position`
}

// shellArgv returns the command line for a job: the text as the user wrote it, the name as $0, and the
// arguments as parameters, whose values a shell does not read as text.
func (p *program) shellArgv(job *pinion.Job) (argv []string, err error) {
	argv = []string{shellPath, "-c", p.command, p.name}
	for i := range job.Args {
		text, err := argumentText(job, strconv.Itoa(i))
		if err != nil {
			return nil, err
		}
		argv = append(argv, text)
	}
	return argv, nil
}

// namedArguments returns the variables for the arguments by name that the text uses, and no others: a job
// must not set variables as it likes.
func (p *program) namedArguments(job *pinion.Job) (env []string, err error) {
	for _, name := range p.names {
		if _, given := job.Kwargs[name]; !given {
			continue
		}
		text, err := argumentText(job, name)
		if err != nil {
			return nil, err
		}
		env = append(env, argPrefix+name+"="+text)
	}
	return env, nil
}

// ---- Arguments ----

// argumentText returns the text of an argument of the job: a string as it is, anything else as JSON.
func argumentText(job *pinion.Job, name string) (string, error) {
	arg, err := findArgument(job, name)
	if err != nil {
		return "", err
	}
	raw, err := json.Marshal(arg)
	if err != nil {
		return "", fmt.Errorf("argument {%s}: %w", name, err)
	}
	text := string(raw)
	switch raw[0] {
	case '"':
		if err := json.Unmarshal(raw, &text); err != nil {
			return "", fmt.Errorf("argument {%s}: %w", name, err)
		}
	case '{', '[':
		text = plainJSON(arg)
	}
	if strings.Contains(text, "\x00") {
		return "", fmt.Errorf("argument {%s} contains a NUL, which no command line can hold", name)
	}
	return text, nil
}

func findArgument(job *pinion.Job, name string) (any, error) {
	if name[0] >= '0' && name[0] <= '9' {
		i, err := strconv.Atoi(name)
		if err != nil || i >= len(job.Args) {
			return nil, fmt.Errorf("argument {%s} is missing: the job has %d by position, from {0}",
				name, len(job.Args))
		}
		return job.Args[i], nil
	}
	arg, ok := job.Kwargs[name]
	if !ok {
		return nil, fmt.Errorf("argument {%s} is missing: the job has none of that name", name)
	}
	return arg, nil
}

// plainJSON returns v as JSON without the escapes for HTML.
func plainJSON(v any) string {
	var buf bytes.Buffer
	enc := json.NewEncoder(&buf)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return "" // cannot happen: v comes from a storage
	}
	return strings.TrimSuffix(buf.String(), "\n")
}

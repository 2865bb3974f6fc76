package cli

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/pinion-queue/pinion"
)

// The command line of a task of --exec: how it is read, and how the arguments of a job get into it.

// template is a word of a command line: text, and at the odd places names of arguments.
type template []string

var (
	// placeholder matches {name}, which stands for an argument, and {{name}}, which means {name}.
	placeholder = regexp.MustCompile(`\{\{(?:\d+|[\pL_][\pL\pN_-]*)\}\}|\{(?:\d+|[\pL_][\pL\pN_-]*)\}`)
	// shellBraces matches, at the beginning of a text, a placeholder or a variable of the shell, ${name}.
	shellBraces = regexp.MustCompile(`^\$?(?:` + placeholder.String() + `)`)
)

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
		return p, p.parseForShell()
	}
	words, err := splitWords(command)
	if err != nil {
		return nil, usagef("--exec %s: %v", name, err)
	}
	for _, word := range words {
		p.words = append(p.words, newTemplate(word))
	}
	switch first := p.words[0]; {
	case len(first) > 1:
		return nil, usagef("--exec %s: the program must be named; it cannot be an argument of the job", name)
	case first[0] == "":
		return nil, usagef("--exec %s: the program's name is empty", name)
	}
	return p, p.checkShellText()
}

// parseForShell makes the command the text of sh -c.
func (p *program) parseForShell() error {
	text, inArithmetic := shellTemplate(p.command)
	if inArithmetic {
		return usagef("--exec %s: an argument within $((…)) could run any command where /bin/sh is bash; "+
			"calculate with expr, as in expr {0} + 1", p.name)
	}
	p.words = []template{{"/bin/sh"}, {"-c"}, text}
	return nil
}

var shellFlag = regexp.MustCompile(`^[-+].`)

// checkShellText refuses an argument in the text of sh -c, which could then say anything, also behind env,
// timeout and the like.
func (p *program) checkShellText() error {
	shells := []string{"sh", "bash", "dash", "ash", "ksh", "zsh", "fish"}
	for i, word := range p.words {
		if !slices.Contains(shells, filepath.Base(word[0])) {
			continue
		}
		for j := i + 1; j+1 < len(p.words) && shellFlag.MatchString(p.words[j][0]); j++ {
			flag := p.words[j][0]
			if flag[1] == '-' {
				continue
			}
			if strings.Contains(flag, "c") {
				if len(p.words[j+1]) > 1 {
					return usagef("--exec %s: an argument in the text of %s %s could run any command; "+
						"give only the text, with --shell, which quotes arguments", p.name, word[0], flag)
				}
				break
			}
			if strings.HasSuffix(flag, "o") || strings.HasSuffix(flag, "O") { // -o pipefail, -O extglob
				j++
			}
		}
	}
	return nil
}

// newTemplate finds the placeholders in a word.
func newTemplate(text string) (t template) {
	last, end := "", 0
	for _, at := range placeholder.FindAllStringIndex(text, -1) {
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
	wordPart = regexp.MustCompile(
		`(?s)^(?:[ \t\n]+|'[^']*'|"(?:[^"\\]|\\.)*"|\\.|\$|[^ \t\n'"\\$|&;<>()*` + "`]+)")
	// quotedEscape matches a backslash that escapes a character between double quotes.
	quotedEscape = regexp.MustCompile("(?s)" + `\\(?:\n|(["\\$` + "`]))")
	anyEscape    = regexp.MustCompile(`(?s)\\.`)
	expansion    = regexp.MustCompile(`\$[\w{(*@#?!-]|` + "`")
)

// splitWords splits a command line as a shell would, and refuses what only a shell could do.
func splitWords(line string) (words []string, err error) {
	var word strings.Builder
	inWord := false // also in an empty word, ""
	line = strings.Trim(line, blanks)
	for line != "" {
		part := wordPart.FindString(line)
		if part == "" && line == `\` {
			return nil, errors.New("the COMMAND ends in a backslash, which quotes nothing")
		}
		if part == "" && (line[0] == '\'' || line[0] == '"') {
			return nil, fmt.Errorf("the quotation that begins with %s is not closed", clip(line, 20))
		}
		special := "" // to a shell
		switch {
		case part == "":
			special = line[:1]
		case part[0] == '"':
			special = expansion.FindString(anyEscape.ReplaceAllString(part, ""))
			word.WriteString(quotedEscape.ReplaceAllString(part[1:len(part)-1], "$1"))
		case part[0] == '$':
			special = expansion.FindString(line[:min(2, len(line))])
			word.WriteString(part)
		case part[0] == '\'':
			word.WriteString(part[1 : len(part)-1])
		case part == "\\\n": // continues the line
		case part[0] == '\\':
			word.WriteString(part[1:])
		case strings.Contains(blanks, part[:1]):
			words = append(words, word.String())
			word.Reset()
		case !inWord && (part == "~" || strings.HasPrefix(part, "~/")):
			special = "~"
		default:
			word.WriteString(part)
		}
		if special != "" {
			return nil, fmt.Errorf("only a shell understands %s, and there is none; quote it, or add --shell",
				special)
		}
		inWord = !strings.Contains(blanks, part[:1])
		line = line[len(part):]
	}
	if inWord {
		words = append(words, word.String())
	}
	return words, nil
}

// shellTemplate returns the text for sh -c. A placeholder becomes a reference to a positional parameter,
// because a shell does not read the value of one again. The quotes around it depend on those that the user
// wrote. In arithmetic some shells do read the value again, a[$(id)] with its command; inArithmetic reports a
// placeholder there.
func shellTemplate(text string) (t template, inArithmetic bool) {
	last := ""
	ends := []byte{0} // of each quotation or substitution that has begun; the first is of the text itself
	arithmetic := 0   // the length of ends outside the outermost arithmetic that has begun; 0: none has
	for text != "" {
		braces := shellBraces.FindString(text)
		end := ends[len(ends)-1]
		if len(ends) <= arithmetic {
			arithmetic = 0
		}
		if strings.HasPrefix(braces, "{{") {
			last += braces[1 : len(braces)-1]
			text = text[len(braces):]
			continue
		}
		if strings.HasPrefix(braces, "{") {
			inArithmetic = inArithmetic || arithmetic > 0
			before, after := quotesWithin(end)
			t = append(t, last+before, braces[1:len(braces)-1])
			last = after
			text = text[len(braces):]
			continue
		}
		taken := 1
		switch c := text[0]; {
		case braces != "": // ${name}
			taken = len(braces)
		case end != 0 && c == end:
			ends = ends[:len(ends)-1]
		case end == '\'':
		case c == '\\' && len(text) > 1:
			taken = 2
		case strings.HasPrefix(text, "$(("), strings.HasPrefix(text, "((") && end != '"':
			if arithmetic == 0 {
				arithmetic = len(ends)
			}
			taken = strings.Index(text, "((") + 2
			ends = append(ends, ')', ')')
		case strings.HasPrefix(text, "$("):
			taken = 2
			ends = append(ends, ')')
		case c == '(' && end != '"':
			ends = append(ends, ')')
		case c == '`', c == '"', c == '\'' && end != '"':
			ends = append(ends, c)
		}
		last += text[:taken]
		text = text[taken:]
	}
	return append(t, last), inArithmetic
}

// quotesWithin returns the quotes to write around a parameter so that it stays one word within the quotation
// that ends with end.
func quotesWithin(end byte) (before, after string) {
	switch end {
	case '"':
		return "", ""
	case '\'':
		return `'"`, `"'`
	}
	return `"`, `"`
}

// argv returns the command line for a job.
func (p *program) argv(job *pinion.Job) (argv []string, err error) {
	parameters := []string{p.name} // of the shell; $0 is the name
	for _, word := range p.words {
		var text strings.Builder
		for i, part := range word {
			if i%2 == 0 {
				text.WriteString(part)
				continue
			}
			value, err := argumentText(job, part)
			if err != nil {
				return nil, err
			}
			if p.shell {
				fmt.Fprintf(&text, "${%d}", len(parameters))
				parameters = append(parameters, value)
			} else {
				text.WriteString(value)
			}
		}
		argv = append(argv, text.String())
	}
	if p.shell {
		argv = append(argv, parameters...)
	}
	return argv, nil
}

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

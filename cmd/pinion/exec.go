package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
	"unicode/utf8"

	"github.com/pinion-queue/pinion"
)

const (
	exitRetry   = 75  // EX_TEMPFAIL of sysexits.h
	exitNoRetry = 100 // a hard error to qmail's programs
	resultMost  = 64 << 10
	tailMost    = 1 << 10
	// lingerMost is for what a command leaves in the background, which may still have to write its last line.
	lingerMost = time.Second
	// shutdownMost is all there is between SIGTERM and SIGKILL at a shutdown, for the worker itself ends a second later.
	shutdownMost = 500 * time.Millisecond
)

// programs are the tasks of --exec, which are registered beside those of --import.
var programs []*program

// baked are the flags that a binary of --build has been given for good; its generated file says.
var baked struct {
	shell bool
	execs []string
}

// program is a task of --exec.
type program struct {
	name    string
	command string // as it was given
	words   []template
	shell   bool
	shop    *workshop // set before a worker starts
}

// template is a word of a command line: text, and at the odd places names of arguments.
type template []string

// A name in braces is an argument, in twice the braces itself.
var (
	argument   = regexp.MustCompile(`\{\{(?:\d+|[\pL_][\pL\pN_-]*)\}\}|\{(?:\d+|[\pL_][\pL\pN_-]*)\}`)
	atArgument = regexp.MustCompile(`^\$?(?:` + argument.String() + `)`) // or at a variable of the shell's, ${name}
)

// addPrograms registers the tasks of --exec flags.
func addPrograms(shell bool, specs []string) error {
	for _, spec := range specs {
		p, err := parseProgram(spec, shell)
		if err != nil {
			return err
		}
		names := pinion.DefaultRegistry.Names()
		if slices.ContainsFunc(names, func(name string) bool { return strings.EqualFold(name, p.name) }) {
			return usagef("--exec %s: there is a task of that name already; choose another", p.name)
		}
		pinion.RegisterTask(pinion.Task[*pinion.Job]{Name: p.name, Run: p.run})
		programs = append(programs, p)
	}
	return nil
}

// parseProgram understands NAME=COMMAND.
func parseProgram(spec string, shell bool) (*program, error) {
	name, command, ok := strings.Cut(spec, "=")
	switch {
	case !ok || name == "" || strings.TrimSpace(command) == "":
		return nil, usagef("--exec %q must be NAME=COMMAND, as in --exec 'thumb=convert {0} -resize 200 {1}'", spec)
	case strings.ContainsAny(name, " \t\n"):
		return nil, usagef("--exec %q: the NAME before = has a blank in it", name)
	case strings.Contains(command, "\x00") || !utf8.ValidString(spec):
		return nil, usagef("--exec %s: the COMMAND has a NUL in it, or is not valid UTF-8", name)
	}
	p := &program{name: name, command: command, shell: shell}
	if shell {
		text, sums := shellTemplate(command)
		if sums {
			return nil, usagef("--exec %s: an argument within $((…)) could run anything where /bin/sh is bash; "+
				"calculate with expr, as in expr {0} + 1", name)
		}
		p.words = []template{{"/bin/sh"}, {"-c"}, text}
		return p, nil
	}
	words, err := splitWords(command)
	if err != nil {
		return nil, usagef("--exec %s: %v", name, err)
	}
	for _, word := range words {
		p.words = append(p.words, newTemplate(word))
	}
	switch {
	case len(p.words[0]) > 1:
		return nil, usagef("--exec %s: the program must be named, and not come from an argument of the job", name)
	case p.words[0][0] == "":
		return nil, usagef("--exec %s: the program's name is empty", name)
	}
	return p, p.checkScript()
}

// checkScript refuses an argument in the text of sh -c, where it could say anything; also behind env, timeout and so on.
func (p *program) checkScript() error {
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
					return usagef("--exec %s: an argument in the text of %s %s could run anything; "+
						"take the text alone and add --shell, which quotes arguments", p.name, word[0], flag)
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

var shellFlag = regexp.MustCompile(`^[-+].`)

// newTemplate finds the arguments in a word.
func newTemplate(text string) (t template) {
	last, end := "", 0
	for _, at := range argument.FindAllStringIndex(text, -1) {
		found := text[at[0]:at[1]]
		last += text[end:at[0]]
		if end = at[1]; found[1] == '{' {
			last += found[1 : len(found)-1]
		} else {
			t, last = append(t, last, found[1:len(found)-1]), ""
		}
	}
	return append(t, last+text[end:])
}

var (
	blanks  = " \t\n"
	token   = regexp.MustCompile(`(?s)^(?:[ \t\n]+|'[^']*'|"(?:[^"\\]|\\.)*"|\\.|\$|[^ \t\n'"\\$|&;<>()*` + "`]+)")
	quoted  = regexp.MustCompile("(?s)" + `\\(?:\n|(["\\$` + "`]))") // what a backslash takes from its meaning between double quotes
	escapes = regexp.MustCompile(`(?s)\\.`)
	expands = regexp.MustCompile(`\$[\w{(*@#?!-]|` + "`")
)

// splitWords splits a command line as a shell would, and refuses what would mean more than itself to a shell.
func splitWords(line string) (words []string, err error) {
	var word strings.Builder
	began := false // a word, which may be empty
	for line = strings.Trim(line, blanks); line != ""; {
		part := token.FindString(line)
		meant := "" // to a shell
		switch {
		case part == "" && line == `\`:
			return nil, errors.New("the COMMAND ends in a backslash, which quotes what follows")
		case part == "" && (line[0] == '\'' || line[0] == '"'):
			return nil, fmt.Errorf("the quotation that begins with %s is not closed", clip(line, 20))
		case part == "":
			meant = line[:1]
		case part[0] == '"':
			meant = expands.FindString(escapes.ReplaceAllString(part, ""))
			word.WriteString(quoted.ReplaceAllString(part[1:len(part)-1], "$1"))
		case part[0] == '$':
			meant = expands.FindString(line[:min(2, len(line))])
			word.WriteString(part)
		case part[0] == '\'':
			word.WriteString(part[1 : len(part)-1])
		case part == "\\\n":
		case part[0] == '\\':
			word.WriteString(part[1:])
		case strings.Contains(blanks, part[:1]):
			words = append(words, word.String())
			word.Reset()
		default:
			word.WriteString(part)
		}
		if meant == "" && !began && (part == "~" || strings.HasPrefix(part, "~/")) {
			meant = "~"
		}
		if meant != "" {
			return nil, fmt.Errorf("%s means something to a shell only, and there is none; quote it, or add --shell", meant)
		}
		began = !strings.Contains(blanks, part[:1])
		line = line[len(part):]
	}
	if began {
		words = append(words, word.String())
	}
	return words, nil
}

// shellTemplate is the text for sh -c. An argument becomes a reference to a positional parameter, whose value a shell
// does not read again; the quotes around it depend on those that the user has put there. Only in arithmetic some shells
// do read it again, a[$(id)] with its command: sums reports an argument there.
func shellTemplate(text string) (t template, sums bool) {
	last := ""
	outside := 0        // of arithmetic, the length of inside then; 0: this is outside
	inside := []byte{0} // what ends each quotation or substitution that has begun
	for text != "" {
		name := atArgument.FindString(text)
		taken, top := 1, inside[len(inside)-1]
		if len(inside) <= outside {
			outside = 0
		}
		switch c := text[0]; {
		case name != "" && c == '{' && name[1] == '{':
			last, text, taken = last+name[1:len(name)-1], text[len(name):], 0
		case name != "" && c == '{':
			sums = sums || outside > 0
			open, end := `"`, `"`
			switch top {
			case '"':
				open, end = "", ""
			case '\'':
				open, end = `'"`, `"'`
			}
			t = append(t, last+open, name[1:len(name)-1])
			last, text, taken = end, text[len(name):], 0
		case name != "": // ${name}
			taken = len(name)
		case top != 0 && c == top:
			inside = inside[:len(inside)-1]
		case top == '\'':
		case c == '\\' && len(text) > 1:
			taken = 2
		case strings.HasPrefix(text, "$(("), strings.HasPrefix(text, "((") && top != '"':
			if outside == 0 {
				outside = len(inside)
			}
			taken = strings.Index(text, "((") + 2
			inside = append(inside, ')', ')')
		case strings.HasPrefix(text, "$("):
			inside, taken = append(inside, ')'), 2
		case c == '(' && top != '"':
			inside = append(inside, ')')
		case c == '`', c == '"', c == '\'' && top != '"':
			inside = append(inside, c)
		}
		last, text = last+text[:taken], text[taken:]
	}
	return append(t, last), sums
}

// argv is the command line for a job.
func (p *program) argv(job *pinion.Job) (argv []string, err error) {
	values := []string{p.name} // of the shell's parameters
	for _, word := range p.words {
		var text strings.Builder
		for i, part := range word {
			if i%2 == 1 {
				if part, err = value(job, part); err != nil {
					return nil, err
				}
				if p.shell {
					part, values = fmt.Sprintf("${%d}", len(values)), append(values, part)
				}
			}
			text.WriteString(part)
		}
		argv = append(argv, text.String())
	}
	if p.shell {
		argv = append(argv, values...)
	}
	return argv, nil
}

// value is an argument of the job: strings as they are, everything else as JSON.
func value(job *pinion.Job, name string) (string, error) {
	var arg any
	if name[0] >= '0' && name[0] <= '9' {
		i, err := strconv.Atoi(name)
		if err != nil || i >= len(job.Args) {
			return "", fmt.Errorf("the argument {%s} is missing: by position the job has %d, counted from {0}", name, len(job.Args))
		}
		arg = job.Args[i]
	} else {
		var ok bool
		if arg, ok = job.Kwargs[name]; !ok {
			return "", fmt.Errorf("the argument {%s} is missing: the job has none of that name", name)
		}
	}
	raw, err := json.Marshal(arg)
	if err != nil {
		return "", fmt.Errorf("the argument {%s}: %w", name, err)
	}
	text := string(raw)
	if raw[0] == '"' {
		err = json.Unmarshal(raw, &text)
	} else if raw[0] == '{' || raw[0] == '[' {
		text = plain(arg)
	}
	if strings.Contains(text, "\x00") {
		return "", fmt.Errorf("the argument {%s} has a NUL in it, which no command line can have", name)
	}
	return text, err
}

// plain is JSON without the escapes for HTML.
func plain(v any) string {
	var buf bytes.Buffer
	enc := json.NewEncoder(&buf)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return "" // not of what came from a storage
	}
	return strings.TrimSuffix(buf.String(), "\n")
}

// workshop is what a worker's programs share.
type workshop struct {
	env       []string
	killAfter time.Duration
	linger    time.Duration
	guard     *guard
	log       *slog.Logger
}

// openWorkshop gets ready to run programs. Its guard is closed when the worker has ended.
func openWorkshop(programs []*program, db string, killAfter time.Duration, log *slog.Logger) (*workshop, error) {
	s := &workshop{env: append(os.Environ(), fmt.Sprintf("PINION_RETRY=%d", exitRetry), fmt.Sprintf("PINION_NO_RETRY=%d", exitNoRetry)),
		killAfter: killAfter, linger: lingerMost, log: log}
	if name := scheme.FindString(db); name == "" || strings.EqualFold(name, "sqlite:") {
		path, err := filepath.Abs(db[len(name):])
		if err != nil {
			return nil, err
		}
		db = name + path
	}
	s.env = append(s.env, "PINION_DB="+db)
	var err error
	if s.guard, err = newGuard(); err != nil {
		log.Warn("the guard does not start; should this worker be killed with -9, what its commands have started may live on", "error", err)
	}
	for _, p := range programs {
		p.shop = s
	}
	return s, nil
}

// findPrograms reports a program that is not there, while somebody is looking.
func findPrograms() error {
	for _, p := range programs {
		if p.shell {
			var said bytes.Buffer
			check := exec.Command(p.words[0][0], "-n", "-c", strings.Join(p.words[2], "${1}"))
			check.Stderr = &said
			if err := check.Run(); err != nil {
				return usagef("--exec %s: the shell does not take this COMMAND: %s", p.name, cmp.Or(strings.TrimSpace(said.String()), err.Error()))
			}
			continue
		}
		if _, err := exec.LookPath(p.words[0][0]); errors.Is(err, exec.ErrNotFound) || errors.Is(err, os.ErrNotExist) {
			instead := "install it, or write its path"
			if strings.Contains(p.words[0][0], "=") {
				instead = "a variable is set by env, as in env LANG=C sort, or by a shell with --shell"
			}
			return usagef("--exec %s: there is no program %q; %s", p.name, p.words[0][0], instead)
		} else if err != nil {
			return usagef("--exec %s: %q cannot be run: %v; is it executable (chmod +x), or to be named after an interpreter?",
				p.name, p.words[0][0], errors.Unwrap(err))
		}
	}
	return nil
}

// run is the task.
func (p *program) run(ctx context.Context, job *pinion.Job) error {
	argv, err := p.argv(job)
	if err != nil {
		return pinion.Permanent(err)
	}
	input := struct {
		Args   []any          `json:"args"`
		Kwargs map[string]any `json:"kwargs"`
	}{append([]any{}, job.Args...), job.Kwargs}
	if input.Kwargs == nil {
		input.Kwargs = map[string]any{}
	}
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Env = append(slices.Clip(p.shop.env), "PINION_TASK="+p.name, "PINION_JOB_ID="+job.ID, "PINION_QUEUE="+job.Queue,
		"PINION_ATTEMPT="+strconv.Itoa(job.Attempts))
	var out head
	var errs tail
	state, told, err := p.shop.run(ctx, cmd, plain(input)+"\n", &out, &errs)
	switch {
	case errors.Is(err, syscall.E2BIG):
		return pinion.Permanent(fmt.Errorf("%w; it can read its arguments from standard input, as JSON, instead", err))
	case err != nil:
		return err
	}
	how := fmt.Sprintf("exit status %d", state.ExitCode())
	if state.ExitCode() < 0 {
		how = "killed by " + state.String() // which begins with "signal: "
	}
	if last := errs.String(); last != "" {
		how += ": " + last
	}
	switch err := errors.New(how); {
	case told: // even if it then says that all is well, it has hardly done all
		return fmt.Errorf("%w: %w", context.Cause(ctx), err)
	case state.ExitCode() == exitNoRetry:
		return pinion.Permanent(err)
	case state.ExitCode() == exitRetry:
		if after, wrong := parseDuration(out.lastLine()); wrong == nil {
			return pinion.RetryAfter(after, err)
		}
		return err
	case state.ExitCode() != 0:
		return err
	}
	if last := errs.String(); last != "" {
		p.shop.log.Debug("standard error", "task", p.name, "job", job.ID, "text", last)
	}
	if out.beyond > 0 {
		p.shop.log.Warn("standard output is too long for a result; the rest is dropped", "task", p.name, "job", job.ID, "bytes", out.beyond)
	}
	return out.record(ctx)
}

// run runs a command until it and what it has left in its process group are gone. It tells a command to end when ctx
// does, and reports whether it has told it.
func (s *workshop) run(ctx context.Context, cmd *exec.Cmd, input string, out, errs io.Writer) (state *os.ProcessState, told bool, err error) {
	stdin, err1 := cmd.StdinPipe()
	stdout, err2 := cmd.StdoutPipe()
	stderr, err3 := cmd.StderrPipe()
	if err := errors.Join(err1, err2, err3); err != nil {
		return nil, false, err
	}
	if err := s.guard.start(cmd); err != nil {
		return nil, false, err
	}
	var pipes sync.WaitGroup
	pipes.Go(func() { // to a command that need not read it
		io.WriteString(stdin, input)
		stdin.Close()
	})
	said := make(chan struct{})
	var reading sync.WaitGroup
	reading.Go(func() { io.Copy(out, stdout) })
	reading.Go(func() { io.Copy(errs, stderr) })
	pipes.Go(func() { reading.Wait(); close(said) })
	ended := make(chan struct{})
	pipes.Go(func() {
		state, err = cmd.Process.Wait()
		close(ended)
	})

	grace := s.linger
	select {
	case <-ended:
	case <-ctx.Done():
		select {
		case <-ended:
		default:
			told = true
			terminate(cmd.Process.Pid)
			grace = s.killAfter
			if errors.Is(context.Cause(ctx), pinion.ErrShutdown) {
				grace = min(grace, shutdownMost)
			}
		}
	}
	limit, look := time.NewTimer(grace), time.NewTicker(10*time.Millisecond)
	defer limit.Stop()
	defer look.Stop()
	killed := false
	for end, quiet, gone := ended, said, false; !gone || quiet != nil; {
		select {
		case <-end:
			end = nil
		case <-quiet:
			quiet = nil
		case <-look.C:
		case <-limit.C:
			if gone || killed { // nobody is left, or nobody who can be killed
				gone, quiet = true, nil
			} else {
				kill(cmd.Process)
				killed = true
				limit.Reset(s.linger)
			}
		}
		gone = gone || end == nil && !left(cmd.Process.Pid)
	}
	<-ended
	s.guard.ended(cmd.Process.Pid)
	for _, end := range []io.Closer{stdin, stdout, stderr} { // which a process that left its group may still hold
		end.Close()
	}
	pipes.Wait()
	return state, told, err
}

// head keeps the beginning of what is written to it.
type head struct {
	text   []byte
	beyond int
}

func (h *head) Write(text []byte) (int, error) {
	kept := min(len(text), resultMost-len(h.text))
	h.text = append(h.text, text[:kept]...)
	h.beyond += len(text) - kept
	return len(text), nil
}

func (h *head) lastLine() string {
	text := strings.TrimSpace(string(h.text))
	return strings.TrimSpace(text[strings.LastIndexByte(text, '\n')+1:])
}

// record makes the text the job's result: as JSON if it is one value, else as a string without the line's end.
func (h *head) record(ctx context.Context) error {
	text := string(h.text)
	if h.beyond > 0 {
		for range utf8.UTFMax - 1 { // a character may be cut
			if r, size := utf8.DecodeLastRuneInString(text); r == utf8.RuneError && size == 1 {
				text = text[:len(text)-1]
			}
		}
	}
	text = strings.TrimRight(strings.ToValidUTF8(text, "\uFFFD"), "\r\n")
	if text == "" {
		return nil
	}
	if h.beyond == 0 && json.Valid([]byte(text)) {
		return pinion.SetResult(ctx, json.RawMessage(text))
	}
	return pinion.SetResult(ctx, text)
}

// tail keeps the end of what is written to it.
type tail struct {
	text   []byte
	before bool // something was there that is gone
}

func (t *tail) Write(text []byte) (int, error) {
	t.text = append(t.text, text[max(0, len(text)-tailMost):]...)
	if more := len(t.text) - tailMost; more > 0 || len(text) > tailMost {
		t.text, t.before = append(t.text[:0], t.text[more:]...), true
	}
	return len(text), nil
}

// String is the last lines, but for empty ones, as a terminal would show them: of what a progress bar wrote into one line
// the last.
func (t *tail) String() string {
	text := strings.TrimSpace(strings.ToValidUTF8(string(t.text), "\uFFFD"))
	if _, whole, cut := strings.Cut(text, "\n"); cut && t.before {
		text = whole
	}
	var lines []string
	for line := range strings.Lines(text) {
		line = strings.TrimRight(line, "\r\n")
		if line = line[strings.LastIndexByte(line, '\r')+1:]; line != "" {
			lines = append(lines, line)
		}
	}
	return strings.Join(lines, "\n")
}

// brief is a failure in one line: its first and, of several, its last, which may be the telling one. Of either it takes
// no more than most characters. What comes after an empty line, as a panic's stack, stays out.
func brief(failure string, most int) string {
	failure, _, _ = strings.Cut(failure, "\n\n")
	if lines := strings.Split(strings.TrimSpace(failure), "\n"); len(lines) > 1 {
		return clip(lines[0], most) + " … " + clip(strings.TrimSpace(lines[len(lines)-1]), most)
	}
	return failure
}

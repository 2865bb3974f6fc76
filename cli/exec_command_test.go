package cli

import (
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/pinion-queue/pinion"
)

func TestACommandLineIsSplitAsAShellWould(t *testing.T) {
	sh, err := exec.LookPath("sh")
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range []string{
		`one`, `  one   two` + "\t three\n", `'single  quoted' "double  quoted"`, `a'b c'd"e f"g`,
		`'' ""`, `a "" b`, `""a`, `back\ slash \'`, `"a \" b \\ c \$x \` + "`" + `"`,
		`"keeps \n and \' and $ and a$"`, `'keeps \ and " and $x'`, `a\\b`,
		"con\\\ntinued", "a \\\n b", "a \\\n  \\\n b", "\"con\\\ntinued\"", "new\nline", `$ a$`, `"it's"`, `'say "yes"'`, `é"ü"\ö`, `a#b`,
		`{} {0 a{b c}d}`,
		`'|' "&" \; \<`, `'~/a' a~ '*' \*`, `\a`, `"\a"`, `"\\a"`,
	} {
		got, err := splitWords(line)
		if err != nil {
			t.Errorf("%q: %v", line, err)
			continue
		}
		script := "HOME=\\~; printf '%s\\000' " + strings.ReplaceAll(line, "\n", " ")
		if strings.Contains(line, "\\\n") {
			script = "printf '%s\\000' " + line
		}
		out, err := exec.CommandContext(t.Context(), sh, "-c", script).Output()
		if err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		want := strings.Split(strings.TrimSuffix(string(out), "\x00"), "\x00")
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%q (-sh +got):\n%s", line, diff)
		}
	}
}

func TestACommandThatMakesNoSenseIsRefused(t *testing.T) {
	for _, c := range []struct{ spec, want string }{
		{"thumb", "must be NAME=COMMAND"},
		{"=true", "must be NAME=COMMAND"},
		{"thumb= ", "must be NAME=COMMAND"},
		{"a b=true", "contains a blank"},
		{"x=echo 'open", "'open is not closed"},
		{`x=echo "open \"`, "is not closed"},
		{`x=echo \`, "ends in a backslash"},
		{"x=sort {0} | uniq", "only a shell understands |, and there is none; quote it, or add --shell"},
		{"x=sort {0} >out", "understands >"},
		{"x=a && b", "understands &"},
		{"x=echo $HOME", "understands $H"},
		{`x=echo "${HOME}"`, "understands ${"},
		{"x=echo `date`", "understands `"},
		{`x=echo "$(date)"`, "understands $("},
		{"x=ls ~/file", "understands ~"},
		{"x=ls *.go", "understands *"},
		{"x={0} file", "the program must be named"},
		{"x='' file", "the program's name is empty"},
		{"x=sh -c 'cat {0}'", "behind -c many programs take text to run"},
		{"x=sh -c {0}", "behind -c"},
		{"x=bash -c -- {0}", "behind -c"},
		{"x=sh -c -e {0}", "behind -e"},
		{"x=bash -c +x -x x{0}", "behind -c"},
		{"x=rbash -c {0}", "behind -c"},
		{"x=flock f -c {0}", "behind -c"},
		{"x=script -qec {0}", "behind -qec"},
		{"x=/bin/bash -euc {0} {0}", "behind -euc"},
		{"x=bash +c {0}", "behind +c"},
		{"x=bash +x +ec -- {0}", "behind +ec"},
		{"x=perl -e{0}", "behind -e"},
		{"x=mysql --execute {0}", "--execute={0}"},
		{"x=su --command {0}", "behind --command many"},
		{"x=su --command={0}", "behind --command= many"},
		{"x=flock f --command {0}", "behind --command"},
		{"x=ssh -oProxyCommand={0} host", "behind -oProxyCommand="},
		{"x=node --eval {0}", "behind --eval"},
		{"x=sqlite3 -cmd {0}", "behind -cmd"},
		{"x=bash -c ./{0}", "behind -c"},
		{"x=ssh host 'cat {0}'", "says more than an argument"},
		{"x=watch 'ls\t{0}'", "says more than an argument"},
		{"x=env -S 'a\"{0}\"'", "says more than an argument"},
		{"x=echo {{0}}{0}", "says more than an argument"},
		{"x=true \x00", "NUL"},
	} {
		if _, err := parseProgram(c.spec, false); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%q: got %v, want %q", c.spec, err, c.want)
		}
	}
	for _, spec := range []string{
		`x=sh -c 'cat "$1"' sh {0}`, "x=sh {0}", "x=sh convert.sh -x {0}", "x=env sh -e convert.sh {0}",
		"x=sh -c", "x=convert {0} -resize 200 out/{0}.png", "x=gzip -k -- {0}", "x=ffmpeg -i {0} -c copy out-{0}",
		"x=git -C {dir} log --format={format}", "x=mail -s a=1,b@{0}:%+_ {to}", "x=echo größe{0}", "x=a {0}{1}",
		"x=awk '{print $1}' {0}", "x=convert --file={0} --size={1}", "x=tar -C {0} -x", "x=a=b",
		"x=find . -name *{{0}}",
	} {
		if _, err := parseProgram(strings.ReplaceAll(spec, "*", ""), false); err != nil {
			t.Errorf("%q: %v", spec, err)
		}
	}
}

func TestAPlaceholderInTheTextOfAShellIsRefused(t *testing.T) {
	for _, c := range []struct{ text, want string }{
		{"cat {0}", `write "$1"`}, {`cat "{1}"`, `write "$2"`}, {"cat '{9}'", `write "${10}"`},
		{"cat {to}", `write "$PINION_ARG_to"`}, {"cat {x-y}", "enqueue it by position"}, {"cat {größe}", "by position"},
		{"awk '{print}'", "for the text { print}"}, {"a # it's\n{0}", `write "$1"`}, {"cat <<.\n{0}\n.", `write "$1"`},
	} {
		_, err := parseProgram("x="+c.text, true)
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%q: got %v, want %q", c.text, err, c.want)
		}
	}
	for _, text := range []string{
		`cat "$1"`, "echo ${name} ${1}", `echo \{0}`, "mustache '{{name}}'", "awk '{ print }'", "echo {a,b} {} { }",
		"f() { echo; }; f",
	} {
		p, err := parseProgram("x="+text, true)
		if err != nil {
			t.Errorf("%q: %v", text, err)
			continue
		}
		argv, err := p.argv(pinion.NewJob("x", "{0}", "a b"))
		want := []string{"/bin/sh", "-c", text, "x", "{0}", "a b"}
		if diff := cmp.Diff(want, argv); diff != "" || err != nil {
			t.Errorf("%q: %v (-want +got):\n%s", text, err, diff)
		}
	}
}

func TestOnlyNamesThatTheTextUsesAreInTheEnvironment(t *testing.T) {
	p, err := parseProgram(`x=echo "$PINION_ARG_to" "${PINION_ARG_big}" "$PINION_ARG_to" "$PINION_ARG_missing"`, true)
	if err != nil {
		t.Fatal(err)
	}
	job := &pinion.Job{Kwargs: map[string]any{
		"to": "Ada", "big": 12345678901234567890.0, "LD_PRELOAD": "x", "other": 1,
	}}
	got, err := p.namedArguments(job)
	want := []string{"PINION_ARG_to=Ada", "PINION_ARG_big=12345678901234567000"}
	if diff := cmp.Diff(want, got); diff != "" || err != nil {
		t.Errorf("%v (-want +got):\n%s", err, diff)
	}
}

func TestBracesOfOtherProgramsAreNoticed(t *testing.T) {
	for _, c := range []struct {
		command string
		shell   bool
		want    bool
	}{
		{"gzip {}", false, true}, {"gzip {0}", false, false}, {"find {0} -exec rm {} ;", true, true},
		{`find "$1" -exec rm {} \;`, true, false}, {"for f in $*; do echo {}; done", true, false},
		{"true", false, false},
	} {
		p := &program{command: c.command, shell: c.shell}
		if !c.shell {
			for word := range strings.FieldsSeq(c.command) {
				p.words = append(p.words, newTemplate(word))
			}
		}
		var log strings.Builder
		p.runner = &runner{log: newLogger(&log, false, false)}
		p.warnOfBraces()
		if got := log.Len() > 0; got != c.want {
			t.Errorf("%s: %s", c.command, &log)
		}
	}
}

func TestArgumentsOfAJobBecomeWordsOrPartsOfWords(t *testing.T) {
	nasty := "a b'c\"d $(touch x) `touch x` * \\ \n;{1}"
	job := &pinion.Job{
		Args:   []any{nasty, 12345678901234567890.0, json.RawMessage(`{"a": [1, "<>"]}`), true, nil, ""},
		Kwargs: map[string]any{"to": "Ada", "größe": 3, "x-y": "z"},
	}
	for _, c := range []struct {
		command string
		want    []string
	}{
		{"echo {0}", []string{"echo", nasty}},
		{`echo x{0}y "{0}" '{0}'`, []string{"echo", "x" + nasty + "y", nasty, nasty}},
		{"echo --file={0}", []string{"echo", "--file=" + nasty}},
		{"echo {1} {2} {3} {4} {5}",
			[]string{"echo", "12345678901234567000", `{"a":[1,"<>"]}`, "true", "null", ""}},
		{"echo {to} {größe} {x-y} {to}{to}", []string{"echo", "Ada", "3", "z", "AdaAda"}},
		{"echo {{0}} {{to}} {} { } {a b} {{}} '{print $1}' {0",
			[]string{"echo", "{0}", "{to}", "{}", "{", "}", "{a", "b}", "{{}}", "{print $1}", "{0"}},
	} {
		got, err := argvOf(t, c.command, false, job)
		if diff := cmp.Diff(c.want, got); diff != "" || err != nil {
			t.Errorf("%s: %v (-want +got):\n%s", c.command, err, diff)
		}
	}
	for name, problem := range map[string]string{
		"6":                    "the job has 6 by position, from {0}",
		"99999999999999999999": "the job has 6 by position, from {0}",
		"from":                 "the job has none of that name",
	} {
		_, err := argvOf(t, "echo {"+name+"}", false, job)
		if want := "argument {" + name + "} is missing: " + problem; err == nil || err.Error() != want {
			t.Errorf("error %v, want %s", err, want)
		}
	}
}

// argvOf returns the command line of a job.
func argvOf(t *testing.T, command string, shell bool, job *pinion.Job) ([]string, error) {
	t.Helper()
	p, err := parseProgram("task="+command, shell)
	if err != nil {
		t.Fatal(err)
	}
	return p.argv(job)
}

// shellTexts are texts for a shell in which the argument "$1" or "$PINION_ARG_to" stands where the quotes of
// others have ended early. Each prints the argument between brackets.
var shellTexts = []string{
	`printf '[%s]' "$1"`,
	`printf '[%s]' "$PINION_ARG_to"`,
	"# a 5\" disk\nprintf '[%s]' \"$1\"",
	"# it's\nprintf '[%s]' \"$1\"",
	`printf '[%s]' "$(case x in x) printf '%s.' "$1";; esac)" | sed 's/\.]$/]/'`,
	`x=$1; printf '[%s]' "$x"`,
	`set -- "$PINION_ARG_to"; printf '[%s]' "$@"`,
	"cat <<end\n[$1]\nend\n",
}

// argumentTexts are texts that try to be program text.
var argumentTexts = []string{
	"a  b", `'; touch out; '`, `"; touch out; "`, "$(touch out)", "`touch out`", "*", `\`, "\n", "${0}", "{0}", "-n",
	"a[$(touch out)]", "$((a[$(touch out)]))", "'\"\\\n", "end\ntouch out", ")", ";;", "-c", "--", "é\xff", "a\rb",
}

// shells returns the shells that this machine has: sh, bash and dash.
func shells() (found []string) {
	for _, name := range []string{"sh", "bash", "dash"} {
		if path, err := exec.LookPath(name); err == nil {
			found = append(found, path)
		}
	}
	return found
}

// checkShellText runs the text in a shell with an argument, which must come out as it is.
func checkShellText(t *testing.T, shell, text, argument string) {
	t.Helper()
	job := &pinion.Job{Args: []any{argument}, Kwargs: map[string]any{"to": argument}}
	p, err := parseProgram("task="+text, true)
	if err != nil {
		t.Fatal(err)
	}
	argv, err := p.argv(job)
	env, envErr := p.namedArguments(job)
	if errors.Join(err, envErr) != nil {
		return // a NUL, for example
	}
	cmd := exec.CommandContext(t.Context(), shell, argv[1:]...)
	cmd.Env = append(os.Environ(), env...)
	out, err := cmd.Output() // without what a shell says of a locale that it does not know
	got := strings.TrimRight(string(out), "\n")
	var want string
	raw, _ := json.Marshal(argument) // U+FFFD for what isn't UTF-8
	if err := json.Unmarshal(raw, &want); err != nil {
		t.Fatal(err)
	}
	want = "[" + want + "]"
	if got != want || err != nil {
		t.Errorf("%s: %s with %q: %v, got %q", shell, text, argument, err, got)
	}
	if files, _ := filepath.Glob("*"); len(files) > 0 {
		t.Errorf("%s: %s with %q has made %v", shell, text, argument, files)
	}
}

func TestNoArgumentBreaksOutOfAShellCommand(t *testing.T) {
	t.Chdir(t.TempDir())
	for _, shell := range shells() {
		for _, text := range shellTexts {
			for _, argument := range argumentTexts {
				checkShellText(t, shell, text, argument)
			}
		}
	}
}

// FuzzShellArgument: whatever an argument is, a real shell does not run it.
func FuzzShellArgument(f *testing.F) {
	for i, argument := range argumentTexts {
		f.Add(uint8(i), argument)
	}
	found := shells()
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, choice uint8, argument string) {
		t.Chdir(dir)
		shell := found[int(choice)%len(found)]
		text := shellTexts[int(choice)/len(found)%len(shellTexts)]
		checkShellText(t, shell, text, argument)
	})
}

// FuzzNoShellBehindAnOption: whatever words the user writes behind the name of a shell, no argument is a
// command, unless parseProgram refuses the words. Options that take a value of their own, such as -o, are left
// out: it cannot be known whether the word behind them is theirs.
func FuzzNoShellBehindAnOption(f *testing.F) {
	words := []string{
		"{0}", "x{0}", "./{0}", "'{0}'", "'a {0}'", "-c", "-ec", "-e", "-u", "--", "+x", "'cat \"$1\"'", "x", "sh",
		"-c{0}", "{{0}}",
	}
	f.Add([]byte{0})
	f.Add([]byte{5, 0})
	f.Add([]byte{5, 9, 0})
	f.Add([]byte{5, 7, 1})
	f.Add([]byte{6, 10, 2})
	f.Add([]byte{5, 11, 13, 0})
	f.Add([]byte{8, 5, 8, 9, 3})
	found := shells()
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, picks []byte) {
		t.Chdir(dir)
		if len(picks) > 8 {
			return
		}
		var line []string
		for _, pick := range picks {
			line = append(line, words[int(pick)%len(words)])
		}
		for _, shell := range found {
			command := shell + " " + strings.Join(line, " ")
			p, err := parseProgram("task="+command, false)
			if err != nil {
				continue
			}
			argv, err := p.argv(pinion.NewJob("task", "$(touch out)"))
			if err != nil {
				t.Fatal(err)
			}
			exec.CommandContext(t.Context(), argv[0], argv[1:]...).Run() // most make no sense
			if files, _ := filepath.Glob("*"); len(files) > 0 {
				t.Fatalf("%s has made %v", command, files)
			}
		}
	})
}

// FuzzCommandLine: quoted words come back as they were; and how many words there are, which program runs and
// the text for a shell depend only on what the user has written, not on the arguments of a job.
func FuzzCommandLine(f *testing.F) {
	for _, seed := range []string{
		"gzip -k -- {0}", `a "b {to}" 'c'\ d`, "sort {0} | wc", `echo "$(cat '{0}')" {{1}}`, "sh -eo x -c {0}",
		`"`, `\`, "~", "$", "{",
	} {
		f.Add(seed, "a b")
	}
	f.Fuzz(func(t *testing.T, command, argument string) {
		words := strings.Split(command, " ")
		var line []string
		for _, word := range words {
			line = append(line, shellWord(word))
		}
		if got, err := splitWords(strings.Join(line, " ")); err != nil || !slices.Equal(got, words) {
			t.Errorf("%q: got %q, %v", words, got, err)
		}
		for _, shell := range []bool{false, true} {
			p, err := parseProgram("task="+command, shell)
			if err != nil {
				continue
			}
			jobOf := func(value string) *pinion.Job {
				return &pinion.Job{Args: []any{value, value, value}, Kwargs: map[string]any{"to": value}}
			}
			argv, err := p.argv(jobOf(argument))
			other, otherErr := p.argv(jobOf("x"))
			if errors.Join(err, otherErr) != nil {
				continue
			}
			if len(argv) != len(other) || argv[0] != other[0] || shell && argv[2] != other[2] {
				t.Errorf("%q with %q: %q, with x: %q", command, argument, argv, other)
			}
		}
	})
}

package cli

import (
	"encoding/json"
	"errors"
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
		"con\\\ntinued", "\"con\\\ntinued\"", "new\nline", `$ a$`, `"it's"`, `'say "yes"'`, `é"ü"\ö`, `a#b`,
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
		{"x=sh -c 'cat {0}'", "could run any command"},
		{"x=/bin/bash -euc 'cat {0}' {0}", "could run any command"},
		{"x=bash -eo pipefail -c 'cat {0}'", "could run any command"},
		{"x=bash -O extglob -c 'cat {0}'", "could run any command"},
		{"x=timeout 5 sh --posix -c 'cat {0}'", "could run any command"},
		{"x=true \x00", "NUL"},
	} {
		if _, err := parseProgram(c.spec, false); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%q: got %v, want %q", c.spec, err, c.want)
		}
	}
	for _, spec := range []string{
		`x=sh -c 'cat "$1"' sh {0}`, "x=sh {0}", "x=sh convert.sh -c {0}", "x=env sh -e convert.sh -c {0}",
		"x=sh -c",
		"x=awk '{print $1}' {0}", "x=a=b",
	} {
		if _, err := parseProgram(spec, false); err != nil {
			t.Errorf("%q: %v", spec, err)
		}
	}
}

func TestAnArgumentInTheArithmeticOfAShellIsRefused(t *testing.T) {
	for _, spec := range []string{
		"x=echo $(({0}+1))", `x=echo "$(( 1 + {n} ))"`, "x=((n = {0}))", "x=echo $(( (1) + $(cat {0}) ))",
	} {
		_, err := parseProgram(spec, true)
		if err == nil || !strings.Contains(err.Error(), "could run any command") {
			t.Errorf("%q: got %v", spec, err)
		}
	}
	for _, spec := range []string{
		"x=echo $((1+1)) {0}", `x=echo "$(( (1) ))" {0}`, `x=echo "((" {0}`, "x=echo '$((' {0}",
		"x=( (cat {0}); cat {0})",
	} {
		if _, err := parseProgram(spec, true); err != nil {
			t.Errorf("%q: %v", spec, err)
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

func TestNoArgumentBreaksOutOfAShellCommand(t *testing.T) {
	t.Chdir(t.TempDir())
	for _, value := range []string{
		"a  b", `'; touch out; '`, `"; touch out; "`, "$(touch out)", "`touch out`", "*", `\`, "\n", "${0}", "{0}",
		"-n",
	} {
		for _, c := range []struct{ command, want string }{
			{`printf '[%s]' {0} x{0}y`, "[" + value + "][x" + value + "y]"},
			{`printf '[%s]' "{0}" "x {0} y"`, "[" + value + "][x " + value + " y]"},
			{`printf '[%s]' '{0}' 'x {0} y'`, "[" + value + "][x " + value + " y]"},
			{`printf '[%s]' "$(printf %s. {to})" '"' \' "'" {to}`,
				"[" + value + `.]["]['][']` + "[" + value + "]"},
			{"(printf '[%s]' \"`printf %s. '{to}'`$((1 + (2)))\" {0} $(echo ')'))",
				"[" + value + ".3][" + value + "][)]"},
			{`to=mine; printf '[%s]' "${to}" {{to}} '${to}' | cat`, "[mine][{to}][${to}]"},
		} {
			job := &pinion.Job{Args: []any{value}, Kwargs: map[string]any{"to": value}}
			argv, err := argvOf(t, c.command, true, job)
			if err != nil {
				t.Fatal(err)
			}
			got, err := exec.CommandContext(t.Context(), argv[0], argv[1:]...).CombinedOutput()
			if diff := cmp.Diff(c.want, string(got)); diff != "" || err != nil {
				t.Errorf("%s with %q: %v (-want +got):\n%s", c.command, value, err, diff)
			}
		}
	}
	if files, _ := filepath.Glob("*"); len(files) > 0 {
		t.Errorf("it has made %v", files)
	}
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
			line = append(line, "'"+strings.ReplaceAll(word, "'", `'\''`)+"'")
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

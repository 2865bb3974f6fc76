package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/pinion-queue/pinion"
)

// newWorkshop is one in which a program that is to end has a second, and what it leaves behind less.
func newWorkshop(t *testing.T) *workshop {
	t.Helper()
	shop, err := openWorkshop(nil, "q.db", 2*time.Second, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	shop.linger = 300 * time.Millisecond
	return shop
}

// runProgram has a worker run one job by a program, with one attempt unless w says otherwise, and returns the job as it
// was left.
func runProgram(t *testing.T, shop *workshop, w *pinion.Worker, shell bool, command string, job *pinion.Job) *pinion.Job {
	t.Helper()
	p, err := parseProgram("task="+command, shell)
	if err != nil {
		t.Fatal(err)
	}
	p.shop = shop
	storage := pinion.NewMemoryStorage()
	defer storage.Close()
	w.Storage, w.Registry, w.Logger = storage, new(pinion.Registry), slog.New(slog.DiscardHandler)
	w.Registry.Add(pinion.Task[*pinion.Job]{Name: "task", Run: p.run})
	if w.Retry == nil {
		w.Retry = new(pinion.RetryPolicy)
	}
	job.Task = "task"
	if err := storage.Enqueue(t.Context(), job); err != nil {
		t.Fatal(err)
	}
	if err := w.Drain(t.Context()); err != nil {
		t.Fatal(err)
	}
	job, err = storage.Get(t.Context(), job.ID)
	if err != nil {
		t.Fatal(err)
	}
	return job
}

func TestACommandLineIsSplitAsAShellWould(t *testing.T) {
	sh, err := exec.LookPath("sh")
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range []string{
		`one`, `  one   two` + "\t three\n", `'single  quoted' "double  quoted"`, `a'b c'd"e f"g`, `'' ""`, `a "" b`, `""a`,
		`back\ slash \'`, `"a \" b \\ c \$x \` + "`" + `"`, `"keeps \n and \' and $ and a$"`, `'keeps \ and " and $x'`, `a\\b`, "con\\\ntinued",
		"\"con\\\ntinued\"", "new\nline", `$ a$`, `"it's"`, `'say "yes"'`, `é"ü"\ö`, `a#b`, `{} {0 a{b c}d}`, `'|' "&" \; \<`, `'~/a' a~ '*' \*`, `\a`, `"\a"`, `"\\a"`,
	} {
		got, err := splitWords(line)
		if err != nil {
			t.Errorf("%q: %v", line, err)
			continue
		}
		cmd := exec.CommandContext(t.Context(), sh, "-c", "HOME=\\~; printf '%s\\000' "+strings.ReplaceAll(line, "\n", " "))
		if strings.Contains(line, "\\\n") {
			cmd.Args[2] = "printf '%s\\000' " + line
		}
		out, err := cmd.Output()
		if err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		want := strings.Split(strings.TrimSuffix(string(out), "\x00"), "\x00")
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%q (-sh +got):\n%s", line, diff)
		}
	}
}

func TestACommandThatCannotBeMeantIsRefused(t *testing.T) {
	for _, c := range []struct{ spec, want string }{
		{"thumb", "must be NAME=COMMAND"},
		{"=true", "must be NAME=COMMAND"},
		{"thumb= ", "must be NAME=COMMAND"},
		{"a b=true", "has a blank in it"},
		{"x=echo 'open", "'open is not closed"},
		{`x=echo "open \"`, "is not closed"},
		{`x=echo \`, "ends in a backslash"},
		{"x=sort {0} | uniq", "| means something to a shell only, and there is none; quote it, or add --shell"},
		{"x=sort {0} >out", "> means"},
		{"x=a && b", "& means"},
		{"x=echo $HOME", "$H means"},
		{`x=echo "${HOME}"`, "${ means"},
		{"x=echo `date`", "` means"},
		{`x=echo "$(date)"`, "$( means"},
		{"x=ls ~/file", "~ means"},
		{"x=ls *.go", "* means"},
		{"x={0} file", "the program must be named"},
		{"x='' file", "the program's name is empty"},
		{"x=sh -c 'cat {0}'", "could run anything"},
		{"x=/bin/bash -euc 'cat {0}' {0}", "could run anything"},
		{"x=bash -eo pipefail -c 'cat {0}'", "could run anything"},
		{"x=bash -O extglob -c 'cat {0}'", "could run anything"},
		{"x=timeout 5 sh --posix -c 'cat {0}'", "could run anything"},
		{"x=true \x00", "NUL"},
	} {
		if _, err := parseProgram(c.spec, false); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%q: got %v, want %q", c.spec, err, c.want)
		}
	}
	for _, spec := range []string{"x=echo $(({0}+1))", `x=echo "$(( 1 + {n} ))"`, "x=((n = {0}))", "x=echo $(( (1) + $(cat {0}) ))"} {
		if _, err := parseProgram(spec, true); err == nil || !strings.Contains(err.Error(), "could run anything") {
			t.Errorf("%q: got %v", spec, err)
		}
	}
	for _, spec := range []string{"x=echo $((1+1)) {0}", `x=echo "$(( (1) ))" {0}`, `x=echo "((" {0}`, "x=echo '$((' {0}", "x=( (cat {0}); cat {0})"} {
		if _, err := parseProgram(spec, true); err != nil {
			t.Errorf("%q: %v", spec, err)
		}
	}
	for _, spec := range []string{`x=sh -c 'cat "$1"' sh {0}`, "x=sh {0}", "x=sh convert.sh -c {0}", "x=env sh -e convert.sh -c {0}", "x=sh -c", "x=awk '{print $1}' {0}", "x=a=b"} {
		if _, err := parseProgram(spec, false); err != nil {
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
		want    any // or error
	}{
		{"echo {0}", []string{"echo", nasty}},
		{`echo x{0}y "{0}" '{0}'`, []string{"echo", "x" + nasty + "y", nasty, nasty}},
		{"echo {1} {2} {3} {4} {5}", []string{"echo", "12345678901234567000", `{"a":[1,"<>"]}`, "true", "null", ""}},
		{"echo {to} {größe} {x-y} {to}{to}", []string{"echo", "Ada", "3", "z", "AdaAda"}},
		{"echo {{0}} {{to}} {} { } {a b} {{}} '{print $1}' {0", []string{"echo", "{0}", "{to}", "{}", "{", "}", "{a", "b}", "{{}}", "{print $1}", "{0"}},
		{"echo {6}", errors.New("the argument {6} is missing: by position the job has 6, counted from {0}")},
		{"echo {99999999999999999999}", errors.New("the argument {99999999999999999999} is missing: by position the job has 6, counted from {0}")},
		{"echo {from}", errors.New("the argument {from} is missing: the job has none of that name")},
	} {
		p, err := parseProgram("task="+c.command, false)
		if err != nil {
			t.Fatal(err)
		}
		got, err := p.argv(job)
		if want, bad := c.want.(error); bad {
			if err == nil || err.Error() != want.Error() {
				t.Errorf("%s: error %v, want %v", c.command, err, want)
			}
		} else if diff := cmp.Diff(c.want, any(got)); diff != "" || err != nil {
			t.Errorf("%s: %v (-want +got):\n%s", c.command, err, diff)
		}
	}
}

func TestNoArgumentBreaksOutOfAShellCommand(t *testing.T) {
	t.Chdir(t.TempDir())
	for _, value := range []string{"a  b", `'; touch out; '`, `"; touch out; "`, "$(touch out)", "`touch out`", "*", `\`, "\n", "${0}", "{0}", "-n"} {
		for _, c := range []struct{ command, want string }{
			{`printf '[%s]' {0} x{0}y`, "[" + value + "][x" + value + "y]"},
			{`printf '[%s]' "{0}" "x {0} y"`, "[" + value + "][x " + value + " y]"},
			{`printf '[%s]' '{0}' 'x {0} y'`, "[" + value + "][x " + value + " y]"},
			{`printf '[%s]' "$(printf %s. {to})" '"' \' "'" {to}`, "[" + value + `.]["]['][']` + "[" + value + "]"},
			{"(printf '[%s]' \"`printf %s. '{to}'`$((1 + (2)))\" {0} $(echo ')'))", "[" + value + ".3][" + value + "][)]"},
			{`to=mine; printf '[%s]' "${to}" {{to}} '${to}' | cat`, "[mine][{to}][${to}]"},
		} {
			p, err := parseProgram("task="+c.command, true)
			if err != nil {
				t.Fatal(err)
			}
			argv, err := p.argv(&pinion.Job{Args: []any{value}, Kwargs: map[string]any{"to": value}})
			if err != nil {
				t.Fatal(err)
			}
			got, err := exec.CommandContext(t.Context(), argv[0], argv[1:]...).CombinedOutput()
			if diff := cmp.Diff(c.want, string(got)); diff != "" || err != nil {
				t.Errorf("%s with %q: %v (-want +got):\n%s", c.command, value, err, diff)
			}
		}
	}
	if left, _ := filepath.Glob("*"); len(left) > 0 {
		t.Errorf("it has made %v", left)
	}
}

func TestAProgramIsToldItsJob(t *testing.T) {
	shop := newWorkshop(t)
	defer shop.guard.close()
	job := &pinion.Job{Args: []any{1, "<two>"}, Kwargs: map[string]any{"to": "Ada"}, Queue: "mail"}
	got := runProgram(t, shop, new(pinion.Worker), true, `cat; echo "$PINION_JOB_ID $PINION_TASK $PINION_ATTEMPT $PINION_QUEUE $PINION_RETRY $PINION_NO_RETRY"; pwd; echo "$PINION_DB"`, job)
	pwd, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	want := fmt.Sprintf(`{"args":[1,"<two>"],"kwargs":{"to":"Ada"}}`+"\n%s task 1 mail 75 100\n%s\n%s/q.db", job.ID, pwd, pwd)
	var text string
	json.Unmarshal(got.Result, &text)
	if diff := cmp.Diff(want, text); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	got = runProgram(t, shop, new(pinion.Worker), false, "cat", new(pinion.Job))
	if want := `{"args":[],"kwargs":{}}`; string(got.Result) != want {
		t.Errorf("without arguments: %s, want %s", got.Result, want)
	}
}

func TestStandardOutputIsTheResult(t *testing.T) {
	shop := newWorkshop(t)
	defer shop.guard.close()
	large := strings.Repeat("é", resultMost/2)
	for _, c := range []struct{ text, want string }{
		{"", ""}, {"\n", ""},
		{"hello\n", `"hello"`}, {"two\nlines\n\n", `"two\nlines"`}, {" blanks ", `" blanks "`},
		{"42\n", "42"}, {"007", `"007"`}, {`{"a": [1, 2]}` + "\n", `{"a":[1,2]}`}, {"1\n2\n", `"1\n2"`}, {`"text"`, `"text"`},
		{"18446744073709551617", "18446744073709551617"},
		{"bad \xff\xfe byte", `"bad ` + "\uFFFD" + ` byte"`}, {`["` + "\xff" + `"]`, `["` + "\uFFFD" + `"]`},
		{"nul \x00", `"nul \u0000"`},
		{large, `"` + large + `"`},
		{"a" + large, `"a` + strings.TrimSuffix(large, "é") + `"`},                       // the bound is in the middle of a character
		{strings.Repeat("1", resultMost+1), `"` + strings.Repeat("1", resultMost) + `"`}, // a number that is cut is another
		{strings.Repeat("[", 20_000) + strings.Repeat("]", 20_000), `"` + strings.Repeat("[", 20_000) + strings.Repeat("]", 20_000) + `"`},
	} {
		file := filepath.Join(t.TempDir(), "text")
		write(t, file, c.text)
		job := runProgram(t, shop, new(pinion.Worker), false, "cat {0}", pinion.NewJob("", file))
		if job.Status != pinion.StatusSuccess || string(job.Result) != c.want {
			t.Errorf("%.40q: %s, %s, result %.60s, want %.60s", c.text, job.Status, job.Error, job.Result, c.want)
		}
	}
}

func TestAnExitStatusSaysWhatBecameOfAJob(t *testing.T) {
	shop := newWorkshop(t)
	defer shop.guard.close()
	large := strings.Repeat("x", 900_000)
	for _, c := range []struct {
		name, command, arg string
		attempts           int // of two
		want               string
	}{
		{"success", "echo warning >&2", "", 1, ""},
		{"failure", "echo no >&2; exit 3", "", 2, "exit status 3: no"},
		{"failure without a word", "echo no; exit 1", "", 2, "exit status 1"},
		{"several lines", "printf 'one\\n\\ntwo\\n\\n' >&2; exit 1", "", 2, "exit status 1: one\ntwo"},
		{"for good", "echo never >&2; exit $PINION_NO_RETRY", "", 1, "exit status 100: never"},
		{"for now", "echo later >&2; exit $PINION_RETRY", "", 2, "exit status 75: later"},
		{"a signal", "echo ouch >&2; kill -SEGV $$", "", 2, "killed by signal: segmentation fault: ouch"},
		{"a long complaint", `i=0; while [ $i -lt 300 ]; do echo "line $i" >&2; i=$((i+1)); done; exit 1`, "", 2, "exit status 1: line 187\nline 188\n...\nline 299"},
		{"a long line", `printf '%2000s' | tr ' ' y >&2; exit 1`, "", 2, "exit status 1: " + strings.Repeat("y", tailMost)},
		{"a progress bar", `printf 'start\n10%%\r50%%\r90%%\rfailed\r\n' >&2; exit 1`, "", 2, "exit status 1: start\nfailed"},
		{"not UTF-8", `printf 'caf\351' >&2; exit 1`, "", 2, "exit status 1: caf\uFFFD"},
		{"an argument is missing", "echo {1}", "", 1, "the argument {1} is missing: by position the job has 1, counted from {0}"},
		{"a NUL", "echo {0}", "a\x00b", 1, "the argument {0} has a NUL in it, which no command line can have"},
		{"much on standard input, unread", "exec <&-; sleep 0.05", large, 1, ""},
		{"much on the command line", "echo {0}", large, 1, "fork/exec /bin/sh: argument list too long; it can read its arguments from standard input, as JSON, instead"},
		{"much on standard output", "head -c 10000000 /dev/zero", "", 1, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := &pinion.Worker{Retry: &pinion.RetryPolicy{MaxRetries: 1, BaseDelay: time.Millisecond}}
			job := runProgram(t, shop, w, true, c.command, pinion.NewJob("", c.arg))
			if before, after, cut := strings.Cut(c.want, "\n...\n"); cut && strings.HasPrefix(job.Error, before) && strings.HasSuffix(job.Error, after) {
				c.want = job.Error
			}
			status := pinion.StatusFailed
			if c.want == "" {
				status = pinion.StatusSuccess
			}
			if job.Status != status || job.Error != c.want || job.Attempts != c.attempts {
				t.Errorf("%s after %d attempts: %q; want %s after %d: %q", job.Status, job.Attempts, job.Error, status, c.attempts, c.want)
			}
		})
	}
}

func TestAProgramSaysWhenItIsToBeTriedAgain(t *testing.T) {
	shop := newWorkshop(t)
	defer shop.guard.close()
	// By the policy it would be in an hour.
	w := &pinion.Worker{Retry: &pinion.RetryPolicy{MaxRetries: 1, BaseDelay: time.Hour, Cap: time.Hour}}
	job := runProgram(t, shop, w, true, `[ $PINION_ATTEMPT = 2 ] || { echo come back; echo 0.01; exit $PINION_RETRY; }`, new(pinion.Job))
	if job.Status != pinion.StatusSuccess || job.Attempts != 2 {
		t.Errorf("%s after %d attempts: %s", job.Status, job.Attempts, job.Error)
	}
}

// The cause is what the worker goes by: it tells a failure from a job that goes back, or is another's by now.
func TestACommandEndsWithItsContextAndSaysWhy(t *testing.T) {
	shop := newWorkshop(t)
	defer shop.guard.close()
	p, err := parseProgram("task=sh -c 'echo >started; sleep 600; exit 0'", false)
	if err != nil {
		t.Fatal(err)
	}
	p.shop = shop
	for _, cause := range []error{pinion.ErrLeaseLost, pinion.ErrCanceled, pinion.ErrShutdown} {
		t.Chdir(t.TempDir())
		ctx, cancel := context.WithCancelCause(t.Context())
		ended := make(chan error)
		go func() { ended <- p.run(ctx, new(pinion.Job)) }()
		await(t, new(strings.Builder), func() bool { _, err := os.Stat("started"); return err == nil })
		cancel(cause)
		if err := <-ended; !errors.Is(err, cause) || err.Error() != cause.Error()+": killed by signal: terminated" {
			t.Errorf("after %v: %v", cause, err)
		}
	}
}

func FuzzCommandLine(f *testing.F) {
	for _, seed := range []string{"gzip -k -- {0}", `a "b {to}" 'c'\ d`, "sort {0} | wc", `echo "$(cat '{0}')" {{1}}`, "sh -eo x -c {0}", `"`, `\`, "~", "$", "{"} {
		f.Add(seed, "a b")
	}
	f.Fuzz(func(t *testing.T, command, argument string) {
		// Quoted words come back as they were.
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
			job := func(value string) *pinion.Job {
				return &pinion.Job{Args: []any{value, value, value}, Kwargs: map[string]any{"to": value}}
			}
			argv, err := p.argv(job(argument))
			other, otherErr := p.argv(job("x"))
			if err != nil || otherErr != nil {
				continue
			}
			// How many words there are, what runs and a shell's script say only what the user has written.
			if len(argv) != len(other) || argv[0] != other[0] || shell && argv[2] != other[2] {
				t.Errorf("%q with %q: %q, with x: %q", command, argument, argv, other)
			}
		}
	})
}

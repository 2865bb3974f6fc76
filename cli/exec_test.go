package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/pinion-queue/pinion"
)

// testRunner returns a runner that gives programs as much time as they need. It is closed at the end of the
// test.
func testRunner(t *testing.T) *runner {
	t.Helper()
	r, err := newRunner("q.db", time.Hour, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	r.linger = time.Hour
	t.Cleanup(r.close)
	return r
}

// testProgram returns a program of --exec.
func testProgram(t *testing.T, r *runner, shell bool, command string) *program {
	t.Helper()
	p, err := parseProgram("task="+command, shell)
	if err != nil {
		t.Fatal(err)
	}
	p.runner = r
	if err := p.resolve(); err != nil {
		t.Fatal(err)
	}
	return p
}

// drain has a worker run one job, with one attempt unless w says otherwise, and returns the job as it was
// left.
func drain(t *testing.T, p *program, w *pinion.Worker, job *pinion.Job) *pinion.Job {
	t.Helper()
	storage := pinion.NewMemoryStorage()
	defer storage.Close()
	w.Storage, w.Registry, w.Logger = storage, new(pinion.Registry), slog.New(slog.DiscardHandler)
	w.Registry.Add(pinion.Task[*pinion.Job]{Name: "task", Run: p.run})
	if w.Retry == nil {
		w.Retry = new(pinion.RetryPolicy)
	}
	job.Task = "task"
	mustEnqueue(t, storage, job)
	if err := w.Drain(t.Context()); err != nil {
		t.Fatal(err)
	}
	job, err := storage.Get(t.Context(), job.ID)
	if err != nil {
		t.Fatal(err)
	}
	return job
}

func TestAProgramIsToldItsJob(t *testing.T) {
	r := testRunner(t)
	job := &pinion.Job{Args: []any{1, "<two>"}, Kwargs: map[string]any{"to": "Ada"}, Queue: "mail"}
	p := testProgram(t, r, true, `cat
		echo "$1 $2 $3 $PINION_ARG_to"
		echo "$PINION_JOB_ID $PINION_TASK $PINION_ATTEMPT $PINION_QUEUE $PINION_RETRY $PINION_NO_RETRY"
		pwd
		echo "$PINION_DB"`)
	p.stdin = true
	got := drain(t, p, new(pinion.Worker), job)
	pwd, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	want := fmt.Sprintf(`{"args":[1,"<two>"],"kwargs":{"to":"Ada"}}
1 <two>  Ada
%s task 1 mail 75 100
%s
%s/q.db`, job.ID, pwd, pwd)
	var text string
	if err := json.Unmarshal(got.Result, &text); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, text); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	p = testProgram(t, r, false, "cat")
	p.stdin = true
	got = drain(t, p, new(pinion.Worker), new(pinion.Job))
	if want := `{"args":[],"kwargs":{}}`; string(got.Result) != want {
		t.Errorf("without arguments: %s, want %s", got.Result, want)
	}
}

func TestStandardOutputIsTheResult(t *testing.T) {
	p := testProgram(t, testRunner(t), false, "cat {0}")
	large := strings.Repeat("é", resultLimit/2)
	cut := func(kept int) string {
		return fmt.Sprintf(`\n[pinion: cut off after %d of %d bytes]"`, resultLimit, resultLimit+kept)
	}
	deep := strings.Repeat("[", 20_000) + strings.Repeat("]", 20_000)
	for _, c := range []struct{ text, want string }{
		{"", ""}, {"\n", ""},
		{"hello\n", `"hello"`}, {"two\nlines\n\n", `"two\nlines"`}, {" blanks ", `" blanks "`},
		{"42\n", "42"}, {"007", `"007"`}, {`{"a": [1, 2]}` + "\n", `{"a":[1,2]}`}, {"1\n2\n", `"1\n2"`},
		{`"text"`, `"text"`},
		{"18446744073709551617", "18446744073709551617"},
		{"bad \xff\xfe byte", `"bad ` + "\uFFFD" + ` byte"`}, {`["` + "\xff" + `"]`, `["` + "\uFFFD" + `"]`},
		{"nul \x00", `"nul \u0000"`},
		{large, `"` + large + `"`},
		// The limit is in the middle of a character.
		{"a" + large, `"a` + strings.TrimSuffix(large, "é") + cut(1)},
		// A number that is cut off is another number, so it becomes a string.
		{strings.Repeat("1", resultLimit+1), `"` + strings.Repeat("1", resultLimit) + cut(1)},
		{deep, `"` + deep + `"`},
	} {
		file := filepath.Join(t.TempDir(), "text")
		write(t, file, c.text)
		job := drain(t, p, new(pinion.Worker), pinion.NewJob("", file))
		if isCut := wasCut(job.Result); isCut != (len(c.text) > resultLimit) {
			t.Errorf("%.40q: wasCut reports %t", c.text, isCut)
		}
		if job.Status != pinion.StatusSuccess || string(job.Result) != c.want {
			t.Errorf("%.40q: %s, %s, result %.60s, want %.60s",
				c.text, job.Status, job.Error, job.Result, c.want)
		}
	}
}

func TestAnExitStatusDecidesWhatBecomesOfAJob(t *testing.T) {
	r := testRunner(t)
	large := strings.Repeat("x", 900_000)
	var manyLines []string
	for i := 187; i < 300; i++ {
		manyLines = append(manyLines, fmt.Sprint("line ", i))
	}
	for _, c := range []struct {
		name, command, arg string
		attempts           int // of two
		want               string
	}{
		{"success", "echo warning >&2", "", 1, ""},
		{"failure", "echo no >&2; exit 3", "", 2, "exit status 3: no"},
		{"failure without a word", "exit 1", "", 2, "exit status 1"},
		{"failure on standard output", "echo no; exit 1", "", 2, "exit status 1: no"},
		{"both streams", "echo some; echo no >&2; exit 1", "", 2, "exit status 1: no\n\nstandard output:\nsome"},
		{"several lines", "printf 'one\\n\\ntwo\\n\\n' >&2; exit 1", "", 2, "exit status 1: one\ntwo"},
		{"for good", "echo never >&2; exit $PINION_NO_RETRY", "", 1, "exit status 100: never"},
		{"for now", "echo later >&2; exit $PINION_RETRY", "", 2, "exit status 75: later"},
		{"a signal", "echo ouch >&2; kill -SEGV $$", "", 2, "killed by signal: segmentation fault: ouch"},
		{"many lines", `i=0; while [ $i -lt 300 ]; do echo "line $i" >&2; i=$((i+1)); done; exit 1`, "", 2,
			"exit status 1: " + strings.Join(manyLines, "\n")},
		{"a long line", `printf '%2000s' | tr ' ' y >&2; exit 1`, "", 2,
			"exit status 1: " + strings.Repeat("y", tailLimit)},
		{"a progress bar", `printf 'start\n10%%\r50%%\r90%%\rfailed\r\n' >&2; exit 1`, "", 2,
			"exit status 1: start\nfailed"},
		{"not UTF-8", `printf 'caf\351' >&2; exit 1`, "", 2, "exit status 1: caf\uFFFD"},
		{"an argument is missing", `echo "${2:?is missing}"`, "", 2, "exit status 2: task: 1: 2: is missing"},
		{"a NUL", "echo", "a\x00b", 1, "argument {0} contains a NUL, which no command line can hold"},
		{"much on the command line", "echo", large, 1,
			"fork/exec /bin/sh: argument list too long; " +
				"with --stdin it can read its arguments from standard input instead, as JSON"},
		{"much on standard output", "head -c 10000000 /dev/zero", "", 1, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := &pinion.Worker{Retry: &pinion.RetryPolicy{MaxRetries: 1, BaseDelay: time.Millisecond}}
			job := drain(t, testProgram(t, r, true, c.command), w, pinion.NewJob("", c.arg))
			status := pinion.StatusFailed
			if c.want == "" {
				status = pinion.StatusSuccess
			}
			if job.Status != status || job.Attempts != c.attempts {
				t.Errorf("%s after %d attempts; want %s after %d", job.Status, job.Attempts, status, c.attempts)
			}
			if diff := cmp.Diff(c.want, job.Error); diff != "" {
				t.Errorf("error (-want +got):\n%s", diff)
			}
		})
	}
}

func TestAProgramNeedNotReadItsInput(t *testing.T) {
	p := testProgram(t, testRunner(t), false, "sh -c 'exec <&-; sleep 0.05'")
	p.stdin = true
	job := drain(t, p, new(pinion.Worker), pinion.NewJob("", strings.Repeat("x", 900_000)))
	if job.Status != pinion.StatusSuccess {
		t.Errorf("%s: %s", job.Status, job.Error)
	}
}

// ffmpeg takes what is there for the keys of its user, and quits at a q.
func TestStandardInputIsEmptyUnlessItIsAskedFor(t *testing.T) {
	p := testProgram(t, testRunner(t), false, "wc -c")
	job := drain(t, p, new(pinion.Worker), pinion.NewJob("", "sequence.mp4"))
	if string(job.Result) != "0" {
		t.Errorf("it reads %s bytes", job.Result)
	}
}

func TestAProgramSaysWhenItIsToBeRetried(t *testing.T) {
	// The policy would retry it in an hour.
	w := &pinion.Worker{Retry: &pinion.RetryPolicy{MaxRetries: 1, BaseDelay: time.Hour, Cap: time.Hour}}
	p := testProgram(t, testRunner(t), true,
		`[ $PINION_ATTEMPT = 2 ] || { head -c 70000 /dev/zero; echo come back; echo 0.01; exit $PINION_RETRY; }`)
	job := drain(t, p, w, new(pinion.Job))
	if job.Status != pinion.StatusSuccess || job.Attempts != 2 {
		t.Errorf("%s after %d attempts: %s", job.Status, job.Attempts, job.Error)
	}
}

// stopWhenReady runs a program that makes the file ready, and ends its context with cause when it has. It
// returns the error of the task.
func stopWhenReady(t *testing.T, p *program, cause error) error {
	t.Helper()
	ctx, cancel := context.WithCancelCause(t.Context())
	defer cancel(nil)
	ended := make(chan error)
	go func() { ended <- p.run(ctx, new(pinion.Job)) }()
	await(t, new(strings.Builder), func() bool { return exists("ready") })
	cancel(cause)
	return <-ended
}

// The worker decides by the cause whether a job has failed, goes back, or belongs to another worker by now.
func TestAProgramThatIsStoppedSaysWhy(t *testing.T) {
	p := testProgram(t, testRunner(t), false, "sh -c 'echo >ready; exec sleep 600'")
	for _, cause := range []error{pinion.ErrLeaseLost, pinion.ErrCanceled, pinion.ErrShutdown} {
		t.Chdir(t.TempDir())
		err := stopWhenReady(t, p, cause)
		if !errors.Is(err, cause) || err.Error() != cause.Error()+": killed by signal: terminated" {
			t.Errorf("after %v: %v", cause, err)
		}
	}
}

//go:build unix

package cli

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/pinion-queue/pinion"
)

func TestAScriptWithoutAnInterpreterIsRunByTheShell(t *testing.T) {
	t.Chdir(t.TempDir())
	writeProgram(t, "script", "echo \"$0: $1\"\n")
	job := drain(t, testProgram(t, testRunner(t), false, "./script {0}"), new(pinion.Worker), pinion.NewJob("", "a  b"))
	path, err := filepath.Abs("script")
	if err != nil {
		t.Fatal(err)
	}
	if want := path + ": a  b"; resultText(t, job) != want {
		t.Errorf("%s: %s, result %s, want %s", job.Status, job.Error, job.Result, want)
	}
	// A program of another machine is not for the shell.
	writeProgram(t, "binary", "\x7fELF\x00\x00\x00\necho no\n")
	job = drain(t, testProgram(t, testRunner(t), false, "./binary"), new(pinion.Worker), new(pinion.Job))
	if job.Status != pinion.StatusFailed || !strings.Contains(job.Error, "exec format error") {
		t.Errorf("a program of another machine: %s: %s", job.Status, job.Error)
	}
}

func TestAMissingInterpreterIsNamed(t *testing.T) {
	t.Chdir(t.TempDir())
	writeProgram(t, "good", "#!/bin/sh\necho yes\n")
	writeProgram(t, "missing", "#! /no/such/interpreter -x\n")
	writeProgram(t, "windows", "#!/bin/sh\r\necho\r\n")
	for file, want := range map[string]string{
		"missing": "its interpreter /no/such/interpreter does not exist",
		"windows": `ends in a carriage return, so its interpreter would be "/bin/sh\r"`,
	} {
		p, err := parseProgram("task=./"+file, false)
		if err != nil {
			t.Fatal(err)
		}
		if err := p.resolve(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want %q", file, err, want)
		}
	}
	// It may go away while the worker runs.
	p := testProgram(t, testRunner(t), false, "./good")
	writeProgram(t, "good", "#!/no/such/interpreter\n")
	job := drain(t, p, new(pinion.Worker), new(pinion.Job))
	if want := "its interpreter /no/such/interpreter does not exist"; !strings.Contains(job.Error, want) {
		t.Errorf("%s: %s; want %q", job.Status, job.Error, want)
	}
}

// inDirectory returns a job whose program runs in a directory.
func inDirectory(dir string) *pinion.Job { return &pinion.Job{Meta: map[string]string{metaDir: dir}} }

func TestAProgramRunsInTheDirectoryThatItsJobNames(t *testing.T) {
	other := t.TempDir()
	t.Chdir(t.TempDir())
	own, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	r := testRunner(t)
	p := testProgram(t, r, true, `echo "$(pwd) $PWD"`)
	for _, c := range []struct {
		job  *pinion.Job
		want string
	}{
		{inDirectory(other), other + " " + other},
		{new(pinion.Job), own + " " + own},
	} {
		job := drain(t, p, new(pinion.Worker), c.job)
		if resultText(t, job) != c.want {
			t.Errorf("%v: %s: %s, result %s, want %s", c.job.Meta, job.Status, job.Error, job.Result, c.want)
		}
	}
	r.chdir = false
	job := drain(t, p, new(pinion.Worker), inDirectory(other))
	if resultText(t, job) != own+" "+own {
		t.Errorf("with --no-chdir the result is %s, want %s", job.Result, own)
	}
}

// Whoever may write into the directory of a job must not choose what runs there.
func TestADirectoryNeverChoosesTheProgram(t *testing.T) {
	other, own := t.TempDir(), t.TempDir()
	t.Chdir(own)
	t.Setenv("PATH", "."+string(filepath.ListSeparator)+os.Getenv("PATH"))
	for dir, text := range map[string]string{own: "own", other: "other"} {
		writeProgram(t, filepath.Join(dir, "script"), "#!/bin/sh\necho "+text+"\n")
		writeProgram(t, filepath.Join(dir, "uname"), "#!/bin/sh\necho "+text+"\n")
	}
	r := testRunner(t)
	for _, c := range []struct {
		command string
		shell   bool
	}{{"./script", false}, {"script", true}, {"uname", true}} {
		job := drain(t, testProgram(t, r, c.shell, c.command), new(pinion.Worker), inDirectory(other))
		if string(job.Result) != `"own"` {
			t.Errorf("%s: %s: %s, result %s, want own", c.command, job.Status, job.Error, job.Result)
		}
	}
}

func TestADirectoryThatIsGoneFailsTheAttempt(t *testing.T) {
	dir := t.TempDir()
	write(t, filepath.Join(dir, "file"), "")
	closed := filepath.Join(dir, "closed")
	if err := os.Mkdir(closed, 0o000); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{
		filepath.Join(dir, "gone"): "the job's working directory " + dir + "/gone is gone; make it,",
		filepath.Join(dir, "file"): "not a directory",
		"relative":                 `"relative" is not an absolute path`,
		closed:                     "permission denied",
	} {
		if name == closed && os.Getuid() == 0 {
			continue // nothing is closed to root
		}
		job := drain(t, testProgram(t, testRunner(t), false, "true"), new(pinion.Worker), inDirectory(name))
		if job.Status != pinion.StatusFailed || job.Attempts != 1 || !strings.Contains(job.Error, want) {
			t.Errorf("%s: %s after %d attempts: %s; want %q", name, job.Status, job.Attempts, job.Error, want)
		}
	}
}

func TestAProgramHasNoArgumentsOfTheJobAroundItsWorker(t *testing.T) {
	t.Setenv("PINION_ARG_to", "outer")
	t.Setenv(logsVariable, "logs")
	p := testProgram(t, testRunner(t), true, `echo "$PINION_ARG_to, $PINION_LOGS"`)
	job := drain(t, p, new(pinion.Worker), new(pinion.Job))
	logs, err := filepath.Abs("logs")
	if err != nil {
		t.Fatal(err)
	}
	if want := `", ` + logs + `"`; string(job.Result) != want {
		t.Errorf("%s, want %s", job.Result, want)
	}
}

// resultText returns a result that is text.
func resultText(t *testing.T, job *pinion.Job) (text string) {
	t.Helper()
	if err := json.Unmarshal(job.Result, &text); err != nil {
		t.Errorf("%s: %s, result %s: %v", job.Status, job.Error, job.Result, err)
	}
	return text
}

package main

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/pinion-queue/pinion"
)

// userModule makes a module as a user of this one might have it, with packages of tasks in various places, and returns
// its directory. It requires what the root module requires, so that its go.sum is complete.
func userModule(t *testing.T) string {
	t.Helper()
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	requires := strings.Replace(read(t, filepath.Join(root, "go.mod")), "module "+modulePath, "module example.com/user", 1)
	write(t, filepath.Join(dir, "go.mod"), requires+"\nrequire "+modulePath+" v0.0.0\n\nreplace "+modulePath+" => "+root+"\n")
	write(t, filepath.Join(dir, "go.sum"), read(t, filepath.Join(root, "go.sum")))
	for place, task := range map[string]string{
		"tasks":                             "public",
		"internal/tasks":                    "internal",
		"shop/internal/tasks":               "nested",
		"shop/internal/bill/internal/tasks": "deeper",
	} {
		write(t, filepath.Join(dir, place, "tasks.go"), `package tasks

import (
	"context"
	"fmt"
	"io"
	"os"

	"github.com/pinion-queue/pinion"
)

var _ = pinion.Register(pinion.Task[struct{}]{Name: "`+task+`", Queue: "for `+task+`", Run: func(context.Context, struct{}) error {
	fmt.Println("`+task+` runs")
	_, err := io.Copy(io.Discard, os.Stdin)
	return err
}})
`)
	}
	write(t, filepath.Join(dir, "broken/broken.go"), "package broken\n\nvar Number int = \"text\"\n")
	write(t, filepath.Join(dir, "program/main.go"), "package main\n\nfunc main() {}\n")
	return dir
}

func read(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func write(t *testing.T, name, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(name), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// process is the command as a process of its own, which is this test binary.
func process(t *testing.T, dir string, args ...string) *exec.Cmd {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), self, args...)
	cmd.Dir = dir
	// With -trimpath a build does not depend on where its sources are, so that the cache serves vendored ones too.
	cmd.Env = append(os.Environ(), asCommand+"=1", "GOFLAGS=-trimpath", "GOWORK=", "TMPDIR="+t.TempDir())
	return cmd
}

// finish runs a process to its end and compares the exit status.
func finish(t *testing.T, cmd *exec.Cmd, status int) (stdout, stderr string) {
	t.Helper()
	var out, err bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &err
	failed := cmd.Run()
	if cmd.ProcessState == nil {
		t.Fatal(failed)
	}
	if got := cmd.ProcessState.ExitCode(); got != status {
		t.Fatalf("%v: exit status %d, want %d\n%s%s", cmd.Args[1:], got, status, out.String(), err.String())
	}
	return out.String(), err.String()
}

func wantText(t *testing.T, got, pattern string) {
	t.Helper()
	if !regexp.MustCompile(pattern).MatchString(got) {
		t.Errorf("got\n%s\nwant a match of\n%s", got, pattern)
	}
}

// tree is everything below dir.
func tree(t *testing.T, dir string) []string {
	t.Helper()
	found := make(map[string]bool)
	err := filepath.WalkDir(dir, func(name string, d fs.DirEntry, err error) error {
		found[name] = true
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return slices.Sorted(maps.Keys(found))
}

func TestImportedTasksRun(t *testing.T) {
	module := userModule(t)
	before := tree(t, module)
	work := filepath.Join(t.TempDir(), "work")
	db := filepath.Join(t.TempDir(), "q.db")

	// From a subdirectory, by paths and by import paths, and from below internal directories of all kinds.
	_, stderr := finish(t, process(t, filepath.Join(module, "shop"), "worker", "--build", work, "--import", "../tasks",
		"--import=example.com/user/internal/tasks", "--import", "./internal/tasks",
		"--import", "example.com/user/shop/internal/bill/internal/tasks"), 0)
	wantText(t, stderr, "wrote .*work, this command with ../tasks, ")
	if after := tree(t, module); !slices.Equal(before, after) {
		t.Errorf("the module had\n%v\nand now has\n%v", before, after)
	}

	// What was built needs neither the module nor go.
	elsewhere := t.TempDir()
	built := func(args ...string) *exec.Cmd {
		cmd := exec.CommandContext(t.Context(), work, args...)
		cmd.Dir, cmd.Env = elsewhere, []string{"PATH=", "PINION_DB=" + db}
		return cmd
	}
	stdout, _ := finish(t, built("version"), 0)
	wantText(t, stdout, `^pinion \S+ go\S+ \S+\nwith example.com/user/tasks\nwith example.com/user/internal/tasks\n`)
	_, stderr = finish(t, built("enqueue", "intrenal"), 1)
	wantText(t, stderr, `no task "intrenal"; did you mean "internal"\?`)
	_, stderr = finish(t, built("worker", "--import", "./tasks"), 2)
	wantText(t, stderr, `has example.com/user/tasks, .* built in`)
	if _, err := os.Stat(db); err == nil {
		t.Error("a refused job left a file")
	}
	for _, task := range []string{"public", "Internal", "nested"} {
		finish(t, built("enqueue", task), 0)
	}
	finish(t, built("enqueue", "deeper", "--queue", "other"), 0)
	stdout, _ = finish(t, built("pending"), 0)
	wantText(t, stdout, `(?s) public +for public .* Internal +for internal .* nested +for nested .* deeper +other `)
	stdout, _ = finish(t, built("worker", "--drain", "--concurrency", "1"), 0)
	wantText(t, stdout, `^public runs\ninternal runs\nnested runs\ndeeper runs\nprocessed +4\nsucceeded +4\n`)
}

// A binary of --build is the whole command, with the programs of --exec too, and needs no go command.
func TestABuiltBinaryIsTheWholeCommand(t *testing.T) {
	t.Parallel()
	module, dir := userModule(t), t.TempDir()
	work, db, path := filepath.Join(dir, "work"), filepath.Join(dir, "q.db"), filepath.Join(dir, "bin")
	_, stderr := finish(t, process(t, module, "worker", "--import", "./tasks", "--exec", `greet=printf 'Hello,\n"%s"!' {name}`,
		"--exec", "late=cat", "--build", work), 0)
	wantText(t, stderr, "wrote .*work, this command with ./tasks, the task greet, the task late\n")

	write(t, filepath.Join(path, "none"), "")
	for _, name := range []string{"printf", "cat", "tr"} {
		found, err := exec.LookPath(name)
		if err == nil {
			err = os.Symlink(found, filepath.Join(path, name))
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	built := func(status int, args ...string) (stdout, stderr string) {
		t.Helper()
		cmd := exec.CommandContext(t.Context(), work, args...)
		cmd.Dir, cmd.Env = dir, []string{"PATH=" + path, "PINION_DB=" + db}
		return finish(t, cmd, status)
	}
	stdout, _ := built(0, "tasks", "--exec", "up=tr a-z A-Z")
	wantText(t, stdout, `^NAME +KIND +QUEUE +COMMAND\ngreet +exec +default +printf 'Hello,\\n"%s"!' \{name\}\nlate +exec +default +cat\n`+
		`public +go +for public +-\nup +exec +default +tr a-z A-Z\n$`)
	built(0, "enqueue", "public")
	built(0, "enqueue", "greet", "--kwargs", `{"name": "Ada"}`)
	built(0, "enqueue", "late")
	_, stderr = built(1, "enqueue", "greeet")
	wantText(t, stderr, `no task "greeet"; did you mean "greet"\?`)
	stdout, _ = built(0, "worker", "--drain", "--exec", "up=tr a-z A-Z")
	wantText(t, stdout, `^public runs\nprocessed +3\nsucceeded +3\n`)
	storage, err := pinion.OpenSQLite(t.Context(), db, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer storage.Close()
	if err := storage.Enqueue(t.Context(), pinion.NewJob("up", "x"), pinion.NewJob("unheard")); err != nil {
		t.Fatal(err)
	}
	built(0, "worker", "--drain", "--exec", "up=tr a-z A-Z", "--max-retries", "0")
	var results []string
	for job, err := range storage.Jobs(t.Context(), pinion.Filter{}) {
		if err != nil {
			t.Fatal(err)
		}
		results = append(results, job.Task+" "+string(job.Result))
	}
	if diff := cmp.Diff([]string{"public ", `greet "Hello,\n\"Ada\"!"`, `late {"args":[],"kwargs":{}}`,
		`up {"ARGS":["X"],"KWARGS":{}}`, "unheard "}, results); diff != "" {
		t.Errorf("results (-want +got):\n%s", diff)
	}
	for _, line := range []string{"status", "running", "pending", "dlq-list", "dlq-replay", "dlq-purge --yes", "prune --older-than 0", "demo", "version",
		"help worker", "enqueue -h"} {
		built(0, strings.Fields(line)...)
	}

	_, stderr = finish(t, process(t, module, "worker", "--import", "./tasks", "--exec", "Public=true", "--build", filepath.Join(dir, "twice")), 2)
	wantText(t, stderr, `--exec Public: there is a task of that name already`)
	if _, err := os.Stat(filepath.Join(dir, "twice")); err == nil {
		t.Error("a binary that does not start was left")
	}
}

// The process that compiles becomes the worker: one process, with the terminal, the signals and the exit status.
func TestTheImportingWorkerIsOneProcess(t *testing.T) {
	module := userModule(t)
	db := filepath.Join(t.TempDir(), "q.db")
	finish(t, process(t, module, "enqueue", "public", "--db", db), 0)

	cmd := process(t, module, "worker", "--db", db, "--import", "./tasks")
	stdin, stdout, stderr := pipes(t, cmd)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	waitFor(t, stdout, "public runs")
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	waitFor(t, stderr, "stops gracefully")
	temporary := cmd.Env[len(cmd.Env)-1]
	if left := tree(t, strings.TrimPrefix(temporary, "TMPDIR=")); len(left) != 1 {
		t.Errorf("left behind: %v", left)
	}
	stdin.Close() // lets the task end
	waitFor(t, stdout, "succeeded +1")
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
}

func pipes(t *testing.T, cmd *exec.Cmd) (io.Closer, *bufio.Scanner, *bufio.Scanner) {
	t.Helper()
	stdin, failed := cmd.StdinPipe()
	stdout, err := cmd.StdoutPipe()
	failed = errors.Join(failed, err)
	stderr, err := cmd.StderrPipe()
	if err = errors.Join(failed, err); err != nil {
		t.Fatal(err)
	}
	return stdin, bufio.NewScanner(stdout), bufio.NewScanner(stderr)
}

// waitFor reads lines until one matches.
func waitFor(t *testing.T, lines *bufio.Scanner, pattern string) {
	t.Helper()
	var seen strings.Builder
	for re := regexp.MustCompile(pattern); lines.Scan(); seen.WriteString(lines.Text() + "\n") {
		if re.MatchString(lines.Text()) {
			return
		}
	}
	t.Fatalf("no line matches %q in\n%s", pattern, seen.String())
}

func TestImportSaysWhyItCannotBe(t *testing.T) {
	module := userModule(t)
	write(t, filepath.Join(module, "needy/needy.go"), "package needy\n\nimport _ \"github.com/google/uuid\"\n")
	noSums := userModule(t)
	sums := regexp.MustCompile(`(?m)^github.com/google/uuid .*\n`).ReplaceAllString(read(t, filepath.Join(noSums, "go.sum")), "")
	write(t, filepath.Join(noSums, "go.sum"), sums)
	write(t, filepath.Join(noSums, "needy/needy.go"), "package needy\n\nimport _ \"github.com/google/uuid\"\n")
	unsummed := userModule(t)
	write(t, filepath.Join(unsummed, "go.mod"), strings.Split(read(t, filepath.Join(unsummed, "go.mod")), "\nreplace ")[0])
	without := t.TempDir()
	write(t, filepath.Join(without, "go.mod"), "module example.com/without\n\ngo 1.26\n")
	write(t, filepath.Join(without, "tasks/tasks.go"), "package tasks\n")

	for _, c := range []struct{ name, dir, pkg, want string }{
		{"not in a module", t.TempDir(), "./tasks", "no go.mod here or above"},
		{"Pinion is not required", without, "./tasks", `example.com/without must require Pinion .*\n\tgo get github.com/pinion-queue/pinion@latest`},
		{"no such directory", module, "./nope", `--import ./nope: .*directory not found`},
		{"no such package", module, "example.com/nope", `no required module provides package example.com/nope`},
		{"./ forgotten", module, "internal/tasks", `did you mean ./internal/tasks\?`},
		{"a program", module, "./program", `example.com/user/program: it is a program`},
		{"internal to Go", module, "internal/abi", `internal/abi: it is internal to the standard library`},
		{"does not build", module, "./broken", `broken/broken.go:3:18: cannot use "text"`},
		{"no go.sum entry", noSums, "github.com/google/uuid", `missing go.sum entry for module providing package github.com/google/uuid; to add:\n\tgo `},
		{"no go.sum entry for Pinion", unsummed, "./tasks", `missing go.sum entry`},
		{"no go.sum entry further down", noSums, "./needy", `missing go.sum entry for module providing package github.com/google/uuid \(imported by example.com/user/needy\)`},
	} {
		t.Run(c.name, func(t *testing.T) {
			cmd := process(t, c.dir, "enqueue", "public", "--db", "q.db", "--import", c.pkg)
			before := tree(t, c.dir)
			stdout, stderr := finish(t, cmd, 1)
			wantText(t, stderr, c.want)
			if strings.Contains(stderr, virtual) {
				t.Errorf("names what the user cannot know:\n%s", stderr)
			}
			if after := tree(t, c.dir); stdout != "" || !slices.Equal(before, after) {
				t.Errorf("prints %q; files before %v, after %v", stdout, before, after)
			}
			if left := tree(t, strings.TrimPrefix(cmd.Env[len(cmd.Env)-1], "TMPDIR=")); len(left) != 1 {
				t.Errorf("left behind: %v", left)
			}
		})
	}

	t.Run("no go command", func(t *testing.T) {
		cmd := process(t, module, "worker", "--import", "./tasks", "--db", "q.db")
		cmd.Env = append(cmd.Env, "PATH="+t.TempDir())
		_, stderr := finish(t, cmd, 1)
		wantText(t, stderr, "there is no go command on PATH; where there is one, `pinion worker --import PACKAGE --build FILE`")
	})
}

func TestImportWorksInVendoredModulesAndWorkspaces(t *testing.T) {
	vendored := userModule(t)
	vendor := process(t, vendored)
	vendor.Path, vendor.Args = goTool(t), []string{"go", "mod", "vendor"}
	finish(t, vendor, 0)

	workspace := t.TempDir()
	for _, name := range []string{"one", "two"} {
		if err := os.CopyFS(filepath.Join(workspace, name), os.DirFS(userModule(t))); err != nil {
			t.Fatal(err)
		}
		gomod := filepath.Join(workspace, name, "go.mod")
		write(t, gomod, strings.Replace(read(t, gomod), "example.com/user", "example.com/"+name, 1))
	}
	write(t, filepath.Join(workspace, "go.work"), "go 1.26.0\n\nuse (\n\t./one\n\t./two\n)\n")

	for _, c := range []struct{ name, dir, flags, pkg, task string }{
		{"vendor", vendored, "-trimpath", "./shop/internal/tasks", "nested"},
		{"-mod=vendor", vendored, "-trimpath -mod=vendor", "./tasks", "public"},
		{"-mod=mod beside vendor", vendored, "-trimpath -mod=mod", "./tasks", "public"},
		{"workspace", filepath.Join(workspace, "one"), "-trimpath", "./tasks", "public"},
		{"internal to another module of the workspace", filepath.Join(workspace, "one"), "-trimpath", "example.com/two/internal/tasks", "internal"},
		{"above the workspace's modules", workspace, "-trimpath", "./two/shop/internal/bill/internal/tasks", "deeper"},
	} {
		t.Run(c.name, func(t *testing.T) {
			cmd := process(t, c.dir, "enqueue", "nothing", "--db", "q.db", "--import", c.pkg)
			cmd.Env = append(cmd.Env, "GOFLAGS="+c.flags)
			_, stderr := finish(t, cmd, 1)
			wantText(t, stderr, `no task "nothing"; they register: `+c.task+`\n`)
		})
	}
}

func goTool(t *testing.T) string {
	t.Helper()
	path, err := exec.LookPath("go")
	if err != nil {
		t.Fatal(err)
	}
	return path
}

func TestASecondSignalStopsTheWorkerAtOnce(t *testing.T) {
	dir := t.TempDir()
	finish(t, process(t, dir, "enqueue", "hold", "--db", "q.db"), 0)
	cmd := process(t, dir, "worker", "--db", "q.db")
	_, stdout, stderr := pipes(t, cmd)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	waitFor(t, stdout, "holding")
	signal := func() {
		t.Helper()
		if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
	}
	signal()
	waitFor(t, stderr, "stops gracefully")
	signal()
	cmd.Wait()
	if cmd.ProcessState.Sys().(syscall.WaitStatus).Signal() != syscall.SIGTERM {
		t.Errorf("it ended with %v", cmd.ProcessState)
	}
}

package cli

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/pinion-queue/pinion"
)

// shared is a program of --build with packages of userModule and tasks of --exec. Several tests use it.
var shared struct {
	build   sync.Once
	dir     string // TestMain removes it
	program string
	stderr  string
	changed string // the difference in the module after the build
}

// builtProgram returns the name of the shared program.
func builtProgram(t *testing.T) string {
	t.Helper()
	shared.build.Do(func() {
		var err error
		shared.dir, err = os.MkdirTemp("", "pinion-test-")
		if err != nil {
			t.Fatal(err)
		}
		module, program := filepath.Join(shared.dir, "module"), filepath.Join(shared.dir, "work")
		writeUserModule(t, module)
		before := tree(t, module)
		// From a subdirectory, by paths and by import paths, and from below internal directories of all
		// kinds.
		_, shared.stderr = finish(t, process(t, filepath.Join(module, "shop"), "worker", "--build", program,
			"--import", "../tasks", "--import=example.com/user/internal/tasks", "--import", "./internal/tasks",
			"--import", "example.com/user/shop/internal/bill/internal/tasks", "--import", "../sums",
			"--exec", `greet=printf 'Hello,\n"%s"!' {name}`, "--exec", "late=cat", "--stdin"), 0)
		shared.changed = cmp.Diff(before, tree(t, module))
		shared.program = program
	})
	if shared.program == "" {
		t.Fatal("the program was not built; see the first test that needs it")
	}
	return shared.program
}

func TestABuiltProgramRunsTheImportedTasks(t *testing.T) {
	t.Parallel()
	program, dir := builtProgram(t), t.TempDir()
	db := filepath.Join(dir, "q.db")
	wantText(t, shared.stderr,
		"^pinion: wrote .*work, this command with ../tasks, .*, the task greet, the task late\n$")
	if shared.changed != "" {
		t.Errorf("the files of the module (-before +after):\n%s", shared.changed)
	}

	// It needs neither the module nor the go command.
	built := func(status int, args ...string) (stdout, stderr string) {
		t.Helper()
		cmd := exec.CommandContext(t.Context(), program, args...)
		cmd.Dir, cmd.Env = dir, []string{"PATH=", "PINION_DB=" + db}
		return finish(t, cmd, status)
	}
	stdout, _ := built(0, "version")
	wantText(t, stdout, `^pinion \S+ go\S+ \S+\nbuilt into example.com/user \(devel\)\n$`)
	_, stderr := built(1, "enqueue", "intrenal")
	wantText(t, stderr, `unknown task "intrenal"; did you mean "internal"\?`)
	_, stderr = built(2, "worker", "--import", "./tasks")
	wantText(t, stderr, `this is example.com/user .*, which has its tasks built in`)
	if exists(db) {
		t.Error("a refused job left a file")
	}
	for _, task := range []string{"public", "Internal", "nested"} {
		built(0, "enqueue", task)
	}
	built(0, "enqueue", "deeper", "--queue", "other")
	stdout, _ = built(0, "pending")
	wantText(t, stdout,
		`(?s) public +for public .* Internal +for internal .* nested +for nested .* deeper +other `)
	stdout, _ = built(0, "doctor")
	wantText(t, stdout, `(?m)^ok     tasks      the tasks of all pending jobs are registered here$`)
	_, stderr = built(2, "worker", "--drain")
	wantText(t, stderr, `--exec greet: there is no program "printf"; install it, or write its path`)
}

func TestABuiltProgramIsTheWholeCommand(t *testing.T) {
	t.Parallel()
	program, dir := builtProgram(t), t.TempDir()
	db, path := filepath.Join(dir, "q.db"), filepath.Join(dir, "bin")
	if err := os.Mkdir(path, 0o700); err != nil {
		t.Fatal(err)
	}
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
		cmd := exec.CommandContext(t.Context(), program, args...)
		cmd.Dir, cmd.Env = dir, []string{"PATH=" + path, "PINION_DB=" + db}
		return finish(t, cmd, status)
	}
	stdout, _ := built(0, "tasks", "--exec", "up=tr a-z A-Z")
	wantText(t, stdout, `^NAME +KIND +QUEUE +COMMAND
deeper +go +for deeper +-
greet +exec +default +printf 'Hello,\\n"%s"!' \{name\}
internal +go +for internal +-
late +exec +default +cat
nested +go +for nested +-
public +go +for public +-
sum +go +default +-
up +exec +default +tr a-z A-Z
$`)
	for _, task := range []string{"public", "internal", "nested", "deeper"} {
		built(0, "enqueue", task)
	}
	built(0, "enqueue", "greet", "--kwargs", `{"name": "Ada"}`)
	built(0, "enqueue", "late")
	_, stderr := built(1, "enqueue", "greeet")
	wantText(t, stderr, `unknown task "greeet"; did you mean "greet"\?`)
	stdout, _ = built(0, "worker", "--drain", "--concurrency", "1", "--exec", "up=tr a-z A-Z")
	wantText(t, stdout, `^public runs\ninternal runs\nnested runs\ndeeper runs\nprocessed +6\nsucceeded +6\n`)

	storage := openStorage(t, db)
	mustEnqueue(t, storage, pinion.NewJob("up", "x"))
	built(0, "worker", "--drain", "--stdin", "--exec", "up=tr a-z A-Z", "--max-retries", "0")
	var results []string
	for job, err := range storage.Jobs(t.Context(), pinion.Filter{Queue: "default"}) {
		if err != nil {
			t.Fatal(err)
		}
		results = append(results, job.Task+" "+string(job.Result))
	}
	want := []string{
		`greet "Hello,\n\"Ada\"!"`, `late {"args":[],"kwargs":{}}`, `up {"ARGS":["X"],"KWARGS":{}}`,
	}
	if diff := cmp.Diff(want, results); diff != "" {
		t.Errorf("results (-want +got):\n%s", diff)
	}
	for _, line := range []string{
		"status", "running", "pending", "dlq-list", "dlq-replay", "dlq-purge --yes", "prune --older-than 0",
		"demo", "version", "help worker", "enqueue -h",
	} {
		built(0, strings.Fields(line)...)
	}
}

func TestAProgramThatDoesNotStartIsNotLeft(t *testing.T) {
	t.Parallel()
	program := filepath.Join(t.TempDir(), "twice")
	cmd := process(t, userModule(t), "worker",
		"--import", "./tasks", "--exec", "Public=true", "--build", program)
	_, stderr := finish(t, cmd, 2)
	wantText(t, stderr, `^pinion: --exec Public: there is already a task of that name; choose another\n`)
	if exists(program) {
		t.Error("the program was left")
	}
}

// ownMain is the source of the five-line program in the documentation.
const ownMain = `package main

import (
	_ "example.com/user/internal/tasks"

	"github.com/pinion-queue/pinion/cli"
)

func main() { cli.Main() }
`

func TestAUsersOwnMainIsTheWholeCommand(t *testing.T) {
	t.Parallel()
	module, dir := userModule(t), t.TempDir()
	program := filepath.Join(dir, "own")
	write(t, filepath.Join(module, "cmd/own/main.go"), ownMain)
	build := exec.CommandContext(t.Context(), "go", "build", "-o", program, "./cmd/own")
	build.Dir, build.Env = module, goEnv(t)
	finish(t, build, 0)

	own := func(status int, args ...string) (stdout, stderr string) {
		t.Helper()
		cmd := exec.CommandContext(t.Context(), program, args...)
		cmd.Dir, cmd.Env = dir, append(os.Environ(), "PINION_DB=q.db")
		return finish(t, cmd, status)
	}
	stdout, _ := own(0, "version")
	wantText(t, stdout, `^pinion \S+ go\S+ \S+\nbuilt into example.com/user`)
	_, stderr := own(1, "enqueue", "nothing")
	wantText(t, stderr, `^pinion: unknown task "nothing"; the tasks are: internal\n$`)
	_, stderr = own(2, "worker", "--import", "./tasks")
	wantText(t, stderr, `^pinion: --import: this is example.com/user.*, which has its tasks built in; `+
		`import the package in its source, or give --import to the pinion command\n`)
	own(0, "enqueue", "internal")
	own(0, "enqueue", "internal", "--queue", "other")
	stdout, _ = own(0, "worker", "--drain")
	wantText(t, stdout, `^internal runs\ninternal runs\nprocessed +2\nsucceeded +2\n`)
}

// behindLink returns the name of a directory that has a symbolic link in it, as that of temporary files has on macOS.
func behindLink(t *testing.T) string {
	t.Helper()
	link := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink(t.TempDir(), link); err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(link, "tmp")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	return dir
}

// The process that compiles becomes the worker: there is one process, with the terminal, the signals and the
// exit status.
func TestTheImportingWorkerIsOneProcess(t *testing.T) {
	t.Parallel()
	module := userModule(t)
	db := filepath.Join(t.TempDir(), "q.db")
	finish(t, process(t, module, "enqueue", "public", "--db", db), 0)

	cmd := process(t, module, "worker", "--db", db, "--import", "./tasks")
	if runtime.GOOS != "windows" { // where not every user may make links
		cmd.Env = append(cmd.Env, "TMPDIR="+behindLink(t))
	}
	stdin, stdout, stderr := pipesOf(t, cmd)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	waitForLine(t, stdout, "public runs")
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	waitForLine(t, stderr, "stops gracefully")
	if left := temporaryFiles(t, cmd); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
	stdin.Close() // lets the task end
	waitForLine(t, stdout, "succeeded +1")
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
}

// Run replaces no process: the program is a child that has the streams of Run.
func TestRunPassesItsStreamsToTheProgram(t *testing.T) {
	t.Chdir(userModule(t))
	temporary := t.TempDir()
	t.Setenv("TMPDIR", temporary)
	t.Setenv("GOFLAGS", "-trimpath -ldflags=-w")
	t.Setenv("GOWORK", "")
	var stdout, stderr bytes.Buffer
	stdin := strings.NewReader("[]\n[")
	args := []string{"enqueue", "public", "-", "--db", "q.db", "--import", "./tasks"}
	status := Run(t.Context(), args, stdin, &stdout, &stderr)
	if status != 1 {
		t.Errorf("exit status %d, want 1", status)
	}
	wantText(t, stdout.String(), `^enqueued 1 job in \S+s\n$`)
	wantText(t, stderr.String(), `^pinion: line 2: .*\npinion: 1 line is bad and not enqueued`)
	if left := tree(t, temporary); len(left) > 1 {
		t.Errorf("left behind: %v", left)
	}
}

func TestImportSaysWhyItCannotBe(t *testing.T) {
	t.Parallel()
	const needy = "package needy\n\nimport _ \"github.com/google/uuid\"\n"
	module := userModule(t)
	write(t, filepath.Join(module, "needy/needy.go"), needy)

	noSums := userModule(t)
	edit(t, filepath.Join(noSums, "go.sum"), `(?m)^github.com/google/uuid .*\n`, "")
	write(t, filepath.Join(noSums, "needy/needy.go"), needy)

	noPinionSum := userModule(t)
	edit(t, filepath.Join(noPinionSum, "go.mod"), `(?m)^replace .*$`, "")

	noPinion := t.TempDir()
	write(t, filepath.Join(noPinion, "go.mod"), "module example.com/without\n\ngo 1.26\n")
	write(t, filepath.Join(noPinion, "tasks/tasks.go"), "package tasks\n")

	oldPinion, old := userModule(t), t.TempDir() // a version that has no package cli
	write(t, filepath.Join(old, "go.mod"), "module "+modulePath+"\n\ngo 1.26\n")
	write(t, filepath.Join(old, "pinion.go"), "package pinion\n")
	edit(t, filepath.Join(oldPinion, "go.mod"), `(?m)^replace .*$`, fmt.Sprintf("replace %s => %q", modulePath, old))

	for _, c := range []struct{ name, dir, pkg, want string }{
		{"not in a module", t.TempDir(), "./tasks", "no go.mod here or above"},
		{"Pinion is not required", noPinion, "./tasks",
			`example.com/without must require Pinion .*\n\tgo get github.com/pinion-queue/pinion@latest`},
		{"Pinion is too old", oldPinion, "./tasks",
			`example.com/user requires github.com/pinion-queue/pinion v0.0.0, which does not have the package cli; ` +
				`to get a version that has it:\n\tgo get github.com/pinion-queue/pinion@latest\n$`},
		{"no such directory", module, "./nope", `--import ./nope: .*directory not found`},
		{"no such package", module, "example.com/nope", `no required module provides package example.com/nope`},
		{"./ forgotten", module, "internal/tasks", `did you mean ./internal/tasks\?`},
		{"a program", module, "./program", `example.com/user/program: it is a program`},
		{"internal to Go", module, "internal/abi", `internal/abi: it is internal to the standard library`},
		{"does not build", module, "./broken", `broken/broken.go:3:18: cannot use "text"`},
		{"no go.sum entry", noSums, "github.com/google/uuid",
			`missing go.sum entry for module providing package github.com/google/uuid; to add:\n\tgo `},
		{"no go.sum entry for Pinion", noPinionSum, "./tasks", `missing go.sum entry`},
		{"no go.sum entry further down", noSums, "./needy",
			`missing go.sum entry .* package github.com/google/uuid \(imported by example.com/user/needy\)`},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			cmd := process(t, c.dir, "enqueue", "public", "--db", "q.db", "--import", c.pkg)
			stdout, stderr := finish(t, cmd, 1)
			wantText(t, stderr, c.want)
			if strings.Contains(stderr, overlayDir) {
				t.Errorf("the message names what the user cannot know:\n%s", stderr)
			}
			if stdout != "" {
				t.Errorf("it prints %q", stdout)
			}
			for _, name := range []string{"q.db", overlayDir} {
				if exists(filepath.Join(c.dir, name)) {
					t.Errorf("it leaves %s", name)
				}
			}
			if left := temporaryFiles(t, cmd); len(left) > 0 {
				t.Errorf("left behind: %v", left)
			}
		})
	}

	t.Run("no go command", func(t *testing.T) {
		t.Parallel()
		cmd := process(t, module, "worker", "--import", "./tasks", "--db", "q.db")
		cmd.Env = append(cmd.Env, "PATH="+t.TempDir())
		_, stderr := finish(t, cmd, 1)
		wantText(t, stderr, "there is no go command on PATH; "+
			"where there is one, `pinion worker --import PACKAGE --build FILE` ")
	})
}

// edit replaces what matches pattern in a file.
func edit(t *testing.T, name, pattern, replacement string) {
	t.Helper()
	write(t, name, regexp.MustCompile(pattern).ReplaceAllLiteralString(read(t, name), replacement))
}

// vendor makes the vendor folder of a module.
func vendor(t *testing.T, module string) {
	t.Helper()
	if strings.ContainsAny(moduleRoot, " \t") {
		t.Skipf("the go command does not understand what it writes of the space in %s into vendor/modules.txt", moduleRoot)
	}
	cmd := exec.CommandContext(t.Context(), "go", "mod", "vendor")
	cmd.Dir, cmd.Env = module, goEnv(t)
	finish(t, cmd, 0)
}

func TestImportWorksInVendoredModulesAndWorkspaces(t *testing.T) {
	t.Parallel()
	vendored := userModule(t)
	vendor(t, vendored)
	vendoredCLI := userModule(t)
	write(t, filepath.Join(vendoredCLI, "cmd/own/main.go"), ownMain)
	vendor(t, vendoredCLI)
	for dir, want := range map[string]bool{vendored: false, vendoredCLI: true} {
		if got := exists(filepath.Join(dir, "vendor", modulePath, "cli")); got != want {
			t.Errorf("the vendor folder has the package cli: %t, want %t", got, want)
		}
	}

	workspace := t.TempDir()
	for _, name := range []string{"one", "two"} {
		dir := filepath.Join(workspace, name)
		writeUserModule(t, dir)
		gomod := filepath.Join(dir, "go.mod")
		write(t, gomod, strings.Replace(read(t, gomod), "example.com/user", "example.com/"+name, 1))
	}
	write(t, filepath.Join(workspace, "go.work"), "go 1.26.0\n\nuse (\n\t./one\n\t./two\n)\n")

	for _, c := range []struct{ name, dir, flag, pkg, task string }{
		{"vendor", vendored, "", "./shop/internal/tasks", "nested"},
		{"-mod=vendor", vendored, "-mod=vendor", "./tasks", "public"},
		{"-mod=mod beside vendor", vendored, "-mod=mod", "./tasks", "public"},
		{"vendor with the package cli", vendoredCLI, "", "./tasks", "public"},
		{"workspace", filepath.Join(workspace, "one"), "", "./tasks", "public"},
		{"internal to another module of the workspace", filepath.Join(workspace, "one"), "",
			"example.com/two/internal/tasks", "internal"},
		{"above the workspace's modules", workspace, "", "./two/shop/internal/bill/internal/tasks", "deeper"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			cmd := process(t, c.dir, "enqueue", "nothing", "--db", "q.db", "--import", c.pkg)
			cmd.Env = append(cmd.Env, "GOFLAGS=-trimpath -ldflags=-w "+c.flag)
			_, stderr := finish(t, cmd, 1)
			wantText(t, stderr, `^pinion: unknown task "nothing"; the tasks are: `+c.task+`\n$`)
		})
	}
}

// A vendor folder without the package cli needs the module cache, or the go command cannot build.
func TestImportSaysWhatAVendorFolderLacks(t *testing.T) {
	t.Parallel()
	module := userModule(t)
	vendor(t, module)
	edit(t, filepath.Join(module, "go.mod"), ` => .+`, " => /nowhere")
	edit(t, filepath.Join(module, "vendor/modules.txt"), ` => .+`, " => /nowhere")
	_, stderr := finish(t, process(t, module, "enqueue", "nothing", "--db", "q.db", "--import", "./tasks"), 1)
	wantText(t, stderr, `^pinion: --import: the vendor folder does not have the package `+
		`github.com/pinion-queue/pinion/cli, and the go command cannot get it: `)
	wantText(t, stderr, `\n\tgo mod vendor\n$`)
}

func TestInternalPackagesKnowWhoMayImportThem(t *testing.T) {
	for pkg, want := range map[string]string{
		"example.com/user/internal/tasks":                   "example.com/user",
		"example.com/user/shop/internal/bill/internal/task": "example.com/user/shop/internal/bill",
		"internal/abi":           "",
		"example.com/internal":   "example.com",
		"example.com/user/tasks": "not internal",
	} {
		got, internal := internalTo(pkg)
		if !internal {
			got = "not internal"
		}
		if got != want {
			t.Errorf("internalTo(%q) = %q, want %q", pkg, got, want)
		}
	}
}

func TestTheMainPackageIsThatOfTheDocumentation(t *testing.T) {
	want := strings.ReplaceAll(ownMain, "example.com/user/internal/tasks", "example.com/shop/tasks")
	if got := mainSource([]string{"example.com/shop/tasks"}, nil); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	doc := read(t, "cli.go")
	for line := range strings.Lines(want) {
		line = strings.TrimSpace(line)
		if line != "" && !regexp.MustCompile(`(?m)^//\t+`+regexp.QuoteMeta(line)).MatchString(doc) {
			t.Errorf("the documentation of the package lacks the line %q", line)
		}
	}
}

package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"
)

// Go links no code at run time. So --import builds a program that has the packages, and runs it with the rest
// of the arguments. Its main package imports them and calls Main, as a user's own would. It exists only in an
// overlay of `go build`, inside the user's module: there it gets the versions that go.mod, go.work or vendor
// select, Pinion's included, and may import the module's internal packages. Nothing is written into the
// module.

// overlayDir is the directory of the main package in the overlay. The names of bridges begin with it too.
const overlayDir = "pinion-import"

// importFlag declares --import.
func (c *call) importFlag() {
	c.listFlag(&c.imports, "import", "build in a Go `PACKAGE` with tasks; may be repeated")
}

// goPackage and goModule are the parts of what `go list -json` prints that matter here.
type goPackage struct {
	ImportPath, Name string
	Module           *goModule
	Error            *struct{ Err string }
}

type goModule struct {
	Path, Version, Dir string
	Main               bool
}

// rebuild builds this command with the packages of --import. Then it runs the program with the remaining
// arguments or, with --build, leaves it where the flag says.
func (c *call) rebuild(ctx context.Context) error {
	if len(c.imports) == 0 {
		return usagef("--build needs --import, the packages to build in")
	}
	if program, own := ownProgram(); own {
		return usagef("--import: this is %s, which has its tasks built in; import the package in its source, "+
			"or give --import to the pinion command", program)
	}
	if err := addPrograms(&c.programs); err != nil { // finds mistakes before anything is compiled
		return err
	}
	if _, err := exec.LookPath("go"); err != nil {
		return errors.New("--import compiles Go packages, but there is no go command on PATH; " +
			"where there is one, `pinion worker --import PACKAGE --build FILE` makes a program that needs none")
	}
	if c.build != "" {
		return c.buildTo(ctx, c.build)
	}
	return c.buildAndRun(ctx)
}

// buildTo builds the program of --build.
func (c *call) buildTo(ctx context.Context, program string) error {
	if info, err := os.Stat(program); err == nil && info.IsDir() {
		return fmt.Errorf("--build %s: it is a directory; name the file to write", program)
	}
	dir, err := os.MkdirTemp("", temporaryPrefix)
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	if err := c.compile(ctx, dir, program); err != nil {
		return err
	}
	if err := c.tryOut(ctx, program); err != nil {
		return errors.Join(err, os.Remove(program))
	}
	parts := slices.Clone(c.imports)
	for _, p := range programs {
		parts = append(parts, "the task "+p.name)
	}
	fmt.Fprintf(c.stderr, "pinion: wrote %s, this command with %s\n", program, strings.Join(parts, ", "))
	return nil
}

// tryOut starts the program of --build, to see whether a task of --exec has the name of one that a package
// registers. It ignores a program that does not start at all, which may be for another machine.
func (c *call) tryOut(ctx context.Context, program string) error {
	if len(c.programs.specs) == 0 {
		return nil
	}
	program, err := filepath.Abs(program)
	if err != nil {
		return err
	}
	output, err := exec.CommandContext(ctx, program, "version").CombinedOutput()
	if exit, ok := errors.AsType[*exec.ExitError](err); ok && exit.ExitCode() == 2 {
		line, _, _ := strings.Cut(string(output), "\n")
		return usagef("%s", strings.TrimPrefix(line, "pinion: "))
	}
	return nil
}

// buildAndRun builds the program in a temporary directory and runs it in place of this one.
func (c *call) buildAndRun(ctx context.Context) error {
	dir, err := os.MkdirTemp("", temporaryPrefix)
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir) // if this process is replaced, the program does it: see removeTemporary
	// The program recognizes its file by the name that the system has for it, which has no links.
	dir, err = filepath.EvalSymlinks(dir)
	if err != nil {
		return err
	}
	source := filepath.Join(dir, "source")
	if err := os.Mkdir(source, 0o700); err != nil {
		return err
	}
	program := filepath.Join(dir, "pinion")
	if runtime.GOOS == "windows" {
		program += ".exe"
	}
	if err := c.compile(ctx, source, program); err != nil {
		return err
	}
	if err := os.RemoveAll(source); err != nil {
		return err
	}
	if c.isProcess && canReplaceProcess {
		os.Setenv(temporaryEnv, program)
		err = replaceProcess(program, c.forwarded) // returns only if it fails
	} else {
		err = c.runChild(ctx, program)
	}
	if _, exited := errors.AsType[exitStatus](err); err == nil || exited {
		return err
	}
	return fmt.Errorf("run the program that was built: %w; "+
		"if its folder does not allow programs, set TMPDIR to one that does", err)
}

// runChild runs the program with the streams of this call and returns its exit status.
func (c *call) runChild(ctx context.Context, program string) error {
	if c.isProcess { // the console interrupts both of them; this one must stay until the program has ended
		interrupts := make(chan os.Signal, 1)
		signal.Notify(interrupts, os.Interrupt)
		defer signal.Stop(interrupts)
	}
	cmd := exec.CommandContext(ctx, program, c.forwarded...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = c.stdin, c.output, c.stderr
	cmd.Cancel = func() error { return interrupt(cmd.Process) }
	err := cmd.Run()
	if cmd.ProcessState == nil || cmd.ProcessState.Success() {
		return err
	}
	return exitStatus(cmd.ProcessState.ExitCode())
}

const (
	// temporaryEnv holds the path of a program that removes its own file, because no other process is left to
	// do so.
	temporaryEnv    = "PINION_TEMPORARY_BINARY"
	temporaryPrefix = "pinion-import-"
)

// removeTemporary removes the file of this program if buildAndRun has made it for this run only.
func removeTemporary() {
	program := os.Getenv(temporaryEnv)
	os.Unsetenv(temporaryEnv)
	dir := filepath.Dir(program)
	self, err := os.Executable()
	if err == nil && self == program && strings.HasPrefix(filepath.Base(dir), temporaryPrefix) {
		os.Remove(program)
		os.Remove(dir)
	}
}

// compile builds the program. Its sources go into the directory source.
func (c *call) compile(ctx context.Context, source, program string) error {
	// A signal must not keep the caller from removing its directory.
	ctx, stop := untilSignal(ctx)
	defer stop()
	b, err := c.findPackages(ctx)
	if err != nil {
		return err
	}
	overlay, err := b.writeOverlay(source, c.mainArgs())
	if err != nil {
		return err
	}
	notice := time.AfterFunc(noticeAfter, func() { c.notice("compiling; the next time will be quicker") })
	defer notice.Stop()
	args := append([]string{"build", "-buildvcs=false"}, b.flags...)
	args = append(args, "-overlay", overlay, "-o", program, b.home.Path+"/"+overlayDir)
	output, err := goCommand(ctx, args...).CombinedOutput()
	if err != nil {
		return goError(ctx, output, err)
	}
	return nil
}

// build is one build of --import.
type build struct {
	home     goModule    // the module that the main package appears in
	packages []goPackage // to import
	flags    []string    // of the go command
}

// findPackages finds the packages of --import and the module to build in, and checks that they can be built.
func (c *call) findPackages(ctx context.Context) (*build, error) {
	// A workspace has several main modules. Any will do, because each sees the packages of all.
	modules, err := goList[goModule](ctx, "-m")
	if err != nil {
		return nil, err
	}
	b := &build{home: modules[0]}
	if b.home.Dir == "" {
		return nil, errors.New("--import works inside a Go module, but there is no go.mod here or above; " +
			"change to your module's directory first")
	}
	if err := b.list(ctx, c.imports); err != nil {
		return nil, err
	}
	for _, p := range b.packages {
		if p.Error != nil {
			return nil, fmt.Errorf("--import %s: %s%s", p.ImportPath, p.Error.Err, localHint(p.ImportPath))
		}
		if p.Name == "main" {
			return nil, fmt.Errorf("--import %s: it is a program (package main), which Go cannot import; "+
				"move the tasks into a package of their own, which the program imports too", p.ImportPath)
		}
	}
	return b, nil
}

// localHint asks whether a path that is not a package was meant to begin with "./".
func localHint(importPath string) string {
	if strings.HasPrefix(importPath, ".") {
		return ""
	}
	if info, err := os.Stat(filepath.FromSlash(importPath)); err != nil || !info.IsDir() {
		return ""
	}
	return "; did you mean ./" + importPath + "?"
}

// list finds the packages to import, and checks that the module requires a Pinion that has this package. A
// vendor folder holds only what the module imports, which seldom includes this package. All packages then
// come from the module cache, as they do without a vendor folder.
func (b *build) list(ctx context.Context, imports []string) error {
	library, cli, err := b.listOnce(ctx, imports)
	if err != nil {
		return err
	}
	if library.Error == nil && cli.Error != nil {
		b.flags = []string{"-mod=readonly"}
		library, cli, err = b.listOnce(ctx, imports)
		if err == nil && library.Error != nil {
			err = errors.New(library.Error.Err)
		}
		if err != nil {
			return fmt.Errorf("--import: the vendor folder does not have the package %s/cli, "+
				"and the go command cannot get it: %w\n"+
				"To have it there, import it in a main package of your module and run:\n\tgo mod vendor",
				modulePath, err)
		}
	}
	get := fmt.Sprintf("go get %s@%s", modulePath, versionToGet(ownVersion()))
	if library.Error != nil && strings.Contains(library.Error.Err, "go.sum") {
		return fmt.Errorf("--import %s: %s", modulePath, library.Error.Err)
	}
	if library.Error != nil {
		problem, _, _ := strings.Cut(library.Error.Err, "; to add it")
		return fmt.Errorf("--import: %s\nThe module %s must require Pinion to register tasks; to add it:\n\t%s",
			problem, b.home.Path, get)
	}
	if cli.Error != nil {
		return fmt.Errorf("--import: the module %s requires %s %s, which does not have the package cli; "+
			"to get a version that has it:\n\t%s", b.home.Path, modulePath, library.Module.Version, get)
	}
	return nil
}

// listOnce lists the library, this package and the packages to import, as the module sees them.
func (b *build) listOnce(ctx context.Context, imports []string) (library, cli goPackage, err error) {
	args := append([]string{"-e", "-find"}, b.flags...)
	args = append(args, "--", modulePath, modulePath+"/cli")
	found, err := goList[goPackage](ctx, append(args, imports...)...)
	if err != nil {
		return library, cli, err
	}
	b.packages = found[2:]
	return found[0], found[1], nil
}

// versionToGet returns the version of Pinion that a command of the version own needs.
func versionToGet(own string) string {
	if !isRelease(own) {
		return "latest"
	}
	return own
}

// builtInWord comes before the arguments of a program of --build that has tasks of --exec. Behind it are the
// flags that define them, "--", and the arguments of the user.
const builtInWord = "__built-in"

// mainArgs returns the arguments that the main package inserts before those of the user. They define the
// tasks of --exec, if the program is to keep them. A program that is built for one run is given its flags
// again.
func (c *call) mainArgs() []string {
	if c.build == "" || len(c.programs.specs) == 0 {
		return nil
	}
	return slices.Concat([]string{builtInWord}, c.programs.words(), []string{"--"})
}

// addBuiltIn adds the tasks that mainArgs has put before the arguments, and returns the arguments.
func addBuiltIn(args []string) (rest []string, err error) {
	c := new(call)
	c.flags = flag.NewFlagSet(builtInWord, flag.ContinueOnError)
	c.flags.SetOutput(io.Discard)
	c.execFlags()
	if err := c.flags.Parse(args); err != nil {
		return nil, usagef("%s is for pinion's own use", builtInWord)
	}
	return c.flags.Args(), addPrograms(&c.programs)
}

// writeOverlay writes the sources into the directory source, and there the file for `go build -overlay` that
// makes them appear in the module. It returns that file's name.
func (b *build) writeOverlay(source string, mainArgs []string) (string, error) {
	files := make(map[string]string) // where a file appears, and where it is
	add := func(place, text string) error {
		name := filepath.Join(source, fmt.Sprintf("%d.go", len(files)))
		files[place] = name
		return os.WriteFile(name, []byte(text), 0o600)
	}
	var imports []string
	for i, p := range b.packages {
		visible, err := b.addBridges(add, p, fmt.Sprintf("%s-%d", overlayDir, i))
		if err != nil {
			return "", err
		}
		imports = append(imports, visible)
	}
	if err := add(filepath.Join(b.home.Dir, overlayDir, "main.go"), mainSource(imports, mainArgs)); err != nil {
		return "", err
	}
	text, err := json.Marshal(map[string]any{"Replace": files})
	if err != nil {
		return "", err
	}
	overlay := filepath.Join(source, "overlay.json")
	return overlay, os.WriteFile(overlay, text, 0o600)
}

// addBridges makes a package importable for the main package and returns the path to import. A package below
// an internal directory may be imported only from beside that directory. If main is not there, a bridge is: a
// package that imports it. A bridge may be below an internal directory again.
func (b *build) addBridges(
	add func(place, text string) error, p goPackage, name string,
) (visible string, err error) {
	visible = p.ImportPath
	for {
		parent, internal := internalTo(visible)
		if !internal || strings.HasPrefix(b.home.Path+"/", parent+"/") {
			return visible, nil
		}
		if p.Module == nil || !p.Module.Main {
			if parent == "" {
				parent = "the standard library"
			}
			return "", fmt.Errorf("--import %s: it is internal to %s", p.ImportPath, parent)
		}
		inModule := strings.TrimPrefix(strings.TrimPrefix(parent, p.Module.Path), "/")
		place := filepath.Join(p.Module.Dir, filepath.FromSlash(inModule), name, "bridge.go")
		if err := add(place, fmt.Sprintf("package bridge\n\nimport _ %q\n", visible)); err != nil {
			return "", err
		}
		visible = path.Join(parent, name)
	}
}

// internalTo returns the path at and below which pkg may be imported, if it is internal to one.
func internalTo(pkg string) (parent string, internal bool) {
	elements := strings.Split(pkg, "/")
	for i, element := range slices.Backward(elements) {
		if element == "internal" {
			return path.Join(elements[:i]...), true
		}
	}
	return "", false
}

// mainSource returns the source of a main package that imports packages and calls Main. It inserts args
// before the arguments of the program.
func mainSource(packages, args []string) string {
	var imports strings.Builder
	for _, p := range packages {
		fmt.Fprintf(&imports, "\t_ %q\n", p)
	}
	if len(args) == 0 {
		return fmt.Sprintf(mainTemplate, imports.String(), modulePath, "")
	}
	imports.WriteString("\n\t\"os\"\n\t\"slices\"\n")
	insert := fmt.Sprintf("os.Args = slices.Insert(os.Args, 1, %#v...); ", args)
	return fmt.Sprintf(mainTemplate, imports.String(), modulePath, insert)
}

const mainTemplate = `package main

import (
%s
	"%s/cli"
)

func main() { %scli.Main() }
`

// goList runs `go list -json`.
func goList[T any](ctx context.Context, args ...string) (items []T, err error) {
	cmd := goCommand(ctx, append([]string{"list", "-json"}, args...)...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	output, err := cmd.Output()
	if err != nil {
		return nil, goError(ctx, stderr.Bytes(), err)
	}
	dec := json.NewDecoder(bytes.NewReader(output))
	for {
		var item T
		err := dec.Decode(&item)
		if err == io.EOF {
			return items, nil
		}
		if err != nil {
			return nil, fmt.Errorf("go list: %w", err)
		}
		items = append(items, item)
	}
}

// goCommand returns a run of the go command. When ctx ends, it is interrupted rather than killed, so that it
// cleans up.
func goCommand(ctx context.Context, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.Cancel = func() error { return interrupt(cmd.Process) }
	return cmd
}

// goError returns an error with what the go command printed, if it printed anything.
func goError(ctx context.Context, output []byte, err error) error {
	output = bytes.TrimSpace(output)
	if ctx.Err() != nil {
		return fmt.Errorf("--import: %w", context.Cause(ctx))
	}
	if len(output) > 0 {
		return fmt.Errorf("--import:\n%s", output)
	}
	return fmt.Errorf("--import: go: %w", err)
}

package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"os/signal"
	"path"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"
)

// Go links no code at run time, so --import builds this command again, with the packages imported, and runs the
// result. Its main package appears, by `go build -overlay`, inside the user's module, where it gets the versions that
// go.mod, go.work or vendor says and may import internal packages; nothing is written there.

var (
	source   fs.FS    // this command's own files; nil in a binary that rebuild made
	imported []string // the packages built into such a binary; its generated file says
)

// virtual is the directory of the main package in the overlay; those of bridges begin alike.
const virtual = "pinion-import"

// temporaryEnv tells a binary its own path if it is to remove itself.
const temporaryEnv = "PINION_TEMPORARY_BINARY"

// removeTemporary removes the running binary if rebuild made it for this run only. Its maker is gone by now.
func removeTemporary() {
	program := os.Getenv(temporaryEnv)
	os.Unsetenv(temporaryEnv)
	if self, err := os.Executable(); err == nil && self == program && len(imported) > 0 {
		os.Remove(program)
		os.Remove(filepath.Dir(program))
	}
}

// goPackage and goModule are what `go list -json` says, as far as it matters here.
type goPackage struct {
	ImportPath, Name, Dir string
	Module                *goModule
	Error                 *struct{ Err string }
}

type goModule struct {
	Path, Version, Dir string
	Main               bool
	Replace            *goModule
}

// rebuild makes this command with the packages of --import. It then runs that with the remaining arguments, or for
// --build leaves it where it is.
func (c *call) rebuild(ctx context.Context) error {
	switch {
	case len(c.imports) == 0:
		return usagef("--build needs --import, the packages to build in")
	case source == nil:
		return usagef("this binary has %s built in and takes no more; give --import to the pinion command",
			strings.Join(imported, ", "))
	}
	if err := addPrograms(c.shell, c.execs); err != nil { // a mistake is found before anything is compiled
		return err
	}
	if _, err := exec.LookPath("go"); err != nil {
		return errors.New("--import compiles Go packages, but there is no go command on PATH; where there is one, " +
			"`pinion worker --import PACKAGE --build FILE` makes a binary that needs none")
	}
	dir, err := os.MkdirTemp("", "pinion-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir) // not reached if all goes well on unix: see removeTemporary
	program := cmp.Or(c.build, filepath.Join(dir, "pinion"))
	if c.build == "" && runtime.GOOS == "windows" {
		program += ".exe"
	}
	if err := c.compile(ctx, filepath.Join(dir, "src"), program); err != nil {
		return err
	}
	if c.build != "" {
		if err := c.tryOut(ctx, program); err != nil {
			return errors.Join(err, os.Remove(program))
		}
		with := slices.Clone(c.imports)
		for _, p := range programs {
			with = append(with, "the task "+p.name)
		}
		fmt.Fprintf(c.stderr, "pinion: wrote %s, this command with %s\n", program, strings.Join(with, ", "))
		return nil
	}
	if err := os.RemoveAll(filepath.Join(dir, "src")); err != nil {
		return err
	}
	os.Setenv(temporaryEnv, program)
	if err := execute(program, c.rest); err != nil {
		return fmt.Errorf("run what was built (TMPDIR says where): %w", err)
	}
	return nil
}

// tryOut starts what was built, unless it is for another machine, to see whether names of tasks clash.
func (c *call) tryOut(ctx context.Context, program string) error {
	program, err := filepath.Abs(program)
	if err != nil || len(c.execs) == 0 {
		return err
	}
	said, err := exec.CommandContext(ctx, program, "version").CombinedOutput()
	if exit, ran := errors.AsType[*exec.ExitError](err); ran && exit.ExitCode() == 2 {
		line, _, _ := strings.Cut(string(said), "\n")
		return usagef("%s", strings.TrimPrefix(line, "pinion: "))
	}
	return nil
}

// compile builds program; its own sources go to the directory src, which it makes.
func (c *call) compile(ctx context.Context, src, program string) error {
	ctx, stop := signal.NotifyContext(ctx, os.Interrupt, syscall.SIGTERM) // so that the directory is removed
	defer stop()
	if info, err := os.Stat(program); err == nil && info.IsDir() {
		return fmt.Errorf("--build %s: it is a directory; name the file to write", program)
	}
	home, packages, err := c.resolve(ctx)
	if err != nil {
		return err
	}
	overlay, err := c.layOverlay(src, home, packages)
	if err != nil {
		return err
	}
	patience := time.AfterFunc(3*time.Second, func() {
		fmt.Fprintln(c.stderr, "pinion: compiling; the next time will be quicker")
	})
	defer patience.Stop()
	cmd := goCommand(ctx, "build", "-buildvcs=false", "-overlay", overlay, "-o", program, home.Path+"/"+virtual)
	if out, err := cmd.CombinedOutput(); err != nil {
		return goError(ctx, "--import", out, err)
	}
	return nil
}

// resolve finds the packages to import and the module to build in, and checks that it can be done.
func (c *call) resolve(ctx context.Context) (home goModule, packages []goPackage, err error) {
	// In a workspace there are several; any will do, for each sees the packages of all.
	mains, err := goList[goModule](ctx, "-m")
	if err != nil {
		return home, nil, err
	}
	if home = mains[0]; home.Dir == "" {
		return home, nil, errors.New("--import works inside a Go module, and there is no go.mod here or above; " +
			"change to your module's directory first")
	}
	packages, err = goList[goPackage](ctx, append([]string{"-e", "-find", "--", modulePath}, c.imports...)...)
	if err != nil {
		return home, nil, err
	}
	for i, p := range packages {
		switch {
		case i == 0 && p.Error != nil && !strings.Contains(p.Error.Err, "go.sum"):
			problem, _, _ := strings.Cut(p.Error.Err, "; to add it")
			return home, nil, fmt.Errorf("--import: %s\nThe module %s must require Pinion to register tasks; to add it:\n\tgo get %s@%s",
				problem, home.Path, modulePath, wanted(ownVersion()))
		case p.Error != nil:
			hint := ""
			if info, err := os.Stat(filepath.FromSlash(p.ImportPath)); err == nil && info.IsDir() && !strings.HasPrefix(p.ImportPath, ".") {
				hint = "; did you mean ./" + p.ImportPath + "?"
			}
			return home, nil, fmt.Errorf("--import %s: %s%s", p.ImportPath, p.Error.Err, hint)
		case p.Name == "main":
			return home, nil, fmt.Errorf("--import %s: it is a program (package main), which Go cannot import; "+
				"move the tasks into a package of their own, which the program imports too", p.ImportPath)
		}
	}
	if theirs := packages[0].Module; !theirs.Main && theirs.Replace == nil && !fits(theirs.Version, ownVersion()) {
		return home, nil, fmt.Errorf("--import: the module %s requires %s %s, and this is the command of %s; "+
			"to bring them together:\n\tgo get %[2]s@%[4]s\nor\n\tgo install %[2]s/cmd/pinion@%[3]s",
			home.Path, modulePath, theirs.Version, ownVersion())
	}
	return home, packages[1:], nil
}

// fits tells whether this command's sources can be expected to compile with the library of another version: one of
// the same minor version. Versions between releases are taken at their user's word.
func fits(theirs, own string) bool {
	if strings.ContainsAny(theirs+own, "-+(") || theirs == "" {
		return true
	}
	return slices.Equal(strings.Split(theirs, ".")[:2], strings.Split(own, ".")[:2])
}

// wanted is the version to get for a command of the version own.
func wanted(own string) string {
	if strings.ContainsAny(own, "-+(") {
		return "latest"
	}
	return own
}

// layOverlay writes the sources of the main package into the directory src, and there the file for `go build
// -overlay` that makes them appear in the module home. It returns that file's name.
func (c *call) layOverlay(src string, home goModule, packages []goPackage) (string, error) {
	if err := os.Mkdir(src, 0o700); err != nil {
		return "", err
	}
	replace := make(map[string]string)
	lay := func(at string, text []byte) error {
		real := filepath.Join(src, fmt.Sprintf("%d.go", len(replace)))
		replace[at] = real
		return os.WriteFile(real, text, 0o600)
	}

	main := filepath.Join(home.Dir, virtual)
	names, err := fs.Glob(source, "*.go")
	if err != nil {
		return "", err
	}
	for _, name := range names {
		text, err := fs.ReadFile(source, name)
		if err == nil {
			err = lay(filepath.Join(main, name), text)
		}
		if err != nil {
			return "", err
		}
	}
	generated := bytes.NewBufferString("package main\n\n")
	var paths []string
	for i, p := range packages {
		// A package below an internal directory may only be imported from beside that directory: if main is not
		// there, by a bridge that is. The bridge may be below an internal directory again.
		seen := p.ImportPath
		for {
			parent, internal := internalTo(seen)
			if !internal || strings.HasPrefix(home.Path+"/", parent+"/") {
				break
			}
			if p.Module == nil || !p.Module.Main {
				return "", fmt.Errorf("--import %s: it is internal to %s", p.ImportPath, cmp.Or(parent, "the standard library"))
			}
			bridge := fmt.Sprintf("%s-%d", virtual, i)
			inModule := strings.TrimPrefix(strings.TrimPrefix(parent, p.Module.Path), "/")
			at := filepath.Join(p.Module.Dir, filepath.FromSlash(inModule), bridge, "bridge.go")
			if err := lay(at, fmt.Appendf(nil, "package bridge\n\nimport _ %q\n", seen)); err != nil {
				return "", err
			}
			seen = path.Join(parent, bridge)
		}
		fmt.Fprintf(generated, "import _ %q\n", seen)
		paths = append(paths, p.ImportPath)
	}
	fmt.Fprintf(generated, "\nfunc init() {\n\timported = %#v\n", paths)
	if c.build != "" { // what is built for this run is given the flags again
		fmt.Fprintf(generated, "\tbaked.shell, baked.execs = %t, %#v\n", c.shell, c.execs)
	}
	fmt.Fprintln(generated, "}")
	if err := lay(filepath.Join(main, "imports.go"), generated.Bytes()); err != nil {
		return "", err
	}

	text, err := json.Marshal(map[string]any{"Replace": replace})
	if err != nil {
		return "", err
	}
	overlay := filepath.Join(src, "overlay.json")
	return overlay, os.WriteFile(overlay, text, 0o600)
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

// goList runs `go list -json`.
func goList[T any](ctx context.Context, args ...string) (items []T, err error) {
	cmd := goCommand(ctx, append([]string{"list", "-json"}, args...)...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, goError(ctx, "--import", stderr.Bytes(), err)
	}
	for dec := json.NewDecoder(bytes.NewReader(out)); ; {
		var item T
		if err := dec.Decode(&item); err == io.EOF {
			return items, nil
		} else if err != nil {
			return nil, fmt.Errorf("go list: %w", err)
		}
		items = append(items, item)
	}
}

// goCommand is the go tool, which ctx interrupts, so that it can clean up.
func goCommand(ctx context.Context, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	return cmd
}

// goError tells the go tool's own words where it has said any.
func goError(ctx context.Context, what string, said []byte, err error) error {
	switch said = bytes.TrimSpace(said); {
	case ctx.Err() != nil:
		return fmt.Errorf("%s: interrupted", what)
	case len(said) > 0:
		return fmt.Errorf("%s:\n%s", what, said)
	}
	return fmt.Errorf("%s: go: %w", what, err)
}

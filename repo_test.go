package pinion_test

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const module = "github.com/pinion-queue/pinion"

var update = flag.Bool("update", false, "write testdata/godoc.golden anew")

func goCommand(t *testing.T, args ...string) []byte {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "go", args...)
	cmd.Stderr = new(bytes.Buffer)
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go %s: %v\n%s", strings.Join(args, " "), err, cmd.Stderr)
	}
	return out
}

// sources are the files of the library, without its tests.
func sources(t *testing.T) []string {
	t.Helper()
	files, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	return slices.DeleteFunc(files, func(name string) bool { return strings.HasSuffix(name, "_test.go") })
}

func read(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// A change of the public surface must show in its diff.
func TestThePublicSurfaceIsTheGoldenOne(t *testing.T) {
	const golden = "testdata/godoc.golden"
	got := string(goCommand(t, "doc", "-all", "."))
	if *update {
		if err := os.WriteFile(golden, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if diff := cmp.Diff(read(t, golden), got); diff != "" {
		t.Errorf("go doc -all (-golden +now); if it is meant, go test -run PublicSurface -update .:\n%s", diff)
	}
}

func TestTheModuleRequiresTwoModulesAndNoMore(t *testing.T) {
	var mod struct {
		Require []struct {
			Path     string
			Indirect bool
		}
	}
	if err := json.Unmarshal(goCommand(t, "mod", "edit", "-json"), &mod); err != nil {
		t.Fatal(err)
	}
	var direct []string
	for _, r := range mod.Require {
		if !r.Indirect {
			direct = append(direct, r.Path)
		}
	}
	slices.Sort(direct)
	if diff := cmp.Diff([]string{"github.com/google/go-cmp", "modernc.org/sqlite"}, direct); diff != "" {
		t.Errorf("direct requirements (-want +got):\n%s", diff)
	}
}

func TestEveryExportedNameHasADocComment(t *testing.T) {
	fset := token.NewFileSet()
	missing := func(name *ast.Ident, docs ...*ast.CommentGroup) {
		if name.IsExported() && !slices.ContainsFunc(docs, func(c *ast.CommentGroup) bool { return c.Text() != "" }) {
			t.Errorf("%v: %s has no doc comment", fset.Position(name.Pos()), name.Name)
		}
	}
	for _, name := range sources(t) {
		file, err := parser.ParseFile(fset, name, nil, parser.ParseComments)
		if err != nil {
			t.Fatal(err)
		}
		for _, decl := range file.Decls {
			switch decl := decl.(type) {
			case *ast.FuncDecl:
				if exportedReceiver(decl) {
					missing(decl.Name, decl.Doc)
				}
			case *ast.GenDecl:
				for _, spec := range decl.Specs {
					switch spec := spec.(type) {
					case *ast.TypeSpec:
						missing(spec.Name, spec.Doc, decl.Doc)
					case *ast.ValueSpec:
						for _, name := range spec.Names {
							missing(name, spec.Doc, spec.Comment, decl.Doc)
						}
					}
				}
			}
		}
	}
}

// A reader who looks up a type finds how it is used.
func TestEachExportedTypeHasAnExample(t *testing.T) {
	for _, dir := range []string{".", "web", "postgres", "prometheus"} {
		var types []string
		examples := make(map[string]bool)
		files, err := filepath.Glob(filepath.Join(dir, "*.go"))
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range files {
			file, err := parser.ParseFile(token.NewFileSet(), name, nil, parser.SkipObjectResolution)
			if err != nil {
				t.Fatal(err)
			}
			if !strings.HasSuffix(name, "_test.go") {
				types = append(types, exportedTypes(file)...)
				continue
			}
			for _, decl := range file.Decls {
				f, ok := decl.(*ast.FuncDecl)
				if !ok {
					continue
				}
				example, ok := strings.CutPrefix(f.Name.Name, "Example")
				if ok {
					about, _, _ := strings.Cut(example, "_")
					examples[about] = true
				}
			}
		}
		for _, name := range types {
			if !examples[name] {
				t.Errorf("%s: the type %s has no Example%s", dir, name, name)
			}
		}
	}
}

func exportedTypes(file *ast.File) (names []string) {
	for _, decl := range file.Decls {
		general, ok := decl.(*ast.GenDecl)
		if !ok {
			continue
		}
		for _, spec := range general.Specs {
			declared, ok := spec.(*ast.TypeSpec)
			if ok && declared.Name.IsExported() {
				names = append(names, declared.Name.Name)
			}
		}
	}
	return names
}

// exportedReceiver reports whether a function is one of its own or a method of an exported type.
func exportedReceiver(f *ast.FuncDecl) bool {
	exported := true
	if f.Recv != nil {
		ast.Inspect(f.Recv.List[0].Type, func(n ast.Node) bool {
			if name, ok := n.(*ast.Ident); ok {
				exported = name.IsExported()
				return false
			}
			return true
		})
	}
	return exported
}

// block returns the first block of a Markdown file that is fenced as the given language.
func block(t *testing.T, file, language string) string {
	t.Helper()
	_, rest, started := strings.Cut(read(t, file), "\n```"+language+"\n")
	text, _, ended := strings.Cut(rest, "\n```\n")
	if !started || !ended {
		t.Fatalf("%s has no block of %s", file, language)
	}
	return text + "\n"
}

// What a reader copies from the README must compile against this checkout, run, and do what it says.
func TestTheProgramInTheREADMERuns(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	root, err := filepath.Abs(".")
	if err != nil {
		t.Fatal(err)
	}
	files := map[string]string{
		"main.go": block(t, "README.md", "go"),
		"go.mod":  read(t, "go.mod") + fmt.Sprintf("\nrequire %s v0.0.0\nreplace %[1]s => %q\n", module, root),
		"go.sum":  read(t, "go.sum"),
	}
	files["go.mod"] = strings.Replace(files["go.mod"], "module "+module+"\n", "module example.com/program\n", 1)
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.CommandContext(t.Context(), "go", "run", "-mod=mod", "-ldflags=-w", ".")
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "GOWORK=off")
	cmd.Stderr = new(bytes.Buffer)
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v\n%s", err, cmd.Stderr)
	}
	if string(out) != "3\n" {
		t.Errorf("the program prints %q, want 3", out)
	}
	if _, err := os.Stat(filepath.Join(dir, "jobs.db")); err != nil {
		t.Errorf("the program leaves no jobs.db: %v", err)
	}
}

// Links between the documents must lead somewhere.
func TestTheLinksOfTheDocumentsLeadToFiles(t *testing.T) {
	if _, err := os.Stat("postgres"); err != nil {
		t.Skipf("this is the root module alone, as the module cache has it: %v", err)
	}
	documents, err := filepath.Glob("docs/*.md")
	if err != nil {
		t.Fatal(err)
	}
	link := regexp.MustCompile(`\]\(([^)#:]+)\)`)
	code := regexp.MustCompile("(?s:```.*?```)|(?m:^    .*$)") // where pinion.As[T](s) is no link
	for _, document := range append(documents, "README.md", "CONTRIBUTING.md", "CHANGELOG.md") {
		for _, match := range link.FindAllStringSubmatch(code.ReplaceAllString(read(t, document), ""), -1) {
			if _, err := os.Stat(filepath.Join(filepath.Dir(document), match[1])); err != nil {
				t.Errorf("%s links to %s: %v", document, match[1], err)
			}
		}
	}
}

package pinion

import (
	"context"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
)

func TestIDsAreUUIDsOfVersion7ThatTellTheTime(t *testing.T) {
	before := time.Now()
	id := NewID()
	if !regexp.MustCompile(`^[0-9a-f]{12}7[0-9a-f]{3}[89ab][0-9a-f]{15}$`).MatchString(id) {
		t.Fatalf("%q is no UUIDv7 in 32 hex digits", id)
	}
	var millis int64
	fmt.Sscanf(id[:12], "%x", &millis)
	// Ids made faster than one in 244 ns run ahead of the clock, as those of the test beside this one may.
	if made := time.UnixMilli(millis); made.Before(before.Truncate(time.Millisecond)) ||
		made.After(before.Add(time.Minute)) {
		t.Errorf("%s was made at %v, the id says %v", id, before, made)
	}
}

func TestIDsSortInTheOrderOfTheirMakingAndNeverRepeat(t *testing.T) {
	const makers, each = 8, 5000
	made := make([][]string, makers)
	var wg sync.WaitGroup
	for i := range makers {
		wg.Go(func() {
			for range each {
				made[i] = append(made[i], NewID())
			}
		})
	}
	wg.Wait()
	seen := make(map[string]bool)
	for _, ids := range made {
		if !slices.IsSorted(ids) {
			t.Error("one goroutine's ids are not in order")
		}
		for _, id := range ids {
			seen[id[:16]] = true // the time alone tells them apart within a process
		}
	}
	if len(seen) != makers*each {
		t.Errorf("%d ids have %d times", makers*each, len(seen))
	}
}

func TestStoredErrorsAreValidTextOfABoundedLength(t *testing.T) {
	long := ErrorText(errors.New(strings.Repeat("x", maxErrorText-4) + "é" + "more"))
	if want := strings.Repeat("x", maxErrorText-4) + "..."; long != want {
		t.Errorf("a cut inside a rune ends in %q, want %q", long[len(long)-8:], want[len(want)-8:])
	}
	for _, c := range []struct {
		err  error
		want string
	}{
		{errors.New("failed"), "failed"},
		{errors.New("\xff\xfe x"), "\uFFFD x"},
		{errors.New(strings.Repeat("é", maxErrorText/2)), strings.Repeat("é", maxErrorText/2)},
		{nil, "unknown error"},
		{(*nilText)(nil), "<nil>"},
	} {
		if got := ErrorText(c.err); got != c.want || !utf8.ValidString(got) {
			t.Errorf("%.20q, want %.20q", got, c.want)
		}
	}
}

func TestTimesKeepMicroseconds(t *testing.T) {
	at := time.Date(2026, 1, 2, 3, 4, 5, 123456789, time.FixedZone("", 3600))
	if want, got := time.Date(2026, 1, 2, 2, 4, 5, 123456000, time.UTC), microTime(at); got != want {
		t.Errorf("%v, want %v", got, want)
	}
	if !microTime(time.Time{}).IsZero() {
		t.Error("the zero time is no longer zero")
	}
}

func TestADuplicateErrorMatchesAndNamesTheHolder(t *testing.T) {
	for _, c := range []struct {
		err  *DuplicateError
		want string
	}{
		{&DuplicateError{ID: "a"}, `pinion: duplicate job: id "a" is taken`},
		{&DuplicateError{ID: "a", Key: "k"}, `pinion: duplicate job: key "k" is held by unfinished job a`},
	} {
		wrapped := fmt.Errorf("enqueue: %w", c.err)
		if got, ok := errors.AsType[*DuplicateError](wrapped); !ok || got != c.err ||
			!errors.Is(wrapped, ErrDuplicate) || errors.Is(wrapped, ErrNotFound) {
			t.Errorf("%v does not match itself and ErrDuplicate alone", wrapped)
		}
		if c.err.Error() != c.want {
			t.Errorf("%q, want %q", c.err, c.want)
		}
	}
}

func TestOpenGoesByTheScheme(t *testing.T) {
	dir := t.TempDir()
	scheme := "Test-" + NewID()
	RegisterScheme(scheme,
		func(_ context.Context, dsn string) (Storage, error) { return nil, errors.New("got " + dsn) })
	dsn := strings.ToUpper(scheme) + "://host/db"
	if _, err := Open(t.Context(), dsn); err == nil || err.Error() != "got "+dsn {
		t.Errorf("a registered scheme: %v, want its function to get the whole dsn", err)
	}
	for _, c := range []struct {
		dsn  string
		want Storage
	}{
		{"memory:", &MemoryStorage{}},
		{"Memory:", &MemoryStorage{}},
		{filepath.Join(dir, "a.db"), &SQLiteStorage{}},
		{"sqlite:" + filepath.Join(dir, "a.db"), &SQLiteStorage{}},
		{"SQLite:" + filepath.Join(dir, "b.db"), &SQLiteStorage{}},
	} {
		s, err := Open(t.Context(), c.dsn)
		if err != nil {
			t.Errorf("%s: %v", c.dsn, err)
			continue
		}
		if got, want := fmt.Sprintf("%T", s), fmt.Sprintf("%T", c.want); got != want {
			t.Errorf("%s opened a %s, want a %s", c.dsn, got, want)
		}
		if err := s.Close(); err != nil {
			t.Errorf("%s: Close: %v", c.dsn, err)
		}
	}
}

func TestOpenOfAnUnknownSchemeNamesTheKnownOnesAndKeepsPasswords(t *testing.T) {
	_, err := Open(t.Context(), "postgres://user:secret@host/db")
	if err == nil || !strings.Contains(err.Error(), `no backend for the scheme "postgres" (there are: memory, `) {
		t.Errorf("error %v", err)
	}
	if strings.Contains(fmt.Sprint(err), "secret") {
		t.Errorf("the error shows the password: %v", err)
	}
}

func TestOpenOfAFileURIAsksForThePath(t *testing.T) {
	for _, dsn := range []string{"file:jobs.db", "FILE:///var/jobs.db?mode=rw"} {
		_, err := Open(t.Context(), dsn)
		wantError(t, err, fmt.Sprintf("pinion: open: %q: want the path alone, such as jobs.db", dsn))
	}
}

func TestOpenOfNothingIsAnError(t *testing.T) {
	for _, dsn := range []string{"", "sqlite:"} {
		if s, err := Open(t.Context(), dsn); err == nil {
			t.Errorf("Open(%q) opened a %T", dsn, s)
			s.Close()
		}
	}
}

func TestRegisterSchemePanicsForMistakes(t *testing.T) {
	open := func(context.Context, string) (Storage, error) { return nil, nil }
	for _, c := range []struct {
		scheme string
		open   func(context.Context, string) (Storage, error)
		want   string
	}{
		{"", open, "want letters"},
		{"c", open, "want letters"}, // would take C:\jobs.db
		{"my scheme", open, "want letters"},
		{"postgres:", open, "want letters"},
		{"7up", open, "want letters"},
		{"none", nil, "open is nil"},
		{"SQLite", open, "registered already"},
		{"memory", open, "registered already"},
	} {
		func() {
			defer func() {
				if got := fmt.Sprint(recover()); !strings.Contains(got, c.want) ||
					!strings.Contains(got, strings.ToLower(c.scheme)) {
					t.Errorf("%q: panic %q, want one with %q", c.scheme, got, c.want)
				}
			}()
			RegisterScheme(c.scheme, c.open)
		}()
	}
}

// documentedDefaults returns what stands in brackets in the comments on a struct's fields.
func documentedDefaults(t *testing.T, file, structName string) map[string]string {
	t.Helper()
	parsed, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.ParseComments)
	if err != nil {
		t.Fatal(err)
	}
	defaults := make(map[string]string)
	bracket := regexp.MustCompile(`\[([^\]]+)\](?:[.;]|\n|$)`)
	ast.Inspect(parsed, func(n ast.Node) bool {
		spec, ok := n.(*ast.TypeSpec)
		if !ok || spec.Name.Name != structName {
			return true
		}
		for _, f := range spec.Type.(*ast.StructType).Fields.List {
			if m := bracket.FindStringSubmatch(f.Doc.Text() + f.Comment.Text()); m != nil && f.Names[0].IsExported() {
				defaults[f.Names[0].Name] = m[1]
			}
		}
		return false
	})
	return defaults
}

func TestDocumentedDefaultsAreThoseOfTheCode(t *testing.T) {
	Register("test "+NewID(), func(context.Context, struct{}) error { return nil }) // a Worker needs a task
	worker := func(w *Worker) settings {
		w.Storage = &MemoryStorage{}
		s, err := w.settings()
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	// Durations are written as in "10s", which Duration.String writes too.
	s := worker(&Worker{})
	host, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]string{
		"Registry":          "DefaultRegistry",
		"Queues":            "every queue",
		"Name":              "host:pid",
		"Concurrency":       fmt.Sprint(s.concurrency),
		"Retry":             "DefaultRetry",
		"TaskTimeout":       "none",
		"VisibilityTimeout": s.visibility.String(),
		"HeartbeatInterval": "a third of VisibilityTimeout, at most 1s",
		"ReapInterval":      s.reap.String(),
		"ShutdownTimeout":   s.shutdown.String(),
		"Middleware":        "none",
		"Periodic":          "none",
		"OnEnd":             "none",
		"Logger":            "slog.Default",
	}
	if diff := cmp.Diff(want, documentedDefaults(t, "worker.go", "Worker")); diff != "" {
		t.Errorf("Worker (-code +comments):\n%s", diff)
	}
	if s.registry != DefaultRegistry || len(s.queues) > 0 || s.retry != DefaultRetry || s.taskTimeout != 0 || s.log != slog.Default() ||
		s.periodic != nil || s.onEnd != nil || !strings.HasPrefix(s.name, fmt.Sprintf("%s:%d", host, os.Getpid())) {
		t.Errorf("a Worker's defaults in words are not what its comments say: %+v", s)
	}
	for visibility, beat := range map[time.Duration]time.Duration{0: time.Second, 900 * time.Millisecond: 300 * time.Millisecond, time.Minute: time.Second} {
		if got := worker(&Worker{VisibilityTimeout: visibility}).heartbeat; got != beat {
			t.Errorf("a VisibilityTimeout of %v makes a HeartbeatInterval of %v, want %v", visibility, got, beat)
		}
	}
	if want := (RetryPolicy{MaxRetries: 25, BaseDelay: time.Second, Cap: time.Hour, Jitter: true}); DefaultRetry != want {
		t.Errorf("DefaultRetry is %+v, want %+v", DefaultRetry, want)
	}
	sqlite, err := OpenSQLite(t.Context(), filepath.Join(t.TempDir(), "a.db"), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer sqlite.Close()
	retention := documentedDefaults(t, "sqlite.go", "SQLiteOptions")["Retention"]
	if d, err := time.ParseDuration(retention); err != nil || d != sqlite.opts.Retention ||
		sqlite.opts.Synchronous != "FULL" {
		t.Errorf("SQLiteOptions say that Retention is %q and Synchronous FULL; they are %+v", retention, sqlite.opts)
	}
}

package pinion

import (
	"context"
	"encoding/json"
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
	if made := time.UnixMilli(millis); made.Before(before.Truncate(time.Millisecond)) || made.After(before.Add(time.Minute)) {
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

func TestArgumentsAreEncodedAsOneArrayAndOneObject(t *testing.T) {
	for _, c := range []struct {
		name         string
		job          *Job
		args, kwargs string
	}{
		{"none", NewJob("x"), `[]`, `{}`},
		{"empty", &Job{Task: "x", Args: []any{}, Kwargs: map[string]any{}}, `[]`, `{}`},
		{"of all kinds", &Job{Task: "x", Args: []any{1, "a", nil, 1.5, []int{1}, addArgs{1, 2}}, Kwargs: map[string]any{"b": 2, "a": true}},
			`[1,"a",null,1.5,[1],{"A":1,"B":2}]`, `{"a":true,"b":2}`},
		{"readable", NewJob("x", "<a href=\"b&c\">é\u2028"), `["<a href=\"b&c\">é\u2028"]`, `{}`},
		{"JSON as it is, without its spaces", NewJob("x", json.RawMessage(` { "b" : 1e999, "a" : "\ufffd" } `)), `[{"b":1e999,"a":"\ufffd"}]`, `{}`},
		{"a big number", NewJob("x", json.Number("123456789012345678901234567890")), `[123456789012345678901234567890]`, `{}`},
		{"U+FFFD, and the text of its escape", NewJob("x", "\uFFFD", `\ufffd`), "[\"\uFFFD\",\"\\\\ufffd\"]", `{}`},
		{"the most that is taken", NewJob("x", strings.Repeat("x", maxEncoded-6)), `["` + strings.Repeat("x", maxEncoded-6) + `"]`, `{}`},
	} {
		t.Run(c.name, func(t *testing.T) {
			args, kwargs, err := c.job.EncodeArgs()
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff([]string{c.args, c.kwargs}, []string{args, kwargs}); diff != "" {
				t.Errorf("encoded (-want +got):\n%s", diff)
			}
		})
	}
}

func TestJobsThatCannotBeStoredAreRefused(t *testing.T) {
	for _, c := range []struct {
		name string
		job  *Job
		want error
		text string
	}{
		{"no job", nil, ErrBadArgs, "must name its task"},
		{"no task", &Job{}, ErrBadArgs, "must name its task"},
		{"an id that is not UTF-8", &Job{Task: "x", ID: "\xff"}, ErrBadArgs, `"\xff" is not valid UTF-8`},
		{"a task that is not UTF-8", NewJob("\xff"), ErrBadArgs, "not valid UTF-8"},
		{"a queue that is not UTF-8", &Job{Task: "x", Queue: "\xff"}, ErrBadArgs, "not valid UTF-8"},
		{"a key that is not UTF-8", &Job{Task: "x", Key: "\xff"}, ErrBadArgs, "not valid UTF-8"},
		{"JSON that is not UTF-8", NewJob("x", json.RawMessage("\"\xff\"")), ErrBadArgs, `task "x": not valid UTF-8`},
		{"text that is not UTF-8", NewJob("x", 1, "\xff"), ErrBadArgs, "not valid UTF-8"},
		{"text inside that is not UTF-8", NewJob("x", []any{map[string]any{"a": [1]string{"\\\xff"}}}), ErrBadArgs, "not valid UTF-8"},
		{"a name that is not UTF-8", &Job{Task: "x", Kwargs: map[string]any{"\xff": 1}}, ErrBadArgs, "not valid UTF-8"},
		{"malformed JSON", NewJob("x", json.RawMessage("{")), ErrBadArgs, "unexpected end"},
		{"a channel", NewJob("x", make(chan int)), ErrBadArgs, "unsupported type"},
		{"a function by name", &Job{Task: "x", Kwargs: map[string]any{"f": func() {}}}, ErrBadArgs, "unsupported type"},
		{"one byte too many", NewJob("x", strings.Repeat("x", maxEncoded-5)), ErrTooLarge, "1048577 bytes, at most 1048576 are taken"},
		{"too much in both", &Job{Task: "x", Args: []any{strings.Repeat("x", maxEncoded/2)},
			Kwargs: map[string]any{"a": strings.Repeat("x", maxEncoded/2)}}, ErrTooLarge, `task "x"`},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, _, err := c.job.EncodeArgs()
			if !errors.Is(err, c.want) || !strings.Contains(err.Error(), c.text) {
				t.Errorf("%v, want %v with %q", err, c.want, c.text)
			}
		})
	}
}

func TestStoredArgumentsAreReadBackUndecoded(t *testing.T) {
	raw := func(s string) any { return json.RawMessage(s) }
	for _, c := range []struct {
		args, kwargs string
		want         *Job
	}{
		{`[]`, `{}`, &Job{}},
		{` [ ] `, ` { } `, &Job{}},
		{`[1, "a,]" ,{"b":[ ]}]`, `{}`, &Job{Args: []any{raw(`1`), raw(`"a,]"`), raw(`{"b":[ ]}`)}}},
		{`[null]`, `{"a\n":null,"b":1e999}`, &Job{Args: []any{raw(`null`)}, Kwargs: map[string]any{"a\n": raw(`null`), "b": raw(`1e999`)}}},
	} {
		got := &Job{Args: []any{"old"}, Kwargs: map[string]any{"old": true}}
		if err := got.DecodeArgs(c.args, c.kwargs); err != nil {
			t.Errorf("%s %s: %v", c.args, c.kwargs, err)
		} else if diff := cmp.Diff(c.want, got); diff != "" {
			t.Errorf("%s %s (-want +got):\n%s", c.args, c.kwargs, diff)
		}
	}
}

func TestStoredArgumentsThatAreNoneAreRefused(t *testing.T) {
	for _, c := range [][2]string{
		{``, `{}`}, {`[`, `{}`}, {`{}`, `{}`}, {`null`, `{}`}, {`1`, `{}`}, {`[1] 2`, `{}`}, {`[1,]`, `{}`},
		{`[]`, ``}, {`[]`, `{`}, {`[]`, `[]`}, {`[]`, `null`}, {`[]`, `{"a"}`}, {`[]`, `{"a":1}}`},
		{"[\"\xff\"]", `{}`}, {`[]`, "{\"\xff\":1}"}, // which encoding/json would mend in silence
	} {
		if err := new(Job).DecodeArgs(c[0], c[1]); !errors.Is(err, ErrBadArgs) {
			t.Errorf("args %s and kwargs %s: %v, want ErrBadArgs", c[0], c[1], err)
		}
	}
}

func TestAnErrorThatPanicsWhenAskedFailsItsTaskAlone(t *testing.T) {
	for _, c := range []struct {
		err  error
		want string
	}{
		{(*nilText)(nil), "<nil>"},
		{(*nilError)(nil), "panic: runtime error"},
	} {
		fails := func(RunFunc) RunFunc { return func(context.Context, *Job) error { return c.err } }
		for _, middleware := range []func(RunFunc) RunFunc{nil, fails} {
			var registry Registry
			registry.Add(Task[int]{Name: "task", Run: func(context.Context, int) error { return c.err }})
			storage := NewMemoryStorage()
			defer storage.Close()
			job := NewJob("task", 1)
			if err := storage.Enqueue(t.Context(), job); err != nil {
				t.Fatal(err)
			}
			worker := &Worker{Storage: storage, Registry: &registry, Middleware: middleware,
				Retry: &RetryPolicy{MaxRetries: 1, BaseDelay: 1}, Logger: slog.New(slog.DiscardHandler)}
			if err := worker.Drain(t.Context()); err != nil {
				t.Fatal(err)
			}
			got, err := storage.Get(t.Context(), job.ID)
			if err != nil {
				t.Fatal(err)
			}
			if got.Status != StatusFailed || got.Attempts != 2 || !strings.HasPrefix(got.Error, c.want) {
				t.Errorf("%T: the job is %s after %d attempts with the error %.40q, want FAILED after 2 with %q", c.err, got.Status, got.Attempts, got.Error, c.want)
			}
		}
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
		if got, ok := errors.AsType[*DuplicateError](wrapped); !ok || got != c.err || !errors.Is(wrapped, ErrDuplicate) || errors.Is(wrapped, ErrNotFound) {
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
	RegisterScheme(scheme, func(_ context.Context, dsn string) (Storage, error) { return nil, errors.New("got " + dsn) })
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
				if got := fmt.Sprint(recover()); !strings.Contains(got, c.want) || !strings.Contains(got, strings.ToLower(c.scheme)) {
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
	worker := func(w *Worker) *shift {
		w.Storage = &MemoryStorage{}
		s, err := w.newShift(false)
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
		"Concurrency":       fmt.Sprint(len(s.slots)),
		"Retry":             "DefaultRetry",
		"TaskTimeout":       "none",
		"VisibilityTimeout": s.visibility.String(),
		"HeartbeatInterval": "a third of VisibilityTimeout, at most 1s",
		"ReapInterval":      s.reap.String(),
		"ShutdownTimeout":   s.grace.String(),
		"Middleware":        "none",
		"Logger":            "slog.Default",
	}
	if diff := cmp.Diff(want, documentedDefaults(t, "worker.go", "Worker")); diff != "" {
		t.Errorf("Worker (-code +comments):\n%s", diff)
	}
	if s.registry != DefaultRegistry || len(s.queues) > 0 || s.retry != DefaultRetry || s.timeout != 0 || s.log != slog.Default() ||
		s.name != fmt.Sprintf("%s:%d", host, os.Getpid()) {
		t.Errorf("a Worker's defaults in words are not what its comments say: %+v", s)
	}
	for visibility, beat := range map[time.Duration]time.Duration{0: time.Second, 900 * time.Millisecond: 300 * time.Millisecond, time.Minute: time.Second} {
		if got := worker(&Worker{VisibilityTimeout: visibility}).beat; got != beat {
			t.Errorf("a VisibilityTimeout of %v makes a HeartbeatInterval of %v, want %v", visibility, got, beat)
		}
	}
	if want := (RetryPolicy{MaxRetries: 3, BaseDelay: 500 * time.Millisecond, Cap: 30 * time.Second, Jitter: true}); DefaultRetry != want {
		t.Errorf("DefaultRetry is %+v, want %+v", DefaultRetry, want)
	}
	sqlite, err := OpenSQLite(t.Context(), filepath.Join(t.TempDir(), "a.db"), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer sqlite.Close()
	retention := documentedDefaults(t, "sqlite.go", "SQLiteOptions")["Retention"]
	if d, err := time.ParseDuration(retention); err != nil || d != sqlite.opts.Retention || sqlite.opts.Synchronous != "FULL" {
		t.Errorf("SQLiteOptions say that Retention is %q and Synchronous FULL; they are %+v", retention, sqlite.opts)
	}
}

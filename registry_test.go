package pinion

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

func TestTaskJobEncodesAStructByNameAndAnythingElseByPosition(t *testing.T) {
	opts := cmpopts.EquateEmpty()
	raw := func(s string) json.RawMessage { return json.RawMessage(s) }
	for _, c := range []struct{ got, want *Job }{
		{Task[addArgs]{Name: "add", Queue: "q"}.Job(addArgs{1, 2}),
			&Job{Task: "add", Queue: "q", Kwargs: map[string]any{"A": raw("1"), "B": raw("2")}}},
		{Task[string]{Name: "s"}.Job("<x>"), &Job{Task: "s", Args: []any{raw(`"<x>"`)}}},
		{Task[struct{}]{Name: "none"}.Job(struct{}{}), &Job{Task: "none"}},
		{Task[*Job]{Name: "any"}.Job(NewJob("other", 1, "x")), &Job{Task: "any", Args: []any{1, "x"}}},
		{Task[*Job]{Name: "any"}.Job(nil), &Job{Task: "any"}},
	} {
		if diff := cmp.Diff(c.want, c.got, opts); diff != "" {
			t.Errorf("%s (-want +got):\n%s", c.want.Task, diff)
		}
	}
}

func TestATaskCannotChangeTheWorkersJob(t *testing.T) {
	newJob := func() *Job {
		return &Job{
			ID:     "id",
			Task:   "task",
			Claim:  7,
			Args:   []any{json.RawMessage("1")},
			Kwargs: map[string]any{"a": json.RawMessage("1")},
		}
	}
	job := newJob()
	got, err := given[*Job](job)
	if err != nil {
		t.Fatal(err)
	}
	got.Claim, got.Args[0], got.Kwargs["a"] = 8, "changed", "changed"
	if diff := cmp.Diff(newJob(), job); diff != "" {
		t.Errorf("the worker's job (-want +got):\n%s", diff)
	}
}

func TestRegistrationMistakesPanic(t *testing.T) {
	run := nop[int]("").Run
	var registry Registry
	registry.Add(nop[int]("taken"))
	for _, c := range []struct {
		task AnyTask
		want string
	}{
		{nop[int](""), `task "": Name and Run must be set`},
		{nop[int]("x\x00"), `the Name "x\x00" contains a NUL`},
		{nop[int]("\xff"), `the Name "\xff" is not valid UTF-8`},
		{nop[int](strings.Repeat("x", 1025)), `the Name has 1025 bytes, want at most 1024`},
		{Task[int]{Name: "x"}, `task "x": Name and Run must be set`},
		{nop[int]("TAKEN"), `task "TAKEN" is registered already, as "taken"`},
		{Task[int]{Name: "x", Run: run, Timeout: -1}, `task "x": Timeout is negative`},
		{Task[int]{Name: "x", Run: run, Retry: &RetryPolicy{MaxRetries: -1}}, `task "x": Retry: MaxRetries is negative`},
		{Task[int]{Name: "x", Run: run, Retry: &RetryPolicy{Cap: -1}}, `task "x": Retry: BaseDelay and Cap`},
	} {
		if got := panicOfAdd(&registry, c.task); !strings.Contains(got, c.want) {
			t.Errorf("panic %q, want one with %q", got, c.want)
		}
	}
	if diff := cmp.Diff([]string{"taken"}, registry.Names()); diff != "" {
		t.Errorf("names after the panics (-want +got):\n%s", diff)
	}
}

// panicOfAdd returns what r.Add(task) panics with.
func panicOfAdd(r *Registry, task AnyTask) (message string) {
	defer func() { message = fmt.Sprint(recover()) }()
	r.Add(task)
	return ""
}

// nop returns a task that does nothing.
func nop[A any](name string) Task[A] {
	return Task[A]{Name: name, Run: func(context.Context, A) error { return nil }}
}

func TestNamesAreFoundWithoutRegardToCase(t *testing.T) {
	var registry Registry
	if _, ok := registry.lookup("x"); ok || len(registry.Names()) > 0 {
		t.Error("an empty Registry has a task")
	}
	registry.Add(nop[int]("Send.Mail"), nop[string]("ärger"), nop[int]("\u212Aelvin"), nop[int]("ΣΑΣ"))
	for _, name := range []string{
		"Send.Mail", "send.mail", "SEND.MAIL", "\u017Fend.mail", "ÄRGER", "kelvin", "KELVIN", "σας", "σασ",
	} {
		if _, ok := registry.lookup(name); !ok {
			t.Errorf("%q is not found", name)
		}
		if got := panicOfAdd(&registry, nop[int](name)); !strings.Contains(got, "is registered already") {
			t.Errorf("adding %q again: panic %q", name, got)
		}
	}
	if diff := cmp.Diff([]string{"Send.Mail", "ärger", "ΣΑΣ", "\u212Aelvin"}, registry.Names()); diff != "" {
		t.Errorf("names (-want +got):\n%s", diff)
	}
}

func FuzzFoldCase(f *testing.F) {
	for _, seed := range [][2]string{{"", ""}, {"Add", "aDD"}, {"Kelvin", "\u212Aelvin"}, {"ΣΑΣ", "σας"}, {"ſ", "S"},
		{"\xff", "\uFFFD"}, {"\xff\xfe", "\xfe\xff"}, {"İ", "i"}, {"ß", "ẞ"}, {"ǅ", "ǆ"}, {"a", "b"}} {
		f.Add(seed[0], seed[1])
	}
	f.Fuzz(func(t *testing.T, a, b string) {
		if got, want := foldCase(a) == foldCase(b), strings.EqualFold(a, b); got != want {
			t.Errorf("foldCase holds %q and %q to be equal: %v, want %v as strings.EqualFold", a, b, got, want)
		}
		if folded := foldCase(a); foldCase(folded) != folded || !strings.EqualFold(folded, a) {
			t.Errorf("%q is folded to %q", a, folded)
		}
	})
}

func TestAHandlerKnowsWhichNamesItIgnores(t *testing.T) {
	job := NewJob("task", 1)
	job.Kwargs = map[string]any{"c": 1, "b": 2, "Z": 3}
	for _, c := range []struct {
		task AnyTask
		want []string
	}{
		{nop[addArgs]("task"), []string{"Z", "c"}},
		{nop[struct{ B, C, Z int }]("task"), nil},
		{nop[int]("task"), []string{"Z", "b", "c"}},
		{nop[*Job]("task"), nil},
	} {
		if diff := cmp.Diff(c.want, c.task.handler().unknown(job)); diff != "" {
			t.Errorf("%T (-want +got):\n%s", c.task, diff)
		}
	}
}

func TestCheckRefusesWhatSomebodyMistyped(t *testing.T) {
	var registry Registry
	registry.Add(nop[addArgs]("add"), nop[int]("one"), nop[*Job]("any"), nop[struct{}]("none"))
	named := func(task, name string) *Job { return &Job{Task: task, Kwargs: map[string]any{name: 1}} }
	for _, c := range []struct {
		job  *Job
		want error
		text string
	}{
		{NewJob("add", 1, 2), nil, ""},
		{named("ADD", "b"), nil, ""},
		{named("any", "anything"), nil, ""},
		{NewJob("none"), nil, ""},
		{NewJob("ad", 1, 2), ErrTaskNotFound, `pinion: task not found: "ad"`},
		{named("add", "c"), ErrBadArgs, `pinion: bad arguments: task "add": unknown argument "c"; it takes A, B`},
		{named("none", "c"), ErrBadArgs, `task "none": unknown argument "c"; it takes no arguments`},
		{named("one", "c"), ErrBadArgs, `unknown argument "c"; it takes exactly one positional argument, int`},
		{NewJob("add", 1, 2, 3), ErrBadArgs, "got 3 by position"},
		{NewJob("add", "x"), ErrBadArgs, `argument "A": expected int, got string`},
	} {
		err := registry.Check(c.job)
		if !errors.Is(err, c.want) || err != nil && !strings.Contains(err.Error(), c.text) {
			t.Errorf("%s %v %v: %v, want %v with %q", c.job.Task, c.job.Args, c.job.Kwargs, err, c.want, c.text)
		}
	}
}

func TestArgsOfReturnsWhatTheTaskWouldGet(t *testing.T) {
	add := nop[addArgs]("Add")
	stored, err := through(add.Job(addArgs{1, 2}))
	if err != nil {
		t.Fatal(err)
	}
	byHand := &Job{Task: "add", Args: []any{1}, Kwargs: map[string]any{"b": 2, "unknown": 3}}
	for _, job := range []*Job{add.Job(addArgs{1, 2}), stored, byHand} {
		got, err := add.ArgsOf(job)
		if diff := cmp.Diff(addArgs{1, 2}, got); err != nil || diff != "" {
			t.Errorf("error %v, arguments (-want +got):\n%s", err, diff)
		}
	}
	if _, err := add.ArgsOf(NewJob("add", "x")); !errors.Is(err, ErrBadArgs) {
		t.Errorf("arguments that do not fit: %v, want ErrBadArgs", err)
	}
	if _, err := add.ArgsOf(NewJob("subtract", 1, 2)); err == nil ||
		!strings.Contains(err.Error(), `of task "subtract", want "Add"`) {
		t.Errorf("a job of another task: %v, want an error", err)
	}
}

func TestARegistryKnowsTheQueuesOfItsTasks(t *testing.T) {
	var registry Registry
	registry.Add(Task[int]{Name: "Mail", Queue: "post", Run: nop[int]("").Run}, nop[int]("plain"))
	for task, want := range map[string]string{"Mail": "post", "mAIL": "post", "plain": "", "unknown": ""} {
		if got := registry.Queue(task); got != want {
			t.Errorf("the queue of %s is %q, want %q", task, got, want)
		}
	}
}

func TestRegisterAndRegisterTaskUseTheDefaultRegistry(t *testing.T) {
	names := []string{NewID(), NewID()}
	Register(names[0], func(context.Context, int) error { return nil })
	task := RegisterTask(Task[int]{Name: names[1], Queue: "q", Run: nop[int]("").Run})
	if task.Queue != "q" {
		t.Errorf("RegisterTask returned the queue %q, want the task's", task.Queue)
	}
	for _, name := range names {
		if _, ok := DefaultRegistry.lookup(name); !ok {
			t.Errorf("%s is not in DefaultRegistry", name)
		}
	}
}

package pinion

import (
	"context"
	"encoding/json"
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
	job := &Job{ID: "id", Task: "task", Claim: 7, Args: []any{json.RawMessage("1")}, Kwargs: map[string]any{"a": json.RawMessage("1")}}
	got, err := given[*Job](job)
	if err != nil {
		t.Fatal(err)
	}
	got.Claim, got.Args[0], got.Kwargs["a"] = 8, "changed", "changed"
	want := &Job{ID: "id", Task: "task", Claim: 7, Args: []any{json.RawMessage("1")}, Kwargs: map[string]any{"a": json.RawMessage("1")}}
	if diff := cmp.Diff(want, job); diff != "" {
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
	registry.Add(nop[int]("Send.Mail"), nop[string]("ärger"))
	for _, name := range []string{"Send.Mail", "send.mail", "SEND.MAIL", "ÄRGER"} {
		if _, ok := registry.lookup(name); !ok {
			t.Errorf("%q is not found", name)
		}
	}
	if diff := cmp.Diff([]string{"Send.Mail", "ärger"}, registry.Names()); diff != "" {
		t.Errorf("names (-want +got):\n%s", diff)
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

package pinion

import (
	"cmp"
	"context"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"sync"
	"time"
)

// Task is a function that jobs can name. Only Name and Run are needed.
//
// A is the type of the arguments, usually a struct: elements of a job's Args fill its exported fields in the order
// of declaration, entries of its Kwargs fill them by their JSON names, and both may be mixed, positional first. So
// NewJob("add", 1, 2), the command line's --kwargs '{"a":1,"b":2}' and Add.Job(AddArgs{1, 2}) run the same task
// alike. Fields that are not given stay zero. Too many elements, an unknown name, a field given twice and a value
// that does not fit are ErrBadArgs, which is permanent.
//
// An A that is no struct, or that decodes itself (time.Time), takes exactly one element; struct{} takes none; *Job
// takes a copy of the job as it is. Numbers keep their precision: where an argument's type is an interface they arrive as
// json.Number.
type Task[A any] struct {
	Name    string // looked up without regard to case
	Run     func(ctx context.Context, args A) error
	Queue   string        // where Job and Enqueue put its jobs [default]
	Timeout time.Duration // after which ctx is cancelled; over the worker's TaskTimeout
	Retry   *RetryPolicy  // over the worker's
}

// Register registers run as the task called name on the DefaultRegistry. It panics as [Registry.Add] does.
//
// A package-level var whose function enqueues the same task again is an initialisation cycle for the compiler.
// Declare the variable alone and call Register in func init then.
func Register[A any](name string, run func(ctx context.Context, args A) error) Task[A] {
	return RegisterTask(Task[A]{Name: name, Run: run})
}

// RegisterTask adds t to the DefaultRegistry, usually in a package-level var, and returns it. It panics as
// [Registry.Add] does.
func RegisterTask[A any](t Task[A]) Task[A] {
	DefaultRegistry.Add(t)
	return t
}

// Job returns a job of this task that has yet to be enqueued, for setting Key, RunAt, Priority and so on. The
// arguments are encoded now: a struct as Kwargs, anything else as one element of Args; of a *Job its Args and Kwargs
// are taken. Arguments that JSON cannot express are reported by Enqueue.
func (t Task[A]) Job(args A) *Job {
	job := &Job{Task: t.Name, Queue: t.Queue}
	if whole, ok := any(&args).(**Job); ok {
		given := cmp.Or(*whole, job)
		job.Args, job.Kwargs = given.Args, given.Kwargs
	} else if text, err := encode(&args); err != nil { // by pointer: a big.Int, say, encodes itself only so
		job.Args = []any{&args} // Enqueue meets the same trouble and says so
	} else if !isFields(reflect.TypeFor[A]()) || job.DecodeArgs("[]", string(text)) != nil {
		job.Args = []any{text}
	}
	return job
}

// Enqueue stores a job of this task, due at once, and returns it with its ID.
func (t Task[A]) Enqueue(ctx context.Context, e Enqueuer, args A) (*Job, error) {
	job := t.Job(args)
	if err := e.Enqueue(ctx, job); err != nil {
		return nil, err
	}
	return job, nil
}

// AnyTask is a Task[A] of any A, so that one Registry holds tasks of all types. Nothing else implements it.
type AnyTask interface{ handler() handler }

// handler is a Task[A] with A gone from its type.
type handler struct {
	name    string
	run     RunFunc // decodes the job's arguments and calls Task.Run
	queue   string
	timeout time.Duration
	retry   *RetryPolicy
}

// RunFunc runs a job. Middleware wraps one in another.
type RunFunc func(ctx context.Context, job *Job) error

func (t Task[A]) handler() handler {
	p := &params{task: t.Name}
	switch err := cmp.Or(t.Retry, &DefaultRetry).check(); {
	case t.Name == "" || t.Run == nil:
		p.refuse("Name and Run must be set")
	case t.Timeout < 0:
		p.refuse("Timeout is negative")
	case err != nil:
		p.refuse("Retry: %v", err)
	}
	p.learn(reflect.TypeFor[A]())
	return handler{t.Name, func(ctx context.Context, job *Job) error {
		var args A
		if whole, ok := any(&args).(**Job); ok {
			*whole = job.clone()
		} else if err := p.decode(job, &args); err != nil {
			return err
		}
		return t.Run(ctx, args)
	}, t.Queue, t.Timeout, t.Retry}
}

// once reports whether a registered task allows its jobs no retry.
func (r *Registry) once() (once bool) {
	r.handlers.Range(func(_, h any) bool {
		retry := h.(handler).retry
		once = once || retry != nil && retry.MaxRetries == 0
		return !once
	})
	return once
}

// Registry holds tasks by name. The zero value is empty and ready; a Registry may be added to and used by workers
// at once.
type Registry struct {
	handlers sync.Map // of handler, by the name in lower case
}

// DefaultRegistry is where Register and RegisterTask put tasks, and where a Worker without a Registry looks.
var DefaultRegistry = new(Registry)

// Add registers tasks. An empty or taken name, a missing Run and an argument type that JSON cannot express, or in
// which two fields have one JSON name, panic, as http.Handle does: they are mistakes in the program, there whenever
// it starts.
func (r *Registry) Add(ts ...AnyTask) {
	for _, t := range ts {
		added := t.handler()
		if taken, ok := r.handlers.LoadOrStore(strings.ToLower(added.name), added); ok {
			panic(fmt.Sprintf("pinion: task %q is registered already, as %q", added.name, taken.(handler).name))
		}
	}
}

// Names lists the registered tasks, sorted.
func (r *Registry) Names() []string {
	var names []string
	for _, h := range r.handlers.Range {
		names = append(names, h.(handler).name)
	}
	slices.Sort(names)
	return names
}

// Queue returns the Queue of the registered task: "" if none is set, or if there is no such task.
func (r *Registry) Queue(task string) string {
	h, _ := r.lookup(task)
	return h.queue
}

func (r *Registry) lookup(name string) (handler, bool) {
	found, ok := r.handlers.Load(strings.ToLower(name))
	h, _ := found.(handler)
	return h, ok
}

// What a running task can ask of its context.

package pinion

import (
	"context"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"sync"
	"time"
)

// Task is a function that jobs can name. Only Name and Run must be set.
//
// A is the type of the arguments, usually a struct. The elements of a job's Args fill its exported fields in
// the order of declaration. The entries of its Kwargs fill them by their JSON names. Both may be mixed,
// positional arguments first. So NewJob("add", 1, 2), the command line's --kwargs '{"a":1,"b":2}' and
// Add.Job(AddArgs{1, 2}) run the same task alike. Fields that are not given stay zero. Too many elements, an
// unknown name, a field given twice and a value that does not fit are ErrBadArgs, which is permanent.
//
// An A that isn't a struct, or that decodes itself (time.Time), takes exactly one element. struct{} takes
// none. *Job takes a copy of the job as it is. Numbers keep their precision: where an argument's type is an
// interface they arrive as json.Number.
type Task[A any] struct {
	Name    string // looked up without regard to case
	Run     func(ctx context.Context, args A) error
	Queue   string        // where Job and Enqueue put its jobs [default]
	Timeout time.Duration // after which ctx is cancelled [the worker's TaskTimeout]
	Retry   *RetryPolicy  // [the worker's]
}

// Register registers run as the task called name on the DefaultRegistry. It panics as [Registry.Add] does.
//
// If run enqueues its own task, a package-level var cannot be set to Register(…): the compiler reports an
// initialization cycle. Declare the variable alone then, and call Register in func init.
func Register[A any](name string, run func(ctx context.Context, args A) error) Task[A] {
	return RegisterTask(Task[A]{Name: name, Run: run})
}

// RegisterTask adds t to the DefaultRegistry and returns it. It panics as [Registry.Add] does. Call it in a
// package-level var, usually.
func RegisterTask[A any](t Task[A]) Task[A] {
	DefaultRegistry.Add(t)
	return t
}

// Job returns a job of this task that isn't enqueued yet, so that Key, RunAt, Priority and so on can be set.
// It encodes the arguments at once: a struct as Kwargs, anything else as one element of Args. A task of *Job
// takes over the Args and Kwargs of that job. Enqueue reports arguments that JSON cannot express.
func (t Task[A]) Job(args A) *Job {
	job := &Job{Task: t.Name, Queue: t.Queue}
	if whole, ok := any(&args).(**Job); ok {
		if *whole != nil {
			job.Args, job.Kwargs = (*whole).Args, (*whole).Kwargs
		}
		return job
	}
	text, err := encode(&args) // by pointer: some types, such as big.Int, encode themselves only so
	if err != nil {
		job.Args = []any{&args} // Enqueue encodes them again and returns the error
		return job
	}
	if !hasFields(reflect.TypeFor[A]()) || job.DecodeArgs("[]", string(text)) != nil {
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

// handler is a Task[A] without the A in its type.
type handler struct {
	name    string
	run     RunFunc // decodes the job's arguments and calls Task.Run
	queue   string
	timeout time.Duration
	retry   *RetryPolicy
}

// RunFunc runs a job. Middleware wraps one in another.
type RunFunc func(ctx context.Context, job *Job) error

// handler checks the task, which panics for a mistake, and returns its handler.
func (t Task[A]) handler() handler {
	params := paramsOf(t.Name, reflect.TypeFor[A]())
	if t.Name == "" || t.Run == nil {
		params.refuse("Name and Run must be set")
	}
	if t.Timeout < 0 {
		params.refuse("Timeout is negative")
	}
	if t.Retry != nil {
		if err := t.Retry.check(); err != nil {
			params.refuse("Retry: %v", err)
		}
	}
	run := func(ctx context.Context, job *Job) error {
		args, err := argsOf[A](params, job)
		if err != nil {
			return err
		}
		return t.Run(ctx, args)
	}
	return handler{name: t.Name, run: run, queue: t.Queue, timeout: t.Timeout, retry: t.Retry}
}

// argsOf returns the arguments of a job as an A.
func argsOf[A any](params *params, job *Job) (args A, err error) {
	if whole, ok := any(&args).(**Job); ok {
		*whole = job.clone()
		return args, nil
	}
	err = params.decode(job, &args)
	return args, err
}

// clone returns a copy of the job for a task. The worker still needs its own: it acts by the job's Claim.
func (j *Job) clone() *Job {
	job := *j
	job.Args, job.Kwargs, job.Meta = slices.Clone(j.Args), maps.Clone(j.Kwargs), maps.Clone(j.Meta)
	return &job
}

// Registry holds tasks by name. The zero value is empty and ready to use. Tasks may be added while workers
// use it.
type Registry struct {
	handlers sync.Map // of handler, by the name in lower case
}

// DefaultRegistry is where Register and RegisterTask put tasks, and where a Worker without a Registry looks.
var DefaultRegistry = new(Registry)

// Add registers tasks. Like http.Handle it panics for mistakes in the program, which are there whenever it
// starts: an empty or taken name, a missing Run, and an argument type that JSON cannot express or in which
// two fields have one JSON name.
func (r *Registry) Add(ts ...AnyTask) {
	for _, t := range ts {
		added := t.handler()
		taken, ok := r.handlers.LoadOrStore(strings.ToLower(added.name), added)
		if ok {
			panic(fmt.Sprintf("pinion: task %q is registered already, as %q", added.name, taken.(handler).name))
		}
	}
}

// Names returns the names of the registered tasks, sorted.
func (r *Registry) Names() []string {
	var names []string
	for _, h := range r.handlers.Range {
		names = append(names, h.(handler).name)
	}
	slices.Sort(names)
	return names
}

// Queue returns the Queue of the named task. It returns "" if the task has none or isn't registered.
func (r *Registry) Queue(task string) string {
	h, _ := r.lookup(task)
	return h.queue
}

// lookup returns the handler of the named task.
func (r *Registry) lookup(name string) (handler, bool) {
	found, ok := r.handlers.Load(strings.ToLower(name))
	if !ok {
		return handler{}, false
	}
	return found.(handler), true
}

// once reports whether a registered task allows its jobs no retry.
func (r *Registry) once() bool {
	for _, h := range r.handlers.Range {
		retry := h.(handler).retry
		if retry != nil && retry.MaxRetries == 0 {
			return true
		}
	}
	return false
}

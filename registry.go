package pinion

import (
	"context"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
	"unicode"
	"unicode/utf8"
)

// Task is a function that jobs can name. Only Name and Run must be set.
//
// A is the type of the arguments, usually a struct. The elements of a job's Args fill its exported fields in
// the order of declaration. The entries of its Kwargs fill them by their JSON names. Both may be mixed,
// positional arguments first. So NewJob("add", 1, 2), the command line's --kwargs '{"a":1,"b":2}' and
// Add.Job(AddArgs{1, 2}) run the same task alike. Fields that are not given stay zero. Names that A does not
// have are ignored when the job runs, so that a deploy may add or remove a field; the worker logs a warning
// once for each. Too many elements, a field given twice and a value that does not fit are ErrBadArgs, which
// is permanent.
//
// An A that isn't a struct, or that decodes itself (time.Time), takes exactly one element. struct{} takes
// none. *Job takes a copy of the job as it is. Numbers keep their precision: where an argument's type is an
// interface they arrive as json.Number.
type Task[A any] struct {
	Name    string // looked up without regard to case
	Run     func(ctx context.Context, args A) error
	Queue   string        // where Job and Enqueue put its jobs [default]
	Timeout time.Duration // after which ctx is canceled [the worker's TaskTimeout]
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

// ArgsOf returns the arguments of a job of this task, as its function would get them. It is for tests: was
// the job enqueued with these arguments? A job of another task is an error, and arguments that do not fit are
// ErrBadArgs.
func (t Task[A]) ArgsOf(job *Job) (A, error) {
	var args A
	if !strings.EqualFold(job.Task, t.Name) {
		return args, fmt.Errorf("pinion: ArgsOf: the job is of task %q, want %q", job.Task, t.Name)
	}
	err := t.params().decode(job, &args)
	return args, err
}

// AnyTask is a Task[A] of any A, so that one Registry holds tasks of all types. Nothing else implements it.
type AnyTask interface{ handler() handler }

// handler is a Task[A] without the A in its type.
type handler struct {
	name    string
	params  *params
	run     RunFunc              // decodes the job's arguments and calls Task.Run
	check   func(job *Job) error // decodes the job's arguments only
	queue   string
	timeout time.Duration
	retry   *RetryPolicy
}

// RunFunc runs a job. Middleware wraps one in another.
type RunFunc func(ctx context.Context, job *Job) error

// handler checks the task, which panics for a mistake, and returns its handler.
func (t Task[A]) handler() handler {
	params := t.params()
	if t.Name == "" || t.Run == nil {
		params.refuse("Name and Run must be set")
	}
	if err := checkLabel("Name", t.Name); err != nil {
		params.refuse("%v", err)
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
		var args A
		if err := params.decode(job, &args); err != nil {
			return err
		}
		return t.Run(ctx, args)
	}
	check := func(job *Job) error {
		var args A
		return params.decode(job, &args)
	}
	return handler{t.Name, params, run, check, t.Queue, t.Timeout, t.Retry}
}

func (t Task[A]) params() *params { return paramsOf(t.Name, reflect.TypeFor[A]()) }

// unknown returns the names of a job's arguments that the task does not know and ignores, sorted.
func (h handler) unknown(job *Job) []string { return h.params.unknown(job) }

// clone returns a copy of the job for a task. The worker still needs its own: it acts by the job's Claim.
func (j *Job) clone() *Job {
	job := *j
	job.Args, job.Kwargs, job.Meta = slices.Clone(j.Args), maps.Clone(j.Kwargs), maps.Clone(j.Meta)
	return &job
}

// Registry holds tasks by name. The zero value is empty and ready to use. Tasks may be added while workers
// use it.
type Registry struct {
	handlers sync.Map    // of handler, by the foldCase of the name
	hasOnce  atomic.Bool // a task allows its jobs no retry, so they have one attempt
}

// DefaultRegistry is where Register and RegisterTask put tasks, and where a Worker without a Registry looks.
var DefaultRegistry = new(Registry)

// Add registers tasks. Like http.Handle it panics for mistakes in the program, which are there whenever it
// starts: an empty or taken name, a missing Run, and an argument type that JSON cannot both write and read,
// such as one with a channel, an error or a *sql.DB in it, or in which two fields have one JSON name.
func (r *Registry) Add(ts ...AnyTask) {
	for _, t := range ts {
		added := t.handler()
		if added.retry != nil && added.retry.MaxRetries == 0 {
			r.hasOnce.Store(true) // before a claim can name the task
		}
		taken, ok := r.handlers.LoadOrStore(foldCase(added.name), added)
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

// Check returns what is wrong with a job that a person has written, on a command line for example:
// ErrTaskNotFound for a task that isn't registered, and ErrBadArgs for arguments that do not fit it. A worker
// ignores arguments whose names the task does not have. Check refuses them, because they are likely to be
// misspelled.
func (r *Registry) Check(job *Job) error {
	h, ok := r.lookup(job.Task)
	if !ok {
		return fmt.Errorf("%w: %q", ErrTaskNotFound, job.Task)
	}
	if unknown := h.unknown(job); len(unknown) > 0 {
		return h.params.bad("unknown argument %q; it takes %s", unknown[0], h.params.takes)
	}
	return h.check(job)
}

// lookup returns the handler of the named task.
func (r *Registry) lookup(name string) (handler, bool) {
	found, ok := r.handlers.Load(foldCase(name))
	if !ok {
		return handler{}, false
	}
	return found.(handler), true
}

// isSameTask reports whether two names are those of one task: without regard to case. A name that is not UTF-8, which
// only another program stores, equals only the same bytes: strings.EqualFold would take it for U+FFFD.
func isSameTask(a, b string) bool {
	return a == b || strings.EqualFold(a, b) && utf8.ValidString(a) && utf8.ValidString(b)
}

// foldCase returns a form of a name that is the same for all names which strings.EqualFold holds to be equal.
func foldCase(name string) string {
	for i := range len(name) {
		c := name[i]
		if c >= utf8.RuneSelf || 'A' <= c && c <= 'Z' {
			return strings.Map(foldRune, name)
		}
	}
	return name
}

// foldRune returns the smallest of the runes that differ from r in case only, but a lower-case letter in
// ASCII, so that most names are folded already.
func foldRune(r rune) rune {
	smallest := r
	for other := unicode.SimpleFold(r); other != r; other = unicode.SimpleFold(other) {
		smallest = min(smallest, other)
	}
	if 'A' <= smallest && smallest <= 'Z' {
		smallest += 'a' - 'A'
	}
	return smallest
}

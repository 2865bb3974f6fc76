package pinion

import (
	"bytes"
	"cmp"
	"context"
	"encoding"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"regexp"
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

// Func registers run under name on the DefaultRegistry: short for Register(Task[A]{Name: name, Run: run}).
//
// A package-level var whose function enqueues the same task again is an initialisation cycle for the compiler.
// Declare the variable alone and call Func in func init then.
func Func[A any](name string, run func(ctx context.Context, args A) error) Task[A] {
	return Register(Task[A]{Name: name, Run: run})
}

// Register adds t to the DefaultRegistry, usually in a package-level var, and returns it. It panics as
// [Registry.Add] does.
func Register[A any](t Task[A]) Task[A] {
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
func (t Task[A]) Enqueue(ctx context.Context, s Storage, args A) (*Job, error) {
	job := t.Job(args)
	if err := s.Enqueue(ctx, job); err != nil {
		return nil, err
	}
	return job, nil
}

// Handler is what Task[A] is for every A, so that one Registry holds tasks of all types. Nothing else implements it.
type Handler interface{ handler() handler }

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

// DefaultRegistry is where Func and Register put tasks, and where a Worker without a Registry looks.
var DefaultRegistry = new(Registry)

// Add registers tasks. An empty or taken name, a missing Run and an argument type that JSON cannot express, or in
// which two fields have one JSON name, panic, as http.Handle does: they are mistakes in the program, there whenever
// it starts.
func (r *Registry) Add(hs ...Handler) {
	for _, h := range hs {
		added := h.handler()
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

// params are the arguments that a task takes: the fields of a struct, or the one element that is its A.
type params struct {
	task   string
	one    bool
	fields []field
	takes  string // all that in words
	exact  bool   // there may be an interface, in which numbers must not become float64
}

// field is one argument.
type field struct {
	name   string // its JSON name
	index  []int  // where it is, in embedded structs perhaps
	quoted bool   // it has the json tag's ",string" option
}

// isFields reports whether arguments fill t field by field.
func isFields(t reflect.Type) bool { return t.Kind() == reflect.Struct && !decodesItself(t) }

func decodesItself(t reflect.Type) bool {
	p := reflect.PointerTo(t)
	return p.Implements(reflect.TypeFor[json.Unmarshaler]()) || p.Implements(reflect.TypeFor[encoding.TextUnmarshaler]())
}

// refuse panics for a mistake in the program.
func (p *params) refuse(format string, args ...any) {
	panic(fmt.Sprintf("pinion: task %q: %s", p.task, fmt.Sprintf(format, args...)))
}

// learn finds out what arguments fill a t.
//
// Their names are those of encoding/json, which does the filling. Of several fields with one name the least deeply
// embedded counts; two at that depth, which encoding/json passes over or chooses from by their tags, are refused.
func (p *params) learn(t reflect.Type) {
	if p.one = !isFields(t); p.one {
		p.check("A", t, make(map[reflect.Type]bool))
		p.fields, p.takes = []field{{name: "1"}}, fmt.Sprintf("exactly one positional argument, %v", t)
		return
	}
	all := p.list(t, nil)
	var names []string
	for _, f := range all {
		if slices.ContainsFunc(all, func(g field) bool { return g.name == f.name && len(g.index) < len(f.index) }) {
			continue
		}
		if slices.Contains(names, f.name) {
			p.refuse("two fields of A are named %q in JSON", f.name)
		}
		names, p.fields = append(names, f.name), append(p.fields, f)
	}
	if len(names) == 0 && t.NumField() > 0 {
		p.refuse("A, a %v, has no exported field", t)
	}
	p.takes = cmp.Or(strings.Join(names, ", "), "no arguments")
}

// check refuses what JSON can never express. What it does not look for, such as an interface with methods, is
// ErrBadArgs when there is something to decode.
func (p *params) check(path string, t reflect.Type, seen map[reflect.Type]bool) {
	if seen[t] || decodesItself(t) {
		return
	}
	seen[t] = true
	switch t.Kind() {
	case reflect.Chan, reflect.Func, reflect.Complex64, reflect.Complex128:
		p.refuse("%s: JSON cannot express %v", path, t)
	case reflect.Interface:
		p.exact = true
	case reflect.Pointer, reflect.Slice, reflect.Array, reflect.Map:
		p.check(path, t.Elem(), seen)
	case reflect.Struct:
		for f := range t.Fields() {
			if f.Tag.Get("json") != "-" && (f.IsExported() || f.Anonymous) {
				p.check(path+"."+f.Name, f.Type, seen)
			}
		}
	}
}

// What encoding/json takes from a tag as a field's name.
var tagPattern = regexp.MustCompile(`^[\pL\p{Nd}!#$%&()*+\-./:;<=>?@[\]^_{|}~ ]+$`)

// list returns a struct's fields in the order of declaration, those of embedded structs in place.
func (p *params) list(t reflect.Type, index []int) (fields []field) {
	for i := range t.NumField() {
		f, at := t.Field(i), append(slices.Clone(index), i)
		tag := f.Tag.Get("json")
		name, options, _ := strings.Cut(tag, ",")
		name = tagPattern.FindString(name)
		switch {
		case tag == "-" || !f.IsExported() && !f.Anonymous:
		case f.Anonymous && name == "" && f.Type.Kind() == reflect.Struct:
			fields = append(fields, p.list(f.Type, at)...)
		case f.Anonymous && (!f.IsExported() || name == "" && f.Type.Kind() == reflect.Pointer):
			p.refuse("A embeds %v, which JSON cannot fill; embed a struct without a tag, or name the field", f.Type)
		default:
			quoted := slices.Contains(strings.Split(options, ","), "string")
			fields = append(fields, field{cmp.Or(name, f.Name), at, quoted})
			p.check("A."+f.Name, f.Type, make(map[reflect.Type]bool))
		}
	}
	return fields
}

func (p *params) bad(format string, args ...any) error {
	return fmt.Errorf("%w: task %q: %s", ErrBadArgs, p.task, fmt.Sprintf(format, args...))
}

// decode fills dst, a pointer to an A, from a job's arguments.
func (p *params) decode(job *Job, dst any) error {
	if len(job.Args) > len(p.fields) || p.one && (len(job.Args) != 1 || len(job.Kwargs) > 0) {
		return p.bad("it takes %s; got %d by position and %d by name", p.takes, len(job.Args), len(job.Kwargs))
	}
	given := make([]any, len(p.fields))
	copy(given, job.Args)
	for name, arg := range job.Kwargs {
		// Exactly if possible, else without regard to case, as encoding/json matches keys.
		i := slices.IndexFunc(p.fields, func(f field) bool { return f.name == name })
		if i < 0 {
			i = slices.IndexFunc(p.fields, func(f field) bool { return strings.EqualFold(f.name, name) })
		}
		if i < 0 {
			return p.bad("unknown argument %q; it takes %s", name, p.takes)
		}
		if i < len(job.Args) || given[i] != nil {
			return p.bad("argument %q is given twice", p.fields[i].name)
		}
		given[i] = arg
	}
	for i, arg := range given {
		if arg == nil { // not given: the field stays zero
			continue
		}
		var err error
		f, value := p.fields[i], reflect.ValueOf(dst).Elem()
		for _, i := range f.index {
			value = value.Field(i)
		}
		into := value.Addr().Interface()
		raw, ok := arg.(json.RawMessage) // from a storage; a Job made by hand may hold anything
		if !ok {
			raw, err = encode(arg)
		}
		if f.quoted { // encoding/json heeds the option only for a field of a struct
			into, raw = dst, slices.Concat([]byte(`{"`+f.name+`":`), raw, []byte("}"))
		}
		target, isString := into.(*string)
		if isString {
			*target, isString = unescaped(raw)
		}
		switch {
		case err != nil, isString:
		case p.exact:
			dec := json.NewDecoder(bytes.NewReader(raw))
			dec.UseNumber()
			err = dec.Decode(into)
		default:
			err = json.Unmarshal(raw, into)
		}
		if wrong, ok := errors.AsType[*json.UnmarshalTypeError](err); ok {
			return p.bad("argument %q: expected %v%s, got %s", f.name, wrong.Type, where(wrong.Field), wrong.Value)
		} else if err != nil {
			return p.bad("argument %q: expected %v: %v", f.name, value.Type(), err)
		}
	}
	return nil
}

// where names the place inside an argument that a value does not fit.
func where(field string) string {
	if field == "" {
		return ""
	}
	return " in " + field
}

// What a running task can ask of its context.

type runKey struct{} // the key of a context's *run

// JobFromContext returns a copy of the job that the task is running.
func JobFromContext(ctx context.Context) (*Job, bool) {
	r, ok := ctx.Value(runKey{}).(*run)
	if !ok {
		return nil, false
	}
	return r.job.clone(), true
}

// clone keeps what a task does to a job from the worker, who still needs its Claim.
func (j *Job) clone() *Job {
	job := *j
	job.Args, job.Kwargs = slices.Clone(j.Args), maps.Clone(j.Kwargs)
	return &job
}

// StorageFromContext returns the storage that the task's job came from, to enqueue what follows.
func StorageFromContext(ctx context.Context) (Storage, bool) {
	r, ok := ctx.Value(runKey{}).(*run)
	if !ok {
		return nil, false
	}
	return r.storage, true
}

// SetResult records v, encoded now as JSON of at most 1 MiB (ErrTooLarge), as the job's Result; it is written when the
// task succeeds, in the same step. The last call counts. It may be called by any goroutine of the task, also after a
// timeout; after the task's end it does nothing. Outside a task it is an error.
func SetResult(ctx context.Context, v any) error {
	r, ok := ctx.Value(runKey{}).(*run)
	if !ok {
		return errors.New("pinion: SetResult: the context is not a task's")
	}
	text, err := encode(v)
	if err != nil {
		return fmt.Errorf("pinion: SetResult: %w", err)
	}
	if len(text) > maxEncoded {
		return fmt.Errorf("%w: a result of %d bytes, at most %d are taken", ErrTooLarge, len(text), maxEncoded)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.result = text
	return nil
}

package pinion

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"
)

// run is one attempt. It is the context of its task, so that the task can ask for its job. The context of the
// standard library behind it is made when it is first needed: many tasks never look, and one takes longer to make and
// to cancel than they run.
type run struct {
	tasks   context.Context // its parent
	timeout time.Duration   // 0: none
	job     *Job
	storage Storage
	ended   atomic.Bool   // the task has returned, or was not run; what is left is to record it
	took    time.Duration // by the task, if it was run

	mu     sync.Mutex              // guards the rest
	ctx    context.Context         // nil: not yet needed
	stop   context.CancelCauseFunc // of ctx
	why    error                   // it was cancelled when there was no ctx yet
	result json.RawMessage         // from SetResult
}

// made returns the context behind r. All that contexts derived from r ask goes there, so that they hang on it as on
// any other, without a goroutine of their own.
func (r *run) made() context.Context {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.ctx == nil {
		parent := r.tasks
		if r.why != nil {
			parent = context.WithoutCancel(parent) // which has its own reason by now
		}
		ctx, stop := context.WithCancelCause(parent)
		if r.ctx, r.stop = ctx, stop; r.timeout > 0 {
			var rest context.CancelFunc
			r.ctx, rest = context.WithTimeoutCause(ctx, r.timeout, timeoutError(r.timeout))
			r.stop = func(cause error) { stop(cause); rest() }
		}
		if r.why != nil {
			stop(r.why)
		}
	}
	return r.ctx
}

func (r *run) Deadline() (time.Time, bool) { return r.made().Deadline() }

func (r *run) Done() <-chan struct{} { return r.made().Done() }

func (r *run) Err() error { return r.made().Err() }

func (r *run) Value(key any) any {
	if key == (runKey{}) {
		return r
	}
	return r.made().Value(key)
}

// String keeps fmt (in a mock, say) from reading the fields, which others write.
func (r *run) String() string { return "pinion.job(" + r.job.ID + ")" }

// cancel cancels the context; nil is context.Canceled.
func (r *run) cancel(cause error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.ctx != nil {
		r.stop(cause)
	} else {
		r.why = cmp.Or(r.why, cause, context.Canceled)
	}
}

// cause is context.Cause.
func (r *run) cause() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.ctx != nil {
		return context.Cause(r.ctx)
	}
	return cmp.Or(r.why, context.Cause(r.tasks))
}

type runKey struct{} // the key of a context's *run

// JobFromContext returns a copy of the job that the task is running.
func JobFromContext(ctx context.Context) (*Job, bool) {
	r, ok := ctx.Value(runKey{}).(*run)
	if !ok {
		return nil, false
	}
	return r.job.clone(), true
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

// timeoutError is the cause of a task's cancellation after a time.
type timeoutError time.Duration

func (e timeoutError) Error() string { return fmt.Sprintf("timed out after %v", time.Duration(e)) }

func (e timeoutError) Is(target error) bool { return target == context.DeadlineExceeded }

// PanicError is the failure of a task that panicked or called runtime.Goexit.
type PanicError struct {
	Value any
	Stack []byte
}

func (e *PanicError) Error() string { return fmt.Sprintf("panic: %v\n\n%s", e.Value, e.Stack) }

// Unwrap returns Value if that is an error.
func (e *PanicError) Unwrap() error { err, _ := e.Value.(error); return err }

// protected makes an error of a panic, for the middleware around a task as well as for the worker.
func protected(next RunFunc) RunFunc {
	return func(ctx context.Context, job *Job) (err error) {
		defer func() {
			if v := recover(); v != nil {
				err = &PanicError{v, debug.Stack()}
			}
			if err != nil {
				err = asked(err)
			}
		}()
		return next(ctx, job)
	}
}

// asked asks err what the worker is going to ask it. One that panics then, as a nil *T in an error may, also when a
// task panicked with it, becomes one that does not.
func asked(err error) (sound error) {
	defer func() {
		if v := recover(); v != nil {
			sound = &PanicError{printed(v), debug.Stack()}
		}
	}()
	_ = errors.Is(err, ErrShutdown)
	_, _ = errors.AsType[*permanentError](err)
	_ = fmt.Sprint(err)
	return err
}

// printed is fmt.Sprint, which survives a value that panics when it is printed, but not one that panics with another.
func printed(v any) (text string) {
	defer func() {
		if recover() != nil {
			text = fmt.Sprintf("%T", v)
		}
	}()
	return fmt.Sprint(v)
}

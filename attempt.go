package pinion

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"
)

// attempt is one attempt at a job. The context of its task carries it, so that the task can ask for its job.
type attempt struct {
	job      *Job
	storage  Storage
	retry    RetryPolicy             // the task's or the worker's
	cancel   context.CancelCauseFunc // cancels the task's context
	stop     context.CancelFunc      // stops the timer of its timeout
	returned atomic.Bool             // the task has returned or was not run; what is left is to record it
	took     time.Duration           // by the task; 0: it was not run

	mu     sync.Mutex      // guards result
	result json.RawMessage // from SetResult
}

type attemptKey struct{} // the key of a context's *attempt

// begin returns the context of the attempt's task. From now on its timeout counts; 0 is none.
func (a *attempt) begin(parent context.Context, timeout time.Duration) context.Context {
	a.stop = func() {}
	ctx := parent
	if timeout > 0 {
		ctx, a.stop = context.WithTimeoutCause(ctx, timeout, timeoutError(timeout))
	}
	ctx, a.cancel = context.WithCancelCause(ctx)
	return context.WithValue(ctx, attemptKey{}, a)
}

// finish ends the task's context after the task.
func (a *attempt) finish() {
	a.cancel(nil)
	a.stop()
}

// ended returns the job with the result that the task has set, for MarkDone.
func (a *attempt) ended() *Job {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.result == nil {
		return a.job
	}
	job := *a.job // a copy, because the storage may be reading the job for a heartbeat
	job.Result = a.result
	return &job
}

// ---- What a running task may ask of its context ----

func attemptOf(ctx context.Context) (*attempt, bool) {
	a, ok := ctx.Value(attemptKey{}).(*attempt)
	return a, ok
}

// JobFromContext returns a copy of the job that the task is running.
func JobFromContext(ctx context.Context) (*Job, bool) {
	a, ok := attemptOf(ctx)
	if !ok {
		return nil, false
	}
	return a.job.clone(), true
}

// StorageFromContext returns the storage that the task's job came from. Use it to enqueue follow-up jobs.
func StorageFromContext(ctx context.Context) (Storage, bool) {
	a, ok := attemptOf(ctx)
	if !ok {
		return nil, false
	}
	return a.storage, true
}

// SetResult sets the job's Result to v, which is stored when the task succeeds.
//
// v is encoded at once, as JSON of at most 1 MiB; a longer text is ErrTooLarge. The last call counts. Any goroutine of
// the task may call SetResult, also after a timeout. After the task has returned it does nothing. Outside of a task it
// returns an error.
func SetResult(ctx context.Context, v any) error {
	a, ok := attemptOf(ctx)
	if !ok {
		return errors.New("pinion: SetResult: the context is not a task's; pass the one that the task was given")
	}
	text, err := encode(v)
	if err != nil {
		return fmt.Errorf("pinion: SetResult: %w", err)
	}
	if len(text) > maxEncoded {
		return fmt.Errorf("%w: SetResult: the result is %d bytes; want at most %d", ErrTooLarge, len(text), maxEncoded)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.result = text
	return nil
}

// ---- Timeouts ----

// timeoutError is the cause with which a task's context ends after its timeout.
type timeoutError time.Duration

func (e timeoutError) Error() string { return fmt.Sprintf("timed out after %v", time.Duration(e)) }

func (e timeoutError) Is(target error) bool { return target == context.DeadlineExceeded }

// withTimeout adds to the error of a task that was cancelled with cause what the timeout was, if the timeout is what
// the error comes from and it does not say so already.
func withTimeout(err, cause error) error {
	timedOut := errors.Is(cause, context.DeadlineExceeded)
	comesFromIt := isCancellation(err) || errors.Is(err, context.DeadlineExceeded)
	if !timedOut || !comesFromIt || errors.Is(err, cause) {
		return err
	}
	return fmt.Errorf("%w: %w", cause, err)
}

// isCancellation reports whether err is what a task returns when it ends because its context was cancelled.
func isCancellation(err error) bool {
	return errors.Is(err, context.Canceled) || errors.Is(err, ErrShutdown)
}

// ---- Panics ----

// recovering returns a function that calls next and returns a panic of it as a PanicError. It stands around the task,
// so that middleware sees an error, and around the middleware.
func recovering(next RunFunc) RunFunc {
	return func(ctx context.Context, job *Job) (err error) {
		defer func() {
			if v := recover(); v != nil {
				err = &PanicError{v, debug.Stack()}
			}
			if err != nil {
				err = usable(err)
			}
		}()
		return next(ctx, job)
	}
}

// usable returns err, or a PanicError if one of err's methods panics, as those of a nil *T in an error may. It calls
// whatever the worker will call. A task may also have panicked with such an error.
func usable(err error) (result error) {
	defer func() {
		if v := recover(); v != nil {
			result = &PanicError{sprint(v), debug.Stack()}
		}
	}()
	_ = errors.Is(err, ErrShutdown)
	_, _ = errors.AsType[*permanentError](err)
	_ = fmt.Sprint(err)
	return err
}

// sprint is fmt.Sprint, or the type of a value that panics with yet another such value when it is printed.
func sprint(v any) (text string) {
	defer func() {
		if recover() != nil {
			text = fmt.Sprintf("%T", v)
		}
	}()
	return fmt.Sprint(v)
}

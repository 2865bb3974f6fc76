package pinion

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"
)

// attempt is one attempt at a job. The context of its task carries it, so that the task can ask for its job.
type attempt struct {
	job      *Job
	storage  Storage
	log      *slog.Logger
	retry    RetryPolicy             // the task's or the worker's
	counters *taskCounters           // of the task
	cancel   context.CancelCauseFunc // cancels the task's context
	stop     context.CancelFunc      // stops the timer of its timeout
	started  time.Time               // when a slot took the job; zero in Task.Call
	took     time.Duration           // by the task; 0: it was not run
	returned atomic.Bool             // the task has returned or was not run; what is left is to record it
	doneInTx atomic.Bool             // the job was made SUCCESS in a transaction of the task's, see EndInTx

	mu      sync.Mutex      // guards the rest
	result  json.RawMessage // from the last SetResult
	version int             // counts calls of SetResult
	stored  int             // the version that a heartbeat has stored
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

// withResult returns the job with the result that the task has set so far.
func (a *attempt) withResult() *Job {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.result == nil {
		return a.job
	}
	job := *a.job // a copy, because the storage may be reading the job for a heartbeat
	job.Result = a.result
	return &job
}

// markReturned notes that the task has returned. Its result stays as it is now.
func (a *attempt) markReturned() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.returned.Store(true)
}

// maxProgress is the size in bytes of the largest result that heartbeats store while the task runs.
const maxProgress = 64 << 10

// progress returns a copy of the job for a heartbeat, and the version of the result. The copy has no Result if
// that has not changed since a heartbeat stored it, or is too large.
func (a *attempt) progress() (job *Job, version int) {
	shown := *a.job
	shown.StartedAt = microTime(a.started)
	shown.Result = nil
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.version > a.stored && len(a.result) <= maxProgress {
		shown.Result = a.result
	}
	return &shown, a.version
}

// progressStored notes that a heartbeat has stored a version of the result.
func (a *attempt) progressStored(version int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.stored = version
}

// ---- What a running task may ask of its context ----

// attemptFrom returns the attempt whose task was given ctx, or a context derived from that.
func attemptFrom(ctx context.Context) (*attempt, bool) {
	a, ok := ctx.Value(attemptKey{}).(*attempt)
	return a, ok
}

// JobFromContext returns a copy of the job that the task is running.
func JobFromContext(ctx context.Context) (*Job, bool) {
	a, ok := attemptFrom(ctx)
	if !ok {
		return nil, false
	}
	return a.job.clone(), true
}

// StorageFromContext returns the storage that the task's job came from. Use it to enqueue follow-up jobs.
func StorageFromContext(ctx context.Context) (Storage, bool) {
	a, ok := attemptFrom(ctx)
	if !ok || a.storage == nil { // Task.Call has no storage
		return nil, false
	}
	return a.storage, true
}

// Logger returns the worker's logger with the attributes job, task and attempt. Outside of a task it returns
// slog.Default().
func Logger(ctx context.Context) *slog.Logger {
	a, ok := attemptFrom(ctx)
	if !ok || a.log == nil {
		return slog.Default()
	}
	return a.log.With("job", a.job.ID, "task", a.job.Task, "attempt", a.job.Attempts)
}

// SetResult sets the Result of the task's job to v. ctx is the one that the task was given, or derived from that.
//
// A task may call it again and again, from any goroutine: each heartbeat stores the latest value, so that
// others see how far the task is, and the last one is stored when the task succeeds or its job becomes a dead
// letter. A retry starts with none. SetResult encodes v at once, as JSON of at most 1 MiB; a longer text is
// ErrTooLarge. Heartbeats leave out a value of more than 64 KiB.
//
// After the task has returned SetResult does nothing. Outside of a worker it does nothing either, and returns
// no error, so that tests can call a task's function.
func SetResult(ctx context.Context, v any) error {
	a, ok := attemptFrom(ctx)
	if !ok {
		return nil
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
	if !a.returned.Load() {
		a.result = text
		a.version++
	}
	return nil
}

// EndInTx is for authors of storages, who need it for [Tx].Done. ctx is a task's. EndInTx calls end with the
// task's job, which has its Result so far. end makes that job SUCCESS in a transaction, under its Claim, and
// returns nil if it did. When the task has returned, the worker then looks whether the job has ended: if so it
// records nothing more, and if not, because of a rollback, it records the end as usual. It can look only if the
// storage is an [Inspector]. Outside of a task EndInTx returns an error.
func EndInTx(ctx context.Context, end func(job *Job) error) error {
	a, ok := attemptFrom(ctx)
	if !ok {
		return errors.New("pinion: Tx.Done: the context is not a task's; pass the one that the task was given")
	}
	if err := end(a.withResult()); err != nil {
		return err
	}
	a.doneInTx.Store(true)
	return nil
}

// ---- Timeouts ----

// timeoutError is the cause with which a task's context ends after its timeout.
type timeoutError time.Duration

func (e timeoutError) Error() string { return fmt.Sprintf("timed out after %v", time.Duration(e)) }

func (e timeoutError) Is(target error) bool { return target == context.DeadlineExceeded }

// withTimeout adds to the error of a task that was canceled with cause what the timeout was, if the timeout is
// what the error comes from and it does not say so already.
func withTimeout(err, cause error) error {
	timedOut := errors.Is(cause, context.DeadlineExceeded)
	comesFromIt := isCancellation(err) || errors.Is(err, context.DeadlineExceeded)
	if !timedOut || !comesFromIt || errors.Is(err, cause) {
		return err
	}
	return fmt.Errorf("%w: %w", cause, err)
}

// isCancellation reports whether err is what a task returns when it ends because its context was canceled.
func isCancellation(err error) bool {
	return errors.Is(err, context.Canceled) || errors.Is(err, ErrShutdown)
}

// ---- Panics ----

// recovering returns a function that calls next and returns a panic of it as a PanicError. It stands around the
// task, so that middleware sees an error, and around the middleware.
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

// usable returns err, or a PanicError if one of err's methods panics, as those of a nil *T in an error may. It
// calls whatever the worker will call. A task may also have panicked with such an error.
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

// ---- Without a worker ----

// Call runs the task once, without a worker and a storage, and returns the Result that it has set. It is for
// tests.
//
// Call does as a worker would: it encodes the arguments and decodes them again, puts a job into the task's
// context, applies Timeout and returns a panic as a [PanicError]. It runs no middleware, and StorageFromContext
// finds nothing. A mistake in the task panics as in [Registry.Add].
//
// No worker holds the job, so [Tx].Done returns ErrLeaseLost. To see such a task succeed, enqueue its job in a
// SQLite file and call [Worker.Drain]; docs/testing-your-tasks.md in the repository has such a test.
func (t Task[A]) Call(ctx context.Context, args A) (json.RawMessage, error) {
	handler := t.handler()
	now := microTime(time.Now())
	job := t.Job(args)
	job.ID = NewID()
	job.Status = StatusRunning
	job.Attempts = 1
	job.Claim = 1
	job.CreatedAt, job.HeartbeatAt, job.StartedAt = now, now, now
	if job.Queue == "" {
		job.Queue = defaultQueue
	}
	encodedArgs, encodedKwargs, err := job.EncodeArgs()
	if err != nil {
		return nil, err
	}
	job.splitArgs(encodedArgs, encodedKwargs)

	a := &attempt{job: job, log: slog.Default()}
	ctx = a.begin(ctx, t.Timeout)
	defer a.finish()
	err = recovering(handler.run)(ctx, job)
	if err != nil {
		err = withTimeout(err, context.Cause(ctx))
	}
	a.markReturned()
	return a.withResult().Result, err
}

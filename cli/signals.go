package cli

import (
	"context"
	"errors"
	"io"
	"os"
	"os/signal"
	"slices"
	"sync"
	"syscall"
)

// A command that only reads dies of a signal at once: it has nothing to clean up. One that writes, waits or
// runs jobs catches the signal, cleans up, says what has been done, and then dies of the same signal, so that a
// shell loop ends as it does with any other program. The worker, the page of `web` and `status --watch` end
// with 0: a signal is their normal end.

// signalError is the error of a command that a signal has ended.
type signalError struct{ signal os.Signal }

func (e *signalError) Error() string {
	if e.signal == os.Interrupt {
		return "interrupted"
	}
	return "ended by a signal: " + e.signal.String()
}

// status returns the exit status that shells report for the signal.
func (e *signalError) status() int {
	number, _ := e.signal.(syscall.Signal)
	return 128 + int(number)
}

// untilSignal returns a context that ends when a signal asks the process to end, with a *signalError as the
// cause. A second signal has its default effect. The caller calls stop.
func untilSignal(ctx context.Context) (_ context.Context, stop func()) {
	return untilSignals(ctx, os.Interrupt, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGQUIT)
}

// untilSignals is like untilSignal for the signals in wanted. A signal that this process ignores, because of nohup
// or the shell, stays ignored.
func untilSignals(ctx context.Context, wanted ...os.Signal) (_ context.Context, stop func()) {
	ctx, cancel := context.WithCancelCause(ctx)
	wanted = slices.DeleteFunc(wanted, signal.Ignored)
	if len(wanted) == 0 { // Notify would take that for all signals
		return ctx, func() { cancel(nil) }
	}
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, wanted...)
	var waiting sync.WaitGroup
	waiting.Go(func() {
		select {
		case s := <-signals:
			signal.Stop(signals)
			cancel(&signalError{s})
		case <-ctx.Done():
		}
	})
	return ctx, func() {
		signal.Stop(signals)
		cancel(nil)
		waiting.Wait()
	}
}

// undoSignals calls undo, which gives up signals, except in a call of Main: its process ends at once, and giving up a
// signal costs two thread switches.
func (c *call) undoSignals(undo func()) {
	if !c.isProcess {
		undo()
	}
}

// signalOr returns the signal that has ended ctx instead of an error that follows from that.
func signalOr(ctx context.Context, err error) error {
	ended, ok := errors.AsType[*signalError](context.Cause(ctx))
	if ok && errors.Is(err, context.Canceled) {
		return ended
	}
	return err
}

// surviveClosedPipe keeps SIGPIPE from killing this command: the writes fail instead. So the command can report what
// it has done, even if nobody reads its output any more. This lasts until the end of run.
func (c *call) surviveClosedPipe() {
	if c.pipes == nil {
		c.pipes = make(chan os.Signal, 1)
		signal.Notify(c.pipes, syscall.SIGPIPE)
	}
}

// errUnread is why a worker ends whose log nobody reads.
var errUnread = errors.New("the worker has stopped, because nobody reads its log any more; " +
	"send it to a file, or to a program that goes on reading")

// logOutput is the output of a log. It notices when nobody reads it any more.
type logOutput struct {
	io.Writer
	unread context.CancelCauseFunc
}

// untilUnread returns the output for a log, and a context that ends when nobody reads that.
func untilUnread(ctx context.Context, w io.Writer) (context.Context, io.Writer) {
	ctx, cancel := context.WithCancelCause(ctx)
	return ctx, &logOutput{w, cancel}
}

func (o *logOutput) Write(p []byte) (int, error) {
	n, err := o.Writer.Write(p)
	if errors.Is(err, syscall.EPIPE) {
		o.unread(errUnread)
	}
	return n, err
}

package pinion

import (
	"context"
	"database/sql/driver"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"runtime/debug"
	"slices"
	"sync"
	"time"
)

// writer is the connection that writes. Calls that come at the same time share a transaction, because a COMMIT costs
// more than all of their statements together. The writer knows transactions; it does not know jobs.
//
// A call is a function. The goroutine loop runs the calls that wait in one transaction, and answers them after the
// COMMIT. When a call fails, the transaction is rolled back, the caller gets the error, and the other calls run again
// without it. Calls may share an INSERT, too: see session.insert. If that fails, all of them run again, and share none.
// A caller that finds the connection free may commit in its own goroutine: see commitInline.
type writer struct {
	// beforeCommit runs in each transaction, after its calls. It may run statements. If it leaves an error in tx, the
	// transaction is rolled back and all its calls get that error.
	beforeCommit func(tx *transaction)
	// afterTransaction runs after each COMMIT or ROLLBACK. A call that failed has its answer by then; the others have
	// not.
	afterTransaction func(committed bool)
	// allowInline reports whether a caller may commit in its own goroutine now. It runs between transactions.
	allowInline func() bool
	// sleepOnly makes the writer wait with time.Sleep alone, which a testing/synctest bubble can see.
	sleepOnly bool

	mu           sync.Mutex // guards the next three
	queue        []*call    // the calls that wait, oldest first
	closed       bool       // no call is queued any more
	blockedSince time.Time  // since when another process has held the write lock; zero if it was free at the last try

	wake    chan struct{} // capacity 1: queue or closed has changed
	idle    chan struct{} // of awaitIdle; loop receives from it when no call waits
	stopped chan struct{} // closed when loop has returned

	connMu     sync.Mutex // guards the rest; whoever makes a transaction holds it throughout; locked before mu
	conn       *preparedConn
	tx         transaction
	expected   int // how many calls the last transaction had; the next one waits a little for as many
	skipYields int // how many more times yield does nothing
}

// transaction is what a call gets: a session in the transaction under way. If a call leaves an error in it, all of the
// transaction is rolled back.
type transaction struct {
	session
	now    time.Time // when it began
	number int64     // grows with each one, and with each try to begin one
}

// call is a function on its way through the writer.
type call struct {
	run       func(tx *transaction)
	first     bool       // run it before the other calls that wait
	giveUp    time.Time  // when to stop waiting for the write lock; zero: never
	abandoned bool       // its ctx has ended; guarded by the writer's mu
	answer    chan error // capacity 1; gets one value
}

func newCall(run func(tx *transaction), giveUp time.Time) *call {
	return &call{run: run, giveUp: giveUp, answer: make(chan error, 1)}
}

const (
	lockRetry    = 2 * time.Millisecond   // the longest pause between two tries for the write lock
	shortRetry   = 100 * time.Microsecond // the same, where a commit is likely to end soon
	shortRetries = 10                     // how many tries come after short pauses
	longWait     = 100 * time.Millisecond // after which pauses are short again
	lockPatience = 5 * time.Second        // a lock that is held for longer is not that of a commit
)

var (
	errReadOnly = errors.New("the file is open read-only")
	errLocked   = errors.New("another program holds the file's write lock (a transaction left open in a sqlite3 shell, " +
		"say), or a transaction of this program does (use SQLiteStorage.Tx in it)")

	errAbandoned = errors.New("the call was abandoned") // never leaves the writer
)

// newWriter returns a writer on a connection. Until start is called the caller may use tx itself.
func newWriter(conn driver.Conn) *writer {
	w := &writer{
		wake:    make(chan struct{}, 1),
		idle:    make(chan struct{}),
		stopped: make(chan struct{}),
		conn:    &preparedConn{conn: conn, stmts: make(map[string]preparedStmt)},
	}
	w.tx.query, w.tx.change = w.conn.query, w.conn.change
	w.tx.shared = true
	return w
}

// start starts the goroutine loop, which stop ends.
func (w *writer) start() { go w.loop() }

// stop waits for the transaction under way and answers all other calls with ErrClosed. It may be called again.
func (w *writer) stop() {
	w.mu.Lock()
	w.closed = true
	w.mu.Unlock()
	w.wakeLoop()
	<-w.stopped
}

// do runs a function in a transaction and returns after its COMMIT. The function runs again if the transaction was
// rolled back because of another call. If ctx ends before the transaction has begun, run is not called.
func (w *writer) do(ctx context.Context, run func(tx *transaction)) error {
	return w.submit(ctx, newCall(run, time.Time{}))
}

// doWithin is like do, but waits for another process's lock for no longer than patience. Then it returns errLocked.
func (w *writer) doWithin(ctx context.Context, patience time.Duration, run func(tx *transaction)) error {
	return w.submit(ctx, newCall(run, time.Now().Add(patience)))
}

// doFirst is like doWithin, but the function runs before those of the other calls that wait.
func (w *writer) doFirst(ctx context.Context, patience time.Duration, run func(tx *transaction)) error {
	c := newCall(run, time.Now().Add(patience))
	c.first = true
	return w.submit(ctx, c)
}

// awaitIdle returns when no call waits, or after a second, or when the writer is stopped.
func (w *writer) awaitIdle() {
	timer := time.NewTimer(time.Second)
	defer timer.Stop()
	select {
	case w.idle <- struct{}{}:
	case <-w.stopped:
	case <-timer.C:
	}
}

// submit has loop run a call, and returns its answer.
func (w *writer) submit(ctx context.Context, c *call) error {
	if err := w.add(c); err != nil {
		return err
	}
	w.wakeLoop()
	return w.await(ctx, c)
}

// doInline is like do, but commits in the caller's goroutine if it can. If another process still holds the write lock
// at the time giveUp, it returns errLocked.
func (w *writer) doInline(ctx context.Context, giveUp time.Time, run func(tx *transaction)) error {
	c := newCall(run, giveUp)
	if err := w.add(c); err != nil {
		return err
	}
	if !w.commitInline() {
		w.wakeLoop()
	}
	return w.await(ctx, c)
}

// add queues a call.
func (w *writer) add(c *call) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closed {
		return ErrClosed
	}
	at := len(w.queue)
	if c.first {
		at = w.lastFirst() + 1
	}
	w.queue = slices.Insert(w.queue, at, c)
	return nil
}

// lastFirst returns the index of the last call in front of the queue that goes first, or -1. The caller holds mu.
func (w *writer) lastFirst() int {
	for i, c := range w.queue {
		if !c.first {
			return i - 1
		}
	}
	return len(w.queue) - 1
}

// await returns the answer to a call that was added, or takes the call back when ctx ends.
func (w *writer) await(ctx context.Context, c *call) error {
	select {
	case err := <-c.answer:
		return err
	case <-ctx.Done():
	}
	w.mu.Lock()
	c.abandoned = true
	at := slices.Index(w.queue, c)
	if at >= 0 {
		w.queue = slices.Delete(w.queue, at, at+1)
	}
	blocked := !w.blockedSince.IsZero()
	w.mu.Unlock()
	if at < 0 { // it is in a transaction, or has been answered
		err := <-c.answer
		if err == errAbandoned {
			return ctx.Err()
		}
		return err
	}
	if blocked {
		return fmt.Errorf("%w: %w", errLocked, ctx.Err())
	}
	return ctx.Err()
}

func (w *writer) wakeLoop() {
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

// between runs f while no transaction is under way. f may read.
func (w *writer) between(f func(q *session)) {
	w.connMu.Lock()
	defer w.connMu.Unlock()
	w.tx.err = nil
	f(&w.tx.session)
}

// loop commits the calls that wait, until stop.
func (w *writer) loop() {
	defer close(w.stopped)
	for tries := 0; w.next(); {
		w.connMu.Lock()
		locked := w.commit()
		w.connMu.Unlock()
		if locked {
			tries++
			w.pauseForLock(tries)
			if !w.callsWait() {
				tries = 0 // the next caller makes short pauses first
			}
			continue
		}
		tries = 0
		runtime.Gosched() // lets those who were answered call again, which saves 7 % of a round trip
	}
	w.connMu.Lock() // waits for commitInline
	defer w.connMu.Unlock()
	answerAll(w.take(), ErrClosed)
}

// next waits for a call. It returns false when the writer is closed.
func (w *writer) next() bool {
	for {
		w.mu.Lock()
		waiting, closed := len(w.queue) > 0, w.closed
		if !waiting {
			w.blockedSince = time.Time{}
		}
		w.mu.Unlock()
		if closed {
			return false
		}
		if waiting {
			return true
		}
		select {
		case <-w.wake:
		case <-w.idle:
		}
	}
}

// commitInline commits all calls that wait, in the caller's goroutine. It returns false if it has not: because the
// connection or the write lock is taken, because allowInline says no, or because the last transaction had several
// calls. Then loop must do it.
//
// A caller that is alone saves the way to loop and back, which takes a quarter of a small transaction. Several callers
// are better served by loop, where they share a transaction: while loop wakes up, the others add their calls.
//
// No call is left behind: one that is added too late for this transaction finds the connection free, or wakes loop.
func (w *writer) commitInline() bool {
	if !w.connMu.TryLock() {
		return false
	}
	defer w.connMu.Unlock()
	if w.expected > 1 || !w.allowInline() {
		return false
	}
	locked := w.commit()
	return !locked
}

// commit runs all calls that wait in one transaction and answers them. If a call fails, it answers that one and queues
// the others again. It reports whether another process holds the write lock; then all calls go on waiting. The caller
// holds connMu.
func (w *writer) commit() (locked bool) {
	if !w.callsWait() { // another goroutine has committed them
		return false
	}
	err := w.begin()
	if isCode(err, codeBusy) {
		return true
	}
	if err != nil {
		answerAll(w.take(), err)
		return false
	}
	calls, ok := w.runCalls()
	if ok {
		w.expected = len(calls)
		w.runBeforeCommit()
		w.tx.exec("COMMIT")
	}
	err = w.tx.err
	if !ok || err == errShared { // a call that failed has its answer; after errShared all calls run again
		w.rollback()
		w.putBack(calls)
		return false
	}
	if err != nil {
		w.rollback()
	} else {
		w.afterTransaction(true)
	}
	w.tx.shared = true // again, after errShared
	answerAll(calls, err)
	return false
}

func (w *writer) callsWait() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.queue) > 0
}

func (w *writer) begin() error {
	w.tx.err = nil
	w.tx.exec("BEGIN IMMEDIATE")
	w.tx.now = time.Now()
	w.tx.number++
	w.mu.Lock()
	defer w.mu.Unlock()
	if !isCode(w.tx.err, codeBusy) {
		w.blockedSince = time.Time{}
	} else if w.blockedSince.IsZero() {
		w.blockedSince = w.tx.now
	}
	return w.tx.err
}

// runCalls runs the calls that wait, and those that come meanwhile, and returns them. If one fails, runCalls answers it
// and returns all others that it has taken from the queue, and false. After errShared it is not known whose rows were
// refused; then it answers none.
func (w *writer) runCalls() (calls []*call, ok bool) {
	yields := 0
	for {
		taken := w.take()
		for i, c := range taken {
			w.run(c)
			if w.tx.err == errShared {
				return append(calls, taken[i:]...), false
			}
			if w.tx.err != nil {
				c.answer <- w.tx.err
				return append(calls, taken[i+1:]...), false
			}
			calls = append(calls, c)
		}
		if len(calls) >= w.expected {
			return calls, true
		}
		if len(taken) > 0 { // more may have come meanwhile, and a yield would wake a sleeping processor for nothing
			continue
		}
		if yields == maxYields || !w.yield() {
			return calls, true
		}
		yields++
	}
}

const maxYields = 64 // in one transaction

// yield lets other goroutines run before the COMMIT, so that they can add their calls to the transaction: callers who
// were answered together come back together. Where other goroutines compute, a yield takes long, and the write lock
// must not be held for long. So after a slow yield the next hundred do nothing and return false.
func (w *writer) yield() bool {
	if w.skipYields > 0 {
		w.skipYields--
		return false
	}
	start := time.Now()
	runtime.Gosched()
	if time.Since(start) > time.Millisecond {
		w.skipYields = 100
	}
	return true
}

// run runs a call.
func (w *writer) run(c *call) {
	defer w.failOnPanic()
	c.run(&w.tx)
	if !w.tx.shared {
		w.tx.flush() // while it is known whose rows they are
	}
}

func (w *writer) runBeforeCommit() {
	defer w.failOnPanic()
	w.beforeCommit(&w.tx)
}

// failOnPanic is deferred. It makes a panic (over a nil *Job, say) the error of the transaction, because other calls
// depend on the writer.
func (w *writer) failOnPanic() {
	v := recover()
	if v != nil {
		w.tx.err = fmt.Errorf("panic: %v\n\n%s", v, debug.Stack())
	}
}

func (w *writer) rollback() {
	w.tx.drop()
	w.tx.err = nil
	w.tx.exec("ROLLBACK") // an error means that SQLite has rolled back by itself
	w.tx.err = nil
	w.afterTransaction(false)
}

// take empties the queue.
func (w *writer) take() []*call {
	w.mu.Lock()
	defer w.mu.Unlock()
	calls := w.queue
	w.queue = nil
	return calls
}

// putBack queues calls again, before those that have come since, unless their ctx has ended.
func (w *writer) putBack(calls []*call) {
	w.mu.Lock()
	calls = slices.DeleteFunc(calls, func(c *call) bool {
		if c.abandoned {
			c.answer <- errAbandoned
		}
		return c.abandoned
	})
	w.queue = append(calls, w.queue...)
	w.mu.Unlock()
	w.wakeLoop() // this may be the goroutine of a caller
}

func answerAll(calls []*call, err error) {
	for _, c := range calls {
		c.answer <- err
	}
}

// pauseForLock waits before the next try for the write lock. SQLite reports no event to wait for, and its own
// busy_timeout starves a process: its sleeps grow while others take the lock. Pauses are short at first, because most
// commits are short. Then they are longer, which costs less. After longWait they are short again: newcomers make short
// pauses, and would otherwise always be first. After lockPatience the lock is not that of a commit, so they stay long.
func (w *writer) pauseForLock(tries int) {
	w.mu.Lock()
	now := time.Now()
	waited := now.Sub(w.blockedSince)
	w.queue = slices.DeleteFunc(w.queue, func(c *call) bool {
		late := !c.giveUp.IsZero() && now.After(c.giveUp)
		if late {
			c.answer <- errLocked
		}
		return late
	})
	w.mu.Unlock()
	short := tries <= shortRetries || longWait < waited && waited < lockPatience
	if short && !w.sleepOnly {
		nap(rand.N(shortRetry))
	} else {
		time.Sleep(lockPause())
	}
}

// lockPause returns a random time of up to lockRetry, so that processes that compete for the write lock get equal
// shares.
func lockPause() time.Duration { return lockRetry/16 + rand.N(lockRetry*15/16) }

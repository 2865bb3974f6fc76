package web

import (
	"context"
	"errors"
	"runtime/debug"
	"sync"
	"time"

	"github.com/pinion-queue/pinion"
)

// errSlow is the error of an answer that takes longer than the caller's patience.
var errSlow = errors.New("not counted yet")

// cached keeps the last answer to a question that may take long, such as the counts of a queue with millions of jobs.
// At most one goroutine asks at a time. It ends with the answer, or after askTimeout.
type cached[T any] struct {
	ask   func(ctx context.Context) (T, error)
	fresh time.Duration // how old an answer may be; one that took long may be ten times as old as it took

	mu     sync.Mutex // guards the rest
	value  T
	err    error
	at     time.Time // when value was asked for; zero: never, or it is known to be old
	took   time.Duration
	asking chan struct{} // closed when the answer is there; nil if nobody asks
	again  bool          // the answer that is asked for is old already
}

const askTimeout = 30 * time.Second

// get returns the answer. If there is no fresh one it waits for one.
func (c *cached[T]) get(ctx context.Context) (T, error) {
	return c.getWithin(ctx, askTimeout)
}

// getSoon returns the answer without a wait, if there is one that is not known to be wrong. Otherwise it waits for a
// moment, and then returns errSlow.
func (c *cached[T]) getSoon(ctx context.Context) (T, error) {
	c.begin(ctx)
	c.mu.Lock()
	value, err, age := c.value, c.err, time.Since(c.at) // at may be zero
	c.mu.Unlock()
	if age < soonAge {
		return value, err
	}
	return c.getWithin(ctx, soonPatience)
}

const soonAge = 30 * time.Second // how old an answer may be that nobody waits for

// soonPatience is how long a page waits for counts that it can do without. Tests wait for longer.
var soonPatience = 50 * time.Millisecond

func (c *cached[T]) getWithin(ctx context.Context, patience time.Duration) (none T, err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, patience, errSlow)
	defer cancel()
	for {
		asking := c.begin(ctx)
		if asking == nil {
			c.mu.Lock()
			defer c.mu.Unlock()
			return c.value, c.err
		}
		select {
		case <-asking:
		case <-ctx.Done():
			return none, context.Cause(ctx)
		}
	}
}

// begin returns nil if the answer is fresh. Otherwise it begins to ask, unless somebody does, and returns the channel
// that is closed when the answer is there.
func (c *cached[T]) begin(ctx context.Context) <-chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.asking != nil {
		return c.asking
	}
	if !c.at.IsZero() && time.Since(c.at) < max(c.fresh, 10*c.took) {
		return nil
	}
	c.asking = make(chan struct{})
	// The answer is for all who wait, so it outlives the request that asked.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), askTimeout)
	go func() {
		defer cancel()
		c.answer(ctx)
	}()
	return c.asking
}

// answer asks and keeps the answer.
func (c *cached[T]) answer(ctx context.Context) {
	start := time.Now()
	value, err := c.askSafely(ctx)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.value = value
	c.err = err
	c.at = time.Now()
	c.took = max(time.Since(start), 1)
	if c.again {
		c.at = time.Time{}
		c.again = false
	}
	close(c.asking)
	c.asking = nil
}

// askSafely turns a panic of the storage into an error. On a goroutine of its own it would end the whole program.
func (c *cached[T]) askSafely(ctx context.Context) (value T, err error) {
	defer func() {
		if v := recover(); v != nil {
			err = &pinion.PanicError{Value: v, Stack: debug.Stack()}
		}
	}()
	return c.ask(ctx)
}

// forget makes the next get ask anew: something was changed.
func (c *cached[T]) forget() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.at = time.Time{}
	c.again = c.asking != nil
}

package web

import (
	"context"
	"errors"
	"sync"
	"time"
)

// errSlow is the error of an answer that takes longer than the caller's patience.
var errSlow = errors.New("not counted yet")

// cached keeps the last answer to a question that may take long, such as the counts of a queue with millions of jobs. At
// most one goroutine asks at a time. It ends with the answer, or after askTimeout.
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

// get returns the answer. If there is no fresh one it waits for one, at most as long as its patience, and then returns
// an old one, or errSlow.
func (c *cached[T]) get(ctx context.Context, patience time.Duration) (T, error) {
	deadline := time.Now().Add(patience)
	for {
		asking := c.begin(ctx)
		if asking == nil {
			break
		}
		timer := time.NewTimer(time.Until(deadline))
		select {
		case <-asking:
			timer.Stop()
			continue
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			var none T
			return none, ctx.Err()
		}
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.took == 0 {
			var none T
			return none, errSlow
		}
		return c.value, c.err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.value, c.err
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
	value, err := c.ask(ctx)
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

// forget makes the next get ask anew: something was changed.
func (c *cached[T]) forget() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.at = time.Time{}
	c.again = c.asking != nil
}

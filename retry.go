package pinion

import (
	"cmp"
	"errors"
	"math"
	"math/rand/v2"
	"time"
)

// RetryPolicy says how often and how soon a failed job runs again. It is data: the retry itself is a row with a
// due time, which any worker takes up.
type RetryPolicy struct {
	MaxRetries int           // retries after the first attempt; 0: none
	BaseDelay  time.Duration // before the first retry, doubled for each further one; 0: that of DefaultRetry
	Cap        time.Duration // the longest delay; 0: that of DefaultRetry
	Jitter     bool          // take each delay at random between its half and its whole
}

// DefaultRetry is the policy of a Worker that names none.
var DefaultRetry = RetryPolicy{MaxRetries: 3, BaseDelay: 500 * time.Millisecond, Cap: 30 * time.Second, Jitter: true}

// Delay is how long after its failed attempt (1 is the first) a job is due again: min(Cap, BaseDelay·2^(attempt-1)),
// with Jitter somewhere between half of that and all of it. Half is kept, where full jitter would start at zero,
// because a retry at once meets the same trouble. It never overflows.
func (p RetryPolicy) Delay(attempt int) time.Duration {
	base := cmp.Or(max(p.BaseDelay, 0), DefaultRetry.BaseDelay)
	limit := cmp.Or(max(p.Cap, 0), DefaultRetry.Cap)
	delay := limit
	if shift := max(attempt, 1) - 1; shift < 63 && base <= math.MaxInt64>>shift {
		delay = min(limit, base<<shift)
	}
	if p.Jitter {
		delay -= time.Duration(rand.Int64N(int64(delay)/2 + 1))
	}
	return delay
}

// check reports a policy that cannot be meant, for Worker.Run.
func (p RetryPolicy) check() error {
	switch {
	case p.MaxRetries < 0:
		return errors.New("MaxRetries is negative; 0 means no retry")
	case p.BaseDelay < 0 || p.Cap < 0:
		return errors.New("BaseDelay and Cap must not be negative; 0 means the default's")
	}
	return nil
}

type permanentError struct{ error }

func (e *permanentError) Unwrap() error { return e.error }

// Permanent marks an error of a task as one that no retry can mend: the job goes straight to the dead-letter queue.
// It may be wrapped further. Permanent(nil) is nil.
func Permanent(err error) error {
	if err == nil {
		return nil
	}
	return &permanentError{err}
}

type retryAfterError struct {
	error
	after time.Duration
}

func (e *retryAfterError) Unwrap() error { return e.error }

// RetryAfter makes the retry that follows an error of a task due after d (a server's Retry-After, say) instead of
// the policy's delay. The attempt still counts, so MaxRetries holds. It may be wrapped further. RetryAfter(d, nil)
// is nil.
func RetryAfter(d time.Duration, err error) error {
	if err == nil {
		return nil
	}
	return &retryAfterError{err, max(d, 0)}
}

// next decides what follows a failed attempt: a retry after a delay, or none.
func (p RetryPolicy) next(attempt int, err error) (delay time.Duration, retry bool) {
	if _, permanent := errors.AsType[*permanentError](err); permanent || errors.Is(err, ErrBadArgs) || attempt > p.MaxRetries {
		return 0, false
	}
	if after, ok := errors.AsType[*retryAfterError](err); ok {
		return after.after, true
	}
	return p.Delay(attempt), true
}

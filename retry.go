package pinion

import (
	"errors"
	"math/rand/v2"
	"time"
)

// RetryPolicy says how often and how soon a failed job runs again. It is data: the retry itself is a row with
// a due time, which any worker can claim.
type RetryPolicy struct {
	MaxRetries int           // retries after the first attempt; 0: none
	BaseDelay  time.Duration // before the first retry, doubled for each further one; 0: that of DefaultRetry
	Cap        time.Duration // the longest delay; 0: that of DefaultRetry
	Jitter     bool          // take each delay at random between its half and its whole
}

// DefaultRetry is the policy of a Worker that names none.
var DefaultRetry = RetryPolicy{MaxRetries: 3, BaseDelay: 500 * time.Millisecond, Cap: 30 * time.Second, Jitter: true}

// Delay returns how long after its failed attempt a job is due again. The first attempt is 1.
//
// It is min(Cap, BaseDelay·2^(attempt-1)), with Jitter a random time between half of that and all of it. Full
// jitter would start at zero; a retry at once is likely to fail for the same reason. Delay never overflows.
func (p RetryPolicy) Delay(attempt int) time.Duration {
	delay := p.fullDelay(attempt)
	if p.Jitter {
		delay -= time.Duration(rand.Int64N(int64(delay)/2 + 1))
	}
	return delay
}

// fullDelay is Delay without jitter.
func (p RetryPolicy) fullDelay(attempt int) time.Duration {
	delay, longest := p.BaseDelay, p.Cap
	if delay <= 0 {
		delay = DefaultRetry.BaseDelay
	}
	if longest <= 0 {
		longest = DefaultRetry.Cap
	}
	const doublings = 63 // make any delay longer than a Duration can be
	for n := 1; n < attempt && n <= doublings; n++ {
		if delay > longest/2 {
			return longest
		}
		delay *= 2
	}
	return min(delay, longest)
}

// next returns what follows a failed attempt: a retry after a delay, or none.
func (p RetryPolicy) next(attempt int, err error) (delay time.Duration, retry bool) {
	if _, permanent := errors.AsType[*permanentError](err); permanent {
		return 0, false
	}
	if errors.Is(err, ErrBadArgs) || attempt > p.MaxRetries {
		return 0, false
	}
	if later, ok := errors.AsType[*retryAfterError](err); ok {
		return later.after, true
	}
	return p.Delay(attempt), true
}

// check returns an error for a policy that cannot be meant.
func (p RetryPolicy) check() error {
	if p.MaxRetries < 0 {
		return errors.New("MaxRetries is negative; 0 means no retry")
	}
	if p.BaseDelay < 0 || p.Cap < 0 {
		return errors.New("BaseDelay and Cap must not be negative; 0 means the default's")
	}
	return nil
}

// Permanent marks a task's error as one that no retry can mend: the job goes straight to the dead-letter
// queue. The result may be wrapped further. Permanent(nil) is nil.
func Permanent(err error) error {
	if err == nil {
		return nil
	}
	return &permanentError{err}
}

type permanentError struct{ error }

func (e *permanentError) Unwrap() error { return e.error }

// RetryAfter makes the retry that follows a task's error due after d, a server's Retry-After for example,
// instead of the policy's delay. The attempt still counts, so MaxRetries holds. The result may be wrapped
// further. RetryAfter(d, nil) is nil.
func RetryAfter(d time.Duration, err error) error {
	if err == nil {
		return nil
	}
	return &retryAfterError{err, max(d, 0)}
}

type retryAfterError struct {
	error
	after time.Duration
}

func (e *retryAfterError) Unwrap() error { return e.error }

package pinion

import (
	"errors"
	"fmt"
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

// DefaultRetry is the policy of a Worker that names none. Its retries take seven to fourteen hours, so
// that a job survives an outage of a night. A job that waits for a retry holds its Key. Inspector.Reschedule
// brings the retry forward.
var DefaultRetry = RetryPolicy{MaxRetries: 25, BaseDelay: time.Second, Cap: time.Hour, Jitter: true}

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
	if isPermanent(err) || attempt > p.MaxRetries {
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

// isPermanent reports whether no retry can mend err.
func isPermanent(err error) bool {
	_, marked := errors.AsType[*permanentError](err)
	return marked || errors.Is(err, ErrBadArgs)
}

// RetryAfter makes the retry that follows a task's error due after d, a server's Retry-After for example,
// instead of the policy's delay; a negative d is 0. The attempt still counts, so MaxRetries holds. The result may
// be wrapped further. RetryAfter(d, nil) is nil.
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

// Snooze returns an error for a task to return when it cannot run now: the job becomes due again after d, where a
// negative d is 0, and the attempt is refunded. Nothing bounds how often a job snoozes. The result may be wrapped
// further. If it is joined with a Permanent error, the job is not snoozed but goes to the dead-letter queue.
func Snooze(d time.Duration) error { return &snoozeError{max(d, 0)} }

type snoozeError struct{ d time.Duration }

func (e *snoozeError) Error() string { return fmt.Sprintf("snoozed for %v", e.d) }

// snoozed reports whether a task returned Snooze, and for how long.
func snoozed(err error) (time.Duration, bool) {
	if isPermanent(err) {
		return 0, false
	}
	snooze, ok := errors.AsType[*snoozeError](err)
	if !ok {
		return 0, false
	}
	return snooze.d, true
}

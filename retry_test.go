package pinion

import (
	"errors"
	"fmt"
	"math"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestDelayDoublesUpToTheCap(t *testing.T) {
	policy := RetryPolicy{MaxRetries: 9, BaseDelay: time.Second, Cap: 10 * time.Second}
	var got []time.Duration
	for attempt := range 7 {
		got = append(got, policy.Delay(attempt))
	}
	const s = time.Second
	if diff := cmp.Diff([]time.Duration{s, s, 2 * s, 4 * s, 8 * s, 10 * s, 10 * s}, got); diff != "" {
		t.Errorf("delays after attempts 0 to 6 (-want +got):\n%s", diff)
	}
}

func TestDelayOfTheZeroPolicyIsThatOfDefaultRetry(t *testing.T) {
	for attempt := range 9 {
		want := min(DefaultRetry.Cap, DefaultRetry.BaseDelay<<max(attempt-1, 0))
		if got := (RetryPolicy{}).Delay(attempt); got != want {
			t.Errorf("after attempt %d: %v, want %v", attempt, got, want)
		}
	}
}

func TestJitterTakesDelaysBetweenTheHalfAndTheWhole(t *testing.T) {
	policy := RetryPolicy{BaseDelay: 8, Cap: 8, Jitter: true}
	seen := make(map[time.Duration]int)
	for range 2000 {
		seen[policy.Delay(1)]++
	}
	for _, delay := range []time.Duration{4, 5, 6, 7, 8} {
		if seen[delay] < 2000/5/2 {
			t.Errorf("%d of 2000 delays were %v, want about a fifth", seen[delay], delay)
		}
		delete(seen, delay)
	}
	if len(seen) > 0 {
		t.Errorf("delays outside of 4 to 8: %v", seen)
	}
}

func TestDelayNeverOverflows(t *testing.T) {
	for _, c := range []struct {
		policy  RetryPolicy
		attempt int
		want    time.Duration
	}{
		{RetryPolicy{BaseDelay: math.MaxInt64, Cap: math.MaxInt64}, 1, math.MaxInt64},
		{RetryPolicy{BaseDelay: math.MaxInt64/2 + 1, Cap: math.MaxInt64}, 2, math.MaxInt64},
		{RetryPolicy{BaseDelay: 1, Cap: math.MaxInt64}, 63, 1 << 62},
		{RetryPolicy{BaseDelay: 1, Cap: math.MaxInt64}, 64, math.MaxInt64},
		{RetryPolicy{BaseDelay: 1, Cap: math.MaxInt64}, math.MaxInt, math.MaxInt64},
		{RetryPolicy{BaseDelay: 3, Cap: math.MaxInt64}, math.MinInt, 3},
		{RetryPolicy{BaseDelay: time.Hour, Cap: time.Second}, 1, time.Second},
	} {
		if got := c.policy.Delay(c.attempt); got != c.want {
			t.Errorf("%+v after attempt %d: %d, want %d", c.policy, c.attempt, got, c.want)
		}
	}
}

func TestAFailedAttemptIsRetriedUnlessItIsTheLastOrPermanent(t *testing.T) {
	policy := RetryPolicy{MaxRetries: 2, BaseDelay: time.Second, Cap: time.Minute}
	failed := errors.New("failed")
	for _, c := range []struct {
		name    string
		attempt int
		err     error
		delay   time.Duration
		retry   bool
	}{
		{"the first attempt", 1, failed, time.Second, true},
		{"the last retry but one", 2, failed, 2 * time.Second, true},
		{"the last retry", 3, failed, 0, false},
		{"a permanent error", 1, Permanent(failed), 0, false},
		{"a permanent error, wrapped", 1, fmt.Errorf("task: %w", Permanent(failed)), 0, false},
		{"a permanent error among others", 1, errors.Join(failed, Permanent(failed)), 0, false},
		{"bad arguments", 1, fmt.Errorf("%w: x", ErrBadArgs), 0, false},
		{"an unknown task", 1, ErrTaskNotFound, time.Second, true},
		{"a server's Retry-After", 1, RetryAfter(time.Hour, failed), time.Hour, true},
		{"a Retry-After, wrapped", 1, fmt.Errorf("task: %w", RetryAfter(time.Hour, failed)), time.Hour, true},
		{"a Retry-After in the past", 1, RetryAfter(-time.Hour, failed), 0, true},
		{"a Retry-After of the last retry", 3, RetryAfter(time.Hour, failed), 0, false},
		{"a Retry-After of a permanent error", 1, RetryAfter(time.Hour, Permanent(failed)), 0, false},
		{"a permanent Retry-After", 1, Permanent(RetryAfter(time.Hour, failed)), 0, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			if delay, retry := policy.next(c.attempt, c.err); delay != c.delay || retry != c.retry {
				t.Errorf("retry %v after %v, want %v after %v", retry, delay, c.retry, c.delay)
			}
		})
	}
	if delay, retry := (RetryPolicy{}).next(1, failed); retry {
		t.Errorf("the zero policy retries after %v", delay)
	}
}

func TestMarkedErrorsAreTheErrorsThatWereMarked(t *testing.T) {
	failed := errors.New("failed")
	for _, err := range []error{Permanent(failed), RetryAfter(time.Second, failed)} {
		if !errors.Is(err, failed) || err.Error() != "failed" {
			t.Errorf("%T: %v does not stand for %v", err, err, failed)
		}
	}
	if Permanent(nil) != nil || RetryAfter(time.Second, nil) != nil {
		t.Error("a marked nil is not nil")
	}
}

func TestTheDefaultPolicyOutlivesANight(t *testing.T) {
	var longest time.Duration
	for attempt := 1; attempt <= DefaultRetry.MaxRetries; attempt++ {
		longest += DefaultRetry.fullDelay(attempt)
	}
	shortest := longest / 2
	if shortest < 7*time.Hour || longest > 14*time.Hour+10*time.Minute {
		t.Errorf("the retries take %v to %v, want about 7 to 14 hours", shortest, longest)
	}
}

func TestSnoozeIsFoundUnlessTheErrorIsPermanent(t *testing.T) {
	failed := errors.New("failed")
	for _, c := range []struct {
		name string
		err  error
		want time.Duration
		ok   bool
	}{
		{"a snooze", Snooze(time.Minute), time.Minute, true},
		{"a snooze of no time", Snooze(0), 0, true},
		{"a snooze into the past", Snooze(-time.Minute), 0, true},
		{"a wrapped snooze", fmt.Errorf("the limit is reached: %w", Snooze(time.Minute)), time.Minute, true},
		{"a snooze with another error", errors.Join(failed, Snooze(time.Minute)), time.Minute, true},
		{"a snooze with a Retry-After", RetryAfter(time.Hour, Snooze(time.Minute)), time.Minute, true},
		{"a permanent snooze", Permanent(Snooze(time.Minute)), 0, false},
		{"a snooze with a permanent error", errors.Join(Snooze(time.Minute), Permanent(failed)), 0, false},
		{"a snooze with bad arguments", errors.Join(Snooze(time.Minute), ErrBadArgs), 0, false},
		{"another error", failed, 0, false},
		{"no error", nil, 0, false},
	} {
		if got, ok := snoozed(c.err); got != c.want || ok != c.ok {
			t.Errorf("%s: %v, %v; want %v, %v", c.name, got, ok, c.want, c.ok)
		}
	}
	if got := Snooze(90 * time.Second).Error(); got != "snoozed for 1m30s" {
		t.Errorf("the text is %q", got)
	}
}

func TestAPolicyThatCannotBeMeantIsRefused(t *testing.T) {
	for _, policy := range []RetryPolicy{{MaxRetries: -1}, {BaseDelay: -1}, {Cap: -1}} {
		if policy.check() == nil {
			t.Errorf("%+v is taken", policy)
		}
	}
	for _, policy := range []RetryPolicy{{}, DefaultRetry, {BaseDelay: time.Hour, Cap: time.Second}} {
		if err := policy.check(); err != nil {
			t.Errorf("%+v: %v", policy, err)
		}
	}
}

func FuzzDelay(f *testing.F) {
	f.Add(1, 3, int64(time.Second), int64(time.Minute), true)
	f.Add(64, 0, int64(1), int64(math.MaxInt64), true)
	f.Add(math.MinInt, -1, int64(-1), int64(math.MinInt64), false)
	f.Fuzz(func(t *testing.T, attempt, retries int, base, limit int64, jitter bool) {
		policy := RetryPolicy{
			MaxRetries: retries,
			BaseDelay:  time.Duration(base),
			Cap:        time.Duration(limit),
			Jitter:     jitter,
		}
		delay := policy.Delay(attempt)
		policy.Jitter = false
		whole := policy.Delay(attempt)
		if limit <= 0 {
			policy.Cap = DefaultRetry.Cap
		}
		if delay < 0 || delay < whole/2 || delay > whole || whole > policy.Cap {
			t.Errorf("%+v after attempt %d: %d of %d", policy, attempt, delay, whole)
		}
		if attempt < math.MaxInt && policy.Delay(attempt+1) < whole {
			t.Errorf("%+v: the delay after attempt %d is shorter than the one before", policy, attempt+1)
		}
		if delay, retry := policy.next(attempt, ErrTaskNotFound); delay < 0 || !retry && attempt <= retries {
			t.Errorf("%+v after attempt %d: retry %v after %d", policy, attempt, retry, delay)
		}
	})
}

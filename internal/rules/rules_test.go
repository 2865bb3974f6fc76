package rules

import (
	"math"
	"testing"
	"time"
)

func TestDueTimeIsATimeThatJSONCanWrite(t *testing.T) {
	at := func(text string) time.Time {
		t.Helper()
		parsed, err := time.Parse(time.RFC3339Nano, text)
		if err != nil {
			t.Fatal(err)
		}
		return parsed
	}
	for _, test := range []struct{ from, want time.Time }{
		{time.Time{}, time.Time{}},
		{at("2026-01-02T03:04:05.123456789+01:00"), at("2026-01-02T02:04:05.123456Z")},
		{at("9999-12-31T23:59:59Z"), at("9999-12-31T23:59:59Z")},
		{at("9999-12-31T23:59:59.5Z"), at("9999-12-31T23:59:59Z")},
		{time.Date(10000, 1, 1, 0, 0, 0, 0, time.UTC), at("9999-12-31T23:59:59Z")},
		{time.Unix(math.MaxInt64>>8, 0), at("9999-12-31T23:59:59Z")},
		{time.Date(0, 1, 1, 0, 0, 0, 0, time.UTC), time.Time{}},
		{time.Unix(1<<58, 0), at("9999-12-31T23:59:59Z")}, // in microseconds this overflows to 0
		{time.Unix(0, 0), time.Time{}},
		{time.Unix(0, 999), time.Time{}},
		{time.Unix(0, 1000), at("1970-01-01T00:00:00.000001Z")},
		{time.Unix(0, -1), at("1969-12-31T23:59:59.999999Z")},
		{time.Date(-5, 1, 1, 0, 0, 0, 0, time.UTC), time.Time{}},
	} {
		if got := DueTime(test.from); got != test.want.UTC() {
			t.Errorf("DueTime(%v) = %v, want %v", test.from, got, test.want)
		}
	}
}

func TestTheGapIsShorterThanTheLease(t *testing.T) {
	for lease, want := range map[time.Duration]time.Duration{
		time.Millisecond: time.Millisecond,
		10 * time.Second: 3 * time.Second,
		math.MaxInt64:    math.MaxInt64/5 + time.Second,
	} {
		if got := ReapGap(lease); got != want {
			t.Errorf("ReapGap(%v) = %v, want %v", lease, got, want)
		}
	}
}

func TestEarlierTakesTheZeroTimeForNone(t *testing.T) {
	one, two := time.Unix(1, 0), time.Unix(2, 0)
	for _, test := range []struct{ a, b, want time.Time }{
		{one, two, one}, {two, one, one}, {time.Time{}, two, two}, {two, time.Time{}, two},
		{time.Time{}, time.Time{}, time.Time{}},
	} {
		if got := Earlier(test.a, test.b); got != test.want {
			t.Errorf("Earlier(%v, %v) = %v, want %v", test.a, test.b, got, test.want)
		}
	}
}

func TestFindTwice(t *testing.T) {
	if got, found := FindTwice([]int{1, 2, 1, 2}); got != 1 || !found {
		t.Errorf("got %d, %v, want 1", got, found)
	}
	for _, list := range [][]int{nil, {1}, {1, 2, 3}} {
		if got, found := FindTwice(list); found {
			t.Errorf("in %v: got %d, want none", list, got)
		}
	}
}

func TestASecondLookAndTheHeartbeatsThatGoFirstTakeAtLeastTheGap(t *testing.T) {
	for _, lease := range []time.Duration{time.Millisecond, 100 * time.Millisecond, 10 * time.Second, time.Hour} {
		look, gap := SecondLook(lease), ReapGap(lease)
		if look > gap || look < gap*9/10 || look+HeartbeatsFirst < gap {
			t.Errorf("SecondLook(%v) = %v, and the gap is %v", lease, look, gap)
		}
	}
}

func TestASchemeHasTwoLettersAndComesBeforeTheFirstColon(t *testing.T) {
	for address, want := range map[string]string{
		"sqlite:q.db":            "sqlite:",
		"Memory:":                "Memory:",
		"postgres://host/db?a:b": "postgres:",
		"a+b.c-1:rest":           "a+b.c-1:",
		"ab:":                    "ab:",

		"":              "",
		":":             "",
		":memory:":      "",
		"q.db":          "",
		`C:\jobs.db`:    "",
		"1a:q.db":       "",
		"./a:b":         "",
		"jobs a:q.db":   "",
		"größe:q.db":    "",
		"a_b:q.db":      "",
		"dir/sqlite:q":  "",
		"sqlite\x00:db": "",
	} {
		if got := SchemeOf(address); got != want {
			t.Errorf("SchemeOf(%q) = %q, want %q", address, got, want)
		}
	}
}

package words

import (
	"math"
	"testing"
	"time"
)

func TestBetweenIsTheLargestUnitHoweverFarApartTheTimesAre(t *testing.T) {
	from := time.Date(2026, 3, 1, 12, 0, 0, 500, time.UTC)
	tests := []struct {
		to   time.Time
		want string
	}{
		{from, "0s"},
		{from.Add(time.Second - 1), "0s"},
		{from.Add(59 * time.Second), "59s"},
		{from.Add(time.Minute), "1m"},
		{from.Add(time.Hour - 1), "59m"},
		{from.Add(48*time.Hour - 1), "47h"},
		{from.Add(48 * time.Hour), "2d"},
		{from.AddDate(1, 11, 0), "702d"},
		{from.AddDate(3, 0, 1), "3y"},
		{from.Add(math.MaxInt64), "292y"},
		{time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC), "7973y"},
	}
	for _, test := range tests {
		if got := Between(from, test.to); got != test.want {
			t.Errorf("Between(%v, %v) = %q, want %q", from, test.to, got, test.want)
		}
	}
	if got := Between(time.Date(1, 1, 1, 0, 0, 0, 0, time.UTC), from); got != "2025y" {
		t.Errorf("since the year 1: %q, want 2025y", got)
	}
}

func TestAgo(t *testing.T) {
	now := time.Now()
	tests := []struct {
		at   time.Time
		want string
	}{
		{time.Time{}, ""},
		{now.Add(-90 * time.Minute), "1h ago"},
		{now.Add(90 * time.Minute), "in 1h"},
		{now.AddDate(400, 0, 5), "in 400y"},
		{now.AddDate(-400, 0, -5), "400y ago"},
	}
	for _, test := range tests {
		if got := Ago(test.at); got != test.want {
			t.Errorf("Ago(%v) = %q, want %q", test.at, got, test.want)
		}
	}
}

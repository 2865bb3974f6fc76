package cli

import (
	"testing"
	"time"
)

func TestDistanceCountsLetters(t *testing.T) {
	for _, c := range []struct {
		a, b string
		want int
	}{
		{"", "", 0}, {"", "abc", 3}, {"abc", "", 3}, {"abc", "abc", 0},
		{"kitten", "sitting", 3}, {"status", "statsu", 2}, {"flaw", "lawn", 2},
	} {
		if got := distance(c.a, c.b); got != c.want {
			t.Errorf("distance(%q, %q) = %d, want %d", c.a, c.b, got, c.want)
		}
	}
}

func TestATimeOfDayIsTheNextSuch(t *testing.T) {
	zone := time.FixedZone("", 3600)
	now := time.Date(2026, 3, 31, 14, 30, 0, 0, zone)
	for s, want := range map[string]time.Time{
		"14:31":                  time.Date(2026, 3, 31, 14, 31, 0, 0, zone),
		"14:30":                  time.Date(2026, 4, 1, 14, 30, 0, 0, zone),
		"00:00:01":               time.Date(2026, 4, 1, 0, 0, 1, 0, zone),
		"2026-05-01 10:00":       time.Date(2026, 5, 1, 10, 0, 0, 0, zone),
		"2020-05-01T10:00:30":    time.Date(2020, 5, 1, 10, 0, 30, 0, zone),
		"2026-05-01T10:00:00.5Z": time.Date(2026, 5, 1, 10, 0, 0, 5e8, time.UTC),
	} {
		if got, err := parseTime(s, now); err != nil || !got.Equal(want) {
			t.Errorf("parseTime(%q) = %v, %v; want %v", s, got, err, want)
		}
	}
}

func TestADurationHasUnitsOrIsInSeconds(t *testing.T) {
	for s, want := range map[string]time.Duration{
		"90": 90 * time.Second, "0.5": time.Second / 2, "0": 0, "1e2": 100 * time.Second,
		"1m30s": 90 * time.Second, "7d": 7 * 24 * time.Hour, "1d12h": 36 * time.Hour, "0d": 0,
	} {
		if got, err := parseDuration(s); err != nil || got != want {
			t.Errorf("parseDuration(%q) = %v, %v; want %v", s, got, err, want)
		}
	}
	for s, want := range map[string]string{
		"":     `"" is not a duration; write "90s", "1h30m", "7d" or plain seconds`,
		"soon": `"soon" is not a duration; write "90s", "1h30m", "7d" or plain seconds`,
		"1d1x": `"1d1x" is not a duration; write "90s", "1h30m", "7d" or plain seconds`,
		"-5s":  "-5s is negative", "-1": "-1 is negative",
		"NaN": `"NaN" is out of range`, "1e99": `"1e99" is out of range`, "1e999": `"1e999" is out of range`,
		"99999999d":             `"99999999d" is out of range`,
		"99999999999999999999d": `"99999999999999999999d" is out of range`,
	} {
		if got, err := parseDuration(s); err == nil || err.Error() != want {
			t.Errorf("parseDuration(%q) = %v, %v; want the error %q", s, got, err, want)
		}
	}
}

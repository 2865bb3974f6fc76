package cli

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"time"
)

// How people write times and durations. A time without an offset is one of the local clock, which may skip it or
// show it twice. Nothing is ever due earlier than said.

// readTime reads a point in time as people write it now and here; see parseLocal for last.
func readTime(s string, last bool) (time.Time, error) {
	if last {
		ago, err := parseDuration(s)
		if err == nil {
			return time.Now().Add(-ago), nil
		}
	}
	t, ok := parseAbsolute(s)
	if !ok {
		zone, err := localZone()
		if err != nil {
			return time.Time{}, err
		}
		t, ok = parseLocal(s, time.Now().In(zone), last)
	}
	if !ok {
		hint := ""
		if last {
			hint = `"2h" for two hours ago, `
		}
		return time.Time{}, fmt.Errorf(`%q is not a time; write %s"15:04", "5pm", "tomorrow 9:00", `+
			`"2026-01-31 15:04", "2026-01-31T15:04:00+01:00" or @SECONDS`, s, hint)
	}
	if t.Year() < 1970 || t.Year() > 9999 {
		return time.Time{}, fmt.Errorf("%q is out of range; want a year from 1970 to 9999", s)
	}
	return t, nil
}

// absoluteLayouts are those of RFC 3339, of date -I and date --rfc-3339 in all their precisions, and of date -R.
// A fraction of a second is read in any of them.
var absoluteLayouts = []string{
	"2006-01-02T15:04:05Z07:00", "2006-01-02 15:04:05Z07:00", "2006-01-02 15:04:05 Z07:00",
	"2006-01-02T15:04:05Z0700", "2006-01-02 15:04:05Z0700", "2006-01-02 15:04:05 Z0700",
	"2006-01-02T15:04Z07:00", "2006-01-02 15:04Z07:00", "2006-01-02T15:04Z0700", "2006-01-02T15Z07:00",
	time.RFC1123Z,
}

// parseAbsolute reads a time that has its offset, or @ and the seconds since 1970.
func parseAbsolute(s string) (t time.Time, ok bool) {
	if seconds, isEpoch := strings.CutPrefix(s, "@"); isEpoch {
		return parseEpoch(seconds)
	}
	for _, layout := range absoluteLayouts {
		t, err := time.Parse(layout, s)
		if err == nil {
			return t, true
		}
	}
	return time.Time{}, false
}

var epochPattern = lazy(`^(-?\d{1,18})(?:\.(\d{1,9})\d*)?$`)

// parseEpoch reads seconds since 1970, with a fraction of at most nine digits.
func parseEpoch(s string) (t time.Time, ok bool) {
	found := epochPattern().FindStringSubmatch(s)
	if found == nil {
		return time.Time{}, false
	}
	seconds, err := strconv.ParseInt(found[1], 10, 64)
	if err != nil {
		return time.Time{}, false
	}
	fraction, err := strconv.ParseInt((found[2] + "000000000")[:9], 10, 64)
	if err != nil {
		return time.Time{}, false
	}
	return time.Unix(seconds, fraction), true
}

var (
	dateTimeLayouts = []string{
		"2006-01-02 15:04:05", "2006-01-02T15:04:05", "2006-01-02 15:04", "2006-01-02T15:04", "2006-01-02",
	}
	clockLayouts = []string{"15:04:05", "15:04", "3pm", "3:04pm", "3:04:05pm"}
	dayWords     = map[string]int{"yesterday": -1, "today": 0, "tomorrow": 1}
)

// parseLocal reads "now", a date with or without a time of day, a time of day, or one behind "today", "tomorrow" or
// "yesterday", on the clock of now's zone. A time of day alone is the next after now or, if last is true, the
// last before it.
func parseLocal(s string, now time.Time, last bool) (t time.Time, ok bool) {
	zone := now.Location()
	for _, layout := range dateTimeLayouts {
		shown, err := time.Parse(layout, s)
		if err == nil {
			return firstMoment(shown, zone), true
		}
	}
	s = strings.ToLower(s)
	if s == "now" {
		return now, true
	}
	word, rest, _ := strings.Cut(s, " ")
	if days, isDay := dayWords[word]; isDay {
		clock, ok := parseClock(rest)
		return firstMoment(onDay(now, days, clock), zone), ok
	}
	clock, ok := parseClock(s)
	if !ok {
		return time.Time{}, false
	}
	step := 1 // towards the day on which the clock shows that time next
	if last {
		step = -1
	}
	for days := 0; ; days += step {
		t := firstMoment(onDay(now, days, clock), zone)
		if t.After(now) != last {
			return t, true
		}
	}
}

// parseClock reads a time of day.
func parseClock(s string) (clock time.Time, ok bool) {
	for _, half := range []string{"am", "pm"} {
		s = strings.Replace(s, " "+half, half, 1)
	}
	for _, layout := range clockLayouts {
		clock, err := time.Parse(layout, s)
		if err == nil {
			return clock, true
		}
	}
	return time.Time{}, false
}

// onDay returns a time of day on a day from now, as a clock without a zone shows it.
func onDay(now time.Time, days int, clock time.Time) time.Time {
	return time.Date(now.Year(), now.Month(), now.Day()+days,
		clock.Hour(), clock.Minute(), clock.Second(), clock.Nanosecond(), time.UTC)
}

// firstMoment returns the first moment at which the clock of a zone shows a time or a later one. That is the
// only right moment on most days. When the clock is put back and shows the time twice, it is the first of the
// two; when it is put forward and skips the time, it is the moment of that.
func firstMoment(shown time.Time, zone *time.Location) time.Time {
	near := time.Date(shown.Year(), shown.Month(), shown.Day(),
		shown.Hour(), shown.Minute(), shown.Second(), shown.Nanosecond(), zone)
	inPeriods := []time.Time{near} // the zone's offset is the same within a period
	start, end := near.ZoneBounds()
	if !start.IsZero() {
		inPeriods = []time.Time{start.Add(-1), near}
	}
	if !end.IsZero() {
		inPeriods = append(inPeriods, end)
	}
	for _, moment := range inPeriods {
		_, offset := moment.Zone()
		t := shown.Add(-time.Duration(offset) * time.Second).In(zone)
		start, end := moment.ZoneBounds()
		if t.Before(start) {
			t = start
		}
		if end.IsZero() || t.Before(end) {
			return t
		}
	}
	return near // not reached: one of the periods ends after the time
}

// localZone returns the zone of the local clock. Go takes a TZ that it does not understand for UTC, without a
// word; that would be hours off.
func localZone() (*time.Location, error) {
	name, isSet := os.LookupEnv("TZ")
	if !isSet || runtime.GOOS == "windows" { // where Go ignores TZ
		return time.Local, nil
	}
	name = strings.TrimPrefix(name, ":")
	if name == "" {
		return time.UTC, nil
	}
	zone, err := zoneNamed(name)
	if err != nil {
		return nil, fmt.Errorf("the time zone TZ=%s is not known here: %w; "+
			"write the offset, as in 2026-01-31T15:04:00+01:00, or install the package tzdata", name, err)
	}
	return zone, nil
}

// zoneNamed returns the zone of a TZ: a name such as Europe/Berlin, a file, or rules as POSIX writes them.
func zoneNamed(name string) (*time.Location, error) {
	if filepath.IsAbs(name) {
		data, err := os.ReadFile(name)
		if err != nil {
			return nil, err
		}
		return time.LoadLocationFromTZData(name, data)
	}
	zone, err := time.LoadLocation(name)
	if err == nil {
		return zone, nil
	}
	if posix, ok := posixZone(name); ok {
		return posix, nil
	}
	return nil, err
}

var posixPattern = lazy(`^([A-Za-z]{3,}|<[A-Za-z0-9+-]{3,}>)[+-]?[0-9]`)

// posixZone returns the zone of rules such as CET-1CEST,M3.5.0,M10.5.0/3. Go reads such rules at the end of a
// file of a zone, so this is such a file, with nothing else in it.
func posixZone(rules string) (zone *time.Location, ok bool) {
	if !posixPattern().MatchString(rules) {
		return nil, false
	}
	const unknown = "?" // the name of the zone before the rules hold
	header := func(times, zones, letters int) (b []byte) {
		b = append([]byte("TZif2"), make([]byte, 15)...)
		for _, n := range []int{0, 0, 0, times, zones, letters} {
			b = binary.BigEndian.AppendUint32(b, uint32(n))
		}
		return b
	}
	data := append(header(0, 0, 0), header(1, 1, len(unknown)+1)...)
	longAgo := int64(-1 << 59)
	data = binary.BigEndian.AppendUint64(data, uint64(longAgo)) // since when the rules hold
	data = append(data, 0)                                      // the zone from then on
	data = append(data, 0, 0, 0, 0, 0, 0)                       // that zone: its offset, no summer time, its name
	data = append(data, unknown+"\x00\n"+rules+"\n"...)
	zone, err := time.LoadLocationFromTZData(rules, data)
	if err != nil {
		return nil, false
	}
	name, _ := time.Now().In(zone).Zone()
	return zone, name != unknown
}

// daysPattern matches days at the beginning of a duration, a unit that time.ParseDuration lacks.
var daysPattern = lazy(`^([0-9]+)d`)

// parseDuration reads "1m30s" as time.ParseDuration does, "7d" or "1d12h" in days of 24 hours, and plain
// seconds.
func parseDuration(s string) (time.Duration, error) {
	d, err := parseSeconds(s)
	if errors.Is(err, strconv.ErrSyntax) {
		d, err = parseUnits(s)
	}
	if err != nil {
		return 0, err
	}
	if d < 0 {
		return 0, fmt.Errorf("%s is negative", s)
	}
	return d, nil
}

// parseSeconds reads a number of seconds. The error is strconv.ErrSyntax if s is not a number.
func parseSeconds(s string) (time.Duration, error) {
	seconds, err := strconv.ParseFloat(s, 64)
	if errors.Is(err, strconv.ErrSyntax) {
		return 0, strconv.ErrSyntax
	}
	const maxSeconds = math.MaxInt64 / float64(2*time.Second)
	if err != nil || math.IsNaN(seconds) || math.Abs(seconds) > maxSeconds {
		return 0, fmt.Errorf("%q is out of range", s)
	}
	return time.Duration(seconds * float64(time.Second)), nil
}

// parseUnits reads a duration with units.
func parseUnits(s string) (time.Duration, error) {
	days, rest := 0, s
	if found := daysPattern().FindStringSubmatch(s); found != nil {
		n, err := strconv.Atoi(found[1])
		if err != nil || n > 100_000 {
			return 0, fmt.Errorf("%q is out of range", s)
		}
		days, rest = n, s[len(found[0]):]
		if rest == "" {
			rest = "0"
		}
	}
	d, err := time.ParseDuration(rest)
	if err != nil {
		return 0, fmt.Errorf(`%q is not a duration; write "90s", "1h30m", "7d" or plain seconds`, s)
	}
	return d + time.Duration(days)*24*time.Hour, nil
}

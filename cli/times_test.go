package cli

import (
	"fmt"
	"os/exec"
	"testing"
	"time"
)

func TestATimeOfDayIsTheNextOrTheLastSuch(t *testing.T) {
	zone := time.FixedZone("", 3600)
	now := time.Date(2026, 3, 31, 14, 30, 0, 0, zone)
	for _, c := range []struct {
		text       string
		next, last time.Time
	}{
		{"14:31", time.Date(2026, 3, 31, 14, 31, 0, 0, zone), time.Date(2026, 3, 30, 14, 31, 0, 0, zone)},
		{"14:30", time.Date(2026, 4, 1, 14, 30, 0, 0, zone), now},
		{"00:00:01", time.Date(2026, 4, 1, 0, 0, 1, 0, zone), time.Date(2026, 3, 31, 0, 0, 1, 0, zone)},
		{"9:05", time.Date(2026, 4, 1, 9, 5, 0, 0, zone), time.Date(2026, 3, 31, 9, 5, 0, 0, zone)},
		{"5pm", time.Date(2026, 3, 31, 17, 0, 0, 0, zone), time.Date(2026, 3, 30, 17, 0, 0, 0, zone)},
		{"5:45 PM", time.Date(2026, 3, 31, 17, 45, 0, 0, zone), time.Date(2026, 3, 30, 17, 45, 0, 0, zone)},
		{"12am", time.Date(2026, 4, 1, 0, 0, 0, 0, zone), time.Date(2026, 3, 31, 0, 0, 0, 0, zone)},
		{"12pm", time.Date(2026, 4, 1, 12, 0, 0, 0, zone), time.Date(2026, 3, 31, 12, 0, 0, 0, zone)},
	} {
		next, isNext := parseLocal(c.text, now, false)
		last, isLast := parseLocal(c.text, now, true)
		if !isNext || !isLast || !next.Equal(c.next) || !last.Equal(c.last) {
			t.Errorf("%q is next %v, last %v; want %v, %v", c.text, next, last, c.next, c.last)
		}
	}
	for text, want := range map[string]time.Time{
		"now":                 now,
		"tomorrow 9:00":       time.Date(2026, 4, 1, 9, 0, 0, 0, zone),
		"Tomorrow 9 am":       time.Date(2026, 4, 1, 9, 0, 0, 0, zone),
		"today 9:00":          time.Date(2026, 3, 31, 9, 0, 0, 0, zone),
		"yesterday 23:59:59":  time.Date(2026, 3, 30, 23, 59, 59, 0, zone),
		"2026-05-01":          time.Date(2026, 5, 1, 0, 0, 0, 0, zone),
		"2026-05-01 10:00":    time.Date(2026, 5, 1, 10, 0, 0, 0, zone),
		"2020-05-01T10:00:30": time.Date(2020, 5, 1, 10, 0, 30, 0, zone),
	} {
		for _, last := range []bool{false, true} {
			if got, ok := parseLocal(text, now, last); !ok || !got.Equal(want) {
				t.Errorf("%q is %v, %t; want %v", text, got, ok, want)
			}
		}
	}
	for _, text := range []string{"", "noon", "25:00", "13pm", "tomorrow", "tomorrow ", "2026-02-30", "9", "9:00 x"} {
		if got, ok := parseLocal(text, now, false); ok {
			t.Errorf("%q is %v, want no time", text, got)
		}
	}
}

func TestATimeWithItsOffsetIsThatMoment(t *testing.T) {
	at := time.Date(2026, 5, 1, 10, 0, 0, 0, time.UTC)
	for text, want := range map[string]time.Time{
		"2026-05-01T10:00:00Z":                at,
		"2026-05-01T10:00:00.5Z":              at.Add(time.Second / 2),
		"2026-05-01T12:00+02:00":              at, // date -Iminutes
		"2026-05-01T12+02:00":                 at, // date -Ihours
		"2026-05-01T12:00:00+02:00":           at, // date -Iseconds
		"2026-05-01T12:00:00+0200":            at, // that of a BSD
		"2026-05-01T12:00:00,000000001+02:00": at.Add(1),
		"2026-05-01 12:00:00+02:00":           at, // date --rfc-3339=seconds
		"2026-05-01 12:00:00.000000001+02:00": at.Add(1),
		"2026-05-01 12:00:00 +0200":           at, // git log --date=iso
		"Fri, 01 May 2026 12:00:00 +0200":     at, // date -R
		"@1777629600":                         at,
		"@1777629600.25":                      at.Add(time.Second / 4),
	} {
		if got, err := readTime(text, false); err != nil || !got.Equal(want) {
			t.Errorf("%q is %v, %v; want %v", text, got, err, want)
		}
	}
	for text, want := range map[string]string{
		"@99999999999999": `"@99999999999999" is out of range; want a year from 1970 to 9999`,
		"@-1000000000":    `"@-1000000000" is out of range; want a year from 1970 to 9999`,
		"@": `"@" is not a time; write "15:04", "5pm", "tomorrow 9:00", "2026-01-31 15:04", ` +
			`"2026-01-31T15:04:00+01:00" or @SECONDS`,
	} {
		if got, err := readTime(text, false); err == nil || err.Error() != want {
			t.Errorf("%q is %v, %v; want the error %s", text, got, err, want)
		}
	}
}

func TestATimeThatDateHasPrintedIsRead(t *testing.T) {
	program := shell(t, "date")
	const moment = "2026-10-25T00:30:15Z"
	want, err := time.Parse(time.RFC3339, moment)
	if err != nil {
		t.Fatal(err)
	}
	if err := exec.Command(program, "--rfc-3339=ns", "-d", moment).Run(); err != nil {
		skipFor(t, fmt.Errorf("this date is not GNU's: %w", err))
	}
	for flag, precision := range map[string]time.Duration{
		"-Iminutes": time.Minute, "-Iseconds": time.Second, "-Ihours": time.Hour, "-Ins": 1, "-R": time.Second,
		"--rfc-3339=seconds": time.Second, "--rfc-3339=ns": 1, "+@%s": time.Second,
	} {
		cmd := exec.Command(program, "-d", moment, flag)
		cmd.Env = []string{"TZ=Europe/Berlin", "LC_ALL=C"}
		text, err := cmd.Output()
		if err != nil {
			t.Fatalf("date -d %s %s: %v", moment, flag, err)
		}
		got, err := readTime(string(text[:len(text)-1]), false)
		if err != nil || !got.Equal(want.Truncate(precision)) {
			t.Errorf("date %s printed %s, which is %v, %v; want %v", flag, text, got, err, want)
		}
	}
}

func zoneFor(t *testing.T, tz string) *time.Location {
	t.Helper()
	t.Setenv("TZ", tz)
	zone, err := localZone()
	if err != nil {
		t.Fatal(err)
	}
	return zone
}

func TestATimeThatTheClockSkipsOrShowsTwiceIsTheFirstMomentNotBeforeIt(t *testing.T) {
	// No law and no new edition of the database of zones changes these years any more.
	for _, c := range []struct{ zone, text, want string }{
		{"America/New_York", "2018-03-11 01:59:59", "2018-03-11T01:59:59-05:00"},
		{"America/New_York", "2018-03-11 02:30", "2018-03-11T03:00:00-04:00"},
		{"America/New_York", "2018-03-11 03:00", "2018-03-11T03:00:00-04:00"},
		{"America/New_York", "2018-11-04 01:30", "2018-11-04T01:30:00-04:00"},
		{"America/New_York", "2018-11-04 02:00", "2018-11-04T02:00:00-05:00"},
		{"Europe/Berlin", "2018-03-25 02:30", "2018-03-25T03:00:00+02:00"},
		{"Europe/Berlin", "2018-10-28 02:30", "2018-10-28T02:30:00+02:00"},
		{"Europe/Berlin", "2018-10-28 03:00", "2018-10-28T03:00:00+01:00"},
		{"Australia/Lord_Howe", "2018-10-07 02:15", "2018-10-07T02:30:00+11:00"}, // half an hour
		{"Australia/Lord_Howe", "2018-04-01 01:45", "2018-04-01T01:45:00+11:00"},
		{"America/Sao_Paulo", "2018-11-04", "2018-11-04T01:00:00-02:00"},  // at midnight
		{"Pacific/Apia", "2011-12-30 12:00", "2011-12-31T00:00:00+14:00"}, // a whole day
		{"Asia/Kolkata", "2018-03-25 02:30", "2018-03-25T02:30:00+05:30"},
		{"UTC", "2026-03-29 02:30", "2026-03-29T02:30:00+00:00"},
		{"", "2026-03-29 02:30", "2026-03-29T02:30:00+00:00"},
		// Rules as POSIX writes them.
		{"CET-1CEST,M3.5.0,M10.5.0/3", "2026-03-29 02:30", "2026-03-29T03:00:00+02:00"},
		{"CET-1CEST,M3.5.0,M10.5.0/3", "2026-10-25 02:30", "2026-10-25T02:30:00+02:00"},
		{"CET-1CEST,M3.5.0,M10.5.0/3", "2026-12-01 02:30", "2026-12-01T02:30:00+01:00"},
		{"<+0330>-3:30", "2026-07-01 02:30", "2026-07-01T02:30:00+03:30"},
		{"XST5", "2026-07-01 02:30", "2026-07-01T02:30:00-05:00"},
	} {
		zone := zoneFor(t, c.zone)
		got, ok := parseLocal(c.text, time.Now().In(zone), false)
		if text := got.Format("2006-01-02T15:04:05-07:00"); !ok || text != c.want {
			t.Errorf("%s in %s is %s, want %s", c.text, c.zone, text, c.want)
		}
	}
}

// FuzzLocalTime holds firstMoment to its definition: the clock shows the time or a later one at that moment, and an
// earlier one a second before, as far as the clock is not put back there.
func FuzzLocalTime(f *testing.F) {
	zones := []string{"America/New_York", "Europe/Berlin", "Australia/Lord_Howe", "Africa/Casablanca", "Pacific/Apia"}
	for i := range zones {
		f.Add(byte(i), int64(1774751400))
		f.Add(byte(i), int64(1761442200))
	}
	f.Fuzz(func(t *testing.T, zone byte, seconds int64) {
		location, err := time.LoadLocation(zones[int(zone)%len(zones)])
		if err != nil {
			skipFor(t, err) // no database of time zones
		}
		shown := time.Unix(seconds%(1<<34), 0).UTC()
		got := firstMoment(shown, location)
		clockAt := func(moment time.Time) time.Time {
			_, offset := moment.In(location).Zone()
			return moment.UTC().Add(time.Duration(offset) * time.Second)
		}
		if clockAt(got).Before(shown) {
			t.Errorf("%v in %v is %v, which is earlier", shown, location, got)
		}
		for back := time.Second; back < 26*time.Hour; back += 10 * time.Minute {
			if !clockAt(got.Add(-back)).Before(shown) {
				t.Errorf("%v in %v is %v, but the clock shows it %v before", shown, location, got, back)
			}
		}
	})
}

func TestATZThatNobodyUnderstandsIsRefused(t *testing.T) {
	for _, tz := range []string{"Mars/Olympus", "CEST", "5", "/nowhere", "CET-1CEST,garbage"} {
		t.Setenv("TZ", tz)
		_, err := readTime("2026-05-01 10:00", false)
		if err == nil {
			t.Errorf("TZ=%s was taken for something", tz)
			continue
		}
		wantText(t, err.Error(), `the time zone TZ=`+tz+` is not known here: .*; write the offset`)
		if _, err := readTime("2026-05-01T10:00:00Z", false); err != nil {
			t.Errorf("TZ=%s: a time with its offset: %v", tz, err)
		}
	}
}

func TestTheTimeOfAtIsEchoedWithItsOffset(t *testing.T) {
	t.Parallel()
	for tz, want := range map[string]string{
		"Etc/GMT+4":                `^pinion: due 2999-07-01T10:00:00-04:00  in \d+y\n$`, // no law changes it
		"EST5EDT,M3.2.0,M11.1.0/2": `^pinion: due 2999-07-01T10:00:00-04:00  in \d+y\n$`,
	} {
		cmd := process(t, t.TempDir(), "enqueue", "add", "--at", "2999-07-01 10:00", "--db", "q.db")
		cmd.Env = append(cmd.Env, "TZ="+tz)
		_, stderr := finish(t, cmd, 0)
		wantText(t, stderr, want)
	}
	cmd := process(t, t.TempDir(), "enqueue", "add", "--at", "10:00", "--db", "q.db")
	cmd.Env = append(cmd.Env, "TZ=Mars/Olympus")
	_, stderr := finish(t, cmd, 2)
	wantText(t, stderr, `^pinion: --at: the time zone TZ=Mars/Olympus is not known here: `)
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

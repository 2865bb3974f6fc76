// Package words writes numbers, times and strange text for people. The command line and the page share it.
package words

import (
	"fmt"
	"strconv"
	"strings"
	"time"
	"unicode/utf16"
	"unicode/utf8"

	"github.com/pinion-queue/pinion/internal/rules"
)

// Printable escapes, as in Go source, every character that a terminal might obey instead of showing it, or that changes
// how the text around it looks, except those in keep.
func Printable(s, keep string) string {
	var b strings.Builder
	for len(s) > 0 {
		r, size := utf8.DecodeRuneInString(s)
		isInvalid := r == utf8.RuneError && size == 1
		if !isInvalid && (strconv.IsPrint(r) || strings.ContainsRune(keep, r)) {
			b.WriteString(s[:size])
		} else {
			quoted := strconv.Quote(s[:size])
			b.WriteString(quoted[1 : len(quoted)-1])
		}
		s = s[size:]
	}
	return b.String()
}

// PrintableJSON escapes the same characters in JSON, so that it stays the same value. encoding/json leaves some of them
// as they are. Line breaks stay.
func PrintableJSON(s string) string {
	var b strings.Builder
	for _, r := range s {
		if r == '\n' || strconv.IsPrint(r) {
			b.WriteRune(r)
			continue
		}
		for _, unit := range utf16.Encode([]rune{r}) {
			fmt.Fprintf(&b, `\u%04x`, unit)
		}
	}
	return b.String()
}

// Clip shortens s to n characters.
func Clip(s string, n int) string {
	if len(s) <= n {
		return s
	}
	left := n
	cut := 0 // where the last character begins that fits
	for i := range s {
		if left == 0 {
			return s[:cut] + "…"
		}
		left--
		cut = i
	}
	return s
}

// Brief returns an error's text in one line: its first line and, if there are several, its last, which may be
// the one that explains it. Each is clipped to limit characters. Text after an empty line, such as the
// stack of a panic, is left out.
func Brief(text string, limit int) string {
	text = rules.ErrorMessage(text)
	lines := strings.Split(strings.TrimSpace(text), "\n")
	if len(lines) == 1 {
		return text
	}
	return Clip(lines[0], limit) + " … " + Clip(strings.TrimSpace(lines[len(lines)-1]), limit)
}

// Ago returns how long ago a time was, as in "47h ago", or how far ahead, as in "in 5m"; "" for the zero time. The
// units are those of Rough.
func Ago(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	now := time.Now()
	if t.After(now) {
		return "in " + Between(now, t)
	}
	return Between(t, now) + " ago"
}

// Between returns how long it is from one time to a later one, in the units of Rough. They may be farther apart
// than a time.Duration can say, which is 292 years.
func Between(from, to time.Time) string {
	seconds := to.Unix() - from.Unix()
	if to.Nanosecond() < from.Nanosecond() {
		seconds--
	}
	return roughSeconds(seconds)
}

// Rough returns a duration in one unit, rounded down: seconds, minutes, hours up to two days, days up to two years, or
// years.
func Rough(d time.Duration) string { return roughSeconds(int64(d / time.Second)) }

func roughSeconds(n int64) string {
	const (
		minute = 60
		hour   = 60 * minute
		day    = 24 * hour
		year   = 365*day + day/4
	)
	switch {
	case n < minute:
		return fmt.Sprintf("%ds", n)
	case n < hour:
		return fmt.Sprintf("%dm", n/minute)
	case n < 2*day:
		return fmt.Sprintf("%dh", n/hour)
	case n < 2*year:
		return fmt.Sprintf("%dd", n/day)
	}
	return fmt.Sprintf("%dy", n/year)
}

// PerSecond returns a rate in about three digits.
func PerSecond(rate float64) string {
	switch {
	case rate == 0:
		return "0"
	case rate < 1:
		return fmt.Sprintf("%.2f", rate)
	case rate < 100:
		return fmt.Sprintf("%.1f", rate)
	}
	return fmt.Sprintf("%.0f", rate)
}

// ByteSize returns a number of bytes in a readable unit.
func ByteSize(n int64) string {
	switch {
	case n < 10_000:
		return fmt.Sprintf("%d bytes", n)
	case n < 10_000_000:
		return fmt.Sprintf("%d kB", n/1000)
	case n < 10_000_000_000:
		return fmt.Sprintf("%d MB", n/1_000_000)
	}
	return fmt.Sprintf("%d GB", n/1_000_000_000)
}

// Plural returns "1 job" or "1,234 jobs".
func Plural(n int, noun string) string {
	if n != 1 {
		noun += "s"
	}
	return Thousands(n) + " " + noun
}

// Are returns Plural with the verb: "1 job is" or "1,234 jobs are".
func Are(n int, noun string) string {
	if n == 1 {
		return Plural(n, noun) + " is"
	}
	return Plural(n, noun) + " are"
}

// Thousands writes 1234567 as 1,234,567.
func Thousands(n int) string {
	s := strconv.Itoa(n)
	for i := len(s) - 3; i > 0 && s[i-1] != '-'; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}

// FirstFew joins the first three of a list.
func FirstFew(list []string) string {
	var few []string
	for _, item := range list[:min(len(list), 3)] {
		few = append(few, Clip(item, 200))
	}
	if len(list) > 3 {
		few = append(few, "…")
	}
	return strings.Join(few, ", ")
}

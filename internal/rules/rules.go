// Package rules holds what every storage of Pinion does alike, as far as it needs no type of package pinion.
package rules

import (
	"fmt"
	"math"
	"path/filepath"
	"strings"
	"time"
	"unicode/utf8"
)

// DefaultLease is how long a claim lives without a heartbeat if its Dequeue does not say.
const DefaultLease = 10 * time.Second

// CheckDequeue reports fields of a pinion.DequeueOptions that make no sense.
func CheckDequeue(max, ahead int, lease time.Duration) error {
	if max < 1 {
		return fmt.Errorf("pinion: dequeue: Max is %d; want at least 1", max)
	}
	if ahead < 0 || ahead > max {
		return fmt.Errorf("pinion: dequeue: Ahead is %d; want 0 to %d, which is Max", ahead, max)
	}
	if lease < 0 {
		return fmt.Errorf("pinion: dequeue: Lease is %v; want 0 (default %v) or more", lease, DefaultLease)
	}
	return nil
}

// MostLimit is the highest limit of a queue: the number that every database and processor can keep.
const MostLimit = math.MaxInt32

// DefaultRetention is how long finished jobs stay if the options of the storage do not say.
const DefaultRetention = 24 * time.Hour

// HistoryKept is how long the counts of History stay.
const HistoryKept = 7 * 24 * time.Hour

// ReapGap returns how long after its doubt an expired lease is taken back at the earliest; see
// pinion.Storage.ReapStale.
func ReapGap(lease time.Duration) time.Duration {
	return min(lease, lease/5+time.Second)
}

// HeartbeatsFirst is how long a reaper waits before it takes leases back. Heartbeats that had to wait get stored in
// that time.
const HeartbeatsFirst = 100 * time.Millisecond

// SecondLook returns how long after its doubt a lease is ripe to be taken back. HeartbeatsFirst then makes up for what
// it is shorter than ReapGap.
func SecondLook(lease time.Duration) time.Duration {
	gap := ReapGap(lease)
	return gap - min(HeartbeatsFirst, gap/10)
}

// lastTime is the latest due time. JSON has no year of five digits.
var lastTime = time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC)

// DueTime returns a due time as it is stored: in whole microseconds, not after the year 9999, and not before the year
// 1, where it is the zero time. The start of 1970 is the zero time too: SQLite files have a 0 for both.
func DueTime(t time.Time) time.Time {
	t = t.UTC().Truncate(time.Microsecond)
	switch {
	case t.Before(time.Time{}), t.Equal(time.Unix(0, 0)):
		return time.Time{}
	case t.After(lastTime):
		return lastTime
	}
	return t
}

// Lease returns the lease of a claim as it is stored: in whole microseconds, at least one.
func Lease(lease time.Duration) time.Duration {
	return max(lease.Truncate(time.Microsecond), time.Microsecond)
}

// IsText reports whether every storage can keep s as it is: UTF-8 without NUL.
func IsText(s string) bool {
	return utf8.ValidString(s) && !strings.Contains(s, "\x00")
}

// Earlier returns the earlier of two times. The zero time is none.
func Earlier(a, b time.Time) time.Time {
	if a.IsZero() || !b.IsZero() && b.Before(a) {
		return b
	}
	return a
}

// FindTwice returns an element that is in a list twice.
func FindTwice[E comparable](list []E) (element E, found bool) {
	if len(list) < 2 { // most lists need no map
		return element, false
	}
	seen := make(map[E]bool, len(list))
	for _, element := range list {
		if seen[element] {
			return element, true
		}
		seen[element] = true
	}
	return element, false
}

// SchemeOf returns the scheme of a database's address with its colon, such as "sqlite:", or "" for the path of a file.
// A scheme has at least two letters, so that C:\jobs.db is a path.
//
// A regular expression would say the same, but to compile and use it is a hundredth of a whole `pinion enqueue`.
func SchemeOf(address string) string {
	scheme, _, found := strings.Cut(address, ":")
	if !found || len(scheme) < 2 || !isLetter(scheme[0]) {
		return ""
	}
	for _, c := range []byte(scheme) {
		if !isLetter(c) && !('0' <= c && c <= '9') && c != '+' && c != '.' && c != '-' {
			return ""
		}
	}
	return scheme + ":"
}

// CheckFileName refuses the names of files that look like something else.
func CheckFileName(name string) error {
	switch {
	case strings.Contains(name, "?"):
		return fmt.Errorf("pinion: open: %q: a file's name takes no settings behind a ?; want the path alone, or use "+
			"OpenSQLite, which takes options", name)
	case strings.HasPrefix(name, "//"):
		return fmt.Errorf("pinion: open: %q: want a path behind sqlite:, such as sqlite:jobs.db or sqlite:/var/jobs.db",
			"sqlite:"+name)
	case strings.EqualFold(name, "memory") || strings.EqualFold(name, ":memory:"):
		return fmt.Errorf("pinion: open: %q: want memory: for a storage in memory, or ./%s for a file of that name",
			name, strings.Trim(name, ":"))
	}
	return nil
}

// IsDirectoryName reports whether a path can only be that of a directory, because it ends in a slash, "." or "..".
// filepath.Abs hides that: it makes x of x/.
func IsDirectoryName(path string) bool {
	_, name := filepath.Split(path)
	return path != "" && (name == "" || name == "." || name == "..")
}

func isLetter(c byte) bool { return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' }

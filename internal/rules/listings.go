package rules

import (
	"cmp"
	"crypto/sha256"
	"maps"
	"math"
	"slices"
	"strings"
)

const (
	// PageLook is how many jobs a page looks at, at most.
	PageLook = 20_000
	// PageBytes is after how many bytes a page ends.
	PageBytes = 4 << 20

	defaultPageSize = 100
)

// PageSize returns how many jobs a page has at most if its filter has this Limit. It cannot have more than it looks at.
func PageSize(limit int) int {
	if limit > 0 {
		return min(limit, PageLook)
	}
	return defaultPageSize
}

// Order is the order of a listing by its numbers, in SQL.
type Order struct {
	After     string // the operator for numbers after a number: ">", or "<" if the newest come first
	UpTo      string // the operator for numbers up to a number: "<=" or ">="
	Direction string // of ORDER BY: "" or "DESC"
	End       int64  // no number lies beyond it
}

// The two orders of a listing.
var (
	OldestFirst = Order{After: ">", UpTo: "<=", Direction: "", End: math.MaxInt64}
	NewestFirst = Order{After: "<", UpTo: ">=", Direction: "DESC", End: math.MinInt64}
)

// OrderOf returns the order of a listing whose filter has this Newest.
func OrderOf(newest bool) Order {
	if newest {
		return NewestFirst
	}
	return OldestFirst
}

// NearEnd returns the last of the PageLook row numbers that follow a number in this order. It does not overflow.
func (o Order) NearEnd(number int64) int64 {
	if o == NewestFirst {
		return max(number, math.MinInt64+PageLook) - PageLook
	}
	return min(number, math.MaxInt64-PageLook) + PageLook
}

// ErrorMessage returns the text of an error without the stack of a panic: what stands before its first empty line.
func ErrorMessage(text string) string {
	message, _, _ := strings.Cut(text, "\n\n")
	return message
}

// ErrorHash identifies the errors that have one message.
type ErrorHash [sha256.Size]byte

// HashError returns the hash of an error's message.
func HashError(text string) ErrorHash { return sha256.Sum256([]byte(ErrorMessage(text))) }

// ErrorGroups counts dead letters by error. It keeps no text, and so takes little memory however many errors there are.
type ErrorGroups struct {
	Letters int // how many were added

	groups map[ErrorHash]*ErrorGroup
}

// ErrorGroup is the dead letters that have one error.
type ErrorGroup struct {
	Count  int
	Newest int64 // the number of the newest letter
}

// Add counts a letter by its error. Its number is larger than that of older letters.
func (g *ErrorGroups) Add(hash ErrorHash, number int64) {
	if g.groups == nil {
		g.groups = make(map[ErrorHash]*ErrorGroup)
	}
	group := g.groups[hash]
	if group == nil {
		group = new(ErrorGroup)
		g.groups[hash] = group
	}
	g.Letters++
	group.Count++
	group.Newest = max(group.Newest, number)
}

// Errors returns how many groups there are.
func (g *ErrorGroups) Errors() int { return len(g.groups) }

// Largest returns at most limit groups, the largest first and among equals the newest; all if limit is not positive.
func (g *ErrorGroups) Largest(limit int) []*ErrorGroup {
	groups := slices.SortedFunc(maps.Values(g.groups), func(a, b *ErrorGroup) int {
		return cmp.Or(cmp.Compare(b.Count, a.Count), cmp.Compare(b.Newest, a.Newest))
	})
	if limit > 0 && len(groups) > limit {
		groups = groups[:limit]
	}
	return groups
}

package postgres

import (
	"strings"
	"testing"
	"unicode"
)

func TestNamesAreEqualWithoutCaseExactlyIfTheyFoldToTheSame(t *testing.T) {
	for r := rune(1); r <= unicode.MaxRune; r++ {
		if next := unicode.SimpleFold(r); foldRune(r) != foldRune(next) {
			t.Errorf("%q and %q differ only in case, and fold to %q and %q", r, next, foldRune(r), foldRune(next))
		}
	}
	names := []string{"kelvin", "KELVIN", "\u212Aelvin", "ΣΑΣ", "σας", "Straße", "STRASSE", "ſ", "S",
		"İ", "i", "ä", "Ä", "a"}
	for _, a := range names {
		for _, b := range names {
			if got, want := fold(a) == fold(b), strings.EqualFold(a, b); got != want {
				t.Errorf("%q and %q fold to the same: %t, want %t", a, b, got, want)
			}
		}
	}
}

func TestOnlyNamesThatTheServerCannotFoldAreStoredFolded(t *testing.T) {
	for name, want := range map[string]string{"Add_1": "", "add": "", "Ä": "", "ä": "Ä", "\u212A": "k"} {
		if got := stringOf(foldedOrNull(name)); got != want {
			t.Errorf("%q is stored folded as %q, want %q", name, got, want)
		}
	}
}

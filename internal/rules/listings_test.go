package rules

import (
	"math"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestAPageHasAHundredJobsUnlessItsFilterHasALimit(t *testing.T) {
	for limit, want := range map[int]int{-1: 100, 0: 100, 1: 1, 500: 500, math.MaxInt: PageLook} {
		if got := PageSize(limit); got != want {
			t.Errorf("PageSize(%d) = %d, want %d", limit, got, want)
		}
	}
}

func TestTheStackOfAPanicIsNoPartOfItsMessage(t *testing.T) {
	for text, want := range map[string]string{
		"":                      "",
		"one\ntwo":              "one\ntwo",
		"panic: x\n\nstack\n\n": "panic: x",
		"\n\nstack":             "",
	} {
		if got := ErrorMessage(text); got != want {
			t.Errorf("ErrorMessage(%q) = %q, want %q", text, got, want)
		}
	}
}

func TestTheLargestGroupsComeFirstAndAmongEqualsTheNewest(t *testing.T) {
	var groups ErrorGroups
	if got := groups.Largest(0); len(got) > 0 || groups.Errors() != 0 {
		t.Errorf("without letters there are %d errors, and the groups %v", groups.Errors(), got)
	}
	for i, text := range []string{"newer", "often", "older", "often\n\none stack", "often\n\nanother"} {
		groups.Add(HashError(text), int64(100-i)) // the newest first, as storages read them
	}
	often, newer, older := &ErrorGroup{3, 99}, &ErrorGroup{1, 100}, &ErrorGroup{1, 98}
	for limit, want := range map[int][]*ErrorGroup{
		-1: {often, newer, older},
		0:  {often, newer, older},
		2:  {often, newer},
		9:  {often, newer, older},
	} {
		if diff := cmp.Diff(want, groups.Largest(limit)); diff != "" {
			t.Errorf("Largest(%d) (-want +got):\n%s", limit, diff)
		}
	}
	if groups.Letters != 5 || groups.Errors() != 3 {
		t.Errorf("there are %d letters with %d errors, want 5 with 3", groups.Letters, groups.Errors())
	}
}

func TestNearEndDoesNotOverflow(t *testing.T) {
	for _, test := range []struct {
		order  Order
		number int64
		want   int64
	}{
		{OldestFirst, 0, PageLook},
		{NewestFirst, 0, -PageLook},
		{OldestFirst, math.MaxInt64, math.MaxInt64},
		{NewestFirst, math.MinInt64, math.MinInt64},
	} {
		if got := test.order.NearEnd(test.number); got != test.want {
			t.Errorf("%+v: NearEnd(%d) = %d, want %d", test.order, test.number, got, test.want)
		}
	}
}

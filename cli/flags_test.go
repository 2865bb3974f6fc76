package cli

import (
	"slices"
	"strings"
	"testing"
)

func TestDistanceCountsLetters(t *testing.T) {
	for _, c := range []struct {
		a, b string
		want int
	}{
		{"", "", 0}, {"", "abc", 3}, {"abc", "", 3}, {"abc", "abc", 0},
		{"kitten", "sitting", 3}, {"status", "statsu", 1}, {"flaw", "lawn", 2},
		{"ab", "ba", 1}, {"abc", "cab", 2}, {"verison", "version", 1},
	} {
		if got := distance(c.a, c.b); got != c.want {
			t.Errorf("distance(%q, %q) = %d, want %d", c.a, c.b, got, c.want)
		}
	}
}

func TestASuggestionIsCloseToTheWordOrNone(t *testing.T) {
	var names []string
	for _, cmd := range commands() {
		names = append(names, cmd.name)
	}
	without := slices.DeleteFunc(slices.Clone(names), func(name string) bool { return name == "pause" })
	for word, want := range map[string]string{
		"statsu": `"status"`, "enqeue": `"enqueue"`, "enque": `"enqueue"`, "shwo": `"show"`, "lits": `"list"`,
		"PENDNIG": `"pending"`, "dlq": `"dlq-list" or "dlq-replay" or "dlq-purge"`,
		"purge": `"dlq-purge"`, "ls": `"list"`, "kill": `"cancel"`, "retry": `"dlq-replay"`, "wiat": `"wait"`,
		"pause": "", "nonsense": "", "sow": `"show"`, "x": "", "": "", "lmit": `"limit"`, "stop": "",
		"raise": "", "completoin": `"completion"`, "tail": `"logs"`, "rerun": `"dlq-replay"`, "workers": `"worker"`,
	} {
		got := strings.TrimSuffix(strings.TrimPrefix(didYouMean(word, without), "; did you mean "), "?")
		if got != want {
			t.Errorf("for %q it suggests %s, want %s", word, got, want)
		}
	}
}

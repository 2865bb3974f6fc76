package cli

import "testing"

func TestTextIsCutByTheColumnsItTakes(t *testing.T) {
	for _, c := range []struct {
		text string
		most int
		want string
	}{
		{"abc", 3, "abc"}, {"abcd", 3, "ab…"}, {"abc", 1, "…"}, {"abc", 0, ""}, {"", 0, ""},
		{"日本語", 6, "日本語"}, {"日本語", 5, "日本…"}, {"日本語", 4, "日…"}, {"日本", 1, "…"},
		{"e\u0301e\u0301", 2, "e\u0301e\u0301"}, {"e\u0301e\u0301e", 2, "e\u0301…"},
	} {
		if got := cut(c.text, c.most); got != c.want || columns(got) > c.most {
			t.Errorf("cut(%q, %d) = %q, want %q", c.text, c.most, got, c.want)
		}
	}
	tab := &table{names: []string{"TASK", "ERROR"}}
	for _, c := range []struct {
		column, most int
		want         string
	}{
		{0, 12, "images…small"}, {0, 7, "imag…ll"}, {0, 6, "image…"}, {1, 12, "images.thum…"},
		{0, 30, "images.thumbnails.small"},
	} {
		if got := tab.cut("images.thumbnails.small", c.column, c.most); got != c.want {
			t.Errorf("as %s in %d columns it is %q, want %q", tab.names[c.column], c.most, got, c.want)
		}
	}
}

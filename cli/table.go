package cli

import (
	"cmp"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"unicode"
)

// isTerminal reports whether a stream is a terminal, and not a file, a pipe or the null device.
func isTerminal(stream any) bool {
	f, ok := stream.(*os.File)
	if !ok {
		return false
	}
	info, err := f.Stat()
	if err != nil || info.Mode()&os.ModeCharDevice == 0 {
		return false
	}
	null, err := os.Stat(os.DevNull)
	return err != nil || !os.SameFile(info, null)
}

// screenSize returns the size of the terminal that results go to, or 0 if they do not go to one.
func (c *call) screenSize() (columns, lines int) {
	if c.screen == nil {
		return 0, 0
	}
	columns, lines = windowSize(c.screen)
	if columns == 0 || lines == 0 {
		columns, _ = strconv.Atoi(os.Getenv("COLUMNS"))
		lines, _ = strconv.Atoi(os.Getenv("LINES"))
	}
	if columns <= 0 || lines <= 0 {
		return 80, 24
	}
	return columns, lines
}

// hasLiveScreen reports whether results go to a terminal that understands escape sequences.
func (c *call) hasLiveScreen() bool {
	if c.screen == nil || os.Getenv("TERM") == "dumb" {
		return false
	}
	return runtime.GOOS != "windows" || os.Getenv("WT_SESSION") != ""
}

// hasColors reports whether to use colors; see https://no-color.org.
func (c *call) hasColors() bool { return c.hasLiveScreen() && os.Getenv("NO_COLOR") == "" }

// Styles are parameters of the escape sequence ESC [ … m.
const (
	bold   = "1"
	red    = "31"
	green  = "32"
	yellow = "33"
)

func styled(text, style string, colors bool) string {
	if style == "" || !colors {
		return text
	}
	return "\x1b[" + style + "m" + text + "\x1b[0m"
}

// cell is a text, which may be anything, and its style.
type cell struct{ text, style string }

// minWidths are the columns that shrink where the terminal is too narrow, and how narrow they may become.
var minWidths = map[string]int{"TASK": 8, "QUEUE": 7, "WORKER": 10, "ARGUMENTS": 9, "ERROR": 12}

// table aligns cells and fits them into the width of a terminal.
type table struct {
	width   int // 0: no limit
	colors  bool
	numbers bool // all columns but the first hold numbers, so they are aligned to the right
	names   []string
	rows    [][]cell // not yet printed
	size    int      // of their texts, in bytes
}

// newTable returns a table whose first row has the names of the columns.
func (c *call) newTable(names ...string) *table {
	width, _ := c.screenSize()
	t := &table{width: width, colors: c.hasColors(), names: names}
	header := make([]cell, len(names))
	for i, name := range names {
		header[i] = cell{name, bold}
	}
	t.addCells(header...)
	return t
}

// add adds a row of cells without a style.
func (t *table) add(texts ...string) {
	row := make([]cell, len(texts))
	for i, text := range texts {
		row[i].text = text
	}
	t.addCells(row...)
}

func (t *table) addCells(row ...cell) {
	for i := range row {
		row[i].text = printable(cmp.Or(row[i].text, "-"), "")
		t.size += len(row[i].text)
	}
	t.rows = append(t.rows, row)
}

// print prints the rows that were added since the last call.
func (c *call) print(t *table) {
	for _, line := range t.lines() {
		fmt.Fprintln(c.stdout, line)
	}
}

// lines returns the rows that were added since the last call, each as a line.
func (t *table) lines() (lines []string) {
	widths := t.columnWidths()
	for _, row := range t.rows {
		lines = append(lines, t.line(row, widths))
	}
	t.rows, t.size = nil, 0
	return lines
}

func (t *table) line(row []cell, widths []int) string {
	var line strings.Builder
	for i, cell := range row {
		if widths[i] == 0 { // there is no room for this column and the following
			break
		}
		if i > 0 {
			line.WriteString("  ")
		}
		text := cell.text
		if t.width > 0 {
			text = t.cut(text, i, widths[i])
		}
		padding := strings.Repeat(" ", max(widths[i]-columns(text), 0))
		text = styled(text, cell.style, t.colors)
		if t.numbers && i > 0 {
			line.WriteString(padding + text)
		} else {
			line.WriteString(text + padding)
		}
	}
	return strings.TrimRight(line.String(), " ")
}

// longestPadding is how wide a column may be for the sake of its longest text. Where there is no terminal to fit
// into, texts are printed whole, and one that is longer does not make all lines longer.
const longestPadding = 60

// columnWidths returns the widths of the columns. If they do not fit, those in minWidths shrink first, the
// widest before the others. Then the columns on the right are left out.
func (t *table) columnWidths() []int {
	widths := make([]int, len(t.names))
	for _, row := range t.rows {
		for i, cell := range row {
			widths[i] = max(widths[i], columns(cell.text))
		}
	}
	if t.width == 0 {
		for i := range widths {
			widths[i] = min(widths[i], longestPadding)
		}
		return widths
	}
	total := -2 // no gap before the first column
	for _, width := range widths {
		total += width + 2
	}
	for total > t.width {
		widest := t.widest(widths)
		if widest < 0 {
			break
		}
		widths[widest]--
		total--
	}
	left := t.width
	for i, width := range widths {
		_, shrinks := minWidths[t.names[i]]
		if width > left && i > 0 && !shrinks {
			left = 0 // half a number would be a wrong number
		}
		widths[i] = max(0, min(width, left))
		left -= widths[i] + 2
	}
	return widths
}

// widest returns the index of the widest column that can shrink, or -1.
func (t *table) widest(widths []int) int {
	widest := -1
	for i, name := range t.names {
		least, shrinks := minWidths[name]
		if shrinks && widths[i] > least && (widest < 0 || widths[i] > widths[widest]) {
			widest = i
		}
	}
	return widest
}

// cut shortens a cell to a number of terminal columns. Names are cut in the middle, because many names begin
// or end alike.
func (t *table) cut(text string, column, width int) string {
	name := t.names[column]
	isName := name == "TASK" || name == "QUEUE" || name == "WORKER"
	if !isName || columns(text) <= width || width <= 6 {
		return cut(text, width)
	}
	end := cutStart(text, width/2)
	return cut(text, width-columns(end)) + end
}

// cut shortens printable text to a number of terminal columns.
func cut(s string, width int) string {
	if columns(s) <= width {
		return s
	}
	if width <= 0 {
		return ""
	}
	used := 0
	for i, r := range s {
		used += columnsOf(r)
		if used > width-1 {
			return s[:i] + "…"
		}
	}
	return s
}

// cutStart returns the end of s that fits into width-1 columns.
func cutStart(s string, width int) string {
	runes := []rune(s)
	slices.Reverse(runes)
	end := []rune(strings.TrimSuffix(cut(string(runes), width), "…"))
	slices.Reverse(end)
	return string(end)
}

// columns returns how many columns of a terminal a printable text takes.
func columns(s string) int {
	n := 0
	for _, r := range s {
		n += columnsOf(r)
	}
	return n
}

// wideBlocks are the blocks of characters that take two columns, approximately: most of East Asia's, and
// emoji.
var wideBlocks = [][2]rune{
	{0x1100, 0x115f}, {0x2e80, 0x303e}, {0x3041, 0xa4cf}, {0xa960, 0xa97f}, {0xac00, 0xd7a3},
	{0xf900, 0xfaff}, {0xfe30, 0xfe6f}, {0xff00, 0xff60}, {0xffe0, 0xffe6},
	{0x1f300, 0x1f64f}, {0x1f680, 0x1f6ff}, {0x1f900, 0x1f9ff}, {0x20000, 0x3fffd},
}

func columnsOf(r rune) int {
	switch {
	case r < 0x300:
		return 1
	case unicode.In(r, unicode.Mn, unicode.Me, unicode.Cf):
		return 0
	case slices.ContainsFunc(wideBlocks, func(block [2]rune) bool { return block[0] <= r && r <= block[1] }):
		return 2
	}
	return 1
}

package main

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

// cell is a text, which may hold anything, and how it is shown in colours: parameters of the escape sequence ESC [ … m.
type cell struct{ text, style string }

const (
	bold   = "1"
	faint  = "2"
	red    = "31"
	green  = "32"
	yellow = "33"
)

// elastic are the columns that are cut where a terminal is too narrow, and how narrow they may become.
var elastic = map[string]int{"TASK": 8, "QUEUE": 7, "WORKER": 10, "ARGUMENTS": 9, "ERROR": 12}

// grid aligns cells, of which the first row are the names of the columns, and fits them into a terminal's width.
type grid struct {
	width   int  // 0: no limit
	colours bool // or no style shows
	numbers bool // in all columns but the first, and so aligned to the right
	rows    [][]cell
	names   []string // of the columns, after the first flush too
}

func (c *call) grid() *grid {
	width, _ := c.size()
	return &grid{width: width, colours: c.colours()}
}

// size is that of the terminal which results go to, or 0.
func (c *call) size() (columns, lines int) {
	if c.screen == nil {
		return 0, 0
	}
	if columns, lines = windowSize(c.screen); columns == 0 || lines == 0 {
		columns, _ = strconv.Atoi(os.Getenv("COLUMNS"))
		lines, _ = strconv.Atoi(os.Getenv("LINES"))
	}
	if columns <= 0 || lines <= 0 {
		columns, lines = 80, 24
	}
	return columns, lines
}

// live tells whether results go to a terminal that can do more than print.
func (c *call) live() bool {
	return c.screen != nil && os.Getenv("TERM") != "dumb" && (runtime.GOOS != "windows" || os.Getenv("WT_SESSION") != "")
}

// colours tells whether to use any: see https://no-color.org.
func (c *call) colours() bool { return c.live() && os.Getenv("NO_COLOR") == "" }

// add adds a row of cells without a style.
func (g *grid) add(texts ...string) {
	row := make([]cell, len(texts))
	for i, text := range texts {
		row[i].text = text
	}
	g.addCells(row...)
}

func (g *grid) addCells(row ...cell) {
	if g.names == nil {
		for i := range row {
			g.names, row[i].style = append(g.names, row[i].text), bold
		}
	}
	for i := range row {
		row[i].text = printable(cmp.Or(row[i].text, "-"), "")
	}
	g.rows = append(g.rows, row)
}

// lines returns the rows that were added since, each as a line.
func (g *grid) lines() (lines []string) {
	widths := g.widths()
	for _, row := range g.rows {
		var line strings.Builder
		for i, cell := range row {
			if widths[i] == 0 {
				break
			}
			cell.text = g.cut(cell.text, i, widths[i])
			padding := strings.Repeat(" ", widths[i]-columns(cell.text))
			if right := g.numbers && i > 0; right {
				line.WriteString(padding)
				padding = ""
			}
			if i == len(row)-1 || widths[i+1] == 0 {
				padding = ""
			} else {
				padding += "  "
			}
			line.WriteString(styled(cell.text, cell.style, g.colours) + padding)
		}
		lines = append(lines, strings.TrimRight(line.String(), " "))
	}
	g.rows = nil
	return lines
}

// widths are those of the columns. Where they do not fit, the widest of the elastic ones shrink first, and then what is
// on the right is left out.
func (g *grid) widths() []int {
	widths := make([]int, len(g.names))
	for _, row := range g.rows {
		for i, cell := range row {
			widths[i] = max(widths[i], columns(cell.text))
		}
	}
	if g.width == 0 {
		return widths
	}
	over := -g.width - 2
	for _, width := range widths {
		over += width + 2
	}
	for ; over > 0; over-- {
		widest := -1
		for i, name := range g.names {
			if least, ok := elastic[name]; ok && widths[i] > least && (widest < 0 || widths[i] > widths[widest]) {
				widest = i
			}
		}
		if widest < 0 {
			break
		}
		widths[widest]--
	}
	left := g.width
	for i := range widths {
		if _, ok := elastic[g.names[i]]; !ok && i > 0 && widths[i] > left {
			left = 0 // half a number is none
		}
		widths[i] = max(0, min(widths[i], left))
		left -= widths[i] + 2
	}
	return widths
}

func styled(text, style string, colours bool) string {
	if style == "" || !colours {
		return text
	}
	return "\x1b[" + style + "m" + text + "\x1b[0m"
}

// cut shortens a cell to so many columns of the terminal: a name in its middle, because names that begin or end like
// others are many.
func (g *grid) cut(text string, column, most int) string {
	if name := g.names[column]; columns(text) > most && most > 6 && (name == "TASK" || name == "QUEUE" || name == "WORKER") {
		runes := []rune(text)
		slices.Reverse(runes)
		tail := []rune(strings.TrimSuffix(cut(string(runes), most/2), "…"))
		slices.Reverse(tail)
		return cut(text, most-columns(string(tail))) + string(tail)
	}
	return cut(text, most)
}

// cut shortens printable text to what fits into so many columns of a terminal.
func cut(s string, most int) string {
	if columns(s) <= most {
		return s
	}
	at, used := 0, 0
	for i, r := range s {
		if used += columnsOf(r); used > most-1 {
			at = i
			break
		}
	}
	if most <= 0 {
		return ""
	}
	return s[:at] + "…"
}

// columns is how many columns of a terminal printable text takes.
func columns(s string) (n int) {
	for _, r := range s {
		n += columnsOf(r)
	}
	return n
}

// wide are the blocks of characters that take two columns, near enough: most of East Asia's, and emoji.
var wide = [][2]rune{{0x1100, 0x115f}, {0x2e80, 0x303e}, {0x3041, 0xa4cf}, {0xa960, 0xa97f}, {0xac00, 0xd7a3}, {0xf900, 0xfaff},
	{0xfe30, 0xfe6f}, {0xff00, 0xff60}, {0xffe0, 0xffe6}, {0x1f300, 0x1f64f}, {0x1f680, 0x1f6ff}, {0x1f900, 0x1f9ff}, {0x20000, 0x3fffd}}

func columnsOf(r rune) int {
	switch {
	case r < 0x300:
		return 1
	case unicode.In(r, unicode.Mn, unicode.Me, unicode.Cf):
		return 0
	case slices.ContainsFunc(wide, func(block [2]rune) bool { return block[0] <= r && r <= block[1] }):
		return 2
	}
	return 1
}

// print prints the rows of a grid.
func (c *call) print(g *grid) {
	for _, line := range g.lines() {
		fmt.Fprintln(c.stdout, line)
	}
}

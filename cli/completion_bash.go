package cli

import (
	"slices"
	"strings"
)

// bash passes a line as it is typed, and inserts candidates as they are. So the quotes are read and written
// here.

// bashWord is a word as it is typed.
type bashWord struct {
	text  string // without quotes
	bytes []bashByte
}

// bashByte is a byte of a word as it is typed, and what it means.
type bashByte struct {
	value    byte
	isQuoted bool // or a part of a quote: it separates no words
	open     byte // the quote that is open behind it: ' or ", or 0
	length   int  // of the text up to and with it
}

// splitBash splits the line up to the cursor. It returns the words that are complete, without quotes, and the
// one at the cursor. It expands nothing. isFile reports that the word is where a redirection goes.
func splitBash(line string) (words []string, current bashWord, isFile bool) {
	for i := range len(line) {
		b := line[i]
		ends := !current.isEscaped() && current.open() == 0 && strings.IndexByte(" \t\n;|&()<>", b) >= 0
		if !ends {
			current.add(b)
			continue
		}
		if len(current.bytes) > 0 {
			if !isFile {
				words = append(words, current.text)
			}
			isFile = false
		}
		current = bashWord{}
		isFile = isFile || b == '<' || b == '>'
	}
	return words, current, isFile
}

// open returns the quote that is open at the end of the word, or 0.
func (w *bashWord) open() byte {
	if len(w.bytes) == 0 {
		return 0
	}
	return w.bytes[len(w.bytes)-1].open
}

// isEscaped reports whether the word ends in a backslash that quotes what follows.
func (w *bashWord) isEscaped() bool {
	n := len(w.bytes)
	return n > 0 && w.bytes[n-1].value == '\\' && w.bytes[n-1].length < 0
}

// add adds a byte that does not end the word.
func (w *bashWord) add(b byte) {
	open := w.open()
	next := bashByte{value: b, isQuoted: true, open: open}
	switch {
	case w.isEscaped():
		if open == '"' && strings.IndexByte("$`\"\\", b) < 0 {
			w.text += "\\" // within double quotes it quotes only these
		}
		w.text += string([]byte{b})
	case b == '\\' && open != '\'':
		next.length = -1 // what follows decides
		w.bytes = append(w.bytes, next)
		return
	case b == open: // ends the quote
		next.open = 0
	case open == 0 && (b == '\'' || b == '"'):
		next.open = b
	default:
		w.text += string([]byte{b})
		next.isQuoted = open != 0
	}
	next.length = len(w.text)
	w.bytes = append(w.bytes, next)
}

// replaced finds the part of the word that bash replaces. It begins behind the quote that is open or, if none
// is, behind the last character of COMP_WORDBREAKS that is not quoted, or behind the last quote. It returns how
// many bytes before it stay, what text they are, and the quote that is open there, or 0.
func (w *bashWord) replaced(breaks string) (stay int, before string, open byte) {
	open = w.open()
	for i, b := range slices.Backward(w.bytes) {
		begins := b.open != 0 && (i == 0 || w.bytes[i-1].open == 0)
		closes := b.open == 0 && i > 0 && w.bytes[i-1].open != 0
		breaks := open == 0 && !b.isQuoted && strings.IndexByte(breaks, b.value) >= 0
		if begins || closes || breaks {
			return i + 1, w.text[:b.length], open
		}
	}
	return 0, "", 0
}

// plainBash are the ASCII characters that mean nothing to bash within a word.
const plainBash = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_./:=@%+,-"

// insertBash returns the candidate for a text that goes behind a quote that is open, or 0. If it begins with that
// quote, bash takes it for one that replaces the open one, so it needs both.
func insertBash(text string, open byte) string {
	quoted := quoteBash(text, open)
	if open != 0 && strings.HasPrefix(quoted, string(rune(open))) {
		return string(rune(open)) + quoted
	}
	return quoted
}

// quoteBash quotes text so that bash takes it as it is, within the quote that is open where it is inserted. bash
// closes that quote itself.
func quoteBash(text string, open byte) string {
	var b strings.Builder
	for i := range len(text) {
		c := text[i]
		switch {
		case open == '\'' && c == '\'':
			b.WriteString(`'\''`)
		case open == '\'':
			b.WriteByte(c)
		case open == '"' && c == '!': // the history expands it within double quotes
			b.WriteString(`"\!"`)
		case open == '"' && strings.IndexByte("$`\"\\", c) >= 0,
			open == 0 && c < 0x80 && strings.IndexByte(plainBash, c) < 0:
			b.WriteByte('\\')
			b.WriteByte(c)
		default:
			b.WriteByte(c)
		}
	}
	return b.String()
}

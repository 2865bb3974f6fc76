package web

import (
	"bytes"
	"encoding/json"
	"maps"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/pinion-queue/pinion"
	"github.com/pinion-queue/pinion/internal/words"
)

// shown returns text as the page shows it in one line: what a browser would obey or hide, such as a bidirectional
// override, is escaped.
func shown(s string, limit int) string { return words.Printable(words.Clip(s, limit), "") }

// firstLine returns the first line of an error.
func firstLine(text string, limit int) string {
	line, rest, _ := strings.Cut(strings.TrimSpace(text), "\n")
	line = shown(strings.TrimSuffix(line, "\r"), limit)
	if strings.TrimSpace(rest) != "" && !strings.HasSuffix(line, "…") {
		line += " …"
	}
	return line
}

// preview returns the beginning of a job's arguments as JSON.
func preview(job *pinion.Job, limit int) string {
	var b strings.Builder
	isFull := func() bool { return b.Len() > 4*limit } // a character has at most four bytes
	separator := ""
	for _, arg := range job.Args {
		if isFull() {
			break
		}
		b.WriteString(separator)
		writeStart(&b, rawOf(arg), 4*limit)
		separator = ", "
	}
	for _, name := range slices.Sorted(maps.Keys(job.Kwargs)) {
		if isFull() {
			break
		}
		b.WriteString(separator + name + "=")
		writeStart(&b, rawOf(job.Kwargs[name]), 4*limit)
		separator = ", "
	}
	return shown(b.String(), limit)
}

func writeStart(b *strings.Builder, raw []byte, limit int) {
	b.Write(raw[:min(len(raw), limit)])
}

// rawOf returns an argument as JSON. Arguments of stored jobs are that already; Redact may set others.
func rawOf(v any) []byte {
	if raw, ok := v.(json.RawMessage); ok {
		return raw
	}
	raw, err := json.Marshal(v)
	if err != nil {
		raw, _ = json.Marshal(err.Error()) // a string always marshals
	}
	return raw
}

// argsJSON returns the positional arguments as an indented JSON array, or "" if there are none.
func argsJSON(job *pinion.Job) string {
	if len(job.Args) == 0 {
		return ""
	}
	var raws [][]byte
	for _, arg := range job.Args {
		raws = append(raws, rawOf(arg))
	}
	return indented(slices.Concat([]byte("["), bytes.Join(raws, []byte(",")), []byte("]")))
}

// kwargsJSON returns the arguments by name as an indented JSON object, or "" if there are none.
func kwargsJSON(job *pinion.Job) string {
	if len(job.Kwargs) == 0 {
		return ""
	}
	var fields [][]byte
	for _, name := range slices.Sorted(maps.Keys(job.Kwargs)) {
		fields = append(fields, slices.Concat(rawOf(name), []byte(":"), rawOf(job.Kwargs[name])))
	}
	return indented(slices.Concat([]byte("{"), bytes.Join(fields, []byte(",")), []byte("}")))
}

// maxIndented bounds what indentation may add: a megabyte of nested lists would become gigabytes.
const maxIndented = 4 << 20

// indented returns JSON with indentation, unless that would make it huge. Numbers keep every digit.
func indented(raw []byte) string {
	var buf bytes.Buffer
	if indentedSize(raw) > maxIndented || json.Indent(&buf, raw, "", "  ") != nil {
		return words.PrintableJSON(string(raw))
	}
	return words.PrintableJSON(buf.String())
}

// indentedSize returns about how many bytes json.Indent would make of JSON.
func indentedSize(raw []byte) int {
	size, depth := len(raw), 0
	inString, escaped := false, false
	for _, c := range raw {
		switch {
		case escaped:
			escaped = false
		case inString && c == '\\':
			escaped = true
		case c == '"':
			inString = !inString
		case inString:
		case c == '[' || c == '{':
			depth++
			size += 1 + 2*depth
		case c == ']' || c == '}':
			depth--
			size += 1 + 2*depth
		case c == ',':
			size += 1 + 2*depth
		}
		if size > maxIndented {
			break
		}
	}
	return size
}

// moment is a time as the page shows it: relative, with the exact one beside it.
type moment struct {
	Ago   string // "5m ago"
	Age   string // "5m"
	Exact string
}

func momentOf(t time.Time) *moment {
	if t.IsZero() {
		return nil
	}
	ago := words.Ago(t)
	return &moment{ago, strings.TrimSuffix(ago, " ago"), t.UTC().Format("2006-01-02T15:04:05.999999Z07:00")}
}

// address returns a relative address with a query of those values that are not empty.
func address(to string, pairs ...string) string {
	query := make(url.Values)
	for i := 0; i < len(pairs); i += 2 {
		if pairs[i+1] != "" {
			query.Set(pairs[i], pairs[i+1])
		}
	}
	if len(query) == 0 {
		return to
	}
	return to + "?" + query.Encode()
}

// jobAddress returns the address of a job's page. Ids are any text: those that a browser or a proxy would change in a
// path travel in the query.
func jobAddress(root, id string) string {
	isPlain := func(c byte) bool {
		return '0' <= c && c <= '9' || 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || c == '-' || c == '_'
	}
	for i := range len(id) {
		if !isPlain(id[i]) {
			return address(root+"job/", "id", id)
		}
	}
	return root + "job/" + id
}

//go:build unix

package crashlab

import (
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/pinion-queue/pinion"
)

// book is the log that all processes append to. A line is one write with O_APPEND, so the order of the lines is one
// in which things happened: what was written before something began stands before all that came of it.
type book struct {
	file *os.File
	who  int
}

func openBook(path string, who int) (*book, error) {
	file, err := os.OpenFile(path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	return &book{file, who}, err
}

// terminator ends a line that was written in full. A kill may cut a write short, hence also the newline in front.
const terminator = "."

func (b *book) write(verb string, words ...string) {
	line := fmt.Sprintf("\n%d %d %s\t%s\t%s\n", time.Now().UnixMicro(), b.who, verb, strings.Join(words, "\t"), terminator)
	if _, err := b.file.WriteString(line); err != nil {
		fmt.Fprintf(os.Stderr, "child %d: the log: %v\n", b.who, err)
	}
}

// ref names a claim.
func ref(job *pinion.Job) string { return job.ID + ":" + strconv.FormatInt(job.Claim, 10) }

// refs names the claims of jobs, but for those that are lost.
func refs(jobs, lost []*pinion.Job) (refs []string) {
	for _, job := range jobs {
		if !slices.ContainsFunc(lost, func(l *pinion.Job) bool { return l.ID == job.ID && l.Claim == job.Claim }) {
			refs = append(refs, ref(job))
		}
	}
	return refs
}

// line is one line of the log.
type line struct {
	at    int64 // Unix microseconds
	who   int
	verb  string
	words []string
}

func (l line) String() string {
	return fmt.Sprintf("%s child %d: %s %s", time.UnixMicro(l.at).UTC().Format("15:04:05.000000"), l.who, l.verb, strings.Join(l.words, " "))
}

// readBook reads the lines that were written in full.
func readBook(path string) ([]line, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	return parseBook(string(text)), nil
}

func parseBook(text string) (lines []line) {
	for s := range strings.Lines(text) {
		words := strings.Split(strings.TrimSuffix(s, "\n"), "\t")
		head := strings.SplitN(words[0], " ", 3)
		if len(head) != 3 || words[len(words)-1] != terminator {
			continue
		}
		l := line{verb: head[2], words: slices.DeleteFunc(words[1:len(words)-1], func(w string) bool { return w == "" })}
		l.at, _ = strconv.ParseInt(head[0], 10, 64)
		l.who, _ = strconv.Atoi(head[1])
		lines = append(lines, l)
	}
	return lines
}

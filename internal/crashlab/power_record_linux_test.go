package crashlab_test

import (
	"bytes"
	"context"
	"database/sql"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/pinion-queue/pinion"
)

// powerChild is the environment variable that makes the test binary the recorded process: "SYNCHRONOUS
// FOLDER".
const powerChild = "PINION_TEST_POWER"

// This is not in TestMain because other operating systems have TestMain, too.
func init() {
	value := os.Getenv(powerChild)
	if value == "" {
		return
	}
	synchronous, dir, _ := strings.Cut(value, " ")
	if err := runRecordedProcess(context.Background(), synchronous, dir); err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	os.Exit(0)
}

// ---- The recorded process ----

// runRecordedProcess opens a file three times, of which only the first time makes it, and enqueues jobs.
// Meanwhile another connection moves what is in the -wal into the file.
func runRecordedProcess(ctx context.Context, synchronous, dir string) error {
	path := filepath.Join(dir, "q.db")
	acks, err := os.OpenFile(filepath.Join(dir, "acks"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	for range 3 {
		s, err := pinion.OpenSQLite(ctx, path, &pinion.SQLiteOptions{Synchronous: synchronous})
		if err != nil {
			return err
		}
		db, err := sql.Open("sqlite", path+"?_pragma=busy_timeout(5000)&_pragma=synchronous("+synchronous+")")
		if err != nil {
			return err
		}
		for i, checkpoint := range []string{"PASSIVE", "RESTART", "TRUNCATE", ""} {
			if err := enqueueInAllWays(ctx, s, acks, 9000*i); err != nil {
				return err
			}
			if checkpoint == "" {
				continue
			}
			if _, err := db.ExecContext(ctx, "PRAGMA wal_checkpoint("+checkpoint+")"); err != nil {
				return err
			}
		}
		if err := errors.Join(db.Close(), s.Close()); err != nil {
			return err
		}
	}
	return nil
}

// enqueueInAllWays enqueues jobs from four goroutines at once, then in a batch, then one with a large
// argument.
func enqueueInAllWays(ctx context.Context, s pinion.Storage, acks *os.File, largeSize int) error {
	var producers sync.WaitGroup
	errs := make([]error, 4)
	for i := range errs {
		producers.Go(func() {
			for range 3 {
				if err := enqueueAndAcknowledge(ctx, s, acks, 1, 10); err != nil {
					errs[i] = err
					return
				}
			}
		})
	}
	producers.Wait()
	if err := errors.Join(errs...); err != nil {
		return err
	}
	if err := enqueueAndAcknowledge(ctx, s, acks, 12, 300); err != nil {
		return err
	}
	return enqueueAndAcknowledge(ctx, s, acks, 1, largeSize)
}

// enqueueAndAcknowledge enqueues n jobs with an argument of the given size, and writes their ids to the file
// of acknowledgements after Enqueue has returned.
func enqueueAndAcknowledge(ctx context.Context, s pinion.Storage, acks *os.File, n, size int) error {
	jobs := make([]*pinion.Job, n)
	for i := range jobs {
		jobs[i] = pinion.NewJob("job", strings.Repeat("x", size))
	}
	if err := s.Enqueue(ctx, jobs...); err != nil {
		return err
	}
	var ids strings.Builder
	for _, job := range jobs {
		fmt.Fprintln(&ids, job.ID)
	}
	_, err := acks.WriteString(ids.String())
	return err
}

// ---- The record ----

// fileCall is a call of the operating system that succeeded, on a file in the recorded folder.
//
// Calls of several threads overlap. A call takes effect when it returns, so the order of the record is the
// order in which calls returned. But an fsync covers only what had returned when the fsync began.
type fileCall struct {
	index  int    // in the record
	began  int    // how many calls of the record had returned when this one began
	verb   string // create, write, truncate, sync, remove, or ack for a write to the file of acknowledgements
	name   string // of the file, or folder
	offset int64  // where a write begins, or the size after a truncation
	data   []byte // of a write
}

// record runs the recorded process under strace and returns its calls.
func record(t *testing.T, synchronous string) []fileCall {
	t.Helper()
	strace, err := exec.LookPath("strace")
	if err != nil {
		cannotTrace(t, err)
	}
	trace := filepath.Join(t.TempDir(), "trace")
	args := []string{
		"-f",  // all threads
		"-y",  // the path of each file descriptor
		"-xx", // all text in hexadecimal
		"-s", "1000000",
		"-o", trace,
		"-e", "trace=openat,open,creat,write,writev,pwrite64,pwritev,pwritev2,truncate,ftruncate,fallocate," +
			"fsync,fdatasync,sync_file_range,rename,renameat,renameat2,link,linkat,unlink,unlinkat",
	}
	out, err := exec.CommandContext(t.Context(), strace, append(args, "true")...).CombinedOutput()
	if err != nil {
		cannotTrace(t, fmt.Errorf("%w: %s", err, bytes.TrimSpace(out)))
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	dir, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), strace, append(args, self)...)
	cmd.Env = append(os.Environ(), powerChild+"="+synchronous+" "+dir)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("the recorded process: %v\n%s", err, out)
	}
	return parseTrace(t, read(t, trace), dir)
}

// cannotTrace skips the test, unless nothing may be lacking, as in .ci/run.
func cannotTrace(t *testing.T, err error) {
	t.Helper()
	if os.Getenv("PINION_TEST_ALL") != "" {
		t.Fatalf("strace cannot run here: %v", err)
	}
	t.Skipf("strace cannot run here: %v", err)
}

// parseTrace returns the calls in strace's output that succeeded on files in a folder. A call that it does
// not know fails the test, so that it overlooks nothing that the disk would have seen.
func parseTrace(t *testing.T, trace, dir string) []fileCall {
	t.Helper()
	var calls []fileCall
	unfinished := make(map[string]traceLine) // by thread
	for text := range strings.Lines(trace) {
		thread, text, _ := strings.Cut(strings.TrimSuffix(text, "\n"), " ")
		line := traceLine{text: strings.TrimLeft(text, " "), began: len(calls)}
		if beginning, ok := strings.CutSuffix(line.text, " <unfinished ...>"); ok {
			line.text = beginning
			unfinished[thread] = line
			continue
		}
		if resumed, ok := strings.CutPrefix(line.text, "<... "); ok {
			_, ending, _ := strings.Cut(resumed, " resumed>")
			line = unfinished[thread]
			line.text += ending
		}
		call, ok := line.parse(t, dir)
		if ok {
			call.index = len(calls)
			calls = append(calls, call)
		}
	}
	return calls
}

// traceLine is a line of strace's output, put together from two if another thread came between.
type traceLine struct {
	text  string // such as: pwrite64(3</path/q.db>, "\x00…", 4096, 8192) = 4096
	began int    // see fileCall
}

// parse returns the call of a line. It is not ok if the line is no call, if the call failed, or if it is
// about a file that does not matter.
func (line traceLine) parse(t *testing.T, dir string) (call fileCall, ok bool) {
	t.Helper()
	verb, args, result, ok := line.split()
	if !ok || strings.HasPrefix(result, "-") { // -1 is a failure
		return fileCall{}, false
	}
	unknown := func() { t.Fatalf("the record has a call that this test does not know: %.200s", line.text) }
	var path, rest string
	switch verb {
	case "openat", "open", "creat", "unlink", "unlinkat":
		path, rest = pathArgument(t, args)
	case "write", "pwrite64", "ftruncate", "fsync", "fdatasync":
		path, rest = pathOfDescriptor(t, args)
	default:
		if strings.Contains(line.text, inHexadecimal(dir)) {
			unknown()
		}
		return fileCall{}, false
	}
	name, ok := nameIn(dir, path)
	if !ok || strings.HasSuffix(name, "-shm") {
		return fileCall{}, false
	}
	call = fileCall{name: name, began: line.began}
	switch verb {
	case "openat", "open", "creat":
		if strings.Contains(args, "O_TRUNC") {
			unknown()
		}
		call.verb = "create"
		return call, strings.Contains(args, "O_CREAT")
	case "write", "pwrite64":
		call.verb = "write"
		call.data, _ = textIn(t, rest, `"`, `"`)
		if strconv.Itoa(len(call.data)) != result {
			t.Fatalf("the record does not have all %s bytes of a write: %.200s", result, line.text)
		}
		switch {
		case name == "acks":
			call.verb = "ack"
		case verb == "pwrite64":
			call.offset = lastNumber(args)
		default: // where it writes depends on the calls before
			unknown()
		}
	case "ftruncate":
		call.verb = "truncate"
		call.offset = lastNumber(args)
	case "fsync", "fdatasync":
		call.verb = "sync"
	case "unlink", "unlinkat":
		call.verb = "remove"
	}
	return call, true
}

// split splits a line into the parts of verb(args) = result.
func (line traceLine) split() (verb, args, result string, ok bool) {
	verb, rest, ok := strings.Cut(line.text, "(")
	end := strings.LastIndex(rest, ") ")
	if !ok || end < 0 {
		return "", "", "", false // a signal, or the end of a thread
	}
	result, ok = strings.CutPrefix(strings.TrimLeft(rest[end+2:], " "), "= ")
	return verb, rest[:end], result, ok
}

// pathArgument returns the path that a call takes, and the arguments behind it. Some calls take the
// descriptor of a folder before the path, as in: AT_FDCWD</folder>, "/path".
func pathArgument(t *testing.T, args string) (path, rest string) {
	t.Helper()
	_, behindFolder, ok := strings.Cut(args, `>, `)
	if ok {
		args = behindFolder
	}
	text, rest := textIn(t, args, `"`, `"`)
	return string(text), rest
}

// pathOfDescriptor returns the path of the descriptor that a call takes, and the arguments behind it. It
// stands as in: 3</path>.
func pathOfDescriptor(t *testing.T, args string) (path, rest string) {
	t.Helper()
	text, rest := textIn(t, args, `<`, `>`)
	return string(text), rest
}

// nameIn returns the name of a file in a folder. It is not ok if the file is elsewhere.
func nameIn(dir, path string) (name string, ok bool) {
	if path == dir {
		return folder, true
	}
	return strings.CutPrefix(path, dir+"/")
}

// textIn decodes the first text between two marks, which strace -xx writes in hexadecimal, and returns what
// comes after it.
func textIn(t *testing.T, args, opening, closing string) (text []byte, rest string) {
	t.Helper()
	_, rest, ok := strings.Cut(args, opening)
	if !ok {
		return nil, args
	}
	encoded, rest, _ := strings.Cut(rest, closing)
	text, err := hex.DecodeString(strings.ReplaceAll(encoded, `\x`, ""))
	if err != nil {
		t.Fatalf("the record has %.100q, want hexadecimal digits", encoded)
	}
	return text, rest
}

// inHexadecimal writes text as strace -xx does.
func inHexadecimal(text string) string {
	var b strings.Builder
	for _, c := range []byte(text) {
		fmt.Fprintf(&b, `\x%02x`, c)
	}
	return b.String()
}

// lastNumber returns the last argument of a call.
func lastNumber(args string) int64 {
	n, _ := strconv.ParseInt(args[strings.LastIndex(args, " ")+1:], 10, 64)
	return n
}

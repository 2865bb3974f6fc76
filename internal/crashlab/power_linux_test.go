package crashlab_test

import (
	"bytes"
	"cmp"
	"context"
	"database/sql"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/pinion-queue/pinion"
)

// The loss of power, by a recording of what the operating system was asked to write.
//
// The driver does not let its file operations be wrapped without a further dependency (its package vfs only reads),
// so a child that enqueues runs under strace, which writes down its calls: every write with its bytes, every fsync,
// and every acknowledgement, a write to a file as well. From that record the disk is built as a power failure after an
// acknowledgement may have left it: with all that was fsynced before, and of the rest nothing, everything, or a
// random part, each write whole or torn into sectors. A new file is there if its folder was fsynced, a deleted one
// is gone or not. Each such disk is opened, and every acknowledged job must be on it.
//
// What this cannot show: a drive that says that it has written what is still in its cache, a write that damages what is
// beside it, a file system that keeps less than it promises, and other file systems' calls than those of Linux.
// The shared memory of the -shm file is no part of the disk: its file is there with random bytes, or not at all.

const (
	asPowered = "PINION_TEST_POWER" // makes the test binary the child: "synchronous folder"
	mustTrace = "PINION_TEST_TRACE" // set: that strace cannot run is a failure
)

func init() {
	if synchronous, dir, found := strings.Cut(os.Getenv(asPowered), " "); found {
		if err := enqueuePowered(context.Background(), synchronous, dir); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		os.Exit(0)
	}
}

// enqueuePowered enqueues one job after another, some at once, some in batches, some large, on a new file and on one that
// has been closed, while the log is taken into the file now and then by another connection.
func enqueuePowered(ctx context.Context, synchronous, dir string) error {
	acks, err := os.OpenFile(filepath.Join(dir, "acks"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	path := filepath.Join(dir, "q.db")
	enqueue := func(s pinion.Storage, n, size int) error {
		jobs := make([]*pinion.Job, n)
		for i := range jobs {
			jobs[i] = pinion.NewJob("job", strings.Repeat("x", size))
		}
		if err := s.Enqueue(ctx, jobs...); err != nil {
			return err
		}
		var line strings.Builder
		for _, job := range jobs {
			fmt.Fprintln(&line, job.ID)
		}
		_, err := acks.WriteString(line.String())
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
		for i, mode := range []string{"PASSIVE", "RESTART", "TRUNCATE", ""} {
			var producers sync.WaitGroup
			failed := make(chan error, 4)
			for range cap(failed) {
				producers.Go(func() {
					for range 3 {
						if err := enqueue(s, 1, 10); err != nil {
							failed <- err
							return
						}
					}
				})
			}
			producers.Wait()
			close(failed)
			if err := errors.Join(<-failed, enqueue(s, 12, 300), enqueue(s, 1, 9000*i)); err != nil {
				return err
			}
			if mode != "" {
				if _, err := db.ExecContext(ctx, "PRAGMA wal_checkpoint("+mode+")"); err != nil {
					return err
				}
			}
		}
		if err := errors.Join(db.Close(), s.Close()); err != nil {
			return err
		}
	}
	return nil
}

// fileCall is one recorded call on a file. Calls of several threads overlap: it takes effect where it returned, but an
// fsync covers what had returned when it began.
type fileCall struct {
	verb  string // create, write, truncate, sync, remove, ack; others do nothing
	name  string // of the file, in the folder; "" is the folder
	at    int64
	data  []byte
	began int // how many calls had returned when it began
}

// record runs the child under strace.
func record(t *testing.T, synchronous string) []fileCall {
	t.Helper()
	cannot := func(why any) {
		if os.Getenv(mustTrace) != "" {
			t.Fatalf("strace cannot run here: %v", why)
		}
		t.Skipf("strace cannot run here: %v", why)
	}
	strace, err := exec.LookPath("strace")
	if err != nil {
		cannot(err)
	}
	trace := filepath.Join(t.TempDir(), "trace")
	base := []string{"-f", "-y", "-xx", "-s", "1000000", "-o", trace, "-e",
		"trace=openat,open,creat,write,writev,pwrite64,pwritev,pwritev2,truncate,ftruncate,fallocate,fsync,fdatasync,sync_file_range,rename,renameat,renameat2,link,linkat,unlink,unlinkat"}
	if out, err := exec.CommandContext(t.Context(), strace, append(base, "true")...).CombinedOutput(); err != nil {
		cannot(fmt.Sprintf("%v: %s", err, bytes.TrimSpace(out)))
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	dir, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), strace, append(base, self)...)
	cmd.Env = append(os.Environ(), asPowered+"="+synchronous+" "+dir)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("the child under strace: %v\n%s", err, out)
	}
	return parseTrace(t, read(t, trace), dir)
}

// bytesOf returns the bytes of the first text in an argument list, as strace -xx writes them, and what comes after it.
func bytesOf(t *testing.T, args, opening, closing string) (text []byte, rest string, found bool) {
	t.Helper()
	_, rest, found = strings.Cut(args, opening)
	if !found {
		return nil, args, false
	}
	quoted, rest, _ := strings.Cut(rest, closing)
	text, err := hex.DecodeString(strings.ReplaceAll(quoted, `\x`, ""))
	if err != nil {
		t.Fatalf("the record has %.100q, which is not hexadecimal", quoted)
	}
	return text, rest, true
}

// parseTrace finds in strace's output the calls on the files of a folder. What it does not know is an error, so that
// nothing is passed over that the disk would have seen.
func parseTrace(t *testing.T, trace, dir string) (calls []fileCall) {
	t.Helper()
	type begun struct {
		args string
		at   int
	}
	open := make(map[string]begun)
	for line := range strings.Lines(trace) {
		thread, line, _ := strings.Cut(strings.TrimSuffix(line, "\n"), " ")
		line = strings.TrimLeft(line, " ")
		began := len(calls)
		if args, unfinished := strings.CutSuffix(line, " <unfinished ...>"); unfinished {
			open[thread] = begun{args, began}
			continue
		}
		if resumed, ok := strings.CutPrefix(line, "<... "); ok {
			_, after, _ := strings.Cut(resumed, " resumed>")
			line, began = open[thread].args+after, open[thread].at
		}
		verb, args, isCall := strings.Cut(line, "(")
		end := strings.LastIndex(args, ") ")
		if !isCall || end < 0 {
			continue // a signal, or the end of a thread
		}
		result, isCall := strings.CutPrefix(strings.TrimLeft(args[end+2:], " "), "= ")
		if args = args[:end]; !isCall || strings.HasPrefix(result, "-") {
			continue
		}
		call := fileCall{began: began}
		path, rest, ok := bytesOf(t, args, `<`, `>`)
		if !ok || strings.Contains(verb, "open") || strings.HasPrefix(verb, "unlink") {
			_, rest, _ = strings.Cut(args, `>, `)
			path, rest, _ = bytesOf(t, cmp.Or(rest, args), `"`, `"`)
		}
		if string(path) == dir {
			call.name = ""
		} else if call.name, ok = strings.CutPrefix(string(path), dir+"/"); !ok || strings.HasSuffix(call.name, "-shm") {
			continue
		}
		last := args[strings.LastIndex(args, " ")+1:]
		switch verb {
		case "openat", "open", "creat":
			if strings.Contains(args, "O_TRUNC") {
				t.Fatalf("the record has a call that this test does not know: %.200s", line)
			}
			if !strings.Contains(args, "O_CREAT") {
				continue
			}
			call.verb = "create"
		case "write", "pwrite64":
			call.verb = "write"
			if call.data, _, _ = bytesOf(t, rest, `"`, `"`); strconv.Itoa(len(call.data)) != result {
				t.Fatalf("the record does not have the %s bytes of a write: %.200s", result, line)
			}
			if call.name == "acks" {
				call.verb = "ack"
			} else if verb == "write" {
				t.Fatalf("the record has a call that this test does not know: %.200s", line)
			} else {
				call.at, _ = strconv.ParseInt(last, 10, 64)
			}
		case "ftruncate":
			call.verb = "truncate"
			call.at, _ = strconv.ParseInt(last, 10, 64)
		case "fsync", "fdatasync":
			call.verb = "sync"
		case "unlink", "unlinkat":
			call.verb = "remove"
		default:
			t.Fatalf("the record has a call that this test does not know: %.200s", line)
		}
		calls = append(calls, call)
	}
	return calls
}

// onDisk is a file as a failure may find it: what is certain, and the calls since, of which nobody knows.
type onDisk struct {
	certain []byte
	since   []fileCall
}

// loss says what becomes of the calls that no fsync has covered.
type loss struct {
	name   string
	keep   func() bool
	sector int // writes are kept by parts of so many bytes; 0: whole
}

func losses(rnd *rand.Rand) []loss {
	coin := func() bool { return rnd.IntN(2) == 0 }
	return []loss{
		{"none is kept", func() bool { return false }, 0},
		{"all are kept", func() bool { return true }, 0},
		{"some are kept", coin, 0},
		{"some pages are kept", coin, 4096},
		{"some sectors are kept", coin, 512},
	}
}

func apply(content []byte, c fileCall, l loss) []byte {
	if c.verb == "truncate" {
		if l.keep() {
			content = append(content, make([]byte, max(int(c.at)-len(content), 0))...)[:c.at]
		}
		return content
	}
	at := int(c.at)
	for data := c.data; len(data) > 0; {
		n := len(data)
		if l.sector > 0 {
			n = min(n, l.sector-at%l.sector)
		}
		if l.keep() {
			content = append(content, make([]byte, max(at+n-len(content), 0))...)
			copy(content[at:], data[:n])
		}
		at, data = at+n, data[n:]
	}
	return content
}

// everything is the loss of nothing.
var everything = loss{"", func() bool { return true }, 0}

// disk is the model of the file system after a number of calls.
type disk struct {
	calls []fileCall
	names map[string]*onDisk // as the running system sees them
	sure  map[string]*onDisk // as they were when the folder was last fsynced
	acked []string
}

func newDisk(calls []fileCall) *disk {
	return &disk{calls: calls, names: make(map[string]*onDisk), sure: make(map[string]*onDisk)}
}

// step makes the call with the number n.
func (d *disk) step(n int) {
	c := d.calls[n]
	c.began = min(c.began, n)
	f := d.names[c.name]
	switch c.verb {
	case "ack":
		d.acked = append(d.acked, strings.Fields(string(c.data))...)
	case "create":
		if f == nil {
			d.names[c.name] = new(onDisk)
		}
	case "write", "truncate":
		c.began = n // from here on: its place in the order
		f.since = append(f.since, c)
	case "remove":
		delete(d.names, c.name)
	case "sync":
		if c.name == "" {
			// Names that came or went while it ran may be covered or not: they are taken as not covered only if one did.
			for _, other := range d.calls[c.began:n] {
				if other.verb == "create" || other.verb == "remove" {
					return
				}
			}
			d.sure = maps.Clone(d.names)
			return
		}
		covered := 0
		for ; covered < len(f.since) && f.since[covered].began < c.began; covered++ {
			f.certain = apply(f.certain, f.since[covered], everything)
		}
		f.since = f.since[covered:]
	}
}

// fail builds the folder that the failure leaves.
func (d *disk) fail(dir string, l loss, rnd *rand.Rand) error {
	names := maps.Clone(d.sure)
	for name, f := range d.names {
		if l.keep() {
			names[name] = f
		}
	}
	for name := range d.sure {
		if d.names[name] == nil && l.keep() {
			delete(names, name)
		}
	}
	for name, f := range names {
		content := slices.Clone(f.certain)
		for _, c := range f.since {
			content = apply(content, c, l)
		}
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o600); err != nil {
			return err
		}
	}
	if rnd.IntN(2) == 0 {
		junk := make([]byte, 32768)
		for i := range junk {
			junk[i] = byte(rnd.Uint32())
		}
		return os.WriteFile(filepath.Join(dir, "q.db-shm"), junk, 0o600)
	}
	return nil
}

// missing opens what a failure has left and returns the acknowledged jobs that are not there.
func missing(ctx context.Context, dir string, acked []string) ([]string, error) {
	path := filepath.Join(dir, "q.db")
	s, err := pinion.OpenSQLite(ctx, path, nil)
	if err != nil {
		return nil, err
	}
	defer s.Close()
	there := make(map[string]bool)
	for job, err := range s.Jobs(ctx, pinion.Filter{}) {
		if err != nil {
			return nil, err
		}
		there[job.ID] = true
	}
	return slices.DeleteFunc(slices.Clone(acked), func(id string) bool { return there[id] }), nil
}

// failures lets the power fail, about so many times as are wanted, after the first acknowledgement and at random behind any
// recorded call; calls that more hangs on than on a write are four times as likely. It returns how often, and tells of each
// failure after which something acknowledged is missing or the file is not sound.
func failures(t *testing.T, calls []fileCall, wanted int, lost func(text string)) (points int) {
	t.Helper()
	rnd := rand.New(rand.NewPCG(seed(t), 5))
	d := newDisk(calls)
	kinds := losses(rnd)
	dir := filepath.Join(t.TempDir(), "disk")
	share := float64(wanted) / float64(len(calls)*len(kinds))
	for n, c := range calls {
		d.step(n)
		if len(d.acked) == 0 {
			continue // nothing is promised yet
		}
		for _, l := range kinds {
			weight := share
			if c.verb == "ack" || c.name == "" || c.verb == "remove" || c.verb == "truncate" {
				weight *= 4
			}
			if rnd.Float64() >= weight {
				continue
			}
			points++
			if err := errors.Join(os.RemoveAll(dir), os.Mkdir(dir, 0o700), d.fail(dir, l, rnd)); err != nil {
				t.Fatal(err)
			}
			gone, err := missing(t.Context(), dir, d.acked)
			if err == nil && len(gone) == 0 {
				if bad := unsound(t, filepath.Join(dir, "q.db")); bad != "" {
					err = errors.New(bad)
				}
			}
			if err != nil || len(gone) > 0 {
				lost(fmt.Sprintf("the power fails after call %d (%s %q), of what was not fsynced %s: of %d acknowledged jobs %d are missing, %v",
					n, c.verb, c.name, l.name, len(d.acked), len(gone), err))
			}
		}
	}
	return points
}

// unsound returns what the integrity check says, or "". A check that cannot even begin says so as well.
func unsound(t *testing.T, path string) string {
	t.Helper()
	db, err := sql.Open("sqlite", path+"?_pragma=busy_timeout(5000)")
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	said := ""
	if err := db.QueryRow("PRAGMA integrity_check").Scan(&said); err != nil || said != "ok" {
		return fmt.Sprint("PRAGMA integrity_check says ", said, err)
	}
	return ""
}

func TestAcknowledgedJobsSurviveALossOfPower(t *testing.T) {
	calls := record(t, "FULL")
	points := failures(t, calls, *powerPoints, func(text string) { t.Error(text) })
	t.Logf("%d recorded calls, %d losses of power, 0 lost is wanted", len(calls), points)
}

// So that the test above can fail: where one kind of fsync is struck out of the record, or with NORMAL, of which no more is
// promised, it finds jobs that are lost.
func TestALossOfPowerIsSeenWhereAnFsyncIsMissing(t *testing.T) {
	wantLosses := func(t *testing.T, calls []fileCall) {
		n := 0
		points := failures(t, calls, *powerPoints/3, func(text string) {
			if n++; n == 1 {
				t.Log(text)
			}
		})
		if t.Logf("%d recorded calls, %d losses of power, jobs lost in %d", len(calls), points, n); n == 0 {
			t.Error("nothing was lost: this laboratory cannot see a loss")
		}
	}
	calls := record(t, "FULL")
	for _, name := range []string{"", "q.db", "q.db-wal"} {
		t.Run("of "+cmp.Or(name, "the folder"), func(t *testing.T) {
			struck := slices.Clone(calls)
			for i, c := range struck {
				if c.verb == "sync" && c.name == name {
					struck[i].verb = "nothing"
				}
			}
			wantLosses(t, struck)
		})
	}
	t.Run("with NORMAL", func(t *testing.T) { wantLosses(t, record(t, "NORMAL")) })
}

package cli

import (
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/pinion-queue/pinion"
	"github.com/pinion-queue/pinion/internal/rules"
)

// The logs of programs: what the attempts of a job printed. Each job has a directory, and each attempt a file
// in it, N.log, which is written as the output comes. Whoever removes a job with this command removes them.

const (
	logsVariable = "PINION_LOGS"

	// A log has the first logLimit bytes of the output, and of what follows the last logTail.
	logLimit = 1 << 20
	logTail  = 64 << 10
)

// logsFlag declares the flag that says where logs are.
func (c *call) logsFlag() {
	c.flags.StringVar(&c.logsDir, "logs-dir", "", "where logs are, `DIR` [$PINION_LOGS or DATABASE.logs]")
}

// logsOf returns the directory that has the logs of the queue. A directory that is named may have the logs of
// several queues, so each has its own in there.
func (c *call) logsOf() (dir string, err error) {
	base := c.logsDir
	if base == "" {
		base = os.Getenv(logsVariable)
	}
	scheme := rules.SchemeOf(c.db)
	if scheme != "" && !strings.EqualFold(scheme, "sqlite:") {
		if base == "" {
			return "", usagef("a database that is not a file has no place for logs; name one with --logs-dir")
		}
		return filepath.Join(base, ownName(strings.TrimSuffix(scheme, ":"), c.db)), nil
	}
	path := c.db[len(scheme):]
	if file, err := filepath.EvalSymlinks(path); err == nil { // whatever name the queue is given
		path = file
	}
	if base == "" {
		return path + ".logs", nil
	}
	whole, err := filepath.Abs(path)
	return filepath.Join(base, ownName(filepath.Base(path), whole)), err
}

// ownName returns a name for the logs of the queue with this address that no other queue has.
func ownName(name, address string) string {
	sum := sha256.Sum256([]byte(address))
	return fmt.Sprintf("%s.%x.logs", name, sum[:4])
}

// ---- Writing ----

// jobLogs are the logs of a queue. A nil one keeps none.
type jobLogs struct {
	dir string
	log *slog.Logger
}

// newJobLogs makes the directory, if it is missing.
func newJobLogs(dir string, log *slog.Logger) (*jobLogs, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("cannot keep logs: %w", err)
	}
	return &jobLogs{dir, log}, nil
}

// begin returns the log of an attempt that begins. The number of an attempt is not new after a refund or a
// replay; then the log goes on. A job runs whether or not its log can be written.
func (l *jobLogs) begin(job *pinion.Job) *attemptLog {
	if l == nil {
		return nil
	}
	dir := filepath.Join(l.dir, logFolder(job.ID))
	err := os.MkdirAll(dir, 0o700)
	var file *os.File
	if err == nil {
		name := filepath.Join(dir, fmt.Sprintf("%d.log", job.Attempts))
		file, err = os.OpenFile(name, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	}
	if err != nil {
		l.log.Warn("cannot keep the log of a job", "job", job.ID, "error", err)
		return nil
	}
	a := &attemptLog{logs: l, job: job.ID, file: file, room: logLimit, rest: tail{limit: logTail}}
	info, err := file.Stat()
	if err == nil && info.Size() > 0 {
		a.room = max(0, logLimit-int(info.Size()))
		a.say("attempt %d began again at %s", job.Attempts, time.Now().Format(time.RFC3339))
	}
	return a
}

// attemptLog is the log of one attempt: both streams of its program, as they come.
type attemptLog struct {
	logs *jobLogs
	job  string // its id

	mu   sync.Mutex // guards the rest
	file *os.File
	room int   // bytes that the file still takes
	rest tail  // of what has no room
	err  error // the first error of writing
}

// Write implements [io.Writer]. It never fails, because the program would get SIGPIPE then.
func (a *attemptLog) Write(text []byte) (int, error) {
	if a == nil {
		return len(text), nil
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	kept := min(len(text), a.room)
	a.room -= kept
	a.writeLocked(text[:kept])
	a.rest.Write(text[kept:])
	return len(text), nil
}

func (a *attemptLog) writeLocked(text []byte) {
	if a.err == nil && len(text) > 0 {
		_, a.err = a.file.Write(text)
	}
}

// say writes a line of Pinion's own.
func (a *attemptLog) say(format string, args ...any) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.writeLocked(fmt.Appendf(nil, "\n[pinion: "+format+"]\n", args...))
}

// end ends the log when the attempt has ended. Of output that had no room it writes the last part.
func (a *attemptLog) end() {
	if a == nil {
		return
	}
	a.rest.trim()
	if a.rest.dropped > 0 {
		a.say("%d bytes are left out here", a.rest.dropped)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.writeLocked(a.rest.text)
	err := errors.Join(a.err, a.file.Close())
	if err != nil {
		a.logs.log.Warn("the log of a job is not complete", "job", a.job, "error", err)
	}
}

// ---- Names ----

// logFolder returns the name of the directory of a job's logs. An id may be any text, such as "..".
func logFolder(id string) string {
	folder := strings.ReplaceAll(url.QueryEscape(id), ".", "%2E")
	if devicePattern().MatchString(folder) {
		return fmt.Sprintf("%%%02X%s", folder[0], folder[1:])
	}
	return folder
}

// devicePattern matches the names of devices, which Windows has in every directory.
var devicePattern = lazy(`(?i)^(con|prn|aux|nul|(com|lpt)[0-9])$`)

var logPattern = lazy(`^(\d+)\.log$`)

// attemptFile is the log of an attempt.
type attemptFile struct {
	attempt int
	name    string // the absolute path
}

// logsOfJob returns the logs of a job's attempts, by the time at which they were last written: after a replay
// the attempts are numbered from 1 again. A job may have none.
func logsOfJob(dir, id string) (files []attemptFile, err error) {
	dir = filepath.Join(dir, logFolder(id))
	entries, err := readDir(dir)
	written := make(map[int]time.Time)
	for _, entry := range entries {
		found := logPattern().FindStringSubmatch(entry.Name())
		if found == nil {
			continue
		}
		n, numberErr := strconv.Atoi(found[1])
		info, infoErr := entry.Info()
		if numberErr != nil || infoErr != nil { // it is no number, or has just been removed
			continue
		}
		files = append(files, attemptFile{n, filepath.Join(dir, entry.Name())})
		written[n] = info.ModTime()
	}
	slices.SortFunc(files, func(a, b attemptFile) int {
		return cmp.Or(written[a.attempt].Compare(written[b.attempt]), cmp.Compare(a.attempt, b.attempt))
	})
	return files, err
}

// readDir returns what is in a directory. One that does not exist is empty.
func readDir(dir string) ([]os.DirEntry, error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return entries, err
}

// ---- Removing ----

// sweepLogs removes the logs of jobs that the queue no longer has.
func sweepLogs(ctx context.Context, storage pinion.Inspector, dir string) error {
	entries, err := readDir(dir)
	if err != nil {
		return err
	}
	var ids []string
	for _, entry := range entries {
		id, err := url.QueryUnescape(entry.Name())
		if err == nil && logFolder(id) == entry.Name() && entry.IsDir() {
			ids = append(ids, id)
		}
	}
	const atOnce = 500
	var errs []error
	for some := range slices.Chunk(ids, atOnce) {
		gone, err := missingJobs(ctx, storage, some)
		if err != nil {
			return err
		}
		for _, id := range gone {
			errs = append(errs, removeLogs(dir, id))
		}
	}
	return errors.Join(errs...)
}

// missingJobs returns those of the ids that are of no job and no dead letter.
func missingJobs(ctx context.Context, storage pinion.Inspector, ids []string) (missing []string, err error) {
	there := make(map[string]bool)
	filter := pinion.Filter{IDs: ids}
	for _, jobs := range []iter.Seq2[*pinion.Job, error]{storage.Jobs(ctx, filter), storage.DeadLetters(ctx, filter)} {
		for job, err := range jobs {
			if err != nil {
				return nil, err
			}
			there[job.ID] = true
		}
	}
	for _, id := range ids {
		if !there[id] {
			missing = append(missing, id)
		}
	}
	return missing, nil
}

// removeLogs removes the logs of a job, and their directory if there is nothing else in it.
func removeLogs(dir, id string) error {
	files, err := logsOfJob(dir, id)
	if err != nil {
		return err
	}
	var errs []error
	for _, f := range files {
		errs = append(errs, os.Remove(f.name))
	}
	if len(files) > 0 {
		os.Remove(filepath.Join(dir, logFolder(id)))
	}
	return errors.Join(errs...)
}

// sweepEvery is the time between two looks of a worker for logs of jobs that are gone.
const sweepEvery = 10 * time.Minute

// sweepRegularly removes the logs of jobs that are gone, now and again until ctx ends. Workers prune jobs.
func sweepRegularly(ctx context.Context, storage pinion.Inspector, dir string, log *slog.Logger) {
	again := time.NewTicker(sweepEvery)
	defer again.Stop()
	for {
		err := sweepLogs(ctx, storage, dir)
		if err != nil && ctx.Err() == nil {
			log.Warn("cannot remove the logs of jobs that are gone", "directory", dir, "error", err)
		}
		select {
		case <-again.C:
		case <-ctx.Done():
			return
		}
	}
}

// sweepAfter removes the logs of jobs that a command has just deleted. The command has done its work by then.
func (c *call) sweepAfter(ctx context.Context, storage pinion.Inspector) error {
	dir, err := c.logsOf()
	if err != nil {
		return nil // there is no place for logs
	}
	if err := sweepLogs(ctx, storage, dir); err != nil {
		return fmt.Errorf("that is done, but not all of their logs in %s could be removed: %w; "+
			"check who owns them", dir, err)
	}
	return nil
}

// ---- The command ----

const logsDetail = `
It prints what the program of a job has printed, to standard output and standard
error, if its worker was started with --logs. The --attempt is the latest unless N
names another. --follow goes on until the job has ended, through its retries.

To a file or a pipe it prints every byte as it is. To a terminal it prints what the
terminal might obey as escapes, as in \x1b[2J.

A log has the first MiB of an attempt and, of what follows, the last 64 KiB.
Logs are files in the directory DATABASE.logs, or in one of --logs-dir or
PINION_LOGS. "pinion prune", "pinion dlq-purge" and workers remove those of jobs that
are gone.
`

const logsExamples = `pinion logs 0199c2b4a1f07000b3c1d2e3f4a5b6c7 --db q.db
pinion logs 0199c2b4a1f07000b3c1d2e3f4a5b6c7 --attempt 1 --db q.db
pinion logs 0199c2b4a1f07000b3c1d2e3f4a5b6c8 --follow --db q.db`

// logsCall is a call of logs.
type logsCall struct {
	*call
	dir     string
	id      string
	attempt int // 0: the latest
	follow  bool
}

func logs(c *call) func(context.Context) error {
	l := &logsCall{call: c}
	c.storageFlags()
	c.logsFlag()
	c.countFlag(&l.attempt, "attempt", 1, "the log of attempt `N` [the latest]")
	c.flags.BoolVar(&l.follow, "follow", false, "go on until the job has ended")
	return func(ctx context.Context) error {
		var err error
		l.dir, err = c.logsOf()
		if err != nil {
			return err
		}
		return c.inspect(ctx, reads, func(storage pinion.Inspector) error {
			job, err := findJobByEnd(ctx, storage, c.operands[0])
			if err != nil {
				return err
			}
			l.id = job.ID
			if l.follow {
				// SIGINT, SIGTERM and SIGHUP kill the process; Go would print its goroutines at SIGQUIT.
				ctx, stop := untilSignals(ctx, syscall.SIGQUIT)
				defer stop()
				return signalOr(ctx, l.printGrowing(ctx, storage))
			}
			return l.printOnce()
		})
	}
}

// printOnce prints the log of the attempt that was asked for, or the one that was written last.
func (l *logsCall) printOnce() error {
	files, err := logsOfJob(l.dir, l.id)
	if err != nil {
		return err
	}
	for _, f := range slices.Backward(files) {
		if l.attempt == 0 || l.attempt == f.attempt {
			_, err := l.printFrom(f, 0)
			return err
		}
	}
	return l.noLog(files)
}

// noLog returns the error of a job without the log that was asked for.
func (l *logsCall) noLog(files []attemptFile) error {
	var attempts []string
	for _, f := range files {
		attempts = append(attempts, strconv.Itoa(f.attempt))
	}
	if len(attempts) > 0 {
		return fmt.Errorf("job %s has no log of attempt %d; there are logs of: %s",
			l.id, l.attempt, strings.Join(attempts, ", "))
	}
	return fmt.Errorf("job %s has no log in %s; has a worker run it that was started with --logs?", l.id, l.dir)
}

// printFrom prints a log from an offset on, and returns the offset of its end.
func (l *logsCall) printFrom(file attemptFile, offset int64) (int64, error) {
	f, err := os.Open(file.name)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	if _, err := f.Seek(offset, io.SeekStart); err != nil {
		return 0, err
	}
	text, err := io.ReadAll(f)
	if err != nil {
		return 0, err
	}
	if l.screen != nil { // a terminal must not obey it
		fmt.Fprint(l.stdout, printable(strings.ReplaceAll(string(text), "\r\n", "\n"), "\n\t"))
	} else {
		l.stdout.Write(text)
	}
	return offset + int64(len(text)), l.stdout.Flush()
}

// followEvery is the time between two looks at a log that grows. No event to wait for works everywhere.
const followEvery = 100 * time.Millisecond

// printGrowing prints a log as it grows, and then those of the retries unless one attempt was asked for, until
// the job has ended.
func (l *logsCall) printGrowing(ctx context.Context, storage pinion.Inspector) error {
	look := time.NewTicker(followEvery)
	defer look.Stop()
	printed := make(map[int]int64) // bytes, by attempt
	last := l.attempt              // the attempt that was printed last; 0: none yet
	for {
		job, err := findJob(ctx, storage, l.id) // before the logs, which are complete when the job has ended
		if err != nil {
			return err
		}
		files, err := logsOfJob(l.dir, l.id)
		if err != nil {
			return err
		}
		for _, f := range l.news(files, last) {
			printed[f.attempt], err = l.printFrom(f, printed[f.attempt])
			if err != nil {
				return err
			}
			last = f.attempt
		}
		if l.isOver(job) && len(printed) == 0 {
			return l.noLog(files)
		}
		if l.isOver(job) {
			return nil
		}
		select {
		case <-look.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// news returns the logs in which there may be something new: that of the attempt which was printed last, and
// those that were written after it.
func (l *logsCall) news(files []attemptFile, last int) []attemptFile {
	at := slices.IndexFunc(files, func(f attemptFile) bool { return f.attempt == last })
	switch {
	case at < 0 && l.attempt == 0: // the beginning
		return files[max(0, len(files)-1):]
	case at < 0:
		return nil
	case l.attempt != 0:
		return files[at : at+1]
	}
	return files[at:]
}

// isOver reports whether nothing more will be written to the log.
func (l *logsCall) isOver(job *pinion.Job) bool {
	if job.Status == pinion.StatusSuccess || !job.FinishedAt.IsZero() {
		return true
	}
	isRunning := job.Status == pinion.StatusRunning && job.Attempts == l.attempt
	return l.attempt != 0 && job.Attempts >= l.attempt && !isRunning
}

// Package pinion is a job queue and worker for Go programs: register a function as a task, enqueue jobs, run a
// worker. Jobs live in memory or in one SQLite file that any number of processes share; there is no server to run.
//
// The model in one sentence: a job is a row that names a task and its arguments; a worker claims it, runs it, and
// records how it ended, and as long as that has not been recorded the job is still owed.
//
//	package main
//
//	import (
//		"context"
//		"fmt"
//		"log"
//		"os/signal"
//		"syscall"
//
//		"github.com/pinion-queue/pinion"
//	)
//
//	type AddArgs struct{ A, B int }
//
//	var Add = pinion.Register("add", func(ctx context.Context, args AddArgs) error {
//		fmt.Println(args.A + args.B)
//		return nil
//	})
//
//	func main() {
//		ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
//		defer stop()
//		storage, err := pinion.Open(ctx, "jobs.db")
//		if err != nil {
//			log.Fatal(err)
//		}
//		defer storage.Close()
//		if _, err := Add.Enqueue(ctx, storage, AddArgs{1, 2}); err != nil {
//			log.Fatal(err)
//		}
//		worker := &pinion.Worker{Storage: storage}
//		if err := worker.Run(ctx); err != nil {
//			log.Fatal(err)
//		}
//	}
//
// # Guarantees
//
//   - At least once. A job whose Enqueue returned nil ends in SUCCESS or in the dead-letter queue, unless it is
//     canceled, whatever dies meanwhile: the process (kill -9) always, the power too with SQLite's default
//     synchronous=FULL. A full disk, a lock held by another program or a clock that jumps delays it.
//   - Fenced. Each claim has a token, [Job].Claim, and whatever ends a claim names it. A worker that was presumed
//     dead and comes back changes nothing; its task's context is cancelled with cause [ErrLeaseLost].
//   - Retries are durable: a row with a due time, never a timer in a process.
//   - Attempts are counted at the claim, so a job that kills its process each time uses them up and is
//     dead-lettered. What is done for jobs that were claimed beside it: one that has been claimed before is claimed
//     again only into a free slot, and after its second lost lease at a moment of its own.
//   - The dead-letter queue is exact: a job enters and leaves it in one transaction, with its name, arguments,
//     queue, priority, key, attempts, error and time.
//   - Shutdown loses and burns nothing: jobs that did not start, and tasks that stop because they were told to,
//     go back with the attempt refunded.
//   - A task cannot hurt the worker: panics, runtime.Goexit, unknown names and bad arguments are failed attempts.
//   - Every storage means the same. [CheckStorage] proves it, for yours too.
//
// They are tested by killing: the tests run processes that share a file, kill them while they enqueue, claim, record and
// shut down, and hold their logs against what is stored (go test -run Crash -crash.kills=1000). So that the power's
// loss can be judged, they record the system calls of a process, and lose what was not yet fsynced (-run LossOfPower).
// A plain model plays random calls beside each storage (-run TestModel). The README has the numbers.
//
// Effects are the user's to make exactly-once: enqueue in the transaction that makes a job necessary
// ([SQLiteStorage.Tx]), and key what a task writes by [Job].ID so that doing it twice is doing it once.
//
// # Caveats
//
//   - A task may run more than once: when its worker dies, or stalls for longer than the visibility timeout.
//   - A task that ignores its context keeps its slot until it returns, also after a timeout or a lost lease.
//   - A job that runs beside one which kills their process loses an attempt too. Give jobs retries (with none, a
//     killed process is the end of those it was running), and keep workers running: the moments at which such jobs
//     are due again are spread over Attempts × visibility, which a longer pause undoes.
//   - A SQLite file belongs on a local disk: network file systems lock badly. It, its -wal and its -shm must not be moved,
//     deleted or replaced while it is open (a backup is made with the sqlite3 shell's .backup, and put back when nobody
//     uses the file). If it happens every call says so and stores nothing, until the file is back or is opened anew.
//   - When the disk is full, calls return an error that says so and store nothing. Run tells of it in the log and goes on
//     when there is room. The log file of SQLite, the -wal, needs a few megabytes.
//   - Do not open one file with two SQLite libraries in one process (mattn/go-sqlite3 beside this one, say): when
//     either closes the file, the other's locks are gone. Other processes may use any library.
//   - Processes of the Python library may share the file. Their writes name no claim and so are not fenced, and
//     they know no due times, queues, keys or cancellations.
//   - Inside a testing/synctest bubble, open the storage in the bubble and set [SQLiteOptions].PollInterval.
package pinion

import (
	"context"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"maps"
	"math/rand/v2"
	"os"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// Status says where a job is in its life.
type Status string

// The four statuses, spelled as they are stored.
const (
	StatusPending Status = "PENDING" // waiting to be claimed, perhaps for its due time
	StatusRunning Status = "RUNNING" // claimed by a worker
	StatusSuccess Status = "SUCCESS" // done
	StatusFailed  Status = "FAILED"  // given up, and the dead-letter queue holds a copy; or canceled
)

// Job is one unit of work. The caller of Enqueue sets the first group of fields, the storage the rest.
type Job struct {
	ID       string          `json:"id"`                 // set by Enqueue when empty: UUIDv7 as 32 hex digits, so ids sort by time
	Task     string          `json:"task"`               // the task's name; looked up without regard to case
	Args     []any           `json:"args,omitempty"`     // positional arguments; read back, every element is a json.RawMessage
	Kwargs   map[string]any  `json:"kwargs,omitempty"`   // arguments by name; read back, every value is a json.RawMessage
	Queue    string          `json:"queue"`              // "" means "default"
	Priority int             `json:"priority"`           // higher runs first
	RunAt    time.Time       `json:"run_at,omitzero"`    // not before; zero: at once
	Key      string          `json:"key,omitempty"`      // optional: at most one unfinished job (PENDING or RUNNING) per key
	Status   Status          `json:"status"`             // PENDING after Enqueue
	Attempts int             `json:"attempts"`           // claims so far that count; a released claim does not
	Claim    int64           `json:"claim"`              // fencing token: larger at each claim, never used twice for a job
	Worker   string          `json:"worker,omitempty"`   // who holds the claim, or held it last: Worker.Name
	Canceled bool            `json:"canceled,omitempty"` // Cancel was called for it: it is FAILED, or will be when its claim ends, unless success came first
	Error    string          `json:"error,omitempty"`    // of the last failed attempt, at most 16 KiB
	Result   json.RawMessage `json:"result,omitempty"`   // what the task recorded with SetResult, if anything

	// Times are UTC with microseconds, in every storage.
	CreatedAt   time.Time `json:"created_at,omitzero"`
	HeartbeatAt time.Time `json:"heartbeat_at,omitzero"` // of the claim, then of the last heartbeat
	FinishedAt  time.Time `json:"finished_at,omitzero"`
}

// NewJob returns a job for the named task with positional arguments, to be changed as needed and enqueued.
// [Task.Job] does the same with arguments that the compiler checks.
func NewJob(task string, args ...any) *Job { return &Job{Task: task, Args: args} }

// Storage keeps jobs. MemoryStorage and SQLiteStorage are the two that come with this package; a backend of your
// own needs these ten methods, and [CheckStorage] tells whether they mean what is said here. All methods may be
// called by many goroutines at once.
//
// Once a call has begun to write, ctx no longer matters to it: the answer is that of the commit. In particular a
// Dequeue whose claim was committed returns the jobs, whatever became of ctx.
//
// What ends or prolongs a claim does so only for jobs that are RUNNING with the Claim and Attempts of the job
// handed in. The others are returned as lost, nothing is written for them, and they never fail their batch.
//
// Optional powers are interfaces of their own, found by type assertion: [Canceler],
// [Inspector].
type Storage interface {
	// Enqueue stores all the jobs or none, durably when it returns nil. It fills in each job's ID, Queue, Status
	// and CreatedAt, and encodes the arguments: later changes to them are not seen. Errors: a [DuplicateError]
	// (ErrDuplicate) for an ID that exists or a Key that an unfinished job holds, ErrTooLarge, ErrBadArgs.
	Enqueue(ctx context.Context, jobs ...*Job) error
	// Dequeue claims jobs that are due, at most opts.Max and at least one, in the order of priority and then of age,
	// which is the order of insertion; a retry keeps its age. It waits until a job is due or ctx ends, unless
	// opts says otherwise.
	Dequeue(ctx context.Context, opts DequeueOptions) ([]*Job, error)
	// MarkDone makes the jobs SUCCESS and records each job's Result.
	MarkDone(ctx context.Context, jobs ...*Job) (lost []*Job, err error)
	// MarkFailed returns the job to PENDING with cause as its Error, due at retryAt. A lost job is ErrLeaseLost.
	MarkFailed(ctx context.Context, job *Job, cause error, retryAt time.Time) error
	// DeadLetter makes the job FAILED and copies it into the dead-letter queue, in one step, with the ErrorText of
	// cause. If cause matches ErrAttemptsUsedUp the job was not run under this claim, and its Attempts are stored
	// as one less. A lost job is ErrLeaseLost.
	DeadLetter(ctx context.Context, job *Job, cause error) error
	// Release gives claims back as if they had never been made: the jobs become PENDING, due at the time at (zero: at
	// once), with the attempt refunded and the Claim used up. A cause that is not nil becomes their Error. It
	// returns the jobs that were lost, and those that Cancel was called for, which have ended.
	Release(ctx context.Context, at time.Time, cause error, jobs ...*Job) (lost, canceled []*Job, err error)
	// Heartbeat prolongs the claims.
	Heartbeat(ctx context.Context, jobs ...*Job) (lost []*Job, err error)
	// ReapStale returns to PENDING, with the Error "lease expired", the jobs whose last heartbeat was more than
	// visibility before the moment of the call (or as far after it: the clock was set back): at once the first time,
	// and from a job's second reaping on due at a random moment within Attempts × visibility, so that jobs which
	// merely ran beside one that kills its process do not share its fate again and again. It reports how many.
	ReapStale(ctx context.Context, visibility time.Duration) (int, error)
	// Size counts the PENDING jobs.
	Size(ctx context.Context) (int, error)
	// Close ends the storage's use; whoever waits or calls later gets ErrClosed. What was stored stays.
	Close() error
}

// DequeueOptions say what a Dequeue claims. Only Max must be set.
type DequeueOptions struct {
	// Max is how many jobs to claim at most; a backend may return fewer.
	Max int
	// Ahead is how many of Max may be claimed ahead of free slots [0]. Beyond the first Max-Ahead jobs Dequeue stops
	// before a job that was claimed before: such a job may be the one that kills its process, and whatever waits for a
	// slot there would lose an attempt with it. With Ahead = Max Dequeue does not wait, and returning no job is
	// not an error. A backend that claims nothing ahead is correct.
	Ahead int
	// Queues are the queues to claim from [every queue]. "" is the default queue.
	Queues []string
	// Worker becomes the Worker of the jobs.
	Worker string
	// NoWait makes Dequeue return what is due now. Returning no job is not an error then.
	NoWait bool
}

// Enqueuer stores jobs. Every Storage is one, and so is a [Tx].
type Enqueuer interface {
	Enqueue(ctx context.Context, jobs ...*Job) error
}

// Tx stores jobs inside a database transaction of the caller's. The jobs exist, and wake workers, when that transaction
// commits. After a rollback nothing is stored.
type Tx interface {
	Enqueuer
}

// Canceler is for storages in which jobs can be told to end, which marks them as [Job].Canceled. A PENDING one does so
// at once: it becomes FAILED with the text of ErrCanceled as its Error, finished now, its Key free, and not in the
// dead-letter queue. A RUNNING one keeps its Key, and ends in the same way as soon as its claim does: MarkFailed,
// DeadLetter, Release and ReapStale make it so instead of what they do otherwise, and the first two return
// ErrCanceled to say that. A MarkDone that comes before counts.
type Canceler interface {
	// Cancel cancels jobs, in one step. It returns the ids of those that have ended now and of those that run and
	// have been asked to, perhaps before. In neither are those that do not exist or have ended already; neither is
	// an error, and Inspector.Get tells which.
	Cancel(ctx context.Context, ids ...string) (ended, asked []string, err error)
	// Canceled returns those of the claimed jobs that have been asked to end. The worker asks with its heartbeats,
	// so it should cost little. Jobs whose claim is lost are not among them.
	Canceled(ctx context.Context, jobs ...*Job) ([]*Job, error)
}

// Inspector is for storages that can be looked into and tended by hand; the command line needs it. Listings are in
// the order of age and page by key, so an iterator may be left open for any time; an error ends the sequence.
type Inspector interface {
	// Stats looks at every job, finished ones included, which takes a second or two a million; it is done in pages,
	// each at a moment of its own, so that nobody waits for it.
	Stats(ctx context.Context) (Stats, error)
	// Get returns one job, or ErrNotFound.
	Get(ctx context.Context, id string) (*Job, error)
	// Jobs lists the jobs.
	Jobs(ctx context.Context, f Filter) iter.Seq2[*Job, error]
	// DeadLetters lists the dead-letter queue, oldest first: jobs as they failed, FinishedAt being when. CreatedAt,
	// RunAt, HeartbeatAt, Claim and Worker may be missing: Get has them.
	DeadLetters(ctx context.Context, f Filter) iter.Seq2[*Job, error]
	// Replay takes jobs out of the dead-letter queue and makes them PENDING, due at once, with no attempts, in one
	// transaction, the oldest first. One whose Key another unfinished job holds stays. It reports how many.
	Replay(ctx context.Context, f Filter) (int, error)
	// Purge deletes from the dead-letter queue and reports how many.
	Purge(ctx context.Context, f Filter) (int, error)
	// Prune deletes the jobs that finished before a time (going by the heartbeat or creation where no finish was
	// recorded), except FAILED ones whose dead letter stands, and reports how many.
	Prune(ctx context.Context, before time.Time) (int, error)
}

// Filter narrows a listing; its zero value takes everything, and fields that are set must all match.
type Filter struct {
	IDs    []string // any of these
	Status Status   // not for dead letters, which are all FAILED
	Queue  string
	Task   string // without regard to case
	Limit  int    // 0: no limit
}

// Stats are counts of the jobs that there are. Those that were pruned are not among them.
type Stats struct {
	Total       Counts       `json:"total"`
	Queues      []QueueStats `json:"queues"` // by name
	Tasks       []TaskStats  `json:"tasks"`  // by name, as it was enqueued
	DeadLetters int          `json:"dead_letters"`
	LastMinute  [60]int      `json:"last_minute"` // jobs finished in each of the last 60 seconds, the oldest first
}

// QueueStats are the counts of one queue.
type QueueStats struct {
	Queue string `json:"queue"`
	Counts
}

// TaskStats are the counts of one task.
type TaskStats struct {
	Task string `json:"task"`
	Counts
}

// Counts are counts of jobs by status, and what came of them lately.
type Counts struct {
	Pending     int       `json:"pending"`
	Running     int       `json:"running"`
	Success     int       `json:"success"`
	Failed      int       `json:"failed"`
	SuccessHour int       `json:"success_last_hour"` // of Success, those of the last hour
	FailedHour  int       `json:"failed_last_hour"`
	Minute      int       `json:"finished_last_minute"`    // SUCCESS or FAILED; divided by 60 it is the rate of jobs a second
	Oldest      time.Time `json:"oldest_pending,omitzero"` // CreatedAt of the oldest pending job
}

// Errors to match with errors.Is; what is returned adds the job and the reason.
var (
	// From Enqueue.
	ErrDuplicate = errors.New("pinion: duplicate job")
	ErrTooLarge  = errors.New("pinion: too large")     // more than 1 MiB of encoded arguments, or of a result
	ErrBadArgs   = errors.New("pinion: bad arguments") // also when they do not fit the task; never retried

	// From Storage.
	ErrLeaseLost = errors.New("pinion: lease lost") // the claim is no longer the caller's; also a cause of cancellation
	ErrNotFound  = errors.New("pinion: job not found")
	ErrClosed    = errors.New("pinion: storage is closed")

	// In a job's Error, or as a cause of cancellation.
	ErrTaskNotFound   = errors.New("pinion: task not found")
	ErrAttemptsUsedUp = errors.New("pinion: attempts used up")
	ErrShutdown       = errors.New("pinion: worker is shutting down")
	ErrCanceled       = errors.New("pinion: job was canceled") // also from MarkFailed and DeadLetter, see Canceler
)

// DuplicateError is what Enqueue returns for an ID or a Key that is taken. It matches ErrDuplicate.
type DuplicateError struct {
	ID  string // of the job that holds the Key, or simply the ID that is taken
	Key string // empty if it is the ID that is taken
}

func (e *DuplicateError) Error() string {
	if e.Key == "" {
		return fmt.Sprintf("%v: id %q is taken", ErrDuplicate, e.ID)
	}
	return fmt.Sprintf("%v: key %q is held by unfinished job %s", ErrDuplicate, e.Key, e.ID)
}

// Is reports whether target is ErrDuplicate.
func (e *DuplicateError) Is(target error) bool { return target == ErrDuplicate }

const (
	defaultQueue = "default"
	maxEncoded   = 1 << 20  // bytes of a job's encoded arguments, and of its result
	maxErrorText = 16 << 10 // bytes of a stored error
	maxName      = 255      // bytes of a worker's name
)

// accepted fills in what Enqueue owes the caller's job once it is stored.
func (j *Job) accepted(id, queue string, created time.Time) {
	j.ID, j.Queue, j.Status, j.CreatedAt = id, queue, StatusPending, created
}

// check reports options that cannot be meant.
func (o DequeueOptions) check() error {
	if o.Max < 1 {
		return fmt.Errorf("pinion: dequeue: Max is %d; want at least 1", o.Max)
	}
	if o.Ahead < 0 || o.Ahead > o.Max {
		return fmt.Errorf("pinion: dequeue: Ahead is %d; want 0 to Max, which is %d", o.Ahead, o.Max)
	}
	return nil
}

// attemptsOf returns what DeadLetter stores as the Attempts of the job.
func attemptsOf(job *Job, cause error) int {
	if errors.Is(cause, ErrAttemptsUsedUp) { // it was not run under this claim
		return job.Attempts - 1
	}
	return job.Attempts
}

// add adds n jobs of one queue, task and status to all the sums they belong to; of finished ones so many finished in
// the last hour and in the last minute.
func (s *Stats) add(queue, task string, status Status, n int, oldest time.Time, hour, minute int) {
	q, found := slices.BinarySearchFunc(s.Queues, queue, func(q QueueStats, name string) int { return strings.Compare(q.Queue, name) })
	if !found {
		s.Queues = slices.Insert(s.Queues, q, QueueStats{Queue: queue})
	}
	t, found := slices.BinarySearchFunc(s.Tasks, task, func(t TaskStats, name string) int { return strings.Compare(t.Task, name) })
	if !found {
		s.Tasks = slices.Insert(s.Tasks, t, TaskStats{Task: task})
	}
	for _, c := range [...]*Counts{&s.Total, &s.Queues[q].Counts, &s.Tasks[t].Counts} {
		switch status {
		case StatusPending:
			if c.Pending += n; c.Oldest.IsZero() || oldest.Before(c.Oldest) {
				c.Oldest = oldest
			}
		case StatusRunning:
			c.Running += n
		case StatusSuccess:
			c.Success, c.SuccessHour, c.Minute = c.Success+n, c.SuccessHour+hour, c.Minute+minute
		case StatusFailed:
			c.Failed, c.FailedHour, c.Minute = c.Failed+n, c.FailedHour+hour, c.Minute+minute
		}
	}
}

// ErrorText is the form in which MarkFailed and DeadLetter store their cause as a job's Error: valid UTF-8 without NUL,
// which not every database can store, at most 16 KiB. It is for authors of storages.
func ErrorText(err error) string {
	if err == nil {
		return "unknown error"
	}
	text := strings.ToValidUTF8(fmt.Sprint(err), "\uFFFD") // Sprint survives an Error method that panics, as a nil one may
	text = strings.ReplaceAll(text, "\x00", "\uFFFD")
	if len(text) > maxErrorText {
		text = strings.ToValidUTF8(text[:maxErrorText-3], "") + "..."
	}
	return text
}

var processName = sync.OnceValue(func() string {
	host, err := os.Hostname()
	if err != nil {
		host = "localhost"
	}
	return fmt.Sprintf("%.200s:%d", strings.ToValidUTF8(host, "\uFFFD"), os.Getpid())
})

// microTime cuts a time to what every storage keeps.
func microTime(t time.Time) time.Time { return t.UTC().Truncate(time.Microsecond) }

// lastID is the time part of the newest id, so that ids made by one process sort in the order of their making even
// within a microsecond, or when the clock is set back.
var lastID atomic.Int64

// NewID returns a new job id: a UUIDv7 (RFC 9562, with 12 bits of sub-millisecond time) as 32 hex digits.
func NewID() string {
	now := time.Now()
	stamp := now.UnixMilli()<<12 | int64(now.Nanosecond()%1e6)<<12/1e6
	last := lastID.Load()
	for !lastID.CompareAndSwap(last, max(stamp, last+1)) {
		last = lastID.Load()
	}
	stamp = max(stamp, last+1)
	id := binary.BigEndian.AppendUint64(make([]byte, 0, 16), uint64(stamp>>12<<16|7<<12|stamp&0xfff))
	return hex.EncodeToString(binary.BigEndian.AppendUint64(id, rand.Uint64()&(1<<62-1)|1<<63))
}

var (
	schemesMu sync.Mutex // guards schemes
	schemes   = map[string]func(context.Context, string) (Storage, error){
		"memory": func(context.Context, string) (Storage, error) { return NewMemoryStorage(), nil },
		"sqlite": openSQLiteScheme,
	}
	// Two letters at least, so that C:\jobs.db is a path.
	schemePattern = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9+.-]+:`)
)

func openSQLiteScheme(ctx context.Context, dsn string) (Storage, error) {
	s, err := OpenSQLite(ctx, dsn[len("sqlite:"):], nil)
	if err != nil {
		return nil, err // not s: a nil *SQLiteStorage in a Storage is not nil
	}
	return s, nil
}

// Open opens the storage that dsn names: the path of a SQLite file, created if missing; the same as "sqlite:path";
// "memory:" for a new MemoryStorage; or "scheme:…" for a scheme that a backend has registered. The caller closes
// it. [OpenSQLite] takes options.
func Open(ctx context.Context, dsn string) (Storage, error) {
	if !schemePattern.MatchString(dsn) {
		dsn = "sqlite:" + dsn
	}
	scheme, _, _ := strings.Cut(strings.ToLower(dsn), ":")
	schemesMu.Lock()
	open, known := schemes[scheme], slices.Sorted(maps.Keys(schemes))
	schemesMu.Unlock()
	if open == nil {
		// The dsn is not shown: it may hold a password.
		return nil, fmt.Errorf("pinion: open: no backend for the scheme %q (there are: %s); import the package that "+
			"registers it, or write sqlite: before the name of a file", scheme, strings.Join(known, ", "))
	}
	return open(ctx, dsn)
}

// RegisterScheme makes Open hand every dsn that starts with "scheme:" to open, the whole dsn. Backends call it in
// their init. An empty or taken scheme panics.
func RegisterScheme(scheme string, open func(ctx context.Context, dsn string) (Storage, error)) {
	scheme = strings.ToLower(scheme)
	schemesMu.Lock()
	defer schemesMu.Unlock()
	if open == nil || schemes[scheme] != nil || schemePattern.FindString(scheme+":") != scheme+":" {
		panic(fmt.Sprintf("pinion: RegisterScheme(%q): it is not a scheme, or is taken, or there is no function", scheme))
	}
	schemes[scheme] = open
}

// PanicError is the failure of a task that panicked or called runtime.Goexit.
type PanicError struct {
	Value any    // what panic was called with
	Stack []byte // as debug.Stack returns it
}

func (e *PanicError) Error() string { return fmt.Sprintf("panic: %v\n\n%s", e.Value, e.Stack) }

// Unwrap returns Value if it is an error.
func (e *PanicError) Unwrap() error {
	err, _ := e.Value.(error)
	return err
}

// clone returns a copy of j, so that a task cannot change the job of the worker, who still needs its Claim.
func (j *Job) clone() *Job {
	job := *j
	job.Args = slices.Clone(j.Args)
	job.Kwargs = maps.Clone(j.Kwargs)
	return &job
}

// pause waits for d or until ctx ends, and reports whether ctx is still live.
func pause(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
	return ctx.Err() == nil
}

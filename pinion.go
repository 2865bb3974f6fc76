// Package pinion is a job queue and worker for Go programs: register a function as a task, enqueue jobs, run a
// worker. Jobs live in memory, in one SQLite file that any number of processes share, or in PostgreSQL. There is no
// server to run.
//
// A job is a row that names a task and its arguments. A worker claims the job, runs its task and records how it ended.
// Until that is recorded, the job is still owed. A claim holds for a lease, which the worker's heartbeats prolong.
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
//   - At least once. A job whose Enqueue returned nil ends in SUCCESS or in the dead-letter queue, unless somebody
//     cancels it. It survives the death of any process (kill -9) and, with SQLite's default synchronous=FULL, the
//     loss of power. A full disk, a lock that another program holds or a clock that jumps delays it.
//   - Exactly once, where the effect and the job are in one database. [Tx].Done ends the job in the transaction in
//     which the task writes. Both are committed, or neither.
//   - Fenced. Each claim has a token, [Job].Claim, and whatever ends a claim names it. A worker that was presumed
//     dead and comes back changes nothing. Its task's context is canceled with cause [ErrLeaseLost].
//   - Retries are durable. A retry is a row with a due time, not a timer in a process.
//   - Attempts are counted at the claim. A job that kills its process each time uses up its attempts and is
//     dead-lettered; so is one that loses its lease five times in a row. A job that was claimed before is never claimed
//     ahead of a free slot. From its second lost lease on it becomes due at a random time, so that its neighbors
//     survive.
//   - The dead-letter queue is exact. A job enters and leaves it in one transaction, with its name, arguments,
//     queue, priority, key, attempts, error and time.
//   - Shutdown loses nothing and burns no attempt. Jobs that did not start, and tasks that stop because the worker
//     shuts down, go back with the attempt refunded.
//   - A task cannot hurt the worker. A panic and runtime.Goexit are failed attempts. So are bad arguments, which
//     are not retried. A job whose task a worker does not know waits, with its attempts, for a worker that knows it.
//   - Limits and schedules hold over all workers. At most as many jobs of a queue are RUNNING as [Limiter].SetLimit
//     says; 0 pauses the queue. Each time of a [Periodic] has at most one job, however many workers plan it.
//   - Every storage means the same. [CheckStorage] tests it, for your own backend too.
//
// docs/testing.md in the repository describes how these are tested: by killing processes at random, by losing the
// power behind every write, and by playing random calls beside a plain model.
//
// Make effects outside of the queue idempotent: store them under [Job].ID, so that running a task twice has the
// effect of running it once. Enqueue a job in the transaction that makes it necessary ([SQLiteStorage.Tx]), and end it
// in the transaction of its effect ([Tx].Done).
//
// # Caveats
//
//   - A task may run more than once: when its worker dies, or stalls for longer than [Worker].VisibilityTimeout.
//   - A task that ignores its context keeps its slot until it returns, also after a timeout or a lost lease. A task
//     whose lease was lost may still run, for a moment at least, beside the next attempt at its job. Limits, Keys and
//     Periodics do not count it.
//   - A job that runs beside one that kills their process loses an attempt too. Give jobs retries, and keep workers
//     running: the due times of such jobs are spread over Attempts × VisibilityTimeout.
//   - Keep a SQLite file on a local disk: network file systems lock badly. Do not move, delete or replace the file, its
//     -wal or its -shm while a program has it open. If that happens, each call returns an error and stores nothing
//     until the file is back or the program opens it again. Make a backup with [SQLiteStorage.Backup] or the command
//     "pinion backup", and restore it when nobody uses the file.
//   - When the disk is full, calls return an error that says so, and store nothing. Run logs it and goes on when
//     there is room. SQLite's log, the -wal, needs a few megabytes.
//   - Do not open one file with two SQLite libraries in one process (mattn/go-sqlite3 beside this one, say). When
//     either closes the file, the other loses its locks. Other processes may use any library.
//   - Processes of the Python library may share the file. Their writes name no claim, so they are not fenced, and
//     they ignore due times, queues, priorities, keys, limits and cancellations.
//   - Inside a testing/synctest bubble, open the storage in the bubble and set [SQLiteOptions].PollInterval.
//
// # For authors of storages
//
// A backend is a type with the methods of [Storage]; [Canceler], [Inspector] and [Limiter] are optional. Its Enqueue
// calls [Job.EncodeArgs] and [NewID], its code that reads jobs calls [Job.DecodeArgs], and MarkFailed and DeadLetter
// call [ErrorText]. If it has a [Tx], Done calls [EndInTx]. [StatsCounter] adds up what an Inspector's Stats returns.
// [RegisterScheme] makes [Open] and the command line find it. Run [CheckStorage] in its tests. Nobody else needs these.
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
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pinion-queue/pinion/internal/rules"
)

// Status is where a job is in its life.
type Status string

// The four statuses, spelled as they are stored.
const (
	StatusPending Status = "PENDING" // waits to be claimed, perhaps for its due time
	StatusRunning Status = "RUNNING" // claimed by a worker
	StatusSuccess Status = "SUCCESS" // done
	StatusFailed  Status = "FAILED"  // given up, with a copy in the dead-letter queue; or canceled
)

// Job is one unit of work. The caller of Enqueue sets the first group of fields, the storage the others. ID, Task,
// Queue and Key are valid UTF-8 without NUL, at most 1 KiB each; Enqueue returns ErrBadArgs for others.
type Job struct {
	// ID identifies the job. Enqueue sets an empty one to a UUIDv7 of 32 hex digits, so ids sort by time.
	ID string `json:"id"`
	// Task is the name of the task, which workers look up without regard to case.
	Task string `json:"task"`
	// Args are the positional arguments. Read back from a storage, each is a json.RawMessage.
	Args []any `json:"args,omitempty"`
	// Kwargs are the arguments by name. Read back from a storage, each is a json.RawMessage.
	Kwargs map[string]any `json:"kwargs,omitempty"`
	// Queue is where the job waits ["default"].
	Queue string `json:"queue"`
	// Priority decides what runs first: the higher one.
	Priority int `json:"priority"`
	// RunAt is when the job is due [at once]. Its year is at most 9999. The start of 1970 in UTC is stored as none.
	RunAt time.Time `json:"run_at,omitzero"`
	// Key is optional. At most one unfinished job (PENDING or RUNNING) holds a Key. Keys that begin with "periodic:"
	// belong to the jobs of [Periodic].
	Key string `json:"key,omitempty"`
	// KeyUntilStart makes the job give up its Key, for good, when it is first claimed. The field Key stays as it is.
	// Such a job is never claimed ahead of a free slot.
	KeyUntilStart bool `json:"key_until_start,omitempty"`
	// Meta travels beside the arguments and is not for the task's function: trace context, tenant. Middleware reads
	// it. It takes at most 4 KiB as JSON.
	Meta map[string]string `json:"meta,omitempty"`

	// Status is PENDING after Enqueue.
	Status Status `json:"status"`
	// Attempts counts the claims, without those that were released.
	Attempts int `json:"attempts"`
	// Claim is the fencing token. It is larger at each claim and never used twice for a job.
	Claim int64 `json:"claim"`
	// Worker is the Name of the worker that holds the claim, or held it last.
	Worker string `json:"worker,omitempty"`
	// Reaped counts the leases that were lost in a row. An attempt that ends in any other way sets it to 0.
	Reaped int `json:"reaped,omitempty"`
	// Canceled means that Cancel was called. The job is FAILED, or becomes FAILED when its claim ends without success.
	Canceled bool `json:"canceled,omitempty"`
	// Error is that of the last failed attempt, at most 16 KiB.
	Error string `json:"error,omitempty"`
	// Result is what the task recorded with SetResult, while it runs and after it.
	Result json.RawMessage `json:"result,omitempty"`

	// All times are UTC with microseconds, in every storage.

	// CreatedAt is when Enqueue was called.
	CreatedAt time.Time `json:"created_at,omitzero"`
	// HeartbeatAt is the time of the claim, and then of the last heartbeat.
	HeartbeatAt time.Time `json:"heartbeat_at,omitzero"`
	// LeaseUntil is when the claim of a RUNNING job expires. It is zero for claims of the Python library.
	LeaseUntil time.Time `json:"lease_until,omitzero"`
	// StartedAt is when the task of a RUNNING job started. The first heartbeat stores it: a job that was claimed and
	// waits for a slot, or whose task is short, has none.
	StartedAt time.Time `json:"started_at,omitzero"`
	// FinishedAt is when the job became SUCCESS or FAILED.
	FinishedAt time.Time `json:"finished_at,omitzero"`
}

// NewJob returns a job for the named task with positional arguments. Change it as needed, then enqueue it.
// [Task.Job] does the same with arguments that the compiler checks.
func NewJob(task string, args ...any) *Job { return &Job{Task: task, Args: args} }

// Storage keeps jobs. This package has [MemoryStorage] and [SQLiteStorage]. Many goroutines may call its methods at
// once.
//
// A verb that ends or prolongs a claim does so only for a job that is RUNNING with the Claim and Attempts of the job
// handed in. It returns the other jobs as lost and writes nothing for them; a lost job never fails its batch.
//
// Whatever ends a claim clears its lease, and the doubt that ReapStale may have stored about it. Whatever makes a job
// PENDING, or ends it, wakes each Dequeue that may now find a job.
//
// A ctx that has ended is an error. Once a call has begun to write, ctx no longer matters: the call returns what
// became of the commit. A Dequeue whose claim was committed returns the jobs even if ctx has ended meanwhile.
//
// A storage may have more powers, which are interfaces of their own: [Canceler], [Inspector], [Limiter]. [As] finds
// them, also behind a storage that wraps another and has a method Unwrap() Storage.
type Storage interface {
	// Enqueue stores all the jobs or none, durably when it returns nil. It sets each job's ID, Queue, Status and
	// CreatedAt, and encodes the arguments, so it does not see later changes to them. It returns a [DuplicateError]
	// (ErrDuplicate) for an ID that exists or a Key that an unfinished job holds, ErrTooLarge or ErrBadArgs. The same
	// *Job twice in one call is an error that matches ErrDuplicate too.
	Enqueue(ctx context.Context, jobs ...*Job) error
	// Dequeue claims jobs that are due: at most opts.Max, the highest priority first and among equals the oldest. Age
	// is the order of insertion, which a retry keeps. Dequeue waits until a job is due or ctx ends, unless opts say
	// otherwise.
	Dequeue(ctx context.Context, opts DequeueOptions) ([]*Job, error)
	// MarkDone makes the jobs SUCCESS and stores each job's Result.
	MarkDone(ctx context.Context, jobs ...*Job) (lost []*Job, err error)
	// MarkFailed makes the job PENDING again, due at retryAt, with the ErrorText of cause. It returns ErrLeaseLost for
	// a lost job. Here as in Release and Reschedule a time after the year 9999 is stored as the last second of that
	// year, because JSON cannot write a later one.
	MarkFailed(ctx context.Context, job *Job, cause error, retryAt time.Time) error
	// DeadLetter makes the job FAILED, with the ErrorText of cause, and copies it into the dead-letter queue, in one
	// step. It stores the job's Result; a nil Result leaves the one that is stored. A cause that matches
	// ErrAttemptsUsedUp means that the job did not run under this claim, so its Attempts become one less. DeadLetter
	// returns ErrLeaseLost for a lost job.
	DeadLetter(ctx context.Context, job *Job, cause error) error
	// Release gives claims back: the jobs become PENDING, due at the time at (zero: at once), with the attempt
	// refunded and the Claim used up. A cause that is not nil becomes their Error. Jobs that Cancel was called for end
	// instead, and are returned as canceled.
	Release(ctx context.Context, at time.Time, cause error, jobs ...*Job) (lost, canceled []*Job, err error)
	// Heartbeat prolongs the claims by their leases. It stores a job's StartedAt, unless one is stored, and its Result,
	// if that is not nil.
	Heartbeat(ctx context.Context, jobs ...*Job) (lost []*Job, err error)
	// ReapStale takes back the claims of workers that are dead, and returns how many.
	//
	// A claim stores the length of its lease, which is opts.Lease of its Dequeue. visibility is the length for claims
	// that store none, which are Python's. A lease has expired when the last heartbeat is longer ago than its length,
	// or that far in the future, which happens when the clock is set back.
	//
	// ReapStale takes an expired lease back at its second look. The first look stores the time as a doubt, which a
	// heartbeat or a claim clears. A later call on the same storage takes the lease back, once a gap has passed by the
	// monotonic clock: a fifth of the lease plus a second, or the whole lease if that is shorter. A doubt that another
	// process stored counts when it is a whole lease old. So a lock, a freeze of all processes, a full disk or a clock
	// that jumps costs no living worker a job.
	//
	// The jobs become PENDING with the Error "lease expired": due at once the first time, and from a job's second
	// lost lease on at a random time within Attempts × lease, so that jobs which merely ran beside one that kills its
	// process do not die with it again.
	ReapStale(ctx context.Context, visibility time.Duration) (int, error)
	// Size returns the number of PENDING jobs.
	Size(ctx context.Context) (int, error)
	// Close closes the storage. Calls that wait, and later ones, return ErrClosed. What was stored stays.
	Close() error
}

// DequeueOptions say what a Dequeue claims. Only Max must be set. A Max below 1, an Ahead below 0 or above Max, and a
// negative Lease are errors.
type DequeueOptions struct {
	// Max is how many jobs to claim at most. A backend may return fewer.
	Max int
	// Ahead is how many of Max may be claimed ahead of free slots [0]. The first Max-Ahead jobs are for free slots; the
	// others wait for one. Dequeue returns fewer of these others if it comes to a job that has been claimed already,
	// that has KeyUntilStart, or whose queue has a limit. A job that has been claimed already may be one that kills its
	// process, and the jobs that wait for a slot there would lose an attempt with it. With Ahead = Max, Dequeue does
	// not wait, and may return no job and no error. A backend that claims nothing ahead is correct.
	Ahead int
	// Queues are the queues to claim from [every queue]. "" is the default queue.
	Queues []string
	// Tasks are the tasks to claim, without regard to the case of letters [every task]. Jobs of other tasks stay as
	// they are, for workers that know them, and delay nobody, however many they are.
	Tasks []string
	// Worker becomes the Worker of the jobs.
	Worker string
	// Lease is how long a claim lives without a heartbeat [10s], in whole microseconds.
	Lease time.Duration
	// NoWait makes Dequeue return what is due now, perhaps no job and no error.
	NoWait bool
}

// Enqueuer stores jobs. Every [Storage] is one, and so is a [Tx].
type Enqueuer interface {
	Enqueue(ctx context.Context, jobs ...*Job) error
}

// Tx stores jobs, and ends the job of a task, inside a database transaction of the caller's. The jobs become visible,
// and wake workers, when that transaction commits. After a rollback nothing is stored. [SQLiteStorage.Tx] returns
// one.
type Tx interface {
	Enqueuer
	// Done makes the job of the running task SUCCESS inside the transaction, with its Result so far. ctx is the
	// task's. So what the task writes in the transaction and the end of the job commit together: the effect happens
	// exactly once. If the claim is no longer this worker's, Done returns ErrLeaseLost, and the caller must roll back.
	// After the commit the worker records nothing more, whatever the task returns. After a rollback it records the end
	// of the attempt as usual. Keep the transaction shorter than the lease, because heartbeats wait for it.
	Done(ctx context.Context) error
}

// Canceler is a [Storage] that can end jobs before they succeed. It marks them as [Job].Canceled. A PENDING job ends at
// once: it becomes FAILED with the text of ErrCanceled as its Error, its Key is free, and it is not in the dead-letter
// queue. A RUNNING job keeps its Key and ends in the same way when its claim ends: MarkFailed and DeadLetter do that
// and return ErrCanceled, Release and ReapStale do it too. MarkDone makes it SUCCESS all the same.
type Canceler interface {
	// Cancel cancels jobs, in one step. It returns the ids of the jobs that have ended now, and of those that run and
	// were asked to end, now or before. It skips jobs that do not exist or have ended; Inspector.Get shows which.
	Cancel(ctx context.Context, ids ...string) (ended, asked []string, err error)
	// Canceled returns those of the claimed jobs that were asked to end, without those whose claim is lost. The
	// worker calls it with each heartbeat, so it should cost little.
	Canceled(ctx context.Context, jobs ...*Job) ([]*Job, error)
}

// Inspector is a [Storage] that people can look into and tend. The command line needs it. Listings are in the order of
// age. They read in pages, so an iterator may stay open for any time. An error ends the sequence. A verb that takes a
// Filter changes at most 500 jobs in a transaction, so that nobody waits for it: each job's step is atomic, the call is
// not.
type Inspector interface {
	// Stats counts the jobs that wait and run, and those that ended lately.
	Stats(ctx context.Context) (Stats, error)
	// Get returns one job, or ErrNotFound.
	Get(ctx context.Context, id string) (*Job, error)
	// Jobs lists the jobs.
	Jobs(ctx context.Context, f Filter) iter.Seq2[*Job, error]
	// DeadLetters lists the dead-letter queue, the oldest letter first. The jobs are as they failed, with FinishedAt as
	// the time. CreatedAt, RunAt, HeartbeatAt, Claim and Worker may be missing: Get has them.
	DeadLetters(ctx context.Context, f Filter) iter.Seq2[*Job, error]
	// JobsPage returns a part of what Jobs lists, for programs that show a listing bit by bit: nothing stays open
	// between two pages. from is the Next of the page before, or 0. A page has at most f.Limit jobs [100]. It has
	// fewer, perhaps none, if the jobs are large, or if many were looked at that do not match.
	JobsPage(ctx context.Context, f Filter, from int64) (Page, error)
	// DeadLettersPage is JobsPage for what DeadLetters lists.
	DeadLettersPage(ctx context.Context, f Filter, from int64) (Page, error)
	// GroupDeadLetters counts the dead letters that match f by their Error, without a panic's stack (see Filter.Error).
	// It reads only the newest dead letters, at most so many, whether they match or not; 0 reads all. It returns at
	// most f.Limit groups, the largest.
	GroupDeadLetters(ctx context.Context, f Filter, newest int) (LetterGroups, error)
	// Replay takes jobs out of the dead-letter queue, the oldest first, and makes them PENDING, due at once, with
	// 0 Attempts. A job whose Key another unfinished job holds stays; so does a run of a [Periodic] while the next run
	// is stored. It returns how many it took.
	Replay(ctx context.Context, f Filter) (int, error)
	// Purge deletes dead letters and returns how many.
	Purge(ctx context.Context, f Filter) (int, error)
	// Prune deletes the jobs that finished before a time and returns how many. It spares FAILED jobs with a dead
	// letter. Where no finish was recorded, the last heartbeat or the creation counts.
	Prune(ctx context.Context, before time.Time) (int, error)
	// PruneWhere deletes the finished jobs that match f and returns how many. It spares what Prune spares. After and
	// Before are about when the jobs finished.
	PruneWhere(ctx context.Context, f Filter) (int, error)
	// CancelWhere cancels the PENDING and RUNNING jobs that match f, as Canceler.Cancel does, and returns how many have
	// ended and how many were asked to end.
	CancelWhere(ctx context.Context, f Filter) (ended, asked int, err error)
	// Reschedule makes the PENDING jobs that match f due at a time, zero being at once, and returns how many.
	Reschedule(ctx context.Context, f Filter, at time.Time) (int, error)
	// History returns the ends of jobs since a time, by minute, queue and task, the oldest first. Ends that are older
	// than two hours are merged by the hour. Beyond 1,000 pairs of a queue and a task in a minute, the others are
	// counted as queue "other" and task "other". The storages of this module keep a week.
	History(ctx context.Context, since time.Time) ([]Ends, error)
}

// Ends counts the jobs of one queue and task that ended in one minute, or hour; see Inspector.History. An [End] is that
// of one attempt.
type Ends struct {
	At        time.Time     `json:"at"` // when the minute or hour began
	Queue     string        `json:"queue"`
	Task      string        `json:"task"`
	Succeeded int           `json:"succeeded"`
	Failed    int           `json:"failed"` // dead-lettered, canceled, or a run that a Periodic has moved
	Took      time.Duration `json:"took"`   // the sum, from the claim to the end; nanoseconds in JSON
}

// Limiter is a [Storage] that can bound how many jobs of a queue run at once, over all workers.
type Limiter interface {
	// SetLimit lets at most max jobs of a queue be RUNNING; the queue "" is the default queue. 0 pauses the queue, a
	// negative max lifts the limit. A max of more than 2,147,483,647 is stored as that. What runs goes on. A dead
	// worker's job counts until its lease is taken back. A limited queue is never claimed ahead. What a worker has
	// claimed ahead when the limit comes, it gives back within its HeartbeatInterval.
	SetLimit(ctx context.Context, queue string, max int) error
	// Limits returns the limits by queue.
	Limits(ctx context.Context) (map[string]int, error)
}

// Filter narrows a listing or a verb. Its zero value matches every job; a job must match all fields that are set. A
// field that is not valid UTF-8, or that has a NUL, matches no job.
type Filter struct {
	IDs    []string // any of these; nil matches every job, and a list without elements none
	Status Status   // ignored for dead letters, which are all FAILED
	Queue  string
	Task   string // without regard to case
	Key    string

	KeyPrefix string    // the Key begins with this; "periodic:" finds the next runs of schedules
	Text      string    // somewhere in the Error, in the same case
	Error     string    // the Error up to its first empty line, where a panic's stack begins; "\n\n" finds empty Errors
	After     time.Time // created at this time or later; dead letters: failed then or later
	Before    time.Time // created before this time; dead letters: failed before it
	Newest    bool      // list the newest first
	Limit     int       // at most so many [no limit]
}

// Page is a part of a listing.
type Page struct {
	Jobs []*Job
	Next int64 // where the next page begins; 0 if this is the last one
}

// LetterGroups are dead letters, grouped by error.
type LetterGroups struct {
	Groups  []LetterGroup // the largest first
	Errors  int           // how many groups there are, with those that Groups leaves out
	Letters int           // how many dead letters are in them
	More    bool          // there are older dead letters, which were not looked at
}

// LetterGroup is the dead letters that have one error.
type LetterGroup struct {
	Count  int
	Newest *Job // the one that failed last
}

// Stats are counts of the jobs that wait and run, and of those that ended lately.
type Stats struct {
	Total       Counts       `json:"total"`
	Queues      []QueueStats `json:"queues"` // by name
	Tasks       []TaskStats  `json:"tasks"`  // by name, as enqueued
	DeadLetters int          `json:"dead_letters"`
	LastMinute  [60]int      `json:"last_minute"` // jobs finished in each of the last 60 seconds, the oldest second first
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

// Counts are numbers of jobs by status, and of those that ended lately.
type Counts struct {
	Pending     int       `json:"pending"`
	Due         int       `json:"due"` // of Pending, those that are due
	Running     int       `json:"running"`
	Started     int       `json:"started"`                 // of Running, those with a StartedAt; others may wait
	SuccessHour int       `json:"success_last_hour"`       // in the last 60 whole minutes and since
	FailedHour  int       `json:"failed_last_hour"`        // likewise; as Ends.Failed
	Minute      int       `json:"finished_last_minute"`    // SUCCESS or FAILED, in the last whole minute and since
	Oldest      time.Time `json:"oldest_pending,omitzero"` // CreatedAt of the oldest PENDING job
	OldestDue   time.Time `json:"oldest_due,omitzero"`     // when the job that has been due for the longest became due
}

// Errors to match with errors.Is. What the package returns adds the job and the reason.
var (
	// From Enqueue. ErrBusy also comes from the verbs that people call: those of Canceler, Inspector and Limiter.
	ErrBusy      = errors.New("pinion: got no write lock") // another program held the write lock for ten seconds
	ErrDuplicate = errors.New("pinion: duplicate job")
	ErrTooLarge  = errors.New("pinion: too large")     // more than 1 MiB of encoded arguments, or of a result
	ErrBadArgs   = errors.New("pinion: bad arguments") // also when they do not fit the task; never retried

	// From a Storage.
	ErrLeaseLost = errors.New("pinion: lease lost") // the claim is no longer the caller's; also a cause of cancellation
	ErrNotFound  = errors.New("pinion: job not found")
	ErrClosed    = errors.New("pinion: storage is closed")

	// In a job's Error, or as a cause of cancellation.
	ErrTaskNotFound   = errors.New("pinion: task not found")
	ErrAttemptsUsedUp = errors.New("pinion: attempts used up")
	ErrShutdown       = errors.New("pinion: worker is shutting down")
	ErrCanceled       = errors.New("pinion: job was canceled") // also from MarkFailed and DeadLetter, see Canceler
)

// DuplicateError is the error of an Enqueue whose ID or Key is taken. It matches ErrDuplicate.
type DuplicateError struct {
	ID  string // of the job that holds the Key, or the ID that is taken
	Key string // empty if the ID is taken
}

// Error names what is taken, and who holds it.
func (e *DuplicateError) Error() string {
	if e.Key == "" {
		return fmt.Sprintf("%v: id %q is taken", ErrDuplicate, e.ID)
	}
	return fmt.Sprintf("%v: key %q is held by unfinished job %s", ErrDuplicate, e.Key, e.ID)
}

// Is reports whether target is ErrDuplicate.
func (e *DuplicateError) Is(target error) bool { return target == ErrDuplicate }

// schemes are the backends that Open knows, by the scheme that a dsn begins with.
var (
	schemesMu sync.Mutex // guards schemes
	schemes   = map[string]func(ctx context.Context, dsn string) (Storage, error){
		"memory": openMemoryScheme,
		"sqlite": openSQLiteScheme,
	}
)

func openMemoryScheme(context.Context, string) (Storage, error) {
	return NewMemoryStorage(), nil
}

func openSQLiteScheme(ctx context.Context, dsn string) (Storage, error) {
	s, err := OpenSQLite(ctx, dsn[len("sqlite:"):], nil)
	if err != nil {
		return nil, err // not s: a nil *SQLiteStorage in a Storage is not nil
	}
	return s, nil
}

// Open opens the storage that dsn names. A path, or "sqlite:" and a path, is a SQLite file, which Open creates if it is
// missing. "memory:" is a new MemoryStorage. "scheme:…" is what a backend registered for that scheme. The caller
// closes the storage. [OpenSQLite] takes options: Open knows no settings behind a "?", and refuses them.
func Open(ctx context.Context, dsn string) (Storage, error) {
	if rules.SchemeOf(dsn) == "" {
		dsn = "sqlite:" + dsn
	}
	scheme, rest, _ := strings.Cut(dsn, ":")
	scheme = strings.ToLower(scheme)
	schemesMu.Lock()
	open := schemes[scheme]
	known := slices.Sorted(maps.Keys(schemes))
	schemesMu.Unlock()
	if scheme == "file" {
		return nil, fmt.Errorf("pinion: open: %q: want the path alone, such as jobs.db or /var/jobs.db", dsn)
	}
	if open == nil {
		// The error does not show the dsn, which may hold a password.
		return nil, fmt.Errorf("pinion: open: no backend for the scheme %q (there are: %s); import the package that "+
			"registers it, or write sqlite: before the name of a file", scheme, strings.Join(known, ", "))
	}
	switch scheme {
	case "memory":
		if rest != "" {
			return nil, fmt.Errorf("pinion: open: %q: memory: takes nothing behind the colon", dsn)
		}
	case "sqlite":
		if err := rules.CheckFileName(rest); err != nil {
			return nil, err
		}
	}
	return open(ctx, dsn)
}

// RegisterScheme registers a backend for a scheme: [Open] then hands each dsn that starts with "scheme:", whole, to the
// function open. It is for authors of storages, who call it in an init function. It panics if the scheme is empty,
// malformed or taken, or if open is nil.
func RegisterScheme(scheme string, open func(ctx context.Context, dsn string) (Storage, error)) {
	scheme = strings.ToLower(scheme)
	if open == nil {
		panic(fmt.Sprintf("pinion: RegisterScheme(%q): open is nil", scheme))
	}
	if rules.SchemeOf(scheme+":") != scheme+":" {
		panic(fmt.Sprintf("pinion: RegisterScheme(%q): want letters, digits and + . -, at least two", scheme))
	}
	schemesMu.Lock()
	defer schemesMu.Unlock()
	if schemes[scheme] != nil {
		panic(fmt.Sprintf("pinion: RegisterScheme(%q): the scheme is registered already", scheme))
	}
	schemes[scheme] = open
}

// As returns s as a T, which is an interface such as [Canceler], [Inspector] or [Limiter]. If s is not a T but has a
// method Unwrap() Storage, As goes on with what that returns. So a storage that wraps another has the powers of the
// other too.
func As[T any](s Storage) (T, bool) {
	for s != nil {
		if power, ok := s.(T); ok {
			return power, true
		}
		wrapper, ok := s.(interface{ Unwrap() Storage })
		if !ok {
			break
		}
		s = wrapper.Unwrap()
	}
	var none T
	return none, false
}

const (
	firstLook = 5 * time.Millisecond // between the first two looks of Wait
	lastLook  = time.Second          // between later ones
	pythonGap = time.Minute          // how long a Python worker may leave a job FAILED before it makes it PENDING again
)

// Wait waits until a job has ended, with success or without, and returns it. A Python worker makes a job FAILED between
// two attempts, which is not an end unless it lasts for a minute. Wait looks at the storage every 5 ms at first, and
// every second later. It returns ErrNotFound for an unknown id, the error of a ctx that ends, and errors.ErrUnsupported
// for a storage that isn't an [Inspector].
func Wait(ctx context.Context, s Storage, id string) (*Job, error) {
	in, ok := As[Inspector](s)
	if !ok {
		return nil, fmt.Errorf("pinion: wait: %T: %w: it is not an Inspector", s, errors.ErrUnsupported)
	}
	for gap := firstLook; ; gap = min(gap*2, lastLook) {
		job, err := in.Get(ctx, id)
		if err != nil {
			return nil, err
		}
		ended, err := hasEnded(ctx, in, job)
		if ended || err != nil {
			return job, err
		}
		if !pause(ctx, gap) {
			return nil, ctx.Err()
		}
	}
}

// hasEnded reports whether nobody owes the job anything.
func hasEnded(ctx context.Context, in Inspector, job *Job) (bool, error) {
	switch {
	case job.Status == StatusSuccess:
		return true, nil
	case job.Status != StatusFailed:
		return false, nil
	case job.Canceled, !job.FinishedAt.IsZero(): // Python stores no time of finishing
		return true, nil
	}
	for _, err := range in.DeadLetters(ctx, Filter{IDs: []string{job.ID}}) {
		return err == nil, err
	}
	last := job.CreatedAt
	if job.HeartbeatAt.After(last) {
		last = job.HeartbeatAt
	}
	return time.Since(last) > pythonGap, nil
}

// lastID is the time in the newest id. With it the ids of one process sort in the order in which they were made, also
// within a microsecond and when the clock is set back.
var lastID atomic.Int64

// NewID returns a new job id: a UUIDv7 (RFC 9562, with 12 bits of sub-millisecond time) as 32 hex digits. It is for
// authors of storages.
func NewID() string {
	stamp := nextStamp(time.Now())
	high := stamp>>12<<16 | 7<<12 | stamp&0xfff // milliseconds, the version, the fraction
	low := rand.Uint64()&(1<<62-1) | 1<<63      // the variant, and 62 random bits
	id := binary.BigEndian.AppendUint64(nil, uint64(high))
	return hex.EncodeToString(binary.BigEndian.AppendUint64(id, low))
}

// nextStamp returns now as Unix milliseconds with 12 bits of fraction, or the next larger number if it was given out.
func nextStamp(now time.Time) int64 {
	fraction := int64(now.Nanosecond()%1e6) << 12 / 1e6
	stamp := now.UnixMilli()<<12 | fraction
	for {
		last := lastID.Load()
		next := max(stamp, last+1)
		if lastID.CompareAndSwap(last, next) {
			return next
		}
	}
}

// ErrorText returns cause as MarkFailed and DeadLetter store it in a job's Error: valid UTF-8 without NUL, which not
// every database can store, of at most 16 KiB. It is for authors of storages.
func ErrorText(cause error) string {
	if cause == nil {
		return "unknown error"
	}
	text := fmt.Sprint(cause) // not cause.Error(): Sprint survives an Error method that panics
	text = strings.ToValidUTF8(text, "\uFFFD")
	text = strings.ReplaceAll(text, "\x00", "\uFFFD")
	if len(text) > maxErrorText {
		text = strings.ToValidUTF8(text[:maxErrorText-3], "") + "..."
	}
	return text
}

// What the rooms above this one share.

const (
	defaultQueue = "default"
	maxEncoded   = 1 << 20  // bytes of a job's encoded arguments, and of its result
	maxErrorText = 16 << 10 // bytes of a stored error
	maxName      = 255      // bytes of a worker's name
)

// accepted sets what Enqueue promises to set in a job that it has stored.
func (j *Job) accepted(id, queue string, created time.Time) {
	j.ID = id
	j.Queue = queue
	j.Status = StatusPending
	j.CreatedAt = created
}

// check reports options that make no sense.
func (o DequeueOptions) check() error {
	return rules.CheckDequeue(o.Max, o.Ahead, o.Lease)
}

// attemptsOf returns what DeadLetter stores as the job's Attempts.
func attemptsOf(job *Job, cause error) int {
	if errors.Is(cause, ErrAttemptsUsedUp) {
		return job.Attempts - 1 // the job did not run under this claim
	}
	return job.Attempts
}

// ofOne returns the error of a verb that takes one job, for which a lost or a canceled job is an error.
func ofOne(lost, canceled []*Job, err error) error {
	if err != nil {
		return err
	}
	if len(lost) > 0 {
		return fmt.Errorf("%w: job %s", ErrLeaseLost, lost[0].ID)
	}
	if len(canceled) > 0 {
		return fmt.Errorf("%w: job %s", ErrCanceled, canceled[0].ID)
	}
	return nil
}

// checkDistinct reports a job that is handed to one Enqueue twice.
func checkDistinct(jobs []*Job) error {
	job, found := rules.FindTwice(jobs)
	if !found || job == nil { // a nil *Job is refused for itself
		return nil
	}
	return fmt.Errorf("%w: one *Job of task %q is passed twice; make a Job for each", ErrDuplicate, job.Task)
}

// defaultLease is the Lease of a Dequeue that sets none, and the VisibilityTimeout of such a worker.
const defaultLease = rules.DefaultLease

// StatsCounter adds up the [Stats] of a storage. Its zero value is ready to use. It is for authors of storages.
type StatsCounter struct {
	total         Counts
	queues, tasks map[string]*Counts // by name
}

// Add adds counts of jobs that are in one queue and have one task. It may be called again for the same pair. Of Oldest
// and OldestDue it keeps the earlier.
func (c *StatsCounter) Add(queue, task string, counts Counts) {
	if c.queues == nil {
		c.queues = make(map[string]*Counts)
		c.tasks = make(map[string]*Counts)
	}
	if c.queues[queue] == nil {
		c.queues[queue] = new(Counts)
	}
	if c.tasks[task] == nil {
		c.tasks[task] = new(Counts)
	}
	c.total.add(counts)
	c.queues[queue].add(counts)
	c.tasks[task].add(counts)
}

// Stats returns the sums, sorted by name. It leaves DeadLetters and LastMinute to the storage.
func (c *StatsCounter) Stats() Stats {
	s := Stats{Total: c.total}
	for _, name := range slices.Sorted(maps.Keys(c.queues)) {
		s.Queues = append(s.Queues, QueueStats{name, *c.queues[name]})
	}
	for _, name := range slices.Sorted(maps.Keys(c.tasks)) {
		s.Tasks = append(s.Tasks, TaskStats{name, *c.tasks[name]})
	}
	return s
}

// add adds other counts. The older of two times stays.
func (c *Counts) add(o Counts) {
	c.Pending += o.Pending
	c.Due += o.Due
	c.Running += o.Running
	c.Started += o.Started
	c.SuccessHour += o.SuccessHour
	c.FailedHour += o.FailedHour
	c.Minute += o.Minute
	c.Oldest = rules.Earlier(c.Oldest, o.Oldest)
	c.OldestDue = rules.Earlier(c.OldestDue, o.OldestDue)
}

// processName is the default Name of a worker.
var processName = sync.OnceValue(func() string {
	host, err := os.Hostname()
	if err != nil {
		host = "localhost"
	}
	return fmt.Sprintf("%.200s:%d", strings.ToValidUTF8(host, "\uFFFD"), os.Getpid())
})

// microTime rounds a time down to what every storage keeps.
func microTime(t time.Time) time.Time { return t.UTC().Truncate(time.Microsecond) }

// PanicError is the failure of a task that panicked or called runtime.Goexit.
type PanicError struct {
	Value any    // what panic was called with
	Stack []byte // as debug.Stack returns it
}

// Error returns the value and the stack. What stands before the first empty line is the value alone.
func (e *PanicError) Error() string { return fmt.Sprintf("panic: %v\n\n%s", e.Value, e.Stack) }

// Unwrap returns Value if it is an error.
func (e *PanicError) Unwrap() error {
	err, _ := e.Value.(error)
	return err
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

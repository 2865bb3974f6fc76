package pinion

import (
	"bytes"
	"cmp"
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/pinion-queue/pinion/internal/rules"
	"modernc.org/sqlite"
)

// SQLiteStorage keeps jobs in one SQLite file, which any number of processes may share. The file is that of the Python
// library with columns added.
//
// One connection writes. Verbs that are called at the same time share a transaction, and each returns after its COMMIT.
// Listings have read-only connections of their own and never wait for writers.
type SQLiteStorage struct {
	path    string
	opts    SQLiteOptions
	readers *sql.DB
	jobs    string // what listings select from
	letters string
	opened  []openedFile // the file and, unless read-only, its -wal and -shm
	indexed bool         // the file has our tables and indexes; false for an older one that is open read-only

	leases *sql.DB // one connection for heartbeats and reaping, because listings may use up those of readers

	w       *writer    // nil if read-only
	claims  claims     // the Dequeues that wait
	ends    endCounter // guarded by the writer's connMu
	checked time.Time  // when the -wal and -shm were last looked for; guarded by the writer's connMu

	mu     sync.Mutex // guards the rest
	closed bool
	pruned time.Time              // when Retention was last enforced
	doubts map[claimKey]time.Time // when this storage stored them
}

var _ interface {
	Storage
	Canceler
	Inspector
	Limiter
} = (*SQLiteStorage)(nil)

// SQLiteOptions are settings of OpenSQLite. The zero value is the default.
type SQLiteOptions struct {
	// Synchronous is SQLite's setting of that name: FULL [the default], or NORMAL, which is up to three times
	// faster. With NORMAL the last commits may be lost when the power fails, though not when the process dies.
	Synchronous string
	// Retention is how long finished jobs are kept before running workers prune them [24h]; negative: for ever.
	Retention time.Duration
	// DeadLetterRetention is how long dead letters are kept before running workers purge them [for ever].
	DeadLetterRetention time.Duration
	// PollInterval is how often a waiting Dequeue looks for jobs of other processes [0]. With 0 the operating system
	// wakes it where it can, which is on Linux; elsewhere it looks every 20 ms.
	PollInterval time.Duration
	// ReadOnly opens an existing file to look at it. The file is never created, migrated or written.
	ReadOnly bool
}

// OpenSQLite opens the queue in the file at path, and creates the file with mode 0600 if it is missing. nil opts are
// the defaults. The caller closes the storage.
//
// OpenSQLite migrates files of the Python library and of older Pinions. Python programs keep working on them; an older
// Pinion that has the file open claims nothing more, and cannot open it again.
//
// It returns an error for a file that is not SQLite, for one from a newer Pinion, and for one whose jobs table belongs
// to another program. The file may hold other tables too, which Tx is for, but its PRAGMA user_version is Pinion's. A
// symbolic link is followed once, here; the -wal and -shm stand beside the file itself and have its mode. A link to
// nothing, a directory, a fifo and a device are errors.
func OpenSQLite(ctx context.Context, path string, opts *SQLiteOptions) (*SQLiteStorage, error) {
	s := new(SQLiteStorage)
	if opts != nil {
		s.opts = *opts
	}
	if err := s.open(ctx, path); err != nil {
		s.disconnect()
		return nil, fmt.Errorf("pinion: open %s: %w", path, explain(err))
	}
	if s.w != nil {
		s.claims = claims{
			w:       s.w,
			file:    s.path,
			poll:    s.opts.PollInterval,
			intact:  s.checkReplaced,
			bury:    s.bury,
			stopped: make(chan struct{}),
		}
		s.w.beforeCommit = s.beforeCommit
		s.w.afterTransaction = s.afterTransaction
		s.w.allowInline = s.claims.noneWaits
		s.w.sleepOnly = s.opts.PollInterval != 0
		s.w.start()
	}
	return s, nil
}

// Close waits for the transaction under way, ends all other calls with ErrClosed, and closes the file. Closing again
// does nothing.
func (s *SQLiteStorage) Close() error {
	s.mu.Lock()
	again := s.closed
	s.closed = true
	s.mu.Unlock()
	if s.w != nil {
		s.w.stop()
	}
	if again {
		return nil
	}
	if s.w != nil {
		s.claims.stop()
	}
	return s.disconnect()
}

// write runs a verb in a transaction and returns after its COMMIT. An error that the verb leaves in tx undoes it. If
// ctx ends before the verb has begun, write returns the error of ctx.
func (s *SQLiteStorage) write(ctx context.Context, name string, verb func(tx *transaction)) error {
	if err := s.mayWrite(ctx, name); err != nil {
		return err
	}
	return wrap(name, s.w.do(ctx, verb))
}

// writeOrBusy is write for verbs that people call: if it does not get the write lock within busyPatience, it returns
// ErrBusy. Who calls such a verb inside a transaction of their own on the same file would otherwise wait for ever.
func (s *SQLiteStorage) writeOrBusy(ctx context.Context, name string, verb func(tx *transaction)) error {
	if err := s.mayWrite(ctx, name); err != nil {
		return err
	}
	err := s.w.doWithin(ctx, busyPatience, verb)
	if err == errLocked {
		return s.busy("end that first")
	}
	return wrap(name, err)
}

// mayWrite returns an error if the storage is read-only, or if ctx has ended.
func (s *SQLiteStorage) mayWrite(ctx context.Context, name string) error {
	if s.w == nil {
		return wrap(name, errReadOnly)
	}
	return ctx.Err()
}

// busyPatience is how long Enqueue and the verbs that people call wait for the write lock.
const busyPatience = 10 * time.Second

// busy returns the ErrBusy of a call that has waited for busyPatience, with the advice what to do about a transaction
// of the caller's own.
func (s *SQLiteStorage) busy(advice string) error {
	return fmt.Errorf("%w within %v: another program holds the lock on %s "+
		"(a transaction left open in a sqlite3 shell, say), or a transaction of this program does; "+
		"if so, %s", ErrBusy, busyPatience, s.path, advice)
}

// beforeCommit is the last part of each transaction of the writer.
func (s *SQLiteStorage) beforeCommit(tx *transaction) {
	s.claims.serveDue(tx)
	s.ends.beforeCommit(tx)
	tx.fail(s.checkReplacedAt(tx.now))
}

// afterTransaction follows each transaction of the writer.
func (s *SQLiteStorage) afterTransaction(committed bool) {
	s.ends.afterTransaction(committed)
	s.claims.afterTransaction(committed)
}

// leaseReader returns a session on the connection that only leases use. It waits for no writer and for no listing.
func (s *SQLiteStorage) leaseReader(ctx context.Context) *session {
	q := s.reader(ctx)
	q.query = queries(ctx, s.leases)
	return q
}

// ---- Enqueue ----

// newRow is a job that is about to be stored.
type newRow struct {
	job          *Job
	id, queue    string
	args, kwargs string
	meta         any // nil or JSON
	created      time.Time
	runAt        float64
}

// newRows encodes the jobs of one Enqueue. It returns an error for a job that is wrong, and if ctx has ended.
func newRows(ctx context.Context, jobs []*Job, now time.Time) ([]*newRow, error) {
	if err := checkDistinct(jobs); err != nil {
		return nil, err
	}
	rows := make([]*newRow, len(jobs))
	created := microTime(now)
	for i, job := range jobs {
		args, kwargs, err := job.EncodeArgs()
		if err != nil {
			return nil, err
		}
		rows[i] = &newRow{
			job:     job,
			id:      job.ID,
			queue:   cmp.Or(job.Queue, defaultQueue),
			args:    args,
			kwargs:  kwargs,
			created: created,
			runAt:   seconds(job.RunAt),
		}
		if job.ID == "" {
			rows[i].id = NewID()
		}
		if len(job.Meta) > 0 {
			meta, err := json.Marshal(job.Meta)
			if err != nil {
				return nil, err
			}
			rows[i].meta = string(meta)
		}
	}
	return rows, ctx.Err()
}

// key returns the job's Key as it is stored.
func (r *newRow) key() any {
	if r.job.Key == "" {
		return nil
	}
	return r.job.Key
}

// running returns the job as a claim gets it.
func (r *newRow) running(c *claim, now time.Time) *Job {
	job := &Job{
		ID:            r.id,
		Task:          r.job.Task,
		Queue:         r.queue,
		Priority:      r.job.Priority,
		RunAt:         fromSeconds(r.runAt),
		Key:           r.job.Key,
		KeyUntilStart: r.job.KeyUntilStart,
		Meta:          maps.Clone(r.job.Meta),
		Status:        StatusRunning,
		Attempts:      1,
		Claim:         now.UnixMicro(),
		Worker:        c.worker,
		CreatedAt:     r.created,
		HeartbeatAt:   microTime(now),
		LeaseUntil:    microTime(now).Add(c.lease),
	}
	job.splitArgs(r.args, r.kwargs)
	return job
}

// accept fills in the callers' jobs after the COMMIT.
func accept(rows []*newRow) {
	for _, r := range rows {
		r.job.accepted(r.id, r.queue, r.created)
	}
}

// Enqueue stores the jobs; see [Storage].
func (s *SQLiteStorage) Enqueue(ctx context.Context, jobs ...*Job) error {
	now := time.Now()
	rows, err := newRows(ctx, jobs, now)
	if err != nil {
		return err
	}
	if len(rows) == 0 { // nothing to store, but the storage may be closed
		return s.reader(ctx).err
	}
	if s.w == nil {
		return wrap("enqueue", errReadOnly)
	}
	var duplicate error
	giveUp := now.Add(busyPatience)
	err = s.w.doInline(ctx, giveUp, func(tx *transaction) {
		duplicate = findDuplicate(&tx.session, rows)
		if duplicate == nil {
			s.store(tx, rows)
		}
	})
	if err == errLocked {
		return s.busy("enqueue with SQLiteStorage.Tx")
	}
	if err != nil {
		return wrap("enqueue", err)
	}
	if duplicate != nil {
		return duplicate
	}
	accept(rows)
	return nil
}

// store inserts the rows. A single job may go to a claim that waits; of several jobs the claims choose by priority.
func (s *SQLiteStorage) store(tx *transaction, rows []*newRow) {
	if len(rows) == 1 {
		holder := s.claims.handOver(tx, rows[0])
		if holder != nil {
			insertRunning(tx, rows[0], holder)
			return
		}
	}
	insertPending(&tx.session, rows, tx.now)
	for _, r := range rows {
		s.claims.changed(r.queue)
	}
}

const holderOf = `SELECT id FROM jobs WHERE key=? AND status IN ('PENDING', 'RUNNING') AND key_until_start<2`

// findDuplicate returns a DuplicateError for the first row whose ID exists, or whose Key another unfinished job holds,
// in the table or in rows. q must hold the write lock.
func findDuplicate(q *session, rows []*newRow) error {
	ids := make(map[string]bool)
	keys := make(map[string]string) // the IDs of the rows that have them
	for _, r := range rows {
		if r.job.ID != "" {
			if ids[r.id] || q.value(`SELECT 1 FROM jobs WHERE id=?`, r.id) != nil {
				return &DuplicateError{ID: r.id}
			}
			ids[r.id] = true
		}
		if r.job.Key != "" {
			holder := keys[r.job.Key]
			if found := q.value(holderOf, r.job.Key); found != nil {
				holder = text(found)
			}
			if holder != "" {
				return &DuplicateError{ID: holder, Key: r.job.Key}
			}
			keys[r.job.Key] = r.id
		}
	}
	return nil
}

// perStatement is how many rows an UPDATE changes, which is 40 % faster than one row each; more add little.
const perStatement = 8

// severalRows binds perStatement values, after IN.
var severalRows = "(?" + strings.Repeat(", ?", perStatement-1) + ")"

var pendingForm = newInsertForm(
	`INSERT INTO jobs (id, func_name, args, kwargs, queue, priority, key, key_until_start, meta,
		created_at, run_at, future, status, attempts)`,
	`?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, 'PENDING', 0`)

func insertPending(q *session, rows []*newRow, now time.Time) {
	current := seconds(now)
	for _, r := range rows {
		q.insert(pendingForm, r.id, r.job.Task, r.args, r.kwargs, r.queue, r.job.Priority, r.key(), r.job.KeyUntilStart,
			r.meta, seconds(r.created), r.runAt, r.runAt > current)
	}
}

var runningForm = newInsertForm(
	`INSERT INTO jobs (id, func_name, args, kwargs, queue, priority, key, key_until_start, meta,
		created_at, run_at, claim, heartbeat_at, worker, lease, status, attempts)`,
	`?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, 'RUNNING', 1`)

// insertRunning inserts a job that was handed to a claim.
func insertRunning(tx *transaction, r *newRow, c *claim) {
	keyUntilStart := 0
	if r.job.KeyUntilStart {
		keyUntilStart = 2 // it gives up its key at once
	}
	tx.insert(runningForm, r.id, r.job.Task, r.args, r.kwargs, r.queue, r.job.Priority, r.key(), keyUntilStart, r.meta,
		seconds(r.created), r.runAt, tx.now.UnixMicro(), seconds(tx.now), c.worker, c.lease.Seconds())
}

// Tx returns a [Tx] that enqueues jobs, and ends the job of a task, inside tx. tx is a transaction of
// modernc.org/sqlite on the same file; on another file Enqueue and Done return an error. The jobs become visible, and
// wake workers, when tx commits. After a rollback nothing is stored. All jobs of a call are stored or none. Errors
// are those of Enqueue and of tx.
//
// While tx is open the storage's own verbs that write wait for it, so do not call Enqueue on the storage before its
// end. Open the database with "?_pragma=busy_timeout(5000)&_txlock=immediate", so that tx waits for other writers,
// workers among them.
func (s *SQLiteStorage) Tx(tx *sql.Tx) Tx { return sqliteTx{s, tx} }

type sqliteTx struct {
	storage *SQLiteStorage
	tx      *sql.Tx
}

// Enqueue implements [Enqueuer].
func (t sqliteTx) Enqueue(ctx context.Context, jobs ...*Job) error {
	rows, err := newRows(ctx, jobs, time.Now())
	if err != nil {
		return err
	}
	if len(rows) == 0 { // nothing to store, but the storage may be closed
		return t.storage.reader(ctx).err
	}
	if err := t.insert(ctx, rows); err != nil {
		return wrap("enqueue", err)
	}
	accept(rows)
	return nil
}

// insert stores all rows or none, and leaves the transaction as it was after an error.
func (t sqliteTx) insert(ctx context.Context, rows []*newRow) error {
	q := t.session(ctx)
	if err := t.checkFile(q); err != nil {
		return err
	}
	q.exec("SAVEPOINT pinion")
	// This changes no row and takes the write lock. A read that comes first might forbid the write.
	q.exec("UPDATE jobs SET status=status WHERE 0")
	q.fail(findDuplicate(q, rows))
	insertPending(q, rows, time.Now())
	q.flush()
	err := q.err
	q.err = nil
	if err != nil {
		q.exec("ROLLBACK TO pinion")
	}
	q.exec("RELEASE pinion")
	if err == nil {
		err = q.err
	}
	return err
}

// Done implements [Tx].
func (t sqliteTx) Done(ctx context.Context) error {
	return EndInTx(ctx, func(job *Job) error { return wrap("done in a transaction", t.markDone(ctx, job)) })
}

// markDone makes the job SUCCESS if it is still under its claim.
func (t sqliteTx) markDone(ctx context.Context, job *Job) error {
	q := t.session(ctx)
	if err := t.checkFile(q); err != nil {
		return err
	}
	now := time.Now()
	updated := q.exec(`UPDATE jobs SET `+markDone+underClaim,
		seconds(now), storedResult(job), job.ID, job.Claim, job.Attempts)
	if q.err == nil && updated == 0 {
		return fmt.Errorf("%w: job %s", ErrLeaseLost, job.ID)
	}
	writeEnd(q, job, now)
	return q.err
}

// session returns a session in the transaction. Where the transaction itself does not wait for the write lock, the
// session does, until ctx ends. Nothing else is interrupted: an INSERT that is would end the user's transaction.
func (t sqliteTx) session(ctx context.Context) *session {
	uninterrupted := context.WithoutCancel(ctx)
	return &session{
		query: queries(uninterrupted, t.tx),
		change: func(query string, args []any) (sql.Result, error) {
			for {
				result, err := t.tx.ExecContext(uninterrupted, query, args...)
				// Other codes of BUSY do not go away: an earlier read of the transaction is too old for a write.
				e, ok := errors.AsType[*sqlite.Error](err)
				if !ok || e.Code() != codeBusy || !pause(ctx, lockPause()) {
					return result, err
				}
			}
		},
	}
}

// checkFile returns an error if the transaction is on another file. It reads no page, because a read that comes before
// the first write may forbid that.
func (t sqliteTx) checkFile(q *session) error {
	file := ""
	for v := range q.rows("PRAGMA database_list") {
		if text(v[1]) == "main" {
			file = text(v[2])
		}
	}
	if q.err != nil {
		return q.err
	}
	if err := t.storage.checkReplaced(); err != nil {
		return err
	}
	if !sameFile(file, t.storage.path) {
		return fmt.Errorf("the transaction is on %q and the queue is %q; they must be one file", file, t.storage.path)
	}
	return nil
}

func sameFile(a, b string) bool {
	infoA, errA := os.Stat(a)
	infoB, errB := os.Stat(b)
	return errA == nil && errB == nil && os.SameFile(infoA, infoB)
}

// ---- Dequeue ----

// Dequeue claims jobs; see [Storage].
func (s *SQLiteStorage) Dequeue(ctx context.Context, opts DequeueOptions) ([]*Job, error) {
	if err := opts.check(); err != nil {
		return nil, err
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if s.w == nil {
		return nil, wrap("dequeue", errReadOnly)
	}
	c := newClaim(opts)
	err := s.claims.serve(ctx, c)
	switch {
	case err == nil:
		return c.jobs, nil
	case ctx.Err() != nil && errors.Is(err, ctx.Err()):
		return nil, ctx.Err()
	default:
		return nil, wrap("dequeue", err)
	}
}

// ---- The end of a claim ----

const (
	// underClaim takes the job's ID, Claim and Attempts.
	underClaim = ` WHERE id=? AND status='RUNNING' AND claim=? AND attempts=?`

	// claimEnds clears what belongs to a claim.
	claimEnds = `, lease=0, doubted_at=NULL, started_at=NULL`

	markDone  = `status='SUCCESS', finished_at=?, result=?` + claimEnds
	cancelRow = `UPDATE jobs SET status='FAILED', error=?, finished_at=?, cancel=1` + claimEnds

	toDLQ = `INSERT OR REPLACE INTO dlq (id, func_name, args, kwargs, attempts, error, failed_at,
			queue, priority, key, key_until_start, meta, result)
		SELECT id, func_name, args, kwargs, attempts, error, finished_at,
			queue, priority, key, key_until_start, meta, result
		FROM jobs WHERE `
)

// underOneClaim takes perStatement IDs, and the Claim and Attempts that they share. The + keeps the planner on the IDs;
// an index on the others finds more jobs.
var underOneClaim = ` WHERE id IN ` + severalRows + ` AND +status='RUNNING' AND +claim=? AND attempts=?`

// storedResult returns a job's Result as it is stored: as text, because bytes would become a BLOB.
func storedResult(job *Job) any {
	if job.Result == nil {
		return nil
	}
	return string(job.Result)
}

// bury dead-letters a row that another program wrote and that no worker can run, so that it does not block those behind
// it.
func (s *SQLiteStorage) bury(tx *transaction, rowid int64, job *Job, reason error) {
	tx.exec(`UPDATE jobs SET status='FAILED', error=?, finished_at=?, buried=1 WHERE rowid=?`,
		ErrorText(reason), seconds(tx.now), rowid)
	tx.exec(toDLQ+`rowid=?`, rowid)
	s.ends.add(job.Queue, job.Task, StatusFailed, 0)
}

// errSomeLost is the error of a statement for several jobs of which some are not under their claim.
var errSomeLost = errors.New("some jobs are no longer under their claims")

// updateHeld sets columns of the jobs that are still under their claims, and returns the others. Jobs that were claimed
// together share statements. Such a statement does not say which jobs are lost; if one finds too few, all is rolled
// back, and the jobs get statements of their own.
func (s *SQLiteStorage) updateHeld(
	ctx context.Context, name string, jobs []*Job, u heldUpdate,
) (lost []*Job, err error) {
	err = s.write(ctx, name, func(tx *transaction) {
		for group := range claimedTogether(jobs) {
			updated := updateGroup(tx, group, u.set, u.args(tx, group[0]))
			if updated < len(group) {
				tx.fail(errSomeLost)
			}
			u.updated(tx, group...)
		}
	})
	if !errors.Is(err, errSomeLost) {
		return nil, err
	}
	err = s.write(ctx, name, func(tx *transaction) {
		lost = nil
		for _, job := range jobs {
			bound := append(u.args(tx, job), job.ID, job.Claim, job.Attempts)
			if tx.exec(`UPDATE jobs SET `+u.set+underClaim, bound...) > 0 {
				u.updated(tx, job)
			} else {
				lost = append(lost, job)
			}
		}
	})
	if err != nil {
		return nil, err
	}
	return lost, nil
}

// heldUpdate is what updateHeld does with jobs.
type heldUpdate struct {
	set     string                                // the columns
	args    func(tx *transaction, job *Job) []any // their values, which jobs with equal Result and StartedAt share
	updated func(tx *transaction, jobs ...*Job)   // is called for the jobs that were updated
}

// claimedTogether yields the jobs in groups of at most perStatement for which endsAlike holds.
func claimedTogether(jobs []*Job) func(yield func(group []*Job) bool) {
	return func(yield func([]*Job) bool) {
		for len(jobs) > 0 {
			n := 1
			for n < min(len(jobs), perStatement) && endsAlike(jobs[0], jobs[n]) {
				n++
			}
			if !yield(jobs[:n]) {
				return
			}
			jobs = jobs[n:]
		}
	}
}

// endsAlike reports whether two jobs differ in nothing that a heldUpdate stores, and have the same Claim and Attempts.
func endsAlike(a, b *Job) bool {
	return a.Claim == b.Claim && a.Attempts == b.Attempts &&
		a.StartedAt.Equal(b.StartedAt) && bytes.Equal(a.Result, b.Result)
}

// updateGroup sets columns of jobs that are under one claim, and returns how many are.
func updateGroup(tx *transaction, jobs []*Job, set string, args []any) int {
	if len(jobs) == 1 {
		args = append(args, jobs[0].ID, jobs[0].Claim, jobs[0].Attempts)
		return tx.exec(`UPDATE jobs SET `+set+underClaim, args...)
	}
	for i := range perStatement {
		if i < len(jobs) {
			args = append(args, jobs[i].ID)
		} else {
			args = append(args, nil) // equals nothing
		}
	}
	args = append(args, jobs[0].Claim, jobs[0].Attempts)
	return tx.exec(`UPDATE jobs SET `+set+underOneClaim, args...)
}

// endClaims calls end for each job; end runs an UPDATE with heldAndNotCanceled, and reports whether it changed the job.
// Jobs that Cancel was called for become FAILED instead and are returned as canceled.
func (s *SQLiteStorage) endClaims(
	ctx context.Context, name string, jobs []*Job, end func(tx *transaction, job *Job) bool,
) (lost, canceled []*Job, err error) {
	err = s.write(ctx, name, func(tx *transaction) {
		lost, canceled = nil, nil
		for _, job := range jobs {
			s.claims.claimEnded()
			if end(tx, job) {
				continue
			}
			ended := tx.exec(cancelRow+underClaim,
				ErrCanceled.Error(), seconds(tx.now), job.ID, job.Claim, job.Attempts)
			if ended > 0 {
				s.ends.add(job.Queue, job.Task, StatusFailed, sinceClaim(job.Claim, tx.now))
				canceled = append(canceled, job)
			} else {
				lost = append(lost, job)
			}
		}
	})
	if err != nil {
		return nil, nil, err
	}
	return lost, canceled, nil
}

const heldAndNotCanceled = underClaim + ` AND cancel=0`

// MarkDone records success; see [Storage].
func (s *SQLiteStorage) MarkDone(ctx context.Context, jobs ...*Job) (lost []*Job, err error) {
	return s.updateHeld(ctx, "mark done", jobs, heldUpdate{
		set:  markDone,
		args: func(tx *transaction, job *Job) []any { return []any{seconds(tx.now), storedResult(job)} },
		updated: func(tx *transaction, jobs ...*Job) {
			s.claims.claimEnded()
			for _, job := range jobs {
				s.ends.add(job.Queue, job.Task, StatusSuccess, sinceClaim(job.Claim, tx.now))
			}
		},
	})
}

// MarkFailed records a failure that is to be retried; see [Storage].
func (s *SQLiteStorage) MarkFailed(ctx context.Context, job *Job, cause error, retryAt time.Time) error {
	errorText := ErrorText(cause) // not in the transaction: it runs code of the user's
	return ofOne(s.endClaims(ctx, "mark failed", []*Job{job}, func(tx *transaction, job *Job) bool {
		s.claims.changed(job.Queue)
		return tx.exec(`UPDATE jobs SET status='PENDING', error=?, reaped=0,
				run_at=?, future=?`+claimEnds+heldAndNotCanceled,
			errorText, seconds(retryAt), seconds(retryAt) > seconds(tx.now), job.ID, job.Claim, job.Attempts) > 0
	}))
}

// DeadLetter gives a job up; see [Storage].
func (s *SQLiteStorage) DeadLetter(ctx context.Context, job *Job, cause error) error {
	attempts, errorText := attemptsOf(job, cause), ErrorText(cause)
	return ofOne(s.endClaims(ctx, "dead-letter", []*Job{job}, func(tx *transaction, job *Job) bool {
		updated := tx.exec(`UPDATE jobs SET status='FAILED', error=?, finished_at=?, attempts=?, buried=1,
			result=coalesce(?, result)`+claimEnds+heldAndNotCanceled,
			errorText, seconds(tx.now), attempts, storedResult(job), job.ID, job.Claim, job.Attempts)
		if updated == 0 {
			return false
		}
		tx.exec(toDLQ+`id=?`, job.ID)
		s.ends.add(job.Queue, job.Task, StatusFailed, sinceClaim(job.Claim, tx.now))
		return true
	}))
}

// Release gives claims back; see [Storage].
func (s *SQLiteStorage) Release(
	ctx context.Context, at time.Time, cause error, jobs ...*Job,
) (lost, canceled []*Job, err error) {
	var errorText any // NULL leaves the error as it is
	if cause != nil {
		errorText = ErrorText(cause)
	}
	return s.endClaims(ctx, "release", jobs, func(tx *transaction, job *Job) bool {
		s.claims.changed(job.Queue)
		return tx.exec(`UPDATE jobs SET status='PENDING', attempts=attempts-1, error=coalesce(?, error), reaped=0,
				run_at=?, future=?`+claimEnds+heldAndNotCanceled,
			errorText, seconds(at), seconds(at) > seconds(tx.now), job.ID, job.Claim, job.Attempts) > 0
	})
}

// ---- Leases ----

// Heartbeat prolongs claims; see [Storage].
func (s *SQLiteStorage) Heartbeat(ctx context.Context, jobs ...*Job) (lost []*Job, err error) {
	return s.updateHeld(ctx, "heartbeat", jobs, heldUpdate{
		set: `heartbeat_at=?, doubted_at=NULL, started_at=coalesce(started_at, ?), result=coalesce(?, result)`,
		args: func(tx *transaction, job *Job) []any {
			var started any
			if !job.StartedAt.IsZero() {
				started = seconds(job.StartedAt)
			}
			return []any{seconds(tx.now), started, storedResult(job)}
		},
		updated: func(*transaction, ...*Job) {},
	})
}

// ---- Limits ----

// SetLimit bounds how many jobs of a queue run at once; see [Limiter].
func (s *SQLiteStorage) SetLimit(ctx context.Context, queue string, max int) error {
	queue = cmp.Or(queue, defaultQueue)
	if err := checkLimited(queue); err != nil {
		return err
	}
	return s.writeOrBusy(ctx, "set limit", func(tx *transaction) {
		if max < 0 {
			tx.exec(`DELETE FROM pinion_limits WHERE queue=?`, queue)
		} else {
			tx.exec(`INSERT INTO pinion_limits (queue, most) VALUES (?, ?)
				ON CONFLICT (queue) DO UPDATE SET most=excluded.most`, queue, min(max, rules.MostLimit))
		}
		s.claims.changed(queue)
	})
}

// Limits returns the limits by queue; see [Limiter].
func (s *SQLiteStorage) Limits(ctx context.Context) (map[string]int, error) {
	limits := make(map[string]int)
	if !s.indexed { // an older file has no such table
		return limits, nil
	}
	q := s.reader(ctx)
	for v := range q.rows(`SELECT queue, most FROM pinion_limits`) {
		limits[text(v[0])] = int(integer(v[1]))
	}
	if q.err != nil {
		return nil, wrap("limits", q.err)
	}
	return limits, nil
}

// ---- Cancellation ----

// Cancel cancels jobs; see [Canceler].
func (s *SQLiteStorage) Cancel(ctx context.Context, ids ...string) (ended, asked []string, err error) {
	err = s.writeOrBusy(ctx, "cancel", func(tx *transaction) {
		ended, asked = nil, nil
		for _, id := range ids {
			if s.cancelPending(tx, id) {
				ended = append(ended, id)
			} else if tx.exec(`UPDATE jobs SET cancel=1 WHERE id=? AND status='RUNNING'`, id) > 0 {
				asked = append(asked, id)
			}
		}
	})
	if err != nil {
		return nil, nil, err
	}
	return ended, asked, nil
}

// cancelPending ends a job if it is PENDING.
func (s *SQLiteStorage) cancelPending(tx *transaction, id string) (ended bool) {
	for v := range tx.rows(cancelRow+` WHERE id=? AND status='PENDING' RETURNING queue, func_name`,
		ErrCanceled.Error(), seconds(tx.now), id) {
		ended = true
		s.claims.changed(text(v[0]))
		s.ends.add(text(v[0]), text(v[1]), StatusFailed, 0)
	}
	return ended
}

// Canceled returns the jobs that Cancel was called for; see [Canceler]. It only reads, so it waits for no writer.
func (s *SQLiteStorage) Canceled(ctx context.Context, jobs ...*Job) (canceled []*Job, err error) {
	ids := make([]string, len(jobs))
	for i, job := range jobs {
		ids[i] = strings.ToValidUTF8(job.ID, "") // an ID that is not UTF-8 must not spoil the others' answer
	}
	encoded, err := encode(ids)
	if err != nil {
		return nil, err
	}
	q := s.leaseReader(ctx)
	// The + keeps the planner on the IDs.
	for v := range q.rows(`SELECT json_each.key, claim, attempts FROM json_each(?) CROSS JOIN jobs ON jobs.id=value
		WHERE +status='RUNNING' AND cancel<>0`, string(encoded)) {
		job := jobs[integer(v[0])]
		if job.Claim == integer(v[1]) && job.Attempts == int(integer(v[2])) {
			canceled = append(canceled, job)
		}
	}
	return canceled, wrap("canceled", q.err)
}

// ---- Rows ----

const (
	// A claim sets the other columns, or they are empty in a job that waits. The driver takes time for each column.
	claimColumns = `id, func_name, args, kwargs, attempts, claim, created_at, error,
		queue, priority, run_at, key, cancel, key_until_start, meta, reaped`
	jobColumns    = claimColumns + `, status, heartbeat_at, finished_at, result, worker, lease, started_at`
	letterColumns = `id, func_name, args, kwargs, attempts, 0, NULL, error, queue, priority, 0, key, 0,
		key_until_start, meta, 0,
		'FAILED', NULL, failed_at, result, '', 0, NULL`
)

// jobOf reads a rowid and claimColumns or jobColumns. unusable says why no worker can run the job.
func jobOf(v []any) (rowid int64, job *Job, unusable error) {
	rowid, v = integer(v[0]), v[1:]
	job = &Job{
		ID:        text(v[0]),
		Task:      text(v[1]),
		Attempts:  int(integer(v[4])),
		Claim:     integer(v[5]),
		CreatedAt: fromSeconds(v[6]),
		Error:     text(v[7]),
		Queue:     text(v[8]),
		Priority:  int(integer(v[9])),
		RunAt:     fromSeconds(v[10]),
		Key:       text(v[11]),
		Canceled:  integer(v[12]) != 0,

		KeyUntilStart: integer(v[13]) > 0,
		Meta:          metaOf(v[14]),
		Reaped:        int(integer(v[15])),
	}
	if len(v) > 16 {
		readEnd(job, v[16:])
	}
	unusable = job.DecodeArgs(text(v[2]), text(v[3]))
	if unusable != nil {
		shown, _ := encode(strings.ToValidUTF8(text(v[2])+" "+text(v[3]), "\uFFFD"))
		job.Args, job.Kwargs = []any{json.RawMessage(shown)}, nil
	}
	_, idOK := v[0].(string)
	attempts, attemptsOK := v[4].(int64)
	claim, claimOK := v[5].(int64)
	attemptsOK = attemptsOK && attempts >= 0 && attempts <= math.MaxInt32
	claimOK = claimOK && claim >= 0 && claim <= math.MaxInt64/2
	if !idOK || !attemptsOK || !claimOK {
		unusable = fmt.Errorf("pinion: a stored job with id %v, attempts %v and claim %v", v[0], v[4], v[5])
	}
	return rowid, job, unusable
}

// readEnd reads the columns that jobColumns has and claimColumns lacks.
func readEnd(job *Job, v []any) {
	job.Status = Status(text(v[0]))
	job.HeartbeatAt = fromSeconds(v[1])
	job.FinishedAt = fromSeconds(v[2])
	result := text(v[3])
	if result != "" && json.Valid([]byte(result)) {
		job.Result = json.RawMessage(result)
	}
	job.Worker = text(v[4])
	lease, _ := v[5].(float64)
	if job.Status == StatusRunning && lease > 0 {
		job.LeaseUntil = job.HeartbeatAt.Add(fromFloat(lease))
	}
	job.StartedAt = fromSeconds(v[6])
}

// metaOf returns a stored Meta, or nil if another program has stored something else there.
func metaOf(v any) (meta map[string]string) {
	if v == nil {
		return nil
	}
	if err := json.Unmarshal([]byte(text(v)), &meta); err != nil {
		return nil
	}
	return meta
}

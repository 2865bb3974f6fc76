package postgres

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pinion-queue/pinion"
)

const (
	insertColumnsSQL = `INSERT INTO @jobs (id, task, args, kwargs, queue, priority, run_at, future, key, created_at) `
	insertOneSQL     = insertColumnsSQL + `VALUES ($1, $2, $3, $4, $5, $6, $7, coalesce($7>statement_timestamp(), false), $8, $9)`
	// A conflict is an error of the first statement, which the server logs. An ID or a Key of the caller's often
	// conflicts.
	insertOneChosenSQL = insertOneSQL + ` ON CONFLICT DO NOTHING`
	insertManySQL      = insertColumnsSQL + `
		SELECT id, task, args, kwargs, queue, priority, run_at, coalesce(run_at>statement_timestamp(), false), key, $9
		FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[], $6::bigint[], $7::timestamptz[], $8::text[])
			WITH ORDINALITY AS t(id, task, args, kwargs, queue, priority, run_at, key, n)
		ORDER BY n`
	jobStoredSQL = `SELECT EXISTS (SELECT FROM @jobs WHERE id=$1 AND created_at=$2)`
	idTakenSQL   = `SELECT id FROM @jobs WHERE id=ANY($1::text[]) LIMIT 1`
	keyTakenSQL  = `SELECT id, key FROM @jobs WHERE key=ANY($1::text[]) AND key IS NOT NULL AND status IN ('PENDING', 'RUNNING') LIMIT 1`
)

// maxName is how many bytes an ID, a task, a queue or a Key takes at most. A row of an index holds 2.7 kB.
const maxName = 1 << 10

// newJob is a job on its way into the table.
type newJob struct {
	job          *pinion.Job // the caller's
	id, queue    string
	args, kwargs string
	runAt        *time.Time
	key          *string
}

// batch is what one statement inserts.
type batch struct {
	jobs    []newJob
	chosen  bool      // the caller chose an ID or a Key, so it may be taken
	created time.Time // CreatedAt of all
}

// newBatch encodes the jobs of one Enqueue. It returns a DuplicateError if two of them have the same ID or Key.
func newBatch(jobs []*pinion.Job) (*batch, error) {
	b := &batch{jobs: make([]newJob, len(jobs)), created: microTime(time.Now())}
	ids := make(map[string]bool)
	holders := make(map[string]string) // ids by Key
	for i, job := range jobs {
		n, err := encode(job)
		if err != nil {
			return nil, err
		}
		if job.ID != "" {
			if ids[job.ID] {
				return nil, &pinion.DuplicateError{ID: job.ID}
			}
			ids[job.ID] = true
			b.chosen = true
		}
		if job.Key != "" {
			if holder, twice := holders[job.Key]; twice {
				return nil, &pinion.DuplicateError{ID: holder, Key: job.Key}
			}
			holders[job.Key] = n.id
			b.chosen = true
		}
		b.jobs[i] = n
	}
	return b, nil
}

func encode(job *pinion.Job) (n newJob, err error) {
	n = newJob{job: job, id: job.ID, queue: queueName(job.Queue), runAt: timeOrNull(job.RunAt)}
	n.args, n.kwargs, err = job.EncodeArgs()
	if err != nil {
		return n, err
	}
	if err := checkNames(job); err != nil {
		return n, err
	}
	if n.id == "" {
		n.id = pinion.NewID()
	}
	if job.Key != "" {
		n.key = new(job.Key)
	}
	return n, nil
}

// checkNames returns an error for names that PostgreSQL cannot store or index.
func checkNames(job *pinion.Job) error {
	for _, name := range []string{job.ID, job.Task, job.Queue, job.Key} {
		if strings.Contains(name, "\x00") {
			return fmt.Errorf("%w: the name %.100q holds a NUL, which PostgreSQL cannot store", pinion.ErrBadArgs, name)
		}
		if len(name) > maxName {
			return fmt.Errorf("%w: the name %.100q… has %d bytes; want at most %d", pinion.ErrTooLarge, name, len(name), maxName)
		}
	}
	return nil
}

// accept sets the fields of the callers' jobs, once they are stored.
func (b *batch) accept() {
	for _, n := range b.jobs {
		n.job.ID, n.job.Queue = n.id, n.queue
		n.job.Status, n.job.CreatedAt = pinion.StatusPending, b.created
	}
}

// Enqueue implements [pinion.Storage].
func (s *Storage) Enqueue(ctx context.Context, jobs ...*pinion.Job) error {
	b, err := newBatch(jobs)
	if err != nil {
		return s.nameHolder(ctx, err)
	}
	if len(jobs) == 0 {
		return s.read(ctx, "enqueue", func(context.Context, *pgx.Conn) error { return nil })
	}
	c := &call{verb: "enqueue", writes: true, start: time.Now()}
	c.run = func(ctx context.Context, conn *pgx.Conn, again bool) error {
		return s.insertOrName(ctx, conn, b, again)
	}
	if len(jobs) == 1 && !b.chosen && ctx.Err() == nil {
		var done bool
		ctx, done, err = s.enqueueTogether(ctx, c, b)
		if done {
			return err
		}
	}
	if err := s.retry(ctx, c); err != nil {
		return err
	}
	b.accept()
	s.announceJobs()
	return nil
}

// enqueueTogether lets the job share a statement with those of concurrent calls. If that fails, which may be due to
// another's job, done is false, and the caller goes on alone, with the ctx that is returned.
func (s *Storage) enqueueTogether(ctx context.Context, c *call, b *batch) (alone context.Context, done bool, err error) {
	sent, err := s.insertTogether(ctx, b)
	if err == nil {
		b.accept()
		return ctx, true, nil
	}
	if !sent {
		return ctx, false, nil
	}
	c.stored = true
	if time.Since(c.start) > retryFor {
		return ctx, true, c.failed(err)
	}
	return context.WithoutCancel(ctx), false, nil
}

// insertOrName stores the batch, or returns a DuplicateError that names the job which has an ID or a Key of it.
func (s *Storage) insertOrName(ctx context.Context, conn *pgx.Conn, b *batch, again bool) error {
	for {
		stored, err := s.insert(ctx, conn, b)
		if stored || err != nil {
			return err
		}
		if again { // an earlier try may have stored the batch; then its first job is there, and so are the others
			var ours bool
			err := conn.QueryRow(ctx, s.sql(jobStoredSQL), b.jobs[0].id, b.created).Scan(&ours)
			if ours || err != nil {
				return err
			}
		}
		if err := s.holder(ctx, conn, b); err != nil {
			return err
		}
		// The job that held the Key has finished meanwhile.
	}
}

// querier is a connection or a transaction.
type querier interface {
	Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error)
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
}

// insert stores the batch. stored is false if an ID or a Key is taken.
func (s *Storage) insert(ctx context.Context, q querier, b *batch) (stored bool, err error) {
	var tag pgconn.CommandTag
	if len(b.jobs) == 1 {
		n := b.jobs[0]
		statement := insertOneSQL
		if b.chosen {
			statement = insertOneChosenSQL
		}
		tag, err = q.Exec(ctx, s.sql(statement),
			n.id, n.job.Task, n.args, n.kwargs, n.queue, n.job.Priority, n.runAt, n.key, b.created)
	} else {
		tag, err = q.Exec(ctx, s.sql(insertManySQL), b.columns()...)
	}
	if isCode(err, uniqueViolation) {
		return false, nil
	}
	return err == nil && tag.RowsAffected() > 0, err
}

// columns returns the arguments of insertMany.
func (b *batch) columns() []any {
	size := len(b.jobs)
	ids, tasks, queues := make([]string, size), make([]string, size), make([]string, size)
	args, kwargs := make([]string, size), make([]string, size)
	priorities := make([]int64, size)
	runAts := make([]*time.Time, size)
	keys := make([]*string, size)
	for i, n := range b.jobs {
		ids[i], tasks[i], queues[i] = n.id, n.job.Task, n.queue
		args[i], kwargs[i] = n.args, n.kwargs
		priorities[i] = int64(n.job.Priority)
		runAts[i], keys[i] = n.runAt, n.key
	}
	return []any{ids, tasks, args, kwargs, queues, priorities, runAts, keys, b.created}
}

// holder returns a DuplicateError that names the job which has an ID or a Key of the batch, or nil if there is none.
func (s *Storage) holder(ctx context.Context, q querier, b *batch) error {
	var ids, keys []string
	for _, n := range b.jobs {
		ids = append(ids, n.id)
		if n.key != nil {
			keys = append(keys, *n.key)
		}
	}
	var taken pinion.DuplicateError
	err := q.QueryRow(ctx, s.sql(idTakenSQL), ids).Scan(&taken.ID)
	if errors.Is(err, pgx.ErrNoRows) {
		err = q.QueryRow(ctx, s.sql(keyTakenSQL), keys).Scan(&taken.ID, &taken.Key)
	}
	if errors.Is(err, pgx.ErrNoRows) {
		return nil
	}
	if err != nil {
		return err
	}
	return &taken
}

// nameHolder returns the error of newBatch. If two jobs of the batch have the same Key and a job holds it already, the
// error names that job.
func (s *Storage) nameHolder(ctx context.Context, err error) error {
	duplicate, ok := errors.AsType[*pinion.DuplicateError](err)
	failed := s.read(ctx, "enqueue", func(ctx context.Context, conn *pgx.Conn) error {
		if !ok || duplicate.Key == "" {
			return nil
		}
		return s.holder(ctx, conn, &batch{jobs: []newJob{{key: &duplicate.Key}}})
	})
	if errors.Is(failed, pinion.ErrDuplicate) {
		return failed
	}
	return err
}

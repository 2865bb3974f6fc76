package postgres

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pinion-queue/pinion"
	"github.com/pinion-queue/pinion/internal/rules"
)

const (
	insertColumnsSQL = `INSERT INTO @jobs (id, task, folded, args, kwargs, queue, priority, run_at, future, key,
		key_until_start, meta, created_at) `
	insertOneSQL = insertColumnsSQL + `
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, coalesce($8>statement_timestamp(), false), $9, $10, $11, $12)`
	insertManySQL = insertColumnsSQL + `
		SELECT id, task, folded, args, kwargs, queue, priority,
			run_at, coalesce(run_at>statement_timestamp(), false), key, key_until_start, meta, $12
		FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::bigint[],
				$8::timestamptz[], $9::text[], $10::smallint[], $11::text[])
			WITH ORDINALITY AS t(id, task, folded, args, kwargs, queue, priority, run_at, key, key_until_start, meta, n)
		ORDER BY n`
	// Without this a conflict is an error, which the server logs. An ID or a Key of the caller's often conflicts.
	orNothingSQL       = ` ON CONFLICT DO NOTHING`
	insertOneChosenSQL = insertOneSQL + orNothingSQL
	// For a caller's transaction, which an error would end.
	insertManyChosenSQL = insertManySQL + orNothingSQL

	jobStoredSQL = `SELECT EXISTS (SELECT FROM @jobs WHERE id=$1 AND created_at=$2)`
	idTakenSQL   = `SELECT id FROM @jobs WHERE id=ANY($1::text[]) LIMIT 1`
	keyTakenSQL  = `SELECT id, key FROM @jobs WHERE key=ANY($1::text[]) AND ` + holdsKeySQL + ` LIMIT 1`
	holdsKeySQL  = `key IS NOT NULL AND status IN ('PENDING', 'RUNNING') AND key_until_start<2`
)

// newJob is a job on its way into the table.
type newJob struct {
	job           *pinion.Job // the caller's
	id, queue     string
	folded        *string
	args, kwargs  string
	runAt         *time.Time
	key           *string
	keyUntilStart int16 // see the column
	meta          *string
}

// batch is what one statement inserts.
type batch struct {
	jobs    []newJob
	chosen  bool      // the caller chose an ID or a Key, so it may be taken
	created time.Time // CreatedAt of all
}

// newBatch encodes the jobs of one Enqueue. It returns a DuplicateError if two of them have the same ID or Key.
func newBatch(jobs []*pinion.Job) (*batch, error) {
	if err := checkDistinct(jobs); err != nil {
		return nil, err
	}
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

// encode returns the job as it is stored. [pinion.Job.EncodeArgs] also checks its names and its Meta, and refuses nil.
func encode(job *pinion.Job) (n newJob, err error) {
	args, kwargs, err := job.EncodeArgs()
	if err != nil {
		return n, err
	}
	n = newJob{
		job:    job,
		id:     job.ID,
		queue:  queueName(job.Queue),
		folded: foldedOrNull(job.Task),
		args:   args,
		kwargs: kwargs,
		runAt:  timeOrNull(job.RunAt),
		key:    stringOrNull(job.Key),
	}
	n.meta, err = metaOrNull(job)
	if err != nil {
		return n, err
	}
	if n.id == "" {
		n.id = pinion.NewID()
	}
	if job.KeyUntilStart {
		n.keyUntilStart = 1
	}
	return n, nil
}

// checkDistinct returns an error for a job that is passed to one Enqueue twice.
func checkDistinct(jobs []*pinion.Job) error {
	job, found := rules.FindTwice(jobs)
	if !found || job == nil { // a nil *Job is refused for itself
		return nil
	}
	return fmt.Errorf("%w: one *Job of task %q is passed twice; make a Job for each", pinion.ErrDuplicate, job.Task)
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

// enqueueTogether lets the job share a statement with those of concurrent calls. If that fails, which may be
// due to another's job, done is false, and the caller goes on alone, with the ctx that is returned.
func (s *Storage) enqueueTogether(
	ctx context.Context, c *call, b *batch,
) (alone context.Context, done bool, err error) {
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
		tag, err = q.Exec(ctx, s.sql(statement), n.id, n.job.Task, n.folded, n.args, n.kwargs, n.queue, n.job.Priority,
			n.runAt, n.key, n.keyUntilStart, n.meta, b.created)
	} else {
		tag, err = q.Exec(ctx, s.sql(insertManySQL), b.columns()...)
	}
	if isCode(err, uniqueViolation) {
		return false, nil
	}
	return err == nil && tag.RowsAffected() > 0, err
}

// columns returns the arguments of insertManySQL.
func (b *batch) columns() []any {
	size := len(b.jobs)
	ids, tasks, queues := make([]string, size), make([]string, size), make([]string, size)
	args, kwargs := make([]string, size), make([]string, size)
	folded, keys, metas := make([]*string, size), make([]*string, size), make([]*string, size)
	priorities := make([]int64, size)
	runAts := make([]*time.Time, size)
	keyUntilStarts := make([]int16, size)
	for i, n := range b.jobs {
		ids[i], tasks[i], queues[i], folded[i] = n.id, n.job.Task, n.queue, n.folded
		args[i], kwargs[i] = n.args, n.kwargs
		priorities[i], runAts[i] = int64(n.job.Priority), n.runAt
		keys[i], keyUntilStarts[i], metas[i] = n.key, n.keyUntilStart, n.meta
	}
	return []any{ids, tasks, folded, args, kwargs, queues, priorities, runAts, keys, keyUntilStarts, metas, b.created}
}

// holder returns a DuplicateError that names the job which has an ID or a Key of the batch, or nil if there is
// none.
func (s *Storage) holder(ctx context.Context, q querier, b *batch) error {
	ids, keys := b.names()
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

// names returns the ids of the batch, and its keys.
func (b *batch) names() (ids, keys []string) {
	ids, keys = []string{}, []string{} // not nil, which would be NULL
	for _, n := range b.jobs {
		ids = append(ids, n.id)
		if n.key != nil {
			keys = append(keys, *n.key)
		}
	}
	return ids, keys
}

// nameHolder returns the error of newBatch. If two jobs of the batch have the same Key and a job holds it
// already, the error names that job.
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

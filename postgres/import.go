package postgres

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pinion-queue/pinion"
)

const (
	importSize = 500 // jobs that a transaction stores

	importJobsSQL = `
		INSERT INTO @jobs (id, task, folded, args, kwargs, queue, priority, run_at, future,
			key, key_until_start, meta, created_at, claim, attempts, reaped, error, result, finished_at, status, dead)
		SELECT id, task, folded, args, kwargs, queue, priority,
			run_at, NOT $18 AND coalesce(run_at>statement_timestamp(), false),
			key, key_until_start, meta, created_at, claim, attempts, reaped, error,
			CASE WHEN $18 THEN result END,
			CASE WHEN $18 THEN finished_at END,
			CASE WHEN $18 THEN 'FAILED' ELSE 'PENDING' END,
			CASE WHEN $18 THEN nextval('@dead_letters') END
		FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::bigint[],
				$8::timestamptz[], $9::text[], $10::smallint[], $11::text[], $12::timestamptz[], $13::bigint[],
				$14::bigint[], $15::bigint[], $16::text[], $17::text[], $19::timestamptz[])
			WITH ORDINALITY AS t(id, task, folded, args, kwargs, queue, priority,
				run_at, key, key_until_start, meta, created_at, claim,
				attempts, reaped, error, result, finished_at, n)
		ORDER BY n ON CONFLICT (id) DO NOTHING`
)

// Import copies the unfinished jobs and the dead letters of another storage, such as a SQLite file, and returns
// how many of each it has stored. The jobs keep their order, ids, keys, Meta, due times and attempts. Limits of
// queues are copied if from is a [pinion.Limiter]. Finished jobs are not copied, and the other storage is not
// changed.
//
// Stop the old workers first: a job that is RUNNING there becomes PENDING here, and its attempt counts. Import
// skips ids that exist here, so it may be run again after an interruption. A Key that an unfinished job holds
// here is an error; the jobs of that transaction, at most 500, are not stored then.
func (s *Storage) Import(ctx context.Context, from pinion.Inspector) (jobs, letters int, err error) {
	if limiter, ok := from.(pinion.Limiter); ok {
		if err := s.importLimits(ctx, limiter); err != nil {
			return 0, 0, err
		}
	}
	for _, status := range []pinion.Status{pinion.StatusPending, pinion.StatusRunning} {
		stored, err := s.importAll(ctx, from.Jobs(ctx, pinion.Filter{Status: status}), false)
		jobs += stored
		if err != nil {
			return jobs, 0, err
		}
	}
	letters, err = s.importAll(ctx, from.DeadLetters(ctx, pinion.Filter{}), true)
	if jobs+letters > 0 {
		s.announceJobs()
	}
	return jobs, letters, err
}

func (s *Storage) importLimits(ctx context.Context, from pinion.Limiter) error {
	limits, err := from.Limits(ctx)
	if err != nil {
		return err
	}
	for queue, limit := range limits {
		if err := s.SetLimit(ctx, queue, limit); err != nil {
			return err
		}
	}
	return nil
}

// importAll stores the jobs of a listing, as dead letters or as pending jobs.
func (s *Storage) importAll(
	ctx context.Context, from iter.Seq2[*pinion.Job, error], dead bool,
) (stored int, err error) {
	var page []*pinion.Job
	for job, err := range from {
		if err != nil {
			return stored, err
		}
		if job.Canceled { // a RUNNING one, which has ended with its worker
			continue
		}
		page = append(page, job)
		if len(page) == importSize {
			n, err := s.importPage(ctx, page, dead)
			stored += n
			if err != nil {
				return stored, err
			}
			page = page[:0]
		}
	}
	n, err := s.importPage(ctx, page, dead)
	return stored + n, err
}

func (s *Storage) importPage(ctx context.Context, jobs []*pinion.Job, dead bool) (stored int, err error) {
	b := &batch{created: microTime(time.Now())}
	for _, job := range jobs {
		n, err := encode(job)
		if err != nil {
			return 0, err
		}
		if job.KeyUntilStart && (job.Claim > 0 || dead) { // it has started
			n.keyUntilStart = 2
		}
		b.jobs = append(b.jobs, n)
	}
	err = s.write(ctx, "import", func(ctx context.Context, conn *pgx.Conn, _ bool) error {
		tag, err := conn.Exec(ctx, s.sql(importJobsSQL), b.importColumns(dead)...)
		stored += int(tag.RowsAffected())
		if !isCode(err, uniqueViolation) {
			return err
		}
		if holder := s.holder(ctx, conn, &batch{jobs: b.withKeys()}); holder != nil {
			return holder
		}
		return fmt.Errorf("another job has one of the keys: %w", err)
	})
	return stored, err
}

// importColumns returns the arguments of importJobsSQL.
func (b *batch) importColumns(dead bool) []any {
	columns := b.columns()
	columns = columns[:len(columns)-1] // without the time that is CreatedAt of all
	var created, finished []*time.Time
	var claims, attempts, reaped []int64
	var failures, results []*string
	for _, n := range b.jobs {
		created = append(created, timeOrNull(createdAt(n.job, b.created)))
		finished = append(finished, timeOrNull(n.job.FinishedAt))
		claims = append(claims, n.job.Claim)
		attempts = append(attempts, int64(n.job.Attempts))
		reaped = append(reaped, int64(n.job.Reaped))
		failures = append(failures, errorOrNull(n.job))
		results = append(results, resultOrNull(n.job))
	}
	return append(columns, created, claims, attempts, reaped, failures, results, dead, finished)
}

func errorOrNull(job *pinion.Job) *string {
	if job.Error == "" {
		return nil
	}
	return new(pinion.ErrorText(errors.New(job.Error)))
}

// createdAt returns when a job was created. Where the other storage does not know, it is the time of the
// failure, or now.
func createdAt(job *pinion.Job, now time.Time) time.Time {
	if !job.CreatedAt.IsZero() {
		return job.CreatedAt
	}
	if !job.FinishedAt.IsZero() {
		return job.FinishedAt
	}
	return now
}

// withKeys returns the keys of the jobs without their ids, which may exist.
func (b *batch) withKeys() (jobs []newJob) {
	for _, n := range b.jobs {
		jobs = append(jobs, newJob{key: n.key})
	}
	return jobs
}

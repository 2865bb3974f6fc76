package postgres

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"iter"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pinion-queue/pinion"
)

const importMost = 500 // jobs a transaction

// Import copies what is still owed out of another storage, a SQLite file say: the unfinished jobs in their order, with
// their ids, keys, due times and attempts, and the dead letters. It reports how many of each it has stored. Stop the old
// workers first: a job that was RUNNING there is PENDING here, its attempt counted. Nothing is changed in the other
// storage, and what is here already, by its id, is passed over, so an Import that was interrupted may be run again.
// Finished jobs are not copied. A Key that an unfinished job holds here is an error, and the jobs of that transaction
// are not stored.
func (s *Storage) Import(ctx context.Context, from pinion.Inspector) (jobs, letters int, err error) {
	for _, status := range []pinion.Status{pinion.StatusPending, pinion.StatusRunning} {
		n, err := s.importAll(ctx, from.Jobs(ctx, pinion.Filter{Status: status}), false)
		if jobs += n; err != nil {
			return jobs, 0, err
		}
	}
	letters, err = s.importAll(ctx, from.DeadLetters(ctx, pinion.Filter{}), true)
	if jobs+letters > 0 {
		s.ring()
	}
	return jobs, letters, err
}

func (s *Storage) importAll(ctx context.Context, from iter.Seq2[*pinion.Job, error], letters bool) (n int, err error) {
	var page []*pinion.Job
	for job, err := range from {
		if err != nil {
			return n, err
		}
		if job.Canceled { // its worker is gone, so it has ended
			continue
		}
		if page = append(page, job); len(page) == importMost {
			stored, err := s.importPage(ctx, page, letters)
			if n += stored; err != nil {
				return n, err
			}
			page = page[:0]
		}
	}
	stored, err := s.importPage(ctx, page, letters)
	return n + stored, err
}

func (s *Storage) importPage(ctx context.Context, jobs []*pinion.Job, letters bool) (n int, err error) {
	unkeyed := make([]*pinion.Job, len(jobs)) // dead letters may share a Key
	for i, job := range jobs {
		unkeyed[i] = new(*job)
		unkeyed[i].Key = ""
	}
	b, err := newBatch(unkeyed)
	if err != nil {
		return 0, err
	}
	var claims, attempts []int64
	var failures []*string
	var created, finished []*time.Time
	for i, job := range jobs {
		if job.Key != "" {
			b.keys[i] = new(job.Key)
		}
		var failure *string
		if job.Error != "" {
			failure = new(pinion.ErrorText(errors.New(job.Error)))
		}
		claims, attempts, failures = append(claims, job.Claim), append(attempts, int64(job.Attempts)), append(failures, failure)
		at := job.CreatedAt
		if at.IsZero() {
			at = cmp.Or(job.FinishedAt, b.created)
		}
		created, finished = append(created, timeOrNull(at)), append(finished, timeOrNull(job.FinishedAt))
	}
	sql := insertInto[:len(insertInto)-2] + `, claim, attempts, error, finished_at, status, dead)
		SELECT id, task, args, kwargs, queue, priority, run_at, coalesce(run_at>statement_timestamp(), false) AND NOT $14, key, created_at, claim, attempts, error,
			CASE WHEN $14 THEN finished_at END, CASE WHEN $14 THEN 'FAILED' ELSE 'PENDING' END, CASE WHEN $14 THEN nextval('@dead_letters') END
		FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[], $6::bigint[], $7::timestamptz[], $8::text[], $9::timestamptz[],
			$10::bigint[], $11::bigint[], $12::text[], $13::timestamptz[])
			WITH ORDINALITY AS t(id, task, args, kwargs, queue, priority, run_at, key, created_at, claim, attempts, error, finished_at, n)
		ORDER BY n ON CONFLICT (id) DO NOTHING`
	err = s.write(ctx, "import", func(ctx context.Context, conn *pgx.Conn, _ bool) error {
		tag, err := conn.Exec(ctx, inSchema(s.opts.Schema, sql), b.ids, b.tasks, b.args, b.kwargs, b.queue, b.priority, b.runAt, b.keys, created,
			claims, attempts, failures, finished, letters)
		n += int(tag.RowsAffected())
		if isCode(err, uniqueViolation) {
			return cmp.Or(s.taken(ctx, conn, &batch{keys: b.keys}), fmt.Errorf("a key is held by another job: %w", err))
		}
		return err
	})
	return n, err
}

package postgres

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pinion-queue/pinion"
)

// The statements in this file take the jobs handed in as three arrays, sorted by id. So two statements over the
// same jobs lock the rows in the same order, or skip locked ones, and verbs that meet do not deadlock. If the
// planner chooses another order after all, the server detects the deadlock, and the verb is tried again.
const (
	isHeldSQL   = `j.id=h.id AND j.claim=h.claim AND j.attempts=h.attempts AND j.status='RUNNING'`
	handedInSQL = `unnest($1::text[], $2::bigint[], $3::bigint[]) AS h(id, claim, attempts)`

	// setClaimEndedSQL is what the end of every claim sets.
	setClaimEndedSQL = `lease=NULL, doubted_at=NULL, started_at=NULL`

	// giveUpSQL begins whatever gives a claim up without success. It ends a canceled job instead, with the text
	// of ErrCanceled, which @canceled stands for.
	giveUpSQL = `UPDATE @jobs j SET ` + setClaimEndedSQL + `,
		status=CASE WHEN canceled THEN 'FAILED' ELSE 'PENDING' END,
		finished_at=CASE WHEN canceled THEN statement_timestamp() END`

	// What a statement returns of each job, and what the count of ends needs.
	returningSQL = ` RETURNING h.id, h.claim, h.attempts, j.canceled, j.queue, j.task, j.status, j.claim AS claimed`

	// countEndsSQL follows ended AS (…), the jobs whose claims a statement has ended, and counts those that are
	// finished.
	countEndsSQL = `,
		counted AS (INSERT INTO @ends (at, queue, task, succeeded, failed, took)
			SELECT date_trunc('second', statement_timestamp()), queue, task,
				count(*) FILTER (WHERE status='SUCCESS'), count(*) FILTER (WHERE status='FAILED'),
				sum(greatest(statement_timestamp()-to_timestamp(claimed/1e6), interval '0'))
			FROM ended WHERE status IN ('SUCCESS', 'FAILED') GROUP BY queue, task)`
	// A limited queue has room when a claim of it has ended.
	endedSQL = `
		SELECT id, claim, attempts, canceled AND status='FAILED', queue IN (SELECT queue FROM @limits) FROM ended`

	markDoneSQL = `WITH ended AS (
		UPDATE @jobs j SET ` + setClaimEndedSQL + `,
			status='SUCCESS', finished_at=statement_timestamp(), result=h.result
		FROM unnest($1::text[], $2::bigint[], $3::bigint[], $4::text[]) AS h(id, claim, attempts, result)
		WHERE ` + isHeldSQL + returningSQL + `)` + countEndsSQL + endedSQL
	markFailedSQL = `WITH ended AS (
		` + giveUpSQL + `, error=CASE WHEN canceled THEN '@canceled' ELSE $4 END, reaped=0,
			run_at=CASE WHEN canceled THEN run_at ELSE $5 END,
			future=NOT canceled AND coalesce($5>statement_timestamp(), false)
		FROM ` + handedInSQL + ` WHERE ` + isHeldSQL + returningSQL + `)` + countEndsSQL + endedSQL
	deadLetterSQL = `WITH ended AS (
		UPDATE @jobs j SET ` + setClaimEndedSQL + `, status='FAILED', finished_at=statement_timestamp(),
			error=CASE WHEN canceled THEN '@canceled' ELSE $4 END,
			attempts=CASE WHEN canceled THEN j.attempts ELSE $5 END,
			result=coalesce($6, result),
			dead=CASE WHEN NOT canceled THEN nextval('@dead_letters') END
		FROM ` + handedInSQL + ` WHERE ` + isHeldSQL + returningSQL + `)` + countEndsSQL + endedSQL
	releaseSQL = `WITH ended AS (
		` + giveUpSQL + `, error=CASE WHEN canceled THEN '@canceled' ELSE coalesce($5, error) END, reaped=0,
			attempts=CASE WHEN canceled THEN j.attempts ELSE j.attempts-1 END,
			run_at=CASE WHEN canceled THEN run_at ELSE $4 END,
			future=NOT canceled AND coalesce($4>statement_timestamp(), false)
		FROM ` + handedInSQL + ` WHERE ` + isHeldSQL + returningSQL + `)` + countEndsSQL + endedSQL

	heartbeatSQL = `UPDATE @jobs j SET heartbeat_at=statement_timestamp(), doubted_at=NULL,
			started_at=coalesce(j.started_at, h.started_at), result=coalesce(h.result, j.result)
		FROM unnest($1::text[], $2::bigint[], $3::bigint[], $4::timestamptz[], $5::text[])
			AS h(id, claim, attempts, started_at, result)
		WHERE ` + isHeldSQL + ` RETURNING h.id, h.claim, h.attempts, false, false`

	// settledSQL returns the jobs that look as an earlier try of the verb may have left them: nobody has
	// claimed them since.
	settledSQL = `SELECT h.id, h.claim, h.attempts, j.canceled AND j.status='FAILED', false
		FROM @jobs j, ` + handedInSQL + `
		WHERE j.id=h.id AND j.claim=h.claim
			AND (j.status=$4 OR $4<>'SUCCESS' AND j.canceled AND j.status='FAILED')`
)

// claimKey identifies a claim in what a statement returns.
type claimKey struct {
	id              string
	claim, attempts int64
}

func keyOf(job *pinion.Job) claimKey {
	return claimKey{nameOrNone(job.ID), job.Claim, int64(job.Attempts)}
}

// handIn returns the arguments $1 to $3 for jobs, and the jobs in the same order.
func handIn(jobs []*pinion.Job) (args []any, ordered []*pinion.Job) {
	ordered = slices.SortedFunc(slices.Values(jobs), func(a, b *pinion.Job) int { return cmp.Compare(a.ID, b.ID) })
	ids, claims, attempts := make([]string, len(jobs)), make([]int64, len(jobs)), make([]int64, len(jobs))
	for i, job := range ordered {
		ids[i], claims[i], attempts[i] = nameOrNone(job.ID), job.Claim, int64(job.Attempts)
	}
	return []any{ids, claims, attempts}, ordered
}

// claimFate is what a statement returns of a claim.
type claimFate struct {
	canceled bool // the job has ended as canceled
	limited  bool // its queue has a limit, and now room for another job
}

// collectFates adds the claims that a statement returns to found.
func collectFates(found map[claimKey]claimFate, rows pgx.Rows) error {
	var key claimKey
	var fate claimFate
	columns := []any{&key.id, &key.claim, &key.attempts, &fate.canceled, &fate.limited}
	_, err := pgx.ForEachRow(rows, columns, func() error {
		found[key] = fate
		return nil
	})
	return err
}

// ending is a verb that ends or prolongs the claims of jobs.
type ending struct {
	verb, statement string
	args            []any         // from $4 on
	leaves          pinion.Status // what the statement makes of the jobs; empty if they stay RUNNING
}

// end runs the statement for the jobs whose claims are held. It returns the other jobs, and those that ended as
// canceled. It wakes waiting Dequeues if there may be something to claim now.
func (s *Storage) end(ctx context.Context, e ending, jobs []*pinion.Job) (lost, canceled []*pinion.Job, err error) {
	handed, _ := handIn(jobs)
	var held map[claimKey]claimFate
	err = s.write(ctx, e.verb, func(ctx context.Context, conn *pgx.Conn, again bool) error {
		held = make(map[claimKey]claimFate, len(jobs))
		if len(jobs) == 0 {
			return nil
		}
		if again && e.leaves != "" {
			rows, _ := conn.Query(ctx, s.sql(settledSQL), append(slices.Clone(handed), e.leaves)...)
			if err := collectFates(held, rows); err != nil {
				return err
			}
		}
		rows, _ := conn.Query(ctx, s.sql(e.statement), append(slices.Clone(handed), e.args...)...)
		return collectFates(held, rows)
	})
	if err != nil {
		return nil, nil, err
	}
	roomMade := false
	for _, job := range jobs {
		key := keyOf(job)
		fate, found := held[key]
		if !found {
			lost = append(lost, job)
		} else if fate.canceled {
			canceled = append(canceled, job)
		}
		roomMade = roomMade || fate.limited
		if e.leaves != "" {
			delete(held, key) // a job that is handed in twice has lost its claim the second time
		}
	}
	if roomMade || e.leaves == pinion.StatusPending {
		s.announceJobs()
	}
	return lost, canceled, nil
}

// endOne is end for verbs that take one job, where a lost or canceled one is an error.
func (s *Storage) endOne(ctx context.Context, e ending, job *pinion.Job) error {
	lost, canceled, err := s.end(ctx, e, []*pinion.Job{job})
	switch {
	case len(lost) > 0:
		return fmt.Errorf("%w: job %s", pinion.ErrLeaseLost, job.ID)
	case len(canceled) > 0:
		return fmt.Errorf("%w: job %s", pinion.ErrCanceled, job.ID)
	}
	return err
}

// MarkDone implements [pinion.Storage].
func (s *Storage) MarkDone(ctx context.Context, jobs ...*pinion.Job) (lost []*pinion.Job, err error) {
	_, ordered := handIn(jobs)
	lost, _, err = s.end(ctx, ending{"mark done", markDoneSQL, []any{results(ordered)}, pinion.StatusSuccess}, jobs)
	return lost, err
}

// results returns the Result of each job as it is stored.
func results(jobs []*pinion.Job) []*string {
	texts := make([]*string, len(jobs))
	for i, job := range jobs {
		texts[i] = resultOrNull(job)
	}
	return texts
}

func resultOrNull(job *pinion.Job) *string {
	if !json.Valid(job.Result) {
		return nil
	}
	return new(string(job.Result))
}

// MarkFailed implements [pinion.Storage].
func (s *Storage) MarkFailed(ctx context.Context, job *pinion.Job, cause error, retryAt time.Time) error {
	args := []any{pinion.ErrorText(cause), timeOrNull(retryAt)}
	return s.endOne(ctx, ending{"mark failed", markFailedSQL, args, pinion.StatusPending}, job)
}

// DeadLetter implements [pinion.Storage].
func (s *Storage) DeadLetter(ctx context.Context, job *pinion.Job, cause error) error {
	attempts := job.Attempts
	if errors.Is(cause, pinion.ErrAttemptsUsedUp) { // the job did not run under this claim
		attempts--
	}
	return s.bury(ctx, job, cause, attempts)
}

func (s *Storage) bury(ctx context.Context, job *pinion.Job, cause error, attempts int) error {
	args := []any{pinion.ErrorText(cause), attempts, resultOrNull(job)}
	return s.endOne(ctx, ending{"dead-letter", deadLetterSQL, args, pinion.StatusFailed}, job)
}

// Release implements [pinion.Storage].
func (s *Storage) Release(ctx context.Context, at time.Time, cause error, jobs ...*pinion.Job) (
	lost, canceled []*pinion.Job, err error,
) {
	var failure *string
	if cause != nil {
		failure = new(pinion.ErrorText(cause))
	}
	args := []any{timeOrNull(at), failure}
	return s.end(ctx, ending{"release", releaseSQL, args, pinion.StatusPending}, jobs)
}

// Heartbeat implements [pinion.Storage].
func (s *Storage) Heartbeat(ctx context.Context, jobs ...*pinion.Job) (lost []*pinion.Job, err error) {
	_, ordered := handIn(jobs)
	started := make([]*time.Time, len(jobs))
	for i, job := range ordered {
		started[i] = timeOrNull(job.StartedAt)
	}
	beat := ending{verb: "heartbeat", statement: heartbeatSQL, args: []any{started, results(ordered)}}
	lost, _, err = s.end(ctx, beat, jobs)
	return lost, err
}

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

// The statements in this file take the jobs handed in as three arrays, sorted by id. So two statements over the same jobs
// lock the rows in the same order, or skip locked ones, and verbs that meet do not deadlock. If the planner chooses
// another order after all, the server detects the deadlock, and the verb is tried again.
const (
	isHeld   = `j.id=h.id AND j.claim=h.claim AND j.attempts=h.attempts AND j.status='RUNNING'`
	handedIn = `unnest($1::text[], $2::bigint[], $3::bigint[]) AS h(id, claim, attempts)`
	// The end of an UPDATE of the jobs that are held.
	ofHeld = ` FROM ` + handedIn + ` WHERE ` + isHeld + ` RETURNING h.id, h.claim, h.attempts, j.canceled`

	// Whatever gives a claim up without success ends a canceled job instead. @canceled is the text of ErrCanceled.
	giveUp = `UPDATE @jobs j SET status=CASE WHEN canceled THEN 'FAILED' ELSE 'PENDING' END,
		finished_at=CASE WHEN canceled THEN statement_timestamp() END`

	markDoneSQL = `UPDATE @jobs j SET status='SUCCESS', finished_at=statement_timestamp(), result=h.result
		FROM unnest($1::text[], $2::bigint[], $3::bigint[], $4::text[]) AS h(id, claim, attempts, result)
		WHERE ` + isHeld + ` RETURNING h.id, h.claim, h.attempts, false`
	markFailedSQL = giveUp + `, error=CASE WHEN canceled THEN '@canceled' ELSE $4 END,
			run_at=CASE WHEN canceled THEN run_at ELSE $5 END,
			future=NOT canceled AND coalesce($5>statement_timestamp(), false)` + ofHeld
	deadLetterSQL = `UPDATE @jobs j SET status='FAILED', finished_at=statement_timestamp(),
			error=CASE WHEN canceled THEN '@canceled' ELSE $4 END,
			attempts=CASE WHEN canceled THEN j.attempts ELSE $5 END,
			dead=CASE WHEN NOT canceled THEN nextval('@dead_letters') END` + ofHeld
	releaseSQL = giveUp + `, error=CASE WHEN canceled THEN '@canceled' ELSE coalesce($5, error) END,
			attempts=CASE WHEN canceled THEN j.attempts ELSE j.attempts-1 END,
			run_at=CASE WHEN canceled THEN run_at ELSE $4 END,
			future=NOT canceled AND coalesce($4>statement_timestamp(), false)` + ofHeld
	heartbeatSQL = `UPDATE @jobs j SET heartbeat_at=statement_timestamp()` + ofHeld

	// The jobs that look as an earlier try may have left them: nobody else has claimed them since.
	settledSQL = `SELECT h.id, h.claim, h.attempts, j.canceled AND j.status='FAILED' FROM @jobs j, ` + handedIn + `
		WHERE j.id=h.id AND j.claim=h.claim
			AND (j.status=$4 OR $4<>'SUCCESS' AND j.canceled AND j.status='FAILED')`

	// $1 is the visibility timeout, and $2 the same and the time that the call has waited.
	reapStaleSQL = `WITH c AS (SELECT seq FROM @jobs WHERE status='RUNNING' AND heartbeat_at<statement_timestamp()-$2::interval
			ORDER BY seq FOR UPDATE SKIP LOCKED)
		` + giveUp + `, error=CASE WHEN canceled THEN '@canceled' ELSE 'lease expired' END, reaped=j.reaped+1,
			future=NOT canceled AND j.reaped>0,
			run_at=CASE WHEN canceled THEN j.run_at WHEN j.reaped=0 THEN NULL
				ELSE statement_timestamp()+random()*least(greatest(j.attempts, 1), 1000)*$1::interval END
		FROM c WHERE j.seq=c.seq`
)

// claimKey identifies a claim in what a statement returns.
type claimKey struct {
	id              string
	claim, attempts int64
}

func keyOf(job *pinion.Job) claimKey {
	return claimKey{storable(job.ID), job.Claim, int64(job.Attempts)}
}

// handIn returns the arguments $1 to $3 for jobs, and the jobs in the same order.
func handIn(jobs []*pinion.Job) (args []any, ordered []*pinion.Job) {
	ordered = slices.SortedFunc(slices.Values(jobs), func(a, b *pinion.Job) int { return cmp.Compare(a.ID, b.ID) })
	ids, claims, attempts := make([]string, len(jobs)), make([]int64, len(jobs)), make([]int64, len(jobs))
	for i, job := range ordered {
		ids[i], claims[i], attempts[i] = storable(job.ID), job.Claim, int64(job.Attempts)
	}
	return []any{ids, claims, attempts}, ordered
}

// collectClaims adds the claims that a statement returns to found, with whether each was canceled.
func collectClaims(found map[claimKey]bool, rows pgx.Rows) error {
	var key claimKey
	var canceled bool
	_, err := pgx.ForEachRow(rows, []any{&key.id, &key.claim, &key.attempts, &canceled}, func() error {
		found[key] = canceled
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

// end runs the statement for the jobs whose claims are held. It returns the other jobs, and those that ended as canceled.
func (s *Storage) end(ctx context.Context, e ending, jobs []*pinion.Job) (lost, canceled []*pinion.Job, err error) {
	handed, _ := handIn(jobs)
	var ours map[claimKey]bool // held by the caller, to whether canceled
	err = s.write(ctx, e.verb, func(ctx context.Context, conn *pgx.Conn, again bool) error {
		ours = make(map[claimKey]bool, len(jobs))
		if len(jobs) == 0 {
			return nil
		}
		if again && e.leaves != "" {
			rows, _ := conn.Query(ctx, s.sql(settledSQL), append(slices.Clone(handed), e.leaves)...)
			if err := collectClaims(ours, rows); err != nil {
				return err
			}
		}
		rows, _ := conn.Query(ctx, s.sql(e.statement), append(slices.Clone(handed), e.args...)...)
		return collectClaims(ours, rows)
	})
	if err != nil {
		return nil, nil, err
	}
	for _, job := range jobs {
		key := keyOf(job)
		wasCanceled, held := ours[key]
		if !held {
			lost = append(lost, job)
		} else if wasCanceled {
			canceled = append(canceled, job)
		}
		if e.leaves != "" {
			delete(ours, key) // a job that is handed in twice has lost its claim the second time
		}
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
	results := make([]*string, len(jobs))
	for i, job := range ordered {
		if json.Valid(job.Result) {
			results[i] = new(string(job.Result))
		}
	}
	lost, _, err = s.end(ctx, ending{"mark done", markDoneSQL, []any{results}, pinion.StatusSuccess}, jobs)
	return lost, err
}

// MarkFailed implements [pinion.Storage].
func (s *Storage) MarkFailed(ctx context.Context, job *pinion.Job, cause error, retryAt time.Time) error {
	args := []any{pinion.ErrorText(cause), timeOrNull(retryAt)}
	err := s.endOne(ctx, ending{"mark failed", markFailedSQL, args, pinion.StatusPending}, job)
	if err == nil {
		s.announceJobs()
	}
	return err
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
	args := []any{pinion.ErrorText(cause), attempts}
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
	lost, canceled, err = s.end(ctx, ending{"release", releaseSQL, args, pinion.StatusPending}, jobs)
	if err == nil {
		s.announceJobs()
	}
	return lost, canceled, err
}

// Heartbeat implements [pinion.Storage].
func (s *Storage) Heartbeat(ctx context.Context, jobs ...*pinion.Job) (lost []*pinion.Job, err error) {
	lost, _, err = s.end(ctx, ending{verb: "heartbeat", statement: heartbeatSQL}, jobs)
	return lost, err
}

// ReapStale implements [pinion.Storage]. It also prunes jobs that finished longer ago than Retention.
func (s *Storage) ReapStale(ctx context.Context, visibility time.Duration) (reaped int, err error) {
	called := time.Now()
	visibility = max(visibility, 0)
	err = s.write(ctx, "reap", func(ctx context.Context, conn *pgx.Conn, _ bool) error {
		waited := time.Since(called) // for a connection; heartbeats may have waited as long
		tag, err := conn.Exec(ctx, s.sql(reapStaleSQL), interval(visibility), interval(visibility+waited))
		reaped += int(tag.RowsAffected())
		return err
	})
	if err != nil {
		return 0, err
	}
	if reaped > 0 {
		s.announceJobs()
	}
	return reaped, s.pruneOld(ctx)
}

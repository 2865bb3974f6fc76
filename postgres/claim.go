package postgres

import (
	"cmp"
	"context"
	"slices"

	"github.com/jackc/pgx/v5"

	"github.com/pinion-queue/pinion"
)

// A job that is due is PENDING, not future, and in one of two places. Ready jobs are in the indexes by priority
// and age, where claims find them. Jobs that were set aside are in indexes by task, where only those who know
// the task look.
const (
	isReadySQL = `j.status='PENDING' AND NOT j.future AND NOT j.aside`
	isAsideSQL = `j.status='PENDING' AND NOT j.future AND j.aside`

	anyAsideSQL = `EXISTS (SELECT FROM @jobs j WHERE ` + isAsideSQL + `)` // an empty index, as a rule
)

// promoteSQL makes the jobs ready whose time has come, because an index cannot look at the clock: at most
// 1,000, the highest priorities first. It goes from one priority to the next, because the due ones of all may
// be very many. SQL promises no order here, but a LATERAL join can only be a loop over p, which comes in order.
const promoteSQL = `
	WITH RECURSIVE p(priority) AS (
		(SELECT priority FROM @jobs WHERE status='PENDING' AND future
			AND EXISTS (SELECT FROM @jobs WHERE status='PENDING' AND future AND run_at<=statement_timestamp())
			ORDER BY priority DESC LIMIT 1)
		UNION ALL
		SELECT (SELECT j.priority FROM @jobs j WHERE j.status='PENDING' AND j.future AND j.priority<p.priority
			ORDER BY j.priority DESC LIMIT 1) FROM p WHERE p.priority IS NOT NULL),
	d AS MATERIALIZED (SELECT x.seq FROM p CROSS JOIN LATERAL (
		SELECT j.seq FROM @jobs j WHERE j.status='PENDING' AND j.future AND j.priority=p.priority
			AND j.run_at<=statement_timestamp() ORDER BY j.run_at LIMIT 1000) x LIMIT 1000),
	c AS (SELECT j.seq FROM @jobs j WHERE j.seq IN (SELECT seq FROM d) AND j.status='PENDING' AND j.future
		AND j.run_at<=statement_timestamp() FOR UPDATE SKIP LOCKED)
	UPDATE @jobs j SET future=false FROM c WHERE j.seq=c.seq`

// The parameters of all claims: $1 the tasks without regard to case, or NULL for all; $2 the queues, or NULL
// for all; $3 how many jobs at most; $4 how many of them are for free slots; $5 the number of the claim; $6 the
// worker; $7 the lease.
const (
	isKnownSQL    = `($1::text[] IS NULL OR ` + foldedSQL + `=ANY($1::text[]))`
	candidatesSQL = `j.seq, j.priority, j.claim, j.key_until_start`
	inOrderSQL    = ` ORDER BY j.priority DESC, j.seq LIMIT $3::bigint `
	xInOrderSQL   = ` ORDER BY x.priority DESC, x.seq LIMIT $3::bigint `

	// isUnlimitedSQL makes a claim find nothing if one of its queues has a limit. That is for claimLimitedSQL.
	isUnlimitedSQL = `NOT EXISTS (SELECT FROM @limits l WHERE $2::text[] IS NULL OR l.queue=ANY($2::text[]))`
)

// The three ways to choose among ready jobs.
const (
	readyOfAllSQL = `
		ready AS (SELECT ` + candidatesSQL + ` FROM @jobs j
			WHERE ` + isReadySQL + ` AND ` + isKnownSQL + ` AND ` + isUnlimitedSQL + inOrderSQL + `
			FOR UPDATE SKIP LOCKED),`
	readyOfOneSQL = `
		ready AS (SELECT ` + candidatesSQL + ` FROM @jobs j
			WHERE j.queue=$8 AND ` + isReadySQL + ` AND ` + isKnownSQL + ` AND ` + isUnlimitedSQL + inOrderSQL + `
			FOR UPDATE SKIP LOCKED),`
	// The best of each queue, merged. Only what is chosen is locked, so that the rest is there for others.
	readyOfSomeSQL = `
		best AS MATERIALIZED (SELECT x.seq FROM unnest($2::text[]) AS q(name) CROSS JOIN LATERAL (
				SELECT j.seq, j.priority FROM @jobs j
				WHERE j.queue=q.name AND ` + isReadySQL + ` AND ` + isKnownSQL + inOrderSQL + `) x
			WHERE ` + isUnlimitedSQL + xInOrderSQL + `),
		ready AS (SELECT ` + candidatesSQL + ` FROM @jobs j WHERE j.seq IN (SELECT seq FROM best) AND ` + isReadySQL + `
			FOR UPDATE SKIP LOCKED),`
)

// The ways to choose among the jobs that were set aside: the best of each known task.
const (
	asideOfAllSQL = `
		SELECT x.seq FROM unnest($1::text[]) AS t(name) CROSS JOIN LATERAL (
			SELECT j.seq, j.priority FROM @jobs j WHERE ` + foldedSQL + `=t.name AND ` + isAsideSQL + inOrderSQL + `) x
		WHERE ` + anyAsideSQL + ` AND ` + isUnlimitedSQL + xInOrderSQL
	asideOfSomeSQL = `
		SELECT x.seq FROM unnest($2::text[]) AS q(name) CROSS JOIN unnest($1::text[]) AS t(name) CROSS JOIN LATERAL (
			SELECT j.seq, j.priority FROM @jobs j
			WHERE j.queue=q.name AND ` + foldedSQL + `=t.name AND ` + isAsideSQL + inOrderSQL + `) x
		WHERE ` + anyAsideSQL + ` AND ` + isUnlimitedSQL + xInOrderSQL
	// For a claim of every task, which workers do not make. It sorts all that were set aside.
	asideOfEverySQL = `
		SELECT j.seq FROM @jobs j WHERE $1::text[] IS NULL AND ($2::text[] IS NULL OR j.queue=ANY($2::text[]))
			AND ` + isAsideSQL + ` AND ` + isUnlimitedSQL + inOrderSQL
	lockAsideSQL = `
		aside AS (SELECT ` + candidatesSQL + ` FROM @jobs j WHERE j.seq IN (SELECT seq FROM outside) AND ` + isAsideSQL + `
			FOR UPDATE SKIP LOCKED),
		c AS (SELECT *, false AS limited FROM ready UNION ALL SELECT *, false FROM aside),`
)

// takeSQL claims the first of the candidates c. Behind the first $4 it stops before a job that must not be
// claimed ahead.
const takeSQL = `
	n AS (SELECT c.*, row_number() OVER (ORDER BY priority DESC, seq) AS n FROM c)
	UPDATE @jobs j SET status='RUNNING', attempts=j.attempts+1, grab=$5::bigint, worker=$6::text, lease=$7::interval,
		claim=greatest(j.claim+1, (extract(epoch FROM statement_timestamp())*1000000)::bigint),
		heartbeat_at=statement_timestamp(), doubted_at=NULL, started_at=NULL, result=NULL,
		key_until_start=CASE j.key_until_start WHEN 1 THEN 2 ELSE j.key_until_start END
	FROM n WHERE j.seq=n.seq AND n.n<=$3::bigint AND n.n<coalesce(
		(SELECT min(n) FROM n WHERE n>$4::bigint AND (claim>0 OR key_until_start>0 OR limited)), 1+$3::bigint)
	RETURNING j.seq, ` + jobColumns

const (
	outsideOfAllSQL  = `outside AS MATERIALIZED ((` + asideOfAllSQL + `) UNION ALL (` + asideOfEverySQL + `)),`
	outsideOfSomeSQL = `outside AS MATERIALIZED ((` + asideOfSomeSQL + `) UNION ALL (` + asideOfEverySQL + `)),`

	claimFromAllSQL  = `WITH ` + readyOfAllSQL + outsideOfAllSQL + lockAsideSQL + takeSQL
	claimFromOneSQL  = `WITH ` + readyOfOneSQL + outsideOfSomeSQL + lockAsideSQL + takeSQL
	claimFromSomeSQL = `WITH ` + readyOfSomeSQL + outsideOfSomeSQL + lockAsideSQL + takeSQL

	// claimedSQL returns what an earlier try has claimed, by the number of the claim.
	claimedSQL = `SELECT j.seq, ` + jobColumns + ` FROM @jobs j WHERE j.status='RUNNING' AND j.grab=$1`
)

// statement returns the claim for queues without limits, and its arguments from $8 on.
func (w *wish) statement() (sql string, more []any) {
	switch len(w.queues) {
	case 0:
		return claimFromAllSQL, nil
	case 1:
		return claimFromOneSQL, []any{w.queues[0]}
	}
	return claimFromSomeSQL, nil
}

// claimDue claims what is due now. A job whose arguments nobody can read becomes a dead letter, so that it does
// not hold up those behind it.
func (s *Storage) claimDue(ctx context.Context, w *wish) ([]*pinion.Job, error) {
	for {
		if err := s.setAside(ctx, w); err != nil {
			return nil, err
		}
		rows, err := s.claim(ctx, w)
		if err != nil || len(rows) == 0 {
			return nil, err
		}
		slices.SortFunc(rows, func(a, b row) int { // RETURNING promises no order
			return cmp.Or(cmp.Compare(b.job.Priority, a.job.Priority), cmp.Compare(a.number, b.number))
		})
		var jobs []*pinion.Job
		for _, r := range rows {
			if r.unreadable == nil {
				jobs = append(jobs, r.job)
			} else if err := s.bury(ctx, r.job, r.unreadable, r.job.Attempts-1); err != nil {
				return jobs, nil // the leases of this job and the next ones will expire
			}
		}
		if len(jobs) > 0 {
			return jobs, nil
		}
	}
}

// claim claims what is due now. Each claim has a number, by which a try recognizes what an earlier one has
// claimed.
func (s *Storage) claim(ctx context.Context, w *wish) (rows []row, err error) {
	number := s.claimNumber.Add(1)
	err = s.write(ctx, "dequeue", func(ctx context.Context, conn *pgx.Conn, again bool) error {
		if again {
			rows, err = collectRows(conn.Query(ctx, s.sql(claimedSQL), number))
			if err != nil || len(rows) > 0 {
				return err
			}
		}
		limited := s.limited.Load()
		if !limited {
			rows, limited, err = s.claimUnlimited(ctx, conn, w, number)
		}
		if limited && err == nil {
			rows, limited, err = s.claimLimited(ctx, conn, w, number)
		}
		s.limited.Store(limited)
		return err
	})
	return rows, err
}

// claimUnlimited claims jobs, or nothing if one of the queues has a limit.
func (s *Storage) claimUnlimited(ctx context.Context, conn *pgx.Conn, w *wish, number int64) (
	rows []row, limited bool, err error,
) {
	statement, more := w.statement()
	return s.sendClaim(ctx, conn, w, number, statement, more...)
}

// claimLimited claims jobs where some of the queues may have limits. It is right without limits, too, but slower.
func (s *Storage) claimLimited(ctx context.Context, conn *pgx.Conn, w *wish, number int64) (
	rows []row, limited bool, err error,
) {
	return s.sendClaim(ctx, conn, w, number, claimLimitedSQL)
}

// sendClaim runs a claim and what comes before it, in one transaction and with one answer. limited reports
// whether one of the queues has a limit, which cannot change until the transaction ends.
func (s *Storage) sendClaim(ctx context.Context, conn *pgx.Conn, w *wish, number int64, claim string, more ...any) (
	rows []row, limited bool, err error,
) {
	var batch pgx.Batch
	if s.opts.NoListen { // the session's settings are not ours
		for _, plan := range refusedPlans {
			batch.Queue(`SELECT set_config($1, 'off', true)`, plan)
		}
	}
	batch.Queue(s.sql(promoteSQL))
	batch.Queue(s.sql(lockLimitsSQL), w.queues)
	batch.Queue(s.sql(anyLimitsSQL), w.queues).QueryRow(func(found pgx.Row) error { return found.Scan(&limited) })
	args := append([]any{w.tasks, w.queues, w.max, w.slots, number, w.worker, interval(w.lease)}, more...)
	batch.Queue(s.sql(claim), args...).Query(func(found pgx.Rows) (err error) {
		rows, err = collectRows(found, nil)
		return err
	})
	err = conn.SendBatch(ctx, &batch).Close()
	return rows, limited, err
}

func collectRows(found pgx.Rows, err error) ([]row, error) {
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(found, scanRow)
}

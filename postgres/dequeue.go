package postgres

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pinion-queue/pinion"
)

const (
	isReady = `j.status='PENDING' AND NOT j.future`

	// promote makes the jobs ready whose time has come: the index of claims cannot look at the clock.
	promoteSQL = `
		WITH c AS (SELECT seq FROM @jobs WHERE status='PENDING' AND future AND run_at<=statement_timestamp()
			ORDER BY run_at LIMIT 1000 FOR UPDATE SKIP LOCKED)
		UPDATE @jobs j SET future=false FROM c WHERE j.seq=c.seq`

	// Each claim chooses and locks candidates c, at most $1, and then takes them in order. Behind the first $2 it
	// stops before a job that was claimed before. $3 is the number of the claim, $4 the worker.
	takeCandidates = `,
		k AS (SELECT seq, claim, row_number() OVER (ORDER BY priority DESC, seq) AS n FROM c)
		UPDATE @jobs j SET status='RUNNING', attempts=j.attempts+1, heartbeat_at=statement_timestamp(), grab=$3, worker=$4,
			claim=greatest(j.claim+1, (extract(epoch FROM statement_timestamp())*1000000)::bigint)
		FROM k WHERE j.seq=k.seq AND k.n < coalesce((SELECT min(n) FROM k WHERE n>$2 AND claim>0), 1+$1)
		RETURNING j.seq, ` + jobColumns

	claimFromAllSQL = `
		WITH c AS (SELECT j.seq, j.priority, j.claim FROM @jobs j WHERE ` + isReady + `
			ORDER BY j.priority DESC, j.seq LIMIT $1 FOR UPDATE SKIP LOCKED)` + takeCandidates
	claimFromOneSQL = `
		WITH c AS (SELECT j.seq, j.priority, j.claim FROM @jobs j WHERE ` + isReady + ` AND j.queue=$5
			ORDER BY j.priority DESC, j.seq LIMIT $1 FOR UPDATE SKIP LOCKED)` + takeCandidates
	// The best of each queue, merged. Only what was chosen is locked, so that the rest is there for others.
	claimFromSomeSQL = `
		WITH b AS MATERIALIZED (SELECT x.seq FROM unnest($5::text[]) AS q(name) CROSS JOIN LATERAL (
				SELECT j.seq, j.priority FROM @jobs j WHERE ` + isReady + ` AND j.queue=q.name
				ORDER BY j.priority DESC, j.seq LIMIT $1) x
			ORDER BY x.priority DESC, x.seq LIMIT $1),
		c AS (SELECT j.seq, j.priority, j.claim FROM @jobs j WHERE j.seq IN (SELECT seq FROM b) AND ` + isReady + `
			FOR UPDATE SKIP LOCKED)` + takeCandidates

	claimedSQL = `SELECT j.seq, ` + jobColumns + ` FROM @jobs j WHERE j.status='RUNNING' AND j.grab=$1`
)

// Dequeue implements [pinion.Storage].
func (s *Storage) Dequeue(ctx context.Context, opts pinion.DequeueOptions) ([]*pinion.Job, error) {
	if opts.Max < 1 {
		return nil, fmt.Errorf("pinion: dequeue: Max is %d; want at least 1", opts.Max)
	}
	if opts.Ahead < 0 || opts.Ahead > opts.Max {
		return nil, fmt.Errorf("pinion: dequeue: Ahead is %d; want 0 to Max, which is %d", opts.Ahead, opts.Max)
	}
	opts.Queues = queueNames(opts.Queues)
	if opts.NoWait || opts.Ahead == opts.Max {
		return s.claimDue(ctx, opts)
	}
	l := s.laneFor(opts)
	if err := s.enter(ctx, l); err != nil {
		return nil, err
	}
	defer l.leave()
	for {
		if l.mayHaveJobs() {
			jobs, err := s.look(ctx, l, opts)
			if len(jobs) > 0 || err != nil {
				return jobs, err
			}
		}
		if err := s.awaitJobs(ctx, l, opts); err != nil {
			return nil, err
		}
	}
}

// queueNames returns the names as they are stored, sorted and each once.
func queueNames(queues []string) []string {
	names := make([]string, len(queues))
	for i, name := range queues {
		names[i] = storable(queueName(name))
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// claimDue claims what is due now. A job whose arguments nobody can read becomes a dead letter, so that it does not hold
// up those behind it.
func (s *Storage) claimDue(ctx context.Context, opts pinion.DequeueOptions) ([]*pinion.Job, error) {
	for {
		rows, err := s.claim(ctx, opts)
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
				return jobs, nil // the lease of this job and the next ones will expire
			}
		}
		if len(jobs) > 0 {
			return jobs, nil
		}
	}
}

// claim claims what is due now. Each claim has a number, by which a try recognizes what an earlier one has claimed.
func (s *Storage) claim(ctx context.Context, opts pinion.DequeueOptions) (rows []row, err error) {
	number := s.claimNumber.Add(1)
	statement, args := claimFromAllSQL, []any{opts.Max, opts.Max - opts.Ahead, number, storable(opts.Worker)}
	switch len(opts.Queues) {
	case 0:
	case 1:
		statement, args = claimFromOneSQL, append(args, opts.Queues[0])
	default:
		statement, args = claimFromSomeSQL, append(args, opts.Queues)
	}
	err = s.write(ctx, "dequeue", func(ctx context.Context, conn *pgx.Conn, again bool) error {
		if again {
			rows, err = collectRows(conn.Query(ctx, s.sql(claimedSQL), number))
			if err != nil || len(rows) > 0 {
				return err
			}
		}
		var batch pgx.Batch // one transaction, and one answer
		batch.Queue(s.sql(promoteSQL))
		batch.Queue(s.sql(statement), args...).Query(func(found pgx.Rows) (err error) {
			rows, err = collectRows(found, nil)
			return err
		})
		return conn.SendBatch(ctx, &batch).Close()
	})
	return rows, err
}

func collectRows(found pgx.Rows, err error) ([]row, error) {
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(found, scanRow)
}

// ---- Waiting ----

const nextDueSQL = `
	SELECT (SELECT extract(epoch FROM run_at-statement_timestamp())::float8 FROM @jobs
			WHERE status='PENDING' AND future ORDER BY run_at LIMIT 1),
		CASE WHEN cardinality($1::text[])=0 THEN EXISTS (SELECT FROM @jobs j WHERE ` + isReady + `)
		ELSE EXISTS (SELECT FROM unnest($1::text[]) AS q(name) CROSS JOIN LATERAL (
			SELECT FROM @jobs j WHERE ` + isReady + ` AND j.queue=q.name LIMIT 1) x) END`

// lane is where the Dequeues of this process that ask for the same take turns: one looks and waits, and leaves what it
// has learned to the next. Two that waited would both look for each job that comes.
type lane struct {
	turn chan struct{} // capacity 1: whoever has filled it owns the rest

	woken  <-chan struct{} // nothing is due before this is closed; nil: there may be jobs
	looked time.Time       // when the last look ended
	took   time.Duration   // how long it took
	found  int             // how many jobs it found
}

// laneFor returns the lane for Dequeues with these options.
func (s *Storage) laneFor(opts pinion.DequeueOptions) *lane {
	name := fmt.Sprintf("%q", opts.Queues)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.lanes[name] == nil {
		s.lanes[name] = &lane{turn: make(chan struct{}, 1)}
	}
	return s.lanes[name]
}

// enter waits for the turn in a lane.
func (s *Storage) enter(ctx context.Context, l *lane) error {
	select {
	case l.turn <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-s.closing.Done():
		return pinion.ErrClosed
	}
}

func (l *lane) leave() { <-l.turn }

func (l *lane) mayHaveJobs() bool { return l.woken == nil }

// look claims what is due, and notes in the lane what the next one should know.
func (s *Storage) look(ctx context.Context, l *lane, opts pinion.DequeueOptions) ([]*pinion.Job, error) {
	woken := s.wakeups.next() // before the look, so that it misses none
	start := time.Now()
	jobs, err := s.claimDue(ctx, opts)
	l.looked, l.took, l.found = time.Now(), time.Since(start), len(jobs)
	if err == nil && len(jobs) < opts.Max {
		l.woken = woken
	}
	return jobs, err
}

// awaitJobs returns when there may be a job to claim, or with the error of ctx.
func (s *Storage) awaitJobs(ctx context.Context, l *lane, opts pinion.DequeueOptions) error {
	wait := s.opts.PollInterval
	select {
	case <-l.woken: // jobs keep coming; no need to ask when the next is due
	default:
		var err error
		wait, err = s.untilDue(ctx, opts)
		if err != nil {
			return err
		}
		s.startListening()
	}
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-l.woken:
		if !s.gather(ctx, l) && ctx.Err() != nil {
			return ctx.Err()
		}
	case <-timer.C:
	case <-ctx.Done():
		return ctx.Err()
	case <-s.closing.Done(): // the next look returns ErrClosed
	}
	l.woken = nil
	return nil
}

// untilDue returns how long to wait for the next job if nothing else happens.
func (s *Storage) untilDue(ctx context.Context, opts pinion.DequeueOptions) (time.Duration, error) {
	var seconds *float64
	var passedOver bool // a job is ready: another claim had locked it, and may leave it
	err := s.read(ctx, "dequeue", func(ctx context.Context, conn *pgx.Conn) error {
		return conn.QueryRow(ctx, s.sql(nextDueSQL), opts.Queues).Scan(&seconds, &passedOver)
	})
	if err != nil {
		return 0, err
	}
	if passedOver {
		return time.Millisecond, nil
	}
	if seconds == nil {
		return s.opts.PollInterval, nil
	}
	due := time.Duration(min(*seconds, s.opts.PollInterval.Seconds()) * float64(time.Second))
	return max(due, 0), nil
}

const (
	gatherStep = time.Millisecond // between two looks of a lane, for each job that the last one found
	gatherMost = 8 * gatherStep
)

// gather lets jobs come together while they keep coming, so that a look claims several, and looking takes half of the
// time at most. One that came alone is no reason to delay the next; wake-ups for jobs of another queue are.
func (s *Storage) gather(ctx context.Context, l *lane) bool {
	pause := gatherStep
	if l.found > 0 {
		pause = min(time.Duration(l.found-1)*gatherStep, gatherMost)
	}
	left := max(pause, l.took) - time.Since(l.looked)
	return left <= 0 || s.pause(ctx, left)
}

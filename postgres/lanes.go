package postgres

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pinion-queue/pinion"
)

// nextDueSQL returns in how many seconds the next job is due, and whether one of the wish ($1 tasks, $2 queues)
// is due already: another claim had locked it, and may leave it.
const nextDueSQL = `
	SELECT (SELECT extract(epoch FROM run_at-statement_timestamp())::float8 FROM @jobs
			WHERE status='PENDING' AND future ORDER BY run_at LIMIT 1),
		CASE WHEN $2::text[] IS NULL THEN EXISTS (SELECT FROM @jobs j WHERE ` + isReadySQL + ` AND ` + isKnownSQL + `)
		ELSE EXISTS (SELECT FROM unnest($2::text[]) AS q(name) CROSS JOIN LATERAL (
			SELECT FROM @jobs j WHERE j.queue=q.name AND ` + isReadySQL + ` AND ` + isKnownSQL + ` LIMIT 1) x) END`

// lane is where the Dequeues of this process that wish for the same take turns: one looks and waits, and leaves
// what it has learned to the next. Two that waited would both look for each job that comes.
type lane struct {
	turn chan struct{} // capacity 1: whoever has filled it owns the rest

	woken  <-chan struct{} // nothing is due before this is closed; nil: there may be jobs
	looked time.Time       // when the last look ended
	took   time.Duration   // how long it took
	found  int             // how many jobs it found

	asideChecked time.Time // see setAside; the storage's mutex guards it
}

// laneFor returns the lane for a wish.
func (s *Storage) laneFor(w *wish) *lane {
	name := w.lane()
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
func (s *Storage) look(ctx context.Context, l *lane, w *wish) ([]*pinion.Job, error) {
	woken := s.wakeups.next() // before the look, so that it misses none
	start := time.Now()
	jobs, err := s.claimDue(ctx, w)
	l.looked, l.took, l.found = time.Now(), time.Since(start), len(jobs)
	if err == nil && len(jobs) < w.max {
		l.woken = woken
	}
	return jobs, err
}

// awaitJobs returns when there may be a job to claim, or with the error of ctx.
func (s *Storage) awaitJobs(ctx context.Context, l *lane, w *wish) error {
	wait := s.opts.PollInterval
	select {
	case <-l.woken: // jobs keep coming; no need to ask when the next is due
	default:
		var err error
		wait, err = s.untilDue(ctx, w)
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

// limitedPoll is how often a Dequeue looks by itself if its queues have limits: a job that is due may have to
// stay.
const limitedPoll = 100 * time.Millisecond

// untilDue returns how long to wait for the next job if nothing else happens.
func (s *Storage) untilDue(ctx context.Context, w *wish) (time.Duration, error) {
	var seconds *float64
	var passedOver bool
	err := s.read(ctx, "dequeue", func(ctx context.Context, conn *pgx.Conn) error {
		return conn.QueryRow(ctx, s.sql(nextDueSQL), w.tasks, w.queues).Scan(&seconds, &passedOver)
	})
	if err != nil {
		return 0, err
	}
	wait := s.opts.PollInterval
	if passedOver && s.limited.Load() {
		wait = min(wait, limitedPoll)
	} else if passedOver {
		wait = time.Millisecond
	}
	if seconds == nil {
		return wait, nil
	}
	due := time.Duration(min(*seconds, wait.Seconds()) * float64(time.Second))
	return max(due, 0), nil
}

const (
	gatherStep = time.Millisecond // between two looks of a lane, for each job that the last one found
	maxGather  = 8 * gatherStep
)

// gather lets jobs come together while they keep coming, so that a look claims several, and looking takes half
// of the time at most. One that came alone is no reason to delay the next; wake-ups for jobs of another queue
// are.
func (s *Storage) gather(ctx context.Context, l *lane) bool {
	pause := gatherStep
	if l.found > 0 {
		pause = min(time.Duration(l.found-1)*gatherStep, maxGather)
	}
	left := max(pause, l.took) - time.Since(l.looked)
	return left <= 0 || s.pause(ctx, left)
}

package postgres

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pinion-queue/pinion/internal/rules"
)

// A lease is taken back at the second look. The first one stores a doubt in the row, which a heartbeat clears.
// The storage that has doubted takes the lease back after a gap by its own monotonic clock, which neither runs
// while the machine sleeps nor jumps. Another storage cannot know that clock, and waits for a whole lease by
// the server's clock.

const (
	reapSize = 500 // leases that a transaction doubts or takes back

	// leaseSQL is a row's lease; a claim without one is of a version that stored none, and $1 holds for it.
	leaseSQL = `coalesce(j.lease, $1::interval)`
	// A heartbeat in the future was stored before the clock was set back.
	isExpiredSQL = `j.status='RUNNING' AND (j.heartbeat_at<statement_timestamp()-` + leaseSQL + `
		OR j.heartbeat_at>statement_timestamp()+` + leaseSQL + `)`

	doubtSQL = `
		WITH c AS (SELECT j.seq FROM @jobs j WHERE ` + isExpiredSQL + ` 
			AND (j.doubted_at IS NULL OR j.doubted_at>statement_timestamp()) -- the clock was set back
			ORDER BY j.seq LIMIT $2 FOR UPDATE SKIP LOCKED)
		UPDATE @jobs j SET doubted_at=statement_timestamp() FROM c WHERE j.seq=c.seq
		RETURNING j.id, j.claim, j.doubted_at, ` + leaseSQL

	// isRipeSQL is whether a doubt is a lease old, or one of those in $2 to $4.
	isRipeSQL = `(j.doubted_at<=statement_timestamp()-` + leaseSQL + `
		OR (j.id, j.claim, j.doubted_at) IN (SELECT * FROM unnest($2::text[], $3::bigint[], $4::timestamptz[])))`

	anyRipeSQL = `SELECT EXISTS (SELECT FROM @jobs j WHERE ` + isExpiredSQL + ` AND ` + isRipeSQL + `)`

	// reapSQL takes back expired leases with a doubt that is a lease old, or one of those in $2 to $4. A job
	// that has lost its lease before is due at a random time, so that it does not die again with the one that
	// kills their process.
	reapSQL = `
		WITH c AS (SELECT j.seq, ` + leaseSQL + ` AS lease FROM @jobs j WHERE ` + isExpiredSQL + `
			AND ` + isRipeSQL + `
			ORDER BY j.seq LIMIT $5 FOR UPDATE SKIP LOCKED),
		ended AS (` + giveUpSQL + `, error=CASE WHEN canceled THEN '@canceled' ELSE 'lease expired' END, reaped=j.reaped+1,
				future=NOT canceled AND j.reaped>0,
				run_at=CASE WHEN canceled THEN j.run_at WHEN j.reaped=0 THEN NULL
					ELSE statement_timestamp()+random()*least(greatest(j.attempts, 1), 1000)*c.lease END
			FROM c WHERE j.seq=c.seq RETURNING j.queue, j.task, j.status, j.claim AS claimed)` + countEndsSQL + `
		SELECT count(*) FROM ended`
)

// doubt identifies what a storage has written into a row.
type doubt struct {
	id    string
	claim int64
	at    time.Time // doubted_at: if that has changed, the doubt is another's
}

// ReapStale implements [pinion.Storage]. It also prunes jobs that finished longer ago than Retention.
func (s *Storage) ReapStale(ctx context.Context, visibility time.Duration) (reaped int, err error) {
	visibility = max(visibility, 0)
	reaped, err = s.takeBack(ctx, visibility)
	if reaped > 0 {
		s.announceJobs()
	}
	if err != nil {
		return reaped, err
	}
	if err := s.doubtExpired(ctx, visibility); err != nil {
		return reaped, err
	}
	if err := s.mergeEnds(ctx); err != nil {
		return reaped, err
	}
	return reaped, s.pruneOld(ctx)
}

// takeBack takes back the leases that were doubted long enough ago. It lets heartbeats go first: if all processes were
// stopped since the doubt, or the server was, this one may be the first that goes on.
func (s *Storage) takeBack(ctx context.Context, visibility time.Duration) (reaped int, err error) {
	ripe := s.ripeDoubts()
	ids, claims, times := make([]string, len(ripe)), make([]int64, len(ripe)), make([]time.Time, len(ripe))
	for i, d := range ripe {
		ids[i], claims[i], times[i] = d.id, d.claim, d.at
	}
	var found bool
	err = s.read(ctx, "reap", func(ctx context.Context, conn *pgx.Conn) error {
		return conn.QueryRow(ctx, s.sql(anyRipeSQL), interval(visibility), ids, claims, times).Scan(&found)
	})
	if err != nil {
		return 0, err
	}
	if !found {
		s.forget(ripe) // these leases were renewed or have ended
		return 0, nil
	}
	select {
	case <-time.After(rules.HeartbeatsFirst):
	case <-ctx.Done():
		return 0, ctx.Err()
	}
	for {
		var page int
		err := s.write(ctx, "reap", func(ctx context.Context, conn *pgx.Conn, _ bool) error {
			return conn.QueryRow(ctx, s.sql(reapSQL), interval(visibility), ids, claims, times, reapSize).Scan(&page)
		})
		if err != nil {
			return reaped, err
		}
		reaped += page
		if page < reapSize {
			s.forget(ripe) // the others were renewed or have ended
			return reaped, nil
		}
	}
}

// ripeDoubts returns this storage's doubts whose gap is over.
func (s *Storage) ripeDoubts() (ripe []doubt) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	for d, at := range s.doubts {
		if !now.Before(at) {
			ripe = append(ripe, d)
		}
	}
	return ripe
}

func (s *Storage) forget(doubts []doubt) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, d := range doubts {
		delete(s.doubts, d)
	}
}

// doubtExpired stores doubts of expired leases.
func (s *Storage) doubtExpired(ctx context.Context, visibility time.Duration) error {
	for {
		doubts := make(map[doubt]time.Duration) // to the lease
		err := s.write(ctx, "reap", func(ctx context.Context, conn *pgx.Conn, _ bool) error {
			var d doubt
			var lease time.Duration
			rows, _ := conn.Query(ctx, s.sql(doubtSQL), interval(visibility), reapSize)
			_, err := pgx.ForEachRow(rows, []any{&d.id, &d.claim, &d.at, &lease}, func() error {
				d.at = d.at.UTC()
				doubts[d] = lease
				return nil
			})
			return err
		})
		if err != nil {
			return err
		}
		s.keepDoubts(doubts)
		if len(doubts) < reapSize {
			return nil
		}
	}
}

// keepDoubts notes from when on the leases may be taken back. It is called after the COMMIT.
func (s *Storage) keepDoubts(doubts map[doubt]time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	for d, lease := range doubts {
		s.doubts[d] = now.Add(rules.SecondLook(lease))
	}
}

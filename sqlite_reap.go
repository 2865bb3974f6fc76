package pinion

import (
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/pinion-queue/pinion/internal/rules"
)

// claimKey names a claim. SQLiteStorage.doubts has the time of the first look at each claim whose lease has expired. A
// storage keeps its own doubts in memory, because only a monotonic clock shows that the holder had time for a
// heartbeat.
type claimKey struct {
	id    string
	claim int64
}

// expiredClaim is a RUNNING row whose lease has expired.
type expiredClaim struct {
	rowid     int64
	key       claimKey
	claim     any // as stored
	attempts  int64
	reaped    int64
	lease     time.Duration
	doubtedAt any  // as stored; NULL: nobody doubts the claim
	ripe      bool // it has been doubted for long enough to be taken back
	canceled  bool

	queue, task string
}

// maxLockWait is how long a reaper may have waited for the write lock and still take something back. For long leases it
// is a quarter of ReapGap, if that is longer. While the reaper waited, heartbeats may have waited too. The wait
// includes rules.HeartbeatsFirst.
const maxLockWait = 500 * time.Millisecond

// ReapStale takes back the claims of dead workers; see [Storage]. It also deletes some of what Retention and
// DeadLetterRetention do not keep, and merges old minutes of History into hours. If there is nothing to do it takes no
// lock.
func (s *SQLiteStorage) ReapStale(ctx context.Context, visibility time.Duration) (reaped int, err error) {
	if s.w == nil {
		return 0, wrap("reap", errReadOnly)
	}
	called := time.Now() // before any wait for a lock, for which heartbeats may wait as well
	if err := s.checkVersion(ctx); err != nil {
		return 0, err
	}
	expired, err := s.expiredClaims(ctx, called, visibility)
	if err != nil {
		return 0, err
	}
	s.forgetDoubts(expired)
	if s.findRipe(expired, called) {
		if err := s.letHeartbeatsPass(ctx); err != nil {
			return 0, err
		}
	}
	begun := called
	for page := range slices.Chunk(expired, perTransaction) {
		n, err := s.reapOrDoubt(ctx, begun, page)
		reaped += n
		if err != nil {
			return reaped, err
		}
		begun = time.Now()
	}
	if err := s.mergeEnds(ctx, called); err != nil {
		return reaped, err
	}
	return reaped, s.pruneOld(ctx, called)
}

// expiredClaims returns the claims whose last heartbeat is longer ago than their lease, or as far in the future, which
// happens when the clock is set back. visibility is the lease of claims that have none.
func (s *SQLiteStorage) expiredClaims(
	ctx context.Context, now time.Time, visibility time.Duration,
) (expired []expiredClaim, err error) {
	q := s.leaseReader(ctx)
	for v := range q.rows(`SELECT rowid, id, claim, attempts, reaped, iif(lease>0, lease, ?2), cancel, queue, func_name,
			iif(doubted_at >= coalesce(heartbeat_at, 0), doubted_at, NULL)
		FROM jobs INDEXED BY jobs_running3
		WHERE status='RUNNING' AND coalesce(heartbeat_at, 0)
			NOT BETWEEN ?1-iif(lease>0, lease, ?2) AND ?1+iif(lease>0, lease, ?2)`,
		seconds(now), visibility.Seconds()) {
		lease, _ := v[5].(float64)
		expired = append(expired, expiredClaim{
			rowid:     integer(v[0]),
			key:       claimKey{text(v[1]), integer(v[2])},
			claim:     v[2],
			attempts:  integer(v[3]),
			reaped:    integer(v[4]),
			lease:     fromFloat(lease),
			canceled:  integer(v[6]) != 0,
			queue:     text(v[7]),
			task:      text(v[8]),
			doubtedAt: v[9],
		})
	}
	return expired, wrap("reap", q.err)
}

// fromFloat returns seconds as a Duration of whole microseconds that does not overflow.
func fromFloat(seconds float64) time.Duration {
	const longest = float64(math.MaxInt64 / 2)
	return time.Duration(min(max(seconds*float64(time.Second), -longest), longest)).Round(time.Microsecond)
}

// forgetDoubts forgets the doubts about claims that have not expired any more.
func (s *SQLiteStorage) forgetDoubts(expired []expiredClaim) {
	s.mu.Lock()
	defer s.mu.Unlock()
	still := make(map[claimKey]time.Time)
	for _, e := range expired {
		if at, ok := s.doubts[e.key]; ok && e.doubtedAt != nil { // a heartbeat clears doubted_at
			still[e.key] = at
		}
	}
	s.doubts = still
}

// letHeartbeatsPass waits for the write lock, and then for the heartbeats that waited too. A long lock, or a freeze of
// all processes, may have held them up since the first look, and this reaper may be the first to go on.
func (s *SQLiteStorage) letHeartbeatsPass(ctx context.Context) error {
	if err := s.write(ctx, "reap", func(*transaction) {}); err != nil {
		return err
	}
	pause(ctx, rules.HeartbeatsFirst)
	return ctx.Err()
}

// reapOrDoubt takes back the claims that are ripe, and doubts those that nobody doubts. If it has waited too long for
// the write lock, it takes nothing back and doubts anew. begun is when that wait may have begun.
func (s *SQLiteStorage) reapOrDoubt(
	ctx context.Context, begun time.Time, expired []expiredClaim,
) (reaped int, err error) {
	isToDo := func(e expiredClaim) bool { return e.ripe || e.doubtedAt == nil }
	if !slices.ContainsFunc(expired, isToDo) { // all doubts are too young
		return 0, nil
	}
	var doubted []claimKey
	err = s.write(ctx, "reap", func(tx *transaction) {
		reaped, doubted = 0, nil
		waited := tx.now.Sub(begun)
		for _, e := range expired {
			late := waited > max(maxLockWait, rules.ReapGap(e.lease)/4)
			switch {
			case e.ripe && !late:
				if s.reap(tx, e) {
					reaped++
				}
			case isToDo(e):
				if e.mark(tx) {
					doubted = append(doubted, e.key)
				}
			}
		}
	})
	if err != nil {
		return 0, err
	}
	now := time.Now() // after the COMMIT
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, key := range doubted {
		s.doubts[key] = now
	}
	return reaped, nil
}

// findRipe marks the claims that are ripe, and reports whether there are any.
func (s *SQLiteStorage) findRipe(expired []expiredClaim, now time.Time) (found bool) {
	for i, e := range expired {
		expired[i].ripe = s.isRipe(e, now)
		found = found || expired[i].ripe
	}
	return found
}

// isRipe reports whether a claim was doubted for long enough: by this storage, on the monotonic clock, or by another
// process for a whole lease.
func (s *SQLiteStorage) isRipe(e expiredClaim, now time.Time) bool {
	if e.doubtedAt == nil {
		return false
	}
	s.mu.Lock()
	own, ok := s.doubts[e.key]
	s.mu.Unlock()
	if ok {
		return now.Sub(own) >= rules.SecondLook(e.lease)
	}
	age := now.Sub(fromSeconds(e.doubtedAt))
	return age >= e.lease
}

// underDoubt is the row of an expired claim, if it has had no heartbeat since it was seen.
const underDoubt = ` WHERE rowid=? AND status='RUNNING' AND claim IS ?
	AND iif(doubted_at >= coalesce(heartbeat_at, 0), doubted_at, NULL) IS ?`

// mark stores the doubt. A heartbeat clears it; one of Python's does not, and voids it by being later. A heartbeat may
// also be later because the clock was set back, so the stored time is at least the heartbeat's.
func (e expiredClaim) mark(tx *transaction) bool {
	return tx.exec(`UPDATE jobs SET doubted_at=max(?, coalesce(heartbeat_at, 0))`+underDoubt,
		seconds(tx.now), e.rowid, e.claim, e.doubtedAt) > 0
}

// reap makes the job PENDING again. The first time it is due at once, later within attempts × lease, of which at most a
// thousand attempts count, so that no job waits for ever.
func (s *SQLiteStorage) reap(tx *transaction, e expiredClaim) bool {
	s.claims.changed(e.queue)
	if e.canceled {
		canceled := tx.exec(cancelRow+underDoubt,
			ErrCanceled.Error(), seconds(tx.now), e.rowid, e.claim, e.doubtedAt) > 0
		if canceled {
			s.ends.add(e.queue, e.task, StatusFailed, sinceClaim(e.key.claim, tx.now))
		}
		return canceled
	}
	var runAt time.Time
	if e.reaped > 0 {
		attempts := float64(min(max(e.attempts, 1), 1000))
		runAt = tx.now.Add(fromFloat(rand.Float64() * attempts * e.lease.Seconds()))
	}
	return tx.exec(`UPDATE jobs SET status='PENDING', error='lease expired', reaped=reaped+1,
			run_at=?, future=?`+claimEnds+underDoubt,
		seconds(runAt), runAt.After(tx.now), e.rowid, e.claim, e.doubtedAt) > 0
}

// checkVersion returns an error if a newer Pinion has migrated the file. This one must not claim any more then: it does
// not know what the new columns mean.
func (s *SQLiteStorage) checkVersion(ctx context.Context) error {
	q := s.leaseReader(ctx)
	q.fail(newerVersion(q))
	return wrap("reap", q.err)
}

// newerVersion returns an error if a newer Pinion has migrated the file. If it cannot read the version, it leaves that
// error in q.
func newerVersion(q *session) error {
	version := int(integer(q.value("PRAGMA user_version")))
	if version <= schemaVersion {
		return nil
	}
	return fmt.Errorf("a newer Pinion has migrated the file to version %d of its schema; "+
		"this one knows version %d: update this program", version, schemaVersion)
}

package postgres

import (
	"context"
	"errors"
	"runtime"
	"slices"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
)

// insertGroup lets concurrent calls of Enqueue share a statement: one of them, the leader, inserts the jobs of
// all that wait, while the next calls gather. A statement costs the server more than the row that it inserts.
type insertGroup struct {
	mu       sync.Mutex // guards the rest
	led      bool       // there is a leader
	waiting  []*follower
	expected int // how many jobs the last statement had
}

// follower is a call that waits for a leader to insert its job.
type follower struct {
	batch  *batch      // of one job
	answer chan answer // capacity 1: it gets exactly one
}

// answer is what a follower learns.
type answer struct {
	lead bool  // it is the leader now; the rest is about a statement that had its job
	sent bool  // the job may be stored in spite of err
	err  error // errAlone: the call must insert its job by itself
}

const (
	groupJobs  = 100         // in a statement at most
	groupBytes = 1 << 20     // of arguments in a statement, about
	groupWait  = time.Second // until a follower goes alone: the leader may be waiting for a connection
)

// errAlone is for a job whose statement failed: the fault may be another's.
var errAlone = errors.New("the statement that several calls shared has failed")

// insertTogether tries once to insert the only job of b together with those of other calls. sent reports that
// the job may be stored in spite of the error.
func (s *Storage) insertTogether(ctx context.Context, b *batch) (sent bool, err error) {
	if a := s.inserts.join(ctx, b); !a.lead {
		return a.sent, a.err
	}
	return s.lead(ctx, b)
}

// lead inserts the job of b and those of the followers, answers them, and hands the lead on.
func (s *Storage) lead(ctx context.Context, b *batch) (sent bool, err error) {
	var followers []*follower
	result := outcome{err: errAlone, sent: true} // unless try returns, which it doesn't after a panic
	defer func() {
		for _, f := range followers {
			f.answer <- answer{sent: result.sent, err: result.err}
		}
		s.inserts.handOn(result.err)
	}()
	result = s.try(ctx, &call{writes: true, run: func(ctx context.Context, conn *pgx.Conn, _ bool) error {
		followers = s.inserts.gather(b)
		all := &batch{created: microTime(time.Now())}
		all.include(b)
		for _, f := range followers {
			all.include(f.batch)
		}
		stored, err := s.insert(ctx, conn, all)
		if err == nil && !stored {
			return errAlone // one of the new ids is taken
		}
		return err
	}})
	if result.err == nil {
		s.announceJobs()
	}
	return result.sent, result.err
}

// include adds the jobs of a call. They get the same CreatedAt, by which a later try of the call recognizes them.
func (b *batch) include(o *batch) {
	o.created = b.created
	b.jobs = append(b.jobs, o.jobs...)
}

// join waits until the call is the leader, or until a leader has inserted its job.
func (g *insertGroup) join(ctx context.Context, b *batch) answer {
	g.mu.Lock()
	if !g.led {
		g.led = true
		g.mu.Unlock()
		return answer{lead: true}
	}
	f := &follower{b, make(chan answer, 1)}
	g.waiting = append(g.waiting, f)
	g.mu.Unlock()
	timer := time.NewTimer(groupWait)
	defer timer.Stop()
	select {
	case a := <-f.answer:
		return a
	case <-ctx.Done():
	case <-timer.C:
	}
	if g.leave(f) {
		return answer{err: errAlone}
	}
	return <-f.answer // a leader has its job already
}

// leave reports whether f still waited.
func (g *insertGroup) leave(f *follower) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	i := slices.Index(g.waiting, f)
	if i < 0 {
		return false
	}
	g.waiting = slices.Delete(g.waiting, i, i+1)
	return true
}

// gather takes the followers that wait. Calls that shared the last statement have just returned and may be
// about to enqueue again, so gather yields to them first.
func (g *insertGroup) gather(leader *batch) []*follower {
	for range 16 {
		if g.allHere() {
			break
		}
		runtime.Gosched()
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	taken, bytes := 0, leader.bytes()
	for taken < len(g.waiting) && 1+taken < groupJobs && bytes < groupBytes {
		bytes += g.waiting[taken].batch.bytes()
		taken++
	}
	followers := slices.Clone(g.waiting[:taken])
	g.waiting = slices.Delete(g.waiting, 0, taken)
	g.expected = 1 + taken
	return followers
}

// allHere reports whether as many calls are here as shared the last statement.
func (g *insertGroup) allHere() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return 1+len(g.waiting) >= g.expected
}

// handOn makes the follower that waits longest the leader. After an error all go alone, at once.
func (g *insertGroup) handOn(err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if err != nil {
		for _, f := range g.waiting {
			f.answer <- answer{err: errAlone}
		}
		g.waiting = nil
	}
	if len(g.waiting) == 0 {
		g.led = false
		return
	}
	g.waiting[0].answer <- answer{lead: true}
	g.waiting = slices.Delete(g.waiting, 0, 1)
}

// bytes returns the size of the arguments of a batch of one job.
func (b *batch) bytes() int { return len(b.jobs[0].args) + len(b.jobs[0].kwargs) }

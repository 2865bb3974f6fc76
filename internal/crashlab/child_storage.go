package crashlab

import (
	"context"
	"errors"
	"slices"
	"strconv"
	"time"

	"github.com/pinion-queue/pinion"
)

// childStorage is the storage of a child. It writes down which jobs the child's worker claims, which claims
// it tries to end, which it ended and which it lost, and which calls took long. It is also where a child dies
// if its death is planned.
type childStorage struct {
	pinion.Storage
	child *child
}

// longCall is the time from which on a call is written down.
const longCall = 100 * time.Millisecond

// timed makes a call, or dies in it, and writes it down if it took long.
func (s *childStorage) timed(call string, do func() error) error {
	s.child.dieIfPlanned(call)
	begun := time.Now()
	err := do()
	took := time.Since(begun)
	if took >= longCall {
		s.child.log.write(logCall, call, strconv.FormatInt(took.Microseconds(), 10))
	}
	return err
}

func (s *childStorage) writeClaimed(jobs []*pinion.Job) {
	if len(jobs) > 0 {
		s.child.log.write(logClaimed, claimNames(jobs)...)
	}
}

func (s *childStorage) writeEnding(call string, jobs []*pinion.Job) {
	s.child.log.write(logEnding, append([]string{call}, claimNames(jobs)...)...)
}

// writeEnded writes down that the claims of jobs have ended, but for those that were lost.
func (s *childStorage) writeEnded(call string, jobs, lost []*pinion.Job) {
	isLost := func(job *pinion.Job) bool { return slices.Contains(lost, job) }
	ended := slices.DeleteFunc(slices.Clone(jobs), isLost)
	s.child.log.write(logEnded, append([]string{call}, claimNames(ended)...)...)
}

func (s *childStorage) writeLost(lost []*pinion.Job) {
	if len(lost) > 0 {
		s.child.log.write(logLost, claimNames(lost)...)
	}
}

func (s *childStorage) Enqueue(ctx context.Context, jobs ...*pinion.Job) error {
	return s.timed("enqueue", func() error { return s.Storage.Enqueue(ctx, jobs...) })
}

func (s *childStorage) Dequeue(ctx context.Context, opts pinion.DequeueOptions) ([]*pinion.Job, error) {
	s.child.dieIfPlanned("claim")
	jobs, err := s.Storage.Dequeue(ctx, opts)
	s.writeClaimed(jobs)
	return jobs, err
}

func (s *childStorage) MarkDone(ctx context.Context, jobs ...*pinion.Job) (lost []*pinion.Job, err error) {
	s.writeEnding("done", jobs)
	err = s.timed("done", func() (err error) {
		lost, err = s.Storage.MarkDone(ctx, jobs...)
		return err
	})
	if err == nil {
		s.writeEnded("done", jobs, lost)
	}
	s.writeLost(lost)
	return lost, err
}

func (s *childStorage) MarkFailed(ctx context.Context, job *pinion.Job, cause error, retryAt time.Time) error {
	return s.endOne("failed", job, func() error { return s.Storage.MarkFailed(ctx, job, cause, retryAt) })
}

func (s *childStorage) DeadLetter(ctx context.Context, job *pinion.Job, cause error) error {
	return s.endOne("dead", job, func() error { return s.Storage.DeadLetter(ctx, job, cause) })
}

// endOne makes a call that ends the claim of one job.
func (s *childStorage) endOne(call string, job *pinion.Job, do func() error) error {
	jobs := []*pinion.Job{job}
	s.writeEnding(call, jobs)
	err := s.timed(call, do)
	switch {
	case err == nil:
		s.writeEnded(call, jobs, nil)
	case errors.Is(err, pinion.ErrLeaseLost):
		s.writeLost(jobs)
	}
	return err
}

func (s *childStorage) Heartbeat(ctx context.Context, jobs ...*pinion.Job) (lost []*pinion.Job, err error) {
	err = s.timed("heartbeat", func() (err error) {
		lost, err = s.Storage.Heartbeat(ctx, jobs...)
		return err
	})
	s.writeLost(lost)
	return lost, err
}

func (s *childStorage) ReapStale(ctx context.Context, visibility time.Duration) (n int, err error) {
	s.child.log.write(logReaping)
	err = s.timed("reap", func() (err error) {
		n, err = s.Storage.ReapStale(ctx, visibility)
		return err
	})
	s.child.log.write(logReaped, strconv.Itoa(n))
	return n, err
}

// Release writes down which claims it ended.
func (s *childStorage) Release(
	ctx context.Context, at time.Time, cause error, jobs ...*pinion.Job,
) (lost, canceled []*pinion.Job, err error) {
	s.writeEnding("release", jobs)
	err = s.timed("release", func() (err error) {
		lost, canceled, err = s.Storage.Release(ctx, at, cause, jobs...)
		return err
	})
	if err == nil {
		s.writeEnded("release", jobs, lost)
	}
	return lost, canceled, err
}

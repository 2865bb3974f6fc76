package web

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/pinion-queue/pinion"
	"github.com/pinion-queue/pinion/internal/rules"
	"github.com/pinion-queue/pinion/internal/words"
)

func (s *site) health(w http.ResponseWriter, r *http.Request) {
	status, text := http.StatusOK, "ok\n"
	if reason := s.illness(r.Context()); reason != "" {
		status, text = http.StatusServiceUnavailable, reason+"\n"
	}
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.WriteHeader(status)
	if r.Method != http.MethodHead {
		w.Write([]byte(words.Printable(text, "\n")))
	}
}

// illness returns what is wrong with the queue, or "".
func (s *site) illness(ctx context.Context) string {
	if s.inspector == nil {
		if _, err := s.storage.Size(ctx); err != nil {
			return err.Error()
		}
		return ""
	}
	stats, err := s.stats.get(ctx)
	if err != nil {
		return err.Error()
	}
	damage, err := s.damage.get(ctx)
	if err != nil {
		return err.Error()
	}
	if damage != "" {
		return damage
	}
	limits, err := s.limits(ctx)
	if err != nil {
		return err.Error()
	}
	late, err := s.lateness(ctx, &stats, limits)
	if err != nil {
		return err.Error()
	}
	return late
}

// lateness says that jobs have been due for too long, or running without a worker, or returns "".
func (s *site) lateness(ctx context.Context, stats *pinion.Stats, limits map[string]int) (string, error) {
	if s.opts.MaxWait < 0 {
		return "", nil
	}
	due, since := waiting(stats, limits)
	waited := time.Since(since)
	isLate := due > 0 && waited > s.opts.MaxWait
	if !isLate && stats.Total.Running == 0 {
		return "", nil
	}
	isAlive, expired, err := s.lookForWorkers(ctx, stats)
	if err != nil {
		return "", err
	}
	isAbandoned := !isAlive && !expired.IsZero() && time.Since(expired) > s.opts.MaxWait
	late := fmt.Sprintf("%s due, and the oldest has been due for %s", words.Are(due, "job"), words.Rough(waited))
	switch {
	case isLate && isAlive:
		return late + ": the workers are too few or do not know its task", nil
	case isLate:
		return late + ": no worker is at work", nil
	case isAbandoned:
		return fmt.Sprintf("the lease of a running job expired %s, and it has not been taken back: no worker is at work",
			words.Ago(expired)), nil
	}
	return "", nil
}

// waiting counts the jobs that are due and says since when the oldest is. Jobs of a queue that somebody has paused may
// wait.
func waiting(stats *pinion.Stats, limits map[string]int) (due int, since time.Time) {
	for _, q := range stats.Queues {
		limit, limited := limits[q.Queue]
		isPaused := limited && limit == 0
		if isPaused || q.Due == 0 {
			continue
		}
		due += q.Due
		if since.IsZero() || q.OldestDue.Before(since) {
			since = q.OldestDue
		}
	}
	return due, since
}

// lookForWorkers reports whether a worker is at work: a job ended in the last one to two minutes, or is held under a
// lease that has not expired. A claim of an early Python library, which stores no time, counts as alive. If no worker
// is at work, it returns when the first lease of a running job expired, or the zero time if no job runs.
func (s *site) lookForWorkers(ctx context.Context, stats *pinion.Stats) (isAlive bool, expired time.Time, err error) {
	if stats.Total.Minute > 0 {
		return true, time.Time{}, nil
	}
	for job, err := range s.inspector.Jobs(ctx, pinion.Filter{Status: pinion.StatusRunning}) {
		if err != nil {
			return false, time.Time{}, err
		}
		end := job.LeaseUntil
		if end.IsZero() {
			end = job.HeartbeatAt.Add(rules.DefaultLease)
		}
		isUnknown := job.LeaseUntil.IsZero() && job.HeartbeatAt.IsZero()
		if isUnknown || time.Now().Before(end) {
			return true, time.Time{}, nil
		}
		if expired.IsZero() || end.Before(expired) {
			expired = end
		}
	}
	return false, expired, nil
}

// damageLook is how long a look at a file for damage may take.
const damageLook = 500 * time.Millisecond

// readDamage says what is wrong with the file of a SQLiteStorage, or returns "". A file that is too large for a quick
// look counts as sound.
func (s *site) readDamage(ctx context.Context) (string, error) {
	file, ok := pinion.As[*pinion.SQLiteStorage](s.storage)
	if !ok {
		return "", nil
	}
	ctx, cancel := context.WithTimeout(ctx, damageLook)
	defer cancel()
	report, err := file.Check(ctx)
	if len(report.Damage) > 0 {
		lines := report.Damage[:min(len(report.Damage), 3)]
		return "the file is damaged: " + strings.Join(lines, ", "), nil
	}
	if ctx.Err() != nil || errors.Is(err, context.DeadlineExceeded) {
		return "", nil
	}
	return "", err
}

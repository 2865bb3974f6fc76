package web

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/pinion-queue/pinion"
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
	return s.lateness(&stats, limits)
}

// lateness says that jobs have been due for too long, or returns "". Jobs of a queue that somebody has paused may wait.
func (s *site) lateness(stats *pinion.Stats, limits map[string]int) string {
	if s.opts.MaxWait < 0 {
		return ""
	}
	due := 0
	var since time.Time
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
	waited := time.Since(since)
	if due == 0 || waited <= s.opts.MaxWait {
		return ""
	}
	cause := "the workers are too few or do not know its task"
	if stats.Total.Running == 0 && stats.Total.Minute == 0 {
		cause = "no worker runs"
	}
	return fmt.Sprintf("%s due, and the oldest has been due for %s: %s",
		words.Are(due, "job"), words.Rough(waited), cause)
}

// damageLook is how long a look at a file for damage may take.
const damageLook = 500 * time.Millisecond

// readDamage says what is wrong with the file of a SQLiteStorage, or returns "". A file that is too large for a quick look
// counts as sound.
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

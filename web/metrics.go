package web

import (
	"bytes"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/pinion-queue/pinion"
)

// metrics answers in the text format of Prometheus. The metrics are those of the module prometheus/, pinionprom.Queues.
func (s *site) metrics(w http.ResponseWriter, r *http.Request) {
	var buf bytes.Buffer
	if err := s.writeMetrics(r, &buf); err != nil {
		s.opts.Logger.Error("pinion: the metrics cannot be read", "error", err)
		http.Error(w, "The metrics cannot be read: "+err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
	if r.Method != http.MethodHead {
		w.Write(buf.Bytes())
	}
}

func (s *site) writeMetrics(r *http.Request, buf *bytes.Buffer) error {
	ctx := r.Context()
	if s.inspector == nil {
		size, err := s.storage.Size(ctx)
		if err != nil {
			return err
		}
		header(buf, "pinion_pending_jobs", "Jobs that wait, due or not.")
		fmt.Fprintf(buf, "pinion_pending_jobs %d\n", size)
		return nil
	}
	stats, err := s.stats.get(ctx)
	if err != nil {
		return err
	}
	limits, err := s.limits(ctx)
	if err != nil {
		return err
	}
	now := time.Now()
	header(buf, "pinion_queue_jobs", "Jobs that have not ended, by queue and state.")
	for _, q := range stats.Queues {
		for _, sample := range []struct {
			state string
			jobs  int
		}{{"due", q.Due}, {"scheduled", q.Pending - q.Due}, {"running", q.Running}} {
			fmt.Fprintf(buf, "pinion_queue_jobs{queue=%s,state=%q} %d\n", label(q.Queue), sample.state, sample.jobs)
		}
	}
	header(buf, "pinion_queue_oldest_seconds",
		"How long the job that is due for the longest has been due; 0 if none is due.")
	for _, q := range stats.Queues {
		fmt.Fprintf(buf, "pinion_queue_oldest_seconds{queue=%s} %g\n", label(q.Queue), dueFor(q.Counts, now))
	}
	if s.limiter != nil {
		header(buf, "pinion_queue_limit", "How many jobs of the queue may run at once; 0 if the queue is paused.")
		for _, queue := range slices.Sorted(maps.Keys(limits)) {
			fmt.Fprintf(buf, "pinion_queue_limit{queue=%s} %d\n", label(queue), limits[queue])
		}
	}
	header(buf, "pinion_dead_letters", "Jobs in the dead-letter queue.")
	fmt.Fprintf(buf, "pinion_dead_letters %d\n", stats.DeadLetters)
	return nil
}

func header(buf *bytes.Buffer, name, help string) {
	fmt.Fprintf(buf, "# HELP %s %s\n# TYPE %s gauge\n", name, help, name)
}

// dueFor returns for how many seconds the oldest job that is due has been due.
func dueFor(c pinion.Counts, now time.Time) float64 {
	if c.OldestDue.IsZero() {
		return 0
	}
	return max(now.Sub(c.OldestDue).Seconds(), 0)
}

var labelEscapes = strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\n", `\n`)

// label returns the value of a label in quotes. Prometheus refuses a scrape with text that is not UTF-8.
func label(value string) string {
	return `"` + labelEscapes.Replace(strings.ToValidUTF8(value, "\uFFFD")) + `"`
}

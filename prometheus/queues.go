package pinionprom

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/pinion-queue/pinion"
	"github.com/prometheus/client_golang/prometheus"
)

// Queues reads, at each scrape, what waits and runs in a storage.
//
// Its metrics are pinion_queue_jobs, by queue and state; pinion_queue_oldest_seconds and pinion_queue_limit, by queue;
// and pinion_dead_letters. The states are "due", "scheduled" for jobs whose due time has not come, and "running" for
// those that a worker has claimed. A queue is listed while it has a job or a limit, or has had an end in the last hour.
//
// The storage must be a [pinion.Inspector], itself or behind what wraps it; [pinion.As] finds that. Limits are there
// if it is a [pinion.Limiter] too. If the storage returns an error, so does the scrape.
type Queues struct {
	Storage pinion.Storage
	Timeout time.Duration // how long a scrape may take to read the storage [5s]
}

var _ prometheus.Collector = (*Queues)(nil)

var (
	queueJobs = prometheus.NewDesc("pinion_queue_jobs",
		"Jobs that have not ended, by queue and state.", []string{"queue", "state"}, nil)
	queueOldest = prometheus.NewDesc("pinion_queue_oldest_seconds",
		"How long the job that is due for the longest has been due; 0 if none is due.", []string{"queue"}, nil)
	queueLimit = prometheus.NewDesc("pinion_queue_limit",
		"How many jobs of the queue may run at once; 0 if the queue is paused.", []string{"queue"}, nil)
	deadLetters = prometheus.NewDesc("pinion_dead_letters",
		"Jobs in the dead-letter queue.", nil, nil)
)

// Describe implements [prometheus.Collector].
func (q *Queues) Describe(descs chan<- *prometheus.Desc) {
	descs <- queueJobs
	descs <- queueOldest
	descs <- queueLimit
	descs <- deadLetters
}

// Collect implements [prometheus.Collector].
func (q *Queues) Collect(metrics chan<- prometheus.Metric) {
	timeout := q.Timeout
	if timeout == 0 {
		timeout = 5 * time.Second
	}
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	stats, limits, err := q.read(ctx)
	if err != nil {
		metrics <- prometheus.NewInvalidMetric(queueJobs, err)
		return
	}
	gauge := func(desc *prometheus.Desc, value float64, labels ...string) {
		metrics <- prometheus.MustNewConstMetric(desc, prometheus.GaugeValue, value, labels...)
	}
	for _, queue := range stats.Queues {
		name := label(queue.Queue)
		gauge(queueJobs, float64(queue.Due), name, "due")
		gauge(queueJobs, float64(queue.Pending-queue.Due), name, "scheduled")
		gauge(queueJobs, float64(queue.Running), name, "running")
		gauge(queueOldest, age(queue.OldestDue), name)
	}
	for queue, limit := range limits {
		gauge(queueLimit, float64(limit), label(queue))
	}
	gauge(deadLetters, float64(stats.DeadLetters))
}

func (q *Queues) read(ctx context.Context) (pinion.Stats, map[string]int, error) {
	inspector, ok := pinion.As[pinion.Inspector](q.Storage)
	if !ok {
		return pinion.Stats{}, nil, fmt.Errorf("pinionprom: %T: %w: want a pinion.Inspector", q.Storage,
			errors.ErrUnsupported)
	}
	stats, err := inspector.Stats(ctx)
	if err != nil {
		return pinion.Stats{}, nil, fmt.Errorf("pinionprom: reading stats: %w", err)
	}
	limiter, ok := pinion.As[pinion.Limiter](q.Storage)
	if !ok {
		return stats, nil, nil
	}
	limits, err := limiter.Limits(ctx)
	if err != nil {
		return pinion.Stats{}, nil, fmt.Errorf("pinionprom: reading limits: %w", err)
	}
	return stats, limits, nil
}

// age returns how many seconds ago a time was. It is 0 for the zero time, and for one in the future, which a clock that
// was set back makes.
func age(t time.Time) float64 {
	if t.IsZero() {
		return 0
	}
	return max(time.Since(t).Seconds(), 0)
}

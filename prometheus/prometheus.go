// Package pinionprom exports what Pinion's workers do and what waits in a storage as metrics for Prometheus, with the
// official client library.
//
// [Jobs] counts the ends of attempts in this process, and is fed by a worker's OnEnd. [Workers] shows what runs now.
// [Queues] reads a storage at each scrape, so only one process of those that share a storage needs it. Their zero
// values work. Register them:
//
//	var jobs pinionprom.Jobs
//	prometheus.MustRegister(&jobs, &pinionprom.Queues{Storage: storage})
//	worker := &pinion.Worker{Storage: storage, OnEnd: jobs.OnEnd}
//
// Labels are the names of tasks and queues. A queue for each customer makes series for each customer.
package pinionprom

import (
	"context"
	"strings"
	"sync"

	"github.com/pinion-queue/pinion"
	"github.com/prometheus/client_golang/prometheus"
)

// Jobs counts how attempts at jobs end. Several workers of a process may share one.
//
// Its metrics are pinion_jobs_total, by task, queue and outcome, and the histograms pinion_job_duration_seconds and
// pinion_job_wait_seconds, by task and queue.
//
// Register it with a registry, and set [pinion.Worker].OnEnd to its method. The buckets must not change after that.
type Jobs struct {
	DurationBuckets []float64 // upper bounds in seconds [1 ms to 1 h]
	WaitBuckets     []float64 // upper bounds in seconds [1 ms to 1 day]

	once     sync.Once // sets the rest
	total    *prometheus.CounterVec
	duration *prometheus.HistogramVec
	wait     *prometheus.HistogramVec
}

var _ prometheus.Collector = (*Jobs)(nil)

var (
	durationBuckets = []float64{.001, .005, .01, .05, .1, .5, 1, 5, 10, 30, 60, 300, 900, 3600}
	waitBuckets     = []float64{.001, .01, .1, .5, 1, 5, 10, 30, 60, 300, 900, 3600, 21600, 86400}
)

func (j *Jobs) init() {
	j.once.Do(func() {
		j.total = prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "pinion_jobs_total",
			Help: "Attempts at jobs that have ended, by outcome.",
		}, []string{"task", "queue", "outcome"})
		j.duration = prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "pinion_job_duration_seconds",
			Help:    "How long tasks ran, whatever the outcome.",
			Buckets: orDefault(j.DurationBuckets, durationBuckets),
		}, []string{"task", "queue"})
		j.wait = prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "pinion_job_wait_seconds",
			Help:    "How long jobs waited from their due time to the start of their task.",
			Buckets: orDefault(j.WaitBuckets, waitBuckets),
		}, []string{"task", "queue"})
	})
}

func orDefault(buckets, otherwise []float64) []float64 {
	if len(buckets) == 0 {
		return otherwise
	}
	return buckets
}

// OnEnd counts the end of an attempt. It suits [pinion.Worker].OnEnd. An attempt whose task did not run is counted, and
// has no duration.
func (j *Jobs) OnEnd(_ context.Context, job *pinion.Job, end pinion.End) {
	j.init()
	task, queue := label(job.Task), label(job.Queue)
	j.total.WithLabelValues(task, queue, string(end.Outcome)).Inc()
	if end.Took > 0 {
		j.duration.WithLabelValues(task, queue).Observe(end.Took.Seconds())
		j.wait.WithLabelValues(task, queue).Observe(end.Waited.Seconds())
	}
}

// Describe implements [prometheus.Collector].
func (j *Jobs) Describe(descs chan<- *prometheus.Desc) {
	j.init()
	j.total.Describe(descs)
	j.duration.Describe(descs)
	j.wait.Describe(descs)
}

// Collect implements [prometheus.Collector].
func (j *Jobs) Collect(metrics chan<- prometheus.Metric) {
	j.init()
	j.total.Collect(metrics)
	j.duration.Collect(metrics)
	j.wait.Collect(metrics)
}

// label returns a name as the value of a label, which must be valid UTF-8.
func label(name string) string { return strings.ToValidUTF8(name, "\uFFFD") }

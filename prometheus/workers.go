package pinionprom

import (
	"github.com/pinion-queue/pinion"
	"github.com/prometheus/client_golang/prometheus"
)

// Workers shows what workers of this process are doing, from their Metrics:
//
//	prometheus.MustRegister(pinionprom.Workers{worker})
//
// Its metrics are the gauge pinion_jobs_running, by task, and the counter pinion_leases_taken_back_total: leases of
// dead workers, of any process, that these workers took back.
type Workers []*pinion.Worker

var _ prometheus.Collector = Workers(nil)

var (
	jobsRunning = prometheus.NewDesc("pinion_jobs_running",
		"Tasks that run now in the workers of this process.", []string{"task"}, nil)
	leasesTakenBack = prometheus.NewDesc("pinion_leases_taken_back_total",
		"Leases of dead workers that the workers of this process took back.", nil, nil)
)

// Describe implements [prometheus.Collector].
func (w Workers) Describe(descs chan<- *prometheus.Desc) {
	descs <- jobsRunning
	descs <- leasesTakenBack
}

// Collect implements [prometheus.Collector].
func (w Workers) Collect(metrics chan<- prometheus.Metric) {
	running := make(map[string]int64)
	var takenBack int64
	for _, worker := range w {
		m := worker.Metrics()
		takenBack += m.Reaped
		for _, task := range m.Tasks {
			running[label(task.Task)] += task.Running
		}
	}
	for task, n := range running {
		metrics <- prometheus.MustNewConstMetric(jobsRunning, prometheus.GaugeValue, float64(n), task)
	}
	metrics <- prometheus.MustNewConstMetric(leasesTakenBack, prometheus.CounterValue, float64(takenBack))
}

package pinionprom_test

import (
	"path/filepath"
	"testing"
	"time"

	"github.com/pinion-queue/pinion"
	pinionprom "github.com/pinion-queue/pinion/prometheus"
	"github.com/prometheus/client_golang/prometheus"
)

// A scrape must not become slower with every job that has ever finished. Those of the last minute are another matter,
// because Stats counts them by the second: the first scrape is reported apart.
//
//	go test -run '^$' -bench Scrape
func BenchmarkScrapeOfAMillionFinishedJobs(b *testing.B) {
	storage, err := pinion.OpenSQLite(b.Context(), filepath.Join(b.TempDir(), "jobs.db"), nil)
	if err != nil {
		b.Fatal(err)
	}
	defer storage.Close()
	finish(b, storage, 1_000_000)
	waiting := make([]*pinion.Job, 1000)
	for i := range waiting {
		waiting[i] = pinion.NewJob("add", i)
	}
	if err := storage.Enqueue(b.Context(), waiting...); err != nil {
		b.Fatal(err)
	}
	registry := prometheus.NewRegistry()
	registry.MustRegister(&pinionprom.Queues{Storage: storage})
	gather := func() {
		families, err := registry.Gather()
		if err != nil {
			b.Fatal(err)
		}
		if len(families) == 0 {
			b.Fatal("the scrape is empty")
		}
	}
	start := time.Now()
	gather()
	busy := time.Since(start)
	time.Sleep(time.Minute) // now they are history
	for b.Loop() {
		gather()
	}
	b.ReportMetric(busy.Seconds(), "s/scrape-in-the-minute-of-the-ends")
}

// finish stores n jobs that have succeeded.
func finish(b *testing.B, storage pinion.Storage, n int) {
	b.Helper()
	const batch = 10_000
	for done := 0; done < n; {
		jobs := make([]*pinion.Job, min(batch, n-done))
		for i := range jobs {
			jobs[i] = pinion.NewJob("add", i)
		}
		if err := storage.Enqueue(b.Context(), jobs...); err != nil {
			b.Fatal(err)
		}
		for end := done + len(jobs); done < end; {
			claimed, err := storage.Dequeue(b.Context(), pinion.DequeueOptions{Max: batch})
			if err != nil {
				b.Fatal(err)
			}
			lost, err := storage.MarkDone(b.Context(), claimed...)
			if err != nil || len(lost) > 0 {
				b.Fatalf("MarkDone: %d lost, error %v", len(lost), err)
			}
			done += len(claimed)
		}
	}
}

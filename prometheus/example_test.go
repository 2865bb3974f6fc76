package pinionprom_test

import (
	"context"
	"fmt"
	"log"
	"time"

	"github.com/pinion-queue/pinion"
	pinionprom "github.com/pinion-queue/pinion/prometheus"
	"github.com/prometheus/client_golang/prometheus"
)

// A worker feeds Jobs, and each scrape reads Queues from the storage.
func Example() {
	var greet = pinion.Register("greet", func(ctx context.Context, name string) error { return nil })

	ctx := context.Background()
	storage := pinion.NewMemoryStorage()
	defer storage.Close()
	var jobs pinionprom.Jobs
	registry := prometheus.NewRegistry() // in a program: prometheus.MustRegister, and promhttp.Handler serves /metrics
	registry.MustRegister(&jobs, &pinionprom.Queues{Storage: storage})

	if _, err := greet.Enqueue(ctx, storage, "Ada"); err != nil {
		log.Fatal(err)
	}
	worker := &pinion.Worker{Storage: storage, OnEnd: jobs.OnEnd, Logger: quiet}
	if err := worker.Drain(ctx); err != nil {
		log.Fatal(err)
	}

	printMetrics(registry, "pinion_jobs_total")
	// Output: pinion_jobs_total outcome=succeeded queue=default task=greet: 1
}

// Jobs counts attempts, and measures them in buckets that suit your tasks.
func ExampleJobs() {
	jobs := pinionprom.Jobs{DurationBuckets: []float64{0.1, 1, 10, 60}}
	registry := prometheus.NewRegistry()
	registry.MustRegister(&jobs)

	// A worker calls this.
	job := &pinion.Job{Task: "greet", Queue: "default"}
	jobs.OnEnd(context.Background(), job, pinion.End{Outcome: pinion.OutcomeRetried, Took: time.Second})
	jobs.OnEnd(context.Background(), job, pinion.End{Outcome: pinion.OutcomeSucceeded, Took: time.Second})
	printMetrics(registry, "pinion_jobs_total")
	// Output:
	// pinion_jobs_total outcome=retried queue=default task=greet: 1
	// pinion_jobs_total outcome=succeeded queue=default task=greet: 1
}

// Queues reads the storage at each scrape. Only one process of those that share a storage needs it.
func ExampleQueues() {
	ctx := context.Background()
	storage := pinion.NewMemoryStorage()
	defer storage.Close()
	registry := prometheus.NewRegistry()
	registry.MustRegister(&pinionprom.Queues{Storage: storage, Timeout: time.Second})
	for _, queue := range []string{"mail", "mail", "thumbs"} {
		if err := storage.Enqueue(ctx, &pinion.Job{Task: "greet", Queue: queue}); err != nil {
			log.Fatal(err)
		}
	}
	printMetrics(registry, "pinion_queue_jobs")
	// Output:
	// pinion_queue_jobs queue=mail state=due: 2
	// pinion_queue_jobs queue=mail state=running: 0
	// pinion_queue_jobs queue=mail state=scheduled: 0
	// pinion_queue_jobs queue=thumbs state=due: 1
	// pinion_queue_jobs queue=thumbs state=running: 0
	// pinion_queue_jobs queue=thumbs state=scheduled: 0
}

// Workers has what runs now in this process.
func ExampleWorkers() {
	greet := pinion.Task[string]{Name: "greet", Run: func(ctx context.Context, name string) error { return nil }}
	tasks := new(pinion.Registry)
	tasks.Add(greet)

	ctx := context.Background()
	storage := pinion.NewMemoryStorage()
	defer storage.Close()
	worker := &pinion.Worker{Storage: storage, Registry: tasks, Logger: quiet}
	registry := prometheus.NewRegistry()
	registry.MustRegister(pinionprom.Workers{worker})

	if _, err := greet.Enqueue(ctx, storage, "Ada"); err != nil {
		log.Fatal(err)
	}
	if err := worker.Drain(ctx); err != nil {
		log.Fatal(err)
	}
	printMetrics(registry, "pinion_jobs_running")
	// Output: pinion_jobs_running task=greet: 0
}

// printMetrics prints the values of a counter or a gauge.
func printMetrics(registry *prometheus.Registry, name string) {
	families, err := registry.Gather()
	if err != nil {
		log.Fatal(err)
	}
	for _, family := range families {
		if family.GetName() != name {
			continue
		}
		for _, metric := range family.GetMetric() {
			fmt.Print(name)
			for _, label := range metric.GetLabel() {
				fmt.Printf(" %s=%s", label.GetName(), label.GetValue())
			}
			fmt.Printf(": %g\n", metric.GetCounter().GetValue()+metric.GetGauge().GetValue())
		}
	}
}

package pinionprom_test

import (
	"context"
	"fmt"
	"log"

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

	families, err := registry.Gather()
	if err != nil {
		log.Fatal(err)
	}
	for _, family := range families {
		if family.GetName() == "pinion_jobs_total" {
			fmt.Println(family.GetName(), family.GetMetric()[0].GetCounter().GetValue())
		}
	}
	// Output: pinion_jobs_total 1
}

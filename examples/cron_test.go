package examples_test

import (
	"context"
	"fmt"
	"log"
	"log/slog"
	"sync"
	"testing"
	"testing/synctest"
	"time"
	_ "time/tzdata" // so that the time zones are there on every machine

	"github.com/google/go-cmp/cmp"
	"github.com/pinion-queue/pinion"
	"github.com/robfig/cron/v3"
)

var quiet = slog.New(slog.DiscardHandler)

// The schedules of robfig/cron are schedules for a Periodic. This one goes by the clocks of Berlin.
func Example_cron() {
	schedule, err := cron.ParseStandard("CRON_TZ=Europe/Berlin 30 6 * * *")
	if err != nil {
		log.Fatal(err)
	}
	var report = pinion.Register("report", func(ctx context.Context, day string) error {
		fmt.Println("report of", day)
		return nil
	})

	ctx := context.Background()
	storage := pinion.NewMemoryStorage() // or a file or a database that several workers share: a run happens in one
	defer storage.Close()
	worker := &pinion.Worker{
		Storage: storage,
		Logger:  quiet,
		Periodic: []pinion.Periodic{{
			Name:     "daily report",
			Schedule: schedule,
			Job:      func(at time.Time) *pinion.Job { return report.Job(at.Format(time.DateOnly)) },
		}},
	}
	if err := worker.Drain(ctx); err != nil { // Run goes on, and runs a report each day
		log.Fatal(err)
	}

	// The next run is a job like any other.
	for job, err := range storage.Jobs(ctx, pinion.Filter{Status: pinion.StatusPending}) {
		if err != nil {
			log.Fatal(err)
		}
		berlin, err := time.LoadLocation("Europe/Berlin")
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println(job.Task, "is due at", job.RunAt.In(berlin).Format("15:04"))
	}
	// Output: report is due at 06:30
}

// Four days pass in a bubble, with the night in which the clocks are set forward among them.
func TestACronScheduleGoesByTheClocksOfItsTimeZone(t *testing.T) {
	schedule, err := cron.ParseStandard("CRON_TZ=Europe/Berlin 30 6 * * *")
	if err != nil {
		t.Fatal(err)
	}
	synctest.Test(t, func(t *testing.T) {
		time.Sleep(time.Until(time.Date(2000, 3, 24, 0, 0, 0, 0, time.UTC)))
		ctx, cancel := context.WithTimeout(t.Context(), 4*24*time.Hour)
		defer cancel()

		var mu sync.Mutex // guards runs
		var runs []string
		registry := new(pinion.Registry)
		report := pinion.Task[time.Time]{Name: "report", Run: func(ctx context.Context, at time.Time) error {
			mu.Lock()
			defer mu.Unlock()
			runs = append(runs, at.UTC().Format(time.DateTime))
			return nil
		}}
		registry.Add(report)
		storage := pinion.NewMemoryStorage()
		defer storage.Close()
		var workers sync.WaitGroup
		for range 2 { // both have the schedule; each run happens once
			worker := &pinion.Worker{
				Storage:  storage,
				Registry: registry,
				Logger:   quiet,
				Periodic: []pinion.Periodic{{
					Name:     "daily report",
					Schedule: schedule,
					Job:      func(at time.Time) *pinion.Job { return report.Job(at) },
				}},
				// Seldom, because a bubble passes through each of these moments.
				VisibilityTimeout: 12 * time.Hour,
				HeartbeatInterval: time.Hour,
				ReapInterval:      time.Hour,
			}
			workers.Go(func() {
				if err := worker.Run(ctx); err != nil {
					t.Error(err)
				}
			})
		}
		workers.Wait()

		want := []string{
			"2000-03-24 05:30:00", // 06:30 in winter
			"2000-03-25 05:30:00",
			"2000-03-26 04:30:00", // 06:30 in summer
			"2000-03-27 04:30:00",
		}
		if diff := cmp.Diff(want, runs); diff != "" {
			t.Errorf("runs (-want +got):\n%s", diff)
		}
	})
}

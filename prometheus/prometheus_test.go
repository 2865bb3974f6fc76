package pinionprom_test

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/pinion-queue/pinion"
	pinionprom "github.com/pinion-queue/pinion/prometheus"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
)

var quiet = slog.New(slog.DiscardHandler)

// scrape serves collectors over HTTP, scrapes them, and returns the metrics as the client's own parser reads them.
func scrape(t *testing.T, collectors ...prometheus.Collector) map[string]*dto.MetricFamily {
	t.Helper()
	registry := prometheus.NewPedanticRegistry()
	registry.MustRegister(collectors...)
	server := httptest.NewServer(promhttp.HandlerFor(registry, promhttp.HandlerOpts{}))
	defer server.Close()
	response, err := http.Get(server.URL)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		t.Fatalf("the scrape says %s", response.Status)
	}
	parser := expfmt.NewTextParser(model.UTF8Validation)
	families, err := parser.TextToMetricFamilies(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return families
}

// values returns the values of a counter or a gauge, or the number of observations of a histogram, by the values of
// its labels.
func values(family *dto.MetricFamily) map[string]float64 {
	all := make(map[string]float64)
	for _, metric := range family.GetMetric() {
		var labels []string
		for _, pair := range metric.GetLabel() {
			labels = append(labels, pair.GetName()+"="+pair.GetValue())
		}
		slices.Sort(labels)
		value := metric.GetCounter().GetValue() + metric.GetGauge().GetValue() +
			float64(metric.GetHistogram().GetSampleCount())
		all[strings.Join(labels, " ")] = value
	}
	return all
}

// check compares the values of a metric.
func check(t *testing.T, families map[string]*dto.MetricFamily, name string, want map[string]float64) {
	t.Helper()
	if diff := cmp.Diff(want, values(families[name])); diff != "" {
		t.Errorf("%s (-want +got):\n%s", name, diff)
	}
}

func enqueue(t *testing.T, storage pinion.Storage, jobs ...*pinion.Job) {
	t.Helper()
	if err := storage.Enqueue(t.Context(), jobs...); err != nil {
		t.Fatal(err)
	}
}

func TestAScrapeShowsHowAttemptsEnded(t *testing.T) {
	registry := new(pinion.Registry)
	registry.Add(
		pinion.Task[int]{Name: "halve", Run: func(ctx context.Context, n int) error {
			if n%2 != 0 {
				return pinion.Permanent(errors.New("odd"))
			}
			return nil
		}},
		pinion.Task[struct{}]{Name: "flaky", Run: func(ctx context.Context, _ struct{}) error {
			job, _ := pinion.JobFromContext(ctx)
			switch job.Attempts {
			case 1:
				return errors.New("not yet")
			default:
				return nil
			}
		}},
		pinion.Task[struct{}]{Name: "later", Run: func(ctx context.Context, _ struct{}) error {
			return pinion.Snooze(time.Hour)
		}},
	)
	storage := pinion.NewMemoryStorage()
	defer storage.Close()
	mails := pinion.NewJob("halve", 6)
	mails.Queue = "mails"
	enqueue(t, storage, pinion.NewJob("halve", 4), pinion.NewJob("halve", 5), pinion.NewJob("halve", 2), mails,
		pinion.NewJob("flaky"), pinion.NewJob("later"))

	var jobs pinionprom.Jobs
	worker := &pinion.Worker{
		Storage:  storage,
		Registry: registry,
		Retry:    &pinion.RetryPolicy{MaxRetries: 5, BaseDelay: time.Millisecond},
		OnEnd:    jobs.OnEnd,
		Logger:   quiet,
	}
	if err := worker.Drain(t.Context()); err != nil {
		t.Fatal(err)
	}

	families := scrape(t, &jobs)
	check(t, families, "pinion_jobs_total", map[string]float64{
		"outcome=succeeded queue=default task=halve":     2,
		"outcome=dead-lettered queue=default task=halve": 1,
		"outcome=succeeded queue=mails task=halve":       1,
		"outcome=retried queue=default task=flaky":       1,
		"outcome=succeeded queue=default task=flaky":     1,
		"outcome=snoozed queue=default task=later":       1,
	})
	attempts := map[string]float64{
		"queue=default task=halve": 3,
		"queue=mails task=halve":   1,
		"queue=default task=flaky": 2,
		"queue=default task=later": 1,
	}
	check(t, families, "pinion_job_duration_seconds", attempts)
	check(t, families, "pinion_job_wait_seconds", attempts)
}

func TestAnAttemptIsCountedInItsBucket(t *testing.T) {
	jobs := pinionprom.Jobs{DurationBuckets: []float64{1, 10}, WaitBuckets: []float64{60}}
	ends := []pinion.End{
		{Outcome: pinion.OutcomeSucceeded, Took: time.Second / 2, Waited: time.Second},
		{Outcome: pinion.OutcomeRetried, Took: 5 * time.Second, Waited: time.Hour},
		{Outcome: pinion.OutcomeDeadLettered}, // without being run
	}
	for _, end := range ends {
		jobs.OnEnd(t.Context(), &pinion.Job{Task: "send", Queue: "mails"}, end)
	}
	families := scrape(t, &jobs)
	for name, want := range map[string][]uint64{
		"pinion_job_duration_seconds": {1, 2, 2},
		"pinion_job_wait_seconds":     {1, 2},
	} {
		var got []uint64
		for _, bucket := range families[name].GetMetric()[0].GetHistogram().GetBucket() {
			got = append(got, bucket.GetCumulativeCount())
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("buckets of %s (-want +got):\n%s", name, diff)
		}
	}
}

func TestAScrapeShowsWhatWaitsAndRuns(t *testing.T) {
	for name, open := range map[string]func(t *testing.T) pinion.Storage{
		"memory": func(t *testing.T) pinion.Storage { return pinion.NewMemoryStorage() },
		"SQLite": func(t *testing.T) pinion.Storage {
			storage, err := pinion.OpenSQLite(t.Context(), filepath.Join(t.TempDir(), "jobs.db"), nil)
			if err != nil {
				t.Fatal(err)
			}
			return storage
		},
	} {
		t.Run(name, func(t *testing.T) {
			storage := open(t)
			defer storage.Close()
			fill(t, storage)
			families := scrape(t, &pinionprom.Queues{Storage: storage})
			check(t, families, "pinion_queue_jobs", map[string]float64{
				"queue=default state=due":       2,
				"queue=default state=scheduled": 1,
				"queue=default state=running":   1,
				"queue=mails state=due":         1,
				"queue=mails state=scheduled":   0,
				"queue=mails state=running":     0,
			})
			check(t, families, "pinion_dead_letters", map[string]float64{"": 1})
			check(t, families, "pinion_queue_limit", map[string]float64{"queue=mails": 3, "queue=paused": 0})
		})
	}
}

// fill stores four jobs in the default queue, one of which runs, a dead letter, and a job in the queue mails.
func fill(t *testing.T, storage pinion.Storage) {
	t.Helper()
	ctx := t.Context()
	enqueue(t, storage, pinion.NewJob("broken"), pinion.NewJob("add", 1))
	claimed, err := storage.Dequeue(ctx, pinion.DequeueOptions{Max: 2})
	if err != nil {
		t.Fatal(err)
	}
	if len(claimed) != 2 {
		t.Fatalf("claimed %d jobs, want 2", len(claimed))
	}
	if err := storage.DeadLetter(ctx, claimed[0], errors.New("broken")); err != nil {
		t.Fatal(err)
	}
	later := pinion.NewJob("add", 4)
	later.RunAt = time.Now().Add(time.Hour)
	mail := pinion.NewJob("send", "Ada")
	mail.Queue = "mails"
	enqueue(t, storage, pinion.NewJob("add", 2), pinion.NewJob("add", 3), later, mail)

	limiter, ok := pinion.As[pinion.Limiter](storage)
	if !ok {
		t.Fatalf("%T is not a Limiter", storage)
	}
	for queue, most := range map[string]int{"mails": 3, "paused": 0} {
		if err := limiter.SetLimit(ctx, queue, most); err != nil {
			t.Fatal(err)
		}
	}
}

// dated is a storage with Stats of one's own.
type dated struct {
	*pinion.MemoryStorage
	stats pinion.Stats
}

func (d dated) Stats(context.Context) (pinion.Stats, error) { return d.stats, nil }

func TestAScrapeShowsHowLongJobsHaveBeenDue(t *testing.T) {
	hourAgo := time.Now().Add(-time.Hour)
	nextHour := time.Now().Add(time.Hour) // before the clock was set back
	storage := dated{pinion.NewMemoryStorage(), pinion.Stats{Queues: []pinion.QueueStats{
		{Queue: "late", Counts: pinion.Counts{Pending: 1, Due: 1, OldestDue: hourAgo}},
		{Queue: "none due", Counts: pinion.Counts{Pending: 1}},
		{Queue: "odd clock", Counts: pinion.Counts{Pending: 1, Due: 1, OldestDue: nextHour}},
	}}}
	defer storage.Close()
	got := values(scrape(t, &pinionprom.Queues{Storage: storage})["pinion_queue_oldest_seconds"])
	if late := got["queue=late"]; late < 3600 {
		t.Errorf("the oldest due job is %v s old, want at least 3600", late)
	}
	delete(got, "queue=late")
	if diff := cmp.Diff(map[string]float64{"queue=none due": 0, "queue=odd clock": 0}, got); diff != "" {
		t.Errorf("the other queues (-want +got):\n%s", diff)
	}
}

// wrapped is a storage of one's own around another.
type wrapped struct{ pinion.Storage }

func (w wrapped) Unwrap() pinion.Storage { return w.Storage }

func TestAWrappedStorageIsScrapedToo(t *testing.T) {
	storage := pinion.NewMemoryStorage()
	defer storage.Close()
	enqueue(t, storage, pinion.NewJob("add", 1))
	families := scrape(t, &pinionprom.Queues{Storage: wrapped{storage}})
	check(t, families, "pinion_dead_letters", map[string]float64{"": 0})
	if got := values(families["pinion_queue_jobs"])["queue=default state=due"]; got != 1 {
		t.Errorf("%v jobs are due, want 1", got)
	}
}

func TestAScrapeReportsAStorageThatFails(t *testing.T) {
	closed := pinion.NewMemoryStorage()
	if err := closed.Close(); err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct {
		storage pinion.Storage
		want    error
	}{
		"closed":           {closed, pinion.ErrClosed},
		"not an Inspector": {struct{ pinion.Storage }{closed}, errors.ErrUnsupported},
		"not set":          {nil, errors.ErrUnsupported},
	} {
		t.Run(name, func(t *testing.T) {
			registry := prometheus.NewPedanticRegistry()
			registry.MustRegister(&pinionprom.Queues{Storage: test.storage})
			_, err := registry.Gather()
			if err == nil || !strings.Contains(err.Error(), test.want.Error()) {
				t.Errorf("the error is %v, want %v in it", err, test.want)
			}
		})
	}
}

func TestJobsMayBeScrapedBeforeTheFirstEnd(t *testing.T) {
	if families := scrape(t, new(pinionprom.Jobs)); len(families) != 0 {
		t.Errorf("there are metrics of %d names, want none", len(families))
	}
}

func TestAScrapeShowsWhatTheWorkersAreDoing(t *testing.T) {
	release := make(chan struct{})
	running := make(chan struct{})
	registry := new(pinion.Registry)
	registry.Add(
		pinion.Task[struct{}]{Name: "waits", Run: func(context.Context, struct{}) error {
			running <- struct{}{}
			<-release
			return nil
		}},
		pinion.Task[struct{}]{Name: "returns", Run: func(context.Context, struct{}) error { return nil }},
	)
	storage := pinion.NewMemoryStorage()
	defer storage.Close()
	enqueue(t, storage, pinion.NewJob("returns"), pinion.NewJob("waits"), pinion.NewJob("waits"))
	var workers pinionprom.Workers
	ended := make(chan error)
	for range 2 { // each has one slot, and so one of the jobs that wait
		worker := &pinion.Worker{Storage: storage, Registry: registry, Concurrency: 1, Logger: quiet}
		workers = append(workers, worker)
		go func() { ended <- worker.Drain(t.Context()) }()
	}
	<-running
	<-running
	families := scrape(t, workers)
	check(t, families, "pinion_jobs_running", map[string]float64{"task=waits": 2, "task=returns": 0})
	check(t, families, "pinion_leases_taken_back_total", map[string]float64{"": 0})
	close(release)
	for range workers {
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}
	check(t, scrape(t, workers), "pinion_jobs_running", map[string]float64{"task=waits": 0, "task=returns": 0})
}

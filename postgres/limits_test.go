package postgres

import (
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pinion-queue/pinion"
)

// Storages that are opened separately know nothing of each other, as processes do not.
func TestALimitHoldsOverProcessesWhileItChanges(t *testing.T) {
	const jobs, most = 300, 3
	url := schemaURL(t)
	admin, ctx := open(t, url, nil), t.Context()
	if err := admin.SetLimit(ctx, "q", most); err != nil {
		t.Fatal(err)
	}
	var all []*pinion.Job
	for range jobs {
		all = append(all, &pinion.Job{Task: "a", Queue: "q"}, &pinion.Job{Task: "a", Queue: "free"})
	}
	if err := admin.Enqueue(ctx, all...); err != nil {
		t.Fatal(err)
	}
	var running, limited, done atomic.Int64
	progress := make(chan struct{}, 1) // receives when the counts have changed
	var workers sync.WaitGroup
	for range 4 {
		s := open(t, url, nil)
		workers.Go(func() {
			for done.Load() < 2*jobs {
				claimed, err := s.Dequeue(ctx, pinion.DequeueOptions{Max: 4, NoWait: true})
				if err != nil {
					t.Error(err)
					return
				}
				ofQueue := 0
				for _, job := range claimed {
					if job.Queue == "q" {
						ofQueue++
					}
				}
				if n := running.Add(int64(ofQueue)); n > most {
					t.Errorf("%d jobs of the queue run, want at most %d", n, most)
				}
				limited.Add(int64(ofQueue))
				time.Sleep(time.Millisecond) // as long as the jobs run, a claim too many would show
				running.Add(-int64(ofQueue))
				if _, err := s.MarkDone(ctx, claimed...); err != nil {
					t.Error(err)
					return
				}
				done.Add(int64(len(claimed)))
				select {
				case progress <- struct{}{}:
				default:
				}
			}
		})
	}
	for limited.Load() < 20 {
		<-progress
	}
	if err := admin.SetLimit(ctx, "q", 0); err != nil {
		t.Fatal(err)
	}
	newest := func() (claim int64) {
		t.Helper()
		if err := admin.pool.QueryRow(ctx, admin.sql(`SELECT max(claim) FROM @jobs WHERE queue='q'`)).Scan(&claim); err != nil {
			t.Fatal(err)
		}
		return claim
	}
	waitingInQ := func() (n int64) {
		t.Helper()
		if err := admin.pool.QueryRow(ctx, admin.sql(`SELECT count(*) FROM @jobs WHERE queue='q' AND status='PENDING'`)).Scan(&n); err != nil {
			t.Fatal(err)
		}
		return n
	}
	paused := newest()
	ended := done.Load()
	for done.Load() < min(ended+50, 2*jobs-waitingInQ()) { // while the other queue goes on
		<-progress
	}
	if newest() != paused {
		t.Error("a job of the queue was claimed while it was paused")
	}
	if err := admin.SetLimit(ctx, "q", most); err != nil {
		t.Fatal(err)
	}
	workers.Wait()
}

// A job of a paused queue that many stand in front of delays no other queue.
func TestAPausedQueueStandsInNobodysWay(t *testing.T) {
	s, ctx := open(t, schemaURL(t), nil), t.Context()
	var paused []*pinion.Job
	for range 3000 {
		paused = append(paused, &pinion.Job{Task: "a", Queue: "paused", Priority: 1})
	}
	if err := s.Enqueue(ctx, append(paused, pinion.NewJob("b"))...); err != nil {
		t.Fatal(err)
	}
	if err := s.SetLimit(ctx, "paused", 0); err != nil {
		t.Fatal(err)
	}
	jobs, err := s.Dequeue(ctx, pinion.DequeueOptions{Max: 9, Tasks: []string{"a", "b"}})
	if len(jobs) != 1 || jobs[0].Task != "b" || err != nil {
		t.Errorf("claimed %d jobs, want the one of the other queue, %v", len(jobs), err)
	}
	got := make(chan int)
	go func() {
		jobs, _ := s.Dequeue(ctx, pinion.DequeueOptions{Max: 5, Tasks: []string{"a"}})
		got <- len(jobs)
	}()
	if err := s.SetLimit(ctx, "paused", 2); err != nil {
		t.Fatal(err)
	}
	if n := <-got; n != 2 {
		t.Errorf("claimed %d jobs under the limit, want 2", n)
	}
}

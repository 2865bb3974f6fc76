package pinion

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	gocmp "github.com/google/go-cmp/cmp"
)

func TestMemoryStorageSharesNothingWithItsCallers(t *testing.T) {
	s := NewMemoryStorage()
	given := &Job{ID: "1", Task: "a", Args: []any{"x"}, Kwargs: map[string]any{"k": 1}}
	mustEnqueue(t, s, given)
	given.Task, given.Args[0], given.Kwargs["k"], given.Priority = "changed", "changed", 2, 9
	claimed := mustDequeue(t, s, 1)[0]
	want := *claimed
	want.Args, want.Kwargs = []any{json.RawMessage(`"x"`)}, map[string]any{"k": json.RawMessage("1")}
	if diff := gocmp.Diff(&want, claimed); diff != "" {
		t.Errorf("claimed (-want +got):\n%s", diff)
	}

	claimed.Result = json.RawMessage("[1]")
	if _, err := s.MarkDone(t.Context(), claimed); err != nil {
		t.Fatal(err)
	}
	want.Status, want.Result, want.LeaseUntil = StatusSuccess, json.RawMessage("[1]"), time.Time{}
	claimed.Result[1], claimed.Task = '2', "changed"
	for range 2 {
		got, err := s.Get(t.Context(), "1")
		if err != nil {
			t.Fatal(err)
		}
		want.FinishedAt = got.FinishedAt
		if diff := gocmp.Diff(&want, got); diff != "" {
			t.Errorf("stored (-want +got):\n%s", diff)
		}
		got.Result[1], got.Kwargs["k"], got.Task = '3', 3, "changed"
		copy(got.Args[0].(json.RawMessage), "???")
	}
}

func TestMemoryStorageClaimsInOrderWhateverCameBefore(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	s := NewMemoryStorage()
	var pending []*Job // what must be in the storage, by age
	for range 2000 {
		switch {
		case random.IntN(3) > 0:
			job := &Job{Task: "a", Priority: random.IntN(5), Queue: fmt.Sprint(random.IntN(3))}
			mustEnqueue(t, s, job)
			pending = append(pending, job)
		case len(pending) > 0:
			want := slices.MinFunc(pending, func(a, b *Job) int { return cmp.Compare(b.Priority, a.Priority) })
			got := mustDequeue(t, s, 1)[0]
			if got.ID != want.ID {
				t.Fatalf("claimed %v, want %v", got, want)
			}
			if random.IntN(2) == 0 {
				if _, _, err := s.Release(t.Context(), time.Time{}, nil, got); err != nil {
					t.Fatal(err)
				}
				continue
			}
			pending = slices.DeleteFunc(pending, func(job *Job) bool { return job == want })
			if _, err := s.MarkDone(t.Context(), got); err != nil {
				t.Fatal(err)
			}
		}
	}
}

func TestMemoryStorageClaimsAtTheVeryMomentAJobIsDue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := NewMemoryStorage()
		start := time.Now()
		mustEnqueue(t, s, &Job{Task: "later", RunAt: start.Add(2 * time.Hour)})
		mustEnqueue(t, s, &Job{Task: "sooner", RunAt: start.Add(time.Hour)})
		var got []string
		for range 2 {
			job := mustDequeue(t, s, 1)[0]
			got = append(got, fmt.Sprint(job.Task, " after ", time.Since(start)))
		}
		if diff := gocmp.Diff([]string{"sooner after 1h0m0s", "later after 2h0m0s"}, got); diff != "" {
			t.Errorf("claims (-want +got):\n%s", diff)
		}
	})
}

// The bubble fails if a goroutine is left when its function has returned.
func TestMemoryStorageLeavesNoGoroutineBehind(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := NewMemoryStorage()
		mustEnqueue(t, s, &Job{Task: "a", RunAt: time.Now().Add(time.Hour)})
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 2)
		for _, ctx := range []context.Context{ctx, t.Context()} {
			go func() {
				_, err := s.Dequeue(ctx, DequeueOptions{Max: 1})
				ended <- err
			}()
		}
		synctest.Wait()
		cancel()
		if err := <-ended; !errors.Is(err, context.Canceled) {
			t.Errorf("cancelled: got %v, want %v", err, context.Canceled)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		if err := <-ended; !errors.Is(err, ErrClosed) {
			t.Errorf("closed: got %v, want %v", err, ErrClosed)
		}
	})
}

func TestReapStalePrunesWhatFinishedLongerAgoThanRetention(t *testing.T) {
	for _, c := range []struct {
		name      string
		retention time.Duration
		after     time.Duration
		want      []string
	}{
		{"the default, before a day", 0, 24*time.Hour - time.Second, []string{"first", "second", "dead", "pending"}},
		{"the default, after a day", 0, 24*time.Hour + time.Second, []string{"second", "dead", "pending"}},
		{"one minute", time.Minute, time.Hour + 2*time.Minute, []string{"dead", "pending"}},
		{"for ever", -1, 1000 * time.Hour, []string{"first", "second", "dead", "pending"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := &MemoryStorage{Retention: c.retention}
				start := time.Now()
				mustEnqueue(t, s, NewJob("first"), NewJob("second"), NewJob("dead"), NewJob("pending"))
				mustFinish(t, s)
				time.Sleep(time.Hour)
				mustFinish(t, s)
				if err := s.DeadLetter(t.Context(), mustDequeue(t, s, 1)[0], errCheck); err != nil {
					t.Fatal(err)
				}
				time.Sleep(time.Until(start.Add(c.after)))
				if _, err := s.ReapStale(t.Context(), time.Minute); err != nil {
					t.Fatal(err)
				}
				if diff := gocmp.Diff(c.want, stored(t, s)); diff != "" {
					t.Errorf("jobs left (-want +got):\n%s", diff)
				}
			})
		})
	}
}

func TestReapStalePurgesDeadLettersOlderThanDeadLetterRetention(t *testing.T) {
	for _, c := range []struct {
		name      string
		retention time.Duration
		want      []string
	}{
		{"the default, for ever", 0, []string{"first", "second"}},
		{"a day", 24 * time.Hour, []string{"second"}},
		{"negative, for ever", -1, []string{"first", "second"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := &MemoryStorage{DeadLetterRetention: c.retention}
				start := time.Now()
				mustEnqueue(t, s, NewJob("first"), NewJob("second"))
				for range 2 {
					if err := s.DeadLetter(t.Context(), mustDequeue(t, s, 1)[0], errCheck); err != nil {
						t.Fatal(err)
					}
					time.Sleep(time.Hour)
				}
				time.Sleep(time.Until(start.Add(24*time.Hour + time.Minute)))
				if _, err := s.ReapStale(t.Context(), time.Minute); err != nil {
					t.Fatal(err)
				}
				var got []string
				for job, err := range s.DeadLetters(t.Context(), Filter{}) {
					if err != nil {
						t.Fatal(err)
					}
					got = append(got, job.Task)
				}
				if diff := gocmp.Diff(c.want, got); diff != "" {
					t.Errorf("dead letters left (-want +got):\n%s", diff)
				}
				// A purged job is old enough to be pruned, too.
				if diff := gocmp.Diff(c.want, stored(t, s)); diff != "" {
					t.Errorf("jobs left (-want +got):\n%s", diff)
				}
			})
		})
	}
}

func TestReapStalePrunesAllThatIsDueHoweverMuchItIs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &MemoryStorage{Retention: time.Minute}
		jobs := make([]*Job, 3000) // three batches, of which the last is full
		for i := range jobs {
			jobs[i] = NewJob("old")
		}
		mustEnqueue(t, s, jobs...)
		if lost, err := s.MarkDone(t.Context(), mustDequeue(t, s, len(jobs))...); len(lost) > 0 || err != nil {
			t.Fatalf("MarkDone: %d lost, error %v", len(lost), err)
		}
		time.Sleep(2 * time.Minute)
		mustEnqueue(t, s, NewJob("new"))
		mustFinish(t, s)
		if _, err := s.ReapStale(t.Context(), time.Minute); err != nil {
			t.Fatal(err)
		}
		if diff := gocmp.Diff([]string{"new"}, stored(t, s)); diff != "" {
			t.Errorf("jobs left (-want +got):\n%s", diff)
		}
	})
}

func TestPruneGoesByTheTimeOfFinishingAlsoAfterAPurge(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := NewMemoryStorage()
		mustEnqueue(t, s, NewJob("dead"), NewJob("done"))
		if err := s.DeadLetter(t.Context(), mustDequeue(t, s, 1)[0], errCheck); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Hour)
		between := time.Now()
		time.Sleep(time.Hour)
		mustFinish(t, s)
		if _, err := s.Purge(t.Context(), Filter{}); err != nil {
			t.Fatal(err)
		}
		if n, err := s.Prune(t.Context(), between); n != 1 || err != nil {
			t.Errorf("Prune: got %d, %v; want 1", n, err)
		}
		if diff := gocmp.Diff([]string{"done"}, stored(t, s)); diff != "" {
			t.Errorf("jobs left (-want +got):\n%s", diff)
		}
	})
}

func TestAListingStaysOpenWhileItsJobsAreDeletedAndOthersCome(t *testing.T) {
	s := NewMemoryStorage()
	for i := range 300 {
		mustEnqueue(t, s, NewJob(fmt.Sprint(i)))
	}
	var got []string
	for job, err := range s.Jobs(t.Context(), Filter{}) {
		if err != nil {
			t.Fatal(err)
		}
		if len(got) == 50 { // within the first page: the second is pruned, and the lists are swept
			if _, err := s.MarkDone(t.Context(), mustDequeue(t, s, 250)...); err != nil {
				t.Fatal(err)
			}
			if n, err := s.Prune(t.Context(), time.Now().Add(time.Hour)); n != 250 || err != nil {
				t.Fatalf("Prune: got %d, %v; want 250", n, err)
			}
			mustEnqueue(t, s, NewJob("new"))
		}
		got = append(got, job.Task)
	}
	var want []string
	for i := range 300 {
		if i < 100 || i >= 250 {
			want = append(want, fmt.Sprint(i))
		}
	}
	if diff := gocmp.Diff(append(want, "new"), got); diff != "" {
		t.Errorf("listing (-want +got):\n%s", diff)
	}
}

func TestDequeueTakesTheDefaultQueueByItsEmptyName(t *testing.T) {
	s := NewMemoryStorage()
	mustEnqueue(t, s, NewJob("a"))
	jobs, err := s.Dequeue(t.Context(), DequeueOptions{Max: 1, Queues: []string{""}})
	if err != nil || len(jobs) != 1 {
		t.Errorf("got %d jobs, error %v; want 1", len(jobs), err)
	}
}

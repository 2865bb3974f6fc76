package pinion

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
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
	var pending []*Job                      // what must be in the storage, by age
	names := func(prefix string) []string { // up to two of three names, or none
		var names []string
		for range random.IntN(3) {
			names = append(names, fmt.Sprint(prefix, random.IntN(3)))
		}
		return names
	}
	for range 3000 {
		if random.IntN(3) > 0 {
			job := &Job{
				Task:     fmt.Sprint("t", random.IntN(3)),
				Queue:    fmt.Sprint("q", random.IntN(3)),
				Priority: random.IntN(5),
			}
			mustEnqueue(t, s, job)
			pending = append(pending, job)
			continue
		}
		opts := DequeueOptions{Max: 1, Tasks: names("T"), Queues: names("q"), NoWait: true}
		matches := func(job *Job) bool {
			isTask := func(name string) bool { return strings.EqualFold(name, job.Task) }
			return (len(opts.Tasks) == 0 || slices.ContainsFunc(opts.Tasks, isTask)) &&
				(len(opts.Queues) == 0 || slices.Contains(opts.Queues, job.Queue))
		}
		var want []string
		var matching []*Job
		for _, job := range pending {
			if matches(job) {
				matching = append(matching, job)
			}
		}
		if len(matching) > 0 {
			first := slices.MinFunc(matching, func(a, b *Job) int { return cmp.Compare(b.Priority, a.Priority) })
			want = []string{first.ID}
		}
		jobs, err := s.Dequeue(t.Context(), opts)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, job := range jobs {
			got = append(got, job.ID)
		}
		if diff := gocmp.Diff(want, got); diff != "" {
			t.Fatalf("claimed with %+v (-want +got):\n%s", opts, diff)
		}
		if len(jobs) == 0 {
			continue
		}
		switch random.IntN(3) {
		case 0:
			if _, _, err := s.Release(t.Context(), time.Time{}, nil, jobs...); err != nil {
				t.Fatal(err)
			}
			continue
		case 1:
			if _, err := s.MarkDone(t.Context(), jobs...); err != nil {
				t.Fatal(err)
			}
		case 2:
			if err := s.DeadLetter(t.Context(), jobs[0], errCheck); err != nil {
				t.Fatal(err)
			}
		}
		pending = slices.DeleteFunc(pending, func(job *Job) bool { return job.ID == jobs[0].ID })
	}
	if n, err := s.Size(t.Context()); n != len(pending) || err != nil {
		t.Errorf("Size: got %d, %v; want %d", n, err, len(pending))
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

// A computer that sleeps stops timers, and its clock goes on. Here the clock cannot be moved, so the due
// time is.
func TestADequeueThatWaitsLooksAtTheClockNowAndThen(t *testing.T) {
	for _, c := range []struct {
		name string
		wake func(t *testing.T, s *MemoryStorage)
		want time.Duration
	}{
		{"at least once a minute", func(*testing.T, *MemoryStorage) {}, time.Minute},
		{"when another verb is called", func(t *testing.T, s *MemoryStorage) {
			time.Sleep(5 * time.Second)
			if _, err := s.ReapStale(t.Context(), time.Minute); err != nil {
				t.Error(err)
			}
		}, 5 * time.Second},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := NewMemoryStorage()
				start := time.Now()
				mustEnqueue(t, s, &Job{ID: "1", Task: "a", RunAt: start.Add(8 * time.Hour)})
				go func() {
					synctest.Wait() // until the Dequeue waits
					s.mu.Lock()
					s.jobs["1"].job.RunAt = microTime(start)
					s.mu.Unlock()
					c.wake(t, s)
				}()
				mustDequeue(t, s, 1)
				if got := time.Since(start); got != c.want {
					t.Errorf("claimed after %v, want %v", got, c.want)
				}
			})
		})
	}
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
			t.Errorf("canceled: got %v, want %v", err, context.Canceled)
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

func TestHistoryMergesMinutesIntoHoursAndForgetsThemAfterAWeek(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &MemoryStorage{Retention: -1}
		time.Sleep(time.Until(time.Now().Truncate(time.Hour).Add(time.Hour)))
		start := time.Now().UTC()
		for range 3 { // at 0:00, 0:20 and 0:40
			mustEnqueue(t, s, NewJob("a"))
			mustFinish(t, s)
			time.Sleep(20 * time.Minute)
		}
		want := func(when string, want ...Ends) {
			t.Helper()
			got, err := s.History(t.Context(), start)
			if err != nil {
				t.Fatal(err)
			}
			if diff := gocmp.Diff(want, got); diff != "" {
				t.Errorf("History %s (-want +got):\n%s", when, diff)
			}
		}
		ends := func(after time.Duration, succeeded int) Ends {
			return Ends{At: start.Add(after), Queue: "default", Task: "a", Succeeded: succeeded}
		}
		want("after an hour", ends(0, 1), ends(20*time.Minute, 1), ends(40*time.Minute, 1))
		time.Sleep(90 * time.Minute)
		want("after two and a half hours", ends(0, 2), ends(40*time.Minute, 1))
		time.Sleep(24 * time.Hour)
		want("after a day", ends(0, 3))
		time.Sleep(7 * 24 * time.Hour)
		want("after a week and a day")
	})
}

func TestHistoryCountsAThousandPairsAMinuteAndTheRestAsOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := NewMemoryStorage()
		for i := range 1100 {
			mustEnqueue(t, s, NewJob(fmt.Sprint("task ", i)))
		}
		if _, err := s.MarkDone(t.Context(), mustDequeue(t, s, 1100)...); err != nil {
			t.Fatal(err)
		}
		history, err := s.History(t.Context(), time.Now())
		if err != nil {
			t.Fatal(err)
		}
		others := history[slices.IndexFunc(history, func(e Ends) bool { return e.Queue == "other" })]
		want := Ends{At: time.Now().UTC().Truncate(time.Minute), Queue: "other", Task: "other", Succeeded: 100}
		if diff := gocmp.Diff(want, others); diff != "" {
			t.Errorf("other ends (-want +got):\n%s", diff)
		}
		if got, want := len(history), 1001; got != want {
			t.Errorf("pairs: got %d, want %d", got, want)
		}
	})
}

func TestStatsCountTheEndsOfTheLastMinuteBySecond(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := NewMemoryStorage()
		for range 3 { // 105, 70 and 35 seconds ago
			mustEnqueue(t, s, NewJob("a"))
			mustFinish(t, s)
			time.Sleep(35 * time.Second)
		}
		mustEnqueue(t, s, NewJob("a"), NewJob("a"))
		mustFinish(t, s)
		mustFinish(t, s)
		stats, err := s.Stats(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		var want [60]int
		want[59] = 2
		want[59-35] = 1
		if diff := gocmp.Diff(want, stats.LastMinute); diff != "" {
			t.Errorf("LastMinute (-want +got):\n%s", diff)
		}
		if got, want := stats.Total.SuccessHour, 5; got != want {
			t.Errorf("SuccessHour: got %d, want %d", got, want)
		}
	})
}

func TestAListingFromTheNewestOnStaysOpenWhileJobsComeAndGo(t *testing.T) {
	s := NewMemoryStorage()
	for i := range 300 {
		mustEnqueue(t, s, NewJob(fmt.Sprint(i)))
	}
	var got []string
	for job, err := range s.Jobs(t.Context(), Filter{Newest: true}) {
		if err != nil {
			t.Fatal(err)
		}
		if len(got) == 50 { // within the first page: the oldest 150 are deleted
			if _, err := s.MarkDone(t.Context(), mustDequeue(t, s, 150)...); err != nil {
				t.Fatal(err)
			}
			if n, err := s.PruneWhere(t.Context(), Filter{}); n != 150 || err != nil {
				t.Fatalf("PruneWhere: got %d, %v; want 150", n, err)
			}
			mustEnqueue(t, s, NewJob("new"))
		}
		got = append(got, job.Task)
	}
	var want []string
	for i := 299; i >= 150; i-- {
		want = append(want, fmt.Sprint(i))
	}
	if diff := gocmp.Diff(want, got); diff != "" {
		t.Errorf("listing (-want +got):\n%s", diff)
	}
}

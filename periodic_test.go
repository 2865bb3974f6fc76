package pinion

import (
	"context"
	"errors"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
	_ "time/tzdata" // for machines without a database of time zones

	"github.com/google/go-cmp/cmp"
)

// tick is a job for each time of a schedule.
func tick(time.Time) *Job { return NewJob("tick") }

// seldom is a ReapInterval for tests in which hours pass: a look each second would take most of their time.
const seldom = time.Minute

// nextRunOf returns the PENDING or RUNNING run of a schedule.
func nextRunOf(t *testing.T, in Inspector, name string) *Job {
	t.Helper()
	var found []*Job
	for job, err := range in.Jobs(t.Context(), Filter{Key: "periodic:" + name}) {
		if err != nil {
			t.Fatal(err)
		}
		if job.Status == StatusPending || job.Status == StatusRunning {
			found = append(found, job)
		}
	}
	if len(found) != 1 {
		t.Fatalf("there are %d runs of %q, want 1", len(found), name)
	}
	return found[0]
}

func TestEveryReturnsMultiplesSinceTheEpoch(t *testing.T) {
	at := func(text string) time.Time {
		parsed, err := time.Parse(time.RFC3339Nano, text)
		if err != nil {
			t.Fatal(err)
		}
		return parsed
	}
	for _, c := range []struct {
		d           time.Duration
		after, want string
	}{
		{time.Hour, "2026-03-01T10:20:30Z", "2026-03-01T11:00:00Z"},
		{time.Hour, "2026-03-01T11:00:00Z", "2026-03-01T12:00:00Z"},
		{time.Hour, "2026-03-01T11:59:59.999999999Z", "2026-03-01T12:00:00Z"},
		{time.Hour, "2026-03-01T10:20:30+05:30", "2026-03-01T05:00:00Z"},
		{90 * time.Minute, "1970-01-01T00:00:00Z", "1970-01-01T01:30:00Z"},
		{24 * time.Hour, "1969-12-30T12:00:00Z", "1969-12-31T00:00:00Z"},
		{24 * time.Hour, "1969-12-31T00:00:00Z", "1970-01-01T00:00:00Z"},
		{time.Second, "2026-03-01T10:20:30.5Z", "2026-03-01T10:20:31Z"},
	} {
		if got := Every(c.d).Next(at(c.after)); !got.Equal(at(c.want)) || got.Location() != time.UTC {
			t.Errorf("Every(%v) after %s: %v, want %s", c.d, c.after, got, c.want)
		}
	}
	for _, d := range []time.Duration{0, -time.Second} {
		if got := Every(d).Next(time.Now()); !got.IsZero() {
			t.Errorf("Every(%v) has the time %v, want none", d, got)
		}
	}
}

func TestAPeriodicIDIsAUUIDOfNameAndTimeThatSortsByTime(t *testing.T) {
	start := time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC)
	var ids []string
	for i := range 100 {
		id := periodicID("a", start.Add(time.Duration(i)*time.Hour))
		if len(id) != 32 || id[12] != '8' || !strings.ContainsRune("89ab", rune(id[16])) {
			t.Errorf("%q is not a UUIDv8", id)
		}
		ids = append(ids, id)
	}
	if !slices.IsSorted(ids) {
		t.Error("ids do not sort by time")
	}
	if periodicID("a", start) != ids[0] || periodicID("a", start.In(time.FixedZone("x", 3600))) != ids[0] {
		t.Error("one name and time have two ids")
	}
	if periodicID("b", start) == ids[0] {
		t.Error("two names have one id")
	}
	if slot, ok := slotOf("a", ids[0]); !ok || !slot.Equal(start) {
		t.Errorf("the time of an id is %v, %t; want %v", slot, ok, start)
	}
	for _, id := range []string{"", NewID(), ids[0][:31] + "x", periodicID("b", start), periodicID("a", start.Add(time.Microsecond))} {
		if slot, ok := slotOf("a", id); ok {
			t.Errorf("%q has the time %v, want none", id, slot)
		}
	}
}

func TestAPeriodicThatCannotWorkIsAnErrorOfRun(t *testing.T) {
	good := Periodic{"a", Every(time.Hour), tick}
	for want, all := range map[string][]Periodic{
		`field Periodic[0] (""): its Name is empty`:                                   {{"", good.Schedule, tick}},
		"Name has 1001 bytes; want at most 1000":                                      {{strings.Repeat("x", 1001), good.Schedule, tick}},
		`Periodic[0] ("z\x00"): the Name "z\x00" contains a NUL`:                      {{"z\x00", good.Schedule, tick}},
		`Periodic[1] ("b"): Schedule is not set`:                                      {good, {"b", nil, tick}},
		`Periodic[0] ("a"): Schedule is Every(-1s); want at least 1ms`:                {{"a", Every(-time.Second), tick}},
		`Periodic[0] ("a"): Schedule is Every(1ns); want at least 1ms`:                {{"a", Every(1), tick}},
		`Periodic[0] ("a"): Job is not set`:                                           {{"a", good.Schedule, nil}},
		`field Periodic[1] ("a"): its Name is taken by another; want a name for each`: {good, good},
	} {
		w := workerOf(NewMemoryStorage())
		w.Periodic = all
		if err := w.Drain(t.Context()); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("Drain: %v, want %s", err, want)
		}
	}
	w := workerOf(plain{NewMemoryStorage()})
	w.Periodic = []Periodic{good}
	if err := w.Run(t.Context()); !errors.Is(err, errors.ErrUnsupported) {
		t.Errorf("Run on a storage that is no Inspector: %v, want ErrUnsupported", err)
	}
}

func TestAPeriodicJobRunsAtEachTimeOfItsSchedule(t *testing.T) {
	t.Parallel()
	inBubble(t, NewMemoryStorage(), func(t *scene) {
		t.sleep(time.Until(time.Now().Truncate(time.Hour).Add(time.Hour + 10*time.Minute)))
		t.start = time.Now()
		var mu sync.Mutex // guards ran
		var ran []time.Duration
		task := t.task("tick", func(_ context.Context, job *Job) error {
			mu.Lock()
			defer mu.Unlock()
			ran = append(ran, t.since())
			return nil
		})
		plans := []Periodic{{"hourly", Every(time.Hour), func(at time.Time) *Job {
			return &Job{
				Task:          "tick",
				Queue:         "q",
				Priority:      3,
				Args:          []any{at.Unix()},
				ID:            "ignored",
				Key:           "ignored",
				KeyUntilStart: true,
			}
		}}}
		for range 3 {
			t.run(&Worker{Periodic: plans, ReapInterval: seldom}, task)
		}
		t.sleep(time.Second)
		job := nextRunOf(t.T, t.storage, "hourly")
		at := t.start.Add(50 * time.Minute)
		if job.ID != periodicID("hourly", at) || job.Key != "periodic:hourly" || !job.RunAt.Equal(at) ||
			job.Queue != "q" || job.Priority != 3 || job.KeyUntilStart {
			t.Errorf("the planned job is %+v", job)
		}
		t.sleep(4 * time.Hour)
		want := []time.Duration{50 * time.Minute, 110 * time.Minute, 170 * time.Minute, 230 * time.Minute}
		if diff := cmp.Diff(want, ran); diff != "" {
			t.Errorf("runs (-want +got):\n%s", diff)
		}
		if got := t.statuses("tick"); got[StatusSuccess] != 4 || got[StatusPending] != 1 {
			t.Errorf("the jobs are %v; want 4 SUCCESS and the next one", got)
		}
	})
}

func TestARunMissedWhileNobodyLivedHappensOnceAndLate(t *testing.T) {
	t.Parallel()
	overStorages(t, func(t *scene) {
		var ran []time.Time
		task := t.task("tick", func(context.Context, *Job) error { ran = append(ran, time.Now()); return nil })
		plans := []Periodic{{"hourly", Every(time.Hour), tick}}
		run := t.run(&Worker{Periodic: plans}, task)
		t.sleep(time.Second)
		run.stop()
		run.wait()
		t.sleep(10*time.Hour + 20*time.Minute)
		late := time.Now()
		t.run(&Worker{Periodic: plans, ReapInterval: seldom}, task)
		t.sleep(50 * time.Minute)
		next := late.Truncate(time.Hour).Add(time.Hour)
		if len(ran) != 2 || ran[0].Sub(late) > time.Second || !ran[1].Equal(next) {
			t.Errorf("it ran at %v; want once at %v and then at %v", ran, late, next)
		}
	})
}

func TestRunsNeverOverlapAndTheNextIsPlannedWhenOneHasEnded(t *testing.T) {
	inBubble(t, NewMemoryStorage(), func(t *scene) {
		var ran []time.Time
		task := t.task("tick", func(ctx context.Context, _ *Job) error {
			ran = append(ran, time.Now())
			return sleeping(ctx, 150*time.Minute)
		})
		t.run(&Worker{Periodic: []Periodic{{"hourly", Every(time.Hour), tick}}, ReapInterval: 13 * time.Minute}, task)
		first := time.Now().Truncate(time.Hour).Add(time.Hour)
		t.sleep(time.Until(first) + 150*time.Minute + time.Second)
		job := nextRunOf(t.T, t.storage, "hourly")
		if want := first.Add(3 * time.Hour); job.Status != StatusPending || !job.RunAt.Equal(want) {
			t.Errorf("a second after the end the next run is %s at %v; want PENDING at %v", job.Status, job.RunAt, want)
		}
		t.sleep(time.Hour)
		if want := []time.Time{first, first.Add(3 * time.Hour)}; !slices.EqualFunc(ran, want, time.Time.Equal) {
			t.Errorf("it ran at %v, want %v", ran, want)
		}
	})
}

func TestAFailedRunIsDueAgainAtTheNextTimeAtTheLatest(t *testing.T) {
	inBubble(t, NewMemoryStorage(), func(t *scene) {
		var ran []time.Time
		task := t.task("tick", func(context.Context, *Job) error {
			ran = append(ran, time.Now())
			return errTask
		})
		t.run(&Worker{Periodic: []Periodic{{"hourly", Every(time.Hour), tick}}, ReapInterval: seldom,
			Retry: &RetryPolicy{MaxRetries: 2, BaseDelay: 40 * time.Minute, Cap: 10 * time.Hour}}, task)
		first := time.Now().Truncate(time.Hour).Add(time.Hour)
		t.sleep(time.Until(first) + 4*time.Hour - time.Minute)
		// Retries after 40 minutes, and at the next time instead of after 80.
		// Then the job is given up and the schedule goes on.
		want := []time.Time{first, first.Add(40 * time.Minute), first.Add(time.Hour),
			first.Add(2 * time.Hour), first.Add(160 * time.Minute), first.Add(3 * time.Hour)}
		if !slices.EqualFunc(ran, want, time.Time.Equal) {
			t.Errorf("it ran at %v, want %v", ran, want)
		}
		if n := len(deadLetters(t.T, t.storage)); n != 2 {
			t.Errorf("%d dead letters, want 2", n)
		}
	})
}

func TestAnEarlierScheduleMovesTheNextRunAndALaterOneWaitsForIt(t *testing.T) {
	overStorages(t, func(t *scene) {
		t.sleep(time.Until(time.Now().Truncate(24 * time.Hour).Add(24*time.Hour + 2*time.Minute)))
		day := time.Now().Truncate(24 * time.Hour)
		task := t.task("tick", func(context.Context, *Job) error { return nil })
		with := func(d time.Duration) (stop func()) {
			run := t.run(&Worker{Periodic: []Periodic{{"a", Every(d), tick}}}, task)
			t.sleep(2 * time.Second)
			return func() { run.stop(); run.wait() }
		}
		wantAt := func(at time.Duration) {
			t.Helper()
			if got := nextRunOf(t.T, t.storage, "a"); !got.RunAt.Equal(day.Add(at)) ||
				got.ID != periodicID("a", got.RunAt) {
				t.Errorf("the next run is %s at %v, want at %v", got.ID, got.RunAt, day.Add(at))
			}
		}
		with(time.Hour)()
		wantAt(time.Hour)
		stopOften := with(10 * time.Minute)
		wantAt(10 * time.Minute)
		if got := t.statuses(""); got[StatusPending] != 1 || got[StatusFailed] != 0 {
			t.Errorf("after the move the jobs are %v; want the new one alone", got)
		}
		stats, err := t.storage.Stats(t.Context())
		if err != nil || stats.Total.FailedHour != 1 {
			t.Errorf("Stats: %d failed, %v; want the run that was moved", stats.Total.FailedHour, err)
		}
		stopDaily := with(24 * time.Hour) // an older or newer version beside it, with a later schedule
		wantAt(10 * time.Minute)
		stopOften()
		t.sleep(10 * time.Minute) // over the planned run
		wantAt(24 * time.Hour)
		stopDaily()
	})
}

// dying is a storage whose worker dies at one verb, of all that withdraw a run.
type dying struct {
	tended
	verb string
}

var errKilled = errors.New("killed")

func (d dying) CancelWhere(ctx context.Context, f Filter) (ended, asked int, err error) {
	if d.verb == "CancelWhere" {
		return 0, 0, errKilled
	}
	return d.tended.CancelWhere(ctx, f)
}

func (d dying) PruneWhere(ctx context.Context, f Filter) (int, error) {
	if d.verb == "PruneWhere" {
		return 0, errKilled
	}
	return d.tended.PruneWhere(ctx, f)
}

func TestAWorkerThatDiesWhileItMovesARunCostsNoRun(t *testing.T) {
	for _, verb := range []string{"CancelWhere", "PruneWhere"} {
		t.Run(verb, func(t *testing.T) {
			overStorages(t, func(t *scene) {
				t.sleep(time.Until(time.Now().Truncate(24 * time.Hour).Add(24*time.Hour + 10*time.Minute)))
				day := time.Now().Truncate(24 * time.Hour)
				var ran []time.Duration
				task := t.task("tick", func(context.Context, *Job) error {
					ran = append(ran, time.Since(day))
					return nil
				})
				with := func(d time.Duration) *Worker {
					return &Worker{Periodic: []Periodic{{"a", Every(d), tick}}, ReapInterval: seldom}
				}
				workFor := func(w *Worker, d time.Duration) {
					t.Helper()
					run := t.run(w, task)
					t.sleep(d)
					run.stop()
					run.wait()
				}
				workFor(with(4*time.Hour), time.Second)
				moving := newPeriodics(with(2 * time.Hour).Periodic)
				if err := moving.ensure(t.Context(), dying{t.storage, verb}, "a"); !errors.Is(err, errKilled) {
					t.Fatalf("the worker that moves the run: %v, want to be killed at %s", err, verb)
				}
				workFor(with(2*time.Hour), 8*time.Hour)
				want := []time.Duration{2 * time.Hour, 4 * time.Hour, 6 * time.Hour, 8 * time.Hour}
				if diff := cmp.Diff(want, ran); diff != "" {
					t.Errorf("runs (-want +got):\n%s", diff)
				}
			})
		})
	}
}

func TestARunThatSomebodyCancelsIsSkipped(t *testing.T) {
	overStorages(t, func(t *scene) {
		t.sleep(time.Until(time.Now().Truncate(time.Hour).Add(time.Hour + 10*time.Minute)))
		var ran []time.Duration
		task := t.task("tick", func(context.Context, *Job) error { ran = append(ran, t.since()); return nil })
		t.start = time.Now().Truncate(time.Hour)
		t.run(&Worker{Periodic: []Periodic{{"hourly", Every(time.Hour), tick}}, ReapInterval: seldom}, task)
		t.sleep(time.Second)
		t.cancel(1, 0, nextRunOf(t.T, t.storage, "hourly").ID)
		t.sleep(2 * time.Hour)
		if diff := cmp.Diff([]time.Duration{2 * time.Hour}, ran); diff != "" {
			t.Errorf("runs (-want +got):\n%s", diff)
		}
	})
}

func TestARunThatWasAttemptedOrRescheduledIsNotMoved(t *testing.T) {
	inBubble(t, NewMemoryStorage(), func(t *scene) {
		t.sleep(time.Until(time.Now().Truncate(24 * time.Hour).Add(24*time.Hour + 10*time.Minute)))
		task := t.task("tick", func(context.Context, *Job) error { return RetryAfter(5*time.Hour, errTask) })
		run := t.run(&Worker{
			Periodic:     []Periodic{{"tried", Every(6 * time.Hour), tick}, {"moved", Every(24 * time.Hour), tick}},
			ReapInterval: seldom,
		}, task)
		t.sleep(time.Second)
		tried, moved := nextRunOf(t.T, t.storage, "tried"), nextRunOf(t.T, t.storage, "moved")
		if n, err := t.storage.Reschedule(t.Context(), Filter{IDs: []string{moved.ID}}, time.Now().Add(20*time.Hour)); n != 1 || err != nil {
			t.Fatalf("Reschedule: %d, %v; want 1", n, err)
		}
		t.sleep(6 * time.Hour)
		run.stop()
		run.wait()
		for _, c := range []*Job{tried, moved} {
			before := t.get(c.ID)
			run := t.run(&Worker{Periodic: []Periodic{{strings.TrimPrefix(c.Key, "periodic:"), Every(time.Hour), tick}}}, t.task("other", nothingToDo))
			t.sleep(10 * time.Second)
			if diff := cmp.Diff(before, t.get(c.ID)); diff != "" {
				t.Errorf("%s has changed:\n%s", c.Key, diff)
			}
			nextRunOf(t.T, t.storage, strings.TrimPrefix(c.Key, "periodic:"))
			run.stop()
			run.wait()
		}
	})
}

func nothingToDo(context.Context, *Job) error { return nil }

func TestATimeForWhichThereIsNoJobIsSkipped(t *testing.T) {
	t.Parallel()
	inBubble(t, NewMemoryStorage(), func(t *scene) {
		var ran []int
		task := t.task("tick",
			func(context.Context, *Job) error { ran = append(ran, time.Now().UTC().Hour()); return nil })
		office := func(at time.Time) *Job {
			if at.Hour() < 9 || at.Hour() >= 12 {
				return nil
			}
			return NewJob("tick")
		}
		t.sleep(time.Until(time.Now().Truncate(24 * time.Hour).Add(24*time.Hour + 10*time.Minute)))
		t.run(&Worker{Periodic: []Periodic{{"office", Every(time.Hour), office}}, ReapInterval: seldom}, task)
		t.sleep(36 * time.Hour)
		if diff := cmp.Diff([]int{9, 10, 11, 9, 10, 11}, ran); diff != "" {
			t.Errorf("hours of the runs (-want +got):\n%s", diff)
		}
	})
}

func TestATimeThatWasServedHasNoSecondRunWhenTheClockIsSetBack(t *testing.T) {
	overStorages(t, func(t *scene) {
		// A job of the next time that is done already stands for a clock that was set back after it.
		next := time.Now().Truncate(time.Hour).Add(time.Hour)
		served := &Job{Task: "tick", ID: periodicID("hourly", next)}
		mustEnqueue(t.T, t.storage, served)
		mustFinish(t.T, t.storage)
		t.run(&Worker{Periodic: []Periodic{{"hourly", Every(time.Hour), tick}}}, t.task("tick", nothingToDo))
		t.sleep(time.Second)
		if got, want := nextRunOf(t.T, t.storage, "hourly").RunAt, next.Add(time.Hour); !got.Equal(want) {
			t.Errorf("the next run is at %v, want %v", got, want)
		}
	})
}

// lastOnly is a schedule with a single time.
type lastOnly time.Time

func (l lastOnly) Next(after time.Time) time.Time {
	if after.Before(time.Time(l)) {
		return time.Time(l)
	}
	return time.Time{}
}

func TestAScheduleMayEnd(t *testing.T) {
	inBubble(t, NewMemoryStorage(), func(t *scene) {
		ran := 0
		task := t.task("tick", func(context.Context, *Job) error { ran++; return nil })
		run := t.run(&Worker{
			Periodic:     []Periodic{{"once", lastOnly(time.Now().Add(time.Hour)), tick}},
			ReapInterval: seldom,
		}, task)
		t.sleep(5 * time.Hour)
		if got := t.statuses(""); ran != 1 || got[StatusPending] != 0 {
			t.Errorf("it ran %d times, and the jobs are %v; want one run and no more", ran, got)
		}
		if lines := run.log.lines("storage in trouble"); len(lines) > 0 {
			t.Error("the end of the schedule is logged as trouble")
		}
	})
}

// stuck is a schedule that always returns the same time.
type stuck time.Time

func (s stuck) Next(time.Time) time.Time { return time.Time(s) }

// panicking is a schedule with a bug.
type panicking struct{}

func (panicking) Next(time.Time) time.Time { panic("in Next") }

func TestAScheduleWithABugHurtsNobodyElse(t *testing.T) {
	t.Parallel()
	inBubble(t, NewMemoryStorage(), func(t *scene) {
		ran := 0
		never := make(chan struct{})
		task := t.task("tick", func(context.Context, *Job) error { ran++; return nil })
		run := t.run(&Worker{Periodic: []Periodic{
			{"stuck", stuck(time.Now().Add(-time.Hour)), tick},
			{"panics", panicking{}, tick},
			{"panics too", Every(time.Hour), func(time.Time) *Job { panic("in Job") }},
			{"exits", Every(time.Hour), func(time.Time) *Job { runtime.Goexit(); return nil }},
			{"bad", Every(time.Hour), func(time.Time) *Job { return NewJob("") }},
			{"waits", Every(time.Hour), func(time.Time) *Job { <-never; return nil }},
			{"good", Every(time.Hour), tick},
		}, ReapInterval: seldom}, task)
		t.sleep(3 * time.Hour)
		close(never)
		if ran < 2 {
			t.Errorf("the good one ran %d times in three hours", ran)
		}
		if errs := run.log.errors(); len(errs) > 0 {
			t.Errorf("the worker blames the storage: %v", errs)
		}
		said := run.log.attributes("periodic job not planned", "periodic", "error")
		slices.Sort(said)
		for i, want := range []string{
			"bad: pinion: bad arguments",
			"exits: panic: runtime.Goexit was called",
			"panics too: panic: in Job",
			"panics: panic: in Next",
			"stuck: Schedule.Next",
			"waits: Schedule.Next or Job has not returned in 1s",
		} {
			if len(said) != 6 || !strings.HasPrefix(said[i], want) {
				t.Fatalf("the log says\n%q, want %q …, each once", said, want)
			}
		}
	})
}

// breaking is a schedule of each hour that panics from some time on.
type breaking struct{ broken *atomic.Bool }

func (f breaking) Next(after time.Time) time.Time {
	if f.broken.Load() {
		panic("in Next")
	}
	return Every(time.Hour).Next(after)
}

func TestAScheduleThatPanicsDoesNotKeepItsRunFromBeingRetried(t *testing.T) {
	inBubble(t, NewMemoryStorage(), func(t *scene) {
		var broken atomic.Bool
		attempts := 0
		task := t.task("tick", func(context.Context, *Job) error {
			attempts++
			broken.Store(true) // from here on the worker cannot ask when the next run is
			if attempts < 3 {
				return errors.New("not yet")
			}
			return nil
		})
		t.run(&Worker{
			Periodic:     []Periodic{{"breaking", breaking{&broken}, tick}},
			ReapInterval: seldom,
			Retry:        &RetryPolicy{MaxRetries: 5, BaseDelay: time.Second},
		}, task)
		t.sleep(3 * time.Hour)
		if attempts != 3 {
			t.Errorf("%d attempts, want 3", attempts)
		}
	})
}

// daily is a schedule by the calendar of a place with daylight saving time.
type daily struct {
	hour  int
	place *time.Location
}

func (d daily) Next(after time.Time) time.Time {
	local := after.In(d.place)
	for day := local.Day(); ; day++ {
		at := time.Date(local.Year(), local.Month(), day, d.hour, 30, 0, 0, d.place)
		if at.After(after) {
			return at
		}
	}
}

// A year, with its nights of 23 and of 25 hours, over restarts: one run a day, never two.
func TestAYearOfADailySchedule(t *testing.T) {
	place, err := time.LoadLocation("Europe/Berlin")
	if err != nil {
		t.Fatal(err)
	}
	for _, hour := range []int{2, 4} { // 02:30 does not exist on one day, and exists twice on another
		synctest.Test(t, func(t *testing.T) {
			s := NewMemoryStorage()
			s.Retention = -1
			start := time.Now()
			var ran []time.Time
			plan := Periodic{"daily", daily{hour, place}, tick}
			w := workerOf(s, taskOf("tick", func(context.Context) error { ran = append(ran, time.Now()); return nil }))
			w.Periodic = []Periodic{plan}
			for time.Since(start) < 366*24*time.Hour {
				mustDrain(t, w)
				time.Sleep(time.Until(nextRunOf(t, s, "daily").RunAt))
			}
			var want []time.Time
			for at := plan.Schedule.Next(start); at.Before(time.Now()); at = plan.Schedule.Next(at) {
				want = append(want, at)
			}
			if !slices.EqualFunc(ran, want, time.Time.Equal) {
				t.Errorf("%02d:30: there were %d runs, want %d", hour, len(ran), len(want))
			}
			if len(ran) < 365 || len(ran) > 367 {
				t.Errorf("%02d:30: %d runs in a year", hour, len(ran))
			}
		})
	}
}

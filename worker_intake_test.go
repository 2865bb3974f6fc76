package pinion

import (
	"context"
	"slices"
	"testing"
	"time"
)

func TestTheIntakeClaimsForFreeSlotsAndAheadOfThem(t *testing.T) {
	const ms = time.Millisecond
	busy := func(in intake) intake { // of four slots and tasks of 10 ms, so that 40 jobs may wait
		in.slots = 4
		in.mayPrefetch = true
		in.open = max(in.open, in.held)
		if in.pace == 0 {
			in.pace = 10 * ms
		}
		return in
	}
	for _, c := range []struct {
		name string
		in   intake
		want request
	}{
		{"an idle worker whose pace is not known", intake{slots: 4, claimers: 1, mayPrefetch: true}, request{slots: 4}},
		{"the first of two claims takes half of the free slots", intake{slots: 5, claimers: 2}, request{slots: 3}},
		{"the second takes the rest", intake{slots: 5, claimers: 2, pending: request{slots: 3}}, request{slots: 2}},
		{"all free slots are asked for", intake{slots: 5, claimers: 2, pending: request{slots: 5}}, request{}},
		{"some slots are free", busy(intake{claimers: 1, held: 3}), request{slots: 1, ahead: 40}},
		{"no slot is free and nothing waits", busy(intake{held: 4}), request{ahead: 40}},
		{"fewer than half of those that may wait do", busy(intake{held: 4 + 19}), request{ahead: 21}},
		{"half of those that may wait do", busy(intake{held: 4 + 20}), request{}},
		{"more wait than may", busy(intake{held: 4 + 50}), request{}},
		{"a claim ahead is under way", busy(intake{held: 4, pending: request{ahead: 40}}), request{}},
		{"the last claim found nothing", busy(intake{held: 4, dry: true}), request{}},
		{"the last claim found nothing, and a slot is free", busy(intake{claimers: 1, held: 3, dry: true}), request{slots: 1, ahead: 40}},
		{"tasks are long", busy(intake{held: 4, pace: time.Second}), request{}},
		{"tasks take no time", busy(intake{held: 4, pace: 1}), request{ahead: maxAhead}},
		{"a policy forbids retries", intake{slots: 4, claimers: 1, held: 3, open: 3, pace: ms}, request{slots: 1}},
		{"the storage does not keep up", busy(intake{claimers: 1, open: 2 * maxBatch}), request{}},
		{"the storage just keeps up", busy(intake{claimers: 1, open: 2*maxBatch - 1}), request{slots: 4, ahead: 40}},
	} {
		if got := c.in.next(); got != c.want {
			t.Errorf("%s: the intake asks for %+v, want %+v", c.name, got, c.want)
		}
	}
}

func TestTheIntakeCountsClaimsUnderWayUntilTheyAreAnswered(t *testing.T) {
	in := intake{slots: 4, claimers: 1}
	asked := in.next()
	in.asked(asked)
	if again := in.next(); !again.none() {
		t.Errorf("while all slots are asked for the intake asks for %+v, want nothing", again)
	}
	in.answered(asked, 3)
	if in.held != 3 || in.open != 3 || !in.pending.none() || in.dry {
		t.Errorf("after an answer of 3 jobs: %+v", in)
	}
	if got, want := in.next(), (request{slots: 1}); got != want {
		t.Errorf("with one slot free the intake asks for %+v, want %+v", got, want)
	}
	in.asked(request{slots: 1})
	in.answered(request{slots: 1}, 0)
	if !in.dry {
		t.Error("an empty answer is forgotten")
	}
}

func TestThePaceFollowsTheTasks(t *testing.T) {
	in := intake{slots: 1, mayPrefetch: true}
	in.took(80 * time.Millisecond)
	if in.pace != 80*time.Millisecond {
		t.Errorf("after one task of 80ms the pace is %v", in.pace)
	}
	in.took(160 * time.Millisecond)
	if in.pace != 90*time.Millisecond {
		t.Errorf("after another of 160ms the pace is %v, want an eighth of the difference more, 90ms", in.pace)
	}
	for range 1000 {
		in.took(0)
	}
	if in.pace == 0 {
		t.Error("after many tasks that took no time the pace counts as unknown")
	}
	in.slowed()
	if got := in.allowedAhead(); got != 0 {
		t.Errorf("when tasks have turned out slow %d jobs may wait, want none", got)
	}
}

// What was claimed ahead counts as running, and would start although its queue is paused.
func TestALimitThatComesTakesBackWhatWasClaimedAhead(t *testing.T) {
	overStorages(t, func(t *scene) {
		limiter, _ := As[Limiter](t.storage)
		t.run(&Worker{Concurrency: 2, HeartbeatInterval: time.Second},
			t.task("quick", func(ctx context.Context, _ *Job) error { return sleeping(ctx, time.Millisecond) }),
			t.task("slow", func(ctx context.Context, _ *Job) error { return sleeping(ctx, time.Minute) }))
		t.enqueue(slices.Repeat([]string{"quick"}, 50)...) // from which the worker learns to claim ahead
		t.sleep(1100 * time.Millisecond)
		t.enqueue(slices.Repeat([]string{"slow"}, 60)...)
		t.sleep(100 * time.Millisecond)
		if got := t.statuses("slow")[StatusRunning]; got < 10 {
			t.Fatalf("%d jobs are claimed, which are not enough to see any go back", got)
		}
		if err := limiter.SetLimit(t.Context(), "", 0); err != nil {
			t.Fatal(err)
		}
		t.sleep(900 * time.Millisecond)
		// The sweep would let those that began to wait since the last one wait for another second.
		if got := t.statuses("slow")[StatusRunning]; got != 2 {
			t.Errorf("%d jobs are claimed, want the 2 that run", got)
		}
		for job, err := range t.storage.Jobs(t.Context(), Filter{Status: StatusPending}) {
			if err != nil || job.Attempts != 0 {
				t.Fatalf("a job that went back: %+v, %v", job, err)
			}
		}
	})
}

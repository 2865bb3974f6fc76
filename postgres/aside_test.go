package postgres

import (
	"fmt"
	"testing"

	"github.com/pinion-queue/pinion"
)

// claimNames claims with NoWait and returns the tasks' names.
func claimNames(t *testing.T, s *Storage, opts pinion.DequeueOptions) (names []string) {
	t.Helper()
	opts.NoWait = true
	jobs, err := s.Dequeue(t.Context(), opts)
	if err != nil {
		t.Fatal(err)
	}
	for _, job := range jobs {
		names = append(names, job.Task)
	}
	return names
}

func TestManyJobsOfUnknownTasksAreSetAsideAndStayInOrderForThoseWhoKnowThem(t *testing.T) {
	for _, queues := range [][]string{nil, {"default"}, {"default", "other"}} {
		s, ctx := open(t, schemaURL(t), nil), t.Context()
		var jobs []*pinion.Job
		for i := range 2500 {
			jobs = append(jobs, &pinion.Job{Task: "theirs", ID: fmt.Sprint("t", i), Priority: 1})
		}
		jobs = append(jobs, pinion.NewJob("ours"), pinion.NewJob("theirs last"))
		if err := s.Enqueue(ctx, jobs...); err != nil {
			t.Fatal(err)
		}
		if got := claimNames(t, s, pinion.DequeueOptions{Max: 5, Tasks: []string{"OURS"}, Queues: queues}); len(got) != 1 {
			t.Errorf("claimed %v, want our job", got)
		}
		var aside int
		err := s.pool.QueryRow(ctx, inSchema(s.opts.Schema,
			`SELECT count(*) FROM @jobs WHERE aside AND run_at IS NULL AND attempts=0`)).Scan(&aside)
		if aside < 1001 || err != nil {
			t.Errorf("%d jobs are set aside, want at least 1001, %v", aside, err)
		}
		if n, err := s.Size(ctx); n != 2501 || err != nil {
			t.Errorf("%d jobs are pending, want 2501, %v", n, err)
		}
		theirs, err := s.Dequeue(ctx,
			pinion.DequeueOptions{Max: 2400, Tasks: []string{"Theirs", "theirs last"}, Queues: queues, NoWait: true})
		if err != nil || len(theirs) != 2400 {
			t.Fatalf("claimed %d jobs of theirs, want 2400, %v", len(theirs), err)
		}
		for i, job := range theirs {
			if want := fmt.Sprint("t", i); job.ID != want {
				t.Fatalf("job %d is %s, want %s", i, job.ID, want)
			}
		}
		rest := claimNames(t, s, pinion.DequeueOptions{Max: 200, Queues: queues})
		if len(rest) != 101 || rest[100] != "theirs last" {
			t.Errorf("a claim of every task got %d more jobs, want 101", len(rest))
		}
	}
}

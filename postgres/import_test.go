package postgres

import (
	"errors"
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/pinion-queue/pinion"
)

// owed describes what a storage still owes, with all that a move must keep.
func owed(t *testing.T, s interface {
	pinion.Storage
	pinion.Inspector
}) (all []string) {
	t.Helper()
	describe := func(j *pinion.Job, err error) {
		if err != nil {
			t.Fatal(err)
		}
		if j.Status == pinion.StatusRunning {
			j.Status = pinion.StatusPending
		}
		all = append(all, fmt.Sprintf("%s %s%s%s %s %d %v %q %s %d %q", j.ID, j.Task, j.Args, j.Kwargs, j.Queue, j.Priority, j.RunAt, j.Key,
			j.Status, j.Attempts, j.Error))
	}
	for _, status := range []pinion.Status{pinion.StatusPending, pinion.StatusRunning} {
		for job, err := range s.Jobs(t.Context(), pinion.Filter{Status: status}) {
			describe(job, err)
		}
	}
	for job, err := range s.DeadLetters(t.Context(), pinion.Filter{}) {
		describe(job, err)
		all = append(all, job.FinishedAt.String())
	}
	return all
}

func TestImportMovesWhatASQLiteFileOwes(t *testing.T) {
	ctx := t.Context()
	file, err := pinion.OpenSQLite(ctx, filepath.Join(t.TempDir(), "q.db"), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	var jobs []*pinion.Job
	for i := range 1200 {
		jobs = append(jobs, &pinion.Job{Task: "many", Args: []any{i}, Kwargs: map[string]any{"x": "Ä"}, Priority: -i})
	}
	jobs = append(jobs, &pinion.Job{Task: "later", RunAt: time.Now().Add(time.Hour), Key: "k", Queue: "q"})
	for _, name := range []string{"done", "dead", "failed", "runs"} {
		jobs = append(jobs, &pinion.Job{Task: name, Priority: 1})
	}
	if err := file.Enqueue(ctx, jobs...); err != nil {
		t.Fatal(err)
	}
	for range 2 { // dead letters that share a key
		err := file.Enqueue(ctx, &pinion.Job{Task: "dead too", Priority: 2, Key: "shared"})
		claimed, failed := file.Dequeue(ctx, pinion.DequeueOptions{Max: 1})
		if err := errors.Join(err, failed, file.DeadLetter(ctx, claimed[0], errors.New("another"))); err != nil {
			t.Fatal(err)
		}
	}
	claimed, err := file.Dequeue(ctx, pinion.DequeueOptions{Max: 4})
	if err != nil {
		t.Fatal(err)
	}
	_, err = file.MarkDone(ctx, claimed[0])
	cause := errors.New("for a reason")
	if err := errors.Join(err, file.DeadLetter(ctx, claimed[1], cause), file.MarkFailed(ctx, claimed[2], cause, time.Time{})); err != nil {
		t.Fatal(err)
	}
	s := open(t, schemaURL(t), nil)
	for _, want := range []string{"1203 3", "0 0"} { // again, it finds nothing to do
		n, letters, err := s.Import(ctx, file)
		if got := fmt.Sprint(n, letters); got != want || err != nil {
			t.Errorf("imported %s, want %s, %v", got, want, err)
		}
	}
	if diff := cmp.Diff(owed(t, file), owed(t, s)); diff != "" {
		t.Errorf("what is owed (-in the file +here):\n%s", diff)
	}
	if got, err := s.Dequeue(ctx, pinion.DequeueOptions{Max: 2}); err != nil || got[0].Task != "failed" ||
		got[1].Task != "runs" || got[1].Claim <= claimed[3].Claim {
		t.Errorf("claimed %v, %v", got, err)
	}
	if n, err := s.Replay(ctx, pinion.Filter{}); n != 2 || err != nil { // one of two with the same key
		t.Errorf("%d were replayed, %v", n, err)
	}
}

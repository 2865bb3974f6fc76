package cli

import (
	"bytes"
	"context"
	"errors"
	"io"
	"path/filepath"
	"testing"
	"time"

	"github.com/pinion-queue/pinion"
)

func TestAWaitEndsWithItsJob(t *testing.T) {
	t.Parallel()
	db := filepath.Join(t.TempDir(), "q.db")
	storage := openStorage(t, db)
	status := make(chan int)
	var stdout, stderr bytes.Buffer
	go func() {
		args := []string{"enqueue", "add", "--args", "[1, 2]", "--wait", "--db", db}
		status <- Run(t.Context(), args, nil, &stdout, &stderr)
	}()
	// A job that is dead-lettered and replayed between two looks is like this one to wait.
	job := claim(t, storage, 1)[0]
	if err := storage.MarkFailed(t.Context(), job, io.EOF, time.Now()); err != nil {
		t.Fatal(err)
	}
	job = claim(t, storage, 1)[0]
	job.Result = []byte("3")
	if _, err := storage.MarkDone(t.Context(), job); err != nil {
		t.Fatal(err)
	}
	if got := <-status; got != 0 || stdout.String() != "3\n" {
		t.Errorf("exit status %d\n%s%s", got, &stdout, &stderr)
	}
}

func TestAWaitForACanceledJobFails(t *testing.T) {
	t.Parallel()
	db := filepath.Join(t.TempDir(), "q.db")
	storage := openStorage(t, db)
	mustEnqueue(t, storage, &pinion.Job{ID: "x", Task: "add"})
	if _, _, err := storage.Cancel(t.Context(), "x"); err != nil {
		t.Fatal(err)
	}
	status, stdout, stderr := runCommand(t, "wait", "x", "--db", db)
	const want = "pinion: job x was canceled; `pinion show x` shows more\n"
	if status != 3 || stderr != want || stdout != "" {
		t.Errorf("exit status %d, got %s%s, want %s", status, stdout, stderr, want)
	}
}

func TestAWaitShowsProgress(t *testing.T) {
	t.Parallel()
	db := filepath.Join(t.TempDir(), "q.db")
	storage := openStorage(t, db)
	mustEnqueue(t, storage, &pinion.Job{ID: "x", Task: "add"})
	job := claim(t, storage, 1)[0]
	job.StartedAt, job.Result = time.Now(), []byte(`"40 %"`)
	if _, err := storage.Heartbeat(t.Context(), job); err != nil {
		t.Fatal(err)
	}
	_, stdout, _ := runCommand(t, "show", "x", "--db", db)
	wantText(t, stdout, `(?s)\nstarted +\S+  \d+s ago\n.*\nprogress +"40 %"\n`)

	cmd := process(t, t.TempDir(), "wait", "x", "--db", db)
	_, out, errs := pipesOf(t, cmd)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	waitForLine(t, errs, `^pinion: job x started \d+s ago$`)
	waitForLine(t, errs, `^pinion: job x: "40 %"$`)
	job.Result = []byte(`"80 %"`)
	if _, err := storage.Heartbeat(t.Context(), job); err != nil {
		t.Fatal(err)
	}
	waitForLine(t, errs, `^pinion: job x: "80 %"$`)
	job.Result = []byte(`"done"`)
	if _, err := storage.MarkDone(t.Context(), job); err != nil {
		t.Fatal(err)
	}
	waitForLine(t, out, `^done$`)
	if errs.Scan() {
		t.Errorf("it also printed %s", errs.Text())
	}
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
}

// vanishing is a storage from which a job is pruned between two looks.
type vanishing struct {
	pinion.Inspector
	looks int
}

func (v *vanishing) Get(ctx context.Context, id string) (*pinion.Job, error) {
	v.looks++
	if v.looks < 3 {
		return &pinion.Job{ID: id, Status: pinion.StatusRunning}, nil
	}
	return v.Inspector.Get(ctx, id)
}

func TestAJobThatIsPrunedWhileWaitedForHasEndedUnseen(t *testing.T) {
	t.Parallel()
	var stderr bytes.Buffer
	c := newCall(nil, io.Discard, &stderr)
	err := c.waitFor(t.Context(), &vanishing{Inspector: pinion.NewMemoryStorage()}, []string{"x"}, false, -1)
	if !errors.Is(err, errReported) {
		t.Error(err)
	}
	wantText(t, stderr.String(), "job x has ended, but it was pruned before wait looked at it")
}

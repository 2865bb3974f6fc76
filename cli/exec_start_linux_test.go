package cli

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/pinion-queue/pinion"
)

// A worker that may open few files cannot start as many programs as it has slots. No job pays for that.
func TestAJobDoesNotPayForAMachineWithoutRoom(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	db := filepath.Join(dir, "q.db")
	storage := openStorage(t, db)
	var jobs []*pinion.Job
	for range 30 {
		jobs = append(jobs, pinion.NewJob("nap"))
	}
	mustEnqueue(t, storage, jobs...)
	worker := process(t, dir, "worker", "--exec", "nap=sleep 0.3", "--db", "q.db", "--concurrency", "30",
		"--max-retries", "0")
	limited := exec.CommandContext(t.Context(), "/bin/sh", "-c", `ulimit -n 60; exec "$@"`, "sh")
	limited.Args = append(limited.Args, worker.Args...)
	limited.Env, limited.Dir = worker.Env, dir
	output := new(watched)
	limited.Stdout, limited.Stderr = output, output
	if err := limited.Start(); err != nil {
		t.Fatal(err)
	}
	// A worker without room may also not open the queue for its listings; it goes on.
	await(t, output, func() bool {
		stats, err := storage.Stats(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return stats.Total.SuccessHour == len(jobs) || stats.DeadLetters > 0
	})
	if err := limited.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	limited.Wait()
	for job, err := range storage.Jobs(t.Context(), pinion.Filter{}) {
		if err != nil {
			t.Fatal(err)
		}
		if job.Status != pinion.StatusSuccess || job.Attempts != 1 {
			t.Errorf("a job is %s after %d attempts: %s", job.Status, job.Attempts, job.Error)
		}
	}
	if text := output.String(); !strings.Contains(text, "the machine has no room for a program; its job waits") {
		t.Errorf("the worker did not log that it had no room:\n%s", text)
	}
}

func TestADirectoryWhoseNameCannotBeRecordedIsNamed(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "b\xffd")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	_, stderr := finish(t, process(t, dir, "enqueue", "t", "--db", "q.db"), 0)
	wantText(t, stderr, `^pinion: the working directory is not recorded, so a program runs in that of its worker: `+
		`its name ".*/b\\xffd" is not valid UTF-8\n$`)
}

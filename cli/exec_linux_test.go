package cli

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"

	"github.com/pinion-queue/pinion"
)

// convertScript turns UTF-8 text into compressed UTF-16, by programs that every Debian has.
const convertScript = `#!/bin/sh
set -e
part=$2.$PINION_JOB_ID.$PINION_ATTEMPT
iconv -f UTF-8 -t UTF-16LE -- "$1" >"$part" || exit "$PINION_NO_RETRY" # it would fail again
gzip -9n "$part"
mv -- "$part.gz" "$2"
wc -c <"$2"
`

// TestRealProgramsEndToEnd has workers convert real files, some of which are not text. Others are fifos that
// nobody writes into, so their conversion never ends. It kills two of the workers on the way.
func TestRealProgramsEndToEnd(t *testing.T) {
	t.Parallel()
	const good, broken, endless = 60, 4, 4
	dir := t.TempDir()
	db := filepath.Join(dir, "q.db")
	writeProgram(t, filepath.Join(dir, "convert.sh"), convertScript)
	for _, name := range []string{"out", "direct"} {
		if err := os.Mkdir(filepath.Join(dir, name), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	var jobs []*pinion.Job
	add := func(queue, file string) {
		to := map[string]any{"to": fmt.Sprintf("out/%d", len(jobs))}
		jobs = append(jobs, &pinion.Job{Task: "convert", Queue: queue, Args: []any{file}, Kwargs: to})
	}
	for i := range endless {
		name := filepath.Join(dir, fmt.Sprintf("a fifo %d", i))
		if err := syscall.Mkfifo(name, 0o600); err != nil {
			t.Fatal(err)
		}
		add("endless", name)
	}
	texts := goFiles(t)
	images := imagesBeside(t, texts[0])
	for i := range good {
		if i%(good/broken) == 0 {
			add("", images[i/(good/broken)%len(images)])
		}
		add("", texts[i*(len(texts)/good)])
	}
	storage := openStorage(t, db)
	mustEnqueue(t, storage, jobs...)

	start := func(flags ...string) (worker *exec.Cmd, output *watched) {
		args := []string{"worker", "--exec", "convert=./convert.sh {0} {to}", "--db", "q.db", "--concurrency", "8",
			"--visibility-timeout", "2", "--max-retries", "20", "--base-delay", "0.01"}
		worker = process(t, dir, append(args, flags...)...)
		output = new(watched)
		worker.Stdout, worker.Stderr = output, output
		if err := worker.Start(); err != nil {
			t.Fatal(err)
		}
		return worker, output
	}
	count := func(queue string) pinion.QueueStats {
		stats, err := storage.Stats(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, q := range stats.Queues {
			if q.Queue == queue {
				return q
			}
		}
		return pinion.QueueStats{}
	}
	for _, share := range []int{3, 2} {
		worker, output := start()
		await(t, output, func() bool {
			return count("default").SuccessHour >= good/share &&
				count("endless").Running == endless && len(programsOf(db)) >= endless
		})
		if err := worker.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		worker.Wait()
		await(t, output, func() bool { return len(programsOf(db)) == 0 })
	}
	// Only the endless jobs have a timeout, so no busy machine can make another one time out.
	worker, output := start("--queue", "default")
	timeout, timeoutOutput := start("--queue", "endless", "--task-timeout", "0.3", "--max-retries", "6")
	await(t, output, func() bool {
		finished := count("default")
		return finished.SuccessHour+finished.FailedHour == good+broken && count("endless").FailedHour == endless
	})
	for _, w := range []*exec.Cmd{worker, timeout} {
		if err := w.Process.Signal(syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
		if err := w.Wait(); err != nil {
			t.Errorf("the worker after SIGTERM: %v\n%s\n%s", err, output, timeoutOutput)
		}
	}
	if strays := programsOf(db); len(strays) > 0 {
		t.Errorf("left behind: %v", strays)
	}

	want, wantErrors := convertDirectly(t, dir, jobs)
	if len(want) != good || len(wantErrors) != broken+endless {
		t.Errorf("without a queue %d files can be converted, and %d not", len(want), len(wantErrors)-endless)
	}
	got := make(map[string]string)
	for job, err := range storage.Jobs(t.Context(), pinion.Filter{Status: pinion.StatusSuccess}) {
		if err != nil {
			t.Fatal(err)
		}
		var to string
		if err := json.Unmarshal(job.Kwargs["to"].(json.RawMessage), &to); err != nil {
			t.Fatal(err)
		}
		got[job.ID] = string(job.Result) + " " + read(t, filepath.Join(dir, to))
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("sizes and files (-direct +worker):\n%.2000s", diff)
	}
	gotErrors := make(map[string]string)
	stdout, _ := finish(t, process(t, dir, "dlq-list", "--json", "--db", "q.db"), 0)
	for line := range strings.Lines(stdout) {
		var job pinion.Job
		if err := json.Unmarshal([]byte(line), &job); err != nil {
			t.Fatal(err)
		}
		gotErrors[job.ID] = job.Error
	}
	if diff := cmp.Diff(wantErrors, gotErrors); diff != "" {
		t.Errorf("dead letters (-direct +worker):\n%s", diff)
	}
}

// convertDirectly does without a queue what the jobs do. It returns the sizes and files, and the errors.
func convertDirectly(t *testing.T, dir string, jobs []*pinion.Job) (want, wantErrors map[string]string) {
	t.Helper()
	want, wantErrors = make(map[string]string), make(map[string]string)
	for _, job := range jobs {
		if job.Queue == "endless" {
			wantErrors[job.ID] = "timed out after 300ms: killed by signal: terminated"
			continue
		}
		file, to := job.Args[0].(string), filepath.Join("direct", filepath.Base(job.Kwargs["to"].(string)))
		cmd := exec.CommandContext(t.Context(), "./convert.sh", file, to)
		var stderr bytes.Buffer
		cmd.Dir, cmd.Stderr, cmd.Env = dir, &stderr, append(os.Environ(), "PINION_NO_RETRY=100")
		size, err := cmd.Output()
		if err != nil {
			wantErrors[job.ID] = err.Error() + ": " + strings.TrimSpace(stderr.String())
			continue
		}
		want[job.ID] = strings.TrimSpace(string(size)) + " " + read(t, filepath.Join(dir, to))
	}
	return want, wantErrors
}

// imagesBeside returns files of the standard library that are not text. It is given one that is.
func imagesBeside(t *testing.T, file string) (files []string) {
	t.Helper()
	for filepath.Base(file) != "src" {
		file = filepath.Dir(file)
	}
	err := filepath.WalkDir(filepath.Join(file, "image"), func(name string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() || filepath.Ext(name) == ".go" {
			return err
		}
		if !utf8.ValidString(read(t, name)) {
			files = append(files, name)
		}
		return nil
	})
	if err != nil || len(files) == 0 {
		t.Fatal("no images", err)
	}
	return files
}

// programsOf returns the processes that programs of the workers on a queue have started.
func programsOf(db string) (found []string) {
	environs, _ := filepath.Glob("/proc/[0-9]*/environ")
	for _, name := range environs {
		text, _ := os.ReadFile(name)
		if bytes.Contains(text, []byte("\x00PINION_DB="+db+"\x00")) {
			line, _ := os.ReadFile(filepath.Join(filepath.Dir(name), "cmdline"))
			found = append(found, strings.ReplaceAll(string(line), "\x00", " "))
		}
	}
	return found
}

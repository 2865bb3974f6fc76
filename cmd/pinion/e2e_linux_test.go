package main

import (
	"bytes"
	"encoding/json"
	"errors"
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
iconv -f UTF-8 -t UTF-16LE -- "$1" >"$part" || exit "$PINION_NO_RETRY" # it will be no better next time
gzip -9n "$part"
mv -- "$part.gz" "$2"
wc -c <"$2"
`

// TestRealProgramsEndToEnd has workers convert real files, some of which are no text and some never come to an end, and
// kills two of the workers on the way.
func TestRealProgramsEndToEnd(t *testing.T) {
	t.Parallel() // most of it is waiting
	const good, broken, slow = 300, 20, 4
	dir := t.TempDir()
	q := filepath.Join(dir, "q.db")
	write(t, filepath.Join(dir, "convert.sh"), convertScript)
	if err := errors.Join(os.Chmod(filepath.Join(dir, "convert.sh"), 0o700), os.Mkdir(filepath.Join(dir, "out"), 0o700), os.Mkdir(filepath.Join(dir, "direct"), 0o700)); err != nil {
		t.Fatal(err)
	}
	var jobs []*pinion.Job
	add := func(file string) {
		jobs = append(jobs, &pinion.Job{Task: "convert", Args: []any{file}, Kwargs: map[string]any{"to": fmt.Sprintf("out/%d", len(jobs))}})
	}
	for i := range slow { // nobody will ever write into these
		name := filepath.Join(dir, fmt.Sprintf("a fifo %d", i))
		if err := syscall.Mkfifo(name, 0o600); err != nil {
			t.Fatal(err)
		}
		add(name)
	}
	texts := goFiles(t)
	images := noText(t, texts[0])
	for i := range good {
		if i%(good/broken) == 0 {
			add(images[i/(good/broken)%len(images)])
		}
		add(texts[i*(len(texts)/good)])
	}
	storage, err := pinion.OpenSQLite(t.Context(), q, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer storage.Close()
	if err := storage.Enqueue(t.Context(), jobs...); err != nil {
		t.Fatal(err)
	}

	// While workers are killed there is no timeout, so that the slow jobs have attempts left for theirs.
	start := func(flags ...string) (worker *exec.Cmd, said *bytes.Buffer) {
		worker, said = process(t, dir, append([]string{"worker", "--exec", "convert=./convert.sh {0} {to}", "--db", "q.db", "--concurrency", "8",
			"--visibility-timeout", "2", "--max-retries", "3", "--base-delay", "0.01", "--kill-after", "1"}, flags...)...), new(bytes.Buffer)
		worker.Stdout, worker.Stderr = said, said
		if err := worker.Start(); err != nil {
			t.Fatal(err)
		}
		return worker, said
	}
	count := func() (stats pinion.QueueStats) {
		s, err := storage.Stats(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return s.Queues[0]
	}
	for _, share := range []int{3, 2} {
		worker, said := start()
		await(t, said, func() bool { return count().Success >= good/share })
		if n := len(ofWorker(q)); share == 3 && n < slow { // later they may still be with the dead worker
			t.Errorf("before the kill %d processes run, and each of %d slow jobs should have some", n, slow)
		}
		if err := worker.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		worker.Wait()
		await(t, said, func() bool { return len(ofWorker(q)) == 0 })
	}
	worker, said := start("--task-timeout", "1.5")
	await(t, said, func() bool { return count().Success+count().Failed == len(jobs) })
	if err := worker.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := worker.Wait(); err != nil {
		t.Errorf("the worker after SIGTERM: %v\n%s", err, said)
	}
	if strays := ofWorker(q); len(strays) > 0 {
		t.Errorf("left behind: %v", strays)
	}

	// The same without a queue.
	want, wantErrors := make(map[string]string), make(map[string]string)
	for i, job := range jobs {
		file, to := job.Args[0].(string), job.Kwargs["to"].(string)
		if i < slow {
			wantErrors[job.ID] = "timed out after 1.5s: killed by signal: terminated"
			continue
		}
		direct := exec.CommandContext(t.Context(), "./convert.sh", file, filepath.Join("direct", filepath.Base(to)))
		var stderr bytes.Buffer
		direct.Dir, direct.Stderr, direct.Env = dir, &stderr, append(os.Environ(), "PINION_NO_RETRY=100")
		if size, err := direct.Output(); err == nil {
			want[job.ID] = strings.TrimSpace(string(size)) + " " + read(t, filepath.Join(dir, "direct", filepath.Base(to)))
		} else {
			wantErrors[job.ID] = err.Error() + ": " + strings.TrimSpace(stderr.String())
		}
	}
	got, gotErrors := make(map[string]string), make(map[string]string)
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
	stdout, _ := finish(t, process(t, dir, "dlq-list", "--json", "--db", "q.db"), 0)
	for line := range strings.Lines(stdout) {
		var job pinion.Job
		if err := json.Unmarshal([]byte(line), &job); err != nil {
			t.Fatal(err)
		}
		gotErrors[job.ID] = job.Error
	}
	if len(want) != good || len(wantErrors) != broken+slow {
		t.Errorf("without a queue %d files can be converted, and %d not", len(want), len(wantErrors)-slow)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("sizes and files (-direct +worker):\n%.2000s", diff)
	}
	if diff := cmp.Diff(wantErrors, gotErrors); diff != "" {
		t.Errorf("dead letters (-direct +worker):\n%s", diff)
	}
}

// noText are files of the standard library, of which one is given, that are no text.
func noText(t *testing.T, root string) (files []string) {
	t.Helper()
	for filepath.Base(root) != "src" {
		root = filepath.Dir(root)
	}
	err := filepath.WalkDir(filepath.Join(root, "image"), func(name string, d fs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() && filepath.Ext(name) != ".go" && !utf8.ValidString(read(t, name)) {
			files = append(files, name)
		}
		return err
	})
	if err != nil || len(files) == 0 {
		t.Fatal("no images", err)
	}
	return files
}

// ofWorker are the processes that commands of the workers on a queue have started.
func ofWorker(q string) (found []string) {
	environs, _ := filepath.Glob("/proc/[0-9]*/environ")
	for _, name := range environs {
		if text, _ := os.ReadFile(name); bytes.Contains(text, []byte("\x00PINION_DB="+q+"\x00")) {
			line, _ := os.ReadFile(filepath.Join(filepath.Dir(name), "cmdline"))
			found = append(found, strings.ReplaceAll(string(line), "\x00", " "))
		}
	}
	return found
}

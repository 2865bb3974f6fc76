package pinion_test

import (
	"bufio"
	"context"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pinion-queue/pinion"
)

// The workloads of bench/ for Pinion alone, to be compared before and after a change: go test -bench . -count 6, and
// benchstat. Numbers of jobs are small, so that all of it takes a minute or two; -bench.jobs makes the backlogs,
// histories and futures that should not matter as large as bench/ has them.
var benchJobs = flag.Int("bench.jobs", 20_000,
	"jobs that lie about in the benchmarks named Backlog, History and Future")

const benchSlots = 8

var benchArg = strings.Repeat("x", 100-2) // with its quotes, 100 bytes of JSON

// benchTask is registered as two tasks: one that takes the argument, one without any.
func benchTask(run func()) *pinion.Registry {
	var r pinion.Registry
	r.Add(pinion.Task[string]{Name: "task", Run: func(context.Context, string) error { run(); return nil }},
		pinion.Task[struct{}]{Name: "bare", Run: func(context.Context, struct{}) error { run(); return nil }})
	return &r
}

func nothing() {}

func benchWorker(s pinion.Storage, r *pinion.Registry) *pinion.Worker {
	return &pinion.Worker{Storage: s, Registry: r, Concurrency: benchSlots, Logger: slog.New(slog.DiscardHandler)}
}

// onStorages runs a benchmark on each storage, open and empty.
func onStorages(b *testing.B, f func(b *testing.B, s pinion.Storage)) {
	b.Run("memory", func(b *testing.B) { b.ReportAllocs(); f(b, pinion.NewMemoryStorage()) })
	onFiles(b, func(b *testing.B, s pinion.Storage, _ benchFile) { f(b, s) })
}

func onFiles(b *testing.B, f func(b *testing.B, s pinion.Storage, file benchFile)) {
	for _, synchronous := range []string{"FULL", "NORMAL"} {
		b.Run(synchronous, func(b *testing.B) {
			b.ReportAllocs()
			file := benchFile{filepath.Join(b.TempDir(), "queue.db"), synchronous}
			f(b, file.open(b), file)
		})
	}
}

type benchFile struct{ path, synchronous string }

func (f benchFile) open(tb testing.TB) pinion.Storage {
	s, err := pinion.OpenSQLite(tb.Context(), f.path, &pinion.SQLiteOptions{Synchronous: f.synchronous})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := s.Close(); err != nil {
			tb.Error(err)
		}
	})
	return s
}

// enqueueMany stores n jobs, a thousand a call; change, if given, sees each of them first.
func enqueueMany(tb testing.TB, s pinion.Storage, n int, change func(*pinion.Job)) {
	for ; n > 0; n -= 1000 {
		jobs := make([]*pinion.Job, min(n, 1000))
		for i := range jobs {
			jobs[i] = pinion.NewJob("task", benchArg)
			if change != nil {
				change(jobs[i])
			}
		}
		if err := s.Enqueue(tb.Context(), jobs...); err != nil {
			tb.Fatal(err)
		}
	}
}

func enqueueOne(tb testing.TB, s pinion.Storage) {
	if err := s.Enqueue(context.Background(), pinion.NewJob("task", benchArg)); err != nil {
		tb.Error(err)
	}
}

// perSecond reports what an operation of several jobs comes to.
func perSecond(b *testing.B, jobs int) {
	b.ReportMetric(float64(b.N)*float64(jobs)/b.Elapsed().Seconds(), "jobs/s")
}

func BenchmarkEnqueue1(b *testing.B) {
	onStorages(b, func(b *testing.B, s pinion.Storage) {
		for b.Loop() {
			enqueueOne(b, s)
		}
		perSecond(b, 1)
	})
}

// An operation is 800 jobs, a hundred by each producer.
func BenchmarkEnqueue8(b *testing.B) {
	onStorages(b, func(b *testing.B, s pinion.Storage) {
		for b.Loop() {
			produce(b, s, 8, 100)
		}
		perSecond(b, 800)
	})
}

func produce(b *testing.B, s pinion.Storage, producers, each int) {
	var group sync.WaitGroup
	for range producers {
		group.Go(func() {
			for range each {
				enqueueOne(b, s)
			}
		})
	}
	group.Wait()
}

func BenchmarkBatch(b *testing.B) {
	onStorages(b, func(b *testing.B, s pinion.Storage) {
		for b.Loop() {
			enqueueMany(b, s, 1000, nil)
		}
		perSecond(b, 1000)
	})
}

// An operation is 5,000 jobs.
func BenchmarkDrain(b *testing.B) {
	onStorages(b, func(b *testing.B, s pinion.Storage) { drainAgain(b, s, nil, pruneAll) })
}

// BenchmarkMemoryBare is the drain of jobs without arguments.
func BenchmarkMemoryBare(b *testing.B) {
	b.ReportAllocs()
	drainAgain(b, pinion.NewMemoryStorage(), func(j *pinion.Job) { j.Task, j.Args = "bare", nil }, pruneAll)
}

const perDrain = 5000

// drainAgain drains perDrain jobs again and again. Neither putting them there is counted nor tidying up after them.
func drainAgain(b *testing.B, s pinion.Storage, change func(*pinion.Job), tidy func(testing.TB, pinion.Storage)) {
	w := benchWorker(s, benchTask(nothing))
	for b.Loop() {
		b.StopTimer()
		tidy(b, s)
		enqueueMany(b, s, perDrain, change)
		b.StartTimer()
		if err := w.Drain(b.Context()); err != nil {
			b.Fatal(err)
		}
	}
	perSecond(b, perDrain)
	if n, want := w.Metrics().Succeeded, int64(b.N)*perDrain; n != want {
		b.Errorf("%d jobs succeeded, want %d", n, want)
	}
}

// pruneAll deletes what is finished, so that later operations have no more to carry than the first.
func pruneAll(tb testing.TB, s pinion.Storage) {
	if _, err := s.(pinion.Inspector).Prune(tb.Context(), time.Now()); err != nil {
		tb.Fatal(err)
	}
}

func pruneNothing(testing.TB, pinion.Storage) {}

// An operation is 800 jobs, of four producers, until they have run. The last ones are recorded as done after that.
func BenchmarkMixed(b *testing.B) {
	onStorages(b, func(b *testing.B, s pinion.Storage) {
		var left sync.WaitGroup
		working(b, s, left.Done, func() {
			for b.Loop() {
				left.Add(800)
				produce(b, s, 4, 200)
				left.Wait()
			}
		})
		perSecond(b, 800)
	})
}

// working does something while a worker runs.
func working(b *testing.B, s pinion.Storage, task, do func()) {
	w, ended := benchWorker(s, benchTask(task)), make(chan error, 1)
	go func() { ended <- w.Run(b.Context()) }()
	do()
	w.Stop()
	if err := <-ended; err != nil {
		b.Fatal(err)
	}
}

// From the start of Enqueue to the start of the task, and back to here.
func BenchmarkRoundtrip(b *testing.B) {
	onStorages(b, func(b *testing.B, s pinion.Storage) {
		started := make(chan struct{}, 1)
		working(b, s, func() { started <- struct{}{} }, func() {
			for b.Loop() {
				enqueueOne(b, s)
				<-started
			}
		})
	})
}

// The job is enqueued by another process, which is told to through a pipe; that takes some of the time. The worker is
// given some to be idle again: one that records a job and one that enqueues the next would fight for the lock.
func BenchmarkRoundtrip2(b *testing.B) {
	onFiles(b, func(b *testing.B, s pinion.Storage, file benchFile) {
		started := make(chan struct{}, 1)
		other := startBenchProcess(b, file, "0s")
		working(b, s, func() { started <- struct{}{} }, func() {
			for b.Loop() {
				b.StopTimer()
				time.Sleep(2 * time.Millisecond)
				b.StartTimer()
				other.ask("enqueue")
				<-started
			}
		})
		other.stop()
	})
}

// What lies about must not slow a worker down: compare the next three with Drain.

// An operation is 5,000 jobs of a backlog, which is filled up again.
func BenchmarkBacklog(b *testing.B) {
	onFiles(b, func(b *testing.B, s pinion.Storage, _ benchFile) {
		enqueueMany(b, s, *benchJobs, nil)
		for b.Loop() {
			var ran atomic.Int64
			enough := make(chan struct{})
			working(b, s, func() {
				if ran.Add(1) == perDrain {
					close(enough)
				}
			}, func() { <-enough; b.StopTimer() }) // the stop is not counted
			enqueueMany(b, s, int(ran.Load()), nil)
			b.StartTimer()
		}
		perSecond(b, perDrain)
	})
}

func BenchmarkHistory(b *testing.B) {
	onFiles(b, func(b *testing.B, s pinion.Storage, _ benchFile) {
		enqueueMany(b, s, *benchJobs, nil)
		if err := benchWorker(s, benchTask(nothing)).Drain(b.Context()); err != nil {
			b.Fatal(err)
		}
		drainAgain(b, s, nil, pruneNothing)
	})
}

func BenchmarkFuture(b *testing.B) {
	onFiles(b, func(b *testing.B, s pinion.Storage, _ benchFile) {
		nextYear := time.Now().AddDate(1, 0, 0)
		enqueueMany(b, s, *benchJobs, func(j *pinion.Job) { j.RunAt = nextYear })
		drainAgain(b, s, nil, pruneAll)
	})
}

// An operation is 5,000 jobs from their enqueueing, in a few calls,
// until all are recorded as done by as many processes.
func BenchmarkProcesses(b *testing.B) {
	onFiles(b, func(b *testing.B, s pinion.Storage, file benchFile) {
		for _, size := range []int{1, 2, 4} {
			b.Run(strconv.Itoa(size), func(b *testing.B) {
				crew := startBenchCrew(b, size, file, "0s")
				for b.Loop() {
					enqueueMany(b, s, perDrain, nil)
					crew.await(perDrain)
				}
				perSecond(b, perDrain)
			})
		}
	})
}

// An operation is 160 tasks of 50 ms for two processes with 8 slots each, whose ideal is half a second.
func BenchmarkSlow(b *testing.B) {
	onFiles(b, func(b *testing.B, s pinion.Storage, file benchFile) {
		crew := startBenchCrew(b, 2, file, "50ms")
		for b.Loop() {
			enqueueMany(b, s, 160, nil)
			crew.await(160)
		}
		b.ReportMetric(b.Elapsed().Seconds()/float64(b.N)/0.5, "x-ideal")
	})
}

// An operation is a second of a process that works on an empty queue.
func BenchmarkIdle(b *testing.B) {
	onFiles(b, func(b *testing.B, _ pinion.Storage, file benchFile) {
		p := startBenchCrew(b, 1, file, "0s").all[0]
		time.Sleep(100 * time.Millisecond) // what follows a start is not idleness
		before := p.ask("cpu")
		if before == 0 {
			b.Skip("the system does not tell the processor time finely enough")
		}
		for b.Loop() {
			time.Sleep(time.Second)
		}
		used := time.Duration(p.ask("cpu") - before)
		b.ReportMetric(used.Seconds()/b.Elapsed().Minutes(), "cpu-s/min")
	})
}

// benchProcess is this test binary again, as a process that works on a queue or enqueues into it when it is told to.
type benchProcess struct {
	b   *testing.B
	cmd *exec.Cmd
	in  io.WriteCloser
	out *bufio.Scanner
}

// benchProcessEnv has a file, its setting and how long a task takes: "path\nFULL\n50ms".
const benchProcessEnv = "PINION_BENCH_PROCESS"

// TestBenchProcess is no test but what a benchProcess runs. It does what each line on its input says and answers with
// a number: how many jobs it has recorded as done, unless another is asked for.
func TestBenchProcess(t *testing.T) {
	spec := strings.Split(os.Getenv(benchProcessEnv), "\n")
	if len(spec) != 3 {
		t.Skip("for other processes of benchmarks")
	}
	pause, err := time.ParseDuration(spec[2])
	if err != nil {
		t.Fatal(err)
	}
	s := benchFile{spec[0], spec[1]}.open(t)
	w := benchWorker(s, benchTask(func() { time.Sleep(pause) }))
	ctx, stop := context.WithCancel(t.Context())
	var ended sync.WaitGroup
	for lines := bufio.NewScanner(os.Stdin); lines.Scan(); {
		answer := func() int64 { return w.Metrics().Succeeded }
		switch lines.Text() {
		case "work":
			ended.Go(func() {
				if err := w.Run(ctx); err != nil {
					t.Error(err)
				}
			})
		case "enqueue":
			enqueueOne(t, s)
		case "cpu":
			answer = processorTime
		}
		fmt.Println(answer())
	}
	stop()
	ended.Wait()
}

// processorTime is what this process has used, in nanoseconds, as Linux has it for each thread; 0 elsewhere.
func processorTime() (sum int64) {
	threads, _ := filepath.Glob("/proc/self/task/*/schedstat")
	for _, name := range threads {
		text, _ := os.ReadFile(name)
		used, _, _ := strings.Cut(string(text), " ")
		n, _ := strconv.ParseInt(used, 10, 64)
		sum += n
	}
	return sum
}

func startBenchProcess(b *testing.B, file benchFile, each string) *benchProcess {
	p := &benchProcess{b: b, cmd: exec.Command(os.Args[0], "-test.run=^TestBenchProcess$")}
	p.cmd.Env = append(os.Environ(), benchProcessEnv+"="+file.path+"\n"+file.synchronous+"\n"+each)
	p.cmd.Stderr = os.Stderr
	in, err := p.cmd.StdinPipe()
	if err != nil {
		b.Fatal(err)
	}
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		b.Fatal(err)
	}
	p.in, p.out = in, bufio.NewScanner(out)
	if err := p.cmd.Start(); err != nil {
		b.Fatal(err)
	}
	p.ask("hello")
	return p
}

// ask has the process do something and returns how many jobs it has done.
func (p *benchProcess) ask(what string) int {
	if _, err := fmt.Fprintln(p.in, what); err != nil {
		p.b.Fatal(err)
	}
	if !p.out.Scan() {
		p.b.Fatalf("the other process has ended: %v", p.out.Err())
	}
	n, err := strconv.Atoi(p.out.Text())
	if err != nil {
		p.b.Fatal(err)
	}
	return n
}

func (p *benchProcess) stop() {
	p.in.Close()
	for p.out.Scan() { // to the end, so that it can write its last words
	}
	if err := p.cmd.Wait(); err != nil {
		p.b.Error(err)
	}
}

// benchCrew is several processes that work on one queue.
type benchCrew struct {
	all  []*benchProcess
	done int
}

func startBenchCrew(b *testing.B, size int, file benchFile, each string) *benchCrew {
	c := new(benchCrew)
	for range size {
		p := startBenchProcess(b, file, each)
		b.Cleanup(p.stop)
		p.ask("work")
		c.all = append(c.all, p)
	}
	return c
}

// await waits until so many more jobs are done.
func (c *benchCrew) await(jobs int) {
	for c.done += jobs; ; time.Sleep(time.Millisecond) {
		done := 0
		for _, p := range c.all {
			done += p.ask("count")
		}
		if done >= c.done {
			return
		}
	}
}

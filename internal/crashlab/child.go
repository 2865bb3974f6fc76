//go:build unix

package crashlab

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"os"
	"os/signal"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/pinion-queue/pinion"
)

// variable holds the order of a child, as JSON.
const variable = "PINION_CRASHLAB_CHILD"

// order is what a child is told.
type order struct {
	Who           int    // its number; process ids come back, these do not
	Role          string // one of roles
	DSN, Log      string
	Seed          uint64
	Slots         int
	Producers     int // goroutines that enqueue
	Backlog       int // above which they pause
	Visibility    time.Duration
	Grace         time.Duration
	PoisonRetries int
	Fate          fate
}

// fate is the call in which a child kills itself: the Nth of a verb, After its beginning.
type fate struct {
	Verb  string
	Nth   int64
	After time.Duration
}

const (
	roleWork    = "work"
	roleProduce = "produce"
	rolePrune   = "prune"
	roleBoth    = "work and produce"
	roleOpen    = "open"
)

// Child is the whole life of a process that the laboratory has started; anywhere else it does nothing. A test binary
// that uses the laboratory calls it first in TestMain.
func Child() {
	told := os.Getenv(variable)
	if told == "" {
		return
	}
	c := new(child)
	err := json.Unmarshal([]byte(told), &c.order)
	if err == nil {
		err = c.live()
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "child %d (%s): %v\n", c.Who, c.Role, err)
		os.Exit(1)
	}
	os.Exit(0)
}

// child is a process that is going to be killed.
type child struct {
	order
	book  *book
	calls atomic.Int64 // of the fated verb
	s     *watched
}

func (c *child) live() error {
	go func() { // the parent holds the other end, so that no child outlives it
		io.Copy(io.Discard, os.Stdin)
		syscall.Kill(os.Getpid(), syscall.SIGKILL)
	}()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	var err error
	if c.book, err = openBook(c.Log, c.Who); err != nil {
		return err
	}
	c.tempt("open")
	storage, err := pinion.Open(context.Background(), c.DSN)
	if err != nil {
		return err
	}
	c.s = &watched{storage, c}
	var parts sync.WaitGroup
	if c.Role == roleProduce || c.Role == roleBoth {
		for i := range c.Producers {
			parts.Go(func() { c.produce(ctx, rand.New(rand.NewPCG(c.Seed, uint64(i)))) })
		}
	}
	if c.Role == rolePrune {
		parts.Go(func() { c.prune(ctx, storage.(pinion.Inspector)) })
	}
	if c.Role == roleWork || c.Role == roleBoth {
		if err := c.work(ctx); err != nil {
			c.book.write("unclean", strconv.Quote(err.Error()))
		}
	}
	parts.Wait()
	c.tempt("close")
	return storage.Close()
}

// tempt is called at the beginning of each verb.
func (c *child) tempt(verb string) {
	if c.Fate.Verb == verb && c.calls.Add(1) == c.Fate.Nth {
		c.book.write("dying", verb)
		go func() {
			time.Sleep(c.Fate.After)
			c.die()
		}()
	}
}

func (c *child) die() {
	syscall.Kill(os.Getpid(), syscall.SIGKILL)
	select {}
}

// ---- Producing ----

// kinds are the tasks, with their share of the jobs.
var kinds = []struct {
	name  string
	share int
}{{"quick", 42}, {"slow", 20}, {"flaky", 8}, {"doomed", 3}, {"hopeless", 2}, {"panics", 4}, {"exits", 3}, {"late", 4}, {"deaf", 2}, {"spawns", 12}}

func (c *child) produce(ctx context.Context, rnd *rand.Rand) {
	for ctx.Err() == nil {
		if n, err := c.s.Size(ctx); err == nil && n > c.Backlog {
			nap(ctx, 50*time.Millisecond+upTo(rnd, 100*time.Millisecond))
			continue
		}
		jobs := make([]*pinion.Job, 1)
		if rnd.IntN(8) == 0 {
			jobs = make([]*pinion.Job, 2+rnd.IntN(20))
		}
		for i := range jobs {
			jobs[i] = newJob(anyKind(rnd), rnd)
		}
		if err := c.enqueue(ctx, jobs...); err != nil && ctx.Err() == nil {
			fmt.Fprintf(os.Stderr, "child %d: enqueue: %v\n", c.Who, err)
		}
		nap(ctx, upTo(rnd, 8*time.Millisecond))
	}
}

func anyKind(rnd *rand.Rand) string {
	n := rnd.IntN(100)
	for _, k := range kinds {
		if n -= k.share; n < 0 {
			return k.name
		}
	}
	return kinds[0].name
}

func newJob(kind string, rnd *rand.Rand) *pinion.Job {
	args := taskArgs{Millis: rnd.IntN(10), Fails: 1 + rnd.IntN(2)}
	if kind == "slow" {
		args.Millis = 50 + rnd.IntN(350)
	}
	job := pinion.NewJob(kind, args.Millis, args.Fails)
	job.ID = pinion.NewID()
	job.Queue = []string{"", "", "mail", "files"}[rnd.IntN(4)]
	job.Priority = rnd.IntN(3)
	if rnd.IntN(6) == 0 {
		job.RunAt = time.Now().Add(upTo(rnd, 300*time.Millisecond))
	}
	if rnd.IntN(6) == 0 {
		job.Key = "key of " + job.ID
	}
	return job
}

// enqueue writes down what it tries, and what was acknowledged.
func (c *child) enqueue(ctx context.Context, jobs ...*pinion.Job) error {
	var tried, ids []string
	for _, job := range jobs {
		tried, ids = append(tried, job.ID+":"+job.Task), append(ids, job.ID)
	}
	c.book.write("try", tried...)
	err := c.s.Enqueue(ctx, jobs...)
	if err == nil {
		c.book.write("ack", ids...)
	}
	return err
}

// ---- Working ----

func (c *child) work(ctx context.Context) error {
	w := &pinion.Worker{Storage: c.s, Registry: c.tasks(), Concurrency: c.Slots,
		Retry:             &pinion.RetryPolicy{MaxRetries: retries, BaseDelay: 10 * time.Millisecond, Cap: 50 * time.Millisecond, Jitter: true},
		VisibilityTimeout: c.Visibility, HeartbeatInterval: c.Visibility / beats, ReapInterval: reapInterval(c.Visibility),
		ShutdownTimeout: c.Grace, Logger: slog.New(complaints{slog.NewTextHandler(io.Discard, nil), c.book})}
	return w.Run(ctx)
}

const (
	retries = 3 // after the first attempt, for all but poison
	beats   = 4 // heartbeats in a visibility timeout
)

func reapInterval(visibility time.Duration) time.Duration { return visibility / 4 }

// complaints writes down what a worker says of a storage in trouble: that it gave up waiting, which a process that was
// stopped with the lock in its hands may cause, or anything else, which there is not to be.
type complaints struct {
	slog.Handler
	book *book
}

func (c complaints) Handle(_ context.Context, r slog.Record) error {
	if !strings.Contains(r.Message, "trouble") {
		return nil
	}
	verb, text := "trouble", r.Message
	r.Attrs(func(a slog.Attr) bool {
		err, ok := a.Value.Any().(error)
		if ok && (errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded)) {
			verb = "gave up"
		}
		text += " " + a.String()
		return true
	})
	c.book.write(verb, strconv.Quote(text))
	return nil
}

type taskArgs struct{ Millis, Fails int }

type taskFunc func(ctx context.Context, job *pinion.Job, args taskArgs) error

func (c *child) tasks() *pinion.Registry {
	errTask := errors.New("so it goes")
	registry := new(pinion.Registry)
	add := func(kind string, timeout time.Duration, retry *pinion.RetryPolicy, run taskFunc) {
		registry.Add(pinion.Task[taskArgs]{Name: kind, Timeout: timeout, Retry: retry, Run: func(ctx context.Context, args taskArgs) error {
			return c.attempt(ctx, kind, args, run)
		}})
	}
	first := func(job *pinion.Job) bool { return job.Attempts == 1 }
	works := func(ctx context.Context, _ *pinion.Job, args taskArgs) error {
		return nap(ctx, time.Duration(args.Millis)*time.Millisecond)
	}
	add("quick", 0, nil, works)
	add("slow", 0, nil, works)
	add("flaky", 0, nil, func(ctx context.Context, job *pinion.Job, args taskArgs) error {
		if job.Attempts <= args.Fails {
			return errTask
		}
		return works(ctx, job, args)
	})
	add("doomed", 0, nil, func(context.Context, *pinion.Job, taskArgs) error { return errTask })
	add("hopeless", 0, nil, func(context.Context, *pinion.Job, taskArgs) error { return pinion.Permanent(errTask) })
	add("panics", 0, nil, func(ctx context.Context, job *pinion.Job, args taskArgs) error {
		if first(job) {
			panic("at the disco")
		}
		return works(ctx, job, args)
	})
	add("exits", 0, nil, func(ctx context.Context, job *pinion.Job, args taskArgs) error {
		if first(job) {
			runtime.Goexit()
		}
		return works(ctx, job, args)
	})
	add("late", 30*time.Millisecond, nil, func(ctx context.Context, job *pinion.Job, _ taskArgs) error {
		if first(job) {
			<-ctx.Done()
			return ctx.Err()
		}
		return nil
	})
	add("deaf", 30*time.Millisecond, nil, func(ctx context.Context, job *pinion.Job, _ taskArgs) error {
		if first(job) {
			time.Sleep(100 * time.Millisecond)
			return errTask
		}
		return nil
	})
	add("spawns", 0, nil, func(ctx context.Context, _ *pinion.Job, args taskArgs) error {
		next := pinion.NewJob("quick", args.Millis, 0)
		next.ID = pinion.NewID()
		return c.enqueue(ctx, next)
	})
	retry := &pinion.RetryPolicy{MaxRetries: c.PoisonRetries}
	add("poison", 0, retry, func(_ context.Context, job *pinion.Job, _ taskArgs) error {
		c.book.write("end", ref(job), "killed")
		c.die()
		return nil
	})
	add("poison once", 0, nil, func(ctx context.Context, job *pinion.Job, args taskArgs) error {
		if first(job) {
			c.book.write("end", ref(job), "killed")
			c.die()
		}
		return works(ctx, job, args)
	})
	return registry
}

// attempt is every task, with its start and its end written down.
func (c *child) attempt(ctx context.Context, kind string, args taskArgs, run taskFunc) error {
	job, _ := pinion.JobFromContext(ctx)
	c.book.write("start", ref(job), strconv.Itoa(job.Attempts), strconv.FormatInt(job.HeartbeatAt.UnixMicro(), 10), kind)
	if err := pinion.SetResult(ctx, job.Claim); err != nil {
		return err
	}
	outcome := "panicked"
	defer func() { c.book.write("end", ref(job), outcome) }()
	err := run(ctx, job, args)
	switch cause := context.Cause(ctx); {
	case err == nil:
		outcome = "ok"
	case errors.Is(cause, pinion.ErrLeaseLost):
		outcome = "lost"
	case errors.Is(cause, pinion.ErrShutdown):
		outcome = "interrupted"
	default:
		outcome = "failed"
	}
	return err
}

func upTo(rnd *rand.Rand, d time.Duration) time.Duration { return time.Duration(rnd.Int64N(int64(d))) }

// nap waits, or returns ctx's error.
func nap(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// ---- Pruning ----

// prune deletes finished jobs, having written down that it saw them finished.
func (c *child) prune(ctx context.Context, storage pinion.Inspector) {
	seen := make(map[string]bool)
	for rnd := rand.New(rand.NewPCG(c.Seed, 0)); nap(ctx, 50*time.Millisecond+upTo(rnd, 200*time.Millisecond)) == nil; {
		before := time.Now().Add(-300*time.Millisecond - upTo(rnd, 3*time.Second))
		var saw []string
		for job, err := range storage.Jobs(ctx, pinion.Filter{Status: pinion.StatusSuccess}) {
			if err == nil && !seen[job.ID] && job.FinishedAt.Before(before) {
				seen[job.ID] = true
				saw = append(saw, ref(job)+":"+cmp.Or(string(job.Result), "none"))
			}
		}
		if len(saw) > 0 {
			c.book.write("saw", saw...)
		}
		c.tempt("prune")
		if _, err := storage.Prune(ctx, before); err != nil && ctx.Err() == nil {
			fmt.Fprintf(os.Stderr, "child %d: prune: %v\n", c.Who, err)
		}
	}
}

// ---- The storage, watched ----

// watched writes down what ends a claim, before it is asked for and after it was granted, and how long writes take.
type watched struct {
	pinion.Storage
	c *child
}

// long is the time from which on a call is written down.
const long = 100 * time.Millisecond

func (s *watched) timed(verb string, call func() error) error {
	s.c.tempt(verb)
	begun := time.Now()
	err := call()
	if took := time.Since(begun); took >= long {
		s.c.book.write("call", verb, strconv.FormatInt(took.Microseconds(), 10))
	}
	return err
}

// ending wraps a verb that ends the claims of jobs.
func (s *watched) ending(verb string, jobs []*pinion.Job, call func() (lost []*pinion.Job, err error)) ([]*pinion.Job, error) {
	var lost []*pinion.Job
	s.c.book.write("ending", append([]string{verb}, refs(jobs, nil)...)...)
	err := s.timed(verb, func() (err error) {
		lost, err = call()
		return err
	})
	if err == nil {
		s.c.book.write("ended", append([]string{verb}, refs(jobs, lost)...)...)
	}
	s.lost(lost)
	return lost, err
}

func (s *watched) lost(lost []*pinion.Job) {
	if len(lost) > 0 {
		s.c.book.write("lost", refs(lost, nil)...)
	}
}

func (s *watched) Enqueue(ctx context.Context, jobs ...*pinion.Job) error {
	return s.timed("enqueue", func() error { return s.Storage.Enqueue(ctx, jobs...) })
}

func (s *watched) Dequeue(ctx context.Context, opts pinion.DequeueOptions) ([]*pinion.Job, error) {
	s.c.tempt("claim")
	return s.Storage.Dequeue(ctx, opts)
}

func (s *watched) MarkDone(ctx context.Context, jobs ...*pinion.Job) ([]*pinion.Job, error) {
	return s.ending("done", jobs, func() ([]*pinion.Job, error) { return s.Storage.MarkDone(ctx, jobs...) })
}

// one gives a verb for a single job the shape of those for many.
func one(job *pinion.Job, call func() error) func() ([]*pinion.Job, error) {
	return func() ([]*pinion.Job, error) {
		err := call()
		if errors.Is(err, pinion.ErrLeaseLost) {
			return []*pinion.Job{job}, nil
		}
		return nil, err
	}
}

func leaseLost(lost []*pinion.Job, err error) error {
	if err == nil && len(lost) > 0 {
		return pinion.ErrLeaseLost
	}
	return err
}

func (s *watched) MarkFailed(ctx context.Context, job *pinion.Job, cause error, retryAt time.Time) error {
	return leaseLost(s.ending("failed", []*pinion.Job{job}, one(job, func() error { return s.Storage.MarkFailed(ctx, job, cause, retryAt) })))
}

func (s *watched) DeadLetter(ctx context.Context, job *pinion.Job, cause error) error {
	return leaseLost(s.ending("dead", []*pinion.Job{job}, one(job, func() error { return s.Storage.DeadLetter(ctx, job, cause) })))
}

func (s *watched) Heartbeat(ctx context.Context, jobs ...*pinion.Job) (lost []*pinion.Job, err error) {
	err = s.timed("heartbeat", func() (err error) {
		lost, err = s.Storage.Heartbeat(ctx, jobs...)
		return err
	})
	s.lost(lost)
	return lost, err
}

func (s *watched) ReapStale(ctx context.Context, visibility time.Duration) (n int, err error) {
	err = s.timed("reap", func() (err error) {
		n, err = s.Storage.ReapStale(ctx, visibility)
		return err
	})
	return n, err
}

// Release does not tell which jobs were lost, so that "ended" is not written.
func (s *watched) Release(ctx context.Context, at time.Time, cause error, jobs ...*pinion.Job) (lost, canceled []*pinion.Job, err error) {
	s.c.book.write("ending", append([]string{"release"}, refs(jobs, nil)...)...)
	err = s.timed("release", func() (err error) {
		lost, canceled, err = s.Storage.Release(ctx, at, cause, jobs...)
		return err
	})
	return lost, canceled, err
}

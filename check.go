package pinion

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"math"
	"reflect"
	"slices"
	"strings"
	"sync"
	"time"
)

// CheckStorage tests whether a storage means what [Storage] says and, where it implements them, [Canceler] and
// [Inspector]. It calls open once for each rule; the storages must be empty, and are
// closed again.
// The error joins all failures, each beginning with the rule that is broken. In a test:
//
//	if err := pinion.CheckStorage(ctx, open); err != nil {
//		t.Error(err)
//	}
//
// It makes a few hundred calls and takes well under a second. No rule is about speed, so a busy
// machine breaks none; but a storage that forgets to wake a waiting Dequeue is found out only when ctx ends, so give
// ctx a deadline.
func CheckStorage(ctx context.Context, open func() (Storage, error)) error {
	var failures []error
	for _, r := range storageRules() {
		if err := ctx.Err(); err != nil {
			return errors.Join(append(failures, fmt.Errorf("pinion: CheckStorage was stopped: %w", err))...)
		}
		if err := checkRule(ctx, open, r.check); err != nil {
			failures = append(failures, fmt.Errorf("%s: %w", r.rule, err))
		}
	}
	return errors.Join(failures...)
}

func checkRule(ctx context.Context, open func() (Storage, error), check func(*checker)) (err error) {
	s, err := open()
	if err != nil {
		return fmt.Errorf("open: %w", err)
	}
	defer func() {
		switch p := recover().(type) {
		case nil:
		case checkFailure:
			err = p.error
		default:
			panic(p)
		}
		if closing := s.Close(); !errors.Is(closing, ErrClosed) {
			err = errors.Join(err, closing)
		}
	}()
	check(&checker{s, ctx})
	return nil
}

// checker is a storage with steps that stop the check, by a panic that checkRule recovers, when they do not go as
// they should. The rules below are then read as what is done and what comes of it.
type checker struct {
	Storage
	ctx context.Context
}

type checkFailure struct{ error }

func (c *checker) ok(err error) {
	if err != nil {
		panic(checkFailure{err})
	}
}

func (c *checker) equal(what string, got, want any) {
	if !reflect.DeepEqual(got, want) {
		c.ok(fmt.Errorf("%s: got %v, want %v", what, got, want))
	}
}

func (c *checker) is(what string, err, want error) {
	if !errors.Is(err, want) {
		c.ok(fmt.Errorf("%s: got error %v, want one that matches %q", what, err, want))
	}
}

func (c *checker) add(jobs ...*Job) { c.ok(c.Enqueue(c.ctx, jobs...)) }

// due claims up to max jobs that are due and names them.
func (c *checker) due(max int, queues ...string) string {
	jobs, err := c.Dequeue(c.ctx, DequeueOptions{Max: max, Queues: queues, NoWait: true})
	c.ok(err)
	return tasks(jobs)
}

// take claims n jobs, which must be due.
func (c *checker) take(n int) []*Job {
	jobs, err := c.Dequeue(c.ctx, DequeueOptions{Max: n, NoWait: true})
	c.ok(err)
	c.equal("jobs due", len(jobs), n)
	return jobs
}

func (c *checker) one() *Job { return c.take(1)[0] }

// retry fails a job that is due again at once.
func (c *checker) retry(job *Job) { c.ok(c.MarkFailed(c.ctx, job, errCheck, time.Now())) }

func (c *checker) done(jobs ...*Job) {
	lost, err := c.MarkDone(c.ctx, jobs...)
	c.ok(err)
	c.equal("jobs lost by MarkDone", tasks(lost), "")
}

func (c *checker) size(want int) {
	n, err := c.Size(c.ctx)
	c.ok(err)
	c.equal("Size", n, want)
}

// reap waits until ReapStale has reaped n jobs in all, and returns the times between which it did.
func (c *checker) reap(visibility time.Duration, n int) (from, to time.Time) {
	from = microTime(time.Now())
	for reaped := 0; reaped < n; {
		time.Sleep(2 * visibility)
		got, err := c.ReapStale(c.ctx, visibility)
		c.ok(errors.Join(err, c.ctx.Err()))
		reaped += got
	}
	return from, time.Now()
}

// wait starts a Dequeue, lets it begin to wait (if it is late, the test is weaker and no less true), and returns
// what waits for its end.
func (c *checker) wait(ctx context.Context, opts DequeueOptions) func() (string, error) {
	var jobs []*Job
	var err error
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		jobs, err = c.Dequeue(ctx, opts)
	}()
	time.Sleep(3 * time.Millisecond)
	return func() (string, error) { <-ended; return tasks(jobs), err }
}

// woken expects that a Dequeue of wait got a job.
func (c *checker) woken(end func() (string, error), task string) {
	got, err := end()
	c.ok(err)
	c.equal("job that ended the wait", got, task)
}

func (c *checker) list(seq iter.Seq2[*Job, error]) (jobs []*Job) {
	for job, err := range seq {
		c.ok(err)
		jobs = append(jobs, job)
	}
	return jobs
}

func (c *checker) letters(in Inspector) string { return tasks(c.list(in.DeadLetters(c.ctx, Filter{}))) }

// cancel cancels jobs and expects these to have ended and those to have been asked.
func (c *checker) cancel(k Canceler, ended, asked string, ids ...string) {
	gotEnded, gotAsked, err := k.Cancel(c.ctx, ids...)
	c.ok(err)
	c.equal("jobs that ended by Cancel", strings.Join(gotEnded, " "), ended)
	c.equal("jobs that Cancel asked to end", strings.Join(gotAsked, " "), asked)
}

// canceled expects a job to have ended as canceled, if the storage can tell.
func (c *checker) canceled(id string) {
	if in, ok := c.Storage.(Inspector); ok {
		job, err := in.Get(c.ctx, id)
		c.ok(err)
		c.equal("canceled job", []any{job.Status, job.Error, job.Canceled, job.FinishedAt.IsZero()}, []any{StatusFailed, ErrCanceled.Error(), true, false})
		c.equal("dead letters", c.letters(in), "")
	}
}

// tasks names jobs by their tasks, which the rules use as labels.
func tasks(jobs []*Job) string {
	var names []string
	for _, job := range jobs {
		names = append(names, job.Task)
	}
	return strings.Join(names, " ")
}

// describe is what a dead letter must keep.
func describe(j *Job) string {
	return fmt.Sprintf("%s %s%s %s, queue %s, priority %d, key %s, %s after %d attempts, error %q",
		j.ID, j.Task, j.Args, j.Kwargs, j.Queue, j.Priority, j.Key, j.Status, j.Attempts, j.Error)
}

// optional is for rules about an interface that a storage need not have.
func optional[T any](check func(*checker, T)) func(*checker) {
	return func(c *checker) {
		if s, ok := c.Storage.(T); ok {
			check(c, s)
		}
	}
}

var errCheck = errors.New("failed by CheckStorage")

// storageRules is a function so that programs that never call CheckStorage do not link the rules.
func storageRules() []storageRule {
	return []storageRule{
		{"jobs are claimed in the order of priority, then of insertion; a retry keeps its age", func(c *checker) {
			c.add(&Job{Task: "low", Priority: math.MinInt}, NewJob("old"), NewJob("new"), &Job{Task: "urgent", Priority: 1})
			c.equal("first", c.one().Task, "urgent")
			c.retry(c.one())
			c.equal("rest", c.due(9), "old new low")
		}},
		{"Dequeue takes from the queues it names as if they were one, or from all", func(c *checker) {
			c.add(&Job{Task: "a", Queue: "x"}, &Job{Task: "b", Queue: "y"}, &Job{Task: "c", Queue: "z"},
				&Job{Task: "d", Queue: "y", Priority: 1}, NewJob("e"), &Job{Task: "f", Queue: "x"}, &Job{Task: "g", Queue: "z"})
			c.equal("from no such queue", c.due(9, "none"), "")
			c.equal("from x and y", c.due(9, "y", "x", "y"), "d a b f")
			c.equal("from the default queue", c.due(9, "default"), "e")
			c.equal("from all", c.due(9), "c g")
		}},
		{"Dequeue claims at most max jobs, and max must be at least one", func(c *checker) {
			c.add(NewJob("a"), NewJob("b"), NewJob("c"))
			if jobs, err := c.Dequeue(c.ctx, DequeueOptions{NoWait: true}); err == nil || len(jobs) > 0 {
				c.ok(fmt.Errorf("with max 0: got %d jobs, error %v", len(jobs), err))
			}
			c.equal("first two", c.due(2), "a b")
			c.equal("rest", c.due(2), "c")
		}},
		{"Enqueue stores all the jobs or none", func(c *checker) {
			c.add(&Job{ID: "taken", Task: "a", Key: "held"})
			long := strings.Repeat("x", 1<<20)
			for _, bad := range []struct {
				job  *Job
				want error
			}{
				{&Job{ID: "taken", Task: "b"}, ErrDuplicate}, {&Job{ID: "twice", Task: "b"}, ErrDuplicate},
				{&Job{Task: "b", Key: "held"}, ErrDuplicate}, {&Job{Task: "b", Key: "twice"}, ErrDuplicate},
				{NewJob(""), ErrBadArgs}, {NewJob("b", func() {}), ErrBadArgs}, {NewJob("b", long), ErrTooLarge},
			} {
				err := c.Enqueue(c.ctx, &Job{ID: "twice", Task: "good", Key: "twice"}, bad.job)
				c.is("batch with a bad job", err, bad.want)
				c.size(1)
			}
			c.add(&Job{ID: "twice", Task: "good", Key: "twice"}) // nothing of the batches holds its ID or Key
		}},
		{"a Key is held by one job until it is finished, an ID for ever", func(c *checker) {
			taken := func(job *Job, want DuplicateError) {
				got, _ := errors.AsType[*DuplicateError](c.Enqueue(c.ctx, job))
				c.equal("duplicate", got, &want)
				batch := slices.Insert([]*Job{{Task: "b"}, {Task: "b"}, {Task: "b"}, {Task: "b"}, {Task: "b"}, {Task: "b"}, {Task: "b"}}, 5, job)
				got, _ = errors.AsType[*DuplicateError](c.Enqueue(c.ctx, batch...))
				c.equal("duplicate in a batch", got, &want)
			}
			c.add(&Job{ID: "1", Task: "a", Key: "k"})
			taken(&Job{Task: "b", Key: "k"}, DuplicateError{"1", "k"})
			job := c.one()
			taken(&Job{Task: "b", Key: "k"}, DuplicateError{"1", "k"})
			c.retry(job)
			taken(&Job{Task: "b", Key: "k"}, DuplicateError{"1", "k"})
			c.done(c.one())
			c.add(&Job{ID: "2", Task: "c", Key: "k"})
			c.ok(c.DeadLetter(c.ctx, c.one(), errCheck))
			c.add(&Job{ID: "3", Task: "d", Key: "k"})
			taken(&Job{ID: "1", Task: "b"}, DuplicateError{ID: "1"})
		}},
		{"a waiting Dequeue is woken by whatever makes a job due", func(c *checker) {
			end := c.wait(c.ctx, DequeueOptions{Max: 1, Queues: []string{"a", "b"}})
			c.add(&Job{Task: "other", Queue: "c"}, &Job{Task: "new", Queue: "b"})
			c.woken(end, "new")
			other := c.one()
			end = c.wait(c.ctx, DequeueOptions{Max: 1})
			c.retry(other)
			c.woken(end, "other")
			c.add(&Job{Task: "hour", RunAt: time.Now().Add(time.Hour)})
			end = c.wait(c.ctx, DequeueOptions{Max: 1})
			c.add(&Job{Task: "sooner", RunAt: time.Now().Add(5 * time.Millisecond)})
			c.woken(end, "sooner")
		}},
		{"no job is claimed before its due time, for which Dequeue waits", func(c *checker) {
			due := time.Now().Add(10 * time.Millisecond)
			c.add(&Job{Task: "hour", RunAt: due.Add(time.Hour)}, &Job{Task: "soon", RunAt: due, Priority: -1}, NewJob("now"))
			c.size(3)
			job := c.one()
			c.equal("due now", job.Task, "now")
			c.woken(c.wait(c.ctx, DequeueOptions{Max: 1}), "soon")
			c.equal("not early", time.Now().Before(microTime(due)), false)
			due = time.Now().Add(10 * time.Millisecond)
			c.ok(c.MarkFailed(c.ctx, job, errCheck, due))
			c.woken(c.wait(c.ctx, DequeueOptions{Max: 1}), "now")
			c.equal("retry not early", time.Now().Before(microTime(due)), false)
			c.equal("an hour early", c.due(9), "")
		}},
		{"a ctx that ends ends the wait and takes no job along", func(c *checker) {
			ctx, cancel := context.WithCancel(c.ctx)
			end := c.wait(ctx, DequeueOptions{Max: 1})
			cancel()
			got, err := end()
			c.is("Dequeue", err, context.Canceled)
			c.equal("jobs", got, "")
			c.add(NewJob("a"))
			c.equal("afterwards", c.one().Task, "a")
			c.is("other verbs", c.Enqueue(ctx, NewJob("b")), context.Canceled)
			c.size(0)
		}},
		{"Attempts are counted at the claim, and each Claim is larger than the last", func(c *checker) {
			c.add(NewJob("a"))
			for attempt, last := 1, int64(0); attempt <= 3; attempt++ {
				job := c.one()
				c.equal("Status", job.Status, StatusRunning)
				c.equal("Attempts", job.Attempts, attempt)
				c.equal("Claim grew", job.Claim > last, true)
				last = job.Claim
				c.retry(job)
			}
		}},
		{"a claim keeps the name of its worker", func(c *checker) {
			kept := func(when, want string) {
				if in, ok := c.Storage.(Inspector); ok {
					job, err := in.Get(c.ctx, "1")
					c.ok(err)
					c.equal("Worker of the job "+when, job.Worker, want)
				}
			}
			end := c.wait(c.ctx, DequeueOptions{Max: 1, Worker: "waiting"})
			c.add(&Job{ID: "1", Task: "a"})
			c.woken(end, "a")
			kept("that was waited for", "waiting")
			c.reap(time.Millisecond, 1)
			for _, worker := range []string{"", "Ä:1"} {
				jobs, err := c.Dequeue(c.ctx, DequeueOptions{Max: 1, Worker: worker, NoWait: true})
				c.ok(err)
				c.equal("jobs due", len(jobs), 1)
				c.equal("Worker", jobs[0].Worker, worker)
				kept("while it runs", jobs[0].Worker)
				c.retry(jobs[0])
				kept("afterwards", jobs[0].Worker)
			}
		}},
		{"a lost claim changes nothing and never fails its batch", func(c *checker) {
			c.add(&Job{Task: "a", Priority: 1}, &Job{Task: "b"})
			old := c.one()
			c.reap(time.Millisecond, 1)
			held, good := c.one(), c.one()
			otherClaim, otherAttempt := *held, *held
			otherClaim.Claim, otherAttempt.Attempts = old.Claim, old.Attempts
			for _, lost := range []*Job{old, &otherClaim, &otherAttempt, {ID: "unknown", Task: "x"}} {
				for _, verb := range []func(context.Context, ...*Job) ([]*Job, error){c.Heartbeat, c.MarkDone} {
					got, err := verb(c.ctx, lost)
					c.ok(err)
					c.equal("jobs lost", tasks(got), lost.Task)
				}
				c.is("MarkFailed", c.MarkFailed(c.ctx, lost, errCheck, time.Time{}), ErrLeaseLost)
				c.is("DeadLetter", c.DeadLetter(c.ctx, lost, errCheck), ErrLeaseLost)
				gone, _, err := c.Release(c.ctx, time.Time{}, nil, lost)
				c.ok(err)
				c.equal("jobs lost by Release", tasks(gone), lost.Task)
				c.size(0)
			}
			lost, err := c.MarkDone(c.ctx, old, good)
			c.ok(err)
			c.equal("jobs lost of a batch", tasks(lost), "a")
			lost, err = c.MarkDone(c.ctx, good, held)
			c.ok(err)
			c.equal("jobs lost when done already", tasks(lost), "b")
			for _, task := range strings.Split("abcdefgh", "") {
				c.add(NewJob(task))
			}
			jobs := c.take(8) // under one claim, perhaps
			c.done(jobs[2])
			for _, verb := range []func(context.Context, ...*Job) ([]*Job, error){c.Heartbeat, c.MarkDone} {
				lost, err = verb(c.ctx, jobs...)
				c.ok(err)
				c.equal("jobs lost of a claim", tasks(lost), "c")
			}
			lost, err = c.MarkDone(c.ctx, jobs...)
			c.ok(err)
			c.equal("jobs lost of a claim that is done", len(lost), len(jobs))
		}},
		{"ReapStale takes back the jobs whose last heartbeat is too old, and no others", func(c *checker) {
			for visibility := 10 * time.Millisecond; ; visibility *= 2 {
				c.add(NewJob("dead"), NewJob("alive"))
				jobs := c.take(2)
				time.Sleep(visibility + time.Millisecond)
				beat := time.Now()
				_, err := c.Heartbeat(c.ctx, jobs[1])
				c.ok(err)
				reaped, err := c.ReapStale(c.ctx, visibility)
				c.ok(err)
				if time.Since(beat) < visibility {
					c.equal("jobs reaped", reaped, 1)
					c.equal("job reaped", c.one().Task, "dead")
					return
				}
				_, err = c.MarkDone(c.ctx, append(jobs, c.take(reaped)...)...) // too slow to say who must live: again
				c.ok(err)
			}
		}},
		{"a job is due at once when first reaped, then at random within Attempts × visibility", func(c *checker) {
			c.add(NewJob("a"), NewJob("b"), NewJob("c"), NewJob("d"))
			c.take(4)
			c.reap(time.Millisecond, 4)
			jobs := c.take(4)
			c.equal("due at once", tasks(jobs), "a b c d")
			c.equal("Error", jobs[0].Error, "lease expired")
			from, to := c.reap(5*time.Millisecond, 4)
			moments := make(map[time.Time]bool)
			for left := 4; left > 0; left-- {
				jobs, err := c.Dequeue(c.ctx, DequeueOptions{Max: 1})
				c.ok(err)
				at := jobs[0].RunAt
				c.equal("in the range", !at.Before(from) && !at.After(to.Add(2*5*time.Millisecond)), true)
				moments[at] = true
			}
			c.equal("all at one moment", len(moments) == 1, false)
		}},
		{"arguments are encoded at Enqueue and read back as json.RawMessage, numbers exact", func(c *checker) {
			args := []any{"<é>", nil, json.Number("12345678901234567890"), []int{1}}
			kwargs := map[string]any{"n": int64(math.MaxInt64), "x": 0.1}
			c.add(&Job{Task: "a", Args: args, Kwargs: kwargs}, NewJob("b"))
			args[3].([]int)[0], kwargs["n"] = 2, "changed"
			for range 2 {
				job := c.one()
				c.equal("Args", job.Args, []any{json.RawMessage(`"<é>"`), json.RawMessage("null"),
					json.RawMessage("12345678901234567890"), json.RawMessage("[1]")})
				c.equal("Kwargs", job.Kwargs, map[string]any{
					"n": json.RawMessage("9223372036854775807"), "x": json.RawMessage("0.1")})
				copy(job.Args[2].(json.RawMessage), "changed")
				job.Args[0], job.Kwargs["n"] = "changed", "changed"
				c.retry(job)
			}
			c.one()
			c.equal("without arguments", len(c.one().Args), 0)
		}},
		{"jobs come back as they were stored, times as UTC with microseconds", func(c *checker) {
			at := time.Date(2020, 2, 3, 4, 5, 6, 123456789, time.FixedZone("", 3600))
			job := &Job{Task: "Ä", Priority: 3, Key: "k", RunAt: at}
			c.add(job)
			c.equal("filled in", []any{len(job.ID), job.Queue, job.Status}, []any{32, "default", StatusPending})
			got := c.one()
			c.equal("job", []any{got.ID, got.Task, got.Queue, got.Priority, got.Key, got.RunAt, got.CreatedAt, got.Error},
				[]any{job.ID, "Ä", "default", 3, "k", microTime(at), job.CreatedAt, ""})
			c.equal("CreatedAt", got.CreatedAt, microTime(got.CreatedAt))
			c.equal("HeartbeatAt", got.HeartbeatAt, microTime(got.HeartbeatAt))
		}},
		{"concurrent Dequeues never claim a job twice, and miss none", func(c *checker) {
			jobs := make([]*Job, 300)
			for i := range jobs {
				jobs[i] = NewJob("a")
			}
			c.add(jobs...)
			var claimed [4][]*Job
			var all sync.WaitGroup
			for i := range claimed {
				all.Go(func() {
					for {
						jobs, err := c.Dequeue(c.ctx, DequeueOptions{Max: 7, NoWait: true})
						if err != nil || len(jobs) == 0 {
							return // after an error, jobs will be missing
						}
						claimed[i] = append(claimed[i], jobs...)
					}
				})
			}
			all.Wait()
			times := make(map[string]int)
			for _, job := range slices.Concat(claimed[:]...) {
				times[job.ID]++
				c.equal("claims of a job", times[job.ID], 1)
			}
			c.equal("jobs claimed", len(times), len(jobs))
		}},
		{"after Close, whoever waits or calls gets ErrClosed", func(c *checker) {
			end := c.wait(c.ctx, DequeueOptions{Max: 1})
			c.ok(c.Close())
			_, waited := end()
			_, dequeue := c.Dequeue(c.ctx, DequeueOptions{Max: 1})
			_, done := c.MarkDone(c.ctx)
			_, beat := c.Heartbeat(c.ctx)
			_, reap := c.ReapStale(c.ctx, time.Hour)
			_, size := c.Size(c.ctx)
			_, _, release := c.Release(c.ctx, time.Time{}, nil)
			for _, err := range []error{waited, dequeue, done, beat, reap, size, release, c.Enqueue(c.ctx, NewJob("a")),
				c.MarkFailed(c.ctx, NewJob("a"), errCheck, time.Time{}), c.DeadLetter(c.ctx, NewJob("a"), errCheck)} {
				c.is("call", err, ErrClosed)
			}
			if k, ok := c.Storage.(Canceler); ok {
				_, _, cancel := k.Cancel(c.ctx, "1")
				_, canceled := k.Canceled(c.ctx, NewJob("a"))
				c.is("Cancel", cancel, ErrClosed)
				c.is("Canceled", canceled, ErrClosed)
			}
		}},
		{"Release refunds the attempt, uses up the Claim and makes due at once, or when it is told", func(c *checker) {
			c.add(NewJob("a"), NewJob("b"))
			old := c.take(2)
			release := func(at time.Time, cause error, jobs ...*Job) {
				lost, canceled, err := c.Release(c.ctx, at, cause, jobs...)
				c.ok(err)
				c.equal("jobs lost by Release", tasks(lost), "")
				c.equal("jobs canceled at Release", tasks(canceled), "")
			}
			release(time.Time{}, nil, old...)
			now := c.take(2)
			c.equal("order", tasks(now), "a b")
			c.equal("Attempts", now[1].Attempts, 1)
			c.equal("Claim grew", now[1].Claim > old[1].Claim, true)
			c.equal("Error", now[1].Error, "")
			due := time.Now().Add(10 * time.Millisecond)
			release(due, errCheck, now[0])
			release(time.Now().Add(time.Hour), nil, now[1])
			c.size(2)
			jobs, err := c.Dequeue(c.ctx, DequeueOptions{Max: 2})
			c.ok(err)
			c.equal("due later", tasks(jobs), "a")
			c.equal("not early", time.Now().Before(microTime(due)), false)
			c.equal("Error", jobs[0].Error, errCheck.Error())
			c.equal("Attempts", jobs[0].Attempts, 1)
		}},
		{"Dequeue claims ahead of free slots no job that was claimed before", func(c *checker) {
			// A backend may claim less ahead, or nothing, but never what comes behind such a job.
			claim := func(what string, slots, max int, want string) {
				jobs, err := c.Dequeue(c.ctx, DequeueOptions{Max: max, Ahead: max - slots})
				c.ok(err)
				if len(jobs) < slots || !strings.HasPrefix(want+" ", tasks(jobs)+" ") && len(jobs) > 0 {
					c.equal(what, tasks(jobs), want)
				}
				_, _, err = c.Release(c.ctx, time.Time{}, nil, jobs...)
				c.ok(err)
			}
			claim("with nothing due and no free slot", 0, 9, "")
			c.add(NewJob("old"))
			c.retry(c.one())
			claim("with no free slot", 0, 9, "")
			claim("with one free slot", 1, 9, "old")
			c.add(&Job{Task: "a", Priority: 1}, NewJob("b"))
			claim("ahead up to an old one", 0, 9, "a")
		}},
		{"a ctx that has ended is an error, and claims nothing", func(c *checker) {
			ctx, cancel := context.WithCancel(c.ctx)
			cancel()
			c.add(NewJob("a"))
			for _, opts := range []DequeueOptions{{Max: 1}, {Max: 1, NoWait: true}, {Max: 1, Ahead: 1}} {
				jobs, err := c.Dequeue(ctx, opts)
				c.is("Dequeue", err, context.Canceled)
				c.equal("jobs", tasks(jobs), "")
			}
			c.equal("afterwards", c.due(9), "a")
		}},
		{"Cancel ends a PENDING job at once, without a dead letter, and frees its Key", optional(func(c *checker, k Canceler) {
			hour := time.Now().Add(time.Hour)
			c.add(NewJob("stays"), &Job{ID: "1", Task: "a", Key: "k"}, &Job{ID: "2", Task: "b", RunAt: hour}, &Job{ID: "3", Task: "c", Queue: "q"})
			c.cancel(k, "1 2 3", "", "1", "unknown", "2", "3")
			c.cancel(k, "", "", "1", "unknown")
			c.size(1)
			for _, id := range []string{"1", "2", "3"} {
				c.canceled(id)
			}
			c.add(&Job{ID: "4", Task: "d", Key: "k"})
			c.equal("due", c.due(9), "stays d")
		})},
		{"a RUNNING job that was canceled ends when its claim does, and MarkDone comes first", optional(func(c *checker, k Canceler) {
			for _, end := range []struct {
				verb string
				by   func(*Job) error
				want error
			}{
				{"MarkFailed", func(job *Job) error { return c.MarkFailed(c.ctx, job, errCheck, time.Time{}) }, ErrCanceled},
				{"DeadLetter", func(job *Job) error { return c.DeadLetter(c.ctx, job, errCheck) }, ErrCanceled},
				{"DeadLetter of one that was not run", func(job *Job) error { return c.DeadLetter(c.ctx, job, ErrAttemptsUsedUp) }, ErrCanceled},
				{"Release", func(job *Job) error {
					_, canceled, err := c.Release(c.ctx, time.Time{}, nil, job)
					c.equal("jobs canceled at Release", tasks(canceled), "a")
					return err
				}, nil},
				{"ReapStale", func(*Job) error { c.reap(time.Millisecond, 1); return nil }, nil},
			} {
				c.add(&Job{ID: end.verb, Task: "a", Key: "k"})
				job := c.one()
				for range 2 {
					c.cancel(k, "", end.verb, end.verb)
				}
				c.is("enqueueing its Key", c.Enqueue(c.ctx, &Job{Task: "b", Key: "k"}), ErrDuplicate)
				c.is(end.verb, end.by(job), end.want)
				c.canceled(end.verb)
				c.equal("due after "+end.verb, c.due(9), "")
				lost, err := c.MarkDone(c.ctx, job)
				c.ok(err)
				c.equal("jobs lost by MarkDone after "+end.verb, tasks(lost), "a")
			}
			c.add(&Job{ID: "1", Task: "done", Key: "k"})
			job := c.one()
			c.cancel(k, "", "1", "1")
			c.done(job)
			c.cancel(k, "", "", "1")
			if in, ok := c.Storage.(Inspector); ok {
				got, err := in.Get(c.ctx, "1")
				c.ok(err)
				c.equal("Status of a job that was done before its end", got.Status, StatusSuccess)
			}
		})},
		{"Canceled names the claimed jobs that were canceled, and no others", optional(func(c *checker, k Canceler) {
			canceled := func(want string, jobs ...*Job) {
				got, err := k.Canceled(c.ctx, jobs...)
				c.ok(err)
				c.equal("canceled of "+tasks(jobs), tasks(got), want)
			}
			c.add(&Job{ID: "1", Task: "a"}, &Job{ID: "2", Task: "b"}, &Job{ID: "3", Task: "c"}, &Job{ID: "4", Task: "waits"})
			jobs := c.take(3)
			canceled("", jobs...)
			c.cancel(k, "4", "1 3", "1", "3", "4")
			canceled("a", jobs[0], jobs[1])
			canceled("c", jobs[2])
			lost, err := c.Heartbeat(c.ctx, jobs...)
			c.ok(err)
			c.equal("jobs lost", tasks(lost), "")
			otherClaim, otherAttempt := *jobs[0], *jobs[0]
			otherClaim.Claim--
			otherAttempt.Attempts++
			canceled("", &otherClaim, &otherAttempt, &Job{ID: "unknown", Task: "x"}, &Job{ID: "4", Task: "waits"})
			c.done(jobs[0])
			canceled("c", jobs...)
		})},
		{"Get shows a job at every step of its life", optional(func(c *checker, in Inspector) {
			_, err := in.Get(c.ctx, "1")
			c.is("Get of no job", err, ErrNotFound)
			step := func(status Status, attempts int, text string, finished bool, result string) {
				job, err := in.Get(c.ctx, "1")
				c.ok(err)
				c.equal("job", []any{job.Status, job.Attempts, job.Error, !job.FinishedAt.IsZero(), string(job.Result)},
					[]any{status, attempts, text, finished, result})
			}
			c.add(&Job{ID: "1", Task: "a"})
			step(StatusPending, 0, "", false, "")
			job := c.one()
			step(StatusRunning, 1, "", false, "")
			c.retry(job)
			step(StatusPending, 1, errCheck.Error(), false, "")
			job = c.one()
			job.Result = json.RawMessage("[2]")
			c.done(job)
			step(StatusSuccess, 2, errCheck.Error(), true, "[2]")
		})},
		{"listings are in the order of age, and only of what matches the filter", optional(func(c *checker, in Inspector) {
			jobs := make([]*Job, 250)
			for i := range jobs {
				jobs[i] = &Job{Task: fmt.Sprint("t", i), Queue: fmt.Sprint("q", i%2), Priority: i % 3}
			}
			c.add(jobs...)
			claimed := c.due(3, "q1")
			for _, l := range []struct {
				filter Filter
				want   string
			}{
				{Filter{}, tasks(jobs)},
				{Filter{Limit: 3}, "t0 t1 t2"},
				{Filter{IDs: []string{jobs[9].ID, jobs[5].ID, "x"}}, "t5 t9"},
				{Filter{Task: "T249"}, "t249"},
				{Filter{Queue: "q1", Status: StatusPending, Limit: 4}, "t1 t3 t7 t9"},
				{Filter{Status: StatusRunning}, claimed},
				{Filter{Queue: "q0", Status: StatusRunning}, ""},
			} {
				c.equal(fmt.Sprintf("%+v", l.filter), tasks(c.list(in.Jobs(c.ctx, l.filter))), l.want)
			}
		})},
		{"Stats counts jobs by queue and task, and what finished lately", optional(func(c *checker, in Inspector) {
			hour := time.Now().Add(time.Hour)
			jobs := []*Job{{Task: "x", Queue: "b", RunAt: hour}, {Task: "y", Queue: "b"}, {Task: "x", Queue: "a"}, {Task: "x", Queue: "a"}, {Task: "x", Queue: "a"}}
			for _, job := range jobs {
				c.add(job)
			}
			claimed := c.take(4)
			c.done(claimed[2])
			c.done(claimed[1])
			c.ok(c.DeadLetter(c.ctx, claimed[3], errCheck))
			stats, err := in.Stats(c.ctx)
			c.ok(err)
			c.equal("Total", stats.Total, Counts{Pending: 1, Running: 1, Success: 2, Failed: 1, SuccessHour: 2, FailedHour: 1, Minute: 3, Oldest: jobs[0].CreatedAt})
			c.equal("Queues", stats.Queues, []QueueStats{
				{"a", Counts{Success: 2, Failed: 1, SuccessHour: 2, FailedHour: 1, Minute: 3}},
				{"b", Counts{Pending: 1, Running: 1, Oldest: jobs[0].CreatedAt}}})
			c.equal("Tasks", stats.Tasks, []TaskStats{
				{"x", Counts{Pending: 1, Success: 2, Failed: 1, SuccessHour: 2, FailedHour: 1, Minute: 3, Oldest: jobs[0].CreatedAt}},
				{"y", Counts{Running: 1}}})
			c.equal("DeadLetters", stats.DeadLetters, 1)
			minute := 0
			for _, n := range stats.LastMinute {
				minute += n
			}
			c.equal("finished in the last minute", minute, 3)
		})},
		{"a dead letter keeps the job, Replay brings it back with no attempts", optional(func(c *checker, in Inspector) {
			c.add(&Job{ID: "1", Task: "a", Args: []any{1}, Kwargs: map[string]any{"x": 2}, Queue: "q", Priority: 3, Key: "k"})
			for _, cause := range []error{errCheck, fmt.Errorf("no more: %w", ErrAttemptsUsedUp)} {
				c.retry(c.one())
				want := c.one()
				c.equal("Attempts", want.Attempts, 2)
				c.ok(c.DeadLetter(c.ctx, want, cause))
				want.Status, want.Error = StatusFailed, cause.Error()
				if cause != errCheck {
					want.Attempts = 1
				}
				dead := c.list(in.DeadLetters(c.ctx, Filter{}))
				c.equal("dead letters", len(dead), 1)
				c.equal("dead letter", describe(dead[0]), describe(want))
				got, err := in.Get(c.ctx, "1")
				c.ok(err)
				c.equal("job", describe(got), describe(want))
				c.equal("FinishedAt", dead[0].FinishedAt, got.FinishedAt)
				c.equal("jobs due", c.due(1), "")
				n, err := in.Replay(c.ctx, Filter{})
				c.ok(err)
				c.equal("jobs replayed", n, 1)
				c.equal("dead letters left", c.letters(in), "")
				got, err = in.Get(c.ctx, "1")
				c.ok(err)
				want.Status, want.Attempts, want.Error = StatusPending, 0, ""
				c.equal("replayed", describe(got), describe(want))
				c.is("enqueueing its Key", c.Enqueue(c.ctx, &Job{Task: "b", Key: "k"}), ErrDuplicate)
			}
		})},
		{"Replay takes the oldest that match and leaves a job whose Key is taken", optional(func(c *checker, in Inspector) {
			c.add(NewJob("a"), &Job{Task: "b", Key: "k"}, NewJob("c"), NewJob("d"))
			jobs := c.take(4)
			for _, i := range []int{1, 0, 3, 2} {
				c.ok(c.DeadLetter(c.ctx, jobs[i], errCheck))
			}
			c.equal("dead letters", c.letters(in), "b a d c")
			c.add(&Job{Task: "e", Key: "k"})
			for _, r := range []struct {
				filter Filter
				want   string
			}{
				{Filter{Limit: 1}, "b d c"}, {Filter{Task: "C"}, "b d"},
				{Filter{IDs: []string{jobs[3].ID}}, "b"}, {Filter{}, "b"},
			} {
				_, err := in.Replay(c.ctx, r.filter)
				c.ok(err)
				c.equal(fmt.Sprintf("left by %+v", r.filter), c.letters(in), r.want)
			}
			c.equal("due, by age", c.due(9), "a c d e")
		})},
		{"Prune spares the unfinished, and dead letters, which Purge deletes", optional(func(c *checker, in Inspector) {
			c.add(NewJob("dead"), NewJob("purged"), NewJob("done"), NewJob("running"), NewJob("pending"))
			jobs := c.take(4)
			c.ok(c.DeadLetter(c.ctx, jobs[0], errCheck))
			c.ok(c.DeadLetter(c.ctx, jobs[1], errCheck))
			c.done(jobs[2])
			prune := func(before time.Time, want int, left string) {
				n, err := in.Prune(c.ctx, before)
				c.ok(err)
				c.equal("jobs pruned", n, want)
				c.equal("jobs left", tasks(c.list(in.Jobs(c.ctx, Filter{}))), left)
			}
			prune(jobs[2].CreatedAt, 0, "dead purged done running pending")
			n, err := in.Purge(c.ctx, Filter{Task: "purged"})
			c.ok(err)
			c.equal("dead letters purged", n, 1)
			c.equal("dead letters left", c.letters(in), "dead")
			prune(time.Now().Add(time.Hour), 2, "dead running pending")
		})},
	}
}

// storageRule is one sentence of the contract, and what tests it.
type storageRule struct {
	rule  string
	check func(*checker)
}

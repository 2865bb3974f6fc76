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

// CheckStorage reports whether a storage does what [Storage] says.
//
// It also checks [Canceler] and [Inspector] if the storage implements them. It calls open once for each
// rule and closes the storages. They must be empty. The error joins all failures; each begins with the rule
// that is broken. In a test:
//
//	if err := pinion.CheckStorage(ctx, open); err != nil {
//		t.Error(err)
//	}
//
// It makes a few hundred calls and takes well under a second. No rule is about speed, so a slow machine
// breaks none. Give ctx a deadline: only at its end is a storage found out that never wakes a Dequeue that
// waits.
func CheckStorage(ctx context.Context, open func() (Storage, error)) error {
	var failures []error
	for _, r := range storageRules() {
		if err := ctx.Err(); err != nil {
			failures = append(failures, fmt.Errorf("pinion: CheckStorage was stopped: %w", err))
			break
		}
		if err := checkRule(ctx, open, r.check); err != nil {
			failures = append(failures, fmt.Errorf("%s: %w", r.rule, err))
		}
	}
	return errors.Join(failures...)
}

// storageRule is one sentence of the contract, and the steps that check it.
type storageRule struct {
	rule  string
	check func(*checker)
}

// storageRules returns all rules. It is a function, and no variable, so that programs that never call
// CheckStorage do not link the rules.
func storageRules() []storageRule {
	return slices.Concat(
		orderRules(),
		enqueueRules(),
		argumentRules(),
		dueTimeRules(),
		contextRules(),
		claimRules(),
		fencingRules(),
		leaseRules(),
		releaseRules(),
		cancelRules(),
		inspectRules(),
		deadLetterRules(),
		closeRules(),
	)
}

// checkRule opens a storage, checks one rule and closes the storage.
func checkRule(ctx context.Context, open func() (Storage, error), check func(*checker)) (err error) {
	s, err := open()
	if err != nil {
		return fmt.Errorf("open: %w", err)
	}
	defer func() {
		closing := s.Close()
		if !errors.Is(closing, ErrClosed) {
			err = errors.Join(err, closing)
		}
	}()
	defer func() {
		failure := recover()
		if failure == nil {
			return
		}
		failed, ok := failure.(checkFailure)
		if !ok {
			panic(failure)
		}
		err = failed.error
	}()
	check(&checker{s, ctx})
	return nil
}

// ---- The rules, by subject. Jobs are told apart by the names of their tasks. ----

func orderRules() []storageRule {
	return []storageRule{
		{"Dequeue claims jobs in the order of priority, then of age; a retry keeps its age", func(c *checker) {
			c.enqueue(
				&Job{Task: "low", Priority: math.MinInt},
				NewJob("old"),
				NewJob("new"),
				&Job{Task: "urgent", Priority: 1},
			)
			c.wantEqual("first job", c.claimOne().Task, "urgent")
			c.retry(c.claimOne())
			c.wantEqual("other jobs", c.claimDue(9), "old new low")
		}},
		{"Dequeue claims from several queues as if they were one, and by default from all", func(c *checker) {
			c.enqueue(
				&Job{Task: "a", Queue: "x"},
				&Job{Task: "b", Queue: "y"},
				&Job{Task: "c", Queue: "z"},
				&Job{Task: "d", Queue: "y", Priority: 1},
				NewJob("e"),
				&Job{Task: "f", Queue: "x"},
				&Job{Task: "g", Queue: "z"},
			)
			c.wantEqual("jobs of a queue that does not exist", c.claimDue(9, "none"), "")
			c.wantEqual("jobs of the queues y, x and y", c.claimDue(9, "y", "x", "y"), "d a b f")
			c.wantEqual("jobs of the default queue", c.claimDue(9, "default"), "e")
			c.wantEqual("jobs of all queues", c.claimDue(9), "c g")
		}},
		{"Dequeue claims at most Max jobs, and returns an error if Max is less than one", func(c *checker) {
			c.enqueue(NewJob("a"), NewJob("b"), NewJob("c"))
			jobs, err := c.Dequeue(c.ctx, DequeueOptions{NoWait: true})
			if err == nil || len(jobs) > 0 {
				c.must(fmt.Errorf("Max 0: got %d jobs and error %v, want an error", len(jobs), err))
			}
			c.wantEqual("the first two jobs", c.claimDue(2), "a b")
			c.wantEqual("the rest", c.claimDue(2), "c")
		}},
	}
}

func enqueueRules() []storageRule {
	return []storageRule{
		{"Enqueue stores all its jobs or none", func(c *checker) {
			c.enqueue(&Job{ID: "taken", Task: "a", Key: "held"})
			for _, bad := range []struct {
				job  *Job
				want error
			}{
				{&Job{ID: "taken", Task: "b"}, ErrDuplicate},
				{&Job{ID: "twice", Task: "b"}, ErrDuplicate},
				{&Job{Task: "b", Key: "held"}, ErrDuplicate},
				{&Job{Task: "b", Key: "twice"}, ErrDuplicate},
				{NewJob(""), ErrBadArgs},
				{NewJob("b", func() {}), ErrBadArgs},
				{NewJob("b", strings.Repeat("x", 1<<20)), ErrTooLarge},
			} {
				err := c.Enqueue(c.ctx, &Job{ID: "twice", Task: "good", Key: "twice"}, bad.job)
				c.wantError("Enqueue of a good job and a bad one", err, bad.want)
				c.wantSize(1)
			}
			// Nothing of the refused batches holds this ID or this Key.
			c.enqueue(&Job{ID: "twice", Task: "good", Key: "twice"})
		}},
		{"a job holds its Key until it ends, and its ID for ever", func(c *checker) {
			c.enqueue(&Job{ID: "1", Task: "a", Key: "k"})
			c.wantDuplicate(&Job{Task: "b", Key: "k"}, DuplicateError{ID: "1", Key: "k"})
			job := c.claimOne()
			c.wantDuplicate(&Job{Task: "b", Key: "k"}, DuplicateError{ID: "1", Key: "k"})
			c.retry(job)
			c.wantDuplicate(&Job{Task: "b", Key: "k"}, DuplicateError{ID: "1", Key: "k"})
			c.markDone(c.claimOne())

			c.enqueue(&Job{ID: "2", Task: "c", Key: "k"})
			c.deadLetter(c.claimOne())
			c.enqueue(&Job{ID: "3", Task: "d", Key: "k"})
			c.wantDuplicate(&Job{ID: "1", Task: "b"}, DuplicateError{ID: "1"})
		}},
	}
}

func argumentRules() []storageRule {
	return []storageRule{
		{"arguments are encoded at Enqueue and come back as json.RawMessage, with exact numbers", func(c *checker) {
			numbers := []int{1}
			args := []any{"<é>", nil, json.Number("12345678901234567890"), numbers}
			kwargs := map[string]any{"n": int64(math.MaxInt64), "x": 0.1}
			c.enqueue(&Job{Task: "a", Args: args, Kwargs: kwargs}, NewJob("b"))
			numbers[0] = 2
			kwargs["n"] = "changed"
			for range 2 { // the second time after the first copy was changed
				job := c.claimOne()
				c.wantEqual("Args", job.Args, []any{
					json.RawMessage(`"<é>"`),
					json.RawMessage("null"),
					json.RawMessage("12345678901234567890"),
					json.RawMessage("[1]"),
				})
				c.wantEqual("Kwargs", job.Kwargs, map[string]any{
					"n": json.RawMessage("9223372036854775807"),
					"x": json.RawMessage("0.1"),
				})
				copy(job.Args[2].(json.RawMessage), "changed")
				job.Args[0] = "changed"
				job.Kwargs["n"] = "changed"
				c.retry(job)
			}
			c.claimOne()
			c.wantEqual("number of Args of a job without arguments", len(c.claimOne().Args), 0)
		}},
		{"jobs come back as they were stored, with times in UTC and whole microseconds", func(c *checker) {
			at := time.Date(2020, 2, 3, 4, 5, 6, 123456789, time.FixedZone("", 3600))
			job := &Job{Task: "Ä", Priority: 3, Key: "k", RunAt: at}
			c.enqueue(job)
			c.wantEqual("length of the new ID", len(job.ID), 32)
			c.wantEqual("Queue after Enqueue", job.Queue, "default")
			c.wantEqual("Status after Enqueue", job.Status, StatusPending)

			got := c.claimOne()
			c.wantEqual("ID", got.ID, job.ID)
			c.wantEqual("Task", got.Task, "Ä")
			c.wantEqual("Queue", got.Queue, "default")
			c.wantEqual("Priority", got.Priority, 3)
			c.wantEqual("Key", got.Key, "k")
			c.wantEqual("Error", got.Error, "")
			c.wantEqual("RunAt", got.RunAt, asStored(at))
			c.wantEqual("CreatedAt", got.CreatedAt, job.CreatedAt)
			c.wantEqual("CreatedAt in UTC and microseconds", got.CreatedAt, asStored(got.CreatedAt))
			c.wantEqual("HeartbeatAt in UTC and microseconds", got.HeartbeatAt, asStored(got.HeartbeatAt))
		}},
	}
}

func dueTimeRules() []storageRule {
	return []storageRule{
		{"a Dequeue that waits returns as soon as a job is due, whatever made it so", func(c *checker) {
			waiting := c.startDequeue(c.ctx, DequeueOptions{Max: 1, Queues: []string{"a", "b"}})
			c.enqueue(&Job{Task: "other", Queue: "c"}, &Job{Task: "new", Queue: "b"})
			c.wantEqual("job of a queue that Dequeue waits for", c.mustEnd(waiting), "new")

			other := c.claimOne()
			waiting = c.startDequeue(c.ctx, DequeueOptions{Max: 1})
			c.retry(other)
			c.wantEqual("job that is retried", c.mustEnd(waiting), "other")

			c.enqueue(&Job{Task: "in an hour", RunAt: time.Now().Add(time.Hour)})
			waiting = c.startDequeue(c.ctx, DequeueOptions{Max: 1})
			c.enqueue(&Job{Task: "soon", RunAt: time.Now().Add(5 * time.Millisecond)})
			c.wantEqual("job that is due before the others", c.mustEnd(waiting), "soon")
		}},
		{"no job is claimed before its due time; Dequeue waits for it", func(c *checker) {
			due := time.Now().Add(10 * time.Millisecond)
			c.enqueue(
				&Job{Task: "in an hour", RunAt: due.Add(time.Hour)},
				&Job{Task: "soon", RunAt: due, Priority: -1},
				NewJob("now"),
			)
			c.wantSize(3)
			job := c.claimOne()
			c.wantEqual("job that is due now", job.Task, "now")
			c.wantEqual("job that Dequeue waits for", c.waitForOne().Task, "soon")
			c.wantNotBefore(due)

			due = time.Now().Add(10 * time.Millisecond)
			c.must(c.MarkFailed(c.ctx, job, errCheck, due))
			c.wantEqual("retry that Dequeue waits for", c.waitForOne().Task, "now")
			c.wantNotBefore(due)
			c.wantEqual("jobs due an hour early", c.claimDue(9), "")
		}},
	}
}

func contextRules() []storageRule {
	return []storageRule{
		{"when its ctx ends Dequeue stops waiting, and claims nothing", func(c *checker) {
			ctx, cancel := context.WithCancel(c.ctx)
			waiting := c.startDequeue(ctx, DequeueOptions{Max: 1})
			cancel()
			jobs, err := waiting.end()
			c.wantError("Dequeue", err, context.Canceled)
			c.wantEqual("jobs claimed", taskNames(jobs), "")
			c.enqueue(NewJob("a"))
			c.wantEqual("job due afterwards", c.claimOne().Task, "a")
		}},
		{"a ctx that has ended is an error, and the call does nothing", func(c *checker) {
			ctx, cancel := context.WithCancel(c.ctx)
			cancel()
			c.enqueue(NewJob("a"))
			for _, opts := range []DequeueOptions{{Max: 1}, {Max: 1, NoWait: true}, {Max: 1, Ahead: 1}} {
				jobs, err := c.Dequeue(ctx, opts)
				c.wantError("Dequeue", err, context.Canceled)
				c.wantEqual("jobs claimed", taskNames(jobs), "")
			}
			c.wantError("Enqueue", c.Enqueue(ctx, NewJob("b")), context.Canceled)
			c.wantEqual("jobs due afterwards", c.claimDue(9), "a")
		}},
	}
}

func claimRules() []storageRule {
	return []storageRule{
		{"each claim counts an attempt and has a larger Claim than the one before", func(c *checker) {
			c.enqueue(NewJob("a"))
			lastClaim := int64(0)
			for attempt := 1; attempt <= 3; attempt++ {
				job := c.claimOne()
				c.wantEqual("Status", job.Status, StatusRunning)
				c.wantEqual("Attempts", job.Attempts, attempt)
				c.wantEqual("Claim grew", job.Claim > lastClaim, true)
				lastClaim = job.Claim
				c.retry(job)
			}
		}},
		{"a claim stores the name of its worker", func(c *checker) {
			waiting := c.startDequeue(c.ctx, DequeueOptions{Max: 1, Worker: "waiting"})
			c.enqueue(&Job{ID: "1", Task: "a"})
			c.mustEnd(waiting)
			c.wantWorker("after a claim that waited", "1", "waiting")
			c.reap(time.Millisecond, 1)
			for _, worker := range []string{"", "Ä:1"} {
				jobs, err := c.Dequeue(c.ctx, DequeueOptions{Max: 1, Worker: worker, NoWait: true})
				c.must(err)
				c.wantEqual("number of jobs due", len(jobs), 1)
				c.wantEqual("Worker", jobs[0].Worker, worker)
				c.wantWorker("while the job runs", "1", worker)
				c.retry(jobs[0])
				c.wantWorker("after the claim", "1", worker)
			}
		}},
		{"Dequeue claims ahead of free slots no job that was claimed before, and none behind it", func(c *checker) {
			c.wantClaimedAhead("nothing is due", DequeueOptions{Max: 9, Ahead: 9}, "")
			c.enqueue(NewJob("old"))
			c.retry(c.claimOne())
			c.wantClaimedAhead("no slot is free", DequeueOptions{Max: 9, Ahead: 9}, "")
			c.wantClaimedAhead("one slot is free", DequeueOptions{Max: 9, Ahead: 8}, "old")
			c.enqueue(&Job{Task: "a", Priority: 1}, NewJob("b"))
			c.wantClaimedAhead("the old job is the second", DequeueOptions{Max: 9, Ahead: 9}, "a")
		}},
		{"concurrent Dequeues claim every job, and none twice", func(c *checker) {
			jobs := make([]*Job, 300)
			for i := range jobs {
				jobs[i] = NewJob("a")
			}
			c.enqueue(jobs...)
			var claimed [4][]*Job
			var callers sync.WaitGroup
			for i := range claimed {
				callers.Go(func() {
					for {
						jobs, err := c.Dequeue(c.ctx, DequeueOptions{Max: 7, NoWait: true})
						if err != nil || len(jobs) == 0 {
							return // after an error too few jobs are claimed
						}
						claimed[i] = append(claimed[i], jobs...)
					}
				})
			}
			callers.Wait()
			claims := make(map[string]int)
			for _, job := range slices.Concat(claimed[:]...) {
				claims[job.ID]++
				c.wantEqual("claims of one job", claims[job.ID], 1)
			}
			c.wantEqual("jobs claimed", len(claims), len(jobs))
		}},
	}
}

func fencingRules() []storageRule {
	return []storageRule{
		{"a call for a lost claim changes nothing", func(c *checker) {
			c.enqueue(NewJob("a"))
			old := c.claimOne()
			c.reap(time.Millisecond, 1)
			held := c.claimOne()
			otherClaim, otherAttempt := *held, *held
			otherClaim.Claim = old.Claim
			otherAttempt.Attempts++
			c.wantLost(old)
			c.wantLost(&otherClaim)
			c.wantLost(&otherAttempt)
			c.wantLost(&Job{ID: "unknown", Task: "x"})
			c.markDone(held)
			c.wantLost(held)
		}},
		{"a lost job does not fail its batch", func(c *checker) {
			c.enqueue(NewJob("a"), NewJob("b"))
			jobs := c.claim(2)
			c.markDone(jobs[0])
			lost, err := c.MarkDone(c.ctx, jobs...)
			c.must(err)
			c.wantEqual("jobs lost by MarkDone, of one that is done and one that runs", taskNames(lost), "a")

			for _, task := range strings.Split("abcdefgh", "") {
				c.enqueue(NewJob(task))
			}
			jobs = c.claim(8) // a storage may give them all one Claim
			c.markDone(jobs[2])
			for _, verb := range []func(context.Context, ...*Job) ([]*Job, error){c.Heartbeat, c.MarkDone} {
				lost, err = verb(c.ctx, jobs...)
				c.must(err)
				c.wantEqual("jobs lost, of eight of which one is done", taskNames(lost), "c")
			}
			lost, err = c.MarkDone(c.ctx, jobs...)
			c.must(err)
			c.wantEqual("jobs lost when all are done", taskNames(lost), "a b c d e f g h")
		}},
	}
}

func leaseRules() []storageRule {
	return []storageRule{
		{"ReapStale takes back the jobs whose last heartbeat is too old, and no others", func(c *checker) {
			// Which job must live is certain only if the calls take less time than the visibility.
			for visibility := 10 * time.Millisecond; ; visibility *= 2 {
				c.enqueue(NewJob("dead"), NewJob("alive"))
				jobs := c.claim(2)
				time.Sleep(visibility + time.Millisecond)
				beat := time.Now()
				_, err := c.Heartbeat(c.ctx, jobs[1])
				c.must(err)
				reaped, err := c.ReapStale(c.ctx, visibility)
				c.must(err)
				if time.Since(beat) < visibility {
					c.wantEqual("number of jobs reaped", reaped, 1)
					c.wantEqual("job reaped", c.claimOne().Task, "dead")
					return
				}
				_, err = c.MarkDone(c.ctx, append(jobs, c.claim(reaped)...)...)
				c.must(err)
			}
		}},
		{"after a first lost lease a job is due at once, later within Attempts × visibility", func(c *checker) {
			c.enqueue(NewJob("a"), NewJob("b"), NewJob("c"), NewJob("d"))
			c.claim(4)
			c.reap(time.Millisecond, 4)
			jobs := c.claim(4)
			c.wantEqual("jobs due at once", taskNames(jobs), "a b c d")
			c.wantEqual("Error", jobs[0].Error, "lease expired")

			from, to := c.reap(5*time.Millisecond, 4)
			latest := to.Add(2 * 5 * time.Millisecond) // all are in their second attempt
			times := make(map[time.Time]bool)
			for range 4 {
				at := c.waitForOne().RunAt
				if at.Before(from) || at.After(latest) {
					c.must(fmt.Errorf("RunAt: got %v, want a time between %v and %v", at, from, latest))
				}
				times[at] = true
			}
			if len(times) == 1 {
				c.must(fmt.Errorf("RunAt: all jobs are due at the same time, want random times"))
			}
		}},
	}
}

func releaseRules() []storageRule {
	return []storageRule{
		{"Release refunds the attempt, uses up the Claim and sets the due time", func(c *checker) {
			c.enqueue(NewJob("a"), NewJob("b"))
			old := c.claim(2)
			c.release(time.Time{}, nil, old...)
			jobs := c.claim(2)
			c.wantEqual("jobs due at once", taskNames(jobs), "a b")
			c.wantEqual("Attempts", jobs[1].Attempts, 1)
			c.wantEqual("Claim grew", jobs[1].Claim > old[1].Claim, true)
			c.wantEqual("Error", jobs[1].Error, "")

			due := time.Now().Add(10 * time.Millisecond)
			c.release(due, errCheck, jobs[0])
			c.release(time.Now().Add(time.Hour), nil, jobs[1])
			c.wantSize(2)
			job := c.waitForOne()
			c.wantNotBefore(due)
			c.wantEqual("job due later", job.Task, "a")
			c.wantEqual("Error with a cause", job.Error, errCheck.Error())
			c.wantEqual("Attempts", job.Attempts, 1)
			c.wantEqual("jobs due an hour early", c.claimDue(9), "")
		}},
	}
}

func cancelRules() []storageRule {
	return []storageRule{
		{"Cancel ends a PENDING job at once without a dead letter", optional(func(c *checker, k Canceler) {
			c.enqueue(
				NewJob("stays"),
				&Job{ID: "1", Task: "a", Key: "k"},
				&Job{ID: "2", Task: "b", RunAt: time.Now().Add(time.Hour)},
				&Job{ID: "3", Task: "c", Queue: "q"},
			)
			c.cancel(k, canceled{ended: "1 2 3"}, "1", "unknown", "2", "3")
			c.cancel(k, canceled{}, "1", "unknown")
			c.wantSize(1)
			c.wantEndedAsCanceled("1")
			c.wantEndedAsCanceled("2")
			c.wantEndedAsCanceled("3")
			c.enqueue(&Job{ID: "4", Task: "d", Key: "k"})
			c.wantEqual("jobs due", c.claimDue(9), "stays d")
		})},
		{"a RUNNING job that was canceled ends with its claim", optional(func(c *checker, k Canceler) {
			for _, verb := range []struct {
				name string
				call func(*Job) error
				want error
			}{
				{"MarkFailed", func(job *Job) error {
					return c.MarkFailed(c.ctx, job, errCheck, time.Time{})
				}, ErrCanceled},
				{"DeadLetter", func(job *Job) error {
					return c.DeadLetter(c.ctx, job, errCheck)
				}, ErrCanceled},
				{"DeadLetter of a job that was not run", func(job *Job) error {
					return c.DeadLetter(c.ctx, job, ErrAttemptsUsedUp)
				}, ErrCanceled},
				{"Release", func(job *Job) error {
					_, canceled, err := c.Release(c.ctx, time.Time{}, nil, job)
					c.wantEqual("jobs that ended by Release", taskNames(canceled), "a")
					return err
				}, nil},
				{"ReapStale", func(*Job) error {
					c.reap(time.Millisecond, 1)
					return nil
				}, nil},
			} {
				id := verb.name
				c.enqueue(&Job{ID: id, Task: "a", Key: "k"})
				job := c.claimOne()
				c.cancel(k, canceled{asked: id}, id)
				c.cancel(k, canceled{asked: id}, id)
				c.wantError("Enqueue with the Key", c.Enqueue(c.ctx, &Job{Task: "b", Key: "k"}), ErrDuplicate)

				c.wantError(verb.name, verb.call(job), verb.want)
				c.wantEndedAsCanceled(id)
				c.wantEqual("jobs due after "+verb.name, c.claimDue(9), "")
				lost, err := c.MarkDone(c.ctx, job)
				c.must(err)
				c.wantEqual("jobs lost by MarkDone after "+verb.name, taskNames(lost), "a")
			}
		})},
		{"MarkDone of a job that was canceled counts", optional(func(c *checker, k Canceler) {
			c.enqueue(&Job{ID: "1", Task: "a"})
			job := c.claimOne()
			c.cancel(k, canceled{asked: "1"}, "1")
			c.markDone(job)
			c.cancel(k, canceled{}, "1")
			if in, ok := c.Storage.(Inspector); ok {
				c.wantEqual("Status", c.get(in, "1").Status, StatusSuccess)
			}
		})},
		{"Canceled returns the claimed jobs that were canceled", optional(func(c *checker, k Canceler) {
			c.enqueue(
				&Job{ID: "1", Task: "a"},
				&Job{ID: "2", Task: "b"},
				&Job{ID: "3", Task: "c"},
				&Job{ID: "4", Task: "waits"},
			)
			jobs := c.claim(3)
			c.wantCanceled(k, "", jobs...)
			c.cancel(k, canceled{ended: "4", asked: "1 3"}, "1", "3", "4")
			c.wantCanceled(k, "a", jobs[0], jobs[1])
			c.wantCanceled(k, "c", jobs[2])
			lost, err := c.Heartbeat(c.ctx, jobs...)
			c.must(err)
			c.wantEqual("jobs lost by Heartbeat", taskNames(lost), "")

			otherClaim, otherAttempt := *jobs[0], *jobs[0]
			otherClaim.Claim--
			otherAttempt.Attempts++
			c.wantCanceled(k, "", &otherClaim, &otherAttempt)
			c.wantCanceled(k, "", &Job{ID: "unknown", Task: "x"}, &Job{ID: "4", Task: "waits"})
			c.markDone(jobs[0])
			c.wantCanceled(k, "c", jobs...)
		})},
	}
}

func inspectRules() []storageRule {
	return []storageRule{
		{"Get returns a job at every step of its life", optional(func(c *checker, in Inspector) {
			_, err := in.Get(c.ctx, "1")
			c.wantError("Get of a job that does not exist", err, ErrNotFound)

			c.enqueue(&Job{ID: "1", Task: "a"})
			c.wantState(in, "1", state{status: StatusPending})
			job := c.claimOne()
			c.wantState(in, "1", state{status: StatusRunning, attempts: 1})
			c.retry(job)
			c.wantState(in, "1", state{status: StatusPending, attempts: 1, err: errCheck.Error()})
			job = c.claimOne()
			job.Result = json.RawMessage("[2]")
			c.markDone(job)
			c.wantState(in, "1", state{StatusSuccess, 2, errCheck.Error(), "[2]", true})
		})},
		{"Jobs lists what matches the filter, in the order of age", optional(func(c *checker, in Inspector) {
			jobs := make([]*Job, 250)
			for i := range jobs {
				jobs[i] = &Job{Task: fmt.Sprint("t", i), Queue: fmt.Sprint("q", i%2), Priority: i % 3}
			}
			c.enqueue(jobs...)
			running := c.claimDue(3, "q1")
			for _, listing := range []struct {
				filter Filter
				want   string
			}{
				{Filter{}, taskNames(jobs)},
				{Filter{Limit: 3}, "t0 t1 t2"},
				{Filter{IDs: []string{jobs[9].ID, jobs[5].ID, "x"}}, "t5 t9"},
				{Filter{Task: "T249"}, "t249"},
				{Filter{Queue: "q1", Status: StatusPending, Limit: 4}, "t1 t3 t7 t9"},
				{Filter{Status: StatusRunning}, running},
				{Filter{Queue: "q0", Status: StatusRunning}, ""},
			} {
				c.wantJobs(in, listing.filter, listing.want)
			}
		})},
		{"Stats counts jobs by queue and by task", optional(func(c *checker, in Inspector) {
			pending := &Job{Task: "x", Queue: "b", RunAt: time.Now().Add(time.Hour)}
			c.enqueue(pending)
			c.enqueue(&Job{Task: "y", Queue: "b"})
			c.enqueue(&Job{Task: "x", Queue: "a"}, &Job{Task: "x", Queue: "a"}, &Job{Task: "x", Queue: "a"})
			claimed := c.claim(4)
			c.markDone(claimed[2])
			c.markDone(claimed[1])
			c.deadLetter(claimed[3])

			stats, err := in.Stats(c.ctx)
			c.must(err)
			finished := Counts{Success: 2, Failed: 1, SuccessHour: 2, FailedHour: 1, Minute: 3}
			all, x := finished, finished
			all.Pending, all.Running, all.Oldest = 1, 1, pending.CreatedAt
			x.Pending, x.Oldest = 1, pending.CreatedAt
			c.wantEqual("Total", stats.Total, all)
			c.wantEqual("Queues", stats.Queues, []QueueStats{
				{"a", finished},
				{"b", Counts{Pending: 1, Running: 1, Oldest: pending.CreatedAt}},
			})
			c.wantEqual("Tasks", stats.Tasks, []TaskStats{{"x", x}, {"y", Counts{Running: 1}}})
			c.wantEqual("DeadLetters", stats.DeadLetters, 1)
			lastMinute := 0
			for _, n := range stats.LastMinute {
				lastMinute += n
			}
			c.wantEqual("sum of LastMinute", lastMinute, 3)
		})},
		{"Prune deletes finished jobs, and no dead letters", optional(func(c *checker, in Inspector) {
			c.enqueue(NewJob("dead"), NewJob("purged"), NewJob("done"), NewJob("running"), NewJob("pending"))
			jobs := c.claim(4)
			c.deadLetter(jobs[0])
			c.deadLetter(jobs[1])
			c.markDone(jobs[2])

			n, err := in.Prune(c.ctx, jobs[2].CreatedAt)
			c.must(err)
			c.wantEqual("jobs pruned that finished before they were created", n, 0)
			n, err = in.Purge(c.ctx, Filter{Task: "purged"})
			c.must(err)
			c.wantEqual("dead letters purged", n, 1)
			c.wantEqual("dead letters left", c.deadLetters(in), "dead")
			c.wantJobs(in, Filter{}, "dead purged done running pending")
			n, err = in.Prune(c.ctx, time.Now().Add(time.Hour))
			c.must(err)
			c.wantEqual("jobs pruned", n, 2)
			c.wantJobs(in, Filter{}, "dead running pending")
		})},
	}
}

func deadLetterRules() []storageRule {
	return []storageRule{
		{"a dead letter keeps the job; Replay returns it with no attempts", optional(func(c *checker, in Inspector) {
			c.enqueue(&Job{
				ID:       "1",
				Task:     "a",
				Args:     []any{1},
				Kwargs:   map[string]any{"x": 2},
				Queue:    "q",
				Priority: 3,
				Key:      "k",
			})
			usedUp := fmt.Errorf("no more: %w", ErrAttemptsUsedUp)
			for _, death := range []struct {
				cause    error
				attempts int
			}{
				{errCheck, 2},
				{usedUp, 1}, // this claim did not run the job
			} {
				c.retry(c.claimOne())
				job := c.claimOne()
				c.wantEqual("Attempts", job.Attempts, 2)
				c.must(c.DeadLetter(c.ctx, job, death.cause))
				c.wantEqual("jobs due after DeadLetter", c.claimDue(1), "")

				job.Status = StatusFailed
				job.Error = death.cause.Error()
				job.Attempts = death.attempts
				letters := c.list(in.DeadLetters(c.ctx, Filter{}))
				c.wantEqual("number of dead letters", len(letters), 1)
				c.wantEqual("dead letter", describe(letters[0]), describe(job))
				failed := c.get(in, "1")
				c.wantEqual("failed job", describe(failed), describe(job))
				c.wantEqual("FinishedAt", letters[0].FinishedAt, failed.FinishedAt)

				n, err := in.Replay(c.ctx, Filter{})
				c.must(err)
				c.wantEqual("jobs replayed", n, 1)
				c.wantEqual("dead letters after Replay", c.deadLetters(in), "")
				job.Status = StatusPending
				job.Error = ""
				job.Attempts = 0
				c.wantEqual("replayed job", describe(c.get(in, "1")), describe(job))
				c.wantError("Enqueue with the Key", c.Enqueue(c.ctx, &Job{Task: "b", Key: "k"}), ErrDuplicate)
			}
		})},
		{"Replay takes the oldest first, and no job whose Key is taken", optional(func(c *checker, in Inspector) {
			c.enqueue(NewJob("a"), &Job{Task: "b", Key: "k"}, NewJob("c"), NewJob("d"))
			jobs := c.claim(4)
			c.deadLetter(jobs[1])
			c.deadLetter(jobs[0])
			c.deadLetter(jobs[3])
			c.deadLetter(jobs[2])
			c.wantEqual("dead letters", c.deadLetters(in), "b a d c")
			c.enqueue(&Job{Task: "e", Key: "k"})
			for _, replay := range []struct {
				filter Filter
				want   string
			}{
				{Filter{Limit: 1}, "b d c"},
				{Filter{Task: "C"}, "b d"},
				{Filter{IDs: []string{jobs[3].ID}}, "b"},
				{Filter{}, "b"},
			} {
				_, err := in.Replay(c.ctx, replay.filter)
				c.must(err)
				c.wantEqual(fmt.Sprintf("dead letters left by %+v", replay.filter), c.deadLetters(in), replay.want)
			}
			c.wantEqual("jobs due", c.claimDue(9), "a c d e")
		})},
	}
}

func closeRules() []storageRule {
	return []storageRule{
		{"after Close every call returns ErrClosed, and so does a Dequeue that waits", func(c *checker) {
			waiting := c.startDequeue(c.ctx, DequeueOptions{Max: 1})
			c.must(c.Close())
			job := NewJob("a")
			var err error
			_, err = waiting.end()
			c.wantError("Dequeue that waits", err, ErrClosed)
			_, err = c.Dequeue(c.ctx, DequeueOptions{Max: 1})
			c.wantError("Dequeue", err, ErrClosed)
			c.wantError("Enqueue", c.Enqueue(c.ctx, job), ErrClosed)
			_, err = c.Heartbeat(c.ctx)
			c.wantError("Heartbeat", err, ErrClosed)
			_, err = c.MarkDone(c.ctx)
			c.wantError("MarkDone", err, ErrClosed)
			c.wantError("MarkFailed", c.MarkFailed(c.ctx, job, errCheck, time.Time{}), ErrClosed)
			c.wantError("DeadLetter", c.DeadLetter(c.ctx, job, errCheck), ErrClosed)
			_, _, err = c.Release(c.ctx, time.Time{}, nil)
			c.wantError("Release", err, ErrClosed)
			_, err = c.ReapStale(c.ctx, time.Hour)
			c.wantError("ReapStale", err, ErrClosed)
			_, err = c.Size(c.ctx)
			c.wantError("Size", err, ErrClosed)
			if k, ok := c.Storage.(Canceler); ok {
				_, _, err = k.Cancel(c.ctx, "1")
				c.wantError("Cancel", err, ErrClosed)
				_, err = k.Canceled(c.ctx, job)
				c.wantError("Canceled", err, ErrClosed)
			}
		}},
	}
}

// ---- The steps of the rules ----

// checker is the storage under check, with steps that end the check when something is not as it should be.
// Those that begin with want compare; the others do what they are named after, and expect it to go well.
type checker struct {
	Storage
	ctx context.Context
}

// checkFailure is the panic that ends a check. checkRule recovers it.
type checkFailure struct{ error }

// errCheck is the cause with which the rules fail jobs.
var errCheck = errors.New("failed by CheckStorage")

// optional makes a rule of one about an interface that a storage need not implement.
func optional[T any](check func(*checker, T)) func(*checker) {
	return func(c *checker) {
		if s, ok := c.Storage.(T); ok {
			check(c, s)
		}
	}
}

// must ends the check if err is not nil.
func (c *checker) must(err error) {
	if err != nil {
		panic(checkFailure{err})
	}
}

func (c *checker) wantEqual(what string, got, want any) {
	if !reflect.DeepEqual(got, want) {
		c.must(fmt.Errorf("%s: got %v, want %v", what, got, want))
	}
}

func (c *checker) wantError(what string, got, want error) {
	if !errors.Is(got, want) {
		c.must(fmt.Errorf("%s: got error %v, want one that matches %v", what, got, want))
	}
}

func (c *checker) enqueue(jobs ...*Job) { c.must(c.Enqueue(c.ctx, jobs...)) }

// claim claims n jobs, which must be due.
func (c *checker) claim(n int) []*Job {
	jobs, err := c.Dequeue(c.ctx, DequeueOptions{Max: n, NoWait: true})
	c.must(err)
	c.wantEqual("number of jobs due", len(jobs), n)
	return jobs
}

func (c *checker) claimOne() *Job { return c.claim(1)[0] }

// claimDue claims up to n jobs that are due and returns their names.
func (c *checker) claimDue(n int, queues ...string) string {
	jobs, err := c.Dequeue(c.ctx, DequeueOptions{Max: n, Queues: queues, NoWait: true})
	c.must(err)
	return taskNames(jobs)
}

// waitForOne claims one job and waits until it is due.
func (c *checker) waitForOne() *Job {
	jobs, err := c.Dequeue(c.ctx, DequeueOptions{Max: 1})
	c.must(err)
	c.wantEqual("number of jobs that Dequeue waited for", len(jobs), 1)
	return jobs[0]
}

// waitingDequeue is a call of Dequeue in a goroutine.
type waitingDequeue struct {
	ended chan struct{} // closed when the fields below are set
	jobs  []*Job
	err   error
}

// startDequeue calls Dequeue in a goroutine and gives it a moment to begin to wait. If the moment is too
// short the check is weaker, but it fails no correct storage.
func (c *checker) startDequeue(ctx context.Context, opts DequeueOptions) *waitingDequeue {
	w := &waitingDequeue{ended: make(chan struct{})}
	go func() {
		defer close(w.ended)
		w.jobs, w.err = c.Dequeue(ctx, opts)
	}()
	time.Sleep(3 * time.Millisecond)
	return w
}

// end waits for the call to end and returns its results.
func (w *waitingDequeue) end() ([]*Job, error) {
	<-w.ended
	return w.jobs, w.err
}

// mustEnd returns the names of the jobs that a Dequeue has waited for.
func (c *checker) mustEnd(w *waitingDequeue) string {
	jobs, err := w.end()
	c.must(err)
	return taskNames(jobs)
}

func (c *checker) markDone(jobs ...*Job) {
	lost, err := c.MarkDone(c.ctx, jobs...)
	c.must(err)
	c.wantEqual("jobs lost by MarkDone", taskNames(lost), "")
}

// retry fails a job so that it is due again at once.
func (c *checker) retry(job *Job) { c.must(c.MarkFailed(c.ctx, job, errCheck, time.Now())) }

func (c *checker) deadLetter(job *Job) { c.must(c.DeadLetter(c.ctx, job, errCheck)) }

func (c *checker) release(at time.Time, cause error, jobs ...*Job) {
	lost, canceled, err := c.Release(c.ctx, at, cause, jobs...)
	c.must(err)
	c.wantEqual("jobs lost by Release", taskNames(lost), "")
	c.wantEqual("jobs that ended by Release", taskNames(canceled), "")
}

// reap calls ReapStale until it has taken back n jobs in all. It returns the times between which that
// happened.
func (c *checker) reap(visibility time.Duration, n int) (from, to time.Time) {
	from = asStored(time.Now())
	for reaped := 0; reaped < n; {
		time.Sleep(2 * visibility)
		got, err := c.ReapStale(c.ctx, visibility)
		c.must(err)
		c.must(c.ctx.Err())
		reaped += got
	}
	return from, time.Now()
}

func (c *checker) wantSize(want int) {
	n, err := c.Size(c.ctx)
	c.must(err)
	c.wantEqual("Size", n, want)
}

// wantNotBefore checks that a time, as a storage keeps it, has come.
func (c *checker) wantNotBefore(due time.Time) {
	now := time.Now()
	if now.Before(asStored(due)) {
		c.must(fmt.Errorf("claimed at %v, before the due time %v", now, due))
	}
}

// wantDuplicate checks that the job cannot be enqueued, alone or in a batch.
func (c *checker) wantDuplicate(job *Job, want DuplicateError) {
	got, _ := errors.AsType[*DuplicateError](c.Enqueue(c.ctx, job))
	c.wantEqual("error of Enqueue", got, &want)
	batch := make([]*Job, 8)
	for i := range batch {
		batch[i] = NewJob("other")
	}
	batch[5] = job
	got, _ = errors.AsType[*DuplicateError](c.Enqueue(c.ctx, batch...))
	c.wantEqual("error of Enqueue for a batch", got, &want)
}

// wantLost checks that every verb calls the job lost.
func (c *checker) wantLost(job *Job) {
	size, err := c.Size(c.ctx)
	c.must(err)
	lost, err := c.Heartbeat(c.ctx, job)
	c.must(err)
	c.wantEqual("jobs lost by Heartbeat", taskNames(lost), job.Task)
	lost, err = c.MarkDone(c.ctx, job)
	c.must(err)
	c.wantEqual("jobs lost by MarkDone", taskNames(lost), job.Task)
	lost, _, err = c.Release(c.ctx, time.Time{}, nil, job)
	c.must(err)
	c.wantEqual("jobs lost by Release", taskNames(lost), job.Task)
	c.wantError("MarkFailed", c.MarkFailed(c.ctx, job, errCheck, time.Time{}), ErrLeaseLost)
	c.wantError("DeadLetter", c.DeadLetter(c.ctx, job, errCheck), ErrLeaseLost)
	c.wantSize(size)
}

// wantClaimedAhead checks what Dequeue claims with opts that allow claims ahead of free slots. A storage
// may claim fewer jobs ahead, or none. The claims are given back.
func (c *checker) wantClaimedAhead(when string, opts DequeueOptions, want string) {
	jobs, err := c.Dequeue(c.ctx, opts)
	c.must(err)
	got := taskNames(jobs)
	fewer := len(jobs) >= opts.Max-opts.Ahead && (got == "" || strings.HasPrefix(want+" ", got+" "))
	if !fewer {
		c.wantEqual("jobs claimed when "+when, got, want)
	}
	c.release(time.Time{}, nil, jobs...)
}

// wantWorker checks the Worker of a stored job, if the storage can be asked.
func (c *checker) wantWorker(when, id, want string) {
	if in, ok := c.Storage.(Inspector); ok {
		c.wantEqual("stored Worker "+when, c.get(in, id).Worker, want)
	}
}

// canceled is what a call of Cancel returns: ids, separated by spaces.
type canceled struct{ ended, asked string }

// cancel calls Cancel and checks what it returns.
func (c *checker) cancel(k Canceler, want canceled, ids ...string) {
	ended, asked, err := k.Cancel(c.ctx, ids...)
	c.must(err)
	c.wantEqual("jobs that ended by Cancel", strings.Join(ended, " "), want.ended)
	c.wantEqual("jobs that Cancel asked to end", strings.Join(asked, " "), want.asked)
}

// wantCanceled checks which of the jobs Canceled returns.
func (c *checker) wantCanceled(k Canceler, want string, jobs ...*Job) {
	got, err := k.Canceled(c.ctx, jobs...)
	c.must(err)
	c.wantEqual("Canceled of the jobs "+taskNames(jobs), taskNames(got), want)
}

// wantEndedAsCanceled checks that a job has ended because it was canceled, if the storage can be asked.
func (c *checker) wantEndedAsCanceled(id string) {
	in, ok := c.Storage.(Inspector)
	if !ok {
		return
	}
	job := c.get(in, id)
	c.wantEqual("Status", job.Status, StatusFailed)
	c.wantEqual("Error", job.Error, ErrCanceled.Error())
	c.wantEqual("Canceled", job.Canceled, true)
	c.wantEqual("FinishedAt is set", !job.FinishedAt.IsZero(), true)
	c.wantEqual("dead letters", c.deadLetters(in), "")
}

func (c *checker) get(in Inspector, id string) *Job {
	job, err := in.Get(c.ctx, id)
	c.must(err)
	return job
}

// list returns all jobs of a listing.
func (c *checker) list(listing iter.Seq2[*Job, error]) []*Job {
	var jobs []*Job
	for job, err := range listing {
		c.must(err)
		jobs = append(jobs, job)
	}
	return jobs
}

// wantJobs checks which jobs Jobs lists.
func (c *checker) wantJobs(in Inspector, f Filter, want string) {
	got := taskNames(c.list(in.Jobs(c.ctx, f)))
	c.wantEqual(fmt.Sprintf("jobs of %+v", f), got, want)
}

// deadLetters returns the names of all jobs in the dead-letter queue.
func (c *checker) deadLetters(in Inspector) string {
	return taskNames(c.list(in.DeadLetters(c.ctx, Filter{})))
}

// state is what changes in the life of a job.
type state struct {
	status   Status
	attempts int
	err      string
	result   string
	finished bool // FinishedAt is set
}

func (c *checker) wantState(in Inspector, id string, want state) {
	job := c.get(in, id)
	got := state{job.Status, job.Attempts, job.Error, string(job.Result), !job.FinishedAt.IsZero()}
	c.wantEqual("job "+id, got, want)
}

// describe returns what a dead letter must keep of a job.
func describe(job *Job) string {
	return fmt.Sprintf("%s %s%s %s, queue %s, priority %d, key %s, %s after %d attempts, error %q",
		job.ID, job.Task, job.Args, job.Kwargs, job.Queue, job.Priority, job.Key,
		job.Status, job.Attempts, job.Error)
}

// taskNames returns the names of the jobs' tasks, separated by spaces.
func taskNames(jobs []*Job) string {
	var names []string
	for _, job := range jobs {
		names = append(names, job.Task)
	}
	return strings.Join(names, " ")
}

// asStored returns a time as every storage keeps it: in UTC and whole microseconds.
func asStored(t time.Time) time.Time { return t.UTC().Truncate(time.Microsecond) }

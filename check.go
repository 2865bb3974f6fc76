package pinion

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"maps"
	"math"
	"reflect"
	"slices"
	"strings"
	"sync"
	"time"
)

// CheckStorage reports whether a storage does what [Storage] says.
//
// It also checks [Canceler], [Inspector] and [Limiter] if the storage implements them, see [As]. It calls
// open once for each rule and closes the storages. They must be empty. The error joins all failures; each
// begins with the rule that is broken. In a test:
//
//	if err := pinion.CheckStorage(ctx, open); err != nil {
//		t.Error(err)
//	}
//
// It makes about a thousand calls and takes a second or so. No rule is about speed, so a slow machine
// breaks none. Give ctx a deadline: a storage that never wakes a waiting Dequeue keeps CheckStorage waiting
// until then.
func CheckStorage(ctx context.Context, open func() (Storage, error)) error {
	var failures []error
	for _, r := range storageRules() {
		if err := ctx.Err(); err != nil {
			failures = append(failures, fmt.Errorf("pinion: CheckStorage was stopped: %w", err))
			break
		}
		if err := r.verify(ctx, open); err != nil {
			failures = append(failures, err)
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
		dueTimeRules(),
		contextRules(),
		taskRules(),
		enqueueRules(),
		keyRules(),
		argumentRules(),
		claimRules(),
		fencingRules(),
		leaseRules(),
		releaseRules(),
		progressRules(),
		cancelRules(),
		inspectRules(),
		filterRules(),
		pageRules(),
		deadLetterRules(),
		limitRules(),
		closeRules(),
	)
}

// verify returns an error that begins with the rule if a storage breaks it.
func (r storageRule) verify(ctx context.Context, open func() (Storage, error)) error {
	if err := checkRule(ctx, open, r.check); err != nil {
		return fmt.Errorf("%s: %w", r.rule, err)
	}
	return nil
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
				c.must(fmt.Errorf("with Max 0: got %d jobs and error %v, want an error", len(jobs), err))
			}
			c.wantEqual("the first two jobs", c.claimDue(2), "a b")
			c.wantEqual("the rest", c.claimDue(2), "c")
		}},
		{"of many jobs that become due at once the most urgent comes first", func(c *checker) {
			due := time.Now().Add(50 * time.Millisecond)
			jobs := manyJobs("a", 1500) // more than a storage may make ready at once
			for _, job := range jobs {
				job.RunAt = due
			}
			jobs[1499].Task = "urgent"
			jobs[1499].Priority = 100
			c.enqueue(jobs...)
			time.Sleep(time.Until(due))
			c.wantEqual("first job", c.waitForOne().Task, "urgent")
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

			c.enqueue(NewJob("released"))
			released := c.claimOne()
			waiting = c.startDequeue(c.ctx, DequeueOptions{Max: 1, Lease: shortLease})
			c.release(time.Time{}, nil, released)
			c.wantEqual("job that is released", c.mustEnd(waiting), "released")

			waiting = c.startDequeue(c.ctx, DequeueOptions{Max: 1})
			c.reap(1)
			c.wantEqual("job that is taken back", c.mustEnd(waiting), "released")
		}},
		{"a Dequeue that waits returns when a job is replayed", optional(func(c *checker, in Inspector) {
			c.enqueue(NewJob("a"))
			c.deadLetter(c.claimOne())
			waiting := c.startDequeue(c.ctx, DequeueOptions{Max: 1})
			_, err := in.Replay(c.ctx, Filter{})
			c.must(err)
			c.wantEqual("job that is replayed", c.mustEnd(waiting), "a")
		})},
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
		{"a due time that JSON cannot write becomes the last second of the year 9999", optional(func(c *checker, in Inspector) {
			last := time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC)
			for _, far := range []time.Time{time.Date(10000, 1, 1, 0, 0, 0, 0, time.UTC), time.Unix(1<<57, 0)} {
				c.enqueue(NewJob("failed"), NewJob("released"), NewJob("rescheduled"))
				jobs := c.claim(2)
				c.must(c.MarkFailed(c.ctx, jobs[0], errCheck, far))
				c.release(far, nil, jobs[1])
				n, err := in.Reschedule(c.ctx, Filter{Task: "rescheduled"}, far)
				c.must(err)
				c.wantEqual("jobs rescheduled", n, 1)
				c.wantEqual("jobs that are due", c.claimDue(9), "")
				for _, job := range c.list(in.Jobs(c.ctx, Filter{})) {
					c.wantEqual("RunAt of the job that was "+job.Task, job.RunAt, last)
				}
				_, _, err = in.CancelWhere(c.ctx, Filter{})
				c.must(err)
				_, err = in.PruneWhere(c.ctx, Filter{})
				c.must(err)
			}
			c.enqueue(NewJob("a"))
			c.must(c.MarkFailed(c.ctx, c.claimOne(), errCheck, time.Date(-5, 1, 1, 0, 0, 0, 0, time.UTC)))
			c.wantEqual("job that has been due since before the year 1", c.claimDue(9), "a")
		})},
		{"a due time at the start of 1970 is stored as none", optional(func(c *checker, in Inspector) {
			start := time.Unix(0, 0)
			c.enqueue(NewJob("failed"), NewJob("released"), NewJob("rescheduled"), &Job{Task: "enqueued", RunAt: start})
			jobs := c.claim(2)
			c.must(c.MarkFailed(c.ctx, jobs[0], errCheck, start))
			c.release(start, nil, jobs[1])
			_, err := in.Reschedule(c.ctx, Filter{Task: "rescheduled"}, start)
			c.must(err)
			for _, job := range c.list(in.Jobs(c.ctx, Filter{})) {
				c.wantEqual("RunAt of the job that was "+job.Task, job.RunAt, time.Time{})
			}
			c.wantEqual("jobs that are due", c.claimDue(9), "failed released rescheduled enqueued")
		})},
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

func taskRules() []storageRule {
	return []storageRule{
		{"Dequeue claims only the Tasks that it is given, whatever the case of their letters", func(c *checker) {
			// U+212A is the Kelvin sign. strings.EqualFold takes it for a K, and other rules do not.
			c.enqueue(NewJob("other"), NewJob("ΣΑΣ"), NewJob("\u212Aelvin"), NewJob("add"), NewJob("Add"))
			jobs := c.claimUpTo(9, DequeueOptions{Tasks: []string{"kelvin", "σας"}})
			c.wantEqual("jobs of the tasks kelvin and σας", taskNames(jobs), "ΣΑΣ \u212Aelvin")
			jobs = c.claimUpTo(9, DequeueOptions{Tasks: []string{"ADD"}})
			c.wantEqual("jobs of the task ADD", taskNames(jobs), "add Add")
			c.wantEqual("jobs of all tasks", c.claimDue(9), "other")
		}},
		{"jobs of tasks that Dequeue is not given stay as they are", func(c *checker) {
			c.enqueue(&Job{ID: "1", Task: "unknown", Priority: 9}, NewJob("known"))
			jobs := c.claimUpTo(9, DequeueOptions{Tasks: []string{"known"}})
			c.wantEqual("jobs of the task", taskNames(jobs), "known")
			c.wantSize(1)
			waiting := c.startDequeue(c.ctx, DequeueOptions{Max: 1, Tasks: []string{"known"}})
			c.enqueue(NewJob("unknown"), NewJob("known"))
			c.wantEqual("job that ends the wait", c.mustEnd(waiting), "known")
			if in, ok := As[Inspector](c.Storage); ok {
				job := c.get(in, "1")
				c.wantEqual("Status", job.Status, StatusPending)
				c.wantEqual("Attempts", job.Attempts, 0)
				c.wantEqual("RunAt", job.RunAt, time.Time{})
			}
			c.wantEqual("jobs of all tasks", c.claimDue(9), "unknown unknown")
		}},
		{"many jobs of other tasks delay nobody, and keep their order", func(c *checker) {
			unknown := manyJobs("unknown", 1500) // more than a storage may look past
			for _, job := range unknown {
				job.Priority = 5
			}
			unknown[1200].Task = "top"
			unknown[1200].Priority = 9
			c.enqueue(unknown...)
			c.enqueue(NewJob("known"))
			jobs := c.dequeue(DequeueOptions{Max: 9, Tasks: []string{"known"}}) // waits if need be
			c.wantEqual("jobs of the task that stands behind", taskNames(jobs), "known")

			c.enqueue(&Job{Task: "unknown", Priority: 7})
			others := DequeueOptions{Tasks: []string{"unknown", "top"}}
			jobs = c.claimAll(2, others)
			c.wantEqual("priorities of the other tasks", priorities(jobs), "9 7")
			jobs = c.claimAll(2, others)
			c.wantEqual("priorities behind them", priorities(jobs), "5 5")
			c.wantEqual("ages behind them", jobs[0].ID == unknown[0].ID && jobs[1].ID == unknown[1].ID, true)
			c.enqueue(&Job{Task: "new", Priority: 1})
			jobs = c.claim(1501 - 4 + 1)
			c.wantEqual("the last of all tasks", jobs[len(jobs)-1].Task, "new")
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
				{NewJob("a\x00"), ErrBadArgs},
				{&Job{ID: "a\x00", Task: "b"}, ErrBadArgs},
				{&Job{Task: "b", Queue: "a\x00"}, ErrBadArgs},
				{&Job{Task: "b", Key: "a\x00"}, ErrBadArgs},
				{NewJob(strings.Repeat("x", 1<<10+1)), ErrBadArgs},
				{&Job{ID: strings.Repeat("x", 1<<10+1), Task: "b"}, ErrBadArgs},
				{&Job{Task: "b", Queue: strings.Repeat("x", 1<<10+1)}, ErrBadArgs},
				{&Job{Task: "b", Key: strings.Repeat("x", 1<<10+1)}, ErrBadArgs},
				{&Job{Task: "b", Key: "periodic:mine"}, ErrBadArgs},
				{&Job{Task: "b", Meta: map[string]string{"k": "a\x00"}}, ErrBadArgs},
				{&Job{Task: "b", Meta: map[string]string{"k": strings.Repeat("x", 4<<10)}}, ErrTooLarge},
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
		{"Enqueue refuses to store one *Job twice", func(c *checker) {
			job := NewJob("a")
			c.wantError("Enqueue(ctx, job, job)", c.Enqueue(c.ctx, job, job), ErrDuplicate)
			c.wantSize(0)
		}},
		{"names may have 1 KiB", func(c *checker) {
			name := strings.Repeat("x", 1<<10)
			c.enqueue(&Job{ID: name, Task: name, Queue: name, Key: name})
			job := c.claimOne()
			same := job.ID == name && job.Task == name && job.Queue == name && job.Key == name
			c.wantEqual("names that come back as they were stored", same, true)
		}},
	}
}

func keyRules() []storageRule {
	return []storageRule{
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
		{"a job with KeyUntilStart gives up its Key for good when it is first claimed", func(c *checker) {
			for _, verb := range []struct {
				name string
				call func(*Job)
			}{
				{"MarkFailed", func(job *Job) { c.retry(job) }},
				{"Release", func(job *Job) { c.release(time.Time{}, nil, job) }},
				{"ReapStale", func(*Job) { c.reap(1) }},
			} {
				id := verb.name
				c.enqueue(&Job{ID: id, Task: "a", Key: "k", KeyUntilStart: true})
				c.wantDuplicate(&Job{Task: "b", Key: "k"}, DuplicateError{ID: id, Key: "k"})
				job := c.claimShortly(1)[0]
				c.wantEqual("Key", job.Key, "k")
				c.wantEqual("KeyUntilStart", job.KeyUntilStart, true)
				verb.call(job)

				next := &Job{Task: "b", Key: "k"}
				c.enqueue(next)
				job = c.claimOne()
				c.wantEqual("older job", job.ID, id)
				c.wantDuplicate(&Job{Task: "c", Key: "k"}, DuplicateError{ID: next.ID, Key: "k"})
				c.markDone(job)
				c.wantDuplicate(&Job{Task: "c", Key: "k"}, DuplicateError{ID: next.ID, Key: "k"})
				c.markDone(c.claimOne())
			}
		}},
		{"Replay of a job with KeyUntilStart takes no Key", optional(func(c *checker, in Inspector) {
			c.enqueue(&Job{Task: "a", Key: "k", KeyUntilStart: true})
			c.deadLetter(c.claimOne())
			c.enqueue(&Job{ID: "2", Task: "b", Key: "k"})
			n, err := in.Replay(c.ctx, Filter{})
			c.must(err)
			c.wantEqual("jobs replayed", n, 1)
			job := c.claimOne()
			c.wantEqual("KeyUntilStart", job.KeyUntilStart, true)
			c.markDone(job)
			c.wantDuplicate(&Job{Task: "c", Key: "k"}, DuplicateError{ID: "2", Key: "k"})
		})},
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
		{"Meta comes back as it was stored", func(c *checker) {
			meta := map[string]string{"traceparent": "00-1-2-01", "<é>": ""}
			want := maps.Clone(meta)
			c.enqueue(&Job{Task: "a", Meta: meta}, NewJob("b"))
			meta["traceparent"] = "changed"
			for range 2 { // the second time after the first copy was changed
				job := c.claimOne()
				c.wantEqual("Meta", job.Meta, want)
				job.Meta["traceparent"] = "changed"
				c.retry(job)
			}
			c.claimOne()
			c.wantEqual("size of the Meta of a job without any", len(c.claimOne().Meta), 0)
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
			waiting := c.startDequeue(c.ctx, DequeueOptions{Max: 1, Worker: "waiting", Lease: shortLease})
			c.enqueue(&Job{ID: "1", Task: "a"})
			c.mustEnd(waiting)
			c.wantWorker("after a claim that waited", "1", "waiting")
			c.reap(1)
			for _, worker := range []string{"", "Ä:1"} {
				job := c.claimAll(1, DequeueOptions{Worker: worker})[0]
				c.wantEqual("Worker", job.Worker, worker)
				c.wantWorker("while the job runs", "1", worker)
				c.retry(job)
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
		{"Dequeue claims no job with KeyUntilStart ahead of free slots", func(c *checker) {
			c.enqueue(&Job{Task: "a", Priority: 1}, &Job{Task: "b", Key: "k", KeyUntilStart: true})
			c.wantClaimedAhead("the second job has KeyUntilStart", DequeueOptions{Max: 9, Ahead: 9}, "a")
			c.wantEqual("jobs due", c.claimDue(9), "a b")
		}},
		{"concurrent Dequeues claim every job, and none twice", func(c *checker) {
			jobs := manyJobs("a", 300)
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
			old := c.claimShortly(1)[0]
			c.reap(1)
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

			for task := range strings.SplitSeq("abcdefgh", "") {
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
		{"a claim lives as long as its own Lease, whatever the visibility of ReapStale", func(c *checker) {
			c.enqueue(NewJob("default"), NewJob("long"), NewJob("short"))
			jobs := c.claim(1)
			jobs = append(jobs, c.claimAll(1, DequeueOptions{Lease: time.Hour})...)
			c.claimShortly(1)
			c.wantEqual("LeaseUntil by default", jobs[0].LeaseUntil, jobs[0].HeartbeatAt.Add(10*time.Second))
			c.wantEqual("LeaseUntil of an hour", jobs[1].LeaseUntil, jobs[1].HeartbeatAt.Add(time.Hour))
			c.enqueue(NewJob("exact"))
			exact := c.claimAll(1, DequeueOptions{Lease: time.Hour + 999})[0] // no storage keeps nanoseconds
			c.wantEqual("LeaseUntil of an hour and 999ns", exact.LeaseUntil, exact.HeartbeatAt.Add(time.Hour))
			if in, ok := As[Inspector](c.Storage); ok {
				c.wantEqual("LeaseUntil that is stored", c.get(in, jobs[1].ID).LeaseUntil, jobs[1].LeaseUntil)
			}
			c.reapWith(time.Millisecond, 1)
			c.wantEqual("job taken back", c.claimDue(9), "short")
		}},
		{"a lease that has expired is taken back at the second look", func(c *checker) {
			c.enqueue(NewJob("a"))
			for range 2 { // a new claim is not doubted because of an old one
				job := c.claimShortly(1)[0]
				c.wantReaped("at the first look", 0)
				c.wantReaped("at the second look", 1)
				c.wantLost(job)
				c.retry(c.waitForOne())
			}
		}},
		{"a heartbeat between two looks keeps the claim", func(c *checker) {
			c.enqueue(NewJob("dead"), NewJob("alive"))
			jobs := c.claimShortly(2)
			c.wantReaped("at the first look", 0)
			lost, err := c.Heartbeat(c.ctx, jobs[1])
			c.must(err)
			c.wantEqual("jobs lost by Heartbeat", taskNames(lost), "")
			c.wantReaped("at the second look", 1)
			c.wantEqual("job taken back", c.claimOne().Task, "dead")
			c.markDone(jobs[1])
		}},
		{"Heartbeat prolongs the claim by its Lease", optional(func(c *checker, in Inspector) {
			c.enqueue(&Job{ID: "1", Task: "a"})
			job := c.claimAll(1, DequeueOptions{Lease: time.Minute})[0]
			time.Sleep(2 * time.Millisecond)
			_, err := c.Heartbeat(c.ctx, job)
			c.must(err)
			got := c.get(in, "1")
			c.wantEqual("HeartbeatAt grew", got.HeartbeatAt.After(job.HeartbeatAt), true)
			c.wantEqual("LeaseUntil", got.LeaseUntil, got.HeartbeatAt.Add(time.Minute))
			c.retry(job)
			c.wantEqual("LeaseUntil of a PENDING job", c.get(in, "1").LeaseUntil, time.Time{})
		})},
		{"after its first lost lease a job is due at once, later within Attempts × lease", func(c *checker) {
			c.enqueue(NewJob("a"), NewJob("b"), NewJob("c"), NewJob("d"))
			c.claimShortly(4)
			c.reap(4)
			jobs := c.claimShortly(4)
			c.wantEqual("jobs due at once", taskNames(jobs), "a b c d")
			c.wantEqual("Error", jobs[0].Error, "lease expired")

			from, to := c.reap(4)
			latest := to.Add(2 * shortLease) // all are in their second attempt
			times := make(map[time.Time]bool)
			for range 4 {
				at := c.waitForOne().RunAt
				if at.Before(from) || at.After(latest) {
					c.must(fmt.Errorf("RunAt: got %v, want a time between %v and %v", at, from, latest))
				}
				times[at] = true
			}
			if len(times) == 1 {
				c.must(errors.New("RunAt: all jobs are due at the same time, want random times"))
			}
		}},
		{"Reaped counts the leases lost one after the other", func(c *checker) {
			c.enqueue(NewJob("a"))
			for lost := range 3 {
				job := c.waitForOneShortly()
				c.wantEqual("Reaped", job.Reaped, lost)
				c.reap(1)
			}
			job := c.waitForOneShortly()
			c.wantEqual("Reaped", job.Reaped, 3)
			c.retry(job)
			job = c.claimShortly(1)[0]
			c.wantEqual("Reaped after MarkFailed", job.Reaped, 0)
			c.reap(1)
			job = c.claimOne()
			c.wantEqual("Reaped", job.Reaped, 1)
			c.release(time.Time{}, nil, job)
			c.wantEqual("Reaped after Release", c.claimShortly(1)[0].Reaped, 0)
			c.reap(1)
			c.deadLetter(c.claimOne())
			if in, ok := As[Inspector](c.Storage); ok {
				_, err := in.Replay(c.ctx, Filter{})
				c.must(err)
				c.wantEqual("Reaped after Replay", c.claimOne().Reaped, 0)
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

func progressRules() []storageRule {
	return []storageRule{
		{"Heartbeat stores when the task started, and its Result so far", optional(func(c *checker, in Inspector) {
			c.enqueue(&Job{ID: "1", Task: "a"})
			job := c.claimOne()
			c.wantEqual("StartedAt after the claim", c.get(in, "1").StartedAt, time.Time{})

			started := asStored(time.Now())
			job.StartedAt = started
			job.Result = json.RawMessage(`{"done":1}`)
			c.beat(job)
			c.wantProgress(in, "1", started, `{"done":1}`)

			later := *job
			later.StartedAt = started.Add(time.Hour)
			later.Result = nil
			c.beat(&later)
			c.wantProgress(in, "1", started, `{"done":1}`)

			later.Result = json.RawMessage(`2`)
			c.beat(&later)
			c.wantProgress(in, "1", started, `2`)

			c.retry(job)
			c.wantEqual("StartedAt of a PENDING job", c.get(in, "1").StartedAt, time.Time{})
			c.wantEqual("Result of a new claim", string(c.claimOne().Result), "")
			c.wantProgress(in, "1", time.Time{}, "")
		})},
		{"a dead letter keeps the last Result", optional(func(c *checker, in Inspector) {
			c.enqueue(NewJob("heartbeat"), NewJob("last words"))
			jobs := c.claim(2)
			jobs[0].Result = json.RawMessage(`1`)
			jobs[1].Result = json.RawMessage(`1`)
			c.beat(jobs...)
			jobs[0].Result = nil
			jobs[1].Result = json.RawMessage(`2`)
			c.deadLetter(jobs[0])
			c.deadLetter(jobs[1])
			letters := c.list(in.DeadLetters(c.ctx, Filter{}))
			c.wantEqual("number of dead letters", len(letters), 2)
			for i, want := range []string{"1", "2"} {
				c.wantEqual("Result of the dead letter "+letters[i].Task, string(letters[i].Result), want)
				c.wantEqual("Result of the job "+letters[i].Task, string(c.get(in, letters[i].ID).Result), want)
			}
		})},
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
					c.reap(1)
					return nil
				}, nil},
			} {
				id := verb.name
				c.enqueue(&Job{ID: id, Task: "a", Key: "k"})
				job := c.claimShortly(1)[0]
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
			if in, ok := As[Inspector](c.Storage); ok {
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
			future := &Job{Task: "x", Queue: "b", RunAt: time.Now().Add(time.Hour)}
			c.enqueue(future)
			c.enqueue(&Job{Task: "y", Queue: "b"})
			c.enqueue(&Job{Task: "x", Queue: "a"}, &Job{Task: "x", Queue: "a"}, &Job{Task: "x", Queue: "a"})
			claimed := c.claim(4)
			due := &Job{Task: "x", Queue: "a"}
			c.enqueue(due)
			claimed[0].StartedAt = time.Now()
			c.beat(claimed[0])
			c.markDone(claimed[2])
			c.deadLetter(claimed[3])

			stats, err := in.Stats(c.ctx)
			c.must(err)
			ended := Counts{SuccessHour: 1, FailedHour: 1, Minute: 2}
			a := ended
			a.Pending, a.Due, a.Oldest, a.OldestDue = 1, 1, due.CreatedAt, due.CreatedAt
			a.Running = 1
			x := a
			x.Pending, x.Oldest = 2, future.CreatedAt
			all := x
			all.Running, all.Started = 2, 1
			c.wantEqual("Total", stats.Total, all)
			c.wantEqual("Queues", stats.Queues, []QueueStats{
				{"a", a},
				{"b", Counts{Pending: 1, Running: 1, Started: 1, Oldest: future.CreatedAt}},
			})
			c.wantEqual("Tasks", stats.Tasks, []TaskStats{{"x", x}, {"y", Counts{Running: 1, Started: 1}}})
			c.wantEqual("DeadLetters", stats.DeadLetters, 1)
			lastMinute := 0
			for _, n := range stats.LastMinute {
				lastMinute += n
			}
			c.wantEqual("sum of LastMinute", lastMinute, 2)
		})},
		{"History counts the ends of jobs by minute, queue and task", optional(func(c *checker, in Inspector) {
			start := time.Now().Add(-2 * time.Minute)
			c.enqueue(NewJob("a"), NewJob("a"), NewJob("a"), &Job{Task: "b", Queue: "q"}, NewJob("retried"))
			jobs := c.claim(5)
			time.Sleep(2 * time.Millisecond)
			c.markDone(jobs[0], jobs[1])
			c.deadLetter(jobs[2])
			c.deadLetter(jobs[3])
			c.retry(jobs[4])
			if k, ok := As[Canceler](c.Storage); ok {
				c.cancel(k, canceled{ended: jobs[4].ID}, jobs[4].ID)
			}

			history, err := in.History(c.ctx, start)
			c.must(err)
			sums := make(map[string]Ends)
			for _, ends := range history {
				c.wantEqual("At, as a minute", ends.At, ends.At.UTC().Truncate(time.Minute))
				sum := sums[ends.Queue+" "+ends.Task]
				sum.Succeeded += ends.Succeeded
				sum.Failed += ends.Failed
				sum.Took += ends.Took
				sums[ends.Queue+" "+ends.Task] = sum
			}
			c.wantEqual("a that succeeded", sums["default a"].Succeeded, 2)
			c.wantEqual("a that failed", sums["default a"].Failed, 1)
			c.wantEqual("b that failed", sums["q b"].Failed, 1)
			c.wantEqual("Took is positive", sums["default a"].Took > 0, true)
			c.wantEqual("retried that succeeded", sums["default retried"].Succeeded, 0)
			if _, ok := As[Canceler](c.Storage); ok {
				c.wantEqual("retried that was canceled", sums["default retried"].Failed, 1)
			}
			history, err = in.History(c.ctx, time.Now().Add(time.Hour))
			c.must(err)
			c.wantEqual("number of ends after now", len(history), 0)
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
			c.wantLetters(in, Filter{}, "dead")
			c.wantJobs(in, Filter{}, "dead purged done running pending")
			n, err = in.Prune(c.ctx, time.Now().Add(time.Hour))
			c.must(err)
			c.wantEqual("jobs pruned", n, 2)
			c.wantJobs(in, Filter{}, "dead running pending")
		})},
	}
}

func filterRules() []storageRule {
	return []storageRule{
		{"listings heed Key, Text, After, Before and Newest", optional(func(c *checker, in Inspector) {
			jobs := []*Job{
				{Task: "a", Key: "k"},
				{Task: "b", Priority: 2},
				{Task: "c", Priority: 1},
				{Task: "d"},
			}
			for _, job := range jobs {
				c.enqueue(job)
				time.Sleep(2 * time.Millisecond) // so that they differ in CreatedAt
			}
			b, failed := c.claimOne(), c.claimOne()
			c.must(c.DeadLetter(c.ctx, b, errors.New("boom! 50% of _b")))
			time.Sleep(2 * time.Millisecond)
			c.must(c.DeadLetter(c.ctx, failed, errors.New("Boom")))

			c.wantJobs(in, Filter{Key: "k"}, "a")
			c.wantJobs(in, Filter{Key: "K"}, "")
			c.wantJobs(in, Filter{KeyPrefix: "k"}, "a")
			c.wantJobs(in, Filter{KeyPrefix: "k", Status: StatusPending}, "a")
			c.wantJobs(in, Filter{KeyPrefix: "kk"}, "")
			c.wantJobs(in, Filter{Text: "oom"}, "b c")
			c.wantJobs(in, Filter{Text: "50% of _"}, "b")
			c.wantJobs(in, Filter{Text: "50_ of"}, "")
			c.wantJobs(in, Filter{After: jobs[1].CreatedAt}, "b c d")
			c.wantJobs(in, Filter{Before: jobs[1].CreatedAt}, "a")
			c.wantJobs(in, Filter{After: jobs[1].CreatedAt, Before: jobs[3].CreatedAt}, "b c")
			c.wantJobs(in, Filter{Newest: true}, "d c b a")
			c.wantJobs(in, Filter{Newest: true, Limit: 2}, "d c")

			letters := c.list(in.DeadLetters(c.ctx, Filter{}))
			c.wantEqual("dead letters", taskNames(letters), "b c")
			c.wantLetters(in, Filter{Text: "boom"}, "b")
			c.wantLetters(in, Filter{After: letters[1].FinishedAt}, "c")
			c.wantLetters(in, Filter{Before: letters[1].FinishedAt}, "b")
			c.wantLetters(in, Filter{Newest: true}, "c b")
			c.wantLetters(in, Filter{Newest: true, Limit: 1}, "c")
			c.wantLetters(in, Filter{Key: "k"}, "")
		})},
		{"a list of IDs without elements matches nothing", optional(func(c *checker, in Inspector) {
			c.enqueue(NewJob("dead"), NewJob("done"), NewJob("running"), NewJob("pending"))
			jobs := c.claim(3)
			c.deadLetter(jobs[0])
			c.markDone(jobs[1])
			none := Filter{IDs: []string{}}
			c.wantJobs(in, none, "")
			c.wantLetters(in, none, "")
			for _, verb := range []struct {
				name string
				call func() (int, error)
			}{
				{"Replay", func() (int, error) { return in.Replay(c.ctx, none) }},
				{"Purge", func() (int, error) { return in.Purge(c.ctx, none) }},
				{"PruneWhere", func() (int, error) { return in.PruneWhere(c.ctx, none) }},
				{"Reschedule", func() (int, error) { return in.Reschedule(c.ctx, none, time.Now().Add(time.Hour)) }},
				{"CancelWhere", func() (int, error) {
					ended, asked, err := in.CancelWhere(c.ctx, none)
					return ended + asked, err
				}},
			} {
				n, err := verb.call()
				c.must(err)
				c.wantEqual("jobs of a "+verb.name, n, 0)
			}
			c.wantJobs(in, Filter{}, "dead done running pending")
			c.wantEqual("jobs due", c.claimDue(9), "pending")
		})},
		{"a name that is not text matches nothing", optional(func(c *checker, in Inspector) {
			const like = "\uFFFD" // what stands for text that is not UTF-8
			c.enqueue(&Job{ID: like, Task: like, Queue: like, Key: like, Priority: 1})
			c.must(c.DeadLetter(c.ctx, c.claimOne(), errors.New("boom \xff")))
			c.enqueue(&Job{ID: "2" + like, Task: like, Queue: like, Key: like})
			for _, name := range []string{"\xff", "\x00", "\xff\x00", like + "\x00", like + "\xff"} {
				ids := []string{name, "2" + name}
				for _, f := range []Filter{
					{IDs: ids}, {Queue: name}, {Task: name}, {Key: name}, {KeyPrefix: name}, {Text: name},
					{Error: "boom " + name},
				} {
					what := fmt.Sprintf("of a filter %+v", f)
					c.wantEqual("jobs "+what, taskNames(c.list(in.Jobs(c.ctx, f))), "")
					c.wantEqual("dead letters "+what, taskNames(c.list(in.DeadLetters(c.ctx, f))), "")
				}
				for _, id := range ids {
					_, err := in.Get(c.ctx, id)
					c.wantError(fmt.Sprintf("Get of %q", id), err, ErrNotFound)
				}
				if k, ok := As[Canceler](c.Storage); ok {
					c.cancel(k, canceled{}, ids...)
				}
				for _, opts := range []DequeueOptions{{Queues: []string{name}}, {Tasks: []string{name}}} {
					opts.Max, opts.NoWait = 9, true
					c.wantEqual(fmt.Sprintf("jobs claimed by %q", name), taskNames(c.dequeue(opts)), "")
				}
			}
			c.wantEqual("jobs claimed", c.claimDue(9), like)
		})},
		{"a listing from the newest on is complete", optional(func(c *checker, in Inspector) {
			jobs := make([]*Job, 250)
			for i := range jobs {
				jobs[i] = NewJob(fmt.Sprint("t", i))
			}
			c.enqueue(jobs...)
			slices.Reverse(jobs)
			c.wantJobs(in, Filter{Newest: true}, taskNames(jobs))
		})},
		{"Reschedule sets the due time of the PENDING jobs that match", optional(func(c *checker, in Inspector) {
			hour := time.Now().Add(time.Hour)
			c.enqueue(NewJob("running"), &Job{Task: "a", RunAt: hour}, &Job{Task: "b", RunAt: hour}, NewJob("c"))
			running := c.claimOne()
			n, err := in.Reschedule(c.ctx, Filter{Task: "c"}, hour)
			c.must(err)
			c.wantEqual("jobs rescheduled to an hour from now", n, 1)
			c.wantEqual("jobs due", c.claimDue(9), "")

			waiting := c.startDequeue(c.ctx, DequeueOptions{Max: 9})
			n, err = in.Reschedule(c.ctx, Filter{Limit: 2}, time.Time{})
			c.must(err)
			c.wantEqual("jobs rescheduled to now", n, 2)
			first := strings.Fields(c.mustEnd(waiting))
			rest := strings.Fields(c.claimDue(9))
			c.wantEqual("jobs due", strings.Join(append(first, rest...), " "), "a b")
			n, err = in.Reschedule(c.ctx, Filter{Status: StatusRunning}, time.Time{})
			c.must(err)
			c.wantEqual("RUNNING jobs rescheduled", n, 0)
			c.markDone(running)
		})},
		{"CancelWhere cancels the unfinished jobs that match", optional(func(c *checker, in Inspector) {
			c.enqueue(NewJob("done"), &Job{ID: "1", Task: "a"}, &Job{ID: "2", Task: "a"}, NewJob("b"))
			jobs := c.claim(2)
			c.markDone(jobs[0])
			ended, asked, err := in.CancelWhere(c.ctx, Filter{Task: "a"})
			c.must(err)
			c.wantEqual("jobs that ended", ended, 1)
			c.wantEqual("jobs asked to end", asked, 1)
			c.wantEndedAsCanceled("2")
			c.wantError("MarkFailed", c.MarkFailed(c.ctx, jobs[1], errCheck, time.Time{}), ErrCanceled)
			c.wantEndedAsCanceled("1")
			ended, asked, err = in.CancelWhere(c.ctx, Filter{Task: "a"})
			c.must(err)
			c.wantEqual("jobs that end when all have ended", ended+asked, 0)
			c.wantEqual("jobs due", c.claimDue(9), "b")
		})},
		{"PruneWhere deletes finished jobs, and no dead letters", optional(func(c *checker, in Inspector) {
			c.enqueue(NewJob("a"), NewJob("a"), NewJob("b"), NewJob("a"), NewJob("a"))
			jobs := c.claim(4)
			c.markDone(jobs[0])
			c.deadLetter(jobs[1])
			c.markDone(jobs[2])
			now := time.Now()
			n, err := in.PruneWhere(c.ctx, Filter{Task: "a", After: now.Add(time.Hour)})
			c.must(err)
			c.wantEqual("jobs pruned that finish after an hour", n, 0)
			n, err = in.PruneWhere(c.ctx, Filter{Task: "a", Before: now.Add(time.Hour)})
			c.must(err)
			c.wantEqual("jobs pruned", n, 1)
			c.wantJobs(in, Filter{}, "a b a a")
			c.wantLetters(in, Filter{}, "a")
		})},
		{"a verb over a filter handles all that match, however many", optional(func(c *checker, in Inspector) {
			const many = 600 // more than a storage may change in one transaction
			c.enqueue(manyJobs("a", many)...)
			n, err := in.Reschedule(c.ctx, Filter{}, time.Now().Add(time.Hour))
			c.must(err)
			c.wantEqual("jobs rescheduled", n, many)
			n, err = in.Reschedule(c.ctx, Filter{}, time.Time{})
			c.must(err)
			c.wantEqual("jobs rescheduled to now", n, many)

			c.deadLetterAll(c.claim(many))
			n, err = in.Replay(c.ctx, Filter{Limit: many - 1})
			c.must(err)
			c.wantEqual("jobs replayed", n, many-1)
			n, err = in.Purge(c.ctx, Filter{})
			c.must(err)
			c.wantEqual("dead letters purged", n, 1)
			ended, _, err := in.CancelWhere(c.ctx, Filter{})
			c.must(err)
			c.wantEqual("jobs canceled", ended, many-1)
			n, err = in.PruneWhere(c.ctx, Filter{})
			c.must(err)
			c.wantEqual("jobs pruned", n, many)
			c.wantJobs(in, Filter{}, "")
		})},
	}
}

func pageRules() []storageRule {
	return []storageRule{
		{"Error matches all of the error but a panic's stack", optional(func(c *checker, in Inspector) {
			texts := []string{"boom", "boom\n\nstack 1", "boom 2", "boom\nmore\n\nstack 2", "boom\n",
				"", "\n\nstack 3", "\n"}
			for i, text := range texts {
				c.enqueue(NewJob(string(rune('a' + i))))
				c.must(c.DeadLetter(c.ctx, c.claim(1)[0], errors.New(text)))
				c.wantEqual("dead letters", i+1, len(c.list(in.DeadLetters(c.ctx, Filter{}))))
			}
			for text, want := range map[string]string{
				"boom":                  "a b",
				"boom\n\nstack 3":       "a b",
				"boom\nmore":            "d",
				"boom\nmore\n\nstack 1": "d",
				"boom\n":                "e",
				"\n\n":                  "f g",
				"\n":                    "h",
				"boo":                   "",
				"BOOM 2":                "",
			} {
				c.wantLetters(in, Filter{Error: text}, want)
				c.wantJobs(in, Filter{Error: text}, want)
			}
			n, err := in.Replay(c.ctx, Filter{Error: "boom"})
			c.must(err)
			c.wantEqual("jobs replayed by their Error", n, 2)
			c.wantLetters(in, Filter{}, "c d e f g h")
		})},
		{"pages make up a listing, whatever is deleted meanwhile", optional(func(c *checker, in Inspector) {
			const many = 25
			jobs := make([]*Job, many)
			for i := range jobs {
				jobs[i] = NewJob(fmt.Sprint("t", i))
				jobs[i].Queue = []string{"odd", "even"}[i%2]
			}
			c.enqueue(jobs...)
			for _, f := range []Filter{
				{Limit: 7}, {Limit: 7, Newest: true}, {Limit: 5, Queue: "odd"}, {Limit: many}, {Limit: 1, Task: "T3"},
				{Limit: 4, Status: StatusPending, Newest: true}, {Limit: 4, Status: StatusRunning}, {},
			} {
				all := f
				all.Limit = 0
				c.wantPages(in.JobsPage, f, taskNames(c.list(in.Jobs(c.ctx, all))), nil)
			}

			// The page after a job begins there even if the job is gone.
			newest := taskNames(c.list(in.Jobs(c.ctx, Filter{Newest: true})))
			c.wantPages(in.JobsPage, Filter{Limit: 10, Newest: true}, newest, func(last *Job) {
				_, _, err := in.CancelWhere(c.ctx, Filter{IDs: []string{last.ID}})
				c.must(err)
				_, err = in.PruneWhere(c.ctx, Filter{IDs: []string{last.ID}})
				c.must(err)
			})

			for _, job := range c.claim(many - 3) {
				c.deadLetter(job)
			}
			letters := taskNames(c.list(in.DeadLetters(c.ctx, Filter{})))
			c.wantPages(in.DeadLettersPage, Filter{Limit: 4}, letters, nil)
			newest = taskNames(c.list(in.DeadLetters(c.ctx, Filter{Newest: true})))
			c.wantPages(in.DeadLettersPage, Filter{Limit: 10, Newest: true}, newest, func(last *Job) {
				_, err := in.Replay(c.ctx, Filter{IDs: []string{last.ID}})
				c.must(err)
			})
		})},
		{"GroupDeadLetters counts by error", optional(func(c *checker, in Inspector) {
			for i, text := range []string{"refused", "boom\n\nstack 1", "refused", "boom\n\nstack 2", "refused", "x"} {
				c.enqueue(&Job{Task: fmt.Sprint("t", i)})
				c.must(c.DeadLetter(c.ctx, c.claimOne(), errors.New(text)))
			}
			want := []string{"3 t4 refused", "2 t3 boom\n\nstack 2", "1 t5 x"}
			c.wantGroups(in, Filter{}, 0, want, LetterGroups{Errors: 3, Letters: 6})
			c.wantGroups(in, Filter{}, 6, want, LetterGroups{Errors: 3, Letters: 6})
			c.wantGroups(in, Filter{Limit: 1}, 0, want[:1], LetterGroups{Errors: 3, Letters: 6})
			c.wantGroups(in, Filter{Error: "boom"}, 0, want[1:2], LetterGroups{Errors: 1, Letters: 2})
			c.wantGroups(in, Filter{Task: "T5"}, 0, want[2:], LetterGroups{Errors: 1, Letters: 1})
			c.wantGroups(in, Filter{}, 1, want[2:], LetterGroups{Errors: 1, Letters: 1, More: true})
			c.wantGroups(in, Filter{Task: "none"}, 2, nil, LetterGroups{More: true})
			c.wantGroups(in, Filter{Task: "none"}, 0, nil, LetterGroups{})
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
				Meta:     map[string]string{"tenant": "7"},
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
				c.wantLetters(in, Filter{}, "")
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
			c.wantLetters(in, Filter{}, "b a d c")
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
				c.wantLetters(in, Filter{}, replay.want)
			}
			c.wantEqual("jobs due", c.claimDue(9), "a c d e")
		})},
	}
}

func limitRules() []storageRule {
	return []storageRule{
		{"a limit bounds how many jobs of a queue run at once", optional(func(c *checker, l Limiter) {
			c.setLimit(l, "q", 2)
			c.enqueue(
				&Job{Task: "a", Queue: "q"},
				&Job{Task: "b", Queue: "q"},
				&Job{Task: "c", Queue: "q"},
				&Job{Task: "d", Queue: "q"},
				&Job{Task: "e", Queue: "q"},
				NewJob("other"),
			)
			jobs := c.claimUpTo(9, DequeueOptions{Lease: shortLease})
			c.wantEqual("jobs due at first", taskNames(jobs), "a b other")
			c.wantEqual("jobs due while two run", c.claimDue(9), "")
			c.markDone(jobs[0])
			c.wantEqual("jobs due after MarkDone", c.claimDue(9), "c")
			c.markDone(jobs[2])
			c.reap(1) // takes back b, which is older than d
			c.wantEqual("jobs due after ReapStale", c.claimDue(9), "b")
			c.setLimit(l, "q", 1)
			c.wantEqual("jobs due under a lower limit", c.claimDue(9), "")
			c.setLimit(l, "q", 3)
			c.wantEqual("jobs due under a higher limit", c.claimDue(9), "d")
			c.setLimit(l, "q", -1)
			c.wantEqual("jobs due without a limit", c.claimDue(9), "e")
		})},
		{"a limit of 0 pauses a queue and no other", optional(func(c *checker, l Limiter) {
			c.setLimit(l, "q", 0)
			c.setLimit(l, "r", 7)
			limits, err := l.Limits(c.ctx)
			c.must(err)
			c.wantEqual("Limits", limits, map[string]int{"q": 0, "r": 7})
			c.enqueue(&Job{Task: "a", Queue: "q", Priority: 1}, NewJob("b"))
			c.wantEqual("jobs due", c.claimDue(9), "b")
			c.wantEqual("jobs of the queue", c.claimDue(9, "q"), "")
			c.wantSize(1)
			c.setLimit(l, "q", -1)
			c.setLimit(l, "r", -1)
			limits, err = l.Limits(c.ctx)
			c.must(err)
			c.wantEqual("number of Limits that are left", len(limits), 0)
			c.wantEqual("jobs due afterwards", c.claimDue(9), "a")
		})},
		{"SetLimit refuses the name of a queue that no job can have", optional(func(c *checker, l Limiter) {
			for _, queue := range []string{"a\x00b", strings.Repeat("q", 1025), "\xff"} {
				c.wantError("SetLimit", l.SetLimit(c.ctx, queue, 1), ErrBadArgs)
			}
			limits, err := l.Limits(c.ctx)
			c.must(err)
			c.wantEqual("number of Limits", len(limits), 0)
		})},
		{"a limit is stored as it is, up to 2,147,483,647", optional(func(c *checker, l Limiter) {
			c.setLimit(l, "q", math.MaxInt32)
			c.setLimit(l, "r", math.MaxInt)
			limits, err := l.Limits(c.ctx)
			c.must(err)
			c.wantEqual("Limits", limits, map[string]int{"q": math.MaxInt32, "r": math.MaxInt32})
			c.enqueue(&Job{Task: "a", Queue: "q"}, &Job{Task: "b", Queue: "r"})
			c.wantEqual("jobs due", c.claimDue(9), "a b")
		})},
		{"Dequeue waits until a limit admits a job", optional(func(c *checker, l Limiter) {
			c.setLimit(l, "default", 1)
			c.enqueue(NewJob("a"), NewJob("b"), NewJob("c"), NewJob("d"), NewJob("e"))
			job := c.claimOne()
			waiting := c.startDequeue(c.ctx, DequeueOptions{Max: 1})
			c.markDone(job)
			jobs, err := waiting.end()
			c.must(err)
			c.wantEqual("job after MarkDone", taskNames(jobs), "b")

			waiting = c.startDequeue(c.ctx, DequeueOptions{Max: 1})
			c.deadLetter(jobs[0])
			c.wantEqual("job after DeadLetter", c.mustEnd(waiting), "c")

			waiting = c.startDequeue(c.ctx, DequeueOptions{Max: 1})
			c.setLimit(l, "default", 2)
			c.wantEqual("job under a higher limit", c.mustEnd(waiting), "d")

			waiting = c.startDequeue(c.ctx, DequeueOptions{Max: 1})
			c.setLimit(l, "default", -1)
			c.wantEqual("job without a limit", c.mustEnd(waiting), "e")
		})},
		{"a queue with a limit is never claimed ahead", optional(func(c *checker, l Limiter) {
			c.setLimit(l, "default", 5)
			c.enqueue(NewJob("a"), NewJob("b"))
			c.wantClaimedAhead("no slot is free", DequeueOptions{Max: 9, Ahead: 9}, "")
			c.wantClaimedAhead("one slot is free", DequeueOptions{Max: 9, Ahead: 8}, "a")
		})},
		{"a limit holds for concurrent Dequeues", optional(func(c *checker, l Limiter) {
			c.setLimit(l, "default", 3)
			c.enqueue(manyJobs("a", 100)...)
			var mu sync.Mutex // guards what follows
			var running, most, done int
			claimed := func(n int) {
				mu.Lock()
				defer mu.Unlock()
				running += n
				most = max(most, running)
			}
			ending := func(n int) (left int) {
				mu.Lock()
				defer mu.Unlock()
				running -= n
				done += n
				return 100 - done
			}
			var callers sync.WaitGroup
			for range 4 {
				callers.Go(func() {
					for left := 100; left > 0; {
						jobs, err := c.Dequeue(c.ctx, DequeueOptions{Max: 2, NoWait: true})
						if err != nil {
							return // too few jobs are done then
						}
						claimed(len(jobs))
						left = ending(len(jobs))
						if _, err := c.MarkDone(c.ctx, jobs...); err != nil {
							return
						}
					}
				})
			}
			callers.Wait()
			c.must(c.ctx.Err())
			c.wantEqual("jobs done", done, 100)
			if most > 3 {
				c.must(fmt.Errorf("jobs that run at once: got %d, want at most 3", most))
			}
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
			if k, ok := As[Canceler](c.Storage); ok {
				_, _, err = k.Cancel(c.ctx, "1")
				c.wantError("Cancel", err, ErrClosed)
				_, err = k.Canceled(c.ctx, job)
				c.wantError("Canceled", err, ErrClosed)
			}
			if in, ok := As[Inspector](c.Storage); ok {
				c.wantInspectorClosed(in)
			}
			if l, ok := As[Limiter](c.Storage); ok {
				c.wantError("SetLimit", l.SetLimit(c.ctx, "q", 1), ErrClosed)
				_, err = l.Limits(c.ctx)
				c.wantError("Limits", err, ErrClosed)
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

// shortLease is the lease of claims that are to be lost.
const shortLease = 2 * time.Millisecond

// optional returns a check that does nothing for a storage without the power T.
func optional[T any](check func(*checker, T)) func(*checker) {
	return func(c *checker) {
		if s, ok := As[T](c.Storage); ok {
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
		c.must(fmt.Errorf("%s: got %+v, want %+v", what, got, want))
	}
}

func (c *checker) wantError(what string, got, want error) {
	if !errors.Is(got, want) {
		c.must(fmt.Errorf("%s: got error %v, want one that matches %v", what, got, want))
	}
}

func (c *checker) enqueue(jobs ...*Job) { c.must(c.Enqueue(c.ctx, jobs...)) }

func (c *checker) dequeue(opts DequeueOptions) []*Job {
	jobs, err := c.Dequeue(c.ctx, opts)
	c.must(err)
	return jobs
}

// claimUpTo claims jobs until it has n or none is due. A storage may return fewer than Max at once.
func (c *checker) claimUpTo(n int, opts DequeueOptions) []*Job {
	opts.NoWait = true
	var jobs []*Job
	for len(jobs) < n {
		opts.Max = n - len(jobs)
		more := c.dequeue(opts)
		if len(more) == 0 {
			break
		}
		jobs = append(jobs, more...)
	}
	return jobs
}

// claimAll claims n jobs, which must be due.
func (c *checker) claimAll(n int, opts DequeueOptions) []*Job {
	jobs := c.claimUpTo(n, opts)
	c.wantEqual("number of jobs due", len(jobs), n)
	return jobs
}

// claim claims n jobs, which must be due.
func (c *checker) claim(n int) []*Job { return c.claimAll(n, DequeueOptions{}) }

func (c *checker) claimOne() *Job { return c.claim(1)[0] }

// claimShortly claims n jobs, which must be due, for a short time.
func (c *checker) claimShortly(n int) []*Job { return c.claimAll(n, DequeueOptions{Lease: shortLease}) }

// claimDue claims up to n jobs that are due and returns their names.
func (c *checker) claimDue(n int, queues ...string) string {
	return taskNames(c.claimUpTo(n, DequeueOptions{Queues: queues}))
}

// waitForOne claims one job and waits until it is due.
func (c *checker) waitForOne() *Job { return c.waitForOneOf(DequeueOptions{}) }

// waitForOneShortly is waitForOne for a short time.
func (c *checker) waitForOneShortly() *Job { return c.waitForOneOf(DequeueOptions{Lease: shortLease}) }

func (c *checker) waitForOneOf(opts DequeueOptions) *Job {
	opts.Max = 1
	jobs := c.dequeue(opts)
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

// deadLetterAll dead-letters many jobs at once, so that a storage may share its transactions.
func (c *checker) deadLetterAll(jobs []*Job) {
	errs := make([]error, 50)
	var callers sync.WaitGroup
	for i := range errs {
		callers.Go(func() {
			for n := i; n < len(jobs) && errs[i] == nil; n += len(errs) {
				errs[i] = c.DeadLetter(c.ctx, jobs[n], errCheck)
			}
		})
	}
	callers.Wait()
	c.must(errors.Join(errs...))
}

func (c *checker) release(at time.Time, cause error, jobs ...*Job) {
	lost, canceled, err := c.Release(c.ctx, at, cause, jobs...)
	c.must(err)
	c.wantEqual("jobs lost by Release", taskNames(lost), "")
	c.wantEqual("jobs that ended by Release", taskNames(canceled), "")
}

// reap calls ReapStale until it has taken back n claims in all. It returns the times between which that
// happened.
func (c *checker) reap(n int) (from, to time.Time) { return c.reapWith(time.Hour, n) }

// reapWith is reap with a visibility. It must not matter, because these claims have leases.
func (c *checker) reapWith(visibility time.Duration, n int) (from, to time.Time) {
	from = asStored(time.Now())
	for reaped := 0; reaped < n; {
		time.Sleep(2 * shortLease)
		got, err := c.ReapStale(c.ctx, visibility)
		c.must(err)
		c.must(c.ctx.Err())
		reaped += got
	}
	return from, time.Now()
}

// wantReaped waits until short leases have expired, and doubts about them are old enough, and checks how
// many claims ReapStale takes back.
func (c *checker) wantReaped(when string, want int) {
	time.Sleep(2 * shortLease)
	got, err := c.ReapStale(c.ctx, time.Hour)
	c.must(err)
	c.wantEqual("claims taken back "+when, got, want)
}

func (c *checker) beat(jobs ...*Job) {
	lost, err := c.Heartbeat(c.ctx, jobs...)
	c.must(err)
	c.wantEqual("jobs lost by Heartbeat", taskNames(lost), "")
}

// wantProgress checks what heartbeats have stored of a running job.
func (c *checker) wantProgress(in Inspector, id string, startedAt time.Time, result string) {
	job := c.get(in, id)
	c.wantEqual("StartedAt", job.StartedAt, startedAt)
	c.wantEqual("Result", string(job.Result), result)
}

func (c *checker) setLimit(l Limiter, queue string, limit int) {
	c.must(l.SetLimit(c.ctx, queue, limit))
}

// wantInspectorClosed checks that every call of an Inspector returns ErrClosed.
func (c *checker) wantInspectorClosed(in Inspector) {
	_, err := in.Stats(c.ctx)
	c.wantError("Stats", err, ErrClosed)
	_, err = in.Get(c.ctx, "1")
	c.wantError("Get", err, ErrClosed)
	for _, err = range in.Jobs(c.ctx, Filter{}) {
	}
	c.wantError("Jobs", err, ErrClosed)
	for _, err = range in.DeadLetters(c.ctx, Filter{}) {
	}
	c.wantError("DeadLetters", err, ErrClosed)
	_, err = in.Replay(c.ctx, Filter{})
	c.wantError("Replay", err, ErrClosed)
	_, err = in.Purge(c.ctx, Filter{})
	c.wantError("Purge", err, ErrClosed)
	_, err = in.Prune(c.ctx, time.Now())
	c.wantError("Prune", err, ErrClosed)
	_, err = in.PruneWhere(c.ctx, Filter{})
	c.wantError("PruneWhere", err, ErrClosed)
	_, _, err = in.CancelWhere(c.ctx, Filter{})
	c.wantError("CancelWhere", err, ErrClosed)
	_, err = in.Reschedule(c.ctx, Filter{}, time.Time{})
	c.wantError("Reschedule", err, ErrClosed)
	_, err = in.History(c.ctx, time.Now())
	c.wantError("History", err, ErrClosed)
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
	batch := manyJobs("other", 8)
	batch[5] = job
	got, _ = errors.AsType[*DuplicateError](c.Enqueue(c.ctx, batch...))
	c.wantEqual("error of Enqueue for a batch", got, &want)
}

// wantLost checks that every verb reports the job as lost and does nothing for it.
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
	if in, ok := As[Inspector](c.Storage); ok {
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
	in, ok := As[Inspector](c.Storage)
	if !ok {
		return
	}
	job := c.get(in, id)
	c.wantEqual("Status", job.Status, StatusFailed)
	c.wantEqual("Error", job.Error, ErrCanceled.Error())
	c.wantEqual("Canceled", job.Canceled, true)
	c.wantEqual("FinishedAt is set", !job.FinishedAt.IsZero(), true)
	c.wantLetters(in, Filter{IDs: []string{id}}, "")
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
	c.wantEqual("jobs of the filter "+filterText(f), got, want)
}

// wantLetters checks which jobs DeadLetters lists.
func (c *checker) wantLetters(in Inspector, f Filter, want string) {
	got := taskNames(c.list(in.DeadLetters(c.ctx, f)))
	c.wantEqual("dead letters of the filter "+filterText(f), got, want)
}

// wantPages checks that the pages of a listing, one after the other, are the jobs wanted. between is called with the
// last job of each page, unless it is nil.
func (c *checker) wantPages(
	list func(context.Context, Filter, int64) (Page, error), f Filter, want string, between func(last *Job),
) {
	var jobs []*Job
	from := int64(0)
	for {
		page, err := list(c.ctx, f, from)
		c.must(err)
		if f.Limit > 0 && len(page.Jobs) > f.Limit {
			c.must(fmt.Errorf("a page of the filter %s has %d jobs", filterText(f), len(page.Jobs)))
		}
		jobs = append(jobs, page.Jobs...)
		if between != nil && len(page.Jobs) > 0 {
			between(page.Jobs[len(page.Jobs)-1])
		}
		if page.Next == 0 {
			break
		}
		if page.Next == from {
			c.must(fmt.Errorf("a page of the filter %s is followed by itself", filterText(f)))
		}
		from = page.Next
	}
	c.wantEqual("jobs on the pages of the filter "+filterText(f), taskNames(jobs), want)
}

// wantGroups checks the groups of dead letters, each as "count task error" of its newest letter, and their numbers.
func (c *checker) wantGroups(in Inspector, f Filter, look int, want []string, numbers LetterGroups) {
	got, err := in.GroupDeadLetters(c.ctx, f, look)
	c.must(err)
	var groups []string
	for _, g := range got.Groups {
		groups = append(groups, fmt.Sprintf("%d %s %s", g.Count, g.Newest.Task, g.Newest.Error))
	}
	got.Groups = nil
	what := fmt.Sprintf("dead letters of the filter %s, of which %d are looked at", filterText(f), look)
	c.wantEqual("groups of "+what, groups, want)
	c.wantEqual("numbers of "+what, got, numbers)
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
	return fmt.Sprintf("%s %s%s %s, queue %s, priority %d, key %s, meta %v, %s after %d attempts, error %q",
		job.ID, job.Task, job.Args, job.Kwargs, job.Queue, job.Priority, job.Key, job.Meta,
		job.Status, job.Attempts, job.Error)
}

// filterText returns the fields of a filter that are set.
func filterText(f Filter) string {
	var fields []string
	for field, value := range reflect.ValueOf(f).Fields() {
		if !value.IsZero() {
			fields = append(fields, fmt.Sprintf("%s: %v", field.Name, value))
		}
	}
	return "{" + strings.Join(fields, ", ") + "}"
}

// taskNames returns the names of the jobs' tasks, separated by spaces.
func taskNames(jobs []*Job) string {
	var names []string
	for _, job := range jobs {
		names = append(names, job.Task)
	}
	return strings.Join(names, " ")
}

// priorities returns the priorities of jobs, separated by spaces.
func priorities(jobs []*Job) string {
	var all []string
	for _, job := range jobs {
		all = append(all, fmt.Sprint(job.Priority))
	}
	return strings.Join(all, " ")
}

// manyJobs returns n jobs of a task.
func manyJobs(task string, n int) []*Job {
	jobs := make([]*Job, n)
	for i := range jobs {
		jobs[i] = NewJob(task)
	}
	return jobs
}

// asStored returns a time as every storage keeps it: in UTC and whole microseconds.
func asStored(t time.Time) time.Time { return t.UTC().Truncate(time.Microsecond) }

package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"
)

// workload is one thing that is measured. Each checks that its jobs were done, once each.
type workload struct {
	name    string
	what    string
	jobs    int      // at full scale
	content *content // what the queue holds when it begins; nil: nothing
	run     func(ctx context.Context, s *stage) ([]measured, error)
}

var allWorkloads = []*workload{
	{"enqueue1", "one producer, one job a call, stored when it returns", 10_000, nil, enqueueBy(1)},
	{"enqueue8", "eight producers, one job a call", 20_000, nil, enqueueBy(8)},
	{"batch", "one producer, 1,000 jobs a call", 100_000, nil, batch},
	{"drain", "20,000 jobs wait; until a worker with 8 slots has recorded all as done", 20_000, waiting("20k", 20_000), drain},
	{"mixed", "four producers, one job a call, while a worker with 8 slots drains; until all is recorded", 20_000, nil, mixed},
	{"roundtrip", "an idle worker gets one job: from the start of enqueue to the start of the task", 500, nil, roundtrip},
	{"roundtrip2", "the same, enqueued by another process", 500, nil, roundtrip2},
	{"backlog-5k", "run 5,000 of 5,000 waiting jobs", 5_000, waiting("5k", 5_000), runSome},
	{"backlog-200k", "run 5,000 of 200,000 waiting jobs", 5_000, waiting("200k", 200_000), runSome},
	{"backlog-1m", "run 5,000 of 1,000,000 waiting jobs", 5_000, waiting("1m", 1_000_000), runSome},
	{"history", "run 5,000 waiting jobs beside 1,000,000 finished ones", 5_000, finishedBeside(1_000_000, 5_000), runSome},
	{"future", "run 5,000 waiting jobs beside 500,000 that are due next year", 5_000, dueBeside(500_000, 5_000), runSome},
	{"processes-1", "one worker process with 8 slots drains 50,000", 50_000, waiting("50k", 50_000), processes(1)},
	{"processes-2", "two worker processes drain one queue of 50,000", 50_000, waiting("50k", 50_000), processes(2)},
	{"processes-4", "four worker processes drain one queue of 50,000", 50_000, waiting("50k", 50_000), processes(4)},
	{"processes-8", "eight processes work and enqueue one by one for 3 s: the longest call of any", 8 * 20_000, nil, hammer(8)},
	{"slow", "two processes with 8 slots each, 1,000 tasks of 50 ms: the time, in ideal times", 1_000, nil, slow},
	{"idle-cpu", "an idle worker process", 1, nil, idle},
	{"idle-memory", "the memory of a process that drains 1,000,000 jobs", 1_000_000, waiting("1m", 1_000_000), footprint},
	{"queues-1", "drain 20,000 jobs of one queue; the longest of ten claims", 20_000, nil, manyQueues(1)},
	{"queues-100", "drain 20,000 jobs of 100 queues; the longest of ten claims", 20_000, nil, manyQueues(100)},
	{"queues-10k", "drain 20,000 jobs of 10,000 queues; the longest of ten claims", 20_000, nil, manyQueues(10_000)},
	{"stats-finished", "Stats of 20,000 waiting jobs beside 1,000,000 finished ones", 0, finishedBeside(1_000_000, 20_000), statsTime},
	{"stats-pending", "Stats of 1,000,000 waiting jobs", 0, waiting("1m", 1_000_000), statsTime},
	{"stats-names", "Stats of 50,000 waiting jobs, each of a queue and a task of its own", 0, manyNames(50_000), statsTime},
	{"locks", "the longest Enqueue beside each verb that handles 50,000 jobs, and the longest heartbeat beside listings", 50_000, nil, locks},
	{"memory-args", "the storage in memory: drain jobs with 100 bytes of arguments, 8 slots", 500_000, waiting("500k", 500_000), drain},
	{"memory-bare", "the storage in memory: drain jobs without arguments, 8 slots", 500_000, bare(500_000), drain},
}

// content is what a queue holds before the clock starts. Numbers of jobs pass through count, which scales them.
type content struct {
	name string
	fill func(ctx context.Context, q queue, count func(int) int) error
}

func waiting(name string, n int) *content {
	return &content{name,
		func(ctx context.Context, q queue, count func(int) int) error { return fill(ctx, q, 0, count(n)) }}
}

// fill enqueues the jobs with the numbers from first on.
func fill(ctx context.Context, q queue, first, n int) error {
	for ; n > 0; first, n = first+1000, n-1000 {
		if err := q.enqueue(ctx, payloads(first, min(n, 1000))...); err != nil {
			return err
		}
	}
	return nil
}

func bare(n int) *content {
	return &content{"bare", func(ctx context.Context, q queue, count func(int) int) error {
		for n := count(n); n > 0; n -= 1000 {
			if err := q.enqueue(ctx, make([]string, min(n, 1000))...); err != nil {
				return err
			}
		}
		return nil
	}}
}

func finishedBeside(finished, waiting int) *content {
	return &content{fmt.Sprint("history-", waiting), func(ctx context.Context, q queue, count func(int) int) error {
		n := count(finished)
		if err := fill(ctx, q, 0, n); err != nil {
			return err
		}
		t := newTally(n)
		stop, err := q.work(ctx, slots, t.run)
		if err != nil {
			return err
		}
		err = errors.Join(untilSettled(ctx, q, t, n), stop(), t.check(n))
		if err != nil {
			return err
		}
		return fill(ctx, q, 0, count(waiting))
	}}
}

func dueBeside(future, waiting int) *content {
	return &content{"future", func(ctx context.Context, q queue, count func(int) int) error {
		later, nextYear := q.(scheduler), time.Now().AddDate(1, 0, 0)
		for n := count(future); n > 0; n -= 1000 {
			if err := later.enqueueAt(ctx, nextYear, payloads(0, min(n, 1000))...); err != nil {
				return err
			}
		}
		return fill(ctx, q, 0, count(waiting))
	}}
}

// untilSettled waits until all n jobs have run and been recorded. It does not look before they have run, so that
// looking does not slow them down.
func untilSettled(ctx context.Context, q queue, t *tally, n int) error {
	if err := t.await(ctx, n); err != nil {
		return err
	}
	return pollSettled(ctx, q, n, 200*time.Microsecond)
}

func pollSettled(ctx context.Context, q queue, n int, pause time.Duration) error {
	for {
		if done, err := q.settled(ctx, n); done || err != nil {
			return err
		}
		if ctx.Err() != nil {
			return errors.New("gave up when not all jobs were done")
		}
		time.Sleep(pause)
	}
}

// stored checks the peer's own counts.
func stored(ctx context.Context, q queue, waiting, done int) error {
	gotWaiting, gotDone, err := q.counts(ctx)
	if err == nil && (gotWaiting != waiting || gotDone != done && gotDone >= 0) {
		err = fmt.Errorf("it counts %d jobs waiting and %d done; %d and %d are right",
			gotWaiting, gotDone, waiting, done)
	}
	return err
}

// produce enqueues n jobs one by one, by some producers at once.
func produce(ctx context.Context, q queue, producers, n int) error {
	var group sync.WaitGroup
	errs := make([]error, producers)
	for i := range producers {
		group.Go(func() {
			for number := i; number < n && errs[i] == nil; number += producers {
				errs[i] = q.enqueue(ctx, payload(number))
			}
		})
	}
	group.Wait()
	return errors.Join(errs...)
}

func enqueueBy(producers int) func(ctx context.Context, s *stage) ([]measured, error) {
	return func(ctx context.Context, s *stage) ([]measured, error) {
		start := time.Now()
		if err := produce(ctx, s.queue, producers, s.n); err != nil {
			return nil, err
		}
		took := time.Since(start)
		return []measured{rate(s.name, s.n, took)}, stored(ctx, s.queue, s.n, 0)
	}
}

func batch(ctx context.Context, s *stage) ([]measured, error) {
	start := time.Now()
	if err := fill(ctx, s.queue, 0, s.n); err != nil {
		return nil, err
	}
	took := time.Since(start)
	return []measured{rate(s.name, s.n, took)}, stored(ctx, s.queue, s.n, 0)
}

func drain(ctx context.Context, s *stage) ([]measured, error) {
	return s.worked(ctx, func() error { return nil })
}

func mixed(ctx context.Context, s *stage) ([]measured, error) {
	return s.worked(ctx, func() error { return produce(ctx, s.queue, 4, s.n) })
}

// worked measures from the start of a worker until all jobs are recorded, those of produce among them.
func (s *stage) worked(ctx context.Context, produce func() error) ([]measured, error) {
	t := newTally(s.n)
	start := time.Now()
	stop, err := s.queue.work(ctx, slots, t.run)
	if err != nil {
		return nil, err
	}
	err = produce()
	if err == nil {
		err = untilSettled(ctx, s.queue, t, s.n)
	}
	took := time.Since(start)
	if err := errors.Join(err, stop(), t.check(s.n)); err != nil {
		return nil, err
	}
	return []measured{rate(s.name, s.n, took)}, stored(ctx, s.queue, 0, s.n)
}

// runSome measures until as many jobs have run as the workload has, of those that wait.
func runSome(ctx context.Context, s *stage) ([]measured, error) {
	waiting, done, err := s.queue.counts(ctx)
	if err != nil {
		return nil, err
	}
	t := newTally(waiting)
	start := time.Now()
	stop, err := s.queue.work(ctx, slots, t.run)
	if err != nil {
		return nil, err
	}
	err = t.await(ctx, s.n)
	took := time.Since(start)
	if err := errors.Join(err, stop(), t.checkOnce()); err != nil {
		return nil, err
	}
	ran := int(t.ran.Load())
	return []measured{rate(s.name, s.n, took)}, stored(ctx, s.queue, waiting-ran, done+ran)
}

func roundtrip(ctx context.Context, s *stage) ([]measured, error) {
	return s.roundtrips(ctx, func(number int) error {
		return s.queue.enqueue(ctx, stampedPayload(number, time.Now().UnixNano()))
	})
}

func roundtrip2(ctx context.Context, s *stage) (all []measured, err error) {
	sender, err := startChild(ctx, s.child(1))
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, sender.close()) }()
	return s.roundtrips(ctx, func(number int) error {
		_, err := sender.ask("send %d", number)
		return err
	})
}

// roundtrips has one job after another sent to a worker that is idle.
func (s *stage) roundtrips(ctx context.Context, send func(number int) error) ([]measured, error) {
	const first = 8 // are not counted: everything is new to them
	n := first + s.n
	t, started := newTally(n), make(chan time.Duration, 1)
	stop, err := s.queue.work(ctx, slots, func(payload string) {
		now := time.Now().UnixNano()
		started <- time.Duration(now - t.stamped(payload))
	})
	if err != nil {
		return nil, err
	}
	var took []time.Duration
	for number := 0; number < n && err == nil; number++ {
		// Long enough for the worker to be idle again, and not in step with one that looks at intervals.
		time.Sleep(time.Millisecond + rand.N(2*time.Millisecond))
		err = send(number)
		if err != nil {
			break
		}
		select {
		case d := <-started:
			took = append(took, d)
		case <-ctx.Done():
			err = fmt.Errorf("gave up waiting for job %d of %d", number, n)
		}
	}
	if err == nil {
		err = pollSettled(ctx, s.queue, n, time.Millisecond)
	}
	if err := errors.Join(err, stop(), t.check(n)); err != nil {
		return nil, err
	}
	took = took[first:]
	return []measured{
		milliseconds(s.name+" p50", percentile(took, 0.50)), milliseconds(s.name+" p99", percentile(took, 0.99)),
	}, stored(ctx, s.queue, 0, n)
}

// child is another process on the same queue, for jobs with numbers below n.
func (s *stage) child(n int) childSpec {
	return childSpec{Peer: s.peer.name, Dir: s.dir, Slots: slots, Jobs: n}
}

// withCrew runs do with some worker processes at work, and checks that they have run n jobs, as do returns it.
func (s *stage) withCrew(
	ctx context.Context, size int, spec childSpec, do func(crew) (n int, err error),
) (last time.Time, err error) {
	all, err := startCrew(ctx, size, spec)
	if err != nil {
		return last, err
	}
	defer func() { err = errors.Join(err, all.close()) }()
	n, err := do(all)
	if err != nil {
		return last, err
	}
	t := newTally(spec.Jobs)
	last, err = all.stop(t)
	return last, errors.Join(err, t.check(n), stored(ctx, s.queue, 0, n))
}

func processes(size int) func(ctx context.Context, s *stage) ([]measured, error) {
	return func(ctx context.Context, s *stage) ([]measured, error) {
		var took time.Duration
		_, err := s.withCrew(ctx, size, s.child(s.n), func(all crew) (int, error) {
			start := time.Now()
			err := all.tell("work")
			if err == nil {
				err = pollSettled(ctx, s.queue, s.n, 2*time.Millisecond)
			}
			took = time.Since(start)
			return s.n, err
		})
		return []measured{rate(s.name, s.n, took)}, err
	}
}

func hammer(size int) func(ctx context.Context, s *stage) ([]measured, error) {
	return func(ctx context.Context, s *stage) ([]measured, error) {
		var longest time.Duration
		_, err := s.withCrew(ctx, size, s.child(s.n), func(all crew) (sent int, err error) {
			if err := all.tell("work"); err != nil {
				return 0, err
			}
			most := s.n / size
			answers, err := all.ask(func(i int) string {
				return fmt.Sprintf("hammer %d %d %v", i*most, most, s.long(3*time.Second))
			})
			for _, said := range answers {
				longest, sent = max(longest, said.Longest), sent+said.Sent
			}
			if err == nil {
				err = pollSettled(ctx, s.queue, sent, 2*time.Millisecond)
			}
			return sent, err
		})
		return []measured{milliseconds(s.name+" longest", longest)}, err
	}
}

func slow(ctx context.Context, s *stage) ([]measured, error) {
	const size, each = 2, 50 * time.Millisecond
	spec := s.child(s.n)
	spec.Sleep = each
	var start time.Time
	last, err := s.withCrew(ctx, size, spec, func(all crew) (int, error) {
		if err := all.tell("work"); err != nil {
			return 0, err
		}
		start = time.Now()
		if err := s.queue.enqueue(ctx, payloads(0, s.n)...); err != nil {
			return 0, err
		}
		return s.n, pollSettled(ctx, s.queue, s.n, 2*time.Millisecond)
	})
	ideal := each * time.Duration((s.n+size*slots-1)/(size*slots))
	return []measured{{s.name, "x ideal", last.Sub(start).Seconds() / ideal.Seconds(), true}}, err
}

func idle(ctx context.Context, s *stage) ([]measured, error) {
	var used float64
	_, err := s.withCrew(ctx, 1, s.child(s.n), func(all crew) (int, error) {
		err := all.tell("work")
		if err == nil {
			// By the worker's own process: not every queue would hear of another's job.
			_, err = all[0].ask("send 0")
		}
		if err == nil {
			err = pollSettled(ctx, s.queue, s.n, time.Millisecond)
		}
		if err != nil {
			return 0, err
		}
		time.Sleep(s.long(time.Second)) // what follows a start and a job is not idleness
		before, err := all[0].ask("usage")
		if err != nil {
			return 0, err
		}
		start := time.Now()
		time.Sleep(s.long(20 * time.Second))
		after, err := all[0].ask("usage")
		used = (after.CPU - before.CPU).Seconds() / time.Since(start).Minutes()
		return s.n, err
	})
	return []measured{{s.name, "CPU s/min", used, true}}, err
}

func footprint(ctx context.Context, s *stage) ([]measured, error) {
	var peak int64
	_, err := s.withCrew(ctx, 1, s.child(s.n), func(all crew) (int, error) {
		err := all.tell("work")
		if err == nil {
			err = pollSettled(ctx, s.queue, s.n, 20*time.Millisecond)
		}
		if err != nil {
			return 0, err
		}
		said, err := all[0].ask("usage")
		peak = said.Peak
		return s.n, err
	})
	return []measured{{s.name, "MB", float64(peak) / 1e6, true}}, err
}

package crashlab

import (
	"context"
	"errors"
	"math/rand/v2"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/pinion-queue/pinion"
)

// kinds are the tasks that producers enqueue, each with its share of the jobs in percent.
var kinds = []struct {
	name  string
	share int
}{
	{"quick", 42},   // takes less than 10 ms
	{"slow", 20},    // takes 50 to 400 ms
	{"flaky", 8},    // fails once or twice, then succeeds
	{"doomed", 3},   // always fails
	{"hopeless", 2}, // fails with a permanent error
	{"panics", 4},   // panics in its first attempt
	{"exits", 3},    // calls runtime.Goexit in its first attempt
	{"late", 4},     // runs into its timeout in its first attempt
	{"deaf", 2},     // ignores its timeout in its first attempt
	{"spawns", 12},  // enqueues a quick job
}

// Two more tasks, which only the parent enqueues, and seldom.
const (
	kindPoison     = "poison"      // always kills its process
	kindPoisonOnce = "poison once" // kills its process in its first attempt
)

func kindNames() []string {
	names := []string{kindPoison, kindPoisonOnce}
	for _, kind := range kinds {
		names = append(names, kind.name)
	}
	return names
}

func isOurTask(name string) bool { return slices.Contains(kindNames(), name) }

// killsProcess reports whether jobs of a kind kill the process that runs them.
func killsProcess(kind string) bool { return strings.HasPrefix(kind, kindPoison) }

// neverSucceeds reports whether jobs of a kind end in the dead-letter queue in any case.
func neverSucceeds(kind string) bool {
	return kind == "doomed" || kind == "hopeless" || kind == kindPoison
}

func randomKind(random *rand.Rand) string {
	n := random.IntN(100)
	for _, kind := range kinds {
		n -= kind.share
		if n < 0 {
			return kind.name
		}
	}
	panic("the shares of the kinds do not add up to 100")
}

// taskArgs are the arguments of every task.
type taskArgs struct {
	Millis int // how long the task takes when it succeeds
	Fails  int // how many attempts of a flaky task fail
}

type taskFunc func(ctx context.Context, job *pinion.Job, args taskArgs) error

var errTask = errors.New("the task fails")

// tasks returns the registry of the child's worker.
func (c *child) tasks() *pinion.Registry {
	const timeout = 30 * time.Millisecond // of the tasks that are too slow for it
	poison := &pinion.RetryPolicy{MaxRetries: c.PoisonRetries}
	registry := new(pinion.Registry)
	for _, task := range []struct {
		name    string
		run     taskFunc
		timeout time.Duration
		retry   *pinion.RetryPolicy
	}{
		{name: "quick", run: succeed},
		{name: "slow", run: succeed},
		{name: "flaky", run: failAtFirst},
		{name: "doomed", run: fail},
		{name: "hopeless", run: failPermanently},
		{name: "panics", run: firstThen(panics, succeed)},
		{name: "exits", run: firstThen(exits, succeed)},
		{name: "late", run: firstThen(waitForTimeout, returnAtOnce), timeout: timeout},
		{name: "deaf", run: firstThen(ignoreTimeout, returnAtOnce), timeout: timeout},
		{name: "spawns", run: c.enqueueAnother},
		{name: kindPoison, run: c.killProcess, retry: poison},
		{name: kindPoisonOnce, run: firstThen(c.killProcess, succeed)},
	} {
		registry.Add(pinion.Task[taskArgs]{
			Name:    task.name,
			Timeout: task.timeout,
			Retry:   task.retry,
			Run: func(ctx context.Context, args taskArgs) error {
				return c.attempt(ctx, task.name, args, task.run)
			},
		})
	}
	return registry
}

// attempt runs a task, and writes down its start and its end. The result of the job is the claim under which
// it ran.
func (c *child) attempt(ctx context.Context, kind string, args taskArgs, run taskFunc) error {
	job, _ := pinion.JobFromContext(ctx)
	claimed := strconv.FormatInt(job.HeartbeatAt.UnixMicro(), 10)
	c.log.write(logStart, claimName(job), strconv.Itoa(job.Attempts), claimed, kind)
	if err := pinion.SetResult(ctx, job.Claim); err != nil {
		return err
	}
	outcome := outcomePanicked // unless run returns
	defer func() { c.log.write(logEnd, claimName(job), outcome) }()
	err := run(ctx, job, args)
	outcome = outcomeOf(ctx, err)
	return err
}

func outcomeOf(ctx context.Context, err error) string {
	cause := context.Cause(ctx)
	switch {
	case err == nil:
		return outcomeOK
	case errors.Is(cause, pinion.ErrLeaseLost):
		return outcomeLost
	case errors.Is(cause, pinion.ErrShutdown):
		return outcomeInterrupted
	default:
		return outcomeFailed
	}
}

func succeed(ctx context.Context, _ *pinion.Job, args taskArgs) error {
	return sleep(ctx, time.Duration(args.Millis)*time.Millisecond)
}

func fail(context.Context, *pinion.Job, taskArgs) error { return errTask }

func failPermanently(context.Context, *pinion.Job, taskArgs) error { return pinion.Permanent(errTask) }

func failAtFirst(ctx context.Context, job *pinion.Job, args taskArgs) error {
	if job.Attempts <= args.Fails {
		return errTask
	}
	return succeed(ctx, job, args)
}

// firstThen returns a task that is first in its first attempt and then in the later ones.
func firstThen(first, then taskFunc) taskFunc {
	return func(ctx context.Context, job *pinion.Job, args taskArgs) error {
		if job.Attempts == 1 {
			return first(ctx, job, args)
		}
		return then(ctx, job, args)
	}
}

func returnAtOnce(context.Context, *pinion.Job, taskArgs) error { return nil }

func panics(context.Context, *pinion.Job, taskArgs) error { panic("the task panics") }

func exits(context.Context, *pinion.Job, taskArgs) error {
	runtime.Goexit()
	return nil
}

func waitForTimeout(ctx context.Context, _ *pinion.Job, _ taskArgs) error {
	<-ctx.Done()
	return ctx.Err()
}

func ignoreTimeout(context.Context, *pinion.Job, taskArgs) error {
	time.Sleep(100 * time.Millisecond)
	return errTask
}

func (c *child) enqueueAnother(ctx context.Context, _ *pinion.Job, args taskArgs) error {
	next := pinion.NewJob("quick", args.Millis, 0)
	next.ID = pinion.NewID()
	return enqueue(ctx, c.storage, c.log, next)
}

func (c *child) killProcess(_ context.Context, job *pinion.Job, _ taskArgs) error {
	c.log.write(logEnd, claimName(job), outcomeKilled)
	die()
	return nil
}

package crashlab

import (
	"context"
	"math/rand/v2"
	"strconv"
	"time"

	"github.com/pinion-queue/pinion"
)

// produce enqueues random jobs, singly and in batches, until ctx ends.
func (c *child) produce(ctx context.Context, random *rand.Rand) {
	for ctx.Err() == nil {
		pending, err := c.storage.Size(ctx)
		if err == nil && pending > c.Backlog {
			sleep(ctx, 50*time.Millisecond+randomTime(random, 100*time.Millisecond))
			continue
		}
		if err := enqueue(ctx, c.storage, c.log, randomBatch(random)...); err != nil && ctx.Err() == nil {
			c.log.write(logError, "enqueue", strconv.Quote(err.Error()))
		}
		sleep(ctx, randomTime(random, 8*time.Millisecond))
	}
}

// enqueue enqueues jobs. It writes down before the call which jobs it tries, and after it that they were
// acknowledged.
func enqueue(ctx context.Context, storage pinion.Storage, log *logFile, jobs ...*pinion.Job) error {
	var tried, ids []string
	for _, job := range jobs {
		tried = append(tried, job.ID+":"+job.Task)
		ids = append(ids, job.ID)
	}
	log.write(logTry, tried...)
	if err := storage.Enqueue(ctx, jobs...); err != nil {
		return err
	}
	log.write(logAck, ids...)
	return nil
}

// randomBatch returns one job, or now and then up to 21.
func randomBatch(random *rand.Rand) []*pinion.Job {
	n := 1
	if random.IntN(8) == 0 {
		n = 2 + random.IntN(20)
	}
	jobs := make([]*pinion.Job, n)
	for i := range jobs {
		jobs[i] = newJob(randomKind(random), random)
	}
	return jobs
}

// newJob returns a job of a kind with a random queue, priority, due time and key.
func newJob(kind string, random *rand.Rand) *pinion.Job {
	args := taskArgs{Millis: random.IntN(10), Fails: 1 + random.IntN(2)}
	if kind == "slow" {
		args.Millis = 50 + random.IntN(350)
	}
	job := pinion.NewJob(kind, args.Millis, args.Fails)
	job.ID = pinion.NewID()
	job.Queue = []string{"", "", "mail", "files"}[random.IntN(4)]
	job.Priority = random.IntN(3)
	if random.IntN(6) == 0 {
		job.RunAt = time.Now().Add(randomTime(random, 300*time.Millisecond))
	}
	if random.IntN(6) == 0 {
		job.Key = "key of " + job.ID
	}
	return job
}

package crashlab

import (
	"context"
	"math/rand/v2"
	"strconv"
	"time"

	"github.com/pinion-queue/pinion"
)

// prune deletes finished jobs again and again until ctx ends. It first writes down which jobs it saw
// finished, because nothing is left of them for the judge afterwards.
func (c *child) prune(ctx context.Context, storage pinion.Inspector) {
	seen := make(map[string]bool) // by id
	random := rand.New(rand.NewPCG(c.Seed, 0))
	for {
		err := sleep(ctx, 50*time.Millisecond+randomTime(random, 200*time.Millisecond))
		if err != nil {
			return
		}
		before := time.Now().Add(-300*time.Millisecond - randomTime(random, 3*time.Second))
		var saw []string
		for job, err := range storage.Jobs(ctx, pinion.Filter{Status: pinion.StatusSuccess}) {
			if err != nil || seen[job.ID] || !job.FinishedAt.Before(before) {
				continue
			}
			seen[job.ID] = true
			result := string(job.Result)
			if result == "" {
				result = "none"
			}
			saw = append(saw, claimName(job)+":"+result)
		}
		if len(saw) > 0 {
			c.log.write(logSaw, saw...)
		}
		c.dieIfPlanned("prune")
		if _, err := storage.Prune(ctx, before); err != nil && ctx.Err() == nil {
			c.log.write(logError, "prune", strconv.Quote(err.Error()))
		}
	}
}

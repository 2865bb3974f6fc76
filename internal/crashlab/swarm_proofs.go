package crashlab

import (
	"context"
	"fmt"
	"time"

	"github.com/pinion-queue/pinion"
)

func newProof(name Proof) proof {
	switch name {
	case ProofExactlyOnce:
		return exactlyOnce{}
	case ProofLimit:
		return limit{}
	case ProofPeriodic:
		return &periodic{lastThere: time.Now()}
	}
	panic("crashlab: no such Proof: " + string(name))
}

// ---- Exactly once ----

type exactlyOnce struct{}

func (exactlyOnce) size() (processes, slots int) { return 4, 4 }

func (exactlyOnce) prepare(ctx context.Context, w *swarm) error {
	for _, statement := range []string{`CREATE TABLE @sums (n INTEGER NOT NULL)`, `INSERT INTO @sums VALUES (0)`} {
		if _, err := w.db.ExecContext(ctx, w.SQL.text(statement)); err != nil {
			return err
		}
	}
	w.total = 2 * w.Jobs
	return w.enqueueAll(ctx, func() *pinion.Job { return pinion.NewJob(exactTask, true) })
}

func (exactlyOnce) look(context.Context, *swarm) error { return nil }

func (exactlyOnce) judge(ctx context.Context, w *swarm, report *SwarmReport, left leftovers) error {
	sum, err := w.count(ctx, `SELECT n FROM @sums`)
	if sum != w.total {
		report.violation("the sum is %d, want %d", sum, w.total)
	}
	if report.Kills > 0 && report.Runs == w.total {
		report.violation("no job ran twice, which shows little")
	}
	w.judgeAllDone(report, left.jobs)
	return err
}

// ---- A limit ----

type limit struct{}

// swarmLimit is the limit of the queue.
const swarmLimit = 3

func (limit) size() (processes, slots int) { return 8, 8 }

func (limit) prepare(ctx context.Context, w *swarm) error {
	if err := w.storage.SetLimit(ctx, "", swarmLimit); err != nil {
		return err
	}
	w.total = w.Jobs
	return w.enqueueAll(ctx, func() *pinion.Job { return pinion.NewJob(shortTask) })
}

func (limit) look(context.Context, *swarm) error { return nil }

func (limit) judge(_ context.Context, w *swarm, report *SwarmReport, left leftovers) error {
	if report.MostAtOnce > swarmLimit {
		report.violation("%d jobs ran at the same time, want at most %d", report.MostAtOnce, swarmLimit)
	}
	if report.MostAtOnce < swarmLimit {
		report.violation("only %d jobs ran at the same time, which shows little", report.MostAtOnce)
	}
	w.judgeAllDone(report, left.jobs)
	return nil
}

// ---- A periodic job ----

type periodic struct {
	lastThere  time.Time // when the next run was last seen in the storage
	longestGap time.Duration
}

func (*periodic) size() (processes, slots int) { return 3, 4 }

func (*periodic) prepare(_ context.Context, w *swarm) error {
	w.total = w.Jobs
	return nil
}

// look checks that at most one run is stored that has not ended.
func (p *periodic) look(ctx context.Context, w *swarm) error {
	n, err := w.count(ctx, `SELECT count(*) FROM @jobs WHERE status IN ('PENDING','RUNNING')`)
	if err != nil {
		return err
	}
	if n > 1 {
		return fmt.Errorf("%d runs are PENDING or RUNNING, want at most 1", n)
	}
	now := time.Now()
	p.longestGap = max(p.longestGap, now.Sub(p.lastThere))
	if n == 1 {
		p.lastThere = now
	}
	return nil
}

func (p *periodic) judge(_ context.Context, _ *swarm, report *SwarmReport, left leftovers) error {
	report.LongestGap = p.longestGap
	if p.longestGap > time.Minute { // a busy machine says little about time
		report.violation("the next run was missing for %v", p.longestGap)
	}
	if report.MostAtOnce > 1 {
		report.violation("%d runs at the same time, want 1", report.MostAtOnce)
	}
	jobOf := make(map[string]string) // by slot
	ran := make(map[string]bool)     // by id
	for _, run := range left.runs {
		other, known := jobOf[run.slot]
		if known && other != run.id {
			report.violation("%s has the jobs %s and %s", run.slot, other, run.id)
		}
		jobOf[run.slot] = run.id
		ran[run.id] = true
	}
	withdrawn := 0
	for _, job := range left.jobs {
		switch {
		case job.Status == pinion.StatusPending || ran[job.ID]:
		case job.Canceled && job.Attempts == 0:
			withdrawn++
		default:
			report.violation("job %s is %s after %d attempts, but it never ran: %s",
				job.ID, job.Status, job.Attempts, job.Error)
		}
	}
	// A worker that moves the next run cancels it, and then deletes it. One that ends in between leaves it canceled.
	processes, _ := p.size()
	ended := report.Kills + processes
	if withdrawn > ended {
		report.violation("%d runs are canceled, and only %d workers ended, which may leave one each", withdrawn, ended)
	}
	return nil
}

package pinion

import (
	"cmp"
	"container/heap"
	"context"
	"math"
	"slices"
	"sync"
	"time"
)

// claim is one Dequeue.
type claim struct {
	worker string
	queues []string // sorted; empty: every queue
	slots  int      // beyond so many jobs it takes none that was claimed before
	max    int
	wait   bool // it waits until a job is due

	jobs    []*Job     // that it gets if the transaction under way commits
	full    bool       // the next job in line must wait for a free slot, so it takes no more
	settled bool       // the transaction that it came with has committed
	answer  chan error // capacity 1
}

func newClaim(opts DequeueOptions) *claim {
	names := slices.Clone(opts.Queues)
	for i, name := range names {
		names[i] = cmp.Or(name, defaultQueue)
	}
	slices.Sort(names)
	slots := opts.Max - opts.Ahead
	return &claim{
		worker: opts.Worker,
		queues: slices.Compact(names),
		slots:  slots,
		max:    opts.Max,
		wait:   slots > 0 && !opts.NoWait,
		answer: make(chan error, 1),
	}
}

// claims are the Dequeues that have not returned. They are served at the end of each transaction in which something may
// have become due, and a job that is enqueued while one waits may be handed over at once. A goroutine looks for what
// this process does not do itself: jobs of other processes, and due times.
//
// The writer's connMu guards all fields but watch, timer and stopped.
type claims struct {
	w    *writer
	file string        // the database
	poll time.Duration // how often to look for other processes' writes; 0: be woken by the operating system
	// intact returns an error if the file was moved away; then claims must not wait in vain.
	intact func() error

	waiting  []*claim  // in the order in which they came
	mayBeDue bool      // something may have become due since the last look
	lookedIn int64     // the number of the transaction of the last look
	nextDue  time.Time // when the next future job is due; zero: there is none
	version  int64     // PRAGMA data_version when last asked for

	watch   *watch        // reports writes to the -wal by any process; nil: poll
	timer   *time.Timer   // for the next look; nil until a claim waits
	stopped chan struct{} // closed by stop
	wg      sync.WaitGroup
}

const (
	backstopPoll = time.Second           // beside the operating system's wake-ups
	defaultPoll  = 20 * time.Millisecond // where there are none
)

// serve returns when c has jobs, in c.jobs, or need not wait for them. Their transaction has been committed.
func (q *claims) serve(ctx context.Context, c *claim) error {
	err := q.w.doWithin(ctx, lockPatience, func(*transaction) { q.join(c) })
	if err != nil {
		return err
	}
	select {
	case err := <-c.answer:
		return err
	case <-ctx.Done():
	}
	if q.leave(c) {
		return ctx.Err()
	}
	return <-c.answer
}

// join adds a claim inside a transaction, at whose end it is served.
func (q *claims) join(c *claim) {
	q.waiting = append(q.waiting, c)
	q.mayBeDue = true
}

// leave removes a claim that waits. It returns false if the claim has been answered.
func (q *claims) leave(c *claim) (left bool) {
	q.w.between(func(*session) {
		at := slices.Index(q.waiting, c)
		if at >= 0 {
			q.waiting = slices.Delete(q.waiting, at, at+1)
			left = true
		}
	})
	return left
}

// fail answers all claims with an error.
func (q *claims) fail(err error) {
	q.w.between(func(*session) {
		for _, c := range q.waiting {
			c.answer <- err
		}
		q.waiting = nil
	})
}

// ---- Inside a transaction ----

// serveDue gives the claims what is due, if something may have become due.
func (q *claims) serveDue(tx *transaction) {
	if len(q.waiting) == 0 || !q.mayBeDue {
		return
	}
	q.mayBeDue = false
	q.lookedIn = tx.number
	now := q.look(tx)
	if now.due != nil && now.dueAt() <= seconds(tx.now) {
		tx.exec(`UPDATE jobs SET future=0 WHERE rowid IN (SELECT rowid FROM jobs INDEXED BY jobs_future
			WHERE status='PENDING' AND future=1 AND run_at<=? ORDER BY run_at LIMIT 1000)`, seconds(tx.now))
		now = q.look(tx)
	}
	q.nextDue = now.nextDue()
	starving := false // a claim waits on
	for _, c := range q.waiting {
		if len(c.jobs) == 0 {
			c.claimReady(tx, now)
		}
		starving = starving || len(c.jobs) == 0 && c.wait
	}
	if starving {
		q.schedule()
	}
}

// ended answers the claims that were served, or makes all wait as before when the transaction was rolled back.
func (q *claims) ended(committed bool) {
	if !committed {
		q.waiting = slices.DeleteFunc(q.waiting, func(c *claim) bool { return !c.settled })
		for _, c := range q.waiting {
			c.jobs, c.full = nil, false
		}
		q.mayBeDue = true
		if len(q.waiting) > 0 {
			q.timer.Reset(0) // if the next look fails too, the claims get its error
		}
		return
	}
	q.waiting = slices.DeleteFunc(q.waiting, func(c *claim) bool {
		c.settled = true
		if len(c.jobs) == 0 && c.wait {
			return false
		}
		c.answer <- nil
		return true
	})
}

// handOver adds a job that is about to be stored to a claim that waits, and returns the claim. The job is to be stored
// as RUNNING then, which saves the claim its own statements. It returns nil if the job must be stored as PENDING: it is not
// due, or no claim takes it.
func (q *claims) handOver(tx *transaction, row *newRow) *claim {
	if len(q.waiting) == 0 || row.runAt > seconds(tx.now) {
		return nil
	}
	if q.lookedIn != tx.number {
		q.mayBeDue = true // other processes may have stored jobs, which come first
	}
	q.serveDue(tx)
	for _, c := range q.waiting {
		if !c.full && len(c.jobs) < c.max && c.takesFrom(row.queue) {
			job := row.running(c.worker, tx.now)
			c.jobs = append(c.jobs, job)
			return c
		}
	}
	return nil
}

func (c *claim) takesFrom(queue string) bool {
	return len(c.queues) == 0 || slices.Contains(c.queues, queue)
}

// readySnapshot is what one statement finds out about the jobs that are PENDING.
type readySnapshot struct {
	first, last any // the first and the last queue with ready jobs, by name; nil: no job is ready
	due         any // run_at of the next future job; nil: there is none
}

func (q *claims) look(tx *transaction) (now readySnapshot) {
	const ready = `SELECT queue FROM jobs INDEXED BY jobs_ready
		WHERE status='PENDING' AND future=0 AND queue>='' AND queue<x'' ORDER BY queue `
	for v := range tx.rows(`SELECT (` + ready + `LIMIT 1), (` + ready + `DESC LIMIT 1),
		(SELECT run_at FROM jobs INDEXED BY jobs_future WHERE status='PENDING' AND future=1 ORDER BY run_at LIMIT 1)`) {
		now = readySnapshot{v[0], v[1], v[2]}
	}
	return now
}

// dueAt returns when the next future job is due. A time that is not a number counts as 0, and such a job is never due.
func (r readySnapshot) dueAt() float64 {
	at, _ := r.due.(float64)
	return at
}

// nextDue returns that as a time, rounded up: a look before the time would find nothing, over and over.
func (r readySnapshot) nextDue() time.Time {
	at := r.dueAt()
	next := fromSeconds(at)
	if seconds(next) < at {
		next = next.Add(time.Microsecond)
	}
	return next
}

// ---- The order of claims ----

// head is the first ready job of a queue.
type head struct {
	queue    string
	priority int
	rowid    int64
}

// before reports whether h is claimed before o.
func (h head) before(o head) bool {
	return h.priority > o.priority || h.priority == o.priority && h.rowid < o.rowid
}

// heads is a container/heap of the heads of several queues.
type heads []head

func (h heads) Len() int           { return len(h) }
func (h heads) Less(i, j int) bool { return h[i].before(h[j]) }
func (h heads) Swap(i, j int)      { h[i], h[j] = h[j], h[i] }
func (h *heads) Push(v any)        { *h = append(*h, v.(head)) }
func (h *heads) Pop() any {
	last := (*h)[len(*h)-1]
	*h = (*h)[:len(*h)-1]
	return last
}

// second returns the head after the first one, or nil.
func (h heads) second() *head {
	switch {
	case len(h) < 2:
		return nil
	case len(h) == 2 || h[1].before(h[2]):
		return &h[1]
	default:
		return &h[2]
	}
}

// claimReady takes ready jobs of the claim's queues, in the order of priority and age over all of them. One query with
// "queue IN (…)", or without a queue, would sort the whole backlog. This finds the head of each queue in the index, and
// takes jobs from the queue with the first head for as long as that comes first.
func (c *claim) claimReady(tx *transaction, now readySnapshot) {
	line := c.heads(tx, now)
	heap.Init(&line)
	for len(line) > 0 && len(c.jobs) < c.max && !c.full && tx.err == nil {
		next := c.claimFrom(tx, line[0].queue, line.second())
		if next == nil {
			heap.Pop(&line)
			continue
		}
		line[0] = *next
		heap.Fix(&line, 0)
	}
}

// heads returns the heads of the claim's queues.
func (c *claim) heads(tx *transaction, now readySnapshot) (found heads) {
	queues := c.queues
	if now.first == nil {
		return nil
	}
	if len(queues) == 0 && now.first == now.last {
		queues = []string{text(now.first)}
	}
	if len(queues) == 1 { // it has no rival, so its head need not be known
		return heads{{queue: queues[0], rowid: math.MinInt64}}
	}
	const ready = `SELECT queue, priority, rowid FROM jobs INDEXED BY jobs_ready WHERE status='PENDING' AND future=0 AND queue`
	for _, queue := range queues {
		for v := range tx.rows(ready+`=? ORDER BY priority DESC, rowid LIMIT 1`, queue) {
			found = append(found, head{text(v[0]), int(integer(v[1])), integer(v[2])})
		}
	}
	if len(queues) > 0 {
		return found
	}
	for from, more := "", true; more; {
		more = false
		// queue<x'' excludes names that are not text: bytes sort behind all text.
		for v := range tx.rows(ready+`>=? AND queue<x'' ORDER BY queue, priority DESC, rowid LIMIT 1`, from) {
			found = append(found, head{text(v[0]), int(integer(v[1])), integer(v[2])})
			from, more = text(v[0])+"\x00", true // the name that sorts next
		}
	}
	return found
}

// claimFrom takes jobs of one queue, until the claim has enough or the head of another queue comes first. It returns the
// head of what is left of the queue, or nil.
func (c *claim) claimFrom(tx *transaction, queue string, rival *head) (next *head) {
	var taken []any // rowids
	unusable := make(map[int64]error)
	for v := range tx.rows(`SELECT rowid, `+claimColumns+` FROM jobs INDEXED BY jobs_ready
		WHERE status='PENDING' AND future=0 AND queue=? ORDER BY priority DESC, rowid`, queue) {
		rowid, job, err := jobOf(v)
		at := head{queue, job.Priority, rowid}
		first := len(taken) == 0 && len(unusable) == 0 // even if another process has changed it
		if rival != nil && !first && rival.before(at) {
			next = &at
			break
		}
		if err != nil {
			unusable[rowid] = err
			continue
		}
		if len(c.jobs) >= c.slots && (job.Attempts > 0 || job.Claim > 0) {
			c.full = true
			break
		}
		job.Status, job.Attempts, job.Claim = StatusRunning, job.Attempts+1, max(job.Claim+1, tx.now.UnixMicro())
		job.HeartbeatAt, job.Worker = microTime(tx.now), c.worker
		c.jobs = append(c.jobs, job)
		taken = append(taken, rowid)
		if len(c.jobs) == c.max {
			break
		}
	}
	for rowid, reason := range unusable {
		bury(tx, rowid, reason)
	}
	for rowids := range slices.Chunk(taken, perStatement) {
		args := append([]any{tx.now.UnixMicro(), seconds(tx.now), c.worker}, rowids...)
		args = append(args, make([]any, perStatement-len(rowids))...)
		tx.exec(`UPDATE jobs SET status='RUNNING', attempts=attempts+1, claim=max(claim+1, ?), heartbeat_at=?, worker=?
			WHERE rowid IN (?, ?, ?, ?, ?, ?, ?, ?)`, args...) // a NULL is no rowid
	}
	return next
}

// bury dead-letters a row that another program wrote and that no worker can run, so that it does not block those behind
// it.
func bury(tx *transaction, rowid int64, reason error) {
	tx.exec(`UPDATE jobs SET status='FAILED', error=?, finished_at=? WHERE rowid=?`, ErrorText(reason), seconds(tx.now), rowid)
	tx.exec(toDLQ+`rowid=?`, rowid)
}

// ---- The goroutine that looks for work ----

// schedule sets the timer for the next look. The first time it starts the goroutine, which a storage that only enqueues
// does not need.
func (q *claims) schedule() {
	if q.timer == nil {
		if q.poll == 0 {
			q.watch = watchFile(q.file + "-wal")
		}
		q.timer = time.NewTimer(0) // finds what was written before the watch began
		q.wg.Go(q.lookForWork)
		return
	}
	pause := q.poll
	if pause == 0 && q.watch != nil {
		pause = backstopPoll
	} else if pause == 0 {
		pause = defaultPoll
	}
	if !q.nextDue.IsZero() {
		pause = min(pause, time.Until(q.nextDue))
	}
	q.timer.Reset(pause)
}

// lookForWork has the claims served when another process has written, or when a job becomes due. It ends with stop.
func (q *claims) lookForWork() {
	for {
		worthwhile := false
		select {
		case <-q.stopped:
			return
		case <-q.watch.wake():
			// The last event of a commit precedes its end, so a look at once would come too early. To take the write
			// lock is to wait for that end.
			q.w.between(func(*session) { worthwhile = len(q.waiting) > 0 })
		case <-q.timer.C:
			worthwhile = q.timeToLook()
		}
		if !worthwhile {
			continue
		}
		err := q.w.doWithin(context.Background(), lockPatience, func(*transaction) { q.mayBeDue = true })
		if err != nil {
			q.fail(err)
		}
	}
}

// timeToLook reports whether claims wait and something may be due for them. If not, it schedules the next look.
func (q *claims) timeToLook() (due bool) {
	q.w.between(func(r *session) {
		if len(q.waiting) == 0 {
			return
		}
		version := integer(r.value("PRAGMA data_version"))
		changed := version != q.version || r.err != nil
		q.version = version
		due = q.mayBeDue || changed || !q.nextDue.IsZero() && !time.Now().Before(q.nextDue) || q.intact() != nil
		if !due {
			q.schedule()
		}
	})
	return due
}

// stop answers all claims with ErrClosed, and waits for the goroutine. The writer must have been stopped.
func (q *claims) stop() {
	q.fail(ErrClosed)
	close(q.stopped)
	q.wg.Wait()
	q.watch.close()
}

package pinion

import (
	"cmp"
	"container/heap"
	"context"
	"iter"
	"math"
	"slices"
	"sync"
	"time"

	"github.com/pinion-queue/pinion/internal/rules"
)

// claim is one Dequeue under way. The token that it gives to its jobs is Job.Claim.
type claim struct {
	worker string
	lease  time.Duration
	queues []string // sorted; empty: every queue
	tasks  []string // empty: every task
	slots  int      // how many free slots there are; after so many jobs it takes none that needs one
	max    int
	wait   bool // it waits until a job is due

	knows  map[string]bool // by the name in a row: whether the name is among tasks
	joined bool            // the transaction in which it joined has committed
	answer chan error      // capacity 1

	// What the transaction under way does for it:
	jobs   []*Job
	full   bool           // the next job in line needs a free slot, so it takes no more
	rowids []any          // of jobs that are not yet RUNNING in the table
	passed map[int64]bool // rowids of ready jobs of other tasks
	buried int            // how many jobs it has dead-lettered because no worker can run them
}

func newClaim(opts DequeueOptions) *claim {
	queues := slices.Clone(opts.Queues)
	for i, name := range queues {
		queues[i] = cmp.Or(name, defaultQueue)
	}
	slices.Sort(queues)
	slots := opts.Max - opts.Ahead
	return &claim{
		worker: opts.Worker,
		lease:  rules.Lease(cmp.Or(opts.Lease, defaultLease)),
		queues: slices.Compact(queues),
		tasks:  slices.Clone(opts.Tasks),
		slots:  slots,
		max:    opts.Max,
		wait:   slots > 0 && !opts.NoWait,
		knows:  make(map[string]bool),
		answer: make(chan error, 1),
	}
}

// reset makes the claim wait as before after a rollback.
func (c *claim) reset() {
	c.jobs, c.full, c.rowids, c.passed, c.buried = nil, false, nil, nil, 0
}

func (c *claim) wantsQueue(queue string) bool {
	return len(c.queues) == 0 || slices.Contains(c.queues, queue)
}

func (c *claim) wantsTask(task string) bool {
	if len(c.tasks) == 0 {
		return true
	}
	known, asked := c.knows[task]
	if !asked {
		known = slices.ContainsFunc(c.tasks, func(name string) bool { return isSameTask(name, task) })
		if len(c.knows) < maxNames {
			c.knows[task] = known
		}
	}
	return known
}

// maxNames bounds how many names of tasks a claim remembers.
const maxNames = 10_000

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
	// bury dead-letters a row that no worker can run.
	bury func(tx *transaction, rowid int64, job *Job, reason error)

	waiting  []*claim  // in the order in which they joined
	mayBeDue bool      // something may have become due since the last look
	lookedIn int64     // the number of the transaction of the last look
	limited  bool      // the last look found a queue with a limit
	nextDue  time.Time // when the next future job is due; zero: there is none
	version  int64     // PRAGMA data_version when last asked for
	lines    queueLines
	aside    asideTasks
	outdated error     // a newer Pinion has migrated the file
	checked  time.Time // when outdated was last found out

	watch   *watch        // reports writes to the -wal by any process; nil: poll
	timer   *time.Timer   // for the next look; nil until a claim waits
	stopped chan struct{} // closed by stop
	wg      sync.WaitGroup
}

const (
	backstopPoll = time.Second           // beside the operating system's wake-ups
	defaultPoll  = 20 * time.Millisecond // where there are none
)

// serve returns when c has jobs, in c.jobs, or need not wait for them. Their transaction has been committed. The claim
// joins before the producers in the same transaction store their jobs, so that they hand these over to it. This saves
// 10 % of the processor time of a mixed load.
func (q *claims) serve(ctx context.Context, c *claim) error {
	err := q.w.doFirst(ctx, lockPatience, func(*transaction) { q.join(c) })
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

// noneWaits reports whether a producer may commit alone. While claims wait, their worker is likely to write too, and
// all gain by sharing a transaction: 10 % of a mixed load.
func (q *claims) noneWaits() bool { return len(q.waiting) == 0 }

// ---- What a transaction does for the claims ----

// changed notes, inside a transaction, that jobs of a queue may have become due, or may have left it.
func (q *claims) changed(queue string) {
	q.mayBeDue = true
	q.lines.changed(queue)
}

// changedAnywhere is changed for any number of queues.
func (q *claims) changedAnywhere() {
	q.mayBeDue = true
	q.lines.forget()
}

// claimEnded notes, inside a transaction, that a job is not RUNNING any more. If its queue has a limit, that may admit
// another job.
func (q *claims) claimEnded() {
	if q.limited {
		q.mayBeDue = true
	}
}

// serveDue gives the claims what is due, if something may have become due.
func (q *claims) serveDue(tx *transaction) {
	if len(q.waiting) == 0 || !q.mayBeDue {
		return
	}
	q.mayBeDue = false
	q.lookedIn = tx.number
	if q.findOutdated(tx) {
		return
	}
	seen := look(tx)
	if seen.due != nil && seen.dueAt() <= seconds(tx.now) {
		if q.makeReady(tx) {
			q.mayBeDue = true // there are more
		}
		seen = look(tx)
	}
	q.nextDue = seen.nextDue()
	q.limited = len(seen.limits) > 0
	starving := false // a claim got nothing and goes on waiting
	for _, c := range q.waiting {
		if len(c.jobs) == 0 && q.claimReady(tx, c, &seen) {
			q.mayBeDue = true // it has not seen all
		}
		starving = starving || len(c.jobs) == 0 && c.wait
	}
	if q.aside.old && seen.aside != nil { // what they know may be set aside
		q.nextDue = rules.Earlier(q.nextDue, q.aside.found.Add(asideTime))
	}
	if starving {
		q.schedule()
	}
}

// findOutdated reports whether a newer Pinion has migrated the file, and looks for that once a second.
func (q *claims) findOutdated(tx *transaction) bool {
	if q.outdated == nil && tx.now.Sub(q.checked).Abs() >= time.Second {
		q.checked = tx.now
		q.outdated = newerVersion(&tx.session)
	}
	return q.outdated != nil
}

// afterTransaction answers the claims that were served. After a rollback it makes all of them wait as before.
func (q *claims) afterTransaction(committed bool) {
	if !committed {
		q.rolledBack()
		return
	}
	q.waiting = slices.DeleteFunc(q.waiting, func(c *claim) bool {
		c.joined = true
		if q.outdated != nil {
			c.answer <- q.outdated
			return true
		}
		if len(c.jobs) == 0 && c.wait {
			return false
		}
		c.answer <- nil
		return true
	})
}

func (q *claims) rolledBack() {
	for _, c := range q.waiting {
		c.reset()
	}
	q.waiting = slices.DeleteFunc(q.waiting, func(c *claim) bool { return !c.joined }) // their calls run again
	q.mayBeDue = true
	q.lines.forget()
	q.aside.forget()
	if len(q.waiting) > 0 {
		q.schedule() // if the next look fails too, the claims get its error
	}
}

// handOver adds a job that is about to be stored to a claim that waits, and returns the claim. The job is to be stored
// as RUNNING then, which saves the claim its own statements. If the job is not due, or no claim takes it, handOver
// returns nil, and the job must be stored as PENDING.
func (q *claims) handOver(tx *transaction, row *newRow) *claim {
	if len(q.waiting) == 0 || q.outdated != nil || row.runAt > seconds(tx.now) {
		return nil
	}
	if q.lookedIn != tx.number {
		q.mayBeDue = true // other processes may have stored jobs, which come first
	}
	q.serveDue(tx)
	// A limit is counted, and older jobs come first, when the claims are served.
	if q.outdated != nil || q.limited || q.mayBeDue {
		return nil
	}
	for _, c := range q.waiting {
		bound := c.max
		if row.job.KeyUntilStart && row.job.Key != "" {
			bound = c.slots
		}
		if !c.full && len(c.jobs) < bound && c.wantsQueue(row.queue) && c.wantsTask(row.job.Task) {
			c.jobs = append(c.jobs, row.running(c, tx.now))
			return c
		}
	}
	return nil
}

// ---- What is due ----

// outlook is what a look finds out about the PENDING jobs: what is ready, when the next is due, and what is set aside or
// limited.
type outlook struct {
	first, last any            // the first and the last queue with ready jobs, by name; nil: no job is ready
	due         any            // run_at of the next future job; nil: there is none
	aside       any            // a task whose jobs are set aside; nil: there is none
	limits      map[string]int // how many more jobs of a limited queue may run
}

// look asks in one statement what there is, which is mostly all that there is to know. The columns have short names
// because the driver copies them each time.
func look(tx *transaction) (found outlook) {
	const ready = `SELECT queue FROM jobs INDEXED BY jobs_ready3
		WHERE status='PENDING' AND future=0 AND aside=0 AND queue>='' AND queue<x'' ORDER BY queue `
	var limited any
	for v := range tx.rows(`SELECT (` + ready + `LIMIT 1) AS a, (` + ready + `DESC LIMIT 1) AS b,
		(SELECT run_at FROM jobs INDEXED BY jobs_future WHERE status='PENDING' AND future=1 ORDER BY run_at LIMIT 1) AS c,
		(SELECT func_name FROM jobs INDEXED BY jobs_aside WHERE status='PENDING' AND future=0 AND aside>0 LIMIT 1) AS d,
		(SELECT queue FROM pinion_limits LIMIT 1) AS e`) {
		found = outlook{first: v[0], last: v[1], due: v[2], aside: v[3]}
		limited = v[4]
	}
	if limited == nil {
		return found
	}
	found.limits = make(map[string]int)
	for v := range tx.rows(`SELECT queue, most - (SELECT count(*) FROM jobs INDEXED BY jobs_running3
		WHERE status='RUNNING' AND jobs.queue=pinion_limits.queue) FROM pinion_limits`) {
		found.limits[text(v[0])] = int(integer(v[1]))
	}
	return found
}

// dueAt returns when the next future job is due. A time that is not a number counts as 0. Such a job stays where it is:
// SQLite sorts text behind all numbers, so makeReady does not select it.
func (o outlook) dueAt() float64 {
	at, _ := o.due.(float64)
	return at
}

// nextDue returns that as a time, rounded up: a look before the time would find nothing, over and over.
func (o outlook) nextDue() time.Time {
	at := o.dueAt()
	next := fromSeconds(at)
	if seconds(next) < at {
		next = next.Add(time.Microsecond)
	}
	return next
}

const (
	makeReadyLimit  = 1000 // how many future jobs one transaction makes ready at most
	maxPrioritySeek = 100  // how many priorities are looked through for the most urgent of them
)

// makeReady makes future jobs ready that are due. It reports whether there are more of them than one transaction may
// change; then it takes those with the highest priority.
func (q *claims) makeReady(tx *transaction) (more bool) {
	now := seconds(tx.now)
	due := rowidsOf(tx, `SELECT rowid FROM jobs INDEXED BY jobs_future
		WHERE status='PENDING' AND future=1 AND run_at<=? ORDER BY run_at LIMIT 1001`, now)
	if len(due) > makeReadyLimit {
		more = true
		due = mostUrgent(tx, now, due)
	}
	updateRows(tx, `UPDATE jobs SET future=0`, nil, due)
	q.lines.forget()
	return more
}

// mostUrgent returns up to makeReadyLimit due jobs, those with the highest priority. If there are very many priorities
// it makes do with byTime, the first due jobs by time.
func mostUrgent(tx *transaction, now float64, byTime []any) (urgent []any) {
	priority := tx.value(`SELECT priority FROM jobs INDEXED BY jobs_urgent
		WHERE status='PENDING' AND future=1 ORDER BY priority DESC LIMIT 1`)
	for range maxPrioritySeek {
		if priority == nil {
			break
		}
		due := rowidsOf(tx, `SELECT rowid FROM jobs INDEXED BY jobs_urgent
			WHERE status='PENDING' AND future=1 AND priority=? AND run_at<=?
			ORDER BY run_at LIMIT 1000`, priority, now)
		urgent = append(urgent, due...)
		if len(urgent) >= makeReadyLimit {
			return urgent[:makeReadyLimit]
		}
		priority = tx.value(`SELECT priority FROM jobs INDEXED BY jobs_urgent
			WHERE status='PENDING' AND future=1 AND priority<? ORDER BY priority DESC LIMIT 1`, priority)
	}
	if len(urgent) == 0 {
		return byTime[:makeReadyLimit]
	}
	return urgent
}

// rowidsOf returns the first column of a query's rows.
func rowidsOf(tx *transaction, query string, args ...any) (rowids []any) {
	for v := range tx.rows(query, args...) {
		rowids = append(rowids, v[0])
	}
	return rowids
}

// updateRows runs an UPDATE for rows, several rows a statement.
func updateRows(tx *transaction, update string, args []any, rowids []any) {
	for chunk := range slices.Chunk(rowids, perStatement) {
		bound := append(slices.Clip(args), chunk...)
		bound = append(bound, make([]any, perStatement-len(chunk))...) // a NULL is no rowid
		tx.exec(update+` WHERE rowid IN `+severalRows, bound...)
	}
}

// ---- The order of claims ----

// line stands for jobs in the order of priority and age: the ready jobs of a queue, or those jobs of one of its tasks
// that were set aside. It holds only the place of the first one.
type line struct {
	queue string
	aside string // the task; "" if the jobs are not set aside
	// The first job:
	priority int
	rowid    int64
}

// before reports whether the first job of l comes before that of o.
func (l line) before(o line) bool {
	return l.priority > o.priority || l.priority == o.priority && l.rowid < o.rowid
}

// lineHeap is a container/heap of lines: first the one whose first job comes first.
type lineHeap []line

func (h lineHeap) Len() int           { return len(h) }
func (h lineHeap) Less(i, j int) bool { return h[i].before(h[j]) }
func (h lineHeap) Swap(i, j int)      { h[i], h[j] = h[j], h[i] }
func (h *lineHeap) Push(v any)        { *h = append(*h, v.(line)) }
func (h *lineHeap) Pop() any {
	last := (*h)[len(*h)-1]
	*h = (*h)[:len(*h)-1]
	return last
}

// second returns the line after the first one, or nil.
func (h lineHeap) second() *line {
	switch {
	case len(h) < 2:
		return nil
	case len(h) == 2 || h[1].before(h[2]):
		return &h[1]
	default:
		return &h[2]
	}
}

const (
	maxPassed  = 1000 // how many jobs a claim passes in one transaction: those of other tasks, and those it buries
	passedFree = 20   // how many of them it leaves where they are; each claim must pass them again
)

// claimReady gives a claim ready jobs of its queues and tasks, in the order of priority and age over all of them. One
// query with "queue IN (…)", or without a queue, would sort the whole backlog. claimReady finds the first job of each
// line in an index, and takes jobs from the first line for as long as that comes first. It returns true if it stopped
// before it had seen all ready jobs.
func (q *claims) claimReady(tx *transaction, c *claim, seen *outlook) (more bool) {
	lines, shared := q.linesOf(tx, c, seen)
	for lines.Len() > 0 && len(c.jobs) < c.max && !c.full && tx.err == nil {
		if c.hasPassedEnough() {
			more = true
			break
		}
		first := (*lines)[0]
		left, limited := seen.limits[first.queue]
		if shared && !q.lines.counts(first) {
			heap.Pop(lines)
			continue
		}
		q.lines.changed(first.queue)
		var next *line
		if !limited || left > 0 {
			next = q.claimFrom(tx, c, first, lines.second(), seen)
		}
		if shared { // without a next line, what c has left in the queue must be found again, even if it is the same job
			q.lines.replace(first.queue, next)
		}
		if next == nil {
			heap.Pop(lines)
			continue
		}
		(*lines)[0] = *next
		heap.Fix(lines, 0)
	}
	c.storeRunning(tx)
	if len(c.passed) > passedFree {
		q.setAside(tx, c.passed)
	}
	clear(c.passed)
	c.buried = 0
	return more
}

// hasPassedEnough reports whether the claim must leave the rest to the next transaction, so that it does not hold the
// write lock for long.
func (c *claim) hasPassedEnough() bool { return len(c.passed)+c.buried >= maxPassed }

// linesOf returns the lines that a claim may take jobs from, as a heap. shared means that it is q.lines.order itself,
// which the next claims use too.
func (q *claims) linesOf(tx *transaction, c *claim, seen *outlook) (heaped *lineHeap, shared bool) {
	var lines lineHeap
	if seen.aside != nil {
		lines = q.asideLines(tx, c)
	}
	queues := c.queues
	if len(queues) == 0 && seen.first != nil && seen.first == seen.last {
		queues = []string{text(seen.first)}
	}
	switch {
	case seen.first == nil:
	case len(queues) == 1 && len(lines) == 0: // it has no rival, so its first job need not be known
		return &lineHeap{{queue: queues[0], rowid: math.MinInt64}}, false
	case len(queues) > 0:
		for _, queue := range queues {
			found, ok := seekLine(tx, lineOfQueue, queue)
			if ok {
				lines = append(lines, found)
			}
		}
	default:
		q.lines.update(tx)
		if len(lines) == 0 {
			return &q.lines.order, true
		}
		for _, known := range q.lines.known {
			lines = append(lines, known)
		}
	}
	heap.Init(&lines)
	return &lines, false
}

const (
	readyLine = `SELECT queue, priority, rowid FROM jobs INDEXED BY jobs_ready3
		WHERE status='PENDING' AND future=0 AND aside=0 AND queue`
	lineOfQueue = readyLine + `=? ORDER BY priority DESC, rowid LIMIT 1`
	// queue<x'' excludes names that are not text: bytes sort behind all text.
	lineFromQueue = readyLine + `>=? AND queue<x'' ORDER BY queue, priority DESC, rowid LIMIT 1`
)

// seekLine finds the line of a queue's ready jobs, by lineOfQueue, or that of the first queue from a name on, by
// lineFromQueue.
func seekLine(tx *transaction, query, queue string) (found line, ok bool) {
	for v := range tx.rows(query, queue) {
		return line{queue: text(v[0]), priority: int(integer(v[1])), rowid: integer(v[2])}, true
	}
	return line{}, false
}

const setAsideJobs = ` FROM jobs INDEXED BY jobs_aside WHERE status='PENDING' AND future=0 AND aside>0 `

// asideLines returns the lines of set-aside jobs that a claim knows.
func (q *claims) asideLines(tx *transaction, c *claim) (lines []line) {
	q.aside.update(tx, c)
	for _, task := range q.aside.known {
		for queue := range asideQueues(tx, task) {
			if !c.wantsQueue(queue) {
				continue
			}
			for v := range tx.rows(`SELECT priority, rowid`+setAsideJobs+`AND func_name=? AND queue=?
				ORDER BY priority DESC, rowid LIMIT 1`, task, queue) {
				lines = append(lines, line{queue, task, int(integer(v[0])), integer(v[1])})
			}
		}
	}
	return lines
}

// asideTasks keeps the tasks that a claim knows and whose jobs are set aside, because with very many names of unknown
// tasks it takes long to find them. A name too many does no harm: it has no jobs.
type asideTasks struct {
	known   []string
	tasks   []string  // those of the claim
	found   time.Time // when known was found; zero: nothing is known
	version int64     // PRAGMA data_version then
	old     bool      // another connection has written since then
}

// asideTime is how long a claim that waits makes do with the known names while other connections write.
const asideTime = time.Second

func (a *asideTasks) forget() { a.found = time.Time{} }

// update makes the names right. For a claim that waits, those that another connection has set aside since may be
// missing for asideTime.
func (a *asideTasks) update(tx *transaction, c *claim) {
	version := integer(tx.value("PRAGMA data_version"))
	a.old = version != a.version
	isRecent := c.wait && tx.now.Sub(a.found).Abs() < asideTime
	if !a.found.IsZero() && slices.Equal(a.tasks, c.tasks) && (isRecent || !a.old) {
		return
	}
	*a = asideTasks{tasks: c.tasks, found: tx.now, version: version}
	for task := range namesAside(tx) {
		if c.wantsTask(task) {
			a.known = append(a.known, task)
		}
	}
}

// namesAside yields the tasks whose jobs are set aside. It seeks each one in the index.
func namesAside(tx *transaction) iter.Seq[string] {
	return func(yield func(string) bool) {
		task := tx.value(`SELECT func_name` + setAsideJobs + `AND func_name<x'' ORDER BY func_name LIMIT 1`)
		for task != nil && yield(text(task)) {
			task = tx.value(`SELECT func_name`+setAsideJobs+`AND func_name>? AND func_name<x''
				ORDER BY func_name LIMIT 1`, task)
		}
	}
}

// asideQueues yields the queues in which jobs of a task are set aside.
func asideQueues(tx *transaction, task string) iter.Seq[string] {
	return func(yield func(string) bool) {
		queue := tx.value(`SELECT queue`+setAsideJobs+`AND func_name=? AND queue<x'' ORDER BY queue LIMIT 1`, task)
		for queue != nil && yield(text(queue)) {
			queue = tx.value(`SELECT queue`+setAsideJobs+`AND func_name=? AND queue>? AND queue<x''
				ORDER BY queue LIMIT 1`, task, queue)
		}
	}
}

// claimFrom takes jobs of one line, until the claim has enough or another line comes first. It returns what is left of
// the line, or nil.
func (q *claims) claimFrom(
	tx *transaction, c *claim, from line, rival *line, seen *outlook,
) (next *line) {
	if len(c.rowids) > 0 {
		c.storeRunning(tx) // or the line might still hold jobs that c has taken
	}
	query, args := from.jobs()
	left, limited := seen.limits[from.queue]
	unusable := make(map[int64]unusableJob)
	first := true
	for v := range tx.rows(query, args...) {
		rowid, columns := integer(v[0]), v[1:] // claimColumns, as in jobOf
		if c.passed[rowid] {                   // before the claim turned to another line
			continue
		}
		at := line{from.queue, from.aside, int(integer(columns[9])), rowid}
		rivalIsFirst := rival != nil && !first && rival.before(at)
		if rivalIsFirst || c.hasPassedEnough() { // in the second case the next transaction goes on
			next = &at
			break
		}
		first = false
		if !c.wantsTask(text(columns[1])) {
			c.pass(rowid)
			continue
		}
		_, job, err := jobOf(v)
		if err != nil {
			unusable[rowid] = unusableJob{job, err}
			c.buried++
			continue
		}
		if len(c.jobs) >= c.slots && (limited || needsSlot(job)) {
			c.full = true
			break
		}
		c.take(job, rowid, tx.now)
		left--
		if len(c.jobs) == c.max || limited && left <= 0 {
			break
		}
	}
	if limited {
		seen.limits[from.queue] = left
	}
	for rowid, u := range unusable {
		q.bury(tx, rowid, u.job, u.reason)
	}
	return next
}

// jobs returns the query for the jobs of a line, in order.
func (l line) jobs() (query string, args []any) {
	const columns = `SELECT rowid, ` + claimColumns + ` FROM jobs `
	if l.aside == "" {
		return columns + `INDEXED BY jobs_ready3
			WHERE status='PENDING' AND future=0 AND aside=0 AND queue=? ORDER BY priority DESC, rowid`, []any{l.queue}
	}
	return columns + `INDEXED BY jobs_aside
		WHERE status='PENDING' AND future=0 AND aside>0 AND queue=? AND func_name=?
		ORDER BY priority DESC, rowid`, []any{l.queue, l.aside}
}

// needsSlot reports whether a job is not claimed ahead of free slots: one that was claimed before, and one that gives
// up its Key when it is claimed.
func needsSlot(job *Job) bool {
	return job.Attempts > 0 || job.Claim > 0 || job.KeyUntilStart && job.Key != ""
}

type unusableJob struct {
	job    *Job
	reason error
}

// take gives the claim a job, which storeRunning makes RUNNING in the table.
func (c *claim) take(job *Job, rowid int64, now time.Time) {
	job.Status = StatusRunning
	job.Attempts++
	job.Claim = max(job.Claim+1, now.UnixMicro())
	job.HeartbeatAt = microTime(now)
	job.LeaseUntil = job.HeartbeatAt.Add(c.lease)
	job.Worker = c.worker
	c.jobs = append(c.jobs, job)
	c.rowids = append(c.rowids, rowid)
}

// storeRunning makes the jobs that the claim has taken RUNNING.
func (c *claim) storeRunning(tx *transaction) {
	updateRows(tx, `UPDATE jobs SET status='RUNNING', attempts=attempts+1, claim=max(claim+1, ?), heartbeat_at=?, worker=?,
			lease=?, doubted_at=NULL, started_at=NULL, result=NULL, aside=0,
			key_until_start=iif(key_until_start=1, 2, key_until_start)`,
		[]any{tx.now.UnixMicro(), seconds(tx.now), c.worker, c.lease.Seconds()}, c.rowids)
	c.rowids = c.rowids[:0]
}

// setAside sets aside the jobs of other tasks that a claim has passed, so that the next claims need not pass them.
// Claims for those tasks still find them, see asideLines, so nothing has to bring them back.
func (q *claims) setAside(tx *transaction, passed map[int64]bool) {
	var rowids []any
	for rowid := range passed {
		rowids = append(rowids, rowid)
	}
	updateRows(tx, `UPDATE jobs SET aside=1`, nil, rowids)
	q.aside.forget()
}

// pass notes a job of another task.
func (c *claim) pass(rowid int64) {
	if c.passed == nil {
		c.passed = make(map[int64]bool)
	}
	c.passed[rowid] = true
}

// ---- Many queues ----

// queueLines keeps the lines of all queues with ready jobs from one claim to the next, because with very many queues it
// takes long to find them. They are right as long as no other connection has written, but for those of stale queues.
type queueLines struct {
	known   map[string]line // by queue; nil: nothing is known
	order   lineHeap        // the known lines, and out-of-date ones, for which the method counts returns false
	stale   map[string]bool // queues to look at again
	version int64           // PRAGMA data_version when the lines were found
}

// changed notes that the line of a queue may have changed.
func (l *queueLines) changed(queue string) {
	if l.known != nil {
		l.stale[queue] = true
	}
}

func (l *queueLines) forget() { l.known = nil }

// replace makes another line the known one of a queue; nil: none.
func (l *queueLines) replace(queue string, by *line) {
	if by == nil {
		delete(l.known, queue)
	} else {
		l.known[queue] = *by
	}
}

// counts reports whether a line in order is the known one of its queue.
func (l *queueLines) counts(ln line) bool {
	known, ok := l.known[ln.queue]
	return ok && known == ln
}

// update makes the lines right.
func (l *queueLines) update(tx *transaction) {
	version := integer(tx.value("PRAGMA data_version"))
	outgrown := len(l.order) > 2*len(l.known)+100
	if l.known == nil || version != l.version || outgrown {
		l.version = version
		l.findAll(tx)
		return
	}
	for queue := range l.stale {
		found, ok := seekLine(tx, lineOfQueue, queue)
		if !ok {
			delete(l.known, queue)
		} else if !l.counts(found) {
			l.known[queue] = found
			heap.Push(&l.order, found)
		}
	}
	clear(l.stale)
}

// findAll seeks the first job of each queue in the index.
func (l *queueLines) findAll(tx *transaction) {
	l.known = make(map[string]line)
	l.stale = make(map[string]bool)
	l.order = nil
	from := ""
	for {
		found, ok := seekLine(tx, lineFromQueue, from)
		if !ok {
			break
		}
		l.known[found.queue] = found
		l.order = append(l.order, found)
		from = found.queue + "\x00" // the name that sorts next
	}
	heap.Init(&l.order)
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
	if q.mayBeDue {
		pause = 0
	}
	q.timer.Reset(pause)
}

// lookForWork has the claims served when another process has written, or when a job becomes due. It ends with stop.
func (q *claims) lookForWork() {
	for {
		var due bool
		select {
		case <-q.stopped:
			return
		case <-q.watch.wake():
			// Mostly it is this process that has written. While it is busy, claims and enqueues look by themselves,
			// and an armed watch makes each commit slower.
			q.w.awaitIdle()
			q.watch.arm() // before the look, so that no write falls between the two; if it fails, the timer arms
			due = q.someWait()
		case <-q.timer.C:
			q.watch.arm() // in case the -wal was missing, or arm failed, last time
			due = q.timeToLook()
		}
		if !due {
			continue
		}
		// A write precedes the end of its commit, so to read at once might be too early. To take the write lock is to
		// wait for that end.
		err := q.w.doWithin(context.Background(), lockPatience, func(*transaction) { q.mayBeDue = true })
		if err != nil {
			q.fail(err)
		}
	}
}

// someWait reports whether claims wait. The caller does not hold connMu.
func (q *claims) someWait() (wait bool) {
	q.w.between(func(*session) { wait = len(q.waiting) > 0 })
	return wait
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

package crashlab

import (
	"cmp"
	"errors"
	"maps"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/pinion-queue/pinion"
)

// reference is what the documentation of [pinion.Storage] and its companions says, written as plainly as
// possible: a list of jobs that every call goes through from front to back.
//
// It reads no clock and draws no random numbers; the player sets now. Where a storage may choose a time, the
// player takes the time over from the storage if it is plausible. See changes.
type reference struct {
	now     time.Time // of the call under way, in whole microseconds
	jobs    []*entry  // the oldest first
	letters int       // how many dead letters there ever were
	ends    []end     // of all jobs, also of those that were pruned or replayed
	limits  map[string]int

	// forgot is set when a finished job is pruned or replayed. A storage need not count it in LastMinute then.
	forgot bool
}

// end is the end of a job.
type end struct {
	at          time.Time
	queue, task string
	succeeded   bool
	took        time.Duration // since the claim
}

// entry is one job.
type entry struct {
	pinion.Job               // without Args and Kwargs
	args       string        // Args and Kwargs, as showArgs shows them
	keyIsFree  bool          // it was claimed, and gave up its Key for good
	lease      time.Duration // of the claim
	doubted    time.Time     // when ReapStale first found the lease expired; zero: it did not
	letter     int           // its number as a dead letter; 0: it is not in the dead-letter queue
	changed    changes       // by the call under way
}

// changes are the fields of an entry that the call under way has set and whose values a storage may choose.
type changes struct {
	created, beat, finished bool          // CreatedAt, HeartbeatAt, FinishedAt: now, or in real time slightly later
	claimed                 bool          // Claim: a greater number, at most the time in microseconds
	dueWithin               time.Duration // RunAt: a random time, at most so long from now; 0: RunAt is not random
}

// holdsKey reports whether nobody else can enqueue a job with the same Key.
func (e *entry) holdsKey() bool { return e.Key != "" && !e.keyIsFree && e.isUnfinished() }

func (e *entry) isUnfinished() bool {
	return e.Status == pinion.StatusPending || e.Status == pinion.StatusRunning
}

// begin begins a call.
func (r *reference) begin(now time.Time) {
	r.now = now
	for _, e := range r.jobs {
		e.changed = changes{}
	}
}

// find returns the job with an id, or nil.
func (r *reference) find(id string) *entry {
	for _, e := range r.jobs {
		if e.ID == id {
			return e
		}
	}
	return nil
}

// keyHolders returns the ids of the unfinished jobs that hold a key, by key.
func (r *reference) keyHolders() map[string]string {
	holders := make(map[string]string)
	for _, e := range r.jobs {
		if e.holdsKey() {
			holders[e.Key] = e.ID
		}
	}
	return holders
}

// enqueue adds a batch and leaves it to the player to set the ids that a storage chooses. If the batch is bad
// (a job is invalid), taken (an id or a key is used already), or both, enqueue adds nothing.
func (r *reference) enqueue(jobs []*pinion.Job) (bad, taken bool) {
	ids := make(map[string]bool) // of the stored jobs and the batch
	for _, e := range r.jobs {
		ids[e.ID] = true
	}
	holders := r.keyHolders()
	for _, job := range jobs {
		bad = bad || isBad(job)
		if job.ID != "" {
			taken = taken || ids[job.ID]
			ids[job.ID] = true
		}
		if job.Key != "" {
			_, held := holders[job.Key]
			taken = taken || held
			holders[job.Key] = job.ID
		}
	}
	if bad || taken {
		return bad, taken
	}
	for _, job := range jobs {
		r.jobs = append(r.jobs, &entry{
			Job: pinion.Job{
				ID:            job.ID,
				Task:          job.Task,
				Queue:         cmp.Or(job.Queue, "default"),
				Priority:      job.Priority,
				RunAt:         micro(job.RunAt),
				Key:           job.Key,
				KeyUntilStart: job.KeyUntilStart,
				Meta:          job.Meta,
				Status:        pinion.StatusPending,
				CreatedAt:     r.now,
			},
			args:    showArgs(job),
			changed: changes{created: true},
		})
	}
	return false, false
}

// isBad reports whether nobody can enqueue the job.
func isBad(job *pinion.Job) bool {
	const maxName = 1 << 10 // bytes
	names := []string{job.ID, job.Task, job.Queue, job.Key}
	for name, value := range job.Meta {
		names = append(names, name, value)
	}
	for _, name := range names {
		if !utf8.ValidString(name) || strings.Contains(name, "\x00") || len(name) > maxName {
			return true
		}
	}
	return job.Task == "" || strings.HasPrefix(job.Key, "periodic:")
}

// dequeue claims jobs by priority and then by age. Beyond the first Max-Ahead jobs it stops before a job that
// must not wait for a free slot.
func (r *reference) dequeue(step Step) []*entry {
	var claimed []*entry
	for len(claimed) < step.Max {
		e := r.next(step)
		isAhead := len(claimed) >= step.Max-step.Ahead
		if e == nil || isAhead && r.needsFreeSlot(e) {
			break
		}
		r.claim(e, cmp.Or(step.Lease, 10*time.Second))
		claimed = append(claimed, e)
	}
	return claimed
}

// next returns the due job that is claimed first, or nil.
func (r *reference) next(step Step) *entry {
	var best *entry
	for _, e := range r.jobs {
		isDue := r.mayClaim(e, step) && !e.RunAt.After(r.now)
		if isDue && (best == nil || e.Priority > best.Priority) {
			best = e
		}
	}
	return best
}

// mayClaim reports whether a Dequeue may claim a job once it is due.
func (r *reference) mayClaim(e *entry, step Step) bool {
	limit, isLimited := r.limits[e.Queue]
	if isLimited && r.running(e.Queue) >= limit {
		return false
	}
	return e.Status == pinion.StatusPending && isIn(e.Queue, step.Queues) && isTask(e.Task, step.Tasks)
}

// running returns how many jobs of a queue are RUNNING.
func (r *reference) running(queue string) int {
	n := 0
	for _, e := range r.jobs {
		if e.Status == pinion.StatusRunning && e.Queue == queue {
			n++
		}
	}
	return n
}

// needsFreeSlot reports whether a job is never claimed ahead: it was claimed before, it gives up its Key when it is
// claimed, or its queue has a limit.
func (r *reference) needsFreeSlot(e *entry) bool {
	_, isLimited := r.limits[e.Queue]
	givesUpKey := e.Key != "" && e.KeyUntilStart
	return e.Claim > 0 || givesUpKey || isLimited
}

func (r *reference) claim(e *entry, lease time.Duration) {
	e.Status = pinion.StatusRunning
	e.Attempts++
	e.Claim = max(e.Claim+1, r.now.UnixMicro())
	e.HeartbeatAt = r.now
	e.Worker = ""
	e.Result = nil
	e.keyIsFree = e.KeyUntilStart
	e.lease = lease
	e.changed.claimed = true
	e.changed.beat = true
}

// nextDue returns when the next job that a step may claim is due: now if one is due already, and in a hundred years
// if there is none. It is clear which job that is unless another one becomes due less than margin before or
// after it.
func (r *reference) nextDue(step Step, margin time.Duration) (due time.Time, isClear bool) {
	due = r.now.AddDate(100, 0, 0)
	var times []time.Time
	for _, e := range r.jobs {
		if !r.mayClaim(e, step) {
			continue
		}
		if !e.RunAt.After(r.now) {
			return r.now, true
		}
		times = append(times, e.RunAt)
	}
	if len(times) == 0 {
		return due, true
	}
	slices.SortFunc(times, time.Time.Compare)
	isClear = len(times) == 1 || times[1].Sub(times[0]) >= margin
	return times[0], isClear
}

// isTask reports whether a task is one of those, or whether none are named.
func isTask(task string, tasks []string) bool {
	if len(tasks) == 0 {
		return true
	}
	return slices.ContainsFunc(tasks, func(name string) bool { return strings.EqualFold(name, task) })
}

// isIn reports whether a queue is one of those, or whether none are named.
func isIn(queue string, queues []string) bool {
	if len(queues) == 0 {
		return true
	}
	return slices.ContainsFunc(queues, func(name string) bool { return cmp.Or(name, "default") == queue })
}

// ---- Claims and their ends ----

// isHeld reports whether a job is running under the caller's claim.
func (r *reference) isHeld(job *pinion.Job) bool {
	e := r.find(job.ID)
	return e != nil && e.Status == pinion.StatusRunning && e.Claim == job.Claim && e.Attempts == job.Attempts
}

func (r *reference) isLost(job *pinion.Job) bool { return !r.isHeld(job) }

// forHeld calls do for each job that is running under the caller's claim. It returns the positions of the
// others.
func (r *reference) forHeld(jobs []*pinion.Job, do func(e *entry, job *pinion.Job)) (lost []int) {
	for i, job := range jobs {
		if r.isLost(job) {
			lost = append(lost, i)
			continue
		}
		do(r.find(job.ID), job)
	}
	return lost
}

func (r *reference) heartbeat(jobs []*pinion.Job) (lost []int) {
	return r.forHeld(jobs, func(e *entry, job *pinion.Job) {
		e.HeartbeatAt = r.now
		e.changed.beat = true
		e.doubted = time.Time{}
		if e.StartedAt.IsZero() {
			e.StartedAt = micro(job.StartedAt)
		}
		if job.Result != nil {
			e.Result = job.Result
		}
	})
}

// canceled returns the positions of the jobs that were asked to end.
func (r *reference) canceled(jobs []*pinion.Job) (asked []int) {
	for i, job := range jobs {
		if r.isHeld(job) && r.find(job.ID).Canceled {
			asked = append(asked, i)
		}
	}
	return asked
}

func (r *reference) markDone(jobs []*pinion.Job) (lost []int) {
	return r.forHeld(jobs, func(e *entry, job *pinion.Job) {
		r.finish(e, pinion.StatusSuccess)
		e.Result = job.Result
	})
}

func (r *reference) markFailed(job *pinion.Job, cause error, retryAt time.Time) error {
	return r.endWithoutSuccess(job, func(e *entry) {
		r.giveBack(e, retryAt)
		e.Error = storedError(cause)
		e.Reaped = 0
	})
}

func (r *reference) deadLetter(job *pinion.Job, cause error) error {
	return r.endWithoutSuccess(job, func(e *entry) {
		r.finish(e, pinion.StatusFailed)
		e.Error = storedError(cause)
		if errors.Is(cause, pinion.ErrAttemptsUsedUp) {
			e.Attempts-- // the job did not run under this claim
		}
		if job.Result != nil {
			e.Result = job.Result
		}
		r.letters++
		e.letter = r.letters
	})
}

// release gives claims back. It returns the positions of the jobs that were lost, and of those that were canceled.
func (r *reference) release(jobs []*pinion.Job, at time.Time, cause error) (lost, canceled []int) {
	for i, job := range jobs {
		err := r.endWithoutSuccess(job, func(e *entry) {
			r.giveBack(e, at)
			e.Attempts--
			e.Reaped = 0
			if cause != nil {
				e.Error = storedError(cause)
			}
		})
		switch {
		case errors.Is(err, pinion.ErrLeaseLost):
			lost = append(lost, i)
		case errors.Is(err, pinion.ErrCanceled):
			canceled = append(canceled, i)
		}
	}
	return lost, canceled
}

// giveBack makes a job PENDING, due at a time.
func (r *reference) giveBack(e *entry, at time.Time) {
	e.Status = pinion.StatusPending
	e.RunAt = micro(at)
	e.StartedAt = time.Time{}
	e.doubted = time.Time{}
}

// endWithoutSuccess ends a claim by calling do. A job that was asked to end is canceled instead.
func (r *reference) endWithoutSuccess(job *pinion.Job, do func(e *entry)) error {
	if r.isLost(job) {
		return pinion.ErrLeaseLost
	}
	e := r.find(job.ID)
	if e.Canceled {
		r.endAsCanceled(e)
		return pinion.ErrCanceled
	}
	do(e)
	return nil
}

func (r *reference) finish(e *entry, status pinion.Status) {
	ended := end{at: r.now, queue: e.Queue, task: e.Task, succeeded: status == pinion.StatusSuccess}
	if e.Status == pinion.StatusRunning {
		ended.took = max(r.now.Sub(time.UnixMicro(e.Claim)), 0)
	}
	r.ends = append(r.ends, ended)
	e.Status = status
	e.StartedAt = time.Time{}
	e.doubted = time.Time{}
	e.FinishedAt = r.now
	e.changed.finished = true
}

func (r *reference) endAsCanceled(e *entry) {
	r.finish(e, pinion.StatusFailed)
	e.Canceled = true
	e.Error = pinion.ErrCanceled.Error()
}

// cancel ends pending jobs and asks running ones to end.
func (r *reference) cancel(ids []string) (ended, asked []string) {
	for _, id := range ids {
		e := r.find(id)
		if e == nil {
			continue
		}
		switch e.Status {
		case pinion.StatusPending:
			r.endAsCanceled(e)
			ended = append(ended, id)
		case pinion.StatusRunning:
			e.Canceled = true
			asked = append(asked, id)
		}
	}
	return ended, asked
}

// cancelWhere is cancel for the jobs that match a filter.
func (r *reference) cancelWhere(f pinion.Filter) (ended, asked int) {
	var ids []string
	for _, e := range r.jobs {
		if e.isUnfinished() && e.matches(f) && (f.Status == "" || f.Status == e.Status) {
			ids = append(ids, e.ID)
		}
	}
	endedIDs, askedIDs := r.cancel(limited(ids, f.Limit))
	return len(endedIDs), len(askedIDs)
}

// reapStale takes back leases that have expired and were doubted long enough ago. From the second time on a job
// becomes due at a random time. A storage may wait for heartbeats after it has looked, and took says how long.
func (r *reference) reapStale(took time.Duration) int {
	var expired, ripe []*entry
	for _, e := range r.jobs {
		silence := r.now.Sub(e.HeartbeatAt).Abs()
		switch {
		case e.Status != pinion.StatusRunning:
		case silence <= e.lease:
			e.doubted = time.Time{}
		case e.doubted.IsZero():
			expired = append(expired, e)
		case r.now.Sub(e.doubted) >= reapGap(e.lease):
			ripe = append(ripe, e)
		}
	}
	r.now = r.now.Add(took)
	for _, e := range expired {
		e.doubted = r.now
	}
	for _, e := range ripe {
		r.reap(e)
	}
	return len(ripe)
}

func (r *reference) reap(e *entry) {
	if e.Canceled {
		r.endAsCanceled(e)
		return
	}
	r.giveBack(e, time.Time{})
	e.Error = "lease expired"
	e.Reaped++
	if e.Reaped > 1 {
		e.RunAt = r.now
		e.changed.dueWithin = max(time.Duration(e.Attempts)*e.lease, 1)
	}
}

// reapGap returns how long after its doubt an expired lease is taken back.
func reapGap(lease time.Duration) time.Duration { return min(lease, lease/5+time.Second) }

// ---- Listings and counts ----

func (r *reference) size() int {
	n := 0
	for _, e := range r.jobs {
		if e.Status == pinion.StatusPending {
			n++
		}
	}
	return n
}

func (r *reference) list(f pinion.Filter) []*entry {
	var found []*entry
	for _, e := range r.jobs {
		if e.matches(f) && (f.Status == "" || f.Status == e.Status) {
			found = append(found, e)
		}
	}
	if f.Newest {
		slices.Reverse(found)
	}
	return limited(found, f.Limit)
}

// deadLetters lists the dead letters, the oldest first. A filter's status does not apply to them.
func (r *reference) deadLetters(f pinion.Filter) []*entry {
	found := r.allDeadLetters(f)
	if f.Newest {
		slices.Reverse(found)
	}
	return limited(found, f.Limit)
}

// allDeadLetters returns the dead letters that match, the oldest first.
func (r *reference) allDeadLetters(f pinion.Filter) []*entry {
	var found []*entry
	for _, e := range r.jobs {
		if e.letter > 0 && e.matchesAt(f, e.FinishedAt) {
			found = append(found, e)
		}
	}
	slices.SortFunc(found, func(a, b *entry) int { return cmp.Compare(a.letter, b.letter) })
	return found
}

// matches reports whether a job matches a filter, without regard to its status.
func (e *entry) matches(f pinion.Filter) bool { return e.matchesAt(f, e.CreatedAt) }

// matchesAt is matches for a filter whose After and Before are about the time at.
func (e *entry) matchesAt(f pinion.Filter, at time.Time) bool {
	return (f.IDs == nil || slices.Contains(f.IDs, e.ID)) &&
		(f.Queue == "" || f.Queue == e.Queue) &&
		(f.Task == "" || strings.EqualFold(f.Task, e.Task)) &&
		(f.Key == "" || f.Key == e.Key) &&
		strings.HasPrefix(e.Key, f.KeyPrefix) &&
		strings.Contains(e.Error, f.Text) &&
		(f.Error == "" || firstParagraph(f.Error) == firstParagraph(e.Error)) &&
		(f.After.IsZero() || !at.Before(micro(f.After))) &&
		(f.Before.IsZero() || at.Before(micro(f.Before)))
}

// firstParagraph returns what stands before the first empty line.
func firstParagraph(text string) string {
	paragraph, _, _ := strings.Cut(text, "\n\n")
	return paragraph
}

func limited[T any](entries []T, limit int) []T {
	if limit > 0 && len(entries) > limit {
		return entries[:limit]
	}
	return entries
}

// stats counts the jobs that wait and run, and those that ended lately.
func (r *reference) stats() pinion.Stats {
	var stats pinion.Stats
	queues := make(map[string]*pinion.QueueStats)
	tasks := make(map[string]*pinion.TaskStats)
	countersOf := func(queue, task string) []*pinion.Counts {
		if queues[queue] == nil {
			queues[queue] = &pinion.QueueStats{Queue: queue}
		}
		if tasks[task] == nil {
			tasks[task] = &pinion.TaskStats{Task: task}
		}
		return []*pinion.Counts{&stats.Total, &queues[queue].Counts, &tasks[task].Counts}
	}
	for _, e := range r.jobs {
		if e.isUnfinished() {
			for _, counts := range countersOf(e.Queue, e.Task) {
				r.count(e, counts)
			}
		}
		if e.letter > 0 {
			stats.DeadLetters++
		}
	}
	minute := r.now.Truncate(time.Minute)
	for _, ended := range r.ends {
		if age := r.now.Unix() - ended.at.Unix(); age < 60 {
			stats.LastMinute[59-age]++
		}
		if ended.at.Before(r.now.Add(-time.Hour).Truncate(time.Minute)) {
			continue
		}
		for _, counts := range countersOf(ended.queue, ended.task) {
			if ended.succeeded {
				counts.SuccessHour++
			} else {
				counts.FailedHour++
			}
			if !ended.at.Before(minute.Add(-time.Minute)) {
				counts.Minute++
			}
		}
	}
	for _, name := range slices.Sorted(maps.Keys(queues)) {
		stats.Queues = append(stats.Queues, *queues[name])
	}
	for _, name := range slices.Sorted(maps.Keys(tasks)) {
		stats.Tasks = append(stats.Tasks, *tasks[name])
	}
	return stats
}

// count counts a job that has not ended.
func (r *reference) count(e *entry, counts *pinion.Counts) {
	if e.Status == pinion.StatusRunning {
		counts.Running++
		if !e.StartedAt.IsZero() {
			counts.Started++
		}
		return
	}
	counts.Pending++
	counts.Oldest = earlier(counts.Oldest, e.CreatedAt)
	if e.RunAt.After(r.now) {
		return
	}
	counts.Due++
	dueSince := e.CreatedAt
	if e.RunAt.After(e.CreatedAt) {
		dueSince = e.RunAt
	}
	counts.OldestDue = earlier(counts.OldestDue, dueSince)
}

// earlier returns the earlier of a time and another one, which may be zero.
func earlier(a, b time.Time) time.Time {
	if a.IsZero() || b.Before(a) {
		return b
	}
	return a
}

// history returns the ends since the minute of a time, one by one.
func (r *reference) history(since time.Time) []pinion.Ends {
	var all []pinion.Ends
	for _, ended := range r.ends {
		if ended.at.Before(since.Truncate(time.Minute)) {
			continue
		}
		one := pinion.Ends{At: ended.at.Truncate(time.Minute), Queue: ended.queue, Task: ended.task, Took: ended.took}
		if ended.succeeded {
			one.Succeeded = 1
		} else {
			one.Failed = 1
		}
		all = append(all, one)
	}
	return all
}

// ---- What people do by hand ----

// replay enqueues dead letters again, but for those whose key an unfinished job holds.
func (r *reference) replay(f pinion.Filter) int {
	n := 0
	for _, e := range r.allDeadLetters(f) {
		if f.Limit > 0 && n == f.Limit {
			break
		}
		if _, held := r.keyHolders()[e.Key]; held && !e.keyIsFree {
			continue
		}
		n++
		r.forgot = true
		e.Status = pinion.StatusPending
		e.Attempts = 0
		e.Error = ""
		e.Result = nil
		e.RunAt = time.Time{}
		e.FinishedAt = time.Time{}
		e.Worker = ""
		e.Canceled = false
		e.Reaped = 0
		e.letter = 0
	}
	return n
}

// purge deletes dead letters. Their jobs stay FAILED.
func (r *reference) purge(f pinion.Filter) int {
	found := r.deadLetters(f)
	for _, e := range found {
		e.letter = 0
	}
	return len(found)
}

// prune deletes jobs that finished before a time, but for those in the dead-letter queue.
func (r *reference) prune(before time.Time) int {
	return r.delete(func(e *entry) bool { return e.FinishedAt.Before(micro(before)) }, 0)
}

// pruneWhere is prune for the jobs that match a filter.
func (r *reference) pruneWhere(f pinion.Filter) int {
	return r.delete(func(e *entry) bool {
		return e.matchesAt(f, e.FinishedAt) && (f.Status == "" || f.Status == e.Status)
	}, f.Limit)
}

// delete deletes finished jobs that match, but for those in the dead-letter queue.
func (r *reference) delete(matches func(e *entry) bool, limit int) int {
	n := 0
	r.jobs = slices.DeleteFunc(r.jobs, func(e *entry) bool {
		isFull := limit > 0 && n == limit
		if isFull || e.isUnfinished() || e.letter > 0 || !matches(e) {
			return false
		}
		n++
		return true
	})
	if n > 0 {
		r.forgot = true
	}
	return n
}

// reschedule makes pending jobs due at a time.
func (r *reference) reschedule(f pinion.Filter, at time.Time) int {
	n := 0
	for _, e := range r.jobs {
		isFull := f.Limit > 0 && n == f.Limit
		matches := e.matches(f) && (f.Status == "" || f.Status == e.Status)
		if isFull || e.Status != pinion.StatusPending || !matches {
			continue
		}
		e.RunAt = micro(at)
		n++
	}
	return n
}

func (r *reference) setLimit(queue string, limit int) {
	if r.limits == nil {
		r.limits = make(map[string]int)
	}
	queue = cmp.Or(queue, "default")
	if limit < 0 {
		delete(r.limits, queue)
	} else {
		r.limits[queue] = limit
	}
}

// ---- Values ----

// micro returns a time as storages keep it: in UTC and whole microseconds.
func micro(t time.Time) time.Time { return t.UTC().Truncate(time.Microsecond) }

// storedError returns the text of an error as storages keep it: valid UTF-8 without NUL, of at most 16 KiB.
func storedError(cause error) string {
	const maxText = 16 << 10
	if cause == nil {
		return "unknown error"
	}
	text := strings.ToValidUTF8(cause.Error(), "\uFFFD")
	text = strings.ReplaceAll(text, "\x00", "\uFFFD")
	if len(text) > maxText {
		text = strings.ToValidUTF8(text[:maxText-len("...")], "") + "..."
	}
	return text
}

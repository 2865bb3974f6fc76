package crashlab

import (
	"cmp"
	"errors"
	"maps"
	"slices"
	"strings"
	"time"

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
}

// entry is one job.
type entry struct {
	pinion.Job         // without Args and Kwargs
	args       string  // Args and Kwargs, as showArgs shows them
	reaped     int     // how often its lease was taken back since it was enqueued or replayed
	letter     int     // its number as a dead letter; 0: it is not in the dead-letter queue
	changed    changes // by the call under way
}

// changes are the fields of an entry that the call under way has set and whose values a storage may choose.
type changes struct {
	created, beat, finished bool          // CreatedAt, HeartbeatAt, FinishedAt: now, or in real time slightly later
	claimed                 bool          // Claim: a greater number, at most the time in microseconds
	dueWithin               time.Duration // RunAt: a random time, at most so long from now; 0: RunAt is not random
}

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

// keyHolders returns the ids of the unfinished jobs that have a key, by key.
func (r *reference) keyHolders() map[string]string {
	holders := make(map[string]string)
	for _, e := range r.jobs {
		if e.Key != "" && e.isUnfinished() {
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
		names := job.ID + job.Task + job.Queue + job.Key
		if job.Task == "" || strings.ToValidUTF8(names, "") != names {
			bad = true
		}
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
				ID:        job.ID,
				Task:      job.Task,
				Queue:     cmp.Or(job.Queue, "default"),
				Priority:  job.Priority,
				RunAt:     micro(job.RunAt),
				Key:       job.Key,
				Status:    pinion.StatusPending,
				CreatedAt: r.now,
			},
			args:    showArgs(job),
			changed: changes{created: true},
		})
	}
	return false, false
}

// dequeue claims jobs by priority and then by age. Beyond the first max-ahead jobs it stops before a job that
// was claimed before.
func (r *reference) dequeue(max, ahead int, queues []string) []*entry {
	var claimed []*entry
	for len(claimed) < max {
		e := r.next(queues)
		isAhead := len(claimed) >= max-ahead
		if e == nil || isAhead && e.Claim > 0 {
			break
		}
		r.claim(e)
		claimed = append(claimed, e)
	}
	return claimed
}

// next returns the due job that is claimed first, or nil.
func (r *reference) next(queues []string) *entry {
	var best *entry
	for _, e := range r.jobs {
		isDue := e.Status == pinion.StatusPending && !e.RunAt.After(r.now)
		if isDue && isIn(e.Queue, queues) && (best == nil || e.Priority > best.Priority) {
			best = e
		}
	}
	return best
}

func (r *reference) claim(e *entry) {
	e.Status = pinion.StatusRunning
	e.Attempts++
	e.Claim = max(e.Claim+1, r.now.UnixMicro())
	e.HeartbeatAt = r.now
	e.Worker = ""
	e.changed.claimed = true
	e.changed.beat = true
}

// nextDue returns when the next job of these queues is due: now if one is due already, and in a hundred years
// if there is none. It is clear which job that is unless another one becomes due less than margin before or
// after it.
func (r *reference) nextDue(queues []string, margin time.Duration) (due time.Time, isClear bool) {
	due = r.now.AddDate(100, 0, 0)
	var times []time.Time
	for _, e := range r.jobs {
		if e.Status != pinion.StatusPending || !isIn(e.Queue, queues) {
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
	return r.forHeld(jobs, func(e *entry, _ *pinion.Job) {
		e.HeartbeatAt = r.now
		e.changed.beat = true
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
		e.Status = pinion.StatusPending
		e.Error = storedError(cause)
		e.RunAt = micro(retryAt)
	})
}

func (r *reference) deadLetter(job *pinion.Job, cause error) error {
	return r.endWithoutSuccess(job, func(e *entry) {
		r.finish(e, pinion.StatusFailed)
		e.Error = storedError(cause)
		if errors.Is(cause, pinion.ErrAttemptsUsedUp) {
			e.Attempts-- // the job did not run under this claim
		}
		r.letters++
		e.letter = r.letters
	})
}

// release gives claims back and returns the positions of the jobs that were lost.
func (r *reference) release(jobs []*pinion.Job, cause error) []int {
	var lost []int
	for i, job := range jobs {
		err := r.endWithoutSuccess(job, func(e *entry) {
			e.Status = pinion.StatusPending
			e.Attempts--
			e.RunAt = time.Time{}
			if cause != nil {
				e.Error = storedError(cause)
			}
		})
		if errors.Is(err, pinion.ErrLeaseLost) {
			lost = append(lost, i)
		}
	}
	return lost
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
	e.Status = status
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

// reapStale takes back expired leases. From the second time on a job becomes due at a random time.
func (r *reference) reapStale(visibility time.Duration) int {
	n := 0
	for _, e := range r.jobs {
		if e.Status != pinion.StatusRunning || r.now.Sub(e.HeartbeatAt) <= visibility {
			continue
		}
		n++
		if e.Canceled {
			r.endAsCanceled(e)
			continue
		}
		e.Status = pinion.StatusPending
		e.Error = "lease expired"
		e.RunAt = time.Time{}
		e.reaped++
		if e.reaped > 1 {
			e.RunAt = r.now
			e.changed.dueWithin = max(time.Duration(e.Attempts)*visibility, 1)
		}
	}
	return n
}

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
	return limited(found, f.Limit)
}

// deadLetters lists the dead letters, the oldest first. A filter's status does not apply to them.
func (r *reference) deadLetters(f pinion.Filter) []*entry {
	return limited(r.allDeadLetters(f), f.Limit)
}

// allDeadLetters is deadLetters without regard to the limit.
func (r *reference) allDeadLetters(f pinion.Filter) []*entry {
	var found []*entry
	for _, e := range r.jobs {
		if e.letter > 0 && e.matches(f) {
			found = append(found, e)
		}
	}
	slices.SortFunc(found, func(a, b *entry) int { return cmp.Compare(a.letter, b.letter) })
	return found
}

// matches reports whether a job matches a filter, without regard to its status.
func (e *entry) matches(f pinion.Filter) bool {
	return (len(f.IDs) == 0 || slices.Contains(f.IDs, e.ID)) &&
		(f.Queue == "" || f.Queue == e.Queue) &&
		(f.Task == "" || strings.EqualFold(f.Task, e.Task))
}

func limited(entries []*entry, limit int) []*entry {
	if limit > 0 && len(entries) > limit {
		return entries[:limit]
	}
	return entries
}

// stats counts the jobs. Recent also counts those that finished in the last hour and minute.
func (r *reference) stats(recent bool) pinion.Stats {
	var stats pinion.Stats
	queues := make(map[string]*pinion.QueueStats)
	tasks := make(map[string]*pinion.TaskStats)
	for _, e := range r.jobs {
		if queues[e.Queue] == nil {
			queues[e.Queue] = &pinion.QueueStats{Queue: e.Queue}
		}
		if tasks[e.Task] == nil {
			tasks[e.Task] = &pinion.TaskStats{Task: e.Task}
		}
		for _, counts := range []*pinion.Counts{&stats.Total, &queues[e.Queue].Counts, &tasks[e.Task].Counts} {
			r.count(e, counts, recent)
		}
		if age := r.now.Sub(e.FinishedAt); recent && !e.isUnfinished() && age < time.Minute {
			stats.LastMinute[59-age/time.Second]++
		}
		if e.letter > 0 {
			stats.DeadLetters++
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

func (r *reference) count(e *entry, counts *pinion.Counts, recent bool) {
	age := r.now.Sub(e.FinishedAt)
	inLastHour := recent && age < time.Hour
	inLastMinute := recent && age < time.Minute
	switch e.Status {
	case pinion.StatusPending:
		counts.Pending++
		if counts.Oldest.IsZero() || e.CreatedAt.Before(counts.Oldest) {
			counts.Oldest = e.CreatedAt
		}
		return
	case pinion.StatusRunning:
		counts.Running++
		return
	case pinion.StatusSuccess:
		counts.Success++
		if inLastHour {
			counts.SuccessHour++
		}
	case pinion.StatusFailed:
		counts.Failed++
		if inLastHour {
			counts.FailedHour++
		}
	}
	if inLastMinute {
		counts.Minute++
	}
}

// ---- What people do by hand ----

// replay enqueues dead letters again, but for those whose key an unfinished job holds.
func (r *reference) replay(f pinion.Filter) int {
	n := 0
	for _, e := range r.allDeadLetters(f) {
		if f.Limit > 0 && n == f.Limit {
			break
		}
		if _, held := r.keyHolders()[e.Key]; held {
			continue
		}
		n++
		e.Status = pinion.StatusPending
		e.Attempts = 0
		e.Error = ""
		e.RunAt = time.Time{}
		e.FinishedAt = time.Time{}
		e.Worker = ""
		e.Canceled = false
		e.reaped = 0
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
	kept := slices.DeleteFunc(slices.Clone(r.jobs), func(e *entry) bool {
		return !e.isUnfinished() && e.letter == 0 && e.FinishedAt.Before(micro(before))
	})
	n := len(r.jobs) - len(kept)
	r.jobs = kept
	return n
}

// ---- Values ----

// micro returns a time as storages keep it: in UTC and whole microseconds.
func micro(t time.Time) time.Time { return t.UTC().Truncate(time.Microsecond) }

// storedError returns the text of an error as storages keep it: valid UTF-8 without NUL, of at most 16 KiB.
func storedError(cause error) string {
	const most = 16 << 10
	if cause == nil {
		return "unknown error"
	}
	text := strings.ToValidUTF8(cause.Error(), "\uFFFD")
	text = strings.ReplaceAll(text, "\x00", "\uFFFD")
	if len(text) > most {
		text = strings.ToValidUTF8(text[:most-len("...")], "") + "..."
	}
	return text
}

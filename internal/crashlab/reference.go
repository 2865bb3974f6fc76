package crashlab

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/pinion-queue/pinion"
)

// reference is what the documentation of [pinion.Storage] and its companions says, written down as plainly as can be:
// a list of jobs by age, gone through from front to back. It has no clock and no chance: now is given, and where a
// storage draws a moment at random, or stamps one while time goes by, the reference takes over what was observed.
type reference struct {
	now    time.Time // of the verb under way, in whole microseconds
	jobs   []*entry  // by age
	deaths int       // ever
}

// entry is one job. Of the Job in it, the arguments are not used.
type entry struct {
	pinion.Job
	args   string // and kwargs, as shown
	reaped int    // since it was enqueued or replayed
	death  int    // not 0: it is in the dead-letter queue, in the order of this
	stamp  stamp  // what the verb under way has set to now
}

// stamp says which times of an entry are those of the verb under way, so that in real time they may be a bit later.
type stamp struct {
	created, beat, finished bool
	claim                   int64 // not 0: the token before this claim, which is larger by any number
	spread                  time.Duration
}

func (e *entry) unfinished() bool {
	return e.Status == pinion.StatusPending || e.Status == pinion.StatusRunning
}

func (m *reference) begin(now time.Time) {
	m.now = now
	for _, e := range m.jobs {
		e.stamp = stamp{}
	}
}

func (m *reference) find(id string) *entry {
	for _, e := range m.jobs {
		if e.ID == id {
			return e
		}
	}
	return nil
}

func (m *reference) holder(key string) *entry {
	for _, e := range m.jobs {
		if key != "" && e.Key == key && e.unfinished() {
			return e
		}
	}
	return nil
}

// enqueue says what is wrong with a batch, or adds it, except for the ids that the storage is to choose.
func (m *reference) enqueue(jobs []*pinion.Job) (bad, taken bool) {
	ids, keys := make(map[string]bool), make(map[string]bool)
	for _, j := range jobs {
		bad = bad || j.Task == "" || strings.ToValidUTF8(j.ID+j.Task+j.Queue+j.Key, "") != j.ID+j.Task+j.Queue+j.Key
		taken = taken || ids[j.ID] || keys[j.Key] || m.find(j.ID) != nil || m.holder(j.Key) != nil
		ids[j.ID], keys[j.Key] = j.ID != "", j.Key != ""
	}
	if bad || taken {
		return bad, taken
	}
	for _, j := range jobs {
		m.jobs = append(m.jobs, &entry{args: showArgs(j), stamp: stamp{created: true}, Job: pinion.Job{ID: j.ID, Task: j.Task,
			Queue: cmp.Or(j.Queue, "default"), Priority: j.Priority, RunAt: micro(j.RunAt), Key: j.Key,
			Status: pinion.StatusPending, CreatedAt: m.now}})
	}
	return false, false
}

// dequeue claims in the order of priority and age; beyond the first slots jobs it stops before one that was claimed
// before.
func (m *reference) dequeue(slots, most int, queues []string) (claimed []*entry) {
	for len(claimed) < most {
		var best *entry
		for _, e := range m.jobs {
			if e.Status == pinion.StatusPending && !e.RunAt.After(m.now) && wanted(queues, e.Queue) && (best == nil || e.Priority > best.Priority) {
				best = e
			}
		}
		if best == nil || len(claimed) >= slots && best.Claim > 0 {
			break
		}
		best.stamp.claim, best.stamp.beat, best.Worker = best.Claim+1, true, ""
		best.Status, best.Attempts, best.Claim, best.HeartbeatAt = pinion.StatusRunning, best.Attempts+1, max(best.Claim+1, m.now.UnixMicro()), m.now
		claimed = append(claimed, best)
	}
	return claimed
}

// nextDue is when a job of these queues will be due, now if one is; without any, in a hundred years. It is clear when
// no other one is due so soon after that it is nobody's to say which comes first.
func (m *reference) nextDue(queues []string, near time.Duration) (due time.Time, clear bool) {
	due, clear = m.now.AddDate(100, 0, 0), true
	for _, e := range m.jobs {
		if e.Status != pinion.StatusPending || !wanted(queues, e.Queue) {
			continue
		}
		at := e.RunAt
		if !at.After(m.now) {
			return m.now, true
		}
		clear = clear && at.Sub(due).Abs() >= near || at.Before(due.Add(-near))
		if at.Before(due) {
			due = at
		}
	}
	return due, clear
}

func wanted(queues []string, queue string) bool {
	return len(queues) == 0 || slices.ContainsFunc(queues, func(name string) bool { return cmp.Or(name, "default") == queue })
}

// end is held for what ends a claim other than by success: jobs that were asked to end do so instead.
func (m *reference) end(jobs []*pinion.Job, do func(*entry)) (lost []int, canceled bool) {
	lost = m.held(jobs, func(e *entry, _ *pinion.Job) {
		if e.Canceled {
			m.cancel(e)
			canceled = true
		} else {
			do(e)
		}
	})
	return lost, canceled
}

func (m *reference) cancel(e *entry) {
	m.finish(e, pinion.StatusFailed)
	e.Canceled, e.Error = true, pinion.ErrCanceled.Error()
}

func (m *reference) cancelAll(ids []string) (ended, asked []string) {
	for _, id := range ids {
		switch e := m.find(id); {
		case e == nil:
		case e.Status == pinion.StatusPending:
			m.cancel(e)
			ended = append(ended, id)
		case e.Status == pinion.StatusRunning:
			e.Canceled = true
			asked = append(asked, id)
		}
	}
	return ended, asked
}

// canceled are the positions of the jobs that have been asked to end.
func (m *reference) canceled(jobs []*pinion.Job) (asked []int) {
	for i, j := range jobs {
		m.held([]*pinion.Job{j}, func(e *entry, _ *pinion.Job) {
			if e.Canceled {
				asked = append(asked, i)
			}
		})
	}
	return asked
}

// held does something to the jobs whose claim is the caller's and returns the positions of the others.
func (m *reference) held(jobs []*pinion.Job, do func(*entry, *pinion.Job)) (lost []int) {
	for i, j := range jobs {
		if e := m.find(j.ID); e != nil && e.Status == pinion.StatusRunning && e.Claim == j.Claim && e.Attempts == j.Attempts {
			do(e, j)
		} else {
			lost = append(lost, i)
		}
	}
	return lost
}

// lost is 1 if the claim is no longer the caller's.
func (m *reference) lost(job *pinion.Job) int {
	return len(m.held([]*pinion.Job{job}, func(*entry, *pinion.Job) {}))
}

func (m *reference) finish(e *entry, status pinion.Status) {
	e.Status, e.FinishedAt, e.stamp.finished = status, m.now, true
}

func (m *reference) markDone(jobs []*pinion.Job) []int {
	return m.held(jobs, func(e *entry, j *pinion.Job) {
		m.finish(e, pinion.StatusSuccess)
		e.Result = j.Result
	})
}

func (m *reference) markFailed(job *pinion.Job, cause error, retryAt time.Time) (lost []int, canceled bool) {
	return m.end([]*pinion.Job{job}, func(e *entry) {
		e.Status, e.Error, e.RunAt = pinion.StatusPending, storedError(cause), micro(retryAt)
	})
}

func (m *reference) deadLetter(job *pinion.Job, cause error) (lost []int, canceled bool) {
	return m.end([]*pinion.Job{job}, func(e *entry) {
		m.finish(e, pinion.StatusFailed)
		e.Error = storedError(cause)
		if errors.Is(cause, pinion.ErrAttemptsUsedUp) {
			e.Attempts-- // it was not run under this claim
		}
		m.deaths++
		e.death = m.deaths
	})
}

func (m *reference) heartbeat(jobs []*pinion.Job) []int {
	return m.held(jobs, func(e *entry, _ *pinion.Job) { e.HeartbeatAt, e.stamp.beat = m.now, true })
}

func (m *reference) release(jobs []*pinion.Job, cause error) (lost []int) {
	lost, _ = m.end(jobs, func(e *entry) {
		e.Status, e.Attempts, e.RunAt = pinion.StatusPending, e.Attempts-1, time.Time{}
		if cause != nil {
			e.Error = storedError(cause)
		}
	})
	return lost
}

// reapStale leaves the moment from a job's second reaping on to be observed.
func (m *reference) reapStale(visibility time.Duration) (n int) {
	for _, e := range m.jobs {
		if e.Status == pinion.StatusRunning && m.now.Sub(e.HeartbeatAt) > visibility {
			if n++; e.Canceled {
				m.cancel(e)
				continue
			}
			e.Status, e.Error, e.RunAt = pinion.StatusPending, "lease expired", time.Time{}
			if e.reaped++; e.reaped > 1 {
				e.RunAt, e.stamp.spread = m.now, max(time.Duration(e.Attempts)*visibility, 1)
			}
		}
	}
	return n
}

func (m *reference) size() (n int) {
	for _, e := range m.jobs {
		if e.Status == pinion.StatusPending {
			n++
		}
	}
	return n
}

// stats counts, and what finished lately too where time stands still between the verbs.
func (m *reference) stats(lately bool) (stats pinion.Stats) {
	queues, tasks := make(map[string]*pinion.QueueStats), make(map[string]*pinion.TaskStats)
	for _, e := range m.jobs {
		if queues[e.Queue] == nil {
			queues[e.Queue] = &pinion.QueueStats{Queue: e.Queue}
		}
		if tasks[e.Task] == nil {
			tasks[e.Task] = &pinion.TaskStats{Task: e.Task}
		}
		for _, c := range []*pinion.Counts{&stats.Total, &queues[e.Queue].Counts, &tasks[e.Task].Counts} {
			age := m.now.Sub(e.FinishedAt)
			late := lately && !e.unfinished()
			switch e.Status {
			case pinion.StatusPending:
				if c.Pending++; c.Oldest.IsZero() || e.CreatedAt.Before(c.Oldest) {
					c.Oldest = e.CreatedAt
				}
			case pinion.StatusRunning:
				c.Running++
			case pinion.StatusSuccess:
				if c.Success++; late && age < time.Hour {
					c.SuccessHour++
				}
			case pinion.StatusFailed:
				if c.Failed++; late && age < time.Hour {
					c.FailedHour++
				}
			}
			if late && age < time.Minute {
				if c.Minute++; c == &stats.Total {
					stats.LastMinute[59-age/time.Second]++
				}
			}
		}
		if e.death > 0 {
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

func (e *entry) matches(f pinion.Filter) bool {
	return (len(f.IDs) == 0 || slices.Contains(f.IDs, e.ID)) && (f.Queue == "" || f.Queue == e.Queue) &&
		(f.Task == "" || strings.EqualFold(f.Task, e.Task))
}

func limited(entries []*entry, limit int) []*entry {
	if limit > 0 && len(entries) > limit {
		return entries[:limit]
	}
	return entries
}

func (m *reference) list(f pinion.Filter) (found []*entry) {
	for _, e := range m.jobs {
		if e.matches(f) && (f.Status == "" || f.Status == e.Status) {
			found = append(found, e)
		}
	}
	return limited(found, f.Limit)
}

// dead are the dead letters that match, the oldest first; a status says nothing about them.
func (m *reference) dead(f pinion.Filter) (found []*entry) {
	for _, e := range m.jobs {
		if e.death > 0 && e.matches(f) {
			found = append(found, e)
		}
	}
	slices.SortFunc(found, func(a, b *entry) int { return cmp.Compare(a.death, b.death) })
	return found
}

func (m *reference) replay(f pinion.Filter) (n int) {
	for _, e := range m.dead(f) {
		if m.holder(e.Key) == nil && (f.Limit <= 0 || n < f.Limit) {
			e.Status, e.Attempts, e.Error, e.RunAt, e.FinishedAt = pinion.StatusPending, 0, "", time.Time{}, time.Time{}
			e.reaped, e.death, e.Worker, e.Canceled = 0, 0, "", false
			n++
		}
	}
	return n
}

func (m *reference) purge(f pinion.Filter) int {
	found := limited(m.dead(f), f.Limit)
	for _, e := range found {
		e.death = 0
	}
	return len(found)
}

func (m *reference) prune(before time.Time) int {
	all := len(m.jobs)
	m.jobs = slices.DeleteFunc(m.jobs, func(e *entry) bool {
		return !e.unfinished() && e.death == 0 && e.FinishedAt.Before(micro(before))
	})
	return all - len(m.jobs)
}

func micro(t time.Time) time.Time { return t.UTC().Truncate(time.Microsecond) }

func storedError(cause error) string {
	if cause == nil {
		return "unknown error"
	}
	text := strings.ReplaceAll(strings.ToValidUTF8(cause.Error(), "\uFFFD"), "\x00", "\uFFFD")
	if len(text) > 16<<10 {
		text = strings.ToValidUTF8(text[:16<<10-3], "") + "..."
	}
	return text
}

func showArgs(j *pinion.Job) string {
	args, kwargs := []byte("[]"), []byte("{}")
	var err1, err2 error
	if len(j.Args) > 0 {
		args, err1 = json.Marshal(j.Args)
	}
	if len(j.Kwargs) > 0 {
		kwargs, err2 = json.Marshal(j.Kwargs) // keys are sorted
	}
	if err := errors.Join(err1, err2); err != nil {
		return err.Error()
	}
	return fmt.Sprintf("%s %s", args, kwargs)
}

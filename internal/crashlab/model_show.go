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

// show returns a job on one line, with every field that all storages must agree on.
func show(job *pinion.Job, args string) string {
	return fmt.Sprintf("{%s %s %s due=%s attempts=%d claim=%d created=%s beat=%s finished=%s result=%s "+
		"worker=%s canceled=%t reaped=%d lease_until=%s started=%s}",
		showNames(job), args, job.Status, showTime(job.RunAt), job.Attempts, job.Claim,
		showTime(job.CreatedAt), showTime(job.HeartbeatAt), showTime(job.FinishedAt), job.Result,
		job.Worker, job.Canceled, job.Reaped, showTime(job.LeaseUntil), showTime(job.StartedAt))
}

// showDead returns a dead letter on one line, without the fields that a storage need not keep for it.
func showDead(job *pinion.Job, args string) string {
	return fmt.Sprintf("{%s %s %s attempts=%d finished=%s result=%s}",
		showNames(job), args, job.Status, job.Attempts, showTime(job.FinishedAt), job.Result)
}

// show is show for the reference's job.
func (e *entry) show() string {
	job := e.Job
	if job.Status == pinion.StatusRunning {
		job.LeaseUntil = job.HeartbeatAt.Add(e.lease)
	}
	return show(&job, e.args)
}

func (e *entry) showDead() string { return showDead(&e.Job, e.args) }

func showNames(job *pinion.Job) string {
	text := job.Error
	if len(text) > 60 {
		text = fmt.Sprintf("%.20s…(%d bytes)…%s", text, len(text), text[len(text)-10:])
	}
	return fmt.Sprintf("%s task=%q queue=%q key=%q until_start=%t meta=%v priority=%d error=%q",
		job.ID, job.Task, job.Queue, job.Key, job.KeyUntilStart, job.Meta, job.Priority, text)
}

// showArgs returns the arguments of a job as JSON.
func showArgs(job *pinion.Job) string {
	args, kwargs := []byte("[]"), []byte("{}")
	var argsErr, kwargsErr error
	if len(job.Args) > 0 {
		args, argsErr = json.Marshal(job.Args)
	}
	if len(job.Kwargs) > 0 {
		kwargs, kwargsErr = json.Marshal(job.Kwargs) // sorted by key
	}
	if err := errors.Join(argsErr, kwargsErr); err != nil {
		return err.Error()
	}
	return fmt.Sprintf("%s %s", args, kwargs)
}

// showTime returns "-" for the zero time and for the first moment of 1970, with which some storages say the
// same.
func showTime(t time.Time) string {
	if t.IsZero() || t.UnixMicro() == 0 {
		return "-"
	}
	if t.Location() != time.UTC {
		return t.String() // wrong: storages return UTC
	}
	return t.Format("2006-01-02T15:04:05.999999999")
}

// showHistory returns ends on a line each. Times are rounded, because some storages add them up in seconds.
func showHistory(all []pinion.Ends) string {
	var b strings.Builder
	for _, ends := range all {
		fmt.Fprintf(&b, "\n\t\t%s queue=%q task=%q succeeded=%d failed=%d took=%v",
			showTime(ends.At), ends.Queue, ends.Task, ends.Succeeded, ends.Failed, ends.Took.Round(time.Millisecond))
	}
	return b.String()
}

// byHour merges the ends of minutes that a storage may have merged: those of hours that ended more than two hours ago
// or are about to be so old.
func byHour(all []pinion.Ends, now time.Time) []pinion.Ends {
	type pair struct {
		at          time.Time
		queue, task string
	}
	sums := make(map[pair]pinion.Ends)
	for _, ends := range all {
		if ends.At.Before(now.Add(-time.Hour)) {
			ends.At = ends.At.Truncate(time.Hour)
		}
		key := pair{ends.At, ends.Queue, ends.Task}
		sum := sums[key]
		ends.Succeeded += sum.Succeeded
		ends.Failed += sum.Failed
		ends.Took += sum.Took
		sums[key] = ends
	}
	merged := slices.Collect(maps.Values(sums))
	slices.SortFunc(merged, func(a, b pinion.Ends) int {
		return cmp.Or(a.At.Compare(b.At), cmp.Compare(a.Queue, b.Queue), cmp.Compare(a.Task, b.Task))
	})
	return merged
}

func showStats(stats pinion.Stats) string {
	return strings.ReplaceAll(fmt.Sprintf("%+v", stats), "} {", "}\n\t     {")
}

// withoutMinute returns stats without the counts of the last minute. In real time they change meanwhile.
func withoutMinute(stats pinion.Stats) pinion.Stats {
	stats.Total.Minute = 0
	for i := range stats.Queues {
		stats.Queues[i].Minute = 0
	}
	for i := range stats.Tasks {
		stats.Tasks[i].Minute = 0
	}
	return stats
}

func jobIDs(jobs []*pinion.Job) []string {
	var ids []string
	for _, job := range jobs {
		ids = append(ids, job.ID)
	}
	return ids
}

func entryIDs(entries []*entry) []string {
	var ids []string
	for _, e := range entries {
		ids = append(ids, e.ID)
	}
	return ids
}

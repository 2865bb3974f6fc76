package crashlab

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/pinion-queue/pinion"
)

// show returns a job on one line, with every field that all storages must agree on.
func show(job *pinion.Job, args string) string {
	return fmt.Sprintf("{%s %s %s due=%s attempts=%d claim=%d created=%s beat=%s finished=%s result=%s "+
		"worker=%s canceled=%t}", showNames(job), args, job.Status, showTime(job.RunAt), job.Attempts, job.Claim,
		showTime(job.CreatedAt), showTime(job.HeartbeatAt), showTime(job.FinishedAt), job.Result,
		job.Worker, job.Canceled)
}

// showDead returns a dead letter on one line, without the fields that a storage need not keep for it.
func showDead(job *pinion.Job, args string) string {
	return fmt.Sprintf("{%s %s %s attempts=%d finished=%s}",
		showNames(job), args, job.Status, job.Attempts, showTime(job.FinishedAt))
}

func (e *entry) show() string { return show(&e.Job, e.args) }

func showNames(job *pinion.Job) string {
	text := job.Error
	if len(text) > 60 {
		text = fmt.Sprintf("%.20s…(%d bytes)…%s", text, len(text), text[len(text)-10:])
	}
	return fmt.Sprintf("%s task=%q queue=%q key=%q priority=%d error=%q",
		job.ID, job.Task, job.Queue, job.Key, job.Priority, text)
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

func showStats(stats pinion.Stats) string {
	return strings.ReplaceAll(fmt.Sprintf("%+v", stats), "} {", "}\n\t     {")
}

// withoutRecentCounts returns stats without the counts of the last hour and minute. In real time they change
// meanwhile.
func withoutRecentCounts(stats pinion.Stats) pinion.Stats {
	reset := func(counts *pinion.Counts) {
		counts.SuccessHour = 0
		counts.FailedHour = 0
		counts.Minute = 0
	}
	reset(&stats.Total)
	for i := range stats.Queues {
		reset(&stats.Queues[i].Counts)
	}
	for i := range stats.Tasks {
		reset(&stats.Tasks[i].Counts)
	}
	stats.LastMinute = [60]int{}
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

package web

import (
	"context"
	"errors"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"time"

	"github.com/pinion-queue/pinion"
	"github.com/pinion-queue/pinion/internal/words"
)

// jobPage shows everything about one job.
type jobPage struct {
	view
	Row      jobRow
	ID       string
	Priority int
	Key      string
	KeyNote  string
	Meta     []metaRow
	IsLetter bool // it is in the dead-letter queue
	Args     string
	Kwargs   string
	Result   string
	IsResult string // "Progress" or "Result"
	Error    string // whole, with its stack
	Times    []timeRow
	Reaped   int

	// What one may do with it.
	Cancel, Reschedule, Replay, Delete string
	Queue, Task                        string // the lists of its queue and task
	Alike                              string // the dead letters with the same error
}

type metaRow struct{ Name, Value string }

type timeRow struct {
	Name string
	At   *moment
}

func (s *site) job(w http.ResponseWriter, r *http.Request, escaped string) {
	id, err := url.PathUnescape(escaped)
	if err != nil {
		s.fail(w, r, http.StatusBadRequest, "The address names no job.")
		return
	}
	if id == "" {
		id = r.URL.Query().Get("id")
	}
	job, letter, err := s.findJob(r.Context(), id)
	if err != nil {
		s.failWith(w, r, err)
		return
	}
	p, err := s.jobPage(r, job, letter)
	if err != nil {
		s.failWith(w, r, err)
		return
	}
	s.show(w, r, http.StatusOK, "job", p)
}

// findJob finds a job and its dead letter, if it has one. A Python process may have left nothing but the letter.
func (s *site) findJob(ctx context.Context, id string) (job, letter *pinion.Job, err error) {
	job, err = s.inspector.Get(ctx, id)
	if err != nil && !errors.Is(err, pinion.ErrNotFound) {
		return nil, nil, err
	}
	notFound := err
	if job != nil && job.Status != pinion.StatusFailed {
		return job, nil, nil
	}
	letter, err = s.deadLetter(ctx, id)
	if err != nil {
		return nil, nil, err
	}
	if job == nil && letter == nil {
		return nil, nil, notFound
	}
	if job == nil {
		job = letter
	}
	return job, letter, nil
}

func (s *site) jobPage(r *http.Request, job, letter *pinion.Job) (p jobPage, err error) {
	p = jobPage{view: s.view(r, "Job", "job"), IsLetter: letter != nil}
	status, id := job.Status, job.ID
	p.Refresh = status == pinion.StatusPending || status == pinion.StatusRunning
	times := timesOf(job)
	p.Row, err = s.rowOfJob(p.Root, job) // redacts the job
	if err != nil {
		return p, err
	}
	p.ID = shown(id, 1000)
	p.Priority = job.Priority
	p.Key = shown(job.Key, 1100)
	if job.KeyUntilStart && job.Key != "" {
		p.KeyNote = "until it starts"
	}
	for _, name := range slices.Sorted(maps.Keys(job.Meta)) {
		p.Meta = append(p.Meta, metaRow{shown(name, 4096), shown(job.Meta[name], 4096)})
	}
	p.Args = argsJSON(job)
	p.Kwargs = kwargsJSON(job)
	if len(job.Result) > 0 {
		p.Result = indented(job.Result)
		p.IsResult = "Result"
		if status == pinion.StatusRunning {
			p.IsResult = "Progress"
		}
	}
	p.Error = words.Printable(job.Error, "\n\t")
	p.Times = times
	p.Reaped = job.Reaped
	p.Queue = address(p.Root+"jobs", "queue", job.Queue)
	p.Task = address(p.Root+"jobs", "task", job.Task)
	if letter != nil {
		p.Alike = address(p.Root+"dead", "like", id)
	}
	if !s.opts.Write {
		return p, nil
	}
	if p.Refresh && s.canceler != nil && !job.Canceled {
		p.Cancel = address(p.Root+"do/cancel", "id", id)
	}
	if status == pinion.StatusPending {
		p.Reschedule = address(p.Root+"do/reschedule", "id", id)
	}
	if letter != nil {
		p.Replay = address(p.Root+"do/replay", "id", id)
		p.Delete = address(p.Root+"do/delete", "id", id)
	}
	return p, nil
}

// timesOf returns the history of a job.
func timesOf(job *pinion.Job) (rows []timeRow) {
	add := func(name string, at time.Time) {
		if !at.IsZero() {
			rows = append(rows, timeRow{name, momentOf(at)})
		}
	}
	add("added", job.CreatedAt)
	if job.Status == pinion.StatusPending {
		add("due", job.RunAt)
	}
	add("claimed", claimedAt(job))
	add("started", job.StartedAt)
	add("last heartbeat", job.HeartbeatAt)
	add("lease ends", job.LeaseUntil)
	if job.Status == pinion.StatusFailed && !job.Canceled {
		add("failed", job.FinishedAt)
	} else {
		add("finished", job.FinishedAt)
	}
	return rows
}

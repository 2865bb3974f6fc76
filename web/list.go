package web

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/pinion-queue/pinion"
	"github.com/pinion-queue/pinion/internal/words"
)

// listed is how many jobs a list shows.
const listed = 100

// question says which jobs a list shows. The fields with capitals are the parameters of its address.
type question struct {
	Status string
	Queue  string
	Task   string
	Before string // a time, or an age such as 1h
	Text   string // in the error
	Like   string // the id of a dead letter: those with the same error

	cursor int64
	before time.Time
}

// question reads the address of a list. If the address is wrong, question answers the request and returns false.
func (s *site) question(w http.ResponseWriter, r *http.Request) (q question, ok bool) {
	q, err := questionOf(r.URL.Query())
	switch {
	case err != nil:
		s.fail(w, r, http.StatusBadRequest, err.Error())
		return q, false
	case q.Text != "" && s.opts.Redact != nil:
		s.failDead(w, r, errHidden{})
		return q, false
	}
	return q, true
}

// questionOf reads the address of a list.
func questionOf(query url.Values) (q question, err error) {
	q = question{
		Status: strings.ToUpper(query.Get("status")),
		Queue:  query.Get("queue"),
		Task:   query.Get("task"),
		Before: strings.TrimSpace(query.Get("before")),
		Text:   query.Get("text"),
		Like:   query.Get("like"),
	}
	if !slices.Contains(statuses, pinion.Status(q.Status)) {
		return question{}, fmt.Errorf("%q is not a status; want PENDING, RUNNING, SUCCESS, FAILED or none", q.Status)
	}
	if cursor := query.Get("cursor"); cursor != "" {
		q.cursor, err = strconv.ParseInt(cursor, 10, 64)
		if err != nil {
			return question{}, fmt.Errorf("%q is not a cursor; begin at the list's first page", cursor)
		}
	}
	if q.Before != "" {
		q.before, err = parseBefore(q.Before, time.Now())
	}
	return q, err
}

var statuses = []pinion.Status{
	"", pinion.StatusPending, pinion.StatusRunning, pinion.StatusSuccess, pinion.StatusFailed,
}

// parseBefore reads a time, or an age: 1h means an hour before now.
func parseBefore(text string, now time.Time) (time.Time, error) {
	if at, err := time.Parse(time.RFC3339Nano, text); err == nil {
		if at.IsZero() {
			at = at.Add(time.Microsecond) // the zero time would mean any
		}
		return at, nil
	}
	age, err := parseAge(text)
	if err != nil {
		return time.Time{}, fmt.Errorf("%q is neither an age, such as 90s, 10m, 2h or 3d, nor a time, such as "+
			"2026-01-31T15:04:05Z", text)
	}
	return now.Add(-age), nil
}

// parseAge reads a duration, which may be in days.
func parseAge(text string) (time.Duration, error) {
	if days, ok := strings.CutSuffix(text, "d"); ok {
		n, err := strconv.ParseFloat(days, 64)
		if err != nil || !(n >= 0 && n < 100_000) {
			return 0, fmt.Errorf("%q is not a number of days", days)
		}
		return time.Duration(n * float64(day)), nil
	}
	age, err := time.ParseDuration(text)
	if err == nil && age < 0 {
		err = fmt.Errorf("%q is negative", text)
	}
	return age, err
}

// filter returns the question as a storage takes it, without Like.
func (q *question) filter() pinion.Filter {
	return pinion.Filter{
		Status: pinion.Status(q.Status),
		Queue:  q.Queue,
		Task:   q.Task,
		Text:   q.Text,
		Before: q.before,
		Newest: true,
		Limit:  listed,
	}
}

// next returns the address of the page that begins at a cursor, or "".
func (q *question) next(to string, cursor int64) string {
	if cursor == 0 {
		return ""
	}
	return q.address(to, "cursor", strconv.FormatInt(cursor, 10))
}

// address returns an address with what the question asks for.
func (q *question) address(to string, more ...string) string {
	pairs := []string{
		"status", q.Status, "queue", q.Queue, "task", q.Task, "before", q.Before, "text", q.Text, "like", q.Like,
	}
	return address(to, append(pairs, more...)...)
}

// IsNarrow reports whether the question asks for a part of the list.
func (q question) IsNarrow() bool { return q != (question{Status: q.Status, cursor: q.cursor}) }

// jobRow is a line of a list of jobs.
type jobRow struct {
	ID       string // the end of the id
	Link     string
	Status   string
	Class    string // of the status, for its color
	Task     string
	Queue    string
	Args     string
	Attempts int
	When     *moment // added, or when it failed
	Due      *moment // of a job that waits for a due time
	Error    string  // its first line

	// Of a job that runs.
	Worker    string
	For       string
	Heartbeat *moment
	Progress  string
	Canceled  bool
}

// rowOfJob returns the line of a job.
func (s *site) rowOfJob(root string, job *pinion.Job) (jobRow, error) {
	id, err := s.redact(job)
	if err != nil {
		return jobRow{}, err
	}
	row := jobRow{
		ID:        shown(tail(id, 8), 12),
		Link:      jobAddress(root, id),
		Status:    strings.ToLower(string(job.Status)),
		Class:     statusClass(job),
		Task:      shown(job.Task, 60),
		Queue:     shown(job.Queue, 60),
		Args:      preview(job, 120),
		Attempts:  job.Attempts,
		When:      momentOf(job.CreatedAt),
		Error:     firstLine(job.Error, 300),
		Worker:    shown(job.Worker, 80),
		Heartbeat: momentOf(job.HeartbeatAt),
		Progress:  shown(string(job.Result[:min(len(job.Result), 400)]), 80),
		Canceled:  job.Canceled,
	}
	if job.Canceled {
		row.Status = "canceled"
		if job.Status == pinion.StatusRunning {
			row.Status = "canceling"
		}
	}
	if job.RunAt.After(time.Now()) && job.Status == pinion.StatusPending {
		row.Due = momentOf(job.RunAt)
	}
	if at := claimedAt(job); !at.IsZero() {
		row.For = words.Rough(time.Since(at))
	}
	return row, nil
}

func (s *site) rowsOf(root string, jobs []*pinion.Job) (rows []jobRow, err error) {
	for _, job := range jobs {
		row, err := s.rowOfJob(root, job)
		if err != nil {
			return nil, err
		}
		rows = append(rows, row)
	}
	return rows, nil
}

// tail returns the last n characters of an id. The first ones are its time, so neighbors in a list share them.
func tail(id string, n int) string {
	runes := []rune(id[max(0, len(id)-4*n):])
	if len(runes) <= n {
		return string(runes)
	}
	return string(runes[len(runes)-n:])
}

// statusClass returns a class of the style sheet.
func statusClass(job *pinion.Job) string {
	switch {
	case job.Canceled:
		return "canceled"
	case slices.Contains(statuses, job.Status):
		return strings.ToLower(string(job.Status))
	}
	return "unknown" // another program wrote it
}

// claimedAt returns when a job was claimed, or the zero time if that is not known. The storages of Pinion number their
// claims by the microsecond. Another storage may not; then the number is seldom between the job's other times.
func claimedAt(job *pinion.Job) time.Time {
	at := time.UnixMicro(job.Claim)
	if at.Before(job.CreatedAt) || at.After(job.HeartbeatAt) {
		return time.Time{}
	}
	return at
}

// list is a page with a list.
type list struct {
	view
	Question question
	Caption  string
	Rows     []jobRow
	Next     string // the address of the next page
	Looked   bool   // the page ends because many were looked at, not because it is full
	First    string // the address of the first page, if this is another
	CanText  bool   // errors may be searched
	Statuses []choice
	Form     question // what the form shows of the question
}

// choice is an option of a form.
type choice struct {
	Value, Text string
	Chosen      bool
}

func (s *site) jobs(w http.ResponseWriter, r *http.Request) {
	q, ok := s.question(w, r)
	if !ok {
		return
	}
	page, err := s.inspector.JobsPage(r.Context(), q.filter(), q.cursor)
	if err != nil {
		s.failWith(w, r, err)
		return
	}
	l, err := s.list(r, "Jobs", "jobs", q, page)
	if err != nil {
		s.failWith(w, r, err)
		return
	}
	l.Caption = s.countJobs(r.Context(), &q, page)
	s.show(w, r, http.StatusOK, "jobs", l)
}

// list returns a page with a list. The caller sets its Caption.
func (s *site) list(r *http.Request, title, here string, q question, page pinion.Page) (l list, err error) {
	l = list{view: s.view(r, title, here), Question: q, CanText: s.opts.Redact == nil}
	l.Refresh = q.cursor == 0
	l.Rows, err = s.rowsOf(l.Root, page.Jobs)
	l.Next = q.next(l.Root+here, page.Next)
	l.Looked = len(page.Jobs) < listed
	if q.cursor != 0 {
		l.First = q.address(l.Root + here)
	}
	for _, status := range statuses {
		l.Statuses = append(l.Statuses, choice{
			Value: string(status), Text: strings.ToLower(string(status)), Chosen: q.Status == string(status),
		})
	}
	l.Statuses[0].Text = "any"
	l.Form = question{
		Queue: typed(q.Queue), Task: typed(q.Task), Before: typed(q.Before), Text: typed(q.Text), Like: typed(q.Like),
	}
	return l, err
}

// typed returns text for a field of a form, or "" for text that nobody can type and that a form would not keep, such as
// one with line breaks.
func typed(text string) string {
	if words.Printable(text, "") != text {
		return ""
	}
	return text
}

// countJobs returns the caption of a list: how many jobs match or, if that is not known, how many it shows.
func (s *site) countJobs(ctx context.Context, q *question, page pinion.Page) string {
	noun := "job"
	if q.Status != "" {
		noun = strings.ToLower(q.Status) + " job"
	}
	shown := words.Plural(len(page.Jobs), noun)
	isWhole := page.Next == 0 && q.cursor == 0
	if n, known := s.total(ctx, q); known && !isWhole {
		return fmt.Sprintf("%s of %s, newest first", words.Thousands(len(page.Jobs)), words.Plural(n, noun))
	}
	switch {
	case isWhole:
		return shown + ", newest first"
	case q.cursor == 0:
		return "The newest " + shown
	}
	return shown + " on this page, newest first"
}

// total returns how many jobs match, if that is one of the numbers that the storage counts.
func (s *site) total(ctx context.Context, q *question) (n int, known bool) {
	hasBoth := q.Queue != "" && q.Task != "" // the storage counts by one of them
	if q.Before != "" || q.Text != "" || hasBoth {
		return 0, false
	}
	stats, err := s.stats.getSoon(ctx)
	if err != nil {
		return 0, false
	}
	pending, running := stats.Total.Pending, stats.Total.Running
	if q.Queue != "" || q.Task != "" {
		pending, running = 0, 0
	}
	for _, queue := range stats.Queues {
		if q.Queue != "" && queue.Queue == q.Queue {
			pending += queue.Pending
			running += queue.Running
		}
	}
	for _, task := range stats.Tasks { // one task may be there in several spellings
		if q.Task != "" && strings.EqualFold(task.Task, q.Task) {
			pending += task.Pending
			running += task.Running
		}
	}
	switch pinion.Status(q.Status) {
	case pinion.StatusPending:
		return pending, true
	case pinion.StatusRunning:
		return running, true
	}
	return 0, false
}

// workerJobs are the jobs that one worker runs.
type workerJobs struct {
	Name string
	Jobs []jobRow
}

type runningPage struct {
	list
	Workers []workerJobs
}

// runningListed is how many running jobs a page shows.
const runningListed = 500

func (s *site) running(w http.ResponseWriter, r *http.Request) {
	q, ok := s.question(w, r)
	if !ok {
		return
	}
	q.Status = string(pinion.StatusRunning)
	f := q.filter()
	f.Newest = false // those that were added first have probably run longest
	f.Limit = runningListed
	page, err := s.inspector.JobsPage(r.Context(), f, q.cursor)
	if err != nil {
		s.failWith(w, r, err)
		return
	}
	slices.SortStableFunc(page.Jobs, func(a, b *pinion.Job) int {
		return heldSince(a).Compare(heldSince(b))
	})
	l, err := s.list(r, "Running", "running", q, page)
	if err != nil {
		s.failWith(w, r, err)
		return
	}
	l.Looked = false
	p := runningPage{list: l}
	index := make(map[string]int)
	for _, row := range l.Rows {
		i, known := index[row.Worker]
		if !known {
			i = len(p.Workers)
			index[row.Worker] = i
			p.Workers = append(p.Workers, workerJobs{Name: row.Worker})
		}
		p.Workers[i].Jobs = append(p.Workers[i].Jobs, row)
	}
	p.Caption = fmt.Sprintf("%s, the longest first", words.Plural(len(l.Rows), "job"))
	n, known := s.total(r.Context(), &q)
	if known && n > len(l.Rows) {
		p.Caption = fmt.Sprintf("%s of %s", words.Thousands(len(l.Rows)), words.Plural(n, "job"))
	}
	s.show(w, r, http.StatusOK, "running", p)
}

// heldSince returns when a job was claimed or, if that is not known, its last heartbeat.
func heldSince(job *pinion.Job) time.Time {
	at := claimedAt(job)
	if at.IsZero() {
		return job.HeartbeatAt
	}
	return at
}

// groupRow is the dead letters that have one error.
type groupRow struct {
	Count          int
	Error          string
	Link           string // these letters
	Task           string // of the newest
	Newest         *moment
	Replay, Delete string
}

type deadPage struct {
	list
	Error  string // the error that all have, in a list of one group
	Groups []groupRow
	More   []groupRow // smaller groups
	Others int        // how many groups are not shown at all
	Whole  bool       // the groups are about all dead letters that match, not the newest only
	Count  string
	Shown  int    // how many letters were counted
	All    string // the address that counts all dead letters, if only the newest were counted
	Replay string // all that match
	Delete string
}

const (
	groupsShown = 5      // groups of errors that the page shows at once
	groupsMore  = 45     // further groups, which it shows on request
	groupLook   = 20_000 // how many dead letters it counts, the newest ones, unless all are asked for
)

func (s *site) dead(w http.ResponseWriter, r *http.Request) {
	q, ok := s.question(w, r)
	if !ok {
		return
	}
	q.Status = ""
	f, err := s.deadFilter(r.Context(), &q)
	if err != nil {
		s.failDead(w, r, err)
		return
	}
	page, err := s.inspector.DeadLettersPage(r.Context(), f, q.cursor)
	if err != nil {
		s.failWith(w, r, err)
		return
	}
	before := behindNewest(page, q.cursor)
	p := deadPage{}
	p.list, err = s.list(r, "Dead letters", "dead", q, page)
	if err != nil {
		s.failWith(w, r, err)
		return
	}
	for i, job := range page.Jobs {
		p.Rows[i].When = momentOf(job.FinishedAt)
	}
	look := groupLook
	if r.URL.Query().Get("count") == "all" {
		look = 0
	}
	f.Limit = groupsShown + groupsMore
	groups, err := s.inspector.GroupDeadLetters(r.Context(), f, look)
	if err != nil {
		s.failWith(w, r, err)
		return
	}
	if err := s.addGroups(&p, q, groups, before); err != nil {
		s.failWith(w, r, err)
		return
	}
	if groups.More {
		p.All = q.address(p.Root+"dead", "count", "all")
	}
	s.show(w, r, http.StatusOK, "dead", p)
}

// behindNewest returns a time just behind the newest dead letter of a list. "Replay all" and "Delete all" stop there,
// so they spare letters that have come since the page was shown. The time is of the storage's clock, which may differ
// from this program's. For a page without the newest letter it is now.
func behindNewest(page pinion.Page, cursor int64) time.Time {
	if len(page.Jobs) == 0 || cursor != 0 {
		return time.Now()
	}
	newest := page.Jobs[0].FinishedAt
	for _, job := range page.Jobs {
		if job.FinishedAt.After(newest) {
			newest = job.FinishedAt
		}
	}
	return newest.Add(time.Microsecond)
}

// addGroups adds the groups of errors to the page, and the actions on all letters that match.
func (s *site) addGroups(p *deadPage, q question, groups pinion.LetterGroups, before time.Time) error {
	p.Whole = !groups.More
	p.Others = groups.Errors - len(groups.Groups)
	p.Shown = groups.Letters
	p.Count = words.Plural(groups.Letters, "dead letter")
	if groups.More {
		p.Count = "Of the newest " + words.Thousands(groupLook) + " dead letters, " + words.Thousands(groups.Letters)
	}
	until := before.UTC().Format(time.RFC3339Nano)
	for i, g := range groups.Groups {
		row, err := s.groupRow(p, q, g)
		if err != nil {
			return err
		}
		if i < groupsShown {
			p.Groups = append(p.Groups, row)
		} else {
			p.More = append(p.More, row)
		}
	}
	if q.Like != "" && len(p.Groups) > 0 {
		p.Error = p.Groups[0].Error
	}
	if s.opts.Write && groups.Letters > 0 {
		all := q
		all.Before = until
		if !q.before.IsZero() && q.before.Before(before) {
			all.Before = q.before.UTC().Format(time.RFC3339Nano)
		}
		p.Replay = all.address(p.Root + "do/replay")
		p.Delete = all.address(p.Root + "do/delete")
	}
	return nil
}

func (s *site) groupRow(p *deadPage, q question, g pinion.LetterGroup) (groupRow, error) {
	until := g.Newest.FinishedAt.Add(time.Microsecond).UTC().Format(time.RFC3339Nano)
	id, err := s.redact(g.Newest)
	if err != nil {
		return groupRow{}, err
	}
	these := q
	these.Like = id
	row := groupRow{
		Count:  g.Count,
		Error:  firstLine(g.Newest.Error, 300),
		Link:   these.address(p.Root + "dead"),
		Task:   shown(g.Newest.Task, 60),
		Newest: momentOf(g.Newest.FinishedAt),
	}
	if s.opts.Write {
		these.Before = until
		row.Replay = these.address(p.Root + "do/replay")
		row.Delete = these.address(p.Root + "do/delete")
	}
	return row, nil
}

// errGone means that a list asks for letters like one that does not exist any more.
type errGone struct{ id string }

func (e errGone) Error() string {
	return fmt.Sprintf("The dead letter %s, whose error is meant, is gone: somebody has replayed or deleted it. "+
		"Look at the dead letters again.", shown(e.id, 80))
}

// errHidden refuses to search in errors, because Redact changes them.
type errHidden struct{}

func (errHidden) Error() string {
	return "Errors cannot be searched here, because Options.Redact hides parts of them."
}

func (s *site) failDead(w http.ResponseWriter, r *http.Request, err error) {
	switch err.(type) {
	case errGone:
		s.fail(w, r, http.StatusGone, err.Error())
	case errHidden:
		s.fail(w, r, http.StatusForbidden, err.Error())
	default:
		s.failWith(w, r, err)
	}
}

// deadFilter returns the filter for the dead letters that a question asks for. A question without Like is its own
// filter; one with Like adds the error of that letter.
func (s *site) deadFilter(ctx context.Context, q *question) (f pinion.Filter, err error) {
	if q.Text != "" && s.opts.Redact != nil {
		return f, errHidden{}
	}
	f = q.filter()
	if q.Like == "" {
		return f, nil
	}
	example, err := s.deadLetter(ctx, q.Like)
	if err != nil {
		return f, err
	}
	if example == nil {
		return f, errGone{q.Like}
	}
	f.Error = example.Error
	if f.Error == "" {
		f.Error = "\n\n" // "" would match every error
	}
	return f, nil
}

// deadLetter returns the dead letter of a job, or nil if there is none.
func (s *site) deadLetter(ctx context.Context, id string) (*pinion.Job, error) {
	page, err := s.inspector.DeadLettersPage(ctx, pinion.Filter{IDs: []string{id}, Limit: 1}, 0)
	if err != nil || len(page.Jobs) == 0 {
		return nil, err
	}
	return page.Jobs[0], nil
}

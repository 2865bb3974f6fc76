package web

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/pinion-queue/pinion"
	"github.com/pinion-queue/pinion/internal/words"
)

// actionTime is how long an action may take. What is left then can be done by the same action again.
const actionTime = 20 * time.Second

// confirmation is the page on which an action is confirmed. Its form sends the page's own address again, because a form
// field would change what an address keeps: line breaks, say.
type confirmation struct {
	view
	Question string // what is to be done, in a sentence
	Detail   string // the error or the job that it is about
	Verb     string // on the button
	Danger   bool   // it cannot be undone
	Field    string // "at" or "max": what the form asks for
	Value    string
	To       string // where the form goes
	Back     string
	Nothing  bool // there is nothing to do it to
}

// performed is what an action has done, which the next page says in words.
type performed struct {
	back  string // the next page
	did   string // a key of answers
	n     int
	left  int
	named string // a queue
}

// actions are the verbs of do/…: ask fills a confirmation, act does it.
var actions = map[string]struct {
	ask func(s *site, r *http.Request, c *confirmation) error
	act func(s *site, ctx context.Context, r *http.Request) (performed, error)
}{
	"replay":     {askLetters("Replay", "replayed"), actLetters("replayed")},
	"delete":     {askLetters("Delete", "deleted"), actLetters("deleted")},
	"cancel":     {(*site).askCancel, (*site).actCancel},
	"reschedule": {(*site).askReschedule, (*site).actReschedule},
	"pause":      {(*site).askPause, (*site).actPause},
	"resume":     {(*site).askResume, (*site).actResume},
	"limit":      {(*site).askLimit, (*site).actLimit},
}

// badRequest is the error of an action whose address or form makes no sense.
type badRequest string

func (e badRequest) Error() string { return string(e) }

const errNoInspector badRequest = "This storage cannot be looked into: it is not a pinion.Inspector."

func (s *site) action(w http.ResponseWriter, r *http.Request, name string) {
	verb, known := actions[name]
	switch {
	case !known:
		s.fail(w, r, http.StatusNotFound, "There is no such action.")
		return
	case !s.opts.Write:
		s.fail(w, r, http.StatusForbidden,
			"This page is read-only: Options.Write is not set, or pinion web runs without --write.")
		return
	}
	switch r.Method {
	case http.MethodGet, http.MethodHead:
		c := confirmation{view: s.view(r, "Confirm", name)}
		c.To = "?" + r.URL.Query().Encode()
		err := verb.ask(s, r, &c)
		if err != nil {
			s.failAction(w, r, err)
			return
		}
		s.show(w, r, http.StatusOK, "confirm", c)
	case http.MethodPost:
		r.Body = http.MaxBytesReader(w, r.Body, 64<<10)
		if err := r.ParseForm(); err != nil {
			s.fail(w, r, http.StatusBadRequest, "The form cannot be read.")
			return
		}
		// What somebody has confirmed is done, also if the browser goes away meanwhile.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(r.Context()), actionTime)
		defer cancel()
		done, err := verb.act(s, ctx, r)
		s.stats.forget()
		if err != nil {
			s.failAction(w, r, err)
			return
		}
		redirect(w, http.StatusSeeOther, done.address())
	default:
		w.Header().Set("Allow", "GET, HEAD, POST")
		s.fail(w, r, http.StatusMethodNotAllowed, "An action is a POST.")
	}
}

func (s *site) failAction(w http.ResponseWriter, r *http.Request, err error) {
	if bad, ok := errors.AsType[badRequest](err); ok {
		s.fail(w, r, http.StatusBadRequest, string(bad))
		return
	}
	s.failDead(w, r, err)
}

func (d performed) address() string {
	to, query, _ := strings.Cut(d.back, "?")
	values, err := url.ParseQuery(query)
	if err != nil {
		values = make(url.Values)
	}
	values.Set("did", d.did)
	values.Set("n", strconv.Itoa(d.n))
	if d.left > 0 {
		values.Set("left", strconv.Itoa(d.left))
	}
	if d.named != "" {
		values.Set("name", d.named)
	}
	return to + "?" + values.Encode()
}

// answerOf says in words what an action has done, from the address that it has led to.
func answerOf(query url.Values) string {
	n, err := strconv.Atoi(query.Get("n"))
	if err != nil {
		return ""
	}
	name := shown(query.Get("name"), 60)
	switch query.Get("did") {
	case "replayed":
		return "Replayed " + words.Plural(n, "dead letter") + "." + leftOver(query,
			" Another job may hold its key; then it can be replayed when that job has ended. If that is the next run of"+
				" a schedule, another follows it: reschedule that run instead.")
	case "deleted":
		return "Deleted " + words.Plural(n, "dead letter") + "." + leftOver(query, " Delete them again to go on.")
	case "canceled":
		return "The job is canceled."
	case "canceling":
		return "The job's worker was asked to cancel it, which takes a second if it lives."
	case "ended":
		return "Nothing was changed: the job had ended already."
	case "rescheduled":
		return "The job has a new due time."
	case "started":
		return "Nothing was changed: the job does not wait any more."
	case "paused":
		return fmt.Sprintf("Paused the queue %s. What runs goes on.", name)
	case "resumed":
		return fmt.Sprintf("The queue %s has no limit any more.", name)
	case "limited":
		return fmt.Sprintf("At most %s of the queue %s run at once.", words.Plural(n, "job"), name)
	}
	return ""
}

// leftOver says how many dead letters are left of those that an action was for, and why that may be.
func leftOver(query url.Values, why string) string {
	left, err := strconv.Atoi(query.Get("left"))
	if err != nil || left <= 0 {
		return ""
	}
	verb := "are"
	if left == 1 {
		verb = "is"
	}
	return fmt.Sprintf(" %s of them %s still there.", words.Thousands(left), verb) + why
}

// ---- Dead letters ----

// letters are the dead letters that an action is for: one, or those that a question finds.
func (s *site) letters(r *http.Request) (f pinion.Filter, q question, err error) {
	if s.inspector == nil {
		return f, q, errNoInspector
	}
	query := r.URL.Query()
	if id := query.Get("id"); id != "" {
		return pinion.Filter{IDs: []string{id}}, q, nil
	}
	q, err = questionOf(query)
	if err != nil {
		return f, q, badRequest(err.Error())
	}
	if _, err := time.Parse(time.RFC3339Nano, q.Before); err != nil {
		return f, q, badRequest(
			"The address does not say until when the dead letters failed. Begin at the list of dead letters.")
	}
	f, err = s.deadFilter(r.Context(), &q)
	f.Limit = 0
	f.Newest = false
	return f, q, err
}

// countLetters counts the dead letters that match.
func (s *site) countLetters(ctx context.Context, f pinion.Filter) (n int, newest *pinion.Job, err error) {
	if len(f.IDs) > 0 {
		letter, err := s.deadLetter(ctx, f.IDs[0])
		if err != nil || letter == nil {
			return 0, nil, err
		}
		return 1, letter, nil
	}
	f.Limit = 1
	groups, err := s.inspector.GroupDeadLetters(ctx, f, 0)
	if err != nil || len(groups.Groups) == 0 {
		return 0, nil, err
	}
	return groups.Letters, groups.Groups[0].Newest, nil
}

func askLetters(verb, done string) func(s *site, r *http.Request, c *confirmation) error {
	return func(s *site, r *http.Request, c *confirmation) error {
		f, q, err := s.letters(r)
		if err != nil {
			return err
		}
		n, newest, err := s.countLetters(r.Context(), f)
		if err != nil {
			return err
		}
		c.Verb = fmt.Sprintf("%s %s", verb, words.Plural(n, "dead letter"))
		c.Danger = done == "deleted"
		c.Back = backToLetters(c.Root, r, q)
		if n == 0 {
			c.Nothing = true
			c.Question = fmt.Sprintf("There is nothing to do: no dead letter matches, so nothing can be %s.", done)
			return nil
		}
		c.Question = fmt.Sprintf("%s exactly these %s?", verb, words.Thousands(n))
		if n == 1 {
			c.Question = verb + " this dead letter?"
		}
		if q.Like != "" {
			c.Detail = "All have this error: "
		}
		if len(f.IDs) > 0 || q.Like != "" {
			if _, err := s.redact(newest); err != nil {
				return err
			}
			c.Detail += firstLine(newest.Error, 500)
		} else {
			c.Detail = describe(q)
		}
		return nil
	}
}

// describe says which dead letters a question finds.
func describe(q question) string {
	var parts []string
	for _, part := range []struct{ name, value string }{
		{"of the queue", q.Queue}, {"of the task", q.Task}, {"with this in the error:", q.Text},
	} {
		if part.value != "" {
			parts = append(parts, part.name+" "+shown(part.value, 200))
		}
	}
	if len(parts) == 0 {
		parts = append(parts, "of all queues and tasks")
	}
	return fmt.Sprintf("Dead letters %s, that failed before %s. What fails later stays.",
		strings.Join(parts, ", "), shown(q.Before, 40))
}

// backToLetters returns the address of the page that an action with dead letters leads back to.
func backToLetters(root string, r *http.Request, q question) string {
	if id := r.URL.Query().Get("id"); id != "" {
		return jobAddress(root, id)
	}
	q.Like = "" // that letter is probably gone
	q.Before = ""
	return q.address(root + "dead")
}

func actLetters(done string) func(s *site, ctx context.Context, r *http.Request) (performed, error) {
	return func(s *site, ctx context.Context, r *http.Request) (performed, error) {
		f, q, err := s.letters(r)
		if err != nil {
			return performed{}, err
		}
		change := s.inspector.Replay
		if done == "deleted" {
			change = s.inspector.Purge
		}
		n, err := change(ctx, f)
		if err != nil && ctx.Err() == nil {
			return performed{}, fmt.Errorf("%d dead letters were %s before: %w", n, done, err)
		}
		// ctx may have ended, which has stopped the action in between.
		left, _, err := s.countLetters(context.WithoutCancel(ctx), f)
		if err != nil {
			return performed{}, err
		}
		return performed{back: backToLetters(root(r), r, q), did: done, n: n, left: left}, nil
	}
}

// ---- Jobs ----

// one finds the job that an action is for.
func (s *site) one(r *http.Request) (*pinion.Job, error) {
	if s.inspector == nil {
		return nil, errNoInspector
	}
	id := r.URL.Query().Get("id")
	if id == "" {
		return nil, badRequest("The address names no job.")
	}
	return s.inspector.Get(r.Context(), id)
}

// askOne asks about one job.
func (s *site) askOne(r *http.Request, c *confirmation, verb string, can func(*pinion.Job) bool) error {
	job, err := s.one(r)
	if err != nil {
		return err
	}
	possible := can(job)
	id, err := s.redact(job)
	if err != nil {
		return err
	}
	c.Back = jobAddress(c.Root, id)
	c.Verb = verb + " the job"
	c.Question = fmt.Sprintf("%s the job %s?", verb, shown(id, 80))
	c.Detail = shown(job.Task, 60) + " " + preview(job, 200)
	if !possible {
		c.Nothing = true
		status := shown(strings.ToLower(string(job.Status)), 20)
		c.Question = fmt.Sprintf("There is nothing to do: the job is %s.", status)
	}
	return nil
}

func (s *site) askCancel(r *http.Request, c *confirmation) error {
	if s.canceler == nil {
		return badRequest("This storage cannot cancel jobs: it is not a pinion.Canceler.")
	}
	c.Danger = true
	return s.askOne(r, c, "Cancel", func(job *pinion.Job) bool {
		return job.Status == pinion.StatusPending || job.Status == pinion.StatusRunning
	})
}

func (s *site) actCancel(ctx context.Context, r *http.Request) (performed, error) {
	if s.canceler == nil {
		return performed{}, badRequest("This storage cannot cancel jobs: it is not a pinion.Canceler.")
	}
	id := r.URL.Query().Get("id")
	ended, asked, err := s.canceler.Cancel(ctx, id)
	if err != nil {
		return performed{}, err
	}
	p := performed{back: jobAddress(root(r), id), did: "ended"}
	if len(ended) > 0 {
		p.did = "canceled"
	}
	if len(asked) > 0 {
		p.did = "canceling"
	}
	return p, nil
}

func (s *site) askReschedule(r *http.Request, c *confirmation) error {
	c.Field = "at"
	c.Value = "now"
	return s.askOne(r, c, "Reschedule", func(job *pinion.Job) bool { return job.Status == pinion.StatusPending })
}

func (s *site) actReschedule(ctx context.Context, r *http.Request) (performed, error) {
	if s.inspector == nil {
		return performed{}, errNoInspector
	}
	id := r.URL.Query().Get("id")
	at, err := parseDue(r.PostFormValue("at"), time.Now())
	if err != nil || id == "" {
		return performed{}, badRequest(fmt.Sprintf("%q is not a due time; want now, a time from now such as 90s, "+
			"10m, 2h or 3d, or a time such as 2026-01-31T15:04:05Z.", r.PostFormValue("at")))
	}
	n, err := s.inspector.Reschedule(ctx, pinion.Filter{IDs: []string{id}}, at)
	if err != nil {
		return performed{}, err
	}
	p := performed{back: jobAddress(root(r), id), did: "rescheduled", n: n}
	if n == 0 {
		p.did = "started"
	}
	return p, nil
}

// parseDue reads a due time: now, a time from now, or a time.
func parseDue(text string, now time.Time) (time.Time, error) {
	text = strings.TrimSpace(text)
	if strings.EqualFold(text, "now") {
		return time.Time{}, nil
	}
	if at, err := time.Parse(time.RFC3339Nano, text); err == nil {
		return at, nil
	}
	later, err := parseAge(text)
	if err != nil {
		return time.Time{}, err
	}
	return now.Add(later), nil
}

// ---- Queues ----

// queueOf returns the queue that an action is for.
func (s *site) queueOf(r *http.Request) (string, error) {
	if s.limiter == nil {
		return "", badRequest("This storage has no limits: it is not a pinion.Limiter.")
	}
	queue := r.URL.Query().Get("queue")
	if queue == "" {
		return "", badRequest("The address names no queue.")
	}
	return queue, nil
}

// askAboutQueue asks about one queue. The question has a %s for its name.
func (s *site) askAboutQueue(r *http.Request, c *confirmation, verb, question, detail string) error {
	queue, err := s.queueOf(r)
	if err != nil {
		return err
	}
	c.Verb = verb
	c.Question = fmt.Sprintf(question, shown(queue, 80))
	c.Detail = detail
	c.Back = c.Root
	return nil
}

func (s *site) askPause(r *http.Request, c *confirmation) error {
	return s.askAboutQueue(r, c, "Pause the queue", "Pause the queue %s?",
		"Workers claim no more of its jobs until it is resumed. What runs goes on.")
}

func (s *site) actPause(ctx context.Context, r *http.Request) (performed, error) {
	return s.setLimit(ctx, r, 0, "paused")
}

func (s *site) askResume(r *http.Request, c *confirmation) error {
	return s.askAboutQueue(r, c, "Lift the limit", "Lift the limit of the queue %s?",
		"Its jobs run again, as many as the workers take.")
}

func (s *site) actResume(ctx context.Context, r *http.Request) (performed, error) {
	return s.setLimit(ctx, r, -1, "resumed")
}

func (s *site) askLimit(r *http.Request, c *confirmation) error {
	err := s.askAboutQueue(r, c, "Set the limit", "How many jobs of the queue %s may run at once?",
		"Over all workers. 0 pauses the queue.")
	if err != nil {
		return err
	}
	limits, err := s.limiter.Limits(r.Context())
	if err != nil {
		return err
	}
	c.Field = "max"
	if limit, limited := limits[r.URL.Query().Get("queue")]; limited {
		c.Value = strconv.Itoa(limit)
	}
	return nil
}

// maxLimit is the largest limit of a queue that a form takes.
const maxLimit = math.MaxInt32

func (s *site) actLimit(ctx context.Context, r *http.Request) (performed, error) {
	limit, err := strconv.Atoi(strings.TrimSpace(r.PostFormValue("max")))
	if err != nil || limit < 0 || limit > maxLimit {
		return performed{}, badRequest(fmt.Sprintf("%q is not a limit; want a whole number from 0 to %d.",
			r.PostFormValue("max"), maxLimit))
	}
	did := "limited"
	if limit == 0 {
		did = "paused"
	}
	return s.setLimit(ctx, r, limit, did)
}

func (s *site) setLimit(ctx context.Context, r *http.Request, limit int, did string) (performed, error) {
	queue, err := s.queueOf(r)
	if err != nil {
		return performed{}, err
	}
	err = s.limiter.SetLimit(ctx, queue, limit)
	return performed{back: root(r), did: did, n: limit, named: queue}, err
}

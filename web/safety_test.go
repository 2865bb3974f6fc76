package web

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"html"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"net/url"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/pinion-queue/pinion"
)

// hostile are texts that somebody may have put into a queue.
var hostile = []string{
	`<script>alert(1)</script>`,
	`"><img src=x onerror=alert(1)>`,
	`' onmouseover='alert(1)`,
	`</title></textarea></pre><svg onload=alert(1)>`,
	`javascript:alert(1)`,
	"{{.}} {{template \"top\"}}",
	"\u202egnp.exe\u2066\u2069\u200b\ufeff",
	"\x1b[31mred\x1b]0;title\a",
	"a\r\nSet-Cookie: x=1",
	"100%/..%2f../?a=b&c=d#e",
	"..",
	"e\u0301\u0301\u0301\u0301\u0301",
	"\u2028\u2029\u0085",
	strings.Repeat("x", 900),
}

// allowed are the elements of the page's own templates.
var allowed = []string{
	"!DOCTYPE", "html", "head", "meta", "title", "link", "script", "body", "a", "header", "strong", "nav", "span",
	"time", "button", "div", "p", "main", "h1", "h2", "dl", "dt", "dd", "section", "figure", "figcaption", "svg",
	"path", "table", "caption", "thead", "tbody", "tr", "th", "td", "form", "label", "select", "option", "input",
	"details", "summary", "pre", "bdi", "code", "br",
}

// checkMarkup reports what a page has that only hostile text can have brought in.
func checkMarkup(t *testing.T, address, body string) {
	t.Helper()
	if !utf8.ValidString(body) {
		t.Errorf("%s is not UTF-8", address)
	}
	for _, r := range body {
		if r != '\n' && r != '\t' && (unicode.Is(unicode.Cf, r) || unicode.Is(unicode.Cc, r)) {
			t.Errorf("%s has the character %U", address, r)
			break
		}
	}
	for _, tag := range tags.FindAllString(body, -1) {
		name := strings.FieldsFunc(strings.TrimPrefix(tag[1:], "/"), func(r rune) bool { return strings.ContainsRune(" >/\n", r) })[0]
		if !slices.Contains(allowed, name) {
			t.Errorf("%s has the element %s", address, tag)
		}
		for _, attribute := range []string{" on", " style=", "javascript:"} {
			if strings.Contains(strings.ToLower(unquoted(tag)), attribute) {
				t.Errorf("%s has the attribute %s in %s", address, attribute, tag)
			}
		}
	}
	if scripts := strings.Count(body, "<script"); scripts != 1 {
		t.Errorf("%s has %d scripts, want 1", address, scripts)
	}
}

var isAddress = regexp.MustCompile(`(href|src|action)=$`)

// unquoted returns a tag without the values of its attributes, but for the schemes of addresses.
func unquoted(tag string) string {
	var b strings.Builder
	for i, part := range strings.Split(tag, `"`) {
		if i%2 == 0 {
			b.WriteString(part)
		} else if isAddress.MatchString(b.String()) && strings.HasPrefix(strings.ToLower(strings.TrimSpace(part)), "javascript:") {
			b.WriteString("javascript:")
		}
	}
	return b.String()
}

// addHostile adds jobs that have a text wherever a job may have one: a dead letter, one that runs, one that has
// succeeded, and the run of a schedule.
func addHostile(t *testing.T, q queue, text string) {
	t.Helper()
	name := text // what a name may be
	if !utf8.ValidString(name) || strings.Contains(name, "\x00") || name == "" {
		name = strings.ReplaceAll(strings.ToValidUTF8("x"+name, "?"), "\x00", "?")
	}
	plan(t, q, pinion.Periodic{
		Name:     name,
		Schedule: in10Hours{},
		Job:      func(time.Time) *pinion.Job { return pinion.NewJob(name, name) },
	})
	for i := range 3 {
		job := &pinion.Job{
			ID:     name + strings.Repeat("'", i),
			Task:   name,
			Queue:  name,
			Key:    name + strings.Repeat("'", i),
			Args:   []any{name, map[string]any{name: name}},
			Kwargs: map[string]any{name: name},
			Meta:   map[string]string{name: name},
		}
		enqueue(t, q, job)
		jobs, err := q.Dequeue(t.Context(), pinion.DequeueOptions{Max: 1, Worker: name, NoWait: true, Lease: time.Hour})
		if err != nil || len(jobs) != 1 {
			t.Fatalf("claimed %d jobs, want 1: %v", len(jobs), err)
		}
		jobs[0].Result, err = json.Marshal(text)
		if err != nil {
			t.Fatal(err)
		}
		switch i {
		case 0:
			err = q.DeadLetter(t.Context(), jobs[0], errors.New(text))
		case 1:
			_, err = q.Heartbeat(t.Context(), jobs...)
		case 2:
			_, err = q.MarkDone(t.Context(), jobs...)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := q.SetLimit(t.Context(), name, 3); err != nil {
		t.Fatal(err)
	}
}

// lookEverywhere opens all addresses that a text can be in, and what they lead to, and checks the markup.
func lookEverywhere(t *testing.T, page http.Handler, texts ...string) {
	t.Helper()
	addresses := []string{"/", "/jobs", "/running", "/dead", "/healthz", "/metrics"}
	for _, text := range texts {
		escaped := url.QueryEscape(text)
		addresses = append(addresses, "/jobs?queue="+escaped, "/jobs?task="+escaped, "/jobs?text="+escaped, "/dead?text="+escaped,
			"/dead?queue="+escaped, "/?did=paused&n=1&name="+escaped)
		for _, refused := range []string{
			"/jobs?status=no" + escaped, "/jobs?before=no" + escaped, "/jobs?cursor=x" + escaped,
			"/dead?like=no" + escaped, "/do/replay?like=no" + escaped + "&before=2026-01-01T00:00:00Z",
			"/job/?id=no" + escaped, "/nowhere/" + url.PathEscape(text),
		} {
			a := ask(t, page, "GET", refused)
			if a.status < 400 || a.status > 499 {
				t.Errorf("%s: status %d, want a refusal", refused, a.status)
			}
			checkMarkup(t, refused, a.body)
		}
	}
	seen := make(map[string]bool)
	for len(addresses) > 0 && len(seen) < 500 {
		address := addresses[0]
		addresses = addresses[1:]
		if seen[address] {
			continue
		}
		seen[address] = true
		body := get(t, page, address)
		if strings.HasPrefix(address, "/healthz") || strings.HasPrefix(address, "/metrics") {
			continue
		}
		checkMarkup(t, address, body)
		// Every link of a page leads to a page.
		for _, found := range href.FindAllStringSubmatch(body, -1) {
			target := follow(t, address, html.UnescapeString(found[1]))
			target, _, _ = strings.Cut(target, "#")
			if strings.HasPrefix(target, "/job/") || strings.HasPrefix(target, "/do/") ||
				strings.HasPrefix(target, "/dead?") {
				addresses = append(addresses, target)
			}
		}
	}
}

func TestHostileTextIsShownAsText(t *testing.T) {
	overStorages(t, func(t *testing.T, q queue) {
		for _, text := range hostile {
			addHostile(t, q, text)
		}
		lookEverywhere(t, New(q, quiet(t, Options{Write: true})), hostile...)
	})
}

// Hostile texts with other bytes in some places: other characters, escapes, text that is not UTF-8.
func TestAnyTextIsShownAsText(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("the seed is %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	for range 2 {
		for _, text := range hostile {
			changed := []byte(text)
			for range 1 + random.IntN(3) {
				changed[random.IntN(len(changed))] = byte(random.IntN(256))
			}
			q := pinion.NewMemoryStorage()
			addHostile(t, q, string(changed))
			lookEverywhere(t, New(q, quiet(t, Options{Write: true})), string(changed))
			if t.Failed() {
				t.Fatalf("the text is %q", changed)
			}
		}
	}
}

// Other programs may write what Enqueue refuses.
func TestBrokenTextInAFileIsShown(t *testing.T) {
	path := filepath.Join(t.TempDir(), "q.db")
	q := openSQLite(t, path)
	enqueue(t, q, &pinion.Job{ID: "broken", Task: "t"})
	db := otherProgram(t, path)
	_, err := db.Exec(`UPDATE jobs SET func_name=cast(x'61ff62c0' AS TEXT), queue=cast(x'ff' AS TEXT), key=cast(x'fe' AS TEXT),
		args=cast(x'5b22ff225d' AS TEXT), meta='{"a":', result=cast(x'22ff22' AS TEXT), error=cast(x'ff0a0aff' AS TEXT), status='ODD'`)
	if err != nil {
		t.Fatal(err)
	}
	page := New(q, quiet(t, Options{}))
	for _, address := range []string{"/", "/jobs", "/jobs?queue=%ff", "/dead", "/job/broken", "/metrics"} {
		body := get(t, page, address)
		if !utf8.ValidString(body) {
			t.Errorf("%s is not UTF-8", address)
		}
	}
	wantText(t, get(t, page, "/jobs"), `odd`, `a\xffb\xc0`, `\xff`)
}

func TestAMegabyteIsShownAndClipped(t *testing.T) {
	overStorages(t, func(t *testing.T, q queue) {
		large := strings.Repeat("x ", 500_000)
		enqueue(t, q, &pinion.Job{ID: "large", Task: "t", Args: []any{large}})
		deep := strings.Repeat("[", 3000) + strings.Repeat("1,", 200_000) + "1" + strings.Repeat("]", 3000)
		enqueue(t, q, &pinion.Job{ID: "deep", Task: "t", Args: []any{json.RawMessage(deep)}})
		page := New(q, quiet(t, Options{}))
		if body := get(t, page, "/jobs"); len(body) > 20_000 {
			t.Errorf("the list has %d bytes", len(body))
		}
		if body := get(t, page, "/job/large"); !strings.Contains(body, large) {
			t.Error("the job's page does not show the whole argument")
		}
		body := get(t, page, "/job/deep")
		if !strings.Contains(body, strings.Repeat("1,", 200_000)) || len(body) > 2*maxIndented {
			t.Errorf("the page of an argument in 3,000 lists has %d bytes", len(body))
		}
	})
}

func TestRedactHidesSecretsEverywhere(t *testing.T) {
	overStorages(t, func(t *testing.T, q queue) {
		const secret = "hunter2"
		enqueue(t, q,
			&pinion.Job{ID: "dead", Task: "t", Priority: 3, Args: []any{secret}, Kwargs: map[string]any{"k": secret}, Meta: map[string]string{"m": secret}},
			&pinion.Job{ID: "runs", Task: "t", Priority: 2, Args: []any{secret}},
			&pinion.Job{ID: "waits", Task: "t", Args: []any{secret}, RunAt: time.Now().Add(time.Hour)},
		)
		jobs := claim(t, q, 2)
		jobs[0].Result = json.RawMessage(`"` + secret + `"`)
		if err := q.DeadLetter(t.Context(), jobs[0], errors.New("wrong password "+secret)); err != nil {
			t.Fatal(err)
		}
		jobs[1].Result = json.RawMessage(`"` + secret + `"`)
		if _, err := q.Heartbeat(t.Context(), jobs[1]); err != nil {
			t.Fatal(err)
		}
		plan(t, q, pinion.Periodic{
			Name:     "p",
			Schedule: pinion.Every(24 * 365 * time.Hour),
			Job:      func(time.Time) *pinion.Job { return pinion.NewJob("t", secret) },
		})
		redact := func(job *pinion.Job) {
			job.Args = []any{"hidden"}
			job.Kwargs = nil
			job.Meta = nil
			job.Result = nil
			job.Error = strings.ReplaceAll(job.Error, secret, "hidden")
		}
		page := New(q, quiet(t, Options{Write: true, Redact: redact}))
		for _, address := range []string{
			"/", "/jobs", "/running", "/dead", "/dead?like=dead", "/job/dead", "/job/runs", "/job/waits",
			"/do/cancel?id=runs", "/do/replay?id=dead", "/do/replay?like=dead&before=2100-01-01T00:00:00Z",
			"/do/reschedule?id=waits", "/metrics", "/healthz",
		} {
			if body := get(t, page, address); strings.Contains(body, secret) {
				t.Errorf("%s shows the secret:\n%s", address, body)
			}
		}
		wantText(t, get(t, page, "/dead"), "1 × wrong password hidden")
		if a := ask(t, page, "GET", "/dead?text=hunter2"); a.status != http.StatusForbidden {
			t.Errorf("a search for the secret: status %d", a.status)
		}
		if a := ask(t, page, "GET", "/jobs?text=hunter2"); a.status != http.StatusForbidden {
			t.Errorf("a search for the secret among jobs: status %d", a.status)
		}
		wantText(t, act(t, page, "/do/replay?like=dead&before=2100-01-01T00:00:00Z"), "Replayed 1 dead letter.")
	})
}

func TestAPanicOfRedactShowsNothing(t *testing.T) {
	q := pinion.NewMemoryStorage()
	enqueue(t, q, pinion.NewJob("t", "secret"))
	var log bytes.Buffer
	page := New(q, &Options{
		Redact: func(*pinion.Job) { panic("oh") },
		Logger: slog.New(slog.NewTextHandler(&log, nil)),
	})
	a := ask(t, page, "GET", "/jobs")
	if a.status != http.StatusInternalServerError || strings.Contains(a.body, "secret") ||
		!strings.Contains(log.String(), "panic: oh") {
		t.Errorf("status %d:\n%s\nlog: %s", a.status, visible(a.body), &log)
	}
}

// A browser that reads slowly, or never, must not keep the file's log from being reset.
func TestASlowReaderHoldsNothing(t *testing.T) {
	path := filepath.Join(t.TempDir(), "q.db")
	q := openSQLite(t, path)
	page := New(q, quiet(t, Options{}))
	db := otherProgram(t, path)
	for _, address := range []string{"/", "/jobs", "/dead", "/running"} {
		enqueue(t, q, pinion.NewJob("t", strings.Repeat("x", 100)))
		w := &stalled{header: make(http.Header), wrote: make(chan struct{}), read: make(chan struct{})}
		done := make(chan struct{})
		go func() {
			page.ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), "GET", address, nil))
			close(done)
		}()
		<-w.wrote // and now it waits for its reader
		var busy, frames, moved int
		if err := db.QueryRow("PRAGMA wal_checkpoint(TRUNCATE)").Scan(&busy, &frames, &moved); err != nil || busy != 0 {
			t.Errorf("%s: a checkpoint is busy: %d, %v", address, busy, err)
		}
		close(w.read)
		<-done
	}
}

// stalled is the ResponseWriter of a client that does not read until it is told to.
type stalled struct {
	header      http.Header
	wrote, read chan struct{}
}

func (s *stalled) Header() http.Header { return s.header }
func (s *stalled) WriteHeader(int)     {}

func (s *stalled) Write(p []byte) (int, error) {
	close(s.wrote)
	<-s.read
	return len(p), nil
}

func TestACanceledRequestEndsAndLogsNothing(t *testing.T) {
	overStorages(t, func(t *testing.T, q queue) {
		bury(t, q, "broken", "boom", 1)
		page := New(q, quiet(t, Options{}))
		for _, address := range []string{"/jobs", "/dead", "/running", "/job/x"} {
			ctx, cancel := context.WithCancel(t.Context())
			cancel()
			w := httptest.NewRecorder()
			page.ServeHTTP(w, httptest.NewRequestWithContext(ctx, "GET", address, nil))
			if w.Code == http.StatusOK {
				t.Errorf("%s answers a request that was canceled", address)
			}
		}
	})
}

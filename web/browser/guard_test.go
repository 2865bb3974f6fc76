package browser

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"html/template"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	_ "modernc.org/sqlite"

	"github.com/pinion-queue/pinion"
	"github.com/pinion-queue/pinion/web"
	"github.com/pinion-queue/pinion/web/internal/chromium"
)

// form is a form of the page, as another site would copy it.
type form struct {
	Action string
	Fields [][2]string
}

// forms returns the forms of a document that change something.
func (p *tab) forms() []form {
	return eval[[]form](p, `() => [...document.forms].filter(f => f.method === 'post').map(f => ({
		action: f.action,
		fields: [...new FormData(f)].filter(([, value]) => typeof value === 'string'),
	}))`)
}

// state is what the actions of the page change.
func (h *house) state(t *testing.T) string {
	t.Helper()
	limits, err := h.Limits(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	jobs := make(map[string]string)
	for job := range all(t, h.Jobs(t.Context(), pinion.Filter{})) {
		jobs[job.ID] = fmt.Sprint(job.Status, job.Canceled, job.RunAt)
	}
	text, err := json.MarshalIndent([]any{limits, jobs, h.dead(t, "")}, "", " ")
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

var attack = template.Must(template.New("").Parse(`<!doctype html><title>You have won</title>
	<form method=post action="{{.Action}}">
	{{range .Fields}}<input name="{{index . 0}}" value="{{index . 1}}">{{end}}
	<button>Claim your prize</button></form>`))

func TestAFormOnAForeignSiteDoesNothing(t *testing.T) {
	b := browser(t)
	h := newHouse(t, "", &web.Options{Write: true})
	copied := make(map[string]form) // by verb
	own := newTab(t, b, chromium.View{}, h.url)
	for _, address := range []string{"", "dead", "job/" + h.running[0], "job/" + h.waiting[0]} {
		own.open(h.url + address)
		actions := eval[[]string](own, `() => [...document.querySelectorAll('a[href*="do/"]')].map(a => a.href)`)
		for _, action := range actions {
			_, verb, _ := strings.Cut(action, "/do/")
			verb, _, _ = strings.Cut(verb, "?")
			_, known := copied[verb]
			if known {
				continue
			}
			own.open(action)
			copied[verb] = own.forms()[0]
		}
	}
	verbs := slices.Sorted(maps.Keys(copied))
	want := []string{"cancel", "delete", "limit", "pause", "replay", "reschedule", "resume"}
	if diff := cmp.Diff(want, verbs); diff != "" {
		t.Fatalf("the actions of the page (-want +got):\n%s", diff)
	}
	before := h.state(t)
	for _, f := range copied {
		foreign := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/favicon.ico" {
				return
			}
			err := attack.Execute(w, f)
			if err != nil {
				t.Error(err)
			}
		}))
		// For a browser the last of these is the same site as the page, at another port.
		for _, name := range []string{"prizes.example", "localhost", "127.0.0.1"} {
			p := newTab(t, b, chromium.View{}, strings.Replace(foreign.URL, "127.0.0.1", name, 1))
			p.expected = []string{"status of 403"}
			p.follow("button", "Claim")
			p.sees("nothing was done")
		}
		foreign.Close()
	}
	if diff := cmp.Diff(before, h.state(t)); diff != "" {
		t.Errorf("the foreign site changed the queue (-before +after):\n%s", diff)
	}
}

// A name of the attacker's that has come to mean 127.0.0.1 makes the page part of the attacker's site,
// which may read it.
func TestAForeignNameShowsNothing(t *testing.T) {
	b := browser(t)
	h := newHouse(t, "", &web.Options{Write: true})
	rebound := strings.Replace(h.url, "127.0.0.1", "prizes.example", 1)
	for _, address := range []string{"", "jobs", "running", "dead", "job/" + h.running[0], "healthz", "metrics"} {
		p := newTab(t, b, chromium.View{}, rebound+address)
		p.expected = refusals
		p.seesNot("charge_card", "send_welcome", "monthly_report", refused, "pinion_")
		p.sees("does not answer under this name")
	}
}

// A slow reader must not keep SQLite's log from being written back, nor anybody from working.
func TestASlowReaderHoldsNoTransaction(t *testing.T) {
	h := newHouse(t, "", nil)
	large := pinion.NewJob("send_welcome", 1, strings.Repeat("<&>", 2_000))
	large.Queue = "newsletter" // which is paused
	h.enqueue(t, large)
	page := httptest.NewUnstartedServer(web.New(h.SQLiteStorage, nil))
	narrow := narrowListener{page.Listener, make(chan *net.TCPConn, 1)}
	page.Listener = narrow
	page.Start()
	defer page.Close()
	for _, address := range []string{"", "jobs", "dead", "job/" + large.ID} {
		conn, err := net.Dial("tcp", page.Listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		err = conn.(*net.TCPConn).SetReadBuffer(2048)
		if err != nil {
			t.Fatal(err)
		}
		_, err = fmt.Fprintf(conn, "GET /%s HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n", address)
		if err != nil {
			t.Fatal(err)
		}
		first := make([]byte, 15)
		_, err = io.ReadFull(conn, first) // so the answer has begun, and the handler waits for its reader
		if err != nil || string(first) != "HTTP/1.1 200 OK" {
			t.Fatalf("%s answers %q, %v", address, first, err)
		}
		h.checkpoint(t)
		// Through small buffers the rest would take seconds.
		err = (<-narrow.accepted).SetWriteBuffer(1 << 20)
		if err != nil && !errors.Is(err, net.ErrClosed) { // closed: the system has the whole page
			t.Fatal(err)
		}
		err = conn.(*net.TCPConn).SetReadBuffer(1 << 20)
		if err != nil {
			t.Fatal(err)
		}
		rest, err := io.ReadAll(conn)
		if err != nil || !bytes.Contains(rest, []byte("</html>")) {
			t.Errorf("%s: the rest of the answer, %d bytes, does not end: %v", address, len(rest), err)
		}
		conn.Close()
	}
}

// checkpoint writes SQLite's log back, all of it. A transaction that still reads would make that impossible.
func (h *house) checkpoint(t *testing.T) {
	t.Helper()
	h.work(t, "default", "send_welcome", 1)
	db := h.sql(t) // it waits for the worker, which reads and writes for moments
	var busy, frames, written int
	err := db.QueryRowContext(t.Context(), `PRAGMA wal_checkpoint(TRUNCATE)`).Scan(&busy, &frames, &written)
	if err != nil || busy != 0 {
		t.Errorf("SQLite's log cannot be written back (%v): somebody reads all the time", err)
	}
}

// narrowListener gives its connections small buffers, so that a page does not fit into them.
type narrowListener struct {
	net.Listener
	accepted chan *net.TCPConn
}

func (l narrowListener) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	narrow := conn.(*net.TCPConn)
	l.accepted <- narrow
	return conn, narrow.SetWriteBuffer(2048)
}

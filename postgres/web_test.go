package postgres

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/pinion-queue/pinion"
	"github.com/pinion-queue/pinion/web"
)

// visit asks a handler for an address.
func visit(t *testing.T, h http.Handler, address string) (status int, body string) {
	t.Helper()
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), "GET", address, nil))
	return w.Code, w.Body.String()
}

// The page's own tests look at it over the storages of package pinion.
func TestThePageShowsAQueueOnAServer(t *testing.T) {
	s := open(t, schemaURL(t), nil)
	ctx := t.Context()
	const hostile = `<b>"&'` + "\u202e%/?#\r\n"
	for _, job := range []*pinion.Job{
		{ID: "dead", Task: hostile, Queue: hostile, Key: hostile, Meta: map[string]string{hostile: hostile}, Args: []any{hostile}},
		{ID: "waits", Task: hostile, Queue: hostile, RunAt: time.Now().Add(time.Hour)},
	} {
		err := s.Enqueue(ctx, job)
		if err != nil {
			t.Fatal(err)
		}
	}
	jobs, err := s.Dequeue(ctx, pinion.DequeueOptions{Max: 1, NoWait: true, Worker: hostile})
	if err != nil || len(jobs) != 1 {
		t.Fatalf("claimed %d jobs, want 1: %v", len(jobs), err)
	}
	err = s.DeadLetter(ctx, jobs[0], errors.New(hostile))
	if err != nil {
		t.Fatal(err)
	}
	err = s.SetLimit(ctx, hostile, 2)
	if err != nil {
		t.Fatal(err)
	}
	page := web.New(s, &web.Options{Write: true, Logger: slog.New(slog.DiscardHandler)})
	escaped := url.QueryEscape(hostile)
	for _, c := range []struct{ address, want string }{
		{"/", "failed in the last hour"},
		{"/jobs", `href="./job/waits"`},
		{"/jobs?status=PENDING&queue=" + escaped, `href="./job/waits"`},
		{"/jobs?task=" + escaped + "&text=" + escaped, `href="./job/dead"`},
		{"/jobs?queue=%ff", "No job matches."},
		{"/jobs?queue=%00", "No job matches."},
		{"/running", "No job runs."},
		{"/dead?text=" + escaped, "replay exactly these 1"},
		{"/dead?text=%ff", "No dead letter matches."},
		{"/dead?like=dead", "All have this error"},
		{"/job/dead", "dead letter"},
		{"/do/replay?like=dead&before=2100-01-01T00:00:00Z", "Replay this dead letter?"},
		{"/do/cancel?id=waits", "Cancel the job waits?"},
		{"/metrics", "pinion_dead_letters 1"},
		{"/healthz", "ok"},
	} {
		status, body := visit(t, page, c.address)
		if status != http.StatusOK || !strings.Contains(body, c.want) {
			t.Errorf("%s: status %d, want %q in\n%s", c.address, status, c.want, body)
		}
		if c.address == "/metrics" { // plain text
			continue
		}
		if strings.Contains(body, "<b>") || strings.Contains(body, "\u202e") {
			t.Errorf("%s holds hostile text as it is", c.address)
		}
	}
}

func TestHealthOnAServerSaysThatNoWorkerIsAtWork(t *testing.T) {
	s := open(t, schemaURL(t), nil)
	health := web.Health(s, &web.Options{MaxWait: 1, Logger: slog.New(slog.DiscardHandler)})
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	wantHealth := func(want string) {
		t.Helper()
		for { // counts are kept for a second
			status, body := visit(t, health, "/")
			if strings.Contains(body, want) && (status == http.StatusOK) == (want == "ok") {
				return
			}
			if ctx.Err() != nil {
				t.Fatalf("status %d, %q, want %q", status, body, want)
			}
			time.Sleep(10 * time.Millisecond)
		}
	}
	claim := func(lease time.Duration) {
		t.Helper()
		err := s.Enqueue(ctx, pinion.NewJob("t"))
		if err != nil {
			t.Fatal(err)
		}
		wantHealth("1 job is due, and the oldest has been due for")
		wantHealth("no worker is at work")
		jobs, err := s.Dequeue(ctx, pinion.DequeueOptions{Max: 1, NoWait: true, Lease: lease})
		if err != nil || len(jobs) != 1 {
			t.Fatalf("claimed %d jobs, want 1: %v", len(jobs), err)
		}
	}
	wantHealth("ok")
	claim(time.Millisecond)
	wantHealth("the lease of a running job expired")
	claim(time.Hour)
	wantHealth("ok")
}

package web

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/pinion-queue/pinion"
)

func TestListsPageByKey(t *testing.T) {
	overStorages(t, func(t *testing.T, q queue) {
		for range 250 {
			enqueue(t, q, pinion.NewJob("t"))
		}
		page := New(q, quiet(t, Options{}))
		seen := 0
		address := "/jobs?status=PENDING"
		for {
			body := get(t, page, address)
			wantText(t, body, " of 250 pending jobs, newest first")
			seen += strings.Count(body, `href="./job/`)
			if !strings.Contains(body, `rel="next"`) {
				break
			}
			address = follow(t, address, link(t, body, "older"))
		}
		if seen != 250 {
			t.Errorf("the pages show %d jobs, want 250", seen)
		}
	})
}

func TestListsHeedTheirFilters(t *testing.T) {
	overStorages(t, func(t *testing.T, q queue) {
		enqueue(t, q,
			&pinion.Job{ID: "one", Task: "mail", Queue: "mails"},
			&pinion.Job{ID: "two", Task: "mail", Queue: "other"},
			&pinion.Job{ID: "three", Task: "index", Queue: "other"})
		bury(t, q, "broken", "connection refused", 1)
		page := New(q, quiet(t, Options{}))
		for address, want := range map[string][]string{
			"/jobs?task=MAIL":                              {"two", "one"},
			"/jobs?queue=other":                            {"three", "two"},
			"/jobs?queue=other&task=mail":                  {"two"},
			"/jobs?status=failed":                          {"failed broken"},
			"/jobs?text=refused":                           {"failed broken"},
			"/jobs?before=1h":                              {"No job matches."},
			"/jobs?before=2100-01-01T00:00:00Z&task=index": {"three"},
			"/dead?text=refused":                           {"1 × connection refused", "1 dead letter"},
			"/dead?text=cheese":                            {"0 dead letters"},
			"/dead?task=mail":                              {"0 dead letters"},
			"/dead?before=1d":                              {"0 dead letters"},
		} {
			body := get(t, page, address)
			wantText(t, body, want...)
			for _, id := range []string{"one", "two", "three"} {
				wanted := strings.Contains(strings.Join(want, " "), id)
				if strings.Contains(body, `>`+id+`</a>`) != wanted {
					t.Errorf("%s lists %s: %v", address, id, !wanted)
				}
			}
		}
	})
}

// An address that cannot be read, in part or as a time, must not mean all jobs.
func TestAFilterThatCannotBeReadIsRefused(t *testing.T) {
	overStorages(t, func(t *testing.T, q queue) {
		bury(t, q, "t", "boom", 3)
		page := New(q, quiet(t, Options{Write: true}))
		const until = "before=2100-01-01T00:00:00Z"
		for _, query := range []string{"queue=a;b", "queue=%zz", "queue=none&text=%", "before=yesterday", "status=dead", "cursor=1e9"} {
			for _, address := range []string{"/jobs?", "/dead?", "/running?", "/do/delete?" + until + "&", "/do/replay?" + until + "&"} {
				for _, method := range []string{"GET", "POST"} {
					isList := !strings.HasPrefix(address, "/do/")
					if method == "POST" && isList || !isList && strings.HasPrefix(query, "before=") { // the first one counts
						continue
					}
					a := ask(t, page, method, address+query,
						func(r *http.Request) { r.Header.Set("Sec-Fetch-Site", "same-origin") })
					if a.status != http.StatusBadRequest {
						t.Errorf("%s %s%s: status %d, want 400", method, address, query, a.status)
					}
				}
			}
		}
		wantText(t, get(t, page, "/dead?before=0001-01-01T00:00:00Z"), "0 dead letters")
		wantText(t, get(t, page, "/do/delete?before=0001-01-01T00:00:00Z"), "There is nothing to do")
		stats, err := q.Stats(t.Context())
		if err != nil || stats.DeadLetters != 3 {
			t.Errorf("%d dead letters are left, want 3: %v", stats.DeadLetters, err)
		}
	})
}

// broken is a storage whose listings fail.
type broken struct{ queue }

func (broken) JobsPage(context.Context, pinion.Filter, int64) (pinion.Page, error) {
	return pinion.Page{}, errors.New("disk on fire")
}

func TestAnErrorOfTheStorageIsShownAndLogged(t *testing.T) {
	var log strings.Builder
	page := New(broken{pinion.NewMemoryStorage()}, &Options{Logger: slog.New(slog.NewTextHandler(&log, nil))})
	a := ask(t, page, "GET", "/jobs")
	if a.status != http.StatusInternalServerError || !strings.Contains(a.body, "disk on fire") ||
		!strings.Contains(log.String(), "disk on fire") {
		t.Errorf("status %d:\n%s\nlog: %s", a.status, visible(a.body), &log)
	}
}

// slow is a storage whose Stats take long.
type slow struct {
	queue
	calls int
}

func (s *slow) Stats(ctx context.Context) (pinion.Stats, error) {
	s.calls++
	time.Sleep(3 * time.Second)
	return s.queue.Stats(ctx)
}

func TestListsDoNotWaitForSlowCounts(t *testing.T) {
	before := soonPatience
	t.Cleanup(func() { soonPatience = before })
	soonPatience = time.Second / 2
	synctest.Test(t, func(t *testing.T) {
		q := &slow{queue: pinion.NewMemoryStorage()}
		page := New(q, quiet(t, Options{}))
		timed := func(address string) time.Duration {
			start := time.Now()
			get(t, page, address)
			return time.Since(start)
		}
		if took := timed("/jobs"); took > time.Second {
			t.Errorf("the list takes %v", took)
		}
		wantText(t, get(t, page, "/jobs"), "0 jobs, newest first")
		if took := timed("/"); took > 3*time.Second {
			t.Errorf("the overview takes %v, though somebody has asked already", took)
		}
		time.Sleep(10 * time.Second)
		if took := timed("/"); took != 0 {
			t.Errorf("the overview takes %v, though the counts, which took 3s, are 10s old", took)
		}
		if q.calls != 1 {
			t.Errorf("the storage was asked %d times", q.calls)
		}
		time.Sleep(time.Minute)
		if took := timed("/"); took != 3*time.Second {
			t.Errorf("the overview takes %v, though the counts are old", took)
		}
	})
}

// The errors of a program end with a line break, and an error may have no text at all.
func TestExactlyTheseAreThoseWithAnOddError(t *testing.T) {
	for _, text := range []string{"", "\n", "refused\n", "\n\nstack"} {
		t.Run(fmt.Sprintf("%q", text), func(t *testing.T) {
			overStorages(t, func(t *testing.T, q queue) {
				bury(t, q, "other", "refused", 1)
				odd := bury(t, q, "odd", text, 2)
				h := New(q, quiet(t, Options{Write: true}))
				until := url.QueryEscape(time.Now().Add(time.Hour).UTC().Format(time.RFC3339))
				wantText(t, act(t, h, "/do/delete?like="+odd[0]+"&before="+until), "Deleted 2 dead letters.")
				var left []string
				for job, err := range q.DeadLetters(t.Context(), pinion.Filter{}) {
					if err != nil {
						t.Fatal(err)
					}
					left = append(left, job.Task)
				}
				if diff := cmp.Diff([]string{"other"}, left); diff != "" {
					t.Errorf("dead letters that are left (-want +got):\n%s", diff)
				}
			})
		})
	}
}

func TestAListCountsATaskInAllItsSpellings(t *testing.T) {
	overStorages(t, func(t *testing.T, q queue) {
		for range listed {
			enqueue(t, q, pinion.NewJob("add"), pinion.NewJob("ADD"), pinion.NewJob("other"))
		}
		page := New(q, quiet(t, Options{}))
		wantText(t, get(t, page, "/jobs?status=PENDING&task=Add"), "100 of 200 pending jobs")
	})
}

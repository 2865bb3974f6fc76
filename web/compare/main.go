// The command compare runs Pinion's page, River UI and asynqmon side by side on the same jobs, and prints what a person
// gets: how many clicks lead from "something fails" to "these are replayed", how soon each list answers, how much a
// browser loads, and how many jobs it shows. docs/page.md has its table.
//
//	../../.ci/with-postgres go run .
//
// It needs PostgreSQL, redis-server and a Chromium. All servers listen on the loopback, and so does all traffic.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"time"

	"github.com/pinion-queue/pinion/web/internal/chromium"
)

func main() {
	var o options
	flag.IntVar(&o.jobs, "jobs", 100_000, "how many jobs each queue gets; a hundredth of them fail, a tenth wait")
	flag.IntVar(&o.rounds, "rounds", 100, "how often each list is asked for")
	flag.StringVar(&o.shots, "shots", "", "a `folder` for a screenshot of each list")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	err := run(ctx, o)
	if err != nil {
		fmt.Fprintln(os.Stderr, "compare:", err)
		os.Exit(1)
	}
}

type options struct {
	jobs   int
	rounds int
	shots  string
}

// peer is a queue with its page.
type peer struct {
	name  string
	open  func(ctx context.Context, dir string) (house, error)
	lists []list
}

// house is a peer that runs.
type house interface {
	// fill enqueues jobs, lets workers run those that shall end, and returns when the queue is at rest.
	fill(ctx context.Context, work []job) error
	// url is the address of its page.
	url() string
	// dead counts the jobs that nobody will run again.
	dead(ctx context.Context) (int, error)
	// replay clicks, from the first page on, until the dead jobs with an error are replayed, or all if it is "". It
	// returns errors.ErrUnsupported if the page cannot.
	replay(ctx context.Context, page *chromium.Page, failure string) error
	close() error
}

// list is one list of jobs: where a browser finds it, and the requests that fetch what it shows.
type list struct {
	name     string
	page     string
	requests []string
	row      string // a CSS selector of a row
}

func run(ctx context.Context, o options) error {
	work := makeJobs(o.jobs)
	browser, err := chromium.Start()
	if err != nil {
		return err
	}
	defer browser.Close()
	var results []result
	for _, p := range peers() {
		fmt.Fprintf(os.Stderr, "%s: %d jobs …\n", p.name, len(work))
		r, err := measure(ctx, browser, p, work, o)
		if err != nil {
			return fmt.Errorf("%s: %w", p.name, err)
		}
		results = append(results, r)
	}
	report(os.Stdout, results, o)
	return nil
}

func peers() []peer {
	return []peer{
		pinionPeer("Pinion, SQLite", openPinionFile),
		pinionPeer("Pinion, PostgreSQL", openPinionPostgres),
		riverPeer(),
		asynqPeer(),
	}
}

func measure(ctx context.Context, browser *chromium.Browser, p peer, work []job, o options) (result, error) {
	r := result{name: p.name}
	dir, err := os.MkdirTemp("", "pinion-compare-")
	if err != nil {
		return r, err
	}
	defer os.RemoveAll(dir)
	h, err := p.open(ctx, dir)
	if err != nil {
		return r, err
	}
	defer h.close()
	start := time.Now()
	err = h.fill(ctx, work)
	if err != nil {
		return r, err
	}
	fmt.Fprintf(os.Stderr, "%s: filled in %.0f s\n", p.name, time.Since(start).Seconds())
	for _, l := range p.lists {
		looked, err := look(ctx, browser, h.url(), l, o)
		if err != nil {
			return r, fmt.Errorf("%s: %w", l.name, err)
		}
		r.looks = append(r.looks, looked)
		if o.shots != "" {
			err = os.WriteFile(fmt.Sprintf("%s/%s %s.png", o.shots, p.name, l.name), looked.shot, 0o644)
			if err != nil {
				return r, err
			}
		}
	}
	for _, failure := range []string{failures[0].text, ""} {
		done, err := replay(ctx, browser, h, failure)
		if err != nil && !errors.Is(err, errors.ErrUnsupported) {
			return r, fmt.Errorf("replay %q: %w", failure, err)
		}
		r.replays = append(r.replays, done)
	}
	return r, nil
}

// step is a click on an element that a CSS selector and a text name.
type step struct{ css, text string }

// walk clicks one after the other, each as soon as it is there.
func walk(ctx context.Context, page *chromium.Page, steps ...step) error {
	for _, s := range steps {
		err := page.UntilClickable(ctx, s.css, s.text)
		if err != nil {
			return err
		}
		err = page.Click(ctx, s.css, s.text)
		if err != nil {
			return err
		}
	}
	return nil
}

// replay counts the clicks that replay the jobs with an error, or all dead jobs.
func replay(ctx context.Context, browser *chromium.Browser, h house, failure string) (replayed, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	page, err := browser.NewPage(ctx, chromium.View{})
	if err != nil {
		return replayed{}, err
	}
	defer page.Close(ctx)
	before, err := h.dead(ctx)
	if err != nil {
		return replayed{}, err
	}
	err = page.Open(ctx, h.url())
	if err != nil {
		return replayed{}, err
	}
	err = h.replay(ctx, page, failure)
	if err != nil {
		return replayed{}, err
	}
	after, err := h.dead(ctx)
	return replayed{clicks: page.Clicks(), jobs: before - after}, err
}

package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptrace"
	"slices"
	"time"

	"github.com/pinion-queue/pinion/web/internal/chromium"
)

// looked is what a person and a stopwatch saw of a list.
type looked struct {
	list      string
	firstByte []quantiles // of each request
	rows      quantiles   // from the click to the rows, in a browser that has loaded the assets before
	visible   int         // rows on a screen of 1280 × 900
	whole     int         // rows on the page
	bytes     int         // that a browser loads at the first visit
	again     int         // and at the second
	requests  int         // at the first visit
	says      string      // the first row's text
	shot      []byte
}

type quantiles struct{ p50, p90 time.Duration }

func quantilesOf(took []time.Duration) quantiles {
	slices.Sort(took)
	return quantiles{took[len(took)/2], took[len(took)*9/10]}
}

func look(ctx context.Context, browser *chromium.Browser, base string, l list, o options) (looked, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	seen := looked{list: l.name}
	for _, request := range l.requests {
		took, err := firstByte(ctx, base+request, o.rounds)
		if err != nil {
			return seen, err
		}
		seen.firstByte = append(seen.firstByte, took)
	}
	page, err := browser.NewPage(ctx, chromium.View{})
	if err != nil {
		return seen, err
	}
	defer page.Close(ctx)
	var rows []time.Duration
	for visit := range 11 {
		start := time.Now()
		err = page.Open(ctx, base+l.page)
		if err != nil {
			return seen, err
		}
		err = page.Until(ctx, `row => document.querySelectorAll(row).length >= 10`, l.row)
		if err != nil {
			return seen, err
		}
		took := time.Since(start)
		switch visit {
		case 0:
			for _, response := range page.Responses() {
				seen.bytes += response.Bytes
				seen.requests++
			}
		case 1:
			for _, response := range page.Responses() {
				seen.again += response.Bytes
			}
		}
		if visit > 0 {
			rows = append(rows, took)
		}
		if visit == 10 {
			continue
		}
		err = page.Open(ctx, "about:blank")
		if err != nil {
			return seen, err
		}
	}
	seen.rows = quantilesOf(rows)
	var shown struct {
		Visible, Whole int
		Says           string
	}
	err = page.Eval(ctx, &shown, `row => {
		const visible = [...document.querySelectorAll(row)].filter(e => e.checkVisibility())
		const rows = visible.map(e => e.closest('li, tr') ?? e)
		const inView = e => { // with its lower edge, where a bar may cover it
			const box = e.getBoundingClientRect()
			const below = document.elementFromPoint(box.x + box.width / 2, box.bottom - 2)
			return box.top >= 0 && below !== null && e.contains(below)
		}
		return {visible: rows.filter(inView).length, whole: rows.length, says: rows[0].innerText.replace(/\s+/g, ' ')}
	}`, l.row)
	if err != nil {
		return seen, err
	}
	seen.visible, seen.whole, seen.says = shown.Visible, shown.Whole, shown.Says
	seen.shot, err = page.Screenshot(ctx)
	return seen, err
}

// firstByte asks for an address again and again over one connection, and returns how long the answer's first byte
// takes.
func firstByte(ctx context.Context, address string, rounds int) (quantiles, error) {
	var took []time.Duration
	for range rounds + 3 {
		var first time.Time
		traced := httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
			GotFirstResponseByte: func() { first = time.Now() },
		})
		request, err := http.NewRequestWithContext(traced, http.MethodGet, address, nil)
		if err != nil {
			return quantiles{}, err
		}
		start := time.Now()
		response, err := http.DefaultClient.Do(request)
		if err != nil {
			return quantiles{}, err
		}
		_, err = io.Copy(io.Discard, response.Body)
		response.Body.Close()
		if err != nil {
			return quantiles{}, err
		}
		if response.StatusCode != http.StatusOK {
			return quantiles{}, fmt.Errorf("%s: %s", address, response.Status)
		}
		took = append(took, first.Sub(start))
	}
	return quantilesOf(took[3:]), nil // the first ones warm the caches up
}

package browser

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pinion-queue/pinion/web/internal/chromium"
)

// tab is a page in the browser; what goes wrong there ends the test.
type tab struct {
	*chromium.Page
	browser *chromium.Browser
	t       *testing.T
	ctx     context.Context
	view    chromium.View

	expected []string // the browser may complain of these
}

// refusals are what the browser complains of where a page refuses it: of the answers, that the message has no style,
// and that a header means nothing under a name without TLS.
var refusals = []string{"status of 401", "status of 421", "MIME type", "Cross-Origin-Opener-Policy"}

// browser starts a browser for a test. Without the variable PINION_TEST_BROWSER, which .ci/run sets,
// the test is skipped.
func browser(t *testing.T) *chromium.Browser {
	t.Helper()
	if os.Getenv("PINION_TEST_BROWSER") == "" {
		t.Skip("set PINION_TEST_BROWSER=1 to look at the page with a Chromium; axe-core comes with npm ci")
	}
	b, err := chromium.Start()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		err := b.Close()
		if err != nil {
			t.Error(err)
		}
	})
	return b
}

// newTab opens an address. When the test ends, the browser must have complained about nothing.
func newTab(t *testing.T, b *chromium.Browser, view chromium.View, address string) *tab {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute) // so that what never comes is named
	t.Cleanup(cancel)
	page, err := b.NewPage(ctx, view)
	if err != nil {
		t.Fatal(err)
	}
	p := &tab{Page: page, browser: b, t: t, ctx: ctx, view: view}
	t.Cleanup(func() {
		for _, problem := range p.Problems() {
			of := func(text string) bool { return strings.Contains(problem, text) }
			if !slices.ContainsFunc(p.expected, of) {
				t.Errorf("%v: the browser complains: %s", view, problem)
			}
		}
		err := page.Close(context.WithoutCancel(ctx)) // or it would go on refreshing
		if err != nil {
			t.Error(err)
		}
	})
	p.open(address)
	return p
}

func (p *tab) must(err error) {
	p.t.Helper()
	if err != nil {
		p.t.Fatalf("%v: %v", p.view, err)
	}
}

func (p *tab) open(address string) {
	p.t.Helper()
	p.must(p.Open(p.ctx, address))
}

// follow clicks on what leads to another document.
func (p *tab) follow(css, text string) {
	p.t.Helper()
	p.must(p.Follow(p.ctx, css, text))
}

func (p *tab) click(css, text string) {
	p.t.Helper()
	p.must(p.Click(p.ctx, css, text))
}

func (p *tab) write(css, text string) {
	p.t.Helper()
	p.must(p.Type(p.ctx, css, text))
}

// where returns the page's address for messages, without its end if it is long.
func (p *tab) where() string {
	p.t.Helper()
	return fmt.Sprintf("%.120s", p.address())
}

func (p *tab) address() string {
	p.t.Helper()
	address, err := p.Address(p.ctx)
	p.must(err)
	return address
}

func (p *tab) text() string {
	p.t.Helper()
	text, err := p.Text(p.ctx)
	p.must(err)
	return text
}

// sees checks that the page shows texts.
func (p *tab) sees(texts ...string) {
	p.t.Helper()
	shown := p.text()
	for _, text := range texts {
		if !strings.Contains(shown, text) {
			p.t.Errorf("%v: %s does not show %q, but:\n%s", p.view, p.where(), text, shown)
		}
	}
}

// seesNot checks that the page does not show texts.
func (p *tab) seesNot(texts ...string) {
	p.t.Helper()
	shown := p.text()
	for _, text := range texts {
		if strings.Contains(shown, text) {
			p.t.Errorf("%v: %s shows %q", p.view, p.where(), text)
		}
	}
}

// eval returns what a function of JavaScript returns.
func eval[T any](p *tab, function string, args ...any) T {
	p.t.Helper()
	var result T
	p.must(p.Eval(p.ctx, &result, function, args...))
	return result
}

// count counts the elements that match a selector.
func (p *tab) count(css string) int {
	p.t.Helper()
	return eval[int](p, `css => document.querySelectorAll(css).length`, css)
}

// accessible checks the page with axe, and that it does not scroll sideways. A page without scripts stays as it is
// without them while axe looks at it.
func (p *tab) accessible() {
	p.t.Helper()
	wide := eval[int](p, `() => document.scrollingElement.scrollWidth - document.scrollingElement.clientWidth`)
	if wide > 0 {
		p.t.Errorf("%v: %s scrolls sideways by %d pixels", p.view, p.where(), wide)
	}
	if p.view.Width > 0 && p.view.Width < 600 {
		p.fitsFingers()
	}
	if p.view.NoScript {
		p.must(p.AllowScripts(p.ctx, true))
		if p.count("#pause:not([hidden])") > 0 {
			p.t.Errorf("%v: %s: its script has run", p.view, p.where())
		}
		defer func() { p.must(p.AllowScripts(p.ctx, false)) }()
	}
	axe, err := os.ReadFile(filepath.Join("node_modules", "axe-core", "axe.min.js"))
	if err != nil {
		p.t.Fatalf("%v; npm ci installs it", err)
	}
	var found struct {
		Passes     int // rules that the page obeys: none if axe has not looked
		Violations []struct {
			ID, Help string
			Nodes    []struct {
				HTML           string
				FailureSummary string
			}
		}
	}
	p.must(p.Eval(p.ctx, nil, `() => {`+string(axe)+`}`))
	p.must(p.Eval(p.ctx, &found, `async () => {
		const found = await axe.run(document, {
			runOnly: ['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa', 'wcag22aa', 'best-practice'],
		})
		return {violations: found.violations, passes: found.passes.length}
	}`))
	if found.Passes < 10 {
		p.t.Errorf("%v: %s: axe finds that the page obeys %d rules; want many", p.view, p.where(), found.Passes)
	}
	for _, violation := range found.Violations {
		nodes, _ := json.MarshalIndent(violation.Nodes[:min(3, len(violation.Nodes))], "", "  ")
		p.t.Errorf("%v: %s: axe finds %s: %s, %d times:\n%s",
			p.view, p.where(), violation.ID, violation.Help, len(violation.Nodes), nodes)
	}
}

// fitsFingers checks that a finger hits each control and not its neighbor: it is 24 pixels high (WCAG 2.5.8), unless it
// is a link within a sentence.
func (p *tab) fitsFingers() {
	p.t.Helper()
	low := eval[[]string](p, `() => {
		const controls = [...document.querySelectorAll('a[href], button, input:not([type=hidden]), select, summary')]
		const within = e => getComputedStyle(e).display === 'inline' && e.parentElement.innerText !== e.innerText
		return controls.filter(e => e.checkVisibility() && !e.matches('.skip') && !within(e)).filter(
			e => e.getBoundingClientRect().height < 24).map(e => e.outerHTML.slice(0, 200))
	}`)
	for _, control := range low {
		p.t.Errorf("%v: %s: a finger misses %s", p.view, p.where(), control)
	}
}

package browser

import (
	"fmt"
	"io"
	"net/http"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/pinion-queue/pinion"
	"github.com/pinion-queue/pinion/web"
	"github.com/pinion-queue/pinion/web/internal/chromium"
)

// strangePrefix has what an address must escape and a careless page would not.
const strangePrefix = `/tools & "co"/ü<b>/100%/queue`

// A person looks at a queue and tends it: with scripts and without, on a phone and on a screen, in light and in the
// dark. Half of them find the page under a strange prefix.
func TestAPersonTendsAQueue(t *testing.T) {
	b := browser(t)
	for i := range 8 {
		view := chromium.View{Width: 1280, Height: 900, NoScript: i&1 != 0, Dark: i&4 != 0}
		if i&2 != 0 {
			view.Width, view.Height = 390, 844
		}
		prefix := ""
		if (i&1)^(i>>1&1)^(i>>2&1) != 0 { // so that each setting is tried with a prefix and without
			prefix = strangePrefix
		}
		t.Run(fmt.Sprint(view, ", prefix ", prefix != ""), func(t *testing.T) {
			h := newHouse(t, prefix, &web.Options{Write: true})
			p := newTab(t, b, view, h.url)
			h.findsWhatFailsAndReplaysExactlyThat(p)
			h.deletesExactlyTheDeadLettersOfOneError(p)
			h.pagesThroughAListAndSeesEachJobOnce(p)
			h.filtersJobsAndPassesTheAddressOn(p)
			h.cancelsARunningJob(p)
			h.bringsAJobForward(p)
			h.pausesAQueueAndResumesIt(p)
		})
	}
}

func (h *house) findsWhatFailsAndReplaysExactlyThat(p *tab) {
	p.sees(fmt.Sprint(deadJobs))
	p.accessible()
	p.follow("nav a", "Dead letters")
	p.sees("412 ×", refused, "57 ×", declined, "31 ×", missing, "9 ×", expired, "4 ×", invalid, "1 more error")
	p.accessible()
	whole := eval[int](p, `() => [...document.querySelectorAll('tbody a[href*="job/"]')].filter(
		a => a.closest('tr').getBoundingClientRect().bottom <= innerHeight).length`)
	if p.view.Width == 1280 && whole < 25 {
		p.t.Errorf("a screen of 1280 × 900 shows %d dead letters below the errors, want 25", whole)
	}
	p.click("summary", "1 more error")
	p.sees("1 ×", "index out of range")
	p.accessible()
	p.follow("a", refused) // the group of that error
	p.sees("All have this error", refused)
	p.seesNot(declined, expired)

	// One more fails while the person reads.
	h.setDown(true)
	h.work(p.t, "default", "charge_card", 1)
	h.setDown(false)

	p.follow("a", "replay exactly these 412")
	p.sees("Replay exactly these 412?", refused)
	p.accessible()
	p.follow("button", "Replay 412 dead letters")
	p.sees("Replayed 412 dead letters.")
	p.accessible()
	if n := h.dead(p.t, refused); n != 1 {
		p.t.Errorf("%d dead letters with that error are left, want the one that came later", n)
	}
	if n := h.dead(p.t, ""); n != deadJobs-refusedJobs+1 {
		p.t.Errorf("%d dead letters are left, want %d", n, deadJobs-refusedJobs+1)
	}
	h.until(p.t, func() bool {
		return h.count(p.t, pinion.Filter{Task: "charge_card", Status: pinion.StatusSuccess}) == refusedJobs
	})
}

func (h *house) deletesExactlyTheDeadLettersOfOneError(p *tab) {
	before := h.dead(p.t, "")
	p.follow("nav a", "Dead letters")
	p.follow("a", declined)
	p.follow("a", "delete")
	p.sees("Delete exactly these 57?", declined)
	p.accessible()
	p.follow("button", "Delete 57 dead letters")
	p.sees("Deleted 57 dead letters.")
	if n := h.dead(p.t, declined); n != 0 {
		p.t.Errorf("%d dead letters with that error are left", n)
	}
	if n := h.dead(p.t, ""); n != before-declinedJobs {
		p.t.Errorf("%d dead letters are left, want %d", n, before-declinedJobs)
	}
}

func (h *house) pagesThroughAListAndSeesEachJobOnce(p *tab) {
	p.open(h.url + "jobs?status=SUCCESS")
	seen := make(map[string]bool)
	for {
		for _, id := range p.rows() {
			if seen[id] {
				p.t.Errorf("the list shows %s twice", id)
			}
			seen[id] = true
		}
		if p.count("a[rel=next]") == 0 {
			break
		}
		p.follow("a[rel=next]", "")
	}
	if want := h.count(p.t, pinion.Filter{Status: pinion.StatusSuccess}); len(seen) != want {
		p.t.Errorf("the pages of the list show %d jobs that succeeded, want %d", len(seen), want)
	}
}

func (h *house) filtersJobsAndPassesTheAddressOn(p *tab) {
	p.follow("nav a", "Jobs")
	p.accessible()
	if n := len(p.rows()); n < 50 {
		p.t.Errorf("the list shows %d jobs, want a page of at least 50", n)
	}
	p.must(p.Select(p.ctx, "select[name=status]", "PENDING"))
	p.write("input[name=queue]", "mail")
	p.follow("button", "Show")
	filtered := p.rows()
	if len(filtered) != len(h.waiting) {
		p.t.Errorf("the list shows %d jobs of the queue mail that wait, want %d", len(filtered), len(h.waiting))
	}
	other := newTab(p.t, p.browser, chromium.View{}, p.address())
	if diff := cmp.Diff(filtered, other.rows()); diff != "" {
		p.t.Errorf("the same address shows somebody else other jobs (-here +there):\n%s", diff)
	}
}

// rows returns the ids of the jobs that a list shows.
func (p *tab) rows() []string {
	p.t.Helper()
	return eval[[]string](p, `() =>
		[...document.querySelectorAll('tbody a[href*="job/"]')].map(a => a.href.replace(/.*job\//, ''))`)
}

func (h *house) cancelsARunningJob(p *tab) {
	p.follow("nav a", "Running")
	p.sees("shop-1:4711", "monthly_report")
	p.accessible()
	id := h.running[1]
	p.follow(`a[href*="`+id+`"]`, "")
	p.sees("running", `"done": 7`, "tenant", "acme", "shop-1:4711")
	p.accessible()
	p.follow("a", "cancel")
	p.sees("Cancel the job")
	p.follow("button", "Cancel the job")
	p.sees("asked to cancel")
	_, err := pinion.Wait(p.ctx, h, id)
	p.must(err)
	if job := h.get(p.t, id); !job.Canceled || job.Status != pinion.StatusFailed {
		p.t.Errorf("the job is %s, canceled: %v", job.Status, job.Canceled)
	}
}

func (h *house) bringsAJobForward(p *tab) {
	id := h.waiting[3]
	p.open(h.url + "job/" + id)
	p.sees("pending", "in 24h")
	p.follow("a", "reschedule")
	p.accessible()
	p.write("input[name=at]", "now")
	p.follow("button", "Reschedule the job")
	p.sees("The job has a new due time.")
	_, err := pinion.Wait(p.ctx, h, id)
	p.must(err)
	p.open(h.url + "job/" + id)
	p.sees("success", "9007199254740993") // a number that JavaScript cannot hold
	p.accessible()
}

func (h *house) pausesAQueueAndResumesIt(p *tab) {
	limit := func(queue, want string) {
		p.t.Helper()
		limits, err := h.Limits(p.ctx)
		p.must(err)
		got := "none"
		most, limited := limits[queue]
		if limited {
			got = fmt.Sprint(most)
		}
		if got != want {
			p.t.Errorf("the limit of %s is %s, want %s", queue, got, want)
		}
	}
	p.follow("nav a", "Overview")
	p.sees("newsletter", "paused")
	p.follow(`a[href*="do/pause"][href*="mail"]`, "pause")
	p.follow("button", "Pause the queue")
	p.sees("Paused the queue mail.")
	limit("mail", "0")
	p.follow(`a[href*="do/limit"][href*="mail"]`, "limit")
	p.accessible()
	p.write("input[name=max]", "5")
	p.follow("button", "Set the limit")
	p.sees("At most 5 jobs of the queue mail run at once.")
	limit("mail", "5")
	p.follow(`a[href*="do/resume"][href*="newsletter"]`, "resume")
	p.follow("button", "Lift the limit")
	p.sees("The queue newsletter has no limit any more.")
	limit("newsletter", "none")
	h.until(p.t, func() bool {
		return h.count(p.t, pinion.Filter{Queue: "newsletter", Status: pinion.StatusSuccess}) == newsletters
	})
}

// Nobody who may only look is offered to act, and who tries all the same does nothing.
func TestAReadOnlyPageOffersNoActions(t *testing.T) {
	b := browser(t)
	h := newHouse(t, strangePrefix, nil)
	before := h.state(t)
	p := newTab(t, b, chromium.View{}, h.url)
	for _, address := range []string{"", "jobs", "running", "dead", "job/" + h.running[0], "job/" + h.waiting[0]} {
		p.open(h.url + address)
		if n := p.count(`form[method=post], a[href*="do/"]`); n != 0 {
			t.Errorf("%s offers %d actions", address, n)
		}
		p.accessible()
	}
	for _, action := range []string{
		"pause?queue=mail", "limit?queue=mail", "cancel?id=" + h.running[0], "replay", "delete",
	} {
		status := eval[int](p, `async to => (await fetch(to, {method: 'POST'})).status`, h.url+"do/"+action)
		if status < 400 {
			t.Errorf("POST do/%s answers %d on a page that is read-only", action, status)
		}
	}
	p.expected = []string{"status of 403"}
	if diff := cmp.Diff(before, h.state(t)); diff != "" {
		t.Errorf("a page that is read-only changed the queue (-before +after):\n%s", diff)
	}
}

// The timers of the page are in the test's hand: tick does what the page would do some seconds later.
const timers = `
	const later = []
	window.setTimeout = (f) => later.push(f)
	window.tick = async () => { for (const f of later.splice(0)) await f() }`

func newTimedTab(t *testing.T, b *chromium.Browser, view chromium.View) *tab {
	t.Helper()
	p := newTab(t, b, view, "about:blank")
	p.must(p.Before(p.ctx, timers))
	return p
}

func TestThePageRefreshesItselfUnlessSomebodyReadsOrWrites(t *testing.T) {
	b := browser(t)
	h := newHouse(t, strangePrefix, &web.Options{Write: true})
	p := newTimedTab(t, b, chromium.View{})
	// news changes what the page is about, and returns whether a refresh shows it.
	number := 0
	news := func() bool {
		number++
		task := fmt.Sprint("news-", number)
		h.enqueue(t, pinion.NewJob(task))
		h.until(t, func() bool { return strings.Contains(get(t, h.url), task) }) // the page keeps counts for a second
		eval[any](p, `() => tick()`)
		return strings.Contains(p.text(), task)
	}
	for _, address := range []string{"", "jobs"} {
		p.open(h.url + address)
		eval[any](p, `() => { window.stayed = true }`)
		if !news() {
			t.Errorf("/%s: the page does not refresh", address)
		}
		if !eval[bool](p, `() => window.stayed`) {
			t.Errorf("/%s: the page was loaded anew, which loses the place and the focus", address)
		}
		eval[any](p, `() => getSelection().selectAllChildren(document.querySelector('caption'))`)
		if news() {
			t.Errorf("/%s: the page refreshes under a selection", address)
		}
		eval[any](p, `() => getSelection().removeAllRanges()`)
		if !news() {
			t.Errorf("/%s: the page does not refresh after a selection", address)
		}
		p.click("button", "Stop refreshing")
		if news() {
			t.Errorf("/%s: the page refreshes although it was told to stop", address)
		}
		p.click("button", "Refresh again")
		if !news() {
			t.Errorf("/%s: the page does not refresh again", address)
		}
	}
	p.write("input[name=task]", "some")
	if news() {
		t.Error("the page refreshes while a form is filled")
	}
}

// get asks for an address as a program does.
func get(t *testing.T, address string) string {
	t.Helper()
	response, err := http.Get(address)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// What has the focus must be seen, in the order of the page.
func TestTheKeyboardReachesEverythingAndShowsWhereItIs(t *testing.T) {
	b := browser(t)
	h := newHouse(t, "", &web.Options{Write: true})
	for _, view := range []chromium.View{{}, {Dark: true, Width: 390}} {
		for _, address := range []string{"", "dead", "job/" + h.running[0]} {
			p := newTimedTab(t, b, view) // a refresh may take the focus away
			p.open(h.url + address)
			want := eval[int](p, `() => [...document.querySelectorAll(
				'a[href], button, input:not([type=hidden]), select, textarea, summary, [tabindex="0"]',
			)].filter(e => e.checkVisibility() && !e.disabled).length`)
			reached := make(map[string]bool)
			for range want + 10 {
				p.must(p.Press(p.ctx, "Tab"))
				focus := eval[struct {
					Path, Outline string
					Width         float64
				}](p, `() => {
					const e = document.activeElement, style = getComputedStyle(e)
					const all = [...document.querySelectorAll('*')]
					return {
						path: all.indexOf(e) + ' ' + e.outerHTML.slice(0, 150),
						outline: style.outlineStyle, width: parseFloat(style.outlineWidth),
					}
				}`)
				if strings.HasPrefix(focus.Path, "-1 ") || strings.Contains(focus.Path, "<body") {
					continue
				}
				reached[focus.Path] = true
				if focus.Outline == "none" || focus.Width < 1 {
					t.Errorf("%v: %s: the focus is not to be seen on %s", view, address, focus.Path)
				}
			}
			if len(reached) < want {
				t.Errorf("%v: %s: the keyboard reaches %d of %d controls", view, address, len(reached), want)
			}
		}
	}
}

// On a page without TLS, that is not on the loopback either, navigator.clipboard does not exist.
func TestTheArgumentsAreCopiedOnPlainHTTP(t *testing.T) {
	b := browser(t)
	h := newHouse(t, "", &web.Options{Write: true, Hosts: []string{"queue.example"}})
	base := strings.Replace(h.url, "127.0.0.1", "queue.example", 1)
	p := newTab(t, b, chromium.View{}, base+"job/"+h.running[0])
	p.expected = []string{"Cross-Origin-Opener-Policy"} // which has no meaning without TLS
	if eval[bool](p, `() => isSecureContext`) {
		t.Fatal("the page is in a secure context")
	}
	p.click("button[data-copy=args]", "Copy")
	p.open(base + "jobs")
	p.click("input[name=queue]", "")
	p.must(p.Command(p.ctx, "paste"))
	got := eval[string](p, `() => document.querySelector('input[name=queue]').value`)
	if !regexp.MustCompile(`^\[\s*1000,\s*"de-AT"\s*\]$`).MatchString(got) {
		t.Errorf("the clipboard holds %q", got)
	}
}

// All that a browser loads for a first look.
func TestThePageIsSmall(t *testing.T) {
	b := browser(t)
	h := newHouse(t, "", &web.Options{Write: true})
	for _, address := range []string{"", "jobs", "running", "dead", "job/" + h.running[0]} {
		p := newTab(t, b, chromium.View{}, h.url+address)
		sum := 0
		for _, response := range p.Responses() {
			sum += response.Bytes
		}
		t.Logf("/%s loads %d bytes", address, sum)
		if sum > 100_000 {
			t.Errorf("/%s loads %d bytes, want at most 100,000", address, sum)
		}
	}
}

package browser

import (
	"errors"
	"net/url"
	"strings"
	"testing"

	"github.com/pinion-queue/pinion"
	"github.com/pinion-queue/pinion/web"
	"github.com/pinion-queue/pinion/web/internal/chromium"
)

// hostile are texts that try to be more than text. shown is what the page must show of each.
var hostile = []struct{ text, shown string }{
	{`<script>alert(1)</script>`, `<script>alert(1)</script>`},
	{`"'><img src=x onerror=alert(1)>`, `"'><img src=x onerror=alert(1)>`},
	{`</td></tr></table></main><h1>gone`, `</td></tr></table></main><h1>gone`},
	{`javascript:alert(1)`, `javascript:alert(1)`},
	{`{{.}}{{template "x"}}`, `{{.}}{{template "x"}}`},
	{`&lt;b&gt;&#106;`, `&lt;b&gt;&#106;`},
	{"\u202egnp.exe", `\u202egnp.exe`},
	{"\u2066hidden\u200b\u2069", `\u2066hidden\u200b\u2069`},
	{"\x1b[2J\x1b]0;title\x07", `\x1b[2J\x1b]0;title\a`},
	{`../../x?y=1&z=%2F#f`, `../../x?y=1&z=%2F#f`},
	{strings.Repeat("long", 200), strings.Repeat("long", 5)},
	{"日本語 🙂 ﷽", "日本語 🙂 ﷽"},
}

// newHostileHouse has dead letters and waiting jobs that are hostile in every field.
func newHostileHouse(t *testing.T) (h *house, ids []string) {
	t.Helper()
	h = newHouse(t, "", &web.Options{Write: true})
	for _, text := range hostile {
		for _, dies := range []bool{true, false} {
			job := pinion.NewJob(text.text, text.text, map[string]string{text.text: text.text})
			job.Kwargs = map[string]any{text.text: text.text}
			job.Queue, job.Key, job.Meta = text.text, text.text, map[string]string{text.text: text.text}
			job.ID = text.text
			if !dies {
				job.ID, job.Key = "waits "+text.text, "waits "+text.text
			}
			h.enqueue(t, job)
			ids = append(ids, job.ID)
			if !dies {
				continue
			}
			claimed, err := h.Dequeue(t.Context(), pinion.DequeueOptions{
				Max: 1, Queues: []string{text.text}, Worker: text.text, NoWait: true,
			})
			if err != nil || len(claimed) != 1 {
				t.Fatalf("%q: %v, %v", text.text, claimed, err)
			}
			err = h.DeadLetter(t.Context(), claimed[0], errors.New(text.text))
			if err != nil {
				t.Fatal(err)
			}
		}
		err := h.SetLimit(t.Context(), text.text, 3)
		if err != nil {
			t.Fatal(err)
		}
	}
	megabyte := pinion.NewJob("send_welcome", 1, strings.Repeat("<&>\u202e", 150_000))
	megabyte.Queue = "newsletter"
	h.enqueue(t, megabyte)
	ids = append(ids, megabyte.ID)

	// What no library writes, but another program may have: bytes that are not UTF-8.
	broken := pinion.NewJob("send_welcome", 1, "en-GB")
	broken.Queue = "newsletter"
	h.enqueue(t, broken)
	ids = append(ids, broken.ID)
	_, err := h.sql(t).ExecContext(t.Context(), `UPDATE jobs
		SET error=CAST(x'ff3c623e00c0af' AS TEXT), worker=CAST(x'fe3c693e' AS TEXT) WHERE id=?`, broken.ID)
	if err != nil {
		t.Fatal(err)
	}
	return h, ids
}

func TestHostileTextShowsAsText(t *testing.T) {
	b := browser(t)
	h, ids := newHostileHouse(t)
	for _, view := range []chromium.View{{}, {Width: 390, NoScript: true}} {
		p := newTab(t, b, view, h.url)
		for _, address := range []string{"", "jobs", "jobs?status=PENDING", "running", "dead"} {
			p.open(h.url + address)
			p.harmless()
			if address == "" || address == "running" {
				continue
			}
			for _, text := range hostile {
				p.sees(text.shown)
			}
		}
		for i, id := range ids {
			p.open(h.url + "job/?id=" + url.QueryEscape(id))
			p.harmless()
			if i < 2*len(hostile) {
				p.sees(hostile[i/2].shown)
			}
		}
	}
}

// harmless checks that a document loads and runs what the page means it to, and that no link leads to a script.
func (p *tab) harmless() {
	p.t.Helper()
	strange := eval[[]string](p, `() => {
		const strange = [...document.querySelectorAll('img, iframe, object, embed, style, base, [style], h1 ~ h1')]
		const listens = e => [...e.attributes].some(a => a.name.startsWith('on'))
		const events = [...document.querySelectorAll('*')].filter(listens)
		const links = [...document.querySelectorAll('[href], [src], [action]')].filter(e => {
			const to = e.getAttribute('href') ?? e.getAttribute('src') ?? e.getAttribute('action')
			return new URL(to, document.baseURI).origin !== location.origin
		})
		const marks = [...document.querySelectorAll('script:not([src])')]
		return [...strange, ...events, ...links, ...marks].map(e => e.outerHTML.slice(0, 200))
	}`)
	for _, element := range strange {
		p.t.Errorf("%v: %s has %s", p.view, p.where(), element)
	}
	bare := eval[bool](p, `() => /[\u202a-\u202e\u2066-\u2069\u200b\x1b\x07]/.test(document.documentElement.outerHTML)`)
	if bare {
		p.t.Errorf("%v: %s holds characters that turn or hide text", p.view, p.where())
	}
	wide := eval[int](p, `() => document.scrollingElement.scrollWidth - document.scrollingElement.clientWidth`)
	if wide > 0 {
		p.t.Errorf("%v: %s scrolls sideways by %d pixels", p.view, p.where(), wide)
	}
}

package chromium_test

import (
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"

	"github.com/pinion-queue/pinion/web/internal/chromium"
)

func TestAPageIsOpenedClickedTypedIntoAndSeen(t *testing.T) {
	if os.Getenv("PINION_TEST_BROWSER") == "" {
		t.Skip("set PINION_TEST_BROWSER=1 to run a Chromium")
	}
	const head = `<meta name="viewport" content="width=device-width"><link rel="icon" href="data:,">`
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		switch r.URL.Path {
		case "/":
			io.WriteString(w, head+`<title>one</title>
				<form action="two"><input name="q" value="old"><button>Go</button></form>
				<script>document.title = 'scripted'</script>`)
		case "/two":
			io.WriteString(w, head+`<title>two</title><p></p><script>
				document.querySelector('p').textContent = 'q is ' + new URLSearchParams(location.search).get('q')
				</script>`)
		default:
			http.NotFound(w, r)
		}
	}))
	defer server.Close()
	ctx := t.Context()
	browser, err := chromium.Start()
	if err != nil {
		t.Fatal(err)
	}
	defer browser.Close()
	for _, view := range []chromium.View{{Width: 1280}, {Width: 390, Dark: true, NoScript: true}} {
		page, err := browser.NewPage(ctx, view)
		if err != nil {
			t.Fatal(err)
		}
		must := func(err error) {
			t.Helper()
			if err != nil {
				t.Fatalf("%v: %v", view, err)
			}
		}
		must(page.Open(ctx, server.URL))
		must(page.Type(ctx, "input", "new"))
		must(page.Follow(ctx, "button", "Go"))
		if page.Clicks() != 2 {
			t.Errorf("%v: %d clicks, want one into the field and one on the button", view, page.Clicks())
		}
		address, err := page.Address(ctx)
		must(err)
		if address != server.URL+"/two?q=new" {
			t.Errorf("%v: the form leads to %s", view, address)
		}
		text, err := page.Text(ctx)
		must(err)
		if strings.Contains(text, "q is new") == view.NoScript {
			t.Errorf("%v: the page shows %q", view, text)
		}
		must(page.AllowScripts(ctx, true))
		var late string
		must(page.Eval(ctx, &late,
			`() => new Promise(resolve => setTimeout(() => resolve(document.body.innerText), 1))`))
		if late != text {
			t.Errorf("%v: the page shows %q once scripts may run, and %q before", view, late, text)
		}
		must(page.AllowScripts(ctx, !view.NoScript))
		var width int
		must(page.Eval(ctx, &width, `() => innerWidth`))
		if width != view.Width {
			t.Errorf("%v: the page is %d pixels wide", view, width)
		}
		var dark bool
		must(page.Eval(ctx, &dark, `() => matchMedia('(prefers-color-scheme: dark)').matches`))
		if dark != view.Dark {
			t.Errorf("%v: dark is %v", view, dark)
		}
		if problems := page.Problems(); len(problems) != 0 {
			t.Errorf("%v: %q", view, problems)
		}
		must(page.Open(ctx, "/none"))
		if problems := page.Problems(); len(problems) != 1 || !strings.Contains(problems[0], "404") {
			t.Errorf("%v: %q, want a complaint of 404", view, problems)
		}
		err = page.Click(ctx, "button", "")
		if err == nil || !strings.Contains(err.Error(), "no such element") {
			t.Errorf("%v: a click on nothing returns %v", view, err)
		}
		must(page.Close(ctx))
	}
}

package chromium_test

import (
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
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/":
			w.Write([]byte(`<title>one</title><form action="two"><input name="q" value="old"><button>Go</button></form>
				<script>document.title = 'scripted'</script>`))
		case "/two":
			w.Write([]byte(`<title>two</title><p></p><script>document.querySelector('p').textContent = 'q is ' +
				new URLSearchParams(location.search).get('q')</script>`))
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
	for _, view := range []chromium.View{{}, {Width: 390, Dark: true, NoScript: true}} {
		page, err := browser.NewPage(ctx, view)
		if err != nil {
			t.Fatal(err)
		}
		must := func(err error) {
			t.Helper()
			if err != nil {
				t.Fatal(err)
			}
		}
		must(page.Open(ctx, server.URL))
		must(page.Type(ctx, "input", "new"))
		must(page.Follow(ctx, "button", "Go"))
		address, err := page.Address(ctx)
		must(err)
		if address != server.URL+"/two?q=new" {
			t.Errorf("%v: the form leads to %s", view, address)
		}
		if !view.NoScript {
			must(page.Until(ctx, `text => document.body.innerText.includes(text)`, "q is new"))
		}
		text, err := page.Text(ctx)
		must(err)
		if strings.Contains(text, "q is new") == view.NoScript {
			t.Errorf("%v: the page shows %q", view, text)
		}
		var width int
		must(page.Eval(ctx, &width, `() => innerWidth`))
		var dark bool
		must(page.Eval(ctx, &dark, `() => matchMedia('(prefers-color-scheme: dark)').matches`))
		t.Log(view, width, dark, page.Clicks(), page.Responses(), page.Problems())
	}
}

package chromium

import (
	"context"
	"encoding/json"
	"fmt"
	"net/url"
	"strings"
	"sync"
)

// View is how a person looks at a page. A View without a width is 1280 pixels wide.
type View struct {
	Width, Height int // in pixels [1280 × 900]
	Dark          bool
	NoScript      bool // JavaScript is off
}

func (v View) String() string {
	words := []string{fmt.Sprintf("%d pixels", v.Width), "light", "scripts"}
	if v.Dark {
		words[1] = "dark"
	}
	if v.NoScript {
		words[2] = "no scripts"
	}
	return strings.Join(words, ", ")
}

// Page is a tab in a profile of its own, so it shares no cookies with others. One goroutine uses it at a time.
type Page struct {
	browser *Browser
	session string
	context string
	target  string
	view    View

	mu        sync.Mutex // guards what follows
	frame     string
	loader    string        // of the document that is loaded
	loaded    chan struct{} // closed and replaced when a document has been loaded
	problems  []string
	responses []Response
	requests  map[string]Response // those under way, by the protocol's id
	clicks    int
}

// Response is an answer that the page got from a server.
type Response struct {
	URL, Type string
	Status    int
	Bytes     int // as they came over the wire, headers included
}

// NewPage opens an empty page.
func (b *Browser) NewPage(ctx context.Context, view View) (*Page, error) {
	if view.Width == 0 {
		view.Width = 1280
	}
	if view.Height == 0 {
		view.Height = 900
	}
	p := &Page{browser: b, view: view, loaded: make(chan struct{}), requests: make(map[string]Response)}
	var made struct {
		BrowserContextID string `json:"browserContextId"`
		TargetID         string `json:"targetId"`
		SessionID        string `json:"sessionId"`
	}
	err := b.call(ctx, "", "Target.createBrowserContext", nil, &made)
	if err != nil {
		return nil, err
	}
	p.context = made.BrowserContextID
	err = b.call(ctx, "", "Target.createTarget",
		map[string]any{"url": "about:blank", "browserContextId": p.context}, &made)
	if err != nil {
		return nil, err
	}
	p.target = made.TargetID
	err = b.call(ctx, "", "Target.attachToTarget", map[string]any{"targetId": p.target, "flatten": true}, &made)
	if err != nil {
		return nil, err
	}
	p.session = made.SessionID
	b.mu.Lock()
	b.pages[p.session] = p
	b.mu.Unlock()
	return p, p.prepare(ctx)
}

func (p *Page) prepare(ctx context.Context) error {
	var tree struct {
		FrameTree struct {
			Frame struct{ ID, LoaderID string }
		}
	}
	scheme := "light"
	if p.view.Dark {
		scheme = "dark"
	}
	for _, step := range []struct {
		method         string
		params, result any
	}{
		{"Page.enable", nil, nil},
		{"Page.getFrameTree", nil, &tree},
		{"Network.enable", nil, nil},
		{"Log.enable", nil, nil},
		{"Runtime.enable", nil, nil},
		{"Emulation.setDeviceMetricsOverride", map[string]any{
			"width": p.view.Width, "height": p.view.Height, "deviceScaleFactor": 1, "mobile": p.view.Width < 600,
		}, nil},
		{"Emulation.setEmulatedMedia", map[string]any{
			"features": []any{map[string]any{"name": "prefers-color-scheme", "value": scheme}},
		}, nil},
		{"Emulation.setScriptExecutionDisabled", map[string]any{"value": p.view.NoScript}, nil},
	} {
		err := p.call(ctx, step.method, step.params, step.result)
		if err != nil {
			return err
		}
	}
	p.mu.Lock()
	p.frame, p.loader = tree.FrameTree.Frame.ID, tree.FrameTree.Frame.LoaderID
	p.mu.Unlock()
	return p.call(ctx, "Page.setLifecycleEventsEnabled", map[string]any{"enabled": true}, nil)
}

// AllowScripts lets scripts run in the page, or stops them. Those of a document that was loaded while they were stopped
// do not run later, so it stays as it is without scripts.
func (p *Page) AllowScripts(ctx context.Context, allow bool) error {
	return p.call(ctx, "Emulation.setScriptExecutionDisabled", map[string]any{"value": !allow}, nil)
}

// Close closes the page and forgets its profile.
func (p *Page) Close(ctx context.Context) error {
	return p.browser.call(ctx, "", "Target.disposeBrowserContext", map[string]any{"browserContextId": p.context}, nil)
}

func (p *Page) call(ctx context.Context, method string, params, result any) error {
	return p.browser.call(ctx, p.session, method, params, result)
}

// event is called by the browser's reader for each event of the page.
func (p *Page) event(method string, params json.RawMessage) {
	var e struct {
		FrameID, LoaderID, Name  string
		RequestID, Type, Message string
		Response                 struct {
			URL    string
			Status int
		}
		EncodedDataLength float64
		ErrorText         string
		Entry             struct{ Level, Text, URL string }
		ExceptionDetails  struct {
			Text      string
			Exception struct{ Description string }
		}
	}
	err := json.Unmarshal(params, &e)
	p.mu.Lock()
	defer p.mu.Unlock()
	if err != nil {
		p.problems = append(p.problems, err.Error())
		return
	}
	switch method {
	case "Page.lifecycleEvent":
		if e.Name == "load" && e.FrameID == p.frame {
			p.loader = e.LoaderID
			close(p.loaded)
			p.loaded = make(chan struct{})
		}
	case "Page.javascriptDialogOpening":
		p.problems = append(p.problems, "a dialog: "+e.Message)
		go p.call(context.Background(), "Page.handleJavaScriptDialog", map[string]any{"accept": true}, nil)
	case "Network.responseReceived":
		p.requests[e.RequestID] = Response{URL: e.Response.URL, Status: e.Response.Status, Type: e.Type}
	case "Network.loadingFinished":
		response, ok := p.requests[e.RequestID]
		if ok {
			response.Bytes = int(e.EncodedDataLength)
			p.responses = append(p.responses, response)
			delete(p.requests, e.RequestID)
		}
	case "Log.entryAdded":
		if e.Entry.Level == "error" {
			p.problems = append(p.problems, e.Entry.Text+" "+e.Entry.URL)
		}
	case "Runtime.exceptionThrown":
		p.problems = append(p.problems, e.ExceptionDetails.Text+" "+e.ExceptionDetails.Exception.Description)
	}
}

// Problems returns what the browser complained about since the last call: errors of scripts, violations of the policy
// of the page, dialogs, requests that failed.
func (p *Page) Problems() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	problems := p.problems
	p.problems = nil
	return problems
}

// Responses returns what the page has loaded since the last call.
func (p *Page) Responses() []Response {
	p.mu.Lock()
	defer p.mu.Unlock()
	responses := p.responses
	p.responses = nil
	return responses
}

// Clicks returns how often the mouse was clicked.
func (p *Page) Clicks() int { return p.clicks }

// Open opens an address, which may be relative to the page's, and waits until the document is loaded.
func (p *Page) Open(ctx context.Context, address string) error {
	var current string
	err := p.Eval(ctx, &current, `() => document.baseURI`)
	if err != nil {
		return err
	}
	base, err := url.Parse(current)
	if err != nil {
		return err
	}
	target, err := base.Parse(address)
	if err != nil {
		return err
	}
	return p.load(ctx, "open "+address, func() error {
		var opened struct{ ErrorText string }
		err := p.call(ctx, "Page.navigate", map[string]any{"url": target.String()}, &opened)
		if err == nil && opened.ErrorText != "" {
			err = fmt.Errorf("open %s: %s", target, opened.ErrorText)
		}
		return err
	})
}

// load does what makes the browser load a document, and waits until it has.
func (p *Page) load(ctx context.Context, what string, do func() error) error {
	p.mu.Lock()
	before := p.loader
	p.mu.Unlock()
	err := do()
	if err != nil {
		return err
	}
	for {
		p.mu.Lock()
		now, loaded := p.loader, p.loaded
		p.mu.Unlock()
		if now != before {
			return nil
		}
		select {
		case <-loaded:
		case <-p.browser.done:
			return fmt.Errorf("%s: the browser has ended", what)
		case <-ctx.Done():
			return fmt.Errorf("%s: no document was loaded: %w", what, ctx.Err())
		}
	}
}

// Eval calls a JavaScript function with arguments in the page, also where JavaScript is off for the page's own scripts.
// It waits for a promise, and result holds the value.
func (p *Page) Eval(ctx context.Context, result any, function string, args ...any) error {
	encoded := make([]string, len(args))
	for i, arg := range args {
		text, err := json.Marshal(arg)
		if err != nil {
			return err
		}
		encoded[i] = string(text)
	}
	var answer struct {
		Result           struct{ Value json.RawMessage }
		ExceptionDetails *struct {
			Text      string
			Exception struct{ Description string }
		}
	}
	err := p.call(ctx, "Runtime.evaluate", map[string]any{
		"expression":    "(" + function + ")(" + strings.Join(encoded, ", ") + ")",
		"returnByValue": true, "awaitPromise": true, "userGesture": true,
	}, &answer)
	if err != nil {
		return err
	}
	if answer.ExceptionDetails != nil {
		return fmt.Errorf("%s %s", answer.ExceptionDetails.Text, answer.ExceptionDetails.Exception.Description)
	}
	if result == nil || answer.Result.Value == nil {
		return nil
	}
	return json.Unmarshal(answer.Result.Value, result)
}

// Until waits until a JavaScript function returns something true. The page looks again before each frame it draws.
func (p *Page) Until(ctx context.Context, function string, args ...any) error {
	err := p.Eval(ctx, nil, `(...args) => new Promise(resolve => {
		const look = () => (`+function+`)(...args) ? resolve() : requestAnimationFrame(look)
		look()
	})`, args...)
	if err != nil {
		var text string
		p.Eval(context.WithoutCancel(ctx), &text, `() => document.body.innerText.slice(0, 2000)`)
		return fmt.Errorf("until %s %q: %w; the page shows:\n%s", function, args, err, text)
	}
	return nil
}

// find is the beginning of functions that look for an element: the first one that matches a CSS selector, contains a
// text, and is visible. An empty text matches every element. spot is where to click on it.
const find = `const squeeze = s => s.replace(/\s+/g, ' ').trim()
	const named = e => squeeze([e.textContent, e.value, e.getAttribute('aria-label'), e.title].join(' '))
	const visible = e => e.checkVisibility({visibilityProperty: true}) && e.getClientRects().length > 0
	const find = (css, text) => [...document.querySelectorAll(css)].find(e => visible(e) && named(e).includes(text))
	const spot = e => {
		if (!e) return
		e.scrollIntoView({block: 'center', inline: 'center', behavior: 'instant'})
		const box = e.getClientRects()[0]
		const x = box.x + box.width / 2, y = box.y + box.height / 2
		const top = document.elementFromPoint(x, y)
		const ours = top && (e.contains(top) || top.contains(e) || [...e.labels || []].some(l => l.contains(top)))
		return {found: true, x, y, covered: ours ? '' : top ? top.outerHTML.slice(0, 200) : 'nothing is there'}
	};`

// UntilClickable waits until Click would find its element, and nothing covers it.
func (p *Page) UntilClickable(ctx context.Context, css, text string) error {
	return p.Until(ctx, `(css, text) => {`+find+`return spot(find(css, text))?.covered === ''}`, css, text)
}

// Click clicks with the mouse on the first visible element that matches a CSS selector and contains a text, and fails
// if something else covers it.
func (p *Page) Click(ctx context.Context, css, text string) error {
	var at struct {
		Found   bool
		X, Y    float64
		Covered string
	}
	err := p.Eval(ctx, &at, `(css, text) => {`+find+`return spot(find(css, text)) ?? {}}`, css, text)
	if err != nil {
		return err
	}
	if !at.Found {
		var seen string
		p.Eval(ctx, &seen, `() => location.href + '\n' + document.body.innerText.slice(0, 3000)`)
		return fmt.Errorf("click %s %q: there is no such element at %s", css, text, seen)
	}
	if at.Covered != "" {
		return fmt.Errorf("click %s %q: something covers it: %s", css, text, at.Covered)
	}
	p.clicks++
	for _, kind := range []string{"mouseMoved", "mousePressed", "mouseReleased"} {
		err := p.call(ctx, "Input.dispatchMouseEvent", map[string]any{
			"type": kind, "x": at.X, "y": at.Y, "button": "left", "clickCount": 1,
		}, nil)
		if err != nil {
			return err
		}
	}
	return nil
}

// Follow clicks what leads to another document, and waits until that is loaded.
func (p *Page) Follow(ctx context.Context, css, text string) error {
	return p.load(ctx, fmt.Sprintf("follow %s %q", css, text), func() error { return p.Click(ctx, css, text) })
}

// Type clicks into a field and types in place of what it holds.
func (p *Page) Type(ctx context.Context, css, text string) error {
	err := p.Click(ctx, css, "")
	if err != nil {
		return err
	}
	err = p.Command(ctx, "selectAll")
	if err != nil {
		return err
	}
	return p.call(ctx, "Input.insertText", map[string]any{"text": text}, nil)
}

// Select chooses the option with a value, as a person does with the keyboard.
func (p *Page) Select(ctx context.Context, css, value string) error {
	return p.Eval(ctx, nil, `(css, value) => {
		const e = document.querySelector(css)
		e.value = value
		if (e.value !== value) throw new Error(css + ' has no option ' + value)
		e.dispatchEvent(new Event('input', {bubbles: true}))
		e.dispatchEvent(new Event('change', {bubbles: true}))
	}`, css, value)
}

// Press presses a key where the focus is, "Tab" or "Enter" for example.
func (p *Page) Press(ctx context.Context, key string) error {
	codes := map[string]int{"Tab": 9, "Enter": 13, "Escape": 27, " ": 32}
	text := map[string]string{"Enter": "\r", " ": " "}[key]
	down := "rawKeyDown"
	if text != "" {
		down = "keyDown"
	}
	for _, kind := range []string{down, "keyUp"} {
		params := map[string]any{"type": kind, "key": key, "windowsVirtualKeyCode": codes[key]}
		if kind == "keyDown" {
			params["text"] = text
		}
		err := p.call(ctx, "Input.dispatchKeyEvent", params, nil)
		if err != nil {
			return err
		}
	}
	return nil
}

// Command runs a command of the editor where the focus is: "selectAll", "paste".
func (p *Page) Command(ctx context.Context, command string) error {
	for _, kind := range []string{"rawKeyDown", "keyUp"} {
		params := map[string]any{"type": kind}
		if kind == "rawKeyDown" {
			params["commands"] = []string{command}
		}
		err := p.call(ctx, "Input.dispatchKeyEvent", params, nil)
		if err != nil {
			return err
		}
	}
	return nil
}

// Text returns what the page shows as text.
func (p *Page) Text(ctx context.Context) (string, error) {
	var text string
	err := p.Eval(ctx, &text, `() => document.body.innerText`)
	return text, err
}

// Address returns the page's address.
func (p *Page) Address(ctx context.Context) (string, error) {
	var address string
	err := p.Eval(ctx, &address, `() => location.href`)
	return address, err
}

// Screenshot returns what is visible, as a PNG.
func (p *Page) Screenshot(ctx context.Context) ([]byte, error) {
	var shot struct{ Data []byte }
	err := p.call(ctx, "Page.captureScreenshot", map[string]any{"format": "png"}, &shot)
	return shot.Data, err
}

// Before makes every document that is opened from now on run a script before its own.
func (p *Page) Before(ctx context.Context, script string) error {
	return p.call(ctx, "Page.addScriptToEvaluateOnNewDocument", map[string]any{"source": script}, nil)
}

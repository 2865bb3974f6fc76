package cli

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	htmltemplate "html/template"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/pinion-queue/pinion/internal/httpguard"
)

// gate protects the page with a secret: a password, or a token in the address that the command prints. A browser that
// has shown the secret gets a cookie, which lasts as long as the command and the browser.
type gate struct {
	page    http.Handler
	hosts   []string          // see web.Options
	secret  [sha256.Size]byte // its hash
	token   string            // the secret, unless it is a password
	session string            // the value of the cookie
	cookie  string            // its name; browsers share cookies between the ports of a host
	origins *http.CrossOriginProtection

	pause    time.Duration // after a wrong secret
	attempts chan struct{} // filled by those who pause
}

// maxAttempts is how many may pause after a wrong secret at the same time. Others are told to come again.
const maxAttempts = 4

// newGate returns the gate before a page that is served at an address. If password is empty, newGate makes a token.
func newGate(page http.Handler, password string, at net.Addr) *gate {
	_, port, _ := net.SplitHostPort(at.String())
	g := &gate{
		page:     page,
		session:  rand.Text(),
		cookie:   "pinion_" + port,
		origins:  http.NewCrossOriginProtection(),
		pause:    time.Second,
		attempts: make(chan struct{}, maxAttempts),
	}
	if password == "" {
		g.token = rand.Text()
		password = g.token
	}
	g.secret = sha256.Sum256([]byte(password))
	return g
}

// address returns the address for people to open.
func (g *gate) address(base string) string {
	if g.token == "" {
		return base
	}
	return base + "?token=" + g.token
}

func (g *gate) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	name := strings.TrimPrefix(r.URL.Path, "/")
	query := r.URL.Query()
	scheme, bearer, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	hasBearer := strings.EqualFold(scheme, "Bearer")
	switch {
	case !httpguard.IsHostAllowed(r, g.hosts), name == "style.css", name == "icon.svg", g.hasSession(r):
		if query.Has("token") && g.hasSession(r) {
			g.leaveToken(w, r, query)
			return
		}
		g.page.ServeHTTP(w, r)
	case hasBearer && (name == "metrics" || name == "healthz"):
		if g.admits(w, r, bearer) {
			g.page.ServeHTTP(w, r)
		}
	case query.Has("token") && g.token != "":
		if g.admits(w, r, query.Get("token")) {
			g.beginSession(w, r)
			g.leaveToken(w, r, query)
		}
	case name == "login" && r.Method == http.MethodPost:
		g.login(w, r)
	default:
		g.refuse(w, r, http.StatusUnauthorized, "")
	}
}

// hasSession compares the cookie in constant time.
func (g *gate) hasSession(r *http.Request) bool {
	for _, cookie := range r.CookiesNamed(g.cookie) {
		if subtle.ConstantTimeCompare([]byte(cookie.Value), []byte(g.session)) == 1 {
			return true
		}
	}
	return false
}

func (g *gate) beginSession(w http.ResponseWriter, r *http.Request) {
	http.SetCookie(w, &http.Cookie{
		Name:     g.cookie,
		Value:    g.session,
		Path:     "/",
		HttpOnly: true,
		SameSite: http.SameSiteStrictMode,
		Secure:   r.TLS != nil || r.Header.Get("X-Forwarded-Proto") == "https",
	})
}

// leaveToken redirects to the same address without the token, which would stay in the history of the browser.
func (g *gate) leaveToken(w http.ResponseWriter, r *http.Request, query url.Values) {
	httpguard.SetHeaders(w.Header())
	query.Del("token")
	path := r.URL.EscapedPath()
	to := "./" + path[strings.LastIndex(path, "/")+1:]
	if len(query) > 0 {
		to += "?" + query.Encode()
	}
	w.Header().Set("Location", to)
	w.WriteHeader(http.StatusSeeOther)
}

// admits reports whether a secret is right, in constant time. If it is wrong, admits answers the request after a
// pause, so that nobody can try many.
func (g *gate) admits(w http.ResponseWriter, r *http.Request, secret string) bool {
	select {
	case g.attempts <- struct{}{}:
		defer func() { <-g.attempts }()
	default:
		g.refuse(w, r, http.StatusTooManyRequests, "Too many wrong attempts. Try again in a moment.")
		return false
	}
	hash := sha256.Sum256([]byte(secret))
	if subtle.ConstantTimeCompare(hash[:], g.secret[:]) == 1 {
		return true
	}
	sleep(r.Context(), g.pause)
	g.refuse(w, r, http.StatusUnauthorized, "That is not right.")
	return false
}

// sleep waits for d, or until ctx ends.
func sleep(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}

func (g *gate) login(w http.ResponseWriter, r *http.Request) {
	if err := g.origins.Check(r); err != nil {
		g.refuse(w, r, http.StatusForbidden, "This form comes from another site.")
		return
	}
	r.Body = http.MaxBytesReader(w, r.Body, 4<<10)
	if g.admits(w, r, r.PostFormValue("password")) {
		g.beginSession(w, r)
		httpguard.SetHeaders(w.Header())
		w.Header().Set("Location", "./")
		w.WriteHeader(http.StatusSeeOther)
	}
}

var gatePage = sync.OnceValue(func() *htmltemplate.Template {
	return htmltemplate.Must(htmltemplate.New("").Parse(gateText))
})

const gateText = `<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Pinion</title>
<link rel="stylesheet" href="{{.Root}}style.css">
<link rel="icon" href="{{.Root}}icon.svg" type="image/svg+xml">
</head>
<body>
<main>
<h1>Pinion</h1>
<p role="status">{{.Text}}</p>
{{if .Password}}<form method="post" action="{{.Root}}login">
<p><label for="password">Password</label> <input id="password" name="password" type="password" required
autocomplete="current-password"> <button type="submit">Enter</button></p>
</form>
{{else}}<p>Open the address that <code>pinion web</code> has printed. If you have just followed it from another site,
<a href="{{.Root}}">load the page again</a>.</p>
{{end}}</main>
</body>
</html>
`

// refuse answers with a page that asks for the secret.
func (g *gate) refuse(w http.ResponseWriter, r *http.Request, status int, text string) {
	h := w.Header()
	httpguard.SetHeaders(h)
	h.Set("Content-Type", "text/html; charset=utf-8")
	if status == http.StatusUnauthorized {
		h.Set("WWW-Authenticate", "Bearer")
	}
	w.WriteHeader(status)
	if r.Method == http.MethodHead {
		return
	}
	root := "./" + strings.Repeat("../", max(strings.Count(r.URL.EscapedPath(), "/")-1, 0))
	err := gatePage().Execute(w, map[string]any{"Root": root, "Text": text, "Password": g.token == ""})
	if err != nil {
		return // the reader is gone
	}
}

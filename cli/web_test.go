package cli

import (
	"bufio"
	"context"
	"io"
	"net"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pinion-queue/pinion"
)

// startWeb starts the command web and returns the address that it prints. The test's end stops it, with status 0.
func startWeb(t *testing.T, args ...string) (address string) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	out, stdout := io.Pipe()
	stderr := new(watched)
	status := make(chan int, 1)
	go func() {
		status <- Run(ctx, append([]string{"web", "--listen", "127.0.0.1:0"}, args...),
			strings.NewReader(""), stdout, stderr)
		stdout.Close()
	}()
	t.Cleanup(func() {
		cancel()
		if got := <-status; got != 0 {
			t.Errorf("exit status %d: %s", got, stderr)
		}
	})
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatalf("it prints no address: %v: %s", err, stderr)
	}
	return strings.TrimSpace(line)
}

// browser is a client that keeps cookies. It follows no redirects.
func browser(t *testing.T) *http.Client {
	t.Helper()
	jar, err := cookiejar.New(nil)
	if err != nil {
		t.Fatal(err)
	}
	return &http.Client{
		Jar:           jar,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// fetch sends a request and returns its answer with the body.
func fetch(t *testing.T, client *http.Client, r *http.Request) (*http.Response, string) {
	t.Helper()
	answer, err := client.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	if err != nil {
		t.Fatal(err)
	}
	return answer, string(body)
}

func request(t *testing.T, method, address, body string) *http.Request {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, address, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	if body != "" {
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	return r
}

func queueFile(t *testing.T) string {
	t.Helper()
	db := filepath.Join(t.TempDir(), "q.db")
	storage := openStorage(t, db)
	mustEnqueue(t, storage, pinion.NewJob("mail"))
	return db
}

func TestWebLetsInWhoHasTheTokenAndHidesIt(t *testing.T) {
	address := startWeb(t, "--db", queueFile(t))
	base, token, found := strings.Cut(address, "?token=")
	if !found || len(token) < 20 {
		t.Fatalf("the address is %q, without a token", address)
	}
	client := browser(t)
	for _, path := range []string{"", "jobs", "metrics", "healthz", "do/pause?queue=default", "?token=wrong"} {
		answer, body := fetch(t, client, request(t, "GET", base+path, ""))
		if answer.StatusCode != http.StatusUnauthorized || strings.Contains(body, "mail") {
			t.Errorf("without the token /%s answers %d", path, answer.StatusCode)
		}
	}
	answer, _ := fetch(t, client, request(t, "GET", base+"jobs?status=PENDING&token="+token, ""))
	if answer.StatusCode != http.StatusSeeOther || answer.Header.Get("Location") != "./jobs?status=PENDING" {
		t.Errorf("with the token: status %d, Location %q", answer.StatusCode, answer.Header.Get("Location"))
	}
	cookie := answer.Header.Get("Set-Cookie")
	if !strings.Contains(cookie, "; HttpOnly; SameSite=Strict") || strings.Contains(cookie, token) {
		t.Errorf("the cookie is %q", cookie)
	}
	answer, body := fetch(t, client, request(t, "GET", base+"jobs?status=PENDING", ""))
	if answer.StatusCode != http.StatusOK || !strings.Contains(body, "mail") {
		t.Errorf("with the cookie: status %d\n%s", answer.StatusCode, body)
	}
	for _, path := range []string{"metrics", "healthz"} {
		bearer := request(t, "GET", base+path, "")
		bearer.Header.Set("Authorization", "Bearer "+token)
		if answer, _ := fetch(t, browser(t), bearer); answer.StatusCode != http.StatusOK {
			t.Errorf("/%s with a Bearer: status %d", path, answer.StatusCode)
		}
	}
}

func TestWebAsksForThePassword(t *testing.T) {
	file := filepath.Join(t.TempDir(), "secret")
	write(t, file, "correct horse\nnot this\n")
	base := startWeb(t, "--db", queueFile(t), "--password-file", file, "--write")
	if strings.Contains(base, "token") {
		t.Errorf("the address %q has a token", base)
	}
	client := browser(t)
	answer, body := fetch(t, client, request(t, "GET", base, ""))
	if answer.StatusCode != http.StatusUnauthorized || !strings.Contains(body, `type="password"`) {
		t.Errorf("the first page: status %d\n%s", answer.StatusCode, body)
	}
	form := url.Values{"password": {"correct horse"}}.Encode()
	foreign := request(t, "POST", base+"login", form)
	foreign.Header.Set("Origin", "https://evil.example")
	if answer, _ := fetch(t, client, foreign); answer.StatusCode != http.StatusForbidden {
		t.Errorf("a login from another site: status %d", answer.StatusCode)
	}
	answer, _ = fetch(t, client, request(t, "POST", base+"login", form))
	if answer.StatusCode != http.StatusSeeOther {
		t.Errorf("the password: status %d", answer.StatusCode)
	}
	answer, body = fetch(t, client, request(t, "GET", base, ""))
	if answer.StatusCode != http.StatusOK || !strings.Contains(body, "do/pause") {
		t.Errorf("the overview: status %d\n%s", answer.StatusCode, body)
	}
}

func TestWebRefusesAPasswordFileThatIsOfNoUse(t *testing.T) {
	db := queueFile(t)
	for _, c := range []struct {
		name, text string
		status     int
		says       string
	}{
		{"empty", "", 2, "its first line has 0 bytes; want at least 8"},
		{"empty line", "\ncorrect horse\n", 2, "its first line has 0 bytes; want at least 8"},
		{"short", "1234567\r\n", 2, "its first line has 7 bytes; want at least 8"},
		{"Latin-1", "correct h\xf6rse\n", 2, "its first line is not UTF-8"},
		{"missing", "", 1, "no such file or directory"},
	} {
		file := filepath.Join(t.TempDir(), "secret")
		if c.name != "missing" {
			write(t, file, c.text)
		}
		status, _, stderr := runCommand(t, "web", "--db", db, "--listen", "127.0.0.1:0", "--password-file", file)
		stderr = systemErrors.Replace(stderr)
		if status != c.status || !strings.Contains(stderr, c.says) {
			t.Errorf("%s: exit status %d, %s; want %d, %q", c.name, status, stderr, c.status, c.says)
		}
	}
}

func TestTheGateKnowsItsSecretInEachForm(t *testing.T) {
	page := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(http.StatusTeapot) })
	g := newGate(page, "", &net.TCPAddr{Port: 8080})
	g.pause = 0
	_, token, _ := strings.Cut(g.address(""), "token=")
	answer := func(method, address string, change func(*http.Request)) *recorder {
		t.Helper()
		r := request(t, method, "http://localhost"+address, "")
		if change != nil {
			change(r)
		}
		w := newRecorder()
		g.ServeHTTP(w, r)
		return w
	}
	header := func(name, value string) func(*http.Request) {
		return func(r *http.Request) { r.Header.Set(name, value) }
	}
	first := answer("HEAD", "/dead?task=a&token="+token, nil)
	cookie, _, _ := strings.Cut(first.header.Get("Set-Cookie"), ";")
	if first.status != http.StatusSeeOther || first.header.Get("Location") != "./dead?task=a" || cookie == "" {
		t.Errorf("HEAD with the token: status %d, header %v", first.status, first.header)
	}
	for _, c := range []struct {
		what, method, address string
		change                func(*http.Request)
		status                int
	}{
		{"the cookie", "GET", "/dead", header("Cookie", cookie), http.StatusTeapot},
		{"the cookie among others", "POST", "/do/replay", header("Cookie", "a=b; "+cookie+"; pinion_8081=x"), http.StatusTeapot},
		{"the cookie, and a wrong token", "GET", "/dead?token=wrong", header("Cookie", cookie), http.StatusSeeOther},
		{"the cookie's value under the name of another port", "GET", "/", header("Cookie", "pinion_8081"+cookie[len("pinion_8080"):]), 401},
		{"the token as a cookie", "GET", "/", header("Cookie", "pinion_8080="+token), 401},
		{"the end of the cookie missing", "GET", "/", header("Cookie", cookie[:len(cookie)-1]), 401},
		{"a wrong token", "HEAD", "/?token=" + strings.ToLower(token), nil, 401},
		{"an empty token", "GET", "/?token=", nil, 401},
		{"a Bearer", "GET", "/metrics", header("Authorization", "bearer "+token), http.StatusTeapot},
		{"a Bearer of no text", "GET", "/metrics", header("Authorization", "Bearer "), 401},
		{"a Bearer for a list", "GET", "/jobs", header("Authorization", "Bearer "+token), 401},
		{"another scheme", "GET", "/healthz", header("Authorization", "Basic "+token), 401},
		{"the token in a form", "POST", "/login?x=" + token, nil, 401},
	} {
		if got := answer(c.method, c.address, c.change).status; got != c.status {
			t.Errorf("%s: status %d, want %d", c.what, got, c.status)
		}
	}
	login := request(t, "POST", "http://localhost/login", "password="+token+"&more="+strings.Repeat("x", 1<<20))
	w := newRecorder()
	g.ServeHTTP(w, login)
	if w.status != http.StatusUnauthorized {
		t.Errorf("a form of a megabyte: status %d", w.status)
	}
}

// pipes is a listener whose connections are in memory, so that time can be a test's.
type pipes chan net.Conn

func (p pipes) Accept() (net.Conn, error) {
	conn, ok := <-p
	if !ok {
		return nil, net.ErrClosed
	}
	return conn, nil
}

func (p pipes) Addr() net.Addr { return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 1} }

func (p pipes) Close() error {
	close(p)
	return nil
}

func TestWebEndsAConnectionThatIsTooSlow(t *testing.T) {
	for _, c := range []struct {
		name, sent string
		most       time.Duration
	}{
		{"sends half a header", "GET / HTTP/1.1\r\nHost: localhost\r\nX-", 10 * time.Second},
		{"sends half a form", "POST /login HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99\r\n\r\npass", 32 * time.Second},
		{"reads nothing", "GET /style.css HTTP/1.1\r\nHost: localhost\r\n\r\n", 2 * time.Minute},
		{"asks for nothing more", "GET /icon.svg HTTP/1.1\r\nHost: localhost\r\n\r\n", 4 * time.Minute},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				listener := make(pipes)
				ctx, stop := context.WithCancel(t.Context())
				served := make(chan error, 1)
				web := &webCall{call: newCall(nil, io.Discard, io.Discard)}
				go func() { served <- web.serve(ctx, listener, pinion.NewMemoryStorage(), "") }()
				ours, theirs := net.Pipe()
				listener <- theirs
				start := time.Now()
				if _, err := io.WriteString(ours, c.sent); err != nil {
					t.Fatal(err)
				}
				if c.name == "reads nothing" {
					time.Sleep(c.most + time.Second)
					start = start.Add(time.Second)
				}
				io.Copy(io.Discard, ours) // until the server closes the connection
				if took := time.Since(start); took > c.most || took < time.Second {
					t.Errorf("the connection ends after %v, want at most %v", took, c.most)
				}
				stop()
				if err := <-served; err != nil {
					t.Error(err)
				}
			})
		})
	}
}

func TestWebAnswersUnderNoOtherName(t *testing.T) {
	base, token, _ := strings.Cut(startWeb(t, "--db", queueFile(t)), "?token=")
	for host, want := range map[string]int{
		"evil.example":      http.StatusMisdirectedRequest,
		"evil.example:8080": http.StatusMisdirectedRequest,
		"localhost:1":       http.StatusSeeOther,
		"[::1]":             http.StatusSeeOther,
	} {
		r := request(t, "GET", base+"?token="+token, "")
		r.Host = host
		answer, _ := fetch(t, browser(t), r)
		if answer.StatusCode != want {
			t.Errorf("Host %s: status %d, want %d", host, answer.StatusCode, want)
		}
	}
	named, token, _ := strings.Cut(startWeb(t, "--db", queueFile(t), "--host", "jobs.example.com"), "?token=")
	r := request(t, "GET", named+"?token="+token, "")
	r.Host = "jobs.example.com"
	if answer, _ := fetch(t, browser(t), r); answer.StatusCode != http.StatusSeeOther {
		t.Errorf("the Host of --host: status %d", answer.StatusCode)
	}
}

// A guess costs a second, and only a few may be made at the same time.
func TestTheGatePausesAfterAWrongSecret(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		page := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "page") })
		g := newGate(page, "correct horse", &net.TCPAddr{Port: 1})
		guess := func(secret string) int {
			w := newRecorder()
			r := request(t, "GET", "http://localhost/metrics", "")
			r.Header.Set("Authorization", "Bearer "+secret)
			g.ServeHTTP(w, r)
			return w.status
		}
		start := time.Now()
		statuses := make(chan int, maxAttempts)
		for range maxAttempts {
			go func() { statuses <- guess("wrong") }()
		}
		synctest.Wait()
		if got := guess("correct horse"); got != http.StatusTooManyRequests {
			t.Errorf("one attempt more: status %d", got)
		}
		for range maxAttempts {
			if got := <-statuses; got != http.StatusUnauthorized {
				t.Errorf("a wrong secret: status %d", got)
			}
		}
		if took := time.Since(start); took != g.pause {
			t.Errorf("wrong secrets took %v, want %v", took, g.pause)
		}
		if got := guess("correct horse"); got != http.StatusOK {
			t.Errorf("the right secret: status %d", got)
		}
	})
}

// recorder is an http.ResponseWriter that keeps the status. httptest would add its flag to this test binary, which is a
// command too.
type recorder struct {
	header http.Header
	status int
}

func newRecorder() *recorder { return &recorder{make(http.Header), http.StatusOK} }

func (r *recorder) Header() http.Header         { return r.header }
func (r *recorder) WriteHeader(status int)      { r.status = status }
func (r *recorder) Write(p []byte) (int, error) { return len(p), nil }

// Package chromium drives a Chromium over the DevTools protocol, for the tests of the page. It does what a person does:
// it opens addresses, clicks what is visible, types, and looks. It waits for events of the browser, never for time.
package chromium

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
)

// Names are the programs that Start looks for, the first one that is installed.
var Names = []string{"chromium", "chromium-browser", "google-chrome", "google-chrome-stable"}

// Browser is a running Chromium without a window. The names *.example lead to 127.0.0.1; it reaches no other machine.
type Browser struct {
	cmd  *exec.Cmd
	dir  string // its profile
	in   io.WriteCloser
	out  io.ReadCloser
	log  *os.File // what it writes to stderr
	done chan struct{}

	writing sync.Mutex // guards in

	mu     sync.Mutex // guards what follows
	lastID int
	calls  map[int]chan<- reply
	pages  map[string]*Page // by session
}

// message is a call, a reply or an event of the protocol.
type message struct {
	ID      int             `json:"id,omitempty"`
	Session string          `json:"sessionId,omitempty"`
	Method  string          `json:"method,omitempty"`
	Params  json.RawMessage `json:"params,omitempty"`
	reply
}

type reply struct {
	Result json.RawMessage `json:"result,omitempty"`
	Error  *struct {
		Message string `json:"message"`
	} `json:"error,omitempty"`
}

// Start starts a browser. The caller closes it.
func Start() (*Browser, error) {
	var program string
	for _, name := range Names {
		path, err := exec.LookPath(name)
		if err == nil {
			program = path
			break
		}
	}
	if program == "" {
		return nil, fmt.Errorf("chromium: none of %q is installed", Names)
	}
	dir, err := os.MkdirTemp("", "chromium-")
	if err != nil {
		return nil, err
	}
	b := &Browser{
		dir: dir, done: make(chan struct{}), calls: make(map[int]chan<- reply), pages: make(map[string]*Page),
	}
	err = b.start(program)
	if err != nil {
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	go b.read()
	return b, nil
}

func (b *Browser) start(program string) error {
	theirIn, in, err := os.Pipe()
	if err != nil {
		return err
	}
	defer theirIn.Close()
	out, theirOut, err := os.Pipe()
	if err != nil {
		return errors.Join(err, in.Close())
	}
	defer theirOut.Close()
	b.in, b.out = in, out
	b.log, err = os.Create(filepath.Join(b.dir, "stderr"))
	if err != nil {
		return errors.Join(err, in.Close(), out.Close())
	}
	args := []string{
		"--headless", "--remote-debugging-pipe", "--user-data-dir=" + b.dir, "--no-first-run", "--disable-gpu",
		"--disable-dev-shm-usage", "--disable-background-networking", "--disable-component-update", "--disable-sync",
		"--disable-extensions", "--hide-scrollbars", "--force-color-profile=srgb", "--lang=en-US", "--mute-audio",
		"--host-resolver-rules=MAP *.example 127.0.0.1, MAP * ~NOTFOUND, EXCLUDE 127.0.0.1, EXCLUDE localhost",
	}
	if os.Getuid() == 0 {
		args = append(args, "--no-sandbox") // as root it refuses to start with one
	}
	b.cmd = exec.Command(program, args...)
	b.cmd.ExtraFiles = []*os.File{theirIn, theirOut} // its descriptors 3 and 4
	b.cmd.Stderr = b.log
	err = b.cmd.Start()
	if err != nil {
		return errors.Join(err, in.Close(), out.Close(), b.log.Close())
	}
	return nil
}

// Close ends the browser.
func (b *Browser) Close() error {
	b.call(context.Background(), "", "Browser.close", nil, nil) // an error means that it has ended
	<-b.done
	b.cmd.Wait() // its exit code means nothing when it was told to close
	return errors.Join(b.in.Close(), b.out.Close(), b.log.Close(), os.RemoveAll(b.dir))
}

// read hands out replies and events until the browser ends.
func (b *Browser) read() {
	defer close(b.done)
	r := bufio.NewReaderSize(b.out, 1<<16)
	for {
		text, err := r.ReadBytes(0)
		if err != nil {
			return
		}
		var m message
		err = json.Unmarshal(text[:len(text)-1], &m)
		if err != nil {
			return
		}
		b.mu.Lock()
		answer, page := b.calls[m.ID], b.pages[m.Session]
		delete(b.calls, m.ID)
		b.mu.Unlock()
		switch {
		case answer != nil:
			answer <- m.reply
		case page != nil:
			page.event(m.Method, m.Params)
		}
	}
}

// call calls a method of the protocol. Where result is not nil, it holds what the method returned.
func (b *Browser) call(ctx context.Context, session, method string, params, result any) error {
	if params == nil {
		params = struct{}{}
	}
	encoded, err := json.Marshal(params)
	if err != nil {
		return err
	}
	answer := make(chan reply, 1)
	err = b.send(message{Session: session, Method: method, Params: encoded}, answer)
	if err != nil {
		return fmt.Errorf("%s: %w", method, err)
	}
	select {
	case r := <-answer:
		if r.Error != nil {
			return fmt.Errorf("%s: %s", method, r.Error.Message)
		}
		if result == nil {
			return nil
		}
		return json.Unmarshal(r.Result, result)
	case <-b.done:
		log, _ := os.ReadFile(b.log.Name())
		return fmt.Errorf("%s: the browser has ended: %s", method, log)
	case <-ctx.Done():
		return fmt.Errorf("%s: %w", method, ctx.Err())
	}
}

func (b *Browser) send(m message, answer chan<- reply) error {
	b.mu.Lock()
	b.lastID++
	m.ID = b.lastID
	b.calls[m.ID] = answer
	b.mu.Unlock()
	text, err := json.Marshal(m)
	if err != nil {
		return err
	}
	b.writing.Lock()
	defer b.writing.Unlock()
	_, err = b.in.Write(append(text, 0))
	return err
}

package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"strings"
	"syscall"
	"time"
	"unicode/utf8"

	"github.com/pinion-queue/pinion"
	"github.com/pinion-queue/pinion/internal/httpguard"
	"github.com/pinion-queue/pinion/web"
)

const webDetail = `
It prints an address with a token that lets the browser in; keep it to yourself. The
page shows what waits, what runs, what failed and why. It changes nothing without
--write; with it one can replay, delete, cancel and reschedule jobs, and pause queues.

The page is for this machine: --listen takes another address only together with
--password-file, whose first line people then type instead of the token. It speaks
plain HTTP. TLS is the business of a proxy before it, such as caddy or nginx; name the
host that the proxy passes on with --host.

/metrics is for Prometheus, /healthz for whoever watches: 200, or 503 with a reason. Both
take the token or the password as "Authorization: Bearer …".
`

const webExamples = `pinion web --db q.db
pinion web --write --listen 127.0.0.1:9000 --db q.db
pinion web --password-file secret --host jobs.example.com --db q.db`

const defaultListen = "127.0.0.1:8080"

// webCall is a call of web.
type webCall struct {
	*call
	listen       string
	passwordFile string
	options      web.Options
}

func webPage(c *call) func(context.Context) error {
	w := &webCall{call: c}
	c.storageFlags()
	c.flags.StringVar(&w.listen, "listen", "",
		"serve at `ADDRESS` [127.0.0.1:8080 or, where that is taken, another port]")
	c.flags.BoolVar(&w.options.Write, "write", false, "let people change the queue")
	c.flags.StringVar(&w.passwordFile, "password-file", "", "ask for the password in the first line of `FILE`")
	c.listFlag(&w.options.Hosts, "host", "also answer under the `NAME` that a proxy passes on; may be repeated")
	c.durationFlag(&w.options.MaxWait, "max-wait",
		"/healthz reports jobs due, and leases expired, for this `TIME` [5m]")
	return w.run
}

func (w *webCall) run(ctx context.Context) error {
	secret, err := w.secret()
	if err != nil {
		return err
	}
	ctx, stop := untilSignal(ctx)
	defer stop()
	listener, err := w.listenAt()
	if err != nil {
		return err
	}
	defer listener.Close()
	access := reads
	if w.options.Write {
		access = changes
	}
	storage, err := w.open(ctx, access)
	w.stopSlowNotice()
	if err != nil {
		return err
	}
	err = w.serve(ctx, listener, storage, secret)
	return errors.Join(err, storage.Close())
}

// secret returns the password of --password-file, or "".
func (w *webCall) secret() (string, error) {
	if w.passwordFile == "" {
		if w.listen != "" && !httpguard.IsLoopback(w.listen) {
			return "", usagef("--listen %s: other machines reach that; add --password-file FILE, or listen at %s",
				w.listen, defaultListen)
		}
		return "", nil
	}
	text, err := os.ReadFile(w.passwordFile)
	if err != nil {
		return "", err
	}
	password, _, _ := strings.Cut(string(text), "\n")
	password = strings.TrimSuffix(password, "\r")
	if !utf8.ValidString(password) { // browsers send UTF-8
		return "", usagef("--password-file %s: its first line is not UTF-8; want text that people can type",
			w.passwordFile)
	}
	if len(password) < minPassword {
		return "", usagef("--password-file %s: its first line has %d bytes; want at least %d",
			w.passwordFile, len(password), minPassword)
	}
	return password, nil
}

// minPassword is how short a password may be, in bytes.
const minPassword = 8

// listenAt opens the address to serve at.
func (w *webCall) listenAt() (net.Listener, error) {
	address := cmp.Or(w.listen, defaultListen)
	listener, err := net.Listen("tcp", address)
	if err != nil && w.listen == "" && errors.Is(err, syscall.EADDRINUSE) {
		listener, err = net.Listen("tcp", "127.0.0.1:0")
	}
	if err != nil {
		return nil, fmt.Errorf("cannot serve at %s: %w; --listen takes another address, such as 127.0.0.1:9000",
			address, err)
	}
	isOpen := !httpguard.IsLoopback(listener.Addr().String())
	if isOpen && w.passwordFile == "" { // localhost may be anything
		listener.Close()
		return nil, usagef("--listen %s is %s, which other machines reach; add --password-file FILE",
			w.listen, listener.Addr())
	}
	if isOpen {
		fmt.Fprintln(w.stderr, "pinion: the password and the page cross the network in the clear; "+
			"put a proxy with TLS before this address, and let nothing else reach it")
	}
	return listener, nil
}

// serve serves the page until ctx ends.
func (w *webCall) serve(ctx context.Context, listener net.Listener, storage pinion.Storage, secret string) error {
	w.options.Logger = slog.New(slog.NewTextHandler(w.stderr, nil))
	if len(w.options.Hosts) > 0 {
		w.options.Hosts = append(w.options.Hosts, "localhost", "127.0.0.1", "::1")
	}
	gate := newGate(web.New(storage, &w.options), secret, listener.Addr())
	gate.hosts = w.options.Hosts
	server := &http.Server{
		Handler:           gate,
		ReadHeaderTimeout: 10 * time.Second,
		ReadTimeout:       30 * time.Second,
		WriteTimeout:      2 * time.Minute, // also for a slow reader
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    64 << 10,
		ErrorLog:          slog.NewLogLogger(w.options.Logger.Handler(), slog.LevelWarn),
	}
	fmt.Fprintln(w.stdout, gate.address("http://"+listener.Addr().String()+"/"))
	if err := w.stdout.Flush(); err != nil {
		return fmt.Errorf("cannot print the address: %w; check where standard output goes", err)
	}
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	select {
	case err := <-served:
		return fmt.Errorf("serving at %s: %w; start it again", listener.Addr(), err)
	case <-ctx.Done():
	}
	ending, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	if server.Shutdown(ending) != nil {
		server.Close() // of those who still read
	}
	<-served
	return nil
}

//go:build linux

package postgres

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/url"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pinion-queue/pinion"
)

// server is a PostgreSQL of a test's own, to be killed.
type server struct {
	t    *testing.T
	dir  string
	port int
	cmd  *exec.Cmd
	done chan struct{} // closed when cmd has ended
}

// program is one of PostgreSQL's, to be run as a user that is not root, and killed with this process.
func program(name string, args ...string) *exec.Cmd {
	cmd := exec.Command(filepath.Join(os.Getenv("PINION_POSTGRES_BIN"), name), args...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGQUIT}
	if who, err := user.Lookup("nobody"); err == nil && os.Getuid() == 0 {
		uid, _ := strconv.Atoi(who.Uid)
		gid, _ := strconv.Atoi(who.Gid)
		cmd.SysProcAttr.Credential = &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
		cmd.Dir = "/"
	}
	return cmd
}

func (s *server) run(name string, args ...string) {
	s.t.Helper()
	if out, err := program(name, args...).CombinedOutput(); err != nil {
		s.t.Fatalf("%s: %v\n%s", name, err, out)
	}
}

// newDir makes a folder that belongs to whom the server runs as.
func newDir(t *testing.T) string {
	t.Helper()
	if os.Getenv("PINION_POSTGRES_BIN") == "" {
		if os.Getenv(allEnv) != "" {
			t.Fatal("PINION_POSTGRES_BIN is not set")
		}
		t.Skip("needs PINION_POSTGRES_BIN")
	}
	dir, err := os.MkdirTemp("", "pinion-postgres-")
	if err == nil {
		if c := program("initdb").SysProcAttr.Credential; c != nil {
			err = os.Chown(dir, int(c.Uid), int(c.Gid))
		}
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

func freePort(t *testing.T) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

func newServer(t *testing.T) *server {
	t.Helper()
	s := &server{t: t, dir: newDir(t), port: freePort(t)}
	s.run("initdb", "-D", s.data(), "-U", "pinion", "-A", "trust", "-E", "UTF8", "--locale=C.UTF-8")
	s.start()
	return s
}

func (s *server) data() string { return filepath.Join(s.dir, "data") }

func (s *server) url() string {
	return fmt.Sprintf("postgres://pinion@127.0.0.1:%d/postgres?sslmode=disable", s.port)
}

// awaitCaller waits until somebody tries to reach the server, which is stopped, and hangs up.
func (s *server) awaitCaller() {
	s.t.Helper()
	l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", s.port))
	if err != nil {
		s.t.Fatal(err)
	}
	defer l.Close()
	conn, err := l.Accept()
	if err != nil {
		s.t.Fatal(err)
	}
	conn.Close()
}

// start starts the server and waits until it answers.
func (s *server) start() {
	s.t.Helper()
	s.cmd, s.done = program("postgres", "-D", s.data(), "-c", "listen_addresses=127.0.0.1", "-c", fmt.Sprint("port=", s.port),
		"-c", "unix_socket_directories=", "-c", "max_connections=200"), make(chan struct{})
	var log strings.Builder
	s.cmd.Stderr = &log
	started := make(chan error)
	go func() {
		runtime.LockOSThread() // whose end would be taken for that of this process
		defer runtime.UnlockOSThread()
		started <- s.cmd.Start()
		s.cmd.Wait()
		close(s.done)
	}()
	if err := <-started; err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { s.stop(syscall.SIGQUIT) })
	tooLate := time.After(5 * time.Minute)
	for { // another process: only an answer says that it is there
		conn, err := pgx.Connect(s.t.Context(), s.url())
		if err == nil {
			conn.Close(s.t.Context())
			return
		}
		select {
		case <-s.done:
			s.t.Fatalf("the server has ended: %v\n%s", err, log.String())
		case <-tooLate:
			s.t.Fatalf("the server does not answer: %v\n%s", err, log.String())
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// stop ends the server: SIGINT cuts the connections, SIGQUIT is the immediate shutdown, after which it recovers.
func (s *server) stop(how syscall.Signal) {
	s.cmd.Process.Signal(how)
	<-s.done
}

// ---- The processes ----

// A child is this test binary again. It works until its standard input ends.
const childEnv = "PINION_POSTGRES_TEST_CHILD"

type countArgs struct{ N int }

// counting is the task of all jobs: it takes a moment, and fails the first time for some.
func counting() *pinion.Registry {
	registry := new(pinion.Registry)
	registry.Add(pinion.Task[countArgs]{Name: "count", Run: func(ctx context.Context, args countArgs) error {
		time.Sleep(time.Duration(args.N%5) * time.Millisecond)
		if job, _ := pinion.JobFromContext(ctx); args.N%7 == 0 && job.Attempts == 1 {
			return errors.New("the first attempt fails")
		}
		return pinion.SetResult(ctx, args.N)
	}})
	return registry
}

func child() {
	url := os.Getenv(childEnv)
	if url == "" {
		return
	}
	ctx, stop := context.WithCancel(context.Background())
	go func() { io.Copy(io.Discard, os.Stdin); stop() }()
	err := work(ctx, url)
	if err != nil {
		fmt.Fprintln(os.Stderr, "child:", err)
		os.Exit(1)
	}
	os.Exit(0)
}

func work(ctx context.Context, url string) error {
	s, err := pinion.Open(ctx, url)
	if err != nil {
		return err
	}
	defer s.Close()
	fmt.Println("open")
	w := &pinion.Worker{Storage: s, Registry: counting(), Concurrency: 8, Logger: slog.New(slog.DiscardHandler),
		VisibilityTimeout: 3 * time.Second, ReapInterval: 500 * time.Millisecond,
		Retry: &pinion.RetryPolicy{MaxRetries: 50, BaseDelay: 10 * time.Millisecond, Cap: 100 * time.Millisecond}}
	return w.Run(ctx)
}

// startChildren starts processes that work, and stops them at the end of the test. It returns when all are at
// work.
func startChildren(t *testing.T, url string, n int) (all []*exec.Cmd) {
	t.Helper()
	for range n {
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), childEnv+"="+url)
		cmd.Stderr = t.Output()
		in, err := cmd.StdinPipe()
		if err != nil {
			t.Fatal(err)
		}
		out, err := cmd.StdoutPipe()
		if err == nil {
			err = cmd.Start()
		}
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			in.Close()
			if err := cmd.Wait(); err != nil {
				t.Errorf("a child: %v", err)
			}
		})
		if line, err := bufio.NewReader(out).ReadString('\n'); err != nil {
			t.Fatalf("a child said %q, %v", line, err)
		}
		all = append(all, cmd)
	}
	return all
}

// load are producers, and what was acknowledged to them.
type load struct {
	t       *testing.T
	storage *Storage
	last    atomic.Int64
	stop    chan struct{}
	stored  chan struct{} // capacity 1: more has been acknowledged
	all     sync.WaitGroup

	mu      sync.Mutex // guards the rest
	acked   map[string]int
	unknown int // calls that returned an error
}

func startLoad(t *testing.T, url string, producers int) *load {
	l := &load{
		t:       t,
		storage: open(t, url, nil),
		stop:    make(chan struct{}),
		stored:  make(chan struct{}, 1),
		acked:   make(map[string]int),
	}
	for i := range producers {
		l.all.Go(func() {
			for {
				select {
				case <-l.stop:
					return
				default:
					l.enqueue(1 + i*i) // one by one, and in batches
				}
			}
		})
	}
	return l
}

func (l *load) enqueue(n int) {
	jobs, numbers := make([]*pinion.Job, n), make([]int, n)
	for i := range jobs {
		numbers[i] = int(l.last.Add(1))
		jobs[i] = pinion.NewJob("count", numbers[i])
	}
	err := l.storage.Enqueue(l.t.Context(), jobs...)
	l.mu.Lock()
	defer l.mu.Unlock()
	if err != nil {
		l.unknown++
		l.t.Logf("enqueue: %v", err)
		return
	}
	for i, job := range jobs {
		l.acked[job.ID] = numbers[i]
	}
	select {
	case l.stored <- struct{}{}:
	default:
	}
}

// more waits until n more jobs are acknowledged.
func (l *load) more(n int) {
	l.t.Helper()
	acked := func() int {
		l.mu.Lock()
		defer l.mu.Unlock()
		return len(l.acked)
	}
	for want := acked() + n; acked() < want; {
		select {
		case <-l.stored:
		case <-time.After(time.Minute):
			l.t.Fatalf("in a minute nothing more was acknowledged than %d jobs", acked())
		}
	}
}

// settle stops the producers, waits until all is done and compares.
func (l *load) settle() {
	l.t.Helper()
	close(l.stop)
	l.all.Wait()
	ctx := l.t.Context()
	done, numbers := make(map[string]bool), make(map[string]int)
	left, since := -1, time.Now()
	for { // the workers are other processes
		stats, err := l.storage.Stats(ctx)
		if err != nil {
			l.t.Fatal(err)
		}
		unfinished := stats.Total.Pending + stats.Total.Running
		if unfinished == 0 {
			break
		}
		if unfinished != left {
			left, since = unfinished, time.Now()
		}
		if time.Since(since) > 5*time.Minute {
			l.t.Fatalf("in five minutes none of the %d unfinished jobs has ended", left)
		}
		time.Sleep(20 * time.Millisecond)
	}
	attempts := 0
	for job, err := range l.storage.Jobs(ctx, pinion.Filter{}) {
		if err != nil {
			l.t.Fatal(err)
		}
		number := string(job.Args[0].(json.RawMessage))
		done[job.ID] = job.Status == pinion.StatusSuccess && string(job.Result) == number
		numbers[number]++
		attempts += job.Attempts
	}
	lost, twice := 0, 0
	for id := range l.acked {
		if !done[id] {
			lost++
		}
	}
	for _, n := range numbers {
		if n > 1 {
			twice++
		}
	}
	l.t.Logf("%d jobs acknowledged, %d calls failed, %d jobs done in %d attempts",
		len(l.acked), l.unknown, len(done), attempts)
	if lost > 0 || twice > 0 || l.unknown == 0 && len(done) != len(l.acked) || len(l.acked) < 100 {
		l.t.Errorf("of %d jobs acknowledged %d are lost, %d were stored twice, %d are stored in all",
			len(l.acked), lost, twice, len(done))
	}
}

// ---- The faults ----

func TestTwentyProcessesOutliveRestartsOfTheServer(t *testing.T) {
	server := newServer(t)
	url := withParam(server.url(), "pool_max_conns=4")
	load := startLoad(t, withParam(server.url(), "pool_max_conns=8"), 6)
	startChildren(t, url, 20)
	for i, how := range []syscall.Signal{syscall.SIGINT, syscall.SIGQUIT, syscall.SIGINT, syscall.SIGQUIT} {
		load.more(500)
		server.stop(how)
		if i%2 == 1 {
			server.awaitCaller()
		}
		server.start()
	}
	load.settle()
}

func TestNothingIsLostWhenConnectionsAreCut(t *testing.T) {
	url := schemaURL(t)
	load := startLoad(t, withParam(url, "application_name=pinion_cut"), 6)
	startChildren(t, withParam(url, "application_name=pinion_cut&pool_max_conns=4"), 4)
	conn, err := pgx.Connect(t.Context(), os.Getenv(urlEnv))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.Background())
	for range 40 {
		load.more(100)
		if _, err := conn.Exec(t.Context(), `SELECT pg_terminate_backend(pid) FROM pg_stat_activity
			WHERE application_name='pinion_cut' AND random()<0.5`); err != nil {
			t.Fatal(err)
		}
	}
	load.settle()
	if load.unknown > 0 {
		t.Errorf("%d calls failed, though there was a server all the time", load.unknown)
	}
}

func TestAFailoverToAPromotedStandbyLosesNothing(t *testing.T) {
	primary := newServer(t)
	standby := &server{t: t, dir: newDir(t), port: freePort(t)}
	standby.run("pg_basebackup", "-D", standby.data(), "-d",
		strings.Replace(primary.url(), "?", "?application_name=standby&", 1), "-R", "-X", "stream", "-c", "fast")
	standby.start()
	ctx := t.Context()
	query(t, ctx, primary.url(), `ALTER SYSTEM SET synchronous_standby_names='*'`)
	query(t, ctx, primary.url(), `SELECT pg_reload_conf()`)
	waitFor(t, ctx, open(t, primary.url(), nil), `SELECT count(*)=1 FROM pg_stat_replication WHERE sync_state='sync'`)
	url := fmt.Sprintf("postgres://pinion@127.0.0.1:%d,127.0.0.1:%d/postgres?sslmode=disable&target_session_attrs=read-write&pool_max_conns=6", primary.port, standby.port)
	load := startLoad(t, url, 4)
	startChildren(t, url, 3)
	load.more(500)
	primary.stop(syscall.SIGQUIT)
	standby.run("pg_ctl", "-D", standby.data(), "-w", "promote")
	query(t, ctx, standby.url(), `ALTER SYSTEM RESET synchronous_standby_names`)
	query(t, ctx, standby.url(), `SELECT pg_reload_conf()`)
	load.more(500)
	load.settle()
}

// lossy is a proxy that can lose the server's next answer, and the connection with it.
type lossy struct {
	armed atomic.Bool
	lost  atomic.Int64
}

// lossyURL puts the proxy in front of the server of a URL.
func lossyURL(t *testing.T, to string) (*lossy, string) {
	t.Helper()
	u, err := url.Parse(to)
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := u.Host
	u.Host = l.Addr().String()
	p := new(lossy)
	var all sync.WaitGroup
	t.Cleanup(func() { l.Close(); all.Wait() })
	all.Go(func() {
		for {
			client, err := l.Accept()
			if err != nil {
				return
			}
			all.Go(func() { p.serve(client, server) })
		}
	})
	return p, u.String()
}

func (p *lossy) serve(client net.Conn, address string) {
	defer client.Close()
	server, err := net.Dial("tcp", address)
	if err != nil {
		return
	}
	defer server.Close()
	go func() {
		io.Copy(server, client)
		server.Close()
	}()
	buf := make([]byte, 64<<10)
	for {
		n, err := server.Read(buf)
		if n > 0 && p.armed.CompareAndSwap(true, false) {
			p.lost.Add(1)
			return
		}
		if _, failed := client.Write(buf[:n]); err != nil || failed != nil {
			return
		}
	}
}

// The server has committed, and the connection breaks before it can say so.
func TestACommitWhoseAnswerIsLostIsRecognised(t *testing.T) {
	proxy, url := lossyURL(t, withParam(schemaURL(t), "pinion_listen=off")) // so that nothing else is sent meanwhile
	s := open(t, url, nil)
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute) // for a Dequeue that never comes back
	defer cancel()
	losing := func(what string, verb func() error) {
		t.Helper()
		before := proxy.lost.Load()
		proxy.armed.Store(true)
		if err := verb(); err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		if proxy.lost.Load() != before+1 {
			t.Fatalf("%s: no answer was lost", what)
		}
	}
	claim := func() *pinion.Job {
		t.Helper()
		var jobs []*pinion.Job
		losing("Dequeue", func() (err error) { jobs, err = s.Dequeue(ctx, pinion.DequeueOptions{Max: 9}); return err })
		if len(jobs) != 1 || jobs[0].Attempts != 1 {
			t.Fatalf("claimed %+v, want one job in its first attempt", jobs)
		}
		return jobs[0]
	}
	want := func(id string, status pinion.Status, attempts int) {
		t.Helper()
		job, err := s.Get(ctx, id)
		if err != nil || job.Status != status || job.Attempts != attempts {
			t.Fatalf("the job is %+v, want %s after %d attempts, %v", job, status, attempts, err)
		}
	}
	none := func(lost []*pinion.Job, err error) error {
		if len(lost) > 0 {
			return fmt.Errorf("%d jobs are lost", len(lost))
		}
		return err
	}
	for _, end := range []struct {
		verb     string
		by       func(*pinion.Job) error
		status   pinion.Status
		attempts int
	}{
		{"MarkDone", func(job *pinion.Job) error { return none(s.MarkDone(ctx, job)) }, pinion.StatusSuccess, 1},
		{"MarkFailed", func(job *pinion.Job) error { return s.MarkFailed(ctx, job, io.EOF, time.Now().Add(time.Hour)) }, pinion.StatusPending, 1},
		{"DeadLetter", func(job *pinion.Job) error { return s.DeadLetter(ctx, job, io.EOF) }, pinion.StatusFailed, 1},
		{"Heartbeat", func(job *pinion.Job) error { return none(s.Heartbeat(ctx, job)) }, pinion.StatusRunning, 1},
		{"Release", func(job *pinion.Job) error {
			lost, _, err := s.Release(ctx, time.Time{}, nil, job)
			return none(lost, err)
		}, pinion.StatusPending, 0},
	} {
		job := &pinion.Job{Task: "a", ID: end.verb, Key: end.verb}
		losing("Enqueue", func() error { return s.Enqueue(ctx, job) })
		claimed := claim()
		losing(end.verb, func() error { return end.by(claimed) })
		want(end.verb, end.status, end.attempts)
	}
	batch := []*pinion.Job{pinion.NewJob("b"), pinion.NewJob("b"), pinion.NewJob("b")}
	losing("Enqueue of several", func() error { return s.Enqueue(ctx, batch...) })
	if n, err := s.Size(ctx); n != 5 || err != nil {
		t.Errorf("%d jobs are pending, want 5, %v", n, err)
	}
	// Another's job of the same ID is none of ours, also when an answer got lost.
	proxy.armed.Store(true)
	if err := s.Enqueue(ctx, &pinion.Job{Task: "a", ID: "MarkDone"}); !errors.Is(err, pinion.ErrDuplicate) {
		t.Errorf("an ID that is taken: got %v", err)
	}
}

// A proxy that gives each transaction another connection: no LISTEN, no prepared statements, no settings of a
// session.
func TestThroughAProxyThatPoolsTransactions(t *testing.T) {
	to := schemaURL(t)
	bouncer, err := exec.LookPath("pgbouncer")
	if err != nil {
		if os.Getenv(allEnv) != "" {
			t.Fatal(err)
		}
		t.Skip("needs pgbouncer")
	}
	u, err := url.Parse(to)
	if err != nil {
		t.Fatal(err)
	}
	dir, port := newDir(t), freePort(t)
	ini := filepath.Join(dir, "pgbouncer.ini")
	if err := os.WriteFile(ini, fmt.Appendf(nil, "[databases]\n%s = host=%s port=%s user=pinion\n[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = %d\n"+
		"unix_socket_dir =\nauth_type = any\npool_mode = transaction\ndefault_pool_size = 4\n", u.Path[1:], u.Hostname(), u.Port(), port), 0o644); err != nil {
		t.Fatal(err)
	}
	proxy := program("pgbouncer", ini)
	proxy.Path = bouncer
	var log strings.Builder
	proxy.Stderr = &log
	started := make(chan error)
	ended := make(chan struct{})
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		started <- proxy.Start()
		proxy.Wait()
		close(ended)
	}()
	if err := <-started; err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { proxy.Process.Signal(syscall.SIGTERM); <-ended })
	u.Host = fmt.Sprint("127.0.0.1:", port)
	tooLate := time.After(5 * time.Minute)
	for { // another process: only a connection says that it is there
		conn, err := net.Dial("tcp", u.Host)
		if err == nil {
			conn.Close()
			break
		}
		select {
		case <-ended:
			t.Fatalf("PgBouncer has ended: %v\n%s", err, log.String())
		case <-tooLate:
			t.Fatalf("PgBouncer does not answer: %v\n%s", err, log.String())
		case <-time.After(10 * time.Millisecond):
		}
	}
	through := withParam(u.String(), "pinion_listen=off")
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	if err := pinion.CheckStorage(ctx, func() (pinion.Storage, error) { clear(t, to); return Open(ctx, through, nil) }); err != nil {
		t.Error(err)
	}
	clear(t, to)
	load := startLoad(t, through, 4)
	startChildren(t, through, 4)
	load.more(2000)
	load.settle()
}

func TestWithoutAServerAVerbEndsWithItsContextOrTheStorage(t *testing.T) {
	server := newServer(t)
	s := open(t, server.url(), nil)
	if err := s.Enqueue(t.Context(), pinion.NewJob("a")); err != nil {
		t.Fatal(err)
	}
	server.stop(syscall.SIGQUIT)
	for name, verb := range map[string]func(ctx context.Context) error{
		"Size":    func(ctx context.Context) error { _, err := s.Size(ctx); return err },
		"Enqueue": func(ctx context.Context) error { return s.Enqueue(ctx, pinion.NewJob("a")) },
		"Dequeue": func(ctx context.Context) error {
			_, err := s.Dequeue(ctx, pinion.DequeueOptions{Max: 1})
			return err
		},
	} {
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		if err := verb(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%s: got %v, want one that matches %v", name, err, context.DeadlineExceeded)
		}
		cancel()
	}
	ended := make(chan error)
	go func() { ended <- s.Enqueue(t.Context(), pinion.NewJob("a")) }()
	server.awaitCaller()
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	if err := <-ended; !errors.Is(err, pinion.ErrClosed) {
		t.Errorf("got %v, want %v", err, pinion.ErrClosed)
	}
}

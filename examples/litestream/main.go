// Litestream tries what a queue keeps when its machine is lost and its file comes back from a Litestream replica.
//
// In each round two processes enqueue jobs and two run them, while litestream copies the file to a replica. Then the
// program kills all of them, litestream first, restores the file from the replica, and compares it with what the
// processes had acknowledged. The last round stops everything in order instead: there, nothing may be missing.
//
//	go run ./litestream -rounds 5
//
// It installs the litestream command first, which downloads and builds it, unless -litestream names one.
package main

import (
	"bufio"
	"context"
	"database/sql"
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"log/slog"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/pinion-queue/pinion"
	_ "modernc.org/sqlite"
)

const command = "github.com/benbjohnson/litestream/cmd/litestream@v0.5.18"

// note is the task: it does nothing, for a moment.
var note = pinion.Register("note", func(ctx context.Context, n int) error {
	time.Sleep(time.Millisecond)
	return nil
})

func main() {
	log.SetFlags(0)
	log.SetPrefix("litestream: ")
	rounds := flag.Int("rounds", 3, "how many times to kill everything")
	litestream := flag.String("litestream", "", "the litestream `command` [installed with go install]")
	role := flag.String("role", "", "for the processes that this program starts")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	var err error
	switch *role {
	case "":
		err = try(ctx, *litestream, *rounds)
	case "produce":
		err = produce(ctx, flag.Arg(0))
	case "work":
		err = work(ctx, flag.Arg(0))
	default:
		err = fmt.Errorf("unknown role %q", *role)
	}
	if err != nil {
		log.Fatal(err)
	}
}

// ---- The processes that use the queue ----

// produce enqueues jobs until ctx ends, and prints the id of each once Enqueue has returned.
func produce(ctx context.Context, path string) error {
	storage, err := pinion.OpenSQLite(ctx, path, nil)
	if err != nil {
		return err
	}
	defer storage.Close()
	for n := 0; ; n++ {
		job, err := note.Enqueue(ctx, storage, n)
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return err
		}
		fmt.Println("enqueued", job.ID)
	}
}

// work runs jobs until ctx ends, and prints the id of each once its end is recorded.
func work(ctx context.Context, path string) error {
	storage, err := pinion.OpenSQLite(ctx, path, nil)
	if err != nil {
		return err
	}
	defer storage.Close()
	worker := &pinion.Worker{
		Storage: storage,
		Logger:  slog.New(slog.DiscardHandler),
		OnEnd: func(ctx context.Context, job *pinion.Job, end pinion.End) {
			if end.Outcome == pinion.OutcomeSucceeded {
				fmt.Println("finished", job.ID)
			}
		},
	}
	return worker.Run(ctx)
}

// ---- The trial ----

func try(ctx context.Context, litestream string, rounds int) error {
	dir, err := os.MkdirTemp("", "pinion-litestream-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	if litestream == "" {
		fmt.Println("installing", command)
		install := exec.CommandContext(ctx, "go", "install", command)
		install.Env = append(os.Environ(), "GOBIN="+dir, "GOWORK=off")
		install.Dir = dir
		if out, err := install.CombinedOutput(); err != nil {
			return fmt.Errorf("go install %s: %w\n%s", command, err, out)
		}
		litestream = filepath.Join(dir, "litestream")
	}
	for i := range rounds + 1 {
		orderly := i == rounds
		r := round{dir: filepath.Join(dir, fmt.Sprint(i)), litestream: litestream}
		if err := r.run(ctx, orderly); err != nil {
			return fmt.Errorf("round %d: %w", i+1, err)
		}
		if err := r.compare(ctx, orderly); err != nil {
			return fmt.Errorf("round %d: %w", i+1, err)
		}
	}
	return nil
}

// round is one life of a queue, from its first job to the loss of its machine.
type round struct {
	dir        string
	litestream string
	ended      time.Time // when the kill began

	mu       sync.Mutex           // guards the rest
	enqueued map[string]time.Time // when each id was acknowledged
	finished map[string]time.Time
}

func (r *round) file() string     { return filepath.Join(r.dir, "jobs.db") }
func (r *round) restored() string { return filepath.Join(r.dir, "restored.db") }
func (r *round) replica() string  { return "file://" + filepath.Join(r.dir, "replica") }

// run lets the processes work for some seconds and then stops or kills them all.
func (r *round) run(ctx context.Context, orderly bool) error {
	r.enqueued = make(map[string]time.Time)
	r.finished = make(map[string]time.Time)
	if err := os.Mkdir(r.dir, 0o700); err != nil {
		return err
	}
	storage, err := pinion.OpenSQLite(ctx, r.file(), nil) // litestream wants a file to begin with
	if err != nil {
		return err
	}
	if err := storage.Close(); err != nil {
		return err
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	var users []*exec.Cmd
	for _, role := range []string{"produce", "produce", "work", "work"} {
		users = append(users, exec.CommandContext(ctx, self, "-role", role, r.file()))
	}
	replicate := exec.CommandContext(ctx, r.litestream, "replicate", "-log-level", "error", r.file(), r.replica())
	replicate.Stderr = os.Stderr

	var reading sync.WaitGroup
	for _, user := range users {
		user.Stderr = os.Stderr
		out, err := user.StdoutPipe()
		if err != nil {
			return err
		}
		reading.Go(func() { r.read(out) })
	}
	for _, cmd := range append(users, replicate) {
		if err := cmd.Start(); err != nil {
			return err
		}
	}
	lives := 5*time.Second + rand.N(5*time.Second)
	select {
	case <-time.After(lives):
	case <-ctx.Done():
	}
	r.ended = time.Now()
	if orderly {
		if err := stop(syscall.SIGTERM, users...); err != nil {
			return err
		}
		reading.Wait()
		return stop(syscall.SIGTERM, replicate)
	}
	replicate.Process.Kill()
	for _, user := range users {
		user.Process.Kill()
	}
	reading.Wait()
	for _, cmd := range append(users, replicate) {
		cmd.Wait() // it was killed
	}
	return ctx.Err()
}

// stop signals processes and waits until they have ended well.
func stop(sig os.Signal, cmds ...*exec.Cmd) error {
	for _, cmd := range cmds {
		if err := cmd.Process.Signal(sig); err != nil {
			return err
		}
	}
	var errs []error
	for _, cmd := range cmds {
		if err := cmd.Wait(); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", strings.Join(cmd.Args[:2], " "), err))
		}
	}
	return errors.Join(errs...)
}

// read notes what a process acknowledges. A last line that the kill has cut is no acknowledgement.
func (r *round) read(out io.Reader) {
	lines := bufio.NewReader(out)
	for {
		line, err := lines.ReadString('\n')
		if err != nil {
			return
		}
		what, id, _ := strings.Cut(strings.TrimSpace(line), " ")
		r.mu.Lock()
		switch what {
		case "enqueued":
			r.enqueued[id] = time.Now()
		case "finished":
			r.finished[id] = time.Now()
		}
		r.mu.Unlock()
	}
}

// compare restores the file and compares it with what was acknowledged.
func (r *round) compare(ctx context.Context, orderly bool) error {
	restore := exec.CommandContext(ctx, r.litestream, "restore", "-o", r.restored(), r.replica())
	if out, err := restore.CombinedOutput(); err != nil {
		return fmt.Errorf("litestream restore: %w\n%s", err, out)
	}
	if err := checkFile(ctx, r.restored()); err != nil {
		return err
	}
	storage, err := pinion.OpenSQLite(ctx, r.restored(), nil)
	if err != nil {
		return err
	}
	defer storage.Close()

	status := make(map[string]pinion.Status)
	for job, err := range storage.Jobs(ctx, pinion.Filter{}) {
		if err != nil {
			return err
		}
		status[job.ID] = job.Status
	}
	missing, sinceMissing := r.behind(r.enqueued, func(id string) bool { return status[id] == "" })
	again, sinceAgain := r.behind(r.finished, func(id string) bool {
		return status[id] != "" && status[id] != pinion.StatusSuccess
	})
	how := "all killed"
	if orderly {
		how = "all stopped in order"
	}
	fmt.Printf("%s: %d jobs enqueued, %d finished; the replica has %d jobs\n",
		how, len(r.enqueued), len(r.finished), len(status))
	fmt.Printf("  acknowledged and not there: %d%s\n", missing, sinceMissing)
	fmt.Printf("  finished, and will run again: %d%s\n", again, sinceAgain)
	if orderly && missing+again > 0 {
		return errors.New("an orderly stop has lost something")
	}

	// What is there must be as good as new: every job of it ends. Those that ran at the kill wait for their leases to
	// expire.
	if err := finish(ctx, storage, slices.Collect(maps.Keys(status))); err != nil {
		return err
	}
	fmt.Println("  a worker on the restored file ran all the rest")
	return nil
}

// finish runs a worker until all the jobs have succeeded.
func finish(ctx context.Context, storage pinion.Storage, ids []string) error {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	worker := &pinion.Worker{Storage: storage, Logger: slog.New(slog.DiscardHandler)}
	stopped := make(chan error, 1)
	go func() {
		stopped <- worker.Run(ctx)
		stop() // so that nobody waits for a worker that has failed
	}()
	err := allSucceed(ctx, storage, ids)
	stop()
	return errors.Join(<-stopped, err)
}

func allSucceed(ctx context.Context, storage pinion.Storage, ids []string) error {
	for _, id := range ids {
		job, err := pinion.Wait(ctx, storage, id)
		if err != nil {
			return err
		}
		if job.Status != pinion.StatusSuccess {
			return fmt.Errorf("job %s of the restored file is %s: %s", id, job.Status, job.Error)
		}
	}
	return nil
}

// behind counts the ids for which is reports true, and describes how long before the kill the first of them was
// acknowledged.
func (r *round) behind(acknowledged map[string]time.Time, is func(id string) bool) (n int, since string) {
	first := r.ended
	for id, at := range acknowledged {
		if is(id) {
			n++
			if at.Before(first) {
				first = at
			}
		}
	}
	if n == 0 {
		return 0, ""
	}
	return n, fmt.Sprintf(", the first of them %v before the kill", r.ended.Sub(first).Round(time.Millisecond))
}

// checkFile has SQLite check a file.
func checkFile(ctx context.Context, path string) error {
	db, err := sql.Open("sqlite", path)
	if err != nil {
		return err
	}
	defer db.Close()
	var verdict string
	err = db.QueryRowContext(ctx, "PRAGMA integrity_check").Scan(&verdict)
	if err == nil && verdict != "ok" {
		err = errors.New(verdict)
	}
	if err != nil {
		return fmt.Errorf("integrity check of %s: %w", path, err)
	}
	return nil
}

package pinion

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// These tests do to a SQLite file, under a worker and a producer that go on using it, what disks, people and other
// programs do. They run in bubbles: a worker that spun would not let the time there pass.

// siege is a worker and a producer on one file to which something happens.
type siege struct {
	*scene
	sqlite *SQLiteStorage
	run    *runningWorker
	calls  atomic.Int64 // of the worker to the storage

	mu     sync.Mutex        // guards the rest
	stored map[string]string // the tasks of the jobs whose Enqueue returned nil
	errs   []error           // of the other Enqueues
	ran    map[string]int    // how often each job's task began
}

// besiege has a worker and a producer work for a while before something happens, and long after. Then every job that was
// acknowledged, and no other, must have ended in SUCCESS after as many attempts as its task needs. As long as it happens
// the worker must tell of it, once a second at most.
func besiege(t *testing.T, path string, happens func(s *siege)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		s := &siege{stored: make(map[string]string), ran: make(map[string]int)}
		s.sqlite = sqliteStorage(t, path, &SQLiteOptions{PollInterval: time.Second})
		s.scene = &scene{t, s.sqlite, time.Now()}
		s.run = s.scene.run(&Worker{Storage: &calls{s.sqlite, &s.calls}, Concurrency: 16, VisibilityTimeout: 5 * time.Second},
			s.takes("quick", 200*time.Millisecond, 1), s.takes("again", 200*time.Millisecond, 2), s.takes("long", 12*time.Second, 1))
		stop := s.produce()
		s.sleep(5 * time.Second)
		happens(s)
		s.sleep(time.Minute)
		stop()
		s.sleep(time.Minute)
		s.verify()
	})
}

// takes is a task that takes a while and succeeds at its nth attempt.
func (s *siege) takes(name string, d time.Duration, n int) AnyTask {
	return s.task(name, func(ctx context.Context, job *Job) error {
		s.mu.Lock()
		s.ran[job.ID]++
		s.mu.Unlock()
		if err := sleeping(ctx, d); err != nil || job.Attempts >= n {
			return err
		}
		return errors.New("once more")
	})
}

// produce enqueues three jobs a second, each in its own time, until stop is called.
func (s *siege) produce() (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	var producers sync.WaitGroup
	producers.Go(func() {
		for i := 0; pause(ctx, 300*time.Millisecond); i++ {
			producers.Go(func() {
				s.enqueueOne([]string{"quick", "again", "quick", "quick", "quick", "quick", "quick", "long"}[i%8])
			})
		}
	})
	return func() { cancel(); producers.Wait() }
}

func (s *siege) enqueueOne(task string) {
	job := NewJob(task, strings.Repeat("x", 2000))
	err := s.sqlite.Enqueue(context.Background(), job)
	s.mu.Lock()
	defer s.mu.Unlock()
	if err != nil {
		s.errs = append(s.errs, err)
	} else {
		s.stored[job.ID] = task
	}
}

// shortenLog has the log begin again, so that it must grow at once.
func (s *siege) shortenLog() {
	s.Helper()
	otherProgram(s.T, s.sqlite.path).want("0|0|0", "PRAGMA wal_checkpoint(TRUNCATE)")
}

// during lets time pass in which every Enqueue and the worker are in trouble, and says in these words which.
func (s *siege) during(d time.Duration, words ...string) {
	s.Helper()
	s.mu.Lock()
	stored, errs := len(s.stored), len(s.errs)
	s.mu.Unlock()
	calls, lines := s.calls.Load(), len(s.run.log.lines("storage in trouble"))
	s.sleep(d)
	s.mu.Lock()
	defer s.mu.Unlock()
	if n := len(s.stored) - stored; n > 0 {
		s.Errorf("meanwhile %d jobs were stored", n)
	}
	if len(s.errs)-errs < int(d/time.Second) {
		s.Errorf("meanwhile %d errors were returned in %v, want one an Enqueue", len(s.errs)-errs, d)
	}
	for _, err := range s.errs[errs:] {
		wantError(s.T, err, append(words, "pinion: enqueue: ")...)
	}
	if n := len(s.run.log.lines("storage in trouble")) - lines; n < int(d/time.Second)*3/4 {
		s.Errorf("meanwhile the worker told of its trouble %d times in %v", n, d)
	}
	for _, said := range s.run.log.errors()[lines:] {
		wantError(s.T, said, words...)
	}
	// Sixteen slots, two claims, and what else there is, each once a second.
	if n := s.calls.Load() - calls; n > 22*int64(d/time.Second) {
		s.Errorf("meanwhile the worker called the storage %d times in %v", n, d)
	}
}

func (s *siege) verify() {
	s.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	needs := map[string]int{"quick": 1, "again": 2, "long": 1}
	for job, err := range s.sqlite.Jobs(context.Background(), Filter{}) {
		if err != nil {
			s.Fatal(err)
		}
		want := needs[s.stored[job.ID]]
		if want == 0 {
			s.Errorf("%q is there, and its Enqueue returned an error", job.Task)
		} else if job.Status != StatusSuccess || job.Attempts != want || s.ran[job.ID] != want {
			s.Errorf("%q is %s after %d attempts and %d runs; want SUCCESS after %d", job.Task, job.Status, job.Attempts, s.ran[job.ID], want)
		}
		delete(s.stored, job.ID)
	}
	for id, task := range s.stored {
		s.Errorf("%q (%s) was acknowledged and is not there", task, id)
	}
	lines := s.run.log.lines("storage in trouble")
	for i := range lines[min(len(lines), 1):] {
		if lines[i+1]-lines[i] < time.Second {
			s.Errorf("trouble was logged at %v and at %v, within a second", lines[i], lines[i+1])
		}
	}
	select {
	case <-s.run.ended:
		s.Errorf("Run has returned: %v", s.run.err)
	default:
	}
}

// errors are the "error" attributes of the records of trouble.
func (l *jobLog) errors() (errs []error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, r := range l.kept {
		r.Attrs(func(a slog.Attr) bool {
			if err, ok := a.Value.Any().(error); ok && strings.HasPrefix(r.Message, "storage in trouble") {
				errs = append(errs, err)
			}
			return true
		})
	}
	return errs
}

// calls counts the calls to a storage that end.
type calls struct {
	*SQLiteStorage
	n *atomic.Int64
}

func (c *calls) Dequeue(ctx context.Context, opts DequeueOptions) ([]*Job, error) {
	defer c.n.Add(1)
	return c.SQLiteStorage.Dequeue(ctx, opts)
}

func (c *calls) MarkDone(ctx context.Context, jobs ...*Job) ([]*Job, error) {
	defer c.n.Add(1)
	return c.SQLiteStorage.MarkDone(ctx, jobs...)
}

func (c *calls) MarkFailed(ctx context.Context, job *Job, cause error, retryAt time.Time) error {
	defer c.n.Add(1)
	return c.SQLiteStorage.MarkFailed(ctx, job, cause, retryAt)
}

func (c *calls) Heartbeat(ctx context.Context, jobs ...*Job) ([]*Job, error) {
	defer c.n.Add(1)
	return c.SQLiteStorage.Heartbeat(ctx, jobs...)
}

func (c *calls) ReapStale(ctx context.Context, visibility time.Duration) (int, error) {
	defer c.n.Add(1)
	return c.SQLiteStorage.ReapStale(ctx, visibility)
}

func (c *calls) Release(ctx context.Context, at time.Time, cause error, jobs ...*Job) (lost, canceled []*Job, err error) {
	defer c.n.Add(1)
	return c.SQLiteStorage.Release(ctx, at, cause, jobs...)
}

// inChild runs the test once more in a process of its own, of which it may then spoil what a process has one of.
func inChild(t *testing.T, change func(cmd *exec.Cmd), test func(t *testing.T)) {
	t.Helper()
	const itself = "PINION_TEST_CHILD"
	if os.Getenv(itself) == t.Name() {
		test(t)
		return
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), self, "-test.run=^"+t.Name()+"$", "-test.v", "-test.timeout=1m")
	cmd.Env = append(os.Environ(), itself+"="+t.Name())
	change(cmd)
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "--- PASS: "+t.Name()) {
		t.Fatalf("in a process of its own: %v\n%s", err, out)
	}
}

// Each fault is mended in the end, for what cannot be mended leaves nothing to test.
func TestAFileThatIsMovedAwayWhileItIsUsedIsMissedAndWorkGoesOnWhenItIsBack(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("Windows does not let an open file be moved")
	}
	for name, end := range map[string]string{"the file": "", "its log": "-wal", "its index": "-shm"} {
		for _, replaced := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, replaced: %v", name, replaced), func(t *testing.T) {
				path := filepath.Join(t.TempDir(), "q.db")
				besiege(t, path, func(s *siege) {
					rename(t, path+end, path+".aside")
					if replaced {
						if err := os.WriteFile(path+end, []byte("something else"), 0o600); err != nil {
							t.Fatal(err)
						}
					}
					s.sleep(2 * time.Second) // the log and the index are looked for once a second
					s.during(8*time.Second, "the file "+path+end+" was deleted or replaced while it was in use: put it back, or stop every program")
					if end == "" {
						_, err := s.sqlite.Size(t.Context())
						wantError(t, err, "pinion: size: the file "+path+" was deleted or replaced")
						_, err = s.sqlite.Get(t.Context(), "x")
						wantError(t, err, "pinion: get: the file "+path+" was deleted or replaced")
					}
					rename(t, path+".aside", path+end)
				})
			})
		}
	}
}

func rename(t *testing.T, from, to string) {
	t.Helper()
	if err := os.Rename(from, to); err != nil {
		t.Fatal(err)
	}
}

func TestAnIdleWorkerMissesADeletedFileWithinTwoSeconds(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("Windows does not let an open file be deleted")
	}
	for _, end := range []string{"", "-wal", "-shm"} {
		inBubble(t, nil, func(t *scene) {
			run := t.run(&Worker{})
			t.sleep(10 * time.Second)
			path := t.storage.(*SQLiteStorage).path + end
			rename(t.T, path, path+".aside")
			t.sleep(2 * time.Second)
			if lines := run.log.lines("storage in trouble"); len(lines) == 0 || lines[0] < 10*time.Second {
				t.Errorf("without %s the worker told of its trouble at %v, want it within two seconds of 10s", path, lines)
			}
			rename(t.T, path+".aside", path)
			t.sleep(2 * time.Second)
			id := t.enqueue("a")[0]
			run.worker.Registry.Add(t.task("a", func(context.Context, *Job) error { return nil }))
			t.sleep(2 * time.Second)
			if job := t.get(id); job.Status != StatusSuccess {
				t.Errorf("with %s back a job is %s", path, job.Status)
			}
		})
	}
}

func TestAWorkerWaitsForALockThatAnotherProgramHoldsForLongerThanALease(t *testing.T) {
	for _, begin := range []string{"BEGIN IMMEDIATE", "BEGIN EXCLUSIVE"} {
		besiege(t, filepath.Join(t.TempDir(), "q.db"), func(s *siege) {
			for i := range 3 { // of different lengths, so that the worker's looks and retries come in different orders
				lines := len(s.run.log.lines("storage in trouble"))
				for range 6 { // which end one by one, before the next heartbeat, and cannot be recorded
					s.enqueueOne("quick")
					s.sleep(30 * time.Millisecond)
				}
				o := otherProgram(s.T, s.sqlite.path)
				o.exec(begin)
				ctx, cancel := context.WithTimeout(s.Context(), 3*time.Second)
				err := s.sqlite.Enqueue(ctx, NewJob("quick"))
				cancel()
				wantError(s.T, err, "pinion: enqueue: another program holds the file's write lock", context.DeadlineExceeded.Error())
				s.sleep(9*time.Second + time.Duration(i)*350*time.Millisecond)
				o.exec("ROLLBACK")
				said := s.run.log.errors()[lines:]
				if len(said) == 0 {
					s.Error("the worker has not told of the lock")
				}
				for _, err := range said {
					wantError(s.T, err, "another program holds the file's write lock")
				}
				s.sleep(15 * time.Second)
			}
			if len(s.errs) > 0 {
				s.Errorf("an Enqueue that could wait has failed: %v", s.errs[0])
			}
		})
	}
}

func TestAWorkerWithNothingElseToDoTellsOfALockThatKeepsItFromADueJob(t *testing.T) {
	inBubble(t, nil, func(t *scene) {
		run := t.run(&Worker{}, t.task("a", func(context.Context, *Job) error { return nil }))
		job := &Job{Task: "a", RunAt: t.start.Add(10 * time.Second)}
		mustEnqueue(t.T, t.storage, job)
		t.sleep(time.Second)
		o := otherProgram(t.T, t.storage.(*SQLiteStorage).path)
		release := o.lock()
		t.sleep(20 * time.Second)
		lines := run.log.lines("storage in trouble")
		if len(lines) == 0 || lines[0] < 14*time.Second || lines[0] > 18*time.Second {
			t.Errorf("the worker told of the lock at %v; want it from about five seconds after 10s on", lines)
		}
		for _, err := range run.log.errors() {
			wantError(t.T, err, "another program holds the file's write lock")
		}
		release()
		t.sleep(2 * time.Second)
		if got := t.get(job.ID); got.Status != StatusSuccess || got.Attempts != 1 {
			t.Errorf("after that the job is %s after %d attempts", got.Status, got.Attempts)
		}
	})
}

// scribble writes over every page of a file but the first, keeping a copy, and mend undoes that. It is done by another
// process: this one would lose the locks that SQLite holds if it closed the file.
func scribble(t *testing.T, path string) (mend func()) {
	t.Helper()
	run := func(verb string) {
		start, end := process(t, verb, path)
		start()
		end()
	}
	run("scribble")
	return func() { run("mend") }
}

func init() {
	processes["scribble"] = func(_ context.Context, path string) error {
		sound, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		damaged := append([]byte(nil), sound...)
		for i := 4096; i < len(damaged); i++ {
			damaged[i] = byte(i * 7)
		}
		return errors.Join(os.WriteFile(path+".copy", sound, 0o600), os.WriteFile(path, damaged, 0o600))
	}
	processes["die"] = func(ctx context.Context, path string) error {
		s, err := OpenSQLite(ctx, path, nil)
		if err != nil {
			return err
		}
		return s.Enqueue(ctx, NewJob("lost")) // the process ends without Close
	}
	processes["mend"] = func(_ context.Context, path string) error {
		sound, err := os.ReadFile(path + ".copy")
		return errors.Join(err, os.WriteFile(path, sound, 0o600))
	}
}

func TestADamagedFileIsCalledSoAndWorkGoesOnWhenItIsRestored(t *testing.T) {
	besiege(t, filepath.Join(t.TempDir(), "q.db"), func(s *siege) {
		forget := func() { // what is written by another program makes the storage read its pages again
			otherProgram(s.T, s.sqlite.path).exec("PRAGMA user_version=1")
		}
		s.shortenLog()
		mend := scribble(s.T, s.sqlite.path)
		forget()
		s.sleep(time.Second)
		s.during(10*time.Second, "the file is damaged; stop every program that uses it and restore a backup")
		mend()
		forget()
	})
}

// Whatever page is damaged, in whatever way: there is an answer, and no panic, no hang and no spinning.
func TestAWorkerOutlivesEveryDamagedPage(t *testing.T) {
	sound := func() []byte {
		path := filepath.Join(t.TempDir(), "q.db")
		s, err := OpenSQLite(t.Context(), path, nil)
		if err != nil {
			t.Fatal(err)
		}
		var jobs []*Job
		for i := range 40 {
			jobs = append(jobs, &Job{Task: "quick", Args: []any{strings.Repeat("x", 300)}, Key: NewID(), RunAt: time.Now().Add(time.Duration(i%3-1) * time.Second)})
		}
		mustEnqueue(t, s, jobs...)
		for _, job := range dueNow(t, s, 5) {
			if err := s.DeadLetter(t.Context(), job, errors.New("x")); err != nil {
				t.Fatal(err)
			}
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		return []byte(folder(t, filepath.Dir(path))["q.db"])
	}()
	seed := rand.Uint64()
	t.Logf("the seed is %d; there are %d pages", seed, len(sound)/4096)
	random := rand.New(rand.NewPCG(seed, 0))
	for page := range len(sound) / 4096 {
		for _, bytes := range []int{1, 10, 4096} { // in a header all is meaning, elsewhere not
			damaged := slices.Clone(sound)
			for range bytes {
				damaged[page*4096+random.IntN(min(4096, 10*bytes))] = byte(random.Uint32())
			}
			path := filepath.Join(t.TempDir(), "q.db")
			if err := os.WriteFile(path, damaged, 0o600); err != nil {
				t.Fatal(err)
			}
			synctest.Test(t, func(t *testing.T) {
				s, err := OpenSQLite(t.Context(), path, &SQLiteOptions{PollInterval: time.Second})
				if err != nil {
					wantError(t, err, "pinion: open "+path+": ")
					return
				}
				defer s.Close() // its error may be the damage
				sc := &scene{t, s, time.Now()}
				var n atomic.Int64
				run := sc.run(&Worker{Storage: &calls{s, &n}}, sc.task("quick", func(context.Context, *Job) error { return nil }))
				sc.sleep(30 * time.Second)
				s.Enqueue(t.Context(), NewJob("quick"))
				sc.sleep(10 * time.Second)
				run.stop()
				run.wait()
				seconds := int64(run.at / time.Second)
				if seconds < 40 || n.Load() > 22*seconds || int64(len(run.log.lines("storage in trouble"))) > seconds+1 {
					t.Errorf("page %d, %d bytes: Run returned %v after %v, %d calls and %d lines of trouble", page, bytes, run.err, run.at,
						n.Load(), len(run.log.lines("storage in trouble")))
				}
			})
		}
	}
}

// A process that was killed leaves the -wal behind. What it holds is lost with it, and nothing else.
func TestAFileWhoseLogWasRemovedAfterACrashOpensAsItLastWasWithoutIt(t *testing.T) {
	path := filepath.Join(t.TempDir(), "q.db")
	s, err := OpenSQLite(t.Context(), path, nil)
	if err != nil {
		t.Fatal(err)
	}
	mustEnqueue(t, s, NewJob("kept"))
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	start, end := process(t, "die", path)
	start()
	end()
	for _, end := range []string{"-wal", "-shm"} {
		if err := os.Remove(path + end); err != nil {
			t.Fatalf("the process has left no %s, so this test shows nothing: %v", end, err)
		}
	}
	s = sqliteStorage(t, path, nil)
	mustEnqueue(t, s, NewJob("new"))
	if got := tasksOf(dueNow(t, s, 9)); got != "kept new" {
		t.Errorf("there is %q to do; want what was there before the crash, and what is new", got)
	}
}

// Closing a file whose name another file has now must leave that file's log alone.
func TestClosingAFileThatWasReplacedDoesNoHarmToTheNewOne(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("Windows does not let an open file be moved")
	}
	path := filepath.Join(t.TempDir(), "q.db")
	old, err := OpenSQLite(t.Context(), path, nil)
	if err != nil {
		t.Fatal(err)
	}
	mustEnqueue(t, old, NewJob("old"))
	for _, end := range []string{"", "-wal", "-shm"} {
		rename(t, path+end, path+".aside"+end)
	}
	s := sqliteStorage(t, path, nil)
	mustEnqueue(t, s, NewJob("a"))
	wantError(t, old.Enqueue(t.Context(), NewJob("b")), "was deleted or replaced while it was in use")
	tx, err := otherProgram(t, path).db.Begin()
	if err != nil {
		t.Fatal(err)
	}
	wantError(t, old.Tx(tx).Enqueue(t.Context(), NewJob("b")), "was deleted or replaced while it was in use")
	if err := tx.Rollback(); err != nil {
		t.Fatal(err)
	}
	for job, err := range old.Jobs(t.Context(), Filter{}) {
		wantError(t, err, "pinion: list: the file "+path+" was deleted or replaced")
		if job != nil {
			t.Errorf("it lists %s", job.Task)
		}
	}
	if err := old.Close(); err != nil {
		t.Error(err)
	}
	mustEnqueue(t, s, NewJob("b"))
	otherProgram(t, path).want("a\nb", "SELECT func_name FROM jobs")
	again := sqliteStorage(t, path+".aside", nil)
	if got := tasksOf(dueNow(t, again, 9)); got != "old" {
		t.Errorf("in the file that was moved away there is %q to do", got)
	}
}

func TestTenThousandGoroutinesEnqueueAtOnce(t *testing.T) {
	const n = 10_000
	overStorages(t, func(t *scene) {
		var ran [n]atomic.Int64
		run := t.run(&Worker{}, Task[int]{Name: "a", Run: func(_ context.Context, i int) error { ran[i].Add(1); return nil }})
		begin := make(chan struct{})
		var producers sync.WaitGroup
		for i := range n {
			producers.Go(func() {
				<-begin
				if err := t.storage.Enqueue(context.Background(), NewJob("a", i)); err != nil {
					t.Error(err)
				}
			})
		}
		t.sleep(time.Second) // all of them wait
		close(begin)
		producers.Wait()
		t.sleep(time.Minute)
		for i := range ran {
			if times := ran[i].Load(); times != 1 {
				t.Errorf("job %d ran %d times", i, times)
			}
		}
		if m := run.metrics(); m.Succeeded != n {
			t.Errorf("%d succeeded, want %d", m.Succeeded, n)
		}
	})
}

// A dead worker's heartbeat from before the clock was set back lies in the future. Its job must not wait until then.
func TestALeaseFromBeforeTheClockWasSetBackIsLostToo(t *testing.T) {
	s, path := newSQLite(t)
	mustEnqueue(t, s, NewJob("dead"), NewJob("alive"), NewJob("young"))
	jobs := mustDequeue(t, s, 3)
	o := otherProgram(t, path)
	o.exec("UPDATE jobs SET heartbeat_at=heartbeat_at+3600 WHERE func_name<>'young'")
	o.exec("UPDATE jobs SET heartbeat_at=heartbeat_at+5 WHERE func_name='young'")
	if lost, err := s.Heartbeat(t.Context(), jobs[1]); len(lost) > 0 || err != nil {
		t.Fatal(lost, err)
	}
	if n, err := s.ReapStale(t.Context(), 10*time.Second); n != 1 || err != nil {
		t.Errorf("ReapStale: %d, %v; want the dead one's", n, err)
	}
	if got := tasksOf(dueNow(t, s, 9)); got != "dead" {
		t.Errorf("there is %q to do", got)
	}
}

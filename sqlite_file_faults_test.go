package pinion

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
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

// Each fault is mended in the end, for what cannot be mended leaves nothing to test.
func TestAFileThatIsMovedAwayWhileItIsUsedIsMissedAndWorkGoesOnWhenItIsBack(t *testing.T) {
	t.Parallel()
	if runtime.GOOS == "windows" {
		t.Skip("Windows does not let an open file be moved")
	}
	for name, end := range map[string]string{"the file": "", "its log": "-wal", "its index": "-shm"} {
		for _, replaced := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, replaced: %v", name, replaced), func(t *testing.T) {
				t.Parallel()
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

func TestAnIdleWorkerMissesADeletedFileWithinTwoSeconds(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("Windows does not let an open file be deleted")
	}
	for _, end := range []string{"", "-wal", "-shm"} {
		inBubble(t, nil, func(t *scene) {
			run := t.run(&Worker{}, t.task("a", func(context.Context, *Job) error { return nil }))
			t.sleep(10 * time.Second)
			path := t.storage.(*SQLiteStorage).path + end
			rename(t.T, path, path+".aside")
			t.sleep(2 * time.Second)
			if lines := run.log.lines("storage in trouble"); len(lines) == 0 || lines[0] < 10*time.Second {
				t.Errorf("without %s the worker told of its trouble at %v, want it within two seconds of 10s",
					path, lines)
			}
			rename(t.T, path+".aside", path)
			t.sleep(2 * time.Second)
			id := t.enqueue("a")[0]
			t.sleep(2 * time.Second)
			if job := t.get(id); job.Status != StatusSuccess {
				t.Errorf("with %s back a job is %s", path, job.Status)
			}
		})
	}
}

func TestAWorkerWaitsForALockThatAnotherProgramHoldsForLongerThanALease(t *testing.T) {
	t.Parallel()
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
				wantError(s.T, err, "pinion: enqueue: another program holds the file's write lock", "a transaction of this program",
					context.DeadlineExceeded.Error())
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
			for _, err := range s.errs {
				if !errors.Is(err, ErrBusy) { // after ten seconds
					s.Errorf("an Enqueue that could wait has failed: %v", err)
				}
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

func TestADamagedFileIsCalledSoAndWorkGoesOnWhenItIsRestored(t *testing.T) {
	t.Parallel()
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
	t.Parallel()
	sound := func() []byte {
		path := filepath.Join(t.TempDir(), "q.db")
		s, err := OpenSQLite(t.Context(), path, nil)
		if err != nil {
			t.Fatal(err)
		}
		var jobs []*Job
		for i := range 40 {
			jobs = append(jobs, &Job{
				Task:  "quick",
				Args:  []any{strings.Repeat("x", 300)},
				Key:   NewID(),
				RunAt: time.Now().Add(time.Duration(i%3-1) * time.Second),
			})
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
				s, err := OpenSQLite(t.Context(), path,
					&SQLiteOptions{PollInterval: time.Second, Synchronous: "NORMAL"})
				if err != nil {
					wantError(t, err, "pinion: open "+path+": ")
					return
				}
				defer s.Close() // its error may be the damage
				sc := &scene{t, s, time.Now()}
				var n atomic.Int64
				run := sc.run(&Worker{Storage: &calls{s, &n}},
					sc.task("quick", func(context.Context, *Job) error { return nil }))
				sc.sleep(30 * time.Second)
				s.Enqueue(t.Context(), NewJob("quick"))
				sc.sleep(10 * time.Second)
				run.stop()
				run.wait()
				seconds := int64(run.at / time.Second)
				if seconds < 40 || n.Load() > 22*seconds ||
					int64(len(run.log.lines("storage in trouble"))) > seconds+1 {
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
	t.Parallel()
	const n = 10_000
	overStorages(t, func(t *scene) {
		var ran [n]atomic.Int64
		run := t.run(&Worker{},
			Task[int]{Name: "a", Run: func(_ context.Context, i int) error { ran[i].Add(1); return nil }})
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
	synctest.Test(t, func(t *testing.T) {
		s, path := newSQLite(t)
		mustEnqueue(t, s, NewJob("dead"), NewJob("alive"), NewJob("young"))
		const lease = 10 * time.Second
		jobs, err := s.Dequeue(t.Context(), DequeueOptions{Max: 3, Lease: lease})
		if err != nil || len(jobs) != 3 {
			t.Fatal(len(jobs), err)
		}
		o := otherProgram(t, path)
		o.exec("UPDATE jobs SET lease=3600 WHERE func_name<>'dead'")
		o.exec("UPDATE jobs SET heartbeat_at=heartbeat_at+7200 WHERE func_name<>'young'")
		o.exec("UPDATE jobs SET heartbeat_at=heartbeat_at+5 WHERE func_name='young'")
		if lost, err := s.Heartbeat(t.Context(), jobs[1]); len(lost) > 0 || err != nil {
			t.Fatal(lost, err)
		}
		reap(t, s, lease, 1)
		if got := tasksOf(dueNow(t, s, 9)); got != "dead" {
			t.Errorf("there is %q to do", got)
		}
	})
}

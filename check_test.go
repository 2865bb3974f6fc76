package pinion

import (
	"context"
	"errors"
	"go/ast"
	"go/parser"
	"go/token"
	"go/types"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

func TestEveryStorageMeansTheSame(t *testing.T) {
	for _, storage := range []struct {
		name string
		open func() (Storage, error)
	}{
		{"memory", func() (Storage, error) { return NewMemoryStorage(), nil }},
		{"sqlite", func() (Storage, error) {
			return OpenSQLite(t.Context(), filepath.Join(t.TempDir(), "jobs.db"), nil)
		}},
		{"sqlite that polls", func() (Storage, error) {
			path := filepath.Join(t.TempDir(), "jobs.db")
			return OpenSQLite(t.Context(), path, &SQLiteOptions{PollInterval: time.Millisecond})
		}},
	} {
		t.Run(storage.name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			if err := CheckStorage(ctx, storage.open); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestCheckStorageAcceptsAStorageWithoutOptionalInterfaces(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	open := func() (Storage, error) { return neverAhead{plain{NewMemoryStorage()}}, nil }
	if err := CheckStorage(ctx, open); err != nil {
		t.Error(err)
	}
}

func TestCheckStorageReturnsTheErrorOfOpen(t *testing.T) {
	broken := errors.New("broken")
	err := CheckStorage(t.Context(), func() (Storage, error) { return nil, broken })
	if !errors.Is(err, broken) {
		t.Errorf("got %v, want %v", err, broken)
	}
}

func TestCheckStorageReportsThatItsContextHasEnded(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	err := CheckStorage(ctx, func() (Storage, error) { return NewMemoryStorage(), nil })
	if !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want %v", err, context.Canceled)
	}
}

// So an author of a storage could write CheckStorage in another package.
func TestCheckStorageUsesOnlyPublicNamesOfThePackage(t *testing.T) {
	fset := token.NewFileSet()
	names, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	var files []*ast.File
	var check *ast.File
	for _, name := range names {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		file, err := parser.ParseFile(fset, name, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		files = append(files, file)
		if name == "check.go" {
			check = file
		}
	}
	// Imports are not resolved, which gives errors that do not matter here.
	info := &types.Info{Uses: make(map[*ast.Ident]types.Object)}
	config := types.Config{Error: func(error) {}, Importer: noImports{}}
	pkg, _ := config.Check("pinion", fset, files, info)
	public := 0
	ast.Inspect(check, func(n ast.Node) bool {
		ident, ok := n.(*ast.Ident)
		if !ok {
			return true
		}
		used := info.Uses[ident]
		if used == nil || used.Pkg() != pkg || fset.Position(used.Pos()).Filename == "check.go" {
			return true
		}
		if used.Exported() {
			public++
		} else {
			t.Errorf("%v uses %s", fset.Position(ident.Pos()), ident.Name)
		}
		return true
	})
	if public == 0 {
		t.Error("no use of a public name found; the test looks at the wrong file")
	}
}

// noImports is an importer that finds no package.
type noImports struct{}

func (noImports) Import(string) (*types.Package, error) { return nil, errors.New("not imported") }

// The rules are tens of kilobytes.
func TestAProgramThatDoesNotCallCheckStorageDoesNotLinkTheRules(t *testing.T) {
	dir, err := os.MkdirTemp("internal", "linked") // inside the module, so that the program finds this package
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	for _, program := range []struct {
		name  string
		calls string
		want  bool
	}{
		{"without", "var _ = pinion.NewMemoryStorage\n\nfunc main() { pinion.NewMemoryStorage().Close() }", false},
		{"with", "func main() { pinion.CheckStorage(nil, nil) }", true},
	} {
		source := "package main\n\nimport \"github.com/pinion-queue/pinion\"\n\n" + program.calls + "\n"
		file := filepath.Join(dir, program.name+".go")
		if err := os.WriteFile(file, []byte(source), 0o644); err != nil {
			t.Fatal(err)
		}
		binary := filepath.Join(t.TempDir(), program.name)
		build := exec.CommandContext(t.Context(), "go", "build", "-o", binary, "./"+file)
		if out, err := build.CombinedOutput(); err != nil {
			t.Fatalf("%v: %v\n%s", build, err, out)
		}
		linked, err := os.ReadFile(binary)
		if err != nil {
			t.Fatal(err)
		}
		rule := storageRules()[0].rule
		if got := strings.Contains(string(linked), rule); got != program.want {
			t.Errorf("the program %s a call of CheckStorage contains the rule %q: %v, want %v",
				program.name, rule, got, program.want)
		}
	}
}

// ---- Mutants ----

func TestCheckStorageFindsEachMutant(t *testing.T) {
	faults := slices.Concat(orderFaults(), claimFaults(), fencingFaults(), cancelFaults(), inspectFaults())
	for _, fault := range faults {
		t.Run(fault.name, func(t *testing.T) {
			t.Parallel()
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			open := func() (Storage, error) {
				m := &mutant{MemoryStorage: NewMemoryStorage()}
				fault.make(m)
				return m, nil
			}
			// A slow machine may be too late to see a wrong time, so each mutant gets several tries.
			for range 5 {
				err := CheckStorage(ctx, open)
				if err == nil {
					continue
				}
				if !strings.Contains(err.Error(), fault.rule) {
					t.Errorf("CheckStorage reports another rule than %q:\n%v", fault.rule, err)
				}
				return
			}
			t.Error("CheckStorage returns nil")
		})
	}
}

func TestCheckStorageFindsALostWakeUpAtItsDeadline(t *testing.T) {
	ctx, deadline := context.WithCancel(t.Context())
	defer deadline()
	err := CheckStorage(ctx, func() (Storage, error) {
		m := &mutant{MemoryStorage: NewMemoryStorage()}
		// This Dequeue looks once and then waits for ctx alone. The deadline passes at once, to save time.
		m.dequeue = func(ctx context.Context, opts DequeueOptions) ([]*Job, error) {
			wait := !opts.NoWait
			opts.NoWait = true
			jobs, err := m.MemoryStorage.Dequeue(ctx, opts)
			if wait && len(jobs) == 0 && err == nil {
				deadline()
				<-ctx.Done()
				return nil, ctx.Err()
			}
			return jobs, err
		}
		return m, nil
	})
	if err == nil || !strings.Contains(err.Error(), "returns as soon as a job is due") {
		t.Errorf("CheckStorage reports no lost wake-up: %v", err)
	}
}

// fault is one way in which a storage can be wrong. To add one, add it to a list below: replace a verb of m
// by one that calls the right one, m.MemoryStorage, and spoils what goes in or what comes out.
type fault struct {
	name string // what is wrong
	rule string // part of the rule that CheckStorage must report
	make func(m *mutant)
}

func orderFaults() []fault {
	return []fault{
		{"claims in the reverse order", "in the order of priority", func(m *mutant) {
			m.dequeue = func(ctx context.Context, opts DequeueOptions) ([]*Job, error) {
				jobs, err := m.MemoryStorage.Dequeue(ctx, opts)
				slices.Reverse(jobs)
				return jobs, err
			}
		}},
		{"claims from one queue only", "as if they were one", func(m *mutant) {
			m.dequeue = func(ctx context.Context, opts DequeueOptions) ([]*Job, error) {
				if n := len(opts.Queues); n > 1 {
					opts.Queues = opts.Queues[n-1:]
				}
				return m.MemoryStorage.Dequeue(ctx, opts)
			}
		}},
		{"stores half a batch", "all its jobs or none", func(m *mutant) {
			m.enqueue = func(ctx context.Context, jobs []*Job) error {
				for _, job := range jobs {
					if err := m.MemoryStorage.Enqueue(ctx, job); err != nil {
						return err
					}
				}
				return nil
			}
		}},
		{"ignores keys", "holds its Key", func(m *mutant) {
			m.enqueue = func(ctx context.Context, jobs []*Job) error {
				for _, job := range jobs {
					key := job.Key
					job.Key = ""
					defer func() { job.Key = key }()
				}
				return m.MemoryStorage.Enqueue(ctx, jobs...)
			}
		}},
		{"shares arguments with the caller", "arguments are encoded at Enqueue", func(m *mutant) {
			var given sync.Map // the callers' jobs, by ID
			m.enqueue = func(ctx context.Context, jobs []*Job) error {
				err := m.MemoryStorage.Enqueue(ctx, jobs...)
				for _, job := range jobs {
					given.Store(job.ID, job)
				}
				return err
			}
			m.changeClaims(func(_ *record, job *Job) {
				if original, ok := given.Load(job.ID); ok {
					args, kwargs, _ := original.(*Job).EncodeArgs()
					job.DecodeArgs(args, kwargs)
				}
			})
		}},
		{"keeps nanoseconds", "whole microseconds", func(m *mutant) {
			m.changeClaims(func(_ *record, job *Job) { job.HeartbeatAt = job.HeartbeatAt.Add(time.Nanosecond) })
		}},
		{"ignores due times", "before its due time", func(m *mutant) {
			m.enqueue = func(ctx context.Context, jobs []*Job) error {
				for _, job := range jobs {
					job.RunAt = time.Time{}
				}
				return m.MemoryStorage.Enqueue(ctx, jobs...)
			}
		}},
		{"ignores the due times of retries", "before its due time", func(m *mutant) {
			m.markFailed = func(ctx context.Context, job *Job, cause error, _ time.Time) error {
				return m.MemoryStorage.MarkFailed(ctx, job, cause, time.Time{})
			}
		}},
	}
}

func claimFaults() []fault {
	return []fault{
		{"claims under a ctx that has ended", "a ctx that has ended", func(m *mutant) {
			m.dequeue = func(ctx context.Context, opts DequeueOptions) ([]*Job, error) {
				if ctx.Err() != nil {
					ctx = context.WithoutCancel(ctx)
					opts.NoWait = true
				}
				return m.MemoryStorage.Dequeue(ctx, opts)
			}
		}},
		{"does not count attempts", "counts an attempt", func(m *mutant) {
			m.changeClaims(func(rec *record, job *Job) {
				rec.job.Attempts = 1
				job.Attempts = 1
			})
		}},
		{"uses a Claim again", "larger Claim", func(m *mutant) {
			m.changeClaims(func(rec *record, job *Job) {
				rec.job.Claim = 1
				job.Claim = 1
			})
		}},
		{"ignores the name of the worker", "the name of its worker", func(m *mutant) {
			m.dequeue = func(ctx context.Context, opts DequeueOptions) ([]*Job, error) {
				opts.Worker = ""
				return m.MemoryStorage.Dequeue(ctx, opts)
			}
		}},
		{"claims everything ahead", "ahead of free slots", func(m *mutant) {
			m.dequeue = func(ctx context.Context, opts DequeueOptions) ([]*Job, error) {
				if opts.Ahead == opts.Max {
					opts.NoWait = true
				}
				opts.Ahead = 0
				return m.MemoryStorage.Dequeue(ctx, opts)
			}
		}},
		{"gives a job to two callers now and then", "none twice", func(m *mutant) {
			m.dequeue = func(ctx context.Context, opts DequeueOptions) ([]*Job, error) {
				jobs, err := m.MemoryStorage.Dequeue(ctx, opts)
				if len(jobs) == 7 {
					m.Release(context.WithoutCancel(ctx), time.Time{}, nil, jobs[6])
				}
				return jobs, err
			}
		}},
		{"reaps living jobs", "and no others", func(m *mutant) {
			m.reapStale = func(ctx context.Context, _ time.Duration) (int, error) {
				return m.MemoryStorage.ReapStale(ctx, -time.Hour)
			}
		}},
		{"makes all reaped jobs due at once", "within Attempts × visibility", func(m *mutant) {
			m.reapStale = func(ctx context.Context, visibility time.Duration) (int, error) {
				m.changeRunning(func(rec *record) { rec.reaped = 0 })
				return m.MemoryStorage.ReapStale(ctx, visibility)
			}
		}},
		{"keeps the attempt of a released job", "refunds the attempt", func(m *mutant) {
			m.release = func(
				ctx context.Context, at time.Time, cause error, jobs []*Job,
			) (lost, canceled []*Job, err error) {
				lost, canceled, err = m.MemoryStorage.Release(ctx, at, cause, jobs...)
				for _, job := range jobs {
					if err == nil && !slices.Contains(lost, job) && !slices.Contains(canceled, job) {
						m.change(job.ID, func(rec *record) { rec.job.Attempts++ })
					}
				}
				return lost, canceled, err
			}
		}},
		{"answers after Close", "after Close", func(m *mutant) {
			m.size = func(ctx context.Context) (int, error) {
				n, err := m.MemoryStorage.Size(ctx)
				if errors.Is(err, ErrClosed) {
					return 0, nil
				}
				return n, err
			}
		}},
	}
}

func fencingFaults() []fault {
	return []fault{
		{"does not fence MarkDone", "a lost claim", func(m *mutant) {
			m.markDone = func(ctx context.Context, jobs []*Job) ([]*Job, error) {
				return m.MemoryStorage.MarkDone(ctx, m.current(jobs)...)
			}
		}},
		{"does not fence DeadLetter", "a lost claim", func(m *mutant) {
			m.deadLetter = func(ctx context.Context, job *Job, cause error) error {
				return m.MemoryStorage.DeadLetter(ctx, m.current([]*Job{job})[0], cause)
			}
		}},
		{"does not fence Heartbeat", "a lost claim", func(m *mutant) {
			m.heartbeat = func(ctx context.Context, jobs []*Job) ([]*Job, error) {
				return m.MemoryStorage.Heartbeat(ctx, m.current(jobs)...)
			}
		}},
		{"fails a batch for one lost job", "does not fail its batch", func(m *mutant) {
			m.markDone = func(ctx context.Context, jobs []*Job) ([]*Job, error) {
				lost, err := m.Heartbeat(ctx, jobs...)
				if len(lost) > 0 || err != nil {
					return lost, err
				}
				return m.MemoryStorage.MarkDone(ctx, jobs...)
			}
		}},
	}
}

func cancelFaults() []fault {
	return []fault{
		{"makes a dead letter of a canceled job", "without a dead letter", func(m *mutant) {
			m.cancel = func(ctx context.Context, ids []string) (ended, asked []string, err error) {
				ended, asked, err = m.MemoryStorage.Cancel(ctx, ids...)
				for _, id := range ended {
					m.change(id, m.buryLocked)
				}
				return ended, asked, err
			}
		}},
		{"keeps the Key of a canceled job", "Cancel ends a PENDING job", func(m *mutant) {
			m.cancel = func(ctx context.Context, ids []string) (ended, asked []string, err error) {
				ended, asked, err = m.MemoryStorage.Cancel(ctx, ids...)
				for _, id := range ended {
					m.change(id, func(rec *record) { m.takeKeyLocked(rec) })
				}
				return ended, asked, err
			}
		}},
		{"refuses the success of a canceled job", "MarkDone of a job that was canceled", func(m *mutant) {
			m.markDone = func(ctx context.Context, jobs []*Job) (lost []*Job, err error) {
				canceled, err := m.Canceled(ctx, jobs...)
				if len(canceled) > 0 || err != nil {
					return canceled, err
				}
				return m.MemoryStorage.MarkDone(ctx, jobs...)
			}
		}},
		{"retries a canceled job", "ends with its claim", func(m *mutant) {
			m.markFailed = func(ctx context.Context, job *Job, cause error, retryAt time.Time) error {
				m.changeRunning(func(rec *record) { rec.job.Canceled = false })
				return m.MemoryStorage.MarkFailed(ctx, job, cause, retryAt)
			}
		}},
		{"runs a canceled job again after its lease is lost", "ends with its claim", func(m *mutant) {
			m.reapStale = func(ctx context.Context, visibility time.Duration) (int, error) {
				m.changeRunning(func(rec *record) { rec.job.Canceled = false })
				return m.MemoryStorage.ReapStale(ctx, visibility)
			}
		}},
		{"does not report that a failed job was canceled", "ends with its claim", func(m *mutant) {
			m.markFailed = func(ctx context.Context, job *Job, cause error, retryAt time.Time) error {
				err := m.MemoryStorage.MarkFailed(ctx, job, cause, retryAt)
				if errors.Is(err, ErrCanceled) {
					return nil
				}
				return err
			}
		}},
		{"does not fence Canceled", "Canceled returns", func(m *mutant) {
			m.canceled = func(ctx context.Context, jobs []*Job) ([]*Job, error) {
				return m.MemoryStorage.Canceled(ctx, m.current(jobs)...)
			}
		}},
		{"returns all jobs as canceled if one is", "Canceled returns", func(m *mutant) {
			m.canceled = func(ctx context.Context, jobs []*Job) ([]*Job, error) {
				canceled, err := m.MemoryStorage.Canceled(ctx, jobs...)
				if len(canceled) > 0 {
					return jobs, err
				}
				return canceled, err
			}
		}},
	}
}

func inspectFaults() []fault {
	return []fault{
		{"forgets results", "every step of its life", func(m *mutant) {
			m.markDone = func(ctx context.Context, jobs []*Job) ([]*Job, error) {
				for _, job := range jobs {
					job.Result = nil
				}
				return m.MemoryStorage.MarkDone(ctx, jobs...)
			}
		}},
		{"writes no dead letter", "a dead letter keeps the job", func(m *mutant) {
			m.deadLetter = func(ctx context.Context, job *Job, cause error) error {
				if err := m.MemoryStorage.DeadLetter(ctx, job, cause); err != nil {
					return err
				}
				_, err := m.Purge(ctx, Filter{IDs: []string{job.ID}})
				return err
			}
		}},
		{"counts an attempt that was not run", "a dead letter keeps the job", func(m *mutant) {
			m.deadLetter = func(ctx context.Context, job *Job, cause error) error {
				return m.MemoryStorage.DeadLetter(ctx, job, errors.New(cause.Error()))
			}
		}},
		{"replays with old attempts", "with no attempts", func(m *mutant) {
			m.replay = func(ctx context.Context, f Filter) (int, error) {
				dead := m.deadIDs()
				n, err := m.MemoryStorage.Replay(ctx, f)
				for _, id := range dead {
					m.change(id, func(rec *record) { rec.job.Attempts = 2 })
				}
				return n, err
			}
		}},
		{"replays a job whose Key is taken", "whose Key is taken", func(m *mutant) {
			m.replay = func(ctx context.Context, f Filter) (int, error) {
				for _, id := range m.deadIDs() {
					m.change(id, func(rec *record) { delete(m.holders, rec.job.Key) })
				}
				return m.MemoryStorage.Replay(ctx, f)
			}
		}},
		{"counts all tasks as one", "by queue and by task", func(m *mutant) {
			m.stats = func(ctx context.Context) (Stats, error) {
				stats, err := m.MemoryStorage.Stats(ctx)
				if len(stats.Tasks) > 1 {
					stats.Tasks = []TaskStats{{stats.Tasks[0].Task, stats.Total}}
				}
				return stats, err
			}
		}},
		{"prunes dead letters", "and no dead letters", func(m *mutant) {
			m.prune = func(ctx context.Context, before time.Time) (int, error) {
				if _, err := m.Purge(ctx, Filter{}); err != nil {
					return 0, err
				}
				return m.MemoryStorage.Prune(ctx, before)
			}
		}},
	}
}

// mutant is a MemoryStorage in which some verbs are replaced, those whose function is set.
type mutant struct {
	*MemoryStorage
	enqueue    func(ctx context.Context, jobs []*Job) error
	dequeue    func(ctx context.Context, opts DequeueOptions) ([]*Job, error)
	markDone   func(ctx context.Context, jobs []*Job) (lost []*Job, err error)
	markFailed func(ctx context.Context, job *Job, cause error, retryAt time.Time) error
	deadLetter func(ctx context.Context, job *Job, cause error) error
	release    func(ctx context.Context, at time.Time, cause error, jobs []*Job) (lost, canceled []*Job, err error)
	heartbeat  func(ctx context.Context, jobs []*Job) (lost []*Job, err error)
	reapStale  func(ctx context.Context, visibility time.Duration) (int, error)
	size       func(ctx context.Context) (int, error)
	cancel     func(ctx context.Context, ids []string) (ended, asked []string, err error)
	canceled   func(ctx context.Context, jobs []*Job) ([]*Job, error)
	stats      func(ctx context.Context) (Stats, error)
	replay     func(ctx context.Context, f Filter) (int, error)
	prune      func(ctx context.Context, before time.Time) (int, error)
}

// change changes a stored job under the lock.
func (m *mutant) change(id string, change func(*record)) {
	m.mu.Lock()
	defer m.mu.Unlock()
	change(m.jobs[id])
}

// changeRunning changes all RUNNING jobs under the lock.
func (m *mutant) changeRunning(change func(*record)) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, rec := range m.running {
		change(rec)
	}
}

// changeClaims replaces Dequeue by one that changes each claimed job, as it is stored and as it is returned.
func (m *mutant) changeClaims(change func(*record, *Job)) {
	m.dequeue = func(ctx context.Context, opts DequeueOptions) ([]*Job, error) {
		jobs, err := m.MemoryStorage.Dequeue(ctx, opts)
		for _, job := range jobs {
			m.change(job.ID, func(rec *record) { change(rec, job) })
		}
		return jobs, err
	}
}

// current returns copies of jobs under the claims that are the right ones now, so that nothing is fenced.
func (m *mutant) current(jobs []*Job) []*Job {
	m.mu.Lock()
	defer m.mu.Unlock()
	var current []*Job
	for _, job := range jobs {
		c := *job
		if rec := m.jobs[job.ID]; rec != nil {
			c.Claim = rec.job.Claim
			c.Attempts = rec.job.Attempts
		}
		current = append(current, &c)
	}
	return current
}

// deadIDs returns the ids of all dead letters.
func (m *mutant) deadIDs() []string {
	var ids []string
	for job := range m.DeadLetters(context.Background(), Filter{}) {
		ids = append(ids, job.ID)
	}
	return ids
}

func (m *mutant) Enqueue(ctx context.Context, jobs ...*Job) error {
	if m.enqueue != nil {
		return m.enqueue(ctx, jobs)
	}
	return m.MemoryStorage.Enqueue(ctx, jobs...)
}

func (m *mutant) Dequeue(ctx context.Context, opts DequeueOptions) ([]*Job, error) {
	if m.dequeue != nil {
		return m.dequeue(ctx, opts)
	}
	return m.MemoryStorage.Dequeue(ctx, opts)
}

func (m *mutant) MarkDone(ctx context.Context, jobs ...*Job) ([]*Job, error) {
	if m.markDone != nil {
		return m.markDone(ctx, jobs)
	}
	return m.MemoryStorage.MarkDone(ctx, jobs...)
}

func (m *mutant) MarkFailed(ctx context.Context, job *Job, cause error, retryAt time.Time) error {
	if m.markFailed != nil {
		return m.markFailed(ctx, job, cause, retryAt)
	}
	return m.MemoryStorage.MarkFailed(ctx, job, cause, retryAt)
}

func (m *mutant) DeadLetter(ctx context.Context, job *Job, cause error) error {
	if m.deadLetter != nil {
		return m.deadLetter(ctx, job, cause)
	}
	return m.MemoryStorage.DeadLetter(ctx, job, cause)
}

func (m *mutant) Release(
	ctx context.Context, at time.Time, cause error, jobs ...*Job,
) (lost, canceled []*Job, err error) {
	if m.release != nil {
		return m.release(ctx, at, cause, jobs)
	}
	return m.MemoryStorage.Release(ctx, at, cause, jobs...)
}

func (m *mutant) Heartbeat(ctx context.Context, jobs ...*Job) ([]*Job, error) {
	if m.heartbeat != nil {
		return m.heartbeat(ctx, jobs)
	}
	return m.MemoryStorage.Heartbeat(ctx, jobs...)
}

func (m *mutant) ReapStale(ctx context.Context, visibility time.Duration) (int, error) {
	if m.reapStale != nil {
		return m.reapStale(ctx, visibility)
	}
	return m.MemoryStorage.ReapStale(ctx, visibility)
}

func (m *mutant) Size(ctx context.Context) (int, error) {
	if m.size != nil {
		return m.size(ctx)
	}
	return m.MemoryStorage.Size(ctx)
}

func (m *mutant) Cancel(ctx context.Context, ids ...string) (ended, asked []string, err error) {
	if m.cancel != nil {
		return m.cancel(ctx, ids)
	}
	return m.MemoryStorage.Cancel(ctx, ids...)
}

func (m *mutant) Canceled(ctx context.Context, jobs ...*Job) ([]*Job, error) {
	if m.canceled != nil {
		return m.canceled(ctx, jobs)
	}
	return m.MemoryStorage.Canceled(ctx, jobs...)
}

func (m *mutant) Stats(ctx context.Context) (Stats, error) {
	if m.stats != nil {
		return m.stats(ctx)
	}
	return m.MemoryStorage.Stats(ctx)
}

func (m *mutant) Replay(ctx context.Context, f Filter) (int, error) {
	if m.replay != nil {
		return m.replay(ctx, f)
	}
	return m.MemoryStorage.Replay(ctx, f)
}

func (m *mutant) Prune(ctx context.Context, before time.Time) (int, error) {
	if m.prune != nil {
		return m.prune(ctx, before)
	}
	return m.MemoryStorage.Prune(ctx, before)
}

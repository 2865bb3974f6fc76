package pinion

import (
	"context"
	"encoding/json"
	"errors"
	"go/ast"
	"go/parser"
	"go/token"
	"go/types"
	"iter"
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
	t.Parallel()
	for _, storage := range []struct {
		name string
		open func(t *testing.T) (Storage, error)
	}{
		{"memory", func(*testing.T) (Storage, error) { return NewMemoryStorage(), nil }},
		{"sqlite", func(t *testing.T) (Storage, error) {
			path := filepath.Join(t.TempDir(), "jobs.db")
			return OpenSQLite(t.Context(), path, nil)
		}},
		{"sqlite that polls", func(t *testing.T) (Storage, error) {
			path := filepath.Join(t.TempDir(), "jobs.db")
			return OpenSQLite(t.Context(), path, &SQLiteOptions{PollInterval: time.Millisecond, Synchronous: "NORMAL"})
		}},
	} {
		t.Run(storage.name, func(t *testing.T) {
			t.Parallel()
			// Only a Dequeue that is never woken takes so long.
			ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
			defer cancel()
			open := func() (Storage, error) { return storage.open(t) }
			if err := CheckStorage(ctx, open); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestCheckStorageAcceptsAStorageWithoutOptionalInterfaces(t *testing.T) {
	// Only a Dequeue that is never woken takes so long.
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
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
	t.Parallel()
	rule := storageRules()[0].rule
	contains := func(program string) bool {
		linked, err := os.ReadFile(program)
		if err != nil {
			t.Fatal(err)
		}
		return strings.Contains(string(linked), rule)
	}
	if !contains(testProgram(t)) {
		t.Errorf("this program, which calls CheckStorage, does not contain the rule %q", rule)
	}

	root, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	const text = "package main\n\nimport \"github.com/pinion-queue/pinion\"\n\n" +
		"var _ = pinion.NewMemoryStorage\n\nfunc main() { pinion.NewMemoryStorage().Close() }\n"
	dir := t.TempDir()
	source, overlay := filepath.Join(dir, "main.go"), filepath.Join(dir, "overlay.json")
	// It seems to be inside the module, where it finds this package. There the test may not be allowed to write.
	replace, err := json.Marshal(map[string]any{
		"Replace": map[string]string{filepath.Join(root, "internal", "linked", "main.go"): source},
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(os.WriteFile(source, []byte(text), 0o600), os.WriteFile(overlay, replace, 0o600)); err != nil {
		t.Fatal(err)
	}
	without := filepath.Join(dir, "without")
	build := exec.CommandContext(t.Context(), "go", "build", "-ldflags=-w", "-overlay", overlay, "-o", without,
		"./internal/linked")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v: %v\n%s", build, err, out)
	}
	if contains(without) {
		t.Errorf("a program that does not call CheckStorage contains the rule %q", rule)
	}
}

// ---- Mutants ----

func TestCheckStorageFindsEachMutant(t *testing.T) {
	faults := slices.Concat(
		orderFaults(),
		taskFaults(),
		enqueueFaults(),
		claimFaults(),
		leaseFaults(),
		fencingFaults(),
		progressFaults(),
		cancelFaults(),
		inspectFaults(),
		filterFaults(),
		pageFaults(),
		limitFaults(),
	)
	for _, fault := range faults {
		t.Run(fault.name, func(t *testing.T) {
			t.Parallel()
			ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
			defer cancel()
			rule := findRule(t, fault.rule)
			open := func() (Storage, error) {
				m := &mutant{MemoryStorage: NewMemoryStorage()}
				fault.make(m)
				return m, nil
			}
			// A slow machine may be too late to see a wrong time, so each mutant gets several tries.
			for range 5 {
				err := rule.verify(ctx, open)
				if isFinding(ctx, err, rule) {
					return
				}
				if err != nil {
					t.Fatalf("want an error that says how the rule %q is broken, got: %v", rule.rule, err)
				}
			}
			t.Errorf("the rule %q holds", rule.rule)
		})
	}
}

// isFinding reports whether err says that a storage breaks a rule. A check whose ctx has ended has found nothing.
func isFinding(ctx context.Context, err error, rule storageRule) bool {
	return err != nil && ctx.Err() == nil && strings.HasPrefix(err.Error(), rule.rule+": ")
}

func TestACheckThatIsStoppedIsNoFinding(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	rule := findRule(t, "no job is claimed before its due time")
	err := rule.verify(ctx, func() (Storage, error) {
		cancel()
		return NewMemoryStorage(), nil
	})
	if err == nil || isFinding(ctx, err, rule) {
		t.Errorf("got %v, want an error that is no finding", err)
	}
}

// findRule returns the only rule that contains a text.
func findRule(t *testing.T, text string) storageRule {
	t.Helper()
	var found []storageRule
	for _, rule := range storageRules() {
		if strings.Contains(rule.rule, text) {
			found = append(found, rule)
		}
	}
	if len(found) != 1 {
		t.Fatalf("%d rules contain %q, want one", len(found), text)
	}
	return found[0]
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
	rule string // part of the rule that this breaks
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
		{"makes the first due job ready first", "of many jobs that become due", func(m *mutant) {
			m.enqueue = func(ctx context.Context, jobs []*Job) error {
				for _, job := range jobs {
					if !job.RunAt.IsZero() {
						job.Priority = 0
					}
				}
				return m.MemoryStorage.Enqueue(ctx, jobs...)
			}
		}},
		{"ignores due times", "before its due time", func(m *mutant) {
			m.enqueue = func(ctx context.Context, jobs []*Job) error {
				for _, job := range jobs {
					job.RunAt = time.Time{}
				}
				return m.MemoryStorage.Enqueue(ctx, jobs...)
			}
		}},
		{"keeps years of five digits", "that JSON cannot write", func(m *mutant) {
			m.markFailed = func(ctx context.Context, job *Job, cause error, retryAt time.Time) error {
				err := m.MemoryStorage.MarkFailed(ctx, job, cause, retryAt)
				m.change(job.ID, func(rec *record) { rec.job.RunAt = retryAt })
				return err
			}
		}},
		{"takes a far due time for the past", "that JSON cannot write", func(m *mutant) {
			m.reschedule = func(ctx context.Context, f Filter, at time.Time) (int, error) {
				return m.MemoryStorage.Reschedule(ctx, f, time.UnixMicro(at.UnixMicro())) // which overflows
			}
		}},
		{"keeps the start of 1970", "at the start of 1970", func(m *mutant) {
			m.reschedule = func(ctx context.Context, f Filter, at time.Time) (int, error) {
				return m.MemoryStorage.Reschedule(ctx, f, at.Add(time.Microsecond))
			}
		}},
		{"ignores the due times of retries", "before its due time", func(m *mutant) {
			m.markFailed = func(ctx context.Context, job *Job, cause error, _ time.Time) error {
				return m.MemoryStorage.MarkFailed(ctx, job, cause, time.Time{})
			}
		}},
	}
}

func taskFaults() []fault {
	return []fault{
		{"ignores Tasks", "only the Tasks", func(m *mutant) {
			m.dequeue = func(ctx context.Context, opts DequeueOptions) ([]*Job, error) {
				opts.Tasks = nil
				return m.MemoryStorage.Dequeue(ctx, opts)
			}
		}},
		{"heeds the case of Tasks", "whatever the case of their letters", func(m *mutant) {
			m.dequeue = func(ctx context.Context, opts DequeueOptions) ([]*Job, error) {
				exact := []string{"no such task"}
				for _, name := range opts.Tasks {
					if len(m.find(func(job Job) bool { return job.Task == name })) > 0 {
						exact = append(exact, name)
					}
				}
				if len(opts.Tasks) > 0 {
					opts.Tasks = exact
				}
				return m.MemoryStorage.Dequeue(ctx, opts)
			}
		}},
		{"makes jobs of other tasks due later", "stay as they are", func(m *mutant) {
			m.changeOthers(func(rec *record) { rec.job.RunAt = m.now.Add(time.Hour) })
		}},
		{"counts an attempt of jobs of other tasks", "stay as they are", func(m *mutant) {
			m.changeOthers(func(rec *record) { rec.job.Attempts++ })
		}},
		{"forgets the priority of jobs of other tasks", "keep their order", func(m *mutant) {
			m.changeOthers(func(rec *record) { rec.job.Priority = 0 })
		}},
		{"does not look past a thousand jobs of other tasks", "delay nobody", func(m *mutant) {
			m.dequeue = func(ctx context.Context, opts DequeueOptions) ([]*Job, error) {
				isOther := func(job Job) bool {
					return job.Status == StatusPending && !slices.Contains(opts.Tasks, job.Task)
				}
				if len(opts.Tasks) > 0 && len(m.find(isOther)) > 1000 {
					return nil, nil
				}
				return m.MemoryStorage.Dequeue(ctx, opts)
			}
		}},
	}
}

func enqueueFaults() []fault {
	return []fault{
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
		{"keeps the nanoseconds of a lease", "as long as its own Lease", func(m *mutant) {
			m.dequeue = func(ctx context.Context, opts DequeueOptions) ([]*Job, error) {
				jobs, err := m.MemoryStorage.Dequeue(ctx, opts)
				for _, job := range jobs {
					job.LeaseUntil = job.LeaseUntil.Add(opts.Lease % time.Microsecond)
				}
				return jobs, err
			}
		}},
		{"stores one *Job twice", "one *Job twice", func(m *mutant) {
			m.enqueue = func(ctx context.Context, jobs []*Job) error {
				var copies []*Job
				for _, job := range jobs {
					c := *job
					copies = append(copies, &c)
				}
				err := m.MemoryStorage.Enqueue(ctx, copies...)
				for i := range copies {
					*jobs[i] = *copies[i]
				}
				return err
			}
		}},
		{"ignores KeyUntilStart", "gives up its Key for good", func(m *mutant) {
			m.enqueue = func(ctx context.Context, jobs []*Job) error {
				for _, job := range jobs {
					job.KeyUntilStart = false
				}
				return m.MemoryStorage.Enqueue(ctx, jobs...)
			}
		}},
		{"takes a Key again when it returns a job", "gives up its Key for good", func(m *mutant) {
			m.release = func(
				ctx context.Context, at time.Time, cause error, jobs []*Job,
			) (lost, canceled []*Job, err error) {
				lost, canceled, err = m.MemoryStorage.Release(ctx, at, cause, jobs...)
				for _, job := range jobs {
					m.change(job.ID, func(rec *record) {
						rec.keyGivenUp = false
						m.takeKeyLocked(rec)
					})
				}
				return lost, canceled, err
			}
		}},
		{"takes a Key again when it replays a job", "with KeyUntilStart takes no Key", func(m *mutant) {
			m.replay = func(ctx context.Context, f Filter) (int, error) {
				for _, id := range m.deadIDs() {
					m.change(id, func(rec *record) { rec.keyGivenUp = false })
				}
				return m.MemoryStorage.Replay(ctx, f)
			}
		}},
		{"forgets Meta", "Meta comes back", func(m *mutant) {
			m.enqueue = func(ctx context.Context, jobs []*Job) error {
				for _, job := range jobs {
					meta := job.Meta
					job.Meta = nil
					defer func() { job.Meta = meta }()
				}
				return m.MemoryStorage.Enqueue(ctx, jobs...)
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
		{"claims everything ahead", "no job that was claimed before", func(m *mutant) {
			m.dequeue = func(ctx context.Context, opts DequeueOptions) ([]*Job, error) {
				if opts.Ahead == opts.Max {
					opts.NoWait = true
				}
				opts.Ahead = 0
				return m.MemoryStorage.Dequeue(ctx, opts)
			}
		}},
		{"claims a job with KeyUntilStart ahead", "no job with KeyUntilStart ahead", func(m *mutant) {
			m.dequeue = func(ctx context.Context, opts DequeueOptions) ([]*Job, error) {
				untilStart := m.find(func(job Job) bool { return job.KeyUntilStart })
				for _, id := range untilStart {
					m.change(id, func(rec *record) { rec.job.KeyUntilStart = false })
				}
				jobs, err := m.MemoryStorage.Dequeue(ctx, opts)
				for _, id := range untilStart {
					m.change(id, func(rec *record) { rec.job.KeyUntilStart = true })
				}
				return jobs, err
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

func leaseFaults() []fault {
	return []fault{
		{"goes by the visibility of the reaper", "as long as its own Lease", func(m *mutant) {
			m.reapStale = func(ctx context.Context, visibility time.Duration) (int, error) {
				m.changeRunning(func(rec *record) { rec.lease = min(rec.lease, visibility) })
				return m.MemoryStorage.ReapStale(ctx, visibility)
			}
		}},
		{"takes a lease back at the first look", "at the second look", func(m *mutant) {
			m.reapStale = func(ctx context.Context, visibility time.Duration) (int, error) {
				m.changeRunning(func(rec *record) { rec.doubted = time.Now().Add(-time.Hour) })
				return m.MemoryStorage.ReapStale(ctx, visibility)
			}
		}},
		{"doubts a new claim because of an old one", "at the second look", func(m *mutant) {
			m.changeClaims(func(rec *record, job *Job) {
				if job.Attempts > 1 {
					rec.doubted = time.Now().Add(-time.Hour)
				}
			})
		}},
		{"does not clear a doubt with a heartbeat", "a heartbeat between two looks", func(m *mutant) {
			m.heartbeat = func(ctx context.Context, jobs []*Job) ([]*Job, error) {
				lost, err := m.MemoryStorage.Heartbeat(ctx, jobs...)
				m.changeRunning(func(rec *record) { rec.doubted = time.Now().Add(-time.Hour) })
				return lost, err
			}
		}},
		{"does not prolong a lease", "prolongs the claim", func(m *mutant) {
			m.heartbeat = func(ctx context.Context, jobs []*Job) ([]*Job, error) {
				lost, err := m.MemoryStorage.Heartbeat(ctx, jobs...)
				m.changeRunning(func(rec *record) { rec.job.HeartbeatAt = time.UnixMicro(rec.job.Claim).UTC() })
				return lost, err
			}
		}},
		{"makes all reaped jobs due at once", "within Attempts × lease", func(m *mutant) {
			m.reapStale = func(ctx context.Context, visibility time.Duration) (int, error) {
				m.changeRunning(func(rec *record) { rec.job.Reaped = 0 })
				return m.MemoryStorage.ReapStale(ctx, visibility)
			}
		}},
		{"counts lost leases that were not one after the other", "Reaped counts", func(m *mutant) {
			m.markFailed = func(ctx context.Context, job *Job, cause error, retryAt time.Time) error {
				err := m.MemoryStorage.MarkFailed(ctx, job, cause, retryAt)
				m.change(job.ID, func(rec *record) { rec.job.Reaped = job.Reaped })
				return err
			}
		}},
	}
}

func progressFaults() []fault {
	return []fault{
		{"ignores StartedAt", "when the task started", func(m *mutant) {
			m.heartbeat = func(ctx context.Context, jobs []*Job) ([]*Job, error) {
				for _, job := range jobs {
					job.StartedAt = time.Time{}
				}
				return m.MemoryStorage.Heartbeat(ctx, jobs...)
			}
		}},
		{"ignores the Result of a heartbeat", "its Result so far", func(m *mutant) {
			m.heartbeat = func(ctx context.Context, jobs []*Job) ([]*Job, error) {
				for _, job := range jobs {
					job.Result = nil
				}
				return m.MemoryStorage.Heartbeat(ctx, jobs...)
			}
		}},
		{"forgets the Result at a heartbeat without one", "its Result so far", func(m *mutant) {
			m.heartbeat = func(ctx context.Context, jobs []*Job) ([]*Job, error) {
				lost, err := m.MemoryStorage.Heartbeat(ctx, jobs...)
				for _, job := range jobs {
					m.change(job.ID, func(rec *record) { rec.job.Result = job.Result })
				}
				return lost, err
			}
		}},
		{"keeps the Result of an old attempt", "its Result so far", func(m *mutant) {
			m.changeClaims(func(rec *record, job *Job) {
				if job.Attempts > 1 {
					rec.job.Result = json.RawMessage("2")
				}
			})
		}},
		{"forgets the Result of a dead letter", "keeps the last Result", func(m *mutant) {
			m.deadLetter = func(ctx context.Context, job *Job, cause error) error {
				err := m.MemoryStorage.DeadLetter(ctx, job, cause)
				if err == nil {
					m.change(job.ID, func(rec *record) { rec.job.Result = nil })
				}
				return err
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

// withoutEmptyIDs returns f as it was when an empty list of IDs meant any.
func withoutEmptyIDs(f Filter) Filter {
	if len(f.IDs) == 0 {
		f.IDs = nil
	}
	return f
}

func inspectFaults() []fault {
	return []fault{
		{"lists every job for an empty list of IDs", "a list of IDs without elements", func(m *mutant) {
			m.listJobs = func(ctx context.Context, f Filter) iter.Seq2[*Job, error] {
				return m.MemoryStorage.Jobs(ctx, withoutEmptyIDs(f))
			}
		}},
		{"cancels every job for an empty list of IDs", "a list of IDs without elements", func(m *mutant) {
			m.cancelWhere = func(ctx context.Context, f Filter) (ended, asked int, err error) {
				return m.MemoryStorage.CancelWhere(ctx, withoutEmptyIDs(f))
			}
		}},
		{"takes what is not UTF-8 for U+FFFD", "a name that is not text", func(m *mutant) {
			m.listJobs = func(ctx context.Context, f Filter) iter.Seq2[*Job, error] {
				f.Queue = strings.ToValidUTF8(f.Queue, "\uFFFD")
				return m.MemoryStorage.Jobs(ctx, f)
			}
		}},
		{"claims from the queue U+FFFD for one that is not UTF-8", "a name that is not text", func(m *mutant) {
			m.dequeue = func(ctx context.Context, opts DequeueOptions) ([]*Job, error) {
				queues := slices.Clone(opts.Queues)
				for i := range queues {
					queues[i] = strings.ToValidUTF8(queues[i], "\uFFFD")
				}
				opts.Queues = queues
				return m.MemoryStorage.Dequeue(ctx, opts)
			}
		}},
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
					m.change(id, func(rec *record) { delete(m.keys, rec.job.Key) })
				}
				return m.MemoryStorage.Replay(ctx, f)
			}
		}},
		{"forgets the Meta of a dead letter", "a dead letter keeps the job", func(m *mutant) {
			m.deadLetters = func(ctx context.Context, f Filter) iter.Seq2[*Job, error] {
				return func(yield func(*Job, error) bool) {
					for job, err := range m.MemoryStorage.DeadLetters(ctx, f) {
						if err == nil {
							job.Meta = nil
						}
						if !yield(job, err) {
							return
						}
					}
				}
			}
		}},
		{"counts no ends", "History counts", func(m *mutant) {
			m.history = func(ctx context.Context, since time.Time) ([]Ends, error) {
				_, err := m.MemoryStorage.History(ctx, since)
				return nil, err
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
		{"prunes dead letters", "Prune deletes", func(m *mutant) {
			m.prune = func(ctx context.Context, before time.Time) (int, error) {
				if _, err := m.Purge(ctx, Filter{}); err != nil {
					return 0, err
				}
				return m.MemoryStorage.Prune(ctx, before)
			}
		}},
	}
}

func filterFaults() []fault {
	// ignoring returns a fault in which listings ignore a field of their filters.
	ignoring := func(name string, ignore func(f *Filter)) fault {
		return fault{"ignores " + name, "listings heed", func(m *mutant) {
			m.listJobs = func(ctx context.Context, f Filter) iter.Seq2[*Job, error] {
				ignore(&f)
				return m.MemoryStorage.Jobs(ctx, f)
			}
		}}
	}
	return []fault{
		ignoring("Key", func(f *Filter) { f.Key = "" }),
		ignoring("KeyPrefix", func(f *Filter) { f.KeyPrefix = "" }),
		ignoring("Text", func(f *Filter) { f.Text = "" }),
		ignoring("After", func(f *Filter) { f.After = time.Time{} }),
		ignoring("Before", func(f *Filter) { f.Before = time.Time{} }),
		ignoring("Newest", func(f *Filter) { f.Newest = false }),
		{"reschedules to now only", "Reschedule sets the due time", func(m *mutant) {
			m.reschedule = func(ctx context.Context, f Filter, _ time.Time) (int, error) {
				return m.MemoryStorage.Reschedule(ctx, f, time.Time{})
			}
		}},
		{"reschedules one transaction's worth", "however many", func(m *mutant) {
			m.reschedule = func(ctx context.Context, f Filter, at time.Time) (int, error) {
				if f.Limit == 0 {
					f.Limit = 500
				}
				return m.MemoryStorage.Reschedule(ctx, f, at)
			}
		}},
		{"cancels only PENDING jobs of a filter", "CancelWhere cancels", func(m *mutant) {
			m.cancelWhere = func(ctx context.Context, f Filter) (ended, asked int, err error) {
				f.Status = StatusPending
				return m.MemoryStorage.CancelWhere(ctx, f)
			}
		}},
		{"prunes dead letters of a filter", "PruneWhere deletes", func(m *mutant) {
			m.pruneWhere = func(ctx context.Context, f Filter) (int, error) {
				if _, err := m.Purge(ctx, f); err != nil {
					return 0, err
				}
				return m.MemoryStorage.PruneWhere(ctx, f)
			}
		}},
	}
}

func pageFaults() []fault {
	return []fault{
		{"compares whole errors", "but a panic's stack", func(m *mutant) {
			m.deadLetters = func(ctx context.Context, f Filter) iter.Seq2[*Job, error] {
				return func(yield func(*Job, error) bool) {
					for job, err := range m.MemoryStorage.DeadLetters(ctx, f) {
						if f.Error != "" && f.Error != job.Error {
							continue
						}
						if !yield(job, err) {
							return
						}
					}
				}
			}
		}},
		{"begins each page with the last job of the one before", "pages make up", func(m *mutant) {
			m.jobsPage = func(ctx context.Context, f Filter, from int64) (Page, error) {
				if from > 1 && !f.Newest {
					from--
				}
				return m.MemoryStorage.JobsPage(ctx, f, from)
			}
		}},
		{"has pages without an end", "pages make up", func(m *mutant) {
			m.jobsPage = func(ctx context.Context, f Filter, from int64) (Page, error) {
				page, err := m.MemoryStorage.JobsPage(ctx, f, from)
				if page.Next == 0 {
					page.Next = from
				}
				if page.Next == 0 {
					page.Next = 1
				}
				return page, err
			}
		}},
		{"counts pages by offset", "pages make up", func(m *mutant) {
			m.deadLettersPage = func(ctx context.Context, f Filter, from int64) (page Page, err error) {
				n := int64(0)
				for job, err := range m.MemoryStorage.DeadLetters(ctx, Filter{Newest: f.Newest}) {
					if err != nil {
						return Page{}, err
					}
					n++
					if n > from+int64(f.Limit) {
						page.Next = from + int64(f.Limit)
						return page, nil
					}
					if n > from {
						page.Jobs = append(page.Jobs, job)
					}
				}
				return page, nil
			}
		}},
		{"groups by whole errors", "counts by error", func(m *mutant) {
			m.groupDeadLetters = func(ctx context.Context, f Filter, look int) (LetterGroups, error) {
				groups, err := m.MemoryStorage.GroupDeadLetters(ctx, f, look)
				if groups.Letters > 1 {
					groups.Errors++
				}
				return groups, err
			}
		}},
		{"groups all that there are", "counts by error", func(m *mutant) {
			m.groupDeadLetters = func(ctx context.Context, f Filter, _ int) (LetterGroups, error) {
				return m.MemoryStorage.GroupDeadLetters(ctx, f, 0)
			}
		}},
	}
}

func limitFaults() []fault {
	return []fault{
		{"ignores limits", "a limit bounds", func(m *mutant) {
			m.setLimit = func(ctx context.Context, queue string, limit int) error {
				return m.MemoryStorage.SetLimit(ctx, queue, -1)
			}
		}},
		{"takes a limit of 0 for none", "pauses a queue", func(m *mutant) {
			m.setLimit = func(ctx context.Context, queue string, limit int) error {
				if limit == 0 {
					limit = -1
				}
				return m.MemoryStorage.SetLimit(ctx, queue, limit)
			}
		}},
		{"takes any name for a queue", "that no job can have", func(m *mutant) {
			m.setLimit = func(ctx context.Context, queue string, limit int) error {
				return m.MemoryStorage.SetLimit(ctx,
					strings.ToValidUTF8(strings.ReplaceAll(queue, "\x00", ""), "?"), limit)
			}
		}},
		{"pauses all queues", "and no other", func(m *mutant) {
			m.setLimit = func(ctx context.Context, queue string, limit int) error {
				if limit == 0 {
					m.MemoryStorage.SetLimit(ctx, "", 0)
				}
				return m.MemoryStorage.SetLimit(ctx, queue, limit)
			}
		}},
		{"keeps limits in few bits", "is stored as it is", func(m *mutant) {
			m.setLimit = func(ctx context.Context, queue string, limit int) error {
				return m.MemoryStorage.SetLimit(ctx, queue, min(limit, 1<<30))
			}
		}},
		{"counts without the claims of the same Dequeue", "a limit bounds", func(m *mutant) {
			m.withoutLimits(func(opts DequeueOptions) bool { return opts.Max > 1 })
		}},
		{"claims ahead of a limit", "never claimed ahead", func(m *mutant) {
			m.withoutLimits(func(opts DequeueOptions) bool { return opts.Ahead > 0 })
		}},
	}
}

// mutant is a MemoryStorage in which some verbs are replaced, those whose function is set.
type mutant struct {
	*MemoryStorage
	enqueue     func(ctx context.Context, jobs []*Job) error
	dequeue     func(ctx context.Context, opts DequeueOptions) ([]*Job, error)
	markDone    func(ctx context.Context, jobs []*Job) (lost []*Job, err error)
	markFailed  func(ctx context.Context, job *Job, cause error, retryAt time.Time) error
	deadLetter  func(ctx context.Context, job *Job, cause error) error
	release     func(ctx context.Context, at time.Time, cause error, jobs []*Job) (lost, canceled []*Job, err error)
	heartbeat   func(ctx context.Context, jobs []*Job) (lost []*Job, err error)
	reapStale   func(ctx context.Context, visibility time.Duration) (int, error)
	size        func(ctx context.Context) (int, error)
	cancel      func(ctx context.Context, ids []string) (ended, asked []string, err error)
	canceled    func(ctx context.Context, jobs []*Job) ([]*Job, error)
	stats       func(ctx context.Context) (Stats, error)
	history     func(ctx context.Context, since time.Time) ([]Ends, error)
	listJobs    func(ctx context.Context, f Filter) iter.Seq2[*Job, error]
	deadLetters func(ctx context.Context, f Filter) iter.Seq2[*Job, error]
	jobsPage    func(ctx context.Context, f Filter, from int64) (Page, error)
	replay      func(ctx context.Context, f Filter) (int, error)
	prune       func(ctx context.Context, before time.Time) (int, error)
	pruneWhere  func(ctx context.Context, f Filter) (int, error)
	cancelWhere func(ctx context.Context, f Filter) (ended, asked int, err error)
	reschedule  func(ctx context.Context, f Filter, at time.Time) (int, error)
	setLimit    func(ctx context.Context, queue string, limit int) error

	deadLettersPage  func(ctx context.Context, f Filter, from int64) (Page, error)
	groupDeadLetters func(ctx context.Context, f Filter, look int) (LetterGroups, error)
}

// change changes a stored job under the lock, if there is one.
func (m *mutant) change(id string, change func(*record)) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if rec := m.jobs[id]; rec != nil {
		change(rec)
	}
}

// find returns the ids of the jobs that match.
func (m *mutant) find(matches func(Job) bool) []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	var ids []string
	for id, rec := range m.jobs {
		if matches(rec.job) {
			ids = append(ids, id)
		}
	}
	return ids
}

// changeOthers replaces Dequeue by one that changes the PENDING jobs of the tasks that it was not given.
func (m *mutant) changeOthers(change func(*record)) {
	m.dequeue = func(ctx context.Context, opts DequeueOptions) ([]*Job, error) {
		isOther := func(job Job) bool {
			return job.Status == StatusPending && !slices.Contains(opts.Tasks, job.Task)
		}
		if len(opts.Tasks) > 0 {
			for _, id := range m.find(isOther) {
				m.change(id, func(rec *record) {
					m.leaveLocked(rec)
					change(rec)
					m.placeLocked(rec)
				})
			}
		}
		return m.MemoryStorage.Dequeue(ctx, opts)
	}
}

// withoutLimits replaces Dequeue by one that ignores the limits above 0 for some options.
func (m *mutant) withoutLimits(ignore func(DequeueOptions) bool) {
	m.dequeue = func(ctx context.Context, opts DequeueOptions) ([]*Job, error) {
		if !ignore(opts) {
			return m.MemoryStorage.Dequeue(ctx, opts)
		}
		m.mu.Lock()
		limits := m.limits
		m.limits = nil
		m.mu.Unlock()
		jobs, err := m.MemoryStorage.Dequeue(ctx, opts)
		m.mu.Lock()
		m.limits = limits
		m.mu.Unlock()
		return jobs, err
	}
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
	return m.find(func(job Job) bool { return job.Status == StatusFailed && !job.Canceled })
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

func (m *mutant) History(ctx context.Context, since time.Time) ([]Ends, error) {
	if m.history != nil {
		return m.history(ctx, since)
	}
	return m.MemoryStorage.History(ctx, since)
}

func (m *mutant) JobsPage(ctx context.Context, f Filter, from int64) (Page, error) {
	if m.jobsPage != nil {
		return m.jobsPage(ctx, f, from)
	}
	return m.MemoryStorage.JobsPage(ctx, f, from)
}

func (m *mutant) DeadLettersPage(ctx context.Context, f Filter, from int64) (Page, error) {
	if m.deadLettersPage != nil {
		return m.deadLettersPage(ctx, f, from)
	}
	return m.MemoryStorage.DeadLettersPage(ctx, f, from)
}

func (m *mutant) GroupDeadLetters(ctx context.Context, f Filter, look int) (LetterGroups, error) {
	if m.groupDeadLetters != nil {
		return m.groupDeadLetters(ctx, f, look)
	}
	return m.MemoryStorage.GroupDeadLetters(ctx, f, look)
}

func (m *mutant) Jobs(ctx context.Context, f Filter) iter.Seq2[*Job, error] {
	if m.listJobs != nil {
		return m.listJobs(ctx, f)
	}
	return m.MemoryStorage.Jobs(ctx, f)
}

func (m *mutant) DeadLetters(ctx context.Context, f Filter) iter.Seq2[*Job, error] {
	if m.deadLetters != nil {
		return m.deadLetters(ctx, f)
	}
	return m.MemoryStorage.DeadLetters(ctx, f)
}

func (m *mutant) PruneWhere(ctx context.Context, f Filter) (int, error) {
	if m.pruneWhere != nil {
		return m.pruneWhere(ctx, f)
	}
	return m.MemoryStorage.PruneWhere(ctx, f)
}

func (m *mutant) CancelWhere(ctx context.Context, f Filter) (ended, asked int, err error) {
	if m.cancelWhere != nil {
		return m.cancelWhere(ctx, f)
	}
	return m.MemoryStorage.CancelWhere(ctx, f)
}

func (m *mutant) Reschedule(ctx context.Context, f Filter, at time.Time) (int, error) {
	if m.reschedule != nil {
		return m.reschedule(ctx, f, at)
	}
	return m.MemoryStorage.Reschedule(ctx, f, at)
}

func (m *mutant) SetLimit(ctx context.Context, queue string, limit int) error {
	if m.setLimit != nil {
		return m.setLimit(ctx, queue, limit)
	}
	return m.MemoryStorage.SetLimit(ctx, queue, limit)
}

package crashlab_test

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pinion-queue/pinion"
	"github.com/pinion-queue/pinion/internal/crashlab"
)

// The flags of the model. docs/testing.md explains them.
var (
	modelSequences = flag.Int("model.sequences", 200, "how many random sequences TestModel plays")
	modelSeed      = flag.Uint64("model.seed", 0, "the random seed of the sequences [a new one]")
	modelFirst     = flag.Int("model.first", 0, "the number of the first sequence")
)

// newModel returns a model of storages that run in a bubble, and logs how to repeat it.
func newModel(t *testing.T, storages ...crashlab.Opener) crashlab.Model {
	t.Helper()
	seed := *modelSeed
	if seed == 0 {
		seed = uint64(time.Now().UnixNano()) // not in the bubble, where this is always the same
	}
	t.Logf("to repeat it: go test ./internal/crashlab -run '^%s$' -model.seed=%d -model.sequences=%d",
		t.Name(), seed, *modelSequences)
	return crashlab.Model{
		Seed:      seed,
		First:     *modelFirst,
		Sequences: *modelSequences,
		Storages:  storages,
		Sleep:     time.Sleep,
	}
}

// modelStorages returns the two storages of this module. Each SQLite file is a copy of an empty one, because
// making a new one takes longer than playing a sequence.
func modelStorages(t *testing.T) []crashlab.Opener {
	t.Helper()
	dir := t.TempDir()
	template := filepath.Join(dir, "template.db")
	openAndClose(t, template)
	empty := read(t, template)
	files := 0
	openMemory := func(context.Context) (pinion.Storage, error) { return newMemory(), nil }
	openSQLite := func(ctx context.Context) (pinion.Storage, error) {
		files++
		path := filepath.Join(dir, fmt.Sprint(files, ".db"))
		if err := os.WriteFile(path, []byte(empty), 0o600); err != nil {
			return nil, err
		}
		return pinion.OpenSQLite(ctx, path, &pinion.SQLiteOptions{
			Synchronous:  "NORMAL",
			Retention:    -1,
			PollInterval: time.Hour,
		})
	}
	return []crashlab.Opener{
		{Name: "memory", Open: openMemory},
		{Name: "SQLite", Open: openSQLite},
	}
}

func newMemory() *pinion.MemoryStorage {
	s := pinion.NewMemoryStorage()
	s.Retention = -1
	return s
}

// inModelBubble runs f in a bubble. The time there is not a whole microsecond, so that it shows if a storage
// forgets to cut times down to microseconds.
func inModelBubble(t *testing.T, f func(t *testing.T)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		time.Sleep(123 * time.Nanosecond)
		f(t)
	})
}

func TestModel(t *testing.T) {
	t.Parallel()
	m := newModel(t, modelStorages(t)...)
	inModelBubble(t, func(t *testing.T) {
		if err := m.Check(t.Context()); err != nil {
			t.Error(err)
		}
	})
}

// RealTime is for other storages. This shows that it works.
func TestModelInRealTime(t *testing.T) {
	m := newModel(t, modelStorages(t)...)
	m.RealTime = true
	m.Steps = 20
	m.Sequences = 3
	if err := m.Check(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestNoStorageHasAKnownFault(t *testing.T) {
	t.Parallel()
	for _, fault := range crashlab.KnownFaults {
		t.Run(fault.Name, func(t *testing.T) { playModel(t, fault.Steps...) })
	}
}

// playModel plays a sequence on both storages. The tests that a Difference prints call it.
func playModel(t *testing.T, steps ...crashlab.Step) {
	t.Helper()
	m := crashlab.Model{Storages: modelStorages(t), Sleep: time.Sleep}
	inModelBubble(t, func(t *testing.T) {
		if err := m.Play(t.Context(), steps...); err != nil {
			t.Error(err)
		}
	})
}

// mutant is a storage that is wrong in one small way. Zero fields change nothing.
type mutant struct {
	*pinion.MemoryStorage
	changeJob       func(job *pinion.Job) // before it is enqueued
	prolongsAny     bool                  // Heartbeat ignores the claim
	leasesLonger    time.Duration
	losesProgress   bool // Heartbeat stores no Result
	claimsLimited   bool // Dequeue lets one more job of a limited queue run
	prunesEarly     time.Duration
	replaysMore     int
	countsNotRun    bool // DeadLetter counts an attempt that did not run
	moreBesideRisky int  // how many more jobs are claimed ahead beside one that was claimed before
}

func (m mutant) Enqueue(ctx context.Context, jobs ...*pinion.Job) error {
	if m.changeJob == nil {
		return m.MemoryStorage.Enqueue(ctx, jobs...)
	}
	var changed []*pinion.Job
	for _, job := range jobs {
		other := *job
		m.changeJob(&other)
		changed = append(changed, &other)
	}
	err := m.MemoryStorage.Enqueue(ctx, changed...)
	for i, job := range changed {
		jobs[i].ID = job.ID
		jobs[i].Queue = job.Queue
		jobs[i].Status = job.Status
		jobs[i].CreatedAt = job.CreatedAt
	}
	return err
}

func (m mutant) Heartbeat(ctx context.Context, jobs ...*pinion.Job) ([]*pinion.Job, error) {
	if m.losesProgress {
		for _, job := range jobs {
			defer func(result json.RawMessage) { job.Result = result }(job.Result) // for the reference
			job.Result = nil
		}
	}
	if !m.prolongsAny {
		return m.MemoryStorage.Heartbeat(ctx, jobs...)
	}
	var lost []*pinion.Job
	for _, job := range jobs {
		current, err := m.Get(ctx, job.ID)
		if err != nil {
			current = job
		}
		lostNow, err := m.MemoryStorage.Heartbeat(ctx, current)
		if err != nil {
			return nil, err
		}
		if len(lostNow) > 0 {
			lost = append(lost, job)
		}
	}
	return lost, nil
}

func (m mutant) SetLimit(ctx context.Context, queue string, limit int) error {
	if m.claimsLimited && limit > 0 {
		limit++
	}
	return m.MemoryStorage.SetLimit(ctx, queue, limit)
}

func (m mutant) Limits(ctx context.Context) (map[string]int, error) {
	limits, err := m.MemoryStorage.Limits(ctx)
	for queue, limit := range limits {
		if m.claimsLimited && limit > 0 {
			limits[queue] = limit - 1
		}
	}
	return limits, err
}

func (m mutant) Prune(ctx context.Context, before time.Time) (int, error) {
	return m.MemoryStorage.Prune(ctx, before.Add(m.prunesEarly))
}

func (m mutant) Replay(ctx context.Context, f pinion.Filter) (int, error) {
	if f.Limit > 0 {
		f.Limit += m.replaysMore
	}
	return m.MemoryStorage.Replay(ctx, f)
}

func (m mutant) DeadLetter(ctx context.Context, job *pinion.Job, cause error) error {
	if m.countsNotRun && cause != nil {
		cause = errors.New(cause.Error()) // no longer ErrAttemptsUsedUp
	}
	return m.MemoryStorage.DeadLetter(ctx, job, cause)
}

func (m mutant) Dequeue(ctx context.Context, opts pinion.DequeueOptions) ([]*pinion.Job, error) {
	if opts.Ahead > 0 {
		opts.Ahead -= m.moreBesideRisky
	}
	if opts.Lease > 0 {
		opts.Lease += m.leasesLonger
	}
	return m.MemoryStorage.Dequeue(ctx, opts)
}

var mutants = []struct {
	name string
	mutant
}{
	{"it ignores high priorities", mutant{changeJob: func(job *pinion.Job) {
		job.Priority = min(job.Priority, 1)
	}}},
	{"a job is due a microsecond late", mutant{changeJob: func(job *pinion.Job) {
		if job.RunAt.After(time.Now()) {
			job.RunAt = job.RunAt.Add(time.Microsecond)
		}
	}}},
	{"it heeds Attempts that the caller has set", mutant{changeJob: func(job *pinion.Job) {
		job.Task += strings.Repeat("!", job.Attempts)
	}}},
	{"it prolongs the lease of any claim", mutant{prolongsAny: true}},
	{"its leases are a microsecond too long", mutant{leasesLonger: time.Microsecond}},
	{"it stores no progress", mutant{losesProgress: true}},
	{"it lets one job too many of a limited queue run", mutant{claimsLimited: true}},
	{"it forgets what KeyUntilStart means", mutant{changeJob: func(job *pinion.Job) { job.KeyUntilStart = false }}},
	{"it loses Meta", mutant{changeJob: func(job *pinion.Job) { job.Meta = nil }}},
	{"it prunes jobs a microsecond early", mutant{prunesEarly: time.Microsecond}},
	{"it replays one dead letter more than the limit", mutant{replaysMore: 1}},
	{"it counts attempts that were not run", mutant{countsNotRun: true}},
	{"it claims ahead beside a job that was claimed before", mutant{moreBesideRisky: 1}},
}

func TestTheModelFindsMutantsAndPrintsTestsThatCompile(t *testing.T) {
	t.Parallel()
	const maxSteps = 8 // of a shortened sequence
	var source strings.Builder
	source.WriteString(`package crashlab_test

import (
	"testing"
	"time"

	"github.com/pinion-queue/pinion"
	"github.com/pinion-queue/pinion/internal/crashlab"
)

var _ time.Duration
var _ pinion.Job
`)
	for i, test := range mutants {
		m := newModel(t, crashlab.Opener{Name: "mutant", Open: func(context.Context) (pinion.Storage, error) {
			test.mutant.MemoryStorage = newMemory()
			return test.mutant, nil
		}})
		m.Sequences = 200_000
		inModelBubble(t, func(t *testing.T) {
			found, ok := errors.AsType[*crashlab.Difference](m.Check(t.Context()))
			if !ok {
				t.Errorf("not found: %s", test.name)
				return
			}
			t.Logf("%s: found by sequence %d, shortened from %d steps to %d",
				test.name, found.Sequence, len(found.Steps), len(found.Short))
			if len(found.Short) > maxSteps {
				t.Errorf("%s: shortened to %d steps, want at most %d:\n%v",
					test.name, len(found.Short), maxSteps, found)
			}
			printed := strings.Replace(crashlab.Source(found.Short), "func Test", fmt.Sprintf("func Test%d", i), 1)
			fmt.Fprintf(&source, "\n%s\n", printed)
		})
	}
	if t.Failed() {
		return
	}
	compileBesideThisFile(t, source.String())
}

// compileBesideThisFile checks that a test file would compile in this package. The go tool overlays it, so
// that nothing is written into the source tree.
func compileBesideThisFile(t *testing.T, source string) {
	t.Helper()
	dir := t.TempDir()
	file, overlay := filepath.Join(dir, "found.go"), filepath.Join(dir, "overlay.json")
	replace, err := json.Marshal(map[string]any{"Replace": map[string]string{"found_test.go": file}})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte(source), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(overlay, replace, 0o600); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if t.Failed() {
			t.Log(source)
		}
	}()
	goCommand(t, "vet", "-overlay", overlay, ".")
}

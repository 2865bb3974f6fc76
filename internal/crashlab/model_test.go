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

var (
	modelSequences = flag.Int("model.sequences", 200, "how many random sequences TestModel runs")
	modelSeed      = flag.Uint64("model.seed", 0, "their seed; 0: another one each time")
	modelFirst     = flag.Int("model.first", 0, "the number of the first")
)

// modelOf is a model of these storages, for use in a bubble.
func modelOf(t *testing.T, storages ...crashlab.Opener) crashlab.Model {
	seed := *modelSeed
	if seed == 0 {
		seed = uint64(time.Now().UnixNano()) // outside of the bubble
	}
	t.Logf("to repeat it: go test -run '^%s$' -model.seed=%d -model.sequences=%d ./internal/crashlab", t.Name(), seed, *modelSequences)
	return crashlab.Model{Seed: seed, First: *modelFirst, Sequences: *modelSequences, Storages: storages, Sleep: time.Sleep}
}

// modelStorages are the two that come with the package. The files are copies of one: to make it takes longest.
func modelStorages(t *testing.T) []crashlab.Opener {
	dir, n := t.TempDir(), 0
	template := filepath.Join(dir, "template.db")
	s, err := pinion.OpenSQLite(t.Context(), template, nil)
	if err == nil {
		err = s.Close()
	}
	empty, readErr := os.ReadFile(template)
	if err := errors.Join(err, readErr); err != nil {
		t.Fatal(err)
	}
	return []crashlab.Opener{
		{Name: "memory", Open: func(context.Context) (pinion.Storage, error) { return modelMemory(), nil }},
		{Name: "SQLite", Open: func(ctx context.Context) (pinion.Storage, error) {
			n++
			path := filepath.Join(dir, fmt.Sprint(n, ".db"))
			if err := os.WriteFile(path, empty, 0o600); err != nil {
				return nil, err
			}
			return pinion.OpenSQLite(ctx, path, &pinion.SQLiteOptions{Synchronous: "NORMAL", Retention: -1, PollInterval: time.Hour})
		}},
	}
}

func modelMemory() *pinion.MemoryStorage {
	s := pinion.NewMemoryStorage()
	s.Retention = -1
	return s
}

// inModelBubble runs f where time stands still between the steps, at no whole microsecond: storages keep those.
func inModelBubble(t *testing.T, f func(t *testing.T)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		time.Sleep(123 * time.Nanosecond)
		f(t)
	})
}

// TestModel runs random sequences of all the verbs on both storages and on a plain reference: each answer and each
// state at the end must be the same.
func TestModel(t *testing.T) {
	m := modelOf(t, modelStorages(t)...)
	inModelBubble(t, func(t *testing.T) {
		if err := m.Check(t.Context()); err != nil {
			t.Error(err)
		}
	})
}

// A backend for which there is no bubble is checked in real time, with a few sequences. So are ours.
func TestModelInRealTime(t *testing.T) {
	m := modelOf(t, modelStorages(t)...)
	m.RealTime, m.Steps, m.Sequences = true, 20, 3
	if err := m.Check(t.Context()); err != nil {
		t.Error(err)
	}
}

// mutant is a storage that means something else in one small way.
type mutant struct {
	*pinion.MemoryStorage
	enqueue  func(job *pinion.Job)
	beat     bool // anybody may prolong any claim
	reap     time.Duration
	prune    time.Duration
	replay   int
	counts   bool // an attempt that was not run, too
	prefetch int
}

func (m mutant) Enqueue(ctx context.Context, jobs ...*pinion.Job) error {
	if m.enqueue == nil {
		return m.MemoryStorage.Enqueue(ctx, jobs...)
	}
	var changed []*pinion.Job
	for _, job := range jobs {
		other := *job
		m.enqueue(&other)
		changed = append(changed, &other)
	}
	err := m.MemoryStorage.Enqueue(ctx, changed...)
	for i, job := range changed {
		jobs[i].ID, jobs[i].Queue, jobs[i].Status, jobs[i].CreatedAt = job.ID, job.Queue, job.Status, job.CreatedAt
	}
	return err
}

func (m mutant) Heartbeat(ctx context.Context, jobs ...*pinion.Job) (lost []*pinion.Job, err error) {
	if !m.beat {
		return m.MemoryStorage.Heartbeat(ctx, jobs...)
	}
	for _, job := range jobs {
		now, err := m.Get(ctx, job.ID)
		if err != nil {
			now = job
		}
		gone, err := m.MemoryStorage.Heartbeat(ctx, now)
		if err != nil {
			return nil, err
		}
		if len(gone) > 0 {
			lost = append(lost, job)
		}
	}
	return lost, nil
}

func (m mutant) ReapStale(ctx context.Context, visibility time.Duration) (int, error) {
	return m.MemoryStorage.ReapStale(ctx, visibility+m.reap)
}

func (m mutant) Prune(ctx context.Context, before time.Time) (int, error) {
	return m.MemoryStorage.Prune(ctx, before.Add(m.prune))
}

func (m mutant) Replay(ctx context.Context, f pinion.Filter) (int, error) {
	if f.Limit > 0 {
		f.Limit += m.replay
	}
	return m.MemoryStorage.Replay(ctx, f)
}

func (m mutant) DeadLetter(ctx context.Context, job *pinion.Job, cause error) error {
	if m.counts && cause != nil {
		cause = errors.New(cause.Error())
	}
	return m.MemoryStorage.DeadLetter(ctx, job, cause)
}

func (m mutant) Prefetch(ctx context.Context, slots, most int, queues ...string) ([]*pinion.Job, error) {
	return m.MemoryStorage.Prefetch(ctx, slots+m.prefetch, most, queues...)
}

func TestTheModelFindsMutantsAndPrintsTestsThatCompile(t *testing.T) {
	var source strings.Builder
	source.WriteString("package crashlab_test\n\nimport (\n\t\"testing\"\n\t\"time\"\n\n\t\"github.com/pinion-queue/pinion\"\n" +
		"\t\"github.com/pinion-queue/pinion/internal/crashlab\"\n)\n\nvar _ time.Duration\nvar _ pinion.Job\n\n")
	const most = 8 // steps, once shortened
	for i, c := range []struct {
		what string
		mutant
	}{
		{"a priority like any other", mutant{enqueue: func(j *pinion.Job) { j.Priority = min(j.Priority, 1) }}},
		{"due a microsecond late", mutant{enqueue: func(j *pinion.Job) {
			if j.RunAt.After(time.Now()) {
				j.RunAt = j.RunAt.Add(time.Microsecond)
			}
		}}},
		{"attempts that the caller has set", mutant{enqueue: func(j *pinion.Job) { j.Task += strings.Repeat("!", j.Attempts) }}},
		{"anybody prolongs a claim", mutant{beat: true}},
		{"reaped a microsecond late", mutant{reap: time.Microsecond}},
		{"pruned a microsecond early", mutant{prune: time.Microsecond}},
		{"one more replayed", mutant{replay: 1}},
		{"attempts that were not run are counted", mutant{counts: true}},
		{"claimed ahead beside a dangerous job", mutant{prefetch: 1}},
	} {
		m := modelOf(t, crashlab.Opener{Name: "mutant", Open: func(context.Context) (pinion.Storage, error) {
			c.MemoryStorage = modelMemory()
			return c.mutant, nil
		}})
		m.Sequences = 10_000
		inModelBubble(t, func(t *testing.T) {
			found, ok := errors.AsType[*crashlab.Difference](m.Check(t.Context()))
			switch {
			case !ok:
				t.Errorf("%s: not found", c.what)
			case len(found.Short) > most:
				t.Errorf("%s: shortened to %d steps, want at most %d:\n%v", c.what, len(found.Short), most, found)
			default:
				t.Logf("%s: found by sequence %d, of %d steps, shortened to %d", c.what, found.Sequence, len(found.Steps), len(found.Short))
				text := strings.Replace(crashlab.Source(found.Short), "func Test", fmt.Sprintf("func TestFound%d", i), 1)
				source.WriteString(text + "\n\n")
			}
		})
	}
	// They compile beside this file.
	dir := t.TempDir()
	overlay, err := json.Marshal(map[string]any{"Replace": map[string]string{"found_by_model_test.go": filepath.Join(dir, "found.go")}})
	for name, text := range map[string]string{"found.go": source.String(), "overlay.json": string(overlay)} {
		err = errors.Join(err, os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600))
	}
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if t.Failed() {
			t.Log(source.String())
		}
	}()
	goCommand(t, "vet", "-overlay", filepath.Join(dir, "overlay.json"), ".")
}

// playModel runs a sequence that TestModel has found, on both storages.
func playModel(t *testing.T, steps ...crashlab.Step) {
	t.Helper()
	m := modelOf(t, modelStorages(t)...)
	inModelBubble(t, func(t *testing.T) {
		if err := m.Play(t.Context(), steps...); err != nil {
			t.Error(err)
		}
	})
}

// What the model has found.

func TestAStatusSaysNothingAboutDeadLetters(t *testing.T) {
	playModel(t,
		crashlab.Step{Verb: "Enqueue", Jobs: []crashlab.Spec{{Task: "t"}}},
		crashlab.Step{Verb: "Dequeue", Worker: 1, Max: 1},
		crashlab.Step{Verb: "DeadLetter", Worker: 1, Claims: []int{0}},
		crashlab.Step{Verb: "DeadLetters", Filter: pinion.Filter{Status: "RUNNING"}},
		crashlab.Step{Verb: "Replay", Filter: pinion.Filter{Status: "RUNNING"}},
	)
}

func TestTasksAreFilteredWithoutRegardToTheCaseOfAnyLetter(t *testing.T) {
	playModel(t,
		crashlab.Step{Verb: "Enqueue", Jobs: []crashlab.Spec{{Task: "Ärger"}, {Task: "other"}}},
		crashlab.Step{Verb: "Jobs", Filter: pinion.Filter{Task: "äRGER"}},
		crashlab.Step{Verb: "Dequeue", Max: 1},
		crashlab.Step{Verb: "DeadLetter", Claims: []int{0}},
		crashlab.Step{Verb: "DeadLetters", Filter: pinion.Filter{Task: "ärger"}},
		crashlab.Step{Verb: "Replay", Filter: pinion.Filter{Task: "ÄRGER"}},
	)
}

func TestTheFirstReapingForgetsTheDueTime(t *testing.T) {
	playModel(t,
		crashlab.Step{Verb: "Enqueue", Jobs: []crashlab.Spec{{Task: "t", Due: 1}}},
		crashlab.Step{Verb: "Dequeue", Max: 1},
		crashlab.Step{Verb: "Sleep", For: 2 * time.Second},
		crashlab.Step{Verb: "ReapStale", For: 1 * time.Second},
	)
}

func TestPruneGoesByMicroseconds(t *testing.T) {
	playModel(t,
		crashlab.Step{Verb: "Enqueue", Jobs: []crashlab.Spec{{Task: "t"}}},
		crashlab.Step{Verb: "Dequeue", Max: 1},
		crashlab.Step{Verb: "MarkDone", Claims: []int{0}},
		crashlab.Step{Verb: "Prune"},
	)
}

func TestAKeyThatABatchGivesTwiceIsSaidToBeItsHolders(t *testing.T) {
	playModel(t,
		crashlab.Step{Verb: "Enqueue", Jobs: []crashlab.Spec{{Task: "t", Key: "l"}}},
		crashlab.Step{Verb: "Enqueue", Jobs: []crashlab.Spec{{Task: "t", Key: "l"}, {Task: "t", Key: "l"}}},
	)
}

func TestReapingWithNoPatienceAtAllSpreadsNothing(t *testing.T) {
	playModel(t,
		crashlab.Step{Verb: "Enqueue", Jobs: []crashlab.Spec{{Task: "t"}}},
		crashlab.Step{Verb: "Dequeue", Max: 1},
		crashlab.Step{Verb: "ReapStale", For: -1 * time.Second},
		crashlab.Step{Verb: "Dequeue", Max: 1},
		crashlab.Step{Verb: "ReapStale", For: -1 * time.Second},
	)
}

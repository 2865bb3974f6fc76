package crashlab

import (
	"context"
	"fmt"
	"runtime/debug"
	"time"

	"github.com/pinion-queue/pinion"
)

// Model checks storages against a plain reference. It plays random sequences of calls: several workers, which
// hold current and stale claims, call all the methods of a storage while time passes. A storage must answer
// each call as the reference does, and must hold the same jobs at the end. So every storage means the same.
//
// A sequence that fails is shortened and printed as a Go test. The printed test calls a function that the
// test file must have:
//
//	func playModel(t *testing.T, steps ...crashlab.Step)
//
// When the fault is mended, the steps become one of the [KnownFaults].
//
// In a testing/synctest bubble, with time.Sleep as Sleep, all times are exact. RealTime is for storages that
// cannot run in a bubble, such as a server. The steps in time are then milliseconds, and a time that a
// storage writes may be any time from the beginning of the call to its end.
type Model struct {
	Seed      uint64
	First     int // number of the first sequence
	Sequences int // how many are played
	Steps     int // how many a sequence has at most [60]
	Storages  []Opener
	Sleep     func(time.Duration)
	RealTime  bool
	Tries     int // how often a shortened sequence is played, at most, until it fails [2]
}

// Opener opens storages for a Model.
type Opener struct {
	Name string
	// Open opens a new, empty storage that keeps finished jobs for ever. It must be a [Storage].
	Open func(ctx context.Context) (pinion.Storage, error)
}

// Difference is the error of a sequence in which a storage and the reference differ.
type Difference struct {
	Seed     uint64
	Sequence int
	Steps    []Step // the whole sequence
	Short    []Step // the shortest part of it that was found to fail
	Err      error  // how Short fails
}

func (d *Difference) Error() string {
	return fmt.Sprintf("crashlab: sequence %d of seed %d, shortened from %d steps to %d: %v\n%s",
		d.Sequence, d.Seed, len(d.Steps), len(d.Short), d.Err, Source(d.Short))
}

// Unwrap returns Err.
func (d *Difference) Unwrap() error { return d.Err }

// Check plays the sequences on each storage. If one fails Check shortens it and returns a [*Difference].
func (m Model) Check(ctx context.Context) error {
	for i := m.First; i < m.First+m.Sequences; i++ {
		steps := m.randomSequence(i)
		failed, err := m.play(ctx, steps)
		if err == nil {
			continue
		}
		m.Storages = []Opener{failed}
		short, shortErr := m.shorten(ctx, steps)
		if shortErr != nil {
			err = shortErr
		}
		return &Difference{m.Seed, i, steps, short, err}
	}
	return ctx.Err()
}

// Play plays one sequence on each storage and returns the first difference as an error.
func (m Model) Play(ctx context.Context, steps ...Step) error {
	_, err := m.play(ctx, steps)
	return err
}

// play plays a sequence on each storage. If one differs from the reference play also returns which.
func (m Model) play(ctx context.Context, steps []Step) (Opener, error) {
	for _, opener := range m.Storages {
		if err := m.playOn(ctx, opener, steps); err != nil {
			return opener, fmt.Errorf("on %s: %w", opener.Name, err)
		}
	}
	return Opener{}, nil
}

func (m Model) playOn(ctx context.Context, opener Opener, steps []Step) (err error) {
	opened, err := opener.Open(ctx)
	if err != nil {
		return fmt.Errorf("open: %w", err)
	}
	defer opened.Close()
	storage, ok := opened.(Storage)
	if !ok {
		return fmt.Errorf("%T lacks some of the optional interfaces", opened)
	}
	ended, end := context.WithCancel(ctx)
	end()
	p := &player{
		Model:   m,
		storage: storage,
		ctx:     ctx,
		ended:   ended,
		held:    make(map[int][]*pinion.Job),
	}
	defer func() {
		switch r := recover().(type) {
		case nil:
		case difference:
			if !p.tooSlow { // otherwise it may be the machine's fault
				err = r.err
			}
		default:
			err = fmt.Errorf("%s: panic: %v\n%s", p.where, r, debug.Stack())
		}
	}()
	for i, step := range steps {
		p.where = fmt.Sprintf("step %d, %s", i, step.Verb)
		p.take(step)
	}
	p.where = "at the end"
	p.compareAll()
	return p.checkClosed()
}

//go:build unix

package crashlab

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/signal"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/pinion-queue/pinion"
)

// childVariable is the environment variable that makes a process a child. Its value is a childConfig as JSON.
const childVariable = "PINION_CRASHLAB_CHILD"

// childConfig says what a child does.
type childConfig struct {
	Number        int // of the child; unlike a process id it is used only once
	Role          role
	DSN           string
	LogPath       string
	Seed          uint64
	Slots         int           // of the worker
	Producers     int           // goroutines that enqueue
	Backlog       int           // producers pause while more jobs than this are pending
	Visibility    time.Duration // the worker's VisibilityTimeout
	Grace         time.Duration // the worker's ShutdownTimeout
	PoisonRetries int           // of the task that always kills its process
	Death         plannedDeath
	DrainFor      time.Duration // how long a Drain may last; 0: until nothing is due
	Lock          lockPlan
	ClockPath     string // a file for openClock; "": the child goes by the machine's clock
	SQL           SQL    // of a Swarm
}

type role string

const (
	roleWork    role = "work"
	roleProduce role = "produce"
	rolePrune   role = "prune"
	roleBoth    role = "work and produce"
	roleDrain   role = "drain" // a short Worker.Drain, as cron would start it
	roleOpen    role = "open"  // opens the storage and closes it
	roleLock    role = "lock"  // another program, which holds the write lock of the file
)

// plannedDeath is a call in which a child kills itself with SIGKILL. The zero value plans none.
type plannedDeath struct {
	Call  string        // the kind of call, as childStorage and child.run name them
	Nth   int64         // which call of that kind, from 1
	After time.Duration // from the beginning of the call
}

// ChildMain runs this process as a child of the laboratory and exits, if a laboratory has started it.
// Otherwise it does nothing. A test binary that uses a [Lab] must call it first in its TestMain.
func ChildMain() {
	text := os.Getenv(childVariable)
	if text == "" {
		return
	}
	c := new(child)
	err := json.Unmarshal([]byte(text), &c.childConfig)
	if err == nil {
		err = c.run()
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "child %d (%s): %v\n", c.Number, c.Role, err)
		os.Exit(1)
	}
	os.Exit(0)
}

// child is a process that shares the queue with others until it is killed or told to stop.
type child struct {
	childConfig
	log     *logFile
	storage *childStorage
	calls   atomic.Int64 // calls of the kind in which the child is to die
}

func (c *child) run() error {
	go dieWithParent()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	var err error
	c.log, err = openLog(c.LogPath, c.Number)
	if err != nil {
		return err
	}
	if c.ClockPath != "" {
		clock, err := openClock(c.ClockPath)
		if err != nil {
			return err
		}
		setTimeShift(clock)
		c.log.clock = clock
	}
	if c.Role == roleLock {
		return c.holdLock(ctx)
	}
	c.dieIfPlanned("open")
	storage, err := pinion.Open(context.Background(), c.DSN)
	if err != nil {
		return err
	}
	switch c.Role {
	case ProofExactlyOnce, ProofLimit, ProofPeriodic:
		return errors.Join(c.prove(ctx, storage), storage.Close())
	}
	c.storage = &childStorage{storage, c}

	var parts sync.WaitGroup
	if c.Role == roleProduce || c.Role == roleBoth {
		for i := range c.Producers {
			random := rand.New(rand.NewPCG(c.Seed, uint64(i)))
			parts.Go(func() { c.produce(ctx, random) })
		}
	}
	if c.Role == rolePrune {
		parts.Go(func() { c.prune(ctx, storage.(pinion.Inspector)) })
	}
	if c.Role == roleWork || c.Role == roleBoth {
		parts.Go(func() { c.work(ctx) })
	}
	if c.Role == roleDrain {
		parts.Go(func() { c.drain(ctx) })
	}
	parts.Wait()

	c.dieIfPlanned("close")
	return storage.Close()
}

// dieWithParent kills this process when its standard input ends. The parent holds the other end, so no child
// outlives it.
func dieWithParent() {
	io.Copy(io.Discard, os.Stdin)
	die()
}

// die kills this process as kill -9 does: nothing is flushed, and no deferred function runs.
func die() {
	syscall.Kill(os.Getpid(), syscall.SIGKILL)
	select {} // until the signal arrives
}

// dieIfPlanned is called at the beginning of each call, with its kind.
func (c *child) dieIfPlanned(call string) {
	if c.Death.Call != call || c.calls.Add(1) != c.Death.Nth {
		return
	}
	c.log.write(logDying, call)
	go func() {
		time.Sleep(c.Death.After)
		die()
	}()
}

// randomTime returns a random duration of at least 0 and less than limit.
func randomTime(random *rand.Rand, limit time.Duration) time.Duration {
	return time.Duration(random.Int64N(int64(limit)))
}

// sleep waits for d. If ctx ends first it returns ctx's error.
func sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

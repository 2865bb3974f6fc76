package crashlab

import (
	"time"

	"github.com/pinion-queue/pinion"
)

// Step is one step of a sequence: a call of a storage's method, or a sleep. A Go literal leaves out what is
// zero.
type Step struct {
	Verb   string // a method of Storage (Dequeue does not wait), or Wait, which is a Dequeue that waits, or Sleep
	Worker int    // who makes the call; each worker has its own claims

	// Claims choose the claimed jobs that the call is about, from all that the worker was ever given. The
	// ones that it still has come first, the newest of them first; then the ones it has lost. 0 is the first,
	// and counting starts again at the end. -1 is a job that never existed. -2 is the first with Attempts one
	// too high.
	Claims []int

	Jobs    []Spec        // for Enqueue
	Garbage bool          // for Enqueue: the jobs have values in the fields that only the storage sets
	Twice   bool          // for Enqueue: the first job is passed a second time
	Max     int           // for Dequeue and Wait
	Ahead   int           // for Dequeue: how many of Max may be claimed ahead of free slots
	Queues  []string      // for Dequeue and Wait
	Tasks   []string      // for Dequeue and Wait
	Lease   time.Duration // for Dequeue and Wait
	Queue   string        // for SetLimit
	Limit   int           // for SetLimit
	Filter  pinion.Filter // for the methods that take one; Cancel takes its IDs
	After   time.Duration // the Filter's After, from now; 0: none
	Before  time.Duration // the Filter's Before, from now; 0: none
	ID      string        // for Get
	Cause   string        // for MarkFailed, DeadLetter and Release: the error; "": nil; "used up": pinion.ErrAttemptsUsedUp
	Result  string        // for MarkDone, DeadLetter and Heartbeat: JSON, or "" for none
	Started bool          // for Heartbeat: the jobs have a StartedAt, which is now
	For     time.Duration // see below
	Ended   bool          // the call's context has ended (not for Dequeue and Wait)

	// For is how long Sleep and Wait last, and ReapStale's visibility. It is the time from now of MarkFailed, Prune,
	// Reschedule and Release, of which 0 is the zero time for the latter two. History is asked since so long ago, and
	// 0 is since ever.
}

// Spec describes a job to be enqueued.
type Spec struct {
	ID, Task, Queue, Key string
	KeyUntilStart        bool
	Meta                 map[string]string
	Priority             int
	Due                  time.Duration // from now; 0: RunAt is not set
	Args                 []any
	Kwargs               map[string]any
}

// Epoch as a Due is the first second of 1970.
const Epoch time.Duration = -1 << 63

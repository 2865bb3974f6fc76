package crashlab

import (
	"time"

	"github.com/pinion-queue/pinion"
)

// KnownFault is a sequence in which a storage once differed from the reference.
type KnownFault struct {
	Name  string // what is right, as a sentence
	Steps []Step
}

// KnownFaults are the faults that a [Model] has found. The tests of every storage play them, so that no
// storage has one of them again.
var KnownFaults = []KnownFault{
	{"a filter's status says nothing about dead letters", []Step{
		{Verb: "Enqueue", Jobs: []Spec{{Task: "t"}}},
		{Verb: "Dequeue", Worker: 1, Max: 1},
		{Verb: "DeadLetter", Worker: 1, Claims: []int{0}},
		{Verb: "DeadLetters", Filter: pinion.Filter{Status: "RUNNING"}},
		{Verb: "Replay", Filter: pinion.Filter{Status: "RUNNING"}},
	}},
	{"a filter ignores the case of every letter in a task, not only of ASCII letters", []Step{
		{Verb: "Enqueue", Jobs: []Spec{{Task: "Ärger"}, {Task: "other"}}},
		{Verb: "Jobs", Filter: pinion.Filter{Task: "äRGER"}},
		{Verb: "Dequeue", Max: 1},
		{Verb: "DeadLetter", Claims: []int{0}},
		{Verb: "DeadLetters", Filter: pinion.Filter{Task: "ärger"}},
		{Verb: "Replay", Filter: pinion.Filter{Task: "ÄRGER"}},
	}},
	{"a job whose first lease is taken back has no due time", []Step{
		{Verb: "Enqueue", Jobs: []Spec{{Task: "t", Due: 1}}},
		{Verb: "Dequeue", Max: 1, Lease: 500 * time.Millisecond},
		{Verb: "Sleep", For: 1 * time.Second},
		{Verb: "ReapStale"},
		{Verb: "Sleep", For: 1 * time.Second},
		{Verb: "ReapStale"},
	}},
	{"a claim that looks past a job leaves it to the next one, with several queues", []Step{
		{Verb: "Enqueue", Jobs: []Spec{{Task: "t"}, {Task: "t", Queue: "q"}}},
		{Verb: "Dequeue", Max: 1, Tasks: []string{"u"}},
		{Verb: "Dequeue", Max: 1},
	}},
	{"a claim that stops before a job leaves it to the next one, with several queues", []Step{
		{Verb: "Enqueue", Jobs: []Spec{{Task: "t"}}},
		{Verb: "Dequeue", Max: 1},
		{Verb: "Release", Claims: []int{0}},
		{Verb: "Enqueue", Jobs: []Spec{{Task: "t", Queue: "q"}}},
		{Verb: "Dequeue", Max: 1, Ahead: 1},
		{Verb: "Dequeue", Max: 2},
	}},
	{"a filter finds a task by the sign of the Kelvin", []Step{
		{Verb: "Enqueue", Jobs: []Spec{{Task: "k"}}},
		{Verb: "Jobs", Filter: pinion.Filter{Task: "\u212A"}},
	}},
	{"a replayed job has no result", []Step{
		{Verb: "Enqueue", Jobs: []Spec{{Task: "t"}}},
		{Verb: "Dequeue", Max: 1},
		{Verb: "DeadLetter", Claims: []int{0}, Result: "1"},
		{Verb: "Replay"},
	}},
	{"the end of a lease is a whole number of microseconds", []Step{
		{Verb: "Enqueue", Jobs: []Spec{{Task: "t"}}},
		{Verb: "Dequeue", Max: 1, Lease: 2012501 * time.Microsecond},
	}},
	{"Prune compares times in whole microseconds", []Step{
		{Verb: "Enqueue", Jobs: []Spec{{Task: "t"}}},
		{Verb: "Dequeue", Max: 1},
		{Verb: "MarkDone", Claims: []int{0}},
		{Verb: "Prune"},
	}},
	{"a key that a batch uses twice and a stored job holds is reported with the stored job's id", []Step{
		{Verb: "Enqueue", Jobs: []Spec{{Task: "t", Key: "l"}}},
		{Verb: "Enqueue", Jobs: []Spec{{Task: "t", Key: "l"}, {Task: "t", Key: "l"}}},
	}},
}

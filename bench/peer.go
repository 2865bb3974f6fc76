package main

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
)

// peer is one queue, in one configuration.
type peer struct {
	name  string
	about string // how it is set up, for whoever reads the result
	// files names what the peer's folder holds. Peers with the same files can take over each other's folders, so
	// that a million jobs are prepared once for several of them. Empty: it keeps nothing in files.
	files string
	open  func(ctx context.Context, dir string) (queue, error)
	serve func(ctx context.Context, dir string) (stop func() error, err error) // starts the server it needs, if any
	loops map[string]loop                                                      // the yardstick's, in place of open
	skip  []skip                                                               // what it does not take part in

	inForce []string // settings, once read back
	missing string   // why it cannot be run here
}

type skip struct{ workloads, why string }

// skips tells why the peer has no part in a workload, or returns "".
func (p *peer) skips(w *workload) string {
	for _, s := range p.skip {
		if selects(s.workloads, w.name) {
			return s.why
		}
	}
	if p.loops != nil && p.loops[w.name] == nil {
		return "a loop without a queue"
	}
	return ""
}

// queue is what workloads ask of a peer.
type queue interface {
	// enqueue stores jobs, in one call of the peer's if it has one for several, and returns when they are stored.
	enqueue(ctx context.Context, payloads ...string) error
	// work starts a worker that calls task for each job, slots at once. stop ends it, when no job is running.
	work(ctx context.Context, slots int, task func(payload string)) (stop func() error, err error)
	// settled reports whether no job is due or running any more, n of them having been enqueued. It is asked
	// again and again while the clock runs, and must cost next to nothing.
	settled(ctx context.Context, n int) (bool, error)
	// counts tells how many jobs wait and how many are recorded as done; -1 if the peer keeps no such record.
	counts(ctx context.Context) (waiting, done int, err error)
	// settings reads back what is in force.
	settings(ctx context.Context) ([]string, error)
	close() error
}

// scheduler is a queue that takes jobs for later.
type scheduler interface {
	enqueueAt(ctx context.Context, due time.Time, payloads ...string) error
}

// allPeers are in the order of the report.
func allPeers() []*peer {
	return slices.Concat(pinionPeers(), rawPeers(), backlitePeers(), goqitePeers(), riverPeers(),
		asynqPeers(), postgresPeers())
}

// Groups of workloads that peers leave out.
const (
	twoProcesses = "roundtrip2,processes,slow"
	onlyPinions  = "idle-memory,backlog-1m,history,future,memory,queues,stats,locks" // questions about Pinion alone
	askedOfUs    = "asked of Pinion alone"
)

// selects reports whether a comma-separated list has a workload's name or, up to a hyphen, its beginning.
func selects(list, name string) bool {
	family, _, _ := strings.Cut(name, "-")
	for item := range strings.SplitSeq(list, ",") {
		item = strings.TrimSpace(item)
		if item == name || item == family {
			return true
		}
	}
	return false
}

// Every job carries 100 bytes: its number, the moment its enqueueing began, and padding.
const (
	payloadLen = 100
	numberLen  = 10
	stampLen   = 20
)

const zeros = "00000000000000000000"

func payload(number int) string { return stampedPayload(number, 0) }

func stampedPayload(number int, at int64) string {
	var b [payloadLen]byte
	n, s := strconv.Itoa(number), strconv.FormatInt(at, 10)
	copy(b[copy(b[:], zeros[:numberLen-len(n)]):], n)
	copy(b[numberLen+copy(b[numberLen:], zeros[:stampLen-len(s)]):], s)
	for i := numberLen + stampLen; i < payloadLen; i++ {
		b[i] = 'x'
	}
	return string(b[:])
}

func payloads(first, n int) []string {
	list := make([]string, n)
	for i := range list {
		list[i] = payload(first + i)
	}
	return list
}

// parse returns what stampedPayload was given.
func parse(payload string) (number int, at int64, err error) {
	if len(payload) != payloadLen {
		return 0, 0, fmt.Errorf("a payload of %d bytes arrived; all were sent with %d", len(payload), payloadLen)
	}
	number, err = strconv.Atoi(payload[:numberLen])
	if err == nil {
		at, err = strconv.ParseInt(payload[numberLen:numberLen+stampLen], 10, 64)
	}
	return number, at, err
}

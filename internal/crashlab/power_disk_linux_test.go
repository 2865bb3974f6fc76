package crashlab_test

import (
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// disk is a model of a folder on a disk. It applies recorded calls and knows, at any time, what is certainly
// on the disk and what may or may not be.
type disk struct {
	calls        []fileCall
	names        map[string]*diskFile // the files that the running system sees
	synced       map[string]*diskFile // the files that it saw when the folder was last fsynced
	acknowledged []string             // ids of jobs
}

// diskFile is a file. The names of a folder may change, but not which file is which.
type diskFile struct {
	synced   []byte     // the contents that are certainly on the disk
	unsynced []fileCall // writes and truncations since, each of which may be on the disk or not
}

// folder is the name of the folder itself in a fileCall.
const folder = ""

func newDisk(calls []fileCall) *disk {
	return &disk{
		calls:  calls,
		names:  make(map[string]*diskFile),
		synced: make(map[string]*diskFile),
	}
}

// apply applies the n-th call.
func (d *disk) apply(n int) {
	call := d.calls[n]
	switch call.verb {
	case "ack":
		d.acknowledged = append(d.acknowledged, strings.Fields(string(call.data))...)
	case "create":
		if d.names[call.name] == nil {
			d.names[call.name] = new(diskFile)
		}
	case "write", "truncate":
		f := d.names[call.name]
		f.unsynced = append(f.unsynced, call)
	case "remove":
		delete(d.names, call.name)
	case "sync":
		if call.name == folder {
			d.syncFolder(call)
		} else {
			d.names[call.name].sync(call)
		}
	}
}

// syncFolder makes the names of the files certain. If a name came or went while the fsync ran, it may be
// covered or not; then the model assumes that the fsync has done nothing.
func (d *disk) syncFolder(sync fileCall) {
	for _, call := range d.calls[sync.began:sync.index] {
		if call.verb == "create" || call.verb == "remove" {
			return
		}
	}
	d.synced = maps.Clone(d.names)
}

// sync makes certain what was written before the fsync began.
func (f *diskFile) sync(sync fileCall) {
	covered := 0
	for covered < len(f.unsynced) && f.unsynced[covered].index < sync.began {
		f.synced = applyTo(f.synced, f.unsynced[covered], everythingIsKept)
		covered++
	}
	f.unsynced = f.unsynced[covered:]
}

// writeAfterLoss writes into a real folder what the disk may hold after a loss of power. The fate decides
// what becomes of all that was not fsynced. The -shm file, which is only shared memory, has random contents
// or is missing.
func (d *disk) writeAfterLoss(dir string, fate fate, random *rand.Rand) error {
	files := maps.Clone(d.synced)
	for name, f := range d.names {
		if fate.isKept() {
			files[name] = f
		}
	}
	for name := range d.synced {
		wasRemoved := d.names[name] == nil
		if wasRemoved && fate.isKept() {
			delete(files, name)
		}
	}
	for name, f := range files {
		contents := slices.Clone(f.synced)
		for _, call := range f.unsynced {
			contents = applyTo(contents, call, fate)
		}
		if err := os.WriteFile(filepath.Join(dir, name), contents, 0o600); err != nil {
			return err
		}
	}
	if random.IntN(2) == 0 {
		return nil
	}
	shm := make([]byte, 32<<10)
	for i := range shm {
		shm[i] = byte(random.Uint32())
	}
	return os.WriteFile(filepath.Join(dir, "q.db-shm"), shm, 0o600)
}

// fate decides what becomes of the calls that no fsync has covered.
type fate struct {
	name   string
	isKept func() bool // of one call, or of one part of a write
	part   int         // writes are kept or lost in parts of this size, in bytes; 0: as a whole
	random bool        // isKept is random
}

var everythingIsKept = fate{isKept: func() bool { return true }}

func fates(random *rand.Rand) []fate {
	never := func() bool { return false }
	always := func() bool { return true }
	sometimes := func() bool { return random.IntN(2) == 0 }
	return []fate{
		{"nothing else is kept", never, 0, false},
		{"everything else is kept", always, 0, false},
		{"some other writes are kept", sometimes, 0, true},
		{"some other pages are kept", sometimes, 4096, true},
		{"some other sectors are kept", sometimes, 512, true},
	}
}

// applyTo applies a write or a truncation to the contents of a file, as far as the fate keeps it.
func applyTo(contents []byte, call fileCall, fate fate) []byte {
	if call.verb == "truncate" {
		if fate.isKept() {
			contents = grow(contents, int(call.offset))[:call.offset]
		}
		return contents
	}
	at := int(call.offset)
	for data := call.data; len(data) > 0; {
		n := len(data)
		if fate.part > 0 {
			n = min(n, fate.part-at%fate.part) // up to the next boundary
		}
		if fate.isKept() {
			contents = grow(contents, at+n)
			copy(contents[at:], data[:n])
		}
		at += n
		data = data[n:]
	}
	return contents
}

// grow appends zeros until contents has at least the given size.
func grow(contents []byte, size int) []byte {
	missing := max(size-len(contents), 0)
	return append(contents, make([]byte, missing)...)
}

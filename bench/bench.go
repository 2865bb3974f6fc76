package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"
)

// bench runs workloads, and keeps the folders it has prepared for them.
type bench struct {
	root     string  // of all folders
	scale    float64 // of all numbers of jobs
	rounds   int
	limit    time.Duration // of one measurement, its preparation included
	log      io.Writer
	prepared map[string]string // folders, by peer.files and what is in them
}

const slots = 8

// count is how many jobs to use where n are meant: enough to mean something, and a multiple of the producers.
func (b *bench) count(n int) int { return max(int(float64(n)*b.scale)/8*8, min(n, 32)) }

// long is the same for a time.
func (b *bench) long(d time.Duration) time.Duration {
	return max(time.Duration(float64(d)*b.scale), min(d, 100*time.Millisecond))
}

// run measures each peer at each workload. Rounds go peer by peer, so that a machine that changes its pace does
// so for all of them.
func (b *bench) run(ctx context.Context, workloads []*workload, peers []*peer) *results {
	r := newResults(peers)
	for _, w := range workloads {
		failed := make(map[*peer]bool)
		for round := range b.rounds {
			for i := range peers {
				p := peers[(i+round)%len(peers)] // another one begins each round
				why := p.skips(w)
				if why != "" {
					r.skipped(w, p, why)
				}
				if why != "" || failed[p] || ctx.Err() != nil {
					continue
				}
				fmt.Fprintf(b.log, "%s, round %d of %d: %s\n", w.name, round+1, b.rounds, p.name)
				measured, err := b.measure(ctx, w, p)
				if err != nil {
					failed[p] = true // once is enough: it might take as long again
					r.failed(w, p, err)
					fmt.Fprintf(b.log, "  %v\n", err)
				}
				r.add(p, measured)
			}
		}
	}
	return r
}

// measured is one figure of one round.
type measured struct {
	name  string // the workload's, and what of it
	unit  string
	value float64
	less  bool // is better
}

func (b *bench) measure(ctx context.Context, w *workload, p *peer) (all []measured, err error) {
	ctx, cancel := context.WithTimeout(ctx, b.limit)
	defer cancel()
	s := &stage{bench: b, peer: p}
	defer func() { err = errors.Join(err, s.clear()) }()
	if err := s.set(ctx, w); err != nil {
		return nil, fmt.Errorf("preparing: %w", err)
	}
	runtime.GC()
	if b.scale >= 1 {
		flushDisks()
	}
	if l := p.loops[w.name]; l != nil {
		if err := s.queue.close(); err != nil {
			return nil, err
		}
		s.queue = nil
		took, err := l(ctx, s.dir, s.n)
		return []measured{rate(w.name, s.n, took)}, err
	}
	return w.run(ctx, s)
}

func rate(name string, n int, took time.Duration) measured {
	return measured{name: name, unit: "jobs/s", value: float64(n) / took.Seconds()}
}

func milliseconds(name string, d time.Duration) measured {
	return measured{name, "ms", d.Seconds() * 1e3, true}
}

// stage is what a measurement plays on: a peer with its folder, its server if it needs one, and its queue, open.
type stage struct {
	*bench
	peer  *peer
	name  string // of the workload
	n     int    // its jobs
	dir   string
	stop  func() error // the server
	queue queue
}

func (s *stage) set(ctx context.Context, w *workload) (err error) {
	s.name, s.n = w.name, s.count(w.jobs)
	s.dir, err = os.MkdirTemp(s.root, s.peer.name+"-")
	if err != nil {
		return err
	}
	if w.content == nil {
		return s.openIn(ctx)
	}
	if s.peer.files == "" {
		return errors.Join(s.openIn(ctx), w.content.fill(ctx, s.queue, s.count))
	}
	from, err := s.prepare(ctx, s.peer, w.content)
	if err != nil {
		return err
	}
	if err := os.CopyFS(s.dir, os.DirFS(from)); err != nil {
		return err
	}
	return s.openIn(ctx)
}

// openIn starts what the peer needs and opens its queue in the stage's folder.
func (s *stage) openIn(ctx context.Context) (err error) {
	if s.peer.serve != nil {
		s.stop, err = s.peer.serve(ctx, s.dir)
		if err != nil {
			return err
		}
	}
	s.queue, err = s.peer.open(ctx, s.dir)
	return err
}

func (s *stage) clear() (err error) {
	if s.queue != nil {
		err = s.queue.close()
	}
	if s.stop != nil {
		err = errors.Join(err, s.stop())
	}
	return errors.Join(err, os.RemoveAll(s.dir))
}

// prepare returns a folder with the content asked for, made the first time.
func (b *bench) prepare(ctx context.Context, p *peer, c *content) (dir string, err error) {
	key := p.files + "-" + c.name
	if dir := b.prepared[key]; dir != "" {
		return dir, nil
	}
	fmt.Fprintf(b.log, "  preparing %s\n", key)
	s := &stage{bench: b, peer: p, dir: filepath.Join(b.root, key)}
	if err := os.Mkdir(s.dir, 0o700); err != nil {
		return "", err
	}
	err = s.openIn(ctx)
	if err == nil {
		err = c.fill(ctx, s.queue, b.count)
	}
	dir, s.dir = s.dir, filepath.Join(b.root, "none") // clear is to leave it
	err = errors.Join(err, s.clear())
	if err != nil {
		return "", errors.Join(err, os.RemoveAll(dir))
	}
	b.prepared[key] = dir
	return dir, nil
}

// read asks the peers for the settings in force, and leaves out those that cannot be run here.
func (b *bench) read(ctx context.Context, peers []*peer) (here []*peer, err error) {
	for _, p := range peers {
		s := &stage{bench: b, peer: p}
		err := s.set(ctx, &workload{})
		var settings []string
		if err == nil {
			settings, err = s.queue.settings(ctx)
		}
		err = errors.Join(err, s.clear())
		if err != nil {
			p.missing = strings.ReplaceAll(err.Error(), "\n", "; ")
			continue
		}
		p.inForce = settings
		here = append(here, p)
	}
	if len(here) == 0 {
		return nil, errors.New("no peer can be run here")
	}
	return here, nil
}

func peerNamed(name string) (*peer, error) {
	for _, p := range allPeers() {
		if p.name == name {
			return p, nil
		}
	}
	return nil, fmt.Errorf("there is no peer %q", name)
}

// percentile of durations, which it sorts.
func percentile(d []time.Duration, of float64) time.Duration {
	slices.Sort(d)
	return d[min(int(float64(len(d))*of), len(d)-1)]
}

// syncTime is how long this folder's disk takes to make four kilobytes durable: the price of each commit at FULL.
func syncTime(dir string) (d time.Duration, err error) {
	f, err := os.CreateTemp(dir, "sync-")
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, f.Close(), os.Remove(f.Name())) }()
	took := make([]time.Duration, 200)
	for i := range took {
		start := time.Now()
		_, err = f.WriteAt(make([]byte, 4096), 0)
		if err == nil {
			err = f.Sync()
		}
		if err != nil {
			return 0, err
		}
		took[i] = time.Since(start)
	}
	return percentile(took, 0.5), nil
}

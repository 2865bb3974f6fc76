// Command bench measures Pinion beside other job queues for Go, in one run on one machine: the queues that need
// no server, one that does, and a bare loop of SQL as the limit of what a queue on SQLite can reach. It is a
// module of its own, so that Pinion does not depend on its peers. In this folder:
//
//	go run .                                  everything, three rounds; takes an hour
//	go run . -scale 0.05 -rounds 1            everything, small: a first look
//	go run . -workloads drain,mixed -peers pinion,raw
//	go run . -json result.json -svg chart.svg
//
// Backlite's driver needs a C compiler, asynq needs redis-server in the PATH, the peers on PostgreSQL need the
// URL of a server in PINION_POSTGRES_URL (../.ci/with-postgres go run . starts one); what is missing is left
// out, with a line that says so. The exit status is 1 if a queue lost a job or ran one twice, whatever the
// figures are.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"syscall"
	"time"
)

func main() {
	if runChild() {
		return
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	os.Exit(run(ctx, os.Args[1:], os.Stdout, os.Stderr))
}

func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	b := &bench{log: stderr, prepared: make(map[string]string)}
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.IntVar(&b.rounds, "rounds", 3, "measure everything so often; medians are reported")
	flags.Float64Var(&b.scale, "scale", 1, "multiply all numbers of jobs by this; below 1 is for a quick look")
	flags.DurationVar(&b.limit, "limit", 10*time.Minute, "give a measurement up after this time")
	dir := flags.String("dir", "",
		"keep the files in a folder made here [the system's for temporary files]; it must be a real disk")
	workloads := flags.String("workloads", "",
		"only these, separated by commas; processes means all of processes-1, processes-2, …")
	peers := flags.String("peers", "", "only these, likewise")
	jsonFile := flags.String("json", "", "write the result as JSON to this file")
	svgFile := flags.String("svg", "", "draw the result as a chart in this file")
	if err := flags.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return 0
		}
		return 2
	}
	if flags.NArg() > 0 || b.rounds < 1 || b.scale <= 0 {
		fmt.Fprintln(stderr, "bench takes flags alone; -rounds and -scale must be positive")
		return 2
	}
	r, err := b.all(ctx, *dir, *workloads, *peers)
	if err == nil {
		err = errors.Join(r.writeTable(stdout), toFile(*jsonFile, r.writeJSON), toFile(*svgFile, r.writeSVG))
	}
	if err != nil {
		fmt.Fprintln(stderr, err)
		return 1
	}
	if r.anyFailed() {
		return 1
	}
	return 0
}

// all makes the folder, runs what was asked for and takes the folder away again.
func (b *bench) all(ctx context.Context, dir, workloads, peers string) (r *results, err error) {
	chosen, err := choose(allWorkloads, workloads, func(w *workload) string { return w.name })
	if err != nil {
		return nil, err
	}
	candidates, err := choose(allPeers(), peers, func(p *peer) string { return p.name })
	if err != nil {
		return nil, err
	}
	b.root, err = os.MkdirTemp(dir, "pinion-bench-")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(b.root)) }()
	conditions, err := b.conditions()
	if err != nil {
		return nil, err
	}
	here, err := b.read(ctx, candidates)
	if err != nil {
		return nil, err
	}
	r = b.run(ctx, chosen, here)
	if ctx.Err() != nil {
		return nil, errors.New("interrupted")
	}
	r.finish(conditions, candidates)
	return r, nil
}

// choose picks from what there is by a list of names. No list means everything.
func choose[T any](there []T, list string, name func(T) string) ([]T, error) {
	if list == "" {
		return there, nil
	}
	for item := range strings.SplitSeq(list, ",") {
		if !slices.ContainsFunc(there, func(t T) bool { return selects(item, name(t)) }) {
			var names []string
			for _, t := range there {
				names = append(names, name(t))
			}
			return nil, fmt.Errorf("there is no %q; there are %s", item, strings.Join(names, ", "))
		}
	}
	return slices.DeleteFunc(slices.Clone(there), func(t T) bool { return !selects(list, name(t)) }), nil
}

// conditions are what the figures depend on.
func (b *bench) conditions() ([]string, error) {
	sync, err := syncTime(b.root)
	if err != nil {
		return nil, err
	}
	disk := fmt.Sprintf("fsync %.2f ms", sync.Seconds()*1e3)
	if sync < 10*time.Microsecond {
		disk += " (no real disk: FULL and NORMAL will not differ; see -dir)"
	}
	conditions := []string{
		fmt.Sprintf("%s, %s/%s, %d cores, %s", runtime.Version(), runtime.GOOS, runtime.GOARCH, runtime.NumCPU(), disk),
		fmt.Sprintf("medians of %d rounds, scale %s", b.rounds, number(b.scale)),
	}
	if info, ok := debug.ReadBuildInfo(); ok {
		var versions []string
		for _, m := range info.Deps {
			if name := named[m.Path]; name != "" {
				versions = append(versions, name+" "+m.Version)
			}
		}
		conditions = append(conditions, strings.Join(versions, ", "))
	}
	return conditions, nil
}

// named are the modules whose versions matter.
var named = map[string]string{
	"modernc.org/sqlite": "modernc sqlite", "github.com/mattn/go-sqlite3": "mattn sqlite3",
	"github.com/mikestefanello/backlite": "backlite", "github.com/riverqueue/river": "river",
	"maragu.dev/goqite": "goqite", "github.com/hibiken/asynq": "asynq", "github.com/jackc/pgx/v5": "pgx",
}

func toFile(name string, write func(io.Writer) error) error {
	if name == "" {
		return nil
	}
	f, err := os.Create(name)
	if err != nil {
		return err
	}
	return errors.Join(write(f), f.Close())
}

package main

import (
	"bytes"
	"encoding/json"
	"encoding/xml"
	"errors"
	"io"
	"os"
	"slices"
	"strings"
	"testing"
	"time"
)

// TestMain lets the tests start other processes as the command does.
func TestMain(m *testing.M) {
	if !runChild() {
		os.Exit(m.Run())
	}
}

// Every workload checks its own jobs. Here they all run, small, for every peer that this machine has.
func TestEveryPeerPassesEveryWorkload(t *testing.T) {
	for _, p := range allPeers() {
		t.Run(p.name, func(t *testing.T) {
			t.Parallel()
			b := &bench{
				root: t.TempDir(), scale: 0.001, rounds: 1, limit: 30 * time.Second, log: t.Output(),
				prepared: make(map[string]string),
			}
			here, err := b.read(t.Context(), []*peer{p})
			if err != nil && os.Getenv("PINION_TEST_ALL") != "" {
				t.Fatalf("%v: %s", err, p.missing)
			}
			if err != nil {
				t.Skipf("%v: %s", err, p.missing)
			}
			r := b.run(t.Context(), allWorkloads, here)
			for _, n := range r.Notes {
				if n.Failed {
					t.Errorf("%s: %s", n.Workload, n.Why)
				}
			}
			for _, w := range allWorkloads {
				measured := slices.ContainsFunc(r.Figures, func(f *figure) bool {
					return f.Name == w.name || strings.HasPrefix(f.Name, w.name+" ")
				})
				if skipped := p.skips(w) != ""; measured == skipped {
					t.Errorf("%s: measured is %v, left out is %v", w.name, measured, skipped)
				}
			}
		})
	}
}

// The check is what makes the figures worth anything, so it must find what it is for.
func TestTheTallyFindsWhatIsWrong(t *testing.T) {
	for name, c := range map[string]struct {
		ran   []int
		wrong string
	}{
		"nothing":             {[]int{0, 1, 2}, ""},
		"a job that was lost": {[]int{0, 2}, "ran 2 times, 3 were enqueued"},
		"a job that ran twice, another not at all": {[]int{0, 2, 2}, "1 runs of jobs that had run before"},
		"a job from elsewhere":                     {[]int{0, 1, 64}, "1 of jobs that nobody enqueued"},
	} {
		t.Run(name, func(t *testing.T) {
			here, there := newTally(3), newTally(3)
			for i, n := range c.ran {
				[]*tally{here, there}[i%2].run(payload(n))
			}
			here.add(there.record())
			if err := here.check(3); (err == nil) != (c.wrong == "") ||
				err != nil && !strings.Contains(err.Error(), c.wrong) {
				t.Errorf("got %v, want %q", err, c.wrong)
			}
		})
	}
}

func TestPayloadsHaveTheirLengthAndComeBack(t *testing.T) {
	now := time.Now().UnixNano()
	p := stampedPayload(1_234_567, now)
	if number, at, err := parse(p); len(p) != payloadLen || number != 1_234_567 || at != now || err != nil {
		t.Errorf("%q of %d bytes: %d, %d, %v", p, len(p), number, at, err)
	}
}

func TestACommandRunsFromFlagsToFiles(t *testing.T) {
	dir := t.TempDir()
	var out, log bytes.Buffer
	code := run(t.Context(), []string{"-scale", "0.001", "-rounds", "2", "-peers", "pinion,raw-FULL", "-workloads", "drain,processes-2",
		"-dir", dir, "-json", dir + "/r.json", "-svg", dir + "/r.svg"}, &out, &log)
	if code != 0 {
		t.Fatalf("exit status %d: %s", code, log.String())
	}
	for _, want := range []string{"raw-FULL", "jobs/s", "drain of pinion-FULL: at least 0.9 times raw-FULL's drain"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("the table lacks %q:\n%s", want, out.String())
		}
	}
	var r results
	text, err := os.ReadFile(dir + "/r.json")
	err = errors.Join(err, json.Unmarshal(text, &r))
	if err != nil {
		t.Fatal(err)
	}
	if f := r.figure("drain", "pinion-FULL"); f == nil || len(f.Rounds) != 2 || f.Min > f.Median || f.Median > f.Max {
		t.Errorf("drain of pinion-FULL is %+v", f)
	}
	chart, err := os.Open(dir + "/r.svg")
	if err != nil {
		t.Fatal(err)
	}
	defer chart.Close()
	for d := xml.NewDecoder(chart); err == nil; {
		_, err = d.Token()
	}
	if err != io.EOF {
		t.Errorf("the chart is no XML: %v", err)
	}
	left, err := os.ReadDir(dir)
	if len(left) != 2 || err != nil {
		t.Errorf("files are left behind: %v, %v", left, err)
	}
	if code := run(t.Context(), []string{"-peers", "nobody"}, &out, &log); code != 1 {
		t.Errorf("an unknown peer: exit status %d", code)
	}
}

func TestNumbersAreShort(t *testing.T) {
	for x, want := range map[float64]string{0: "0", 0.00123: "0.00123", 0.5: "0.5", 1.05: "1.05", 12.345: "12.3", 700_000: "700,000", 1234.5: "1,234"} {
		if got := number(x); got != want {
			t.Errorf("number(%v) is %s, want %s", x, got, want)
		}
	}
}

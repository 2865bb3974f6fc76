//go:build unix

package crashlab

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/pinion-queue/pinion"
)

// A good life: a job fails once, its second worker is killed, and the third finishes it. Claims are at the second of
// their number.
const goodLife = `
1000000 1 try	a:flaky	.
1000001 1 ack	a	.
2000000 2 start	a:2	1	2000000	flaky	.
2000001 2 end	a:2	failed	.
2000002 2 ending	failed	a:2	.
2000003 2 ended	failed	a:2	.
3000000 2 start	a:3	2	3000000	flaky	.
3000001 0 kill	2	.
5000000 3 start	a:5	3	5000000	flaky	.
5000001 3 end	a:5	ok	.
5000002 3 ending	done	a:5	.
5000003 3 ended	done	a:5	.
`

func succeeded() *pinion.Job {
	return &pinion.Job{ID: "a", Task: "flaky", Status: pinion.StatusSuccess, Attempts: 3, Claim: 5, Result: json.RawMessage("5")}
}

func dead(task string, attempts int, err error) *pinion.Job {
	return &pinion.Job{ID: "a", Task: task, Status: pinion.StatusFailed, Attempts: attempts, Claim: 5, Error: err.Error()}
}

// Each of the laboratory's assertions can fail.
func TestTheJudgeSeesWhatIsWrong(t *testing.T) {
	usedUp, other := pinion.ErrAttemptsUsedUp, fmt.Errorf("so it goes")
	for _, test := range []struct {
		name    string
		old, by string // what is different in the log
		row     *pinion.Job
		letter  *pinion.Job
		want    []string
	}{
		{"nothing", "", "", succeeded(), nil, nil},
		{"the row is gone, but the log saw it done", "", "", nil, nil, nil},
		{"the row is gone", "5000003 3 ended\tdone", "5000003 3 lost", nil, nil, []string{"it was acknowledged and is gone"}},
		{"the row is gone, but the pruner saw it done", "5000003 3 ended\tdone\ta:5", "5000003 4 saw\ta:5:5", nil, nil, nil},
		{"the pruner saw an old claim", "5000003 3 ended\tdone\ta:5", "5000003 4 saw\ta:5:2", nil, nil,
			[]string{"the pruner saw that it was finished by claim 2, and its newest was 5"}},
		{"a write of the log was cut short", "1000001 1 ack\ta\t.", "1000001 1 ack\ta\t", succeeded(), nil, nil},
		{"never ended", "", "", &pinion.Job{ID: "a", Task: "flaky", Status: pinion.StatusPending, Attempts: 3, Claim: 5}, nil, []string{"it never ended"}},
		{"two ends in the storage", "", "", succeeded(), dead("flaky", 4, usedUp), []string{"it succeeded and is in the dead-letter queue"}},
		{"no dead letter", "", "", dead("flaky", 3, usedUp), nil, []string{"it FAILED and is not in the dead-letter queue"}},
		{"no row", "", "", nil, dead("flaky", 4, usedUp), []string{"its dead letter stands, and its row is gone"}},
		{"two ends in the log", "5000003 3", "5000003 4 ended\tdone\ta:3\t.\n5000003 3", succeeded(), nil,
			[]string{"it was ended twice", "its end (done) was recorded under claim 3, after claim 5"}},
		{"ran after its end", "", "6000000 4 start\ta:6\t4\t6000000\tflaky\t.\n", &pinion.Job{ID: "a", Task: "flaky", Status: pinion.StatusSuccess, Attempts: 4, Claim: 6, Result: json.RawMessage("6")},
			nil, []string{"it ran again after its end had been recorded", "it ran again after claim 5, whose process (child 3) came to no harm and knows of no lost lease"}},
		{"a stale end", "5000001 3", "5000001 2 ending\tfailed\ta:3\t.\n5000001 2 ended\tfailed\ta:3\t.\n5000001 3", succeeded(), nil,
			[]string{"its end (failed) was recorded under claim 3, after claim 5"}},
		{"an end that was asked for in time", "3000001 0", "3000001 2 ending\tfailed\ta:3\t.\n3000001 0", succeeded(), nil, nil},
		{"the result of a stale claim", "", "", &pinion.Job{ID: "a", Task: "flaky", Status: pinion.StatusSuccess, Attempts: 3, Claim: 5, Result: json.RawMessage("3")},
			nil, []string{"it was finished by claim 3, and its newest is 5"}},
		{"a claim goes back", "", "", &pinion.Job{ID: "a", Task: "flaky", Status: pinion.StatusSuccess, Attempts: 3, Claim: 4, Result: json.RawMessage("4")},
			nil, []string{"it ran under claim 5, and its newest is 4"}},
		{"too many attempts counted", "", "", &pinion.Job{ID: "a", Task: "flaky", Status: pinion.StatusSuccess, Attempts: 5, Claim: 5, Result: json.RawMessage("5")},
			nil, []string{"5 attempts are counted, and the policy has 4"}},
		{"an attempt beyond the policy", "a:5\t3", "a:5\t5", succeeded(), nil, []string{"it ran in attempt 5, and the policy has 4"}},
		{"attempts that are not counted", "3000000 2", "2100000 2 start\ta:21\t1\t2100000\tflaky\t.\n2100000 2 start\ta:22\t1\t9100000\tflaky\t.\n3000000 2",
			&pinion.Job{ID: "a", Task: "flaky", Status: pinion.StatusSuccess, Attempts: 3, Claim: 22, Result: json.RawMessage("22")}, nil,
			[]string{"it ran 5 times, was released 0 times, and has 4 attempts", "came to no harm", "was taken away"}},
		{"nobody was harmed", "3000001 0 kill", "3000001 0 resume", succeeded(), nil,
			[]string{"it ran again after claim 3, whose process (child 2) came to no harm and knows of no lost lease"}},
		{"more starts cut short than slots", "3000000 2 start\ta", "3000000 2 start\tb:3\t1\t3000000\tquick\t.\n4500000 3 start\tb:4\t2\t4500000\tquick\t.\n4500001 3 ended\tdone\tb:4\t.\n3000000 2 start\ta",
			succeeded(), nil, []string{"2 jobs started again that child 2 had begun and not ended; it had 1 slots"}},
		{"nobody was harmed, but the lease was lost", "3000001 0 kill\t2", "3000001 2 lost\ta:3\t.\n3000001 0 kill\t9", succeeded(), nil, nil},
		{"a lease taken too early", "5000000\tflaky", "3500000\tflaky", succeeded(), nil, []string{"the lease of claim 3 was taken away 500000 µs before its time"}},
		{"a claim used twice", "a:5\t3", "a:3\t3", succeeded(), nil, []string{"claim 3 was used twice"}},
		{"dead without having run", "start", "started", dead("flaky", 4, usedUp), dead("flaky", 4, usedUp),
			[]string{"it is in the dead-letter queue, never killed anything, and never ran"}},
		{"dead of an error that it does not have", "5000003 3 ended\tdone", "5000003 3 ended\tdead", dead("flaky", 4, other), dead("flaky", 4, other),
			[]string{"it is in the dead-letter queue for an error that it does not have at its last attempt"}},
		{"dead too early", "5000003 3 ended\tdone", "5000003 3 ended\tdead", dead("flaky", 3, usedUp), dead("flaky", 3, usedUp),
			[]string{"it was given up after 3 attempts, and has 4"}},
		{"dead too late", "5000003 3 ended\tdone", "5000003 3 ended\tdead", dead("doomed", 5, other), dead("doomed", 5, other),
			[]string{"it was given up after 5 attempts, and has 4"}},
		{"dead, and a claim that did not run it counted", "5000003 3 ended\tdone", "5000003 3 ended\tdead", dead("flaky", 5, usedUp), dead("flaky", 5, usedUp),
			[]string{"it was given up after 5 attempts, and has 4"}},
		{"dead, and innocent", "5000003 3 ended\tdone", "5000003 3 ended\tdead", dead("flaky", 4, usedUp), dead("flaky", 4, usedUp), nil},
		{"poison succeeded", "a:flaky", "a:poison", succeeded(), nil, []string{"it succeeded, which it never does"}},
		{"succeeded and never ran", "start", "started", succeeded(), nil, []string{"it succeeded, and never ran"}},
		{"half a batch", "1000000 1 try\ta:flaky\t.\n1000001 1 ack\ta\t.", "1000000 1 try\ta:flaky\tb:flaky\t.", succeeded(), nil,
			[]string{"of its call of Enqueue 1 of 2 jobs were stored"}},
		{"a stranger", "1000000 1 try\ta:flaky\t.", "", succeeded(), nil, []string{"nobody enqueued it"}},
		{"a shutdown that was not clean", "", "9000000 3 unclean\t\"tasks ignored it\"\t.\n", succeeded(), nil, []string{"a worker was in trouble"}},
		{"trouble", "", "9000000 3 trouble\t\"the disk is full\"\t.\n", succeeded(), nil, []string{"a worker was in trouble"}},
		{"waiting for a stopped process", "", "8000000 0 stop\t7\t.\n9000000 3 gave up\t\"the lock is held\"\t.\n", succeeded(), nil, nil},
		{"waiting for nobody", "", "9000000 3 gave up\t\"the lock is held\"\t.\n", succeeded(), nil, []string{"a worker was in trouble"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			if !strings.Contains(goodLife, test.old) {
				t.Fatal("the log has no such line")
			}
			log := strings.ReplaceAll(goodLife, test.old, test.by)
			if test.old == "" {
				log = goodLife + test.by
			}
			e := evidence{lines: parseBook(log), visibility: time.Second, slots: 1, poisonRetries: 3, strict: true,
				jobs: make(map[string]*pinion.Job), letters: make(map[string]*pinion.Job)}
			if test.row != nil {
				e.jobs["a"] = test.row
			}
			if test.letter != nil {
				e.letters["a"] = test.letter
			}
			var report Report
			e.judge(&report)
			for _, want := range test.want {
				if !strings.Contains(strings.Join(report.Violations, "\n"), want) {
					t.Errorf("it does not say %q; it says\n%s", want, strings.Join(report.Violations, "\n"))
				}
			}
			if len(test.want) == 0 && len(report.Violations) > 0 {
				t.Errorf("it says\n%s", strings.Join(report.Violations, "\n"))
			}
		})
	}
}

func TestTheJudgeTellsWaitsAroundAStopFromOthers(t *testing.T) {
	e := evidence{lines: parseBook("1000000 1 call\tdone\t300000\t.\n2000000 0 stop\t3\t.\n3000000 1 call\tdone\t800000\t.\n" +
		"3000001 0 resume\t3\t.\n4000000 1 call\tdone\t200000\t.\n9000000 1 call\tdone\t400000\t.\n")}
	var report Report
	e.judge(&report)
	if report.Wait != 400*time.Millisecond || report.WaitAfterStop != 800*time.Millisecond {
		t.Errorf("the longest waits are %v, and %v around the stop", report.Wait, report.WaitAfterStop)
	}
}

func TestTheLogIsReadAsItWasWritten(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	b, err := openBook(path, 7)
	if err != nil {
		t.Fatal(err)
	}
	b.write("start", "a:1", "2")
	fmt.Fprint(b.file, "\n123 7 ack\thalf of an id") // a kill
	b.write("saw")
	if err := b.file.Close(); err != nil {
		t.Fatal(err)
	}
	lines, err := readBook(path)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, l := range lines {
		got = append(got, fmt.Sprintf("%d %s %q", l.who, l.verb, l.words))
	}
	if diff := cmp.Diff([]string{`7 start ["a:1" "2"]`, `7 saw []`}, got); diff != "" {
		t.Errorf("the log (-want +got):\n%s", diff)
	}
	if _, err := os.Stat(path); err != nil {
		t.Error(err)
	}
}

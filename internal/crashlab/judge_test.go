package crashlab

import (
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pinion-queue/pinion"
)

// goodLife is a log without a fault. A job fails once, its second worker is killed, and a third worker
// finishes it. The second in which a claim was made is the number of the claim.
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

// succeeded is the row of the job at the end of the good life.
func succeeded() *pinion.Job { return succeededWith(3, 5, "5") }

func succeededWith(attempts int, claim int64, result string) *pinion.Job {
	return &pinion.Job{
		ID: "a", Task: "flaky", Status: pinion.StatusSuccess,
		Attempts: attempts, Claim: claim, Result: json.RawMessage(result),
	}
}

func pending() *pinion.Job {
	return &pinion.Job{ID: "a", Task: "flaky", Status: pinion.StatusPending, Attempts: 3, Claim: 5}
}

func dead(task string, attempts int, err error) *pinion.Job {
	return &pinion.Job{
		ID: "a", Task: task, Status: pinion.StatusFailed,
		Attempts: attempts, Claim: 5, Error: err.Error(),
	}
}

// reaped returns a job with a number of leases that were lost in a row.
func reaped(leases int, job *pinion.Job) *pinion.Job {
	job.Reaped = leases
	return job
}

// judged is a change to the good life, and what the judge must say about it.
type judged struct {
	name     string
	old, new string // old is replaced by new in the log; if old is "", new is appended
	row      *pinion.Job
	letter   *pinion.Job
	want     []string // parts of the violations; none: there must be no violation
}

func TestTheJudgeAcceptsWhatIsAllowed(t *testing.T) {
	usedUp := pinion.ErrAttemptsUsedUp
	testJudge(t, []judged{
		{name: "a good life", row: succeeded()},
		{name: "the row is gone, but the log says that the job succeeded"},
		{
			name: "the row is gone, but a pruner saw that the job succeeded",
			old:  "5000003 3 ended\tdone\ta:5", new: "5000003 4 saw\ta:5:5",
		},
		{
			name: "the line of the acknowledgement was cut short",
			old:  "1000001 1 ack\ta\t.", new: "1000001 1 ack\ta\t",
			row: succeeded(),
		},
		{
			name: "a failure is recorded before the job is claimed again, though its worker learns of that later",
			old:  "3000001 0", new: "3000001 2 ending\tfailed\ta:3\t.\n3000001 0",
			row: succeeded(),
		},
		{
			name: "a worker that nobody harmed was told that it lost the lease",
			old:  "3000001 0 kill\t2", new: "3000001 2 lost\ta:3\t.\n3000001 0 kill\t9",
			row: succeeded(),
		},
		{
			name: "a job used up its attempts because processes died",
			old:  "5000003 3 ended\tdone", new: "5000003 3 ended\tdead",
			row: dead("flaky", 4, usedUp), letter: dead("flaky", 4, usedUp),
		},
		{
			name: "the dead letter counts a claim whose worker died before the task started",
			old:  "5000003 3 ended\tdone", new: "5000003 3 ended\tdead",
			row: reaped(2, dead("flaky", 5, usedUp)), letter: dead("flaky", 5, usedUp),
		},
		{
			name: "the same, and another worker gave the job back in between",
			old:  "5000003 3 ended\tdone",
			new: "5000002 4 claimed\ta:4\t.\n5000002 4 ending\tdead\ta:4\t.\n5000002 0 kill\t4\t.\n" +
				"5000003 3 ended\tdead",
			row: dead("flaky", 5, usedUp), letter: dead("flaky", 5, usedUp),
		},
		{
			name: "calls failed while another program held the lock",
			new: "8000000 9 locked\t.\n13000000 3 trouble\t\"the lock is held\"\t.\n" +
				"13000000 1 error\tenqueue\t\"the lock is held\"\t.\n14000000 9 unlock\t.\n",
			row: succeeded(),
		},
		{
			name: "calls failed while all processes were stopped together",
			new:  "8000000 0 freeze\t.\n14000000 0 thaw\t.\n14000001 3 trouble\t\"the lock is held\"\t.\n",
			row:  succeeded(),
		},
		{
			name: "a call ran out of time while a process was stopped",
			new:  "8000000 0 stop\t7\t.\n9000000 3 gave up\t\"the lock is held\"\t.\n",
			row:  succeeded(),
		},
	})
}

func TestTheJudgeFindsEndsThatAreWrong(t *testing.T) {
	usedUp, other := pinion.ErrAttemptsUsedUp, errors.New("some other error")
	testJudge(t, []judged{
		{
			name: "the row is gone",
			old:  "5000003 3 ended\tdone", new: "5000003 3 lost",
			want: []string{"it was acknowledged and is gone"},
		},
		{
			name: "the pruner saw that an old claim finished the job",
			old:  "5000003 3 ended\tdone\ta:5", new: "5000003 4 saw\ta:5:2",
			want: []string{"the pruner saw that claim 2 finished it, but its newest claim was 5"},
		},
		{
			name: "the job never ended",
			row:  pending(),
			want: []string{"it never ended"},
		},
		{
			name: "the job ended twice in the storage",
			row:  succeeded(), letter: dead("flaky", 4, usedUp),
			want: []string{"it succeeded and is in the dead-letter queue"},
		},
		{
			name: "there is no dead letter",
			row:  dead("flaky", 3, usedUp),
			want: []string{"it is FAILED, but not in the dead-letter queue"},
		},
		{
			name:   "there is no row beside the dead letter",
			letter: dead("flaky", 4, usedUp),
			want:   []string{"it is in the dead-letter queue, but its row is gone"},
		},
		{
			name: "the job ended twice in the log",
			old:  "5000003 3", new: "5000003 4 ended\tdone\ta:3\t.\n5000003 3",
			row:  succeeded(),
			want: []string{"it ended twice", "its end (done) was recorded under claim 3, after claim 5 had started"},
		},
		{
			name: "the job ran after its end",
			new:  "6000000 4 start\ta:6\t4\t6000000\tflaky\t.\n",
			row:  succeededWith(4, 6, "6"),
			want: []string{"it ran again after its end was recorded", "it ran again after claim 5, but child 3"},
		},
		{
			name: "a failure was recorded under a stale claim",
			old:  "5000001 3", new: "5000001 2 ending\tfailed\ta:3\t.\n5000001 2 ended\tfailed\ta:3\t.\n5000001 3",
			row:  succeeded(),
			want: []string{"its end (failed) was recorded under claim 3, after claim 5 had started"},
		},
		{
			name: "the result is that of a stale claim",
			row:  succeededWith(3, 5, "3"),
			want: []string{"claim 3 finished it, but its newest claim is 5"},
		},
		{
			name: "the claim of the row is older than one in the log",
			row:  succeededWith(3, 4, "4"),
			want: []string{"it ran under claim 5, but its newest claim is 4"},
		},
		{
			name: "the job was dead-lettered without having run",
			old:  "start", new: "started",
			row: dead("flaky", 4, usedUp), letter: dead("flaky", 4, usedUp),
			want: []string{"it was dead-lettered, but it never ran and kills no process"},
		},
		{
			name: "the job was dead-lettered with an error that its task does not return any more",
			old:  "5000003 3 ended\tdone", new: "5000003 3 ended\tdead",
			row: dead("flaky", 4, other), letter: dead("flaky", 4, other),
			want: []string{"it was dead-lettered with an error that its last attempt does not return"},
		},
		{
			name: "the job was dead-lettered too early",
			old:  "5000003 3 ended\tdone", new: "5000003 3 ended\tdead",
			row: dead("flaky", 3, usedUp), letter: dead("flaky", 3, usedUp),
			want: []string{"it was dead-lettered after 3 attempts, want 4"},
		},
		{
			name: "the job was dead-lettered too late",
			old:  "5000003 3 ended\tdone", new: "5000003 3 ended\tdead",
			row: dead("doomed", 5, other), letter: dead("doomed", 5, other),
			want: []string{"it was dead-lettered after 5 attempts, want 4"},
		},
		{
			name: "the dead letter counts a claim that did not run",
			old:  "5000003 3 ended\tdone", new: "5000003 3 ended\tdead",
			row: dead("flaky", 5, usedUp), letter: dead("flaky", 5, usedUp),
			want: []string{"it was dead-lettered after 5 attempts, want 4"},
		},
		{
			name: "a job that always kills its process succeeded",
			old:  "a:flaky", new: "a:poison",
			row:  succeeded(),
			want: []string{"it succeeded, but its task never does"},
		},
		{
			name: "the job succeeded without having run",
			old:  "start", new: "started",
			row:  succeeded(),
			want: []string{"it succeeded, but it never ran"},
		},
		{
			name: "half a batch was stored",
			old:  "1000000 1 try\ta:flaky\t.\n1000001 1 ack\ta\t.", new: "1000000 1 try\ta:flaky\tb:flaky\t.",
			row:  succeeded(),
			want: []string{"Enqueue stored 1 of the 2 jobs"},
		},
		{
			name: "nobody enqueued the job",
			old:  "1000000 1 try\ta:flaky\t.",
			row:  succeeded(),
			want: []string{"nobody enqueued it"},
		},
	})
}

func TestTheJudgeFindsAttemptsThatAreWrong(t *testing.T) {
	testJudge(t, []judged{
		{
			name: "too many attempts are counted",
			row:  succeededWith(5, 5, "5"),
			want: []string{"5 attempts are counted, but the policy allows 4"},
		},
		{
			name: "an attempt beyond the policy ran",
			old:  "a:5\t3", new: "a:5\t5",
			row:  succeeded(),
			want: []string{"it ran in attempt 5, but the policy allows 4"},
		},
		{
			name: "attempts are not counted",
			old:  "3000000 2",
			new: "2100000 2 start\ta:21\t1\t2100000\tflaky\t.\n" +
				"2100000 2 start\ta:22\t1\t9100000\tflaky\t.\n3000000 2",
			row: succeededWith(3, 22, "22"),
			want: []string{
				"it ran 5 times, but it has 4 attempts and was released 0 times",
				"came to no harm",
				"was taken back",
			},
		},
		{
			name: "a job ran again though nobody harmed its worker",
			old:  "3000001 0 kill", new: "3000001 0 resume",
			row:  succeeded(),
			want: []string{"it ran again after claim 3, but child 2, which had that claim, came to no harm"},
		},
		{
			name: "more attempts were cut short than the worker had slots",
			old:  "3000000 2 start\ta",
			new: "3000000 2 start\tb:3\t1\t3000000\tquick\t.\n4500000 3 start\tb:4\t2\t4500000\tquick\t.\n" +
				"4500001 3 ended\tdone\tb:4\t.\n3000000 2 start\ta",
			row:  succeeded(),
			want: []string{"2 jobs ran again that child 2 had begun and not ended, but it had 1 slots"},
		},
		{
			name: "a lease was taken back too early",
			old:  "5000000\tflaky", new: "3500000\tflaky",
			row:  succeeded(),
			want: []string{"the lease of claim 3 was taken back 500ms before it expired"},
		},
		{
			name: "a claim was used twice",
			old:  "a:5\t3", new: "a:3\t3",
			row:  succeeded(),
			want: []string{"claim 3 was used twice"},
		},
	})
}

func TestTheJudgeFindsTrouble(t *testing.T) {
	testJudge(t, []judged{
		{
			name: "a shutdown was not clean",
			new:  "9000000 3 unclean\t\"tasks ignored it\"\t.\n",
			row:  succeeded(),
			want: []string{"a process was in trouble"},
		},
		{
			name: "a call failed",
			new:  "9000000 3 trouble\t\"the disk is full\"\t.\n",
			row:  succeeded(),
			want: []string{"a process was in trouble"},
		},
		{
			name: "a call failed while a process was stopped alone",
			new:  "8000000 0 stop\t7\t.\n9000000 3 trouble\t\"the disk is full\"\t.\n",
			row:  succeeded(),
			want: []string{"a process was in trouble"},
		},
		{
			name: "a producer's call failed",
			new:  "9000000 3 error\tenqueue\t\"no such table\"\t.\n",
			row:  succeeded(),
			want: []string{"a process was in trouble"},
		},
		{
			name: "a call ran out of time though nobody was stopped",
			new:  "9000000 3 gave up\t\"the lock is held\"\t.\n",
			row:  succeeded(),
			want: []string{"a process was in trouble"},
		},
	})
}

// The job is claimed by child 2 at 3 s and by child 3 at 5 s. What happens in between decides.
func TestTheJudgeCountsLeasesThatLivingWorkersLose(t *testing.T) {
	for _, test := range []struct {
		name    string
		between string
		want    int
	}{
		{"nothing", "", 1},
		{"the first worker is killed", "4000000 0 kill\t2\t.\n", 0},
		{"the first worker kills itself", "4000000 2 dying\tclaim\t.\n", 0},
		{"a task kills the first worker", "4000000 2 end\ta:3\tkilled\t.\n", 0},
		{"the first worker is killed too late", "5000001 0 kill\t2\t.\n", 1},
		{"another worker is killed", "4000000 0 kill\t7\t.\n", 1},
		{"the first worker is stopped alone", "3500000 0 stop\t2\t.\n4500000 0 resume\t2\t.\n", 0},
		{"it was stopped alone long before", "1000000 0 stop\t2\t.\n1500000 0 resume\t2\t.\n", 1},
		{"all are stopped together", "3500000 0 freeze\t.\n4500000 0 thaw\t.\n", 1},
		{"another program holds the lock", "3500000 9 locked\t.\n4500000 9 unlock\t.\n", 1},
		{"the first worker records a failure", "4000000 2 ending\tfailed\ta:3\t.\n4000001 2 ended\tfailed\ta:3\t.\n", 0},
		{"the first worker gives the job back", "4000000 2 ending\trelease\ta:3\t.\n", 0},
		{"the first worker tries to record success in vain", "4000000 2 ending\tdone\ta:3\t.\n", 1},
		{"the shutdown of the first worker is not clean", "4000000 2 unclean\t\"gave up\"\t.\n", 0},
	} {
		t.Run(test.name, func(t *testing.T) {
			log := "3000000 2 claimed\ta:3\tb:2\t.\n" + test.between + "5000000 3 claimed\ta:5\t.\n"
			ev := evidence{lines: parseLog(log), visibility: time.Second}
			var report Report
			ev.judge(&report)
			if report.Taken != test.want {
				t.Errorf("Taken is %d, want %d", report.Taken, test.want)
			}
		})
	}
}

func testJudge(t *testing.T, tests []judged) {
	t.Helper()
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			violations := strings.Join(judge(t, test).Violations, "\n")
			for _, want := range test.want {
				if !strings.Contains(violations, want) {
					t.Errorf("want a violation %q, got:\n%s", want, violations)
				}
			}
			if len(test.want) == 0 && violations != "" {
				t.Errorf("want no violation, got:\n%s", violations)
			}
		})
	}
}

// judge has the changed log judged, in an experiment with one slot and Strict.
func judge(t *testing.T, test judged) Report {
	t.Helper()
	log := goodLife + test.new
	if test.old != "" {
		if !strings.Contains(goodLife, test.old) {
			t.Fatalf("the log has no %q", test.old)
		}
		log = strings.ReplaceAll(goodLife, test.old, test.new)
	}
	ev := evidence{
		lines:         parseLog(log),
		rows:          make(map[string]*pinion.Job),
		letters:       make(map[string]*pinion.Job),
		visibility:    time.Second,
		slots:         1,
		poisonRetries: 3,
		strict:        true,
	}
	if test.row != nil {
		ev.rows["a"] = test.row
	}
	if test.letter != nil {
		ev.letters["a"] = test.letter
	}
	var report Report
	ev.judge(&report)
	return report
}

func TestCallsAroundAStopAreReportedApart(t *testing.T) {
	const log = `
1000000 1 call	done	300000	.
2000000 0 stop	3	.
3000000 1 call	done	800000	.
3000001 0 resume	3	.
4000000 1 call	done	200000	.
9000000 1 call	done	400000	.
`
	ev := evidence{lines: parseLog(log)}
	var report Report
	ev.judge(&report)
	if want := 400 * time.Millisecond; report.LongestCall != want {
		t.Errorf("LongestCall is %v, want %v", report.LongestCall, want)
	}
	if want := 800 * time.Millisecond; report.LongestCallDisturbed != want {
		t.Errorf("LongestCallDisturbed is %v, want %v", report.LongestCallDisturbed, want)
	}
}

// A slow machine may hold a process up while it has the lock.
func TestTroubleWithTheLockIsAViolationOnlyInAStrictExperiment(t *testing.T) {
	const log = `
1000000 1 trouble	"while=claiming jobs error=pinion: dequeue: another program holds the file's write lock"	.
`
	for _, strict := range []bool{false, true} {
		ev := evidence{lines: parseLog(log), strict: strict}
		var report Report
		ev.judge(&report)
		found := slices.ContainsFunc(report.Violations, func(v string) bool { return strings.Contains(v, "in trouble") })
		if found != strict {
			t.Errorf("strict: %t; the violations are %q", strict, report.Violations)
		}
	}
}

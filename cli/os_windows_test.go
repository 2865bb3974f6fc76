package cli

import (
	"errors"
	"os"
	"strings"
	"syscall"
	"testing"

	"github.com/pinion-queue/pinion"
)

func init() {
	leftOut = []string{
		// Their tasks are programs of Unix.
		"FuzzShellArgument",
		"TestACommandLineIsSplitAsAShellWould",
		"TestAJobRunsWithoutItsLog",
		"TestALogHasBothStreamsOfEachAttempt",
		"TestAProgramNeedNotReadItsInput",
		"TestAProgramIsToldItsJob",
		"TestAProgramSaysWhenItIsToBeRetried",
		"TestAProgramThatIsStoppedSaysWhy",
		"TestAnExitStatusDecidesWhatBecomesOfAJob",
		"TestLogsAreFollowedThroughTheRetriesOfAJob",
		"TestNoArgumentBreaksOutOfAShellCommand",
		"TestStandardInputIsEmptyUnlessItIsAskedFor",
		"TestStandardOutputIsTheResult",
		// Windows has no such signals.
		"TestASecondSignalStopsTheWorkerAtOnce",
		"TestAnInterruptedFeedReportsWhatIsEnqueued",
		// Go takes no zone from TZ there.
		"TestATimeThatTheClockSkipsOrShowsTwiceIsTheFirstMomentNotBeforeIt",
		"TestATZThatNobodyUnderstandsIsRefused",
		"TestTheTimeOfAtIsEchoedWithItsOffset",
	}
	systemErrors = strings.NewReplacer(
		syscall.ERROR_FILE_NOT_FOUND.Error(), "no such file or directory",
		syscall.ERROR_PATH_NOT_FOUND.Error(), "no such file or directory",
		syscall.ERROR_FILE_EXISTS.Error(), "file exists",
	)
}

func TestAProgramOfWindowsIsATask(t *testing.T) {
	r := testRunner(t)
	for _, c := range []struct {
		command string
		status  pinion.Status
		result  string
	}{
		{"cmd /c echo hello {0}", pinion.StatusSuccess, `"hello world"`},
		{"cmd /c exit 3", pinion.StatusFailed, ""},
	} {
		job := drain(t, testProgram(t, r, false, c.command), new(pinion.Worker), pinion.NewJob("", "world"))
		// What cmd echoes ends with CR and LF.
		result := strings.ReplaceAll(string(job.Result), `\r`, "")
		if job.Status != c.status || result != c.result {
			t.Errorf("%s: %s, %s, result %s; want %s, result %s",
				c.command, job.Status, job.Error, job.Result, c.status, c.result)
		}
	}
}

func TestAProgramOfWindowsIsKilledWhenItsTaskIsStopped(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv(asCommand, "1")
	p := testProgram(t, testRunner(t), false, "'"+self+"' worker --db ready") // until it is killed
	for _, cause := range []error{pinion.ErrLeaseLost, pinion.ErrCanceled, pinion.ErrShutdown} {
		t.Chdir(t.TempDir())
		if err := stopWhenReady(t, p, cause); !errors.Is(err, cause) {
			t.Errorf("after %v: %v", cause, err)
		}
	}
}

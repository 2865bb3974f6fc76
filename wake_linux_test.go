package pinion

import (
	"os"
	"path/filepath"
	"testing"
	"time"
)

// watchedFile makes a file with a watch on it. wait returns after the next report.
func watchedFile(t *testing.T) (file string, w *watch, wait func()) {
	t.Helper()
	file = filepath.Join(t.TempDir(), "file")
	write(t, file)
	w = watchFile(file)
	if w == nil {
		t.Fatal("the system allows no watch")
	}
	t.Cleanup(w.close)
	return file, w, func() {
		t.Helper()
		select {
		case <-w.wake():
		case <-time.After(5 * time.Minute):
			t.Fatal("a write to the file was not reported")
		}
	}
}

func write(t *testing.T, file string) {
	t.Helper()
	if err := os.WriteFile(file, []byte("text"), 0o644); err != nil {
		t.Fatal(err)
	}
}

func arm(t *testing.T, w *watch) {
	t.Helper()
	if err := w.arm(); err != nil {
		t.Fatal(err)
	}
}

func TestAWatchReportsAWriteEachTimeItIsArmed(t *testing.T) {
	file, w, wait := watchedFile(t)
	write(t, file)
	wait()

	arm(t, w)
	write(t, file)
	wait()

	// A file that was deleted and made again.
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	write(t, file)
	arm(t, w)
	write(t, file)
	wait()
}

func TestAWatchReportsThatItsFileWasDeleted(t *testing.T) {
	file, _, wait := watchedFile(t)
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	wait()
}

// The kernel takes a moment to end a watch that has reported.
func TestAWatchThatIsArmedAtOnceIsArmed(t *testing.T) {
	file, w, wait := watchedFile(t)
	f, err := os.OpenFile(file, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	armed, written := make(chan struct{}), make(chan error, 1)
	go func() { // another process, in life
		for range armed {
			_, err := f.WriteString("text")
			written <- err
		}
	}()
	defer close(armed)
	for range 10_000 {
		armed <- struct{}{}
		wait()
		arm(t, w)
		if err := <-written; err != nil {
			t.Fatal(err)
		}
	}
}

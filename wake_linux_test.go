package pinion

import (
	"os"
	"path/filepath"
	"testing"
)

func TestAWatchReportsAWriteEachTimeItIsArmed(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	write := func() {
		t.Helper()
		if err := os.WriteFile(file, []byte("text"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write()
	w := watchFile(file)
	if w == nil {
		t.Fatal("the system allows no watch")
	}
	defer w.close()
	arm := func() {
		t.Helper()
		if err := w.arm(); err != nil {
			t.Fatal(err)
		}
	}
	write()
	<-w.wake()

	arm()
	write()
	<-w.wake()

	// A file that was deleted and made again.
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	write()
	arm()
	write()
	<-w.wake()
}

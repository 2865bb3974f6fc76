package cli

import (
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"unsafe"
)

// terminal is a pseudo-terminal, for tests of what a command does on one.
type terminal struct {
	t      *testing.T
	master *os.File // what is written here is typed
	tty    string   // the name of the other end

	mu   sync.Mutex // guards the next two
	text strings.Builder
	more chan struct{} // closed when there is more text
}

// newTerminal opens a terminal of 24 lines. It is closed at the end of the test.
func newTerminal(t *testing.T, columns int) *terminal {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	var unlock, number int32
	ioctl(t, master, syscall.TIOCSPTLCK, unsafe.Pointer(&unlock))
	ioctl(t, master, syscall.TIOCGPTN, unsafe.Pointer(&number))
	term := &terminal{t: t, master: master, tty: fmt.Sprintf("/dev/pts/%d", number), more: make(chan struct{})}
	term.resize(columns)
	slave := term.open() // stays open, or the master would report an error between two programs
	read := make(chan struct{})
	go func() {
		defer close(read)
		buf := make([]byte, 4096)
		for {
			n, err := master.Read(buf)
			term.mu.Lock()
			term.text.Write(buf[:n])
			close(term.more)
			term.more = make(chan struct{})
			term.mu.Unlock()
			if err != nil {
				return
			}
		}
	}()
	t.Cleanup(func() {
		slave.Close()
		master.Close()
		<-read
	})
	return term
}

func ioctl(t *testing.T, f *os.File, request uintptr, value unsafe.Pointer) {
	t.Helper()
	conn, err := f.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	if err := conn.Control(func(fd uintptr) {
		if _, _, errno := syscall.Syscall(syscall.SYS_IOCTL, fd, request, uintptr(value)); errno != 0 {
			t.Fatalf("ioctl %#x: %v", request, errno)
		}
	}); err != nil {
		t.Fatal(err)
	}
}

// resize changes the number of columns, which sends SIGWINCH to the program on the terminal.
func (term *terminal) resize(columns int) {
	size := [4]uint16{24, uint16(columns)}
	ioctl(term.t, term.master, syscall.TIOCSWINSZ, unsafe.Pointer(&size))
}

// open returns the end for programs.
func (term *terminal) open() *os.File {
	slave, err := os.OpenFile(term.tty, os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		term.t.Fatal(err)
	}
	return slave
}

// start starts a command on the terminal, as its controlling terminal: a typed \x03 interrupts it. It leaves
// streams that are already set.
func (term *terminal) start(cmd *exec.Cmd) {
	term.t.Helper()
	slave := term.open()
	defer slave.Close()
	if cmd.Stdin == nil {
		cmd.Stdin = slave
	}
	if cmd.Stdout == nil {
		cmd.Stdout = slave
	}
	if cmd.Stderr == nil {
		cmd.Stderr = slave
	}
	cmd.ExtraFiles = []*os.File{slave}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true, Ctty: 3}
	if err := cmd.Start(); err != nil {
		term.t.Fatal(err)
	}
}

func (term *terminal) typed(text string) {
	term.t.Helper()
	if _, err := term.master.WriteString(text); err != nil {
		term.t.Fatal(err)
	}
}

// printed returns how many bytes the terminal has got so far.
func (term *terminal) printed() int {
	term.mu.Lock()
	defer term.mu.Unlock()
	return term.text.Len()
}

// await waits until the output matches pattern, and returns it.
func (term *terminal) await(pattern string) string {
	term.t.Helper()
	return term.awaitSince(0, pattern)
}

// awaitSince waits until what was printed since from matches pattern, and returns that.
func (term *terminal) awaitSince(from int, pattern string) string {
	term.t.Helper()
	re := regexp.MustCompile(pattern)
	ctx := patience(term.t)
	for {
		term.mu.Lock()
		text, more := term.text.String()[from:], term.more
		term.mu.Unlock()
		if re.MatchString(text) {
			return text
		}
		select {
		case <-more:
		case <-ctx.Done():
			term.t.Fatalf("waited in vain for %s; the terminal shows\n%s", pattern, text)
		}
	}
}

// session runs a command on the terminal to its end and returns what it prints.
func (term *terminal) session(cmd *exec.Cmd, status int) string {
	term.t.Helper()
	from := term.printed()
	term.start(cmd)
	return term.ended(cmd, from, status)
}

// ended waits for the end of a command that was started on the terminal, and returns what was printed since
// from.
func (term *terminal) ended(cmd *exec.Cmd, from, status int) string {
	term.t.Helper()
	cmd.Wait()
	// The terminal keeps the order, so the output of the program comes before this mark.
	mark := fmt.Sprintf("\x00the end of %d\x00", cmd.Process.Pid)
	slave := term.open()
	defer slave.Close()
	slave.WriteString(mark)
	text, _, _ := strings.Cut(term.awaitSince(from, regexp.QuoteMeta(mark)), mark)
	if got := cmd.ProcessState.ExitCode(); got != status {
		term.t.Fatalf("%v: exit status %d, want %d\n%s", cmd.Args[1:], got, status, text)
	}
	return strings.ReplaceAll(text, "\r\n", "\n")
}

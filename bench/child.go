package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// Other processes are this program again, told by its environment whose queue to open. A child does what the
// lines on its standard input say and answers each with one line of JSON; it ends with its input, and so with
// its parent.

const childEnv = "PINION_BENCH_CHILD"

type childSpec struct {
	Peer, Dir string
	Slots     int
	Jobs      int           // numbers are below
	Sleep     time.Duration // of the task
}

// answer is what a child says; each command fills in its own part.
type answer struct {
	Err     string
	Sent    int           `json:",omitempty"`
	Longest time.Duration `json:",omitempty"` // of the calls in which they were sent
	CPU     time.Duration `json:",omitempty"`
	Peak    int64         `json:",omitempty"` // memory, in bytes
	Last    int64         `json:",omitempty"` // when the last task ended
	Record  *record       `json:",omitempty"`
}

// runChild is a child's main. It returns false in a process that is none.
func runChild() bool {
	text := os.Getenv(childEnv)
	if text == "" {
		return false
	}
	var spec childSpec
	err := json.Unmarshal([]byte(text), &spec)
	if err == nil {
		err = serveParent(spec, os.Stdin, json.NewEncoder(os.Stdout))
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	return true
}

func serveParent(spec childSpec, in io.Reader, out *json.Encoder) (err error) {
	p, err := peerNamed(spec.Peer)
	if err != nil {
		return err
	}
	ctx := context.Background()
	q, err := p.open(ctx, spec.Dir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, q.close()) }()
	c := &child{queue: q, spec: spec, tally: newTally(spec.Jobs)}
	for lines := bufio.NewScanner(in); lines.Scan(); {
		said, err := c.obey(ctx, lines.Text())
		if err != nil {
			said.Err = err.Error()
		}
		if err := out.Encode(said); err != nil {
			return err
		}
	}
	return nil
}

type child struct {
	queue queue
	spec  childSpec
	tally *tally
	last  atomic.Int64
	stop  func() error
}

func (c *child) obey(ctx context.Context, line string) (said answer, err error) {
	command, rest, _ := strings.Cut(line, " ")
	switch command {
	case "hello": // answered when the queue is open
	case "work":
		c.stop, err = c.queue.work(ctx, c.spec.Slots, func(payload string) {
			time.Sleep(c.spec.Sleep)
			c.tally.run(payload)
			c.last.Store(time.Now().UnixNano())
		})
	case "send":
		var number int
		_, err = fmt.Sscan(rest, &number)
		if err == nil {
			err = c.queue.enqueue(ctx, stampedPayload(number, time.Now().UnixNano()))
		}
	case "hammer":
		var number, most int
		var lasting time.Duration
		var text string
		_, err = fmt.Sscan(rest, &number, &most, &text)
		if err == nil {
			lasting, err = time.ParseDuration(text)
		}
		for start := time.Now(); err == nil && said.Sent < most && time.Since(start) < lasting; said.Sent++ {
			began := time.Now()
			err = c.queue.enqueue(ctx, payload(number+said.Sent))
			said.Longest = max(said.Longest, time.Since(began))
		}
	case "usage":
		said.CPU, said.Peak, err = usage()
	case "stop":
		err = c.stop()
		ran := c.tally.record()
		said.Record, said.Last = &ran, c.last.Load()
	default:
		err = fmt.Errorf("unknown command %q", line)
	}
	return said, err
}

// process is a child as its parent has it.
type process struct {
	cmd   *exec.Cmd
	in    io.WriteCloser
	out   *json.Decoder
	cause strings.Builder // its standard error
}

func startChild(ctx context.Context, spec childSpec) (*process, error) {
	program, err := os.Executable()
	if err != nil {
		return nil, err
	}
	text, err := json.Marshal(spec)
	if err != nil {
		return nil, err
	}
	c := &process{cmd: exec.CommandContext(ctx, program)}
	c.cmd.Env = append(os.Environ(), childEnv+"="+string(text))
	c.cmd.Stderr = &c.cause
	c.cmd.WaitDelay = time.Second
	c.in, err = c.cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := c.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	c.out = json.NewDecoder(out)
	if err := c.cmd.Start(); err != nil {
		return nil, err
	}
	if _, err := c.ask("hello"); err != nil {
		return nil, errors.Join(err, c.close())
	}
	return c, nil
}

func (c *process) ask(format string, args ...any) (said answer, err error) {
	if _, err := fmt.Fprintf(c.in, format+"\n", args...); err != nil {
		return said, err
	}
	if err := c.out.Decode(&said); err != nil {
		return said, fmt.Errorf("the other process does not answer: %w", err)
	}
	if said.Err != "" {
		err = fmt.Errorf("in the other process: %s", said.Err)
	}
	return said, err
}

// close ends the child by ending its input.
func (c *process) close() error {
	c.in.Close()
	if err := c.cmd.Wait(); err != nil {
		return fmt.Errorf("the other process: %w: %s", err, strings.TrimSpace(c.cause.String()))
	}
	return nil
}

// crew is several children of one kind.
type crew []*process

func startCrew(ctx context.Context, n int, spec childSpec) (all crew, err error) {
	for range n {
		c, err := startChild(ctx, spec)
		if err != nil {
			return nil, errors.Join(err, all.close())
		}
		all = append(all, c)
	}
	return all, nil
}

// ask puts a question to all at once.
func (all crew) ask(question func(i int) string) ([]answer, error) {
	answers, errs := make([]answer, len(all)), make([]error, len(all))
	var group sync.WaitGroup
	for i, c := range all {
		group.Go(func() { answers[i], errs[i] = c.ask("%s", question(i)) })
	}
	group.Wait()
	return answers, errors.Join(errs...)
}

func (all crew) tell(command string) error {
	_, err := all.ask(func(int) string { return command })
	return err
}

// stop ends their workers, adds what they have run to t and tells when the last task ended.
func (all crew) stop(t *tally) (last time.Time, err error) {
	answers, err := all.ask(func(int) string { return "stop" })
	for _, said := range answers {
		if said.Record != nil {
			t.add(*said.Record)
		}
		if at := time.Unix(0, said.Last); at.After(last) {
			last = at
		}
	}
	return last, err
}

func (all crew) close() (err error) {
	for _, c := range all {
		err = errors.Join(err, c.close())
	}
	return err
}

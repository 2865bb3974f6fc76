package cli

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/pinion-queue/pinion"
)

// snapshot is the state of a queue at one moment.
type snapshot struct {
	stats   pinion.Stats
	limits  map[string]int // by queue
	running []*pinion.Job  // the longest first
	hour    [60]int        // how many jobs ended in each minute of the last hour, the oldest minute first
	at      time.Time
	took    time.Duration
	err     error
}

// watch shows the status until a signal ends it: on a live screen or, where there is none, in a line each
// time.
func (c *call) watch(ctx context.Context, storage pinion.Inspector, interval time.Duration) error {
	ctx, stop := untilSignal(ctx)
	defer stop()
	var err error
	if c.hasLiveScreen() && !c.json {
		err = c.watchScreen(ctx, storage, interval)
	} else {
		err = c.watchLines(ctx, storage, interval)
	}
	if ctx.Err() != nil {
		return nil // the normal end of a watch
	}
	return err
}

func (c *call) watchLines(ctx context.Context, storage pinion.Inspector, interval time.Duration) error {
	for {
		s := takeSnapshot(ctx, storage, false)
		if s.err != nil {
			return s.err
		}
		if err := c.printSnapshot(&s); err != nil {
			return err
		}
		select {
		case <-time.After(s.pause(interval)):
		case <-ctx.Done():
			return nil
		}
	}
}

func (c *call) printSnapshot(s *snapshot) error {
	if c.json {
		if err := c.encodeStats(s); err != nil {
			return err
		}
		return c.stdout.Flush()
	}
	total := s.stats.Total
	fmt.Fprintf(c.stdout, "%s  pending %d, running %d, %s jobs/s, dead letters %d", s.at.Format(time.RFC3339),
		total.Pending, total.Running, perSecond(float64(total.Minute)/60), s.stats.DeadLetters)
	if !total.Oldest.IsZero() {
		fmt.Fprintf(c.stdout, ", oldest pending %s", ago(total.Oldest))
	}
	fmt.Fprintln(c.stdout)
	return c.stdout.Flush()
}

// takeSnapshot looks at the storage. It turns a panic of the storage into an error, because it runs on a
// goroutine of its own and the screen must be restored first. A screen shows more than a line.
func takeSnapshot(ctx context.Context, storage pinion.Inspector, forScreen bool) (s snapshot) {
	s.at = time.Now()
	defer func() {
		if p := recover(); p != nil {
			s.err = fmt.Errorf("panic: %v\n\n%s", p, debug.Stack())
		}
		s.took = time.Since(s.at)
	}()
	s.stats, s.err = storage.Stats(ctx)
	if s.err != nil {
		return s
	}
	s.limits, s.err = limitsOf(ctx, storage)
	if s.err != nil || !forScreen {
		return s
	}
	s.hour, s.err = endsByMinute(ctx, storage, s.at)
	if s.err != nil {
		return s
	}
	for job, err := range storage.Jobs(ctx, pinion.Filter{Status: pinion.StatusRunning, Limit: 2000}) {
		if err != nil {
			s.err = err
			return s
		}
		s.running = append(s.running, job)
	}
	slices.SortStableFunc(s.running, func(a, b *pinion.Job) int { return startOf(a).Compare(startOf(b)) })
	return s
}

// endsByMinute returns how many jobs ended in each minute of the last hour, the oldest minute first.
func endsByMinute(ctx context.Context, storage pinion.Inspector, now time.Time) (counts [60]int, err error) {
	first := now.Truncate(time.Minute).Add(-59 * time.Minute)
	history, err := storage.History(ctx, first)
	if err != nil {
		return counts, err
	}
	for _, ends := range history {
		minute := int(ends.At.Sub(first) / time.Minute)
		if minute >= 0 && minute < len(counts) {
			counts[minute] += ends.Succeeded + ends.Failed
		}
	}
	return counts, nil
}

// startOf returns when a job began to run or, if that is not known, its last heartbeat.
func startOf(job *pinion.Job) time.Time {
	at := claimedAt(job)
	if at.IsZero() {
		return job.HeartbeatAt
	}
	return at
}

const shortestPause = 50 * time.Millisecond

// pause returns how long to wait until the next snapshot. Snapshots take at most a fifth of the time.
func (s *snapshot) pause(interval time.Duration) time.Duration {
	return max(interval-s.took, 4*s.took, shortestPause)
}

// Escape sequences that switch to another screen, without a cursor and with long lines cut off, and back.
const (
	enterScreen = "\x1b[?1049h\x1b[?25l\x1b[?7l"
	leaveScreen = "\x1b[?7h\x1b[?25h\x1b[?1049l"
)

func (c *call) watchScreen(ctx context.Context, storage pinion.Inspector, interval time.Duration) error {
	ctx, cancel := context.WithCancel(ctx)
	snapshots := make(chan snapshot, 1)
	pending := false
	defer func() {
		cancel()
		if pending {
			<-snapshots // the caller closes the storage
		}
	}()
	signals := make(chan os.Signal, 8)
	notifyScreen(signals)
	defer signal.Stop(signals)
	defer c.write(leaveScreen)
	if err := c.write(enterScreen); err != nil {
		return err
	}
	var last snapshot
	next := time.After(0)
	for {
		if err := c.write(c.frame(&last)); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case <-next:
			pending = true
			go func() { snapshots <- takeSnapshot(ctx, storage, true) }()
		case last = <-snapshots:
			pending = false
			if last.err != nil {
				return last.err
			}
			next = time.After(last.pause(interval))
		case s := <-signals: // after any of them the screen is drawn again
			if s == suspendSignal {
				c.write(leaveScreen)
				suspend()
				c.write(enterScreen)
			}
		}
	}
}

// write writes to the screen at once.
func (c *call) write(text string) error {
	c.stdout.WriteString(text)
	return c.stdout.Flush()
}

// frame returns the text that draws a snapshot. It overwrites every line instead of clearing the screen, so
// nothing flickers.
func (c *call) frame(s *snapshot) string {
	width, height := c.screenSize()
	return frameOf(c.screenLines(s, width, height))
}

// frameOf returns the text that draws lines.
func frameOf(lines []string) string {
	var b strings.Builder
	b.WriteString("\x1b[H")
	for i, line := range lines {
		if i > 0 {
			b.WriteString("\r\n")
		}
		// A line is erased before it is written. Behind a full line the cursor is still on its last character.
		erase := "\x1b[K"
		if i == len(lines)-1 {
			erase = "\x1b[J" // and what is below it
		}
		b.WriteString(erase + line)
	}
	return b.String()
}

// screenLines returns the lines of a screen. Where there is not room for everything, it shortens the lists,
// then leaves out the running jobs, and then shortens the tables further.
func (c *call) screenLines(s *snapshot, width, height int) []string {
	if s.at.IsZero() {
		return []string{"looking at " + cut(printable(c.db, ""), max(width-len("looking at "), 0))}
	}
	for rows := 20; rows > 0; rows-- {
		if lines := c.fullScreen(s, width, rows, true); len(lines) <= height {
			return lines
		}
	}
	var lines []string
	for rows := 4; rows > 0; rows-- {
		lines = c.fullScreen(s, width, rows, false)
		if len(lines) <= height {
			return lines
		}
	}
	return lines[:height]
}

// fullScreen returns a screen whose tables have at most so many rows each.
func (c *call) fullScreen(s *snapshot, width, rows int, withRunning bool) []string {
	lines := append(c.headerLines(s, width), c.statusLines(s, rows)...)
	longest := s.running[:min(len(s.running), max(rows/2, 3))]
	if !withRunning || len(longest) == 0 {
		return lines
	}
	t := c.newTable("RUNNING", "TASK", "WORKER", "ATTEMPT", "ID", "ARGUMENTS")
	for _, job := range longest {
		t.add(rough(time.Since(startOf(job))), job.Task, workerOf(job), strconv.Itoa(job.Attempts), job.ID,
			clip(arguments(job), 500))
	}
	return append(append(lines, ""), t.lines()...)
}

// headerLines returns the lines above the tables: the database and the time, and what ended in the last minute by
// second and in the last hour by minute.
func (c *call) headerLines(s *snapshot, width int) []string {
	clock := s.at.Format("15:04:05")
	name := cut(printable(c.db, ""), max(width-len(clock)-2, 0))
	gap := strings.Repeat(" ", max(width-columns(name)-len(clock), 1))
	recent := 0
	for _, n := range s.stats.LastMinute[55:] {
		recent += n
	}
	total := s.stats.Total
	return []string{
		styled(name, bold, c.hasColors()) + gap + clock,
		c.rateLine(s.stats.LastMinute, width, fmt.Sprintf("%s jobs/s now, %s in the last minute",
			perSecond(float64(recent)/5), perSecond(float64(total.Minute)/60))),
		c.rateLine(s.hour, width, fmt.Sprintf("%s done and %s failed in the last hour",
			thousands(total.SuccessHour), thousands(total.FailedHour))),
		"",
	}
}

// rateLine returns a line of bars and the text that explains them.
// Where there is not room for both, the oldest bars go.
func (c *call) rateLine(counts [60]int, width int, text string) string {
	spark := sparkline(counts[:])
	if room := max(width-len(text)-2, 0); len(spark) > room {
		spark = spark[len(spark)-room:]
	}
	text = cut(text, max(width-len(spark)-2, 0))
	return styled(string(spark), green, c.hasColors()) + "  " + text
}

// sparkline draws numbers as bars, the highest number as a full one. 0 is blank.
func sparkline(numbers []int) []rune {
	bars := []rune("▁▂▃▄▅▆▇█")
	highest := max(slices.Max(numbers), 1)
	var line []rune
	for _, n := range numbers {
		if n == 0 {
			line = append(line, ' ')
		} else {
			line = append(line, bars[(n*len(bars)-1)/highest])
		}
	}
	return line
}

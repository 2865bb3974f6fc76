package main

import (
	"cmp"
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

// view is what a watch shows at one moment.
type view struct {
	stats   pinion.Stats
	running []*pinion.Job // the longest first
	at      time.Time
	took    time.Duration // to look
	err     error
}

// watch shows the status until a signal ends it: a screen of its own on a terminal, and elsewhere a line each time.
func (c *call) watch(ctx context.Context, storage pinion.Inspector, interval time.Duration) error {
	// What a shell or nohup has had ignored stays so.
	heard := slices.DeleteFunc(slices.Clone(endings), signal.Ignored)
	ctx, stop := signal.NotifyContext(ctx, heard...)
	defer stop()
	var err error
	if c.live() && !c.json {
		err = c.watchScreen(ctx, storage, interval)
	} else {
		err = c.watchLines(ctx, storage, interval)
	}
	if ctx.Err() != nil {
		return nil // that is how a watch ends
	}
	return err
}

func (c *call) watchLines(ctx context.Context, storage pinion.Inspector, interval time.Duration) error {
	for {
		v := look(ctx, storage, false)
		if v.err != nil {
			return v.err
		}
		if t := v.stats.Total; c.json {
			if err := c.encodeStats(v.stats); err != nil {
				return err
			}
		} else {
			fmt.Fprintf(c.stdout, "%s  pending %d, running %d, %s jobs/s, dead letters %d", v.at.Format(time.RFC3339), t.Pending, t.Running,
				perSecond(float64(t.Minute)/60), v.stats.DeadLetters)
			if !t.Oldest.IsZero() {
				fmt.Fprintf(c.stdout, ", oldest pending %s", ago(t.Oldest))
			}
			fmt.Fprintln(c.stdout)
		}
		if err := c.stdout.Flush(); err != nil {
			return err
		}
		select {
		case <-time.After(v.rest(interval)):
		case <-ctx.Done():
			return nil
		}
	}
}

// look takes a view. A panic of a storage becomes an error, so that the screen is restored whoever it is that calls.
func look(ctx context.Context, storage pinion.Inspector, running bool) (v view) {
	v.at = time.Now()
	defer func() {
		if p := recover(); p != nil {
			v.err = fmt.Errorf("panic: %v\n\n%s", p, debug.Stack())
		}
		v.took = time.Since(v.at)
	}()
	if v.stats, v.err = storage.Stats(ctx); v.err != nil || !running {
		return v
	}
	for job, err := range storage.Jobs(ctx, pinion.Filter{Status: pinion.StatusRunning, Limit: 2000}) {
		if v.err = err; err != nil {
			return v
		}
		v.running = append(v.running, job)
	}
	slices.SortStableFunc(v.running, func(a, b *pinion.Job) int { return startOf(a).Compare(startOf(b)) })
	return v
}

// startOf is when a job began to run, or was at the latest known to wait.
func startOf(job *pinion.Job) time.Time {
	if at := claimedAt(job); !at.IsZero() {
		return at
	}
	return job.HeartbeatAt
}

// rest is how long to wait until the next look: a big queue is looked at for a fifth of the time at most.
func (v *view) rest(interval time.Duration) time.Duration {
	return max(interval-v.took, 4*v.took, shortestRest)
}

const shortestRest = 50 * time.Millisecond

// What a terminal is told: to another screen, without a cursor and with long lines cut, and back.
const (
	enterScreen = "\x1b[?1049h\x1b[?25l\x1b[?7l"
	leaveScreen = "\x1b[?7h\x1b[?25h\x1b[?1049l"
)

func (c *call) watchScreen(ctx context.Context, storage pinion.Inspector, interval time.Duration) error {
	ctx, cancel := context.WithCancel(ctx)
	looks := make(chan view, 1)
	looking := false
	defer func() {
		if cancel(); looking {
			<-looks // the storage is closed after this
		}
	}()
	signals := make(chan os.Signal, 8)
	notify(signals)
	defer signal.Stop(signals)
	show := func(text string) error {
		c.stdout.WriteString(text)
		return c.stdout.Flush()
	}
	defer show(leaveScreen)
	if err := show(enterScreen); err != nil {
		return err
	}
	var last view
	for next := time.After(0); ; {
		if err := show(c.frame(&last)); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case <-next:
			looking = true
			go func() { looks <- look(ctx, storage, true) }()
		case last = <-looks:
			if looking = false; last.err != nil {
				return last.err
			}
			next = time.After(last.rest(interval))
		case s := <-signals:
			if s == suspends {
				show(leaveScreen)
				suspend()
				show(enterScreen)
			}
		}
	}
}

// frame is one picture: every line is overwritten, so that nothing flickers.
func (c *call) frame(v *view) string {
	width, height := c.size()
	var b strings.Builder
	b.WriteString("\x1b[H")
	for i, line := range c.picture(v, width, height) {
		if i > 0 {
			b.WriteString("\r\n")
		}
		b.WriteString("\x1b[K" + line)
	}
	return b.String() + "\x1b[J"
}

// picture are the lines of a screen. Where there is not room for all, the lists become shorter, and that of the jobs
// that run is left out first.
func (c *call) picture(v *view, width, height int) (lines []string) {
	if v.at.IsZero() {
		return []string{"looking at " + cut(printable(c.db, ""), max(width-11, 0))}
	}
	for rows := 24; rows > 0; rows-- {
		most := rows // of a list; the shortest ones come again, without those that run
		if rows > 4 {
			most -= 4
		}
		lines = append(c.head(v, width), c.statusLines(&v.stats, most)...)
		if slowest := v.running[:min(len(v.running), max(most/2, 3))]; len(slowest) > 0 && rows > 4 {
			g := c.grid()
			g.add("RUNNING", "TASK", "WORKER", "ATTEMPT", "ID", "ARGUMENTS")
			for _, job := range slowest {
				g.add(rough(time.Since(startOf(job))), job.Task, holder(job), strconv.Itoa(job.Attempts), job.ID, clip(arguments(job), 500))
			}
			lines = append(append(lines, ""), g.lines()...)
		}
		if len(lines) <= height {
			return lines
		}
	}
	return lines[:height]
}

// head is what stands over the tables: where and when, how fast, and how fast in each second of the last minute.
func (c *call) head(v *view, width int) []string {
	clock := v.at.Format("15:04:05")
	name := cut(printable(c.db, ""), max(width-len(clock)-2, 0))
	recent := 0
	for _, n := range v.stats.LastMinute[55:] {
		recent += n
	}
	rate := fmt.Sprintf("%s jobs/s now, %s in the last minute", perSecond(float64(recent)/5), perSecond(float64(v.stats.Total.Minute)/60))
	spark := sparkline(v.stats.LastMinute[:])
	if most := max(width-len(rate)-2, 0); len(spark) > most {
		spark = spark[len(spark)-most:]
	}
	return []string{
		styled(name, bold, c.colours()) + strings.Repeat(" ", max(width-columns(name)-len(clock), 1)) + clock,
		styled(string(spark), green, c.colours()) + "  " + cut(rate, max(width-len(spark)-2, 0)), ""}
}

// sparkline draws numbers as columns, the highest of which is full. None is empty.
func sparkline(numbers []int) (line []rune) {
	const steps = "▁▂▃▄▅▆▇█"
	bars := []rune(steps)
	highest := cmp.Or(slices.Max(numbers), 1)
	for _, n := range numbers {
		if n == 0 {
			line = append(line, ' ')
			continue
		}
		line = append(line, bars[(n*len(bars)-1)/highest])
	}
	return line
}

package cli

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/pinion-queue/pinion"
	"github.com/pinion-queue/pinion/internal/checkup"
	"github.com/pinion-queue/pinion/internal/rules"
)

const doctorDetail = `
It looks for damage in the file, jobs of dead workers, jobs whose task no worker
knew, jobs that no worker can run, and clocks that disagree. With --import or
--exec it also looks for pending jobs of other tasks than those. It changes
nothing. It reads everything, which takes some seconds for each million jobs.

A line begins with ok, with note if it may be intended, or with WRONG. The exit
status is 1 if something is wrong.
`

const doctorExamples = `pinion doctor --db q.db
pinion doctor --import ./tasks --db q.db
pinion doctor --json --db q.db | jq 'select(.level != "ok")'`

func doctor(c *call) func(context.Context) error {
	c.storageFlags()
	c.execFlags()
	c.jsonFlag()
	e := &checkup.Checkup{Visibility: rules.DefaultLease, Advise: adviseDoctor}
	c.durationFlag(&e.Visibility, "visibility-timeout", "the `TIME` that workers use, if not the default [10s]")
	return func(ctx context.Context) error {
		if err := addPrograms(&c.programs); err != nil {
			return err
		}
		return c.inspect(ctx, reads, func(storage pinion.Inspector) error {
			e.Now = time.Now()
			e.Known = knownTasks()
			if s, ok := storage.(*pinion.SQLiteStorage); ok {
				e.File(strings.TrimPrefix(c.db, rules.SchemeOf(c.db)))
				e.Content(ctx, s)
			}
			e.Jobs(ctx, storage, nil)
			return c.printFindings(e.Findings)
		})
	}
}

func (c *call) printFindings(findings []checkup.Finding) error {
	wrong := 0
	for _, f := range findings {
		if f.Level == checkup.Wrong {
			wrong++
		}
		if err := c.printFinding(f); err != nil {
			return err
		}
	}
	switch wrong {
	case 0:
		return nil
	case 1:
		return errors.New("1 thing is wrong; see above for what to do")
	}
	return fmt.Errorf("%d things are wrong; see above for what to do", wrong)
}

func (c *call) printFinding(f checkup.Finding) error {
	if c.json {
		return c.encode(f)
	}
	level, style := f.Level, green
	switch f.Level {
	case checkup.Note:
		style = yellow
	case checkup.Wrong:
		level, style = "WRONG", red
	}
	padding := strings.Repeat(" ", len("WRONG")-len(level))
	level = styled(level, style, c.hasColors())
	fmt.Fprintf(c.stdout, "%s%s  %-9s  %s\n", level, padding, f.About, printable(f.Text, ""))
	if f.Do != "" {
		fmt.Fprintf(c.stdout, "%18s%s\n", "", printable(f.Do, ""))
	}
	return nil
}

// adviseDoctor returns what to do about an error that kept the doctor from examining something.
func adviseDoctor(err error) string { return strings.TrimPrefix(advice(err), "; ") }

// knownTasks returns the names of the tasks that this program knows, in lower case.
func knownTasks() map[string]bool {
	known := make(map[string]bool)
	if _, own := ownProgram(); !own && len(programs) == 0 {
		return known
	}
	for _, name := range pinion.DefaultRegistry.Names() {
		known[strings.ToLower(name)] = true
	}
	return known
}

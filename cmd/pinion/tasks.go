package main

import (
	"context"
	"fmt"
	"strings"

	"github.com/pinion-queue/pinion"
)

const tasksDetail = `
They are those that the packages of --import register, and those of --exec, which
` + "`pinion help worker`" + ` explains. No queue is looked at.
`

const tasksExamples = `pinion tasks --import ./tasks
pinion tasks --exec 'pack=gzip -k -- {0}' --json`

// execFlags declares the flags that make programs tasks.
func (c *call) execFlags() {
	c.list(&c.execs, "exec", "make a program a task: `NAME=COMMAND`; may be repeated")
	c.flags.BoolVar(&c.shell, "shell", false, "the COMMANDs of --exec are for /bin/sh")
}

// taskLine is what is told about a task.
type taskLine struct {
	Name    string `json:"name"`
	Kind    string `json:"kind"` // go, exec or shell
	Queue   string `json:"queue"`
	Command string `json:"command,omitempty"`
}

func tasks(c *call) func(context.Context) error {
	c.list(&c.imports, "import", "build in a Go `PACKAGE` with tasks; may be repeated")
	c.execFlags()
	c.jsonFlag()
	return func(context.Context) error {
		if err := addPrograms(c.shell, c.execs); err != nil {
			return err
		}
		names := pinion.DefaultRegistry.Names()
		if len(names) == 0 {
			fmt.Fprintln(c.stderr, "pinion: there are none; name the Go packages that register tasks, as in --import ./tasks, "+
				"or programs, as in --exec 'pack=gzip -k -- {0}'")
			return nil
		}
		w := c.table()
		if !c.json {
			row(w, "NAME", "KIND", "QUEUE", "COMMAND")
		}
		for _, name := range names {
			line := taskLine{Name: name, Kind: "go", Queue: pinion.DefaultRegistry.Queue(name)}
			for _, p := range programs {
				if strings.EqualFold(p.name, name) {
					line.Kind, line.Command = p.kind(), p.command
				}
			}
			if line.Queue == "" {
				line.Queue = "default"
			}
			if !c.json {
				row(w, line.Name, line.Kind, line.Queue, clip(line.Command, 80))
			} else if err := c.encode(line); err != nil {
				return err
			}
		}
		return w.Flush()
	}
}

func (p *program) kind() string {
	if p.shell {
		return "shell"
	}
	return "exec"
}

package cli

import (
	"flag"
	"fmt"
	"strings"
)

// The manual page is made from the texts of the help, in the macros that man has everywhere.

// manual prints the manual page of a command or a topic or, if there is no name, of everything.
func (c *call) manual(name string) error {
	if name == "" {
		c.manAll()
		return nil
	}
	for _, t := range topics() {
		if t.name == name {
			c.manTitle("pinion-"+name, t.summary)
			c.manTopic("SH", "DESCRIPTION", &t)
			return nil
		}
	}
	if err := c.prepareHelp(name); err != nil {
		return err
	}
	c.manTitle("pinion-"+name, c.command.summary)
	fmt.Fprintf(c.stdout, ".SH SYNOPSIS\n.B %s\n", manEscape(c.usage()))
	c.manCommand("SH", "DESCRIPTION")
	return nil
}

// manAll prints the page of everything.
func (c *call) manAll() {
	c.manTitle("pinion", "a durable job queue in one file")
	fmt.Fprint(c.stdout, ".SH SYNOPSIS\n.B pinion\nCOMMAND [operands] [flags]\n.SH DESCRIPTION\n")
	c.manText(guideText[:strings.Index(guideText, "Commands:")] + guideEnd)
	fmt.Fprint(c.stdout, ".SH COMMANDS\n")
	for _, cmd := range commands() {
		c.prepare(cmd.name) // finds each of them
		c.manCommand("SS", c.usage())
	}
	for _, t := range topics() {
		c.manTopic("SH", strings.ToUpper(t.name), &t)
	}
}

// manTitle prints the head of a page.
func (c *call) manTitle(name, summary string) {
	fmt.Fprintf(c.stdout, ".TH %s 1 \"\" \"pinion %s\" Pinion\n.SH NAME\n%s \\- %s\n",
		manEscape(strings.ToUpper(name)), manEscape(ownVersion()), manEscape(name), manEscape(summary))
}

// manCommand prints the command of c below a heading.
func (c *call) manCommand(macro, heading string) {
	fmt.Fprintf(c.stdout, ".%s \"%s\"\n%s\n", macro, manEscape(heading), manEscape(sentence(c.command.summary)))
	c.manExamples(c.command.examples)
	c.manText(c.command.detail)
	c.eachFlag(func(f *flag.Flag) {
		value, usage := flag.UnquoteUsage(f)
		fmt.Fprintf(c.stdout, ".TP\n.B %s\n%s\n",
			manEscape(strings.TrimSpace(dashed(f)+" "+value)), manEscape(usage))
	})
}

// manTopic prints a topic below a heading.
func (c *call) manTopic(macro, heading string, t *topic) {
	fmt.Fprintf(c.stdout, ".%s \"%s\"\n%s\n", macro, manEscape(heading), manEscape(sentence(t.summary)))
	c.manText(t.text)
	c.manExamples(t.examples)
}

func (c *call) manExamples(examples string) {
	if examples != "" {
		c.manText("\nFor example:\n  " + strings.ReplaceAll(examples, "\n", "\n  ") + "\n")
	}
}

// manText prints paragraphs. Indented lines keep their form.
func (c *call) manText(text string) {
	inForm := false
	form := func(on bool) {
		if on != inForm {
			fmt.Fprintln(c.stdout, map[bool]string{true: ".PP\n.nf", false: ".fi"}[on])
		}
		inForm = on
	}
	for line := range strings.Lines(text) {
		line = strings.TrimSuffix(line, "\n")
		switch {
		case strings.HasPrefix(line, "  "):
			form(true)
			fmt.Fprintln(c.stdout, manEscape(line))
		case line == "":
			form(false)
			fmt.Fprintln(c.stdout, ".PP")
		default:
			form(false)
			fmt.Fprintln(c.stdout, manEscape(line))
		}
	}
	form(false)
}

var manEscapes = strings.NewReplacer(`\`, `\e`, `-`, `\-`, `"`, `\(dq`, `'`, `\(aq`, "`", `\(ga`, `^`, `\(ha`, `~`, `\(ti`)

// manEscape escapes what roff would obey.
func manEscape(s string) string {
	s = manEscapes.Replace(s)
	if strings.HasPrefix(s, ".") {
		s = `\&` + s
	}
	return s
}

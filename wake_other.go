//go:build !linux

package pinion

import "time"

// watch is for systems that report writes to a file. This isn't one, so waiting claims poll.
type watch struct{}

func watchFile(string) *watch          { return nil }
func (w *watch) wake() <-chan struct{} { return nil }
func (w *watch) arm() error            { return nil }
func (w *watch) close()                {}

func nap(d time.Duration) { time.Sleep(d) }

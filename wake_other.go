//go:build !linux

package pinion

import "time"

// watch is for systems that tell of writes to a file; this is none of them, so the writer polls.
type watch struct{}

func watchFile(string) *watch          { return nil }
func (w *watch) wake() <-chan struct{} { return nil }
func (w *watch) close()                {}

func nap(d time.Duration) { time.Sleep(d) }

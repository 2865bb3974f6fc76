//go:build unix && pinionclock

package crashlab

import "time"

// setTimeShift makes time.Now heed a clock. SetLabShift is in no package time but that of BuildWithClock.
func setTimeShift(c wallClock) { time.SetLabShift(c.shift) }

//go:build unix && !pinionclock

package crashlab

// setTimeShift is for programs that BuildWithClock has built.
func setTimeShift(wallClock) { panic("crashlab: this program cannot heed a clock; see BuildWithClock") }

package crashlab

import "time"

// wallClock is for Unix only: its processes share the clock through a mapped file.
type wallClock struct{}

func openClock(string) (wallClock, error) { return wallClock{}, nil }

func (wallClock) set(time.Duration) {
	panic("crashlab: on Windows the clock of an experiment cannot be set")
}

func (wallClock) ahead() time.Duration { return 0 }

func (wallClock) machineTime() time.Time { return time.Now() }

func setTimeShift(wallClock) {}

module github.com/pinion-queue/pinion/examples

go 1.26.0

replace github.com/pinion-queue/pinion => ..

require github.com/pinion-queue/pinion v0.0.0-00010101000000-000000000000

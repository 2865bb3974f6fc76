package main

import "github.com/pinion-queue/pinion"

var _ = pinion.NewMemoryStorage

func main() { pinion.NewMemoryStorage().Close() }

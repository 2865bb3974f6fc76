// Command pinion enqueues and runs jobs, and shows and repairs job queues. It is the command line of
// github.com/pinion-queue/pinion. Without arguments it prints a guide.
//
// Package cli shows how to write a program like this one with your own tasks built in.
package main

import "github.com/pinion-queue/pinion/cli"

func main() { cli.Main() }

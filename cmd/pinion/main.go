// Command pinion fills, watches, works and mends job queues: the command line of the package
// github.com/pinion-queue/pinion. Run without arguments, it prints a guide.
//
// A program of your own that has your tasks built in is as short as this one: see package cli.
package main

import "github.com/pinion-queue/pinion/cli"

func main() { cli.Main() }

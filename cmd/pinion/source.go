package main

import "embed"

// The files of this package that rebuild lays into a user's module. This one stays out, as embed would not find them
// there.
//
//go:embed build.go demo.go dlq.go enqueue.go exec_other.go exec_unix.go flags.go look.go main.go worker.go
var files embed.FS

func init() { source = files }

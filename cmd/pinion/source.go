package main

import "embed"

// The files of this package that rebuild lays into a user's module. This one stays out, as embed would not find them
// there.
//
//go:embed build.go
//go:embed bulk.go
//go:embed cancel.go
//go:embed complete.go
//go:embed demo.go
//go:embed dlq.go
//go:embed doctor.go
//go:embed enqueue.go
//go:embed exec.go
//go:embed exec_other.go
//go:embed exec_unix.go
//go:embed flags.go
//go:embed grid.go
//go:embed guard_linux.go
//go:embed guard_other.go
//go:embed look.go
//go:embed main.go
//go:embed process_other.go
//go:embed process_unix.go
//go:embed size_other.go
//go:embed size_unix.go
//go:embed tasks.go
//go:embed terminal.go
//go:embed upgrade.go
//go:embed wait.go
//go:embed watch.go
//go:embed watch_other.go
//go:embed watch_unix.go
//go:embed worker.go
var files embed.FS

func init() { source = files }

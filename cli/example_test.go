package cli_test

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/pinion-queue/pinion/cli"
)

// A pinion command of your own is a main package that imports the packages which register your tasks and
// calls Main:
//
//	package main
//
//	import (
//		_ "example.com/shop/tasks"
//
//		"github.com/pinion-queue/pinion/cli"
//	)
//
//	func main() { cli.Main() }
//
// Build it with go build and use it like pinion: "shop worker --db q.db" runs the tasks of the packages, and
// "shop enqueue" refuses names that none of the tasks has.
func Example() {
	cli.Main() // the whole main function; it does not return
}

func ExampleRun() {
	dir, err := os.MkdirTemp("", "pinion-example-")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer os.RemoveAll(dir)
	ctx, db := context.Background(), filepath.Join(dir, "q.db")

	cli.Run(ctx, []string{"enqueue", "add", "--args", "[1, 2]", "--db", db}, os.Stdin, io.Discard, os.Stderr)
	status := cli.Run(ctx, []string{"prune", "--older-than", "24h", "--db", db}, os.Stdin, os.Stdout, os.Stderr)
	fmt.Println("exit status", status)
	// Output:
	// pruned 0
	// exit status 0
}

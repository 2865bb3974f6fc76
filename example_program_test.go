package pinion_test

import (
	"context"
	"fmt"
	"log"

	"github.com/pinion-queue/pinion"
)

type AddArgs struct{ A, B int }

var Add = pinion.Register("add", func(ctx context.Context, args AddArgs) error {
	fmt.Println(args.A + args.B)
	return nil
})

// A whole program. This file holds nothing else so that documentation sites show all of it; the README has the same.
func Example() {
	ctx := context.Background()
	storage, err := pinion.Open(ctx, "memory:") // or "jobs.db": a file that any number of processes share
	if err != nil {
		log.Fatal(err)
	}
	defer storage.Close()
	if _, err := Add.Enqueue(ctx, storage, AddArgs{1, 2}); err != nil {
		log.Fatal(err)
	}
	worker := &pinion.Worker{Storage: storage}
	if err := worker.Drain(ctx); err != nil { // until nothing is due; Run goes on until ctx ends
		log.Fatal(err)
	}
	// Output: 3
}

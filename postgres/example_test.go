package postgres_test

import (
	"context"
	"fmt"
	"log"
	"os"
	"os/signal"
	"syscall"

	"github.com/jackc/pgx/v5"

	"github.com/pinion-queue/pinion"
	"github.com/pinion-queue/pinion/postgres"
)

type WelcomeArgs struct{ Customer int }

// A worker on PostgreSQL: only the storage that is opened is another.
func Example() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	storage, err := postgres.Open(ctx, os.Getenv("DATABASE_URL"), nil)
	if err != nil {
		log.Fatal(err)
	}
	defer storage.Close()
	pinion.Register("welcome", func(ctx context.Context, args WelcomeArgs) error {
		fmt.Println("welcome", args.Customer)
		return nil
	})
	worker := &pinion.Worker{Storage: storage}
	if err := worker.Run(ctx); err != nil {
		log.Fatal(err)
	}
}

// A job that becomes necessary in a transaction is enqueued in it: there is the one if and only if there is the other.
func ExampleStorage_Tx() {
	ctx := context.Background()
	storage, err := postgres.Open(ctx, os.Getenv("DATABASE_URL"), nil)
	if err != nil {
		log.Fatal(err)
	}
	defer storage.Close()
	conn, err := pgx.Connect(ctx, os.Getenv("DATABASE_URL"))
	if err != nil {
		log.Fatal(err)
	}
	defer conn.Close(ctx)
	err = pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
		var id int
		if err := tx.QueryRow(ctx, `INSERT INTO customers (name) VALUES ('Ada') RETURNING id`).Scan(&id); err != nil {
			return err
		}
		return storage.Tx(tx).Enqueue(ctx, pinion.NewJob("welcome", id))
	})
	if err != nil {
		log.Fatal(err)
	}
}

// The way from a SQLite file to PostgreSQL. Stop the workers and whoever enqueues, run this, and start them with the new
// storage. The file stays as it is.
func ExampleStorage_Import() {
	ctx := context.Background()
	file, err := pinion.OpenSQLite(ctx, "jobs.db", &pinion.SQLiteOptions{ReadOnly: true})
	if err != nil {
		log.Fatal(err)
	}
	defer file.Close()
	storage, err := postgres.Open(ctx, os.Getenv("DATABASE_URL"), nil)
	if err != nil {
		log.Fatal(err)
	}
	defer storage.Close()
	jobs, letters, err := storage.Import(ctx, file)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("%d jobs and %d dead letters are moved\n", jobs, letters)
}

package postgres_test

import (
	"context"
	"database/sql"
	"fmt"
	"log"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
	_ "github.com/jackc/pgx/v5/stdlib"

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

// Two queues in one database, each in a schema of its own. Behind PgBouncer nothing can LISTEN.
func ExampleOptions() {
	ctx := context.Background()
	storage, err := postgres.Open(ctx, os.Getenv("DATABASE_URL"), &postgres.Options{
		Schema:    "mails",
		MaxConns:  4,
		Retention: time.Hour,
		NoListen:  true,
	})
	if err != nil {
		log.Fatal(err)
	}
	defer storage.Close()
	if err := storage.Enqueue(ctx, pinion.NewJob("welcome", 1)); err != nil {
		log.Fatal(err)
	}
}

// A job that becomes necessary in a transaction is enqueued in it: there is the one if and only if there is the
// other.
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

type TransferArgs struct{ From, To, Cents int }

// A task that moves money exactly once: the transfer and the end of the job commit together, whatever is killed. The
// program uses database/sql.
func ExampleStorage_SQLTx() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	storage, err := postgres.Open(ctx, os.Getenv("DATABASE_URL"), nil)
	if err != nil {
		log.Fatal(err)
	}
	defer storage.Close()
	db, err := sql.Open("pgx", os.Getenv("DATABASE_URL"))
	if err != nil {
		log.Fatal(err)
	}
	defer db.Close()
	pinion.Register("transfer", func(ctx context.Context, args TransferArgs) error {
		tx, err := db.BeginTx(ctx, nil)
		if err != nil {
			return err
		}
		defer tx.Rollback() // does nothing after Commit
		const move = `UPDATE accounts SET cents=cents+$1 WHERE id=$2`
		if _, err := tx.ExecContext(ctx, move, -args.Cents, args.From); err != nil {
			return err
		}
		if _, err := tx.ExecContext(ctx, move, args.Cents, args.To); err != nil {
			return err
		}
		if err := storage.SQLTx(tx).Done(ctx); err != nil {
			return err
		}
		return tx.Commit()
	})
	worker := &pinion.Worker{Storage: storage}
	if err := worker.Run(ctx); err != nil {
		log.Fatal(err)
	}
}

// The way from a SQLite file to PostgreSQL. Stop the workers and whoever enqueues, run this, and start them
// with the new storage. The file stays as it is.
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

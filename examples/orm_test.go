package examples_test

import (
	"context"
	"database/sql"
	"fmt"
	"log"
	"os"
	"path/filepath"

	"entgo.io/ent/dialect"
	entsql "entgo.io/ent/dialect/sql"
	"github.com/pinion-queue/pinion"
	"gorm.io/driver/sqlite"
	"gorm.io/gorm"
)

// openShop opens one file twice: as the queue, and as the application's database, with the same SQLite library.
func openShop(ctx context.Context) (storage *pinion.SQLiteStorage, db *sql.DB, remove func()) {
	dir, err := os.MkdirTemp("", "pinion")
	if err != nil {
		log.Fatal(err)
	}
	path := filepath.Join(dir, "shop.db")
	storage, err = pinion.OpenSQLite(ctx, path, nil)
	if err != nil {
		log.Fatal(err)
	}
	db, err = sql.Open("sqlite", path+"?_pragma=busy_timeout(5000)&_txlock=immediate")
	if err != nil {
		log.Fatal(err)
	}
	return storage, db, func() {
		db.Close()
		storage.Close()
		os.RemoveAll(dir)
	}
}

// GORM takes a *sql.DB that another driver has opened. Inside a transaction its ConnPool is the *sql.Tx.
func Example_gorm() {
	type Order struct {
		ID       uint
		Customer string
	}
	var ship = pinion.Register("ship with gorm", func(ctx context.Context, order uint) error {
		fmt.Println("shipping order", order)
		return nil
	})
	ctx := context.Background()
	storage, db, remove := openShop(ctx)
	defer remove()

	shop, err := gorm.Open(sqlite.New(sqlite.Config{Conn: db}), nil)
	if err != nil {
		log.Fatal(err)
	}
	if err := shop.AutoMigrate(new(Order)); err != nil {
		log.Fatal(err)
	}
	err = shop.WithContext(ctx).Transaction(func(tx *gorm.DB) error {
		order := Order{Customer: "Ada"}
		if err := tx.Create(&order).Error; err != nil {
			return err
		}
		sqlTx, ok := tx.Statement.ConnPool.(*sql.Tx)
		if !ok {
			return fmt.Errorf("the transaction is a %T; want a *sql.Tx", tx.Statement.ConnPool)
		}
		_, err := ship.Enqueue(ctx, storage.Tx(sqlTx), order.ID)
		return err
	})
	if err != nil {
		log.Fatal(err)
	}

	worker := &pinion.Worker{Storage: storage, Logger: quiet}
	if err := worker.Drain(ctx); err != nil {
		log.Fatal(err)
	}
	// Output: shipping order 1
}

// With ent, begin the transaction yourself and give ent a driver over it: ent.NewClient(ent.Driver(driver)).
func Example_ent() {
	var ship = pinion.Register("ship with ent", func(ctx context.Context, order int) error {
		fmt.Println("shipping order", order)
		return nil
	})
	ctx := context.Background()
	storage, db, remove := openShop(ctx)
	defer remove()
	if _, err := db.ExecContext(ctx, "CREATE TABLE orders (id INTEGER PRIMARY KEY)"); err != nil {
		log.Fatal(err)
	}

	tx, err := db.BeginTx(ctx, nil)
	if err != nil {
		log.Fatal(err)
	}
	defer tx.Rollback()
	driver := entsql.NewDriver(dialect.SQLite, entsql.Conn{ExecQuerier: tx})
	// What a client of ent does: client.Order.Create().SetID(1).Exec(ctx).
	insert, args := entsql.Dialect(dialect.SQLite).Insert("orders").Columns("id").Values(1).Query()
	if err := driver.Exec(ctx, insert, args, nil); err != nil {
		log.Fatal(err)
	}
	if _, err := ship.Enqueue(ctx, storage.Tx(tx), 1); err != nil {
		log.Fatal(err)
	}
	if err := tx.Commit(); err != nil {
		log.Fatal(err)
	}

	worker := &pinion.Worker{Storage: storage, Logger: quiet}
	if err := worker.Drain(ctx); err != nil {
		log.Fatal(err)
	}
	// Output: shipping order 1
}

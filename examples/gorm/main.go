// Command gorm prints what the tenants named as arguments have in their order books, with GORM.
//
// # What to know
//
//   - Open the *sql.DB first and hand it over as Conn. With DriverName instead, GORM does not know the name and leaves out
//     what it does for pgx: its migrator then fails in a transaction that changes a table twice, as it does with PrepareStmt
//     (0A000, a cached plan). Migrate outside of one, or with a *gorm.DB without PrepareStmt.
//   - Every call needs WithContext. A call without it has no tenant and fails with ErrNoTenant. In Transaction, use the
//     *gorm.DB that the function is given: it carries the context.
//   - gorm.Open pings without a tenant. That asks the registry, so gorm.Open fails while the registry is down; the
//     setting DisableAutomaticPing lets the program start then, too.
//   - A model needs no tenant column: the table fills it. Primary keys in the model may stay a single id.
//   - Create saves a has-many association by "on conflict (id) do update", and the key of a shared table is
//     (tenant_id, id): PostgreSQL refuses it (42P10). Leave the association out and create its rows after, as place does.
//     Saving what a row belongs to works.
//   - AutoMigrate on a shard (ShardDB) adds columns to tables that are there. A new table for shared tenants needs its
//     tenant column and policies: create it in SQL.
//   - Duplicate keys and foreign keys are translated as with plain pgx (TranslateError).
package main

import (
	"context"
	"database/sql"
	"fmt"
	"os"

	"gorm.io/driver/postgres"
	"gorm.io/gorm"

	shardedpg "github.com/sharded-pg/sharded-pg"
)

func main() {
	db, err := open(os.Getenv("REGISTRY_DSN"))
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	for _, tenant := range os.Args[1:] {
		orders, err := list(shardedpg.WithTenant(context.Background(), tenant), db)
		fmt.Println(tenant, orders, err)
	}
}

func open(dsn string) (*gorm.DB, error) {
	db, err := sql.Open("sharded-pg", dsn)
	if err != nil {
		return nil, err
	}
	return gorm.Open(postgres.New(postgres.Config{Conn: db}), &gorm.Config{
		PrepareStmt:    true, // a prepared statement is a text here, and serves all tenants
		TranslateError: true,
	})
}

// Customer and Order are the whole tables as the program sees them.
type Customer struct {
	ID     int64
	Name   string `gorm:"not null"`
	Orders []Order
}

// Order belongs to a customer.
type Order struct {
	ID         int64
	CustomerID int64 `gorm:"not null"`
	Customer   *Customer
	Item       string `gorm:"not null"`
	Quantity   int    `gorm:"not null;check:quantity > 0"`
}

// list joins: one statement.
func list(ctx context.Context, db *gorm.DB) ([]Order, error) {
	var orders []Order
	err := db.WithContext(ctx).Joins("Customer").Order("orders.id").Find(&orders).Error
	return orders, err
}

// customers preloads: one statement for the customers and one for all their orders, each as the tenant of ctx.
func customers(ctx context.Context, db *gorm.DB) ([]Customer, error) {
	var all []Customer
	err := db.WithContext(ctx).Preload("Orders").Order("id").Find(&all).Error
	return all, err
}

// place takes the orders of a new customer: all of it is there afterwards, or nothing.
func place(ctx context.Context, db *gorm.DB, c *Customer) error {
	return db.WithContext(ctx).Transaction(func(tx *gorm.DB) error {
		if err := tx.Omit("Orders").Create(c).Error; err != nil {
			return err
		}
		for n := range c.Orders {
			c.Orders[n].CustomerID = c.ID
		}
		return tx.CreateInBatches(c.Orders, 100).Error // does nothing for none
	})
}

// move gives all orders of one customer to another, and then removes the first.
func move(ctx context.Context, db *gorm.DB, from, to int64) error {
	return db.WithContext(ctx).Transaction(func(tx *gorm.DB) error {
		if err := tx.Model(&Order{}).Where("customer_id = ?", from).Update("customer_id", to).Error; err != nil {
			return err
		}
		return tx.Delete(&Customer{}, from).Error
	})
}

// load inserts a slice, a hundred rows a statement, in one transaction.
func load(ctx context.Context, db *gorm.DB, orders []Order) error {
	return db.WithContext(ctx).CreateInBatches(orders, 100).Error
}

// createTables makes the tables of a tenant that has a schema or a database of its own.
func createTables(ctx context.Context, db *gorm.DB) error {
	return db.WithContext(ctx).AutoMigrate(&Customer{}, &Order{})
}

// OrderWithNote is the model of the next release.
type OrderWithNote struct {
	Order
	Note *string
}

// TableName says that it is the same table.
func (OrderWithNote) TableName() string { return "orders" }

// migrateShard changes the tables that all shared tenants of a shard live in. This belongs to no tenant.
func migrateShard(ctx context.Context, connector *shardedpg.Connector, shard string) error {
	admin, err := connector.ShardDB(shard, "orders get a note")
	if err != nil {
		return err
	}
	db, err := gorm.Open(postgres.New(postgres.Config{Conn: admin}), &gorm.Config{})
	if err != nil {
		return err
	}
	return db.WithContext(ctx).Migrator().AddColumn(&OrderWithNote{}, "Note")
}

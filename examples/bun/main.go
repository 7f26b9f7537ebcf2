// Command bun prints what the tenants named as arguments have in their order books, with bun.
//
// # What to know
//
//   - Every query takes a context (Scan, Exec, Count, RunInTx), so there is little to forget. Methods that bun inherits from
//     *sql.DB and that take none have no tenant.
//   - bun writes values into the text, so each text is another statement: caching them gains nothing. If only bun uses a
//     shard, put default_query_exec_mode=exec into the shard's DSN, and no statement costs a second round trip to be
//     prepared.
//   - A model needs no tenant column: the table fills it.
//   - NewCreateTable makes tables without tenant column and policies. It is for tenants with a schema or a database of
//     their own; create tables of shared tenants in SQL.
//   - The driver of bun (pgdriver), its Listener and its COPY are not used: pgx is underneath, and Raw gives its connection.
package main

import (
	"context"
	"database/sql"
	"fmt"
	"os"

	"github.com/uptrace/bun"
	"github.com/uptrace/bun/dialect/pgdialect"

	shardedpg "github.com/sharded-pg/sharded-pg"
)

func main() {
	db, err := open(os.Getenv("REGISTRY_DSN"))
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	defer db.Close()
	for _, tenant := range os.Args[1:] {
		orders, err := list(shardedpg.WithTenant(context.Background(), tenant), db)
		fmt.Println(tenant, orders, err)
	}
}

func open(dsn string) (*bun.DB, error) {
	db, err := sql.Open("sharded-pg", dsn)
	if err != nil {
		return nil, err
	}
	return bun.NewDB(db, pgdialect.New()), nil
}

type customer struct {
	bun.BaseModel `bun:"table:customers"`

	ID     int64    `bun:"id,pk,autoincrement,identity"`
	Name   string   `bun:"name,notnull,unique"`
	Orders []*order `bun:"rel:has-many,join:id=customer_id"`
}

type order struct {
	bun.BaseModel `bun:"table:orders,alias:o"`

	ID         int64     `bun:"id,pk,autoincrement,identity"`
	CustomerID int64     `bun:"customer_id,notnull"`
	Customer   *customer `bun:"rel:belongs-to,join:customer_id=id"`
	Item       string    `bun:"item,notnull"`
	Quantity   int       `bun:"quantity,notnull"`
}

// list joins: one statement.
func list(ctx context.Context, db *bun.DB) ([]order, error) {
	var orders []order
	err := db.NewSelect().Model(&orders).Relation("Customer").Order("o.id").Scan(ctx)
	return orders, err
}

// customers loads a has-many relation: one statement for the customers and one for all their orders.
func customers(ctx context.Context, db *bun.DB) ([]customer, error) {
	var all []customer
	err := db.NewSelect().Model(&all).Relation("Orders").Order("id").Scan(ctx)
	return all, err
}

// place takes an order of a new customer: both are there afterwards, or neither.
func place(ctx context.Context, db bun.IDB, c *customer, o *order) error {
	return db.RunInTx(ctx, nil, func(ctx context.Context, tx bun.Tx) error {
		if _, err := tx.NewInsert().Model(c).Exec(ctx); err != nil {
			return err
		}
		o.CustomerID = c.ID
		_, err := tx.NewInsert().Model(o).Exec(ctx)
		return err
	})
}

// load inserts a slice in one statement, and learns the ids.
func load(ctx context.Context, db *bun.DB, orders []order) error {
	_, err := db.NewInsert().Model(&orders).Exec(ctx)
	return err
}

// createTables makes the tables of a tenant that has a schema or a database of its own.
func createTables(ctx context.Context, db *bun.DB) error {
	if _, err := db.NewCreateTable().Model((*customer)(nil)).IfNotExists().Exec(ctx); err != nil {
		return err
	}
	_, err := db.NewCreateTable().Model((*order)(nil)).IfNotExists().
		ForeignKey(`("customer_id") references "customers" ("id")`).Exec(ctx)
	return err
}

// migrateShard changes the tables that all shared tenants of a shard live in. This belongs to no tenant.
func migrateShard(ctx context.Context, connector *shardedpg.Connector, shard string) error {
	admin, err := connector.ShardDB(shard, "orders get a note")
	if err != nil {
		return err
	}
	_, err = bun.NewDB(admin, pgdialect.New()).NewAddColumn().Model((*order)(nil)).ColumnExpr("note text").IfNotExists().Exec(ctx)
	return err
}

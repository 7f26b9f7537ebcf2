// Command sqlc prints what the tenants named as arguments have in their order books, with code that sqlc has generated
// from queries.sql and the tables.
//
// # What to know
//
//   - Generate for database/sql (sql_package: database/sql). Code for pgx/v5 wants a pgx connection, which is one tenant's.
//   - The schema that sqlc reads is the one of shared tenants, so its models have the tenant column. Name columns in
//     queries: then they fit tenants with tables of their own as well.
//   - Prepare (emit_prepared_queries) checks the statements with the tenant in its context; they serve all tenants
//     afterwards. Without a tenant it fails with ErrNoTenant.
//   - :copyfrom is not for database/sql, and PostgreSQL refuses COPY on tables with row-level security. Arrays are as quick.
//   - A transaction has a savepoint when the program says so, in SQL, as with any driver of database/sql.
package main

import (
	"context"
	"database/sql"
	"fmt"
	"os"

	shardedpg "github.com/sharded-pg/sharded-pg"
	"github.com/sharded-pg/sharded-pg/examples/sqlc/store"
)

func main() {
	db, queries, err := open(os.Getenv("REGISTRY_DSN"))
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	defer db.Close()
	for _, tenant := range os.Args[1:] {
		orders, err := queries.ListOrders(shardedpg.WithTenant(context.Background(), tenant))
		fmt.Println(tenant, orders, err)
	}
}

func open(dsn string) (*sql.DB, *store.Queries, error) {
	db, err := sql.Open("sharded-pg", dsn)
	if err != nil {
		return nil, nil, err
	}
	return db, store.New(db), nil
}

// place takes an order of a new customer: both are there afterwards, or neither.
func place(ctx context.Context, db *sql.DB, queries *store.Queries, name, item string, quantity int32) error {
	tx, err := db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback() }() // does nothing after Commit

	inTx := queries.WithTx(tx)
	customer, err := inTx.AddCustomer(ctx, name)
	if err != nil {
		return err
	}
	if _, err := inTx.AddOrder(ctx, store.AddOrderParams{CustomerID: customer, Item: item, Quantity: quantity}); err != nil {
		return err
	}
	return tx.Commit()
}

// load inserts many orders of one customer in one statement.
func load(ctx context.Context, queries *store.Queries, customer int64, items []string, quantities []int32) error {
	return queries.AddOrders(ctx, store.AddOrdersParams{CustomerID: customer, Items: items, Quantities: quantities})
}

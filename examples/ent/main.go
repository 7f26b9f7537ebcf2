// Command ent prints what the tenants named as arguments have in their order books, with ent.
//
// # What to know
//
//   - Hand the *sql.DB to entsql.OpenDB. ent.Open does not know the driver's name.
//   - ent has no methods without a context, so there is nothing to forget but the tenant in it.
//   - Schema.Create asks for the server's version without the context that it is given, and so without a tenant. Run it on
//     the client of a transaction, as createTables does: that belongs to the tenant that it began with.
//   - The schema needs no tenant field: the table fills the column. Keys stay a single id. Upserts (OnConflict) name the
//     columns of a shared table's key: tenant_id first.
//   - A transaction has no savepoints of ent's own, on any driver: a Tx inside a Tx is refused.
//   - Schema.Create makes the tables of a tenant that has a schema or a database of its own. It knows nothing of tenant
//     columns and policies: change the tables of shared tenants in SQL, through ShardDB.
//   - Statements have no prepared form of ent's own. pgx prepares each text once for each server connection by itself.
package main

import (
	"context"
	"database/sql"
	"fmt"
	"os"

	"entgo.io/ent/dialect"
	entsql "entgo.io/ent/dialect/sql"

	shardedpg "github.com/sharded-pg/sharded-pg"
	"github.com/sharded-pg/sharded-pg/examples/ent/store"
	"github.com/sharded-pg/sharded-pg/examples/ent/store/customer"
	"github.com/sharded-pg/sharded-pg/examples/ent/store/order"
)

func main() {
	client, err := open(os.Getenv("REGISTRY_DSN"))
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	defer client.Close()
	for _, tenant := range os.Args[1:] {
		orders, err := list(shardedpg.WithTenant(context.Background(), tenant), client)
		fmt.Println(tenant, orders, err)
	}
}

func open(dsn string) (*store.Client, error) {
	db, err := sql.Open("sharded-pg", dsn)
	if err != nil {
		return nil, err
	}
	return store.NewClient(store.Driver(entsql.OpenDB(dialect.Postgres, db))), nil
}

// list loads orders with their customers: one statement for each.
func list(ctx context.Context, client *store.Client) ([]*store.Order, error) {
	return client.Order.Query().WithCustomer().Order(order.ByID()).All(ctx)
}

// ordersOf joins: one statement.
func ordersOf(ctx context.Context, client *store.Client, name string) ([]*store.Order, error) {
	return client.Customer.Query().Where(customer.Name(name)).QueryOrders().All(ctx)
}

// place takes an order of a new customer: both are there afterwards, or neither.
func place(ctx context.Context, client *store.Client, name, item string, quantity int32) error {
	tx, err := client.Tx(ctx)
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback() }() // does nothing after Commit

	c, err := tx.Customer.Create().SetName(name).Save(ctx)
	if err != nil {
		return err
	}
	if err := tx.Order.Create().SetCustomer(c).SetItem(item).SetQuantity(quantity).Exec(ctx); err != nil {
		return err
	}
	return tx.Commit()
}

// load inserts many orders of one customer in one statement.
func load(ctx context.Context, client *store.Client, customerID int64, items []string) error {
	return client.Order.MapCreateBulk(items, func(c *store.OrderCreate, n int) {
		c.SetCustomerID(customerID).SetItem(items[n]).SetQuantity(1)
	}).Exec(ctx)
}

// createTables makes the tables of a tenant that has a schema or a database of its own: all of them, or none. In a
// transaction, because Schema.Create asks for the server's version without the context it was given.
func createTables(ctx context.Context, client *store.Client) error {
	tx, err := client.Tx(ctx)
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback() }() // does nothing after Commit

	if err := tx.Client().Schema.Create(ctx); err != nil {
		return err
	}
	return tx.Commit()
}

// migrateShard changes the tables that all shared tenants of a shard live in. This belongs to no tenant.
func migrateShard(ctx context.Context, connector *shardedpg.Connector, shard string) error {
	admin, err := connector.ShardDB(shard, "orders get a note")
	if err != nil {
		return err
	}
	_, err = admin.ExecContext(ctx, `alter table orders add column if not exists note text`)
	return err
}

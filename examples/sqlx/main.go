// Command sqlx prints what the tenants named as arguments have in their order books, with sqlx.
//
// # What to know
//
//   - sqlx finds out by the driver's name how parameters look, and does not know this one: without the name that NewDb is
//     given here it sends "?" to the server for named parameters. For sqlx.Open and sqlx.Connect, call
//     sqlx.BindDriver("sharded-pg", sqlx.DOLLAR) once when the program starts.
//   - Get, Select, NamedExec, MustExec, Beginx and others without Context in their name have no tenant and fail with
//     ErrNoTenant, outside transactions. Their twins with Context work.
//   - sqlx.Connect pings without a tenant. That asks the registry, and succeeds when it answers.
//   - List columns. "select *" into a struct fails in sqlx itself once a migration has added a column, on any driver.
package main

import (
	"context"
	"database/sql"
	"fmt"
	"os"

	"github.com/jmoiron/sqlx"

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

func open(dsn string) (*sqlx.DB, error) {
	db, err := sql.Open("sharded-pg", dsn)
	if err != nil {
		return nil, err
	}
	return sqlx.NewDb(db, "pgx"), nil // the name of a driver whose parameters look the same
}

type customer struct {
	ID   int64
	Name string
}

type order struct {
	ID         int64
	CustomerID int64 `db:"customer_id"`
	Item       string
	Quantity   int
}

// orderOf is a row of a join: a field for each side.
type orderOf struct {
	order
	Customer customer
}

// list joins orders and customers. Neither side names the tenant: row-level security holds for both.
func list(ctx context.Context, db *sqlx.DB) ([]orderOf, error) {
	orders := []orderOf{}
	err := db.SelectContext(ctx, &orders, `
		select o.id, o.customer_id, o.item, o.quantity, c.id "customer.id", c.name "customer.name"
		from orders o join customers c on c.id = o.customer_id
		order by o.id`)
	return orders, err
}

// place takes an order of a new customer: both are there afterwards, or neither.
func place(ctx context.Context, db *sqlx.DB, c *customer, o *order) error {
	tx, err := db.BeginTxx(ctx, nil)
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback() }() // does nothing after Commit

	if err := tx.GetContext(ctx, &c.ID, `insert into customers (name) values ($1) returning id`, c.Name); err != nil {
		return err
	}
	o.CustomerID = c.ID
	err = tx.GetContext(ctx, &o.ID, `insert into orders (customer_id, item, quantity) values ($1, $2, $3) returning id`,
		o.CustomerID, o.Item, o.Quantity)
	if err != nil {
		return err
	}
	return tx.Commit()
}

// load inserts a slice by one statement with named parameters, which sqlx repeats for each element.
func load(ctx context.Context, db *sqlx.DB, orders []order) error {
	_, err := db.NamedExecContext(ctx,
		`insert into orders (customer_id, item, quantity) values (:customer_id, :item, :quantity)`, orders)
	return err
}

// createTables makes the tables of a tenant that has a schema or a database of its own. No statement names the schema.
func createTables(ctx context.Context, db *sqlx.DB) error {
	for _, table := range []string{
		`create table if not exists customers (id bigint primary key generated always as identity, name text not null unique)`,
		`create table if not exists orders (
			id          bigint  primary key generated always as identity,
			customer_id bigint  not null references customers,
			item        text    not null,
			quantity    integer not null check (quantity > 0))`,
	} {
		if _, err := db.ExecContext(ctx, table); err != nil {
			return err
		}
	}
	return nil
}

// migrateShard changes the tables that all shared tenants of a shard live in. This belongs to no tenant.
func migrateShard(ctx context.Context, connector *shardedpg.Connector, shard string) error {
	admin, err := connector.ShardDB(shard, "orders get a note")
	if err != nil {
		return err
	}
	_, err = sqlx.NewDb(admin, "pgx").ExecContext(ctx, `alter table orders add column if not exists note text`)
	return err
}

// Command quickstart is an HTTP service for many tenants on net/http and database/sql: GET /orders lists the orders of
// the tenant that the request is for, POST /orders takes one.
//
// The request's host names the tenant, the middleware puts it into the request's context, and every statement gets that
// context. This is all: no statement names a tenant or a shard, and a statement with another context is refused.
//
// # What to know
//
//   - Methods of database/sql without a context (Query, Exec, Begin) have no tenant and fail with ErrNoTenant; on a *sql.Tx
//     and a *sql.Conn they belong to the tenant that it began with.
//   - A transaction has a savepoint when the program says so, in SQL, as with any driver of database/sql.
//   - An upsert names the columns of a key, and the keys of shared tables begin with tenant_id.
//   - Ping without a tenant asks the registry, with a tenant its shard.
package main

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"os"
	"strconv"
	"time"

	shardedpg "github.com/sharded-pg/sharded-pg"
	"github.com/sharded-pg/sharded-pg/httptenant"
)

func main() {
	db, err := open(os.Getenv("REGISTRY_DSN"))
	if err != nil {
		slog.Error("open", "error", err)
		os.Exit(1)
	}
	defer db.Close()

	server := &http.Server{
		Addr:              "localhost:8080",
		Handler:           httptenant.Middleware(httptenant.FromSubdomain("localhost"))(handler(db)),
		ReadHeaderTimeout: 5 * time.Second,
	}
	slog.Info("try: curl http://acme.localhost:8080/orders")
	slog.Error("serve", "error", server.ListenAndServe())
}

func open(dsn string) (*sql.DB, error) {
	return sql.Open("sharded-pg", dsn)
}

type order struct {
	ID       int64  `json:"id"`
	Customer string `json:"customer"`
	Item     string `json:"item"`
	Quantity int    `json:"quantity"`
}

// handler is the service. What it answers is up to the tenant in the request's context.
func handler(db *sql.DB) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /orders", func(w http.ResponseWriter, r *http.Request) {
		orders, err := list(r.Context(), db)
		answer(w, orders, err)
	})
	mux.HandleFunc("POST /orders", func(w http.ResponseWriter, r *http.Request) {
		var o order
		if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, 64<<10)).Decode(&o); err != nil {
			http.Error(w, "the body is no order", http.StatusBadRequest)
			return
		}
		err := place(r.Context(), db, &o)
		answer(w, o, err)
	})
	return mux
}

// list is one statement, so it costs one round trip, as it would without tenants.
func list(ctx context.Context, db *sql.DB) ([]order, error) {
	rows, err := db.QueryContext(ctx,
		`select o.id, c.name, o.item, o.quantity from orders o join customers c on c.id = o.customer_id order by o.id`)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	orders := []order{}
	for rows.Next() {
		var o order
		if err := rows.Scan(&o.ID, &o.Customer, &o.Item, &o.Quantity); err != nil {
			return nil, err
		}
		orders = append(orders, o)
	}
	return orders, rows.Err()
}

// place takes an order, and its customer with it if that is a new one: both or nothing. The transaction belongs to the
// tenant of ctx until it ends, and BEGIN flies with its first statement.
func place(ctx context.Context, db *sql.DB, o *order) error {
	tx, err := db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback() }() // does nothing after Commit

	// "do update" and not "do nothing", so that the row of a customer who is there already is returned as well.
	var customer int64
	err = tx.QueryRowContext(ctx,
		`insert into customers (name) values ($1) on conflict (tenant_id, name) do update set name = excluded.name returning id`,
		o.Customer).Scan(&customer)
	if err != nil {
		return err
	}
	err = tx.QueryRowContext(ctx, `insert into orders (customer_id, item, quantity) values ($1, $2, $3) returning id`,
		customer, o.Item, o.Quantity).Scan(&o.ID)
	if err != nil {
		return err
	}
	return tx.Commit()
}

// load takes many orders of one customer in one statement. PostgreSQL refuses COPY on tables with row-level security;
// arrays are as quick.
func load(ctx context.Context, db *sql.DB, customer int64, items []string, quantities []int32) error {
	_, err := db.ExecContext(ctx,
		`insert into orders (customer_id, item, quantity) select $1, unnest($2::text[]), unnest($3::int[])`,
		customer, items, quantities)
	return err
}

// answer turns the driver's refusals into statuses. Texts of errors are for the log.
func answer(w http.ResponseWriter, body any, err error) {
	switch {
	case err == nil:
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(body) // the client went away: nobody to tell
		return
	case errors.Is(err, shardedpg.ErrTenantNotFound):
		http.Error(w, "no such shop", http.StatusNotFound)
	case errors.Is(err, shardedpg.ErrTenantDisabled), errors.Is(err, shardedpg.ErrTenantReadOnly):
		http.Error(w, "this shop is closed for now", http.StatusForbidden)
	case errors.Is(err, shardedpg.ErrTenantBusy), errors.Is(err, shardedpg.ErrRateLimited):
		retryAfter(w, err)
		http.Error(w, "too many requests of this shop", http.StatusTooManyRequests)
	case errors.Is(err, shardedpg.ErrShardBusy), errors.Is(err, shardedpg.ErrShardUnavailable),
		errors.Is(err, shardedpg.ErrRegistryUnavailable):
		retryAfter(w, err)
		http.Error(w, "try again later", http.StatusServiceUnavailable)
	default:
		http.Error(w, "something went wrong", http.StatusInternalServerError)
	}
	slog.Error("request failed", "error", err)
}

// retryAfter passes on when the driver says that it is worth trying again, if it knows.
func retryAfter(w http.ResponseWriter, err error) {
	var refusal *shardedpg.Error
	if errors.As(err, &refusal) && refusal.RetryAfter > 0 {
		w.Header().Set("Retry-After", strconv.Itoa(int(refusal.RetryAfter.Seconds())+1))
	}
}

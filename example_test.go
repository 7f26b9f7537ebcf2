package shardedpg_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"

	shardedpg "github.com/sharded-pg/sharded-pg"
	"github.com/sharded-pg/sharded-pg/internal/pgtest"
	"github.com/sharded-pg/sharded-pg/registry"
)

func Example() {
	db, err := sql.Open("sharded-pg", registryDSN())
	if err != nil {
		panic(err)
	}
	defer db.Close()

	count := func(ctx context.Context) {
		var n int
		err := db.QueryRowContext(ctx, "select count(*) from orders").Scan(&n)
		fmt.Println(n, err)
	}
	ctx := context.Background()
	count(shardedpg.WithTenant(ctx, "acme"))
	count(shardedpg.WithTenant(ctx, "globex"))
	count(ctx)
	// Output:
	// 3 <nil>
	// 5 <nil>
	// 0 shardedpg: tenant: no tenant in the context; put one into the context with WithTenant, or use ShardDB for work that belongs to no tenant
}

func ExampleWithTenant() {
	ctx := shardedpg.WithTenant(context.Background(), "acme")
	fmt.Println(shardedpg.TenantFrom(ctx))

	// A second tenant is a mistake, and such a context is of no use.
	fmt.Println(shardedpg.TenantFrom(shardedpg.WithTenant(ctx, "globex")))

	fmt.Println(shardedpg.TenantFrom(shardedpg.SwitchTenant(ctx, "globex")))
	// Output:
	// acme true
	//  false
	// globex true
}

func ExampleNewConnector() {
	cfg, err := shardedpg.ParseDSN(registryDSN())
	if err != nil {
		panic(err)
	}
	cfg.MaxConns = 8
	connector, err := shardedpg.NewConnector(cfg)
	if err != nil {
		panic(err)
	}
	db := sql.OpenDB(connector)
	defer db.Close() // closes the connector, too

	fmt.Println(db.PingContext(context.Background())) // no tenant: asks the registry
	fmt.Println(db.PingContext(shardedpg.WithTenant(context.Background(), "acme")))
	// Output:
	// <nil>
	// <nil>
}

// Without a registry database: the fleet is written down in the program.
func ExampleNewConnector_static() {
	store, err := registry.NewStatic(registry.Fleet{
		Shards: []registry.Shard{{Name: "eu", DSN: "host=eu1 user=app dbname=app password=${EU_PASSWORD}"}},
		Plans: []registry.Plan{
			{Name: "trial", StatementTimeout: 2 * time.Second, WorkMemKB: 4096, MaxConns: 2, Weight: 1},
		},
		Tenants: []registry.Tenant{{ID: "acme", Shard: "eu", Plan: "trial"}},
	})
	if err != nil {
		panic(err)
	}
	connector, err := shardedpg.NewConnector(shardedpg.Config{Store: store})
	if err != nil {
		panic(err)
	}
	db := sql.OpenDB(connector)
	defer db.Close()
	fmt.Println("nothing is connected yet:", len(connector.Stats().Shards), "shards in use")
	// Output: nothing is connected yet: 0 shards in use
}

func ExampleConnector_ShardDB() {
	cfg, err := shardedpg.ParseDSN(registryDSN())
	if err != nil {
		panic(err)
	}
	connector, err := shardedpg.NewConnector(cfg)
	if err != nil {
		panic(err)
	}
	defer connector.Close()

	admin, err := connector.ShardDB("eu", "count the orders of all tenants")
	if err != nil {
		panic(err)
	}
	var n int
	err = admin.QueryRow("select count(*) from orders").Scan(&n)
	fmt.Println(n, err)
	// Output: 8 <nil>
}

// A second tenant in a transaction is refused before anything of it is sent; the transaction goes on.
func ExampleErrTenantMismatch() {
	db := openExample()
	defer db.Close()
	acme := shardedpg.WithTenant(context.Background(), "acme")
	globex := shardedpg.WithTenant(context.Background(), "globex")

	tx, err := db.BeginTx(acme, nil)
	if err != nil {
		panic(err)
	}
	defer func() { _ = tx.Rollback() }()
	_, err = tx.ExecContext(globex, "delete from orders")
	fmt.Println(errors.Is(err, shardedpg.ErrTenantMismatch))

	var n int
	err = tx.QueryRow("select count(*) from orders").Scan(&n) // no tenant in the context: the transaction's
	fmt.Println(n, err)
	// Output:
	// true
	// 3 <nil>
}

func ExampleTimedOutByPlan() {
	db := openExample()
	defer db.Close()
	ctx := shardedpg.WithTenant(context.Background(), "initech") // whose plan allows 100 ms
	_, err := db.ExecContext(ctx, "select pg_sleep(10)")
	fmt.Println(shardedpg.TimedOutByPlan(err))
	// Output: true
}

// pgx's own connection, for what database/sql cannot express. The tenant is in force on it.
func ExampleConn_Conn() {
	db := openExample()
	defer db.Close()
	ctx := shardedpg.WithTenant(context.Background(), "acme")
	conn, err := db.Conn(ctx)
	if err != nil {
		panic(err)
	}
	defer conn.Close()
	if err := conn.PingContext(ctx); err != nil { // Raw gets no context: now the connection has its tenant
		panic(err)
	}
	err = conn.Raw(func(c any) error {
		batch := &pgx.Batch{}
		batch.Queue("select count(*) from orders").QueryRow(func(row pgx.Row) error {
			var n int
			defer func() { fmt.Println(n) }()
			return row.Scan(&n)
		})
		batch.Queue("select count(*) from orders where id > 1").QueryRow(func(row pgx.Row) error {
			var n int
			defer func() { fmt.Println(n) }()
			return row.Scan(&n)
		})
		return c.(*shardedpg.Conn).Conn().SendBatch(ctx, batch).Close()
	})
	fmt.Println(err)
	// Output:
	// 3
	// 2
	// <nil>
}

func openExample() *sql.DB {
	db, err := sql.Open("sharded-pg", registryDSN())
	if err != nil {
		panic(err)
	}
	return db
}

// registryDSN starts the fleet of the examples once: one server with the registry and a shard, tenant acme with three
// orders and tenant globex with five.
var registryDSN = sync.OnceValue(func() string {
	dsn, err := startExampleFleet(context.Background())
	if err != nil {
		panic(err)
	}
	return dsn
})

const exampleSQL = `
create table orders (
	tenant_id text not null default nullif(current_setting('app.current_tenant_id', true), ''),
	id int not null,
	primary key (tenant_id, id)
);
alter table orders enable row level security;
alter table orders force row level security;
create policy tenant_rows on orders
	using (tenant_id = (select nullif(current_setting('app.current_tenant_id', true), '')))
	with check (tenant_id = (select nullif(current_setting('app.current_tenant_id', true), '')));
create role example_app login;
grant select, insert, update, delete on orders to example_app;
insert into orders select 'acme', n from generate_series(1, 3) n;
insert into orders select 'globex', n from generate_series(1, 5) n;
`

// startExampleFleet returns the DSN of the registry. The server ends with the test binary.
func startExampleFleet(ctx context.Context) (string, error) {
	server, err := pgtest.Start(ctx, pgtest.Options{Name: "examples"})
	if err != nil {
		return "", err
	}
	if err := server.Exec(ctx, "postgres", exampleSQL); err != nil {
		return "", err
	}
	store, err := registry.Open(server.DSN("postgres", "postgres"), nil)
	if err != nil {
		return "", err
	}
	defer func() { _ = store.Close() }()
	return server.DSN("postgres", "postgres"), errors.Join(
		store.Init(ctx),
		store.PutShard(ctx, registry.Shard{
			Name: "eu", DSN: server.DSN("example_app", "postgres"), AdminDSN: server.DSN("postgres", "postgres"),
		}),
		store.PutPlan(ctx, registry.Plan{Name: "trial", StatementTimeout: 100 * time.Millisecond, WorkMemKB: 4096, MaxConns: 2, Weight: 1}),
		store.PutTenant(ctx, registry.Tenant{ID: "initech", Shard: "eu", Plan: "trial"}),
		store.PutTenant(ctx, registry.Tenant{ID: "acme", Shard: "eu"}),
		store.PutTenant(ctx, registry.Tenant{ID: "globex", Shard: "eu"}),
	)
}

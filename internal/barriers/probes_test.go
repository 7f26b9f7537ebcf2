package barriers_test

import (
	"context"
	"database/sql"
	"errors"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/require"

	shardedpg "github.com/sharded-pg/sharded-pg"
	"github.com/sharded-pg/sharded-pg/internal/pgtest"
	"github.com/sharded-pg/sharded-pg/registry"
)

// tablesSQL makes a table under policies, one to look from behind the driver's back, and a function whose call looks plain.
const tablesSQL = `
do $$begin if not exists (select from pg_roles where rolname = 'app') then create role app login noinherit; end if; end$$;
create table orders (tenant_id text not null default coalesce(nullif(current_setting('app.current_tenant_id', true), ''), 'nobody'),
	note text);
alter table orders enable row level security;
alter table orders force row level security;
create policy tenant_rows on orders using (tenant_id = (select nullif(current_setting('app.current_tenant_id', true), '')));
create policy tenant_only on orders as restrictive using (tenant_id = (select nullif(current_setting('app.current_tenant_id', true), '')));
grant select, insert on orders to app;
create table probe (tenant text);
grant insert on probe to app;
create function hidden_exec(query text) returns void language plpgsql as 'begin execute query; end';
insert into orders values ('acme', 'A-secret'), ('globex', 'B-secret')`

// fleet is one server with one connection, which the tenants share.
type fleet struct {
	testing.TB
	db, su *sql.DB
	a, b   context.Context
}

func newFleet(t *testing.T) *fleet {
	t.Helper()
	server := pgtest.Shared(t, "barriers")
	database := server.NewDatabase(t, tablesSQL)
	store, err := registry.NewStatic(registry.Fleet{
		Shards:  []registry.Shard{{Name: "s1", DSN: server.DSN("app", database)}},
		Plans:   []registry.Plan{{Name: "plan", StatementTimeout: 30 * time.Second, WorkMemKB: 4096, MaxConns: 100, Weight: 1}},
		Tenants: []registry.Tenant{{ID: "acme", Shard: "s1", Plan: "plan"}, {ID: "globex", Shard: "s1", Plan: "plan"}},
	})
	require.NoError(t, err)
	connector, err := shardedpg.NewConnector(shardedpg.Config{Store: store, MaxConns: 1})
	require.NoError(t, err)
	f := &fleet{
		TB: t, db: sql.OpenDB(connector),
		a: shardedpg.WithTenant(t.Context(), "acme"), b: shardedpg.WithTenant(t.Context(), "globex"),
	}
	t.Cleanup(func() { require.NoError(t, f.db.Close()) })
	f.su, err = sql.Open("pgx", server.DSN("postgres", database))
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, f.su.Close()) })
	return f
}

func (f *fleet) admin(query string) {
	f.Helper()
	_, err := f.su.ExecContext(f.Context(), query)
	require.NoError(f, err)
}

func (f *fleet) exec(ctx context.Context, query string, args ...any) {
	f.Helper()
	_, err := f.db.ExecContext(ctx, query, args...)
	require.NoError(f, err)
}

type queryer interface {
	QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row
}

func count(f *fleet, ctx context.Context, q queryer, query string) (n int) {
	f.Helper()
	require.NoError(f, q.QueryRowContext(ctx, query).Scan(&n))
	return n
}

// Each probe reports whether something of one tenant reached another. It fails the test when it can see neither.

func forgotten(f *fleet) bool {
	f.exec(f.a, "select 1") // a connection that has served somebody
	var n int
	err := f.db.QueryRowContext(f.Context(), "select count(*) from orders").Scan(&n)
	if !errors.Is(err, shardedpg.ErrNoTenant) {
		require.NoError(f, err)
	}
	_, err = f.db.ExecContext(f.Context(), "insert into orders (tenant_id, note) values ('acme', 'planted')")
	return n > 0 || !errors.Is(err, shardedpg.ErrNoTenant) && !refusedByPolicy(err)
}

func refusedByPolicy(err error) bool {
	var server *pgconn.PgError
	return errors.As(err, &server) && server.Code == "42501"
}

func secondTenant(f *fleet) bool {
	tx, err := f.db.BeginTx(f.a, nil)
	require.NoError(f, err)
	defer func() { require.NoError(f, tx.Rollback()) }()
	_, err = tx.ExecContext(f.a, "select 1")
	require.NoError(f, err)
	var note string
	err = tx.QueryRowContext(f.b, "select min(note) from orders").Scan(&note)
	if errors.Is(err, shardedpg.ErrTenantMismatch) {
		return false
	}
	require.NoError(f, err)
	return note == "A-secret"
}

func reading(f *fleet) bool {
	return count(f, f.a, f.db, "select count(*) from orders where tenant_id = 'globex'") > 0 ||
		count(f, f.b, f.db, "select count(*) from orders where tenant_id = 'acme'") > 0
}

func planting(f *fleet) bool {
	_, err := f.db.ExecContext(f.a, "insert into orders values ('globex', 'planted')")
	if refusedByPolicy(err) {
		return false
	}
	require.NoError(f, err)
	return count(f, f.Context(), f.su, "select count(*) from orders where tenant_id = 'globex' and note = 'planted'") == 1
}

// Past a COMMIT of the caller's only what the session holds is in force.
func leftSetting(f *fleet) bool {
	f.exec(f.a, "select hidden_exec($1)", "set app.current_tenant_id = 'acme'")
	f.exec(f.b, "select 1; commit; insert into probe select current_setting('app.current_tenant_id', true)")
	require.Equal(f, 1, count(f, f.Context(), f.su, "select count(*) from probe"))
	return count(f, f.Context(), f.su, "select count(*) from probe where tenant = 'acme'") == 1
}

func leftTable(f *fleet) bool {
	f.exec(f.a, "select hidden_exec($1)", "create temp table probe (tenant text)")
	f.exec(f.b, "insert into probe values ('globex')")
	return count(f, f.Context(), f.su, "select count(*) from probe") == 0
}

func leftLock(f *fleet) bool {
	f.exec(f.a, "select hidden_exec($1)", "select pg_advisory_lock(42)")
	f.exec(f.b, "select 1")
	return count(f, f.Context(), f.su, "select count(*) from pg_locks where locktype = 'advisory' and objid = 42 and "+
		"database = (select oid from pg_database where datname = current_database())") > 0
}

package shardedpg_test

import (
	"context"
	"database/sql"
	"errors"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/require"

	shardedpg "github.com/sharded-pg/sharded-pg"
	"github.com/sharded-pg/sharded-pg/internal/pgtest"
	"github.com/sharded-pg/sharded-pg/registry"
	"github.com/sharded-pg/sharded-pg/resolver"
)

func TestMain(m *testing.M) { os.Exit(pgtest.Main(m)) }

// The two tenants of most tests.
const (
	tenantA = "acme"
	tenantB = "globex"
)

// guc is the setting that the policies of the fixture read.
const guc = "app.current_tenant_id"

// rolesSQL makes the roles of all tests once per server: roles belong to a server, not to a database. app is the login
// that is safe; each unsafe_ login is unsafe in one way.
const rolesSQL = `
create role app login noinherit; -- what follows a COMMIT in a string of a schema tenant runs as app, without its tenants' rights
create role app_owner nologin;
create role app_reader nologin;
create role schema_one nologin;
create role schema_two nologin;
create role schema_three nologin;
grant app_reader, schema_one, schema_two, schema_three to app;
create role group_super nologin superuser;
create role group_bypass nologin bypassrls;
create role unsafe_super login superuser;
create role unsafe_bypass login bypassrls;
create role unsafe_owner login;
create role unsafe_member_of_super login in role group_super;
create role unsafe_member_of_bypass login in role group_bypass;
create role unsafe_member_of_owner login in role app_owner;
create role unsafe_far_member login in role unsafe_member_of_owner;
create role unsafe_inherits login inherit in role schema_one;
`

// tablesSQL is the fixture's schema: two tables under the policies that shared tenants need, owned by a role that nobody
// can log in as, and a table without policies for tests that look behind the driver's back.
const tablesSQL = `
create table customers (
	id uuid primary key default gen_random_uuid(),
	tenant_id text not null default nullif(current_setting('app.current_tenant_id', true), ''),
	email text not null,
	name text
);
create table orders (
	id bigint generated always as identity primary key,
	tenant_id text not null default nullif(current_setting('app.current_tenant_id', true), ''),
	customer_id uuid,
	total int not null default 0,
	note text
);
create table probe (tenant text, orders bigint);
do $$
declare t text;
begin
	foreach t in array array['customers', 'orders'] loop
		execute format('alter table %I enable row level security', t);
		execute format('alter table %I force row level security', t);
		execute format($p$create policy tenant on %I using (tenant_id = (select nullif(current_setting('app.current_tenant_id', true), '')))
			with check (tenant_id = (select nullif(current_setting('app.current_tenant_id', true), '')))$p$, t);
		execute format($p$create policy only_tenant on %I as restrictive using (tenant_id = (select nullif(current_setting('app.current_tenant_id', true), '')))
			with check (tenant_id = (select nullif(current_setting('app.current_tenant_id', true), '')))$p$, t);
		execute format('alter table %I owner to app_owner', t);
		execute format('grant select, insert, update, delete on %I to app, app_reader', t);
	end loop;
end $$;
grant select, insert, update, delete on probe to app;
grant usage on sequence orders_id_seq to app;
create function hidden_write(note text) returns bigint language sql volatile as
	'insert into orders (note) values (note) returning id';
create function hidden_lock(key bigint) returns void language sql volatile as 'select pg_advisory_lock(key)';
insert into orders (tenant_id, total, note) values
	('acme', 10, 'A-secret'), ('acme', 11, 'A-secret2'), ('globex', 20, 'B-secret');
insert into customers (tenant_id, email, name) values ('acme', 'a@example.com', 'Ann'), ('globex', 'b@example.com', 'Bob');
`

// What notes returns for each tenant of a new fleet.
const (
	notesOfA = "A-secret,A-secret2"
	notesOfB = "B-secret"
)

var roles sync.Map // server → func() error, run once

// fleetOptions change what newFleet builds. The zero value is one server with one connection for both tenants.
type fleetOptions struct {
	user   string                                            // login of the shard's DSN; "" = app
	dsn    string                                            // appended to the shard's DSN
	schema []string                                          // run in the database besides the fixture's tables
	plan   resolver.Plan                                     // of both tenants; zero = 30s and 16MB
	config func(*shardedpg.Config)                           // last word on the configuration
	routes func(f *fleet, routes map[string]*resolver.Route) // last word on the routes
}

// fleet is one database behind a connector, with a superuser's view of it from outside.
type fleet struct {
	testing.TB
	server    *pgtest.Server
	database  string
	store     *memoryStore
	connector *shardedpg.Connector
	db        *sql.DB
	su        *pgx.Conn
	a, b      context.Context
	leaked    int // virtual connections that database/sql itself lost
}

func newFleet(t testing.TB, opts fleetOptions) *fleet {
	t.Helper()
	f := &fleet{TB: t, server: pgtest.Shared(t, "s1")}
	once, _ := roles.LoadOrStore(f.server, sync.OnceValue(func() error {
		return f.server.Exec(context.Background(), "postgres", rolesSQL)
	}))
	require.NoError(t, once.(func() error)())
	f.database = f.server.NewDatabase(t, append([]string{tablesSQL}, opts.schema...)...)

	user := opts.user
	if user == "" {
		user = "app"
	}
	plan := opts.plan
	if plan.Name == "" {
		plan = planOf(30*time.Second, 16<<10)
	}
	f.store = &memoryStore{
		shard: resolver.Shard{
			Name: "s1", DSN: f.server.DSN(user, f.database) + " " + opts.dsn, AdminDSN: f.server.DSN("postgres", f.database),
		},
		routes: make(map[string]*resolver.Route),
	}
	for _, tenant := range []string{tenantA, tenantB} {
		f.store.routes[tenant] = f.route(tenant, plan)
	}
	if opts.routes != nil {
		opts.routes(f, f.store.routes)
	}
	cfg := shardedpg.Config{ // what a loaded machine takes is no failure
		Store: f.store, MaxConns: 1, TenantShare: 1, AcquireTimeout: 20 * time.Second, ConnectTimeout: 30 * time.Second,
	}
	if opts.config != nil {
		opts.config(&cfg)
	}
	var err error
	f.connector, err = shardedpg.NewConnector(cfg)
	require.NoError(t, err)
	f.db = sql.OpenDB(f.connector)
	f.a = shardedpg.WithTenant(t.Context(), tenantA)
	f.b = shardedpg.WithTenant(t.Context(), tenantB)
	f.su = f.connectAs("postgres")
	t.Cleanup(func() {
		f.requireNoSlotInUse()
		require.NoError(t, f.db.Close())
		f.requireNoServerConnections()
	})
	return f
}

func planOf(timeout time.Duration, workMemKB int) resolver.Plan {
	return resolver.Plan{Name: "test", StatementTimeout: timeout, WorkMemKB: workMemKB, MaxConns: 100, Weight: 1}
}

// route is a shared tenant's place in this fleet.
func (f *fleet) route(tenant string, plan resolver.Plan) *resolver.Route {
	return &resolver.Route{
		Tenant: tenant, Shard: f.store.shard, Model: resolver.ModelShared, Plan: plan, State: resolver.StateActive, Epoch: 1,
	}
}

// connectAs opens a plain connection past the driver.
func (f *fleet) connectAs(user string) *pgx.Conn {
	f.Helper()
	conn, err := pgx.Connect(context.Background(), f.server.DSN(user, f.database))
	require.NoError(f, err)
	f.Cleanup(func() { _ = conn.Close(context.Background()) })
	return conn
}

// requireNoSlotInUse waits for releases that database/sql does from other goroutines.
func (f *fleet) requireNoSlotInUse() {
	f.Helper()
	require.Eventually(f, func() bool {
		for _, shard := range f.connector.Stats().Shards {
			if shard.Slots.Used != 0 || shard.Slots.Waiting != 0 {
				return false
			}
		}
		return f.db.Stats().InUse == f.leaked
	}, 10*time.Second, 2*time.Millisecond, "a slot or a virtual connection is still in use")
}

func (f *fleet) requireNoServerConnections() {
	f.Helper()
	f.requireOutside("no connection of the driver is left", 0, `select count(*) from pg_stat_activity
		where datname = $1 and pid <> pg_backend_pid() and usename <> 'postgres'`, f.database)
}

// requireOutside polls until the superuser's query returns want.
func (f *fleet) requireOutside(why string, want int, query string, args ...any) {
	f.Helper()
	var got int
	deadline := time.Now().Add(10 * time.Second)
	for {
		require.NoError(f, f.su.QueryRow(context.Background(), query, args...).Scan(&got), why)
		if got == want || time.Now().After(deadline) {
			require.Equal(f, want, got, why)
			return
		}
		require.NoError(f, sleepOnServer(f.su))
	}
}

// sleepOnServer is a short pause between two looks that needs no clock of ours.
func sleepOnServer(conn *pgx.Conn) error {
	_, err := conn.Exec(context.Background(), "select pg_sleep(0.005)")
	return err
}

// outside returns what the superuser sees, past row-level security.
func outside[T any](f *fleet, query string, args ...any) T {
	f.Helper()
	var v T
	require.NoError(f, f.su.QueryRow(context.Background(), query, args...).Scan(&v))
	return v
}

// querier is what *sql.DB, *sql.Conn and *sql.Tx have in common.
type querier interface {
	QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row
	ExecContext(ctx context.Context, query string, args ...any) (sql.Result, error)
}

// value returns the one value that a query gives.
func value[T any](t testing.TB, ctx context.Context, q querier, query string, args ...any) T {
	t.Helper()
	var v T
	require.NoError(t, q.QueryRowContext(ctx, query, args...).Scan(&v), query)
	return v
}

const notesSQL = "select coalesce(string_agg(note, ',' order by id), '') from orders"

// requireNotes checks which rows a tenant sees through q.
func (f *fleet) requireNotes(ctx context.Context, q querier, want string) {
	f.Helper()
	require.Equal(f, want, value[string](f, ctx, q, notesSQL))
}

func (f *fleet) requireOwnRows() {
	f.Helper()
	f.requireNotes(f.b, f.db, notesOfB)
	f.requireNotes(f.a, f.db, notesOfA)
}

func (f *fleet) exec(ctx context.Context, q querier, query string, args ...any) sql.Result {
	f.Helper()
	res, err := q.ExecContext(ctx, query, args...)
	require.NoError(f, err, query)
	return res
}

func (f *fleet) begin(ctx context.Context) *sql.Tx {
	f.Helper()
	tx, err := f.db.BeginTx(ctx, nil)
	require.NoError(f, err)
	f.Cleanup(func() { _ = tx.Rollback() })
	return tx
}

func (f *fleet) conn(ctx context.Context) *sql.Conn {
	f.Helper()
	conn, err := f.db.Conn(ctx)
	require.NoError(f, err)
	f.Cleanup(func() { _ = conn.Close() })
	return conn
}

func (f *fleet) pid(ctx context.Context, q querier) int {
	f.Helper()
	return value[int](f, ctx, q, "select pg_backend_pid()")
}

// requireCode checks that err is PostgreSQL's own error, unwrapped, because GORM and ent assert its concrete type.
func requireCode(t testing.TB, err error, code string) {
	t.Helper()
	require.Error(t, err)
	if prepare, ok := err.(*pgconn.PrepareError); ok { //nolint:errorlint // pgx wraps what Parse says, and so do we not
		err = prepare.Unwrap()
	}
	server, ok := err.(*pgconn.PgError) //nolint:errorlint // that the type is not wrapped is the point
	require.True(t, ok, "%T: %v", err, err)
	require.Equal(t, code, server.Code, server.Message)
}

// memoryStore is a registry that tests can change and break.
type memoryStore struct {
	registry.Store // what the driver does not use; calling it fails the test by a nil pointer

	mu      sync.Mutex
	shard   resolver.Shard
	routes  map[string]*resolver.Route
	down    error
	lookups int
	handler registry.Handler
}

func (s *memoryStore) Lookup(_ context.Context, tenant string) (*resolver.Route, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lookups++
	if s.down != nil {
		return nil, s.down
	}
	if r := s.routes[tenant]; r != nil {
		return r, nil
	}
	return nil, resolver.ErrTenantNotFound
}

func (s *memoryStore) Shard(_ context.Context, name string) (resolver.Shard, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if name != s.shard.Name {
		return resolver.Shard{}, errors.New("shard not found")
	}
	return s.shard, s.down
}

func (s *memoryStore) Shards(context.Context) ([]resolver.Shard, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return []resolver.Shard{s.shard}, s.down
}

func (s *memoryStore) Watch(ctx context.Context, h registry.Handler) error {
	s.mu.Lock()
	s.handler = h
	s.mu.Unlock()
	h.Flush()
	<-ctx.Done()
	return ctx.Err()
}

func (s *memoryStore) Close() error { return nil }

// set changes a tenant's route and tells the driver, as a registry does.
func (s *memoryStore) set(tenant string, change func(r *resolver.Route)) {
	s.mu.Lock()
	r := *s.routes[tenant]
	change(&r)
	s.routes[tenant] = &r
	h := s.handler
	s.mu.Unlock()
	if h.Tenant != nil {
		h.Tenant(tenant)
	}
}

func (s *memoryStore) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.lookups
}

// errCode is the SQLSTATE of an error, or "" for one that is not the server's.
func errCode(err error) string {
	var server *pgconn.PgError
	if errors.As(err, &server) {
		return server.Code
	}
	return ""
}

// addTenants gives a fleet more shared tenants, without rows.
func addTenants(ids ...string) func(*fleet, map[string]*resolver.Route) {
	return func(f *fleet, routes map[string]*resolver.Route) {
		for _, id := range ids {
			routes[id] = f.route(id, planOf(30*time.Second, 16<<10))
		}
	}
}

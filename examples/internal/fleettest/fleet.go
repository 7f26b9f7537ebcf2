// Package fleettest gives the test of a recipe a fleet: two shards on real servers, one of which holds the registry as
// well, with tenants of three isolation models. Each test has databases of its own, so tests run side by side.
//
//	tenant    shard  model
//	acme      eu     shared
//	hooli     eu     shared
//	globex    us     shared
//	initech   eu     schema    its schema is empty, and its role may create tables there
//	umbrella  us     database  see AddUmbrella
package fleettest

import (
	"context"
	"database/sql"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	shardedpg "github.com/sharded-pg/sharded-pg"
	"github.com/sharded-pg/sharded-pg/examples/shop"
	"github.com/sharded-pg/sharded-pg/internal/pgtest"
	"github.com/sharded-pg/sharded-pg/registry"
	"github.com/sharded-pg/sharded-pg/resolver"
)

// patience is how long a test waits for something that should take moments.
const patience = 30 * time.Second

// Main runs the tests of a package and stops the servers.
func Main(m *testing.M) int { return pgtest.Main(m) }

// Fleet is the databases of one test.
type Fleet struct {
	// DSN is the registry's connection string: what a recipe opens.
	DSN string

	t         testing.TB
	shards    map[string]*place
	umbrella  *place // the database of the tenant that has one
	store     *registry.Postgres
	connector *shardedpg.Connector
}

// place is a database on a server.
type place struct {
	server   *pgtest.Server
	database string
	outside  *sql.DB // as the superuser, past the driver
}

func (p *place) dsn(user string) string { return p.server.DSN(user, p.database) }

// plan is that of all tenants.
const plan = "tests"

// New creates a fleet for the test, and removes it when the test ends.
func New(t testing.TB) *Fleet {
	t.Helper()
	f := &Fleet{t: t, shards: map[string]*place{}}
	for _, name := range []string{"eu", "us"} {
		f.shards[name] = newPlace(t, name, shop.SharedSQL)
	}
	eu := f.shards["eu"]
	eu.exec(t, `create schema tenant_initech; grant usage, create on schema tenant_initech to tenant_initech`)

	var err error
	f.store, err = registry.Open(eu.dsn("postgres"), nil)
	require.NoError(t, err)
	f.Close(f.store)
	ctx := t.Context()
	require.NoError(t, f.store.Init(ctx))
	// As growth, without a rate: eight workers on a quick machine send more than its thousand statements a second.
	require.NoError(t, f.store.PutPlan(ctx, registry.Plan{Name: plan, StatementTimeout: time.Minute, WorkMemKB: 32 << 10, MaxConns: 20, Weight: 4}))
	for name, shard := range f.shards {
		require.NoError(t, f.store.PutShard(ctx, registry.Shard{Name: name, DSN: shard.dsn("app"), AdminDSN: shard.dsn("postgres")}))
	}
	for _, tenant := range []registry.Tenant{
		{ID: "acme", Shard: "eu"},
		{ID: "hooli", Shard: "eu"},
		{ID: "globex", Shard: "us"},
		{ID: "initech", Shard: "eu", Model: resolver.ModelSchema},
	} {
		f.add(tenant)
	}
	// A machine that runs many tests at once is slow to answer, which is not what they are about.
	f.DSN = eu.dsn("postgres") + " sharded_lookup_timeout=30s"
	return f
}

func (f *Fleet) add(tenant registry.Tenant) {
	f.t.Helper()
	tenant.Plan = plan
	require.NoError(f.t, f.store.PutTenant(f.t.Context(), tenant))
}

// AddUmbrella adds tenant umbrella on shard us, whose database is empty: the login may create tables there.
func (f *Fleet) AddUmbrella() {
	f.t.Helper()
	f.umbrella = newPlace(f.t, "us", `grant create on schema public to app`)
	f.add(registry.Tenant{ID: "umbrella", Shard: "us", Model: resolver.ModelDatabase, Database: f.umbrella.database})
}

var prepared sync.Map // *pgtest.Server → func() error, run once

// newPlace makes a database on the server of a shard. Roles belong to a server, so they are made once.
func newPlace(t testing.TB, shard string, schema ...string) *place {
	t.Helper()
	server := pgtest.Shared(t, shard)
	once, _ := prepared.LoadOrStore(server, sync.OnceValue(func() error {
		return server.Exec(context.Background(), "postgres", shop.RolesSQL, `create role tenant_initech nologin; grant tenant_initech to app`)
	}))
	require.NoError(t, once.(func() error)())
	p := &place{server: server, database: server.NewDatabase(t, schema...)}
	var err error
	p.outside, err = sql.Open("pgx", p.dsn("postgres"))
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, p.outside.Close()) })
	return p
}

func (p *place) exec(t testing.TB, schema ...string) {
	t.Helper()
	require.NoError(t, p.server.Exec(t.Context(), p.database, schema...))
}

// Connector returns a connector for the fleet, the same one each time.
func (f *Fleet) Connector() *shardedpg.Connector {
	f.t.Helper()
	if f.connector == nil {
		cfg, err := shardedpg.ParseDSN(f.DSN)
		require.NoError(f.t, err)
		f.connector, err = shardedpg.NewConnector(cfg)
		require.NoError(f.t, err)
		f.t.Cleanup(func() { require.NoError(f.t, f.connector.Close()) })
	}
	return f.connector
}

// Close closes what a recipe has opened when the test ends, and so before its databases go.
func (f *Fleet) Close(db interface{ Close() error }) {
	f.t.Helper()
	f.t.Cleanup(func() { require.NoError(f.t, db.Close()) })
}

// As returns a context for the work of a tenant, which ends with the test.
func (f *Fleet) As(tenant string) context.Context {
	return shardedpg.WithTenant(f.t.Context(), tenant)
}

// Outside returns the one value that a query gives the superuser on a shard: a look past the driver and past all
// policies.
func (f *Fleet) Outside(shard, query string, args ...any) (value string) {
	f.t.Helper()
	return f.shards[shard].value(f.t, query, args...)
}

// InUmbrella is Outside in the database of tenant umbrella.
func (f *Fleet) InUmbrella(query string, args ...any) (value string) {
	f.t.Helper()
	return f.umbrella.value(f.t, query, args...)
}

func (p *place) value(t testing.TB, query string, args ...any) (value string) {
	t.Helper()
	err := p.outside.QueryRowContext(t.Context(), query, args...).Scan(&value)
	if errors.Is(err, sql.ErrNoRows) {
		return ""
	}
	require.NoError(t, err)
	return value
}

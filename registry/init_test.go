package registry_test

import (
	"context"
	"database/sql"
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sharded-pg/sharded-pg/internal/pgtest"
	"github.com/sharded-pg/sharded-pg/registry"
	"github.com/sharded-pg/sharded-pg/resolver"
)

func query[T any](t *testing.T, dsn, statement string, args ...any) (got []T) {
	t.Helper()
	db, err := sql.Open("pgx", dsn)
	require.NoError(t, err)
	defer db.Close()
	rows, err := db.QueryContext(t.Context(), statement, args...)
	require.NoError(t, err)
	defer rows.Close()
	for rows.Next() {
		var value T
		require.NoError(t, rows.Scan(&value))
		got = append(got, value)
	}
	require.NoError(t, rows.Err())
	return got
}

func TestInitMayRunAnywhereAtAnyTime(t *testing.T) {
	t.Parallel()
	dsn := newRegistry(t)
	var wg sync.WaitGroup
	for range 8 {
		store := open(t, dsn, nil)
		wg.Go(func() {
			for range 3 {
				if err := store.Init(t.Context()); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	require.Equal(t, []int{1, 2, 3, 4}, query[int](t, dsn, `select version from sharded_pg.versions order by version`))
	require.Equal(t, []string{
		"enterprise 300000 262144 100 8 5000 0", "free 5000 4096 2 1 50 0", "growth 60000 65536 20 4 1000 0", "starter 30000 16384 5 2 250 0",
	}, query[string](t, dsn, `select concat_ws(' ', name, statement_timeout_ms, work_mem_kb, max_conns, weight, rate, burst)
		from sharded_pg.plans order by name`))
}

func TestInitLeavesChangedPlansAlone(t *testing.T) {
	t.Parallel()
	dsn := newRegistry(t)
	store := open(t, dsn, nil)
	require.NoError(t, store.Init(t.Context()))
	plan := registry.Plan{Name: "free", StatementTimeout: time.Second, WorkMemKB: 64, MaxConns: 1, Weight: 1}
	require.NoError(t, store.PutPlan(t.Context(), plan))
	require.NoError(t, store.Init(t.Context()))
	require.Equal(t, []int{1000}, query[int](t, dsn, `select statement_timeout_ms from sharded_pg.plans where name = 'free'`))
}

func TestInitRefusesANewerRegistry(t *testing.T) {
	t.Parallel()
	dsn := newRegistry(t)
	store := open(t, dsn, nil)
	require.NoError(t, store.Init(t.Context()))
	query[int](t, dsn, `insert into sharded_pg.versions (version) values (99)`)
	require.ErrorIs(t, store.Init(t.Context()), registry.ErrNewerRegistry)
	require.ErrorContains(t, store.Init(t.Context()), "use a newer program")
	err := store.PutShard(t.Context(), registry.Shard{Name: "s1", DSN: "host=s1"})
	require.ErrorIs(t, err, registry.ErrNewerRegistry)
	shards, err := store.Shards(t.Context())
	require.NoError(t, err)
	require.Empty(t, shards, "the change was rolled back")
}

func TestInitAsksForNoRightsWhenThereIsNothingToDo(t *testing.T) {
	t.Parallel()
	server := pgtest.Shared(t, "registry")
	database := server.NewDatabase(t)
	require.NoError(t, open(t, server.DSN("postgres", database), nil).Init(t.Context()))
	// Roles belong to the server, which other tests share.
	role := fmt.Sprintf("reader_%d", time.Now().UnixNano())
	require.NoError(t, server.Exec(t.Context(), database, `create role `+role+` login`,
		`grant usage on schema sharded_pg to `+role, `grant select on all tables in schema sharded_pg to `+role))
	store := open(t, server.DSN(role, database), nil)
	require.NoError(t, store.Init(t.Context()))
	_, err := store.Lookup(t.Context(), "unknown")
	require.ErrorIs(t, err, resolver.ErrTenantNotFound)
}

func TestRegistriesOfOneDatabaseAreApart(t *testing.T) {
	t.Parallel()
	dsn := newRegistry(t)
	first := open(t, dsn, &registry.Options{Schema: "First"})
	second := open(t, dsn, &registry.Options{Schema: "first"})
	require.NoError(t, first.Init(t.Context()))
	require.NoError(t, second.Init(t.Context()))
	require.NoError(t, first.PutShard(t.Context(), registry.Shard{Name: "s1", DSN: "host=s1"}))
	_, err := second.Shard(t.Context(), "s1")
	require.ErrorIs(t, err, registry.ErrShardNotFound)
}

func TestMissingRegistryIsNoUnknownTenant(t *testing.T) {
	t.Parallel()
	store := open(t, newRegistry(t), nil)
	_, err := store.Lookup(t.Context(), "acme")
	require.ErrorIs(t, err, registry.ErrNotInitialized)
	require.NotErrorIs(t, err, resolver.ErrTenantNotFound)
	require.ErrorContains(t, err, "shardedpg registry init")
}

func TestInitUpgradesTheFirstVersion(t *testing.T) {
	t.Parallel()
	server := pgtest.Shared(t, "registry")
	database := server.NewDatabase(t)
	dsn := server.DSN("postgres", database)
	text, err := os.ReadFile("schema_v1.sql")
	require.NoError(t, err)
	require.NoError(t, server.Exec(t.Context(), database,
		`create schema sharded_pg`,
		`create table sharded_pg.versions (version integer primary key, applied_at timestamptz not null default now())`,
		`insert into sharded_pg.versions (version) values (1)`,
		strings.ReplaceAll(string(text), "{s}", "sharded_pg"),
		`insert into sharded_pg.shards (name, dsn) values ('s1', 'host=s1')`,
		`insert into sharded_pg.plans values ('free', 5000, 4096, 2, 1, 0)`,
		`insert into sharded_pg.tenants (id, shard, database, model, schema, role, plan, state, epoch)
		 values ('acme', 's1', '', 'schema', 'own', 'own_role', 'free', 'readonly', 7)`,
		`insert into sharded_pg.audit_log (action, subject, detail) values ('put_tenant', 'acme', '{"shard": "s1"}')`))
	store := open(t, dsn, nil)
	_, err = store.Lookup(t.Context(), "acme")
	require.ErrorIs(t, err, registry.ErrNotInitialized, "a newer driver says what to do about an older registry")
	for range 2 {
		require.NoError(t, store.Init(t.Context()))
	}
	route, err := store.Lookup(t.Context(), "acme")
	require.NoError(t, err)
	plan := registry.DefaultPlans()[0]
	plan.Rate = 0 // as it was: an upgrade begins to limit nobody
	require.Equal(t, resolver.Route{
		Tenant: "acme", Shard: resolver.Shard{Name: "s1", DSN: "host=s1"}, Model: resolver.ModelSchema, Schema: "own",
		Role: "own_role", Plan: plan, State: resolver.StateReadOnly, Epoch: 7,
	}, *route)
	require.NoError(t, store.SetTenantState(t.Context(), "acme", resolver.StateActive))
	shards, err := store.ListShards(t.Context())
	require.NoError(t, err)
	require.Equal(t, registry.DefaultMaxTenants, shards[0].MaxTenants)
	require.Equal(t, registry.ShardOpen, shards[0].State)
	log, err := store.Audit(t.Context(), registry.AuditFilter{Kind: "tenant"})
	require.NoError(t, err)
	require.Len(t, log, 2, "the log goes on")
	require.Equal(t, map[string]any{"shard": "s1"}, log[1].After)
	require.Equal(t, "postgres", log[1].Login)
	require.Len(t, query[string](t, dsn, `select name from sharded_pg.plans`), 1, "an upgrade adds no plans")
}

// older makes what a program of that version leaves.
func older(t *testing.T, version int) (statements []string) {
	t.Helper()
	statements = []string{
		`create schema sharded_pg`,
		`create table sharded_pg.versions (version integer primary key, applied_at timestamptz not null default now())`,
	}
	for v := range version {
		text, err := os.ReadFile(fmt.Sprintf("schema_v%d.sql", v+1))
		require.NoError(t, err)
		statements = append(statements, strings.ReplaceAll(string(text), "{s}", "sharded_pg"),
			fmt.Sprintf(`insert into sharded_pg.versions (version) values (%d)`, v+1))
	}
	return statements
}

func TestInitUpgradesTheSecondVersion(t *testing.T) {
	t.Parallel()
	server := pgtest.Shared(t, "registry")
	database := server.NewDatabase(t)
	dsn := server.DSN("postgres", database)
	require.NoError(t, server.Exec(t.Context(), database, append(older(t, 2),
		`insert into sharded_pg.shards (name, dsn) values ('s1', 'host=s1')`,
		`insert into sharded_pg.plans (name, statement_timeout_ms, work_mem_kb, max_conns, weight, rate) values ('free', 5000, 4096, 2, 1, 7)`,
		`insert into sharded_pg.tenants (id, shard, model, plan, state, override, override_until)
		 values ('acme', 's1', 'shared', 'free', 'active', '{"max_conns": 9, "burst": 99}', 'infinity')`)...))
	store := open(t, dsn, nil)
	for _, err := range []error{
		func() error { _, err := store.Lookup(t.Context(), "acme"); return err }(),
		store.PutPlan(t.Context(), registry.DefaultPlans()[0]),
	} {
		require.ErrorIs(t, err, registry.ErrNotInitialized, "a newer program says what to do about an older registry")
		require.ErrorContains(t, err, "shardedpg registry init")
	}
	require.NoError(t, store.Init(t.Context()))
	route, err := store.Lookup(t.Context(), "acme")
	require.NoError(t, err)
	require.Equal(t, 9, route.Plan.MaxConns)
	require.InDelta(t, 7, route.Plan.Rate, 0)
	require.Equal(t, 99, route.Plan.Burst)
	plans, err := store.ListPlans(t.Context())
	require.NoError(t, err)
	require.Len(t, plans, 1)
	require.Zero(t, plans[0].Burst, "two seconds of the rate, as before")
	// Programs of version 2 go on: what they read and write names its columns.
	require.NoError(t, server.Exec(t.Context(), database,
		`insert into sharded_pg.plans (name, statement_timeout_ms, work_mem_kb, max_conns, weight, rate) values ('old', 5000, 4096, 2, 1, 7)`))
}

func TestInitUpgradesTheThirdVersion(t *testing.T) {
	t.Parallel()
	server := pgtest.Shared(t, "registry")
	database := server.NewDatabase(t)
	dsn := server.DSN("postgres", database)
	require.NoError(t, server.Exec(t.Context(), database, append(older(t, 3),
		`insert into sharded_pg.shards (name, dsn) values ('s1', 'host=s1')`,
		`insert into sharded_pg.plans (name, statement_timeout_ms, work_mem_kb, max_conns, weight) values ('free', 5000, 4096, 2, 1)`,
		`insert into sharded_pg.tenants (id, shard, model, plan, state, override, override_until)
		 values ('acme', 's1', 'shared', 'free', 'active', '{"max_conns": 9}', 'infinity'),
		        ('beta', 's1', 'shared', 'free', 'active', '{"max_conns": 9, "expires": "2026-01-01T12:00:00Z"}', '2026-01-01T12:00:00Z')`)...))
	store, ctx := open(t, dsn, nil), t.Context()
	throttle := &registry.Override{MaxConns: 1, Expires: time.Now().Add(time.Hour)}
	_, err := store.Lookup(ctx, "acme")
	for _, err := range []error{err, store.SetThrottle(ctx, "acme", throttle)} {
		require.ErrorIs(t, err, registry.ErrNotInitialized, "a newer program says what to do about an older registry")
		require.ErrorContains(t, err, "shardedpg registry init")
	}
	require.NoError(t, store.Init(ctx))

	// What a driver of version 3 reads, which may come long after the registry.
	third := func(id string) string {
		return query[string](t, dsn, `select coalesce(case when override_until > now() then override ->> 'max_conns' end, 'its plan') from sharded_pg.tenants where id = $1`, id)[0]
	}
	conns := func(id string) int {
		route, err := store.Lookup(ctx, id)
		require.NoError(t, err)
		return route.Plan.MaxConns
	}
	require.Equal(t, []any{9, 2}, []any{conns("acme"), conns("beta")}, "overrides are what they were")
	for _, id := range []string{"acme", "beta"} {
		require.NoError(t, store.SetThrottle(ctx, id, throttle))
		require.Equal(t, []any{1, "1"}, []any{conns(id), third(id)}, "who holds a tenant down holds it down in each program")
	}
	query[int](t, dsn, `update sharded_pg.tenants set override_until = now(), override = override || '{"expires": "2026-01-01T12:00:00Z"}'`)
	require.Equal(t, []any{9, "its plan"}, []any{conns("acme"), third("acme")}, "the throttle has ended")
	require.NoError(t, store.SetThrottle(ctx, "acme", nil))
	require.Equal(t, []any{9, "9"}, []any{conns("acme"), third("acme")})
	require.NoError(t, store.SetOverride(ctx, "beta", &registry.Override{MaxConns: 7}))
	require.Equal(t, []any{7, "7"}, []any{conns("beta"), third("beta")}, "a throttle that has ended hides no override")

	// A program of version 3 that clears what it takes for an override is told that it is too old when it records that, and
	// nothing refuses the row before, with a text that helps nobody.
	require.NoError(t, store.SetThrottle(ctx, "beta", throttle))
	require.NoError(t, server.Exec(ctx, database, `update sharded_pg.tenants set override = null, override_until = null where id = 'beta'`))
	require.Equal(t, 7, conns("beta"))
}

func TestOptionsAreChecked(t *testing.T) {
	t.Parallel()
	for _, schema := range []string{`a"b`, "a b", "pg_x", "PG_x", "sharded_pg_with_a_name_that_postgresql_would_have_to_cut_", "ü"} {
		_, err := registry.Open("host=localhost", &registry.Options{Schema: schema})
		require.ErrorIs(t, err, registry.ErrInvalid, schema)
		_, err = registry.New(nil, &registry.Options{Schema: schema})
		require.ErrorIs(t, err, registry.ErrInvalid, schema)
	}
}

func TestOpenNeverQuotesTheDSN(t *testing.T) {
	t.Parallel()
	for _, dsn := range []string{
		"postgres://app:opensesame@h:port/x", "host=h password=opensesame sslmode=maybe", "postgres://app:opensesame@[::1/x",
		"password=opensesame ${", "password=opensesame${SHARDEDPG_TEST_NOT_SET}",
	} {
		_, err := registry.Open(dsn, nil)
		require.Error(t, err)
		require.NotContains(t, err.Error(), "opensesame")
	}
}

func TestOpenDoesNotConnect(t *testing.T) {
	t.Parallel()
	store := open(t, "host=/nonexistent dbname=x", nil)
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	_, err := store.Lookup(ctx, "acme")
	require.Error(t, err)
	require.NotErrorIs(t, err, resolver.ErrTenantNotFound)
	require.Error(t, store.Init(ctx))
}

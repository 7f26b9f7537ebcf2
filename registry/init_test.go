package registry_test

import (
	"context"
	"database/sql"
	"fmt"
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
	require.Equal(t, []int{1}, query[int](t, dsn, `select version from sharded_pg.versions`))
	require.Equal(t, []string{
		"enterprise 300000 262144 100 8 0", "free 5000 4096 2 1 0", "growth 60000 65536 20 4 0", "starter 30000 16384 5 2 0",
	}, query[string](t, dsn, `select concat_ws(' ', name, statement_timeout_ms, work_mem_kb, max_conns, weight, rate)
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
	require.ErrorContains(t, store.Init(t.Context()), "use a newer program")
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

func TestEachChangeIsAuditedWithoutSecrets(t *testing.T) {
	t.Parallel()
	dsn := newRegistry(t)
	store := open(t, dsn, nil)
	ctx := t.Context()
	require.NoError(t, store.Init(ctx))
	for range 2 {
		require.NoError(t, store.PutShard(ctx, registry.Shard{Name: "s1", DSN: "host=s1 password=opensesame"}))
		require.NoError(t, store.PutTenant(ctx, registry.Tenant{ID: "acme", Shard: "s1", Plan: "growth"}))
		require.NoError(t, store.PutPlan(ctx, registry.DefaultPlans()[0]))
	}
	require.NoError(t, store.SetTenantState(ctx, "acme", resolver.StateDisabled))
	require.Equal(t, []string{
		`postgres put_shard s1 {"has_admin_dsn": false}`,
		`postgres put_tenant acme {"plan": "growth", "role": "", "model": "shared", "shard": "s1", "state": "active", "schema": "", "database": ""}`,
		`postgres set_state acme {"from": "active", "state": "disabled"}`,
	}, query[string](t, dsn, `select concat_ws(' ', actor, action, subject, detail) from sharded_pg.audit_log order by id`))
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

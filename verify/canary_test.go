package verify_test

import (
	"context"
	"database/sql"
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	shardedpg "github.com/sharded-pg/sharded-pg"
	"github.com/sharded-pg/sharded-pg/internal/pgtest"
	"github.com/sharded-pg/sharded-pg/registry"
	"github.com/sharded-pg/sharded-pg/rls/policy/policytest"
	"github.com/sharded-pg/sharded-pg/verify"
)

// canaries are two tenants with a row in each of many tables, beside a tenant with thousands.
func canaries(t testing.TB, tables, others int) (*site, *sql.DB) {
	t.Helper()
	b := newSite(t, pgtest.Shared(t, "verify"), policytest.Wide(appRole(), tables))
	for i := range tables {
		b.exec(t, fmt.Sprintf(`insert into app.t%d (tenant_id, id) select ('00000000-0000-4000-8000-00000000000' || x)::uuid, 1 from generate_series(1, 2) x;
 insert into app.t%[1]d (tenant_id, id) select 'ffffffff-0000-4000-8000-000000000000', x from generate_series(1, %d) x`, i, others))
	}
	store, err := registry.NewStatic(registry.Fleet{
		Shards:  []registry.Shard{{Name: "s1", DSN: b.config.DSN}},
		Tenants: []registry.Tenant{{ID: canaryA, Shard: "s1", Plan: "growth"}, {ID: canaryB, Shard: "s1", Plan: "growth"}},
	})
	require.NoError(t, err)
	connector, err := shardedpg.NewConnector(shardedpg.Config{Store: store, MaxConns: 1, TenantShare: 1})
	require.NoError(t, err)
	db := sql.OpenDB(connector)
	t.Cleanup(func() { require.NoError(t, db.Close()) })
	return b, db
}

const (
	canaryA = "00000000-0000-4000-8000-000000000001"
	canaryB = "00000000-0000-4000-8000-000000000002"
)

func TestACanaryReadsALittleOfEachTable(t *testing.T) {
	t.Parallel()
	b, db := canaries(t, 120, 1000)
	c := verify.CanaryConfig{A: canaryA, B: canaryB}
	r, err := verify.Canary(t.Context(), db, c)
	require.NoError(t, err)
	require.True(t, r.OK, "%v", r)
	require.Equal(t, 120, r.Tables)
	require.Empty(t, r.Unwatched)

	b.exec(t, "delete from app.t7 where tenant_id = '"+canaryB+"'", "alter table app.t99 disable row level security")
	r, err = verify.Canary(t.Context(), db, c)
	require.NoError(t, err)
	require.False(t, r.OK)
	require.Equal(t, []string{"app.t7", "app.t99"}, r.Unwatched)
	require.Len(t, r.Findings, 2)
	require.Contains(t, r.Findings[0], "app.t99 shows tenant")

	_, err = verify.Canary(shardedpg.WithTenant(t.Context(), canaryA), db, c)
	require.ErrorContains(t, err, "already carries tenant")
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = verify.Canary(ended, db, c)
	require.Error(t, err, "not having looked is not well")
	_, err = verify.Canary(t.Context(), db, verify.CanaryConfig{A: canaryA, B: canaryA})
	require.Error(t, err)
}

func BenchmarkCanary(b *testing.B) {
	_, db := canaries(b, 100, 10000)
	for b.Loop() {
		r, err := verify.Canary(b.Context(), db, verify.CanaryConfig{A: canaryA, B: canaryB})
		require.NoError(b, err)
		require.True(b, r.OK)
	}
}

package redislimit_test

import (
	"database/sql"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	shardedpg "github.com/sharded-pg/sharded-pg"
	"github.com/sharded-pg/sharded-pg/internal/pgtest"
	"github.com/sharded-pg/sharded-pg/registry"
)

func TestTwoProgramsRefuseWhatATenantSendsTooMuchToBoth(t *testing.T) {
	t.Parallel()
	server := pgtest.Shared(t, "shard")
	database := server.NewDatabase(t)
	require.NoError(t, server.Exec(t.Context(), database, "create role busy login"))
	counter := start(t)
	open := func() *sql.DB {
		store, err := registry.NewStatic(registry.Fleet{
			Shards:  []registry.Shard{{Name: "s1", DSN: server.DSN("busy", database)}},
			Plans:   []registry.Plan{{Name: "slow", StatementTimeout: time.Minute, WorkMemKB: 4096, MaxConns: 4, Weight: 1, Rate: 0.02}},
			Tenants: []registry.Tenant{{ID: "acme", Shard: "s1", Plan: "slow"}},
		})
		require.NoError(t, err)
		connector, err := shardedpg.NewConnector(shardedpg.Config{Store: store, RateLimiter: program(t, counter)})
		require.NoError(t, err)
		db := sql.OpenDB(connector)
		t.Cleanup(func() { require.NoError(t, db.Close()) })
		return db
	}
	ctx := shardedpg.WithTenant(t.Context(), "acme")
	first, second := open(), open()
	_, err := first.ExecContext(ctx, "select 1")
	require.NoError(t, err)
	for _, db := range []*sql.DB{first, second} {
		_, err = db.ExecContext(ctx, "select 1")
		require.ErrorIs(t, err, shardedpg.ErrRateLimited)
		var own *shardedpg.Error
		require.ErrorAs(t, err, &own)
		require.Greater(t, own.RetryAfter, 10*time.Second)
	}
}

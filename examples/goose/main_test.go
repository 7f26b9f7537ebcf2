package main

import (
	"context"
	"database/sql"
	"os"
	"testing"
	"testing/fstest"

	"github.com/pressly/goose/v3"
	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	shardedpg "github.com/sharded-pg/sharded-pg"
	"github.com/sharded-pg/sharded-pg/examples/internal/fleettest"
)

func TestMain(m *testing.M) { os.Exit(fleettest.Main(m)) }

func newShop(t *testing.T) (*fleettest.Fleet, *shardedpg.Connector, *sql.DB) {
	t.Helper()
	f := fleettest.New(t)
	connector, db, err := open(f.DSN)
	require.NoError(t, err)
	f.Close(db)
	return f, connector, db
}

func write(t *testing.T, ctx context.Context, db *sql.DB, note string) {
	t.Helper()
	_, err := db.ExecContext(ctx, "insert into notes (note, written) values ($1, now())", note)
	require.NoError(t, err)
}

func TestShardsAreMigratedForAllTheirTenants(t *testing.T) {
	t.Parallel()
	f, connector, db := newShop(t)
	for range 2 { // a second time changes nothing
		for _, shard := range []string{"eu", "us"} {
			require.NoError(t, migrateShard(t.Context(), connector, shard))
		}
	}
	for _, tenant := range []string{"acme", "globex", "hooli"} {
		write(t, f.As(tenant), db, "of "+tenant)
	}
	for _, tenant := range []string{"acme", "globex", "hooli"} {
		var note string
		require.NoError(t, db.QueryRowContext(f.As(tenant), "select string_agg(note, ',') from notes").Scan(&note))
		require.Equal(t, "of "+tenant, note, "the new table keeps tenants apart")
	}
	require.Equal(t, "2", f.Outside("us", "select max(version_id) from goose_db_version"))
}

func TestTenantsWithTablesOfTheirOwnMigrateThem(t *testing.T) {
	t.Parallel()
	f, _, db := newShop(t)
	f.AddUmbrella()
	for _, tenant := range []string{"initech", "umbrella"} {
		require.NoError(t, migrateTenant(f.As(tenant), db))
		require.NoError(t, migrateTenant(f.As(tenant), db), "a second time changes nothing")
		write(t, f.As(tenant), db, "of "+tenant)
	}
	require.Equal(t, "of initech", f.Outside("eu", "select note from tenant_initech.notes"))
	require.Equal(t, "2", f.Outside("eu", "select max(version_id) from tenant_initech.goose_db_version"))
	require.Equal(t, "of umbrella", f.InUmbrella("select note from notes"))
	require.ErrorContains(t, migrateTenant(f.As("acme"), db), "42501", "a shared tenant may not create tables")
}

func TestProgramsThatMigrateAtTheSameTimeTakeTurns(t *testing.T) {
	t.Parallel()
	f, _, db := newShop(t)
	var group errgroup.Group
	for range 3 {
		group.Go(func() error { return migrateTenant(f.As("initech"), db) })
	}
	require.NoError(t, group.Wait())
	require.Equal(t, "2", f.Outside("eu", "select count(*) from tenant_initech.goose_db_version where version_id > 0"))
}

func TestAFailedMigrationLeavesNothing(t *testing.T) {
	t.Parallel()
	f, _, db := newShop(t)
	broken := fstest.MapFS{"00001_broken.sql": {Data: []byte("-- +goose Up\ncreate table half (id int);\nselect 1/0;\n")}}
	provider, err := goose.NewProvider(goose.DialectPostgres, db, broken)
	require.NoError(t, err)
	_, err = provider.Up(f.As("initech"))
	require.ErrorContains(t, err, "22012")
	require.Empty(t, f.Outside("eu", "select relname from pg_class where relname = 'half'"))
}

func TestWithoutATenantNothingRuns(t *testing.T) {
	t.Parallel()
	f, connector, db := newShop(t)
	require.ErrorIs(t, migrateTenant(t.Context(), db), shardedpg.ErrNoTenant)
	require.ErrorIs(t, migrateTenant(f.As("nobody"), db), shardedpg.ErrTenantNotFound)
	require.Error(t, migrateShard(t.Context(), connector, "mars"))
}

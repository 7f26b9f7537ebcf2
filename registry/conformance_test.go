package registry_test

import (
	"context"
	"database/sql"
	"testing"

	_ "github.com/jackc/pgx/v5/stdlib"
	"github.com/stretchr/testify/require"

	"github.com/sharded-pg/sharded-pg/internal/pgtest"
	"github.com/sharded-pg/sharded-pg/registry"
	"github.com/sharded-pg/sharded-pg/registry/registrytest"
)

func TestStaticStoreConforms(t *testing.T) {
	registrytest.Run(t, registrytest.Harness{
		ReadOnly: true,
		New: func(t testing.TB, fleet registry.Fleet) registrytest.Subject {
			store, err := registry.NewStatic(fleet)
			require.NoError(t, err)
			return registrytest.Subject{Store: store, Admin: store.Admin, Closer: store}
		},
	})
}

func TestMemoryStoreConforms(t *testing.T) {
	registrytest.Run(t, registrytest.Harness{New: func(t testing.TB, fleet registry.Fleet) registrytest.Subject {
		store, err := registry.NewMemory(nil)
		require.NoError(t, err)
		load(t, store.Admin, fleet)
		return registrytest.Subject{Store: store, Admin: store.Admin, Closer: store}
	}})
}

func TestPostgresStoreConforms(t *testing.T) {
	for name, open := range map[string]func(t testing.TB, dsn string, opts *registry.Options) *registry.Postgres{
		"opened":     open,
		"given a DB": adopt,
	} {
		t.Run(name, func(t *testing.T) {
			registrytest.Run(t, registrytest.Harness{New: func(t testing.TB, fleet registry.Fleet) registrytest.Subject {
				store := open(t, newRegistry(t), &registry.Options{Schema: "The-Registry.1"})
				require.NoError(t, store.Init(t.Context()))
				load(t, store.Admin, fleet)
				return registrytest.Subject{Store: store, Admin: store.Admin, Closer: store}
			}})
		})
	}
}

func TestStoresWithFirstSightConform(t *testing.T) {
	opts := &registry.Options{FirstSight: &registry.FirstSight{}}
	for name, store := range map[string]func(t testing.TB, fleet registry.Fleet) registrytest.Subject{
		"memory": func(t testing.TB, fleet registry.Fleet) registrytest.Subject {
			store := memory(t, opts)
			load(t, store.Admin, fleet)
			return registrytest.Subject{Store: store, Admin: store.Admin, Closer: store}
		},
		"postgres": func(t testing.TB, fleet registry.Fleet) registrytest.Subject {
			store := open(t, newRegistry(t), opts)
			require.NoError(t, store.Init(t.Context()))
			load(t, store.Admin, fleet)
			return registrytest.Subject{Store: store, Admin: store.Admin, Closer: store}
		},
	} {
		t.Run(name, func(t *testing.T) { registrytest.Run(t, registrytest.Harness{New: store, FirstSight: true}) })
	}
}

// newRegistry returns the DSN of an empty database.
func newRegistry(t testing.TB) string {
	server := pgtest.Shared(t, "registry")
	return server.DSN("postgres", server.NewDatabase(t))
}

func open(t testing.TB, dsn string, opts *registry.Options) *registry.Postgres {
	t.Helper()
	store, err := registry.Open(dsn, opts)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, store.Close()) })
	return store
}

// adopt makes a store on a pool of the test's, with pgx's default mode of named statements.
func adopt(t testing.TB, dsn string, opts *registry.Options) *registry.Postgres {
	t.Helper()
	db, err := sql.Open("pgx", dsn)
	require.NoError(t, err)
	db.SetMaxOpenConns(4)
	t.Cleanup(func() { require.NoError(t, db.Close()) })
	store, err := registry.New(db, opts)
	require.NoError(t, err)
	t.Cleanup(func() {
		require.NoError(t, store.Close())
		require.NoError(t, db.PingContext(context.Background()), "the caller's database stays open")
	})
	return store
}

func load(t testing.TB, store *registry.Admin, fleet registry.Fleet) {
	t.Helper()
	for _, shard := range fleet.Shards {
		require.NoError(t, store.PutShard(t.Context(), shard))
	}
	for _, plan := range fleet.Plans {
		require.NoError(t, store.PutPlan(t.Context(), plan))
	}
	for _, tenant := range fleet.Tenants {
		require.NoError(t, store.PutTenant(t.Context(), tenant))
	}
}

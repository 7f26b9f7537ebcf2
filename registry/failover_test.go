package registry_test

import (
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sharded-pg/sharded-pg/internal/pgtest"
	"github.com/sharded-pg/sharded-pg/registry"
	"github.com/sharded-pg/sharded-pg/resolver"
)

// twoServers is a registry that holds the tenant acme, on a primary and a standby that has all of it, and a store that knows
// both.
func twoServers(t *testing.T, opts *registry.Options) (primary, standby *pgtest.Server, store *registry.Postgres) {
	t.Helper()
	primary, err := pgtest.Start(t.Context(), pgtest.Options{Name: "primary"})
	require.NoError(t, err)
	t.Cleanup(func() { _ = primary.Stop() })
	direct := open(t, primary.DSN("postgres", "postgres"), nil)
	require.NoError(t, direct.Init(t.Context()))
	require.NoError(t, direct.PutShard(t.Context(), registry.Shard{Name: "s1", DSN: "host=s1"}))
	require.NoError(t, direct.PutTenant(t.Context(), registry.Tenant{ID: "acme", Shard: "s1"}))
	standby, err = pgtest.StartStandby(t.Context(), primary, pgtest.Options{Name: "standby"})
	require.NoError(t, err)
	t.Cleanup(func() { _ = standby.Stop() })
	eventually(t, func() bool { // what pg_basebackup has not brought, streaming does
		route, err := open(t, standby.DSN("postgres", "postgres"), nil).Lookup(t.Context(), "acme")
		return err == nil && route.Tenant == "acme"
	})
	store = open(t, pgtest.HostsDSN("postgres", "postgres", primary, standby)+" target_session_attrs=read-write", opts)
	return primary, standby, store
}

// requireFollowed changes the tenant on the server that is the registry now, and requires that the store hears of it.
func requireFollowed(t *testing.T, server *pgtest.Server, store *registry.Postgres, changed <-chan string) {
	t.Helper()
	now := open(t, server.DSN("postgres", "postgres"), nil)
	require.NoError(t, now.SetTenantState(t.Context(), "acme", resolver.StateDisabled))
	require.Equal(t, "acme", receive(t, changed))
	route, err := store.Lookup(t.Context(), "acme")
	require.NoError(t, err)
	require.Equal(t, resolver.StateDisabled, route.State)
	require.NoError(t, store.SetTenantState(t.Context(), "acme", resolver.StateActive))
}

func TestTheRegistryIsFollowedToItsStandby(t *testing.T) {
	t.Parallel()
	primary, standby, store := twoServers(t, nil)
	flushed, changed := watch(t, store)
	receive(t, flushed)
	require.NoError(t, primary.Kill())
	require.NoError(t, standby.Exec(t.Context(), "postgres", "select pg_promote()"))
	receive(t, flushed)
	requireFollowed(t, standby, store, changed)
}

// The old server goes on to answer, so no connection to it breaks.
func TestTheRegistryIsFollowedWhenItsServerTakesNoWritesAnyMore(t *testing.T) {
	t.Parallel()
	primary, standby, store := twoServers(t, &registry.Options{Keepalive: 50 * time.Millisecond})
	flushed, changed := watch(t, store)
	receive(t, flushed)
	_, err := store.Lookup(t.Context(), "acme")
	require.NoError(t, err)
	require.NoError(t, primary.Exec(t.Context(), "postgres", "alter system set default_transaction_read_only = on", "select pg_reload_conf()"))
	require.NoError(t, standby.Exec(t.Context(), "postgres", "select pg_promote()"))
	eventually(t, func() bool { // the answer that says so is the last that the connection gives
		_, err := store.Lookup(t.Context(), "acme")
		return err == nil && len(flushed) > 0
	})
	receive(t, flushed)
	requireFollowed(t, standby, store, changed)
}

func TestWritesToTheRegistryLeaveAServerThatTakesNone(t *testing.T) {
	t.Parallel()
	primary, standby, store := twoServers(t, nil)
	var wg sync.WaitGroup
	for range 8 { // fill the pool
		wg.Go(func() { _, _ = store.Lookup(t.Context(), "acme") })
	}
	wg.Wait()
	require.NoError(t, primary.Exec(t.Context(), "postgres", "alter system set default_transaction_read_only = on", "select pg_reload_conf()"))
	require.NoError(t, standby.Exec(t.Context(), "postgres", "select pg_promote()"))
	eventually(t, func() bool { return store.SetTenantState(t.Context(), "acme", resolver.StateReadOnly) == nil })
	route, err := open(t, standby.DSN("postgres", "postgres"), nil).Lookup(t.Context(), "acme")
	require.NoError(t, err)
	require.Equal(t, resolver.StateReadOnly, route.State)
}

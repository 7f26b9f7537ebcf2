package shardedpg_test

import (
	"database/sql"
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	shardedpg "github.com/sharded-pg/sharded-pg"
	"github.com/sharded-pg/sharded-pg/internal/pgtest"
	"github.com/sharded-pg/sharded-pg/registry"
	"github.com/sharded-pg/sharded-pg/resolver"
)

// registered is a driver opened by its DSN, whose registry can be cut off.
type registered struct {
	db    *sql.DB
	proxy *pgtest.Proxy
	store *registry.Postgres // the registry, not through the proxy
}

func newRegistered(t *testing.T, options string) registered {
	t.Helper()
	server := pgtest.Shared(t, "wire")
	tenants := server.NewDatabase(t, wireTables)
	database := server.NewDatabase(t)
	store, err := registry.Open(server.DSN("postgres", database), nil)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, store.Close()) })
	require.NoError(t, store.Init(t.Context()))
	require.NoError(t, store.PutShard(t.Context(), registry.Shard{Name: "s1", DSN: server.DSN("wire_app", tenants)}))
	// No rate: these tests look all the time.
	plan := registry.Plan{Name: "busy", StatementTimeout: time.Minute, WorkMemKB: 16 << 10, MaxConns: 5, Weight: 1}
	require.NoError(t, store.PutPlan(t.Context(), plan))
	for _, id := range []string{"a", "b"} {
		require.NoError(t, store.PutTenant(t.Context(), registry.Tenant{ID: id, Shard: "s1", Plan: plan.Name}))
	}
	proxy, err := pgtest.StartProxy(t.Context(), server)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, proxy.Stop()) })
	db, err := sql.Open(shardedpg.DriverName, proxy.DSN("postgres", database)+" "+options)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, db.Close()) })
	return registered{db, proxy, store}
}

func (r registered) read(t *testing.T, tenant string) error {
	t.Helper()
	var note string
	err := r.db.QueryRowContext(shardedpg.WithTenant(t.Context(), tenant), point, 1).Scan(&note)
	if err == nil {
		require.Equal(t, tenant+"1", note)
	}
	return err
}

// warm reads until the driver knows the tenant: on a loaded machine the first connection to the registry may take longer
// than a lookup may.
func (r registered) warm(t *testing.T, tenant string) {
	t.Helper()
	require.Eventually(t, func() bool { return r.read(t, tenant) == nil }, 20*time.Second, 5*time.Millisecond)
}

// outages are ways in which a server goes away, and comes back.
var outages = map[string]func(p *pgtest.Proxy, on bool){
	"black hole": func(p *pgtest.Proxy, on bool) { p.Stall(on) },
	"refused": func(p *pgtest.Proxy, on bool) {
		p.Refuse(on)
		if on {
			p.Cut()
		}
	},
}

func TestKnownTenantsGoOnWhileTheRegistryIsDownAndUnknownOnesFailFast(t *testing.T) {
	t.Parallel()
	for name, outage := range outages {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRegistered(t, "sharded_cache_ttl=50ms")
			r.warm(t, "a")
			outage(r.proxy, true)
			for end := time.Now().Add(500 * time.Millisecond); time.Now().Before(end); { // far past the TTL
				require.NoError(t, r.read(t, "a"))
			}
			start := time.Now()
			err := r.read(t, "b")
			require.ErrorIs(t, err, shardedpg.ErrRegistryUnavailable)
			var own *shardedpg.Error
			require.ErrorAs(t, err, &own)
			require.Positive(t, own.RetryAfter)
			t.Logf("an unknown tenant was refused after %v: %v", time.Since(start), err)
			require.Less(t, time.Since(start), 200*time.Millisecond)
			outage(r.proxy, false)
			require.Eventually(t, func() bool { return r.read(t, "b") == nil }, 20*time.Second, 10*time.Millisecond)
		})
	}
}

func TestAChangeInTheRegistryReachesTheDriverByNotification(t *testing.T) {
	t.Parallel()
	r := newRegistered(t, "sharded_cache_ttl=1h")
	r.warm(t, "a")
	disabled := func() bool { return errors.Is(r.read(t, "a"), shardedpg.ErrTenantDisabled) }
	require.NoError(t, r.store.SetTenantState(t.Context(), "a", resolver.StateDisabled))
	require.Eventually(t, disabled, 20*time.Second, 5*time.Millisecond)
	require.NoError(t, r.store.SetTenantState(t.Context(), "a", resolver.StateActive))
	require.Eventually(t, func() bool { return r.read(t, "a") == nil }, 20*time.Second, 5*time.Millisecond)
}

func TestARegistryFarAwayIsWaitedForAsLongAsTheConfigurationSays(t *testing.T) {
	t.Parallel()
	r := newRegistered(t, "sharded_lookup_timeout=20s")
	r.warm(t, "a")
	r.proxy.SetDelay(200 * time.Millisecond) // a round trip of 400 ms, longer than the default wait
	require.NoError(t, r.read(t, "b"))
}

package registrytest

import (
	"context"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sharded-pg/sharded-pg/registry"
	"github.com/sharded-pg/sharded-pg/resolver"
)

// refusals is what a store does instead of what it cannot do.
func refusals(h Harness) map[string]trial {
	all := make(map[string]trial)
	if h.ReadOnly {
		all["MutationsAreRefused"] = trial{0, mutationsAreRefused}
	}
	if h.Shard != "" {
		all["ChangesOfTheShardAreRefused"] = trial{0, shardIsFixed}
	}
	if h.FirstSight {
		all["AnUnknownTenantIsMadeOnce"] = trial{0, madeOnce}
		all["RemovedAndPurgedTenantsAreNotMadeAgain"] = trial{0, notMadeAgain}
	}
	return all
}

func mutationsAreRefused(t *testing.T, h Harness) {
	store := h.New(t, fleet())
	ctx := t.Context()
	require.ErrorIs(t, store.PutShard(ctx, registry.Shard{Name: "s9", DSN: "host=s9"}), registry.ErrReadOnlyStore)
	require.ErrorIs(t, store.AddShard(ctx, registry.Shard{Name: "s9", DSN: "host=/nowhere"}), registry.ErrReadOnlyStore, "nobody connects")
	require.ErrorIs(t, store.SetShardDSN(ctx, "s1", "host=/nowhere", "", "why"), registry.ErrReadOnlyStore)
	require.ErrorIs(t, store.PutPlan(ctx, registry.DefaultPlans()[0]), registry.ErrReadOnlyStore)
	require.ErrorIs(t, store.PutTenant(ctx, registry.Tenant{ID: "new", Shard: "s1"}), registry.ErrReadOnlyStore)
	require.ErrorIs(t, store.SetTenantState(ctx, "acme", resolver.StateDisabled), registry.ErrReadOnlyStore)
	require.ErrorIs(t, store.RecordAction(ctx, "acme", "kill", nil, ""), registry.ErrReadOnlyStore)
	_, err := store.AddTenant(ctx, registry.Tenant{ID: "new"}, nil)
	require.ErrorIs(t, err, registry.ErrReadOnlyStore)
	_, err = store.PreviewTenants(ctx, []registry.Tenant{{ID: "new"}}, nil)
	require.ErrorIs(t, err, registry.ErrReadOnlyStore)
	require.ErrorIs(t, store.UpdateShard(ctx, "s1", func(s *registry.Shard) { s.Region = "us" }), registry.ErrReadOnlyStore)
	require.ErrorIs(t, store.RemoveTenant(ctx, "acme"), registry.ErrReadOnlyStore)
	_, err = store.Apply(ctx, registry.Fleet{Tenants: []registry.Tenant{{ID: "new", Shard: "s1"}}}, nil)
	require.ErrorIs(t, err, registry.ErrReadOnlyStore)
	_, err = store.Lookup(ctx, "new")
	require.ErrorIs(t, err, resolver.ErrTenantNotFound)
	shards, err := store.ListShards(ctx)
	require.NoError(t, err)
	require.Len(t, shards, 2, "it lists like any other")
	tenants, err := store.ListTenants(ctx, registry.TenantFilter{Shard: "s1"})
	require.NoError(t, err)
	require.Len(t, tenants, 3)
}

func shardIsFixed(t *testing.T, h Harness) {
	store, ctx := h.New(t, registry.Fleet{}), t.Context()
	before, err := store.ListShards(ctx)
	require.NoError(t, err)
	require.Len(t, before, 1)
	refused := func(err error) {
		t.Helper()
		require.ErrorIs(t, err, registry.ErrUnsupported)
		require.ErrorContains(t, err, "use registry.", "it says which store can")
		require.NotContains(t, err.Error(), "opensesame")
	}
	other := registry.Shard{Name: "s9", DSN: "host=/nowhere password=opensesame"}
	refused(store.PutShard(ctx, other))
	refused(store.AddShard(ctx, other))
	refused(store.SetShardDSN(ctx, h.Shard, other.DSN, "", "why"))
	refused(store.SetShardState(ctx, h.Shard, registry.ShardFull, ""))
	refused(store.UpdateShard(ctx, h.Shard, func(s *registry.Shard) { s.MaxTenants = 1 }))
	refused(store.RemoveShard(ctx, h.Shard))
	_, err = store.Apply(ctx, registry.Fleet{Shards: []registry.Shard{other}, Tenants: []registry.Tenant{{ID: "new", Shard: "s9"}}}, nil)
	refused(err)
	require.ErrorIs(t, store.RemoveShard(ctx, "s9"), registry.ErrShardNotFound)
	require.ErrorIs(t, store.PutTenant(ctx, registry.Tenant{ID: "new", Shard: "s9"}), registry.ErrShardNotFound)
	_, err = store.AddTenant(ctx, registry.Tenant{ID: "new"}, &registry.Assignment{Region: "mars"})
	require.ErrorIs(t, err, registry.ErrNoShardFits)
	after, err := store.ListShards(ctx)
	require.NoError(t, err)
	require.Equal(t, before, after)
	_, err = store.Tenant(ctx, "new")
	require.ErrorIs(t, err, resolver.ErrTenantNotFound)

	// Plans and tenants are as everywhere.
	require.NoError(t, store.PutPlan(ctx, fleet().Plans[1]))
	added, err := store.AddTenant(ctx, registry.Tenant{ID: "new", Plan: "rated"}, nil)
	require.NoError(t, err)
	require.Equal(t, h.Shard, added.Shard)
	require.Equal(t, resolver.StateProvisioning, lookup(t, store, "new").State)
	done, err := store.Apply(ctx, registry.Fleet{Tenants: []registry.Tenant{{ID: "newer", Shard: h.Shard, Plan: "rated"}}}, nil)
	require.NoError(t, err)
	require.NotEmpty(t, done)
	require.Equal(t, fleet().Plans[1], lookup(t, store, "newer").Plan)
}

func madeOnce(t *testing.T, h Harness) {
	store := h.New(t, fleet())
	ctx, cancel := context.WithCancel(t.Context())
	told, ended := make(chan string, 100), make(chan error, 1)
	flushed := make(chan struct{}, 100)
	go func() {
		ended <- store.Watch(ctx, registry.Handler{Tenant: func(id string) { told <- id }, Flush: func() { flushed <- struct{}{} }})
	}()
	await(t, flushed)
	ids := []string{"stranger-1", "stranger-2", "ACME"}
	routes := make([]*resolver.Route, 8*len(ids))
	var wg sync.WaitGroup
	for i := range routes {
		wg.Go(func() {
			var err error
			if routes[i], err = store.Lookup(ctx, ids[i%len(ids)]); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	seen := make(map[string]int)
	for range ids {
		seen[await(t, told)]++
	}
	for i, id := range ids {
		require.Equal(t, 1, seen[id], id)
		for n := i; n < len(routes); n += len(ids) {
			require.Equal(t, routes[i], routes[n])
		}
		require.Equal(t, id, routes[i].Tenant)
		require.Equal(t, resolver.StateActive, routes[i].State)
		require.Equal(t, int64(1), routes[i].Epoch)
		log, err := store.Audit(ctx, registry.AuditFilter{Subject: id})
		require.NoError(t, err)
		require.Len(t, log, 1)
		require.Equal(t, "add_tenant", log[0].Action)
	}
	require.Equal(t, "acme", lookup(t, store, "acme").Tenant, "and nobody else changed")
	cancel()
	require.ErrorIs(t, await(t, ended), context.Canceled)
	require.Empty(t, told)
}

func notMadeAgain(t *testing.T, h Harness) {
	store, ctx := h.New(t, fleet()), t.Context()
	unknown := func(why string) {
		t.Helper()
		before, err := store.Audit(ctx, registry.AuditFilter{})
		require.NoError(t, err)
		_, err = store.Lookup(ctx, "acme")
		require.ErrorIs(t, err, resolver.ErrTenantNotFound, why)
		after, err := store.Audit(ctx, registry.AuditFilter{})
		require.NoError(t, err)
		require.Equal(t, before, after)
	}
	require.NoError(t, store.RemoveTenant(ctx, "acme"))
	unknown("removed stays removed")
	require.NoError(t, store.BeginPurge(ctx, "acme", "acme"))
	unknown("and while it is purged")
	require.NoError(t, store.BuryTenant(ctx, "acme", nil))
	unknown("purged stays purged")
}

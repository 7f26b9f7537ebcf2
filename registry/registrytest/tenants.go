package registrytest

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sharded-pg/sharded-pg/registry"
	"github.com/sharded-pg/sharded-pg/resolver"
)

func removeAndRestore(t *testing.T, h Harness) {
	store, ctx := h.New(t, fleet()), t.Context()
	before := lookup(t, store, "beta")
	for range 2 {
		require.NoError(t, store.RemoveTenant(ctx, "beta"))
		_, err := store.Lookup(ctx, "beta")
		require.ErrorIs(t, err, resolver.ErrTenantNotFound)
	}
	require.WithinDuration(t, time.Now(), info(t, store, "beta").Removed, time.Minute)
	require.ErrorContains(t, store.SetTenantState(ctx, "beta", resolver.StateActive), "restore it first")
	require.ErrorContains(t, store.SetTenantPlan(ctx, "beta", "free"), "restore it first")
	for range 2 {
		require.NoError(t, store.RestoreTenant(ctx, "beta"))
		require.Equal(t, before, lookup(t, store, "beta"))
	}
	require.NoError(t, store.SetTenantState(ctx, "beta", resolver.StateMoving))
	require.ErrorIs(t, store.RemoveTenant(ctx, "beta"), registry.ErrInvalid)
	require.ErrorIs(t, store.RemoveTenant(ctx, "unknown"), resolver.ErrTenantNotFound)
}

func purgeIsGuarded(t *testing.T, h Harness) {
	store, ctx := h.New(t, fleet()), t.Context()
	require.ErrorContains(t, store.BeginPurge(ctx, "acme", "acmf"), "repeat its ID")
	require.ErrorContains(t, store.BeginPurge(ctx, "acme", "acme"), "disable or remove it first")
	require.ErrorContains(t, store.BuryTenant(ctx, "acme", nil), "only BeginPurge")
	require.ErrorContains(t, store.PurgeStep(ctx, "acme", "orders", 1), "not deleting")
	require.NoError(t, store.SetTenantState(ctx, "acme", resolver.StateDisabled))
	for range 2 {
		require.NoError(t, store.BeginPurge(ctx, "acme", "acme"))
	}
	require.ErrorIs(t, store.SetTenantState(ctx, "acme", resolver.StateActive), registry.ErrInvalid)
	require.NoError(t, store.PurgeStep(ctx, "acme", "public.orders", 7))
	require.NoError(t, store.BuryTenant(ctx, "acme", map[string]int64{"public.orders": 7}))
	_, err := store.Tenant(ctx, "acme")
	require.ErrorIs(t, err, resolver.ErrTenantNotFound)
	log, err := store.Audit(ctx, registry.AuditFilter{Kind: "tenant", Subject: "acme", Limit: 2})
	require.NoError(t, err)
	require.Equal(t, "bury_tenant", log[0].Action)
	require.Equal(t, map[string]any{"table": "public.orders", "rows": 7.0}, normal(log[1].After))
}

// normal makes numbers what JSON makes of them.
func normal(fields map[string]any) map[string]any {
	for name, value := range fields {
		switch n := value.(type) {
		case int64:
			fields[name] = float64(n)
		case int:
			fields[name] = float64(n)
		}
	}
	return fields
}

func overrides(t *testing.T, h Harness) {
	store, ctx := h.New(t, fleet()), t.Context()
	base := lookup(t, store, "beta").Plan
	o := &registry.Override{StatementTimeout: resolver.Unlimited, MaxConns: 9, Reason: "quarterly report", Expires: time.Now().Add(time.Hour)}
	require.NoError(t, store.SetOverride(ctx, "beta", o))
	want := base
	want.StatementTimeout, want.MaxConns = resolver.Unlimited, 9
	require.Equal(t, want, lookup(t, store, "beta").Plan)
	require.Equal(t, base.WorkMemKB, lookup(t, store, "beta").Plan.WorkMemKB)
	require.Equal(t, "quarterly report", info(t, store, "beta").Override.Reason)
	log, err := store.Audit(ctx, registry.AuditFilter{Subject: "beta", Limit: 1})
	require.NoError(t, err)
	require.Equal(t, "set_override", log[0].Action)
	require.Equal(t, "quarterly report", log[0].Note, "where all reasons are looked for")

	o = &registry.Override{WorkMemKB: 1 << 10, Weight: 3, Rate: 2.5, Expires: time.Now().Add(300 * time.Millisecond)}
	require.NoError(t, store.SetOverride(ctx, "beta", o))
	want = base
	want.WorkMemKB, want.Weight, want.Rate, want.Burst = 1<<10, 3, 2.5, 0 // the plan's burst goes with the plan's rate
	require.Equal(t, want, lookup(t, store, "beta").Plan, "it replaces the earlier one whole")
	require.Eventually(t, func() bool { return lookup(t, store, "beta").Plan == base }, 20*time.Second, 10*time.Millisecond)

	require.NoError(t, store.SetOverride(ctx, "beta", &registry.Override{Burst: 7}))
	want = base
	want.Burst = 7
	require.Equal(t, want, lookup(t, store, "beta").Plan)
	require.Equal(t, 7, info(t, store, "beta").Override.Burst)
	require.NoError(t, store.SetOverride(ctx, "beta", &registry.Override{Rate: 2.5, Burst: 7}))
	want.Rate = 2.5
	require.Equal(t, want, lookup(t, store, "beta").Plan)

	require.NoError(t, store.SetOverride(ctx, "beta", &registry.Override{StatementTimeout: time.Second}))
	require.Equal(t, time.Second, lookup(t, store, "beta").Plan.StatementTimeout, "for good")
	for _, bad := range []*registry.Override{
		{},
		{MaxConns: -1},
		{StatementTimeout: time.Microsecond},
		{WorkMemKB: 1},
		{Rate: -1},
		{Burst: -1},
		{MaxConns: 1, Expires: time.Now().Add(-time.Second)},
		{MaxConns: 1, Reason: "a\nb"},
	} {
		require.ErrorIs(t, store.SetOverride(ctx, "beta", bad), registry.ErrInvalid, "%+v", bad)
	}
	require.NoError(t, store.SetOverride(ctx, "beta", nil))
	require.Equal(t, base, lookup(t, store, "beta").Plan)
	require.ErrorIs(t, store.SetOverride(ctx, "unknown", nil), resolver.ErrTenantNotFound)
}

func slugs(t *testing.T, h Harness) {
	store, ctx := h.New(t, fleet()), t.Context()
	require.NoError(t, store.SetTenantSlug(ctx, uuid, "big-corp"))
	require.NoError(t, store.SetTenantLabels(ctx, uuid, map[string]string{"ring": "canary"}))
	require.ErrorIs(t, store.SetTenantSlug(ctx, "acme", "big-corp"), registry.ErrConflict)
	require.ErrorIs(t, store.SetTenantSlug(ctx, "acme", "big corp"), registry.ErrInvalid)
	require.ErrorIs(t, store.SetTenantLabels(ctx, "acme", map[string]string{"a": "b c"}), registry.ErrInvalid)
	require.NoError(t, store.PutTenant(ctx, registry.Tenant{ID: uuid, Shard: h.on("s2"), Model: resolver.ModelSchema, Schema: "own", Role: "own_role"}))
	require.Equal(t, "big-corp", info(t, store, uuid).Slug, "an empty slug means: as it is")
	require.Equal(t, map[string]string{"ring": "canary"}, info(t, store, uuid).Labels)
	found, err := store.ListTenants(ctx, registry.TenantFilter{Slug: "big-corp"})
	require.NoError(t, err)
	require.Len(t, found, 1)
	require.NoError(t, store.SetTenantSlug(ctx, uuid, ""))
	require.NoError(t, store.SetTenantSlug(ctx, "acme", "big-corp"), "it is free again")
	_, err = store.Lookup(ctx, "big-corp")
	require.ErrorIs(t, err, resolver.ErrTenantNotFound, "nothing is routed by slugs")
}

func listing(t *testing.T, h Harness) {
	store, ctx := h.New(t, fleet()), t.Context()
	ids := func(f registry.TenantFilter) string {
		found, err := store.ListTenants(ctx, f)
		require.NoError(t, err)
		var all []string
		for _, tenant := range found {
			all = append(all, tenant.ID)
		}
		return strings.Join(all, " ")
	}
	require.NoError(t, store.SetTenantLabels(ctx, "gamma", map[string]string{"ring": "canary", "x": "y"}))
	all := uuid + " acme beta delta gamma münchen"
	for want, f := range map[string]registry.TenantFilter{
		all:               {},
		uuid + " acme":    {Limit: 2},
		"beta delta":      {After: "acme", Limit: 2},
		"münchen":         {After: "gamma", Limit: 2},
		"":                {After: "münchen"},
		"acme beta gamma": {Shard: "s1"},
		"beta":            {Plan: "rated"},
		"beta gamma":      {Database: "group1"},
		"beta münchen":    {States: []resolver.State{resolver.StateReadOnly, resolver.StateDisabled}},
		uuid + " delta":   {Models: []resolver.Model{resolver.ModelSchema}},
		"gamma":           {Labels: map[string]string{"ring": "canary"}},
	} {
		require.Equal(t, want, ids(f), "%+v", f)
	}
	require.NoError(t, store.RemoveTenant(ctx, "acme"))
	require.Equal(t, "acme", ids(registry.TenantFilter{Removed: registry.RemovedTenants}))
	require.Equal(t, all, ids(registry.TenantFilter{Removed: registry.AnyTenants}))
	require.Equal(t, "beta gamma", ids(registry.TenantFilter{Shard: "s1"}))
	for _, bad := range []registry.TenantFilter{
		{Limit: -1}, {Limit: 10001}, {States: []resolver.State{"asleep"}}, {Models: []resolver.Model{"x"}}, {Removed: 7},
	} {
		_, err := store.ListTenants(ctx, bad)
		require.ErrorIs(t, err, registry.ErrInvalid, "%+v", bad)
	}
}

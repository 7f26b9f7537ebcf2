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

func throttles(t *testing.T, h Harness) {
	store, ctx := h.New(t, fleet()), t.Context()
	base := lookup(t, store, "beta").Plan
	holds := func(want resolver.Plan, why string) {
		t.Helper()
		require.Equal(t, want, lookup(t, store, "beta").Plan, why)
	}
	hour := time.Now().Add(time.Hour)
	require.NoError(t, store.SetThrottle(ctx, "beta", &registry.Override{MaxConns: 1, Expires: hour, Reason: "a loop"}))
	throttled := base
	throttled.MaxConns = 1
	holds(throttled, "above a plan")
	log, err := store.Audit(ctx, registry.AuditFilter{Subject: "beta", Limit: 1})
	require.NoError(t, err)
	require.Equal(t, []string{"set_throttle", "a loop"}, []string{log[0].Action, log[0].Note})
	require.Contains(t, log[0].After, "throttle")
	require.Nil(t, info(t, store, "beta").Override)

	o := &registry.Override{StatementTimeout: resolver.Unlimited, MaxConns: 9, Rate: 900, Burst: 7}
	require.NoError(t, store.SetOverride(ctx, "beta", o))
	throttled.StatementTimeout, throttled.Rate, throttled.Burst = resolver.Unlimited, 900, 7
	holds(throttled, "an override goes below it, and holds in what it does not limit")
	require.NoError(t, store.SetThrottle(ctx, "beta", &registry.Override{Rate: 2, Expires: hour}))
	throttled.MaxConns, throttled.Rate, throttled.Burst = 9, 2, 0
	holds(throttled, "another one replaces it whole, and not the override")
	require.NoError(t, store.SetTenantPlan(ctx, "beta", "growth"))
	require.NoError(t, store.SetTenantPlan(ctx, "beta", base.Name))
	require.NoError(t, store.PutTenant(ctx, info(t, store, "beta").Tenant))
	holds(throttled, "other changes leave both alone")
	require.Equal(t, o, info(t, store, "beta").Override)
	require.Equal(t, &registry.Override{Rate: 2, Expires: hour.UTC().Truncate(time.Microsecond)}, info(t, store, "beta").Throttle)
	found, err := store.ListTenants(ctx, registry.TenantFilter{})
	require.NoError(t, err)
	require.Contains(t, found, info(t, store, "beta"))

	require.NoError(t, store.SetThrottle(ctx, "beta", &registry.Override{MaxConns: 1, Expires: time.Now().Add(300 * time.Millisecond)}))
	free := base
	free.StatementTimeout, free.MaxConns, free.Rate, free.Burst = resolver.Unlimited, 9, 900, 7
	require.Eventually(t, func() bool { return lookup(t, store, "beta").Plan == free }, 20*time.Second, 10*time.Millisecond)
	require.NotNil(t, info(t, store, "beta").Throttle, "expired or not")
	require.NoError(t, store.SetThrottle(ctx, "beta", &registry.Override{MaxConns: 1, Expires: hour}))
	require.NoError(t, store.SetThrottle(ctx, "beta", nil))
	holds(free, "the override, when it is cleared")
	require.Nil(t, info(t, store, "beta").Throttle)

	require.NoError(t, store.SetOverride(ctx, "beta", &registry.Override{MaxConns: 9, Expires: time.Now().Add(300 * time.Millisecond)}))
	require.NoError(t, store.SetThrottle(ctx, "beta", &registry.Override{Weight: 1, Rate: 2, Expires: hour}))
	throttled = base
	throttled.Weight, throttled.Rate, throttled.Burst = 1, 2, 0
	require.Eventually(t, func() bool { return lookup(t, store, "beta").Plan == throttled }, 20*time.Second, 10*time.Millisecond, "an override that ends below it")
	require.NoError(t, store.SetThrottle(ctx, "beta", nil))
	holds(base, "and does not come back")
	require.NoError(t, store.SetThrottle(ctx, "beta", nil), "a second time is no error")
	require.NoError(t, store.SetThrottle(ctx, "beta", &registry.Override{MaxConns: 1, Expires: hour}))
	require.NoError(t, store.SetOverride(ctx, "beta", nil))
	throttled = base
	throttled.MaxConns = 1
	holds(throttled, "no override is left, and the throttle goes on")
	for _, bad := range []*registry.Override{
		{MaxConns: 1},
		{Expires: hour},
		{MaxConns: -1, Expires: hour},
		{MaxConns: 1, Expires: time.Now().Add(-time.Second)},
		{MaxConns: 1, Expires: hour, Reason: "a\nb"},
	} {
		require.ErrorIs(t, store.SetThrottle(ctx, "beta", bad), registry.ErrInvalid, "%+v", bad)
	}
	require.ErrorIs(t, store.SetThrottle(ctx, "unknown", nil), resolver.ErrTenantNotFound)
	require.NoError(t, store.RemoveTenant(ctx, "beta"))
	require.ErrorContains(t, store.SetThrottle(ctx, "beta", nil), "restore it first")
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

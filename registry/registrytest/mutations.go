package registrytest

import (
	"context"
	"math"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sharded-pg/sharded-pg/registry"
	"github.com/sharded-pg/sharded-pg/resolver"
)

var mutations = map[string]trial{
	"PutTenantBumpsTheEpochOnlyForAnotherPlacement": {mutable | anyShards, epochFollowsPlacement},
	"PutTenantKeepsTheStateUnlessTold":              {mutable, stateIsKept},
	"PutTenantServesManyGoroutines":                 {mutable | anyShards, concurrentPuts},
	"PutReportsAllProblems":                         {mutable | anyShards | strangers, allProblems},
	"NoTwoTenantsShareASchemaOrRole":                {mutable, noSharedSchema},
	"SetTenantStateFollowsTheDiagram":               {mutable, statesFollowTheDiagram},
	"WatchTellsOfChangesAndOfNothingElse":           {mutable | anyShards, watchTellsOfChanges},
}

func epochFollowsPlacement(t *testing.T, h Harness) {
	store := h.New(t, fleet())
	tenant := registry.Tenant{ID: "acme", Shard: "s1"}
	for _, step := range []struct {
		name   string
		change func()
		epoch  int64
	}{
		{"the same again", func() {}, 1},
		{"its defaults spelled out", func() { tenant.Plan, tenant.Model = "free", resolver.ModelShared }, 1},
		{"another plan", func() { tenant.Plan = "growth" }, 1},
		{"another state", func() { tenant.State = resolver.StateReadOnly }, 1},
		{"another database", func() { tenant.Database = "other" }, 2},
		{"another shard", func() { tenant.Shard = "s2" }, 3},
		{"another model", func() { tenant.Model = resolver.ModelSchema }, 4},
		{"another schema and role", func() { tenant.Schema, tenant.Role = "x", "y" }, 5},
		{"the same again at last", func() {}, 5},
	} {
		step.change()
		require.NoError(t, store.PutTenant(t.Context(), tenant), step.name)
		route := lookup(t, store, "acme")
		require.Equal(t, step.epoch, route.Epoch, step.name)
		require.Equal(t, tenant.Shard, route.Shard.Name, step.name)
		require.Equal(t, tenant.Database, route.Database, step.name)
	}
	route := lookup(t, store, "acme")
	require.Equal(t, "x", route.Schema)
	require.Equal(t, "y", route.Role)
	require.Equal(t, "growth", route.Plan.Name)
	require.Equal(t, resolver.StateReadOnly, route.State)
}

func stateIsKept(t *testing.T, h Harness) {
	store := h.New(t, fleet())
	require.NoError(t, store.SetTenantState(t.Context(), "acme", resolver.StateDisabled))
	require.NoError(t, store.PutTenant(t.Context(), registry.Tenant{ID: "acme", Shard: h.on("s1"), Plan: "growth"}))
	require.Equal(t, resolver.StateDisabled, lookup(t, store, "acme").State)
	require.NoError(t, store.PutTenant(t.Context(), registry.Tenant{ID: "new", Shard: h.on("s1"), State: resolver.StateProvisioning}))
	require.Equal(t, resolver.StateProvisioning, lookup(t, store, "new").State)
}

func concurrentPuts(t *testing.T, h Harness) {
	store := h.New(t, fleet())
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			tenant := registry.Tenant{ID: "new", Shard: "s1"}
			if i%2 == 1 {
				tenant.Shard = "s2"
			}
			for range 5 {
				if err := store.PutTenant(t.Context(), tenant); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	require.NoError(t, store.PutTenant(t.Context(), registry.Tenant{ID: "new", Shard: "s2"}))
	require.Equal(t, "s2", lookup(t, store, "new").Shard.Name)
}

func allProblems(t *testing.T, h Harness) {
	store := h.New(t, fleet())
	ctx := t.Context()
	refused := func(err error, texts ...string) {
		t.Helper()
		require.ErrorIs(t, err, registry.ErrInvalid)
		for _, text := range texts {
			require.ErrorContains(t, err, text)
		}
	}
	refused(store.PutShard(ctx, registry.Shard{Name: "a b"}), "name", "dsn is empty")
	err := store.PutShard(ctx, registry.Shard{Name: "s9", DSN: "password=opensesame${", AdminDSN: "opensesame${1}"})
	refused(err, "dsn: a ${ without", "admin dsn: a ${...}")
	require.NotContains(t, err.Error(), "opensesame")
	refused(store.PutPlan(ctx, registry.Plan{Rate: math.NaN(), Burst: -1}), "name", "resolver.Unlimited", "work_mem", "max conns", "weight", "rate", "burst")
	refused(store.PutPlan(ctx, registry.Plan{
		Name: "x", StatementTimeout: 1500 * time.Microsecond, WorkMemKB: 64, MaxConns: 1, Weight: 1,
	}), "whole milliseconds")
	refused(store.PutPlan(ctx, registry.Plan{
		Name: "x", StatementTimeout: time.Second, WorkMemKB: 64, MaxConns: 1, Weight: 1, Burst: 5,
	}), "burst is 5 without a rate")
	refused(store.PutTenant(ctx, registry.Tenant{
		ID: "a\nb", Model: "tabular", State: "asleep", Schema: "x", Database: "a\x00",
	}), "character", "shard", "tabular", "asleep", "schema and role", "database")
	refused(store.PutTenant(ctx, registry.Tenant{ID: strings.Repeat("x", 60), Shard: "s1", Model: resolver.ModelSchema}), "67 bytes")
	for _, id := range []string{"a/*b", "ü", "a:b"} {
		refused(store.PutTenant(ctx, registry.Tenant{ID: id, Shard: "s1", Model: resolver.ModelSchema}), "schema", "not safe")
	}
	for _, role := range []string{"pg_monitor", "none", "Postgres", "public"} {
		refused(store.PutTenant(ctx, registry.Tenant{ID: "x", Shard: "s1", Model: resolver.ModelSchema, Role: role}), "another role")
	}

	err = store.PutTenant(ctx, registry.Tenant{ID: "new", Shard: "s9", Plan: "gold"})
	require.ErrorIs(t, err, registry.ErrShardNotFound)
	require.ErrorIs(t, err, registry.ErrPlanNotFound)
	_, err = store.Lookup(ctx, "new")
	require.ErrorIs(t, err, resolver.ErrTenantNotFound)
}

func noSharedSchema(t *testing.T, h Harness) {
	store := h.New(t, fleet())
	other := registry.Tenant{ID: "other", Shard: h.on("s2"), Model: resolver.ModelSchema, Schema: "tenant_delta", Role: "r1"}
	err := store.PutTenant(t.Context(), other)
	require.ErrorIs(t, err, registry.ErrConflict)
	require.ErrorContains(t, err, `schema "tenant_delta"`)
	other.Schema, other.Role = "s", "tenant_delta"
	err = store.PutTenant(t.Context(), other)
	require.ErrorIs(t, err, registry.ErrConflict)
	require.ErrorContains(t, err, `role "tenant_delta"`)
	other.Schema, other.Role, other.Database = "tenant_delta", "r1", "elsewhere"
	require.NoError(t, store.PutTenant(t.Context(), other), "another database has schemas of its own")
}

func statesFollowTheDiagram(t *testing.T, h Harness) {
	store := h.New(t, fleet())
	ctx := t.Context()
	for _, state := range []resolver.State{
		resolver.StateActive, resolver.StateReadOnly, resolver.StateReadOnly, resolver.StateDisabled, resolver.StateMoving,
		resolver.StateActive, resolver.StateDeleting, resolver.StateDeleting,
	} {
		require.NoError(t, store.SetTenantState(ctx, "acme", state))
		require.Equal(t, state, lookup(t, store, "acme").State)
	}
	require.ErrorIs(t, store.SetTenantState(ctx, "acme", resolver.StateActive), registry.ErrInvalid)
	require.ErrorIs(t, store.PutTenant(ctx, registry.Tenant{ID: "acme", Shard: h.on("s1"), State: resolver.StateActive}), registry.ErrInvalid)
	require.ErrorIs(t, store.SetTenantState(ctx, "beta", resolver.StateProvisioning), registry.ErrInvalid)
	require.ErrorIs(t, store.SetTenantState(ctx, "beta", "asleep"), registry.ErrInvalid)
	require.ErrorIs(t, store.SetTenantState(ctx, "unknown", resolver.StateActive), resolver.ErrTenantNotFound)
	require.ErrorIs(t, store.SetTenantState(ctx, "", resolver.StateActive), resolver.ErrInvalidTenant)
	require.Equal(t, int64(1), lookup(t, store, "acme").Epoch, "a state is no placement")
}

func watchTellsOfChanges(t *testing.T, h Harness) {
	store := h.New(t, fleet())
	ctx, cancel := context.WithCancel(t.Context())
	events, ended := make(chan string, 100), make(chan error, 1)
	go func() {
		ended <- store.Watch(ctx, registry.Handler{
			Tenant: func(id string) { events <- id },
			Flush:  func() { events <- "(flush)" },
		})
	}()
	require.Equal(t, "(flush)", await(t, events), "at the start")

	// Each change is followed by one that must not be told, so an unwanted event would come in the next one's place.
	again := registry.Tenant{ID: "acme", Shard: "s1"}
	shard, plan := fleet().Shards[0], fleet().Plans[0]
	for _, step := range []struct {
		change func() error
		event  string
	}{
		{func() error { return store.PutTenant(ctx, registry.Tenant{ID: "münchen-2", Shard: "s1"}) }, "münchen-2"},
		{func() error { return store.PutTenant(ctx, again) }, ""},
		{func() error { return store.SetTenantState(ctx, "beta", resolver.StateDisabled) }, "beta"},
		{func() error { return store.SetTenantState(ctx, "beta", resolver.StateDisabled) }, ""},
		{func() error { return store.PutShard(ctx, shard) }, ""},
		{func() error { shard.DSN = "host=elsewhere"; return store.PutShard(ctx, shard) }, "(flush)"},
		{func() error { return store.PutPlan(ctx, plan) }, ""},
		{func() error { plan.MaxConns++; return store.PutPlan(ctx, plan) }, "(flush)"},
		{func() error { return store.PutTenant(ctx, registry.Tenant{ID: "f:", Shard: "s1"}) }, "f:"},
	} {
		require.NoError(t, step.change())
		if step.event != "" {
			require.Equal(t, step.event, await(t, events))
		}
	}
	cancel()
	require.ErrorIs(t, await(t, ended), context.Canceled)
	require.Empty(t, events)
}

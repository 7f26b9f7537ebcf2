// Package registrytest is the suite that each registry.Store passes. Run it on a store of your own:
//
//	func TestMyStore(t *testing.T) {
//		registrytest.Run(t, registrytest.Harness{New: func(t testing.TB, fleet registry.Fleet) registrytest.Subject {
//			...
//		}})
//	}
package registrytest

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sharded-pg/sharded-pg/registry"
	"github.com/sharded-pg/sharded-pg/resolver"
)

// Subject is a store to test, from all sides.
type Subject struct {
	registry.Store
	*registry.Admin
	io.Closer
}

// Harness makes the stores to test.
type Harness struct {
	// New returns a store that holds fleet and nothing else. The harness frees what it took when the test ends; the
	// suite closes the store itself, which may happen twice.
	New func(t testing.TB, fleet registry.Fleet) Subject
	// ReadOnly says that the store refuses mutations.
	ReadOnly bool
	// Shard names the only shard of a store that refuses changes of it. New then leaves the shards of a fleet out, and
	// puts all of its tenants on this one.
	Shard string
	// FirstSight says that the store makes unknown tenants when they are looked up.
	FirstSight bool
}

// needs is what a store must do for a test; for what it does not, another test says how it refuses.
type needs int

const (
	mutable   needs = 1 << iota // it can be changed
	anyShards                   // it has the shards that it is given
	strangers                   // unknown tenants stay unknown
)

type trial struct {
	needs needs
	run   func(*testing.T, Harness)
}

func (h Harness) lacks() (all needs) {
	if h.ReadOnly {
		all |= mutable
	}
	if h.Shard != "" {
		all |= anyShards
	}
	if h.FirstSight {
		all |= strangers
	}
	return all
}

// on is the shard that stands for one of the fleet.
func (h Harness) on(shard string) string { return cmp.Or(h.Shard, shard) }

const uuid = "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"

const (
	secret        = "hunter2"
	secretEnv     = "SHARDEDPG_REGISTRYTEST_SECRET"
	unsetEnv      = "SHARDEDPG_REGISTRYTEST_UNSET"
	expandedDSN   = "postgres://app:" + secret + "@s1/app"
	unexpandedDSN = "postgres://app:${" + secretEnv + "}@s1/app"
)

func fleet() registry.Fleet {
	return registry.Fleet{
		Shards: []registry.Shard{
			{Name: "s2", DSN: "host=s2 password=pa$$word", AdminDSN: "host=s2 user=admin"},
			{
				Name: "s1", DSN: unexpandedDSN, AdminDSN: "postgres://admin:${" + secretEnv + "}@s1/app",
				Region: "eu", Labels: map[string]string{"disk": "ssd"}, MaxTenants: 3, MaxBytes: 1 << 40,
			},
		},
		Plans: []registry.Plan{
			{Name: "endless", StatementTimeout: resolver.Unlimited, WorkMemKB: 64, MaxConns: 1, Weight: 1},
			{Name: "rated", StatementTimeout: 1500 * time.Millisecond, WorkMemKB: 100, MaxConns: 3, Weight: 7, Rate: 12.5, Burst: 40},
		},
		Tenants: []registry.Tenant{
			{ID: "acme", Shard: "s1"},
			{ID: "beta", Shard: "s1", Database: "group1", Plan: "rated", State: resolver.StateReadOnly},
			{ID: "gamma", Shard: "s1", Database: "group1", Plan: "endless", Model: resolver.ModelPartition},
			{ID: "delta", Shard: "s2", Model: resolver.ModelSchema, Plan: "enterprise"},
			{ID: uuid, Shard: "s2", Model: resolver.ModelSchema, Schema: "own", Role: "own_role"},
			{ID: "münchen", Shard: "s2", Database: "muc", Model: resolver.ModelDatabase, State: resolver.StateDisabled},
		},
	}
}

// Run runs the suite. It sets an environment variable for its duration.
func Run(t *testing.T, h Harness) {
	t.Helper()
	require.NoError(t, os.Setenv(secretEnv, secret)) //nolint:usetesting // the subtests are parallel, Setenv of T refuses that
	t.Cleanup(func() { _ = os.Unsetenv(secretEnv) })
	for _, trials := range []map[string]trial{reads, mutations, administration, refusals(h)} {
		for name, test := range trials {
			if test.needs&h.lacks() == 0 {
				t.Run(name, func(t *testing.T) { t.Parallel(); test.run(t, h) })
			}
		}
	}
}

// reads is what each store does alike.
var reads = map[string]trial{
	"LookupReturnsTheWholeRoute":                {0, lookupReturnsTheWholeRoute},
	"LookupKnowsNoOtherTenant":                  {strangers, lookupKnowsNoOtherTenant},
	"LookupRefusesWhatIsNoID":                   {0, lookupRefusesWhatIsNoID},
	"LookupHonoursItsContext":                   {0, lookupHonoursItsContext},
	"LookupNamesTheVariableThatIsNotSet":        {anyShards, lookupNamesTheVariableThatIsNotSet},
	"LookupTellsAdminDSNsFromWhatStatementsUse": {anyShards, lookupTellsAdminDSNsFromWhatStatementsUse},
	"LookupServesManyGoroutines":                {0, lookupServesManyGoroutines},
	"ShardsAreListedWithExpandedDSNs":           {anyShards, shardsAreListedWithExpandedDSNs},
	"WatchFlushesFirstAndEndsWithItsCaller":     {0, watchFlushesFirstAndEndsWithItsCaller},
	"CloseEndsWatch":                            {0, closeEndsWatch},
	"ForEachTenantReportsDoneFailedAndNotTried": {0, forEach},
}

func lookup(t *testing.T, store Subject, tenant string) *resolver.Route {
	t.Helper()
	route, err := store.Lookup(t.Context(), tenant)
	require.NoError(t, err)
	return route
}

func lookupReturnsTheWholeRoute(t *testing.T, h Harness) {
	store := h.New(t, fleet())
	plans := map[string]registry.Plan{}
	for _, plan := range append(registry.DefaultPlans(), fleet().Plans...) {
		plans[plan.Name] = plan
	}
	s1 := resolver.Shard{Name: "s1", DSN: expandedDSN}
	s2 := resolver.Shard{Name: "s2", DSN: "host=s2 password=pa$$word"}
	if h.Shard != "" {
		only, err := store.Shard(t.Context(), h.Shard)
		require.NoError(t, err)
		only.AdminDSN = ""
		s1, s2 = only, only
	}
	for _, want := range []resolver.Route{
		{Tenant: "acme", Shard: s1, Model: resolver.ModelShared, Plan: plans["free"], State: resolver.StateActive},
		{Tenant: "beta", Shard: s1, Database: "group1", Model: resolver.ModelShared, Plan: plans["rated"], State: resolver.StateReadOnly},
		{Tenant: "gamma", Shard: s1, Database: "group1", Model: resolver.ModelPartition, Plan: plans["endless"], State: resolver.StateActive},
		{
			Tenant: "delta", Shard: s2, Model: resolver.ModelSchema, Schema: "tenant_delta", Role: "tenant_delta",
			Plan: plans["enterprise"], State: resolver.StateActive,
		},
		{
			Tenant: uuid, Shard: s2, Model: resolver.ModelSchema, Schema: "own", Role: "own_role",
			Plan: plans["free"], State: resolver.StateActive,
		},
		{Tenant: "münchen", Shard: s2, Database: "muc", Model: resolver.ModelDatabase, Plan: plans["free"], State: resolver.StateDisabled},
	} {
		want.Epoch = 1
		require.Equal(t, want, *lookup(t, store, want.Tenant))
	}
}

func lookupKnowsNoOtherTenant(t *testing.T, h Harness) {
	store := h.New(t, fleet())
	for _, id := range []string{"unknown", "ACME", "acme-", "Acme", "tenant_delta", "%"} {
		_, err := store.Lookup(t.Context(), id)
		require.ErrorIs(t, err, resolver.ErrTenantNotFound, id)
	}
}

func lookupRefusesWhatIsNoID(t *testing.T, h Harness) {
	store := h.New(t, fleet())
	for _, id := range []string{"", " acme", "acme\n", "ac\x00me", "a'b", "A0EEBC99-9c0b-4ef8-bb6d-6bb9bd380a11"} {
		_, err := store.Lookup(t.Context(), id)
		require.ErrorIs(t, err, resolver.ErrInvalidTenant, "%q", id)
	}
}

func lookupHonoursItsContext(t *testing.T, h Harness) {
	store := h.New(t, fleet())
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := store.Lookup(ctx, "acme")
	require.ErrorIs(t, err, context.Canceled)
	_, err = store.Shard(ctx, "s1")
	require.ErrorIs(t, err, context.Canceled)
	_, err = store.Shards(ctx)
	require.ErrorIs(t, err, context.Canceled)
}

func lookupNamesTheVariableThatIsNotSet(t *testing.T, h Harness) {
	broken := fleet()
	broken.Shards = append(broken.Shards,
		registry.Shard{Name: "s3", DSN: "postgres://app:opensesame@${" + unsetEnv + "}/app"},
		registry.Shard{Name: "s4", DSN: "host=s4", AdminDSN: "host=s4 password=${" + unsetEnv + "}"})
	broken.Tenants = append(broken.Tenants, registry.Tenant{ID: "on-s3", Shard: "s3"}, registry.Tenant{ID: "on-s4", Shard: "s4"})
	store := h.New(t, broken)

	_, err := store.Lookup(t.Context(), "on-s3")
	require.ErrorIs(t, err, resolver.ErrRouteUnusable)
	require.ErrorContains(t, err, unsetEnv)
	require.ErrorContains(t, err, "s3")
	require.NotContains(t, err.Error(), "opensesame")
	require.Equal(t, "host=s4", lookup(t, store, "on-s4").Shard.DSN, "statements need no admin DSN")

	_, err = store.Shard(t.Context(), "s4")
	require.ErrorContains(t, err, unsetEnv)
	shards, err := store.Shards(t.Context())
	require.ErrorContains(t, err, `"s3"`)
	require.ErrorContains(t, err, `"s4"`)
	require.NotErrorIs(t, err, registry.ErrAdminDSN)
	require.Len(t, shards, 2, "the others are listed")
}

func lookupTellsAdminDSNsFromWhatStatementsUse(t *testing.T, h Harness) {
	broken := fleet()
	broken.Shards = append(broken.Shards, registry.Shard{Name: "s4", DSN: "host=s4", AdminDSN: "host=s4 password=${" + unsetEnv + "}"})
	store := h.New(t, broken)
	shards, err := store.Shards(t.Context())
	require.ErrorIs(t, err, registry.ErrAdminDSN)
	require.ErrorContains(t, err, unsetEnv)
	require.Len(t, shards, 2, "the others are listed")
}

func lookupServesManyGoroutines(t *testing.T, h Harness) {
	many := fleet()
	for i := range 50 {
		many.Tenants = append(many.Tenants, registry.Tenant{ID: fmt.Sprintf("t%d", i), Shard: "s1", Database: "together"})
	}
	store := h.New(t, many)
	var wg sync.WaitGroup
	for i := range 50 {
		wg.Go(func() {
			route, err := store.Lookup(t.Context(), fmt.Sprintf("t%d", i))
			if err != nil || route.Tenant != fmt.Sprintf("t%d", i) || route.Database != "together" {
				t.Errorf("t%d: %v, %v", i, route, err)
			}
		})
	}
	wg.Wait()
}

func shardsAreListedWithExpandedDSNs(t *testing.T, h Harness) {
	store := h.New(t, fleet())
	s1 := resolver.Shard{Name: "s1", DSN: expandedDSN, AdminDSN: "postgres://admin:" + secret + "@s1/app"}
	s2 := resolver.Shard{Name: "s2", DSN: "host=s2 password=pa$$word", AdminDSN: "host=s2 user=admin"}
	got, err := store.Shard(t.Context(), "s1")
	require.NoError(t, err)
	require.Equal(t, s1, got)
	shards, err := store.Shards(t.Context())
	require.NoError(t, err)
	require.Equal(t, []resolver.Shard{s1, s2}, shards)
	_, err = store.Shard(t.Context(), "s9")
	require.ErrorIs(t, err, registry.ErrShardNotFound)
	text, err := json.Marshal(got)
	require.NoError(t, err)
	require.NotContains(t, fmt.Sprintf("%v %+v %#v %s", got, got, got, text), secret)
}

func watchFlushesFirstAndEndsWithItsCaller(t *testing.T, h Harness) {
	store := h.New(t, fleet())
	ctx, cancel := context.WithCancel(t.Context())
	flushed, ended := make(chan struct{}, 100), make(chan error, 1)
	go func() {
		ended <- store.Watch(ctx, registry.Handler{Flush: func() { flushed <- struct{}{} }})
	}()
	await(t, flushed)
	cancel()
	require.ErrorIs(t, await(t, ended), context.Canceled)
}

func closeEndsWatch(t *testing.T, h Harness) {
	store := h.New(t, fleet())
	flushed, ended := make(chan struct{}, 100), make(chan error, 1)
	go func() {
		ended <- store.Watch(t.Context(), registry.Handler{Flush: func() { flushed <- struct{}{} }})
	}()
	await(t, flushed)
	require.NoError(t, store.Close())
	require.NoError(t, store.Close())
	require.ErrorIs(t, await(t, ended), registry.ErrClosed)
}

// await returns what comes, and fails the test when nothing does.
func await[T any](t *testing.T, from <-chan T) T {
	t.Helper()
	select {
	case got := <-from:
		return got
	case <-time.After(20 * time.Second):
		require.FailNow(t, "nothing came within 20 s")
		panic("unreachable")
	}
}

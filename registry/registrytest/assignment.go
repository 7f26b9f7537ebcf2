package registrytest

import (
	"context"
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sharded-pg/sharded-pg/registry"
	"github.com/sharded-pg/sharded-pg/resolver"
)

// add adds n tenants with IDs of prefix and returns how many each shard got.
func add(t *testing.T, store Subject, n int, prefix string, where *registry.Assignment) map[string]int {
	t.Helper()
	counts := map[string]int{}
	for i := range n {
		got, err := store.AddTenant(t.Context(), registry.Tenant{ID: fmt.Sprintf("%s%d", prefix, i)}, where)
		require.NoError(t, err)
		require.Equal(t, resolver.StateProvisioning, got.State)
		counts[got.Shard]++
	}
	return counts
}

// plain is a fleet of open shards and no tenants.
func plain(names ...string) (f registry.Fleet) {
	for _, name := range names {
		f.Shards = append(f.Shards, registry.Shard{Name: name, DSN: "host=" + name})
	}
	return f
}

func addTenantChooses(t *testing.T, h Harness) {
	store := h.New(t, plain("a", "b", "c"))
	counts := add(t, store, 60, "hash", nil)
	require.Len(t, counts, 3)
	require.Equal(t, "hash", info(t, store, "hash7").Assignment)
	for i := range 3 {
		_, err := store.AddTenant(t.Context(), registry.Tenant{ID: fmt.Sprintf("x%d", i), Shard: "a"}, nil)
		require.NoError(t, err)
	}
	require.Equal(t, "explicit", info(t, store, "x1").Assignment)
	smallest := &registry.Assignment{Strategy: registry.Smallest{}}
	add(t, store, 90-63, "small", smallest)
	for _, name := range []string{"a", "b", "c"} {
		require.Equal(t, 30, shard(t, store, name).Tenants)
	}
	weighed := &registry.Assignment{Strategy: registry.Smallest{By: sizes{"a": 2, "b": 1, "c": 3}}}
	require.Equal(t, map[string]int{"b": 4}, add(t, store, 4, "light", weighed))
	unknown := &registry.Assignment{Strategy: registry.Smallest{By: sizes{"c": 3}}}
	require.Equal(t, map[string]int{"c": 2}, add(t, store, 2, "seen", unknown), "what was not measured is no candidate")
}

type sizes map[string]float64

func (s sizes) Sizes(context.Context, []registry.Shard) (map[string]float64, error) { return s, nil }

func addTenantHonoursLimits(t *testing.T, h Harness) {
	f := plain("full", "draining", "small", "eu", "us")
	f.Shards[0].State, f.Shards[1].State = registry.ShardFull, registry.ShardDraining
	f.Shards[2].MaxTenants = 1
	f.Shards[3].Region, f.Shards[4].Region = "eu", "us"
	f.Shards[3].Labels = map[string]string{"tier": "gold", "disk": "ssd"}
	store, ctx := h.New(t, f), t.Context()
	require.Equal(t, map[string]int{"eu": 10}, add(t, store, 10, "e", &registry.Assignment{Region: "eu"}))
	require.Equal(t, map[string]int{"eu": 10}, add(t, store, 10, "g", &registry.Assignment{Labels: map[string]string{"disk": "ssd"}}))
	counts := add(t, store, 40, "any", nil)
	require.Zero(t, counts["full"])
	require.Zero(t, counts["draining"])
	require.LessOrEqual(t, counts["small"], 1)
	for _, name := range []string{"full", "draining"} {
		_, err := store.AddTenant(ctx, registry.Tenant{ID: "explicit", Shard: name}, nil)
		require.ErrorIs(t, err, registry.ErrNoShardFits)
		require.ErrorContains(t, err, "it is "+name)
	}
	_, err := store.AddTenant(ctx, registry.Tenant{ID: "explicit", Shard: "nowhere"}, nil)
	require.ErrorIs(t, err, registry.ErrShardNotFound)
}

func addTenantSaysWhy(t *testing.T, h Harness) {
	store, ctx := h.New(t, registry.Fleet{}), t.Context()
	_, err := store.AddTenant(ctx, registry.Tenant{ID: "x"}, nil)
	require.ErrorIs(t, err, registry.ErrNoShardFits)
	require.ErrorContains(t, err, "there are no shards")
	for _, s := range []registry.Shard{
		{Name: "a", DSN: "host=a password=opensesame", State: registry.ShardFull},
		{Name: "b", DSN: "host=b", Region: "us"},
		{Name: "c", DSN: "host=c", Region: "eu"},
	} {
		require.NoError(t, store.PutShard(ctx, s))
	}
	_, err = store.AddTenant(ctx, registry.Tenant{ID: "x"}, &registry.Assignment{Region: "eu", Labels: map[string]string{"tier": "gold"}})
	require.ErrorIs(t, err, registry.ErrNoShardFits)
	for _, text := range []string{"a: it is full", `b: its region is "us"`, "c: it lacks a label", "raise its limits"} {
		require.ErrorContains(t, err, text)
	}
	require.NotContains(t, err.Error(), "opensesame")
	_, err = store.Tenant(ctx, "x")
	require.ErrorIs(t, err, resolver.ErrTenantNotFound)
}

func addTenantRefusesUsedIDs(t *testing.T, h Harness) {
	store, ctx := h.New(t, fleet()), t.Context()
	_, err := store.AddTenant(ctx, registry.Tenant{ID: "acme"}, nil)
	require.ErrorIs(t, err, registry.ErrExists)
	require.ErrorContains(t, err, `on shard "s1" is active`)
	require.NoError(t, store.RemoveTenant(ctx, "acme"))
	_, err = store.AddTenant(ctx, registry.Tenant{ID: "acme"}, nil)
	require.ErrorIs(t, err, registry.ErrExists)
	require.ErrorContains(t, err, "can be restored")
	require.ErrorIs(t, store.PutTenant(ctx, registry.Tenant{ID: "acme", Shard: "s2"}), registry.ErrInvalid)
	require.NoError(t, store.BeginPurge(ctx, "acme", "acme"))
	require.NoError(t, store.BuryTenant(ctx, "acme", map[string]int64{"public.orders": 3}))
	_, err = store.AddTenant(ctx, registry.Tenant{ID: "acme", Shard: "s2"}, nil)
	require.ErrorIs(t, err, registry.ErrExists)
	require.ErrorContains(t, err, "purged")
	require.ErrorIs(t, store.PutTenant(ctx, registry.Tenant{ID: "acme", Shard: "s2"}), registry.ErrExists)
}

func hashMovesFew(t *testing.T, h Harness) {
	store := h.New(t, plain("a", "b", "c", "d"))
	pick := func(names ...string) []string {
		var candidates []registry.Candidate
		for _, name := range names {
			candidates = append(candidates, registry.Candidate{Shard: registry.Shard{Name: name}})
		}
		picked := make([]string, 1000)
		for i := range picked {
			var err error
			picked[i], err = registry.Hash{}.Pick(fmt.Sprintf("tenant-%d", i), candidates)
			require.NoError(t, err)
		}
		return picked
	}
	before, after := pick("a", "b", "c", "d"), pick("a", "b", "c", "d", "e")
	changed := 0
	for i := range before {
		if before[i] != after[i] {
			require.Equal(t, "e", after[i], "only the new shard attracts")
			changed++
		}
	}
	require.InDelta(t, 200, changed, 60)
	add(t, store, 30, "t", nil)
	placed := map[string]string{}
	for i := range 30 {
		id := fmt.Sprintf("t%d", i)
		placed[id] = lookup(t, store, id).Shard.Name
	}
	require.NoError(t, store.PutShard(t.Context(), registry.Shard{Name: "e", DSN: "host=e"}))
	for id, where := range placed {
		require.Equal(t, where, lookup(t, store, id).Shard.Name, "a stored tenant stays")
	}
}

type fixed struct {
	name string
	err  error
}

func (fixed) Name() string { return "fixed" }

func (f fixed) Pick(string, []registry.Candidate) (string, error) { return f.name, f.err }

func customStrategy(t *testing.T, h Harness) {
	store, ctx := h.New(t, plain("a", "b")), t.Context()
	got, err := store.AddTenant(ctx, registry.Tenant{ID: "x"}, &registry.Assignment{Strategy: fixed{name: "b"}})
	require.NoError(t, err)
	require.Equal(t, "b", got.Shard)
	require.Equal(t, "fixed", got.Assignment)
	_, err = store.AddTenant(ctx, registry.Tenant{ID: "y"}, &registry.Assignment{Strategy: fixed{name: "z"}})
	require.ErrorContains(t, err, `strategy fixed chose shard "z", which was no candidate`)
	_, err = store.AddTenant(ctx, registry.Tenant{ID: "y"}, &registry.Assignment{Strategy: fixed{err: context.DeadlineExceeded}})
	require.ErrorIs(t, err, context.DeadlineExceeded)
	_, err = store.Tenant(ctx, "y")
	require.ErrorIs(t, err, resolver.ErrTenantNotFound)
	for _, name := range []string{"hash", "smallest", "smallest-bytes", "smallest-load"} {
		_, err := registry.StrategyByName(name)
		require.NoError(t, err)
	}
	_, err = registry.StrategyByName("roulette")
	require.ErrorIs(t, err, registry.ErrInvalid)
}

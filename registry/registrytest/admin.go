package registrytest

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sharded-pg/sharded-pg/registry"
)

// administration is what each store that can be changed does alike.
var administration = map[string]trial{
	"ShardsAreChangedFieldByField":             {mutable | anyShards, shardsAreChanged},
	"AShardWithTenantsIsNotRemoved":            {mutable | anyShards, shardInUse},
	"AddTenantChoosesByTheStrategy":            {mutable | anyShards, addTenantChooses},
	"AddTenantHonoursLimitsRegionsAndLabels":   {mutable | anyShards, addTenantHonoursLimits},
	"AddTenantSaysWhyNoShardFits":              {mutable | anyShards, addTenantSaysWhy},
	"AddTenantRefusesAnIDThatWasUsed":          {mutable | anyShards, addTenantRefusesUsedIDs},
	"HashMovesFewTenantsWhenAShardIsAdded":     {mutable | anyShards, hashMovesFew},
	"PreviewTenantsSaysWhatAddTenantDoes":      {mutable | anyShards, previewing},
	"AStrategyMayBeAnybodysButPicksACandidate": {mutable | anyShards, customStrategy},
	"RemovedTenantsAreNotRoutedAndComeBack":    {mutable, removeAndRestore},
	"APurgeNeedsADisabledTenantAndItsID":       {mutable, purgeIsGuarded},
	"OverridesReplaceLimitsUntilTheyExpire":    {mutable, overrides},
	"AThrottleIsAboveTheOverrideForAWhile":     {mutable, throttles},
	"SlugsChangeAndIDsDoNot":                   {mutable | strangers, slugs},
	"TenantsAreListedInPages":                  {mutable | anyShards, listing},
	"EachChangeIsRecordedWithItsActor":         {mutable | anyShards, auditing},
	"AFailedChangeLeavesNothing":               {mutable, failedChange},
	"ApplyChangesWhatDiffersAndSaysSo":         {mutable | anyShards, applying},
	"ApplyRefusesANewDSNUnlessTold":            {mutable | anyShards, applyingDSN},
	"ExportIsWhatApplyTakes":                   {mutable | anyShards, exporting},
	"OvercommitIsCountedWithNumbers":           {mutable | anyShards, overcommit},
	"WatchTenantsTellsOfEachTenantOnce":        {mutable | anyShards, watchTenants},
}

func info(t *testing.T, store Subject, id string) registry.TenantInfo {
	t.Helper()
	got, err := store.Tenant(t.Context(), id)
	require.NoError(t, err)
	return got
}

func shard(t *testing.T, store Subject, name string) registry.ShardInfo {
	t.Helper()
	shards, err := store.ListShards(t.Context())
	require.NoError(t, err)
	for _, s := range shards {
		if s.Name == name {
			return s
		}
	}
	require.FailNow(t, "no shard "+name)
	return registry.ShardInfo{}
}

func shardsAreChanged(t *testing.T, h Harness) {
	store, ctx := h.New(t, fleet()), t.Context()
	require.Equal(t, registry.ShardInfo{
		Shard: registry.Shard{
			Name: "s2", DSN: "host=s2 password=pa$$word", AdminDSN: "host=s2 user=admin",
			MaxTenants: registry.DefaultMaxTenants, State: registry.ShardOpen,
		}, Tenants: 3, Schemas: 2,
	}, shard(t, store, "s2"))
	reason := "the disk is nearly full: " + strings.Repeat("x", 475)
	require.NoError(t, store.SetShardState(ctx, "s2", registry.ShardFull, reason))
	log, err := store.Audit(ctx, registry.AuditFilter{Kind: "shard", Subject: "s2", Limit: 1})
	require.NoError(t, err)
	require.Equal(t, reason, log[0].Note)
	require.NoError(t, store.UpdateShard(ctx, "s2", func(s *registry.Shard) {
		s.Region, s.Labels, s.MaxTenants = "us", map[string]string{"tier": "gold"}, registry.UnlimitedTenants
	}))
	got := shard(t, store, "s2")
	require.Equal(t, registry.ShardFull, got.State)
	require.Equal(t, "us", got.Region)
	require.Equal(t, map[string]string{"tier": "gold"}, got.Labels)
	require.Empty(t, got.Warnings())

	require.ErrorIs(t, store.UpdateShard(ctx, "s2", func(s *registry.Shard) { s.DSN = "host=x" }), registry.ErrInvalid)
	require.ErrorIs(t, store.UpdateShard(ctx, "s2", func(s *registry.Shard) { s.MaxTenants = -1 }), registry.ErrInvalid)
	require.ErrorIs(t, store.UpdateShard(ctx, "s9", func(*registry.Shard) {}), registry.ErrShardNotFound)
	require.ErrorIs(t, store.SetShardState(ctx, "s2", "ajar", ""), registry.ErrInvalid)
	require.ErrorIs(t, store.SetShardDSN(ctx, "s2", "host=x", "", ""), registry.ErrInvalid, "no reason")
	require.ErrorIs(t, store.SetShardState(ctx, "s2", registry.ShardOpen, reason+"x"), registry.ErrInvalid, "no line that somebody reads")
	require.ErrorIs(t, store.SetShardState(ctx, "s2", registry.ShardOpen, "two\nlines"), registry.ErrInvalid)
	require.Equal(t, got, shard(t, store, "s2"))
}

func shardInUse(t *testing.T, h Harness) {
	store, ctx := h.New(t, fleet()), t.Context()
	require.NoError(t, store.PutShard(ctx, registry.Shard{Name: "s3", DSN: "host=s3"}))
	require.NoError(t, store.RemoveShard(ctx, "s3"))
	require.ErrorIs(t, store.RemoveShard(ctx, "s3"), registry.ErrShardNotFound)
	err := store.RemoveShard(ctx, "s2")
	require.ErrorIs(t, err, registry.ErrShardInUse)
	require.ErrorContains(t, err, "3 tenants")
	for _, id := range []string{"delta", uuid, "münchen"} {
		require.NoError(t, store.RemoveTenant(ctx, id))
	}
	require.ErrorIs(t, store.RemoveShard(ctx, "s2"), registry.ErrShardInUse, "the rows of removed tenants are there")
}

package registrytest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sharded-pg/sharded-pg/registry"
	"github.com/sharded-pg/sharded-pg/resolver"
)

func auditing(t *testing.T, h Harness) {
	store, ctx := h.New(t, fleet()), t.Context()
	alice := registry.WithActor(ctx, "alice")
	require.NoError(t, store.SetTenantPlan(alice, "acme", "growth"))
	require.NoError(t, store.SetTenantPlan(alice, "acme", "growth"), "no change, no entry")
	require.NoError(t, store.SetShardState(registry.WithActor(ctx, "bob\n"), "s2", registry.ShardDraining, "old hardware"))
	shard := fleet().Shards[0]
	shard.DSN = "host=s2 password=opensesame"
	shard.State = registry.ShardDraining
	require.NoError(t, store.PutShard(ctx, shard))

	require.NoError(t, store.RecordAction(alice, "acme", "kill", map[string]string{"cancelled": "4711"}, "a loop"))
	for _, refused := range []error{
		store.RecordAction(ctx, "acme", "two words", nil, ""),
		store.RecordAction(ctx, "acme", "kill", nil, "two\nlines"),
	} {
		require.ErrorIs(t, refused, registry.ErrInvalid)
	}
	require.ErrorIs(t, store.RecordAction(ctx, "nobody", "kill", nil, ""), resolver.ErrTenantNotFound)

	log, err := store.Audit(ctx, registry.AuditFilter{Limit: 4})
	require.NoError(t, err)
	require.Equal(t, registry.AuditEntry{
		ID: log[0].ID, At: log[0].At, Login: log[0].Login, Actor: "alice", Action: "kill", Kind: "tenant", Subject: "acme",
		After: map[string]any{"cancelled": "4711"}, Note: "a loop",
	}, log[0])
	log = log[1:]
	require.Equal(t, []string{"put_shard", "set_shard_state", "set_plan"}, []string{log[0].Action, log[1].Action, log[2].Action})
	require.Equal(t, "changed", log[0].After["dsn"])
	require.NotContains(t, fmt.Sprint(log), "opensesame")
	require.NotEmpty(t, log[0].Actor, "somebody")
	require.Equal(t, "bob?", log[1].Actor)
	require.Equal(t, "old hardware", log[1].Note)
	require.Equal(t, "open", log[1].Before["state"])
	require.Equal(t, "draining", log[1].After["state"])
	require.Equal(t, "alice", log[2].Actor)
	require.Equal(t, "free", log[2].Before["plan"])
	require.Equal(t, "growth", log[2].After["plan"])
	require.Equal(t, "acme", log[2].Subject)
	require.False(t, log[2].At.IsZero())

	older, err := store.Audit(ctx, registry.AuditFilter{Actor: "alice", Kind: "tenant", Subject: "acme", Before: log[1].ID})
	require.NoError(t, err)
	require.Len(t, older, 1)
	_, err = store.Audit(ctx, registry.AuditFilter{Limit: -1})
	require.ErrorIs(t, err, registry.ErrInvalid)
}

func failedChange(t *testing.T, h Harness) {
	store, ctx := h.New(t, fleet()), t.Context()
	before, err := store.Audit(ctx, registry.AuditFilter{})
	require.NoError(t, err)
	plan := registry.Plan{Name: "new", StatementTimeout: resolver.Unlimited, WorkMemKB: 64, MaxConns: 1, Weight: 1}
	_, err = store.Apply(ctx, registry.Fleet{
		Plans: []registry.Plan{plan},
		Tenants: []registry.Tenant{
			{ID: "a1", Shard: h.on("s1")}, {ID: "z", Shard: h.on("s2"), Model: resolver.ModelSchema, Schema: "tenant_delta", Role: "r"},
		},
	}, nil)
	require.ErrorIs(t, err, registry.ErrConflict)
	_, err = store.Tenant(ctx, "a1")
	require.ErrorIs(t, err, resolver.ErrTenantNotFound)
	plans, err := store.ListPlans(ctx)
	require.NoError(t, err)
	require.NotContains(t, plans, plan)
	after, err := store.Audit(ctx, registry.AuditFilter{})
	require.NoError(t, err)
	require.Equal(t, before, after)
	require.NoError(t, store.PutTenant(ctx, registry.Tenant{ID: "z", Shard: h.on("s2"), Model: resolver.ModelSchema, Role: "r"}), "its role was not left taken")
}

func applying(t *testing.T, h Harness) {
	store, ctx := h.New(t, fleet()), t.Context()
	f := fleet()
	f.Shards[0].Region = "us"
	f.Plans[1].MaxConns = 4
	f.Tenants[0].Plan = "growth"
	f.Tenants = append(f.Tenants[:5], registry.Tenant{ID: "new", Shard: "s1"})
	f.Tenants[1].State = ""
	dry, err := store.Apply(ctx, f, &registry.ApplyOptions{DryRun: true})
	require.NoError(t, err)
	require.Equal(t, "free", lookup(t, store, "acme").Plan.Name, "a dry run changes nothing")
	done, err := store.Apply(ctx, f, nil)
	require.NoError(t, err)
	require.Equal(t, dry, done)
	var lines []string
	for _, d := range done {
		lines = append(lines, d.String())
	}
	require.Equal(t, []string{
		`change shard "s2" region: (none) -> us`,
		`change plan "rated" max_conns: 3 -> 4`,
		`change tenant "acme" plan: free -> growth`,
		`add tenant "new" assignment=explicit, epoch=1, id=new, model=shared, plan=free, shard=s1, state=active`,
		`extra tenant "münchen"`,
	}, lines)
	require.Equal(t, resolver.StateReadOnly, lookup(t, store, "beta").State, "an empty state means: as it is")
	again, err := store.Apply(ctx, f, nil)
	require.NoError(t, err)
	require.Len(t, again, 1, "only what is extra is left")
	_, err = store.Apply(ctx, registry.Fleet{Tenants: []registry.Tenant{{ID: "a b"}, {ID: "acme", Shard: "s1"}, {ID: "acme", Shard: "s1"}}}, nil)
	require.ErrorContains(t, err, "listed twice")
	require.ErrorContains(t, err, "a b")
}

func applyingDSN(t *testing.T, h Harness) {
	store, ctx := h.New(t, fleet()), t.Context()
	f := registry.Fleet{Shards: []registry.Shard{{Name: "s2", DSN: "host=elsewhere password=opensesame", AdminDSN: "host=s2 user=admin"}}}
	_, err := store.Apply(ctx, f, nil)
	require.ErrorContains(t, err, "ChangeDSNs")
	require.NotContains(t, err.Error(), "opensesame")
	require.Equal(t, "host=s2 password=pa$$word", shard(t, store, "s2").DSN)
	done, err := store.Apply(ctx, f, &registry.ApplyOptions{ChangeDSNs: true})
	require.NoError(t, err)
	require.Equal(t, `change shard "s2" dsn: (none) -> changed`, done[0].String())
	require.Equal(t, f.Shards[0].DSN, shard(t, store, "s2").DSN)
}

func exporting(t *testing.T, h Harness) {
	f := fleet()
	store, ctx := h.New(t, f), t.Context()
	_, err := store.Export(ctx)
	require.ErrorContains(t, err, "has a password in its DSN")
	require.NotContains(t, err.Error(), "pa$$word")
	f.Shards[0].DSN = "host=s2 password=${S2}"
	_, err = store.Apply(ctx, f, &registry.ApplyOptions{ChangeDSNs: true})
	require.NoError(t, err)
	require.NoError(t, store.RemoveTenant(ctx, "münchen"))
	exported, err := store.Export(ctx)
	require.NoError(t, err)
	require.Len(t, exported.Tenants, 5)
	require.Equal(t, unexpandedDSN, exported.Shards[0].DSN, "references stay references")
	done, err := store.Apply(ctx, exported, nil)
	require.NoError(t, err)
	require.Empty(t, done)
	other := h.New(t, registry.Fleet{})
	_, err = other.Apply(ctx, exported, nil)
	require.NoError(t, err)
	again, err := other.Export(ctx)
	require.NoError(t, err)
	require.Equal(t, exported, again)
}

func overcommit(t *testing.T, h Harness) {
	store, ctx := h.New(t, fleet()), t.Context()
	require.NoError(t, store.SetOverride(ctx, "acme", &registry.Override{MaxConns: 9}))
	require.NoError(t, store.SetThrottle(ctx, "acme", &registry.Override{MaxConns: 7, Expires: time.Now().Add(time.Hour)}))
	require.NoError(t, store.UpdateShard(ctx, "s2", func(s *registry.Shard) {
		s.Labels = map[string]string{registry.SlotsLabel: "99", registry.MemoryLabel: "1GB"}
	}))
	got, err := store.Overcommit(ctx, map[string]registry.Capacity{"s2": {Slots: 20}})
	require.NoError(t, err)
	// s1: acme with 7 connections of 4 MB, beta with 3 of 100 kB, gamma with 1 of 64 kB. s2: delta with 100 of 256 MB, uuid
	// with 2 of 4 MB; münchen is disabled.
	require.Equal(t, []registry.Commitment{
		{Shard: "s1", Tenants: 3, MaxConns: 11, WorkMemKB: 7*4096 + 300 + 64},
		{Shard: "s2", Tenants: 2, MaxConns: 102, WorkMemKB: 100<<18 + 2*4096, Capacity: registry.Capacity{Slots: 20, MemoryKB: 1 << 20}},
	}, got)
	require.Empty(t, got[0].Warnings(), "what is not known is not compared")
	warnings := got[1].Warnings()
	require.Len(t, warnings, 2)
	require.Contains(t, warnings[0], "2 tenants may use 102 connections together, in each program, 5.1 times the 20 there are")
	require.Contains(t, warnings[1], "work_mem of statements that may run at once is 5021 MB, 4.9 times the 1024 MB there are")
	require.Contains(t, warnings[1], "lower work_mem")
	for label, values := range map[string][]string{
		registry.SlotsLabel:  {"0", "-1", "many", "1.5", "99999999999", "20MB"},
		registry.MemoryLabel: {"48", "0GB", "1.5GB", "lots", "GB", "9999999999TB"},
	} {
		for _, value := range values {
			err := store.UpdateShard(ctx, "s1", func(s *registry.Shard) { s.Labels = map[string]string{label: value} })
			require.ErrorIs(t, err, registry.ErrInvalid, "%s=%s", label, value)
			require.ErrorContains(t, err, "label "+label, value)
		}
	}
}

func forEach(t *testing.T, h Harness) {
	store := h.New(t, fleet())
	opts := &registry.EachOptions{Filter: registry.TenantFilter{Limit: 2}, Concurrency: 3}
	all, err := registry.ForEachTenant(t.Context(), store, opts, func(context.Context, registry.TenantInfo) error { return nil })
	require.NoError(t, err)
	slices.Sort(all.Done)
	require.Equal(t, []string{uuid, "acme", "beta", "delta", "gamma", "münchen"}, all.Done)

	boom := errors.New("boom")
	ctx, cancel := context.WithCancel(t.Context())
	opts = &registry.EachOptions{Filter: registry.TenantFilter{Limit: 1}}
	got, err := registry.ForEachTenant(ctx, store, opts, func(_ context.Context, tenant registry.TenantInfo) error {
		switch tenant.ID {
		case "acme":
			return boom
		case "beta":
			panic("bang")
		case "delta":
			cancel()
		}
		return nil
	})
	require.ErrorIs(t, err, boom)
	require.Equal(t, []string{uuid, "delta"}, got.Done)
	require.Equal(t, []string{"gamma", "münchen"}, got.NotTried)
	require.Equal(t, `2 tenants done, 2 failed, 2 not tried; the first: tenant "acme": boom`, err.Error())
	require.ErrorContains(t, got.Failed["beta"], "bang")

	opts = &registry.EachOptions{StopAfter: 2}
	got, err = registry.ForEachTenant(t.Context(), store, opts, func(context.Context, registry.TenantInfo) error { return boom })
	var partial *registry.PartialError
	require.ErrorAs(t, err, &partial)
	require.Len(t, got.Failed, 2)
	require.Len(t, got.NotTried, 4)
	_, err = registry.ForEachTenant(t.Context(), store, &registry.EachOptions{Concurrency: -1}, nil)
	require.ErrorIs(t, err, registry.ErrInvalid)
}

func watchTenants(t *testing.T, h Harness) {
	store := h.New(t, fleet())
	ctx, cancel := context.WithCancel(t.Context())
	events, ended := make(chan string, 100), make(chan error, 1)
	go func() {
		ended <- registry.WatchTenants(ctx, store, store, registry.TenantFilter{Shard: "s1"}, registry.TenantWatch{
			Started: func(tenant registry.TenantInfo) { events <- "+" + tenant.ID },
			Stopped: func(id string) { events <- "-" + id },
		})
	}()
	for _, id := range []string{"acme", "beta", "gamma"} {
		require.Equal(t, "+"+id, await(t, events))
	}
	for _, step := range []struct {
		event  string
		change func() error
	}{
		{"+new", func() error { return store.PutTenant(ctx, registry.Tenant{ID: "new", Shard: "s1"}) }},
		{"", func() error { return store.PutTenant(ctx, registry.Tenant{ID: "elsewhere", Shard: "s2"}) }},
		{"", func() error { return store.SetTenantPlan(ctx, "new", "growth") }},
		{"-new", func() error { return store.SetTenantState(ctx, "new", resolver.StateDisabled) }},
		{"+new", func() error { return store.SetTenantState(ctx, "new", resolver.StateReadOnly) }},
		{"", func() error { return store.PutShard(ctx, registry.Shard{Name: "s5", DSN: "host=s5"}) }},
		{"-new", func() error { return store.RemoveTenant(ctx, "new") }},
		{"+new", func() error { return store.RestoreTenant(ctx, "new") }},
		{"-new", func() error { return store.PutTenant(ctx, registry.Tenant{ID: "new", Shard: "s2"}) }},
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

package registry_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/sharded-pg/sharded-pg/internal/pgtest"
	"github.com/sharded-pg/sharded-pg/registry"
	"github.com/sharded-pg/sharded-pg/resolver"
)

func memory(t testing.TB, opts *registry.Options) *registry.Memory {
	t.Helper()
	store, err := registry.NewMemory(opts)
	require.NoError(t, err)
	return store
}

func TestAddShardTriesItsDSNs(t *testing.T) {
	server := pgtest.Shared(t, "registry")
	good := server.DSN("postgres", server.NewDatabase(t))
	t.Setenv("SHARDEDPG_TEST_DB_USER", "postgres")
	store, ctx := memory(t, nil), t.Context()
	for dsn, text := range map[string]string{
		"host=/nonexistent user=x password=opensesame":    "no connection",
		good + " user=nobody_here password=opensesame":    `role "nobody_here" does not exist`,
		good + " dbname=nowhere_at_all":                   "does not exist",
		"host=x password=opensesame sslmode=maybe":        "no PostgreSQL URL",
		good + " password=opensesame${SHARDEDPG_NOT_SET}": "SHARDEDPG_NOT_SET is not set",
	} {
		for field, shard := range map[string]registry.Shard{
			"dsn cannot":       {Name: "s1", DSN: dsn},
			"admin dsn cannot": {Name: "s1", DSN: good, AdminDSN: dsn},
		} {
			err := store.AddShard(ctx, shard)
			require.ErrorContains(t, err, text)
			require.ErrorContains(t, err, field)
			require.ErrorContains(t, err, `shard "s1"`)
			require.Equal(t, !strings.Contains(text, "not set"), strings.Contains(err.Error(), "check server, login and password"), err.Error())
			require.NotContains(t, err.Error(), "opensesame")
			require.NotContains(t, err.Error(), "/var/tmp", "parts of the DSN, as its socket")
		}
	}
	reference := good + " user=${SHARDEDPG_TEST_DB_USER} pool_max_conn_lifetime=30m" // what the driver takes in a DSN
	require.NoError(t, store.AddShard(ctx, registry.Shard{Name: "s1", DSN: reference}))
	require.ErrorIs(t, store.AddShard(ctx, registry.Shard{Name: "s1", DSN: good}), registry.ErrExists)
	infos, err := store.ListShards(ctx)
	require.NoError(t, err)
	require.Equal(t, reference, infos[0].DSN, "the reference is stored, not what it stands for")

	require.Error(t, store.SetShardDSN(ctx, "s1", "host=/nonexistent", "", "moved"))
	require.NoError(t, store.SetShardDSN(ctx, "s1", good, good, "moved"))
	log, err := store.Audit(ctx, registry.AuditFilter{Limit: 1})
	require.NoError(t, err)
	require.Equal(t, "set_shard_dsn", log[0].Action)
	require.Equal(t, "moved", log[0].Note)
	require.Equal(t, "changed", log[0].After["dsn"])
}

func TestAShardAboveItsSizeIsClosed(t *testing.T) {
	t.Parallel()
	server := pgtest.Shared(t, "registry")
	dsn := server.DSN("postgres", server.NewDatabase(t))
	store, ctx := memory(t, nil), t.Context()
	require.NoError(t, store.PutShard(ctx, registry.Shard{Name: "large", DSN: dsn, MaxBytes: 1 << 20}))
	require.NoError(t, store.PutShard(ctx, registry.Shard{Name: "roomy", DSN: dsn, MaxBytes: 1 << 50}))
	require.NoError(t, store.PutShard(ctx, registry.Shard{Name: "unknown", DSN: "host=/nonexistent", MaxBytes: 1 << 50}))
	previews, err := store.PreviewTenants(ctx, []registry.Tenant{{ID: "t0"}, {ID: "x", Shard: "large"}}, nil)
	require.NoError(t, err)
	require.Equal(t, "roomy", previews[0].Tenant.Shard)
	require.ErrorContains(t, previews[1].Err, "more than its max bytes")
	infos, err := store.ListShards(ctx)
	require.NoError(t, err)
	require.Equal(t, registry.ShardOpen, infos[0].State, "a preview closes no shard")
	for i := range 10 {
		got, err := store.AddTenant(ctx, registry.Tenant{ID: fmt.Sprintf("t%d", i)}, nil)
		require.NoError(t, err)
		require.Equal(t, "roomy", got.Shard)
	}
	infos, err = store.ListShards(ctx)
	require.NoError(t, err)
	require.Equal(t, registry.ShardFull, infos[0].State)
	require.Equal(t, registry.ShardOpen, infos[2].State, "not reached is not full")
	log, err := store.Audit(ctx, registry.AuditFilter{Kind: "shard", Subject: "large", Limit: 1})
	require.NoError(t, err)
	require.Contains(t, log[0].Note, "more than its max bytes 1048576")
	require.NoError(t, store.SetShardState(ctx, "roomy", registry.ShardFull, ""))
	_, err = store.AddTenant(ctx, registry.Tenant{ID: "x"}, nil)
	require.ErrorContains(t, err, "unknown: its size against max bytes could not be measured")
}

func TestSizersMeasureRealShards(t *testing.T) {
	t.Parallel()
	server := pgtest.Shared(t, "registry")
	shards := []registry.Shard{
		{Name: "here", DSN: server.DSN("postgres", "postgres")},
		{Name: "gone", DSN: "host=/nonexistent password=opensesame"},
	}
	for _, sizer := range []registry.Sizer{registry.Bytes{}, registry.Load{}} {
		sizes, err := sizer.Sizes(t.Context(), shards)
		require.ErrorContains(t, err, `shard "gone" was not measured`)
		require.NotContains(t, err.Error(), "opensesame")
		require.Len(t, sizes, 1)
		require.GreaterOrEqual(t, sizes["here"], 0.0)
	}
	sizes, err := registry.Bytes{}.Sizes(t.Context(), shards[:1])
	require.NoError(t, err)
	require.Greater(t, sizes["here"], 1e6)
}

func TestApplyAsksForNoTenantThatIsAsItShallBe(t *testing.T) {
	t.Parallel()
	dsn := newRegistry(t)
	store := open(t, dsn, nil)
	require.NoError(t, store.Init(t.Context()))
	fleet := registry.Fleet{
		Shards:  []registry.Shard{{Name: "s1", DSN: "host=s1"}},
		Tenants: []registry.Tenant{{ID: "same", Shard: "s1", Labels: map[string]string{"ring": "canary"}}, {ID: "other", Shard: "s1"}},
	}
	_, err := store.Apply(t.Context(), fleet, nil)
	require.NoError(t, err)
	require.NoError(t, store.SetTenantSlug(t.Context(), "same", "kept"))

	conn, err := pgx.Connect(t.Context(), dsn)
	require.NoError(t, err)
	defer conn.Close(context.Background())
	_, err = conn.Exec(t.Context(), `begin; select from sharded_pg.tenants where id = 'same' for update`)
	require.NoError(t, err)
	fleet.Tenants[1].Plan = "growth"
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	found, err := store.Apply(ctx, fleet, nil)
	require.NoError(t, err, "it waits for the row of a tenant that stays as it is")
	require.Len(t, found, 1)
	require.Equal(t, `change tenant "other" plan: free -> growth`, found[0].String())
}

func TestFirstSightAddsUnknownTenantsWhenAsked(t *testing.T) {
	t.Parallel()
	opts := &registry.Options{FirstSight: &registry.FirstSight{
		Tenant: registry.Tenant{Plan: "starter", Labels: map[string]string{"from": "first-sight"}},
		Where:  &registry.Assignment{Region: "eu"},
	}}
	schema := &registry.Options{FirstSight: &registry.FirstSight{Tenant: registry.Tenant{Model: resolver.ModelSchema}}}
	type store interface {
		Lookup(ctx context.Context, tenant string) (*resolver.Route, error)
	}
	dsn := newRegistry(t)
	inTables := open(t, dsn, opts)
	require.NoError(t, inTables.Init(t.Context()))
	inMemory := memory(t, opts)
	schemas := memory(t, schema)
	for name, c := range map[string]struct {
		store store
		admin *registry.Admin
	}{
		"postgres": {inTables, inTables.Admin}, "memory": {inMemory, inMemory.Admin}, "schema": {schemas, schemas.Admin},
	} {
		ctx := t.Context()
		_, err := c.store.Lookup(ctx, "early")
		require.ErrorIs(t, err, registry.ErrNoShardFits, name)
		require.NotErrorIs(t, err, resolver.ErrTenantNotFound, "it may work in a moment")
		require.NoError(t, c.admin.PutShard(ctx, registry.Shard{Name: "s1", DSN: "host=s1", Region: "eu"}))
		route, err := c.store.Lookup(ctx, "acme")
		require.NoError(t, err)
		if name == "schema" {
			require.Equal(t, resolver.StateProvisioning, route.State, "no DDL on the path of a query")
			_, err = c.store.Lookup(ctx, "a/*b")
			require.ErrorIs(t, err, resolver.ErrTenantNotFound, "it cannot become a schema")
			continue
		}
		require.Equal(t, resolver.StateActive, route.State)
		require.Equal(t, "starter", route.Plan.Name)
	}
	_, err := registry.NewMemory(&registry.Options{FirstSight: &registry.FirstSight{Tenant: registry.Tenant{ID: "x"}}})
	require.ErrorIs(t, err, registry.ErrInvalid)
}

func TestTwoProgramsMeetingOneTenantAgree(t *testing.T) {
	t.Parallel()
	opts := &registry.Options{FirstSight: &registry.FirstSight{}}
	dsn := newRegistry(t)
	first := open(t, dsn, opts)
	require.NoError(t, first.Init(t.Context()))
	for _, name := range []string{"a", "b", "c"} {
		require.NoError(t, first.PutShard(t.Context(), registry.Shard{Name: name, DSN: "host=" + name}))
	}
	for i := range 10 {
		id := fmt.Sprintf("t%d", i)
		routes := make(chan *resolver.Route, 4)
		for range cap(routes) {
			store := open(t, dsn, opts)
			go func() {
				route, err := store.Lookup(t.Context(), id)
				if err != nil {
					t.Error(err)
				}
				routes <- route
			}()
		}
		want := receive(t, routes)
		for range cap(routes) - 1 {
			require.Equal(t, want, receive(t, routes))
		}
	}
}

func TestChangesReachADriverWithinASecond(t *testing.T) {
	t.Parallel()
	dsn := newRegistry(t)
	operator, driver := open(t, dsn, nil), open(t, dsn, nil)
	ctx := t.Context()
	require.NoError(t, operator.Init(ctx))
	require.NoError(t, operator.PutShard(ctx, registry.Shard{Name: "s1", DSN: "host=s1"}))
	require.NoError(t, operator.PutTenant(ctx, registry.Tenant{ID: "acme", Shard: "s1"}))
	cache := resolver.NewCache(driver, resolver.CacheConfig{TTL: time.Hour, LookupTimeout: 10 * time.Second})
	t.Cleanup(func() { _ = cache.Close() })
	watching, stop := context.WithCancel(ctx)
	flushed, ended := make(chan struct{}, 100), make(chan error, 1)
	go func() {
		ended <- driver.Watch(watching, registry.Handler{Tenant: cache.Invalidate, Flush: func() { cache.Flush(); flushed <- struct{}{} }})
	}()
	t.Cleanup(func() { stop(); <-ended })
	receive(t, flushed)
	route := func() *resolver.Route {
		route, err := cache.Resolve(ctx, "acme")
		if err != nil {
			return &resolver.Route{}
		}
		return route
	}
	for _, step := range []struct {
		what   string
		change func() error
		seen   func() bool
	}{
		{"disabled", func() error { return operator.SetTenantState(ctx, "acme", resolver.StateDisabled) }, func() bool { return route().State == resolver.StateDisabled }},
		{"enabled", func() error { return operator.SetTenantState(ctx, "acme", resolver.StateActive) }, func() bool { return route().State == resolver.StateActive }},
		{"readonly", func() error { return operator.SetTenantState(ctx, "acme", resolver.StateReadOnly) }, func() bool { return route().State == resolver.StateReadOnly }},
		{"override", func() error { return operator.SetOverride(ctx, "acme", &registry.Override{MaxConns: 9}) }, func() bool { return route().Plan.MaxConns == 9 }},
		{"no override", func() error { return operator.SetOverride(ctx, "acme", nil) }, func() bool { return route().Plan.MaxConns == 2 }},
		{"plan", func() error {
			return operator.PutPlan(ctx, registry.Plan{Name: "free", StatementTimeout: time.Second, WorkMemKB: 64, MaxConns: 3, Weight: 1})
		}, func() bool { return route().Plan.MaxConns == 3 }},
		{"removed", func() error { return operator.RemoveTenant(ctx, "acme") }, func() bool { return route().Tenant == "" }},
	} {
		route() // in the cache, for an hour
		require.NoError(t, step.change())
		require.Eventually(t, step.seen, time.Second, time.Millisecond, step.what)
	}
}

func TestBeforeConnectIsAskedForEachConnection(t *testing.T) {
	t.Parallel()
	server := pgtest.Shared(t, "registry")
	database := server.NewDatabase(t)
	asked := 0
	var refuse error
	store := open(t, server.DSN("nobody_here", database), &registry.Options{MaxConns: 1, BeforeConnect: func(_ context.Context, cfg *pgx.ConnConfig) error {
		asked++
		cfg.User = "postgres" // as a password that rotates
		return refuse
	}})
	require.NoError(t, store.Init(t.Context()))
	require.Equal(t, 1, asked)
	require.NoError(t, server.Exec(t.Context(), "postgres",
		`select pg_terminate_backend(pid) from pg_stat_activity where datname = '`+database+`'`))
	_, err := store.Shards(t.Context())
	require.NoError(t, err)
	require.Equal(t, 2, asked)
	refuse = errors.New("the vault is sealed")
	require.NoError(t, server.Exec(t.Context(), "postgres",
		`select pg_terminate_backend(pid) from pg_stat_activity where datname = '`+database+`'`))
	_, err = store.Shards(t.Context())
	require.ErrorIs(t, err, refuse)
}

func TestListingStaysFastWithManyTenants(t *testing.T) {
	t.Parallel()
	dsn := newRegistry(t)
	store := open(t, dsn, nil)
	ctx := t.Context()
	require.NoError(t, store.Init(ctx))
	for i := range 8 {
		require.NoError(t, store.PutShard(ctx, registry.Shard{Name: fmt.Sprintf("s%d", i), DSN: "host=x", MaxTenants: registry.UnlimitedTenants}))
	}
	query[int](t, dsn, `insert into sharded_pg.tenants (id, shard, model, plan, state, labels)
 select 'tenant-' || lpad(i::text, 6, '0'), 's' || i % 8, 'shared', case when i % 1000 = 0 then 'enterprise' else 'free' end,
        case when i % 5000 = 0 then 'disabled' else 'active' end, case when i % 500 = 0 then '{"ring": "canary"}' else '{}' end::jsonb
   from generate_series(1, 100000) i`)
	query[int](t, dsn, `analyze sharded_pg.tenants`)
	for name, f := range map[string]registry.TenantFilter{
		"a page in the middle": {After: "tenant-050000", Limit: 100},
		"of a shard":           {Shard: "s3", After: "tenant-050000", Limit: 100},
		"of a rare plan":       {Plan: "enterprise", Limit: 100},
		"in a rare state":      {States: []resolver.State{resolver.StateDisabled}, Limit: 20},
		"with a label":         {Labels: map[string]string{"ring": "canary"}, Limit: 100},
	} {
		best := time.Hour
		for range 5 {
			start := time.Now()
			found, err := store.ListTenants(ctx, f)
			require.NoError(t, err)
			require.Len(t, found, f.Limit, name)
			best = min(best, time.Since(start))
		}
		t.Logf("%s: %v", name, best)
		require.Less(t, best, 100*time.Millisecond, name)
	}
	start := time.Now()
	got, err := store.AddTenant(ctx, registry.Tenant{ID: "one-more"}, nil)
	require.NoError(t, err)
	t.Logf("adding to %s: %v", got.Shard, time.Since(start))
}

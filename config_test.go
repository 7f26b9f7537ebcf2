package shardedpg_test

import (
	"context"
	"database/sql/driver"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/require"

	shardedpg "github.com/sharded-pg/sharded-pg"
	"github.com/sharded-pg/sharded-pg/resolver"
)

func TestParseDSNTakesItsOptionsOutAndLeavesTheRest(t *testing.T) {
	t.Parallel()
	all := shardedpg.Config{
		GUC: "my.tenant", RegistrySchema: "control", CacheSize: 5, CacheTTL: 3 * time.Second, LookupTimeout: time.Second, MaxConns: 7, TenantShare: 0.25, TenantQueue: 8, ShardQueue: 9, AcquireTimeout: time.Minute,
		TenantCase: shardedpg.TenantCaseLower, Guard: shardedpg.GuardStrict,
		GuardAllow: []string{"explain", "savepoint"}, Tag: true, SkipVerify: true,
	}
	with := func(dsn string) shardedpg.Config { c := all; c.DSN = dsn; return c }
	for name, c := range map[string]struct {
		dsn  string
		want shardedpg.Config
	}{
		"URL without options":         {"postgres://u:p@h:5433/d?sslmode=disable", shardedpg.Config{DSN: "postgres://u:p@h:5433/d?sslmode=disable"}},
		"URL without a query":         {"postgresql://h/d", shardedpg.Config{DSN: "postgresql://h/d"}},
		"keywords without options":    {"host=h dbname=d", shardedpg.Config{DSN: "host=h dbname=d"}},
		"one option only":             {"postgres://h/d?sharded_max_conns=9", shardedpg.Config{DSN: "postgres://h/d", MaxConns: 9}},
		"an encoded value":            {"postgres://h/d?sharded_guc=a%2Eb", shardedpg.Config{DSN: "postgres://h/d", GUC: "a.b"}},
		"a quoted value":              {"host=h sharded_guc='a.b'", shardedpg.Config{DSN: "host=h", GUC: "a.b"}},
		"an option inside a password": {"host=h password='x sharded_tag=on y'", shardedpg.Config{DSN: "host=h password='x sharded_tag=on y'"}},
		"all options in a URL": {
			"postgres://h/d?sharded_guc=my.tenant&application_name=x&sharded_schema=control&sharded_cache_size=5&sharded_cache_ttl=3s" +
				"&sharded_lookup_timeout=1s&sharded_max_conns=7&sharded_tenant_share=0.25&sharded_tenant_queue=8&sharded_shard_queue=9&sharded_acquire_timeout=1m&sharded_tenant_case=lower&sharded_guard=strict&sharded_guard_allow=explain,savepoint&sharded_tag=on" +
				"&sharded_verify=off&sslmode=disable", with("postgres://h/d?application_name=x&sslmode=disable"),
		},
		"all options in keywords": {
			"sharded_guc=my.tenant host=h sharded_schema=control sharded_cache_size=5 sharded_cache_ttl=3s sharded_lookup_timeout=1s " +
				"sharded_max_conns=7 sharded_tenant_share=0.25 sharded_tenant_queue=8 sharded_shard_queue=9 sharded_acquire_timeout=1m sharded_tenant_case=lower sharded_guard=strict sharded_guard_allow='EXPLAIN, savepoint' sharded_tag=on sharded_verify=off dbname=d",
			with("host=h dbname=d"),
		},
		"explicit defaults": {
			"host=h sharded_tag=off sharded_verify=on sharded_guard=default sharded_tenant_case=exact",
			shardedpg.Config{DSN: "host=h", Guard: shardedpg.GuardDefault, TenantCase: shardedpg.TenantCaseExact},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got, err := shardedpg.ParseDSN(c.dsn)
			require.NoError(t, err)
			require.Equal(t, c.want, got)
		})
	}
}

func TestBadDSNsSayWhatIsWrongAndDoNotRepeatThemselves(t *testing.T) {
	t.Parallel()
	for dsn, want := range map[string]string{
		"postgres://u:" + secretPassword + "@h:x:y/d":                         "not a PostgreSQL connection string",
		"host=h password=" + secretPassword + " port=nonsense":                "not a PostgreSQL connection string",
		"postgres://u:" + secretPassword + "@h/d?sharded_colour=red":          "unknown option sharded_colour",
		"host=h password=" + secretPassword + " sharded_fence=on":             "unknown option sharded_fence",
		"postgres://u:" + secretPassword + "@h/d?sharded_max_conns=0":         "not a positive number",
		"postgres://u:" + secretPassword + "@h/d?sharded_max_conns=many":      "not a positive number",
		"postgres://u:" + secretPassword + "@h/d?sharded_cache_size=-1":       "not a positive number",
		"postgres://u:" + secretPassword + "@h/d?sharded_cache_ttl=60":        "not a positive duration",
		"postgres://u:" + secretPassword + "@h/d?sharded_cache_ttl=-1s":       "not a positive duration",
		"postgres://u:" + secretPassword + "@h/d?sharded_lookup_timeout=150":  "not a positive duration",
		"postgres://u:" + secretPassword + "@h/d?sharded_acquire_timeout=x":   "not a positive duration",
		"postgres://u:" + secretPassword + "@h/d?sharded_acquire_timeout=0s":  "not a positive duration",
		"postgres://u:" + secretPassword + "@h/d?sharded_tag=yes":             "not on or off",
		"postgres://u:" + secretPassword + "@h/d?sharded_verify=maybe":        "not on or off",
		"postgres://u:" + secretPassword + "@h/d?sharded_guc=%zz":             "not URL-encoded",
		"postgres://u:" + secretPassword + "@h/d?sharded_":                    "unknown option sharded_",
		"host=h password='" + secretPassword + " sharded_max_conns=1":         "not a PostgreSQL connection string",
		"postgres://u:" + secretPassword + "@h/d?sslmode=nonsense":            "not a PostgreSQL connection string",
		"postgres://u:" + secretPassword + "@h/d?sharded_x=1&sharded_tag=yes": "sharded_tag",
	} {
		_, err := shardedpg.ParseDSN(dsn)
		require.ErrorContains(t, err, want, dsn)
		require.True(t, strings.HasPrefix(err.Error(), "shardedpg: config: "), err.Error())
		require.NotContains(t, err.Error(), secretPassword)
	}
}

func TestBadDSNsNameTheOptionOrTheFile(t *testing.T) {
	t.Parallel()
	for dsn, want := range map[string]string{
		"sslmode=verify-full sslrootcert=/no/such/ca.pem": "open /no/such/ca.pem: no such file",
		"sslmode=nonsense":                 "sslmode is invalid",
		"connect_timeout=2s":               "invalid connect_timeout",
		"default_query_exec_mode=extended": "invalid default_query_exec_mode",
	} {
		_, err := shardedpg.ParseDSN("host=h password=" + secretPassword + " " + dsn)
		require.ErrorContains(t, err, want)
		require.NotContains(t, err.Error(), secretPassword)
	}
}

func TestNewConnectorReportsAllProblemsAtOnce(t *testing.T) {
	t.Parallel()
	_, err := shardedpg.NewConnector(shardedpg.Config{
		GUC: "tenant", TenantCase: "camel", Guard: "paranoid", GuardAllow: []string{"explain", "set"}, CacheSize: -1, MaxConns: -1, CacheTTL: -1, TenantShare: 1.5,
	})
	for _, want := range []string{
		"no registry", "tenant setting \"tenant\"", "\"camel\"", "\"paranoid\"", "\"set\" is not among the words that can be allowed: abort, analyze",
		"cache size, max conns and queues", "tenant share 1.5", "durations",
	} {
		require.ErrorContains(t, err, want)
	}
	_, err = shardedpg.NewConnector(shardedpg.Config{Store: &memoryStore{}, GuardAllow: []string{"explain"}})
	require.ErrorContains(t, err, "set sharded_guard=strict")
	for _, name := range []string{"", "app", "App.tenant", "app.tenant; select", "app.", ".x", "app.te nant", "app.'x", strings.Repeat("a", 60) + ".tenant"} {
		if name == "" {
			continue
		}
		_, err := shardedpg.NewConnector(shardedpg.Config{GUC: name, Store: &memoryStore{}})
		require.ErrorContains(t, err, "custom parameter", name)
	}
	_, err = shardedpg.NewConnector(shardedpg.Config{DSN: "host=h password='" + secretPassword})
	require.Error(t, err)
	require.NotContains(t, err.Error(), secretPassword)
}

func TestConfigIsPrintedWithoutItsDSN(t *testing.T) {
	t.Parallel()
	cfg, err := shardedpg.ParseDSN("postgres://u:" + secretPassword + "@h/d")
	require.NoError(t, err)
	for _, form := range []string{"%v", "%+v", "%#v", "%s"} {
		require.NotContains(t, fmt.Sprintf(form, cfg), secretPassword, form)
		require.NotContains(t, fmt.Sprintf(form, &cfg), secretPassword, form)
	}
}

func TestBeforeConnectIsAskedForEachConnectionOfAShard(t *testing.T) {
	t.Parallel()
	var asked atomic.Int64
	var sealed atomic.Bool
	f := newFleet(t, fleetOptions{config: func(c *shardedpg.Config) {
		c.MaxConns = 3
		c.BeforeConnect = func(_ context.Context, shard string, cc *pgx.ConnConfig) error {
			if sealed.Load() {
				return errors.New("the vault is sealed")
			}
			asked.Add(1)
			cc.RuntimeParams["application_name"] = fmt.Sprintf("%s %d", shard, asked.Load()) // as a password that rotates
			return nil
		}
	}})
	first := f.begin(f.a)
	for range 2 {
		require.Equal(t, "s1 1", value[string](t, f.a, first, "show application_name"))
	}
	require.Equal(t, "s1 2", value[string](t, f.a, f.db, "show application_name"), "another one asks again")
	second := f.begin(f.a)
	require.Equal(t, "s1 2", value[string](t, f.a, second, "show application_name"), "what is there goes on")
	sealed.Store(true)
	_, err := f.db.ExecContext(f.a, "select 1")
	require.ErrorIs(t, err, shardedpg.ErrShardUnavailable)
	require.ErrorContains(t, err, "BeforeConnect: the vault is sealed")
}

func TestAConnectionIsMadeToItsEndWithoutItsCaller(t *testing.T) {
	t.Parallel()
	begun, goOn := make(chan struct{}, 10), make(chan struct{})
	f := newFleet(t, fleetOptions{config: func(c *shardedpg.Config) {
		c.BeforeConnect = func(ctx context.Context, _ string, _ *pgx.ConnConfig) error {
			begun <- struct{}{}
			<-goOn
			return ctx.Err()
		}
	}})
	ctx, cancel := context.WithCancel(f.a)
	failed := make(chan error, 1)
	go func() { failed <- f.db.PingContext(ctx) }()
	<-begun
	cancel()
	err := <-failed
	require.ErrorIs(t, err, context.Canceled)
	slots := f.slots()
	require.Equal(t, 1, slots.Used, "the server may be at work for it")

	short, cancel := context.WithTimeout(f.b, 20*time.Millisecond)
	defer cancel()
	require.ErrorIs(t, f.db.PingContext(short), context.DeadlineExceeded)
	require.Empty(t, begun, "there is one slot, and one connection being made")
	close(goOn)
	f.requireNotes(f.b, f.db, notesOfB)
	backends := f.connector.Stats().Shards[0].Backends
	require.EqualValues(t, 1, backends.Connects)
	require.Zero(t, backends.ConnectErrors)
	require.Equal(t, 1, backends.Open)
}

func TestBeforeConnectCanNeitherChangeTheDatabaseNorBringStatementsBack(t *testing.T) {
	t.Parallel()
	for want, hook := range map[string]func(cc *pgx.ConnConfig) error{
		"it must not change the database": func(cc *pgx.ConnConfig) error { cc.Database = "postgres"; return nil },
		"driver: bad connection":          func(*pgx.ConnConfig) error { return driver.ErrBadConn },
	} {
		asked := 0
		f := newFleet(t, fleetOptions{config: func(c *shardedpg.Config) {
			c.BeforeConnect = func(_ context.Context, _ string, cc *pgx.ConnConfig) error { asked++; return hook(cc) }
		}})
		_, err := f.db.ExecContext(f.a, "select 1")
		require.ErrorIs(t, err, shardedpg.ErrShardUnavailable)
		require.ErrorContains(t, err, "BeforeConnect: "+want)
		require.NotErrorIs(t, err, driver.ErrBadConn)
		require.Equal(t, 1, asked, want)
	}
}

func TestConfigureConnAdjustsTheConnectionsOfAShard(t *testing.T) {
	t.Parallel()
	f := newFleet(t, fleetOptions{config: func(c *shardedpg.Config) {
		c.ConfigureConn = func(shard string, cc *pgx.ConnConfig) error {
			cc.RuntimeParams["application_name"] = "configured for " + shard
			return nil
		}
	}})
	require.Equal(t, "configured for s1", value[string](t, f.a, f.db, "show application_name"))
	require.Equal(t, "configured for s1", value[string](t, f.b, f.db, "show application_name"))

	f = newFleet(t, fleetOptions{config: func(c *shardedpg.Config) {
		c.ConfigureConn = func(string, *pgx.ConnConfig) error { return fmt.Errorf("no certificate") }
	}})
	_, err := f.db.ExecContext(f.a, "select 1")
	require.ErrorContains(t, err, "no certificate")
}

func TestShardDSNsTakePgxParametersAndRuntimeParameters(t *testing.T) {
	t.Parallel()
	f := newFleet(t, fleetOptions{dsn: "default_query_exec_mode=cache_describe statement_cache_capacity=10 description_cache_capacity=10 " +
		"pool_max_conns=3 pool_max_conn_lifetime=1h TimeZone=Asia/Tokyo statement_timeout=1"})
	for range 2 {
		require.Equal(t, "Asia/Tokyo", value[string](t, f.a, f.db, "show timezone"))
		require.Equal(t, "Asia/Tokyo", value[string](t, f.b, f.db, "show timezone"))
		require.Equal(t, "30s", value[string](t, f.b, f.db, "show statement_timeout"), "the plan decides")
		f.requireOwnRows()
	}
}

func TestTenantsTravelInTheContext(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	_, ok := shardedpg.TenantFrom(ctx)
	require.False(t, ok)
	a := shardedpg.WithTenant(ctx, "a")
	id, ok := shardedpg.TenantFrom(a)
	require.True(t, ok)
	require.Equal(t, "a", id)
	require.Equal(t, a, shardedpg.WithTenant(a, "a"))
	clash := shardedpg.WithTenant(a, "b")
	_, ok = shardedpg.TenantFrom(clash)
	require.False(t, ok)
	_, ok = shardedpg.TenantFrom(shardedpg.WithTenant(clash, "a"))
	require.False(t, ok, "a clash is not healed by naming one of the two")
	id, ok = shardedpg.TenantFrom(shardedpg.SwitchTenant(clash, "c"))
	require.True(t, ok)
	require.Equal(t, "c", id)
}

func FuzzParseDSN(f *testing.F) {
	for _, dsn := range []string{
		"", "postgres://u:p@h:5433/d?sharded_guc=a.b&sslmode=disable", "host=h password='a b' sharded_max_conns=3", "postgres://?", "=",
		"host='", `host=a\ b`, "postgres://h/d?sharded_tag=on&&sharded_tag=%", "host = h sharded_tag = on", "sharded_x='a b'",
	} {
		f.Add(dsn)
	}
	f.Fuzz(func(t *testing.T, dsn string) {
		const secret = "kJh7GfDsA"
		cfg, err := shardedpg.ParseDSN(dsn)
		if err == nil {
			// What is left is what pgx reads, and parsing it again finds no option of ours.
			_, err := pgconn.ParseConfig(cfg.DSN)
			if err != nil && !strings.Contains(cfg.DSN, "pool_") && !strings.Contains(cfg.DSN, "cache") && !strings.Contains(cfg.DSN, "exec_mode") {
				t.Fatalf("%q left %q, which pgx refuses: %v", dsn, cfg.DSN, err)
			}
			again, err := shardedpg.ParseDSN(cfg.DSN)
			require.NoError(t, err)
			require.Equal(t, shardedpg.Config{DSN: cfg.DSN}, again)
		}
		if _, err := shardedpg.ParseDSN("postgres://u:" + secret + "@" + dsn); err != nil {
			require.NotContains(t, err.Error(), secret)
		}
	})
}

func FuzzTenantID(f *testing.F) {
	for _, id := range append([]string{"acme", "ünï"}, invalidTenants...) {
		f.Add(id)
	}
	connector, err := shardedpg.NewConnector(shardedpg.Config{Store: &memoryStore{}})
	require.NoError(f, err)
	f.Cleanup(func() { _ = connector.Close() })
	f.Fuzz(func(t *testing.T, id string) {
		ctx := shardedpg.WithTenant(t.Context(), id)
		got, ok := shardedpg.TenantFrom(ctx)
		require.True(t, ok)
		require.Equal(t, id, got)
		conn, err := connector.Connect(ctx)
		require.NoError(t, err)
		err = conn.(*shardedpg.Conn).Ping(ctx)
		want := shardedpg.ErrTenantNotFound
		if resolver.ValidTenantID(id) != nil {
			want = shardedpg.ErrInvalidTenant
		}
		require.ErrorIs(t, err, want)
		require.Less(t, len(err.Error()), 700)
		require.NotContains(t, err.Error(), "\x00")
		require.NoError(t, conn.Close())
	})
}

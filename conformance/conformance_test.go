package conformance_test

import (
	"context"
	"database/sql"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	_ "github.com/jackc/pgx/v5/stdlib"
	"github.com/stretchr/testify/require"

	shardedpg "github.com/sharded-pg/sharded-pg"
	"github.com/sharded-pg/sharded-pg/conformance"
	"github.com/sharded-pg/sharded-pg/internal/pgtest"
	"github.com/sharded-pg/sharded-pg/registry"
	"github.com/sharded-pg/sharded-pg/resolver"
	"github.com/sharded-pg/sharded-pg/rls"
	"github.com/sharded-pg/sharded-pg/rls/policy"
)

// One run instead of all, for looking at one server, pooler and execution mode.
var (
	pooler = flag.String("conformance.pooler", "", "one run only: direct, session, transaction or prepared (transaction, by a PgBouncer that follows prepared statements)")
	major  = flag.Int("conformance.major", 0, "of the server of that run; 0: the newest installed")
	mode   = flag.String("conformance.mode", "", "default_query_exec_mode of that run")
)

func TestMain(m *testing.M) { os.Exit(pgtest.Main(m)) }

func TestConformance(t *testing.T) {
	if testing.Short() {
		t.Skip("needs servers; run without -short")
	}
	if *pooler != "" {
		r := newRig(t, *major, *pooler, *mode)
		conformance.Run(t, r.harness)
		r.logVersions(t)
		return
	}
	majors, err := pgtest.Majors(t.Context())
	require.NoError(t, err)
	oldest, newest := slices.Min(majors), slices.Max(majors)
	for _, m := range slices.Compact([]int{oldest, newest}) {
		t.Run(fmt.Sprintf("PostgreSQL %d direct", m), func(t *testing.T) {
			t.Parallel()
			conformance.Run(t, newRig(t, m, "direct", "").harness)
		})
		t.Run(fmt.Sprintf("PostgreSQL %d behind PgBouncer", m), func(t *testing.T) {
			t.Parallel()
			conformance.Run(t, newRig(t, m, "transaction", "exec").harness)
		})
	}
	t.Run("signed direct", func(t *testing.T) {
		t.Parallel()
		conformance.Run(t, newRig(t, newest, "direct", "").signed(t))
	})
	t.Run("signed behind PgBouncer", func(t *testing.T) {
		t.Parallel()
		conformance.Run(t, newRig(t, newest, "transaction", "exec").signed(t))
	})
}

// rig is this repository's driver on a server of its own, the way the suite wants it.
type rig struct {
	server     *pgtest.Server
	home, away string // databases
	proxy      *pgtest.Proxy
	harness    conformance.Harness

	prepared bool // the pooler is one that follows prepared statements

	keys   string    // the key file of signed tenants; "" for plain ones
	policy sync.Once // makes policies signed when the suite has made its tables

	mu       sync.Mutex
	bouncers map[int]*pgtest.Bouncer // by pool size
}

// newRig makes a rig whose pooler is named as by the flag conformance.pooler.
func newRig(t *testing.T, major int, pooler, mode string) *rig {
	t.Helper()
	kind, ok := map[string]conformance.Pooler{
		"direct": conformance.Direct, "session": conformance.SessionPooling,
		"transaction": conformance.TransactionPooling, "prepared": conformance.TransactionPooling,
	}[pooler]
	require.True(t, ok, "there is no pooler %q", pooler)
	server, err := pgtest.Start(t.Context(), pgtest.Options{Name: "conformance", Major: major})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, server.Stop()) })
	require.NoError(t, server.Exec(t.Context(), "postgres", "create role app login noinherit", "create database home", "create database away"))
	r := &rig{server: server, home: "home", away: "away", prepared: pooler == "prepared", bouncers: map[int]*pgtest.Bouncer{}}
	t.Cleanup(func() {
		for _, b := range r.bouncers {
			require.NoError(t, b.Stop())
		}
	})
	admin := func(database string) *sql.DB {
		db, err := sql.Open("pgx", server.DSN("postgres", database))
		require.NoError(t, err)
		t.Cleanup(func() { _ = db.Close() })
		return db
	}
	r.harness = conformance.Harness{
		Open: r.open, A: "acme", B: "globex", C: "elsewhere",
		Home: admin(r.home), Away: admin(r.away), Login: "app", ExecMode: mode, Pooler: kind,
		Limited:  conformance.Limited{Tenant: "limited", StatementTimeout: 200 * time.Millisecond, WorkMemKB: 1 << 10},
		First:    conformance.SchemaTenant{Tenant: "first", Schema: "tenant_first", Role: "tenant_first"},
		Second:   conformance.SchemaTenant{Tenant: "second", Schema: "tenant_second", Role: "tenant_second"},
		Missing:  conformance.SchemaTenant{Tenant: "missing", Schema: "tenant_missing", Role: "tenant_missing"},
		Disabled: "disabled", ReadOnly: "readonly",
		Cut: r.cut,
	}
	if r.prepared && (mode == "" || mode == "cache_statement") {
		r.harness.Exclude = map[string]string{"schema changes": "PgBouncer keeps the statement that the server has for a text, " +
			"however often a client prepares it anew, until its administrator reconnects"}
	}
	return r
}

// signed makes the rig one of signed tenants.
func (r *rig) signed(t *testing.T) conformance.Harness {
	t.Helper()
	r.keys = filepath.Join(t.TempDir(), "keys")
	require.NoError(t, os.WriteFile(r.keys, []byte("1 "+strings.Repeat("a1", 32)), 0o600))
	r.harness.Exclude = map[string]string{
		"isolation/the fixture can fail":                    "the setting alone shows nothing here: that is what the database is signed for",
		"policies/without a tenant there is nothing to see": "the same: it sets a tenant by hand",
		"sessions/roles end with the checkout":              "the generator's policies are for the login, and not for other roles that it becomes",
	}
	return r.harness
}

// sign replaces the policies of the suite's tables.
func (r *rig) sign(t testing.TB, database string) {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), r.server.DSN("postgres", database))
	require.NoError(t, err)
	defer func() { _ = conn.Close(context.Background()) }()
	keys, _, err := rls.ReadKeyFile(r.keys)
	require.NoError(t, err)
	config := policy.Config{
		App: "app", Owner: "conformance_owner", Identity: policy.Signed, DropPolicies: true, KeepTemp: true,
		Tables: []string{"public.orders", "public.orders_id_seq", "public.customers", "public.events"},
	}
	_, err = policy.InstallKeys(t.Context(), conn, config, []*rls.ShardKey{keys[0].For(database)}, nil)
	require.NoError(t, err)
	_, err = policy.Apply(t.Context(), conn, config, nil)
	require.NoError(t, err)
	_, err = conn.Exec(t.Context(), "grant usage on sequence orders_id_seq to app")
	require.NoError(t, err)
}

// logVersions tells what the run was on, in a line that internal/matrix reads.
func (r *rig) logVersions(t *testing.T) {
	t.Helper()
	var version string
	require.NoError(t, r.harness.Home.QueryRowContext(t.Context(), "show server_version").Scan(&version))
	version, _, _ = strings.Cut(version, " ") // distributions add their own
	line := "on: PostgreSQL " + version
	for _, b := range r.bouncers {
		line += ", PgBouncer " + b.Version()
		break
	}
	t.Log(line)
}

// upstream is what the driver connects to: the server, or a pooler with as many connections as the driver may use.
func (r *rig) upstream(t testing.TB, conns int) pgtest.Upstream {
	t.Helper()
	if r.harness.Pooler == conformance.Direct {
		return r.server
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.bouncers[conns] == nil {
		b, err := pgtest.StartBouncer(t.Context(), r.server,
			pgtest.BouncerOptions{Mode: string(r.harness.Pooler), PoolSize: conns, Prepared: r.prepared})
		require.NoError(t, err)
		r.bouncers[conns] = b
	}
	return r.bouncers[conns]
}

func (r *rig) cut(t testing.TB, down bool) {
	t.Helper()
	r.proxy.Refuse(down)
	r.proxy.Cut()
}

func (r *rig) open(t testing.TB, o conformance.Options) *sql.DB {
	t.Helper()
	up := r.upstream(t, o.Conns)
	if o.Breakable {
		proxy, err := pgtest.StartProxy(t.Context(), up)
		require.NoError(t, err)
		t.Cleanup(func() { require.NoError(t, proxy.Stop()) })
		r.proxy, up = proxy, proxy
	}
	dsn := func(database string) string {
		text := up.(interface {
			DSN(user, database string) string
		}).DSN("app", database)
		if o.ExecMode != "" {
			text += " default_query_exec_mode=" + o.ExecMode
		}
		return text
	}
	var store registry.Store = r.registry(t, dsn(r.home), dsn(r.away), o.Rate)
	if o.RegistryDown {
		store = unreachable{store}
	}
	if r.keys != "" {
		r.policy.Do(func() {
			r.sign(t, r.home)
			r.sign(t, r.away)
		})
	}
	connector, err := shardedpg.NewConnector(shardedpg.Config{
		Store: store, MaxConns: o.Conns, TenantShare: 1, AcquireTimeout: o.AcquireTimeout, Signed: r.keys != "", KeyFile: r.keys,
	})
	require.NoError(t, err)
	return sql.OpenDB(connector)
}

func (r *rig) registry(t testing.TB, home, away string, rate float64) *registry.Static {
	t.Helper()
	h := &r.harness
	schema := func(s conformance.SchemaTenant) registry.Tenant {
		return registry.Tenant{ID: s.Tenant, Shard: "home", Plan: "roomy", Model: resolver.ModelSchema, Schema: s.Schema, Role: s.Role}
	}
	store, err := registry.NewStatic(registry.Fleet{
		Shards: []registry.Shard{{Name: "home", DSN: home}, {Name: "away", DSN: away}},
		Plans: []registry.Plan{
			{Name: "roomy", StatementTimeout: 30 * time.Second, WorkMemKB: 16 << 10, MaxConns: 100, Weight: 1, Rate: rate},
			{Name: "tight", StatementTimeout: h.Limited.StatementTimeout, WorkMemKB: h.Limited.WorkMemKB, MaxConns: 100, Weight: 1},
		},
		Tenants: []registry.Tenant{
			{ID: h.A, Shard: "home", Plan: "roomy"},
			{ID: h.B, Shard: "home", Plan: "roomy"},
			{ID: h.C, Shard: "away", Plan: "roomy"},
			{ID: h.Limited.Tenant, Shard: "home", Plan: "tight"},
			{ID: h.Disabled, Shard: "home", Plan: "roomy", State: resolver.StateDisabled},
			{ID: h.ReadOnly, Shard: "home", Plan: "roomy", State: resolver.StateReadOnly},
			schema(h.First), schema(h.Second), schema(h.Missing),
		},
	})
	require.NoError(t, err)
	return store
}

// unreachable is a registry that nobody answers for.
type unreachable struct{ registry.Store }

func (unreachable) Lookup(context.Context, string) (*resolver.Route, error) {
	return nil, errors.New("no route to host")
}

package otelshard_test

import (
	"database/sql"
	"strings"
	"testing"
	"time"

	_ "github.com/jackc/pgx/v5/stdlib"
	"github.com/stretchr/testify/require"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"

	shardedpg "github.com/sharded-pg/sharded-pg"
	"github.com/sharded-pg/sharded-pg/conformance"
	otelshard "github.com/sharded-pg/sharded-pg/integrations/otel"
	"github.com/sharded-pg/sharded-pg/internal/pgtest"
	"github.com/sharded-pg/sharded-pg/registry"
	"github.com/sharded-pg/sharded-pg/resolver"
)

// What is traced behaves as the driver does, and every span that begins ends.
func TestConformance(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("the whole suite; run without -short")
	}
	server, err := pgtest.Start(t.Context(), pgtest.Options{Name: "conformance"})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, server.Stop()) })
	require.NoError(t, server.Exec(t.Context(), "postgres", "create role app login noinherit", "create database home", "create database away"))
	admin := func(database string) *sql.DB {
		db, err := sql.Open("pgx", server.DSN("postgres", database))
		require.NoError(t, err)
		t.Cleanup(func() { _ = db.Close() })
		return db
	}
	spans := tracetest.NewSpanRecorder()
	h := conformance.Harness{
		A: "acme", B: "globex", C: "elsewhere", Home: admin("home"), Away: admin("away"), Login: "app", Pooler: conformance.Direct,
		Limited:  conformance.Limited{Tenant: "limited", StatementTimeout: 200 * time.Millisecond, WorkMemKB: 1 << 10},
		First:    conformance.SchemaTenant{Tenant: "first", Schema: "tenant_first", Role: "tenant_first"},
		Second:   conformance.SchemaTenant{Tenant: "second", Schema: "tenant_second", Role: "tenant_second"},
		Missing:  conformance.SchemaTenant{Tenant: "missing", Schema: "tenant_missing", Role: "tenant_missing"},
		Disabled: "disabled", ReadOnly: "readonly",
		Exclude: map[string]string{
			"network": "connections that break are the driver's business, below what is traced",
			"errors":  "the same errors, and a registry to take away",
		},
	}
	h.Open = func(t testing.TB, o conformance.Options) *sql.DB {
		t.Helper()
		dsn := func(database string) string {
			text := server.DSN("app", database)
			if o.ExecMode != "" {
				text += " default_query_exec_mode=" + o.ExecMode
			}
			return text
		}
		schema := func(s conformance.SchemaTenant) registry.Tenant {
			return registry.Tenant{ID: s.Tenant, Shard: "home", Plan: "roomy", Model: resolver.ModelSchema, Schema: s.Schema, Role: s.Role}
		}
		store, err := registry.NewStatic(registry.Fleet{
			Shards: []registry.Shard{{Name: "home", DSN: dsn("home")}, {Name: "away", DSN: dsn("away")}},
			Plans: []registry.Plan{
				{Name: "roomy", StatementTimeout: 30 * time.Second, WorkMemKB: 16 << 10, MaxConns: 100, Weight: 1, Rate: o.Rate},
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
		connector, err := otelshard.NewConnector(
			shardedpg.Config{Store: store, MaxConns: o.Conns, TenantShare: 1, AcquireTimeout: o.AcquireTimeout},
			otelshard.Options{TracerProvider: sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(spans)), Tenants: true, Statements: true})
		require.NoError(t, err)
		return sql.OpenDB(connector)
	}
	conformance.Run(t, h)

	open := map[string]int{}
	for _, s := range spans.Started() {
		open[s.SpanContext().SpanID().String()]++
	}
	require.Greater(t, len(open), 1000)
	for _, s := range spans.Ended() {
		delete(open, s.SpanContext().SpanID().String())
	}
	var left []string
	for _, s := range spans.Started() {
		if open[s.SpanContext().SpanID().String()] > 0 {
			left = append(left, strings.Join(strings.Fields(s.Name()+" "+attributesOf(s.Attributes())["db.query.text"]), " "))
		}
	}
	require.Empty(t, left, "spans that never ended")
}

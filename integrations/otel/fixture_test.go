package otelshard_test

import (
	"context"
	"database/sql"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/otel/attribute"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"

	shardedpg "github.com/sharded-pg/sharded-pg"
	otelshard "github.com/sharded-pg/sharded-pg/integrations/otel"
	"github.com/sharded-pg/sharded-pg/internal/pgtest"
	"github.com/sharded-pg/sharded-pg/registry"
)

func TestMain(m *testing.M) { os.Exit(pgtest.Main(m)) }

// password is in the connection string of a shard that is not there. Nothing that is recorded may hold it.
const password = "hunter2"

// program is one with the driver, and with what it records kept in memory.
type program struct {
	t         *testing.T
	database  string
	server    *pgtest.Server
	connector *otelshard.Connector
	db        *sql.DB
	spans     *tracetest.SpanRecorder
	reader    *sdkmetric.ManualReader
}

// start has tenants acme and globex on shard eu and lost on shard gone, where no server is. Plan small has one connection.
func start(t *testing.T, o otelshard.Options, change ...func(*shardedpg.Config)) *program {
	t.Helper()
	p := &program{t: t, server: pgtest.Shared(t, "eu"), spans: tracetest.NewSpanRecorder(), reader: sdkmetric.NewManualReader()}
	p.database = p.server.NewDatabase(t, `
		do $$ begin create role watched login; exception when duplicate_object or unique_violation then end $$;
		create table orders (id int primary key, note text);
		grant all on orders to watched`)
	plan := registry.Plan{Name: "small", StatementTimeout: time.Minute, WorkMemKB: 4096, MaxConns: 1, Weight: 1}
	store, err := registry.NewStatic(registry.Fleet{
		Shards: []registry.Shard{
			{Name: "eu", DSN: p.server.DSN("watched", p.database)},
			{Name: "gone", DSN: "host=/nowhere user=ghost password=" + password + " dbname=vault"},
		},
		Plans: []registry.Plan{plan},
		Tenants: []registry.Tenant{
			{ID: "acme", Shard: "eu", Plan: "small"}, {ID: "globex", Shard: "eu", Plan: "small"}, {ID: "lost", Shard: "gone", Plan: "small"},
		},
	})
	require.NoError(t, err)
	cfg := shardedpg.Config{Store: store, MaxConns: 4}
	for _, c := range change {
		c(&cfg)
	}
	o.TracerProvider = sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(p.spans))
	o.MeterProvider = sdkmetric.NewMeterProvider(sdkmetric.WithReader(p.reader))
	p.connector, err = otelshard.NewConnector(cfg, o)
	require.NoError(t, err)
	p.db = sql.OpenDB(p.connector)
	t.Cleanup(func() { require.NoError(t, p.db.Close()) })
	return p
}

func (p *program) as(tenant string) context.Context {
	return shardedpg.WithTenant(p.t.Context(), tenant)
}

func (p *program) exec(tenant, query string, args ...any) {
	p.t.Helper()
	_, err := p.db.ExecContext(p.as(tenant), query, args...)
	require.NoError(p.t, err)
}

// ended returns the spans that have ended, but for those of connecting, and forgets them.
func (p *program) ended() []sdktrace.ReadOnlySpan {
	all := p.spans.Ended()
	p.spans.Reset()
	return slices.DeleteFunc(all, func(s sdktrace.ReadOnlySpan) bool { return strings.HasPrefix(s.Name(), "CONNECT") })
}

// last returns the only span that has ended.
func (p *program) last() sdktrace.ReadOnlySpan {
	p.t.Helper()
	spans := p.ended()
	require.Len(p.t, spans, 1, "%v", names(spans))
	return spans[0]
}

func names(spans []sdktrace.ReadOnlySpan) (names []string) {
	for _, s := range spans {
		names = append(names, s.Name())
	}
	return names
}

// attributesOf returns what a span or a point says, as text.
func attributesOf(list []attribute.KeyValue) map[string]string {
	said := make(map[string]string)
	for _, a := range list {
		said[string(a.Key)] = a.Value.String()
	}
	return said
}

// point is one number of a metric: of a histogram how many it counts, and of seconds the nanoseconds.
type point struct {
	by map[string]string
	n  int64
}

func (p *program) collect() map[string]metricdata.Metrics {
	p.t.Helper()
	var all metricdata.ResourceMetrics
	require.NoError(p.t, p.reader.Collect(context.Background(), &all))
	found := make(map[string]metricdata.Metrics)
	for _, scope := range all.ScopeMetrics {
		for _, m := range scope.Metrics {
			found[m.Name] = m
		}
	}
	return found
}

func points(m metricdata.Metrics) (all []point) {
	switch data := m.Data.(type) {
	case metricdata.Sum[int64]:
		for _, d := range data.DataPoints {
			all = append(all, point{attributesOf(d.Attributes.ToSlice()), d.Value})
		}
	case metricdata.Sum[float64]:
		for _, d := range data.DataPoints {
			all = append(all, point{attributesOf(d.Attributes.ToSlice()), int64(d.Value * 1e9)})
		}
	case metricdata.Histogram[float64]:
		for _, d := range data.DataPoints {
			all = append(all, point{attributesOf(d.Attributes.ToSlice()), int64(d.Count)})
		}
	case nil:
	default:
		panic(fmt.Sprintf("%s is a %T", m.Name, data))
	}
	return all
}

// sum adds up the points of a metric that have these attributes, given as key, value, key, value.
func (p *program) sum(metric string, by ...string) (n int64) {
	p.t.Helper()
	found, ok := p.collect()[metric]
	require.True(p.t, ok, "there is no metric %s", metric)
	for _, one := range points(found) {
		all := true
		for i := 0; i < len(by); i += 2 {
			all = all && one.by[by[i]] == by[i+1]
		}
		if all {
			n += one.n
		}
	}
	return n
}

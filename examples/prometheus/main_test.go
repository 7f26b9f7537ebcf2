package main

import (
	"context"
	"database/sql"
	"net/http/httptest"
	"os"
	"testing"
	"time"

	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/stretchr/testify/require"

	shardedpg "github.com/sharded-pg/sharded-pg"
	"github.com/sharded-pg/sharded-pg/internal/pgtest"
	"github.com/sharded-pg/sharded-pg/registry"
)

func TestMain(m *testing.M) {
	patience = time.Minute // a loaded machine is no dead shard
	os.Exit(pgtest.Main(m))
}

// fleet is a registry and the shards on one server: eu, with tenant acme, and where asked for gone, which is not there, with
// tenant lost.
type fleet struct {
	t        *testing.T
	server   *pgtest.Server
	database string
	service  *service
}

func start(t *testing.T, shards ...registry.Shard) *fleet {
	t.Helper()
	f := &fleet{t: t, server: pgtest.Shared(t, "eu")}
	f.database = f.server.NewDatabase(t, `
		do $$ begin create role watched login; exception when duplicate_object or unique_violation then end $$`)
	dsn := f.server.DSN("postgres", f.database)
	store, err := registry.Open(dsn, nil)
	require.NoError(t, err)
	defer store.Close()
	ctx := t.Context()
	require.NoError(t, store.Init(ctx))
	eu := registry.Shard{Name: "eu", DSN: f.server.DSN("watched", f.database), AdminDSN: dsn, MaxBytes: 1 << 40}
	for _, s := range append(shards, eu) {
		require.NoError(t, store.PutShard(ctx, s))
	}
	require.NoError(t, store.PutTenant(ctx, registry.Tenant{ID: "acme", Shard: "eu", Plan: "free"}))
	if len(shards) > 0 {
		require.NoError(t, store.PutTenant(ctx, registry.Tenant{ID: "lost", Shard: shards[0].Name, Plan: "free"}))
	}
	f.service, err = open(dsn+" sharded_lookup_timeout=30s", true)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, f.service.close()) })
	return f
}

func (f *fleet) as(tenant string) context.Context { return shardedpg.WithTenant(f.t.Context(), tenant) }

// sample is one line of what Prometheus gets.
type sample struct {
	labels labels.Labels
	value  float64
}

// scrape is what Prometheus gets, with the series that it makes of histograms.
func (f *fleet) scrape() (samples []sample) {
	f.t.Helper()
	answer := httptest.NewRecorder()
	f.service.metrics.ServeHTTP(answer, httptest.NewRequestWithContext(f.t.Context(), "GET", "/metrics", nil))
	require.Equal(f.t, 200, answer.Code, "%s", answer.Body)
	parser := expfmt.NewTextParser(model.LegacyValidation)
	families, err := parser.TextToMetricFamilies(answer.Body)
	require.NoError(f.t, err)
	for _, family := range families {
		found, err := expfmt.ExtractSamples(&expfmt.DecodeOptions{Timestamp: model.Now()}, family)
		require.NoError(f.t, err)
		for _, s := range found {
			b := labels.NewBuilder(labels.EmptyLabels())
			for name, value := range s.Metric {
				b.Set(string(name), string(value))
			}
			samples = append(samples, sample{b.Labels(), float64(s.Value)})
		}
	}
	return samples
}

// value returns the only series with this name and shard.
func (f *fleet) value(name, shard string) float64 {
	f.t.Helper()
	var values []float64
	for _, s := range f.scrape() {
		if s.labels.Get("__name__") == name && s.labels.Get("db_namespace") == shard {
			values = append(values, s.value)
		}
	}
	require.Len(f.t, values, 1, "series %s of shard %s", name, shard)
	return values[0]
}

func TestServersAreWatched(t *testing.T) {
	t.Parallel()
	f := start(t, registry.Shard{Name: "gone", DSN: "host=/nowhere user=watched"})
	require.InDelta(t, 1, f.value("sharded_pg_shard_reachable", "eu"), 0)
	require.InDelta(t, 0, f.value("sharded_pg_shard_reachable", "gone"), 0)
	require.InDelta(t, 1<<40, f.value("sharded_pg_shard_size_limit_bytes", "eu"), 0)

	db, err := sql.Open("pgx", f.server.DSN("postgres", f.database))
	require.NoError(t, err)
	defer db.Close()
	var bytes float64
	require.NoError(t, db.QueryRowContext(t.Context(), "select pg_database_size(current_database())").Scan(&bytes))
	require.Greater(t, f.value("sharded_pg_shard_size_bytes", "eu"), bytes, "with the other databases of the server")

	for range 3 {
		_, err := f.service.db.ExecContext(f.as("lost"), "select 1")
		require.ErrorIs(t, err, shardedpg.ErrShardUnavailable)
	}
	require.InDelta(t, 1, f.value("sharded_pg_shard_down", "gone"), 0)
}

func TestLongestStatementIsTheOneThatRuns(t *testing.T) {
	t.Parallel()
	f := start(t)
	ctx, cancel := context.WithCancel(f.as("acme"))
	ended := make(chan error, 1)
	began := time.Now()
	go func() {
		_, err := f.service.db.ExecContext(ctx, "select pg_sleep(300)")
		ended <- err
	}()
	require.Eventually(t, func() bool { return f.value("sharded_pg_shard_longest_statement_seconds", "eu") > 0.5 }, 30*time.Second, 50*time.Millisecond)
	longest := f.value("sharded_pg_shard_longest_statement_seconds", "eu")
	require.Less(t, longest, time.Since(began).Seconds())
	cancel()
	require.ErrorIs(t, <-ended, context.Canceled)
	require.Eventually(t, func() bool { return f.value("sharded_pg_shard_longest_statement_seconds", "eu") < longest }, 30*time.Second, 50*time.Millisecond,
		"connections that do nothing have no age")
}

// A login without pg_read_all_stats sees sessions, and not what they do.
func TestALoginThatSeesNothingDoesNotSayThatNothingRuns(t *testing.T) {
	t.Parallel()
	server, err := pgtest.Start(t.Context(), pgtest.Options{})
	require.NoError(t, err)
	t.Cleanup(func() { _ = server.Stop() })
	require.NoError(t, server.Exec(t.Context(), "postgres", "create role watched login", "create role blind login"))
	f := start(t, registry.Shard{Name: "hidden", DSN: server.DSN("watched", "postgres"), AdminDSN: server.DSN("blind", "postgres")})
	longest := func() (values []float64) {
		for _, s := range f.scrape() {
			if s.labels.Get("__name__") == "sharded_pg_shard_longest_statement_seconds" && s.labels.Get("db_namespace") == "hidden" {
				values = append(values, s.value)
			}
		}
		return values
	}
	_, err = f.service.db.ExecContext(f.as("lost"), "select 1")
	require.NoError(t, err)
	require.Empty(t, longest())
	require.InDelta(t, 1, f.value("sharded_pg_shard_reachable", "hidden"), 0)
	require.NoError(t, server.Exec(t.Context(), "postgres", "grant pg_read_all_stats to blind"))
	require.Len(t, longest(), 1)
}

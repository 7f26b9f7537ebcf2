package otelshard_test

import (
	"cmp"
	"context"
	"flag"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"

	shardedpg "github.com/sharded-pg/sharded-pg"
	otelshard "github.com/sharded-pg/sharded-pg/integrations/otel"
)

var update = flag.Bool("update", false, "rewrite the table in docs/observability.md")

func TestTenantsAreOnMetricsOnRequestAndBounded(t *testing.T) {
	t.Parallel()
	for _, n := range []int{0, 1} {
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			t.Parallel()
			p := start(t, otelshard.Options{BusiestTenants: n})
			for _, tenant := range []string{"acme", "globex"} {
				tx, err := p.db.BeginTx(p.as(tenant), nil)
				require.NoError(t, err)
				defer func() { _ = tx.Rollback() }()
			}
			done := make(chan error, 1)
			ctx, cancel := context.WithCancel(p.as("globex"))
			defer func() {
				cancel()
				<-done
			}()
			go func() {
				_, err := p.db.ExecContext(ctx, "select 1")
				done <- err
			}()
			require.Eventually(t, func() bool { return p.sum("db.client.connection.pending_requests") == 1 }, 20*time.Second, time.Millisecond)
			var tenants []string
			for _, m := range p.collect() {
				for _, point := range points(m) {
					if tenant, named := point.by["sharded_pg.tenant"]; named {
						tenants = append(tenants, m.Name+" of "+tenant)
					}
				}
			}
			slices.Sort(tenants)
			if n == 0 {
				require.Empty(t, tenants)
				return
			}
			require.Equal(t, []string{"sharded_pg.tenant.pending_requests of globex", "sharded_pg.tenant.slots.used of globex"}, tenants)
		})
	}
	_, err := otelshard.NewConnector(shardedpg.Config{}, otelshard.Options{BusiestTenants: otelshard.MaxBusiestTenants + 1})
	require.ErrorContains(t, err, "BusiestTenants")
}

func TestErrorsThatStatementsMakeUpAreBounded(t *testing.T) {
	t.Parallel()
	p := start(t, otelshard.Options{})
	const made = 500
	for n := range made {
		_, err := p.db.ExecContext(p.as("acme"), fmt.Sprintf("do $$ begin raise exception using errcode = 'Z%04d'; end $$", n))
		require.Error(t, err)
		if n == made-1 {
			spans := p.ended()
			require.Equal(t, "Z0499", attributesOf(spans[len(spans)-1].Attributes())["db.response.status_code"], "spans have what was said")
		}
	}
	require.LessOrEqual(t, len(points(p.collect()["db.client.operation.duration"])), 150)
	require.EqualValues(t, made, p.sum("db.client.operation.duration", "db.operation.name", "DO"))
	require.EqualValues(t, made-100, p.sum("db.client.operation.duration", "error.type", "_OTHER"))
}

func TestOpenBreakerIsInTheMetrics(t *testing.T) {
	t.Parallel()
	p := start(t, otelshard.Options{})
	for range 3 {
		_, err := p.db.ExecContext(p.as("lost"), "select 1")
		require.ErrorIs(t, err, shardedpg.ErrShardUnavailable)
	}
	p.exec("acme", "select 1")
	for metric, want := range map[string]int64{"down": 1, "outages": 1} {
		require.Equal(t, want, p.sum("sharded_pg.shard."+metric, "db.namespace", "gone"))
		require.Zero(t, p.sum("sharded_pg.shard."+metric, "db.namespace", "eu"))
	}
	require.EqualValues(t, 3, p.sum("sharded_pg.connect_errors", "db.namespace", "gone"))
}

func TestLanesAndRoutesAreInTheMetrics(t *testing.T) {
	t.Parallel()
	p := start(t, otelshard.Options{}, func(c *shardedpg.Config) { c.MaxConns = 1 })
	for _, tenant := range []string{"acme", "acme", "globex"} {
		p.exec(tenant, "select 1")
	}
	require.EqualValues(t, 2, p.sum("sharded_pg.transactions", "db.namespace", "eu", "sharded_pg.lane", "1"))
	require.EqualValues(t, 1, p.sum("sharded_pg.transactions", "db.namespace", "eu", "sharded_pg.lane", "3"))
	require.GreaterOrEqual(t, p.sum("sharded_pg.routes.resolved", "sharded_pg.result", "miss"), int64(2))
	require.EqualValues(t, 1, p.sum("db.client.connection.count", "db.client.connection.state", "idle"))
	require.EqualValues(t, 1, p.sum("db.client.connection.max"))
	require.EqualValues(t, 3, p.sum("db.client.operation.duration", "db.operation.name", "SELECT", "db.namespace", "eu", "sharded_pg.plan", "small"))

	require.Eventually(t, func() bool { // the registry's watch empties the cache when it begins, and looks where those live that hold a slot then
		before := p.sum("sharded_pg.routes.resolved")
		for range 3 {
			p.exec("acme", "select 1")
		}
		return p.sum("sharded_pg.routes.resolved") == before+3 && p.sum("sharded_pg.routes.resolved", "sharded_pg.result", "hit") > 0
	}, 20*time.Second, time.Millisecond)
	require.Positive(t, p.sum("sharded_pg.routes.cached"))
}

func TestClosedConnectorHasNoMetrics(t *testing.T) {
	t.Parallel()
	p := start(t, otelshard.Options{})
	p.exec("acme", "select 1")
	require.NoError(t, p.db.Close())
	found := p.collect()
	require.Contains(t, found, "db.client.operation.duration")
	require.NotContains(t, found, "sharded_pg.routes.cached")
}

func TestDocumentedMetricsAreTheRecordedOnes(t *testing.T) {
	t.Parallel()
	p := start(t, otelshard.Options{BusiestTenants: 1}, func(c *shardedpg.Config) { c.AcquireTimeout = 20 * time.Millisecond })
	tx, err := p.db.BeginTx(p.as("acme"), nil)
	require.NoError(t, err)
	_, err = tx.Exec("select 1 / 0")
	require.Error(t, err)
	_, err = p.db.ExecContext(p.as("acme"), "select 1")
	require.ErrorIs(t, err, shardedpg.ErrTenantBusy, "for the error type of a wait")

	var rows []string
	found := p.collect()
	for _, name := range slices.SortedFunc(maps.Keys(found), cmp.Compare) {
		m, kind := found[name], "counter"
		switch data := m.Data.(type) {
		case metricdata.Histogram[float64]:
			kind = "histogram"
		case metricdata.Sum[int64]:
			if !data.IsMonotonic {
				kind = "now"
			}
		}
		by := map[string]bool{}
		for _, point := range points(m) {
			for key := range point.by {
				by["`"+key+"`"] = true
			}
		}
		rows = append(rows, fmt.Sprintf("| `%s` | %s | %s | %s | %s |", name, kind, strings.Trim(m.Unit, "{}"), m.Description,
			strings.Join(slices.Sorted(maps.Keys(by)), ", ")))
	}
	require.NoError(t, tx.Rollback())
	got := strings.Join(rows, "\n")

	file := filepath.Join("..", "..", "docs", "observability.md")
	page, err := os.ReadFile(file)
	require.NoError(t, err)
	const head = "| metric | kind | unit | what | by |\n|---|---|---|---|---|\n"
	before, rest, ok := strings.Cut(string(page), head)
	require.True(t, ok, "%s has no table of metrics", file)
	want, after, _ := strings.Cut(rest, "\n\n")
	if *update {
		require.NoError(t, os.WriteFile(file, []byte(before+head+got+"\n\n"+after), 0o644))
		return
	}
	require.Equal(t, strings.TrimSuffix(want, "\n"), got, "if that is meant, run: go test ./integrations/otel -run Documented -update")
}

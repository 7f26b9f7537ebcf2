package main

import (
	"context"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/rulefmt"
	"github.com/prometheus/prometheus/promql"
	"github.com/prometheus/prometheus/promql/parser"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/tsdb/chunkenc"
	"github.com/prometheus/prometheus/tsdb/chunks"
	"github.com/prometheus/prometheus/util/annotations"
	"github.com/stretchr/testify/require"

	"github.com/sharded-pg/sharded-pg/internal/pgtest"
	"github.com/sharded-pg/sharded-pg/registry"
)

func rules(t *testing.T) []rulefmt.Rule {
	t.Helper()
	file, errs := rulefmt.ParseFile("alerts.yml", false, model.LegacyValidation)
	require.Empty(t, errs)
	require.Len(t, file.Groups, 1)
	return file.Groups[0].Rules
}

var ofLabel = regexp.MustCompile(`\$labels\.(\w+)`)

func TestRulesNameWhatIsExported(t *testing.T) {
	t.Parallel()
	f := start(t)
	_, err := f.service.db.ExecContext(f.as("acme"), "select 1")
	require.NoError(t, err)
	samples := f.scrape()
	for _, rule := range rules(t) {
		expr, err := parser.ParseExpr(rule.Expr)
		require.NoError(t, err)
		named := map[string]bool{} // labels of what the rule selects
		var kept []string          // if it groups
		parser.Inspect(expr, func(node parser.Node, _ []parser.Node) error {
			switch n := node.(type) {
			case *parser.VectorSelector:
				selected := slices.DeleteFunc(slices.Clone(samples), func(s sample) bool { return !matches(s.labels, n.LabelMatchers) })
				require.NotEmpty(t, selected, "alert %s: nothing like %s is exported", rule.Alert, n)
				for _, s := range selected {
					s.labels.Range(func(l labels.Label) { named[l.Name] = true })
				}
			case *parser.AggregateExpr:
				kept = append(kept, n.Grouping...)
			}
			return nil
		})
		for _, label := range kept {
			require.True(t, named[label], "alert %s groups by %s, which nothing that it selects has", rule.Alert, label)
		}
		for _, text := range rule.Annotations {
			for _, label := range ofLabel.FindAllStringSubmatch(text, -1) {
				require.True(t, named[label[1]] && (kept == nil || slices.Contains(kept, label[1])), "alert %s has no label %s", rule.Alert, label[1])
			}
		}
	}
}

func matches(l labels.Labels, all []*labels.Matcher) bool {
	return !slices.ContainsFunc(all, func(m *labels.Matcher) bool { return !m.Matches(l.Get(m.Name)) })
}

// Each alert fires when the series that it watches say so, alone, and none does on a fleet that is well.
func TestEachAlertFiresForItsTrouble(t *testing.T) {
	t.Parallel()
	f := start(t)
	_, err := f.service.db.ExecContext(f.as("acme"), "select 1")
	require.NoError(t, err)
	before := f.scrape()
	all := rules(t)
	require.Empty(t, firing(t, all, before, before))
	untried := map[string]bool{}
	for _, rule := range all {
		untried[rule.Alert] = true
	}

	type change struct {
		series string // selector of series that are there
		to     func(before float64) float64
	}
	is := func(value float64) func(float64) float64 { return func(float64) float64 { return value } }
	more := func(n float64) func(float64) float64 { return func(before float64) float64 { return before + n } }
	for alert, c := range map[string]change{
		"ShardQueueDeep":        {`db_client_connection_pending_requests{sharded_pg_plan="free"}`, is(101)},
		"WaitForConnectionLong": {`db_client_connection_wait_time_seconds_bucket{le=~"5|10|\\+Inf"}`, more(100)},
		"StatementsRefused":     {`sharded_pg_refusals_total{sharded_pg_reason="shard_busy"}`, more(60)},
		"BreakerOpen":           {`{__name__=~"sharded_pg_shard_down|sharded_pg_connect_errors_total"}`, more(1)},
		"RegistryDoesNotAnswer": {`sharded_pg_registry_lookup_errors_total`, more(1)},
		"ShardNotReachable":     {`sharded_pg_shard_reachable`, is(0)},
		"ShardAlmostFull":       {`sharded_pg_shard_size_bytes`, is(0.81 * (1 << 40))},
		"ReplicaBehind":         {`sharded_pg_shard_replication_lag_seconds`, is(31)},
		"RunawayStatement":      {`sharded_pg_shard_longest_statement_seconds`, is(601)},
	} {
		selector, err := parser.ParseMetricSelector(c.series)
		require.NoError(t, err)
		after, changed := slices.Clone(before), 0
		for i := range after {
			if matches(after[i].labels, selector) {
				after[i].value = c.to(after[i].value)
				changed++
			}
		}
		require.NotZero(t, changed, "there is no %s", c.series)
		require.Equal(t, []string{alert}, firing(t, all, before, after))
		delete(untried, alert)
	}
	require.Empty(t, untried, "alerts that no trouble is known for")
}

// A program in which nobody asks for the shard any more does not learn that it is back.
func TestNoAlertIsLeftWhenAShardIsBack(t *testing.T) {
	t.Parallel()
	server, err := pgtest.Start(t.Context(), pgtest.Options{})
	require.NoError(t, err)
	t.Cleanup(func() { _ = server.Stop() })
	require.NoError(t, server.Exec(t.Context(), "postgres", "create role watched login"))
	f := start(t, registry.Shard{Name: "killed", DSN: server.DSN("watched", "postgres"), AdminDSN: server.DSN("postgres", "postgres")})
	asks := func() error {
		_, err := f.service.db.ExecContext(f.as("lost"), "select 1")
		return err
	}
	require.NoError(t, asks())
	before := f.scrape()
	require.NoError(t, server.Kill())
	require.Eventually(t, func() bool { _ = asks(); return f.value("sharded_pg_shard_down", "killed") == 1 }, 30*time.Second, 10*time.Millisecond)
	require.Subset(t, firing(t, rules(t), before, f.again(before)), []string{"BreakerOpen", "ShardNotReachable"})
	require.NoError(t, server.Restart(t.Context()))
	back := f.scrape()
	require.InDelta(t, 1, f.value("sharded_pg_shard_down", "killed"), 0, "nobody has asked for it since")
	require.Empty(t, firing(t, rules(t), back, f.again(back)))
}

// A single lookup that took longer than sharded_lookup_timeout is no outage.
func TestOneEventWakesNobody(t *testing.T) {
	t.Parallel()
	const every, end = 15 * time.Second, 20 * time.Minute
	begin := time.Unix(1e9, 0)
	engine := promql.NewEngine(promql.EngineOpts{MaxSamples: 1e6, Timeout: time.Minute})
	for _, rule := range rules(t) {
		if !strings.HasPrefix(rule.Expr, "sum") || !strings.Contains(rule.Expr, "_total") {
			continue // it does not count events alone
		}
		data := storage.QueryableFunc(func(_, _ int64) (storage.Querier, error) {
			return &storage.MockQuerier{SelectMockFunction: func(_ bool, _ *storage.SelectHints, matchers ...*labels.Matcher) storage.SeriesSet {
				b := labels.NewBuilder(labels.EmptyLabels())
				for _, m := range matchers {
					b.Set(m.Name, strings.Split(m.Value, "|")[0])
				}
				var values []chunks.Sample
				for since := time.Duration(0); since < end; since += every {
					values = append(values, at{begin.Add(since), float64(since / (end / 2))}) // one in the middle
				}
				return &seriesSet{rest: []storage.Series{storage.NewListSeries(b.Labels(), values)}}
			}}, nil
		})
		query, err := engine.NewRangeQuery(t.Context(), data, nil, rule.Expr, begin, begin.Add(end), every)
		require.NoError(t, err)
		result := query.Exec(t.Context())
		require.NoError(t, result.Err)
		matrix, err := result.Matrix()
		require.NoError(t, err)
		require.Len(t, matrix, 1, "%s", rule.Alert)
		lasts := time.Duration(len(matrix[0].Floats)-1) * every
		require.Less(t, lasts, time.Duration(rule.For), "%s fires for one event", rule.Alert)
		query.Close()
	}
}

// again is what the same series are now, in the same order.
func (f *fleet) again(before []sample) []sample {
	f.t.Helper()
	now := map[string]float64{}
	for _, s := range f.scrape() {
		now[s.labels.String()] = s.value
	}
	after := slices.Clone(before)
	for i, s := range after {
		if value, there := now[s.labels.String()]; there { // what a server that is gone would say is not
			after[i].value = value
		}
	}
	return after
}

// firing returns the alerts whose condition holds a minute after before, when after was scraped.
func firing(t *testing.T, all []rulefmt.Rule, before, after []sample) (alerts []string) {
	t.Helper()
	engine := promql.NewEngine(promql.EngineOpts{MaxSamples: 1e6, Timeout: time.Minute})
	then := time.Unix(1e9, 0)
	now := then.Add(time.Minute)
	data := storage.QueryableFunc(func(_, _ int64) (storage.Querier, error) {
		return &storage.MockQuerier{SelectMockFunction: func(_ bool, _ *storage.SelectHints, matchers ...*labels.Matcher) storage.SeriesSet {
			set := &seriesSet{}
			for i, s := range before {
				if matches(s.labels, matchers) {
					set.rest = append(set.rest, storage.NewListSeries(s.labels, []chunks.Sample{at{then, s.value}, at{now, after[i].value}}))
				}
			}
			return set
		}}, nil
	})
	for _, rule := range all {
		query, err := engine.NewInstantQuery(context.Background(), data, nil, rule.Expr, now)
		require.NoError(t, err)
		result := query.Exec(t.Context())
		require.NoError(t, result.Err)
		vector, err := result.Vector()
		require.NoError(t, err)
		if len(vector) > 0 {
			alerts = append(alerts, rule.Alert)
		}
		query.Close()
	}
	return alerts
}

// seriesSet and at are what PromQL reads: series one after the other, and numbers with a time.
type seriesSet struct {
	rest []storage.Series
	now  storage.Series
}

func (s *seriesSet) Next() bool {
	if len(s.rest) == 0 {
		return false
	}
	s.now, s.rest = s.rest[0], s.rest[1:]
	return true
}
func (s *seriesSet) At() storage.Series              { return s.now }
func (*seriesSet) Err() error                        { return nil }
func (*seriesSet) Warnings() annotations.Annotations { return nil }

type at struct {
	when  time.Time
	value float64
}

func (a at) T() int64                    { return a.when.UnixMilli() }
func (a at) F() float64                  { return a.value }
func (at) H() *histogram.Histogram       { return nil }
func (at) FH() *histogram.FloatHistogram { return nil }
func (at) Type() chunkenc.ValueType      { return chunkenc.ValFloat }
func (a at) Copy() chunks.Sample         { return a }

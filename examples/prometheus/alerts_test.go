package main

import (
	"context"
	"regexp"
	"slices"
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
		"BreakerOpen":           {`sharded_pg_shard_down`, is(1)},
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

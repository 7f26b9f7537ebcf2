package main

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"

	"github.com/sharded-pg/sharded-pg/registry"
	"github.com/sharded-pg/sharded-pg/registry/health"
)

// patience is shorter than the ten seconds after which Prometheus gives up, so that one dead shard does not hide the others.
var patience = 4 * time.Second

// longestSQL is how long the oldest statement that runs on the server has been running, and how many sessions the login may not
// look at. The server's own processes, and those that feed replicas, run for ever.
const longestSQL = `select coalesce(extract(epoch from max(clock_timestamp() - query_start)
		filter (where state = 'active' and backend_type = 'client backend' and pid <> pg_backend_pid())), 0)::float8,
	count(*) filter (where query = '<insufficient privilege>' and datname is not null) from pg_stat_activity`

// servers looks at the servers of all shards whenever somebody collects the metrics.
type servers struct {
	shards func(context.Context) ([]registry.ShardInfo, error)
	open   func(shard, reason string) (*sql.DB, error) // Connector.ShardDB, which is logged and counted: once for each shard
	opened sync.Map                                    // shard → *sql.DB

	reachable, size, limit, lag, longest metric.Float64Observable
}

func (s *servers) register(meter metric.Meter) error {
	var errs []error
	gauge := func(name, unit, description string) metric.Float64Observable {
		g, err := meter.Float64ObservableGauge("sharded_pg.shard."+name, metric.WithUnit(unit), metric.WithDescription(description))
		errs = append(errs, err)
		return g
	}
	s.reachable = gauge("reachable", "", "1 if the shard's server answers.")
	s.size = gauge("size", "By", "Bytes of all databases on the shard's server.")
	s.limit = gauge("size_limit", "By", "Bytes above which the shard takes no more tenants; none if its size does not matter.")
	s.lag = gauge("replication_lag", "s", "How far the slowest replica is behind.")
	s.longest = gauge("longest_statement", "s", "How long the oldest statement has been running.")
	_, err := meter.RegisterCallback(s.observe, s.reachable, s.size, s.limit, s.lag, s.longest)
	return errors.Join(append(errs, err)...)
}

func (s *servers) observe(ctx context.Context, to metric.Observer) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	shards, err := s.shards(ctx)
	if err != nil {
		return err
	}
	var all sync.WaitGroup
	for _, shard := range shards {
		all.Go(func() { s.look(ctx, to, shard.Shard) })
	}
	all.Wait()
	return nil
}

func (s *servers) look(ctx context.Context, to metric.Observer, shard registry.Shard) {
	of := metric.WithAttributes(attribute.String("db.namespace", shard.Name))
	report := health.Check(ctx, shard, &health.Options{Timeout: patience})
	if report.Version == 0 { // what only a server that answers can say
		to.ObserveFloat64(s.reachable, 0, of)
		return
	}
	to.ObserveFloat64(s.reachable, 1, of)
	to.ObserveFloat64(s.size, float64(report.Bytes), of)
	if shard.MaxBytes > 0 {
		to.ObserveFloat64(s.limit, float64(shard.MaxBytes), of)
	}
	to.ObserveFloat64(s.lag, report.Lag.Seconds(), of)
	longest, err := s.runsLongest(ctx, shard.Name)
	if err != nil {
		slog.Warn("the shard's statements could not be looked at", "shard", shard.Name, "error", err)
		return
	}
	to.ObserveFloat64(s.longest, longest, of)
}

func (s *servers) runsLongest(ctx context.Context, shard string) (seconds float64, err error) {
	db, ok := s.opened.Load(shard)
	if !ok {
		opened, err := s.open(shard, "metrics of its server")
		if err != nil {
			return 0, err
		}
		db, _ = s.opened.LoadOrStore(shard, opened)
	}
	var hidden int
	err = db.(*sql.DB).QueryRowContext(ctx, longestSQL).Scan(&seconds, &hidden)
	if err == nil && hidden > 0 { // 0 would say that all is well
		err = fmt.Errorf("%d sessions are hidden: grant pg_read_all_stats to the login of its admin DSN", hidden)
	}
	return seconds, err
}

// Command prometheus is a service whose metrics Prometheus scrapes: those that the driver has in each program, and those of
// the shards' servers, which one program of the fleet watches for all. alerts.yml has the rules for both.
//
// # What to know
//
//   - The driver's metrics are those of docs/observability.md, with the names that Prometheus gives them: dots become
//     underscores, seconds and bytes are appended, counters end in _total.
//   - The servers' metrics need the registry with its admin DSNs, which an application's program should not have. -shards says
//     that this program watches them.
package main

import (
	"database/sql"
	"errors"
	"flag"
	"log/slog"
	"net/http"
	"os"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	otelprometheus "go.opentelemetry.io/otel/exporters/prometheus"
	"go.opentelemetry.io/otel/sdk/metric"

	shardedpg "github.com/sharded-pg/sharded-pg"
	otelshard "github.com/sharded-pg/sharded-pg/integrations/otel"
	"github.com/sharded-pg/sharded-pg/registry"
)

func main() {
	watch := flag.Bool("shards", false, "watch the servers of all shards as well; in one program of the fleet")
	flag.Parse()
	s, err := open(os.Getenv("REGISTRY_DSN"), *watch)
	if err != nil {
		slog.Error("open", "error", err)
		os.Exit(1)
	}
	defer s.close()

	mux := http.NewServeMux()
	mux.Handle("GET /metrics", s.metrics)
	server := &http.Server{Addr: "localhost:9464", Handler: mux, ReadHeaderTimeout: 5 * time.Second}
	slog.Info("try: curl http://localhost:9464/metrics")
	slog.Error("serve", "error", server.ListenAndServe())
}

// service is what a program keeps: db for its work, metrics for Prometheus.
type service struct {
	db      *sql.DB
	metrics http.Handler
	store   *registry.Postgres // nil unless it watches the shards
}

func open(dsn string, watch bool) (*service, error) {
	cfg, err := shardedpg.ParseDSN(dsn)
	if err != nil {
		return nil, err
	}
	found := prometheus.NewRegistry()
	exporter, err := otelprometheus.New(otelprometheus.WithRegisterer(found), otelprometheus.WithoutScopeInfo())
	if err != nil {
		return nil, err
	}
	meters := metric.NewMeterProvider(metric.WithReader(exporter))
	connector, err := otelshard.NewConnector(cfg, otelshard.Options{MeterProvider: meters, BusiestTenants: 5})
	if err != nil {
		return nil, err
	}
	s := &service{db: sql.OpenDB(connector), metrics: promhttp.HandlerFor(found, promhttp.HandlerOpts{})}
	if watch {
		if s.store, err = registry.Open(cfg.DSN, nil); err == nil {
			err = (&servers{shards: s.store.ListShards, open: connector.ShardDB}).register(meters.Meter("shards"))
		}
		if err != nil {
			return nil, errors.Join(err, s.close())
		}
	}
	return s, nil
}

func (s *service) close() error {
	err := s.db.Close()
	if s.store != nil {
		err = errors.Join(err, s.store.Close())
	}
	return err
}

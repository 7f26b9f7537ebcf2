package otelshard

import (
	"context"
	"database/sql/driver"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/multitracer"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/trace"

	shardedpg "github.com/sharded-pg/sharded-pg"
)

const scope = "github.com/sharded-pg/sharded-pg/integrations/otel"

// MaxBusiestTenants bounds Options.BusiestTenants: each tenant is a time series for each shard and program.
const MaxBusiestTenants = 50

// Options say what is recorded beside the default. Arguments of statements, texts of errors and connection strings never are.
type Options struct {
	// TracerProvider and MeterProvider default to the global ones.
	TracerProvider trace.TracerProvider
	MeterProvider  metric.MeterProvider

	// Tenants puts the tenant's ID on spans. It is never on the metrics of statements.
	Tenants bool
	// Statements puts the texts of statements on spans, with whatever values a program writes into them.
	Statements bool
	// BusiestTenants is for how many tenants of each shard, those with the most statements waiting, there are metrics. Default
	// 0, at most MaxBusiestTenants.
	BusiestTenants int
}

// Connector is a [shardedpg.Connector] whose statements are traced and measured. It is safe for concurrent use.
type Connector struct {
	*shardedpg.Connector
	t *telemetry
}

var _ driver.Connector = (*Connector)(nil)

// NewConnector is [shardedpg.NewConnector] with what o says. A tracer that cfg.ConfigureConn sets is called as well.
func NewConnector(cfg shardedpg.Config, o Options) (*Connector, error) {
	if o.BusiestTenants < 0 || o.BusiestTenants > MaxBusiestTenants {
		return nil, fmt.Errorf("otelshard: BusiestTenants %d is not between 0 and %d", o.BusiestTenants, MaxBusiestTenants)
	}
	if o.TracerProvider == nil {
		o.TracerProvider = otel.GetTracerProvider()
	}
	if o.MeterProvider == nil {
		o.MeterProvider = otel.GetMeterProvider()
	}
	t := &telemetry{options: o, tracer: o.TracerProvider.Tracer(scope)}
	callers := cfg.ConfigureConn
	cfg.ConfigureConn = func(shard string, cc *pgx.ConnConfig) error {
		if callers != nil {
			if err := callers(shard, cc); err != nil {
				return err
			}
		}
		if cc.Tracer == nil {
			cc.Tracer = &tracer{t, shard}
		} else {
			cc.Tracer = multitracer.New(cc.Tracer, &tracer{t, shard})
		}
		return nil
	}
	c, err := shardedpg.NewConnector(cfg)
	if err != nil {
		return nil, err
	}
	if err := t.measure(o.MeterProvider.Meter(scope), c); err != nil {
		return nil, errors.Join(fmt.Errorf("otelshard: %w", err), c.Close())
	}
	return &Connector{c, t}, nil
}

// Connect returns a virtual connection. What sql.Conn.Raw hands out has all methods of a *shardedpg.Conn and is none.
func (c *Connector) Connect(ctx context.Context) (driver.Conn, error) {
	dc, err := c.Connector.Connect(ctx)
	if err != nil {
		return nil, err
	}
	inner, ok := dc.(*shardedpg.Conn)
	if !ok {
		return nil, fmt.Errorf("otelshard: the connector made a %T", dc)
	}
	return &conn{inner, c.t}, nil
}

// Close closes the connector and ends its metrics.
func (c *Connector) Close() error {
	return errors.Join(c.t.registration.Unregister(), c.Connector.Close())
}

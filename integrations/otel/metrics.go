package otelshard

import (
	"context"
	"errors"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/trace"

	shardedpg "github.com/sharded-pg/sharded-pg"
)

const (
	laneKey   = attribute.Key("sharded_pg.lane")
	reasonKey = attribute.Key("sharded_pg.reason")
	resultKey = attribute.Key("sharded_pg.result")
)

// telemetry is where a connector's operations are recorded.
type telemetry struct {
	options            Options
	tracer             trace.Tracer
	duration, waitTime metric.Float64Histogram
	registration       metric.Registration
	states             states
}

// instruments makes instruments and remembers what went wrong, and those that a callback has to fill.
type instruments struct {
	meter    metric.Meter
	observed []metric.Observable
	errs     []error
}

func (i *instruments) histogram(name, unit, description string) metric.Float64Histogram {
	h, err := i.meter.Float64Histogram(name, metric.WithUnit(unit), metric.WithDescription(description),
		metric.WithExplicitBucketBoundaries(0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1, 5, 10)) // those of the convention
	i.errs = append(i.errs, err)
	return h
}

// current is for what is so now.
func (i *instruments) current(name, unit, description string) metric.Int64Observable {
	g, err := i.meter.Int64ObservableUpDownCounter(name, metric.WithUnit(unit), metric.WithDescription(description))
	i.observed, i.errs = append(i.observed, g), append(i.errs, err)
	return g
}

// total is for what happened since the start.
func (i *instruments) total(name, unit, description string) metric.Int64Observable {
	c, err := i.meter.Int64ObservableCounter(name, metric.WithUnit(unit), metric.WithDescription(description))
	i.observed, i.errs = append(i.observed, c), append(i.errs, err)
	return c
}

// measure makes the instruments. Those of operations are recorded as they end, the others read the connector when somebody
// collects them.
func (t *telemetry) measure(meter metric.Meter, c *shardedpg.Connector) error {
	i := &instruments{meter: meter}
	t.duration = i.histogram("db.client.operation.duration", "s", "From the caller's call to the end of the rows, waiting included.")
	t.waitTime = i.histogram("db.client.connection.wait_time", "s",
		"From the caller's call until it had a connection, or was refused a slot: route, slot and, if there was no idle one, connecting.")

	var (
		connections = i.current("db.client.connection.count", "{connection}", "Connections to the shard, by state.")
		limit       = i.current("db.client.connection.max", "{connection}", "Slots of the shard: no more connections than that are opened.")
		pending     = i.current("db.client.connection.pending_requests", "{request}", "Statements that wait for a slot now.")
		used        = i.current("sharded_pg.slots.used", "{slot}", "Slots that are held now, by statements, transactions and connections that close.")
		waits       = i.total("sharded_pg.slots.waits", "{statement}", "Statements that had to wait for a slot.")
		refused     = i.total("sharded_pg.refusals", "{statement}", "Statements that got no slot, by reason.")
		flown       = i.total("sharded_pg.transactions", "{transaction}", "Transactions that flew without (lane 1) and with (lane 3) a reset in front.")
		resets      = i.total("sharded_pg.resets", "{reset}", "Resets sent when a connection was given back.")
		connects    = i.total("sharded_pg.connects", "{attempt}", "Attempts to connect.")
		failed      = i.total("sharded_pg.connect_errors", "{attempt}", "Attempts to connect that failed.")
		dropped     = i.total("sharded_pg.drops", "{connection}", "Connections closed because they broke or could not be cleaned.")
		down        = i.current("sharded_pg.shard.down", "", "1 while the breaker is open: the shard's tenants are refused without waiting.")
		outages     = i.total("sharded_pg.shard.outages", "{outage}", "How often the breaker opened.")
		routes      = i.current("sharded_pg.routes.cached", "{route}", "Routes in the cache.")
		resolved    = i.total("sharded_pg.routes.resolved", "{route}", "Routes asked for: found in the cache (hit), not found there (miss), or known to be none (refused).")
		stale       = i.total("sharded_pg.routes.stale", "{route}", "Routes asked for that were answered with an old one, because the registry was down.")
		lookups     = i.total("sharded_pg.registry.lookups", "{lookup}", "Questions to the registry.")
		unanswered  = i.total("sharded_pg.registry.lookup_errors", "{lookup}", "Questions that the registry did not answer.")
		privileged  = i.total("sharded_pg.shard_dbs", "{handle}", "Handles given out by ShardDB.")
	)
	waited, err := meter.Float64ObservableCounter("sharded_pg.slots.wait_time", metric.WithUnit("s"),
		metric.WithDescription("How long statements waited for a slot, together."))
	i.observed, i.errs = append(i.observed, waited), append(i.errs, err)
	var tenantUsed, tenantPending metric.Int64Observable
	if t.options.BusiestTenants > 0 {
		tenantUsed = i.current("sharded_pg.tenant.slots.used", "{slot}", "Slots that one of the busiest tenants holds now.")
		tenantPending = i.current("sharded_pg.tenant.pending_requests", "{request}", "Statements of one of the busiest tenants that wait for a slot now.")
	}
	if err := errors.Join(i.errs...); err != nil {
		return err
	}

	t.registration, err = meter.RegisterCallback(func(_ context.Context, to metric.Observer) error {
		s := c.Stats()
		for _, shard := range s.Shards {
			namespace, pool := semconv.DBNamespace(shard.Name), semconv.DBClientConnectionPoolName(shard.Name)
			see := func(what metric.Int64Observable, n int64, by ...attribute.KeyValue) {
				to.ObserveInt64(what, n, metric.WithAttributes(append(by, namespace)...))
			}
			slots, backends := shard.Slots, shard.Backends
			to.ObserveInt64(connections, int64(backends.Idle), metric.WithAttributes(pool, semconv.DBClientConnectionStateIdle))
			to.ObserveInt64(connections, int64(backends.Open-backends.Idle), metric.WithAttributes(pool, semconv.DBClientConnectionStateUsed))
			to.ObserveInt64(limit, int64(slots.Size), metric.WithAttributes(pool))
			see(used, int64(slots.Used))
			for _, p := range slots.Plans {
				plan := planKey.String(p.Plan)
				to.ObserveInt64(pending, int64(p.Waiting), metric.WithAttributes(pool, plan))
				to.ObserveFloat64(waited, p.WaitTime.Seconds(), metric.WithAttributes(namespace, plan))
				see(waits, p.Waited, plan)
				see(refused, p.TenantBusy, plan, reasonKey.String("tenant_busy"))
				see(refused, p.ShardBusy, plan, reasonKey.String("shard_busy"))
				see(refused, p.RateLimited, plan, reasonKey.String("rate_limited"))
				see(refused, p.Cancelled, plan, reasonKey.String("canceled"))
			}
			see(flown, backends.Lane1, laneKey.String("1"))
			see(flown, backends.Lane3, laneKey.String("3"))
			see(resets, backends.Resets)
			see(connects, backends.Connects)
			see(failed, backends.ConnectErrors)
			see(dropped, backends.Drops)
			isDown := int64(0)
			if backends.Down {
				isDown = 1
			}
			see(down, isDown)
			see(outages, backends.Outages)
		}
		to.ObserveInt64(routes, int64(s.Routes.Entries))
		to.ObserveInt64(resolved, int64(s.Routes.Hits), metric.WithAttributes(resultKey.String("hit")))
		to.ObserveInt64(resolved, int64(s.Routes.Misses), metric.WithAttributes(resultKey.String("miss")))
		to.ObserveInt64(resolved, int64(s.Routes.NegativeHits), metric.WithAttributes(resultKey.String("refused")))
		to.ObserveInt64(stale, int64(s.Routes.StaleServed))
		to.ObserveInt64(lookups, int64(s.Routes.Lookups))
		to.ObserveInt64(unanswered, int64(s.Routes.LookupErrors))
		to.ObserveInt64(privileged, s.ShardDBs)
		if t.options.BusiestTenants == 0 {
			return nil
		}
		for shard, tenants := range c.BusiestTenants(t.options.BusiestTenants) {
			for _, b := range tenants {
				who := metric.WithAttributes(semconv.DBNamespace(shard), tenantKey.String(b.Tenant), planKey.String(b.Plan))
				to.ObserveInt64(tenantUsed, int64(b.Used), who)
				to.ObserveInt64(tenantPending, int64(b.Waiting), who)
			}
		}
		return nil
	}, i.observed...)
	return err
}

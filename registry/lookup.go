package registry

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/sharded-pg/sharded-pg/resolver"
)

const lookupSQL = `select t.database, t.model, t.schema, t.role, t.state, t.epoch, s.name, s.dsn,
       p.name, p.statement_timeout_ms, p.work_mem_kb, p.max_conns, p.weight, p.rate, p.burst,
       coalesce(t.override::text, ''), coalesce(t.under_throttle::text, ''), now()
  from {s}.tenants t
  join {s}.shards s on s.name = t.shard
  join {s}.plans p on p.name = t.plan
 where t.id = $1 and t.removed_at is null`

// Lookup returns the route of a tenant with one query; see [Store]. It returns soon after ctx ends, whatever the network does.
func (p *Postgres) Lookup(ctx context.Context, tenant string) (*resolver.Route, error) {
	if err := resolver.ValidTenantID(tenant); err != nil {
		return nil, err
	}
	route := resolver.Route{Tenant: tenant}
	var timeout *int64
	var override, under string
	var now time.Time
	err := p.read(ctx, "looking up a tenant", func() error {
		return p.db.QueryRowContext(ctx, p.lookupSQL, tenant).Scan(
			&route.Database, &route.Model, &route.Schema, &route.Role, &route.State, &route.Epoch,
			&route.Shard.Name, &route.Shard.DSN,
			&route.Plan.Name, &timeout, &route.Plan.WorkMemKB, &route.Plan.MaxConns, &route.Plan.Weight, &route.Plan.Rate,
			&route.Plan.Burst, &override, &under, &now)
	})
	switch {
	case errors.Is(err, sql.ErrNoRows):
		if known, err := p.meet(ctx, tenant); err != nil {
			return nil, err
		} else if known {
			return p.Lookup(ctx, tenant)
		}
		return nil, fmt.Errorf("%w: %q", resolver.ErrTenantNotFound, cut(tenant))
	case err != nil:
		return nil, err
	}
	route.Plan.StatementTimeout = timeoutFromMillis(timeout)
	var t TenantInfo
	if err := t.readOverrides(override, under); err != nil {
		return nil, resolver.UnusableRoute(err)
	}
	route.Plan = t.limits(route.Plan, now)
	if !slices.Contains(models, route.Model) || !slices.Contains(states, route.State) {
		return nil, resolver.UnusableRoute(fmt.Errorf("model %q and state %q are not both known: use a newer program",
			cut(string(route.Model)), cut(string(route.State))))
	}
	if route.Shard.DSN, err = expandField(route.Shard.Name, "dsn", route.Shard.DSN); err != nil {
		return nil, resolver.UnusableRoute(err)
	}
	return &route, nil
}

// Shard returns a shard; see [Store].
func (p *Postgres) Shard(ctx context.Context, name string) (resolver.Shard, error) {
	var shard *Shard
	err := p.read(ctx, "reading a shard", func() error {
		rows, err := p.db.QueryContext(ctx, p.shardSQL, name)
		shard, err = one(rows, err, scanShard)
		return err
	})
	if shard, err = must(shard, err, ErrShardNotFound, name); err != nil {
		return resolver.Shard{}, err
	}
	return expandShard(*shard)
}

// Shards returns all shards; see [Store].
func (p *Postgres) Shards(ctx context.Context) ([]resolver.Shard, error) {
	var shards []Shard
	err := p.read(ctx, "reading the shards", func() error {
		rows, err := p.db.QueryContext(ctx, p.shardsSQL)
		shards, err = collect(rows, err, scanShard)
		return err
	})
	if err != nil {
		return nil, err
	}
	return expandShards(shards)
}

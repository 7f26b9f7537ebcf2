package registry

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"

	"github.com/sharded-pg/sharded-pg/resolver"
)

const lookupSQL = `select t.database, t.model, t.schema, t.role, t.state, t.epoch, s.name, s.dsn,
       p.name, p.statement_timeout_ms, p.work_mem_kb, p.max_conns, p.weight, p.rate
  from {s}.tenants t
  join {s}.shards s on s.name = t.shard
  join {s}.plans p on p.name = t.plan
 where t.id = $1`

const (
	shardSQL  = `select name, dsn, admin_dsn from {s}.shards where name = $1`
	shardsSQL = `select name, dsn, admin_dsn from {s}.shards order by name collate "C"`
)

// Lookup returns the route of a tenant with one query; see [Store]. It returns soon after ctx ends, whatever the network does.
func (p *Postgres) Lookup(ctx context.Context, tenant string) (*resolver.Route, error) {
	if err := resolver.ValidTenantID(tenant); err != nil {
		return nil, err
	}
	route := resolver.Route{Tenant: tenant}
	var timeout *int64
	err := p.read(ctx, "looking up a tenant", func() error {
		return p.db.QueryRowContext(ctx, p.lookupSQL, tenant).Scan(
			&route.Database, &route.Model, &route.Schema, &route.Role, &route.State, &route.Epoch,
			&route.Shard.Name, &route.Shard.DSN,
			&route.Plan.Name, &timeout, &route.Plan.WorkMemKB, &route.Plan.MaxConns, &route.Plan.Weight, &route.Plan.Rate)
	})
	switch {
	case errors.Is(err, sql.ErrNoRows):
		return nil, fmt.Errorf("%w: %q", resolver.ErrTenantNotFound, cut(tenant))
	case err != nil:
		return nil, err
	}
	route.Plan.StatementTimeout = timeoutFromMillis(timeout)
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
func (p *Postgres) Shard(ctx context.Context, name string) (Shard, error) {
	var shard Shard
	err := p.read(ctx, "reading a shard", func() error {
		return p.db.QueryRowContext(ctx, p.shardSQL, name).Scan(&shard.Name, &shard.DSN, &shard.AdminDSN)
	})
	switch {
	case errors.Is(err, sql.ErrNoRows):
		return Shard{}, fmt.Errorf("%w: %q", ErrShardNotFound, cut(name))
	case err != nil:
		return Shard{}, err
	}
	return expandShard(shard)
}

// Shards returns all shards; see [Store].
func (p *Postgres) Shards(ctx context.Context) ([]Shard, error) {
	var shards []Shard
	err := p.read(ctx, "reading the shards", func() (err error) {
		shards, err = p.storedShards(ctx)
		return err
	})
	if err != nil {
		return nil, err
	}
	return expandShards(shards)
}

func (p *Postgres) storedShards(ctx context.Context) (shards []Shard, err error) {
	rows, err := p.db.QueryContext(ctx, p.shardsSQL)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, rows.Close()) }()
	for rows.Next() {
		var shard Shard
		if err := rows.Scan(&shard.Name, &shard.DSN, &shard.AdminDSN); err != nil {
			return nil, err
		}
		shards = append(shards, shard)
	}
	return shards, rows.Err()
}

package main

import (
	"context"
	"database/sql"
	"errors"
	"time"

	shardedpg "github.com/sharded-pg/sharded-pg"
	"github.com/sharded-pg/sharded-pg/registry"
	"github.com/sharded-pg/sharded-pg/resolver"
)

// sharded is this module as a user has it: a connector, a *sql.DB, the tenant in the context.
type sharded struct {
	connector *shardedpg.Connector
	db        *sql.DB
}

func openSharded(_ context.Context, cfg peerConfig) (peer, error) {
	connector, err := shardedpg.NewConnector(shardedpg.Config{
		Store: registry.NewStatic(shardedFleet(cfg)),
		GUC:   tenantSetting,
		// A tenant gets at most half of a shard's slots, and the hot one needs as many as there are goroutines.
		MaxConns: 2 * cfg.concurrency,
	})
	if err != nil {
		return nil, err
	}
	db := sql.OpenDB(connector)
	db.SetMaxIdleConns(cfg.concurrency)
	return &sharded{connector: connector, db: db}, nil
}

// starter is the plan as it is shipped, except that all goroutines of a case may work for one tenant.
func starter(cfg peerConfig) resolver.Plan {
	return resolver.Plan{Name: "starter", StatementTimeout: 30 * time.Second, WorkMemKB: 16 << 10,
		MaxConns: max(5, cfg.concurrency), Weight: 1}
}

func (p *sharded) Do(ctx context.Context, tenant string, fn func(context.Context, querier) error) error {
	return fn(shardedpg.WithTenant(ctx, tenant), p.db)
}

func (p *sharded) Tx(ctx context.Context, tenant string, fn func(context.Context, querier) error) error {
	return inTx(shardedpg.WithTenant(ctx, tenant), p.db, fn)
}

func (p *sharded) Close() error { return errors.Join(p.db.Close(), p.connector.Close()) }

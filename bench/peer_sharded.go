package main

import (
	"cmp"
	"context"
	"database/sql"
	"errors"
	"time"

	"github.com/jackc/pgx/v5"

	shardedpg "github.com/sharded-pg/sharded-pg"
	"github.com/sharded-pg/sharded-pg/registry"
)

// sharded is this module as a user has it: a connector, a *sql.DB, the tenant in the context.
type sharded struct {
	store     *registry.Static
	connector *shardedpg.Connector
	db        *sql.DB
}

func openSharded(_ context.Context, cfg peerConfig) (peer, error) {
	return newSharded(oneShard(cfg), cfg)
}

func newSharded(fleet registry.Fleet, cfg peerConfig) (*sharded, error) {
	store, err := registry.NewStatic(fleet)
	if err != nil {
		return nil, err
	}
	connector, err := shardedpg.NewConnector(shardedpg.Config{
		Store:    store,
		GUC:      tenantSetting,
		MaxConns: cfg.conns, // 0: the default
		// A registry in memory answers at once, but on a full machine the goroutine that asks it may have to wait.
		LookupTimeout: 10 * time.Second,
		ConfigureConn: func(_ string, conn *pgx.ConnConfig) error {
			cfg.adjust(conn)
			return nil
		},
	})
	if err != nil {
		return nil, errors.Join(err, store.Close())
	}
	db := sql.OpenDB(connector)
	db.SetMaxIdleConns(cfg.concurrency)
	return &sharded{store: store, connector: connector, db: db}, nil
}

// oneShard has all tenants on the one server, on the plan starter as it is shipped, except that it has no rate and that all
// goroutines of a case may work for the hot tenant. A noisy tenant is on the plan growth, with the work_mem that all peers
// have: its statements have to be the same everywhere.
func oneShard(cfg peerConfig) registry.Fleet {
	const plan = "starter"
	fleet := registry.Fleet{
		Shards: []registry.Shard{{Name: "s1", DSN: cfg.dsn}},
		Plans: []registry.Plan{{
			Name: plan, StatementTimeout: 30 * time.Second, WorkMemKB: 16 << 10,
			MaxConns: max(5, cfg.concurrency), Weight: 2,
		}},
	}
	if cfg.noisy != "" {
		fleet.Plans = nil // as shipped
		for _, p := range registry.DefaultPlans() {
			if p.Name == "growth" {
				p.WorkMemKB = noisyWorkMemKB
				p.MaxConns = cmp.Or(cfg.noisyConns, p.MaxConns)
				fleet.Plans = append(fleet.Plans, p)
				fleet.Tenants = append(fleet.Tenants, registry.Tenant{ID: cfg.noisy, Shard: "s1", Plan: p.Name})
			}
		}
	}
	for _, id := range cfg.tenants {
		fleet.Tenants = append(fleet.Tenants, registry.Tenant{ID: id, Shard: "s1", Plan: plan})
	}
	return fleet
}

func (p *sharded) Do(ctx context.Context, tenant string, fn func(context.Context, querier) error) error {
	return fn(shardedpg.WithTenant(ctx, tenant), p.db)
}

func (p *sharded) Tx(ctx context.Context, tenant string, fn func(context.Context, querier) error) error {
	return inTx(shardedpg.WithTenant(ctx, tenant), p.db, fn)
}

func (p *sharded) Close() error {
	return errors.Join(p.db.Close(), p.connector.Close(), p.store.Close())
}

package main

import (
	"context"
	"database/sql"
	"fmt"
	"slices"
	"time"

	_ "github.com/jackc/pgx/v5/stdlib" // the driver to compare with

	shardedpg "github.com/sharded-pg/sharded-pg"
	"github.com/sharded-pg/sharded-pg/registry"
)

const (
	rounds    = 20
	perRound  = 50
	farRounds = 4 // over the slow line
)

// measured is one line of the comparison: what is done, and the median of how long it takes.
type measured struct {
	what string
	p50  time.Duration
}

// compare measures the same read of one row by plain pgx, whose connection belongs to one tenant for ever, and by
// sharded-pg, on the same server. The two take turns, so that whatever disturbs the machine disturbs both.
func compare(ctx context.Context, dsn string, rounds int) ([]measured, error) {
	plain, err := sql.Open("pgx", dsn+" app.current_tenant_id=acme")
	if err != nil {
		return nil, err
	}
	defer func() { _ = plain.Close() }()
	plan := registry.DefaultPlans()[0]
	plan.Rate = 0 // the comparison asks as fast as it can
	store, err := registry.NewStatic(registry.Fleet{
		Shards:  []registry.Shard{{Name: "eu", DSN: dsn}},
		Plans:   []registry.Plan{plan},
		Tenants: []registry.Tenant{{ID: "acme", Shard: "eu"}, {ID: "globex", Shard: "eu"}},
	})
	if err != nil {
		return nil, err
	}
	connector, err := shardedpg.NewConnector(shardedpg.Config{Store: store})
	if err != nil {
		return nil, err
	}
	sharded := sql.OpenDB(connector)
	defer func() { _ = sharded.Close() }()

	acme, globex := shardedpg.WithTenant(ctx, "acme"), shardedpg.WithTenant(ctx, "globex")
	var id int64
	if err := sharded.QueryRowContext(acme, "select min(id) from orders").Scan(&id); err != nil {
		return nil, err
	}
	peers := []struct {
		what string
		once func(n int) error
	}{
		{"plain pgx, one tenant per connection", func(int) error { return read(ctx, plain, id) }},
		{"sharded-pg, the same tenant again", func(int) error { return read(acme, sharded, id) }},
		{"sharded-pg, another tenant each time", func(n int) error {
			if n%2 == 0 {
				return read(globex, sharded, id)
			}
			return read(acme, sharded, id)
		}},
		{"plain pgx, transaction of one read", func(int) error { return transaction(ctx, plain, id) }},
		{"sharded-pg, transaction of one read", func(int) error { return transaction(acme, sharded, id) }},
	}
	samples := make([][]time.Duration, len(peers))
	for round := range rounds + 1 {
		for p, peer := range peers {
			for n := range perRound {
				start := time.Now()
				if err := peer.once(n); err != nil {
					return nil, fmt.Errorf("%s: %w", peer.what, err)
				}
				if round > 0 { // the first one warms up
					samples[p] = append(samples[p], time.Since(start))
				}
			}
		}
	}
	results := make([]measured, len(peers))
	for p, peer := range peers {
		slices.Sort(samples[p])
		results[p] = measured{peer.what, samples[p][len(samples[p])/2]}
	}
	return results, nil
}

type querier interface {
	QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error)
}

// read does not mind that the row is somebody else's and not seen: the work is the same.
func read(ctx context.Context, q querier, id int64) error {
	rows, err := q.QueryContext(ctx, "select id, item, quantity from orders where id = $1", id)
	if err != nil {
		return err
	}
	defer func() { _ = rows.Close() }()
	var o order
	for rows.Next() {
		if err := rows.Scan(&o.ID, &o.Item, &o.Quantity); err != nil {
			return err
		}
	}
	return rows.Err()
}

func transaction(ctx context.Context, db *sql.DB, id int64) error {
	tx, err := db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback() }()
	if err := read(ctx, tx, id); err != nil {
		return err
	}
	return tx.Commit()
}

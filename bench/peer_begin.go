package main

import (
	"context"
	"database/sql"

	"github.com/jackc/pgx/v5/stdlib"
)

// setLocal names the tenant until the transaction ends.
const setLocal = "select set_config('" + tenantSetting + "', $1, true)"

// beginSetCommit wraps each statement into a transaction that first names the tenant.
type beginSetCommit struct{ db *sql.DB }

func openBegin(_ context.Context, cfg peerConfig) (peer, error) {
	conn, err := cfg.connConfig()
	if err != nil {
		return nil, err
	}
	db := stdlib.OpenDB(*conn)
	db.SetMaxOpenConns(cfg.conns)
	db.SetMaxIdleConns(cfg.concurrency)
	return &beginSetCommit{db: db}, nil
}

func (p *beginSetCommit) Do(ctx context.Context, tenant string, fn func(context.Context, querier) error) error {
	return p.Tx(ctx, tenant, fn)
}

func (p *beginSetCommit) Tx(ctx context.Context, tenant string, fn func(context.Context, querier) error) error {
	return inTx(ctx, p.db, func(ctx context.Context, q querier) error {
		if _, err := q.ExecContext(ctx, setLocal, tenant); err != nil {
			return err
		}
		return fn(ctx, q)
	})
}

func (p *beginSetCommit) Close() error { return p.db.Close() }

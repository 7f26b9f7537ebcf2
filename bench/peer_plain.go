package main

import (
	"context"
	"database/sql"

	"github.com/jackc/pgx/v5/stdlib"
)

// plain is the limit: one tenant, named once when the connection starts, so a statement costs what row-level security
// itself costs and nothing else. It cannot serve a second tenant.
type plain struct{ db *sql.DB }

func openPlain(_ context.Context, cfg peerConfig) (peer, error) {
	conn, err := cfg.connConfig()
	if err != nil {
		return nil, err
	}
	conn.RuntimeParams[tenantSetting] = cfg.fixed
	db := stdlib.OpenDB(*conn)
	db.SetMaxIdleConns(cfg.concurrency)
	return &plain{db: db}, nil
}

func (p *plain) Do(ctx context.Context, _ string, fn func(context.Context, querier) error) error {
	return fn(ctx, p.db)
}

func (p *plain) Tx(ctx context.Context, _ string, fn func(context.Context, querier) error) error {
	return inTx(ctx, p.db, fn)
}

func (p *plain) Close() error { return p.db.Close() }

// beginner is a *sql.DB or a *sql.Conn.
type beginner interface {
	BeginTx(ctx context.Context, opts *sql.TxOptions) (*sql.Tx, error)
}

// inTx runs fn in a transaction, as callers of database/sql do.
func inTx(ctx context.Context, db beginner, fn func(context.Context, querier) error) error {
	tx, err := db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	if err := fn(ctx, tx); err != nil {
		_ = tx.Rollback() // the error of the statement is the one to report
		return err
	}
	return tx.Commit()
}

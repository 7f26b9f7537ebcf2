package main

import (
	"context"
	"database/sql"
	"errors"

	"github.com/jackc/pgx/v5/stdlib"
)

// plain is the limit: a tenant is named once when a connection starts, so a statement costs what row-level security
// itself costs and nothing else. A connection cannot serve a second tenant, so there is a *sql.DB for the hot one and one
// for the wide one.
type plain struct {
	hot, wide  *sql.DB
	wideTenant string
}

func openPlain(_ context.Context, cfg peerConfig) (peer, error) {
	conn, err := cfg.connConfig()
	if err != nil {
		return nil, err
	}
	open := func(tenant string, conns int) *sql.DB {
		own := conn.Copy()
		own.RuntimeParams[tenantSetting] = tenant
		db := stdlib.OpenDB(*own)
		db.SetMaxOpenConns(conns)
		db.SetMaxIdleConns(cfg.concurrency)
		return db
	}
	return &plain{hot: open(cfg.tenants[0], cfg.conns), wide: open(cfg.wide, cfg.share()), wideTenant: cfg.wide}, nil
}

func (p *plain) db(tenant string) *sql.DB {
	if tenant == p.wideTenant {
		return p.wide
	}
	return p.hot
}

func (p *plain) Do(ctx context.Context, tenant string, fn func(context.Context, querier) error) error {
	return fn(ctx, p.db(tenant))
}

func (p *plain) Tx(ctx context.Context, tenant string, fn func(context.Context, querier) error) error {
	return inTx(ctx, p.db(tenant), fn)
}

func (p *plain) Close() error { return errors.Join(p.hot.Close(), p.wide.Close()) }

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

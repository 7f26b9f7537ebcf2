package main

import (
	"cmp"
	"context"
	"database/sql"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/stdlib"
)

// plain is the limit: a tenant is named once when a connection starts, so a statement costs what row-level security
// itself costs and nothing else. A connection cannot serve a second tenant, so there is a *sql.DB for the hot one and one
// for the wide one.
type plain struct {
	hot, wide  *sql.DB
	wideTenant string
}

func openPlain(ctx context.Context, cfg peerConfig) (peer, error) {
	return openFixed(ctx, cfg, func(*pgx.ConnConfig, string) []stdlib.OptionOpenDB { return nil })
}

// openFixed opens the two, with connections of one tenant each that adjust may change.
func openFixed(ctx context.Context, cfg peerConfig, adjust func(*pgx.ConnConfig, string) []stdlib.OptionOpenDB) (peer, error) {
	conn, err := cfg.connConfig()
	if err != nil {
		return nil, err
	}
	open := func(tenant string, conns int) *sql.DB {
		own := conn.Copy()
		own.RuntimeParams[tenantSetting] = tenant
		options := adjust(own, tenant)
		db := stdlib.OpenDB(*own, options...)
		db.SetMaxOpenConns(conns)
		db.SetMaxIdleConns(cfg.concurrency)
		return db
	}
	p := &plain{hot: open(cfg.tenants[0], cfg.conns), wide: open(cfg.wide, cmp.Or(cfg.noisyConns, cfg.share())), wideTenant: cfg.wide}
	if cfg.noisyIdle {
		if err := runWhenIdle(ctx, p.wide, cfg.share()); err != nil {
			return nil, errors.Join(err, p.Close())
		}
	}
	return p, nil
}

// runWhenIdle opens all connections of a pool and lets their server processes have what processor time is left.
func runWhenIdle(ctx context.Context, db *sql.DB, conns int) (err error) {
	for range conns {
		conn, err := db.Conn(ctx)
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, conn.Close()) }()
		var pid int
		if err := conn.QueryRowContext(ctx, "select pg_backend_pid()").Scan(&pid); err != nil {
			return err
		}
		if err := idleClass(pid); err != nil {
			return fmt.Errorf("give a server process the idle scheduling class: %w", err)
		}
	}
	return nil
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

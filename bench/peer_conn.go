package main

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"

	"github.com/jackc/pgx/v5/stdlib"
)

const (
	setSession   = "select set_config('" + tenantSetting + "', $1, false)"
	resetSession = "reset " + tenantSetting
)

// connSetReset takes a connection out of the pool, names the tenant for the session and takes the name away again.
type connSetReset struct{ db *sql.DB }

func openConn(_ context.Context, cfg peerConfig) (peer, error) {
	conn, err := cfg.connConfig()
	if err != nil {
		return nil, err
	}
	db := stdlib.OpenDB(*conn)
	db.SetMaxOpenConns(cfg.conns)
	db.SetMaxIdleConns(cfg.concurrency)
	return &connSetReset{db: db}, nil
}

func (p *connSetReset) Do(ctx context.Context, tenant string, fn func(context.Context, querier) error) error {
	return p.with(ctx, tenant, func(ctx context.Context, conn *sql.Conn) error { return fn(ctx, conn) })
}

func (p *connSetReset) Tx(ctx context.Context, tenant string, fn func(context.Context, querier) error) error {
	return p.with(ctx, tenant, func(ctx context.Context, conn *sql.Conn) error { return inTx(ctx, conn, fn) })
}

func (p *connSetReset) with(ctx context.Context, tenant string, fn func(context.Context, *sql.Conn) error) (err error) {
	conn, err := p.db.Conn(ctx)
	if err != nil {
		return err
	}
	defer func() {
		// The reset must run although the caller has gone away; when it fails, nobody may get this connection.
		if _, resetErr := conn.ExecContext(context.WithoutCancel(ctx), resetSession); resetErr != nil {
			_ = conn.Raw(func(any) error { return driver.ErrBadConn })
			err = errors.Join(err, resetErr)
		}
		_ = conn.Close()
	}()
	if _, err := conn.ExecContext(ctx, setSession, tenant); err != nil {
		return err
	}
	return fn(ctx, conn)
}

func (p *connSetReset) Close() error { return p.db.Close() }

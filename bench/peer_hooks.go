package main

import (
	"context"
	"database/sql"
	"errors"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/jackc/pgx/v5/stdlib"
)

// poolHooks lets pgxpool name the tenant when a connection leaves the pool and take the name away when it comes back.
type poolHooks struct {
	pool *pgxpool.Pool
	db   *sql.DB
}

type hooksTenant struct{}

func openHooks(ctx context.Context, cfg peerConfig) (peer, error) {
	pc, err := pgxpool.ParseConfig(cfg.dsn)
	if err != nil {
		return nil, err
	}
	cfg.adjust(pc.ConnConfig)
	// AfterRelease runs beside the caller, who meanwhile takes another connection: twice as many keep it from waiting.
	pc.MaxConns = int32(2*cfg.concurrency + 2)
	if cfg.conns > 0 {
		pc.MaxConns = int32(cfg.conns)
	}
	pc.PrepareConn = func(ctx context.Context, conn *pgx.Conn) (bool, error) {
		tenant, ok := ctx.Value(hooksTenant{}).(string)
		if !ok {
			return true, errors.New("no tenant in the context")
		}
		_, err := conn.Exec(ctx, setSession, tenant)
		return err == nil, err
	}
	pc.AfterRelease = func(conn *pgx.Conn) bool {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second) // the caller's context may have ended
		defer cancel()
		_, err := conn.Exec(ctx, resetSession)
		return err == nil
	}
	pool, err := pgxpool.NewWithConfig(ctx, pc)
	if err != nil {
		return nil, err
	}
	// The only peer without SetMaxIdleConns(concurrency): OpenDBFromPool sets it to 0 and it must stay so. A connection
	// kept by database/sql does not pass the hooks and would serve the next tenant as the last one.
	return &poolHooks{pool: pool, db: stdlib.OpenDBFromPool(pool)}, nil
}

func (p *poolHooks) Do(ctx context.Context, tenant string, fn func(context.Context, querier) error) error {
	return fn(context.WithValue(ctx, hooksTenant{}, tenant), p.db)
}

func (p *poolHooks) Tx(ctx context.Context, tenant string, fn func(context.Context, querier) error) error {
	return inTx(context.WithValue(ctx, hooksTenant{}, tenant), p.db, fn)
}

func (p *poolHooks) Close() error {
	err := p.db.Close()
	p.pool.Close()
	return err
}

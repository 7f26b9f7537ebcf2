package main

import (
	"container/list"
	"context"
	"database/sql"
	"errors"
	"sync"

	"github.com/jackc/pgx/v5/stdlib"
)

// dbPerTenant keeps one *sql.DB per tenant, the tenant fixed at connection start. A server cannot hold a connection for
// each of 10,000 tenants, so it closes the least recently used *sql.DB when it holds as many as it may.
type dbPerTenant struct {
	cfg peerConfig

	mu     sync.Mutex
	dbs    map[string]*list.Element // of *tenantDB
	recent *list.List               // most recent first
}

type tenantDB struct {
	tenant string
	db     *sql.DB
	users  int
}

func openPerTenant(_ context.Context, cfg peerConfig) (peer, error) {
	return &dbPerTenant{cfg: cfg, dbs: map[string]*list.Element{}, recent: list.New()}, nil
}

func (p *dbPerTenant) Do(ctx context.Context, tenant string, fn func(context.Context, querier) error) error {
	return p.with(tenant, func(db *sql.DB) error { return fn(ctx, db) })
}

func (p *dbPerTenant) Tx(ctx context.Context, tenant string, fn func(context.Context, querier) error) error {
	return p.with(tenant, func(db *sql.DB) error { return inTx(ctx, db, fn) })
}

func (p *dbPerTenant) with(tenant string, fn func(*sql.DB) error) error {
	t, err := p.acquire(tenant)
	if err != nil {
		return err
	}
	defer func() {
		p.mu.Lock()
		t.users--
		p.mu.Unlock()
	}()
	return fn(t.db)
}

func (p *dbPerTenant) acquire(tenant string) (*tenantDB, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if e, ok := p.dbs[tenant]; ok {
		p.recent.MoveToFront(e)
		t := e.Value.(*tenantDB)
		t.users++
		return t, nil
	}
	conn, err := p.cfg.connConfig()
	if err != nil {
		return nil, err
	}
	conn.RuntimeParams[tenantSetting] = tenant
	p.evict()
	db := stdlib.OpenDB(*conn)
	db.SetMaxOpenConns(p.cfg.share())
	db.SetMaxIdleConns(p.cfg.concurrency)
	t := &tenantDB{tenant: tenant, db: db, users: 1}
	p.dbs[tenant] = p.recent.PushFront(t)
	return t, nil
}

// evict makes room for one more. Closing under the lock keeps the number of connections below the budget.
func (p *dbPerTenant) evict() {
	for e := p.recent.Back(); e != nil && len(p.dbs) >= p.cfg.backends; {
		older := e.Prev()
		if t := e.Value.(*tenantDB); t.users == 0 {
			_ = t.db.Close()
			p.recent.Remove(e)
			delete(p.dbs, t.tenant)
		}
		e = older
	}
}

func (p *dbPerTenant) Close() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	var errs []error
	for e := p.recent.Front(); e != nil; e = e.Next() {
		errs = append(errs, e.Value.(*tenantDB).db.Close())
	}
	return errors.Join(errs...)
}

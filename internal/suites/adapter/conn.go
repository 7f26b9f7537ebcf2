package adapter

import (
	"context"
	"database/sql/driver"

	"github.com/jackc/pgx/v5"

	shardedpg "github.com/sharded-pg/sharded-pg"
)

// conn forwards each call with a tenant in its context. It has every method of what it wraps: database/sql finds out what a
// driver can do by looking for them.
type conn struct {
	inner  *shardedpg.Conn
	c      *connector
	tenant string // of this checkout
}

var (
	_ driver.Conn                   = (*conn)(nil)
	_ driver.ConnBeginTx            = (*conn)(nil)
	_ driver.ConnPrepareContext     = (*conn)(nil)
	_ driver.ExecerContext          = (*conn)(nil)
	_ driver.QueryerContext         = (*conn)(nil)
	_ driver.NamedValueChecker      = (*conn)(nil)
	_ driver.Pinger                 = (*conn)(nil)
	_ driver.SessionResetter        = (*conn)(nil)
	_ driver.Validator              = (*conn)(nil)
	_ interface{ Conn() *pgx.Conn } = (*conn)(nil)
	_ driver.Stmt                   = (*stmt)(nil)
	_ driver.StmtExecContext        = (*stmt)(nil)
	_ driver.StmtQueryContext       = (*stmt)(nil)
)

func (c *conn) with(ctx context.Context) context.Context { return shardedpg.WithTenant(ctx, c.tenant) }

// ResetSession begins a checkout.
func (c *conn) ResetSession(ctx context.Context) error {
	c.tenant = c.c.next()
	return c.inner.ResetSession(c.with(ctx))
}

func (c *conn) IsValid() bool   { return c.inner.IsValid() }
func (c *conn) Close() error    { return c.inner.Close() }
func (c *conn) Conn() *pgx.Conn { return c.inner.Conn() }

func (c *conn) Leased() (tenant, shard, plan string) { return c.inner.Leased() }

func (c *conn) CheckNamedValue(v *driver.NamedValue) error { return c.inner.CheckNamedValue(v) }

func (c *conn) Ping(ctx context.Context) error { return c.inner.Ping(c.with(ctx)) }

func (c *conn) ExecContext(ctx context.Context, query string, args []driver.NamedValue) (driver.Result, error) {
	return c.inner.ExecContext(c.with(ctx), query, args)
}

func (c *conn) QueryContext(ctx context.Context, query string, args []driver.NamedValue) (driver.Rows, error) {
	return c.inner.QueryContext(c.with(ctx), query, args)
}

func (c *conn) BeginTx(ctx context.Context, opts driver.TxOptions) (driver.Tx, error) {
	return c.inner.BeginTx(c.with(ctx), opts)
}

func (c *conn) Begin() (driver.Tx, error) { return c.inner.Begin() }

func (c *conn) Prepare(query string) (driver.Stmt, error) { return c.inner.Prepare(query) }

func (c *conn) PrepareContext(ctx context.Context, query string) (driver.Stmt, error) {
	inner, err := c.inner.PrepareContext(c.with(ctx), query)
	if err != nil {
		return nil, err
	}
	return &stmt{inner: inner, c: c}, nil
}

// stmt is used by database/sql with its connection whenever that is checked out again.
type stmt struct {
	inner driver.Stmt
	c     *conn
}

func (s *stmt) Close() error  { return s.inner.Close() }
func (s *stmt) NumInput() int { return s.inner.NumInput() }

func (s *stmt) Exec(args []driver.Value) (driver.Result, error) { return s.inner.Exec(args) }  //nolint:staticcheck // part of driver.Stmt
func (s *stmt) Query(args []driver.Value) (driver.Rows, error)  { return s.inner.Query(args) } //nolint:staticcheck // part of driver.Stmt

func (s *stmt) ExecContext(ctx context.Context, args []driver.NamedValue) (driver.Result, error) {
	return s.inner.(driver.StmtExecContext).ExecContext(s.c.with(ctx), args)
}

func (s *stmt) QueryContext(ctx context.Context, args []driver.NamedValue) (driver.Rows, error) {
	return s.inner.(driver.StmtQueryContext).QueryContext(s.c.with(ctx), args)
}

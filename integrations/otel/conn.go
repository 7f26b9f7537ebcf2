package otelshard

import (
	"context"
	"database/sql/driver"

	"github.com/jackc/pgx/v5"

	shardedpg "github.com/sharded-pg/sharded-pg"
)

// inner has a name of its own because a field Conn would hide the method Conn.
type inner = shardedpg.Conn

// conn is a virtual connection. It embeds the driver's, so that database/sql finds every interface on it that it finds there.
type conn struct {
	*inner
	t *telemetry
}

var (
	_ driver.ConnBeginTx            = (*conn)(nil)
	_ driver.ConnPrepareContext     = (*conn)(nil)
	_ driver.ExecerContext          = (*conn)(nil)
	_ driver.QueryerContext         = (*conn)(nil)
	_ driver.NamedValueChecker      = (*conn)(nil)
	_ driver.Pinger                 = (*conn)(nil)
	_ driver.SessionResetter        = (*conn)(nil)
	_ driver.Validator              = (*conn)(nil)
	_ interface{ Conn() *pgx.Conn } = (*conn)(nil)
	_ driver.StmtExecContext        = (*stmt)(nil)
	_ driver.StmtQueryContext       = (*stmt)(nil)
)

func (c *conn) ExecContext(ctx context.Context, query string, args []driver.NamedValue) (_ driver.Result, err error) {
	ctx, o := c.start(ctx, command(query), query)
	err = errPanic // what it stays if an argument's Value panics
	defer func() { o.returned(err) }()
	return c.inner.ExecContext(ctx, query, args)
}

func (c *conn) QueryContext(ctx context.Context, query string, args []driver.NamedValue) (_ driver.Rows, err error) {
	ctx, o := c.start(ctx, command(query), query)
	err = errPanic // what it stays if an argument's Value panics
	defer func() { o.returned(err) }()
	return c.inner.QueryContext(ctx, query, args)
}

func (c *conn) PrepareContext(ctx context.Context, query string) (_ driver.Stmt, err error) {
	ctx, o := c.start(ctx, "PREPARE", query)
	defer func() { o.returned(err) }()
	s, err := c.inner.PrepareContext(ctx, query)
	return &stmt{s, c, query}, err
}

func (c *conn) Ping(ctx context.Context) (err error) {
	ctx, o := c.start(ctx, "PING", "")
	defer func() { o.returned(err) }()
	return c.inner.Ping(ctx)
}

// BeginTx waits for the transaction's connection. The driver's transaction gets the caller's context, which it keeps: what it
// sends later is no part of this operation.
func (c *conn) BeginTx(ctx context.Context, opts driver.TxOptions) (driver.Tx, error) {
	_, o := c.start(ctx, "BEGIN", "")
	t, err := c.inner.BeginTx(ctx, opts)
	if err == nil {
		o.ready()
	}
	o.returned(err)
	return &tx{t, c, ctx}, err
}

// stmt gives its statements to the connection, as the driver's own does.
type stmt struct {
	driver.Stmt
	conn  *conn
	query string
}

func (s *stmt) ExecContext(ctx context.Context, args []driver.NamedValue) (driver.Result, error) {
	return s.conn.ExecContext(ctx, s.query, args)
}

func (s *stmt) QueryContext(ctx context.Context, args []driver.NamedValue) (driver.Rows, error) {
	return s.conn.QueryContext(ctx, s.query, args)
}

type tx struct {
	driver.Tx
	conn *conn
	ctx  context.Context // of the whole transaction, as database/sql has it
}

func (t *tx) Commit() error { return t.end("COMMIT", t.Tx.Commit) }

func (t *tx) Rollback() error { return t.end("ROLLBACK", t.Tx.Rollback) }

func (t *tx) end(name string, do func() error) error {
	_, o := t.conn.start(t.ctx, name, "")
	err := do()
	o.returned(err)
	return err
}

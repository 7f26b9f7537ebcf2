package shardedpg

import (
	"context"
	"database/sql/driver"
	"errors"
)

// stmt is a statement's text and number of parameters. It belongs to no connection: database/sql uses it with contexts of
// any tenant, and closes it when its connection is long given back. The server-side statement is in pgx's cache of the
// backend that runs it.
type stmt struct {
	conn   *Conn
	query  string
	inputs int
}

var (
	_ driver.Stmt             = (*stmt)(nil)
	_ driver.StmtExecContext  = (*stmt)(nil)
	_ driver.StmtQueryContext = (*stmt)(nil)
)

// PrepareContext checks a statement with the tenant of ctx, once for each text.
func (c *Conn) PrepareContext(ctx context.Context, query string) (driver.Stmt, error) {
	for try := 0; ; try++ {
		b, err := c.acquire(ctx)
		if err != nil {
			return nil, err
		}
		n, known := c.c.inputs.Get(query)
		c.lease.counted = known // nothing is sent, and the statement comes behind it
		if !known {
			n, err = b.Describe(ctx, c.text(query))
		}
		if err == nil {
			c.c.inputs.Add(query, n)
			return &stmt{conn: c, query: query, inputs: n}, nil
		}
		if err = c.failed(ctx, err, try); err != nil {
			return nil, err
		}
	}
}

// Prepare is the form without a context, which cannot name a tenant.
func (c *Conn) Prepare(query string) (driver.Stmt, error) {
	return c.PrepareContext(context.Background(), query) //nolint:forbidigo // fails without a tenant, before it waits
}

// Close does nothing: database/sql calls it with its own mutex held.
func (s *stmt) Close() error { return nil }

func (s *stmt) NumInput() int { return s.inputs }

func (s *stmt) ExecContext(ctx context.Context, args []driver.NamedValue) (driver.Result, error) {
	return s.conn.ExecContext(ctx, s.query, args)
}

func (s *stmt) QueryContext(ctx context.Context, args []driver.NamedValue) (driver.Rows, error) {
	return s.conn.QueryContext(ctx, s.query, args)
}

var errNoContext = errors.New("shardedpg: database/sql calls the forms with a context")

func (s *stmt) Exec([]driver.Value) (driver.Result, error) { return nil, errNoContext }
func (s *stmt) Query([]driver.Value) (driver.Rows, error)  { return nil, errNoContext }

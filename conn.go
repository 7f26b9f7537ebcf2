package shardedpg

import (
	"context"
	"database/sql/driver"
	"errors"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/sharded-pg/sharded-pg/internal/backend"
)

// Conn is a virtual connection. It holds nothing while it is idle in database/sql's pool; the first operation after a
// checkout takes a lease for the tenant of that operation's context, and giving the connection back ends it. sql.Conn.Raw
// hands it out for its method Conn.
type Conn struct {
	c      *Connector
	lease  lease
	tx     tx
	hinted string // the tenant of the context that checked the connection out, if database/sql told us

	// over is why nothing more runs before this checkout or its transaction ends. What goes on in a transaction that was lost must
	// not run outside one.
	over error
}

var (
	_ driver.Conn               = (*Conn)(nil)
	_ driver.ConnBeginTx        = (*Conn)(nil)
	_ driver.ConnPrepareContext = (*Conn)(nil)
	_ driver.ExecerContext      = (*Conn)(nil)
	_ driver.QueryerContext     = (*Conn)(nil)
	_ driver.NamedValueChecker  = (*Conn)(nil)
	_ driver.Pinger             = (*Conn)(nil)
	_ driver.SessionResetter    = (*Conn)(nil)
	_ driver.Validator          = (*Conn)(nil)
)

// ExecContext runs a statement for the tenant of ctx.
func (c *Conn) ExecContext(ctx context.Context, query string, args []driver.NamedValue) (driver.Result, error) {
	for try := 0; ; try++ {
		b, err := c.acquire(ctx)
		if err != nil {
			return nil, err
		}
		res, err := b.Conn().ExecContext(ctx, c.text(query), args)
		if err == nil {
			return res, nil
		}
		if err = c.failed(ctx, err, try); err != nil {
			return nil, err
		}
	}
}

// QueryContext runs a query for the tenant of ctx. The rows are pgx's own.
func (c *Conn) QueryContext(ctx context.Context, query string, args []driver.NamedValue) (driver.Rows, error) {
	done := false
	defer func() {
		if !done { // a panic in the caller's Valuer: database/sql will keep the connection for ever
			c.release()
			c.over = errAbandoned
		}
	}()
	for try := 0; ; try++ {
		b, err := c.acquire(ctx)
		if err != nil {
			done = true
			return nil, err
		}
		rows, err := b.Conn().QueryContext(ctx, c.text(query), args)
		if err == nil {
			done = true
			return rows, nil
		}
		if err = c.failed(ctx, err, try); err != nil {
			done = true
			return nil, err
		}
	}
}

// text is what goes to the server. Tenants with tables of different shapes must not share a cached statement: the schema
// in a comment makes it another text.
func (c *Conn) text(query string) string {
	if schema := c.lease.route.Schema; schema != "" && c.lease.settings.Role != "" {
		return query + "\n/* " + commentSafe(schema) + " */"
	}
	return query
}

// drop closes the lease's backend and keeps the slot for the next one.
func (c *Conn) drop() {
	l := &c.lease
	b := l.backend
	l.backend = nil
	l.gone = l.shard.pool.Discard(b, l.slot)
}

// Ping contacts the shard of the context's tenant; without a tenant, the registry.
func (c *Conn) Ping(ctx context.Context) error {
	if _, err := tenantOf(ctx); errors.Is(err, ErrNoTenant) && !c.lease.held() {
		return c.c.pingRegistry(ctx)
	}
	for try := 0; ; try++ {
		b, err := c.acquire(ctx)
		if err != nil {
			return err
		}
		if err = b.Conn().Conn().Ping(ctx); err == nil {
			return nil
		}
		if err = c.failed(ctx, err, try); err != nil {
			return err
		}
	}
}

// CheckNamedValue accepts everything: pgx knows more types than database/sql, and takes its options as arguments.
func (c *Conn) CheckNamedValue(*driver.NamedValue) error { return nil }

// ResetSession does nothing that could fail: database/sql drops its errors. It is told the context of the checkout, which
// Raw has no other way to learn.
func (c *Conn) ResetSession(ctx context.Context) error {
	c.hint(ctx)
	return nil
}

func (c *Conn) hint(ctx context.Context) { c.hinted, _ = TenantFrom(ctx) }

// IsValid is called when the connection goes back to database/sql's pool, and ends the lease.
func (c *Conn) IsValid() bool {
	c.release()
	return true
}

// Close ends the lease.
func (c *Conn) Close() error {
	c.release()
	return nil
}

// Conn returns the pgx connection of this checkout, for what database/sql cannot express (CopyFrom, batches, LISTEN); the
// tenant's settings are in force on it. The server connection is closed when the checkout ends. The tenant is the one of
// the first operation, or else of the context given to DB.Conn. Without either, and where no connection can be had, it
// returns nil, and cannot say why: ping with a tenant first.
func (c *Conn) Conn() *pgx.Conn {
	ctx := context.Background() //nolint:forbidigo // Raw gives none; AcquireTimeout and ConnectTimeout bound it
	if !c.lease.held() && c.hinted != "" {
		ctx = SwitchTenant(ctx, c.hinted)
	}
	for try := 0; ; try++ {
		b, err := c.acquire(ctx)
		if err != nil {
			return nil
		}
		conn, err := b.Raw(ctx, time.Now().Add(c.c.cfg.ConnectTimeout))
		if err == nil {
			return conn
		}
		if !errors.Is(err, backend.ErrReset) || try >= maxTries-1 && !b.Spoiled() {
			return nil
		}
		c.drop() // what it served before has left something that no reset takes away
		c.tx.statements = 0
	}
}

var _ interface{ Conn() *pgx.Conn } = (*Conn)(nil)

// Leased says whom this checkout holds a connection for, on which shard and by which plan: what a wrapper that traces
// statements cannot know. All are empty before the first operation, and after one that was refused.
func (c *Conn) Leased() (tenant, shard, plan string) {
	if l := &c.lease; l.held() {
		return l.tenant, l.shard.name, l.route.Plan.Name
	}
	return "", "", ""
}

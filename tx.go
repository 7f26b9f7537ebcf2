package shardedpg

import (
	"context"
	"database/sql/driver"
	"errors"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/sharded-pg/sharded-pg/internal/backend"
)

// tx is the open transaction of a virtual connection.
type tx struct {
	conn *Conn
	// database/sql's Tx carries its context for its whole life; Commit has no other.
	ctx        context.Context
	opts       driver.TxOptions
	open       bool
	statements int
}

var _ driver.Tx = (*tx)(nil)

// rollbackTimeout bounds a ROLLBACK, which runs on a context of its own: the transaction's has usually ended by then.
const rollbackTimeout = 5 * time.Second

// BeginTx takes a lease and sends nothing. BEGIN flies with the first statement, and its errors surface there.
func (c *Conn) BeginTx(ctx context.Context, opts driver.TxOptions) (driver.Tx, error) {
	if err := backend.CheckTxOptions(opts); err != nil {
		return nil, err
	}
	b, err := c.acquire(ctx)
	if err != nil {
		return nil, err
	}
	if c.tx.open || b.Status() != 'I' {
		return nil, &Error{Stage: StageStatement, Tenant: c.lease.tenant, Shard: c.lease.shard.name, Err: errors.New(
			"an earlier BeginTx, or a BEGIN sent as a statement, has a transaction open on this connection; end it before BeginTx")}
	}
	if err := b.Begin(opts); err != nil {
		return nil, err
	}
	c.tx = tx{conn: c, ctx: ctx, opts: opts, open: true}
	return &c.tx, nil
}

// Begin is the form without a context.
func (c *Conn) Begin() (driver.Tx, error) {
	return c.BeginTx(context.Background(), driver.TxOptions{}) //nolint:forbidigo // fails without a tenant, before it waits
}

// Commit ends the transaction. pgx.ErrTxCommitRollback says that the server rolled it back, because a statement in it had
// failed.
func (t *tx) Commit() error {
	c, ctx, ran := t.conn, t.ctx, t.statements > 0
	b, err := c.end(ctx)
	if b == nil || err != nil {
		return c.rollBack(ctx, b, err)
	}
	if (ran || b.Began()) && b.Dead() {
		return c.rollBack(ctx, b, c.lease.lost(lostTx, nil))
	}
	tag, err := b.End(ctx, true)
	switch {
	case err != nil && b.Dead():
		return c.commitLost(ctx, err)
	case err != nil && b.Status() != 'I': // not sent
		return c.rollBack(ctx, b, err)
	case tag == "ROLLBACK":
		return pgx.ErrTxCommitRollback
	}
	return err
}

// commitLost is the error of a COMMIT that the connection was lost with.
func (c *Conn) commitLost(ctx context.Context, err error) error {
	const what = "the connection was lost during COMMIT; the transaction may have been committed"
	l := &c.lease
	if ctx.Err() == nil {
		l.shard.pool.Flush()
	}
	var server *pgconn.PgError
	switch {
	case l.backend.Unanswered() && pgconn.SafeToRetry(err): // pgx says of a closed connection what is not so
		return l.lost(what, nil)
	case ctx.Err() == nil && (!errors.As(err, &server) || l.backend.Cut(server)):
		return l.lost(what, err)
	}
	return err
}

// Rollback ends the transaction; one that the server has lost already is rolled back.
func (t *tx) Rollback() error {
	c, ctx := t.conn, context.WithoutCancel(t.ctx) // end clears t
	b, err := c.end(ctx)
	return c.rollBack(ctx, b, err)
}

// rollBack ends the transaction that b is in, if any, for a reason or because it was asked for. Nobody comes back to one whose
// end failed, and on a *sql.Conn the next statements would be in it.
func (c *Conn) rollBack(ctx context.Context, b *backend.Backend, reason error) error {
	if b == nil {
		return reason
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), rollbackTimeout)
	defer cancel()
	_, err := b.End(ctx, false)
	if err != nil && !b.Dead() { // not sent: rows that were opened through Raw are in the way
		c.drop()
	}
	if reason == nil {
		return err
	}
	return reason
}

// end takes the transaction off the connection and says what is left to finish. No backend: it never got that far, or
// the connection was lost.
func (c *Conn) end(ctx context.Context) (*backend.Backend, error) {
	open := c.tx.open
	l := &c.lease
	statements := c.tx.statements
	c.tx = tx{}
	switch {
	case open && c.over != nil:
		err := c.over
		c.over = nil
		return nil, err
	case !open || !l.held():
		return nil, nil
	case l.backend == nil:
		if statements > 0 {
			return nil, l.lost(lostTx, nil)
		}
		return nil, nil
	case l.backend.BrokeTx():
		return l.backend, &Error{Stage: StageStatement, Tenant: l.tenant, Shard: l.shard.name, Err: errBrokenTx, sent: true}
	}
	return l.backend, ctx.Err()
}

package shardedpg

import (
	"context"
	"database/sql/driver"
	"errors"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/sharded-pg/sharded-pg/internal/backend"
)

// failed says what an error of the last statement means: nil to run it again, else the error for the caller.
func (c *Conn) failed(ctx context.Context, err error, try int) error {
	if err = c.verdict(ctx, err, try); err == nil {
		c.tx.statements--
		c.lease.counted = true
	}
	return err
}

func (c *Conn) verdict(ctx context.Context, err error, try int) error {
	l := &c.lease
	b := l.backend
	if refused := b.Refused(); refused != nil {
		return &Error{Stage: StageStatement, Tenant: l.tenant, Shard: l.shard.name, Err: refused}
	}
	var server *pgconn.PgError
	if !errors.As(err, &server) {
		return c.broken(ctx, err, try)
	}
	code := b.PrologueFailure()
	switch {
	case backend.PoolFull(server): // not again: each try would wait as long
		return l.backendError(server)
	case b.Cut(server):
		return c.cut(server, try)
	case code != "":
		return c.prologueFailed(ctx, server, code, try)
	}
	switch server.Code {
	case "57P01", "57P02", "57P03":
		l.shard.pool.Flush()
	case "25006": // a transaction that only reads, or a server that was the primary once
		if c.demoted(ctx, server, try) {
			return nil
		}
	case "28000":
		if backend.Unverified(server) {
			return c.unverified(server, try)
		}
	case "0A000": // a cached plan met changed tables: raised before execution, and pgx has dropped the statement
		if server.Routine == "RevalidateCachedQuery" && try < maxReplans && raisedAtTop(server, b) && c.restart(ctx) {
			return nil
		}
	case "08P01": // a cached description met changed tables: the same, in the mode that caches no plans
		if server.Routine == "PortalSetResultFormat" && try < maxReplans && raisedAtTop(server, b) && c.restart(ctx) {
			return nil
		}
	case "26000": // the cached statement was taken away out of sight: not found before execution, and pgx has dropped it
		if server.Routine == "FetchPreparedStatement" && try < maxTries-1 && raisedAtTop(server, b) && c.restart(ctx) {
			return nil
		}
	case "25001": // refuses a transaction block: nothing ran
		if !c.tx.open && b.Status() == 'I' && !b.Outside() && raisedAtTop(server, b) {
			if b.OutsideTx(ctx) == nil {
				l.outside = true
				return nil
			}
			if ctx.Err() != nil { // it would have run, had the caller waited
				return ctx.Err()
			}
		}
	case "2D000": // a block or a procedure that commits, and the first COMMIT was refused: all of it is undone
		if !c.tx.open && b.Status() == 'I' && b.JoinedOnly() && b.OutsideTx(ctx) == nil {
			l.outside = true
			return nil
		}
	}
	return err
}

// demoted reports whether a statement was refused by a server that no longer takes writes, so that another one may take it.
// Inside a transaction the caller has to know; the server is asked when the connection is given back.
func (c *Conn) demoted(ctx context.Context, server *pgconn.PgError, try int) bool {
	l := &c.lease
	b := l.backend
	if l.settings.ReadOnly || c.tx.open && c.tx.opts.ReadOnly {
		return false
	}
	if c.tx.open || b.Status() != 'I' || b.Used() || try >= maxTries-1 || !raisedAtTop(server, b) {
		b.Doubt()
		return false
	}
	if !l.shard.pool.Demoted(ctx, b) {
		return false
	}
	c.drop()
	return true
}

// unverified handles the database's word that it does not believe who the tenant is. Most likely the key was taken away from
// the shard since the connection was made: another one takes another key. What failed as a whole may run again.
func (c *Conn) unverified(server *pgconn.PgError, try int) error {
	l, b := &c.lease, c.lease.backend
	whole := !b.Multi() && !strings.Contains(server.Where, "\n") && (!c.tx.open || c.tx.statements <= 1)
	if try == 0 && whole && !b.SentInBlock() && !b.Used() {
		c.drop()
		return nil
	}
	hint := server.Hint
	if hint == "" {
		hint = "check the keys with shardedpg rls keys list"
	}
	return &Error{Stage: StagePrologue, Tenant: l.tenant, Shard: l.shard.name, sent: true, Err: fmt.Errorf("%w: %w; %s", ErrPrologue, server, hint)}
}

// raisedAtTop reports whether an error is about the statement itself. An error with a context was raised inside a block or
// a procedure, one in a string of several statements perhaps behind another: both may have committed something before.
func raisedAtTop(server *pgconn.PgError, b *backend.Backend) bool {
	return server.Where == "" && !b.Multi()
}

// restart makes the statement that just failed the first one again: outside transactions it is, and in one of the
// driver's it can be made so while nothing else has run in it.
func (c *Conn) restart(ctx context.Context) bool {
	b := c.lease.backend
	if !c.tx.open {
		return b.Status() == 'I'
	}
	if c.tx.statements > 1 {
		return false
	}
	if _, err := b.End(ctx, false); err != nil {
		return false
	}
	return b.Begin(c.tx.opts) == nil
}

// prologueFailed handles an error in a part of the flight that is ours: nothing of the caller's ran. A backend on which
// the reset failed, or the driver's statements are gone, is replaced. Behind a pooler the reset runs under whatever
// statement_timeout the server connection's last user has left, so its being cancelled says nothing about this one.
func (c *Conn) prologueFailed(ctx context.Context, server *pgconn.PgError, code string, try int) error {
	l := &c.lease
	// The query of the reset divides by zero. Behind a pooler its block is open then, so that the pooler closes the server connection with ours.
	spoiled := l.backend.Spoiled() || code == "22012"
	switch {
	case code == "57014" && !spoiled && !(l.backend.Pooled() && ctx.Err() == nil): // cancelled, as it may happen to any statement
		c.leaveOpenBlock()
		return server
	case strings.HasPrefix(code, "57P"): // shut down, or idle for too long as others may be
		l.shard.pool.Flush()
	}
	// Of spoiled connections there may be more than tries; each one is closed here, and a new one needs no reset. A reset is in front of
	// the lease's first statement, so what is left on the connection is not this one's, and of its transaction nothing has run: statements
	// that were counted before were refused.
	again := spoiled || try < maxTries-1 && !l.backend.Used()
	if again && (!c.tx.open || c.tx.statements <= 1 || spoiled) && !l.backend.SentInBlock() {
		c.tx.statements = min(c.tx.statements, 1)
		c.drop()
		return nil
	}
	if server.SeverityUnlocalized == "FATAL" { // the session's end, in front of which the settings only happened to fly
		return server
	}
	advice := "check the tenant's plan, schema and role"
	if code == "26000" { // a hidden DEALLOCATE: the driver prepares its statements again before the next use
		if try < maxTries-1 && !l.backend.SentInBlock() && c.restart(ctx) {
			return nil
		}
		advice = "a function or DO block called in this transaction has taken the driver's prepared statements away " +
			"(DEALLOCATE, DISCARD); roll it back, and call that outside transactions"
	}
	c.leaveOpenBlock()
	return &Error{Stage: StagePrologue, Tenant: l.tenant, Shard: l.shard.name, Err: fmt.Errorf(
		"%w: %s (SQLSTATE %s); %s", ErrPrologue, server.Message, code, advice)}
}

// leaveOpenBlock closes a connection behind a pooler on which the block of the reset was left open by its failure. (Without a pooler it has been replaced.)
// Nothing is put in front of a statement that may end a failed block, so what comes behind it would meet what the reset has not taken away.
func (c *Conn) leaveOpenBlock() {
	if b := c.lease.backend; b.Pooled() && b.Status() != 'I' && !b.SentInBlock() {
		c.drop()
	}
}

// cut handles the end of a connection that a pooler tells of. It has sent the flight on, unless it says that it could not.
func (c *Conn) cut(server *pgconn.PgError, try int) error {
	l := &c.lease
	if !backend.Unsent(server) || l.backend.SentInBlock() {
		return l.lost(c.lostWhat(), server)
	}
	if try < maxTries-1 && (!c.tx.open || c.tx.statements <= 1) && !l.backend.Used() {
		c.drop()
		return nil
	}
	return l.backendError(server)
}

// maxReplans bounds how often a statement is prepared again because tables changed: under a migration of several steps the
// next one may come before the statement does.
const maxReplans = 10

// maxTries bounds how often a statement of which nothing was sent is tried on another backend.
const maxTries = 3

// broken handles errors that are not the server's.
func (c *Conn) broken(ctx context.Context, err error, try int) error {
	l := &c.lease
	unsent := errors.Is(err, driver.ErrBadConn) || pgconn.SafeToRetry(err)
	if l.backend.Unanswered() && unsent {
		err, unsent = l.lost(c.lostWhat(), nil), false
	} else if !unsent && l.backend.Dead() && ctx.Err() == nil {
		err = l.lost(c.lostWhat(), err)
	}
	if !unsent {
		if l.backend.Dead() && ctx.Err() == nil {
			l.shard.pool.Flush()
		}
		return err
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if !l.backend.Dead() { // pgx could not even encode it
		return err
	}
	if c.tx.open && c.tx.statements > 1 || l.backend.LeftOpen() {
		c.drop()
		if !c.tx.open { // it was begun by a statement
			c.over = l.lost(lostConn, nil)
			return c.over
		}
		return l.lost(lostTx, nil)
	}
	if l.backend.Used() {
		c.drop()
		return l.lost("the connection was lost with the session state that earlier statements left on it", nil)
	}
	c.drop()
	if try < maxTries-1 {
		return nil
	}
	return l.lost("connections to it break; check the server and the network", nil)
}

func (c *Conn) lostWhat() string {
	if c.tx.open {
		return lostTx
	}
	return "the connection was lost while a statement ran; it may have taken effect"
}

const (
	lostTx   = "the connection was lost and the transaction with it; start it again"
	lostConn = "the connection was lost and the transaction with it; close this *sql.Conn, and start it again on another"
)

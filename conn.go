package shardedpg

import (
	"context"
	"database/sql/driver"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

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

// failed says what an error of the last statement means: nil to run it again, else the error for the caller.
func (c *Conn) failed(ctx context.Context, err error, try int) error {
	if err = c.verdict(ctx, err, try); err == nil {
		c.tx.statements--
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
	switch {
	case code == "57014" && !(l.backend.Pooled() && ctx.Err() == nil): // cancelled, as it may happen to any statement
		return server
	case code == "57P01", code == "57P02", code == "57P03": // shut down
		l.shard.pool.Flush()
	}
	// Of spoiled connections there may be more than tries; each one is closed here, and a new one needs no reset. A reset is in front of
	// the lease's first statement, so what is left on the connection is not this one's.
	again := l.backend.Spoiled() || try < maxTries-1 && !l.backend.Used()
	if again && (!c.tx.open || c.tx.statements <= 1) && !l.backend.SentInBlock() {
		c.drop()
		return nil
	}
	if strings.HasPrefix(code, "57P") {
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
	return &Error{Stage: StagePrologue, Tenant: l.tenant, Shard: l.shard.name, Err: fmt.Errorf(
		"%w: %s (SQLSTATE %s); %s", ErrPrologue, server.Message, code, advice)}
}

// cut handles the end of a connection that a pooler tells of. It has sent the flight on, unless it says that it could not.
func (c *Conn) cut(server *pgconn.PgError, try int) error {
	l := &c.lease
	if !backend.PoolDown(server) || l.backend.SentInBlock() {
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
	if c.tx.open && c.tx.statements > 1 || l.backend.Status() != 'I' {
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

// drop closes the lease's backend and keeps the slot for the next one.
func (c *Conn) drop() {
	l := &c.lease
	b := l.backend
	l.backend = nil
	l.shard.pool.Discard(b)
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
// the first operation, or else of the context given to DB.Conn; without either it returns nil: ping with a tenant first.
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

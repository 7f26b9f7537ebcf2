package backend

import (
	"context"
	"database/sql/driver"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/jackc/pgx/v5/stdlib"

	"github.com/sharded-pg/sharded-pg/internal/backend/connstring"
	"github.com/sharded-pg/sharded-pg/internal/connerr"
	"github.com/sharded-pg/sharded-pg/internal/hosts"
	"github.com/sharded-pg/sharded-pg/internal/sqllex"
	"github.com/sharded-pg/sharded-pg/rls"
)

// ErrUnsafeRole: the shard's login could step around row-level security.
var ErrUnsafeRole = errors.New("unsafe login role")

// verifySQL asks, in one flight, for the pid that answers (another one than the start-up message named means a pooler in
// between) and for every way in which the login could read past row-level security: being or being able to become a
// superuser, a BYPASSRLS role, or the owner of a table that has policies (PostgreSQL manual, section 5.9). A schema tenant's
// role ($1) is one to become for a transaction: a login that has its rights at all other times, too, could read every such
// tenant's tables by name (section 22.3). Then whether policies take signed tenants only, and last whether a stored setting
// makes the login another role, or has: each login may store that for itself, and statements of shared tenants would run as it; and whether it
// is in a role at all, which may be itself.
const verifySQL = `select pg_backend_pid()::text,
 (select rolsuper from pg_roles where rolname = session_user)::text,
 (select rolbypassrls from pg_roles where rolname = session_user)::text,
 exists (select from pg_roles r where (r.rolsuper or r.rolbypassrls) and r.rolname <> session_user
  and pg_has_role(session_user, r.oid, 'member'))::text,
 exists (select from pg_class c where c.relrowsecurity and pg_has_role(session_user, c.relowner, 'member'))::text,
 exists (select from pg_roles where rolname = $1 and pg_has_role(session_user, oid, 'usage'))::text,
 exists (select from pg_proc f join pg_namespace n on n.oid = f.pronamespace join pg_depend d on d.refclassid = 'pg_proc'::regclass and d.refobjid = f.oid
  where n.nspname = 'shardedpg' and f.proname = 'current_tenant' and d.classid = 'pg_policy'::regclass)::text,
 exists (select from pg_db_role_setting s cross join unnest(s.setconfig) c where c like 'role=%' and c <> 'role=none'
  and (s.setrole = 0 or s.setrole = (select oid from pg_roles where rolname = session_user))
  and (s.setdatabase = 0 or s.setdatabase = (select oid from pg_database where datname = current_database())))::text,
 (current_user <> session_user)::text, (current_setting('role') <> 'none')::text`

const (
	minServerVersion = 14
	// joinsSince is the first version on which a Query joins the transaction of the messages in front of it: see wire.joins.
	joinsSince = 18
)

// make is dial, counted.
func (p *Pool) make(ctx context.Context, key Key, s *rls.Settings) (*Backend, error) {
	p.connects.Add(1)
	b, err := p.dial(ctx, key, s)
	if err != nil {
		p.connectErrors.Add(1)
	}
	return b, err
}

// dialServer opens, verifies and prepares a backend for the tenant whose settings are s: its plan's limits become the
// backend's own defaults, so that the prologue need not carry them for the many tenants that share a plan.
func (p *Pool) dialServer(ctx context.Context, key Key, s *rls.Settings) (*Backend, error) {
	ctx, cancel := context.WithTimeout(ctx, p.cfg.ConnectTimeout)
	defer cancel()
	b, err := p.connect(ctx, key, s, !p.pooled.Load())
	var refused *pgconn.PgError
	if errors.As(err, &refused) && refused.Code == "08P01" { // a pooler that knows no such start-up parameter
		p.pooled.Store(true)
		b, err = p.connect(ctx, key, s, false)
	}
	if err != nil {
		return nil, err
	}
	if err := p.verify(ctx, b, s.Role); err != nil {
		_ = b.conn.Close()
		return nil, err
	}
	if b.wire.pooled && !b.wire.whole { // now that p.pooled is known, the second attempt is
		_ = b.conn.Close()
		return p.dialServer(ctx, key, s)
	}
	return b, nil
}

func (p *Pool) connect(ctx context.Context, key Key, s *rls.Settings, defaults bool) (*Backend, error) {
	begun := time.Now()
	cc := p.cfg.Conn.Copy()
	if key.Database != "" {
		cc.Database = key.Database
	}
	if p.cfg.Before != nil {
		database := cc.Database
		if err := p.cfg.Before(ctx, cc); err != nil {
			return nil, &hookError{err}
		}
		if cc.Database != database { // the tenant's rows are in that one and no other
			return nil, &hookError{errors.New("it must not change the database")}
		}
	}
	if ctx.Value(askKey{}) != nil {
		cc.RuntimeParams["application_name"] = askName
	}
	server := heardOf(ctx)
	if hosts.Count(&cc.Config) > 1 { // nor does a lookup that hangs take the turn of the other hosts
		server.others.Store(int64(p.cfg.ConnectTimeout))
	}
	addresses, others := p.host.Share(ctx, &cc.Config, p.cfg.ConnectTimeout)
	server.others.Store(int64(others))
	server.now()
	var defs rls.Defaults
	if defaults {
		cc.RuntimeParams["statement_timeout"] = strconv.FormatInt(s.TimeoutMS, 10)
		cc.RuntimeParams["work_mem"] = strconv.Itoa(s.WorkMemKB) + "kB"
		defs = rls.Defaults{Known: true, TimeoutMS: s.TimeoutMS, WorkMemKB: s.WorkMemKB}
		if key.Schema {
			// Past the end of a transaction there are no tables to find, whatever the login's own path is.
			cc.RuntimeParams["search_path"] = "pg_catalog, pg_temp"
		}
	}
	var w *wire
	next, pooled := cc.AfterNetConnect, p.pooled.Load()
	cc.AfterNetConnect = func(ctx context.Context, cfg *pgconn.Config, conn net.Conn) (net.Conn, error) {
		// Each address that pgx tries has a wire of its own: pgx may still be saying goodbye to the one before.
		w = &wire{
			lanes: &p.lanes, guard: guard{p.cfg.Strict, p.cfg.Allow}, verdicts: p.verdicts,
			stmts: make(map[string]sqllex.Verdict), defs: defs, server: server, pulse: &p.breaker.pulse,
		}
		return wrapWrites(w, next, pooled)(ctx, cfg, conn)
	}
	cc.BuildFrontend = func(r io.Reader, conn io.Writer) *pgproto3.Frontend {
		w.r, w.w = r, conn
		if c, wrapped := conn.(*wrapped); wrapped {
			w.w = c.Conn
		}
		return pgproto3.NewFrontend(w, w)
	}
	dc, err := stdlib.GetConnector(*cc).Connect(ctx)
	if err != nil {
		return nil, causeAt(err, addresses > 1 || hosts.Count(&cc.Config) > 1)
	}
	conn, ok := dc.(*stdlib.Conn)
	if !ok {
		return nil, fmt.Errorf("pgx's connector made a %T", dc)
	}
	b := &Backend{conn: conn, pg: conn.Conn().PgConn(), wire: w, key: key, born: begun, expires: begun.Add(p.cfg.lifetime())}
	b.peek.attach(unwrap(b.pg.Conn()))
	return b, nil
}

func (p *Pool) verify(ctx context.Context, b *Backend, role string) error {
	version := b.pg.ParameterStatus("server_version")
	major, err := strconv.Atoi(leadingDigits(version))
	if err != nil || major < minServerVersion {
		return &unusableError{fmt.Sprintf("PostgreSQL %s is not supported; the oldest supported major is %d", version, minServerVersion)}
	}
	answer, err := b.ask(ctx, verifySQL, role)
	if err != nil {
		return cause(err)
	}
	if len(answer) != 10 {
		return errors.New("the server did not answer the role check")
	}
	col := func(i int) string { return string(answer[i]) }
	if p.cfg.Verify {
		user := b.pg.ParameterStatus("session_authorization")
		for i, what := range []string{
			"is a superuser", "has BYPASSRLS", "is a member of a superuser or BYPASSRLS role",
			"owns tables with row-level security, or is a member of their owner",
		} {
			if col(i+1) != "false" {
				return fmt.Errorf("%w: %q %s; use a login that is none of these", ErrUnsafeRole, user, what)
			}
		}
		if col(5) != "false" {
			return fmt.Errorf("%w: %q has the rights of role %q without becoming it, and so those of other tenants; make the "+
				"login NOINHERIT, or from PostgreSQL 16 on grant the role WITH INHERIT FALSE", ErrUnsafeRole, user, role)
		}
		// Behind a pooler the role may be what another client has left; the reset takes it away.
		if direct := col(0) == strconv.FormatUint(uint64(b.pg.PID()), 10); col(7) != "false" || direct && col(8) != "false" {
			return fmt.Errorf("%w: a stored setting makes %q another role, and statements of shared tenants would run as that; find out who "+
				"stored it, and take it away with alter role … [in database …] reset role", ErrUnsafeRole, user)
		}
	}
	if b.pg.ParameterStatus("standard_conforming_strings") != "on" {
		return &unusableError{"standard_conforming_strings is off for this login; turn it on"}
	}
	signs := p.signs(b.key)
	if !signs && b.key.Rows && col(6) != "false" {
		return fmt.Errorf("%w: its policies take no other; open the registry with sharded_identity=signed and sharded_key_file", ErrIdentity)
	}
	w := b.wire
	w.joins = major >= joinsSince
	w.pooled = col(0) != strconv.FormatUint(uint64(b.pg.PID()), 10)
	texts := &p.plain
	if signs {
		if err := p.chooseKey(ctx, b); err != nil {
			return err
		}
	}
	if b.wire.signer.key != nil {
		texts = &p.signed
	}
	if w.pooled {
		p.pooled.Store(true)
		w.defs = rls.Defaults{}
		w.proto = texts.unnamed
	} else {
		w.proto = texts.named
		if col(9) != "false" { // it is what it will be after a reset
			if err := b.pg.ExecParams(ctx, "set role none", nil, nil, nil, nil).Read().Err; err != nil {
				return cause(err)
			}
		}
		if err := b.prepare(ctx); err != nil {
			return cause(err)
		}
	}
	for _, name := range []string{"standard_conforming_strings", "client_encoding", "session_authorization"} {
		w.tracked = append(w.tracked, name, b.pg.ParameterStatus(name))
	}
	// One that was made to a standby on purpose has not become one.
	w.readOnly = hosts.ReadOnly(b.pg)
	w.clean, w.on, w.server = true, true, nil
	return nil
}

// ask runs a query of one row without the prologue. Behind a pooler the server connection may still have what another client has
// set for its session, and made there: temporary tables and types would be found before the catalog's. In the same transaction
// they come last, and statement_timeout is lifted first; that takes little time, and a few attempts are sure to find as much.
func (b *Backend) ask(ctx context.Context, text string, args ...string) ([][]byte, error) {
	values := make([][]byte, len(args))
	for i, arg := range args {
		values[i] = []byte(arg)
	}
	for try := 0; ; try++ {
		var batch pgconn.Batch
		batch.ExecParams("select pg_catalog.set_config('statement_timeout', '0', true), pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true)",
			nil, nil, nil, nil)
		batch.ExecParams(text, values, nil, nil, nil)
		results, err := b.pg.ExecBatch(ctx, &batch).ReadAll()
		if err == nil && len(results) == 2 && len(results[1].Rows) == 1 {
			return results[1].Rows[0], nil
		}
		var server *pgconn.PgError
		if err == nil || try == 2 || ctx.Err() != nil || !errors.As(err, &server) || server.Code != "57014" {
			return nil, err
		}
	}
}

// prepare makes the statements of the reset on a backend, in one flight. Those of BEGIN and the prologue are prepared where they are
// used first: the reset looks through all that are prepared, so what is not used is not.
func (b *Backend) prepare(ctx context.Context) error {
	w := b.wire
	on := w.on
	w.on = false
	defer func() {
		if !b.pg.IsClosed() { // else pgx is writing its goodbye on a goroutine of its own, and nothing else will be sent
			w.on, w.dropped, w.kept = on, false, 0
		}
	}()
	pipeline := b.pg.StartPipeline(ctx)
	for i, text := range ResetSQL {
		pipeline.SendPrepare(statementName("r", i, named), text, nil)
	}
	if err := pipeline.Sync(); err != nil {
		return err
	}
	return pipeline.Close()
}

// causeAt is what was said at each of several addresses: the one that answered is not always the one that should have.
func causeAt(err error, several bool) error {
	var connect *pgconn.ConnectError
	if !several || !errors.As(err, &connect) {
		return cause(err)
	}
	return connerr.Hosts(connect)
}

// cause is what made a connection fail, without the parts of pgx's error that repeat the connection string.
func cause(err error) error {
	var hook *hookError
	if errors.As(err, &hook) {
		return hook
	}
	var server *pgconn.PgError
	if errors.As(err, &server) {
		return server
	}
	var dns *net.DNSError
	if errors.As(err, &dns) { // also when it took too long: nobody has asked the server
		return dns
	}
	if errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled) {
		return fmt.Errorf("connecting: %w", errors.Join(ctxError(err)))
	}
	var op *net.OpError
	if errors.As(err, &op) {
		return op
	}
	var connect *pgconn.ConnectError
	if errors.As(err, &connect) { // what is left is wrong with TLS, with target_session_attrs, or with who answers
		return connerr.Hosts(connect)
	}
	return hidden{err}
}

func ctxError(err error) error {
	if errors.Is(err, context.Canceled) {
		return context.Canceled
	}
	return context.DeadlineExceeded
}

// hookError is what the program's own hook said, which is its own to phrase.
type hookError struct{ err error }

func (e *hookError) Error() string { return "BeforeConnect: " + e.err.Error() }

// Unwrap keeps driver.ErrBadConn to itself: database/sql would run the hook twice more.
func (e *hookError) Unwrap() error {
	if errors.Is(e.err, driver.ErrBadConn) {
		return nil
	}
	return e.err
}

// unusableError is a server that answers and cannot be worked with.
type unusableError struct{ what string }

func (e *unusableError) Error() string { return e.what }

// hidden keeps an error for errors.As without printing it.
type hidden struct{ err error }

func (hidden) Error() string   { return "the connection could not be made" }
func (h hidden) Unwrap() error { return h.err }

func leadingDigits(s string) string {
	for i, c := range s {
		if c < '0' || c > '9' {
			return s[:i]
		}
	}
	return s
}

// ParseConn reads a shard's connection string with pgx's own parser, pool_max_conn_lifetime and the like included. Its
// error does not repeat the string.
func ParseConn(dsn string) (*pgxpool.Config, error) {
	cfg, err := pgxpool.ParseConfig(dsn)
	if err != nil {
		return nil, fmt.Errorf("not a PostgreSQL connection string that can be used: %w; it should read like postgres://user@host:5432/db "+
			"or host=… user=… dbname=…", connstring.Reason(err))
	}
	return cfg, nil
}

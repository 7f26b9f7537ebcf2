package shardedpg_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	shardedpg "github.com/sharded-pg/sharded-pg"
)

// TestEachStatementRanAsItsCallersTenant draws random sequences of everything that an application does and checks them
// against a model: for each tenant the number of rows that it has written. Three server connections serve three tenants.
func TestEachStatementRanAsItsCallersTenant(t *testing.T) {
	t.Parallel()
	f := newFleet(t, fleetOptions{
		config: func(c *shardedpg.Config) { c.MaxConns = 3 },
		routes: addTenants("t0", "t1", "t2"),
	})
	stmt, err := f.db.PrepareContext(shardedpg.WithTenant(t.Context(), "t0"), ownRowsSQL)
	require.NoError(t, err)
	defer stmt.Close()
	m := &model{fleet: f, stmt: stmt, tenants: []string{"t0", "t1", "t2"}, rows: make(map[string]int)}
	rapid.Check(t, func(rt *rapid.T) {
		m.t = rt
		defer m.endAll()
		rt.Repeat(map[string]func(*rapid.T){
			"read":             m.read,
			"read by a stmt":   m.readByStmt,
			"write":            m.write,
			"fail":             m.fail,
			"leave state":      m.leaveState,
			"cancel":           m.cancel,
			"begin":            m.begin,
			"use tx":           m.useTx,
			"savepoint":        m.savepoint,
			"rollback to":      m.rollbackTo,
			"end tx":           m.endTx,
			"take conn":        m.takeConn,
			"use conn":         m.useConn,
			"leave state conn": m.leaveStateOnConn,
			"give conn back":   m.giveConnBack,
			"wrong tenant":     m.wrongTenant,
		})
	})
}

// ownRowsSQL names its table in full: on a connection of its own a tenant may hide it from itself.
const ownRowsSQL = `select current_setting('app.current_tenant_id'), coalesce(min(tenant_id), ''), coalesce(max(tenant_id), ''), count(*)
	from public.orders where id <> $1`

type model struct {
	*fleet
	t       *rapid.T
	stmt    *sql.Stmt
	tenants []string
	rows    map[string]int // committed rows of each tenant

	tx       *sql.Tx
	txTenant string
	txRows   int   // written in the open transaction
	txFailed bool  // only ROLLBACK (TO) helps
	saved    []int // txRows at each savepoint

	conn       *sql.Conn
	connTenant string
}

func (m *model) tenant(t *rapid.T) string { return rapid.SampledFrom(m.tenants).Draw(t, "tenant") }

func (m *model) ctx(tenant string) context.Context {
	return shardedpg.WithTenant(context.Background(), tenant)
}

// mode is the exec mode of a statement with arguments.
func (m *model) mode(t *rapid.T) pgx.QueryExecMode {
	return rapid.SampledFrom(execModes).Draw(t, "mode")
}

func (m *model) must(err error, what string) {
	if err != nil {
		m.t.Fatalf("%s: %v", what, err)
	}
}

// check reads as a tenant and compares with the model.
func (m *model) check(row *sql.Row, tenant string, want int) {
	var setting, least, most string
	var count int
	m.must(row.Scan(&setting, &least, &most, &count), "read")
	if setting != tenant || count != want || count > 0 && (least != tenant || most != tenant) {
		m.t.Fatalf("tenant %s with %d rows read %d rows of %q to %q with the setting %q", tenant, want, count, least, most, setting)
	}
}

func (m *model) read(t *rapid.T) {
	tenant := m.tenant(t)
	m.check(m.db.QueryRowContext(m.ctx(tenant), ownRowsSQL, m.mode(t), -1), tenant, m.rows[tenant])
	// Unqualified, and without arguments: no other's temporary table or search path may be in the way.
	var n int
	m.must(m.db.QueryRowContext(m.ctx(tenant), "select count(*) from orders").Scan(&n), "unqualified read")
	if n != m.rows[tenant] {
		t.Fatalf("tenant %s with %d rows counts %d", tenant, m.rows[tenant], n)
	}
}

func (m *model) readByStmt(t *rapid.T) {
	tenant := m.tenant(t)
	m.check(m.stmt.QueryRowContext(m.ctx(tenant), -1), tenant, m.rows[tenant])
}

func (m *model) write(t *rapid.T) {
	tenant := m.tenant(t)
	m.must(m.insert(t, m.db, m.ctx(tenant)), "write")
	m.rows[tenant]++
}

// insert writes one row in one of many ways.
func (m *model) insert(t *rapid.T, q querier, ctx context.Context) error {
	var err error
	switch rapid.IntRange(0, 3).Draw(t, "form") {
	case 0:
		_, err = q.ExecContext(ctx, "insert into public.orders (note) values ('x')")
	case 1:
		_, err = q.ExecContext(ctx, "insert into public.orders (note) values ($1)", m.mode(t), "x")
	case 2:
		_, err = q.ExecContext(ctx, "select 1; insert into public.orders (note) values ('x'); select 2")
	case 3:
		var tenant string
		err = q.QueryRowContext(ctx, "insert into public.orders (note) values ($1) returning tenant_id", m.mode(t), "x").Scan(&tenant)
		if want, _ := shardedpg.TenantFrom(ctx); err == nil && tenant != want {
			t.Fatalf("tenant %s wrote a row of %s", want, tenant)
		}
	}
	return err
}

func (m *model) fail(t *rapid.T) {
	ctx := m.ctx(m.tenant(t))
	var err error
	switch rapid.IntRange(0, 3).Draw(t, "form") {
	case 0:
		_, err = m.db.ExecContext(ctx, "select 1/0")
	case 1:
		_, err = m.db.ExecContext(ctx, "select 1/$1::int", m.mode(t), 0)
	case 2:
		_, err = m.db.ExecContext(ctx, "insert into public.orders (note) values ('x'); select 1/0")
	case 3:
		_, err = m.db.ExecContext(ctx, "selec $1", m.mode(t), "x")
	}
	if errCode(err) == "" {
		t.Fatalf("the server's error came out as %v", err)
	}
}

// leftovers is SQL that leaves something behind on its session.
var leftovers = []string{
	"set app.current_tenant_id = 't1'", "set search_path = pg_catalog", "set statement_timeout = '1ms'; reset statement_timeout",
	"create temp table if not exists orders (tenant_id text default 't0')", "select pg_advisory_lock_shared(7)", "listen ch",
	"set role app_reader", "set default_transaction_read_only = on", "begin", "begin; select 1", "discard all", "deallocate all",
	"prepare p as select 1; deallocate p", "set standard_conforming_strings = off", "select set_config('app.current_tenant_id', 't2', false)",
	"declare c cursor with hold for select * from public.orders", "reset all", "set work_mem = '1MB'", "set datestyle = 'SQL'",
	"do $$begin perform set_config('app.current_tenant_id', 't0', false); create temp table if not exists probe (x int); end$$",
}

func (m *model) leaveState(t *rapid.T) {
	tenant := m.tenant(t)
	query := rapid.SampledFrom(leftovers).Draw(t, "query")
	_, err := m.db.ExecContext(m.ctx(tenant), query)
	m.must(err, query)
}

func (m *model) leaveStateOnConn(t *rapid.T) {
	if m.conn == nil {
		t.Skip("no conn")
	}
	query := rapid.SampledFrom(leftovers).Draw(t, "query")
	// Some cannot run twice, or in the open block that an earlier one has left: the rule is only who they run as.
	if _, err := m.conn.ExecContext(m.ctx(m.connTenant), query); err != nil {
		m.giveConnBack(t)
	}
}

func (m *model) cancel(t *rapid.T) {
	ctx, cancel := context.WithTimeout(m.ctx(m.tenant(t)), time.Duration(rapid.IntRange(0, 4000).Draw(t, "µs"))*time.Microsecond)
	defer cancel()
	_, err := m.db.ExecContext(ctx, "select pg_sleep(0.002)")
	if err != nil && !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("cancel: %v", err)
	}
}

func (m *model) begin(t *rapid.T) {
	if m.tx != nil {
		t.Skip("one transaction at a time")
	}
	m.txTenant = m.tenant(t)
	level := rapid.SampledFrom([]sql.IsolationLevel{sql.LevelDefault, sql.LevelReadCommitted}).Draw(t, "isolation")
	var err error
	m.tx, err = m.db.BeginTx(m.ctx(m.txTenant), &sql.TxOptions{Isolation: level})
	m.must(err, "begin")
	m.txRows, m.txFailed, m.saved = 0, false, nil
}

func (m *model) useTx(t *rapid.T) {
	if m.tx == nil || m.txFailed {
		t.Skip("no transaction")
	}
	ctx := m.ctx(m.txTenant)
	if rapid.Bool().Draw(t, "without a tenant") {
		ctx = context.Background()
	}
	switch rapid.IntRange(0, 3).Draw(t, "use") {
	case 0:
		m.check(m.tx.QueryRowContext(ctx, ownRowsSQL, m.mode(t), -1), m.txTenant, m.rows[m.txTenant]+m.txRows)
	case 1:
		m.must(m.insert(t, m.tx, m.ctx(m.txTenant)), "write in tx")
		m.txRows++
	case 2:
		_, err := m.tx.ExecContext(ctx, "select 1/$1::int", m.mode(t), 0)
		if errCode(err) != "22012" {
			t.Fatalf("error in tx: %v", err)
		}
		m.txFailed = true
	case 3:
		_, err := m.tx.ExecContext(ctx, "select set_config('app.current_tenant_id', 't1', true), set_config('statement_timeout', '0', true)")
		m.must(err, "set in tx")
	}
}

func (m *model) savepoint(t *rapid.T) {
	if m.tx == nil || m.txFailed {
		t.Skip("no transaction")
	}
	_, err := m.tx.ExecContext(context.Background(), fmt.Sprint("savepoint s", len(m.saved)))
	m.must(err, "savepoint")
	m.saved = append(m.saved, m.txRows)
}

func (m *model) rollbackTo(t *rapid.T) {
	if m.tx == nil || len(m.saved) == 0 {
		t.Skip("no savepoint")
	}
	n := rapid.IntRange(0, len(m.saved)-1).Draw(t, "savepoint")
	_, err := m.tx.ExecContext(context.Background(), fmt.Sprint("rollback to s", n))
	m.must(err, "rollback to")
	m.txRows, m.saved, m.txFailed = m.saved[n], m.saved[:n+1], false
}

func (m *model) endTx(t *rapid.T) {
	if m.tx == nil {
		t.Skip("no transaction")
	}
	tx := m.tx
	m.tx = nil
	if rapid.Bool().Draw(t, "roll back") {
		m.must(tx.Rollback(), "rollback")
		return
	}
	err := tx.Commit()
	if m.txFailed {
		if !errors.Is(err, pgx.ErrTxCommitRollback) {
			t.Fatalf("commit of a failed transaction: %v", err)
		}
		return
	}
	m.must(err, "commit")
	m.rows[m.txTenant] += m.txRows
}

func (m *model) takeConn(t *rapid.T) {
	if m.conn != nil {
		t.Skip("one conn at a time")
	}
	m.connTenant = m.tenant(t)
	var err error
	m.conn, err = m.db.Conn(m.ctx(m.connTenant))
	m.must(err, "conn")
	m.must(m.conn.PingContext(m.ctx(m.connTenant)), "ping")
}

func (m *model) useConn(t *rapid.T) {
	if m.conn == nil {
		t.Skip("no conn")
	}
	var setting, foreign string
	err := m.conn.QueryRowContext(m.ctx(m.connTenant), `select current_setting('app.current_tenant_id'),
		coalesce(max(tenant_id) filter (where tenant_id <> $1), '') from public.orders`, m.mode(t), m.connTenant).Scan(&setting, &foreign)
	own := err != nil && strings.Contains(err.Error(), "standard_conforming_strings") // pgx's own refusal
	if own || errCode(err) != "" {                                                    // what it left on itself is its own affair
		m.giveConnBack(t)
		return
	}
	m.must(err, "read on conn")
	if setting != m.connTenant || foreign != "" {
		t.Fatalf("tenant %s on its conn read rows of %q with the setting %q", m.connTenant, foreign, setting)
	}
}

func (m *model) giveConnBack(t *rapid.T) {
	if m.conn == nil {
		t.Skip("no conn")
	}
	m.must(m.conn.Close(), "close conn")
	m.conn = nil
}

func (m *model) wrongTenant(t *rapid.T) {
	var q querier
	var own string
	switch {
	case m.tx != nil:
		q, own = m.tx, m.txTenant
	case m.conn != nil:
		q, own = m.conn, m.connTenant
	default:
		t.Skip("nothing is bound")
	}
	other := m.tenant(t)
	if other == own {
		t.Skip("the same")
	}
	_, err := q.ExecContext(m.ctx(other), "insert into public.orders (note) values ('never')")
	if !errors.Is(err, shardedpg.ErrTenantMismatch) {
		t.Fatalf("tenant %s in work of %s: %v", other, own, err)
	}
}

// endAll leaves nothing open for the next sequence.
func (m *model) endAll() {
	if m.tx != nil {
		_ = m.tx.Rollback()
		m.tx = nil
	}
	if m.conn != nil {
		_ = m.conn.Close()
		m.conn = nil
	}
}

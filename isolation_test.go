package shardedpg_test

import (
	"context"
	"database/sql"
	"fmt"
	"math/rand/v2"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	shardedpg "github.com/sharded-pg/sharded-pg"
	"github.com/sharded-pg/sharded-pg/resolver"
)

// All tests here let two tenants share one server connection: MaxConns is 1 unless a test says otherwise.

func TestTheFixtureCanFailWithoutRowLevelSecurity(t *testing.T) {
	t.Parallel()
	f := newFleet(t, fleetOptions{})
	require.Equal(t, "A-secret,A-secret2,B-secret", outside[string](f, notesSQL), "a superuser sees every tenant's rows")
	app := f.connectAs("app")
	var n int
	require.NoError(t, app.QueryRow(t.Context(), "select count(*) from orders").Scan(&n))
	require.Zero(t, n, "without a tenant there are no rows")
}

func TestWithoutATenantNothingIsSent(t *testing.T) {
	t.Parallel()
	f := newFleet(t, fleetOptions{})
	ctx := t.Context()
	_, err := f.db.ExecContext(ctx, "delete from orders")
	require.ErrorIs(t, err, shardedpg.ErrNoTenant)
	_, err = f.db.QueryContext(ctx, "select 1")
	require.ErrorIs(t, err, shardedpg.ErrNoTenant)
	_, err = f.db.PrepareContext(ctx, "select 1")
	require.ErrorIs(t, err, shardedpg.ErrNoTenant)
	_, err = f.db.BeginTx(ctx, nil)
	require.ErrorIs(t, err, shardedpg.ErrNoTenant)
	require.Empty(t, f.connector.Stats().Shards)
	f.requireNoServerConnections()
}

func TestAlternatingTenantsOnOneConnectionSeeTheirOwnRows(t *testing.T) {
	t.Parallel()
	f := newFleet(t, fleetOptions{})
	rounds := 1000
	if testing.Short() {
		rounds = 100
	}
	pid := f.pid(f.a, f.db)
	for range rounds {
		f.requireOwnRows()
	}
	require.Equal(t, pid, f.pid(f.b, f.db), "all of it ran on one server connection")
}

func TestPlansGiveEachTenantItsTimeoutAndMemory(t *testing.T) {
	t.Parallel()
	f := newFleet(t, fleetOptions{routes: func(f *fleet, routes map[string]*resolver.Route) {
		routes[tenantA] = f.route(tenantA, planOf(200*time.Millisecond, 4<<10))
		routes[tenantB] = f.route(tenantB, planOf(resolver.Unlimited, 64<<10))
	}})
	for range 3 { // both as first and as later user of the connection
		require.Equal(t, "4MB", value[string](t, f.a, f.db, "show work_mem"))
		require.Equal(t, "64MB", value[string](t, f.b, f.db, "show work_mem"))
		require.Equal(t, "200ms", value[string](t, f.a, f.db, "show statement_timeout"))
		require.Equal(t, "0", value[string](t, f.b, f.db, "show statement_timeout"))
	}
	start := time.Now()
	_, err := f.db.ExecContext(f.a, "select pg_sleep(3)")
	requireCode(t, err, "57014")
	require.True(t, shardedpg.TimedOutByPlan(err))
	require.Less(t, time.Since(start), 2*time.Second)
	f.exec(f.b, f.db, "select pg_sleep(0.4)")

	f.exec(f.a, f.db, "set statement_timeout = 0")
	_, err = f.db.ExecContext(f.a, "select pg_sleep(3)")
	requireCode(t, err, "57014")

	for _, lift := range []string{
		"select set_config('statement_timeout', '0', true)", "set local statement_timeout = 0", "set statement_timeout = '1h'",
		"update pg_settings set setting = '0' where name = 'statement_timeout'",
	} {
		tx := f.begin(f.a)
		f.exec(f.a, tx, lift)
		_, err = tx.ExecContext(f.a, "select pg_sleep(3)")
		requireCode(t, err, "57014")
		require.NoError(t, tx.Rollback())
	}
}

func TestSessionSettingsOfOneTenantDoNotReachTheNext(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ name, set, check, want string }{
		{"a short timeout", "set statement_timeout = '1ms'", "select 'slept' from pg_sleep(0.05)", "slept"},
		{"a time zone", "set timezone = 'Pacific/Kiritimati'", "select extract(epoch from timestamptz '2026-03-04 00:00')::bigint::text", ""},
		{"a date style", "set datestyle = 'SQL, DMY'", "select extract(month from timestamp '04/03/2026')::text", ""},
		{"a search path", "set search_path = pg_catalog", notesSQL, notesOfB},
		{"a read-only default", "set default_transaction_read_only = on", "insert into orders (note) values ('w') returning note", "w"},
		{"row security off", "set row_security = off", notesSQL, notesOfB},
		{"old string syntax", "set standard_conforming_strings = off", `select 'a\\b'`, `a\\b`},
		{"a client encoding", "set client_encoding = latin1", "select 'ä'", "ä"},
		{"a lock timeout", "set lock_timeout = '1ms'", "show lock_timeout", "0"},
		{"a role", "set role app_reader", "select current_user::text", "app"},
		{"a custom setting", "set app.other = 'acme'", "select coalesce(current_setting('app.other', true), '')", ""},
		{"a replication role of the planner", "set enable_seqscan = off", "show enable_seqscan", "on"},
	} {
		for _, form := range []string{"a statement", "a string of two", "a transaction", "a DO block", "set_config in a query"} {
			t.Run(c.name+" by "+form, func(t *testing.T) {
				t.Parallel()
				f := newFleet(t, fleetOptions{})
				want := c.want
				if want == "" {
					want = value[string](t, f.b, f.db, c.check)
				}
				var err error
				switch form {
				case "a statement":
					_, err = f.db.ExecContext(f.a, c.set)
				case "a string of two":
					_, err = f.db.ExecContext(f.a, "select 1; "+c.set)
				case "a transaction":
					tx := f.begin(f.a)
					_, err = tx.ExecContext(f.a, c.set)
					require.NoError(t, tx.Commit())
				case "a DO block":
					_, err = f.db.ExecContext(f.a, "do $$begin execute $x$"+c.set+"$x$; end$$")
				case "set_config in a query":
					assigned := strings.TrimPrefix(c.set, "set ")
					name, setting, found := strings.Cut(assigned, " = ")
					if !found { // SET ROLE
						name, setting, _ = strings.Cut(assigned, " ")
					}
					_, err = f.db.ExecContext(f.a, "select set_config($1, $2, false)", name, strings.Trim(setting, "'"))
				}
				require.NoError(t, err)
				require.Equal(t, want, value[string](t, f.b, f.db, c.check))
				require.NoError(t, f.db.PingContext(f.a))
			})
		}
	}
}

func TestResetAndDiscardLeaveTheConnectionUsable(t *testing.T) {
	t.Parallel()
	for _, query := range []string{"reset all", "discard all", "discard plans", "discard temp", "discard sequences", "deallocate all"} {
		t.Run(query, func(t *testing.T) {
			t.Parallel()
			f := newFleet(t, fleetOptions{})
			f.requireOwnRows()
			for range 3 {
				f.exec(f.a, f.db, query)
				f.requireNotes(f.a, f.db, notesOfA)
				f.requireNotes(f.b, f.db, notesOfB)
			}
			conn := f.conn(f.a)
			f.requireNotes(f.a, conn, notesOfA)
			f.exec(f.a, conn, query)
			f.requireNotes(f.a, conn, notesOfA)
			f.requireNotes(f.a, conn, notesOfA)
		})
	}
}

func TestALeadingBeginInAStringRunsAsItsTenant(t *testing.T) {
	t.Parallel()
	f := newFleet(t, fleetOptions{})
	for i := range 3 {
		f.requireNotes(f.a, f.db, strings.TrimSuffix(notesOfA+strings.Repeat(",x", i), ","))
		f.exec(f.b, f.db, "begin; insert into probe select current_setting('app.current_tenant_id'), count(*) from orders; commit")
		require.Equal(t, 0, outside[int](f, "select count(*) from probe where tenant is distinct from 'globex' or orders <> 1"))
		f.exec(f.a, f.db, "begin isolation level serializable; insert into orders (note) values ('x'); end")
	}
	require.Equal(t, 3, outside[int](f, "select count(*) from orders where note = 'x' and tenant_id = 'acme'"))
}

func TestStringsOfSeveralStatementsSeeOwnRowsOnly(t *testing.T) {
	t.Parallel()
	f := newFleet(t, fleetOptions{})
	f.exec(f.a, f.db, "select 1; select 2")
	for ctx, want := range map[context.Context]string{f.a: "acme 2", f.b: "globex 1"} {
		f.exec(ctx, f.db, "delete from probe; insert into probe select min(tenant_id), count(*) from orders; select 1; select 2")
		require.Equal(t, want, outside[string](f, "select tenant || ' ' || orders from probe"))
		f.requireOwnRows()
	}
	_, err := f.db.QueryContext(f.a, "select 1; select 2")
	requireCode(t, err, "42601")
	f.requireOwnRows()
}

func TestPgxModeArgumentsAreArmedToo(t *testing.T) {
	t.Parallel()
	f := newFleet(t, fleetOptions{})
	for _, mode := range execModes {
		for range 3 {
			require.Equal(t, tenantA, value[string](t, f.a, f.db, "select min(tenant_id) from orders where id > $1", mode, 0), mode)
			require.Equal(t, tenantB, value[string](t, f.b, f.db, "select min(tenant_id) from orders where id > $1", mode, 0), mode)
		}
	}
}

var execModes = []pgx.QueryExecMode{
	pgx.QueryExecModeCacheStatement, pgx.QueryExecModeCacheDescribe, pgx.QueryExecModeDescribeExec, pgx.QueryExecModeExec,
	pgx.QueryExecModeSimpleProtocol,
}

func TestACommitInsideATxBreaksItLoudly(t *testing.T) {
	t.Parallel()
	for _, query := range []string{
		"commit", "end", "rollback", "abort", "commit and chain", "rollback and chain", "select 1; commit", "commit; begin",
		"prepare transaction 'x1'",
	} {
		t.Run(query, func(t *testing.T) {
			t.Parallel()
			f := newFleet(t, fleetOptions{})
			tx := f.begin(f.a)
			f.exec(f.a, tx, "select 1")
			if _, err := tx.ExecContext(f.a, query); err != nil {
				t.Logf("refused: %v", err)
			}
			_, err := tx.ExecContext(f.a, "insert into orders (note) values ('lost')")
			require.Error(t, err)
			require.Error(t, tx.Commit())
			require.Zero(t, outside[int](f, "select count(*) from orders where note = 'lost'"))
			f.requireOwnRows()
			_ = f.server.Exec(t.Context(), f.database, "rollback prepared 'x1'")
		})
	}
}

func TestTemporaryTablesDoNotShadowTheNextTenantsTables(t *testing.T) {
	t.Parallel()
	for _, query := range []string{
		"create temp table orders (like public.orders)",
		"create temporary view orders as select 1 id, 'fake' note, 'acme' tenant_id",
		"select * into temp orders from public.orders",
		"create temp table orders as table public.orders",
		"do $$begin create temp table orders (like public.orders); end$$",
	} {
		t.Run(query, func(t *testing.T) {
			t.Parallel()
			f := newFleet(t, fleetOptions{})
			f.requireNotes(f.b, f.db, notesOfB)
			f.exec(f.a, f.db, query)
			f.requireNotes(f.b, f.db, notesOfB)
			f.exec(f.b, f.db, "insert into orders (note) values ('real')")
			require.Equal(t, 1, outside[int](f, "select count(*) from public.orders where note = 'real'"))
		})
	}
}

func TestListenEndsWithTheCheckout(t *testing.T) {
	t.Parallel()
	f := newFleet(t, fleetOptions{})
	f.exec(f.a, f.db, "listen ch")
	f.exec(f.a, f.db, "do $$begin execute 'listen ch2'; end$$")
	_, err := f.su.Exec(t.Context(), "notify ch, 'A-secret'")
	require.NoError(t, err)
	require.Zero(t, value[int](t, f.b, f.db, "select count(*) from pg_listening_channels()"))
	conn := f.conn(f.b)
	f.requireNotes(f.b, conn, notesOfB)
	require.NoError(t, conn.Raw(func(c any) error {
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		defer cancel()
		n, err := c.(*shardedpg.Conn).Conn().WaitForNotification(ctx)
		require.Error(t, err)
		require.Nil(t, n)
		return nil
	}))
}

func TestAdvisoryLocksEndWithTheCheckout(t *testing.T) {
	t.Parallel()
	f := newFleet(t, fleetOptions{})
	const held = "select count(*) from pg_locks where locktype = 'advisory' and database = (select oid from pg_database where datname = current_database())"
	f.exec(f.a, f.db, "select pg_advisory_lock(42)")
	f.requireOutside("a lock that can be read from the statement ends at once", 0, held)
	f.exec(f.a, f.db, "select hidden_lock(43)")
	f.requireNotes(f.b, f.db, notesOfB)
	f.requireOutside("a hidden lock ends with the next tenant's statement", 0, held)
}

func TestSequencesCursorsAndPreparedStatementsDoNotReachTheNextTenant(t *testing.T) {
	t.Parallel()
	f := newFleet(t, fleetOptions{})
	f.exec(f.a, f.db, "insert into orders (note) values ('n')")
	_, err := f.db.ExecContext(f.b, "select lastval()")
	requireCode(t, err, "55000")

	tx := f.begin(f.a)
	f.exec(f.a, tx, "declare c cursor with hold for select note from orders")
	require.NoError(t, tx.Commit())
	_, err = f.db.ExecContext(f.b, "fetch all from c")
	requireCode(t, err, "34000")

	f.exec(f.a, f.db, "prepare p as select 1")
	_, err = f.db.ExecContext(f.b, "execute p")
	requireCode(t, err, "26000")
	f.exec(f.a, f.db, "do $$begin execute 'prepare p as select 1'; end$$")
	_, err = f.db.ExecContext(f.b, "execute p")
	requireCode(t, err, "26000")
	f.requireNotes(f.b, f.db, notesOfB)
}

func TestAForgedCachedStatementIsNotRunByTheNextTenant(t *testing.T) {
	t.Parallel()
	f := newFleet(t, fleetOptions{})
	for range 3 {
		f.requireOwnRows() // pgx has the statement cached on the backend
		f.exec(f.a, f.db, `do $$declare n text; begin
			select name into n from pg_prepared_statements where statement like '%string_agg%' and not from_sql;
			if n is not null then
				execute format('deallocate %I', n);
				execute format('prepare %I as select ''forged''::text', n);
			end if;
		end$$`)
		f.requireNotes(f.b, f.db, notesOfB)
	}
}

func TestParallelPlansSeeOwnRowsOnly(t *testing.T) {
	t.Parallel()
	f := newFleet(t, fleetOptions{schema: []string{`
		insert into orders (tenant_id, note) select t, 'x' from unnest(array['acme', 'globex']) t, generate_series(1, case t when 'acme' then 30000 else 20000 end);
		analyze orders;
		do $$begin execute format('alter database %I set parallel_setup_cost = 0', current_database());
		execute format('alter database %I set parallel_tuple_cost = 0', current_database());
		execute format('alter database %I set min_parallel_table_scan_size = 0', current_database()); end$$`}})
	var plan strings.Builder
	rows, err := f.db.QueryContext(f.a, "explain (costs off) select count(*) from orders")
	require.NoError(t, err)
	for rows.Next() {
		var line string
		require.NoError(t, rows.Scan(&line))
		plan.WriteString(line + "\n")
	}
	require.NoError(t, rows.Err())
	require.NoError(t, rows.Close())
	require.Contains(t, plan.String(), "Gather")
	for range 3 {
		require.Equal(t, 30002, value[int](t, f.a, f.db, "select count(*) from orders"))
		require.Equal(t, 20001, value[int](t, f.b, f.db, "select count(*) from orders"))
	}
}

func TestACancelledStatementNeverHitsTheNextTenant(t *testing.T) {
	t.Parallel()
	f := newFleet(t, fleetOptions{})
	rounds := 200
	if testing.Short() {
		rounds = 30
	}
	for range rounds {
		ctx, cancel := context.WithTimeout(f.a, rand.N(3*time.Millisecond))
		var got string
		if err := f.db.QueryRowContext(ctx, notesSQL+" where pg_sleep(0.001) is not null").Scan(&got); err == nil {
			require.Equal(t, notesOfA, got)
		}
		cancel()
		f.requireNotes(f.b, f.db, notesOfB)
	}
}

func TestAKilledBackendIsReplacedAndWritesRunOnce(t *testing.T) {
	t.Parallel()
	f := newFleet(t, fleetOptions{})
	for i := range 10 {
		pid := f.pid(f.a, f.db)
		_, err := f.su.Exec(t.Context(), "select pg_terminate_backend($1)", pid)
		require.NoError(t, err)
		f.requireOutside("the backend is gone", 0, "select count(*) from pg_stat_activity where pid = $1", pid)
		f.exec(f.a, f.db, "insert into orders (note) values ($1)", fmt.Sprint("once", i))
		require.Equal(t, 1, outside[int](f, "select count(*) from orders where note = $1", fmt.Sprint("once", i)))
	}
	f.requireNotes(f.b, f.db, notesOfB)
}

func TestTheHammerFindsNoForeignRow(t *testing.T) {
	t.Parallel()
	const tenants, workers = 20, 64
	f := newFleet(t, fleetOptions{
		config: func(c *shardedpg.Config) { c.MaxConns = 8 },
		routes: func(f *fleet, routes map[string]*resolver.Route) {
			for i := range tenants {
				id := fmt.Sprint("t", i)
				routes[id] = f.route(id, planOf(30*time.Second, 4<<10))
			}
		},
	})
	length := 6 * time.Second
	if testing.Short() {
		length = time.Second
	}
	end := time.Now().Add(length)
	var acknowledged [tenants]atomic.Int64 // sure writes
	var unsure [tenants]atomic.Int64       // writes whose context ended: they may have happened
	var group sync.WaitGroup
	for w := range workers {
		group.Go(func() {
			r := rand.New(rand.NewPCG(uint64(w), 1))
			for time.Now().Before(end) && !t.Failed() {
				n := r.IntN(tenants)
				hammerOnce(f, r, n, &acknowledged[n], &unsure[n])
			}
		})
	}
	group.Wait()
	for i := range tenants {
		got := outside[int64](f, "select count(*) from orders where tenant_id = $1", fmt.Sprint("t", i))
		sure := acknowledged[i].Load()
		require.GreaterOrEqual(t, got, sure)
		require.LessOrEqual(t, got, sure+unsure[i].Load())
	}
}

// hammerOnce does one random thing for tenant number n. It reports with assertions that may be used off the test's
// goroutine.
func hammerOnce(f *fleet, r *rand.Rand, n int, acknowledged, unsure *atomic.Int64) {
	tenant := fmt.Sprint("t", n)
	ctx := shardedpg.WithTenant(f.Context(), tenant)
	cancelled := r.IntN(20) == 0
	if cancelled {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, time.Duration(r.IntN(3000))*time.Microsecond)
		defer cancel()
	}
	check := func(err error, what string) bool {
		if err != nil && !(cancelled && ctx.Err() != nil) {
			f.Errorf("%s: %v", what, err)
		}
		return err == nil
	}
	read := func(q querier, what string) {
		var foreign, setting string
		err := q.QueryRowContext(ctx, `select coalesce(max(tenant_id) filter (where tenant_id <> $1), ''), current_setting($2) from orders`,
			tenant, guc).Scan(&foreign, &setting)
		if check(err, what) && (foreign != "" || setting != tenant) {
			f.Errorf("%s: tenant %s saw a row of %q with the setting %q", what, tenant, foreign, setting)
		}
	}
	write := func(q querier, what string) bool {
		_, err := q.ExecContext(ctx, "insert into orders (note) values ($1)", tenant)
		return check(err, what)
	}
	switch r.IntN(8) {
	case 0, 1, 2:
		read(f.db, "read")
	case 3:
		if write(f.db, "write") {
			acknowledged.Add(1)
		} else {
			unsure.Add(1)
		}
	case 4:
		_, err := f.db.ExecContext(ctx, "select 1/0")
		if err == nil {
			f.Errorf("1/0 succeeded")
		}
	case 5:
		_, err := f.db.ExecContext(ctx, "set work_mem = '1MB'; create temp table if not exists orders (tenant_id text, note text)")
		check(err, "session state")
	default:
		tx, err := f.db.BeginTx(ctx, &sql.TxOptions{Isolation: sql.IsolationLevel(r.IntN(2) * int(sql.LevelRepeatableRead))})
		if !check(err, "begin") {
			return
		}
		read(tx, "read in tx")
		wrote := write(tx, "write in tx")
		if r.IntN(3) == 0 {
			_ = tx.Rollback()
			return
		}
		switch err := tx.Commit(); {
		case err == nil && wrote:
			acknowledged.Add(1)
		case err != nil:
			check(err, "commit")
			unsure.Add(1)
		}
	}
}

func TestAfterAStatementOutsideTransactionsTheConnIsArmedAgain(t *testing.T) {
	t.Parallel()
	f := newFleet(t, fleetOptions{})
	for _, query := range []string{"vacuum probe", "discard all", "vacuum /* $1 */ probe"} {
		conn := f.conn(f.a)
		f.exec(f.a, conn, query)
		f.requireNotes(f.a, conn, notesOfA)
		f.exec(f.a, conn, "set app.current_tenant_id = 'globex'")
		f.requireNotes(f.a, conn, notesOfA)
		tx, err := conn.BeginTx(f.a, nil)
		require.NoError(t, err)
		f.exec(f.a, tx, "insert into orders (note) values ('rolled back')")
		require.NoError(t, tx.Rollback())
		require.Zero(t, outside[int](f, "select count(*) from orders where note = 'rolled back'"))
		require.NoError(t, conn.Close())
		f.requireOwnRows()
	}
}

// watchedConn tells when the server has sent some text.
type watchedConn struct {
	net.Conn
	text string
	seen func()
}

func (c *watchedConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if strings.Contains(string(p[:n]), c.text) {
		c.seen()
	}
	return n, err
}

func TestWhoLeavesBeforeAStatementRunsOutsideTransactionsIsToldSo(t *testing.T) {
	t.Parallel()
	var leave atomic.Pointer[context.CancelFunc]
	f := newFleet(t, fleetOptions{config: func(c *shardedpg.Config) {
		c.ConfigureConn = func(_ string, cc *pgx.ConnConfig) error {
			dial := cc.DialFunc
			cc.DialFunc = func(ctx context.Context, network, address string) (net.Conn, error) {
				conn, err := dial(ctx, network, address)
				return &watchedConn{Conn: conn, text: "C25001", seen: func() { (*leave.Load())() }}, err
			}
			return nil
		}
	}})
	ctx, cancel := context.WithCancel(f.a)
	leave.Store(&cancel)
	_, err := f.db.ExecContext(ctx, "vacuum probe")
	require.ErrorIs(t, err, context.Canceled)
	require.NotContains(t, err.Error(), "25001")
	f.requireOwnRows()
}

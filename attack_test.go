package shardedpg_test

import (
	"context"
	"database/sql"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/require"

	shardedpg "github.com/sharded-pg/sharded-pg"
	"github.com/sharded-pg/sharded-pg/resolver"
)

// count is what the superuser counts in orders with this note.
func (f *fleet) count(note string) int {
	f.Helper()
	return outside[int](f, "select count(*) from orders where note = $1", note)
}

// raw runs do on the pgx connection of conn, with a time limit that a stuck protocol runs into.
func (f *fleet) raw(conn *sql.Conn, do func(ctx context.Context, c *pgx.Conn) error) {
	f.Helper()
	require.NoError(f, f.rawError(conn, do))
}

func (f *fleet) rawError(conn *sql.Conn, do func(ctx context.Context, c *pgx.Conn) error) error {
	f.Helper()
	ctx, cancel := context.WithTimeout(f.a, 5*time.Second)
	defer cancel()
	return conn.Raw(func(driverConn any) error {
		return do(ctx, driverConn.(interface{ Conn() *pgx.Conn }).Conn())
	})
}

func TestAStringWhoseFirstPartIsCommittedIsNotRunAgain(t *testing.T) {
	t.Parallel()
	f := newFleet(t, fleetOptions{})
	_, err := f.db.ExecContext(f.a, "insert into orders (note) values ('once'); commit; vacuum orders")
	requireCode(t, err, "25001")
	require.Equal(t, 1, f.count("once"))
}

func TestABlockThatCommittedIsNotRunAgain(t *testing.T) {
	t.Parallel()
	f := newFleet(t, fleetOptions{})
	// The tenant is local to the transaction that the block commits, so only the first insert is the tenant's.
	_, err := f.db.ExecContext(f.a, "do $$ begin insert into orders (note) values ('once'); commit; "+
		"raise exception 'no' using errcode = '25001'; end $$")
	requireCode(t, err, "25001")
	require.Equal(t, 1, f.count("once"))
}

func TestAChangedPlanBehindACommitDoesNotRunTheStringAgain(t *testing.T) {
	t.Parallel()
	f := newFleet(t, fleetOptions{})
	conn := f.conn(f.a)
	f.exec(f.a, conn, "create temp table t (a int)")
	f.exec(f.a, conn, "prepare p as select * from t")
	f.exec(f.a, conn, "execute p; alter table t add b int")
	_, err := conn.ExecContext(f.a, "insert into orders (note) values ('once'); commit; execute p")
	requireCode(t, err, "0A000")
	require.Equal(t, 1, f.count("once"))
}

func TestATransactionBegunBySQLIsNotContinuedOnAnotherConnection(t *testing.T) {
	t.Parallel()
	f := newFleet(t, fleetOptions{})
	conn := f.conn(f.a)
	f.exec(f.a, conn, "begin")
	f.exec(f.a, conn, "insert into orders (note) values ('first')")
	ctx, cancel := context.WithTimeout(f.a, 50*time.Millisecond)
	defer cancel()
	_, err := conn.ExecContext(ctx, "select pg_sleep(10)")
	require.Error(t, err)
	_, err = conn.ExecContext(f.a, "insert into orders (note) values ('second')")
	require.ErrorIs(t, err, shardedpg.ErrShardUnavailable)
	require.Zero(t, f.count("first"))
	require.Zero(t, f.count("second"), "half of a transaction must not be committed")
}

func TestCommitOfALostTransactionFails(t *testing.T) {
	t.Parallel()
	f := newFleet(t, fleetOptions{})
	tx := f.begin(f.a)
	f.exec(f.a, tx, "insert into orders (note) values ('lost')")
	ctx, cancel := context.WithTimeout(f.a, 50*time.Millisecond)
	defer cancel()
	_, err := tx.ExecContext(ctx, "select pg_sleep(10)")
	require.Error(t, err)
	require.Error(t, tx.Commit(), "what was written is gone")
	require.Zero(t, f.count("lost"))
}

func TestAnErrorInALeadingBeginReachesTheCaller(t *testing.T) {
	t.Parallel()
	f := newFleet(t, fleetOptions{})
	for _, query := range []string{"begin nonsense; select 1", "begin isolation level x; select 1"} {
		ctx, cancel := context.WithTimeout(f.a, 5*time.Second)
		_, err := f.db.ExecContext(ctx, query)
		requireCode(t, err, "42601")
		cancel()
	}
	f.requireOwnRows()
}

func TestSetTransactionInFrontOfAStringDoesNotTakeTheTenantAway(t *testing.T) {
	t.Parallel()
	f := newFleet(t, fleetOptions{})
	conn := f.conn(f.a)
	f.exec(f.a, conn, "select set_config('"+guc+"', 'globex', false)")
	tx, err := conn.BeginTx(f.a, nil)
	require.NoError(t, err)
	f.exec(f.a, tx, "set transaction isolation level repeatable read; insert into orders (note) "+
		"select string_agg(note, ',' order by id) from orders")
	require.Equal(t, "repeatable read", value[string](t, f.a, tx, "show transaction_isolation"))
	require.NoError(t, tx.Commit())
	require.Equal(t, 1, outside[int](f, "select count(*) from orders where tenant_id = 'acme' and note = $1", notesOfA))
}

// requireMode is for tests that attack in one mode after the other: they show nothing when each ran in the default.
func requireMode(t *testing.T, c *pgx.Conn, mode string) {
	t.Helper()
	require.Equal(t, strings.ReplaceAll(mode, "_", " "), c.Config().DefaultQueryExecMode.String())
}

func TestABatchMayBeginWithBegin(t *testing.T) {
	t.Parallel()
	for _, mode := range []string{"cache_statement", "cache_describe", "describe_exec", "exec", "simple_protocol"} {
		t.Run(mode, func(t *testing.T) {
			f := newFleet(t, fleetOptions{dsn: "default_query_exec_mode=" + mode})
			f.requireNotes(f.b, f.db, notesOfB)
			conn := f.conn(f.a)
			f.raw(conn, func(ctx context.Context, c *pgx.Conn) error {
				requireMode(t, c, mode)
				b := &pgx.Batch{}
				b.Queue("begin")
				b.Queue("insert into orders (note) values ($1)", mode)
				b.Queue("select " + "string_agg(note, ',' order by id) from orders where note like 'A-%' or tenant_id = 'globex'").
					QueryRow(func(row pgx.Row) error {
						var got string
						require.NoError(t, row.Scan(&got))
						require.Equal(t, notesOfA, got)
						return nil
					})
				b.Queue("commit")
				return c.SendBatch(ctx, b).Close()
			})
			require.NoError(t, conn.Close())
			require.Equal(t, 1, f.count(mode))
		})
	}
}

func TestABatchMayBeginWithAnEmptyQuery(t *testing.T) {
	t.Parallel()
	for _, mode := range []string{"cache_statement", "exec"} {
		f := newFleet(t, fleetOptions{dsn: "default_query_exec_mode=" + mode})
		f.requireNotes(f.b, f.db, notesOfB)
		conn := f.conn(f.a)
		f.raw(conn, func(ctx context.Context, c *pgx.Conn) error {
			requireMode(t, c, mode)
			b := &pgx.Batch{}
			b.Queue("-- nothing")
			b.Queue("select $1::text", "x").QueryRow(func(row pgx.Row) error {
				var got string
				require.NoError(t, row.Scan(&got))
				require.Equal(t, "x", got)
				return nil
			})
			b.Queue(notesSQL).QueryRow(func(row pgx.Row) error {
				var got string
				require.NoError(t, row.Scan(&got))
				require.Equal(t, notesOfA, got)
				return nil
			})
			return c.SendBatch(ctx, b).Close()
		})
		require.NoError(t, conn.Close())
	}
}

func TestAPipelineMayBeginWithSyncOrClose(t *testing.T) {
	t.Parallel()
	f := newFleet(t, fleetOptions{schema: []string{hiddenSQL}})
	for _, first := range []string{"sync", "close"} {
		f.exec(f.b, f.db, "select hidden_exec('set search_path = pg_temp')") // looks plain: reset in front of the next tenant
		conn := f.conn(f.a)
		f.raw(conn, func(ctx context.Context, c *pgx.Conn) error {
			p := c.PgConn().StartPipeline(ctx)
			if first == "sync" {
				p.SendPipelineSync()
			} else {
				p.SendDeallocate("nothing")
			}
			p.SendQueryParams("select current_setting('search_path'), tenant_id from orders", nil, nil, nil, nil)
			p.SendPipelineSync()
			require.NoError(t, p.Flush())
			for {
				results, err := p.GetResults()
				if err != nil {
					return err
				}
				if reader, ok := results.(*pgconn.ResultReader); ok {
					r := reader.Read()
					require.NoError(t, r.Err)
					require.Len(t, r.Rows, 2)
					require.NotEqual(t, "pg_temp", string(r.Rows[0][0]), "the other tenant's search_path")
					require.Equal(t, "acme", string(r.Rows[0][1]))
					return p.Close()
				}
			}
		})
		require.NoError(t, conn.Close())
	}
}

// hidden_exec runs any text: what a function of an application may do without its call showing it.
const hiddenSQL = `create function hidden_exec(query text) returns void language plpgsql as 'begin execute query; end'`

func TestARefusalDoesNotPassForAPrologue(t *testing.T) {
	t.Parallel()
	f := newFleet(t, fleetOptions{})
	conn := f.conn(f.a)
	f.exec(f.a, conn, "begin")
	f.exec(f.a, conn, "select set_config('"+guc+"', 'globex', true)")
	err := f.rawError(conn, func(ctx context.Context, c *pgx.Conn) error {
		b := &pgx.Batch{}
		b.Queue("select $1::text", "x")
		b.Queue("create role nobody")
		return c.SendBatch(ctx, b).Close()
	})
	require.Error(t, err)
	f.requireNotes(f.a, conn, notesOfA)
}

func TestAForgedAttestIsNotBelieved(t *testing.T) {
	t.Parallel()
	for name, forge := range map[string]string{
		"all names": `do $$ declare n text; begin
			for n in select name from pg_prepared_statements where name like 'sharded\_pg\_p%' and parameter_types = '{text}' loop
				execute format('deallocate %I', n);
				execute format('prepare %I (text) as select set_config(''` + guc + `'', ''acme'', true) is not null where $1 is not null', n);
			end loop;
			for n in select name from pg_prepared_statements where statement like '%from_sql%' and name like 'sharded%' loop
				execute format('deallocate %I', n);
				execute format('prepare %I as select 1', n);
			end loop; end $$`,
		"shadowed catalog": `do $$ declare n text; begin
			create temp table pg_prepared_statements (from_sql bool);
			for n in select name from pg_catalog.pg_prepared_statements where name like 'sharded\_pg\_p%' and parameter_types = '{text}' loop
				execute format('deallocate %I', n);
				execute format('prepare %I (text) as select set_config(''` + guc + `'', ''acme'', true) is not null where $1 is not null', n);
			end loop; end $$`,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newFleet(t, fleetOptions{})
			f.requireOwnRows()
			f.exec(f.a, f.db, forge)
			f.requireNotes(f.b, f.db, notesOfB)
			f.requireOwnRows()
		})
	}
}

// The driver's statements are prepared where they are used first, so their names are free until then.
func TestAStatementThatTakesTheNameOfThePrologueIsNotBelieved(t *testing.T) {
	t.Parallel()
	f := newFleet(t, fleetOptions{schema: []string{hiddenSQL}})
	conn := f.conn(f.a)
	f.requireNotes(f.a, conn, notesOfA)
	for name, types := range map[string]string{"p1": "text, text", "p4": "text, text, text, text"} { // looks plain, so that both are used
		f.exec(f.a, conn, "select hidden_exec($1)", "prepare sharded_pg_"+name+" ("+types+") as select set_config('"+guc+"', 'globex', true) is not null where $1 <> $2")
	}
	ctx, cancel := context.WithTimeout(f.a, 20*time.Second) // another timeout than the plan's takes another prologue
	defer cancel()
	f.requireNotes(ctx, conn, notesOfA)
	tx, err := conn.BeginTx(ctx, nil)
	require.NoError(t, err)
	f.exec(ctx, tx, "set local work_mem = '5MB'") // and another one behind it
	f.requireNotes(ctx, tx, notesOfA)
	require.NoError(t, tx.Rollback())
	require.Equal(t, 2, value[int](t, ctx, conn, "select count(*) from pg_prepared_statements where name in ('sharded_pg_p1', 'sharded_pg_p4') and not from_sql"))
}

// The change of tenants looks through all prepared statements of the connection.
func TestOnlyWhatIsUsedOfTheDriversStatementsIsPrepared(t *testing.T) {
	t.Parallel()
	f := newFleet(t, fleetOptions{})
	f.requireOwnRows()
	f.requireOwnRows()
	require.LessOrEqual(t, value[int](t, f.a, f.db, "select count(*) from pg_prepared_statements where name like 'sharded%'"), 9)
}

// A BEGIN of the caller's flies without the prologue, and so does the ROLLBACK behind it.
func TestAResetIsWholeWhereThePrologueComesLate(t *testing.T) {
	t.Parallel()
	for what, found := range map[string]string{
		"select hidden_lock(43)":                             "select count(*) from pg_locks where locktype = 'advisory' and pid = pg_backend_pid()",
		"select hidden_exec('prepare x as select 1')":        "select count(*) from pg_prepared_statements where from_sql",
		"select hidden_exec('set role app_reader')":          "select count(*) where current_user <> session_user",
		"select hidden_exec('create temp table x ()')":       "select count(*) from pg_class where relnamespace = pg_my_temp_schema()",
		"select hidden_exec('set intervalstyle = iso_8601')": "select count(*) where current_setting('intervalstyle') = 'iso_8601'",
	} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			f := newFleet(t, fleetOptions{schema: []string{hiddenSQL}, config: func(c *shardedpg.Config) { c.MaxConns = 1 }})
			leave := func() {
				conn := f.conn(f.a)
				f.exec(f.a, conn, what)
				require.Equal(t, 1, value[int](t, f.a, conn, found))
				require.NoError(t, conn.Close())
			}
			for _, begin := range []string{"begin", "begin isolation level serializable"} {
				leave()
				conn := f.conn(f.b)
				f.exec(f.b, conn, begin)
				f.exec(f.b, conn, "rollback")
				require.NoError(t, conn.Close())
				require.Zero(t, value[int](t, f.b, f.db, found), "%s, behind it", begin)
				leave()
				conn = f.conn(f.b)
				f.exec(f.b, conn, begin)
				require.Zero(t, value[int](t, f.b, conn, found), "%s, in it", begin)
				require.NoError(t, conn.Close())
			}
			for _, in := range []bool{false, true} {
				leave()
				tx := f.begin(f.b)
				f.exec(f.b, tx, "set transaction isolation level repeatable read")
				if in {
					require.Zero(t, value[int](t, f.b, tx, found), "set transaction, in it")
				}
				require.NoError(t, tx.Rollback())
				require.Zero(t, value[int](t, f.b, f.db, found), "set transaction, behind it")
			}
		})
	}
}

// Types that are named without their schema are found among the temporary ones first, and a domain runs a function.
func TestATemporaryTypeRunsNothingInTheReset(t *testing.T) {
	t.Parallel()
	f := newFleet(t, fleetOptions{schema: []string{hiddenSQL}})
	f.requireOwnRows()
	for _, name := range []string{"text", "int4", "bit", "interval", "bool", "numeric", "float8"} {
		conn := f.conn(f.a)
		pid := f.pid(f.a, conn)
		f.exec(f.a, conn, `create function pg_temp.f(v anyelement) returns bool language plpgsql as $$ begin
			perform pg_catalog.set_config('app.left', 'behind', false);
			execute 'set role app_reader';
			execute 'prepare forged as select 1';
			execute 'listen left_behind';
			return true; end $$`)
		f.exec(f.a, conn, `create domain pg_temp."`+name+`" as pg_catalog.`+name+` check (pg_temp.f(value))`)
		require.NoError(t, conn.Close())
		require.Equal(t, "||app|0|0", value[string](t, f.b, f.db, `select concat_ws('|', '', coalesce(current_setting('app.left', true), ''), current_user,
			(select count(*) from pg_prepared_statements where from_sql), (select count(*) from pg_listening_channels()))`), name)
		require.Equal(t, pid, f.pid(f.b, f.db), "it is the connection that was prepared")
		f.exec(f.a, f.db, "select hidden_exec($1)", `create domain pg_temp."`+name+`" as pg_catalog.`+name+` check (pg_catalog.set_config('app.left', 'hidden', false) is not null)`)
		require.Empty(t, value[string](t, f.b, f.db, "select coalesce(current_setting('app.left', true), '')"), name)
	}
}

// A reset may be cancelled: its first commands run under the timeout that they take away. All of it is undone then, in a block that is not
// the next tenant's to end.
func TestAResetThatIsCancelledLeavesNothingToTheNextTenant(t *testing.T) {
	t.Parallel()
	f := newFleet(t, fleetOptions{schema: []string{hiddenSQL}})
	f.requireOwnRows()
	pid := f.pid(f.a, f.db)
	f.exec(f.a, f.db, "select hidden_exec('create temp table x ()'), hidden_exec($1)", "set "+guc+" = 'acme'")
	require.Equal(t, pid, f.pid(f.a, f.db))
	outsider := f.connectAs("postgres")
	_, err := outsider.Exec(t.Context(), "begin; do $$ begin execute 'lock table ' || (select oid::regclass from pg_class where relname = 'x') || "+
		"' in access share mode'; end $$") // discard temp waits for it
	require.NoError(t, err)
	conn := f.conn(f.b)
	read := make(chan error, 1)
	var notes string
	go func() { read <- conn.QueryRowContext(f.b, notesSQL).Scan(&notes) }()
	require.Eventually(t, func() bool {
		return outside[bool](f, "select exists (select from pg_locks where pid = $1 and not granted)", pid)
	}, 10*time.Second, time.Millisecond)
	require.True(t, outside[bool](f, "select pg_cancel_backend($1)", pid))
	require.NoError(t, <-read)
	require.Equal(t, notesOfB, notes)
	_, err = conn.ExecContext(f.b, "rollback; insert into orders (note) values ('of globex')")
	requireCode(t, err, "42501") // behind a ROLLBACK there is no tenant
	require.NoError(t, conn.Close())
	require.Zero(t, f.count("of globex"))
}

func TestARoleThatMayNotLookDoesNotStopTheNextTenant(t *testing.T) {
	t.Parallel()
	for _, function := range []string{"pg_advisory_unlock_all()", "set_config(text,text,bool)", "pg_prepared_statement()", "current_setting(text)"} {
		t.Run(function, func(t *testing.T) {
			t.Parallel()
			const conns = 4 // more than a statement has tries
			f := newFleet(t, fleetOptions{
				schema: []string{
					hiddenSQL, "revoke execute on function pg_catalog." + function + " from public",
					"grant execute on function pg_catalog." + function + " to app",
				},
				config: func(c *shardedpg.Config) { c.MaxConns, c.TenantShare = conns, 1 },
			})
			for _, hidden := range []string{
				"set role app_reader",
				"do $$ declare n text; begin for n in select name from pg_prepared_statements where name like 'sharded_pg_a%' loop execute format('deallocate %I', n); end loop; end $$",
			} {
				onEach := func(ctx context.Context, use func(conn *sql.Conn)) {
					var held []*sql.Conn
					for range conns {
						held = append(held, f.conn(ctx))
						use(held[len(held)-1])
					}
					for _, conn := range held {
						require.NoError(t, conn.Close())
					}
				}
				// Each serves both first, so that the statement of a change of tenants is prepared.
				onEach(f.a, func(conn *sql.Conn) { f.requireNotes(f.a, conn, notesOfA) })
				onEach(f.b, func(conn *sql.Conn) { f.requireNotes(f.b, conn, notesOfB) })
				onEach(f.a, func(conn *sql.Conn) { f.exec(f.a, conn, "select hidden_exec($1)", hidden) })
				f.requireNotes(f.b, f.db, notesOfB)
				tx := f.begin(f.b)
				f.requireNotes(f.b, tx, notesOfB)
				require.NoError(t, tx.Commit())
			}
		})
	}
}

// Statements that were refused have been counted, and the first that is sent carries the reset.
func TestAHiddenRoleDoesNotFailATransactionThatBeganWithARefusal(t *testing.T) {
	t.Parallel()
	f := newFleet(t, fleetOptions{schema: []string{hiddenSQL}})
	for _, hidden := range []string{"set role app_reader", "prepare x as select 1"} {
		f.requireOwnRows()
		f.exec(f.a, f.db, "select hidden_exec($1)", hidden)
		tx := f.begin(f.b)
		for range 2 {
			_, err := tx.ExecContext(f.b, "create role nobody")
			require.ErrorIs(t, err, shardedpg.ErrStatementRefused)
		}
		f.requireNotes(f.b, tx, notesOfB)
		f.exec(f.b, tx, "insert into orders (note) values ('in tx')")
		require.NoError(t, tx.Rollback())
		require.Zero(t, f.count("in tx"), "it was in the transaction")
	}
}

func TestALoginThatIsItsOwnRoleKeepsItsConnection(t *testing.T) {
	t.Parallel()
	for _, dsn := range []string{"role=app", "options='-c role=app'"} {
		f := newFleet(t, fleetOptions{dsn: dsn})
		f.requireOwnRows()
		pid := f.pid(f.a, f.db)
		f.requireOwnRows()
		require.Equal(t, pid, f.pid(f.a, f.db), dsn)
	}
}

func TestWhatHidesInAFunctionDoesNotStopTheNextTenant(t *testing.T) {
	t.Parallel()
	f := newFleet(t, fleetOptions{schema: []string{hiddenSQL}})
	for _, hidden := range []string{"prepare x as select 1", "deallocate all"} {
		f.exec(f.a, f.db, "select hidden_exec($1)", hidden)
		f.exec(f.b, f.db, "set work_mem = '5MB'") // not plain, and the first of its checkout
		f.requireOwnRows()
	}
	f.requireNotes(f.b, f.db, notesOfB)
	f.exec(f.a, f.db, "do $$ declare n text; begin for n in select name from pg_prepared_statements where name like 'stmtcache%' "+
		"loop execute format('deallocate %I', n); end loop; end $$")
	f.requireNotes(f.b, f.db, notesOfB)
}

func TestManySpoiledConnectionsStopNobody(t *testing.T) {
	t.Parallel()
	const spoiled = 6
	f := newFleet(t, fleetOptions{schema: []string{hiddenSQL}, config: func(c *shardedpg.Config) {
		c.MaxConns, c.TenantShare = spoiled, 1
	}})
	spoil := func() {
		var conns []*sql.Conn
		for range spoiled {
			conns = append(conns, f.conn(f.a))
			f.exec(f.a, conns[len(conns)-1], "select hidden_exec($1)", "prepare x as select 1")
		}
		for _, conn := range conns {
			require.NoError(t, conn.Close())
		}
	}
	spoil()
	f.requireNotes(f.b, f.db, notesOfB)
	spoil()
	conn := f.conn(f.b)
	f.exec(f.b, conn, "begin")
	f.requireNotes(f.b, conn, notesOfB)
	require.NoError(t, conn.Close())
	spoil()
	conn = f.conn(f.b)
	f.raw(conn, func(ctx context.Context, c *pgx.Conn) error { return c.Ping(ctx) })
	require.NoError(t, conn.Close())
	spoil()
	f.exec(f.b, f.db, "vacuum pg_catalog.pg_am") // is tried again on top of that, for it refuses transactions
}

func TestABatchThatBeginsATransactionIsArmedInIt(t *testing.T) {
	t.Parallel()
	f := newFleet(t, fleetOptions{})
	f.requireNotes(f.b, f.db, notesOfB)
	conn := f.conn(f.a)
	f.raw(conn, func(ctx context.Context, c *pgx.Conn) error {
		b := &pgx.Batch{}
		b.BeginTx(pgx.TxOptions{IsoLevel: pgx.Serializable})
		b.Queue("insert into orders (note) values ($1)", "in batch")
		results := c.SendBatch(ctx, b)
		tx := results.Tx()
		require.NoError(t, results.Close())
		var notes, level string
		require.NoError(t, tx.QueryRow(ctx, notesSQL).Scan(&notes))
		require.Equal(t, notesOfA+",in batch", notes)
		require.NoError(t, tx.QueryRow(ctx, "show transaction_isolation").Scan(&level))
		require.Equal(t, "serializable", level)
		return tx.Commit(ctx)
	})
	require.Equal(t, 1, f.count("in batch"))
}

func TestATransactionThatReplacesAnotherInOneFlightIsArmed(t *testing.T) {
	t.Parallel()
	f := newFleet(t, fleetOptions{})
	conn := f.conn(f.a)
	f.exec(f.a, conn, "select set_config('"+guc+"', 'globex', false)")
	f.exec(f.a, conn, "begin")
	f.requireNotes(f.a, conn, notesOfA)
	f.raw(conn, func(ctx context.Context, c *pgx.Conn) error {
		b := &pgx.Batch{}
		b.Queue("commit")
		b.Queue("begin")
		return c.SendBatch(ctx, b).Close()
	})
	f.requireNotes(f.a, conn, notesOfA)
}

func TestWhatAFunctionHidesDoesNotReachTheNextTenant(t *testing.T) {
	t.Parallel()
	f := newFleet(t, fleetOptions{schema: []string{hiddenSQL}})
	for _, hidden := range []string{
		"set " + guc + " = 'acme'", "set role app_reader", "set search_path = pg_temp", "listen x",
		"create temp table orders as select 'forged'::text as note, 1 as id", "set session authorization app",
		"create temp view probe as select 1 as tenant", "prepare x as select 1", "set default_transaction_read_only = on",
	} {
		f.exec(f.a, f.db, "select hidden_exec($1)", hidden)
		f.exec(f.b, f.db, "insert into probe select 'in ' || current_setting('"+guc+"'), count(*) from orders; commit; "+
			"insert into probe select 'past ' || current_setting('"+guc+"', true), count(*) from orders")
		require.Equal(t, "in globex=1 past =0", outside[string](f, "select string_agg(tenant || '=' || orders, ' ' order by tenant) from probe"),
			hidden)
		f.exec(f.b, f.db, "delete from probe")
	}
}

func TestTheDeadlineOfOneTenantIsNotTheLimitOfTheNext(t *testing.T) {
	t.Parallel()
	f := newFleet(t, fleetOptions{})
	ctx, cancel := context.WithTimeout(f.a, 15*time.Second)
	defer cancel()
	f.requireNotes(ctx, f.db, notesOfA) // connects
	f.exec(f.b, f.db, "select 1; commit; insert into probe select current_setting('statement_timeout'), 0")
	require.Equal(t, "30s", outside[string](f, "select tenant from probe"))
}

func TestCommitOfATransactionThatNeverGotItsSettingsFails(t *testing.T) {
	t.Parallel()
	f := newFleet(t, fleetOptions{routes: func(_ *fleet, routes map[string]*resolver.Route) {
		r := routes[tenantA]
		r.Model, r.Schema, r.Role = resolver.ModelSchema, "public", "no_such_role"
	}})
	tx := f.begin(f.a)
	_, err := tx.ExecContext(f.a, "select 1")
	require.ErrorIs(t, err, shardedpg.ErrPrologue)
	require.Error(t, tx.Commit())
}

func TestCopyInAndOutKeepTheProtocolInStep(t *testing.T) {
	t.Parallel()
	f := newFleet(t, fleetOptions{})
	for _, inTx := range []bool{false, true} {
		f.requireNotes(f.b, f.db, notesOfB)
		conn := f.conn(f.a)
		if inTx {
			f.exec(f.a, conn, "begin")
		}
		f.raw(conn, func(ctx context.Context, c *pgx.Conn) error {
			rows := [][]any{{"one", 1}, {"two", 2}}
			n, err := c.CopyFrom(ctx, pgx.Identifier{"probe"}, []string{"tenant", "orders"}, pgx.CopyFromRows(rows))
			require.NoError(t, err)
			require.EqualValues(t, 2, n)
			tag, err := c.PgConn().CopyFrom(ctx, strings.NewReader("three\t3\n"), "copy probe from stdin")
			require.NoError(t, err)
			require.EqualValues(t, 1, tag.RowsAffected())
			if !inTx {
				_, err = c.PgConn().CopyFrom(ctx, strings.NewReader("three\tx\n"), "copy probe from stdin")
				requireCode(t, err, "22P02")
				_, err = c.PgConn().CopyFrom(ctx, strings.NewReader("x"), "copy orders from stdin")
				requireCode(t, err, "0A000") // PostgreSQL refuses it under row-level security
			}
			var out writerFunc
			_, err = c.PgConn().CopyTo(ctx, &out, "copy (select note from orders order by id) to stdout")
			require.NoError(t, err)
			require.Equal(t, "A-secret\nA-secret2\n", string(out))
			_, err = c.Exec(ctx, "copy probe to stdout; select 1")
			require.NoError(t, err)
			var notes string
			return c.QueryRow(ctx, notesSQL).Scan(&notes)
		})
		f.requireNotes(f.a, conn, notesOfA)
		require.NoError(t, conn.Close())
	}
	f.requireOwnRows()
}

func TestARawConnectionIsDeadOnceItsCheckoutEnds(t *testing.T) {
	t.Parallel()
	f := newFleet(t, fleetOptions{})
	conn := f.conn(f.a)
	var kept *pgx.Conn
	f.raw(conn, func(_ context.Context, c *pgx.Conn) error {
		kept = c
		return nil
	})
	require.NoError(t, conn.Close())
	f.requireNotes(f.b, f.db, notesOfB)
	_, err := kept.Exec(f.b, "select 1")
	require.Error(t, err)
}

func TestASeedOfOneTenantDoesNotForetellTheNextTenantsRandomNumbers(t *testing.T) {
	t.Parallel()
	f := newFleet(t, fleetOptions{})
	numbers := make(map[float64]bool)
	for range 3 {
		_, err := f.db.ExecContext(f.a, "select setseed(0.5)")
		require.NoError(t, err)
		number := value[float64](t, f.b, f.db, "select random()")
		require.False(t, numbers[number], "the same number after the same seed")
		numbers[number] = true
	}
}

// No reset closes what dblink has connected: it still works for the tenant that it was made for.
func TestAConnectionOfDblinkIsNotTheNextTenants(t *testing.T) {
	t.Parallel()
	f := newFleet(t, fleetOptions{schema: []string{
		"create extension dblink; grant execute on function dblink_connect_u(text), dblink_connect_u(text, text) to app",
	}})
	dsn := f.server.DSN("app", f.database) + " options='-c " + guc + "=acme'"
	for _, text := range []string{
		"select dblink_connect_u('left', $d$" + dsn + "$d$)", "select dblink_connect_u($d$" + dsn + "$d$)",
		`select U&"dblink\005fconnect_u"('left', $d$` + dsn + "$d$)",
		"do $$ begin perform dblink_connect_u('left', $d$" + dsn + "$d$); end $$",
	} {
		for _, end := range []func(*sql.Tx) error{(*sql.Tx).Commit, (*sql.Tx).Rollback} {
			tx := f.begin(f.a)
			f.exec(f.a, tx, text)
			require.NoError(t, end(tx))
			require.Empty(t, value[string](t, f.b, f.db, "select coalesce(array_to_string(dblink_get_connections(), ','), '')"))
			_, err := f.db.ExecContext(f.b, "select * from dblink('select note from orders') as o (note text)")
			require.Error(t, err)
		}
	}
	f.requireOwnRows()
}

func TestAHijackedConnectionGivesItsSlotBack(t *testing.T) {
	t.Parallel()
	f := newFleet(t, fleetOptions{})
	conn, err := f.db.Conn(f.a)
	require.NoError(t, err)
	var taken *pgconn.HijackedConn
	require.NoError(t, conn.Raw(func(c any) error {
		var err error
		taken, err = c.(interface{ Conn() *pgx.Conn }).Conn().PgConn().Hijack()
		return err
	}))
	require.NoError(t, conn.Close())
	f.requireOwnRows() // waits for the slot; there is only one
	require.NoError(t, taken.Conn.Close())
}

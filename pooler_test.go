package shardedpg_test

import (
	"context"
	"database/sql"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/require"

	shardedpg "github.com/sharded-pg/sharded-pg"
	"github.com/sharded-pg/sharded-pg/internal/pgtest"
	"github.com/sharded-pg/sharded-pg/registry"
	"github.com/sharded-pg/sharded-pg/resolver"
)

// pooled opens a driver instance of its own behind a PgBouncer.
func pooled(t *testing.T, bouncer *pgtest.Bouncer, database, execMode string, conns int, change ...func(*shardedpg.Config)) *sql.DB {
	t.Helper()
	db, _ := pooledConnector(t, bouncer, database, execMode, conns, change...)
	return db
}

func pooledConnector(t *testing.T, bouncer *pgtest.Bouncer, database, execMode string, conns int,
	change ...func(*shardedpg.Config),
) (*sql.DB, *shardedpg.Connector) {
	t.Helper()
	store, err := registry.NewStatic(registry.Fleet{
		Shards: []registry.Shard{{
			Name: "s1", DSN: bouncer.DSN("wire_app", database) + " default_query_exec_mode=" + execMode,
		}},
		Tenants: []registry.Tenant{{ID: "a", Shard: "s1", Plan: "starter"}, {ID: "b", Shard: "s1", Plan: "growth"}},
	})
	require.NoError(t, err)
	cfg := shardedpg.Config{Store: store, MaxConns: conns, TenantShare: 1, Tag: execMode == "exec"}
	for _, change := range change {
		change(&cfg)
	}
	connector, err := shardedpg.NewConnector(cfg)
	require.NoError(t, err)
	db := sql.OpenDB(connector)
	t.Cleanup(func() { require.NoError(t, db.Close()) })
	return db, connector
}

func TestTenantsStayApartBehindPgBouncer(t *testing.T) {
	t.Parallel()
	server := pgtest.Shared(t, "wire")
	for _, mode := range []string{"session", "transaction"} {
		for _, exec := range []string{"exec", "simple_protocol", "cache_describe"} {
			t.Run(mode+" "+exec, func(t *testing.T) {
				t.Parallel()
				database := server.NewDatabase(t, wireTables)
				bouncer, err := pgtest.StartBouncer(t.Context(), server, pgtest.BouncerOptions{Mode: mode, PoolSize: 1})
				require.NoError(t, err)
				t.Cleanup(func() { _ = bouncer.Stop() })
				a := shardedpg.WithTenant(t.Context(), "a")
				b := shardedpg.WithTenant(t.Context(), "b")
				dbA := pooled(t, bouncer, database, exec, 1)
				dbB := dbA
				if mode == "transaction" { // two processes that know nothing of each other share one server connection
					dbB = pooled(t, bouncer, database, exec, 1)
				}
				for i := range 10 {
					seen(t, a, dbA, "a", i)
					seen(t, b, dbB, "b", i)
					// What a leaves behind, the pooler would hand to b.
					for _, left := range []string{
						"create temp table if not exists notes as select 'a'::text tenant_id, 1 id, 'a1'::text note",
						"select set_config('app.current_tenant_id', 'a', false)", "select pg_advisory_lock(42)", "set row_security = off",
					} {
						_, err := dbA.ExecContext(a, left)
						require.NoError(t, err)
						seen(t, b, dbB, "b", i)
					}
					tx, err := dbB.BeginTx(b, &sql.TxOptions{Isolation: sql.LevelSerializable, ReadOnly: true})
					require.NoError(t, err)
					seen(t, b, tx, "b", i)
					seen(t, b, tx, "b", i)
					require.NoError(t, tx.Commit())
					var locks int
					require.NoError(t, dbB.QueryRowContext(b, "select count(*) from pg_locks where locktype = 'advisory' and "+
						"database = (select oid from pg_database where datname = current_database())").Scan(&locks))
					require.Zero(t, locks)
					if exec == "exec" { // pooled lets these name their tenants
						require.Equal(t, "tenant:a", value[string](t, a, dbA, "show application_name"))
						require.Equal(t, "tenant:b", value[string](t, b, dbB, "show application_name"))
					}
				}
			})
		}
	}
}

func TestDescribeExecBehindAPoolerIsRefusedAndTheConnectionStaysUsable(t *testing.T) {
	t.Parallel()
	server := pgtest.Shared(t, "wire")
	database := server.NewDatabase(t, wireTables)
	bouncer, err := pgtest.StartBouncer(t.Context(), server, pgtest.BouncerOptions{Mode: "transaction", PoolSize: 1})
	require.NoError(t, err)
	t.Cleanup(func() { _ = bouncer.Stop() })
	a := shardedpg.WithTenant(t.Context(), "a")
	db := pooled(t, bouncer, database, "describe_exec", 1)
	var note string
	err = db.QueryRowContext(a, point, 1).Scan(&note)
	require.ErrorIs(t, err, shardedpg.ErrStatementRefused)
	require.ErrorContains(t, err, "default_query_exec_mode=exec")
	_, err = db.ExecContext(a, "update notes set note = note")
	require.NoError(t, err)
}

func TestAStatementPreparedBySQLIsRefusedBehindAPooler(t *testing.T) {
	t.Parallel()
	server := pgtest.Shared(t, "wire")
	database := server.NewDatabase(t, wireTables)
	bouncer, err := pgtest.StartBouncer(t.Context(), server, pgtest.BouncerOptions{Mode: "transaction", PoolSize: 1})
	require.NoError(t, err)
	t.Cleanup(func() { _ = bouncer.Stop() })
	a := shardedpg.WithTenant(t.Context(), "a")
	db := pooled(t, bouncer, database, "exec", 1)
	for _, text := range []string{"prepare p as select 1", "execute p", "deallocate p", "deallocate all", "select 1; execute p"} {
		_, err := db.ExecContext(a, text)
		require.ErrorIs(t, err, shardedpg.ErrStatementRefused, text)
		require.ErrorContains(t, err, "prepared statement of database/sql", text)
	}
	seen(t, a, db, "a", 1)
}

// besideAnother is a pooler with one server connection, and another client of it.
func besideAnother(t *testing.T) (bouncer *pgtest.Bouncer, database string, foreign *pgx.Conn) {
	t.Helper()
	server := pgtest.Shared(t, "wire")
	database = server.NewDatabase(t, wireTables)
	bouncer, err := pgtest.StartBouncer(t.Context(), server, pgtest.BouncerOptions{Mode: "transaction", PoolSize: 1})
	require.NoError(t, err)
	t.Cleanup(func() { _ = bouncer.Stop() })
	foreign, err = pgx.Connect(t.Context(), bouncer.DSN("wire_app", database)+" default_query_exec_mode=exec")
	require.NoError(t, err)
	t.Cleanup(func() { _ = foreign.Close(context.WithoutCancel(t.Context())) })
	return bouncer, database, foreign
}

// A session's statement_timeout stays on the server connection that the pooler shares, and the reset of the next client
// runs under it.
func TestATimeoutLeftBehindAPoolerDoesNotEndTheNextTenantsStatement(t *testing.T) {
	t.Parallel()
	bouncer, database, foreign := besideAnother(t)
	a := shardedpg.WithTenant(t.Context(), "a")
	for range 40 {
		_, err := foreign.Exec(t.Context(), "select set_config('statement_timeout', '1', false)")
		require.NoError(t, err)
		db := pooled(t, bouncer, database, "exec", 1) // a new connection is checked under it, too
		seen(t, a, db, "a", 1)
		_, err = foreign.Exec(t.Context(), "select set_config('statement_timeout', '1', false)")
		require.NoError(t, err)
		seen(t, a, db, "a", 1)
		require.NoError(t, db.Close())
	}
}

// Temporary relations and types are found before the catalog's, and a domain runs a function.
func TestWhatAnotherClientHasMadeBehindAPoolerRunsNothingInOurStatements(t *testing.T) {
	t.Parallel()
	bouncer, database, foreign := besideAnother(t)
	_, err := foreign.Exec(t.Context(), `create function pg_temp.f(v anyelement) returns bool language plpgsql as $$ begin
		perform pg_catalog.set_config('app.left', 'behind', false);
		execute 'listen left_behind';
		return true; end $$;
		create domain pg_temp.text as pg_catalog.text check (pg_temp.f(value));
		create temp view pg_roles as select 0 as oid, 'nobody'::name as rolname, true as rolsuper, true as rolbypassrls`)
	require.NoError(t, err)
	b := shardedpg.WithTenant(t.Context(), "b")
	db := pooled(t, bouncer, database, "exec", 1) // is checked on that server connection
	for range 2 {
		var left string
		require.NoError(t, db.QueryRowContext(b, `select concat_ws('|', '', coalesce(current_setting('app.left', true), ''),
			(select count(*) from pg_listening_channels()))`).Scan(&left))
		require.Equal(t, "||0", left)
		_, err = foreign.Exec(t.Context(), "create temp view if_it_is_still_there as select 1; drop view if_it_is_still_there")
		require.NoError(t, err)
	}
}

// The block of a reset that was cancelled, in which all is as another client has left it, is not the tenant's to end.
func TestAResetThatIsCancelledBehindAPoolerLeavesNoBlock(t *testing.T) {
	t.Parallel()
	for _, raw := range []bool{false, true} {
		t.Run(map[bool]string{false: "database/sql", true: "raw"}[raw], func(t *testing.T) {
			t.Parallel()
			cancelledReset(t, raw)
		})
	}
}

func cancelledReset(t *testing.T, raw bool) {
	t.Helper()
	exec := func(ctx context.Context, conn *sql.Conn, text string) error {
		if !raw {
			_, err := conn.ExecContext(ctx, text)
			return err
		}
		return conn.Raw(func(c any) error {
			_, err := c.(interface{ Conn() *pgx.Conn }).Conn().Exec(ctx, text)
			return err
		})
	}
	bouncer, database, foreign := besideAnother(t)
	b := shardedpg.WithTenant(t.Context(), "b")
	conn, err := pooled(t, bouncer, database, "exec", 1).Conn(b)
	require.NoError(t, err)
	defer conn.Close()
	require.NoError(t, exec(b, conn, "set work_mem = '5MB'")) // from here on it is not moved to another connection
	var pid int
	require.NoError(t, foreign.QueryRow(t.Context(), "select pg_backend_pid()").Scan(&pid))
	_, err = foreign.Exec(t.Context(), "create temp table x (); set app.current_tenant_id = 'a'")
	require.NoError(t, err)
	outsider, err := pgx.Connect(t.Context(), pgtest.Shared(t, "wire").DSN("postgres", database))
	require.NoError(t, err)
	defer outsider.Close(t.Context())
	_, err = outsider.Exec(t.Context(), "begin; do $$ begin execute 'lock table ' || (select oid::regclass from pg_class where relname = 'x') || "+
		"' in access share mode'; end $$") // discard temp waits for it
	require.NoError(t, err)
	failed := make(chan error, 1)
	go func() { failed <- exec(b, conn, "update notes set note = note") }()
	require.Eventually(t, func() bool {
		var cancelled bool
		err := outsider.QueryRow(t.Context(), "select coalesce(bool_or(pg_cancel_backend(pid)), false) from pg_locks where pid = $1 and not granted", pid).Scan(&cancelled)
		return err == nil && cancelled
	}, 10*time.Second, time.Millisecond)
	err = <-failed
	require.Error(t, err)
	if !raw {
		require.ErrorIs(t, err, shardedpg.ErrPrologue)
	}
	err = exec(b, conn, "rollback; update notes set note = 'stolen'")
	require.Equal(t, raw, err != nil, "pgx has no other connection to take: %v", err)
	var stolen int
	require.NoError(t, outsider.QueryRow(t.Context(), "select count(*) from notes where note = 'stolen'").Scan(&stolen))
	require.Zero(t, stolen, "behind a ROLLBACK there is no tenant")
}

// What pgx has cached is named on the server, also behind a pooler, where the next to use the name may be another tenant.
func TestAForgedCachedStatementIsNotRunBehindAPooler(t *testing.T) {
	t.Parallel()
	const conns = 4 // more than a statement has tries
	server := pgtest.Shared(t, "wire")
	database := server.NewDatabase(t, wireTables)
	bouncer, err := pgtest.StartBouncer(t.Context(), server, pgtest.BouncerOptions{Mode: "session", PoolSize: conns})
	require.NoError(t, err)
	t.Cleanup(func() { _ = bouncer.Stop() })
	db := pooled(t, bouncer, database, "cache_statement", conns)
	a, b := shardedpg.WithTenant(t.Context(), "a"), shardedpg.WithTenant(t.Context(), "b")
	onEach := func(ctx context.Context, use func(tx *sql.Tx)) {
		var held []*sql.Tx
		for range conns {
			tx, err := db.BeginTx(ctx, nil)
			require.NoError(t, err)
			use(tx)
			held = append(held, tx)
		}
		for _, tx := range held {
			require.NoError(t, tx.Commit())
		}
	}
	onEach(a, func(tx *sql.Tx) { seen(t, a, tx, "a", 1) })
	onEach(a, func(tx *sql.Tx) {
		_, err := tx.ExecContext(a, `do $$ declare n text; begin
			execute 'prepare innocent as select 1';
			for n in select name from pg_prepared_statements where statement like '%from notes where id%' loop
				execute format('deallocate %I', n);
				execute format('prepare %I (bigint) as select count(*), ''forged'', ''forged'' from notes where id <> $1', n);
			end loop; end $$`)
		require.NoError(t, err)
	})
	onEach(b, func(tx *sql.Tx) { seen(t, b, tx, "b", 1) })
	seen(t, b, db, "b", 1)
}

// PgBouncer puts these in force for its client, and the reset must not take them away.
func TestParametersOfTheConnectionStringHoldBehindAPooler(t *testing.T) {
	t.Parallel()
	bouncer, database, foreign := besideAnother(t)
	b := shardedpg.WithTenant(t.Context(), "b")
	db := pooled(t, bouncer, database, "exec TimeZone='Asia/Tokyo' datestyle=German application_name='it\\'s'", 1)
	for range 3 {
		require.Equal(t, "Asia/Tokyo|German, DMY|it's", value[string](t, b, db, "select concat_ws('|', current_setting('timezone'), "+
			"current_setting('datestyle'), current_setting('application_name'))"))
		_, err := foreign.Exec(t.Context(), "set timezone = 'Europe/Berlin'")
		require.NoError(t, err)
		tx, err := db.BeginTx(b, &sql.TxOptions{Isolation: sql.LevelSerializable})
		require.NoError(t, err)
		require.Equal(t, "Asia/Tokyo", value[string](t, b, tx, "show timezone"))
		require.NoError(t, tx.Commit())
	}
}

// There the login's own search_path is in force, and the tables of public are found.
func TestNothingOfASchemaTenantRunsBehindTheEndOfItsTransactionBehindAPooler(t *testing.T) {
	t.Parallel()
	server := pgtest.Shared(t, "wire")
	database := server.NewDatabase(t, wireTables, `do $$ begin create role wire_schema nologin; exception when duplicate_object or unique_violation then null; end $$;
		alter role wire_app noinherit; grant wire_schema to wire_app; create schema wire_schema; grant usage on schema wire_schema to wire_schema;
		create table wire_schema.inv (note text); create table public.inv (note text);
		grant all on wire_schema.inv to wire_schema; grant all on public.inv to wire_app`)
	bouncer, err := pgtest.StartBouncer(t.Context(), server, pgtest.BouncerOptions{PoolSize: 1})
	require.NoError(t, err)
	t.Cleanup(func() { _ = bouncer.Stop() })
	store, err := registry.NewStatic(registry.Fleet{
		Shards:  []registry.Shard{{Name: "s1", DSN: bouncer.DSN("wire_app", database) + " default_query_exec_mode=exec"}},
		Tenants: []registry.Tenant{{ID: "a", Shard: "s1", Plan: "starter", Model: resolver.ModelSchema, Schema: "wire_schema", Role: "wire_schema"}},
	})
	require.NoError(t, err)
	db := pooled(t, bouncer, database, "exec", 1, func(c *shardedpg.Config) { c.Store = store })
	a := shardedpg.WithTenant(t.Context(), "a")
	const write = "insert into inv values ('written')"
	_, err = db.ExecContext(a, "do $$ begin commit; "+write+"; end $$")
	require.ErrorIs(t, err, shardedpg.ErrStatementRefused)
	for _, end := range []string{"commit", "rollback"} {
		for _, begun := range []bool{false, true} {
			rawPooled(t, db, func(ctx context.Context, c *pgconn.PgConn) {
				if begun {
					_, err := c.Exec(ctx, "begin").ReadAll()
					require.NoError(t, err)
				}
				batch := &pgconn.Batch{}
				batch.ExecParams(end, nil, nil, nil, nil)
				batch.ExecParams(write, nil, nil, nil, nil)
				_, err := c.ExecBatch(ctx, batch).ReadAll()
				require.Error(t, err, end)
			})
		}
	}
	_, err = db.ExecContext(a, "do $$ begin "+write+"; end $$")
	require.NoError(t, err)
	foreign, err := pgx.Connect(t.Context(), server.DSN("postgres", database))
	require.NoError(t, err)
	defer foreign.Close(t.Context())
	var where string
	require.NoError(t, foreign.QueryRow(t.Context(), "select concat((select count(*) from wire_schema.inv), '|', (select count(*) from public.inv))").Scan(&where))
	require.Equal(t, "1|0", where)
}

// The server skips a COPY behind a failed prologue, and waits for somebody to end that.
func TestACopyBehindAPoolerEndsHoweverItFails(t *testing.T) {
	t.Parallel()
	bouncer, database, foreign := besideAnother(t)
	store, err := registry.NewStatic(registry.Fleet{
		Shards: []registry.Shard{{Name: "s1", DSN: bouncer.DSN("wire_app", database) + " default_query_exec_mode=exec"}},
		Tenants: []registry.Tenant{
			{ID: "a", Shard: "s1", Plan: "starter"},
			{ID: "c", Shard: "s1", Plan: "starter", Model: resolver.ModelSchema, Schema: "c", Role: "no_such_role"},
		},
	})
	require.NoError(t, err)
	db := pooled(t, bouncer, database, "exec", 1, func(c *shardedpg.Config) { c.Store = store })
	for _, tc := range []struct{ tenant, text, code string }{
		{"a", "copy notes from stdin", "0A000"},
		{"a", "begin; copy notes from stdin", "0A000"},
		{"a", "begin isolation level nonsense; copy notes from stdin", "42601"},
		{"c", "copy notes from stdin", "22023"},
	} {
		ctx, cancel := context.WithTimeout(shardedpg.WithTenant(t.Context(), tc.tenant), 20*time.Second)
		conn, err := db.Conn(ctx)
		require.NoError(t, err)
		require.NoError(t, conn.Raw(func(c any) error {
			_, err := c.(interface{ Conn() *pgx.Conn }).Conn().PgConn().Exec(ctx, tc.text).ReadAll()
			requireCode(t, err, tc.code)
			return nil
		}))
		require.NoError(t, conn.Close())
		var one int
		require.NoError(t, foreign.QueryRow(ctx, "select 1").Scan(&one))
		require.Equal(t, 1, one)
		cancel()
	}
}

type queryer interface {
	QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row
}

// seen requires that q shows all rows of tenant and no others.
func seen(t *testing.T, ctx context.Context, q queryer, tenant string, n int) {
	t.Helper()
	var rows int
	var first, last string
	err := q.QueryRowContext(ctx, "select count(*), min(tenant_id), max(tenant_id) from notes where id <> $1", n+1).
		Scan(&rows, &first, &last)
	require.NoError(t, err)
	require.Equal(t, []any{19, tenant, tenant}, []any{rows, first, last})
}

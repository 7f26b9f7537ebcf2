package shardedpg_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	shardedpg "github.com/sharded-pg/sharded-pg"
	"github.com/sharded-pg/sharded-pg/internal/pgtest"
	"github.com/sharded-pg/sharded-pg/resolver"
	"github.com/sharded-pg/sharded-pg/rls"
)

// schemasSQL holds the tables of two schema tenants, some of the same shape and some not, and tables in public that no
// tenant may fall through to.
const schemasSQL = `
create schema one; create schema two;
grant usage on schema one to schema_one; grant usage on schema two to schema_two;
create table one.inv (id int, note text); create table two.inv (id int, note text);
create table one.shape (id int, note text); create table two.shape (note text, extra bool, id bigint);
insert into one.inv values (1, 'one'); insert into two.inv values (1, 'two');
insert into one.shape values (1, 'one'); insert into two.shape values ('two', true, 2);
alter table one.inv owner to app_owner; alter table two.inv owner to app_owner;
alter table one.shape owner to app_owner; alter table two.shape owner to app_owner;
grant select, insert, update, delete on all tables in schema one to schema_one;
grant select, insert, update, delete on all tables in schema two to schema_two;
create table public.inv (id int, note text); insert into public.inv values (1, 'public');
grant select on public.inv to public;
`

func newSchemaFleet(t *testing.T, opts fleetOptions) *fleet {
	t.Helper()
	opts.schema = append([]string{schemasSQL}, opts.schema...)
	more := opts.routes
	opts.routes = func(f *fleet, routes map[string]*resolver.Route) {
		toSchema := func(r *resolver.Route, schema string) {
			r.Model, r.Schema, r.Role = resolver.ModelSchema, schema, "schema_"+schema
		}
		toSchema(routes[tenantA], "one")
		toSchema(routes[tenantB], "two")
		routes["missing"] = f.route("missing", planOf(30*time.Second, 16<<10))
		toSchema(routes["missing"], "three")
		routes["neighbour"] = f.route("neighbour", planOf(30*time.Second, 16<<10))
		routes["neighbour"].Tenant = "neighbour"
		if more != nil {
			more(f, routes)
		}
	}
	return newFleet(t, opts)
}

func TestSchemaTenantsReadTheirOwnTablesOfOneShape(t *testing.T) {
	t.Parallel()
	f := newSchemaFleet(t, fleetOptions{})
	pid := f.pid(f.a, f.db)
	for range 100 {
		require.Equal(t, "one", value[string](t, f.a, f.db, "select note from inv where id = $1", 1))
		require.Equal(t, "two", value[string](t, f.b, f.db, "select note from inv where id = $1", 1))
	}
	require.Equal(t, pid, f.pid(f.b, f.db))
	stmt, err := f.db.PrepareContext(f.a, "select note from inv where id = $1")
	require.NoError(t, err)
	defer stmt.Close()
	for ctx, want := range map[context.Context]string{f.a: "one", f.b: "two"} {
		var got string
		require.NoError(t, stmt.QueryRowContext(ctx, 1).Scan(&got))
		require.Equal(t, want, got)
		tx := f.begin(ctx)
		f.exec(ctx, tx, "update inv set note = note || '!'")
		require.Equal(t, want+"!", value[string](t, ctx, tx, "select note from inv"))
		require.NoError(t, tx.Rollback())
		require.Equal(t, "schema_"+want, value[string](t, ctx, f.db, "select current_user::text"))
	}
}

func TestSchemaTenantsReadTheirOwnTablesOfDifferentShape(t *testing.T) {
	t.Parallel()
	for _, mode := range execModes {
		t.Run(mode.String(), func(t *testing.T) {
			t.Parallel()
			f := newSchemaFleet(t, fleetOptions{})
			columns := func(ctx context.Context, q string, args ...any) string {
				rows, err := f.db.QueryContext(ctx, q, append([]any{mode}, args...)...)
				require.NoError(t, err)
				defer rows.Close()
				names, err := rows.Columns()
				require.NoError(t, err)
				require.True(t, rows.Next())
				values := make([]any, len(names))
				for i := range values {
					values[i] = &values[i]
				}
				require.NoError(t, rows.Scan(values...))
				require.False(t, rows.Next())
				require.NoError(t, rows.Err())
				return fmt.Sprint(names, values)
			}
			for range 10 {
				require.Equal(t, "[id note] [1 one]", columns(f.a, "select * from shape"))
				require.Equal(t, "[note extra id] [two true 2]", columns(f.b, "select * from shape"))
				require.Equal(t, "[id note] [1 one]", columns(f.a, "select * from shape where id = $1", 1))
				require.Equal(t, "[note extra id] [two true 2]", columns(f.b, "select * from shape where id = $1", 2))
			}
		})
	}
}

func TestAMissingSchemaNeverFallsThroughToPublic(t *testing.T) {
	t.Parallel()
	f := newSchemaFleet(t, fleetOptions{})
	missing := shardedpg.WithTenant(t.Context(), "missing")
	for range 3 {
		_, err := f.db.ExecContext(missing, "select * from inv")
		requireCode(t, err, "42P01")
		_, err = f.db.QueryContext(missing, "select * from inv where id = $1", 1)
		requireCode(t, err, "42P01")
		require.Equal(t, "one", value[string](t, f.a, f.db, "select note from inv"))
	}
}

func TestASchemaTenantCannotNameAnotherSchema(t *testing.T) {
	t.Parallel()
	f := newSchemaFleet(t, fleetOptions{})
	for _, query := range []string{
		"select * from two.inv", "insert into two.inv values (2, 'planted')", "delete from two.inv",
		"set search_path = two; select * from inv", "select set_config('search_path', 'two', true); select * from inv",
	} {
		for range 2 {
			_, err := f.db.ExecContext(f.a, query)
			require.Error(t, err)
			require.Contains(t, []string{"42501", "42P01"}, errCode(err), "%v", err)
			require.Equal(t, "two", value[string](t, f.b, f.db, "select note from inv"))
		}
	}
	_, err := f.db.ExecContext(f.a, "select * from two.inv")
	requireCode(t, err, "42501")
}

func TestTextPastACommitInAStringFailsClosedForSchemaTenants(t *testing.T) {
	t.Parallel()
	f := newSchemaFleet(t, fleetOptions{})
	for _, ctx := range []context.Context{f.a, f.b} {
		_, err := f.db.ExecContext(ctx, "commit; select * from inv")
		requireCode(t, err, "42P01")
		_, err = f.db.ExecContext(ctx, "commit; select * from two.inv; select * from one.inv")
		requireCode(t, err, "42501")
		require.NoError(t, f.db.PingContext(f.b))
	}
	require.Equal(t, "one", value[string](t, f.a, f.db, "select note from inv"))
	require.Equal(t, "two", value[string](t, f.b, f.db, "select note from inv"))
}

func TestRoleAndPathAreRestoredInsideATransaction(t *testing.T) {
	t.Parallel()
	f := newSchemaFleet(t, fleetOptions{})
	for _, query := range []string{
		"set role none", "set role schema_two", "reset role", "set search_path = two, public", "set local search_path = two",
		"set session authorization default", "reset all", "savepoint s; reset role; rollback to s; reset role",
		"do $$begin execute 'set role schema_two'; end$$", "select set_config('role', 'schema_two', false)",
	} {
		tx := f.begin(f.a)
		f.exec(f.a, tx, "select 1")
		if _, err := tx.ExecContext(f.a, query); err != nil {
			require.Equal(t, "42501", errCode(err), "%s: %v", query, err)
			require.NoError(t, tx.Rollback())
			continue
		}
		require.Equal(t, "one", value[string](t, f.a, tx, "select note from inv"), query)
		require.Equal(t, "schema_one", value[string](t, f.a, tx, "select current_user::text"), query)
		require.NoError(t, tx.Commit())
		require.Equal(t, "two", value[string](t, f.b, f.db, "select note from inv"), query)
		require.Equal(t, "one", value[string](t, f.a, f.db, "select note from inv"), query)
	}
}

func TestSharedAndSchemaTenantsMixInOneDatabase(t *testing.T) {
	t.Parallel()
	f := newSchemaFleet(t, fleetOptions{})
	shared := shardedpg.WithTenant(t.Context(), "neighbour")
	for range 5 {
		f.exec(shared, f.db, "insert into orders (note) values ('n')")
		require.Equal(t, "one", value[string](t, f.a, f.db, "select note from inv"))
		require.Equal(t, "app", value[string](t, shared, f.db, "select current_user::text"))
		_, err := f.db.ExecContext(f.b, "select * from public.orders")
		requireCode(t, err, "42501")
	}
	require.Equal(t, 5, value[int](t, shared, f.db, "select count(*) from orders"))
}

func TestCopyWorksForSchemaTenants(t *testing.T) {
	t.Parallel()
	f := newSchemaFleet(t, fleetOptions{})
	conn := f.conn(f.a)
	require.NoError(t, conn.Raw(func(c any) error {
		n, err := c.(*shardedpg.Conn).Conn().CopyFrom(t.Context(), pgx.Identifier{"inv"}, []string{"id", "note"},
			pgx.CopyFromRows([][]any{{2, "copied"}, {3, "copied"}}))
		require.NoError(t, err)
		require.EqualValues(t, 2, n)
		_, err = c.(*shardedpg.Conn).Conn().CopyFrom(t.Context(), pgx.Identifier{"two", "inv"}, []string{"id", "note"},
			pgx.CopyFromRows([][]any{{2, "planted"}}))
		require.Equal(t, "42501", errCode(err), "%v", err)
		return nil
	}))
	require.NoError(t, conn.Close())
	require.Equal(t, 3, value[int](t, f.a, f.db, "select count(*) from inv"))
	require.Equal(t, 1, value[int](t, f.b, f.db, "select count(*) from inv"))
}

func TestCopyFromIsRefusedByPostgresOnSharedTables(t *testing.T) {
	t.Parallel()
	f := newFleet(t, fleetOptions{})
	conn := f.conn(f.a)
	require.NoError(t, conn.Raw(func(c any) error {
		_, err := c.(*shardedpg.Conn).Conn().CopyFrom(t.Context(), pgx.Identifier{"orders"}, []string{"note"},
			pgx.CopyFromRows([][]any{{"x"}}))
		requireCode(t, err, "0A000")
		return nil
	}))
	require.NoError(t, conn.Close())
	f.requireOwnRows()
}

func TestTenantsWithDatabasesOfTheirOwnAreSeparate(t *testing.T) {
	t.Parallel()
	var other string
	f := newFleet(t, fleetOptions{
		config: func(c *shardedpg.Config) { c.MaxConns = 2 },
		routes: func(f *fleet, routes map[string]*resolver.Route) {
			other = f.server.NewDatabase(f, tablesSQL)
			routes[tenantB].Model, routes[tenantB].Database = resolver.ModelDatabase, other
			// A group of tenants on one database: rows are still kept apart by policies.
			routes["group"] = f.route("group", planOf(30*time.Second, 16<<10))
			routes["group"].Model, routes["group"].Database = resolver.ModelDatabase, other
		},
	})
	group := shardedpg.WithTenant(t.Context(), "group")
	for range 5 {
		require.Equal(t, f.database, value[string](t, f.a, f.db, "select current_database()::text"))
		require.Equal(t, other, value[string](t, f.b, f.db, "select current_database()::text"))
		require.Equal(t, other, value[string](t, group, f.db, "select current_database()::text"))
		f.exec(group, f.db, "insert into orders (note) values ('g')")
		f.requireOwnRows()
	}
	require.Equal(t, 5, value[int](t, group, f.db, "select count(*) from orders"))
	require.LessOrEqual(t, f.connector.Stats().Shards[0].Backends.Open, 2, "databases share the shard's connections")
	require.Zero(t, outside[int](f, "select count(*) from orders where note = 'g'"))
	f.db.SetMaxIdleConns(0)
}

func TestAShardWithOneConnectionServesSeveralDatabases(t *testing.T) {
	t.Parallel()
	var other string
	f := newFleet(t, fleetOptions{routes: func(f *fleet, routes map[string]*resolver.Route) {
		other = f.server.NewDatabase(f, tablesSQL)
		routes[tenantB].Model, routes[tenantB].Database = resolver.ModelDatabase, other
	}})
	for range 3 {
		f.requireOwnRows()
	}
	require.Equal(t, 1, f.connector.Stats().Shards[0].Backends.Open)
}

func TestReadOnlyTenantsReadAndDoNotWrite(t *testing.T) {
	t.Parallel()
	f := newFleet(t, fleetOptions{routes: func(f *fleet, routes map[string]*resolver.Route) {
		routes[tenantA].State = resolver.StateReadOnly
	}})
	for range 3 {
		f.requireOwnRows()
		for _, query := range []string{
			"insert into orders (note) values ($1)", "update orders set note = $1", "delete from orders where note = $1",
			"with x as (select 1) insert into orders (note) values ($1)", "select lo_from_bytea(0, $1)",
		} {
			_, err := f.db.ExecContext(f.a, query, "x")
			require.Error(t, err)
			if strings.HasPrefix(query, "with") && errCode(err) == "25006" {
				continue
			}
			require.ErrorIs(t, err, shardedpg.ErrTenantReadOnly, query)
		}
		_, err := f.db.ExecContext(f.a, "insert into orders (note) values ('x')")
		require.ErrorIs(t, err, shardedpg.ErrTenantReadOnly)
		_, err = f.db.ExecContext(f.a, "select hidden_write('x')")
		requireCode(t, err, "25006")
		var id int
		err = f.db.QueryRowContext(f.a, "select hidden_write($1)", "x").Scan(&id)
		requireCode(t, err, "25006")
		tx := f.begin(f.a)
		_, err = tx.ExecContext(f.a, "set transaction read write")
		if err == nil {
			_, err = tx.ExecContext(f.a, "select hidden_write('x')")
		}
		require.Error(t, err)
		require.NoError(t, tx.Rollback())
		tx = f.begin(f.a)
		f.requireNotes(f.a, tx, notesOfA)
		_, err = tx.ExecContext(f.a, "insert into orders (note) values ('x')")
		require.ErrorIs(t, err, shardedpg.ErrTenantReadOnly)
		f.requireNotes(f.a, tx, notesOfA)
		require.NoError(t, tx.Commit())
		f.exec(f.b, f.db, "select hidden_write('x')")
		f.exec(f.b, f.db, "delete from orders where note = 'x'")
	}
}

// A tenant with a database of its own may have no policies there: only its transactions keep it from writing.
func TestNothingOfAReadOnlyTenantOutlivesItsReadOnlyTransaction(t *testing.T) {
	t.Parallel()
	const write = "insert into probe values ('written', 1)"
	quoted := strings.ReplaceAll(write, "'", "''")
	f := newFleet(t, fleetOptions{
		schema: []string{
			"create procedure late_write() language plpgsql as 'begin commit; " + quoted + "; end'",
			"create procedure reads() language plpgsql as 'begin perform from probe; end'",
		},
		routes: func(f *fleet, routes map[string]*resolver.Route) {
			routes[tenantA].State = resolver.StateReadOnly
			routes[tenantA].Model, routes[tenantA].Database = resolver.ModelDatabase, f.database
		},
	})
	for _, text := range []string{
		"select 1; commit; " + write, "commit; " + write, "rollback; " + write, "begin; commit; " + write, "begin; select 1; rollback; " + write,
		"call late_write()", "do $$ begin rollback; " + write + "; end $$", "select 1; call late_write()",
		"do 'begin roll'\n'back; " + quoted + "; end'", "do U&'begin !0063ommit; " + quoted + "; end' uescape '!'",
	} {
		_, err := f.db.ExecContext(f.a, text)
		require.ErrorIs(t, err, shardedpg.ErrTenantReadOnly, text)
		_, err = f.db.QueryContext(f.a, text) // in messages of another kind
		require.Error(t, err, text)
		tx := f.begin(f.a)
		_, err = tx.ExecContext(f.a, text)
		require.Error(t, err, text)
		require.NoError(t, tx.Rollback())
	}
	conn := f.conn(f.a)
	for _, in := range []bool{false, true} {
		for _, end := range []string{"commit", "rollback", "prepare transaction 'x'"} {
			if in { // the answer is not waited for
				require.Error(t, f.rawError(conn, func(ctx context.Context, c *pgx.Conn) error {
					_, err := c.Exec(ctx, "begin")
					require.NoError(t, err)
					p := c.PgConn().StartPipeline(ctx)
					p.SendQueryParams(end, nil, nil, nil, nil)
					p.SendPipelineSync()
					p.SendQueryParams("call late_write()", nil, nil, nil, nil)
					require.NoError(t, p.Sync())
					return p.Close()
				}), end)
				require.NoError(t, conn.Close())
				conn = f.conn(f.a)
			}
			require.Error(t, f.rawError(conn, func(ctx context.Context, c *pgx.Conn) error {
				if in {
					_, err := c.Exec(ctx, "begin")
					require.NoError(t, err)
				}
				b := &pgx.Batch{}
				b.Queue(end)
				b.Queue("with x as (" + write + ") select 1")
				return c.SendBatch(ctx, b).Close()
			}), end)
			require.NoError(t, conn.Close())
			conn = f.conn(f.a)
		}
	}
	f.raw(conn, func(ctx context.Context, c *pgx.Conn) error { // what reads is let through
		b := &pgx.Batch{}
		b.Queue("begin")
		b.Queue("select count(*) from probe")
		b.Queue("commit")
		return c.SendBatch(ctx, b).Close()
	})
	f.exec(f.a, conn, "select 1; select 2")
	f.exec(f.a, conn, "do $$ begin perform from probe; end $$")
	require.NoError(t, conn.Close())
	tx := f.begin(f.a)
	f.exec(f.a, tx, "call reads()")
	require.NoError(t, tx.Commit())
	require.Zero(t, outside[int](f, "select count(*) from probe"))
}

func TestDisabledTenantsAreRefusedAndOthersAreNot(t *testing.T) {
	t.Parallel()
	f := newFleet(t, fleetOptions{})
	f.requireOwnRows()
	for _, state := range []resolver.State{resolver.StateDisabled, resolver.StateProvisioning, resolver.StateDeleting} {
		f.store.set(tenantA, func(r *resolver.Route) { r.State = state })
		_, err := f.db.ExecContext(f.a, "select 1")
		require.ErrorIs(t, err, shardedpg.ErrTenantDisabled, state)
		require.ErrorContains(t, err, string(state))
		f.requireNotes(f.b, f.db, notesOfB)
	}
	f.store.set(tenantA, func(r *resolver.Route) { r.State = resolver.StateActive })
	f.requireOwnRows()
}

func TestAChangedPlanIsInForceAtTheNextStatement(t *testing.T) {
	t.Parallel()
	f := newFleet(t, fleetOptions{})
	require.Equal(t, "30s", value[string](t, f.a, f.db, "show statement_timeout"))
	f.store.set(tenantA, func(r *resolver.Route) { r.Plan = planOf(7*time.Second, 1<<10) })
	require.Equal(t, "7s", value[string](t, f.a, f.db, "show statement_timeout"))
	require.Equal(t, "1MB", value[string](t, f.a, f.db, "show work_mem"))
	require.Equal(t, "30s", value[string](t, f.b, f.db, "show statement_timeout"))
}

func TestTheTagNamesTheTenantWhileItsStatementRuns(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("ü", 100)
	f := newFleet(t, fleetOptions{
		config: func(c *shardedpg.Config) { c.Tag = true },
		routes: func(_ *fleet, routes map[string]*resolver.Route) {
			r := *routes[tenantB]
			r.Tenant, routes[long] = long, &r
		},
	})
	for range 2 {
		require.Equal(t, "tenant:"+tenantA, value[string](t, f.a, f.db, "show application_name"))
		require.Equal(t, "tenant:"+tenantB, value[string](t, f.b, f.db, "show application_name"))
		require.Equal(t, "tenant:"+tenantA, value[string](t, f.a, f.db,
			"select application_name from pg_stat_activity where pid = pg_backend_pid()"))
	}
	require.Equal(t, rls.ApplicationName(long), value[string](t, shardedpg.WithTenant(t.Context(), long), f.db,
		"select application_name from pg_stat_activity where pid = pg_backend_pid()"), "PostgreSQL leaves it whole")
	tx := f.begin(f.a)
	for _, name := range []string{"tenant:" + tenantB, "own"} {
		_, err := tx.ExecContext(f.a, "set local application_name = '"+name+"'")
		require.NoError(t, err)
		require.Equal(t, "tenant:"+tenantA, value[string](t, f.a, tx, "show application_name"), "no statement leaves another one's")
	}
	require.NoError(t, tx.Commit())
	f.requireOutside("nothing of a tenant is left on an idle connection", 0,
		"select count(*) from pg_stat_activity where datname = current_database() and application_name like 'tenant:%'")
}

func TestAnotherSettingCanCarryTheTenant(t *testing.T) {
	t.Parallel()
	f := newFleet(t, fleetOptions{config: func(c *shardedpg.Config) { c.GUC = "my.tenant" }})
	require.Equal(t, tenantA, value[string](t, f.a, f.db, "select current_setting('my.tenant')"))
	require.Equal(t, tenantB, value[string](t, f.b, f.db, "select current_setting('my.tenant')"))
	f.requireNotes(f.a, f.db, "")
}

func TestAHotStandbyServesReads(t *testing.T) {
	t.Parallel()
	var standby *pgtest.Server
	f := newSchemaFleet(t, fleetOptions{routes: func(f *fleet, routes map[string]*resolver.Route) {
		var err error
		standby, err = pgtest.StartStandby(t.Context(), f.server, pgtest.Options{Name: "standby"})
		require.NoError(t, err)
		t.Cleanup(func() { require.NoError(t, standby.Stop()) })
		for _, route := range routes {
			route.Shard.DSN = standby.DSN("app", f.database)
		}
	}})
	shared := shardedpg.WithTenant(t.Context(), "neighbour")
	require.True(t, value[bool](t, shared, f.db, "select pg_is_in_recovery()"))
	for range 3 {
		require.Equal(t, "one", value[string](t, f.a, f.db, "select note from inv"))
		require.Equal(t, "two", value[string](t, f.b, f.db, "select note from inv where id = $1", 1))
		require.Zero(t, value[int](t, shared, f.db, "select count(*) from orders"))
		_, err := f.db.ExecContext(shared, "insert into orders (note) values ('x')")
		requireCode(t, err, "25006")
		_, err = f.db.ExecContext(f.a, "select set_config('app.other', 'x', false)") // reset at release
		require.NoError(t, err)
		tx := f.begin(shared)
		_, err = tx.ExecContext(shared, "insert into orders (note) values ($1)", "x")
		requireCode(t, err, "25006")
		require.NoError(t, tx.Rollback())
	}
}

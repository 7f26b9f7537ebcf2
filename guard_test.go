package shardedpg_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"
	"github.com/stretchr/testify/require"

	shardedpg "github.com/sharded-pg/sharded-pg"
	"github.com/sharded-pg/sharded-pg/internal/pgtest"
	"github.com/sharded-pg/sharded-pg/internal/sqllex"
	"github.com/sharded-pg/sharded-pg/resolver"
)

// strictly turns the strict guard on, with words that it is to allow.
func strictly(allow ...string) func(*shardedpg.Config) {
	return func(c *shardedpg.Config) { c.Guard, c.GuardAllow = shardedpg.GuardStrict, allow }
}

// strictRefuses are texts by what the refusal has to say. None of them takes arguments, and each would run without the guard,
// or fail on the server and not here.
var strictRefuses = map[string][]string{
	"names set_config": {
		"select set_config('" + guc + "', 'globex', true)", "select * from set_config('" + guc + "', 'globex', false) as x",
		"select 1 where set_config('" + guc + "', 'globex', true) is not null", `select "set_config"('a.b', 'c', true)`,
		"select pg_catalog . SET_config('a.b', 'c', true)", "select pg_catalog./* ; */\"set_config\"/**/('a.b', 'c', true)",
		"select E'it\\'s' || $$'$$ || set_config('a.b', 'c', true)", "with x as materialized (select set_config('a.b', 'c', true)) table x",
		"insert into probe select set_config('a.b', 'c', true), 1", "update probe set orders = 1 where set_config('a.b', 'c', true) <> ''",
		"delete from probe where set_config('a.b', 'c', true) <> ''", "values (set_config('a.b', 'c', true))",
	},
	"names pg_settings":               {"update pg_settings set setting = '64kB' where name = 'work_mem'", "table pg_settings"},
	"names query_to_xml":              {"select query_to_xml('select se'||'t_config(''a.b'',''c'',true)', true, true, '')"},
	"names cursor_to_xml":             {"select cursor_to_xml('c', 1, true, true, '')"},
	"names table_to_xml":              {"select table_to_xml('orders', true, true, '')"},
	"names schema_to_xml":             {"select schema_to_xml('public', true, true, '')"},
	"names database_to_xml":           {"select database_to_xml(true, true, '')"},
	"names ts_stat":                   {"select * from ts_stat('select to_tsvector(note) from orders')"},
	"names ts_rewrite":                {"select ts_rewrite('a'::tsquery, 'select ''a''::tsquery, ''b''::tsquery')"},
	"names pg_advisory_lock":          {"select pg_advisory_lock(1)"},
	"names pg_try_advisory_xact_lock": {"select pg_try_advisory_xact_lock(1)"},
	"names lo_create":                 {"select lo_create(0)"},
	"names lastval":                   {"select lastval()"},
	"names pg_notify":                 {"select pg_notify('a', 'b')"},
	"names pg_cancel_backend":         {"select pg_cancel_backend(1)"},
	"names pg_stat_activity":          {"select query from pg_stat_activity"},
	"names pg_prepared_statements":    {"select name from pg_prepared_statements"},
	"names dblink":                    {"select dblink_exec('x', 'y')"},
	"U& form":                         {`select U&"set\005fconfig"('a.b', 'c', true)`, `select u&"set!005fconfig" uescape '!' ('a.b', 'c', true)`, "select U&'x'"},
	"several statements":              {"select 1; select 2", "select 1; set a.b = 'c'", "insert into probe values ('x', 1); commit"},
	"close it":                        {"select 'x", `select "x`, "select $$x", "select 1 /* x", `select E'x\'`},
	"starts with SET, which cannot":   {"set a.b = 'c'", "set local statement_timeout = 0", "set role app_reader"},
	"starts with RESET":               {"reset all"},
	"starts with DISCARD":             {"discard plans"},
	"starts with COPY; allow that with sharded_guard_allow=copy": {"copy (select note from orders) to stdout", "copy probe to stdout"},
	"sharded_guard_allow=explain":                                {"explain select 1", "explain (analyze) update probe set orders = 1"},
	"starts with PREPARE":                                        {"prepare p as select 1"},
	"starts with EXECUTE":                                        {"execute sharded_pg_p0('globex')"},
	"starts with DEALLOCATE":                                     {"deallocate all"},
	"starts with DO, which cannot":                               {"do $$ begin perform set_config('a.b', 'c', true); end $$"},
	"sharded_guard_allow=call":                                   {"call nothing()"},
	"starts with CREATE":                                         {"create temp table orders (note text)", "create function pg_temp.f() returns int language sql as 'select 1'"},
	"starts with GRANT":                                          {"grant app_reader to app"},
	"sharded_guard_allow=lock":                                   {"lock table probe"},
	"sharded_guard_allow=listen":                                 {"listen x"},
	"sharded_guard_allow=declare":                                {"declare c cursor with hold for select 1"},
	"sharded_guard_allow=show":                                   {"show all"},
	"sharded_guard_allow=begin":                                  {"begin"},
	"sharded_guard_allow=commit":                                 {"commit", "commit and chain"},
	"sharded_guard_allow=rollback":                               {"rollback", "rollback to savepoint s"},
	"sharded_guard_allow=savepoint":                              {"savepoint s"},
	"starts with none of SELECT":                                 {"hunter2", "\"select\" 1", "1"},
}

// requireRefused sends all of strictRefuses in every way of database/sql. Whatever was refused, the connection goes on.
func requireRefused(t *testing.T, ctx context.Context, db *sql.DB, own func()) {
	t.Helper()
	for want, texts := range strictRefuses {
		for _, text := range texts {
			for way, send := range map[string]func() error{
				"exec": func() error { _, err := db.ExecContext(ctx, text); return err },
				"query": func() error {
					rows, err := db.QueryContext(ctx, text)
					if err == nil {
						err = errors.Join(rows.Err(), rows.Close())
					}
					return err
				},
				"prepare": func() error {
					stmt, err := db.PrepareContext(ctx, text)
					if err != nil {
						return err
					}
					defer stmt.Close()
					_, err = stmt.ExecContext(ctx)
					return err
				},
				"in a transaction": func() error {
					tx, err := db.BeginTx(ctx, nil)
					require.NoError(t, err)
					var one int
					require.NoError(t, tx.QueryRowContext(ctx, "select 1").Scan(&one))
					_, refused := tx.ExecContext(ctx, text)
					require.NoError(t, tx.QueryRowContext(ctx, "select 1").Scan(&one), "nothing was sent, so the transaction goes on")
					require.NoError(t, tx.Commit())
					return refused
				},
				"first in a transaction": func() error {
					tx, err := db.BeginTx(ctx, nil)
					require.NoError(t, err)
					_, refused := tx.ExecContext(ctx, text)
					require.NoError(t, tx.Rollback())
					return refused
				},
			} {
				err := send()
				require.ErrorIs(t, err, shardedpg.ErrStatementRefused, "%s: %s", way, text)
				require.ErrorContains(t, err, "sharded_guard=strict: it ", text)
				require.ErrorContains(t, err, want, text)
				require.NotContains(t, err.Error(), "globex", text)
				require.NotContains(t, err.Error(), "hunter2")
			}
		}
	}
	own()
}

func TestStrictRefusesHoweverATextIsSent(t *testing.T) {
	t.Parallel()
	for _, mode := range []string{"cache_statement", "cache_describe", "describe_exec", "exec", "simple_protocol"} {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			f := newFleet(t, fleetOptions{
				dsn: "default_query_exec_mode=" + mode, config: strictly(), schema: []string{"create procedure nothing() language sql as ''"},
			})
			requireRefused(t, f.a, f.db, f.requireOwnRows)
			require.Zero(t, outside[int](f, "select count(*) from probe"))
		})
	}
}

func TestStrictRefusesBehindPgBouncerToo(t *testing.T) {
	t.Parallel()
	server := pgtest.Shared(t, "wire")
	for _, mode := range []string{"exec", "simple_protocol", "cache_describe"} {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			database := server.NewDatabase(t, wireTables)
			bouncer, err := pgtest.StartBouncer(t.Context(), server, pgtest.BouncerOptions{Mode: "transaction", PoolSize: 1})
			require.NoError(t, err)
			t.Cleanup(func() { _ = bouncer.Stop() })
			a := shardedpg.WithTenant(t.Context(), "a")
			db := pooled(t, bouncer, database, mode, 1, strictly())
			requireRefused(t, a, db, func() { seen(t, a, db, "a", 1) })
		})
	}
}

func TestStrictLetsQueriesAndDataChangesThrough(t *testing.T) {
	t.Parallel()
	for _, mode := range []string{"cache_statement", "cache_describe", "describe_exec", "exec", "simple_protocol"} {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			f := newFleet(t, fleetOptions{dsn: "default_query_exec_mode=" + mode, config: strictly()})
			require.NoError(t, f.db.PingContext(f.a))
			for _, text := range []string{
				"select 1", "(select 1)", "values (1), (2)", "table probe", "with x as (select 1) select * from x", "", "-- nothing", ";",
				"insert into probe values ('set_config', 1);", "update probe set orders = 2", "delete from probe where tenant = $$pg_settings$$",
				"insert into probe select 'a; commit' /* ; set a.b */, 1 -- ; commit",
				`select "SET_CONFIG" from (select 1 as "SET_CONFIG") x`, "select u & 1 from (select 3 as u) x", `select E'\';'`,
			} {
				f.exec(f.a, f.db, text)
				tx := f.begin(f.a)
				f.exec(f.a, tx, text)
				require.NoError(t, tx.Commit())
			}
			stmt, err := f.db.PrepareContext(f.a, "select note from orders where total > $1 order by id limit 1")
			require.NoError(t, err)
			for range 3 {
				var note string
				require.NoError(t, stmt.QueryRowContext(f.b, 5).Scan(&note))
				require.Equal(t, notesOfB, note)
			}
			require.NoError(t, stmt.Close())
			tx := f.begin(f.a)
			f.exec(f.a, tx, "delete from orders")
			require.NoError(t, tx.Rollback())
			f.requireOwnRows()
			require.Equal(t, 4, outside[int](f, "select count(*) from probe"))
		})
	}
}

func TestStrictAllowsTheFirstWordsItIsTold(t *testing.T) {
	t.Parallel()
	f := newFleet(t, fleetOptions{config: strictly("explain", "copy", "savepoint", "release", "rollback", "declare", "fetch")})
	tx := f.begin(f.a)
	f.exec(f.a, tx, "savepoint s")
	f.exec(f.a, tx, "delete from orders")
	f.exec(f.a, tx, "rollback to savepoint s")
	f.exec(f.a, tx, "release savepoint s")
	f.exec(f.a, tx, "declare c cursor for select note from orders order by id")
	require.Equal(t, "A-secret", value[string](t, f.a, tx, "fetch next from c"))
	require.NoError(t, tx.Commit())
	f.exec(f.a, f.db, "explain select 1")
	f.exec(f.a, f.db, "explain (analyze) insert into probe values ('explained', 1)")
	conn := f.conn(f.a)
	var out strings.Builder
	f.raw(conn, func(ctx context.Context, c *pgx.Conn) error {
		_, err := c.PgConn().CopyTo(ctx, &out, "copy (select note from orders order by id) to stdout")
		return err
	})
	require.Equal(t, strings.ReplaceAll(notesOfA, ",", "\n")+"\n", out.String())
	require.NoError(t, conn.Close())

	for text, want := range map[string]string{
		"explain select set_config('a.b', 'c', true)":               "names set_config",
		"copy (select set_config('a.b', 'c', true)) to stdout":      "names set_config",
		"declare c cursor for select set_config('a.b', 'c', true)":  "names set_config",
		"explain analyze execute sharded_pg_p0('globex')":           "explains EXECUTE, which cannot",
		"explain (analyze, verbose) create temp table x as table x": "explains CREATE, which cannot",
		"explain hunter2":               "explains none of SELECT",
		"savepoint s; rollback":         "several statements",
		"lock table probe":              "sharded_guard_allow=lock",
		"begin":                         "sharded_guard_allow=begin",
		"set role app_reader":           "starts with SET, which cannot",
		"explain (select U&'set_config": "close it",
	} {
		_, err := f.db.ExecContext(f.a, text)
		require.ErrorIs(t, err, shardedpg.ErrStatementRefused, text)
		require.ErrorContains(t, err, want, text)
		require.NotContains(t, err.Error(), "hunter2")
	}
	f.requireOwnRows()
}

// What the driver sends for itself is no business of the guard's.
func TestStrictLeavesTheDriverItsOwnStatements(t *testing.T) {
	t.Parallel()
	f := newFleet(t, fleetOptions{config: strictly("call"), schema: []string{
		hiddenSQL,
		"create procedure commits() language plpgsql as $$ begin insert into probe values ('first', 1); commit; " +
			"insert into probe select 'second', count(*) from orders; end $$",
	}})
	f.exec(f.a, f.db, "call commits()")
	require.Equal(t, 1, outside[int](f, "select count(*) from probe where tenant = 'first'"))
	f.exec(f.a, f.db, "select hidden_exec('deallocate all')")
	f.requireOwnRows()
	for range 2 {
		tx := f.begin(f.a)
		f.exec(f.a, tx, "insert into orders (note) values ('kept')")
		require.NoError(t, tx.Commit())
	}
	require.Equal(t, 2, f.count("kept"))
}

func TestStrictLooksAtBatchesOfRaw(t *testing.T) {
	t.Parallel()
	for _, mode := range []string{"cache_statement", "cache_describe", "describe_exec", "exec", "simple_protocol"} {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			f := newFleet(t, fleetOptions{dsn: "default_query_exec_mode=" + mode, config: strictly()})
			for _, text := range []string{
				"select set_config('" + guc + "', 'globex', true)", "set " + guc + " = 'globex'", "select 1; select 2", "commit",
				`select U&"set\005fconfig"('` + guc + `', 'globex', true)`,
			} {
				for position := range 3 {
					conn := f.conn(f.a)
					var notes []string
					err := f.rawError(conn, func(ctx context.Context, c *pgx.Conn) error {
						requireMode(t, c, mode)
						b := &pgx.Batch{}
						for i := range 3 {
							if i == position {
								b.Queue(text)
							}
							b.Queue("select string_agg(note, ',' order by id) from orders where total > $1", 0).QueryRow(func(row pgx.Row) error {
								var note string
								err := row.Scan(&note)
								notes = append(notes, note)
								return err
							})
						}
						return c.SendBatch(ctx, b).Close()
					})
					require.Error(t, err, text)
					require.NotContains(t, notes, notesOfB, text)
					require.NoError(t, conn.Close())
				}
			}
			conn := f.conn(f.a)
			require.Error(t, f.rawError(conn, func(ctx context.Context, c *pgx.Conn) error {
				_, err := c.PgConn().Exec(ctx, "select 1; commit; set "+guc+" = 'globex'").ReadAll()
				return err
			}))
			require.Error(t, f.rawError(conn, func(ctx context.Context, c *pgx.Conn) error {
				_, err := c.CopyFrom(ctx, pgx.Identifier{"probe"}, []string{"tenant"}, pgx.CopyFromRows([][]any{{"x"}}))
				return err
			}))
			f.requireNotes(f.a, conn, notesOfA)
			require.NoError(t, conn.Close())
			require.Zero(t, outside[int](f, "select count(*) from probe"))
			f.requireOwnRows()
		})
	}
}

// The driver's prologue is a prepared statement that anybody could run with another tenant's name.
func TestStrictRefusesStatementsThatItHasNotSeen(t *testing.T) {
	t.Parallel()
	f := newFleet(t, fleetOptions{config: strictly()})
	for i := range 8 {
		conn := f.conn(f.a)
		err := f.rawError(conn, func(ctx context.Context, c *pgx.Conn) error {
			p := c.PgConn().StartPipeline(ctx)
			p.SendQueryPrepared(fmt.Sprintf("sharded_pg_p%d", i), [][]byte{[]byte(tenantB)}, nil, nil)
			p.SendQueryParams(notesSQL, nil, nil, nil, nil)
			if err := p.Sync(); err != nil {
				return err
			}
			for {
				results, err := p.GetResults()
				if err != nil {
					return err
				}
				reader, ok := results.(*pgconn.ResultReader)
				if !ok {
					return errors.Join(p.Close(), errors.New("not refused"))
				}
				r := reader.Read()
				if r.Err != nil {
					return r.Err
				}
				require.NotEqual(t, notesOfB, string(r.Rows[0][0]))
			}
		})
		require.Error(t, err)
		require.NotContains(t, err.Error(), "not refused")
		require.ErrorContains(t, err, "prepared statement that")
		require.NoError(t, conn.Close())
	}
	conn := f.conn(f.a)
	f.raw(conn, func(ctx context.Context, c *pgx.Conn) error {
		_, err := c.Prepare(ctx, "mine", "select note from orders where id = $1")
		require.NoError(t, err)
		_, err = c.Exec(ctx, "mine", 1)
		return err
	})
	require.NoError(t, conn.Close())
}

func TestStrictRefusesAFunctionCalledByItsNumber(t *testing.T) {
	t.Parallel()
	f := newFleet(t, fleetOptions{config: strictly()})
	conn := f.conn(f.a)
	oid := outside[uint32](f, "select 'set_config'::regproc::oid")
	f.raw(conn, func(_ context.Context, c *pgx.Conn) error {
		fe := c.PgConn().Frontend()
		fe.Send(&pgproto3.FunctionCall{
			Function: oid, ArgFormatCodes: []uint16{0}, Arguments: [][]byte{[]byte(guc), []byte(tenantB), []byte("f")},
		})
		if err := fe.Flush(); err != nil {
			return err
		}
		answer, err := fe.Receive()
		require.NoError(t, err)
		require.IsType(t, &pgproto3.ErrorResponse{}, answer)
		require.Contains(t, answer.(*pgproto3.ErrorResponse).Message, "by its number")
		answer, err = fe.Receive()
		require.NoError(t, err)
		require.IsType(t, &pgproto3.ReadyForQuery{}, answer)
		return nil
	})
	f.requireNotes(f.a, conn, notesOfA)
}

// A batch on a TLS connection is written past the guard in one of pgx's modes, so there is no such connection to be had.
func TestStrictGivesNoRawConnectionThatItCannotWatch(t *testing.T) {
	t.Parallel()
	dsn := tlsShard(t, "stricttls")
	f := newFleet(t, fleetOptions{config: strictly(), routes: func(_ *fleet, routes map[string]*resolver.Route) {
		for _, route := range routes {
			route.Shard.DSN = dsn
		}
	}})
	conn := f.conn(f.a)
	require.NoError(t, conn.Raw(func(c any) error {
		require.Nil(t, c.(*shardedpg.Conn).Conn())
		return nil
	}))
	f.requireNotes(f.a, conn, notesOfA)
	require.NoError(t, conn.Close())
	f.requireOwnRows()
}

func TestTheOperationsPageSaysWhatStrictRefusesAndAllows(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile(filepath.Join("docs", "operations.md"))
	require.NoError(t, err)
	_, section, found := strings.Cut(string(page), "### The strict guard\n")
	require.True(t, found)
	section, _, _ = strings.Cut(section, "\n## ")
	words := sqllex.Allowable()
	last := len(words) - 1
	require.Contains(t, strings.Join(strings.Fields(section), " "),
		"takes `"+strings.Join(words[:last], "`, `")+"` and `"+words[last]+"`.")
	names := 0
	for line := range strings.Lines(section) {
		if refused, _, _ := strings.Cut(line, " | "); strings.HasPrefix(refused, "| ") {
			for _, m := range regexp.MustCompile("`([a-z_]+)`").FindAllStringSubmatch(refused, -1) {
				require.Equal(t, sqllex.Finding{Why: sqllex.OfName, Word: m[1]}, sqllex.Scan("select "+m[1]).Strict)
				names++
			}
		}
	}
	require.Greater(t, names, 20)
}

package conformance

import (
	"context"
	"strings"

	"github.com/jackc/pgx/v5"

	shardedpg "github.com/sharded-pg/sharded-pg"
)

// What a tenant leaves on a connection does not reach the next one.
func sessions() []scenario {
	list := []scenario{
		{name: "RESET and DISCARD leave the connection usable", run: resetAndDiscard},
		{name: "temporary objects shadow nobody's tables", run: temporaryObjects},
		{name: "LISTEN ends with the checkout", run: listening},
		{name: "advisory locks end with the checkout", run: advisoryLocks},
		{name: "sequence values stay with their tenant", run: sequenceValues},
		{name: "cursors WITH HOLD stay with their tenant", run: heldCursors},
		{name: "statements prepared by SQL stay with their tenant", run: preparedBySQL},
		{name: "a forged cached statement is not run", run: forgedStatements},
		{name: "roles end with the checkout", run: roles},
		{name: "what a function hides stays with its tenant", run: hiddenState},
	}
	for _, set := range settings {
		list = append(list, scenario{name: "SET " + set.name, run: set.run})
	}
	return list
}

// left is a setting that one tenant leaves, and what the next one would see of it.
type left struct {
	name, set, check string
	want             string // "": what a fresh connection gives
}

var settings = []left{
	{"a short timeout", "set statement_timeout = '20ms'", "select 'slept' from pg_sleep(0.06)", "slept"},
	{"a time zone", "set timezone = 'Pacific/Kiritimati'", "select extract(epoch from timestamptz '2026-03-04 00:00')::bigint::text", ""},
	{"a date style", "set datestyle = 'SQL, DMY'", "select extract(month from timestamp '04/03/2026')::text", ""},
	{"an interval style", "set intervalstyle = 'sql_standard'", "select interval '1 day'::text", ""},
	{"a search path", "set search_path = pg_catalog", notesSQL, notesOfB},
	{"a read-only default", "set default_transaction_read_only = on", "insert into orders (note) values ('w') returning note", "w"},
	{"an isolation level", "set default_transaction_isolation = 'serializable'", "show transaction_isolation", "read committed"},
	{"row security off", "set row_security = off", notesSQL, notesOfB},
	{"old string syntax", "set standard_conforming_strings = off", `select 'a\\b'`, `a\\b`},
	{"a client encoding", "set client_encoding = latin1", "select 'ä'", "ä"},
	{"a lock timeout", "set lock_timeout = '1ms'", "show lock_timeout", "0"},
	{"a custom setting", "set app.other = 'of the other'", "select coalesce(current_setting('app.other', true), '')", ""},
	{"a planner setting", "set enable_seqscan = off", "show enable_seqscan", "on"},
	{"bytea output", "set bytea_output = 'escape'", `select '\x00ff'::bytea::text`, `\x00ff`},
	{"synchronous commit", "set synchronous_commit = off", "show synchronous_commit", ""},
	{"a deferrable default", "set default_transaction_deferrable = on", "show transaction_deferrable", "off"},
}

func (l left) run(s *scene) {
	want := l.want
	if want == "" {
		want = value[string](s, s.b, s.db, l.check)
	}
	name, setting, _ := strings.Cut(strings.TrimPrefix(l.set, "set "), " = ")
	for what, leave := range map[string]func(){
		"a statement":     func() { s.exec(s.a, s.db, l.set) },
		"a string of two": func() { s.exec(s.a, s.db, "select 1; "+l.set) },
		"a transaction":   func() { s.inTx(s.a, l.set) },
		"a DO block":      func() { s.exec(s.a, s.db, "do $$begin execute $x$"+l.set+"$x$; end$$") },
		"a hidden call":   func() { s.exec(s.a, s.db, "select hidden_exec($1)", l.set) },
		"set_config":      func() { s.exec(s.a, s.db, "select set_config($1, $2, false)", name, strings.Trim(setting, "'")) },
		"pg_settings": func() {
			_, _ = s.db.ExecContext(s.a, "update pg_settings set setting = $1 where name = $2", strings.Trim(setting, "'"), name)
		},
		"a failed string":            func() { _, _ = s.db.ExecContext(s.a, l.set+"; commit; select 1/0") },
		"a string that ends with it": func() { s.exec(s.a, s.db, "begin; select 1; commit; "+l.set) },
	} {
		leave()
		// pgx uses the simple protocol only on a connection that reads literals the usual way.
		equal(s, "x", value[string](s, s.b, s.db, "select $1::text", pgx.QueryExecModeSimpleProtocol, "x"), "after %s", what)
		leave()
		equal(s, want, value[string](s, s.b, s.db, l.check), "after %s", what)
		s.notes(s.a, s.db, notesOfA)
		s.exec(s.b, s.db, "delete from orders where note = 'w'")
	}
}

// inTx runs a statement as a transaction of its own.
func (s *scene) inTx(ctx context.Context, query string) {
	s.Helper()
	tx := s.begin(ctx)
	s.exec(ctx, tx, query)
	s.ok(tx.Commit())
}

func resetAndDiscard(s *scene) {
	s.ownRows()
	for _, query := range []string{"reset all", "discard all", "discard plans", "discard temp", "discard sequences", "deallocate all"} {
		if (query == "discard all" || query == "deallocate all") && s.h.Pooler != Direct {
			continue // one refuses a transaction block, as everything behind a pooler is one; the driver refuses the other
		}
		for range 3 {
			s.exec(s.a, s.db, query)
			s.notes(s.a, s.db, notesOfA)
			s.notes(s.b, s.db, notesOfB)
			s.exec(s.a, s.db, query)
			s.notes(s.b, s.db, notesOfB)
		}
		conn := s.conn(s.a)
		s.notes(s.a, conn, notesOfA)
		s.exec(s.a, conn, query)
		s.notes(s.a, conn, notesOfA)
		s.notes(s.a, conn, notesOfA)
		s.ok(conn.Close())
		s.notes(s.b, s.db, notesOfB)
	}
}

func temporaryObjects(s *scene) {
	for _, query := range []string{
		"create temp table orders (like public.orders)",
		"create temporary view orders as select 1 id, 'fake' note, '{b}' tenant_id",
		"select * into temp orders from public.orders",
		"create temp table orders as table public.orders",
		"do $x$begin create temp table orders (like public.orders); end$x$",
		"select hidden_exec('create temp table orders as table public.orders')",
		"create temp table orders (note text); create function pg_temp.hidden_insert(text) returns bigint language sql as 'select 1::bigint'",
	} {
		s.notes(s.b, s.db, notesOfB)
		s.exec(s.a, s.db, s.fix.names.Replace(query))
		s.notes(s.b, s.db, notesOfB)
		s.exec(s.a, s.db, s.fix.names.Replace(query))
		s.exec(s.b, s.db, "insert into orders (note) values ($1)", "real")
		equal(s, 1, outside[int](s, "select count(*) from public.orders where note = 'real' and tenant_id = $1", s.h.B), "after %s", query)
		s.exec(s.b, s.db, "delete from orders where note = 'real'")
		s.notes(s.a, s.db, notesOfA)
	}
}

func listening(s *scene) {
	s.exec(s.a, s.db, "listen conformance")
	s.exec(s.a, s.db, "select hidden_exec('listen conformance_hidden')")
	s.admin("notify conformance, 'A-secret'")
	equal(s, 0, value[int](s, s.b, s.db, "select count(*) from pg_listening_channels()"))
	s.notes(s.b, s.db, notesOfB)
}

// heldLocks counts advisory locks in the database of A and B.
const heldLocks = "select count(*) from pg_locks where locktype = 'advisory' and " +
	"database = (select oid from pg_database where datname = current_database())"

func advisoryLocks(s *scene) {
	s.exec(s.a, s.db, "select pg_advisory_lock(42)")
	s.eventually(func() bool { return outside[int](s, heldLocks) == 0 }, "a lock whose taking could be read is held")
	s.exec(s.a, s.db, "select hidden_exec('select pg_advisory_lock(43)')")
	s.notes(s.b, s.db, notesOfB)
	equal(s, 0, outside[int](s, heldLocks), "locks after the next tenant's statement")
	s.code(execErr(s.a, s.db, "select pg_advisory_lock(44), 1/0"), "22012") // stays although its statement failed
	s.notes(s.b, s.db, notesOfB)
	equal(s, 0, outside[int](s, heldLocks), "locks of a failed statement")
}

func sequenceValues(s *scene) {
	s.exec(s.a, s.db, "insert into orders (note) values ('n')")
	s.code(execErr(s.b, s.db, "select lastval()"), "55000")
	s.exec(s.a, s.db, "select hidden_insert('n')")
	s.code(execErr(s.b, s.db, "select currval('orders_id_seq')"), "55000")
}

func heldCursors(s *scene) {
	s.inTx(s.a, "declare c cursor with hold for select note from orders")
	s.code(execErr(s.b, s.db, "fetch all from c"), "34000")
	s.exec(s.a, s.db, "begin; declare c cursor with hold for select note from orders; commit")
	s.code(execErr(s.b, s.db, "fetch all from c"), "34000")
	s.exec(s.a, s.db, "select hidden_exec('declare c cursor with hold for select note from orders')")
	s.code(execErr(s.b, s.db, "fetch all from c"), "34000")
	s.notes(s.b, s.db, notesOfB)
}

func preparedBySQL(s *scene) {
	if s.h.Pooler != Direct { // the server connection is shared with programs that nobody resets
		for _, query := range []string{"prepare p as select 1", "execute p", "deallocate p", "deallocate all", "select 1; execute p"} {
			s.is(execErr(s.a, s.db, query), shardedpg.ErrStatementRefused, "%s", query)
		}
		s.ownRows()
		return
	}
	for _, query := range []string{
		"prepare p as select 1", "do $$begin execute 'prepare p as select 1'; end$$", "select hidden_exec('prepare p as select 1')",
		"select 1; prepare p as select 1",
	} {
		s.exec(s.a, s.db, query)
		s.code(execErr(s.b, s.db, "execute p"), "26000", "after %s", query)
		s.ownRows()
	}
}

// The names of cached statements can be read, so a statement of the same name can be put in the place of one.
func forgedStatements(s *scene) {
	for range 3 {
		s.ownRows()
		s.exec(s.a, s.db, `do $$declare n text; begin
			for n in select name from pg_prepared_statements where statement like '%string_agg%' and not from_sql and name <> '' loop
				execute format('deallocate %I', n);
				execute format('prepare %I as select ''forged''::text', n);
			end loop;
		end$$`)
		s.notes(s.b, s.db, notesOfB)
		s.ownRows()
	}
}

func roles(s *scene) {
	s.made(`create role conformance_other nologin; grant conformance_other to {login}; grant select on orders to conformance_other`,
		"drop owned by conformance_other; drop role conformance_other")
	for _, query := range []string{
		"set role conformance_other", "select set_config('role', 'conformance_other', false)",
		"select hidden_exec('set role conformance_other')", "select 1; set session role conformance_other",
		"do $$begin execute 'set role conformance_other'; end$$",
	} {
		s.exec(s.a, s.db, query)
		equal(s, s.h.Login, value[string](s, s.b, s.db, "select current_user::text"), "after %s", query)
		s.ownRows()
	}
	tx := s.begin(s.a)
	s.exec(s.a, tx, "set role conformance_other")
	s.notes(s.a, tx, notesOfA)
	s.ok(tx.Commit())
	equal(s, s.h.Login, value[string](s, s.a, s.db, "select current_user::text"))
	s.code(execErr(s.a, s.db, "set session authorization "+ownerRole), "42501")
	s.ownRows()
}

// What is seen past the COMMIT is the bare connection, as the previous tenant left it.
func hiddenState(s *scene) {
	look := s.fix.names.Replace("insert into probe select 'in ' || current_setting('{guc}'), count(*) from orders; commit; " +
		"insert into probe select 'past ' || current_setting('{guc}', true), count(*) from orders")
	for _, hidden := range []string{
		"set {guc} = '{a}'", "set search_path = pg_temp", "listen x", "create temp table orders as select 'forged'::text as note, 1 as id",
		"create temp view probe as select 1 as tenant", "set default_transaction_read_only = on", "set session authorization {login}",
		"set row_security = off",
	} {
		s.exec(s.a, s.db, "select hidden_exec($1)", s.fix.names.Replace(hidden))
		s.exec(s.b, s.db, look)
		equal(s, "in "+s.h.B+"=1 past =0", outside[string](s,
			"select string_agg(tenant || '=' || orders, ' ' order by tenant) from public.probe"), "after a hidden %s", hidden)
		s.exec(s.b, s.db, "delete from probe")
	}
}

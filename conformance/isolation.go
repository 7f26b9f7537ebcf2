package conformance

import (
	"context"
	"database/sql"
	"errors"
	"strings"
	"time"

	shardedpg "github.com/sharded-pg/sharded-pg"
)

// Whose rows a statement reads and writes. One server connection serves both tenants unless a scenario says otherwise.
var isolation = []scenario{
	{name: "the fixture can fail", run: fixtureCanFail},
	{name: "without a tenant nothing is sent", run: nothingIsSent, skip: direct(notVisible)},
	{name: "alternating tenants see their own rows", run: alternating},
	{name: "no row is planted in another tenant", run: planting},
	{name: "MERGE plants no row in another tenant", run: merging, skip: since(15, "MERGE")},
	{name: "the tenant column fills itself", run: columnFills},
	{name: "statements without WHERE touch own rows only", run: withoutWhere},
	{name: "no tenant is left behind a statement", run: nothingLeft},
	{name: "a failed first statement does not undo the switch", run: failedFirst},
	{name: "an error at the end of a flight does not undo the switch", run: failedLate},
	{name: "a statement prepared once serves every tenant and shard", run: oneStatement},
	{name: "a tenant of another database sees that database", run: otherDatabase},
	{name: "open rows hold nobody up", run: openRows, conns: 2},
	{name: "a switch by SQL ends with its statement", run: switchedBySQL},
	{name: "a cursor does not change hands with the setting", run: cursorAndSetting},
	{name: "generic plans see own rows only", run: genericPlans},
	{name: "parallel plans see own rows only", run: parallelPlans},
	{name: "a string of several statements sees own rows only", run: severalStatements},
	{name: "a string that begins with BEGIN runs as its tenant", run: leadingBegin},
	{name: "a raw BEGIN does not swallow the next tenant's write", run: rawBegin},
	{name: "what pretends to be an end of the text is none", run: oddTexts},
	{name: "invalid tenants are refused before anything is asked", run: invalidTenants},
	{name: "the guard's words inside a literal are a literal", run: guardInLiteral},
}

func fixtureCanFail(s *scene) {
	equal(s, "A-secret,A-secret2,B-secret", outside[string](s, notesSQL), "what a superuser sees")
	conn, err := s.h.Home.Conn(s.Context())
	s.ok(err)
	defer conn.Close()
	s.exec(s.Context(), conn, "set session authorization "+ident(s.h.Login))
	defer func() { s.exec(context.Background(), conn, "reset session authorization") }()
	equal(s, "", value[string](s, s.Context(), conn, notesSQL), "what the login sees without a tenant")
	s.exec(s.Context(), conn, "select set_config($1, $2, false)", s.h.GUC, s.h.B)
	equal(s, notesOfB, value[string](s, s.Context(), conn, notesSQL), "what the login sees with the setting alone")
	s.exec(s.Context(), conn, "select set_config($1, '', false)", s.h.GUC)
}

func nothingIsSent(s *scene) {
	attempts := map[string]func(ctx context.Context) error{
		"exec":    func(ctx context.Context) error { return execErr(ctx, s.db, "delete from orders") },
		"query":   func(ctx context.Context) error { return s.db.QueryRowContext(ctx, "select 1").Scan(new(int)) },
		"prepare": func(ctx context.Context) error { _, err := s.db.PrepareContext(ctx, "select 1"); return err },
		"begin":   func(ctx context.Context) error { _, err := s.db.BeginTx(ctx, nil); return err },
	}
	const look = "select coalesce(string_agg(pid || state || state_change || query, ' '), '') from pg_stat_activity where usename = $1"
	for _, first := range []bool{true, false} {
		before := outside[string](s, look, s.h.Login)
		if first {
			equal(s, "", before, "connections before the first statement")
		}
		for what, attempt := range attempts {
			s.is(attempt(s.Context()), shardedpg.ErrNoTenant, "%s", what)
			s.is(attempt(shardedpg.WithTenant(s.a, s.h.B)), shardedpg.ErrTenantMismatch, "%s", what)
		}
		equal(s, before, outside[string](s, look, s.h.Login), "what the server heard of it")
		s.ownRows() // the second time there is a connection that knows a tenant
	}
}

func alternating(s *scene) {
	rounds := 1000
	if shortRun() {
		rounds = 100
	}
	for range rounds {
		s.ownRows()
	}
}

func planting(s *scene) {
	for _, query := range []string{
		"insert into orders (tenant_id, note) values ('{b}', 'planted')",
		"update orders set tenant_id = '{b}'",
		"insert into orders (tenant_id, note) select '{b}', note from orders",
		"with moved as (update orders set tenant_id = '{b}' returning *) select * from moved",
		"insert into customers (tenant_id, id, email) values ('{b}', '00000000-0000-0000-0000-00000000000b', 'x') " +
			"on conflict (tenant_id, id) do update set name = 'planted'",
		"insert into orders (tenant_id, note) values (null, 'planted')",
		"insert into orders (tenant_id, note) values ('', 'planted')",
	} {
		s.refusedByPolicy(query)
	}
}

func merging(s *scene) {
	s.refusedByPolicy("merge into orders o using (select 1) x on true when matched then update set tenant_id = '{b}'")
	s.refusedByPolicy("merge into orders o using (select 1) x on false when not matched then insert (tenant_id, note) values ('{b}', 'planted')")
}

// refusedByPolicy has A try to write into B, with and without arguments.
func (s *scene) refusedByPolicy(query string) {
	s.Helper()
	query = s.fix.names.Replace(query)
	s.code(execErr(s.a, s.db, query), "42501", "%s", query)
	s.code(s.db.QueryRowContext(s.a, query).Scan(new(int)), "42501", "%s", query)
	s.ownRows()
	equal(s, 0, s.count("planted"))
}

func columnFills(s *scene) {
	s.exec(s.a, s.db, "insert into orders (note) values ($1)", "mine")
	equal(s, s.h.A, outside[string](s, "select tenant_id from orders where note = 'mine'"))
	equal(s, s.h.B, value[string](s, s.b, s.db, "insert into orders (note) values ($1) returning tenant_id", "yours"))
	s.notes(s.a, s.db, notesOfA+",mine")
	s.notes(s.b, s.db, notesOfB+",yours")
}

func withoutWhere(s *scene) {
	tx := s.begin(s.a)
	for _, query := range []string{"update orders set note = 'x'", "update orders set total = $1", "delete from orders"} {
		var args []any
		if strings.Contains(query, "$1") {
			args = append(args, 7)
		}
		n, err := s.exec(s.a, tx, query, args...).RowsAffected()
		s.ok(err)
		equal(s, 2, n, "%s", query)
	}
	s.ok(tx.Rollback())
	s.ownRows()
	s.exec(s.a, s.db, "delete from orders")
	s.notes(s.b, s.db, notesOfB)
	equal(s, "B-secret", outside[string](s, notesSQL))
}

// What follows COMMIT in a string runs on the bare connection.
const pastCommit = "select 1; commit; insert into probe select current_setting('{guc}', true), count(*) from orders"

func nothingLeft(s *scene) {
	for _, ctx := range []context.Context{s.a, s.b, s.a, s.a} {
		s.exec(ctx, s.db, s.fix.names.Replace(pastCommit))
		s.ownRows()
	}
	equal(s, 4, outside[int](s, "select count(*) from probe where coalesce(tenant, '') = '' and orders = 0"), "bare looks that saw nothing")
}

func failedFirst(s *scene) {
	for range 3 {
		s.notes(s.a, s.db, notesOfA)
		s.code(execErr(s.b, s.db, "select 1/0"), "22012")
		s.notes(s.b, s.db, notesOfB)
		s.notes(s.a, s.db, notesOfA)
		s.code(execErr(s.b, s.db, "select 1/$1::int", 0), "22012")
		s.notes(s.b, s.db, notesOfB)
	}
	s.notes(s.a, s.db, notesOfA)
	tx := s.begin(s.b)
	s.code(execErr(s.b, tx, "select 1/0"), "22012")
	s.ok(tx.Rollback())
	s.notes(s.a, s.db, notesOfA)
	s.notes(s.b, s.db, notesOfB)
}

// A deferred constraint fires when the flight ends: after the statement has reported its success.
func failedLate(s *scene) {
	s.made("alter table orders add constraint late unique (tenant_id, note) deferrable initially deferred",
		"alter table orders drop constraint late")
	for range 3 {
		s.notes(s.a, s.db, notesOfA)
		s.code(execErr(s.b, s.db, "insert into orders (note) values ('B-secret')"), "23505", "in a string")
		s.notes(s.b, s.db, notesOfB)
		s.notes(s.a, s.db, notesOfA)
		s.code(execErr(s.b, s.db, "insert into orders (note) values ($1)", "B-secret"), "23505", "with an argument")
		s.notes(s.b, s.db, notesOfB)
	}
	tx := s.begin(s.a)
	s.exec(s.a, tx, "insert into orders (note) values ('A-secret')")
	s.code(tx.Commit(), "23505", "at COMMIT")
	s.ownRows()
	s.exec(s.b, s.db, "insert into orders (note) values ('A-secret')") // the key begins with the tenant
}

func oneStatement(s *scene) {
	stmt, err := s.db.PrepareContext(s.a, notesSQL+" where id > $1")
	s.ok(err)
	defer stmt.Close()
	for range 20 {
		for ctx, want := range map[context.Context]string{s.a: notesOfA, s.b: notesOfB, s.c: ""} {
			var got string
			s.ok(stmt.QueryRowContext(ctx, 0).Scan(&got))
			equal(s, want, got, "rows of %s", tenantName(ctx))
		}
	}
	s.is(execErrStmt(s.Context(), stmt, 0), shardedpg.ErrNoTenant)
}

func execErrStmt(ctx context.Context, stmt *sql.Stmt, args ...any) error {
	_, err := stmt.ExecContext(ctx, args...)
	return err
}

func otherDatabase(s *scene) {
	s.exec(s.c, s.db, "insert into orders (note) values ('C-secret')")
	s.notes(s.c, s.db, "C-secret")
	s.ownRows()
	equal(s, 0, s.count("C-secret"))
	equal(s, s.h.C, value[string](s, s.Context(), s.h.Away, "select tenant_id from orders where note = 'C-secret'"))
	tx := s.begin(s.c)
	s.notes(s.c, tx, "C-secret")
	s.is(execErr(s.a, tx, "select 1"), shardedpg.ErrTenantMismatch)
	s.ok(tx.Commit())
}

func openRows(s *scene) {
	s.exec(s.a, s.db, "insert into orders (note) select 'A' from generate_series(1, 10000)")
	rows, err := s.db.QueryContext(s.a, "select tenant_id from orders")
	s.ok(err)
	defer rows.Close()
	if !rows.Next() {
		s.Fatal("no rows")
	}
	s.notes(s.soon(s.b, 5*time.Second), s.db, notesOfB)
	n := 1
	for ; rows.Next(); n++ {
		var tenant string
		s.ok(rows.Scan(&tenant))
		equal(s, s.h.A, tenant)
	}
	s.ok(rows.Err())
	equal(s, 10002, n)
}

func switchedBySQL(s *scene) {
	set := func(local string) string {
		return s.fix.names.Replace("select set_config('{guc}', '{b}', " + local + ")")
	}
	for _, query := range []string{
		set("false"), set("true"), s.fix.names.Replace("set {guc} = '{b}'"), s.fix.names.Replace("set session {guc} = '{b}'"),
		"do $$begin perform set_config('" + s.h.GUC + "', '" + s.h.B + "', false); end$$",
		"select 1; " + set("false"), s.fix.names.Replace("begin; set {guc} = '{b}'; commit"),
	} {
		s.exec(s.a, s.db, query)
		s.notes(s.a, s.db, notesOfA) // the same tenant again
		s.exec(s.a, s.db, query)
		s.notes(s.b, s.db, notesOfB)
		s.notes(s.a, s.db, notesOfA)
		tx := s.begin(s.a)
		if !strings.Contains(query, "commit") {
			s.exec(s.a, tx, query)
			s.notes(s.a, tx, notesOfA)
		}
		s.exec(s.a, tx, s.fix.names.Replace("set local {guc} = '{b}'"))
		s.notes(s.a, tx, notesOfA)
		s.ok(tx.Commit())
		s.notes(s.a, s.db, notesOfA)
	}
	for _, with := range []string{set("false"), set("true")} { // seen by no reader of the text
		s.exec(s.a, s.db, "select hidden_exec($1)", with)
		s.notes(s.a, s.db, notesOfA)
		s.notes(s.b, s.db, notesOfB)
	}
}

// The rows of a cursor are those of the tenant that opened it, whatever the setting says at FETCH.
func cursorAndSetting(s *scene) {
	tx := s.begin(s.a)
	s.exec(s.a, tx, "declare c cursor for select note from orders order by id")
	equal(s, "A-secret", value[string](s, s.a, tx, "fetch next from c"))
	s.exec(s.a, tx, s.fix.names.Replace("set local {guc} = '{b}'"))
	equal(s, "A-secret2", value[string](s, s.a, tx, "fetch next from c"))
	if err := tx.QueryRowContext(s.a, "fetch next from c").Scan(new(string)); !errors.Is(err, sql.ErrNoRows) {
		s.Fatalf("the cursor had a third row: %v", err)
	}
	s.ok(tx.Commit())
}

// A generic plan is made once for a statement and not for its tenant.
func genericPlans(s *scene) {
	for range 10 {
		for ctx, want := range map[context.Context]string{s.a: notesOfA, s.b: notesOfB} {
			tx := s.begin(ctx)
			s.exec(ctx, tx, "set local plan_cache_mode = force_generic_plan")
			equal(s, want, value[string](s, ctx, tx, notesSQL+" where total > $1", 0))
			s.ok(tx.Commit())
			equal(s, want, value[string](s, ctx, s.db, notesSQL+" where total > $1", 0))
		}
	}
}

func parallelPlans(s *scene) {
	s.made(`alter table orders set (parallel_workers = 2);
		insert into orders (tenant_id, note) select t, 'x' from unnest(array['{a}', '{b}']) t, generate_series(1, case t when '{a}' then 12000 else 8000 end);
		analyze orders`, "alter table orders reset (parallel_workers)")
	for range 3 {
		for ctx, want := range map[context.Context]int{s.a: 12002, s.b: 8001} {
			tx := s.begin(ctx)
			s.exec(ctx, tx, "set local parallel_setup_cost = 0")
			s.exec(ctx, tx, "set local parallel_tuple_cost = 0")
			s.exec(ctx, tx, "set local min_parallel_table_scan_size = 0")
			plan := s.lines(ctx, tx, "explain (costs off) select count(*) from orders")
			if !strings.Contains(plan, "Gather") {
				s.Fatalf("the plan is not parallel, so this shows nothing:\n%s", plan)
			}
			equal(s, want, value[int](s, ctx, tx, "select count(*) from orders"))
			s.ok(tx.Commit())
		}
	}
}

// lines returns the rows of a query with one text column.
func (s *scene) lines(ctx context.Context, q querier, query string) string {
	s.Helper()
	rows, err := q.QueryContext(ctx, query)
	s.ok(err, "%s", query)
	defer rows.Close()
	var all []string
	for rows.Next() {
		var line string
		s.ok(rows.Scan(&line))
		all = append(all, line)
	}
	s.ok(rows.Err())
	return strings.Join(all, "\n")
}

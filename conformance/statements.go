package conformance

import (
	"context"
	"database/sql"
	"fmt"

	"github.com/jackc/pgx/v5"
)

// statements has one scenario for each execution mode, all of them or the one that the harness names.
func statements(h *Harness) []scenario {
	list := []scenario{
		{name: "arguments and results of every type", run: everyType},
		{name: "errors point into the caller's text", run: errorPositions},
		{name: "statements that refuse a transaction block", run: refusesBlock, skip: direct(
			"behind a pooler they run with the session's settings on a connection that others use, so PostgreSQL's refusal stands")},
		{name: "a block that commits runs once", run: committingBlock, skip: refusesCommit},
		{name: "DDL of a tenant", run: tenantDDL},
	}
	for _, mode := range h.modes() {
		sc := scenario{name: mode, run: func(s *scene) { everyUse(s, mode) }}
		if mode == describeExec {
			sc.skip = direct(sentApart)
		}
		list = append(list, sc)
	}
	return list
}

const (
	describeExec = "describe_exec"
	sentApart    = "this mode sends a statement and its execution apart, and a pooler may have changed the server connection in between"
)

// refusesCommit is for blocks that need a connection of their own.
func refusesCommit(s setting) string {
	if s.major >= 18 && s.pooler != Direct {
		return "since version 18 PostgreSQL refuses a COMMIT in a block that is not alone in its flight, and behind a pooler it never is"
	}
	return ""
}

var pgxModes = map[string]pgx.QueryExecMode{
	"cache_statement": pgx.QueryExecModeCacheStatement, "cache_describe": pgx.QueryExecModeCacheDescribe,
	"describe_exec": pgx.QueryExecModeDescribeExec, "exec": pgx.QueryExecModeExec,
	"simple_protocol": pgx.QueryExecModeSimpleProtocol,
}

// everyUse runs all kinds of statements in a mode: as the mode of the connection string, and as an argument of each call.
func everyUse(s *scene, mode string) {
	s.db = s.open(Options{Conns: 1, ExecMode: mode})
	for _, asArgument := range []bool{false, true} {
		var first []any
		if asArgument {
			first = []any{pgxModes[mode]}
		}
		with := func(args ...any) []any { return append(first[:len(first):len(first)], args...) }
		for i := range 4 {
			for _, who := range []string{s.h.A, s.h.B, s.h.B} {
				useOnce(s, s.tenant(who), who, i, with)
			}
		}
	}
	s.oneStmtInMode()
	s.batchInMode()
}

func useOnce(s *scene, ctx context.Context, who string, i int, with func(...any) []any) {
	const own = "select count(*) from orders where tenant_id = $1 and note like $2"
	count := func(q querier) int { return value[int](s, ctx, q, own, with(who, "%")...) }
	before := count(s.db)
	equal(s, 0, value[int](s, ctx, s.db, "select count(*) from orders where tenant_id <> $1", with(who)...))
	s.exec(ctx, s.db, "insert into orders (note, total) values ($1, $2)", with("args", i)...)
	s.exec(ctx, s.db, "insert into orders (note) values ('no args')", with()...)
	s.code(execErr(ctx, s.db, "select 1 / $1::int", with(0)...), "22012")
	s.code(execErr(ctx, s.db, "select 1/0", with()...), "22012")
	s.code(execErr(ctx, s.db, "selec $1", with(1)...), "42601")
	s.code(s.db.QueryRowContext(ctx, "select $1 from nowhere", with("x")...).Scan(new(int)), "42P01")
	equal(s, before+2, count(s.db))

	tx := s.begin(ctx)
	s.exec(ctx, tx, "insert into orders (note) values ($1)", with("tx")...)
	equal(s, before+3, count(tx))
	s.exec(ctx, tx, "savepoint s")
	s.code(execErr(ctx, tx, "select 1 / $1::int", with(0)...), "22012")
	s.exec(ctx, tx, "rollback to s")
	equal(s, before+3, count(tx))
	equal(s, who, value[string](s, ctx, tx, "update orders set total = total + $1 where note = 'tx' and id = "+
		"(select max(id) from orders) returning tenant_id", with(0)...))
	s.ok(tx.Commit())
	tx = s.begin(ctx)
	s.exec(ctx, tx, "delete from orders where total >= $1", with(0)...)
	s.ok(tx.Rollback())
	equal(s, before+3, count(s.db))
}

// oneStmtInMode uses one prepared statement with both tenants, in turns and in a transaction.
func (s *scene) oneStmtInMode() {
	s.Helper()
	stmt, err := s.db.PrepareContext(s.a, "select min(tenant_id) || count(distinct tenant_id) from orders where total >= $1")
	s.ok(err)
	defer stmt.Close()
	for range 3 {
		for _, who := range []string{s.h.A, s.h.B} {
			var got string
			s.ok(stmt.QueryRowContext(s.tenant(who), 0).Scan(&got))
			equal(s, who+"1", got)
			tx := s.begin(s.tenant(who))
			s.ok(tx.StmtContext(s.tenant(who), stmt).QueryRowContext(s.tenant(who), 0).Scan(&got))
			equal(s, who+"1", got)
			s.ok(tx.Commit())
		}
	}
}

// batchInMode sends a batch on a connection on which another tenant has left its own setting.
func (s *scene) batchInMode() {
	s.Helper()
	for range 3 {
		s.exec(s.b, s.db, "select hidden_exec($1)", s.fix.names.Replace("set {guc} = '{b}'"))
		conn := s.conn(s.a)
		s.raw(conn, func(ctx context.Context, c *pgx.Conn) error {
			batch := &pgx.Batch{}
			batch.Queue("insert into orders (note) values ($1)", "batch")
			batch.Queue("select min(tenant_id) || count(distinct tenant_id) from orders where total >= $1", 0)
			results := c.SendBatch(ctx, batch)
			_, err := results.Exec()
			s.ok(err)
			var got string
			s.ok(results.QueryRow().Scan(&got))
			equal(s, s.h.A+"1", got, "whose rows a batch sees")
			return results.Close()
		})
		s.ok(conn.Close())
	}
	equal(s, 3, outside[int](s, "select count(*) from orders where note = 'batch' and tenant_id = $1", s.h.A))
}

func everyType(s *scene) {
	// In the modes that ask the server, pgx learns what a parameter is; in the others a cast in the text has to tell.
	equal(s, 3, value[int](s, s.a, s.db, "select cardinality($1::int[])", []int{1, 2, 3}))
	equal(s, "18446744073709551615", value[string](s, s.a, s.db, "select $1::numeric::text", uint64(1<<64-1)))
	equal(s, "x", value[string](s, s.a, s.db, "select @name::text", pgx.NamedArgs{"name": "x"}))
	equal(s, true, value[bool](s, s.a, s.db, "select $1::text is null", sql.NullString{}))
	equal(s, `\x00ff`, value[string](s, s.a, s.db, "select $1::bytea::text", []byte{0, 0xff}))
	for _, text := range []string{"", "'", `\'; select 1 --`, "$1", "ä€😀", "a\nb\tc", fmt.Sprintf("%01000d", 7), "';commit;--"} {
		for mode := range pgxModes {
			if s.h.ExecMode != "" && mode != s.h.ExecMode || s.h.Pooler != Direct && mode == describeExec {
				continue
			}
			equal(s, text, value[string](s, s.a, s.db, "select $1::text", pgxModes[mode], text), "in mode %s", mode)
		}
	}
	s.ownRows()
	rows, err := s.db.QueryContext(s.a, "select 1::int, 'x'::varchar(7) as name, 1.5::numeric(9, 4), now(), null::uuid")
	s.ok(err)
	defer rows.Close()
	types, err := rows.ColumnTypes()
	s.ok(err)
	equal(s, "INT4 VARCHAR NUMERIC TIMESTAMPTZ UUID", fmt.Sprint(types[0].DatabaseTypeName(), " ", types[1].DatabaseTypeName(), " ",
		types[2].DatabaseTypeName(), " ", types[3].DatabaseTypeName(), " ", types[4].DatabaseTypeName()))
	equal(s, "name", types[1].Name())
	s.ok(rows.Close())
	s.fails(execErr(s.a, s.db, "select $1::int", 1, 2), "an argument too many")
	s.fails(execErr(s.a, s.db, "select $1::int"), "an argument too few")
	s.ownRows()
}

// A prologue in the caller's text would move the position of an error in it.
func errorPositions(s *scene) {
	for query, want := range map[string]int32{
		"select 1 frm orders x y": 14, "/* ä€ */ select é from nowhere": 24, "select 1; selec": 11,
	} {
		for _, ctx := range []context.Context{s.a, s.b} {
			err := execErr(ctx, s.db, query)
			equal(s, want, positionOf(err), "position of %v in %q", err, query)
		}
	}
}

func refusesBlock(s *scene) {
	s.made("create table own (x int); alter table own owner to {login}", "drop table own")
	for _, query := range []string{"vacuum own", "vacuum /* $1 */ own", "discard all"} {
		conn := s.conn(s.a)
		s.exec(s.a, conn, query)
		s.notes(s.a, conn, notesOfA)
		s.exec(s.a, conn, "select set_config($1, $2, false)", s.h.GUC, s.h.B)
		s.notes(s.a, conn, notesOfA)
		tx, err := conn.BeginTx(s.a, nil)
		s.ok(err)
		s.exec(s.a, tx, "insert into orders (note) values ('rolled back')")
		s.ok(tx.Rollback())
		equal(s, 0, s.count("rolled back"))
		s.ok(conn.Close())
		s.ownRows()
	}
	s.code(execErr(s.a, s.db, "insert into orders (note) values ('once'); commit; vacuum own"), "25001")
	equal(s, 1, s.count("once"), "a string is not run again because of its last statement")
}

func committingBlock(s *scene) {
	const block = "do $$ begin insert into orders (note) values ('%[1]s'); commit; %[2]s; end $$"
	for i, ctx := range []context.Context{s.a, s.b, s.b} {
		note := fmt.Sprint("block ", i)
		s.exec(ctx, s.db, fmt.Sprintf(block, note, "perform 1"))
		equal(s, 1, s.count(note))
		note += " and an error"
		s.code(execErr(ctx, s.db, fmt.Sprintf(block, note, "raise exception using errcode = '2D000'")), "2D000")
		equal(s, 1, s.count(note), "what was committed is not run again")
		s.exec(ctx, s.db, "delete from orders where note like 'block%'")
		s.ownRows()
	}
	tx := s.begin(s.a)
	s.code(execErr(s.a, tx, fmt.Sprintf(block, "refused", "perform 1")), "2D000", "in a transaction")
	s.ok(tx.Rollback())
	equal(s, 0, s.count("refused"))
}

func tenantDDL(s *scene) {
	s.made("create schema scratch; grant all on schema scratch to {login}", "drop schema scratch cascade")
	s.exec(s.a, s.db, "create table scratch.t (id int, note text default current_setting('"+s.h.GUC+"'))")
	s.exec(s.a, s.db, "insert into scratch.t values ($1)", 1)
	s.exec(s.b, s.db, "insert into scratch.t values (2); alter table scratch.t add column more int")
	equal(s, s.h.A+" "+s.h.B, value[string](s, s.b, s.db, "select string_agg(note, ' ' order by id) from scratch.t"))
	tx := s.begin(s.a)
	s.exec(s.a, tx, "drop table scratch.t")
	s.ok(tx.Rollback())
	equal(s, 2, value[int](s, s.a, s.db, "select count(*) from scratch.t"))
	s.ownRows()
}

package conformance

import (
	"context"
	"database/sql"
)

// needsPooler is for what shows only behind one.
func needsPooler(s setting) string {
	if s.pooler == Direct {
		return "there is no pooler"
	}
	return ""
}

// needsTransactions is for what two programs can do at once only when they share a server connection by transactions.
func needsTransactions(s setting) string {
	if s.pooler == SessionPooling {
		return "in session mode a pooler keeps its only server connection for the first program"
	}
	return needsPooler(s)
}

// Two programs, or one after another, behind one server connection.
var poolers = []scenario{
	{name: "two programs see their own rows", run: twoPrograms, skip: needsTransactions},
	{name: "what one program leaves does not reach the other", run: leavesBehindPooler, skip: needsTransactions},
	{name: "transactions of two programs stay whole", run: twoTransactions, skip: needsTransactions},
	{name: "a program that ends leaves nothing to the next", run: oneAfterAnother, skip: needsPooler},
	{name: "what refuses a transaction block is not run", run: refusedBehindPooler, skip: needsPooler},
}

// second is another program: a driver of its own that knows nothing of s.db.
func (s *scene) second() *sql.DB {
	s.Helper()
	return s.open(Options{Conns: 1, ExecMode: s.h.ExecMode})
}

func twoPrograms(s *scene) {
	other := s.second()
	pid := s.pid(s.a, s.db)
	for range 200 {
		s.notes(s.a, s.db, notesOfA)
		s.notes(s.b, other, notesOfB)
	}
	equal(s, pid, s.pid(s.b, other), "the server connection of the other program")
}

// leavings are what a session keeps.
var leavings = []string{
	"create temp table orders as select '{a}'::text tenant_id, 1 id, 'fake'::text note",
	"select set_config('{guc}', '{a}', false)", "select pg_advisory_lock(42)", "set row_security = off", "set search_path = pg_catalog",
	"set default_transaction_read_only = on", "listen conformance", "select hidden_exec('set {guc} = ''{a}''')",
	"select hidden_exec('create temp table orders as select 1 id, ''fake''::text note')",
	"select hidden_exec('select pg_advisory_lock(43)')", "set statement_timeout = '1h'",
}

func leavesBehindPooler(s *scene) {
	other := s.second()
	bare := s.fix.names.Replace("select 1; commit; insert into public.probe select current_setting('{guc}', true), count(*) from public.orders")
	for range 3 {
		for _, left := range leavings {
			s.exec(s.a, s.db, s.fix.names.Replace(left))
			s.notes(s.b, other, notesOfB)
			equal(s, 0, value[int](s, s.b, other, heldLocks), "locks after %s", left)
			s.exec(s.a, s.db, s.fix.names.Replace(left))
			s.exec(s.b, other, bare)
			s.exec(s.b, other, "insert into orders (note) values ('w')")
			s.exec(s.b, other, "delete from orders where note = 'w'")
		}
	}
	equal(s, 0, outside[int](s, "select count(*) from probe where tenant <> '' or orders > 0"), "bare looks that saw something")
}

func twoTransactions(s *scene) {
	other := s.second()
	for range 20 {
		tx := s.begin(s.a, &sql.TxOptions{Isolation: sql.LevelSerializable})
		s.exec(s.a, tx, "insert into orders (note) values ('tx')")
		done := make(chan error, 1)
		go func() { // waits for the only server connection
			_, err := other.ExecContext(s.b, "insert into orders (note) values ('other')")
			done <- err
		}()
		equal(s, 0, value[int](s, s.a, tx, "select count(*) from orders where tenant_id <> $1", s.h.A))
		equal(s, "serializable", value[string](s, s.a, tx, "show transaction_isolation"))
		s.ok(tx.Rollback())
		s.ok(<-done)
	}
	equal(s, 0, s.count("tx"))
	equal(s, 20, outside[int](s, "select count(*) from orders where note = 'other' and tenant_id = $1", s.h.B))
}

func oneAfterAnother(s *scene) {
	for _, left := range leavings {
		first := s.h.Open(s, Options{Conns: 1, ExecMode: s.h.ExecMode})
		s.exec(s.a, first, s.fix.names.Replace(left))
		s.ok(first.Close())
		next := s.h.Open(s, Options{Conns: 1, ExecMode: s.h.ExecMode})
		s.notes(s.b, next, notesOfB)
		s.exec(s.b, next, "insert into orders (note) values ('w')")
		s.exec(s.b, next, "delete from orders where note = 'w'")
		s.ok(next.Close())
	}
}

func refusedBehindPooler(s *scene) {
	s.made("create table own (x int); alter table own owner to {login}", "drop table own")
	s.code(execErr(s.a, s.db, "vacuum own"), "25001")
	for _, ctx := range []context.Context{s.b, s.a} {
		equal(s, tenantName(ctx), value[string](s, ctx, s.db, `select '"' || current_setting('`+s.h.GUC+`') || '"'`))
	}
}

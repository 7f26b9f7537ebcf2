package conformance

import (
	"database/sql"
	"time"

	"github.com/jackc/pgx/v5"

	shardedpg "github.com/sharded-pg/sharded-pg"
)

// What a transaction keeps, and how it ends.
var transactions = []scenario{
	{name: "a second tenant is refused and the transaction stays usable", run: secondTenant},
	{name: "an empty transaction sends nothing", run: emptyTx, skip: direct(notVisible)},
	{name: "isolation level and access mode are kept", run: txOptions},
	{name: "SET TRANSACTION works as first statement", run: setTransaction},
	{name: "savepoints keep the tenant", run: savepoints},
	{name: "settings that ROLLBACK TO brings back are put right", run: rollbackTo},
	{name: "a COMMIT inside breaks it loudly", run: commitInside},
	{name: "a failed transaction says at COMMIT that it rolled back", run: failedTx},
	{name: "a statement prepared in a transaction runs once in it", run: stmtOfTx},
	{name: "serialization failures pass untouched", run: serialization, conns: 2},
	{name: "what is written is seen after COMMIT and not before", run: visibility},
	{name: "work in a transaction keeps its tenant to the end", run: longTx},
}

func secondTenant(s *scene) {
	tx := s.begin(s.a)
	s.notes(s.a, tx, notesOfA)
	for range 3 {
		s.is(execErr(s.b, tx, "insert into orders (note) values ('never')"), shardedpg.ErrTenantMismatch)
		s.is(tx.QueryRowContext(s.b, notesSQL).Scan(new(string)), shardedpg.ErrTenantMismatch)
		_, err := tx.PrepareContext(s.b, "select 1")
		s.is(err, shardedpg.ErrTenantMismatch)
		s.notes(s.a, tx, notesOfA)
		s.notes(s.Context(), tx, notesOfA) // no tenant inherits
	}
	s.exec(s.a, tx, "insert into orders (note) values ('mine')")
	s.ok(tx.Commit())
	equal(s, 0, s.count("never"))
	equal(s, 1, s.count("mine"))

	tx = s.begin(s.a) // refused as the very first statement, with BEGIN still to come
	s.is(execErr(s.b, tx, "insert into orders (note) values ('never')"), shardedpg.ErrTenantMismatch)
	s.exec(s.a, tx, "delete from orders where note = 'mine'")
	s.ok(tx.Commit())
	s.ownRows()
}

func emptyTx(s *scene) {
	s.ownRows()
	const look = "select state_change::text || query from pg_stat_activity where usename = $1"
	last := outside[string](s, look, s.h.Login)
	for _, end := range []func(*sql.Tx) error{(*sql.Tx).Commit, (*sql.Tx).Rollback} {
		s.ok(end(s.begin(s.b)))
	}
	equal(s, last, outside[string](s, look, s.h.Login))
	s.ownRows()
}

func txOptions(s *scene) {
	for level, want := range map[sql.IsolationLevel]string{
		sql.LevelDefault: "read committed", sql.LevelReadUncommitted: "read uncommitted", sql.LevelReadCommitted: "read committed",
		sql.LevelRepeatableRead: "repeatable read", sql.LevelSnapshot: "repeatable read", sql.LevelSerializable: "serializable",
	} {
		for _, readOnly := range []bool{false, true} {
			tx := s.begin(s.a, &sql.TxOptions{Isolation: level, ReadOnly: readOnly})
			equal(s, want, value[string](s, s.a, tx, "show transaction_isolation"))
			err := execErr(s.a, tx, "insert into orders (note) values ('w')")
			if readOnly {
				s.code(err, "25006")
			} else {
				s.ok(err)
			}
			s.ok(tx.Rollback())
			s.notes(s.b, s.db, notesOfB)
		}
	}
	_, err := s.db.BeginTx(s.a, &sql.TxOptions{Isolation: sql.LevelLinearizable})
	s.fails(err, "an isolation level that PostgreSQL does not have")
	s.ownRows()
}

func setTransaction(s *scene) {
	for _, query := range []string{
		"set transaction isolation level serializable", "set local transaction_isolation to serializable",
		"set transaction isolation level serializable; select 1",
	} {
		tx := s.begin(s.a)
		s.exec(s.a, tx, query)
		equal(s, "serializable", value[string](s, s.a, tx, "show transaction_isolation"), "%s", query)
		s.notes(s.a, tx, notesOfA)
		s.ok(tx.Commit())
		s.notes(s.b, s.db, notesOfB)
	}
	tx := s.begin(s.a)
	s.exec(s.a, tx, "set constraints all deferred")
	s.notes(s.a, tx, notesOfA)
	s.ok(tx.Commit())
	s.notes(s.b, s.db, notesOfB)
}

func savepoints(s *scene) {
	tx := s.begin(s.a)
	s.exec(s.a, tx, "savepoint s")
	s.code(execErr(s.a, tx, "select 1/0"), "22012")
	s.exec(s.a, tx, "rollback to savepoint s")
	s.notes(s.a, tx, notesOfA)
	s.exec(s.a, tx, "release s")
	s.ok(tx.Commit())
	s.notes(s.b, s.db, notesOfB)

	tx = s.begin(s.b) // the savepoint is the first statement, so the prologue flew in front of it
	s.exec(s.b, tx, "savepoint s")
	s.exec(s.b, tx, "rollback to s")
	s.notes(s.b, tx, notesOfB)
	s.ok(tx.Rollback())
	s.notes(s.a, s.db, notesOfA)
}

func rollbackTo(s *scene) {
	tx := s.begin(s.a)
	s.exec(s.a, tx, "savepoint s")
	s.exec(s.a, tx, s.fix.names.Replace("set local {guc} = '{b}'"))
	s.exec(s.a, tx, "savepoint s2")
	s.notes(s.a, tx, notesOfA)
	s.exec(s.a, tx, "rollback to s2")
	s.notes(s.a, tx, notesOfA)
	s.exec(s.a, tx, s.fix.names.Replace("set local {guc} = '{b}'; savepoint s3")) // nothing can come between the two
	s.notes(s.a, tx, notesOfA)
	s.exec(s.a, tx, "rollback to s3") // the foreign setting is back
	s.notes(s.a, tx, notesOfA)
	s.exec(s.a, tx, "rollback to s")
	s.notes(s.a, tx, notesOfA)
	s.code(execErr(s.a, tx, "selec"), "42601")
	s.exec(s.a, tx, "rollback to s")
	s.notes(s.a, tx, notesOfA)
	s.ok(tx.Commit())
	s.ownRows()
}

func commitInside(s *scene) {
	for _, query := range []string{
		"commit", "end", "rollback", "abort", "commit and chain", "rollback and chain", "select 1; commit", "commit; begin",
		"prepare transaction 'conformance'", "begin", "/* */ commit",
	} {
		tx := s.begin(s.a)
		s.exec(s.a, tx, "insert into orders (note) values ('before')")
		_, _ = tx.ExecContext(s.a, query) // prepared transactions may be switched off
		s.fails(execErr(s.a, tx, "insert into orders (note) values ('lost')"), "a statement after "+query)
		s.fails(tx.Commit(), "Commit after "+query)
		equal(s, 0, s.count("lost"), "rows written after %s", query)
		_, _ = s.h.Home.ExecContext(s.Context(), "rollback prepared 'conformance'")
		s.admin("delete from orders where note = 'before'")
		s.ownRows()
	}
}

func failedTx(s *scene) {
	tx := s.begin(s.a)
	s.exec(s.a, tx, "insert into orders (note) values ('gone')")
	s.code(execErr(s.a, tx, "select 1/0"), "22012")
	s.code(execErr(s.a, tx, "select 1"), "25P02")
	s.is(tx.Commit(), pgx.ErrTxCommitRollback)
	s.ownRows()
	tx = s.begin(s.a) // the first statement fails, together with its BEGIN
	s.code(execErr(s.a, tx, "select 1/0"), "22012")
	s.is(tx.Commit(), pgx.ErrTxCommitRollback)
	s.ownRows()
}

func stmtOfTx(s *scene) {
	tx := s.begin(s.a)
	stmt, err := tx.PrepareContext(s.a, "insert into orders (note) values ($1)")
	s.ok(err)
	for range 3 {
		s.ok(execErrStmt(s.a, stmt, "p"))
	}
	s.is(execErrStmt(s.b, stmt, "p"), shardedpg.ErrTenantMismatch)
	s.ok(tx.Commit())
	equal(s, 3, outside[int](s, "select count(*) from orders where note = 'p' and tenant_id = $1", s.h.A))
	shared, err := s.db.PrepareContext(s.b, "insert into orders (note) values ($1)")
	s.ok(err)
	defer shared.Close()
	tx = s.begin(s.a)
	s.ok(execErrStmt(s.a, tx.StmtContext(s.a, shared), "q"))
	s.ok(tx.Commit())
	equal(s, 1, outside[int](s, "select count(*) from orders where note = 'q' and tenant_id = $1", s.h.A))
}

func serialization(s *scene) {
	opts := &sql.TxOptions{Isolation: sql.LevelRepeatableRead}
	one, two := s.begin(s.a, opts), s.begin(s.a, opts)
	s.notes(s.a, one, notesOfA)
	s.notes(s.a, two, notesOfA)
	s.exec(s.a, one, "update orders set total = total + 1")
	s.ok(one.Commit())
	s.code(execErr(s.a, two, "update orders set total = total + 1"), "40001")
	s.ok(two.Rollback())
	s.ownRows()
}

func visibility(s *scene) {
	for _, commit := range []bool{true, false} {
		tx := s.begin(s.a)
		s.exec(s.a, tx, "insert into orders (note) values ($1)", "new")
		equal(s, 1, value[int](s, s.a, tx, "select count(*) from orders where note = 'new'"))
		equal(s, 0, s.count("new"))
		if commit {
			s.ok(tx.Commit())
			equal(s, 1, s.count("new"))
			s.admin("delete from orders where note = 'new'")
			continue
		}
		s.ok(tx.Rollback())
		equal(s, 0, s.count("new"))
	}
	s.is(execErr(s.a, s.begun(), "select 1"), sql.ErrTxDone)
}

// begun is a transaction that has ended.
func (s *scene) begun() *sql.Tx {
	tx := s.begin(s.a)
	s.ok(tx.Commit())
	return tx
}

// longTx mixes what a long transaction of an application does with what a short deadline does to its first statement.
func longTx(s *scene) {
	tx := s.begin(s.a)
	equal(s, s.h.A, value[string](s, s.soon(s.a, 2*time.Second), tx, "select current_setting($1)", s.h.GUC))
	for range 30 {
		s.exec(s.a, tx, "insert into orders (note) values ($1)", "long")
		s.exec(s.a, tx, "set local enable_seqscan = off")
		s.exec(s.a, tx, "select 1; select 2")
		equal(s, 0, value[int](s, s.a, tx, "select count(*) from orders where tenant_id <> $1", s.h.A))
	}
	s.exec(s.a, tx, "select pg_sleep(2.1)") // longer than the deadline of the first statement
	s.ok(tx.Commit())
	equal(s, 30, outside[int](s, "select count(*) from orders where note = 'long' and tenant_id = $1", s.h.A))
	s.notes(s.b, s.db, notesOfB)
}

package conformance

import (
	"context"
	"database/sql"
	"errors"

	"github.com/jackc/pgx/v5"
)

// raw runs f on the pgx connection of conn; nil when it gives none.
func (s *scene) raw(conn *sql.Conn, f func(ctx context.Context, c *pgx.Conn) error) {
	s.Helper()
	s.ok(conn.Raw(func(c any) error {
		giver, ok := c.(interface{ Conn() *pgx.Conn })
		if !ok {
			return errors.New("what Raw gives has no method Conn() *pgx.Conn")
		}
		return f(s.soon(s.Context(), patience), giver.Conn())
	}))
}

func rawConn(s *scene) {
	conn := s.conn(s.a)
	s.raw(conn, func(ctx context.Context, c *pgx.Conn) error {
		batch := &pgx.Batch{}
		batch.Queue("insert into orders (note) values ($1)", "batch")
		batch.Queue("select min(tenant_id) || max(tenant_id) from orders where id > $1", 0)
		results := c.SendBatch(ctx, batch)
		_, err := results.Exec()
		s.ok(err)
		var both, notes string
		s.ok(results.QueryRow().Scan(&both))
		equal(s, s.h.A+s.h.A, both)
		s.ok(results.Close())
		tx, err := c.Begin(ctx)
		s.ok(err)
		s.ok(tx.QueryRow(ctx, notesSQL).Scan(&notes))
		equal(s, notesOfA+",batch", notes)
		s.ok(tx.Rollback(ctx))
		return nil
	})
	s.ok(conn.Close())
	s.notes(s.b, s.db, notesOfB)
}

func rawCopy(s *scene) {
	conn := s.conn(s.a)
	s.raw(conn, func(ctx context.Context, c *pgx.Conn) error {
		var out copied
		tag, err := c.PgConn().CopyTo(ctx, &out, "copy (select tenant_id from orders) to stdout")
		s.ok(err)
		equal(s, 2, tag.RowsAffected())
		equal(s, s.h.A+"\n"+s.h.A+"\n", string(out))
		_, err = c.CopyFrom(ctx, pgx.Identifier{"orders"}, []string{"note"}, pgx.CopyFromRows([][]any{{"x"}}))
		s.code(err, "0A000", "COPY FROM under row-level security")
		return nil
	})
	s.ok(conn.Close())
	s.notes(s.b, s.db, notesOfB)
	for range 10 {
		s.copyAfterTx()
	}
}

// copyAfterTx reads by COPY behind all that has other answers than a statement: a batch, and a transaction that ends undone.
func (s *scene) copyAfterTx() {
	s.Helper()
	conn := s.conn(s.a)
	s.raw(conn, func(ctx context.Context, c *pgx.Conn) error {
		batch := &pgx.Batch{}
		batch.Queue("update orders set note = note where total > $1", 0)
		batch.Queue(notesSQL)
		s.ok(c.SendBatch(ctx, batch).Close())
		tx, err := c.Begin(ctx)
		s.ok(err)
		_, err = tx.Exec(ctx, "delete from orders where total > $1", 0)
		s.ok(err)
		s.ok(tx.Rollback(ctx))
		var out copied
		_, err = c.PgConn().CopyTo(ctx, &out, "copy (select note from orders order by id) to stdout")
		s.ok(err)
		equal(s, "A-secret\nA-secret2\n", string(out))
		return nil
	})
	s.ok(conn.Close())
	s.notes(s.b, s.db, notesOfB)
}

// deallocated has A take away every prepared statement of its own connection, the driver's as well, in each place where SQL
// can: what follows is A's, and runs.
func deallocated(s *scene) {
	const all, hidden = "deallocate all", "select hidden_exec('deallocate all')"
	tx := s.begin(s.a)
	s.notes(s.a, tx, notesOfA)
	s.exec(s.a, tx, all)
	s.exec(s.a, tx, s.fix.names.Replace("set local {guc} = '{b}'"))
	s.notes(s.a, tx, notesOfA)
	s.ok(tx.Commit())

	conn := s.conn(s.a)
	s.exec(s.a, conn, "create temp table kept as select 7 as x")
	for range 2 {
		s.exec(s.a, conn, hidden)
		s.notes(s.a, conn, notesOfA)
		equal(s, 7, value[int](s, s.a, conn, "select x from kept"), "what the session held before a hidden DEALLOCATE")
		s.exec(s.a, conn, hidden)
		begun, err := conn.BeginTx(s.a, nil)
		s.ok(err)
		s.notes(s.a, begun, notesOfA)
		s.ok(begun.Rollback())
	}
	s.ok(conn.Close())

	s.exec(s.a, s.db, hidden)
	conn = s.conn(s.a)
	s.raw(conn, func(ctx context.Context, c *pgx.Conn) error {
		see := func(q interface {
			QueryRow(ctx context.Context, query string, args ...any) pgx.Row
		},
		) {
			var notes string
			s.ok(q.QueryRow(ctx, notesSQL, pgx.QueryExecModeExec).Scan(&notes)) // pgx would name its own, and lose it as well
			equal(s, notesOfA, notes)
		}
		see(c)
		s.ok(c.DeallocateAll(ctx))
		see(c)
		tx, err := c.Begin(ctx)
		s.ok(err)
		s.ok(c.DeallocateAll(ctx))
		_, err = tx.Exec(ctx, s.fix.names.Replace("set local {guc} = '{b}'"))
		s.ok(err)
		see(tx)
		s.ok(tx.Rollback(ctx))
		_, err = c.Exec(ctx, hidden)
		s.ok(err)
		see(c)
		return nil
	})
	s.notes(s.a, conn, notesOfA)
	s.ok(conn.Close())
	s.ownRows()
}

type copied []byte

func (w *copied) Write(p []byte) (int, error) {
	*w = append(*w, p...)
	return len(p), nil
}

func rawWithoutTenant(s *scene) {
	conn := s.conn(s.Context())
	s.raw(conn, func(_ context.Context, c *pgx.Conn) error {
		equal(s, nil, c)
		return nil
	})
	s.ok(conn.PingContext(s.a))
	s.raw(conn, func(ctx context.Context, c *pgx.Conn) error {
		var notes string
		s.ok(c.QueryRow(ctx, notesSQL).Scan(&notes))
		equal(s, notesOfA, notes)
		return nil
	})
	s.ok(conn.Close())
	s.notes(s.b, s.db, notesOfB)
}

// What a function hides is found by the reset, and its error must not be the first that the next tenant's pgx reads.
func rawAfterFailedReset(s *scene) {
	for _, hidden := range []string{"prepare forged as select 1", "deallocate all"} {
		for _, inTx := range []bool{false, true} {
			s.exec(s.a, s.db, "select hidden_exec($1)", hidden)
			conn := s.conn(s.b)
			var tx *sql.Tx
			if inTx {
				var err error
				tx, err = conn.BeginTx(s.b, nil)
				s.ok(err)
			}
			s.raw(conn, func(ctx context.Context, c *pgx.Conn) error {
				if c == nil {
					return errors.New("Raw gave no connection after " + hidden)
				}
				batch := &pgx.Batch{}
				batch.Queue("insert into orders (note) values ('raw')")
				batch.Queue(notesSQL)
				results := c.SendBatch(ctx, batch)
				_, err := results.Exec()
				s.ok(err, "after %s", hidden)
				var notes string
				s.ok(results.QueryRow().Scan(&notes))
				equal(s, notesOfB+",raw", notes)
				return results.Close()
			})
			if inTx {
				s.notes(s.b, tx, notesOfB+",raw")
				s.ok(tx.Rollback())
				equal(s, 0, s.count("raw"), "rows written outside the transaction")
			}
			s.ok(conn.Close())
			s.admin("delete from orders where note = 'raw'")
			s.ownRows()
		}
	}
}

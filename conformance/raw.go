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

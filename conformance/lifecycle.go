package conformance

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"sync"
	"time"

	shardedpg "github.com/sharded-pg/sharded-pg"
)

// What database/sql does with connections, statements and rows, and what must follow from it.
var lifecycle = []scenario{
	{name: "one connection of database/sql serves another tenant at its next use", run: virtualConns},
	{name: "waiters served by the opener get their own tenant", run: openerHasNoTenant, conns: 2},
	{name: "a Conn is bound by its first operation", run: connBound},
	{name: "a Conn keeps its session for its life and no longer", run: connSession, skip: direct(notOneSession)},
	{name: "a Conn outlives the context that opened it", run: connOutlives},
	{name: "a Stmt of a Conn stays with its tenant", run: stmtOfConn},
	{name: "many goroutines of two tenants share one Stmt", run: sharedStmt, conns: 3},
	{name: "closing a Stmt waits for nobody", run: stmtClose},
	{name: "bad SQL is reported by Prepare", run: badPrepare},
	{name: "closing the DB does not wait for what is open", run: closeWaitsNot, conns: 3},
	{name: "rows read to their end give the connection back", run: rowsEnd},
	{name: "rows left open on a Conn are reported", run: rowsOnConn},
	{name: "a panic in a Valuer leaves nothing in use", run: panicInValuer},
	{name: "an error of a Valuer is the caller's", run: errorOfValuer},
	{name: "Raw gives the pgx connection, armed", run: rawConn},
	{name: "COPY shows own rows only", run: rawCopy},
	{name: "a reset that fails in front of Raw is not the caller's", run: rawAfterFailedReset, skip: direct(
		"behind a pooler every transaction brings its own reset, and it looks for statements under the names of cached ones only")},
	{name: "Raw without a tenant gives no connection", run: rawWithoutTenant},
	{name: "DEALLOCATE ALL costs a tenant no statement of its own", run: deallocated, skip: direct(
		"behind a pooler no statement is named by the driver, and DEALLOCATE as SQL is refused")},
	{name: "Ping contacts the tenant's shard", run: ping},
	{name: "a connection that a transaction of another tenant waits for is handed on", run: handedOn},
}

func virtualConns(s *scene) {
	s.db.SetMaxOpenConns(1)
	for range 5 {
		s.ownRows()
		s.ok(s.db.PingContext(s.a))
		s.ok(s.db.PingContext(s.b))
		s.notes(s.c, s.db, "") // on another shard
	}
	equal(s, 1, s.db.Stats().OpenConnections)
}

// database/sql opens connections for waiters on a context of its own, which has no tenant.
func openerHasNoTenant(s *scene) {
	s.db.SetMaxOpenConns(2)
	s.db.SetMaxIdleConns(-1)
	s.concurrently(20, func(ctx context.Context, want string) {
		for range 10 {
			var got string
			if err := s.db.QueryRowContext(ctx, notesSQL).Scan(&got); err != nil || got != want {
				s.Errorf("tenant %s: got %q, want %q: %v", tenantName(ctx), got, want, err)
			}
		}
	})
}

// concurrently runs f in goroutines, half of them for A and half for B.
func (s *scene) concurrently(n int, f func(ctx context.Context, notes string)) {
	var group sync.WaitGroup
	for i := range n {
		group.Go(func() {
			if i%2 == 0 {
				f(s.a, notesOfA)
			} else {
				f(s.b, notesOfB)
			}
		})
	}
	group.Wait()
}

func connBound(s *scene) {
	conn := s.conn(s.Context())
	s.is(execErr(s.Context(), conn, "select 1"), shardedpg.ErrNoTenant)
	s.notes(s.a, conn, notesOfA)
	s.notes(s.Context(), conn, notesOfA)
	s.is(execErr(s.b, conn, "insert into orders (note) values ('never')"), shardedpg.ErrTenantMismatch)
	_, err := conn.BeginTx(s.b, nil)
	s.is(err, shardedpg.ErrTenantMismatch)
	_, err = conn.PrepareContext(s.b, "select 1")
	s.is(err, shardedpg.ErrTenantMismatch)
	s.is(conn.PingContext(s.b), shardedpg.ErrTenantMismatch)
	s.notes(s.a, conn, notesOfA)
	s.ok(conn.Close())
	s.notes(s.b, s.db, notesOfB)
	equal(s, 0, s.count("never"))
}

func connSession(s *scene) {
	conn := s.conn(s.a)
	pid := s.pid(s.a, conn)
	s.exec(s.a, conn, "create temp table mine (x int)")
	s.exec(s.a, conn, "set datestyle = 'SQL, DMY'")
	s.exec(s.a, conn, "insert into mine values (7)")
	equal(s, 7, value[int](s, s.a, conn, "select x from mine"))
	equal(s, "SQL, DMY", value[string](s, s.a, conn, "show datestyle"))
	equal(s, pid, s.pid(s.a, conn))
	s.ok(conn.Close())
	s.code(execErr(s.a, s.db, "select * from mine"), "42P01")
}

func connOutlives(s *scene) {
	ctx, cancel := context.WithCancel(s.a)
	conn := s.conn(ctx)
	s.notes(ctx, conn, notesOfA)
	cancel()
	s.notes(s.Context(), conn, notesOfA)
}

func stmtOfConn(s *scene) {
	conn := s.conn(s.a)
	stmt, err := conn.PrepareContext(s.a, notesSQL)
	s.ok(err)
	defer stmt.Close()
	s.is(execErrStmt(s.b, stmt), shardedpg.ErrTenantMismatch)
	var got string
	s.ok(stmt.QueryRowContext(s.a).Scan(&got))
	equal(s, notesOfA, got)
}

func sharedStmt(s *scene) {
	stmt, err := s.db.PrepareContext(s.a, notesSQL+" where total > $1")
	s.ok(err)
	write, err := s.db.PrepareContext(s.b, "insert into customers (email) values ($1)")
	s.ok(err)
	const goroutines, rounds = 16, 20
	var mu sync.Mutex
	next := 0
	s.concurrently(goroutines, func(ctx context.Context, want string) {
		for range rounds {
			var got string
			if err := stmt.QueryRowContext(ctx, 0).Scan(&got); err != nil || got != want {
				s.Errorf("got %q, want %q: %v", got, want, err)
				return
			}
			mu.Lock()
			next++
			email := string(rune('a'+next%26)) + time.Duration(next).String()
			mu.Unlock()
			if _, err := write.ExecContext(ctx, email); err != nil {
				s.Error(err)
				return
			}
		}
	})
	s.ok(stmt.Close())
	s.ok(write.Close())
	for _, tenant := range []string{s.h.A, s.h.B} {
		equal(s, goroutines*rounds/2+1, outside[int](s, "select count(*) from customers where tenant_id = $1", tenant))
	}
}

// database/sql closes statements with its own mutex held, after their connection was given back.
func stmtClose(s *scene) {
	stmt, err := s.db.PrepareContext(s.a, notesSQL)
	s.ok(err)
	rows, err := stmt.QueryContext(s.a)
	s.ok(err)
	tx := s.begunWhen(rows)
	closed := make(chan error, 1)
	go func() { closed <- stmt.Close() }()
	select {
	case err := <-closed:
		s.ok(err)
	case <-time.After(patience):
		s.Fatal("closing a statement waits for a connection")
	}
	s.ok(tx.Rollback())
}

// begunWhen closes rows and takes the only connection.
func (s *scene) begunWhen(rows *sql.Rows) *sql.Tx {
	s.Helper()
	s.ok(rows.Close())
	tx := s.begin(s.b)
	s.notes(s.b, tx, notesOfB)
	return tx
}

func badPrepare(s *scene) {
	for query, code := range map[string]string{"selec": "42601", "select * from nowhere where id = $1": "42P01"} {
		_, err := s.db.PrepareContext(s.a, query)
		s.code(err, code)
		_, err = s.db.PrepareContext(s.b, query)
		s.code(err, code)
	}
	stmt, err := s.db.PrepareContext(s.a, "select $1::int + $2::int")
	s.ok(err)
	defer stmt.Close()
	s.fails(execErrStmt(s.a, stmt, 1), "an argument too few")
	s.ok(execErrStmt(s.a, stmt, 1, 2))
}

func closeWaitsNot(s *scene) {
	db := s.h.Open(s, Options{Conns: 3, ExecMode: s.h.ExecMode})
	tx, err := db.BeginTx(s.a, nil)
	s.ok(err)
	s.exec(s.a, tx, "insert into orders (note) values ('kept')")
	rows, err := db.QueryContext(s.a, "select 1 from generate_series(1, 100000)")
	s.ok(err)
	defer rows.Close()
	equal(s, true, rows.Next())
	closed := make(chan error, 1)
	go func() { closed <- db.Close() }()
	select {
	case err := <-closed:
		s.ok(err)
	case <-time.After(patience):
		s.Fatal("Close waits for what is open")
	}
	s.notes(s.a, tx, notesOfA+",kept")
	s.ok(tx.Commit())
	n := 1
	for ; rows.Next(); n++ {
	}
	s.ok(rows.Err())
	equal(s, 100000, n)
	equal(s, 1, s.count("kept"))
	s.fails(execErr(s.a, db, "select 1"), "a statement after Close")
}

func rowsEnd(s *scene) {
	for range 3 {
		rows, err := s.db.QueryContext(s.a, "select i from generate_series(1, 1000) i")
		s.ok(err)
		for rows.Next() {
		}
		s.ok(rows.Err())
		s.notes(s.b, s.db, notesOfB) // the only connection is free without Close
		_ = rows.Close()
		var first int
		s.ok(s.db.QueryRowContext(s.a, "select i from generate_series(1, 1000) i").Scan(&first))
		s.notes(s.b, s.db, notesOfB)
	}
	rows, err := s.db.QueryContext(s.a, "select 10 / (5 - i) from generate_series(1, 10) i")
	if err == nil {
		for rows.Next() {
		}
		err = rows.Err()
	}
	s.code(err, "22012")
	s.ownRows()
}

func rowsOnConn(s *scene) {
	conn := s.conn(s.a)
	rows, err := conn.QueryContext(s.a, "select i from generate_series(1, 100000) i")
	s.ok(err)
	defer rows.Close()
	equal(s, true, rows.Next())
	for _, use := range []func() error{
		func() error { return execErr(s.a, conn, "select 1") },
		func() error { return conn.QueryRowContext(s.a, "select 1").Scan(new(int)) },
		func() error { _, err := conn.BeginTx(s.a, nil); return err },
		func() error { return conn.PingContext(s.a) },
	} {
		var own *shardedpg.Error
		if err := use(); !errors.As(err, &own) || errors.Is(err, driver.ErrBadConn) {
			s.Fatalf("a second statement beside open rows gave %v", err)
		}
	}
	n := 1
	for ; rows.Next(); n++ {
	}
	s.ok(rows.Err())
	equal(s, 100000, n, "rows")
	s.notes(s.a, conn, notesOfA)
}

// panicking is a caller's type whose conversion panics inside the driver.
type panicking struct{}

func (panicking) Value() (driver.Value, error) { panic("valuer") }

func panicInValuer(s *scene) {
	panics := func(f func()) {
		defer func() { equal[any](s, "valuer", recover(), "the panic") }()
		f()
	}
	for range 3 {
		panics(func() { _, _ = s.db.ExecContext(s.a, "select $1::text", panicking{}) })
		panics(func() {
			rows, _ := s.db.QueryContext(s.a, "select $1::text", panicking{})
			_ = rows.Close()
		})
		s.notes(s.b, s.db, notesOfB)
	}
	s.lost = s.db.Stats().InUse // database/sql never takes a connection back after a panic in a query
	tx, err := s.db.BeginTx(s.a, nil)
	s.ok(err)
	s.exec(s.a, tx, "insert into orders (note) values ('gone')")
	panics(func() { _, _ = tx.ExecContext(s.a, "select $1::text", panicking{}) })
	s.exec(s.a, tx, "insert into orders (note) values ('gone')")
	s.ok(tx.Rollback())
	equal(s, 0, s.count("gone"))
	s.ownRows()
}

var errValuer = errors.New("valuer failed")

type failing struct{}

func (failing) Value() (driver.Value, error) { return nil, errValuer }

func errorOfValuer(s *scene) {
	s.is(execErr(s.a, s.db, "select $1::text", failing{}), errValuer)
	s.ownRows()
	tx := s.begin(s.a)
	s.is(execErr(s.a, tx, "select $1::text", failing{}), errValuer)
	s.notes(s.a, tx, notesOfA)
	s.ok(tx.Commit())
}

func ping(s *scene) {
	s.ok(s.db.PingContext(s.Context()), "without a tenant")
	s.ok(s.db.PingContext(s.a))
	s.ok(s.db.PingContext(s.c))
	s.is(s.db.PingContext(s.tenant(NoSuchTenant)), shardedpg.ErrTenantNotFound)
}

func handedOn(s *scene) {
	s.ownRows()
	tx := s.begin(s.a)
	s.notes(s.a, tx, notesOfA)
	done := make(chan string, 1)
	go func() {
		var got string
		if err := s.db.QueryRowContext(s.b, notesSQL).Scan(&got); err != nil {
			got = err.Error()
		}
		done <- got
	}()
	s.eventually(func() bool { return s.db.Stats().InUse == 2 }, "the second statement does not wait")
	s.ok(tx.Commit())
	equal(s, notesOfB, <-done)
}

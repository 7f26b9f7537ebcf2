package shardedpg_test

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	shardedpg "github.com/sharded-pg/sharded-pg"
	"github.com/sharded-pg/sharded-pg/internal/pgtest"
	"github.com/sharded-pg/sharded-pg/registry"
	"github.com/sharded-pg/sharded-pg/resolver"
)

func TestOneStmtIsUsedByManyGoroutinesOfTwoTenants(t *testing.T) {
	t.Parallel()
	f := newFleet(t, fleetOptions{config: func(c *shardedpg.Config) { c.MaxConns = 3 }})
	stmt, err := f.db.PrepareContext(f.a, notesSQL+" where total > $1")
	require.NoError(t, err)
	write, err := f.db.PrepareContext(f.b, "insert into customers (email) values ($1)")
	require.NoError(t, err)
	var group sync.WaitGroup
	const goroutines, rounds = 16, 40
	for i := range goroutines {
		group.Go(func() {
			ctx, want := f.a, notesOfA
			if i%2 == 1 {
				ctx, want = f.b, notesOfB
			}
			for range rounds {
				var got string
				if err := stmt.QueryRowContext(ctx, 0).Scan(&got); err != nil || got != want {
					t.Errorf("got %q, want %q: %v", got, want, err)
					return
				}
				if _, err := write.ExecContext(ctx, "x"); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	group.Wait()
	require.NoError(t, stmt.Close())
	require.NoError(t, write.Close())
	require.Equal(t, goroutines*rounds/2, outside[int](f, "select count(*) from customers where email = 'x' and tenant_id = 'acme'"))
	require.Equal(t, goroutines*rounds/2, outside[int](f, "select count(*) from customers where email = 'x' and tenant_id = 'globex'"))
}

func TestAVirtualConnectionServesAnotherTenantAtItsNextUse(t *testing.T) {
	t.Parallel()
	f := newFleet(t, fleetOptions{})
	f.db.SetMaxOpenConns(1)
	for range 5 {
		f.requireOwnRows()
		require.NoError(t, f.db.PingContext(f.a))
		require.NoError(t, f.db.PingContext(f.b))
	}
	require.Equal(t, 1, f.db.Stats().OpenConnections)
}

func TestWaitersServedByTheOpenerGetTheirOwnTenant(t *testing.T) {
	t.Parallel()
	f := newFleet(t, fleetOptions{config: func(c *shardedpg.Config) { c.MaxConns = 2 }})
	f.db.SetMaxOpenConns(2) // others wait, and database/sql opens for them on a context of its own
	f.db.SetMaxIdleConns(-1)
	var group sync.WaitGroup
	for i := range 20 {
		group.Go(func() {
			ctx, want := f.a, notesOfA
			if i%2 == 1 {
				ctx, want = f.b, notesOfB
			}
			for range 10 {
				var got string
				if err := f.db.QueryRowContext(ctx, notesSQL).Scan(&got); err != nil || got != want {
					t.Errorf("got %q, want %q: %v", got, want, err)
				}
			}
		})
	}
	group.Wait()
}

func TestAConnIsBoundByItsFirstOperation(t *testing.T) {
	t.Parallel()
	f := newFleet(t, fleetOptions{})
	conn := f.conn(t.Context())
	_, err := conn.ExecContext(t.Context(), "select 1")
	require.ErrorIs(t, err, shardedpg.ErrNoTenant)
	f.requireNotes(f.a, conn, notesOfA)
	f.requireNotes(t.Context(), conn, notesOfA)
	_, err = conn.ExecContext(f.b, "insert into orders (note) values ('never')")
	require.ErrorIs(t, err, shardedpg.ErrTenantMismatch)
	_, err = conn.BeginTx(f.b, nil)
	require.ErrorIs(t, err, shardedpg.ErrTenantMismatch)
	_, err = conn.PrepareContext(f.b, "select 1")
	require.ErrorIs(t, err, shardedpg.ErrTenantMismatch)
	require.ErrorIs(t, conn.PingContext(f.b), shardedpg.ErrTenantMismatch)
	f.requireNotes(f.a, conn, notesOfA)
	require.NoError(t, conn.Close())
	f.requireNotes(f.b, f.db, notesOfB)
	require.Zero(t, outside[int](f, "select count(*) from orders where note = 'never'"))
}

func TestAConnKeepsItsSessionForItsLifeAndNoLonger(t *testing.T) {
	t.Parallel()
	f := newFleet(t, fleetOptions{})
	conn := f.conn(f.a)
	pid := f.pid(f.a, conn)
	f.exec(f.a, conn, "create temp table mine (x int)")
	f.exec(f.a, conn, "set datestyle = 'SQL, DMY'")
	f.exec(f.a, conn, "insert into mine values (7)")
	require.Equal(t, 7, value[int](t, f.a, conn, "select x from mine"))
	require.Equal(t, "SQL, DMY", value[string](t, f.a, conn, "show datestyle"))
	require.Equal(t, pid, f.pid(f.a, conn))
	require.NoError(t, conn.Close())
	_, err := f.db.ExecContext(f.a, "select * from mine")
	requireCode(t, err, "42P01")
}

func TestAConnOutlivesTheContextThatOpenedIt(t *testing.T) {
	t.Parallel()
	f := newFleet(t, fleetOptions{})
	ctx, cancel := context.WithCancel(f.a)
	conn := f.conn(ctx)
	f.requireNotes(ctx, conn, notesOfA)
	cancel()
	f.requireNotes(t.Context(), conn, notesOfA)
}

func TestAStmtOfAConnStaysWithItsTenant(t *testing.T) {
	t.Parallel()
	f := newFleet(t, fleetOptions{})
	conn := f.conn(f.a)
	stmt, err := conn.PrepareContext(f.a, notesSQL)
	require.NoError(t, err)
	defer stmt.Close()
	_, err = stmt.ExecContext(f.b)
	require.ErrorIs(t, err, shardedpg.ErrTenantMismatch)
	var got string
	require.NoError(t, stmt.QueryRowContext(f.a).Scan(&got))
	require.Equal(t, notesOfA, got)
}

func TestRawGivesThePgxConnectionArmed(t *testing.T) {
	t.Parallel()
	f := newFleet(t, fleetOptions{})
	pid := f.pid(f.a, f.db)
	conn := f.conn(f.a)
	require.NoError(t, conn.Raw(func(c any) error {
		raw := c.(*shardedpg.Conn).Conn()
		require.NotNil(t, raw)
		var notes string
		require.NoError(t, raw.QueryRow(t.Context(), notesSQL).Scan(&notes))
		require.Equal(t, notesOfA, notes)

		batch := &pgx.Batch{}
		batch.Queue("insert into orders (note) values ($1)", "batch")
		batch.Queue(notesSQL)
		batch.Queue("select min(tenant_id) || max(tenant_id) from orders where id > $1", 0)
		results := raw.SendBatch(t.Context(), batch)
		_, err := results.Exec()
		require.NoError(t, err)
		require.NoError(t, results.QueryRow().Scan(&notes))
		require.Equal(t, notesOfA+",batch", notes)
		require.NoError(t, results.QueryRow().Scan(&notes))
		require.Equal(t, tenantA+tenantA, notes)
		require.NoError(t, results.Close())

		tx, err := raw.Begin(t.Context())
		require.NoError(t, err)
		require.NoError(t, tx.QueryRow(t.Context(), notesSQL).Scan(&notes))
		require.Equal(t, notesOfA+",batch", notes)
		require.NoError(t, tx.Rollback(t.Context()))

		var out writerFunc
		tag, err := raw.PgConn().CopyTo(t.Context(), &out, "copy orders to stdout")
		require.NoError(t, err)
		require.EqualValues(t, 3, tag.RowsAffected())
		require.NotContains(t, string(out), "B-secret")
		return nil
	}))
	require.Equal(t, pid, f.pid(f.a, conn))
	require.NoError(t, conn.Close())
	f.requireNotes(f.b, f.db, notesOfB)
	require.NotEqual(t, pid, f.pid(f.a, f.db), "a connection that was handed out is not used again")
}

type writerFunc []byte

func (w *writerFunc) Write(p []byte) (int, error) {
	*w = append(*w, p...)
	return len(p), nil
}

func TestRawWithinATxRunsInTheTx(t *testing.T) {
	t.Parallel()
	f := newFleet(t, fleetOptions{})
	conn := f.conn(f.a)
	tx, err := conn.BeginTx(f.a, nil)
	require.NoError(t, err)
	require.NoError(t, conn.Raw(func(c any) error {
		batch := &pgx.Batch{}
		batch.Queue("insert into orders (note) values ($1)", "batch")
		batch.Queue(notesSQL)
		results := c.(*shardedpg.Conn).Conn().SendBatch(t.Context(), batch)
		_, err := results.Exec()
		require.NoError(t, err)
		var notes string
		require.NoError(t, results.QueryRow().Scan(&notes))
		require.Equal(t, notesOfA+",batch", notes)
		return results.Close()
	}))
	f.requireNotes(f.a, tx, notesOfA+",batch")
	require.NoError(t, tx.Rollback())
	require.NoError(t, conn.Close())
	f.requireOwnRows()
}

// tlsShard starts a server that takes connections over TLS, and returns how to reach the tenants' database on it.
func tlsShard(t *testing.T, name string) (dsn string) {
	t.Helper()
	server, err := pgtest.Start(t.Context(), pgtest.Options{Name: name, TCP: true, TLS: true})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, server.Stop()) })
	require.NoError(t, server.Exec(t.Context(), "postgres", rolesSQL))
	database := server.NewDatabase(t, tablesSQL)
	host, port, err := net.SplitHostPort(server.Addr())
	require.NoError(t, err)
	return fmt.Sprintf("host=%s port=%s user=app dbname=%s sslmode=require", host, port, database)
}

// Over TLS pgx needs the connection for itself, for channel binding, and writes the batches of one mode past everything that
// stands in between.
func TestATenantHasItsRowsOverTLSInEveryMode(t *testing.T) {
	t.Parallel()
	dsn := tlsShard(t, "tls")
	for _, mode := range []string{"cache_statement", "cache_describe", "describe_exec", "exec", "simple_protocol"} {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			f := newFleet(t, fleetOptions{routes: func(f *fleet, routes map[string]*resolver.Route) {
				for _, route := range routes {
					route.Shard.DSN = dsn + " default_query_exec_mode=" + mode
				}
			}})
			for range 3 {
				f.requireNotes(f.a, f.db, notesOfA)
				f.requireNotes(f.b, f.db, notesOfB)
			}
			require.True(t, value[bool](t, f.b, f.db, "select ssl from pg_stat_ssl where pid = pg_backend_pid()"))
			_, err := f.db.ExecContext(f.a, "select set_config('app.left', 'of a', false)")
			require.NoError(t, err)
			conn := f.conn(f.b)
			f.raw(conn, func(ctx context.Context, c *pgx.Conn) error {
				require.Equal(t, mode, strings.ReplaceAll(c.Config().DefaultQueryExecMode.String(), " ", "_"))
				b := &pgx.Batch{}
				for range 2 {
					b.Queue("select string_agg(note, ',' order by id), coalesce(current_setting('app.left', true), '') from orders where id > $1", 0).
						QueryRow(func(row pgx.Row) error {
							var notes, left string
							require.NoError(t, row.Scan(&notes, &left))
							require.Equal(t, []string{notesOfB, ""}, []string{notes, left})
							return nil
						})
				}
				require.NoError(t, c.SendBatch(ctx, b).Close())
				tx, err := c.Begin(ctx)
				require.NoError(t, err)
				require.NoError(t, tx.SendBatch(ctx, b).Close())
				require.NoError(t, tx.Rollback(ctx))
				return c.SendBatch(ctx, b).Close()
			})
			require.NoError(t, conn.Close())
			f.requireNotes(f.a, f.db, notesOfA)
		})
	}
}

func TestRawWithoutATenantGivesNoConnection(t *testing.T) {
	t.Parallel()
	f := newFleet(t, fleetOptions{})
	conn := f.conn(t.Context())
	require.NoError(t, conn.Raw(func(c any) error {
		require.Nil(t, c.(*shardedpg.Conn).Conn())
		return nil
	}))
	require.NoError(t, conn.PingContext(f.a))
	require.NoError(t, conn.Raw(func(c any) error {
		require.NotNil(t, c.(*shardedpg.Conn).Conn())
		return nil
	}))
}

// panicking is a caller's type whose conversion panics, inside pgx, inside the driver.
type panicking struct{}

func (panicking) Value() (driver.Value, error) { panic("valuer") }

func TestAPanicInAValuerLeavesNoSlot(t *testing.T) {
	t.Parallel()
	f := newFleet(t, fleetOptions{})
	for range 3 {
		require.PanicsWithValue(t, "valuer", func() { _, _ = f.db.ExecContext(f.a, "select $1::text", panicking{}) })
		require.PanicsWithValue(t, "valuer", func() {
			rows, _ := f.db.QueryContext(f.a, "select $1::text", panicking{})
			_ = rows.Close()
		})
		f.requireNotes(f.b, f.db, notesOfB)
	}
	for _, shard := range f.connector.Stats().Shards {
		require.Zero(t, shard.Slots.Used)
	}
	f.leaked = f.db.Stats().InUse // database/sql never takes a connection back after a panic in a query
}

// failing is a Valuer with an error: nothing was sent.
type failing struct{}

var errValuer = errors.New("valuer failed")

func (failing) Value() (driver.Value, error) { return nil, errValuer }

func TestAnErrorOfAValuerIsTheCallers(t *testing.T) {
	t.Parallel()
	f := newFleet(t, fleetOptions{})
	_, err := f.db.ExecContext(f.a, "select $1::text", failing{})
	require.ErrorIs(t, err, errValuer)
	require.NotErrorIs(t, err, driver.ErrBadConn)
	f.requireOwnRows()
	tx := f.begin(f.a)
	_, err = tx.ExecContext(f.a, "select $1::text", failing{})
	require.ErrorIs(t, err, errValuer)
	f.requireNotes(f.a, tx, notesOfA)
}

func TestAStatementOnAConnWithOpenRowsFailsClearly(t *testing.T) {
	t.Parallel()
	f := newFleet(t, fleetOptions{})
	conn := f.conn(f.a)
	rows, err := conn.QueryContext(f.a, "select i from generate_series(1, 100000) i")
	require.NoError(t, err)
	defer rows.Close()
	require.True(t, rows.Next())
	for _, use := range []func() error{
		func() error { _, err := conn.ExecContext(f.a, "select 1"); return err },
		func() error { _, err := conn.QueryContext(f.a, "select 1"); return err },
		func() error { _, err := conn.BeginTx(f.a, nil); return err },
		func() error { return conn.PingContext(f.a) },
	} {
		err := use()
		require.ErrorContains(t, err, "rows of an earlier query are still open")
		require.NotErrorIs(t, err, driver.ErrBadConn)
	}
	n := 1
	for ; rows.Next(); n++ {
	}
	require.NoError(t, rows.Err())
	require.Equal(t, 100000, n, "the rows were not disturbed")
	f.requireNotes(f.a, conn, notesOfA)
}

func TestChangedTablesNeverReachTheCaller(t *testing.T) {
	t.Parallel()
	f := newFleet(t, fleetOptions{config: func(c *shardedpg.Config) { c.MaxConns = 2 }})
	const query = "select * from customers where email <> $1"
	stmt, err := f.db.PrepareContext(f.a, query)
	require.NoError(t, err)
	defer stmt.Close()
	columns := func(rows *sql.Rows, err error) int {
		t.Helper()
		require.NoError(t, err)
		defer rows.Close()
		names, err := rows.Columns()
		require.NoError(t, err)
		require.True(t, rows.Next())
		require.False(t, rows.Next())
		require.NoError(t, rows.Err())
		return len(names)
	}
	warm := func(want int) {
		for range 3 {
			require.Equal(t, want, columns(f.db.QueryContext(f.a, query, "x")))
			require.Equal(t, want, columns(f.db.QueryContext(f.b, query, "x")))
			require.Equal(t, want, columns(stmt.QueryContext(f.b, "x")))
		}
	}
	warm(4)
	for i := range 4 {
		_, err := f.su.Exec(t.Context(), fmt.Sprintf("alter table customers add column c%d int", i))
		require.NoError(t, err)
		switch i {
		case 0:
			warm(5)
		case 1: // first statement of a transaction
			tx := f.begin(f.a)
			require.Equal(t, 6, columns(tx.QueryContext(f.a, query, "x")))
			f.requireNotes(f.a, tx, notesOfA)
			f.exec(f.a, tx, "insert into orders (note) values ('tx')")
			require.NoError(t, tx.Commit())
			require.Equal(t, 1, outside[int](f, "select count(*) from orders where note = 'tx' and tenant_id = 'acme'"))
		case 2: // keeps its isolation level
			tx, err := f.db.BeginTx(f.a, &sql.TxOptions{Isolation: sql.LevelSerializable, ReadOnly: true})
			require.NoError(t, err)
			require.Equal(t, 7, columns(tx.QueryContext(f.a, query, "x")))
			require.Equal(t, "serializable", value[string](t, f.a, tx, "show transaction_isolation"))
			require.Equal(t, "on", value[string](t, f.a, tx, "show transaction_read_only"))
			require.NoError(t, tx.Rollback())
		case 3: // later in a transaction it cannot be hidden, and must not be swallowed
			tx := f.begin(f.a)
			f.exec(f.a, tx, "insert into orders (note) values ('gone')")
			_, err := tx.QueryContext(f.a, query, "x")
			requireCode(t, err, "0A000")
			require.ErrorIs(t, tx.Commit(), pgx.ErrTxCommitRollback)
			require.Zero(t, outside[int](f, "select count(*) from orders where note = 'gone'"))
		}
		warm(5 + i)
	}
}

// onPrepare calls a function after each statement that pgx prepares.
type onPrepare struct{ call func() }

func (o *onPrepare) TraceQueryStart(ctx context.Context, _ *pgx.Conn, _ pgx.TraceQueryStartData) context.Context {
	return ctx
}
func (o *onPrepare) TraceQueryEnd(context.Context, *pgx.Conn, pgx.TraceQueryEndData) {}
func (o *onPrepare) TracePrepareStart(ctx context.Context, _ *pgx.Conn, _ pgx.TracePrepareStartData) context.Context {
	return ctx
}
func (o *onPrepare) TracePrepareEnd(context.Context, *pgx.Conn, pgx.TracePrepareEndData) { o.call() }

// A statement that met a changed table is prepared again. The table may change once more before it is executed.
func TestTablesThatChangeTwiceDoNotReachTheCaller(t *testing.T) {
	t.Parallel()
	tracer := &onPrepare{}
	f := newFleet(t, fleetOptions{config: func(c *shardedpg.Config) {
		c.ConfigureConn = func(_ string, cc *pgx.ConnConfig) error { cc.Tracer = tracer; return nil }
	}})
	columns := 5
	alter := func() {
		columns++
		_, err := f.su.Exec(context.Background(), fmt.Sprintf("alter table orders add column c%d int", columns))
		require.NoError(t, err)
	}
	prepared, meanwhile := 0, 0
	tracer.call = func() {
		if prepared++; meanwhile > 0 {
			meanwhile--
			alter()
		}
	}
	read := func() {
		t.Helper()
		rows, err := f.db.QueryContext(f.b, "select * from orders where total = $1", 20)
		require.NoError(t, err)
		defer rows.Close()
		require.True(t, rows.Next(), rows.Err())
		names, err := rows.Columns()
		require.NoError(t, err)
		require.Len(t, names, columns)
	}
	read()
	read()
	require.Equal(t, 1, prepared, "the statement is cached")
	meanwhile = 1
	alter()
	read()
	require.Equal(t, 3, prepared, "it was prepared again, and once more")
}

func TestPingContactsTheTenantsShard(t *testing.T) {
	t.Parallel()
	f := newFleet(t, fleetOptions{})
	require.NoError(t, f.db.PingContext(t.Context()), "without a tenant, the registry")
	require.Empty(t, f.connector.Stats().Shards)
	require.NoError(t, f.db.PingContext(f.a))
	require.Len(t, f.connector.Stats().Shards, 1)
	f.store.mu.Lock()
	f.store.down = errors.New("down")
	f.store.mu.Unlock()
	require.ErrorIs(t, f.db.PingContext(t.Context()), shardedpg.ErrRegistryUnavailable)
	require.NoError(t, f.db.PingContext(f.a), "the route is cached")
}

func TestPingNeedsWhatStatementsNeedAndNoPasswordOfAnAdministrator(t *testing.T) {
	t.Parallel()
	const unset = "password=${SHARDEDPG_TEST_UNSET}"
	ping := func(shard registry.Shard) error {
		store, err := registry.NewStatic(registry.Fleet{Shards: []registry.Shard{{Name: "us", DSN: "host=us"}, shard}})
		require.NoError(t, err)
		connector, err := shardedpg.NewConnector(shardedpg.Config{Store: store})
		require.NoError(t, err)
		db := sql.OpenDB(connector)
		defer db.Close()
		return db.PingContext(t.Context())
	}
	require.NoError(t, ping(registry.Shard{Name: "eu", DSN: "host=eu", AdminDSN: "host=eu " + unset}))
	require.ErrorContains(t, ping(registry.Shard{Name: "eu", DSN: "host=eu " + unset}), `dsn of shard "eu": environment variable`)
	require.Error(t, ping(registry.Shard{Name: "eu", DSN: "host=eu " + unset, AdminDSN: "host=eu " + unset}))
}

func TestSyntaxErrorsPointIntoTheCallersText(t *testing.T) {
	t.Parallel()
	f := newFleet(t, fleetOptions{})
	for _, query := range []string{"select 1 frm orders x y", "/* ä€ */ select é frm x y"} {
		plain := f.connectAs("app")
		_, want := plain.Exec(t.Context(), query)
		for _, ctx := range []context.Context{f.a, f.b} {
			_, err := f.db.ExecContext(ctx, query)
			require.Equal(t, want, err)
		}
	}
}

func TestOneTenantAloneNeverNeedsAReset(t *testing.T) {
	t.Parallel()
	f := newFleet(t, fleetOptions{})
	before := f.connector.Stats()
	f.requireNotes(f.a, f.db, notesOfA)
	require.Empty(t, before.Shards)
	for range 10 {
		f.requireNotes(f.a, f.db, notesOfA)
	}
	s := f.connector.Stats().Shards[0].Backends
	require.EqualValues(t, 1, s.Connects)
	require.Zero(t, s.Lane3, "one tenant alone never needs a reset")
	f.requireNotes(f.b, f.db, notesOfB)
	require.EqualValues(t, 1, f.connector.Stats().Shards[0].Backends.Lane3)
}

func TestAfterAPanicATxDoesNotRunItsRestOutsideATx(t *testing.T) {
	t.Parallel()
	f := newFleet(t, fleetOptions{})
	tx, err := f.db.BeginTx(f.a, nil) // never ended: after a panic in a query database/sql waits for ever in Rollback
	require.NoError(t, err)
	f.exec(f.a, tx, "insert into orders (note) values ('gone')")
	require.PanicsWithValue(t, "valuer", func() {
		rows, _ := tx.QueryContext(f.a, "select $1::text", panicking{})
		_ = rows.Close()
	})
	_, err = tx.ExecContext(f.a, "insert into orders (note) values ('gone')")
	require.ErrorContains(t, err, "panic")
	require.Zero(t, outside[int](f, "select count(*) from orders where note = 'gone'"))
	f.requireOwnRows()
	f.leaked = f.db.Stats().InUse

	// In Exec database/sql gives the connection back, and the transaction is one that can be ended.
	tx = f.begin(f.a)
	require.PanicsWithValue(t, "valuer", func() { _, _ = tx.ExecContext(f.a, "select $1::text", panicking{}) })
	f.exec(f.a, tx, "insert into orders (note) values ('tx')")
	require.NoError(t, tx.Rollback())
	require.Zero(t, outside[int](f, "select count(*) from orders where note = 'tx'"))
	f.requireOwnRows()
}
